//! One call to a service: bounded in time and size, and tried again where that may help.
//!
//! Tried again after 429, 500, 502, 503, 504 and a broken connection, as the official client does, with a pause that doubles and
//! varies, or that the service asks for. Nothing waits without end: each try has a limit, the pauses have one, and the whole has a
//! deadline. Invariant: what goes into an error is [`Calls::harmless`]. Deliberately absent: what an answer means.

use std::time::Duration;

use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use tokio::time::{Instant, sleep, timeout};

use super::ArtifactError;
use crate::error::reasons;
use contract::Secret;

/// How long is waited, and how often tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How often a call is tried.
    pub tries: u32,
    /// About so long before the second try, twice as long before each later one.
    pub pause: Duration,
    /// No pause is longer, whatever the service asks for.
    pub longest_pause: Duration,
    /// For one try of a call.
    pub call: Duration,
    /// For one try of a call that moves content, of 8 MiB at most on the way up.
    pub transfer: Duration,
    /// For all that one function of [`super::Artifacts`] does.
    pub total: Duration,
}

impl Patience {
    /// What GitHub's service needs on a bad day.
    pub const DEFAULT: Self = Self {
        tries: 5,
        pause: Duration::from_millis(500),
        longest_pause: Duration::from_secs(20),
        call: Duration::from_secs(20),
        transfer: Duration::from_secs(60),
        total: Duration::from_secs(150),
    };
}

/// What is asked, and how long for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// For people: `list artifacts`.
    pub(super) action: &'static str,
    /// When it is given up.
    pub(super) until: Instant,
    /// For one try.
    pub(super) limit: Duration,
    /// The most bytes of an answer.
    pub(super) max: u64,
    pub(super) repeats: Repeats,
}

/// When a call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeats {
    /// After whatever may pass.
    Freely,
    /// Only when it was surely not obeyed.
    IfUndone,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// No answer.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) why: String,
    /// Nobody was asked.
    pub(super) is_unsent: bool,
}

impl From<reqwest::Error> for Broken {
    fn from(error: reqwest::Error) -> Self {
        let is_unsent = error.is_connect() || error.is_builder();
        Self { why: reasons(&error.without_url()), is_unsent }
    }
}

impl From<octocrab::Error> for Broken {
    fn from(error: octocrab::Error) -> Self {
        Self { why: reasons(&error), is_unsent: false }
    }
}

/// How calls are made.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) client: reqwest::Client,
    pub(super) patience: Patience,
    /// What no error shows.
    pub(super) secrets: Vec<Secret>,
}

/// The most bytes of an answer that is no content.
const ANSWER: u64 = 8 << 20;

/// What a try came to.
enum Tried {
    Answered(Answer),
    Broken(Broken),
    TooLarge,
}

impl Calls {
    /// A call that asks or says something.
    pub(super) fn call(&self, action: &'static str, until: Instant) -> Call {
        Call { action, until, limit: self.patience.call, max: ANSWER, repeats: Repeats::Freely }
    }

    /// A call that moves content.
    pub(super) fn transfer(&self, action: &'static str, until: Instant, max: u64) -> Call {
        Call { limit: self.patience.transfer, max, ..self.call(action, until) }
    }

    /// When all that begins now is given up.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.patience.total
    }

    /// Asks until there is an answer that waiting would not make better.
    pub(super) async fn ask<F, E>(&self, call: Call, send: impl Fn() -> F) -> Result<Answer, ArtifactError>
    where
        F: Future<Output = Result<Response, E>>,
        Broken: From<E>,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            let limit = call.limit.min(call.until.saturating_duration_since(Instant::now()));
            let tried = timeout(limit, attempt(call.max, send())).await;
            let tried = tried.unwrap_or_else(|_| {
                Tried::Broken(Broken { why: format!("no answer in {limit:.0?}"), is_unsent: false })
            });
            let (why, is_undone, asked_for) = match tried {
                Tried::TooLarge => return Err(ArtifactError::TooLarge { action: call.action, max: call.max }),
                Tried::Broken(broken) => (self.harmless(&broken.why), broken.is_unsent, None),
                Tried::Answered(answer) => {
                    let asked_for = retry_after(&answer.headers);
                    if !may_pass(answer.status, asked_for) {
                        return Ok(answer);
                    }
                    let is_undone = answer.status == StatusCode::TOO_MANY_REQUESTS;
                    (format!("the answer is {}", answer.status), is_undone, asked_for)
                }
            };
            let is_repeated = call.repeats == Repeats::Freely || is_undone;
            if !is_repeated || tries >= self.patience.tries || !self.pause(tries, asked_for, call.until).await {
                return Err(ArtifactError::Unavailable { action: call.action, tries, why });
            }
        }
    }

    /// Waits before the next try; does not when there would be no time left after it.
    pub(super) async fn pause(&self, tries: u32, asked_for: Option<Duration>, until: Instant) -> bool {
        let mut random = [0; 1];
        // Without randomness the pause is the shortest.
        let _ = getrandom::fill(&mut random);
        let doubled = self.patience.pause.saturating_mul(1 << (tries - 1).min(16));
        let varied = doubled / 2 + doubled / 2 * u32::from(random[0]) / 255;
        let pause = varied.max(asked_for.unwrap_or_default()).min(self.patience.longest_pause);
        if Instant::now() + pause >= until {
            return false;
        }
        sleep(pause).await;
        true
    }

    /// What others said, as one short line without secrets: no token, no query of a URL.
    pub(super) fn harmless(&self, text: &str) -> String {
        const MOST: usize = 300;
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
        words.join(" ").chars().take(MOST).collect()
    }
}

async fn attempt<E>(max: u64, sent: impl Future<Output = Result<Response, E>>) -> Tried
where
    Broken: From<E>,
{
    let mut response = match sent.await {
        Ok(response) => response,
        Err(error) => return Tried::Broken(error.into()),
    };
    if response.content_length().is_some_and(|length| length > max) {
        return Tried::TooLarge;
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if (body.len() + chunk.len()) as u64 > max => return Tried::TooLarge,
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Tried::Broken(error.into()),
        }
    }
    Tried::Answered(Answer { status: response.status(), headers: response.headers().clone(), body })
}

/// Whether the same may be answered better later. GitHub's REST API says 403 with `Retry-After` where others say 429.
fn may_pass(status: StatusCode, asked_for: Option<Duration>) -> bool {
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
        let calls = Calls {
            client: crate::http::client().unwrap().build().unwrap(),
            patience: Patience::DEFAULT,
            secrets: vec![Secret::new("s3cret".to_owned()), Secret::new(String::new())],
        };
        let said = "no\u{1b}[31m\n\"https://blob.example/x?se=1&sig=abc\" for s3cret, sig=abc? why?";
        let harmless = calls.harmless(&format!("{said} {}", "x".repeat(1000)));
        assert!(harmless.starts_with("no [31m \"https://blob.example/x?… for ***, … why? xxx"), "{harmless}");
        assert_eq!(harmless.chars().count(), 300);
    }
}
