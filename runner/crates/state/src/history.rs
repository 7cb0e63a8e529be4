//! The history of (app, environment) in its local folder: a snapshot, an index, loose journals and archives (docs/adr/0012).
//!
//! Reading costs the snapshot and the newest journal, however long the history is. Writing happens under the lock, when an attempt
//! has ended. Invariant: the journals are the truth, after the base snapshot if the history was restored from a checkpoint. A
//! snapshot or an index that does not verify is dropped and made again, so they are not synced; an archive is, before its journals
//! are removed. Whatever a kill leaves, the next attempt finishes.
//! A remote state has the same files; those that are read but not here are downloaded first. Deliberately absent: how that is
//! done ([`super::local_copy`]).

use std::{
    fs,
    path::{Path, PathBuf},
};

use contract::hash::Blake3Hash;
use hostio::atomic_file::replace_unsynced_file;
use journal::{
    JournalError, JournalState, LoadedJournals, Snapshot, SnapshotHeader, event::JournalEntry, state::AttemptSummary,
};

use super::{
    StateError, StateStore,
    archive::{Archive, ArchiveRange},
    attempt_index::{AttemptIndex, INDEX_FILE},
    base_snapshot::BaseFiles,
    begun_steps::{BEGUN_FILE, BegunSteps},
    journal_cache::WantedFile,
    journal_files::{epoch_of, ignore_missing, journals_in, read_if_present, remove_if_present},
    lost_lines::keep_lost_file,
};

/// The snapshot after the newest attempt that has ended.
pub(super) const SNAPSHOT_FILE: &str = "snapshot.json";
/// The snapshot before that attempt.
pub(super) const PREVIOUS_SNAPSHOT_FILE: &str = "snapshot-previous.json";

/// When old journals go into an archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArchivePolicy {
    /// How many attempts an archive holds.
    pub(super) length: usize,
    /// How many of the newest journals stay loose, at least.
    pub(super) min_loose: usize,
}

pub(super) const ARCHIVE_POLICY: ArchivePolicy = ArchivePolicy { length: 256, min_loose: 16 };

/// An error of reading the history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A file can't be found or read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A journal is corrupt, or contradicts another.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// One attempt with its entries, and the state before it.
#[derive(Debug)]
pub struct RecordedAttempt {
    /// The state before the attempt.
    pub before: JournalState,
    /// Its summary.
    pub summary: AttemptSummary,
    /// Its entries, in order.
    pub entries: Vec<JournalEntry>,
}

/// Which attempt to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptChoice {
    /// The newest one.
    Newest,
    /// The one with this epoch.
    Epoch(u64),
}

/// The files of a state folder.
#[derive(Debug)]
pub(super) struct HistoryFolder<'a> {
    pub(super) folder: PathBuf,
    /// Where files that are not here are downloaded from.
    pub(super) store: Option<&'a StateStore>,
    /// The state before the first journal: empty, unless the history was restored from a checkpoint.
    pub(super) base: JournalState,
    /// Whether its file has that state, or none is needed.
    is_base_sound: bool,
    pub(super) archives: Vec<ArchiveRange>,
    /// The journals that are in no archive, in epoch order.
    pub(super) loose: Vec<(u64, PathBuf)>,
}

impl StateStore {
    /// The state after all attempts. Calls `each` with every entry that is read, at least those of the newest attempt; entries
    /// may come twice, from the first on.
    ///
    /// # Errors
    /// [`HistoryError`] when a file can't be read, or a journal is corrupt.
    pub fn load(&self, each: impl FnMut(&JournalEntry)) -> Result<LoadedJournals, HistoryError> {
        self.pull_recent()?;
        HistoryFolder::of(self)?.load(each)
    }

    /// The state after all attempts, folded from all journals: nothing is taken from a snapshot.
    ///
    /// # Errors
    /// [`HistoryError`] when a file can't be read, or a journal is corrupt.
    pub fn load_all(&self, each: impl FnMut(&JournalEntry)) -> Result<LoadedJournals, HistoryError> {
        self.pull_recent()?;
        HistoryFolder::of(self)?.load_all(each)
    }

    /// The newest attempts, newest first.
    ///
    /// # Errors
    /// [`HistoryError`] when a file can't be read, or a journal is corrupt.
    pub fn newest_attempts(&self, limit: usize) -> Result<Vec<AttemptSummary>, HistoryError> {
        self.pull_recent()?;
        HistoryFolder::of(self)?.newest_attempts(limit)
    }

    /// One attempt; `None` if there is none with that epoch.
    ///
    /// # Errors
    /// [`HistoryError`] when a file can't be read, or a journal is corrupt.
    pub fn recorded_attempt(&self, choice: AttemptChoice) -> Result<Option<RecordedAttempt>, HistoryError> {
        self.pull_recent()?;
        HistoryFolder::of(self)?.recorded_attempt(choice)
    }

    /// The steps whose newest entries were lost with the lock of an attempt of this machine: they may have acted since their
    /// records. The next attempt records them ([`forget_lost_records`](Self::forget_lost_records)).
    ///
    /// # Errors
    /// [`StateError`] when the list can't be read.
    pub fn lost_records(&self) -> Result<BegunSteps, StateError> {
        BegunSteps::read(self.folder())
    }

    /// Removes the list of [`lost_records`](Self::lost_records), once a journal has them.
    ///
    /// # Errors
    /// [`StateError`] when it can't be removed.
    pub fn forget_lost_records(&self) -> Result<(), StateError> {
        remove_if_present(&self.folder().join(BEGUN_FILE))
    }

    /// Writes the snapshot and the index, if there are attempts that they do not have: `loaded` is all that was read under the lock.
    /// After this, at most the attempt that begins now is not in them. Does nothing if the holder's `staging` directory is gone
    /// ([`DeploymentLock::staging`](super::DeploymentLock::staging)).
    ///
    /// # Errors
    /// [`HistoryError`] when a file can't be written.
    pub fn record_loaded(&self, loaded: &LoadedJournals, staging: Option<&Path>) -> Result<(), HistoryError> {
        let is_current = loaded.is_newest_durable;
        if is_current || loaded.state.newer_format.is_some() || loaded.state.epoch() == 0 {
            return Ok(());
        }
        loaded.sync_newest()?;
        HistoryFolder::of(self)?.record(&loaded.state, &loaded.summaries, ARCHIVE_POLICY, staging)
    }

    /// Writes the snapshot after an attempt that has ended, and adds it to the index. Old journals go into an archive. Does nothing
    /// else if the holder's `staging` directory is gone.
    ///
    /// # Errors
    /// [`HistoryError`] when a file can't be written: the journals still have everything.
    pub fn record_ended(&self, state: &JournalState, staging: Option<&Path>) -> Result<(), HistoryError> {
        let ended = state.attempts.last().map(std::slice::from_ref).unwrap_or_default();
        HistoryFolder::of(self)?.record(state, ended, ARCHIVE_POLICY, staging)
    }
}

impl<'a> HistoryFolder<'a> {
    /// The history of a store, as it was read last if it is remote.
    pub(super) fn of(store: &'a StateStore) -> Result<Self, StateError> {
        let mut history = Self { store: Some(store), ..Self::open(store.folder())? };
        if let Some(listed) = store.listed()? {
            history.archives.extend(listed.archives);
            history.archives.sort();
            history.archives.dedup();
            let archived = history.archives.last().map_or(0, |archive| archive.last);
            history.loose.extend(listed.journals.iter().map(|&epoch| (epoch, store.journal_path(epoch))));
            history.loose.retain(|(epoch, _)| *epoch > archived);
            history.loose.sort();
            history.loose.dedup_by_key(|(epoch, _)| *epoch);
        }
        Ok(history)
    }

    /// Downloads files that are not here, if the state is remote.
    fn fetch(&self, wanted: &[WantedFile]) -> Result<(), StateError> {
        self.store.filter(|_| !wanted.is_empty()).map_or(Ok(()), |store| store.pull(wanted))
    }

    pub(super) fn fetch_journals(&self, journals: &[(u64, PathBuf)]) -> Result<(), StateError> {
        self.fetch(&journals.iter().map(|(epoch, _)| WantedFile::Journal(*epoch)).collect::<Vec<_>>())
    }

    pub(super) fn read_archive(&self, range: ArchiveRange) -> Result<Archive, StateError> {
        self.fetch(&[WantedFile::Archive(range)])?;
        Archive::read(&range.path(&self.folder))
    }

    pub(super) fn open(folder: &Path) -> Result<Self, StateError> {
        let files = BaseFiles::of(folder)?;
        let (base, is_base_sound) = files.read()?;
        let BaseFiles { mut archives, journals: mut loose, .. } = files;
        archives.retain(|archive| archive.last > base.epoch());
        let archived = archives.last().map_or(base.epoch(), |archive| archive.last);
        // A killed process may have left journals that an archive has; a base snapshot may replace earlier ones.
        loose.retain(|(epoch, _)| *epoch > archived);
        Ok(Self { folder: folder.to_owned(), store: None, base, is_base_sound, archives, loose })
    }

    /// What is known before the first journal: an archive says it itself.
    pub(super) fn loaded_base(&self) -> Result<LoadedJournals, StateError> {
        let state = match self.archives.first() {
            Some(first) => self.read_archive(*first)?.before.map(|before| before.state).unwrap_or_default(),
            None => {
                if self.base.epoch() == 0 && self.store.is_none_or(StateStore::is_folder) {
                    BaseFiles::of(&self.folder)?.ensure_not_missing()?;
                }
                self.base.clone()
            }
        };
        Ok(LoadedJournals { state, ..LoadedJournals::default() })
    }

    /// The epoch of the newest attempt that may have a journal here; 0 if there is none.
    pub(super) fn newest_epoch(&self) -> u64 {
        let archived = self.archives.last().map_or(self.base.epoch(), |archive| archive.last);
        self.loose.last().map_or(archived, |(epoch, _)| *epoch)
    }

    /// The journals of an epoch and later: epoch, path and content.
    pub(super) fn journals_from(&self, first: u64) -> Result<Vec<(u64, PathBuf, Vec<u8>)>, StateError> {
        let mut journals = Vec::new();
        for range in self.archives.iter().filter(|range| range.last >= first) {
            let archived = self.read_archive(*range)?.journals.into_iter();
            journals
                .extend(archived.filter_map(|(name, bytes)| Some((epoch_of(&name)?, self.folder.join(name), bytes))));
        }
        for (epoch, path) in &self.loose {
            if *epoch >= first {
                let bytes = fs::read(path).map_err(|source| StateError::io("read", path, source))?;
                journals.push((*epoch, path.clone(), bytes));
            }
        }
        journals.retain(|(epoch, ..)| *epoch >= first);
        Ok(journals)
    }

    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        read_snapshot(&self.folder.join(SNAPSHOT_FILE))
    }

    fn snapshot_header(&self) -> Option<SnapshotHeader> {
        SnapshotHeader::decode(&fs::read(self.folder.join(SNAPSHOT_FILE)).ok()?).ok()
    }

    pub(super) fn load(&self, mut each: impl FnMut(&JournalEntry)) -> Result<LoadedJournals, HistoryError> {
        let snapshot = self.snapshot().filter(|snapshot| {
            let epoch = snapshot.state.epoch();
            self.loose.iter().any(|(known, _)| *known == epoch)
        });
        if let Some(Snapshot { state, .. }) = snapshot {
            let epoch = state.epoch();
            let tail: Vec<_> =
                self.paths().into_iter().skip(self.loose.partition_point(|(known, _)| *known < epoch)).collect();
            // Whatever is wrong, reading everything tells for sure.
            if let Ok(Some(loaded)) = LoadedJournals::read_after(state, &tail, &mut each) {
                return Ok(loaded);
            }
        }
        self.load_all(each)
    }

    pub(super) fn load_all(&self, mut each: impl FnMut(&JournalEntry)) -> Result<LoadedJournals, HistoryError> {
        let mut loaded = self.loaded_base()?;
        for range in &self.archives {
            for (name, bytes) in self.read_archive(*range)?.journals {
                loaded.read_file(&self.folder.join(name), &bytes, false, &mut each)?;
            }
        }
        self.read_loose(&mut loaded, u64::MAX, each)?;
        Ok(loaded)
    }

    /// Folds the journals of an archive.
    pub(super) fn fold_archive(&self, range: ArchiveRange, loaded: &mut LoadedJournals) -> Result<(), HistoryError> {
        for (name, bytes) in self.read_archive(range)?.journals {
            loaded.read_file(&self.folder.join(name), &bytes, false, |_| {})?;
        }
        Ok(())
    }

    /// Removes the snapshots and the index, which are made again.
    pub(super) fn forget_caches(&self) -> Result<(), StateError> {
        [SNAPSHOT_FILE, PREVIOUS_SNAPSHOT_FILE, INDEX_FILE]
            .iter()
            .try_for_each(|name| remove_if_present(&self.folder.join(name)))
    }

    /// Keeps the snapshots in `lost`: they may know what the journals do not say any more.
    ///
    /// # Errors
    /// [`StateError`] when a file can't be read or written.
    pub(super) fn keep_snapshots(&self) -> Result<(), StateError> {
        for (name, stem) in [(SNAPSHOT_FILE, "snapshot"), (PREVIOUS_SNAPSHOT_FILE, "snapshot-previous")] {
            if let Some(bytes) = read_if_present(&self.folder.join(name))? {
                keep_lost_file(&self.folder, stem, "json", &bytes)?;
            }
        }
        Ok(())
    }

    /// Folds the loose journals before an epoch.
    fn read_loose(
        &self,
        loaded: &mut LoadedJournals,
        before: u64,
        mut each: impl FnMut(&JournalEntry),
    ) -> Result<(), HistoryError> {
        let until = self.loose.partition_point(|(epoch, _)| *epoch < before);
        self.fetch_journals(&self.loose[..until])?;
        for (index, (_, path)) in self.loose[..until].iter().enumerate() {
            loaded.read_path(path, index + 1 == self.loose.len(), &mut each)?;
        }
        Ok(())
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.loose.iter().map(|(_, path)| path.clone()).collect()
    }

    /// The state after the newest archive.
    pub(super) fn archived_state(&self) -> Result<LoadedJournals, HistoryError> {
        match self.archives.last() {
            None => Ok(self.loaded_base()?),
            Some(range) => self.read_archive(*range)?.fold(&self.folder, u64::MAX),
        }
    }

    pub(super) fn newest_attempts(&self, limit: usize) -> Result<Vec<AttemptSummary>, HistoryError> {
        let mut attempts = self.load(|_| {})?.state.attempts;
        if attempts.len() < limit {
            let index = self.index(self.snapshot_header())?.summaries();
            prepend(&mut attempts, index.map_or_else(|| self.fold_index(), Ok)?);
        }
        for range in self.archives.iter().rev() {
            if attempts.len() >= limit {
                break;
            }
            prepend(&mut attempts, self.read_archive(*range)?.index.summaries().unwrap_or_default());
        }
        attempts.reverse();
        attempts.truncate(limit);
        Ok(attempts)
    }

    /// The index of the loose journals: the file's that the snapshot names, or else made from the journals.
    fn index(&self, snapshot: Option<SnapshotHeader>) -> Result<AttemptIndex, HistoryError> {
        let archived = self.archives.last().map_or(0, |archive| archive.last);
        if let Some(snapshot) = snapshot
            && let Some(mut index) = self.index_with_hash(snapshot.index)?
        {
            // A killed process may have written an archive and no index after it.
            drop(index.split_until(archived));
            return Ok(index);
        }
        Ok(AttemptIndex::of(&self.fold_index()?))
    }

    /// The index of the loose journals, made from them.
    fn fold_index(&self) -> Result<Vec<AttemptSummary>, HistoryError> {
        let mut loaded = self.archived_state()?;
        // Of the attempts before the base snapshot, it knows the newest ones.
        loaded.summaries = if self.archives.is_empty() { self.base.attempts.clone() } else { Vec::new() };
        self.read_loose(&mut loaded, u64::MAX, |_| {})?;
        Ok(loaded.summaries)
    }

    /// The index file, if it is the one with this hash.
    pub(super) fn index_with_hash(&self, hash: Blake3Hash) -> Result<Option<AttemptIndex>, StateError> {
        if let Some(index) = AttemptIndex::read(&self.folder, hash) {
            return Ok(Some(index));
        }
        self.fetch(&[WantedFile::Index])?;
        Ok(AttemptIndex::read(&self.folder, hash))
    }

    fn recorded_attempt(&self, choice: AttemptChoice) -> Result<Option<RecordedAttempt>, HistoryError> {
        let mut entries = Vec::new();
        let mut collect = |entry: &JournalEntry| {
            if entry.seq == 0 {
                entries.clear();
            }
            entries.push(entry.clone());
        };
        let newest = self.load(&mut collect)?.state;
        let epoch = match choice {
            AttemptChoice::Newest => newest.epoch(),
            AttemptChoice::Epoch(epoch) => epoch,
        };
        if epoch == newest.epoch() {
            let Some(first) = entries.first() else { return Ok(None) };
            let before = self.state_before_entry(first, epoch)?;
            let summary = newest.attempts.last().cloned();
            return Ok(summary.map(|summary| RecordedAttempt { before, summary, entries }));
        }
        let Some((before, path, bytes)) = self.earlier_attempt(epoch)? else { return Ok(None) };
        let mut after = LoadedJournals { state: before.clone(), ..LoadedJournals::default() };
        after.read_file(&path, &bytes, false, collect)?;
        Ok(after.summaries.pop().map(|summary| RecordedAttempt { before, summary, entries }))
    }

    /// The state before an attempt, and its journal.
    fn earlier_attempt(&self, epoch: u64) -> Result<Option<(JournalState, PathBuf, Vec<u8>)>, HistoryError> {
        if let Some(range) = self.archives.iter().find(|range| (range.first..=range.last).contains(&epoch)) {
            let archive = self.read_archive(*range)?;
            let before = archive.fold(&self.folder, epoch)?.state;
            let journal = archive.journals.into_iter().find(|(name, _)| epoch_of(name) == Some(epoch));
            return Ok(journal.map(|(name, bytes)| (before, self.folder.join(name), bytes)));
        }
        let Some((_, path)) = self.loose.iter().find(|(known, _)| *known == epoch) else { return Ok(None) };
        self.fetch(&[WantedFile::Journal(epoch)])?;
        let bytes = fs::read(path).map_err(|source| StateError::io("read", path, source))?;
        Ok(Some((self.state_before(epoch)?, path.clone(), bytes)))
    }

    /// The state before an attempt whose first entry is `first`.
    pub(super) fn state_before_entry(&self, first: &JournalEntry, epoch: u64) -> Result<JournalState, HistoryError> {
        let find = || {
            let snapshots = [PREVIOUS_SNAPSHOT_FILE, SNAPSHOT_FILE];
            let known = snapshots.iter().filter_map(|name| read_snapshot(&self.folder.join(name)));
            let mut states = known.map(|snapshot| snapshot.state);
            states.find(|state| state.epoch() < epoch && state.last_line_hash == first.prev)
        };
        if let Some(state) = find() {
            return Ok(state);
        }
        self.fetch(&[WantedFile::PreviousSnapshot])?;
        find().map_or_else(|| self.state_before(epoch), Ok)
    }

    /// The state before an attempt.
    pub(super) fn state_before(&self, epoch: u64) -> Result<JournalState, HistoryError> {
        if let Some(range) = self.archives.iter().find(|range| (range.first..=range.last).contains(&epoch)) {
            return Ok(self.read_archive(*range)?.fold(&self.folder, epoch)?.state);
        }
        let mut loaded = self.archived_state()?;
        self.read_loose(&mut loaded, epoch, |_| {})?;
        Ok(loaded.state)
    }

    /// Writes archive, index and snapshot, in this order; before them the base snapshot, if something stood in for it.
    pub(super) fn record(
        &self,
        state: &JournalState,
        later: &[AttemptSummary],
        archives: ArchivePolicy,
        staging: Option<&Path>,
    ) -> Result<(), HistoryError> {
        if !self.is_base_sound && staging.is_none_or(Path::exists) {
            BaseFiles::of(&self.folder)?.replace(&self.base)?;
        }
        let archived = self.archives.last().map_or(0, |archive| archive.last);
        let older = self.snapshot_header();
        let has_earlier = self.base.epoch() > 0 || !self.archives.is_empty() || self.has_other_attempts(later);
        let mut index = if has_earlier { self.index(older)? } else { AttemptIndex::default() };
        index.merge(later.iter().filter(|one| one.header.epoch > archived));
        self.archive_old_journals(&mut index, archives)?;
        let snapshot = Snapshot { state: state.clone(), index: index.hash() };
        let Some(encoded) = snapshot.encode() else { return Ok(()) };
        self.place(INDEX_FILE, index.bytes(), staging)?;
        if older.is_some_and(|older| older.epoch < state.epoch()) {
            self.keep_previous_snapshot(staging)?;
        }
        self.place(SNAPSHOT_FILE, &encoded, staging)?;
        Ok(())
    }

    /// Whether there is a loose journal of another attempt than these.
    fn has_other_attempts(&self, known: &[AttemptSummary]) -> bool {
        self.loose.iter().any(|(epoch, _)| known.iter().all(|summary| summary.header.epoch != *epoch))
    }

    /// Replaces a file by a rename out of the holder's staging directory. Without the directory, another holder has the lock, and
    /// nothing is changed: who was forced out must not replace what the next one has written. What is derived from the journals is made
    /// again.
    fn place(&self, name: &str, content: &[u8], staging: Option<&Path>) -> Result<(), StateError> {
        let path = self.folder.join(name);
        let placed = match staging {
            None => replace_unsynced_file(&path, content),
            Some(staging) => {
                let staged = staging.join(name);
                fs::write(&staged, content).and_then(|()| fs::rename(&staged, &path))
            }
        };
        ignore_missing(placed).map_err(|source| StateError::io("write", &path, source))
    }

    fn keep_previous_snapshot(&self, staging: Option<&Path>) -> Result<(), StateError> {
        let [path, previous] = [SNAPSHOT_FILE, PREVIOUS_SNAPSHOT_FILE].map(|name| self.folder.join(name));
        let renamed = match staging {
            None => fs::rename(&path, &previous),
            Some(staging) => {
                let staged = staging.join(PREVIOUS_SNAPSHOT_FILE);
                fs::rename(&path, &staged).and_then(|()| fs::rename(&staged, &previous))
            }
        };
        ignore_missing(renamed).map_err(|source| StateError::io("write", &previous, source))
    }

    /// Moves the oldest journals into archives, while there are enough of them.
    fn archive_old_journals(&self, index: &mut AttemptIndex, policy: ArchivePolicy) -> Result<(), HistoryError> {
        self.remove_archived_journals()?;
        let mut loose = self.loose.as_slice();
        let mut before: Option<JournalState> = None;
        while loose.len() >= policy.length + policy.min_loose {
            let (old, rest) = loose.split_at(policy.length);
            self.fetch_journals(old)?;
            let start = match before.take() {
                Some(state) => state,
                None => self.archived_state()?.state,
            };
            let range = ArchiveRange { first: old[0].0, last: old[policy.length - 1].0 };
            let mut archive = Archive { index: index.split_until(range.last), ..Archive::default() };
            let empty = Blake3Hash::of(&[]);
            archive.before = (start.epoch() > 0).then(|| Snapshot { state: start, index: empty });
            for (_, path) in old {
                let bytes = fs::read(path).map_err(|source| StateError::io("read", path, source))?;
                archive.journals.push((path.file_name().unwrap_or_default().into(), bytes));
            }
            // Nothing is removed that the archive could not give back.
            before = Some(archive.fold(&self.folder, u64::MAX)?.state);
            archive.write(&self.folder, range)?;
            remove_journals(old)?;
            loose = rest;
        }
        Ok(())
    }

    /// Removes journals that an archive has: a killed process left them.
    fn remove_archived_journals(&self) -> Result<(), StateError> {
        let Some(archived) = self.archives.last().map(|archive| archive.last) else { return Ok(()) };
        let mut leftovers = journals_in(&self.folder)?;
        leftovers.retain(|(epoch, _)| *epoch <= archived);
        remove_journals(&leftovers)
    }
}

impl Archive {
    /// Folds its journals before an epoch.
    fn fold(&self, folder: &Path, before: u64) -> Result<LoadedJournals, HistoryError> {
        let state = self.before.as_ref().map(|snapshot| snapshot.state.clone()).unwrap_or_default();
        let mut loaded = LoadedJournals { state, ..LoadedJournals::default() };
        for (name, bytes) in self.journals.iter().take_while(|(name, _)| epoch_of(name) < Some(before)) {
            loaded.read_file(&folder.join(name), bytes, false, |_| {})?;
        }
        Ok(loaded)
    }
}

/// Puts earlier attempts before later ones, without those that are there.
fn prepend(later: &mut Vec<AttemptSummary>, mut earlier: Vec<AttemptSummary>) {
    let first = later.first().map_or(u64::MAX, |first| first.header.epoch);
    earlier.retain(|summary| summary.header.epoch < first);
    later.splice(..0, earlier);
}

fn read_snapshot(path: &Path) -> Option<Snapshot> {
    Snapshot::decode(&fs::read(path).ok()?).ok()
}

fn remove_journals(journals: &[(u64, PathBuf)]) -> Result<(), StateError> {
    journals
        .iter()
        .try_for_each(|(_, path)| fs::remove_file(path).map_err(|source| StateError::io("remove", path, source)))
}

#[cfg(test)]
mod tests;
