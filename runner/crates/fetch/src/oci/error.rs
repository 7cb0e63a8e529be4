//! Errors of artifacts and images, with the next thing to do.

use contract::{Digest, step::FailureKind, text::escape_line};

use crate::net::NetError;

/// Why the content of a registry can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OciError {
    #[error(transparent)]
    Net(#[from] NetError),
    /// The registry wants to know who asks.
    #[error("the registry {registry} requires authentication")]
    Unauthorized { registry: String, origin: String },
    /// The registry knows who asks, and refuses.
    #[error("the registry {registry} refuses the credentials for {repository}")]
    Denied { registry: String, repository: String },
    #[error("the registry {registry} has no `{}` in {repository}", escape_line(what))]
    NotFound { registry: String, repository: String, what: String },
    #[error("the registry {registry} answered with status {status} for {}", escape_line(what))]
    Status { registry: String, status: u16, what: String },
    #[error("the registry {registry} sent a manifest with the digest {found}, not {expected}")]
    WrongDigest { registry: String, expected: Digest, found: Digest },
    /// The manifest is none, or says what the runner can't unpack.
    #[error("can't use the manifest: {}", escape_line(.0))]
    Unsupported(String),
    #[error("the token server of {0} sent no token")]
    InvalidToken(String),
    #[error("the token server {origin} of {registry} does not use https")]
    InsecureTokenServer { registry: String, origin: String },
}

impl OciError {
    /// The kind in the step contract.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Net(error) => error.kind(),
            Self::Status { status: 408 | 425 | 429 | 500.., .. } => FailureKind::Transient,
            Self::NotFound { .. } => FailureKind::NotFound,
            Self::WrongDigest { .. } | Self::Unsupported(_) => FailureKind::BadContent,
            Self::Unauthorized { .. }
            | Self::Denied { .. }
            | Self::Status { .. }
            | Self::InvalidToken(_)
            | Self::InsecureTokenServer { .. } => FailureKind::Permanent,
        }
    }

    /// Whether the same call may succeed later without a change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind() == FailureKind::Transient
    }

    /// The hint.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Net(error) => return error.hint(),
            Self::Unauthorized { origin, .. } => format!(
                "give the step credentials: grants: {{ http: [{{ origin: \"{origin}\", headers: {{ authorization: \"Basic USER:${{{{ secrets.NAME }}}}\" }} }}] }}"
            ),
            Self::Denied { .. } => {
                "check the `authorization` in the step's grant, and that this user may read the repository".to_owned()
            }
            Self::NotFound { .. } => "check the repository and the tag, and that the release was pushed".to_owned(),
            Self::Status { .. } => "check that the registry works, then run again".to_owned(),
            Self::WrongDigest { .. } => "do not use this registry until you know why".to_owned(),
            Self::Unsupported(_) => {
                "push the archive as the only layer of an artifact, or set `rootfs: true` for an image".to_owned()
            }
            Self::InvalidToken(_) | Self::InsecureTokenServer { .. } => {
                "ask the registry's operator to fix the token server".to_owned()
            }
        })
    }
}
