//! The rollback after a failure past the point of no return.
//!
//! Deliberately absent: which steps it undoes ([`journal::decision::steps_to_undo`]), how one is undone, and what runs again for the
//! release before ([`super::after_undo`]).

use std::collections::BTreeSet;

use super::{
    AttemptError, PlannedStep,
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
    let prepared = attempt.prepared();
    let takes_part = |planned: &PlannedStep| prepared.takes_part(planned);
    let steps = match steps_to_undo(attempt, &takes_part) {
        Ok(steps) => steps,
        Err(why) => return why,
    };
    let (failed, errors) = undo_steps(attempt, &steps).await;
    if let Some(error) = AttemptError::of_several(errors) {
        // The others are back, each by itself.
        let hosts: BTreeSet<&TargetName> = steps.iter().map(|step_target| &step_target.target).collect();
        for host in hosts.into_iter().filter(|host| !failed.contains(host)) {
            let of_host: Vec<_> = steps.iter().filter(|step_target| step_target.target == *host).cloned().collect();
            if let Err(error) = after_undo::switch_back(attempt, &of_host, Some(host)).await {
                return RollbackResult::Failed(error);
            }
        }
        return RollbackResult::Failed(error);
    }
    match after_undo::switch_back(attempt, &steps, None).await {
        Ok(switch_back) => RollbackResult::Done(switch_back),
        Err(error) => RollbackResult::Failed(error),
    }
}

/// Rolls one host back that the attempt goes on without, if the plan says so. Returns what became of that.
pub(super) async fn roll_back_host(
    attempt: &mut RunningAttempt<'_>,
    host: &TargetName,
) -> Result<Option<String>, AttemptError> {
    if attempt.interrupt.is_requested() {
        return Ok(None);
    }
    let is_of_host = |planned: &PlannedStep| planned.step_target.target == *host;
    let steps = match steps_to_undo(attempt, &is_of_host) {
        Ok(steps) => steps,
        Err(RollbackResult::NotRolledBack(why)) => return Ok(why.map(|why| format!("not rolled back: {why}"))),
        Err(RollbackResult::Failed(error)) => return Ok(Some(error.why_on_target())),
        Err(RollbackResult::Done(_)) => return Ok(None),
    };
    let prepared = attempt.prepared();
    let remote =
        prepared.steps.iter().find(|planned| is_of_host(planned)).map(|planned| prepared.remote_executor(planned));
    if let Some(remote) = remote.flatten()
        && remote.connect().await.is_err()
    {
        return Ok(Some("not rolled back: it can't be reached".to_owned()));
    }
    let (_, errors) = undo_steps(attempt, &steps).await;
    if let Some(error) = AttemptError::of_several(errors) {
        return if error.ends_attempt() { Err(error) } else { Ok(Some(error.why_on_target())) };
    }
    let switch_back = after_undo::switch_back(attempt, &steps, Some(host)).await?;
    Ok(Some(format!("rolled back: {}", switch_back.summary(attempt.journal.borrow().redactor()))))
}

/// Undoes steps, the last one first, each on all its targets. Where one can't be undone, the earlier ones stay; returns those targets, and
/// the errors.
async fn undo_steps(attempt: &RunningAttempt<'_>, steps: &[StepTarget]) -> (BTreeSet<TargetName>, Vec<AttemptError>) {
    let prepared = attempt.prepared();
    let planned = |step_target: &StepTarget| {
        let planned = prepared.steps.iter().find(|planned| planned.step_target == *step_target);
        let planned = planned.expect("a rollback names steps of the plan");
        attempt.placed(planned).unwrap_or(planned)
    };
    let (mut failed, mut all_errors) = (BTreeSet::new(), Vec::new());
    for of_step in steps.chunk_by(|one, other| one.step == other.step) {
        let on = of_step.iter().filter(|step_target| !failed.contains(&step_target.target)).map(planned);
        let on: Vec<_> = on.collect();
        let undo = async |planned| undo::undo_step(attempt, planned).await;
        let (_, errors) = steps::on_each_target(on, undo, |_, error| error.ends_attempt()).await;
        let ends_attempt = errors.iter().any(|(_, error)| error.ends_attempt());
        for (planned, error) in errors {
            failed.insert(planned.step_target.target.clone());
            all_errors.push(error);
        }
        if ends_attempt {
            break;
        }
    }
    (failed, all_errors)
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
        | AttemptError::HostsLeftBehind(_)
        | AttemptError::Host(_)
        | AttemptError::Journal(_)
        | AttemptError::Lock(_)
        | AttemptError::Interrupted => false,
    }
}

/// The steps to undo, last first, of those that are meant, or the reason why there is no rollback.
fn steps_to_undo(
    attempt: &RunningAttempt<'_>,
    is_meant: &dyn Fn(&PlannedStep) -> bool,
) -> Result<Vec<StepTarget>, RollbackResult> {
    let not_due = |why: Option<&str>| Err(RollbackResult::NotRolledBack(why.map(str::to_owned)));
    let prepared = attempt.prepared();
    if prepared.plan.on_failure == OnFailure::Hold {
        return not_due(None);
    }
    let order = prepared.steps.iter().filter(|planned| is_meant(planned)).map(|planned| {
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
    match irreversible_step(attempt, exposing, is_meant) {
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
