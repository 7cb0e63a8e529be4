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
use plan::{RemoteLocation, RemoteState, StateLocation};

pub mod artifacts;
pub mod bundle;
pub mod checkpoints;
mod error;
mod folder_lock;
mod git;
pub mod http;
mod journal_cache;
mod journal_files;
pub mod lease;
pub mod record;
pub mod remote;
mod remote_lock;
mod s3;

pub use checkpoints::CheckpointUploader;
pub use error::{LockError, StateError};
pub use lease::LockWait;
pub use record::{ForcedRelease, LOCK_TOKEN_VARIABLE, LockHolder, LockRecord, LockToken};

use self::{
    checkpoints::UploadPolicy,
    journal_files::{epoch_of, journal_name, journals_in, suggested_name},
    lease::{LockObservation, LockWatcher, observer_timeout},
    record::StateManifest,
    remote::{RecordUpdate, RemoteStorage},
    remote_lock::{RemoteLock, RemoteLockParams},
};

/// The file in the folder here that says which process of this machine holds a remote lock: `PID TOKEN`.
const HELD_BY_FILE: &str = "held-by";

/// Between two tries for the lock of a folder.
const FOLDER_LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The state of (app, environment).
#[derive(Clone, Debug)]
pub struct StateStore {
    /// Where its journals are on this machine.
    folder: PathBuf,
    resource: String,
    /// None for a folder, which needs nothing else.
    remote: Option<Arc<RemoteBackend>>,
    /// In a CI: journals among the artifacts of its run.
    checkpoints: Option<Arc<CheckpointUploader>>,
}

/// What is known of a remote place.
#[derive(Debug)]
struct RemoteBackend {
    state: RemoteState,
    /// The folder of this place on this machine.
    cache: PathBuf,
    /// Set once the lock was taken here: what is there is here then, and stays so.
    is_cached: AtomicBool,
}

/// Who wants the lock, and for what.
#[derive(Clone, Debug)]
pub struct LockRequest {
    /// `user@host`.
    pub by: String,
    /// The page of the CI job, if it is one.
    pub url: Option<String>,
    /// What for: the release. A later attempt of the same waits for a lease to run out.
    pub purpose: Option<String>,
    /// How long to wait for another.
    pub wait: LockWait,
}

impl LockRequest {
    /// Of somebody who does not wait.
    #[must_use]
    pub fn new(by: &str) -> Self {
        Self { by: by.to_owned(), url: None, purpose: None, wait: LockWait::Default }
    }

    fn holder(&self) -> LockHolder {
        let who = format!("{}, process {}", self.by, std::process::id());
        LockHolder { who, url: self.url.clone(), purpose: self.purpose.clone() }
    }
}

/// The lock, held. Dropped, it is released; [`close`](Self::close) says whether that went well.
#[derive(Debug)]
pub struct DeploymentLock {
    kind: LockKind,
    location: String,
    /// Where it is written that this machine holds it.
    held_by_path: PathBuf,
    checkpoints: Option<Arc<CheckpointUploader>>,
}

#[derive(Debug)]
enum LockKind {
    Folder(folder_lock::FolderLock),
    Remote(RemoteLock),
}

/// The lock of the deployment that started this process. It is not ours to release.
#[derive(Debug)]
pub struct InheritedLock {
    store: StateStore,
    token: LockToken,
    record: LockRecord,
}

/// Whether somebody holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockStatus {
    /// Nobody.
    Free,
    /// Somebody who lives.
    Held,
    /// Somebody who was killed, or was silent for a whole lease: the next deployment takes it.
    Stale,
    /// Somebody; whether they live shows in time.
    Unknown,
}

impl StateStore {
    /// The state of an application in an environment. Nothing is made or asked yet.
    #[must_use]
    pub fn new(location: &StateLocation, app: &AppName, environment: &EnvironmentName) -> Self {
        let resource = format!("{app}/{environment}");
        let (root, remote) = match location {
            StateLocation::Dir(root) => (root.clone(), None),
            StateLocation::Remote(state) => {
                // One for each place and plan: two checkouts on one machine are as two machines.
                let key = format!("{}\n{:?}\n{}", state.written, state.location, state.folder.display());
                let cache = state.cache.join(contract::hash::Blake3Hash::of(key.as_bytes()).hex_prefix(16));
                let backend =
                    RemoteBackend { state: state.clone(), cache: cache.clone(), is_cached: AtomicBool::new(false) };
                (cache, Some(Arc::new(backend)))
            }
        };
        Self { folder: root.join(app.as_str()).join(environment.as_str()), resource, remote, checkpoints: None }
    }

    /// The same, with journals among the artifacts of a CI run as well.
    ///
    /// # Errors
    /// [`StateError`] when the thread for that can't be started.
    pub fn with_checkpoints(mut self, config: checkpoints::CheckpointConfig) -> Result<Self, StateError> {
        let policy = if self.remote.is_some() { UploadPolicy::AtEnd } else { UploadPolicy::BeforeEachEffect };
        let started = CheckpointUploader::start(config, self.folder.clone(), policy);
        self.checkpoints = Some(started.map_err(|source| StateError::io("start a thread for the checkpoints of", &self.folder, source))?);
        Ok(self)
    }

    /// The checkpoints among the artifacts of a CI run, if this is one.
    #[must_use]
    pub fn checkpoints(&self) -> Option<&Arc<CheckpointUploader>> {
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
    pub fn display_location(&self) -> String {
        self.remote.as_ref().map_or_else(|| self.folder.display().to_string(), |backend| backend.state.written.clone())
    }

    /// Where it is, for a process on this machine that this one starts: see [`StateLocation::at`].
    #[must_use]
    pub fn address(&self) -> String {
        let (state, folder) = match &self.remote {
            Some(backend) => (backend.state.written.clone(), backend.state.folder.clone()),
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
    pub fn journal_paths(&self) -> Result<Vec<PathBuf>, StateError> {
        if let Some(backend) = &self.remote
            && !backend.is_cached.load(Ordering::Relaxed)
        {
            self.with_remote(|remote, location| {
                let root = remote_lock::parse_manifest(remote.read_record()?.as_ref(), &self.resource, location)?;
                journal_cache::pull_journals(remote, &root, &self.folder, location)
            })?;
        }
        Ok(journals_in(&self.folder)?.into_iter().map(|(_, path)| path).collect())
    }

    /// The path of the journal of one attempt.
    #[must_use]
    pub fn journal_path(&self, epoch: u64) -> PathBuf {
        self.folder.join(journal_name(epoch))
    }

    /// Takes the lock, and waits for it as long as the claim says. A future that is dropped has not taken it. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`LockError`] when another holds it, or it can't be taken.
    pub async fn acquire_lock(&self, request: LockRequest) -> Result<DeploymentLock, LockError> {
        let (location, checkpoints) = (self.display_location(), self.checkpoints.clone());
        let Some(backend) = &self.remote else {
            let until = match request.wait {
                LockWait::Default => Duration::ZERO,
                LockWait::For(wait) => wait,
            };
            let began = Instant::now();
            loop {
                match folder_lock::FolderLock::acquire(&self.folder, &self.resource, &request) {
                    Err(LockError::Held { .. }) if began.elapsed() < until => {
                        tokio::time::sleep(FOLDER_LOCK_POLL_INTERVAL).await
                    }
                    Err(error) => return Err(error),
                    Ok(held) => {
                        if let Some(checkpoints) = &checkpoints {
                            checkpoints.download_newest().await?;
                        }
                        let note = self.held_by_path();
                        return Ok(DeploymentLock {
                            kind: LockKind::Folder(held),
                            location,
                            held_by_path: note,
                            checkpoints,
                        });
                    }
                }
            }
        };
        let params = RemoteLockParams {
            location: location.clone(),
            resource: self.resource.clone(),
            folder: self.folder.clone(),
            ttl: backend.state.ttl,
            request,
        };
        let (connecting, resource) = (Arc::clone(backend), self.resource.clone());
        let lock = RemoteLock::acquire(move || connecting.connect(&resource), params).await?;
        backend.is_cached.store(true, Ordering::Relaxed);
        Ok(DeploymentLock { kind: LockKind::Remote(lock), location, held_by_path: self.held_by_path(), checkpoints })
    }

    fn held_by_path(&self) -> PathBuf {
        self.folder.join(HELD_BY_FILE)
    }

    /// Releases a lock of a remote place that a process of this machine held, and was killed: nobody else's, and no living one's.
    /// Returns what was released.
    ///
    /// # Errors
    /// [`LockError`] when it can't be read or released.
    pub fn release_orphaned_lock(&self, by: &str, message: &str) -> Result<Option<LockRecord>, LockError> {
        let Some((token, process)) = fs::read_to_string(self.held_by_path()).ok().and_then(|note| {
            let (process, token) = note.split_once(' ')?;
            Some((token.parse::<LockToken>().ok()?, process.parse::<u32>().ok()?))
        }) else {
            return Ok(None);
        };
        let is_ours = |record: &LockRecord| record.holder.is_some() && record.token() == token;
        if self.remote.is_none()
            || Path::new("/proc").join(process.to_string()).exists()
            || !is_ours(&self.read_manifest()?.lock)
        {
            return Ok(None);
        }
        self.release_lock(by, message, true)
    }

    /// Verifies that the process that started this one holds the lock.
    ///
    /// # Errors
    /// [`LockError::LockToken`] when it is of something else, forged or stale.
    pub fn verify_inherited_lock(&self, token: LockToken) -> Result<InheritedLock, LockError> {
        let record = self.verify_token(&token)?;
        Ok(InheritedLock { store: self.clone(), token, record })
    }

    fn verify_token(&self, token: &LockToken) -> Result<LockRecord, LockError> {
        if token.resource != self.resource {
            let why = "it belongs to another application or environment";
            return Err(LockError::InvalidToken { resource: self.resource.clone(), why });
        }
        if self.remote.is_none() {
            return folder_lock::verify_token(&self.folder, token);
        }
        let manifest = self.read_manifest()?;
        if manifest.lock.holder.is_some() && manifest.lock.token() == *token && !token.nonce.is_empty() {
            return Ok(manifest.lock);
        }
        let why = "the lock is free, another deployment holds it, or the token is forged";
        Err(LockError::InvalidToken { resource: self.resource.clone(), why })
    }

    /// Who holds the lock, or held it last, and whether they live. Where only time tells, it is watched for a lease if
    /// `watches` says so.
    ///
    /// # Errors
    /// [`LockError`] when it can't be read.
    pub fn lock_status(&self, should_watch: bool) -> Result<(Option<LockRecord>, LockStatus), LockError> {
        if self.remote.is_none() {
            return folder_lock::lock_status(&self.folder);
        }
        let (manifest, status) =
            self.with_remote(|remote, location| self.watch_lock(remote, location, should_watch))?;
        Ok(((manifest.lock.epoch > 0).then_some(manifest.lock), status))
    }

    fn watch_lock(
        &self,
        remote: &mut dyn RemoteStorage,
        location: &str,
        should_watch: bool,
    ) -> Result<(StateManifest, LockStatus), StateError> {
        let (began, mut watch) = (Instant::now(), LockWatcher::default());
        let mut first: Option<LockRecord> = None;
        loop {
            let manifest = remote_lock::parse_manifest(remote.read_record()?.as_ref(), &self.resource, location)?;
            let observation = watch.observe(began.elapsed(), Some(&manifest.lock));
            let has_moved = first.as_ref().is_some_and(|first| *first != manifest.lock);
            match observation {
                LockObservation::Free => return Ok((manifest, LockStatus::Free)),
                LockObservation::Expired => return Ok((manifest, LockStatus::Stale)),
                LockObservation::Held(_) if has_moved => return Ok((manifest, LockStatus::Held)),
                LockObservation::Held(_) if !should_watch => return Ok((manifest, LockStatus::Unknown)),
                LockObservation::Held(runs_out) => {
                    let pause = observer_timeout(manifest.lock.ttl().unwrap_or_default()) / 16;
                    first.get_or_insert(manifest.lock);
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
    pub fn release_lock(&self, by: &str, message: &str, force: bool) -> Result<Option<LockRecord>, LockError> {
        let (record, status) = self.lock_status(!force)?;
        let Some(record) = record.filter(|record| record.holder.is_some()) else { return Ok(None) };
        match status {
            LockStatus::Free => return Ok(None),
            LockStatus::Held | LockStatus::Unknown if !force => {
                return Err(LockError::HolderRunning { resource: self.resource.clone(), holder: record.holder });
            }
            LockStatus::Held | LockStatus::Unknown | LockStatus::Stale => {}
        }
        if self.remote.is_none() {
            folder_lock::force_release(&self.folder, &self.resource, by, message)?;
            return Ok(Some(record));
        }
        self.with_remote(|remote, location| {
            let mut failed = None;
            // Its holder renews it meanwhile: then it is read and written again.
            for _ in 0..10 {
                let seen = remote.read_record()?;
                let manifest = remote_lock::parse_manifest(seen.as_ref(), &self.resource, location)?;
                if !manifest.lock.is_same_holding(&record) {
                    return Ok(Some(record.clone()));
                }
                let root = manifest.with_forced_release(by, message);
                let change = RecordUpdate {
                    expected: seen.as_ref().map(|seen| &seen.version),
                    record: &remote_lock::encode_manifest(&root),
                    files: &[],
                    removed: &[],
                    message: &format!("{}: epoch {} released by {by}", self.resource, root.lock.epoch),
                };
                match remote.compare_and_swap(&change) {
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
    pub fn forced_releases(&self) -> Result<Vec<ForcedRelease>, StateError> {
        if self.remote.is_none() {
            folder_lock::forced_releases_in(&self.folder)
        } else {
            Ok(self.read_manifest()?.released)
        }
    }

    fn read_manifest(&self) -> Result<StateManifest, StateError> {
        self.with_remote(|remote, location| {
            remote_lock::parse_manifest(remote.read_record()?.as_ref(), &self.resource, location)
        })
    }

    /// On a thread of its own, since it blocks, and this one may run the loop.
    fn with_remote<T: Send>(
        &self,
        work: impl FnOnce(&mut dyn RemoteStorage, &str) -> Result<T, StateError> + Send,
    ) -> Result<T, StateError> {
        let backend = self.remote.as_ref().expect("only asked where state is remote");
        thread::scope(|scope| {
            let asked = scope.spawn(|| work(backend.connect(&self.resource)?.as_mut(), &backend.state.written));
            asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl RemoteBackend {
    fn connect(&self, resource: &str) -> Result<Box<dyn RemoteStorage>, StateError> {
        Ok(match &self.state.location {
            RemoteLocation::Git(remote) => Box::new(git::GitStorage::new(&self.state, remote, resource, &self.cache)?),
            RemoteLocation::S3 { bucket, prefix } => {
                Box::new(s3::S3Storage::new(&self.state, bucket, prefix, resource)?)
            }
        })
    }
}

impl DeploymentLock {
    /// The record as it was written last.
    #[must_use]
    pub fn record(&self) -> LockRecord {
        match &self.kind {
            LockKind::Folder(held) => held.record().clone(),
            LockKind::Remote(lock) => lock.record(),
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
    pub fn token(&self) -> LockToken {
        self.record().token()
    }

    /// Takes the next epoch after all that the lock and the journals (`newest`) know.
    ///
    /// # Errors
    /// [`LockError`] when it can't be written, or the lock was lost.
    pub fn next_epoch(&mut self, newest: u64) -> Result<u64, LockError> {
        match &mut self.kind {
            LockKind::Folder(held) => held.next_epoch(newest),
            LockKind::Remote(lock) => {
                // Taking it took an epoch already; the journals may know of a later one that never got there.
                if lock.record().epoch <= newest {
                    lock.raise_epoch(newest)?;
                }
                // Without it, a lock whose holder was killed runs out by itself.
                let _ = fs::write(&self.held_by_path, format!("{} {}", std::process::id(), lock.record().token()));
                Ok(lock.record().epoch)
            }
        }
    }

    /// From now on, what this journal holds is written to the state's place; what it holds now, when this returns.
    ///
    /// # Errors
    /// [`LockError`] when it can't be written, or the lock was lost.
    pub async fn sync_journal(&self, journal: &Path) -> Result<(), LockError> {
        match &self.kind {
            LockKind::Folder(_) => Ok(()),
            LockKind::Remote(lock) => lock.sync_journal(journal.to_owned()).await,
        }
    }

    /// Asked right before every effect of the commit phase: the lock is ours, and where the next attempt may be on another
    /// machine, everything in the journal is where that one reads it.
    ///
    /// # Errors
    /// [`LockError::LockLossReason`], with the epoch; then the effect must not be. The same when it can't be told.
    pub async fn ensure_held(&self) -> Result<(), LockError> {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.ensure_uploaded().await?;
        }
        match &self.kind {
            LockKind::Folder(held) => held.ensure_held(),
            LockKind::Remote(lock) => lock.ensure_held().await,
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
            LockKind::Folder(held) => {
                saved.await;
                let result = held.ensure_held();
                drop(held);
                result
            }
            LockKind::Remote(lock) => {
                let closed = tokio::join!(lock.close(within, &self.location), saved).0;
                let _ = fs::remove_file(&self.held_by_path);
                closed
            }
        }
    }
}

impl InheritedLock {
    /// The record as it was when the token was verified.
    #[must_use]
    pub fn record(&self) -> &LockRecord {
        &self.record
    }

    /// Asks again whether the deployment that started this process holds the lock.
    ///
    /// # Errors
    /// [`LockError::LockToken`] when it does not.
    pub fn ensure_held(&self) -> Result<(), LockError> {
        self.store.verify_token(&self.token).map(drop)
    }
}

/// For calls that block on what can only be awaited. Small: one thread, the caller's.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests;
