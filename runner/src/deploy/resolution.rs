//! An operator's word on a step that the runner can't finish: an attempt of its own that runs nothing.
//!
//! It takes the lock, checks that the step's record allows what the operator says, and records it with who and why. The run stays
//! unfinished, so the next deployment continues it. Deliberately absent: any call of the module but its probe, which may know the
//! outputs of a step that is done.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Map, Value};

use super::PreparedPlan;
use contract::{
    MachineId, StepId,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    step::{ProbeFinding, Receipt},
};
use journal::{
    Journal, JournalState, RecordStatus, StepRecord, StepTarget,
    event::{FORMAT, JournalHeader, MAGIC, Resolution},
    file::JournalNote,
    state::AttemptSummary,
};
use plan::{DeferredLookup, closest_match};
use sandbox::{CallChannel, ProbeStrength};
use state::{LockRequest, LockWait, StateStore};

/// How long the end may take to reach a remote state.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the operator says of the step.
#[derive(Clone, Debug, PartialEq)]
pub enum StatedOutcome {
    /// Its effect is there and stays, with these outputs if the operator states some.
    Done { outputs: Option<Map<String, Value>> },
    /// Its effect is gone.
    Undone,
    /// It had no effect.
    NotBegun,
}

/// What to record.
pub struct ResolutionRequest<'a> {
    pub store: &'a StateStore,
    /// The plan, prepared for the release of the step's record.
    pub prepared: &'a PreparedPlan,
    pub step_target: StepTarget,
    pub outcome: StatedOutcome,
    pub message: String,
    /// `user@host`.
    pub operator: String,
    /// The page of the CI job, if it is one.
    pub url: Option<String>,
    /// The identity of this machine, if it has one.
    pub machine: Option<MachineId>,
    /// How long to wait for another deployment.
    pub wait: LockWait,
}

/// What was recorded.
#[derive(Debug)]
pub struct StepResolution {
    pub step_target: StepTarget,
    pub resolution: Resolution,
    pub epoch: u64,
}

/// Records what an operator says of a step.
///
/// # Errors
/// P0230 when the step's record does not allow it, P0231 when a later step needs outputs that nobody knows, and whatever keeps an
/// attempt from beginning or ending.
pub async fn resolve_step(request: ResolutionRequest<'_>) -> Result<StepResolution, Diagnostic> {
    let ResolutionRequest { store, prepared, step_target, operator, .. } = &request;
    let lock_request = LockRequest {
        by: operator.clone(),
        url: request.url.clone(),
        purpose: None,
        wait: request.wait,
        observer: None,
    };
    let mut lock = store.acquire_lock(lock_request).await.map_err(|error| Diagnostic::from(&error))?;
    let loaded = store.load(|_| {}).map_err(|error| Diagnostic::from(&error))?;
    let (Some(record), Some(last)) = (loaded.state.records.get(step_target), loaded.state.attempts.last()) else {
        return Err(no_record_error(&loaded.state, step_target));
    };
    let resolution = resolution(&request, record).await?;

    let epoch = lock.next_epoch(loaded.state.epoch()).map_err(|error| Diagnostic::from(&error))?;
    store.record_loaded(&loaded, lock.staging()).map_err(|error| Diagnostic::from(&error))?;
    let (header, exit) = (header(&request, last, epoch), end_of_run(last));
    let verified = last.verified && resolution != Resolution::Undone;
    let redactor = prepared.redactor.clone();
    let path = store.journal_path(epoch);
    let written = async {
        let mut journal = Journal::create_staged(lock.staging(), &path, header, loaded, redactor, Box::new(|_| {}))?;
        journal.record_note(JournalNote::Lock { resource: lock.resource(), holder: lock.holder() })?;
        journal.record_resolution(step_target, resolution.clone(), operator, &request.message)?;
        journal.record_end(exit, verified)?;
        Ok(journal)
    };
    let journal = written.await.map_err(|error: journal::JournalError| Diagnostic::from(&error))?;
    store.record_ended(journal.state(), lock.staging()).map_err(|error| Diagnostic::from(&error))?;
    lock.sync_journal(&path).await.map_err(|error| Diagnostic::from(&error))?;
    lock.close(CLOSE_TIMEOUT).await.map_err(|error| Diagnostic::from(&error))?;
    Ok(StepResolution { step_target: step_target.clone(), resolution, epoch })
}

/// What to record, if the step's record allows it.
async fn resolution(request: &ResolutionRequest<'_>, record: &StepRecord) -> Result<Resolution, Diagnostic> {
    let ResolutionRequest { step_target, outcome, .. } = request;
    let stated = match outcome {
        StatedOutcome::Done { .. } => Resolution::Done { receipt: Receipt::default() },
        StatedOutcome::Undone => Resolution::Undone,
        StatedOutcome::NotBegun => Resolution::NotBegun,
    };
    if !record.status.can_be_resolved_as(&stated) {
        if let (RecordStatus::Succeeded(_), StatedOutcome::Done { outputs: None }) = (&record.status, outcome) {
            return match probe(request, record).await {
                Some(ProbeFinding::Drifted { why }) => Err(drifted_error(step_target, &why)),
                Some(
                    ProbeFinding::Held { .. }
                    | ProbeFinding::Absent
                    | ProbeFinding::Unknown { .. }
                    | ProbeFinding::Failed { .. },
                )
                | None => Ok(Resolution::Confirmed),
            };
        }
        return Err(not_resolvable_error(step_target, &record.status, &stated));
    }
    let StatedOutcome::Done { outputs } = outcome else { return Ok(stated) };
    if let Some(outputs) = outputs {
        let receipt = Receipt { outputs: outputs.clone(), notes: Map::new() };
        return Ok(Resolution::Done { receipt });
    }
    if let RecordStatus::Undoing(Some(receipt)) = &record.status {
        return Ok(Resolution::Done { receipt: receipt.clone() });
    }
    let finding = probe(request, record).await;
    if let Some(ProbeFinding::Held { receipt }) = finding {
        return Ok(Resolution::Done { receipt });
    }
    let needed = needed_outputs(request.prepared, &step_target.step);
    if needed.is_empty() {
        return Ok(stated);
    }
    let names: Vec<_> = needed.iter().map(|name| format!("`{name}`")).collect();
    let options: Vec<_> = needed.iter().map(|name| format!("--output {name}=VALUE")).collect();
    let message = format!("later steps need the outputs {} of step {step_target}", names.join(", "));
    Err(Diagnostic::new(ErrorCode::OutputsUnknown, message)
        .with_cause("the step's probe does not find its effect, so its outputs are unknown")
        .with_hint(format!("add `{}`", options.join(" "))))
}

/// Calls the step's probe with the recorded input. `None` if the plan does not have the step, or the module has no probe.
async fn probe(request: &ResolutionRequest<'_>, record: &StepRecord) -> Option<ProbeFinding> {
    let planned = request.prepared.steps.iter().find(|planned| planned.step_target == request.step_target)?;
    let input = &record.intent.input;
    if planned.description.probe_strength(&input["config"]) == ProbeStrength::None {
        return None;
    }
    Some(request.prepared.executor(planned).probe(&planned.step, input, CallChannel::unobserved()).await)
}

/// The outputs of a step that later steps look up.
pub(super) fn needed_outputs(prepared: &PreparedPlan, step: &StepId) -> BTreeSet<String> {
    let pending = prepared.steps.iter().flat_map(|planned| planned.step.pending.values());
    let name = |lookup: &DeferredLookup| match lookup {
        DeferredLookup::Output { step: of, name } if of == step => Some(name.clone()),
        DeferredLookup::Output { .. } | DeferredLookup::RunId | DeferredLookup::RunAttempt => None,
    };
    pending.flat_map(|value| value.lookups().filter_map(name).collect::<Vec<_>>()).collect()
}

fn header(request: &ResolutionRequest<'_>, last: &AttemptSummary, epoch: u64) -> JournalHeader {
    JournalHeader {
        magic: MAGIC.to_owned(),
        format: FORMAT,
        attempt: last.header.attempt.next(),
        epoch,
        machine: request.machine.clone(),
        runner: env!("CARGO_PKG_VERSION").to_owned(),
        by: request.operator.clone(),
        url: request.url.clone(),
        ..last.header.clone()
    }
}

/// The run is as finished as it was.
fn end_of_run(last: &AttemptSummary) -> ExitKind {
    match last.exit {
        Some(ExitKind::RolledBack) => ExitKind::RolledBack,
        Some(_) | None => ExitKind::Success,
    }
}

fn no_record_error(state: &JournalState, step_target: &StepTarget) -> Diagnostic {
    let names = state.records.keys().map(|record| record.step.as_str());
    let hint = match closest_match(step_target.step.as_str(), names) {
        Some(near) if near != step_target.step.as_str() => format!("did you mean `{near}`?"),
        Some(_) | None => "`runner status --steps` shows the steps and their states".to_owned(),
    };
    let known: Vec<_> = state.records.keys().map(ToString::to_string).collect();
    let known = match known.is_empty() {
        true => "nothing was deployed here yet".to_owned(),
        false => format!("on record: {}", known.join(", ")),
    };
    Diagnostic::new(ErrorCode::NotResolvable, format!("there is no record of step {step_target}"))
        .with_cause(known)
        .with_hint(hint)
}

/// An operator's word does not stand against a probe that sees what is there.
fn drifted_error(step_target: &StepTarget, why: &str) -> Diagnostic {
    Diagnostic::new(ErrorCode::NotResolvable, format!("step {step_target} cannot be resolved as done"))
        .with_cause(format!("its probe reports: {why}"))
        .with_hint(format!(
            "undo the change, then deploy; or deploy with `--accept-drift {}`, which runs the step again",
            step_target.step
        ))
}

fn not_resolvable_error(step_target: &StepTarget, status: &RecordStatus, stated: &Resolution) -> Diagnostic {
    const NOTHING_TO_RESOLVE: &str = "there is nothing to resolve: the next deployment runs it";
    let (state, hint) = match status {
        RecordStatus::Intended => {
            ("was begun, and its outcome is unknown", "you can use `--as done`, `undone` or `not-begun`")
        }
        RecordStatus::Undoing(_) => ("is being rolled back", "you can use `--as done` or `undone`"),
        RecordStatus::Succeeded(_) => ("is done", "you can use `--as done` without `--output`, or `undone`"),
        RecordStatus::Failed(_) => ("failed", NOTHING_TO_RESOLVE),
        RecordStatus::Reverted => ("was undone", NOTHING_TO_RESOLVE),
    };
    let stated = match stated {
        Resolution::Done { .. } | Resolution::Confirmed => "done",
        Resolution::Undone => "undone",
        Resolution::NotBegun => "not-begun",
    };
    Diagnostic::new(ErrorCode::NotResolvable, format!("step {step_target} cannot be resolved as {stated}"))
        .with_cause(format!("its record says that it {state}"))
        .with_hint(hint)
}
