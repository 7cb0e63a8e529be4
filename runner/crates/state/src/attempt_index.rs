//! The index of attempts: one line of JSON for each, oldest first.
//!
//! It answers `history` without reading journals. The snapshot names its hash, so a stale or damaged index is noticed and made
//! again. Deliberately absent: attempts in archives, each of which has an index of its own.

use std::{fs, path::Path};

use contract::hash::Blake3Hash;
use journal::state::AttemptSummary;
use serde::Deserialize;

/// The file name.
pub(super) const INDEX_FILE: &str = "index.jsonl";

/// The lines of an index. Adding an attempt decodes the newest line, however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AttemptIndex(Vec<u8>);

/// The part of a line that says which attempt it is about.
#[derive(Deserialize)]
struct IndexLine {
    header: IndexLineHeader,
}

#[derive(Deserialize)]
struct IndexLineHeader {
    epoch: u64,
}

impl AttemptIndex {
    /// The index of some attempts, which are in epoch order.
    pub(super) fn of(summaries: &[AttemptSummary]) -> Self {
        let mut index = Self::default();
        summaries.iter().for_each(|summary| index.push(summary));
        index
    }

    /// Reads the index of a folder; `None` if it is missing, or is not the one with this hash.
    pub(super) fn read(folder: &Path, hash: Blake3Hash) -> Option<Self> {
        let bytes = fs::read(folder.join(INDEX_FILE)).ok()?;
        (Blake3Hash::of(&bytes) == hash).then_some(Self(bytes))
    }

    /// Takes the lines of an archive's index; `None` if one is not a summary.
    pub(super) fn decode(bytes: Vec<u8>) -> Option<Self> {
        let index = Self(bytes);
        index.summaries().map(|_| index)
    }

    /// The attempts; `None` if a line is not a summary.
    pub(super) fn summaries(&self) -> Option<Vec<AttemptSummary>> {
        let lines = self.0.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| serde_json::from_slice(line.strip_suffix(b"\n")?).ok()).collect()
    }

    /// The content of its file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The hash that a snapshot names.
    pub(super) fn hash(&self) -> Blake3Hash {
        Blake3Hash::of(&self.0)
    }

    /// Adds the summaries of later attempts, and replaces those of the same epoch.
    pub(super) fn merge<'s>(&mut self, later: impl IntoIterator<Item = &'s AttemptSummary>) {
        for summary in later {
            let is_replaced = |line: &[u8]| epoch_of_line(line).is_none_or(|known| known >= summary.header.epoch);
            while let Some(start) = self.last_line().filter(|start| is_replaced(&self.0[*start..])) {
                self.0.truncate(start);
            }
            self.push(summary);
        }
    }

    /// Takes the attempts up to an epoch out.
    pub(super) fn split_until(&mut self, epoch: u64) -> Self {
        let lines = self.0.split_inclusive(|byte| *byte == b'\n');
        let taken = lines.take_while(|line| epoch_of_line(line).is_none_or(|known| known <= epoch));
        let length = taken.map(<[u8]>::len).sum();
        if length == 0 {
            return Self::default();
        }
        let kept = self.0.split_off(length);
        Self(std::mem::replace(&mut self.0, kept))
    }

    fn push(&mut self, summary: &AttemptSummary) {
        serde_json::to_writer(&mut self.0, summary).expect("a summary has only text keys and finite numbers");
        self.0.push(b'\n');
    }

    /// Where the last line begins.
    fn last_line(&self) -> Option<usize> {
        let before = self.0.len().checked_sub(1)?;
        Some(self.0[..before].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1))
    }
}

fn epoch_of_line(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<IndexLine>(line).ok().map(|line| line.header.epoch)
}
