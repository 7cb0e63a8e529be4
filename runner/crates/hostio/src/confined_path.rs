//! Opens the paths that a plan grants.
//!
//! Invariant: below a directory that a step may write to, no link is followed out of it, because a step could have
//! created it to lead the runner or a later step to a forbidden place. Links further up belong to the operator, and are
//! followed. Deliberately absent: grants.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{fd::AsRawFd as _, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use cap_std::{
    ambient_authority,
    fs::{Dir, File, OpenOptions, OpenOptionsExt as _},
};

use plan::DirAccess;

/// Opens a granted directory, and creates it first if it may be written to.
pub fn open_dir(path: &Path, access: DirAccess, writable: &[PathBuf]) -> io::Result<Dir> {
    let Some((outer, rest)) = split_at_writable_dir(path, writable) else {
        if access == DirAccess::ReadWrite {
            fs::create_dir_all(path)?;
        }
        return Dir::open_ambient_dir(path, ambient_authority());
    };
    if access == DirAccess::ReadWrite {
        fs::create_dir_all(outer)?;
    }
    let outer = Dir::open_ambient_dir(outer, ambient_authority())?;
    match outer.open_dir(rest) {
        Err(error) if error.kind() == ErrorKind::NotFound && access == DirAccess::ReadWrite => {
            outer.create_dir_all(rest)?;
            outer.open_dir(rest)
        }
        opened => opened,
    }
}

/// Opens an empty directory without a name, in which nothing can be created.
pub fn open_empty_dir() -> io::Result<Dir> {
    let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let path = std::env::temp_dir().join(format!("pawl-{random:016x}"));
    fs::DirBuilder::new().mode(0o700).create(&path)?;
    let dir = Dir::open_ambient_dir(&path, ambient_authority());
    fs::remove_dir(&path)?;
    dir
}

/// The path of a granted file, which need not exist, without links below a writable directory.
pub fn resolve_path(path: &Path, writable: &[PathBuf]) -> io::Result<PathBuf> {
    let Some((outer, rest)) = split_at_writable_dir(path, writable) else { return Ok(path.to_owned()) };
    let dir = match Dir::open_ambient_dir(outer, ambient_authority()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path.to_owned()),
        opened => opened?,
    };
    match dir.canonicalize(rest) {
        Ok(inside) => Ok(outer.join(inside)),
        Err(error) if error.kind() == ErrorKind::NotFound && dir.symlink_metadata(rest).is_err() => {
            let folder = rest.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match (dir.canonicalize(folder), rest.file_name()) {
                (Ok(inside), Some(name)) => Ok(outer.join(inside).join(name)),
                (Err(error), _) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(path.to_owned()),
            }
        }
        Err(error) => Err(error),
    }
}

/// Opens a regular file. Opening a pipe would wait for a writer, and reading a device might never end.
pub fn open_regular_file(dir: &Dir, path: impl AsRef<Path>) -> io::Result<File> {
    open_regular_file_with_size(dir, path).map(|(file, _)| file)
}

/// Like [`open_regular_file`], and returns its size.
pub fn open_regular_file_with_size(dir: &Dir, path: impl AsRef<Path>) -> io::Result<(File, u64)> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = dir.open_with(path, OpenOptions::new().read(true).custom_flags(nonblocking))?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata.len())) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Whether the error is cap-std's for a path that leads out of its directory; the system's own refusal has an error
/// number.
pub fn is_escape_error(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

/// A path to the open directory itself, whatever its name points to now.
pub fn fd_path(dir: &Dir) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

/// The outermost writable directory that contains the path, and the rest of the path.
fn split_at_writable_dir<'p>(path: &'p Path, writable: &'p [PathBuf]) -> Option<(&'p Path, &'p Path)> {
    let outer = writable.iter().filter(|outer| path != outer.as_path() && path.starts_with(outer));
    let outer = outer.min_by_key(|outer| outer.components().count())?;
    Some((outer, path.strip_prefix(outer).ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_in_an_empty_directory_and_nothing_gets_there() {
        let empty = Dir::open_ambient_dir(fd_path(&open_empty_dir().unwrap()), ambient_authority()).unwrap();
        assert_eq!(empty.entries().unwrap().count(), 0);
        assert_eq!(empty.open("file").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(empty.create("file").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn links_below_a_writable_directory_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("deploy/app")).unwrap();
        fs::create_dir(root.join("elsewhere")).unwrap();
        fs::write(root.join("elsewhere/shop.db"), "").unwrap();
        symlink("../elsewhere", root.join("deploy/out")).unwrap();
        symlink("../elsewhere/shop.db", root.join("deploy/out.db")).unwrap();
        symlink("app", root.join("deploy/in")).unwrap();
        symlink("deploy", root.join("link")).unwrap();
        let writable = [root.join("deploy"), root.join("link")];
        let opens = |path: &str, access| open_dir(&root.join(path), access, &writable).map_err(|error| error.kind());
        for access in [DirAccess::ReadOnly, DirAccess::ReadWrite] {
            assert!(opens("deploy", access).is_ok() && opens("deploy/in", access).is_ok());
            assert!(opens("link/app", access).is_ok(), "the operator's own link");
            assert_eq!(opens("deploy/out", access).unwrap_err(), ErrorKind::PermissionDenied);
        }
        assert_eq!(opens("deploy/out/new", DirAccess::ReadWrite).unwrap_err(), ErrorKind::PermissionDenied);
        assert!(!root.join("elsewhere/new").exists());

        let resolves = |path: &str| resolve_path(&root.join(path), &writable).map_err(|error| error.kind());
        assert_eq!(resolves("deploy/in/new.db"), Ok(root.join("deploy/app/new.db")));
        assert_eq!(resolves("elsewhere/shop.db"), Ok(root.join("elsewhere/shop.db")));
        assert_eq!(resolves("deploy/out.db"), Err(ErrorKind::PermissionDenied));
        assert_eq!(resolves("deploy/out/shop.db"), Err(ErrorKind::PermissionDenied));
    }
}
