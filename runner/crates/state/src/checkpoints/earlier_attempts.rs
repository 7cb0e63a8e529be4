//! What earlier attempts and earlier workflow runs left in the artifacts, besides the newest checkpoint of this run.
//!
//! A checkpoint without lines says that its attempt began nothing. A job with a key also continues from the newest run of its workflow and
//! branch. Deliberately absent: the checkpoints of this run ([`super::worker`]).

use std::{collections::BTreeSet, sync::Arc};

use super::{CheckpointConfig, lock_mutex, worker::CheckpointWorker};
use crate::{
    StateError,
    artifacts::{ArtifactInfo, ArtifactStore},
    bundle::{self, CheckpointIdentity, CheckpointSequence},
    history::HistoryFolder,
};
use contract::text::error_chain_text;

/// A checkpoint as its name shows it.
pub(super) type ListedCheckpoint = (CheckpointSequence, ArtifactInfo);

impl CheckpointWorker {
    /// Whether each earlier attempt of the workflow run is known to have begun nothing: it said so in a checkpoint without lines, or
    /// GitHub lists no such job for it.
    pub(super) async fn has_begun_nothing(&self, artifacts: &ArtifactStore, empty: &[ListedCheckpoint]) -> bool {
        let CheckpointConfig { identity, key, attempt, runner_name, .. } = &*self.config;
        let mut unknown: BTreeSet<u32> = (1..*attempt).collect();
        for (place, listed) in empty {
            let Ok(content) = artifacts.download(listed).await else { continue };
            if bundle::unpack(&content, *place, identity, key.as_ref()).is_ok() {
                unknown.remove(&place.attempt);
            }
        }
        if !unknown.is_empty()
            && let Some(runner_name) = runner_name
        {
            // Without an answer, nothing is known.
            let without = artifacts.attempts_without_this_job(*attempt, runner_name).await.unwrap_or_default();
            unknown.retain(|attempt| !without.contains(attempt));
        }
        unknown.is_empty()
    }

    /// Downloads the newest checkpoint of this job from an earlier run of this workflow on this branch, if this machine has no history
    /// of its own.
    pub(super) async fn download_from_earlier_runs(&mut self, artifacts: &ArtifactStore) -> Result<(), StateError> {
        let job = Arc::clone(&self.config);
        if !job.reads_earlier_runs() || HistoryFolder::open(&self.folder)?.newest_epoch() > 0 {
            return Ok(());
        }
        let runs = match artifacts.earlier_runs().await {
            Ok(runs) => runs,
            Err(error) if error.is_denied() => {
                lock_mutex(&self.status).earlier_runs_unread = Some(error_chain_text(&error));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for run in runs {
            let identity = CheckpointIdentity { workflow_run: run.to_string(), ..job.identity.clone() };
            let listed = artifacts.list_of_run(run, &identity.artifact_prefix()).await?;
            let any_attempt = CheckpointConfig { identity, attempt: u32::MAX, ..(*job).clone() };
            let (found, _) = split_checkpoints(&any_attempt, listed);
            for (place, listed) in &found {
                let content = artifacts.download(listed).await?;
                match bundle::unpack(&content, *place, &any_attempt.identity, job.key.as_ref()) {
                    Ok(kept) => {
                        bundle::merge_into_folder(&self.folder, &kept, &listed.name)?;
                        lock_mutex(&self.status).resumed_from = Some(listed.name.clone());
                        return Ok(());
                    }
                    // The key of an earlier run may have been another one: the record starts anew.
                    Err(error) => self.note_skipped(&listed.name, &error.to_string()),
                }
            }
            // Older runs know less than this one.
            if !found.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The checkpoints of a job up to its attempt, by their names, the newest first: those with lines, and those without.
pub(super) fn split_checkpoints(
    config: &CheckpointConfig,
    listed: Vec<ArtifactInfo>,
) -> (Vec<ListedCheckpoint>, Vec<ListedCheckpoint>) {
    let CheckpointConfig { identity, attempt, .. } = config;
    let of_this_job = |listed: ArtifactInfo| Some((identity.parse_artifact_name(&listed.name)?, listed));
    let mut found: Vec<_> =
        listed.into_iter().filter_map(of_this_job).filter(|(place, _)| place.attempt <= *attempt).collect();
    found.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.name.cmp(&other.name)));
    found.into_iter().partition(|(place, _)| place.lines > 0)
}
