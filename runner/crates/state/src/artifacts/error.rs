//! Why an artifact was not stored, found or read, and what a user is told then.
//!
//! Invariant: no token and no query of a signed URL is in any of these; [`super::calls`] words what others said.

use reqwest::StatusCode;

use contract::{
    Digest,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
};

/// Why an artifact was not stored, found, read or deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// What the CI says of its services can't be used.
    #[error("the artifact service can't be used: {what} is not right")]
    InvalidAccess { what: &'static str, why: String },
    /// A token that has expired, or may not do this.
    #[error("can't {action}: the token is not accepted")]
    Unauthorized { action: &'static str, token: &'static str, status: StatusCode },
    /// No answer, or answers that may be better later, and none that was.
    #[error("can't {action}: the service can't be reached, or fails")]
    Unavailable { action: &'static str, tries: u32, why: String },
    /// An answer that says no, or nothing that makes sense. The status is that of the answer.
    #[error("can't {action}: the service refuses")]
    Refused { action: &'static str, status: StatusCode, why: String },
    /// What came is not what was stored.
    #[error("the content of the artifact {name} is not what the service says it is")]
    DigestMismatch { name: String, listed: Digest, found: Digest },
    /// More than is read or stored.
    #[error("can't {action}: it is larger than {} MiB", max >> 20)]
    TooLarge { action: &'static str, max: u64 },
    /// A name that the service would not take.
    #[error("{name:?} can't be the name of an artifact")]
    InvalidName { name: String, why: &'static str },
    /// By the service and by GitHub's REST API, both without success.
    #[error("{service}")]
    BothFailed { service: Box<ArtifactError>, rest: Box<ArtifactError> },
}

impl ArtifactError {
    /// Whether the answer had this status.
    pub(super) fn is_refused_with(&self, with: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == with)
    }

    /// Why, in one line.
    fn reason(&self) -> String {
        match self {
            Self::InvalidAccess { why, .. } => why.clone(),
            Self::Unauthorized { token, status, .. } => format!("{status} for {token}"),
            Self::Unavailable { tries: 1, why, .. } => why.clone(),
            Self::Unavailable { tries, why, .. } => format!("{why}, after {tries} tries"),
            Self::Refused { status, why, .. } if why.is_empty() => status.to_string(),
            Self::Refused { status, why, .. } => format!("{status}: {why}"),
            Self::DigestMismatch { listed, found, .. } => format!("it should be {listed} and is {found}"),
            Self::TooLarge { .. } => "a journal is never that large".to_owned(),
            Self::InvalidName { why, .. } => (*why).to_owned(),
            Self::BothFailed { service, .. } => service.reason(),
        }
    }
}

impl From<&ArtifactError> for Diagnostic {
    fn from(error: &ArtifactError) -> Self {
        let (code, exit, hint) = match error {
            ArtifactError::InvalidAccess { .. } => (
                "P0510",
                ExitKind::Refused,
                "these come from the CI: see that the runner is started by `uses:`, and that nothing overwrites them",
            ),
            ArtifactError::Unauthorized { .. } => (
                "P0511",
                ExitKind::InDoubt,
                "re-run the job for a new token; the REST API needs `permissions: actions: read`",
            ),
            ArtifactError::Unavailable { .. } => {
                ("P0512", ExitKind::InDoubt, "re-run the job when the service is well again: githubstatus.com tells")
            }
            ArtifactError::Refused { .. } => (
                "P0513",
                ExitKind::InDoubt,
                "see whether the artifacts of this run are there, on its page; re-run the job",
            ),
            ArtifactError::DigestMismatch { .. } => {
                ("P0514", ExitKind::Journal, "delete this artifact on the run's page if nobody can say how it changed")
            }
            ArtifactError::TooLarge { .. } => {
                ("P0515", ExitKind::InDoubt, "see who stored it: an artifact of this name is none of the runner's")
            }
            ArtifactError::InvalidName { .. } => {
                ("P0516", ExitKind::Refused, "rename the application, environment or job that the name is made of")
            }
            ArtifactError::BothFailed { service, rest } => {
                let diagnostic = Self::from(service.as_ref());
                return diagnostic.with_cause(format!("by GitHub's REST API: {rest}: {}", rest.reason()));
            }
        };
        Self::new(ErrorCode(code), exit, error.to_string()).with_cause(error.reason()).with_hint(hint)
    }
}
