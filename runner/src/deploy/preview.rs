//! What a deployment would do, found out without doing it: decisions by the same table, previews by the modules. Takes no
//! lock and writes nothing. What depends on the outputs of a step that would run is a guess, and said to be one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokio::sync::mpsc::unbounded_channel;

use super::{
    AttemptError, DeployOverrides, PlannedStep, PreparedPlan, attempt, error::ResumeHint, resolve::AttemptView,
};
use contract::{
    StepId,
    diagnostic::Diagnostic,
    step::{ProbeFinding, StepFailure, StepPhase},
};
use journal::{
    JournalState, LoadedJournals, StepTarget,
    decision::{self, NextAction, StepDisposition},
    event::{Decision, DecisionReason, JournalHeader, ProbeInput},
};
use sandbox::PreviewChange;
use state::StateStore;

/// What is foreseen for one step.
#[derive(Debug)]
pub struct StepPreview {
    pub step_target: StepTarget,
    pub phase: StepPhase,
    /// What would be decided; none when it is not known yet.
    pub decision: Option<Decision>,
    /// What the step would do if it ran.
    pub changes: Vec<PreviewChange>,
    /// Why something is not known.
    pub unknown_reason: Option<String>,
}

/// Foresees every step.
///
/// # Errors
/// What keeps a deployment from beginning.
pub async fn preview_deployment(
    prepared: &PreparedPlan,
    store: &StateStore,
    overrides: &DeployOverrides,
) -> Result<(JournalHeader, Vec<StepPreview>), Vec<Diagnostic>> {
    let paths = store.journal_paths().map_err(|error| vec![(&error).into()])?;
    let state = LoadedJournals::read(&paths, |_| {}).map_err(|error| vec![(&error).into()])?.state;
    let epoch = state.epoch() + 1;
    let header = attempt::next_header(prepared, &state, epoch, "preview");
    let named_index = overrides.selection.option().and_then(|(_, step)| prepared.index(step));
    let mut outputs = BTreeMap::new();
    let mut previews = Vec::new();
    for (index, ready) in prepared.steps.iter().enumerate() {
        let view = AttemptView { prepared, overrides, header: &header, state: &state, outputs: &outputs };
        let mut preview = StepPreview {
            step_target: ready.step_target.clone(),
            phase: ready.description.phase,
            decision: None,
            changes: Vec::new(),
            unknown_reason: None,
        };
        match overrides.selection.disposition_of(index, named_index) {
            StepDisposition::Exclude => preview.unknown_reason = Some("not selected".to_owned()),
            StepDisposition::AssumeDone => {
                preview.decision =
                    Some(Decision::Skip { reason: DecisionReason::RequestedByOperator, receipt: Default::default() });
            }
            StepDisposition::Evaluate { selected_by_name: named } => {
                preview_step(&view, ready, named, &mut preview).await?
            }
        }
        if let Some(known) = outputs_if_skipped(&state, ready, preview.decision.as_ref()) {
            outputs.insert(ready.step.id.clone(), known);
        }
        previews.push(preview);
    }
    Ok((header, previews))
}

async fn preview_step(
    view: &AttemptView<'_>,
    planned: &PlannedStep,
    named: bool,
    preview: &mut StepPreview,
) -> Result<(), Vec<Diagnostic>> {
    let is_missing = |step: &&StepId| planned.upstream.contains(*step) && !view.outputs.contains_key(*step);
    let missing: Vec<&StepId> = view.prepared.steps.iter().map(|ready| &ready.step.id).filter(is_missing).collect();
    let resolved = match view.evaluate_input(planned, named) {
        Ok(asked) => asked,
        Err(_) if !missing.is_empty() => {
            preview.unknown_reason = Some(format!("it depends on the outcome of {}", join_step_names(&missing)));
            return Ok(());
        }
        Err(AttemptError::Plan(diagnostic)) => return Err(vec![diagnostic]),
        Err(halt) => {
            let resume_hint = ResumeHint { resume_command: "runner plan", skipped_steps: &[], next_step: None };
            return Err(vec![halt.diagnostic(view.header.attempt, &resume_hint)]);
        }
    };
    let runtime = &view.prepared.runtime;
    let module = view.prepared.module(planned);
    let mut finding: Option<ProbeFinding> = None;
    let decision = loop {
        match decision::decide(&view.decision_input(&resolved, finding.as_ref())) {
            NextAction::Probe(question) => {
                let recorded =
                    view.state.records.get(&planned.step_target).filter(|_| question == ProbeInput::Recorded);
                let input = recorded.map_or(&resolved.input, |record| &record.intent.input);
                finding = Some(runtime.probe(module, &planned.step, input, unbounded_channel().0).await);
            }
            NextAction::FinishUndo => break Decision::Run { reason: DecisionReason::UndoUnfinished },
            NextAction::Decided(decision) => break decision,
        }
    };
    if matches!(decision, Decision::Run { .. }) {
        match runtime.preview(module, &planned.step, &resolved.input, unbounded_channel().0).await {
            Ok(changes) => preview.changes = changes,
            Err(StepFailure { message, .. }) if missing.is_empty() => {
                let to_be_made = planned.step.grants.dirs.iter().find(|(_, grant)| !grant.path.exists());
                preview.unknown_reason = Some(match to_be_made {
                    Some((name, grant)) => {
                        format!(
                            "directory `{name}` ({}) does not exist yet; the deployment creates it",
                            grant.path.display()
                        )
                    }
                    None => message,
                });
            }
            Err(_) => {
                preview.unknown_reason = Some(format!("it depends on the outcome of {}", join_step_names(&missing)))
            }
        }
    }
    preview.decision = Some(decision);
    Ok(())
}

/// `pull` and `migrate`.
fn join_step_names(steps: &[&StepId]) -> String {
    steps.iter().map(|step| format!("`{step}`")).collect::<Vec<_>>().join(" and ")
}

/// What later steps would see: what is on record, if the step would be skipped.
fn outputs_if_skipped(
    state: &JournalState,
    planned: &PlannedStep,
    decision: Option<&Decision>,
) -> Option<Map<String, Value>> {
    match decision {
        Some(Decision::Skip { reason: DecisionReason::RequestedByOperator, .. }) => Some(
            state
                .authenticated_receipt(&planned.step_target)
                .map(|receipt| receipt.outputs.clone())
                .unwrap_or_default(),
        ),
        Some(Decision::Skip { receipt, .. } | Decision::Adopt { receipt, .. }) => Some(receipt.outputs.clone()),
        Some(Decision::Run { .. } | Decision::Stop { .. }) | None => None,
    }
}
