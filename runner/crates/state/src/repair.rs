//! Checks a state as a whole, and repairs what needs no judgement: caches are made again, and lines that can't be read are moved away,
//! with a note of the steps that they may have begun. What is wrong is found in [`super::history_check`]; what becomes of a base snapshot is in
//! [`super::base_snapshot`].
//!
//! Nothing is deleted: what a repair takes out of a journal lies in `lost/`. Deliberately absent: damage in an archive or on a
//! remote, which only a copy can mend.

use std::{collections::BTreeSet, fs, path::PathBuf};

use hostio::atomic_file::{remove_staged_files, replace_file};
use journal::{JournalEvent, StepTarget, line};

use super::{
    HistoryError, StateError, StateStore,
    archive::ARCHIVE_FOLDER,
    base_snapshot::{BaseFiles, BaseRepair},
    history::{ARCHIVE_POLICY, HistoryFolder},
    journal_files::{read_if_present, whole_lines},
    lost_lines::{LOST_FOLDER, keep_lost_lines, note_begun_steps},
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
    /// A journal here has lines that the next deployment uploads. Nothing to repair.
    NotUploaded(PathBuf),
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
            | Self::OutdatedSnapshot
            | Self::Diverged(_)
            | Self::NotUploaded(_)
            | Self::LostLines(_) => false,
        }
    }

    /// Whether it keeps deployments from going on, or has lost state.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::DamagedJournal { .. }
            | Self::LostJournal { .. }
            | Self::DamagedArchive { .. }
            | Self::Diverged(_) => true,
            Self::DamagedBase { repair, .. } => *repair != BaseRepair::Remake,
            Self::DamagedOldJournal { .. }
            | Self::OutdatedSnapshot
            | Self::NotUploaded(_)
            | Self::LostLines(_) => false,
        }
    }
}

impl StateStore {
    /// Checks all journals, archives, the snapshot and the index, and compares the local copy with the remote. Changes nothing.
    ///
    /// # Errors
    /// [`StateError`] when the folder or the remote can't be read.
    pub fn check(&self) -> Result<Vec<StateFinding>, StateError> {
        let copy = self.inspect_local_copy()?;
        let mut findings: Vec<_> = copy.diverged.into_iter().map(StateFinding::Diverged).collect();
        if findings.is_empty() {
            // With a diverged copy, everything else would be told of the wrong history.
            self.pull_recent()?;
            findings.extend(self.check_history()?);
        }
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
        for finding in &findings {
            match finding {
                StateFinding::DamagedJournal { path, sound_lines, later, .. } => {
                    history.move_lines_away(path, *sound_lines)?;
                    later.iter().try_for_each(|path| history.move_lines_away(path, 0))?;
                }
                StateFinding::LostJournal { repair: BaseRepair::BeginAfter(_), .. } => history.begin_after_snapshot()?,
                StateFinding::LostJournal { .. }
                | StateFinding::DamagedOldJournal { .. }
                | StateFinding::DamagedArchive { .. }
                | StateFinding::DamagedBase { .. }
                | StateFinding::OutdatedSnapshot
                | StateFinding::Diverged(_)
                | StateFinding::NotUploaded(_)
                | StateFinding::LostLines(_) => {}
            }
        }
        if findings.iter().any(StateFinding::needs_snapshot) {
            return Ok(());
        }
        if findings.iter().any(|finding| finding.is_damage() && finding.is_repairable()) {
            history.keep_snapshots()?;
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
    fn begin_after_snapshot(&self) -> Result<(), StateError> {
        let Some(snapshot) = self.snapshot() else { return Ok(()) };
        let known = snapshot.state;
        if let Some((_, path)) = self.loose.iter().find(|(epoch, _)| *epoch == known.epoch()) {
            let content = read_if_present(path)?.unwrap_or_default();
            let count = usize::try_from(known.line_count).unwrap_or(usize::MAX);
            let length: usize = content.split_inclusive(|byte| *byte == b'\n').take(count).map(<[u8]>::len).sum();
            note_begun_steps(&self.folder, self.steps_in(&content[length..]))?;
        }
        BaseFiles::of(&self.folder)?.begin_after(&known)
    }

    /// Moves the lines of a journal from one on away, and notes the steps that they may have begun.
    fn move_lines_away(&self, path: &std::path::Path, sound_lines: usize) -> Result<(), StateError> {
        let content = read_if_present(path)?.unwrap_or_default();
        let sound: usize = content.split_inclusive(|byte| *byte == b'\n').take(sound_lines).map(<[u8]>::len).sum();
        let lost = &content[sound..];
        keep_lost_lines(&self.folder, super::epoch_of(path).unwrap_or_default(), lost)?;
        note_begun_steps(&self.folder, self.steps_in(lost))?;
        if sound == 0 {
            return fs::remove_file(path).map_err(|source| StateError::io("remove", path, source));
        }
        replace_file(path, &content[..sound]).map_err(|source| StateError::io("write", path, source))
    }

    /// The steps that lines are about; all known steps, if a line can't be read.
    fn steps_in(&self, lines: &[u8]) -> BTreeSet<StepTarget> {
        let mut steps = BTreeSet::new();
        for text in whole_lines(lines).split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
            match line::decode(text) {
                Ok((entry, _)) => steps.extend(begun_step(&entry.event)),
                Err(_) => steps.extend(self.known_steps()),
            }
        }
        steps
    }

    fn known_steps(&self) -> BTreeSet<StepTarget> {
        let state = self.snapshot().map(|snapshot| snapshot.state);
        state.map(|state| state.records.into_keys().collect()).unwrap_or_default()
    }
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
        let kept = fs::read_dir(folder.path().join("lost")).unwrap().count();
        assert_eq!(kept, 2);
    }
}
