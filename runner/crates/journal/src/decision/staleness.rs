//! Whether the record of a step that can't be probed still says what is so.

use crate::{JournalState, RecordOrigin, RecordStatus, StepRecord, StepTarget};
use contract::MachineId;

/// The first of `checks` that failed in the run of a step's success, and after it.
#[must_use]
pub fn failed_check_since<'a>(
    state: &JournalState,
    step_target: &StepTarget,
    checks: impl IntoIterator<Item = &'a StepTarget>,
) -> Option<&'a StepTarget> {
    let record = state.records.get(step_target)?;
    checks.into_iter().find(|check| {
        state.records.get(check).is_some_and(|check| {
            matches!(check.status, RecordStatus::Failed(_))
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
