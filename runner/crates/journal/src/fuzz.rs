//! The entry point for the fuzz target (`fuzz/`): the properties of any journals. Compiled only for it and for tests.

use std::{fs, path::Path};

use super::{
    Journal, JournalError, LoadedJournals, Redactor,
    event::{JournalEntry, JournalEvent},
    line,
};
use contract::hash::Blake3Hash;
use contract::{AttemptNumber, diagnostic::ExitKind};

/// Creates an empty folder, in memory if the machine supports that.
#[must_use]
pub fn scratch_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary folder can be created")
}

/// Reads `bytes` as the journals of an app, in an empty `folder`. A line with the JSON of an event gets its number, chain and
/// checksum; every other line is written unchanged.
///
/// # Panics
/// When an entry that was read cannot be written again, or when no attempt can follow.
pub fn journal(bytes: &[u8], folder: &Path) {
    let mut paths = Vec::new();
    for (index, content) in files(bytes).iter().enumerate() {
        let path = folder.join(format!("attempt-{index:06}.journal"));
        fs::write(&path, content).expect("the folder is writable");
        paths.push(path);
    }
    let read = |paths: &[std::path::PathBuf]| {
        LoadedJournals::read(paths, |entry| {
            let again = line::encode(entry);
            let (decoded, hash) =
                line::decode(&again.bytes[..again.bytes.len() - 1]).expect("a written line can be read");
            assert_eq!((&decoded, hash), (entry, again.hash));
        })
    };
    let Ok(loaded) = read(&paths) else { return };
    let Some(last) = loaded.state.attempts.last() else { return };
    let before = loaded.state.clone();
    let mut header = last.header.clone();
    let Some(epoch) = header.epoch.checked_add(1) else { return };
    header.epoch = epoch;
    header.attempt = AttemptNumber::FIRST;
    let (is_newer, path) = (loaded.newer_format_file.is_some(), folder.join("next.journal"));
    match Journal::create(&path, header, loaded, Redactor::default(), Box::new(|_| {})) {
        Ok(mut journal) => {
            assert!(!is_newer, "a journal of a newer format was continued");
            journal.record_end(ExitKind::Failed, false).expect("an attempt can end");
            let state = journal.state().clone();
            drop(journal);
            paths.retain(|path| path.exists());
            paths.push(path);
            let after = read(&paths).expect("the continued journals can be read");
            assert_eq!(after.state, state);
            assert_eq!(after.state.records, before.records);
            assert_eq!(after.state.attempts.len(), before.attempts.len() + 1);
        }
        Err(JournalError::NewerFormat { .. }) => assert!(is_newer, "it is not newer"),
        // The fuzzer wrote a longer header than the runner would.
        Err(JournalError::TooLong { .. }) => {}
        Err(other) => panic!("no attempt can follow: {other}"),
    }
}

/// Splits bytes into the content of each file.
fn files(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut files = vec![Vec::new()];
    let (mut seq, mut prev): (u64, Option<Blake3Hash>) = (0, None);
    for raw in bytes.split_inclusive(|byte| *byte == b'\n') {
        let event = raw.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<JournalEvent>(line).ok());
        let line = match event {
            Some(event) => {
                if matches!(event, JournalEvent::Started(_)) && files.last().is_some_and(|file| !file.is_empty()) {
                    files.push(Vec::new());
                    seq = 0;
                }
                line::encode(&JournalEntry { seq, prev, at: jiff::Timestamp::UNIX_EPOCH, event }).bytes
            }
            None => raw.to_owned(),
        };
        if let Some((entry, hash)) = line.strip_suffix(b"\n").and_then(|line| line::decode(line).ok()) {
            if entry.seq == 0 && files.last().is_some_and(|file| !file.is_empty()) {
                files.push(Vec::new());
            }
            (seq, prev) = (entry.seq.wrapping_add(1), Some(hash));
        }
        if let Some(file) = files.last_mut() {
            file.extend_from_slice(&line);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        testing::corpus::replay("journal", |bytes| super::journal(bytes, super::scratch_folder().path()));
    }
}
