//! Archives on which readers disagree: wrong sizes, repeated headers, zips whose directory contradicts the entries,
//! endless streams.

use super::*;
use contract::step::FailureKind;

fn refused_entry(name: &str, archive: &[u8]) -> (String, EntryRefusal) {
    match failure(name, archive) {
        ArchiveError::Refused { entry, refusal } => (entry, refusal),
        other => panic!("{name}: {other:?}"),
    }
}

fn assert_bad(name: &str, archive: &[u8]) {
    let error = failure(name, archive);
    assert_eq!(error.kind(), FailureKind::BadContent, "{error}");
}

#[test]
fn the_last_path_record_is_checked() {
    // GNU's long name after pax's path, and the reverse: pax takes precedence, and is what is checked.
    let gnu = |name: &[u8]| (EntryType::GNULongName, [name, b"\0"].concat());
    for pax_first in [true, false] {
        let (kind, long) = gnu(b"fine");
        let tar = match pax_first {
            true => TestTarBuilder::new().pax("path", "../out").entry(kind, b"L", 0, b"", &long),
            false => TestTarBuilder::new().entry(kind, b"L", 0, b"", &long).pax("path", "../out"),
        };
        assert_eq!(
            refused_entry("a.tar", &tar.file("f", "").finish()),
            ("../out".to_owned(), EntryRefusal::ParentComponent)
        );
    }
    // Of several pax headers before an entry, the last counts; an empty value restores the header's own name.
    let twice = TestTarBuilder::new().pax("path", "fine").pax("path", "/abs").file("f", "").finish();
    assert_eq!(refused_entry("a.tar", &twice), ("/abs".to_owned(), EntryRefusal::Absolute));
    let back = TestTarBuilder::new().pax("path", "fine").pax("path", "").file("../f", "").finish();
    assert_eq!(refused_entry("a.tar", &back), ("../f".to_owned(), EntryRefusal::ParentComponent));
    let link = TestTarBuilder::new().pax("linkpath", "fine").pax("linkpath", "/etc").symlink("l", "fine").finish();
    assert_eq!(refused_entry("a.tar", &link), ("l".to_owned(), EntryRefusal::AbsoluteTarget("/etc".to_owned())));
    let hard = TestTarBuilder::new().file("f", "").pax("linkpath", "../f").hard_link("h", "f").finish();
    assert_eq!(refused_entry("a.tar", &hard), ("h".to_owned(), EntryRefusal::TargetOutside("../f".to_owned())));
    // A value with a newline is one value, not two records.
    let smuggled = TestTarBuilder::new().pax("comment", "x\n20 path=../outside\n").file("f", "").finish();
    ArchiveTestDir::new().unpack("a.tar", &smuggled, &ArchiveLimits::default()).unwrap();
    let newline = TestTarBuilder::new().pax("path", "a\nb").file("f", "").finish();
    assert_eq!(refused_entry("a.tar", &newline).1, EntryRefusal::ControlCharacter);
    // A NUL would end the name for the system, but not for the runner.
    let nul = TestTarBuilder::new().pax("path", "a\0b").file("f", "").finish();
    assert_eq!(refused_entry("a.tar", &nul).1, EntryRefusal::ControlCharacter);
}

#[test]
fn path_of_five_thousand_characters_is_refused() {
    let long = "d/".repeat(2500);
    for tar in [
        TestTarBuilder::new().pax("path", &long).dir("d"),
        TestTarBuilder::new()
            .entry(EntryType::GNULongName, b"L", 0, b"", format!("{long}x\0").as_bytes())
            .file("d", ""),
        TestTarBuilder::new().pax("linkpath", &long).symlink("l", "d"),
    ] {
        let tar = tar.finish();
        for (name, archive) in [("a.tar", tar.clone()), ("a.tar.gz", gzip(&tar)), ("a.tar.zst", zstd(&tar))] {
            let error = failure(name, &archive);
            assert!(matches!(error, ArchiveError::Limit { limit: ArchiveLimitKind::Path, max: 1024, .. }), "{error:?}");
            assert!(error.to_string().len() < 1000, "it is cut: {error}");
            assert_eq!(error.hint().unwrap(), "raise `max-path` if the archive is right");
        }
    }
    let error = failure("a.zip", &zip(&[TestZipEntry(long.as_bytes(), REGULAR, b"")]));
    assert!(matches!(error, ArchiveError::Limit { limit: ArchiveLimitKind::Path, .. }), "{error:?}");
}

#[test]
fn wrong_sizes_are_refused() {
    // A pax size overrides the header's, so the rest is misread as content or header.
    let hidden = TestTarBuilder::new().file("../outside", "owned").0;
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..1].copy_from_slice(b"f");
    header.set_mode(0o644);
    header.set_size(0);
    let tar = TestTarBuilder::new().pax("size", &hidden.len().to_string()).header(header, &hidden).finish();
    let room = ArchiveTestDir::new();
    room.unpack("a.tar", &tar, &ArchiveLimits::default()).unwrap();
    assert_eq!(fs::metadata(room.path("new/f")).unwrap().len(), hidden.len() as u64, "it is content, as pax says");
    assert!(room.temp.path().join("outside").exists());

    let shorter = TestTarBuilder::new().pax("size", "0").file("f", &"x".repeat(512)).finish();
    assert_bad("a.tar", &shorter);
    let mut base256 = Header::new_ustar();
    base256.as_mut_bytes()[..1].copy_from_slice(b"f");
    base256.set_mode(0o644);
    base256.as_mut_bytes()[124..136].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    let error = failure("a.tar", &TestTarBuilder::new().header(base256.clone(), b"").finish());
    assert!(matches!(error.kind(), FailureKind::BadContent | FailureKind::Limit), "{error}");
    base256.as_mut_bytes()[124..136].copy_from_slice(b"7x7         ");
    assert_bad("a.tar", &TestTarBuilder::new().header(base256, b"").finish());
    let past = TestTarBuilder::new().pax("size", "18446744073709551615").file("f", "").finish();
    assert!(matches!(failure("a.tar", &past), ArchiveError::Limit { limit: ArchiveLimitKind::Bytes, .. }));
    let beyond = TestTarBuilder::new().pax("size", "18446744073709551616").file("f", "").finish();
    assert_bad("a.tar", &beyond);
}

#[test]
fn sparse_files_are_refused() {
    for key in ["GNU.sparse.major", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.realsize", "GNU.sparse.name"] {
        let tar = TestTarBuilder::new().pax(key, "1").file("sparse", "map").finish();
        assert_eq!(refused_entry("a.tar", &tar), ("sparse".to_owned(), EntryRefusal::Sparse), "{key}");
    }
    // The real name is elsewhere; the entry is refused before that.
    let tar = TestTarBuilder::new().pax("GNU.sparse.name", "../outside").file("GNUSparseFile.1/x", "").finish();
    assert_eq!(refused_entry("a.tar", &tar).1, EntryRefusal::Sparse);
}

#[test]
fn names_that_collide_on_some_file_system_are_refused() {
    // `é` as one character or two: the same name on a Mac.
    for (first, second) in
        [("caf\u{e9}", "cafe\u{301}"), ("\u{1e69}", "s\u{307}\u{323}"), ("\u{ac00}", "\u{1100}\u{1161}")]
    {
        let collision = EntryRefusal::NormalizationCollision(first.to_owned());
        let tar = TestTarBuilder::new().file(first, "1").file(second, "2").finish();
        assert_eq!(refused_entry("a.tar", &tar), (second.to_owned(), collision.clone()));
        let both =
            zip(&[TestZipEntry(first.as_bytes(), REGULAR, b"1"), TestZipEntry(second.as_bytes(), REGULAR, b"2")]);
        assert_eq!(refused_entry("a.zip", &both).1, collision);
        let folders = TestTarBuilder::new().file(&format!("{first}/x"), "1").file(&format!("{second}/y"), "2").finish();
        assert_eq!(refused_entry("a.tar", &folders).1, collision);
    }
    for (first, second) in [("stra\u{df}e", "STRA\u{1e9e}E"), ("\u{212b}ngstrom", "\u{e5}ngstrom")] {
        let tar = TestTarBuilder::new().file(first, "1").file(second, "2").finish();
        assert_eq!(refused_entry("a.tar", &tar).1, EntryRefusal::CaseCollision(first.to_owned()));
    }
    // A link that leads out through another one, in a different spelling.
    let tar = TestTarBuilder::new().symlink("a/b/up", "../..").symlink("a/out", "b/UP/../outside").finish();
    assert_eq!(
        refused_entry("a.tar", &tar),
        ("a/out".to_owned(), EntryRefusal::TargetOutside("b/UP/../outside".to_owned()))
    );
}

#[test]
fn invalid_names_are_refused() {
    for name in [".", "./", "", "/", "//"] {
        let tar = TestTarBuilder::new()
            .pax("comment", "x")
            .entry(EntryType::Regular, name.as_bytes(), 0o644, b"", b"1")
            .finish();
        let error = failure("a.tar", &tar);
        assert_eq!(error.kind(), FailureKind::BadContent, "{name:?}: {error}");
    }
    for name in [&b"."[..], b""] {
        let error = failure("a.zip", &zip(&[TestZipEntry(name, REGULAR, b"1")]));
        assert_eq!(error.kind(), FailureKind::BadContent, "{error}");
    }
    for name in [&b"/abs"[..], b"//server/share", b"C:\\x", b"a\\..\\..\\x"] {
        let error = failure("a.zip", &zip(&[TestZipEntry(name, REGULAR, b"1")]));
        assert!(matches!(error, ArchiveError::Refused { .. }), "{error:?}");
    }
    let tar = TestTarBuilder::new().symlink("l", "f").file("f", "").hard_link("h", "l").finish();
    assert_eq!(refused_entry("a.tar", &tar), ("h".to_owned(), EntryRefusal::HardLinkTargetMissing("l".to_owned())));
}

/// The position of a zip's central directory.
fn central(zip: &[u8]) -> usize {
    zip.windows(4).position(|window| window == b"PK\x01\x02").unwrap()
}

#[test]
fn contradictory_zips_are_refused() {
    let good = zip(&[TestZipEntry(b"aaaa", REGULAR, b"first"), TestZipEntry(b"bbbb", REGULAR, b"other")]);
    let start = central(&good);
    // The name, size, method, checksum or position in the directory differs from the entry's.
    let mut renamed = good.clone();
    renamed[30..34].copy_from_slice(b"../x");
    let mut resized = good.clone();
    resized[start + 24] = 4;
    let mut repacked = good.clone();
    repacked[8] = 8;
    let mut summed = good.clone();
    summed[start + 16] ^= 1;
    let mut elsewhere = good.clone();
    elsewhere[start + 42] = 1;
    let mut beyond = good.clone();
    beyond[start + 42..start + 46].copy_from_slice(&u32::MAX.to_le_bytes());
    // Two entries that share bytes: a bomb that multiplies.
    let mut overlapping = good.clone();
    let second = start + 46 + 4;
    overlapping[second + 42..second + 46].copy_from_slice(&0_u32.to_le_bytes());
    let end = good.len() - 22;
    let mut fewer = good.clone();
    fewer[end + 8] = 1;
    fewer[end + 10] = 1;
    let mut more = good.clone();
    more[end + 8] = 3;
    more[end + 10] = 3;
    let mut directory = good.clone();
    directory[end + 16] ^= 4;
    for (what, archive) in [
        ("name", renamed),
        ("size", resized),
        ("method", repacked),
        ("check sum", summed),
        ("place", elsewhere),
        ("place beyond", beyond),
        ("overlap", overlapping),
        ("fewer entries", fewer),
        ("more entries", more),
        ("place of the directory", directory),
        ("bytes before", [b"MZ stub".to_vec(), good.clone()].concat()),
        ("two zips", [good.clone(), good.clone()].concat()),
    ] {
        let room = ArchiveTestDir::new();
        let error = room.unpack("a.zip", &archive, &ArchiveLimits::default()).map(drop).expect_err(what);
        room.assert_untouched();
        assert_eq!(error.kind(), FailureKind::BadContent, "{what}: {error}");
    }
    ArchiveTestDir::new().unpack("a.zip", &good, &ArchiveLimits::default()).unwrap();
}

#[test]
fn zip_with_data_descriptors_is_extracted() {
    struct UnseekableWriter(Vec<u8>);
    impl std::io::Write for UnseekableWriter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = ::zip::ZipWriter::new_stream(UnseekableWriter(Vec::new()));
    writer.start_file("streamed", ::zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(b"its size follows it").unwrap();
    writer.start_file("large", ::zip::write::SimpleFileOptions::default().large_file(true)).unwrap();
    writer.write_all(b"its size stands in the extra field").unwrap();
    let archive = writer.finish().unwrap().into_inner().0;
    let room = ArchiveTestDir::new();
    room.unpack("a.zip", &archive, &ArchiveLimits::default()).unwrap();
    assert_eq!(fs::read_to_string(room.path("new/streamed")).unwrap(), "its size follows it");
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("large", ::zip::write::SimpleFileOptions::default().large_file(true)).unwrap();
    writer.write_all(b"its size stands in the extra field").unwrap();
    let archive = writer.finish().unwrap().into_inner();
    ArchiveTestDir::new().unpack("a.zip", &archive, &ArchiveLimits::default()).unwrap();
}

#[test]
fn endless_streams_are_refused() {
    // Many empty members or frames: each has a header, and the ratio counts all.
    let empty = TestTarBuilder::new().finish();
    let many = |one: Vec<u8>| [gzip_or_zstd(&one, &empty), one.repeat(20_000)].concat();
    for (name, one) in [("a.tar.gz", gzip(&[0; 60_000])), ("a.tar.zst", zstd(&[0; 60_000]))] {
        let error = failure(name, &many(one));
        assert!(matches!(error, ArchiveError::Limit { limit: ArchiveLimitKind::Ratio, .. }), "{name}: {error:?}");
    }
    // Skippable frames produce nothing; their bytes count as the archive's own, which are limited.
    let skipped = [b"\x50\x2a\x4d\x18\xff\xff\xff\xff".to_vec(), vec![0; 100_000]].concat();
    let error = failure_within("a.tar.zst", &skipped, &ArchiveLimits { max_bytes: 50_000, ..ArchiveLimits::default() });
    assert!(matches!(error, ArchiveError::Limit { limit: ArchiveLimitKind::Bytes, .. }), "{error:?}");
    assert_bad("a.tar.zst", &skipped);
}

/// Packs `content` in the format of `like`.
fn gzip_or_zstd(like: &[u8], content: &[u8]) -> Vec<u8> {
    if like.starts_with(b"\x1f\x8b") { gzip(content) } else { zstd(content) }
}

#[test]
fn frame_that_needs_memory_or_a_dictionary_is_refused() {
    // RFC 8878, 3.1.1: no single segment, no checksum; a window of 2^41 bytes, then an empty last block.
    let window = b"\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00".to_vec();
    // The same with a dictionary of id 7.
    let dictionary = b"\x28\xb5\x2f\xfd\x01\x00\x07\x01\x00\x00".to_vec();
    for frame in [window, dictionary] {
        assert_bad("a.tar.zst", &frame);
        assert_bad("a.tar.zst", &[zstd(&TestTarBuilder::new().finish()), frame].concat());
    }
    // gzip with a header checksum flag, and a name and a comment that never end.
    for flags in [0x08, 0x10, 0x04] {
        assert_bad("a.tar.gz", &[&[0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3][..], &[b'x'; 70_000]].concat());
    }
}
