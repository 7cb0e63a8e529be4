//! Which of two histories contains the other, by the hashes of their lines.
//!
//! A history may begin with a snapshot: its lines are then known by the hash of the last one only. Where one history has a journal
//! and the other a snapshot of later attempts, the hash of that journal's last line decides.

use super::{CheckpointContent, UnpackedCheckpoint};
use contract::hash::Blake3Hash;
use journal::{JournalState, line};

/// How the local journals compare to those of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainComparison {
    /// The checkpoint has all local lines.
    Covered,
    /// The local journals have all lines of the checkpoint, and more.
    Ahead,
    /// The checkpoint has lines that are missing here.
    Diverged,
}

/// A history: the end of its snapshot, and the journals after it.
pub(super) struct HistoryChain<'a> {
    base: (u64, Option<Blake3Hash>),
    journals: Vec<(u64, &'a [u8])>,
}

impl HistoryChain<'_> {
    /// The hash of the last line up to the end of an attempt; `None` if that attempt's end is not known.
    fn hash_at(&self, epoch: u64) -> Option<Option<Blake3Hash>> {
        if self.base.0 == epoch {
            return Some(self.base.1);
        }
        let (_, bytes) = self.journals.iter().find(|(known, _)| *known == epoch)?;
        last_line_hash(bytes).map(Some)
    }

    /// Whether it has all lines of another one.
    fn contains(&self, other: &Self) -> bool {
        let (later, earlier) = if self.base.0 >= other.base.0 { (self, other) } else { (other, self) };
        let meet = earlier.hash_at(later.base.0) == Some(later.base.1);
        let is_known = |(epoch, bytes): &(u64, &[u8])| {
            let ours = self.journals.iter().find(|(known, _)| known == epoch);
            *epoch <= self.base.0 || ours.is_some_and(|(_, ours)| ours.starts_with(bytes))
        };
        meet && other.journals.iter().all(is_known)
    }
}

impl CheckpointContent {
    fn chain(&self) -> HistoryChain<'_> {
        HistoryChain {
            base: end_of(self.base.as_ref().map(|base| &base.state)),
            journals: self.journals.iter().map(|(entry, bytes)| (entry.epoch, bytes.as_slice())).collect(),
        }
    }

    /// Compares it to the journals of a checkpoint.
    #[must_use]
    pub fn compare_with(&self, checkpoint: &UnpackedCheckpoint) -> ChainComparison {
        if checkpoint.chain().contains(&self.chain()) {
            ChainComparison::Covered
        } else if self.chain().contains(&checkpoint.chain()) {
            ChainComparison::Ahead
        } else {
            ChainComparison::Diverged
        }
    }
}

impl UnpackedCheckpoint {
    fn chain(&self) -> HistoryChain<'_> {
        HistoryChain {
            base: end_of(self.base.as_ref()),
            journals: self.journals.iter().map(|journal| (journal.epoch, journal.bytes.as_slice())).collect(),
        }
    }
}

/// Whether one checkpoint contains all lines of another.
#[must_use]
pub fn contains_all(newer: &UnpackedCheckpoint, older: &UnpackedCheckpoint) -> bool {
    newer.chain().contains(&older.chain())
}

fn end_of(base: Option<&JournalState>) -> (u64, Option<Blake3Hash>) {
    base.map_or((0, None), |base| (base.epoch(), base.last_line_hash))
}

/// The hash of the last whole line.
pub(crate) fn last_line_hash(bytes: &[u8]) -> Option<Blake3Hash> {
    let lines = crate::journal_files::whole_lines(bytes);
    let last = lines.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()?;
    line::decode_newer(last).ok().map(|(_, hash)| hash)
}
