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

    /// Returns the path of a temporary folder of this release. It is the same in each attempt, so that the next one finds what a
    /// killed one left.
    fn temporary_path(&self, purpose: &str) -> String {
        // FNV-1a, 64 bits: a name, not a secret. <http://www.isthe.com/chongo/tech/comp/fnv/>
        let hash = self
            .path
            .bytes()
            .chain(purpose.bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("releases/{TEMPORARY_PREFIX}{hash:016x}")
    }

    /// Returns the path of the folder to unpack into.
    pub(crate) fn new_path(&self) -> String {
        self.temporary_path("new")
    }

    /// Returns the path of a damaged folder that was renamed away.
    fn old_path(&self) -> String {
        self.temporary_path("old")
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

    /// Removes the temporary folders of killed pulls. What a killed repair of this release had moved away comes back first.
    pub(crate) fn remove_leftovers(&self) -> Result<(), Failure> {
        fs::create_dir_all(&format!("{}/releases", self.dir))?;
        let (new, old) = (self.in_dir(&self.new_path()), self.in_dir(&self.old_path()));
        let is_present = |path: &str| Ok::<_, Failure>(fs::metadata_of_link(path)?.is_some());
        if !is_present(&self.to_string())? && is_present(&old)? {
            fs::rename(&old, &self.to_string())?;
        }
        if is_directory(&self.to_string())? && is_directory(&new)? {
            move_additions(&new, &self.to_string())?;
        }
        for entry in fs::list(&format!("{}/releases", self.dir))? {
            if entry.name.starts_with(TEMPORARY_PREFIX) {
                blobs::remove(&self.dir, &format!("releases/{}", entry.name))?;
            }
        }
        Ok(())
    }

    /// Puts the finished folder in place by one rename. A damaged folder is renamed away first and removed last; what it has and
    /// the release does not, such as what a later step built in it, moves into the new one. Returns its paths.
    pub(crate) fn install(&self) -> Result<Vec<String>, Failure> {
        let (new, old) = (self.in_dir(&self.new_path()), self.in_dir(&self.old_path()));
        let kept = if is_directory(&self.to_string())? { move_additions(&self.to_string(), &new)? } else { Vec::new() };
        let is_replaced = fs::metadata_of_link(&self.to_string())?.is_some();
        if is_replaced {
            fs::rename(&self.to_string(), &old)?;
        }
        fs::rename(&new, &self.to_string())?;
        if is_replaced {
            blobs::remove(&self.dir, &self.old_path())?;
        }
        Ok(kept)
    }

    /// Removes the folder; a kill never leaves a part of it under its own name.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        let removed = self.temporary_path("removed");
        if fs::metadata_of_link(&self.to_string())?.is_some() {
            blobs::remove(&self.dir, &removed)?;
            fs::rename(&self.to_string(), &self.in_dir(&removed))?;
        }
        blobs::remove(&self.dir, &removed)
    }

    fn in_dir(&self, path: &str) -> String {
        format!("{}/{path}", self.dir)
    }
}

fn is_directory(path: &str) -> Result<bool, Failure> {
    Ok(fs::metadata_of_link(path)?.is_some_and(|found| found.file_type == FileType::Directory))
}

/// Moves what is in the folder `from` and not in `to`. Returns the paths inside the folder.
fn move_additions(from: &str, to: &str) -> Result<Vec<String>, Failure> {
    let mut moved = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::list(&format!("{from}/{folder}"))? {
            let path = format!("{folder}{}", entry.name);
            let (source, target) = (format!("{from}/{path}"), format!("{to}/{path}"));
            match fs::metadata_of_link(&target)?.map(|found| found.file_type) {
                None => {
                    fs::rename(&source, &target)?;
                    moved.push(path);
                }
                Some(FileType::Directory) if entry.file_type == FileType::Directory => folders.push(format!("{path}/")),
                Some(FileType::Directory | FileType::File | FileType::Link | FileType::Other) => {}
            }
        }
    }
    moved.sort_unstable();
    Ok(moved)
}

impl fmt::Display for ReleaseFolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.dir, self.path)
    }
}
