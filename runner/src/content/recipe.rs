//! How a tar is made of a skeleton and chunks.
//!
//! Three parts: `layout`, for each chunk the bytes of the skeleton before it and its own length, as LEB128 numbers in zstd; `ids`, the
//! identities of the chunks; `skeleton`, in zstd. The rest of the skeleton follows the last chunk.

use std::io::{self, Read, Write as _};

use tar::{EntryType, Header};
use zstd::stream::{read::Decoder, write::Encoder};

use wire::RecipeSizes;

use super::chunk::{ChunkId, MAX_CHUNK_BYTES, PlacedChunk, cut};

const BLOCK_BYTES: usize = 512;
/// The largest header that extends another one: more is no header.
const MAX_EXTENDED_BYTES: u64 = 1 << 20;
/// The largest skeleton, in bytes: more is content that was not understood.
const MAX_SKELETON_BYTES: u64 = 512 << 20;
/// The skeleton's headers are much alike, so much effort pays.
const LEVEL: i32 = 9;

/// How a tar is made of a skeleton and chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recipe {
    layout: Vec<u8>,
    ids: Vec<u8>,
    skeleton: Vec<u8>,
}

impl Recipe {
    pub(crate) fn sizes(&self) -> RecipeSizes {
        RecipeSizes { layout: self.layout.len(), ids: self.ids.len(), skeleton: self.skeleton.len() }
    }

    /// The parts, one after the other.
    pub(crate) fn parts(&self) -> [&[u8]; 3] {
        [&self.layout, &self.ids, &self.skeleton]
    }

    /// A recipe from its parts, one after the other.
    pub(crate) fn from_parts(sizes: RecipeSizes, mut bytes: Vec<u8>) -> io::Result<Self> {
        if sizes.total() != Some(bytes.len()) {
            return Err(invalid("its parts have other sizes"));
        }
        let skeleton = bytes.split_off(sizes.layout + sizes.ids);
        let ids = bytes.split_off(sizes.layout);
        Ok(Self { layout: bytes, ids, skeleton })
    }

    /// The chunks in their order.
    ///
    /// # Errors
    /// It is no recipe.
    pub(crate) fn chunks(&self) -> io::Result<Vec<PlacedChunk>> {
        let mut layout = io::BufReader::new(Decoder::with_buffer(self.layout.as_slice())?);
        let (ids, rest) = self.ids.as_chunks::<{ ChunkId::BYTES }>();
        let (mut chunks, mut end) = (Vec::with_capacity(ids.len()), 0_u64);
        for id in ids {
            let (before, length) = (read_number(&mut layout)?, read_number(&mut layout)?);
            let length =
                u32::try_from(length).ok().filter(|length| (1..=MAX_CHUNK_BYTES).contains(&(*length as usize)));
            let length = length.ok_or_else(|| invalid("a chunk has an impossible length"))?;
            let offset = end.checked_add(before).ok_or_else(|| invalid("a chunk is nowhere"))?;
            end = offset.checked_add(length.into()).ok_or_else(|| invalid("a chunk is nowhere"))?;
            chunks.push(PlacedChunk { offset, length, id: ChunkId::from_bytes(*id) });
        }
        if !rest.is_empty() || layout.read(&mut [0])? != 0 {
            return Err(invalid("its parts do not belong together"));
        }
        Ok(chunks)
    }

    /// Passes the skeleton of a tar of `tar_bytes` to `write`, in pieces with their offsets.
    ///
    /// # Errors
    /// It is no recipe of such a tar, or an error of `write`.
    pub(crate) fn place_skeleton(
        &self,
        chunks: &[PlacedChunk],
        tar_bytes: u64,
        mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut skeleton = Decoder::with_buffer(self.skeleton.as_slice())?;
        let mut piece = vec![0; MAX_CHUNK_BYTES];
        let gaps = chunks.iter().map(|chunk| (chunk.offset, chunk.offset + u64::from(chunk.length)));
        let mut from = 0;
        for (to, next) in gaps.chain([(tar_bytes, tar_bytes)]) {
            if to < from || next > tar_bytes {
                return Err(invalid("its tar is shorter"));
            }
            while from < to {
                let length = usize::try_from(to - from).unwrap_or(usize::MAX).min(piece.len());
                skeleton.read_exact(&mut piece[..length])?;
                write(from, &piece[..length])?;
                from += length as u64;
            }
            from = next;
        }
        if skeleton.read(&mut piece)? == 0 { Ok(()) } else { Err(invalid("its tar is longer")) }
    }
}

/// Takes a tar apart. None if it is mostly no tar.
///
/// # Errors
/// The reader's.
pub(crate) fn decompose(mut tar: impl Read) -> io::Result<Option<(Recipe, Vec<PlacedChunk>, u64)>> {
    let mut builder = RecipeBuilder::new()?;
    let is_understood = builder.read_all(&mut tar)?;
    let recipe = Recipe {
        layout: builder.layout.finish()?,
        ids: builder.chunks.iter().flat_map(|chunk| chunk.id.to_bytes()).collect(),
        skeleton: builder.skeleton.finish()?,
    };
    let is_small = recipe.sizes().total().is_some();
    Ok((is_understood && is_small).then_some((recipe, builder.chunks, builder.position)))
}

struct RecipeBuilder {
    layout: Encoder<'static, Vec<u8>>,
    skeleton: Encoder<'static, Vec<u8>>,
    skeleton_bytes: u64,
    chunks: Vec<PlacedChunk>,
    /// Where the next byte of the tar is, and where the last chunk ended.
    position: u64,
    last_end: u64,
}

impl RecipeBuilder {
    fn new() -> io::Result<Self> {
        let encoder = || Encoder::new(Vec::new(), LEVEL);
        let (layout, skeleton) = (encoder()?, encoder()?);
        Ok(Self { layout, skeleton, skeleton_bytes: 0, chunks: Vec::new(), position: 0, last_end: 0 })
    }

    /// Reads to the end of the tar. Returns whether it was understood; if not, there is more.
    fn read_all(&mut self, tar: &mut impl Read) -> io::Result<bool> {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        loop {
            block.clear();
            tar.take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
            self.add_skeleton(&block)?;
            let Some((kind, size)) = entry(&block) else { break };
            let padded = size.checked_next_multiple_of(BLOCK_BYTES as u64).unwrap_or(u64::MAX);
            let is_extension = kind.is_pax_local_extensions()
                || kind.is_pax_global_extensions()
                || kind.is_gnu_longname()
                || kind.is_gnu_longlink();
            if is_extension && size <= MAX_EXTENDED_BYTES {
                self.copy_to_skeleton(tar, padded)?;
            } else {
                cut(&mut *tar, size, |chunk| self.add_chunk(chunk))?;
                self.copy_to_skeleton(tar, padded - size)?;
            }
        }
        // The end marker, padding, or what is no tar.
        self.copy_to_skeleton(tar, u64::MAX)
    }

    /// Takes up to `length` bytes as they are. Returns whether that is not too much.
    fn copy_to_skeleton(&mut self, tar: &mut impl Read, length: u64) -> io::Result<bool> {
        let (mut left, mut piece) = (length, [0; 8 << 10]);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let count = tar.read(&mut piece[..most])?;
            if count == 0 {
                break;
            }
            self.add_skeleton(&piece[..count])?;
            if self.skeleton_bytes > MAX_SKELETON_BYTES {
                return Ok(false);
            }
            left -= count as u64;
        }
        Ok(true)
    }

    fn add_skeleton(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.position += bytes.len() as u64;
        self.skeleton_bytes += bytes.len() as u64;
        self.skeleton.write_all(bytes)
    }

    fn add_chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        write_number(&mut self.layout, self.position - self.last_end)?;
        write_number(&mut self.layout, chunk.len() as u64)?;
        let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
        self.chunks.push(PlacedChunk { offset: self.position, length, id: ChunkId::of(chunk) });
        self.position += u64::from(length);
        self.last_end = self.position;
        Ok(())
    }
}

/// The kind and the size of the entry that a block begins; none if it begins none.
fn entry(block: &[u8]) -> Option<(EntryType, u64)> {
    if block.len() < BLOCK_BYTES || block.iter().all(|byte| *byte == 0) {
        return None;
    }
    let header = Header::from_byte_slice(block);
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    // The field of the checksum itself counts as spaces.
    let computed = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
    let is_header = header.cksum().is_ok_and(|written| written == computed);
    is_header.then(|| header.entry_size().ok().map(|size| (header.entry_type(), size))).flatten()
}

fn write_number(to: &mut impl io::Write, mut number: u64) -> io::Result<()> {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        to.write_all(&[if number == 0 { low } else { low | 0x80 }])?;
        if number == 0 {
            return Ok(());
        }
    }
}

fn read_number(from: &mut impl Read) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(invalid("a number is too long"))
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the list of an archive's chunks can't be used: {why}"))
}
