//! Compares an unpacked folder with its list of files: one `stat` per entry. The content of a file is read only if its modification
//! time is another one, and then decides.
//!
//! Not reported: added files, modes, owners, and times of directories and links.

use std::{fs::File, os::fd::AsFd as _};

use cap_std::fs::Dir;
use rustix::{
    fd::BorrowedFd,
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    dir_cursor::{self, DirCursor},
    entry::{self, ArchiveEntryKind},
    error::ArchiveError,
    file_list::{self, ContentHash, FileListEntry},
};

/// The most lines that are returned.
const MAX_DIFFERENCES: usize = 20;

/// Compares the folder `path` of `dir` with the list that `unpack` left in it.
/// Returns the differences, one per line (`missing: bin/app`, `changed: config.toml (size 12, was 20)`), at most 20;
/// empty if there are none. A missing folder, and a missing or damaged list, are differences.
///
/// # Errors
/// [`ArchiveError::Filesystem`] when the system denies access.
pub fn compare(dir: &Dir, path: &str) -> Result<Vec<String>, ArchiveError> {
    let folder = dir_cursor::open_parent(dir, path).and_then(|(parent, name)| {
        dir_cursor::open_dir(parent.as_fd(), name).map_err(ArchiveError::filesystem("opened", path))
    });
    let folder = match folder {
        Ok(folder) => folder,
        Err(ArchiveError::Filesystem { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(vec![format!("missing: {path}")]);
        }
        Err(ArchiveError::Filesystem { source, .. }) if is_not_a_directory(&source) => {
            return Ok(vec![format!("changed: {path} (no longer a directory)")]);
        }
        Err(error) => return Err(error),
    };
    let entries = match file_list::read(folder.as_fd())? {
        Ok(entries) => entries,
        Err(unusable) => return Ok(vec![unusable.to_string()]),
    };
    let mut folders = DirCursor::new(folder);
    let mut lines = Vec::new();
    let mut more = 0;
    for entry in &entries {
        let Some(line) = difference(entry, &mut folders)? else { continue };
        if lines.len() < MAX_DIFFERENCES {
            lines.push(line);
        } else {
            more += 1;
        }
    }
    if more > 0
        && let Some(last) = lines.last_mut()
    {
        *last = format!("and {} more", more + 1);
    }
    Ok(lines)
}

fn difference(listed: &FileListEntry, folders: &mut DirCursor) -> Result<Option<String>, ArchiveError> {
    let (above, name) = entry::split_path(&listed.path);
    let parent = match folders.move_to(above) {
        Ok(parent) => parent,
        // Parents are listed first, so the missing parent was already reported.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound || is_not_a_directory(&error) => return Ok(None),
        Err(error) => return Err(ArchiveError::filesystem("opened", above)(error)),
    };
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Some(format!("missing: {}", listed.path))),
        Err(error) => return Err(ArchiveError::filesystem("examined", &listed.path)(error)),
    };
    let changed = |what: String| Ok(Some(format!("changed: {} ({what})", listed.path)));
    let (is, was) = (file_type_name(FileType::from_raw_mode(stat.st_mode)), file_type_name(file_type(listed.kind)));
    if is != was {
        return changed(format!("{is}, was {was}"));
    }
    match listed.kind {
        ArchiveEntryKind::Directory => Ok(None),
        ArchiveEntryKind::File if stat.st_size.cast_unsigned() != listed.size => {
            changed(format!("size {}, was {}", stat.st_size, listed.size))
        }
        ArchiveEntryKind::File if file_list::modified_time(&stat) == listed.modified => Ok(None),
        ArchiveEntryKind::File => match listed.content {
            // A list of version 1 does not tell whether the content is another one.
            None => changed("modified since".to_owned()),
            Some(content) => {
                let found = content_hash(parent, name).map_err(ArchiveError::filesystem("read", &listed.path))?;
                if found == content { Ok(None) } else { changed("other content of the same size".to_owned()) }
            }
        },
        ArchiveEntryKind::Symlink => {
            let target = link_target(parent, name).map_err(ArchiveError::filesystem("read", &listed.path))?;
            if target == listed.target {
                Ok(None)
            } else {
                changed(format!("links to {target}, was {}", listed.target))
            }
        }
    }
}

fn content_hash(parent: BorrowedFd<'_>, name: &str) -> std::io::Result<ContentHash> {
    // Somebody may have put a pipe there since, which must not block.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    ContentHash::of_reader(File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?))
}

fn link_target(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<String> {
    let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
    Ok(String::from_utf8_lossy(target.to_bytes()).into_owned())
}

fn is_not_a_directory(error: &std::io::Error) -> bool {
    [Errno::NOTDIR, Errno::LOOP].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn file_type(kind: ArchiveEntryKind) -> FileType {
    match kind {
        ArchiveEntryKind::Directory => FileType::Directory,
        ArchiveEntryKind::File => FileType::RegularFile,
        ArchiveEntryKind::Symlink => FileType::Symlink,
    }
}

fn file_type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::RegularFile => "a file",
        FileType::Symlink => "a link",
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
            "a special file"
        }
    }
}
