//! A folder of our own, for what nobody else may change: made 0700, and looked at before it is used.
//!
//! Everything goes through the open folder, so that none of its parents can be swapped meanwhile, and is looked at
//! after it was opened, so that what was looked at is what is read. Deliberately absent: what lies in it, and whether
//! its content is right.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};

/// Why something that lies there is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Distrust {
    #[error("{path} belongs to another user (uid {uid})", path = path.display())]
    Owner { path: PathBuf, uid: u32 },
    #[error("{path} is open to others (mode {mode:04o})", path = path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{path} is a symbolic link, or not what it should be", path = path.display())]
    Kind { path: PathBuf },
    #[error("{path} was changed, or made with another key", path = path.display())]
    Changed { path: PathBuf },
}

/// Why a folder or a file in it can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    /// Someone may have put it there.
    #[error(transparent)]
    Distrusted(#[from] Distrust),
    /// It can't be made, read or written.
    #[error("{path}: {source}", path = path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

/// Who else may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privacy {
    /// Others may read it.
    Unwritable,
    /// Others may not even read it.
    Secret,
}

/// An open folder that only this user can write to.
pub(super) struct Folder {
    open: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder, and makes it if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, FolderError> {
        let unusable = |source: io::Error| FolderError::Unusable { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => Distrust::Kind { path: path.to_owned() }.into(),
            error => unusable(error.into()),
        })?;
        let found = File::from(open);
        ours(&found.metadata().map_err(unusable)?, path, Privacy::Unwritable)?;
        Ok(Self { open: found.into(), path: path.to_owned() })
    }

    /// Where a file in it lies.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A whole file; none if it is not there.
    pub(super) fn read(&self, name: &str, privacy: Privacy) -> Result<Option<Vec<u8>>, FolderError> {
        let Some(mut file) = self.file(name, privacy)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| self.unusable(name, source))?;
        Ok(Some(bytes))
    }

    /// An error about a file in it.
    pub(super) fn unusable(&self, name: &str, source: io::Error) -> FolderError {
        FolderError::Unusable { path: self.path_of(name), source }
    }

    /// A file to be read; none if it is not there. Its time of change becomes that of its last use.
    pub(super) fn file(&self, name: &str, privacy: Privacy) -> Result<Option<File>, FolderError> {
        let path = self.path_of(name);
        let unusable = |source: io::Error| FolderError::Unusable { path: path.clone(), source };
        // Not blocking: it may be a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.open, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(Distrust::Kind { path }.into()),
            Err(error) => return Err(unusable(error.into())),
        };
        let metadata = file.metadata().map_err(unusable)?;
        if !metadata.is_file() {
            return Err(Distrust::Kind { path }.into());
        }
        ours(&metadata, &path, privacy)?;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // Only the order in which old files are dropped hangs on it.
        let _ = rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now });
        Ok(Some(file))
    }

    /// Writes a file as a whole, over what may be there. After a loss of power it may be torn.
    pub(super) fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let fresh = self.fresh(parts)?;
        rustix::fs::renameat(&self.open, &fresh, &self.open, name).map_err(|error| self.gave_up(&fresh, error))
    }

    /// Writes a file as a whole and durably, unless there is one: of several processes, the first one wins.
    pub(super) fn write_first(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.fresh(&[bytes])?;
        let fresh_file = rustix::fs::openat(&self.open, &fresh, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::fsync(&fresh_file)?;
        let linked = rustix::fs::linkat(&self.open, &fresh, &self.open, name, AtFlags::empty());
        let _ = rustix::fs::unlinkat(&self.open, &fresh, AtFlags::empty());
        match linked {
            Ok(()) => rustix::fs::fsync(&self.open).map_err(io::Error::from),
            Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A file that nobody knows yet.
    fn fresh(&self, parts: &[&[u8]]) -> io::Result<String> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        let name = format!("{:016x}.new", u64::from_ne_bytes(nonce));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.open, &name, flags, Mode::RUSR | Mode::WUSR)?);
        parts.iter().try_for_each(|part| file.write_all(part)).map_err(|error| self.gave_up(&name, error))?;
        Ok(name)
    }

    fn gave_up(&self, fresh: &str, error: impl Into<io::Error>) -> io::Error {
        let _ = rustix::fs::unlinkat(&self.open, fresh, AtFlags::empty());
        error.into()
    }

    /// Drops the files that were not used for the longest time, until the rest is at most so large.
    pub(super) fn shrink(&self, most: u64) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            // What is gone meanwhile was dropped by another process.
            if let Ok(metadata) = entry.metadata()
                && metadata.is_file()
            {
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let mut total = 0;
        for (_, size, path) in files {
            total += size;
            if total > most {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }
}

fn ours(metadata: &std::fs::Metadata, path: &Path, privacy: Privacy) -> Result<(), Distrust> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Distrust::Owner { path: path.to_owned(), uid: metadata.uid() });
    }
    let others = match privacy {
        Privacy::Unwritable => 0o022,
        Privacy::Secret => 0o077,
    };
    match metadata.mode() & 0o7777 {
        mode if mode & others != 0 => Err(Distrust::Open { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn it_is_private_and_what_is_not_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let folder = Folder::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(Folder::open(&path), Err(FolderError::Distrusted(Distrust::Open { mode: 0o770, .. }))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&path, root.path().join("link")).unwrap();
        let linked = Folder::open(&root.path().join("link"));
        assert!(matches!(linked, Err(FolderError::Distrusted(Distrust::Kind { .. }))));

        assert_eq!(folder.read("x", Privacy::Unwritable).unwrap(), None);
        folder.write("x", &[b"one ", b"two"]).unwrap();
        assert_eq!(folder.read("x", Privacy::Secret).unwrap().unwrap(), b"one two");
        fs::set_permissions(path.join("x"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(folder.read("x", Privacy::Unwritable).is_ok());
        assert!(folder.read("x", Privacy::Secret).is_err());
        fs::create_dir(path.join("folder")).unwrap();
        assert!(matches!(
            folder.read("folder", Privacy::Unwritable),
            Err(FolderError::Distrusted(Distrust::Kind { .. }))
        ));
    }

    #[test]
    fn of_several_the_first_one_wins() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        std::thread::scope(|scope| {
            for n in 0..8_u8 {
                let folder = &folder;
                scope.spawn(move || folder.write_first("key", &[n; 4]).unwrap());
            }
        });
        let first = folder.read("key", Privacy::Secret).unwrap().unwrap();
        folder.write_first("key", b"late").unwrap();
        assert_eq!(folder.read("key", Privacy::Secret).unwrap().unwrap(), first);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        for (name, age) in [("a", 30), ("b", 10), ("c", 20)] {
            folder.write(name, &[&[0; 100]]).unwrap();
            let file = File::open(root.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000 - age)).unwrap();
        }
        folder.read("a", Privacy::Unwritable).unwrap();
        folder.shrink(250).unwrap();
        let is_there = |name: &str| root.path().join(name).exists();
        assert_eq!(["a", "b", "c"].map(is_there), [true, true, false]);
    }
}
