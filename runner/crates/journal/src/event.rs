//! What a journal says: one [`JournalEntry`] a line, each with one [`JournalEvent`]. Reports read nothing else.
//!
//! A form that was once written stays readable: [`FORMAT`] tells what changed when. Deliberately absent: what follows
//! from events ([`super::state`]) and how lines become bytes ([`super::line`]).

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::FindingSummary;
use contract::hash::Blake3Hash;
use contract::step::{ProbeFinding, Receipt, StepFailure, StepOutcome, StepPhase, StepProgress};
use contract::{
    AppName, AttemptNumber, Digest, EnvironmentName, Label, RunId, StepId, TargetName, diagnostic::ExitKind,
};

/// The format that this runner writes.
///
/// - 1.0: the first.
/// - 1.1: `commit` in the header; `rollback`, `promote` and `setup` among the overrides, of which the first changes what a later
///   rollback goes back to.
/// - 1.2: `url` in the header; `missing-journal` among the overrides; the reason `unconfirmed`; an intent may follow an undo that an earlier attempt left unfinished.
pub const FORMAT: JournalFormat = JournalFormat { major: 1, minor: 2 };

/// The magic word of a header.
pub const MAGIC: &str = "pawl-journal";

/// The command `rollback`, as an [`JournalEvent::Override`].
pub const ROLLBACK: &str = "rollback";

/// As an [`JournalEvent::Override`]: the journals of the attempts before were missing, and each step counts as begun.
pub const MISSING_JOURNAL: &str = "missing-journal";

/// The overrides that are commands, and no options of one.
pub const COMMAND_OVERRIDES: &[&str] = &[ROLLBACK, "promote", "setup"];

/// A version of the journal's format. Unknown major: refused. Newer minor: read only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JournalFormat {
    /// Changes when an old reader would misunderstand.
    pub major: u16,
    /// Changes when something was added that an old reader may pass over.
    pub minor: u16,
}

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Its place in the attempt, from 0.
    pub seq: u64,
    /// The hash of the line before; in the first line, of the last line of the attempt before, if there is one.
    pub prev: Option<Blake3Hash>,
    /// When it was written, by this machine's clock. For people: nothing is decided by it.
    pub at: Timestamp,
    /// What happened.
    pub event: JournalEvent,
}

/// A step on a target: what records are keyed by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepTarget {
    /// The step.
    pub step: StepId,
    /// Where it ran.
    pub target: TargetName,
}

impl fmt::Display for StepTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.target == TargetName::local() {
            write!(f, "`{}`", self.step)
        } else {
            write!(f, "`{}` on {}", self.step, self.target)
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum JournalEvent {
    /// The header: the first line of every journal.
    Started(JournalHeader),
    /// The plan of this attempt.
    Plan {
        /// The hash of its text.
        digest: Blake3Hash,
        /// Its path, as the user named it.
        path: String,
        /// Its steps, in order.
        steps: Vec<PlanStepRecord>,
    },
    /// The lock was taken.
    Lock {
        /// What is locked.
        resource: String,
        /// Who holds it.
        holder: String,
    },
    /// The journal before ended in a torn line, which was dropped.
    Torn {
        /// The name of that journal's file.
        file: String,
        /// How many bytes were dropped.
        bytes: u64,
    },
    /// What was decided about a step, and why.
    Decision {
        #[serde(flatten)]
        step_target: StepTarget,
        decision: Decision,
    },
    /// A step is about to act.
    Intent {
        #[serde(flatten)]
        step_target: StepTarget,
        /// The same (run, step, target, fingerprint) has the same key.
        key: String,
        /// What the step depends on.
        fingerprint: Fingerprint,
        /// The whole input of the call.
        input: Value,
        /// Whether it shows the release to users: the point of no return.
        exposes: bool,
    },
    /// A message or progress of a running step. Not synced on its own.
    Progress {
        #[serde(flatten)]
        step_target: StepTarget,
        #[serde(flatten)]
        progress: StepProgress,
    },
    /// How a step's action ended.
    Outcome {
        #[serde(flatten)]
        step_target: StepTarget,
        /// Wall time of the call in milliseconds.
        took_ms: u64,
        #[serde(flatten)]
        outcome: StepOutcome,
    },
    /// What a probe found.
    Probe {
        #[serde(flatten)]
        step_target: StepTarget,
        /// Which input was asked about.
        #[serde(rename = "question")]
        probed_input: ProbeInput,
        /// Wall time of the call in milliseconds.
        took_ms: u64,
        finding: ProbeFinding,
    },
    /// A step is about to be undone.
    UndoIntent {
        #[serde(flatten)]
        step_target: StepTarget,
    },
    /// How undoing a step ended.
    UndoOutcome {
        #[serde(flatten)]
        step_target: StepTarget,
        /// Nothing when it is undone.
        failure: Option<StepFailure>,
    },
    /// An operator's word, by an option of the command line.
    Override {
        /// The option, without its dashes: `start-from`, `until`, `only`, `fresh`, `accept-drift`.
        option: String,
        /// The step it names.
        step: Option<StepId>,
    },
    /// The attempt ended by itself.
    Ended {
        exit: ExitKind,
        /// Whether the release is now live and every check held.
        verified: bool,
    },
    /// An event of a newer minor version; passed over.
    #[serde(other)]
    Unrecognized,
}

/// The first line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JournalHeader {
    /// [`MAGIC`].
    pub magic: String,
    /// The format of the whole file.
    pub format: JournalFormat,
    /// The application.
    pub app: AppName,
    /// The environment.
    pub environment: EnvironmentName,
    /// The run that this attempt works on.
    pub run: RunId,
    /// The how-manieth attempt of it.
    pub attempt: AttemptNumber,
    /// The number of this attempt among all of (app, environment); it only grows.
    pub epoch: u64,
    /// What is deployed.
    pub release: Release,
    /// Version of the runner.
    pub runner: String,
    /// Who runs it, and where: `user@host`.
    pub by: String,
    /// The commit that it was run for, if a CI or git told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The page of the CI run, if it was one: all attempts of that have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Immutable content with a digest, and the label people say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// What people call it.
    pub label: Label,
    /// The digest of its content; none when no step of the plan pulls anything.
    pub digest: Option<Digest>,
}

impl Release {
    /// Whether both are the same content; by label only where no digest is known.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.digest, &other.digest) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, None) => self.label == other.label,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// A step as the plan has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStepRecord {
    #[serde(flatten)]
    pub step_target: StepTarget,
    /// The module, as written in the plan.
    pub uses: String,
    /// When it acts.
    pub phase: StepPhase,
}

/// What a step depends on, each component with its hash, so that [`Fingerprint::difference`] can name what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub BTreeMap<String, Blake3Hash>);

impl Fingerprint {
    /// The names of the components that differ, in order.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        names.into_iter().filter(|name| self.0.get(*name) != other.0.get(*name)).cloned().collect()
    }

    /// One hash over all components.
    #[must_use]
    pub fn digest(&self) -> Blake3Hash {
        let lines: String = self.0.iter().map(|(name, hash)| format!("{name} {hash}\n")).collect();
        Blake3Hash::of(lines.as_bytes())
    }
}

/// Which input a probe was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeInput {
    /// That of this attempt.
    Current,
    /// That of the intent on record.
    Recorded,
}

/// What is done about a step, with the reason in words that `why` repeats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Decision {
    /// Its effect holds.
    Skip {
        reason: DecisionReason,
        /// What later steps see.
        receipt: Receipt,
    },
    /// An intent without outcome turned out to be done; then it is decided again.
    Adopt { reason: DecisionReason, receipt: Receipt },
    /// It acts.
    Run { reason: DecisionReason },
    /// An operator must say.
    Stop { reason: DecisionReason },
}

/// Why something was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "because", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum DecisionReason {
    /// There is no record of it.
    NeverRan,
    /// It was undone.
    Reverted,
    /// It failed cleanly the last time.
    FailedBefore,
    /// What it depends on changed; the components that differ.
    Changed { components: Vec<String> },
    /// The probe found its effect.
    Held,
    /// The probe did not find its effect.
    Absent,
    /// The probe found something else.
    Drifted { why: String },
    /// The operator accepts what drifted.
    DriftAccepted { why: String },
    /// The probe can't tell.
    Unknown { why: String },
    /// It has no probe; within the run its record is trusted.
    Trusted,
    /// It has no probe, and the record is of another run.
    NoProbe,
    /// It was begun and has no outcome; what the probe said of it, if it has one.
    Interrupted { finding: Option<FindingSummary> },
    /// Its record is only suggested, or missing; what the probe said of it now, if it has one.
    Unconfirmed { finding: Option<FindingSummary> },
    /// A check: something before it ran.
    UpstreamRan,
    /// A check: its live round did not hold.
    CheckFailed { why: String },
    /// `--fresh`: records are ignored.
    Fresh,
    /// `--start-from`: the operator's word.
    #[serde(rename = "operator-word")]
    RequestedByOperator,
    /// Not selected by `--only`, `--until`.
    NotSelected,
    /// The probe itself failed.
    ProbeFailed { message: String },
    /// It stands after a step that exposes the release and was undone.
    UndoUnfinished,
}
