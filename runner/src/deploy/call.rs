//! Calls a step's module during an attempt, and writes its messages to the journal while the call runs.

use std::{
    cell::RefCell,
    future::Future,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    AttemptError, Executor, Interrupt, PlannedStep, output_recorder::OutputRecorder, request::program_records_path,
};
use contract::step::{ProbeFinding, Receipt, StepFailure, StepOutcome, StepProgress};
use journal::{Journal, MessageRedactor, StepIntent, StepTarget, UndoIntent, event::ProbeInput, file::JournalNote};
use plan::PlanStep;
use sandbox::{CallChannel, CallMessage};

/// How long a message that may end inside a secret waits for the next one.
const MESSAGE_FLUSH_DELAY: Duration = Duration::from_millis(100);

/// The most messages that are written before the call is polled again.
const MESSAGE_BATCH_SIZE: usize = 64;

/// A call of a step's module whose messages and result are recorded in the journal.
pub(super) struct JournaledCall<'a> {
    pub(super) journal: &'a RefCell<Journal>,
    pub(super) interrupt: &'a Interrupt,
    pub(super) executor: &'a dyn Executor,
    pub(super) planned: &'a PlannedStep,
}

impl JournaledCall<'_> {
    /// Calls the module's probe with an input, and records its finding.
    pub(super) async fn probe(self, input: &Value, probed_input: ProbeInput) -> Result<ProbeFinding, AttemptError> {
        let Self { journal, interrupt, executor, planned } = self;
        let (channel, received) = channel(journal, interrupt);
        let began = Instant::now();
        let probe = executor.probe(&planned.step, input, channel);
        let step_target = planned.step_target.clone();
        let finding = run_with_messages(journal, &step_target, received, probe, interrupt.grace_period_over()).await?;
        Ok(journal.borrow_mut().record_probe(&step_target, probed_input, began.elapsed(), finding)?)
    }

    /// Calls the module's rehearsal with an input. Returns why the step would be refused.
    pub(super) async fn rehearse(self, input: &Value) -> Result<Option<StepFailure>, AttemptError> {
        let Self { journal, interrupt, executor, planned } = self;
        let (channel, received) = channel(journal, interrupt);
        let rehearse = executor.rehearse(&planned.step, input, channel);
        let abort = interrupt.grace_period_over();
        let answer = run_with_messages(journal, &planned.step_target, received, rehearse, abort).await?;
        interrupt.check()?;
        Ok(answer.err())
    }

    /// Calls `apply`, and records its outcome. `step` is the planned step with the environment of its programs added.
    pub(super) async fn apply(self, step: &PlanStep, intent: StepIntent) -> Result<StepOutcome, AttemptError> {
        let Self { journal, interrupt, executor, planned } = self;
        let (channel, received) = channel(journal, interrupt);
        let apply = executor.apply(step, intent, channel);
        let completion =
            run_with_messages(journal, &planned.step_target, received, apply, interrupt.grace_period_over()).await?;
        match completion.outcome() {
            // It was cut off by the signal: the next attempt probes before it acts.
            StepOutcome::Unknown { .. } if interrupt.is_requested() => Err(AttemptError::Interrupted),
            StepOutcome::Failed { .. } if interrupt.is_requested() => {
                journal.borrow_mut().record_outcome(completion)?;
                Err(AttemptError::Interrupted)
            }
            StepOutcome::Succeeded { .. } | StepOutcome::Failed { .. } | StepOutcome::Unknown { .. } => {
                Ok(journal.borrow_mut().record_outcome(completion)?)
            }
        }
    }

    /// Calls `revert`, and records its outcome. Returns the failure, if the effect was not undone.
    pub(super) async fn revert(
        self,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
    ) -> Result<Option<StepFailure>, AttemptError> {
        let Self { journal, interrupt, executor, planned } = self;
        let (channel, received) = channel(journal, interrupt);
        let revert = executor.revert(&planned.step, intent, input, receipt, channel);
        let completion =
            run_with_messages(journal, &planned.step_target, received, revert, interrupt.grace_period_over()).await?;
        let failure = completion.failure().cloned();
        journal.borrow_mut().record_undo_outcome(completion)?;
        Ok(failure)
    }
}

/// The call's end of the connection with this attempt, and ours.
fn channel(journal: &RefCell<Journal>, interrupt: &Interrupt) -> (CallChannel, UnboundedReceiver<CallMessage>) {
    let (channel, received) = CallChannel::new();
    let records = program_records_path(journal.borrow().path());
    (channel.with_stop(interrupt.request_time()).with_program_records(records.into()), received)
}

/// Runs a call until it ends or `abort` resolves, and writes its messages and the output of its programs meanwhile. An aborted call
/// leaves its intent without an outcome, so the next attempt probes before it acts.
async fn run_with_messages<T>(
    journal: &RefCell<Journal>,
    step_target: &StepTarget,
    mut messages: UnboundedReceiver<CallMessage>,
    call: impl Future<Output = T>,
    abort: impl Future<Output = ()>,
) -> Result<T, AttemptError> {
    let mut batch = Vec::with_capacity(MESSAGE_BATCH_SIZE);
    let mut recorder = CallRecorder::new(journal, step_target);
    tokio::pin!(call, abort);
    let result = loop {
        tokio::select! {
            biased;
            // The call is polled first, so that a flood of messages can't delay its deadline.
            answer = &mut call => break Ok(answer),
            1.. = messages.recv_many(&mut batch, MESSAGE_BATCH_SIZE) => {
                batch.drain(..).try_for_each(|message| recorder.push(message))?;
            }
            () = &mut abort => break Err(AttemptError::Interrupted),
            () = tokio::time::sleep_until(recorder.flush_at()), if recorder.has_pending() => recorder.flush()?,
        }
    };
    while let Ok(message) = messages.try_recv() {
        recorder.push(message)?;
    }
    recorder.finish()?;
    result
}

/// Writes what a call says.
struct CallRecorder<'a> {
    journal: &'a RefCell<Journal>,
    step_target: &'a StepTarget,
    messages: MessageRedactor,
    /// The output of the call's programs, if it runs any.
    output: Option<OutputRecorder>,
    /// When something began to wait for what follows it.
    pending_since: Instant,
}

impl<'a> CallRecorder<'a> {
    fn new(journal: &'a RefCell<Journal>, step_target: &'a StepTarget) -> Self {
        let messages = MessageRedactor::new(journal.borrow().redactor());
        Self { journal, step_target, messages, output: None, pending_since: Instant::now() }
    }

    fn push(&mut self, message: CallMessage) -> Result<(), AttemptError> {
        let had_pending = self.has_pending();
        match message {
            CallMessage::Progress(progress) => {
                let released = self.messages.push(progress);
                self.note(released)?;
            }
            CallMessage::Output(output) => {
                let recorder = self.output.get_or_insert_with(|| OutputRecorder::new(self.journal.borrow().redactor()));
                recorder.push(output.into_chunk(), &mut self.journal.borrow_mut(), self.step_target)?;
            }
        }
        if !had_pending {
            self.pending_since = Instant::now();
        }
        Ok(())
    }

    fn has_pending(&self) -> bool {
        self.messages.has_pending() || self.output.as_ref().is_some_and(OutputRecorder::has_pending)
    }

    fn flush_at(&self) -> tokio::time::Instant {
        (self.pending_since + MESSAGE_FLUSH_DELAY).into()
    }

    fn flush(&mut self) -> Result<(), AttemptError> {
        let released = self.messages.flush();
        self.note(released)?;
        match &mut self.output {
            Some(output) => Ok(output.flush(&mut self.journal.borrow_mut(), self.step_target)?),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<(), AttemptError> {
        self.flush()?;
        match self.output {
            Some(output) => Ok(output.finish(&mut self.journal.borrow_mut(), self.step_target)?),
            None => Ok(()),
        }
    }

    fn note(&mut self, messages: Vec<StepProgress>) -> Result<(), AttemptError> {
        messages.into_iter().try_for_each(|progress| {
            let step_target = self.step_target.clone();
            Ok(self.journal.borrow_mut().record_note(JournalNote::Progress { step_target, progress })?)
        })
    }
}
