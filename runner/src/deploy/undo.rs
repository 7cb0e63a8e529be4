//! Undoing one step by its record: for a rollback, and for an undo that an earlier attempt began.

use super::{AttemptError, PlannedStep, attempt::RunningAttempt};
use contract::step::{FailureKind, ProbeFinding, Receipt, StepFailure};
use journal::{
    FindingSummary, RecordStatus,
    event::{Decision, DecisionReason, ProbeInput},
};

/// Undoes one step by its record.
pub(super) async fn undo_step(attempt: &mut RunningAttempt<'_>, planned: &PlannedStep) -> Result<(), AttemptError> {
    if let Some(RecordStatus::Intended) = attempt.journal.state().status(&planned.step_target)
        && !adopt_before_undo(attempt, planned).await?
    {
        return Ok(());
    }
    let Some(record) = attempt.journal.state().records.get(&planned.step_target).cloned() else { return Ok(()) };
    let receipt = match record.status {
        RecordStatus::Succeeded(receipt) | RecordStatus::Undoing(Some(receipt)) => receipt,
        RecordStatus::Undoing(None) | RecordStatus::Intended | RecordStatus::Failed(_) | RecordStatus::Reverted => {
            Receipt::default()
        }
    };
    // This attempt undoes it: what fences older attempts must not take this one for an older one.
    let mut input = record.intent.input;
    input["epoch"] = attempt.header.epoch.into();
    let intent = attempt.journal.record_undo_intent(&planned.step_target)?;
    // What is undone was done in the commit phase. An undo that was not begun is finished by the next attempt.
    attempt.confirm_lock().await?;
    match attempt.call(planned).revert(intent, &input, &receipt).await? {
        None => Ok(()),
        Some(failure) => Err(AttemptError::UndoFailed { step_target: planned.step_target.clone(), failure }),
    }
}

/// Adopts what is there of a step whose outcome is unknown, so that its receipt tells how to undo it. Returns whether there
/// is anything to undo.
async fn adopt_before_undo(attempt: &mut RunningAttempt<'_>, planned: &PlannedStep) -> Result<bool, AttemptError> {
    let step_target = &planned.step_target;
    let Some(record) = attempt.journal.state().records.get(step_target) else { return Ok(false) };
    let input = record.intent.input.clone();
    let finding = if planned.description.has_probe(&input["config"]) {
        attempt.call(planned).probe(&input, ProbeInput::Recorded).await?
    } else {
        ProbeFinding::Unknown { why: "it has no probe".to_owned() }
    };
    let failure = match finding {
        ProbeFinding::Held { receipt } => {
            let reason = DecisionReason::Interrupted { finding: Some(FindingSummary::Held) };
            attempt.journal.record_decision(step_target, Decision::Adopt { reason, receipt })?;
            return Ok(true);
        }
        ProbeFinding::Absent => return Ok(false),
        ProbeFinding::Drifted { why } | ProbeFinding::Unknown { why } => {
            StepFailure::new(FailureKind::Permanent, format!("outcome unknown: {why}"))
        }
        ProbeFinding::Failed { failure } => failure,
    };
    Err(AttemptError::UndoFailed { step_target: step_target.clone(), failure })
}
