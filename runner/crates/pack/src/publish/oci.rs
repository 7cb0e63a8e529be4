//! An artifact in a registry, by the OCI distribution specification 1.1: one layer, which is the archive.
//!
//! The blob is sent in chunks, in an upload session that a later call continues. The tag comes last. The same archive, name and version
//! make the same manifest, and so the same digest.

use fetch::registry::{OCI_CONFIG_MEDIA_TYPE, OCI_MANIFEST_MEDIA_TYPE};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::{
    PublishError, PublishSource, Published, Publisher, registry_login,
    session::{UploadSession, UploadSessions},
    snippet,
    transfer::{Transfer, TransferAnswer, TransferRequest},
};
use contract::{Digest, Secret};
use plan::OciRef;

/// The bytes of a chunk.
const CHUNK_BYTES: u64 = 16 << 20;
/// How often an upload is continued, or begun again, without a byte of progress.
const MAX_FUTILE_TRIES: u32 = 4;
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const ARTIFACT_TYPE: &str = "application/vnd.pawl.release";
const EMPTY_CONFIG: &[u8] = b"{}";

struct RegistryPublication<'a> {
    publisher: &'a Publisher,
    source: &'a PublishSource,
    reference: &'a OciRef,
    /// Where the repository is; all paths are below it.
    base: Url,
    transfer: &'a Transfer,
    sessions: &'a UploadSessions,
    authorization: Option<Secret>,
    resumed_bytes: u64,
}

pub(super) async fn publish(
    publisher: &Publisher,
    source: &PublishSource,
    reference: &OciRef,
    transfer: &Transfer,
    sessions: &UploadSessions,
) -> Result<Published, PublishError> {
    let base = Url::parse(&format!("{}/v2/{}/", reference.origin(), reference.repository)).map_err(invalid)?;
    let (authorization, resumed_bytes) = (None, 0);
    RegistryPublication { publisher, source, reference, base, transfer, sessions, authorization, resumed_bytes }
        .run()
        .await
}

impl RegistryPublication<'_> {
    async fn run(mut self) -> Result<Published, PublishError> {
        let manifest = self.manifest().to_string();
        let ours = Digest::from_bytes(Sha256::digest(manifest.as_bytes()).into());
        let found = self.tagged().await?;
        let was_published = found.is_some();
        let digest = match found {
            Some(found) => self.same_release(&found, &ours)?,
            None => {
                self.push_blob(EMPTY_CONFIG).await?;
                self.push_archive().await?;
                self.push_manifest(&manifest).await?;
                ours
            }
        };
        let location = self.reference.to_string();
        Ok(Published {
            snippet: snippet::of_registry(self.source, &location, &self.reference.origin()),
            location,
            digest,
            was_published,
            resumed_bytes: self.resumed_bytes,
        })
    }

    fn manifest(&self) -> Value {
        let config = Digest::from_bytes(Sha256::digest(EMPTY_CONFIG).into());
        let mut layer = json!({
            "mediaType": LAYER_TYPE, "digest": self.source.digest, "size": self.source.size,
        });
        if let Some(name) = &self.source.name {
            layer["annotations"] = json!({ "org.opencontainers.image.title": name });
        }
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST_MEDIA_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": { "mediaType": OCI_CONFIG_MEDIA_TYPE, "digest": config, "size": EMPTY_CONFIG.len() },
            "layers": [layer],
        })
    }

    /// The manifest that the tag names.
    async fn tagged(&mut self) -> Result<Option<Vec<u8>>, PublishError> {
        let request = TransferRequest::new(Method::GET, self.url(&self.manifest_path())?);
        let answer = self.send(&request.header("accept", MANIFEST_TYPES)).await?;
        match answer.status {
            404 => Ok(None),
            _ if answer.is_success() => Ok(Some(answer.body)),
            _ => Err(self.error(&answer, "the tag")),
        }
    }

    /// The digest of a manifest that has this archive as its only layer; other programs write it another way.
    fn same_release(&self, manifest: &[u8], ours: &Digest) -> Result<Digest, PublishError> {
        let found = Digest::from_bytes(Sha256::digest(manifest).into());
        let layers = serde_json::from_slice::<Value>(manifest).ok().map(|manifest| manifest["layers"].clone());
        let is_same = layers.is_some_and(|layers| {
            layers.as_array().is_some_and(|layers| layers.len() == 1)
                && layers[0]["digest"] == json!(self.source.digest)
        });
        match found == *ours || is_same {
            true => Ok(found),
            false => Err(PublishError::Differs {
                location: self.reference.to_string(),
                found: found.to_string(),
                ours: ours.clone(),
            }),
        }
    }

    async fn has_blob(&mut self, digest: &Digest) -> Result<bool, PublishError> {
        let request = TransferRequest::new(Method::HEAD, self.url(&format!("blobs/{digest}"))?);
        Ok(self.send(&request).await?.is_success())
    }

    /// Pushes a few bytes.
    async fn push_blob(&mut self, bytes: &'static [u8]) -> Result<(), PublishError> {
        let digest = Digest::from_bytes(Sha256::digest(bytes).into());
        if self.has_blob(&digest).await? {
            return Ok(());
        }
        let upload = self.begin_upload().await?;
        let request = TransferRequest::new(Method::PUT, with_digest(upload, &digest)).bytes(bytes);
        let answer = self.send(&request.header("content-type", "application/octet-stream")).await?;
        if answer.is_success() { Ok(()) } else { Err(self.error(&answer, "a blob")) }
    }

    /// Pushes the archive, in chunks.
    async fn push_archive(&mut self) -> Result<(), PublishError> {
        let digest = self.source.digest.clone();
        if self.has_blob(&digest).await? {
            return Ok(());
        }
        let target = format!("{}/{}", self.reference.origin(), self.reference.repository);
        let (mut futile, mut best) = (0, 0);
        loop {
            let mut sent = 0;
            let error = match self.try_push(&target, &mut sent).await {
                Ok(()) => {
                    self.sessions.remove(&target, &digest);
                    return Ok(());
                }
                Err(error) => error,
            };
            if sent > best {
                (futile, best) = (0, sent);
            } else {
                futile += 1;
            }
            if !error.is_transient() || futile >= MAX_FUTILE_TRIES {
                return Err(error);
            }
            tokio::time::sleep(std::time::Duration::from_millis(200 << futile)).await;
        }
    }

    /// Continues the upload session, or begins one. `sent` becomes what the registry has.
    async fn try_push(&mut self, target: &str, sent: &mut u64) -> Result<(), PublishError> {
        let (digest, size) = (self.source.digest.clone(), self.source.size);
        let continued = match self.sessions.find(target, &digest) {
            Some(session) => self.offset(&session).await?,
            None => None,
        };
        let (mut url, mut offset) = match continued {
            Some((url, offset)) => {
                if offset > 0 {
                    (self.publisher.tell)(format!("continuing after {offset} of {size} bytes"));
                    self.resumed_bytes = self.resumed_bytes.max(offset);
                }
                (url, offset)
            }
            None => (self.begin_upload().await?, 0),
        };
        let chunk_bytes = self.publisher.chunk_bytes.unwrap_or(CHUNK_BYTES);
        while offset < size {
            *sent = offset;
            self.sessions.store(target, &digest, &UploadSession { upload: url.to_string(), chunk_bytes });
            let length = chunk_bytes.min(size - offset);
            let request = TransferRequest::new(Method::PATCH, url.clone())
                .header("content-type", "application/octet-stream")
                .header("content-range", format!("{offset}-{}", offset + length - 1))
                .range(offset, length);
            let answer = self.send_once(&request).await?;
            if !answer.is_success() {
                return Err(self.chunk_error(&answer, target));
            }
            (url, offset) = (self.location(&answer)?, offset + length);
        }
        *sent = size;
        let request = TransferRequest::new(Method::PUT, with_digest(url, &digest));
        let answer = self.send_once(&request.header("content-type", "application/octet-stream")).await?;
        if answer.is_success() { Ok(()) } else { Err(self.chunk_error(&answer, target)) }
    }

    /// Where a session goes on; none if the registry does not know it any more.
    async fn offset(&mut self, session: &UploadSession) -> Result<Option<(Url, u64)>, PublishError> {
        let Ok(url) = Url::parse(&session.upload) else { return Ok(None) };
        let answer = self.send(&TransferRequest::new(Method::GET, url.clone())).await?;
        match answer.status {
            _ if answer.is_success() => {}
            // It is busy, or does not know the user: the upload may be there all the same.
            401 | 403 | 429 | 502..=504 => return Err(self.error(&answer, "the state of an upload")),
            _ => return Ok(None),
        }
        let last = answer.header("range").and_then(|range| range.rsplit(['-', '=']).next()?.parse::<u64>().ok());
        // Of one byte and of none, registries say the same.
        let offset = last.filter(|last| *last > 0).map_or(0, |last| last + 1);
        let url = answer.header("location").and_then(|location| url.join(location).ok()).unwrap_or(url);
        Ok(Some((url, offset)).filter(|_| offset <= self.source.size))
    }

    async fn begin_upload(&mut self) -> Result<Url, PublishError> {
        let request = TransferRequest::new(Method::POST, self.url("blobs/uploads/")?);
        let answer = self.send(&request).await?;
        if answer.is_success() {
            self.location(&answer)
        } else {
            Err(self.error(&answer, "the beginning of an upload"))
        }
    }

    async fn push_manifest(&mut self, manifest: &str) -> Result<(), PublishError> {
        // Somebody else may have been faster; registries know no condition.
        if let Some(found) = self.tagged().await? {
            let ours = Digest::from_bytes(Sha256::digest(manifest.as_bytes()).into());
            return self.same_release(&found, &ours).map(drop);
        }
        let request = TransferRequest::new(Method::PUT, self.url(&self.manifest_path())?);
        let request = request.header("content-type", OCI_MANIFEST_MEDIA_TYPE).bytes(manifest.to_owned());
        let answer = self.send(&request).await?;
        if answer.is_success() { Ok(()) } else { Err(self.error(&answer, "the manifest")) }
    }

    fn manifest_path(&self) -> String {
        format!("manifests/{}", self.reference.tag.as_deref().unwrap_or_default())
    }

    fn url(&self, path: &str) -> Result<Url, PublishError> {
        self.base.join(path).map_err(invalid)
    }

    fn location(&self, answer: &TransferAnswer) -> Result<Url, PublishError> {
        let location = answer.header("location").and_then(|location| self.base.join(location).ok());
        let protocol = |why: &str| PublishError::Protocol { peer: self.reference.authority(), why: why.to_owned() };
        let location = location.ok_or_else(|| protocol("an upload without its address"))?;
        match location.scheme() == "https" || self.reference.scheme == "http" {
            true => Ok(location),
            false => Err(protocol("an upload that does not use https")),
        }
    }

    /// Sends a request that may be repeated.
    async fn send(&mut self, request: &TransferRequest) -> Result<TransferAnswer, PublishError> {
        let answer = self.transfer.send(self.source, &self.signed(request)).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        self.log_in(&answer).await?;
        self.transfer.send(self.source, &self.signed(request)).await
    }

    /// Sends a request that must not be repeated blindly: what has arrived is asked for first.
    async fn send_once(&mut self, request: &TransferRequest) -> Result<TransferAnswer, PublishError> {
        let answer = self.transfer.send_once(self.source, &self.signed(request)).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        self.log_in(&answer).await?;
        self.transfer.send_once(self.source, &self.signed(request)).await
    }

    /// The request with the credentials, which are for the registry only, not for where it stores blobs.
    fn signed(&self, request: &TransferRequest) -> TransferRequest {
        let is_registry = self.base.origin() == request.url.origin();
        request.clone().authorization(self.authorization.clone().filter(|_| is_registry))
    }

    async fn log_in(&mut self, answer: &TransferAnswer) -> Result<(), PublishError> {
        let authorize = registry_login::authorize(self.publisher, self.source, self.transfer, self.reference, answer);
        self.authorization = authorize.await?;
        Ok(())
    }

    fn error(&self, answer: &TransferAnswer, what: &str) -> PublishError {
        answer.error(&self.base, what, self.authorization.is_some())
    }

    /// The error of a chunk. A session that the registry has given up is forgotten, so that the next try begins another.
    fn chunk_error(&self, answer: &TransferAnswer, target: &str) -> PublishError {
        if !matches!(answer.status, 400 | 404 | 416) {
            return self.error(answer, "a chunk of the archive");
        }
        self.sessions.remove(target, &self.source.digest);
        PublishError::Unreachable {
            peer: self.reference.authority(),
            why: format!("it has given up the upload (status {})", answer.status),
        }
    }
}

fn invalid(error: url::ParseError) -> PublishError {
    PublishError::Invalid(error.to_string())
}

fn with_digest(mut url: Url, digest: &Digest) -> Url {
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}
