//! The rehearsal: before the first commit step begins anywhere, each commit step that can tell says whether it would be refused.
//!
//! Invariant: it changes nothing, so a failure leaves everything as the prepare steps left it. A step that is done, as far as its record
//! says, is not rehearsed: its probe tells more. Deliberately absent: rollbacks, which go at once.

use serde_json::Value;

use super::{AttemptError, PlannedStep, attempt::RunningAttempt, steps};
use contract::step::{StepFailure, StepPhase};
use journal::{
    RecordStatus, StepTarget,
    decision::StepDisposition,
    event::{Decision, DecisionReason},
};

/// Rehearses all commit steps that this attempt may run, on all targets, and records each refusal.
pub(super) async fn rehearse_commit_steps(attempt: &RunningAttempt<'_>) -> Result<(), AttemptError> {
    let mut refused: Vec<(StepTarget, StepFailure)> = Vec::new();
    for (index, on) in attempt.prepared().steps_on_targets() {
        if !may_run(attempt, index) {
            continue;
        }
        let taking_part = on.iter().filter(|planned| attempt.prepared().takes_part(planned));
        let placed = taking_part.filter_map(|planned| attempt.placed(planned));
        let rehearsed = placed.filter(|planned| is_rehearsed(attempt, planned));
        let rehearse = async |planned| attempt.call(planned).rehearse(&input_of(attempt, planned)).await;
        let (ended, errors) = steps::on_each_target(rehearsed, rehearse, |_, _| true).await;
        if let Some(error) = AttemptError::of_several(errors.into_iter().map(|(_, error)| error).collect()) {
            return Err(error);
        }
        for (planned, failure) in ended {
            refused.extend(failure.map(|failure| (planned.step_target.clone(), failure)));
        }
    }
    for (step_target, failure) in &refused {
        let reason = DecisionReason::RehearsalFailed { message: failure.message.clone() };
        attempt.journal.borrow_mut().record_decision(step_target, Decision::Stop { reason })?;
    }
    let mut refused = refused.into_iter();
    match refused.next() {
        None => Ok(()),
        Some((step_target, failure)) => {
            Err(AttemptError::RehearsalFailed { step_target, failure, others: refused.collect() })
        }
    }
}

/// Whether the operator's options let the step at this position run.
fn may_run(attempt: &RunningAttempt<'_>, index: usize) -> bool {
    let selection = &attempt.overrides().selection;
    let named_index = selection.option().and_then(|(_, step)| attempt.prepared().index(step));
    matches!(selection.disposition_of(index, named_index), StepDisposition::Evaluate { .. })
}

fn is_rehearsed(attempt: &RunningAttempt<'_>, planned: &PlannedStep) -> bool {
    let description = &planned.description;
    description.phase == StepPhase::Commit && description.rehearses && !is_done(attempt, planned)
}

/// Whether the step has succeeded in this run with the same configuration.
fn is_done(attempt: &RunningAttempt<'_>, planned: &PlannedStep) -> bool {
    let state = attempt.state();
    let Some(record) = state.records.get(&planned.step_target) else { return false };
    matches!(record.status, RecordStatus::Succeeded(_))
        && record.intent.run == attempt.header.run
        && record.intent.input["config"] == input_of(attempt, planned)["config"]
}

fn input_of(attempt: &RunningAttempt<'_>, planned: &PlannedStep) -> Value {
    attempt.with_view(|view| view.rehearsal_input(planned))
}
