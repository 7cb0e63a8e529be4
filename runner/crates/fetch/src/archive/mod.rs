//! Archives, natively: one pass hashes, decompresses and extracts; later the folder is compared with what was
//! extracted.
//!
//! ```text
//! source ─► intake thread: read, hash ─► decoder thread: gunzip, unzstd ─► caller's thread: tar entries ─► folder
//!                                  (a zip needs to seek: it is spooled, checked, and then extracted)
//! ```
//! Invariants: an archive never reaches outside of its folder, neither during extraction nor by what it leaves there;
//! a folder is either complete, checked against the digest and on disk, or gone again; memory does not depend on the
//! archive's size but on the number of its entries. Deliberately absent: the network, grants, async, owners of files.

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
mod dir_cursor;
mod entry;
mod error;
mod file_list;
mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod pipeline;
mod remove;
mod tarball;
#[cfg(test)]
mod tests;
mod tree;
mod zipped;

pub use compare::compare;
pub use error::ArchiveError;
pub use remove::remove;

use error::ArchiveLimitKind;
use format::ArchiveFormat;
use tree::ExtractionTree;

/// Content smaller than this may be as compressible as it likes, in bytes.
const RATIO_FLOOR: u64 = 1 << 20;

/// How large an archive may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Files, links and directories, those included that have no entry of their own.
    pub max_files: u64,
    /// Bytes of content; the archive itself may not be larger either.
    pub max_bytes: u64,
    /// Bytes of content for one byte of the archive, at every point of the stream once there is more than 1 MiB.
    pub max_ratio: u64,
    /// Bytes of a path and of a link's target.
    pub max_path_bytes: usize,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self { max_files: 200_000, max_bytes: 8 << 30, max_ratio: 200, max_path_bytes: 1024 }
    }
}

impl ArchiveLimits {
    fn check_compression_ratio(&self, content: u64, archive: u64) -> Result<(), ArchiveError> {
        if content > RATIO_FLOOR && content > archive.saturating_mul(self.max_ratio) {
            return Err(ArchiveError::Limit { limit: ArchiveLimitKind::Ratio, max: self.max_ratio, entry: None });
        }
        Ok(())
    }
}

/// What is to be extracted, and under which conditions.
pub struct UnpackJob<'a> {
    /// The archive's file name or the path of its URL: it names the format, else the first bytes decide.
    pub name: &'a str,
    /// The digest that the archive must have.
    pub expected: &'a Digest,
    /// How large it may be.
    pub limits: &'a ArchiveLimits,
    /// Set by somebody else to stop: looked at before every read of the source, every chunk and every entry.
    pub stop: &'a AtomicBool,
    /// Called with the bytes of the archive read so far, from another thread.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

impl UnpackJob<'_> {
    fn check_stop(&self) -> Result<(), ArchiveError> {
        if self.stop.load(Ordering::Relaxed) { Err(ArchiveError::Stopped) } else { Ok(()) }
    }
}

/// What was extracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackSummary {
    /// Files and links; no directories.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
}

/// Extracts the archive `source` into the new folder `path` of `into`, whose parent must exist.
///
/// When it returns, everything is on disk (the whole filesystem is synced once) and the list of files that [`compare`]
/// reads is in the folder. On any failure the folder is removed again. A `source.read` that blocks is not interrupted
/// by `job.stop`: the source needs a time-out of its own.
///
/// # Errors
/// See [`ArchiveError`]. When the content is bad and the digest is wrong too, the digest is what is reported, provided
/// that the rest of the source is no longer than 64 MiB.
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
/// Those of the source.
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
    let first = pipeline::StreamChunk::first_of(&mut source, job)?;
    let format = ArchiveFormat::detect(job.name, &first.bytes()[..first.bytes().len().min(format::HEAD_BYTES)]);
    let format = match format {
        Ok(format) => format,
        // Of unknown content, it may be of use to know that it is not the one that was meant.
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
    let (files, bytes) = tree.finish()?;
    rustix::fs::syncfs(&sync).map_err(ArchiveError::filesystem("synced", "."))?;
    Ok(UnpackSummary { files, bytes, archive_bytes })
}

/// A folder that is removed again unless it is kept: on a panic too.
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
            // A panic is on its way up: nobody is left to tell that this failed as well.
            let _ = remove(self.dir, self.path);
        }
    }
}
