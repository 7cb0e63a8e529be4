//! What a coordinator takes from a host.
//!
//! The agent's own sandbox keeps these limits; a host that runs another program in its place need not. Invariant: whatever a host answers,
//! the coordinator can record it, so that a host that lies fails its own step and no other. Deliberately absent: secrets, which the journal
//! masks or refuses.

use contract::hash::InputHash;
use contract::step::{FailureKind, ProbeFinding, Receipt, StepFailure, StepOutcome, StepProgress};

use crate::{AgentAnswer, BegunSession, HostRecord, Problem, ToCoordinator};

/// The longest receipt as JSON, in bytes: that of a module, so that the record fits into a line of the journal.
const MAX_RECEIPT_BYTES: usize = 48 << 10;
/// The longest texts of a failure or finding, together, in bytes. The journal keeps less.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// The longest list of changes, all texts together, in bytes.
const MAX_CHANGES_BYTES: usize = 256 << 10;
/// The longest list of releases, in bytes: some thousands.
const MAX_RELEASES_BYTES: usize = 1 << 20;
/// The most attempts that a host knows of.
const MAX_ATTEMPTS: usize = 64;
/// The longest list of input files, in bytes: each is a line of the intent.
const MAX_INPUTS_BYTES: usize = 32 << 10;
/// What one input file takes beyond its name.
const INPUT_BYTES: usize = 72;
/// The longest text of a problem, in bytes, and the most causes.
const MAX_PROBLEM_TEXT_BYTES: usize = 2 << 10;
const MAX_CAUSES: usize = 8;
/// The longest piece of output, in bytes of base64: more than the agent sends at once.
const MAX_OUTPUT_BYTES: usize = 128 << 10;
/// What a call may say, in bytes and messages: twice what a module may, since the runner's own messages do not count there.
const MAX_SAID_BYTES: usize = 8 << 20;
const MAX_LOG_MESSAGES: usize = 40_000;
const MAX_METERS: usize = 100_000;

impl ToCoordinator {
    /// The message, without what is longer than the runner's own agent would send.
    #[must_use]
    pub fn within_limits(self) -> Self {
        match self {
            Self::Answer { call, answer } => Self::Answer { call, answer: answer.within_limits() },
            Self::Begun(begun) => Self::Begun(begun.within_limits()),
            Self::Refused(problem) => Self::Refused(problem.within_limits()),
            Self::Hello(_)
            | Self::Progress { .. }
            | Self::Output { .. }
            | Self::AwaitsConfirmation { .. }
            | Self::Pong => self,
        }
    }
}

impl AgentAnswer {
    fn within_limits(self) -> Self {
        match self {
            Self::InputHashes { mut hashes } => {
                let bytes = hashes.keys().map(|name| name.len() + INPUT_BYTES).sum();
                if let Some(failure) = length_failure("list of input files", MAX_INPUTS_BYTES, bytes) {
                    return Self::Failed { failure };
                }
                let files = |(name, input): (&String, &InputHash)| {
                    input.files.keys().map(|path| name.len() + path.len() + INPUT_BYTES).sum::<usize>()
                };
                // They only say which file changed.
                if hashes.iter().map(files).sum::<usize>() > MAX_INPUTS_BYTES {
                    hashes.values_mut().for_each(|input| input.files.clear());
                }
                Self::InputHashes { hashes }
            }
            Self::InputUnreadable { message, hint } => Self::InputUnreadable { message: cut(message), hint: cut(hint) },
            Self::Preview { ref changes } => {
                let bytes =
                    changes.iter().map(|change| change.action.len() + change.subject.len() + change.detail.len() + 16);
                match length_failure("list of changes", MAX_CHANGES_BYTES, bytes.sum()) {
                    Some(failure) => Self::Failed { failure },
                    None => self,
                }
            }
            Self::Finding { finding } => Self::Finding { finding: finding_within_limits(finding) },
            Self::Outcome { outcome } => Self::Outcome { outcome: outcome_within_limits(outcome) },
            Self::Reverted { failure } => Self::Reverted { failure: failure.map(failure_within_limits) },
            Self::NotConfirmed { failure } => Self::NotConfirmed { failure: failure.map(failure_within_limits) },
            Self::Linted { ref findings, .. } => {
                let bytes = findings.iter().map(json_length).sum();
                match length_failure("list of lint findings", MAX_CHANGES_BYTES, bytes) {
                    Some(failure) => Self::Failed { failure },
                    None => self,
                }
            }
            Self::Releases { ref folders } => {
                let bytes = folders.iter().map(json_length).sum();
                match length_failure("list of releases", MAX_RELEASES_BYTES, bytes) {
                    Some(failure) => Self::Failed { failure },
                    None => self,
                }
            }
            Self::Failed { failure } => Self::Failed { failure: failure_within_limits(failure) },
            Self::Checked { problems } => Self::Checked {
                problems: problems.into_iter().map(|(step, problem)| (step, problem.within_limits())).collect(),
            },
            Self::Refused { problem } => Self::Refused { problem: problem.within_limits() },
            // A frame holds no more than these may be; what they say is compared with what was asked for, or only shown.
            Self::Rehearsed
            | Self::Confirmation { .. }
            | Self::Recalled { .. }
            | Self::Missing { .. }
            | Self::Seeds { .. }
            | Self::Stored { .. } => self,
        }
    }
}

impl BegunSession {
    fn within_limits(self) -> Self {
        let records = self.records.into_iter().map(HostRecord::within_limits).collect();
        let attempts = self.attempts.into_iter().take(MAX_ATTEMPTS).collect();
        Self { records, attempts, ..self }
    }
}

impl HostRecord {
    /// An outcome that is too long is none.
    fn within_limits(self) -> Self {
        let outcome = self.outcome.filter(|outcome| outcome_within_limits(outcome.clone()) == *outcome);
        Self { outcome, ..self }
    }
}

impl Problem {
    fn within_limits(self) -> Self {
        Self {
            code: self.code,
            message: cut(self.message),
            causes: self.causes.into_iter().take(MAX_CAUSES).map(cut).collect(),
            hint: self.hint.map(cut),
        }
    }
}

/// What a call has said so far.
#[derive(Debug, Default)]
pub struct CallQuota {
    bytes: usize,
    log_messages: usize,
    meters: usize,
}

/// What becomes of a message of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Taken,
    /// Progress that nobody misses.
    Dropped,
    /// More than an agent sends.
    TooMuch,
}

impl CallQuota {
    /// Counts a message or progress.
    pub fn admit(&mut self, progress: &StepProgress) -> Admission {
        match progress {
            StepProgress::Log { message, fields, .. } => {
                self.log_messages += 1;
                self.bytes = self.bytes.saturating_add(message.len() + json_length(fields));
                let is_too_much = self.bytes > MAX_SAID_BYTES || self.log_messages > MAX_LOG_MESSAGES;
                if is_too_much { Admission::TooMuch } else { Admission::Taken }
            }
            StepProgress::Meter { task, unit, .. } => {
                let bytes = self.bytes.saturating_add(task.len() + unit.len());
                if bytes > MAX_SAID_BYTES || self.meters >= MAX_METERS {
                    return Admission::Dropped;
                }
                self.meters += 1;
                self.bytes = bytes;
                Admission::Taken
            }
        }
    }
}

/// Whether a piece of output, in base64, is one that an agent sends.
#[must_use]
pub fn is_output_within_limits(base64: &str) -> bool {
    base64.len() <= MAX_OUTPUT_BYTES
}

fn outcome_within_limits(outcome: StepOutcome) -> StepOutcome {
    match outcome {
        StepOutcome::Succeeded { receipt } => match receipt_failure(&receipt) {
            Some(failure) => StepOutcome::Unknown { failure },
            None => StepOutcome::Succeeded { receipt },
        },
        StepOutcome::Failed { failure } => StepOutcome::Failed { failure: failure_within_limits(failure) },
        StepOutcome::Unknown { failure } => StepOutcome::Unknown { failure: failure_within_limits(failure) },
    }
}

fn finding_within_limits(finding: ProbeFinding) -> ProbeFinding {
    match &finding {
        ProbeFinding::Held { receipt } => match receipt_failure(receipt) {
            Some(failure) => ProbeFinding::Failed { failure },
            None => finding,
        },
        ProbeFinding::Drifted { why } | ProbeFinding::Unknown { why } => {
            match length_failure("finding", MAX_TEXT_BYTES, why.len()) {
                Some(failure) => ProbeFinding::Failed { failure },
                None => finding,
            }
        }
        ProbeFinding::Failed { failure } => ProbeFinding::Failed { failure: failure_within_limits(failure.clone()) },
        ProbeFinding::Absent => finding,
    }
}

fn failure_within_limits(failure: StepFailure) -> StepFailure {
    let hint = failure.hint.as_ref().map_or(0, String::len);
    let bytes = failure.kind.as_str().len() + failure.message.len() + hint + json_length(&failure.details);
    length_failure("failure", MAX_TEXT_BYTES, bytes).unwrap_or(failure)
}

fn receipt_failure(receipt: &Receipt) -> Option<StepFailure> {
    length_failure("receipt", MAX_RECEIPT_BYTES, json_length(receipt))
}

fn length_failure(what: &str, limit: usize, bytes: usize) -> Option<StepFailure> {
    let message = format!("the host's {what} is {bytes} bytes; the limit is {limit}");
    (bytes > limit).then(|| StepFailure::new(FailureKind::Limit, message))
}

fn json_length(value: &impl serde::Serialize) -> usize {
    serde_json::to_string(value).map_or(usize::MAX, |json| json.len())
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_PROBLEM_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_PROBLEM_TEXT_BYTES));
        text.push('…');
    }
    text
}
