//! The folder of one release, and the temporary folders next to it.

use core::fmt;

use pawl_step::fs::{self, FileType};
use pawl_step::{Digest, Failure, blobs};

use crate::shared_paths::SharedPaths;

/// The name prefix of unfinished folders.
const TEMPORARY_PREFIX: &str = ".tmp-";

/// The folder of one release: `releases/<64 hex digits>` in a granted directory.
#[derive(Debug)]
pub(crate) struct ReleaseFolder {
    dir: String,
    path: String,
}

/// The state of a release folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReleaseFolderState {
    Missing,
    Intact,
    /// The folder differs from its release; one line for each difference.
    Damaged(Vec<String>),
    /// The state is unknown, for the given reason.
    Unknown(String),
}

impl ReleaseFolder {
    pub(crate) fn new(dir: String, digest: &Digest) -> Self {
        Self { dir, path: format!("releases/{}", digest.hex()) }
    }

    pub(crate) fn dir(&self) -> &str {
        &self.dir
    }

    /// Returns the path relative to the directory.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the path of a temporary folder. It is the same for the same key and purpose, so that no random name is
    /// needed.
    pub(crate) fn temporary_path(&self, key: &str, purpose: &str) -> String {
        // FNV-1a, 64 bits: a name, not a secret. <http://www.isthe.com/chongo/tech/comp/fnv/>
        let hash = key
            .bytes()
            .chain(purpose.bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("releases/{TEMPORARY_PREFIX}{hash:016x}")
    }

    pub(crate) fn inspect(&self, shared: &SharedPaths) -> Result<ReleaseFolderState, Failure> {
        match fs::metadata_of_link(&self.to_string())?.map(|found| found.file_type) {
            None => return Ok(ReleaseFolderState::Missing),
            Some(FileType::Directory) => {}
            Some(FileType::File | FileType::Link | FileType::Other) => {
                return Ok(ReleaseFolderState::Damaged(vec!["it is not a folder".to_owned()]));
            }
        }
        let differences = blobs::compare(&self.dir, &self.path)?;
        let (total, mut lines) = (differences.len(), shared.differences_outside_shared(differences));
        if let [line] = lines.as_slice()
            && line.starts_with("and ")
            && total > 1
        {
            return Ok(ReleaseFolderState::Unknown(format!(
                "{self} has more differences than the host lists, and all listed ones are shared paths"
            )));
        }
        lines.extend(shared.unlinked_paths(&self.dir, &self.path)?);
        Ok(if lines.is_empty() { ReleaseFolderState::Intact } else { ReleaseFolderState::Damaged(lines) })
    }

    /// Removes the temporary folders of killed pulls.
    pub(crate) fn remove_leftovers(&self) -> Result<(), Failure> {
        fs::create_dir_all(&format!("{}/releases", self.dir))?;
        for entry in fs::list(&format!("{}/releases", self.dir))? {
            if entry.name.starts_with(TEMPORARY_PREFIX) {
                blobs::remove(&self.dir, &format!("releases/{}", entry.name))?;
            }
        }
        Ok(())
    }

    /// Puts a finished folder in place by one rename. A damaged folder is renamed away first and removed last.
    pub(crate) fn install(&self, key: &str, new: &str) -> Result<(), Failure> {
        let old = self.temporary_path(key, "old");
        let is_replaced = fs::metadata_of_link(&self.to_string())?.is_some();
        if is_replaced {
            fs::rename(&self.to_string(), &format!("{}/{old}", self.dir))?;
        }
        fs::rename(&format!("{}/{new}", self.dir), &self.to_string())?;
        if is_replaced { blobs::remove(&self.dir, &old) } else { Ok(()) }
    }

    /// Removes the folder; a kill never leaves a part of it under its own name.
    pub(crate) fn remove(&self, key: &str) -> Result<(), Failure> {
        let old = self.temporary_path(key, "old");
        if fs::metadata_of_link(&self.to_string())?.is_some() {
            blobs::remove(&self.dir, &old)?;
            fs::rename(&self.to_string(), &format!("{}/{old}", self.dir))?;
        }
        blobs::remove(&self.dir, &old)
    }
}

impl fmt::Display for ReleaseFolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.dir, self.path)
    }
}
