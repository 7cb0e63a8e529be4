//! The pure fold of one attempt: the status of each step, and the step that the attempt failed at.
//!
//! Deliberately absent: what earlier attempts recorded ([`super::state`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use contract::step::StepOutcome;

use super::event::{Decision, DecisionReason, JournalEvent, StepTarget};

/// The status of a step or a hook in one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepStatus {
    /// Neither decided on nor started.
    #[default]
    NotReached,
    /// Its effect holds from an earlier attempt, or the step found that it has nothing to do.
    Skipped,
    /// Its effect was already there, without a record.
    Adopted,
    /// An intent without an outcome.
    Started,
    /// It succeeded.
    Ran,
    /// It failed cleanly.
    Failed,
    /// Its outcome is unknown.
    Unknown,
    /// An operator has to decide.
    Stopped,
    /// An undo intent without an outcome.
    Undoing,
    /// It was undone.
    Undone,
    /// Its undo failed.
    UndoFailed,
}

impl StepStatus {
    /// The status after an event about the step.
    #[must_use]
    pub fn after(self, event: &JournalEvent) -> Self {
        match event {
            JournalEvent::Decision { decision, .. } => match (decision, self) {
                // An adopted step is skipped right after.
                (Decision::Skip { .. }, Self::Adopted) | (Decision::Adopt { .. }, _) => Self::Adopted,
                (Decision::Skip { .. }, _) => Self::Skipped,
                (
                    Decision::Stop {
                        reason: DecisionReason::InvalidInput { .. } | DecisionReason::RehearsalFailed { .. },
                    },
                    _,
                ) => Self::Failed,
                (Decision::Stop { .. }, _) => Self::Stopped,
                (Decision::Run { .. }, status) => status,
            },
            JournalEvent::Intent { .. } => Self::Started,
            JournalEvent::Outcome { outcome: StepOutcome::Succeeded { receipt }, .. } if !receipt.acted() => {
                Self::Skipped
            }
            JournalEvent::Outcome { outcome: StepOutcome::Succeeded { .. }, .. } => Self::Ran,
            JournalEvent::Outcome { outcome: StepOutcome::Failed { .. }, .. } => Self::Failed,
            JournalEvent::Outcome { outcome: StepOutcome::Unknown { .. }, .. } => Self::Unknown,
            JournalEvent::UndoIntent { .. } => Self::Undoing,
            JournalEvent::UndoOutcome { failure: None, .. } => Self::Undone,
            JournalEvent::UndoOutcome { failure: Some(_), .. } => Self::UndoFailed,
            JournalEvent::Started(_)
            | JournalEvent::Plan { .. }
            | JournalEvent::Lock { .. }
            | JournalEvent::Torn { .. }
            | JournalEvent::SwitchedBack { .. }
            | JournalEvent::Progress { .. }
            | JournalEvent::Output { .. }
            | JournalEvent::Probe { .. }
            | JournalEvent::Override { .. }
            | JournalEvent::HostLeftBehind { .. }
            | JournalEvent::Resolved { .. }
            | JournalEvent::RecordLost { .. }
            | JournalEvent::Ended { .. }
            | JournalEvent::Unrecognized => self,
        }
    }
}

/// The folded events of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptStatuses {
    statuses: BTreeMap<StepTarget, StepStatus>,
    failed_step: Option<StepTarget>,
    /// The steps of the plan; what else has events is a hook.
    planned: BTreeSet<StepTarget>,
    /// The steps that a rollback repeated for the release before: their statuses are those of the release that failed.
    repeated: BTreeSet<StepTarget>,
}

/// The parts of the fold of an attempt, as a snapshot has them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct AttemptStatusParts {
    statuses: Vec<(StepTarget, StepStatus)>,
    failed_step: Option<StepTarget>,
    #[serde(default)]
    planned: BTreeSet<StepTarget>,
    #[serde(default)]
    repeated: BTreeSet<StepTarget>,
}

impl From<AttemptStatuses> for AttemptStatusParts {
    fn from(attempt: AttemptStatuses) -> Self {
        let AttemptStatuses { statuses, failed_step, planned, repeated } = attempt;
        Self { statuses: statuses.into_iter().collect(), failed_step, planned, repeated }
    }
}

impl From<AttemptStatusParts> for AttemptStatuses {
    fn from(parts: AttemptStatusParts) -> Self {
        let AttemptStatusParts { statuses, failed_step, planned, repeated } = parts;
        Self { statuses: statuses.into_iter().collect(), failed_step, planned, repeated }
    }
}

impl AttemptStatuses {
    /// Folds the next event.
    pub fn apply(&mut self, event: &JournalEvent) {
        if let JournalEvent::Plan { steps, .. } = event {
            self.planned = steps.iter().map(|step| step.step_target.clone()).collect();
        }
        let Some(step_target) = event.step_target() else { return };
        if let JournalEvent::Intent { release: Some(_), .. } = event {
            self.repeated.insert(step_target.clone());
        }
        if self.repeated.contains(step_target) {
            return;
        }
        let (before, status) = (self.status(step_target), self.status(step_target).after(event));
        if status == before {
            return;
        }
        self.statuses.insert(step_target.clone(), status);
        // A hook counts only where no step was reached: a `before` hook.
        if self.is_hook(step_target) && self.statuses.keys().any(|reached| !self.is_hook(reached)) {
            return;
        }
        match status {
            // Only the first one counts.
            StepStatus::Started | StepStatus::Failed | StepStatus::Unknown | StepStatus::Stopped => {
                self.failed_step.get_or_insert_with(|| step_target.clone());
            }
            StepStatus::Ran | StepStatus::Adopted | StepStatus::Skipped => {
                self.failed_step.take_if(|failed| failed == step_target);
            }
            StepStatus::NotReached | StepStatus::Undoing | StepStatus::Undone | StepStatus::UndoFailed => {}
        }
    }

    /// Whether it is a hook: it has events, and is not in the plan.
    #[must_use]
    pub fn is_hook(&self, step_target: &StepTarget) -> bool {
        !self.planned.is_empty() && !self.planned.contains(step_target)
    }

    /// The status of a step.
    #[must_use]
    pub fn status(&self, step_target: &StepTarget) -> StepStatus {
        self.statuses.get(step_target).copied().unwrap_or_default()
    }

    /// The statuses of all steps that were reached.
    pub fn reached(&self) -> impl Iterator<Item = StepStatus> {
        self.statuses.iter().filter(|(step_target, _)| !self.is_hook(step_target)).map(|(_, status)| *status)
    }

    /// The statuses of all hooks that were reached.
    pub fn reached_hooks(&self) -> impl Iterator<Item = StepStatus> {
        self.statuses.iter().filter(|(step_target, _)| self.is_hook(step_target)).map(|(_, status)| *status)
    }

    /// The first step that failed, was stopped or has no outcome; if there is none, one whose undo did not succeed.
    #[must_use]
    pub fn failed_step(&self) -> Option<&StepTarget> {
        let is_half_undone = |status: &StepStatus| matches!(status, StepStatus::Undoing | StepStatus::UndoFailed);
        let half_undone = || self.statuses.iter().find(|(_, status)| is_half_undone(status));
        self.failed_step.as_ref().or_else(|| half_undone().map(|(step_target, _)| step_target))
    }
}

#[cfg(test)]
mod tests {
    use contract::step::{FailureKind, Receipt, StepFailure};

    use super::*;
    use crate::event::{DecisionReason, Fingerprint};

    fn target(step: &str) -> StepTarget {
        StepTarget { step: step.parse().unwrap(), target: "local".parse().unwrap() }
    }

    fn intent(step: &str) -> JournalEvent {
        let (key, fingerprint, input) = (String::new(), Fingerprint(BTreeMap::new()), serde_json::Value::Null);
        JournalEvent::Intent { step_target: target(step), key, fingerprint, input, exposes: false, release: None }
    }

    fn outcome(step: &str, outcome: StepOutcome) -> JournalEvent {
        JournalEvent::Outcome { step_target: target(step), took_ms: 1, outcome }
    }

    fn ran() -> StepOutcome {
        StepOutcome::Succeeded { receipt: Receipt::default() }
    }

    fn failure() -> StepFailure {
        StepFailure::new(FailureKind::Permanent, "no")
    }

    fn decision(step: &str, decision: Decision) -> JournalEvent {
        JournalEvent::Decision { step_target: target(step), decision }
    }

    fn fold(events: &[JournalEvent]) -> (Vec<StepStatus>, Option<String>) {
        let mut statuses = AttemptStatuses::default();
        events.iter().for_each(|event| statuses.apply(event));
        (statuses.reached().collect(), statuses.failed_step().map(|failed| failed.step.to_string()))
    }

    #[test]
    fn an_adopted_step_stays_adopted_and_is_not_the_failed_one() {
        let reason = DecisionReason::RequestedByOperator;
        let receipt = Receipt::default();
        let mut events = vec![
            intent("a"),
            decision("a", Decision::Adopt { reason: reason.clone(), receipt: receipt.clone() }),
            decision("a", Decision::Skip { reason, receipt }),
        ];
        assert_eq!(fold(&events), (vec![StepStatus::Adopted], None));
        events.extend([intent("b"), outcome("b", StepOutcome::Failed { failure: failure() })]);
        assert_eq!(fold(&events), (vec![StepStatus::Adopted, StepStatus::Failed], Some("b".to_owned())));
    }

    #[test]
    fn the_first_failed_step_counts_until_it_succeeds() {
        let mut events = vec![intent("a"), outcome("a", StepOutcome::Unknown { failure: failure() })];
        assert_eq!(fold(&events), (vec![StepStatus::Unknown], Some("a".to_owned())));
        events.extend([intent("hook"), outcome("hook", ran())]);
        assert_eq!(fold(&events), (vec![StepStatus::Unknown, StepStatus::Ran], Some("a".to_owned())));
        events.extend([intent("a"), outcome("a", ran())]);
        assert_eq!(fold(&events), (vec![StepStatus::Ran, StepStatus::Ran], None));
    }

    #[test]
    fn an_undo_that_fails_keeps_the_failed_step() {
        let undo = |failure| JournalEvent::UndoOutcome { step_target: target("a"), failure };
        let mut events = vec![
            intent("a"),
            outcome("a", ran()),
            intent("b"),
            outcome("b", StepOutcome::Failed { failure: failure() }),
            JournalEvent::UndoIntent { step_target: target("a") },
        ];
        assert_eq!(fold(&events), (vec![StepStatus::Undoing, StepStatus::Failed], Some("b".to_owned())));
        events.push(undo(Some(failure())));
        assert_eq!(fold(&events), (vec![StepStatus::UndoFailed, StepStatus::Failed], Some("b".to_owned())));
        events.push(undo(None));
        assert_eq!(fold(&events), (vec![StepStatus::Undone, StepStatus::Failed], Some("b".to_owned())));
        assert_eq!(fold(&[intent("a"), outcome("a", ran()), undo(Some(failure()))]).1, Some("a".to_owned()));
    }
}
