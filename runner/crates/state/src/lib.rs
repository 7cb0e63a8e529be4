//! Where journals and lock of (app, environment) live: in a folder, in a git repository, or in a bucket.
//!
//! ```text
//!   Store ── dir:   folder   the kernel's lock; journals are written in place
//!         └─ git:, s3:  keeper   a thread: lease (the protocol, pure) · record (what is written) · cache (journals here)
//!                         └─ Remote   one record by compare-and-swap, and files: git, s3
//! ```
//!
//! [`artifacts`] is beside that: what a CI keeps from one run of a job to the next, as journals travel where no place is shared.
//!
//! Readers find journals in a folder of this machine, wherever they come from. A folder needs no thread, no runtime and no
//! network, and starts none. What is deliberately absent: what journals say. The head (live release, verified releases)
//! is folded from them (docs/adr/0002), so it can't disagree with them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use contract::{AppName, EnvironmentName};
use plan::{RemotePlace, RemoteState, StateLocation};

pub mod artifacts;
pub mod bundle;
mod cache;
pub mod checkpoints;
mod error;
mod files;
mod folder;
mod git;
pub mod http;
mod keeper;
pub mod lease;
pub mod record;
pub mod remote;
mod s3;

pub use checkpoints::Checkpoints;
pub use error::{LockError, StateError};
pub use lease::Wait;
pub use record::{Holder, LockRecord, Released, TOKEN, Token};

use self::{
    checkpoints::Duty,
    files::{epoch_of, journal_name, journals_in, suggested_name},
    keeper::{Keeper, Taking},
    lease::{Sight, Watch, patience},
    record::Root,
    remote::{Change, Remote},
};

/// The file in the folder here that says which process of this machine holds a remote lock: `PID TOKEN`.
const NOTE: &str = "held-by";

/// Between two tries for the lock of a folder.
const FOLDER_PACE: Duration = Duration::from_millis(20);

/// The state of (app, environment).
#[derive(Clone, Debug)]
pub struct Store {
    /// Where its journals are on this machine.
    folder: PathBuf,
    resource: String,
    /// None for a folder, which needs nothing else.
    remote: Option<Arc<Far>>,
    /// In a CI: journals among the artifacts of its run.
    checkpoints: Option<Arc<Checkpoints>>,
}

/// What is known of a remote place.
#[derive(Debug)]
struct Far {
    state: RemoteState,
    /// The folder of this place on this machine.
    cache: PathBuf,
    /// Set once the lock was taken here: what is there is here then, and stays so.
    is_here: AtomicBool,
}

/// Who wants the lock, and for what.
#[derive(Clone, Debug)]
pub struct Claim {
    /// `user@host`.
    pub by: String,
    /// The page of the CI job, if it is one.
    pub url: Option<String>,
    /// What for: the release. A later attempt of the same waits for a lease to run out.
    pub purpose: Option<String>,
    /// How long to wait for another.
    pub wait: Wait,
}

impl Claim {
    /// Of somebody who does not wait.
    #[must_use]
    pub fn by(by: &str) -> Self {
        Self { by: by.to_owned(), url: None, purpose: None, wait: Wait::Default }
    }

    fn holder(&self) -> Holder {
        let who = format!("{}, process {}", self.by, std::process::id());
        Holder { who, url: self.url.clone(), purpose: self.purpose.clone() }
    }
}

/// The lock, held. Dropped, it is released; [`close`](Self::close) says whether that went well.
#[derive(Debug)]
pub struct Lock {
    kind: Kind,
    place: String,
    /// Where it is written that this machine holds it.
    note: PathBuf,
    checkpoints: Option<Arc<Checkpoints>>,
}

#[derive(Debug)]
enum Kind {
    Folder(folder::Held),
    Remote(Keeper),
}

/// The lock of the deployment that started this process. It is not ours to release.
#[derive(Debug)]
pub struct Adopted {
    store: Store,
    token: Token,
    record: LockRecord,
}

/// Whether somebody holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Nobody.
    Free,
    /// Somebody who lives.
    Lives,
    /// Somebody who was killed, or was silent for a whole lease: the next deployment takes it.
    Ended,
    /// Somebody; whether they live shows in time.
    Unknown,
}

impl Store {
    /// The state of an application in an environment. Nothing is made or asked yet.
    #[must_use]
    pub fn new(location: &StateLocation, app: &AppName, environment: &EnvironmentName) -> Self {
        let resource = format!("{app}/{environment}");
        let (root, remote) = match location {
            StateLocation::Dir(root) => (root.clone(), None),
            StateLocation::Remote(state) => {
                // One for each place and plan: two checkouts on one machine are as two machines.
                let key = format!("{}\n{:?}\n{}", state.written, state.place, state.folder.display());
                let cache = state.cache.join(contract::hash::Hash::of(key.as_bytes()).short(16));
                let far = Far { state: state.clone(), cache: cache.clone(), is_here: AtomicBool::new(false) };
                (cache, Some(Arc::new(far)))
            }
        };
        Self { folder: root.join(app.as_str()).join(environment.as_str()), resource, remote, checkpoints: None }
    }

    /// The same, with journals among the artifacts of a CI run as well.
    ///
    /// # Errors
    /// [`StateError`] when the thread for that can't be started.
    pub fn checkpointed(mut self, job: checkpoints::Job) -> Result<Self, StateError> {
        let duty = if self.remote.is_some() { Duty::End } else { Duty::Each };
        let started = Checkpoints::start(job, self.folder.clone(), duty);
        self.checkpoints = Some(started.map_err(|source| StateError::io("watch", &self.folder, source))?);
        Ok(self)
    }

    /// The checkpoints among the artifacts of a CI run, if this is one.
    #[must_use]
    pub fn checkpoints(&self) -> Option<&Arc<Checkpoints>> {
        self.checkpoints.as_ref()
    }

    /// Whether it is a folder of this machine alone.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.remote.is_none()
    }

    /// `<app>/<environment>`.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// Its folder on this machine.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.remote.as_ref().map_or_else(|| self.folder.display().to_string(), |far| far.state.written.clone())
    }

    /// Where it is, for a process on this machine that this one starts: see [`StateLocation::at`].
    #[must_use]
    pub fn address(&self) -> String {
        let (state, folder) = match &self.remote {
            Some(far) => (far.state.written.clone(), far.state.folder.clone()),
            None => {
                let root = self.folder.ancestors().nth(2).unwrap_or(Path::new("/"));
                (format!("dir:{}", root.display()), root.to_owned())
            }
        };
        serde_json::json!({ "state": state, "folder": folder }).to_string()
    }

    /// All journals, in epoch order, brought here first where they are elsewhere. None when there are none yet.
    ///
    /// # Errors
    /// [`StateError`] when they can't be read.
    pub fn journals(&self) -> Result<Vec<PathBuf>, StateError> {
        if let Some(far) = &self.remote
            && !far.is_here.load(Ordering::Relaxed)
        {
            self.with_remote(|remote, place| {
                let root = keeper::parse(remote.read()?.as_ref(), &self.resource, place)?;
                cache::pull(remote, &root, &self.folder, place)
            })?;
        }
        Ok(journals_in(&self.folder)?.into_iter().map(|(_, path)| path).collect())
    }

    /// The path of the journal of one attempt.
    #[must_use]
    pub fn journal(&self, epoch: u64) -> PathBuf {
        self.folder.join(journal_name(epoch))
    }

    /// Takes the lock, and waits for it as long as the claim says. A future that is dropped has not taken it. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`LockError`] when another holds it, or it can't be taken.
    pub async fn claim(&self, claim: Claim) -> Result<Lock, LockError> {
        let (place, checkpoints) = (self.place(), self.checkpoints.clone());
        let Some(far) = &self.remote else {
            let until = match claim.wait {
                Wait::Default => Duration::ZERO,
                Wait::For(wait) => wait,
            };
            let began = Instant::now();
            loop {
                match folder::Held::take(&self.folder, &self.resource, &claim) {
                    Err(LockError::Held { .. }) if began.elapsed() < until => tokio::time::sleep(FOLDER_PACE).await,
                    Err(error) => return Err(error),
                    Ok(held) => {
                        if let Some(checkpoints) = &checkpoints {
                            checkpoints.fetch().await?;
                        }
                        let note = self.note();
                        return Ok(Lock { kind: Kind::Folder(held), place, note, checkpoints });
                    }
                }
            }
        };
        let taking = Taking {
            place: place.clone(),
            resource: self.resource.clone(),
            folder: self.folder.clone(),
            ttl: far.state.ttl,
            claim,
        };
        let (connecting, resource) = (Arc::clone(far), self.resource.clone());
        let keeper = Keeper::take(move || connecting.connect(&resource), taking).await?;
        far.is_here.store(true, Ordering::Relaxed);
        Ok(Lock { kind: Kind::Remote(keeper), place, note: self.note(), checkpoints })
    }

    fn note(&self) -> PathBuf {
        self.folder.join(NOTE)
    }

    /// Releases a lock of a remote place that a process of this machine held, and was killed: nobody else's, and no living one's.
    /// Returns what was released.
    ///
    /// # Errors
    /// [`LockError`] when it can't be read or released.
    pub fn give_up(&self, by: &str, message: &str) -> Result<Option<LockRecord>, LockError> {
        let Some((token, process)) = fs::read_to_string(self.note()).ok().and_then(|note| {
            let (process, token) = note.split_once(' ')?;
            Some((token.parse::<Token>().ok()?, process.parse::<u32>().ok()?))
        }) else {
            return Ok(None);
        };
        let is_ours = |record: &LockRecord| record.holder.is_some() && record.token() == token;
        if self.remote.is_none()
            || Path::new("/proc").join(process.to_string()).exists()
            || !is_ours(&self.root()?.lock)
        {
            return Ok(None);
        }
        self.release(by, message, true)
    }

    /// Verifies that the process that started this one holds the lock.
    ///
    /// # Errors
    /// [`LockError::Token`] when it is of something else, forged or stale.
    pub fn adopt(&self, token: Token) -> Result<Adopted, LockError> {
        let record = self.verify(&token)?;
        Ok(Adopted { store: self.clone(), token, record })
    }

    fn verify(&self, token: &Token) -> Result<LockRecord, LockError> {
        if token.resource != self.resource {
            let why = "it is of another application or environment";
            return Err(LockError::Token { resource: self.resource.clone(), why });
        }
        if self.remote.is_none() {
            return folder::verify(&self.folder, token);
        }
        let root = self.root()?;
        if root.lock.holder.is_some() && root.lock.token() == *token && !token.nonce.is_empty() {
            return Ok(root.lock);
        }
        let why = "the lock is free, or another deployment holds it now, or this is not its token";
        Err(LockError::Token { resource: self.resource.clone(), why })
    }

    /// Who holds the lock, or held it last, and whether they live. Where only time tells, it is watched for a lease if
    /// `watches` says so.
    ///
    /// # Errors
    /// [`LockError`] when it can't be read.
    pub fn look(&self, watches: bool) -> Result<(Option<LockRecord>, Standing), LockError> {
        if self.remote.is_none() {
            return folder::look(&self.folder);
        }
        let (root, standing) = self.with_remote(|remote, place| self.watch(remote, place, watches))?;
        Ok(((root.lock.epoch > 0).then_some(root.lock), standing))
    }

    fn watch(&self, remote: &mut dyn Remote, place: &str, watches: bool) -> Result<(Root, Standing), StateError> {
        let (began, mut watch) = (Instant::now(), Watch::default());
        let mut first: Option<LockRecord> = None;
        loop {
            let root = keeper::parse(remote.read()?.as_ref(), &self.resource, place)?;
            let sight = watch.saw(began.elapsed(), Some(&root.lock));
            let has_moved = first.as_ref().is_some_and(|first| *first != root.lock);
            match sight {
                Sight::Free => return Ok((root, Standing::Free)),
                Sight::RunOut => return Ok((root, Standing::Ended)),
                Sight::Held(_) if has_moved => return Ok((root, Standing::Lives)),
                Sight::Held(_) if !watches => return Ok((root, Standing::Unknown)),
                Sight::Held(runs_out) => {
                    let pause = patience(root.lock.ttl().unwrap_or_default()) / 16;
                    first.get_or_insert(root.lock);
                    thread::sleep(pause.min(runs_out.saturating_sub(began.elapsed())));
                }
            }
        }
    }

    /// Frees a lock whose holder has ended. One that lives loses it by `force` alone, and finds out before its next effect.
    /// Returns what was released; none when it was free.
    ///
    /// # Errors
    /// [`LockError::Living`] when the holder lives; what else keeps it from being released.
    pub fn release(&self, by: &str, message: &str, force: bool) -> Result<Option<LockRecord>, LockError> {
        let (record, standing) = self.look(!force)?;
        let Some(record) = record.filter(|record| record.holder.is_some()) else { return Ok(None) };
        match standing {
            Standing::Free => return Ok(None),
            Standing::Lives | Standing::Unknown if !force => {
                return Err(LockError::Living { resource: self.resource.clone(), holder: record.holder });
            }
            Standing::Lives | Standing::Unknown | Standing::Ended => {}
        }
        if self.remote.is_none() {
            folder::release(&self.folder, &self.resource, by, message)?;
            return Ok(Some(record));
        }
        self.with_remote(|remote, place| {
            let mut failed = None;
            // Its holder renews it meanwhile: then it is read and written again.
            for _ in 0..10 {
                let seen = remote.read()?;
                let root = keeper::parse(seen.as_ref(), &self.resource, place)?;
                if !root.lock.is_same_holding(&record) {
                    return Ok(Some(record.clone()));
                }
                let root = root.with_released(by, message);
                let change = Change {
                    expected: seen.as_ref().map(|seen| &seen.version),
                    record: &keeper::encode(&root),
                    files: &[],
                    dropped: &[],
                    message: &format!("{}: epoch {} released by {by}", self.resource, root.lock.epoch),
                };
                match remote.swap(&change) {
                    Ok(_) => return Ok(Some(record.clone())),
                    Err(error) => failed = Some(error),
                }
            }
            Err(failed.expect("each round that does not return fails"))
        })
        .map_err(LockError::from)
    }

    /// Locks that operators took from their holders, oldest first.
    ///
    /// # Errors
    /// [`StateError`] when they can't be read.
    pub fn released(&self) -> Result<Vec<Released>, StateError> {
        if self.remote.is_none() { folder::released_in(&self.folder) } else { Ok(self.root()?.released) }
    }

    fn root(&self) -> Result<Root, StateError> {
        self.with_remote(|remote, place| keeper::parse(remote.read()?.as_ref(), &self.resource, place))
    }

    /// On a thread of its own, since it blocks, and this one may run the loop.
    fn with_remote<T: Send>(
        &self,
        work: impl FnOnce(&mut dyn Remote, &str) -> Result<T, StateError> + Send,
    ) -> Result<T, StateError> {
        let far = self.remote.as_ref().expect("only asked where state is remote");
        thread::scope(|scope| {
            let asked = scope.spawn(|| work(far.connect(&self.resource)?.as_mut(), &far.state.written));
            asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Far {
    fn connect(&self, resource: &str) -> Result<Box<dyn Remote>, StateError> {
        Ok(match &self.state.place {
            RemotePlace::Git(remote) => Box::new(git::Git::new(&self.state, remote, resource, &self.cache)?),
            RemotePlace::S3 { bucket, prefix } => Box::new(s3::S3::new(&self.state, bucket, prefix, resource)?),
        })
    }
}

impl Lock {
    /// The record as it was written last.
    #[must_use]
    pub fn record(&self) -> LockRecord {
        match &self.kind {
            Kind::Folder(held) => held.record().clone(),
            Kind::Remote(keeper) => keeper.record(),
        }
    }

    /// What is locked.
    #[must_use]
    pub fn resource(&self) -> String {
        self.record().resource
    }

    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> String {
        self.record().holder.map_or_else(String::new, |holder| holder.to_string())
    }

    /// What a child process needs to prove that it runs for this deployment. Valid from [`next_epoch`](Self::next_epoch) on.
    #[must_use]
    pub fn token(&self) -> Token {
        self.record().token()
    }

    /// Takes the next epoch after all that the lock and the journals (`newest`) know.
    ///
    /// # Errors
    /// [`LockError`] when it can't be written, or the lock was lost.
    pub fn next_epoch(&mut self, newest: u64) -> Result<u64, LockError> {
        match &mut self.kind {
            Kind::Folder(held) => held.next_epoch(newest),
            Kind::Remote(keeper) => {
                // Taking it took an epoch already; the journals may know of a later one that never got there.
                if keeper.record().epoch <= newest {
                    keeper.raise(newest)?;
                }
                // Without it, a lock whose holder was killed runs out by itself.
                let _ = fs::write(&self.note, format!("{} {}", std::process::id(), keeper.record().token()));
                Ok(keeper.record().epoch)
            }
        }
    }

    /// From now on, what this journal holds is written to the state's place; what it holds now, when this returns.
    ///
    /// # Errors
    /// [`LockError`] when it can't be written, or the lock was lost.
    pub async fn follow(&self, journal: &Path) -> Result<(), LockError> {
        match &self.kind {
            Kind::Folder(_) => Ok(()),
            Kind::Remote(keeper) => keeper.follow(journal.to_owned()).await,
        }
    }

    /// Asked right before every effect of the commit phase: the lock is ours, and where the next attempt may be on another
    /// machine, everything in the journal is where that one reads it.
    ///
    /// # Errors
    /// [`LockError::Lost`], with the epoch; then the effect must not be. The same when it can't be told.
    pub async fn confirm(&self) -> Result<(), LockError> {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.confirm().await?;
        }
        match &self.kind {
            Kind::Folder(held) => held.check(),
            Kind::Remote(keeper) => keeper.confirm().await,
        }
    }

    /// Writes what is left to be written and releases the lock, in so much time.
    ///
    /// # Errors
    /// [`LockError`] when it was lost before, or the end did not get there; the lock then runs out by itself.
    pub async fn close(self, within: Duration) -> Result<(), LockError> {
        let saved = async {
            if let Some(checkpoints) = &self.checkpoints {
                checkpoints.close(within).await;
            }
        };
        match self.kind {
            Kind::Folder(held) => {
                saved.await;
                let standing = held.check();
                drop(held);
                standing
            }
            Kind::Remote(keeper) => {
                let closed = tokio::join!(keeper.close(within, &self.place), saved).0;
                let _ = fs::remove_file(&self.note);
                closed
            }
        }
    }
}

impl Adopted {
    /// The record as it was when the token was verified.
    #[must_use]
    pub fn record(&self) -> &LockRecord {
        &self.record
    }

    /// Asks again whether the deployment that started this process holds the lock.
    ///
    /// # Errors
    /// [`LockError::Token`] when it does not.
    pub fn confirm(&self) -> Result<(), LockError> {
        self.store.verify(&self.token).map(drop)
    }
}

/// For calls that block on what can only be awaited. Small: one thread, the caller's.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests;
