//! Reads all journals of (app, environment) in epoch order, and folds them into one state.
//!
//! Invariant: the result is what was written, or an error; only the bytes after the last newline of a file may be missing.
//! Deliberately absent: finding the files, which is the `state` crate's task.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    error::{JournalError, io_error},
    event::{FORMAT, JournalEntry},
    line::{self, LineError},
    state::{JournalState, JournalTrust, TransitionError},
};

/// The content of all journals of (app, environment).
#[derive(Debug, Default)]
pub struct LoadedJournals {
    /// The folded state.
    pub state: JournalState,
    /// The files whose last line was torn, each with the number of dropped bytes.
    pub torn_files: Vec<(PathBuf, usize)>,
    /// A file without a complete header, whose attempt never began.
    pub headerless: Option<PathBuf>,
    /// The first file with a newer minor format; then no attempt may follow.
    pub newer_format_file: Option<PathBuf>,
    /// The number of complete lines.
    pub line_count: u64,
}

/// The end of the file name of an unauthenticated journal.
pub const UNTRUSTED_FILE_SUFFIX: &str = ".suggested.journal";

/// Whether a journal is authentic, by its file name.
#[must_use]
pub fn trust_from_file_name(path: &Path) -> JournalTrust {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with(UNTRUSTED_FILE_SUFFIX) { JournalTrust::Untrusted } else { JournalTrust::Authenticated }
}

impl LoadedJournals {
    /// Reads and folds journals in epoch order, calling `each` with every entry.
    ///
    /// # Errors
    /// [`JournalError`] if one cannot be read, is corrupt, or contradicts another.
    pub fn read(paths: &[PathBuf], mut each: impl FnMut(&JournalEntry)) -> Result<Self, JournalError> {
        let mut loaded = Self::default();
        for (index, path) in paths.iter().enumerate() {
            let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
            loaded.state.trust = trust_from_file_name(path);
            if bytes.contains(&b'\n') {
                loaded.fold_lines(path, &bytes, 0, &mut each)?;
            } else if index + 1 == paths.len() {
                loaded.headerless = Some(path.clone());
            } else {
                return Err(JournalError::Corrupt { path: path.clone(), seq: 0, source: LineError::Malformed });
            }
        }
        Ok(loaded)
    }

    /// Folds the lines of one file; `first` is the number of the first line in `bytes`.
    pub(super) fn fold_lines(
        &mut self,
        path: &Path,
        bytes: &[u8],
        first: u64,
        mut each: impl FnMut(&JournalEntry),
    ) -> Result<(), JournalError> {
        let mut torn = 0;
        for (seq, line) in (first..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
            let Some(line) = line.strip_suffix(b"\n") else {
                torn = line.len();
                break;
            };
            let illegal = |source| JournalError::IllegalTransition { path: path.to_owned(), seq, source };
            let (entry, hash) = line::decode(line).map_err(|source| match line::stated_format(line) {
                Some(format) if seq == 0 && format.major != FORMAT.major => illegal(TransitionError::Format(format)),
                Some(_) | None => JournalError::Corrupt { path: path.to_owned(), seq, source },
            })?;
            self.state.apply(&entry, hash, seq).map_err(illegal)?;
            if self.state.newer_format.is_some() && self.newer_format_file.is_none() {
                self.newer_format_file = Some(path.to_owned());
            }
            self.line_count += 1;
            each(&entry);
        }
        if torn > 0 {
            self.torn_files.push((path.to_owned(), torn));
        }
        Ok(())
    }
}
