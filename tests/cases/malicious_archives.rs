//! Hostile archives, pulled by the real runner: a typed failure that names entry or limit, nothing changed outside of the
//! directory, nothing left inside.

use std::{collections::BTreeMap, path::PathBuf};

use crate::support::{
    TestEnvironment,
    crafted::{
        CraftedTarEntry, CraftedZipEntry, file, folder, gnu_name, gzip, hard_link, pax, symlink, tar, zip, zstd,
    },
    sha256,
};

const REGULAR: u32 = 0o100_644;

/// What is said of an archive: the failure's kind, its message, its hint.
type ExpectedRefusal = (&'static str, &'static str, &'static str);

const REMOVE_ENTRY_HINT: &str = "pack the archive without this entry";
const REPACK_HINT: &str = "pack the archive again, or download it again";

fn refused_entry(message: &'static str) -> ExpectedRefusal {
    ("bad-content", message, REMOVE_ENTRY_HINT)
}

fn entry_of_kind(kind: u8) -> CraftedTarEntry {
    CraftedTarEntry { kind, ..file("odd", b"") }
}

fn entry_with_mode(mode: u32) -> CraftedTarEntry {
    CraftedTarEntry { mode, ..file("odd", b"") }
}

/// Tars that want what they may not have, by name.
fn malicious_tars() -> Vec<(&'static str, Vec<u8>, ExpectedRefusal)> {
    let long = "d/".repeat(2500);
    let many: Vec<CraftedTarEntry> = (0..2001).map(|number| file(&format!("f{number}"), b"")).collect();
    let zeros = vec![0; 3 << 20];
    let large = b"0123456789abcdef".repeat(1 << 16);
    vec![
        (
            "traversal",
            tar(&[file("ok", b"1"), file("../outside", b"owned")]),
            refused_entry("`../outside`: its path contains `..`"),
        ),
        ("traversal in the middle", tar(&[file("a/../../outside", b"owned")]), refused_entry("its path contains `..`")),
        (
            "traversal by pax",
            tar(&[pax("path", "../outside"), file("ok", b"owned")]),
            refused_entry("its path contains `..`"),
        ),
        (
            "traversal by GNU",
            tar(&[gnu_name("../outside"), file("ok", b"owned")]),
            refused_entry("its path contains `..`"),
        ),
        (
            "absolute",
            tar(&[file("/tmp/pawl-owned", b"owned")]),
            refused_entry("`/tmp/pawl-owned`: its path is absolute"),
        ),
        (
            "link, then through it",
            tar(&[symlink("way", ".."), file("way/outside", b"owned")]),
            refused_entry("its path goes through the link `way`"),
        ),
        (
            "link, then over it",
            tar(&[symlink("way", "../outside"), file("way", b"owned")]),
            refused_entry("another entry has the same name"),
        ),
        (
            "link out",
            tar(&[symlink("way", "../../../outside")]),
            refused_entry("it links to `../../../outside`, outside the folder"),
        ),
        (
            "link to an absolute path",
            tar(&[symlink("way", "/etc")]),
            refused_entry("it links to the absolute path `/etc`"),
        ),
        (
            "link out by another",
            tar(&[symlink("a/b/up", "../.."), symlink("a/out", "b/up/../outside")]),
            refused_entry("outside the folder"),
        ),
        (
            "hard link out",
            tar(&[hard_link("way", "../outside")]),
            refused_entry("it links to `../outside`, outside the folder"),
        ),
        (
            "hard link to an absolute path",
            tar(&[hard_link("way", "/etc/passwd")]),
            refused_entry("it links to the absolute path `/etc/passwd`"),
        ),
        (
            "hard link to a link",
            tar(&[symlink("l", "f"), file("f", b""), hard_link("h", "l")]),
            refused_entry("which is not a file earlier in the archive"),
        ),
        (
            "device",
            tar(&[entry_of_kind(b'3')]),
            refused_entry("`odd`: it is a character device, not a file, directory or link"),
        ),
        ("block device", tar(&[entry_of_kind(b'4')]), refused_entry("it is a block device, not a file")),
        ("pipe", tar(&[entry_of_kind(b'6')]), refused_entry("it is a pipe, not a file")),
        ("sparse", tar(&[entry_of_kind(b'S')]), refused_entry("it is a sparse file")),
        ("sparse by pax", tar(&[pax("GNU.sparse.major", "1"), file("f", b"")]), refused_entry("it is a sparse file")),
        (
            "setuid",
            tar(&[entry_with_mode(0o4755)]),
            refused_entry("its mode 4755 has the setuid, setgid or sticky bit"),
        ),
        ("setgid", tar(&[entry_with_mode(0o2755)]), refused_entry("its mode 2755")),
        ("sticky", tar(&[entry_with_mode(0o1777)]), refused_entry("its mode 1777")),
        (
            "newline",
            tar(&[file("new\nline", b"")]),
            refused_entry("`new\\nline`: its name or target contains a control character"),
        ),
        (
            "case",
            tar(&[file("Readme", b"1"), file("README", b"2")]),
            refused_entry("its name differs from `Readme` only in case"),
        ),
        (
            "normal form",
            tar(&[file("caf\u{e9}", b"1"), file("cafe\u{301}", b"2")]),
            refused_entry("only in how its characters are encoded"),
        ),
        ("duplicate", tar(&[file("a", b"1"), file("./a", b"2")]), refused_entry("another entry has the same name")),
        ("folder over file", tar(&[file("a", b"1"), folder("a")]), refused_entry("another entry has the same name")),
        ("file over folder", tar(&[folder("a"), file("a", b"1")]), refused_entry("another entry has the same name")),
        ("below a file", tar(&[file("a", b"1"), file("a/b", b"1")]), refused_entry("its parent `a` is a file")),
        ("no name", tar(&[file(".", b"1")]), refused_entry("it has no name")),
        ("our own list", tar(&[file(".pawl-files", b"1")]), refused_entry("the name is reserved")),
        (
            "5,000 characters",
            tar(&[pax("path", &long), file("d", b"")]),
            ("limit", "more than 1024 bytes in a path", "raise `max-path` if the archive is right"),
        ),
        (
            "bomb by count",
            tar(&many),
            ("limit", "more than 2000 entries, at `f2000`", "raise `max-files` if the archive is right"),
        ),
        (
            "bomb by size",
            tar(&[file("a", &large), file("b", &large)]),
            ("limit", "more than 2000000 bytes", "raise `max-bytes` if the archive is right"),
        ),
        (
            "a size that lies",
            tar(&[CraftedTarEntry { size: Some(1 << 32), ..file("a", b"1") }]),
            ("limit", "more than 2000000 bytes, at `a`", "raise `max-bytes` if the archive is right"),
        ),
        (
            "a size beyond the end",
            tar(&[CraftedTarEntry { size: Some(5000), ..file("a", b"1") }]),
            ("bad-content", "truncated", REPACK_HINT),
        ),
        (
            "something after the end",
            [tar(&[file("a", b"1")]), b"more".to_vec()].concat(),
            ("bad-content", "extra bytes", REPACK_HINT),
        ),
        ("cut", tar(&[file("a", &[7; 3000])])[..2000].to_vec(), ("bad-content", "truncated", REPACK_HINT)),
        // Last, since as a plain tar it is no bomb: only what is packed has a ratio.
        (
            "bomb by ratio",
            tar(&[file("zeros", &zeros)]),
            (
                "limit",
                "more than 200 bytes of content per byte of its own",
                "raise `max-ratio` if the archive is right",
            ),
        ),
    ]
}

fn malicious_zips() -> Vec<(&'static str, Vec<u8>, ExpectedRefusal)> {
    let entry = |name| zip(&[CraftedZipEntry(b"ok", REGULAR, b"1"), CraftedZipEntry(name, REGULAR, b"owned")]);
    let of_mode = |mode| zip(&[CraftedZipEntry(b"odd", mode, b"")]);
    let two = |first, second| zip(&[CraftedZipEntry(first, REGULAR, b"1"), CraftedZipEntry(second, REGULAR, b"2")]);
    let link = |target| CraftedZipEntry(b"way", 0o120_777, target);
    let good = two(b"aa", b"bb");
    let central = good.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let changed = |at: usize, byte: u8| {
        let mut zip = good.clone();
        zip[at] = byte;
        zip
    };
    let many: Vec<String> = (0..2001).map(|number| format!("f{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| CraftedZipEntry(name.as_bytes(), REGULAR, b"")).collect();
    let mut bomb = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    bomb.start_file("zeros", ::zip::write::SimpleFileOptions::default()).unwrap();
    std::io::Write::write_all(&mut bomb, &vec![0; 1_900_000]).unwrap();
    let bomb = bomb.finish().unwrap().into_inner();
    let long = "d/".repeat(2500);
    vec![
        ("traversal", entry(b"../outside"), refused_entry("`../outside`: its path contains `..`")),
        ("absolute", entry(b"/tmp/pawl-owned"), refused_entry("its path is absolute")),
        ("backslash", entry(b"..\\outside"), refused_entry("its name contains a backslash")),
        ("drive", entry(b"C:\\outside"), refused_entry("its name contains a backslash")),
        ("newline", entry(b"new\nline"), refused_entry("control character")),
        (
            "link, then through it",
            zip(&[link(b".."), CraftedZipEntry(b"way/outside", REGULAR, b"owned")]),
            refused_entry("through the link `way`"),
        ),
        ("link out", zip(&[link(b"../outside")]), refused_entry("outside the folder")),
        ("link to an absolute path", zip(&[link(b"/etc")]), refused_entry("the absolute path `/etc`")),
        ("device", of_mode(0o020_644), refused_entry("a character device")),
        ("pipe", of_mode(0o010_644), refused_entry("a pipe")),
        ("socket", of_mode(0o140_644), refused_entry("a socket")),
        ("setuid", of_mode(0o104_755), refused_entry("its mode 4755")),
        ("case", two(b"Readme", b"README"), refused_entry("only in case")),
        (
            "normal form",
            two("caf\u{e9}".as_bytes(), "cafe\u{301}".as_bytes()),
            refused_entry("how its characters are encoded"),
        ),
        ("duplicate", two(b"a", b"a"), refused_entry("`a`: another entry has the same name")),
        (
            "5,000 characters",
            entry(long.as_bytes()),
            ("limit", "more than 1024 bytes in a path", "raise `max-path` if the archive is right"),
        ),
        ("bomb by count", zip(&many), ("limit", "more than 2000 entries", "raise `max-files` if the archive is right")),
        (
            "bomb by ratio",
            bomb,
            ("limit", "more than 200 bytes of content", "raise `max-ratio` if the archive is right"),
        ),
        (
            "another name at its place",
            changed(30, b'x'),
            ("bad-content", "the header of `aa` differs from the central directory", REPACK_HINT),
        ),
        ("entries that overlap", changed(central + 48 + 42, 0), ("bad-content", "damaged", REPACK_HINT)),
        ("fewer entries than there are", changed(good.len() - 12, 1), ("bad-content", "damaged", REPACK_HINT)),
        (
            "something after the end",
            [good.clone(), b"more".to_vec()].concat(),
            ("bad-content", "extra bytes", REPACK_HINT),
        ),
        (
            "something before it",
            [b"MZ".to_vec(), good.clone()].concat(),
            ("bad-content", "is not a tar.gz, tar.zst, tar or zip", "pack the release as"),
        ),
        ("cut", good[..good.len() - 9].to_vec(), ("bad-content", "truncated", REPACK_HINT)),
    ]
}

/// Pulls each archive, and compares what is said and all that is there before and after.
fn assert_harmless(suffix: &str, archives: Vec<(&'static str, Vec<u8>, ExpectedRefusal)>) {
    for (what, archive, (kind, message, hint)) in archives {
        let what = format!("{what}, {suffix}");
        let environment = TestEnvironment::with_plan(
            &format!(
                r#"version: 1
app: shop
state: dir:state
steps:
  pull:
    uses: pull
    with:
      from: "file:dist/evil.{suffix}"
      into: app
      digest: "sha256:{}"
      limits: {{ max-files: 2000, max-bytes: 4000000 }}
    grants: {{ dirs: {{ app: ./deploy, dist: "./dist:ro" }} }}
"#,
                sha256(&archive),
            )
            .replace(
                "max-bytes: 4000000",
                if what.contains("size") { "max-bytes: 2000000" } else { "max-bytes: 4000000" },
            ),
        );
        environment.write(&format!("dist/evil.{suffix}"), archive);
        for precious in ["outside", "deploy/outside", "deploy/releases/outside"] {
            environment.write(precious, "precious");
        }
        let before = files_besides_state(&environment);
        let answer = environment.deploy("r1", &[]);
        answer.assert_exit(1);
        assert_eq!(files_besides_state(&environment), before, "{what}");
        assert_eq!(environment.list("deploy/releases"), ["outside"], "{what}");

        let lines = answer.json_lines();
        let outcome = lines.iter().find(|line| line["event"]["type"] == "outcome").expect(&what);
        let failure = &outcome["event"]["failure"];
        assert_eq!(failure["kind"], kind, "{what}: {failure}");
        for (field, wanted) in [("message", message), ("hint", hint)] {
            let text = failure[field].as_str().unwrap_or_default();
            assert!(text.contains(wanted), "{what}: {wanted:?} is not in {text:?}");
        }
    }
    assert!(!std::path::Path::new("/tmp/pawl-owned").exists());
}

/// Everything around the plan's folder and in it, but what is the runner's own: state and lock file.
fn files_besides_state(environment: &TestEnvironment) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut tree = environment.tree();
    let own = ["state", "deploy.lock"].map(|name| environment.path(name));
    tree.retain(|path, _| !own.iter().any(|own| path.starts_with(own)));
    // The runner keeps the machine's identity in `.local`.
    let home = environment.list("../home").into_iter().filter(|name| name != ".local");
    for name in environment.list("..").into_iter().chain(home) {
        tree.insert(name.into(), Vec::new());
    }
    tree
}

#[test]
fn malicious_tars_are_rejected() {
    let mut tars = malicious_tars();
    tars.pop();
    assert_harmless("tar", tars);
}

#[test]
fn malicious_gzip_tars_are_rejected() {
    assert_harmless("tar.gz", compressed_tars(gzip));
}

#[test]
fn malicious_zstd_tars_are_rejected() {
    assert_harmless("tar.zst", compressed_tars(zstd));
}

#[test]
fn malicious_zips_are_rejected() {
    assert_harmless("zip", malicious_zips());
}

/// Packed as a whole; and what only a packed one can be.
fn compressed_tars(pack: fn(&[u8]) -> Vec<u8>) -> Vec<(&'static str, Vec<u8>, ExpectedRefusal)> {
    let mut all: Vec<_> = malicious_tars().into_iter().map(|(what, tar, words)| (what, pack(&tar), words)).collect();
    let good = pack(&tar(&[file("a", b"1")]));
    all.push(("cut when packed", good[..good.len() - 5].to_vec(), ("bad-content", "truncated", REPACK_HINT)));
    let more = [good.clone(), b"more".to_vec()].concat();
    all.push(("something after what is packed", more, ("bad-content", "extra bytes", REPACK_HINT)));
    let twice = [good.clone(), good].concat();
    all.push(("two of them", twice, ("bad-content", "extra bytes", REPACK_HINT)));
    let endless = [pack(&tar(&[])), pack(&[0; 60_000]).repeat(100)].concat();
    all.push((
        "one member after the other",
        endless,
        ("limit", "bytes of content per byte of its own", "raise `max-ratio`"),
    ));
    all
}
