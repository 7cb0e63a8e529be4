//! The preflight: finds everything that can be found before a deployment changes anything.
//!
//! It loads the modules, checks configurations, grants, lookups and the order of phases, and the programs and files that must be on
//! this machine; it lists all errors of these at once. Then it determines the digest of the release, and checks directories, databases
//! and disk space. It creates nothing except granted directories.

mod declared;
mod described;
mod hosts;
mod lookups;
mod machine;
mod migrations;
mod planner;
mod protected_paths;
mod release;
mod requirements;
mod resources;
mod secrets;
mod type_hint;
mod versions;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::Path,
    rc::Rc,
    sync::Arc,
};

use super::{Executor, ModulePins, PinPolicy, executor::LocalExecutor, fingerprint, modules};
use contract::{
    Digest, Label, Secret, StepId, TargetName,
    diagnostic::{Diagnostic, Notice},
    hash::Blake3Hash,
};
use journal::{
    JournalState, Redactor, StepTarget,
    event::{PlanStepRecord, Release},
};
use plan::{ModuleRef, Plan, PlanStep};
use sandbox::{ModuleDescription, NoticeHandler, UserPaths};
use serde_json::Value;

pub use described::{DescribedSteps, describe_steps, load_pins};
pub use hosts::host_problems;

use crate::remote::{DecomposedArchives, Dialer, FileHashes, RemoteExecutor};
use hosts::CheckedResources;
pub(super) use hosts::LocalProblems;
use machine::MachineCheck;
use modules::LoadedModules;
use planner::{StepPlanner, phase_order_error, upstream_of};
pub(super) use secrets::{header_problem, input_problem};

/// The options of a preflight.
#[derive(Clone)]
pub struct PreflightOptions {
    /// The user's folders for the module cache.
    pub cache_dirs: UserPaths,
    /// The handler of notices that are not errors.
    pub notify: NoticeHandler,
    /// How modules are compared with the lock file.
    pub pin_policy: PinPolicy,
    /// How much of the plan is checked.
    pub scope: PreflightScope,
    /// The secrets that the CI job gives to the runner itself, by their environment variables.
    pub job_secrets: BTreeMap<String, Secret>,
    /// `--limit`: the hosts that take part, as written; none: all.
    pub limit: Option<String>,
}

/// How much of a plan the preflight checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreflightScope {
    /// The plan, and what its steps need on this machine.
    Machine,
    /// The plan only: none of its steps will run, or not all of them.
    Plan,
    /// The steps of a plan of which other steps can't be read.
    ReadablePart,
}

/// The release that the operator asks for.
#[derive(Clone, Debug)]
pub struct RequestedRelease {
    pub label: Label,
    /// The digest under which it was verified, for a rollback or promotion. The content must match it.
    pub digest: Option<Digest>,
}

/// A plan whose modules are loaded, and whose steps passed the checks of their modules.
pub struct PreparedPlan {
    pub plan: Plan,
    pub release: Release,
    /// The steps in the order in which they run, one for each target, those of a step one after the other.
    pub steps: Vec<PlannedStep>,
    /// The hooks around them.
    pub hooks: PlannedHooks,
    /// The modules, compared with the lock file.
    pub pins: ModulePins,
    /// The redactor of the secrets of the plan and of the CI job.
    pub redactor: Redactor,
    /// Where each step runs.
    targets: BTreeMap<StepId, BTreeSet<TargetName>>,
    executor: StepExecutor,
    hosts: BTreeMap<TargetName, RemoteExecutor>,
    /// The hosts that `--limit` chooses; none: all take part.
    limit: Option<BTreeSet<TargetName>>,
    /// The hosts that the preflight leaves behind, and why.
    left_behind: RefCell<BTreeMap<TargetName, Diagnostic>>,
    notify: NoticeHandler,
}

/// What makes the calls of a plan's steps.
enum StepExecutor {
    Local(Box<LocalExecutor>),
    /// Doubles of modules, in tests of the engine.
    Doubles(Box<dyn Executor>),
}

/// The steps of hooks, with the descriptions of their modules.
#[derive(Default)]
pub struct PlannedHooks {
    pub before: Vec<PlannedStep>,
    pub after: Vec<PlannedStep>,
    pub on_failure: Vec<PlannedStep>,
}

/// A step on one of its targets, with the description of its module.
#[derive(Clone)]
pub struct PlannedStep {
    pub step: PlanStep,
    pub step_target: StepTarget,
    pub description: ModuleDescription,
    /// All steps that it depends on, directly or indirectly.
    pub upstream: BTreeSet<StepId>,
    /// The same step on the other hosts of the group that it runs once for: each can take the place of the one before.
    pub(super) stand_ins: Vec<PlannedStep>,
    pub(super) module_digest: Digest,
    /// The version of the contract that its module was built for.
    pub(super) contract_version: String,
}

impl PlannedStep {
    /// The host that it runs on, `local` for the runner's machine. Its target is another name if it runs once for a group.
    #[must_use]
    pub fn host_name(&self) -> TargetName {
        self.step.host.as_ref().map_or_else(TargetName::local, |host| host.name.clone())
    }

    /// What its fingerprint says of its module.
    #[must_use]
    pub fn module_hash(&self) -> Blake3Hash {
        fingerprint::module_hash(&self.module_digest)
    }
}

impl PreparedPlan {
    /// Loads the modules of a plan, and checks its steps against them.
    ///
    /// # Errors
    /// All errors that were found, each with its location in the plan.
    pub async fn new(
        plan: Plan,
        requested: RequestedRelease,
        options: PreflightOptions,
    ) -> Result<Self, Vec<Diagnostic>> {
        let scope = options.scope;
        let UnresolvedPlan { mut prepared, mut problems, mut local_host_problems } =
            UnresolvedPlan::load(plan, requested.label.clone(), options)
                .await
                .map_err(|diagnostic| vec![diagnostic])?;
        if scope == PreflightScope::Machine {
            let unreadable =
                |planned: &PlannedStep| resources::unreadable_dirs(&prepared.plan, std::iter::once(planned));
            let unreadable = LocalProblems::find(prepared.local_steps(), unreadable);
            problems.extend(unreadable.here);
            hosts::add_problems(&mut local_host_problems, unreadable.on_hosts);
        }
        if problems.is_empty() {
            let mut on_hosts = prepared.check_hosts(CheckedResources::Existing).await;
            hosts::add_problems(&mut on_hosts, local_host_problems);
            problems = prepared.leave_behind_or_refuse(on_hosts);
        } else {
            problems.extend(local_host_problems.into_values().flatten());
        }
        if !problems.is_empty() {
            return Err(in_order_of_the_plan(problems));
        }
        prepared.release = prepared.resolve_release(requested).await.map_err(|diagnostic| vec![diagnostic])?;
        Ok(prepared)
    }

    /// A plan whose modules are doubles, for tests of the engine: it has no hooks, and a release without content.
    #[must_use]
    pub fn with_doubles(
        plan: Plan,
        label: Label,
        describe: impl Fn(&PlanStep) -> ModuleDescription,
        doubles: Box<dyn Executor>,
    ) -> Self {
        let mut steps: Vec<PlannedStep> = Vec::new();
        for step in &plan.steps {
            steps.push(PlannedStep {
                step_target: StepTarget { step: step.id.clone(), target: step.target.clone() },
                description: describe(step),
                upstream: upstream_of(step, &steps),
                step: step.clone(),
                stand_ins: Vec::new(),
                module_digest: Digest::from_bytes([0; 32]),
                contract_version: sandbox::CONTRACT_VERSION.to_owned(),
            });
        }
        Self {
            release: Release { label, digest: None },
            steps,
            hooks: PlannedHooks::default(),
            pins: ModulePins::read(&plan, PinPolicy::Disabled, |_| None).expect("without a policy, no file is read"),
            redactor: Redactor::of_plan(&plan.secrets),
            targets: targets_of(&plan),
            executor: StepExecutor::Doubles(doubles),
            hosts: BTreeMap::new(),
            limit: None,
            left_behind: RefCell::default(),
            notify: std::sync::Arc::new(|_| {}),
            plan,
        }
    }

    /// Resolves the release to its digest.
    async fn resolve_release(&self, requested: RequestedRelease) -> Result<Release, Diagnostic> {
        let release = release::resolve_release(&self.plan, &self.steps, requested).await?;
        let digest = release.digest.as_ref().map(ToString::to_string);
        match header_problem("the release's digest", digest.as_deref(), &self.redactor) {
            Some(problem) => Err(problem),
            None => Ok(release),
        }
    }

    /// The executor of a step's calls.
    #[must_use]
    pub fn executor(&self, planned: &PlannedStep) -> &dyn Executor {
        if let Some(remote) = self.remote_executor(planned) {
            return remote;
        }
        match &self.executor {
            StepExecutor::Local(local) => &**local,
            StepExecutor::Doubles(doubles) => &**doubles,
        }
    }

    /// The executor of a step that runs on another host.
    #[must_use]
    pub fn remote_executor(&self, planned: &PlannedStep) -> Option<&RemoteExecutor> {
        self.hosts.get(&planned.step.remote_host()?.name)
    }

    /// Checks that granted directories can be used and have free space, and that SQLite files can be created, on each host.
    ///
    /// # Errors
    /// The resources that are missing or unusable, each with its location in the plan.
    pub async fn check_resources(&self) -> Result<(), Vec<Diagnostic>> {
        resources::check_resources(&self.plan, self.local_steps())?;
        let problems: Vec<_> = self.check_hosts(CheckedResources::Created).await.into_values().flatten().collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The steps on another host.
    fn steps_on<'s>(&'s self, name: &'s TargetName) -> impl Iterator<Item = &'s PlannedStep> {
        self.all_steps().filter(move |planned| planned.step.remote_host().is_some_and(|host| host.name == *name))
    }

    /// The steps on this machine that take part, without those of hosts that are left behind, followed by those of the hooks.
    fn local_steps(&self) -> impl Iterator<Item = &PlannedStep> {
        let left_behind = self.left_behind();
        let is_local_step = move |planned: &&PlannedStep| {
            let is_used = self.takes_part(planned) && !left_behind.contains_key(&planned.host_name());
            planned.step.remote_host().is_none() && is_used
        };
        let PlannedHooks { before, after, on_failure } = &self.hooks;
        self.steps.iter().filter(is_local_step).chain(before).chain(after).chain(on_failure)
    }

    /// Waits until the code of all modules is loaded. Nothing may begin before this.
    ///
    /// # Errors
    /// The modules whose code this machine can't run.
    pub(super) fn check_code(&self) -> Result<(), Vec<Diagnostic>> {
        let StepExecutor::Local(local) = &self.executor else { return Ok(()) };
        let problems = local.code_problems(&self.plan);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The steps, followed by those of the hooks.
    fn all_steps(&self) -> impl Iterator<Item = &PlannedStep> {
        let PlannedHooks { before, after, on_failure } = &self.hooks;
        self.steps.iter().chain(before).chain(after).chain(on_failure)
    }

    /// The position of the first step after the setup steps; none if they are not part of this deployment.
    #[must_use]
    pub fn first_step_after_setup(&self) -> Option<usize> {
        let count = self.steps.iter().take_while(|planned| is_setup(&self.plan, planned)).count();
        (count > 0).then_some(count)
    }

    /// Checks the migrations of all steps.
    ///
    /// # Errors
    /// A database that is unreachable; unsafe statements, if the plan says `lint: deny`.
    pub async fn check_migrations(&self, state: Option<&JournalState>) -> Result<(), Vec<Diagnostic>> {
        match self.migration_preflight(state) {
            Some(preflight) => preflight.check(&self.steps).await,
            None => Ok(()),
        }
    }

    /// The same for one step whose configuration was known only after other steps had run.
    pub(super) async fn check_migrations_of(
        &self,
        planned: &PlannedStep,
        config: Value,
        state: &JournalState,
    ) -> Result<(), Vec<Diagnostic>> {
        let Some(preflight) = self.migration_preflight(Some(state)) else { return Ok(()) };
        let step = PlanStep { with: config, pending: BTreeMap::new(), ..planned.step.clone() };
        preflight.check_step(planned, &step).await
    }

    fn migration_preflight<'a>(
        &'a self,
        state: Option<&'a JournalState>,
    ) -> Option<migrations::MigrationPreflight<'a>> {
        match &self.executor {
            StepExecutor::Local(_) => Some(migrations::MigrationPreflight { prepared: self, state }),
            StepExecutor::Doubles(_) => None,
        }
    }

    /// The position of a step, on the first of its targets; none if the plan has no such step.
    #[must_use]
    pub fn index(&self, step: &StepId) -> Option<usize> {
        self.steps.iter().position(|planned| planned.step.id == *step)
    }

    /// Shows a notice to the user.
    pub(super) fn show(&self, notice: Notice) {
        (self.notify)(notice);
    }

    /// Each step on all its targets, with [the position of its step](Self::index).
    pub fn steps_on_targets(&self) -> impl Iterator<Item = (usize, &[PlannedStep])> {
        let mut next = 0;
        self.steps.chunk_by(|one, other| one.step.id == other.step.id).map(move |of_step| {
            let index = next;
            next += of_step.len();
            (index, of_step)
        })
    }

    /// The steps on their targets, each with [the position of its step](Self::index): the same on all targets.
    pub fn indexed_steps(&self) -> impl Iterator<Item = (usize, &PlannedStep)> {
        self.steps_on_targets().flat_map(|(index, of_step)| of_step.iter().map(move |planned| (index, planned)))
    }

    /// What a step depends on.
    pub fn upstream_targets<'s>(&'s self, planned: &'s PlannedStep) -> impl Iterator<Item = &'s StepTarget> {
        self.steps.iter().filter(|earlier| self.depends_on(planned, earlier)).map(|earlier| &earlier.step_target)
    }

    /// Whether a step depends on an earlier one: on each before it on the same target; of one that does not run there, on each of its
    /// targets.
    #[must_use]
    pub fn depends_on(&self, later: &PlannedStep, earlier: &PlannedStep) -> bool {
        let StepTarget { step, target } = &earlier.step_target;
        let here = &later.step_target.target;
        let runs_here = || self.targets.get(step).is_some_and(|targets| targets.contains(here));
        later.upstream.contains(step) && (target == here || !runs_here())
    }

    /// Whether a step is the first one that exposes the release, or comes after it; none in a plan that exposes nothing.
    #[must_use]
    pub fn is_after_exposure(&self, planned: &PlannedStep) -> Option<bool> {
        let first = self.steps.iter().position(|step| step.description.exposes)?;
        Some(self.steps[first..].iter().any(|later| later.step_target == planned.step_target))
    }

    /// The steps in the form that the journal records.
    #[must_use]
    pub fn step_records(&self) -> Vec<PlanStepRecord> {
        let record = |planned: &PlannedStep| PlanStepRecord {
            step_target: planned.step_target.clone(),
            uses: match &planned.step.uses {
                ModuleRef::Official(name) => name.clone(),
                ModuleRef::File(path) => relative_to(&self.plan.source.folder, path),
                ModuleRef::Registry(reference) => reference.to_string(),
            },
            phase: planned.description.phase,
            exposes: planned.description.exposes,
        };
        self.steps.iter().map(record).collect()
    }
}

/// A plan whose modules were loaded, whatever is wrong with it, and whose release is not resolved yet.
pub struct UnresolvedPlan {
    prepared: PreparedPlan,
    /// The errors that were found, each with its location in the plan.
    problems: Vec<Diagnostic>,
    /// What the steps of hosts that are this machine lack here. A deployment may leave those behind.
    local_host_problems: BTreeMap<TargetName, Vec<Diagnostic>>,
}

impl UnresolvedPlan {
    /// The errors in the steps of a plan of which other steps can't be read. Nothing is looked at on this machine.
    pub async fn problems_of_part(plan: Plan, label: Label, options: PreflightOptions) -> Vec<Diagnostic> {
        let options = PreflightOptions { scope: PreflightScope::ReadablePart, limit: None, ..options };
        match Self::load(plan, label, options).await {
            Ok(loaded) => loaded.problems,
            Err(diagnostic) => vec![diagnostic],
        }
    }

    /// Loads the modules of a plan, and checks its steps against them.
    ///
    /// # Errors
    /// The sandbox can't be set up, or the lock file can't be read.
    pub async fn load(plan: Plan, label: Label, options: PreflightOptions) -> Result<Self, Diagnostic> {
        let PreflightOptions { cache_dirs, notify, pin_policy, scope, job_secrets, limit } = options;
        let limit = limit.map(|written| plan.limited_hosts(&written)).transpose()?;
        let mut problems = protected_paths::writable_grant_problems(&plan, &cache_dirs);
        let cache_dir = cache_dirs.cache_dir.clone();
        let runtime = modules::new_runtime(cache_dirs, &notify)?;
        let (modules, load_problems) = LoadedModules::load(&runtime, &plan).await;
        let pins = ModulePins::read(&plan, pin_policy, |step| modules.of(step))?;
        let mut planner = StepPlanner { plan: &plan, modules: &modules, scope, problems: load_problems };
        planner.problems.extend(pins.problems(&plan));
        let mut steps = planner.plan_steps();
        if let Some(limit) = &limit {
            steps.iter_mut().for_each(|planned| hosts::move_into_limit(planned, limit));
        }
        let hooks = PlannedHooks {
            before: planner.plan_hooks(&plan.hooks.before),
            after: planner.plan_hooks(&plan.hooks.after),
            on_failure: planner.plan_hooks(&plan.hooks.on_failure),
        };
        planner.problems.extend(phase_order_error(&plan, &steps));
        problems.extend(planner.problems);
        let (third_party_modules, unreadable) = modules.third_party_on_hosts(&runtime, &plan).await;
        problems.extend(unreadable);
        let redactor = Redactor::of_deployment(&plan.secrets, &job_secrets);
        let all = || steps.iter().chain(&hooks.before).chain(&hooks.after).chain(&hooks.on_failure);
        problems.extend(lookups::unknown_outputs(&plan, &steps, all()));
        problems.extend(secrets::secret_problems(&plan, &label, all(), &redactor));
        let mut local_host_problems = BTreeMap::new();
        if scope == PreflightScope::Machine {
            // What comes after setup steps is checked after them.
            let has_setup = steps.first().is_some_and(|first| is_setup(&plan, first));
            let taking_part = steps.iter().filter(|planned| hosts::is_in_limit(planned, limit.as_ref()));
            let all = taking_part.chain(&hooks.before).chain(&hooks.after).chain(&hooks.on_failure);
            let local = all.filter(|planned| planned.step.remote_host().is_none());
            let checked = local.filter(|planned| !has_setup || is_setup(&plan, planned));
            let LocalProblems { here, on_hosts } = LocalProblems::on_machine(&plan, checked).await;
            problems.extend(here);
            local_host_problems = on_hosts;
        }
        let problems = in_order_of_the_plan(problems);
        secrets::short_secret_notices(&plan.secrets, &job_secrets).into_iter().for_each(|notice| notify(notice));
        if let Some(notice) =
            pins.missing_lockfile_notice().filter(|_| problems.is_empty() && local_host_problems.is_empty())
        {
            notify(notice);
        }
        let release = Release { label, digest: None };
        let (descriptions, dialer) =
            (Rc::new(modules.descriptions()), Rc::new(Dialer::new(plan.ssh.clone(), cache_dir.clone())));
        let (hashes, third_party_modules) = (Arc::new(FileHashes::default()), Rc::new(third_party_modules));
        let archives = Rc::new(DecomposedArchives::new(cache_dir));
        let mut hosts = BTreeMap::new();
        for host in steps.iter().filter_map(|planned| planned.step.remote_host()) {
            hosts.entry(host.name.clone()).or_insert_with(|| {
                let (host, notify, hashes) = (Arc::clone(host), Arc::clone(&notify), Arc::clone(&hashes));
                let (descriptions, third_party_modules) = (Rc::clone(&descriptions), Rc::clone(&third_party_modules));
                let (dialer, archives) = (Rc::clone(&dialer), Rc::clone(&archives));
                RemoteExecutor::new(host, descriptions, third_party_modules, notify, dialer, hashes, archives)
            });
        }
        let executor = StepExecutor::Local(Box::new(LocalExecutor::new(runtime, modules)));
        let targets = targets_of(&plan);
        let left_behind = RefCell::default();
        let prepared = PreparedPlan {
            plan,
            release,
            steps,
            hooks,
            pins,
            redactor,
            targets,
            executor,
            hosts,
            limit,
            left_behind,
            notify,
        };
        Ok(Self { prepared, problems, local_host_problems })
    }

    /// Resolves the release to its digest.
    ///
    /// # Errors
    /// The source of the release is missing, or its digest is not the requested one.
    pub async fn resolve_release(&self, requested: RequestedRelease) -> Result<Release, Diagnostic> {
        self.prepared.resolve_release(requested).await
    }

    /// The errors that were found, each with its location in the plan: in the plan's order, with those of hosts that are this machine.
    #[must_use]
    pub fn all_problems(&self) -> Vec<Diagnostic> {
        let on_hosts = self.local_host_problems.values().flatten();
        in_order_of_the_plan(self.problems.iter().chain(on_hosts).cloned().collect())
    }

    /// The plan with those steps whose modules could be loaded.
    #[must_use]
    pub fn loadable_steps(&self) -> &PreparedPlan {
        &self.prepared
    }
}

/// Whether a step is one of the setup steps.
fn is_setup(plan: &Plan, planned: &PlannedStep) -> bool {
    plan.setup.iter().any(|setup| setup.id == planned.step.id)
}

/// Where each step of a plan runs.
fn targets_of(plan: &Plan) -> BTreeMap<StepId, BTreeSet<TargetName>> {
    let mut targets: BTreeMap<StepId, BTreeSet<TargetName>> = BTreeMap::new();
    for step in &plan.steps {
        targets.entry(step.id.clone()).or_default().insert(step.target.clone());
    }
    targets
}

/// What a step needs on this machine and lacks.
async fn machine_problems(plan: &Plan, planned: &PlannedStep) -> Vec<Diagnostic> {
    let check = MachineCheck::new(plan, planned);
    let mut problems = check.problems();
    problems.extend(check.version_problems().await);
    problems
}

/// Sorts errors by their position in the plan; those without one come first.
fn in_order_of_the_plan(mut problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
    problems.sort_by_key(|problem| problem.excerpt.as_ref().map(|excerpt| excerpt.span.start));
    // A step that runs on several hosts has most errors on each of them.
    problems.dedup_by(|later, earlier| {
        (later.code, &later.message, &later.excerpt) == (earlier.code, &earlier.message, &earlier.excerpt)
    });
    problems
}

/// The byte range of a value of `with`, or of the nearest enclosing value that is in the text.
fn span_of(step: &PlanStep, pointer: &str) -> std::ops::Range<usize> {
    let mut pointer = pointer;
    loop {
        if let Some(span) = step.with_spans.get(pointer) {
            return span.clone();
        }
        match pointer.rfind('/') {
            Some(end) => pointer = &pointer[..end],
            None => return step.span.clone(),
        }
    }
}

/// A path relative to a folder, or unchanged if it is not inside the folder.
pub(super) fn relative_to(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}
