//! The pure fold of all attempts of (app, environment): what is known of each step on each target.
//!
//! One place says which event may follow which ([`JournalState::apply`]); what may not is corruption. Deliberately absent: clock,
//! files, decisions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::event::{
    COMMAND_OVERRIDES, Decision, FORMAT, Fingerprint, JournalEntry, JournalEvent, JournalFormat, JournalHeader, MAGIC,
    MISSING_JOURNAL, ROLLBACK, Release, StepTarget,
};
use contract::{AttemptNumber, RunId, diagnostic::ExitKind};
use contract::{
    hash::Blake3Hash,
    step::{Receipt, StepFailure, StepOutcome},
};

/// How far a journal is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JournalTrust {
    /// This machine, the state's place or whoever has the key wrote it.
    #[default]
    Authenticated,
    /// Anybody could have written it: it only suggests what to probe (docs/adr/0010).
    Untrusted,
}

/// What the journals of (app, environment) say, folded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JournalState {
    /// How far the journal that is being folded is believed.
    pub trust: JournalTrust,
    /// The last record of each step on each target, whatever its release.
    pub records: BTreeMap<StepTarget, StepRecord>,
    /// All attempts, oldest first.
    pub attempts: Vec<AttemptSummary>,
    /// The live release and the verified ones.
    pub head: EnvironmentHead,
    /// What the newest attempt has begun to do or to undo, and not ended.
    pub in_progress: BTreeSet<StepTarget>,
    /// The hash of the last line.
    pub last_line_hash: Option<Blake3Hash>,
    /// A journal has a newer minor format: it may be read, not continued.
    pub newer_format: Option<JournalFormat>,
}

/// The environment's record, folded from its journals. "Live" and "verified" are separate facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvironmentHead {
    /// What users see: the release of the last step that exposed one and was not undone.
    pub live: Option<Release>,
    /// The releases that were live with every check held, oldest first, each once.
    pub verified: Vec<Release>,
    /// Those of them that an operator went back from, and that were not deployed again since.
    pub withdrawn: Vec<Release>,
}

impl EnvironmentHead {
    /// The last verified release before the live one: where a rollback lands. Not one that an operator went back from.
    #[must_use]
    pub fn rollback_target(&self) -> Option<&Release> {
        let is_live = |release: &Release| self.live.as_ref().is_some_and(|live| live.is_same(release));
        let is_withdrawn = |release: &Release| self.withdrawn.iter().any(|withdrawn| withdrawn.is_same(release));
        let until = self.verified.iter().position(is_live).unwrap_or(self.verified.len());
        self.verified[..until].iter().rev().find(|release| !is_withdrawn(release))
    }

    /// A release was live, and every check held.
    fn record_verified(&mut self, release: Release, is_rollback: bool) {
        let position = self.verified.iter().position(|verified| verified.is_same(&release));
        match position {
            Some(step_target) if is_rollback => self.withdrawn.extend_from_slice(&self.verified[step_target + 1..]),
            Some(_) | None => {
                self.withdrawn.retain(|withdrawn| !withdrawn.is_same(&release));
                self.verified.retain(|verified| !verified.is_same(&release));
                self.verified.push(release);
            }
        }
    }

    /// Whether a release was verified here.
    #[must_use]
    pub fn is_verified(&self, release: &Release) -> bool {
        self.verified.iter().any(|verified| verified.is_same(release))
    }
}

/// One attempt in a few words.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptSummary {
    /// Its first line.
    pub header: JournalHeader,
    /// When it was begun.
    pub started_at: jiff::Timestamp,
    /// When its last line was written.
    pub last_entry_at: jiff::Timestamp,
    /// How it ended; none when it was killed, or still runs.
    pub exit: Option<ExitKind>,
    /// Whether it left the release live and verified.
    pub verified: bool,
    /// The step that failed, was stopped or was interrupted.
    pub failed_step: Option<StepTarget>,
    /// The command, if it was not `deploy`: `rollback`, `promote`, `setup`.
    pub command: Option<String>,
    /// How far its journal is believed.
    pub trust: JournalTrust,
    /// The journals before it were missing: what is not on record may have been begun.
    pub journal_missing: bool,
}

/// The last word on a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// How far it got.
    pub status: RecordStatus,
    /// How far what was written last about it is believed.
    pub trust: JournalTrust,
    /// The intent that this is about.
    pub intent: IntentRecord,
    /// What was live before this step exposed its release; undoing it brings that back.
    pub live_before: Option<Release>,
}

/// What an intent said.
#[derive(Clone, Debug, PartialEq)]
pub struct IntentRecord {
    /// The run it belongs to.
    pub run: RunId,
    /// The attempt of that run.
    pub attempt: AttemptNumber,
    /// The number of the attempt among all.
    pub epoch: u64,
    /// What was deployed.
    pub release: Release,
    /// The idempotency key.
    pub key: String,
    /// What the step depended on.
    pub fingerprint: Fingerprint,
    /// The whole input.
    pub input: Value,
    /// Whether it shows the release to users.
    pub exposes: bool,
}

/// How far a step got.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordStatus {
    /// Begun; how it ended is not known: killed, trapped, timed out.
    Intended,
    /// Done.
    Succeeded(Receipt),
    /// Failed cleanly.
    Failed(StepFailure),
    /// Undoing was begun and did not end well. The receipt, if it had one, tells what to undo.
    Undoing(Option<Receipt>),
    /// Undone.
    Reverted,
}

/// An event that can't follow what came before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The first line is no header, or a later one is.
    #[error("line {seq} should {}be the header", if *.seq == 0 { "" } else { "not " })]
    Header { seq: u64 },
    /// Lines are missing, doubled, or in another order.
    #[error("line {found} stands where line {expected} should")]
    Sequence { expected: u64, found: u64 },
    /// The chain of hashes is broken.
    #[error("line {seq} does not follow the line before it")]
    Chain { seq: u64 },
    /// The journal is of something else.
    #[error("{0}")]
    Foreign(String),
    /// Its major format is not the one that this runner knows.
    #[error("format {}.{} is not known to this runner, which knows {}.x", .0.major, .0.minor, FORMAT.major)]
    Format(JournalFormat),
    /// A step's event makes no sense after the one before.
    #[error("{event} of {step_target} does not follow from event is recorded before")]
    Transition { step_target: StepTarget, event: &'static str },
}

impl JournalState {
    /// Folds one entry whose line has the hash `line`.
    ///
    /// # Errors
    /// [`TransitionError`] when the entry can't follow; the state is then as before.
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
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.last_entry_at = entry.at;
        }
        self.last_line_hash = Some(line);
        Ok(())
    }

    fn apply_event(&mut self, entry: &JournalEntry) -> Result<(), TransitionError> {
        match &entry.event {
            JournalEvent::Started(header) => self.apply_header(header, entry.at),
            JournalEvent::Intent { step_target, key, fingerprint, input, exposes } => {
                // An undo of an earlier attempt that is only suggested is not finished; its step is looked at anew.
                if matches!(self.status(step_target), Some(RecordStatus::Undoing(_)))
                    && self.in_progress.contains(step_target)
                {
                    return Err(TransitionError::Transition { step_target: step_target.clone(), event: "an intent" });
                }
                let header = &self.current_attempt(entry.seq)?.header;
                let intent = IntentRecord {
                    run: header.run.clone(),
                    attempt: header.attempt,
                    epoch: header.epoch,
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
                self.mark_failed(step_target);
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
                match result {
                    StepOutcome::Succeeded { .. } => self.clear_failed(step_target),
                    StepOutcome::Failed { .. } | StepOutcome::Unknown { .. } => self.mark_failed(step_target),
                }
                self.mark_live(step_target);
                Ok(())
            }
            JournalEvent::Decision { step_target, decision } => match decision {
                Decision::Adopt { receipt, .. } => {
                    let record = self.expect_record(step_target, "an adoption", |record| {
                        matches!(record.status, RecordStatus::Intended)
                    })?;
                    record.status = RecordStatus::Succeeded(receipt.clone());
                    self.in_progress.remove(step_target);
                    self.mark_live(step_target);
                    Ok(())
                }
                Decision::Stop { .. } => {
                    self.mark_failed(step_target);
                    Ok(())
                }
                Decision::Skip { .. } | Decision::Run { .. } => Ok(()),
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
                        self.head.live = record.live_before.clone();
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
                Err(TransitionError::Foreign(format!("line {} has an event of no known type", entry.seq)))
            }
        }
    }

    fn apply_header(&mut self, header: &JournalHeader, at: jiff::Timestamp) -> Result<(), TransitionError> {
        if header.magic != MAGIC {
            return Err(TransitionError::Foreign("this is not a journal of Pawl".to_owned()));
        }
        if header.format.major != FORMAT.major {
            return Err(TransitionError::Format(header.format));
        }
        if let Some(last) = self.attempts.last()
            && (last.header.app != header.app || last.header.environment != header.environment)
        {
            return Err(TransitionError::Foreign(format!(
                "it is a journal of {} in {}",
                header.app, header.environment
            )));
        }
        if self.attempts.last().is_some_and(|last| header.epoch <= last.header.epoch) {
            return Err(TransitionError::Foreign(format!("epoch {} does not follow the one before", header.epoch)));
        }
        if header.format.minor > FORMAT.minor {
            self.newer_format = self.newer_format.max(Some(header.format));
        }
        let header = header.clone();
        // What an attempt before left open it can't end any more: that is the killed attempt.
        self.in_progress.clear();
        // The order is the run's: a later attempt goes on with it, by whichever command.
        let order =
            self.attempts.last().filter(|last| last.header.run == header.run).and_then(|last| last.command.clone());
        let (exit, verified, stuck) = (None, false, None);
        let trust = self.trust;
        self.attempts.push(AttemptSummary {
            header,
            started_at: at,
            last_entry_at: at,
            exit,
            verified,
            failed_step: stuck,
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

    /// The commit that a release was deployed for last, if that is known.
    #[must_use]
    pub fn commit_of(&self, release: &Release) -> Option<&str> {
        let of_it = self.attempts.iter().rev().filter(|attempt| attempt.header.release.is_same(release));
        of_it.filter_map(|attempt| attempt.header.commit.as_deref()).next()
    }

    /// What a step returned, if it is done and its record is believed.
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

    /// How far a step got, by its last record.
    #[must_use]
    pub fn status(&self, step_target: &StepTarget) -> Option<&RecordStatus> {
        self.records.get(step_target).map(|record| &record.status)
    }

    /// A step that exposes its release and is done has made it live.
    fn mark_live(&mut self, step_target: &StepTarget) {
        if let Some(StepRecord { status: RecordStatus::Succeeded(_), intent, .. }) = self.records.get(step_target)
            && intent.exposes
            && self.trust == JournalTrust::Authenticated
        {
            self.head.live = Some(intent.release.clone());
        }
    }

    /// What was live before a run made its release live; what is live now, as long as it has not.
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

    /// The first place that an attempt gets stuck at is the one: what runs after it, such as a hook, is not.
    fn mark_failed(&mut self, step_target: &StepTarget) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.failed_step.get_or_insert_with(|| step_target.clone());
        }
    }

    fn clear_failed(&mut self, step_target: &StepTarget) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.failed_step.take_if(|stuck| stuck == step_target);
        }
    }
}
