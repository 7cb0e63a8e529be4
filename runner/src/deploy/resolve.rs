//! Resolves a step for one attempt: its configuration, fingerprint, input, and the input of its decision.
//!
//! The deployment and its preview share this code.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    AttemptError, DeployOverrides, PlannedStep, PreparedPlan,
    fingerprint::{FingerprintParts, compute_fingerprint, input_hash},
    outputs::StepOutputs,
    preflight::input_problem,
};
use contract::{
    AppName, EnvironmentName, StepId,
    diagnostic::ErrorCode,
    hash::{Blake3Hash, InputHash},
    step::{ProbeFinding, StepPhase},
};
use journal::{
    JournalState, StepTarget,
    decision::{self, DecisionInput, HostOutcome, ModuleOrigin, ProbeSupport, RerunSafety},
    event::{Fingerprint, JournalHeader, ProbeInput, Release},
};
use plan::{EffectPlace, ModuleRef};
use sandbox::ProbeStrength;

/// The identity of a history: a hash of its first attempt. It is the same on every machine, and a new state has a new
/// one. Epochs of different lineages cannot be compared.
#[must_use]
pub fn lineage(app: &AppName, environment: &EnvironmentName, state: &JournalState) -> String {
    let first = state.first_attempt.as_ref().map(|first| (&first.run, first.started_at));
    Blake3Hash::of(format!("{app}/{environment} {first:?}").as_bytes()).hex_prefix(8)
}

/// The hashes of the files that a step depends on.
pub(super) async fn input_hashes(
    prepared: &PreparedPlan,
    planned: &PlannedStep,
    config: &Value,
) -> Result<BTreeMap<String, InputHash>, AttemptError> {
    let step = &planned.step;
    let inputs = prepared.executor(planned).input_hashes(step, &planned.description, config).await;
    inputs.map_err(|error| {
        let message = format!("can't read an input of step `{}`", step.id);
        let (label, hint) = ("this step depends on it", Some(error.hint()));
        let diagnostic = prepared.plan.error_at(ErrorCode::InputUnreadable, step.span.clone(), message, label, hint);
        AttemptError::Plan(diagnostic.with_cause(error))
    })
}

/// The data of an attempt that a step depends on.
#[derive(Clone, Copy)]
pub(super) struct AttemptView<'a> {
    pub(super) prepared: &'a PreparedPlan,
    pub(super) overrides: &'a DeployOverrides,
    pub(super) header: &'a JournalHeader,
    pub(super) state: &'a JournalState,
    pub(super) outputs: &'a StepOutputs,
    /// Whether the state never leaves this machine.
    pub(super) is_local_state: bool,
}

/// A step whose configuration, fingerprint and input are computed for this attempt.
pub(super) struct ResolvedStep<'a> {
    pub(super) planned: &'a PlannedStep,
    pub(super) input: Value,
    pub(super) key: String,
    pub(super) fingerprint: Fingerprint,
    /// Whether the operator named it, so that it is not skipped.
    pub(super) selected_by_name: bool,
    /// The release that it acts for, if that is not the attempt's.
    pub(super) for_release: Option<Release>,
    /// What its host recorded of the call that the record is about.
    pub(super) host_outcome: Option<HostOutcome>,
}

impl ResolvedStep<'_> {
    /// The input for a probe.
    pub(super) fn probed_input<'s>(&'s self, probe_input: ProbeInput, state: &'s JournalState) -> &'s Value {
        match (probe_input, state.records.get(&self.planned.step_target)) {
            (ProbeInput::Recorded, Some(record)) => &record.intent.input,
            (ProbeInput::Recorded, None) | (ProbeInput::Current, _) => &self.input,
        }
    }
}

impl<'a> AttemptView<'a> {
    /// Resolves a step: computes its configuration, fingerprint, idempotency key and input.
    pub(super) async fn evaluate_input<'r>(
        &self,
        planned: &'r PlannedStep,
        selected_by_name: bool,
    ) -> Result<ResolvedStep<'r>, AttemptError> {
        let config = self.resolve_config(planned)?;
        let inputs = input_hashes(self.prepared, planned, &config).await?;
        self.resolve(planned, config, inputs, selected_by_name)
    }

    /// Resolves a step whose configuration and inputs are known.
    pub(super) fn resolve<'r>(
        &self,
        planned: &'r PlannedStep,
        config: Value,
        mut inputs: BTreeMap<String, InputHash>,
        selected_by_name: bool,
    ) -> Result<ResolvedStep<'r>, AttemptError> {
        let step = &planned.step;
        let scanner = self.prepared.redactor.scanner();
        // A value that only explains a change must not make a deployment fail.
        for input in inputs.values_mut() {
            if input.files.keys().any(|path| scanner.find_in_text(path).is_some()) {
                input.files.clear();
            }
        }
        let upstream = self.outputs.seen_from(&planned.step_target.target, |id| planned.upstream.contains(id));
        let plan = &self.prepared.plan;
        let header = self.header;
        let fingerprint = compute_fingerprint(FingerprintParts {
            module: &planned.module_digest,
            contract_version: &planned.contract_version,
            config: &config,
            inputs,
            grants: &step.grants,
            folder: &plan.source.folder,
            target: &planned.step_target.target,
            upstream: &upstream,
            release: &header.release,
        });
        let StepTarget { step: id, target } = &planned.step_target;
        let key = format!("{} {id} {target} {}", header.run, fingerprint.digest());
        let key = Blake3Hash::of(key.as_bytes()).hex_prefix(16);
        let input = self.input(planned, &key, &fingerprint, config, &upstream);
        // Outputs of earlier steps may make a secret of values that were none in the plan.
        let redactor = &self.prepared.redactor;
        if let Some(found) = redactor.scanner().find_in_input(&input) {
            return Err(AttemptError::Plan(input_problem(plan, planned, &found, redactor)));
        }
        let recorded = self.state.records.get(&planned.step_target);
        let host_outcome = self
            .prepared
            .remote_executor(planned)
            .zip(recorded)
            .and_then(|(remote, record)| remote.recall(&planned.step_target, &record.intent));
        let for_release = None;
        Ok(ResolvedStep { planned, input, key, fingerprint, selected_by_name, for_release, host_outcome })
    }

    /// The input object of each call of the step's module (docs/steps.md).
    fn input(
        &self,
        planned: &PlannedStep,
        key: &str,
        fingerprint: &Fingerprint,
        config: Value,
        upstream: &BTreeMap<StepId, Map<String, Value>>,
    ) -> Value {
        let header = self.header;
        let target = &planned.step_target.target;
        let mut input = json!({
            "app": header.app,
            "environment": header.environment,
            "run": header.run,
            "attempt": header.attempt,
            "step": planned.step_target.step,
            "target": target,
            "key": key,
            "input-hash": input_hash(fingerprint),
            "config": config,
            "release": header.release,
            "outputs": upstream,
            "epoch": header.epoch,
            "lineage": lineage(&header.app, &header.environment, self.state),
            "timeout-ms": u64::try_from(planned.step.timeout.as_millis()).unwrap_or(u64::MAX),
            "head": { "live": self.state.live_before(target, &header.run, &header.release) },
        });
        if let Some(host) = &planned.step.host {
            input["host"] = json!({ "name": host.name, "address": host.address.host() });
        }
        input
    }

    /// The input of a rehearsal: what later commit steps return is not known yet, so values that need it are null.
    pub(super) fn rehearsal_input(&self, planned: &PlannedStep) -> Value {
        let outputs = self.outputs.seen_from(&planned.step_target.target, |_| true);
        let config = planned.step.known_config(&outputs, &self.header.run, self.header.attempt);
        let upstream = self.outputs.seen_from(&planned.step_target.target, |id| planned.upstream.contains(id));
        // What identifies the call itself is known only then.
        let StepTarget { step, target } = &planned.step_target;
        let key = Blake3Hash::of(format!("{} {step} {target} rehearsal", self.header.run).as_bytes()).hex_prefix(16);
        self.input(planned, &key, &Fingerprint::default(), config, &upstream)
    }

    /// Substitutes the deferred lookups in the configuration, and then validates it against the schema.
    pub(super) fn resolve_config(&self, planned: &PlannedStep) -> Result<Value, AttemptError> {
        let (plan, step) = (&self.prepared.plan, &planned.step);
        if step.pending.is_empty() {
            return Ok(step.with.clone());
        }
        let outputs = self.outputs.seen_from(&planned.step_target.target, |_| true);
        let config = step.config(&outputs, &self.header.run, self.header.attempt);
        let config = config.map_err(|error| AttemptError::Plan(error.diagnostic(&plan.source)))?;
        match planned.description.schema_violations(&config, |_| false).into_iter().next() {
            None => Ok(config),
            Some(mismatch) => {
                let span = step.with_spans.get(&mismatch.pointer).unwrap_or(&step.span).clone();
                let message = format!("invalid `with` of step `{}` for module `{}`", step.id, planned.description.name);
                Err(AttemptError::Plan(plan.error_at(
                    ErrorCode::InvalidConfig,
                    span,
                    message,
                    mismatch.message,
                    mismatch.hint,
                )))
            }
        }
    }

    /// The input of the decision about a step.
    pub(super) fn decision_input<'f>(
        &self,
        resolved: &'f ResolvedStep<'_>,
        finding: Option<&'f ProbeFinding>,
    ) -> DecisionInput<'f>
    where
        'a: 'f,
    {
        let planned = resolved.planned;
        let upstream: BTreeSet<&StepTarget> = self.prepared.upstream_targets(planned).collect();
        let config = &resolved.input["config"];
        let step = &planned.step;
        let may_repeat = planned.description.is_repeatable(config) || step.always;
        let rerun_safety = if may_repeat { RerunSafety::Safe } else { RerunSafety::Unsafe };
        let record = self.state.records.get(&planned.step_target);
        let is_made_elsewhere = |record| {
            step.effects == EffectPlace::Here
                && decision::is_made_elsewhere(record, self.header.machine.as_ref(), self.is_local_state)
        };
        DecisionInput {
            phase: planned.description.phase,
            probe_support: match planned.description.probe_strength(config) {
                ProbeStrength::None => ProbeSupport::Missing,
                ProbeStrength::ConfirmsSuccess => ProbeSupport::ConfirmsSuccess,
                ProbeStrength::Full => ProbeSupport::Available,
            },
            module_origin: match planned.step.uses {
                ModuleRef::Official(_) => ModuleOrigin::Official,
                ModuleRef::File(_) | ModuleRef::Registry(_) => ModuleOrigin::External,
            },
            rerun_safety,
            record,
            fingerprint: &resolved.fingerprint,
            run: &self.header.run,
            upstream_ran: decision::upstream_ran(self.state, &planned.step_target, upstream),
            unpassed_check: self.unpassed_check(planned, rerun_safety),
            made_elsewhere: record.is_some_and(is_made_elsewhere),
            host_outcome: resolved.host_outcome.as_ref(),
            always: step.always,
            overrides: decision::StepOverrides {
                accept_drift: self.overrides.accept_drift.contains(&planned.step.id),
                fresh: self.overrides.fresh,
                selected_by_name: resolved.selected_by_name || self.overrides.reruns(planned),
                upstream_selected: self.overrides.reruns_upstream_of(planned),
                journal_missing: self.overrides.journal_missing
                    || self.overrides.is_import()
                    || self.state.lost_records.contains(&planned.step_target),
            },
            finding,
        }
    }

    /// The check that did not pass after a step, if the step is a commit step from the exposing one on; in a plan that exposes
    /// nothing, if it may run again.
    fn unpassed_check(&self, planned: &PlannedStep, rerun_safety: RerunSafety) -> Option<&'a StepTarget> {
        let is_checked = self.prepared.is_after_exposure(planned).unwrap_or(rerun_safety == RerunSafety::Safe);
        if planned.description.phase != StepPhase::Commit || !is_checked {
            return None;
        }
        let is_check_of = |later: &&PlannedStep| {
            later.description.phase == StepPhase::Check && self.prepared.depends_on(later, planned)
        };
        let checks = self.prepared.steps.iter().filter(is_check_of).map(|check| &check.step_target);
        decision::unpassed_check_since(self.state, &planned.step_target, rerun_safety, checks)
    }
}
