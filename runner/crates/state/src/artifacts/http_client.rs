//! One call to a service: bounded in time and size, and tried again where that may help.
//!
//! Tried again after 429, 500, 502, 503, 504 and a broken connection, as the official client does, with a pause that doubles and
//! varies, or that the service asks for. Nothing waits without end: each try has a limit, the pauses have one, and the whole has a
//! deadline. Invariant: what goes into an error is [`ServiceHttpClient::harmless`]. Deliberately absent: what an answer means.

use std::time::Duration;

use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use tokio::time::{Instant, sleep, timeout};

use super::ArtifactError;
use crate::error::error_chain_text;
use contract::Secret;

/// How long is waited, and how often tried.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// How often a call is tried.
    pub max_attempts: u32,
    /// About so long before the second try, twice as long before each later one.
    pub first_delay: Duration,
    /// No pause is longer, whatever the service asks for.
    pub max_delay: Duration,
    /// For one try of a call.
    pub call_timeout: Duration,
    /// For one try of a call that moves content, of 8 MiB at most on the way up.
    pub transfer_timeout: Duration,
    /// For all that one function of [`super::ArtifactStore`] does.
    pub total_timeout: Duration,
}

impl CallLimits {
    /// What GitHub's service needs on a bad day.
    pub const DEFAULT: Self = Self {
        max_attempts: 5,
        first_delay: Duration::from_millis(500),
        max_delay: Duration::from_secs(20),
        call_timeout: Duration::from_secs(20),
        transfer_timeout: Duration::from_secs(60),
        total_timeout: Duration::from_secs(150),
    };
}

/// What is asked, and how long for.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceCall {
    /// For people: `list artifacts`.
    pub(super) action: &'static str,
    /// When it is given up.
    pub(super) deadline: Instant,
    /// For one try.
    pub(super) attempt_timeout: Duration,
    /// The most bytes of an answer.
    pub(super) max_bytes: u64,
    pub(super) retry_policy: RetryPolicy,
}

/// When a call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryPolicy {
    /// After whatever may pass.
    Always,
    /// Only when it was surely not obeyed.
    OnlyIfUnprocessed,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct ServiceResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// No answer.
#[derive(Debug)]
pub(super) struct TransportError {
    pub(super) reason: String,
    /// Nobody was asked.
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

/// How calls are made.
#[derive(Debug)]
pub(super) struct ServiceHttpClient {
    pub(super) client: reqwest::Client,
    pub(super) limits: CallLimits,
    /// What no error shows.
    pub(super) secrets: Vec<Secret>,
}

/// The most bytes of an answer that is no content.
const MAX_RESPONSE_BYTES: u64 = 8 << 20;

/// What a try came to.
enum CallAttemptResult {
    Responded(ServiceResponse),
    Failed(TransportError),
    TooLarge,
}

impl ServiceHttpClient {
    /// A call that asks or says something.
    pub(super) fn api_call(&self, action: &'static str, until: Instant) -> ServiceCall {
        ServiceCall {
            action,
            deadline: until,
            attempt_timeout: self.limits.call_timeout,
            max_bytes: MAX_RESPONSE_BYTES,
            retry_policy: RetryPolicy::Always,
        }
    }

    /// A call that moves content.
    pub(super) fn transfer_call(&self, action: &'static str, until: Instant, max: u64) -> ServiceCall {
        ServiceCall { attempt_timeout: self.limits.transfer_timeout, max_bytes: max, ..self.api_call(action, until) }
    }

    /// When all that begins now is given up.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.limits.total_timeout
    }

    /// Asks until there is an answer that waiting would not make better.
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
                    reason: format!("no answer in {limit:.0?}"),
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

    /// Waits before the next try; does not when there would be no time left after it.
    pub(super) async fn wait_before_retry(
        &self,
        tries: u32,
        requested_delay: Option<Duration>,
        until: Instant,
    ) -> bool {
        let mut random = [0; 1];
        // Without randomness the pause is the shortest.
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

    /// What others said, as one short line without secrets: no token, no query of a URL.
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

/// Whether the same may be answered better later. GitHub's REST API says 403 with `Retry-After` where others say 429.
fn is_transient(status: StatusCode, asked_for: Option<Duration>) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504) || status == StatusCode::FORBIDDEN && asked_for.is_some()
}

/// What `Retry-After` says, in seconds. Its other form, a date, is not used by these services.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_cut_and_without_secrets() {
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
