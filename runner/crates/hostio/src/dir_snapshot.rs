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
use contract::hash::Blake3Hash;

/// The largest file whose text is kept, in bytes.
pub const MAX_SNAPSHOT_TEXT_BYTES: u64 = 256 << 20;

/// So many files are worth more than one thread.
const PARALLEL_READ_THRESHOLD: usize = 128;

/// What is known of directories; clones know the same.
#[derive(Clone, Default)]
pub struct DirSnapshotCache(Arc<Mutex<BTreeMap<PathBuf, Arc<DirSnapshot>>>>);

/// A directory with all that is below it.
#[derive(Debug, Default)]
pub struct DirSnapshot {
    /// By path.
    files: Vec<SnapshotFile>,
    /// What is neither file nor directory, or a link to nothing.
    irregular: Vec<String>,
}

/// A file.
#[derive(Debug)]
pub struct SnapshotFile {
    /// Below the directory.
    pub path: String,
    pub size: u64,
    pub content: SnapshotContent,
    hash: Blake3Hash,
}

/// What of a file is kept.
#[derive(Clone, Debug)]
pub enum SnapshotContent {
    Text(Arc<String>),
    /// It is no UTF-8.
    Bytes(Arc<Vec<u8>>),
    /// Nothing: it is too large, or not asked for.
    NotKept,
}

/// Which file can't be read, and why.
pub type PathReadError = (String, io::Error);

impl DirSnapshotCache {
    /// Reads a directory, or returns what was read of it. `path` is the granted one.
    pub fn snapshot(&self, path: &Path, dir: &Dir) -> Result<Arc<DirSnapshot>, PathReadError> {
        if let Some(known) = self.cached(path) {
            return Ok(known);
        }
        let mut folder = DirSnapshot::default();
        folder.add_dir(dir, "", &|_| true, true)?;
        folder.files.sort_by(|one, other| one.path.cmp(&other.path));
        let folder = Arc::new(folder);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), Arc::clone(&folder));
        Ok(folder)
    }

    /// What was read of a directory.
    pub fn cached(&self, path: &Path) -> Option<Arc<DirSnapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// Files may have been written.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl DirSnapshot {
    /// Those files right in a directory that are wanted, and nothing else.
    pub fn read_top_level(dir: &Dir, wanted: &dyn Fn(&str) -> bool) -> Result<Self, PathReadError> {
        let mut folder = Self::default();
        folder.add_dir(dir, "", wanted, false)?;
        folder.files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(folder)
    }

    /// Those files right in the directory that are wanted, by name.
    pub fn top_level_files(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = &SnapshotFile> {
        self.files.iter().filter(move |file| !file.path.contains('/') && wanted(&file.path))
    }

    /// What lies right in the directory and can't be read as a file.
    pub fn irregular_entries(&self) -> impl Iterator<Item = &str> {
        self.irregular.iter().map(String::as_str).filter(|path| !path.contains('/'))
    }

    /// One hash of all paths and contents.
    pub fn hash(&self) -> Blake3Hash {
        combined_hash(self.files.iter().map(|file| (file.path.as_str(), file.hash)))
    }

    fn add_dir(
        &mut self,
        dir: &Dir,
        prefix: &str,
        wanted: &dyn Fn(&str) -> bool,
        recursive: bool,
    ) -> Result<(), PathReadError> {
        let listed = list_dir(dir, prefix)?;
        let names: Vec<&DirListingFile> = listed.files.iter().filter(|entry| wanted(&entry.path)).collect();
        self.files.extend(read_files(dir, &names)?);
        self.irregular.extend(listed.irregular);
        for (path, subdir) in listed.dirs.into_iter().filter(|_| recursive) {
            self.add_dir(&subdir.map_err(|error| (path.clone(), error))?, &format!("{path}/"), wanted, recursive)?;
        }
        Ok(())
    }
}

impl SnapshotFile {
    fn read(dir: &Dir, entry: &DirListingFile) -> Result<Self, PathReadError> {
        let path = entry.path.clone();
        let bytes = confined_path::open_regular_file_with_size(dir, &entry.name)
            .and_then(|(file, size)| read_sized(file, size));
        let bytes = bytes.map_err(|error| (path.clone(), error))?;
        let (size, hash) = (bytes.len() as u64, Blake3Hash::of(&bytes));
        let content = match String::from_utf8(bytes) {
            _ if size > MAX_SNAPSHOT_TEXT_BYTES || path.contains('/') => SnapshotContent::NotKept,
            Ok(text) => SnapshotContent::Text(Arc::new(text)),
            Err(error) => SnapshotContent::Bytes(Arc::new(error.into_bytes())),
        };
        Ok(Self { path, size, content, hash })
    }
}

/// Reads files, by a few threads where they are many: most of the time goes to calls of the system.
fn read_files(dir: &Dir, entries: &[&DirListingFile]) -> Result<Vec<SnapshotFile>, PathReadError> {
    let threads = if entries.len() < PARALLEL_READ_THRESHOLD {
        1
    } else {
        thread::available_parallelism().map_or(1, usize::from).min(4)
    };
    let read = |entries: &[&DirListingFile]| {
        entries.iter().map(|entry| SnapshotFile::read(dir, entry)).collect::<Result<Vec<_>, _>>()
    };
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
pub fn hash_dir(dir: &Dir) -> Result<Blake3Hash, PathReadError> {
    let mut lines = Vec::new();
    collect_file_hashes(dir, "", &mut lines)?;
    lines.sort();
    Ok(combined_hash(lines.iter().map(|(path, hash)| (path.as_str(), *hash))))
}

fn collect_file_hashes(dir: &Dir, prefix: &str, lines: &mut Vec<(String, Blake3Hash)>) -> Result<(), PathReadError> {
    let listed = list_dir(dir, prefix)?;
    for entry in listed.files {
        let bytes = confined_path::open_regular_file_with_size(dir, &entry.name)
            .and_then(|(file, size)| read_sized(file, size));
        let hash = Blake3Hash::of(&bytes.map_err(|error| (entry.path.clone(), error))?);
        lines.push((entry.path, hash));
    }
    for (path, subdir) in listed.dirs {
        collect_file_hashes(&subdir.map_err(|error| (path.clone(), error))?, &format!("{path}/"), lines)?;
    }
    Ok(())
}

fn combined_hash<'a>(files: impl Iterator<Item = (&'a str, Blake3Hash)>) -> Blake3Hash {
    let all: String = files.map(|(path, hash)| format!("{hash} {path}\n")).collect();
    Blake3Hash::of(all.as_bytes())
}

/// A file right in a directory.
struct DirListingFile {
    name: OsString,
    /// Below the directory where one began.
    path: String,
}

/// What lies right in a directory.
#[derive(Default)]
struct DirListing {
    /// Links to files too.
    files: Vec<DirListingFile>,
    dirs: Vec<(String, io::Result<Dir>)>,
    irregular: Vec<String>,
}

fn list_dir(dir: &Dir, prefix: &str) -> Result<DirListing, PathReadError> {
    let error = |path: &str| {
        let path = path.to_owned();
        move |source| (path, source)
    };
    let mut listed = DirListing::default();
    for entry in dir.entries().map_err(error(prefix))? {
        let entry = entry.map_err(error(prefix))?;
        let name = entry.file_name();
        let path = format!("{prefix}{}", name.to_string_lossy());
        let kind = entry.file_type().map_err(error(&path))?;
        if kind.is_dir() {
            listed.dirs.push((path, entry.open_dir()));
        } else if kind.is_file() || kind.is_symlink() && dir.metadata(&name).is_ok_and(|target| target.is_file()) {
            listed.files.push(DirListingFile { name, path });
        } else {
            listed.irregular.push(path);
        }
    }
    Ok(listed)
}

/// A file's bytes, with no more calls than that takes.
pub fn read_sized(mut file: cap_std::fs::File, expected: u64) -> io::Result<Vec<u8>> {
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
        let folders = DirSnapshotCache::default();
        let text = |folders: &DirSnapshotCache| {
            let read = folders.snapshot(folder.path(), &dir).unwrap();
            let texts: Vec<_> = read
                .top_level_files(|_| true)
                .map(|file| match &file.content {
                    SnapshotContent::Text(text) => text.to_string(),
                    SnapshotContent::Bytes(bytes) => format!("{bytes:?}"),
                    SnapshotContent::NotKept => "gone".to_owned(),
                })
                .collect();
            (texts.join(" "), read.hash())
        };
        let first = text(&folders);
        assert_eq!(first.0, "first [255]");
        assert_eq!(first.1, hash_dir(&dir).unwrap());
        fs::write(folder.path().join("a.sql"), "later").unwrap();
        assert_eq!(text(&folders.clone()), first, "hash and text are those of one reading");
        folders.clear();
        let later = text(&folders);
        assert_eq!(later.0, "later [255]");
        assert_eq!(later.1, hash_dir(&dir).unwrap());
        assert_ne!(later.1, first.1);
    }
}
