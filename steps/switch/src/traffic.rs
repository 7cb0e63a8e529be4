//! The check that traffic has arrived: requests until enough answers in a row come from the release.

use core::time::Duration;

use pawl_step::http::Request;
use pawl_step::{Failure, FailureKind, time};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest time for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read, in bytes.
const MAX_BODY_BYTES: u64 = 1 << 20;

/// What must answer after the switch.
#[derive(Debug, Clone, Deserialize)]
pub struct TrafficCheck {
    /// The URL that users reach.
    pub url: String,
    /// A text that the answer contains.
    pub contains: Option<String>,
    /// Values of the answer, by JSON pointer.
    #[serde(default)]
    pub json: Map<String, Value>,
    /// How many answers in a row must be right.
    #[serde(default = "three")]
    pub consecutive: u32,
    /// The time for all of it.
    #[serde(default = "ten_seconds", deserialize_with = "pawl_step::time::duration")]
    pub within: Duration,
}

fn three() -> u32 {
    3
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

impl TrafficCheck {
    /// Asks until enough answers in a row are right.
    ///
    /// # Errors
    /// They were not in time; the message has the last wrong answer.
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        let began = time::monotonic();
        let mut in_a_row = 0;
        loop {
            let wrong = self.ask()?;
            in_a_row = if wrong.is_none() { in_a_row + 1 } else { 0 };
            if in_a_row >= self.consecutive {
                return Ok(());
            }
            if time::monotonic().saturating_sub(began) >= self.within {
                let seconds = self.within.as_millis() as f64 / 1000.0;
                let last = wrong.unwrap_or_else(|| format!("only {in_a_row} of {} answers in a row", self.consecutive));
                return Err(Failure::permanent(format!(
                    "{} did not answer as the release within {seconds} s: {last}",
                    self.url
                ))
                .hint("check that the server follows the link, and the application's log"));
            }
            time::sleep(PAUSE);
        }
    }

    /// What is wrong with one answer; none if it is right. A denial is a failure at once.
    fn ask(&self) -> Result<Option<String>, Failure> {
        let answer = Request::get(&self.url).timeout(ANSWER_TIMEOUT).max_bytes(MAX_BODY_BYTES).send();
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) if failure.kind == FailureKind::Denied => return Err(failure),
            Err(failure) => return Ok(Some(failure.message)),
        };
        if answer.status != 200 {
            return Ok(Some(format!("status {}", answer.status)));
        }
        let body = String::from_utf8_lossy(&answer.body);
        if let Some(text) = self.contains.as_deref().filter(|text| !body.contains(*text)) {
            return Ok(Some(format!("the answer does not contain `{text}`")));
        }
        if self.json.is_empty() {
            return Ok(None);
        }
        let Ok(found) = serde_json::from_str::<Value>(&body) else {
            return Ok(Some("the answer is not JSON".to_owned()));
        };
        let wrong = self.json.iter().find(|(pointer, expected)| found.pointer(pointer) != Some(expected));
        Ok(wrong.map(|(pointer, expected)| format!("`{pointer}` is not {expected}")))
    }
}
