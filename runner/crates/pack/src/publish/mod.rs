//! Publishes an archive, or a Python package, to where others get it.
//!
//! ```text
//! is it there? ─► same content: done; other content: refused
//! absent ─► upload, continued where an earlier call was cut ─► visible by one call of the server, or one rename
//! ```
//! Invariants: nothing takes the place of another content, as far as the server keeps the condition of a write (docs/pack.md says of
//! which ones). A call that is killed leaves nothing visible, or the whole. Deliberately absent: removal of what is published.

mod error;
mod folder;
mod oci;
mod package;
mod python_index;
mod registry_login;
mod s3;
mod session;
mod snippet;
mod source;
mod target;
mod transfer;
mod web;

use std::{path::PathBuf, sync::Arc};

use contract::{Digest, Secret};
use object_store::signer::Signer;

pub use error::PublishError;
pub use source::PublishSource;
pub use target::PublishTarget;

use session::UploadSessions;
use transfer::Transfer;

/// How long a signed URL is good for.
const SIGNATURE_LIFETIME: std::time::Duration = std::time::Duration::from_secs(3600);

/// What this process knows about targets.
pub struct Publisher {
    /// Without redirects.
    pub client: reqwest::Client,
    /// The header `authorization`, for HTTP, registries and indexes.
    pub authorization: Option<Secret>,
    /// Docker's `config.json`, for registries.
    pub docker_config: Option<PathBuf>,
    /// The folder for what is needed to continue an upload.
    pub sessions: Option<PathBuf>,
    /// The bytes of a chunk or a part; none for what servers like.
    pub chunk_bytes: Option<u64>,
    /// Told what may take long, and what goes wrong on the way.
    pub tell: Box<dyn Fn(String) + Send + Sync>,
}

/// Access to a bucket: it signs the requests.
pub struct S3Bucket {
    pub signer: Arc<dyn Signer>,
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where, as a plan names it.
    pub location: String,
    /// The release's digest there: of the archive, or of the manifest in a registry.
    pub digest: Digest,
    /// It was there before.
    pub was_published: bool,
    /// The bytes that an earlier call had sent.
    pub resumed_bytes: u64,
    /// What to write in the plan.
    pub snippet: String,
}

impl Publisher {
    /// Publishes `source` to a target. `bucket` is for a target in S3.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish(
        &self,
        source: &PublishSource,
        target: &PublishTarget,
        bucket: Option<&S3Bucket>,
    ) -> Result<Published, PublishError> {
        let transfer = Transfer::new(self.client.clone());
        let sessions = UploadSessions::new(self.sessions.clone());
        match target {
            PublishTarget::Folder(path) => folder::publish(source, path),
            PublishTarget::Http(url) => {
                let place = web::WebPlace::Http { url: url.clone(), authorization: self.authorization.clone() };
                web::publish(source, &place, &transfer, None).await
            }
            PublishTarget::S3 { key, .. } => {
                let bucket = bucket.ok_or_else(|| PublishError::Invalid("no access to the bucket".to_owned()))?;
                let place = web::WebPlace::S3 { signer: Arc::clone(&bucket.signer), key: key.clone() };
                let upload =
                    s3::MultipartUpload { sessions: &sessions, chunk_bytes: self.chunk_bytes, tell: &self.tell };
                web::publish(source, &place, &transfer, Some(&upload)).await
            }
            PublishTarget::Oci(reference) => oci::publish(self, source, reference, &transfer, &sessions).await,
            PublishTarget::PythonIndex(url) => {
                python_index::publish(source, url, self.authorization.as_ref(), &transfer).await
            }
        }
    }
}
