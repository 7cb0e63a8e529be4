//! Granted directories as they were read, each once: what a fingerprint is of is what the step gets, whoever edits the files
//! meanwhile, and a directory of a thousand files costs one reading.
//!
//! Invariant: what was read is forgotten behind every call that may have written files. What anybody else writes once the directory
//! was read is for the next deployment. Deliberately absent: keeping any of it for another process, which times and sizes of files
//! could lie to; and texts of directories that are no migrations'.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use cap_std::fs::Dir;

use crate::confined_path;
use contract::hash::Hash;

/// The largest file whose text is kept, in bytes.
pub const LARGEST: u64 = 256 << 20;

/// So many files are worth more than one thread.
const MANY: usize = 128;

/// What is known of directories; clones know the same.
#[derive(Clone, Default)]
pub struct Folders(Arc<Mutex<BTreeMap<PathBuf, Arc<Folder>>>>);

/// A directory with all that is below it.
#[derive(Debug, Default)]
pub struct Folder {
    /// By path.
    files: Vec<File>,
    /// What is neither file nor directory, or a link to nothing.
    odd: Vec<String>,
}

/// A file.
#[derive(Debug)]
pub struct File {
    /// Below the directory.
    pub path: String,
    pub size: u64,
    pub content: Content,
    hash: Hash,
}

/// What of a file is kept.
#[derive(Clone, Debug)]
pub enum Content {
    Text(Arc<String>),
    /// It is no UTF-8.
    Bytes(Arc<Vec<u8>>),
    /// Nothing: it is too large, or not asked for.
    Gone,
}

/// Which file can't be read, and why.
pub type Unread = (String, io::Error);

impl Folders {
    /// Reads a directory, or returns what was read of it. `path` is the granted one.
    pub fn read(&self, path: &Path, dir: &Dir) -> Result<Arc<Folder>, Unread> {
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
    pub fn known(&self, path: &Path) -> Option<Arc<Folder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// Files may have been written.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Folder {
    /// Those files right in a directory that are wanted, and nothing else.
    pub fn flat(dir: &Dir, wanted: &dyn Fn(&str) -> bool) -> Result<Self, Unread> {
        let mut folder = Self::default();
        folder.add(dir, "", wanted, false)?;
        folder.files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(folder)
    }

    /// Those files right in the directory that are wanted, by name.
    pub fn files(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| !file.path.contains('/') && wanted(&file.path))
    }

    /// What lies right in the directory and can't be read as a file.
    pub fn odd(&self) -> impl Iterator<Item = &str> {
        self.odd.iter().map(String::as_str).filter(|path| !path.contains('/'))
    }

    /// One hash of all paths and contents.
    pub fn hash(&self) -> Hash {
        hash_of(self.files.iter().map(|file| (file.path.as_str(), file.hash)))
    }

    fn add(
        &mut self,
        dir: &Dir,
        prefix: &str,
        wanted: &dyn Fn(&str) -> bool,
        with_folders: bool,
    ) -> Result<(), Unread> {
        let listed = list(dir, prefix)?;
        let names: Vec<&Entry> = listed.files.iter().filter(|entry| wanted(&entry.path)).collect();
        self.files.extend(read_all(dir, &names)?);
        self.odd.extend(listed.odd);
        for (path, inner) in listed.folders.into_iter().filter(|_| with_folders) {
            self.add(&inner.map_err(|error| (path.clone(), error))?, &format!("{path}/"), wanted, with_folders)?;
        }
        Ok(())
    }
}

impl File {
    fn read(dir: &Dir, entry: &Entry) -> Result<Self, Unread> {
        let path = entry.path.clone();
        let bytes = confined_path::regular_sized(dir, &entry.name).and_then(|(file, size)| slurp(file, size));
        let bytes = bytes.map_err(|error| (path.clone(), error))?;
        let (size, hash) = (bytes.len() as u64, Hash::of(&bytes));
        let content = match String::from_utf8(bytes) {
            _ if size > LARGEST || path.contains('/') => Content::Gone,
            Ok(text) => Content::Text(Arc::new(text)),
            Err(error) => Content::Bytes(Arc::new(error.into_bytes())),
        };
        Ok(Self { path, size, content, hash })
    }
}

/// Reads files, by a few threads where they are many: most of the time goes to calls of the system.
fn read_all(dir: &Dir, entries: &[&Entry]) -> Result<Vec<File>, Unread> {
    let threads = if entries.len() < MANY { 1 } else { thread::available_parallelism().map_or(1, usize::from).min(4) };
    let read = |entries: &[&Entry]| entries.iter().map(|entry| File::read(dir, entry)).collect::<Result<Vec<_>, _>>();
    if threads == 1 {
        return read(entries);
    }
    thread::scope(|scope| {
        let shares = entries.chunks(entries.len().div_ceil(threads));
        let parts: Vec<_> = shares.map(|share| scope.spawn(move || read(share))).collect();
        let mut files = Vec::with_capacity(entries.len());
        for part in parts {
            files.extend(part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(files)
    })
}

/// The hash of a directory of which nothing is kept.
pub fn hash(dir: &Dir) -> Result<Hash, Unread> {
    let mut lines = Vec::new();
    add_hashes(dir, "", &mut lines)?;
    lines.sort();
    Ok(hash_of(lines.iter().map(|(path, hash)| (path.as_str(), *hash))))
}

fn add_hashes(dir: &Dir, prefix: &str, lines: &mut Vec<(String, Hash)>) -> Result<(), Unread> {
    let listed = list(dir, prefix)?;
    for entry in listed.files {
        let bytes = confined_path::regular_sized(dir, &entry.name).and_then(|(file, size)| slurp(file, size));
        let hash = Hash::of(&bytes.map_err(|error| (entry.path.clone(), error))?);
        lines.push((entry.path, hash));
    }
    for (path, inner) in listed.folders {
        add_hashes(&inner.map_err(|error| (path.clone(), error))?, &format!("{path}/"), lines)?;
    }
    Ok(())
}

fn hash_of<'a>(files: impl Iterator<Item = (&'a str, Hash)>) -> Hash {
    let all: String = files.map(|(path, hash)| format!("{hash} {path}\n")).collect();
    Hash::of(all.as_bytes())
}

/// A file right in a directory.
struct Entry {
    name: OsString,
    /// Below the directory where one began.
    path: String,
}

/// What lies right in a directory.
#[derive(Default)]
struct Listed {
    /// Links to files too.
    files: Vec<Entry>,
    folders: Vec<(String, io::Result<Dir>)>,
    odd: Vec<String>,
}

fn list(dir: &Dir, prefix: &str) -> Result<Listed, Unread> {
    let error = |path: &str| {
        let path = path.to_owned();
        move |source| (path, source)
    };
    let mut listed = Listed::default();
    for entry in dir.entries().map_err(error(prefix))? {
        let entry = entry.map_err(error(prefix))?;
        let name = entry.file_name();
        let path = format!("{prefix}{}", name.to_string_lossy());
        let kind = entry.file_type().map_err(error(&path))?;
        if kind.is_dir() {
            listed.folders.push((path, entry.open_dir()));
        } else if kind.is_file() || kind.is_symlink() && dir.metadata(&name).is_ok_and(|target| target.is_file()) {
            listed.files.push(Entry { name, path });
        } else {
            listed.odd.push(path);
        }
    }
    Ok(listed)
}

/// A file's bytes, with no more calls than that takes.
pub fn slurp(mut file: cap_std::fs::File, expected: u64) -> io::Result<Vec<u8>> {
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
    Ok(bytes)
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
