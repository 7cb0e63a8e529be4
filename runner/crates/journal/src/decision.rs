//! (Plan, State) → decisions: the table of DESIGN §6, as pure functions.
//!
//! [`decide`] looks at one step. Where the answer hangs on the world it asks for a probe and is called again with the
//! finding, so probes run lazily. It agrees with an oracle written on its own, over every prefix of generated histories
//! (tests/decisions.rs). Deliberately absent: clock, IO, and the order of steps, which the plan fixes.

use crate::{
    Place, Record, State, Status, Trust,
    event::{Decision, Fingerprint, Question, Reason},
};
use contract::{
    RunId, StepId,
    step::{Failure, Finding, Phase, Receipt},
};

/// Whether a module can tell if an effect holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probing {
    /// It has a probe.
    Available,
    /// It has none.
    Missing,
}

/// Whether a step may run again after an outcome that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Running it twice is as good as once.
    Safe,
    /// It must not run twice unasked.
    Unsafe,
}

/// What the operator said about a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// `--accept-drift STEP`.
    pub accept_drift: bool,
    /// `--fresh`.
    pub fresh: bool,
    /// It is named by `--start-from` or `--only`: it is not skipped.
    pub named: bool,
    /// The journals of earlier attempts are missing: a step without a record may have been begun.
    pub unrecorded: bool,
}

/// All that the decision about one step hangs on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// When it acts.
    pub phase: Phase,
    /// Whether it can be probed.
    pub probing: Probing,
    /// Whether it may be repeated.
    pub repeat: Repeat,
    /// Its last record.
    pub record: Option<&'a Record>,
    /// What it depends on now.
    pub fingerprint: &'a Fingerprint,
    /// This run.
    pub run: &'a RunId,
    /// Something that it depends on acted after it did, see [`upstream_ran`].
    pub upstream_ran: bool,
    /// What the operator said.
    pub orders: Orders,
    /// What the probe found, if [`decide`] has asked already.
    pub finding: Option<&'a Finding>,
}

/// What comes next for a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Ask the module's probe this, and decide again with the finding.
    Probe(Question),
    /// Finish an undo that was begun, and decide again.
    FinishUndo,
    /// Do this. After an adoption, decide again.
    Decided(Decision),
}

/// Decides about one step.
#[must_use]
pub fn decide(facts: &Facts<'_>) -> Verdict {
    let is_confirmed = match facts.record {
        Some(record) => record.trust == Trust::Believed,
        None => !facts.orders.unrecorded,
    };
    if is_confirmed && matches!(facts.record.map(|record| &record.status), Some(Status::Undoing(_))) {
        return Verdict::FinishUndo;
    }
    if facts.orders.fresh {
        return fresh(facts);
    }
    if facts.phase == Phase::Check {
        return if is_confirmed { check(facts) } else { unconfirmed_check(facts) };
    }
    if !is_confirmed {
        return unconfirmed(facts);
    }
    let Some(record) = facts.record else { return run(Reason::NeverRan) };
    match &record.status {
        Status::Reverted => run(Reason::Reverted),
        Status::Failed(_) => run(Reason::FailedBefore),
        Status::Succeeded(receipt) => succeeded(facts, record, receipt),
        Status::Intended => interrupted(facts),
        Status::Undoing(_) => Verdict::FinishUndo,
    }
}

fn succeeded(facts: &Facts<'_>, record: &Record, receipt: &Receipt) -> Verdict {
    let components = record.intent.fingerprint.difference(facts.fingerprint);
    if !components.is_empty() {
        return run(Reason::Changed { components });
    }
    if facts.orders.named {
        return run(Reason::OperatorWord);
    }
    match (facts.probing, facts.finding) {
        (Probing::Missing, _) if record.intent.run == *facts.run => skip(Reason::Trusted, receipt),
        (Probing::Missing, _) => run(Reason::NoProbe),
        (Probing::Available, None) => Verdict::Probe(Question::Current),
        (Probing::Available, Some(Finding::Held { .. })) => skip(Reason::Held, receipt),
        (Probing::Available, Some(finding)) => not_held(facts, finding),
    }
}

/// The effect of the current input does not hold.
fn not_held(facts: &Facts<'_>, finding: &Finding) -> Verdict {
    match finding {
        Finding::Held { receipt } => skip(Reason::Held, receipt),
        Finding::Absent => run(Reason::Absent),
        Finding::Drifted { why } if facts.orders.accept_drift => run(Reason::DriftAccepted { why: why.clone() }),
        Finding::Drifted { why } => stop(Reason::Drifted { why: why.clone() }),
        Finding::Unknown { why } => match facts.repeat {
            Repeat::Safe => run(Reason::Unknown { why: why.clone() }),
            Repeat::Unsafe if facts.orders.accept_drift => run(Reason::DriftAccepted { why: why.clone() }),
            Repeat::Unsafe => stop(Reason::Unknown { why: why.clone() }),
        },
        Finding::Failed { failure } => stop(probe_failed(failure)),
    }
}

/// There is an intent, and no outcome.
fn interrupted(facts: &Facts<'_>) -> Verdict {
    let finding = match (facts.probing, facts.finding) {
        (Probing::Available, None) => return Verdict::Probe(Question::Recorded),
        (Probing::Available, Some(finding)) => Some(finding),
        (Probing::Missing, _) => None,
    };
    begun(facts, finding, |finding| Reason::Interrupted { finding })
}

/// It was begun, or may have been, and nothing but the probe tells how it ended.
fn begun(facts: &Facts<'_>, finding: Option<&Finding>, reason: fn(Option<String>) -> Reason) -> Verdict {
    let in_doubt = |what: Option<String>| match facts.repeat {
        Repeat::Safe => run(reason(what)),
        Repeat::Unsafe if facts.orders.accept_drift => run(Reason::DriftAccepted {
            why: what.unwrap_or_else(|| "it was begun, and nothing tells how it ended".into()),
        }),
        Repeat::Unsafe => stop(reason(what)),
    };
    match finding {
        Some(Finding::Held { receipt }) => {
            Verdict::Decided(Decision::Adopt { reason: reason(Some("held".to_owned())), receipt: receipt.clone() })
        }
        Some(Finding::Absent) => run(reason(Some("absent".to_owned()))),
        Some(Finding::Drifted { why }) => in_doubt(Some(format!("drifted: {why}"))),
        Some(Finding::Unknown { why }) => in_doubt(Some(format!("unknown: {why}"))),
        Some(Finding::Failed { failure }) => stop(probe_failed(failure)),
        None => in_doubt(None),
    }
}

/// What is on record is only suggested, or missing. Nothing of it is used but what makes a step run: the probe is asked about
/// the input of now, and what it finds counts.
fn unconfirmed(facts: &Facts<'_>) -> Verdict {
    let is_changed = facts
        .record
        .map(|record| record.intent.fingerprint.difference(facts.fingerprint))
        .filter(|some| !some.is_empty());
    match (facts.record.map(|record| &record.status), &is_changed) {
        (Some(Status::Reverted), _) => return run(Reason::Reverted),
        (Some(Status::Failed(_)), _) => return run(Reason::FailedBefore),
        (Some(Status::Succeeded(_)), Some(components)) => {
            return run(Reason::Changed { components: components.clone() });
        }
        (Some(Status::Succeeded(_)), None) if facts.orders.named => return run(Reason::OperatorWord),
        (Some(Status::Succeeded(_) | Status::Intended | Status::Undoing(_)) | None, _) => {}
    }
    let is_done = matches!(facts.record.map(|record| &record.status), Some(Status::Succeeded(_)));
    match (facts.probing, facts.finding, is_changed) {
        (Probing::Available, None, _) => Verdict::Probe(Question::Current),
        // What holds may be the effect of what was begun, which is not what is wanted now.
        (Probing::Available, Some(Finding::Held { .. }), Some(components)) => run(Reason::Changed { components }),
        (Probing::Available, Some(finding), _) if is_done && !matches!(finding, Finding::Held { .. }) => {
            not_held(facts, finding)
        }
        (Probing::Available, finding, _) => begun(facts, finding, |finding| Reason::Unconfirmed { finding }),
        (Probing::Missing, ..) => begun(facts, None, |finding| Reason::Unconfirmed { finding }),
    }
}

/// A check harms nothing: where its record is not believed, it runs.
fn unconfirmed_check(facts: &Facts<'_>) -> Verdict {
    if facts.record.is_some() { run(Reason::Unconfirmed { finding: None }) } else { run(Reason::NeverRan) }
}

/// A check is never skipped on record. It harms nothing, so it runs wherever another step would stop.
fn check(facts: &Facts<'_>) -> Verdict {
    let Some(record) = facts.record else { return run(Reason::NeverRan) };
    let receipt = match &record.status {
        Status::Reverted => return run(Reason::Reverted),
        Status::Failed(_) => return run(Reason::FailedBefore),
        Status::Intended | Status::Undoing(_) => return run(Reason::Interrupted { finding: None }),
        Status::Succeeded(receipt) => receipt,
    };
    let components = record.intent.fingerprint.difference(facts.fingerprint);
    if !components.is_empty() {
        return run(Reason::Changed { components });
    }
    if facts.upstream_ran {
        return run(Reason::UpstreamRan);
    }
    if facts.orders.named {
        return run(Reason::OperatorWord);
    }
    match (facts.probing, facts.finding) {
        (Probing::Missing, _) => run(Reason::NoProbe),
        (Probing::Available, None) => Verdict::Probe(Question::Current),
        (Probing::Available, Some(Finding::Held { .. })) => skip(Reason::Held, receipt),
        (Probing::Available, Some(Finding::Absent)) => run(Reason::Absent),
        (Probing::Available, Some(Finding::Drifted { why } | Finding::Unknown { why })) => {
            run(Reason::CheckFailed { why: why.clone() })
        }
        (Probing::Available, Some(Finding::Failed { failure })) => {
            run(Reason::CheckFailed { why: failure.message.clone() })
        }
    }
}

/// `--fresh`: records are ignored, but what is not repeatable is still probed.
fn fresh(facts: &Facts<'_>) -> Verdict {
    match (facts.phase, facts.repeat, facts.probing, facts.finding) {
        (Phase::Prepare | Phase::Commit, Repeat::Unsafe, Probing::Available, None) => Verdict::Probe(Question::Current),
        (Phase::Prepare | Phase::Commit, Repeat::Unsafe, Probing::Available, Some(finding)) => {
            if facts.orders.named && matches!(finding, Finding::Held { .. }) {
                run(Reason::OperatorWord)
            } else {
                not_held(facts, finding)
            }
        }
        (Phase::Check, ..) | (_, Repeat::Safe, ..) | (_, _, Probing::Missing, _) => run(Reason::Fresh),
    }
}

fn probe_failed(failure: &Failure) -> Reason {
    Reason::ProbeFailed { message: failure.message.clone() }
}

fn run(reason: Reason) -> Verdict {
    Verdict::Decided(Decision::Run { reason })
}

fn stop(reason: Reason) -> Verdict {
    Verdict::Decided(Decision::Stop { reason })
}

fn skip(reason: Reason, receipt: &Receipt) -> Verdict {
    Verdict::Decided(Decision::Skip { reason, receipt: receipt.clone() })
}

/// Whether anything that `place` depends on was begun in a later attempt than `place` itself was.
#[must_use]
pub fn upstream_ran<'a>(state: &State, place: &Place, upstream: impl IntoIterator<Item = &'a Place>) -> bool {
    let epoch = |place: &Place| state.records.get(place).map(|record| record.intent.epoch);
    upstream.into_iter().any(|above| epoch(above) > epoch(place))
}

/// Which steps the operator selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All.
    #[default]
    All,
    /// `--start-from`: what comes before is taken as the operator's word.
    StartFrom(StepId),
    /// `--until`: what comes after is left.
    Until(StepId),
    /// `--only`: before is the operator's word, after is left.
    Only(StepId),
}

/// What the selection says of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// It is taken as done.
    Word,
    /// It is decided as usual; `true` when it is the one that was named and must not be skipped.
    Act { named: bool },
    /// It is left alone.
    Leave,
}

impl Selection {
    /// The option of the command line and the step that it names.
    #[must_use]
    pub fn option(&self) -> Option<(&'static str, &StepId)> {
        match self {
            Self::All => None,
            Self::StartFrom(step) => Some(("start-from", step)),
            Self::Until(step) => Some(("until", step)),
            Self::Only(step) => Some(("only", step)),
        }
    }

    /// What is said of the step at `index`, when the named one is at `named`.
    #[must_use]
    pub fn of(&self, index: usize, named: Option<usize>) -> Selected {
        let order = named.map(|named| index.cmp(&named));
        match (self, order) {
            (Self::All, _) | (_, None) => Selected::Act { named: false },
            (Self::StartFrom(_) | Self::Only(_), Some(std::cmp::Ordering::Less)) => Selected::Word,
            (Self::StartFrom(_) | Self::Only(_), Some(std::cmp::Ordering::Equal)) => Selected::Act { named: true },
            (Self::StartFrom(_), Some(std::cmp::Ordering::Greater)) => Selected::Act { named: false },
            (Self::Until(_), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)) => {
                Selected::Act { named: false }
            }
            (Self::Until(_) | Self::Only(_), Some(std::cmp::Ordering::Greater)) => Selected::Leave,
        }
    }
}

/// Whether a step can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undoing {
    /// Its module has a revert.
    Possible,
    /// It stays as it is: checks, and what can't be taken back.
    Impossible,
}

/// What must be undone, last first, so that the release before is live again: everything with an effect of this run from
/// the first step on that exposes it, as far as it can be undone. Nothing when users saw nothing of it.
#[must_use]
pub fn rollback<'a>(state: &State, run: &RunId, order: impl IntoIterator<Item = (&'a Place, Undoing)>) -> Vec<Place> {
    // What is only suggested drives nothing back.
    let is_ours = |record: &&Record| record.intent.run == *run && record.trust == Trust::Believed;
    let of_this_run = |place: &Place| state.records.get(place).filter(is_ours);
    let mut undo: Vec<Place> = order
        .into_iter()
        .skip_while(|(place, _)| {
            !of_this_run(place).is_some_and(|record| {
                record.intent.exposes && !matches!(record.status, Status::Failed(_) | Status::Reverted)
            })
        })
        .filter(|(_, undoing)| *undoing == Undoing::Possible)
        .filter(|(place, _)| {
            of_this_run(place).is_some_and(|record| match record.status {
                Status::Succeeded(_) | Status::Intended | Status::Undoing(_) => true,
                Status::Failed(_) | Status::Reverted => false,
            })
        })
        .map(|(place, _)| place.clone())
        .collect();
    undo.reverse();
    undo
}
