//! Checks the journals of a history against each other and against the snapshot.
//!
//! A snapshot that verifies stands for the journals up to its end: damage in them loses no state. So the check goes on after it, and a
//! repair takes nothing away that the snapshot still knows. Deliberately absent: what a repair does ([`super::repair`]).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    slice,
};

use contract::hash::Blake3Hash;
use journal::{JournalError, JournalState, LoadedJournals, line, state::TransitionError};

use super::{
    HistoryError, StateError, StateFinding, StateStore,
    archive::ArchiveRange,
    base_snapshot::BaseRepair,
    history::HistoryFolder,
    journal_files::{journal_name, read_if_present, whole_lines},
};

impl HistoryFolder<'_> {
    /// What is wrong with the archives, the journals, the snapshot and the index.
    ///
    /// # Errors
    /// [`StateError`] when a file can't be read.
    pub(super) fn check(&self) -> Result<Vec<StateFinding>, StateError> {
        let damaged_archive = |range: ArchiveRange, error| {
            Ok(vec![StateFinding::DamagedArchive { path: range.path(&self.folder), error }])
        };
        let mut loaded = match (self.loaded_base(), self.archives.first()) {
            (Ok(loaded), _) => loaded,
            (Err(error), Some(first)) => return damaged_archive(*first, error.into()),
            (Err(error), None) => return Err(error),
        };
        for range in &self.archives {
            if let Err(error) = self.fold_archive(*range, &mut loaded) {
                return damaged_archive(*range, error);
            }
        }
        self.fetch_journals(&self.loose)?;
        let before_loose = loaded.state.last_line_hash;
        let damage = self.fold_loose_from(0, &mut loaded)?;
        let Some(known) = self.snapshot_beyond(&loaded.state, damage.as_ref()) else {
            return match damage {
                Some(damage) => Ok(vec![damage.into()]),
                None => Ok(Vec::from_iter(self.outdated_snapshot(&loaded.state)?)),
            };
        };
        let mut findings = Vec::new();
        let mut after = match self.continue_snapshot(&known) {
            Some(after) => {
                findings.extend(self.old_damage(known.epoch(), before_loose, damage)?);
                after
            }
            None => match (self.lost_journal(&known, damage.as_ref()), damage) {
                (StateFinding::LostJournal { repair: BaseRepair::None, .. }, Some(damage)) => {
                    return Ok(vec![damage.into()]);
                }
                (lost, _) => {
                    findings.push(lost);
                    LoadedJournals { state: known.clone(), ..LoadedJournals::default() }
                }
            },
        };
        let later = self.loose.partition_point(|(epoch, _)| *epoch <= known.epoch());
        findings.extend(self.fold_loose_from(later, &mut after)?.map(StateFinding::from));
        Ok(findings)
    }

    /// Folds the loose journals from an index on, up to the first that can't be folded.
    fn fold_loose_from(
        &self,
        first: usize,
        loaded: &mut LoadedJournals,
    ) -> Result<Option<JournalDamage<'_>>, StateError> {
        for (index, (epoch, path)) in self.loose.iter().enumerate().skip(first) {
            let before = loaded.state.clone();
            if let Err(error) = loaded.read_path(path, index + 1 == self.loose.len(), |_| {}) {
                let sound_lines = sound_lines(&before, path)?;
                loaded.state = before;
                return Ok(Some(JournalDamage {
                    epoch: *epoch,
                    path,
                    error,
                    sound_lines,
                    later: &self.loose[index + 1..],
                }));
            }
        }
        Ok(None)
    }

    /// The state of the snapshot, if it is of the same history and knows more than the sound journals before the damage.
    fn snapshot_beyond(&self, sound: &JournalState, damage: Option<&JournalDamage<'_>>) -> Option<JournalState> {
        let known = self.snapshot()?.state;
        let is_same = sound.first_attempt.is_none() || sound.first_attempt == known.first_attempt;
        let is_beyond = match damage {
            Some(damage) => known.epoch() >= damage.epoch,
            None => (known.epoch(), known.line_count) > (sound.epoch(), sound.line_count),
        };
        (is_same && is_beyond && sound.newer_format.is_none()).then_some(known)
    }

    /// All damage in the journals that the snapshot stands for, each named by the file that it is in.
    fn old_damage(
        &self,
        snapshot_epoch: u64,
        before: Option<Blake3Hash>,
        damage: Option<JournalDamage<'_>>,
    ) -> Result<Vec<StateFinding>, StateError> {
        let Some(damage) = damage else { return Ok(Vec::new()) };
        let indexed = self.indexed_epochs()?.into_iter().map(|epoch| (epoch, self.folder.join(journal_name(epoch))));
        // A journal that is here may have another name than its epoch gives.
        let mut journals: BTreeMap<u64, PathBuf> = indexed.chain(self.loose.iter().cloned()).collect();
        journals.retain(|epoch, _| *epoch <= snapshot_epoch);
        let found = damaged_journals(&journals.into_values().collect::<Vec<_>>(), before)?;
        if found.is_empty() {
            // Lines that contradict each other may follow each other all the same.
            return Ok(vec![damage.covered_by_snapshot()]);
        }
        Ok(found.into_iter().map(|(path, why)| StateFinding::DamagedOldJournal { path, why }).collect())
    }

    /// The epochs after the newest archive that the index names; none without an index that the snapshot names.
    fn indexed_epochs(&self) -> Result<Vec<u64>, StateError> {
        let Some(snapshot) = self.snapshot() else { return Ok(Vec::new()) };
        let archived = self.archives.last().map_or(self.base.epoch(), |archive| archive.last);
        let attempts = self.index_with_hash(snapshot.index)?.and_then(|index| index.summaries()).unwrap_or_default();
        Ok(attempts.iter().map(|attempt| attempt.header.epoch).filter(|epoch| *epoch > archived).collect())
    }

    /// Continues the snapshot with the rest of its journal; `None` if that has not all lines that the snapshot knows.
    fn continue_snapshot(&self, known: &JournalState) -> Option<LoadedJournals> {
        // A deployment that runs meanwhile may have begun it after the listing.
        let path = self.loose.iter().find(|(epoch, _)| *epoch == known.epoch());
        let path = path.map_or_else(|| self.folder.join(journal_name(known.epoch())), |(_, path)| path.clone());
        let continued = LoadedJournals::read_after(known.clone(), slice::from_ref(&path), |_| {}).ok()??;
        continued.headerless.is_none().then_some(continued)
    }

    fn lost_journal(&self, known: &JournalState, damage: Option<&JournalDamage<'_>>) -> StateFinding {
        let (path, why) = match damage {
            Some(JournalDamage { path, error, .. }) => (path.to_path_buf(), error.to_string()),
            None => {
                let path = self.folder.join(journal_name(known.epoch()));
                let why = if path.exists() { "lines are missing at its end" } else { "it is missing" };
                (path, why.to_owned())
            }
        };
        // A remote has no base snapshot, and archives would follow it no longer.
        let can_begin_after = self.is_of_folder() && self.archives.is_empty();
        let repair = if can_begin_after { BaseRepair::BeginAfter(known.epoch()) } else { BaseRepair::None };
        StateFinding::LostJournal { path, why, repair }
    }

    fn outdated_snapshot(&self, state: &JournalState) -> Result<Option<StateFinding>, StateError> {
        let is_current = match self.snapshot() {
            Some(snapshot) => {
                let is_read = self.load(|_| {}).is_ok_and(|read| read.state == *state);
                is_read && self.index_with_hash(snapshot.index)?.is_some()
            }
            None => false,
        };
        let is_outdated = !is_current && state.epoch() > 0 && state.newer_format.is_none();
        Ok(is_outdated.then_some(StateFinding::OutdatedSnapshot))
    }

    fn is_of_folder(&self) -> bool {
        self.store.is_none_or(StateStore::is_folder)
    }
}

/// The first journal that can't be folded.
struct JournalDamage<'h> {
    epoch: u64,
    path: &'h Path,
    error: JournalError,
    sound_lines: usize,
    later: &'h [(u64, std::path::PathBuf)],
}

impl JournalDamage<'_> {
    fn covered_by_snapshot(self) -> StateFinding {
        let is_unchained =
            matches!(self.error, JournalError::IllegalTransition { seq: 0, source: TransitionError::Chain { .. }, .. });
        let why = match is_unchained {
            true => "the journal before it is missing or damaged".to_owned(),
            false => self.error.to_string(),
        };
        StateFinding::DamagedOldJournal { path: self.path.to_owned(), why }
    }
}

impl From<JournalDamage<'_>> for StateFinding {
    fn from(damage: JournalDamage<'_>) -> Self {
        let JournalDamage { path, error, sound_lines, later, .. } = damage;
        let later = later.iter().map(|(_, path)| path.clone()).collect();
        Self::DamagedJournal { path: path.to_owned(), error: HistoryError::Journal(error), sound_lines, later }
    }
}

/// What is wrong with journals that should follow each other, and the first of them a line with the hash `before`: each file, and why.
fn damaged_journals(paths: &[PathBuf], before: Option<Blake3Hash>) -> Result<Vec<(PathBuf, String)>, StateError> {
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    // What the next journal follows; none where that is not known.
    let (mut end, mut earlier) = (Some(before), None);
    for path in paths {
        let lines = read_if_present(path)?.map(|bytes| whole_lines(&bytes).to_vec());
        let (first, last) = match lines.as_deref().map(chain_of) {
            None => {
                found.push((path.clone(), "it is missing".to_owned()));
                (None, None)
            }
            Some(LineChain::Empty) => {
                found.push((path.clone(), "its lines are missing".to_owned()));
                (None, None)
            }
            Some(LineChain::Broken { line, last }) => {
                found.push((path.clone(), format!("line {line} is corrupt")));
                (None, last.map(Some))
            }
            Some(LineChain::Whole { first, last }) => (Some(first), Some(Some(last))),
        };
        if let (Some(first), Some(end)) = (first, end)
            && first != end
        {
            found.push(match earlier {
                Some(earlier) => (earlier, "lines are missing at its end".to_owned()),
                None => (path.clone(), "the journals before it are missing".to_owned()),
            });
        }
        (end, earlier) = (last, Some(path.clone()));
    }
    Ok(found)
}

/// How the lines of one journal follow each other.
enum LineChain {
    Empty,
    /// What the first line follows, and the hash of the last one.
    Whole {
        first: Option<Blake3Hash>,
        last: Blake3Hash,
    },
    /// The first line that can't be read or does not follow the one before, from 1; the hash of the last line, if that can be read.
    Broken {
        line: usize,
        last: Option<Blake3Hash>,
    },
}

fn chain_of(lines: &[u8]) -> LineChain {
    let lines = || lines.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let last_hash = || lines().next_back().and_then(|last| line::decode_newer(last).ok()).map(|(_, hash)| hash);
    let (mut first, mut last): (Option<Option<Blake3Hash>>, Option<Blake3Hash>) = (None, None);
    for (index, content) in lines().enumerate() {
        match line::decode_newer(content) {
            Ok((entry, hash)) if first.is_none() || entry.prev == last => {
                first.get_or_insert(entry.prev);
                last = Some(hash);
            }
            Ok(_) | Err(_) => return LineChain::Broken { line: index + 1, last: last_hash() },
        }
    }
    match (first, last) {
        (Some(first), Some(last)) => LineChain::Whole { first, last },
        (None, _) | (_, None) => LineChain::Empty,
    }
}

/// How many lines of a journal can be folded after a state.
fn sound_lines(before: &JournalState, path: &Path) -> Result<usize, StateError> {
    let content = read_if_present(path)?.unwrap_or_default();
    let lines: Vec<_> = whole_lines(&content).split_inclusive(|byte| *byte == b'\n').collect();
    let is_sound = |count: &usize| {
        let mut loaded = LoadedJournals { state: before.clone(), ..LoadedJournals::default() };
        loaded.read_file(path, &lines[..*count].concat(), true, |_| {}).is_ok()
    };
    Ok((1..=lines.len()).rev().find(is_sound).unwrap_or(0))
}
