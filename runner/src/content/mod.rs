//! The content of archives, in chunks: what coordinator and agent both know of it.
//!
//! A tar is a *skeleton* (headers, padding, the end) with the bodies of files in between. Bodies are cut into chunks where their content
//! says so, so that a file that changed a little has most of its chunks in common with its earlier self. A [`Recipe`] says how a tar is
//! made of a skeleton and chunks. Both ends cut in the same way, so chunks of a release that a host has need not be sent again. After
//! tar-split, and FastCDC (Xia et al. 2020).
//!
//! Invariant: a recipe gives back every byte of its tar, whatever the tar is; a tar that is not understood is skeleton. An identity of
//! 8 bytes is no proof: who rebuilds a tar compares its hash. Deliberately absent: files, hosts, and what an entry of a tar means.

mod chunk;
mod recipe;

pub(crate) use chunk::{ChunkId, MAX_CHUNK_BYTES, PlacedChunk, cut};
pub(crate) use recipe::{Recipe, decompose};
pub(crate) use wire::{Bitmap, RecipeSizes};

#[cfg(test)]
pub(crate) mod tests;
