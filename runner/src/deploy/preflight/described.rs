//! The modules of a plan without the rest of the preflight, for commands that do not run them.

use contract::diagnostic::Diagnostic;
use plan::{Plan, PlanStep};
use sandbox::ModuleDescription;

use super::PreflightOptions;
use crate::deploy::{ModulePins, modules, modules::LoadedModules};

/// Compares the modules of a plan with its lock file, without the rest of the preflight.
///
/// # Errors
/// The modules that can't be loaded, or the lock file that can't be read.
pub async fn load_pins(plan: &Plan, options: PreflightOptions) -> Result<ModulePins, Vec<Diagnostic>> {
    let PreflightOptions { cache_dirs, notify, pin_policy, .. } = options;
    let runtime = modules::new_runtime(cache_dirs, &notify).map_err(|diagnostic| vec![diagnostic])?;
    let (modules, problems) = LoadedModules::load(&runtime, plan).await;
    if !problems.is_empty() {
        return Err(problems);
    }
    ModulePins::read(plan, pin_policy, |step| modules.of(step)).map_err(|diagnostic| vec![diagnostic])
}

/// The steps of a plan with the descriptions of their modules, for commands that do not run them.
pub struct DescribedSteps<'p> {
    /// The steps whose modules could be loaded.
    pub steps: Vec<(&'p PlanStep, ModuleDescription)>,
    /// The errors of the other modules.
    pub problems: Vec<Diagnostic>,
}

/// Loads the modules of a plan's steps, and returns their descriptions.
///
/// # Errors
/// An error when the sandbox can't be created.
pub async fn describe_steps(plan: &Plan, options: PreflightOptions) -> Result<DescribedSteps<'_>, Diagnostic> {
    let runtime = modules::new_runtime(options.cache_dirs, &options.notify)?;
    let (modules, problems) = LoadedModules::load(&runtime, plan).await;
    let described = |step| modules.of(step).map(|(_, description)| (step, description.clone()));
    Ok(DescribedSteps { steps: plan.steps.iter().filter_map(described).collect(), problems })
}
