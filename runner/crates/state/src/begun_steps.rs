//! The steps that lost lines say have begun, in the file `begun.json` of a state folder: the next attempt records them, and then removes it.
//!
//! The file is a JSON array of steps, or `"all"`. Invariant: what can't be read counts as begun, so no step runs twice because of it.
//! Deliberately absent: which lines are lost ([`super::tail`], [`super::repair`]).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use hostio::atomic_file::replace_file;
use journal::StepTarget;

use super::{StateError, journal_files::read_if_present, lost_lines::keep_lost_file};

/// The file.
pub(super) const BEGUN_FILE: &str = "begun.json";
/// Its content if all steps count as begun.
const ALL_STEPS: &[u8] = b"\"all\"";

/// Steps that may have acted since their records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BegunSteps {
    /// These steps.
    Named(BTreeSet<StepTarget>),
    /// Any step: what named them can't be read.
    All,
}

impl Default for BegunSteps {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl BegunSteps {
    /// The steps; `known` are all that there are.
    #[must_use]
    pub fn among(self, known: BTreeSet<StepTarget>) -> Vec<StepTarget> {
        match self {
            Self::Named(steps) => steps.into_iter().collect(),
            Self::All => known.into_iter().collect(),
        }
    }

    /// Reads the file of a folder.
    ///
    /// # Errors
    /// [`StateError::Io`] when it can't be read. Content that is not understood is no error.
    pub(super) fn read(folder: &Path) -> Result<Self, StateError> {
        Ok(read_if_present(&folder.join(BEGUN_FILE))?.map_or_else(Self::default, |bytes| Self::decode(&bytes)))
    }

    pub(super) fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::Named(mut steps), Self::Named(others)) => {
                steps.extend(others);
                Self::Named(steps)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::Named(steps) if steps.is_empty())
    }

    fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).map_or(Self::All, Self::Named)
    }

    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        match self {
            Self::Named(steps) => serde_json::to_vec(steps),
            Self::All => Ok(ALL_STEPS.to_vec()),
        }
    }
}

/// Adds steps to the file.
pub(super) fn note_begun_steps(folder: &Path, begun: BegunSteps) -> Result<(), StateError> {
    if begun.is_none() {
        return Ok(());
    }
    let path = folder.join(BEGUN_FILE);
    if damaged_begun_file(folder)?.is_some() {
        keep_lost_file(folder, "begun", "json", &read_if_present(&path)?.unwrap_or_default())?;
    }
    let text = BegunSteps::read(folder)?.union(begun).encode();
    let text = text.map_err(|error| StateError::io("write", &path, error.into()))?;
    replace_file(&path, &text).map_err(|source| StateError::io("write", &path, source))
}

/// The file, if its content is not understood.
pub(super) fn damaged_begun_file(folder: &Path) -> Result<Option<PathBuf>, StateError> {
    let path = folder.join(BEGUN_FILE);
    let bytes = read_if_present(&path)?;
    let is_damaged = bytes.is_some_and(|bytes| bytes != ALL_STEPS && BegunSteps::decode(&bytes) == BegunSteps::All);
    Ok(is_damaged.then_some(path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn named(steps: &[&str]) -> BegunSteps {
        let target = |step: &&str| StepTarget { step: step.parse().unwrap(), target: "local".parse().unwrap() };
        BegunSteps::Named(steps.iter().map(target).collect())
    }

    #[test]
    fn noted_steps_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let read = || BegunSteps::read(folder.path()).unwrap();
        note_begun_steps(folder.path(), BegunSteps::default()).unwrap();
        assert!(!folder.path().join(BEGUN_FILE).exists());
        note_begun_steps(folder.path(), named(&["pull"])).unwrap();
        note_begun_steps(folder.path(), named(&["charge"])).unwrap();
        assert_eq!(read(), named(&["charge", "pull"]));
        note_begun_steps(folder.path(), BegunSteps::All).unwrap();
        note_begun_steps(folder.path(), named(&["switch"])).unwrap();
        assert_eq!((read(), damaged_begun_file(folder.path()).unwrap()), (BegunSteps::All, None));
    }

    #[test]
    fn every_damage_counts_for_all_steps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(BEGUN_FILE);
        let good = named(&["pull", "charge"]).encode().unwrap();
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert_eq!(BegunSteps::read(folder.path()).unwrap(), BegunSteps::All, "cut at {length}");
            assert_eq!(damaged_begun_file(folder.path()).unwrap().as_ref(), Some(&path));
        }
        // Nothing that is noted later makes less of it, and the damaged file is kept.
        note_begun_steps(folder.path(), named(&["switch"])).unwrap();
        assert_eq!(BegunSteps::read(folder.path()).unwrap(), BegunSteps::All);
        assert_eq!(super::super::lost_lines::lost_files_in(folder.path()).unwrap().len(), 1);
    }
}
