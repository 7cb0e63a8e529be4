//! One call to a service, with limits in time and size, and with retries.
//!
//! Like the official client, it retries after 429, 500, 502, 503, 504 and a broken connection. The pause doubles with
//! jitter, or follows `Retry-After`. Each attempt, each pause and the whole call have a limit. Invariant: text from
//! outside passes [`ServiceHttpClient::redacted_line`] before it enters an error. Deliberately absent: the meaning of
//! responses.

use std::time::Duration;

use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use tokio::time::{Instant, sleep, timeout};

use super::ArtifactError;
use contract::{
    Secret,
    text::{error_chain_text, format_duration},
};

/// Limits of retries and times.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// The most attempts of a call.
    pub max_attempts: u32,
    /// The approximate pause before the second attempt; it doubles for each later one.
    pub first_delay: Duration,
    /// The longest pause, whatever the service asks for.
    pub max_delay: Duration,
    /// The timeout of one attempt.
    pub call_timeout: Duration,
    /// The timeout of one attempt that transfers content; uploads go in blocks of at most 8 MiB.
    pub transfer_timeout: Duration,
    /// The deadline of one function of [`super::ArtifactStore`].
    pub total_timeout: Duration,
}

impl CallLimits {
    /// Limits that suit GitHub's service on a bad day.
    pub const DEFAULT: Self = Self {
        max_attempts: 5,
        first_delay: Duration::from_millis(500),
        max_delay: Duration::from_secs(20),
        call_timeout: Duration::from_secs(20),
        transfer_timeout: Duration::from_secs(60),
        total_timeout: Duration::from_secs(150),
    };
}

/// One call and its limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceCall {
    /// For people: `list artifacts`.
    pub(super) action: &'static str,
    /// When to give up.
    pub(super) deadline: Instant,
    /// The timeout of one attempt.
    pub(super) attempt_timeout: Duration,
    /// The largest response, in bytes.
    pub(super) max_bytes: u64,
    pub(super) retry_policy: RetryPolicy,
}

/// When a call may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryPolicy {
    /// After every transient error.
    Always,
    /// Only when the service has certainly not processed it.
    OnlyIfUnprocessed,
}

/// A response with its whole body.
#[derive(Debug)]
pub(super) struct ServiceResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// An attempt without a response.
#[derive(Debug)]
pub(super) struct TransportError {
    pub(super) reason: String,
    /// Whether the request never left this machine.
    pub(super) was_never_sent: bool,
}

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> Self {
        let is_unsent = error.is_connect() || error.is_builder();
        Self { reason: error_chain_text(&error.without_url()), was_never_sent: is_unsent }
    }
}

impl From<octocrab::Error> for TransportError {
    fn from(error: octocrab::Error) -> Self {
        Self { reason: error_chain_text(&error), was_never_sent: false }
    }
}

/// A client with limits and redaction.
#[derive(Debug)]
pub(super) struct ServiceHttpClient {
    pub(super) client: reqwest::Client,
    pub(super) limits: CallLimits,
    /// Values that errors must not contain.
    pub(super) secrets: Vec<Secret>,
}

/// The largest response without content, in bytes.
const MAX_RESPONSE_BYTES: u64 = 8 << 20;

/// The result of one attempt.
enum CallAttemptResult {
    Responded(ServiceResponse),
    Failed(TransportError),
    TooLarge,
}

impl ServiceHttpClient {
    /// A call of the API.
    pub(super) fn api_call(&self, action: &'static str, until: Instant) -> ServiceCall {
        ServiceCall {
            action,
            deadline: until,
            attempt_timeout: self.limits.call_timeout,
            max_bytes: MAX_RESPONSE_BYTES,
            retry_policy: RetryPolicy::Always,
        }
    }

    /// A call that transfers content.
    pub(super) fn transfer_call(&self, action: &'static str, until: Instant, max: u64) -> ServiceCall {
        ServiceCall { attempt_timeout: self.limits.transfer_timeout, max_bytes: max, ..self.api_call(action, until) }
    }

    /// The deadline of an operation that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.limits.total_timeout
    }

    /// Sends the request until it gets a response that a retry would not improve.
    pub(super) async fn send_with_retries<F, E>(
        &self,
        call: ServiceCall,
        send: impl Fn() -> F,
    ) -> Result<ServiceResponse, ArtifactError>
    where
        F: Future<Output = Result<Response, E>>,
        TransportError: From<E>,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            let limit = call.attempt_timeout.min(call.deadline.saturating_duration_since(Instant::now()));
            let result = timeout(limit, send_once(call.max_bytes, send())).await;
            let tried = result.unwrap_or_else(|_| {
                CallAttemptResult::Failed(TransportError {
                    reason: format!("no answer in {}", format_duration(limit.as_millis() as u64)),
                    was_never_sent: false,
                })
            });
            let (why, is_unprocessed, requested_delay) = match tried {
                CallAttemptResult::TooLarge => {
                    return Err(ArtifactError::TooLarge { action: call.action, max: call.max_bytes });
                }
                CallAttemptResult::Failed(broken) => (self.redacted_line(&broken.reason), broken.was_never_sent, None),
                CallAttemptResult::Responded(answer) => {
                    let asked_for = retry_after(&answer.headers);
                    if !is_transient(answer.status, asked_for) {
                        return Ok(answer);
                    }
                    let is_undone = answer.status == StatusCode::TOO_MANY_REQUESTS;
                    (format!("the service answered {}", answer.status), is_undone, asked_for)
                }
            };
            let is_repeated = call.retry_policy == RetryPolicy::Always || is_unprocessed;
            if !is_repeated
                || tries >= self.limits.max_attempts
                || !self.wait_before_retry(tries, requested_delay, call.deadline).await
            {
                return Err(ArtifactError::Unavailable { action: call.action, tries, why });
            }
        }
    }

    /// Waits before the next attempt. Returns false when no time would be left after the pause.
    pub(super) async fn wait_before_retry(
        &self,
        tries: u32,
        requested_delay: Option<Duration>,
        until: Instant,
    ) -> bool {
        let mut random = [0; 1];
        // Without randomness, the pause is the shortest.
        let _ = getrandom::fill(&mut random);
        let doubled = self.limits.first_delay.saturating_mul(1 << (tries - 1).min(16));
        let varied = doubled / 2 + doubled / 2 * u32::from(random[0]) / 255;
        let pause = varied.max(requested_delay.unwrap_or_default()).min(self.limits.max_delay);
        if Instant::now() + pause >= until {
            return false;
        }
        sleep(pause).await;
        true
    }

    /// A foreign text as one short line without tokens and URL queries.
    pub(super) fn redacted_line(&self, text: &str) -> String {
        const MAX_ERROR_CHARS: usize = 300;
        let mut text = text.to_owned();
        for secret in self.secrets.iter().map(Secret::reveal).filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "***");
        }
        let shown = |word: &str| match word.split_once('?') {
            Some((place, _)) if place.contains("://") => format!("{place}?…"),
            Some(_) | None if word.contains("sig=") => "…".to_owned(),
            Some(_) | None => word.to_owned(),
        };
        let is_space = |c: char| c.is_whitespace() || c.is_control();
        let words: Vec<_> = text.split(is_space).filter(|word| !word.is_empty()).map(shown).collect();
        words.join(" ").chars().take(MAX_ERROR_CHARS).collect()
    }
}

async fn send_once<E>(max: u64, sent: impl Future<Output = Result<Response, E>>) -> CallAttemptResult
where
    TransportError: From<E>,
{
    let mut response = match sent.await {
        Ok(response) => response,
        Err(error) => return CallAttemptResult::Failed(error.into()),
    };
    if response.content_length().is_some_and(|length| length > max) {
        return CallAttemptResult::TooLarge;
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if (body.len() + chunk.len()) as u64 > max => return CallAttemptResult::TooLarge,
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return CallAttemptResult::Failed(error.into()),
        }
    }
    CallAttemptResult::Responded(ServiceResponse {
        status: response.status(),
        headers: response.headers().clone(),
        body,
    })
}

/// Whether a retry may help. GitHub's REST API uses 403 with `Retry-After` for rate limits.
fn is_transient(status: StatusCode, asked_for: Option<Duration>) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504) || status == StatusCode::FORBIDDEN && asked_for.is_some()
}

/// The seconds in `Retry-After`. These services do not use its other form, a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_truncated_and_redacted() {
        let calls = ServiceHttpClient {
            client: crate::http::client().unwrap().build().unwrap(),
            limits: CallLimits::DEFAULT,
            secrets: vec![Secret::new("s3cret".to_owned()), Secret::new(String::new())],
        };
        let said = "no\u{1b}[31m\n\"https://blob.example/x?se=1&sig=abc\" for s3cret, sig=abc? why?";
        let harmless = calls.redacted_line(&format!("{said} {}", "x".repeat(1000)));
        assert!(harmless.starts_with("no [31m \"https://blob.example/x?… for ***, … why? xxx"), "{harmless}");
        assert_eq!(harmless.chars().count(), 300);
    }
}
