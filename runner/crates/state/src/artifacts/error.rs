//! Errors of artifacts, and their diagnostics.
//!
//! Invariant: none of these contains a token or the query of a signed URL; [`super::http_client`] redacts foreign text.

use reqwest::StatusCode;

use contract::{
    Digest,
    diagnostic::{Diagnostic, ErrorCode},
};

/// An error of listing, storing, reading or deleting an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// The job's access data is invalid.
    #[error("can't use the artifact service: check {what}")]
    InvalidAccess { what: &'static str, why: String },
    /// The token has expired or lacks a permission.
    #[error("can't {action}: the service rejected the token")]
    Unauthorized { action: &'static str, token: &'static str, status: StatusCode },
    /// No response, or only transient errors.
    #[error("can't {action}: the service is unavailable")]
    Unavailable { action: &'static str, tries: u32, why: String },
    /// The service rejected the call, or its response is invalid. The status is the response's.
    #[error("can't {action}: the service rejected the request")]
    Refused { action: &'static str, status: StatusCode, why: String },
    /// The downloaded content differs from the stored one.
    #[error("the content of artifact {name} does not match its digest")]
    DigestMismatch { name: String, listed: Digest, found: Digest },
    /// The content is larger than the limit.
    #[error("can't {action}: it is larger than {} MiB", max >> 20)]
    TooLarge { action: &'static str, max: u64 },
    /// Both the service and GitHub's REST API failed.
    #[error("{service}")]
    BothFailed { service: Box<ArtifactError>, rest: Box<ArtifactError> },
}

impl ArtifactError {
    /// Whether the service rejected the call with this status.
    pub(super) fn is_refused_with(&self, with: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == with)
    }

    /// Whether this job may not use the API, or the server does not have it.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Unauthorized { .. }) || self.is_refused_with(StatusCode::NOT_FOUND)
    }

    /// The cause in one line.
    fn reason(&self) -> String {
        match self {
            Self::InvalidAccess { why, .. } => why.clone(),
            Self::Unauthorized { token, status, .. } => format!("{status} for {token}"),
            Self::Unavailable { tries: 1, why, .. } => why.clone(),
            Self::Unavailable { tries, why, .. } => format!("{why}, after {tries} tries"),
            Self::Refused { status, why, .. } if why.is_empty() => status.to_string(),
            Self::Refused { status, why, .. } => format!("{status}: {why}"),
            Self::DigestMismatch { listed, found, .. } => format!("it is {found}; the service listed {listed}"),
            Self::TooLarge { .. } => "a journal is never that large".to_owned(),
            Self::BothFailed { service, .. } => service.reason(),
        }
    }
}

impl From<&ArtifactError> for Diagnostic {
    fn from(error: &ArtifactError) -> Self {
        let (code, hint) = match error {
            ArtifactError::InvalidAccess { .. } => (
                ErrorCode::InvalidArtifactAccess,
                "start the runner with `uses:`, and check that no step overwrites the variables of the CI job",
            ),
            ArtifactError::Unauthorized { .. } => (
                ErrorCode::ArtifactUnauthorized,
                "re-run the job to get a new token; the REST API needs `permissions: actions: read`",
            ),
            ArtifactError::Unavailable { .. } => (
                ErrorCode::ArtifactServiceUnavailable,
                "re-run the job when the service is available again; githubstatus.com shows its status",
            ),
            ArtifactError::Refused { .. } => {
                (ErrorCode::ArtifactRefused, "check on the run's page that its artifacts exist, then re-run the job")
            }
            ArtifactError::DigestMismatch { .. } => (
                ErrorCode::ArtifactDigestMismatch,
                "re-run the job, since the download may have been damaged; if the error remains, delete the artifact on the run's page",
            ),
            ArtifactError::TooLarge { .. } => {
                (ErrorCode::ArtifactTooLarge, "find the job that stored it: the runner did not write this artifact")
            }
            ArtifactError::BothFailed { service, rest } => {
                let diagnostic = Self::from(service.as_ref());
                return diagnostic.with_cause(format!("through GitHub's REST API: {rest}: {}", rest.reason()));
            }
        };
        Self::new(code, error.to_string()).with_cause(error.reason()).with_hint(hint)
    }
}
