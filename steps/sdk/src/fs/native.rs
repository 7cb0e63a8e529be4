//! Files in native tests: the same operations as in the sandbox, on the folders of [`crate::testing::TestSandbox`].
//! Each write is counted, so that a test can stop a step after any of them.

use std::io::{Error, ErrorKind, Write};
use std::path::PathBuf;

use super::{DirectoryEntry, FileMetadata, FileType, FsError, SymlinkBehavior};
use crate::DirectoryAccess;
use crate::testing;

pub(crate) fn dirs() -> Vec<String> {
    testing::dirs()
}

pub(crate) fn stat(dir: &str, path: &str, links: SymlinkBehavior) -> Result<FileMetadata, FsError> {
    let path = resolve_path(dir, path)?;
    let metadata = match links {
        SymlinkBehavior::Follow => std::fs::metadata(path)?,
        SymlinkBehavior::NoFollow => std::fs::symlink_metadata(path)?,
    };
    Ok(FileMetadata { file_type: metadata.file_type().into(), size: metadata.len() })
}

pub(crate) fn read(dir: &str, path: &str, from: u64) -> Result<Vec<u8>, FsError> {
    let content = std::fs::read(resolve_path(dir, path)?)?;
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(content.len());
    Ok(content[from..].to_vec())
}

pub(crate) fn write(dir: &str, path: &str, content: &[u8]) -> Result<(), FsError> {
    // Two writes, as on a disk: the file appears, then its content.
    let mut file = std::fs::File::create(resolve_writable_path(dir, path)?)?;
    resolve_writable_path(dir, path)?;
    Ok(file.write_all(content)?)
}

pub(crate) fn list(dir: &str, path: &str) -> Result<Vec<DirectoryEntry>, FsError> {
    std::fs::read_dir(resolve_path(dir, path)?)?
        .map(|entry| {
            let entry = entry?;
            Ok(DirectoryEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                file_type: entry.file_type()?.into(),
            })
        })
        .collect()
}

pub(crate) fn rename(from_dir: &str, from: &str, to_dir: &str, to: &str) -> Result<(), FsError> {
    Ok(std::fs::rename(resolve_path(from_dir, from)?, resolve_writable_path(to_dir, to)?)?)
}

pub(crate) fn symlink(text: &str, dir: &str, path: &str) -> Result<(), FsError> {
    Ok(std::os::unix::fs::symlink(text, resolve_writable_path(dir, path)?)?)
}

pub(crate) fn read_link(dir: &str, path: &str) -> Result<String, FsError> {
    let text = std::fs::read_link(resolve_path(dir, path)?)?;
    if text.is_absolute() { Err(FsError::Denied) } else { Ok(text.to_string_lossy().into_owned()) }
}

pub(crate) fn remove(dir: &str, path: &str) -> Result<(), FsError> {
    Ok(std::fs::remove_file(resolve_writable_path(dir, path)?)?)
}

pub(crate) fn remove_dir(dir: &str, path: &str) -> Result<(), FsError> {
    Ok(std::fs::remove_dir(resolve_writable_path(dir, path)?)?)
}

pub(crate) fn create_dir(dir: &str, path: &str) -> Result<(), FsError> {
    Ok(std::fs::create_dir(resolve_writable_path(dir, path)?)?)
}

pub(crate) fn sync_dir(dir: &str, path: &str) -> Result<(), FsError> {
    if resolve_path(dir, path)?.is_dir() { Ok(()) } else { Err(FsError::NotFound) }
}

fn resolve_path(dir: &str, path: &str) -> Result<PathBuf, FsError> {
    testing::folder(dir).map(|(folder, _)| folder.join(path)).ok_or(FsError::Denied)
}

fn resolve_writable_path(dir: &str, path: &str) -> Result<PathBuf, FsError> {
    match testing::folder(dir) {
        Some((folder, DirectoryAccess::Write)) if testing::take_write_permit() => Ok(folder.join(path)),
        Some((_, DirectoryAccess::Write)) => Err(FsError::Other("the test has stopped this step".to_owned())),
        Some((_, DirectoryAccess::Read)) | None => Err(FsError::Denied),
    }
}

impl From<std::fs::FileType> for FileType {
    fn from(file_type: std::fs::FileType) -> Self {
        if file_type.is_file() {
            Self::File
        } else if file_type.is_dir() {
            Self::Directory
        } else if file_type.is_symlink() {
            Self::Link
        } else {
            Self::Other
        }
    }
}

impl From<Error> for FsError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of std")]
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::PermissionDenied => Self::Denied,
            ErrorKind::AlreadyExists => Self::Exists,
            ErrorKind::StorageFull => Self::NoSpace,
            ErrorKind::DirectoryNotEmpty => Self::NotEmpty,
            ErrorKind::NotADirectory => Self::NotDirectory,
            ErrorKind::IsADirectory => Self::IsDirectory,
            _ => Self::Other(error.to_string()),
        }
    }
}
