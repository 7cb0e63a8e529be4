//! The tar of an archive, rebuilt from what the host has and the chunks that it lacks.
//!
//! Invariant: each chunk is compared with its identity when it is written, wherever it comes from, and the whole with its hash before it
//! gets its name. What there is of it stays when the connection ends, so that only the rest is sent then. Deliberately absent: what the
//! entries of the tar are, which the strict extraction looks at.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs,
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use contract::hash::Blake3Hash;
use fetch::archive::DecodedArchive;
use serde::{Deserialize, Serialize};
use zstd::stream::write::Decoder;

use super::{seeds::Seeds, wire::OfferedArchive};
use crate::content::{Bitmap, ChunkId, MAX_CHUNK_BYTES, PlacedChunk, Recipe, RecipeSizes};

/// An archive that is being rebuilt.
pub(super) struct ArchiveRebuild {
    archive: OfferedArchive,
    sizes: RecipeSizes,
    /// The file of the tar, once it has begun.
    partial: Option<PathBuf>,
    state: RebuildState,
}

enum RebuildState {
    /// What there is of the recipe.
    Recipe(Vec<u8>),
    Chunks(Decoder<'static, ChunkWriter>),
    Failed,
}

/// What stands for an archive, as the store keeps it.
#[derive(Serialize, Deserialize)]
struct StoredTar {
    tar: Blake3Hash,
    archive: DecodedArchive,
}

impl ArchiveRebuild {
    /// The archive whose recipe arrives next.
    pub(super) fn new(archive: OfferedArchive, sizes: RecipeSizes) -> Self {
        let state = if sizes.total().is_some() { RebuildState::Recipe(Vec::new()) } else { RebuildState::Failed };
        Self { archive, sizes, partial: None, state }
    }

    /// Takes bytes of the recipe or of the missing chunks. It fails at its end.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        let received = match &mut self.state {
            RebuildState::Recipe(recipe) => {
                recipe.extend_from_slice(bytes);
                self.sizes.total().is_some_and(|total| recipe.len() <= total)
            }
            RebuildState::Chunks(chunks) => chunks.write_all(bytes).and_then(|()| chunks.flush()).is_ok(),
            RebuildState::Failed => true,
        };
        if !received {
            self.state = RebuildState::Failed;
        }
    }

    /// Begins the tar with all that the host has. Returns which chunks are missing. Blocks.
    pub(super) fn find_chunks(&mut self, seeds: &Seeds, folder: &Path) -> io::Result<Bitmap> {
        let RebuildState::Recipe(bytes) = std::mem::replace(&mut self.state, RebuildState::Failed) else {
            return Err(io::Error::other("there is no recipe"));
        };
        let recipe = Recipe::from_parts(self.sizes, bytes)?;
        let chunks = recipe.chunks()?;
        let path = self.partial.insert(folder.join(format!(".part-{}", self.archive.tar.hex_prefix(32))));
        let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let tar_bytes = self.archive.tar_bytes;
        // An earlier connection may have ended before all was there.
        let is_begun = file.metadata()?.len() == tar_bytes;
        file.set_len(tar_bytes)?;
        recipe.place_skeleton(&chunks, tar_bytes, |offset, piece| file.write_all_at(piece, offset))?;
        let mut buffer = vec![0; MAX_CHUNK_BYTES];
        let mut reader = seeds.reader();
        let (mut missing, mut copies) = (Vec::new(), HashMap::<_, Vec<u64>>::new());
        let mut is_missing = Vec::with_capacity(chunks.len());
        for chunk in &chunks {
            let buffer = &mut buffer[..chunk.length as usize];
            let is_there =
                is_begun && file.read_exact_at(buffer, chunk.offset).is_ok() && ChunkId::of(buffer) == chunk.id;
            let is_seed = !is_there && reader.read(chunk.id, buffer);
            if is_seed {
                file.write_all_at(buffer, chunk.offset)?;
            }
            // One that is missing in several places is sent once.
            let others = (!is_there && !is_seed).then(|| copies.entry((chunk.id, chunk.length)));
            is_missing.push(matches!(others, Some(Entry::Vacant(_))));
            match others {
                Some(Entry::Vacant(others)) => {
                    others.insert(Vec::new());
                    missing.push(*chunk);
                }
                Some(Entry::Occupied(mut others)) => others.get_mut().push(chunk.offset),
                None => {}
            }
        }
        let which = Bitmap::of(is_missing, |is_missing| is_missing);
        missing.reverse();
        let writer = ChunkWriter { file, missing, copies, arrived: Vec::new() };
        self.state = RebuildState::Chunks(Decoder::new(writer)?);
        Ok(which)
    }

    /// Stores the tar, which is complete. Blocks.
    pub(super) fn finish(&mut self, folder: &Path) -> io::Result<()> {
        let (RebuildState::Chunks(chunks), Some(path)) = (&self.state, &self.partial) else {
            return Err(io::Error::other("it could not be rebuilt"));
        };
        let ChunkWriter { missing, arrived, .. } = chunks.get_ref();
        if !missing.is_empty() || !arrived.is_empty() {
            return Err(io::Error::other("chunks are missing"));
        }
        let OfferedArchive { hash, tar, decoded, .. } = &self.archive;
        // Two chunks may have the same identity, and a file may have changed.
        if Blake3Hash::of_reader(fs::File::open(path)?)? != *tar {
            return Err(io::Error::other("the tar is another one"));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o400))?;
        fs::rename(path, tar_path(folder, tar))?;
        if let Some(archive) = decoded {
            let stored = StoredTar { tar: *tar, archive: archive.clone() };
            let json = serde_json::to_vec(&stored).map_err(io::Error::other)?;
            hostio::atomic_file::replace_unsynced_file(&record_path(folder, hash), &json)?;
        }
        Ok(())
    }

    /// Removes what there is of it.
    pub(super) fn remove(self) {
        if let Some(path) = self.partial {
            let _ = fs::remove_file(path);
        }
    }

    /// The tar that is stored for an archive, and what the archive was.
    pub(super) fn stored(folder: &Path, archive: &Blake3Hash) -> Option<(PathBuf, DecodedArchive)> {
        let json = fs::read(record_path(folder, archive)).ok()?;
        let StoredTar { tar, archive } = serde_json::from_slice(&json).ok()?;
        Some((tar_path(folder, &tar), archive))
    }
}

/// Writes the missing chunks to their places.
struct ChunkWriter {
    file: fs::File,
    /// The next one is the last of the list.
    missing: Vec<PlacedChunk>,
    /// Where else they are.
    copies: HashMap<(ChunkId, u32), Vec<u64>>,
    /// What there is of the next one.
    arrived: Vec<u8>,
}

impl io::Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(next) = self.missing.last() else {
            return if bytes.is_empty() { Ok(0) } else { Err(io::Error::other("more arrived than was missing")) };
        };
        let length = next.length as usize;
        let taken = bytes.len().min(length - self.arrived.len());
        self.arrived.extend_from_slice(&bytes[..taken]);
        if self.arrived.len() == length {
            if ChunkId::of(&self.arrived) != next.id {
                return Err(io::Error::other("another chunk arrived than was missing"));
            }
            let copies = self.copies.remove(&(next.id, next.length)).unwrap_or_default();
            for offset in copies.into_iter().chain([next.offset]) {
                self.file.write_all_at(&self.arrived, offset)?;
            }
            self.arrived.clear();
            self.missing.pop();
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tar_path(folder: &Path, tar: &Blake3Hash) -> PathBuf {
    folder.join(tar.hex_prefix(32))
}

/// The file that says which tar stands for an archive.
pub(super) fn record_path(folder: &Path, archive: &Blake3Hash) -> PathBuf {
    folder.join(format!("{}.json", archive.hex_prefix(32)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::{
        self,
        tests::{TestEntry, TestEntryKind, bodies_of, entries, noise, tar_of, write_release},
    };

    /// A host with a release, and what it gets.
    struct TestHost {
        folder: tempfile::TempDir,
    }

    impl TestHost {
        fn new(entries: &[TestEntry], bodies: &[Vec<u8>]) -> Self {
            let host = Self { folder: tempfile::tempdir().unwrap() };
            fs::create_dir(host.files()).unwrap();
            write_release(&host.release(), entries, bodies);
            host
        }

        fn files(&self) -> PathBuf {
            self.folder.path().join("files")
        }

        /// A folder that is called by the digest of its content alone needs no other proof.
        fn release(&self) -> PathBuf {
            self.folder.path().join("app/releases").join("a".repeat(64))
        }

        fn seeds(&self) -> Seeds {
            Seeds::find(&self.folder.path().join("app"), &self.folder.path().join("seeds"))
        }

        /// Sends the recipe of a tar. Returns what is being rebuilt, and the chunks that are missing.
        fn offer(&self, tar: &[u8], seeds: &Seeds) -> (ArchiveRebuild, Vec<PlacedChunk>) {
            let (recipe, chunks, tar_bytes) = content::decompose(tar).unwrap().unwrap();
            let (hash, tar) = (Blake3Hash::of(b"the archive"), Blake3Hash::of(tar));
            let mut rebuild =
                ArchiveRebuild::new(OfferedArchive { hash, tar, tar_bytes, decoded: None }, recipe.sizes());
            recipe.parts().concat().chunks(100).for_each(|piece| rebuild.receive(piece));
            let missing = rebuild.find_chunks(seeds, &self.files()).unwrap();
            let all = chunks.into_iter().enumerate();
            (rebuild, all.filter(|(position, _)| missing.contains(*position)).map(|(_, chunk)| chunk).collect())
        }

        /// The tar that is stored now.
        fn stored(&self, tar: &[u8]) -> Vec<u8> {
            fs::read(tar_path(&self.files(), &Blake3Hash::of(tar))).unwrap()
        }

        fn assert_empty(&self) {
            assert_eq!(fs::read_dir(self.files()).unwrap().count(), 0);
        }
    }

    /// Chunks of a tar, as they are sent.
    fn compressed(tar: &[u8], chunks: &[PlacedChunk]) -> Vec<u8> {
        let content = chunks.iter().flat_map(|chunk| &tar[chunk.offset as usize..][..chunk.length as usize]);
        zstd::encode_all(content.copied().collect::<Vec<_>>().as_slice(), 3).unwrap()
    }

    fn file(name: &str, seed: u64, size: usize) -> TestEntry {
        TestEntry { name: name.to_owned(), kind: TestEntryKind::File, body: (seed, size) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever was changed since the release that the host has: what is sent and what is there make the tar.
        #[test]
        fn tar_is_rebuilt_after_any_edit(
            entries in entries(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..4),
            piece in 1..5_000_usize,
        ) {
            let mut bodies = bodies_of(&entries);
            let host = TestHost::new(&entries, &bodies);
            for (entry, position, byte) in edits.iter().filter(|_| !entries.is_empty()) {
                let body = entry.get(&bodies).len();
                if body > 0 {
                    bodies[entry.index(entries.len())][position.index(body)] ^= byte;
                }
            }
            let tar = tar_of(&entries, &bodies, 5);
            let (mut rebuild, missing) = host.offer(&tar, &host.seeds());
            compressed(&tar, &missing).chunks(piece).for_each(|piece| rebuild.receive(piece));
            rebuild.finish(&host.files()).unwrap();
            prop_assert_eq!(host.stored(&tar), tar);
            if edits.is_empty() && entries.iter().all(|entry| entry.kind != TestEntryKind::Sparse) {
                prop_assert_eq!(missing, []);
            }
        }
    }

    /// A file of an earlier release changes after it was read: its chunks are missing then, and the tar is right.
    #[test]
    fn a_seed_that_changes_is_no_seed() {
        let entries =
            [file("one", 1, 200_000), file("two", 2, 30_000), file("three", 3, 30_000), file("four", 4, 9_000)];
        let bodies = bodies_of(&entries);
        let host = TestHost::new(&entries, &bodies);
        let seeds = host.seeds();
        assert_eq!(seeds.bytes(), 269_000);
        let (one, two, three) = (host.release().join("one"), host.release().join("two"), host.release().join("three"));
        let mut changed = bodies[0].clone();
        changed[100_000] ^= 1;
        fs::write(one, changed).unwrap();
        fs::remove_file(&two).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &two,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        fs::write(three, "short").unwrap();
        let tar = tar_of(&entries, &bodies, 5);
        let (mut rebuild, missing) = host.offer(&tar, &seeds);
        assert!((3..=4).contains(&missing.len()), "{missing:?}");
        rebuild.receive(&compressed(&tar, &missing));
        rebuild.finish(&host.files()).unwrap();
        assert_eq!(host.stored(&tar), tar);
    }

    /// The connection ends when some chunks have arrived: the next one needs the others only.
    #[test]
    fn what_has_arrived_is_not_sent_again() {
        let entries: Vec<_> = (0..20).map(|n| file(&format!("file-{n}"), n, 20_000)).collect();
        let bodies = bodies_of(&entries);
        let host = TestHost::new(&[], &[]);
        let tar = tar_of(&entries, &bodies, 5);
        let (mut rebuild, missing) = host.offer(&tar, &Seeds::default());
        assert_eq!(missing.len(), 20);
        let sent = compressed(&tar, &missing);
        rebuild.receive(&sent[..sent.len() / 2]);
        assert!(rebuild.finish(&host.files()).is_err());
        drop(rebuild);
        let (mut rebuild, missing) = host.offer(&tar, &Seeds::default());
        assert!((8..=14).contains(&missing.len()), "{}", missing.len());
        rebuild.receive(&compressed(&tar, &missing));
        rebuild.finish(&host.files()).unwrap();
        assert_eq!(host.stored(&tar), tar);
    }

    /// A chunk that is missing in several places is sent once.
    #[test]
    fn the_same_content_is_sent_once() {
        let entries =
            [file("one", 1, 20_000), file("two", 2, 20_000), file("three", 1, 20_000), file("four", 1, 20_000)];
        let host = TestHost::new(&[], &[]);
        let tar = tar_of(&entries, &bodies_of(&entries), 5);
        let (mut rebuild, missing) = host.offer(&tar, &Seeds::default());
        assert_eq!(missing.len(), 2);
        rebuild.receive(&compressed(&tar, &missing));
        rebuild.finish(&host.files()).unwrap();
        assert_eq!(host.stored(&tar), tar);
    }

    /// Chunks that are others, damaged, too many or too few store nothing; and neither does a tar that is another one in the end.
    #[test]
    fn nothing_wrong_is_stored() {
        let entries = [file("one", 1, 20_000), file("two", 2, 20_000)];
        let bodies = bodies_of(&entries);
        let host = TestHost::new(&[], &[]);
        let tar = tar_of(&entries, &bodies, 5);
        let right = host.offer(&tar, &Seeds::default()).1;
        let swapped = [right[1], right[0]];
        let more = [right[0], right[1], right[1]];
        let all = compressed(&tar, &right);
        let broken: Vec<u8> = all.iter().map(|byte| byte ^ 0x55).collect();
        for sent in [
            compressed(&tar, &swapped),
            compressed(&tar, &more),
            broken,
            all[..all.len() - 9_000].to_vec(),
            noise(1, 50),
        ] {
            let (mut rebuild, missing) = host.offer(&tar, &Seeds::default());
            assert_eq!(missing.len(), 2);
            rebuild.receive(&sent);
            assert!(rebuild.finish(&host.files()).is_err());
            rebuild.remove();
            host.assert_empty();
        }
        let (recipe, ..) = content::decompose(tar.as_slice()).unwrap().unwrap();
        let another = OfferedArchive {
            hash: Blake3Hash::of(b"the archive"),
            tar: Blake3Hash::of(b"another tar"),
            tar_bytes: tar.len() as u64,
            decoded: None,
        };
        let mut rebuild = ArchiveRebuild::new(another, recipe.sizes());
        rebuild.receive(&recipe.parts().concat());
        rebuild.find_chunks(&Seeds::default(), &host.files()).unwrap();
        rebuild.receive(&compressed(&tar, &right));
        assert!(rebuild.finish(&host.files()).is_err());
        rebuild.remove();
        host.assert_empty();
    }

    /// The list of a release's chunks is kept, and goes with the release.
    #[test]
    fn releases_are_read_once() {
        let entries = [file("one", 1, 20_000)];
        let host = TestHost::new(&entries, &bodies_of(&entries));
        let lists = || {
            let folder = fs::read_dir(host.folder.path().join("seeds")).unwrap().next().unwrap().unwrap().path();
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        };
        assert_eq!(host.seeds().bytes(), 20_000);
        assert_eq!(lists().len(), 1);
        // What was read is not read again.
        fs::write(&lists()[0], r#"[{"path":"one","chunks":[[7,1]]}]"#).unwrap();
        assert_eq!(host.seeds().bytes(), 7);
        fs::write(&lists()[0], "damaged").unwrap();
        assert_eq!(host.seeds().bytes(), 20_000);
        fs::remove_dir_all(host.release()).unwrap();
        assert_eq!(host.seeds().bytes(), 0);
        assert!(lists().is_empty());
    }
}
