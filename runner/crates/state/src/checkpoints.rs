//! Uploads journals to the artifacts of a CI run, and downloads them on the next machine.
//!
//! A dedicated thread uploads the journals whenever a record was written that the next attempt needs; later records
//! join the next upload. What must be uploaded before an effect ([`CheckpointUploader::ensure_uploaded`]) starts at
//! once, in parallel with running uploads. Superseded checkpoints are deleted. Invariant: when `ensure_uploaded`
//! returns, everything that the journals held at its call can be listed and downloaded. Deliberately absent: the
//! content of a checkpoint ([`super::bundle`]), and how artifacts are stored ([`super::artifacts`]).
//!
//! A high-water mark, if there is one, keeps the sequence of the newest acknowledged checkpoint where the other jobs of the run can't
//! change it. It is raised after the acknowledgement and before the effect, so it is never ahead of what can be downloaded.

mod earlier_attempts;
mod worker;

use std::{
    collections::BTreeSet,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{
    mpsc::{UnboundedSender, unbounded_channel},
    oneshot,
};

use self::worker::CheckpointWorker;
use super::{
    StateError,
    artifacts::ArtifactAccess,
    bundle::{CheckpointIdentity, CheckpointKey, CheckpointSequence},
};
use contract::step::StepPhase;
use journal::{
    JournalEvent, StepTarget,
    event::{Decision, JournalEntry},
};

/// The settings for the checkpoints of a CI job.
#[derive(Clone, Debug)]
pub struct CheckpointConfig {
    pub identity: CheckpointIdentity,
    /// The attempt of the workflow run. From the second one on, there may be a checkpoint to resume from.
    pub attempt: u32,
    /// The page of the workflow run, as in the journals' headers.
    pub url: Option<String>,
    pub commit: Option<String>,
    pub key: Option<CheckpointKey>,
    /// The machine's name on GitHub, by which the job is found in GitHub's list of jobs.
    pub runner_name: Option<String>,
    pub access: ArtifactAccess,
}

impl CheckpointConfig {
    /// Whether this job continues from the artifacts of earlier workflow runs: they prove nothing without a key.
    #[must_use]
    pub fn reads_earlier_runs(&self) -> bool {
        self.key.is_some() && self.access.rest.is_some()
    }
}

/// Keeps the sequence of the newest acknowledged checkpoint, out of reach of the other jobs of the run.
#[async_trait]
pub trait HighWaterMark: Send + Sync {
    /// The sequence that was kept last, by whichever attempt of this job.
    ///
    /// # Errors
    /// The reason why nobody knows: then no checkpoint can be called the newest.
    async fn read(&self) -> Result<Option<CheckpointSequence>, String>;

    /// Keeps a sequence. Returns within a bounded time; a failure is a warning of its own.
    async fn raise(&self, sequence: CheckpointSequence);
}

/// When journals must be uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadPolicy {
    /// Before every effect of the commit phase: the next machine has nothing else.
    BeforeEachEffect,
    /// At the end, if possible: the state has the journals, these are for people.
    AtEnd,
}

/// The status of the uploads.
#[derive(Clone, Debug, Default)]
pub struct CheckpointStatus {
    /// The newest checkpoint that was uploaded.
    pub newest: Option<String>,
    /// The id of that artifact.
    pub newest_id: Option<u64>,
    /// The sequence of the newest checkpoint that this process uploaded.
    pub sequence: Option<CheckpointSequence>,
    /// The checkpoint that this attempt resumed from.
    pub resumed_from: Option<String>,
    /// A checkpoint was expected but missing.
    pub is_missing: bool,
    /// Why the artifacts of earlier workflow runs were not read, although the job has a key.
    pub earlier_runs_unread: Option<String>,
    /// Newer checkpoints that were skipped, with the reason.
    pub skipped_artifacts: Vec<String>,
    /// The last error.
    pub last_error: Option<String>,
}

type CheckpointReply<T> = oneshot::Sender<Result<T, StateError>>;

enum CheckpointCommand {
    /// Nothing older than the given sequence is the newest.
    DownloadNewest(Option<CheckpointSequence>, CheckpointReply<()>),
    InspectExisting(CheckpointReply<()>),
    RecordNothingBegun(CheckpointReply<()>),
    UploadSoon,
    EnsureUploaded(CheckpointReply<()>),
    /// Uploads everything. With `true`, also waits until the superseded checkpoints are deleted.
    Close(bool, CheckpointReply<()>),
}

/// A handle on the thread that uploads the checkpoints of a job.
pub struct CheckpointUploader {
    commands: UnboundedSender<CheckpointCommand>,
    status: Arc<Mutex<CheckpointStatus>>,
    /// Check steps: they change nothing, so their records need no upload.
    check_steps: Mutex<BTreeSet<StepTarget>>,
    policy: UploadPolicy,
    config: Arc<CheckpointConfig>,
    /// The high-water mark, and the sequence that it has.
    mark: Mutex<Option<Arc<dyn HighWaterMark>>>,
    marked: Mutex<Option<CheckpointSequence>>,
}

impl fmt::Debug for CheckpointUploader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointUploader").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl CheckpointUploader {
    /// Starts the thread. It makes no call yet.
    pub(super) fn start(config: CheckpointConfig, folder: PathBuf, policy: UploadPolicy) -> io::Result<Arc<Self>> {
        let (commands, receiver) = unbounded_channel();
        let shown = Arc::new(Mutex::new(CheckpointStatus::default()));
        let config = Arc::new(config);
        let worker = CheckpointWorker::new(Arc::clone(&config), folder, Arc::clone(&shown));
        let runtime = super::runtime()?;
        thread::Builder::new()
            .name("pawl-checkpoints".to_owned())
            .spawn(move || runtime.block_on(worker.run(receiver)))?;
        Ok(Arc::new(Self {
            commands,
            status: shown,
            check_steps: Mutex::default(),
            policy,
            config,
            mark: Mutex::default(),
            marked: Mutex::default(),
        }))
    }

    /// Whose checkpoints these are.
    #[must_use]
    pub fn identity(&self) -> &CheckpointIdentity {
        &self.config.identity
    }

    /// Keeps a high-water mark from now on, if the next attempt depends on the checkpoints.
    pub fn set_high_water_mark(&self, mark: Arc<dyn HighWaterMark>) {
        if self.policy == UploadPolicy::BeforeEachEffect {
            *lock_mutex(&self.mark) = Some(mark);
        }
    }

    /// The current status.
    #[must_use]
    pub fn status(&self) -> CheckpointStatus {
        lock_mutex(&self.status).clone()
    }

    /// Downloads the newest checkpoint: of this workflow run, or, if this job has begun nothing in it, of an earlier one.
    pub(super) async fn download_newest(&self) -> Result<(), StateError> {
        if self.policy == UploadPolicy::AtEnd || self.config.attempt < 2 && !self.config.reads_earlier_runs() {
            return Ok(());
        }
        let mark = lock_mutex(&self.mark).clone();
        let expected = match mark {
            None => None,
            Some(_) if self.config.attempt < 2 => None,
            Some(mark) => mark.read().await.map_err(|why| StateError::UnknownHighWaterMark { why })?,
        };
        self.send_command(|answer| CheckpointCommand::DownloadNewest(expected, answer)).await
    }

    /// Records in the artifacts that this attempt of the workflow run has begun nothing, so that the next one does not miss its
    /// journal. [`status`](Self::status) reports a failure.
    pub async fn record_nothing_begun(&self, within: Duration) {
        if self.policy == UploadPolicy::AtEnd {
            return;
        }
        let recorded = tokio::time::timeout(within, self.send_command(CheckpointCommand::RecordNothingBegun)).await;
        let reason = match recorded {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.reason(),
            Err(_) => format!("it timed out after {} s", within.as_secs()),
        };
        lock_mutex(&self.status).last_error = Some(reason);
    }

    /// Starts a background upload if the next attempt needs this record.
    pub fn observe(&self, entry: &JournalEntry) {
        let mut checks = lock_mutex(&self.check_steps);
        let place = match &entry.event {
            JournalEvent::Plan { steps, .. } => {
                checks.extend(
                    steps.iter().filter(|step| step.phase == StepPhase::Check).map(|step| step.step_target.clone()),
                );
                return;
            }
            JournalEvent::Intent { step_target: place, .. }
            | JournalEvent::Outcome { step_target: place, .. }
            | JournalEvent::UndoIntent { step_target: place }
            | JournalEvent::UndoOutcome { step_target: place, .. }
            | JournalEvent::Decision { step_target: place, decision: Decision::Adopt { .. } } => place,
            JournalEvent::Decision {
                decision: Decision::Skip { .. } | Decision::Run { .. } | Decision::Stop { .. },
                ..
            }
            | JournalEvent::Started(_)
            | JournalEvent::Lock { .. }
            | JournalEvent::Torn { .. }
            | JournalEvent::SwitchedBack { .. }
            | JournalEvent::Progress { .. }
            | JournalEvent::Output { .. }
            | JournalEvent::Probe { .. }
            | JournalEvent::Override { .. }
            | JournalEvent::HostLeftBehind { .. }
            | JournalEvent::Resolved { .. }
            | JournalEvent::RecordLost { .. }
            | JournalEvent::Ended { .. }
            | JournalEvent::Unrecognized => return,
        };
        if self.policy == UploadPolicy::BeforeEachEffect && !checks.contains(place) {
            // If the thread has ended, the next command reports it.
            let _ = self.commands.send(CheckpointCommand::UploadSoon);
        }
    }

    /// Waits until the current content of the journals is uploaded, if the policy requires it, and raises the high-water mark.
    pub(super) async fn ensure_uploaded(&self) -> Result<(), StateError> {
        match self.policy {
            UploadPolicy::BeforeEachEffect => self.send_command(CheckpointCommand::EnsureUploaded).await?,
            UploadPolicy::AtEnd => return Ok(()),
        }
        self.raise_high_water_mark().await;
        Ok(())
    }

    /// Raises the mark to the newest acknowledged checkpoint.
    async fn raise_high_water_mark(&self) {
        let mark = lock_mutex(&self.mark).clone();
        let (Some(mark), Some(sequence)) = (mark, self.status().sequence) else { return };
        if lock_mutex(&self.marked).replace(sequence) != Some(sequence) {
            mark.raise(sequence).await;
        }
    }

    /// Uploads the rest within a time limit. [`status`](Self::status) reports a failure.
    pub(super) async fn close(&self, within: Duration) {
        self.close_worker(within, false).await;
    }

    async fn close_worker(&self, within: Duration, waits_for_removals: bool) {
        let closed = self.send_command(|answer| CheckpointCommand::Close(waits_for_removals, answer));
        let reason = match tokio::time::timeout(within, closed).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.reason(),
            Err(_) => format!("it timed out after {} s", within.as_secs()),
        };
        lock_mutex(&self.status).last_error = Some(reason);
    }

    /// Uploads what the artifacts are missing, after the process that wrote it has ended.
    pub async fn upload_remaining(&self, within: Duration) {
        let reason = match tokio::time::timeout(within, self.send_command(CheckpointCommand::InspectExisting)).await {
            Ok(Ok(())) => return self.close_worker(within, true).await,
            Ok(Err(error)) => error.reason(),
            Err(_) => format!("it timed out after {} s", within.as_secs()),
        };
        lock_mutex(&self.status).last_error = Some(reason);
    }

    async fn send_command(
        &self,
        command: impl FnOnce(CheckpointReply<()>) -> CheckpointCommand,
    ) -> Result<(), StateError> {
        let gone = || StateError::NotUploaded { why: "the upload thread has ended".to_owned() };
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn lock_mutex<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
