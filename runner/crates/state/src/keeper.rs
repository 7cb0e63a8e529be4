//! The lock of a remote place, held: a thread that takes it, renews it, writes the journal there as it grows, and releases it.
//!
//! The thread is the only one that talks to the place, so a loop that is busy, or blocked, keeps its lock, and a place that
//! is slow does not keep the loop from its work. What [`Keeper`] asks of it is answered in the order asked. When a write is
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
    Claim, LockError, StateError, cache, journal_name, journals_in,
    lease::{Lease, Lost, Moment, Next, Readback, Taker},
    record::{Kept, LockRecord, Root, VERSION, nonce},
    remote::{Change, Remote, Seen, Version},
};
use journal::clock;

/// So often a write is tried that nobody else's explains the failure of.
const TRIES: u32 = 5;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// Whoever drops a lock without closing it waits so long at the most.
const FAREWELL: Duration = Duration::from_secs(3);

type Answer = Box<dyn FnOnce(Result<(), LockError>) + Send>;

enum Command {
    /// Write this journal there, as it grows. Answered when what it holds is there.
    Follow(PathBuf, Answer),
    /// Answered when all that the journal holds is there, and the lock still ours.
    Confirm(Answer),
    /// Take an epoch after this one.
    Raise(u64, Answer),
    /// Write everything there, and release.
    Close(Answer),
}

/// The lock of a remote place.
pub(super) struct Keeper {
    commands: Sender<Command>,
    record: Arc<Mutex<LockRecord>>,
    is_closed: bool,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("record", &self.record()).finish_non_exhaustive()
    }
}

/// What is to be taken, from where, for whom.
pub(super) struct Taking {
    pub(super) place: String,
    pub(super) resource: String,
    pub(super) folder: PathBuf,
    pub(super) ttl: Duration,
    pub(super) claim: Claim,
}

impl Keeper {
    /// Starts the thread and waits until it has the lock, and the journals are here. Dropping the future ends the waiting.
    pub(super) async fn take(
        connect: impl FnOnce() -> Result<Box<dyn Remote>, StateError> + Send + 'static,
        taking: Taking,
    ) -> Result<Self, LockError> {
        let (commands, orders) = channel();
        let (ready, taken) = tokio::sync::oneshot::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let _cancel = CancelOnDrop(Arc::clone(&cancelled));
        let record = Arc::new(Mutex::new(LockRecord::untaken(&taking.resource, clock::now())));
        let shown = Arc::clone(&record);
        let resource = taking.resource.clone();
        let spawned = thread::Builder::new().name("pawl-state".to_owned()).spawn(move || {
            let taken = connect().map_err(LockError::from).and_then(|remote| Keep::take(remote, taking, &cancelled));
            match taken {
                Ok(mut keep) => {
                    keep.shown = shown;
                    keep.show();
                    // Nobody waits any more: then nobody must be kept waiting.
                    if cancelled.load(Ordering::Relaxed) || ready.send(Ok(())).is_err() {
                        let _ = keep.release();
                    } else {
                        keep.serve(&orders);
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        spawned.map_err(|source| LockError::Io { path: PathBuf::from(resource.as_str()), source })?;
        match taken.await {
            Ok(Ok(())) => Ok(Self { commands, record, is_closed: false }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(gone(&resource, 0)),
        }
    }

    pub(super) fn record(&self) -> LockRecord {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn follow(&self, journal: PathBuf) -> Result<(), LockError> {
        self.ask(|answer| Command::Follow(journal, answer)).await
    }

    pub(super) async fn confirm(&self) -> Result<(), LockError> {
        self.ask(Command::Confirm).await
    }

    pub(super) fn raise(&self, newest: u64) -> Result<(), LockError> {
        let (answer, answered) = channel();
        let answer: Answer = Box::new(move |result| drop(answer.send(result)));
        let record = self.record();
        let lost = || gone(&record.resource, record.epoch);
        self.commands.send(Command::Raise(newest, answer)).map_err(|_| lost())?;
        answered.recv().map_err(|_| lost())?
    }

    /// Writes everything there and releases the lock, in so much time.
    pub(super) async fn close(mut self, within: Duration, place: &str) -> Result<(), LockError> {
        self.is_closed = true;
        let record = self.record();
        match tokio::time::timeout(within, self.ask(Command::Close)).await {
            Ok(result) => result,
            Err(_) => Err(LockError::Unacknowledged {
                resource: record.resource,
                epoch: record.epoch,
                place: place.to_owned(),
                why: format!("it took longer than {} s", within.as_secs()),
            }),
        }
    }

    async fn ask(&self, command: impl FnOnce(Answer) -> Command) -> Result<(), LockError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let answer: Answer = Box::new(move |result| drop(answer.send(result)));
        let record = self.record();
        let lost = || gone(&record.resource, record.epoch);
        self.commands.send(command(answer)).map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.is_closed {
            return;
        }
        let (answer, answered) = channel();
        let answer: Answer = Box::new(move |result| drop(answer.send(result)));
        if self.commands.send(Command::Close(answer)).is_ok() {
            // What could not be released runs out.
            let _ = answered.recv_timeout(FAREWELL);
        }
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn gone(resource: &str, epoch: u64) -> LockError {
    LockError::Lost { resource: resource.to_owned(), epoch, why: "the thread that holds it has ended".to_owned() }
}

/// What the thread has.
struct Keep {
    remote: Box<dyn Remote>,
    place: String,
    folder: PathBuf,
    began: Instant,
    lease: Lease,
    root: Root,
    version: Version,
    /// Journals that may be longer here than there.
    followed: Vec<PathBuf>,
    /// Makes names of files unique.
    written: u32,
    shown: Arc<Mutex<LockRecord>>,
}

/// Why nothing was written.
enum Failure {
    Lost(Lost),
    State(StateError),
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// What becomes of the lock by a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    Renew,
    Raise(u64),
    Release,
}

impl Keep {
    fn take(mut remote: Box<dyn Remote>, taking: Taking, cancelled: &AtomicBool) -> Result<Self, LockError> {
        let Taking { place, resource, folder, ttl, claim } = taking;
        let began = Instant::now();
        remote.probe()?;
        let nonce = nonce().map_err(|error| StateError::Remote {
            action: "lock",
            place: place.clone(),
            why: error.to_string(),
        })?;
        let mut taker = Taker::new(began.elapsed(), claim.holder(), nonce, ttl, claim.wait, clock::now());
        let (mut tries, mut is_here) = (0, false);
        let mut failed: Option<(Option<Version>, StateError)> = None;
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(LockError::Held { resource, record: None });
            }
            let seen = remote.read()?;
            let root = parse(seen.as_ref(), &resource, &place)?;
            let version = seen.map(|seen| seen.version);
            // A write that failed while nobody else wrote: that is no race.
            if let Some((before, error)) = failed.take()
                && before == version
            {
                tries += 1;
                if tries == TRIES {
                    return Err(error.into());
                }
                thread::sleep(PAUSE * tries);
            }
            let newest = journals_in(&folder)?.last().map_or(0, |(epoch, _)| *epoch);
            let newest = newest.max(root.journals.last().map_or(0, |kept| kept.epoch));
            let (lease, version, root) = match taker.saw(began.elapsed(), &root.lock, newest) {
                Next::GiveUp(record) => return Err(LockError::Held { resource, record: Some(record) }),
                Next::ReadAt(at) => {
                    wait_until(began, at, cancelled);
                    continue;
                }
                Next::Taken(lease) => match version {
                    Some(version) => (*lease, version, root),
                    None => continue,
                },
                Next::Write(lock) => {
                    if !is_here {
                        // Most of what is there comes before the lock is held: it may take long.
                        cache::pull(remote.as_mut(), &root, &folder, &place)?;
                        is_here = true;
                    }
                    taker.sends(began.elapsed(), &lock);
                    let root = Root { lock, ..root };
                    let change = Change {
                        expected: version.as_ref(),
                        record: &encode(&root),
                        files: &[],
                        dropped: &[],
                        message: &format!("{resource}: taken, epoch {}", root.lock.epoch),
                    };
                    match (remote.swap(&change), taker.confirmed()) {
                        (Ok(version), Some(lease)) => (lease, version, root),
                        (Ok(_), None) => continue,
                        (Err(error), _) => {
                            failed = Some((version, error));
                            continue;
                        }
                    }
                }
            };
            cache::pull(remote.as_mut(), &root, &folder, &place)?;
            cache::seal(&folder)?;
            let followed = journals_in(&folder)?.into_iter().map(|(_, path)| path).collect();
            let shown = Arc::new(Mutex::new(root.lock.clone()));
            return Ok(Self { remote, place, folder, began, lease, root, version, followed, written: 0, shown });
        }
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// Does what is asked, and renews meanwhile; until it is released, or nobody can ask any more.
    fn serve(&mut self, orders: &Receiver<Command>) {
        loop {
            let pause = self.next_turn().saturating_sub(self.now());
            match orders.recv_timeout(pause) {
                Ok(Command::Follow(path, answer)) => {
                    if !self.followed.contains(&path) {
                        self.followed.push(path);
                    }
                    answer(self.write(Aim::Renew));
                }
                Ok(Command::Confirm(answer)) => answer(self.write(Aim::Renew)),
                Ok(Command::Raise(newest, answer)) => answer(self.write(Aim::Raise(newest))),
                Ok(Command::Close(answer)) => {
                    let released = self.release();
                    answer(released);
                    self.remote.tidy();
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let is_due = self.now() >= self.lease.renewal_due();
                    // What fails now is tried again at the next turn; what is lost is told to who asks.
                    if self.lease.check(self.now()).is_ok() && (is_due || self.has_grown()) {
                        let _ = self.attempt(Aim::Renew, false);
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
    fn next_turn(&mut self) -> Moment {
        let now = self.now();
        match self.lease.check(now) {
            Ok(()) => self.lease.renewal_due().clamp(now + self.lease.ttl() / 30, now + self.lease.ttl() / 6),
            Err(_) => now + Duration::from_secs(60),
        }
    }

    fn has_grown(&self) -> bool {
        self.followed.iter().any(|path| matches!(cache::ahead(&self.root, path), Ok(Some(_))))
    }

    fn release(&mut self) -> Result<(), LockError> {
        match self.attempt(Aim::Release, true) {
            Ok(()) => Ok(()),
            Err(Failure::Lost(lost)) => Err(self.lost(&lost)),
            Err(Failure::State(error)) => Err(LockError::Unacknowledged {
                resource: self.lease.record().resource.clone(),
                epoch: self.lease.record().epoch,
                place: self.place.clone(),
                why: error.why(),
            }),
        }
    }

    fn write(&mut self, aim: Aim) -> Result<(), LockError> {
        self.attempt(aim, true).map_err(|failure| match failure {
            Failure::Lost(lost) => self.lost(&lost),
            Failure::State(error) => error.into(),
        })
    }

    fn lost(&self, lost: &Lost) -> LockError {
        let record = self.lease.record();
        let why = match lost {
            Lost::RanOut => format!(
                "it was not renewed for {} s: this process was stopped, or {} could not be reached",
                self.lease.ttl().as_secs_f32(),
                self.place
            ),
            Lost::Taken(record) => {
                let holder = record.holder.as_ref().map_or_else(String::new, ToString::to_string);
                format!("{holder} has it since {}, with epoch {}", record.since, record.epoch)
            }
            Lost::Released => "an operator released it".to_owned(),
        };
        LockError::Lost { resource: record.resource.clone(), epoch: record.epoch, why }
    }

    /// Writes what has grown, with the lock renewed or released; again and again while the lease lasts, if it `insists`.
    fn attempt(&mut self, aim: Aim, insists: bool) -> Result<(), Failure> {
        let mut tries = 0;
        loop {
            let error = match self.once(aim) {
                Ok(()) => return Ok(()),
                Err(Failure::Lost(lost)) => return Err(lost.into()),
                Err(Failure::State(error)) => error,
            };
            let before = self.version.clone();
            if let Ok(seen) = self.remote.read() {
                let root = parse(seen.as_ref(), &self.root.lock.resource, &self.place)?;
                let readback = self.lease.read_back(self.now(), Some(&root.lock))?;
                if let Some(seen) = seen {
                    (self.version, self.root) = (seen.version, root);
                }
                self.show();
                if readback == Readback::Confirmed {
                    return Ok(());
                }
            }
            self.lease.check(self.now())?;
            // A place that answers reads and refuses writes will not change its mind.
            tries = if before == self.version { tries + 1 } else { 0 };
            if !insists || tries == TRIES * 4 {
                return Err(error.into());
            }
            thread::sleep((PAUSE * tries.max(1)).min(self.lease.ttl() / 10));
        }
    }

    fn once(&mut self, aim: Aim) -> Result<(), Failure> {
        let lock = match aim {
            Aim::Renew => self.lease.next(),
            Aim::Raise(newest) => {
                let next = self.lease.next();
                LockRecord { epoch: next.epoch.max(newest + 1), ..next }
            }
            Aim::Release => {
                LockRecord { counter: self.lease.next().counter, ..self.lease.record().tombstone(clock::now()) }
            }
        };
        let mut root = Root { version: VERSION, lock: lock.clone(), ..self.root.clone() };
        let (mut files, mut dropped) = (Vec::new(), Vec::new());
        for path in &self.followed {
            let Some((mut kept, more)) = cache::ahead(&root, path)? else { continue };
            let name = format!("{}-{:04}-{}.part", journal_name(kept.epoch), self.written, self.tag());
            self.written += 1;
            kept.parts.push(name.clone());
            files.push((name, more));
            place(&mut root.journals, kept);
        }
        if aim == Aim::Release {
            self.join(&mut root, &mut files, &mut dropped)?;
        }
        let message = match aim {
            Aim::Release => format!("{}: released, epoch {}", lock.resource, lock.epoch),
            Aim::Renew | Aim::Raise(_) => format!("{}: epoch {}, {}", lock.resource, lock.epoch, lock.counter),
        };
        self.lease.sends(self.now(), lock)?;
        let record = encode(&root);
        let change = Change {
            expected: Some(&self.version),
            record: &record,
            files: &files,
            dropped: &dropped,
            message: &message,
        };
        self.version = self.remote.swap(&change)?;
        self.root = root;
        self.lease.confirmed(self.now())?;
        self.show();
        Ok(())
    }

    /// Makes one file of the parts of each journal.
    fn join(
        &self,
        root: &mut Root,
        files: &mut Vec<(String, Vec<u8>)>,
        dropped: &mut Vec<String>,
    ) -> Result<(), StateError> {
        for kept in root.journals.iter_mut().filter(|kept| kept.parts.len() > 1) {
            let path = self.folder.join(journal_name(kept.epoch));
            let mut whole = std::fs::read(&path).map_err(|source| StateError::io("read", &path, source))?;
            whole.truncate(usize::try_from(kept.bytes).unwrap_or(usize::MAX));
            let name = format!("{}-{}", journal_name(kept.epoch), self.tag());
            for part in std::mem::replace(&mut kept.parts, vec![name.clone()]) {
                let waiting = files.len();
                files.retain(|(file, _)| *file != part);
                if files.len() == waiting {
                    dropped.push(part);
                }
            }
            files.push((name, whole));
        }
        Ok(())
    }

    /// In names of files, so that no two holders write to one.
    fn tag(&self) -> String {
        self.lease.record().nonce.chars().take(8).collect()
    }

    fn show(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        // A tombstone names nobody; who asks later asks who it was.
        if !self.lease.record().nonce.is_empty() {
            self.lease.record().clone_into(&mut shown);
        }
    }
}

/// Puts a journal where it belongs in the order of epochs.
fn place(journals: &mut Vec<Kept>, kept: Kept) {
    match journals.binary_search_by_key(&kept.epoch, |kept| kept.epoch) {
        Ok(at) => journals[at] = kept,
        Err(at) => journals.insert(at, kept),
    }
}

/// The record as it was read; an empty one if there is none.
pub(super) fn parse(seen: Option<&Seen>, resource: &str, place: &str) -> Result<Root, StateError> {
    let Some(seen) = seen else { return Ok(Root::empty(resource)) };
    let broken = |why: String| StateError::Record { place: place.to_owned(), why };
    let root: Root = serde_json::from_slice(&seen.bytes).map_err(|error| broken(error.to_string()))?;
    if root.version != VERSION {
        return Err(broken(format!("it is of version {}, this runner knows {VERSION}", root.version)));
    }
    if root.lock.resource != resource {
        return Err(broken(format!("it is of {}, not of {resource}", root.lock.resource)));
    }
    Ok(root)
}

pub(super) fn encode(root: &Root) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(root).expect("records are JSON: their keys are texts");
    text.push(b'\n');
    text
}

/// Sleeps, in short turns, so that nobody who gave up is waited for.
fn wait_until(began: Instant, at: Moment, cancelled: &AtomicBool) {
    while !cancelled.load(Ordering::Relaxed) {
        let left = at.saturating_sub(began.elapsed());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}
