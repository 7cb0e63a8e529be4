//! A checkpoint in the artifacts of a CI run: a zip of this run's journals, the snapshot before them, and a manifest with their
//! identity.
//!
//! ```text
//!   pawl.json                  the manifest: identity, attempt, length and hash of each file, MAC
//!   snapshot-base.json         the state before the first journal; absent if that is the first of all
//!   attempt-000301.journal     as it is here, whole lines only
//! ```
//!
//! Its name shows which one is the newest: `pawl-<app>-<environment>-<job>-aNN-sNNNN-<nonce>`, with the attempt of the
//! workflow run and the number of lines. The lines of a journal are chained by hashes, and the first one names the last line of the
//! snapshot, so the MAC of the manifest covers each of them. `collect` chooses the journals, `merge` puts them into another
//! machine's folder, `chain` compares two histories. A checkpoint without lines says that its attempt began nothing. Deliberately absent: upload and download.

mod chain;
mod collect;
mod identity;
mod merge;

use std::{
    fmt,
    io::{Cursor, Read as _, Write as _},
};

use serde::{Deserialize, Serialize};
use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

pub(super) use chain::last_line_hash;
pub use chain::{ChainComparison, contains_all};
pub use collect::{CheckpointContent, CheckpointStart};
pub use identity::{CheckpointIdentity, CheckpointKey, CheckpointSequence};
pub use merge::merge_into_folder;

use super::{StateError, base_snapshot::BASE_SNAPSHOT_FILE, journal_name};
use contract::hash::Blake3Hash;
use journal::{JournalState, JournalTrust, Snapshot};

/// The version of [`CheckpointManifest`].
///
/// - 1: the first: all journals of the folder.
/// - 2: the journals of this run, and the snapshot before them.
pub const BUNDLE_VERSION: u32 = 2;

/// The oldest version that can be read.
const OLDEST_BUNDLE_VERSION: u32 = 1;

/// The manifest's file name in the zip.
const MANIFEST_FILE: &str = "pawl.json";

/// The largest total size of the files in a checkpoint.
const MAX_CHECKPOINT_BYTES: u64 = 256 << 20;

/// The largest number in a name that is taken seriously.
const MAX_EPOCH: u64 = 1 << 40;

/// The manifest of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointManifest {
    /// [`BUNDLE_VERSION`].
    pub version: u32,
    #[serde(flatten)]
    pub identity: CheckpointIdentity,
    /// The attempt of the workflow run.
    pub attempt: u32,
    /// The commit of that attempt, for people: a fix may have another.
    pub commit: Option<String>,
    /// The snapshot before the first journal; `None` if that is the first of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<CheckpointSnapshotEntry>,
    /// The journals, oldest first.
    pub journals: Vec<CheckpointEntry>,
    /// The keyed BLAKE3 hash of the manifest without this field, in canonical form. `None` without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Blake3Hash>,
}

/// The snapshot in a checkpoint. It says of each record whether it is authentic, which counts only under a valid MAC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointSnapshotEntry {
    /// The epoch of its newest attempt.
    pub epoch: u64,
    pub bytes: u64,
    pub hash: Blake3Hash,
}

/// A journal in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointEntry {
    pub epoch: u64,
    pub bytes: u64,
    pub hash: Blake3Hash,
    /// Whether its writer had it from an authenticated source.
    #[serde(rename = "believed")]
    pub is_authenticated: bool,
}

/// The content of a checkpoint that belongs to this job and matches its name.
#[derive(Debug)]
pub struct UnpackedCheckpoint {
    /// The state before the first journal; `None` if that is the first of all.
    pub base: Option<JournalState>,
    /// Whether somebody with the key wrote it. Otherwise nothing in `base` counts as authentic.
    pub trust: JournalTrust,
    /// The journals, oldest first.
    pub journals: Vec<CheckpointJournal>,
}

/// A journal from a checkpoint.
#[derive(Debug)]
pub struct CheckpointJournal {
    pub epoch: u64,
    pub bytes: Vec<u8>,
    pub trust: JournalTrust,
}

/// An error in a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The zip is incomplete: its upload was interrupted and never acknowledged.
    #[error("it is truncated")]
    Truncated,
    /// The content does not match the manifest, or the manifest is missing.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A newer runner wrote it.
    #[error("its format version is {0}; this runner supports up to version {BUNDLE_VERSION}")]
    UnknownVersion(u32),
    /// It belongs to something else.
    #[error("it belongs to another {what}: {theirs}, not {ours}")]
    WrongIdentity { what: &'static str, theirs: String, ours: String },
    /// Its name does not match its content.
    #[error("its name does not match its content")]
    NameMismatch,
    /// Its MAC is not valid for this key.
    #[error("its MAC is not that of this `key`: the key was changed, or another job wrote it")]
    InvalidMac,
    /// It has no MAC, and this job has a key.
    #[error("it was written without a `key`, and this attempt has one: the key was added, or another job wrote it")]
    KeyAdded,
    /// It has a MAC, and this job has no key.
    #[error(
        "it was written with a `key`, and this attempt has none: the key was dropped, or its secret is missing here"
    )]
    KeyDropped,
}

impl BundleError {
    /// The error of the state whose artifact `name` this checkpoint is in.
    pub(super) fn in_artifact(&self, name: &str) -> StateError {
        let (name, why) = (name.to_owned(), self.to_string());
        match self {
            Self::NameMismatch | Self::InvalidMac => StateError::UnauthenticatedCheckpoint { name, why },
            Self::KeyAdded | Self::KeyDropped => StateError::KeyChanged { name, why },
            Self::Truncated | Self::Damaged(_) | Self::UnknownVersion(_) | Self::WrongIdentity { .. } => {
                StateError::InvalidCheckpoint { name, why }
            }
        }
    }
}

impl CheckpointContent {
    /// The content of a checkpoint which says that its attempt of the workflow run began nothing.
    #[must_use]
    pub fn nothing_begun() -> Self {
        Self { base: None, journals: Vec::new(), lines: 0 }
    }

    /// Packs the zip.
    #[must_use]
    pub fn pack(
        &self,
        identity: &CheckpointIdentity,
        attempt: u32,
        commit: Option<String>,
        key: Option<&CheckpointKey>,
    ) -> Vec<u8> {
        let journals = self.journals.iter().map(|(entry, _)| entry.clone()).collect();
        let base = self.base.as_ref();
        let mut manifest = CheckpointManifest {
            version: BUNDLE_VERSION,
            identity: identity.clone(),
            attempt,
            commit,
            snapshot: base.map(|base| CheckpointSnapshotEntry {
                epoch: base.state.epoch(),
                bytes: base.encoded.len() as u64,
                hash: Blake3Hash::of(&base.encoded),
            }),
            journals,
            mac: None,
        };
        manifest.mac = key.map(|key| key.mac(&manifest));
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest has only text keys");
        let journals = self.journals.iter().map(|(entry, bytes)| (journal_name(entry.epoch), bytes.as_slice()));
        let files =
            base.map(|base| (BASE_SNAPSHOT_FILE.to_owned(), base.encoded.as_slice())).into_iter().chain(journals);
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in std::iter::once((MANIFEST_FILE.to_owned(), text.as_slice())).chain(files) {
            let written = zip.start_file(name, SimpleFileOptions::default());
            written.and_then(|()| Ok(zip.write_all(bytes)?)).expect("memory takes everything");
        }
        zip.finish().expect("memory takes everything").into_inner()
    }
}

/// Unpacks a checkpoint, and verifies that it belongs to this job and matches its name.
///
/// # Errors
/// [`BundleError`]: then nothing of it may be used.
pub fn unpack(
    zip: &[u8],
    CheckpointSequence { attempt, lines }: CheckpointSequence,
    identity: &CheckpointIdentity,
    key: Option<&CheckpointKey>,
) -> Result<UnpackedCheckpoint, BundleError> {
    let damaged = |why: &dyn fmt::Display| BundleError::Damaged(why.to_string());
    let mut zip = ZipArchive::new(Cursor::new(zip)).map_err(|_| BundleError::Truncated)?;
    let mut room = MAX_CHECKPOINT_BYTES;
    let mut file = |name: &str| {
        let entry = zip.by_name(name).map_err(|error| damaged(&format!("{name}: {error}")))?;
        let mut bytes = Vec::new();
        let read =
            entry.take(room + 1).read_to_end(&mut bytes).map_err(|error| damaged(&format!("{name}: {error}")))?;
        room = room.checked_sub(read as u64).ok_or_else(|| damaged(&"it is too large"))?;
        Ok::<_, BundleError>(bytes)
    };
    let manifest = file(MANIFEST_FILE).and_then(|text| parse_manifest(&text));
    // With a key, a checkpoint without a valid MAC is unusable: omitting records is forging, too.
    let manifest = match (manifest, key) {
        (Ok(CheckpointManifest { mac: Some(_), .. }), None) => return Err(BundleError::KeyDropped),
        (Ok(CheckpointManifest { mac: None, .. }), Some(_)) => return Err(BundleError::KeyAdded),
        (Ok(manifest), None) => manifest,
        (Ok(manifest), Some(key)) if manifest.mac == Some(key.mac(&manifest)) => manifest,
        (Err(error), None) => return Err(error),
        (Ok(_) | Err(_), Some(_)) => return Err(BundleError::InvalidMac),
    };
    identity.ensure_matches(&manifest.identity)?;
    // Anybody can choose the name: an older checkpoint under a newer name would hide later lines.
    if manifest.attempt != attempt {
        return Err(BundleError::NameMismatch);
    }
    let base = match &manifest.snapshot {
        None => None,
        Some(entry) => {
            let content = file(BASE_SNAPSHOT_FILE)?;
            let is_stated = content.len() as u64 == entry.bytes && Blake3Hash::of(&content) == entry.hash;
            let state =
                Snapshot::decode_original(&content).map_err(|error| damaged(&format!("its snapshot: {error}")))?.state;
            let is_before_all = manifest.journals.iter().all(|journal| journal.epoch > entry.epoch);
            if !is_stated || state.epoch() != entry.epoch || !(1..=MAX_EPOCH).contains(&entry.epoch) || !is_before_all {
                return Err(damaged(&"the snapshot does not match the manifest"));
            }
            Some(state)
        }
    };
    let trust = if key.is_some() { JournalTrust::Authenticated } else { JournalTrust::Untrusted };
    let mut counted = 0;
    let mut journals: Vec<CheckpointJournal> = Vec::new();
    for CheckpointEntry { epoch, bytes, hash, is_authenticated: believed } in manifest.journals {
        let content = file(&journal_name(epoch))?;
        if content.len() as u64 != bytes || Blake3Hash::of(&content) != hash {
            return Err(damaged(&format!("the journal of epoch {epoch} does not match the manifest")));
        }
        if epoch > MAX_EPOCH
            || content.last() != Some(&b'\n')
            || journals.last().is_some_and(|last| last.epoch >= epoch)
        {
            return Err(damaged(&format!("the journal of epoch {epoch} is truncated or out of order")));
        }
        let trust = if believed { trust } else { JournalTrust::Untrusted };
        counted += content.iter().filter(|byte| **byte == b'\n').count() as u64;
        journals.push(CheckpointJournal { epoch, bytes: content, trust });
    }
    if counted == lines { Ok(UnpackedCheckpoint { base, trust, journals }) } else { Err(BundleError::NameMismatch) }
}

fn parse_manifest(text: &[u8]) -> Result<CheckpointManifest, BundleError> {
    let damaged = |error: serde_json::Error| BundleError::Damaged(error.to_string());
    let stated: serde_json::Value = serde_json::from_slice(text).map_err(damaged)?;
    match stated["version"].as_u64().and_then(|version| u32::try_from(version).ok()) {
        Some(OLDEST_BUNDLE_VERSION..=BUNDLE_VERSION) => serde_json::from_value(stated).map_err(damaged),
        Some(version) => Err(BundleError::UnknownVersion(version)),
        None => Err(BundleError::Damaged("its manifest has no version".to_owned())),
    }
}

#[cfg(test)]
mod tests;
