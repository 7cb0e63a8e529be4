//! The only loop, and the only place that sees every stage.
//!
//! For each step, in the plan's order: compute what it depends on, ask [`schedule`] what to do, probe if it asks, and do it.
//! The order intent, effect, outcome is in the types of [`journal`](journal). A failure before the point of no return holds; after it,
//! with `on-failure: rollback` and a verified release before it, everything back to that point is undone.
//! Deliberately absent: rules (those are [`schedule`]'s), output (an observer of the journal's), and the command line.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Map, Value};

mod attempt;
mod call;
mod ending;
mod fingerprint;
mod foresee;
mod hooks;
mod interrupt;
mod linted;
pub mod pins;
mod prepare;
mod prune;
mod undo;
mod view;

pub use attempt::{Deployment, Ending};
pub use ending::{Halt, of_migrations};
pub use foresee::{Foreseen, foresee};
pub use interrupt::Interrupt;
pub use pins::{Listed, Pinning, Pins, differences};
pub use prepare::{Prepared, Ready, Setting, Wanted, pins as pinned};
pub use prune::{KEEP, PruneError, prune};
pub use view::lineage;

use self::{
    attempt::Attempt,
    view::{Asked, View},
};
use contract::{
    StepId,
    step::{Failure, Finding, Outcome, Phase, Receipt},
};
use journal::{
    Intent,
    decision::{self, Selected, Verdict},
    event::{Decision, Question, Reason},
};

/// A probe that fails is asked this many times in all.
const PROBE_TRIES: u32 = 2;

/// Between two tries of a retryable failure: this long, then twice as long, up to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

impl Attempt<'_> {
    /// Works through the plan.
    async fn steps(&mut self) -> Result<(), Halt> {
        let prepared = self.prepared;
        let named = self.orders.selection.option().and_then(|(_, step)| prepared.index(step));
        for (index, ready) in prepared.steps.iter().enumerate() {
            let outputs = match self.orders.selection.of(index, named) {
                Selected::Leave => continue,
                Selected::Word => self.take_word(ready)?,
                Selected::Act { named } => self.step(ready, named).await?.outputs,
            };
            self.outputs.insert(ready.step.id.clone(), outputs);
        }
        Ok(())
    }

    fn view(&self) -> View<'_> {
        View {
            prepared: self.prepared,
            orders: self.orders,
            header: &self.header,
            state: self.journal.state(),
            outputs: &self.outputs,
        }
    }

    /// A step before the one that the operator starts from: taken as done, with the outputs on record.
    fn take_word(&mut self, ready: &Ready) -> Result<Map<String, Value>, Halt> {
        let receipt = self.journal.state().done(&ready.place).cloned().unwrap_or_default();
        let outputs = receipt.outputs.clone();
        self.journal.decide(&ready.place, Decision::Skip { reason: Reason::OperatorWord, receipt })?;
        Ok(outputs)
    }

    /// Decides about one step and does what was decided.
    async fn step(&mut self, ready: &Ready, named: bool) -> Result<Receipt, Halt> {
        let question = self.view().ask(ready, named)?;
        let mut finding = None;
        loop {
            self.interrupt.check()?;
            let verdict = decision::decide(&self.view().facts(&question, finding.as_ref()));
            match verdict {
                Verdict::Probe(about) => finding = Some(self.probe(&question, about).await?),
                Verdict::FinishUndo => {
                    self.undo(ready).await?;
                    finding = None;
                }
                Verdict::Decided(decision) => {
                    let is_new = matches!(decision, Decision::Adopt { reason: Reason::Unconfirmed { .. }, .. });
                    if is_new {
                        let Asked { ready, input, key, fingerprint, .. } = &question;
                        let effect = ready.description.effect();
                        self.journal.vouch(&ready.place, key, fingerprint.clone(), input.clone(), effect)?;
                    }
                    self.journal.decide(&ready.place, decision.clone())?;
                    match decision {
                        Decision::Skip { receipt, .. } => return Ok(receipt),
                        // The probe was asked about the input of now already.
                        Decision::Adopt { .. } if is_new => {}
                        Decision::Adopt { .. } => finding = None,
                        Decision::Run { .. } => return self.act(&question).await,
                        Decision::Stop { reason } => return Err(Halt::InDoubt { place: ready.place.clone(), reason }),
                    }
                }
            }
        }
    }

    /// Asks the module whether an effect holds. A probe that fails is asked again.
    async fn probe(&mut self, question: &Asked<'_>, about: Question) -> Result<Finding, Halt> {
        let place = &question.ready.place;
        let input = match (about, self.journal.state().records.get(place)) {
            (Question::Recorded, Some(record)) => record.intent.input.clone(),
            (Question::Recorded, None) | (Question::Current, _) => question.input.clone(),
        };
        let mut tries = 1;
        loop {
            let finding = self.call_probe(question.ready, &input, about).await?;
            match finding {
                Finding::Failed { .. } if tries < PROBE_TRIES => {
                    tries += 1;
                    self.interrupt.pause(BACK_OFF.0).await?;
                }
                Finding::Failed { .. }
                | Finding::Held { .. }
                | Finding::Absent
                | Finding::Drifted { .. }
                | Finding::Unknown { .. } => return Ok(finding),
            }
        }
    }

    /// Acts, with an intent before and an outcome after, and again while the failure is retryable and the plan allows it.
    async fn act(&mut self, question: &Asked<'_>) -> Result<Receipt, Halt> {
        let Asked { ready, input, key, fingerprint, .. } = question;
        let mut pause = BACK_OFF.0;
        for left in (0..=ready.step.retry).rev() {
            let effect = ready.description.effect();
            let intent = self.journal.intend(&ready.place, key, fingerprint.clone(), input.clone(), effect)?;
            let intent = self.permitted(ready, intent).await?;
            match self.call_apply(ready, intent).await? {
                Outcome::Succeeded { receipt } => return Ok(receipt),
                Outcome::Failed { failure: Failure { retryable: true, .. } } if left > 0 => {
                    self.interrupt.pause(pause).await?;
                    pause = (pause * 2).min(BACK_OFF.1);
                }
                Outcome::Failed { failure } => {
                    return Err(Halt::Failed { place: ready.place.clone(), failure, known: true });
                }
                Outcome::Unknown { failure } => {
                    return Err(Halt::Failed { place: ready.place.clone(), failure, known: false });
                }
            }
        }
        unreachable!("the last round returns: its failure is not retried")
    }

    /// Asked between the intent of a commit step and its effect: the lock is ours, and where state is remote, the intent is
    /// there. If not, the step is settled as not begun.
    async fn permitted(&mut self, ready: &Ready, intent: Intent) -> Result<Intent, Halt> {
        if ready.description.phase != Phase::Commit {
            return Ok(intent);
        }
        match self.confirmed().await {
            Ok(()) => Ok(intent),
            Err(halt) => {
                let failure = Failure::new("not-begun", "it was not begun: the lock was not confirmed right before it");
                self.journal.settle(intent.ended(Outcome::Failed { failure }, Duration::ZERO))?;
                Err(halt)
            }
        }
    }

    /// Confirms the lock, unless interrupted meanwhile for longer than a call may go on.
    pub(in crate::deploy) async fn confirmed(&self) -> Result<(), Halt> {
        tokio::select! {
            biased;
            confirmed = self.lock.confirm() => Ok(confirmed?),
            () = self.interrupt.grace_over() => Err(Halt::Interrupted),
        }
    }
}

/// What it means that the journals of earlier attempts of a CI run are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingJournal {
    /// Every step may have been begun: its probe is asked.
    #[default]
    Probe,
    /// Nothing is done.
    Fail,
    /// Nothing was begun.
    Restart,
}

/// What the operator ordered.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    /// Which steps.
    pub selection: decision::Selection,
    /// `--fresh`.
    pub fresh: bool,
    /// `--accept-drift`, of these steps.
    pub accept_drift: BTreeSet<StepId>,
    /// What it means that the journals of earlier attempts of a CI run are missing.
    pub missing_journal: MissingJournal,
    /// They are, and every step may have been begun.
    pub unrecorded: bool,
    /// The command, if it was not `deploy`: for the record.
    pub by: Option<&'static str>,
    /// The newest epoch that this was decided on; if there is a newer one now, it must be decided again.
    pub seen: Option<u64>,
}
