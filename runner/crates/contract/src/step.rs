//! The values that a step returns and reports: they cross the sandbox, and the journal records them.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error_code::ErrorCode;

/// The phase in which a step acts (docs/steps.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepPhase {
    /// It changes nothing that is live.
    Prepare,
    /// It changes what is live.
    Commit,
    /// It checks what is live.
    Check,
}

/// The result of a successful step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Deterministic values for later steps and fingerprints.
    #[serde(default)]
    pub outputs: serde_json::Map<String, Value>,
    /// Timings and counts, for reports only.
    #[serde(default)]
    pub notes: serde_json::Map<String, Value>,
}

impl Receipt {
    /// Whether the step acted. A note `ran: false` says that it found nothing to do.
    #[must_use]
    pub fn acted(&self) -> bool {
        self.notes.get("ran") != Some(&Value::Bool(false))
    }
}

macro_rules! failure_kinds {
    ($($(#[$doc:meta])* $kind:ident = $text:literal,)*) => {
        /// The kind of a failure: a text in the WIT contract and in the journal.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum FailureKind {
            $($(#[$doc])* $kind,)*
            /// A kind that only the module knows.
            Other(String),
        }

        impl FailureKind {
            /// The text in the contract: `denied`, `transient`, …
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$kind => $text,)*
                    Self::Other(text) => text,
                }
            }
        }

        impl From<String> for FailureKind {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$kind,)*
                    _ => Self::Other(text),
                }
            }
        }
    };
}

failure_kinds! {
    /// The configuration or the call is malformed.
    InvalidConfig = "invalid-config",
    /// The plan does not grant it.
    Denied = "denied",
    /// It does not exist.
    NotFound = "not-found",
    /// What exists forbids it, such as a constraint of a database.
    Conflict = "conflict",
    /// The same call may succeed later.
    Transient = "transient",
    /// The same call will fail again.
    Permanent = "permanent",
    /// A limit is exceeded.
    Limit = "limit",
    /// The content is damaged, or differs from its digest.
    BadContent = "bad-content",
    /// The call took longer than the step's timeout.
    TimeOut = "time-out",
    /// The module crashed.
    Trap = "trap",
    /// The call never began.
    NotBegun = "not-begun",
}

impl From<FailureKind> for String {
    fn from(kind: FailureKind) -> Self {
        if let FailureKind::Other(text) = kind { text } else { kind.as_str().to_owned() }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The failure of a call, as in the WIT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepFailure {
    /// Its kind.
    pub kind: FailureKind,
    /// What went wrong, in one sentence.
    pub message: String,
    /// The next thing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the same call may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// Details for programs: `file`, `line`, `column`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub details: serde_json::Map<String, Value>,
}

impl StepFailure {
    /// Creates a failure that the same call would have again.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, retryable: false, details: Default::default() }
    }

    /// Sets the hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a detail; reports show `file` and `line`.
    #[must_use]
    pub fn with_detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the detail `code`, for a failure with an error code of its own.
    #[must_use]
    pub fn with_code(self, code: ErrorCode) -> Self {
        self.with_detail("code", code.as_str())
    }

    /// The detail `code`. A module wrote it: the caller decides which codes it may set.
    #[must_use]
    pub fn stated_code(&self) -> Option<ErrorCode> {
        ErrorCode::parse(self.details.get("code")?.as_str()?)
    }
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum StepOutcome {
    /// The action succeeded.
    Succeeded { receipt: Receipt },
    /// The module reported a failure, and cleaned up.
    Failed { failure: StepFailure },
    /// A trap, a timeout or a lost connection: the outcome is unknown.
    Unknown { failure: StepFailure },
}

/// A change that `apply` would make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewChange {
    /// `create`, `update`, `delete`, `run` or `check`.
    pub action: String,
    /// The subject of the change.
    pub subject: String,
    /// A short detail.
    pub detail: String,
}

/// The finding of a probe (docs/steps.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
pub enum ProbeFinding {
    /// The effect holds; the receipt is rebuilt from it.
    Held { receipt: Receipt },
    /// The effect is absent.
    Absent,
    /// Something else is in its place.
    Drifted { why: String },
    /// The probe cannot decide.
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
    /// Progress of `task`: `done` of `total` `unit`s.
    Meter { task: String, done: u64, total: Option<u64>, unit: String },
}

/// The level of a log message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MessageLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_kind_of_a_failure_is_a_text_in_json() {
        for (text, kind) in [
            ("denied", FailureKind::Denied),
            ("time-out", FailureKind::TimeOut),
            ("sulky", FailureKind::Other("sulky".to_owned())),
        ] {
            let failure = StepFailure::new(kind, "no");
            let json = json!({"kind": text, "message": "no", "retryable": false});
            assert_eq!(serde_json::to_value(&failure).unwrap(), json);
            assert_eq!(serde_json::from_value::<StepFailure>(json).unwrap(), failure);
        }
    }
}
