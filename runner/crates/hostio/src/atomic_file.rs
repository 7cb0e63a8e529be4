//! Files that are written as a whole: under a temporary name in the same directory, synced, renamed, the directory synced.
//!
//! Invariant: a reader, also one after a power loss, finds the old content or all of the new one. A killed process leaves
//! at most a file that ends in `.tmp`, which [`remove_abandoned`] knows by its lock. Deliberately absent: appending, and directories.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, fstat, openat, unlinkat},
    io::Errno,
};

use crate::file_owner::{FileOwner, open_place};

/// The digits between a file's name and `.tmp`.
const NONCE_DIGITS: usize = 16;

/// Replaces the file at a path, or creates it with the mode that the umask allows.
///
/// # Errors
/// The file cannot be written.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    StagedFile::write(path, content)?.replace()
}

/// Replaces a file that can be made again, such as a cache: a killed process leaves the old content or all of the new one, but
/// nothing is synced. After a power loss the file may hold anything, so its readers must verify it.
///
/// # Errors
/// The file cannot be written.
pub fn replace_unsynced_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".tmp");
    std::fs::write(&staged, content)?;
    std::fs::rename(&staged, path)
}

/// Removes what killed processes left in a folder under temporary names. No other process may be writing there. Nothing to do if there
/// is no such folder.
///
/// # Errors
/// The folder cannot be read, or a file not removed.
pub fn remove_staged_files(folder: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let is_staged = entry.path().extension().is_some_and(|extension| extension == "tmp");
        if is_staged && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes what killed processes left of one file of an open directory under temporary names. No other process may be writing the file.
///
/// # Errors
/// The directory cannot be read, or a file not removed.
pub fn remove_staged(dir: &impl AsFd, name: impl AsRef<OsStr>) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let found = OsStr::from_bytes(entry.file_name().to_bytes());
        if is_staged(found, name.as_ref()) {
            unlinkat(dir, found, AtFlags::empty())?;
        }
    }
    Ok(())
}

/// Removes what killed processes left of the file at a path under temporary names. What a process is still writing stays, and so does what
/// can't be removed.
pub fn remove_abandoned(path: &Path) {
    let Some(name) = path.file_name() else { return };
    let Ok(dir) = File::open(folder_of(path)) else { return };
    let Ok(entries) = Dir::read_from(&dir) else { return };
    for entry in entries.flatten() {
        let found = OsStr::from_bytes(entry.file_name().to_bytes());
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if is_staged(found, name)
            && let Ok(file) = openat(&dir, found, flags, Mode::empty())
            // Its writer has the lock as long as it lives. Without locks, nothing is known.
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = unlinkat(&dir, found, AtFlags::empty());
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    }
}

/// How often a temporary file is made again that another process has removed. Some filesystems say that of every file.
const MAX_REMOVALS: usize = 100;

/// Whether a name is a temporary one of this file: `<name>.<16 hexadecimal digits>.tmp`.
fn is_staged(found: &OsStr, name: &OsStr) -> bool {
    let rest = found.as_bytes().strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"."));
    let nonce = rest.and_then(|rest| rest.strip_suffix(b".tmp"));
    nonce.is_some_and(|nonce| nonce.len() == NONCE_DIGITS && nonce.iter().all(u8::is_ascii_hexdigit))
}

/// A whole file under a temporary name. It is removed unless it gets its own name.
pub struct StagedFile {
    dir: OwnedFd,
    staged_name: OsString,
    name: OsString,
    is_placed: bool,
    /// Has the lock that says that its writer lives.
    file: File,
}

impl StagedFile {
    /// Writes and syncs the content for a path, with the mode that the umask allows.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(path: &Path, content: &[u8]) -> io::Result<Self> {
        Self::fill(path, |file| file.write_all(content)).map(|(staged, ())| staged)
    }

    /// Writes and syncs for a path what `fill` writes, with the mode that the umask allows.
    ///
    /// # Errors
    /// The file cannot be written, or `fill` fails.
    pub fn fill<T, E: From<io::Error>>(
        path: &Path,
        fill: impl FnOnce(&mut File) -> Result<T, E>,
    ) -> Result<(Self, T), E> {
        let name = path.file_name().ok_or_else(|| io::Error::from(Errno::INVAL))?;
        let folder = File::open(folder_of(path))?;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
        let mut staged = Self::open_locked_in(&folder, name, mode)?;
        for _ in 0..MAX_REMOVALS {
            // Another process may have removed it before it was locked.
            if fstat(&staged.file).map_err(io::Error::from)?.st_nlink > 0 {
                break;
            }
            staged = Self::open_locked_in(&folder, name, mode)?;
        }
        let filled = fill(&mut staged.file)?;
        staged.file.sync_all()?;
        Ok((staged, filled))
    }

    fn open_locked_in(dir: &impl AsFd, name: &OsStr, mode: Mode) -> io::Result<Self> {
        let staged = Self::open_in(dir, name, mode)?;
        // Some filesystems have no locks: there, nobody removes it, either.
        let _ = flock(&staged.file, FlockOperation::LockExclusive);
        Ok(staged)
    }

    /// Writes and syncs the parts of a file of an open directory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_in(dir: &impl AsFd, name: impl AsRef<OsStr>, parts: &[&[u8]], mode: Mode) -> io::Result<Self> {
        let mut staged = Self::open_in(dir, name, mode)?;
        parts.iter().try_for_each(|part| staged.file.write_all(part))?;
        staged.file.sync_all()?;
        Ok(staged)
    }

    fn open_in(dir: &impl AsFd, name: impl AsRef<OsStr>, mode: Mode) -> io::Result<Self> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        let mut staged_name = name.as_ref().to_owned();
        staged_name.push(format!(".{:016x}.tmp", u64::from_ne_bytes(nonce)));
        let dir = dir.as_fd().try_clone_to_owned()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = File::from(openat(&dir, &staged_name, flags, mode)?);
        Ok(Self { dir, staged_name, name: name.as_ref().to_owned(), is_placed: false, file })
    }

    /// The path of the content until it is placed, for the path of its directory.
    #[must_use]
    pub fn staged_path(&self, folder: &Path) -> PathBuf {
        folder.join(&self.staged_name)
    }

    /// Sets mode and owner of the content before it is placed.
    ///
    /// # Errors
    /// Not permitted.
    pub fn set_owner(&self, owner: &FileOwner) -> io::Result<()> {
        owner.set(&open_place(&self.dir, Path::new(&self.staged_name))?)
    }

    /// Gives the file its name; an existing file of that name is gone.
    ///
    /// # Errors
    /// The file cannot be renamed, or the directory not synced.
    pub fn replace(mut self) -> io::Result<()> {
        rustix::fs::renameat(&self.dir, &self.staged_name, &self.dir, &self.name)?;
        self.is_placed = true;
        self.sync_dir()
    }

    /// Gives the file its name unless one exists: of several processes, the first wins. Returns whether it was this one.
    ///
    /// # Errors
    /// The file cannot be linked, or the directory not synced.
    pub fn create(self) -> io::Result<bool> {
        match rustix::fs::linkat(&self.dir, &self.staged_name, &self.dir, &self.name, AtFlags::empty()) {
            Ok(()) => self.sync_dir().map(|()| true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        match rustix::fs::fsync(&self.dir) {
            // Some filesystems cannot sync a directory, and say so.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = unlinkat(&self.dir, &self.staged_name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn files_that_a_killed_process_left_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        replace_file(&path, b"whole").unwrap();
        std::mem::forget(StagedFile::write(&path, b"half").unwrap());
        assert_eq!(names(folder.path()).len(), 2);
        remove_staged_files(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["f"]);
        remove_staged_files(&folder.path().join("missing")).unwrap();
    }

    #[test]
    fn files_that_a_killed_process_left_of_one_file_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["f", "f.tmp", "f.x.0123456789abcdef.tmp", "f.0123456789abcdeg.tmp"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        std::mem::forget(StagedFile::write(&folder.path().join("f"), b"half").unwrap());
        assert_eq!(names(folder.path()).len(), 5);
        remove_staged(&File::open(folder.path()).unwrap(), "f").unwrap();
        let mut left = names(folder.path());
        left.sort();
        assert_eq!(left, ["f", "f.0123456789abcdeg.tmp", "f.tmp", "f.x.0123456789abcdef.tmp"]);
    }

    #[test]
    fn files_whose_writer_is_gone_are_removed_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for name in ["f.0123456789abcdef.tmp", "f.x.0123456789abcdef.tmp", "g.0123456789abcdef.tmp"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("g.0123456789abcdef.tmp", folder.path().join("f.fedcba9876543210.tmp")).unwrap();
        let written = StagedFile::write(&path, b"x").unwrap();
        remove_abandoned(&path);
        assert!(written.staged_path(folder.path()).exists());
        drop(written);
        let mut left = names(folder.path());
        left.sort();
        assert_eq!(left, ["f.fedcba9876543210.tmp", "f.x.0123456789abcdef.tmp", "g.0123456789abcdef.tmp"]);
        remove_abandoned(&folder.path().join("missing/f"));
    }

    /// Of many that write and remove at the same time, none loses its file.
    #[test]
    fn file_that_is_being_written_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        remove_abandoned(&path);
                        replace_file(&path, b"x").unwrap();
                    }
                });
            }
        });
        assert_eq!(names(folder.path()), ["f"]);
    }

    #[test]
    fn whole_content_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for content in ["first", "second"] {
            replace_file(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(names(folder.path()), ["f"]);
    }

    #[test]
    fn failed_or_dropped_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let staged = StagedFile::write(&path, b"x").unwrap();
        assert_eq!(fs::read(staged.staged_path(folder.path())).unwrap(), b"x");
        drop(staged);
        fs::create_dir(&path).unwrap();
        assert!(replace_file(&path, b"x").is_err());
        assert!(replace_file(Path::new("/"), b"x").is_err());
        assert_eq!(names(folder.path()), ["f"]);
    }

    #[test]
    fn existing_file_wins_over_a_created_one() {
        let folder = tempfile::tempdir().unwrap();
        let dir = File::open(folder.path()).unwrap();
        let create = |content: &[u8]| {
            StagedFile::write_in(&dir, "key", &[content, b"!"], Mode::RUSR | Mode::WUSR).unwrap().create().unwrap()
        };
        assert_eq!((create(b"mine"), create(b"late")), (true, false));
        let path = folder.path().join("key");
        assert_eq!(fs::read(&path).unwrap(), b"mine!");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["key"]);
    }
}
