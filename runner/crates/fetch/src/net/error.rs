//! What can go wrong on the network, said plainly, and what a retry or a change of the plan can do about it.
//!
//! Invariant: no text holds a header value, a body, or a URL's query or fragment. Deliberately absent: any decision taken from
//! the text of a library's error; only types are looked at, and the text of the innermost cause is shown when nothing
//! better is known.

use std::{error::Error, io, time::Duration};

use reqwest::{Method, StatusCode};
use url::Url;

use super::address::AddressScope;

/// The kind of a failure, as the step contract words it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetFailureKind {
    /// The call itself is malformed.
    InvalidConfig,
    /// The plan does not grant it.
    Denied,
    /// The other side says that there is no such thing.
    NotFound,
    /// The same call may succeed later.
    Transient,
    /// The same call will fail again.
    Permanent,
    /// Larger than allowed.
    Limit,
}

impl NetFailureKind {
    /// The word of the step contract: `denied`, `transient`, …
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidConfig => "invalid-config",
            Self::Denied => "denied",
            Self::NotFound => "not-found",
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Limit => "limit",
        }
    }
}

/// Why a request or a connection failed. `peer` is `host:port`; URLs are shown without query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// The text is no URL that can be asked.
    #[error("{url:?} is not a valid URL: {why}")]
    InvalidUrl {
        /// The URL without query.
        url: String,
        /// The rule it breaks.
        why: String,
    },
    /// The text is no `host:port`.
    #[error("{address:?} is not an address: it must be `host:port`")]
    InvalidAddress {
        /// The text.
        address: String,
    },
    /// The method is no HTTP method, or one that is never sent.
    #[error("invalid method {method:?}: {why}")]
    InvalidMethod {
        /// The method.
        method: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A header that can't be sent.
    #[error("invalid header {name:?}: {why}")]
    InvalidHeader {
        /// Its name.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// No grant names this origin.
    #[error("{origin} is not granted{}", redirect_note(from))]
    OriginNotGranted {
        /// `scheme://host:port`, the default port left out.
        origin: String,
        /// The URL that redirected there.
        from: Option<String>,
    },
    /// The origin is granted, but not for this method.
    #[error("the method {method} is not granted for {origin}")]
    MethodNotGranted {
        /// The method.
        method: Method,
        /// `scheme://host:port`, the default port left out.
        origin: String,
        /// The methods that are.
        granted: Vec<String>,
    },
    /// No grant names this TCP address.
    #[error("connecting to {peer} is not granted")]
    PeerNotGranted {
        /// The address.
        peer: String,
    },
    /// The name of a granted origin or address leads where it may not.
    #[error("{host} resolves to {address}, {scope}, which is not granted")]
    AddressDenied {
        /// The name.
        host: String,
        /// What it resolves to.
        address: std::net::IpAddr,
        /// What that address is.
        scope: AddressScope,
        /// The line that would allow it, without `grants:`.
        grant: String,
    },
    /// The name has no address.
    #[error("the name {host} does not resolve: {why}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver says.
        why: String,
    },
    /// Nothing listens there.
    #[error("{peer} refused the connection")]
    ConnectionRefused {
        /// The address.
        peer: String,
    },
    /// The connection could not be made.
    #[error("can't reach {peer}: {why}")]
    Unreachable {
        /// The address.
        peer: String,
        /// What the system says.
        why: String,
    },
    /// Nothing came in time.
    #[error("{peer} did not answer within {}", format_duration(*within))]
    NoAnswer {
        /// The address.
        peer: String,
        /// The time given.
        within: Duration,
    },
    /// The answer began, and did not end in time.
    #[error("{peer} did not complete its answer within {}", format_duration(*within))]
    IncompleteAnswer {
        /// The address.
        peer: String,
        /// The time given.
        within: Duration,
    },
    /// A download stands still.
    #[error("{peer} sent nothing for {}, after {received} bytes", format_duration(*within))]
    Stalled {
        /// The address.
        peer: String,
        /// The time given.
        within: Duration,
        /// Bytes that came before.
        received: u64,
    },
    /// An answer ended well, but too early.
    #[error("{peer} ended its answer after {received} of {size} bytes")]
    BodyTooShort {
        /// The address.
        peer: String,
        /// Bytes that came.
        received: u64,
        /// Bytes that were announced.
        size: u64,
    },
    /// A server that was asked for the rest of a download sent something else.
    #[error("{peer} answered a request for the bytes from {asked} on with {answered}")]
    WrongRange {
        /// The address.
        peer: String,
        /// The first byte asked for.
        asked: u64,
        /// What it says it sent.
        answered: String,
    },
    /// What is downloaded became something else meanwhile.
    #[error("{url} changed during the download, after {received} bytes")]
    ContentChanged {
        /// The URL without query.
        url: String,
        /// Bytes that came before.
        received: u64,
    },
    /// A download broke off again and again, without a new byte.
    #[error("the download from {peer} stopped after {received} bytes and failed {tries} retries: {last}")]
    RetriesExhausted {
        /// The address.
        peer: String,
        /// Bytes that came before.
        received: u64,
        /// How often it was asked again.
        tries: u32,
        /// What happened the last time.
        last: Box<Self>,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("the connection to {peer} broke: {why}")]
    ConnectionBroken {
        /// The address.
        peer: String,
        /// The innermost cause.
        why: String,
    },
    /// The server's certificate is not accepted.
    #[error("the certificate of {peer} is not trusted: {why}")]
    CertificateUntrusted {
        /// The address.
        peer: String,
        /// What is wrong with it.
        why: String,
    },
    /// The TLS handshake failed for another reason.
    #[error("can't open a secure connection to {peer}: {why}")]
    Tls {
        /// The address.
        peer: String,
        /// What is wrong.
        why: String,
    },
    /// The machine's certificate authorities can't be read, or the TLS library can't be set up.
    #[error("can't use https on this machine: {why}")]
    RootsUnavailable {
        /// Why.
        why: String,
    },
    /// The body is larger than asked for.
    #[error("the answer from {url} is larger than {max} bytes")]
    TooLarge {
        /// The URL without query.
        url: String,
        /// The bound, bytes.
        max: u64,
    },
    /// More redirects than allowed.
    #[error("more than {max} redirects; the last one points to {url}")]
    TooManyRedirects {
        /// Where the next one leads, without query.
        url: String,
        /// The bound.
        max: u32,
    },
    /// The server redirects to something that is never followed.
    #[error("{from} redirects to an invalid URL: {why}")]
    BadRedirect {
        /// The URL that answered, without query.
        from: String,
        /// The rule it breaks.
        why: String,
    },
    /// A download was answered with another status than 200.
    #[error("{url} answered with status {status}")]
    Status {
        /// The URL without query.
        url: String,
        /// The status.
        status: StatusCode,
    },
}

impl NetError {
    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> NetFailureKind {
        match self {
            Self::InvalidUrl { .. }
            | Self::InvalidAddress { .. }
            | Self::InvalidMethod { .. }
            | Self::InvalidHeader { .. } => NetFailureKind::InvalidConfig,
            Self::OriginNotGranted { .. }
            | Self::MethodNotGranted { .. }
            | Self::PeerNotGranted { .. }
            | Self::AddressDenied { .. } => NetFailureKind::Denied,
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
            | Self::ConnectionBroken { .. } => NetFailureKind::Transient,
            Self::CertificateUntrusted { .. }
            | Self::Tls { .. }
            | Self::RootsUnavailable { .. }
            | Self::BadRedirect { .. } => NetFailureKind::Permanent,
            Self::TooLarge { .. } | Self::TooManyRedirects { .. } => NetFailureKind::Limit,
            Self::Status { status, .. } => match status.as_u16() {
                404 | 410 => NetFailureKind::NotFound,
                408 | 425 | 429 | 500.. => NetFailureKind::Transient,
                0..=499 => NetFailureKind::Permanent,
            },
        }
    }

    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind() == NetFailureKind::Transient
    }

    /// Whether a download may go on after it: what is missing may still come.
    pub(super) fn is_resumable(&self) -> bool {
        self.is_retryable() && !matches!(self, Self::ContentChanged { .. } | Self::RetriesExhausted { .. })
    }

    /// What to change; for a denial the line to add to the step in the plan.
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

    /// What a library's error means for a request to `url`.
    pub(super) fn from_reqwest(error: &reqwest::Error, url: &Url) -> Self {
        Self::from_reqwest_with_peer(error, peer(url))
    }

    /// What a library's error means for an exchange with `peer`.
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

    /// What a system error means for a connection with `peer`.
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

/// `host:port`, the default port filled in.
pub(super) fn peer(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// The URL as it may be shown: without user, query and fragment.
pub(super) fn url_for_display(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

fn redirect_note(from: &Option<String>) -> String {
    from.as_ref().map(|url| format!("; {url} redirects there")).unwrap_or_default()
}

fn format_duration(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{} s", time.as_secs()) } else { format!("{} ms", time.as_millis()) }
}

/// Looks for an error of type `T` among the causes. An `io::Error` that wraps another hides it from `source()`, so what is in
/// it is looked at too.
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
