//! The hashes of files of this machine, each computed once for all hosts and calls of a deployment.
//!
//! A file counts as unchanged while its inode, size and time of change are. One that was changed just now is hashed each time: the time is too
//! coarse to tell whether it was changed since.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, PoisonError},
};

use contract::hash::Blake3Hash;
use journal::clock;

/// How long ago a file must have been changed.
const SETTLED_AFTER_SECONDS: i64 = 2;

/// The hashes so far.
#[derive(Default)]
pub struct FileHashes {
    known: Mutex<BTreeMap<FileVersion, Blake3Hash>>,
}

/// What differs when a file does: device, inode, size, seconds and nanoseconds of its change.
type FileVersion = (u64, u64, u64, i64, i64);

impl FileHashes {
    /// The hash of a file. Others who ask meanwhile wait, since most ask for the same one. Blocks.
    pub(super) fn hash(&self, file: fs::File, metadata: &fs::Metadata) -> io::Result<Blake3Hash> {
        let version = (metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = known.get(&version) {
            return Ok(*hash);
        }
        let hash = Blake3Hash::of_reader(file)?;
        if clock::now().as_second() - metadata.ctime() > SETTLED_AFTER_SECONDS {
            known.insert(version, hash);
        }
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_has_another_hash() {
        let hashes = FileHashes::default();
        let file = tempfile::NamedTempFile::new().unwrap();
        let hash = |text: &str| {
            fs::write(file.path(), text).unwrap();
            let opened = fs::File::open(file.path()).unwrap();
            let metadata = opened.metadata().unwrap();
            hashes.hash(opened, &metadata).unwrap()
        };
        assert_eq!(hash("one"), Blake3Hash::of(b"one"));
        assert_eq!(hash("two"), Blake3Hash::of(b"two"), "of the same length, in the same moment");
        assert!(hashes.known.lock().unwrap().is_empty());
    }
}
