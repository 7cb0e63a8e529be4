//! Hostile archives, pulled by the real runner: a typed failure that names entry or limit, nothing changed outside of the
//! directory, nothing left inside.

use std::{collections::BTreeMap, path::PathBuf};

use crate::support::{
    Environment,
    crafted::{Entry, Zipped, file, folder, gnu_name, gzip, hard_link, pax, symlink, tar, zip, zstd},
    sha256,
};

const REGULAR: u32 = 0o100_644;

/// What is said of an archive: the failure's kind, its message, its hint.
type Words = (&'static str, &'static str, &'static str);

const WITHOUT: &str = "pack the archive without this entry";
const AGAIN: &str = "pack the archive again, or download it again";

fn refused(message: &'static str) -> Words {
    ("bad-content", message, WITHOUT)
}

fn device(kind: u8) -> Entry {
    Entry { kind, ..file("odd", b"") }
}

fn of_mode(mode: u32) -> Entry {
    Entry { mode, ..file("odd", b"") }
}

/// Tars that want what they may not have, by name.
fn tars() -> Vec<(&'static str, Vec<u8>, Words)> {
    let long = "d/".repeat(2500);
    let many: Vec<Entry> = (0..2001).map(|number| file(&format!("f{number}"), b"")).collect();
    let zeros = vec![0; 3 << 20];
    let large = b"0123456789abcdef".repeat(1 << 16);
    vec![
        (
            "traversal",
            tar(&[file("ok", b"1"), file("../outside", b"owned")]),
            refused("\"../outside\" is refused: its path holds `..`"),
        ),
        ("traversal in the middle", tar(&[file("a/../../outside", b"owned")]), refused("its path holds `..`")),
        ("traversal by pax", tar(&[pax("path", "../outside"), file("ok", b"owned")]), refused("its path holds `..`")),
        ("traversal by GNU", tar(&[gnu_name("../outside"), file("ok", b"owned")]), refused("its path holds `..`")),
        (
            "absolute",
            tar(&[file("/tmp/pawl-owned", b"owned")]),
            refused("\"/tmp/pawl-owned\" is refused: its path is absolute"),
        ),
        (
            "link, then through it",
            tar(&[symlink("way", ".."), file("way/outside", b"owned")]),
            refused("it lies behind the link \"way\""),
        ),
        (
            "link, then over it",
            tar(&[symlink("way", "../outside"), file("way", b"owned")]),
            refused("there is another entry of that name"),
        ),
        (
            "link out",
            tar(&[symlink("way", "../../../outside")]),
            refused("it links to \"../../../outside\", outside of the folder"),
        ),
        ("link to an absolute path", tar(&[symlink("way", "/etc")]), refused("it links to the absolute path \"/etc\"")),
        (
            "link out by another",
            tar(&[symlink("a/b/up", "../.."), symlink("a/out", "b/up/../outside")]),
            refused("outside of the folder"),
        ),
        (
            "hard link out",
            tar(&[hard_link("way", "../outside")]),
            refused("it links to \"../outside\", outside of the folder"),
        ),
        (
            "hard link to an absolute path",
            tar(&[hard_link("way", "/etc/passwd")]),
            refused("it links to the absolute path \"/etc/passwd\""),
        ),
        (
            "hard link to a link",
            tar(&[symlink("l", "f"), file("f", b""), hard_link("h", "l")]),
            refused("which is not a file earlier in the archive"),
        ),
        (
            "device",
            tar(&[device(b'3')]),
            refused("\"odd\" is refused: it is neither file, directory nor link but a character device"),
        ),
        ("block device", tar(&[device(b'4')]), refused("but a block device")),
        ("pipe", tar(&[device(b'6')]), refused("but a pipe")),
        ("sparse", tar(&[device(b'S')]), refused("it is a sparse file")),
        ("sparse by pax", tar(&[pax("GNU.sparse.major", "1"), file("f", b"")]), refused("it is a sparse file")),
        ("setuid", tar(&[of_mode(0o4755)]), refused("its mode 4755 has the setuid, setgid or sticky bit")),
        ("setgid", tar(&[of_mode(0o2755)]), refused("its mode 2755")),
        ("sticky", tar(&[of_mode(0o1777)]), refused("its mode 1777")),
        (
            "newline",
            tar(&[file("new\nline", b"")]),
            refused("\"new\\nline\" is refused: its name or target holds a control character"),
        ),
        (
            "case",
            tar(&[file("Readme", b"1"), file("README", b"2")]),
            refused("its name differs from \"Readme\" by case only"),
        ),
        (
            "normal form",
            tar(&[file("caf\u{e9}", b"1"), file("cafe\u{301}", b"2")]),
            refused("only by how its characters are encoded"),
        ),
        ("duplicate", tar(&[file("a", b"1"), file("./a", b"2")]), refused("there is another entry of that name")),
        ("folder over file", tar(&[file("a", b"1"), folder("a")]), refused("there is another entry of that name")),
        ("file over folder", tar(&[folder("a"), file("a", b"1")]), refused("there is another entry of that name")),
        ("below a file", tar(&[file("a", b"1"), file("a/b", b"1")]), refused("it lies below \"a\", which is a file")),
        ("no name", tar(&[file(".", b"1")]), refused("it has no name")),
        ("our own list", tar(&[file(".pawl-files", b"1")]), refused("the name is reserved")),
        (
            "5,000 characters",
            tar(&[pax("path", &long), file("d", b"")]),
            ("limit", "more than 1024 bytes in a path", "raise `max-path` if that is right"),
        ),
        (
            "bomb by count",
            tar(&many),
            ("limit", "more than 2000 entries, at \"f2000\"", "raise `max-files` if that is right"),
        ),
        (
            "bomb by size",
            tar(&[file("a", &large), file("b", &large)]),
            ("limit", "more than 2000000 bytes", "raise `max-bytes` if that is right"),
        ),
        (
            "a size that lies",
            tar(&[Entry { size: Some(1 << 32), ..file("a", b"1") }]),
            ("limit", "more than 2000000 bytes, at \"a\"", "raise `max-bytes` if that is right"),
        ),
        (
            "a size beyond the end",
            tar(&[Entry { size: Some(5000), ..file("a", b"1") }]),
            ("bad-content", "truncated", AGAIN),
        ),
        (
            "something after the end",
            [tar(&[file("a", b"1")]), b"more".to_vec()].concat(),
            ("bad-content", "something else follows", AGAIN),
        ),
        ("cut", tar(&[file("a", &[7; 3000])])[..2000].to_vec(), ("bad-content", "truncated", AGAIN)),
        // Last, since as a plain tar it is no bomb: only what is packed has a ratio.
        (
            "bomb by ratio",
            tar(&[file("zeros", &zeros)]),
            ("limit", "more than 200 bytes of content for each of its own", "raise `max-ratio` if that is right"),
        ),
    ]
}

fn zips() -> Vec<(&'static str, Vec<u8>, Words)> {
    let entry = |name| zip(&[Zipped(b"ok", REGULAR, b"1"), Zipped(name, REGULAR, b"owned")]);
    let of_mode = |mode| zip(&[Zipped(b"odd", mode, b"")]);
    let two = |first, second| zip(&[Zipped(first, REGULAR, b"1"), Zipped(second, REGULAR, b"2")]);
    let link = |target| Zipped(b"way", 0o120_777, target);
    let good = two(b"aa", b"bb");
    let central = good.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let changed = |at: usize, byte: u8| {
        let mut zip = good.clone();
        zip[at] = byte;
        zip
    };
    let many: Vec<String> = (0..2001).map(|number| format!("f{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| Zipped(name.as_bytes(), REGULAR, b"")).collect();
    let mut bomb = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    bomb.start_file("zeros", ::zip::write::SimpleFileOptions::default()).unwrap();
    std::io::Write::write_all(&mut bomb, &vec![0; 1_900_000]).unwrap();
    let bomb = bomb.finish().unwrap().into_inner();
    let long = "d/".repeat(2500);
    vec![
        ("traversal", entry(b"../outside"), refused("\"../outside\" is refused: its path holds `..`")),
        ("absolute", entry(b"/tmp/pawl-owned"), refused("its path is absolute")),
        ("backslash", entry(b"..\\outside"), refused("its name holds a backslash")),
        ("drive", entry(b"C:\\outside"), refused("its name holds a backslash")),
        ("newline", entry(b"new\nline"), refused("control character")),
        (
            "link, then through it",
            zip(&[link(b".."), Zipped(b"way/outside", REGULAR, b"owned")]),
            refused("behind the link \"way\""),
        ),
        ("link out", zip(&[link(b"../outside")]), refused("outside of the folder")),
        ("link to an absolute path", zip(&[link(b"/etc")]), refused("the absolute path \"/etc\"")),
        ("device", of_mode(0o020_644), refused("a character device")),
        ("pipe", of_mode(0o010_644), refused("a pipe")),
        ("socket", of_mode(0o140_644), refused("a socket")),
        ("setuid", of_mode(0o104_755), refused("its mode 4755")),
        ("case", two(b"Readme", b"README"), refused("by case only")),
        (
            "normal form",
            two("caf\u{e9}".as_bytes(), "cafe\u{301}".as_bytes()),
            refused("how its characters are encoded"),
        ),
        ("duplicate", two(b"a", b"a"), refused("\"a\" is refused: there is another entry of that name")),
        (
            "5,000 characters",
            entry(long.as_bytes()),
            ("limit", "more than 1024 bytes in a path", "raise `max-path` if that is right"),
        ),
        ("bomb by count", zip(&many), ("limit", "more than 2000 entries", "raise `max-files` if that is right")),
        ("bomb by ratio", bomb, ("limit", "more than 200 bytes of content", "raise `max-ratio` if that is right")),
        (
            "another name at its place",
            changed(30, b'x'),
            ("bad-content", "\"aa\" is another at its place than in the directory", AGAIN),
        ),
        ("entries that overlap", changed(central + 48 + 42, 0), ("bad-content", "damaged", AGAIN)),
        ("fewer entries than there are", changed(good.len() - 12, 1), ("bad-content", "damaged", AGAIN)),
        (
            "something after the end",
            [good.clone(), b"more".to_vec()].concat(),
            ("bad-content", "something else follows", AGAIN),
        ),
        (
            "something before it",
            [b"MZ".to_vec(), good.clone()].concat(),
            ("bad-content", "is not a tar.gz, tar.zst, tar or zip", "pack the release as"),
        ),
        ("cut", good[..good.len() - 9].to_vec(), ("bad-content", "truncated", AGAIN)),
    ]
}

/// Pulls each archive, and compares what is said and all that is there before and after.
fn assert_harmless(suffix: &str, archives: Vec<(&'static str, Vec<u8>, Words)>) {
    for (what, archive, (kind, message, hint)) in archives {
        let what = format!("{what}, {suffix}");
        let environment = Environment::with_plan(
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
        let before = surroundings(&environment);
        let answer = environment.deploy("r1", &[]);
        answer.assert_exit(1);
        assert_eq!(surroundings(&environment), before, "{what}");
        assert_eq!(environment.list("deploy/releases"), ["outside"], "{what}");

        let lines = answer.lines();
        let outcome = lines.iter().find(|line| line["event"]["type"] == "outcome").expect(&what);
        let failure = &outcome["event"]["failure"];
        assert_eq!(failure["kind"], kind, "{what}: {failure}");
        for (field, wanted) in [("message", message), ("hint", hint)] {
            let said = failure[field].as_str().unwrap_or_default();
            assert!(said.contains(wanted), "{what}: {wanted:?} is not in {said:?}");
        }
    }
    assert!(!std::path::Path::new("/tmp/pawl-owned").exists());
}

/// Everything around the plan's folder and in it, but what is the runner's own: state and lock file.
fn surroundings(environment: &Environment) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut tree = environment.tree();
    let own = ["state", "deploy.lock"].map(|name| environment.path(name));
    tree.retain(|path, _| !own.iter().any(|own| path.starts_with(own)));
    for name in environment.list("..").into_iter().chain(environment.list("../home")) {
        tree.insert(name.into(), Vec::new());
    }
    tree
}

#[test]
fn a_tar() {
    let mut tars = tars();
    tars.pop();
    assert_harmless("tar", tars);
}

#[test]
fn a_tar_gz() {
    assert_harmless("tar.gz", packed(gzip));
}

#[test]
fn a_tar_zst() {
    assert_harmless("tar.zst", packed(zstd));
}

#[test]
fn a_zip() {
    assert_harmless("zip", zips());
}

/// Packed as a whole; and what only a packed one can be.
fn packed(pack: fn(&[u8]) -> Vec<u8>) -> Vec<(&'static str, Vec<u8>, Words)> {
    let mut all: Vec<_> = tars().into_iter().map(|(what, tar, words)| (what, pack(&tar), words)).collect();
    let good = pack(&tar(&[file("a", b"1")]));
    all.push(("cut when packed", good[..good.len() - 5].to_vec(), ("bad-content", "truncated", AGAIN)));
    let more = [good.clone(), b"more".to_vec()].concat();
    all.push(("something after what is packed", more, ("bad-content", "something else follows", AGAIN)));
    let twice = [good.clone(), good].concat();
    all.push(("two of them", twice, ("bad-content", "something else follows", AGAIN)));
    let endless = [pack(&tar(&[])), pack(&[0; 60_000]).repeat(100)].concat();
    all.push((
        "one member after the other",
        endless,
        ("limit", "bytes of content for each of its own", "raise `max-ratio`"),
    ));
    all
}
