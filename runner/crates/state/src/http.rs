//! The HTTP client for remote states and GitHub's services: rustls with ring, the system's certificate authorities, no
//! redirects.
//!
//! Deliberately absent: the checks of names and addresses that `fetch::net` makes for modules. The user or the CI
//! chooses where these clients connect, not a step.

use std::{sync::Arc, time::Duration};

/// A client builder. Reads the system's certificate authorities, which blocks for some milliseconds.
///
/// # Errors
/// TLS can't be set up.
pub fn client() -> Result<reqwest::ClientBuilder, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls?.with_root_certificates(roots).with_no_client_auth();
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5)))
}
