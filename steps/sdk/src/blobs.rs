//! Bulk content: archives that the host downloads, hashes, decompresses and extracts in one pipeline. Their bytes never
//! enter the sandbox.

use serde::Deserialize;

use crate::{Digest, Failure};

/// The limits for unpacking an archive; an absent limit has the host's default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UnpackLimits {
    /// The largest number of entries.
    pub max_files: Option<u64>,
    /// The largest total size after extraction, in bytes.
    pub max_bytes: Option<u64>,
    /// The largest number of extracted bytes for each byte of the archive.
    pub max_ratio: Option<u64>,
    /// The longest path, in bytes.
    pub max_path: Option<u64>,
}

/// The sizes and counts of an unpacked archive.
#[derive(Debug, Clone, Copy)]
pub struct UnpackStats {
    /// The number of extracted files.
    pub files: u64,
    /// The extracted size, in bytes.
    pub bytes: u64,
    /// The size of the archive, in bytes.
    pub archive_bytes: u64,
}

impl UnpackLimits {
    #[cfg(target_arch = "wasm32")]
    fn to_options(&self, is_image: bool) -> String {
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
        if is_image {
            options.insert("rootfs".to_owned(), true.into());
        }
        crate::json::text(&options.into())
    }
}

/// A source that is open but not yet read.
#[derive(Debug)]
#[must_use]
pub struct Blob(host::HostBlob);

impl Blob {
    /// Extracts the archive into the new folder `path` of the granted directory `dir`. The host removes the folder
    /// after any failure, a wrong digest included.
    ///
    /// # Errors
    /// Unreachable source, wrong digest, not an archive, a limit, or a path outside the folder.
    pub fn unpack(self, dir: &str, path: &str, limits: &UnpackLimits) -> Result<UnpackStats, Failure> {
        host::unpack(self.0, dir, path, limits, false)
    }

    /// Extracts the layers of an image in a registry, the same way: upper layers replace and remove what lower ones have.
    ///
    /// # Errors
    /// The same, and a source that is not an image in a registry.
    pub fn unpack_image(self, dir: &str, path: &str, limits: &UnpackLimits) -> Result<UnpackStats, Failure> {
        host::unpack(self.0, dir, path, limits, true)
    }
}

/// Returns the digest that is published for a source: in `<source>.sha256`, or in `SHA256SUMS` next to it. For a file
/// with neither, it is the digest of the content. A source is `file:<dir>/<path>`, an `http(s)` URL, or `oci://…`, whose digest is
/// that of its manifest.
///
/// # Errors
/// Not granted, not found, or no published digest.
pub fn resolve(source: &str) -> Result<Digest, Failure> {
    host::resolve(source)
}

/// Opens a source whose content must have the given digest.
///
/// # Errors
/// Not granted or not found.
pub fn fetch(source: &str, digest: &Digest) -> Result<Blob, Failure> {
    host::fetch(source, digest).map(Blob)
}

/// Compares a folder made by [`Blob::unpack`] with the file list in it. Returns one line for each difference, at most
/// 20, and an empty list when the folder is intact. Added files do not count as differences.
///
/// # Errors
/// The folder or its file list is missing.
pub fn compare(dir: &str, path: &str) -> Result<Vec<String>, Failure> {
    host::compare(dir, path)
}

/// Removes a folder and everything in it; a missing folder is not an error.
///
/// # Errors
/// When the host cannot remove something.
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

    pub(super) fn unpack(
        blob: HostBlob,
        dir: &str,
        path: &str,
        limits: &UnpackLimits,
        is_image: bool,
    ) -> Result<UnpackStats, Failure> {
        let counts = crate::json::object(&blobs::unpack(blob, dir, path, &limits.to_options(is_image))?);
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
