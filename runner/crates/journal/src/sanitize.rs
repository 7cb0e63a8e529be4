//! An event as it may be written: without secrets, and with texts of bounded length.
//!
//! Every free text is redacted as a whole and then cut, so that no half of a secret is left at a cut. Names, hashes and
//! words of ours stay: they are never secret, and the journal could not be read without them. Inputs and receipts are
//! never cut, since decisions hang on them; what bounds them is the sandbox. Deliberately absent: what is secret.

use serde_json::{Map, Value};

use super::{
    event::{Decision, Event, Header, Planned, Reason},
    redact::Redactor,
};
use contract::step::{Failure, Finding, Outcome, Progress, Receipt};

/// The longest message, in bytes. Each byte may take six in JSON, and the record must stay under 64 KiB.
const LONGEST_MESSAGE: usize = 8 * 1024;

/// The longest of the other texts, in bytes.
const LONGEST_WORD: usize = 512;

/// The longest object of a message's fields or a failure's details, in bytes of JSON.
const LONGEST_OBJECT: usize = 4 * 1024;

impl Event {
    /// The event as it may be written.
    pub(super) fn sanitized(self, redactor: &Redactor) -> Self {
        let clean = Sanitizer(redactor);
        match self {
            Self::Started(header) => Self::Started(Header {
                by: clean.word(header.by),
                commit: header.commit.map(|commit| clean.word(commit)),
                ..header
            }),
            Self::Plan { digest, path, steps } => {
                let steps = steps.into_iter().map(|step| Planned { uses: clean.word(step.uses), ..step });
                Self::Plan { digest, path: clean.word(path), steps: steps.collect() }
            }
            Self::Lock { resource, holder } => {
                Self::Lock { resource: clean.word(resource), holder: clean.word(holder) }
            }
            Self::Torn { file, bytes } => Self::Torn { file, bytes },
            Self::Decision { place, decision } => Self::Decision { place, decision: clean.decision(decision) },
            Self::Intent { place, key, fingerprint, input, exposes } => {
                Self::Intent { place, key, fingerprint, input: redactor.json(input), exposes }
            }
            Self::Progress { place, progress } => Self::Progress { place, progress: clean.progress(progress) },
            Self::Outcome { place, took_ms, result } => Self::Outcome { place, took_ms, result: clean.outcome(result) },
            Self::Probe { place, question, took_ms, finding } => {
                Self::Probe { place, question, took_ms, finding: clean.finding(finding) }
            }
            Self::UndoOutcome { place, failure } => {
                Self::UndoOutcome { place, failure: failure.map(|failure| clean.failure(failure)) }
            }
            Self::UndoIntent { .. } | Self::Override { .. } | Self::Ended { .. } | Self::Unrecognized => self,
        }
    }
}

struct Sanitizer<'a>(&'a Redactor);

impl Sanitizer<'_> {
    fn message(&self, text: String) -> String {
        head_and_tail(&self.0.text(&text), LONGEST_MESSAGE)
    }

    fn word(&self, text: String) -> String {
        head_and_tail(&self.0.text(&text), LONGEST_WORD)
    }

    fn whole(&self, map: Map<String, Value>) -> Map<String, Value> {
        match self.0.json(Value::Object(map)) {
            Value::Object(map) => map,
            other => unreachable!("an object stays an object, got {other}"),
        }
    }

    /// An object that nothing hangs on: left out when it is too large.
    fn object(&self, map: Map<String, Value>) -> Map<String, Value> {
        let map = self.whole(map);
        let bytes = serde_json::to_vec(&map).map_or(0, |json| json.len());
        if bytes <= LONGEST_OBJECT {
            return map;
        }
        [("left-out".to_owned(), Value::String(format!("{bytes} bytes")))].into_iter().collect()
    }

    fn receipt(&self, receipt: Receipt) -> Receipt {
        Receipt { outputs: self.whole(receipt.outputs), notes: self.whole(receipt.notes) }
    }

    fn failure(&self, failure: Failure) -> Failure {
        Failure {
            kind: self.word(failure.kind),
            message: self.message(failure.message),
            hint: failure.hint.map(|hint| self.word(hint)),
            retryable: failure.retryable,
            details: self.object(failure.details),
        }
    }

    fn outcome(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Succeeded { receipt } => Outcome::Succeeded { receipt: self.receipt(receipt) },
            Outcome::Failed { failure } => Outcome::Failed { failure: self.failure(failure) },
            Outcome::Unknown { failure } => Outcome::Unknown { failure: self.failure(failure) },
        }
    }

    fn finding(&self, finding: Finding) -> Finding {
        match finding {
            Finding::Held { receipt } => Finding::Held { receipt: self.receipt(receipt) },
            Finding::Absent => Finding::Absent,
            Finding::Drifted { why } => Finding::Drifted { why: self.message(why) },
            Finding::Unknown { why } => Finding::Unknown { why: self.message(why) },
            Finding::Failed { failure } => Finding::Failed { failure: self.failure(failure) },
        }
    }

    fn decision(&self, decision: Decision) -> Decision {
        match decision {
            Decision::Skip { reason, receipt } => {
                Decision::Skip { reason: self.reason(reason), receipt: self.receipt(receipt) }
            }
            Decision::Adopt { reason, receipt } => {
                Decision::Adopt { reason: self.reason(reason), receipt: self.receipt(receipt) }
            }
            Decision::Run { reason } => Decision::Run { reason: self.reason(reason) },
            Decision::Stop { reason } => Decision::Stop { reason: self.reason(reason) },
        }
    }

    fn reason(&self, reason: Reason) -> Reason {
        match reason {
            Reason::Drifted { why } => Reason::Drifted { why: self.message(why) },
            Reason::DriftAccepted { why } => Reason::DriftAccepted { why: self.message(why) },
            Reason::Unknown { why } => Reason::Unknown { why: self.message(why) },
            Reason::Interrupted { finding } => {
                Reason::Interrupted { finding: finding.map(|finding| self.message(finding)) }
            }
            Reason::Unconfirmed { finding } => {
                Reason::Unconfirmed { finding: finding.map(|finding| self.message(finding)) }
            }
            Reason::CheckFailed { why } => Reason::CheckFailed { why: self.message(why) },
            Reason::ProbeFailed { message } => Reason::ProbeFailed { message: self.message(message) },
            Reason::NeverRan
            | Reason::Reverted
            | Reason::FailedBefore
            | Reason::Changed { .. }
            | Reason::Held
            | Reason::Absent
            | Reason::Trusted
            | Reason::NoProbe
            | Reason::UpstreamRan
            | Reason::Fresh
            | Reason::OperatorWord
            | Reason::NotSelected
            | Reason::UndoUnfinished => reason,
        }
    }

    fn progress(&self, progress: Progress) -> Progress {
        match progress {
            Progress::Log { level, message, fields } => {
                Progress::Log { level, message: self.message(message), fields: self.object(fields) }
            }
            Progress::Meter { task, done, total, unit } => {
                Progress::Meter { task: self.word(task), done, total, unit: self.word(unit) }
            }
        }
    }
}

/// A text of at most about `longest` bytes; of a longer one, its head and its tail.
fn head_and_tail(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(longest / 2);
    let tail = text.ceil_char_boundary(text.len() - longest / 2);
    format!("{} [… {} bytes …] {}", &text[..head], tail - head, &text[tail..])
}
