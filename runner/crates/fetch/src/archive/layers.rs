//! Extracts the layers of an image into one folder, the lowest first.
//!
//! Each layer is hashed, decompressed and extracted like an archive, in the same pipeline. What differs is in [`tree`](super::tree): upper
//! layers replace and remove. Deliberately absent: owners, the setuid, setgid and sticky bits, devices and pipes, which need root, and
//! which an image has for a container that a folder is not.

use std::{io::Read, os::fd::AsFd as _};

use cap_std::fs::Dir;

use contract::Digest;

use super::{
    PartialFolder, UnpackJob, UnpackSummary, decode,
    error::ArchiveError,
    format::{self, ArchiveFormat},
    pipeline,
    tree::ExtractionTree,
};

/// A layer, as its manifest describes it.
pub struct ImageLayer<'a> {
    pub digest: &'a Digest,
    /// A name that says its format, or one without.
    pub name: &'a str,
}

/// The contents of all layers, one after the other.
pub trait LayerSource: Read + Send {
    /// Ends a layer, whose content was read to its end, and begins the next.
    fn begin_layer(&mut self);
}

/// Extracts layers into the new folder `path` of `into`, like [`unpack`](super::unpack). The job's own name and digest do not matter.
///
/// # Errors
/// See [`ArchiveError`].
pub fn unpack_layers(
    mut source: impl LayerSource,
    layers: &[ImageLayer<'_>],
    job: &UnpackJob<'_>,
    into: &Dir,
    path: &str,
) -> Result<UnpackSummary, ArchiveError> {
    let mut partial = PartialFolder::create(into, path)?;
    match extract(&mut source, layers, job, &partial) {
        Ok(unpacked) => {
            partial.is_kept = true;
            Ok(unpacked)
        }
        Err(failure) => Err(partial.discard(failure)),
    }
}

fn extract(
    source: &mut impl LayerSource,
    layers: &[ImageLayer<'_>],
    job: &UnpackJob<'_>,
    partial: &PartialFolder<'_>,
) -> Result<UnpackSummary, ArchiveError> {
    let folder = partial.folder()?;
    let sync = folder.try_clone().map_err(ArchiveError::filesystem("opened", "."))?;
    let mut tree = ExtractionTree::of_layers(folder, job);
    let mut archive_bytes = 0;
    for (index, layer) in layers.iter().enumerate() {
        if index > 0 {
            source.begin_layer();
            tree.begin_layer();
        }
        let before = archive_bytes;
        let progress = |bytes| (job.progress)(before + bytes);
        let of_layer = UnpackJob { name: layer.name, expected: layer.digest, progress: &progress, ..*job };
        archive_bytes += extract_layer(source, &of_layer, &mut tree)?;
    }
    let (files, bytes) = tree.finish()?;
    rustix::fs::syncfs(sync.as_fd()).map_err(ArchiveError::filesystem("synced", "."))?;
    Ok(UnpackSummary { files, bytes, archive_bytes })
}

fn extract_layer(
    source: &mut impl LayerSource,
    job: &UnpackJob<'_>,
    tree: &mut ExtractionTree<'_>,
) -> Result<u64, ArchiveError> {
    job.check_stop()?;
    let first = pipeline::StreamChunk::first_of(source, job)?;
    let head = &first.bytes()[..first.bytes().len().min(format::HEAD_BYTES)];
    let format = match ArchiveFormat::detect(job.name, head) {
        Ok(ArchiveFormat::Zip) => {
            return Err(ArchiveError::Damaged("a layer of an image is a tar, and this one is a zip".to_owned()));
        }
        Ok(format) => format,
        Err(error) => return Err(pipeline::wrong_digest_of_rest(first, source, job)?.unwrap_or(error)),
    };
    pipeline::run_pipeline(first, source, job, |chunks| decode::extract(format, chunks, job, tree))
}
