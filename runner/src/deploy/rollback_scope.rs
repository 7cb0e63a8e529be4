//! Which steps are undone after a failure, or why there is no rollback.
//!
//! Deliberately absent: the rule for steps by their records ([`journal::decision::steps_to_undo`]).

use super::{AttemptError, PlannedStep, attempt::RunningAttempt, rollback::RollbackResult};
use contract::{TargetName, step::StepPhase};
use journal::{
    JournalTrust, RecordStatus, StepRecord, StepTarget,
    decision::{self, StepsToUndo, UndoCandidate, UndoSupport},
};
use plan::OnFailure;

/// The steps as an undo sees them, of those that are meant.
fn candidates<'a>(attempt: &RunningAttempt<'a>, is_meant: &dyn Fn(&PlannedStep) -> bool) -> Vec<UndoCandidate<'a>> {
    let meant = attempt.prepared().steps.iter().filter(|planned| is_meant(planned));
    let candidate = |planned: &'a PlannedStep| {
        let description = &planned.description;
        let support = match (description.phase == StepPhase::Commit && description.reverts, description.staged) {
            (true, true) => UndoSupport::Staged,
            (true, false) => UndoSupport::Possible,
            (false, _) => UndoSupport::Impossible,
        };
        UndoCandidate { step_target: &planned.step_target, support, exposes: description.exposes }
    };
    meant.map(candidate).collect()
}

/// The staged steps to undo where there is no rollback, of those that are meant.
pub(super) fn staged_steps_to_undo(
    attempt: &RunningAttempt<'_>,
    is_meant: &dyn Fn(&PlannedStep) -> bool,
) -> Vec<StepTarget> {
    // An import changes nothing.
    if attempt.prepared().plan.on_failure == OnFailure::Hold || attempt.overrides().is_import() {
        return Vec::new();
    }
    decision::staged_steps_to_undo(&attempt.state(), &attempt.header.run, &candidates(attempt, is_meant))
}

/// The steps to undo, of those that are meant, or the reason why there is no rollback.
pub(super) fn steps_to_undo(
    attempt: &RunningAttempt<'_>,
    is_meant: &dyn Fn(&PlannedStep) -> bool,
) -> Result<StepsToUndo, RollbackResult> {
    let not_due = |why: Option<&str>| Err(RollbackResult::NotRolledBack(why.map(str::to_owned)));
    let prepared = attempt.prepared();
    if prepared.plan.on_failure == OnFailure::Hold {
        return not_due(None);
    }
    let state = attempt.state();
    let steps = decision::steps_to_undo(&state, &attempt.header.run, &candidates(attempt, is_meant));
    let Some(exposing) = steps.exposed.last() else { return not_due(masked_exposing_step(attempt).as_deref()) };
    if state.records.get(exposing).is_some_and(|record| !record.intent.exposes) {
        return not_due(Some("the step that exposed the release can't be undone"));
    }
    let exposed = steps.exposed.iter();
    let exposed = exposed.filter_map(|step_target| state.records.get(step_target).map(|record| (step_target, record)));
    for (step_target, record) in exposed.filter(|(_, record)| record.intent.exposes) {
        if let Some(why) = why_not_before(attempt, record) {
            let is_local = step_target.target == TargetName::local();
            return not_due(Some(&if is_local { why } else { format!("on {}, {why}", step_target.target) }));
        }
    }
    match irreversible_step(attempt, exposing, is_meant) {
        Some(step_target) => {
            Err(RollbackResult::Failed(AttemptError::Irreversible { step_target, not_undone: steps.exposed }))
        }
        None => Ok(steps),
    }
}

/// Why undoing an exposing step would not lead back to a verified release; none if it would.
fn why_not_before(attempt: &RunningAttempt<'_>, record: &StepRecord) -> Option<String> {
    match &record.live_before {
        None => Some(match &attempt.unrecorded {
            Some(release) => format!("before this one, {}", release.earlier_description()),
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
fn irreversible_step(
    attempt: &RunningAttempt<'_>,
    exposing: &StepTarget,
    is_meant: &dyn Fn(&PlannedStep) -> bool,
) -> Option<StepTarget> {
    let has_run = |step_target: &StepTarget| {
        attempt.state().records.get(step_target).is_some_and(|record| {
            record.intent.run == attempt.header.run
                && !matches!(record.status, RecordStatus::Failed(_) | RecordStatus::Reverted)
        })
    };
    let since = attempt.prepared().steps.iter().skip_while(|planned| planned.step_target != *exposing);
    let irreversible = since.filter(|planned| planned.step.irreversible && is_meant(planned));
    let mut irreversible = irreversible.map(|planned| &planned.step_target);
    irreversible.find(|step_target| has_run(step_target)).cloned()
}
