//! What goes into a checkpoint: the journals of this run, and the snapshot before them.
//!
//! The first journal is chosen once for a process, so that later checkpoints only grow. It is the first one of all runs that have an
//! attempt with the page of this workflow run: a later process of the job, which deploys another release, begins with the same one.
//! Deliberately absent: attempts before those, which only the machine or the state has that recorded them.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use super::{CheckpointEntry, MAX_CHECKPOINT_BYTES};
use crate::{
    StateError,
    history::{HistoryError, HistoryFolder},
    journal_files::whole_lines,
};
use contract::{hash::Blake3Hash, text::error_chain_text};
use journal::{
    JournalEvent, JournalState, JournalTrust, Snapshot,
    event::{JournalEntry, JournalHeader},
    file::MAX_JOURNAL_BYTES,
    line, trust_from_file_name,
};

/// The journals of this run at one moment, and the snapshot before them.
#[derive(Clone)]
pub struct CheckpointContent {
    pub(super) base: Option<EncodedBase>,
    pub(super) journals: Vec<(CheckpointEntry, Vec<u8>)>,
    /// The number of lines in the journals, which only grows.
    pub lines: u64,
}

/// The state before the first journal, and its bytes.
#[derive(Clone, Debug)]
pub(super) struct EncodedBase {
    pub(super) state: JournalState,
    pub(super) encoded: Vec<u8>,
}

/// Where the checkpoints of a process begin.
#[derive(Clone, Debug)]
pub struct CheckpointStart {
    /// The epoch of the first journal.
    first: u64,
    base: Option<EncodedBase>,
}

impl CheckpointStart {
    /// Finds the first journal of this run; `url` is the page of the workflow run. `None` if the folder has no attempt of it. Without
    /// `url`, it is the run of the newest attempt.
    ///
    /// # Errors
    /// [`StateError`] when a file can't be read.
    pub fn find(folder: &Path, url: Option<&str>) -> Result<Option<Self>, StateError> {
        let history = HistoryFolder::open(folder)?;
        let mut attempts = Vec::new();
        for (_, path) in &history.loose {
            attempts.extend(header_of(path)?);
        }
        let Some((newest, newest_header)) = attempts.last() else { return Ok(None) };
        let mut runs = BTreeSet::new();
        let mut find_first = |attempts: &[(JournalEntry, JournalHeader)]| {
            let is_of_page = |header: &&JournalHeader| match url {
                Some(_) => header.url.as_deref() == url,
                None => header.run == newest_header.run,
            };
            let headers = attempts.iter().map(|(_, header)| header);
            runs.extend(headers.filter(is_of_page).map(|header| header.run.clone()));
            let at = attempts.iter().position(|(_, header)| runs.contains(&header.run))?;
            Some((at, attempts[at].0.clone()))
        };
        let Some((mut at, mut first)) = find_first(&attempts) else { return Ok(None) };
        for range in history.archives.iter().rev() {
            // Only a run that began before all loose journals goes on in the archives.
            if at > 0 {
                break;
            }
            let archived: Vec<_> =
                history.read_archive(*range)?.journals.iter().filter_map(|(_, bytes)| header_in(bytes)).collect();
            let Some(found) = find_first(&archived) else { break };
            (at, first) = found;
        }
        let start = Self::at(&history, &first);
        // The copy of a remote state may lack earlier journals.
        let start = if first.prev == newest.prev { start } else { start.or_else(|_| Self::at(&history, newest)) };
        start.map(Some)
    }

    /// Begins with the journal whose first entry is `first`.
    fn at(history: &HistoryFolder<'_>, first: &JournalEntry) -> Result<Self, StateError> {
        let JournalEvent::Started(header) = &first.event else { unreachable!("a journal begins with its header") };
        let not_uploaded = |why: String| StateError::NotUploaded { why };
        let base = if first.prev.is_none() {
            None
        } else {
            let state = history.state_before_entry(first, header.epoch).map_err(|error| match error {
                HistoryError::State(error) => error,
                HistoryError::Journal(error) => not_uploaded(error_chain_text(&error)),
            })?;
            let snapshot = Snapshot { state: state.clone(), index: Blake3Hash::of(&[]) };
            let encoded =
                snapshot.encode().ok_or_else(|| not_uploaded("a newer runner wrote an earlier journal".to_owned()))?;
            Some(EncodedBase { state, encoded })
        };
        Ok(Self { first: header.epoch, base })
    }
}

impl CheckpointContent {
    /// Reads the journals from the start on, up to their last whole line. Without a start there are none.
    ///
    /// # Errors
    /// [`StateError`] when one can't be read.
    pub fn read(folder: &Path, start: Option<&CheckpointStart>) -> Result<Self, StateError> {
        let Some(start) = start else { return Ok(Self::nothing_begun()) };
        let (mut journals, mut lines, mut room) = (Vec::new(), 0, MAX_CHECKPOINT_BYTES);
        let find = || HistoryFolder::open(folder)?.journals_from(start.first);
        // The end of an attempt moves old journals into an archive.
        let found = find().or_else(|_| find())?;
        for (epoch, path, content) in found {
            let bytes = whole_lines(&content).to_vec();
            if bytes.is_empty() {
                continue;
            }
            room = room.checked_sub(bytes.len() as u64).ok_or_else(|| StateError::NotUploaded {
                why: format!("the journals in {} are larger than {} MiB", folder.display(), MAX_CHECKPOINT_BYTES >> 20),
            })?;
            lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            let entry = CheckpointEntry {
                epoch,
                bytes: bytes.len() as u64,
                hash: Blake3Hash::of(&bytes),
                is_authenticated: trust_from_file_name(&path) == JournalTrust::Authenticated,
            };
            journals.push((entry, bytes));
        }
        Ok(Self { base: start.base.clone(), journals, lines })
    }

    /// Reads all that a checkpoint of this run has now.
    ///
    /// # Errors
    /// [`StateError`] when a file can't be read.
    pub fn of_run(folder: &Path, url: Option<&str>) -> Result<Self, StateError> {
        Self::read(folder, CheckpointStart::find(folder, url)?.as_ref())
    }
}

/// The first entry of a journal and its header; `None` if it has no whole line, or one that this runner can't read.
fn header_of(path: &Path) -> Result<Option<(JournalEntry, JournalHeader)>, StateError> {
    let error = |source| StateError::io("read", path, source);
    let mut first = Vec::new();
    let file = File::open(path).map_err(error)?;
    BufReader::new(file.take(MAX_JOURNAL_BYTES)).read_until(b'\n', &mut first).map_err(error)?;
    Ok(header_in(&first))
}

fn header_in(journal: &[u8]) -> Option<(JournalEntry, JournalHeader)> {
    let end = journal.iter().position(|byte| *byte == b'\n')?;
    let (entry, _) = line::decode(&journal[..end]).ok()?;
    let JournalEvent::Started(header) = &entry.event else { return None };
    let header = header.clone();
    Some((entry, header))
}
