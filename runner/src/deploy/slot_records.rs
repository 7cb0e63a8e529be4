//! The slots of a directory, and which release each of them holds.
//!
//! A step that starts a release in a slot writes `slots/<name>/slot.json` (the SDK's `slots`): its member `release` is the digest, or the label of
//! a release without one. Invariant: a record that can't be read is an error, since the release that it names may be running.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde_json::Value;

use super::PruneError;
use contract::Digest;

/// The name of the folder of all slots, in a directory that holds releases.
const SLOTS: &str = "slots";
/// The name of the file in a slot's folder.
const RECORD_FILE: &str = "slot.json";
/// The largest record, in bytes.
const MAX_RECORD_BYTES: u64 = 64 << 10;

/// The releases that the slots of a directory hold, each with the slot's name.
///
/// # Errors
/// [`PruneError::UnknownSlot`].
pub(super) fn held_releases(dir: &Path) -> Result<BTreeMap<Digest, String>, PruneError> {
    let mut held = BTreeMap::new();
    let folder = dir.join(SLOTS);
    let unreadable = |path: &Path, reason: String| PruneError::UnknownSlot { path: path.to_owned(), reason };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(held);
        }
        Err(error) => return Err(unreadable(&folder, error.to_string())),
    };
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(&folder, error.to_string()))?;
        let path = entry.path().join(RECORD_FILE);
        let text = match read_record(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(unreadable(&path, error.to_string())),
        };
        let record: Value = serde_json::from_str(&text).map_err(|error| unreadable(&path, error.to_string()))?;
        let release = record["release"].as_str().ok_or_else(|| unreadable(&path, "it names no release".to_owned()))?;
        // A label names no folder.
        if let Ok(digest) = release.parse() {
            held.insert(digest, entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(held)
}

fn read_record(path: &Path) -> io::Result<String> {
    // A program in the slot may have put a link or a pipe there, which must not lead elsewhere or block.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let mut text = String::new();
    file.take(MAX_RECORD_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, slot: &str, record: &str) {
        fs::create_dir_all(dir.join(SLOTS).join(slot)).unwrap();
        fs::write(dir.join(SLOTS).join(slot).join(RECORD_FILE), record).unwrap();
    }

    #[test]
    fn each_record_names_the_release_of_its_slot() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(held_releases(dir.path()).unwrap(), BTreeMap::new());
        let digest = format!("sha256:{}", "3".repeat(64));
        write(dir.path(), "a", &format!("{{\"release\":\"{digest}\",\"state\":\"starting\"}}"));
        write(dir.path(), "b", "{\"release\":\"v1\"}");
        fs::create_dir(dir.path().join("slots/empty")).unwrap();
        fs::write(dir.path().join("slots/a.log"), "").unwrap();
        let held = held_releases(dir.path()).unwrap();
        assert_eq!(held, BTreeMap::from([(digest.parse().unwrap(), "a".to_owned())]));
        write(dir.path(), "c", "{}");
        let error = held_releases(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with(
            "slots/c/slot.json can't be read, so it is not known which release the slot holds: it names no release"
        ));
    }
}
