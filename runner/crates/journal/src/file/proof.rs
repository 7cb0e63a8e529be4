//! The proofs that order the records of a step: an intent is on disk before its effect, and the effect has ended before its outcome.
//!
//! Invariant: only [`super::Journal`] creates an intent, and only acting on one creates what it records as the outcome.

use std::time::Duration;

use contract::step::{StepFailure, StepOutcome};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Fingerprint, StepTarget};

/// The effect class of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepEffect {
    /// It changes nothing: its phase is check, and its record alone never skips it.
    ReadOnly,
    /// It changes something that users do not see.
    Mutating,
    /// It shows the release to users.
    Exposing,
}

/// Proof that an intent is on disk. Only [`Journal::record_intent`] creates one, and acting consumes it.
#[must_use]
#[derive(Debug)]
pub struct StepIntent {
    pub(super) step_target: StepTarget,
    pub(super) fingerprint: Fingerprint,
    pub(super) input: Value,
    pub(super) effect: StepEffect,
}

/// Proof that an action ended, for [`Journal::record_outcome`].
#[must_use]
#[derive(Debug)]
pub struct StepCompletion {
    pub(super) step_target: StepTarget,
    pub(super) effect: StepEffect,
    pub(super) outcome: StepOutcome,
    pub(super) took: Duration,
}

/// Proof that the intent to undo is on disk.
#[must_use]
#[derive(Debug)]
pub struct UndoIntent {
    pub(super) step_target: StepTarget,
}

/// Proof that undoing ended.
#[must_use]
#[derive(Debug)]
pub struct UndoCompletion {
    pub(super) step_target: StepTarget,
    pub(super) failure: Option<StepFailure>,
}

impl StepIntent {
    /// The step that may act now.
    #[must_use]
    pub fn step_target(&self) -> &StepTarget {
        &self.step_target
    }

    /// The recorded input.
    #[must_use]
    pub fn input(&self) -> &Value {
        &self.input
    }

    /// The recorded fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The effect class of the step.
    #[must_use]
    pub fn effect(&self) -> StepEffect {
        self.effect
    }

    /// Ends the action with its outcome.
    pub fn complete(self, result: StepOutcome, took: Duration) -> StepCompletion {
        StepCompletion { step_target: self.step_target, effect: self.effect, outcome: result, took }
    }
}

impl StepCompletion {
    /// The outcome of the action.
    #[must_use]
    pub fn outcome(&self) -> &StepOutcome {
        &self.outcome
    }
}

impl UndoIntent {
    /// The step that may be undone now.
    #[must_use]
    pub fn step_target(&self) -> &StepTarget {
        &self.step_target
    }

    /// Ends the undo, successfully if there is no failure.
    pub fn complete(self, failure: Option<StepFailure>) -> UndoCompletion {
        UndoCompletion { step_target: self.step_target, failure }
    }
}

impl UndoCompletion {
    /// The failure to undo the step, if there is one.
    #[must_use]
    pub fn failure(&self) -> Option<&StepFailure> {
        self.failure.as_ref()
    }
}
