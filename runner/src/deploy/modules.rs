//! Loads the modules of a plan, with their descriptions.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use contract::diagnostic::{Diagnostic, ErrorCode};
use plan::{Plan, PlanStep};
use sandbox::{
    LoadedModule, ModuleDescription, ModuleLoadError, ModuleRuntime, NoticeHandler, UserPaths, module_display_name,
};

use crate::remote::{ThirdPartyModule, ThirdPartyModules};

/// Loaded modules, by [`module_display_name`].
#[derive(Default)]
pub(super) struct LoadedModules(BTreeMap<String, (LoadedModule, ModuleDescription)>);

impl LoadedModules {
    /// Loads each module of a plan once. If one can't be loaded, each step that uses it gets an error.
    pub(super) async fn load(runtime: &ModuleRuntime, plan: &Plan) -> (Self, Vec<Diagnostic>) {
        let (mut modules, mut problems) = (BTreeMap::new(), Vec::new());
        for step in plan.all_steps() {
            if let Entry::Vacant(vacant) = modules.entry(module_display_name(&step.uses)) {
                match load(runtime, plan, step).await {
                    Ok(module) => _ = vacant.insert(module),
                    Err(diagnostic) => problems.push(diagnostic),
                }
            }
        }
        (Self(modules), problems)
    }

    /// The descriptions of all modules, by their display names.
    pub(super) fn descriptions(&self) -> BTreeMap<String, ModuleDescription> {
        self.0.iter().map(|(name, (_, description))| (name.clone(), description.clone())).collect()
    }

    /// The files of the third-party modules that steps on other hosts use, by their display names. A file that
    /// can't be read is an error of each module's first step.
    pub(super) async fn third_party_on_hosts(
        &self,
        runtime: &ModuleRuntime,
        plan: &Plan,
    ) -> (ThirdPartyModules, Vec<Diagnostic>) {
        let (mut found, mut problems) = (ThirdPartyModules::new(), Vec::new());
        let mut checked = BTreeSet::new();
        for step in plan.all_steps().filter(|step| step.remote_host().is_some()) {
            let name = module_display_name(&step.uses);
            let Some((module, _)) = self.of(step).filter(|_| checked.insert(name.clone())) else { continue };
            match runtime.module_file(&step.uses, module).await {
                Ok(None) => {}
                Ok(Some(bytes)) => drop(found.insert(name, ThirdPartyModule::new(bytes))),
                Err(error) => problems.push(error.diagnostic(plan, step)),
            }
        }
        (found, problems)
    }

    /// Waits until the code of each module is loaded. If that fails, each module's first step gets an error.
    pub(super) fn code_problems(&self, runtime: &ModuleRuntime, plan: &Plan) -> Vec<Diagnostic> {
        let mut checked = BTreeSet::new();
        let is_first = |step: &&PlanStep| checked.insert(module_display_name(&step.uses));
        let problem = |step: &PlanStep| {
            let (module, _) = self.of(step)?;
            runtime.check_code(module).err().map(|error| error.diagnostic(plan, step))
        };
        plan.all_steps().filter(is_first).filter_map(problem).collect()
    }

    /// Returns the module of a step, if it could be loaded.
    pub(super) fn of(&self, step: &PlanStep) -> Option<&(LoadedModule, ModuleDescription)> {
        self.0.get(&module_display_name(&step.uses))
    }
}

/// Creates the runtime that modules are loaded into.
pub(super) fn new_runtime(cache_dirs: UserPaths, notify: &NoticeHandler) -> Result<ModuleRuntime, Diagnostic> {
    ModuleRuntime::new(cache_dirs, Arc::clone(notify)).map_err(|error| engine_fault(&error))
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

fn engine_fault(error: &ModuleLoadError) -> Diagnostic {
    Diagnostic::new(ErrorCode::RunnerFault, error.to_string()).with_hint("please report this")
}
