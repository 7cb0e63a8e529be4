//! Chunks: how content is cut, and what a chunk is called.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

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
