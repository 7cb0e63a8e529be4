//! Calls of modules during an attempt: while one runs, its messages go to the journal as they come.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Halt, Ready, attempt::Attempt};
use contract::step::{Failure, Finding, Outcome, Progress, Receipt};
use journal::{Intent, Journal, Place, Trail, UndoIntent, event::Question, file::Note};

/// A message that may end in the midst of a secret waits so long for the next one.
const QUIET: Duration = Duration::from_millis(100);

/// So many messages are written before the call goes on.
const BATCH: usize = 64;

impl Attempt<'_> {
    pub(super) async fn call_probe(
        &mut self,
        ready: &Ready,
        input: &Value,
        question: Question,
    ) -> Result<Finding, Halt> {
        let (messages, arriving) = unbounded_channel();
        let began = Instant::now();
        let probe = self.prepared.runtime.probe(self.prepared.module(ready), &ready.step, input, messages);
        let interrupt = self.interrupt.clone();
        let finding = attend(&mut self.journal, &ready.place, arriving, probe, interrupt.grace_over()).await?;
        let (place, finding) = (ready.place.clone(), finding);
        self.journal.note(Note::Probe { place, question, took: began.elapsed(), finding: finding.clone() })?;
        Ok(finding)
    }

    pub(super) async fn call_apply(&mut self, ready: &Ready, intent: Intent) -> Result<Outcome, Halt> {
        let (messages, arriving) = unbounded_channel();
        let step = self.surroundings.around(&ready.step);
        let apply = self.prepared.runtime.apply(self.prepared.module(ready), &step, intent, messages);
        let interrupt = self.interrupt.clone();
        let ended = attend(&mut self.journal, &ready.place, arriving, apply, interrupt.grace_over()).await?;
        let outcome = ended.result().clone();
        self.journal.settle(ended)?;
        Ok(outcome)
    }

    pub(super) async fn call_revert(
        &mut self,
        ready: &Ready,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
    ) -> Result<Option<Failure>, Halt> {
        let (messages, arriving) = unbounded_channel();
        let module = self.prepared.module(ready);
        let revert = self.prepared.runtime.revert(module, &ready.step, intent, input, receipt, messages);
        let interrupt = self.interrupt.clone();
        let ended = attend(&mut self.journal, &ready.place, arriving, revert, interrupt.grace_over()).await?;
        let failure = ended.failure().cloned();
        self.journal.settle_undo(ended)?;
        Ok(failure)
    }
}

/// Runs a call to its end, or until `enough`; its messages are written on the way. A call that is given up leaves its
/// intent without an outcome: the next attempt looks before it acts.
async fn attend<T>(
    journal: &mut Journal,
    place: &Place,
    mut arriving: UnboundedReceiver<Progress>,
    call: impl Future<Output = T>,
    enough: impl Future<Output = ()>,
) -> Result<T, Halt> {
    let mut trail = Trail::new(journal.redactor());
    let mut batch = Vec::with_capacity(BATCH);
    let mut note = |some: Vec<Progress>| {
        some.into_iter().try_for_each(|progress| journal.note(Note::Progress { place: place.clone(), progress }))
    };
    tokio::pin!(call, enough);
    let answer = loop {
        tokio::select! {
            biased;
            // First, so that a flood of messages can't keep the call from its deadline.
            answer = &mut call => break answer,
            1.. = arriving.recv_many(&mut batch, BATCH) => {
                for progress in batch.drain(..) {
                    note(trail.take(progress))?;
                }
            }
            () = &mut enough => {
                note(trail.release())?;
                return Err(Halt::Interrupted);
            }
            () = tokio::time::sleep(QUIET), if trail.is_waiting() => note(trail.release())?,
        }
    };
    while let Ok(progress) = arriving.try_recv() {
        note(trail.take(progress))?;
    }
    note(trail.release())?;
    Ok(answer)
}
