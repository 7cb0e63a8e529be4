//! The errors of reading and writing journals, as users see them.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    event::JournalFormat, file::MAX_JOURNAL_BYTES, line, line::LineError, secret_scanner::SecretLocation,
    state::TransitionError,
};
use contract::{
    diagnostic::{Diagnostic, ErrorCode},
    text::dotted_pointer,
};

/// Why a journal can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("can't {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}:{}: the line is corrupt", path.display(), seq + 1)]
    Corrupt { path: PathBuf, seq: u64, source: LineError },
    #[error("{}:{}: the journal contradicts itself", path.display(), seq + 1)]
    IllegalTransition { path: PathBuf, seq: u64, source: TransitionError },
    #[error("{} was written by a newer runner (format {}.{})", path.display(), format.major, format.minor)]
    NewerFormat { path: PathBuf, format: JournalFormat },
    #[error("a record of {} KiB exceeds the limit of {} KiB", bytes.div_ceil(1 << 10), line::MAX_LINE_BYTES >> 10)]
    TooLong { bytes: usize },
    #[error("the journal of this attempt is full ({MAX_JOURNAL_BYTES} bytes)")]
    Full,
    #[error("a record would contain {} in `{}`", found.secret_text(), dotted_pointer(&found.pointer))]
    SecretInRecord { found: SecretLocation },
    #[error("an earlier write to {} failed, so nothing more is written to it", path.display())]
    Poisoned { path: PathBuf },
    #[error("this deployment lost its lock, so nothing more is written to {}", path.display())]
    Fenced { path: PathBuf },
}

impl From<&JournalError> for Diagnostic {
    fn from(error: &JournalError) -> Self {
        let (code, hint) = match error {
            JournalError::Io { .. } | JournalError::Poisoned { .. } => {
                (ErrorCode::JournalIo, "check that the disk has space and the state folder is writable, then run again")
            }
            JournalError::Corrupt { .. } => (
                ErrorCode::JournalCorrupt,
                "restore the file from a backup or a CI artifact; without a copy, run `runner state repair --local`",
            ),
            JournalError::NewerFormat { .. }
            | JournalError::IllegalTransition { source: TransitionError::Format(_), .. } => {
                (ErrorCode::JournalFromNewerRunner, "use the runner version that wrote it, or a newer one")
            }
            JournalError::IllegalTransition { .. } => (
                ErrorCode::JournalContradiction,
                "if two machines wrote to copies of one state, keep the longer chain, move the other one out of the folder, and run again",
            ),
            JournalError::SecretInRecord { found } => (ErrorCode::SecretInInput, found.hint()),
            JournalError::Fenced { .. } => {
                (ErrorCode::LockLost, "nothing ran after this error; check `runner history`, then run again")
            }
            JournalError::TooLong { .. } | JournalError::Full => {
                (ErrorCode::JournalFull, "make the step's configuration or its outputs smaller")
            }
        };
        let mut diagnostic = Self::new(code, error.to_string()).with_hint(hint);
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            diagnostic = diagnostic.with_cause(cause);
            source = cause.source();
        }
        diagnostic
    }
}

/// An error of an action on a file.
pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { action, path: path.to_owned(), source }
}
