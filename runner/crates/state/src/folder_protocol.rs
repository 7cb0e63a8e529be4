//! How a process takes the lock of a state folder, as a pure sequence of steps: [`FolderTaker`] says what comes next, `folder_lock`
//! does it.
//!
//! An operator can take the lock from a process that runs, or is suspended and goes on later. Such a former holder must neither change
//! what its successor reads, nor have an effect that the successor knows nothing of. Each step is one call that the file system does
//! as a whole. Invariants, which the model below checks in every interleaving of its bounds:
//!
//! - A holder creates, replaces and removes the folder's files only by renames out of, or into, its own staging directory. Who takes
//!   the lock first moves away the staging directories of all who held it before: from then on, their renames fail.
//! - A former holder can still append to the journal that it has open. So its successor gives that journal a new file with the same
//!   content (it *seals* it), and what is appended later goes to a file without a name.
//! - Between an intent and its effect, a holder checks that it holds the lock. So an intent that went to a file without a name has no
//!   effect.
//! - A process changes nothing of others before it has listed the staging directories *and then* seen that it holds the lock: the list
//!   contains former holders only.
//!
//! Deliberately absent: any IO, and leases, which only remote states need.

use super::record::{LockRecord, ReleasedBy};

/// What a process does next to take the lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TakeStep {
    /// Open the record, and take the kernel's lock on it.
    Lock,
    /// Create the own staging directory.
    CreateStaging,
    /// List the staging directories of others.
    ListStaging,
    /// Check that the locked file is still the record.
    CheckRecord,
    /// Move the staging directory of a former holder into the own one.
    Fence(String),
    /// List the journals by their epochs.
    ListJournals,
    /// Copy the journal of that epoch into the own staging directory.
    CopyJournal(u64),
    /// Rename the copy to the journal's name.
    PlaceJournal(u64),
    /// Nothing: the lock is taken.
    Taken,
}

/// What a step found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TakeEvent {
    /// The kernel's lock is taken. Whether the process that had it last may still be writing: see [`may_still_write`].
    Locked { is_writer_alive: bool },
    /// The names of the staging directories of others.
    Staging(Vec<String>),
    /// The epochs of the journals.
    Journals(Vec<u64>),
    /// The step is done.
    Done,
    /// The lock was taken away, so it starts again.
    Lost,
}

/// Takes the lock, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FolderTaker {
    step: TakeStep,
    is_writer_alive: bool,
    former_holders: Vec<String>,
}

impl FolderTaker {
    pub(super) fn new() -> Self {
        Self { step: TakeStep::Lock, is_writer_alive: true, former_holders: Vec::new() }
    }

    /// The step to do next.
    pub(super) fn step(&self) -> &TakeStep {
        &self.step
    }

    /// Takes what the step found.
    pub(super) fn on(&mut self, event: TakeEvent) {
        self.step = match (&self.step, event) {
            (_, TakeEvent::Lost) => TakeStep::Lock,
            (TakeStep::Lock, TakeEvent::Locked { is_writer_alive }) => {
                self.is_writer_alive = is_writer_alive;
                TakeStep::CreateStaging
            }
            (TakeStep::CreateStaging, TakeEvent::Done) => TakeStep::ListStaging,
            (TakeStep::ListStaging, TakeEvent::Staging(names)) => {
                self.former_holders = names;
                TakeStep::CheckRecord
            }
            (TakeStep::CheckRecord | TakeStep::Fence(_), TakeEvent::Done) => match self.former_holders.pop() {
                Some(name) => TakeStep::Fence(name),
                None if self.is_writer_alive => TakeStep::ListJournals,
                None => TakeStep::Taken,
            },
            // Older journals were sealed by the process that created the next one.
            (TakeStep::ListJournals, TakeEvent::Journals(epochs)) => {
                epochs.into_iter().max().map_or(TakeStep::Taken, TakeStep::CopyJournal)
            }
            (TakeStep::CopyJournal(epoch), TakeEvent::Done) => TakeStep::PlaceJournal(*epoch),
            (TakeStep::PlaceJournal(_), TakeEvent::Done) => TakeStep::Taken,
            (step, event) => unreachable!("{step:?} does not find {event:?}"),
        }
    }
}

/// Whether the process that held the lock last may still append to its journal. The record is the one under the kernel's lock.
pub(super) fn may_still_write(last: Option<&LockRecord>) -> bool {
    match last {
        // The kernel's lock ended with the process.
        Some(LockRecord { holder: Some(_), .. }) => false,
        Some(LockRecord { released_by: Some(ReleasedBy::Holder), .. }) => false,
        // An older runner did not say who released it, and a torn record says nothing.
        Some(LockRecord { released_by: Some(ReleasedBy::Operator) | None, .. }) | None => true,
    }
}

#[cfg(test)]
mod model;
