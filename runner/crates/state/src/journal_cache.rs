//! The local copy of a remote state: downloads what is missing here, and settles what the remote does not have.
//!
//! Invariant: a journal here is the beginning of the remote's, or the remote's with lines that are not uploaded yet. Lines
//! that can't be uploaded any more, since a later attempt ran without them, are moved away ([`super::lost_lines`]); only two
//! different histories are an error. A line that fails its checksum here is no other history: the remote's replaces it. Journals come
//! before the snapshot that needs them. Deliberately absent: the content of journals, apart from checksums and where lines end.

use std::{fs, path::Path};

use super::{
    StateError,
    archive::ArchiveRange,
    attempt_index::INDEX_FILE,
    history::{PREVIOUS_SNAPSHOT_FILE, SNAPSHOT_FILE},
    journal_files::{length_if_present, read_if_present, remove_if_present, whole_lines},
    journal_name, journals_in,
    lost_lines::settle_lost_lines,
    manifest::{RemoteFile, RemoteJournal, StateManifest},
    remote::{RemoteRecord, RemoteStorage},
    state_folder::create_state_folder,
    tail::LocalJournal,
};
use contract::hash::Blake3Hash;
use hostio::atomic_file::replace_file;

/// The manifest that this machine saw last.
const SEEN_MANIFEST_FILE: &str = "remote.json";

/// A file of a remote state that is downloaded on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantedFile {
    /// The snapshot before the newest ended attempt.
    PreviousSnapshot,
    /// The index of the attempts since the newest archive.
    Index,
    /// The journal of this epoch, if it is not in an archive.
    Journal(u64),
    /// The archive of these attempts.
    Archive(ArchiveRange),
}

/// The local copy of a remote state.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalCopy<'a> {
    pub(super) folder: &'a Path,
    /// The remote, for messages.
    pub(super) location: &'a str,
}

/// How the journal of one attempt here compares with the remote's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JournalComparison {
    /// Both have the same lines.
    Same,
    /// The remote may have more: it must be downloaded to tell.
    Shorter,
    /// There are more lines here.
    Longer,
    /// The remote's lines are not these.
    Diverged,
}

impl LocalCopy<'_> {
    /// Downloads the snapshot and the journals from its epoch on. Settles journals that the remote does not have.
    pub(super) fn pull_recent(&self, remote: &mut dyn RemoteStorage, record: &RemoteRecord) -> Result<(), StateError> {
        let RemoteRecord { manifest, .. } = record;
        create_state_folder(self.folder).map_err(|source| StateError::io("create", self.folder, source))?;
        // A remote that lost its data gets them back from this machine.
        if manifest.is_empty() {
            return Ok(());
        }
        let mut journals = Vec::new();
        for journal in &manifest.journals {
            let here = length_if_present(&self.folder.join(journal_name(journal.epoch)))?;
            let is_recent = manifest.snapshot_epoch.is_none_or(|snapshot| journal.epoch >= snapshot);
            if is_recent || here.is_some_and(|here| here > journal.bytes) {
                journals.push(journal);
            }
        }
        let snapshot = [(SNAPSHOT_FILE, &manifest.snapshot)];
        self.pull_files(remote, record, &journals, &snapshot)?;
        for (name, file) in [(PREVIOUS_SNAPSHOT_FILE, &manifest.previous_snapshot), (INDEX_FILE, &manifest.index)] {
            self.remove_outdated(name, file.as_ref())?;
        }
        self.settle_unknown_journals(manifest)?;
        self.remember(manifest)
    }

    /// Downloads files that are not here, or differ.
    pub(super) fn pull(
        &self,
        remote: &mut dyn RemoteStorage,
        record: &RemoteRecord,
        wanted: &[WantedFile],
    ) -> Result<(), StateError> {
        let RemoteRecord { manifest, .. } = record;
        let (mut journals, mut files) = (Vec::new(), Vec::new());
        for file in wanted {
            match file {
                WantedFile::PreviousSnapshot => files.push((PREVIOUS_SNAPSHOT_FILE, &manifest.previous_snapshot)),
                WantedFile::Index => files.push((INDEX_FILE, &manifest.index)),
                WantedFile::Journal(epoch) => journals.extend(manifest.journal(*epoch)),
                WantedFile::Archive(range) => self.pull_archive(remote, manifest, *range)?,
            }
        }
        create_state_folder(self.folder).map_err(|source| StateError::io("create", self.folder, source))?;
        self.pull_files(remote, record, &journals, &files)
    }

    fn pull_archive(
        &self,
        remote: &mut dyn RemoteStorage,
        manifest: &StateManifest,
        range: ArchiveRange,
    ) -> Result<(), StateError> {
        let path = range.path(self.folder);
        let Some(known) = manifest.archives.iter().find(|known| known.range() == range) else { return Ok(()) };
        if read_if_present(&path)?.is_some_and(|here| Blake3Hash::of(&here) == known.hash) {
            return Ok(());
        }
        let content = remote.read_archive(known)?;
        let is_right = content.len() as u64 == known.bytes && Blake3Hash::of(&content) == known.hash;
        self.check(is_right, || format!("the archive {range}"))?;
        write_atomically(&path, &content)
    }

    /// Makes these journals and files here what the remote has, with one download.
    fn pull_files(
        &self,
        remote: &mut dyn RemoteStorage,
        record: &RemoteRecord,
        journals: &[&RemoteJournal],
        files: &[(&str, &Option<RemoteFile>)],
    ) -> Result<(), StateError> {
        let newest = record.manifest.newest_epoch();
        let mut wanted_journals = Vec::new();
        for journal in journals {
            let path = self.folder.join(journal_name(journal.epoch));
            let here = read_if_present(&path)?.unwrap_or_default();
            match compare(journal, &here) {
                JournalComparison::Diverged if !may_be_damaged(journal, &here) => return Err(self.diverged(&path)),
                JournalComparison::Diverged => wanted_journals.push((*journal, path, here)),
                JournalComparison::Shorter => wanted_journals.push((*journal, path, here)),
                JournalComparison::Same | JournalComparison::Longer => {
                    self.settle_tail(journal, &path, &here, newest)?;
                }
            }
        }
        let mut wanted_files = Vec::new();
        for (name, file) in files {
            let path = self.folder.join(name);
            match file {
                None => remove_if_present(&path)?,
                Some(file) if read_if_present(&path)?.is_some_and(|here| file.matches(&here)) => {}
                Some(file) => wanted_files.push((file, path)),
            }
        }
        let parts = wanted_journals.iter().flat_map(|(journal, ..)| journal.parts.iter());
        let names: Vec<_> = parts.chain(wanted_files.iter().map(|(file, _)| &file.name)).cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        let mut contents = remote.read_files(record, &names)?.into_iter();
        for (journal, path, here) in wanted_journals {
            let content = contents.by_ref().take(journal.parts.len()).flatten().collect::<Vec<u8>>();
            self.check(content.len() as u64 == journal.bytes && Blake3Hash::of(&content) == journal.hash, || {
                format!("the journal of epoch {}", journal.epoch)
            })?;
            if !content.starts_with(whole_lines(&here)) && !is_damaged_copy(&here, &content) {
                return Err(self.diverged(&path));
            }
            write_atomically(&path, &content)?;
        }
        for ((file, path), content) in wanted_files.into_iter().zip(contents) {
            self.check(file.matches(&content), || file.name.clone())?;
            write_atomically(&path, &content)?;
        }
        Ok(())
    }

    /// Settles what a journal here has after the remote's lines: new lines, or a torn one.
    fn settle_tail(
        &self,
        journal: &RemoteJournal,
        path: &Path,
        here: &[u8],
        newest_epoch: u64,
    ) -> Result<(), StateError> {
        let acknowledged = usize::try_from(journal.bytes).unwrap_or(here.len()).min(here.len());
        let local = LocalJournal { epoch: journal.epoch, content: here, acknowledged, newest_epoch };
        let is_torn_only = whole_lines(here).len() == acknowledged && acknowledged < here.len();
        let is_old = journal.epoch < newest_epoch;
        if settle_lost_lines(&local, self.folder)? || is_torn_only && is_old {
            write_atomically(path, &here[..acknowledged])?;
        }
        Ok(())
    }

    /// Settles journals that the manifest does not name: never uploaded, or in an archive.
    fn settle_unknown_journals(&self, manifest: &StateManifest) -> Result<(), StateError> {
        let (mut seen_before, newest_epoch) = (None, manifest.newest_epoch());
        for (epoch, path) in journals_in(self.folder)? {
            if manifest.journal(epoch).is_some() || epoch >= newest_epoch {
                continue;
            }
            let here = read_if_present(&path)?.unwrap_or_default();
            let acknowledged = if manifest.archive_of(epoch).is_some() {
                let seen = seen_before.get_or_insert_with(|| self.remembered(&manifest.resource));
                seen.uploaded_bytes(epoch, whole_lines(&here))
            } else {
                0
            };
            settle_lost_lines(&LocalJournal { epoch, content: &here, acknowledged, newest_epoch }, self.folder)?;
            remove_if_present(&path)?;
        }
        Ok(())
    }

    /// Removes a file that is not the remote's. It is downloaded when it is wanted.
    fn remove_outdated(&self, name: &str, file: Option<&RemoteFile>) -> Result<(), StateError> {
        let path = self.folder.join(name);
        match (read_if_present(&path)?, file) {
            (None, _) => Ok(()),
            (Some(here), Some(file)) if file.matches(&here) => Ok(()),
            (Some(_), _) => remove_if_present(&path),
        }
    }

    fn remember(&self, manifest: &StateManifest) -> Result<(), StateError> {
        let path = self.folder.join(SEEN_MANIFEST_FILE);
        let text = super::manifest::encode(manifest, None, None);
        if read_if_present(&path)?.is_some_and(|seen| seen == text) {
            return Ok(());
        }
        write_atomically(&path, &text)
    }

    /// The manifest that this machine saw last; an empty one if there is none.
    fn remembered(&self, resource: &str) -> StateManifest {
        let bytes = fs::read(self.folder.join(SEEN_MANIFEST_FILE)).unwrap_or_default();
        super::manifest::parse(&bytes, resource, self.location)
            .map_or_else(|_| StateManifest::empty(resource), |seen| seen.manifest)
    }

    fn check(&self, is_right: bool, what: impl FnOnce() -> String) -> Result<(), StateError> {
        if is_right {
            return Ok(());
        }
        let why = format!("{} does not match the record", what());
        Err(StateError::InvalidManifest { location: self.location.to_owned(), why })
    }

    fn diverged(&self, path: &Path) -> StateError {
        let why = "the copy on this machine differs from it";
        StateError::Diverged { path: path.to_owned(), location: self.location.to_owned(), why }
    }
}

impl StateManifest {
    /// How many bytes of a journal that is in an archive now were in the remote when this manifest was read. Without a
    /// record of that, an attempt that has ended counts as uploaded.
    fn uploaded_bytes(&self, epoch: u64, lines: &[u8]) -> usize {
        match self.journal(epoch) {
            Some(journal) => usize::try_from(journal.bytes).unwrap_or(usize::MAX).min(lines.len()),
            None if journal_has_ended(lines) => lines.len(),
            None => 0,
        }
    }
}

/// Compares a journal of the remote with the bytes here.
pub(super) fn compare(journal: &RemoteJournal, here: &[u8]) -> JournalComparison {
    let lines = whole_lines(here);
    let length = usize::try_from(journal.bytes).unwrap_or(usize::MAX);
    match lines.get(..length) {
        None => JournalComparison::Shorter,
        Some(uploaded) if Blake3Hash::of(uploaded) != journal.hash => JournalComparison::Diverged,
        Some(_) if lines.len() == length => JournalComparison::Same,
        Some(_) => JournalComparison::Longer,
    }
}

/// Whether a journal here may be the remote's with damaged lines. Lines that are not uploaded yet would be lost with it.
fn may_be_damaged(journal: &RemoteJournal, here: &[u8]) -> bool {
    whole_lines(here).len() as u64 <= journal.bytes && lines(here).any(|line| !is_sound(line))
}

/// Whether a journal here is the beginning of the remote's, apart from lines that fail their checksum here and not there.
pub(super) fn is_damaged_copy(here: &[u8], there: &[u8]) -> bool {
    let is_same_or_damaged = |(here, there): (&[u8], &[u8])| here == there || !is_sound(here) && is_sound(there);
    lines(here).count() <= lines(there).count() && lines(here).zip(lines(there)).all(is_same_or_damaged)
}

fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    whole_lines(content).split_inclusive(|byte| *byte == b'\n')
}

fn is_sound(line: &[u8]) -> bool {
    line.strip_suffix(b"\n").is_some_and(|line| journal::line::decode_newer(line).is_ok())
}

/// Whether the last line of a journal says that its attempt has ended.
fn journal_has_ended(lines: &[u8]) -> bool {
    let last = lines.strip_suffix(b"\n").and_then(|lines| lines.rsplit(|byte| *byte == b'\n').next());
    last.and_then(|line| journal::line::decode(line).ok())
        .is_some_and(|(entry, _)| matches!(entry.event, journal::JournalEvent::Ended { .. }))
}

/// Gives the newest journal before the taker's epoch a new file with the same content. A suspended process of this machine that lost
/// its lock keeps writing to the old file, which nobody reads.
pub(super) fn seal_newest_journal(folder: &Path, epoch: u64) -> Result<(), StateError> {
    let earlier = journals_in(folder)?.into_iter().rfind(|(known, _)| *known < epoch);
    let Some((_, path)) = earlier else { return Ok(()) };
    match read_if_present(&path)? {
        Some(content) => write_atomically(&path, &content),
        None => Ok(()),
    }
}

fn write_atomically(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let error = |source| StateError::io("write", path, source);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(error)?;
    }
    replace_file(path, content).map_err(error)
}
