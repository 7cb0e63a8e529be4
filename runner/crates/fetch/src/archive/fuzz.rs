//! The entry point of the fuzz target (`fuzz/`): properties of any archive. Compiled only for it and for tests.

use std::{fs, io::Write as _, path::Path, sync::atomic::AtomicBool};

use cap_std::fs::Dir;
use contract::step::FailureKind;

use super::{ArchiveLimits, UnpackJob, compare, decode_tar, digest, remove, unpack};

const OUTSIDE_TEXT: &str = "precious";

/// A granted directory, and a file outside that must not change.
pub struct ArchiveFuzzDir {
    temp: tempfile::TempDir,
    dir: Dir,
}

impl Default for ArchiveFuzzDir {
    fn default() -> Self {
        Self::new()
    }
}

impl ArchiveFuzzDir {
    /// In memory if possible, because every extraction syncs its file system.
    ///
    /// # Panics
    /// If temporary files can't be created.
    #[must_use]
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let temp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let temp = temp.expect("a temporary folder can be made");
        let grant = temp.path().join("grant");
        fs::create_dir(&grant).expect("the folder is writable");
        fs::write(temp.path().join("outside"), OUTSIDE_TEXT).expect("the folder is writable");
        let dir = Dir::open_ambient_dir(grant, cap_std::ambient_authority()).expect("the folder can be opened");
        Self { temp, dir }
    }

    /// Extracts all but the first of `bytes`, which selects the format.
    ///
    /// # Panics
    /// If anything stays in the directory or changes outside it, or if the extracted content is wrong.
    pub fn check_archive(&self, bytes: &[u8]) {
        let Some((selector, content)) = bytes.split_first() else { return };
        let (name, archive) = match selector % 7 {
            0 => ("a.tar", with_check_sums(content)),
            1 => ("a.tar", content.to_owned()),
            2 => ("a.tar.gz", content.to_owned()),
            3 => ("a.tar.zst", content.to_owned()),
            4 => ("a.zip", content.to_owned()),
            5 => ("a.tar.gz", gzip(&with_check_sums(content))),
            _ => ("a.tar.zst", zstd(&with_check_sums(content))),
        };
        let limits = ArchiveLimits { max_files: 64, max_bytes: 4 << 20, max_ratio: 50, max_path_bytes: 300 };
        let expected = digest(archive.as_slice()).expect("memory can be read");
        let stop = AtomicBool::new(false);
        let job =
            UnpackJob { name, expected: &expected, decoded: None, limits: &limits, stop: &stop, progress: &|_| {} };
        let unpacked = unpack(archive.as_slice(), &job, &self.dir, "new");
        let mut tar = Vec::new();
        if let Ok(Some((decoded, _))) = decode_tar(archive.as_slice(), &job, |plain| plain.read_to_end(&mut tar)) {
            let again = unpack(tar.as_slice(), &UnpackJob { decoded: Some(&decoded), ..job }, &self.dir, "again");
            assert_eq!(again.is_ok(), unpacked.is_ok(), "its tar: {again:?}, the archive: {unpacked:?}");
            remove(&self.dir, "again").expect("what was unpacked is removed");
        }
        match unpacked {
            Ok(unpacked) => {
                assert!(unpacked.files <= limits.max_files && unpacked.bytes <= limits.max_bytes, "{unpacked:?}");
                let differences = compare(&self.dir, "new").expect("what was unpacked is compared");
                assert!(differences.is_empty(), "{differences:?}");
                remove(&self.dir, "new").expect("what was unpacked is removed");
            }
            Err(error) => {
                assert!(!error.to_string().is_empty() && !error.to_string().contains('\n'), "{error}");
                assert!(
                    matches!(error.kind(), FailureKind::BadContent | FailureKind::Limit),
                    "{}: {error}",
                    error.kind()
                );
            }
        }
        let outside = fs::read_to_string(self.temp.path().join("outside"));
        assert_eq!(outside.expect("it is still there"), OUTSIDE_TEXT);
        let names = |folder: &Path| fs::read_dir(folder).expect("it is still there").count();
        assert_eq!((names(self.temp.path()), names(&self.temp.path().join("grant"))), (2, 0), "something is left");
    }
}

/// The same tar with correct header checksums, because hardly anything else passes them.
fn with_check_sums(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_owned();
    for block in tar.chunks_exact_mut(512).filter(|block| block.get(257..262) == Some(b"ustar")) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
    tar
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = encoder.write_all(content).and_then(|()| encoder.finish());
    written.expect("memory takes everything")
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).expect("memory takes everything")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        let room = super::ArchiveFuzzDir::new();
        testing::corpus::replay("archive", |bytes| room.check_archive(bytes));
    }
}
