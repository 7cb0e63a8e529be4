//! A snapshot: the folded state after an attempt, so that the journals before it need not be read again.
//!
//! Invariant: `fold(snapshot(prefix), rest) = fold(all)`, for every prefix. A snapshot is one line, `<BLAKE3 of the JSON, 64 hex
//! digits> <JSON>\n`; any damage shows in the hash, and the state is then folded from the journals. Deliberately absent: files
//! (the `state` crate), and an authenticated origin: a snapshot is as trustworthy as the folder that it lies in.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    event::{FORMAT, JournalFormat, Release, StepTarget},
    state::{AttemptSummary, EnvironmentHead, FirstAttempt, IntentRecord, JournalState, JournalTrust, StepRecord},
    step_status::AttemptStatusParts,
};
use contract::hash::Blake3Hash;

/// The version of the form.
///
/// It covers the lines of the index too, of which most are copied without being read.
///
/// - 1: the first. Since journal format 1.5 with what is verified and repeated; a snapshot without that counts as one where there is none.
pub const SNAPSHOT_VERSION: u32 = 1;

/// The folded state after an attempt, and the index that was written with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The state.
    pub state: JournalState,
    /// The hash of the index of attempts at that time.
    pub index: Blake3Hash,
}

/// What the next snapshot needs of this one: reading it decodes neither state nor attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct SnapshotHeader {
    version: u32,
    format: JournalFormat,
    /// The epoch of the newest attempt in it.
    pub epoch: u64,
    /// The hash of the index of attempts at that time.
    pub index: Blake3Hash,
}

/// The reason why bytes are not a snapshot that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It is not one line with a hash.
    #[error("it is not a line of the form `<hash> <json>`")]
    Malformed,
    /// The content does not have the stated hash.
    #[error("its content does not have the hash that it states")]
    Damaged,
    /// Another runner wrote it, or its content can't be read.
    #[error("this runner can't read it: {0}")]
    Unsupported(String),
}

/// The form on disk.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SnapshotForm {
    version: u32,
    /// The journal format that the writer knew: a newer one may have folded events that this runner ignores.
    format: JournalFormat,
    epoch: u64,
    line_count: u64,
    last_line_hash: Option<Blake3Hash>,
    index: Blake3Hash,
    head: EnvironmentHead,
    first_attempt: Option<FirstAttempt>,
    attempts: Vec<AttemptSummary>,
    commits: Vec<(Release, String)>,
    records: Vec<(StepTarget, StepRecord)>,
    in_progress: BTreeSet<StepTarget>,
    lost_records: BTreeSet<StepTarget>,
    /// Whether the newest attempt has reached an exposing step.
    #[serde(default)]
    reached_exposure: bool,
    /// What the run recorded that ended verified last.
    #[serde(default)]
    verified_intents: Vec<(StepTarget, IntentRecord)>,
    #[serde(flatten)]
    statuses: AttemptStatusParts,
}

impl Snapshot {
    /// Encodes the snapshot; `None` for a state that contains a newer format's events, since this runner ignored some.
    #[must_use]
    pub fn encode(self) -> Option<Vec<u8>> {
        let epoch = self.state.epoch();
        let JournalState {
            trust: _,
            records,
            first_attempt,
            attempts,
            head,
            in_progress,
            lost_records,
            statuses,
            reached_exposure,
            verified_intents,
            commits,
            last_line_hash,
            line_count,
            newer_format,
        } = self.state;
        if newer_format.is_some() {
            return None;
        }
        let form = SnapshotForm {
            version: SNAPSHOT_VERSION,
            format: FORMAT,
            epoch,
            line_count,
            last_line_hash,
            index: self.index,
            head,
            first_attempt,
            attempts,
            commits,
            records: records.into_iter().collect(),
            in_progress,
            lost_records,
            reached_exposure,
            verified_intents: verified_intents.into_iter().collect(),
            statuses: statuses.into(),
        };
        let json = serde_json::to_vec(&form).expect("a snapshot has only text keys and finite numbers");
        let mut bytes = format!("{} ", Blake3Hash::of(&json)).into_bytes();
        bytes.extend_from_slice(&json);
        bytes.push(b'\n');
        Some(bytes)
    }

    /// Decodes a snapshot whose journals are here: one of another journal format is made again from them.
    ///
    /// # Errors
    /// [`SnapshotError`]: then the state is folded from the journals.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        Self::decode_form(bytes, |format| format == FORMAT)
    }

    /// Decodes a snapshot that can't be made again, such as the one before the journals of an archive: also one of an older runner,
    /// which knew all events of its journals.
    ///
    /// # Errors
    /// [`SnapshotError`]: then the journals after it can't be read.
    pub fn decode_original(bytes: &[u8]) -> Result<Self, SnapshotError> {
        Self::decode_form(bytes, |format| format.major == FORMAT.major && format <= FORMAT)
    }

    fn decode_form(bytes: &[u8], is_readable: impl Fn(JournalFormat) -> bool) -> Result<Self, SnapshotError> {
        let form: SnapshotForm = parse_verified(bytes)?;
        check_version(form.version, form.format, is_readable)?;
        let state = JournalState {
            trust: JournalTrust::default(),
            records: form.records.into_iter().collect(),
            first_attempt: form.first_attempt,
            attempts: form.attempts,
            head: form.head,
            in_progress: form.in_progress,
            lost_records: form.lost_records,
            statuses: form.statuses.into(),
            reached_exposure: form.reached_exposure,
            verified_intents: form.verified_intents.into_iter().collect(),
            commits: form.commits,
            last_line_hash: form.last_line_hash,
            line_count: form.line_count,
            newer_format: None,
        };
        if state.epoch() != form.epoch {
            return Err(SnapshotError::Unsupported("its epoch is not that of its newest attempt".to_owned()));
        }
        Ok(Self { state, index: form.index })
    }
}

impl SnapshotHeader {
    /// Reads the header of a snapshot whose journals are here. All of it is verified, as by [`Snapshot::decode`].
    ///
    /// # Errors
    /// [`SnapshotError`]: then there is no snapshot to continue.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let header: Self = parse_verified(bytes)?;
        check_version(header.version, header.format, |format| format == FORMAT)?;
        Ok(header)
    }
}

/// Parses the JSON of a line, if it has the hash that the line states.
fn parse_verified<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, SnapshotError> {
    let line = bytes.strip_suffix(b"\n").ok_or(SnapshotError::Malformed)?;
    let (hash, json) = line.split_at_checked(65).ok_or(SnapshotError::Malformed)?;
    if hash != format!("{} ", Blake3Hash::of(json)).as_bytes() {
        return Err(SnapshotError::Damaged);
    }
    serde_json::from_slice(json).map_err(|error| SnapshotError::Unsupported(error.to_string()))
}

fn check_version(
    version: u32,
    format: JournalFormat,
    is_readable: impl Fn(JournalFormat) -> bool,
) -> Result<(), SnapshotError> {
    if version == SNAPSHOT_VERSION && is_readable(format) {
        return Ok(());
    }
    let JournalFormat { major, minor } = format;
    Err(SnapshotError::Unsupported(format!("it has version {version} and journal format {major}.{minor}")))
}
