//! Temporary folders that go away with their process, also when it is killed: the next one that needs such a folder removes those that
//! nobody holds any more.
//!
//! Invariant: a process holds a lock on its folder for as long as it uses it. Only folders of the same user are removed.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};
use tempfile::TempDir;

/// What each name begins with.
const PREFIX: &str = "pawl-scratch-";

/// A temporary folder, until it is dropped.
#[derive(Debug)]
pub(super) struct ScratchDir {
    folder: TempDir,
    /// Its lock ends with it.
    _held: File,
}

impl ScratchDir {
    pub(super) fn new() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        remove_abandoned(&parent)?;
        loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent)?;
            // Another process may take it for abandoned before it is locked.
            match lock(folder.path(), FlockOperation::LockExclusive) {
                Ok(held) if folder.path().exists() => return Ok(Self { folder, _held: held }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn lock(folder: &Path, operation: FlockOperation) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = File::from(rustix::fs::open(folder, flags, Mode::empty())?);
    flock(&opened, operation)?;
    Ok(opened)
}

fn remove_abandoned(parent: &Path) -> io::Result<()> {
    let user = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
            && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
        if !is_ours {
            continue;
        }
        match lock(&entry.path(), FlockOperation::NonBlockingLockExclusive) {
            // Whoever else removes it at the same time is as good.
            Ok(_held) => fs::remove_dir_all(entry.path()).or_else(ignore_not_found)?,
            Err(error) if error.raw_os_error() == Some(Errno::WOULDBLOCK.raw_os_error()) => {}
            Err(error) => ignore_not_found(error)?,
        }
    }
    Ok(())
}

fn ignore_not_found(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_nobody_holds_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| parent.path().join(name);
        for name in ["pawl-scratch-left", "pawl-scratch-held", "other"] {
            fs::create_dir(folder(name)).unwrap();
            fs::write(folder(name).join("copy"), "text").unwrap();
        }
        let held = lock(&folder("pawl-scratch-held"), FlockOperation::LockExclusive).unwrap();
        remove_abandoned(parent.path()).unwrap();
        let exists = |name: &str| folder(name).exists();
        assert_eq!(["pawl-scratch-left", "pawl-scratch-held", "other"].map(exists), [false, true, true]);
        drop(held);
        remove_abandoned(parent.path()).unwrap();
        assert!(!exists("pawl-scratch-held"));
    }
}
