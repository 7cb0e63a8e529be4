//! Undoing: what an earlier attempt began to undo, and the rollback after a failure past the point of no return.

use super::{AttemptError, PlannedStep, attempt::RunningAttempt};
use contract::step::{ProbeFinding, Receipt, StepFailure, StepPhase};
use journal::{
    RecordStatus, StepTarget,
    decision::{self, UndoSupport},
    event::{Decision, DecisionReason, ProbeInput},
};
use plan::OnFailure;

/// How a rollback ended.
pub(super) enum RollbackResult {
    /// The release before is live again.
    Done,
    /// It does not apply: held where it is. Why, if that needs saying.
    NotRolledBack(Option<String>),
}

impl RunningAttempt<'_> {
    /// Undoes back to the first step that exposed the release, if the plan says so and what was live before is verified.
    pub(super) async fn roll_back(&mut self) -> Result<RollbackResult, AttemptError> {
        let prepared = self.prepared;
        if prepared.plan.on_failure == OnFailure::Hold {
            return Ok(RollbackResult::NotRolledBack(None));
        }
        let order = prepared.steps.iter().map(|ready| {
            let commits = ready.description.phase == StepPhase::Commit;
            let possible = commits && ready.description.reverts;
            (&ready.step_target, if possible { UndoSupport::Possible } else { UndoSupport::Impossible })
        });
        let undo = decision::steps_to_undo(self.journal.state(), &self.header.run, order);
        let Some(exposing) = undo.last() else { return Ok(RollbackResult::NotRolledBack(None)) };
        let state = self.journal.state();
        let before = state.records.get(exposing).and_then(|record| record.live_before.as_ref());
        match before {
            None => {
                return Ok(RollbackResult::NotRolledBack(Some("no release was live before this one".to_owned())));
            }
            Some(release) if release.is_same(&self.header.release) => {
                return Ok(RollbackResult::NotRolledBack(Some(
                    "this release was already live before this run".to_owned(),
                )));
            }
            Some(release) if !state.head.is_verified(release) => {
                let why = format!("the previous release, {}, was never verified", release.label);
                return Ok(RollbackResult::NotRolledBack(Some(why)));
            }
            Some(_) => {}
        }
        if let Some(step_target) = self.irreversible_step(exposing) {
            return Err(AttemptError::Irreversible { step_target, not_undone: undo });
        }
        for step_target in &undo {
            let ready = prepared.steps.iter().find(|ready| ready.step_target == *step_target);
            self.undo_step(ready.expect("a rollback names steps of the plan")).await?;
        }
        Ok(RollbackResult::Done)
    }

    /// A step from the exposing one on that may have had its effect in this run, and that the plan says can't be taken back.
    fn irreversible_step(&self, exposing: &StepTarget) -> Option<StepTarget> {
        let after = self.prepared.steps.iter().skip_while(|ready| ready.step_target != *exposing);
        let has_run = |ready: &&PlannedStep| {
            let record = self.journal.state().records.get(&ready.step_target);
            record.is_some_and(|record| {
                record.intent.run == self.header.run
                    && !matches!(record.status, RecordStatus::Failed(_) | RecordStatus::Reverted)
            })
        };
        after.filter(|ready| ready.step.irreversible).find(has_run).map(|ready| ready.step_target.clone())
    }

    /// Undoes one step by its record.
    pub(super) async fn undo_step(&mut self, planned: &PlannedStep) -> Result<(), AttemptError> {
        if let Some(RecordStatus::Intended) = self.journal.state().status(&planned.step_target)
            && !self.adopt_before_undo(planned).await?
        {
            return Ok(());
        }
        let Some(record) = self.journal.state().records.get(&planned.step_target).cloned() else { return Ok(()) };
        let receipt = match &record.status {
            RecordStatus::Succeeded(receipt) | RecordStatus::Undoing(Some(receipt)) => receipt.clone(),
            RecordStatus::Undoing(None) | RecordStatus::Intended | RecordStatus::Failed(_) | RecordStatus::Reverted => {
                Receipt::default()
            }
        };
        // It is this attempt that undoes it: what fences older ones must not take it for one.
        let mut input = record.intent.input.clone();
        input["epoch"] = self.header.epoch.into();
        let intent = self.journal.record_undo_intent(&planned.step_target)?;
        // What is undone was done in the commit phase. An undo that was not begun is finished by the next attempt.
        self.confirm_lock().await?;
        match self.call_revert(planned, intent, &input, &receipt).await? {
            None => Ok(()),
            Some(failure) => Err(AttemptError::UndoFailed { step_target: planned.step_target.clone(), failure }),
        }
    }

    /// A step whose outcome is not known: what is there is adopted, so that its receipt tells how to undo it. Returns whether
    /// there is anything to undo.
    async fn adopt_before_undo(&mut self, planned: &PlannedStep) -> Result<bool, AttemptError> {
        let Some(record) = self.journal.state().records.get(&planned.step_target).cloned() else { return Ok(false) };
        let finding = if planned.description.has_probe(&record.intent.input["config"]) {
            self.call_probe(planned, &record.intent.input, ProbeInput::Recorded).await?
        } else {
            ProbeFinding::Unknown { why: "it has no probe".to_owned() }
        };
        match finding {
            ProbeFinding::Held { receipt } => {
                let reason = DecisionReason::Interrupted { finding: Some("held".to_owned()) };
                self.journal.record_decision(&planned.step_target, Decision::Adopt { reason, receipt })?;
                Ok(true)
            }
            ProbeFinding::Absent => Ok(false),
            ProbeFinding::Drifted { why } | ProbeFinding::Unknown { why } => {
                let message = format!("outcome unknown: {why}");
                Err(AttemptError::UndoFailed {
                    step_target: planned.step_target.clone(),
                    failure: StepFailure::new("permanent", message),
                })
            }
            ProbeFinding::Failed { failure } => {
                Err(AttemptError::UndoFailed { step_target: planned.step_target.clone(), failure })
            }
        }
    }
}
