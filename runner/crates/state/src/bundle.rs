//! A checkpoint in the artifacts of a CI run: a zip of all journals and a manifest with their identity.
//!
//! ```text
//!   pawl.json                  the manifest: identity, attempt, length and hash of each journal, MAC
//!   attempt-000001.journal     as it is here, whole lines only
//! ```
//!
//! Its name shows which one is the newest: `pawl-<app>-<environment>-<job>-aNN-sNNNN-<nonce>`, with the attempt of the
//! workflow run and the number of lines. The lines of a journal are chained by hashes, so the MAC of the manifest
//! covers each of them. Deliberately absent: upload and download, and the content of journals.

use std::{
    fmt,
    io::{Cursor, Read as _, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::{StateError, epoch_of, journal_name, journals_in};
use contract::{
    Secret,
    hash::{Blake3Hash, canonical_json},
};
use hostio::atomic_file::StagedFile;
use journal::{JournalTrust, trust_from_file_name};

/// The version of [`CheckpointManifest`].
///
/// - 1: the first.
pub const BUNDLE_VERSION: u32 = 1;

/// The manifest's file name in the zip.
const MANIFEST_FILE: &str = "pawl.json";

/// The largest total size of the journals in a checkpoint.
const MAX_CHECKPOINT_BYTES: u64 = 256 << 20;

/// The largest number in a name that is taken seriously.
const MAX_EPOCH: u64 = 1 << 40;

/// The context from which MAC keys are derived.
const MAC_KEY_CONTEXT: &str = "pawl 2026-11 checkpoint of journals";

/// The identity of a checkpoint. A job continues only its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointIdentity {
    /// `owner/name`.
    pub repository: String,
    /// The id of the workflow run, the same for all its attempts.
    pub workflow_run: String,
    /// The job, including the leg of its matrix.
    pub job: String,
    /// The application.
    pub app: String,
    /// The environment.
    pub environment: String,
    /// The path of the plan in the repository.
    pub plan: String,
}

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
    /// The journals, oldest first.
    pub journals: Vec<CheckpointEntry>,
    /// The keyed BLAKE3 hash of the manifest without this field, in canonical form. `None` without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Blake3Hash>,
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

/// All journals of a folder at one moment.
#[derive(Clone)]
pub struct JournalSnapshot {
    journals: Vec<(CheckpointEntry, Vec<u8>)>,
    /// The total number of lines, which only grows.
    pub lines: u64,
}

/// A journal from a checkpoint.
#[derive(Debug)]
pub struct CheckpointJournal {
    pub epoch: u64,
    pub bytes: Vec<u8>,
    pub trust: JournalTrust,
}

/// How the local journals compare to those of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainComparison {
    /// The checkpoint has all local lines.
    Covered,
    /// The local journals have all lines of the checkpoint, and more.
    Ahead,
    /// The checkpoint has lines that are missing here.
    Diverged,
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
    #[error("its format version is {0}; this runner supports version {BUNDLE_VERSION}")]
    UnknownVersion(u32),
    /// It belongs to something else.
    #[error("it belongs to another {what}: {theirs}, not {ours}")]
    WrongIdentity { what: &'static str, theirs: String, ours: String },
    /// Its name does not match its content.
    #[error("its name does not match its content")]
    NameMismatch,
    /// Its MAC is missing or not valid for this key.
    #[error("it has no valid MAC for this key")]
    InvalidMac,
}

impl BundleError {
    /// The error of the state whose artifact `name` this checkpoint is in.
    pub(super) fn in_artifact(&self, name: &str) -> StateError {
        let (name, why) = (name.to_owned(), self.to_string());
        match self {
            Self::NameMismatch | Self::InvalidMac => StateError::UnauthenticatedCheckpoint { name, why },
            Self::Truncated | Self::Damaged(_) | Self::UnknownVersion(_) | Self::WrongIdentity { .. } => {
                StateError::InvalidCheckpoint { name, why }
            }
        }
    }
}

/// The key for MACs.
#[derive(Clone)]
pub struct CheckpointKey([u8; 32]);

impl CheckpointKey {
    /// Derives the key from a user's secret of any length.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        Self(blake3::derive_key(MAC_KEY_CONTEXT, secret.reveal().as_bytes()))
    }

    fn mac(&self, manifest: &CheckpointManifest) -> Blake3Hash {
        let bare = CheckpointManifest { mac: None, ..manifest.clone() };
        let value = serde_json::to_value(bare).expect("a manifest has only text keys");
        Blake3Hash::keyed(&self.0, canonical_json(&value).to_string().as_bytes())
    }
}

impl fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl CheckpointIdentity {
    /// The prefix of this job's checkpoint names, up to the attempt.
    #[must_use]
    pub fn artifact_prefix(&self) -> String {
        format!("pawl-{}-{}-{}-a", self.app, self.environment, self.job)
    }

    /// The name of a checkpoint without the nonce.
    #[must_use]
    pub fn artifact_stem(&self, attempt: u32, lines: u64) -> String {
        format!("{}{attempt:02}-s{lines:04}", self.artifact_prefix())
    }

    /// The attempt and the number of lines in a name; `None` if it is not a checkpoint of this job.
    #[must_use]
    pub fn parse_artifact_name(&self, name: &str) -> Option<(u32, u64)> {
        let (attempt, rest) = name.strip_prefix(&self.artifact_prefix())?.split_once("-s")?;
        let (lines, nonce) = rest.split_once('-')?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_nonce = !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_number(attempt) || !is_number(lines) || !is_nonce {
            return None;
        }
        Some((attempt.parse().ok()?, lines.parse().ok()?))
    }

    fn ensure_matches(&self, theirs: &Self) -> Result<(), BundleError> {
        let Self { repository, workflow_run, job, app, environment, plan } = self;
        let all = [
            ("repository", repository, &theirs.repository),
            ("workflow run", workflow_run, &theirs.workflow_run),
            ("job", job, &theirs.job),
            ("application", app, &theirs.app),
            ("environment", environment, &theirs.environment),
            ("plan", plan, &theirs.plan),
        ];
        match all.into_iter().find(|(_, ours, theirs)| ours != theirs) {
            None => Ok(()),
            Some((what, ours, theirs)) => {
                let theirs = theirs.chars().take(100).collect();
                Err(BundleError::WrongIdentity { what, theirs, ours: ours.clone() })
            }
        }
    }
}

impl JournalSnapshot {
    /// Reads all journals of a folder, up to their last whole line.
    ///
    /// # Errors
    /// [`StateError`] when one can't be read.
    pub fn read(folder: &Path) -> Result<Self, StateError> {
        let (mut members, mut lines, mut room) = (Vec::new(), 0, MAX_CHECKPOINT_BYTES);
        for (epoch, path) in journals_in(folder)? {
            let mut bytes = std::fs::read(&path).map_err(|source| StateError::io("read", &path, source))?;
            bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
            if bytes.is_empty() {
                continue;
            }
            room = room.checked_sub(bytes.len() as u64).ok_or_else(|| StateError::NotUploaded {
                why: format!("the journals in {} are larger than {} MiB", folder.display(), MAX_CHECKPOINT_BYTES >> 20),
            })?;
            lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            let believed = trust_from_file_name(&path) == JournalTrust::Authenticated;
            let member = CheckpointEntry {
                epoch,
                bytes: bytes.len() as u64,
                hash: Blake3Hash::of(&bytes),
                is_authenticated: believed,
            };
            members.push((member, bytes));
        }
        Ok(Self { journals: members, lines })
    }

    /// Compares it to the journals of a checkpoint.
    #[must_use]
    pub fn compare_with(&self, checkpoint: &[CheckpointJournal]) -> ChainComparison {
        let there =
            |epoch: u64| checkpoint.iter().find(|one| one.epoch == epoch).map_or(&[][..], |one| one.bytes.as_slice());
        let here = |epoch: u64| {
            let known = self.journals.iter().find(|(member, _)| member.epoch == epoch);
            known.map_or(&[][..], |(_, bytes)| bytes.as_slice())
        };
        if self.journals.iter().all(|(member, bytes)| there(member.epoch).starts_with(bytes)) {
            ChainComparison::Covered
        } else if checkpoint.iter().all(|one| here(one.epoch).starts_with(&one.bytes)) {
            ChainComparison::Ahead
        } else {
            ChainComparison::Diverged
        }
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
        let journals = self.journals.iter().map(|(member, _)| member.clone()).collect();
        let mut manifest = CheckpointManifest {
            version: BUNDLE_VERSION,
            identity: identity.clone(),
            attempt,
            commit,
            journals,
            mac: None,
        };
        manifest.mac = key.map(|key| key.mac(&manifest));
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest has only text keys");
        let files = self.journals.iter().map(|(member, bytes)| (journal_name(member.epoch), bytes.as_slice()));
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in std::iter::once((MANIFEST_FILE.to_owned(), text.as_slice())).chain(files) {
            let written = zip.start_file(name, SimpleFileOptions::default());
            written.and_then(|()| Ok(zip.write_all(bytes)?)).expect("memory takes everything");
        }
        zip.finish().expect("memory takes everything").into_inner()
    }
}

/// Unpacks the journals of a checkpoint, and verifies that it belongs to this job and matches its name.
///
/// # Errors
/// [`BundleError`]: then nothing of it may be used.
pub fn unpack(
    zip: &[u8],
    (attempt, lines): (u32, u64),
    identity: &CheckpointIdentity,
    key: Option<&CheckpointKey>,
) -> Result<Vec<CheckpointJournal>, BundleError> {
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
        let trust = if key.is_some() && believed { JournalTrust::Authenticated } else { JournalTrust::Untrusted };
        counted += content.iter().filter(|byte| **byte == b'\n').count() as u64;
        journals.push(CheckpointJournal { epoch, bytes: content, trust });
    }
    if counted == lines { Ok(journals) } else { Err(BundleError::NameMismatch) }
}

fn parse_manifest(text: &[u8]) -> Result<CheckpointManifest, BundleError> {
    let damaged = |error: serde_json::Error| BundleError::Damaged(error.to_string());
    let stated: serde_json::Value = serde_json::from_slice(text).map_err(damaged)?;
    match stated["version"].as_u64().and_then(|version| u32::try_from(version).ok()) {
        Some(BUNDLE_VERSION) => serde_json::from_value(stated).map_err(damaged),
        Some(version) => Err(BundleError::UnknownVersion(version)),
        None => Err(BundleError::Damaged("its manifest has no version".to_owned())),
    }
}

/// Whether one checkpoint contains all lines of another.
#[must_use]
pub fn contains_all(newer: &[CheckpointJournal], older: &[CheckpointJournal]) -> bool {
    let there = |epoch: u64| newer.iter().find(|one| one.epoch == epoch);
    older.iter().all(|one| there(one.epoch).is_some_and(|new| new.bytes.starts_with(&one.bytes)))
}

/// A downloaded journal that is not part of the folder yet.
struct StagedJournal {
    staged: StagedFile,
    final_path: PathBuf,
    replaced_path: Option<PathBuf>,
}

/// Merges journals into a folder. Of two with the same beginning, the longer wins. All are read together before any is
/// moved into place, so a journal that can't be continued changes nothing.
///
/// # Errors
/// [`StateError`] when two have diverged, or when they can't be read together or written.
pub fn merge_into_folder(folder: &Path, journals: &[CheckpointJournal], location: &str) -> Result<(), StateError> {
    std::fs::create_dir_all(folder).map_err(|source| StateError::io("create", folder, source))?;
    let here = journals_in(folder)?;
    let mut new: Vec<StagedJournal> = Vec::new();
    for CheckpointJournal { epoch, bytes, trust } in journals {
        let known = here.iter().find(|(known, _)| known == epoch).map(|(_, path)| path.clone());
        if let Some(path) = &known {
            let ours = std::fs::read(path).map_err(|source| StateError::io("read", path, source))?;
            let (known, is_same) = (journal::trust_from_file_name(path), ours == *bytes);
            if ours.starts_with(bytes)
                && !(is_same && known == JournalTrust::Untrusted && *trust == JournalTrust::Authenticated)
            {
                continue;
            }
            // Only a process of this machine continues a journal that this machine wrote.
            if known == JournalTrust::Authenticated && *trust == JournalTrust::Untrusted && bytes.starts_with(&ours) {
                continue;
            }
            let whole = &ours[..ours.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1)];
            if !bytes.starts_with(whole) {
                let why = "the copy on this machine differs from it";
                return Err(StateError::Diverged { path: path.clone(), location: location.to_owned(), why });
            }
        }
        let to = folder.join(match trust {
            JournalTrust::Authenticated => journal_name(*epoch),
            JournalTrust::Untrusted => super::suggested_name(*epoch),
        });
        let staged = StagedFile::write(&to, bytes).map_err(|source| StateError::io("write", &to, source))?;
        new.push(StagedJournal { replaced_path: known.filter(|known| *known != to), staged, final_path: to });
    }
    ensure_readable_together(folder, &here, &new, location)?;
    new.into_iter().try_for_each(StagedJournal::move_into_place)
}

/// Whether the local and the new journals can be read as one history.
fn ensure_readable_together(
    folder: &Path,
    here: &[(u64, PathBuf)],
    new: &[StagedJournal],
    location: &str,
) -> Result<(), StateError> {
    let mut all: Vec<(u64, PathBuf)> =
        new.iter().filter_map(|one| Some((epoch_of(&one.final_path)?, one.staged.staged_path(folder)))).collect();
    let is_new = |epoch: u64| new.iter().any(|staged| epoch_of(&staged.final_path) == Some(epoch));
    all.extend(here.iter().filter(|(epoch, _)| !is_new(*epoch)).cloned());
    all.sort();
    let paths: Vec<PathBuf> = all.into_iter().map(|(_, path)| path).collect();
    match journal::LoadedJournals::read(&paths, |_| ()) {
        Ok(loaded) if loaded.newer_format_file.is_some() => {
            let why = "a newer runner wrote it".to_owned();
            Err(BundleError::Damaged(why).in_artifact(location))
        }
        Ok(_) => Ok(()),
        Err(error) => {
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Err(BundleError::Damaged(why).in_artifact(location))
        }
    }
}

impl StagedJournal {
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

#[cfg(test)]
mod tests;
