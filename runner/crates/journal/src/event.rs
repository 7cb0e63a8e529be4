//! The content of a journal: one [`JournalEntry`] per line, each with one [`JournalEvent`]. Reports read nothing else.
//!
//! A format that was once written stays readable: [`FORMAT`] lists the changes. Deliberately absent: the state that follows
//! from events ([`super::state`]) and the bytes of a line ([`super::line`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::FindingSummary;
pub use crate::output::{OutputLine, OutputStream, RecordedOutput};
use contract::hash::Blake3Hash;
use contract::step::{ProbeFinding, Receipt, StepFailure, StepOutcome, StepPhase, StepProgress};
use contract::{
    AppName, AttemptNumber, Digest, EnvironmentName, Label, MachineId, RunId, StepId, TargetName, diagnostic::ExitKind,
};

/// The format that this runner writes.
///
/// - 1.0: the first format.
/// - 1.1: `commit` in the header; `rollback`, `promote` and `setup` among the overrides. `rollback` changes the target of a later
///   rollback.
/// - 1.2: `url` in the header; `missing-journal` among the overrides; the reason `unconfirmed`; an intent may follow an undo that an earlier attempt left unfinished.
/// - 1.3: the events `resolved` and `record-lost`; control values (inputs, receipts, names) are never masked. Before, a secret in them was written as `***`.
/// - 1.4: the event `output`. Before, each line of a program was a message in `progress`.
/// - 1.5: `machine` in the header; `release` in an intent; the event `switched-back`; `rerun` and `import` among the overrides; the reasons `always`,
///   `stale`, `made-elsewhere` and `invalid-input`; `confirmed` in `resolved`.
/// - 1.6: targets besides `local`; `exposes` in the steps of `plan`; the reason `host-record`. Each target has its own live release.
/// - 1.7: `further` and `targets-of` in the steps of `plan`; the event `host-left-behind`; `limit` among the overrides, with `hosts`; the reasons `not-confirmed` and `rehearsal-failed`.
/// - 1.8: `file:` components in fingerprints, which decide nothing.
pub const FORMAT: JournalFormat = JournalFormat { major: 1, minor: 8 };

/// The first format whose control values are what the step got and returned.
pub const FIRST_EXACT_FORMAT: JournalFormat = JournalFormat { major: 1, minor: 3 };

/// The word that identifies a header.
pub const MAGIC: &str = "pawl-journal";

/// The command `rollback`, as an [`JournalEvent::Override`].
pub const ROLLBACK: &str = "rollback";

/// The command `import`, as an [`JournalEvent::Override`].
pub const IMPORT: &str = "import";

/// An [`JournalEvent::Override`]: the journals of the earlier attempts were missing, and each step counts as begun.
pub const MISSING_JOURNAL: &str = "missing-journal";

/// The overrides that are commands, not options.
pub const COMMAND_OVERRIDES: &[&str] = &[ROLLBACK, IMPORT, "promote", "setup"];

/// A version of the journal's format. An unknown major version is refused; a newer minor version is only read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JournalFormat {
    /// Changes if an old reader would misunderstand the file.
    pub major: u16,
    /// Changes if an old reader can ignore the addition.
    pub minor: u16,
}

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The number of the line in its attempt, from 0.
    pub seq: u64,
    /// The hash of the previous line; in the first line, of the last line of the previous attempt, if there is one.
    pub prev: Option<Blake3Hash>,
    /// The time of writing, by this machine's clock. It is for people; no decision depends on it.
    pub at: Timestamp,
    /// The event.
    pub event: JournalEvent,
}

/// A step on a target: the key of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepTarget {
    /// The step.
    pub step: StepId,
    /// The target that it ran on.
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

/// An event of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum JournalEvent {
    /// The header: the first line of every journal.
    Started(JournalHeader),
    /// The plan of this attempt.
    Plan {
        /// The hash of its text.
        digest: Blake3Hash,
        /// Its path, as the user gave it.
        path: String,
        /// Its steps, in order. One of many targets is written once.
        #[serde(with = "crate::plan_steps")]
        steps: Vec<PlanStepRecord>,
    },
    /// The lock was acquired.
    Lock {
        /// The locked app and environment.
        resource: String,
        /// The holder.
        holder: String,
    },
    /// The previous journal ended in a torn line, which was dropped.
    Torn {
        /// The file name of that journal.
        file: String,
        /// The number of dropped bytes.
        bytes: u64,
    },
    /// The decision about a step, with its reason.
    Decision {
        #[serde(flatten)]
        step_target: StepTarget,
        decision: Decision,
    },
    /// A step is about to act.
    Intent {
        #[serde(flatten)]
        step_target: StepTarget,
        /// The idempotency key: the same for the same (run, step, target, fingerprint).
        key: String,
        /// The hashes of everything that the step depends on.
        fingerprint: Fingerprint,
        /// The whole input of the call.
        input: Value,
        /// Whether it shows the release to users: the point of no return.
        exposes: bool,
        /// The release that it acts for, if that is not the attempt's: the one that a rollback switched back to. Since 1.5.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release: Option<Release>,
    },
    /// A message or progress of a running step. Not synced on its own.
    Progress {
        #[serde(flatten)]
        step_target: StepTarget,
        #[serde(flatten)]
        progress: StepProgress,
    },
    /// Lines that programs of a step wrote, recorded when its call ends: the first ones, then the last ones. Since 1.4.
    Output {
        #[serde(flatten)]
        step_target: StepTarget,
        #[serde(flatten)]
        output: RecordedOutput,
    },
    /// The outcome of a step's action.
    Outcome {
        #[serde(flatten)]
        step_target: StepTarget,
        /// Wall time of the call in milliseconds.
        took_ms: u64,
        #[serde(flatten)]
        outcome: StepOutcome,
    },
    /// The finding of a probe.
    Probe {
        #[serde(flatten)]
        step_target: StepTarget,
        /// The input that the probe was called with; `question` since format 1.0.
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
    /// The outcome of undoing a step.
    UndoOutcome {
        #[serde(flatten)]
        step_target: StepTarget,
        /// The failure; none if the step was undone.
        failure: Option<StepFailure>,
    },
    /// A rollback switched back to a release, repeated what depends on the switch, and checked it. Since 1.5.
    SwitchedBack {
        /// The release that is live now.
        release: Release,
        /// Why it is not verified: what was not repeated for it, or which check failed. None if every step was repeated and every
        /// check held.
        doubt: Option<String>,
    },
    /// An operator's override, by an option of the command line.
    Override {
        /// The option, without its dashes: `start-from`, `until`, `only`, `rerun`, `fresh`, `accept-drift`, `limit`.
        option: String,
        /// The step that it names.
        step: Option<StepId>,
        /// The hosts that it chooses, as written. Since 1.7.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hosts: Option<String>,
    },
    /// The attempt goes on without a host, as the plan's `max-failures` allows. Since 1.7.
    HostLeftBehind {
        /// The host.
        target: TargetName,
        /// What happened there.
        why: String,
    },
    /// An operator said how a step ended that the runner can't finish. Since 1.3.
    Resolved {
        #[serde(flatten)]
        step_target: StepTarget,
        #[serde(flatten)]
        resolution: Resolution,
        /// The operator: `user@host`.
        by: String,
        /// The operator's reason.
        message: String,
    },
    /// Entries about the step were lost with the lock of an earlier attempt: it may have acted since its record. Since 1.3.
    RecordLost {
        #[serde(flatten)]
        step_target: StepTarget,
    },
    /// The attempt ended by itself.
    Ended {
        exit: ExitKind,
        /// Whether the release is now live and every check passed.
        verified: bool,
    },
    /// An event of a newer minor version, which is ignored.
    #[serde(other)]
    Unrecognized,
}

impl JournalEvent {
    /// The step or hook that the event is about.
    #[must_use]
    pub fn step_target(&self) -> Option<&StepTarget> {
        match self {
            Self::Decision { step_target, .. }
            | Self::Intent { step_target, .. }
            | Self::Progress { step_target, .. }
            | Self::Output { step_target, .. }
            | Self::Outcome { step_target, .. }
            | Self::Probe { step_target, .. }
            | Self::UndoIntent { step_target }
            | Self::UndoOutcome { step_target, .. }
            | Self::Resolved { step_target, .. }
            | Self::RecordLost { step_target } => Some(step_target),
            Self::Started(_)
            | Self::Plan { .. }
            | Self::Lock { .. }
            | Self::Torn { .. }
            | Self::SwitchedBack { .. }
            | Self::Override { .. }
            | Self::HostLeftBehind { .. }
            | Self::Ended { .. }
            | Self::Unrecognized => None,
        }
    }
}

/// What an operator says about a step that the runner can't finish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "kebab-case")]
pub enum Resolution {
    /// Its effect is there, and stays.
    Done {
        /// What later steps see of it.
        receipt: Receipt,
    },
    /// Its effect is gone.
    Undone,
    /// It had no effect, so it counts as not begun.
    NotBegun,
    /// Its recorded success still holds, whatever happened since. Since 1.5.
    Confirmed,
}

/// The first line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JournalHeader {
    /// Always [`MAGIC`].
    pub magic: String,
    /// The format of the whole file.
    pub format: JournalFormat,
    /// The application.
    pub app: AppName,
    /// The environment.
    pub environment: EnvironmentName,
    /// The run that this attempt works on.
    pub run: RunId,
    /// The number of this attempt within the run.
    pub attempt: AttemptNumber,
    /// The number of this attempt among all of (app, environment). It only increases.
    pub epoch: u64,
    /// The release that is deployed.
    pub release: Release,
    /// The version of the runner.
    pub runner: String,
    /// The operator: `user@host`.
    pub by: String,
    /// The commit that the release was deployed from, if a CI or git names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The page of the CI run, which all attempts of a CI run share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The machine that the attempt runs on, if it has an identity. Since 1.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
}

/// Immutable content with a digest, and a label for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The name that people give to it.
    pub label: Label,
    /// The digest of its content; none if no step of the plan pulls an archive.
    pub digest: Option<Digest>,
}

impl Release {
    /// Whether both are the same content. Labels are compared only if no digest is known.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.digest, &other.digest) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, None) => self.label == other.label,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// A step as listed in the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStepRecord {
    #[serde(flatten)]
    pub step_target: StepTarget,
    /// The module, as written in the plan.
    pub uses: String,
    /// The phase in which it acts.
    pub phase: StepPhase,
    /// Whether it shows the release to users. Since 1.6.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exposes: bool,
}

/// What comes before the name of an input in a fingerprint.
pub const INPUT_PREFIX: &str = "input:";

/// What comes before `INPUT//PATH`, a file that is part of an input. It only says which file changed; the input's own component decides. Since
/// 1.8.
pub const FILE_PREFIX: &str = "file:";

/// The hash of each component that a step depends on, so that [`Fingerprint::difference`] can name the changed ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub BTreeMap<String, Blake3Hash>);

impl Fingerprint {
    /// The names of the components that differ, in order.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.0.keys().chain(other.0.keys()).filter(|name| decides(name)).collect();
        names.into_iter().filter(|name| self.0.get(*name) != other.0.get(*name)).cloned().collect()
    }

    /// The paths of an input's files that differ, in order. Empty if one of the fingerprints names no file of it.
    #[must_use]
    pub fn changed_files(&self, other: &Self, input: &str) -> Vec<String> {
        let prefix = file_component(input, "");
        let [ours, others] = [self, other].map(|fingerprint| fingerprint.with_prefix(&prefix));
        if ours.is_empty() || others.is_empty() {
            return Vec::new();
        }
        let paths: BTreeSet<_> = ours.keys().chain(others.keys()).collect();
        paths.into_iter().filter(|path| ours.get(*path) != others.get(*path)).map(|path| (*path).to_owned()).collect()
    }

    /// The components whose names begin so, by the rest of the name.
    fn with_prefix(&self, prefix: &str) -> BTreeMap<&str, Blake3Hash> {
        self.0.iter().filter_map(|(name, hash)| Some((name.strip_prefix(prefix)?, *hash))).collect()
    }

    /// One hash over all components.
    #[must_use]
    pub fn digest(&self) -> Blake3Hash {
        let deciding = self.0.iter().filter(|(name, _)| decides(name));
        let lines: String = deciding.map(|(name, hash)| format!("{name} {hash}\n")).collect();
        Blake3Hash::of(lines.as_bytes())
    }
}

/// The name of the component about a file of an input.
#[must_use]
pub fn file_component(input: &str, path: &str) -> String {
    format!("{FILE_PREFIX}{input}//{path}")
}

/// Whether a component of a fingerprint is compared, and not only there to name a file that changed.
fn decides(component: &str) -> bool {
    !component.starts_with(FILE_PREFIX)
}

/// The input that a probe is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeInput {
    /// The input of this attempt.
    Current,
    /// The input of the recorded intent.
    Recorded,
}

/// The decision about a step, with the reason that `runner why` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Decision {
    /// The step's effect holds.
    Skip {
        reason: DecisionReason,
        /// The receipt that later steps see.
        receipt: Receipt,
    },
    /// The effect of an intent without an outcome holds; it is recorded as done, and then decided again.
    Adopt { reason: DecisionReason, receipt: Receipt },
    /// The step runs.
    Run { reason: DecisionReason },
    /// An operator must decide.
    Stop { reason: DecisionReason },
}

/// The reason for a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "because", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum DecisionReason {
    /// The step has no record.
    NeverRan,
    /// The step was undone.
    Reverted,
    /// The step failed cleanly the last time.
    FailedBefore,
    /// These components of its fingerprint changed.
    Changed { components: Vec<String> },
    /// The probe found the effect.
    Held,
    /// The probe did not find the effect.
    Absent,
    /// The probe found something else in its place.
    Drifted { why: String },
    /// The operator accepts the drift.
    DriftAccepted { why: String },
    /// The probe could not decide.
    Unknown { why: String },
    /// The step has no probe; within the run, its record is trusted.
    Trusted,
    /// The step has no probe, and its record is of another run.
    NoProbe,
    /// The step was begun and has no outcome; with the finding of its probe, if it has one.
    Interrupted { finding: Option<FindingSummary> },
    /// The step's record is unauthenticated or missing; with the finding of its probe, if it has one.
    Unconfirmed { finding: Option<FindingSummary> },
    /// The step has no probe, and a check did not pass after it succeeded: it failed, or it did not end.
    Stale { check: StepTarget },
    /// The step has no probe, and its record was made on another machine.
    MadeElsewhere,
    /// The step was begun and has no outcome here, and the host that it ran on recorded its success. Since 1.6.
    HostRecord,
    /// The step was begun and has no outcome here, and the host that it ran on undid it, since nobody confirmed it. Since 1.7.
    NotConfirmed,
    /// `always: true`.
    Always,
    /// A step before this check ran, or the operator wants a step again that this one depends on.
    UpstreamRan,
    /// The probe of this check failed.
    CheckFailed { why: String },
    /// `--fresh`: records are ignored.
    Fresh,
    /// `--start-from`, `--only` or `--rerun`: the operator named this step; `operator-word` since format 1.0.
    #[serde(rename = "operator-word")]
    RequestedByOperator,
    /// `--only` or `--until` excludes the step.
    NotSelected,
    /// The probe itself failed.
    ProbeFailed { message: String },
    /// The step comes after a step that exposes the release and was undone.
    UndoUnfinished,
    /// The step migrates a database, and a rollback leaves databases as they are; since format 1.5.
    NotInRollback,
    /// The input of the step can't be computed.
    InvalidInput { message: String },
    /// The step's rehearsal says that it would be refused. Since 1.7.
    RehearsalFailed { message: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_fingerprint_name_what_changed_and_decide_nothing() {
        let of = |components: &[(&str, &str)]| {
            let hash = |(name, text): &(&str, &str)| ((*name).to_owned(), Blake3Hash::of(text.as_bytes()));
            Fingerprint(components.iter().map(hash).collect())
        };
        let unnamed = of(&[("input:sql", "1")]);
        let old = of(&[("file:sql//a", "a"), ("file:sql//b", "b"), ("file:sql/c//c", "c"), ("input:sql", "1")]);
        let new = of(&[("file:sql//b", "changed"), ("file:sql//d", "d"), ("input:sql", "2")]);
        assert_eq!(old.difference(&unnamed), [""; 0]);
        assert_eq!(old.digest(), unnamed.digest());
        assert_eq!(old.difference(&new), ["input:sql"]);
        assert_eq!(old.changed_files(&new, "sql"), ["a", "b", "d"]);
        assert_eq!(unnamed.changed_files(&new, "sql"), [""; 0]);
    }
}
