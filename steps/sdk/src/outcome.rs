//! The answers of a step: receipts, changes and findings.

use serde_json::{Map, Value};

use crate::bindings::pawl::step::types;
use crate::json;

/// The result of a successful step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Receipt {
    /// The outputs: deterministic values for later steps and their fingerprints. The same input gives the same outputs.
    pub outputs: Map<String, Value>,
    /// The notes: durations, counts, and what `revert` needs. They serve reports, never later steps.
    pub notes: Map<String, Value>,
}

impl Receipt {
    /// Returns an empty receipt.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an output.
    #[must_use]
    pub fn output(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.outputs.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a note.
    #[must_use]
    pub fn note(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.notes.insert(name.to_owned(), value.into());
        self
    }
}

/// The action of a change on its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeAction {
    /// Creates the subject.
    Create,
    /// Changes the subject.
    Update,
    /// Removes the subject.
    Delete,
    /// Runs the subject.
    Run,
    /// Only reads the subject.
    Check,
}

/// One thing that `apply` would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The action.
    pub action: ChangeAction,
    /// The subject of the action.
    pub subject: String,
    /// A detail in a few words; may be empty.
    pub detail: String,
}

impl Change {
    /// Returns a change.
    #[must_use]
    pub fn new(action: ChangeAction, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { action, subject: subject.into(), detail: detail.into() }
    }
}

/// The result of a probe for the effect of one input.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The effect holds, by evidence that names the release or the content.
    Held(Receipt),
    /// The effect is absent; `apply` would create it.
    Absent,
    /// Something else exists that this step did not make; the text says what, in one sentence.
    Drifted(String),
    /// The probe cannot determine the effect; the text says why, in one sentence.
    Unknown(String),
}

impl From<types::Receipt> for Receipt {
    fn from(receipt: types::Receipt) -> Self {
        Self { outputs: json::object(&receipt.outputs), notes: json::object(&receipt.notes) }
    }
}

impl From<Receipt> for types::Receipt {
    fn from(receipt: Receipt) -> Self {
        Self { outputs: json::text(&Value::Object(receipt.outputs)), notes: json::text(&Value::Object(receipt.notes)) }
    }
}

impl From<Change> for types::Change {
    fn from(change: Change) -> Self {
        let action = match change.action {
            ChangeAction::Create => "create",
            ChangeAction::Update => "update",
            ChangeAction::Delete => "delete",
            ChangeAction::Run => "run",
            ChangeAction::Check => "check",
        };
        Self { action: action.to_owned(), subject: change.subject, detail: change.detail }
    }
}

impl From<Finding> for types::Finding {
    fn from(finding: Finding) -> Self {
        match finding {
            Finding::Held(receipt) => Self::Held(receipt.into()),
            Finding::Absent => Self::Absent,
            Finding::Drifted(why) => Self::Drifted(why),
            Finding::Unknown(why) => Self::Unknown(why),
        }
    }
}
