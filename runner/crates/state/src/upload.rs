//! What the holder of a remote lock uploads: new lines of journals during the deployment, and at its end also the
//! snapshot, the index and archives.
//!
//! A journal has at most two files in the remote, a base and a tail. New lines replace the tail; a tail that has grown
//! longer than its base becomes part of it, so that a journal of any length is uploaded a few times only. Invariant:
//! what the remote names is replaced, never lost; a journal leaves the manifest only when an archive has it.
//! Deliberately absent: writing, which [`super::remote_lock`] does together with the lock.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    StateError,
    archive::{ArchiveRange, archives_in},
    attempt_index::INDEX_FILE,
    epoch_of,
    history::{PREVIOUS_SNAPSHOT_FILE, SNAPSHOT_FILE},
    journal_files::{length_if_present, read_if_present, whole_lines},
    journal_name, journals_in,
    manifest::{RemoteArchive, RemoteFile, RemoteJournal, StateManifest},
    remote::RemoteStorage,
};
use contract::hash::Blake3Hash;

/// A tail up to this length, in bytes, stays a file of its own.
const MAX_SMALL_TAIL: usize = 16 * 1024;

/// How much a write uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadScope {
    /// New lines of journals.
    Journals,
    /// Everything that the remote lacks, each journal in one file.
    Everything,
}

/// A new manifest, and the files that it needs.
#[derive(Clone, Debug)]
pub(super) struct DataChange {
    pub(super) manifest: StateManifest,
    pub(super) files: Vec<(String, Vec<u8>)>,
    pub(super) removed: Vec<String>,
    pub(super) archives: Vec<(RemoteArchive, Vec<u8>)>,
}

/// The journals here that may be longer than in the remote.
#[derive(Debug)]
pub(super) struct LocalJournals {
    folder: PathBuf,
    paths: Vec<PathBuf>,
}

impl LocalJournals {
    /// The journals in `folder` that the manifest does not have, or not in full.
    pub(super) fn ahead_of(manifest: &StateManifest, folder: &Path) -> Result<Self, StateError> {
        let mut paths = Vec::new();
        for (epoch, path) in journals_in(folder)? {
            let uploaded = manifest.journal(epoch).map(|journal| journal.bytes);
            if manifest.archive_of(epoch).is_none() && length_if_present(&path)? > uploaded {
                paths.push(path);
            }
        }
        Ok(Self { folder: folder.to_owned(), paths })
    }

    /// Also uploads this journal.
    pub(super) fn add(&mut self, path: PathBuf) {
        if !self.paths.contains(&path) {
            self.paths.push(path);
        }
    }

    /// Whether the remote lacks lines.
    pub(super) fn has_new_lines(&self, manifest: &StateManifest) -> bool {
        self.paths.iter().any(|path| matches!(new_lines(manifest, path), Ok(Some(_))))
    }

    /// What to upload; `None` if the remote has it all.
    pub(super) fn changes(
        &self,
        storage: &dyn RemoteStorage,
        manifest: &StateManifest,
        scope: UploadScope,
    ) -> Result<Option<DataChange>, StateError> {
        let mut change =
            DataChange { manifest: manifest.clone(), files: Vec::new(), removed: Vec::new(), archives: Vec::new() };
        for path in &self.paths {
            if let Some((epoch, lines)) = new_lines(manifest, path)? {
                change.add_journal(storage, epoch, &lines, scope);
            }
        }
        if scope == UploadScope::Everything {
            self.merge_parts(storage, &mut change)?;
            self.add_archives(&mut change)?;
            self.add_folded_files(storage, &mut change)?;
        }
        if change.manifest == *manifest {
            return Ok(None);
        }
        let named: BTreeSet<&str> = change.manifest.stored_names().collect();
        let removed: BTreeSet<&str> = manifest.stored_names().filter(|name| !named.contains(name)).collect();
        change.removed = removed.into_iter().map(ToOwned::to_owned).collect();
        Ok(Some(change))
    }

    /// Puts each journal that is in several files into one.
    fn merge_parts(&self, storage: &dyn RemoteStorage, change: &mut DataChange) -> Result<(), StateError> {
        for journal in change.manifest.journals.clone().iter().filter(|journal| journal.parts.len() > 1) {
            let Some(here) = read_if_present(&self.folder.join(journal_name(journal.epoch)))? else { continue };
            let length = usize::try_from(journal.bytes).unwrap_or(usize::MAX);
            if let Some(lines) = here.get(..length).filter(|lines| Blake3Hash::of(lines) == journal.hash) {
                change.add_journal(storage, journal.epoch, lines, UploadScope::Everything);
            }
        }
        Ok(())
    }

    /// Adds new archives, and removes the journals that are in one and no longer loose here.
    fn add_archives(&self, change: &mut DataChange) -> Result<(), StateError> {
        for range in archives_in(&self.folder)? {
            let ArchiveRange { first, last } = range;
            if change.manifest.archives.iter().any(|known| known.first <= last && first <= known.last) {
                continue;
            }
            let Some(content) = read_if_present(&range.path(&self.folder))? else { continue };
            let archive = RemoteArchive { first, last, bytes: content.len() as u64, hash: Blake3Hash::of(&content) };
            change.manifest.archives.push(archive.clone());
            change.archives.push((archive, content));
        }
        change.manifest.archives.sort_by_key(|archive| archive.first);
        let StateManifest { journals, archives, .. } = &mut change.manifest;
        journals.retain(|journal| {
            let is_loose = self.folder.join(journal_name(journal.epoch)).exists();
            is_loose || !archives.iter().any(|archive| archive.covers(journal.epoch))
        });
        Ok(())
    }

    fn add_folded_files(&self, storage: &dyn RemoteStorage, change: &mut DataChange) -> Result<(), StateError> {
        for name in [SNAPSHOT_FILE, PREVIOUS_SNAPSHOT_FILE, INDEX_FILE] {
            let Some(content) = read_if_present(&self.folder.join(name))? else { continue };
            let manifest = &mut change.manifest;
            let known = match name {
                SNAPSHOT_FILE => &mut manifest.snapshot,
                PREVIOUS_SNAPSHOT_FILE => &mut manifest.previous_snapshot,
                _ => &mut manifest.index,
            };
            if known.as_ref().is_some_and(|known| known.matches(&content)) {
                continue;
            }
            if name == SNAPSHOT_FILE {
                // A damaged one is of no use to anybody.
                let Some(epoch) = snapshot_epoch(&content) else { continue };
                manifest.snapshot_epoch = Some(epoch);
            }
            let file = RemoteFile::new(storage.stored_name(name, &Blake3Hash::of(&content)), &content);
            change.files.push((file.name.clone(), content));
            *known = Some(file);
        }
        Ok(())
    }
}

impl DataChange {
    /// Adds the whole content of a journal, as the tail after its base or as a new base.
    fn add_journal(&mut self, storage: &dyn RemoteStorage, epoch: u64, lines: &[u8], scope: UploadScope) {
        let known = self.manifest.journal(epoch).cloned();
        let base = known.as_ref().map_or(0, RemoteJournal::base_bytes);
        let tail = usize::try_from(base).ok().and_then(|base| lines.get(base..)).unwrap_or(lines);
        let whole = journal_name(epoch);
        let hash = Blake3Hash::of(lines);
        let bytes = lines.len() as u64;
        let is_small = tail.len() <= MAX_SMALL_TAIL.max(lines.len() / 2);
        let journal = match known.and_then(|known| known.parts.into_iter().next()) {
            Some(first) if scope == UploadScope::Journals && tail.len() < lines.len() && is_small => {
                let name = storage.stored_name(&format!("{whole}.tail"), &Blake3Hash::of(tail));
                self.files.push((name.clone(), tail.to_vec()));
                RemoteJournal { epoch, bytes, hash, parts: vec![first, name], tail_bytes: Some(tail.len() as u64) }
            }
            Some(_) | None => {
                let name = storage.stored_name(&whole, &hash);
                self.files.retain(|(file, _)| *file != format!("{whole}.tail") && *file != name);
                self.files.push((name.clone(), lines.to_vec()));
                RemoteJournal { epoch, bytes, hash, parts: vec![name], tail_bytes: None }
            }
        };
        self.manifest.insert_journal(journal);
    }
}

/// The epoch and the whole lines of a journal that is longer here than in the remote.
fn new_lines(manifest: &StateManifest, path: &Path) -> Result<Option<(u64, Vec<u8>)>, StateError> {
    let Some(epoch) = epoch_of(path) else { return Ok(None) };
    let uploaded = manifest.journal(epoch).map_or(0, |journal| journal.bytes);
    if length_if_present(path)?.is_none_or(|length| length <= uploaded) {
        return Ok(None);
    }
    let Some(mut content) = read_if_present(path)? else { return Ok(None) };
    content.truncate(whole_lines(&content).len());
    Ok((content.len() as u64 > uploaded).then_some((epoch, content)))
}

/// The epoch that a snapshot states; `None` if it is damaged.
fn snapshot_epoch(content: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct EpochOnly {
        epoch: u64,
    }
    let (hash, json) = content.strip_suffix(b"\n")?.split_at_checked(65)?;
    if hash != format!("{} ", Blake3Hash::of(json)).as_bytes() {
        return None;
    }
    serde_json::from_slice::<EpochOnly>(json).ok().map(|snapshot| snapshot.epoch)
}
