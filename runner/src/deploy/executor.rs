//! Runs the calls of a step on its target, which today is always this machine.
//!
//! Invariant: every effect consumes a recorded intent, and returns the completion that the journal records; the types
//! of [`journal`](journal) enforce both. Deliberately absent: the order of calls, and writing to the journal.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;

use contract::{
    diagnostic::Diagnostic,
    hash::InputHash,
    step::{ProbeFinding, Receipt, StepFailure},
};
use db::migrate::{LintFinding, LintLevel};
use journal::{StepCompletion, StepIntent, UndoCompletion, UndoIntent};
use plan::{Plan, PlanStep};
use sandbox::{
    CallChannel, InputError, LoadedModule, MigratesBehavior, ModuleDescription, ModuleRuntime, PreviewChange,
};

use super::modules::LoadedModules;

/// Makes the calls of steps on one target.
#[async_trait(?Send)]
pub trait Executor {
    /// Hashes all files that a configuration names as inputs. The keys are their names in the configuration.
    ///
    /// # Errors
    /// [`InputError`] when one can't be read.
    async fn input_hashes(
        &self,
        step: &PlanStep,
        description: &ModuleDescription,
        config: &Value,
    ) -> Result<BTreeMap<String, InputHash>, InputError>;

    /// Returns the changes that `apply` would make.
    ///
    /// # Errors
    /// The module's failure, if it can't foresee them.
    async fn preview(
        &self,
        step: &PlanStep,
        input: &Value,
        channel: CallChannel,
    ) -> Result<Vec<PreviewChange>, StepFailure>;

    /// Finds out whether `apply` would be refused, without changing anything.
    ///
    /// # Errors
    /// Why it would be refused.
    async fn rehearse(&self, step: &PlanStep, input: &Value, channel: CallChannel) -> Result<(), StepFailure>;

    /// Lints the migrations that a step of a module with `migrates` would apply.
    ///
    /// # Errors
    /// The files can't be read, or the database can't be reached.
    async fn lint_migrations(
        &self,
        step: &PlanStep,
        migrates: &MigratesBehavior,
    ) -> Result<(Vec<LintFinding>, LintLevel), StepFailure>;

    /// Probes whether the effect of an input holds.
    async fn probe(&self, step: &PlanStep, input: &Value, channel: CallChannel) -> ProbeFinding;

    /// Applies the step, as its recorded intent says.
    async fn apply(&self, step: &PlanStep, intent: StepIntent, channel: CallChannel) -> StepCompletion;

    /// Undoes the step, as its recorded undo intent says.
    async fn revert(
        &self,
        step: &PlanStep,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
        channel: CallChannel,
    ) -> UndoCompletion;
}

/// Runs the modules of a plan in the sandbox of this process.
pub struct LocalExecutor {
    runtime: ModuleRuntime,
    modules: LoadedModules,
}

impl LocalExecutor {
    /// Creates an executor for loaded modules.
    pub(super) fn new(runtime: ModuleRuntime, modules: LoadedModules) -> Self {
        Self { runtime, modules }
    }

    /// Waits until the code of the plan's modules is loaded, and returns the errors.
    pub(super) fn code_problems(&self, plan: &Plan) -> Vec<Diagnostic> {
        self.modules.code_problems(&self.runtime, plan)
    }

    fn module(&self, step: &PlanStep) -> &LoadedModule {
        let (module, _) = self.modules.of(step).expect("the preflight loads the module of every step");
        module
    }
}

#[async_trait(?Send)]
impl Executor for LocalExecutor {
    async fn input_hashes(
        &self,
        step: &PlanStep,
        description: &ModuleDescription,
        config: &Value,
    ) -> Result<BTreeMap<String, InputHash>, InputError> {
        self.runtime.input_hashes(step, description, config)
    }

    async fn preview(
        &self,
        step: &PlanStep,
        input: &Value,
        channel: CallChannel,
    ) -> Result<Vec<PreviewChange>, StepFailure> {
        self.runtime.preview(self.module(step), step, input, channel).await
    }

    async fn rehearse(&self, step: &PlanStep, input: &Value, channel: CallChannel) -> Result<(), StepFailure> {
        self.runtime.rehearse(self.module(step), step, input, channel).await
    }

    async fn lint_migrations(
        &self,
        step: &PlanStep,
        migrates: &MigratesBehavior,
    ) -> Result<(Vec<LintFinding>, LintLevel), StepFailure> {
        self.runtime.lint_migrations(step, migrates).await
    }

    async fn probe(&self, step: &PlanStep, input: &Value, channel: CallChannel) -> ProbeFinding {
        self.runtime.probe(self.module(step), step, input, channel).await
    }

    async fn apply(&self, step: &PlanStep, intent: StepIntent, channel: CallChannel) -> StepCompletion {
        self.runtime.apply(self.module(step), step, intent, channel).await
    }

    async fn revert(
        &self,
        step: &PlanStep,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
        channel: CallChannel,
    ) -> UndoCompletion {
        self.runtime.revert(self.module(step), step, intent, input, receipt, channel).await
    }
}
