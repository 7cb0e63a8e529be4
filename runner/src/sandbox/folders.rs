//! Granted directories as they were read, each once: what a fingerprint is of is what the step gets, whoever edits the files
//! meanwhile, and a directory of a thousand files costs one reading.
//!
//! Invariant: what was read is forgotten behind every call that may have written files. What anybody else writes once the directory
//! was read is for the next deployment. Deliberately absent: keeping any of it for another process, which times and sizes of files
//! could lie to; and texts of directories that are no migrations'.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cap_std::fs::Dir;

use super::places;
use crate::journal::event::Hash;

/// The largest file whose text is kept, in bytes.
pub(super) const LARGEST: u64 = 256 << 20;

/// What is known of directories; clones know the same.
#[derive(Clone, Default)]
pub(super) struct Folders(Arc<Mutex<BTreeMap<PathBuf, Arc<Folder>>>>);

/// A directory with all that is below it.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// By path.
    files: Vec<File>,
    /// What is neither file nor directory, or a link to nothing.
    odd: Vec<String>,
}

/// A file.
#[derive(Debug)]
pub(super) struct File {
    /// Below the directory.
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) content: Content,
    hash: Hash,
}

/// What of a file is kept.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Text(Arc<String>),
    /// It is no UTF-8.
    Bytes(Arc<Vec<u8>>),
    /// Nothing: it is too large, or not asked for.
    Gone,
}

/// Which file can't be read, and why.
pub(super) type Unread = (String, io::Error);

impl Folders {
    /// Reads a directory, or returns what was read of it. `path` is the granted one.
    pub(super) fn read(&self, path: &Path, dir: &Dir) -> Result<Arc<Folder>, Unread> {
        if let Some(known) = self.known(path) {
            return Ok(known);
        }
        let mut folder = Folder::default();
        folder.add(dir, "", &|_| true, true)?;
        folder.files.sort_by(|one, other| one.path.cmp(&other.path));
        let folder = Arc::new(folder);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), Arc::clone(&folder));
        Ok(folder)
    }

    /// What was read of a directory.
    pub(super) fn known(&self, path: &Path) -> Option<Arc<Folder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// Files may have been written.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Folder {
    /// Those files right in a directory that are wanted, and nothing else.
    pub(super) fn flat(dir: &Dir, wanted: &dyn Fn(&str) -> bool) -> Result<Self, Unread> {
        let mut folder = Self::default();
        folder.add(dir, "", wanted, false)?;
        folder.files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(folder)
    }

    /// Those files right in the directory that are wanted, by name.
    pub(super) fn files(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| !file.path.contains('/') && wanted(&file.path))
    }

    /// What lies right in the directory and can't be read as a file.
    pub(super) fn odd(&self) -> impl Iterator<Item = &str> {
        self.odd.iter().map(String::as_str).filter(|path| !path.contains('/'))
    }

    /// One hash of all paths and contents.
    pub(super) fn hash(&self) -> Hash {
        listed(self.files.iter().map(|file| (file.path.as_str(), file.hash)))
    }

    fn add(
        &mut self,
        dir: &Dir,
        prefix: &str,
        wanted: &dyn Fn(&str) -> bool,
        with_folders: bool,
    ) -> Result<(), Unread> {
        walk(dir, prefix, wanted, with_folders, &mut |path, file| {
            let Some(file) = file else {
                self.odd.push(path);
                return Ok(());
            };
            let (size, bytes) = slurp(file)?;
            let hash = Hash::of(&bytes);
            let content = match String::from_utf8(bytes) {
                _ if size > LARGEST || path.contains('/') => Content::Gone,
                Ok(text) => Content::Text(Arc::new(text)),
                Err(error) => Content::Bytes(Arc::new(error.into_bytes())),
            };
            self.files.push(File { path, size, content, hash });
            Ok(())
        })
    }
}

/// The hash of a directory of which nothing is kept.
pub(super) fn hash(dir: &Dir) -> Result<Hash, Unread> {
    let mut lines = Vec::new();
    walk(dir, "", &|_| true, true, &mut |path, file| {
        if let Some(file) = file {
            lines.push((path, Hash::of(&slurp(file)?.1)));
        }
        Ok(())
    })?;
    lines.sort();
    Ok(listed(lines.iter().map(|(path, hash)| (path.as_str(), *hash))))
}

fn listed<'a>(files: impl Iterator<Item = (&'a str, Hash)>) -> Hash {
    let all: String = files.map(|(path, hash)| format!("{hash} {path}\n")).collect();
    Hash::of(all.as_bytes())
}

/// Every file below a directory that is wanted, also through links to files; nothing for what is no file.
fn walk(
    dir: &Dir,
    prefix: &str,
    wanted: &dyn Fn(&str) -> bool,
    with_folders: bool,
    take: &mut dyn FnMut(String, Option<cap_std::fs::File>) -> io::Result<()>,
) -> Result<(), Unread> {
    let error = |path: &str| {
        let path = path.to_owned();
        move |source| (path, source)
    };
    for entry in dir.entries().map_err(error(prefix))? {
        let entry = entry.map_err(error(prefix))?;
        let name = entry.file_name();
        let path = format!("{prefix}{}", name.to_string_lossy());
        let kind = entry.file_type().map_err(error(&path))?;
        if kind.is_dir() {
            if with_folders {
                let inner = entry.open_dir().map_err(error(&path))?;
                walk(&inner, &format!("{path}/"), wanted, with_folders, take)?;
            }
        } else if wanted(&path) {
            let is_file =
                kind.is_file() || kind.is_symlink() && dir.metadata(&name).is_ok_and(|target| target.is_file());
            let opened = is_file.then(|| places::regular(dir, &name)).transpose();
            opened.and_then(|file| take(path.clone(), file)).map_err(error(&path))?;
        }
    }
    Ok(())
}

/// A file's length and bytes, with no more calls than that takes.
pub(super) fn slurp(mut file: cap_std::fs::File) -> io::Result<(u64, Vec<u8>)> {
    let expected = file.metadata()?.len();
    let mut bytes = vec![0; usize::try_from(expected).unwrap_or(0) + 1];
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Room for one byte more was left, and nothing came.
        if length as u64 == expected {
            break;
        }
        if length == bytes.len() {
            bytes.resize(length * 2, 0);
        }
    }
    bytes.truncate(length);
    Ok((length as u64, bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cap_std::ambient_authority;

    use super::*;

    #[test]
    fn a_directory_is_read_once_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/b.sql"), "b").unwrap();
        fs::write(folder.path().join("a.sql"), "first").unwrap();
        fs::write(folder.path().join("odd.sql"), b"\xff").unwrap();
        let dir = Dir::open_ambient_dir(folder.path(), ambient_authority()).unwrap();
        let folders = Folders::default();
        let text = |folders: &Folders| {
            let read = folders.read(folder.path(), &dir).unwrap();
            let texts: Vec<_> = read
                .files(|_| true)
                .map(|file| match &file.content {
                    Content::Text(text) => text.to_string(),
                    Content::Bytes(bytes) => format!("{bytes:?}"),
                    Content::Gone => "gone".to_owned(),
                })
                .collect();
            (texts.join(" "), read.hash())
        };
        let first = text(&folders);
        assert_eq!(first.0, "first [255]");
        assert_eq!(first.1, hash(&dir).unwrap());
        fs::write(folder.path().join("a.sql"), "later").unwrap();
        assert_eq!(text(&folders.clone()), first, "hash and text are those of one reading");
        folders.forget();
        let later = text(&folders);
        assert_eq!(later.0, "later [255]");
        assert_eq!(later.1, hash(&dir).unwrap());
        assert_ne!(later.1, first.1);
    }
}
