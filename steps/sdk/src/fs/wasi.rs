//! Files through WASI 0.2: each granted directory is a preopened descriptor.

use super::{DirectoryEntry, FileMetadata, FileType, FsError, SymlinkBehavior};
use crate::bindings::wasi::filesystem::preopens;
use crate::bindings::wasi::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode, OpenFlags, PathFlags,
};

/// The bytes of one read or write, below the host's limit for one list.
const CHUNK_BYTES: usize = 64 * 1024;

pub(crate) fn dirs() -> Vec<String> {
    preopens::get_directories().iter().map(|(_, name)| grant_name(name).to_owned()).collect()
}

pub(crate) fn stat(dir: &str, path: &str, links: SymlinkBehavior) -> Result<FileMetadata, FsError> {
    let flags = match links {
        SymlinkBehavior::Follow => PathFlags::SYMLINK_FOLLOW,
        SymlinkBehavior::NoFollow => PathFlags::empty(),
    };
    let stat = open_grant(dir)?.stat_at(flags, path)?;
    Ok(FileMetadata { file_type: stat.type_.into(), size: stat.size })
}

pub(crate) fn read(dir: &str, path: &str, from: u64) -> Result<Vec<u8>, FsError> {
    let file = open_grant(dir)?.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::empty(), DescriptorFlags::READ)?;
    let mut content = Vec::new();
    loop {
        let (bytes, end) = file.read(CHUNK_BYTES as u64, from + content.len() as u64)?;
        content.extend_from_slice(&bytes);
        if end || bytes.is_empty() {
            return Ok(content);
        }
    }
}

pub(crate) fn write(dir: &str, path: &str, content: &[u8]) -> Result<(), FsError> {
    let file = open_grant(dir)?.open_at(
        PathFlags::empty(),
        path,
        OpenFlags::CREATE | OpenFlags::TRUNCATE,
        DescriptorFlags::WRITE,
    )?;
    let mut written = 0;
    while written < content.len() {
        let end = content.len().min(written + CHUNK_BYTES);
        match usize::try_from(file.write(&content[written..end], written as u64)?) {
            Ok(count) if count > 0 => written += count,
            Ok(_) | Err(_) => return Err(FsError::Other("the disk accepted no bytes".to_owned())),
        }
    }
    Ok(file.sync()?)
}

pub(crate) fn list(dir: &str, path: &str) -> Result<Vec<DirectoryEntry>, FsError> {
    let stream = open_folder(dir, path)?.read_directory()?;
    let mut entries = Vec::new();
    while let Some(entry) = stream.read_directory_entry()? {
        entries.push(DirectoryEntry { name: entry.name, file_type: entry.type_.into() });
    }
    Ok(entries)
}

pub(crate) fn rename(from_dir: &str, from: &str, to_dir: &str, to: &str) -> Result<(), FsError> {
    Ok(open_grant(from_dir)?.rename_at(from, &open_grant(to_dir)?, to)?)
}

pub(crate) fn symlink(text: &str, dir: &str, path: &str) -> Result<(), FsError> {
    Ok(open_grant(dir)?.symlink_at(text, path)?)
}

pub(crate) fn read_link(dir: &str, path: &str) -> Result<String, FsError> {
    Ok(open_grant(dir)?.readlink_at(path)?)
}

pub(crate) fn remove(dir: &str, path: &str) -> Result<(), FsError> {
    Ok(open_grant(dir)?.unlink_file_at(path)?)
}

pub(crate) fn create_dir(dir: &str, path: &str) -> Result<(), FsError> {
    Ok(open_grant(dir)?.create_directory_at(path)?)
}

pub(crate) fn sync_dir(dir: &str, path: &str) -> Result<(), FsError> {
    Ok(open_folder(dir, path)?.sync()?)
}

fn open_grant(dir: &str) -> Result<Descriptor, FsError> {
    preopens::get_directories()
        .into_iter()
        .find(|(_, name)| grant_name(name) == dir)
        .map(|(descriptor, _)| descriptor)
        .ok_or(FsError::Denied)
}

fn open_folder(dir: &str, path: &str) -> Result<Descriptor, FsError> {
    Ok(open_grant(dir)?.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::DIRECTORY, DescriptorFlags::READ)?)
}

/// Returns the grant's name; the host preopens the grant `app` as `/app`.
fn grant_name(preopened: &str) -> &str {
    preopened.strip_prefix('/').unwrap_or(preopened)
}

impl From<DescriptorType> for FileType {
    fn from(descriptor: DescriptorType) -> Self {
        match descriptor {
            DescriptorType::RegularFile => Self::File,
            DescriptorType::Directory => Self::Directory,
            DescriptorType::SymbolicLink => Self::Link,
            DescriptorType::Unknown
            | DescriptorType::BlockDevice
            | DescriptorType::CharacterDevice
            | DescriptorType::Fifo
            | DescriptorType::Socket => Self::Other,
        }
    }
}

impl From<ErrorCode> for FsError {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::NoEntry => Self::NotFound,
            ErrorCode::Access | ErrorCode::NotPermitted | ErrorCode::ReadOnly => Self::Denied,
            ErrorCode::Exist => Self::Exists,
            ErrorCode::InsufficientSpace | ErrorCode::Quota => Self::NoSpace,
            ErrorCode::NotEmpty => Self::NotEmpty,
            ErrorCode::NotDirectory => Self::NotDirectory,
            ErrorCode::IsDirectory => Self::IsDirectory,
            other => Self::Other(other.name().to_owned()),
        }
    }
}
