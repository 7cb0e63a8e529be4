//! Failures: what the operator reads at 3 a.m., and what decides whether the plan's `retry` applies.

use serde_json::{Map, Value};

use crate::bindings::pawl::step::types;
use crate::json;

/// The class of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// The step's configuration or another input from the plan is invalid.
    InvalidConfig,
    /// The plan does not grant the access.
    Denied,
    /// Something that must exist is missing.
    NotFound,
    /// Something else exists in its place.
    Conflict,
    /// The same call may succeed later without any change: a lost connection, a busy database.
    Transient,
    /// The call fails until somebody changes something.
    Permanent,
    /// A limit was reached: space, size, count or time.
    Limit,
    /// The content is invalid: wrong digest, broken archive, invalid text.
    BadContent,
    /// A kind that only a newer host knows.
    Other(String),
}

impl FailureKind {
    /// Returns the name in the contract.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::InvalidConfig => "invalid-config",
            Self::Denied => "denied",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Limit => "limit",
            Self::BadContent => "bad-content",
            Self::Other(word) => word,
        }
    }
}

impl From<String> for FailureKind {
    fn from(word: String) -> Self {
        match word.as_str() {
            "invalid-config" => Self::InvalidConfig,
            "denied" => Self::Denied,
            "not-found" => Self::NotFound,
            "conflict" => Self::Conflict,
            "transient" => Self::Transient,
            "permanent" => Self::Permanent,
            "limit" => Self::Limit,
            "bad-content" => Self::BadContent,
            _ => Self::Other(word),
        }
    }
}

/// The reason why a call failed.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a failure has no effect unless it is returned"]
pub struct Failure {
    /// The class of the failure.
    pub kind: FailureKind,
    /// One sentence that says what was expected, what was found, and where; it holds no secrets.
    pub message: String,
    /// The next thing to do.
    pub hint: Option<String>,
    /// Whether the same call may succeed later without any change.
    pub retryable: bool,
    /// Details for programs. Known members are `file`, `line` and `column`.
    pub details: Map<String, Value>,
}

impl Failure {
    /// Returns a failure of the given kind. Only [`FailureKind::Transient`] starts out retryable.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let retryable = kind == FailureKind::Transient;
        Self { kind, message: message.into(), hint: None, retryable, details: Map::new() }
    }

    /// Returns a failure of kind [`FailureKind::InvalidConfig`].
    pub fn invalid_config(message: impl Into<String>) -> Self {
        Self::new(FailureKind::InvalidConfig, message)
    }

    /// Returns a failure of kind [`FailureKind::Denied`].
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Denied, message)
    }

    /// Returns a failure of kind [`FailureKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(FailureKind::NotFound, message)
    }

    /// Returns a failure of kind [`FailureKind::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Conflict, message)
    }

    /// Returns a failure of kind [`FailureKind::Transient`], which is retryable.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Transient, message)
    }

    /// Returns a failure of kind [`FailureKind::Permanent`].
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Permanent, message)
    }

    /// Returns a failure of kind [`FailureKind::BadContent`].
    pub fn bad_content(message: impl Into<String>) -> Self {
        Self::new(FailureKind::BadContent, message)
    }

    /// Sets the hint: the next thing to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the hint unless the failure has one: the host's hint is more specific.
    pub fn or_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Adds one member to the details.
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Prefixes the message with its context: `<context>: <message>`.
    pub fn context(mut self, context: impl core::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl From<types::Failure> for Failure {
    fn from(failure: types::Failure) -> Self {
        Self {
            kind: failure.kind.into(),
            message: failure.message,
            hint: failure.hint,
            retryable: failure.retryable,
            details: json::object(&failure.details),
        }
    }
}

impl From<Failure> for types::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind.as_str().to_owned(),
            message: failure.message,
            hint: failure.hint,
            retryable: failure.retryable,
            details: json::text(&Value::Object(failure.details)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_round_trips_through_the_contract() {
        let failure = Failure::transient("the database is busy").hint("wait").detail("line", 3).context("0002_x.sql");
        assert_eq!(failure.message, "0002_x.sql: the database is busy");
        assert!(failure.retryable);
        assert_eq!(Failure::from(types::Failure::from(failure.clone())), failure);
    }

    #[test]
    fn unknown_kind_is_kept_and_invalid_details_are_dropped() {
        let unknown = types::Failure {
            kind: "on-fire".into(),
            message: "m".into(),
            hint: None,
            retryable: false,
            details: "[1]".into(),
        };
        let failure = Failure::from(unknown);
        assert_eq!(failure.kind, FailureKind::Other("on-fire".into()));
        assert!(failure.details.is_empty());
        assert_eq!(failure.kind.as_str(), "on-fire");
    }
}
