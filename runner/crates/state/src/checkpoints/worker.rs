//! The thread that uploads, deletes and downloads the checkpoints of a job.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::JoinSet,
};

use super::{
    CheckpointCommand, CheckpointConfig, CheckpointReply, CheckpointStatus,
    earlier_attempts::{ListedCheckpoint, split_checkpoints},
    lock_mutex,
};
use crate::{
    StateError,
    artifacts::{ArtifactError, ArtifactInfo, ArtifactStore},
    bundle::{
        self, BundleError, ChainComparison, CheckpointContent, CheckpointSequence, CheckpointStart, UnpackedCheckpoint,
    },
    history::HistoryFolder,
};
use contract::text::error_chain_text;
use journal::state::AttemptSummary;

/// The pause after a failed upload, unless a new record starts one earlier.
const UPLOAD_RETRY_DELAY: Duration = Duration::from_secs(20);

/// The state of the thread.
pub(super) struct CheckpointWorker {
    pub(super) config: Arc<CheckpointConfig>,
    pub(super) folder: PathBuf,
    pub(super) status: Arc<Mutex<CheckpointStatus>>,
    /// Where the checkpoints of this process begin, once an attempt has begun.
    start: Option<CheckpointStart>,
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
    pub(super) fn new(config: Arc<CheckpointConfig>, folder: PathBuf, status: Arc<Mutex<CheckpointStatus>>) -> Self {
        Self {
            config,
            folder,
            status,
            start: None,
            uploaded_lines: 0,
            stored: Vec::new(),
            uploading_lines: Vec::new(),
            waiters: Vec::new(),
            needs_upload: false,
            needs_retry: false,
        }
    }

    pub(super) async fn run(mut self, mut commands: UnboundedReceiver<CheckpointCommand>) {
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
                    Some(CheckpointCommand::DownloadNewest(expected, answer)) => drop(answer.send(self.download_newest(&artifacts, expected).await)),
                    Some(CheckpointCommand::InspectExisting(answer)) => drop(answer.send(self.inspect_existing(&artifacts).await)),
                    Some(CheckpointCommand::RecordNothingBegun(answer)) => drop(answer.send(self.record_nothing_begun(&artifacts).await)),
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
        let content = match self.read_content() {
            Ok(content) => content,
            Err(error) => {
                lock_mutex(&self.status).last_error = Some(error.reason());
                return None;
            }
        };
        let lines = content.lines;
        if lines > self.uploaded_lines && self.uploading_lines.iter().all(|other| *other < lines) {
            self.uploading_lines.push(lines);
            let (artifacts, job) = (Arc::clone(artifacts), Arc::clone(&self.config));
            uploads.spawn(async move {
                let CheckpointConfig { identity, attempt, commit, key, .. } = &*job;
                let zip = content.pack(identity, *attempt, commit.clone(), key.as_ref());
                (lines, artifacts.upload(&identity.artifact_stem(*attempt, lines), zip.into()).await)
            });
        }
        Some(lines)
    }

    fn read_content(&mut self) -> Result<CheckpointContent, StateError> {
        if self.start.is_none() {
            self.start = CheckpointStart::find(&self.folder, self.config.url.as_deref())?;
        }
        CheckpointContent::read(&self.folder, self.start.as_ref())
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
                    shown.newest_id = Some(stored.id);
                    shown.sequence = Some(CheckpointSequence { attempt: self.config.attempt, lines });
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
        let here = self.read_content()?;
        let found = self.list_checkpoints(artifacts).await?;
        let mut newest: Option<(ArtifactInfo, UnpackedCheckpoint)> = None;
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
                            "artifact {} has lines that this machine does not have; if another job wrote it, give each an \
                             `instance:` of its own",
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
        let loaded = HistoryFolder::open(&self.folder)?.load(|_| {});
        let loaded = loaded.map_err(|error| not_uploaded_error(&error_chain_text(&error)))?;
        let is_of_run =
            |attempt: &AttemptSummary| attempt.header.url.is_some() && attempt.header.url == self.config.url;
        Ok(loaded.state.attempts.iter().any(is_of_run))
    }

    /// The checkpoints of this job up to this attempt that have lines, by their names; the newest first.
    async fn list_checkpoints(&self, artifacts: &ArtifactStore) -> Result<Vec<ListedCheckpoint>, StateError> {
        Ok(split_checkpoints(&self.config, artifacts.list(&self.config.identity.artifact_prefix()).await?).0)
    }

    /// Uploads a checkpoint without lines.
    async fn record_nothing_begun(&mut self, artifacts: &ArtifactStore) -> Result<(), StateError> {
        let CheckpointConfig { identity, attempt, commit, key, .. } = &*self.config;
        let zip = CheckpointContent::nothing_begun().pack(identity, *attempt, commit.clone(), key.as_ref());
        artifacts.upload(&identity.artifact_stem(*attempt, 0), zip.into()).await?;
        Ok(())
    }

    /// Downloads the newest checkpoint of this job into the folder. A failed read does not count as a missing
    /// checkpoint, and one that is older than `expected` is not the newest.
    async fn download_newest(
        &mut self,
        artifacts: &ArtifactStore,
        expected: Option<CheckpointSequence>,
    ) -> Result<(), StateError> {
        let job = Arc::clone(&self.config);
        if job.attempt < 2 {
            return self.download_from_earlier_runs(artifacts).await;
        }
        let CheckpointConfig { identity, key, .. } = &*job;
        let (found, empty) = split_checkpoints(&job, artifacts.list(&identity.artifact_prefix()).await?);
        let mut refused = None;
        for (at, (place, listed)) in found.iter().enumerate() {
            let (place, listed) = (*place, listed.clone());
            let content = artifacts.download(&listed).await?;
            let name = listed.name.clone();
            match bundle::unpack(&content, place, identity, key.as_ref()) {
                Ok(_) if let Some(expected) = expected.filter(|expected| place < *expected) => {
                    let (found, expected) = (place.to_string(), expected.to_string());
                    return Err(StateError::StaleCheckpoint { name, found, expected });
                }
                Ok(kept) => {
                    self.ensure_single_writer(artifacts, (&name, &kept), &found[at + 1..]).await?;
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
                Err(
                    error @ (BundleError::InvalidMac
                    | BundleError::KeyAdded
                    | BundleError::NameMismatch
                    | BundleError::Truncated),
                ) if key.is_some() => {
                    self.note_skipped(&name, &error.to_string());
                    refused.get_or_insert_with(|| error.in_artifact(&name));
                }
                Err(error) => return Err(error.in_artifact(&name)),
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        if self.has_begun_nothing(artifacts, &empty).await {
            return self.download_from_earlier_runs(artifacts).await;
        }
        lock_mutex(&self.status).is_missing = true;
        Ok(())
    }

    /// Refuses two checkpoints of one attempt of which neither contains the other: two jobs wrote them.
    async fn ensure_single_writer(
        &self,
        artifacts: &ArtifactStore,
        (name, newest): (&str, &UnpackedCheckpoint),
        older: &[ListedCheckpoint],
    ) -> Result<(), StateError> {
        let CheckpointConfig { identity, key, .. } = &*self.config;
        let attempt = identity.parse_artifact_name(name).map(|place| place.attempt);
        for (place, listed) in older.iter().filter(|(place, _)| Some(place.attempt) == attempt) {
            // One that can't be read, or is not authentic, is no other job's journal.
            let Ok(content) = artifacts.download(listed).await else { continue };
            let Ok(other) = bundle::unpack(&content, *place, identity, key.as_ref()) else { continue };
            if bundle::contains_all(newest, &other) {
                continue;
            }
            // Without a key, anybody may have written it, and none of them is more than a hint.
            if key.is_none() {
                self.note_skipped(&listed.name, "another job wrote it; an `instance:` tells jobs apart");
            } else {
                return Err(StateError::SharedIdentity { name: name.to_owned(), other: listed.name.clone() });
            }
        }
        Ok(())
    }

    pub(super) fn note_skipped(&self, name: &str, why: &str) {
        lock_mutex(&self.status).skipped_artifacts.push(format!("{name}: {why}"));
    }
}

/// Rejects every command with an error.
async fn reject_all_commands(mut commands: UnboundedReceiver<CheckpointCommand>, error: &ArtifactError) {
    while let Some(order) = commands.recv().await {
        match order {
            CheckpointCommand::DownloadNewest(_, answer)
            | CheckpointCommand::InspectExisting(answer)
            | CheckpointCommand::RecordNothingBegun(answer)
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
