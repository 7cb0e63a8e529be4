//! The steps that a rollback undoes, by their records.

use crate::{JournalState, JournalTrust, RecordStatus, StepRecord, StepTarget};
use contract::RunId;

/// Whether a step can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoSupport {
    /// The module has a revert.
    Possible,
    /// The step cannot be undone, or is a check.
    Impossible,
}

/// The steps to undo, last first, so that the previous release is live again: all steps of this run that have an effect, from
/// the first exposing one on, as far as they can be undone. Empty if the release was never exposed.
#[must_use]
pub fn steps_to_undo<'a>(
    state: &JournalState,
    run: &RunId,
    order: impl IntoIterator<Item = (&'a StepTarget, UndoSupport)>,
) -> Vec<StepTarget> {
    // An unauthenticated record undoes nothing.
    let is_ours = |record: &&StepRecord| record.intent.run == *run && record.trust == JournalTrust::Authenticated;
    let of_this_run = |step_target: &StepTarget| state.records.get(step_target).filter(is_ours);
    let mut undo: Vec<StepTarget> = order
        .into_iter()
        .skip_while(|(step_target, _)| {
            !of_this_run(step_target).is_some_and(|record| {
                record.intent.exposes && !matches!(record.status, RecordStatus::Failed(_) | RecordStatus::Reverted)
            })
        })
        .filter(|(_, undoing)| *undoing == UndoSupport::Possible)
        .filter(|(step_target, _)| {
            of_this_run(step_target).is_some_and(|record| match record.status {
                RecordStatus::Succeeded(_) | RecordStatus::Intended | RecordStatus::Undoing(_) => true,
                RecordStatus::Failed(_) | RecordStatus::Reverted => false,
            })
        })
        .map(|(step_target, _)| step_target.clone())
        .collect();
    undo.reverse();
    undo
}
