//! Calls of modules during an attempt: while one runs, its messages go to the journal as they come.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{AttemptError, PlannedStep, attempt::RunningAttempt};
use contract::step::{ProbeFinding, Receipt, StepFailure, StepOutcome, StepProgress};
use journal::{Journal, MessageRedactor, StepIntent, StepTarget, UndoIntent, event::ProbeInput, file::JournalNote};

/// A message that may end in the midst of a secret waits so long for the next one.
const MESSAGE_FLUSH_DELAY: Duration = Duration::from_millis(100);

/// So many messages are written before the call goes on.
const MESSAGE_BATCH_SIZE: usize = 64;

impl RunningAttempt<'_> {
    pub(super) async fn call_probe(
        &mut self,
        planned: &PlannedStep,
        input: &Value,
        probed_input: ProbeInput,
    ) -> Result<ProbeFinding, AttemptError> {
        let (messages, received) = unbounded_channel();
        let began = Instant::now();
        let probe = self.prepared.runtime.probe(self.prepared.module(planned), &planned.step, input, messages);
        let interrupt = self.interrupt.clone();
        let finding =
            run_with_messages(&mut self.journal, &planned.step_target, received, probe, interrupt.grace_period_over())
                .await?;
        let (step_target, finding) = (planned.step_target.clone(), finding);
        self.journal.record_note(JournalNote::Probe {
            step_target,
            probed_input,
            took: began.elapsed(),
            finding: finding.clone(),
        })?;
        Ok(finding)
    }

    pub(super) async fn call_apply(
        &mut self,
        planned: &PlannedStep,
        intent: StepIntent,
    ) -> Result<StepOutcome, AttemptError> {
        let (messages, received) = unbounded_channel();
        let step = self.step_environment.apply_to(&planned.step);
        let apply = self.prepared.runtime.apply(self.prepared.module(planned), &step, intent, messages);
        let interrupt = self.interrupt.clone();
        let completion =
            run_with_messages(&mut self.journal, &planned.step_target, received, apply, interrupt.grace_period_over())
                .await?;
        let outcome = completion.outcome().clone();
        self.journal.record_outcome(completion)?;
        Ok(outcome)
    }

    pub(super) async fn call_revert(
        &mut self,
        planned: &PlannedStep,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
    ) -> Result<Option<StepFailure>, AttemptError> {
        let (messages, received) = unbounded_channel();
        let module = self.prepared.module(planned);
        let revert = self.prepared.runtime.revert(module, &planned.step, intent, input, receipt, messages);
        let interrupt = self.interrupt.clone();
        let completion =
            run_with_messages(&mut self.journal, &planned.step_target, received, revert, interrupt.grace_period_over())
                .await?;
        let failure = completion.failure().cloned();
        self.journal.record_undo_outcome(completion)?;
        Ok(failure)
    }
}

/// Runs a call to its end, or until `enough`; its messages are written on the way. A call that is given up leaves its
/// intent without an outcome: the next attempt looks before it acts.
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
            // First, so that a flood of messages can't keep the call from its deadline.
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
