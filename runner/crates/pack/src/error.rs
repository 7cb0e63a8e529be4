//! Why a folder can't be packed.

use std::{io, path::PathBuf};

use contract::{
    diagnostic::{Diagnostic, ErrorCode},
    text::escape_line,
};
use fetch::archive::ArchiveError;

use crate::IGNORE_FILE;

/// Why a folder can't be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("can't read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Walk(#[from] ignore::Error),
    /// `pull` would refuse the archive.
    #[error(transparent)]
    Refused(#[from] ArchiveError),
    #[error("the entry `{}` is {kind}, not a file, folder or link", escape_line(path))]
    SpecialFile { path: String, kind: &'static str },
    #[error("the entry `{}` has the setuid or setgid bit, which `pull` refuses", escape_line(path))]
    SpecialMode { path: String },
    #[error("{} changed while it was packed", path.display())]
    Changed { path: PathBuf },
    #[error("the folder has no files, or {IGNORE_FILE} leaves all of them out")]
    Empty,
    #[error("`{}` is not a file of the release", escape_line(.0))]
    NotInRelease(String),
    #[error("`{}` has no @VERSION@", escape_line(.0))]
    NoPlaceholder(String),
    #[error("can't write the archive: {0}")]
    Output(#[from] io::Error),
}

impl PackError {
    fn hint(&self) -> String {
        match self {
            Self::Read { .. } | Self::Walk(_) => "check the path, and that you may read it".to_owned(),
            Self::Refused(ArchiveError::Limit { .. }) => format!(
                "leave files out with {IGNORE_FILE}; or raise the limit with `--limit`, and with `limits` in the plan's `pull` step"
            ),
            Self::Refused(_) | Self::SpecialFile { .. } | Self::SpecialMode { .. } => {
                format!("change this entry, or leave it out with a line in {IGNORE_FILE}")
            }
            Self::Changed { .. } => "pack again when nothing writes to the folder".to_owned(),
            Self::Empty => format!("check the folder, and the lines of {IGNORE_FILE}"),
            Self::NotInRelease(_) => {
                format!("name a file by its path in the folder; {IGNORE_FILE} must not leave it out")
            }
            Self::NoPlaceholder(_) => {
                "write @VERSION@ where the version belongs, or drop `--render` for this file".to_owned()
            }
            Self::Output(_) => "free some space, or choose another place with `--out`".to_owned(),
        }
    }
}

impl From<PackError> for Diagnostic {
    fn from(error: PackError) -> Self {
        let hint = error.hint();
        Self::new(ErrorCode::PackFailed, "can't pack the folder").with_cause(error).with_hint(hint)
    }
}
