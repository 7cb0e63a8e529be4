//! Chunks: how content is cut, and what a chunk is called.

use std::io::{self, Read};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use contract::hash::Blake3Hash;
use fastcdc::v2020::StreamCDC;

/// The largest chunk, and the largest body that is not cut, in bytes.
pub(crate) const MAX_CHUNK_BYTES: usize = 64 << 10;
const AVERAGE_CHUNK_BYTES: usize = 16 << 10;
const MIN_CHUNK_BYTES: usize = 4 << 10;

/// The first bytes of a chunk's BLAKE3 hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ChunkId(u64);

impl ChunkId {
    pub(crate) const BYTES: usize = 8;

    pub(crate) fn of(chunk: &[u8]) -> Self {
        Self::from_bytes(Blake3Hash::of(chunk).first_bytes())
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        self.0.to_be_bytes()
    }
}

/// A chunk, and where it is in its tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlacedChunk {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) id: ChunkId,
}

/// Cuts the next `length` bytes of a reader into chunks. It may have fewer.
///
/// # Errors
/// The reader's, or an error of `each`.
pub(crate) fn cut(reader: impl Read, length: u64, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut reader = reader.take(length);
    if length > MAX_CHUNK_BYTES as u64 {
        for chunk in StreamCDC::new(reader, MIN_CHUNK_BYTES, AVERAGE_CHUNK_BYTES, MAX_CHUNK_BYTES) {
            each(&chunk?.data)?;
        }
        return Ok(());
    }
    let mut whole = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    reader.read_to_end(&mut whole)?;
    if whole.is_empty() { Ok(()) } else { each(&whole) }
}

/// A choice of some things in a list, by their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap(Vec<u8>);

impl Bitmap {
    /// The choice of things for which `is_chosen` holds.
    pub(crate) fn of<T>(things: impl IntoIterator<Item = T>, mut is_chosen: impl FnMut(T) -> bool) -> Self {
        let mut bytes = Vec::new();
        for (position, thing) in things.into_iter().enumerate() {
            if position % 8 == 0 {
                bytes.push(0);
            }
            if is_chosen(thing) {
                bytes[position / 8] |= 1 << (position % 8);
            }
        }
        Self(bytes)
    }

    /// Whether it chooses the thing at a position. Nothing beyond its end is chosen.
    pub(crate) fn contains(&self, position: usize) -> bool {
        self.0.get(position / 8).is_some_and(|byte| byte >> (position % 8) & 1 == 1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

impl Serialize for Bitmap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bitmap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BASE64_STANDARD.decode(String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}
