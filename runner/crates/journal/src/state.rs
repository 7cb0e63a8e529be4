//! The pure fold of all attempts of (app, environment): what is known of each step on each target.
//!
//! One place says which event may follow which ([`State::apply`]); what may not is corruption. Deliberately absent: clock,
//! files, decisions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::event::{
    Decision, Entry, Event, FORMAT, Fingerprint, Format, Header, MAGIC, ORDERS, Place, ROLLBACK, Release, UNRECORDED,
};
use contract::{Attempt, RunId, diagnostic::Exit};
use contract::{
    hash::Hash,
    step::{Failure, Outcome, Receipt},
};

/// How far a journal is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// This machine, the state's place or whoever has the key wrote it.
    #[default]
    Believed,
    /// Anybody could have written it: it only suggests what to probe (docs/adr/0010).
    Suggested,
}

/// What the journals of (app, environment) say, folded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// How far the journal that is being folded is believed.
    pub trust: Trust,
    /// The last record of each step on each target, whatever its release.
    pub records: BTreeMap<Place, Record>,
    /// All attempts, oldest first.
    pub attempts: Vec<AttemptSummary>,
    /// The live release and the verified ones.
    pub head: Head,
    /// What the newest attempt has begun to do or to undo, and not ended.
    pub open: BTreeSet<Place>,
    /// The hash of the last line.
    pub tail: Option<Hash>,
    /// A journal has a newer minor format: it may be read, not continued.
    pub newer_minor: Option<Format>,
}

/// The environment's record, folded from its journals. "Live" and "verified" are separate facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// What users see: the release of the last step that exposed one and was not undone.
    pub live: Option<Release>,
    /// The releases that were live with every check held, oldest first, each once.
    pub verified: Vec<Release>,
    /// Those of them that an operator went back from, and that were not deployed again since.
    pub withdrawn: Vec<Release>,
}

impl Head {
    /// The last verified release before the live one: where a rollback lands. Not one that an operator went back from.
    #[must_use]
    pub fn before_live(&self) -> Option<&Release> {
        let is_live = |release: &Release| self.live.as_ref().is_some_and(|live| live.is_same(release));
        let is_withdrawn = |release: &Release| self.withdrawn.iter().any(|withdrawn| withdrawn.is_same(release));
        let until = self.verified.iter().position(is_live).unwrap_or(self.verified.len());
        self.verified[..until].iter().rev().find(|release| !is_withdrawn(release))
    }

    /// A release was live, and every check held.
    fn verify(&mut self, release: Release, is_rollback: bool) {
        let place = self.verified.iter().position(|verified| verified.is_same(&release));
        match place {
            Some(place) if is_rollback => self.withdrawn.extend_from_slice(&self.verified[place + 1..]),
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
    pub header: Header,
    /// When it was begun.
    pub began: jiff::Timestamp,
    /// When its last line was written.
    pub last: jiff::Timestamp,
    /// How it ended; none when it was killed, or still runs.
    pub exit: Option<Exit>,
    /// Whether it left the release live and verified.
    pub verified: bool,
    /// The step that failed, was stopped or was interrupted.
    pub stuck: Option<Place>,
    /// The command, if it was not `deploy`: `rollback`, `promote`, `setup`.
    pub order: Option<String>,
    /// How far its journal is believed.
    pub trust: Trust,
    /// The journals before it were missing: what is not on record may have been begun.
    pub unrecorded: bool,
}

/// The last word on a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// How far it got.
    pub status: Status,
    /// How far what was written last about it is believed.
    pub trust: Trust,
    /// The intent that this is about.
    pub intent: Intended,
    /// What was live before this step exposed its release; undoing it brings that back.
    pub live_before: Option<Release>,
}

/// What an intent said.
#[derive(Clone, Debug, PartialEq)]
pub struct Intended {
    /// The run it belongs to.
    pub run: RunId,
    /// The attempt of that run.
    pub attempt: Attempt,
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
pub enum Status {
    /// Begun; how it ended is not known: killed, trapped, timed out.
    Intended,
    /// Done.
    Succeeded(Receipt),
    /// Failed cleanly.
    Failed(Failure),
    /// Undoing was begun and did not end well. The receipt, if it had one, tells what to undo.
    Undoing(Option<Receipt>),
    /// Undone.
    Reverted,
}

/// An event that can't follow what came before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
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
    Format(Format),
    /// A step's event makes no sense after the one before.
    #[error("{what} of {place} does not follow from what is recorded before")]
    Transition { place: Place, what: &'static str },
}

impl State {
    /// Folds one entry whose line has the hash `line`.
    ///
    /// # Errors
    /// [`Illegal`] when the entry can't follow; the state is then as before.
    pub fn apply(&mut self, entry: &Entry, line: Hash, expected_seq: u64) -> Result<(), Illegal> {
        if entry.seq != expected_seq {
            return Err(Illegal::Sequence { expected: expected_seq, found: entry.seq });
        }
        if entry.prev != self.tail {
            return Err(Illegal::Chain { seq: entry.seq });
        }
        if (entry.seq == 0) != matches!(entry.event, Event::Started(_)) {
            return Err(Illegal::Header { seq: entry.seq });
        }
        self.transition(entry)?;
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.last = entry.at;
        }
        self.tail = Some(line);
        Ok(())
    }

    fn transition(&mut self, entry: &Entry) -> Result<(), Illegal> {
        match &entry.event {
            Event::Started(header) => self.start(header, entry.at),
            Event::Intent { place, key, fingerprint, input, exposes } => {
                // An undo of an earlier attempt that is only suggested is not finished; its step is looked at anew.
                if matches!(self.status(place), Some(Status::Undoing(_))) && self.open.contains(place) {
                    return Err(Illegal::Transition { place: place.clone(), what: "an intent" });
                }
                let header = &self.current(entry.seq)?.header;
                let intent = Intended {
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
                self.records.insert(place.clone(), Record { status: Status::Intended, trust, intent, live_before });
                self.open.insert(place.clone());
                self.get_stuck(place);
                Ok(())
            }
            Event::Outcome { place, result, .. } => {
                let is_open = self.open.contains(place);
                let record =
                    self.record(place, "an outcome", |record| matches!(record.status, Status::Intended) && is_open)?;
                match result {
                    Outcome::Succeeded { receipt } => record.status = Status::Succeeded(receipt.clone()),
                    Outcome::Failed { failure } => record.status = Status::Failed(failure.clone()),
                    Outcome::Unknown { .. } => {}
                }
                self.open.remove(place);
                match result {
                    Outcome::Succeeded { .. } => self.get_going(place),
                    Outcome::Failed { .. } | Outcome::Unknown { .. } => self.get_stuck(place),
                }
                self.expose(place);
                Ok(())
            }
            Event::Decision { place, decision } => match decision {
                Decision::Adopt { receipt, .. } => {
                    let record =
                        self.record(place, "an adoption", |record| matches!(record.status, Status::Intended))?;
                    record.status = Status::Succeeded(receipt.clone());
                    self.open.remove(place);
                    self.expose(place);
                    Ok(())
                }
                Decision::Stop { .. } => {
                    self.get_stuck(place);
                    Ok(())
                }
                Decision::Skip { .. } | Decision::Run { .. } => Ok(()),
            },
            Event::UndoIntent { place } => {
                let record = self.record(place, "an undo", |record| !matches!(record.status, Status::Reverted))?;
                let receipt = match &record.status {
                    Status::Succeeded(receipt) => Some(receipt.clone()),
                    Status::Undoing(receipt) => receipt.clone(),
                    Status::Intended | Status::Failed(_) | Status::Reverted => None,
                };
                record.status = Status::Undoing(receipt);
                self.open.insert(place.clone());
                Ok(())
            }
            Event::UndoOutcome { place, failure } => {
                let is_open = self.open.contains(place);
                let record = self.record(place, "the end of an undo", |record| {
                    matches!(record.status, Status::Undoing(_)) && is_open
                })?;
                if failure.is_none() {
                    record.status = Status::Reverted;
                    if record.intent.exposes && record.trust == Trust::Believed {
                        self.head.live = record.live_before.clone();
                    }
                }
                self.open.remove(place);
                Ok(())
            }
            Event::Ended { exit, verified } => {
                let attempt = self.attempts.last_mut().ok_or(Illegal::Header { seq: entry.seq })?;
                attempt.exit = Some(*exit);
                attempt.verified = *verified;
                let release = attempt.header.release.clone();
                let is_rollback = attempt.order.as_deref() == Some(ROLLBACK);
                if *verified && self.trust == Trust::Believed {
                    self.head.verify(release, is_rollback);
                }
                Ok(())
            }
            Event::Plan { .. }
            | Event::Lock { .. }
            | Event::Torn { .. }
            | Event::Progress { .. }
            | Event::Probe { .. } => Ok(()),
            Event::Override { option, .. } => {
                if let (Some(attempt), UNRECORDED) = (self.attempts.last_mut(), option.as_str()) {
                    attempt.unrecorded = true;
                }
                let is_order = ORDERS.contains(&option.as_str()) && self.trust == Trust::Believed;
                if let (Some(attempt), true) = (self.attempts.last_mut(), is_order) {
                    attempt.order = Some(option.clone());
                }
                Ok(())
            }
            Event::Unrecognized if self.newer_minor.is_some() => Ok(()),
            Event::Unrecognized => Err(Illegal::Foreign(format!("line {} has an event of no known type", entry.seq))),
        }
    }

    fn start(&mut self, header: &Header, at: jiff::Timestamp) -> Result<(), Illegal> {
        if header.magic != MAGIC {
            return Err(Illegal::Foreign("this is not a journal of Pawl".to_owned()));
        }
        if header.format.major != FORMAT.major {
            return Err(Illegal::Format(header.format));
        }
        if let Some(last) = self.attempts.last()
            && (last.header.app != header.app || last.header.environment != header.environment)
        {
            return Err(Illegal::Foreign(format!("it is a journal of {} in {}", header.app, header.environment)));
        }
        if self.attempts.last().is_some_and(|last| header.epoch <= last.header.epoch) {
            return Err(Illegal::Foreign(format!("epoch {} does not follow the one before", header.epoch)));
        }
        if header.format.minor > FORMAT.minor {
            self.newer_minor = self.newer_minor.max(Some(header.format));
        }
        let header = header.clone();
        // What an attempt before left open it can't end any more: that is the killed attempt.
        self.open.clear();
        // The order is the run's: a later attempt goes on with it, by whichever command.
        let order =
            self.attempts.last().filter(|last| last.header.run == header.run).and_then(|last| last.order.clone());
        let (exit, verified, stuck) = (None, false, None);
        let trust = self.trust;
        self.attempts.push(AttemptSummary {
            header,
            began: at,
            last: at,
            exit,
            verified,
            stuck,
            order,
            trust,
            unrecorded: false,
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
    pub fn done(&self, place: &Place) -> Option<&Receipt> {
        let record = self.records.get(place).filter(|record| record.trust == Trust::Believed)?;
        match &record.status {
            Status::Succeeded(receipt) => Some(receipt),
            Status::Intended | Status::Failed(_) | Status::Undoing(_) | Status::Reverted => None,
        }
    }

    /// How far a step got, by its last record.
    #[must_use]
    pub fn status(&self, place: &Place) -> Option<&Status> {
        self.records.get(place).map(|record| &record.status)
    }

    /// A step that exposes its release and is done has made it live.
    fn expose(&mut self, place: &Place) {
        if let Some(Record { status: Status::Succeeded(_), intent, .. }) = self.records.get(place)
            && intent.exposes
            && self.trust == Trust::Believed
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

    fn record(
        &mut self,
        place: &Place,
        what: &'static str,
        allows: impl FnOnce(&Record) -> bool,
    ) -> Result<&mut Record, Illegal> {
        match self.records.get_mut(place) {
            Some(record) if allows(record) => {
                record.trust = self.trust;
                Ok(record)
            }
            Some(_) | None => Err(Illegal::Transition { place: place.clone(), what }),
        }
    }

    fn current(&self, seq: u64) -> Result<&AttemptSummary, Illegal> {
        self.attempts.last().ok_or(Illegal::Header { seq })
    }

    /// The first place that an attempt gets stuck at is the one: what runs after it, such as a hook, is not.
    fn get_stuck(&mut self, place: &Place) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.stuck.get_or_insert_with(|| place.clone());
        }
    }

    fn get_going(&mut self, place: &Place) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.stuck.take_if(|stuck| stuck == place);
        }
    }
}
