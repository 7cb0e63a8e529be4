//! A file on a web server (PUT) or in a bucket, with its checksum file beside it.
//!
//! The archive comes first: until its checksum is there too, `pull` does not take it. A server that ignores `If-None-Match: *` is asked
//! before whether the name is taken, so that only two publications at the same moment can meet there.

use std::sync::Arc;

use object_store::{
    path::Path,
    signer::{SignedUrlOptions, Signer},
};
use reqwest::Method;
use url::Url;

use super::{
    PublishError, PublishSource, Published, SIGNATURE_LIFETIME,
    s3::MultipartUpload,
    snippet,
    transfer::{Transfer, TransferAnswer, TransferRequest, peer},
};
use crate::{checksum_line, parse_checksum};
use contract::{Digest, Secret};

/// Where the file goes.
pub(super) enum WebPlace {
    Http { url: Url, authorization: Option<Secret> },
    S3 { signer: Arc<dyn Signer>, key: String },
}

impl WebPlace {
    /// A request about the file, or about what lies beside it with this ending.
    pub(super) async fn request(
        &self,
        method: Method,
        ending: &str,
        query: &[(&str, &str)],
    ) -> Result<TransferRequest, PublishError> {
        match self {
            Self::Http { url, authorization } => {
                let mut url = url.clone();
                url.set_path(&format!("{}{ending}", url.path()));
                Ok(TransferRequest::new(method, url).authorization(authorization.clone()))
            }
            Self::S3 { signer, key } => {
                let path = Path::parse(format!("{key}{ending}"))
                    .map_err(|error| PublishError::Invalid(format!("`{key}` is no key: {error}")))?;
                let options = SignedUrlOptions::new().with_query(query.iter().copied());
                let url = signer.signed_url_opts(method.clone(), &path, SIGNATURE_LIFETIME, &options).await;
                let url = url.map_err(|error| PublishError::Credentials(error.to_string()))?;
                Ok(TransferRequest::new(method, url))
            }
        }
    }

    pub(super) fn has_credentials(&self) -> bool {
        match self {
            Self::Http { authorization, .. } => authorization.is_some(),
            Self::S3 { .. } => true,
        }
    }

    /// The URL without what signs it.
    async fn url(&self) -> Result<Url, PublishError> {
        let mut url = self.request(Method::GET, "", &[]).await?.url;
        url.set_query(None);
        Ok(url)
    }
}

/// Publishes a file. `multipart` is for what is large, in a bucket.
pub(super) async fn publish(
    source: &PublishSource,
    place: &WebPlace,
    transfer: &Transfer,
    multipart: Option<&MultipartUpload<'_>>,
) -> Result<Published, PublishError> {
    let exchange = WebPublication { source, place, transfer, url: place.url().await? };
    let found = exchange.is_there().await;
    if let (Some(upload), Ok(true) | Err(PublishError::Differs { .. })) = (multipart, &found) {
        // What an earlier call has begun can't be completed any more.
        upload.abandon(source, place, transfer, exchange.url.as_str()).await;
    }
    let was_published = found?;
    let mut resumed_bytes = 0;
    if !was_published {
        let answer = match multipart.filter(|upload| upload.is_for(source)) {
            Some(upload) => {
                let (answer, resumed) = upload.send(source, place, transfer, exchange.url.as_str()).await?;
                resumed_bytes = resumed;
                answer
            }
            None => {
                let request = place.request(Method::PUT, "", &[]).await?.header("if-none-match", "*");
                let request = request.header("content-type", "application/octet-stream").range(0, source.size);
                transfer.send(source, &request).await?
            }
        };
        exchange.conclude(&answer).await?;
    }
    exchange.put_checksum().await?;
    Ok(Published {
        location: exchange.url.to_string(),
        digest: source.digest.clone(),
        was_published,
        resumed_bytes,
        snippet: snippet::of_url(source, &exchange.url),
    })
}

struct WebPublication<'a> {
    source: &'a PublishSource,
    place: &'a WebPlace,
    transfer: &'a Transfer,
    url: Url,
}

impl WebPublication<'_> {
    /// Whether this content is there.
    async fn is_there(&self) -> Result<bool, PublishError> {
        match self.published().await? {
            None => Ok(false),
            Some(found) if found == self.source.digest => Ok(true),
            Some(found) => Err(self.differs(found.to_string())),
        }
    }

    /// The digest of what is there, by its checksum file or its content; none if nothing is.
    async fn published(&self) -> Result<Option<Digest>, PublishError> {
        let head = self.place.request(Method::HEAD, "", &[]).await?;
        let answer = self.transfer.send(self.source, &head).await?;
        match answer.status {
            404 | 410 => return Ok(None),
            // Who may write to a bucket but not list it is not told that an object is missing. The condition of the write remains.
            403 if matches!(self.place, WebPlace::S3 { .. }) => return Ok(None),
            _ if !answer.is_success() => return Err(self.error(&answer, "HEAD")),
            _ => {}
        }
        let get = self.place.request(Method::GET, ".sha256", &[]).await?;
        let checksum = self.transfer.send(self.source, &get).await?;
        match checksum.status {
            200 => match parse_checksum(&String::from_utf8_lossy(&checksum.body)) {
                Some(digest) => Ok(Some(digest)),
                None => Err(self.differs("something with a checksum file that is none".to_owned())),
            },
            404 | 410 => {
                // An earlier call may have ended between the two files.
                let length = answer.header("content-length").and_then(|length| length.parse::<u64>().ok());
                if let Some(length) = length.filter(|length| *length != self.source.size) {
                    return Err(self.differs(format!("a file of {length} bytes")));
                }
                self.transfer.digest_of(&self.place.request(Method::GET, "", &[]).await?).await.map(Some)
            }
            _ => Err(self.error(&checksum, "GET")),
        }
    }

    /// Judges the answer to the upload: a name that was taken meanwhile may have this content.
    async fn conclude(&self, answer: &TransferAnswer) -> Result<(), PublishError> {
        if matches!(answer.status, 409 | 412) {
            return match self.published().await? {
                Some(found) if found == self.source.digest => Ok(()),
                Some(found) => Err(self.differs(found.to_string())),
                None => Err(self.error(answer, "PUT")),
            };
        }
        if !answer.is_success() {
            return Err(self.error(answer, "PUT"));
        }
        let head = self.place.request(Method::HEAD, "", &[]).await?;
        let found = self.transfer.send(self.source, &head).await?;
        let length = found.header("content-length").and_then(|length| length.parse::<u64>().ok());
        match length {
            _ if found.status == 404 => Err(self.damaged("it is not there".to_owned())),
            Some(length) if found.is_success() && length != self.source.size => {
                Err(self.damaged(format!("it has {length} of {} bytes", self.source.size)))
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn put_checksum(&self) -> Result<(), PublishError> {
        let name = self.url.path_segments().and_then(Iterator::last).unwrap_or_default();
        let line = checksum_line(&self.source.digest, name);
        let put = self.place.request(Method::PUT, ".sha256", &[]).await?.header("if-none-match", "*");
        let get = self.place.request(Method::GET, ".sha256", &[]).await?;
        if self.has_checksum(&get).await? {
            return Ok(());
        }
        let answer = self.transfer.send(self.source, &put.header("content-type", "text/plain").bytes(line)).await?;
        // Another publication of the same content may have been first.
        if answer.is_success() || answer.status == 412 && self.has_checksum(&get).await? {
            Ok(())
        } else {
            Err(self.error(&answer, "PUT"))
        }
    }

    /// Whether there is a checksum, which must be that of this content.
    async fn has_checksum(&self, get: &TransferRequest) -> Result<bool, PublishError> {
        let found = self.transfer.send(self.source, get).await?;
        match parse_checksum(&String::from_utf8_lossy(&found.body)).filter(|_| found.is_success()) {
            Some(digest) if digest == self.source.digest => Ok(true),
            Some(digest) => Err(self.differs(format!("there with a checksum of other content, {digest}"))),
            None => Ok(false),
        }
    }

    fn error(&self, answer: &TransferAnswer, what: &str) -> PublishError {
        answer.error(&self.url, &format!("{what} {}", self.url.path()), self.place.has_credentials())
    }

    fn differs(&self, found: String) -> PublishError {
        PublishError::Differs { location: self.url.to_string(), found, ours: self.source.digest.clone() }
    }

    fn damaged(&self, why: String) -> PublishError {
        PublishError::Damaged { location: format!("{}{}", peer(&self.url), self.url.path()), why }
    }
}
