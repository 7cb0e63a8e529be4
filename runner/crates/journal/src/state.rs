//! The pure fold of all attempts of (app, environment): the last record of each step on each target.
//!
//! [`JournalState::apply`] alone decides which event may follow which; any other order is corruption. The state is bounded, however
//! long the history: it keeps the newest attempts and verified releases. So [`super::snapshot`] can stand for everything before it.
//! Deliberately absent: clock, files, decisions.

mod live;
mod record;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::record::{IntentRecord, RecordOrigin, RecordStatus, StepRecord};
use super::event::{
    COMMAND_OVERRIDES, Decision, FIRST_EXACT_FORMAT, FORMAT, JournalEntry, JournalEvent, JournalFormat, JournalHeader,
    MAGIC, MISSING_JOURNAL, ROLLBACK, Release, Resolution, StepTarget,
};
pub use super::head::{EnvironmentHead, LiveDoubt, LiveSince, MAX_VERIFIED_RELEASES};
use super::step_status::AttemptStatuses;
use contract::{
    RunId,
    diagnostic::ExitKind,
    hash::Blake3Hash,
    step::{Receipt, StepFailure, StepOutcome},
};

/// How many attempts a state keeps, the newest ones.
pub const MAX_RECENT_ATTEMPTS: usize = 20;

/// Whether a journal is authentic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalTrust {
    /// It is from this machine or the state location, or was written with the key.
    #[default]
    Authenticated,
    /// Anybody could have written it; it only suggests what to probe (docs/adr/0010).
    Untrusted,
}

/// The folded journals of (app, environment).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JournalState {
    /// Whether the journal that is being folded is authentic.
    pub trust: JournalTrust,
    /// The last record of each step on each target, whatever its release.
    pub records: BTreeMap<StepTarget, StepRecord>,
    /// The first attempt of all.
    pub first_attempt: Option<FirstAttempt>,
    /// The newest attempts, at most [`MAX_RECENT_ATTEMPTS`], oldest first.
    pub attempts: Vec<AttemptSummary>,
    /// The live release and the verified ones.
    pub head: EnvironmentHead,
    /// The steps that the newest attempt has begun to run or undo, and not finished.
    pub in_progress: BTreeSet<StepTarget>,
    /// The steps whose newest entries were lost: whatever their record says, they may have acted since.
    pub lost_records: BTreeSet<StepTarget>,
    /// The statuses of the steps in the newest attempt.
    pub statuses: AttemptStatuses,
    /// Whether the newest attempt has reached a step that exposes the release.
    pub reached_exposure: bool,
    /// What the steps recorded for the release that was verified last: a rollback to it repeats them with these inputs.
    pub verified_intents: BTreeMap<StepTarget, IntentRecord>,
    /// The commits of the newest releases, by their last deployment.
    pub commits: Vec<(Release, String)>,
    /// The hash of the last line.
    pub last_line_hash: Option<Blake3Hash>,
    /// The number of lines of the newest attempt.
    pub line_count: u64,
    /// The newer minor format of a journal, which may be read but not continued.
    pub newer_format: Option<JournalFormat>,
}

/// The first attempt of all: it tells one history from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FirstAttempt {
    /// Its run.
    pub run: RunId,
    /// The time of its first line.
    pub started_at: jiff::Timestamp,
}

/// The summary of one attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AttemptSummary {
    /// The header.
    pub header: JournalHeader,
    /// The time of its first line.
    pub started_at: jiff::Timestamp,
    /// The time of its last line.
    pub last_entry_at: jiff::Timestamp,
    /// The exit kind; none if it was killed, or is still running.
    pub exit: Option<ExitKind>,
    /// Whether it left the release live and verified.
    pub verified: bool,
    /// The step that failed, was stopped or was interrupted.
    pub failed_step: Option<StepTarget>,
    /// The command, if it was not `deploy`: `rollback`, `promote`, `setup`.
    pub command: Option<String>,
    /// Whether its journal is authentic.
    pub trust: JournalTrust,
    /// Whether the earlier journals were missing: a step without a record may have run.
    pub journal_missing: bool,
    /// The step that `resolve` settled, if that was the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_step: Option<StepTarget>,
}

/// An event that contradicts the events before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The first line is not a header, or a later line is one.
    #[error("line {seq} should {}be the header", if *.seq == 0 { "" } else { "not " })]
    Header { seq: u64 },
    /// Lines are missing, duplicated, or in another order.
    #[error("expected line {expected}, found line {found}")]
    Sequence { expected: u64, found: u64 },
    /// The chain of hashes is broken.
    #[error("line {seq} does not follow the line before it")]
    Chain { seq: u64 },
    /// The journal belongs to another app or environment.
    #[error("{0}")]
    Foreign(String),
    /// The major version of its format is unknown.
    #[error("this runner reads format {}.x, not {}.{}", FORMAT.major, .0.major, .0.minor)]
    Format(JournalFormat),
    /// A step's event contradicts the record before it.
    #[error("{event} of {step_target} contradicts the records before it")]
    Transition { step_target: StepTarget, event: &'static str },
}

impl JournalState {
    /// Folds one entry whose line has the hash `line`.
    ///
    /// # Errors
    /// [`TransitionError`] if the entry contradicts the state, which is then unchanged.
    pub fn apply(&mut self, entry: &JournalEntry, line: Blake3Hash, expected_seq: u64) -> Result<(), TransitionError> {
        if entry.seq != expected_seq {
            return Err(TransitionError::Sequence { expected: expected_seq, found: entry.seq });
        }
        if entry.prev != self.last_line_hash {
            return Err(TransitionError::Chain { seq: entry.seq });
        }
        if (entry.seq == 0) != matches!(entry.event, JournalEvent::Started(_)) {
            return Err(TransitionError::Header { seq: entry.seq });
        }
        self.apply_event(entry)?;
        self.statuses.apply(&entry.event);
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.last_entry_at = entry.at;
            if attempt.failed_step.as_ref() != self.statuses.failed_step() {
                attempt.failed_step = self.statuses.failed_step().cloned();
            }
        }
        self.last_line_hash = Some(line);
        self.line_count = entry.seq + 1;
        Ok(())
    }

    fn apply_event(&mut self, entry: &JournalEntry) -> Result<(), TransitionError> {
        match &entry.event {
            JournalEvent::Started(header) => self.apply_header(header, entry.at),
            JournalEvent::Intent { step_target, key, fingerprint, input, exposes, release } => {
                let AttemptSummary { header, started_at, .. } = self.current_attempt(entry.seq)?;
                let intent = IntentRecord {
                    run: header.run.clone(),
                    attempt: header.attempt,
                    epoch: header.epoch,
                    attempt_started_at: *started_at,
                    release: release.as_ref().unwrap_or(&header.release).clone(),
                    key: key.clone(),
                    fingerprint: fingerprint.clone(),
                    input: input.clone(),
                    exposes: *exposes,
                };
                self.begin_step(step_target, intent)
            }
            JournalEvent::Outcome { step_target, outcome, .. } => self.end_step(step_target, outcome, entry.at),
            JournalEvent::Decision { step_target, decision: Decision::Adopt { receipt, .. } } => {
                self.adopt_step(step_target, receipt, entry.at)
            }
            JournalEvent::UndoIntent { step_target } => self.begin_undo(step_target),
            JournalEvent::UndoOutcome { step_target, failure } => {
                self.end_undo(step_target, failure.as_ref(), entry.at)
            }
            JournalEvent::Override { option, .. } => {
                self.apply_override(option);
                Ok(())
            }
            JournalEvent::SwitchedBack { doubt, .. } => {
                if self.trust == JournalTrust::Authenticated {
                    self.head.live_doubt = doubt.clone().map(|why| LiveDoubt::SwitchedBack { why: Some(why) });
                }
                Ok(())
            }
            JournalEvent::Decision { step_target, decision: Decision::Skip { .. } } => {
                self.reached_exposure |= self.records.get(step_target).is_some_and(|record| record.intent.exposes);
                Ok(())
            }
            JournalEvent::Ended { exit, verified } => self.end_attempt(entry.seq, *exit, *verified),
            JournalEvent::Unrecognized if self.newer_format.is_none() => {
                Err(TransitionError::Foreign(format!("line {} has an event of an unknown type", entry.seq)))
            }
            JournalEvent::Resolved { step_target, resolution, .. } => {
                self.apply_resolution(step_target, resolution, entry.at)
            }
            JournalEvent::RecordLost { step_target } => {
                self.lost_records.insert(step_target.clone());
                if let Some(record) = self.records.get_mut(step_target) {
                    record.trust = JournalTrust::Untrusted;
                }
                Ok(())
            }
            JournalEvent::Plan { steps, .. } => {
                let exposing: BTreeSet<_> =
                    steps.iter().filter(|step| step.exposes).map(|step| &step.step_target.target).collect();
                // An older runner does not say which steps expose the release.
                if !exposing.is_empty() && self.trust == JournalTrust::Authenticated {
                    self.head.set_targets(&exposing);
                }
                Ok(())
            }
            JournalEvent::Decision { decision: Decision::Run { .. } | Decision::Stop { .. }, .. }
            | JournalEvent::HostLeftBehind { .. }
            | JournalEvent::Lock { .. }
            | JournalEvent::Torn { .. }
            | JournalEvent::Progress { .. }
            | JournalEvent::Output { .. }
            | JournalEvent::Probe { .. }
            | JournalEvent::Unrecognized => Ok(()),
        }
    }

    fn begin_step(&mut self, step_target: &StepTarget, intent: IntentRecord) -> Result<(), TransitionError> {
        // An unauthenticated, unfinished undo of an earlier attempt is not finished; the step is probed instead.
        if matches!(self.status(step_target), Some(RecordStatus::Undoing(_))) && self.in_progress.contains(step_target)
        {
            return Err(TransitionError::Transition { step_target: step_target.clone(), event: "an intent" });
        }
        let live_before = self.live_before(&step_target.target, &intent.run, &intent.release).cloned();
        let origin = RecordOrigin::Machine(self.attempts.last().and_then(|attempt| attempt.header.machine.clone()));
        self.doubt_live_release(step_target, &intent);
        let record = StepRecord { status: RecordStatus::Intended, trust: self.trust, intent, live_before, origin };
        self.records.insert(step_target.clone(), record);
        self.distrust_masked_record(step_target);
        self.in_progress.insert(step_target.clone());
        self.lost_records.remove(step_target);
        Ok(())
    }

    fn end_step(
        &mut self,
        step_target: &StepTarget,
        outcome: &StepOutcome,
        at: jiff::Timestamp,
    ) -> Result<(), TransitionError> {
        let is_open = self.in_progress.contains(step_target);
        let record = self.expect_record(step_target, "an outcome", |record| {
            matches!(record.status, RecordStatus::Intended) && is_open
        })?;
        match outcome {
            StepOutcome::Succeeded { receipt } => record.status = RecordStatus::Succeeded(receipt.clone()),
            StepOutcome::Failed { failure } => record.status = RecordStatus::Failed(failure.clone()),
            StepOutcome::Unknown { .. } => {}
        }
        self.distrust_masked_record(step_target);
        self.in_progress.remove(step_target);
        self.mark_live(step_target, at);
        Ok(())
    }

    fn adopt_step(
        &mut self,
        step_target: &StepTarget,
        receipt: &Receipt,
        at: jiff::Timestamp,
    ) -> Result<(), TransitionError> {
        let origin = RecordOrigin::Machine(self.attempts.last().and_then(|attempt| attempt.header.machine.clone()));
        let record =
            self.expect_record(step_target, "an adoption", |record| matches!(record.status, RecordStatus::Intended))?;
        record.status = RecordStatus::Succeeded(receipt.clone());
        record.origin = origin;
        self.distrust_masked_record(step_target);
        self.in_progress.remove(step_target);
        self.mark_live(step_target, at);
        Ok(())
    }

    fn begin_undo(&mut self, step_target: &StepTarget) -> Result<(), TransitionError> {
        let record =
            self.expect_record(step_target, "an undo", |record| !matches!(record.status, RecordStatus::Reverted))?;
        let receipt = match &record.status {
            RecordStatus::Succeeded(receipt) => Some(receipt.clone()),
            RecordStatus::Undoing(receipt) => receipt.clone(),
            RecordStatus::Intended | RecordStatus::Failed(_) | RecordStatus::Reverted => None,
        };
        record.status = RecordStatus::Undoing(receipt);
        self.in_progress.insert(step_target.clone());
        Ok(())
    }

    fn end_undo(
        &mut self,
        step_target: &StepTarget,
        failure: Option<&StepFailure>,
        at: jiff::Timestamp,
    ) -> Result<(), TransitionError> {
        let is_open = self.in_progress.contains(step_target);
        let is_authenticated = self.trust == JournalTrust::Authenticated;
        let record = self.expect_record(step_target, "the end of an undo", |record| {
            matches!(record.status, RecordStatus::Undoing(_)) && is_open
        })?;
        if failure.is_none() {
            record.status = RecordStatus::Reverted;
            if record.intent.exposes && is_authenticated {
                let live_before = record.live_before.clone();
                self.switch_back(step_target, live_before, at);
            }
        }
        self.in_progress.remove(step_target);
        Ok(())
    }

    fn apply_override(&mut self, option: &str) {
        let is_authenticated = self.trust == JournalTrust::Authenticated;
        let Some(attempt) = self.attempts.last_mut() else { return };
        if option == MISSING_JOURNAL {
            attempt.journal_missing = true;
        }
        if is_authenticated && COMMAND_OVERRIDES.contains(&option) {
            attempt.command = Some(option.to_owned());
        }
    }

    fn end_attempt(&mut self, seq: u64, exit: ExitKind, verified: bool) -> Result<(), TransitionError> {
        let attempt = self.attempts.last_mut().ok_or(TransitionError::Header { seq })?;
        attempt.exit = Some(exit);
        attempt.verified = verified;
        let release = attempt.header.release.clone();
        let is_rollback = attempt.command.as_deref() == Some(ROLLBACK);
        let is_resolution = attempt.resolved_step.is_some();
        if verified && self.trust == JournalTrust::Authenticated {
            if !is_resolution {
                self.head.live_doubt = None;
                let is_done_for = |record: &StepRecord| {
                    matches!(record.status, RecordStatus::Succeeded(_))
                        && record.trust == JournalTrust::Authenticated
                        && record.intent.release.is_same(&release)
                };
                let done = self.records.iter().filter(|(_, record)| is_done_for(record));
                self.verified_intents =
                    done.map(|(step_target, record)| (step_target.clone(), record.intent.clone())).collect();
            }
            self.head.record_verified(release, is_rollback);
        }
        Ok(())
    }

    /// An operator's word counts only in an authentic journal.
    fn apply_resolution(
        &mut self,
        step_target: &StepTarget,
        resolution: &Resolution,
        at: jiff::Timestamp,
    ) -> Result<(), TransitionError> {
        if self.trust == JournalTrust::Untrusted {
            return Ok(());
        }
        let epoch = self.epoch();
        let record =
            self.expect_record(step_target, "a resolution", |record| record.status.can_be_resolved_as(resolution))?;
        // The operator looked, whoever wrote the record.
        record.trust = JournalTrust::Authenticated;
        match resolution {
            Resolution::Done { receipt } => {
                record.status = RecordStatus::Succeeded(receipt.clone());
                record.origin = RecordOrigin::Operator { epoch };
                self.mark_live(step_target, at);
            }
            Resolution::Undone => {
                record.status = RecordStatus::Reverted;
                if record.intent.exposes {
                    let live_before = record.live_before.clone();
                    self.switch_back(step_target, live_before, at);
                } else {
                    self.head.live_doubt.get_or_insert(LiveDoubt::NotChecked);
                }
            }
            Resolution::Confirmed => record.origin = RecordOrigin::Operator { epoch },
            Resolution::NotBegun => drop(self.records.remove(step_target)),
        }
        self.in_progress.remove(step_target);
        self.lost_records.remove(step_target);
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.resolved_step = Some(step_target.clone());
        }
        Ok(())
    }

    fn apply_header(&mut self, header: &JournalHeader, at: jiff::Timestamp) -> Result<(), TransitionError> {
        if header.magic != MAGIC {
            return Err(TransitionError::Foreign("it is not a journal of Pawl".to_owned()));
        }
        if header.format.major != FORMAT.major {
            return Err(TransitionError::Format(header.format));
        }
        if let Some(last) = self.attempts.last()
            && (last.header.app != header.app || last.header.environment != header.environment)
        {
            return Err(TransitionError::Foreign(format!(
                "it is the journal of {} in {}",
                header.app, header.environment
            )));
        }
        if self.attempts.last().is_some_and(|last| header.epoch <= last.header.epoch) {
            return Err(TransitionError::Foreign(format!(
                "epoch {} is not greater than the previous one",
                header.epoch
            )));
        }
        if header.format.minor > FORMAT.minor {
            self.newer_format = self.newer_format.max(Some(header.format));
        }
        let header = header.clone();
        // An earlier attempt cannot finish its open steps any more: it was killed.
        self.in_progress.clear();
        self.reached_exposure = false;
        self.statuses = AttemptStatuses::default();
        // The command belongs to the run: a later attempt continues it, whichever command started that attempt.
        let order =
            self.attempts.last().filter(|last| last.header.run == header.run).and_then(|last| last.command.clone());
        let (exit, verified, failed_step) = (None, false, None);
        let trust = self.trust;
        self.first_attempt.get_or_insert_with(|| FirstAttempt { run: header.run.clone(), started_at: at });
        self.remember_commit(&header);
        if self.attempts.len() == MAX_RECENT_ATTEMPTS {
            self.attempts.remove(0);
        }
        self.attempts.push(AttemptSummary {
            header,
            started_at: at,
            last_entry_at: at,
            exit,
            verified,
            failed_step,
            command: order,
            trust,
            journal_missing: false,
            resolved_step: None,
        });
        Ok(())
    }

    /// The number of the newest attempt; 0 if there is none.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.attempts.last().map_or(0, |attempt| attempt.header.epoch)
    }

    /// The commit of the last deployment of a release, if it is known.
    #[must_use]
    pub fn commit_of(&self, release: &Release) -> Option<&str> {
        self.commits.iter().find(|(known, _)| known.is_same(release)).map(|(_, commit)| commit.as_str())
    }

    /// Keeps the commit of a release, for as many releases as may be rolled back to.
    fn remember_commit(&mut self, header: &JournalHeader) {
        let Some(commit) = &header.commit else { return };
        self.commits.retain(|(known, _)| !known.is_same(&header.release));
        if self.commits.len() == MAX_VERIFIED_RELEASES {
            self.commits.remove(0);
        }
        self.commits.push((header.release.clone(), commit.clone()));
    }

    /// The receipt of a step, if it succeeded and its record is authentic.
    #[must_use]
    pub fn authenticated_receipt(&self, step_target: &StepTarget) -> Option<&Receipt> {
        let record = self.records.get(step_target).filter(|record| record.trust == JournalTrust::Authenticated)?;
        match &record.status {
            RecordStatus::Succeeded(receipt) => Some(receipt),
            RecordStatus::Intended | RecordStatus::Failed(_) | RecordStatus::Undoing(_) | RecordStatus::Reverted => {
                None
            }
        }
    }

    /// The status of a step's last record.
    #[must_use]
    pub fn status(&self, step_target: &StepTarget) -> Option<&RecordStatus> {
        self.records.get(step_target).map(|record| &record.status)
    }

    fn expect_record(
        &mut self,
        step_target: &StepTarget,
        what: &'static str,
        allows: impl FnOnce(&StepRecord) -> bool,
    ) -> Result<&mut StepRecord, TransitionError> {
        match self.records.get_mut(step_target) {
            Some(record) if allows(record) => {
                // A masked input stays masked until the next intent.
                if record.trust == JournalTrust::Authenticated || !record.is_masked() {
                    record.trust = self.trust;
                }
                Ok(record)
            }
            Some(_) | None => Err(TransitionError::Transition { step_target: step_target.clone(), event: what }),
        }
    }

    /// Distrusts a record of an older runner that holds a mask: the step is probed with its current input, and neither skipped nor
    /// undone by the record.
    fn distrust_masked_record(&mut self, step_target: &StepTarget) {
        let is_exact = self.attempts.last().is_some_and(|attempt| attempt.header.format >= FIRST_EXACT_FORMAT);
        if !is_exact
            && let Some(record) = self.records.get_mut(step_target)
            && record.is_masked()
        {
            record.trust = JournalTrust::Untrusted;
        }
    }

    fn current_attempt(&self, seq: u64) -> Result<&AttemptSummary, TransitionError> {
        self.attempts.last().ok_or(TransitionError::Header { seq })
    }
}
