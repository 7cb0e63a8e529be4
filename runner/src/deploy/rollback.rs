//! The rollback after a failure past the point of no return.
//!
//! Deliberately absent: which steps it undoes ([`journal::decision::steps_to_undo`]), how one is undone, and what runs again for the
//! release before ([`super::after_undo`]).

use super::{
    AttemptError,
    after_undo::{self, SwitchBack},
    attempt::RunningAttempt,
    steps, undo,
};
use contract::{TargetName, step::StepPhase};
use journal::{
    JournalTrust, RecordStatus, StepRecord, StepTarget,
    decision::{self, UndoSupport},
};
use plan::OnFailure;

/// How a rollback ended.
pub(super) enum RollbackResult {
    /// There was no rollback, so everything stays as it is. The text is the reason, if the user should see one.
    NotRolledBack(Option<String>),
    /// The steps are undone.
    Done(SwitchBack),
    /// A step could not be undone.
    Failed(AttemptError),
}

/// Undoes the steps back to the first one that exposed the release. This requires that a step failed, that the plan
/// says `on-failure: rollback`, and that the previous release was verified.
pub(super) async fn roll_back_if_due(attempt: &mut RunningAttempt<'_>, error: &AttemptError) -> RollbackResult {
    if !is_of_step(attempt, error) || attempt.interrupt.is_requested() {
        return RollbackResult::NotRolledBack(doubt_beside_a_failure(attempt, error));
    }
    let steps = match steps_to_undo(attempt) {
        Ok(steps) => steps,
        Err(why) => return why,
    };
    let prepared = attempt.prepared();
    let planned = |step_target: &StepTarget| {
        let planned = prepared.steps.iter().find(|planned| planned.step_target == *step_target);
        planned.expect("a rollback names steps of the plan")
    };
    for of_step in steps.chunk_by(|one, other| one.step == other.step) {
        let shared = &*attempt;
        let undo = async |planned| undo::undo_step(shared, planned).await;
        if let (_, Some(error)) = steps::on_each_target(of_step.iter().map(planned), undo).await {
            return RollbackResult::Failed(error);
        }
    }
    match after_undo::switch_back(attempt, &steps).await {
        Ok(switch_back) => RollbackResult::Done(switch_back),
        Err(error) => RollbackResult::Failed(error),
    }
}

/// Why nothing is rolled back although a step failed on some host: on another one, nobody knows what to undo.
fn doubt_beside_a_failure(attempt: &RunningAttempt<'_>, error: &AttemptError) -> Option<String> {
    let AttemptError::OnSeveralTargets { gravest, others } = error else { return None };
    let is_due = attempt.prepared().plan.on_failure == OnFailure::Rollback && !attempt.interrupt.is_requested();
    let (AttemptError::InDoubt { step_target, .. } | AttemptError::SecretInReceipt { step_target, .. }) =
        gravest.as_ref()
    else {
        return None;
    };
    let has_failed = is_due && others.iter().any(|other| is_of_step(attempt, other));
    has_failed.then(|| format!("step {step_target} must be settled first"))
}

/// Whether a step of the plan failed. A failing `before` hook must not undo what an earlier attempt did.
fn is_of_step(attempt: &RunningAttempt<'_>, error: &AttemptError) -> bool {
    match error {
        AttemptError::Failed { step_target, .. } => attempt.prepared().index(&step_target.step).is_some(),
        AttemptError::OnSeveralTargets { gravest, .. } => is_of_step(attempt, gravest),
        AttemptError::Plan(_) => true,
        AttemptError::InDoubt { .. }
        | AttemptError::NotImported { .. }
        | AttemptError::RehearsalFailed { .. }
        | AttemptError::SecretInReceipt { .. }
        | AttemptError::UndoFailed { .. }
        | AttemptError::Irreversible { .. }
        | AttemptError::Host(_)
        | AttemptError::Journal(_)
        | AttemptError::Lock(_)
        | AttemptError::Interrupted => false,
    }
}

/// The steps to undo, last first, or the reason why there is no rollback.
fn steps_to_undo(attempt: &RunningAttempt<'_>) -> Result<Vec<StepTarget>, RollbackResult> {
    let not_due = |why: Option<&str>| Err(RollbackResult::NotRolledBack(why.map(str::to_owned)));
    let prepared = attempt.prepared();
    if prepared.plan.on_failure == OnFailure::Hold {
        return not_due(None);
    }
    let order = prepared.steps.iter().map(|planned| {
        let possible = planned.description.phase == StepPhase::Commit && planned.description.reverts;
        (&planned.step_target, if possible { UndoSupport::Possible } else { UndoSupport::Impossible })
    });
    let state = attempt.state();
    let steps = decision::steps_to_undo(&state, &attempt.header.run, order);
    let Some(exposing) = steps.last() else { return not_due(masked_exposing_step(attempt).as_deref()) };
    if state.records.get(exposing).is_some_and(|record| !record.intent.exposes) {
        return not_due(Some("the step that exposed the release can't be undone"));
    }
    let exposed =
        steps.iter().filter_map(|step_target| state.records.get(step_target).map(|record| (step_target, record)));
    for (step_target, record) in exposed.filter(|(_, record)| record.intent.exposes) {
        if let Some(why) = why_not_before(attempt, record) {
            let is_local = step_target.target == TargetName::local();
            return not_due(Some(&if is_local { why } else { format!("on {}, {why}", step_target.target) }));
        }
    }
    match irreversible_step(attempt, exposing) {
        Some(step_target) => Err(RollbackResult::Failed(AttemptError::Irreversible { step_target, not_undone: steps })),
        None => Ok(steps),
    }
}

/// Why undoing an exposing step would not lead back to a verified release; none if it would.
fn why_not_before(attempt: &RunningAttempt<'_>, record: &StepRecord) -> Option<String> {
    match &record.live_before {
        None => Some(match &attempt.unrecorded {
            Some(release) => format!("before this one, {}", release.description()),
            None => "no release was live before this one".to_owned(),
        }),
        Some(release) if release.is_same(&attempt.header.release) => {
            Some("this release was already live before this run".to_owned())
        }
        Some(release) if !attempt.state().head.is_verified(release) => {
            Some(format!("the previous release, {}, was never verified", release.label))
        }
        Some(_) => None,
    }
}

/// The reason why a step that exposed the release is not undone, if its record holds `***`.
fn masked_exposing_step(attempt: &RunningAttempt<'_>) -> Option<String> {
    let state = attempt.state();
    let records = &state.records;
    let is_masked = |record: &StepRecord| {
        let is_done = match record.status {
            RecordStatus::Failed(_) | RecordStatus::Reverted => false,
            RecordStatus::Intended | RecordStatus::Succeeded(_) | RecordStatus::Undoing(_) => true,
        };
        let is_of_run = record.intent.exposes && record.intent.run == attempt.header.run;
        is_done && is_of_run && record.trust == JournalTrust::Untrusted && record.is_masked()
    };
    let (step_target, _) = records.iter().find(|(_, record)| is_masked(record))?;
    Some(format!("an older runner recorded step {step_target} with `***` in place of a secret"))
}

/// The first irreversible step, from the exposing one on, that may have had its effect in this run.
fn irreversible_step(attempt: &RunningAttempt<'_>, exposing: &StepTarget) -> Option<StepTarget> {
    let has_run = |step_target: &StepTarget| {
        attempt.state().records.get(step_target).is_some_and(|record| {
            record.intent.run == attempt.header.run
                && !matches!(record.status, RecordStatus::Failed(_) | RecordStatus::Reverted)
        })
    };
    let since = attempt.prepared().steps.iter().skip_while(|planned| planned.step_target != *exposing);
    let mut irreversible = since.filter(|planned| planned.step.irreversible).map(|planned| &planned.step_target);
    irreversible.find(|step_target| has_run(step_target)).cloned()
}
