//! Bulk content. Bytes never cross the sandbox: the host downloads, hashes, decompresses and extracts in one pipeline.

use serde::Deserialize;

use crate::{Digest, Failure};

/// What an archive may grow to. What is left out has the host's default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UnpackLimits {
    /// Entries.
    pub max_files: Option<u64>,
    /// Bytes, extracted.
    pub max_bytes: Option<u64>,
    /// Extracted bytes for each byte of the archive.
    pub max_ratio: Option<u64>,
    /// Bytes in one path.
    pub max_path: Option<u64>,
}

/// What was extracted.
#[derive(Debug, Clone, Copy)]
pub struct UnpackStats {
    /// Files.
    pub files: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
}

impl UnpackLimits {
    #[cfg(target_arch = "wasm32")]
    fn to_options(&self) -> String {
        let members = [
            ("max-files", self.max_files),
            ("max-bytes", self.max_bytes),
            ("max-ratio", self.max_ratio),
            ("max-path", self.max_path),
        ];
        let mut options = serde_json::Map::new();
        for (name, limit) in members {
            if let Some(limit) = limit {
                options.insert(name.to_owned(), limit.into());
            }
        }
        crate::json::text(&options.into())
    }
}

/// A source that was opened and not yet read.
#[derive(Debug)]
#[must_use]
pub struct Blob(host::HostBlob);

impl Blob {
    /// Extracts the archive into the new folder `path` of the granted directory `dir`. On any failure, the wrong digest
    /// included, the folder is removed again.
    ///
    /// # Errors
    /// Not reachable, wrong digest, no archive, a limit, a path that leads out of the folder.
    pub fn unpack(self, dir: &str, path: &str, limits: &UnpackLimits) -> Result<UnpackStats, Failure> {
        host::unpack(self.0, dir, path, limits)
    }
}

/// The digest that is published for a source: in `<source>.sha256`, or in `SHA256SUMS` beside it; for a file without
/// either, the digest of its content. A source is `file:<dir>/<path>` or an `http(s)` URL.
///
/// # Errors
/// Not granted, not there, nothing published.
pub fn resolve(source: &str) -> Result<Digest, Failure> {
    host::resolve(source)
}

/// Opens a source whose content must have this digest.
///
/// # Errors
/// Not granted, not there.
pub fn fetch(source: &str, digest: &Digest) -> Result<Blob, Failure> {
    host::fetch(source, digest).map(Blob)
}

/// Compares a folder made by [`Blob::unpack`] with the list that it left there. Returns what differs, a line each, at
/// most 20; nothing when it holds. Files that were added since are no difference.
///
/// # Errors
/// The folder or its list is not there.
pub fn compare(dir: &str, path: &str) -> Result<Vec<String>, Failure> {
    host::compare(dir, path)
}

/// Removes a folder and everything below it; a missing one is fine.
///
/// # Errors
/// When something may not be removed.
pub fn remove(dir: &str, path: &str) -> Result<(), Failure> {
    host::remove(dir, path)
}

#[cfg(target_arch = "wasm32")]
mod host {
    use super::{Digest, UnpackLimits, UnpackStats};
    use crate::Failure;
    use crate::bindings::pawl::step::blobs;

    pub(super) use blobs::Blob as HostBlob;

    pub(super) fn resolve(source: &str) -> Result<Digest, Failure> {
        Digest::try_from(blobs::resolve(source)?).map_err(Failure::bad_content)
    }

    pub(super) fn fetch(source: &str, digest: &Digest) -> Result<HostBlob, Failure> {
        blobs::fetch(source, digest.as_str()).map_err(Failure::from)
    }

    pub(super) fn unpack(blob: HostBlob, dir: &str, path: &str, limits: &UnpackLimits) -> Result<UnpackStats, Failure> {
        let counts = crate::json::object(&blobs::unpack(blob, dir, path, &limits.to_options())?);
        let count = |name| counts.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
        Ok(UnpackStats { files: count("files"), bytes: count("bytes"), archive_bytes: count("archive-bytes") })
    }

    pub(super) fn compare(dir: &str, path: &str) -> Result<Vec<String>, Failure> {
        blobs::compare(dir, path).map_err(Failure::from)
    }

    pub(super) fn remove(dir: &str, path: &str) -> Result<(), Failure> {
        blobs::remove(dir, path).map_err(Failure::from)
    }
}

#[cfg(not(target_arch = "wasm32"))]
use crate::testing::blobs as host;
