//! What a step answers.

use serde_json::{Map, Value};

use crate::bindings::pawl::step::types;
use crate::json;

/// What a step returns on success.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Receipt {
    /// Deterministic: the same input gives the same outputs. They feed later steps and their fingerprints.
    pub outputs: Map<String, Value>,
    /// Timings, counts, and what `revert` needs to know; for reports, never for later steps.
    pub notes: Map<String, Value>,
}

impl Receipt {
    /// An empty receipt.
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

/// What a change does to its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeAction {
    /// Makes it.
    Create,
    /// Changes it.
    Update,
    /// Removes it.
    Delete,
    /// Runs it.
    Run,
    /// Only looks at it.
    Check,
}

/// One thing that `apply` would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is done.
    pub action: ChangeAction,
    /// To what.
    pub subject: String,
    /// More in a few words; may be empty.
    pub detail: String,
}

impl Change {
    /// A change.
    #[must_use]
    pub fn new(action: ChangeAction, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { action, subject: subject.into(), detail: detail.into() }
    }
}

/// What a probe found out about the effect of one input.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The effect is there, by evidence that names the release or the content.
    Held(Receipt),
    /// It is not there; `apply` would make it.
    Absent,
    /// Something else is there, not made by this step: what, in one sentence.
    Drifted(String),
    /// It cannot be told: why, in one sentence.
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
