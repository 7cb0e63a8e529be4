//! Images: upper layers replace and remove what lower ones have, and nothing leaves the folder.

use std::io::Read;

use super::*;

/// Layers in memory.
struct MemoryLayers {
    layers: Vec<Vec<u8>>,
    index: usize,
    position: usize,
}

impl Read for MemoryLayers {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = (&self.layers[self.index][self.position..]).read(buffer)?;
        self.position += count;
        Ok(count)
    }
}

impl LayerSource for MemoryLayers {
    fn begin_layer(&mut self) {
        (self.index, self.position) = (self.index + 1, 0);
    }
}

fn unpack_image(room: &ArchiveTestDir, layers: &[Vec<u8>]) -> Result<UnpackSummary, ArchiveError> {
    let digests: Vec<_> = layers.iter().map(|layer| digest(layer.as_slice()).unwrap()).collect();
    unpack_image_as(room, layers, &digests)
}

fn unpack_image_as(
    room: &ArchiveTestDir,
    layers: &[Vec<u8>],
    digests: &[Digest],
) -> Result<UnpackSummary, ArchiveError> {
    let described: Vec<_> = digests.iter().map(|digest| ImageLayer { digest, name: "layer" }).collect();
    let (limits, stop) = (ArchiveLimits::default(), AtomicBool::new(false));
    let job =
        UnpackJob { name: "", expected: &digests[0], decoded: None, limits: &limits, stop: &stop, progress: &|_| {} };
    let source = MemoryLayers { layers: layers.to_vec(), index: 0, position: 0 };
    unpack_layers(source, &described, &job, &room.dir, "new")
}

fn image(layers: &[Vec<u8>]) -> BTreeMap<String, (char, u32, String)> {
    let room = ArchiveTestDir::new();
    unpack_image(&room, layers).unwrap();
    assert_eq!(compare(&room.dir, "new").unwrap(), [""; 0], "its list says what is there");
    listing(&room.path("new"))
}

#[test]
fn upper_layers_replace_and_remove() {
    let lower = TestTarBuilder::new()
        .dir("bin")
        .file("bin/app", "one")
        .hard_link("bin/app2", "bin/app")
        .symlink("bin/run", "/bin/app")
        .hard_link("bin/also", "bin/run")
        .dir("doc")
        .file("doc/a", "a")
        .dir("doc/deep")
        .file("doc/deep/b", "b")
        .dir("cache")
        .file("cache/old", "old")
        .dir("cache/kept")
        .file("cache/kept/old", "old")
        .file("becomes-dir", "x")
        .dir("becomes-file")
        .file("becomes-file/x", "x")
        .file("gone", "x")
        .file("again", "1")
        .finish();
    let upper = TestTarBuilder::new()
        .file("bin/app", "two")
        .file(".wh.doc", "")
        .file("cache/kept/new", "new")
        .file("cache/.wh..wh..opq", "")
        .file("becomes-dir/y", "y")
        .finish();
    // A file where a directory goes to needs its own entry, as tools write it.
    let upper_with_dir = TestTarBuilder::new().dir("becomes-dir").finish();
    let last = TestTarBuilder::new()
        .file("becomes-file", "y")
        .file(".wh.gone", "")
        .file(".wh.again", "")
        .file("new", "n")
        .finish();
    let over = TestTarBuilder::new().file("again", "2").file(".wh.never-there", "").finish();
    let found = image(&[gzip(&lower), zstd(&upper_with_dir), upper, last, over]);
    let file = |text: &str| ('f', 0o644, text.to_owned());
    let (dir, link) = (('d', 0o755, String::new()), |to: &str| ('l', 0, to.to_owned()));
    let expected = [
        ("again", file("2")),
        ("becomes-dir", dir.clone()),
        ("becomes-dir/y", file("y")),
        ("becomes-file", file("y")),
        ("bin", dir.clone()),
        ("bin/also", link("../bin/app")),
        ("bin/app", file("two")),
        ("bin/app2", file("one")),
        ("bin/run", link("../bin/app")),
        ("cache", dir.clone()),
        ("cache/kept", dir),
        ("cache/kept/new", file("new")),
        ("new", file("n")),
    ];
    assert_eq!(found, expected.map(|(path, what)| (path.to_owned(), what)).into());
}

/// A whiteout is for lower layers only, wherever it stands in its own.
#[test]
fn whiteouts_spare_their_own_layer() {
    let lower = TestTarBuilder::new().file("d/a", "1").file("f", "1").finish();
    for upper in [
        TestTarBuilder::new().file("d/b", "2").file("f", "2").file("d/.wh..wh..opq", "").file(".wh.f", "").finish(),
        TestTarBuilder::new().file("d/.wh..wh..opq", "").file(".wh.f", "").file("d/b", "2").file("f", "2").finish(),
    ] {
        let found = image(&[lower.clone(), upper]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["d", "d/b", "f"]);
        assert_eq!(found["f"].2, "2");
    }
    let whole = TestTarBuilder::new().file(".wh..wh..opq", "").file("only", "2").finish();
    assert_eq!(image(&[lower, whole]).keys().collect::<Vec<_>>(), ["only"]);
}

#[test]
fn images_have_what_archives_may_not() {
    let layer = TestTarBuilder::new()
        .entry(EntryType::Regular, b"bin/su", 0o4755, b"", b"x")
        .entry(EntryType::Directory, b"tmp", 0o1777, b"", b"")
        .entry(EntryType::Char, b"dev/null", 0o666, b"", b"")
        .entry(EntryType::Fifo, b"run/pipe", 0o666, b"", b"")
        .file("terminfo/E/x", "1")
        .file("terminfo/e/x", "2")
        .symlink("up", "../../../etc/passwd")
        .finish();
    let found = image(&[layer]);
    assert_eq!((found["bin/su"].1, found["tmp"].1), (0o755, 0o777));
    assert!(!found.contains_key("dev/null") && !found.contains_key("run/pipe"));
    assert_eq!((found["terminfo/E/x"].2.as_str(), found["terminfo/e/x"].2.as_str()), ("1", "2"));
    assert_eq!(found["up"].2, "etc/passwd");
}

#[test]
fn hostile_layers_are_refused_and_leave_nothing() {
    for (layers, refusal) in [
        (vec![TestTarBuilder::new().file("../x", "x").finish()], EntryRefusal::ParentComponent),
        (vec![TestTarBuilder::new().file("/x", "x").finish()], EntryRefusal::Absolute),
        (vec![TestTarBuilder::new().file(".pawl-files", "x").finish()], EntryRefusal::Reserved),
        (
            vec![
                TestTarBuilder::new().symlink("d", "/etc").finish(),
                TestTarBuilder::new().file("d/passwd", "x").finish(),
            ],
            EntryRefusal::BelowLink("d".to_owned()),
        ),
        (
            vec![
                TestTarBuilder::new().symlink("d", "/").finish(),
                TestTarBuilder::new().hard_link("h", "d/x").finish(),
            ],
            EntryRefusal::HardLinkTargetMissing("d/x".to_owned()),
        ),
        // Links through links can only be judged together.
        (
            vec![
                TestTarBuilder::new().symlink("a", ".").finish(),
                TestTarBuilder::new().symlink("out", "a/..").finish(),
            ],
            EntryRefusal::TargetOutside("a/..".to_owned()),
        ),
    ] {
        let room = ArchiveTestDir::new();
        match unpack_image(&room, &layers).unwrap_err() {
            ArchiveError::Refused { refusal: found, .. } => assert_eq!(found, refusal),
            other => panic!("{other}"),
        }
        room.assert_untouched();
    }
}

#[test]
fn every_layer_is_verified() {
    let layers = [TestTarBuilder::new().file("a", "1").finish(), TestTarBuilder::new().file("b", "2").finish()];
    let right = layers.each_ref().map(|layer| digest(layer.as_slice()).unwrap());
    let other = digest(&b"other"[..]).unwrap();
    for digests in [[other.clone(), right[1].clone()], [right[0].clone(), other]] {
        let room = ArchiveTestDir::new();
        let error = unpack_image_as(&room, &layers, &digests).unwrap_err();
        assert!(matches!(error, ArchiveError::WrongDigest { .. }), "{error}");
        room.assert_untouched();
    }
    for broken in [layers[1][..700].to_vec(), b"PK\x05\x06".to_vec(), Vec::new()] {
        let room = ArchiveTestDir::new();
        unpack_image(&room, &[layers[0].clone(), broken]).unwrap_err();
        room.assert_untouched();
    }
}
