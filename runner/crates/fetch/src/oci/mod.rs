//! Artifacts and images in registries, by the OCI distribution and image specifications 1.1.
//!
//! ```text
//! tag ─► manifest, whose digest is the release's ─► layers, by their digests
//! ```
//! Invariants: a content is what its digest says, from the manifest on. Every request passes the step's grants, redirects and the token
//! server included. The credentials of a registry, which its grant has as the header `authorization`, go to it and to its token server,
//! and nowhere else. Deliberately absent: pushing, the parts of an image but its layers, digests other than SHA-256, and a cache.

mod error;
mod manifest;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::{
    net::{Download, NetClient, NetError, NetRequest, NetResponse, RequestedPauses},
    registry::{AuthChallenge, MAX_METADATA_BYTES, header_values, parse_challenge, parse_token},
};
use contract::{Digest, Secret};
use plan::{HttpGrant, OciRef};

pub use error::OciError;
pub use manifest::OciLayer;
use manifest::{MANIFEST_MEDIA_TYPES, ManifestContent};

const AUTHORIZATION: &str = "authorization";
/// How many indexes may lead to each other.
const MAX_INDEXES: usize = 3;

/// A repository of a registry, as a step may read it.
pub struct OciRepository {
    reference: OciRef,
    client: Arc<NetClient>,
    /// What the plan says of each origin: `https://host:port`, header.
    credentials: Vec<(String, Secret)>,
    /// What the registry has asked for.
    authorization: Mutex<Option<Secret>>,
}

/// Whether layers have come before: they would be lost, so the registry is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerOrder {
    First,
    Later,
}

/// The content of a layer, as it arrives.
pub struct OciDownload {
    repository: Arc<OciRepository>,
    download: Download,
}

impl OciRepository {
    /// The repository of a reference, for a step with these grants.
    #[must_use]
    pub fn new(grants: &[HttpGrant], reference: OciRef) -> Self {
        let mut grants = grants.to_vec();
        let mut credentials = Vec::new();
        for grant in &mut grants {
            let origin = grant.origin();
            // The registry says which one it wants, so it is not sent on its own.
            for (_, value) in grant.headers.extract_if(.., |(name, _)| name.eq_ignore_ascii_case(AUTHORIZATION)) {
                credentials.push((origin.clone(), header_value(value.value.reveal())));
            }
        }
        Self::with_client(Arc::new(NetClient::new(grants, Vec::new())), credentials, reference)
    }

    fn with_client(client: Arc<NetClient>, credentials: Vec<(String, Secret)>, reference: OciRef) -> Self {
        let repository = Self { reference, client, credentials, authorization: Mutex::new(None) };
        // A token needs no question.
        let token = repository.credentials_of(&repository.reference.origin()).filter(|value| !is_basic(value));
        repository.set_authorization(token);
        repository
    }

    /// The digest of the manifest that the reference names, as it is now.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn resolve(&self) -> Result<Digest, OciError> {
        if let Some(digest) = &self.reference.digest {
            return Ok(digest.clone());
        }
        let tag = self.reference.tag.as_deref().unwrap_or_default();
        let manifest = self.get_manifest(tag).await?;
        Ok(Digest::from_bytes(Sha256::digest(&manifest).into()))
    }

    /// The layers of the manifest with this digest, the lowest one first. Of an index, the manifest for this machine counts.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn layers(&self, digest: &Digest) -> Result<Vec<OciLayer>, OciError> {
        let mut digest = digest.clone();
        for _ in 0..MAX_INDEXES {
            let bytes = self.get_manifest(&digest.to_string()).await?;
            let found = Digest::from_bytes(Sha256::digest(&bytes).into());
            if found != digest {
                return Err(OciError::WrongDigest { registry: self.reference.authority(), expected: digest, found });
            }
            match ManifestContent::parse(&bytes)? {
                ManifestContent::Layers(layers) => return Ok(layers),
                ManifestContent::Index(manifests) => digest = manifest::for_this_machine(&manifests)?,
            }
        }
        Err(OciError::Unsupported("its indexes point to each other".to_owned()))
    }

    /// Begins to download a layer, from its byte `offset` on.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn open(
        self: &Arc<Self>,
        layer: &OciLayer,
        offset: u64,
        order: LayerOrder,
    ) -> Result<OciDownload, OciError> {
        let url = self.url(&format!("blobs/{}", layer.digest));
        let url = Url::parse(&url).map_err(|error| NetError::InvalidUrl { url, why: error.to_string() })?;
        let mut opened = self.open_download(&url, offset, order).await;
        if opened.as_ref().is_err_and(is_unauthorized) {
            self.renew().await?;
            opened = self.open_download(&url, offset, order).await;
        }
        match opened {
            Ok(download) => Ok(OciDownload { repository: Arc::clone(self), download }),
            Err(NetError::Status { status, .. }) => Err(self.status_error(status.as_u16(), &layer.digest.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    async fn open_download(&self, url: &Url, offset: u64, order: LayerOrder) -> Result<Download, NetError> {
        match order {
            LayerOrder::First => self.client.open_download_with(url, self.secrets(), offset).await,
            LayerOrder::Later => self.client.open_next_download(url, self.secrets(), offset).await,
        }
    }

    /// A new token in place of one that has expired.
    async fn renew(&self) -> Result<(), OciError> {
        self.set_authorization(None);
        let known = self.reference.digest.as_ref().map(ToString::to_string).or_else(|| self.reference.tag.clone());
        self.get_manifest(&known.unwrap_or_default()).await.map(drop)
    }

    async fn get_manifest(&self, name: &str) -> Result<Vec<u8>, OciError> {
        let url = self.url(&format!("manifests/{name}"));
        let mut answer = self.get(&url, MANIFEST_MEDIA_TYPES, self.secrets()).await?;
        if answer.status == 401 {
            self.authorize(&answer).await?;
            answer = self.get(&url, MANIFEST_MEDIA_TYPES, self.secrets()).await?;
        }
        if answer.status == 200 { Ok(answer.body) } else { Err(self.status_error(answer.status, name)) }
    }

    /// Sends a request, again after each pause that the server asks for.
    async fn get(&self, url: &str, accept: &str, secrets: Vec<(String, Secret)>) -> Result<NetResponse, OciError> {
        let mut pauses = RequestedPauses::default();
        loop {
            let mut request = NetRequest::new("GET", url)?;
            request.headers = vec![("accept".to_owned(), accept.to_owned())];
            request.secrets.clone_from(&secrets);
            request.max_bytes = MAX_METADATA_BYTES;
            let answer = self.client.send(request).await?;
            let retry_after = header_values(&answer, "retry-after").next();
            if let Some(pause) = pauses.next_for(answer.status, retry_after) {
                tokio::time::sleep(pause).await;
            } else if let Some(after) = RequestedPauses::parse(answer.status, retry_after) {
                return Err(NetError::busy(&answer, after).into());
            } else {
                return Ok(answer);
            }
        }
    }

    /// Gets what a challenge asks for.
    async fn authorize(&self, answer: &NetResponse) -> Result<(), OciError> {
        let own = self.credentials_of(&self.reference.origin());
        let authorization = match parse_challenge(header_values(answer, "www-authenticate")) {
            Some(AuthChallenge::Bearer { realm, service }) => self.token(&realm, service.as_deref(), own).await?,
            Some(AuthChallenge::Basic) | None => own.ok_or_else(|| self.denied_error())?,
        };
        self.set_authorization(Some(authorization));
        Ok(())
    }

    /// A token of the registry's token server.
    async fn token(&self, realm: &str, service: Option<&str>, own: Option<Secret>) -> Result<Secret, OciError> {
        let invalid = || OciError::InvalidToken(self.reference.authority());
        let mut url = Url::parse(realm).map_err(|_| invalid())?;
        let origin = url.origin().ascii_serialization();
        if url.scheme() != "https" && self.reference.scheme == "https" {
            return Err(OciError::InsecureTokenServer { registry: self.reference.authority(), origin });
        }
        url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull", self.reference.repository));
        let known = self.credentials_of(&origin).or(own.filter(is_basic));
        let secrets = known.map(|value| (AUTHORIZATION.to_owned(), value)).into_iter().collect();
        let answer = self.get(url.as_str(), "application/json", secrets).await?;
        match answer.status {
            200 => parse_token(&answer.body).map_err(|_| invalid()),
            status => Err(self.status_error(status, "token")),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v2/{}/{path}", self.reference.origin(), self.reference.repository)
    }

    /// The credentials that the plan has for an origin.
    fn credentials_of(&self, origin: &str) -> Option<Secret> {
        let parsed = |text: &str| Url::parse(text).ok().map(|url| url.origin());
        let wanted = parsed(origin)?;
        let known = self.credentials.iter().find(|(known, _)| parsed(known).as_ref() == Some(&wanted));
        known.map(|(_, value)| value.clone())
    }

    fn secrets(&self) -> Vec<(String, Secret)> {
        let authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        authorization.map(|value| (AUTHORIZATION.to_owned(), value)).into_iter().collect()
    }

    fn set_authorization(&self, value: Option<Secret>) {
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn status_error(&self, status: u16, what: &str) -> OciError {
        match status {
            401 | 403 => self.denied_error(),
            404 => OciError::NotFound {
                registry: self.reference.authority(),
                repository: self.reference.repository.clone(),
                what: what.to_owned(),
            },
            status => OciError::Status { registry: self.reference.authority(), status, what: what.to_owned() },
        }
    }

    fn denied_error(&self) -> OciError {
        let registry = self.reference.authority();
        match self.credentials_of(&self.reference.origin()) {
            Some(_) => OciError::Denied { registry, repository: self.reference.repository.clone() },
            None => OciError::Unauthorized { registry, origin: self.reference.origin() },
        }
    }
}

impl OciDownload {
    /// Takes the error of the last interruption after which the download resumed.
    pub fn take_interruption(&mut self) -> Option<NetError> {
        self.download.take_interruption()
    }

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// See [`OciError`].
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, OciError> {
        let mut is_renewed = false;
        loop {
            match self.download.next_chunk().await {
                Err(error) if is_unauthorized(&error) && !is_renewed => {
                    is_renewed = true;
                    self.repository.renew().await?;
                    self.download.set_secrets(self.repository.secrets());
                }
                Err(error) => return Err(error.into()),
                Ok(chunk) => return Ok(chunk.map(|bytes| bytes.to_vec())),
            }
        }
    }
}

fn is_unauthorized(error: &NetError) -> bool {
    matches!(error, NetError::Status { status, .. } if status.as_u16() == 401)
}

fn is_basic(value: &Secret) -> bool {
    value.reveal().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic "))
}

/// The header that the plan means. `Basic USER:PASSWORD`, which is no header's value, stands for its base64.
#[must_use]
pub fn header_value(text: &str) -> Secret {
    match text.split_once(' ') {
        Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => {
            let pair = pair.trim();
            let encoded = if pair.contains(':') { BASE64_STANDARD.encode(pair) } else { pair.to_owned() };
            Secret::new(format!("Basic {encoded}"))
        }
        Some(_) | None => Secret::new(text.to_owned()),
    }
}
