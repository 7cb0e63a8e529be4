//! The lock of a remote place, held: a thread that takes it, renews it, writes the journal there as it grows, and releases it.
//!
//! The thread is the only one that talks to the place, so a loop that is busy, or blocked, keeps its lock, and a place that
//! is slow does not keep the loop from its work. What [`RemoteLock`] asks of it is answered in the order asked. When a write is
//! answered, everything that the journal's file held when it was asked for is there, and the lock was ours at that moment: one
//! compare-and-swap says both. Deliberately absent: rules, which are [`super::lease`]'s.

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
    LockError, LockRequest, StateError, journal_cache, journal_name, journals_in,
    lease::{AcquireAction, Lease, LockAcquirer, LockLossReason, MonotonicTime, ReadBackResult},
    record::{LockRecord, MANIFEST_VERSION, RemoteJournal, StateManifest, random_nonce},
    remote::{RecordUpdate, RecordVersion, RemoteStorage, VersionedRecord},
};
use journal::clock;

/// So often a write is tried that nobody else's explains the failure of.
const MAX_WRITE_ATTEMPTS: u32 = 5;
/// Between two tries.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Whoever drops a lock without closing it waits so long at the most.
const DROP_TIMEOUT: Duration = Duration::from_secs(3);

type LockReply = Box<dyn FnOnce(Result<(), LockError>) + Send>;

enum LockCommand {
    /// Write this journal there, as it grows. Answered when what it holds is there.
    SyncJournal(PathBuf, LockReply),
    /// Answered when all that the journal holds is there, and the lock still ours.
    EnsureHeld(LockReply),
    /// Take an epoch after this one.
    RaiseEpoch(u64, LockReply),
    /// Write everything there, and release.
    Close(LockReply),
}

/// The lock of a remote place.
pub(super) struct RemoteLock {
    commands: Sender<LockCommand>,
    record: Arc<Mutex<LockRecord>>,
    is_closed: bool,
}

impl std::fmt::Debug for RemoteLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("record", &self.record()).finish_non_exhaustive()
    }
}

/// What is to be taken, from where, for whom.
pub(super) struct RemoteLockParams {
    pub(super) location: String,
    pub(super) resource: String,
    pub(super) folder: PathBuf,
    pub(super) ttl: Duration,
    pub(super) request: LockRequest,
}

impl RemoteLock {
    /// Starts the thread and waits until it has the lock, and the journals are here. Dropping the future ends the waiting.
    pub(super) async fn acquire(
        connect: impl FnOnce() -> Result<Box<dyn RemoteStorage>, StateError> + Send + 'static,
        params: RemoteLockParams,
    ) -> Result<Self, LockError> {
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
                    // Nobody waits any more: then nobody must be kept waiting.
                    if cancelled.load(Ordering::Relaxed) || ready.send(Ok(())).is_err() {
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
            Ok(Ok(())) => Ok(Self { commands, record, is_closed: false }),
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

    /// Writes everything there and releases the lock, in so much time.
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
            // What could not be released runs out.
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

/// What the thread has.
struct LockWorker {
    remote: Box<dyn RemoteStorage>,
    location: String,
    folder: PathBuf,
    started_at: Instant,
    lease: Lease,
    manifest: StateManifest,
    version: RecordVersion,
    /// Journals that may be longer here than there.
    synced_journals: Vec<PathBuf>,
    /// Makes names of files unique.
    files_written: u32,
    published_record: Arc<Mutex<LockRecord>>,
}

/// Why nothing was written.
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

/// What becomes of the lock by a write.
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
        remote.verify_conditional_writes()?;
        let nonce = random_nonce().map_err(|error| StateError::Remote {
            action: "lock",
            location: place.clone(),
            why: error.to_string(),
        })?;
        let mut acquirer = LockAcquirer::new(began.elapsed(), request.holder(), nonce, ttl, request.wait, clock::now());
        let (mut tries, mut is_pulled) = (0, false);
        let mut failed: Option<(Option<RecordVersion>, StateError)> = None;
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(LockError::Held { resource, record: None });
            }
            let seen = remote.read_record()?;
            let manifest = parse_manifest(seen.as_ref(), &resource, &place)?;
            let version = seen.map(|seen| seen.version);
            // A write that failed while nobody else wrote: that is no race.
            if let Some((before, error)) = failed.take()
                && before == version
            {
                tries += 1;
                if tries == MAX_WRITE_ATTEMPTS {
                    return Err(error.into());
                }
                thread::sleep(RETRY_DELAY * tries);
            }
            let newest = journals_in(&folder)?.last().map_or(0, |(epoch, _)| *epoch);
            let newest = newest.max(manifest.journals.last().map_or(0, |kept| kept.epoch));
            let (lease, version, root) = match acquirer.on_read(began.elapsed(), &manifest.lock, newest) {
                AcquireAction::GiveUp(record) => return Err(LockError::Held { resource, record: Some(record) }),
                AcquireAction::ReadAt(at) => {
                    sleep_until(began, at, cancelled);
                    continue;
                }
                AcquireAction::Acquired(lease) => match version {
                    Some(version) => (*lease, version, manifest),
                    None => continue,
                },
                AcquireAction::Write(lock) => {
                    if !is_pulled {
                        // Most of what is there comes before the lock is held: it may take long.
                        journal_cache::pull_journals(remote.as_mut(), &manifest, &folder, &place)?;
                        is_pulled = true;
                    }
                    acquirer.on_write_sent(began.elapsed(), &lock);
                    let root = StateManifest { lock, ..manifest };
                    let change = RecordUpdate {
                        expected: version.as_ref(),
                        record: &encode_manifest(&root),
                        files: &[],
                        removed: &[],
                        message: &format!("{resource}: taken, epoch {}", root.lock.epoch),
                    };
                    match (remote.compare_and_swap(&change), acquirer.on_write_confirmed()) {
                        (Ok(version), Some(lease)) => (lease, version, root),
                        (Ok(_), None) => continue,
                        (Err(error), _) => {
                            failed = Some((version, error));
                            continue;
                        }
                    }
                }
            };
            journal_cache::pull_journals(remote.as_mut(), &root, &folder, &place)?;
            journal_cache::replace_newest_journal_file(&folder)?;
            let followed = journals_in(&folder)?.into_iter().map(|(_, path)| path).collect();
            let shown = Arc::new(Mutex::new(root.lock.clone()));
            return Ok(Self {
                remote,
                location: place,
                folder,
                started_at: began,
                lease,
                manifest: root,
                version,
                synced_journals: followed,
                files_written: 0,
                published_record: shown,
            });
        }
    }

    fn now(&self) -> MonotonicTime {
        self.started_at.elapsed()
    }

    /// Does what is asked, and renews meanwhile; until it is released, or nobody can ask any more.
    fn run(&mut self, commands: &Receiver<LockCommand>) {
        loop {
            let pause = self.next_wakeup().saturating_sub(self.now());
            match commands.recv_timeout(pause) {
                Ok(LockCommand::SyncJournal(path, answer)) => {
                    if !self.synced_journals.contains(&path) {
                        self.synced_journals.push(path);
                    }
                    answer(self.write_manifest(LockWriteKind::Renew));
                }
                Ok(LockCommand::EnsureHeld(answer)) => answer(self.write_manifest(LockWriteKind::Renew)),
                Ok(LockCommand::RaiseEpoch(newest, answer)) => {
                    answer(self.write_manifest(LockWriteKind::RaiseEpoch(newest)))
                }
                Ok(LockCommand::Close(answer)) => {
                    let released = self.release();
                    answer(released);
                    self.remote.clean_local_cache();
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let is_due = self.now() >= self.lease.renewal_due();
                    // What fails now is tried again at the next turn; what is lost is told to who asks.
                    if self.lease.check(self.now()).is_ok() && (is_due || self.has_unsynced_lines()) {
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

    /// When something is to be done, if nobody asks: twice between renewals the journal may have grown.
    fn next_wakeup(&mut self) -> MonotonicTime {
        let now = self.now();
        match self.lease.check(now) {
            Ok(()) => self.lease.renewal_due().clamp(now + self.lease.ttl() / 30, now + self.lease.ttl() / 6),
            Err(_) => now + Duration::from_secs(60),
        }
    }

    fn has_unsynced_lines(&self) -> bool {
        self.synced_journals
            .iter()
            .any(|path| matches!(journal_cache::unsynced_part(&self.manifest, path), Ok(Some(_))))
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

    fn write_manifest(&mut self, kind: LockWriteKind) -> Result<(), LockError> {
        self.write_with_retries(kind, true).map_err(|failure| match failure {
            LockWriteError::Lost(lost) => self.lost_error(&lost),
            LockWriteError::State(error) => error.into(),
        })
    }

    fn lost_error(&self, lost: &LockLossReason) -> LockError {
        let record = self.lease.record();
        let why = match lost {
            LockLossReason::Expired => format!(
                "it expired after {} s without a renewal: this process was suspended, or {} was unreachable",
                self.lease.ttl().as_secs_f32(),
                self.location
            ),
            LockLossReason::Taken(record) => {
                let holder = record.holder.as_ref().map_or_else(String::new, ToString::to_string);
                format!("{holder} has held it since {}, with epoch {}", record.since, record.epoch)
            }
            LockLossReason::Released => "an operator released it".to_owned(),
        };
        LockError::Lost { resource: record.resource.clone(), epoch: record.epoch, why }
    }

    /// Writes what has grown, with the lock renewed or released; again and again while the lease lasts, if it `insists`.
    fn write_with_retries(&mut self, kind: LockWriteKind, keeps_trying: bool) -> Result<(), LockWriteError> {
        let mut tries = 0;
        loop {
            let error = match self.write_once(kind) {
                Ok(()) => return Ok(()),
                Err(LockWriteError::Lost(lost)) => return Err(lost.into()),
                Err(LockWriteError::State(error)) => error,
            };
            let before = self.version.clone();
            if let Ok(seen) = self.remote.read_record() {
                let manifest = parse_manifest(seen.as_ref(), &self.manifest.lock.resource, &self.location)?;
                let readback = self.lease.on_read_back(self.now(), Some(&manifest.lock))?;
                if let Some(seen) = seen {
                    (self.version, self.manifest) = (seen.version, manifest);
                }
                self.publish_record();
                if readback == ReadBackResult::Confirmed {
                    return Ok(());
                }
            }
            self.lease.check(self.now())?;
            // A place that answers reads and refuses writes will not change its mind.
            tries = if before == self.version { tries + 1 } else { 0 };
            if !keeps_trying || tries == MAX_WRITE_ATTEMPTS * 4 {
                return Err(error.into());
            }
            thread::sleep((RETRY_DELAY * tries.max(1)).min(self.lease.ttl() / 10));
        }
    }

    fn write_once(&mut self, kind: LockWriteKind) -> Result<(), LockWriteError> {
        let lock = match kind {
            LockWriteKind::Renew => self.lease.next_record(),
            LockWriteKind::RaiseEpoch(newest) => {
                let next = self.lease.next_record();
                LockRecord { epoch: next.epoch.max(newest + 1), ..next }
            }
            LockWriteKind::Release => {
                LockRecord { counter: self.lease.next_record().counter, ..self.lease.record().tombstone(clock::now()) }
            }
        };
        let mut manifest = StateManifest { version: MANIFEST_VERSION, lock: lock.clone(), ..self.manifest.clone() };
        let (mut files, mut dropped) = (Vec::new(), Vec::new());
        for path in &self.synced_journals {
            let Some((mut journal, more)) = journal_cache::unsynced_part(&manifest, path)? else { continue };
            let name =
                format!("{}-{:04}-{}.part", journal_name(journal.epoch), self.files_written, self.file_name_tag());
            self.files_written += 1;
            journal.parts.push(name.clone());
            files.push((name, more));
            insert_by_epoch(&mut manifest.journals, journal);
        }
        if kind == LockWriteKind::Release {
            self.merge_parts(&mut manifest, &mut files, &mut dropped)?;
        }
        let message = match kind {
            LockWriteKind::Release => format!("{}: released, epoch {}", lock.resource, lock.epoch),
            LockWriteKind::Renew | LockWriteKind::RaiseEpoch(_) => {
                format!("{}: epoch {}, {}", lock.resource, lock.epoch, lock.counter)
            }
        };
        self.lease.on_write_sent(self.now(), lock)?;
        let record = encode_manifest(&manifest);
        let change = RecordUpdate {
            expected: Some(&self.version),
            record: &record,
            files: &files,
            removed: &dropped,
            message: &message,
        };
        self.version = self.remote.compare_and_swap(&change)?;
        self.manifest = manifest;
        self.lease.on_write_confirmed(self.now())?;
        self.publish_record();
        Ok(())
    }

    /// Makes one file of the parts of each journal.
    fn merge_parts(
        &self,
        manifest: &mut StateManifest,
        files: &mut Vec<(String, Vec<u8>)>,
        removed: &mut Vec<String>,
    ) -> Result<(), StateError> {
        for journal in manifest.journals.iter_mut().filter(|kept| kept.parts.len() > 1) {
            let path = self.folder.join(journal_name(journal.epoch));
            let mut whole = std::fs::read(&path).map_err(|source| StateError::io("read", &path, source))?;
            whole.truncate(usize::try_from(journal.bytes).unwrap_or(usize::MAX));
            let name = format!("{}-{}", journal_name(journal.epoch), self.file_name_tag());
            for part in std::mem::replace(&mut journal.parts, vec![name.clone()]) {
                let waiting = files.len();
                files.retain(|(file, _)| *file != part);
                if files.len() == waiting {
                    removed.push(part);
                }
            }
            files.push((name, whole));
        }
        Ok(())
    }

    /// In names of files, so that no two holders write to one.
    fn file_name_tag(&self) -> String {
        self.lease.record().nonce.chars().take(8).collect()
    }

    fn publish_record(&self) {
        let mut shown = self.published_record.lock().unwrap_or_else(PoisonError::into_inner);
        // A tombstone names nobody; who asks later asks who it was.
        if !self.lease.record().nonce.is_empty() {
            self.lease.record().clone_into(&mut shown);
        }
    }
}

/// Puts a journal where it belongs in the order of epochs.
fn insert_by_epoch(journals: &mut Vec<RemoteJournal>, journal: RemoteJournal) {
    match journals.binary_search_by_key(&journal.epoch, |kept| kept.epoch) {
        Ok(at) => journals[at] = journal,
        Err(at) => journals.insert(at, journal),
    }
}

/// The record as it was read; an empty one if there is none.
pub(super) fn parse_manifest(
    seen: Option<&VersionedRecord>,
    resource: &str,
    location: &str,
) -> Result<StateManifest, StateError> {
    let Some(seen) = seen else { return Ok(StateManifest::empty(resource)) };
    let broken = |why: String| StateError::InvalidManifest { location: location.to_owned(), why };
    let manifest: StateManifest = serde_json::from_slice(&seen.bytes).map_err(|error| broken(error.to_string()))?;
    if manifest.version != MANIFEST_VERSION {
        return Err(broken(format!("its version is {}; this runner supports version {MANIFEST_VERSION}", manifest.version)));
    }
    if manifest.lock.resource != resource {
        return Err(broken(format!("it belongs to {}, not to {resource}", manifest.lock.resource)));
    }
    Ok(manifest)
}

pub(super) fn encode_manifest(manifest: &StateManifest) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(manifest).expect("records are JSON: their keys are texts");
    text.push(b'\n');
    text
}

/// Sleeps, in short turns, so that nobody who gave up is waited for.
fn sleep_until(began: Instant, at: MonotonicTime, cancelled: &AtomicBool) {
    while !cancelled.load(Ordering::Relaxed) {
        let left = at.saturating_sub(began.elapsed());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}
