//! TLS set up for the HTTP library: rustls with ring, and the machine's own certificate authorities.
//!
//! Reading the authorities costs 4 ms warm and 25 ms cold, so it happens at the first https URL and once a client; plain http
//! gets a configuration that trusts nobody. Where they are found is the system's matter: `SSL_CERT_FILE` and `SSL_CERT_DIR`
//! are obeyed, as other programs do. ring rather than the library's default provider because that one needs a C and
//! assembly tool chain of its own; the provider is passed explicitly, no process-wide default is installed.

use std::sync::Arc;

#[cfg(test)]
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::error::NetError;

/// Whom https servers must be certified by.
#[derive(Clone)]
pub(super) enum CertAuthorities {
    /// Those of the machine.
    Machine,
    /// These.
    #[cfg(test)]
    Fixed(Vec<CertificateDer<'static>>),
}

/// A configuration for http URLs: no server would be believed.
pub(super) fn config_without_roots() -> Result<ClientConfig, NetError> {
    configure(RootCertStore::empty())
}

/// A configuration for https URLs. Reads files: blocking.
pub(super) fn config_with_roots(authorities: &CertAuthorities) -> Result<ClientConfig, NetError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        CertAuthorities::Machine => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map_or_else(String::new, |fault| format!(": {fault}"));
                return Err(NetError::RootsUnavailable {
                    why: format!("this machine has no certificate authorities{why}"),
                });
            }
        }
        #[cfg(test)]
        CertAuthorities::Fixed(certificates) => {
            roots.add_parsable_certificates(certificates.iter().cloned());
        }
    }
    configure(roots)
}

fn configure(roots: RootCertStore) -> Result<ClientConfig, NetError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|fault| NetError::RootsUnavailable { why: fault.to_string() })?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
