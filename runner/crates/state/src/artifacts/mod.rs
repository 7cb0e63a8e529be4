//! Artifacts of a CI run: they keep journals for the next attempt when its machine does not.
//!
//! ```text
//!   ArtifactStore ─ service   GitHub's artifact service: create, finalize, list, signed URL, delete
//!        │           ├─ runtime_token   the ids of run and job
//!        │           └─ blob            uploads in blocks, and downloads
//!        └─ rest      GitHub's REST API, the fallback
//!     all use http_client: retries, pauses, limits
//! ```
//!
//! Invariants: an artifact's name is used once. After an upload without a response, the store checks whether the
//! artifact exists before it uploads again, so at worst it exists twice, under two names. A download must match the
//! listed digest. Every function ends by its deadline. Deliberately absent: the meaning of artifacts, which one is the
//! newest (their ids have no order), and a thread: the caller provides a runtime. Dropping a future is safe at any
//! point.

mod blob;
mod error;
mod http_client;
mod rest;
mod runtime_token;
mod service;

use bytes::Bytes;
use reqwest::StatusCode;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

pub use error::ArtifactError;
pub use http_client::CallLimits;

use self::{
    http_client::ServiceHttpClient, rest::RestArtifactClient, runtime_token::JobBackendIds,
    service::ArtifactServiceClient,
};
use contract::{Digest, Secret};

/// The largest artifact, in bytes; far larger than a run's journals.
pub const MAX_ARTIFACT_BYTES: u64 = 64 << 20;
/// The most names that are tried for one upload.
const MAX_NAME_ATTEMPTS: u32 = 5;
/// Characters that the service rejects in a name, from the official client.
const FORBIDDEN_NAME_CHARS: [char; 11] = ['"', ':', '<', '>', '|', '*', '?', '\r', '\n', '\\', '/'];

/// A job's access to its artifacts.
#[derive(Clone, Debug)]
pub struct ArtifactAccess {
    /// `ACTIONS_RESULTS_URL`; only its origin counts.
    pub results_url: String,
    /// `ACTIONS_RUNTIME_TOKEN`.
    pub runtime_token: Secret,
    /// The REST API as a fallback, if configured.
    pub rest: Option<RestApiAccess>,
}

/// A job's access to GitHub's REST API.
#[derive(Clone, Debug)]
pub struct RestApiAccess {
    /// `GITHUB_API_URL`.
    pub api_url: String,
    /// `GITHUB_REPOSITORY`, `owner/name`.
    pub repository: String,
    /// `GITHUB_RUN_ID`.
    pub run: u64,
    /// A token with `actions: read`; deleting needs `actions: write`.
    pub token: Secret,
}

/// The artifacts of a run.
#[derive(Debug)]
pub struct ArtifactStore {
    client: ServiceHttpClient,
    service: ArtifactServiceClient,
    rest: Option<RestArtifactClient>,
}

/// An artifact in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactInfo {
    /// Its name.
    pub name: String,
    /// Its id, for links. Ids are not in the order of creation.
    pub id: u64,
    /// The size of its content in bytes, as listed.
    pub size: u64,
    /// The digest of its content, if listed.
    pub digest: Option<Digest>,
    source: ArtifactSource,
}

/// The API that listed it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ArtifactSource {
    /// The service, with the ids that it expects back.
    Service(JobBackendIds),
    Rest,
}

/// Why an upload failed.
enum UploadFailure {
    /// Another name may work.
    NameUnusable(ArtifactError),
    /// No name will work.
    Final(ArtifactError),
}

impl ArtifactStore {
    /// A store for the artifacts of a run. Makes no call yet, but reads the system's certificate authorities, which
    /// blocks for some milliseconds.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidAccess`] when a URL, the repository or a token is invalid.
    pub fn new(access: ArtifactAccess) -> Result<Self, ArtifactError> {
        Self::with_limits(access, CallLimits::DEFAULT)
    }

    /// A store with other limits.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_limits(access: ArtifactAccess, patience: CallLimits) -> Result<Self, ArtifactError> {
        let service = ArtifactServiceClient::new(&access)?;
        let mut secrets = vec![access.runtime_token];
        secrets.extend(access.rest.iter().map(|rest| rest.token.clone()));
        let tls = |why: String| ArtifactError::InvalidAccess { what: "TLS on this machine", why };
        let client = super::http::client().map_err(|error| tls(error.to_string()))?.user_agent(USER_AGENT).build();
        let client = client.map_err(|error| tls(error.without_url().to_string()))?;
        let rest = access.rest.map(RestArtifactClient::new).transpose()?;
        Ok(Self { client: ServiceHttpClient { client, limits: patience, secrets }, service, rest })
    }

    /// Uploads a zip under the name `<stem>-<nonce>`, which must be [valid](is_valid_name).
    ///
    /// # Errors
    /// When the outcome is a failure or unknown. The artifact may exist nevertheless.
    pub async fn upload(&self, stem: &str, content: Bytes) -> Result<ArtifactInfo, ArtifactError> {
        let until = self.client.deadline();
        if content.len() as u64 > MAX_ARTIFACT_BYTES {
            return Err(ArtifactError::TooLarge { action: "store an artifact", max: MAX_ARTIFACT_BYTES });
        }
        let digest = content_digest(&content);
        let mut names = 0;
        loop {
            names += 1;
            let nonce = super::record::random_nonce().map_err(|error| ArtifactError::InvalidAccess {
                what: "the system's random numbers",
                why: error.to_string(),
            })?;
            let name = format!("{stem}-{nonce}");
            match self.upload_as(&name, &content, &digest, until).await {
                Ok(stored) => return Ok(stored),
                Err(UploadFailure::NameUnusable(_))
                    if names < MAX_NAME_ATTEMPTS && self.client.wait_before_retry(names, None, until).await => {}
                Err(UploadFailure::NameUnusable(error) | UploadFailure::Final(error)) => return Err(error),
            }
        }
    }

    async fn upload_as(
        &self,
        name: &str,
        content: &Bytes,
        digest: &Digest,
        until: Instant,
    ) -> Result<ArtifactInfo, UploadFailure> {
        let url = self.service.create(&self.client, until, name).await.map_err(|error| {
            // The name exists, most likely from a lost response.
            if error.is_refused_with(StatusCode::CONFLICT) || error.is_refused_with(StatusCode::OK) {
                UploadFailure::NameUnusable(error)
            } else {
                UploadFailure::Final(error)
            }
        })?;
        blob::upload_blocks(&self.client, until, &url, content).await.map_err(|error| {
            if matches!(error, ArtifactError::Refused { .. }) {
                UploadFailure::NameUnusable(error)
            } else {
                UploadFailure::Final(error)
            }
        })?;
        let failed = match self.service.finalize(&self.client, until, name, content.len(), digest).await {
            Ok(stored) => return Ok(stored),
            Err(error @ ArtifactError::Unauthorized { .. }) => return Err(UploadFailure::Final(error)),
            Err(error) => error,
        };
        // Whatever the response was, the artifact may exist.
        let there = self.service.list(&self.client, until, Some(name)).await.unwrap_or_default();
        let is_it = |listed: &ArtifactInfo| {
            let is_whole =
                listed.digest.as_ref().map_or(listed.size == content.len() as u64, |listed| listed == digest);
            listed.name == name && is_whole
        };
        there.into_iter().find(is_it).ok_or(UploadFailure::NameUnusable(failed))
    }

    /// Lists the artifacts with a name prefix, in no order: from the service, or from the REST API if that fails.
    ///
    /// # Errors
    /// When both fail. An empty list is not an error.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ArtifactInfo>, ArtifactError> {
        let until = self.client.deadline();
        let by_service = self.service.list(&self.client, self.first_source_deadline(until), None).await;
        let mut listed = match (by_service, &self.rest) {
            (Ok(listed), _) => listed,
            (Err(error), None) => return Err(error),
            (Err(error), Some(rest)) => {
                rest.list(&self.client, until, rest.run()).await.map_err(|second| both_failed_error(error, second))?
            }
        };
        listed.retain(|listed| listed.name.starts_with(prefix));
        Ok(listed)
    }

    /// Lists the artifacts with a name prefix of another run of this repository, through the REST API.
    ///
    /// # Errors
    /// When it fails, or this job has no access to that API.
    pub async fn list_of_run(&self, run: u64, prefix: &str) -> Result<Vec<ArtifactInfo>, ArtifactError> {
        let until = self.client.deadline();
        let mut listed = self.rest()?.list(&self.client, until, run).await?;
        listed.retain(|listed| listed.name.starts_with(prefix));
        Ok(listed)
    }

    /// The earlier runs of this workflow on this branch, the newest first.
    ///
    /// # Errors
    /// When the REST API fails, or this job has no access to it.
    pub async fn earlier_runs(&self) -> Result<Vec<u64>, ArtifactError> {
        self.rest()?.earlier_runs(&self.client, self.client.deadline()).await
    }

    /// The earlier attempts of this run in which this job did not run, as far as the REST API tells.
    ///
    /// # Errors
    /// When the REST API fails, or this job has no access to it.
    pub async fn attempts_without_this_job(&self, attempt: u32, runner_name: &str) -> Result<Vec<u32>, ArtifactError> {
        let until = self.client.deadline();
        self.rest()?.attempts_without_this_job(&self.client, until, attempt, runner_name).await
    }

    fn rest(&self) -> Result<&RestArtifactClient, ArtifactError> {
        self.rest.as_ref().ok_or_else(no_rest_access_error)
    }

    /// Downloads an artifact: from the service, or from the REST API if that fails or the content differs.
    ///
    /// # Errors
    /// When it can't be read or does not match the list.
    pub async fn download(&self, listed: &ArtifactInfo) -> Result<Vec<u8>, ArtifactError> {
        let until = self.client.deadline();
        let by_service = match &listed.source {
            ArtifactSource::Service(backend) => {
                Some(self.download_by_service(listed, backend, self.first_source_deadline(until)).await)
            }
            ArtifactSource::Rest => None,
        };
        match (by_service, &self.rest) {
            (Some(Ok(content)), _) => Ok(content),
            (Some(Err(error)), None) => Err(error),
            (Some(Err(error)), Some(rest)) => {
                self.download_by_rest(listed, rest, until).await.map_err(|second| both_failed_error(error, second))
            }
            (None, Some(rest)) => self.download_by_rest(listed, rest, until).await,
            (None, None) => Err(no_rest_access_error()),
        }
    }

    async fn download_by_service(
        &self,
        listed: &ArtifactInfo,
        of: &JobBackendIds,
        until: Instant,
    ) -> Result<Vec<u8>, ArtifactError> {
        let url = self.service.signed_url(&self.client, until, of, &listed.name).await?;
        verify_digest(listed, blob::download(&self.client, until, &url, MAX_ARTIFACT_BYTES).await?)
    }

    async fn download_by_rest(
        &self,
        listed: &ArtifactInfo,
        rest: &RestArtifactClient,
        until: Instant,
    ) -> Result<Vec<u8>, ArtifactError> {
        verify_digest(listed, rest.download(&self.client, until, listed.id, MAX_ARTIFACT_BYTES).await?)
    }

    /// Deletes an artifact. A missing one counts as deleted.
    ///
    /// # Errors
    /// When it may still exist.
    pub async fn delete(&self, listed: &ArtifactInfo) -> Result<(), ArtifactError> {
        let until = self.client.deadline();
        let deleted = match (&listed.source, &self.rest) {
            (ArtifactSource::Service(backend), _) => {
                self.service.delete(&self.client, until, backend, &listed.name).await
            }
            (ArtifactSource::Rest, Some(rest)) => rest.delete(&self.client, until, listed.id).await,
            (ArtifactSource::Rest, None) => Err(no_rest_access_error()),
        };
        match deleted {
            Err(error) if error.is_refused_with(StatusCode::NOT_FOUND) => Ok(()),
            deleted => deleted,
        }
    }

    /// The deadline of the first of two sources.
    fn first_source_deadline(&self, until: Instant) -> Instant {
        if self.rest.is_some() { until - self.client.limits.total_timeout / 2 } else { until }
    }
}

/// The user agent.
const USER_AGENT: &str = concat!("pawl/", env!("CARGO_PKG_VERSION"));

fn both_failed_error(service: ArtifactError, rest: ArtifactError) -> ArtifactError {
    ArtifactError::BothFailed { service: Box::new(service), rest: Box::new(rest) }
}

fn no_rest_access_error() -> ArtifactError {
    ArtifactError::InvalidAccess {
        what: "GitHub's REST API",
        why: "it listed the artifact, but this job no longer has access to it".to_owned(),
    }
}

fn content_digest(content: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(content).into())
}

fn verify_digest(listed: &ArtifactInfo, content: Vec<u8>) -> Result<Vec<u8>, ArtifactError> {
    match &listed.digest {
        Some(expected) if *expected != content_digest(&content) => Err(ArtifactError::DigestMismatch {
            name: listed.name.clone(),
            listed: expected.clone(),
            found: content_digest(&content),
        }),
        Some(_) | None => Ok(content),
    }
}

/// Whether the service accepts a name.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| FORBIDDEN_NAME_CHARS.contains(&c) || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_names_are_rejected() {
        assert!(is_valid_name("pawl-shop-prod-deploy (ümläut, 1)-a01-s0001"));
        for name in ["", "a/b", "a\\b", "a:b", "a\nb", "a\tb", "a*", "a?", "a|b", "<a", "a>", "\"a\""] {
            assert!(!is_valid_name(name), "{name:?}");
        }
    }
}
