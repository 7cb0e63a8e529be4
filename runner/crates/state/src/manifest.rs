//! The manifest of a remote state: which files it has, with their sizes and hashes, and who was forced out of the lock.
//!
//! Invariant: its size grows by one line for each archive and by nothing else, since an archive takes the place of the
//! journals in it. Deliberately absent: the lock record, which each storage keeps next to the manifest in its own way,
//! and the content of the files.

use serde::{Deserialize, Serialize};

use super::{
    StateError,
    archive::ArchiveRange,
    record::{ForcedRelease, LockRecord, forced_release},
};
use contract::hash::Blake3Hash;

/// The version of [`StateManifest`].
///
/// - 1: the lock and all journals, in one record.
/// - 2: also a snapshot, an index and archives. In git, the lock has a ref of its own, and the record a new one
///   (docs/adr/0012).
pub const MANIFEST_VERSION: u32 = 2;

/// The oldest version that this runner reads. It writes [`MANIFEST_VERSION`] only.
pub const OLDEST_MANIFEST_VERSION: u32 = 1;

/// The most forced releases that a manifest keeps.
const MAX_FORCED_RELEASES: usize = 100;

/// What a remote state consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StateManifest {
    /// `<app>/<environment>`. Only the lock record names it in version 1.
    #[serde(default)]
    pub resource: String,
    /// `snapshot.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<RemoteFile>,
    /// The epoch of the attempt that the snapshot ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_epoch: Option<u64>,
    /// `snapshot-previous.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_snapshot: Option<RemoteFile>,
    /// `index.jsonl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<RemoteFile>,
    /// The journals since the newest archive, in epoch order.
    pub journals: Vec<RemoteJournal>,
    /// The archives, in epoch order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archives: Vec<RemoteArchive>,
    /// Forced releases, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<ForcedRelease>,
}

/// A file in a remote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RemoteFile {
    /// Its name in the remote: see [`super::remote::RemoteStorage::stored_name`].
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The BLAKE3 hash of its content.
    pub hash: Blake3Hash,
}

/// A journal in a remote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RemoteJournal {
    /// The epoch of its attempt.
    pub epoch: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The BLAKE3 hash of its content.
    pub hash: Blake3Hash,
    /// The names of the files that make it up, in order. A single one once the attempt has ended.
    pub parts: Vec<String>,
    /// How many of the bytes are in the second of two parts. Absent in version 1, which had a part for each upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_bytes: Option<u64>,
}

/// An archive of the journals of consecutive attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RemoteArchive {
    /// The epoch of its first journal.
    pub first: u64,
    /// The epoch of its last journal.
    pub last: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The BLAKE3 hash of its content.
    pub hash: Blake3Hash,
}

/// A manifest as it is stored, with what a storage adds to it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct StoredManifest {
    version: u32,
    /// In version 1 and in buckets, the lock record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lock: Option<LockRecord>,
    /// In git, what pairs the data with the lock: see [`LockFile`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(flatten)]
    manifest: StateManifest,
}

/// `lock.json` in git: the lock record, and the revision of the manifest that it was written with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LockFile {
    /// [`MANIFEST_VERSION`].
    pub(super) version: u32,
    /// The revision of the newest manifest: the host moves two refs one after the other, and a reader that comes in
    /// between sees that they don't belong together.
    pub(super) revision: String,
    pub(super) lock: LockRecord,
}

/// A manifest as it was read.
pub(super) struct ParsedManifest {
    pub(super) version: u32,
    pub(super) lock: Option<LockRecord>,
    pub(super) revision: Option<String>,
    pub(super) manifest: StateManifest,
}

impl RemoteFile {
    /// Describes a file with this content.
    pub(super) fn new(name: String, content: &[u8]) -> Self {
        Self { name, bytes: content.len() as u64, hash: Blake3Hash::of(content) }
    }

    /// Whether this is the file's content.
    pub(super) fn matches(&self, content: &[u8]) -> bool {
        content.len() as u64 == self.bytes && Blake3Hash::of(content) == self.hash
    }
}

impl RemoteJournal {
    /// How many bytes the first part has, if that is known; else 0.
    pub(super) fn base_bytes(&self) -> u64 {
        match (self.parts.len(), self.tail_bytes) {
            (1, _) => self.bytes,
            (2, Some(tail)) => self.bytes.saturating_sub(tail),
            (_, _) => 0,
        }
    }
}

impl RemoteArchive {
    /// The epochs of its first and last attempts.
    pub(super) fn range(&self) -> ArchiveRange {
        ArchiveRange { first: self.first, last: self.last }
    }

    /// Whether the archive has the journal of this epoch, if that attempt was recorded at all.
    #[must_use]
    pub fn covers(&self, epoch: u64) -> bool {
        (self.first..=self.last).contains(&epoch)
    }
}

impl StateManifest {
    /// The manifest of a remote without any state.
    #[must_use]
    pub fn empty(resource: &str) -> Self {
        Self { resource: resource.to_owned(), ..Self::default() }
    }

    /// Whether it names no file: nothing was uploaded yet, or the remote lost its data.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.journals.is_empty() && self.archives.is_empty() && self.snapshot.is_none()
    }

    /// The epoch of the newest attempt that it knows; 0 if there is none.
    #[must_use]
    pub fn newest_epoch(&self) -> u64 {
        let journal = self.journals.last().map_or(0, |journal| journal.epoch);
        let archive = self.archives.last().map_or(0, |archive| archive.last);
        journal.max(archive).max(self.snapshot_epoch.unwrap_or(0))
    }

    /// The loose journal of an attempt.
    #[must_use]
    pub fn journal(&self, epoch: u64) -> Option<&RemoteJournal> {
        let at = self.journals.binary_search_by_key(&epoch, |journal| journal.epoch).ok()?;
        self.journals.get(at)
    }

    /// The archive that has the journal of an attempt.
    #[must_use]
    pub fn archive_of(&self, epoch: u64) -> Option<&RemoteArchive> {
        self.archives.iter().find(|archive| archive.covers(epoch))
    }

    /// The names of all files but archives, as the remote stores them.
    pub(super) fn stored_names(&self) -> impl Iterator<Item = &str> {
        let files = [&self.snapshot, &self.previous_snapshot, &self.index];
        let files = files.into_iter().flatten().map(|file| file.name.as_str());
        files.chain(self.journals.iter().flat_map(|journal| journal.parts.iter().map(String::as_str)))
    }

    /// Inserts a journal in epoch order, or replaces the one with its epoch.
    pub(super) fn insert_journal(&mut self, journal: RemoteJournal) {
        match self.journals.binary_search_by_key(&journal.epoch, |kept| kept.epoch) {
            Ok(at) => self.journals[at] = journal,
            Err(at) => self.journals.insert(at, journal),
        }
    }

    /// The manifest after an operator took the lock from its holder.
    #[must_use]
    pub fn with_forced_release(&self, lock: &LockRecord, by: &str, message: &str) -> Self {
        let mut manifest = self.clone();
        manifest.released.push(forced_release(lock, by, message));
        let surplus = manifest.released.len().saturating_sub(MAX_FORCED_RELEASES);
        manifest.released.drain(..surplus);
        manifest
    }
}

/// The bytes of `state.json`.
pub(super) fn encode(manifest: &StateManifest, lock: Option<&LockRecord>, revision: Option<&str>) -> Vec<u8> {
    let stored = StoredManifest {
        version: MANIFEST_VERSION,
        lock: lock.cloned(),
        revision: revision.map(ToOwned::to_owned),
        manifest: manifest.clone(),
    };
    json_line(&stored)
}

/// The bytes of a file of the remote that is one JSON value.
pub(super) fn json_line(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("records are JSON: their keys are texts");
    text.push(b'\n');
    text
}

/// Parses `state.json`.
///
/// # Errors
/// [`StateError::InvalidManifest`] when it has an unknown form or belongs to another resource.
pub(super) fn parse(bytes: &[u8], resource: &str, location: &str) -> Result<ParsedManifest, StateError> {
    #[derive(Deserialize)]
    struct VersionOnly {
        version: u32,
    }
    let broken = |why: String| StateError::InvalidManifest { location: location.to_owned(), why };
    let unreadable = |error: serde_json::Error| broken(error.to_string());
    check_version(serde_json::from_slice::<VersionOnly>(bytes).map_err(unreadable)?.version, location)?;
    let StoredManifest { version, lock, revision, mut manifest } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if manifest.resource.is_empty() {
        lock.as_ref().map_or("", |lock| &lock.resource).clone_into(&mut manifest.resource);
    }
    if manifest.resource != resource {
        return Err(broken(format!("it belongs to {}, not to {resource}", manifest.resource)));
    }
    Ok(ParsedManifest { version, lock, revision, manifest })
}

/// Parses `lock.json`.
///
/// # Errors
/// [`StateError::InvalidManifest`] when it has an unknown form or belongs to another resource.
pub(super) fn parse_lock_file(bytes: &[u8], resource: &str, location: &str) -> Result<LockFile, StateError> {
    let broken = |why: String| StateError::InvalidManifest { location: location.to_owned(), why };
    let file: LockFile = serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
    check_version(file.version, location)?;
    if file.lock.resource != resource {
        return Err(broken(format!("it belongs to {}, not to {resource}", file.lock.resource)));
    }
    Ok(file)
}

fn check_version(version: u32, location: &str) -> Result<(), StateError> {
    if (OLDEST_MANIFEST_VERSION..=MANIFEST_VERSION).contains(&version) {
        return Ok(());
    }
    let why = format!(
        "its version is {version}; this runner supports versions {OLDEST_MANIFEST_VERSION} to {MANIFEST_VERSION}"
    );
    Err(StateError::InvalidManifest { location: location.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal::clock;

    const VERSION_1: &str = r#"{
        "version": 1,
        "lock": { "resource": "shop/test", "epoch": 2, "nonce": "", "counter": 4, "holder": null, "since": "2026-11-29T10:00:00Z" },
        "journals": [
            { "epoch": 1, "bytes": 3, "hash": "HASH", "parts": ["attempt-000001.journal-0000-12345678.part"] }
        ]
    }"#;

    fn version_1() -> Vec<u8> {
        VERSION_1.replace("HASH", &Blake3Hash::of(b"a\nb").to_string()).into_bytes()
    }

    #[test]
    fn version_1_is_read_and_version_2_is_written() {
        let parsed = parse(&version_1(), "shop/test", "origin").unwrap();
        let lock = parsed.lock.unwrap();
        assert_eq!((parsed.version, lock.epoch, parsed.manifest.resource.as_str()), (1, 2, "shop/test"));
        assert_eq!((parsed.manifest.newest_epoch(), parsed.manifest.snapshot.is_none()), (1, true));
        let again = parse(&encode(&parsed.manifest, Some(&lock), None), "shop/test", "origin").unwrap();
        assert_eq!((again.version, again.lock, again.manifest), (2, Some(lock), parsed.manifest));
    }

    #[test]
    fn newer_versions_and_other_resources_are_refused() {
        let newer = String::from_utf8(version_1()).unwrap().replace("\"version\": 1", "\"version\": 3");
        for (bytes, resource, expected) in [
            (newer.into_bytes(), "shop/test", "its version is 3; this runner supports versions 1 to 2"),
            (version_1(), "shop/prod", "it belongs to shop/test, not to shop/prod"),
            (b"{}".to_vec(), "shop/test", "missing field `version`"),
        ] {
            let refused = parse(&bytes, resource, "origin").err().unwrap();
            assert!(refused.reason().contains(expected), "{}", refused.reason());
        }
    }

    #[test]
    fn archives_take_the_place_of_their_journals() {
        let archive = RemoteArchive { first: 1, last: 256, bytes: 9, hash: Blake3Hash::of(b"") };
        let mut manifest = StateManifest { archives: vec![archive.clone()], ..StateManifest::empty("shop/test") };
        assert_eq!((manifest.newest_epoch(), manifest.archive_of(256)), (256, Some(&archive)));
        for epoch in [300, 257] {
            let parts = Vec::new();
            manifest.insert_journal(RemoteJournal {
                epoch,
                bytes: 0,
                hash: Blake3Hash::of(b""),
                parts,
                tail_bytes: None,
            });
        }
        assert_eq!(manifest.journals.iter().map(|journal| journal.epoch).collect::<Vec<_>>(), [257, 300]);
        assert_eq!((manifest.newest_epoch(), manifest.archive_of(257)), (300, None));
    }

    #[test]
    fn forced_releases_are_bounded() {
        let lock = LockRecord::never_held("shop/test", clock::now());
        let mut manifest = StateManifest::empty("shop/test");
        for _ in 0..MAX_FORCED_RELEASES + 3 {
            manifest = manifest.with_forced_release(&lock, "ann@host", "it hangs");
        }
        assert_eq!(manifest.released.len(), MAX_FORCED_RELEASES);
    }
}
