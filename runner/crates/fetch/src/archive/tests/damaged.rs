//! Truncated, damaged and wrong archives; failing sources, stopping callers, and folders that are in the way.

use std::io::{self, Read};

use contract::step::FailureKind;
use proptest::prelude::*;

use super::*;

fn sample() -> Vec<u8> {
    let noise: String = (0..20_000_u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string()).collect();
    TestTarBuilder::new().dir("d").file("d/noise", &noise).file("small", "text").symlink("l", "small").finish()
}

fn zipped() -> Vec<u8> {
    zip(&[
        TestZipEntry(b"d/", 0o040_755 << 16, b""),
        TestZipEntry(b"d/f", REGULAR, &[7; 50_000]),
        TestZipEntry(b"g", REGULAR, b"text"),
    ])
}

#[test]
fn truncation_at_any_byte_is_detected() {
    for (name, archive) in
        [("a.tar", sample()), ("a.tar.gz", gzip(&sample())), ("a.tar.zst", zstd(&sample())), ("a.zip", zipped())]
    {
        // The end marker of a tar is two blocks, but one is enough.
        let whole = if name == "a.tar" { archive.len() - 512 } else { archive.len() };
        let ends = (0..700).step_by(13).chain((700..whole).step_by(archive.len() / 29)).chain(whole - 40..whole);
        for end in ends {
            match failure(name, &archive[..end]) {
                ArchiveError::Truncated => {}
                ArchiveError::UnknownFormat { .. } => assert!(end < 512, "{name} at {end}"),
                other => panic!("{name} at {end}: {other:?}"),
            }
        }
    }
}

#[test]
fn tar_needs_its_end_marker() {
    assert!(matches!(failure("a.tar", &TestTarBuilder::new().file("f", "1").0), ArchiveError::Truncated));
}

#[test]
fn bytes_after_the_end() {
    let tar = sample();
    for (name, archive) in [
        ("a.tar", [tar.clone(), b"more".to_vec()].concat()),
        ("a.tar", [tar.clone(), tar.clone()].concat()),
        ("a.tar.gz", [gzip(&tar), b"more".to_vec()].concat()),
        ("a.tar.gz", [gzip(&tar), vec![0; 100], b"more".to_vec()].concat()),
        ("a.tar.gz", gzip(&[tar.clone(), b"more".to_vec()].concat())),
        ("a.tar.zst", [zstd(&tar), b"more".to_vec()].concat()),
        ("a.tar.zst", [zstd(&tar), vec![0; 100]].concat()),
        ("a.zip", [zipped(), b"more".to_vec()].concat()),
        ("a.zip", [zipped(), vec![0; 512]].concat()),
    ] {
        let error = failure(name, &archive);
        assert!(matches!(error, ArchiveError::TrailingBytes), "{name}: {error:?}");
    }
}

#[test]
fn damage() {
    let mut header = sample();
    header[3] ^= 1;
    let mut crc = gzip(&sample());
    let at = crc.len() - 6;
    crc[at] ^= 1;
    let mut zip_crc = zipped();
    zip_crc[70] ^= 1;
    let pax =
        |records: &[u8]| TestTarBuilder::new().entry(EntryType::XHeader, b"p", 0, b"", records).file("f", "").finish();
    let global = |record: String| {
        TestTarBuilder::new().entry(EntryType::XGlobalHeader, b"g", 0, b"", record.as_bytes()).finish()
    };
    for (name, archive) in [
        ("header.tar", header),
        ("crc.tar.gz", crc),
        ("crc.zip", zip_crc),
        ("record.tar", pax(b"9999 path=x\n")),
        ("record.tar", pax(b"0 path=x\n")),
        ("record.tar", pax(b"no records")),
        ("record.tar", pax(b"12 path=abc?")),
        ("record.tar", pax(pax_record("size", "-1").as_bytes())),
        ("global.tar", global(pax_record("path", "x"))),
        ("alone.tar", TestTarBuilder::new().pax("path", "x").finish()),
        ("unsupported.tar.gz", [b"\x1f\x8b\x08\xff".to_vec(), vec![7; 600]].concat()),
    ] {
        let error = failure(name, &archive);
        assert!(matches!(error, ArchiveError::Damaged(_) | ArchiveError::Truncated), "{name}: {error:?}");
        assert_eq!(error.kind(), FailureKind::BadContent);
    }
}

#[test]
fn unknown_formats_are_refused() {
    for (name, content, reason) in [
        ("a.tar.gz", b"<!doctype html>".to_vec(), "it looks like a web page"),
        ("a.tar.zst", gzip(b"x"), "it looks like gzip"),
        ("a.zip", sample(), "it looks like a plain tar"),
        ("a.rar", vec![9; 9000], "its first bytes match none of them"),
        ("a.tar", Vec::new(), "it is empty"),
    ] {
        match failure(name, &content) {
            ArchiveError::UnknownFormat { reason: seen, .. } => assert_eq!(seen, reason, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn wrong_digest_is_refused() {
    let expected: Digest = format!("sha256:{}", "5".repeat(64)).parse().unwrap();
    let limits = ArchiveLimits::default();
    let evil = TestTarBuilder::new().file("../outside", "owned").finish();
    for (name, archive) in [
        ("a.tar", sample()),
        ("a.tar.gz", gzip(&sample())),
        ("a.tar.zst", zstd(&sample())),
        ("a.zip", zipped()),
        // A wrong digest explains every other error.
        ("cut.tar.gz", gzip(&sample())[..5000].to_vec()),
        ("web-page.tar.gz", b"<html>".to_vec()),
        ("evil.tar", evil),
    ] {
        let room = ArchiveTestDir::new();
        let job = UnpackJob {
            name,
            expected: &expected,
            decoded: None,
            limits: &limits,
            stop: &AtomicBool::new(false),
            progress: &|_| {},
        };
        let error = unpack(archive.as_slice(), &job, &room.dir, "new").unwrap_err();
        room.assert_untouched();
        let actual = digest(archive.as_slice()).unwrap();
        let text = error.to_string();
        assert!(text.contains(&actual.to_string()) && text.contains(&expected.to_string()), "{text}");
        assert!(matches!(error, ArchiveError::WrongDigest { .. }), "{name}: {error:?}");
        assert_eq!(error.kind(), FailureKind::BadContent);
    }
}

/// A source that returns its content in small pieces and then does something.
struct InterruptingSource<F> {
    content: io::Cursor<Vec<u8>>,
    after: u64,
    then: F,
}

impl<F: FnMut() -> io::Result<()>> Read for InterruptingSource<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.content.position() >= self.after {
            (self.then)()?;
        }
        let count = buffer.len().min(1000);
        self.content.read(&mut buffer[..count])
    }
}

#[test]
fn failing_sources_and_stopping_callers_leave_nothing() {
    for (name, archive) in
        [("a.tar", sample()), ("a.tar.gz", gzip(&sample())), ("a.tar.zst", zstd(&sample())), ("a.zip", zipped())]
    {
        for after in [0, 1, 1000, archive.len() as u64 / 2, archive.len() as u64] {
            let (room, expected, limits) =
                (ArchiveTestDir::new(), digest(archive.as_slice()).unwrap(), ArchiveLimits::default());
            let stop = AtomicBool::new(false);
            let job =
                UnpackJob { name, expected: &expected, decoded: None, limits: &limits, stop: &stop, progress: &|_| {} };
            let content = || io::Cursor::new(archive.clone());
            let reset = || Err(io::ErrorKind::ConnectionReset.into());
            let failing = InterruptingSource { content: content(), after, then: reset };
            let error = unpack(failing, &job, &room.dir, "new").unwrap_err();
            assert!(matches!(error, ArchiveError::Source(_)), "{name} after {after}: {error:?}");
            assert_eq!(error.kind(), FailureKind::Transient);
            room.assert_untouched();

            let setting = || {
                stop.store(true, Ordering::Relaxed);
                Ok(())
            };
            let error = unpack(InterruptingSource { content: content(), after, then: setting }, &job, &room.dir, "new")
                .unwrap_err();
            assert!(matches!(error, ArchiveError::Stopped), "{name} after {after}: {error:?}");
            room.assert_untouched();
        }
    }
}

#[test]
fn panic_of_the_source_leaves_nothing() {
    let room = ArchiveTestDir::new();
    let (expected, limits, stop) = (digest(&b""[..]).unwrap(), ArchiveLimits::default(), AtomicBool::new(false));
    let job = UnpackJob {
        name: "a.tar",
        expected: &expected,
        decoded: None,
        limits: &limits,
        stop: &stop,
        progress: &|_| {},
    };
    let content = io::Cursor::new(TestTarBuilder::new().file("f", &"x".repeat(900_000)).finish());
    let source = InterruptingSource { content, after: 500_000, then: || panic!("a bug of the source") };
    let run = std::panic::AssertUnwindSafe(|| unpack(source, &job, &room.dir, "new"));
    assert!(std::panic::catch_unwind(run).is_err());
    room.assert_untouched();
}

#[test]
fn existing_folders_are_refused() {
    let room = ArchiveTestDir::new();
    let archive = TestTarBuilder::new().file("f", "1").finish();
    fs::create_dir(room.path("new")).unwrap();
    fs::write(room.path("new/mine"), "").unwrap();
    let error = room.unpack("a.tar", &archive, &ArchiveLimits::default()).unwrap_err();
    assert!(matches!(error, ArchiveError::FolderExists(_)), "{error:?}");
    assert_eq!(error.kind(), FailureKind::Conflict);
    assert!(room.path("new/mine").exists());

    let expected = digest(archive.as_slice()).unwrap();
    let (limits, stop) = (ArchiveLimits::default(), AtomicBool::new(false));
    let job = UnpackJob {
        name: "a.tar",
        expected: &expected,
        decoded: None,
        limits: &limits,
        stop: &stop,
        progress: &|_| {},
    };
    let kind = |path| unpack(archive.as_slice(), &job, &room.dir, path).unwrap_err().kind();
    assert_eq!(kind("no/such/parent"), FailureKind::NotFound);
    for path in ["", ".", "..", "new/..", "/"] {
        assert_eq!(kind(path), FailureKind::InvalidConfig, "{path:?}");
    }
    // cap-std refuses paths outside the granted directory.
    assert_eq!(kind("../escaped"), FailureKind::Permanent);
    std::os::unix::fs::symlink("..", room.path("way")).unwrap();
    assert_eq!(kind("way/escaped"), FailureKind::Permanent);
    assert!(!room.temp.path().join("escaped").exists());
    unpack(archive.as_slice(), &job, &room.dir, "new/nested/").unwrap();
    assert!(room.path("new/nested/f").exists());
}

#[test]
fn full_disk_is_reported() {
    let error = ArchiveError::filesystem("written", "big")(io::Error::from(rustix::io::Errno::NOSPC));
    assert_eq!(error.to_string(), "`big` can't be written: the disk is full");
    assert_eq!((error.kind(), error.hint().as_deref()), (FailureKind::Permanent, Some("free some disk space")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Random changes to an archive: no panic, nothing outside, and nothing inside after a failure.
    #[test]
    fn changed_bytes_are_survived(
        which in 0..4_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let tar = TestTarBuilder::new().pax("path", "a/b").file("x", "content").symlink("a/l", "b").hard_link("h", "a/b").finish();
        let (name, mut archive) = match which {
            0 => ("a.tar", tar),
            1 => ("a.tar.gz", gzip(&tar)),
            2 => ("a.tar.zst", zstd(&tar)),
            _ => ("a.zip", zip(&[TestZipEntry(b"a/b", REGULAR, b"content"), TestZipEntry(b"l", 0o120_777 << 16, b"a/b")])),
        };
        for (index, byte) in changes {
            let at = index.index(archive.len());
            archive[at] = byte;
            if name == "a.tar" && at < 4 * 512 {
                // Otherwise hardly anything passes the checksums.
                for header in archive.chunks_exact_mut(512).filter(|block| block.get(257..262) == Some(b"ustar")) {
                    let mut fixed = Header::new_old();
                    fixed.as_mut_bytes().copy_from_slice(header);
                    fixed.set_cksum();
                    header.copy_from_slice(fixed.as_bytes());
                }
            }
        }
        let room = ArchiveTestDir::new();
        if room.unpack(name, &archive, &ArchiveLimits::default()).is_ok() {
            prop_assert_eq!(compare(&room.dir, "new").unwrap(), Vec::<String>::new());
            remove(&room.dir, "new").unwrap();
        }
        room.assert_untouched();
    }
}
