//! The local copies of a remote state's journals: downloads what is missing here, and finds what is not uploaded yet.
//!
//! Invariant: a local journal never becomes shorter, and it changes only by appending the remote's lines. Of two copies
//! with the same beginning, the longer wins. Diverged copies are an error that an operator must resolve. Deliberately
//! absent: the content of journals, apart from where lines end.

use std::{fs, io, path::Path};

use super::{
    StateError, epoch_of, journal_name, journals_in,
    record::{RemoteJournal, StateManifest},
    remote::RemoteStorage,
};
use contract::hash::Blake3Hash;
use hostio::atomic_file::replace_file;

/// Downloads what the record lists and this machine does not have.
pub(super) fn pull_journals(
    remote: &mut dyn RemoteStorage,
    manifest: &StateManifest,
    folder: &Path,
    location: &str,
) -> Result<(), StateError> {
    fs::create_dir_all(folder).map_err(|source| StateError::io("create", folder, source))?;
    let newest = manifest.journals.last().map(|journal| journal.epoch);
    for kept in &manifest.journals {
        let path = folder.join(journal_name(kept.epoch));
        let fork = |why| StateError::Diverged { path: path.clone(), location: location.to_owned(), why };
        let local_bytes = read_if_present(&path)?.unwrap_or_default();
        let length = usize::try_from(kept.bytes).unwrap_or(usize::MAX);
        match whole_lines(&local_bytes).get(..length) {
            None => {
                let remote_bytes = read_remote_journal(remote, kept, location)?;
                if !remote_bytes.starts_with(whole_lines(&local_bytes)) {
                    return Err(fork("the copy on this machine differs from it"));
                }
                write_atomically(&path, &remote_bytes)?;
            }
            Some(same) if Blake3Hash::of(same) != kept.hash => {
                return Err(fork("the copy on this machine differs from it"));
            }
            Some(_) if Some(kept.epoch) == newest || local_bytes.len() == length => {}
            Some(same) if whole_lines(&local_bytes).len() == length => write_atomically(&path, same)?,
            Some(_) => {
                return Err(fork("the copy on this machine is longer, and a later deployment ran without the rest"));
            }
        }
    }
    for (epoch, path) in journals_in(folder)? {
        if newest.is_some_and(|newest| epoch < newest) && !manifest.journals.iter().any(|kept| kept.epoch == epoch) {
            if read_if_present(&path)?.is_some_and(|here| whole_lines(&here).is_empty()) {
                fs::remove_file(&path).map_err(|source| StateError::io("remove", &path, source))?;
            } else {
                let why = "the attempt was never uploaded, and a later deployment ran without it";
                return Err(StateError::Diverged { path, location: location.to_owned(), why });
            }
        }
    }
    Ok(())
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

/// The lines that this machine has and the record does not: a part for the journal if it is longer here.
pub(super) fn unsynced_part(
    manifest: &StateManifest,
    path: &Path,
) -> Result<Option<(RemoteJournal, Vec<u8>)>, StateError> {
    let (Some(epoch), Some(local_bytes)) = (epoch_of(path), read_if_present(path)?) else { return Ok(None) };
    let here = whole_lines(&local_bytes);
    let known = manifest.journals.iter().find(|kept| kept.epoch == epoch);
    let (bytes, parts) = known.map_or((0, Vec::new()), |kept| (kept.bytes, kept.parts.clone()));
    let Some(more) = usize::try_from(bytes).ok().and_then(|bytes| here.get(bytes..)).filter(|more| !more.is_empty())
    else {
        return Ok(None);
    };
    Ok(Some((RemoteJournal { epoch, bytes: here.len() as u64, hash: Blake3Hash::of(here), parts }, more.to_vec())))
}

fn read_remote_journal(
    remote: &mut dyn RemoteStorage,
    journal: &RemoteJournal,
    location: &str,
) -> Result<Vec<u8>, StateError> {
    let mut bytes = Vec::new();
    for part in &journal.parts {
        bytes.extend_from_slice(&remote.read_file(part)?);
    }
    if bytes.len() as u64 != journal.bytes || Blake3Hash::of(&bytes) != journal.hash {
        let why = format!("the journal of epoch {} does not match the record", journal.epoch);
        return Err(StateError::InvalidManifest { location: location.to_owned(), why });
    }
    Ok(bytes)
}

/// The bytes up to the last newline.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    &bytes[..end]
}

fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::io("read", path, source)),
    }
}

fn write_atomically(path: &Path, content: &[u8]) -> Result<(), StateError> {
    replace_file(path, content).map_err(|source| StateError::io("write", path, source))
}
