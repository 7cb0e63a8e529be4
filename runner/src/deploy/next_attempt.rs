//! What the next attempt will skip, and where it would stop, for the hint of a failed one: the decision itself says so.
//!
//! Deliberately absent: probes. What this attempt has passed held a moment ago, so a probe counts as having found it.

use super::{
    DeployOverrides, PlannedStep, PreparedPlan, assumed_steps,
    attempt::{RunningAttempt, next_header},
    error::NextAttempt,
    resolution::needed_outputs,
    resolve::{AttemptView, ResolvedStep},
};
use contract::{
    diagnostic::ExitKind,
    step::{ProbeFinding, Receipt},
};
use journal::{
    StepTarget,
    decision::{self, NextAction},
    event::{Decision, JournalHeader},
};

/// The most targets of a step that are named.
const MAX_NAMED_TARGETS: usize = 3;

/// What the next attempt does if this one ends with `exit`, after the steps of `failed` failed: which of the passed steps it does not run again, and
/// where it is certain to stop.
pub(super) async fn foresee(attempt: &RunningAttempt<'_>, exit: ExitKind, failed: &[&StepTarget]) -> NextAttempt {
    let prepared = attempt.prepared();
    let mut state = attempt.state().clone();
    if let Some(last) = state.attempts.last_mut() {
        last.exit = Some(exit);
    }
    let header = next_header(prepared, &state, state.epoch() + 1, &attempt.header.by);
    let header = JournalHeader { machine: attempt.header.machine.clone(), ..header };
    let overrides =
        DeployOverrides { journal_missing: attempt.overrides().journal_missing, ..DeployOverrides::default() };
    let is_local_state = attempt.request.is_local_state();
    let (outputs, overrides) = (&attempt.outputs, &overrides);
    let view = AttemptView { prepared, overrides, header: &header, state: &state, outputs, is_local_state };
    let mut skipped: Vec<&StepTarget> = Vec::new();
    let mut next = NextAttempt::default();
    let is_failed = |planned: &PlannedStep| failed.contains(&&planned.step_target);
    // A host that is gone is not dialed for a hint, and none is asked when time is short.
    let is_interrupted = attempt.interrupt.is_requested();
    let is_known = |planned: &&PlannedStep| {
        (outputs.contains(&planned.step_target) || is_failed(planned))
            && prepared.remote_executor(planned).is_none_or(|remote| !is_interrupted && remote.is_connected())
    };
    for planned in prepared.steps.iter().filter(is_known) {
        // A rollback is continued by another one, which leaves out the same steps.
        if attempt.overrides().leaves_out_of_rollback(planned) {
            skipped.push(&planned.step_target);
            continue;
        }
        let Ok(resolved) = view.evaluate_input(planned, false).await else { continue };
        let action = decision::decide(&view.decision_input(&resolved, None));
        if is_failed(planned) {
            next.probes_failed_step = matches!(action, NextAction::Probe(_));
            next.release_step = release_step(prepared, planned);
        } else if is_skipped(&view, &resolved) {
            skipped.push(&planned.step_target);
        }
        if next.stop.is_none()
            && let NextAction::Decided(Decision::Stop { reason }) = action
        {
            next.stop = Some((planned.step_target.clone(), reason));
            next.needed_outputs = needed_outputs(prepared, &planned.step.id).into_iter().collect();
        }
    }
    next.skipped_steps = names(prepared, &skipped);
    next
}

/// The step that installs the release whose outputs a step looks up.
fn release_step(prepared: &PreparedPlan, later: &PlannedStep) -> Option<String> {
    let mut installers =
        prepared.steps.iter().filter(|earlier| earlier.description.behaviors.installs_releases.is_some());
    let installer = installers.find(|earlier| assumed_steps::looked_up_outputs(later, earlier).next().is_some())?;
    Some(installer.step.id.to_string())
}

/// The names of steps; with the target, where a step is not skipped on each of its targets.
fn names(prepared: &PreparedPlan, skipped: &[&StepTarget]) -> Vec<String> {
    let mut names = Vec::new();
    for of_step in skipped.chunk_by(|one, other| one.step == other.step) {
        let id = &of_step[0].step;
        let all = prepared.steps.iter().filter(|planned| planned.step.id == *id).count();
        match of_step.len() {
            count if count == all => names.push(id.to_string()),
            count if count > MAX_NAMED_TARGETS => names.push(format!("{id} on {count} of {all} hosts")),
            _ => names.extend(of_step.iter().map(|skipped| format!("{id} on {}", skipped.target))),
        }
    }
    names
}

fn is_skipped(view: &AttemptView<'_>, resolved: &ResolvedStep<'_>) -> bool {
    let held = ProbeFinding::Held { receipt: Receipt::default() };
    let mut next = decision::decide(&view.decision_input(resolved, None));
    if let NextAction::Probe(_) = next {
        next = decision::decide(&view.decision_input(resolved, Some(&held)));
    }
    match next {
        NextAction::Decided(Decision::Skip { .. } | Decision::Adopt { .. }) => true,
        NextAction::Decided(Decision::Run { .. } | Decision::Stop { .. })
        | NextAction::Probe(_)
        | NextAction::FinishUndo => false,
    }
}
