//! Why state or lock can't be used, and what a user is told then.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    artifacts::ArtifactError,
    bundle::BundleError,
    record::{LockHolder, LockRecord},
};
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind};

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A folder or a file of this machine.
    #[error("can't {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A remote place that can't be reached, or refuses.
    #[error("can't {action} the state in {location}")]
    Remote { action: &'static str, location: String, why: String },
    /// A remote place without compare-and-swap.
    #[error("{location} does not keep conditions: two deployments could hold its lock")]
    NoConditionalWrites { location: String, why: String },
    /// The record of a remote place can't be read.
    #[error("the record of the state in {location} can't be read")]
    InvalidManifest { location: String, why: String },
    /// What this machine has is not what the remote place has.
    #[error("{} and the journal in {location} went different ways", path.display())]
    Diverged { path: PathBuf, location: String, why: &'static str },
    /// The artifacts of the CI run can't be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A journal among them can't be continued.
    #[error("the journal in artifact {name} can't be continued")]
    InvalidCheckpoint { name: String, source: BundleError },
    /// A journal did not get there.
    #[error("the journal could not be brought to the artifacts of this run")]
    NotUploaded { why: String },
}

/// Why the lock was not taken, or is not ours any more.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another has it.
    #[error("{resource} is being deployed by another")]
    Held { resource: String, record: Option<LockRecord> },
    /// Its file can't be used.
    #[error("can't use the lock {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// It was ours.
    #[error("the lock of {resource} was lost: epoch {epoch} is over")]
    Lost { resource: String, epoch: u64, why: String },
    /// A living holder is not to be robbed by accident.
    #[error("{resource} is held by one who lives")]
    HolderRunning { resource: String, holder: Option<LockHolder> },
    /// What a child process showed is not the lock that is held.
    #[error("the lock token of {resource} is not that of the deployment that holds the lock")]
    InvalidToken { resource: String, why: &'static str },
    /// What was written at the end did not get there.
    #[error("the end of epoch {epoch} of {resource} is not written to {location}")]
    FinalWriteFailed { resource: String, epoch: u64, location: String, why: String },
    /// The place can't be used.
    #[error(transparent)]
    State(#[from] StateError),
}

/// An error and what is behind it, in one line, each text once.
pub(super) fn error_chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl StateError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// Why, in one line.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            Self::Remote { why, .. } | Self::NoConditionalWrites { why, .. } | Self::InvalidManifest { why, .. } => {
                why.clone()
            }
            Self::Diverged { why, .. } => (*why).to_owned(),
            Self::NotUploaded { why } => why.clone(),
            Self::Artifact(error) => error.to_string(),
            Self::InvalidCheckpoint { source, .. } => source.to_string(),
        }
    }
}

impl From<&StateError> for Diagnostic {
    fn from(error: &StateError) -> Self {
        let (code, exit, hint) = match error {
            StateError::Artifact(error) => return error.into(),
            StateError::NotUploaded { .. } => (
                "P0520",
                ExitKind::InDoubt,
                "nothing was done after that; re-run the failed jobs when the service is well again".to_owned(),
            ),
            StateError::InvalidCheckpoint { source: BundleError::InvalidMac | BundleError::NameMismatch, .. } => (
                "P0522",
                ExitKind::Journal,
                "see that `key` is the same in every attempt; if it is, some job of this run wrote that artifact: find out which".to_owned(),
            ),
            StateError::InvalidCheckpoint { .. } => (
                "P0523",
                ExitKind::Journal,
                "look at it; delete it on the run's page if nothing can be made of it: the next attempt looks before it acts".to_owned(),
            ),
            StateError::Io { .. } => (
                "P0606",
                ExitKind::Refused,
                "see that the folder named by `state:` can be read and written by this user".to_owned(),
            ),
            StateError::Remote { .. } => (
                "P0607",
                ExitKind::Refused,
                "see that the place named by `state:` is right, can be reached, and lets this user write".to_owned(),
            ),
            StateError::NoConditionalWrites { .. } => (
                "P0608",
                ExitKind::Refused,
                "use an object store that knows `If-None-Match` and `If-Match`, or `state: git:REMOTE`".to_owned(),
            ),
            StateError::InvalidManifest { .. } => {
                ("P0609", ExitKind::Journal, "a newer runner may have written it: use that one".to_owned())
            }
            StateError::Diverged { path, .. } => (
                "P0610",
                ExitKind::Journal,
                format!(
                    "look at it, move {} away, and run again: the next attempt looks before it acts",
                    path.display()
                ),
            ),
        };
        let diagnostic = Self::new(ErrorCode(code), exit, error.to_string()).with_hint(hint);
        match error {
            StateError::Io { source, .. } => diagnostic.with_cause(source),
            StateError::Artifact(_)
            | StateError::InvalidCheckpoint { .. }
            | StateError::NotUploaded { .. }
            | StateError::Remote { .. }
            | StateError::NoConditionalWrites { .. }
            | StateError::InvalidManifest { .. }
            | StateError::Diverged { .. } => diagnostic.with_cause(error.reason()),
        }
    }
}

impl From<&LockError> for Diagnostic {
    fn from(error: &LockError) -> Self {
        match error {
            LockError::Held { record, .. } => {
                let mut diagnostic = Self::new(ErrorCode("P0501"), ExitKind::Locked, error.to_string());
                let mut is_lease = false;
                if let Some(LockRecord { holder: Some(holder), since, ttl_ms, .. }) = record {
                    is_lease = ttl_ms.is_some();
                    diagnostic = diagnostic.with_cause(format!("{holder} has held the lock since {since}"));
                }
                diagnostic.with_hint(if is_lease {
                    "wait until it ends, then run again, or wait here with `--lock-wait 10m`; `runner lock status --watch` tells whether it lives"
                } else {
                    "wait until it ends, then run again, or wait here with `--lock-wait 10m`; `runner status` shows what it is doing"
                })
            }
            LockError::Io { source, .. } => Self::new(ErrorCode("P0502"), ExitKind::Refused, error.to_string())
                .with_cause(source)
                .with_hint("see that the folder named by `state:` can be written by this user"),
            LockError::Lost { why, .. } => Self::new(ErrorCode("P0503"), ExitKind::Locked, error.to_string())
                .with_cause(why)
                .with_hint("nothing was done after that; see `runner history`, then run again"),
            LockError::HolderRunning { holder, .. } => {
                let diagnostic = Self::new(ErrorCode("P0504"), ExitKind::Locked, error.to_string());
                let diagnostic = match holder {
                    Some(holder) => diagnostic.with_cause(format!("{holder} holds it, and renews it")),
                    None => diagnostic,
                };
                diagnostic.with_hint("end that deployment; or take the lock from it with `--force --message WHY`")
            }
            LockError::InvalidToken { why, .. } => Self::new(ErrorCode("P0505"), ExitKind::Refused, error.to_string())
                .with_cause(why)
                .with_hint("a runner that a deployment starts gets PAWL_LOCK from it; unset it to run on your own"),
            LockError::FinalWriteFailed { why, .. } => {
                Self::new(ErrorCode("P0506"), ExitKind::InDoubt, error.to_string()).with_cause(why).with_hint(
                    "this machine has it all: when the place can be reached, run again here before anywhere else",
                )
            }
            LockError::State(error) => error.into(),
        }
    }
}
