//! Who may work on a host: the newest coordinator of a lineage, with one agent.
//!
//! Invariants: a coordinator with a lower epoch than an earlier one of the same lineage is refused. A newer one says first that it is there,
//! so that the agent of an older one begins nothing more; then it makes that agent end, which a stopped or hanging process can't prevent.
//! Epochs of different lineages say nothing about each other, so an agent of another lineage is waited for. Deliberately absent: what the
//! former agent did, which its journal says.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use contract::diagnostic::{Diagnostic, ErrorCode};
use hostio::atomic_file::replace_file;
use sandbox::ProcessIdentity;
use state::{DeploymentLock, LockError, LockRequest, LockWait, StateStore};

use super::{
    session::{folder_problem, problem},
    wire::{EndedAgent, Problem},
};

/// The newest coordinator.
const COORDINATOR_FILE: &str = "coordinator.json";
/// Locked while that is compared and replaced.
const GUARD_FILE: &str = "coordinator.lock";
/// The agent that holds the lock.
const AGENT_FILE: &str = "agent.json";

/// How long an agent of another lineage is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(15);
/// How long an agent may take to end: the longest time after the end of its connection, and a moment.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to be gone after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the lock is tried.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The coordinator of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Coordinator {
    pub(super) lineage: String,
    pub(super) epoch: u64,
}

/// The agent that works in a folder.
#[derive(Debug, Serialize, Deserialize)]
struct WorkingAgent {
    #[serde(flatten)]
    coordinator: Coordinator,
    process: ProcessIdentity,
}

/// Takes the lock of a host for a coordinator. Also returns the agent of an earlier attempt that had to be made to end.
pub(super) async fn take_lock(
    store: &StateStore,
    coordinator: &Coordinator,
    by: &str,
) -> Result<(DeploymentLock, Option<EndedAgent>), Problem> {
    let folder = store.folder();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| folder_problem(folder, error))?;
    raise(folder, coordinator, Moment::BeforeLock)?;
    let mut give_up_at = Instant::now() + LOCK_WAIT;
    let mut ended: Option<(EndedAgent, Instant)> = None;
    let lock = loop {
        let request = LockRequest { wait: LockWait::For(POLL_INTERVAL), ..LockRequest::new(by) };
        match store.acquire_lock(request).await {
            Err(LockError::Held { .. }) if Instant::now() < give_up_at => {}
            Err(error) => return Err(problem(&(&error).into())),
            Ok(lock) => break lock,
        }
        let former: Option<WorkingAgent> = read(&folder.join(AGENT_FILE))?;
        let Some(former) = former.filter(|former| former.coordinator.lineage == coordinator.lineage) else { continue };
        match &mut ended {
            None if former.process.signal(Signal::TERM) => {
                let kill_at = Instant::now() + END_TIMEOUT;
                give_up_at = kill_at + KILL_TIMEOUT;
                let (pid, epoch) = (former.process.pid(), former.coordinator.epoch);
                ended = Some((EndedAgent { pid, epoch, was_killed: false }, kill_at));
            }
            Some((agent, kill_at)) if Instant::now() >= *kill_at && agent.pid == former.process.pid() => {
                agent.was_killed |= former.process.signal(Signal::KILL);
            }
            None | Some(_) => {}
        }
    };
    raise(folder, coordinator, Moment::AfterLock)?;
    let process = ProcessIdentity::of(std::process::id()).map_err(|error| folder_problem(Path::new("/proc"), error))?;
    write(&folder.join(AGENT_FILE), &WorkingAgent { coordinator: coordinator.clone(), process })?;
    Ok((lock, ended.map(|(agent, _)| agent)))
}

/// Refuses an effect of a coordinator when a newer one of its lineage has come.
pub(super) fn check(folder: &Path, coordinator: &Coordinator) -> Result<(), Problem> {
    match read(&folder.join(COORDINATOR_FILE))? {
        Some(last) => refuse_older(&last, coordinator),
        None => Ok(()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    BeforeLock,
    AfterLock,
}

/// Refuses a coordinator that is older than the last one, and records this one: before it has the lock only in place of one of its lineage,
/// since that of another may go on.
fn raise(folder: &Path, coordinator: &Coordinator, moment: Moment) -> Result<(), Problem> {
    let path = folder.join(COORDINATOR_FILE);
    let guard = File::create(folder.join(GUARD_FILE)).and_then(|guard| {
        flock(&guard, FlockOperation::LockExclusive)?;
        Ok(guard)
    });
    let _guard = guard.map_err(|error| folder_problem(&path, error))?;
    if let Some(last) = read::<Coordinator>(&path)? {
        refuse_older(&last, coordinator)?;
        if last == *coordinator || last.lineage != coordinator.lineage && moment == Moment::BeforeLock {
            return Ok(());
        }
    }
    write(&path, coordinator)
}

fn refuse_older(last: &Coordinator, ours: &Coordinator) -> Result<(), Problem> {
    if last.lineage != ours.lineage || last.epoch <= ours.epoch {
        return Ok(());
    }
    let message = format!(
        "a newer attempt (epoch {}) has already deployed to this host; this one has epoch {}",
        last.epoch, ours.epoch
    );
    let hint = "do not repeat this deployment before you have checked `runner history`: a newer one ran";
    Err(problem(&Diagnostic::new(ErrorCode::LockLost, message).with_hint(hint)))
}

/// What a file says; nothing if it is not there or was not written by an agent.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Problem> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(folder_problem(path, error)),
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), Problem> {
    let json = serde_json::to_vec(value).expect("plain fields");
    replace_file(path, &json).map_err(|error| folder_problem(path, error))
}
