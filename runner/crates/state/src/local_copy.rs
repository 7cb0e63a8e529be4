//! What a [`StateStore`] of a remote state can do with its local copy: fetch files into it, tell how it differs, and make it
//! the remote's again.
//!
//! For a folder state, nothing of this has anything to do. While a deployment of this machine holds the lock, its copy is newer
//! than the remote: other processes then read the copy as it is. Deliberately absent: how files are compared, which is in
//! [`super::journal_cache`].

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use super::{
    StateError, StateStore,
    archive::ArchiveRange,
    attempt_index::INDEX_FILE,
    history::{PREVIOUS_SNAPSHOT_FILE, SNAPSHOT_FILE},
    journal_cache::{JournalComparison, LocalCopy, WantedFile, compare, is_damaged_copy},
    journal_files::{journal_name, journals_in, read_if_present, remove_if_present, whole_lines},
    lost_lines::{lost_files_in, settle_lost_lines},
    manifest::RemoteArchive,
    record::{LockRecord, LockToken},
    remote::{RemoteRecord, RemoteStorage},
    tail::LocalJournal,
};
use contract::hash::Blake3Hash;

/// How often a download restarts because another machine replaced the files during it.
const MAX_PULL_ATTEMPTS: u32 = 3;

/// What a remote state has, beside the snapshots and the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteListing {
    /// The epochs of the journals that are in no archive.
    pub journals: Vec<u64>,
    /// The archives.
    pub archives: Vec<ArchiveRange>,
}

/// How the local copy of a remote state differs from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalCopyReport {
    /// Journals here whose lines are not the remote's.
    pub diverged: Vec<PathBuf>,
    /// Journals here that have lines which this machine uploads with its next deployment.
    pub not_uploaded: Vec<PathBuf>,
    /// Files with lines that the remote never got, and that were moved away.
    pub lost: Vec<PathBuf>,
}

/// A file of a remote state that is not as its manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDamage {
    /// The name of the file here.
    pub name: String,
    /// What is wrong.
    pub why: String,
    /// The same file on this machine, if it has the right content.
    pub copy: Option<PathBuf>,
}

impl StateStore {
    /// Downloads the snapshot and the journals from it on. Journals that another attempt ran without are moved away.
    ///
    /// # Errors
    /// [`StateError`] when the remote can't be read, or the local copy is of another history.
    pub(crate) fn pull_recent(&self) -> Result<(), StateError> {
        let Some(backend) = &self.remote else { return Ok(()) };
        if backend.is_cached.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.with_local_copy(None, |copy, remote, record| {
            if self.is_held_here(&record.lock) { Ok(()) } else { copy.pull_recent(remote, record) }
        })
    }

    /// Downloads files that are not here, as they were when this process read the remote state last.
    ///
    /// # Errors
    /// [`StateError`] when they can't be read, or the local copy is of another history.
    pub(crate) fn pull(&self, wanted: &[WantedFile]) -> Result<(), StateError> {
        let Some(backend) = &self.remote else { return Ok(()) };
        let is_holder = backend.is_cached.load(Ordering::Relaxed);
        self.with_local_copy(backend.last_read(), |copy, remote, record| {
            if is_holder || !self.is_held_here(&record.lock) {
                return copy.pull(remote, record, wanted);
            }
            // The holder may be replacing these right now.
            let is_settled = |file: &&WantedFile| matches!(file, WantedFile::Journal(_) | WantedFile::Archive(_));
            copy.pull(remote, record, &wanted.iter().filter(is_settled).copied().collect::<Vec<_>>())
        })
    }

    /// What the remote state had when this process read it last; `None` for a folder.
    ///
    /// # Errors
    /// [`StateError`] when it was not read yet, and can't be.
    pub(crate) fn listed(&self) -> Result<Option<RemoteListing>, StateError> {
        let Some(backend) = &self.remote else { return Ok(None) };
        let RemoteRecord { manifest, .. } = match backend.last_read() {
            Some(record) => record,
            None => self.read_record()?,
        };
        Ok(Some(RemoteListing {
            journals: manifest.journals.iter().map(|journal| journal.epoch).collect(),
            archives: manifest.archives.iter().map(RemoteArchive::range).collect(),
        }))
    }

    /// How the local copy differs from the remote state. Changes nothing. A folder has no copy, and never differs.
    ///
    /// # Errors
    /// [`StateError`] when one of them can't be read.
    pub fn inspect_local_copy(&self) -> Result<LocalCopyReport, StateError> {
        let mut report = LocalCopyReport::default();
        if self.remote.is_none() {
            return Ok(report);
        }
        report.lost = lost_files_in(self.folder())?;
        self.with_local_copy(None, |_, remote, record| {
            (report.diverged, report.not_uploaded) = (Vec::new(), Vec::new());
            for (epoch, path) in journals_in(self.folder())? {
                let here = read_if_present(&path)?.unwrap_or_default();
                match (record.manifest.journal(epoch), common_length(remote, record, epoch, &here)?) {
                    (Some(_), Some(common)) if common < whole_lines(&here).len() => report.diverged.push(path),
                    (Some(journal), None) if compare(journal, &here) == JournalComparison::Longer => {
                        report.not_uploaded.push(path);
                    }
                    (None, _) if epoch > record.manifest.newest_epoch() => report.not_uploaded.push(path),
                    (Some(_) | None, _) => {}
                }
            }
            Ok(())
        })?;
        Ok(report)
    }

    /// Reads all files that the manifest of a remote state names, and tells which are missing there or have another content. A folder has
    /// none.
    ///
    /// # Errors
    /// [`StateError`] when no file can be read.
    pub fn inspect_remote_files(&self) -> Result<Vec<RemoteDamage>, StateError> {
        let mut damages = Vec::new();
        if self.remote.is_none() {
            return Ok(damages);
        }
        for _ in 0..MAX_PULL_ATTEMPTS {
            let mut is_current = true;
            self.with_local_copy(None, |copy, remote, record| {
                let read = ManifestFiles::of(record).read(remote, record)?;
                let damage = |read: ReadFile| read.file.damage(copy, &read.content);
                damages = read.into_iter().filter_map(damage).collect();
                // Files that another machine has replaced meanwhile are gone.
                is_current = damages.is_empty() || remote.read_record()?.version == record.version;
                Ok(())
            })?;
            if is_current {
                break;
            }
        }
        Ok(damages)
    }

    /// Makes the local copy the remote's: journals of another history are moved away, and what they say has begun is noted.
    /// Returns the files with the lines that were moved.
    ///
    /// # Errors
    /// [`StateError`] when one of them can't be read or written.
    pub fn reset_local_copy(&self) -> Result<Vec<PathBuf>, StateError> {
        if self.remote.is_none() {
            return Ok(Vec::new());
        }
        let before = lost_files_in(self.folder())?;
        self.with_local_copy(None, |copy, remote, record| {
            let mut is_other_history = false;
            for (epoch, path) in journals_in(self.folder())? {
                let here = read_if_present(&path)?.unwrap_or_default();
                let lines = whole_lines(&here);
                let is_newer = epoch > record.manifest.newest_epoch();
                let common = match common_length(remote, record, epoch, &here)? {
                    Some(common) if common < lines.len() => common,
                    None if is_newer && is_other_history => 0,
                    Some(_) | None => continue,
                };
                is_other_history = true;
                // Nothing of this history is uploaded any more, whatever its epoch is.
                let lost = LocalJournal { epoch, content: &here, acknowledged: common, newest_epoch: u64::MAX };
                if settle_lost_lines(&lost, self.folder())? {
                    remove_if_present(&path)?;
                }
            }
            copy.pull_recent(remote, record)
        })?;
        let after = lost_files_in(self.folder())?;
        Ok(after.into_iter().filter(|path| !before.contains(path)).collect())
    }

    /// Whether a running process of this machine holds the lock.
    fn is_held_here(&self, lock: &LockRecord) -> bool {
        let note = fs::read_to_string(self.held_by_path()).unwrap_or_default();
        let held = note.split_once(' ').and_then(|(process, token)| {
            let is_running = Path::new("/proc").join(process.parse::<u32>().ok()?.to_string()).exists();
            Some(is_running && token.parse::<LockToken>().ok()? == lock.token())
        });
        held.unwrap_or(false)
    }

    /// Does something with the local copy, by `record` or else by what the remote has now. It starts again if another
    /// machine replaced the files in the meantime.
    fn with_local_copy(
        &self,
        record: Option<RemoteRecord>,
        mut work: impl FnMut(&LocalCopy<'_>, &mut dyn RemoteStorage, &RemoteRecord) -> Result<(), StateError> + Send,
    ) -> Result<(), StateError> {
        self.with_remote(|remote, location| {
            let copy = LocalCopy { folder: self.folder(), location };
            let mut record = match record {
                Some(record) => record,
                None => remote.read_record()?,
            };
            let mut attempts = 0;
            let done = loop {
                attempts += 1;
                let Err(error) = work(&copy, remote, &record) else { break Ok(()) };
                let now = remote.read_record()?;
                if now.version == record.version || attempts == MAX_PULL_ATTEMPTS {
                    break Err(error);
                }
                record = now;
            };
            if let Some(backend) = &self.remote {
                backend.remember(&record);
            }
            done
        })
    }
}

/// A file that a manifest names.
struct ManifestFile {
    /// Its path below the folder of the local copy.
    name: PathBuf,
    bytes: u64,
    hash: Blake3Hash,
}

impl ManifestFile {
    fn is_right(&self, content: &[u8]) -> bool {
        content.len() as u64 == self.bytes && Blake3Hash::of(content) == self.hash
    }

    /// What is wrong with its content in the remote.
    fn damage(&self, copy: &LocalCopy<'_>, content: &Result<Vec<u8>, StateError>) -> Option<RemoteDamage> {
        let (what, cause) = match content {
            Ok(content) if self.is_right(content) => return None,
            Ok(content) if (content.len() as u64) < self.bytes => ("it is cut short", String::new()),
            Ok(_) => ("its content differs from what the record says", String::new()),
            Err(StateError::RemoteFileMissing { .. }) => ("it is missing", String::new()),
            Err(error) => ("it can't be read", format!(": {}", error.reason())),
        };
        let path = copy.folder.join(&self.name);
        let is_here = read_if_present(&path).ok().flatten().is_some_and(|here| {
            let length = usize::try_from(self.bytes).unwrap_or(usize::MAX);
            here.get(..length).is_some_and(|here| self.is_right(here))
        });
        Some(RemoteDamage {
            name: self.name.display().to_string(),
            why: format!("{what} in {}{cause}", copy.location),
            copy: is_here.then_some(path),
        })
    }
}

/// A file that was read.
struct ReadFile {
    file: ManifestFile,
    content: Result<Vec<u8>, StateError>,
}

/// The files that a manifest names, each with its parts in the remote.
struct ManifestFiles {
    files: Vec<(ManifestFile, Vec<String>)>,
    archives: Vec<(ManifestFile, RemoteArchive)>,
}

impl ManifestFiles {
    fn of(record: &RemoteRecord) -> Self {
        let manifest = &record.manifest;
        let journals = manifest.journals.iter().map(|journal| {
            let name = journal_name(journal.epoch).into();
            (ManifestFile { name, bytes: journal.bytes, hash: journal.hash }, journal.parts.clone())
        });
        let folded = [
            (SNAPSHOT_FILE, &manifest.snapshot),
            (PREVIOUS_SNAPSHOT_FILE, &manifest.previous_snapshot),
            (INDEX_FILE, &manifest.index),
        ];
        let folded = folded.into_iter().filter_map(|(name, file)| {
            let file = file.as_ref()?;
            Some((ManifestFile { name: name.into(), bytes: file.bytes, hash: file.hash }, vec![file.name.clone()]))
        });
        let archives = manifest.archives.iter().map(|archive| {
            let name = archive.range().path(Path::new(""));
            (ManifestFile { name, bytes: archive.bytes, hash: archive.hash }, archive.clone())
        });
        Self { files: journals.chain(folded).collect(), archives: archives.collect() }
    }

    /// Reads all of them. If none can be read, that is an error.
    fn read(self, remote: &mut dyn RemoteStorage, record: &RemoteRecord) -> Result<Vec<ReadFile>, StateError> {
        let mut read = Vec::new();
        let all: Vec<String> = self.files.iter().flat_map(|(_, parts)| parts.clone()).collect();
        // Many files take one call, and only a call that fails is made again for each.
        let mut together = remote.read_files(record, &all).ok().map(Vec::into_iter);
        for (file, parts) in self.files {
            let content = match &mut together {
                Some(contents) => Ok(contents.by_ref().take(parts.len()).collect::<Vec<_>>()),
                None => remote.read_files(record, &parts),
            };
            read.push(ReadFile { file, content: content.map(|contents| contents.concat()) });
        }
        for (file, archive) in self.archives {
            read.push(ReadFile { file, content: remote.read_archive(&archive) });
        }
        if read.iter().all(|read| read.content.is_err())
            && let Some(ReadFile { content: Err(error), .. }) = read.pop()
        {
            return Err(error);
        }
        Ok(read)
    }
}

/// How many bytes of whole lines a journal here has in common with the remote's, if the remote has that journal and the
/// lines differ or go on there.
fn common_length(
    remote: &mut dyn RemoteStorage,
    record: &RemoteRecord,
    epoch: u64,
    here: &[u8],
) -> Result<Option<usize>, StateError> {
    let Some(journal) = record.manifest.journal(epoch) else { return Ok(None) };
    match compare(journal, here) {
        JournalComparison::Same | JournalComparison::Longer => Ok(None),
        JournalComparison::Shorter | JournalComparison::Diverged => {
            let there = remote.read_files(record, &journal.parts)?.concat();
            if is_damaged_copy(here, &there) {
                // The next download replaces it.
                return Ok(None);
            }
            let same = here.iter().zip(&there).take_while(|(here, there)| here == there).count();
            Ok(Some(whole_lines(&here[..same]).len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that a bucket does not give out this time is not called missing.
    #[test]
    fn what_is_wrong_with_a_remote_file_is_what_was_found() {
        let file = ManifestFile { name: "a.journal".into(), bytes: 4, hash: Blake3Hash::of(b"abc\n") };
        let copy = LocalCopy { folder: Path::new("/nowhere"), location: "s3://acme" };
        let location = || copy.location.to_owned();
        let missing = StateError::RemoteFileMissing { action: "read", location: location(), name: "a".to_owned() };
        let refused = StateError::Remote { action: "read", location: location(), why: "status 503".to_owned() };
        let told = |content| file.damage(&copy, &content).map(|damage| damage.why);
        assert_eq!(told(Ok(b"abc\n".to_vec())), None);
        assert_eq!(told(Ok(b"a".to_vec())).unwrap(), "it is cut short in s3://acme");
        assert_eq!(told(Ok(b"abd\n".to_vec())).unwrap(), "its content differs from what the record says in s3://acme");
        assert_eq!(told(Err(missing)).unwrap(), "it is missing in s3://acme");
        assert_eq!(told(Err(refused)).unwrap(), "it can't be read in s3://acme: status 503");
    }
}
