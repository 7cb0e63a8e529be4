//! Whether the record of a step that can't be probed still says what is so.

use super::RerunSafety;
use crate::{JournalState, RecordOrigin, RecordStatus, StepRecord, StepTarget};
use contract::MachineId;

/// The first of `checks` that did not pass in the run of a step's success, and after it: it failed, or it was begun and did not end,
/// such as one that timed out or was cancelled. The latter counts only against a step that may run again: a cancel must not stop a
/// step that may not.
#[must_use]
pub fn unpassed_check_since<'a>(
    state: &JournalState,
    step_target: &StepTarget,
    rerun_safety: RerunSafety,
    checks: impl IntoIterator<Item = &'a StepTarget>,
) -> Option<&'a StepTarget> {
    let record = state.records.get(step_target)?;
    let is_unpassed = |status: &RecordStatus| match status {
        RecordStatus::Failed(_) => true,
        RecordStatus::Intended => rerun_safety == RerunSafety::Safe,
        RecordStatus::Succeeded(_) | RecordStatus::Undoing(_) | RecordStatus::Reverted => false,
    };
    checks.into_iter().find(|check| {
        state.records.get(check).is_some_and(|check| {
            is_unpassed(&check.status)
                && check.intent.run == record.intent.run
                && check.intent.epoch >= record.confirmed_epoch()
        })
    })
}

/// Whether a record was made on another machine than `here`. A record without a machine is of an older runner: it was made here only if
/// the state does not leave the machine.
#[must_use]
pub fn is_made_elsewhere(record: &StepRecord, here: Option<&MachineId>, is_local_state: bool) -> bool {
    match &record.origin {
        RecordOrigin::Machine(Some(machine)) => Some(machine) != here,
        RecordOrigin::Machine(None) => !is_local_state,
        RecordOrigin::Operator { .. } => false,
    }
}
