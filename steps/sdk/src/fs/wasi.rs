//! Files through WASI 0.2: each granted directory is a preopened descriptor.

use super::{Cause, Entry, FileType, Links, Metadata};
use crate::bindings::wasi::filesystem::preopens;
use crate::bindings::wasi::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode, OpenFlags, PathFlags,
};

type Result<T> = core::result::Result<T, Cause>;

/// Bytes a call; below the host's limit on one list.
const CHUNK: usize = 64 * 1024;

pub(crate) fn dirs() -> Vec<String> {
    preopens::get_directories().iter().map(|(_, name)| grant(name).to_owned()).collect()
}

pub(crate) fn stat(dir: &str, path: &str, links: Links) -> Result<Metadata> {
    let flags = match links {
        Links::Follow => PathFlags::SYMLINK_FOLLOW,
        Links::Keep => PathFlags::empty(),
    };
    let stat = open(dir)?.stat_at(flags, path)?;
    Ok(Metadata { file_type: stat.type_.into(), size: stat.size })
}

pub(crate) fn read(dir: &str, path: &str) -> Result<Vec<u8>> {
    let file = open(dir)?.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::empty(), DescriptorFlags::READ)?;
    let mut content = Vec::new();
    loop {
        let (bytes, end) = file.read(CHUNK as u64, content.len() as u64)?;
        content.extend_from_slice(&bytes);
        if end || bytes.is_empty() {
            return Ok(content);
        }
    }
}

pub(crate) fn write(dir: &str, path: &str, content: &[u8]) -> Result<()> {
    let file = open(dir)?.open_at(
        PathFlags::empty(),
        path,
        OpenFlags::CREATE | OpenFlags::TRUNCATE,
        DescriptorFlags::WRITE,
    )?;
    let mut written = 0;
    while written < content.len() {
        let end = content.len().min(written + CHUNK);
        match usize::try_from(file.write(&content[written..end], written as u64)?) {
            Ok(count) if count > 0 => written += count,
            Ok(_) | Err(_) => return Err(Cause::Other("the disk took nothing".to_owned())),
        }
    }
    Ok(file.sync()?)
}

pub(crate) fn list(dir: &str, path: &str) -> Result<Vec<Entry>> {
    let stream = folder(dir, path)?.read_directory()?;
    let mut entries = Vec::new();
    while let Some(entry) = stream.read_directory_entry()? {
        entries.push(Entry { name: entry.name, file_type: entry.type_.into() });
    }
    Ok(entries)
}

pub(crate) fn rename(from_dir: &str, from: &str, to_dir: &str, to: &str) -> Result<()> {
    Ok(open(from_dir)?.rename_at(from, &open(to_dir)?, to)?)
}

pub(crate) fn symlink(text: &str, dir: &str, path: &str) -> Result<()> {
    Ok(open(dir)?.symlink_at(text, path)?)
}

pub(crate) fn read_link(dir: &str, path: &str) -> Result<String> {
    Ok(open(dir)?.readlink_at(path)?)
}

pub(crate) fn remove(dir: &str, path: &str) -> Result<()> {
    Ok(open(dir)?.unlink_file_at(path)?)
}

pub(crate) fn create_dir(dir: &str, path: &str) -> Result<()> {
    Ok(open(dir)?.create_directory_at(path)?)
}

pub(crate) fn sync_dir(dir: &str, path: &str) -> Result<()> {
    Ok(folder(dir, path)?.sync()?)
}

fn open(dir: &str) -> Result<Descriptor> {
    preopens::get_directories()
        .into_iter()
        .find(|(_, name)| grant(name) == dir)
        .map(|(descriptor, _)| descriptor)
        .ok_or(Cause::Denied)
}

fn folder(dir: &str, path: &str) -> Result<Descriptor> {
    Ok(open(dir)?.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::DIRECTORY, DescriptorFlags::READ)?)
}

/// The grant's name; the host preopens the grant `app` as `/app`.
fn grant(preopened: &str) -> &str {
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

impl From<ErrorCode> for Cause {
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
