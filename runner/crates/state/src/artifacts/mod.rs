//! Artifacts of a CI run: where journals wait for the next attempt when the machine does not.
//!
//! ```text
//!   Artifacts ─ service   GitHub's artifact service: create, finalize, list, signed URL, delete
//!        │       ├─ token   the ids of run and job
//!        │       └─ blob    the content, up in blocks and down
//!        └─ rest          GitHub's REST API, when the service lists or gives wrongly
//!     all by calls        tries, pauses, limits
//! ```
//!
//! Invariants: an artifact's name is used once; after no answer it is looked whether it is there before the content is stored again,
//! so that at worst it is there twice, under two names. What is read is what was listed, by its digest. Every function ends by its
//! deadline. Deliberately absent: what is in an artifact, which one is the newest (their ids say nothing), and a thread: who calls
//! brings a runtime. Dropping a future is safe at any point.

mod blob;
mod calls;
mod error;
mod rest;
mod service;
mod token;

use bytes::Bytes;
use reqwest::StatusCode;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

pub use calls::Patience;
pub use error::ArtifactError;

use self::{calls::Calls, rest::Rest, service::Service, token::Backend};
use contract::{Digest, Secret};

/// The most bytes of an artifact: far more than a run's journals.
pub const MOST: u64 = 64 << 20;
/// How many names are tried for one content.
const NAMES: u32 = 5;
/// What the service does not take in a name, as the official client has it.
const FORBIDDEN: [char; 11] = ['"', ':', '<', '>', '|', '*', '?', '\r', '\n', '\\', '/'];

/// What a CI gives a job to reach its artifacts.
#[derive(Clone, Debug)]
pub struct Access {
    /// `ACTIONS_RESULTS_URL`; only its origin counts.
    pub results_url: String,
    /// `ACTIONS_RUNTIME_TOKEN`.
    pub runtime_token: Secret,
    /// A second way, if there is one.
    pub rest: Option<RestAccess>,
}

/// What GitHub's REST API needs.
#[derive(Clone, Debug)]
pub struct RestAccess {
    /// `GITHUB_API_URL`.
    pub api_url: String,
    /// `GITHUB_REPOSITORY`, `owner/name`.
    pub repository: String,
    /// `GITHUB_RUN_ID`.
    pub run: u64,
    /// A token with `actions: read`; `actions: write` deletes.
    pub token: Secret,
}

/// The artifacts of a run.
#[derive(Debug)]
pub struct Artifacts {
    calls: Calls,
    service: Service,
    rest: Option<Rest>,
}

/// An artifact that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its id, for links. Not in the order in which artifacts are made.
    pub id: u64,
    /// Of its content, in bytes, as the service says.
    pub size: u64,
    /// Of its content, if the service says so.
    pub digest: Option<Digest>,
    whence: Whence,
}

/// Who listed it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whence {
    /// The service, with the ids that it wants back.
    Service(Backend),
    Rest,
}

/// How an artifact was not stored.
enum Failed {
    /// Another name may do.
    Burnt(ArtifactError),
    /// No name will.
    Finally(ArtifactError),
}

impl Artifacts {
    /// The artifacts of a run. Nothing is asked yet; the machine's certificate authorities are read, which blocks for some milliseconds.
    ///
    /// # Errors
    /// [`ArtifactError::Access`] when a URL, the repository or a token can't be one.
    pub fn new(access: Access) -> Result<Self, ArtifactError> {
        Self::with_patience(access, Patience::DEFAULT)
    }

    /// The same, with other limits.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_patience(access: Access, patience: Patience) -> Result<Self, ArtifactError> {
        let service = Service::new(&access)?;
        let mut secrets = vec![access.runtime_token];
        secrets.extend(access.rest.iter().map(|rest| rest.token.clone()));
        let tls = |why: String| ArtifactError::Access { what: "TLS on this machine", why };
        let client = super::http::client().map_err(|error| tls(error.to_string()))?.user_agent(AGENT).build();
        let client = client.map_err(|error| tls(error.without_url().to_string()))?;
        let rest = access.rest.map(Rest::new).transpose()?;
        Ok(Self { calls: Calls { client, patience, secrets }, service, rest })
    }

    /// Stores a zip under the name `<stem>-<nonce>`.
    ///
    /// # Errors
    /// When it is not known to be stored. It may be there for all that.
    pub async fn upload(&self, stem: &str, content: Bytes) -> Result<Listed, ArtifactError> {
        let until = self.calls.deadline();
        check(stem)?;
        if content.len() as u64 > MOST {
            return Err(ArtifactError::TooLarge { action: "store an artifact", max: MOST });
        }
        let digest = digest(&content);
        let mut names = 0;
        loop {
            names += 1;
            let nonce = super::record::nonce().map_err(|error| ArtifactError::Access {
                what: "the system's random numbers",
                why: error.to_string(),
            })?;
            let name = format!("{stem}-{nonce}");
            match self.upload_as(&name, &content, &digest, until).await {
                Ok(stored) => return Ok(stored),
                Err(Failed::Burnt(_)) if names < NAMES && self.calls.pause(names, None, until).await => {}
                Err(Failed::Burnt(error) | Failed::Finally(error)) => return Err(error),
            }
        }
    }

    async fn upload_as(&self, name: &str, content: &Bytes, digest: &Digest, until: Instant) -> Result<Listed, Failed> {
        let url = self.service.create(&self.calls, until, name).await.map_err(|error| match error {
            // The name is there: of an answer that was lost, most likely.
            ArtifactError::Refused { status: StatusCode::CONFLICT | StatusCode::OK, .. } => Failed::Burnt(error),
            error => Failed::Finally(error),
        })?;
        blob::put(&self.calls, until, &url, content).await.map_err(|error| match error {
            ArtifactError::Refused { .. } => Failed::Burnt(error),
            error => Failed::Finally(error),
        })?;
        let failed = match self.service.finalize(&self.calls, until, name, content.len(), digest).await {
            Ok(stored) => return Ok(stored),
            Err(error @ ArtifactError::Unauthorized { .. }) => return Err(Failed::Finally(error)),
            Err(error) => error,
        };
        // Whatever was said, or not said, it may be there.
        let there = self.service.list(&self.calls, until, Some(name)).await.unwrap_or_default();
        let is_it = |listed: &Listed| {
            let is_whole =
                listed.digest.as_ref().map_or(listed.size == content.len() as u64, |listed| listed == digest);
            listed.name == name && is_whole
        };
        there.into_iter().find(is_it).ok_or(Failed::Burnt(failed))
    }

    /// The artifacts whose names begin so, in no order: by the service, and when it fails by REST.
    ///
    /// # Errors
    /// When neither can be asked. None found is no error.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ArtifactError> {
        let until = self.calls.deadline();
        let by_service = self.service.list(&self.calls, self.first(until), None).await;
        let mut listed = match (by_service, &self.rest) {
            (Ok(listed), _) => listed,
            (Err(error), None) => return Err(error),
            (Err(error), Some(rest)) => rest.list(&self.calls, until).await.map_err(|second| neither(error, second))?,
        };
        listed.retain(|listed| listed.name.starts_with(prefix));
        Ok(listed)
    }

    /// The content of an artifact: by the service, and when that fails or gives something else, by REST.
    ///
    /// # Errors
    /// When it can't be read, or is not what was listed.
    pub async fn download(&self, listed: &Listed) -> Result<Vec<u8>, ArtifactError> {
        let until = self.calls.deadline();
        let by_service = match &listed.whence {
            Whence::Service(backend) => Some(self.by_service(listed, backend, self.first(until)).await),
            Whence::Rest => None,
        };
        match (by_service, &self.rest) {
            (Some(Ok(content)), _) => Ok(content),
            (Some(Err(error)), None) => Err(error),
            (Some(Err(error)), Some(rest)) => {
                self.by_rest(listed, rest, until).await.map_err(|second| neither(error, second))
            }
            (None, Some(rest)) => self.by_rest(listed, rest, until).await,
            (None, None) => Err(no_rest()),
        }
    }

    async fn by_service(&self, listed: &Listed, of: &Backend, until: Instant) -> Result<Vec<u8>, ArtifactError> {
        let url = self.service.signed(&self.calls, until, of, &listed.name).await?;
        verified(listed, blob::get(&self.calls, until, &url, MOST).await?)
    }

    async fn by_rest(&self, listed: &Listed, rest: &Rest, until: Instant) -> Result<Vec<u8>, ArtifactError> {
        verified(listed, rest.content(&self.calls, until, listed.id, MOST).await?)
    }

    /// Deletes an artifact. One that is gone already is deleted.
    ///
    /// # Errors
    /// When it is not known to be gone.
    pub async fn delete(&self, listed: &Listed) -> Result<(), ArtifactError> {
        let until = self.calls.deadline();
        let deleted = match (&listed.whence, &self.rest) {
            (Whence::Service(backend), _) => self.service.delete(&self.calls, until, backend, &listed.name).await,
            (Whence::Rest, Some(rest)) => rest.delete(&self.calls, until, listed.id).await,
            (Whence::Rest, None) => Err(no_rest()),
        };
        match deleted {
            Err(error) if error.is_refusal(StatusCode::NOT_FOUND) => Ok(()),
            deleted => deleted,
        }
    }

    /// Until when the first of two ways is tried.
    fn first(&self, until: Instant) -> Instant {
        if self.rest.is_some() { until - self.calls.patience.total / 2 } else { until }
    }
}

/// Who asks.
const AGENT: &str = concat!("pawl/", env!("CARGO_PKG_VERSION"));

fn neither(service: ArtifactError, rest: ArtifactError) -> ArtifactError {
    ArtifactError::Neither { service: Box::new(service), rest: Box::new(rest) }
}

fn no_rest() -> ArtifactError {
    ArtifactError::Access { what: "GitHub's REST API", why: "it listed the artifact, and is not there now".to_owned() }
}

fn digest(content: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(content).into())
}

fn verified(listed: &Listed, content: Vec<u8>) -> Result<Vec<u8>, ArtifactError> {
    match &listed.digest {
        Some(expected) if *expected != digest(&content) => {
            Err(ArtifactError::Content { name: listed.name.clone(), listed: expected.clone(), found: digest(&content) })
        }
        Some(_) | None => Ok(content),
    }
}

/// Whether the service would take a name.
fn check(name: &str) -> Result<(), ArtifactError> {
    let wrong = |why| Err(ArtifactError::Name { name: name.chars().take(100).collect(), why });
    if name.is_empty() {
        return wrong("it is empty");
    }
    if name.chars().any(|c| FORBIDDEN.contains(&c) || c.is_control()) {
        return wrong("it has one of \" : < > | * ? \\ / or a control character");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_service_does_not_take() {
        check("pawl-shop-prod-deploy (ümläut, 1)-a01-s0001").unwrap();
        for name in ["", "a/b", "a\\b", "a:b", "a\nb", "a\tb", "a*", "a?", "a|b", "<a", "a>", "\"a\""] {
            assert!(matches!(check(name), Err(ArtifactError::Name { .. })), "{name:?}");
        }
    }
}
