//! Errors of state and lock, and their diagnostics.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    artifacts::ArtifactError,
    base_snapshot::BaseRepair,
    history::HistoryError,
    record::{LockHolder, LockRecord},
};
use contract::diagnostic::{Diagnostic, ErrorCode, SourceExcerpt};
use journal::JournalError;
use plan::{closest_match, quoted_list};

/// An error of the state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A local folder or file can't be used.
    #[error("can't {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A remote can't be reached, or rejects the call.
    #[error("can't {action} the state in {location}")]
    Remote { action: &'static str, location: String, why: String },
    /// A remote does not have a file that its record names.
    #[error("can't {action} the state in {location}")]
    RemoteFileMissing { action: &'static str, location: String, name: String },
    /// The plan's repository has no such remote.
    #[error("`{location}` names no remote of the plan's git repository")]
    UnknownRemote { location: String, remote: String, known: Vec<String>, excerpt: Option<Box<SourceExcerpt>> },
    /// A remote does not support compare-and-swap.
    #[error("{location} does not support conditional writes: two deployments could hold its lock at once")]
    NoConditionalWrites { location: String, why: String },
    /// The record of a remote place can't be read.
    #[error("can't read the state record in {location}")]
    InvalidManifest { location: String, why: String },
    /// The snapshot before the first journal can't be used, and nothing here has the same state.
    #[error("can't use {}, the snapshot before the first journal", path.display())]
    BaseSnapshot { path: PathBuf, why: String, repair: BaseRepair },
    /// The local copy and the remote have diverged.
    #[error("{} and the journal in {location} have diverged", path.display())]
    Diverged { path: PathBuf, location: String, why: &'static str },
    /// The artifacts of the CI run can't be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A journal in the artifacts can't be resumed from.
    #[error("can't resume from the journal in artifact {name}")]
    InvalidCheckpoint { name: String, why: String },
    /// A journal in the artifacts is not authenticated by this job's key.
    #[error("can't resume from the journal in artifact {name}")]
    UnauthenticatedCheckpoint { name: String, why: String },
    /// A journal in the artifacts was written with a key and this job has none, or the other way round.
    #[error("the `key` is not as it was when artifact {name} was written")]
    KeyChanged { name: String, why: String },
    /// Two jobs with one identity wrote journals.
    #[error("two jobs of this workflow run wrote journals with the same identity: {name} and {other}")]
    SharedIdentity { name: String, other: String },
    /// The newest journal in the artifacts is older than one that was acknowledged.
    #[error("the journal in artifact {name} is not the newest of this run")]
    StaleCheckpoint { name: String, found: String, expected: String },
    /// It is not known which journal was acknowledged last.
    #[error("can't read which journal of this run is the newest")]
    UnknownHighWaterMark { why: String },
    /// A journal was not uploaded.
    #[error("could not upload the journal to the artifacts of this run")]
    NotUploaded { why: String },
}

/// An error of the lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another deployment holds it.
    #[error("another deployment holds the lock on {resource}")]
    Held { resource: String, record: Option<LockRecord> },
    /// Its file can't be used.
    #[error("can't use the deployment lock {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// This deployment lost it.
    #[error("this deployment (epoch {epoch}) lost the lock on {resource}")]
    Lost { resource: String, epoch: u64, why: String },
    /// The holder is alive, so taking the lock needs `--force`.
    #[error("{resource} is locked by a running deployment")]
    HolderRunning { resource: String, holder: Option<LockHolder> },
    /// The token of a child process is not the held lock's.
    #[error("PAWL_LOCK is not a valid lock token for {resource}")]
    InvalidToken { resource: String, why: &'static str },
    /// The last upload failed.
    #[error("could not upload the last records of epoch {epoch} of {resource} to {location}")]
    FinalWriteFailed { resource: String, epoch: u64, location: String, why: String },
    /// The state can't be used.
    #[error(transparent)]
    State(#[from] StateError),
}

impl StateError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// The cause in one line.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            Self::Remote { why, .. } | Self::NoConditionalWrites { why, .. } | Self::InvalidManifest { why, .. } => {
                why.clone()
            }
            Self::RemoteFileMissing { name, .. } => format!("{name} is missing"),
            Self::Diverged { why, .. } => (*why).to_owned(),
            Self::UnknownRemote { known, .. } if known.is_empty() => "it has no remotes".to_owned(),
            Self::UnknownRemote { known, .. } => format!("it has {}", quoted_list(known.iter().map(String::as_str))),
            Self::StaleCheckpoint { found, expected, .. } => {
                format!("it has sequence {found}; the GitHub deployment of this run expects {expected} or newer")
            }
            Self::SharedIdentity { .. } => {
                "neither continues the other, so nobody can tell which one is this job's".to_owned()
            }
            Self::NotUploaded { why }
            | Self::KeyChanged { why, .. }
            | Self::BaseSnapshot { why, .. }
            | Self::UnknownHighWaterMark { why }
            | Self::InvalidCheckpoint { why, .. }
            | Self::UnauthenticatedCheckpoint { why, .. } => why.clone(),
            Self::Artifact(error) => error.to_string(),
        }
    }
}

/// The option that names the environment of a file in a state folder, which is called like its environment. A command may read the state of
/// another environment than the one that it was told to work on.
fn environment_option(file: &Path) -> String {
    let environment = file.parent().and_then(Path::file_name).unwrap_or_default();
    format!("--env {}", environment.to_string_lossy())
}

fn base_snapshot_hint(path: &Path, repair: BaseRepair) -> String {
    const COPY: &str = "restore it from a copy, such as the newest artifact of the CI run that it came from";
    let environment = environment_option(path);
    let command = format!("`runner state repair --local {environment}`");
    let otherwise = match repair {
        BaseRepair::Remake => format!("{command} makes it again"),
        BaseRepair::Drop => format!("{command} moves it to `lost`: the journals go back to the first attempt"),
        BaseRepair::BeginAfter(epoch) => format!(
            "{command} lets the history begin after epoch {epoch}, whose snapshot is sound, and moves the journals up to it to `lost`"
        ),
        BaseRepair::None => format!(
            "move the folder away, and put what is live on record with `runner import --local {environment} --release LABEL`"
        ),
    };
    format!("{COPY}; without a copy, {otherwise}")
}

fn unknown_remote_hint(remote: &str, known: &[String]) -> String {
    let names = || known.iter().map(String::as_str);
    match closest_match(remote, names()) {
        Some(near) => format!("did you mean `git:{near}`?"),
        None if known.is_empty() => {
            format!("add it with `git remote add {remote} URL`, or name a repository by its URL or path: `git:URL`")
        }
        None => {
            let known: Vec<_> = names().map(|name| format!("git:{name}")).collect();
            let known = quoted_list(known.iter().map(String::as_str));
            format!("use one of {known}, or name a repository by its URL or path: `git:URL`")
        }
    }
}

impl From<&HistoryError> for Diagnostic {
    fn from(error: &HistoryError) -> Self {
        match error {
            HistoryError::State(error) => error.into(),
            HistoryError::Journal(error @ JournalError::Corrupt { path, .. }) => Self::from(error).with_hint(format!(
                "restore the file from a backup or a CI artifact; without a copy, run `runner state repair --local {}`",
                environment_option(path)
            )),
            HistoryError::Journal(error) => error.into(),
        }
    }
}

impl From<&StateError> for Diagnostic {
    fn from(error: &StateError) -> Self {
        let (code, hint) = match error {
            StateError::Artifact(error) => return error.into(),
            StateError::NotUploaded { .. } => (
                ErrorCode::JournalNotUploaded,
                "nothing ran after this error; re-run the failed jobs when the service is available again".to_owned(),
            ),
            StateError::UnauthenticatedCheckpoint { .. } => (
                ErrorCode::JournalUnauthenticated,
                "use the same `key` in every attempt; if you already do, find the job of this run that wrote the artifact".to_owned(),
            ),
            StateError::KeyChanged { .. } => (
                ErrorCode::KeyChanged,
                "nothing was done; set the secret as it was, and re-run the failed jobs; to change the key, start a new workflow run".to_owned(),
            ),
            StateError::SharedIdentity { .. } => (
                ErrorCode::SharedIdentity,
                "nothing was done; give each job an `instance:` of its own, such as `instance: ${{ matrix.region }}` where a matrix calls a reusable workflow; then start a new workflow run".to_owned(),
            ),
            StateError::InvalidCheckpoint { .. } => (
                ErrorCode::InvalidCheckpoint,
                "inspect the artifact; if it is unusable, delete it on the run's page and re-run: the next attempt probes each step before it acts".to_owned(),
            ),
            StateError::StaleCheckpoint { .. } => (
                ErrorCode::StaleCheckpoint,
                "find the job of this run that replaced the newer artifact; then delete this one on the run's page and re-run the failed jobs: each step is probed before it acts".to_owned(),
            ),
            StateError::UnknownHighWaterMark { .. } => (
                ErrorCode::StaleCheckpoint,
                "nothing was done; re-run the failed jobs when GitHub's API answers again".to_owned(),
            ),
            StateError::Io { .. } => (
                ErrorCode::StateFolderIo,
                "give this user read and write access to the folder in `state:`, then run again".to_owned(),
            ),
            StateError::Remote { .. } | StateError::RemoteFileMissing { .. } => (
                ErrorCode::StateUnavailable,
                "check the address in `state:`, the network, and this user's write access; then run again".to_owned(),
            ),
            StateError::UnknownRemote { remote, known, .. } => {
                (ErrorCode::InvalidValue, unknown_remote_hint(remote, known))
            }
            StateError::NoConditionalWrites { .. } => (
                ErrorCode::NoConditionalWrites,
                "use a git host with atomic pushes, or an object store that supports `If-None-Match` and `If-Match`".to_owned(),
            ),
            StateError::InvalidManifest { .. } => {
                (ErrorCode::InvalidStateManifest, "if a newer runner wrote the state, use that version; otherwise find out which other program wrote there".to_owned())
            }
            StateError::BaseSnapshot { path, repair, .. } => {
                (ErrorCode::BaseSnapshotUnusable, base_snapshot_hint(path, *repair))
            }
            StateError::Diverged { path, .. } => (
                ErrorCode::StateDiverged,
                format!("`runner state repair --local {}` takes the remote's history: it moves this machine's journals to `lost`, and the next attempt probes the steps that they record as begun", environment_option(path)),
            ),
        };
        let mut diagnostic = Self::new(code, error.to_string()).with_hint(hint);
        if let StateError::UnknownRemote { excerpt, .. } = error {
            diagnostic.excerpt = excerpt.as_deref().cloned();
        }
        match error {
            StateError::Io { source, .. } => diagnostic.with_cause(source),
            StateError::Artifact(_)
            | StateError::BaseSnapshot { .. }
            | StateError::InvalidCheckpoint { .. }
            | StateError::UnauthenticatedCheckpoint { .. }
            | StateError::KeyChanged { .. }
            | StateError::SharedIdentity { .. }
            | StateError::StaleCheckpoint { .. }
            | StateError::UnknownHighWaterMark { .. }
            | StateError::NotUploaded { .. }
            | StateError::Remote { .. }
            | StateError::RemoteFileMissing { .. }
            | StateError::UnknownRemote { .. }
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
                let mut diagnostic = Self::new(ErrorCode::LockHeld, error.to_string());
                let mut is_lease = false;
                if let Some(LockRecord { holder: Some(holder), since, ttl_ms, .. }) = record {
                    is_lease = ttl_ms.is_some();
                    diagnostic = diagnostic.with_cause(format!("{holder} has held the lock since {since}"));
                }
                diagnostic.with_hint(if is_lease {
                    "run again when it ends, or wait for it with `--lock-wait 10m`; `runner lock status --watch` shows whether it is still running"
                } else {
                    "run again when it ends, or wait for it with `--lock-wait 10m`; `runner status` shows its progress"
                })
            }
            LockError::Io { source, .. } => Self::new(ErrorCode::LockIo, error.to_string())
                .with_cause(source)
                .with_hint("give this user write access to the folder in `state:`, then run again"),
            LockError::Lost { why, .. } => Self::new(ErrorCode::LockLost, error.to_string())
                .with_cause(why)
                .with_hint("nothing ran after this error; check `runner history`, then run again"),
            LockError::HolderRunning { holder, .. } => {
                let diagnostic = Self::new(ErrorCode::HolderRunning, error.to_string());
                let diagnostic = match holder {
                    Some(holder) => diagnostic.with_cause(format!("{holder} holds the lock and is still running")),
                    None => diagnostic,
                };
                diagnostic.with_hint("end that deployment, or take its lock with `--force --message WHY`")
            }
            LockError::InvalidToken { why, .. } => {
                Self::new(ErrorCode::InvalidLockToken, error.to_string()).with_cause(why).with_hint(
                    "unset PAWL_LOCK to start a separate deployment; a deployment sets it only for the runners that it starts",
                )
            }
            LockError::FinalWriteFailed { why, .. } => {
                Self::new(ErrorCode::FinalWriteFailed, error.to_string()).with_cause(why).with_hint(
                    "run again on this machine when the remote is reachable; only this machine has the whole journal",
                )
            }
            LockError::State(error) => error.into(),
        }
    }
}
