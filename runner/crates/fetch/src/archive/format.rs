//! Detects an archive's format by its name, else by its first bytes.

use serde::{Deserialize, Serialize};

use super::error::ArchiveError;

/// The number of first bytes that [`ArchiveFormat::detect`] needs, if there are as many.
pub(super) const HEAD_BYTES: usize = 512;

/// The format of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArchiveFormat {
    Tar,
    TarGzip,
    TarZstd,
    Zip,
}

impl ArchiveFormat {
    /// The format of the archive `name` (a file name or the path of a URL) that begins with `head`.
    ///
    /// A format in the name must match the content: otherwise the digest is most likely that of another file.
    pub(super) fn detect(name: &str, head: &[u8]) -> Result<Self, ArchiveError> {
        let seen = Self::from_content(head);
        let format = match (Self::from_name(name), seen) {
            (Some(named), Some(seen)) => (named == seen).then_some(seen),
            (None, seen) => seen,
            // Tar from before 1988 has no magic bytes; its header checksum decides.
            (Some(Self::Tar), None) => (head.len() >= HEAD_BYTES).then_some(Self::Tar),
            (Some(Self::TarGzip | Self::TarZstd | Self::Zip), None) => None,
        };
        format.ok_or_else(|| ArchiveError::UnknownFormat { name: name.to_owned(), reason: mismatch_reason(head, seen) })
    }

    /// The format that a name says, if it says one.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let name = name.split(['?', '#']).next().unwrap_or(name).to_ascii_lowercase();
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
        if ends(&[".tar.gz", ".tgz"]) {
            Some(Self::TarGzip)
        } else if ends(&[".tar.zst", ".tar.zstd", ".tzst"]) {
            Some(Self::TarZstd)
        } else if ends(&[".tar"]) {
            Some(Self::Tar)
        } else if ends(&[".zip"]) {
            Some(Self::Zip)
        } else {
            None
        }
    }

    fn from_content(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::TarGzip),
            // A frame, or a skippable one (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::TarZstd),
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Self::Zip),
            _ if head.get(257..262) == Some(b"ustar") => Some(Self::Tar),
            // Only the end marker: an archive without entries.
            _ if head.len() >= HEAD_BYTES && head.iter().all(|byte| *byte == 0) => Some(Self::Tar),
            _ => None,
        }
    }
}

fn mismatch_reason(head: &[u8], seen: Option<ArchiveFormat>) -> &'static str {
    match seen {
        _ if head.is_empty() => "it is empty",
        Some(ArchiveFormat::Tar) => "it looks like a plain tar",
        Some(ArchiveFormat::TarGzip) => "it looks like gzip",
        Some(ArchiveFormat::TarZstd) => "it looks like zstd",
        Some(ArchiveFormat::Zip) => "it looks like a zip",
        None if head.trim_ascii_start().starts_with(b"<") => "it looks like a web page",
        None => "its first bytes match none of them",
    }
}
