//! Where the journals and the lock of (app, environment) are: in a folder, a git repository, or a bucket.
//!
//! ```text
//!   StateStore ── dir:       folder_lock   the kernel's lock; journals are written in place
//!              └─ git:, s3:  remote_lock   a thread: lease (the protocol, pure) · record (the lock)
//!                               │      manifest (what is there) · upload · journal_cache (the local copy) · lost_lines
//!                               └─ RemoteStorage   lock and manifest by compare-and-swap, and files: git, s3
//! ```
//!
//! [`artifacts`] is separate: on a CI without shared state, it carries the journals from one run of a job to the next.
//!
//! Readers find journals in a local folder, wherever they come from. A folder state needs no thread, no runtime and no
//! network. Deliberately absent: the content of journals. The head (live release, verified releases) is folded from
//! them (docs/adr/0002), so it can't contradict them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use contract::{AppName, EnvironmentName};
use journal::clock;
use plan::{RemoteLocation, RemoteState, StateLocation};

mod archive;
pub mod artifacts;
mod attempt_index;
mod base_snapshot;
mod begun_steps;
pub mod bundle;
pub mod checkpoints;
mod deployment_lock;
mod error;
mod folder_lock;
mod folder_protocol;
mod git;
mod git_import;
mod history;
mod history_check;
pub mod http;
mod journal_cache;
mod journal_files;
pub mod lease;
mod local_copy;
mod lost_lines;
mod machine;
pub mod manifest;
#[cfg(test)]
mod model_checker;
pub mod record;
pub mod remote;
mod remote_lock;
mod repair;
mod s3;
mod state_folder;
pub mod tail;
mod upload;

pub use base_snapshot::BaseRepair;
pub use begun_steps::BegunSteps;
pub use checkpoints::CheckpointUploader;
pub use error::{LockError, StateError};
pub use history::{AttemptChoice, HistoryError, RecordedAttempt};
pub use lease::LockWait;
pub use local_copy::{LocalCopyReport, RemoteDamage};
pub use machine::machine_id;
pub use record::{ForcedRelease, LOCK_TOKEN_VARIABLE, LockHolder, LockRecord, LockToken, ReleasedBy};
pub use repair::StateFinding;
pub use s3::open_bucket;

use self::{
    checkpoints::UploadPolicy,
    journal_files::{epoch_of, journal_name, journals_in, suggested_name},
    lease::{LockObservation, LockWatcher, observer_timeout},
    remote::{RecordUpdate, RemoteRecord, RemoteStorage},
    remote_lock::{RemoteLock, RemoteLockParams},
};

/// The local file that names the process of this machine that holds a remote lock: `PID TOKEN`.
const HELD_BY_FILE: &str = "held-by";

/// The environment variables with the secrets that a CI job gives to the runner.
pub const JOB_SECRET_VARIABLES: [&str; 4] = ["PAWL_KEY", "PAWL_TOKEN", "PAWL_TEAM_TOKEN", "ACTIONS_RUNTIME_TOKEN"];

/// With it, a job gets tokens from GitHub; the runner does not use it.
pub const ID_TOKEN_VARIABLE: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// The pause between two attempts to lock a folder.
const FOLDER_LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The state of (app, environment).
#[derive(Clone, Debug)]
pub struct StateStore {
    /// The local folder of its journals.
    folder: PathBuf,
    resource: String,
    /// `None` for a folder state.
    remote: Option<Arc<RemoteBackend>>,
    /// On a CI, also uploads journals to the artifacts of the run.
    checkpoints: Option<Arc<CheckpointUploader>>,
}

/// A remote state and its local cache.
#[derive(Debug)]
struct RemoteBackend {
    state: RemoteState,
    /// The local cache of this remote.
    cache: PathBuf,
    /// Set once this process has taken the lock: from then on, nothing is newer than the cache.
    is_cached: AtomicBool,
    /// The state that this process read last.
    last_read: Mutex<Option<RemoteRecord>>,
}

/// Who requests the lock, and why.
#[derive(Clone, Debug)]
pub struct LockRequest {
    /// `user@host`.
    pub by: String,
    /// The page of the CI job, if any.
    pub url: Option<String>,
    /// The release to deploy. A later attempt of the same release waits until the lease expires.
    pub purpose: Option<String>,
    /// How long to wait for another holder.
    pub wait: LockWait,
    /// Who hears of it while the request waits.
    pub observer: Option<LockWaitObserver>,
}

/// The first notice of a wait comes at once, the next ones after this time each.
const WAIT_NOTICE_INTERVAL: Duration = Duration::from_secs(5);

/// Hears which record a request waits for, and how long it has waited.
pub type LockWaitHandler = dyn Fn(&LockRecord, Duration) + Send + Sync;

/// The handler of a request.
#[derive(Clone)]
pub struct LockWaitObserver(pub Arc<LockWaitHandler>);

impl std::fmt::Debug for LockWaitObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockWaitObserver")
    }
}

/// Tells the observer of a request at once, and then now and then.
#[derive(Debug)]
struct WaitNotices {
    observer: Option<LockWaitObserver>,
    next: Duration,
}

impl WaitNotices {
    fn new(observer: Option<LockWaitObserver>) -> Self {
        Self { observer, next: Duration::ZERO }
    }

    fn waiting(&mut self, record: &LockRecord, waited: Duration) {
        if waited >= self.next
            && let Some(LockWaitObserver(observer)) = &self.observer
        {
            self.next = waited + WAIT_NOTICE_INTERVAL;
            observer(record, waited);
        }
    }
}

impl LockRequest {
    /// A request that does not wait.
    #[must_use]
    pub fn new(by: &str) -> Self {
        Self { by: by.to_owned(), url: None, purpose: None, wait: LockWait::Default, observer: None }
    }

    fn holder(&self) -> LockHolder {
        let who = format!("{}, process {}", self.by, std::process::id());
        LockHolder { who, url: self.url.clone(), purpose: self.purpose.clone() }
    }
}

/// A held lock. Dropping it releases it; [`close`](Self::close) also reports errors.
#[derive(Debug)]
pub struct DeploymentLock {
    kind: LockKind,
    location: String,
    /// The local file that records this holder.
    held_by_path: PathBuf,
    checkpoints: Option<Arc<CheckpointUploader>>,
}

#[derive(Debug)]
enum LockKind {
    Folder(Box<folder_lock::FolderLock>),
    Remote(RemoteLock),
}

/// The lock of the deployment that started this process. This process never releases it.
#[derive(Debug)]
pub struct InheritedLock {
    store: StateStore,
    token: LockToken,
    record: LockRecord,
}

/// Whether a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockStatus {
    /// Nobody holds it.
    Free,
    /// A running deployment holds it.
    Held,
    /// Its holder was killed, or was silent for a whole lease: the next deployment takes it.
    Stale,
    /// It has a holder; only time will show whether it is alive.
    Unknown,
}

impl StateStore {
    /// The state of an application in an environment. Does not touch the file system or the network.
    #[must_use]
    pub fn new(location: &StateLocation, app: &AppName, environment: &EnvironmentName) -> Self {
        let resource = format!("{app}/{environment}");
        let (root, remote) = match location {
            StateLocation::Dir(root) => (root.clone(), None),
            StateLocation::Remote(state) => {
                // One cache for each remote and plan: two checkouts on one machine behave like two machines.
                let key =
                    format!("{}\n{}\n{}", state.written, remote::cache_key(&state.location), state.folder.display());
                let cache = state.cache.join(contract::hash::Blake3Hash::of(key.as_bytes()).hex_prefix(16));
                let backend = RemoteBackend {
                    state: state.clone(),
                    cache: cache.clone(),
                    is_cached: AtomicBool::new(false),
                    last_read: Mutex::new(None),
                };
                (cache, Some(Arc::new(backend)))
            }
        };
        Self { folder: root.join(app.as_str()).join(environment.as_str()), resource, remote, checkpoints: None }
    }

    /// Also uploads journals to the artifacts of a CI run.
    ///
    /// # Errors
    /// [`StateError`] when the upload thread can't be started.
    pub fn with_checkpoints(mut self, config: checkpoints::CheckpointConfig) -> Result<Self, StateError> {
        let policy = if self.remote.is_some() { UploadPolicy::AtEnd } else { UploadPolicy::BeforeEachEffect };
        let started = CheckpointUploader::start(config, self.folder.clone(), policy);
        self.checkpoints = Some(
            started.map_err(|source| StateError::io("start a thread for the checkpoints of", &self.folder, source))?,
        );
        Ok(self)
    }

    /// The uploader to the artifacts of a CI run, if any.
    #[must_use]
    pub fn checkpoints(&self) -> Option<&Arc<CheckpointUploader>> {
        self.checkpoints.as_ref()
    }

    /// Whether the state is a local folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.remote.is_none()
    }

    /// `<app>/<environment>`.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The local folder of its journals.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its location, for people.
    #[must_use]
    pub fn display_location(&self) -> String {
        self.remote.as_ref().map_or_else(|| self.folder.display().to_string(), |backend| backend.state.written.clone())
    }

    /// Its location for a child process on this machine: see [`StateLocation::at`].
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

    /// The path of the journal of one attempt.
    #[must_use]
    pub fn journal_path(&self, epoch: u64) -> PathBuf {
        self.folder.join(journal_name(epoch))
    }

    /// Whether there is a journal of a later attempt here: the deployment with this epoch has lost the lock to one of this machine, whose
    /// journal does not follow its own.
    ///
    /// # Errors
    /// [`StateError`] when the folder can't be read.
    pub fn has_later_journal(&self, epoch: u64) -> Result<bool, StateError> {
        Ok(journals_in(&self.folder)?.last().is_some_and(|(newest, _)| *newest > epoch))
    }

    /// Takes the lock, waiting as long as the request says. A dropped future has not taken it. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`LockError`] when another deployment holds it, or when it can't be taken.
    pub async fn acquire_lock(&self, request: LockRequest) -> Result<DeploymentLock, LockError> {
        let (location, checkpoints) = (self.display_location(), self.checkpoints.clone());
        let Some(backend) = &self.remote else {
            let until = match request.wait {
                LockWait::Default => Duration::ZERO,
                LockWait::For(wait) => wait,
            };
            let began = Instant::now();
            let mut notices = WaitNotices::new(request.observer.clone());
            loop {
                match folder_lock::FolderLock::acquire(&self.folder, &self.resource, &request) {
                    Err(LockError::Held { record, .. }) if began.elapsed() < until => {
                        record.iter().for_each(|record| notices.waiting(record, began.elapsed()));
                        tokio::time::sleep(FOLDER_LOCK_POLL_INTERVAL).await
                    }
                    Err(error) => return Err(error),
                    Ok(held) => {
                        if let Some(checkpoints) = &checkpoints {
                            checkpoints.download_newest().await?;
                        }
                        let note = self.held_by_path();
                        return Ok(DeploymentLock {
                            kind: LockKind::Folder(Box::new(held)),
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
        let (lock, record) = RemoteLock::acquire(move || connecting.connect(&resource), params).await?;
        backend.remember(&record);
        backend.is_cached.store(true, Ordering::Relaxed);
        Ok(DeploymentLock { kind: LockKind::Remote(lock), location, held_by_path: self.held_by_path(), checkpoints })
    }

    fn held_by_path(&self) -> PathBuf {
        self.folder.join(HELD_BY_FILE)
    }

    /// Releases a remote lock whose holder was a killed process of this machine; never another holder's. Returns the
    /// released record.
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
            || !is_ours(&self.read_record()?.lock)
        {
            return Ok(None);
        }
        self.release_lock(by, message, true)
    }

    /// Verifies that the process that started this one holds the lock.
    ///
    /// # Errors
    /// [`LockError::InvalidToken`] when the token is forged, outdated or for another resource.
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
        let RemoteRecord { lock, .. } = self.read_record()?;
        if lock.holder.is_some() && lock.token() == *token && !token.nonce.is_empty() {
            return Ok(lock);
        }
        let why = "the lock is free, another deployment holds it, or the token is forged";
        Err(LockError::InvalidToken { resource: self.resource.clone(), why })
    }

    /// The last holder of the lock, and whether it is alive. With `should_watch`, watches for one lease if only time
    /// can tell.
    ///
    /// # Errors
    /// [`LockError`] when it can't be read.
    pub fn lock_status(&self, should_watch: bool) -> Result<(Option<LockRecord>, LockStatus), LockError> {
        if self.remote.is_none() {
            return folder_lock::lock_status(&self.folder);
        }
        let (lock, status) = self.with_remote(|remote, _| watch_lock(remote, should_watch))?;
        Ok(((lock.epoch > 0).then_some(lock), status))
    }

    /// Frees a lock whose holder has ended. Only `force` takes it from a running holder, who notices before its next
    /// effect. Returns the released record; `None` if the lock was free.
    ///
    /// # Errors
    /// [`LockError::HolderRunning`] when the holder is alive; other errors when the release fails.
    pub fn release_lock(&self, by: &str, message: &str, force: bool) -> Result<Option<LockRecord>, LockError> {
        let (record, status) = self.lock_status(!force)?;
        // The holder of a folder's lock writes its record a moment after it has taken the lock.
        let record = record.unwrap_or_else(|| LockRecord::never_held(&self.resource, journal::clock::now()));
        match status {
            LockStatus::Free => return Ok(None),
            LockStatus::Held | LockStatus::Unknown if !force => {
                return Err(LockError::HolderRunning { resource: self.resource.clone(), holder: record.holder });
            }
            LockStatus::Held | LockStatus::Unknown | LockStatus::Stale => {}
        }
        if self.remote.is_none() {
            folder_lock::release(&self.folder, &record, by, message, force)?;
            return Ok(Some(record));
        }
        let nonce = record::random_nonce().map_err(|error| StateError::Remote {
            action: "release the lock of",
            location: self.display_location(),
            why: error.to_string(),
        })?;
        self.with_remote(|remote, _| {
            let mut failed = None;
            // The holder may renew the lock in the meantime: read and write again.
            for _ in 0..10 {
                let seen = remote.read_record()?;
                if !seen.lock.is_same_holding(&record) {
                    return Ok(Some(record.clone()));
                }
                let change = RecordUpdate {
                    expected: &seen,
                    lock: &seen.lock.tombstone(nonce.clone(), ReleasedBy::Operator, clock::now()),
                    manifest: Some(&seen.manifest.with_forced_release(&seen.lock, by, message)),
                    files: &[],
                    removed: &[],
                    archives: &[],
                    message: &format!("{}: epoch {} released by {by}", self.resource, seen.lock.epoch),
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

    /// Forced releases, oldest first.
    ///
    /// # Errors
    /// [`StateError`] when they can't be read.
    pub fn forced_releases(&self) -> Result<Vec<ForcedRelease>, StateError> {
        if self.remote.is_none() {
            folder_lock::forced_releases_in(&self.folder)
        } else {
            Ok(self.read_record()?.manifest.released)
        }
    }

    fn read_record(&self) -> Result<RemoteRecord, StateError> {
        self.with_remote(|remote, _| remote.read_record())
    }

    /// Runs on its own thread, because it blocks and the caller may run the async runtime.
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
    fn remember(&self, record: &RemoteRecord) {
        *self.last_read.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.clone());
    }

    fn last_read(&self) -> Option<RemoteRecord> {
        self.last_read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn connect(&self, resource: &str) -> Result<Box<dyn RemoteStorage>, StateError> {
        Ok(match &self.state.location {
            RemoteLocation::Git(remote) => Box::new(git::GitStorage::new(&self.state, remote, resource, &self.cache)?),
            RemoteLocation::S3 { bucket, prefix } => {
                Box::new(s3::S3Storage::new(&self.state, bucket, prefix, resource)?)
            }
        })
    }
}

/// Reads the lock, and reads it again while only time can tell whether its holder is alive.
fn watch_lock(remote: &mut dyn RemoteStorage, should_watch: bool) -> Result<(LockRecord, LockStatus), StateError> {
    let (began, mut watch) = (Instant::now(), LockWatcher::default());
    let mut first: Option<LockRecord> = None;
    loop {
        let RemoteRecord { lock, .. } = remote.read_record()?;
        let observation = watch.observe(began.elapsed(), Some(&lock));
        let has_moved = first.as_ref().is_some_and(|first| *first != lock);
        match observation {
            LockObservation::Free => return Ok((lock, LockStatus::Free)),
            LockObservation::Expired => return Ok((lock, LockStatus::Stale)),
            LockObservation::Held(_) if has_moved => return Ok((lock, LockStatus::Held)),
            LockObservation::Held(_) if !should_watch => return Ok((lock, LockStatus::Unknown)),
            LockObservation::Held(runs_out) => {
                let pause = observer_timeout(lock.ttl().unwrap_or_default()) / 16;
                first.get_or_insert(lock);
                thread::sleep(pause.min(runs_out.saturating_sub(began.elapsed())));
            }
        }
    }
}

/// A runtime for blocking callers of async code: one thread, the caller's.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests;
