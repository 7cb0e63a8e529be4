//! The live release, as the events of exposing steps change it.
//!
//! Deliberately absent: what the head of an environment is ([`crate::head`]).

use contract::{RunId, TargetName};

use super::{IntentRecord, JournalState, JournalTrust, LiveDoubt, LiveSince, RecordStatus, StepRecord};
use crate::event::{Release, StepTarget};

impl JournalState {
    /// From the exposing step on, whatever acts changes what users see: it counts as verified again when a check has held after it.
    pub(super) fn doubt_live_release(&mut self, step_target: &StepTarget, intent: &IntentRecord) {
        self.reached_exposure |= intent.exposes;
        let is_step_after_exposure = self.reached_exposure && !self.statuses.is_hook(step_target);
        if is_step_after_exposure && self.trust == JournalTrust::Authenticated {
            self.head.live_doubt.get_or_insert(LiveDoubt::NotChecked);
        }
    }

    /// Marks the release of a step as live, if the step exposes it and succeeded.
    pub(super) fn mark_live(&mut self, step_target: &StepTarget, at: jiff::Timestamp) {
        if let Some(StepRecord { status: RecordStatus::Succeeded(_), intent, .. }) = self.records.get(step_target)
            && intent.exposes
            && self.trust == JournalTrust::Authenticated
        {
            let release = intent.release.clone();
            self.set_live(step_target, Some(release), at);
        }
    }

    /// Records that the release before is live again on a step's target, and not checked yet.
    pub(super) fn switch_back(&mut self, step_target: &StepTarget, release: Option<Release>, at: jiff::Timestamp) {
        self.set_live(step_target, release, at);
        self.head.live_doubt = Some(LiveDoubt::SwitchedBack { why: None });
    }

    fn set_live(&mut self, step_target: &StepTarget, release: Option<Release>, at: jiff::Timestamp) {
        let before = self.head.live.clone();
        self.head.set_live_on(&step_target.target, release);
        let is_same = match (&before, &self.head.live) {
            (Some(before), Some(after)) => before.is_same(after),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_same {
            let by = self.attempts.last().map_or_else(String::new, |attempt| attempt.header.by.clone());
            self.head.live_since = Some(LiveSince { at, by });
            // What is doubted of one release is not said of another.
            self.head.live_doubt = self.head.live_doubt.take().map(|_| LiveDoubt::NotChecked);
        }
    }

    /// The release that was live on a target before a run exposed its own there; the live release, if the run has not exposed one yet.
    #[must_use]
    pub fn live_before(&self, target: &TargetName, run: &RunId, release: &Release) -> Option<&Release> {
        let live = self.head.live_on(target);
        let is_live = live.is_some_and(|live| live.is_same(release));
        let is_exposing = |(key, record): &(&StepTarget, &StepRecord)| {
            record.intent.exposes && record.intent.run == *run && key.target == *target
        };
        match self.records.iter().find(is_exposing) {
            Some((_, record)) if is_live => record.live_before.as_ref(),
            Some(_) | None => live,
        }
    }
}
