//! The snapshot before the first journal of a folder that was restored from a checkpoint: whether it can be used, and what stands in
//! for it if not.
//!
//! The journals here can't tell what it says. Its state is known all the same if an archive follows it, or if another snapshot ends where
//! the first journal begins: then readers take that one, and the next attempt writes the file again. Otherwise an operator decides
//! (`runner state repair`). Nothing is deleted: what a repair takes away lies in `lost/`. Deliberately absent: a base snapshot that nobody
//! needs and that is missing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use contract::hash::Blake3Hash;
use hostio::atomic_file::replace_file;
use journal::{JournalState, LoadedJournals, Snapshot, event::JournalEntry, line};

use super::{
    StateError, StateFinding,
    archive::{Archive, ArchiveRange, archives_in},
    bundle::last_line_hash,
    history::{PREVIOUS_SNAPSHOT_FILE, SNAPSHOT_FILE},
    journal_files::{journals_in, read_if_present, remove_if_present},
    lost_lines::{keep_lost_file, keep_lost_lines},
};

/// The file. Unlike the other snapshots, it can't be made from the journals.
pub(super) const BASE_SNAPSHOT_FILE: &str = "snapshot-base.json";

/// What a repair does about a base snapshot that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseRepair {
    /// It writes the file again: an archive or another snapshot has the same state.
    Remake,
    /// It moves the file away: the journals here go back to the first attempt.
    Drop,
    /// It lets the history begin after this epoch, whose snapshot is sound, and moves the journals up to it away.
    BeginAfter(u64),
    /// Nothing: only a copy helps.
    None,
}

/// What is known here of the state before the first journal.
enum StandIn {
    /// The same state.
    Same(Box<JournalState>),
    /// The journals or archives here go back to the first attempt.
    NotNeeded,
    /// Not that state, but one after later attempts.
    Later(Box<JournalState>),
    Unknown,
}

/// The files of a state folder that tell about its base snapshot.
pub(super) struct BaseFiles {
    folder: PathBuf,
    pub(super) archives: Vec<ArchiveRange>,
    pub(super) journals: Vec<(u64, PathBuf)>,
}

impl BaseFiles {
    /// Lists the files of a folder.
    ///
    /// # Errors
    /// [`StateError`] when it can't be read.
    pub(super) fn of(folder: &Path) -> Result<Self, StateError> {
        let journals = journals_in(folder)?;
        Ok(Self { folder: folder.to_owned(), archives: archives_in(folder)?, journals })
    }

    /// The state before the first journal, and whether the file has it; the empty state if there is no file.
    ///
    /// # Errors
    /// [`StateError::BaseSnapshot`] when the file can't be used, and nothing here has the same state.
    pub(super) fn read(&self) -> Result<(JournalState, bool), StateError> {
        let Some(bytes) = read_if_present(&self.path())? else { return Ok((JournalState::default(), true)) };
        let why = match Snapshot::decode_original(&bytes) {
            Err(error) => error.to_string(),
            Ok(Snapshot { state, .. }) => match self.contradiction(&state)? {
                None => return Ok((state, true)),
                Some(why) => why,
            },
        };
        match self.stand_in()? {
            StandIn::Same(state) => Ok((*state, false)),
            stand_in @ (StandIn::NotNeeded | StandIn::Later(_) | StandIn::Unknown) => Err(self.error(why, &stand_in)),
        }
    }

    /// The error of a missing file, if the first journal here follows an attempt that is not here.
    ///
    /// # Errors
    /// [`StateError::BaseSnapshot`] when it does.
    pub(super) fn ensure_not_missing(&self) -> Result<(), StateError> {
        match self.missing_reason()? {
            None => Ok(()),
            Some(why) => Err(self.error(why, &self.stand_in()?)),
        }
    }

    /// What is wrong with the file, if anything is: archives are read too.
    ///
    /// # Errors
    /// [`StateError`] when a file can't be read.
    pub(super) fn check(&self) -> Result<Option<StateFinding>, StateError> {
        let Some(why) = self.problem()? else { return Ok(None) };
        let repair = self.stand_in()?.repair();
        Ok(Some(StateFinding::DamagedBase { path: self.path(), why, repair }))
    }

    /// Does what a check says that a repair does. The caller holds the lock.
    ///
    /// # Errors
    /// [`StateError`] when a file can't be read or written.
    pub(super) fn repair(&self) -> Result<(), StateError> {
        if self.problem()?.is_none() {
            return Ok(());
        }
        match self.stand_in()? {
            StandIn::Unknown => Ok(()),
            StandIn::Same(state) => self.replace(&state),
            StandIn::NotNeeded => {
                self.keep_damaged_file()?;
                remove_if_present(&self.path())
            }
            StandIn::Later(state) => self.begin_after(&state),
        }
    }

    /// Lets the history begin after a state: the journals up to it are not read any more, and move to `lost`.
    ///
    /// # Errors
    /// [`StateError`] when a file can't be read or written.
    pub(super) fn begin_after(&self, state: &JournalState) -> Result<(), StateError> {
        self.replace(state)?;
        for (epoch, path) in self.journals.iter().filter(|(epoch, _)| *epoch <= state.epoch()) {
            keep_lost_lines(&self.folder, *epoch, &read_if_present(path)?.unwrap_or_default())?;
            remove_if_present(path)?;
        }
        Ok(())
    }

    /// Writes a state that the first journal here continues into the file; returns whether it is continued.
    ///
    /// # Errors
    /// [`StateError`] when a file can't be read or written.
    pub(super) fn restore(&self, state: &JournalState) -> Result<bool, StateError> {
        let is_continued = match self.first_of_chain()? {
            None => true,
            Some((_, prev)) => prev.is_some() && prev == state.last_line_hash,
        };
        if is_continued {
            self.replace(state)?;
        }
        Ok(is_continued)
    }

    /// Writes the file, which is on disk on return. What was there is kept in `lost`.
    pub(super) fn replace(&self, state: &JournalState) -> Result<(), StateError> {
        self.keep_damaged_file()?;
        let snapshot = Snapshot { state: state.clone(), index: Blake3Hash::of(&[]) };
        let encoded = snapshot.encode().expect("a decoded snapshot has no events of a newer format");
        let path = self.path();
        replace_file(&path, &encoded).map_err(|source| StateError::io("write", &path, source))
    }

    fn keep_damaged_file(&self) -> Result<(), StateError> {
        match read_if_present(&self.path())? {
            None => Ok(()),
            Some(bytes) => keep_lost_file(&self.folder, "snapshot-base", "json", &bytes),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(BASE_SNAPSHOT_FILE)
    }

    fn error(&self, why: String, stand_in: &StandIn) -> StateError {
        StateError::BaseSnapshot { path: self.path(), why, repair: stand_in.repair() }
    }

    /// Why the file can't be used, or why it should be there.
    fn problem(&self) -> Result<Option<String>, StateError> {
        let Some(bytes) = read_if_present(&self.path())? else { return self.missing_reason() };
        let state = match Snapshot::decode_original(&bytes) {
            Err(error) => return Ok(Some(error.to_string())),
            Ok(snapshot) => snapshot.state,
        };
        if let Some(first) = self.archives.iter().find(|archive| archive.last > state.epoch())
            // An archive that can't be read is a finding of its own.
            && let Ok(Archive { before, .. }) = Archive::read(&first.path(&self.folder))
            && before.and_then(|before| before.state.last_line_hash) != state.last_line_hash
        {
            return Ok(Some(format!("archive {first} does not follow it")));
        }
        self.contradiction(&state)
    }

    /// Why a sound file is not this history's, as far as the journals and the snapshot tell.
    fn contradiction(&self, state: &JournalState) -> Result<Option<String>, StateError> {
        let epoch = state.epoch();
        if self.archives.iter().any(|archive| archive.last > epoch) {
            return Ok(None);
        }
        if let Some((_, path)) = self.journals.iter().find(|(later, _)| *later > epoch) {
            let bytes = read_if_present(path)?.unwrap_or_default();
            let follows = first_entry(&bytes).is_none_or(|first| first.prev == state.last_line_hash);
            return Ok((!follows).then(|| format!("{} does not follow it", file_name(path))));
        }
        // Who puts a base snapshot here removes the other ones first.
        let is_behind = self.snapshot(SNAPSHOT_FILE).is_some_and(|known| known.epoch() < epoch);
        if is_behind {
            return Ok(Some(format!("{SNAPSHOT_FILE} is of a history without it")));
        }
        // All journals here are older.
        let paths: Vec<_> = self.journals.iter().map(|(_, path)| path.clone()).collect();
        let begin = LoadedJournals::read(&paths, |_| {}).ok().and_then(|loaded| loaded.state.first_attempt);
        let is_other = begin.is_some() && begin != state.first_attempt;
        Ok(is_other.then(|| "the journals are of another history".to_owned()))
    }

    fn missing_reason(&self) -> Result<Option<String>, StateError> {
        let (name, follows) = match (self.archives.first(), self.journals.first()) {
            (Some(first), _) => {
                let before = Archive::read(&first.path(&self.folder)).ok().and_then(|archive| archive.before);
                (first.to_string(), before.is_some())
            }
            (None, Some((_, path))) => {
                let first = first_entry(&read_if_present(path)?.unwrap_or_default());
                (file_name(path), first.is_some_and(|first| first.prev.is_some()))
            }
            (None, None) => return Ok(None),
        };
        Ok(follows.then(|| format!("it is missing, and {name} follows an attempt that is not here")))
    }

    fn stand_in(&self) -> Result<StandIn, StateError> {
        if !self.archives.is_empty() {
            return Ok(self.before_archives());
        }
        let Some((first, prev)) = self.first_of_chain()? else { return Ok(StandIn::Unknown) };
        if prev.is_none() {
            return Ok(StandIn::NotNeeded);
        }
        let known = || [PREVIOUS_SNAPSHOT_FILE, SNAPSHOT_FILE].into_iter().filter_map(|name| self.snapshot(name));
        if let Some(same) = known().find(|state| state.last_line_hash == prev) {
            return Ok(StandIn::Same(Box::new(same)));
        }
        for state in known() {
            if self.continues(&state, first)? {
                return Ok(StandIn::Later(Box::new(state)));
            }
        }
        Ok(StandIn::Unknown)
    }

    /// The state before the archives that follow each other up to the newest one.
    fn before_archives(&self) -> StandIn {
        let mut archives = self.archives.iter().rev().peekable();
        while let Some(range) = archives.next() {
            let Ok(archive) = Archive::read(&range.path(&self.folder)) else { return StandIn::Unknown };
            let Some(Snapshot { state, .. }) = archive.before else { return StandIn::NotNeeded };
            if archives.peek().is_none_or(|earlier| earlier.last != state.epoch()) {
                return StandIn::Same(Box::new(state));
            }
        }
        StandIn::Unknown
    }

    /// The first of the journals that follow each other up to the newest one, and the hash of the line that it follows.
    fn first_of_chain(&self) -> Result<Option<(usize, Option<Blake3Hash>)>, StateError> {
        let (mut first, mut end) = (None, None);
        for (at, (_, path)) in self.journals.iter().enumerate() {
            let bytes = read_if_present(path)?.unwrap_or_default();
            // An attempt that never began.
            let Some(entry) = first_entry(&bytes) else { continue };
            if first.is_none() || entry.prev != end {
                first = Some((at, entry.prev));
            }
            end = last_line_hash(&bytes);
        }
        Ok(first)
    }

    /// Whether a state is that after one of the journals from `first` on, and the later ones follow it.
    fn continues(&self, state: &JournalState, first: usize) -> Result<bool, StateError> {
        let Some(at) = self.journals.iter().position(|(epoch, _)| *epoch == state.epoch()) else { return Ok(false) };
        let bytes = read_if_present(&self.journals[at].1)?.unwrap_or_default();
        let later: Vec<_> = self.journals[at + 1..].iter().map(|(_, path)| path.clone()).collect();
        let is_end = at >= first && last_line_hash(&bytes) == state.last_line_hash;
        Ok(is_end && matches!(LoadedJournals::read_after(state.clone(), &later, |_| {}), Ok(Some(_))))
    }

    fn snapshot(&self, name: &str) -> Option<JournalState> {
        Some(Snapshot::decode_original(&fs::read(self.folder.join(name)).ok()?).ok()?.state)
    }
}

impl StandIn {
    fn repair(&self) -> BaseRepair {
        match self {
            Self::Same(_) => BaseRepair::Remake,
            Self::NotNeeded => BaseRepair::Drop,
            Self::Later(state) => BaseRepair::BeginAfter(state.epoch()),
            Self::Unknown => BaseRepair::None,
        }
    }
}

/// The first entry of a journal; `None` if it has no whole line, or one that can't be read.
fn first_entry(bytes: &[u8]) -> Option<JournalEntry> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    line::decode_newer(&bytes[..end]).ok().map(|(entry, _)| entry)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
