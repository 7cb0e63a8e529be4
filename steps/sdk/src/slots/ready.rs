//! The wait until a program is ready. The policy is pure: the caller passes the checks, the clock and the wait. The host validates the closed
//! schema, so unknown members need no second check here.

use core::time::Duration;

use serde::Deserialize;

use super::SlotValues;
use crate::http::Request;
use crate::{Failure, FailureKind, tcp, time};

/// The timeout of one check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest size of a response body.
const MAX_BODY_BYTES: u64 = 1024 * 1024;
/// The longest part of a response in a message, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// The setting `ready`.
#[derive(Debug, Clone, Deserialize)]
pub struct ReadyConfig {
    /// Requests that must be answered as expected.
    #[serde(default)]
    pub http: Vec<ReadyHttpCheck>,
    /// Addresses that must accept a connection.
    #[serde(default)]
    pub tcp: Vec<String>,
    /// The wait between two rounds of checks.
    #[serde(default = "every", deserialize_with = "time::duration")]
    pub every: Duration,
    /// The time within which all checks must be good.
    #[serde(default = "within", deserialize_with = "time::duration")]
    pub within: Duration,
    /// The time for which they must then stay good.
    #[serde(default = "stay", deserialize_with = "time::duration")]
    pub stay: Duration,
}

/// A request and its expected answer.
#[derive(Debug, Clone, Deserialize)]
pub struct ReadyHttpCheck {
    /// The URL.
    pub url: String,
    /// The expected status.
    #[serde(default = "ok")]
    pub status: u16,
    /// A text that the body must contain.
    pub contains: Option<String>,
}

fn every() -> Duration {
    Duration::from_millis(500)
}

fn within() -> Duration {
    Duration::from_secs(60)
}

fn stay() -> Duration {
    Duration::from_secs(5)
}

fn ok() -> u16 {
    200
}

impl ReadyConfig {
    /// Waits until all checks are good and have stayed good. `watch` is called before each round, and ends the wait by its failure: when the
    /// program has ended, no further round helps.
    ///
    /// # Errors
    /// The failure of `watch`; a check that the plan does not allow; not ready in time.
    pub fn wait(&self, values: &SlotValues, mut watch: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
        let checks = self.checks(values)?;
        let round = || {
            watch()?;
            run_round(&checks)
        };
        self.wait_for(round, time::monotonic, time::sleep)
    }

    /// One round of checks. Returns what is not as expected.
    ///
    /// # Errors
    /// A check that the plan does not allow.
    pub fn check(&self, values: &SlotValues) -> Result<Option<String>, Failure> {
        run_round(&self.checks(values)?)
    }

    /// The first address at which anything answers, whatever it says; none if nothing does.
    ///
    /// # Errors
    /// A check that the plan does not allow.
    pub fn answering(&self, values: &SlotValues) -> Result<Option<String>, Failure> {
        for check in self.checks(values)? {
            match check.run() {
                Ok(_) => return Ok(Some(check.address().to_owned())),
                Err(failure) if is_refusal(&failure) => return Err(failure),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Where the program is asked: scheme, host and port of the first request, or else of the slot's port.
    ///
    /// # Errors
    /// A text that can't be filled in.
    pub fn url(&self, values: &SlotValues) -> Result<Option<String>, Failure> {
        let Some(first) = self.http.first() else {
            return Ok(values.port().map(|port| format!("http://127.0.0.1:{port}")));
        };
        let url = values.fill(&first.url)?;
        let end = url.find("://").map_or(0, |at| at + "://".len());
        let end = url[end..].find(['/', '?', '#']).map_or(url.len(), |at| end + at);
        Ok(Some(url[..end].to_owned()))
    }

    fn checks(&self, values: &SlotValues) -> Result<Vec<FilledCheck>, Failure> {
        let mut checks = Vec::new();
        for check in &self.http {
            checks.push(FilledCheck::Http(ReadyHttpCheck { url: values.fill(&check.url)?, ..check.clone() }));
        }
        for address in &self.tcp {
            checks.push(FilledCheck::Tcp(values.fill(address)?));
        }
        if checks.is_empty() {
            return Err(Failure::invalid_config("`ready` has no check")
                .hint("add one, such as `ready: { http: [{ url: \"http://127.0.0.1:{port}/health\" }] }`"));
        }
        Ok(checks)
    }

    fn wait_for(
        &self,
        mut round: impl FnMut() -> Result<Option<String>, Failure>,
        now: impl Fn() -> Duration,
        sleep: impl Fn(Duration),
    ) -> Result<(), Failure> {
        let start = now();
        let mut good_since = None;
        let mut was_good_for = None;
        loop {
            let found = round()?;
            let passed = now().saturating_sub(start);
            match (found, good_since) {
                (None, None) => good_since = Some(passed),
                (None, Some(since)) if passed >= since + self.stay => return Ok(()),
                (None, Some(_)) => {}
                (Some(wrong), since) => {
                    was_good_for = since.map(|since| passed.saturating_sub(since)).or(was_good_for);
                    good_since = None;
                    if passed >= self.within {
                        return Err(self.late_failure(&wrong, was_good_for));
                    }
                }
            }
            if good_since == Some(passed) && self.stay.is_zero() {
                return Ok(());
            }
            sleep(self.every);
        }
    }

    fn late_failure(&self, wrong: &str, was_good_for: Option<Duration>) -> Failure {
        let within = seconds(self.within);
        let message = match was_good_for {
            None => format!("it was not ready within {within}: {wrong}"),
            Some(time) => {
                let (time, stay) = (seconds(time), seconds(self.stay));
                format!("it was ready for {time}, and did not stay so for {stay} within {within}: {wrong}")
            }
        };
        Failure::permanent(message).hint("if it only needs more time to start, raise `within` of the step's `ready`")
    }
}

enum FilledCheck {
    Http(ReadyHttpCheck),
    Tcp(String),
}

/// Runs all checks; returns the first that is not as expected.
fn run_round(checks: &[FilledCheck]) -> Result<Option<String>, Failure> {
    for check in checks {
        match check.run() {
            Ok(None) => {}
            Err(failure) if is_refusal(&failure) => return Err(failure),
            Ok(Some(found)) => return Ok(Some(found)),
            Err(failure) => return Ok(Some(format!("{}: {}", check.label(), failure.message))),
        }
    }
    Ok(None)
}

/// Whether the plan does not allow a check.
fn is_refusal(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Denied | FailureKind::InvalidConfig)
}

impl FilledCheck {
    /// The URL without its query, which may have a token in it, or the address.
    fn address(&self) -> &str {
        match self {
            Self::Http(check) => check.url.split(['?', '#']).next().unwrap_or_default(),
            Self::Tcp(address) => address,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Http(_) => format!("GET {}", self.address()),
            Self::Tcp(_) => format!("tcp {}", self.address()),
        }
    }

    fn run(&self) -> Result<Option<String>, Failure> {
        let check = match self {
            Self::Tcp(address) => return tcp::connect(address, CHECK_TIMEOUT).map(|()| None),
            Self::Http(check) => check,
        };
        let request = Request::get(&check.url).timeout(CHECK_TIMEOUT).max_bytes(MAX_BODY_BYTES).redirects(0);
        let response = request.send()?;
        let body = String::from_utf8_lossy(&response.body);
        Ok(difference(check, response.status, &body).map(|found| format!("{}: {found}", self.label())))
    }
}

/// What is not as expected in an answer.
fn difference(check: &ReadyHttpCheck, status: u16, body: &str) -> Option<String> {
    if status != check.status {
        let said: String =
            body.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_SHOWN_CHARS).collect();
        let said = if said.is_empty() { said } else { format!(" with `{said}`") };
        return Some(format!("expected status {}, found {status}{said}", check.status));
    }
    let wanted = check.contains.as_ref().filter(|wanted| !body.contains(wanted.as_str()))?;
    Some(format!("the body does not contain `{wanted}`"))
}

/// A duration in words, such as `5s` or `1.5s`.
fn seconds(duration: Duration) -> String {
    let tenths = duration.as_millis() / 100;
    match tenths % 10 {
        0 => format!("{}s", tenths / 10),
        rest => format!("{}.{rest}s", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    /// Runs rounds that are good (`+`) or not (`-`), the last one again and again. Returns the outcome and the time that passed.
    fn wait(config: &ReadyConfig, rounds: &str) -> (Result<(), String>, u128) {
        let clock = Cell::new(Duration::ZERO);
        let mut done = 0;
        let round = || {
            let this = rounds.chars().nth(done.min(rounds.len() - 1));
            done += 1;
            Ok((this == Some('-')).then(|| "down".to_owned()))
        };
        let outcome = config.wait_for(round, || clock.get(), |time| clock.set(clock.get() + time));
        (outcome.map_err(|failure| failure.message), clock.get().as_millis())
    }

    fn config(within: u64, stay: u64) -> ReadyConfig {
        ReadyConfig {
            http: Vec::new(),
            tcp: Vec::new(),
            every: Duration::from_secs(1),
            within: Duration::from_secs(within),
            stay: Duration::from_secs(stay),
        }
    }

    #[test]
    fn program_is_ready_when_it_has_stayed_so() {
        assert_eq!(wait(&config(60, 5), "--+"), (Ok(()), 7_000));
        assert_eq!(wait(&config(60, 0), "--+"), (Ok(()), 2_000));
        assert_eq!(wait(&config(60, 5), "+++-+"), (Ok(()), 9_000), "the wait begins again");
    }

    #[test]
    fn program_that_is_not_ready_in_time_is_a_failure() {
        assert_eq!(wait(&config(3, 5), "-"), (Err("it was not ready within 3s: down".to_owned()), 3_000));
        let unstable = "it was ready for 4s, and did not stay so for 5s within 10s: down".to_owned();
        assert_eq!(wait(&config(10, 5), "-++++-"), (Err(unstable), 10_000));
        let late = "it was ready for 2s, and did not stay so for 5s within 3s: down".to_owned();
        assert_eq!(wait(&config(3, 5), "--++-"), (Err(late), 4_000), "what becomes ready in time may stay longer");
    }

    #[test]
    fn end_of_the_program_ends_the_wait() {
        let failed = config(60, 5).wait_for(|| Err(Failure::permanent("it ended")), || Duration::ZERO, |_| {});
        assert_eq!(failed.unwrap_err().message, "it ended");
    }

    #[test]
    fn answers_are_compared() {
        let check = ReadyHttpCheck { url: "u".to_owned(), status: 200, contains: Some("r2".to_owned()) };
        assert_eq!(difference(&check, 200, "release r2"), None);
        assert_eq!(difference(&check, 200, "r1").unwrap(), "the body does not contain `r2`");
        assert_eq!(difference(&check, 503, " not\nyet ").unwrap(), "expected status 200, found 503 with `not yet`");
        assert_eq!(difference(&check, 500, "").unwrap(), "expected status 200, found 500");
    }
}
