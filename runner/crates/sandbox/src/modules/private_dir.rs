//! A folder that only this user may change: created with mode 0700, and checked before use.
//!
//! All access goes through the open folder, so none of its parents can be swapped, and files are checked after opening,
//! so the checked file is the one that is read. Deliberately absent: the files' content and whether it is correct.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use hostio::atomic_file::StagedFile;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_NOW};

/// Why an existing file or folder is not trusted.
#[derive(Debug, thiserror::Error)]
pub(super) enum UntrustedFileError {
    #[error("{path} belongs to another user (uid {uid})", path = path.display())]
    WrongOwner { path: PathBuf, uid: u32 },
    #[error("other users can access {path} (mode {mode:04o})", path = path.display())]
    WrongMode { path: PathBuf, mode: u32 },
    #[error("{path} is a symbolic link or has the wrong file type", path = path.display())]
    WrongFileType { path: PathBuf },
    #[error("{path} was modified, or written with another key", path = path.display())]
    Modified { path: PathBuf },
}

/// Why a private folder or a file in it can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrivateDirError {
    /// Another user may have written it.
    #[error(transparent)]
    Untrusted(#[from] UntrustedFileError),
    /// It can't be created, read or written.
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The access that other users may have to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilePrivacy {
    /// Others may read it.
    ReadableByOthers,
    /// Others may not read it.
    OwnerOnly,
}

/// An open folder that only this user can write to.
pub(super) struct PrivateDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl PrivateDir {
    /// Opens a folder, and creates it if missing.
    pub(super) fn open(path: &Path) -> Result<Self, PrivateDirError> {
        let io_error = |source: io::Error| PrivateDirError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => {
                UntrustedFileError::WrongFileType { path: path.to_owned() }.into()
            }
            error => io_error(error.into()),
        })?;
        let found = File::from(open);
        check_owner_and_mode(&found.metadata().map_err(io_error)?, path, FilePrivacy::ReadableByOthers)?;
        Ok(Self { fd: found.into(), path: path.to_owned() })
    }

    /// The path of a file in it.
    pub(super) fn file_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a whole file; `None` if it does not exist.
    pub(super) fn read(&self, name: &str, privacy: FilePrivacy) -> Result<Option<Vec<u8>>, PrivateDirError> {
        let Some(mut file) = self.open_file(name, privacy)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| self.io_error(name, source))?;
        Ok(Some(bytes))
    }

    /// An error about a file in it.
    pub(super) fn io_error(&self, name: &str, source: io::Error) -> PrivateDirError {
        PrivateDirError::Io { path: self.file_path(name), source }
    }

    /// Opens a file for reading; `None` if it does not exist. Sets its modification time to now, as its last use.
    pub(super) fn open_file(&self, name: &str, privacy: FilePrivacy) -> Result<Option<File>, PrivateDirError> {
        let path = self.file_path(name);
        let io_error = |source: io::Error| PrivateDirError::Io { path: path.clone(), source };
        // Nonblocking, because it may be a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(UntrustedFileError::WrongFileType { path }.into()),
            Err(error) => return Err(io_error(error.into())),
        };
        let metadata = file.metadata().map_err(io_error)?;
        if !metadata.is_file() {
            return Err(UntrustedFileError::WrongFileType { path }.into());
        }
        check_owner_and_mode(&metadata, &path, privacy)?;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // Only the order of eviction depends on it.
        let _ = rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now });
        Ok(Some(file))
    }

    /// Writes a whole file, replacing an existing one.
    pub(super) fn replace_file(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        self.stage_file(name, parts)?.replace()
    }

    /// Writes a whole file unless it exists: of several processes, the first wins.
    pub(super) fn create_file_if_absent(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.stage_file(name, &[bytes])?.create().map(drop)
    }

    fn stage_file(&self, name: &str, parts: &[&[u8]]) -> io::Result<StagedFile> {
        StagedFile::write_in(&self.fd, name, parts, Mode::RUSR | Mode::WUSR)
    }

    /// Removes the least recently used files until the rest fits the limit.
    pub(super) fn evict_to_size(&self, max_bytes: u64) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            // Another process may have removed it already.
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
            if total > max_bytes {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }
}

fn check_owner_and_mode(
    metadata: &std::fs::Metadata,
    path: &Path,
    privacy: FilePrivacy,
) -> Result<(), UntrustedFileError> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(UntrustedFileError::WrongOwner { path: path.to_owned(), uid: metadata.uid() });
    }
    let others = match privacy {
        FilePrivacy::ReadableByOthers => 0o022,
        FilePrivacy::OwnerOnly => 0o077,
    };
    match metadata.mode() & 0o7777 {
        mode if mode & others != 0 => Err(UntrustedFileError::WrongMode { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn folder_is_private_and_others_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let folder = PrivateDir::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(
            PrivateDir::open(&path),
            Err(PrivateDirError::Untrusted(UntrustedFileError::WrongMode { mode: 0o770, .. }))
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&path, root.path().join("link")).unwrap();
        let linked = PrivateDir::open(&root.path().join("link"));
        assert!(matches!(linked, Err(PrivateDirError::Untrusted(UntrustedFileError::WrongFileType { .. }))));

        assert_eq!(folder.read("x", FilePrivacy::ReadableByOthers).unwrap(), None);
        folder.replace_file("x", &[b"one ", b"two"]).unwrap();
        assert_eq!(folder.read("x", FilePrivacy::OwnerOnly).unwrap().unwrap(), b"one two");
        fs::set_permissions(path.join("x"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(folder.read("x", FilePrivacy::ReadableByOthers).is_ok());
        assert!(folder.read("x", FilePrivacy::OwnerOnly).is_err());
        fs::create_dir(path.join("folder")).unwrap();
        assert!(matches!(
            folder.read("folder", FilePrivacy::ReadableByOthers),
            Err(PrivateDirError::Untrusted(UntrustedFileError::WrongFileType { .. }))
        ));
    }

    #[test]
    fn first_of_several_writers_wins() {
        let root = tempfile::tempdir().unwrap();
        let folder = PrivateDir::open(root.path()).unwrap();
        std::thread::scope(|scope| {
            for n in 0..8_u8 {
                let folder = &folder;
                scope.spawn(move || folder.create_file_if_absent("key", &[n; 4]).unwrap());
            }
        });
        let first = folder.read("key", FilePrivacy::OwnerOnly).unwrap().unwrap();
        folder.create_file_if_absent("key", b"late").unwrap();
        assert_eq!(folder.read("key", FilePrivacy::OwnerOnly).unwrap().unwrap(), first);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn least_recently_used_file_is_evicted_first() {
        let root = tempfile::tempdir().unwrap();
        let folder = PrivateDir::open(root.path()).unwrap();
        for (name, age) in [("a", 30), ("b", 10), ("c", 20)] {
            folder.replace_file(name, &[&[0; 100]]).unwrap();
            let file = File::open(root.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000 - age)).unwrap();
        }
        folder.read("a", FilePrivacy::ReadableByOthers).unwrap();
        folder.evict_to_size(250).unwrap();
        let is_there = |name: &str| root.path().join(name).exists();
        assert_eq!(["a", "b", "c"].map(is_there), [true, true, false]);
    }
}
