//! Runs the steps of an attempt in the plan's order, each on all its targets: on other hosts at the same time, on this machine one after
//! the other.
//!
//! Invariant: a step begins when the one before has ended on all targets, and nothing begins after a failure on any of them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    AttemptError, PlannedStep,
    assumed_steps::{assumed_receipt, receipt_in_rollback},
    attempt::RunningAttempt,
    step::{StepRunner, check_recorded_receipt},
};
use contract::step::StepPhase;
use journal::{
    StepTarget,
    decision::StepDisposition,
    event::{Decision, DecisionReason, ROLLBACK},
};

/// Runs all selected steps.
pub(super) async fn run_all_steps(attempt: &mut RunningAttempt<'_>) -> Result<(), AttemptError> {
    let (prepared, selection) = (attempt.prepared(), &attempt.overrides().selection);
    let named_index = selection.option().and_then(|(_, step)| prepared.index(step));
    let is_rollback = attempt.overrides().command == Some(ROLLBACK);
    let (mut checked, mut index) = (BTreeSet::new(), 0);
    for of_step in prepared.steps.chunk_by(|one, other| one.step.id == other.step.id) {
        if prepared.first_step_after_setup() == Some(index) {
            prepared.check_machine_after_setup().await.map_err(AttemptError::Plan)?;
        }
        if of_step.iter().any(|planned| planned.description.phase != StepPhase::Prepare) && !is_rollback {
            check_late_migrations(attempt, &mut checked).await?;
        }
        let disposition = selection.disposition_of(index, named_index);
        let shared = &*attempt;
        let (ended, error) =
            on_each_target(of_step, async |planned| run_on_target(shared, planned, disposition).await).await;
        for (planned, outputs) in ended {
            if let Some(outputs) = outputs {
                attempt.outputs.insert(&planned.step_target, outputs);
            }
        }
        error.map_or(Ok(()), Err)?;
        index += of_step.len();
    }
    Ok(())
}

/// Runs something for a step on each of its targets, as far as nothing fails on this machine. Returns what it gave where it succeeded,
/// and the error.
pub(super) async fn on_each_target<'p, T>(
    of_step: impl IntoIterator<Item = &'p PlannedStep>,
    run: impl AsyncFn(&'p PlannedStep) -> Result<T, AttemptError>,
) -> (Vec<(&'p PlannedStep, T)>, Option<AttemptError>) {
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        of_step.into_iter().partition(|planned| planned.step.remote_host().is_none());
    let run = &run;
    let here = async {
        let mut ended = Vec::new();
        for planned in here {
            let result = run(planned).await;
            let has_failed = result.is_err();
            ended.push((planned, result));
            if has_failed {
                break;
            }
        }
        ended
    };
    let elsewhere = elsewhere.into_iter().map(async |planned| (planned, run(planned).await));
    let (here, elsewhere) = futures_util::future::join(here, futures_util::future::join_all(elsewhere)).await;
    let (mut succeeded, mut errors) = (Vec::new(), Vec::new());
    for (planned, result) in here.into_iter().chain(elsewhere) {
        match result {
            Ok(value) => succeeded.push((planned, value)),
            Err(error) => errors.push(error),
        }
    }
    (succeeded, AttemptError::of_several(errors))
}

/// Runs a step on a target, if it is selected, and returns its outputs.
async fn run_on_target(
    attempt: &RunningAttempt<'_>,
    planned: &PlannedStep,
    disposition: StepDisposition,
) -> Result<Option<Map<String, Value>>, AttemptError> {
    Ok(Some(match disposition {
        StepDisposition::Exclude => return Ok(None),
        StepDisposition::AssumeDone => assume_done(attempt, planned, DecisionReason::RequestedByOperator)?,
        // The release was verified here with this database or an older one, and its files may be gone.
        StepDisposition::Evaluate { .. } if attempt.overrides().leaves_out_of_rollback(planned) => {
            assume_done(attempt, planned, DecisionReason::NotInRollback)?
        }
        StepDisposition::Evaluate { selected_by_name } => {
            StepRunner { attempt }.run(planned, selected_by_name).await?.outputs
        }
    }))
}

/// Checks the migrations whose directory is known since the last step, before a step commits anything.
async fn check_late_migrations(
    attempt: &mut RunningAttempt<'_>,
    checked: &mut BTreeSet<StepTarget>,
) -> Result<(), AttemptError> {
    let prepared = attempt.prepared();
    for planned in &prepared.steps {
        let is_late = planned.description.behaviors.migrates.is_some() && !planned.step.pending.is_empty();
        if !is_late || checked.contains(&planned.step_target) {
            continue;
        }
        // Until all its lookups are known, there is nothing to check.
        let Ok(config) = attempt.with_view(|view| view.resolve_config(planned)) else { continue };
        checked.insert(planned.step_target.clone());
        let found = prepared.check_migrations_of(planned, config, attempt.journal.get_mut().state()).await;
        if let Some(first) = found.err().and_then(|problems| problems.into_iter().next()) {
            return Err(AttemptError::Plan(first));
        }
    }
    Ok(())
}

/// Assumes that a step is done: it comes before the named one, or is not part of a rollback. Returns its recorded outputs.
fn assume_done(
    attempt: &RunningAttempt<'_>,
    planned: &PlannedStep,
    reason: DecisionReason,
) -> Result<Map<String, Value>, AttemptError> {
    let mut journal = attempt.journal.borrow_mut();
    let receipt = if reason == DecisionReason::NotInRollback {
        receipt_in_rollback(journal.state(), planned)
    } else {
        assumed_receipt(journal.state(), planned, &attempt.header.release)
    };
    check_recorded_receipt(planned, &journal, &receipt)?;
    let outputs = receipt.outputs.clone();
    journal.record_decision(&planned.step_target, Decision::Skip { reason, receipt })?;
    Ok(outputs)
}
