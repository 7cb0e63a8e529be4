//! Removes a folder and everything in it.
//!
//! Links are unlinked, never followed. A directory that forbids its owner to change it is made changeable first. The
//! walk keeps its own stack, so depth costs handles and not the thread's.

use std::{ffi::CString, os::fd::AsFd as _};

use cap_std::fs::Dir;
use rustix::{
    fd::{BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
};

use super::{error::ArchiveError, folders};

/// A directory on the way down.
struct Level {
    handle: OwnedFd,
    name: CString,
    /// Names in it that are not yet removed.
    names: Vec<CString>,
}

/// Removes the folder `path` of `dir` and everything in it. A missing one is fine; a link is unlinked.
///
/// # Errors
/// [`ArchiveError::NoFolder`] for a path without a name of its own, [`ArchiveError::Disk`] for the system's errors.
pub fn remove(dir: &Dir, path: &str) -> Result<(), ArchiveError> {
    let (parent, name) = match folders::parent(dir, path) {
        Ok(found) => found,
        Err(ArchiveError::Disk { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let name = CString::new(name).map_err(|_| ArchiveError::NoFolder(path.to_owned()))?;
    walk(parent.as_fd(), name).map_err(ArchiveError::disk("removed", path))
}

fn walk(parent: BorrowedFd<'_>, name: CString) -> rustix::io::Result<()> {
    let mut levels: Vec<Level> = Vec::new();
    let mut next = Some(name);
    loop {
        let here = levels.last().map_or(parent, |level| level.handle.as_fd());
        if let Some(name) = next {
            if let Removal::Directory = unlink(here, &name)? {
                let level = enter(here, name)?;
                levels.extend(level);
            }
        } else if let Some(done) = levels.pop() {
            let above = levels.last().map_or(parent, |level| level.handle.as_fd());
            missing_is_fine(rustix::fs::unlinkat(above, &done.name, AtFlags::REMOVEDIR))?;
        }
        let Some(level) = levels.last_mut() else { return Ok(()) };
        next = level.names.pop();
    }
}

enum Removal {
    Done,
    Directory,
}

fn unlink(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<Removal> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(Removal::Done),
        Err(Errno::ISDIR) => Ok(Removal::Directory),
        Err(error) => Err(error),
    }
}

fn missing_is_fine(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Opens a directory and reads its names; `None` when it is gone.
fn enter(parent: BorrowedFd<'_>, name: CString) -> rustix::io::Result<Option<Level>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, &name, flags | OFlags::RDONLY, Mode::empty());
    let handle = match open() {
        Err(Errno::ACCESS) => {
            // Unreadable, so it can't be opened for `fchmod`; a handle without rights names it without following a
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
        // Somebody else's directory can't be changed; whether that matters, the next call tells.
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
    Ok(Some(Level { handle, name, names }))
}
