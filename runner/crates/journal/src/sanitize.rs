//! Prepares an event for writing: without secrets, and with texts of bounded length.
//!
//! Every free text is redacted as a whole and then truncated, so that no part of a secret remains at the end. Control values
//! (names, hashes, inputs, receipts) and the runner's own words are never changed, since decisions read them;
//! [`JournalEvent::secret_location`] finds a secret in one, and the journal refuses the event. Deliberately absent: the list of
//! secrets.

use serde_json::{Map, Value};

use super::{
    FindingSummary,
    event::{Decision, DecisionReason, JournalEvent, JournalHeader, PlanStepRecord, Resolution},
    output::{MAX_RECORDED_LINE_BYTES, OutputLine, RecordedOutput},
    redact::Redactor,
    secret_scanner::{SecretLocation, SecretScanner},
};
use contract::step::{FailureKind, ProbeFinding, StepFailure, StepOutcome, StepProgress};

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
            Self::Started(header) => Self::Started(JournalHeader { by: clean.short_text(header.by), ..header }),
            Self::Plan { digest, path, steps } => {
                let steps = steps.into_iter().map(|step| PlanStepRecord { uses: clean.short_text(step.uses), ..step });
                Self::Plan { digest, path: clean.short_text(path), steps: steps.collect() }
            }
            Self::Lock { resource, holder } => Self::Lock { resource, holder: clean.short_text(holder) },
            Self::Torn { file, bytes } => Self::Torn { file, bytes },
            Self::Decision { step_target, decision } => {
                Self::Decision { step_target, decision: clean.decision(decision) }
            }
            Self::Progress { step_target, progress } => {
                Self::Progress { step_target, progress: clean.progress(progress) }
            }
            Self::Output { step_target, output } => Self::Output { step_target, output: clean.output(output) },
            Self::Outcome { step_target, took_ms, outcome: result } => {
                Self::Outcome { step_target, took_ms, outcome: clean.outcome(result) }
            }
            Self::Probe { step_target, probed_input: question, took_ms, finding } => {
                Self::Probe { step_target, probed_input: question, took_ms, finding: clean.finding(finding) }
            }
            Self::UndoOutcome { step_target, failure } => {
                Self::UndoOutcome { step_target, failure: failure.map(|failure| clean.failure(failure)) }
            }
            Self::SwitchedBack { release, doubt } => {
                Self::SwitchedBack { release, doubt: doubt.map(|doubt| clean.short_text(doubt)) }
            }
            Self::HostLeftBehind { target, why } => Self::HostLeftBehind { target, why: clean.short_text(why) },
            Self::Resolved { step_target, resolution, by, message } => {
                Self::Resolved { step_target, resolution, by: clean.short_text(by), message: clean.message(message) }
            }
            Self::Intent { .. }
            | Self::UndoIntent { .. }
            | Self::Override { .. }
            | Self::RecordLost { .. }
            | Self::Ended { .. }
            | Self::Unrecognized => self,
        }
    }

    /// A secret in one of the event's control values.
    pub(super) fn secret_location(&self, scanner: &SecretScanner) -> Option<SecretLocation> {
        let find = |pointer: &str, text: &str| {
            let secret = scanner.find_in_text(text)?.to_owned();
            Some(SecretLocation { secret, pointer: format!("/{pointer}") })
        };
        match self {
            Self::Started(header) => header.control_values().into_iter().find_map(|(name, value)| find(name, &value)),
            Self::Plan { steps, .. } => steps.iter().find_map(|step| find("steps", step.step_target.step.as_str())),
            Self::Intent { step_target, key, fingerprint, input, .. } => {
                let texts =
                    [("step", step_target.step.as_str()), ("target", step_target.target.as_str()), ("key", key)];
                texts
                    .into_iter()
                    .find_map(|(name, text)| find(name, text))
                    .or_else(|| fingerprint.0.keys().find_map(|name| find("fingerprint", name)))
                    .or_else(|| scanner.find_in_input(input))
            }
            Self::Outcome { outcome: StepOutcome::Succeeded { receipt }, .. }
            | Self::Probe { finding: ProbeFinding::Held { receipt }, .. }
            | Self::Resolved { resolution: Resolution::Done { receipt }, .. }
            | Self::Decision { decision: Decision::Skip { receipt, .. } | Decision::Adopt { receipt, .. }, .. } => {
                scanner.find_in_receipt(receipt)
            }
            Self::Decision { decision: Decision::Run { .. } | Decision::Stop { .. }, .. }
            | Self::Outcome { outcome: StepOutcome::Failed { .. } | StepOutcome::Unknown { .. }, .. }
            | Self::Probe {
                finding:
                    ProbeFinding::Absent
                    | ProbeFinding::Drifted { .. }
                    | ProbeFinding::Unknown { .. }
                    | ProbeFinding::Failed { .. },
                ..
            }
            | Self::Lock { .. }
            | Self::Torn { .. }
            | Self::Progress { .. }
            | Self::Output { .. }
            | Self::UndoIntent { .. }
            | Self::UndoOutcome { .. }
            | Self::SwitchedBack { .. }
            | Self::Override { .. }
            | Self::HostLeftBehind { .. }
            | Self::Resolved {
                resolution: Resolution::Undone | Resolution::NotBegun | Resolution::Confirmed, ..
            }
            | Self::RecordLost { .. }
            | Self::Ended { .. }
            | Self::Unrecognized => None,
        }
    }
}

impl JournalHeader {
    /// The values that later attempts compare, by their names in the header.
    #[must_use]
    pub fn control_values(&self) -> Vec<(&'static str, String)> {
        let mut values = vec![
            ("app", self.app.to_string()),
            ("environment", self.environment.to_string()),
            ("run", self.run.to_string()),
            ("release/label", self.release.label.to_string()),
        ];
        values.extend(self.release.digest.as_ref().map(|digest| ("release/digest", digest.to_string())));
        values.extend(self.commit.clone().map(|commit| ("commit", commit)));
        values.extend(self.url.clone().map(|url| ("url", url)));
        values
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

    /// Redacts an object that no decision depends on, and leaves it out if it is too large.
    fn bounded_object(&self, map: Map<String, Value>) -> Map<String, Value> {
        let Value::Object(map) = self.0.redact_json(Value::Object(map)) else {
            unreachable!("an object stays an object")
        };
        let bytes = serde_json::to_vec(&map).map_or(0, |json| json.len());
        if bytes <= MAX_OBJECT_BYTES {
            return map;
        }
        [("left-out".to_owned(), Value::String(format!("{bytes} bytes")))].into_iter().collect()
    }

    fn failure(&self, failure: StepFailure) -> StepFailure {
        StepFailure {
            kind: self.kind(failure.kind),
            message: self.message(failure.message),
            hint: failure.hint.map(|hint| self.short_text(hint)),
            retryable: failure.retryable,
            details: self.bounded_object(failure.details),
        }
    }

    /// A kind that only the module knows is a text of the module.
    fn kind(&self, kind: FailureKind) -> FailureKind {
        match kind {
            FailureKind::Other(text) => FailureKind::Other(self.short_text(text)),
            FailureKind::InvalidConfig
            | FailureKind::Denied
            | FailureKind::NotFound
            | FailureKind::Conflict
            | FailureKind::Transient
            | FailureKind::Permanent
            | FailureKind::Limit
            | FailureKind::BadContent
            | FailureKind::TimeOut
            | FailureKind::Trap
            | FailureKind::NotBegun => kind,
        }
    }

    fn outcome(&self, outcome: StepOutcome) -> StepOutcome {
        match outcome {
            StepOutcome::Succeeded { receipt } => StepOutcome::Succeeded { receipt },
            StepOutcome::Failed { failure } => StepOutcome::Failed { failure: self.failure(failure) },
            StepOutcome::Unknown { failure } => StepOutcome::Unknown { failure: self.failure(failure) },
        }
    }

    fn finding(&self, finding: ProbeFinding) -> ProbeFinding {
        match finding {
            ProbeFinding::Held { receipt } => ProbeFinding::Held { receipt },
            ProbeFinding::Absent => ProbeFinding::Absent,
            ProbeFinding::Drifted { why } => ProbeFinding::Drifted { why: self.message(why) },
            ProbeFinding::Unknown { why } => ProbeFinding::Unknown { why: self.message(why) },
            ProbeFinding::Failed { failure } => ProbeFinding::Failed { failure: self.failure(failure) },
        }
    }

    fn finding_summary(&self, finding: FindingSummary) -> FindingSummary {
        match finding {
            FindingSummary::Held | FindingSummary::Absent => finding,
            FindingSummary::Drifted { why } => FindingSummary::Drifted { why: self.message(why) },
            FindingSummary::Unknown { why } => FindingSummary::Unknown { why: self.message(why) },
            FindingSummary::Other { text } => FindingSummary::Other { text: self.message(text) },
        }
    }

    fn decision(&self, decision: Decision) -> Decision {
        match decision {
            Decision::Skip { reason, receipt } => Decision::Skip { reason: self.reason(reason), receipt },
            Decision::Adopt { reason, receipt } => Decision::Adopt { reason: self.reason(reason), receipt },
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
            DecisionReason::InvalidInput { message } => DecisionReason::InvalidInput { message: self.message(message) },
            DecisionReason::RehearsalFailed { message } => {
                DecisionReason::RehearsalFailed { message: self.message(message) }
            }
            DecisionReason::NeverRan
            | DecisionReason::Reverted
            | DecisionReason::FailedBefore
            | DecisionReason::Changed { .. }
            | DecisionReason::Held
            | DecisionReason::Absent
            | DecisionReason::Trusted
            | DecisionReason::NoProbe
            | DecisionReason::Stale { .. }
            | DecisionReason::MadeElsewhere
            | DecisionReason::HostRecord
            | DecisionReason::NotConfirmed
            | DecisionReason::Always
            | DecisionReason::UpstreamRan
            | DecisionReason::Fresh
            | DecisionReason::RequestedByOperator
            | DecisionReason::NotSelected
            | DecisionReason::UndoUnfinished
            | DecisionReason::NotInRollback => reason,
        }
    }

    fn output(&self, output: RecordedOutput) -> RecordedOutput {
        let text = |text: &str| truncate_middle(&self.0.redact(text), MAX_RECORDED_LINE_BYTES);
        let lines = output.lines.into_iter().map(|line| OutputLine { text: text(&line.text), ..line });
        RecordedOutput { lines: lines.collect(), ..output }
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
pub(super) fn truncate_middle(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(longest / 2);
    let tail = text.ceil_char_boundary(text.len() - longest / 2);
    format!("{} [… {} bytes …] {}", &text[..head], tail - head, &text[tail..])
}
