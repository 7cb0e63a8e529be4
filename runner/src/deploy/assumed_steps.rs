//! The steps that `--start-from`, `--only` and a rollback assume to be done: what later steps get of them.
//!
//! Invariant: an output recorded for one release never reaches a deployment of another one. Deliberately absent: which steps are
//! assumed to be done, which is [`Selection`](journal::decision::Selection)'s.

use serde_json::{Map, Value};

use super::{DeployOverrides, PlannedStep, PreparedPlan};
use contract::{
    diagnostic::{Diagnostic, ErrorCode},
    step::{Receipt, StepPhase},
};
use journal::{JournalState, JournalTrust, RecordStatus, decision::StepDisposition, event::Release};
use plan::DeferredLookup;

/// The receipt of a step that is assumed to be done; empty if none is recorded for the release.
pub(super) fn assumed_receipt(state: &JournalState, planned: &PlannedStep, release: &Release) -> Receipt {
    recorded_receipt(state, planned, release).cloned().unwrap_or_default()
}

/// The outputs of a step that is assumed to be done.
pub(super) fn assumed_outputs(state: &JournalState, planned: &PlannedStep, release: &Release) -> Map<String, Value> {
    assumed_receipt(state, planned, release).outputs
}

fn recorded_receipt<'s>(state: &'s JournalState, planned: &PlannedStep, release: &Release) -> Option<&'s Receipt> {
    let record = state.records.get(&planned.step_target)?;
    if record.intent.release.is_same(release) { state.authenticated_receipt(&planned.step_target) } else { None }
}

/// Refuses to assume that a step is done if a later step needs its outputs and none are recorded for this release.
pub(super) fn check_assumed_steps(
    prepared: &PreparedPlan,
    overrides: &DeployOverrides,
    state: &JournalState,
) -> Result<(), Vec<Diagnostic>> {
    if overrides.partial_option().is_none() {
        return Ok(());
    }
    let option = overrides.selection.option().map_or("limit", |(option, _)| option);
    let named_index = overrides.selection.option().and_then(|(_, named)| prepared.index(named));
    let disposition = |index: usize| overrides.selection.disposition_of(index, named_index);
    let steps = || prepared.indexed_steps();
    let is_assumed = |(index, planned): &(usize, &PlannedStep)| {
        matches!(disposition(*index), StepDisposition::AssumeDone) || !prepared.takes_part(planned)
    };
    let is_evaluated = |(index, planned): &(usize, &PlannedStep)| {
        matches!(disposition(*index), StepDisposition::Evaluate { .. }) && prepared.takes_part(planned)
    };
    let mut problems = Vec::new();
    // What a rollback never runs is not expected to have run for its release.
    for (_, assumed) in steps().filter(is_assumed).filter(|(_, planned)| !overrides.leaves_out_of_rollback(planned)) {
        if recorded_receipt(state, assumed, &prepared.release).is_some() {
            continue;
        }
        let needs = |later: &PlannedStep| needs_outputs(later, assumed) && prepared.depends_on(later, assumed);
        // A step sees what those of the targets return that take part.
        let is_covered = |later: &PlannedStep| {
            let same = steps().filter(|(_, other)| other.step.id == assumed.step.id && prepared.takes_part(other));
            !prepared.takes_part(assumed) && same.into_iter().any(|(_, other)| prepared.depends_on(later, other))
        };
        let dependent = steps().filter(is_evaluated).find(|(_, later)| needs(later) && !is_covered(later));
        if let Some((_, dependent)) = dependent {
            let (id, label) = (&assumed.step.id, &prepared.release.label);
            let message = format!(
                "step `{}` needs the outputs of `{id}` for {label}, which are not on record",
                dependent.step.id
            );
            let cause = why_not_recorded(state, assumed);
            let hint = match prepared.takes_part(assumed) {
                true => format!(
                    "`{id}` must run for {label} first: deploy without `--{option}`, or deploy with `--until {id}` first"
                ),
                false => format!("`{id}` must run for {label} first: add `{}` to `--limit`", assumed.host_name()),
            };
            problems.push(Diagnostic::new(ErrorCode::OutputsNotRecorded, message).with_cause(cause).with_hint(hint));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The outputs of a step that is not part of a rollback: the database is as the newest migration left it, whichever release that was
/// for.
pub(super) fn receipt_in_rollback(state: &JournalState, planned: &PlannedStep) -> Receipt {
    state.authenticated_receipt(&planned.step_target).cloned().unwrap_or_default()
}

/// Refuses a rollback in which a step looks up an output of one that is not part of it, if that output is not on record: the step
/// would fail when others have changed what users see.
pub(super) fn check_rollback_lookups(
    prepared: &PreparedPlan,
    overrides: &DeployOverrides,
    state: &JournalState,
) -> Result<(), Vec<Diagnostic>> {
    let named_index = overrides.selection.option().and_then(|(_, step)| prepared.index(step));
    let is_evaluated = |index: usize| {
        matches!(overrides.selection.disposition_of(index, named_index), StepDisposition::Evaluate { .. })
    };
    let evaluated = || prepared.indexed_steps().filter(|(index, _)| is_evaluated(*index));
    let mut problems = Vec::new();
    for (_, left_out) in evaluated().filter(|(_, planned)| overrides.leaves_out_of_rollback(planned)) {
        let id = &left_out.step.id;
        let recorded = state.authenticated_receipt(&left_out.step_target);
        let is_unknown = |name: &str| recorded.is_none_or(|receipt| !receipt.outputs.contains_key(name));
        for (_, later) in evaluated().filter(|(_, planned)| prepared.takes_part(planned)) {
            let Some(name) = looked_up_outputs(later, left_out).find(|name| is_unknown(name)) else { continue };
            let message = format!(
                "step `{}` looks up `steps.{id}.{name}`, which is not recorded, and a rollback does not run `{id}`",
                later.step.id
            );
            let cause = match recorded {
                Some(_) => format!("its record has no output `{name}`"),
                None => why_not_recorded(state, left_out),
            };
            let label = &prepared.release.label;
            let hint = format!(
                "deploy {label} instead, which runs `{id}`: `runner deploy --release {label}`; or remove the lookup from `{}`",
                later.step.id
            );
            problems.push(Diagnostic::new(ErrorCode::OutputsNotRecorded, message).with_cause(cause).with_hint(hint));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Whether a step cannot do without the outputs of an earlier one: it looks one up, or it works on what that one prepared. A
/// module reads the outputs of its upstream steps itself, so a prepare step counts as needed by all that change something.
fn needs_outputs(later: &PlannedStep, earlier: &PlannedStep) -> bool {
    let is_looked_up = looked_up_outputs(later, earlier).next().is_some();
    let is_prepared_for = earlier.description.phase == StepPhase::Prepare
        && later.description.phase != StepPhase::Check
        && later.upstream.contains(&earlier.step.id);
    is_looked_up || is_prepared_for
}

/// The outputs of an earlier step that a step looks up.
pub(super) fn looked_up_outputs<'p>(later: &'p PlannedStep, earlier: &'p PlannedStep) -> impl Iterator<Item = &'p str> {
    let lookups = later.step.pending.values().flat_map(|pending| pending.lookups());
    lookups.filter_map(move |lookup| match lookup {
        DeferredLookup::Output { step, name } => (*step == earlier.step.id).then_some(name.as_str()),
        DeferredLookup::RunId | DeferredLookup::RunAttempt => None,
    })
}

fn why_not_recorded(state: &JournalState, planned: &PlannedStep) -> String {
    let Some(record) = state.records.get(&planned.step_target) else { return "it never ran here".to_owned() };
    let label = &record.intent.release.label;
    match &record.status {
        RecordStatus::Succeeded(_) if record.trust == JournalTrust::Untrusted && record.is_masked() => {
            "an older runner recorded it with `***` in place of a secret".to_owned()
        }
        RecordStatus::Succeeded(_) if record.trust == JournalTrust::Untrusted => {
            "its record is unauthenticated".to_owned()
        }
        RecordStatus::Succeeded(_) => format!("it last ran for {label}, and only the last run of a step is on record"),
        RecordStatus::Intended => format!("it last ran for {label}, and its outcome is unknown"),
        RecordStatus::Failed(_) => format!("it last ran for {label}, and failed"),
        RecordStatus::Undoing(_) | RecordStatus::Reverted => format!("it last ran for {label}, and was undone"),
    }
}
