//! Where the calls of a step run. Today that is this machine alone.
//!
//! Invariant: an effect needs its intent on record, and gives the completion that the journal takes: the types of
//! [`journal`](journal) say so on both sides. Deliberately absent: what to call when, and the journal.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;

use contract::{
    hash::Blake3Hash,
    step::{ProbeFinding, Receipt, StepFailure},
};
use journal::{StepCompletion, StepIntent, UndoCompletion, UndoIntent};
use plan::PlanStep;
use sandbox::{InputError, LoadedModule, ModuleDescription, ModuleRuntime, PreviewChange, ProgressSender};

use super::modules::LoadedModules;

/// Makes the calls of steps on one target.
#[async_trait(?Send)]
pub trait Executor {
    /// The hashes of all files that a configuration makes inputs, by the name that the configuration has for them.
    ///
    /// # Errors
    /// [`InputError`] when one can't be read.
    async fn input_hashes(
        &self,
        step: &PlanStep,
        description: &ModuleDescription,
        config: &Value,
    ) -> Result<BTreeMap<String, Blake3Hash>, InputError>;

    /// What `apply` would do.
    ///
    /// # Errors
    /// Why the module can't tell.
    async fn preview(
        &self,
        step: &PlanStep,
        input: &Value,
        messages: ProgressSender,
    ) -> Result<Vec<PreviewChange>, StepFailure>;

    /// Whether the effect of an input holds.
    async fn probe(&self, step: &PlanStep, input: &Value, messages: ProgressSender) -> ProbeFinding;

    /// Has the effect that is on record as intended.
    async fn apply(&self, step: &PlanStep, intent: StepIntent, messages: ProgressSender) -> StepCompletion;

    /// Undoes the effect that is on record as to be undone.
    async fn revert(
        &self,
        step: &PlanStep,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
        messages: ProgressSender,
    ) -> UndoCompletion;
}

/// Runs the modules of a plan in the sandbox of this process.
pub struct LocalExecutor {
    runtime: ModuleRuntime,
    modules: LoadedModules,
}

impl LocalExecutor {
    /// An executor of steps whose modules are loaded.
    pub(super) fn new(runtime: ModuleRuntime, modules: LoadedModules) -> Self {
        Self { runtime, modules }
    }

    pub(super) fn runtime(&self) -> &ModuleRuntime {
        &self.runtime
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
    ) -> Result<BTreeMap<String, Blake3Hash>, InputError> {
        self.runtime.input_hashes(step, description, config)
    }

    async fn preview(
        &self,
        step: &PlanStep,
        input: &Value,
        messages: ProgressSender,
    ) -> Result<Vec<PreviewChange>, StepFailure> {
        self.runtime.preview(self.module(step), step, input, messages).await
    }

    async fn probe(&self, step: &PlanStep, input: &Value, messages: ProgressSender) -> ProbeFinding {
        self.runtime.probe(self.module(step), step, input, messages).await
    }

    async fn apply(&self, step: &PlanStep, intent: StepIntent, messages: ProgressSender) -> StepCompletion {
        self.runtime.apply(self.module(step), step, intent, messages).await
    }

    async fn revert(
        &self,
        step: &PlanStep,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
        messages: ProgressSender,
    ) -> UndoCompletion {
        self.runtime.revert(self.module(step), step, intent, input, receipt, messages).await
    }
}
