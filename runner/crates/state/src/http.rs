//! The HTTP library as remote states and GitHub's services use it: rustls with ring, the machine's certificate authorities, no redirects.
//!
//! Deliberately absent: what `sandbox::net` adds for modules, such as a gate on names and addresses. Where these clients go is
//! said by the user or by the CI, not by a step.

use std::{sync::Arc, time::Duration};

/// A client to be finished. Reads the machine's authorities: blocking, some milliseconds.
///
/// # Errors
/// TLS that can not be set up.
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
