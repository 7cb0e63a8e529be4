//! Malicious archives: each is refused by name and leaves nothing.

use super::*;

/// Packs `tar` in every format for tars.
fn in_every_wrapping(tar: TestTarBuilder, check: impl Fn(&str, &[u8])) {
    let tar = tar.finish();
    check("a.tar", &tar);
    check("a.tar.gz", &gzip(&tar));
    check("a.tar.zst", &zstd(&tar));
}

fn tar_refused(tar: TestTarBuilder, entry: &str, refusal: EntryRefusal) {
    in_every_wrapping(tar, |name, archive| assert_refused(name, archive, entry, refusal.clone()));
}

fn zip_refused(entries: &[TestZipEntry<'_>], entry: &str, refusal: EntryRefusal) {
    assert_refused("a.zip", &zip(entries), entry, refusal);
}

#[test]
fn paths_outside_are_refused() {
    for (name, refusal) in [
        ("/etc/passwd", EntryRefusal::Absolute),
        ("../outside", EntryRefusal::ParentComponent),
        ("a/../../outside", EntryRefusal::ParentComponent),
        ("a/..", EntryRefusal::ParentComponent),
        ("new/\nline", EntryRefusal::ControlCharacter),
        ("bell\u{7}", EntryRefusal::ControlCharacter),
        ("c1\u{85}", EntryRefusal::ControlCharacter),
        (".pawl-files", EntryRefusal::Reserved),
        ("./.PAWL-files", EntryRefusal::Reserved),
        (".pawl-files/x", EntryRefusal::Reserved),
        (".pawl-digest", EntryRefusal::Reserved),
    ] {
        tar_refused(TestTarBuilder::new().file("ok", "1").file(name, "2"), name, refusal.clone());
        tar_refused(TestTarBuilder::new().dir(name), name, refusal.clone());
        tar_refused(TestTarBuilder::new().symlink(name, "x"), name, refusal.clone());
        tar_refused(TestTarBuilder::new().pax("path", name).file("harmless", "2"), name, refusal.clone());
        zip_refused(&[TestZipEntry(b"ok", REGULAR, b"1"), TestZipEntry(name.as_bytes(), REGULAR, b"2")], name, refusal);
    }
    let gnu = TestTarBuilder::new().entry(EntryType::GNULongName, b"L", 0, b"", b"../outside\0").file("harmless", "");
    tar_refused(gnu, "../outside", EntryRefusal::ParentComponent);
    // The prefix field of ustar.
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..7].copy_from_slice(b"outside");
    header.as_mut_bytes()[345..347].copy_from_slice(b"..");
    header.set_size(0);
    header.set_mode(0o644);
    tar_refused(TestTarBuilder::new().header(header, b""), "../outside", EntryRefusal::ParentComponent);
    zip_refused(&[TestZipEntry(b"..\\outside", REGULAR, b"")], "..\\outside", EntryRefusal::Backslash);
    tar_refused(
        TestTarBuilder::new().entry(EntryType::Regular, b"latin\xe9", 0o644, b"", b""),
        "latin\u{fffd}",
        EntryRefusal::NotUtf8,
    );
    zip_refused(&[TestZipEntry(b"latin\xe9", REGULAR, b"")], "latin\u{fffd}", EntryRefusal::NotUtf8);
    tar_refused(TestTarBuilder::new().file(".", "content"), ".", EntryRefusal::NoName);
}

#[test]
fn writing_through_links() {
    let link = |target| TestTarBuilder::new().symlink("way", target);
    tar_refused(link("..").file("way/outside", "owned"), "way/outside", EntryRefusal::BelowLink("way".into()));
    tar_refused(link(".").file("way/inside", "owned"), "way/inside", EntryRefusal::BelowLink("way".into()));
    tar_refused(link("..").dir("way/x"), "way/x", EntryRefusal::BelowLink("way".into()));
    tar_refused(link("..").symlink("way/x", "y"), "way/x", EntryRefusal::BelowLink("way".into()));
    tar_refused(link("..").hard_link("way/x", "y"), "way/x", EntryRefusal::HardLinkTargetMissing("y".into()));
    tar_refused(link("../outside").file("way", "owned"), "way", EntryRefusal::Duplicate);
    tar_refused(link("../outside").dir("way"), "way", EntryRefusal::Duplicate);
    tar_refused(link("..").file("WAY/outside", "owned"), "WAY/outside", EntryRefusal::CaseCollision("way".into()));
    tar_refused(link("x").hard_link("copy", "way"), "copy", EntryRefusal::HardLinkTargetMissing("way".into()));
    tar_refused(
        TestTarBuilder::new().file("f", "").file("f/below", ""),
        "f/below",
        EntryRefusal::BelowFile("f".into()),
    );
    zip_refused(
        &[TestZipEntry(b"way", 0o120_777 << 16, b".."), TestZipEntry(b"way/outside", REGULAR, b"owned")],
        "way/outside",
        EntryRefusal::BelowLink("way".into()),
    );
}

#[test]
fn links_outside_are_refused() {
    for target in ["..", "../outside", "./../outside", "a/../../outside", "a/b/c/../../../../outside"] {
        let refusal = EntryRefusal::TargetOutside(target.into());
        tar_refused(TestTarBuilder::new().symlink("way", target), "way", refusal.clone());
        zip_refused(&[TestZipEntry(b"way", 0o120_777 << 16, target.as_bytes())], "way", refusal);
        tar_refused(
            TestTarBuilder::new().file("way2", "").hard_link("way", target),
            "way",
            EntryRefusal::TargetOutside(target.into()),
        );
    }
    tar_refused(TestTarBuilder::new().symlink("way", "/etc"), "way", EntryRefusal::AbsoluteTarget("/etc".into()));
    zip_refused(&[TestZipEntry(b"way", 0o120_777 << 16, b"/etc")], "way", EntryRefusal::AbsoluteTarget("/etc".into()));
    tar_refused(
        TestTarBuilder::new().hard_link("way", "/etc/passwd"),
        "way",
        EntryRefusal::AbsoluteTarget("/etc/passwd".into()),
    );
    tar_refused(
        TestTarBuilder::new().hard_link("way", "later").file("later", ""),
        "way",
        EntryRefusal::HardLinkTargetMissing("later".into()),
    );
    tar_refused(
        TestTarBuilder::new().dir("d").hard_link("way", "d"),
        "way",
        EntryRefusal::HardLinkTargetMissing("d".into()),
    );
    tar_refused(TestTarBuilder::new().symlink("way", ""), "way", EntryRefusal::EmptyTarget);
    tar_refused(TestTarBuilder::new().symlink("way", "a\nb"), "way", EntryRefusal::ControlCharacter);
    tar_refused(
        TestTarBuilder::new().pax("linkpath", "../x").symlink("way", "fine"),
        "way",
        EntryRefusal::TargetOutside("../x".into()),
    );
    // By its text the second link stays in `x/y/z`, but `up` is the folder itself.
    let chain = TestTarBuilder::new().symlink("x/y/z/up", "../../..").symlink("x/y/z/way", "up/../outside");
    tar_refused(chain, "x/y/z/way", EntryRefusal::TargetOutside("up/../outside".into()));
    // The same, with the bad link last.
    let chain = TestTarBuilder::new().symlink("x/way", "deep/../../outside").symlink("x/deep", "..");
    tar_refused(chain, "x/way", EntryRefusal::TargetOutside("deep/../../outside".into()));
}

#[test]
fn links_inside_are_extracted() {
    let room = ArchiveTestDir::new();
    let archive = TestTarBuilder::new()
        .symlink("a/b/top", "../..")
        .symlink("a/b/through", "top/a/file")
        .symlink("self", "self")
        .symlink("ping", "pong")
        .symlink("pong", "ping")
        .file("a/file", "found")
        .finish();
    room.unpack("a.tar", &archive, &ArchiveLimits::default()).unwrap();
    assert_eq!(fs::read_to_string(room.path("new/a/b/through")).unwrap(), "found");
}

#[test]
fn special_files_and_modes() {
    for (kind, what) in [
        (EntryType::Char, "a character device"),
        (EntryType::Block, "a block device"),
        (EntryType::Fifo, "a pipe"),
        (EntryType::new(b'V'), "something of an unknown type"),
        (EntryType::new(b'M'), "something of an unknown type"),
    ] {
        tar_refused(TestTarBuilder::new().entry(kind, b"odd", 0o644, b"", b""), "odd", EntryRefusal::SpecialFile(what));
    }
    for (kind, what) in [
        (0o020_644, "a character device"),
        (0o060_644, "a block device"),
        (0o010_644, "a pipe"),
        (0o140_644, "a socket"),
        (0o030_644, "something of an unknown type"),
    ] {
        zip_refused(&[TestZipEntry(b"odd", kind << 16, b"")], "odd", EntryRefusal::SpecialFile(what));
    }
    for mode in [0o4755, 0o2755, 0o1777] {
        tar_refused(
            TestTarBuilder::new().entry(EntryType::Regular, b"s", mode, b"", b""),
            "s",
            EntryRefusal::SpecialMode(mode),
        );
        tar_refused(
            TestTarBuilder::new().entry(EntryType::Directory, b"s", mode, b"", b""),
            "s",
            EntryRefusal::SpecialMode(mode),
        );
        let twin = TestTarBuilder::new().file("f", "").entry(EntryType::Link, b"s", mode, b"f", b"");
        tar_refused(twin, "s", EntryRefusal::SpecialMode(mode));
        zip_refused(&[TestZipEntry(b"s", (0o100_000 | mode) << 16, b"")], "s", EntryRefusal::SpecialMode(mode));
    }
    let mut sparse = Header::new_gnu();
    sparse.as_mut_bytes()[..6].copy_from_slice(b"sparse");
    sparse.set_entry_type(EntryType::GNUSparse);
    sparse.set_size(0);
    sparse.set_mode(0o644);
    tar_refused(TestTarBuilder::new().header(sparse, b""), "sparse", EntryRefusal::Sparse);
    tar_refused(
        TestTarBuilder::new().pax("GNU.sparse.major", "1").file("sparse", "map"),
        "sparse",
        EntryRefusal::Sparse,
    );
    for kind in [EntryType::Directory, EntryType::Symlink, EntryType::Link] {
        let odd = TestTarBuilder::new().file("f", "").entry(kind, b"odd", 0o644, b"f", b"content");
        tar_refused(odd, "odd", EntryRefusal::Unsupported("it is a directory or link with content".into()));
    }
    let mut encrypted = zip(&[TestZipEntry(b"secret", REGULAR, b"0123456789ab")]);
    encrypted[6] |= 1;
    let central = encrypted.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    encrypted[central + 8] |= 1;
    match failure("a.zip", &encrypted) {
        ArchiveError::Refused { entry, refusal: EntryRefusal::Unsupported(_) } => assert_eq!(entry, "secret"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn colliding_names_are_refused() {
    tar_refused(TestTarBuilder::new().file("a", "1").file("a", "2"), "a", EntryRefusal::Duplicate);
    tar_refused(TestTarBuilder::new().file("a", "1").file("./a", "2"), "a", EntryRefusal::Duplicate);
    tar_refused(TestTarBuilder::new().file("a", "1").dir("a"), "a", EntryRefusal::Duplicate);
    tar_refused(TestTarBuilder::new().dir("a").file("a", "1"), "a", EntryRefusal::Duplicate);
    tar_refused(
        TestTarBuilder::new().file("Straße", "1").file("STRAßE", "2"),
        "STRAßE",
        EntryRefusal::CaseCollision("Straße".into()),
    );
    tar_refused(
        TestTarBuilder::new().file("D/x", "1").file("d/y", "2"),
        "d/y",
        EntryRefusal::CaseCollision("D".into()),
    );
    tar_refused(TestTarBuilder::new().dir("D").dir("d"), "d", EntryRefusal::CaseCollision("D".into()));
    zip_refused(&[TestZipEntry(b"a", REGULAR, b"1"), TestZipEntry(b"a", REGULAR, b"2")], "a", EntryRefusal::Duplicate);
    zip_refused(
        &[TestZipEntry(b"a", REGULAR, b"1"), TestZipEntry(b"./a", REGULAR, b"2")],
        "a",
        EntryRefusal::Duplicate,
    );
    zip_refused(
        &[TestZipEntry(b"a", REGULAR, b"1"), TestZipEntry(b"A", REGULAR, b"2")],
        "A",
        EntryRefusal::CaseCollision("a".into()),
    );
}

fn assert_limit(name: &str, archive: &[u8], limits: &ArchiveLimits, wanted: ArchiveLimitKind) {
    match failure_within(name, archive, limits) {
        ArchiveError::Limit { limit, .. } => assert_eq!(limit, wanted, "{name}"),
        other => panic!("{name}: expected a limit, got {other:?}"),
    }
}

#[test]
fn limits() {
    let few = ArchiveLimits { max_files: 2, ..ArchiveLimits::default() };
    in_every_wrapping(TestTarBuilder::new().file("a", "").file("b", "").file("c", ""), |name, archive| {
        assert_limit(name, archive, &few, ArchiveLimitKind::Files);
    });
    // Directories without their own entries count.
    assert_limit("a.tar", &TestTarBuilder::new().file("a/b/c", "").finish(), &few, ArchiveLimitKind::Files);
    let three = [TestZipEntry(b"a", REGULAR, b""), TestZipEntry(b"b", REGULAR, b""), TestZipEntry(b"c", REGULAR, b"")];
    assert_limit("a.zip", &zip(&three), &few, ArchiveLimitKind::Files);

    let small = ArchiveLimits { max_bytes: 100_000, ..ArchiveLimits::default() };
    let tar = TestTarBuilder::new().file("a", &"x".repeat(60_000)).file("b", &"x".repeat(60_000)).finish();
    assert_limit("a.tar.gz", &gzip(&tar), &small, ArchiveLimitKind::Bytes);
    assert_limit("a.tar", &tar, &small, ArchiveLimitKind::Bytes);
    let content = vec![b'x'; 60_000];
    assert_limit(
        "a.zip",
        &zip(&[TestZipEntry(b"a", REGULAR, &content), TestZipEntry(b"b", REGULAR, &content)]),
        &small,
        ArchiveLimitKind::Bytes,
    );
    // A header may declare anything.
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..3].copy_from_slice(b"big");
    header.set_size(u64::MAX);
    header.set_mode(0o644);
    assert_limit("a.tar", &TestTarBuilder::new().header(header, b"").finish(), &small, ArchiveLimitKind::Bytes);

    let bomb = TestTarBuilder::new().file("bomb", &"x".repeat(3 << 20)).finish();
    assert_limit("a.tar.gz", &gzip(&bomb), &ArchiveLimits::default(), ArchiveLimitKind::Ratio);
    assert_limit("a.tar.zst", &zstd(&bomb), &ArchiveLimits::default(), ArchiveLimitKind::Ratio);
    // Padding does not bypass the limit.
    let padding = [TestTarBuilder::new().finish(), vec![0; 3 << 20]].concat();
    assert_limit("a.tar.zst", &zstd(&padding), &ArchiveLimits::default(), ArchiveLimitKind::Ratio);
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("bomb", ::zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(&vec![0; 3 << 20]).unwrap();
    assert_limit("a.zip", &writer.finish().unwrap().into_inner(), &ArchiveLimits::default(), ArchiveLimitKind::Ratio);
    // Below 1 MiB any ratio is allowed.
    let zeros = TestTarBuilder::new().file("zeros", &"\0".repeat(900_000)).finish();
    ArchiveTestDir::new()
        .unpack("a.tar.gz", &gzip(&zeros), &ArchiveLimits { max_ratio: 2, ..ArchiveLimits::default() })
        .unwrap();

    let short = ArchiveLimits { max_path_bytes: 10, ..ArchiveLimits::default() };
    let long = "elevenbytes";
    assert_limit("a.tar", &TestTarBuilder::new().file(long, "").finish(), &short, ArchiveLimitKind::Path);
    assert_limit("a.tar", &TestTarBuilder::new().symlink("l", long).finish(), &short, ArchiveLimitKind::Path);
    assert_limit("a.zip", &zip(&[TestZipEntry(long.as_bytes(), REGULAR, b"")]), &short, ArchiveLimitKind::Path);
    assert_limit(
        "a.zip",
        &zip(&[TestZipEntry(b"l", 0o120_777 << 16, long.as_bytes())]),
        &short,
        ArchiveLimitKind::Path,
    );
    let name = "n".repeat(256);
    assert_limit(
        "a.tar",
        &TestTarBuilder::new().pax("path", &name).file("n", "").finish(),
        &ArchiveLimits::default(),
        ArchiveLimitKind::Path,
    );
    let deep = "d/".repeat(200);
    assert_limit(
        "a.tar",
        &TestTarBuilder::new().pax("path", &deep).dir("d").finish(),
        &ArchiveLimits::default(),
        ArchiveLimitKind::Depth,
    );
    let header = TestTarBuilder::new().pax("path", &"x".repeat(2 << 20)).file("x", "").finish();
    assert_limit("a.tar", &header, &ArchiveLimits::default(), ArchiveLimitKind::Header);
}

#[test]
fn long_link_chains_terminate() {
    // Each link goes through the previous one twice: following them naively takes 2^60 steps.
    let mut tar = TestTarBuilder::new().symlink("l0", "x");
    for number in 1..60 {
        let target = format!("l{0}/../l{0}", number - 1);
        tar = tar.symlink(&format!("l{number}"), &target);
    }
    let room = ArchiveTestDir::new();
    // Whether it counts as leading out or not: the check must end.
    match room.unpack("a.tar", &tar.finish(), &ArchiveLimits::default()) {
        Ok(_) => assert_eq!(compare(&room.dir, "new").unwrap(), [""; 0]),
        Err(error) => {
            assert!(
                matches!(error, ArchiveError::Refused { refusal: EntryRefusal::TargetOutside(_), .. }),
                "{error:?}"
            );
            room.assert_untouched();
        }
    }
}
