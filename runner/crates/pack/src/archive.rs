//! The archive: a tar of the entries, compressed by zstd with several threads, while another one reads ahead.
//!
//! The bytes depend on the entries, the version, the time and the level alone. Modes are 0644, or 0755 for folders and for what its owner
//! may execute; owners are 0 and have no names; there is one time for all. libzstd cuts its input into jobs by size, so that the
//! number of threads changes nothing, as long as there is at least one.

use std::{
    collections::BTreeSet,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver},
    thread,
};

use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use zstd::stream::{raw::CParameter, write::Encoder};

use crate::{
    PackError, PackedEntry, PackedEntryKind, entries,
    reader::{self, FilePart, ReadPart},
};
use contract::{Digest, Label};
use fetch::archive::{ArchiveLimits, EntryRules};

const BUFFER_BYTES: usize = 256 << 10;
const BLOCK_BYTES: u64 = 512;
/// How many parts are read ahead.
const PENDING_PARTS: usize = 64;
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
    let files = reader::files(&entries);
    let (digest, archive_bytes, bytes) = thread::scope(|scope| {
        let (sender, parts) = mpsc::sync_channel(PENDING_PARTS);
        // Ends when the receiver is gone, at the latest.
        scope.spawn(move || reader::read(request, files, &sender));
        for entry in &mut entries {
            writer.append(entry, &parts)?;
        }
        writer.finish()
    })?;
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
            bytes: 0,
        })
    }

    /// Appends an entry; `parts` has the content of the files, in their order.
    fn append(&mut self, entry: &mut PackedEntry, parts: &Receiver<ReadPart>) -> Result<(), PackError> {
        match &mut entry.kind {
            PackedEntryKind::Directory => self.header(EntryType::Directory, 0o755, 0, &entry.path, None),
            PackedEntryKind::Symlink { target } => {
                self.header(EntryType::Symlink, 0o777, 0, &entry.path, Some(target.as_str()))
            }
            PackedEntryKind::File { size, is_executable, digest } => {
                let mode = if *is_executable { 0o755 } else { 0o644 };
                *digest = None;
                while digest.is_none() {
                    match parts.recv().expect("the reader says how each file ends")? {
                        FilePart::Begin(actual) => {
                            *size = actual;
                            self.header(EntryType::Regular, mode, actual, &entry.path, None)?;
                        }
                        FilePart::Content(content) => {
                            self.bytes += content.len() as u64;
                            self.out.write_all(&content)?;
                        }
                        FilePart::End(sum) => *digest = Some(sum),
                    }
                }
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
