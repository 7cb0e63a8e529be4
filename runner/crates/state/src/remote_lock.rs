//! The held lock of a remote state: a thread acquires it, renews it, uploads the journal as it grows, and releases it.
//!
//! Only this thread talks to the remote. So a busy or blocked async runtime does not lose the lock, and a slow remote
//! does not block the runtime. The thread answers the commands of [`RemoteLock`] in order. When it confirms a write,
//! the remote has everything that the journal held at the time of the command, and the lock was held: one
//! compare-and-swap proves both. A renewal writes the lock only. Deliberately absent: the rules, which are in
//! [`super::lease`], and what is uploaded, which is in [`super::upload`].

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    LockError, LockRequest, StateError,
    journal_cache::{self, LocalCopy},
    journals_in,
    lease::{AcquireAction, Lease, LockAcquirer, LockLossReason, MonotonicTime, ReadBackResult},
    record::{ForcedRelease, HoldingNonces, LockRecord},
    remote::{RecordUpdate, RecordVersion, RemoteRecord, RemoteStorage},
    upload::{LocalJournals, UploadScope},
};
use journal::clock;

/// How often a write is retried when no concurrent write explains its failure.
const MAX_WRITE_ATTEMPTS: u32 = 5;
/// The pause between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// How long such a call is repeated.
const MAX_RETRY_TIME: Duration = Duration::from_secs(10);
/// How long dropping an unclosed lock waits for its release.
const DROP_TIMEOUT: Duration = Duration::from_secs(3);

type LockReply = Box<dyn FnOnce(Result<(), LockError>) + Send>;

enum LockCommand {
    /// Uploads this journal as it grows, soon or with the next command.
    SyncJournal(PathBuf, LockReply),
    /// The reply comes when the journal's current content is uploaded and the lock is still held.
    EnsureHeld(LockReply),
    /// Takes an epoch after this one.
    RaiseEpoch(u64, LockReply),
    /// Uploads everything and releases the lock.
    Close(LockReply),
}

/// A handle on the thread that holds a remote lock.
pub(super) struct RemoteLock {
    commands: Sender<LockCommand>,
    record: Arc<Mutex<LockRecord>>,
    is_closed: bool,
}

impl std::fmt::Debug for RemoteLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteLock").field("record", &self.record()).finish_non_exhaustive()
    }
}

/// The lock to acquire, the remote, and the requester.
pub(super) struct RemoteLockParams {
    pub(super) location: String,
    pub(super) resource: String,
    pub(super) folder: PathBuf,
    pub(super) ttl: Duration,
    pub(super) request: LockRequest,
}

impl RemoteLock {
    /// Starts the thread and waits until it holds the lock and has downloaded the newest journals. Returns also what the
    /// remote has. Dropping the future cancels it.
    pub(super) async fn acquire(
        connect: impl FnOnce() -> Result<Box<dyn RemoteStorage>, StateError> + Send + 'static,
        params: RemoteLockParams,
    ) -> Result<(Self, RemoteRecord), LockError> {
        let (commands, receiver) = channel();
        let (ready, taken) = tokio::sync::oneshot::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let _cancel = CancelOnDrop(Arc::clone(&cancelled));
        let record = Arc::new(Mutex::new(LockRecord::never_held(&params.resource, clock::now())));
        let published_record = Arc::clone(&record);
        let resource = params.resource.clone();
        let spawned = thread::Builder::new().name("pawl-state".to_owned()).spawn(move || {
            let taken =
                connect().map_err(LockError::from).and_then(|remote| LockWorker::acquire(remote, params, &cancelled));
            match taken {
                Ok(mut worker) => {
                    worker.published_record = published_record;
                    worker.publish_record();
                    // The requester is gone: release the lock, so that it blocks nobody.
                    if cancelled.load(Ordering::Relaxed) || ready.send(Ok(worker.state.clone())).is_err() {
                        let _ = worker.release();
                    } else {
                        worker.run(&receiver);
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        spawned.map_err(|source| LockError::Io { path: PathBuf::from(resource.as_str()), source })?;
        match taken.await {
            Ok(Ok(state)) => Ok((Self { commands, record, is_closed: false }, state)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(worker_stopped_error(&resource, 0)),
        }
    }

    pub(super) fn record(&self) -> LockRecord {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn sync_journal(&self, journal: PathBuf) -> Result<(), LockError> {
        self.send_command(|answer| LockCommand::SyncJournal(journal, answer)).await
    }

    pub(super) async fn ensure_held(&self) -> Result<(), LockError> {
        self.send_command(LockCommand::EnsureHeld).await
    }

    pub(super) fn raise_epoch(&self, newest: u64) -> Result<(), LockError> {
        let (answer, answered) = channel();
        let answer: LockReply = Box::new(move |result| drop(answer.send(result)));
        let record = self.record();
        let lost = || worker_stopped_error(&record.resource, record.epoch);
        self.commands.send(LockCommand::RaiseEpoch(newest, answer)).map_err(|_| lost())?;
        answered.recv().map_err(|_| lost())?
    }

    /// Uploads everything and releases the lock within a time limit.
    pub(super) async fn close(mut self, within: Duration, location: &str) -> Result<(), LockError> {
        self.is_closed = true;
        let record = self.record();
        match tokio::time::timeout(within, self.send_command(LockCommand::Close)).await {
            Ok(result) => result,
            Err(_) => Err(LockError::FinalWriteFailed {
                resource: record.resource,
                epoch: record.epoch,
                location: location.to_owned(),
                why: format!("it timed out after {} s", within.as_secs()),
            }),
        }
    }

    async fn send_command(&self, command: impl FnOnce(LockReply) -> LockCommand) -> Result<(), LockError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let answer: LockReply = Box::new(move |result| drop(answer.send(result)));
        let record = self.record();
        let lost = || worker_stopped_error(&record.resource, record.epoch);
        self.commands.send(command(answer)).map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }
}

impl Drop for RemoteLock {
    fn drop(&mut self) {
        if self.is_closed {
            return;
        }
        let (answer, answered) = channel();
        let answer: LockReply = Box::new(move |result| drop(answer.send(result)));
        if self.commands.send(LockCommand::Close(answer)).is_ok() {
            // A lock that could not be released expires by itself.
            let _ = answered.recv_timeout(DROP_TIMEOUT);
        }
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn worker_stopped_error(resource: &str, epoch: u64) -> LockError {
    LockError::Lost { resource: resource.to_owned(), epoch, why: "the thread that holds the lock has ended".to_owned() }
}

/// The state of the thread.
struct LockWorker {
    remote: Box<dyn RemoteStorage>,
    location: String,
    started_at: Instant,
    lease: Lease,
    /// What the remote has.
    state: RemoteRecord,
    journals: LocalJournals,
    published_record: Arc<Mutex<LockRecord>>,
    /// Why the last write failed; none once one succeeds.
    last_failure: Option<String>,
}

/// Why a write failed.
enum LockWriteError {
    Lost(LockLossReason),
    State(StateError),
}

impl From<LockLossReason> for LockWriteError {
    fn from(lost: LockLossReason) -> Self {
        Self::Lost(lost)
    }
}

impl From<StateError> for LockWriteError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// What a write does with the lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LockWriteKind {
    Renew,
    RaiseEpoch(u64),
    Release,
}

impl LockWorker {
    fn acquire(
        mut remote: Box<dyn RemoteStorage>,
        params: RemoteLockParams,
        cancelled: &AtomicBool,
    ) -> Result<Self, LockError> {
        let RemoteLockParams { location: place, resource, folder, ttl, request } = params;
        let began = Instant::now();
        retried(|| remote.verify_conditional_writes())?;
        let nonces = HoldingNonces::random().map_err(|error| StateError::Remote {
            action: "lock",
            location: place.clone(),
            why: error.to_string(),
        })?;
        let mut acquirer =
            LockAcquirer::new(began.elapsed(), request.holder(), nonces, ttl, request.wait, clock::now());
        let copy = LocalCopy { folder: &folder, location: &place };
        let mut notices = super::WaitNotices::new(request.observer.clone());
        let (mut tries, mut is_pulled) = (0, false);
        let mut failed: Option<(RecordVersion, StateError)> = None;
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(LockError::Held { resource, record: None });
            }
            let seen = retried(|| remote.read_record())?;
            // A write failed although nobody else wrote, so this was not a race.
            if let Some((before, error)) = failed.take()
                && before == seen.version
            {
                tries += 1;
                if tries == MAX_WRITE_ATTEMPTS {
                    return Err(error.into());
                }
                thread::sleep(RETRY_DELAY * tries);
            }
            let newest = journals_in(&folder)?.last().map_or(0, |(epoch, _)| *epoch);
            let newest = newest.max(seen.manifest.newest_epoch());
            let (lease, state) = match acquirer.on_read(began.elapsed(), &seen.lock, newest) {
                AcquireAction::GiveUp(record) => return Err(LockError::Held { resource, record: Some(record) }),
                AcquireAction::ReadAt(at) => {
                    if seen.lock.holder.is_some() {
                        notices.waiting(&seen.lock, began.elapsed());
                    }
                    sleep_until(began, at, cancelled);
                    continue;
                }
                AcquireAction::Acquired(lease) => (*lease, seen),
                AcquireAction::Write(lock) => {
                    if !is_pulled {
                        // Most files are downloaded before the lock is held, because it may take long. The holder may replace
                        // them meanwhile; what is missing is downloaded under the lock.
                        match copy.pull_recent(remote.as_mut(), &seen) {
                            Ok(()) | Err(StateError::Remote { .. } | StateError::RemoteFileMissing { .. }) => {
                                is_pulled = true;
                            }
                            Err(error) => return Err(error.into()),
                        }
                    }
                    acquirer.on_write_sent(began.elapsed(), &lock);
                    let message = format!("{resource}: taken, epoch {}", lock.epoch);
                    let change = RecordUpdate::of_lock(&seen, &lock, &message);
                    match (remote.compare_and_swap(&change), acquirer.on_write_confirmed()) {
                        (Ok(version), Some(lease)) => {
                            (lease, RemoteRecord { version, lock, manifest: seen.manifest, needs_manifest: false })
                        }
                        (Ok(_), None) => continue,
                        (Err(error), _) => {
                            failed = Some((seen.version, error));
                            continue;
                        }
                    }
                }
            };
            let prepared = copy
                .pull_recent(remote.as_mut(), &state)
                .and_then(|()| journal_cache::seal_newest_journal(&folder, lease.record().epoch))
                .and_then(|()| LocalJournals::ahead_of(&state.manifest, &folder));
            let journals = match prepared {
                Ok(journals) => journals,
                Err(error) => {
                    // Without it, the next deployment would wait for a lease. Nothing here is uploaded.
                    let lock = lease.released_record(clock::now());
                    let message = format!("{resource}: released, epoch {}", lock.epoch);
                    let _ = remote.compare_and_swap(&RecordUpdate::of_lock(&state, &lock, &message));
                    return Err(error.into());
                }
            };
            let shown = Arc::new(Mutex::new(state.lock.clone()));
            return Ok(Self {
                remote,
                location: place,
                started_at: began,
                lease,
                state,
                journals,
                published_record: shown,
                last_failure: None,
            });
        }
    }

    fn now(&self) -> MonotonicTime {
        self.started_at.elapsed()
    }

    /// Executes commands and renews the lock in between, until the lock is released or all handles are gone.
    fn run(&mut self, commands: &Receiver<LockCommand>) {
        // Now, while the deployment prepares its first step: when the lock is released, the process may end at once.
        self.remote.clean_local_cache();
        let mut next = None;
        loop {
            let pause = self.next_wakeup().saturating_sub(self.now());
            match next.take().map_or_else(|| commands.recv_timeout(pause), Ok) {
                Ok(LockCommand::SyncJournal(path, answer)) => {
                    self.journals.add(path);
                    answer(Ok(()));
                }
                Ok(LockCommand::EnsureHeld(answer)) => next = self.ensure_held(answer, commands),
                Ok(LockCommand::RaiseEpoch(newest, answer)) => {
                    answer(self.write(LockWriteKind::RaiseEpoch(newest), true))
                }
                Ok(LockCommand::Close(answer)) => {
                    answer(self.release());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let is_due = self.now() >= self.lease.renewal_due();
                    // A failed renewal is retried in the next turn. The next command reports a lost lock.
                    if self.lease.check(self.now()).is_ok()
                        && (is_due || self.journals.has_new_lines(&self.state.manifest))
                    {
                        let _ = self.write_with_retries(LockWriteKind::Renew, false);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = self.release();
                    return;
                }
            }
        }
    }

    /// Confirms the lock for all who wait for that now, with one write: a step begins on many hosts at once. Returns the command after
    /// them.
    fn ensure_held(&mut self, answer: LockReply, commands: &Receiver<LockCommand>) -> Option<LockCommand> {
        let (mut answers, mut next) = (vec![answer], None);
        while let Ok(command) = commands.try_recv() {
            match command {
                LockCommand::EnsureHeld(answer) => answers.push(answer),
                LockCommand::SyncJournal(..) | LockCommand::RaiseEpoch(..) | LockCommand::Close(_) => {
                    next = Some(command);
                    break;
                }
            }
        }
        let mut is_held = false;
        for (index, answer) in answers.into_iter().enumerate() {
            // After a failure, each is told so by one try of its own: the first has tried for as long as the lease allows.
            let result = if is_held { Ok(()) } else { self.write(LockWriteKind::Renew, index == 0) };
            is_held = result.is_ok();
            answer(result);
        }
        next
    }

    /// When to wake up without a command: also between renewals, because the journal may have grown.
    fn next_wakeup(&mut self) -> MonotonicTime {
        let now = self.now();
        match self.lease.check(now) {
            Ok(()) => self.lease.renewal_due().clamp(now + self.lease.ttl() / 30, now + self.lease.ttl() / 6),
            Err(_) => now + Duration::from_secs(60),
        }
    }

    fn release(&mut self) -> Result<(), LockError> {
        match self.write_with_retries(LockWriteKind::Release, true) {
            Ok(()) => Ok(()),
            Err(LockWriteError::Lost(lost)) => Err(self.lost_error(&lost)),
            Err(LockWriteError::State(error)) => Err(LockError::FinalWriteFailed {
                resource: self.lease.record().resource.clone(),
                epoch: self.lease.record().epoch,
                location: self.location.clone(),
                why: error.reason(),
            }),
        }
    }

    fn write(&mut self, kind: LockWriteKind, keeps_trying: bool) -> Result<(), LockError> {
        self.write_with_retries(kind, keeps_trying).map_err(|failure| match failure {
            LockWriteError::Lost(lost) => self.lost_error(&lost),
            LockWriteError::State(error) => error.into(),
        })
    }

    fn lost_error(&self, lost: &LockLossReason) -> LockError {
        let record = self.lease.record();
        let forced = || ForcedRelease::reason(&self.state.manifest.released, record.epoch);
        let why = match lost {
            LockLossReason::Expired => {
                let why = match &self.last_failure {
                    Some(why) => format!("{} did not take one: {why}", self.location),
                    None => format!("this process was suspended, or {} was unreachable", self.location),
                };
                format!("it expired after {} s without a renewal: {why}", self.lease.ttl().as_secs_f32())
            }
            LockLossReason::Taken(record) => forced().unwrap_or_else(|| {
                let holder = record.holder.as_ref().map_or_else(String::new, ToString::to_string);
                format!("{holder} has held it since {}, with epoch {}", record.since, record.epoch)
            }),
            LockLossReason::Released => forced().unwrap_or_else(|| "an operator released it".to_owned()),
        };
        LockError::Lost { resource: record.resource.clone(), epoch: record.epoch, why }
    }

    /// Uploads new lines and renews or releases the lock. With `keeps_trying`, it retries as long as the lease lasts.
    fn write_with_retries(&mut self, kind: LockWriteKind, keeps_trying: bool) -> Result<(), LockWriteError> {
        let mut tries = 0;
        loop {
            let error = match self.write_once(kind) {
                Ok(()) => {
                    self.last_failure = None;
                    return Ok(());
                }
                Err(LockWriteError::Lost(lost)) => return Err(lost.into()),
                Err(LockWriteError::State(error)) => error,
            };
            self.last_failure = Some(error.reason());
            let before = self.state.version.clone();
            if let Ok(seen) = self.remote.read_record() {
                let readback = self.lease.on_read_back(self.now(), Some(&seen.lock));
                // Also when the lock is lost: the manifest tells who took it, and why.
                self.state = seen;
                let readback = readback?;
                self.publish_record();
                // The lock may be there without the data: a host that crashed moved only one of two refs.
                if readback == ReadBackResult::Confirmed && !self.has_changes(kind)? {
                    return Ok(());
                }
            }
            self.lease.check(self.now())?;
            // A remote that answers reads but rejects writes will keep rejecting them.
            tries = if before == self.state.version { tries + 1 } else { 0 };
            if !keeps_trying || tries == MAX_WRITE_ATTEMPTS * 4 {
                return Err(error.into());
            }
            thread::sleep((RETRY_DELAY * tries.max(1)).min(self.lease.ttl() / 10));
        }
    }

    fn has_changes(&self, kind: LockWriteKind) -> Result<bool, StateError> {
        Ok(self.journals.changes(self.remote.as_ref(), &self.state.manifest, self.scope(kind))?.is_some())
    }

    /// What a write uploads. An empty remote gets everything at once, so that no part of it is taken for the whole.
    fn scope(&self, kind: LockWriteKind) -> UploadScope {
        match kind {
            LockWriteKind::Release => UploadScope::Everything,
            LockWriteKind::Renew | LockWriteKind::RaiseEpoch(_) if self.state.manifest.is_empty() => {
                UploadScope::Everything
            }
            LockWriteKind::Renew | LockWriteKind::RaiseEpoch(_) => UploadScope::Journals,
        }
    }

    fn write_once(&mut self, kind: LockWriteKind) -> Result<(), LockWriteError> {
        let lock = match kind {
            LockWriteKind::Renew => self.lease.next_record(),
            LockWriteKind::RaiseEpoch(newest) => {
                let next = self.lease.next_record();
                LockRecord { epoch: next.epoch.max(newest + 1), ..next }
            }
            LockWriteKind::Release => self.lease.released_record(clock::now()),
        };
        let change = self.journals.changes(self.remote.as_ref(), &self.state.manifest, self.scope(kind))?;
        let message = match kind {
            LockWriteKind::Release => format!("{}: released, epoch {}", lock.resource, lock.epoch),
            LockWriteKind::Renew | LockWriteKind::RaiseEpoch(_) => {
                format!("{}: epoch {}, {}", lock.resource, lock.epoch, lock.counter)
            }
        };
        self.lease.on_write_sent(self.now(), lock.clone())?;
        let kept = self.state.needs_manifest.then_some(&self.state.manifest);
        let update = RecordUpdate {
            expected: &self.state,
            lock: &lock,
            manifest: change.as_ref().map(|change| &change.manifest).or(kept),
            files: change.as_ref().map_or(&[], |change| &change.files),
            removed: change.as_ref().map_or(&[], |change| &change.removed),
            archives: change.as_ref().map_or(&[], |change| &change.archives),
            message: &message,
        };
        let version = self.remote.compare_and_swap(&update)?;
        let manifest = change.map_or_else(|| self.state.manifest.clone(), |change| change.manifest);
        self.state = RemoteRecord { version, lock, manifest, needs_manifest: false };
        self.lease.on_write_confirmed(self.now())?;
        self.publish_record();
        Ok(())
    }

    fn publish_record(&self) {
        let mut shown = self.published_record.lock().unwrap_or_else(PoisonError::into_inner);
        // A tombstone names no holder, but later callers ask who the holder was.
        if self.lease.record().holder.is_some() {
            self.lease.record().clone_into(&mut shown);
        }
    }
}

/// Repeats a call that failed fast, before the lock is held: a busy server drops connections.
fn retried<T>(mut call: impl FnMut() -> Result<T, StateError>) -> Result<T, StateError> {
    let (began, mut tries) = (Instant::now(), 0);
    loop {
        tries += 1;
        match call() {
            Err(
                StateError::Remote { .. }
                | StateError::RemoteFileMissing { .. }
                | StateError::NoConditionalWrites { .. },
            ) if tries < MAX_WRITE_ATTEMPTS && began.elapsed() < MAX_RETRY_TIME => {
                thread::sleep(RETRY_DELAY * tries);
            }
            result => return result,
        }
    }
}

/// Sleeps in short steps, so that a cancelled request ends soon.
fn sleep_until(began: Instant, at: MonotonicTime, cancelled: &AtomicBool) {
    while !cancelled.load(Ordering::Relaxed) {
        let left = at.saturating_sub(began.elapsed());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}
