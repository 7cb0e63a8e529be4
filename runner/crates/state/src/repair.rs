//! Checks a state as a whole, and repairs what needs no judgement: caches are made again, and lines that can't be read are moved away,
//! with a note of the steps that they may have begun. What is wrong is found in [`super::history_check`]; what becomes of a base snapshot is in
//! [`super::base_snapshot`].
//!
//! Nothing is deleted: what a repair takes out of a journal lies in `lost/`. Deliberately absent: damage in an archive or on a
//! remote, which only a copy can mend.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use hostio::atomic_file::{remove_staged_files, replace_file};
use journal::{JournalEvent, StepTarget, line};

use super::{
    HistoryError, StateError, StateStore,
    archive::ARCHIVE_FOLDER,
    base_snapshot::{BaseFiles, BaseRepair},
    begun_steps::{BegunSteps, damaged_begun_file, note_begun_steps},
    history::{ARCHIVE_POLICY, HistoryFolder},
    journal_files::{read_if_present, remove_if_present, whole_lines},
    local_copy::RemoteDamage,
    lost_lines::{LOST_FOLDER, keep_lost_lines},
};

/// Something that a check found.
#[derive(Debug)]
pub enum StateFinding {
    /// Lines of a journal can't be read, or contradict those before them. A repair moves them and all later ones away.
    DamagedJournal {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        error: HistoryError,
        /// How many of its lines are sound.
        sound_lines: usize,
        /// The journals after it, which can't be read without it.
        later: Vec<PathBuf>,
    },
    /// An archive can't be read. No repair mends it.
    DamagedArchive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        error: HistoryError,
    },
    /// A journal can't be read, or the one before it is missing, and the snapshot stands for both. Nothing to repair.
    DamagedOldJournal {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The journal that the snapshot continues, or one before it, has lost lines that only the snapshot stands for.
    LostJournal {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What a repair does.
        repair: BaseRepair,
    },
    /// The snapshot before the first journal is missing, damaged or of another history.
    DamagedBase {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What a repair does.
        repair: BaseRepair,
    },
    /// The snapshot or the index is missing, damaged or of another history. A repair makes both again.
    OutdatedSnapshot,
    /// A journal here and the remote's have diverged. A repair takes the remote's.
    Diverged(PathBuf),
    /// A file of a remote is missing there, or has another content than its record says. Nothing to repair.
    DamagedRemoteFile(RemoteDamage),
    /// A journal here has lines that the next deployment uploads. Nothing to repair.
    NotUploaded(PathBuf),
    /// The list of steps that lost lines say have begun can't be read: the next attempt counts all as begun. Nothing to repair.
    DamagedBegunFile(PathBuf),
    /// Lines that were moved away earlier. Nothing to repair.
    LostLines(PathBuf),
}

impl StateFinding {
    /// Whether a repair changes something because of it.
    #[must_use]
    pub fn is_repairable(&self) -> bool {
        match self {
            Self::DamagedJournal { .. } | Self::OutdatedSnapshot | Self::Diverged(_) => true,
            Self::DamagedBase { repair, .. } | Self::LostJournal { repair, .. } => *repair != BaseRepair::None,
            Self::DamagedArchive { .. }
            | Self::DamagedOldJournal { .. }
            | Self::DamagedRemoteFile(_)
            | Self::DamagedBegunFile(_)
            | Self::NotUploaded(_)
            | Self::LostLines(_) => false,
        }
    }

    /// Whether the snapshot has what the journals have lost, and can't be made again.
    fn needs_snapshot(&self) -> bool {
        match self {
            Self::DamagedOldJournal { .. } => true,
            Self::LostJournal { repair, .. } => *repair == BaseRepair::None,
            Self::DamagedJournal { .. }
            | Self::DamagedArchive { .. }
            | Self::DamagedBase { .. }
            | Self::DamagedRemoteFile(_)
            | Self::DamagedBegunFile(_)
            | Self::OutdatedSnapshot
            | Self::Diverged(_)
            | Self::NotUploaded(_)
            | Self::LostLines(_) => false,
        }
    }

    /// Whether it keeps deployments from going on, or has lost a part of the history.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::DamagedJournal { .. }
            | Self::DamagedOldJournal { .. }
            | Self::LostJournal { .. }
            | Self::DamagedArchive { .. }
            | Self::DamagedRemoteFile(_)
            | Self::Diverged(_) => true,
            Self::DamagedBase { repair, .. } => *repair != BaseRepair::Remake,
            Self::DamagedBegunFile(_) | Self::OutdatedSnapshot | Self::NotUploaded(_) | Self::LostLines(_) => false,
        }
    }
}

impl StateStore {
    /// Checks all journals, archives, the snapshot and the index, of a remote both there and in the local copy, and compares the two.
    /// Changes nothing.
    ///
    /// # Errors
    /// [`StateError`] when the folder or the remote can't be read.
    pub fn check(&self) -> Result<Vec<StateFinding>, StateError> {
        let copy = self.inspect_local_copy()?;
        let mut findings: Vec<_> = copy.diverged.into_iter().map(StateFinding::Diverged).collect();
        if findings.is_empty() {
            // With a diverged copy, everything else would be told of the wrong history.
            let damages = self.inspect_remote_files()?;
            match self.pull_recent().and_then(|()| self.check_history()) {
                // What is missing there can't be downloaded.
                Err(
                    StateError::Remote { .. }
                    | StateError::RemoteFileMissing { .. }
                    | StateError::InvalidManifest { .. },
                ) if !damages.is_empty() => {}
                history => findings.extend(history?),
            }
            findings.extend(damages.into_iter().map(StateFinding::DamagedRemoteFile));
        }
        findings.extend(damaged_begun_file(self.folder())?.map(StateFinding::DamagedBegunFile));
        findings.extend(copy.not_uploaded.into_iter().map(StateFinding::NotUploaded));
        findings.extend(copy.lost.into_iter().map(StateFinding::LostLines));
        Ok(findings)
    }

    fn check_history(&self) -> Result<Vec<StateFinding>, StateError> {
        let base = if self.is_folder() { BaseFiles::of(self.folder())?.check()? } else { None };
        let mut findings = Vec::from_iter(base);
        // Without the state before them, nothing can be said of the journals.
        if !findings.iter().any(StateFinding::is_damage) {
            findings.extend(HistoryFolder::of(self)?.check()?);
        }
        Ok(findings)
    }

    /// Takes the remote's history, if the local copy has diverged. Needs no lock: only this machine's copy changes.
    ///
    /// # Errors
    /// [`StateError`] when something can't be read or written.
    pub fn repair_copy(&self) -> Result<(), StateError> {
        self.reset_local_copy().map(drop)
    }

    /// Repairs the folder; the caller holds the lock.
    ///
    /// # Errors
    /// [`HistoryError`] when something can't be read or written.
    pub fn repair(&self) -> Result<(), HistoryError> {
        if self.is_folder() {
            BaseFiles::of(self.folder())?.repair()?;
        }
        let history = HistoryFolder::of(self)?;
        for folder in [history.folder.clone(), history.folder.join(LOST_FOLDER), history.folder.join(ARCHIVE_FOLDER)] {
            remove_staged_files(&folder).map_err(|source| StateError::io("clean", &folder, source))?;
        }
        let findings = history.check()?;
        if findings.iter().any(|finding| finding.is_damage() && finding.is_repairable()) {
            history.keep_snapshots()?;
        }
        for finding in &findings {
            match finding {
                StateFinding::DamagedJournal { path, sound_lines, later, .. } => {
                    history.take_out(path, *sound_lines, later)?;
                }
                StateFinding::LostJournal { repair: BaseRepair::BeginAfter(_), .. } => {
                    history.begin_after_snapshot()?
                }
                StateFinding::LostJournal { .. }
                | StateFinding::DamagedOldJournal { .. }
                | StateFinding::DamagedArchive { .. }
                | StateFinding::DamagedBase { .. }
                | StateFinding::DamagedRemoteFile(_)
                | StateFinding::DamagedBegunFile(_)
                | StateFinding::OutdatedSnapshot
                | StateFinding::Diverged(_)
                | StateFinding::NotUploaded(_)
                | StateFinding::LostLines(_) => {}
            }
        }
        if findings.iter().any(StateFinding::needs_snapshot) {
            return Ok(());
        }
        let history = HistoryFolder::of(self)?;
        let loaded = history.load_all(|_| {})?;
        history.forget_caches()?;
        if loaded.state.epoch() > 0 {
            loaded.sync_newest()?;
            history.record(&loaded.state, &loaded.summaries, ARCHIVE_POLICY, None)?;
        }
        Ok(())
    }
}

impl HistoryFolder<'_> {
    /// Lets the history begin after the snapshot. Lines of its journal that it does not have are lost.
    fn begin_after_snapshot(&self) -> Result<(), HistoryError> {
        let Some(snapshot) = self.snapshot() else { return Ok(()) };
        let known = snapshot.state;
        if let Some((_, path)) = self.loose.iter().find(|(epoch, _)| *epoch == known.epoch()) {
            let content = read_if_present(path)?.unwrap_or_default();
            let count = usize::try_from(known.line_count).unwrap_or(usize::MAX);
            note_begun_steps(&self.folder, self.begun_in(&content, length_of_lines(&content, count))?)?;
        }
        Ok(BaseFiles::of(&self.folder)?.begin_after(&known)?)
    }

    /// Moves the lines of a damaged journal from one on away, and those of all later journals. First the steps that they may have begun
    /// are noted, so that a kill loses none.
    fn take_out(&self, damaged: &Path, sound_lines: usize, later: &[PathBuf]) -> Result<(), HistoryError> {
        let content = read_if_present(damaged)?.unwrap_or_default();
        let length = length_of_lines(&content, sound_lines);
        // Something is not as it was written, even where each line can be read.
        let mut begun = self.begun_in(&content, length)?.union(self.steps_known_by(&content)?);
        if sound_lines == 0 && events_in(&content).next().flatten().is_some() {
            // It does not follow the journal before it: others are missing, and nobody knows what they said.
            begun = BegunSteps::All;
        }
        for path in later {
            begun = begun.union(self.begun_in(&read_if_present(path)?.unwrap_or_default(), 0)?);
        }
        note_begun_steps(&self.folder, begun)?;
        self.move_lines_away(damaged, length)?;
        Ok(later.iter().try_for_each(|path| self.move_lines_away(path, 0))?)
    }

    /// Moves the bytes of a journal from one on away.
    fn move_lines_away(&self, path: &Path, length: usize) -> Result<(), StateError> {
        let content = read_if_present(path)?.unwrap_or_default();
        keep_lost_lines(&self.folder, super::epoch_of(path).unwrap_or_default(), &content[length..])?;
        if length == 0 {
            return remove_if_present(path);
        }
        replace_file(path, &content[..length]).map_err(|source| StateError::io("write", path, source))
    }

    /// The steps that the lines of a journal from a byte on may have begun; all that it can be about, if one can't be read.
    fn begun_in(&self, content: &[u8], length: usize) -> Result<BegunSteps, HistoryError> {
        let mut steps = BTreeSet::new();
        for event in events_in(&content[length..]) {
            match event {
                Some(event) => steps.extend(begun_step(&event)),
                None => return self.steps_known_by(content),
            }
        }
        Ok(BegunSteps::Named(steps))
    }

    /// All steps that unreadable lines of a journal can be about: those with a record, and those that any readable line here names.
    /// Without the plan of its attempt, that may be any step.
    fn steps_known_by(&self, content: &[u8]) -> Result<BegunSteps, HistoryError> {
        if !events_in(content).any(|event| matches!(event, Some(JournalEvent::Plan { .. }))) {
            return Ok(BegunSteps::All);
        }
        let mut steps = BTreeSet::new();
        let known = self.snapshot().map(|snapshot| snapshot.state.records).unwrap_or_default();
        steps.extend(known.into_keys().chain(self.archived_state()?.state.records.into_keys()));
        for (_, path) in &self.loose {
            for event in events_in(&read_if_present(path)?.unwrap_or_default()).flatten() {
                steps.extend(event.step_target().cloned());
                if let JournalEvent::Plan { steps: planned, .. } = event {
                    steps.extend(planned.into_iter().map(|step| step.step_target));
                }
            }
        }
        Ok(BegunSteps::Named(steps))
    }
}

/// The events of whole lines; `None` for one that can't be read.
fn events_in(lines: &[u8]) -> impl Iterator<Item = Option<JournalEvent>> {
    let lines = whole_lines(lines).split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    lines.map(|line| line::decode(line).ok().map(|(entry, _)| entry.event))
}

/// The number of bytes of the first lines.
fn length_of_lines(content: &[u8], lines: usize) -> usize {
    content.split_inclusive(|byte| *byte == b'\n').take(lines).map(<[u8]>::len).sum()
}

/// The step that an event says has begun.
fn begun_step(event: &JournalEvent) -> Option<StepTarget> {
    match event {
        JournalEvent::Intent { step_target, .. }
        | JournalEvent::UndoIntent { step_target }
        | JournalEvent::Outcome { step_target, .. }
        | JournalEvent::UndoOutcome { step_target, .. }
        | JournalEvent::Resolved { step_target, .. }
        | JournalEvent::RecordLost { step_target } => Some(step_target.clone()),
        JournalEvent::Started(_)
        | JournalEvent::Plan { .. }
        | JournalEvent::Lock { .. }
        | JournalEvent::Torn { .. }
        | JournalEvent::SwitchedBack { .. }
        | JournalEvent::Decision { .. }
        | JournalEvent::Progress { .. }
        | JournalEvent::Output { .. }
        | JournalEvent::Probe { .. }
        | JournalEvent::Override { .. }
        | JournalEvent::HostLeftBehind { .. }
        | JournalEvent::Ended { .. }
        | JournalEvent::Unrecognized => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_names_what_is_kept() {
        // Two repairs of different lines of one epoch keep both.
        let folder = tempfile::tempdir().unwrap();
        keep_lost_lines(folder.path(), 3, b"one\n").unwrap();
        keep_lost_lines(folder.path(), 3, b"two\n").unwrap();
        let kept = std::fs::read_dir(folder.path().join("lost")).unwrap().count();
        assert_eq!(kept, 2);
    }
}
