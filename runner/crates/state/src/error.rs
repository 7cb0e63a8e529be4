//! Why state or lock can't be used, and what a user is told then.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    artifacts::ArtifactError,
    bundle::BundleError,
    record::{Holder, LockRecord},
};
use contract::diagnostic::{Code, Diagnostic, Exit};

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A folder or a file of this machine.
    #[error("can't {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A remote place that can't be reached, or refuses.
    #[error("can't {action} the state in {place}")]
    Remote { action: &'static str, place: String, why: String },
    /// A remote place without compare-and-swap.
    #[error("{place} does not keep conditions: two deployments could hold its lock")]
    Unconditional { place: String, why: String },
    /// The record of a remote place can't be read.
    #[error("the record of the state in {place} can't be read")]
    Record { place: String, why: String },
    /// What this machine has is not what the remote place has.
    #[error("{} and the journal in {place} went different ways", path.display())]
    Fork { path: PathBuf, place: String, why: &'static str },
    /// The artifacts of the CI run can't be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A journal among them can't be continued.
    #[error("the journal in artifact {name} can't be continued")]
    Checkpoint { name: String, source: BundleError },
    /// A journal did not get there.
    #[error("the journal could not be brought to the artifacts of this run")]
    Unsaved { why: String },
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
    Living { resource: String, holder: Option<Holder> },
    /// What a child process showed is not the lock that is held.
    #[error("the lock token of {resource} is not that of the deployment that holds the lock")]
    Token { resource: String, why: &'static str },
    /// What was written at the end did not get there.
    #[error("the end of epoch {epoch} of {resource} is not written to {place}")]
    Unacknowledged { resource: String, epoch: u64, place: String, why: String },
    /// The place can't be used.
    #[error(transparent)]
    State(#[from] StateError),
}

/// An error and what is behind it, in one line, each text once.
pub(super) fn reasons(error: &dyn std::error::Error) -> String {
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
    pub(super) fn why(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            Self::Remote { why, .. } | Self::Unconditional { why, .. } | Self::Record { why, .. } => why.clone(),
            Self::Fork { why, .. } => (*why).to_owned(),
            Self::Unsaved { why } => why.clone(),
            Self::Artifact(error) => error.to_string(),
            Self::Checkpoint { source, .. } => source.to_string(),
        }
    }
}

impl From<&StateError> for Diagnostic {
    fn from(error: &StateError) -> Self {
        let (code, exit, hint) = match error {
            StateError::Artifact(error) => return error.into(),
            StateError::Unsaved { .. } => (
                "P0520",
                Exit::InDoubt,
                "nothing was done after that; re-run the failed jobs when the service is well again".to_owned(),
            ),
            StateError::Checkpoint { source: BundleError::Forged | BundleError::Misnamed, .. } => (
                "P0522",
                Exit::Journal,
                "see that `key` is the same in every attempt; if it is, some job of this run wrote that artifact: find out which".to_owned(),
            ),
            StateError::Checkpoint { .. } => (
                "P0523",
                Exit::Journal,
                "look at it; delete it on the run's page if nothing can be made of it: the next attempt looks before it acts".to_owned(),
            ),
            StateError::Io { .. } => (
                "P0606",
                Exit::Refused,
                "see that the folder named by `state:` can be read and written by this user".to_owned(),
            ),
            StateError::Remote { .. } => (
                "P0607",
                Exit::Refused,
                "see that the place named by `state:` is right, can be reached, and lets this user write".to_owned(),
            ),
            StateError::Unconditional { .. } => (
                "P0608",
                Exit::Refused,
                "use an object store that knows `If-None-Match` and `If-Match`, or `state: git:REMOTE`".to_owned(),
            ),
            StateError::Record { .. } => {
                ("P0609", Exit::Journal, "a newer runner may have written it: use that one".to_owned())
            }
            StateError::Fork { path, .. } => (
                "P0610",
                Exit::Journal,
                format!(
                    "look at it, move {} away, and run again: the next attempt looks before it acts",
                    path.display()
                ),
            ),
        };
        let diagnostic = Self::new(Code(code), exit, error.to_string()).hint(hint);
        match error {
            StateError::Io { source, .. } => diagnostic.because(source),
            StateError::Artifact(_)
            | StateError::Checkpoint { .. }
            | StateError::Unsaved { .. }
            | StateError::Remote { .. }
            | StateError::Unconditional { .. }
            | StateError::Record { .. }
            | StateError::Fork { .. } => diagnostic.because(error.why()),
        }
    }
}

impl From<&LockError> for Diagnostic {
    fn from(error: &LockError) -> Self {
        match error {
            LockError::Held { record, .. } => {
                let mut diagnostic = Self::new(Code("P0501"), Exit::Locked, error.to_string());
                let mut is_lease = false;
                if let Some(LockRecord { holder: Some(holder), since, ttl_ms, .. }) = record {
                    is_lease = ttl_ms.is_some();
                    diagnostic = diagnostic.because(format!("{holder} has held the lock since {since}"));
                }
                diagnostic.hint(if is_lease {
                    "wait until it ends, then run again, or wait here with `--lock-wait 10m`; `runner lock status --watch` tells whether it lives"
                } else {
                    "wait until it ends, then run again, or wait here with `--lock-wait 10m`; `runner status` shows what it is doing"
                })
            }
            LockError::Io { source, .. } => Self::new(Code("P0502"), Exit::Refused, error.to_string())
                .because(source)
                .hint("see that the folder named by `state:` can be written by this user"),
            LockError::Lost { why, .. } => Self::new(Code("P0503"), Exit::Locked, error.to_string())
                .because(why)
                .hint("nothing was done after that; see `runner history`, then run again"),
            LockError::Living { holder, .. } => {
                let diagnostic = Self::new(Code("P0504"), Exit::Locked, error.to_string());
                let diagnostic = match holder {
                    Some(holder) => diagnostic.because(format!("{holder} holds it, and renews it")),
                    None => diagnostic,
                };
                diagnostic.hint("end that deployment; or take the lock from it with `--force --message WHY`")
            }
            LockError::Token { why, .. } => Self::new(Code("P0505"), Exit::Refused, error.to_string())
                .because(why)
                .hint("a runner that a deployment starts gets PAWL_LOCK from it; unset it to run on your own"),
            LockError::Unacknowledged { why, .. } => Self::new(Code("P0506"), Exit::InDoubt, error.to_string())
                .because(why)
                .hint("this machine has it all: when the place can be reached, run again here before anywhere else"),
            LockError::State(error) => error.into(),
        }
    }
}
