//! Removes a folder and everything in it.
//!
//! Links are unlinked, never followed. A read-only directory is made writable first. The walk keeps its own stack, so
//! depth costs handles and not the thread's stack.

use std::{ffi::CString, os::fd::AsFd as _};

use cap_std::fs::Dir;
use rustix::{
    fd::{BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
};

use super::{dir_cursor, error::ArchiveError};

/// A directory during the walk.
struct RemovalLevel {
    handle: OwnedFd,
    name: CString,
    /// Names that are not removed yet.
    remaining: Vec<CString>,
}

/// Removes the folder `path` of `dir` and everything in it. A missing one is fine; a link is unlinked.
///
/// # Errors
/// [`ArchiveError::InvalidFolderName`] for a path without a name of its own, [`ArchiveError::Filesystem`] for the
/// system's errors.
pub fn remove(dir: &Dir, path: &str) -> Result<(), ArchiveError> {
    let (parent, name) = match dir_cursor::open_parent(dir, path) {
        Ok(found) => found,
        Err(ArchiveError::Filesystem { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let name = CString::new(name).map_err(|_| ArchiveError::InvalidFolderName(path.to_owned()))?;
    remove_tree(parent.as_fd(), name).map_err(ArchiveError::filesystem("removed", path))
}

fn remove_tree(parent: BorrowedFd<'_>, name: CString) -> rustix::io::Result<()> {
    let mut levels: Vec<RemovalLevel> = Vec::new();
    let mut next = Some(name);
    loop {
        let here = levels.last().map_or(parent, |level| level.handle.as_fd());
        if let Some(name) = next {
            if let UnlinkResult::IsDirectory = unlink(here, &name)? {
                let level = open_level(here, name)?;
                levels.extend(level);
            }
        } else if let Some(done) = levels.pop() {
            let above = levels.last().map_or(parent, |level| level.handle.as_fd());
            ignore_missing(rustix::fs::unlinkat(above, &done.name, AtFlags::REMOVEDIR))?;
        }
        let Some(level) = levels.last_mut() else { return Ok(()) };
        next = level.remaining.pop();
    }
}

enum UnlinkResult {
    Done,
    IsDirectory,
}

fn unlink(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<UnlinkResult> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(UnlinkResult::Done),
        Err(Errno::ISDIR) => Ok(UnlinkResult::IsDirectory),
        Err(error) => Err(error),
    }
}

fn ignore_missing(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Opens a directory and reads its names; `None` if it does not exist anymore.
fn open_level(parent: BorrowedFd<'_>, name: CString) -> rustix::io::Result<Option<RemovalLevel>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, &name, flags | OFlags::RDONLY, Mode::empty());
    let handle = match open() {
        Err(Errno::ACCESS) => {
            // It is unreadable, so it can't be opened for `fchmod`; a path-only handle names it without following a
            // link.
            let bare = rustix::fs::openat(parent, &name, flags | OFlags::PATH, Mode::empty())?;
            let itself = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&bare));
            rustix::fs::chmodat(CWD, itself, Mode::RWXU, AtFlags::empty())?;
            open()
        }
        other => other,
    };
    let handle = match handle {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    if rustix::fs::fstat(&handle)?.st_mode & Mode::RWXU.bits() != Mode::RWXU.bits() {
        // Another user's directory can't be changed; the next call shows whether that matters.
        match rustix::fs::fchmod(&handle, Mode::RWXU) {
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&handle)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(Some(RemovalLevel { handle, name, remaining: names }))
}
