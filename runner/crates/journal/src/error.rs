//! Why a journal can't be read or written, and what a user is told then.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{event::JournalFormat, file::MAX_JOURNAL_BYTES, line, line::LineError, state::TransitionError};
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind};

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
    #[error("a record of {bytes} bytes is longer than the {} that a journal takes", line::MAX_LINE_BYTES)]
    TooLong { bytes: usize },
    #[error("the journal of this attempt is full ({MAX_JOURNAL_BYTES} bytes)")]
    Full,
    #[error("an earlier write to {} failed; nothing more is written to it", path.display())]
    Poisoned { path: PathBuf },
}

impl From<&JournalError> for Diagnostic {
    fn from(error: &JournalError) -> Self {
        let (code, exit, hint) = match error {
            JournalError::Io { .. } | JournalError::Poisoned { .. } => (
                "P0601",
                ExitKind::Failed,
                "see that the disk has room and that the state folder is writable, then run again",
            ),
            JournalError::Corrupt { .. } => (
                "P0602",
                ExitKind::Journal,
                "compare it with its copy among the artifacts; if there is none, move the file away and run with `--fresh`",
            ),
            JournalError::NewerFormat { .. }
            | JournalError::IllegalTransition { source: TransitionError::Format(_), .. } => {
                ("P0604", ExitKind::Journal, "use that version of the runner, or a newer one")
            }
            JournalError::IllegalTransition { .. } => (
                "P0603",
                ExitKind::Journal,
                "two machines may have written to one state; keep the longer chain, move the other away, and run again",
            ),
            JournalError::TooLong { .. } | JournalError::Full => {
                ("P0605", ExitKind::Failed, "make the step's configuration or its outputs smaller")
            }
        };
        let mut diagnostic = Self::new(ErrorCode(code), exit, error.to_string()).with_hint(hint);
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            diagnostic = diagnostic.with_cause(cause);
            source = cause.source();
        }
        diagnostic
    }
}

/// What could not be done with a file.
pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { action, path: path.to_owned(), source }
}
