//! Snapshots of granted directories, each read once. So a step gets exactly the files that were fingerprinted, whoever
//! edits them meanwhile, and a directory of a thousand files is read only once.
//!
//! Invariant: a snapshot is dropped after every call that may have written files. Other writers' changes count from the
//! next deployment on. Deliberately absent: sharing snapshots between processes, because times and sizes of files could
//! lie, and texts of directories without migrations.

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
use contract::hash::{Blake3Hash, InputHash};

/// The largest file whose text is kept, in bytes.
pub const MAX_SNAPSHOT_TEXT_BYTES: u64 = 256 << 20;

/// The number of files from which several threads pay off.
const PARALLEL_READ_THRESHOLD: usize = 128;

/// The snapshots of directories. Clones share them.
#[derive(Clone, Default)]
pub struct DirSnapshotCache(Arc<Mutex<BTreeMap<PathBuf, Arc<DirSnapshot>>>>);

/// A directory with everything below it.
#[derive(Debug, Default)]
pub struct DirSnapshot {
    /// The files, by path.
    files: Vec<SnapshotFile>,
    /// Entries that are neither file nor directory, and broken links.
    irregular: Vec<String>,
}

/// A file.
#[derive(Debug)]
pub struct SnapshotFile {
    /// The path relative to the directory.
    pub path: String,
    pub size: u64,
    pub content: SnapshotContent,
    hash: Blake3Hash,
}

/// The kept content of a file.
#[derive(Clone, Debug)]
pub enum SnapshotContent {
    Text(Arc<String>),
    /// It is not UTF-8.
    Bytes(Arc<Vec<u8>>),
    /// Nothing: it is too large, or was not requested.
    NotKept,
}

/// An unreadable file and its error.
pub type PathReadError = (String, io::Error);

impl DirSnapshotCache {
    /// Reads a directory, or returns its snapshot. `path` is the granted path. The snapshot keeps the text of files directly in
    /// the directory whose names `keeps_text` accepts, and only the hash of the others.
    pub fn snapshot(
        &self,
        path: &Path,
        dir: &Dir,
        keeps_text: fn(&str) -> bool,
    ) -> Result<Arc<DirSnapshot>, PathReadError> {
        if let Some(known) = self.cached(path) {
            return Ok(known);
        }
        let mut folder = DirSnapshot::default();
        folder.add_dir(dir, "", &|_| true, keeps_text, true)?;
        folder.files.sort_by(|one, other| one.path.cmp(&other.path));
        let folder = Arc::new(folder);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), Arc::clone(&folder));
        Ok(folder)
    }

    /// The snapshot of a directory, if any.
    pub fn cached(&self, path: &Path) -> Option<Arc<DirSnapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// Drops all snapshots, because files may have been written.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl DirSnapshot {
    /// Reads only the wanted files that are directly in a directory.
    pub fn read_top_level(dir: &Dir, wanted: &dyn Fn(&str) -> bool) -> Result<Self, PathReadError> {
        let mut folder = Self::default();
        folder.add_dir(dir, "", wanted, |_| true, false)?;
        folder.files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(folder)
    }

    /// The wanted files that are directly in the directory, by name.
    pub fn top_level_files(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = &SnapshotFile> {
        self.files.iter().filter(move |file| !file.path.contains('/') && wanted(&file.path))
    }

    /// Entries directly in the directory that can't be read as files.
    pub fn irregular_entries(&self) -> impl Iterator<Item = &str> {
        self.irregular.iter().map(String::as_str).filter(|path| !path.contains('/'))
    }

    /// A hash of all paths and contents.
    pub fn hash(&self) -> InputHash {
        input_hash(self.files.iter().map(|file| (file.path.as_str(), file.hash)).collect())
    }

    fn add_dir(
        &mut self,
        dir: &Dir,
        prefix: &str,
        wanted: &dyn Fn(&str) -> bool,
        keeps_text: fn(&str) -> bool,
        recursive: bool,
    ) -> Result<(), PathReadError> {
        let listed = list_dir(dir, prefix)?;
        let names: Vec<&DirListingFile> = listed.files.iter().filter(|entry| wanted(&entry.path)).collect();
        self.files.extend(read_files(dir, &names, keeps_text)?);
        self.irregular.extend(listed.irregular);
        for (path, subdir) in listed.dirs.into_iter().filter(|_| recursive) {
            let subdir = subdir.map_err(|error| (path.clone(), error))?;
            self.add_dir(&subdir, &format!("{path}/"), wanted, keeps_text, recursive)?;
        }
        Ok(())
    }
}

impl SnapshotFile {
    fn read(dir: &Dir, entry: &DirListingFile, keeps_text: fn(&str) -> bool) -> Result<Self, PathReadError> {
        let path = entry.path.clone();
        let bytes = confined_path::open_regular_file_with_size(dir, &entry.name)
            .and_then(|(file, size)| read_sized(file, size));
        let bytes = bytes.map_err(|error| (path.clone(), error))?;
        let (size, hash) = (bytes.len() as u64, Blake3Hash::of(&bytes));
        let content = match String::from_utf8(bytes) {
            _ if size > MAX_SNAPSHOT_TEXT_BYTES || path.contains('/') || !keeps_text(&path) => SnapshotContent::NotKept,
            Ok(text) => SnapshotContent::Text(Arc::new(text)),
            Err(error) => SnapshotContent::Bytes(Arc::new(error.into_bytes())),
        };
        Ok(Self { path, size, content, hash })
    }
}

/// Reads files, with several threads if there are many, because most of the time goes to system calls.
fn read_files(
    dir: &Dir,
    entries: &[&DirListingFile],
    keeps_text: fn(&str) -> bool,
) -> Result<Vec<SnapshotFile>, PathReadError> {
    let threads = if entries.len() < PARALLEL_READ_THRESHOLD {
        1
    } else {
        thread::available_parallelism().map_or(1, usize::from).min(4)
    };
    let read = |entries: &[&DirListingFile]| {
        entries.iter().map(|entry| SnapshotFile::read(dir, entry, keeps_text)).collect::<Result<Vec<_>, _>>()
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

/// Hashes a directory without keeping its content.
pub fn hash_dir(dir: &Dir) -> Result<InputHash, PathReadError> {
    hash_dir_within(dir, usize::MAX)
}

/// Hashes a directory of at most `max_files` files without keeping its content.
pub fn hash_dir_within(dir: &Dir, max_files: usize) -> Result<InputHash, PathReadError> {
    let mut lines = Vec::new();
    collect_file_hashes(dir, "", max_files, &mut lines)?;
    lines.sort();
    Ok(input_hash(lines.iter().map(|(path, hash)| (path.as_str(), *hash)).collect()))
}

fn collect_file_hashes(
    dir: &Dir,
    prefix: &str,
    max_files: usize,
    lines: &mut Vec<(String, Blake3Hash)>,
) -> Result<(), PathReadError> {
    let listed = list_dir(dir, prefix)?;
    if lines.len() + listed.files.len() > max_files {
        let message = format!("the directory has more than {max_files} files; list a smaller one");
        return Err((prefix.to_owned(), io::Error::other(message)));
    }
    for entry in listed.files {
        let hash = confined_path::open_regular_file_with_size(dir, &entry.name)
            .and_then(|(file, size)| hash_sized(file, size))
            .map_err(|error| (entry.path.clone(), error))?;
        lines.push((entry.path, hash));
    }
    for (path, subdir) in listed.dirs {
        let subdir = subdir.map_err(|error| (path.clone(), error))?;
        collect_file_hashes(&subdir, &format!("{path}/"), max_files, lines)?;
    }
    Ok(())
}

/// Reads a small file with few system calls, and a large one without keeping it.
fn hash_sized(file: cap_std::fs::File, size: u64) -> io::Result<Blake3Hash> {
    if size > MAX_SNAPSHOT_TEXT_BYTES {
        Blake3Hash::of_reader(file)
    } else {
        Ok(Blake3Hash::of(&read_sized(file, size)?))
    }
}

fn input_hash(files: Vec<(&str, Blake3Hash)>) -> InputHash {
    let all: String = files.iter().map(|(path, hash)| format!("{hash} {path}\n")).collect();
    let hash = Blake3Hash::of(all.as_bytes());
    let is_named = all.len() <= InputHash::MAX_FILES_BYTES;
    let files = files.into_iter().filter(|_| is_named).map(|(path, hash)| (path.to_owned(), hash)).collect();
    InputHash { hash, files }
}

/// A file directly in a directory.
struct DirListingFile {
    name: OsString,
    /// The path relative to the top directory.
    path: String,
}

/// The entries of a directory.
#[derive(Default)]
struct DirListing {
    /// Files and links to files.
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

/// Reads a file's bytes with as few system calls as possible.
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
        // The buffer had room for one more byte, and none came.
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
    fn directory_is_read_once_until_dropped() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/b.sql"), "b").unwrap();
        fs::write(folder.path().join("a.sql"), "first").unwrap();
        fs::write(folder.path().join("odd.sql"), b"\xff").unwrap();
        fs::write(folder.path().join("readme"), "not asked for").unwrap();
        let dir = Dir::open_ambient_dir(folder.path(), ambient_authority()).unwrap();
        let folders = DirSnapshotCache::default();
        let text = |folders: &DirSnapshotCache| {
            let read = folders.snapshot(folder.path(), &dir, |name| name.ends_with(".sql")).unwrap();
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
        assert_eq!(first.0, "first [255] gone");
        assert_eq!(first.1, hash_dir(&dir).unwrap());
        fs::write(folder.path().join("a.sql"), "later").unwrap();
        assert_eq!(text(&folders.clone()), first, "hash and text are those of one reading");
        folders.clear();
        let later = text(&folders);
        assert_eq!(later.0, "later [255] gone");
        assert_eq!(later.1, hash_dir(&dir).unwrap());
        assert_ne!(later.1, first.1);
    }

    #[test]
    fn files_of_a_small_directory_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(folder.path(), ambient_authority()).unwrap();
        fs::write(folder.path().join("a"), "a").unwrap();
        let named = hash_dir(&dir).unwrap();
        assert_eq!(named.files, BTreeMap::from([("a".to_owned(), Blake3Hash::of(b"a"))]));
        for number in 0..500 {
            fs::write(folder.path().join(number.to_string()), "").unwrap();
        }
        let many = hash_dir(&dir).unwrap();
        assert!(many.files.is_empty() && many.hash != named.hash);
    }
}
