//! Errors of extracting, comparing and removing archives' folders. Every text is complete without its source.

use std::io;

use rustix::io::Errno;

use contract::{Digest, step::FailureKind, text::escape_line};

/// The most characters of an entry's name in an error.
const MAX_SHOWN_CHARS: usize = 200;

/// An error of an archive, or of a folder made from one.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The source returned an error.
    #[error("can't read the archive from its source: {0}")]
    Source(#[source] io::Error),
    /// The content has another digest.
    #[error("the archive has the digest {actual}, not {expected}")]
    WrongDigest {
        /// The expected digest.
        expected: Digest,
        /// The digest of the content.
        actual: Digest,
    },
    /// The name and the first bytes show no format, or contradict each other.
    #[error("`{}` is not a tar.gz, tar.zst, tar or zip archive: {reason}", escape_line(name))]
    UnknownFormat {
        /// The caller's name for the archive.
        name: String,
        /// The format that was seen, if any.
        reason: &'static str,
    },
    /// The archive ends before its format says so.
    #[error("the archive is truncated: it ends too early")]
    Truncated,
    /// Bytes follow the end of the archive.
    #[error("the archive has extra bytes after its end")]
    TrailingBytes,
    /// The archive violates its format or its checksums.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// An entry is refused.
    #[error("the runner refuses the archive entry `{}`: {refusal}", escape_line(entry))]
    Refused {
        /// Its name in the archive, possibly truncated.
        entry: String,
        /// The rule that it breaks.
        refusal: EntryRefusal,
    },
    /// The archive exceeds a limit.
    #[error("the archive has more than {max} {limit}{}", at_entry(.entry))]
    Limit {
        /// The limit's kind.
        limit: ArchiveLimitKind,
        /// The limit's value.
        max: u64,
        /// The entry that exceeds it, if any.
        entry: Option<String>,
    },
    /// The caller has stopped the extraction.
    #[error("the runner stopped before it had extracted the archive")]
    Stopped,
    /// The target folder already exists.
    #[error("the folder `{}` already exists", escape_line(.0))]
    FolderExists(String),
    /// The target folder has no name of its own: it is empty, or ends in `.` or `..`.
    #[error("`{}` does not name a folder", escape_line(.0))]
    InvalidFolderName(String),
    /// The filesystem gave an error.
    #[error("`{}` can't be {action}: {}", escape_line(path), describe_cause(.source))]
    Filesystem {
        /// A past participle: `created`, `written`, …
        action: &'static str,
        /// The path, below the granted directory or the unpacked folder.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The extraction failed, and then the removal of its folder.
    #[error("{failure}; could not remove the unfinished folder: {removal}")]
    CleanupFailed {
        /// Why the extraction failed.
        failure: Box<Self>,
        /// Why the removal failed.
        removal: Box<Self>,
    },
}

/// The kind of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveLimitKind {
    /// Files, links and directories.
    Files,
    /// Bytes of content, and bytes of the archive itself.
    Bytes,
    /// Bytes of content for one byte of the archive.
    Ratio,
    /// Bytes of a path, or of a link's target.
    Path,
    /// Directories inside one another.
    Depth,
    /// Bytes of an entry's extended header.
    Header,
}

impl std::fmt::Display for ArchiveLimitKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Files => "entries",
            Self::Bytes => "bytes",
            Self::Ratio => "bytes of content per byte of its own",
            Self::Path => "bytes in a path",
            Self::Depth => "levels of directories",
            Self::Header => "bytes in an extended header",
        })
    }
}

/// Why the runner refuses an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryRefusal {
    /// No name is left without `.` and `/`, and it is not a directory.
    #[error("it has no name")]
    NoName,
    /// The name is not UTF-8.
    #[error("its name is not UTF-8")]
    NotUtf8,
    /// The name or the link's target contains a control character.
    #[error("its name or target contains a control character")]
    ControlCharacter,
    /// A zip's name with `\`, which only some programs treat as `/`.
    #[error("its name contains a backslash")]
    Backslash,
    /// The path begins with `/`.
    #[error("its path is absolute")]
    Absolute,
    /// A component of the path is `..`.
    #[error("its path contains `..`")]
    ParentComponent,
    /// It would replace a file that is not the archive's.
    #[error("the name is reserved for the runner's own files")]
    Reserved,
    /// Another entry has the same name.
    #[error("another entry has the same name")]
    Duplicate,
    /// Another entry's name differs only by case.
    #[error("its name differs from `{}` only in case", escape_line(.0))]
    CaseCollision(String),
    /// Another entry's name differs only by the encoding of its characters.
    #[error("its name differs from `{}` only in how its characters are encoded (see Unicode normalization)", escape_line(.0))]
    NormalizationCollision(String),
    /// A parent is a symlink of the same archive.
    #[error("its path goes through the link `{}`", escape_line(.0))]
    BelowLink(String),
    /// A parent is a file of the same archive.
    #[error("its parent `{}` is a file", escape_line(.0))]
    BelowFile(String),
    /// The target of a link is an absolute path.
    #[error("it links to the absolute path `{}`", escape_line(.0))]
    AbsoluteTarget(String),
    /// The target of a link is outside the folder.
    #[error("it links to `{}`, outside the folder", escape_line(.0))]
    TargetOutside(String),
    /// The target of a hard link is not an earlier file.
    #[error("it is a hard link to `{}`, which is not a file earlier in the archive", escape_line(.0))]
    HardLinkTargetMissing(String),
    /// The target of a link is empty.
    #[error("its link target is empty")]
    EmptyTarget,
    /// A device, a pipe, a socket, …
    #[error("it is {0}, not a file, directory or link")]
    SpecialFile(&'static str),
    /// Mode bits above `777`.
    #[error("its mode {0:o} has the setuid, setgid or sticky bit")]
    SpecialMode(u32),
    /// A sparse file.
    #[error("it is a sparse file, which is not supported; pack it without `--sparse`")]
    Sparse,
    /// A feature of the format that is not supported.
    #[error("{0}")]
    Unsupported(String),
}

impl EntryRefusal {
    /// The error for a name that equals an earlier one on some file system but is spelled differently.
    pub fn collision(earlier: &str, name: &str) -> Self {
        match earlier.to_lowercase() == name.to_lowercase() {
            true => Self::CaseCollision(earlier.to_owned()),
            false => Self::NormalizationCollision(earlier.to_owned()),
        }
    }
}

impl ArchiveError {
    /// The failure kind in the WIT contract.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Source(_) | Self::Stopped => FailureKind::Transient,
            Self::WrongDigest { .. }
            | Self::UnknownFormat { .. }
            | Self::Truncated
            | Self::TrailingBytes
            | Self::Damaged(_)
            | Self::Refused { .. } => FailureKind::BadContent,
            Self::Limit { .. } => FailureKind::Limit,
            Self::FolderExists(_) => FailureKind::Conflict,
            Self::InvalidFolderName(_) => FailureKind::InvalidConfig,
            Self::Filesystem { source, .. } if source.kind() == io::ErrorKind::NotFound => FailureKind::NotFound,
            Self::Filesystem { .. } => FailureKind::Permanent,
            Self::CleanupFailed { failure, .. } => failure.kind(),
        }
    }

    /// The hint, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::WrongDigest { actual, .. } => Some(format!(
                "if you republished the archive, publish its new digest too ({actual}); otherwise do not use it"
            )),
            Self::UnknownFormat { .. } => Some("pack the release as tar.zst, tar.gz, tar or zip".to_owned()),
            Self::Truncated | Self::TrailingBytes | Self::Damaged(_) => {
                Some("pack the archive again, or download it again".to_owned())
            }
            Self::Refused { .. } => Some("pack the archive without this entry".to_owned()),
            Self::Limit { limit, .. } => match limit {
                ArchiveLimitKind::Files => Some("raise `max-files` if the archive is right".to_owned()),
                ArchiveLimitKind::Bytes => Some("raise `max-bytes` if the archive is right".to_owned()),
                ArchiveLimitKind::Ratio => Some("raise `max-ratio` if the archive is right".to_owned()),
                ArchiveLimitKind::Path => Some("raise `max-path` if the archive is right".to_owned()),
                ArchiveLimitKind::Depth | ArchiveLimitKind::Header => None,
            },
            Self::FolderExists(_) => Some("remove the folder, or choose another one".to_owned()),
            Self::CleanupFailed { failure, .. } => failure.hint(),
            Self::Filesystem { source, .. } if is_disk_full(source) => Some("free some disk space".to_owned()),
            Self::Source(_) | Self::Stopped | Self::InvalidFolderName(_) | Self::Filesystem { .. } => None,
        }
    }

    pub fn refused_entry(entry: &str, refusal: EntryRefusal) -> Self {
        Self::Refused { entry: truncated_name(entry), refusal }
    }

    /// A library's message, which may quote the archive, on one line.
    pub fn damaged(why: &dyn std::fmt::Display) -> Self {
        Self::Damaged(why.to_string().replace(char::is_control, " "))
    }

    pub fn over_limit(limit: ArchiveLimitKind, most: u64, entry: &str) -> Self {
        Self::Limit { limit, max: most, entry: Some(truncated_name(entry)) }
    }

    /// For `map_err`: an error of the file system at `path`.
    pub fn filesystem<E: Into<io::Error>>(action: &'static str, path: &str) -> impl FnOnce(E) -> Self {
        move |error| Self::Filesystem { action, path: path.to_owned(), source: error.into() }
    }
}

fn truncated_name(entry: &str) -> String {
    match entry.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &entry[..end]),
        None => entry.to_owned(),
    }
}

fn at_entry(entry: &Option<String>) -> String {
    entry.as_ref().map(|entry| format!(", at `{}`", escape_line(entry))).unwrap_or_default()
}

fn is_disk_full(error: &io::Error) -> bool {
    [Errno::NOSPC, Errno::DQUOT].iter().any(|full| error.raw_os_error() == Some(full.raw_os_error()))
}

fn describe_cause(error: &io::Error) -> String {
    if is_disk_full(error) { "the disk is full".to_owned() } else { error.to_string() }
}

impl From<ArchiveError> for contract::step::StepFailure {
    fn from(error: ArchiveError) -> Self {
        let mut failure = contract::step::StepFailure::new(error.kind(), error.to_string());
        failure.hint = error.hint();
        failure.retryable = failure.kind == FailureKind::Transient;
        failure
    }
}
