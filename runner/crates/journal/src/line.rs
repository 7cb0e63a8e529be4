//! The bytes of a [`JournalEntry`]: `<crc32c, 8 hex digits> <json>\n`.
//!
//! A line that ends in a newline is complete or corrupt; the bytes after the last newline are a torn line, and dropped. CRC-32C
//! (Castagnoli, RFC 3720) finds every flipped bit. The next line names the BLAKE3 hash of a line, without its newline, as
//! `prev`. Deliberately absent: the meaning of an entry.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::event::{JournalEntry, JournalEvent, JournalFormat, MAGIC};
use contract::hash::Blake3Hash;

/// The longest line, newline excluded, in bytes.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// An entry whose event is not decoded.
#[derive(Deserialize)]
struct Envelope {
    seq: u64,
    prev: Option<Blake3Hash>,
    at: Timestamp,
    event: Value,
}

/// The reason for which a complete line is not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("it does not have the form `<crc32c> <json>`")]
    Malformed,
    #[error("its stated checksum is {stated:08x}, but its content has {actual:08x}")]
    Checksum { stated: u32, actual: u32 },
    #[error("its content can't be read: {0}")]
    Json(String),
}

/// A complete line with its newline, and its hash.
pub struct EncodedLine {
    pub bytes: Vec<u8>,
    pub hash: Blake3Hash,
}

/// Encodes an entry as a line.
#[must_use]
pub fn encode(entry: &JournalEntry) -> EncodedLine {
    let json = serde_json::to_vec(entry).expect("an entry has only text keys and finite numbers");
    let mut bytes = format!("{:08x} ", crc32c::crc32c(&json)).into_bytes();
    bytes.extend_from_slice(&json);
    let hash = Blake3Hash::of(&bytes);
    bytes.push(b'\n');
    EncodedLine { bytes, hash }
}

/// Decodes a line without its newline.
///
/// # Errors
/// [`LineError`] if [`encode`] did not write the line.
pub fn decode(line: &[u8]) -> Result<(JournalEntry, Blake3Hash), LineError> {
    let json = checksummed_json(line)?;
    let entry = serde_json::from_slice(json).map_err(|error| LineError::Json(error.to_string()))?;
    Ok((entry, Blake3Hash::of(line)))
}

/// Decodes a line of a newer minor format: an event that this runner can't read is [`JournalEvent::Unrecognized`].
///
/// # Errors
/// [`LineError`] if no runner wrote the line.
pub fn decode_newer(line: &[u8]) -> Result<(JournalEntry, Blake3Hash), LineError> {
    decode(line).or_else(|error| {
        let LineError::Json(_) = &error else { return Err(error) };
        let Envelope { seq, prev, at, event } =
            serde_json::from_slice(checksummed_json(line)?).map_err(|_| error.clone())?;
        // A newer runner tags its events too.
        if !event["type"].is_string() {
            return Err(error);
        }
        Ok((JournalEntry { seq, prev, at, event: JournalEvent::Unrecognized }, Blake3Hash::of(line)))
    })
}

/// The format that a header states, even if its major version is unknown and the rest cannot be read.
#[must_use]
pub fn stated_format(line: &[u8]) -> Option<JournalFormat> {
    let mut header: Value = serde_json::from_slice(checksummed_json(line).ok()?).ok()?;
    let event = header.get_mut("event").filter(|event| event["magic"] == MAGIC)?;
    serde_json::from_value(event["format"].take()).ok()
}

/// The JSON of a line whose checksum is right.
fn checksummed_json(line: &[u8]) -> Result<&[u8], LineError> {
    let (sum, json) = line.split_at_checked(9).ok_or(LineError::Malformed)?;
    let is_lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !sum[..8].iter().all(is_lower_hex) || sum[8] != b' ' {
        return Err(LineError::Malformed);
    }
    let digits = std::str::from_utf8(&sum[..8]).map_err(|_| LineError::Malformed)?;
    let stated = u32::from_str_radix(digits, 16).map_err(|_| LineError::Malformed)?;
    let actual = crc32c::crc32c(json);
    if stated != actual {
        return Err(LineError::Checksum { stated, actual });
    }
    Ok(json)
}
