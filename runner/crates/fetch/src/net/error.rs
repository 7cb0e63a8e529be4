//! Errors of the network, with the help that a retry or a change of the plan can give.
//!
//! Invariant: no text contains a header value, a body, or a URL's query or fragment. Deliberately absent: decisions by
//! the text of a library's error. Only types decide; the innermost cause's text is shown if nothing better is known.

use std::{error::Error, io, time::Duration};

use contract::{step::FailureKind, text::escape_line};
use reqwest::{Method, StatusCode};
use url::Url;

use super::{NetResponse, address::AddressScope};

/// An error of a request or a connection. `peer` is `host:port`; URLs are shown without query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// The text is not a URL that a step may request.
    #[error("`{}` is not a valid URL: {why}", escape_line(url))]
    InvalidUrl {
        /// The URL without query.
        url: String,
        /// The rule that it breaks.
        why: String,
    },
    /// The text is not `host:port`.
    #[error("`{}` is not an address: it must be `host:port`", escape_line(address))]
    InvalidAddress {
        /// The text.
        address: String,
    },
    /// The method is invalid, or one that steps can't send.
    #[error("invalid method `{}`: {why}", escape_line(method))]
    InvalidMethod {
        /// The method.
        method: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The header can't be sent.
    #[error("invalid header `{}`: {why}", escape_line(name))]
    InvalidHeader {
        /// Its name.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// No grant names this origin.
    #[error("{origin} is not granted{}", redirect_note(from))]
    OriginNotGranted {
        /// `scheme://host:port` without a default port.
        origin: String,
        /// The URL that redirected there.
        from: Option<String>,
    },
    /// The origin is granted, but not for this method.
    #[error("the method {method} is not granted for {origin}")]
    MethodNotGranted {
        /// The method.
        method: Method,
        /// `scheme://host:port` without a default port.
        origin: String,
        /// The granted methods.
        granted: Vec<String>,
    },
    /// No grant names this TCP address.
    #[error("connecting to {peer} is not granted")]
    PeerNotGranted {
        /// The address.
        peer: String,
    },
    /// A granted name resolves to a denied address.
    #[error("{host} resolves to {address}, {scope}, which is not granted")]
    AddressDenied {
        /// The name.
        host: String,
        /// The address.
        address: std::net::IpAddr,
        /// The address's scope.
        scope: AddressScope,
        /// The line that would allow it, without `grants:`.
        grant: String,
    },
    /// The name has no address.
    #[error("the name {host} does not resolve: {why}")]
    Unresolved {
        /// The name.
        host: String,
        /// The resolver's message.
        why: String,
    },
    /// The port refused the connection.
    #[error("{peer} refused the connection")]
    ConnectionRefused {
        /// The address.
        peer: String,
    },
    /// The connection failed.
    #[error("can't reach {peer}: {why}")]
    Unreachable {
        /// The address.
        peer: String,
        /// The system's message.
        why: String,
    },
    /// No response came in time.
    #[error("{peer} did not answer within {}", format_duration(*within))]
    NoAnswer {
        /// The address.
        peer: String,
        /// The timeout.
        within: Duration,
    },
    /// The response began, but did not end in time.
    #[error("{peer} did not complete its answer within {}", format_duration(*within))]
    IncompleteAnswer {
        /// The address.
        peer: String,
        /// The timeout.
        within: Duration,
    },
    /// A download stalled.
    #[error("{peer} sent nothing for {}, after {received} bytes", format_duration(*within))]
    Stalled {
        /// The address.
        peer: String,
        /// The timeout.
        within: Duration,
        /// Bytes received before.
        received: u64,
    },
    /// The response ended too early.
    #[error("{peer} ended its answer after {received} of {size} bytes")]
    BodyTooShort {
        /// The address.
        peer: String,
        /// Bytes received.
        received: u64,
        /// Bytes announced.
        size: u64,
    },
    /// The server sent something other than the requested rest of a download.
    #[error("{peer} answered a request for the bytes from {asked} onward with {answered}")]
    WrongRange {
        /// The address.
        peer: String,
        /// The first requested byte.
        asked: u64,
        /// The server's `Content-Range`.
        answered: String,
    },
    /// The content changed during the download.
    #[error("{url} changed during the download, after {received} bytes")]
    ContentChanged {
        /// The URL without query.
        url: String,
        /// Bytes received before.
        received: u64,
    },
    /// A download failed repeatedly without a new byte.
    #[error("the download from {peer} stopped after {received} bytes; {tries} retries failed: {last}")]
    RetriesExhausted {
        /// The address.
        peer: String,
        /// Bytes received before.
        received: u64,
        /// The number of retries.
        tries: u32,
        /// The last error.
        last: Box<Self>,
    },
    /// The connection broke, or the response is not HTTP.
    #[error("the connection to {peer} broke: {why}")]
    ConnectionBroken {
        /// The address.
        peer: String,
        /// The innermost cause.
        why: String,
    },
    /// The server's certificate is not trusted.
    #[error("the certificate of {peer} is not trusted: {why}")]
    CertificateUntrusted {
        /// The address.
        peer: String,
        /// The reason.
        why: String,
    },
    /// The TLS handshake failed for another reason.
    #[error("can't open a secure connection to {peer}: {why}")]
    Tls {
        /// The address.
        peer: String,
        /// The reason.
        why: String,
    },
    /// The system's certificate authorities can't be read, or TLS can't be set up.
    #[error("can't use https on this machine: {why}")]
    RootsUnavailable {
        /// The reason.
        why: String,
    },
    /// The body exceeds the limit.
    #[error("the answer from {url} is larger than {max} bytes")]
    TooLarge {
        /// The URL without query.
        url: String,
        /// The limit in bytes.
        max: u64,
    },
    /// More redirects than allowed.
    #[error("more than {max} redirects; the last one points to {url}")]
    TooManyRedirects {
        /// The next URL, without query.
        url: String,
        /// The limit.
        max: u32,
    },
    /// The server redirects to an invalid URL.
    #[error("{from} redirects to an invalid URL: {why}")]
    BadRedirect {
        /// The URL that redirected, without query.
        from: String,
        /// The rule that it breaks.
        why: String,
    },
    /// The server asks to wait longer than a download does.
    #[error("{url} answered with status {status} and asks to wait {}", format_duration(*after))]
    Busy {
        /// The URL without query.
        url: String,
        /// The status.
        status: StatusCode,
        /// How long.
        after: Duration,
    },
    /// A download got a status other than 200.
    #[error("{url} answered with status {status}")]
    Status {
        /// The URL without query.
        url: String,
        /// The status.
        status: StatusCode,
    },
}

impl NetError {
    /// The kind in the step contract.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::InvalidUrl { .. }
            | Self::InvalidAddress { .. }
            | Self::InvalidMethod { .. }
            | Self::InvalidHeader { .. } => FailureKind::InvalidConfig,
            Self::OriginNotGranted { .. }
            | Self::MethodNotGranted { .. }
            | Self::PeerNotGranted { .. }
            | Self::AddressDenied { .. } => FailureKind::Denied,
            Self::Unresolved { .. }
            | Self::ConnectionRefused { .. }
            | Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::IncompleteAnswer { .. }
            | Self::Stalled { .. }
            | Self::BodyTooShort { .. }
            | Self::WrongRange { .. }
            | Self::ContentChanged { .. }
            | Self::RetriesExhausted { .. }
            | Self::ConnectionBroken { .. }
            | Self::Busy { .. } => FailureKind::Transient,
            Self::CertificateUntrusted { .. }
            | Self::Tls { .. }
            | Self::RootsUnavailable { .. }
            | Self::BadRedirect { .. } => FailureKind::Permanent,
            Self::TooLarge { .. } | Self::TooManyRedirects { .. } => FailureKind::Limit,
            Self::Status { status, .. } => match status.as_u16() {
                404 | 410 => FailureKind::NotFound,
                408 | 425 | 429 | 500.. => FailureKind::Transient,
                0..=499 => FailureKind::Permanent,
            },
        }
    }

    /// Whether the same call may succeed later without a change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind() == FailureKind::Transient
    }

    /// Whether a download may resume after it.
    pub(super) fn is_resumable(&self) -> bool {
        self.is_retryable()
            && !matches!(self, Self::ContentChanged { .. } | Self::RetriesExhausted { .. } | Self::Busy { .. })
    }

    /// The hint: for a denial, the line to add to the step in the plan.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OriginNotGranted { origin, .. } => Some(format!("grants: {{ http: [\"{origin}\"] }}")),
            Self::MethodNotGranted { method, origin, granted } => {
                let methods = [granted.as_slice(), &[method.to_string()]].concat().join(", ");
                Some(format!("grants: {{ http: [{{ origin: \"{origin}\", methods: [{methods}] }}] }}"))
            }
            Self::PeerNotGranted { peer } => Some(format!("grants: {{ tcp: [\"{peer}\"] }}")),
            Self::AddressDenied { grant, .. } => Some(format!("grants: {{ {grant} }}")),
            Self::CertificateUntrusted { .. } => {
                Some("add the certificate authority to the system's store, or set SSL_CERT_FILE to its file".to_owned())
            }
            Self::RootsUnavailable { .. } => {
                Some("install the system's ca-certificates, or set SSL_CERT_FILE".to_owned())
            }
            Self::ContentChanged { .. } => {
                Some("publish each release under its own name, and never change it".to_owned())
            }
            Self::Busy { .. } => Some("run again after that time, or name a mirror in `from`".to_owned()),
            Self::Tls { .. } => Some("check that the server speaks https on that port".to_owned()),
            Self::InvalidUrl { .. }
            | Self::InvalidAddress { .. }
            | Self::InvalidMethod { .. }
            | Self::InvalidHeader { .. }
            | Self::Unresolved { .. }
            | Self::ConnectionRefused { .. }
            | Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::IncompleteAnswer { .. }
            | Self::Stalled { .. }
            | Self::BodyTooShort { .. }
            | Self::WrongRange { .. }
            | Self::RetriesExhausted { .. }
            | Self::ConnectionBroken { .. }
            | Self::TooLarge { .. }
            | Self::TooManyRedirects { .. }
            | Self::BadRedirect { .. }
            | Self::Status { .. } => None,
        }
    }

    /// The server asks to wait `after`.
    pub(crate) fn busy(answer: &NetResponse, after: Duration) -> Self {
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
        Self::Busy { url: url_for_display(&answer.url), status, after }
    }

    /// Converts a library's error of a request to `url`.
    pub(super) fn from_reqwest(error: &reqwest::Error, url: &Url) -> Self {
        Self::from_reqwest_with_peer(error, peer(url))
    }

    /// Converts a library's error of an exchange with `peer`.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of rustls")]
    pub(super) fn from_reqwest_with_peer(error: &reqwest::Error, peer: String) -> Self {
        if let Some(own) = find_cause::<Self>(error) {
            return own.clone();
        }
        if let Some(tls) = find_cause::<rustls::Error>(error) {
            return match tls {
                rustls::Error::InvalidCertificate(fault) => Self::CertificateUntrusted { peer, why: fault.to_string() },
                other => Self::Tls { peer, why: other.to_string() },
            };
        }
        if let Some(fault) = find_cause::<io::Error>(error) {
            return Self::from_io(fault, peer);
        }
        let why = innermost_cause(error).to_string();
        if error.is_connect() { Self::Unreachable { peer, why } } else { Self::ConnectionBroken { peer, why } }
    }

    /// Converts a system error of a connection to `peer`.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of std")]
    pub(super) fn from_io(fault: &io::Error, peer: String) -> Self {
        match fault.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused { peer },
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TimedOut => Self::Unreachable { peer, why: fault.to_string() },
            _ => Self::ConnectionBroken { peer, why: fault.to_string() },
        }
    }
}

/// The URL's `host:port`, including a default port.
pub(super) fn peer(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// The URL without user, query and fragment.
pub(super) fn url_for_display(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

fn redirect_note(from: &Option<String>) -> String {
    from.as_ref().map(|url| format!("; {url} redirects there")).unwrap_or_default()
}

fn format_duration(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{} s", time.as_secs()) } else { format!("{} ms", time.as_millis()) }
}

/// Finds an error of type `T` among the causes. An `io::Error` hides a wrapped error from `source()`, so its content is
/// searched too.
fn find_cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut wrapped = None;
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(inner) = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            wrapped = wrapped.or_else(|| find_cause::<T>(inner));
        }
        if let Some(found) = cause.downcast_ref::<T>() {
            return wrapped.or(Some(found));
        }
        next = cause.source();
    }
    wrapped
}

fn innermost_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}
