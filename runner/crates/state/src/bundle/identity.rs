//! Whose checkpoint it is, by its name and its content, and the key that authenticates it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{BundleError, CheckpointManifest};
use contract::{
    Secret,
    hash::{Blake3Hash, canonical_json},
};

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

/// Which of two checkpoints of a job is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointSequence {
    /// The attempt of the workflow run.
    pub attempt: u32,
    /// The number of lines in the journals of the checkpoint.
    pub lines: u64,
}

impl fmt::Display for CheckpointSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{:02}-s{:04}", self.attempt, self.lines)
    }
}

/// A text is not a sequence such as `a02-s0017`.
#[derive(Debug)]
pub struct NotASequence;

impl FromStr for CheckpointSequence {
    type Err = NotASequence;
    fn from_str(text: &str) -> Result<Self, NotASequence> {
        let (attempt, lines) = text.strip_prefix('a').and_then(|rest| rest.split_once("-s")).ok_or(NotASequence)?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(attempt) || !is_number(lines) {
            return Err(NotASequence);
        }
        let attempt = attempt.parse().map_err(|_| NotASequence)?;
        Ok(Self { attempt, lines: lines.parse().map_err(|_| NotASequence)? })
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

    pub(super) fn mac(&self, manifest: &CheckpointManifest) -> Blake3Hash {
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
        let prefix = self.artifact_prefix();
        format!("{}{}", prefix.strip_suffix('a').unwrap_or(&prefix), CheckpointSequence { attempt, lines })
    }

    /// The sequence in a name; `None` if it is not a checkpoint of this job.
    #[must_use]
    pub fn parse_artifact_name(&self, name: &str) -> Option<CheckpointSequence> {
        let rest = name.strip_prefix(self.artifact_prefix().strip_suffix('a')?)?;
        let (sequence, nonce) = rest.rsplit_once('-')?;
        let is_nonce = !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric());
        sequence.parse().ok().filter(|_| is_nonce)
    }

    pub(super) fn ensure_matches(&self, theirs: &Self) -> Result<(), BundleError> {
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
