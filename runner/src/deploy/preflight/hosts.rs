//! The hosts that steps run on besides this machine: what their steps need there, and their sessions for an attempt.

use std::collections::BTreeMap;

use contract::{Digest, StepId, TargetName, diagnostic::Diagnostic};
use journal::{StepTarget, event::JournalHeader};
use plan::{Plan, PlanStep};
use sandbox::ModuleDescription;

use super::{PlannedStep, PreparedPlan, machine_problems, resources};
use crate::{
    agent::wire::BeginSession,
    deploy::{PruneMode, ReleaseDirs, ReleaseRetention},
};

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

    /// An error of a host, with the step's position in the plan.
    fn at_step(&self, step: &StepId, host: &TargetName, problem: Diagnostic) -> Diagnostic {
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

    /// Removes old releases on other hosts, and returns what failed. All hosts are asked at once.
    pub(in crate::deploy) async fn prune_hosts(
        &self,
        dirs: &ReleaseDirs,
        retention: &ReleaseRetention,
    ) -> Vec<Diagnostic> {
        let pruned = self.hosts.iter().filter_map(|(name, remote)| {
            let (_, dirs) = dirs.on_hosts.get(name)?;
            Some(remote.prune(dirs, retention, PruneMode::Remove))
        });
        futures_util::future::join_all(pruned).await.into_iter().filter_map(Result::err).collect()
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
