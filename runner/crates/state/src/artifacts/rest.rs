//! GitHub's REST API, for what the artifact service lists or gives wrongly. It needs a token with `actions: read`.
//!
//! Through octocrab on our own HTTP, by its plain `_get`: its own list of artifacts drops the page that it is asked for, and its errors
//! keep neither status nor headers for us. Deliberately absent: storing, which REST can't.

use std::collections::BTreeSet;

use octocrab::Octocrab;
use reqwest::{Body, Response, StatusCode, header::LOCATION};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::{
    ArtifactError, Listed, RestAccess, Whence, blob,
    calls::{Answer, Call, Calls},
};

/// Artifacts a page: the most that GitHub gives.
const PAGE: usize = 100;
/// A run has no more pages than this: 500 artifacts a job, 256 jobs a matrix.
const PAGES: usize = 1300;

#[derive(Debug)]
pub(super) struct Rest {
    access: RestAccess,
}

#[derive(Deserialize)]
struct Page {
    total_count: usize,
    artifacts: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: u64,
    name: String,
    #[serde(default)]
    size_in_bytes: u64,
    #[serde(default)]
    expired: bool,
    digest: Option<String>,
}

impl Rest {
    pub(super) fn new(access: RestAccess) -> Result<Self, ArtifactError> {
        let wrong = |what, why: &str| Err(ArtifactError::Access { what, why: why.to_owned() });
        if !Url::parse(&access.api_url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            return wrong("GITHUB_API_URL", "it is no http or https URL");
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
            return wrong("the token", "it has characters that no token has, or none");
        }
        Ok(Self { access })
    }

    /// All artifacts of the run, of every attempt.
    pub(super) async fn list(&self, calls: &Calls, until: Instant) -> Result<Vec<Listed>, ArtifactError> {
        let call = calls.call("list artifacts", until);
        let crab = self.crab(calls)?;
        let RestAccess { repository, run, .. } = &self.access;
        let (mut listed, mut seen, mut passed) = (Vec::new(), BTreeSet::new(), 0);
        for page in 1..=PAGES {
            let route = format!("/repos/{repository}/actions/runs/{run}/artifacts?per_page={PAGE}&page={page}");
            let answer = calls.ask(call, || get(&crab, &route)).await?;
            self.expect(calls, call, &answer, StatusCode::OK)?;
            let Page { total_count, artifacts } = serde_json::from_slice(&answer.body).map_err(|_| {
                let why = "the list of artifacts is not what the API's description says".to_owned();
                ArtifactError::Refused { action: call.action, status: answer.status, why }
            })?;
            passed += artifacts.len();
            let is_last = artifacts.is_empty() || passed >= total_count;
            for entry in artifacts {
                // While others store artifacts, one may be on two pages.
                if !entry.expired && seen.insert(entry.id) {
                    let digest = entry.digest.and_then(|digest| digest.parse().ok());
                    let Entry { id, name, size_in_bytes: size, .. } = entry;
                    listed.push(Listed { name, id, size, digest, whence: Whence::Rest });
                }
            }
            if is_last {
                return Ok(listed);
            }
        }
        let why = format!("there is no end after {PAGES} pages of artifacts");
        Err(ArtifactError::Refused { action: call.action, status: StatusCode::OK, why })
    }

    /// The content of an artifact, by the redirect to where it lies. The token does not go there.
    pub(super) async fn content(
        &self,
        calls: &Calls,
        until: Instant,
        id: u64,
        max: u64,
    ) -> Result<Vec<u8>, ArtifactError> {
        let call = calls.transfer("read an artifact", until, max);
        let crab = self.crab(calls)?;
        let route = format!("/repos/{}/actions/artifacts/{id}/zip", self.access.repository);
        let answer = calls.ask(call, || get(&crab, &route)).await?;
        // Some servers that do as GitHub does give it at once.
        if answer.status == StatusCode::OK {
            return Ok(answer.body);
        }
        self.expect(calls, call, &answer, StatusCode::FOUND)?;
        let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
        let url = Url::parse(&self.access.api_url).ok().zip(location).and_then(|(base, to)| base.join(to).ok());
        let Some(url) = url else {
            let why = "the redirect leads nowhere".to_owned();
            return Err(ArtifactError::Refused { action: call.action, status: answer.status, why });
        };
        blob::get(calls, until, &url, max).await
    }

    pub(super) async fn delete(&self, calls: &Calls, until: Instant, id: u64) -> Result<(), ArtifactError> {
        let call = calls.call("delete an artifact", until);
        let crab = self.crab(calls)?;
        let route = format!("/repos/{}/actions/artifacts/{id}", self.access.repository);
        let delete =
            || async { crab._delete(route.as_str(), None::<&()>).await.map(|answer| answer.map(Body::wrap).into()) };
        let answer = calls.ask(call, delete).await?;
        self.expect(calls, call, &answer, StatusCode::NO_CONTENT)
    }

    /// Made for each use: it lives as long as the runtime that it was made in.
    fn crab(&self, calls: &Calls) -> Result<Octocrab, ArtifactError> {
        let wrong = |error: octocrab::Error| ArtifactError::Access {
            what: "GITHUB_API_URL",
            why: calls.harmless(&error.to_string()),
        };
        let crab = Octocrab::builder().personal_token(self.access.token.reveal());
        let crab = crab.base_uri(self.access.api_url.as_str()).map_err(wrong)?;
        crab.build_with_reqwest(calls.client.clone()).map_err(wrong)
    }

    fn expect(&self, calls: &Calls, call: Call, answer: &Answer, status: StatusCode) -> Result<(), ArtifactError> {
        #[derive(Default, Deserialize)]
        struct Fault {
            #[serde(default)]
            message: String,
        }
        match answer.status {
            same if same == status => Ok(()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(ArtifactError::Unauthorized { action: call.action, token: "the token of the REST API", status })
            }
            status => {
                let said: Fault = serde_json::from_slice(&answer.body).unwrap_or_default();
                Err(ArtifactError::Refused { action: call.action, status, why: calls.harmless(&said.message) })
            }
        }
    }
}

/// octocrab's answer, to be read as any other: with a bound.
async fn get(crab: &Octocrab, route: &str) -> octocrab::Result<Response> {
    Ok(crab._get(route).await?.map(Body::wrap).into())
}
