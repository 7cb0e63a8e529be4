//! Which steps a rollback undoes, by the records.

use crate::{JournalState, JournalTrust, RecordStatus, StepRecord, StepTarget};
use contract::RunId;

/// Whether a step can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoSupport {
    /// Its module has a revert.
    Possible,
    /// It stays as it is: checks, and what can't be taken back.
    Impossible,
}

/// What must be undone, last first, so that the release before is live again: everything with an effect of this run from
/// the first step on that exposes it, as far as it can be undone. Nothing when users saw nothing of it.
#[must_use]
pub fn steps_to_undo<'a>(
    state: &JournalState,
    run: &RunId,
    order: impl IntoIterator<Item = (&'a StepTarget, UndoSupport)>,
) -> Vec<StepTarget> {
    // What is only suggested drives nothing back.
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
