//! The entry in GitHub's own list of deployments: created when ours begins, and updated when it ends.
//!
//! It is created in the background, and the end waits a bounded time. A failure is a warning. The requests are those of GitHub's REST
//! API, "Deployments". Deliberately absent: reading the list ([`super::github_high_water_mark`]).

use std::{sync::Arc, time::Duration};

use octocrab::Octocrab;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::{
    github_api::{self, CALL_TIMEOUT, api_error_text},
    source::{self, env_variable},
};
use crate::report::messages;
use contract::text;
use contract::{
    EnvironmentName, Label,
    diagnostic::{Diagnostic, ExitKind, Notice},
};
use plan::Plan;
use state::bundle::{CheckpointIdentity, CheckpointSequence};

/// The longest time of all calls at the end together, after a request to stop: the process must end within 7 s of it.
const INTERRUPTED_TIMEOUT: Duration = Duration::from_millis(500);
/// The longest description that GitHub takes, in characters.
const MAX_DESCRIPTION_CHARS: usize = 140;

/// What stands before the sequence in a description.
const SEQUENCE_START: &str = " (journal ";
/// The key of our identity in the payload of an entry.
pub(super) const PAYLOAD_KEY: &str = "pawl";

/// One entry of the list, created or being created.
pub(super) struct GithubDeployment {
    api: GithubDeploymentApi,
    creation: JoinHandle<()>,
}

/// The access to GitHub's API for this entry.
#[derive(Clone)]
pub(super) struct GithubDeploymentApi {
    pub(super) crab: Octocrab,
    /// The route: `/repos/OWNER/NAME/deployments`.
    pub(super) route: String,
    pub(super) environment: EnvironmentName,
    /// The request that creates it.
    request: Value,
    /// Its id, or the reason why it has none, once either is known.
    created: Arc<watch::Sender<Option<Result<u64, String>>>>,
    /// The web address of the environment.
    environment_url: Option<String>,
    /// The page of this job.
    log_url: Option<String>,
    pub(super) release: Label,
}

impl GithubDeployment {
    /// Starts to create the entry. Needs a tokio runtime.
    pub(super) fn start(api: GithubDeploymentApi) -> Self {
        let creating = api.clone();
        let creation = tokio::spawn(async move {
            let created = creating.create().await;
            creating.created.send_replace(Some(created));
        });
        Self { api, creation }
    }

    /// Posts the final status, with the sequence of the newest checkpoint. Returns a warning if that fails.
    pub(super) async fn finish(
        self,
        exit: ExitKind,
        error: Option<&Diagnostic>,
        sequence: Option<CheckpointSequence>,
    ) -> Option<Notice> {
        let until = Instant::now() + if exit == ExitKind::Interrupted { INTERRUPTED_TIMEOUT } else { CALL_TIMEOUT };
        let told = timeout_at(until, async {
            let id = self.api.id().await?;
            let (state, words) = self.api.status_and_description(exit, error);
            self.api.post_status(id, state, &words, sequence).await
        });
        let told = told.await.unwrap_or_else(|_| Err("GitHub did not answer in time".to_owned()));
        self.creation.abort();
        told.err().map(|why| update_warning(&why))
    }
}

impl GithubDeploymentApi {
    /// The access to GitHub's API, if the job asks for a deployment. The entry says whose checkpoints its statuses are about. Makes no
    /// call.
    pub(super) fn of_job(
        plan: &Plan,
        release: &Label,
        commit: Option<&str>,
        identity: Option<&CheckpointIdentity>,
    ) -> Option<Result<Self, Notice>> {
        let is_asked = env_variable("PAWL_DEPLOYMENTS").as_deref() == Some("true");
        is_asked.then(|| Self::new(plan, release, commit, identity).map_err(|why| update_warning(&why)))
    }

    fn new(
        plan: &Plan,
        release: &Label,
        commit: Option<&str>,
        identity: Option<&CheckpointIdentity>,
    ) -> Result<Self, String> {
        let set = |name: &str| {
            let value = env_variable(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("{name} is not set"))
        };
        let (token, repository) = (set("PAWL_TOKEN")?, set("GITHUB_REPOSITORY")?);
        let is_name = |name: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !name.trim_matches('.').is_empty() && name.chars().all(fits)
        };
        if !repository.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name)) {
            return Err("GITHUB_REPOSITORY is not OWNER/NAME".to_owned());
        }
        let commit = commit.map_or_else(|| set("GITHUB_SHA"), |commit| Ok(commit.to_owned()));
        let commit = commit.map_err(|_| "the commit of the release is unknown".to_owned())?;
        let mut request = create_request(&plan.environment, &format!("{} {release}", plan.app), &commit);
        if let Some(identity) = identity {
            request["payload"] = json!({ PAYLOAD_KEY: identity });
        }
        Ok(Self {
            crab: github_api::client(token)?,
            route: format!("/repos/{repository}/deployments"),
            environment: plan.environment.clone(),
            request,
            created: Arc::new(watch::Sender::new(None)),
            environment_url: plan.url.clone(),
            log_url: source::job_url(),
            release: release.clone(),
        })
    }

    async fn create(&self) -> Result<u64, String> {
        let made = self.crab.post(&self.route, Some(&self.request)).await;
        let made: Value = made.map_err(|error| api_error_text(&error))?;
        let id = made.get("id").and_then(Value::as_u64);
        let id = id.ok_or_else(|| "GitHub's answer has no deployment id".to_owned())?;
        self.post_status(id, "in_progress", &format!("{} is being deployed", self.release), None).await?;
        Ok(id)
    }

    /// Its id, once it is created.
    pub(super) async fn id(&self) -> Result<u64, String> {
        let mut created = self.created.subscribe();
        let created = created.wait_for(Option::is_some).await.map_err(|error| error.to_string())?;
        created.clone().unwrap_or_else(|| Err("it was not created".to_owned()))
    }

    pub(super) async fn post_status(
        &self,
        id: u64,
        state: &str,
        words: &str,
        sequence: Option<CheckpointSequence>,
    ) -> Result<(), String> {
        let mut body = json!({"state": state, "description": describe(words, sequence)});
        for (name, value) in [("log_url", &self.log_url), ("environment_url", &self.environment_url)] {
            if let Some(value) = value {
                body[name] = json!(value);
            }
        }
        let route = format!("{}/{id}/statuses", self.route);
        self.crab.post::<_, Value>(route, Some(&body)).await.map(drop).map_err(|error| api_error_text(&error))
    }

    /// The status for a result, and its description.
    fn status_and_description(&self, exit: ExitKind, error: Option<&Diagnostic>) -> (&'static str, String) {
        let release = &self.release;
        match (exit, error) {
            (ExitKind::Success, _) => ("success", format!("{release} is deployed")),
            (_, Some(error)) => {
                ("failure", format!("{release}: {}; {}", messages::result(Some(exit), false), error.message))
            }
            (_, None) => ("failure", format!("{release}: {}", messages::result(Some(exit), false))),
        }
    }
}

/// A description, with the sequence of the newest checkpoint at its end.
fn describe(words: &str, sequence: Option<CheckpointSequence>) -> String {
    let suffix = sequence.map_or_else(String::new, |sequence| format!("{SEQUENCE_START}{sequence})"));
    text::truncate(words, MAX_DESCRIPTION_CHARS - suffix.len()) + &suffix
}

/// The sequence in a description.
pub(super) fn sequence_in(description: &str) -> Option<CheckpointSequence> {
    description.strip_suffix(')')?.rsplit_once(SEQUENCE_START)?.1.parse().ok()
}

/// The request for a new entry, without a merge and without waiting for checks, since this job comes after them.
fn create_request(environment: &EnvironmentName, description: &str, commit: &str) -> Value {
    let name = environment.as_str();
    let is_transient = ["pr-", "preview", "review"].iter().any(|start| name.starts_with(start));
    json!({
        "ref": commit,
        "environment": name,
        "description": text::truncate(description, MAX_DESCRIPTION_CHARS),
        "auto_merge": false,
        "required_contexts": [],
        "transient_environment": is_transient,
        "production_environment": matches!(name, "prod" | "production"),
    })
}

fn update_warning(why: &str) -> Notice {
    Notice::warning(format!("could not update the GitHub deployment: {}", text::escape_line(why)))
}
