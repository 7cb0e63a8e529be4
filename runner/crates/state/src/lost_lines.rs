//! Lines of journals that the remote state does not have, and never will: another attempt ran without them.
//!
//! They are moved to the folder `lost`, so nothing is deleted. Steps that they say have begun are noted ([`super::begun_steps`]): the
//! next attempt probes them. Each step here may be repeated after a kill. Deliberately absent: the decision, which is in
//! [`super::tail`].

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    StateError,
    begun_steps::{BegunSteps, note_begun_steps},
    journal_files::whole_lines,
    tail::{LocalJournal, TailDecision, tail_decision},
};
use contract::hash::Blake3Hash;
use hostio::atomic_file::replace_file;

/// The folder of lost lines, in a state folder.
pub(super) const LOST_FOLDER: &str = "lost";

/// Moves the lines of a journal that the remote does not have away, unless they may still be uploaded. Returns whether it did:
/// then the journal must become the remote's copy.
pub(super) fn settle_lost_lines(journal: &LocalJournal<'_>, folder: &Path) -> Result<bool, StateError> {
    let begun = match tail_decision(journal) {
        TailDecision::Keep => return Ok(false),
        TailDecision::Cut => BegunSteps::default(),
        TailDecision::Quarantine { begun } => BegunSteps::Named(begun),
    };
    keep_lost_lines(folder, journal.epoch, &whole_lines(journal.content)[journal.acknowledged..])?;
    note_begun_steps(folder, begun)?;
    Ok(true)
}

/// Keeps lines that a journal loses.
pub(super) fn keep_lost_lines(folder: &Path, epoch: u64, lines: &[u8]) -> Result<(), StateError> {
    keep_lost_file(folder, &format!("attempt-{epoch:06}"), "lines", lines)
}

/// Keeps a file that a folder loses, as `lost/<stem>-<hash>.<extension>`.
pub(super) fn keep_lost_file(folder: &Path, stem: &str, extension: &str, content: &[u8]) -> Result<(), StateError> {
    let lost = folder.join(LOST_FOLDER);
    fs::create_dir_all(&lost).map_err(|source| StateError::io("create", &lost, source))?;
    let hash = Blake3Hash::of(content).hex_prefix(8);
    let path = lost.join(format!("{stem}-{hash}.{extension}"));
    replace_file(&path, content).map_err(|source| StateError::io("write", &path, source))
}

/// The files with lost lines.
pub(super) fn lost_files_in(folder: &Path) -> Result<Vec<PathBuf>, StateError> {
    let lost = folder.join(LOST_FOLDER);
    let Ok(listing) = fs::read_dir(&lost) else { return Ok(Vec::new()) };
    let paths = listing.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<_> = paths.collect::<Result<_, _>>().map_err(|source| StateError::io("read", &lost, source))?;
    paths.sort();
    Ok(paths)
}
