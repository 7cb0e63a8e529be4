//! The policy of rounds: when to run another, and when to give up. Pure: the caller passes the round and the wait.

use core::time::Duration;

use pawl_step::Failure;
use serde_json::json;

use crate::mismatch::CheckMismatch;

/// The longest wait between rounds.
const MAX_INTERVAL: Duration = Duration::from_secs(10);

/// The limits and waits of rounds.
#[derive(Debug)]
pub(crate) struct RoundPolicy {
    tries: u32,
    interval: Duration,
    consecutive: u32,
}

impl RoundPolicy {
    pub(crate) fn new(tries: u32, interval: Duration, consecutive: u32) -> Result<Self, Failure> {
        if tries == 0 || consecutive == 0 || consecutive > tries {
            return Err(Failure::invalid_config(format!(
                "`consecutive: {consecutive}` cannot be reached in `tries: {tries}` rounds"
            ))
            .hint("set `tries` to at least `consecutive`, and both to at least 1"));
        }
        Ok(Self { tries, interval, consecutive })
    }

    /// Runs rounds of `checks` checks until enough have succeeded in a row, and returns the number of rounds. It logs each round
    /// that fails and is not the last one, whose mismatches the failure has.
    ///
    /// # Errors
    /// The error of a round, at once; after the last round, the last mismatches.
    pub(crate) fn run(
        &self,
        checks: usize,
        mut round: impl FnMut() -> Result<Vec<CheckMismatch>, Failure>,
        mut log: impl FnMut(String),
        mut wait: impl FnMut(Duration),
    ) -> Result<u32, Failure> {
        let (mut in_a_row, mut delay, mut last) = (0, self.interval, Vec::new());
        for number in 1..=self.tries {
            let failing = round()?;
            if failing.is_empty() {
                in_a_row += 1;
                delay = self.interval;
            } else {
                in_a_row = 0;
                if number < self.tries {
                    log(format!("round {number} of {}: {}", self.tries, summarize_mismatches(&failing, checks, "")));
                }
                last = failing;
            }
            if in_a_row == self.consecutive {
                return Ok(number);
            }
            if number < self.tries {
                wait(delay.min(MAX_INTERVAL));
                if in_a_row == 0 {
                    delay = (delay * 3 / 2).min(MAX_INTERVAL);
                }
            }
        }
        Err(self.exhausted_failure(checks, in_a_row, &last))
    }

    fn exhausted_failure(&self, checks: usize, in_a_row: u32, last: &[CheckMismatch]) -> Failure {
        let rounds = if self.tries == 1 { "1 round".to_owned() } else { format!("{} rounds", self.tries) };
        let message = if in_a_row > 0 {
            format!(
                "only {in_a_row} of {} required rounds in a row succeeded within {rounds}; last failure: {}",
                self.consecutive,
                summarize_mismatches(last, checks, "")
            )
        } else {
            summarize_mismatches(last, checks, &format!(" after {rounds}"))
        };
        let failing: Vec<_> = last
            .iter()
            .map(|one| json!({ "check": one.check, "expected": one.expected, "found": one.found }))
            .collect();
        Failure::permanent(message)
            .hint("check the application's log; if it needs more time to start, raise `tries` or `interval`")
            .detail("failing", failing)
    }
}

/// Returns the mismatches as one sentence, with expected and found values. `when` follows the verb.
pub(crate) fn summarize_mismatches(failing: &[CheckMismatch], checks: usize, when: &str) -> String {
    let each: Vec<_> =
        failing.iter().map(|one| format!("{}: expected {}, found {}", one.check, one.expected, one.found)).collect();
    format!("{} of {checks} checks failed{when}: {}", failing.len(), each.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs rounds that succeed (`+`) or fail (`-`); returns the result, and the waits in milliseconds.
    fn run(policy: &RoundPolicy, rounds: &str) -> (Result<u32, String>, Vec<u128>) {
        let mut rounds = rounds.chars();
        let mut waits = Vec::new();
        let mismatch =
            || CheckMismatch { check: "GET u".into(), expected: "status 200".into(), found: "status 503".into() };
        let result = policy.run(
            2,
            || Ok(if rounds.next() == Some('+') { Vec::new() } else { vec![mismatch()] }),
            |_| {},
            |wait| waits.push(wait.as_millis()),
        );
        (result.map_err(|failure| failure.message), waits)
    }

    #[test]
    fn rounds_stop_at_the_first_success() {
        let policy = RoundPolicy::new(5, Duration::from_secs(1), 1).unwrap();
        assert_eq!(run(&policy, "+"), (Ok(1), vec![]));
        assert_eq!(run(&policy, "---+"), (Ok(4), vec![1000, 1500, 2250]));
    }

    #[test]
    fn rounds_fail_after_the_last_try_with_the_last_mismatch() {
        let policy = RoundPolicy::new(3, Duration::from_secs(8), 1).unwrap();
        let message = "1 of 2 checks failed after 3 rounds: GET u: expected status 200, found status 503".to_owned();
        assert_eq!(run(&policy, "---"), (Err(message), vec![8000, 10_000]));
    }

    #[test]
    fn each_failed_round_but_the_last_is_logged() {
        let policy = RoundPolicy::new(3, Duration::ZERO, 1).unwrap();
        let mismatch =
            || CheckMismatch { check: "GET u".into(), expected: "status 200".into(), found: "status 503".into() };
        let mut logged = Vec::new();
        let result = policy.run(2, || Ok(vec![mismatch()]), |message| logged.push(message), |_| {});
        assert!(result.is_err());
        let mismatch = "1 of 2 checks failed: GET u: expected status 200, found status 503";
        assert_eq!(logged, [1, 2].map(|number| format!("round {number} of 3: {mismatch}")));
    }

    #[test]
    fn successes_must_be_in_a_row() {
        let policy = RoundPolicy::new(5, Duration::from_millis(100), 2).unwrap();
        assert_eq!(run(&policy, "++"), (Ok(2), vec![100]));
        assert_eq!(run(&policy, "-+-++"), (Ok(5), vec![100, 100, 100, 100]));
        let (result, _) = run(&policy, "+-+-+");
        assert_eq!(
            result.unwrap_err(),
            "only 1 of 2 required rounds in a row succeeded within 5 rounds; last failure: 1 of 2 checks failed: GET u: expected status 200, found status 503"
        );
        assert!(RoundPolicy::new(1, Duration::ZERO, 2).is_err());
    }

    #[test]
    fn failure_of_a_round_ends_the_rounds() {
        let policy = RoundPolicy::new(5, Duration::ZERO, 1).unwrap();
        let mut rounds = 0;
        let result = policy.run(
            1,
            || {
                rounds += 1;
                Err(Failure::denied("no"))
            },
            |_| panic!("no message is expected"),
            |_| panic!("no wait is expected"),
        );
        assert!(result.is_err() && rounds == 1);
    }
}
