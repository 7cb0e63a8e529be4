//! Files that are the tar of an archive, and stand for it.
//!
//! Invariant: only the host of the sandbox says so, by the path of the file; nothing in a file or a directory does.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use fetch::archive::DecodedArchive;

/// The files that stand for archives, by their paths.
#[derive(Clone, Default)]
pub struct DecodedArchives(Arc<Mutex<BTreeMap<PathBuf, DecodedArchive>>>);

impl DecodedArchives {
    /// Notes that a file stands for an archive.
    pub fn insert(&self, path: PathBuf, archive: DecodedArchive) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path, archive);
    }

    pub(super) fn get(&self, path: &Path) -> Option<DecodedArchive> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }
}
