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
mod error;
mod fingerprint;
mod hooks;
mod interrupt;
mod migration_lint;
pub mod pins;
mod preflight;
mod preview;
mod prune;
mod resolve;
mod rollback;

pub use attempt::{AttemptResult, DeploymentRequest};
pub use error::{AttemptError, migration_diagnostic};
pub use interrupt::Interrupt;
pub use pins::{ModulePins, PinPolicy, PinnedModule, describe_change};
pub use preflight::{PlannedStep, PreflightOptions, PreparedPlan, RequestedRelease, load_pins as pinned};
pub use preview::{StepPreview, preview_deployment};
pub use prune::{DEFAULT_KEPT_RELEASES, PruneError, prune};
pub use resolve::lineage;

use self::{
    attempt::RunningAttempt,
    resolve::{AttemptView, ResolvedStep},
};
use contract::{
    StepId,
    step::{ProbeFinding, Receipt, StepFailure, StepOutcome, StepPhase},
};
use journal::{
    StepIntent,
    decision::{self, NextAction, StepDisposition},
    event::{Decision, DecisionReason, ProbeInput},
};

/// A probe that fails is asked this many times in all.
const MAX_PROBE_CALLS: u32 = 2;

/// Between two tries of a retryable failure: this long, then twice as long, up to the second.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

impl RunningAttempt<'_> {
    /// Works through the plan.
    async fn run_steps(&mut self) -> Result<(), AttemptError> {
        let prepared = self.prepared;
        let named = self.overrides.selection.option().and_then(|(_, step)| prepared.index(step));
        for (index, planned) in prepared.steps.iter().enumerate() {
            let outputs = match self.overrides.selection.disposition_of(index, named) {
                StepDisposition::Exclude => continue,
                StepDisposition::AssumeDone => self.assume_done(planned)?,
                StepDisposition::Evaluate { selected_by_name: named } => self.run_step(planned, named).await?.outputs,
            };
            self.outputs.insert(planned.step.id.clone(), outputs);
        }
        Ok(())
    }

    fn view(&self) -> AttemptView<'_> {
        AttemptView {
            prepared: self.prepared,
            overrides: self.overrides,
            header: &self.header,
            state: self.journal.state(),
            outputs: &self.outputs,
        }
    }

    /// A step before the one that the operator starts from: taken as done, with the outputs on record.
    fn assume_done(&mut self, planned: &PlannedStep) -> Result<Map<String, Value>, AttemptError> {
        let receipt = self.journal.state().authenticated_receipt(&planned.step_target).cloned().unwrap_or_default();
        let outputs = receipt.outputs.clone();
        self.journal.record_decision(
            &planned.step_target,
            Decision::Skip { reason: DecisionReason::RequestedByOperator, receipt },
        )?;
        Ok(outputs)
    }

    /// Decides about one step and does what was decided.
    async fn run_step(&mut self, planned: &PlannedStep, named: bool) -> Result<Receipt, AttemptError> {
        let resolved = self.view().evaluate_input(planned, named)?;
        let mut finding = None;
        loop {
            self.interrupt.check()?;
            let next_action = decision::decide(&self.view().decision_input(&resolved, finding.as_ref()));
            match next_action {
                NextAction::Probe(probe_input) => {
                    finding = Some(self.probe_with_retries(&resolved, probe_input).await?)
                }
                NextAction::FinishUndo => {
                    self.undo_step(planned).await?;
                    finding = None;
                }
                NextAction::Decided(decision) => {
                    let adopts_unconfirmed =
                        matches!(decision, Decision::Adopt { reason: DecisionReason::Unconfirmed { .. }, .. });
                    if adopts_unconfirmed {
                        let ResolvedStep { planned: ready, input, key, fingerprint, .. } = &resolved;
                        let effect = ready.description.effect();
                        self.journal.record_adoption_intent(
                            &ready.step_target,
                            key,
                            fingerprint.clone(),
                            input.clone(),
                            effect,
                        )?;
                    }
                    self.journal.record_decision(&planned.step_target, decision.clone())?;
                    match decision {
                        Decision::Skip { receipt, .. } => return Ok(receipt),
                        // The probe was asked about the input of now already.
                        Decision::Adopt { .. } if adopts_unconfirmed => {}
                        Decision::Adopt { .. } => finding = None,
                        Decision::Run { .. } => return self.apply_with_retries(&resolved).await,
                        Decision::Stop { reason } => {
                            return Err(AttemptError::InDoubt { step_target: planned.step_target.clone(), reason });
                        }
                    }
                }
            }
        }
    }

    /// Asks the module whether an effect holds. A probe that fails is asked again.
    async fn probe_with_retries(
        &mut self,
        resolved: &ResolvedStep<'_>,
        probe_input: ProbeInput,
    ) -> Result<ProbeFinding, AttemptError> {
        let step_target = &resolved.planned.step_target;
        let input = match (probe_input, self.journal.state().records.get(step_target)) {
            (ProbeInput::Recorded, Some(record)) => record.intent.input.clone(),
            (ProbeInput::Recorded, None) | (ProbeInput::Current, _) => resolved.input.clone(),
        };
        let mut calls = 1;
        loop {
            let finding = self.call_probe(resolved.planned, &input, probe_input).await?;
            match finding {
                ProbeFinding::Failed { .. } if calls < MAX_PROBE_CALLS => {
                    calls += 1;
                    self.interrupt.pause(RETRY_BACKOFF.0).await?;
                }
                ProbeFinding::Failed { .. }
                | ProbeFinding::Held { .. }
                | ProbeFinding::Absent
                | ProbeFinding::Drifted { .. }
                | ProbeFinding::Unknown { .. } => return Ok(finding),
            }
        }
    }

    /// Acts, with an intent before and an outcome after, and again while the failure is retryable and the plan allows it.
    async fn apply_with_retries(&mut self, resolved: &ResolvedStep<'_>) -> Result<Receipt, AttemptError> {
        let ResolvedStep { planned, input, key, fingerprint, .. } = resolved;
        let mut pause = RETRY_BACKOFF.0;
        for left in (0..=planned.step.retry).rev() {
            let effect = planned.description.effect();
            let intent =
                self.journal.record_intent(&planned.step_target, key, fingerprint.clone(), input.clone(), effect)?;
            let intent = self.ensure_lock_for_commit(planned, intent).await?;
            match self.call_apply(planned, intent).await? {
                StepOutcome::Succeeded { receipt } => return Ok(receipt),
                StepOutcome::Failed { failure: StepFailure { retryable: true, .. } } if left > 0 => {
                    self.interrupt.pause(pause).await?;
                    pause = (pause * 2).min(RETRY_BACKOFF.1);
                }
                StepOutcome::Failed { failure } => {
                    return Err(AttemptError::Failed {
                        step_target: planned.step_target.clone(),
                        failure,
                        outcome_known: true,
                    });
                }
                StepOutcome::Unknown { failure } => {
                    return Err(AttemptError::Failed {
                        step_target: planned.step_target.clone(),
                        failure,
                        outcome_known: false,
                    });
                }
            }
        }
        unreachable!("the last round returns: its failure is not retried")
    }

    /// Asked between the intent of a commit step and its effect: the lock is ours, and where state is remote, the intent is
    /// there. If not, the step is settled as not begun.
    async fn ensure_lock_for_commit(
        &mut self,
        planned: &PlannedStep,
        intent: StepIntent,
    ) -> Result<StepIntent, AttemptError> {
        if planned.description.phase != StepPhase::Commit {
            return Ok(intent);
        }
        match self.confirm_lock().await {
            Ok(()) => Ok(intent),
            Err(halt) => {
                let failure = StepFailure::new("not-begun", "not started: the runner could not confirm the lock");
                self.journal.record_outcome(intent.complete(StepOutcome::Failed { failure }, Duration::ZERO))?;
                Err(halt)
            }
        }
    }

    /// Confirms the lock, unless interrupted meanwhile for longer than a call may go on.
    pub(in crate::deploy) async fn confirm_lock(&self) -> Result<(), AttemptError> {
        tokio::select! {
            biased;
            confirmed = self.lock.ensure_held() => Ok(confirmed?),
            () = self.interrupt.grace_period_over() => Err(AttemptError::Interrupted),
        }
    }
}

/// What it means that the journals of earlier attempts of a CI run are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingJournalPolicy {
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
pub struct DeployOverrides {
    /// Which steps.
    pub selection: decision::Selection,
    /// `--fresh`.
    pub fresh: bool,
    /// `--accept-drift`, of these steps.
    pub accept_drift: BTreeSet<StepId>,
    /// What it means that the journals of earlier attempts of a CI run are missing.
    pub missing_journal: MissingJournalPolicy,
    /// They are, and every step may have been begun.
    pub journal_missing: bool,
    /// The command, if it was not `deploy`: for the record.
    pub command: Option<&'static str>,
    /// The newest epoch that this was decided on; if there is a newer one now, it must be decided again.
    pub expected_epoch: Option<u64>,
}
