//! Extracted content equals the packed content, in every format.

use super::*;

fn sample() -> Vec<u8> {
    TestTarBuilder::new()
        .dir("./")
        .entry(EntryType::Directory, b"locked/", 0o555, b"", b"")
        .file("locked/inside", "in a read-only directory")
        .entry(EntryType::Regular, b"bin/app", 0o755, b"", b"program")
        .file("./config.toml", "")
        .symlink("bin/run", "app")
        .symlink("up", "bin/../config.toml")
        .symlink("dangling", "later/made")
        .hard_link("bin/twin", "./bin/app")
        .file("with space and ünïcode", &"x".repeat(700_000))
        .finish()
}

fn assert_sample(room: &ArchiveTestDir, unpacked: UnpackSummary, archive: &[u8]) {
    let file = |mode, content: &str| ('f', mode, content.to_owned());
    let link = |target: &str| ('l', 0, target.to_owned());
    let dir = |mode| ('d', mode, String::new());
    let found = listing(&room.path("new"));
    let wanted = [
        ("bin", dir(0o755)),
        ("bin/app", file(0o755, "program")),
        ("bin/run", link("app")),
        ("bin/twin", file(0o755, "program")),
        ("config.toml", file(0o644, "")),
        ("dangling", link("later/made")),
        ("locked", dir(0o555)),
        ("locked/inside", file(0o644, "in a read-only directory")),
        ("up", link("bin/../config.toml")),
        ("with space and ünïcode", file(0o644, &"x".repeat(700_000))),
    ];
    assert_eq!(found, wanted.map(|(name, what)| (name.to_owned(), what)).into());
    for name in ["bin/app", "bin/run", "locked", "locked/inside", "."] {
        assert_eq!(fs::symlink_metadata(room.path("new").join(name)).unwrap().mtime(), 1_700_000_000, "{name}");
    }
    assert_eq!(
        fs::metadata(room.path("new/bin/app")).unwrap().ino(),
        fs::metadata(room.path("new/bin/twin")).unwrap().ino()
    );
    assert_eq!(unpacked, UnpackSummary { files: 8, bytes: 700_031, archive_bytes: archive.len() as u64 });
    assert_eq!(compare(&room.dir, "new").unwrap(), [""; 0]);
}

#[test]
fn tar_in_every_wrapping() {
    let tar = sample();
    let (left, right) = tar.split_at(5000);
    let loose = ArchiveLimits { max_ratio: 100_000, ..ArchiveLimits::default() };
    for (name, archive) in [
        ("a.tar", tar.clone()),
        ("a.tar.gz", gzip(&tar)),
        ("a.TGZ", gzip(&tar)),
        ("a.tar.zst", zstd(&tar)),
        ("no-suffix", tar.clone()),
        ("no-suffix", gzip(&tar)),
        ("no-suffix", zstd(&tar)),
        ("/download/a.tar.gz?token=a.zip", gzip(&tar)),
        ("members.tar.gz", [gzip(left), gzip(right)].concat()),
        ("frames.tar.zst", [zstd(left), b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), zstd(right)].concat()),
        ("padded.tar.gz", [gzip(&tar), vec![0; 3000]].concat()),
        ("padded.tar", [tar.clone(), vec![0; 9 * 512]].concat()),
    ] {
        let room = ArchiveTestDir::new();
        let unpacked = room.unpack(name, &archive, &loose).unwrap();
        assert_sample(&room, unpacked, &archive);
    }
}

#[test]
fn zip_stored() {
    let room = ArchiveTestDir::new();
    let archive = zip(&[
        TestZipEntry(b"bin/", 0o040_750 << 16, b""),
        TestZipEntry(b"bin/app", 0o100_755 << 16, b"program"),
        TestZipEntry(b"bin/run", 0o120_777 << 16, b"app"),
        TestZipEntry(b"by-dos", 0, b"no mode"),
        TestZipEntry(b"dir-by-dos/", 0x10, b""),
    ]);
    let unpacked = room.unpack("a.zip", &archive, &ArchiveLimits::default()).unwrap();
    assert_eq!(unpacked, UnpackSummary { files: 3, bytes: 14, archive_bytes: archive.len() as u64 });
    let found: Vec<_> = listing(&room.path("new")).into_iter().collect();
    assert_eq!(
        found,
        [
            ("bin", 'd', 0o750, ""),
            ("bin/app", 'f', 0o755, "program"),
            ("bin/run", 'l', 0, "app"),
            ("by-dos", 'f', 0o644, "no mode"),
            ("dir-by-dos", 'd', 0o755, ""),
        ]
        .map(|(name, kind, mode, content)| (name.to_owned(), (kind, mode, content.to_owned())))
    );
    assert_eq!(fs::metadata(room.path("new/by-dos")).unwrap().mtime(), 315_532_800, "1980-01-01");
    assert_eq!(compare(&room.dir, "new").unwrap(), [""; 0]);
    // The spool is gone: only the folder is there.
    assert_eq!(fs::read_dir(room.path(".")).unwrap().count(), 1);
}

#[test]
fn zip_deflated() {
    let room = ArchiveTestDir::new();
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let time = ::zip::DateTime::from_date_and_time(2024, 2, 29, 12, 30, 14).unwrap();
    let options = ::zip::write::SimpleFileOptions::default().last_modified_time(time).unix_permissions(0o640);
    let content: String = (0..200_000).map(|number: u32| number.to_string()).collect();
    writer.start_file("deep/numbers", options).unwrap();
    writer.write_all(content.as_bytes()).unwrap();
    writer.set_comment("a comment with PK\x05\x06 in it").unwrap();
    let archive = writer.finish().unwrap().into_inner();
    for name in ["a.zip", "no-suffix"] {
        let unpacked = room.unpack(name, &archive, &ArchiveLimits::default()).unwrap();
        assert_eq!((unpacked.files, unpacked.bytes), (1, content.len() as u64));
        assert_eq!(fs::read_to_string(room.path("new/deep/numbers")).unwrap(), content);
        let meta = fs::metadata(room.path("new/deep/numbers")).unwrap();
        assert_eq!((meta.mtime(), meta.permissions().mode() & 0o777), (1_709_209_814, 0o640));
        remove(&room.dir, "new").unwrap();
    }
}

#[test]
fn long_names_and_exact_times() {
    let room = ArchiveTestDir::new();
    let (pax, gnu, target) = ("p".repeat(150), format!("{}/g", "d".repeat(120)), "t".repeat(130));
    let archive = TestTarBuilder::new()
        .entry(EntryType::XGlobalHeader, b"g", 0, b"", pax_record("comment", "abc").as_bytes())
        .pax("path", &pax)
        .file("short", "by pax")
        .entry(EntryType::GNULongName, b"././@LongLink", 0, b"", format!("{gnu}\0").as_bytes())
        .file("short", "by gnu")
        .entry(EntryType::GNULongLink, b"././@LongLink", 0, b"", format!("{target}\0").as_bytes())
        .symlink("by-gnu", "t")
        .pax("linkpath", &target)
        .symlink("by-pax", "t")
        .pax("mtime", "1234.5")
        .file("exact", "")
        .pax("size", "3")
        .entry(EntryType::Continuous, b"sized", 0o600, b"", b"abc")
        .entry(EntryType::Regular, b"old-directory/", 0o755, b"", b"")
        .finish();
    room.unpack("a.tar", &archive, &ArchiveLimits::default()).unwrap();
    assert_eq!(fs::read_to_string(room.path("new").join(pax)).unwrap(), "by pax");
    assert_eq!(fs::read_to_string(room.path("new").join(gnu)).unwrap(), "by gnu");
    assert_eq!(fs::read_link(room.path("new/by-gnu")).unwrap().to_str(), Some(target.as_str()));
    assert_eq!(fs::read_link(room.path("new/by-pax")).unwrap().to_str(), Some(target.as_str()));
    let exact = fs::metadata(room.path("new/exact")).unwrap();
    assert_eq!((exact.mtime(), exact.mtime_nsec()), (1234, 500_000_000));
    assert_eq!(fs::read_to_string(room.path("new/sized")).unwrap(), "abc");
    assert!(room.path("new/old-directory").is_dir());
    assert_eq!(compare(&room.dir, "new").unwrap(), [""; 0]);
}

#[test]
fn empty_archives_and_directories_twice() {
    for (name, archive, files) in [
        ("a.tar", TestTarBuilder::new().finish(), 0),
        ("a.tar.zst", zstd(&TestTarBuilder::new().finish()), 0),
        ("a.zip", zip(&[]), 0),
        ("a.tar", TestTarBuilder::new().dir("d").file("d/f", "").dir("d/").dir("./d").finish(), 1),
    ] {
        let room = ArchiveTestDir::new();
        assert_eq!(room.unpack(name, &archive, &ArchiveLimits::default()).unwrap().files, files);
        assert_eq!(compare(&room.dir, "new").unwrap(), [""; 0]);
    }
}

#[test]
fn progress_counts_the_archive() {
    let room = ArchiveTestDir::new();
    let archive = TestTarBuilder::new().file("f", &"x".repeat(2_000_000)).finish();
    let expected = digest(archive.as_slice()).unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    let progress = |bytes| seen.lock().unwrap().push(bytes);
    let (limits, stop) = (ArchiveLimits::default(), AtomicBool::new(false));
    let job = UnpackJob {
        name: "a.tar",
        expected: &expected,
        decoded: None,
        limits: &limits,
        stop: &stop,
        progress: &progress,
    };
    unpack(archive.as_slice(), &job, &room.dir, "new").unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(seen.len() > 4 && seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.last(), Some(&(archive.len() as u64)));
}
