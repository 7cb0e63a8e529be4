//! `.pawl-files`, the list of extracted files in an unpacked folder, for later comparison.
//!
//! ```text
//! pawl-files 2 3
//! dir 0 1700000000.000000000 755 bin
//! file 20 1700000000.250000000 644 <32 hex digits> bin/app
//! link 0 1700000000.000000000 777 bin/run<TAB>app
//! blake3 <64 hex digits of everything before this line>
//! ```
//! An entry is kind, size in bytes, modification time (seconds and nanoseconds), octal mode, for a file the first 128 bits of its
//! content's BLAKE3 hash, and the path; sorted by path. No path or target contains a tab or newline. The hashes detect damage, not
//! forgery.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read, Write as _},
};

use rustix::{
    fd::BorrowedFd,
    fs::{FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    entry::{ArchiveEntryKind, EntryAttributes, ModifiedTime},
    error::ArchiveError,
};

/// The list's file name, in the folder itself.
pub(super) const FILE_LIST_NAME: &str = ".pawl-files";
/// The version of the format.
///
/// - 1: first, without the hashes of the contents.
/// - 2: with them.
const FILE_LIST_VERSION: u32 = 2;
/// The longest list that is read, in bytes.
const MAX_FILE_LIST_BYTES: u64 = 1 << 30;

/// The hash of a file's content: the first 128 bits of its BLAKE3 hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentHash(u128);

impl ContentHash {
    pub(super) fn of(hasher: &blake3::Hasher) -> Self {
        let mut start = [0; 16];
        hasher.finalize_xof().fill(&mut start);
        Self(u128::from_be_bytes(start))
    }

    /// Reads `content` to its end.
    pub(super) fn of_reader(content: impl Read) -> std::io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(content)?;
        Ok(Self::of(&hasher))
    }
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileListEntry {
    pub(super) kind: ArchiveEntryKind,
    pub(super) size: u64,
    pub(super) modified: ModifiedTime,
    pub(super) mode: u32,
    /// The hash of a file's content; none in a list of version 1, and for what is not a file.
    pub(super) content: Option<ContentHash>,
    pub(super) path: String,
    /// A link's target; else empty.
    pub(super) target: String,
}

impl FileListEntry {
    /// A file's attributes in the file system; the caller adds the path.
    pub(super) fn file(stat: &Stat, content: ContentHash) -> Self {
        Self {
            kind: ArchiveEntryKind::File,
            size: stat.st_size.cast_unsigned(),
            modified: modified_time(stat),
            mode: stat.st_mode & 0o777,
            content: Some(content),
            path: String::new(),
            target: String::new(),
        }
    }

    pub(super) fn directory(path: String, attributes: Option<&EntryAttributes>) -> Self {
        let EntryAttributes { mode, modified } =
            attributes.copied().unwrap_or(EntryAttributes { mode: 0o755, modified: ModifiedTime::default() });
        Self { kind: ArchiveEntryKind::Directory, size: 0, modified, mode, content: None, path, target: String::new() }
    }

    pub(super) fn link(path: String, target: String, modified: ModifiedTime) -> Self {
        Self { kind: ArchiveEntryKind::Symlink, size: 0, modified, mode: 0o777, content: None, path, target }
    }
}

/// The modification time in the file system.
pub(super) fn modified_time(stat: &Stat) -> ModifiedTime {
    ModifiedTime { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() }
}

/// Why a list can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileListError {
    #[error("its list of files is missing")]
    Missing,
    #[error("its list of files is damaged")]
    Damaged,
    #[error("its list of files has an unknown format")]
    UnknownVersion,
}

/// Sorts `entries` and writes their list into `folder`.
pub(super) fn write(folder: BorrowedFd<'_>, entries: &mut [FileListEntry]) -> Result<(), ArchiveError> {
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let mut text = String::with_capacity(64 * entries.len() + 128);
    let lines = render(&mut text, entries);
    debug_assert!(lines.is_ok(), "a String takes everything");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, FILE_LIST_NAME, flags, Mode::from_raw_mode(0o644))
        .map_err(std::io::Error::from)
        .and_then(|file| File::from(file).write_all(text.as_bytes()))
        .map_err(ArchiveError::filesystem("written", FILE_LIST_NAME))
}

fn render(text: &mut String, entries: &[FileListEntry]) -> std::fmt::Result {
    writeln!(text, "pawl-files {FILE_LIST_VERSION} {}", entries.len())?;
    for FileListEntry { kind, size, modified: ModifiedTime { seconds, nanos }, mode, content, path, target } in entries
    {
        let name = kind_name(*kind);
        write!(text, "{name} {size} {seconds}.{nanos:09} {mode:o} ")?;
        if let Some(ContentHash(content)) = content {
            write!(text, "{content:032x} ")?;
        }
        text.push_str(path);
        if *kind == ArchiveEntryKind::Symlink {
            write!(text, "\t{target}")?;
        }
        text.push('\n');
    }
    let hash = blake3::hash(text.as_bytes());
    writeln!(text, "blake3 {hash}")
}

/// Reads the list in `folder`.
pub(super) fn read(folder: BorrowedFd<'_>) -> Result<Result<Vec<FileListEntry>, FileListError>, ArchiveError> {
    // Somebody may have put a pipe there, which must not block.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, FILE_LIST_NAME, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(Err(FileListError::Missing)),
        Err(Errno::LOOP) => return Ok(Err(FileListError::Damaged)),
        Err(error) => return Err(ArchiveError::filesystem("read", FILE_LIST_NAME)(error)),
    };
    let stat = rustix::fs::fstat(&file).map_err(ArchiveError::filesystem("read", FILE_LIST_NAME))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        || stat.st_size.cast_unsigned() > MAX_FILE_LIST_BYTES
    {
        return Ok(Err(FileListError::Damaged));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_LIST_BYTES).read_to_end(&mut bytes).map_err(ArchiveError::filesystem("read", FILE_LIST_NAME))?;
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Result<Vec<FileListEntry>, FileListError> {
    let text = str::from_utf8(bytes).map_err(|_| FileListError::Damaged)?;
    let first = text.lines().next().and_then(|line| line.strip_prefix("pawl-files ")).ok_or(FileListError::Damaged)?;
    let (version, count) = first.split_once(' ').ok_or(FileListError::Damaged)?;
    let version: u32 = version.parse().map_err(|_| FileListError::Damaged)?;
    if !(1..=FILE_LIST_VERSION).contains(&version) {
        return Err(FileListError::UnknownVersion);
    }
    let body = text.strip_suffix('\n').and_then(|text| text.rfind('\n')).map(|end| text.split_at(end + 1));
    let (body, last) = body.ok_or(FileListError::Damaged)?;
    if last.trim_end().strip_prefix("blake3 ") != Some(blake3::hash(body.as_bytes()).to_hex().as_str()) {
        return Err(FileListError::Damaged);
    }
    let entries: Option<Vec<_>> = body.lines().skip(1).map(|line| parse_line(line, version)).collect();
    entries.filter(|entries| count.parse() == Ok(entries.len())).ok_or(FileListError::Damaged)
}

fn parse_line(line: &str, version: u32) -> Option<FileListEntry> {
    let mut fields = line.splitn(5, ' ');
    let kind = match fields.next()? {
        "dir" => ArchiveEntryKind::Directory,
        "file" => ArchiveEntryKind::File,
        "link" => ArchiveEntryKind::Symlink,
        _ => return None,
    };
    let size = fields.next()?.parse().ok()?;
    let (seconds, nanos) = fields.next()?.split_once('.')?;
    let modified = ModifiedTime { seconds: seconds.parse().ok()?, nanos: nanos.parse().ok()? };
    let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
    let mut rest = fields.next()?;
    let mut content = None;
    if kind == ArchiveEntryKind::File && version > 1 {
        let (hash, path) = rest.split_once(' ')?;
        content = Some(ContentHash(u128::from_str_radix(hash, 16).ok()?));
        rest = path;
    }
    let (path, target) = if kind == ArchiveEntryKind::Symlink { rest.split_once('\t')? } else { (rest, "") };
    // A forged list must not lead outside the folder.
    if path.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return None;
    }
    Some(FileListEntry { kind, size, modified, mode, content, path: path.to_owned(), target: target.to_owned() })
}

fn kind_name(kind: ArchiveEntryKind) -> &'static str {
    match kind {
        ArchiveEntryKind::Directory => "dir",
        ArchiveEntryKind::File => "file",
        ArchiveEntryKind::Symlink => "link",
    }
}
