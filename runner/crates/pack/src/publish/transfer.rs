//! Requests with bodies of any size, which are read from the file while they are sent.
//!
//! A request fails when nothing moves for two minutes, in either direction. Deliberately absent: redirects, which would take a body or
//! credentials elsewhere.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Client, Method, header::CONTENT_LENGTH};
use url::Url;

use super::{PublishError, PublishSource};
use contract::Secret;

/// The bytes that are read at a time.
const READ_BYTES: u64 = 256 << 10;
/// How long nothing may move.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);
const STALL_CHECKS: u64 = 24;
/// The largest answer that is kept, in bytes.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// The pauses before a request is tried again.
const PAUSES_MS: [u64; 3] = [200, 800, 2500];

pub(super) struct Transfer {
    client: Client,
}

/// A part of a body.
#[derive(Clone, Debug)]
pub(super) enum BodyPart {
    Bytes(Bytes),
    /// A range of the file.
    Range {
        start: u64,
        length: u64,
    },
}

/// A request. Cheap to copy, so that it can be sent again.
#[derive(Clone, Debug)]
pub(super) struct TransferRequest {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) authorization: Option<Secret>,
    pub(super) body: Vec<BodyPart>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct TransferAnswer {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl TransferRequest {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: Vec::new(), authorization: None, body: Vec::new() }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn authorization(mut self, value: Option<Secret>) -> Self {
        self.authorization = value;
        self
    }

    pub(super) fn bytes(mut self, bytes: impl Into<Bytes>) -> Self {
        self.body.push(BodyPart::Bytes(bytes.into()));
        self
    }

    pub(super) fn range(mut self, start: u64, length: u64) -> Self {
        self.body.push(BodyPart::Range { start, length });
        self
    }

    fn length(&self) -> u64 {
        let length = |part: &BodyPart| match part {
            BodyPart::Bytes(bytes) => bytes.len() as u64,
            BodyPart::Range { length, .. } => *length,
        };
        self.body.iter().map(length).sum()
    }
}

impl TransferAnswer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The error of an answer that is no success.
    pub(super) fn error(&self, url: &Url, what: &str, has_credentials: bool) -> PublishError {
        let peer = peer(url);
        match self.status {
            status @ (401 | 403) => PublishError::Denied { peer, status, has_credentials },
            status @ (507 | 413) => PublishError::ServerFull { peer, status },
            status => PublishError::Status {
                peer,
                status,
                what: what.to_owned(),
                body: String::from_utf8_lossy(&self.body).into_owned(),
            },
        }
    }
}

impl Transfer {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Sends a request that may be repeated, a few times while nobody answers or the server is busy.
    pub(super) async fn send(
        &self,
        source: &PublishSource,
        request: &TransferRequest,
    ) -> Result<TransferAnswer, PublishError> {
        let mut pauses = PAUSES_MS.into_iter();
        loop {
            let answer = self.send_once(source, request).await;
            let is_transient = match &answer {
                Ok(answer) => matches!(answer.status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
                Err(error) => error.is_transient(),
            };
            match pauses.next() {
                Some(pause) if is_transient => tokio::time::sleep(Duration::from_millis(pause)).await,
                Some(_) | None => return answer,
            }
        }
    }

    /// Sends a request once.
    pub(super) async fn send_once(
        &self,
        source: &PublishSource,
        request: &TransferRequest,
    ) -> Result<TransferAnswer, PublishError> {
        let moved = Arc::new(AtomicU64::new(0));
        let work = self.exchange(source, request, &moved);
        let stalled = async {
            let (mut last, mut unchanged) = (0, 0);
            while unchanged < STALL_CHECKS {
                tokio::time::sleep(STALL_TIMEOUT / 24).await;
                let now = moved.load(Ordering::Relaxed);
                unchanged = if now == last { unchanged + 1 } else { 0 };
                last = now;
            }
        };
        tokio::select! {
            answer = work => answer,
            () = stalled => {
                let why = format!("nothing moved for {} s", STALL_TIMEOUT.as_secs());
                Err(PublishError::Unreachable { peer: peer(&request.url), why })
            }
        }
    }

    async fn exchange(
        &self,
        source: &PublishSource,
        request: &TransferRequest,
        moved: &Arc<AtomicU64>,
    ) -> Result<TransferAnswer, PublishError> {
        let failed = |error: reqwest::Error| unreachable_error(&request.url, &error);
        let mut builder = self.client.request(request.method.clone(), request.url.clone());
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(authorization) = &request.authorization {
            let mut value = reqwest::header::HeaderValue::from_str(authorization.reveal())
                .map_err(|_| PublishError::Credentials("the value of `--authorization` is no header".to_owned()))?;
            value.set_sensitive(true);
            builder = builder.header(reqwest::header::AUTHORIZATION, value);
        }
        if !request.body.is_empty() || matches!(request.method, Method::PUT | Method::POST | Method::PATCH) {
            builder = builder.header(CONTENT_LENGTH, request.length());
        }
        if request.length() > 0 {
            builder = builder.body(body(source, request.body.clone(), Arc::clone(moved)));
        }
        let mut answer = builder.send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = answer.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        let mut content = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            moved.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            let room = MAX_ANSWER_BYTES.saturating_sub(content.len());
            content.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        Ok(TransferAnswer { status, headers, body: content })
    }

    /// The digest of what a URL has, read to its end.
    pub(super) async fn digest_of(&self, request: &TransferRequest) -> Result<contract::Digest, PublishError> {
        use sha2::Digest as _;
        let failed = |error: reqwest::Error| unreachable_error(&request.url, &error);
        let mut builder = self.client.get(request.url.clone());
        if let Some(authorization) = &request.authorization {
            builder = builder.header(reqwest::header::AUTHORIZATION, authorization.reveal());
        }
        let mut answer = builder.send().await.map_err(failed)?;
        if !answer.status().is_success() {
            let answer = TransferAnswer { status: answer.status().as_u16(), headers: Vec::new(), body: Vec::new() };
            return Err(answer.error(&request.url, "GET", request.authorization.is_some()));
        }
        let mut hasher = sha2::Sha256::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            hasher.update(&chunk);
        }
        Ok(contract::Digest::from_bytes(hasher.finalize().into()))
    }
}

/// A body of several parts.
fn body(source: &PublishSource, parts: Vec<BodyPart>, moved: Arc<AtomicU64>) -> Body {
    let file = Arc::clone(&source.file);
    let mut parts = parts.into_iter().rev().collect::<Vec<_>>();
    Body::wrap_stream(stream::iter(std::iter::from_fn(move || {
        let piece = match parts.pop()? {
            BodyPart::Bytes(bytes) => Ok(bytes),
            BodyPart::Range { start, length } => {
                let now = length.min(READ_BYTES);
                if length > now {
                    parts.push(BodyPart::Range { start: start + now, length: length - now });
                }
                let mut bytes = vec![0; usize::try_from(now).unwrap_or_default()];
                std::os::unix::fs::FileExt::read_exact_at(&*file, &mut bytes, start).map(|()| Bytes::from(bytes))
            }
        };
        if let Ok(bytes) = &piece {
            moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Some(piece)
    })))
}

fn unreachable_error(url: &Url, error: &reqwest::Error) -> PublishError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<io::Error>() {
        Some(fault) if fault.kind() == io::ErrorKind::UnexpectedEof && !error.is_connect() => {
            PublishError::Unreachable { peer: peer(url), why: "the connection was closed".to_owned() }
        }
        Some(_) | None => PublishError::Unreachable { peer: peer(url), why: cause.to_string() },
    }
}

/// `host:port`.
pub(super) fn peer(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}
