//! The folder of one release, and the temporary folders next to it.

use core::fmt;

use pawl_step::fs::{self, FileType};
use pawl_step::{Digest, Failure, blobs, log, releases};

use crate::shared_paths::SharedPaths;

/// The folder of all releases, in a granted directory.
const RELEASES: &str = "releases";
/// The name prefix of unfinished folders.
const TEMPORARY_PREFIX: &str = ".tmp-";
/// The purpose of a folder that is complete, and will replace a damaged one.
const READY: &str = "ready";
/// The purpose of a damaged folder that was replaced.
const OLD: &str = "old";

/// The folder of one release, in `releases` of a granted directory: the one that has its content under whatever label, or a new one.
#[derive(Debug)]
pub(crate) struct ReleaseFolder {
    dir: String,
    name: String,
    digest: Digest,
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
    /// # Errors
    /// When `releases` cannot be inspected.
    pub(crate) fn locate(dir: String, label: &str, digest: Digest) -> Result<Self, Failure> {
        let releases = format!("{dir}/{RELEASES}");
        let name = match releases::find(&releases, &digest)? {
            Some(name) => name,
            None => releases::new_name(&releases, label, &digest)?,
        };
        Ok(Self { dir, name, digest })
    }

    pub(crate) fn dir(&self) -> &str {
        &self.dir
    }

    /// Returns its name in `releases`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the path relative to the directory.
    pub(crate) fn path(&self) -> String {
        format!("{RELEASES}/{}", self.name)
    }

    /// Returns the path of the folder to unpack into.
    pub(crate) fn new_path(&self) -> String {
        self.temporary_path("new")
    }

    /// Returns the path of a temporary folder of this release. The next attempt finds what a killed one left by its prefix.
    fn temporary_path(&self, purpose: &str) -> String {
        format!("{RELEASES}/{TEMPORARY_PREFIX}{purpose}-{}", self.name)
    }

    fn temporary_location(&self, purpose: &str) -> String {
        format!("{}/{}", self.dir, self.temporary_path(purpose))
    }

    pub(crate) fn inspect(&self, shared: &SharedPaths) -> Result<ReleaseFolderState, Failure> {
        match fs::metadata_of_link(&self.to_string())?.map(|found| found.file_type) {
            None => return Ok(ReleaseFolderState::Missing),
            Some(FileType::Directory) => {}
            Some(FileType::File | FileType::Link | FileType::Other) => {
                return Ok(ReleaseFolderState::Damaged(vec!["it is not a folder".to_owned()]));
            }
        }
        let differences = blobs::compare(&self.dir, &self.path())?;
        let (total, mut lines) = (differences.len(), shared.differences_outside_shared(differences));
        if let [line] = lines.as_slice()
            && line.starts_with("and ")
            && total > 1
        {
            return Ok(ReleaseFolderState::Unknown(format!(
                "{self} has more differences than the host lists, and all listed ones are shared paths"
            )));
        }
        lines.extend(shared.unlinked_paths(&self.dir, &self.path())?);
        Ok(if lines.is_empty() { ReleaseFolderState::Intact } else { ReleaseFolderState::Damaged(lines) })
    }

    /// Removes the temporary folders of killed pulls, after it has finished the repairs that were killed. That of this release must
    /// succeed.
    pub(crate) fn remove_leftovers(&self) -> Result<(), Failure> {
        let releases = format!("{}/{RELEASES}", self.dir);
        fs::create_dir_all(&releases)?;
        for entry in fs::list(&releases)? {
            let Some(rest) = entry.name.strip_prefix(TEMPORARY_PREFIX) else { continue };
            let repaired = [READY, OLD].iter().find_map(|purpose| rest.strip_prefix(purpose)?.strip_prefix('-'));
            if let Some(name) = repaired {
                let repaired = Self { dir: self.dir.clone(), name: name.to_owned(), digest: self.digest.clone() };
                match repaired.finish_repair() {
                    Err(failure) if !releases::is_name_for(name, &self.digest) => {
                        log::warn(format!("cannot finish the repair of {repaired}: {}", failure.message));
                        continue;
                    }
                    done => done?,
                }
            }
            blobs::remove(&self.dir, &format!("{RELEASES}/{}", entry.name))?;
        }
        Ok(())
    }

    fn finish_repair(&self) -> Result<(), Failure> {
        if is_directory(&self.temporary_location(READY))? {
            return self.swap().map(drop);
        }
        let (here, old) = (self.to_string(), self.temporary_location(OLD));
        if fs::metadata_of_link(&here)?.is_none() && is_directory(&old)? { fs::rename(&old, &here) } else { Ok(()) }
    }

    /// Puts the finished folder in place. What a damaged folder has and the release does not, such as what a later step built in it,
    /// moves into the new one. Returns its paths.
    pub(crate) fn install(&self) -> Result<Vec<String>, Failure> {
        fs::rename(&self.temporary_location("new"), &self.temporary_location(READY))?;
        self.swap()
    }

    /// Replaces the folder by the one that is ready, by one rename. If it cannot, the folder stays as it was.
    fn swap(&self) -> Result<Vec<String>, Failure> {
        let (here, ready, old) = (self.to_string(), self.temporary_location(READY), self.temporary_location(OLD));
        let mut kept = Vec::new();
        if fs::metadata_of_link(&here)?.is_some() {
            let moved = if is_directory(&here)? { move_additions(&here, &ready, &mut kept) } else { Ok(()) };
            let put_away = moved.and_then(|()| fs::rename(&here, &old));
            let swapped = put_away.and_then(|()| {
                fs::rename(&ready, &here).inspect_err(|_| {
                    let _already_failing = fs::rename(&old, &here);
                })
            });
            swapped.inspect_err(|_| {
                for path in kept.iter().rev() {
                    let _already_failing = fs::rename(&format!("{ready}/{path}"), &format!("{here}/{path}"));
                }
            })?;
        } else {
            fs::rename(&ready, &here)?;
        }
        blobs::remove(&self.dir, &self.temporary_path(OLD))?;
        kept.sort_unstable();
        Ok(kept)
    }

    /// Removes the folder; a kill never leaves a part of it under its own name.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        if fs::metadata_of_link(&self.to_string())?.is_some() {
            blobs::remove(&self.dir, &self.temporary_path("removed"))?;
            fs::rename(&self.to_string(), &self.temporary_location("removed"))?;
        }
        blobs::remove(&self.dir, &self.temporary_path("removed"))
    }
}

fn is_directory(path: &str) -> Result<bool, Failure> {
    Ok(fs::metadata_of_link(path)?.is_some_and(|found| found.file_type == FileType::Directory))
}

/// Moves what is in the folder `from` and not in `to`, and adds its paths to `moved`.
fn move_additions(from: &str, to: &str, moved: &mut Vec<String>) -> Result<(), Failure> {
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
    Ok(())
}

impl fmt::Display for ReleaseFolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.dir, self.path())
    }
}
