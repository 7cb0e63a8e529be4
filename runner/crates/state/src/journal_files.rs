//! The names of the files in a state folder, and the journals and archives in it.
//!
//! Deliberately absent: the content of the files, apart from their length and where lines end.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::StateError;
use journal::UNTRUSTED_FILE_SUFFIX;

pub(super) fn journal_name(epoch: u64) -> String {
    format!("attempt-{epoch:06}.journal")
}

/// The name of a journal that anybody could have written.
pub(super) fn suggested_name(epoch: u64) -> String {
    format!("attempt-{epoch:06}{UNTRUSTED_FILE_SUFFIX}")
}

/// The journals in a folder, in epoch order; empty if the folder does not exist.
pub(super) fn journals_in(folder: &Path) -> Result<Vec<(u64, PathBuf)>, StateError> {
    let error = |source| StateError::io("read", folder, source);
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut journals = Vec::new();
    for entry in listing {
        let path = entry.map_err(error)?.path();
        if let Some(epoch) = epoch_of(&path) {
            journals.push((epoch, path));
        }
    }
    journals.sort();
    // Both exist only if a process was killed between writing the longer one and removing the other.
    let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    journals.dedup_by(|later: &mut (u64, PathBuf), kept| {
        let is_twin = later.0 == kept.0;
        if is_twin && length(&later.1) > length(&kept.1) {
            std::mem::swap(&mut later.1, &mut kept.1);
        }
        is_twin
    });
    Ok(journals)
}

/// The epoch in the name of a journal file.
pub(super) fn epoch_of(path: &Path) -> Option<u64> {
    path.file_name()?
        .to_str()?
        .strip_prefix("attempt-")?
        .split_once('.')
        .filter(|(_, end)| matches!(*end, "journal" | "suggested.journal"))?
        .0
        .parse()
        .ok()
}

/// The content of a file, if there is one.
pub(super) fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::io("read", path, source)),
    }
}

/// The length of a file, if there is one.
pub(super) fn length_if_present(path: &Path) -> Result<Option<u64>, StateError> {
    match fs::metadata(path) {
        Ok(file) => Ok(Some(file.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::io("read", path, source)),
    }
}

/// Removes a file, if there is one.
pub(super) fn remove_if_present(path: &Path) -> Result<(), StateError> {
    ignore_missing(fs::remove_file(path)).map_err(|source| StateError::io("remove", path, source))
}

/// A file that is not there is no error.
pub(super) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The bytes up to the last newline.
pub(super) fn whole_lines(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    &bytes[..end]
}
