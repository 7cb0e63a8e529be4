//! Why an artifact was not stored, found or read, and what a user is told then.
//!
//! Invariant: no token and no query of a signed URL is in any of these; [`super::calls`] words what others said.

use reqwest::StatusCode;

use contract::{
    Digest,
    diagnostic::{Code, Diagnostic, Exit},
};

/// Why an artifact was not stored, found, read or deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// What the CI says of its services can't be used.
    #[error("the artifact service can't be used: {what} is not right")]
    Access { what: &'static str, why: String },
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
    Content { name: String, listed: Digest, found: Digest },
    /// More than is read or stored.
    #[error("can't {action}: it is larger than {} MiB", max >> 20)]
    TooLarge { action: &'static str, max: u64 },
    /// A name that the service would not take.
    #[error("{name:?} can't be the name of an artifact")]
    Name { name: String, why: &'static str },
    /// By the service and by GitHub's REST API, both without success.
    #[error("{service}")]
    Neither { service: Box<ArtifactError>, rest: Box<ArtifactError> },
}

impl ArtifactError {
    /// Whether the answer had this status.
    pub(super) fn is_refusal(&self, with: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == with)
    }

    /// Why, in one line.
    fn why(&self) -> String {
        match self {
            Self::Access { why, .. } => why.clone(),
            Self::Unauthorized { token, status, .. } => format!("{status} for {token}"),
            Self::Unavailable { tries: 1, why, .. } => why.clone(),
            Self::Unavailable { tries, why, .. } => format!("{why}, after {tries} tries"),
            Self::Refused { status, why, .. } if why.is_empty() => status.to_string(),
            Self::Refused { status, why, .. } => format!("{status}: {why}"),
            Self::Content { listed, found, .. } => format!("it should be {listed} and is {found}"),
            Self::TooLarge { .. } => "a journal is never that large".to_owned(),
            Self::Name { why, .. } => (*why).to_owned(),
            Self::Neither { service, .. } => service.why(),
        }
    }
}

impl From<&ArtifactError> for Diagnostic {
    fn from(error: &ArtifactError) -> Self {
        let (code, exit, hint) = match error {
            ArtifactError::Access { .. } => (
                "P0510",
                Exit::Refused,
                "these come from the CI: see that the runner is started by `uses:`, and that nothing overwrites them",
            ),
            ArtifactError::Unauthorized { .. } => (
                "P0511",
                Exit::InDoubt,
                "re-run the job for a new token; the REST API needs `permissions: actions: read`",
            ),
            ArtifactError::Unavailable { .. } => {
                ("P0512", Exit::InDoubt, "re-run the job when the service is well again: githubstatus.com tells")
            }
            ArtifactError::Refused { .. } => {
                ("P0513", Exit::InDoubt, "see whether the artifacts of this run are there, on its page; re-run the job")
            }
            ArtifactError::Content { .. } => {
                ("P0514", Exit::Journal, "delete this artifact on the run's page if nobody can say how it changed")
            }
            ArtifactError::TooLarge { .. } => {
                ("P0515", Exit::InDoubt, "see who stored it: an artifact of this name is none of the runner's")
            }
            ArtifactError::Name { .. } => {
                ("P0516", Exit::Refused, "rename the application, environment or job that the name is made of")
            }
            ArtifactError::Neither { service, rest } => {
                let diagnostic = Self::from(service.as_ref());
                return diagnostic.because(format!("by GitHub's REST API: {rest}: {}", rest.why()));
            }
        };
        Self::new(Code(code), exit, error.to_string()).because(error.why()).hint(hint)
    }
}
