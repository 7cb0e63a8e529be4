//! Generated tars, taken apart and put together again.

use std::{fs, io::Write as _, path::Path};

use proptest::{collection, prelude::*};
use tar::{EntryType, Header};

use super::*;

/// An entry of a generated tar.
#[derive(Clone, Debug)]
pub(crate) struct TestEntry {
    pub(crate) name: String,
    pub(crate) kind: TestEntryKind,
    /// The seed of its body, and its size.
    pub(crate) body: (u64, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestEntryKind {
    File,
    /// With a pax header before it.
    PaxFile,
    Directory,
    Symlink,
    HardLink,
    /// An old header of GNU for a file with holes.
    Sparse,
}

/// Bytes that don't repeat, but are the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

pub(crate) fn entries() -> impl Strategy<Value = Vec<TestEntry>> {
    let kind = prop_oneof![
        6 => Just(TestEntryKind::File),
        2 => Just(TestEntryKind::PaxFile),
        1 => Just(TestEntryKind::Directory),
        1 => Just(TestEntryKind::Symlink),
        1 => Just(TestEntryKind::HardLink),
        1 => Just(TestEntryKind::Sparse),
    ];
    // Around the size above which bodies are cut, at the ends of blocks, and long names.
    let size = prop_oneof![0..2_000_usize, Just(512), 65_000..66_000_usize, 100_000..300_000_usize];
    let name = prop_oneof![4 => "[a-z]{1,20}", 1 => "[a-z]{90}/[a-z]{120}"];
    let entry = (name, kind, any::<u64>(), size);
    collection::vec(entry, 0..8).prop_map(|entries| {
        let numbered = entries.into_iter().enumerate();
        let entry = |(position, (name, kind, seed, size))| TestEntry {
            name: format!("{position}{name}"),
            kind,
            body: (seed, size),
        };
        numbered.map(entry).collect()
    })
}

/// A tar of these entries with these bodies, each changed at this time.
pub(crate) fn tar_of(entries: &[TestEntry], bodies: &[Vec<u8>], modified: u64) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (TestEntry { name, kind, .. }, body) in entries.iter().zip(bodies) {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(modified);
        header.set_size(body.len() as u64);
        match kind {
            TestEntryKind::File | TestEntryKind::PaxFile => {
                if *kind == TestEntryKind::PaxFile {
                    let time = format!("{modified}.25");
                    builder.append_pax_extensions([("mtime", time.as_bytes())]).unwrap();
                }
                builder.append_data(&mut header, name, body.as_slice()).unwrap();
            }
            TestEntryKind::Directory => {
                header.set_size(0);
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, format!("{name}/"), &[][..]).unwrap();
            }
            TestEntryKind::Symlink | TestEntryKind::HardLink => {
                header.set_size(0);
                let is_hard = *kind == TestEntryKind::HardLink;
                header.set_entry_type(if is_hard { EntryType::Link } else { EntryType::Symlink });
                builder.append_link(&mut header, name, "target".repeat(30)).unwrap();
            }
            TestEntryKind::Sparse => {
                header.set_entry_type(EntryType::GNUSparse);
                header.as_gnu_mut().unwrap().set_is_extended(true);
                header.set_cksum();
                // The blocks of a longer map are between header and body, and count for neither.
                let out = builder.get_mut();
                out.write_all(header.as_bytes()).unwrap();
                out.write_all(&[0; 512]).unwrap();
                out.write_all(body).unwrap();
                out.resize(out.len().next_multiple_of(512), 0);
            }
        }
    }
    builder.into_inner().unwrap()
}

pub(crate) fn bodies_of(entries: &[TestEntry]) -> Vec<Vec<u8>> {
    entries.iter().map(|entry| noise(entry.body.0, entry.body.1)).collect()
}

/// Writes the files of a release to a folder.
pub(crate) fn write_release(folder: &Path, entries: &[TestEntry], bodies: &[Vec<u8>]) {
    fs::create_dir_all(folder).unwrap();
    for (entry, body) in entries.iter().zip(bodies) {
        let path = folder.join(&entry.name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
    }
}

/// A tar that is put together from its recipe and its own chunks.
fn rebuilt(tar: &[u8]) -> Vec<u8> {
    let (recipe, chunks, tar_bytes) = decompose(tar).unwrap().unwrap();
    assert_eq!(tar_bytes, tar.len() as u64);
    let sent = Recipe::from_parts(recipe.sizes(), recipe.parts().concat()).unwrap();
    assert_eq!((sent.chunks().unwrap(), &sent), (chunks.clone(), &recipe));
    let mut built = vec![0xee; tar.len()];
    let place = |built: &mut Vec<u8>, offset: u64, bytes: &[u8]| {
        let offset = usize::try_from(offset).unwrap();
        built[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    sent.place_skeleton(&chunks, tar_bytes, |offset, piece| {
        place(&mut built, offset, piece);
        Ok(())
    })
    .unwrap();
    for chunk in &chunks {
        let from = usize::try_from(chunk.offset).unwrap();
        let bytes = &tar[from..from + chunk.length as usize];
        assert_eq!(ChunkId::of(bytes), chunk.id);
        place(&mut built, chunk.offset, bytes);
    }
    built
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn recipe_gives_back_every_byte(entries in entries(), modified in any::<u32>(), cut in any::<prop::sample::Index>(), edit in any::<(prop::sample::Index, u8)>()) {
        let mut tar = tar_of(&entries, &bodies_of(&entries), modified.into());
        prop_assert_eq!(&rebuilt(&tar), &tar);
        // A header may be damaged, and the end be missing.
        let position = edit.0.index(tar.len());
        tar[position] ^= edit.1;
        tar.truncate(cut.index(tar.len() + 1));
        prop_assert_eq!(&rebuilt(&tar), &tar);
    }

    #[test]
    fn bitmaps_are_read_back(chosen in collection::vec(any::<bool>(), 0..40)) {
        let bitmap = Bitmap::of(&chosen, |is_chosen| *is_chosen);
        let read: Bitmap = serde_json::from_str(&serde_json::to_string(&bitmap).unwrap()).unwrap();
        let all: Vec<bool> = (0..chosen.len()).map(|position| read.contains(position)).collect();
        prop_assert_eq!(read.is_empty(), !chosen.contains(&true));
        prop_assert!(!read.contains(chosen.len() + 8));
        prop_assert_eq!(all, chosen);
    }
}

#[test]
fn what_is_no_recipe_is_an_error() {
    let entries = [TestEntry { name: "a".to_owned(), kind: TestEntryKind::File, body: (7, 100_000) }];
    let tar = tar_of(&entries, &bodies_of(&entries), 1);
    let (recipe, chunks, tar_bytes) = decompose(tar.as_slice()).unwrap().unwrap();
    assert!(chunks.len() > 2 && chunks.iter().all(|chunk| chunk.length as usize <= MAX_CHUNK_BYTES));
    let parts = recipe.parts().concat();
    assert!(Recipe::from_parts(recipe.sizes(), parts[1..].to_vec()).is_err());
    let place = |chunks: &[PlacedChunk], tar_bytes| recipe.place_skeleton(chunks, tar_bytes, |_, _| Ok(()));
    assert!(place(&chunks, tar_bytes).is_ok());
    assert!(place(&chunks, tar_bytes - 512).is_err() && place(&chunks, tar_bytes + 512).is_err());
    assert!(place(&chunks[1..], tar_bytes).is_err());
    let damaged = parts.iter().enumerate().map(|(position, byte)| if position < 20 { !byte } else { *byte }).collect();
    assert!(Recipe::from_parts(recipe.sizes(), damaged).unwrap().chunks().is_err());
}

/// A change in the middle of a large file leaves the chunks around it as they are.
#[test]
fn an_insertion_changes_few_chunks() {
    let body = noise(3, 3_000_000);
    let mut changed = body.clone();
    changed.splice(1_500_000..1_500_000, *b"inserted");
    let ids = |body: &[u8]| {
        let mut ids = Vec::new();
        cut(body, body.len() as u64, |chunk| {
            ids.push(ChunkId::of(chunk));
            Ok(())
        })
        .unwrap();
        ids
    };
    let (before, after) = (ids(&body), ids(&changed));
    let new = after.iter().filter(|id| !before.contains(id)).count();
    assert!(before.len() > 60 && new <= 3, "{new} of {}", before.len());
}
