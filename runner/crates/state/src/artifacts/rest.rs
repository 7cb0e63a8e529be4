//! A client of GitHub's REST API, the fallback when the artifact service fails. It needs a token with `actions: read`.
//!
//! It uses octocrab's plain `_get` on the runner's own HTTP client: octocrab's list of artifacts ignores the page
//! number, and its errors drop status and headers. Deliberately absent: uploads, which the REST API does not offer.

use std::collections::BTreeSet;

use octocrab::Octocrab;
use reqwest::{Body, Response, StatusCode, header::LOCATION};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::Instant;
use url::Url;

use super::{
    ArtifactError, ArtifactInfo, ArtifactSource, RestApiAccess, blob,
    http_client::{ServiceCall, ServiceHttpClient, ServiceResponse},
};

/// Artifacts per page, GitHub's maximum.
const PAGE_SIZE: usize = 100;
/// The most earlier workflow runs that are asked for a journal.
const MAX_EARLIER_RUNS: usize = 20;
/// The most pages of a run: 500 artifacts a job, 256 jobs a matrix.
const MAX_PAGES: usize = 1300;

#[derive(Debug)]
pub(super) struct RestArtifactClient {
    access: RestApiAccess,
}

/// The order of workflow runs: by what began last, since an old run may be run again.
fn began(run: &WorkflowRun) -> (Option<&str>, u64) {
    (run.run_started_at.as_deref(), run.run_number)
}

/// A workflow run, as far as it is read here.
#[derive(Deserialize)]
struct WorkflowRun {
    id: u64,
    workflow_id: u64,
    run_number: u64,
    /// When its newest attempt began; RFC 3339 in UTC, so it sorts as text.
    run_started_at: Option<String>,
    head_branch: Option<String>,
    repository: RepositoryId,
    head_repository: Option<RepositoryId>,
}

#[derive(Deserialize)]
struct RepositoryId {
    id: u64,
}

#[derive(Deserialize)]
struct WorkflowRunPage {
    workflow_runs: Vec<WorkflowRun>,
}

/// A job of one attempt, as far as it is read here.
#[derive(Deserialize)]
struct WorkflowJob {
    name: String,
    status: Option<String>,
    conclusion: Option<String>,
    runner_name: Option<String>,
    #[serde(default)]
    steps: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct WorkflowJobPage {
    total_count: usize,
    jobs: Vec<WorkflowJob>,
}

#[derive(Deserialize)]
struct RestArtifactPage {
    total_count: usize,
    artifacts: Vec<RestArtifact>,
}

#[derive(Deserialize)]
struct RestArtifact {
    id: u64,
    name: String,
    #[serde(default)]
    size_in_bytes: u64,
    #[serde(default)]
    expired: bool,
    digest: Option<String>,
}

impl RestArtifactClient {
    pub(super) fn new(access: RestApiAccess) -> Result<Self, ArtifactError> {
        let wrong = |what, why: &str| Err(ArtifactError::InvalidAccess { what, why: why.to_owned() });
        if !Url::parse(&access.api_url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            return wrong("GITHUB_API_URL", "it is not an http or https URL");
        }
        let is_name = |name: &str| {
            let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !name.trim_matches('.').is_empty() && name.chars().all(is_fine)
        };
        if !access.repository.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name)) {
            return wrong("GITHUB_REPOSITORY", "it is not OWNER/NAME");
        }
        let token = access.token.reveal();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("the token", "it is empty or has characters that are invalid in a token");
        }
        Ok(Self { access })
    }

    /// The id of this workflow run.
    pub(super) fn run(&self) -> u64 {
        self.access.run
    }

    /// Lists all artifacts of a run of this repository, from every attempt.
    pub(super) async fn list(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
        run: u64,
    ) -> Result<Vec<ArtifactInfo>, ArtifactError> {
        let call = calls.api_call("list artifacts", until);
        let crab = self.api_client(calls)?;
        let repository = &self.access.repository;
        let (mut listed, mut seen, mut passed) = (Vec::new(), BTreeSet::new(), 0);
        for page in 1..=MAX_PAGES {
            let route = format!("/repos/{repository}/actions/runs/{run}/artifacts?per_page={PAGE_SIZE}&page={page}");
            let answer = calls.send_with_retries(call, || get_response(&crab, &route)).await?;
            self.expect_status(calls, call, &answer, StatusCode::OK)?;
            let RestArtifactPage { total_count, artifacts } = serde_json::from_slice(&answer.body).map_err(|_| {
                let why = "the artifact list does not match the API's schema".to_owned();
                ArtifactError::Refused { action: call.action, status: answer.status, why }
            })?;
            passed += artifacts.len();
            let is_last = artifacts.is_empty() || passed >= total_count;
            for entry in artifacts {
                // While other jobs store artifacts, one may appear on two pages.
                if !entry.expired && seen.insert(entry.id) {
                    let digest = entry.digest.and_then(|digest| digest.parse().ok());
                    let RestArtifact { id, name, size_in_bytes: size, .. } = entry;
                    listed.push(ArtifactInfo { name, id, size, digest, source: ArtifactSource::Rest });
                }
            }
            if is_last {
                return Ok(listed);
            }
        }
        let why = format!("the artifact list has more than {MAX_PAGES} pages");
        Err(ArtifactError::Refused { action: call.action, status: StatusCode::OK, why })
    }

    /// The earlier runs of this workflow on this branch, the newest first. A run for a fork is none of them.
    pub(super) async fn earlier_runs(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
    ) -> Result<Vec<u64>, ArtifactError> {
        let action = "list earlier workflow runs";
        let RestApiAccess { repository, run, .. } = &self.access;
        let ours: WorkflowRun =
            self.get_json(calls, until, action, &format!("/repos/{repository}/actions/runs/{run}")).await?;
        let Some(branch) = &ours.head_branch else { return Ok(Vec::new()) };
        let query: String = url::form_urlencoded::Serializer::new(String::new()).append_pair("branch", branch).finish();
        let route = format!(
            "/repos/{repository}/actions/workflows/{}/runs?{query}&per_page={MAX_EARLIER_RUNS}",
            ours.workflow_id
        );
        let WorkflowRunPage { workflow_runs } = self.get_json(calls, until, action, &route).await?;
        let is_earlier = |run: &&WorkflowRun| {
            let is_own = run.head_repository.as_ref().is_some_and(|head| head.id == run.repository.id);
            is_own && run.id != ours.id && began(run) < began(&ours) && run.head_branch == ours.head_branch
        };
        let mut earlier: Vec<_> = workflow_runs.iter().filter(is_earlier).collect();
        earlier.sort_unstable_by_key(|run| std::cmp::Reverse(began(run)));
        Ok(earlier.into_iter().map(|run| run.id).collect())
    }

    /// The earlier attempts of this run in which this job did not run. Jobs have no ids over attempts, so this job is the one that runs
    /// on this machine now, and those of the same name.
    pub(super) async fn attempts_without_this_job(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
        attempt: u32,
        runner_name: &str,
    ) -> Result<Vec<u32>, ArtifactError> {
        let now = self.jobs(calls, until, attempt).await?;
        let is_this = |job: &&WorkflowJob| {
            job.status.as_deref() == Some("in_progress") && job.runner_name.as_deref() == Some(runner_name)
        };
        let mut here = now.iter().filter(is_this);
        let (Some(this), None) = (here.next(), here.next()) else { return Ok(Vec::new()) };
        let mut without = Vec::new();
        for earlier in 1..attempt {
            let jobs = self.jobs(calls, until, earlier).await?;
            let did_run = |job: &WorkflowJob| {
                // A job whose runner was lost may list no steps.
                let had_runner = job.runner_name.as_deref().is_some_and(|name| !name.is_empty());
                job.name == this.name
                    && job.conclusion.as_deref() != Some("skipped")
                    && (had_runner || !job.steps.is_empty())
            };
            if !jobs.iter().any(did_run) {
                without.push(earlier);
            }
        }
        Ok(without)
    }

    async fn jobs(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
        attempt: u32,
    ) -> Result<Vec<WorkflowJob>, ArtifactError> {
        let RestApiAccess { repository, run, .. } = &self.access;
        let (mut all, mut page) = (Vec::new(), 1);
        loop {
            let route = format!(
                "/repos/{repository}/actions/runs/{run}/attempts/{attempt}/jobs?per_page={PAGE_SIZE}&page={page}"
            );
            let WorkflowJobPage { total_count, jobs } = self.get_json(calls, until, "list jobs", &route).await?;
            let is_last = jobs.is_empty() || all.len() + jobs.len() >= total_count;
            all.extend(jobs);
            if is_last || page == MAX_PAGES {
                return Ok(all);
            }
            page += 1;
        }
    }

    async fn get_json<T: DeserializeOwned>(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
        action: &'static str,
        route: &str,
    ) -> Result<T, ArtifactError> {
        let call = calls.api_call(action, until);
        let crab = self.api_client(calls)?;
        let answer = calls.send_with_retries(call, || get_response(&crab, route)).await?;
        self.expect_status(calls, call, &answer, StatusCode::OK)?;
        serde_json::from_slice(&answer.body).map_err(|_| {
            let why = "the answer does not match the API's schema".to_owned();
            ArtifactError::Refused { action, status: answer.status, why }
        })
    }

    /// Downloads an artifact through a redirect to its storage, which does not get the token.
    pub(super) async fn download(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
        id: u64,
        max: u64,
    ) -> Result<Vec<u8>, ArtifactError> {
        let call = calls.transfer_call("read an artifact", until, max);
        let crab = self.api_client(calls)?;
        let route = format!("/repos/{}/actions/artifacts/{id}/zip", self.access.repository);
        let answer = calls.send_with_retries(call, || get_response(&crab, &route)).await?;
        // Some servers that imitate GitHub return the content directly.
        if answer.status == StatusCode::OK {
            return Ok(answer.body);
        }
        self.expect_status(calls, call, &answer, StatusCode::FOUND)?;
        let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
        let url = Url::parse(&self.access.api_url).ok().zip(location).and_then(|(base, to)| base.join(to).ok());
        let Some(url) = url else {
            let why = "the redirect has no valid `Location`".to_owned();
            return Err(ArtifactError::Refused { action: call.action, status: answer.status, why });
        };
        blob::download(calls, until, &url, max).await
    }

    pub(super) async fn delete(&self, calls: &ServiceHttpClient, until: Instant, id: u64) -> Result<(), ArtifactError> {
        let call = calls.api_call("delete an artifact", until);
        let crab = self.api_client(calls)?;
        let route = format!("/repos/{}/actions/artifacts/{id}", self.access.repository);
        let delete =
            || async { crab._delete(route.as_str(), None::<&()>).await.map(|answer| answer.map(Body::wrap).into()) };
        let answer = calls.send_with_retries(call, delete).await?;
        self.expect_status(calls, call, &answer, StatusCode::NO_CONTENT)
    }

    /// Created for each use, because it lives only as long as its runtime.
    fn api_client(&self, calls: &ServiceHttpClient) -> Result<Octocrab, ArtifactError> {
        let wrong = |error: octocrab::Error| ArtifactError::InvalidAccess {
            what: "GITHUB_API_URL",
            why: calls.redacted_line(&error.to_string()),
        };
        let crab = Octocrab::builder().personal_token(self.access.token.reveal());
        let crab = crab.base_uri(self.access.api_url.as_str()).map_err(wrong)?;
        crab.build_with_reqwest(calls.client.clone()).map_err(wrong)
    }

    fn expect_status(
        &self,
        calls: &ServiceHttpClient,
        call: ServiceCall,
        answer: &ServiceResponse,
        status: StatusCode,
    ) -> Result<(), ArtifactError> {
        #[derive(Default, Deserialize)]
        struct RestErrorBody {
            #[serde(default)]
            message: String,
        }
        match answer.status {
            same if same == status => Ok(()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(ArtifactError::Unauthorized { action: call.action, token: "the token of the REST API", status })
            }
            status => {
                let said: RestErrorBody = serde_json::from_slice(&answer.body).unwrap_or_default();
                Err(ArtifactError::Refused { action: call.action, status, why: calls.redacted_line(&said.message) })
            }
        }
    }
}

/// Converts octocrab's response into one that is read with a size limit.
async fn get_response(crab: &Octocrab, route: &str) -> octocrab::Result<Response> {
    Ok(crab._get(route).await?.map(Body::wrap).into())
}
