//! The agent's session: its lock and journal on the host, for one attempt of a coordinator.
//!
//! The folder is a state folder like that of a `dir:` state, `hosts/<target>/<app>/<environment>` below the user's state. Invariant: a
//! coordinator with a lower epoch than an earlier one of the same lineage is refused: a newer attempt has begun elsewhere. Epochs of
//! different lineages say nothing about each other.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use contract::{
    Secret,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    step::StepOutcome,
};
use hostio::atomic_file::replace_file;
use journal::{
    Journal, JournalState, RecordStatus, Redactor,
    event::{FORMAT, JournalHeader, MAGIC},
};
use plan::StateLocation;
use state::{DeploymentLock, LockRequest, LockWait, StateStore};

use super::wire::{BeginSession, BegunSession, HostRecord, Problem};
use crate::deploy::program_records_path;

/// How long an agent waits for an earlier one, whose connection ended and whose programs are ending.
const LOCK_WAIT: Duration = Duration::from_secs(15);
/// The longest time to release the lock.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many attempts a coordinator is told of: more than can have been cut off one after the other.
const MAX_TOLD_ATTEMPTS: usize = 100;
/// Who began the last session.
const COORDINATOR_FILE: &str = "coordinator.json";

/// A session that has begun.
pub(super) struct Session {
    pub(super) journal: Journal,
    store: StateStore,
    lock: DeploymentLock,
}

/// The coordinator of a session.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Coordinator {
    lineage: String,
    epoch: u64,
}

impl Session {
    /// Takes the host's lock and begins its journal.
    pub(super) async fn begin(state_dir: &Path, begin: &BeginSession) -> Result<Self, Problem> {
        let location = StateLocation::Dir(state_dir.join("hosts").join(begin.target.as_str()));
        let store = StateStore::new(&location, &begin.app, &begin.environment);
        let request = LockRequest { wait: LockWait::For(LOCK_WAIT), ..LockRequest::new(&begin.by) };
        let mut lock = store.acquire_lock(request).await.map_err(|error| problem(&(&error).into()))?;
        check_coordinator(store.folder(), begin)?;
        end_leftover_programs(&program_records_path(&store.journal_path(0))).await?;
        let loaded = store.load(|_| {}).map_err(|error| problem(&(&error).into()))?;
        let epoch = lock.next_epoch(loaded.state.epoch()).map_err(|error| problem(&(&error).into()))?;
        store.record_loaded(&loaded, lock.staging()).map_err(|error| problem(&(&error).into()))?;
        let header = JournalHeader {
            magic: MAGIC.to_owned(),
            format: FORMAT,
            app: begin.app.clone(),
            environment: begin.environment.clone(),
            run: begin.run.clone(),
            attempt: begin.attempt,
            epoch,
            release: begin.release.clone(),
            runner: env!("CARGO_PKG_VERSION").to_owned(),
            by: begin.by.clone(),
            commit: None,
            url: None,
            machine: None,
        };
        let secrets = begin.secrets.iter().map(|(name, value)| (name.clone(), Secret::new(value.clone())));
        let redactor = Redactor::of_plan(&secrets.collect());
        let path = store.journal_path(epoch);
        let journal = Journal::create_staged(lock.staging(), &path, header, loaded, redactor, Box::new(|_| {}));
        let journal = journal.map_err(|error| problem(&(&error).into()))?;
        Ok(Self { journal, store, lock })
    }

    /// The file that says which programs run.
    pub(super) fn program_records(&self) -> PathBuf {
        program_records_path(self.journal.path())
    }

    /// Whether this agent still holds the lock.
    pub(super) fn check_lock(&self) -> Result<(), Problem> {
        self.lock.check_locally().map_err(|error| problem(&(&error).into()))
    }

    /// Ends the journal, and releases the lock.
    pub(super) async fn end(mut self) {
        if self.check_lock().is_ok() {
            let _ = self.journal.record_end(ExitKind::Success, false);
            let _ = self.store.record_ended(self.journal.state(), self.lock.staging());
        }
        drop(self.journal);
        let _ = self.lock.close(CLOSE_TIMEOUT).await;
    }
}

/// Ends the programs that a killed agent left running.
async fn end_leftover_programs(records: &Path) -> Result<(), Problem> {
    let message = match sandbox::end_leftover_programs(records, |_| {}).await {
        Ok(None) => return Ok(()),
        Ok(Some(program)) => format!(
            "process {} of step `{}` from an earlier attempt is still running on the host",
            program.pid, program.step
        ),
        Err(error) => format!("can't find out which programs run on the host: {error}"),
    };
    let hint = "end it there, then run the command again";
    Err(problem(&Diagnostic::new(ErrorCode::ProgramRunning, message).with_hint(hint)))
}

/// Refuses a coordinator that is older than the last one, and records this one.
fn check_coordinator(folder: &Path, begin: &BeginSession) -> Result<(), Problem> {
    let path = folder.join(COORDINATOR_FILE);
    let failed = |source: io::Error| {
        let message = format!("can't read or write {} on the host", path.display());
        problem(&Diagnostic::new(ErrorCode::StateFolderIo, message).with_cause(source))
    };
    let last: Option<Coordinator> = match std::fs::read(&path) {
        // A file that is no record of a coordinator says nothing.
        Ok(bytes) => serde_json::from_slice(&bytes).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let ours = Coordinator { lineage: begin.lineage.clone(), epoch: begin.epoch };
    if let Some(last) = last.filter(|last| last.lineage == ours.lineage && last.epoch > ours.epoch) {
        let message = format!(
            "a newer attempt (epoch {}) has already deployed to this host; this one has epoch {}",
            last.epoch, ours.epoch
        );
        let hint = "do not repeat this deployment before you have checked `runner history`: a newer one ran";
        return Err(problem(&Diagnostic::new(ErrorCode::LockLost, message).with_hint(hint)));
    }
    let json = serde_json::to_vec(&ours).expect("two plain fields");
    replace_file(&path, &json).map_err(failed)
}

/// What a host's journals say.
pub(super) fn begun_session(state: &JournalState) -> BegunSession {
    let newest = state.attempts.iter().rev().take(MAX_TOLD_ATTEMPTS);
    let attempts = newest.map(|attempt| (attempt.header.run.clone(), attempt.header.attempt)).collect();
    BegunSession { records: host_records(state), attempts }
}

/// What they say of each step.
fn host_records(state: &JournalState) -> Vec<HostRecord> {
    let known = |status: &RecordStatus| match status {
        RecordStatus::Succeeded(receipt) => Some(StepOutcome::Succeeded { receipt: receipt.clone() }),
        RecordStatus::Failed(failure) => Some(StepOutcome::Failed { failure: failure.clone() }),
        RecordStatus::Intended | RecordStatus::Undoing(_) | RecordStatus::Reverted => None,
    };
    let record = |(step_target, record): (&journal::StepTarget, &journal::StepRecord)| HostRecord {
        step_target: step_target.clone(),
        key: record.intent.key.clone(),
        epoch: record.intent.input.get("epoch").and_then(serde_json::Value::as_u64),
        outcome: known(&record.status),
        undone: matches!(record.status, RecordStatus::Reverted),
    };
    state.records.iter().map(record).collect()
}

/// A diagnostic on its way to the coordinator.
pub(super) fn problem(diagnostic: &Diagnostic) -> Problem {
    Problem {
        code: diagnostic.code.to_string(),
        message: diagnostic.message.clone(),
        causes: diagnostic.causes.clone(),
        hint: diagnostic.hint.clone(),
    }
}
