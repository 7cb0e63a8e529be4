//! The last record of a step on a target: what its newest intent and outcome say.
//!
//! Deliberately absent: which event changes a record ([`super::JournalState`]).

use contract::{
    AttemptNumber, MachineId, RunId,
    step::{Receipt, StepFailure},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::JournalTrust;
use crate::{
    event::{Fingerprint, Release, Resolution},
    redact::MASK,
};

/// The last record of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StepRecord {
    /// The status.
    pub status: RecordStatus,
    /// Whether the last event about it is authentic, and it holds no mask of an older runner.
    pub trust: JournalTrust,
    /// The intent that the record belongs to.
    pub intent: IntentRecord,
    /// The release that was live before this step exposed its own; undoing the step restores it.
    pub live_before: Option<Release>,
    /// Who says so.
    #[serde(default)]
    pub origin: RecordOrigin,
}

/// Who says what a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordOrigin {
    /// An attempt on this machine; none by a runner before format 1.5.
    Machine(Option<MachineId>),
    /// An operator, in the attempt with this epoch.
    Operator {
        /// The number of the attempt among all attempts.
        epoch: u64,
    },
}

impl Default for RecordOrigin {
    fn default() -> Self {
        Self::Machine(None)
    }
}

impl StepRecord {
    /// The epoch of the attempt that said last that the step is done.
    #[must_use]
    pub fn confirmed_epoch(&self) -> u64 {
        match self.origin {
            RecordOrigin::Machine(_) => self.intent.epoch,
            RecordOrigin::Operator { epoch } => epoch,
        }
    }

    /// Whether an operator said after the step that it is done.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        matches!(self.origin, RecordOrigin::Operator { .. })
    }

    /// Whether its input or its receipt holds `***`, which runners before format 1.3 wrote in place of a secret.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        let receipt = match &self.status {
            RecordStatus::Succeeded(receipt) | RecordStatus::Undoing(Some(receipt)) => Some(receipt),
            RecordStatus::Intended | RecordStatus::Failed(_) | RecordStatus::Undoing(None) | RecordStatus::Reverted => {
                None
            }
        };
        let in_map = |map: &serde_json::Map<String, Value>| {
            map.iter().any(|(key, value)| key.contains(MASK) || contains_mask(value))
        };
        contains_mask(&self.intent.input)
            || receipt.is_some_and(|receipt| in_map(&receipt.outputs) || in_map(&receipt.notes))
    }
}

fn contains_mask(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(MASK),
        Value::Array(items) => items.iter().any(contains_mask),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains(MASK) || contains_mask(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The content of an intent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IntentRecord {
    /// The run that it belongs to.
    pub run: RunId,
    /// The attempt of that run.
    pub attempt: AttemptNumber,
    /// The number of the attempt among all attempts.
    pub epoch: u64,
    /// The time of the attempt's first line.
    pub attempt_started_at: jiff::Timestamp,
    /// The release that was deployed.
    pub release: Release,
    /// The idempotency key.
    pub key: String,
    /// The fingerprint of the step at that time.
    pub fingerprint: Fingerprint,
    /// The complete input.
    pub input: Value,
    /// Whether it shows the release to users.
    pub exposes: bool,
}

/// The status of a step's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordStatus {
    /// Begun, with an unknown outcome: killed, trapped or timed out.
    Intended,
    /// Done.
    Succeeded(Receipt),
    /// Failed cleanly.
    Failed(StepFailure),
    /// Undoing was begun and did not succeed. The receipt, if there is one, describes the effect to undo.
    Undoing(Option<Receipt>),
    /// Undone.
    Reverted,
}

impl RecordStatus {
    /// Whether an operator may say this of a step with this status.
    #[must_use]
    pub fn can_be_resolved_as(&self, resolution: &Resolution) -> bool {
        match resolution {
            Resolution::Done { .. } => matches!(self, Self::Intended | Self::Undoing(_)),
            Resolution::Undone => matches!(self, Self::Intended | Self::Undoing(_) | Self::Succeeded(_)),
            Resolution::NotBegun => matches!(self, Self::Intended),
            Resolution::Confirmed => matches!(self, Self::Succeeded(_)),
        }
    }
}
