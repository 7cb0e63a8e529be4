//! Undoes one step by its record: in a rollback, or to finish an undo that an earlier attempt began.

use super::{AttemptError, PlannedStep, attempt::RunningAttempt};
use contract::step::{FailureKind, ProbeFinding, Receipt, StepFailure};
use journal::{
    FindingSummary, RecordStatus,
    event::{Decision, DecisionReason, ProbeInput},
};
use sandbox::ProbeStrength;

/// Undoes one step by its record.
pub(super) async fn undo_step(attempt: &RunningAttempt<'_>, planned: &PlannedStep) -> Result<(), AttemptError> {
    let is_intended = matches!(attempt.state().status(&planned.step_target), Some(RecordStatus::Intended));
    if is_intended && !adopt_before_undo(attempt, planned).await? && !planned.description.staged {
        return Ok(());
    }
    let record = attempt.state().records.get(&planned.step_target).cloned();
    let Some(record) = record else { return Ok(()) };
    let receipt = match record.status {
        RecordStatus::Succeeded(receipt) | RecordStatus::Undoing(Some(receipt)) => receipt,
        RecordStatus::Undoing(None) | RecordStatus::Intended | RecordStatus::Failed(_) | RecordStatus::Reverted => {
            Receipt::default()
        }
    };
    // The recorded epoch would make the fence reject this call as one of an older attempt.
    let mut input = record.intent.input;
    input["epoch"] = attempt.header.epoch.into();
    let intent = attempt.journal.borrow_mut().record_undo_intent(&planned.step_target)?;
    // An undo is a commit-phase effect, so it needs the lock. If that fails, the next attempt finishes the undo.
    attempt.confirm_lock().await?;
    match attempt.call(planned).revert(intent, &input, &receipt).await? {
        None => Ok(()),
        Some(failure) => Err(AttemptError::UndoFailed { step_target: planned.step_target.clone(), failure }),
    }
}

/// Probes a step whose outcome is unknown, and adopts its effect, because `revert` needs the receipt; that of a staged step does without.
/// Returns whether the effect holds.
async fn adopt_before_undo(attempt: &RunningAttempt<'_>, planned: &PlannedStep) -> Result<bool, AttemptError> {
    let step_target = &planned.step_target;
    let input = attempt.state().records.get(step_target).map(|record| record.intent.input.clone());
    let Some(input) = input else { return Ok(false) };
    let finding = if planned.description.probe_strength(&input["config"]) == ProbeStrength::Full {
        attempt.call(planned).probe(&input, ProbeInput::Recorded).await?
    } else {
        ProbeFinding::Unknown { why: "it has no probe that can tell".to_owned() }
    };
    // A staged step may be half done, and its revert finds what there is.
    if planned.description.staged && !matches!(finding, ProbeFinding::Held { .. }) {
        return Ok(false);
    }
    let failure = match finding {
        ProbeFinding::Held { receipt } => {
            let reason = DecisionReason::Interrupted { finding: Some(FindingSummary::Held) };
            attempt.journal.borrow_mut().record_decision(step_target, Decision::Adopt { reason, receipt })?;
            return Ok(true);
        }
        ProbeFinding::Absent => {
            // There is nothing to undo, and the record says so.
            let intent = attempt.journal.borrow_mut().record_undo_intent(step_target)?;
            attempt.journal.borrow_mut().record_undo_outcome(intent.complete(None))?;
            return Ok(false);
        }
        ProbeFinding::Drifted { why } | ProbeFinding::Unknown { why } => {
            StepFailure::new(FailureKind::Permanent, format!("outcome unknown: {why}"))
        }
        ProbeFinding::Failed { failure } => failure,
    };
    Err(AttemptError::UndoFailed { step_target: step_target.clone(), failure })
}
