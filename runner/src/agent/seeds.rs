//! What a host has of earlier releases: the chunks of their files, and where they are.
//!
//! The files of a release are read and cut once; their chunks are kept in a file for the folder of that release. Invariant: a chunk is
//! compared with its identity whenever it is read, so files may change, or be anything, at any time. Deliberately absent: which
//! release is live.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use contract::hash::Blake3Hash;
use serde::{Deserialize, Serialize};

use super::cleanup::mark_as_used;
use crate::{
    content::{ChunkId, cut},
    deploy::release_folders,
};

/// How many releases are looked at, the newest ones.
const MAX_FOLDERS: usize = 3;
/// The most files of a release that are looked at.
const MAX_FILES: usize = 200_000;

/// The chunks that a host has.
#[derive(Default)]
pub(super) struct Seeds {
    files: Vec<PathBuf>,
    places: HashMap<ChunkId, SeedPlace>,
    bytes: u64,
}

/// Where a chunk is.
#[derive(Clone, Copy)]
struct SeedPlace {
    /// The position of its file.
    file: usize,
    offset: u64,
    length: u32,
}

/// A file of a release, and its chunks in their order.
#[derive(Serialize, Deserialize)]
struct SeedFile {
    path: String,
    chunks: Vec<(u32, ChunkId)>,
}

impl Seeds {
    /// The seeds in the directory that a step installs releases into. `cache` is where the chunks of each release are kept. Blocks.
    pub(super) fn find(dir: &Path, cache: &Path) -> Self {
        let releases = release_folders::list(dir).unwrap_or_default();
        let mut folders: Vec<_> = releases.into_iter().filter_map(|(path, _)| SeedFolder::new(path)).collect();
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.changed));
        folders.truncate(MAX_FOLDERS);
        // The lists of a directory are together, so that those of removed releases can go.
        let cache = cache.join(Blake3Hash::of(dir.as_os_str().as_encoded_bytes()).hex_prefix(16));
        let mut seeds = Self::default();
        for folder in &folders {
            seeds.add(folder, &cache);
        }
        let lists: Vec<_> = folders.iter().map(SeedFolder::list_name).collect();
        // If it can't be marked, the releases are read again after a month.
        let _ = mark_as_used(&cache);
        for entry in fs::read_dir(&cache).into_iter().flatten().flatten() {
            if !lists.iter().any(|list| entry.file_name() == list.as_str()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        seeds
    }

    /// How much content they are, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A reader of them.
    pub(super) fn reader(&self) -> SeedReader<'_> {
        SeedReader { seeds: self, open: None }
    }

    fn add(&mut self, folder: &SeedFolder, cache: &Path) {
        let list = cache.join(folder.list_name());
        let known = fs::read(&list).ok().and_then(|json| serde_json::from_slice(&json).ok());
        let files: Vec<SeedFile> = known.unwrap_or_else(|| {
            let files = folder.read();
            // What can't be kept is read again.
            let kept = fs::create_dir_all(cache).and_then(|()| {
                let json = serde_json::to_vec(&files).map_err(io::Error::other)?;
                hostio::atomic_file::replace_unsynced_file(&list, &json)
            });
            drop(kept);
            files
        });
        for SeedFile { path, chunks } in files {
            let (file, mut offset) = (self.files.len(), 0);
            self.files.push(folder.path.join(path));
            for (length, id) in chunks {
                self.places.entry(id).or_insert(SeedPlace { file, offset, length });
                offset += u64::from(length);
            }
            self.bytes += offset;
        }
    }
}

/// Reads chunks, of which many in a row are in one file.
pub(super) struct SeedReader<'s> {
    seeds: &'s Seeds,
    open: Option<(usize, fs::File)>,
}

impl SeedReader<'_> {
    /// Fills a buffer with a chunk. Returns whether the host has that chunk, and of that length.
    pub(super) fn read(&mut self, id: ChunkId, buffer: &mut [u8]) -> bool {
        let Some(SeedPlace { file, offset, length }) = self.seeds.places.get(&id).copied() else { return false };
        if length as usize != buffer.len() {
            return false;
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            self.open = open_regular(&self.seeds.files[file]).ok().map(|(opened, _)| (file, opened));
        }
        let Some((_, opened)) = &self.open else { return false };
        opened.read_exact_at(buffer, offset).is_ok() && ChunkId::of(buffer) == id
    }
}

/// The folder of a release, and what differs when it is another one.
struct SeedFolder {
    path: PathBuf,
    inode: (u64, u64),
    changed: (i64, i64),
}

impl SeedFolder {
    fn new(path: PathBuf) -> Option<Self> {
        let metadata = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_dir)?;
        let (inode, changed) = ((metadata.dev(), metadata.ino()), (metadata.ctime(), metadata.ctime_nsec()));
        Some(Self { path, inode, changed })
    }

    fn list_name(&self) -> String {
        let text = format!("{} {:?} {:?}", self.path.display(), self.inode, self.changed);
        format!("{}.json", Blake3Hash::of(text.as_bytes()).hex_prefix(32))
    }

    /// The chunks of all regular files; what can't be read is no seed.
    fn read(&self) -> Vec<SeedFile> {
        let (mut files, mut remaining) = (Vec::new(), vec![self.path.clone()]);
        while let Some(folder) = remaining.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => remaining.push(entry.path()),
                    Ok(kind) if kind.is_file() => files.extend(self.read_file(&entry.path()).ok().flatten()),
                    Ok(_) | Err(_) => {}
                }
                if files.len() >= MAX_FILES {
                    return files;
                }
            }
        }
        files
    }

    fn read_file(&self, path: &Path) -> io::Result<Option<SeedFile>> {
        let Some(inside) = path.strip_prefix(&self.path).ok().and_then(Path::to_str) else { return Ok(None) };
        let (file, length) = open_regular(path)?;
        let mut chunks = Vec::new();
        cut(file, length, |chunk| {
            chunks.push((u32::try_from(chunk.len()).map_err(io::Error::other)?, ChunkId::of(chunk)));
            Ok(())
        })?;
        Ok(Some(SeedFile { path: inside.to_owned(), chunks }))
    }
}

/// Opens a regular file; nothing else blocks or leads elsewhere.
fn open_regular(path: &Path) -> io::Result<(fs::File, u64)> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = fs::File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata.len())) } else { Err(io::Error::other("it is no regular file")) }
}
