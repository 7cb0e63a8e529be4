//! The undo after a failure: the rollback past the point of no return, and the undo of staged steps before it.
//!
//! Invariant: what no user saw is undone after what users saw. Deliberately absent: which steps are undone ([`super::rollback_scope`]), how
//! one is undone, and what runs again for the release before ([`super::after_undo`]).

use std::collections::BTreeSet;

use super::{
    AttemptError, PlannedStep,
    after_undo::{self, SwitchBack},
    attempt::RunningAttempt,
    error::listed,
    rollback_scope::{staged_steps_to_undo, steps_to_undo},
    steps, undo,
};
use contract::TargetName;
use journal::{StepTarget, decision::StepsToUndo};
use plan::OnFailure;

/// How a rollback ended.
pub(super) enum RollbackResult {
    /// There was no rollback, so everything stays as it is. The text is the reason, if the user should see one.
    NotRolledBack(Option<String>),
    /// Only steps were undone that work beside what is live.
    StagedUndone {
        steps: Vec<StepTarget>,
        /// Why nothing else was undone, if the user should see it.
        not_rolled_back: Option<String>,
    },
    /// The steps are undone.
    Done(SwitchBack),
    /// A step could not be undone.
    Failed(AttemptError),
}

/// Undoes the steps back to the first one that exposed the release. This requires that a step failed, that the plan
/// says `on-failure: rollback`, and that the previous release was verified. Staged steps are undone with them, and also where the release was
/// never exposed.
pub(super) async fn roll_back_if_due(attempt: &mut RunningAttempt<'_>, error: &AttemptError) -> RollbackResult {
    if !is_of_step(attempt, error) || attempt.interrupt.is_requested() {
        return RollbackResult::NotRolledBack(doubt_beside_a_failure(attempt, error));
    }
    let prepared = attempt.prepared();
    let takes_part = |planned: &PlannedStep| prepared.takes_part(planned);
    match steps_to_undo(attempt, &takes_part) {
        Ok(steps) => roll_back(attempt, &steps, None).await,
        Err(RollbackResult::NotRolledBack(why)) => {
            let staged = staged_steps_to_undo(attempt, &takes_part);
            undo_staged(attempt, staged, why).await
        }
        Err(result) => result,
    }
}

/// Undoes steps, and then switches back, everywhere or on one host.
async fn roll_back(attempt: &mut RunningAttempt<'_>, steps: &StepsToUndo, host: Option<&TargetName>) -> RollbackResult {
    let (failed, mut errors) = undo_steps(attempt, &steps.exposed).await;
    let mut staged_errors = Vec::new();
    if !errors.iter().any(AttemptError::ends_attempt) {
        let is_back = |staged: &&StepTarget| !failed.contains(&staged.target);
        let staged: Vec<_> = steps.staged.iter().filter(is_back).cloned().collect();
        staged_errors = undo_steps(attempt, &staged).await.1;
    }
    // While what works beside it is not as before, the release is not verified.
    let doubts: Vec<_> = staged_errors.iter().filter_map(AttemptError::step_target).cloned().collect();
    errors.extend(staged_errors);
    if errors.iter().any(AttemptError::ends_attempt) {
        return AttemptError::of_several(errors).map_or(RollbackResult::NotRolledBack(None), RollbackResult::Failed);
    }
    if failed.is_empty() {
        let result = after_undo::switch_back(attempt, &steps.exposed, host, &doubts).await;
        return match (result, AttemptError::of_several(errors)) {
            (Err(error), _) | (Ok(_), Some(error)) => RollbackResult::Failed(error),
            (Ok(switch_back), None) => RollbackResult::Done(switch_back),
        };
    }
    // The others are back, each by itself.
    let hosts: BTreeSet<&TargetName> = steps.exposed.iter().map(|step_target| &step_target.target).collect();
    for host in hosts.into_iter().filter(|host| !failed.contains(host)) {
        let on_host = |steps: &[StepTarget]| -> Vec<_> {
            steps.iter().filter(|step_target| step_target.target == *host).cloned().collect()
        };
        let (of_host, doubts) = (on_host(&steps.exposed), on_host(&doubts));
        if let Err(error) = after_undo::switch_back(attempt, &of_host, Some(host), &doubts).await {
            return RollbackResult::Failed(error);
        }
    }
    AttemptError::of_several(errors).map_or(RollbackResult::NotRolledBack(None), RollbackResult::Failed)
}

/// Undoes staged steps, where nothing else is undone.
async fn undo_staged(
    attempt: &RunningAttempt<'_>,
    steps: Vec<StepTarget>,
    not_rolled_back: Option<String>,
) -> RollbackResult {
    if steps.is_empty() {
        return RollbackResult::NotRolledBack(not_rolled_back);
    }
    match AttemptError::of_several(undo_steps(attempt, &steps).await.1) {
        Some(error) => RollbackResult::Failed(error),
        None => RollbackResult::StagedUndone { steps, not_rolled_back },
    }
}

/// Which steps were undone that no user saw, in words.
pub(super) fn describe_staged(steps: &[StepTarget]) -> String {
    let mut names: Vec<String> = steps.iter().rev().map(|step_target| format!("`{}`", step_target.step)).collect();
    names.dedup();
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb} undone", listed(&names))
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
    let (exposed, staged) = match steps_to_undo(attempt, &is_of_host) {
        Ok(steps) => (Ok(steps), Vec::new()),
        Err(result) => (Err(result), staged_steps_to_undo(attempt, &is_of_host)),
    };
    let prepared = attempt.prepared();
    let remote =
        prepared.steps.iter().find(|planned| is_of_host(planned)).map(|planned| prepared.remote_executor(planned));
    if (exposed.is_ok() || !staged.is_empty())
        && let Some(remote) = remote.flatten()
        && remote.connect().await.is_err()
    {
        return Ok(Some("not rolled back: it can't be reached".to_owned()));
    }
    let result = match exposed {
        Ok(steps) => roll_back(attempt, &steps, Some(host)).await,
        Err(RollbackResult::NotRolledBack(why)) => undo_staged(attempt, staged, why).await,
        Err(result) => result,
    };
    let not_rolled_back = |why: String| format!("not rolled back: {why}");
    Ok(match result {
        RollbackResult::NotRolledBack(why) => why.map(not_rolled_back),
        RollbackResult::StagedUndone { steps, not_rolled_back: why } => {
            let why = why.map(|why| format!("; {}", not_rolled_back(why)));
            Some(describe_staged(&steps) + &why.unwrap_or_default())
        }
        RollbackResult::Done(switch_back) => {
            Some(format!("rolled back: {}", switch_back.summary(attempt.journal.borrow().redactor())))
        }
        RollbackResult::Failed(error) if error.ends_attempt() => return Err(error),
        RollbackResult::Failed(error) => Some(error.why_on_target()),
    })
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
