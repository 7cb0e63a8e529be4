//! Runs one step on one target: decides about it, probes it if needed, and carries it out.

use std::time::Duration;

use super::{AttemptError, PlannedStep, attempt::RunningAttempt, resolve::ResolvedStep, undo};
use contract::step::{FailureKind, ProbeFinding, Receipt, StepFailure, StepOutcome, StepPhase};
use journal::{
    Journal, StepIntent,
    decision::{self, NextAction},
    event::{Decision, DecisionReason, ProbeInput},
};
use state::{LockError, StateError};

/// The most calls of a probe that fails.
const MAX_PROBE_CALLS: u32 = 2;

/// The pause before the first retry; each further pause is twice as long.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause before a retry.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Runs a step of an attempt. Several may run at once, each on its target.
#[derive(Clone, Copy)]
pub(super) struct StepRunner<'r, 'a> {
    pub(super) attempt: &'r RunningAttempt<'a>,
}

impl StepRunner<'_, '_> {
    /// Decides about one step, and carries out the decision.
    pub(super) async fn run(self, planned: &PlannedStep, selected_by_name: bool) -> Result<Receipt, AttemptError> {
        let resolved = match self.attempt.evaluate_input(planned, selected_by_name).await {
            Ok(resolved) => resolved,
            Err(error) => {
                // A host refuses whoever has lost the lock to a newer attempt.
                self.attempt.confirm_lock_locally()?;
                return Err(self.record_invalid_input(planned, error)?);
            }
        };
        let mut finding = None;
        loop {
            self.attempt.interrupt.check()?;
            let next =
                self.attempt.with_view(|view| decision::decide(&view.decision_input(&resolved, finding.as_ref())));
            let decision = match next {
                NextAction::Probe(probe_input) => {
                    finding = Some(self.probe_with_retries(&resolved, probe_input).await?);
                    continue;
                }
                NextAction::FinishUndo => {
                    undo::undo_step(self.attempt, planned).await?;
                    finding = None;
                    continue;
                }
                NextAction::Decided(decision) => decision,
            };
            let decision = match self.attempt.overrides().is_import() {
                true => import_decision(planned, decision, finding.as_ref())?,
                false => decision,
            };
            self.record_decision(&resolved, decision.clone())?;
            match decision {
                Decision::Skip { receipt, .. } => return Ok(receipt),
                // The finding is about the current input, so it can be used again.
                Decision::Adopt { reason: DecisionReason::Unconfirmed { .. }, .. } => {}
                Decision::Adopt { .. } => finding = None,
                Decision::Run { .. } => return self.apply_with_retries(&resolved).await,
                Decision::Stop { reason } => {
                    return Err(AttemptError::InDoubt { step_target: planned.step_target.clone(), reason });
                }
            }
        }
    }

    /// Records that the step can't run because its input can't be computed, so that the journal says where the attempt ended.
    fn record_invalid_input(self, planned: &PlannedStep, error: AttemptError) -> Result<AttemptError, AttemptError> {
        if let AttemptError::Plan(diagnostic) = &error {
            let reason = DecisionReason::InvalidInput { message: diagnostic.message.clone() };
            self.attempt.journal.borrow_mut().record_decision(&planned.step_target, Decision::Stop { reason })?;
        }
        Ok(error)
    }

    /// Records a decision. An adoption without an authenticated record gets its intent first.
    fn record_decision(self, resolved: &ResolvedStep<'_>, decision: Decision) -> Result<(), AttemptError> {
        let ResolvedStep { planned, input, key, fingerprint, .. } = resolved;
        let (mut journal, step_target) = (self.attempt.journal.borrow_mut(), &planned.step_target);
        if let Decision::Skip { receipt, .. } | Decision::Adopt { receipt, .. } = &decision {
            check_recorded_receipt(planned, &journal, receipt)?;
        }
        if let Decision::Adopt { reason: DecisionReason::Unconfirmed { .. }, .. } = &decision {
            let effect = planned.description.effect();
            journal.record_adoption_intent(step_target, key, fingerprint.clone(), input.clone(), effect)?;
        }
        Ok(journal.record_decision(step_target, decision)?)
    }

    /// Probes whether an effect holds. A failed probe is called once more.
    async fn probe_with_retries(
        self,
        resolved: &ResolvedStep<'_>,
        probe_input: ProbeInput,
    ) -> Result<ProbeFinding, AttemptError> {
        let planned = resolved.planned;
        let input = resolved.probed_input(probe_input, &self.attempt.state()).clone();
        let mut calls = 1;
        loop {
            let finding = self.attempt.call(planned).probe(&input, probe_input).await?;
            match finding {
                ProbeFinding::Failed { .. } if calls < MAX_PROBE_CALLS => {
                    calls += 1;
                    self.attempt.interrupt.pause(FIRST_RETRY_PAUSE).await?;
                }
                ProbeFinding::Failed { .. }
                | ProbeFinding::Held { .. }
                | ProbeFinding::Absent
                | ProbeFinding::Drifted { .. }
                | ProbeFinding::Unknown { .. } => return Ok(finding),
            }
        }
    }

    /// Applies the step, and retries a retryable failure as often as the plan allows.
    pub(super) async fn apply_with_retries(self, resolved: &ResolvedStep<'_>) -> Result<Receipt, AttemptError> {
        let planned = resolved.planned;
        let (mut retries_left, mut pause) = (planned.step.retry, FIRST_RETRY_PAUSE);
        loop {
            let (failure, outcome_known) = match self.apply(resolved).await? {
                StepOutcome::Succeeded { receipt } => return Ok(receipt),
                StepOutcome::Failed { failure } if failure.retryable && retries_left > 0 => {
                    self.attempt.interrupt.pause(pause).await?;
                    retries_left -= 1;
                    pause = (pause * 2).min(MAX_RETRY_PAUSE);
                    continue;
                }
                StepOutcome::Failed { failure } => (failure, true),
                StepOutcome::Unknown { failure } => (failure, false),
            };
            // The next holder of the lock ends the programs of this attempt.
            self.attempt.confirm_lock_locally()?;
            return Err(AttemptError::Failed { step_target: planned.step_target.clone(), failure, outcome_known });
        }
    }

    /// Applies the step once, with an intent before and an outcome after.
    async fn apply(self, resolved: &ResolvedStep<'_>) -> Result<StepOutcome, AttemptError> {
        let ResolvedStep { planned, input, key, fingerprint, for_release, .. } = resolved;
        let effect = planned.description.effect();
        let (step_target, fingerprint, input) = (&planned.step_target, fingerprint.clone(), input.clone());
        let intent = {
            let mut journal = self.attempt.journal.borrow_mut();
            match for_release.clone() {
                None => journal.record_intent(step_target, key, fingerprint, input, effect)?,
                Some(release) => journal.record_repeat_intent(step_target, key, fingerprint, input, effect, release)?,
            }
        };
        let intent = self.ensure_lock(planned, intent).await?;
        let step = self.attempt.step_environment.apply_to(&planned.step);
        self.attempt.call(planned).apply(&step, intent).await
    }

    /// Confirms the lock between the intent of a step and its effect; for a commit step with a remote state, also that the
    /// intent is uploaded. If this fails, it records that the step was not started, unless the lock is lost.
    async fn ensure_lock(self, planned: &PlannedStep, intent: StepIntent) -> Result<StepIntent, AttemptError> {
        let confirmed = match planned.description.phase {
            StepPhase::Commit => self.attempt.confirm_lock().await,
            StepPhase::Check | StepPhase::Prepare => self.attempt.confirm_lock_locally(),
        };
        let Err(error) = confirmed else { return Ok(intent) };
        let mut journal = self.attempt.journal.borrow_mut();
        if !journal.is_fenced() {
            let is_upload = matches!(
                &error,
                AttemptError::Lock(LockError::State(StateError::NotUploaded { .. } | StateError::Artifact(_)))
            );
            let why = if is_upload {
                "not started: the journal could not be uploaded"
            } else {
                "not started: the runner could not confirm the lock"
            };
            let failure = StepFailure::new(FailureKind::NotBegun, why);
            journal.record_outcome(intent.complete(StepOutcome::Failed { failure }, Duration::ZERO))?;
        }
        Err(error)
    }
}

/// The decision in an import, which changes nothing: content and link must be there, what can't be probed is left out, checks run.
fn import_decision(
    planned: &PlannedStep,
    decision: Decision,
    finding: Option<&ProbeFinding>,
) -> Result<Decision, AttemptError> {
    let PlannedStep { step_target, description, .. } = planned;
    match &decision {
        Decision::Skip { .. } | Decision::Adopt { .. } => return Ok(decision),
        Decision::Run { .. } if description.phase == StepPhase::Check => return Ok(decision),
        Decision::Run { .. } | Decision::Stop { .. } => {}
    }
    if description.phase == StepPhase::Commit && !description.exposes {
        return Ok(Decision::Skip { reason: DecisionReason::NotSelected, receipt: Receipt::default() });
    }
    let why = match finding {
        Some(ProbeFinding::Drifted { why } | ProbeFinding::Unknown { why }) => why.clone(),
        Some(ProbeFinding::Failed { failure }) => failure.message.clone(),
        Some(ProbeFinding::Absent | ProbeFinding::Held { .. }) | None => {
            "its probe does not find its effect".to_owned()
        }
    };
    Err(AttemptError::NotImported { step_target: step_target.clone(), why })
}

/// Refuses a receipt on record with a value that has become a secret since it was recorded.
pub(super) fn check_recorded_receipt(
    planned: &PlannedStep,
    journal: &Journal,
    receipt: &Receipt,
) -> Result<(), AttemptError> {
    match journal.redactor().scanner().find_in_receipt(receipt) {
        Some(found) => Err(AttemptError::SecretInReceipt { step_target: planned.step_target.clone(), found }),
        None => Ok(()),
    }
}
