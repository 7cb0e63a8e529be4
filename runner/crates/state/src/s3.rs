//! State in a bucket of an S3-compatible object store: the record and the journals are objects with a common prefix.
//!
//! A swap is a conditional put: `If-None-Match: *` for the first, `If-Match` for later ones.
//! [`RemoteStorage::verify_conditional_writes`] detects and refuses a store that ignores either. A call that timed out
//! may still arrive; the reader of the record finds out. `object_store` uses this runner's HTTP and TLS, so that there
//! is one of each. Deliberately absent: listing; the record names all objects.

use std::{error::Error, str::FromStr as _};

use async_trait::async_trait;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig, UpdateVersion,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService},
    path::Path,
};
use tokio::runtime::Runtime;

use super::{
    StateError,
    remote::{CALL_TIMEOUT, RECORD_FILE, RecordUpdate, RecordVersion, RemoteStorage, VersionedRecord},
};
use contract::text::error_chain_text;
use plan::RemoteState;

/// The region for stores without regions.
const DEFAULT_REGION: &str = "us-east-1";

/// State in a bucket.
#[derive(Debug)]
pub struct S3Storage {
    location: String,
    store: AmazonS3,
    /// The prefix of the objects' names.
    prefix: String,
    runtime: Runtime,
}

impl S3Storage {
    pub(super) fn new(state: &RemoteState, bucket: &str, prefix: &str, resource: &str) -> Result<Self, StateError> {
        let failed = |why: String| StateError::Remote { action: "reach", location: state.written.clone(), why };
        let runtime = super::runtime().map_err(|error| failed(error.to_string()))?;
        let mut builder = AmazonS3Builder::new()
            .with_region(DEFAULT_REGION)
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_http_connector(ReqwestConnector)
            // The caller retries, because it knows whether it may.
            .with_retry(RetryConfig { max_retries: 0, retry_timeout: CALL_TIMEOUT, ..RetryConfig::default() });
        for (name, value) in &state.settings {
            // AWS's variables for the endpoint of one service; the more specific one comes later.
            let name =
                if name.starts_with("AWS_ENDPOINT_URL") && !name.ends_with("STS") { "AWS_ENDPOINT" } else { name };
            if let Ok(key) = AmazonS3ConfigKey::from_str(&name.to_ascii_lowercase()) {
                builder = builder.with_config(key, value.reveal());
            }
        }
        let store = builder.build().map_err(|error| failed(error_chain_text(&error)))?;
        let prefix = if prefix.is_empty() { resource.to_owned() } else { format!("{prefix}/{resource}") };
        Ok(Self { location: state.written.clone(), store, prefix, runtime })
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

    fn put(
        &self,
        action: &'static str,
        name: &str,
        bytes: &[u8],
        mode: PutMode,
    ) -> Result<Result<RecordVersion, object_store::Error>, StateError> {
        let payload = PutPayload::from(bytes.to_vec());
        let options = PutOptions::from(mode);
        let (store, path) = (&self.store, self.object_path(name));
        let put = self.block_with_timeout(action, async { store.put_opts(&path, payload, options).await })?;
        match put {
            Ok(result) => match result.e_tag {
                Some(tag) => Ok(Ok(RecordVersion(tag))),
                None => Err(self.remote_error(action, "the store returned no ETag")),
            },
            Err(error) => Ok(Err(error)),
        }
    }

    fn get(&self, name: &str) -> Result<Option<VersionedRecord>, StateError> {
        let (store, path) = (&self.store, self.object_path(name));
        let got = self.block_with_timeout("read", async {
            let got = store.get(&path).await?;
            let tag = got.meta.e_tag.clone();
            Ok((tag, got.bytes().await?))
        })?;
        match got {
            Ok((Some(tag), bytes)) => Ok(Some(VersionedRecord { version: RecordVersion(tag), bytes: bytes.to_vec() })),
            Ok((None, _)) => Err(self.remote_error("read", "the store returned no ETag")),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.remote_error("read", error_chain_text(&error))),
        }
    }

    fn delete(&self, name: &str) {
        let (store, path) = (&self.store, self.object_path(name));
        // A leftover probe object is named by no record and costs a few bytes.
        let _ = self.block_with_timeout("tidy", async { store.delete(&path).await });
    }
}

impl RemoteStorage for S3Storage {
    fn verify_conditional_writes(&mut self) -> Result<(), StateError> {
        let nonce = super::record::random_nonce().map_err(|error| self.remote_error("probe", error.to_string()))?;
        let name = format!("probe-{nonce}");
        let refused = |put: Result<RecordVersion, object_store::Error>, what: &str| match put {
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
            let update = |version: &RecordVersion| {
                PutMode::Update(UpdateVersion { e_tag: Some(version.0.clone()), version: None })
            };
            let second = self.put("write", &name, b"3", update(&first))?;
            second.map_err(|error| self.remote_error("write", error_chain_text(&error)))?;
            refused(self.put("write", &name, b"4", update(&first))?, "If-Match")
        })();
        self.delete(&name);
        outcome
    }

    fn read_record(&mut self) -> Result<Option<VersionedRecord>, StateError> {
        self.get(RECORD_FILE)
    }

    fn compare_and_swap(&mut self, change: &RecordUpdate<'_>) -> Result<RecordVersion, StateError> {
        for (name, bytes) in change.files {
            let put = self.put("write", name, bytes, PutMode::Overwrite)?;
            put.map_err(|error| self.remote_error("write", error_chain_text(&error)))?;
        }
        let mode = match change.expected {
            None => PutMode::Create,
            Some(RecordVersion(tag)) => PutMode::Update(UpdateVersion { e_tag: Some(tag.clone()), version: None }),
        };
        let put = self.put("write", RECORD_FILE, change.record, mode)?;
        let version = put.map_err(|error| self.remote_error("write", error_chain_text(&error)))?;
        change.removed.iter().for_each(|name| self.delete(name));
        Ok(version)
    }

    fn read_file(&mut self, name: &str) -> Result<Vec<u8>, StateError> {
        match self.get(name)? {
            Some(seen) => Ok(seen.bytes),
            None => Err(self.remote_error("read", format!("{name} is missing"))),
        }
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
