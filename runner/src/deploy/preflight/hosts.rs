//! The hosts that steps run on besides this machine: what their steps need there, and their sessions for an attempt.

use std::collections::BTreeMap;

use contract::{
    Digest, StepId, TargetName,
    diagnostic::{Diagnostic, ErrorCode},
};
use journal::{StepTarget, event::JournalHeader};
use plan::{ModuleRef, Plan, PlanStep};
use sandbox::ModuleDescription;

use super::{PlannedStep, PreparedPlan, machine_problems, resources};
use crate::{agent::wire::BeginSession, deploy::conclusion::redacted};

impl PreparedPlan {
    /// What the steps of each other host need there and lack. All hosts are asked at once.
    pub(super) async fn check_hosts(&self, resources: CheckedResources) -> Vec<Diagnostic> {
        let checks = self.hosts.iter().map(async |(name, remote)| {
            let steps: Vec<_> = self.steps_on(name).collect();
            match remote.check(&steps, resources == CheckedResources::Created).await {
                Ok(problems) => {
                    problems.into_iter().map(|(step, problem)| self.at_step(&step, name, problem)).collect()
                }
                Err(unreachable) => vec![unreachable],
            }
        });
        futures_util::future::join_all(checks).await.into_iter().flatten().collect()
    }

    /// An error of a host, with the step's position in the plan. A host may repeat the secrets that it was sent.
    fn at_step(&self, step: &StepId, host: &TargetName, problem: Diagnostic) -> Diagnostic {
        let problem = redacted(problem, &self.redactor);
        let Some(planned) = self.all_steps().find(|planned| planned.step.id == *step) else { return problem };
        let span = planned.step.span.clone();
        let at = self.plan.error_at(problem.code, span, problem.message.clone(), format!("runs on {host}"), None);
        Diagnostic { excerpt: at.excerpt, ..problem }
    }

    /// Begins the session of an attempt on each other host. All hosts are asked at once.
    pub(in crate::deploy) async fn begin_host_sessions(
        &self,
        header: &JournalHeader,
        lineage: &str,
    ) -> Result<(), Vec<Diagnostic>> {
        let sessions = self.hosts.iter().map(async |(name, remote)| {
            let secrets = self.secrets_of_host(name);
            remote.begin(host_session(header, lineage, name, secrets)).await
        });
        let begun = futures_util::future::join_all(sessions).await;
        let problems: Vec<_> = begun.into_iter().filter_map(Result::err).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The secrets that the steps of a host use, by name.
    fn secrets_of_host(&self, host: &TargetName) -> BTreeMap<String, String> {
        let texts: Vec<_> = self.steps_on(host).flat_map(|planned| planned.step.grants.confidential_texts()).collect();
        let is_used = |(_, secret): &(&String, &contract::Secret)| {
            texts.iter().any(|text| text.reveal().contains(secret.reveal()))
        };
        let used = self.plan.secrets.iter().filter(is_used);
        used.map(|(name, secret)| (name.clone(), secret.reveal().to_owned())).collect()
    }
}

/// The error for a module in a file or a registry of a step on another host, which has only the runner's own.
pub(super) fn module_of_this_machine(plan: &Plan, planned: &PlannedStep) -> Option<Diagnostic> {
    let host = planned.step.remote_host()?;
    match planned.step.uses {
        ModuleRef::Official(_) => return None,
        ModuleRef::File(_) | ModuleRef::Registry(_) => {}
    }
    let message =
        format!("step `{}` uses a module that `{}` can't get from the runner yet", planned.step.id, host.name);
    let hint = Some("use one of the runner's modules there, or run the step on this machine".to_owned());
    let label = "only the runner's modules run on other hosts";
    Some(plan.error_at(ErrorCode::NotSupported, planned.step.span.clone(), message, label, hint))
}

/// What an agent checks for the steps of its host. Their positions in the plan are not known there.
pub async fn host_problems(
    steps: Vec<(PlanStep, Vec<StepId>, ModuleDescription)>,
    create: bool,
) -> Vec<(StepId, Diagnostic)> {
    let planned: Vec<PlannedStep> = steps
        .into_iter()
        .map(|(step, upstream, description)| PlannedStep {
            step_target: StepTarget { step: step.id.clone(), target: step.target.clone() },
            description,
            upstream: upstream.into_iter().collect(),
            module_digest: Digest::from_bytes([0; 32]),
            step,
        })
        .collect();
    let plan = Plan::of_host(planned.iter().map(|planned| planned.step.clone()).collect());
    let mut problems = Vec::new();
    for planned in &planned {
        let of_step = std::iter::once(planned);
        let resources = match create {
            true => resources::check_resources(&plan, of_step).err().unwrap_or_default(),
            false => resources::unreadable_dirs(&plan, of_step),
        };
        let found = resources.into_iter().chain(machine_problems(&plan, std::iter::once(planned)).await);
        problems.extend(found.map(|problem| (planned.step.id.clone(), problem)));
    }
    problems
}

fn host_session(
    header: &JournalHeader,
    lineage: &str,
    target: &TargetName,
    secrets: BTreeMap<String, String>,
) -> BeginSession {
    BeginSession {
        app: header.app.clone(),
        environment: header.environment.clone(),
        target: target.clone(),
        run: header.run.clone(),
        attempt: header.attempt,
        release: header.release.clone(),
        epoch: header.epoch,
        lineage: lineage.to_owned(),
        by: header.by.clone(),
        secrets,
    }
}

/// Whether a check of resources creates the writable directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckedResources {
    Existing,
    Created,
}
