//! Calls a step's module during an attempt, and writes its messages to the journal while the call runs.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{AttemptError, Executor, Interrupt, PlannedStep};
use contract::step::{ProbeFinding, Receipt, StepFailure, StepOutcome, StepProgress};
use journal::{Journal, MessageRedactor, StepIntent, StepTarget, UndoIntent, event::ProbeInput, file::JournalNote};
use plan::PlanStep;

/// How long a message that may end inside a secret waits for the next one.
const MESSAGE_FLUSH_DELAY: Duration = Duration::from_millis(100);

/// The most messages that are written before the call is polled again.
const MESSAGE_BATCH_SIZE: usize = 64;

/// A call of a step's module whose messages and result are recorded in the journal.
pub(super) struct JournaledCall<'a> {
    pub(super) journal: &'a mut Journal,
    pub(super) interrupt: &'a Interrupt,
    pub(super) executor: &'a dyn Executor,
    pub(super) planned: &'a PlannedStep,
}

impl JournaledCall<'_> {
    /// Calls the module's probe with an input, and records its finding.
    pub(super) async fn probe(self, input: &Value, probed_input: ProbeInput) -> Result<ProbeFinding, AttemptError> {
        let Self { journal, interrupt, executor, planned } = self;
        let (messages, received) = unbounded_channel();
        let began = Instant::now();
        let probe = executor.probe(&planned.step, input, messages);
        let step_target = planned.step_target.clone();
        let finding = run_with_messages(journal, &step_target, received, probe, interrupt.grace_period_over()).await?;
        Ok(journal.record_probe(&step_target, probed_input, began.elapsed(), finding)?)
    }

    /// Calls `apply`, and records its outcome. `step` is the planned step with the environment of its programs added.
    pub(super) async fn apply(self, step: &PlanStep, intent: StepIntent) -> Result<StepOutcome, AttemptError> {
        let Self { journal, interrupt, executor, planned } = self;
        let (messages, received) = unbounded_channel();
        let apply = executor.apply(step, intent, messages);
        let completion =
            run_with_messages(journal, &planned.step_target, received, apply, interrupt.grace_period_over()).await?;
        Ok(journal.record_outcome(completion)?)
    }

    /// Calls `revert`, and records its outcome. Returns the failure, if the effect was not undone.
    pub(super) async fn revert(
        self,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
    ) -> Result<Option<StepFailure>, AttemptError> {
        let Self { journal, interrupt, executor, planned } = self;
        let (messages, received) = unbounded_channel();
        let revert = executor.revert(&planned.step, intent, input, receipt, messages);
        let completion =
            run_with_messages(journal, &planned.step_target, received, revert, interrupt.grace_period_over()).await?;
        let failure = completion.failure().cloned();
        journal.record_undo_outcome(completion)?;
        Ok(failure)
    }
}

/// Runs a call until it ends or `abort` resolves, and writes its messages meanwhile. An aborted call leaves its intent
/// without an outcome, so the next attempt probes before it acts.
async fn run_with_messages<T>(
    journal: &mut Journal,
    step_target: &StepTarget,
    mut messages: UnboundedReceiver<StepProgress>,
    call: impl Future<Output = T>,
    abort: impl Future<Output = ()>,
) -> Result<T, AttemptError> {
    let mut redactor = MessageRedactor::new(journal.redactor());
    let mut batch = Vec::with_capacity(MESSAGE_BATCH_SIZE);
    let mut note = |some: Vec<StepProgress>| {
        some.into_iter().try_for_each(|progress| {
            journal.record_note(JournalNote::Progress { step_target: step_target.clone(), progress })
        })
    };
    tokio::pin!(call, abort);
    let result = loop {
        tokio::select! {
            biased;
            // The call is polled first, so that a flood of messages can't delay its deadline.
            answer = &mut call => break answer,
            1.. = messages.recv_many(&mut batch, MESSAGE_BATCH_SIZE) => {
                for progress in batch.drain(..) {
                    note(redactor.push(progress))?;
                }
            }
            () = &mut abort => {
                note(redactor.flush())?;
                return Err(AttemptError::Interrupted);
            }
            () = tokio::time::sleep(MESSAGE_FLUSH_DELAY), if redactor.has_pending() => note(redactor.flush())?,
        }
    };
    while let Ok(progress) = messages.try_recv() {
        note(redactor.push(progress))?;
    }
    note(redactor.flush())?;
    Ok(result)
}
