//! Why a journal can't be read or written, and what a user is told then.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{event::Format, file::LARGEST, line, line::Corrupt, state::Illegal};
use contract::diagnostic::{Code, Diagnostic, Exit};

/// Why a journal can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("can't {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}:{}: the line is corrupt", path.display(), seq + 1)]
    Corrupt { path: PathBuf, seq: u64, source: Corrupt },
    #[error("{}:{}: the journal contradicts itself", path.display(), seq + 1)]
    Illegal { path: PathBuf, seq: u64, source: Illegal },
    #[error("{} was written by a newer runner (format {}.{})", path.display(), format.major, format.minor)]
    Newer { path: PathBuf, format: Format },
    #[error("a record of {bytes} bytes is longer than the {} that a journal takes", line::LONGEST)]
    TooLong { bytes: usize },
    #[error("the journal of this attempt is full ({LARGEST} bytes)")]
    Full,
    #[error("an earlier write to {} failed; nothing more is written to it", path.display())]
    Poisoned { path: PathBuf },
}

impl From<&JournalError> for Diagnostic {
    fn from(error: &JournalError) -> Self {
        let (code, exit, hint) = match error {
            JournalError::Io { .. } | JournalError::Poisoned { .. } => (
                "P0601",
                Exit::Failed,
                "see that the disk has room and that the state folder is writable, then run again",
            ),
            JournalError::Corrupt { .. } => (
                "P0602",
                Exit::Journal,
                "compare it with its copy among the artifacts; if there is none, move the file away and run with `--fresh`",
            ),
            JournalError::Newer { .. } | JournalError::Illegal { source: Illegal::Format(_), .. } => {
                ("P0604", Exit::Journal, "use that version of the runner, or a newer one")
            }
            JournalError::Illegal { .. } => (
                "P0603",
                Exit::Journal,
                "two machines may have written to one state; keep the longer chain, move the other away, and run again",
            ),
            JournalError::TooLong { .. } | JournalError::Full => {
                ("P0605", Exit::Failed, "make the step's configuration or its outputs smaller")
            }
        };
        let mut diagnostic = Self::new(Code(code), exit, error.to_string()).hint(hint);
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            diagnostic = diagnostic.because(cause);
            source = cause.source();
        }
        diagnostic
    }
}

/// What could not be done with a file.
pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { action, path: path.to_owned(), source }
}
