//! What belongs to a release: the files, folders and links below a folder, in the order of their paths.

use std::{
    fs::{self, FileType, Metadata},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use contract::Digest;
use fetch::archive::EntryRules;
use ignore::{DirEntry, WalkBuilder};

use crate::PackError;

/// The file with the patterns of what stays out, written as in `.gitignore`.
pub const IGNORE_FILE: &str = ".pawlignore";
/// These stay out in any case: the repository, and the runner's own state.
const NEVER_PACKED: [&str; 3] = [".git", ".pawl", IGNORE_FILE];

const SPECIAL_BITS: u32 = 0o6000;
const EXECUTABLE_BY_OWNER: u32 = 0o100;

/// An entry of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedEntry {
    /// Its path in the release, with `/`.
    pub path: String,
    pub kind: PackedEntryKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackedEntryKind {
    Directory,
    /// The digest is known when the file was packed.
    File {
        size: u64,
        is_executable: bool,
        digest: Option<Digest>,
    },
    Symlink {
        target: String,
    },
}

/// Reads the entries below a folder. `left_out` are absolute paths of files, which stay out with what lies beside them.
pub(crate) fn read(
    folder: &Path,
    left_out: &[PathBuf],
    rules: &mut EntryRules<'_>,
) -> Result<Vec<PackedEntry>, PackError> {
    let left_out = left_out.to_vec();
    let walk = WalkBuilder::new(folder)
        .standard_filters(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .sort_by_file_name(|a, b| a.as_bytes().cmp(b.as_bytes()))
        .filter_entry(move |entry| is_packed(entry, &left_out))
        .build();
    let mut entries = Vec::new();
    for found in walk {
        let found = found?;
        // A pattern that is wrong would pack what should stay out.
        if let Some(error) = found.error() {
            return Err(PackError::Walk(error.clone()));
        }
        if found.depth() > 0 {
            entries.push(entry(folder, &found, rules)?);
        }
    }
    rules.finish()?;
    let is_content = |entry: &PackedEntry| entry.kind != PackedEntryKind::Directory;
    if entries.iter().any(is_content) { Ok(entries) } else { Err(PackError::Empty) }
}

fn is_packed(entry: &DirEntry, left_out: &[PathBuf]) -> bool {
    let is_never_packed = || NEVER_PACKED.iter().any(|name| entry.file_name() == *name);
    entry.depth() == 0 || !(is_never_packed() || left_out.iter().any(|path| is_of(entry.path(), path)))
}

/// Whether a file is another one, or lies beside it: `x.tar.zst.sha256`, or what `x.tar.zst` is called until it is complete.
fn is_of(path: &Path, other: &Path) -> bool {
    let rest = path.as_os_str().as_bytes().strip_prefix(other.as_os_str().as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'.' && !rest.contains(&b'/'))
}

fn entry(folder: &Path, found: &DirEntry, rules: &mut EntryRules<'_>) -> Result<PackedEntry, PackError> {
    let path = found.path().strip_prefix(folder).expect("the walk stays below its folder").as_os_str().as_bytes();
    let metadata = found.metadata()?;
    let kind = kind(found.path(), path, &metadata, rules)?;
    // The rules have refused what is not UTF-8.
    Ok(PackedEntry { path: String::from_utf8_lossy(path).into_owned(), kind })
}

fn kind(
    place: &Path,
    path: &[u8],
    metadata: &Metadata,
    rules: &mut EntryRules<'_>,
) -> Result<PackedEntryKind, PackError> {
    let file_type = metadata.file_type();
    let shown = || String::from_utf8_lossy(path).into_owned();
    if file_type.is_dir() {
        rules.directory(path)?;
        Ok(PackedEntryKind::Directory)
    } else if file_type.is_symlink() {
        let target = fs::read_link(place).map_err(|source| PackError::Read { path: place.to_owned(), source })?;
        rules.symlink(path, target.as_os_str().as_bytes())?;
        Ok(PackedEntryKind::Symlink { target: target.to_string_lossy().into_owned() })
    } else if file_type.is_file() {
        if metadata.mode() & SPECIAL_BITS != 0 {
            return Err(PackError::SpecialMode { path: shown() });
        }
        rules.file(path, metadata.len())?;
        let is_executable = metadata.mode() & EXECUTABLE_BY_OWNER != 0;
        Ok(PackedEntryKind::File { size: metadata.len(), is_executable, digest: None })
    } else {
        Err(PackError::SpecialFile { path: shown(), kind: special_kind(file_type) })
    }
}

fn special_kind(file_type: FileType) -> &'static str {
    match () {
        () if file_type.is_fifo() => "a pipe",
        () if file_type.is_socket() => "a socket",
        () => "a device",
    }
}
