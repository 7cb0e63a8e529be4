//! The archive: a tar of the entries, compressed by zstd with several threads.
//!
//! The bytes depend on the entries, the version, the time and the level alone. Modes are 0644, or 0755 for folders and for what its owner
//! may execute; owners are 0 and have no names; there is one time for all. libzstd cuts its input into jobs by size, so that the
//! number of threads changes nothing, as long as there is at least one.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    thread,
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use zstd::stream::{raw::CParameter, write::Encoder};

use crate::{
    PackError, PackedEntry, PackedEntryKind,
    entries::{self},
};
use contract::{Digest, Label};
use fetch::archive::{ArchiveLimits, EntryRules};

/// What stands for the version in a file that is rendered.
const PLACEHOLDER: &[u8] = b"@VERSION@";
const BUFFER_BYTES: usize = 256 << 10;
const BLOCK_BYTES: u64 = 512;
/// What the threads of the compressor may hold, in bytes: until then, nothing is known of the ratio.
const MAX_PENDING_BYTES: u64 = 512 << 20;

/// What to pack.
pub struct PackRequest<'a> {
    /// An absolute path without links.
    pub folder: &'a Path,
    pub version: &'a Label,
    /// Files in which the version takes the place of `@VERSION@`, by their paths in the release.
    pub rendered: &'a [String],
    /// The time of all entries, in seconds since 1970.
    pub modified: u64,
    /// The compression level of zstd.
    pub level: i32,
    pub limits: &'a ArchiveLimits,
    /// Absolute paths of files that stay out, with what lies beside them under their names.
    pub left_out: &'a [PathBuf],
}

/// What was packed.
#[derive(Debug)]
pub struct PackedArchive {
    pub digest: Digest,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Bytes of content.
    pub bytes: u64,
    pub entries: Vec<PackedEntry>,
}

/// Packs a folder into `out`.
///
/// # Errors
/// See [`PackError`]. What was written by then is no archive.
pub fn pack(request: &PackRequest<'_>, out: impl Write) -> Result<PackedArchive, PackError> {
    let mut rules = EntryRules::new(request.limits);
    let mut entries = entries::read(request.folder, request.left_out, &mut rules)?;
    check_rendered(request, &entries)?;
    let mut writer = ArchiveWriter::new(request, &rules, out)?;
    for entry in &mut entries {
        writer.append(entry)?;
    }
    let (digest, archive_bytes, bytes) = writer.finish()?;
    rules.check_ratio(bytes, archive_bytes)?;
    Ok(PackedArchive { digest, archive_bytes, bytes, entries })
}

fn check_rendered(request: &PackRequest<'_>, entries: &[PackedEntry]) -> Result<(), PackError> {
    let is_file = |entry: &&PackedEntry| matches!(entry.kind, PackedEntryKind::File { .. });
    let files: BTreeSet<&str> = entries.iter().filter(is_file).map(|entry| entry.path.as_str()).collect();
    match request.rendered.iter().find(|path| !files.contains(path.as_str())) {
        Some(missing) => Err(PackError::NotInRelease(missing.clone())),
        None => Ok(()),
    }
}

struct ArchiveWriter<'a, W: Write> {
    request: &'a PackRequest<'a>,
    rules: &'a EntryRules<'a>,
    out: BufWriter<Encoder<'static, HashingWriter<W>>>,
    /// Makes headers, with extended ones for long paths.
    headers: Builder<Vec<u8>>,
    buffer: Vec<u8>,
    bytes: u64,
}

impl<'a, W: Write> ArchiveWriter<'a, W> {
    fn new(request: &'a PackRequest<'a>, rules: &'a EntryRules<'a>, out: W) -> Result<Self, PackError> {
        let mut encoder = Encoder::new(HashingWriter { out, hasher: Sha256::new(), bytes: 0 }, request.level)?;
        let threads = thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        encoder.set_parameter(CParameter::NbWorkers(threads.max(1)))?;
        Ok(Self {
            request,
            rules,
            out: BufWriter::with_capacity(BUFFER_BYTES, encoder),
            headers: Builder::new(Vec::new()),
            buffer: vec![0; BUFFER_BYTES],
            bytes: 0,
        })
    }

    fn append(&mut self, entry: &mut PackedEntry) -> Result<(), PackError> {
        let path = self.request.folder.join(&entry.path);
        match &mut entry.kind {
            PackedEntryKind::Directory => self.header(EntryType::Directory, 0o755, 0, &entry.path, None),
            PackedEntryKind::Symlink { target } => {
                self.header(EntryType::Symlink, 0o777, 0, &entry.path, Some(target.as_str()))
            }
            PackedEntryKind::File { size, is_executable, digest } => {
                let mode = if *is_executable { 0o755 } else { 0o644 };
                let file = open_file(&path, *size)?;
                let sum = if self.request.rendered.contains(&entry.path) {
                    let content = rendered(file, &path, &entry.path, self.request.version)?;
                    *size = content.len() as u64;
                    self.header(EntryType::Regular, mode, *size, &entry.path, None)?;
                    self.content(&content)?;
                    Sha256::digest(&content)
                } else {
                    self.header(EntryType::Regular, mode, *size, &entry.path, None)?;
                    self.file(file, &path, *size)?
                };
                *digest = Some(Digest::from_bytes(sum.into()));
                let padding = size.next_multiple_of(BLOCK_BYTES) - *size;
                self.out.write_all(&[0; BLOCK_BYTES as usize][..padding as usize])?;
                self.check_ratio()
            }
        }
    }

    fn header(
        &mut self,
        kind: EntryType,
        mode: u32,
        size: u64,
        path: &str,
        target: Option<&str>,
    ) -> Result<(), PackError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(self.request.modified);
        header.set_uid(0);
        header.set_gid(0);
        match target {
            Some(target) => self.headers.append_link(&mut header, path, target)?,
            None => self.headers.append_data(&mut header, path, io::empty())?,
        }
        let bytes = std::mem::take(self.headers.get_mut());
        Ok(self.out.write_all(&bytes)?)
    }

    /// Writes the content of a file of this size, which must not change meanwhile.
    fn file(&mut self, mut file: File, path: &Path, size: u64) -> Result<sha2::digest::Output<Sha256>, PackError> {
        let changed = || PackError::Changed { path: path.to_owned() };
        let mut hasher = Sha256::new();
        let mut left = size;
        loop {
            let count = match file.read(&mut self.buffer) {
                Ok(0) if left == 0 => return Ok(hasher.finalize()),
                Ok(count) if count > 0 && count as u64 <= left => count,
                Ok(_) => return Err(changed()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(PackError::Read { path: path.to_owned(), source }),
            };
            left -= count as u64;
            hasher.update(&self.buffer[..count]);
            self.bytes += count as u64;
            self.out.write_all(&self.buffer[..count])?;
        }
    }

    fn content(&mut self, content: &[u8]) -> Result<(), PackError> {
        self.bytes += content.len() as u64;
        Ok(self.out.write_all(content)?)
    }

    /// Stops early what the limit of the ratio refuses: a full disk would come first.
    fn check_ratio(&self) -> Result<(), PackError> {
        let written = self.out.get_ref().get_ref().bytes;
        Ok(self.rules.check_ratio(self.bytes.saturating_sub(MAX_PENDING_BYTES), written.max(1))?)
    }

    /// The digest, the bytes of the archive, and those of the content.
    fn finish(mut self) -> Result<(Digest, u64, u64), PackError> {
        self.out.write_all(&[0; 2 * BLOCK_BYTES as usize])?;
        let encoder = self.out.into_inner().map_err(|error| PackError::Output(error.into_error()))?;
        let mut writer = encoder.finish()?;
        writer.out.flush()?;
        Ok((Digest::from_bytes(writer.hasher.finalize().into()), writer.bytes, self.bytes))
    }
}

/// Opens a file that had this size.
fn open_file(path: &Path, size: u64) -> Result<File, PackError> {
    let read = |source| PackError::Read { path: path.to_owned(), source };
    // What has become a link or a pipe meanwhile is neither followed nor waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let is_same = metadata.is_file() && metadata.len() == size;
    if is_same { Ok(file) } else { Err(PackError::Changed { path: path.to_owned() }) }
}

/// The content of a file, with the version.
fn rendered(mut file: File, place: &Path, path: &str, version: &Label) -> Result<Vec<u8>, PackError> {
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(|source| PackError::Read { path: place.to_owned(), source })?;
    let mut rest = &content[..];
    let mut rendered = Vec::with_capacity(content.len());
    while let Some(start) = rest.windows(PLACEHOLDER.len()).position(|window| window == PLACEHOLDER) {
        rendered.extend_from_slice(&rest[..start]);
        rendered.extend_from_slice(version.as_str().as_bytes());
        rest = &rest[start + PLACEHOLDER.len()..];
    }
    if rest.len() == content.len() {
        return Err(PackError::NoPlaceholder(path.to_owned()));
    }
    rendered.extend_from_slice(rest);
    Ok(rendered)
}

/// Passes bytes on, hashes and counts them.
struct HashingWriter<W> {
    out: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
