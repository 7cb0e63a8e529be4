//! The hosts that steps run on besides this machine: what their steps need there, and their sessions for an attempt.

use std::collections::{BTreeMap, BTreeSet};

use contract::{
    Digest, StepId, TargetName,
    diagnostic::{Diagnostic, ErrorCode, Notice},
};
use journal::{StepTarget, event::JournalHeader};
use plan::{Plan, PlanStep};
use sandbox::ModuleDescription;

use super::{PlannedStep, PreparedPlan, is_setup, machine::MachineCheck, machine_problems, resources};
use crate::{
    agent::wire::BeginSession,
    deploy::{ReleaseDirs, conclusion::redacted},
};
use wire::{PruneMode, ReleaseRetention};

impl PreparedPlan {
    /// Whether a step runs in this deployment: `--limit` chooses its host, if it is given.
    #[must_use]
    pub fn takes_part(&self, planned: &PlannedStep) -> bool {
        is_in_limit(planned, self.limit.as_ref())
    }

    /// The hosts that the preflight leaves behind, and why.
    pub(in crate::deploy) fn left_behind(&self) -> BTreeMap<TargetName, Diagnostic> {
        self.left_behind.borrow().clone()
    }

    /// Whether the plan lets an attempt go on without these hosts: all are of the rollout's group, at most `max-failures` of them, and
    /// another host of the group is left.
    pub(in crate::deploy) fn may_go_on_without(&self, hosts: &BTreeSet<TargetName>) -> bool {
        let Some(rollout) = &self.plan.rollout else { return false };
        let mut of_group = rollout.hosts.iter().filter(|host| self.chooses(host));
        hosts.len() <= rollout.max_failures
            && hosts.iter().all(|host| rollout.hosts.contains(host))
            && of_group.any(|host| !hosts.contains(host))
    }

    /// Leaves the hosts behind that have problems, with a warning for each, if the plan allows that. Otherwise returns the problems.
    pub(super) fn leave_behind_or_refuse(&self, problems: BTreeMap<TargetName, Vec<Diagnostic>>) -> Vec<Diagnostic> {
        let hosts = self.left_behind.borrow().keys().chain(problems.keys()).cloned().collect();
        if !self.may_go_on_without(&hosts) {
            return problems.into_values().flatten().collect();
        }
        for (name, problems) in problems {
            let mut problems = problems.into_iter();
            let Some(first) = problems.next() else { continue };
            let cause = first.causes.first().map_or_else(String::new, |cause| format!(": {cause}"));
            self.show(Notice::warning(format!("host {name} is left behind: {}{cause}", first.message)));
            let problem = problems.fold(first, |first, other| first.with_cause(other.message));
            self.left_behind.borrow_mut().insert(name, problem);
        }
        Vec::new()
    }

    /// Checks the [resources](Self::check_resources) for a deployment, which may leave some hosts behind.
    ///
    /// # Errors
    /// The resources that are missing or unusable, each with its location in the plan.
    pub(in crate::deploy) async fn check_resources_of_deployment(&self) -> Result<(), Vec<Diagnostic>> {
        let unusable = |planned: &PlannedStep| {
            resources::check_resources(&self.plan, std::iter::once(planned)).err().unwrap_or_default()
        };
        let local = LocalProblems::find(self.local_steps(), unusable);
        if !local.here.is_empty() {
            return Err(local.all());
        }
        let mut on_hosts = self.check_hosts(CheckedResources::Created).await;
        add_problems(&mut on_hosts, local.on_hosts);
        let problems = self.leave_behind_or_refuse(on_hosts);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// What the steps after the setup steps need on this machine and lack, once those have run.
    pub(in crate::deploy) async fn problems_after_setup(&self) -> LocalProblems {
        let after_setup = self.local_steps().filter(|planned| !is_setup(&self.plan, planned));
        LocalProblems::on_machine(&self.plan, after_setup).await
    }

    /// What the steps of each other host need there and lack, or why it can't be worked on. All hosts are asked at once.
    pub(super) async fn check_hosts(&self, resources: CheckedResources) -> BTreeMap<TargetName, Vec<Diagnostic>> {
        let left_behind = self.left_behind();
        let asked = self.hosts.iter().filter(|(name, _)| self.chooses(name) && !left_behind.contains_key(name));
        let checks = asked.map(async |(name, remote)| {
            let steps: Vec<_> = self.steps_on(name).collect();
            let problems = match remote.check(&steps, resources == CheckedResources::Created).await {
                Ok(problems) => {
                    problems.into_iter().map(|(step, problem)| self.at_step(&step, name, problem)).collect()
                }
                Err(unreachable) => vec![unreachable],
            };
            (name.clone(), problems)
        });
        let checked = futures_util::future::join_all(checks).await;
        checked.into_iter().filter(|(_, problems)| !problems.is_empty()).collect()
    }

    fn chooses(&self, host: &TargetName) -> bool {
        self.limit.as_ref().is_none_or(|limit| limit.contains(host))
    }

    /// Whether the calls of a step can be made: on this machine, or on a host that the preflight has connected to.
    pub(in crate::deploy) fn can_call(&self, planned: &PlannedStep) -> bool {
        planned.step.remote_host().is_none_or(|host| self.hosts.contains_key(&host.name))
    }

    /// An error of a host, with the step's position in the plan. A host may repeat the secrets that it was sent.
    fn at_step(&self, step: &StepId, host: &TargetName, problem: Diagnostic) -> Diagnostic {
        let problem = redacted(problem, &self.redactor);
        let Some(planned) = self.all_steps().find(|planned| planned.step.id == *step) else { return problem };
        let span = planned.step.span.clone();
        let at = self.plan.error_at(problem.code, span, problem.message.clone(), format!("runs on {host}"), None);
        Diagnostic { excerpt: at.excerpt, ..problem }
    }

    /// Begins the session of an attempt on each other host that takes part and is not left behind. All hosts are asked at once.
    /// Returns the hosts where none could begin.
    pub(in crate::deploy) async fn begin_host_sessions(
        &self,
        header: &JournalHeader,
        lineage: &str,
    ) -> BTreeMap<TargetName, Diagnostic> {
        let left_behind = self.left_behind();
        let asked = self.hosts.iter().filter(|(name, _)| self.chooses(name) && !left_behind.contains_key(name));
        let sessions = asked.map(async |(name, remote)| {
            let secrets = self.secrets_of_host(name);
            Some((name.clone(), remote.begin(host_session(header, lineage, name, secrets)).await.err()?))
        });
        futures_util::future::join_all(sessions).await.into_iter().flatten().collect()
    }

    /// Removes old releases on other hosts, and returns what failed. All hosts are asked at once.
    pub(in crate::deploy) async fn prune_hosts(
        &self,
        dirs: &ReleaseDirs,
        retention: &ReleaseRetention,
    ) -> Vec<Diagnostic> {
        let left_behind = self.left_behind();
        let asked = self.hosts.iter().filter(|(name, _)| self.chooses(name) && !left_behind.contains_key(*name));
        let pruned = asked.filter_map(|(name, remote)| {
            let (_, dirs) = dirs.on_hosts.get(name)?;
            Some(remote.prune(dirs, retention, PruneMode::Remove))
        });
        futures_util::future::join_all(pruned).await.into_iter().filter_map(Result::err).collect()
    }

    /// The secrets that the steps of a host use, by name.
    fn secrets_of_host(&self, host: &TargetName) -> BTreeMap<String, String> {
        let stand_ins = self.all_steps().flat_map(|planned| &planned.stand_ins);
        let stand_ins = stand_ins.filter(|planned| planned.host_name() == *host);
        let steps = self.steps_on(host).chain(stand_ins);
        let texts: Vec<_> = steps.flat_map(|planned| planned.step.grants.confidential_texts()).collect();
        let is_used = |(_, secret): &(&String, &contract::Secret)| {
            texts.iter().any(|text| text.reveal().contains(secret.reveal()))
        };
        let used = self.plan.secrets.iter().filter(is_used);
        used.map(|(name, secret)| (name.clone(), secret.reveal().to_owned())).collect()
    }
}

/// What steps on this machine lack.
#[derive(Default)]
pub(in crate::deploy) struct LocalProblems {
    /// Those of the machine itself.
    pub(in crate::deploy) here: Vec<Diagnostic>,
    /// Those of hosts that are this machine (`at: local`), each of which may be left behind as any other host.
    pub(in crate::deploy) on_hosts: BTreeMap<TargetName, Vec<Diagnostic>>,
}

impl LocalProblems {
    /// What steps on this machine need besides their directories.
    pub(super) async fn on_machine<'p>(plan: &Plan, steps: impl Iterator<Item = &'p PlannedStep>) -> Self {
        let (steps, mut found) = (steps.collect::<Vec<_>>(), Vec::new());
        for planned in &steps {
            found.push(machine_problems(plan, planned).await);
        }
        if found.iter().flatten().any(|problem| problem.code == ErrorCode::ProgramUnusable) {
            // All of them are told at once: the first one keeps nobody from seeing the others.
            for (planned, problems) in steps.iter().zip(&mut found) {
                let unusable = MachineCheck::unusable_programs(plan, planned);
                let told: Vec<String> = problems.iter().map(|problem| problem.message.clone()).collect();
                problems.extend(unusable.into_iter().filter(|problem| !told.contains(&problem.message)));
            }
        }
        let mut local = Self::default();
        steps.into_iter().zip(found).for_each(|(planned, problems)| local.add(planned, problems));
        local
    }

    /// What `problems` finds for each step.
    pub(super) fn find<'p>(
        steps: impl Iterator<Item = &'p PlannedStep>,
        problems: impl Fn(&PlannedStep) -> Vec<Diagnostic>,
    ) -> Self {
        let mut found = Self::default();
        steps.for_each(|planned| found.add(planned, problems(planned)));
        found
    }

    /// All of them.
    pub(super) fn all(self) -> Vec<Diagnostic> {
        self.here.into_iter().chain(self.on_hosts.into_values().flatten()).collect()
    }

    fn add(&mut self, planned: &PlannedStep, problems: Vec<Diagnostic>) {
        match &planned.step.host {
            Some(host) if !problems.is_empty() => self.on_hosts.entry(host.name.clone()).or_default().extend(problems),
            Some(_) | None => self.here.extend(problems),
        }
    }
}

/// Adds the problems of hosts to those of others, or of the same.
pub(super) fn add_problems(
    to: &mut BTreeMap<TargetName, Vec<Diagnostic>>,
    problems: BTreeMap<TargetName, Vec<Diagnostic>>,
) {
    for (host, problems) in problems {
        to.entry(host).or_default().extend(problems);
    }
}

/// Whether the host of a step is one of those that take part.
pub(super) fn is_in_limit(planned: &PlannedStep, limit: Option<&BTreeSet<TargetName>>) -> bool {
    limit.is_none_or(|limit| limit.contains(&planned.host_name()))
}

/// Makes a step that runs once for a group run on the first of its hosts that take part.
pub(super) fn move_into_limit(planned: &mut PlannedStep, limit: &BTreeSet<TargetName>) {
    planned.stand_ins.retain(|stand_in| limit.contains(&stand_in.host_name()));
    if !limit.contains(&planned.host_name()) && !planned.stand_ins.is_empty() {
        planned.step = planned.stand_ins.remove(0).step;
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
            stand_ins: Vec::new(),
            module_digest: Digest::from_bytes([0; 32]),
            contract_version: sandbox::CONTRACT_VERSION.to_owned(),
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
        let found = resources.into_iter().chain(machine_problems(&plan, planned).await);
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
