//! Directory handles: from a granted directory to a folder in it, and a cursor below that folder.
//!
//! Everything here opens one component at a time relative to its parent and follows no link. So whatever happens
//! through a handle happens inside the folder, even while another process changes it.

use std::{io, os::fd::AsFd as _};

use cap_std::fs::Dir;
use rustix::{
    fd::{BorrowedFd, OwnedFd},
    fs::{Mode, OFlags},
};

use super::{entry, error::ArchiveError};

/// Opens the directory that contains the folder `path` of `dir`; returns it with the folder's own name.
pub(super) fn open_parent<'a>(dir: &Dir, path: &'a str) -> Result<(OwnedFd, &'a str), ArchiveError> {
    let trimmed = path.trim_end_matches('/');
    let (above, name) = entry::split_path(trimmed);
    if matches!(name, "" | "." | "..") {
        return Err(ArchiveError::InvalidFolderName(path.to_owned()));
    }
    let above = if trimmed.contains('/') { above } else { "." };
    let handle = dir.open_dir(above).map_err(ArchiveError::filesystem("opened", path))?;
    Ok((handle.into(), name))
}

/// Opens the directory `name` of `parent`, unless it is a link.
pub(super) fn open_dir(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// A cursor below a folder that keeps the handles to its current position, so that nearby entries are cheap.
pub(super) struct DirCursor {
    root: OwnedFd,
    open_levels: Vec<(Box<str>, OwnedFd)>,
}

impl DirCursor {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, open_levels: Vec::new() }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Moves to the checked directory `path`; empty for the folder itself.
    pub(super) fn move_to(&mut self, path: &str) -> io::Result<BorrowedFd<'_>> {
        let components = || path.split('/').filter(|component| !component.is_empty());
        let shared =
            self.open_levels.iter().zip(components()).take_while(|((open, _), wanted)| **open == **wanted).count();
        self.open_levels.truncate(shared);
        for component in components().skip(shared) {
            let handle = open_dir(self.current(), component)?;
            self.open_levels.push((component.into(), handle));
        }
        Ok(self.current())
    }

    fn current(&self) -> BorrowedFd<'_> {
        self.open_levels.last().map_or(self.root.as_fd(), |(_, handle)| handle.as_fd())
    }
}
