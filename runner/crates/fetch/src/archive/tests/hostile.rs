//! Archives that want more than they may: each is refused by name, and leaves nothing.

use super::*;

/// Packs `tar` in every way that a tar can come.
fn in_every_wrapping(tar: Tar, check: impl Fn(&str, &[u8])) {
    let tar = tar.end();
    check("a.tar", &tar);
    check("a.tar.gz", &gzip(&tar));
    check("a.tar.zst", &zstd(&tar));
}

fn tar_refused(tar: Tar, entry: &str, refusal: Refusal) {
    in_every_wrapping(tar, |name, archive| assert_refused(name, archive, entry, refusal.clone()));
}

fn zip_refused(entries: &[Zipped<'_>], entry: &str, refusal: Refusal) {
    assert_refused("a.zip", &zip(entries), entry, refusal);
}

#[test]
fn paths_that_lead_out() {
    for (name, refusal) in [
        ("/etc/passwd", Refusal::Absolute),
        ("../outside", Refusal::Parent),
        ("a/../../outside", Refusal::Parent),
        ("a/..", Refusal::Parent),
        ("new/\nline", Refusal::ControlCharacter),
        ("bell\u{7}", Refusal::ControlCharacter),
        ("c1\u{85}", Refusal::ControlCharacter),
        (".pawl-files", Refusal::Reserved),
        ("./.PAWL-files", Refusal::Reserved),
        (".pawl-files/x", Refusal::Reserved),
    ] {
        tar_refused(Tar::new().file("ok", "1").file(name, "2"), name, refusal.clone());
        tar_refused(Tar::new().dir(name), name, refusal.clone());
        tar_refused(Tar::new().symlink(name, "x"), name, refusal.clone());
        tar_refused(Tar::new().pax("path", name).file("harmless", "2"), name, refusal.clone());
        zip_refused(&[Zipped(b"ok", REGULAR, b"1"), Zipped(name.as_bytes(), REGULAR, b"2")], name, refusal);
    }
    let gnu = Tar::new().entry(EntryType::GNULongName, b"L", 0, b"", b"../outside\0").file("harmless", "");
    tar_refused(gnu, "../outside", Refusal::Parent);
    // The prefix field of ustar.
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..7].copy_from_slice(b"outside");
    header.as_mut_bytes()[345..347].copy_from_slice(b"..");
    header.set_size(0);
    header.set_mode(0o644);
    tar_refused(Tar::new().header(header, b""), "../outside", Refusal::Parent);
    zip_refused(&[Zipped(b"..\\outside", REGULAR, b"")], "..\\outside", Refusal::Backslash);
    tar_refused(Tar::new().entry(EntryType::Regular, b"latin\xe9", 0o644, b"", b""), "latin\u{fffd}", Refusal::NotUtf8);
    zip_refused(&[Zipped(b"latin\xe9", REGULAR, b"")], "latin\u{fffd}", Refusal::NotUtf8);
    tar_refused(Tar::new().file(".", "content"), ".", Refusal::NoName);
}

#[test]
fn writing_through_links() {
    let link = |target| Tar::new().symlink("way", target);
    tar_refused(link("..").file("way/outside", "owned"), "way/outside", Refusal::BehindLink("way".into()));
    tar_refused(link(".").file("way/inside", "owned"), "way/inside", Refusal::BehindLink("way".into()));
    tar_refused(link("..").dir("way/x"), "way/x", Refusal::BehindLink("way".into()));
    tar_refused(link("..").symlink("way/x", "y"), "way/x", Refusal::BehindLink("way".into()));
    tar_refused(link("..").hard_link("way/x", "y"), "way/x", Refusal::NoLinkTarget("y".into()));
    tar_refused(link("../outside").file("way", "owned"), "way", Refusal::Duplicate);
    tar_refused(link("../outside").dir("way"), "way", Refusal::Duplicate);
    tar_refused(link("..").file("WAY/outside", "owned"), "WAY/outside", Refusal::CaseCollision("way".into()));
    tar_refused(link("x").hard_link("copy", "way"), "copy", Refusal::NoLinkTarget("way".into()));
    tar_refused(Tar::new().file("f", "").file("f/below", ""), "f/below", Refusal::BelowFile("f".into()));
    zip_refused(
        &[Zipped(b"way", 0o120_777 << 16, b".."), Zipped(b"way/outside", REGULAR, b"owned")],
        "way/outside",
        Refusal::BehindLink("way".into()),
    );
}

#[test]
fn links_that_lead_out() {
    for target in ["..", "../outside", "./../outside", "a/../../outside", "a/b/c/../../../../outside"] {
        let refusal = Refusal::TargetOutside(target.into());
        tar_refused(Tar::new().symlink("way", target), "way", refusal.clone());
        zip_refused(&[Zipped(b"way", 0o120_777 << 16, target.as_bytes())], "way", refusal);
        tar_refused(Tar::new().file("way2", "").hard_link("way", target), "way", Refusal::TargetOutside(target.into()));
    }
    tar_refused(Tar::new().symlink("way", "/etc"), "way", Refusal::AbsoluteTarget("/etc".into()));
    zip_refused(&[Zipped(b"way", 0o120_777 << 16, b"/etc")], "way", Refusal::AbsoluteTarget("/etc".into()));
    tar_refused(Tar::new().hard_link("way", "/etc/passwd"), "way", Refusal::AbsoluteTarget("/etc/passwd".into()));
    tar_refused(Tar::new().hard_link("way", "later").file("later", ""), "way", Refusal::NoLinkTarget("later".into()));
    tar_refused(Tar::new().dir("d").hard_link("way", "d"), "way", Refusal::NoLinkTarget("d".into()));
    tar_refused(Tar::new().symlink("way", ""), "way", Refusal::NoTarget);
    tar_refused(Tar::new().symlink("way", "a\nb"), "way", Refusal::ControlCharacter);
    tar_refused(
        Tar::new().pax("linkpath", "../x").symlink("way", "fine"),
        "way",
        Refusal::TargetOutside("../x".into()),
    );
    // By its text the second stays in `x/y/z`; but `up` is the folder itself.
    let chain = Tar::new().symlink("x/y/z/up", "../../..").symlink("x/y/z/way", "up/../outside");
    tar_refused(chain, "x/y/z/way", Refusal::TargetOutside("up/../outside".into()));
    // The same, with the link that makes it bad coming last.
    let chain = Tar::new().symlink("x/way", "deep/../../outside").symlink("x/deep", "..");
    tar_refused(chain, "x/way", Refusal::TargetOutside("deep/../../outside".into()));
}

#[test]
fn links_that_stay_in() {
    let room = Room::new();
    let archive = Tar::new()
        .symlink("a/b/top", "../..")
        .symlink("a/b/through", "top/a/file")
        .symlink("self", "self")
        .symlink("ping", "pong")
        .symlink("pong", "ping")
        .file("a/file", "found")
        .end();
    room.unpack("a.tar", &archive, &Limits::default()).unwrap();
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
        tar_refused(Tar::new().entry(kind, b"odd", 0o644, b"", b""), "odd", Refusal::Special(what));
    }
    for (kind, what) in [
        (0o020_644, "a character device"),
        (0o060_644, "a block device"),
        (0o010_644, "a pipe"),
        (0o140_644, "a socket"),
        (0o030_644, "something of an unknown type"),
    ] {
        zip_refused(&[Zipped(b"odd", kind << 16, b"")], "odd", Refusal::Special(what));
    }
    for mode in [0o4755, 0o2755, 0o1777] {
        tar_refused(Tar::new().entry(EntryType::Regular, b"s", mode, b"", b""), "s", Refusal::SpecialMode(mode));
        tar_refused(Tar::new().entry(EntryType::Directory, b"s", mode, b"", b""), "s", Refusal::SpecialMode(mode));
        let twin = Tar::new().file("f", "").entry(EntryType::Link, b"s", mode, b"f", b"");
        tar_refused(twin, "s", Refusal::SpecialMode(mode));
        zip_refused(&[Zipped(b"s", (0o100_000 | mode) << 16, b"")], "s", Refusal::SpecialMode(mode));
    }
    let mut sparse = Header::new_gnu();
    sparse.as_mut_bytes()[..6].copy_from_slice(b"sparse");
    sparse.set_entry_type(EntryType::GNUSparse);
    sparse.set_size(0);
    sparse.set_mode(0o644);
    tar_refused(Tar::new().header(sparse, b""), "sparse", Refusal::Sparse);
    tar_refused(Tar::new().pax("GNU.sparse.major", "1").file("sparse", "map"), "sparse", Refusal::Sparse);
    for kind in [EntryType::Directory, EntryType::Symlink, EntryType::Link] {
        let odd = Tar::new().file("f", "").entry(kind, b"odd", 0o644, b"f", b"content");
        tar_refused(odd, "odd", Refusal::Unsupported("it is a directory or link with content".into()));
    }
    let mut encrypted = zip(&[Zipped(b"secret", REGULAR, b"0123456789ab")]);
    encrypted[6] |= 1;
    let central = encrypted.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    encrypted[central + 8] |= 1;
    match failure("a.zip", &encrypted) {
        ArchiveError::Refused { entry, refusal: Refusal::Unsupported(_) } => assert_eq!(entry, "secret"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_that_collide() {
    tar_refused(Tar::new().file("a", "1").file("a", "2"), "a", Refusal::Duplicate);
    tar_refused(Tar::new().file("a", "1").file("./a", "2"), "a", Refusal::Duplicate);
    tar_refused(Tar::new().file("a", "1").dir("a"), "a", Refusal::Duplicate);
    tar_refused(Tar::new().dir("a").file("a", "1"), "a", Refusal::Duplicate);
    tar_refused(Tar::new().file("Straße", "1").file("STRAßE", "2"), "STRAßE", Refusal::CaseCollision("Straße".into()));
    tar_refused(Tar::new().file("D/x", "1").file("d/y", "2"), "d/y", Refusal::CaseCollision("D".into()));
    tar_refused(Tar::new().dir("D").dir("d"), "d", Refusal::CaseCollision("D".into()));
    zip_refused(&[Zipped(b"a", REGULAR, b"1"), Zipped(b"a", REGULAR, b"2")], "a", Refusal::Duplicate);
    zip_refused(&[Zipped(b"a", REGULAR, b"1"), Zipped(b"./a", REGULAR, b"2")], "a", Refusal::Duplicate);
    zip_refused(&[Zipped(b"a", REGULAR, b"1"), Zipped(b"A", REGULAR, b"2")], "A", Refusal::CaseCollision("a".into()));
}

fn assert_limit(name: &str, archive: &[u8], limits: &Limits, wanted: Limit) {
    match failure_within(name, archive, limits) {
        ArchiveError::Limit { limit, .. } => assert_eq!(limit, wanted, "{name}"),
        other => panic!("{name}: expected a limit, got {other:?}"),
    }
}

#[test]
fn limits() {
    let few = Limits { max_files: 2, ..Limits::default() };
    in_every_wrapping(Tar::new().file("a", "").file("b", "").file("c", ""), |name, archive| {
        assert_limit(name, archive, &few, Limit::Files);
    });
    // Directories without an entry of their own count.
    assert_limit("a.tar", &Tar::new().file("a/b/c", "").end(), &few, Limit::Files);
    let three = [Zipped(b"a", REGULAR, b""), Zipped(b"b", REGULAR, b""), Zipped(b"c", REGULAR, b"")];
    assert_limit("a.zip", &zip(&three), &few, Limit::Files);

    let small = Limits { max_bytes: 100_000, ..Limits::default() };
    let tar = Tar::new().file("a", &"x".repeat(60_000)).file("b", &"x".repeat(60_000)).end();
    assert_limit("a.tar.gz", &gzip(&tar), &small, Limit::Bytes);
    assert_limit("a.tar", &tar, &small, Limit::Bytes);
    let content = vec![b'x'; 60_000];
    assert_limit(
        "a.zip",
        &zip(&[Zipped(b"a", REGULAR, &content), Zipped(b"b", REGULAR, &content)]),
        &small,
        Limit::Bytes,
    );
    // A header may claim anything.
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..3].copy_from_slice(b"big");
    header.set_size(u64::MAX);
    header.set_mode(0o644);
    assert_limit("a.tar", &Tar::new().header(header, b"").end(), &small, Limit::Bytes);

    let bomb = Tar::new().file("bomb", &"x".repeat(3 << 20)).end();
    assert_limit("a.tar.gz", &gzip(&bomb), &Limits::default(), Limit::Ratio);
    assert_limit("a.tar.zst", &zstd(&bomb), &Limits::default(), Limit::Ratio);
    // Padding is no way around it.
    let padding = [Tar::new().end(), vec![0; 3 << 20]].concat();
    assert_limit("a.tar.zst", &zstd(&padding), &Limits::default(), Limit::Ratio);
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("bomb", ::zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(&vec![0; 3 << 20]).unwrap();
    assert_limit("a.zip", &writer.finish().unwrap().into_inner(), &Limits::default(), Limit::Ratio);
    // Below a mebibyte nobody minds.
    let zeros = Tar::new().file("zeros", &"\0".repeat(900_000)).end();
    Room::new().unpack("a.tar.gz", &gzip(&zeros), &Limits { max_ratio: 2, ..Limits::default() }).unwrap();

    let short = Limits { max_path: 10, ..Limits::default() };
    let long = "elevenbytes";
    assert_limit("a.tar", &Tar::new().file(long, "").end(), &short, Limit::Path);
    assert_limit("a.tar", &Tar::new().symlink("l", long).end(), &short, Limit::Path);
    assert_limit("a.zip", &zip(&[Zipped(long.as_bytes(), REGULAR, b"")]), &short, Limit::Path);
    assert_limit("a.zip", &zip(&[Zipped(b"l", 0o120_777 << 16, long.as_bytes())]), &short, Limit::Path);
    let name = "n".repeat(256);
    assert_limit("a.tar", &Tar::new().pax("path", &name).file("n", "").end(), &Limits::default(), Limit::Path);
    let deep = "d/".repeat(200);
    assert_limit("a.tar", &Tar::new().pax("path", &deep).dir("d").end(), &Limits::default(), Limit::Depth);
    let header = Tar::new().pax("path", &"x".repeat(2 << 20)).file("x", "").end();
    assert_limit("a.tar", &header, &Limits::default(), Limit::Header);
}

#[test]
fn long_chains_of_links_end() {
    // Each link leads through the one before, twice: followed naively, that takes 2^60 steps.
    let mut tar = Tar::new().symlink("l0", "x");
    for number in 1..60 {
        let target = format!("l{0}/../l{0}", number - 1);
        tar = tar.symlink(&format!("l{number}"), &target);
    }
    let room = Room::new();
    // Whether or not it counts as leading out: it must end.
    match room.unpack("a.tar", &tar.end(), &Limits::default()) {
        Ok(_) => assert_eq!(compare(&room.dir, "new").unwrap(), [""; 0]),
        Err(error) => {
            assert!(matches!(error, ArchiveError::Refused { refusal: Refusal::TargetOutside(_), .. }), "{error:?}");
            room.assert_untouched();
        }
    }
}
