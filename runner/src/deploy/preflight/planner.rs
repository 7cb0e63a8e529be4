//! Combines the steps of a plan with the descriptions of their modules.

use std::collections::BTreeSet;

use contract::{
    StepId,
    diagnostic::{Diagnostic, ErrorCode},
    step::StepPhase,
};
use journal::StepTarget;
use plan::{Plan, PlanStep};

use super::{PlannedStep, PreflightScope, is_setup, requirements};
use crate::deploy::modules::LoadedModules;

/// Combines the steps of a plan with their modules and targets, and collects the errors.
pub(super) struct StepPlanner<'a> {
    pub(super) plan: &'a Plan,
    pub(super) modules: &'a LoadedModules,
    pub(super) scope: PreflightScope,
    /// The errors so far.
    pub(super) problems: Vec<Diagnostic>,
}

impl StepPlanner<'_> {
    /// Plans all steps, one for each target, in the plan's order.
    pub(super) fn plan_steps(&mut self) -> Vec<PlannedStep> {
        let mut planned: Vec<PlannedStep> = Vec::new();
        for step in &self.plan.steps {
            let upstream = upstream_of(step, &planned);
            planned.extend(self.plan_step(step, &upstream));
        }
        planned
    }

    /// Plans the steps of a hook. Their lookups may use the outputs of any step that has run.
    pub(super) fn plan_hooks(&mut self, steps: &[PlanStep]) -> Vec<PlannedStep> {
        let upstream: BTreeSet<StepId> = self.plan.steps.iter().map(|step| step.id.clone()).collect();
        let planned: Vec<_> = steps.iter().flat_map(|step| self.plan_step(step, &upstream)).collect();
        planned.into_iter().filter(|hook| self.is_hook(hook)).collect()
    }

    /// Plans a step on its target; none if its module could not be loaded.
    fn plan_step(&mut self, step: &PlanStep, upstream: &BTreeSet<StepId>) -> Option<PlannedStep> {
        let (module, description) = self.modules.of(step)?;
        let known_upstream = (self.scope != PreflightScope::ReadablePart).then_some(upstream);
        self.problems.extend(requirements::step_problems(self.plan, step, description, known_upstream));
        let planned = |step: &PlanStep| PlannedStep {
            step: step.clone(),
            step_target: StepTarget { step: step.id.clone(), target: step.target.clone() },
            description: description.clone().for_config(&step.with),
            upstream: upstream.clone(),
            stand_ins: Vec::new(),
            module_digest: module.digest.clone(),
            contract_version: module.contract_version.clone(),
        };
        Some(PlannedStep { stand_ins: step.stand_ins.iter().map(planned).collect(), ..planned(step) })
    }

    /// Whether a step is allowed in a hook. Steps that expose or prepare a release belong to the deployment itself.
    fn is_hook(&mut self, hook: &PlannedStep) -> bool {
        let PlannedStep { step, description, .. } = hook;
        let why = match description.phase {
            _ if description.exposes => "shows a release to users",
            StepPhase::Prepare => "prepares a release",
            StepPhase::Commit | StepPhase::Check => return true,
        };
        let message = format!("step `{}` of a hook uses `{}`, which {why}", step.id, description.name);
        let hint = Some("move it to `steps`, where the runner records, resumes and rolls it back".to_owned());
        let code = ErrorCode::NotAHookStep;
        self.problems.push(self.plan.error_at(code, step.span.clone(), message, "not allowed in a hook", hint));
        false
    }
}

/// All steps that a step depends on, of which `earlier` has those before it.
pub(super) fn upstream_of(step: &PlanStep, earlier: &[PlannedStep]) -> BTreeSet<StepId> {
    let direct = earlier.iter().filter(|earlier| step.needs.contains(&earlier.step.id));
    let indirect = direct.flat_map(|earlier| earlier.upstream.iter().cloned());
    step.needs.iter().cloned().chain(indirect).collect()
}

/// The error if a prepare step comes after a commit step. Everything is pulled and checked before anything is changed.
pub(super) fn phase_order_error(plan: &Plan, steps: &[PlannedStep]) -> Option<Diagnostic> {
    // Setup steps come first and are exempt, because later deployments do not run them.
    let steps = &steps[steps.iter().take_while(|planned| is_setup(plan, planned)).count()..];
    let first_commit = steps.iter().position(|planned| planned.description.phase == StepPhase::Commit)?;
    let late = steps[first_commit..].iter().find(|planned| planned.description.phase == StepPhase::Prepare)?;
    let commit = &steps[first_commit].step.id;
    let message = format!("prepare step `{}` comes after commit step `{commit}`", late.step.id);
    let hint = format!("move `{}` before `{commit}`: all prepare steps run before the first change", late.step.id);
    let code = ErrorCode::PrepareAfterCommit;
    Some(plan.error_at(code, late.step.span.clone(), message, "a prepare step", Some(hint)))
}
