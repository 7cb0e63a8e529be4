//! The agent's session: its lock and journal on the host, for one attempt of a coordinator.
//!
//! The folder is a state folder like that of a `dir:` state, `hosts/<target>/<app>/<environment>` below the user's state. Who may work in
//! it, [`fence`](super::fence) says.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use contract::{
    AppName, EnvironmentName, Secret, TargetName,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    step::StepOutcome,
};
use journal::{
    Journal, JournalState, RecordStatus, Redactor,
    event::{FORMAT, JournalHeader, MAGIC, Release},
};
use plan::StateLocation;
use state::{DeploymentLock, LockStatus, StateStore};

use super::{
    confirmation,
    fence::{self, Coordinator},
    wire::{AgentPlace, BeginSession, BegunSession, EndedAgent, HostRecord, Problem},
};
use crate::deploy::program_records_path;

/// How long a confirmation waits for a call that is being made: an agent whose connection has ended ends in this time.
const CONFIRM_WAIT: Duration = Duration::from_secs(15);
/// The longest time to release the lock.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Where the folders of all sessions are, in the runner's folder in the user's state.
const HOSTS_DIR: &str = "hosts";
/// How many attempts a coordinator is told of: more than can have been cut off one after the other.
const MAX_TOLD_ATTEMPTS: usize = 100;

/// A session that has begun.
pub(super) struct Session {
    pub(super) journal: Journal,
    store: StateStore,
    lock: DeploymentLock,
    coordinator: Coordinator,
}

impl Session {
    /// Takes the host's lock and begins its journal. Also returns the agent that it made to end.
    pub(super) async fn begin(state_dir: &Path, begin: &BeginSession) -> Result<(Self, Option<EndedAgent>), Problem> {
        let store = store(state_dir, &begin.target, &begin.app, &begin.environment);
        let coordinator = Coordinator { lineage: begin.lineage.clone(), epoch: begin.epoch };
        let (mut lock, ended_agent) = fence::take_lock(&store, &coordinator, &begin.by).await?;
        confirmation::remove_leftovers(store.folder()).map_err(|error| folder_problem(store.folder(), error))?;
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
        Ok((Self { journal, store, lock, coordinator }, ended_agent))
    }

    /// The folder that it works in.
    pub(super) fn folder(&self) -> &Path {
        self.store.folder()
    }

    /// The file that says which programs run.
    pub(super) fn program_records(&self) -> PathBuf {
        program_records_path(self.journal.path())
    }

    /// Whether this agent still holds the lock, and its coordinator is the newest.
    pub(super) fn check_lock(&self) -> Result<(), Problem> {
        self.lock.check_locally().map_err(|error| problem(&(&error).into()))?;
        fence::check(self.store.folder(), &self.coordinator)
    }

    /// Ends the journal, and releases the lock.
    pub(super) async fn end(mut self) {
        if self.lock.check_locally().is_ok() {
            let _ = self.journal.record_end(ExitKind::Success, false);
            let _ = self.store.record_ended(self.journal.state(), self.lock.staging());
        }
        drop(self.journal);
        let _ = self.lock.close(CLOSE_TIMEOUT).await;
    }
}

/// Confirms a call that an agent of this host makes or has made, over a new connection. Returns whether it counts.
pub(super) async fn confirm(
    state_dir: &Path,
    (target, app, environment): (&TargetName, &AppName, &EnvironmentName),
    key: &str,
    epoch: u64,
) -> bool {
    let store = store(state_dir, target, app, environment);
    let give_up_at = Instant::now() + CONFIRM_WAIT;
    let is_agent_working = || {
        let status = store.lock_status(false);
        Instant::now() < give_up_at && status.is_ok_and(|(_, status)| status == LockStatus::Held)
    };
    confirmation::confirm(store.folder(), key, epoch, is_agent_working).await
}

fn store(state_dir: &Path, target: &TargetName, app: &AppName, environment: &EnvironmentName) -> StateStore {
    StateStore::new(&StateLocation::Dir(state_dir.join(HOSTS_DIR).join(target.as_str())), app, environment)
}

/// Whether a session can keep its folder below the runner's folder in the user's state, which need not be there yet.
pub(super) fn check_folder(state_dir: &Path) -> Result<(), Problem> {
    let hosts = state_dir.join(HOSTS_DIR);
    let Some(existing) = hosts.ancestors().find(|folder| folder.exists()) else { return Ok(()) };
    rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).map_err(|errno| {
        let message = format!("the agent can't keep its records in {} on the host", hosts.display());
        let hint = "give the user write access to it, or set `XDG_STATE_HOME` for the user's ssh sessions (`SetEnv` in sshd's configuration)";
        let diagnostic = Diagnostic::new(ErrorCode::ResourceNotReady, message).with_hint(hint);
        problem(&diagnostic.with_cause(format!("{}: {}", existing.display(), io::Error::from(errno))))
    })
}

/// The problem of a file in the folder of a session.
pub(super) fn folder_problem(path: &Path, source: io::Error) -> Problem {
    let message = format!("can't read or write {} on the host", path.display());
    problem(&Diagnostic::new(ErrorCode::StateFolderIo, message).with_cause(source))
}

/// The release that a target shows by the host's own records. It needs no lock, and changes nothing.
pub(super) fn live_release(state_dir: &Path, place: &AgentPlace) -> Result<Option<Release>, Problem> {
    let loaded = store(state_dir, &place.target, &place.app, &place.environment)
        .load(|_| {})
        .map_err(|error| problem(&(&error).into()))?;
    Ok(loaded.state.head.live_on(&place.target).cloned())
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

/// What a host's journals say.
pub(super) fn begun_session(state: &JournalState) -> BegunSession {
    let newest = state.attempts.iter().rev().take(MAX_TOLD_ATTEMPTS);
    let attempts = newest.map(|attempt| (attempt.header.run.clone(), attempt.header.attempt)).collect();
    BegunSession { records: host_records(state), ended_agent: None, attempts }
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
