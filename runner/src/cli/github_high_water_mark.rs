//! The high-water mark of the checkpoints: the sequence of the newest acknowledged one, in the statuses of the GitHub deployment.
//!
//! Any job of a workflow run can delete an artifact and upload an older one in its place, MAC included. Only jobs with `deployments:
//! write` can add a deployment or a status. The mark of a job is the highest sequence in the statuses of its deployments, those of its
//! earlier attempts included: their payload says whose they are. Deliberately absent: the comparison with a checkpoint, which the
//! `state` crate makes.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{
    github_api::{CALL_TIMEOUT, api_error_text},
    github_deployment::{GithubDeploymentApi, PAYLOAD_KEY, sequence_in},
};
use contract::{diagnostic::Notice, text};
use sandbox::NoticeHandler;
use state::{
    bundle::{CheckpointIdentity, CheckpointSequence},
    checkpoints::HighWaterMark,
};

/// How many statuses are posted in a minute. GitHub takes 80 requests that create content, of all jobs with the same token.
const MAX_STATUSES_PER_MINUTE: usize = 40;
/// The largest page of a list.
const PAGE_LENGTH: usize = 100;
/// How many pages of deployments are searched: a run can be started again for 30 days.
const MAX_PAGES: usize = 10;

/// The mark of one job.
pub(super) struct GithubHighWaterMark {
    api: GithubDeploymentApi,
    /// The payload of this job's deployments.
    identity: Value,
    notify: NoticeHandler,
    /// The times of the newest statuses.
    posted: Mutex<VecDeque<Instant>>,
    has_warned: AtomicBool,
    /// GitHub did not answer in time once, so nothing waits for it again.
    is_silent: AtomicBool,
}

impl GithubHighWaterMark {
    pub(super) fn new(api: GithubDeploymentApi, identity: &CheckpointIdentity, notify: NoticeHandler) -> Self {
        Self {
            api,
            identity: serde_json::to_value(identity).expect("an identity has only text"),
            notify,
            posted: Mutex::default(),
            has_warned: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
        }
    }

    /// Whether a warning says that the mark may be too low.
    pub(super) fn has_warned(&self) -> bool {
        self.has_warned.load(Ordering::Relaxed)
    }

    fn warn(&self, why: &str) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            (self.notify)(Notice::warning(format!(
                "could not keep the journal's sequence in the GitHub deployment, so a re-run can't tell whether the journal that it \
                 finds is the newest: {}",
                text::escape_line(why)
            )));
        }
    }

    async fn get(&self, route: String) -> Result<Vec<Value>, octocrab::Error> {
        self.api.crab.get(route, None::<&()>).await
    }

    async fn highest_sequence(&self) -> Result<Option<CheckpointSequence>, octocrab::Error> {
        let route = &self.api.route;
        let mut highest = None;
        for page in 1..=MAX_PAGES {
            let query = format!("environment={}&per_page={PAGE_LENGTH}&page={page}", self.api.environment);
            let listed = self.get(format!("{route}?{query}")).await?;
            for id in listed.iter().filter(|one| self.is_ours(one)).filter_map(|one| one["id"].as_u64()) {
                let statuses = self.get(format!("{route}/{id}/statuses?per_page={PAGE_LENGTH}")).await?;
                let descriptions = statuses.iter().filter_map(|status| status["description"].as_str());
                highest = highest.max(descriptions.filter_map(sequence_in).max());
            }
            if listed.len() < PAGE_LENGTH {
                break;
            }
        }
        Ok(highest)
    }

    /// Whether a deployment is one of this job, by its payload: an object, or a text with its JSON.
    fn is_ours(&self, deployment: &Value) -> bool {
        let payload = &deployment["payload"];
        let parsed = payload.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        parsed.as_ref().unwrap_or(payload)[PAYLOAD_KEY] == self.identity
    }

    /// Whether one more status stays below the limit of a minute.
    fn takes_slot(&self) -> bool {
        let now = Instant::now();
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        posted.retain(|at| now.duration_since(*at) < Duration::from_secs(60));
        let has_room = posted.len() < MAX_STATUSES_PER_MINUTE;
        if has_room {
            posted.push_back(now);
        }
        has_room
    }
}

#[async_trait]
impl HighWaterMark for GithubHighWaterMark {
    async fn read(&self) -> Result<Option<CheckpointSequence>, String> {
        match self.highest_sequence().await {
            Ok(highest) => Ok(highest),
            // Without the permission, there is no mark, as without `deployments: true`.
            Err(octocrab::Error::GitHub { source, .. }) if matches!(source.status_code.as_u16(), 401 | 403 | 404) => {
                self.warn(&format!("{}: {}", source.status_code, text::truncate(&source.message, 300)));
                Ok(None)
            }
            Err(error) => Err(api_error_text(&error)),
        }
    }

    async fn raise(&self, sequence: CheckpointSequence) {
        if self.is_silent.load(Ordering::Relaxed) {
            return;
        }
        if !self.takes_slot() {
            return self.warn(&format!("more than {MAX_STATUSES_PER_MINUTE} steps began within a minute"));
        }
        let posted = timeout(CALL_TIMEOUT, async {
            let id = self.api.id().await?;
            let words = format!("{} is being deployed", self.api.release);
            self.api.post_status(id, "in_progress", &words, Some(sequence)).await
        });
        match posted.await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => self.warn(&why),
            Err(_) => {
                self.is_silent.store(true, Ordering::Relaxed);
                self.warn("GitHub did not answer in time");
            }
        }
    }
}
