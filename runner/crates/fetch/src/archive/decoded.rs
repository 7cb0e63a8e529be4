//! An archive in the form of its tar: decoded in one place, extracted in another.
//!
//! Whoever decodes the archive there keeps every rule of its compression, and notes what the rules of extraction need of it. Invariant:
//! what is extracted has the digest of the tar that was noted, and an archive whose tar is extracted meets the same limits, under the
//! same digest, as the archive itself. Deliberately absent: how the tar gets from one place to the other.

use std::{
    io::{self, Read},
    os::fd::OwnedFd,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use contract::Digest;

use super::{
    ArchiveFormat, ArchiveLimits, UnpackJob, UnpackSummary, decode,
    error::{ArchiveError, ArchiveLimitKind},
    finish, format,
    pipeline::{self, ChunkReader},
    tarball,
    tree::ExtractionTree,
};

/// What an archive was whose tar stands for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecodedArchive {
    pub format: ArchiveFormat,
    /// The digest of the archive, and its size.
    pub archive: Digest,
    pub archive_bytes: u64,
    /// The highest compression ratio of any of its beginnings, as [`ArchiveLimits::max_ratio`] counts it.
    pub ratio: u64,
    /// The digest of the tar.
    pub tar: Digest,
}

/// Decodes an archive and passes its tar to `consume`. None for a zip.
///
/// # Errors
/// As for extraction, up to the tar, whose entries are not looked at; and an error of `consume`.
pub fn decode_tar<T>(
    mut source: impl Read + Send,
    job: &UnpackJob<'_>,
    consume: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> Result<Option<(DecodedArchive, T)>, ArchiveError> {
    let first = pipeline::StreamChunk::first_of(&mut source, job)?;
    let head = &first.bytes()[..first.bytes().len().min(format::HEAD_BYTES)];
    let format = ArchiveFormat::detect(job.name, head)?;
    if format == ArchiveFormat::Zip {
        return Ok(None);
    }
    let (mut tar, mut ratio, mut consumed) = (None, 0, None);
    let archive_bytes = pipeline::run_pipeline(first, source, job, |chunks| {
        ratio = decode::consume(format, chunks, job, |plain| {
            let mut reader = HashedReader { plain, hasher: Sha256::new() };
            consumed = Some(consume(&mut reader).map_err(ArchiveError::Source)?);
            io::copy(&mut reader, &mut io::sink()).map_err(ArchiveError::Source)?;
            tar = Some(Digest::from_bytes(reader.hasher.finalize().into()));
            Ok(())
        })?;
        Ok(())
    })?;
    let decoded = tar.map(|tar| DecodedArchive { format, archive: job.expected.clone(), archive_bytes, ratio, tar });
    Ok(decoded.zip(consumed))
}

struct HashedReader {
    plain: ChunkReader,
    hasher: Sha256,
}

impl Read for HashedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.plain.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Extracts the archive whose tar is `source`.
pub(super) fn extract_into(
    decoded: &DecodedArchive,
    mut source: impl Read + Send,
    job: &UnpackJob<'_>,
    folder: OwnedFd,
) -> Result<UnpackSummary, ArchiveError> {
    let DecodedArchive { format, archive, archive_bytes, ratio, tar } = decoded;
    if archive != job.expected {
        return Err(ArchiveError::WrongDigest { expected: job.expected.clone(), actual: archive.clone() });
    }
    if ArchiveFormat::from_name(job.name).is_some_and(|named| named != *format) {
        let reason = "it was decoded as another format";
        return Err(ArchiveError::UnknownFormat { name: job.name.to_owned(), reason });
    }
    if *archive_bytes > job.limits.max_bytes {
        let max = job.limits.max_bytes;
        return Err(ArchiveError::Limit { limit: ArchiveLimitKind::Bytes, max, entry: None });
    }
    job.limits.check_ratio(*ratio)?;
    // The limit of bytes is for the archive, which had fewer, and for the content, which the tree counts.
    let limits = ArchiveLimits { max_bytes: u64::MAX, ..job.limits.clone() };
    let of_tar = UnpackJob { expected: tar, limits: &limits, ..*job };
    let first = pipeline::StreamChunk::first_of(&mut source, &of_tar)?;
    let sync = folder.try_clone().map_err(ArchiveError::filesystem("opened", "."))?;
    let mut tree = ExtractionTree::new(folder, job);
    pipeline::run_pipeline(first, source, &of_tar, |chunks| tarball::extract(chunks, &mut tree)).map_err(|error| {
        if matches!(error, ArchiveError::WrongDigest { .. }) {
            ArchiveError::Damaged("its tar, which was stored here for it, has changed".to_owned())
        } else {
            error
        }
    })?;
    finish(tree, &sync, *archive_bytes)
}
