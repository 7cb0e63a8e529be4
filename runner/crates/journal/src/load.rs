//! Reads the journals of (app, environment) in epoch order, and folds them into one state: all of them, or those after a snapshot.
//!
//! Invariant: the result is what was written, or an error; only the bytes after the last newline of a file may be missing.
//! Deliberately absent: finding the files, which is the `state` crate's task.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    error::{JournalError, io_error},
    event::{FORMAT, JournalEntry, JournalEvent, JournalFormat},
    line::{self, LineError},
    state::{AttemptSummary, JournalState, JournalTrust, TransitionError},
};
use contract::hash::Blake3Hash;

/// The content of the journals of (app, environment).
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
    /// The number of complete lines that were read.
    pub line_count: u64,
    /// The file of the newest attempt that began: the next one follows its last line.
    pub newest_file: Option<PathBuf>,
    /// Whether a snapshot has all lines of that file. Its writer synced them before.
    pub is_newest_durable: bool,
    /// The attempts whose journals were read, oldest first.
    pub summaries: Vec<AttemptSummary>,
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
    /// Reads and folds all journals in epoch order, calling `each` with every entry.
    ///
    /// # Errors
    /// [`JournalError`] if one cannot be read, is corrupt, or contradicts another.
    pub fn read(paths: &[PathBuf], mut each: impl FnMut(&JournalEntry)) -> Result<Self, JournalError> {
        let mut loaded = Self::default();
        for (index, path) in paths.iter().enumerate() {
            loaded.read_path(path, index + 1 == paths.len(), &mut each)?;
        }
        Ok(loaded)
    }

    /// Continues a snapshot's state with the journals from its epoch on. `None` if they do not continue it: it is of another
    /// history, or they have lost lines. The state is then folded from all journals.
    ///
    /// # Errors
    /// [`JournalError`] if one cannot be read, is corrupt, or contradicts another.
    pub fn read_after(
        snapshot: JournalState,
        paths: &[PathBuf],
        mut each: impl FnMut(&JournalEntry),
    ) -> Result<Option<Self>, JournalError> {
        let mut loaded = Self { state: snapshot, ..Self::default() };
        for (index, path) in paths.iter().enumerate() {
            let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
            let is_newest = index + 1 == paths.len();
            if index > 0 || !loaded.is_newest_attempt(&bytes) {
                loaded.read_file(path, &bytes, is_newest, &mut each)?;
            } else if !loaded.continue_file(path, &bytes, &mut each)? {
                return Ok(None);
            }
        }
        Ok(Some(loaded))
    }

    /// Reads and folds the next journal.
    ///
    /// # Errors
    /// [`JournalError`] if it cannot be read, is corrupt, or contradicts those before it.
    pub fn read_path(
        &mut self,
        path: &Path,
        is_newest: bool,
        each: impl FnMut(&JournalEntry),
    ) -> Result<(), JournalError> {
        let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
        self.read_file(path, &bytes, is_newest, each)
    }

    /// Folds the content of the next journal.
    ///
    /// # Errors
    /// [`JournalError`] if it is corrupt, or contradicts those before it.
    pub fn read_file(
        &mut self,
        path: &Path,
        bytes: &[u8],
        is_newest: bool,
        each: impl FnMut(&JournalEntry),
    ) -> Result<(), JournalError> {
        self.state.trust = trust_from_file_name(path);
        if bytes.contains(&b'\n') {
            self.newest_file = Some(path.to_owned());
            self.is_newest_durable = false;
            self.fold_lines(path, bytes, 0, each)?;
            self.summaries.extend(self.state.attempts.last().cloned());
        } else if is_newest {
            self.headerless = Some(path.to_owned());
        } else {
            return Err(JournalError::Corrupt { path: path.to_owned(), seq: 0, source: LineError::Malformed });
        }
        Ok(())
    }

    /// Makes the newest journal durable: its writer may have been killed before it synced. Before this, no file may depend on its
    /// last line, neither the next journal nor a snapshot.
    ///
    /// # Errors
    /// [`JournalError::Io`] if it cannot be synced.
    pub fn sync_newest(&self) -> Result<(), JournalError> {
        let Some(path) = self.newest_file.as_ref().filter(|_| !self.is_newest_durable) else { return Ok(()) };
        match fs::File::open(path).and_then(|file| file.sync_data()) {
            // It is in an archive, which was synced.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced.map_err(|source| io_error("sync", path, source)),
        }
    }

    /// Whether these are the bytes of the newest attempt's journal.
    fn is_newest_attempt(&self, bytes: &[u8]) -> bool {
        let header = bytes.split(|byte| *byte == b'\n').next().and_then(|line| line::decode(line).ok());
        match header {
            Some((JournalEntry { event: JournalEvent::Started(header), .. }, _)) => header.epoch == self.state.epoch(),
            Some(_) | None => false,
        }
    }

    /// Checks that a journal has the lines that the state was folded from, and folds the rest. Returns whether it has.
    fn continue_file(
        &mut self,
        path: &Path,
        bytes: &[u8],
        mut each: impl FnMut(&JournalEntry),
    ) -> Result<bool, JournalError> {
        let known = self.state.line_count;
        let (mut length, mut hash) = (0, None);
        for line in bytes.split_inclusive(|byte| *byte == b'\n').take(usize::try_from(known).unwrap_or(usize::MAX)) {
            let Some(content) = line.strip_suffix(b"\n") else { return Ok(false) };
            let Ok((entry, line_hash)) = line::decode(content) else { return Ok(false) };
            length += line.len();
            hash = Some(line_hash);
            self.line_count += 1;
            each(&entry);
        }
        if hash != self.state.last_line_hash || self.line_count != known {
            return Ok(false);
        }
        self.state.trust = trust_from_file_name(path);
        self.newest_file = Some(path.to_owned());
        self.is_newest_durable = length == bytes.len();
        self.fold_lines(path, &bytes[length..], known, each)?;
        self.summaries.extend(self.state.attempts.last().cloned());
        Ok(true)
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
            let (entry, hash) = decode_line(&self.state, path, seq, line)?;
            self.state.apply(&entry, hash, seq).map_err(|source| transition_error(&self.state, path, seq, source))?;
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

/// Decodes the line with the number `seq` of the newest attempt's journal. In a journal of a newer runner, an event that this
/// runner can't read is unrecognized, and not corrupt.
///
/// # Errors
/// [`JournalError`] if the line is corrupt, or the header of a newer runner can't be read.
pub fn decode_line(
    state: &JournalState,
    path: &Path,
    seq: u64,
    line: &[u8],
) -> Result<(JournalEntry, Blake3Hash), JournalError> {
    let path = || path.to_owned();
    let corrupt = |source| JournalError::Corrupt { path: path(), seq, source };
    if seq > 0 {
        let decode = if newer_format(state).is_some() { line::decode_newer } else { line::decode };
        return decode(line).map_err(corrupt);
    }
    line::decode(line).map_err(|source| match line::stated_format(line) {
        Some(format) if format.major != FORMAT.major => {
            JournalError::IllegalTransition { path: path(), seq, source: TransitionError::Format(format) }
        }
        Some(format) if is_newer(format) => JournalError::NewerFormat { path: path(), format },
        Some(_) | None => corrupt(source),
    })
}

/// The error for an entry that contradicts the state. After an event that this runner does not know, it can't tell.
#[must_use]
pub fn transition_error(state: &JournalState, path: &Path, seq: u64, source: TransitionError) -> JournalError {
    let path = path.to_owned();
    match (source, newer_format(state)) {
        (TransitionError::Transition { .. }, Some(format)) => JournalError::NewerFormat { path, format },
        (source, _) => JournalError::IllegalTransition { path, seq, source },
    }
}

/// The format of the newest attempt's journal, if it is newer than this runner's.
fn newer_format(state: &JournalState) -> Option<JournalFormat> {
    state.attempts.last().map(|attempt| attempt.header.format).filter(|format| is_newer(*format))
}

fn is_newer(format: JournalFormat) -> bool {
    format.major == FORMAT.major && format.minor > FORMAT.minor
}
