//! Archives of old journals: 256 attempts in a `tar.zst`, with the snapshot before them and their index.
//!
//! An archive can be read alone: its snapshot is the state before its first attempt. `tar` and `zstd` open it without Pawl.
//! Deliberately absent: when archives are made ([`super::history`]).

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use hostio::atomic_file::replace_file;
use journal::{Snapshot, file::MAX_JOURNAL_BYTES};

use super::{
    StateError,
    attempt_index::{AttemptIndex, INDEX_FILE},
    journal_files::epoch_of,
};

/// The folder of the archives.
pub(super) const ARCHIVE_FOLDER: &str = "archive";

/// The snapshot before the first attempt, in an archive.
const SNAPSHOT_MEMBER: &str = "snapshot.json";

/// The compression level: a good ratio at a speed that nobody notices.
const COMPRESSION_LEVEL: i32 = 3;

/// The epochs of the first and the last attempt in an archive. Its file is named after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArchiveRange {
    /// The first epoch.
    pub first: u64,
    /// The last epoch.
    pub last: u64,
}

/// The content of an archive.
#[derive(Debug, Default)]
pub(super) struct Archive {
    /// The state before its first attempt; `None` for the first archive.
    pub(super) before: Option<Snapshot>,
    /// The summaries of its attempts.
    pub(super) index: AttemptIndex,
    /// Its journals: file names and contents, in epoch order.
    pub(super) journals: Vec<(PathBuf, Vec<u8>)>,
}

impl fmt::Display for ArchiveRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}-{:06}.tar.zst", self.first, self.last)
    }
}

/// A file name is not one of an archive.
#[derive(Debug)]
pub struct NotAnArchiveName;

impl FromStr for ArchiveRange {
    type Err = NotAnArchiveName;
    fn from_str(name: &str) -> Result<Self, NotAnArchiveName> {
        let range = name.strip_suffix(".tar.zst").and_then(|range| range.split_once('-')).ok_or(NotAnArchiveName)?;
        match (range.0.parse(), range.1.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => Err(NotAnArchiveName),
        }
    }
}

impl ArchiveRange {
    /// The path of the archive in a state folder.
    #[must_use]
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(ARCHIVE_FOLDER).join(self.to_string())
    }
}

/// The archives of a state folder, oldest first.
pub(super) fn archives_in(folder: &Path) -> Result<Vec<ArchiveRange>, StateError> {
    let folder = folder.join(ARCHIVE_FOLDER);
    let listing = match fs::read_dir(&folder) {
        Ok(listing) => listing,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StateError::io("read", &folder, source)),
    };
    let mut archives = Vec::new();
    for entry in listing {
        let name = entry.map_err(|source| StateError::io("read", &folder, source))?.file_name();
        archives.extend(name.to_str().and_then(|name| name.parse::<ArchiveRange>().ok()));
    }
    archives.sort();
    Ok(archives)
}

impl Archive {
    /// Writes the archive; on return it is on disk.
    pub(super) fn write(&self, folder: &Path, range: ArchiveRange) -> Result<(), StateError> {
        let path = range.path(folder);
        let archives = folder.join(ARCHIVE_FOLDER);
        fs::create_dir_all(&archives).map_err(|source| StateError::io("create", &archives, source))?;
        let packed = self.encode().map_err(|source| StateError::io("write", &path, source))?;
        replace_file(&path, &packed).map_err(|source| StateError::io("write", &path, source))
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::new(Vec::new(), COMPRESSION_LEVEL)?;
        encoder.include_checksum(true)?;
        let mut tar = tar::Builder::new(encoder);
        if let Some(snapshot) = self.before.clone().and_then(Snapshot::encode) {
            append(&mut tar, Path::new(SNAPSHOT_MEMBER), &snapshot)?;
        }
        append(&mut tar, Path::new(INDEX_FILE), self.index.bytes())?;
        self.journals.iter().try_for_each(|(name, bytes)| append(&mut tar, name, bytes))?;
        tar.into_inner()?.finish()
    }

    /// Reads an archive.
    ///
    /// # Errors
    /// [`StateError::Io`] when it can't be read, or is damaged.
    pub(super) fn read(path: &Path) -> Result<Self, StateError> {
        let damaged = |source| StateError::io("read", path, source);
        let mut archive = Self::default();
        let mut tar = tar::Archive::new(zstd::Decoder::new(fs::File::open(path).map_err(damaged)?).map_err(damaged)?);
        for member in tar.entries().map_err(damaged)? {
            let member = member.map_err(damaged)?;
            let name = member.path().map_err(damaged)?.into_owned();
            let mut bytes = Vec::new();
            member.take(MAX_JOURNAL_BYTES).read_to_end(&mut bytes).map_err(damaged)?;
            let invalid =
                || damaged(io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", name.display())));
            match name.to_str() {
                Some(SNAPSHOT_MEMBER) => {
                    archive.before = Some(Snapshot::decode_original(&bytes).map_err(|_| invalid())?)
                }
                Some(INDEX_FILE) => {
                    archive.index = AttemptIndex::decode(bytes).ok_or_else(invalid)?;
                }
                Some(_) if epoch_of(&name).is_some() => archive.journals.push((name, bytes)),
                Some(_) | None => return Err(invalid()),
            }
        }
        Ok(archive)
    }
}

fn append(tar: &mut tar::Builder<impl io::Write>, name: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, bytes)
}
