//! Puts a checkpoint into a folder that may have a history of its own.
//!
//! Invariant: all is read together before anything is moved into place, so a checkpoint that does not continue the local history, and
//! is not continued by it, changes nothing. What this machine wrote keeps its trust: an untrusted checkpoint only adds to it. The
//! snapshot is moved into place before the journals that follow it.

use std::path::{Path, PathBuf};

use super::{BundleError, CheckpointJournal, UnpackedCheckpoint, chain::last_line_hash};
use crate::{
    StateError,
    base_snapshot::{BASE_SNAPSHOT_FILE, BaseFiles},
    epoch_of,
    history::{HistoryError, HistoryFolder},
    journal_name, suggested_name,
};
use contract::hash::Blake3Hash;
use hostio::atomic_file::StagedFile;
use journal::{JournalState, JournalTrust, LoadedJournals, Snapshot};

/// A downloaded file that is not part of the folder yet.
struct StagedMember {
    staged: StagedFile,
    final_path: PathBuf,
    replaced_path: Option<PathBuf>,
}

/// How a checkpoint follows the local history.
enum Continuation {
    /// Its snapshot becomes the base of the local history, whose journals are all older.
    Base(Box<JournalState>),
    /// Its journals go on from a local attempt, or are known here. `at` is the last epoch that they need not have.
    Local { at: u64, base: Option<Box<JournalState>> },
    /// All of it is older than what is here.
    Known,
}

/// Merges a checkpoint into a folder. Of two journals with the same beginning, the longer wins.
///
/// # Errors
/// [`StateError`] when the histories have diverged, or when they can't be read together or written.
pub fn merge_into_folder(folder: &Path, checkpoint: &UnpackedCheckpoint, location: &str) -> Result<(), StateError> {
    std::fs::create_dir_all(folder).map_err(|source| StateError::io("create", folder, source))?;
    let merge = CheckpointMerge { history: open_with_base_of(folder, checkpoint)?, checkpoint, location };
    let (after, base) = match merge.continuation()? {
        Continuation::Known => return Ok(()),
        Continuation::Base(base) => (base.epoch(), Some(base)),
        Continuation::Local { at, base } => (at, base),
    };
    let mut staged = Vec::new();
    if let Some(base) = &base {
        staged.push(merge.stage_base(base)?);
    }
    for journal in checkpoint.journals.iter().filter(|journal| journal.epoch > after) {
        staged.extend(merge.stage_journal(journal)?);
    }
    merge.ensure_readable_together(base.as_deref(), &staged)?;
    // Snapshot and index are made again: the records in them have the trust of the files that are replaced now.
    if base.is_some() || staged.iter().any(|member| member.replaced_path.is_some()) {
        merge.history.forget_caches()?;
    }
    staged.into_iter().try_for_each(StagedMember::move_into_place)
}

/// Opens a folder. If its base snapshot is damaged and the checkpoint has the same, that one is taken.
fn open_with_base_of(folder: &Path, checkpoint: &UnpackedCheckpoint) -> Result<HistoryFolder<'static>, StateError> {
    match (HistoryFolder::open(folder), &checkpoint.base) {
        (Err(StateError::BaseSnapshot { .. }), Some(base))
            if BaseFiles::of(folder)?.restore(&believed(checkpoint, base, &JournalState::default()))? =>
        {
            HistoryFolder::open(folder)
        }
        (opened, _) => opened,
    }
}

/// The state of a checkpoint's snapshot, with the trust that it has here.
fn believed(checkpoint: &UnpackedCheckpoint, base: &JournalState, known: &JournalState) -> JournalState {
    match checkpoint.trust {
        JournalTrust::Authenticated => base.clone(),
        JournalTrust::Untrusted => base.clone().distrusted(known),
    }
}

struct CheckpointMerge<'a> {
    history: HistoryFolder<'a>,
    checkpoint: &'a UnpackedCheckpoint,
    location: &'a str,
}

impl CheckpointMerge<'_> {
    fn continuation(&self) -> Result<Continuation, StateError> {
        let Self { history, checkpoint, .. } = self;
        let (ours, theirs) = (history.base.epoch(), checkpoint.base.as_ref().map_or(0, JournalState::epoch));
        let newest = history.newest_epoch();
        match &checkpoint.base {
            Some(base) if newest == 0 => {
                Ok(Continuation::Base(Box::new(believed(checkpoint, base, &JournalState::default()))))
            }
            Some(base) if theirs > newest => self.continues_unseen(base),
            Some(base) if theirs >= ours => {
                if self.local_hash_at(theirs)? != base.last_line_hash {
                    return Err(self.diverged(theirs, "the copy on this machine differs from it"));
                }
                let is_better =
                    theirs == ours && checkpoint.trust == JournalTrust::Authenticated && history.archives.is_empty();
                Ok(Continuation::Local { at: theirs, base: is_better.then(|| Box::new(base.clone())) })
            }
            None if ours == 0 => Ok(Continuation::Local { at: 0, base: None }),
            Some(_) | None => self.begins_before_base(),
        }
    }

    /// The local history ends before the checkpoint's snapshot, so no line tells whether it is the same history. Its first attempt
    /// and the summary of its newest one do.
    fn continues_unseen(&self, base: &JournalState) -> Result<Continuation, StateError> {
        let local = self.history.load(|_| {}).map_err(|error| self.unreadable(&error))?.state;
        let is_same_history = local.first_attempt == base.first_attempt;
        let is_in_reach = base.attempts.first().is_some_and(|oldest| oldest.header.epoch <= local.epoch());
        let is_known = local.attempts.last().is_none_or(|newest| {
            let known = base.attempts.iter().find(|known| known.header == newest.header);
            !is_in_reach || known.is_some_and(|known| known.last_entry_at >= newest.last_entry_at)
        });
        if !is_same_history || !is_known {
            return Err(self.diverged(local.epoch(), "the snapshot in it does not continue the copy on this machine"));
        }
        Ok(Continuation::Base(Box::new(believed(self.checkpoint, base, &local))))
    }

    /// The local history begins with a snapshot that is newer than the checkpoint's.
    fn begins_before_base(&self) -> Result<Continuation, StateError> {
        let base = &self.history.base;
        let at = base.epoch();
        let journals = &self.checkpoint.journals;
        let is_known = match journals.iter().find(|journal| journal.epoch == at) {
            Some(journal) => last_line_hash(&journal.bytes) == base.last_line_hash,
            // It ends before that snapshot, which knows the newest attempts before it.
            None => journals.last().is_some_and(|newest| {
                newest.epoch < at && base.attempts.iter().any(|known| known.header.epoch == newest.epoch)
            }),
        };
        if !is_known {
            return Err(self.diverged(at, "the copy on this machine differs from it"));
        }
        let is_older = journals.iter().all(|journal| journal.epoch < at);
        Ok(if is_older { Continuation::Known } else { Continuation::Local { at, base: None } })
    }

    /// The hash of the last local line up to the end of an attempt.
    fn local_hash_at(&self, epoch: u64) -> Result<Option<Blake3Hash>, StateError> {
        if epoch == self.history.base.epoch() {
            return Ok(self.history.base.last_line_hash);
        }
        Ok(self.local_journal(epoch)?.and_then(|(_, bytes)| last_line_hash(&bytes)))
    }

    fn local_journal(&self, epoch: u64) -> Result<Option<(PathBuf, Vec<u8>)>, StateError> {
        let is_archived = self.history.archives.last().is_some_and(|archive| epoch <= archive.last);
        if !is_archived {
            let Some((_, path)) = self.history.loose.iter().find(|(known, _)| *known == epoch) else { return Ok(None) };
            let bytes = std::fs::read(path).map_err(|source| StateError::io("read", path, source))?;
            return Ok(Some((path.clone(), bytes)));
        }
        let mut journals = self.history.journals_from(epoch)?.into_iter();
        Ok(journals.find(|(known, ..)| *known == epoch).map(|(_, path, bytes)| (path, bytes)))
    }

    fn stage_base(&self, base: &JournalState) -> Result<StagedMember, StateError> {
        let snapshot = Snapshot { state: base.clone(), index: Blake3Hash::of(&[]) };
        let encoded = snapshot.encode().expect("a decoded snapshot has no events of a newer format");
        self.stage(self.history.folder.join(BASE_SNAPSHOT_FILE), &encoded, None)
    }

    /// The journal under its name here; `None` if the local one stays.
    fn stage_journal(&self, journal: &CheckpointJournal) -> Result<Option<StagedMember>, StateError> {
        let CheckpointJournal { epoch, bytes, trust } = journal;
        let to = self.history.folder.join(match trust {
            JournalTrust::Authenticated => journal_name(*epoch),
            JournalTrust::Untrusted => suggested_name(*epoch),
        });
        let Some((path, ours)) = self.local_journal(*epoch)? else { return self.stage(to, bytes, None).map(Some) };
        let (known, is_same) = (journal::trust_from_file_name(&path), ours == *bytes);
        let is_archived = !self.history.loose.iter().any(|(known, _)| known == epoch);
        let becomes_authentic = is_same && known == JournalTrust::Untrusted && *trust == JournalTrust::Authenticated;
        if ours.starts_with(bytes) && (is_archived || !becomes_authentic) {
            return Ok(None);
        }
        // Only a process of this machine continues a journal that this machine wrote.
        if known == JournalTrust::Authenticated && *trust == JournalTrust::Untrusted && bytes.starts_with(&ours) {
            return Ok(None);
        }
        if is_archived || !bytes.starts_with(crate::journal_files::whole_lines(&ours)) {
            return Err(self.diverged(*epoch, "the copy on this machine differs from it"));
        }
        let replaced_path = Some(path).filter(|path| *path != to);
        self.stage(to, bytes, replaced_path).map(Some)
    }

    fn stage(&self, to: PathBuf, bytes: &[u8], replaced_path: Option<PathBuf>) -> Result<StagedMember, StateError> {
        let staged = StagedFile::write(&to, bytes).map_err(|source| StateError::io("write", &to, source))?;
        Ok(StagedMember { staged, final_path: to, replaced_path })
    }

    /// Whether the local and the new journals can be read as one history.
    fn ensure_readable_together(&self, base: Option<&JournalState>, new: &[StagedMember]) -> Result<(), StateError> {
        let Some(first) = new.iter().filter_map(StagedMember::epoch).min() else { return Ok(()) };
        let before = match base {
            Some(base) => base.clone(),
            None => self.history.state_before(first).map_err(|error| self.unreadable(&error))?,
        };
        let after = before.epoch();
        let mut all: Vec<(u64, PathBuf)> = Vec::new();
        for member in new {
            all.extend(member.epoch().map(|epoch| (epoch, member.staged.staged_path(&self.history.folder))));
        }
        let is_new = |epoch: u64| new.iter().any(|member| member.epoch() == Some(epoch));
        all.extend(self.history.loose.iter().filter(|(epoch, _)| *epoch > after && !is_new(*epoch)).cloned());
        all.sort();
        let mut loaded = LoadedJournals { state: before, ..LoadedJournals::default() };
        for (index, (_, path)) in all.iter().enumerate() {
            let read = loaded.read_path(path, index + 1 == all.len(), |_| ());
            read.map_err(|error| self.unreadable(&HistoryError::Journal(error)))?;
        }
        if loaded.newer_format_file.is_some() {
            return Err(BundleError::Damaged("a newer runner wrote it".to_owned()).in_artifact(self.location));
        }
        Ok(())
    }

    fn unreadable(&self, error: &HistoryError) -> StateError {
        let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        BundleError::Damaged(why).in_artifact(self.location)
    }

    fn diverged(&self, epoch: u64, why: &'static str) -> StateError {
        let local = self.history.loose.iter().find(|(known, _)| *known == epoch).map(|(_, path)| path.clone());
        let path = local.unwrap_or_else(|| self.history.folder.join(BASE_SNAPSHOT_FILE));
        StateError::Diverged { path, location: self.location.to_owned(), why }
    }
}

impl StagedMember {
    /// The epoch, if it is a journal.
    fn epoch(&self) -> Option<u64> {
        epoch_of(&self.final_path)
    }

    fn move_into_place(self) -> Result<(), StateError> {
        self.staged.replace().map_err(|source| StateError::io("write", &self.final_path, source))?;
        match &self.replaced_path {
            Some(replaced) => {
                std::fs::remove_file(replaced).map_err(|source| StateError::io("remove", replaced, source))
            }
            None => Ok(()),
        }
    }
}
