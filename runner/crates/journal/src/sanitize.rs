//! Prepares an event for writing: without secrets, and with texts of bounded length.
//!
//! Every free text is redacted as a whole and then truncated, so that no part of a secret remains at the end. Names, hashes and
//! the runner's own words stay: they are never secret, and the journal could not be read without them. Inputs and receipts are
//! never truncated, since decisions depend on them; the sandbox bounds them. Deliberately absent: the list of secrets.

use serde_json::{Map, Value};

use super::{
    FindingSummary,
    event::{Decision, DecisionReason, JournalEvent, JournalHeader, PlanStepRecord},
    redact::Redactor,
};
use contract::step::{ProbeFinding, Receipt, StepFailure, StepOutcome, StepProgress};

/// The longest message, in bytes. Each byte may take six in JSON, and the record must stay under 64 KiB.
const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// The longest other text, in bytes.
const MAX_SHORT_TEXT_BYTES: usize = 512;

/// The longest object of a message's fields or a failure's details, in bytes of JSON.
const MAX_OBJECT_BYTES: usize = 4 * 1024;

impl JournalEvent {
    /// Returns the event without secrets and with bounded texts.
    pub(super) fn sanitized(self, redactor: &Redactor) -> Self {
        let clean = EventSanitizer(redactor);
        match self {
            Self::Started(header) => Self::Started(JournalHeader {
                by: clean.short_text(header.by),
                commit: header.commit.map(|commit| clean.short_text(commit)),
                ..header
            }),
            Self::Plan { digest, path, steps } => {
                let steps = steps.into_iter().map(|step| PlanStepRecord { uses: clean.short_text(step.uses), ..step });
                Self::Plan { digest, path: clean.short_text(path), steps: steps.collect() }
            }
            Self::Lock { resource, holder } => {
                Self::Lock { resource: clean.short_text(resource), holder: clean.short_text(holder) }
            }
            Self::Torn { file, bytes } => Self::Torn { file, bytes },
            Self::Decision { step_target, decision } => {
                Self::Decision { step_target, decision: clean.decision(decision) }
            }
            Self::Intent { step_target, key, fingerprint, input, exposes } => {
                Self::Intent { step_target, key, fingerprint, input: redactor.redact_json(input), exposes }
            }
            Self::Progress { step_target, progress } => {
                Self::Progress { step_target, progress: clean.progress(progress) }
            }
            Self::Outcome { step_target, took_ms, outcome: result } => {
                Self::Outcome { step_target, took_ms, outcome: clean.outcome(result) }
            }
            Self::Probe { step_target, probed_input: question, took_ms, finding } => {
                Self::Probe { step_target, probed_input: question, took_ms, finding: clean.finding(finding) }
            }
            Self::UndoOutcome { step_target, failure } => {
                Self::UndoOutcome { step_target, failure: failure.map(|failure| clean.failure(failure)) }
            }
            Self::Resolved { step_target, resolution, by, message } => {
                Self::Resolved { step_target, resolution, by: clean.short_text(by), message: clean.message(message) }
            }
            Self::UndoIntent { .. }
            | Self::Override { .. }
            | Self::RecordLost { .. }
            | Self::Ended { .. }
            | Self::Unrecognized => self,
        }
    }
}

struct EventSanitizer<'a>(&'a Redactor);

impl EventSanitizer<'_> {
    fn message(&self, text: String) -> String {
        truncate_middle(&self.0.redact(&text), MAX_MESSAGE_BYTES)
    }

    fn short_text(&self, text: String) -> String {
        truncate_middle(&self.0.redact(&text), MAX_SHORT_TEXT_BYTES)
    }

    fn full_object(&self, map: Map<String, Value>) -> Map<String, Value> {
        let Value::Object(map) = self.0.redact_json(Value::Object(map)) else {
            unreachable!("an object stays an object")
        };
        map
    }

    /// Redacts an object that no decision depends on, and leaves it out if it is too large.
    fn bounded_object(&self, map: Map<String, Value>) -> Map<String, Value> {
        let map = self.full_object(map);
        let bytes = serde_json::to_vec(&map).map_or(0, |json| json.len());
        if bytes <= MAX_OBJECT_BYTES {
            return map;
        }
        [("left-out".to_owned(), Value::String(format!("{bytes} bytes")))].into_iter().collect()
    }

    fn receipt(&self, receipt: Receipt) -> Receipt {
        Receipt { outputs: self.full_object(receipt.outputs), notes: self.full_object(receipt.notes) }
    }

    fn failure(&self, failure: StepFailure) -> StepFailure {
        StepFailure {
            kind: self.short_text(failure.kind.into()).into(),
            message: self.message(failure.message),
            hint: failure.hint.map(|hint| self.short_text(hint)),
            retryable: failure.retryable,
            details: self.bounded_object(failure.details),
        }
    }

    fn outcome(&self, outcome: StepOutcome) -> StepOutcome {
        match outcome {
            StepOutcome::Succeeded { receipt } => StepOutcome::Succeeded { receipt: self.receipt(receipt) },
            StepOutcome::Failed { failure } => StepOutcome::Failed { failure: self.failure(failure) },
            StepOutcome::Unknown { failure } => StepOutcome::Unknown { failure: self.failure(failure) },
        }
    }

    fn finding(&self, finding: ProbeFinding) -> ProbeFinding {
        match finding {
            ProbeFinding::Held { receipt } => ProbeFinding::Held { receipt: self.receipt(receipt) },
            ProbeFinding::Absent => ProbeFinding::Absent,
            ProbeFinding::Drifted { why } => ProbeFinding::Drifted { why: self.message(why) },
            ProbeFinding::Unknown { why } => ProbeFinding::Unknown { why: self.message(why) },
            ProbeFinding::Failed { failure } => ProbeFinding::Failed { failure: self.failure(failure) },
        }
    }

    /// Cleaned as the text that is written, so that a cut or a mask falls where it always fell.
    fn finding_summary(&self, finding: FindingSummary) -> FindingSummary {
        self.message(finding.into()).into()
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

    fn reason(&self, reason: DecisionReason) -> DecisionReason {
        match reason {
            DecisionReason::Drifted { why } => DecisionReason::Drifted { why: self.message(why) },
            DecisionReason::DriftAccepted { why } => DecisionReason::DriftAccepted { why: self.message(why) },
            DecisionReason::Unknown { why } => DecisionReason::Unknown { why: self.message(why) },
            DecisionReason::Interrupted { finding } => {
                DecisionReason::Interrupted { finding: finding.map(|finding| self.finding_summary(finding)) }
            }
            DecisionReason::Unconfirmed { finding } => {
                DecisionReason::Unconfirmed { finding: finding.map(|finding| self.finding_summary(finding)) }
            }
            DecisionReason::CheckFailed { why } => DecisionReason::CheckFailed { why: self.message(why) },
            DecisionReason::ProbeFailed { message } => DecisionReason::ProbeFailed { message: self.message(message) },
            DecisionReason::NeverRan
            | DecisionReason::Reverted
            | DecisionReason::FailedBefore
            | DecisionReason::Changed { .. }
            | DecisionReason::Held
            | DecisionReason::Absent
            | DecisionReason::Trusted
            | DecisionReason::NoProbe
            | DecisionReason::UpstreamRan
            | DecisionReason::Fresh
            | DecisionReason::RequestedByOperator
            | DecisionReason::NotSelected
            | DecisionReason::UndoUnfinished => reason,
        }
    }

    fn progress(&self, progress: StepProgress) -> StepProgress {
        match progress {
            StepProgress::Log { level, message, fields } => {
                StepProgress::Log { level, message: self.message(message), fields: self.bounded_object(fields) }
            }
            StepProgress::Meter { task, done, total, unit } => {
                StepProgress::Meter { task: self.short_text(task), done, total, unit: self.short_text(unit) }
            }
        }
    }
}

/// Truncates a text to about `longest` bytes: its head and its tail.
fn truncate_middle(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(longest / 2);
    let tail = text.ceil_char_boundary(text.len() - longest / 2);
    format!("{} [… {} bytes …] {}", &text[..head], tail - head, &text[tail..])
}
