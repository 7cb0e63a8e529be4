//! Files in granted directories.
//!
//! A path is `<grant>/<path>` or `/<grant>/<path>`, where `<grant>` is the directory's name in the plan: `app/VERSION`.
//! The host follows no symlink out of a grant. A function that writes returns only when content and folder are on the
//! disk: a later kill or power cut loses nothing.
//!
//! Deliberately absent: modes, owners and times, which WASI 0.2 does not offer, and the removal of whole folders, for
//! which there is [`crate::blobs::remove`].

use crate::{Failure, FailureKind};

#[cfg(not(target_arch = "wasm32"))]
#[path = "fs/native.rs"]
pub(crate) mod backend;
#[cfg(target_arch = "wasm32")]
#[path = "fs/wasi.rs"]
mod backend;

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link; only returned where links are not followed.
    Link,
    /// A socket, a device or another special file.
    Other,
}

/// The type and size of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMetadata {
    /// The type of the file.
    pub file_type: FileType,
    /// The size in bytes.
    pub size: u64,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The name, without the folder.
    pub name: String,
    /// The type of the entry; links are not followed.
    pub file_type: FileType,
}

/// Whether a symbolic link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SymlinkBehavior {
    /// The function works on the target of the link.
    Follow,
    /// The function works on the link itself.
    NoFollow,
}

/// The error of a file operation in the backend; [`fs_failure`] turns it into a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FsError {
    NotFound,
    Denied,
    Exists,
    NoSpace,
    NotEmpty,
    NotDirectory,
    IsDirectory,
    Other(String),
}

/// Returns the names of the granted directories, in the plan's order.
#[must_use]
pub fn dirs() -> Vec<String> {
    backend::dirs()
}

/// Returns type and size of the file at a path, links followed; `None` for a missing file or a dangling link.
///
/// # Errors
/// When the path cannot be inspected.
pub fn metadata(path: &str) -> Result<Option<FileMetadata>, Failure> {
    stat(path, SymlinkBehavior::Follow)
}

/// Returns type and size of the file at a path, without following a link at its end; `None` when nothing exists.
///
/// # Errors
/// When the path cannot be inspected.
pub fn metadata_of_link(path: &str) -> Result<Option<FileMetadata>, Failure> {
    stat(path, SymlinkBehavior::NoFollow)
}

/// Returns whether a file or folder exists, links followed.
///
/// # Errors
/// When the path cannot be inspected.
pub fn exists(path: &str) -> Result<bool, Failure> {
    Ok(metadata(path)?.is_some())
}

/// Reads a file, links followed.
///
/// # Errors
/// Not found or not readable.
pub fn read(path: &str) -> Result<Vec<u8>, Failure> {
    let (dir, rest) = split_grant(path)?;
    backend::read(dir, &rest, 0).map_err(|cause| fs_failure("read", path, cause))
}

/// Reads the end of a file, links followed: its last `bytes`, and what was written meanwhile. The flag says whether that is the whole file.
///
/// # Errors
/// Not found or not readable.
pub fn read_end(path: &str, bytes: u64) -> Result<(Vec<u8>, bool), Failure> {
    let (dir, rest) = split_grant(path)?;
    let size = stat(path, SymlinkBehavior::Follow)?.map_or(0, |found| found.size);
    let from = size.saturating_sub(bytes);
    let content = backend::read(dir, &rest, from).map_err(|cause| fs_failure("read", path, cause))?;
    Ok((content, from == 0))
}

/// Reads a file, links followed; `None` for a missing file or a dangling link. One call fewer than [`exists`] and [`read`].
///
/// # Errors
/// Not readable.
pub fn read_if_exists(path: &str) -> Result<Option<Vec<u8>>, Failure> {
    let (dir, rest) = split_grant(path)?;
    match backend::read(dir, &rest, 0) {
        Ok(content) => Ok(Some(content)),
        Err(FsError::NotFound | FsError::NotDirectory) => Ok(None),
        Err(cause) => Err(fs_failure("read", path, cause)),
    }
}

/// Reads a text file, links followed; `None` for a missing file or a dangling link.
///
/// # Errors
/// Not readable, or not UTF-8.
pub fn read_text_if_exists(path: &str) -> Result<Option<String>, Failure> {
    read_if_exists(path)?.map(|content| text(path, content)).transpose()
}

/// Reads a text file, links followed.
///
/// # Errors
/// Not found, not readable, or not UTF-8.
pub fn read_text(path: &str) -> Result<String, Failure> {
    text(path, read(path)?)
}

fn text(path: &str, content: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(content).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::bad_content(format!("`{path}` is not UTF-8: byte {} is invalid", at + 1))
            .hint("save the file as UTF-8")
            .detail("file", path)
    })
}

/// Returns the entries of a folder, sorted by name.
///
/// # Errors
/// Not found, not a folder, or not readable.
pub fn list(path: &str) -> Result<Vec<DirectoryEntry>, Failure> {
    let (dir, rest) = split_grant(path)?;
    // Insertion sort: a sort from the library would add 5 KB to each component.
    let mut sorted: Vec<DirectoryEntry> = Vec::new();
    for entry in backend::list(dir, &rest).map_err(|cause| fs_failure("list", path, cause))? {
        sorted.insert(sorted.partition_point(|other| other.name < entry.name), entry);
    }
    Ok(sorted)
}

/// Writes a whole file so that readers see the old or the new content, never a part. It writes and syncs the temporary
/// file `<path>.new`, renames it, and syncs the folder.
///
/// # Errors
/// When the file cannot be written; the old content remains.
pub fn write_atomic(path: &str, content: &[u8]) -> Result<(), Failure> {
    let (dir, rest) = split_grant(path)?;
    let new = format!("{rest}.new");
    backend::write(dir, &new, content).map_err(|cause| fs_failure("write", path, cause))?;
    rename(&format!("{dir}/{new}"), path)
}

/// Renames a file or folder and syncs both folders; an existing file or link at `to` is replaced. Both paths must be in
/// one granted directory.
///
/// # Errors
/// When the rename fails; nothing has changed.
pub fn rename(from: &str, to: &str) -> Result<(), Failure> {
    let ((from_dir, from_rest), (to_dir, to_rest)) = (split_grant(from)?, split_grant(to)?);
    backend::rename(from_dir, &from_rest, to_dir, &to_rest).map_err(|cause| fs_failure("rename", from, cause))?;
    sync_dir(parent(to))?;
    if parent(from) == parent(to) { Ok(()) } else { sync_dir(parent(from)) }
}

/// Creates a symbolic link at `path` with the given text, which is relative to the link's own folder.
///
/// # Errors
/// When the path exists already, or the text is absolute.
pub fn symlink(text: &str, path: &str) -> Result<(), Failure> {
    let (dir, rest) = split_grant(path)?;
    backend::symlink(text, dir, &rest).map_err(|cause| fs_failure("link", path, cause))?;
    sync_dir(parent(path))
}

/// Returns the text of a symbolic link.
///
/// # Errors
/// Not found or not a link; [`FailureKind::Denied`] when the text is absolute, which the sandbox hides.
pub fn read_link(path: &str) -> Result<String, Failure> {
    let (dir, rest) = split_grant(path)?;
    backend::read_link(dir, &rest).map_err(|cause| fs_failure("read the link", path, cause))
}

/// Removes a file or a link; a missing one is not an error.
///
/// # Errors
/// When the path is a folder, or removal is not permitted.
pub fn remove(path: &str) -> Result<(), Failure> {
    let (dir, rest) = split_grant(path)?;
    match backend::remove(dir, &rest) {
        Ok(()) => sync_dir(parent(path)),
        Err(FsError::NotFound) => Ok(()),
        Err(cause) => Err(fs_failure("remove", path, cause)),
    }
}

/// Creates a folder and its missing parents; existing folders are not an error.
///
/// # Errors
/// When a part of the path is not a folder, or creation is not permitted.
pub fn create_dir_all(path: &str) -> Result<(), Failure> {
    let (dir, rest) = split_grant(path)?;
    let mut made = String::new();
    for name in rest.split('/').filter(|name| !name.is_empty()) {
        let folder = if made.is_empty() { dir.to_owned() } else { format!("{dir}/{made}") };
        made = if made.is_empty() { name.to_owned() } else { format!("{made}/{name}") };
        match backend::create_dir(dir, &made) {
            Ok(()) => sync_dir(&folder)?,
            Err(FsError::Exists) => {}
            Err(cause) => return Err(fs_failure("create the folder", &format!("{dir}/{made}"), cause)),
        }
    }
    Ok(())
}

/// Syncs a folder, so that its entries are on the disk.
///
/// # Errors
/// The disk's error.
pub fn sync_dir(path: &str) -> Result<(), Failure> {
    let (dir, rest) = split_grant(path)?;
    backend::sync_dir(dir, &rest).map_err(|cause| fs_failure("sync", path, cause))
}

/// Checks and normalizes a path relative to a granted directory: no `..`, not absolute, not empty. It serves settings
/// such as `link: current`.
///
/// # Errors
/// [`FailureKind::InvalidConfig`], naming the setting.
pub fn relative(setting: &str, path: &str) -> Result<String, Failure> {
    let names: Vec<_> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.is_empty() || path.starts_with('/') || names.contains(&"..") || path.contains('\0') {
        return Err(Failure::invalid_config(format!("`{setting}: {path}` is not a path inside the granted directory"))
            .hint(format!("write a path relative to that directory, without `..`, such as `{setting}: current`")));
    }
    Ok(names.join("/"))
}

/// Returns the failure for a directory that the plan does not grant.
pub fn not_granted(name: &str) -> Failure {
    let granted = dirs();
    let granted = if granted.is_empty() {
        "no directory is granted".to_owned()
    } else {
        format!("granted: {}", granted.join(", "))
    };
    Failure::denied(format!("the directory `{name}` is not granted to this step ({granted})"))
        .hint(format!("add `{name}: <folder>` to the step's `grants: {{ dirs: … }}`"))
}

fn stat(path: &str, links: SymlinkBehavior) -> Result<Option<FileMetadata>, Failure> {
    let (dir, rest) = split_grant(path)?;
    match backend::stat(dir, &rest, links) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(FsError::NotFound | FsError::NotDirectory) => Ok(None),
        Err(cause) => Err(fs_failure("inspect", path, cause)),
    }
}

/// Returns the folder of a path, `app` for `app/VERSION`.
fn parent(path: &str) -> &str {
    path.trim_end_matches('/').rsplit_once('/').map_or(path, |(parent, _)| parent)
}

/// Splits a path into the grant's name and the rest, which is `.` for the grant itself.
fn split_grant(path: &str) -> Result<(&str, String), Failure> {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let (dir, rest) = trimmed.split_once('/').unwrap_or((trimmed, ""));
    let names: Vec<_> = rest.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if dir.is_empty() || names.contains(&"..") {
        return Err(Failure::invalid_config(format!("`{path}` is not a path inside a granted directory"))
            .hint("write `<granted directory>/<path>` without `..`"));
    }
    if !dirs().iter().any(|granted| granted == dir) {
        return Err(not_granted(dir));
    }
    Ok((dir, if names.is_empty() { ".".to_owned() } else { names.join("/") }))
}

pub(crate) fn fs_failure(verb: &str, path: &str, cause: FsError) -> Failure {
    let (kind, what, hint) = match cause {
        FsError::NotFound => (FailureKind::NotFound, "not found".to_owned(), None),
        FsError::Denied => (
            FailureKind::Denied,
            "not permitted".to_owned(),
            Some(
                "check whether the grant is read-only (`:ro`), the folder belongs to another user, or a link points outside the grant",
            ),
        ),
        FsError::Exists => (FailureKind::Conflict, "it already exists".to_owned(), None),
        FsError::NoSpace => (
            FailureKind::Limit,
            "the disk is full, or a quota is reached".to_owned(),
            Some("free some space, then run the deployment again"),
        ),
        FsError::NotEmpty => (FailureKind::Conflict, "the folder is not empty".to_owned(), None),
        FsError::NotDirectory => (FailureKind::Conflict, "a part of the path is not a folder".to_owned(), None),
        FsError::IsDirectory => (FailureKind::Conflict, "it is a folder".to_owned(), None),
        FsError::Other(what) => (FailureKind::Permanent, what, None),
    };
    let failure = Failure::new(kind, format!("cannot {verb} `{path}`: {what}")).detail("file", path);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DirectoryAccess;
    use crate::testing::TestSandbox;

    #[test]
    fn paths_stay_inside_grants() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        assert_eq!(split_grant("/app//a/./b/").unwrap(), ("app", "a/b".to_owned()));
        assert_eq!(split_grant("app").unwrap(), ("app", ".".to_owned()));
        for (path, kind) in [
            ("app/../x", FailureKind::InvalidConfig),
            ("", FailureKind::InvalidConfig),
            ("etc/passwd", FailureKind::Denied),
        ] {
            assert_eq!(split_grant(path).unwrap_err().kind, kind, "{path}");
        }
        assert_eq!(relative("link", "./a//b").unwrap(), "a/b");
        for path in ["", ".", "/a", "a/../../b"] {
            assert!(relative("link", path).is_err(), "{path}");
        }
        assert_eq!(
            read("etc/passwd").unwrap_err().message,
            "the directory `etc` is not granted to this step (granted: app)"
        );
    }

    #[test]
    fn write_atomic_replaces_the_file_or_keeps_the_old_one() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        create_dir_all("app/a/b").unwrap();
        write_atomic("app/a/b/f", b"one").unwrap();
        write_atomic("app/a/b/f", b"two").unwrap();
        assert_eq!(read_text("/app/a/b/f").unwrap(), "two");
        assert_eq!(list("app/a/b").unwrap(), [DirectoryEntry { name: "f".into(), file_type: FileType::File }]);
        sandbox.kill_after(1);
        let failure = write_atomic("app/a/b/f", b"three").unwrap_err();
        assert_eq!(failure.kind, FailureKind::Permanent);
        sandbox.revive();
        assert_eq!(read_text("app/a/b/f").unwrap(), "two");
    }

    #[test]
    fn read_only_grants_are_not_written() {
        let sandbox = TestSandbox::new();
        sandbox.grant("dist", DirectoryAccess::Read);
        let failure = write_atomic("dist/f", b"x").unwrap_err();
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (FailureKind::Denied, "cannot write `dist/f`: not permitted")
        );
        assert!(!exists("dist/f").unwrap());
    }

    #[test]
    fn end_of_a_file_is_read() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        write_atomic("app/log", b"0123456789").unwrap();
        assert_eq!(read_end("app/log", 3).unwrap(), (b"789".to_vec(), false));
        assert_eq!(read_end("app/log", 99).unwrap(), (b"0123456789".to_vec(), true));
        assert_eq!(read_end("app/none", 3).unwrap_err().kind, FailureKind::NotFound);
    }

    #[test]
    fn metadata_follows_links_and_metadata_of_link_does_not() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        symlink("nowhere", "app/l").unwrap();
        assert_eq!(metadata("app/l").unwrap(), None);
        assert_eq!(metadata_of_link("app/l").unwrap().unwrap().file_type, FileType::Link);
        assert_eq!(read_link("app/l").unwrap(), "nowhere");
        assert_eq!(read_if_exists("app/l").unwrap(), None);
        assert_eq!(symlink("x", "app/l").unwrap_err().kind, FailureKind::Conflict);
        remove("app/l").unwrap();
        remove("app/l").unwrap();
        assert_eq!(read_link("app/l").unwrap_err().kind, FailureKind::NotFound);
    }
}
