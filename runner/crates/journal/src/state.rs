//! The pure fold of all attempts of (app, environment): the last record of each step on each target.
//!
//! [`JournalState::apply`] alone decides which event may follow which; any other order is corruption. The state is bounded, however
//! long the history: it keeps the newest attempts and verified releases. So [`super::snapshot`] can stand for everything before it.
//! Deliberately absent: clock, files, decisions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::{
    COMMAND_OVERRIDES, Decision, FORMAT, Fingerprint, JournalEntry, JournalEvent, JournalFormat, JournalHeader, MAGIC,
    MISSING_JOURNAL, ROLLBACK, Release, StepTarget,
};
use super::step_status::AttemptStatuses;
use contract::{AttemptNumber, RunId, diagnostic::ExitKind};
use contract::{
    hash::Blake3Hash,
    step::{Receipt, StepFailure, StepOutcome},
};

/// How many attempts a state keeps, the newest ones.
pub const MAX_RECENT_ATTEMPTS: usize = 20;

/// How many verified releases a state keeps, the newest ones.
pub const MAX_VERIFIED_RELEASES: usize = 100;

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
    /// The statuses of the steps in the newest attempt.
    pub statuses: AttemptStatuses,
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

/// When the live release changed, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LiveSince {
    /// The time of the record.
    pub at: jiff::Timestamp,
    /// The operator of the attempt.
    pub by: String,
}

/// The live and the verified releases of an environment. "Live" and "verified" are separate facts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EnvironmentHead {
    /// The release that users see: that of the last exposing step that was not undone.
    pub live: Option<Release>,
    /// Since when, and by whom; also of the moment when nothing was live any more.
    pub live_since: Option<LiveSince>,
    /// The releases that were live with every check passed, oldest first, each once; the newest [`MAX_VERIFIED_RELEASES`].
    pub verified: Vec<Release>,
    /// The verified releases that an operator rolled back from, and that were not deployed again since.
    pub withdrawn: Vec<Release>,
}

impl EnvironmentHead {
    /// The target of a rollback: the last verified release before the live one, without withdrawn ones.
    #[must_use]
    pub fn rollback_target(&self) -> Option<&Release> {
        let is_live = |release: &Release| self.live.as_ref().is_some_and(|live| live.is_same(release));
        let is_withdrawn = |release: &Release| self.withdrawn.iter().any(|withdrawn| withdrawn.is_same(release));
        let until = self.verified.iter().position(is_live).unwrap_or(self.verified.len());
        self.verified[..until].iter().rev().find(|release| !is_withdrawn(release))
    }

    /// Records that a release was live with every check passed.
    fn record_verified(&mut self, release: Release, is_rollback: bool) {
        let position = self.verified.iter().position(|verified| verified.is_same(&release));
        match position {
            Some(position) if is_rollback => {
                for later in &self.verified[position + 1..] {
                    if !self.withdrawn.iter().any(|withdrawn| withdrawn.is_same(later)) {
                        self.withdrawn.push(later.clone());
                    }
                }
            }
            Some(_) | None => {
                self.withdrawn.retain(|withdrawn| !withdrawn.is_same(&release));
                self.verified.retain(|verified| !verified.is_same(&release));
                self.verified.push(release);
                let surplus = self.verified.len().saturating_sub(MAX_VERIFIED_RELEASES);
                for dropped in self.verified.drain(..surplus) {
                    self.withdrawn.retain(|withdrawn| !withdrawn.is_same(&dropped));
                }
            }
        }
    }

    /// Whether a release was verified in this environment.
    #[must_use]
    pub fn is_verified(&self, release: &Release) -> bool {
        self.verified.iter().any(|verified| verified.is_same(release))
    }
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
}

/// The last record of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StepRecord {
    /// The status.
    pub status: RecordStatus,
    /// Whether the last event about it is authentic.
    pub trust: JournalTrust,
    /// The intent that the record belongs to.
    pub intent: IntentRecord,
    /// The release that was live before this step exposed its own; undoing the step restores it.
    pub live_before: Option<Release>,
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
            JournalEvent::Intent { step_target, key, fingerprint, input, exposes } => {
                // An unauthenticated, unfinished undo of an earlier attempt is not finished; the step is probed instead.
                if matches!(self.status(step_target), Some(RecordStatus::Undoing(_)))
                    && self.in_progress.contains(step_target)
                {
                    return Err(TransitionError::Transition { step_target: step_target.clone(), event: "an intent" });
                }
                let AttemptSummary { header, started_at, .. } = self.current_attempt(entry.seq)?;
                let intent = IntentRecord {
                    run: header.run.clone(),
                    attempt: header.attempt,
                    epoch: header.epoch,
                    attempt_started_at: *started_at,
                    release: header.release.clone(),
                    key: key.clone(),
                    fingerprint: fingerprint.clone(),
                    input: input.clone(),
                    exposes: *exposes,
                };
                let live_before = self.live_before(&intent.run, &intent.release).cloned();
                let trust = self.trust;
                self.records.insert(
                    step_target.clone(),
                    StepRecord { status: RecordStatus::Intended, trust, intent, live_before },
                );
                self.in_progress.insert(step_target.clone());
                Ok(())
            }
            JournalEvent::Outcome { step_target, outcome: result, .. } => {
                let is_open = self.in_progress.contains(step_target);
                let record = self.expect_record(step_target, "an outcome", |record| {
                    matches!(record.status, RecordStatus::Intended) && is_open
                })?;
                match result {
                    StepOutcome::Succeeded { receipt } => record.status = RecordStatus::Succeeded(receipt.clone()),
                    StepOutcome::Failed { failure } => record.status = RecordStatus::Failed(failure.clone()),
                    StepOutcome::Unknown { .. } => {}
                }
                self.in_progress.remove(step_target);
                self.mark_live(step_target, entry.at);
                Ok(())
            }
            JournalEvent::Decision { step_target, decision } => match decision {
                Decision::Adopt { receipt, .. } => {
                    let record = self.expect_record(step_target, "an adoption", |record| {
                        matches!(record.status, RecordStatus::Intended)
                    })?;
                    record.status = RecordStatus::Succeeded(receipt.clone());
                    self.in_progress.remove(step_target);
                    self.mark_live(step_target, entry.at);
                    Ok(())
                }
                Decision::Skip { .. } | Decision::Run { .. } | Decision::Stop { .. } => Ok(()),
            },
            JournalEvent::UndoIntent { step_target } => {
                let record = self
                    .expect_record(step_target, "an undo", |record| !matches!(record.status, RecordStatus::Reverted))?;
                let receipt = match &record.status {
                    RecordStatus::Succeeded(receipt) => Some(receipt.clone()),
                    RecordStatus::Undoing(receipt) => receipt.clone(),
                    RecordStatus::Intended | RecordStatus::Failed(_) | RecordStatus::Reverted => None,
                };
                record.status = RecordStatus::Undoing(receipt);
                self.in_progress.insert(step_target.clone());
                Ok(())
            }
            JournalEvent::UndoOutcome { step_target, failure } => {
                let is_open = self.in_progress.contains(step_target);
                let record = self.expect_record(step_target, "the end of an undo", |record| {
                    matches!(record.status, RecordStatus::Undoing(_)) && is_open
                })?;
                if failure.is_none() {
                    record.status = RecordStatus::Reverted;
                    if record.intent.exposes && record.trust == JournalTrust::Authenticated {
                        let live_before = record.live_before.clone();
                        self.set_live(live_before, entry.at);
                    }
                }
                self.in_progress.remove(step_target);
                Ok(())
            }
            JournalEvent::Ended { exit, verified } => {
                let attempt = self.attempts.last_mut().ok_or(TransitionError::Header { seq: entry.seq })?;
                attempt.exit = Some(*exit);
                attempt.verified = *verified;
                let release = attempt.header.release.clone();
                let is_rollback = attempt.command.as_deref() == Some(ROLLBACK);
                if *verified && self.trust == JournalTrust::Authenticated {
                    self.head.record_verified(release, is_rollback);
                }
                Ok(())
            }
            JournalEvent::Plan { .. }
            | JournalEvent::Lock { .. }
            | JournalEvent::Torn { .. }
            | JournalEvent::Progress { .. }
            | JournalEvent::Probe { .. } => Ok(()),
            JournalEvent::Override { option, .. } => {
                if let (Some(attempt), MISSING_JOURNAL) = (self.attempts.last_mut(), option.as_str()) {
                    attempt.journal_missing = true;
                }
                let is_order =
                    COMMAND_OVERRIDES.contains(&option.as_str()) && self.trust == JournalTrust::Authenticated;
                if let (Some(attempt), true) = (self.attempts.last_mut(), is_order) {
                    attempt.command = Some(option.clone());
                }
                Ok(())
            }
            JournalEvent::Unrecognized if self.newer_format.is_some() => Ok(()),
            JournalEvent::Unrecognized => {
                Err(TransitionError::Foreign(format!("line {} has an event of an unknown type", entry.seq)))
            }
        }
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

    /// Marks the release of a step as live, if the step exposes it and succeeded.
    fn mark_live(&mut self, step_target: &StepTarget, at: jiff::Timestamp) {
        if let Some(StepRecord { status: RecordStatus::Succeeded(_), intent, .. }) = self.records.get(step_target)
            && intent.exposes
            && self.trust == JournalTrust::Authenticated
        {
            let release = intent.release.clone();
            self.set_live(Some(release), at);
        }
    }

    fn set_live(&mut self, release: Option<Release>, at: jiff::Timestamp) {
        let is_same = match (&self.head.live, &release) {
            (Some(before), Some(after)) => before.is_same(after),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_same {
            let by = self.attempts.last().map_or_else(String::new, |attempt| attempt.header.by.clone());
            self.head.live_since = Some(LiveSince { at, by });
        }
        self.head.live = release;
    }

    /// The release that was live before a run exposed its own; the live release, if the run has not exposed one yet.
    #[must_use]
    pub fn live_before(&self, run: &RunId, release: &Release) -> Option<&Release> {
        let is_live = self.head.live.as_ref().is_some_and(|live| live.is_same(release));
        let exposed = self.records.values().find(|record| record.intent.exposes && record.intent.run == *run);
        match exposed {
            Some(record) if is_live => record.live_before.as_ref(),
            Some(_) | None => self.head.live.as_ref(),
        }
    }

    fn expect_record(
        &mut self,
        step_target: &StepTarget,
        what: &'static str,
        allows: impl FnOnce(&StepRecord) -> bool,
    ) -> Result<&mut StepRecord, TransitionError> {
        match self.records.get_mut(step_target) {
            Some(record) if allows(record) => {
                record.trust = self.trust;
                Ok(record)
            }
            Some(_) | None => Err(TransitionError::Transition { step_target: step_target.clone(), event: what }),
        }
    }

    fn current_attempt(&self, seq: u64) -> Result<&AttemptSummary, TransitionError> {
        self.attempts.last().ok_or(TransitionError::Header { seq })
    }
}
