//! TLS for the HTTP library: rustls with ring, and the system's certificate authorities.
//!
//! Reading the authorities takes 4 ms warm and 25 ms cold, so it happens once per client, at the first https URL; plain
//! http gets a configuration that trusts nobody. The system decides where they are, including `SSL_CERT_FILE` and
//! `SSL_CERT_DIR`. ring instead of the library's default provider, because that one needs its own C and assembly
//! toolchain. The provider is passed explicitly; no process-wide default is installed.

use std::sync::Arc;

#[cfg(test)]
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::error::NetError;

/// The certificate authorities that are trusted.
#[derive(Clone)]
pub(super) enum CertAuthorities {
    /// The system's.
    Machine,
    /// These.
    #[cfg(test)]
    Fixed(Vec<CertificateDer<'static>>),
}

/// A configuration for http URLs, which trusts no server.
pub(super) fn config_without_roots() -> Result<ClientConfig, NetError> {
    configure(RootCertStore::empty())
}

/// A configuration for https URLs. Reads files, which blocks.
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
