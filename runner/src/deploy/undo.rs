//! Undoing: what an earlier attempt began to undo, and the rollback after a failure past the point of no return.

use super::{Halt, Ready, attempt::Attempt};
use contract::step::{Failure, Finding, Phase, Receipt};
use journal::{
    Place, Status,
    decision::{self, Undoing},
    event::{Decision, Question, Reason},
};
use plan::OnFailure;

/// How a rollback ended.
pub(super) enum Rollback {
    /// The release before is live again.
    Done,
    /// It does not apply: held where it is. Why, if that needs saying.
    Held(Option<String>),
}

impl Attempt<'_> {
    /// Undoes back to the first step that exposed the release, if the plan says so and what was live before is verified.
    pub(super) async fn roll_back(&mut self) -> Result<Rollback, Halt> {
        let prepared = self.prepared;
        if prepared.plan.on_failure == OnFailure::Hold {
            return Ok(Rollback::Held(None));
        }
        let order = prepared.steps.iter().map(|ready| {
            let commits = ready.description.phase == Phase::Commit;
            let possible = commits && ready.description.reverts;
            (&ready.place, if possible { Undoing::Possible } else { Undoing::Impossible })
        });
        let undo = decision::rollback(self.journal.state(), &self.header.run, order);
        let Some(exposing) = undo.last() else { return Ok(Rollback::Held(None)) };
        let state = self.journal.state();
        let before = state.records.get(exposing).and_then(|record| record.live_before.as_ref());
        match before {
            None => {
                return Ok(Rollback::Held(Some(
                    "nothing was live before, so there is nothing to go back to".to_owned(),
                )));
            }
            Some(release) if release.is_same(&self.header.release) => {
                return Ok(Rollback::Held(Some("this release was live before this run already".to_owned())));
            }
            Some(release) if !state.head.is_verified(release) => {
                let why = format!("{} was live before, but was never verified", release.label);
                return Ok(Rollback::Held(Some(why)));
            }
            Some(_) => {}
        }
        if let Some(place) = self.irreversible(exposing) {
            return Err(Halt::Irreversible { place, left: undo });
        }
        for place in &undo {
            let ready = prepared.steps.iter().find(|ready| ready.place == *place);
            self.undo(ready.expect("a rollback names steps of the plan")).await?;
        }
        Ok(Rollback::Done)
    }

    /// A step from the exposing one on that may have had its effect in this run, and that the plan says can't be taken back.
    fn irreversible(&self, exposing: &Place) -> Option<Place> {
        let after = self.prepared.steps.iter().skip_while(|ready| ready.place != *exposing);
        let has_run = |ready: &&Ready| {
            let record = self.journal.state().records.get(&ready.place);
            record.is_some_and(|record| {
                record.intent.run == self.header.run && !matches!(record.status, Status::Failed(_) | Status::Reverted)
            })
        };
        after.filter(|ready| ready.step.irreversible).find(has_run).map(|ready| ready.place.clone())
    }

    /// Undoes one step by its record.
    pub(super) async fn undo(&mut self, ready: &Ready) -> Result<(), Halt> {
        if let Some(Status::Intended) = self.journal.state().status(&ready.place)
            && !self.adopt_before_undo(ready).await?
        {
            return Ok(());
        }
        let Some(record) = self.journal.state().records.get(&ready.place).cloned() else { return Ok(()) };
        let receipt = match &record.status {
            Status::Succeeded(receipt) | Status::Undoing(Some(receipt)) => receipt.clone(),
            Status::Undoing(None) | Status::Intended | Status::Failed(_) | Status::Reverted => Receipt::default(),
        };
        // It is this attempt that undoes it: what fences older ones must not take it for one.
        let mut input = record.intent.input.clone();
        input["epoch"] = self.header.epoch.into();
        let intent = self.journal.intend_undo(&ready.place)?;
        // What is undone was done in the commit phase. An undo that was not begun is finished by the next attempt.
        self.confirmed().await?;
        match self.call_revert(ready, intent, &input, &receipt).await? {
            None => Ok(()),
            Some(failure) => Err(Halt::NotUndone { place: ready.place.clone(), failure }),
        }
    }

    /// A step whose outcome is not known: what is there is adopted, so that its receipt tells how to undo it. Returns whether
    /// there is anything to undo.
    async fn adopt_before_undo(&mut self, ready: &Ready) -> Result<bool, Halt> {
        let Some(record) = self.journal.state().records.get(&ready.place).cloned() else { return Ok(false) };
        let finding = if ready.description.has_probe(&record.intent.input["config"]) {
            self.call_probe(ready, &record.intent.input, Question::Recorded).await?
        } else {
            Finding::Unknown { why: "it has no probe".to_owned() }
        };
        match finding {
            Finding::Held { receipt } => {
                let reason = Reason::Interrupted { finding: Some("held".to_owned()) };
                self.journal.decide(&ready.place, Decision::Adopt { reason, receipt })?;
                Ok(true)
            }
            Finding::Absent => Ok(false),
            Finding::Drifted { why } | Finding::Unknown { why } => {
                let message = format!("how far it got is not known: {why}");
                Err(Halt::NotUndone { place: ready.place.clone(), failure: Failure::new("permanent", message) })
            }
            Finding::Failed { failure } => Err(Halt::NotUndone { place: ready.place.clone(), failure }),
        }
    }
}
