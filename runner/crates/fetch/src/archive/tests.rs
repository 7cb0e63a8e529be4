//! Tests with hand-made archives, and a granted directory with a file outside that must not change.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test that meets another variant fails")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::atomic::AtomicBool,
};

use ::tar::{EntryType, Header};

use super::{error::EntryRefusal, *};

mod compare_remove;
mod damaged;
mod decoded;
mod edge_cases;
mod hostile;
mod layers;
mod round_trip;

/// A granted directory `grant` with a file `outside` next to it.
struct ArchiveTestDir {
    temp: tempfile::TempDir,
    dir: Dir,
}

impl ArchiveTestDir {
    fn new() -> Self {
        // In memory if possible, because `unpack` syncs the whole file system, including other writers' data.
        let memory = Path::new("/dev/shm");
        let temp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        fs::create_dir(temp.path().join("grant")).unwrap();
        fs::write(temp.path().join("outside"), "precious").unwrap();
        let dir = Dir::open_ambient_dir(temp.path().join("grant"), cap_std::ambient_authority()).unwrap();
        Self { temp, dir }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.temp.path().join("grant").join(path)
    }

    /// Extracts an archive into `new`. Its tar alone, where it can be decoded, must give the same.
    fn unpack(&self, name: &str, archive: &[u8], limits: &ArchiveLimits) -> Result<UnpackSummary, ArchiveError> {
        let (expected, stop) = (digest(archive).unwrap(), AtomicBool::new(false));
        let job = UnpackJob { name, expected: &expected, decoded: None, limits, stop: &stop, progress: &|_| {} };
        let unpacked = unpack(archive, &job, &self.dir, "new");
        let mut tar = Vec::new();
        if matches!(unpacked, Err(ArchiveError::FolderExists(_))) {
            return unpacked;
        }
        match decode_tar(archive, &job, |plain| plain.read_to_end(&mut tar)) {
            Ok(None) => {}
            Err(_) => assert!(unpacked.is_err(), "{name}"),
            Ok(Some((decoded, _))) => {
                let again = unpack(tar.as_slice(), &UnpackJob { decoded: Some(&decoded), ..job }, &self.dir, "again");
                let shown =
                    |result: &Result<_, ArchiveError>| result.as_ref().map_err(ArchiveError::to_string).copied();
                assert_eq!(shown(&again), shown(&unpacked), "{name}");
                if again.is_ok() {
                    assert_eq!(listing(&self.path("again")), listing(&self.path("new")));
                    remove(&self.dir, "again").unwrap();
                }
            }
        }
        unpacked
    }

    /// Asserts that the granted directory is empty and nothing changed outside it.
    fn assert_untouched(&self) {
        assert_eq!(listing(self.temp.path()).keys().collect::<Vec<_>>(), ["grant", "outside"]);
        assert_eq!(fs::read_to_string(self.temp.path().join("outside")).unwrap(), "precious");
    }
}

/// Asserts that extraction fails and leaves nothing.
fn failure_within(name: &str, archive: &[u8], limits: &ArchiveLimits) -> ArchiveError {
    let room = ArchiveTestDir::new();
    let error = room.unpack(name, archive, limits).unwrap_err();
    room.assert_untouched();
    assert!(!error.to_string().is_empty());
    error
}

fn failure(name: &str, archive: &[u8]) -> ArchiveError {
    failure_within(name, archive, &ArchiveLimits::default())
}

/// Asserts that extraction refuses `entry`.
fn assert_refused(name: &str, archive: &[u8], entry: &str, refusal: EntryRefusal) {
    match failure(name, archive) {
        ArchiveError::Refused { entry: seen, refusal: why } => assert_eq!((seen.as_str(), why), (entry, refusal)),
        other => panic!("expected {refusal:?}, got {other:?}"),
    }
}

/// Path → (kind and mode, content or target) of everything below a folder, without the lists of files.
fn listing(root: &Path) -> BTreeMap<String, (char, u32, String)> {
    let mut found = BTreeMap::new();
    let mut remaining = vec![root.to_owned()];
    while let Some(folder) = remaining.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let what = if meta.is_dir() {
                remaining.push(path.clone());
                ('d', meta.mode() & 0o7777, String::new())
            } else if meta.is_symlink() {
                ('l', 0, fs::read_link(&path).unwrap().to_str().unwrap().to_owned())
            } else {
                ('f', meta.mode() & 0o7777, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned())
            };
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if name != file_list::FILE_LIST_NAME {
                found.insert(name, what);
            }
        }
    }
    found
}

/// A builder for tars.
#[derive(Clone)]
struct TestTarBuilder(Vec<u8>);

impl TestTarBuilder {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn header(mut self, mut header: Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn entry(self, kind: EntryType, name: &[u8], mode: u32, link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_700_000_000);
        self.header(header, content)
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), 0o644, b"", content.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), 0o755, b"", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), 0o777, target.as_bytes(), b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name.as_bytes(), 0o644, target.as_bytes(), b"")
    }

    /// Adds a pax extended header with one record.
    fn pax(self, key: &str, value: &str) -> Self {
        self.entry(EntryType::XHeader, b"pax", 0o644, b"", pax_record(key, value).as_bytes())
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn pax_record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).unwrap();
    format!("{length}{rest}")
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(content, 1).unwrap()
}

/// A zip entry with exactly this name, external attributes and content.
struct TestZipEntry<'a>(&'a [u8], u32, &'a [u8]);

/// A zip of stored entries.
fn zip(entries: &[TestZipEntry<'_>]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for TestZipEntry(name, attributes, content) in entries {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let at = archive.len() as u32;
        // Version, flags, method, time and date (1980-01-01), check sum, sizes, lengths of name and extra.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc.sum().to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(*name);
        archive.extend(*content);
        // Made by Unix; after the common fields: comment, disk, internal and external attributes, offset.
        directory.extend(b"PK\x01\x02\x14\x03");
        directory.extend(&common);
        directory.extend([0; 6]);
        directory.extend(attributes.to_le_bytes());
        directory.extend(at.to_le_bytes());
        directory.extend(*name);
    }
    let (at, count) = (archive.len() as u32, (entries.len() as u16).to_le_bytes());
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend(count);
    archive.extend(count);
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(at.to_le_bytes());
    archive.extend([0, 0]);
    archive
}

const REGULAR: u32 = 0o100_644 << 16;
