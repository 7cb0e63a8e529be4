//! Uploads journals to the artifacts of a CI run, and downloads them on the next machine.
//!
//! A dedicated thread uploads the journals whenever a record was written that the next attempt needs; later records
//! join the next upload. What must be uploaded before an effect ([`CheckpointUploader::ensure_uploaded`]) starts at
//! once, in parallel with running uploads. Superseded checkpoints are deleted. Invariant: when `ensure_uploaded`
//! returns, everything that the journals held at its call can be listed and downloaded. Deliberately absent: the
//! content of a checkpoint ([`super::bundle`]), and how artifacts are stored ([`super::artifacts`]).

use std::{
    collections::BTreeSet,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    task::JoinSet,
};

use super::{
    StateError,
    artifacts::{ArtifactAccess, ArtifactError, ArtifactInfo, ArtifactStore},
    bundle::{
        self, BundleError, ChainComparison, CheckpointIdentity, CheckpointJournal, CheckpointKey, JournalSnapshot,
    },
    journals_in,
};
use contract::{step::StepPhase, text::error_chain_text};
use journal::{
    JournalEvent, LoadedJournals, StepTarget,
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
    pub access: ArtifactAccess,
}

/// The pause after a failed upload, unless a new record starts one earlier.
const UPLOAD_RETRY_DELAY: Duration = Duration::from_secs(20);

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
    /// The checkpoint that this attempt resumed from.
    pub resumed_from: Option<String>,
    /// A checkpoint was expected but missing.
    pub is_missing: bool,
    /// Newer checkpoints that were skipped, with the reason.
    pub skipped_artifacts: Vec<String>,
    /// The last error.
    pub last_error: Option<String>,
}

type CheckpointReply<T> = oneshot::Sender<Result<T, StateError>>;

enum CheckpointCommand {
    DownloadNewest(CheckpointReply<()>),
    InspectExisting(CheckpointReply<()>),
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
    attempt: u32,
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
        let attempt = config.attempt;
        let worker = CheckpointWorker {
            config: Arc::new(config),
            folder,
            status: Arc::clone(&shown),
            uploaded_lines: 0,
            stored: Vec::new(),
            uploading_lines: Vec::new(),
            waiters: Vec::new(),
            needs_upload: false,
            needs_retry: false,
        };
        let runtime = super::runtime()?;
        thread::Builder::new()
            .name("pawl-checkpoints".to_owned())
            .spawn(move || runtime.block_on(worker.run(receiver)))?;
        Ok(Arc::new(Self { commands, status: shown, check_steps: Mutex::default(), policy, attempt }))
    }

    /// The current status.
    #[must_use]
    pub fn status(&self) -> CheckpointStatus {
        lock_mutex(&self.status).clone()
    }

    /// Downloads the newest checkpoint, unless this is the first attempt of the workflow run.
    pub(super) async fn download_newest(&self) -> Result<(), StateError> {
        if self.attempt < 2 || self.policy == UploadPolicy::AtEnd {
            return Ok(());
        }
        self.send_command(CheckpointCommand::DownloadNewest).await
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
            | JournalEvent::Progress { .. }
            | JournalEvent::Output { .. }
            | JournalEvent::Probe { .. }
            | JournalEvent::Override { .. }
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

    /// Waits until the current content of the journals is uploaded, if the policy requires it.
    pub(super) async fn ensure_uploaded(&self) -> Result<(), StateError> {
        match self.policy {
            UploadPolicy::BeforeEachEffect => self.send_command(CheckpointCommand::EnsureUploaded).await,
            UploadPolicy::AtEnd => Ok(()),
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

/// The state of the thread.
struct CheckpointWorker {
    config: Arc<CheckpointConfig>,
    folder: PathBuf,
    status: Arc<Mutex<CheckpointStatus>>,
    /// How many lines are uploaded.
    uploaded_lines: u64,
    /// Uploaded checkpoints, the newest last.
    stored: Vec<ArtifactInfo>,
    /// The line counts of the running uploads.
    uploading_lines: Vec<u64>,
    /// Callers that wait until this many lines are uploaded.
    waiters: Vec<(u64, CheckpointReply<()>)>,
    /// A record was written after the last upload began.
    needs_upload: bool,
    /// An upload failed and will be retried.
    needs_retry: bool,
}

type UploadResult = (u64, Result<ArtifactInfo, ArtifactError>);

impl CheckpointWorker {
    async fn run(mut self, mut commands: UnboundedReceiver<CheckpointCommand>) {
        let artifacts = match ArtifactStore::new(self.config.access.clone()) {
            Ok(artifacts) => Arc::new(artifacts),
            Err(error) => return reject_all_commands(commands, &error).await,
        };
        let (mut uploads, mut removals) = (JoinSet::<UploadResult>::new(), JoinSet::<()>::new());
        let mut closing = None;
        loop {
            tokio::select! {
                biased;
                Some(Ok(done)) = uploads.join_next(), if !uploads.is_empty() => self.on_upload_finished(done),
                Some(_) = removals.join_next(), if !removals.is_empty() => {}
                order = commands.recv(), if closing.is_none() => match order {
                    Some(CheckpointCommand::DownloadNewest(answer)) => drop(answer.send(self.download_newest(&artifacts).await)),
                    Some(CheckpointCommand::InspectExisting(answer)) => drop(answer.send(self.inspect_existing(&artifacts).await)),
                    Some(CheckpointCommand::UploadSoon) => self.needs_upload = true,
                    Some(CheckpointCommand::EnsureUploaded(answer)) => self.reply_when_uploaded(answer, &artifacts, &mut uploads),
                    Some(CheckpointCommand::Close(waits_for_removals, answer)) => {
                        let (last, there) = oneshot::channel();
                        self.reply_when_uploaded(last, &artifacts, &mut uploads);
                        closing = Some((waits_for_removals, there, answer));
                    }
                    None => return,
                },
                () = tokio::time::sleep(UPLOAD_RETRY_DELAY), if self.needs_retry && closing.is_none() => (self.needs_retry, self.needs_upload) = (false, true),
                else => {}
            }
            if self.needs_upload && self.uploading_lines.is_empty() && closing.is_none() {
                self.start_upload(&artifacts, &mut uploads);
            }
            while self.stored.len() > 1 {
                let (artifacts, superseded) = (Arc::clone(&artifacts), self.stored.remove(0));
                // A checkpoint that is not deleted only takes space until it expires.
                removals.spawn(async move { drop(artifacts.delete(&superseded).await) });
            }
            let is_over =
                uploads.is_empty() && closing.as_ref().is_some_and(|(tidies, ..)| removals.is_empty() || !tidies);
            if is_over && let Some((_, mut there, answer)) = closing.take() {
                let result = there.try_recv().unwrap_or_else(|_| Err(not_uploaded_error("the upload was abandoned")));
                let _ = answer.send(result);
                // Deletes superseded checkpoints while this process is still alive; the `post` command deletes the
                // rest.
                while removals.join_next().await.is_some() {}
                return;
            }
        }
    }

    /// Starts an upload of the journals, unless they are uploaded or on their way.
    fn start_upload(&mut self, artifacts: &Arc<ArtifactStore>, uploads: &mut JoinSet<UploadResult>) -> Option<u64> {
        self.needs_upload = false;
        let snapshot = match JournalSnapshot::read(&self.folder) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                lock_mutex(&self.status).last_error = Some(error.reason());
                return None;
            }
        };
        let lines = snapshot.lines;
        if lines > self.uploaded_lines && self.uploading_lines.iter().all(|other| *other < lines) {
            self.uploading_lines.push(lines);
            let (artifacts, job) = (Arc::clone(artifacts), Arc::clone(&self.config));
            uploads.spawn(async move {
                let CheckpointConfig { identity, attempt, commit, key, .. } = &*job;
                let zip = snapshot.pack(identity, *attempt, commit.clone(), key.as_ref());
                (lines, artifacts.upload(&identity.artifact_stem(*attempt, lines), zip.into()).await)
            });
        }
        Some(lines)
    }

    fn reply_when_uploaded(
        &mut self,
        answer: CheckpointReply<()>,
        artifacts: &Arc<ArtifactStore>,
        uploads: &mut JoinSet<UploadResult>,
    ) {
        match self.start_upload(artifacts, uploads) {
            None => drop(answer.send(Err(not_uploaded_error("the journals on this machine can't be read")))),
            Some(lines) if lines <= self.uploaded_lines => drop(answer.send(Ok(()))),
            Some(lines) => self.waiters.push((lines, answer)),
        }
    }

    fn on_upload_finished(&mut self, (lines, result): UploadResult) {
        self.uploading_lines.retain(|other| *other != lines);
        let mut shown = lock_mutex(&self.status);
        match result {
            Ok(stored) => {
                shown.last_error = None;
                if lines > self.uploaded_lines {
                    self.uploaded_lines = lines;
                    shown.newest = Some(stored.name.clone());
                    self.stored.push(stored);
                } else {
                    self.stored.insert(0, stored);
                }
                for (needed, answer) in std::mem::take(&mut self.waiters) {
                    if needed <= self.uploaded_lines {
                        let _ = answer.send(Ok(()));
                    } else {
                        self.waiters.push((needed, answer));
                    }
                }
            }
            Err(error) => {
                let why = error_chain_text(&error);
                for (needed, answer) in std::mem::take(&mut self.waiters) {
                    if self.uploading_lines.iter().any(|other| *other >= needed) {
                        self.waiters.push((needed, answer));
                    } else {
                        let _ = answer.send(Err(not_uploaded_error(&why)));
                    }
                }
                shown.last_error = Some(why);
                self.needs_retry = true;
            }
        }
    }

    /// Reads the checkpoints that another process of this job has uploaded. Never uploads a checkpoint that would hide
    /// lines missing here.
    async fn inspect_existing(&mut self, artifacts: &ArtifactStore) -> Result<(), StateError> {
        let job = Arc::clone(&self.config);
        let here = JournalSnapshot::read(&self.folder)?;
        let found = self.list_checkpoints(artifacts).await?;
        let mut newest: Option<(ArtifactInfo, Vec<CheckpointJournal>)> = None;
        for (place, listed) in found {
            // An unreadable checkpoint is incomplete or from somebody else. At worst, this uploads one too many.
            let unpacked = match artifacts.download(&listed).await {
                Ok(content) => {
                    let unpacked = bundle::unpack(&content, place, &job.identity, job.key.as_ref());
                    unpacked.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match (unpacked, &newest) {
                (Err(why), _) => self.note_skipped(&listed.name, &why),
                (Ok(kept), Some((_, newest))) if bundle::contains_all(newest, &kept) => self.stored.insert(0, listed),
                (Ok(_), Some(_)) => {}
                (Ok(kept), None) => match here.compare_with(&kept) {
                    ChainComparison::Covered => {
                        self.uploaded_lines = here.lines;
                        lock_mutex(&self.status).newest = Some(listed.name.clone());
                        newest = Some((listed, kept));
                    }
                    ChainComparison::Ahead => break,
                    ChainComparison::Diverged => {
                        return Err(not_uploaded_error(&format!(
                            "artifact {} has lines that this machine does not have",
                            listed.name
                        )));
                    }
                },
            }
        }
        match newest {
            Some((newest, _)) => self.stored.push(newest),
            None if self.has_attempt_of_run()? => {}
            // This machine has no attempt of this workflow run.
            None => self.uploaded_lines = here.lines,
        }
        Ok(())
    }

    /// Whether the journals here contain an attempt of this workflow run.
    fn has_attempt_of_run(&self) -> Result<bool, StateError> {
        let paths: Vec<PathBuf> = journals_in(&self.folder)?.into_iter().map(|(_, path)| path).collect();
        let loaded =
            LoadedJournals::read(&paths, |_| ()).map_err(|error| not_uploaded_error(&error_chain_text(&error)))?;
        Ok(loaded
            .state
            .attempts
            .iter()
            .any(|attempt| attempt.header.url.is_some() && attempt.header.url == self.config.url))
    }

    /// The checkpoints of this job up to this attempt, by their names; the newest first.
    async fn list_checkpoints(&self, artifacts: &ArtifactStore) -> Result<Vec<((u32, u64), ArtifactInfo)>, StateError> {
        let CheckpointConfig { identity, attempt, .. } = &*self.config;
        let listed = artifacts.list(&identity.artifact_prefix()).await?;
        let of_this_job = |listed: ArtifactInfo| Some((identity.parse_artifact_name(&listed.name)?, listed));
        let mut found: Vec<_> =
            listed.into_iter().filter_map(of_this_job).filter(|((of, _), _)| of <= attempt).collect();
        found.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.name.cmp(&other.name)));
        Ok(found)
    }

    /// Downloads the newest checkpoint of this job into the folder. A failed read does not count as a missing
    /// checkpoint.
    async fn download_newest(&mut self, artifacts: &ArtifactStore) -> Result<(), StateError> {
        let job = Arc::clone(&self.config);
        let CheckpointConfig { identity, key, .. } = &*job;
        let found = self.list_checkpoints(artifacts).await?;
        let mut refused = None;
        for (place, listed) in found {
            let content = artifacts.download(&listed).await?;
            let name = listed.name.clone();
            match bundle::unpack(&content, place, identity, key.as_ref()) {
                Ok(kept) => {
                    bundle::merge_into_folder(&self.folder, &kept, &name)?;
                    lock_mutex(&self.status).resumed_from = Some(name);
                    // The next checkpoint will contain all of it.
                    self.stored.push(listed);
                    return Ok(());
                }
                // Its upload was never acknowledged, so nothing depends on it. An artifact with a digest was
                // acknowledged.
                Err(BundleError::Truncated) if listed.digest.is_none() => {
                    self.note_skipped(&name, &BundleError::Truncated.to_string())
                }
                // An earlier one may have a valid MAC and a matching name.
                Err(error @ (BundleError::InvalidMac | BundleError::NameMismatch | BundleError::Truncated))
                    if key.is_some() =>
                {
                    self.note_skipped(&name, &error.to_string());
                    refused.get_or_insert_with(|| error.in_artifact(&name));
                }
                Err(error) => return Err(error.in_artifact(&name)),
            }
        }
        match refused {
            Some(refused) => Err(refused),
            None => {
                lock_mutex(&self.status).is_missing = true;
                Ok(())
            }
        }
    }

    fn note_skipped(&self, name: &str, why: &str) {
        lock_mutex(&self.status).skipped_artifacts.push(format!("{name}: {why}"));
    }
}

/// Rejects every command with an error.
async fn reject_all_commands(mut commands: UnboundedReceiver<CheckpointCommand>, error: &ArtifactError) {
    while let Some(order) = commands.recv().await {
        match order {
            CheckpointCommand::DownloadNewest(answer)
            | CheckpointCommand::InspectExisting(answer)
            | CheckpointCommand::EnsureUploaded(answer)
            | CheckpointCommand::Close(_, answer) => {
                let _ = answer.send(Err(error.clone().into()));
            }
            CheckpointCommand::UploadSoon => {}
        }
    }
}

fn not_uploaded_error(why: &str) -> StateError {
    StateError::NotUploaded { why: why.to_owned() }
}

fn lock_mutex<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
