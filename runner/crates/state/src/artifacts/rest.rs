//! A client of GitHub's REST API, the fallback when the artifact service fails. It needs a token with `actions: read`.
//!
//! It uses octocrab's plain `_get` on the runner's own HTTP client: octocrab's list of artifacts ignores the page
//! number, and its errors drop status and headers. Deliberately absent: uploads, which the REST API does not offer.

use std::collections::BTreeSet;

use octocrab::Octocrab;
use reqwest::{Body, Response, StatusCode, header::LOCATION};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::{
    ArtifactError, ArtifactInfo, ArtifactSource, RestApiAccess, blob,
    http_client::{ServiceCall, ServiceHttpClient, ServiceResponse},
};

/// Artifacts per page, GitHub's maximum.
const PAGE_SIZE: usize = 100;
/// The most pages of a run: 500 artifacts a job, 256 jobs a matrix.
const MAX_PAGES: usize = 1300;

#[derive(Debug)]
pub(super) struct RestArtifactClient {
    access: RestApiAccess,
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

    /// Lists all artifacts of the run, from every attempt.
    pub(super) async fn list(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
    ) -> Result<Vec<ArtifactInfo>, ArtifactError> {
        let call = calls.api_call("list artifacts", until);
        let crab = self.api_client(calls)?;
        let RestApiAccess { repository, run, .. } = &self.access;
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
