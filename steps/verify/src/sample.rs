//! Requests out of an access log, sent to a release that has no traffic yet, and compared with what the live one answers.
//!
//! Invariant: only GET and HEAD are sent, without the cookies and headers of the users who sent them first.

use core::time::Duration;

use pawl_step::http::Request;
use pawl_step::{Failure, Receipt, fs, log, time};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::access_log::{LoggedRequest, newest_requests};
use crate::answer::{HttpAnswer, IgnoredParts};

/// The longest end of the log that is read, in bytes.
const MAX_LOG_BYTES: u64 = 4 << 20;
/// The largest body that is compared, in bytes.
const MAX_BODY_BYTES: u64 = 4 << 20;
/// How many differences a failure shows.
const SHOWN: usize = 5;
/// How many differences more than are allowed end the sample.
const ENOUGH: usize = 10;

/// The setting `sample`.
#[derive(Debug, Clone, Deserialize)]
pub struct SampleConfig {
    /// The log, `DIR/PATH`.
    pub file: String,
    /// How many requests.
    #[serde(default = "hundred")]
    pub take: usize,
    /// Where the new release answers.
    pub against: String,
    /// Where the live one does.
    pub compare: Option<String>,
    /// What may differ.
    #[serde(default)]
    pub ignore: IgnoredParts,
    /// How many requests may differ.
    #[serde(default)]
    pub differing: usize,
    /// Headers of each request.
    #[serde(default)]
    pub headers: Map<String, Value>,
    /// The timeout of each request.
    #[serde(default = "five_seconds", deserialize_with = "time::duration")]
    pub timeout: Duration,
}

fn hundred() -> usize {
    100
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

impl SampleConfig {
    /// Whose answers count, in words.
    pub(crate) fn expectation(&self) -> String {
        match &self.compare {
            Some(live) => format!("{} answers as {live} does", self.against),
            None => format!("{} answers with the status in the log", self.against),
        }
    }

    /// Sends the requests, if there is a live release to compare with. Adds to the receipt how many there were.
    ///
    /// # Errors
    /// The log has no request; more answers differ than may.
    pub(crate) fn run(&self, is_live: bool, receipt: Receipt) -> Result<Receipt, Failure> {
        if !is_live && self.compare.is_some() {
            log::info("sample: no release is live yet, so there is nothing to compare with");
            return Ok(receipt.note("sampled", 0));
        }
        let requests = self.requests()?;
        let sent = format!("{} requests out of {}", requests.len(), self.file);
        log::info(format!("{sent}: {}", self.expectation()));
        let found = self.differences(&requests, |base, request| self.ask(base, request))?;
        if found.lines.len() > self.differing {
            return Err(self.failure(&found, requests.len()));
        }
        for line in &found.lines {
            log::warn(line.clone());
        }
        Ok(receipt.note("sampled", requests.len()).note("differing", found.lines.len()))
    }

    fn requests(&self) -> Result<Vec<LoggedRequest>, Failure> {
        let (content, is_whole) = fs::read_end(&self.file, MAX_LOG_BYTES)?;
        let text = String::from_utf8_lossy(&content);
        // The first line is cut off.
        let lines = if is_whole { &text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
        let is_meant = |request: &LoggedRequest| {
            let is_ignored = self.ignore.paths.iter().any(|path| request.path().starts_with(path.as_str()));
            !is_ignored && (self.compare.is_some() || request.expected_status().is_some())
        };
        let requests = newest_requests(lines, self.take, is_meant);
        if requests.is_empty() {
            let message = format!("`{}` has no GET or HEAD request to send again", self.file);
            let hint = "name a log in the combined form, or with a JSON object a line; after a rotation, the log before has the requests";
            return Err(Failure::not_found(message).hint(hint));
        }
        Ok(requests)
    }

    fn ask(&self, base: &str, logged: &LoggedRequest) -> Result<HttpAnswer, Failure> {
        let url = format!("{}{}", base.trim_end_matches('/'), logged.target);
        let mut request =
            Request::new(&logged.method, url).timeout(self.timeout).max_bytes(MAX_BODY_BYTES).redirects(0);
        // The schema accepts only strings here.
        for (name, value) in &self.headers {
            request = request.header(name, value.as_str().unwrap_or_default());
        }
        HttpAnswer::new(request.send()).map_err(|failure| failure.context(logged.label()))
    }

    /// Asks for each request, and for one that differs once more: what is live changes meanwhile.
    fn differences(
        &self,
        requests: &[LoggedRequest],
        ask: impl Fn(&str, &LoggedRequest) -> Result<HttpAnswer, Failure>,
    ) -> Result<Differences, Failure> {
        let difference = |request: &LoggedRequest| -> Result<Option<String>, Failure> {
            let Some(live) = &self.compare else {
                let expected = request.expected_status().unwrap_or(200);
                return Ok(ask(&self.against, request)?.differs_from_status(expected));
            };
            let live = ask(live, request)?;
            Ok(ask(&self.against, request)?.differs_from(&live, &self.ignore))
        };
        let mut found = Differences { lines: Vec::new(), asked: 0 };
        for request in requests {
            found.asked += 1;
            if difference(request)?.is_some()
                && let Some(what) = difference(request)?
            {
                found.lines.push(format!("{}: {what}", request.label()));
            }
            if found.lines.len() >= self.differing + ENOUGH {
                break;
            }
        }
        Ok(found)
    }

    fn failure(&self, found: &Differences, taken: usize) -> Failure {
        let Differences { lines, asked } = found;
        let of = if *asked < taken { format!("the first {asked}") } else { asked.to_string() };
        let shown: Vec<_> = lines.iter().take(SHOWN).map(String::as_str).collect();
        let more = if lines.len() > SHOWN { "; …" } else { "" };
        let verb = if lines.len() == 1 { "differs" } else { "differ" };
        let message = format!(
            "{} of {of} requests out of {} {verb}, more than `differing: {}` allows: {}{more}",
            lines.len(),
            self.file,
            self.differing,
            shown.join("; ")
        );
        let lines: Vec<Value> = lines.iter().map(|line| json!(line)).collect();
        Failure::permanent(message)
            .hint("if the release is meant to answer so, name what differs under `ignore`, or raise `differing`")
            .detail("differing", lines)
    }
}

/// The requests whose answers differ.
#[derive(Debug, PartialEq, Eq)]
struct Differences {
    lines: Vec<String>,
    /// How many were sent.
    asked: usize,
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    fn config(more: Value) -> SampleConfig {
        let mut config = json!({ "file": "log/access.log", "against": "http://new", "compare": "http://live" });
        for (name, value) in more.as_object().unwrap() {
            config[name] = value.clone();
        }
        SampleConfig::deserialize(config).unwrap()
    }

    fn requests(count: usize) -> Vec<LoggedRequest> {
        let request = |number| LoggedRequest { method: "GET".into(), target: format!("/{number}"), status: Some(200) };
        (0..count).map(request).collect()
    }

    fn status(status: u16) -> HttpAnswer {
        HttpAnswer::Response { status, kind: String::new(), location: String::new(), body: Vec::new() }
    }

    #[test]
    fn each_difference_is_found_twice_before_it_counts() {
        let config = config(json!({}));
        let asked = Cell::new(0);
        let flickering = config.differences(&requests(1), |_, _| {
            asked.set(asked.get() + 1);
            Ok(status(if asked.get() == 1 { 404 } else { 200 }))
        });
        assert_eq!((flickering.unwrap().lines, asked.get()), (Vec::new(), 4));
        let broken = |base: &str, _: &LoggedRequest| Ok(status(if base == "http://new" { 500 } else { 200 }));
        let found = config.differences(&requests(30), broken).unwrap();
        assert_eq!((found.lines.len(), found.asked), (10, 10));
        let message = config.failure(&found, 30).message;
        let start = "10 of the first 10 requests out of log/access.log differ, more than `differing: 0` allows: GET /0: status 500, live status 200; GET /1";
        assert!(message.starts_with(start) && message.ends_with("; …"), "{message}");
    }

    #[test]
    fn without_a_live_release_the_log_tells_the_status() {
        let config = SampleConfig { compare: None, ..config(json!({})) };
        let found = config.differences(&requests(2), |base, request| {
            assert_eq!(base, "http://new");
            Ok(status(if request.target == "/0" { 200 } else { 302 }))
        });
        assert_eq!(found.unwrap().lines, ["GET /1: status 302, the log has 200"]);
    }
}
