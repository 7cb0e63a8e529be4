//! The index of attempts: one line of JSON for each, oldest first.
//!
//! It answers `history` without reading journals. The snapshot names its hash, so a stale or damaged index is noticed and made
//! again. Deliberately absent: attempts in archives, each of which has an index of its own.

use std::{fs, path::Path};

use contract::hash::Blake3Hash;
use journal::state::AttemptSummary;

/// The file name.
pub(super) const INDEX_FILE: &str = "index.jsonl";

/// Encodes summaries as lines.
pub(super) fn encode(summaries: &[AttemptSummary]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for summary in summaries {
        serde_json::to_writer(&mut bytes, summary).expect("a summary has only text keys and finite numbers");
        bytes.push(b'\n');
    }
    bytes
}

/// Decodes lines; `None` if one is not a summary.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<AttemptSummary>> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| serde_json::from_slice(line.strip_suffix(b"\n")?).ok()).collect()
}

/// Reads the index of a folder; `None` if it is missing, or is not the one with this hash.
pub(super) fn read(folder: &Path, hash: Blake3Hash) -> Option<Vec<AttemptSummary>> {
    let bytes = fs::read(folder.join(INDEX_FILE)).ok()?;
    if Blake3Hash::of(&bytes) == hash { decode(&bytes) } else { None }
}

/// Adds the summaries of later attempts, and replaces those of the same epoch.
pub(super) fn merge(index: &mut Vec<AttemptSummary>, later: impl IntoIterator<Item = AttemptSummary>) {
    for summary in later {
        let epoch = summary.header.epoch;
        index.truncate(index.partition_point(|known| known.header.epoch < epoch));
        index.push(summary);
    }
}
