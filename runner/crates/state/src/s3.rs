//! State in a bucket of an S3-compatible object store: the record, with the lock in it, and the files are objects with
//! a common prefix.
//!
//! A swap is a conditional put: `If-None-Match: *` for the first, `If-Match` for later ones. The objects that it names
//! are there before; a name contains the hash of the content, so an object is never changed. Objects are written, read
//! and deleted in parallel.
//! [`RemoteStorage::verify_conditional_writes`] detects and refuses a store that ignores either. A call that timed out
//! may still arrive; the reader of the record finds out. `object_store` uses this runner's HTTP and TLS, so that there
//! is one of each. Deliberately absent: listing; the record names all objects.

use std::{collections::BTreeMap, error::Error, str::FromStr as _};

use async_trait::async_trait;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig, UpdateVersion,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService},
    path::Path,
};
use tokio::{runtime::Runtime, task::JoinSet};

use super::{
    StateError,
    archive::ARCHIVE_FOLDER,
    manifest::{self, RemoteArchive, StateManifest},
    record::LockRecord,
    remote::{CALL_TIMEOUT, RECORD_FILE, RecordUpdate, RecordVersion, RemoteRecord, RemoteStorage},
};
use contract::{Secret, hash::Blake3Hash, text::error_chain_text};
use journal::clock;
use plan::RemoteState;

/// The region for stores without regions.
const DEFAULT_REGION: &str = "us-east-1";

/// How many calls run at the same time.
const MAX_PARALLEL_CALLS: usize = 16;

/// The hash digits in an object's name.
const NAME_HASH_DIGITS: usize = 16;

/// State in a bucket.
#[derive(Debug)]
pub struct S3Storage {
    location: String,
    resource: String,
    store: AmazonS3,
    /// The prefix of the objects' names.
    prefix: String,
    runtime: Runtime,
}

/// A bucket of the store that these variables of AWS's tools describe.
///
/// # Errors
/// A variable is invalid, or TLS can't be set up.
pub fn open_bucket(bucket: &str, settings: &BTreeMap<String, Secret>) -> object_store::Result<AmazonS3> {
    let mut builder = AmazonS3Builder::new()
        .with_region(DEFAULT_REGION)
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_http_connector(ReqwestConnector)
        // The caller retries, because it knows whether it may.
        .with_retry(RetryConfig { max_retries: 0, retry_timeout: CALL_TIMEOUT, ..RetryConfig::default() });
    for (name, value) in settings {
        // AWS's variables for the endpoint of one service; the more specific one comes later.
        let name = if name.starts_with("AWS_ENDPOINT_URL") && !name.ends_with("STS") { "AWS_ENDPOINT" } else { name };
        if let Ok(key) = AmazonS3ConfigKey::from_str(&name.to_ascii_lowercase()) {
            builder = builder.with_config(key, value.reveal());
        }
    }
    builder.build()
}

impl S3Storage {
    pub(super) fn new(state: &RemoteState, bucket: &str, prefix: &str, resource: &str) -> Result<Self, StateError> {
        let failed = |why: String| StateError::Remote { action: "reach", location: state.written.clone(), why };
        let runtime = super::runtime().map_err(|error| failed(error.to_string()))?;
        let store = open_bucket(bucket, &state.settings).map_err(|error| failed(error_chain_text(&error)))?;
        let prefix = if prefix.is_empty() { resource.to_owned() } else { format!("{prefix}/{resource}") };
        Ok(Self { location: state.written.clone(), resource: resource.to_owned(), store, prefix, runtime })
    }

    fn object_path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.prefix))
    }

    fn block_with_timeout<T>(
        &self,
        action: &'static str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Result<T, object_store::Error>, StateError> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(CALL_TIMEOUT, work).await });
        answer.map_err(|_| self.remote_error(action, format!("no answer in {} s", CALL_TIMEOUT.as_secs())))
    }

    fn remote_error(&self, action: &'static str, why: impl Into<String>) -> StateError {
        StateError::Remote { action, location: self.location.clone(), why: why.into() }
    }

    /// Writes the record or a probe under a condition. Returns its ETag.
    fn put(
        &self,
        action: &'static str,
        name: &str,
        bytes: &[u8],
        mode: PutMode,
    ) -> Result<Result<String, object_store::Error>, StateError> {
        let payload = PutPayload::from(bytes.to_vec());
        let options = PutOptions::from(mode);
        let (store, path) = (&self.store, self.object_path(name));
        let put = self.block_with_timeout(action, async { store.put_opts(&path, payload, options).await })?;
        match put {
            Ok(result) => match result.e_tag {
                Some(tag) => Ok(Ok(tag)),
                None => Err(self.remote_error(action, "the store returned no ETag")),
            },
            Err(error) => Ok(Err(error)),
        }
    }

    /// Runs a call for each name, some at the same time. Returns the results in order, or the first error.
    fn for_each_object<T, F>(
        &self,
        action: &'static str,
        names: &[String],
        call: impl Fn(usize, AmazonS3, Path) -> F,
    ) -> Result<Vec<T>, StateError>
    where
        T: Send + 'static,
        F: Future<Output = object_store::Result<T>> + Send + 'static,
    {
        let mut results: Vec<Option<T>> = names.iter().map(|_| None).collect();
        self.runtime.block_on(async {
            let (mut running, mut waiting) = (JoinSet::new(), names.iter().enumerate());
            loop {
                while running.len() < MAX_PARALLEL_CALLS
                    && let Some((index, name)) = waiting.next()
                {
                    let work = call(index, self.store.clone(), self.object_path(name));
                    running.spawn(async move { (index, tokio::time::timeout(CALL_TIMEOUT, work).await) });
                }
                let Some(ended) = running.join_next().await else { return Ok::<(), StateError>(()) };
                let (index, ended) = ended.map_err(|error| self.remote_error(action, error.to_string()))?;
                let ended = ended
                    .map_err(|_| self.remote_error(action, format!("no answer in {} s", CALL_TIMEOUT.as_secs())))?;
                let value = ended.map_err(|error| {
                    if !matches!(error, object_store::Error::NotFound { .. }) {
                        return self.remote_error(action, error_chain_text(&error));
                    }
                    let (location, name) = (self.location.clone(), names[index].clone());
                    StateError::RemoteFileMissing { action, location, name }
                })?;
                results[index] = Some(value);
            }
        })?;
        Ok(results.into_iter().flatten().collect())
    }

    fn read_objects(&self, names: &[String]) -> Result<Vec<Vec<u8>>, StateError> {
        self.for_each_object("read", names, |_, store, path| async move {
            Ok(store.get(&path).await?.bytes().await?.to_vec())
        })
    }

    fn delete(&self, names: &[String]) {
        // A leftover object is named by no record and costs a few bytes.
        let _ = self.for_each_object("tidy", names, |_, store, path| async move {
            let _ = store.delete(&path).await;
            Ok(())
        });
    }

    fn archive_name(&self, archive: &RemoteArchive) -> String {
        self.stored_name(&format!("{ARCHIVE_FOLDER}/{}", archive.range()), &archive.hash)
    }
}

impl RemoteStorage for S3Storage {
    fn verify_conditional_writes(&mut self) -> Result<(), StateError> {
        let nonce = super::record::random_nonce().map_err(|error| self.remote_error("probe", error.to_string()))?;
        let name = format!("probe-{nonce}");
        let refused = |put: Result<String, object_store::Error>, what: &str| match put {
            Err(object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. }) => Ok(()),
            Ok(_) => Err(StateError::NoConditionalWrites {
                location: self.location.clone(),
                why: format!("it accepted a write that `{what}` forbids"),
            }),
            Err(error) => Err(StateError::NoConditionalWrites {
                location: self.location.clone(),
                why: format!("it rejected `{what}`: {}", error_chain_text(&error)),
            }),
        };
        let first = self.put("write", &name, b"1", PutMode::Create)?;
        let first = first.map_err(|error| self.remote_error("write", error_chain_text(&error)))?;
        let outcome = (|| {
            refused(self.put("write", &name, b"2", PutMode::Create)?, "If-None-Match: *")?;
            let update = |tag: &String| PutMode::Update(UpdateVersion { e_tag: Some(tag.clone()), version: None });
            let second = self.put("write", &name, b"3", update(&first))?;
            second.map_err(|error| self.remote_error("write", error_chain_text(&error)))?;
            refused(self.put("write", &name, b"4", update(&first))?, "If-Match")
        })();
        self.delete(&[name]);
        outcome
    }

    fn read_record(&mut self) -> Result<RemoteRecord, StateError> {
        let (store, path) = (&self.store, self.object_path(RECORD_FILE));
        let got = self.block_with_timeout("read", async {
            let got = store.get(&path).await?;
            let tag = got.meta.e_tag.clone();
            Ok((tag, got.bytes().await?))
        })?;
        match got {
            Ok((Some(tag), bytes)) => {
                let parsed = manifest::parse(&bytes, &self.resource, &self.location)?;
                let lock = parsed.lock.ok_or_else(|| StateError::InvalidManifest {
                    location: self.location.clone(),
                    why: "it has no lock record".to_owned(),
                })?;
                let version = RecordVersion { data: Some(tag), ..RecordVersion::default() };
                let needs_manifest = parsed.version != manifest::MANIFEST_VERSION;
                Ok(RemoteRecord { version, lock, manifest: parsed.manifest, needs_manifest })
            }
            Ok((None, _)) => Err(self.remote_error("read", "the store returned no ETag")),
            Err(object_store::Error::NotFound { .. }) => Ok(RemoteRecord {
                version: RecordVersion::default(),
                lock: LockRecord::never_held(&self.resource, clock::now()),
                manifest: StateManifest::empty(&self.resource),
                needs_manifest: true,
            }),
            Err(error) => Err(self.remote_error("read", error_chain_text(&error))),
        }
    }

    fn compare_and_swap(&mut self, change: &RecordUpdate<'_>) -> Result<RecordVersion, StateError> {
        let archives = change.archives.iter().map(|(archive, bytes)| (self.archive_name(archive), bytes.clone()));
        let (names, payloads): (Vec<_>, Vec<_>) =
            change.files.iter().cloned().chain(archives).map(|(name, bytes)| (name, PutPayload::from(bytes))).unzip();
        self.for_each_object("write", &names, |index, store, path| {
            let payload = payloads[index].clone();
            async move { store.put(&path, payload).await }
        })?;
        let manifest = change.manifest.unwrap_or(&change.expected.manifest);
        let record = manifest::encode(manifest, Some(change.lock), None);
        let mode = match &change.expected.version.data {
            None => PutMode::Create,
            Some(tag) => PutMode::Update(UpdateVersion { e_tag: Some(tag.clone()), version: None }),
        };
        let put = self.put("write", RECORD_FILE, &record, mode)?;
        let tag = put.map_err(|error| self.remote_error("write", error_chain_text(&error)))?;
        self.delete(change.removed);
        Ok(RecordVersion { data: Some(tag), ..RecordVersion::default() })
    }

    fn read_files(&mut self, _: &RemoteRecord, names: &[String]) -> Result<Vec<Vec<u8>>, StateError> {
        self.read_objects(names)
    }

    fn read_archive(&mut self, archive: &RemoteArchive) -> Result<Vec<u8>, StateError> {
        self.read_objects(&[self.archive_name(archive)]).map(|mut contents| contents.remove(0))
    }

    fn stored_name(&self, name: &str, hash: &Blake3Hash) -> String {
        format!("{name}.{}", hash.hex_prefix(NAME_HASH_DIGITS))
    }
}

/// This runner's HTTP client for `object_store`.
#[derive(Debug)]
struct ReqwestConnector;

#[derive(Debug)]
struct ReqwestHttpService(reqwest::Client);

impl HttpConnector for ReqwestConnector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let generic = |source: Box<dyn Error + Send + Sync>| object_store::Error::Generic { store: "S3", source };
        let client = super::http::client().map_err(|error| generic(error.into()))?.timeout(CALL_TIMEOUT).build();
        Ok(HttpClient::new(ReqwestHttpService(client.map_err(|error| generic(error.into()))?)))
    }
}

#[async_trait]
impl HttpService for ReqwestHttpService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse::<url::Url>();
        let url = url.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(reqwest::Body::wrap(body));
        let kind = |error: &reqwest::Error| {
            if error.is_timeout() {
                HttpErrorKind::Timeout
            } else if error.is_connect() {
                HttpErrorKind::Connect
            } else {
                HttpErrorKind::Unknown
            }
        };
        let answer =
            self.0.execute(request).await.map_err(|error| HttpError::new(kind(&error), error.without_url()))?;
        let mut response = http::Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            answer.headers().clone_into(headers);
        }
        let bytes = answer.bytes().await.map_err(|error| HttpError::new(kind(&error), error.without_url()))?;
        response.body(bytes.into()).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))
    }
}
