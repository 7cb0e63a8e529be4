//! How an [`Entry`] becomes bytes: `<crc32c, 8 hex digits> <json>\n`.
//!
//! A line that ends in a newline is whole or corrupt; what stands after the last newline is torn, and dropped. CRC-32C
//! (Castagnoli, RFC 3720) finds every flipped bit; the BLAKE3 hash of a line, newline excluded, is what the next line
//! names as `prev`. Deliberately absent: what an entry means.

use serde_json::Value;

use super::event::{Entry, Format, MAGIC};
use contract::hash::Hash;

/// The longest line, newline excluded, in bytes.
pub const LONGEST: usize = 64 * 1024;

/// Why a line with its newline is not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    #[error("it does not have the form `<crc32c> <json>`")]
    Form,
    #[error("its checksum is {stated:08x}, its content has {actual:08x}")]
    Checksum { stated: u32, actual: u32 },
    #[error("its content can't be read: {0}")]
    Json(String),
}

/// A whole line, newline included, and its hash.
pub struct Encoded {
    pub bytes: Vec<u8>,
    pub hash: Hash,
}

/// Writes an entry as a line.
#[must_use]
pub fn encode(entry: &Entry) -> Encoded {
    let json = serde_json::to_vec(entry).expect("an entry has only text keys and finite numbers");
    let mut bytes = format!("{:08x} ", crc32c::crc32c(&json)).into_bytes();
    bytes.extend_from_slice(&json);
    let hash = Hash::of(&bytes);
    bytes.push(b'\n');
    Encoded { bytes, hash }
}

/// Reads a line, newline excluded.
///
/// # Errors
/// [`Corrupt`] when it is anything but what [`encode`] wrote.
pub fn decode(line: &[u8]) -> Result<(Entry, Hash), Corrupt> {
    let json = checked(line)?;
    let entry = serde_json::from_slice(json).map_err(|error| Corrupt::Json(error.to_string()))?;
    Ok((entry, Hash::of(line)))
}

/// The format that a header states, also one of a major version in which the rest of it can't be read.
#[must_use]
pub fn stated_format(line: &[u8]) -> Option<Format> {
    let mut header: Value = serde_json::from_slice(checked(line).ok()?).ok()?;
    let event = header.get_mut("event").filter(|event| event["magic"] == MAGIC)?;
    serde_json::from_value(event["format"].take()).ok()
}

/// The JSON of a line whose checksum is right.
fn checked(line: &[u8]) -> Result<&[u8], Corrupt> {
    let (sum, json) = line.split_at_checked(9).ok_or(Corrupt::Form)?;
    let is_lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !sum[..8].iter().all(is_lower_hex) || sum[8] != b' ' {
        return Err(Corrupt::Form);
    }
    let digits = std::str::from_utf8(&sum[..8]).map_err(|_| Corrupt::Form)?;
    let stated = u32::from_str_radix(digits, 16).map_err(|_| Corrupt::Form)?;
    let actual = crc32c::crc32c(json);
    if stated != actual {
        return Err(Corrupt::Checksum { stated, actual });
    }
    Ok(json)
}
