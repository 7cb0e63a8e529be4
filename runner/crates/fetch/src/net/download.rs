//! A download that resumes after an interruption.
//!
//! After a transient error, it requests the rest of the URL (RFC 9110, 14: `Range` and `If-Range`), from the start of
//! its redirects, so that each hop passes the gate again and expired signed URLs are renewed. If the server sends the
//! whole content or a wrong range, the bytes that were already returned are skipped.
//!
//! Invariants: it returns each byte of the content once and in order, as long as the server serves one content. A
//! visible change of the content (ETag, Last-Modified, length) is an error. The retries in a row without a new byte are
//! limited. Deliberately absent: whether the content is the right one, which its digest tells, and a total timeout,
//! which is the step's.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use reqwest::{
    Method, StatusCode,
    header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER},
};
use tokio::time::timeout;
use url::Url;

use super::{
    NetClient, NetError, NetRequest, RequestedPauses,
    error::{peer, url_for_display},
    request::RedirectHop,
};
use contract::Secret;

/// How many redirects a download follows.
const MAX_DOWNLOAD_REDIRECTS: u32 = 10;

/// The longest pause before a retry.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(8);

/// Timeouts and retries of a download.
#[derive(Clone, Copy, Debug)]
pub(super) struct DownloadRetryPolicy {
    /// How long the server may send nothing.
    pub(super) stall_timeout: Duration,
    /// The pause before the first retry in a row; it doubles for each later one, up to [`MAX_RETRY_DELAY`].
    pub(super) first_delay: Duration,
    /// The most retries in a row without a new byte.
    pub(super) max_retries: u32,
}

impl DownloadRetryPolicy {
    /// Half a minute in all, in which a server can be started again.
    pub(super) const DEFAULT: Self =
        Self { stall_timeout: Duration::from_secs(30), first_delay: Duration::from_millis(250), max_retries: 8 };

    /// The pause after so many failures in a row.
    fn delay(self, failures: u32) -> Duration {
        (self.first_delay * 2_u32.saturating_pow(failures)).min(MAX_RETRY_DELAY)
    }
}

/// The body of a response with status 200, chunk by chunk.
pub struct Download {
    client: Arc<NetClient>,
    url: Url,
    /// Headers that stay with the first origin.
    secrets: Vec<(String, Secret)>,
    /// `None` when the server said that there is nothing more.
    response: Option<reqwest::Response>,
    identity: ContentIdentity,
    /// Bytes returned so far, or by an earlier download.
    received: u64,
    /// Bytes to skip, because they were already returned.
    bytes_to_skip: u64,
    /// Failures since the last new byte.
    failures: u32,
    /// Whether the server supports ranges.
    supports_ranges: bool,
    interruption: Option<NetError>,
}

/// The properties by which two responses have the same content.
#[derive(Default)]
struct ContentIdentity {
    size: Option<u64>,
    etag: Option<HeaderValue>,
    last_modified: Option<HeaderValue>,
}

impl ContentIdentity {
    fn from_headers(headers: &HeaderMap, size: Option<u64>) -> Self {
        let header = |name: HeaderName| headers.get(name).cloned();
        Self { size, etag: header(ETAG), last_modified: header(LAST_MODIFIED) }
    }

    fn may_equal(&self, other: &Self) -> bool {
        fn agree<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> Option<bool> {
            Some(a? == b?)
        }
        let tags = agree(self.etag.as_ref(), other.etag.as_ref());
        let times = || agree(self.last_modified.as_ref(), other.last_modified.as_ref());
        tags.or_else(times).unwrap_or(true) && agree(self.size.as_ref(), other.size.as_ref()).unwrap_or(true)
    }

    /// Adds what was not known.
    fn learn(&mut self, other: Self) {
        self.size = self.size.or(other.size);
        self.etag = self.etag.take().or(other.etag);
        self.last_modified = self.last_modified.take().or(other.last_modified);
    }

    /// The value for `If-Range`: a strong tag, else a time.
    fn if_range_value(&self) -> Option<&str> {
        let strong = self.etag.as_ref().filter(|tag| tag.as_bytes().starts_with(b"\""));
        strong.or(self.last_modified.as_ref())?.to_str().ok()
    }
}

impl NetClient {
    /// Sends GET, follows up to 10 redirects, and returns the body as it arrives, from its byte `offset` on.
    ///
    /// # Errors
    /// The status is neither 200 nor, with an offset, 206.
    pub async fn open_download(self: &Arc<Self>, url: &Url, offset: u64) -> Result<Download, NetError> {
        self.open_download_with(url, Vec::new(), offset).await
    }

    /// The same, with headers that stay with the first origin.
    pub(crate) async fn open_download_with(
        self: &Arc<Self>,
        url: &Url,
        secrets: Vec<(String, Secret)>,
        offset: u64,
    ) -> Result<Download, NetError> {
        let mut download = Download {
            client: Arc::clone(self),
            url: url.clone(),
            secrets,
            identity: ContentIdentity::default(),
            response: None,
            received: offset,
            bytes_to_skip: 0,
            failures: 0,
            supports_ranges: true,
            interruption: None,
        };
        download.response = match download.request_rest().await {
            // Then everything is requested, and what is there is skipped.
            Err(NetError::WrongRange { .. }) => download.request_rest().await?,
            answer => answer?,
        };
        Ok(download)
    }

    /// The same for a later part of a content: a server that does not answer is asked again, as after an interruption.
    pub(crate) async fn open_next_download(
        self: &Arc<Self>,
        url: &Url,
        secrets: Vec<(String, Secret)>,
        offset: u64,
    ) -> Result<Download, NetError> {
        let (policy, mut last) = (self.download_retry, None);
        for failures in 0..policy.max_retries {
            match self.open_download_with(url, secrets.clone(), offset).await {
                Ok(mut download) => {
                    download.interruption = last.or(download.interruption);
                    return Ok(download);
                }
                Err(failure) if failure.is_resumable() => last = Some(failure),
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(policy.delay(failures)).await;
        }
        self.open_download_with(url, secrets, offset).await
    }

    /// The response, after the pauses that the server asks for; and the answer that asked for the last one.
    async fn follow_download(&self, request: NetRequest) -> Result<(reqwest::Response, Option<NetError>), NetError> {
        let stall = self.download_retry.stall_timeout;
        let (mut pauses, mut asked) = (RequestedPauses::default(), None);
        loop {
            let hop = RedirectHop::first(request.clone())?;
            let response = self.follow_redirects(hop, MAX_DOWNLOAD_REDIRECTS, |now| (now + stall, stall)).await?;
            match pauses.next_for(response.status().as_u16(), retry_after(&response)) {
                Some(pause) => {
                    asked = Some(status_error(&response));
                    tokio::time::sleep(pause).await;
                }
                None => return Ok((response, asked)),
            }
        }
    }
}

fn retry_after(response: &reqwest::Response) -> Option<&str> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()
}

fn status_error(response: &reqwest::Response) -> NetError {
    let (url, status) = (url_for_display(response.url()), response.status());
    match RequestedPauses::parse(status.as_u16(), retry_after(response)) {
        Some(after) => NetError::Busy { url, status, after },
        None => NetError::Status { url, status },
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("received", &self.received).finish_non_exhaustive()
    }
}

impl Download {
    /// The length in bytes, if the server announced it.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.identity.size
    }

    /// Replaces the headers that stay with the first origin: a token may expire during a download.
    pub(crate) fn set_secrets(&mut self, secrets: Vec<(String, Secret)>) {
        self.secrets = secrets;
    }

    /// Takes the error of the last interruption after which the download resumed.
    pub fn take_interruption(&mut self) -> Option<NetError> {
        self.interruption.take()
    }

    /// The next bytes; `None` after the last. A body shorter than announced is an error, not an end.
    pub async fn next_chunk(&mut self) -> Result<Option<impl Deref<Target = [u8]> + Send + 'static + use<>>, NetError> {
        loop {
            match self.receive().await {
                Ok(chunk) => return Ok(chunk),
                Err(failure) => self.resume(failure).await?,
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<impl Deref<Target = [u8]> + Send + 'static + use<>>, NetError> {
        let stall = self.client.download_retry.stall_timeout;
        loop {
            let Some(response) = &mut self.response else { return Ok(None) };
            let mut chunk = match timeout(stall, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return self.check_complete().map(|()| None),
                Ok(Err(error)) => return Err(NetError::from_reqwest(&error, response.url())),
                Err(_) => {
                    let peer = peer(response.url());
                    return Err(NetError::Stalled { peer, within: stall, received: self.received });
                }
            };
            let already_received = chunk.len().min(usize::try_from(self.bytes_to_skip).unwrap_or(usize::MAX));
            drop(chunk.split_to(already_received));
            self.bytes_to_skip -= already_received as u64;
            if !chunk.is_empty() {
                self.received += chunk.len() as u64;
                self.failures = 0;
                return Ok(Some(chunk));
            }
        }
    }

    /// Whether the end of a response is the end of the content.
    fn check_complete(&self) -> Result<(), NetError> {
        match self.identity.size {
            Some(size) if self.received < size => {
                Err(NetError::BodyTooShort { peer: peer(&self.url), received: self.received, size })
            }
            _ if self.bytes_to_skip > 0 => Err(self.changed_error()),
            Some(_) | None => Ok(()),
        }
    }

    /// Requests the rest until there is a response or no retry is left.
    async fn resume(&mut self, mut failure: NetError) -> Result<(), NetError> {
        let retry_policy = self.client.download_retry;
        while failure.is_resumable() {
            if self.failures == retry_policy.max_retries {
                let (peer, received) = (peer(&self.url), self.received);
                return Err(NetError::RetriesExhausted {
                    peer,
                    received,
                    tries: self.failures,
                    last: Box::new(failure),
                });
            }
            tokio::time::sleep(retry_policy.delay(self.failures)).await;
            self.failures += 1;
            match self.request_rest().await {
                Ok(response) => {
                    self.response = response;
                    self.interruption = Some(failure);
                    return Ok(());
                }
                Err(next) => failure = next,
            }
        }
        Err(failure)
    }

    /// The response with the bytes from `received` on, or with all of them; `None` if there are no more.
    async fn request_rest(&mut self) -> Result<Option<reqwest::Response>, NetError> {
        let is_range_request = self.supports_ranges && self.received > 0;
        let mut request = NetRequest::new(Method::GET.as_str(), self.url.as_str())?;
        request.secrets.clone_from(&self.secrets);
        if is_range_request {
            request.headers.push((RANGE.to_string(), format!("bytes={}-", self.received)));
            if let Some(condition) = self.identity.if_range_value() {
                request.headers.push((IF_RANGE.to_string(), condition.to_owned()));
            }
        }
        let (response, pause) = self.client.follow_download(request).await?;
        self.interruption = pause.or(self.interruption.take());
        let headers = response.headers();
        match response.status() {
            StatusCode::OK => {
                let content = ContentIdentity::from_headers(headers, response.content_length());
                if self.received == 0 {
                    self.identity = content;
                } else if !self.identity.may_equal(&content) {
                    return Err(self.changed_error());
                } else {
                    self.identity.learn(content);
                }
                self.bytes_to_skip = self.received;
                Ok(Some(response))
            }
            StatusCode::PARTIAL_CONTENT if is_range_request => match ContentRange::from_headers(headers) {
                Some(range) if range.start == Some(self.received) => {
                    let content = ContentIdentity::from_headers(headers, range.size);
                    if !self.identity.may_equal(&content) {
                        return Err(self.changed_error());
                    }
                    self.identity.learn(content);
                    self.bytes_to_skip = 0;
                    Ok(Some(response))
                }
                Some(_) | None => Err(self.wrong_range_error(&response)),
            },
            StatusCode::RANGE_NOT_SATISFIABLE if is_range_request => match ContentRange::from_headers(headers) {
                // The connection broke between the last byte and the end of the answer.
                Some(ContentRange { start: None, size: Some(size) }) if size == self.received => {
                    self.identity.size = Some(size);
                    Ok(None)
                }
                Some(ContentRange { start: None, size: Some(size) })
                    if self.identity.size.is_some_and(|was| was != size) =>
                {
                    Err(self.changed_error())
                }
                Some(_) | None => Err(self.wrong_range_error(&response)),
            },
            _ => Err(status_error(&response)),
        }
    }

    fn changed_error(&self) -> NetError {
        NetError::ContentChanged { url: url_for_display(&self.url), received: self.received }
    }

    /// The server's range is wrong, so later requests ask for the whole content.
    fn wrong_range_error(&mut self, response: &reqwest::Response) -> NetError {
        self.supports_ranges = false;
        let stated = response.headers().get(CONTENT_RANGE).map(|value| String::from_utf8_lossy(value.as_bytes()));
        NetError::WrongRange {
            peer: peer(response.url()),
            asked: self.received,
            answered: stated.map_or_else(|| "no range".to_owned(), |stated| stated.chars().take(80).collect()),
        }
    }
}

/// What `Content-Range` says (RFC 9110, 14.4): `bytes 5-9/10`, `bytes 5-9/*`, or without a start `bytes */10`.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    start: Option<u64>,
    size: Option<u64>,
}

impl ContentRange {
    fn from_headers(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(CONTENT_RANGE)?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        fn number(text: &str) -> Option<u64> {
            if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
        }
        let (unit, rest) = text.split_once(' ')?;
        let (range, size) = rest.trim().split_once('/')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let size = if size == "*" { None } else { Some(number(size)?) };
        if range == "*" {
            return Some(Self { start: None, size });
        }
        let (start, end) = range.split_once('-')?;
        let (start, end) = (number(start)?, number(end)?);
        (start <= end && size.is_none_or(|size| end < size)).then_some(Self { start: Some(start), size })
    }
}

#[cfg(test)]
#[test]
fn content_ranges() {
    let range = |start, size| Some(ContentRange { start, size });
    assert_eq!(ContentRange::parse("bytes 5-9/10"), range(Some(5), Some(10)));
    assert_eq!(ContentRange::parse("Bytes 0-0/*"), range(Some(0), None));
    assert_eq!(ContentRange::parse("bytes */10"), range(None, Some(10)));
    for bad in
        ["", "bytes", "bytes 5-9", "bytes 9-5/10", "bytes 5-10/10", "bytes 5-/10", "bytes +5-9/10", "items 1-2/3"]
    {
        assert_eq!(ContentRange::parse(bad), None, "{bad:?}");
    }
}
