//! Requests at a fixed pace for some time: whether the release stays good, and as fast as the live one.
//!
//! The policy is pure: the caller passes the requests, the clock and the wait.

use core::time::Duration;

use pawl_step::http::Request;
use pawl_step::{Failure, FailureKind, Receipt, json, log, time};
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use crate::answer::HttpAnswer;

/// The largest body of an answer, in bytes.
const MAX_BODY_BYTES: u64 = 4 << 20;
/// How much slower than `ratio` allows counts only: less is noise.
const MIN_SLOWER: Duration = Duration::from_millis(5);
/// How often the log says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The setting `bake`.
#[derive(Debug, Clone, Deserialize)]
pub struct BakeConfig {
    /// How long.
    #[serde(rename = "for", deserialize_with = "time::duration")]
    pub duration: Duration,
    /// What is requested.
    pub url: String,
    /// The same of the live release.
    pub compare: Option<String>,
    /// The wait from one request to the next.
    #[serde(default = "every", deserialize_with = "time::duration")]
    pub every: Duration,
    /// How many requests may fail.
    #[serde(default)]
    pub errors: usize,
    /// The longest time for 99 of 100 requests.
    #[serde(default, deserialize_with = "optional_duration")]
    pub p99: Option<Duration>,
    /// How many times slower than the live release it may be.
    pub ratio: Option<Number>,
    /// Headers of each request.
    #[serde(default)]
    pub headers: Map<String, Value>,
    /// The timeout of each request.
    #[serde(default = "five_seconds", deserialize_with = "time::duration")]
    pub timeout: Duration,
}

fn every() -> Duration {
    Duration::from_millis(200)
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn optional_duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    time::duration(deserializer).map(Some)
}

/// What was measured of one address.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// The times of requests, shortest first.
    times: Vec<Duration>,
    requests: usize,
    errors: usize,
    last_error: String,
}

impl Measured {
    /// Adds a request. One that takes longer than the pace holds up others, whose waits count too: else one long pause would be one slow request
    /// among many fast ones (coordinated omission).
    fn add(&mut self, took: Duration, every: Duration, error: Option<String>) {
        self.requests += 1;
        if let Some(error) = error {
            self.errors += 1;
            self.last_error = error;
        }
        let mut waited = took;
        loop {
            self.times.insert(self.times.partition_point(|other| *other < waited), waited);
            match waited.checked_sub(every) {
                Some(rest) if !every.is_zero() && rest > every => waited = rest,
                Some(_) | None => return,
            }
        }
    }

    /// The time within which 99 of 100 requests ended.
    fn p99(&self) -> Duration {
        let rank = (self.times.len() * 99).div_ceil(100);
        self.times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

impl BakeConfig {
    /// What is allowed, in words.
    pub(crate) fn expectation(&self) -> String {
        let mut parts = vec![format!("at most {} errors in {}", self.errors, milliseconds(self.duration))];
        parts.extend(self.p99.map(|p99| format!("a p99 of at most {}", milliseconds(p99))));
        if let (Some(_), Some(live)) = (&self.ratio, &self.compare) {
            parts.push(format!("a p99 of at most {} times that of {}", self.shown_ratio(), without_query(live)));
        }
        parts.join(", ")
    }

    /// The ratio as JSON writes it: a number's own text would add code.
    fn shown_ratio(&self) -> String {
        self.ratio.as_ref().map(|ratio| json::text(&Value::Number(ratio.clone()))).unwrap_or_default()
    }

    /// Sends the requests. Adds to the receipt what was measured. Where nothing is live, nothing is compared.
    ///
    /// # Errors
    /// More errors, or a slower p99, than allowed.
    pub(crate) fn run(&self, is_live: bool, receipt: Receipt) -> Result<Receipt, Failure> {
        let live = self.compare.as_deref().filter(|_| is_live);
        let (ours, live) = self.measure(live, |url| self.ask(url), time::monotonic, time::sleep, log::info)?;
        if let Some(why) = self.too_slow(&ours, live.as_ref()) {
            return Err(Failure::permanent(why)
                .hint("look for what is slow in the release; if it is meant to be so, raise `p99` or `ratio`"));
        }
        let receipt = receipt
            .note("baked", ours.requests)
            .note("errors", ours.errors)
            .note("p99_ms", u64::try_from(ours.p99().as_millis()).unwrap_or(u64::MAX));
        Ok(match live {
            Some(live) => receipt.note("live_p99_ms", u64::try_from(live.p99().as_millis()).unwrap_or(u64::MAX)),
            None => receipt,
        })
    }

    /// Sends one request. Returns what is wrong with the answer.
    fn ask(&self, url: &str) -> Result<Option<String>, Failure> {
        let mut request = Request::get(url).timeout(self.timeout).max_bytes(MAX_BODY_BYTES).redirects(0);
        // The schema accepts only strings here.
        for (name, value) in &self.headers {
            request = request.header(name, value.as_str().unwrap_or_default());
        }
        let answer = HttpAnswer::new(request.send())?;
        Ok(match &answer {
            HttpAnswer::Response { status: 0..400, .. } | HttpAnswer::TooLarge => None,
            HttpAnswer::Response { .. } | HttpAnswer::Missing(_) => Some(answer.describe()),
        })
    }

    /// Sends requests at the pace, also to the live release if there is one, until the time is over or too many have failed.
    fn measure(
        &self,
        compare: Option<&str>,
        ask: impl Fn(&str) -> Result<Option<String>, Failure>,
        now: impl Fn() -> Duration,
        sleep: impl Fn(Duration),
        report: impl Fn(String),
    ) -> Result<(Measured, Option<Measured>), Failure> {
        let start = now();
        let passed = || now().saturating_sub(start);
        let (mut ours, mut live) = (Measured::default(), compare.map(|_| Measured::default()));
        let (mut due, mut report_at) = (Duration::ZERO, REPORT_EVERY);
        while due < self.duration {
            sleep(due.saturating_sub(passed()));
            let begun = now();
            let error = ask(&self.url)?;
            ours.add(now().saturating_sub(begun), self.every, error);
            if ours.errors > self.errors {
                return Err(self.errors_failure(&ours, passed()));
            }
            if let (Some(live), Some(url)) = (&mut live, compare) {
                let begun = now();
                let error = ask(url)?;
                live.add(now().saturating_sub(begun), self.every, error);
            }
            // What could not be sent in time is not sent later: the pace stays.
            due = (due + self.every.max(Duration::from_millis(1))).max(passed());
            if passed() >= report_at && due < self.duration {
                report(format!("{} requests, p99 {}, {} errors", ours.requests, milliseconds(ours.p99()), ours.errors));
                report_at += REPORT_EVERY;
            }
        }
        Ok((ours, live))
    }

    fn errors_failure(&self, ours: &Measured, passed: Duration) -> Failure {
        let url = without_query(&self.url);
        let message = format!(
            "{} of {} requests to {url} failed within {}, more than `errors: {}` allows; the last one: {}",
            ours.errors,
            ours.requests,
            milliseconds(passed),
            self.errors,
            ours.last_error
        );
        Failure::new(FailureKind::Permanent, message).hint("check the application's log")
    }

    /// Why it is too slow.
    fn too_slow(&self, ours: &Measured, live: Option<&Measured>) -> Option<String> {
        let (p99, url) = (ours.p99(), without_query(&self.url));
        let found = format!("the p99 of {} requests to {url} is {}", ours.requests, milliseconds(p99));
        if let Some(most) = self.p99.filter(|most| p99 > *most) {
            return Some(format!("{found}, more than `p99: {}` allows", milliseconds(most)));
        }
        let (ratio, live, compare) = (self.ratio.as_ref()?.as_f64()?, live?, self.compare.as_deref()?);
        let of_live = live.p99();
        let most = of_live.mul_f64(ratio.max(0.0)).max(of_live + MIN_SLOWER);
        let (url, shown) = (without_query(compare), milliseconds(of_live));
        let ratio = self.shown_ratio();
        (p99 > most).then(|| format!("{found}, that of {url} is {shown}: more than `ratio: {ratio}` allows"))
    }
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// `250ms`, or `60s`.
fn milliseconds(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis >= 1000 && millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        0 if !duration.is_zero() => "<1ms".to_owned(),
        millis => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use core::cell::{Cell, RefCell};

    use super::*;
    use serde_json::json;

    fn config(more: Value) -> BakeConfig {
        let mut config = json!({ "for": "2s", "url": "http://new/", "every": "100ms" });
        for (name, value) in more.as_object().unwrap() {
            config[name] = value.clone();
        }
        BakeConfig::deserialize(config).unwrap()
    }

    /// Bakes with a clock of its own. `answer` tells of the n-th request how long it takes, and what is wrong with it.
    fn bake(
        config: &BakeConfig,
        answer: impl Fn(&str, usize) -> (u64, Option<&'static str>),
    ) -> Result<Vec<usize>, String> {
        let (clock, sent) = (Cell::new(Duration::ZERO), RefCell::new([0, 0]));
        let ask = |url: &str| {
            let number = &mut sent.borrow_mut()[usize::from(url.contains("live"))];
            *number += 1;
            let (took, error) = answer(url, *number);
            clock.set(clock.get() + Duration::from_millis(took));
            Ok(error.map(str::to_owned))
        };
        let measured = config.measure(
            config.compare.as_deref(),
            ask,
            || clock.get(),
            |wait| clock.set(clock.get() + wait),
            |_| {},
        );
        let (ours, live) = measured.map_err(|failure| failure.message)?;
        config.too_slow(&ours, live.as_ref()).map_or(Ok(()), Err)?;
        Ok(sent.into_inner().to_vec())
    }

    #[test]
    fn requests_keep_the_pace() {
        assert_eq!(bake(&config(json!({})), |_, _| (5, None)), Ok(vec![20, 0]));
        // One that takes a second leaves nine out.
        assert_eq!(bake(&config(json!({})), |_, number| (if number == 1 { 1000 } else { 5 }, None)), Ok(vec![11, 0]));
    }

    #[test]
    fn too_many_errors_end_it_at_once() {
        let broken = |_: &str, number: usize| (5, (number > 4).then_some("status 500"));
        let failure = "1 of 5 requests to http://new/ failed within 405ms, more than `errors: 0` allows; the last one: status 500";
        assert_eq!(bake(&config(json!({})), broken), Err(failure.to_owned()));
        assert_eq!(bake(&config(json!({ "errors": 16 })), broken), Ok(vec![20, 0]));
    }

    #[test]
    fn slow_p99_is_a_failure() {
        let slow = |_: &str, number: usize| (if number == 10 { 80 } else { 5 }, None);
        let failure = "the p99 of 20 requests to http://new/ is 80ms, more than `p99: 50ms` allows";
        assert_eq!(bake(&config(json!({ "p99": "50ms" })), slow), Err(failure.to_owned()));
        assert_eq!(bake(&config(json!({ "p99": "80ms" })), slow), Ok(vec![20, 0]));
    }

    /// One pause of a second in a minute is not one slow request of 600.
    #[test]
    fn pause_counts_for_the_requests_that_it_held_up() {
        let config = config(json!({ "for": "60s", "p99": "100ms" }));
        let found = bake(&config, |_, number| (if number == 100 { 1000 } else { 5 }, None));
        assert!(found.unwrap_err().contains("is 500ms"));
    }

    #[test]
    fn ratio_is_that_of_both_p99() {
        let config = config(json!({ "compare": "http://live/", "ratio": 2 }));
        let answers =
            |ours: u64, live: u64| move |url: &str, _: usize| (if url.contains("live") { live } else { ours }, None);
        assert_eq!(bake(&config, answers(40, 20)), Ok(vec![20, 20]));
        let failure =
            "the p99 of 20 requests to http://new/ is 41ms, that of http://live/ is 20ms: more than `ratio: 2` allows";
        assert_eq!(bake(&config, answers(41, 20)), Err(failure.to_owned()));
        assert_eq!(bake(&config, answers(6, 1)), Ok(vec![20, 20]), "some milliseconds are noise");
    }
}
