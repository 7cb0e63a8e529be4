//! Files of a native test: the same operations as in the sandbox, on the folders of [`crate::testing::Sandbox`], each
//! write counted, so that a test can stop a step after any of them.

use std::io::{Error, ErrorKind, Write};
use std::path::PathBuf;

use super::{Cause, Entry, FileType, Links, Metadata};
use crate::Access;
use crate::testing;

type Result<T> = core::result::Result<T, Cause>;

pub(crate) fn dirs() -> Vec<String> {
    testing::dirs()
}

pub(crate) fn stat(dir: &str, path: &str, links: Links) -> Result<Metadata> {
    let path = place(dir, path)?;
    let metadata = match links {
        Links::Follow => std::fs::metadata(path)?,
        Links::Keep => std::fs::symlink_metadata(path)?,
    };
    Ok(Metadata { file_type: metadata.file_type().into(), size: metadata.len() })
}

pub(crate) fn read(dir: &str, path: &str) -> Result<Vec<u8>> {
    Ok(std::fs::read(place(dir, path)?)?)
}

pub(crate) fn write(dir: &str, path: &str, content: &[u8]) -> Result<()> {
    // Two steps, as on a disk: the file appears, then its content.
    let mut file = std::fs::File::create(writable(dir, path)?)?;
    writable(dir, path)?;
    Ok(file.write_all(content)?)
}

pub(crate) fn list(dir: &str, path: &str) -> Result<Vec<Entry>> {
    std::fs::read_dir(place(dir, path)?)?
        .map(|entry| {
            let entry = entry?;
            Ok(Entry { name: entry.file_name().to_string_lossy().into_owned(), file_type: entry.file_type()?.into() })
        })
        .collect()
}

pub(crate) fn rename(from_dir: &str, from: &str, to_dir: &str, to: &str) -> Result<()> {
    Ok(std::fs::rename(place(from_dir, from)?, writable(to_dir, to)?)?)
}

pub(crate) fn symlink(text: &str, dir: &str, path: &str) -> Result<()> {
    Ok(std::os::unix::fs::symlink(text, writable(dir, path)?)?)
}

pub(crate) fn read_link(dir: &str, path: &str) -> Result<String> {
    let text = std::fs::read_link(place(dir, path)?)?;
    if text.is_absolute() { Err(Cause::Denied) } else { Ok(text.to_string_lossy().into_owned()) }
}

pub(crate) fn remove(dir: &str, path: &str) -> Result<()> {
    Ok(std::fs::remove_file(writable(dir, path)?)?)
}

pub(crate) fn remove_dir(dir: &str, path: &str) -> Result<()> {
    Ok(std::fs::remove_dir(writable(dir, path)?)?)
}

pub(crate) fn create_dir(dir: &str, path: &str) -> Result<()> {
    Ok(std::fs::create_dir(writable(dir, path)?)?)
}

pub(crate) fn sync_dir(dir: &str, path: &str) -> Result<()> {
    if place(dir, path)?.is_dir() { Ok(()) } else { Err(Cause::NotFound) }
}

fn place(dir: &str, path: &str) -> Result<PathBuf> {
    testing::folder(dir).map(|(folder, _)| folder.join(path)).ok_or(Cause::Denied)
}

fn writable(dir: &str, path: &str) -> Result<PathBuf> {
    match testing::folder(dir) {
        Some((folder, Access::Write)) if testing::alive() => Ok(folder.join(path)),
        Some((_, Access::Write)) => Err(Cause::Other("the test has killed this step".to_owned())),
        Some((_, Access::Read)) | None => Err(Cause::Denied),
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

impl From<Error> for Cause {
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
