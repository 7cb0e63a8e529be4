//! The preflight: everything that can be known to be wrong before anything is touched.
//!
//! Modules load and describe themselves, configurations fit, needs are granted, phases are in order, the release has its
//! digest; then ([`PreparedPlan::resources`]) directories, databases and disk answer. Nothing but a granted directory is made.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::Path,
    sync::Arc,
};

use super::{ModulePins, PinPolicy};
use contract::{
    Digest, Label, StepId, TargetName,
    diagnostic::{Diagnostic, ErrorCode},
    step::StepPhase,
};
use journal::{
    StepTarget,
    event::{PlanStepRecord, Release},
};
use plan::{DirAccess, ModuleRef, Plan, PlanStep};
use sandbox;
use sandbox::{
    CapabilityKind, CapabilityNeed, LoadedModule, ModuleDescription, ModuleLoadError, ModuleRuntime, NoticeHandler,
    UserPaths,
};

/// A writable directory must have this much room, in bytes.
const MIN_FREE_BYTES: u64 = 32 << 20;

/// What a preflight stands on, besides the plan.
pub struct PreflightOptions {
    /// Where modules are kept.
    pub cache_dirs: UserPaths,
    /// Hears what is worth knowing and no error.
    pub notify: NoticeHandler,
    /// What the lock file is for.
    pub pin_policy: PinPolicy,
}

/// The release that is asked for.
#[derive(Clone, Debug)]
pub struct RequestedRelease {
    pub label: Label,
    /// What it was where it was verified: it must be that and nothing else.
    pub digest: Option<Digest>,
}

/// A plan whose modules are loaded and fit it.
pub struct PreparedPlan {
    pub plan: Plan,
    pub release: Release,
    pub runtime: ModuleRuntime,
    /// In the order in which they run.
    pub steps: Vec<PlannedStep>,
    /// What runs around them.
    pub hooks: PlannedHooks,
    /// The modules against the lock file.
    pub pins: ModulePins,
    modules: LoadedModules,
    pub(super) notify: NoticeHandler,
}

/// Loaded modules with what they say of themselves, by [`sandbox::name_of`].
type LoadedModules = BTreeMap<String, (LoadedModule, ModuleDescription)>;

/// Steps around a deployment, with what their modules say.
#[derive(Default)]
pub struct PlannedHooks {
    pub before: Vec<PlannedStep>,
    pub after: Vec<PlannedStep>,
    pub on_failure: Vec<PlannedStep>,
}

/// A step with what its module says.
pub struct PlannedStep {
    pub step: PlanStep,
    pub step_target: StepTarget,
    pub description: ModuleDescription,
    /// All steps that it depends on, over any number of others.
    pub upstream: BTreeSet<StepId>,
    module: String,
}

impl PreparedPlan {
    /// Loads what a plan needs and checks that it fits together.
    ///
    /// # Errors
    /// All that is wrong, each with its place in the plan.
    pub async fn new(
        plan: Plan,
        requested: RequestedRelease,
        options: PreflightOptions,
    ) -> Result<Self, Vec<Diagnostic>> {
        let runtime = ModuleRuntime::new(options.cache_dirs, Arc::clone(&options.notify));
        let runtime = runtime.map_err(|error| vec![engine_fault(&error)])?;
        let (modules, mut problems) = load_all(&runtime, &plan).await;
        let pins =
            ModulePins::read(&plan, options.pin_policy, |step| modules.get(&sandbox::module_display_name(&step.uses)));
        let pins = pins.map_err(|diagnostic| vec![diagnostic])?;
        problems.extend(pins.problems(&plan));
        let mut steps: Vec<PlannedStep> = Vec::new();
        for step in &plan.steps {
            let Some(mut ready) = planned_step(&plan, &modules, step, &mut problems) else { continue };
            ready.upstream = step.needs.iter().cloned().collect();
            for earlier in steps.iter().filter(|earlier| step.needs.contains(&earlier.step.id)) {
                ready.upstream.extend(earlier.upstream.iter().cloned());
            }
            steps.push(ready);
        }
        let mut hooks = |steps: &[PlanStep]| -> Vec<PlannedStep> {
            steps.iter().filter_map(|step| planned_hook(&plan, &modules, step, &mut problems)).collect()
        };
        let before = hooks(&plan.hooks.before);
        let hooks = PlannedHooks { before, after: hooks(&plan.hooks.after), on_failure: hooks(&plan.hooks.on_failure) };
        problems.extend(phase_order_error(&plan, &steps));
        if !problems.is_empty() {
            return Err(problems);
        }
        let release = resolve_release(&plan, &steps, requested).await.map_err(|diagnostic| vec![diagnostic])?;
        if let Some(notice) = pins.missing_lockfile_notice() {
            (options.notify)(notice);
        }
        Ok(Self { plan, release, runtime, steps, hooks, pins, modules, notify: options.notify })
    }

    /// The module of a step.
    #[must_use]
    pub fn module(&self, planned: &PlannedStep) -> &LoadedModule {
        &self.modules.get(&planned.module).expect("every ready step's module was loaded").0
    }

    /// Where a step stands in the order; none if the plan has no such step.
    #[must_use]
    pub fn index(&self, step: &StepId) -> Option<usize> {
        self.steps.iter().position(|ready| ready.step.id == *step)
    }

    /// The steps, as the journal records them.
    #[must_use]
    pub fn step_records(&self) -> Vec<PlanStepRecord> {
        let planned = |ready: &PlannedStep| PlanStepRecord {
            step_target: ready.step_target.clone(),
            uses: match &ready.step.uses {
                ModuleRef::Official(name) => name.clone(),
                ModuleRef::File(path) => relative_to(&self.plan.source.folder, path),
                ModuleRef::Registry(reference) => reference.to_string(),
            },
            phase: ready.description.phase,
        };
        self.steps.iter().map(planned).collect()
    }

    /// Whether directories can be written, have room, and databases can be reached.
    ///
    /// # Errors
    /// What can't be, with its place in the plan.
    pub fn check_resources(&self) -> Result<(), Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let hooks = [&self.hooks.before, &self.hooks.after, &self.hooks.on_failure];
        for ready in std::iter::once(&self.steps).chain(hooks).flatten() {
            let step = &ready.step;
            for (name, grant) in &step.grants.dirs {
                let what = format!("directory `{name}` of step `{}` ({})", step.id, grant.path.display());
                let problem = match grant.access {
                    DirAccess::ReadWrite => check_writable(&grant.path),
                    DirAccess::ReadOnly => check_readable(&grant.path),
                };
                if let Err(why) = problem {
                    problems.push(self.resource_error(step, &format!("{what} {why}")));
                }
            }
            for (name, grant) in &step.grants.databases {
                let parent = grant.url.value.reveal().strip_prefix("sqlite:").and_then(|path| Path::new(path).parent());
                if let Some(Err(why)) = parent.map(check_writable) {
                    problems.push(
                        self.resource_error(
                            step,
                            &format!("the folder of database `{name}` of step `{}` {why}", step.id),
                        ),
                    );
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    pub(super) fn resource_error(&self, step: &PlanStep, message: &str) -> Diagnostic {
        let hint = Some("nothing was changed; fix this, then run the same command again".to_owned());
        self.plan.error_at(ErrorCode::ResourceNotReady, step.span.clone(), message, "this step needs it", hint)
    }
}

/// The modules of a plan against its lock file, and no more than that.
///
/// # Errors
/// The modules that can't be loaded, or the lock file that can't be read.
pub async fn load_pins(plan: &Plan, options: PreflightOptions) -> Result<ModulePins, Vec<Diagnostic>> {
    let runtime = ModuleRuntime::new(options.cache_dirs, options.notify).map_err(|error| vec![engine_fault(&error)])?;
    let (modules, problems) = load_all(&runtime, plan).await;
    if !problems.is_empty() {
        return Err(problems);
    }
    let pins =
        ModulePins::read(plan, options.pin_policy, |step| modules.get(&sandbox::module_display_name(&step.uses)));
    pins.map_err(|diagnostic| vec![diagnostic])
}

/// Each module once. One that can't be loaded is an error at each step that uses it.
async fn load_all(runtime: &ModuleRuntime, plan: &Plan) -> (LoadedModules, Vec<Diagnostic>) {
    let (mut modules, mut problems) = (LoadedModules::new(), Vec::new());
    for step in plan.all_steps() {
        let name = sandbox::module_display_name(&step.uses);
        if let Entry::Vacant(vacant) = modules.entry(name) {
            match load(runtime, plan, step).await {
                Ok(module) => _ = vacant.insert(module),
                Err(diagnostic) => problems.push(diagnostic),
            }
        }
    }
    (modules, problems)
}

async fn load(
    runtime: &ModuleRuntime,
    plan: &Plan,
    step: &PlanStep,
) -> Result<(LoadedModule, ModuleDescription), Diagnostic> {
    let module = runtime.load(&step.uses).await.map_err(|error| error.diagnostic(plan, step))?;
    let description = runtime.describe(&module, step).await.map_err(|error| {
        let message = format!("the module of step `{}` returned an invalid description", step.id);
        let hint = Some(error.hint().to_owned());
        let diagnostic =
            plan.error_at(ErrorCode::NotAModule, step.span.clone(), message, "used here", hint).with_cause(&error);
        error.log_lines().iter().fold(diagnostic, Diagnostic::with_cause)
    })?;
    Ok((module, description))
}

/// A step with its module, and what is wrong with the two.
fn planned_step(
    plan: &Plan,
    modules: &LoadedModules,
    step: &PlanStep,
    problems: &mut Vec<Diagnostic>,
) -> Option<PlannedStep> {
    let name = sandbox::module_display_name(&step.uses);
    let (_, description) = modules.get(&name)?;
    problems.extend(mismatches(plan, step, description));
    problems.extend(missing_grants(plan, step, description));
    let step_target = StepTarget { step: step.id.clone(), target: TargetName::local() };
    let description = description.clone();
    Some(PlannedStep { step: step.clone(), step_target, description, upstream: BTreeSet::new(), module: name })
}

/// A step of a hook: one that shows a release to users, or brings one, is a part of the deployment and no hook.
fn planned_hook(
    plan: &Plan,
    modules: &LoadedModules,
    step: &PlanStep,
    problems: &mut Vec<Diagnostic>,
) -> Option<PlannedStep> {
    let mut ready = planned_step(plan, modules, step, problems)?;
    let why = match ready.description.phase {
        _ if ready.description.exposes => "shows a release to users",
        StepPhase::Prepare => "prepares a release",
        StepPhase::Commit | StepPhase::Check => {
            // It may look up what any step returned, and is told what there is.
            ready.upstream = plan.steps.iter().map(|step| step.id.clone()).collect();
            return Some(ready);
        }
    };
    let message = format!("step `{}` of a hook uses `{}`, which {why}", step.id, ready.description.name);
    let hint = Some("move it to `steps`, where the runner records, resumes and rolls it back".to_owned());
    problems.push(plan.error_at(ErrorCode::NotAHookStep, step.span.clone(), message, "not allowed in a hook", hint));
    None
}

fn engine_fault(error: &ModuleLoadError) -> Diagnostic {
    Diagnostic::new(ErrorCode::RunnerFault, error.to_string()).with_hint("please report this")
}

/// What the module's schema does not allow.
fn mismatches(plan: &Plan, step: &PlanStep, description: &ModuleDescription) -> Vec<Diagnostic> {
    let known_later = |pointer: &str| step.pending.contains_key(pointer);
    let diagnostic = |mismatch: sandbox::SchemaViolation| {
        let span = span_of(step, &mismatch.pointer);
        let step_target =
            if mismatch.pointer.is_empty() { String::new() } else { format!(" at `{}`", &mismatch.pointer[1..]) };
        let message = format!("invalid `with` of step `{}` for module `{}`{step_target}", step.id, description.name);
        let keys: Vec<_> =
            description.config["properties"].as_object().into_iter().flat_map(|map| map.keys()).collect();
        let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let hint = format!("`{}` accepts {keys}; see docs/plan.md", description.name);
        plan.error_at(ErrorCode::InvalidConfig, span, message, mismatch.message, Some(hint))
    };
    description.schema_violations(&step.with, known_later).into_iter().map(diagnostic).collect()
}

/// The byte range of a value of `with`, or of the nearest one around it that stands in the text.
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

/// What the module needs and the plan does not grant.
fn missing_grants(plan: &Plan, step: &PlanStep, description: &ModuleDescription) -> Vec<Diagnostic> {
    let mut reported = Vec::new();
    let missing = |need: &CapabilityNeed| -> Option<Diagnostic> {
        let pointer = need.config.as_deref();
        if !need.applies_to(&step.with) || pointer.is_some_and(|pointer| step.pending.contains_key(pointer)) {
            return None;
        }
        let name = need.grant_name(&step.with);
        let grants = &step.grants;
        let wants_write = need.wants_write();
        let (granted, line) = match need.capability {
            CapabilityKind::Dirs => (
                grants.dirs.iter().any(|(granted, grant)| {
                    name.is_none_or(|name| name == granted.as_str())
                        && (!wants_write || grant.access == DirAccess::ReadWrite)
                }),
                format!("dirs: {{ {}: \"<path>{}\" }}", name.unwrap_or("<name>"), if wants_write { "" } else { ":ro" }),
            ),
            CapabilityKind::Databases => (
                grants.databases.keys().any(|granted| name.is_none_or(|name| name == granted.as_str())),
                format!("databases: {{ {}: \"sqlite:<path>\" }}", name.unwrap_or("<name>")),
            ),
            CapabilityKind::Http => (!grants.http.is_empty(), "http: [\"http://<host>:<port>\"]".to_owned()),
            CapabilityKind::Tcp => (!grants.tcp.is_empty(), "tcp: [\"<host>:<port>\"]".to_owned()),
            CapabilityKind::Programs => {
                (!grants.programs.is_empty(), "programs: [[\"<program>\", \"<argument>\"]]".to_owned())
            }
            CapabilityKind::Sockets => (
                grants.sockets.keys().any(|granted| name.is_none_or(|name| name == granted.as_str())),
                format!("sockets: {{ {}: \"unix:<path>\" }}", name.unwrap_or("<name>")),
            ),
            CapabilityKind::Secrets => (
                grants.secrets.keys().any(|granted| name.is_none_or(|name| name == granted)),
                format!("secrets: [{}]", name.unwrap_or("<name>")),
            ),
        };
        // One line a kind: what a module needs by name, it also needs at all.
        if granted || reported.contains(&need.capability) {
            return None;
        }
        reported.push(need.capability);
        let span = pointer.map_or_else(|| step.span.clone(), |pointer| span_of(step, pointer));
        let what = need.display_text(&step.with);
        let message = format!("step `{}` needs {what}, but the plan does not grant it", step.id);
        let hint = format!("add to the step: grants: {{ {line} }}; it {}", need.reason);
        Some(plan.error_at(ErrorCode::MissingGrant, span, message, "not granted", Some(hint)))
    };
    description.needs.iter().filter_map(missing).collect()
}

/// Prepare steps must come before commit steps: everything is pulled and checked before anything is touched.
fn phase_order_error(plan: &Plan, steps: &[PlannedStep]) -> Option<Diagnostic> {
    // What is done once for an environment is touched by no deployment after.
    let is_setup = |ready: &&PlannedStep| plan.setup.iter().any(|setup| setup.id == ready.step.id);
    let steps = &steps[steps.iter().take_while(is_setup).count()..];
    let first_commit = steps.iter().position(|ready| ready.description.phase == StepPhase::Commit)?;
    let late = steps[first_commit..].iter().find(|ready| ready.description.phase == StepPhase::Prepare)?;
    let commit = &steps[first_commit].step.id;
    let message = format!("prepare step `{}` comes after commit step `{commit}`", late.step.id);
    let hint = format!("move `{}` before `{commit}`: all prepare steps run before the first change", late.step.id);
    let code = ErrorCode::PrepareAfterCommit;
    Some(plan.error_at(code, late.step.span.clone(), message, "a prepare step", Some(hint)))
}

/// What is deployed: its digest by the first step that pulls something.
async fn resolve_release(plan: &Plan, steps: &[PlannedStep], wanted: RequestedRelease) -> Result<Release, Diagnostic> {
    let RequestedRelease { label, digest: known } = wanted;
    for ready in steps {
        let found = sandbox::release_digest(&ready.step, &ready.description, &ready.step.with).await;
        let span = span_of(&ready.step, "/from");
        let digest = match (found, &known) {
            (Ok(None), _) => continue,
            (Ok(Some(found)), Some(known)) if found != *known => {
                let message = format!("release {label} differs from the verified release of that name");
                let hint = format!("restore the archive with digest {known}, or verify this one first");
                let label = format!("its digest is {found}");
                return Err(plan.error_at(ErrorCode::NotTheVerifiedRelease, span, message, label, Some(hint)));
            }
            (Ok(found), _) => found,
            // Its archive may be gone, and what was pulled still be there: the step looks for it by the digest.
            (Err(_), Some(known)) => Some(known.clone()),
            (Err(failure), None) => {
                let message = format!("can't determine the digest of release {label}");
                let diagnostic =
                    plan.error_at(ErrorCode::ReleaseDigestUnavailable, span, message, "its source", failure.hint);
                return Err(diagnostic.with_cause(failure.message));
            }
        };
        return Ok(Release { label, digest });
    }
    Ok(Release { label, digest: None })
}

fn check_writable(path: &Path) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(|error| format!("can't be created: {error}"))?;
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| format!("is not writable: {error}"))?;
    let room = rustix::fs::statvfs(path).map_err(|error| format!("can't be inspected: {error}"))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < MIN_FREE_BYTES {
        return Err(format!("has only {} MiB of free space", free >> 20));
    }
    Ok(())
}

fn check_readable(path: &Path) -> Result<(), String> {
    std::fs::read_dir(path).map(drop).map_err(|error| format!("can't be read: {error}"))
}

/// A path as seen from a folder, if it lies there.
pub(super) fn relative_to(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}
