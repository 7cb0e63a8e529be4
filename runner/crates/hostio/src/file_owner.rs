//! Mode and owner of files, which WASI 0.2 does not know.
//!
//! Invariant: no link is followed at the end of a path. A file is opened by its place only (`O_PATH`), so that neither its own
//! permissions nor a pipe without a writer matter.

use std::{
    ffi::OsStr,
    fs::Permissions,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};

/// What is set. A member that is none is left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOwner {
    /// The mode of what is no directory.
    pub mode: Option<u32>,
    /// The mode of directories.
    pub dir_mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// Opens the place of a file in a directory, without following a link there.
///
/// # Errors
/// There is nothing, or its directory can't be searched.
pub fn open_place(dir: &impl AsFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Type, size, mode and owner of an open place.
///
/// # Errors
/// The system's.
pub fn status(place: &impl AsFd) -> io::Result<Stat> {
    Ok(rustix::fs::fstat(place)?)
}

impl FileOwner {
    /// Sets mode and owner of an open place; a link is left alone.
    ///
    /// # Errors
    /// Not permitted.
    pub fn set(&self, place: &impl AsFd) -> io::Result<()> {
        let mode = match FileType::from_raw_mode(status(place)?.st_mode) {
            FileType::Symlink => return Ok(()),
            FileType::Directory => self.dir_mode,
            FileType::RegularFile
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => self.mode,
        };
        if self.uid.is_some() || self.gid.is_some() {
            // Before the mode: a change of the owner takes the set-user-id bit away.
            let (uid, gid) = (self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw));
            rustix::fs::chownat(place, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = mode {
            // The only way to change the mode of an open place.
            let path = format!("/proc/self/fd/{}", place.as_fd().as_raw_fd());
            std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// The same for a directory and all that is in it, until `stop` says otherwise. Links are not followed.
    ///
    /// # Errors
    /// Not permitted, or interrupted.
    pub fn set_recursively(&self, place: &OwnedFd, stop: &AtomicBool) -> io::Result<()> {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if FileType::from_raw_mode(status(place)?.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(place, ".", flags, Mode::empty())?;
            for entry in rustix::fs::Dir::read_from(&dir)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    self.set_recursively(&open_place(&dir, Path::new(OsStr::from_bytes(name)))?, stop)?;
                }
            }
        }
        self.set(place)
    }
}

/// The mode of directories that goes with one of files: who may read may search.
#[must_use]
pub fn searchable(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::File, os::unix::fs::symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn modes_are_set_below_a_directory_and_links_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("app/var")).unwrap();
        fs::write(root.join("app/var/log"), "").unwrap();
        fs::write(root.join("outside"), "").unwrap();
        fs::set_permissions(root.join("outside"), Permissions::from_mode(0o600)).unwrap();
        symlink("../../outside", root.join("app/var/link")).unwrap();
        let owner = FileOwner { mode: Some(0o640), dir_mode: Some(searchable(0o640)), ..FileOwner::default() };
        let place = open_place(&File::open(root).unwrap(), Path::new("app")).unwrap();
        owner.set_recursively(&place, &AtomicBool::new(false)).unwrap();
        assert_eq!([mode(&root.join("app")), mode(&root.join("app/var"))], [0o750; 2]);
        assert_eq!((mode(&root.join("app/var/log")), mode(&root.join("outside"))), (0o640, 0o600));
        let link = open_place(&File::open(root.join("app/var")).unwrap(), Path::new("link")).unwrap();
        owner.set(&link).unwrap();
        assert_eq!(mode(&root.join("outside")), 0o600);
    }

    #[test]
    fn directories_can_be_searched_by_who_may_read() {
        assert_eq!([0o640, 0o600, 0o444, 0o000].map(searchable), [0o750, 0o700, 0o555, 0o000]);
    }
}
