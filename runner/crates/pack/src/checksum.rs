//! The checksum file beside an archive, as `sha256sum` writes it and `pull` reads it.

use contract::Digest;

/// The content of the checksum file of the archive `name`.
#[must_use]
pub fn checksum_line(digest: &Digest, name: &str) -> String {
    format!("{}  {name}\n", digest.hex())
}

/// The digest in a checksum file; none if it is no such file.
#[must_use]
pub fn parse_checksum(text: &str) -> Option<Digest> {
    text.split_whitespace().next()?.parse().ok()
}
