//! Native handling of archives: one pass hashes, decompresses and extracts; later the folder is compared with its list
//! of files.
//!
//! ```text
//! source ─► intake thread: read, hash ─► decoder thread: gunzip, unzstd ─► caller's thread: tar entries ─► folder
//!                                  (a zip needs to seek: it is spooled, checked, and then extracted)
//! ```
//! Invariants: an archive never reaches outside its folder, neither during extraction nor through what it leaves there.
//! A folder is either complete, verified and on disk, or removed. Memory grows with the number of entries, not with the
//! archive's size. Deliberately absent: the network, grants, async, owners of files.

use std::{
    io::{self, Read},
    os::fd::{AsFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use cap_std::fs::Dir;
use rustix::fs::Mode;
use sha2::{Digest as _, Sha256};

use contract::Digest;

mod compare;
mod decode;
mod decoded;
mod dir_cursor;
mod entry;
mod error;
mod file_list;
mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod layers;
mod pipeline;
mod remove;
mod rules;
mod tarball;
#[cfg(test)]
mod tests;
mod tree;
mod zipped;

pub use compare::compare;
pub use decoded::{DecodedArchive, decode_tar};
pub use error::ArchiveError;
pub use format::ArchiveFormat;
pub use layers::{ImageLayer, LayerSource, unpack_layers};
pub use remove::remove;
pub use rules::EntryRules;

use error::ArchiveLimitKind;
use tree::ExtractionTree;

/// Below this size, content may have any compression ratio, in bytes.
const RATIO_FLOOR: u64 = 1 << 20;

/// The limits of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Files, links and directories, including directories without their own entry.
    pub max_files: u64,
    /// Bytes of content; also the limit of the archive itself.
    pub max_bytes: u64,
    /// Bytes of content per byte of the archive, at every point of the stream after 1 MiB.
    pub max_ratio: u64,
    /// Bytes of a path or a link's target.
    pub max_path_bytes: usize,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self { max_files: 200_000, max_bytes: 8 << 30, max_ratio: 200, max_path_bytes: 1024 }
    }
}

impl ArchiveLimits {
    fn check_compression_ratio(&self, content: u64, archive: u64) -> Result<(), ArchiveError> {
        self.check_ratio(compression_ratio(content, archive))
    }

    fn check_ratio(&self, ratio: u64) -> Result<(), ArchiveError> {
        if ratio > self.max_ratio {
            return Err(ArchiveError::Limit { limit: ArchiveLimitKind::Ratio, max: self.max_ratio, entry: None });
        }
        Ok(())
    }
}

/// The least `max_ratio` that allows so much content of so many bytes of an archive.
fn compression_ratio(content: u64, archive: u64) -> u64 {
    match archive {
        _ if content <= RATIO_FLOOR => 0,
        0 => u64::MAX,
        _ => content.div_ceil(archive),
    }
}

/// An extraction job and its conditions.
pub struct UnpackJob<'a> {
    /// The archive's file name or its URL's path: it determines the format, else the first bytes do.
    pub name: &'a str,
    /// The expected digest.
    pub expected: &'a Digest,
    /// What the archive was, if the source is its tar.
    pub decoded: Option<&'a DecodedArchive>,
    /// The limits.
    pub limits: &'a ArchiveLimits,
    /// Set by another thread to stop: checked before every read, chunk and entry.
    pub stop: &'a AtomicBool,
    /// Called on another thread with the number of the archive's bytes read so far.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

impl UnpackJob<'_> {
    fn check_stop(&self) -> Result<(), ArchiveError> {
        if self.stop.load(Ordering::Relaxed) { Err(ArchiveError::Stopped) } else { Ok(()) }
    }
}

/// The result of an extraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackSummary {
    /// Files and links, without directories.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
}

/// Extracts the archive `source` into the new folder `path` of `into`, whose parent must exist.
///
/// When it returns, everything is on disk (the whole file system is synced once), and the folder contains the list of
/// files for [`compare`]. After any failure the folder is removed. `job.stop` does not interrupt a blocked
/// `source.read`: the source needs its own timeout.
///
/// # Errors
/// See [`ArchiveError`]. If both the content and the digest are wrong, the digest is reported, provided that the rest
/// of the source is at most 64 MiB long.
pub fn unpack(
    source: impl Read + Send,
    job: &UnpackJob<'_>,
    into: &Dir,
    path: &str,
) -> Result<UnpackSummary, ArchiveError> {
    let mut partial = PartialFolder::create(into, path)?;
    match extract_into(source, job, partial.folder()?) {
        Ok(unpacked) => {
            partial.is_kept = true;
            Ok(unpacked)
        }
        Err(failure) => Err(partial.discard(failure)),
    }
}

/// The SHA-256 digest of everything in `source`.
///
/// # Errors
/// An error of the source.
pub fn digest(mut source: impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; pipeline::CHUNK_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn extract_into(
    mut source: impl Read + Send,
    job: &UnpackJob<'_>,
    folder: OwnedFd,
) -> Result<UnpackSummary, ArchiveError> {
    job.check_stop()?;
    if let Some(decoded) = job.decoded {
        return decoded::extract_into(decoded, source, job, folder);
    }
    let first = pipeline::StreamChunk::first_of(&mut source, job)?;
    let format = ArchiveFormat::detect(job.name, &first.bytes()[..first.bytes().len().min(format::HEAD_BYTES)]);
    let format = match format {
        Ok(format) => format,
        // For unknown content, it may help to know that the digest is wrong too.
        Err(error) => return Err(pipeline::wrong_digest_of_rest(first, source, job)?.unwrap_or(error)),
    };
    let sync = folder.try_clone().map_err(ArchiveError::filesystem("opened", "."))?;
    let mut tree = ExtractionTree::new(folder, job);
    let archive_bytes = match format {
        ArchiveFormat::Tar | ArchiveFormat::TarGzip | ArchiveFormat::TarZstd => {
            pipeline::run_pipeline(first, source, job, |chunks| decode::extract(format, chunks, job, &mut tree))?
        }
        ArchiveFormat::Zip => {
            let spool = zipped::create_spool(sync.as_fd())?;
            let bytes = pipeline::run_pipeline(first, source, job, |chunks| zipped::fill_spool(&spool, chunks))?;
            zipped::extract(&spool, bytes, &mut tree)?;
            bytes
        }
    };
    finish(tree, &sync, archive_bytes)
}

fn finish(tree: ExtractionTree<'_>, folder: &OwnedFd, archive_bytes: u64) -> Result<UnpackSummary, ArchiveError> {
    let (files, bytes) = tree.finish()?;
    rustix::fs::syncfs(folder).map_err(ArchiveError::filesystem("synced", "."))?;
    Ok(UnpackSummary { files, bytes, archive_bytes })
}

/// A folder that is removed unless it is kept, even on a panic.
struct PartialFolder<'a> {
    dir: &'a Dir,
    path: &'a str,
    is_kept: bool,
}

impl<'a> PartialFolder<'a> {
    fn create(dir: &'a Dir, path: &'a str) -> Result<Self, ArchiveError> {
        let (parent, name) = dir_cursor::open_parent(dir, path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(Self { dir, path, is_kept: false }),
            Err(rustix::io::Errno::EXIST) => Err(ArchiveError::FolderExists(path.to_owned())),
            Err(error) => Err(ArchiveError::filesystem("created", path)(error)),
        }
    }

    fn folder(&self) -> Result<OwnedFd, ArchiveError> {
        let (parent, name) = dir_cursor::open_parent(self.dir, self.path)?;
        dir_cursor::open_dir(parent.as_fd(), name).map_err(ArchiveError::filesystem("opened", self.path))
    }

    fn discard(mut self, failure: ArchiveError) -> ArchiveError {
        self.is_kept = true;
        match remove(self.dir, self.path) {
            Ok(()) => failure,
            Err(removal) => ArchiveError::CleanupFailed { failure: Box::new(failure), removal: Box::new(removal) },
        }
    }
}

impl Drop for PartialFolder<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // During a panic, nobody can be told about this failure.
            let _ = remove(self.dir, self.path);
        }
    }
}
