//! Previews a deployment: decides by the same table, and asks the modules for their changes.
//!
//! It takes no lock and writes nothing. If a step depends on outputs that do not exist yet, the preview says so. A step whose effect is
//! missing is expected to return what it returned for the same input before. Behind a step that stops, nothing is foretold.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    AttemptError, DeployOverrides, PlannedStep, PreparedPlan,
    assumed_steps::{assumed_outputs, check_assumed_steps},
    attempt,
    conclusion::redacted,
    error::{NextAttempt, ResumeHint},
    fingerprint::UPSTREAM,
    outputs::StepOutputs,
    request::is_local_state,
    resolve::{AttemptView, ResolvedStep},
};
use contract::{
    MachineId, StepId, TargetName,
    diagnostic::{Diagnostic, ErrorCode},
    step::{ProbeFinding, StepFailure, StepPhase},
};
use journal::{
    JournalState, StepTarget,
    decision::{self, DecisionInput, NextAction, StepDisposition},
    event::{Decision, DecisionReason, JournalHeader},
};
use sandbox::{CallChannel, PreviewChange};
use state::StateStore;

/// The preview of one step.
#[derive(Debug)]
pub struct StepPreview {
    pub step_target: StepTarget,
    pub phase: StepPhase,
    /// The expected decision; none if it is not known yet.
    pub decision: Option<Decision>,
    /// The changes that the step would make if it ran.
    pub changes: Vec<PreviewChange>,
    /// The reason why the decision or the changes are not known.
    pub unknown_reason: Option<String>,
}

/// Previews every step.
///
/// # Errors
/// The errors that would keep a deployment from beginning.
pub async fn preview_deployment(
    prepared: &PreparedPlan,
    store: &StateStore,
    overrides: &DeployOverrides,
    machine: Option<MachineId>,
) -> Result<(JournalHeader, Vec<StepPreview>), Vec<Diagnostic>> {
    overrides.check_named_steps(prepared)?;
    let state = store.load(|_| {}).map_err(|error| vec![(&error).into()])?.state;
    check_assumed_steps(prepared, overrides, &state)?;
    prepared.check_code()?;
    check_migration_files(prepared, &state).await?;
    let epoch = state.epoch() + 1;
    let header = JournalHeader { machine, ..attempt::next_header(prepared, &state, epoch, "preview") };
    let is_local_state = is_local_state(store);
    let named_index = overrides.selection.option().and_then(|(_, step)| prepared.index(step));
    let left_behind: BTreeSet<TargetName> = prepared.left_behind().into_keys().collect();
    let mut outputs = StepOutputs::default();
    let mut running = BTreeSet::new();
    let mut stop: Option<StepTarget> = None;
    let mut previews = Vec::new();
    for (index, of_step) in prepared.steps_on_targets() {
        let disposition = overrides.selection.disposition_of(index, named_index);
        if let (Some(stop), StepDisposition::Evaluate { .. }) = (&stop, disposition) {
            let why = Some(format!("the deployment would stop at {stop}"));
            previews
                .extend(of_step.iter().map(|planned| StepPreview { unknown_reason: why.clone(), ..empty(planned) }));
            continue;
        }
        let attempt =
            AttemptView { prepared, overrides, header: &header, state: &state, outputs: &outputs, is_local_state };
        let view = PreviewView { attempt, running: &running };
        // All hosts are asked at once.
        let of_targets =
            of_step.iter().map(async |planned| preview_target(&view, planned, disposition, &left_behind).await);
        let of_targets = futures_util::future::join_all(of_targets).await;
        for (planned, preview) in of_step.iter().zip(of_targets) {
            let (preview, known) = preview?;
            if let Some(known) = known {
                outputs.insert(&planned.step_target, known);
            }
            match &preview.decision {
                Some(Decision::Run { .. }) => {
                    running.insert(planned.step_target.clone());
                }
                Some(Decision::Stop { .. }) => stop = stop.or_else(|| Some(planned.step_target.clone())),
                Some(Decision::Skip { .. } | Decision::Adopt { .. }) | None => {}
            }
            previews.push(preview);
        }
    }
    Ok((header, previews))
}

/// What is known of the attempt when a step is previewed.
struct PreviewView<'a> {
    attempt: AttemptView<'a>,
    /// The steps before it that would run.
    running: &'a BTreeSet<StepTarget>,
}

/// A preview that says nothing yet.
fn empty(planned: &PlannedStep) -> StepPreview {
    StepPreview {
        step_target: planned.step_target.clone(),
        phase: planned.description.phase,
        decision: None,
        changes: Vec::new(),
        unknown_reason: None,
    }
}

/// The preview of a step on a target, and its outputs, if they are known.
async fn preview_target(
    view: &PreviewView<'_>,
    planned: &PlannedStep,
    disposition: StepDisposition,
    left_behind: &BTreeSet<TargetName>,
) -> Result<(StepPreview, Option<Map<String, Value>>), Vec<Diagnostic>> {
    let mut preview = empty(planned);
    let mut outputs = None;
    let prepared = view.attempt.prepared;
    if !prepared.takes_part(planned) {
        preview.unknown_reason = Some("not selected".to_owned());
        let recorded = assumed_outputs(view.attempt.state, planned, &view.attempt.header.release);
        return Ok((preview, (!recorded.is_empty()).then_some(recorded)));
    }
    let is_possible = |step: &&PlannedStep| !left_behind.contains(&step.host_name()) && prepared.can_call(step);
    let Some(planned) = std::iter::once(planned).chain(&planned.stand_ins).find(is_possible) else {
        preview.unknown_reason = Some("the host would be left behind".to_owned());
        return Ok((preview, None));
    };
    match disposition {
        StepDisposition::Exclude => preview.unknown_reason = Some("not selected".to_owned()),
        StepDisposition::AssumeDone => {
            preview.decision =
                Some(Decision::Skip { reason: DecisionReason::RequestedByOperator, receipt: Default::default() });
            outputs = Some(assumed_outputs(view.attempt.state, planned, &view.attempt.header.release));
        }
        StepDisposition::Evaluate { selected_by_name } => {
            outputs = preview_step(view, planned, selected_by_name, &mut preview).await?;
        }
    }
    Ok((preview, outputs))
}

/// Previews a step, and returns its outputs, if they are known.
async fn preview_step(
    view: &PreviewView<'_>,
    planned: &PlannedStep,
    selected_by_name: bool,
    preview: &mut StepPreview,
) -> Result<Option<Map<String, Value>>, Vec<Diagnostic>> {
    let PreviewView { attempt: view, running } = view;
    let names = |is_meant: &dyn Fn(&StepTarget) -> bool| {
        let targets = view.prepared.upstream_targets(planned).filter(|step_target| is_meant(step_target));
        let mut names: Vec<&StepId> = targets.map(|step_target| &step_target.step).collect();
        names.dedup();
        names
    };
    let missing = names(&|step_target| !view.outputs.contains(step_target));
    let running = names(&|step_target| running.contains(step_target));
    // What a step will do may be needed besides its outputs.
    let unsettled = if missing.is_empty() { &running } else { &missing };
    let known_later = || Some(format!("it is known after {}", join_step_names(unsettled)));
    let resolved = match view.evaluate_input(planned, selected_by_name).await {
        Ok(resolved) => resolved,
        Err(_) if !unsettled.is_empty() => {
            preview.unknown_reason = known_later();
            return Ok(None);
        }
        Err(AttemptError::Plan(diagnostic)) => return Err(vec![diagnostic]),
        Err(error) => {
            let next = NextAttempt::default();
            let resume_hint = ResumeHint {
                resume_command: "runner plan",
                resolve_command: None,
                has_checkpoints: false,
                next: &next,
            };
            let diagnostic = error.diagnostic(view.header.attempt, &resume_hint);
            return Err(vec![redacted(diagnostic, &view.prepared.redactor)]);
        }
    };
    if !missing.is_empty() && depends_on_outputs(view, &resolved) {
        preview.unknown_reason = known_later();
        return Ok(None);
    }
    let decision = foresee_decision(view, &resolved, !running.is_empty()).await;
    if matches!(decision, Decision::Run { .. }) {
        let executor = view.prepared.executor(planned);
        match executor.preview(&planned.step, &resolved.input, CallChannel::unobserved()).await {
            Ok(changes) => preview.changes = changes,
            Err(failure) if unsettled.is_empty() => preview.unknown_reason = Some(why_no_preview(planned, failure)),
            Err(_) => preview.unknown_reason = known_later(),
        }
    }
    let outputs = foreseen_outputs(view, &resolved, &decision);
    preview.decision = Some(decision);
    Ok(outputs)
}

/// Checks the files of migrations as the deployment does. A database that can't be reached is no reason to show no preview.
async fn check_migration_files(prepared: &PreparedPlan, state: &JournalState) -> Result<(), Vec<Diagnostic>> {
    let Err(mut found) = prepared.check_migrations(Some(state)).await else { return Ok(()) };
    found.retain(|problem| matches!(problem.code, ErrorCode::InputUnreadable | ErrorCode::UnsafeMigration));
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// Whether only outputs of earlier steps, which are not known yet, decide whether the step runs.
fn depends_on_outputs(view: &AttemptView<'_>, resolved: &ResolvedStep<'_>) -> bool {
    let is_changed = |input: &DecisionInput<'_>| {
        matches!(decision::decide(input), NextAction::Decided(Decision::Run { reason: DecisionReason::Changed { .. } }))
    };
    let input = view.decision_input(resolved, None);
    let Some(record) = input.record else { return false };
    let mut as_before = resolved.fingerprint.clone();
    if let Some(recorded) = record.intent.fingerprint.0.get(UPSTREAM) {
        as_before.0.insert(UPSTREAM.to_owned(), *recorded);
    }
    is_changed(&input) && !is_changed(&DecisionInput { fingerprint: &as_before, ..input })
}

/// The decision that the deployment would make, by the same table and with probes.
async fn foresee_decision(view: &AttemptView<'_>, resolved: &ResolvedStep<'_>, upstream_runs: bool) -> Decision {
    let planned = resolved.planned;
    let mut finding: Option<ProbeFinding> = None;
    loop {
        let mut input = view.decision_input(resolved, finding.as_ref());
        input.upstream_ran |= upstream_runs;
        match decision::decide(&input) {
            NextAction::Probe(probe_input) => {
                let input = resolved.probed_input(probe_input, view.state);
                let executor = view.prepared.executor(planned);
                let found = executor.probe(&planned.step, input, CallChannel::unobserved()).await;
                finding = Some(view.prepared.redactor.scanner().admit_finding(found));
            }
            NextAction::FinishUndo => return Decision::Run { reason: DecisionReason::UndoUnfinished },
            NextAction::Decided(decision) => return decision,
        }
    }
}

/// The reason why a module could not preview its changes.
fn why_no_preview(planned: &PlannedStep, failure: StepFailure) -> String {
    match planned.step.grants.dirs.iter().find(|(_, grant)| !grant.path.exists()) {
        Some((name, grant)) => {
            format!("directory `{name}` ({}) does not exist yet; the deployment creates it", grant.path.display())
        }
        None => failure.message,
    }
}

/// Joins step names for a message: `pull`, `migrate` and `switch`.
fn join_step_names(steps: &[&StepId]) -> String {
    let names: Vec<_> = steps.iter().map(|step| format!("`{step}`")).collect();
    match names.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        Some(_) | None => names.concat(),
    }
}

/// The outputs that later steps would see: those on record if the step would be skipped or adopted, or if it would only bring back an
/// effect that is missing.
fn foreseen_outputs(
    view: &AttemptView<'_>,
    resolved: &ResolvedStep<'_>,
    decision: &Decision,
) -> Option<Map<String, Value>> {
    match decision {
        Decision::Skip { receipt, .. } | Decision::Adopt { receipt, .. } => Some(receipt.outputs.clone()),
        Decision::Run { reason: DecisionReason::Absent } => {
            let step_target = &resolved.planned.step_target;
            let record = view.state.records.get(step_target)?;
            let is_same = record.intent.fingerprint.difference(&resolved.fingerprint).is_empty();
            view.state.authenticated_receipt(step_target).filter(|_| is_same).map(|receipt| receipt.outputs.clone())
        }
        Decision::Run { .. } | Decision::Stop { .. } => None,
    }
}
