//! What a step returns and reports: the values that cross the sandbox, and that the journal records.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// When a step acts (DESIGN §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepPhase {
    /// Touches nothing that runs.
    Prepare,
    /// Changes what runs.
    Commit,
    /// Looks whether it runs.
    Check,
}

/// What a step returned on success.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Deterministic; feeds later steps and fingerprints.
    #[serde(default)]
    pub outputs: serde_json::Map<String, Value>,
    /// Timings and counts; feeds reports only.
    #[serde(default)]
    pub notes: serde_json::Map<String, Value>,
}

/// Why a call did not succeed, as in the WIT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepFailure {
    /// `invalid-config`, `denied`, `transient`, …
    pub kind: String,
    /// One sentence.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the same call may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// More, for programs: `file`, `line`, `column`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub details: serde_json::Map<String, Value>,
}

impl StepFailure {
    /// A failure that the same call would meet again.
    pub fn new(kind: &str, message: impl Into<String>) -> Self {
        Self {
            kind: kind.to_owned(),
            message: message.into(),
            hint: None,
            retryable: false,
            details: Default::default(),
        }
    }

    /// Sets the hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a detail; `file` and `line` are shown.
    #[must_use]
    pub fn with_detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum StepOutcome {
    /// It is done.
    Succeeded { receipt: Receipt },
    /// The module said that it failed, and cleaned up.
    Failed { failure: StepFailure },
    /// A trap, a time-out, a lost connection: it can't be told what was done.
    Unknown { failure: StepFailure },
}

/// What a probe found (DESIGN §4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
pub enum ProbeFinding {
    /// The effect is there; the receipt is rebuilt from it.
    Held { receipt: Receipt },
    /// The effect is not there.
    Absent,
    /// Something else is there.
    Drifted { why: String },
    /// It can't be told.
    Unknown { why: String },
    /// The probe itself failed.
    Failed { failure: StepFailure },
}

/// Progress of a running step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "kebab-case")]
pub enum StepProgress {
    /// A log message.
    Log {
        level: MessageLevel,
        message: String,
        #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
        fields: serde_json::Map<String, Value>,
    },
    /// `done` of `total` `unit`s of `task`.
    Meter { task: String, done: u64, total: Option<u64>, unit: String },
}

/// How important a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MessageLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}
