//! (Plan, State) → decisions: the table of DESIGN §6, as pure functions.
//!
//! [`decide`] looks at one step. Where the answer hangs on the world it asks for a probe and is called again with the
//! finding, so probes run lazily. It agrees with an oracle written on its own, over every prefix of generated histories
//! (tests/decisions.rs). Deliberately absent: clock, IO, and the order of steps, which the plan fixes.

use crate::{
    JournalState, JournalTrust, RecordStatus, StepRecord, StepTarget,
    event::{Decision, DecisionReason, Fingerprint, ProbeInput},
};
use contract::{
    RunId, StepId,
    step::{ProbeFinding, Receipt, StepFailure, StepPhase},
};

/// Whether a module can tell if an effect holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeSupport {
    /// It has a probe.
    Available,
    /// It has none.
    Missing,
}

/// Whether a step may run again after an outcome that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RerunSafety {
    /// Running it twice is as good as once.
    Safe,
    /// It must not run twice unasked.
    Unsafe,
}

/// What the operator said about a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepOverrides {
    /// `--accept-drift STEP`.
    pub accept_drift: bool,
    /// `--fresh`.
    pub fresh: bool,
    /// It is named by `--start-from` or `--only`: it is not skipped.
    pub selected_by_name: bool,
    /// The journals of earlier attempts are missing: a step without a record may have been begun.
    pub journal_missing: bool,
}

/// All that the decision about one step hangs on.
#[derive(Clone, Debug)]
pub struct DecisionInput<'a> {
    /// When it acts.
    pub phase: StepPhase,
    /// Whether it can be probed.
    pub probe_support: ProbeSupport,
    /// Whether it may be repeated.
    pub rerun_safety: RerunSafety,
    /// Its last record.
    pub record: Option<&'a StepRecord>,
    /// What it depends on now.
    pub fingerprint: &'a Fingerprint,
    /// This run.
    pub run: &'a RunId,
    /// Something that it depends on acted after it did, see [`upstream_ran`].
    pub upstream_ran: bool,
    /// What the operator said.
    pub overrides: StepOverrides,
    /// What the probe found, if [`decide`] has asked already.
    pub finding: Option<&'a ProbeFinding>,
}

/// What comes next for a step.
#[derive(Clone, Debug, PartialEq)]
pub enum NextAction {
    /// Ask the module's probe this, and decide again with the finding.
    Probe(ProbeInput),
    /// Finish an undo that was begun, and decide again.
    FinishUndo,
    /// Do this. After an adoption, decide again.
    Decided(Decision),
}

/// Decides about one step.
#[must_use]
pub fn decide(input: &DecisionInput<'_>) -> NextAction {
    let is_confirmed = match input.record {
        Some(record) => record.trust == JournalTrust::Authenticated,
        None => !input.overrides.journal_missing,
    };
    if is_confirmed && matches!(input.record.map(|record| &record.status), Some(RecordStatus::Undoing(_))) {
        return NextAction::FinishUndo;
    }
    if input.overrides.fresh {
        return decide_fresh(input);
    }
    if input.phase == StepPhase::Check {
        return if is_confirmed { decide_check(input) } else { decide_untrusted_check(input) };
    }
    if !is_confirmed {
        return decide_untrusted_record(input);
    }
    let Some(record) = input.record else { return run(DecisionReason::NeverRan) };
    match &record.status {
        RecordStatus::Reverted => run(DecisionReason::Reverted),
        RecordStatus::Failed(_) => run(DecisionReason::FailedBefore),
        RecordStatus::Succeeded(receipt) => decide_succeeded(input, record, receipt),
        RecordStatus::Intended => decide_interrupted(input),
        RecordStatus::Undoing(_) => NextAction::FinishUndo,
    }
}

fn decide_succeeded(facts: &DecisionInput<'_>, record: &StepRecord, receipt: &Receipt) -> NextAction {
    let components = record.intent.fingerprint.difference(facts.fingerprint);
    if !components.is_empty() {
        return run(DecisionReason::Changed { components });
    }
    if facts.overrides.selected_by_name {
        return run(DecisionReason::RequestedByOperator);
    }
    match (facts.probe_support, facts.finding) {
        (ProbeSupport::Missing, _) if record.intent.run == *facts.run => skip(DecisionReason::Trusted, receipt),
        (ProbeSupport::Missing, _) => run(DecisionReason::NoProbe),
        (ProbeSupport::Available, None) => NextAction::Probe(ProbeInput::Current),
        (ProbeSupport::Available, Some(ProbeFinding::Held { .. })) => skip(DecisionReason::Held, receipt),
        (ProbeSupport::Available, Some(finding)) => decide_effect_not_held(facts, finding),
    }
}

/// The effect of the current input does not hold.
fn decide_effect_not_held(facts: &DecisionInput<'_>, finding: &ProbeFinding) -> NextAction {
    match finding {
        ProbeFinding::Held { receipt } => skip(DecisionReason::Held, receipt),
        ProbeFinding::Absent => run(DecisionReason::Absent),
        ProbeFinding::Drifted { why } if facts.overrides.accept_drift => {
            run(DecisionReason::DriftAccepted { why: why.clone() })
        }
        ProbeFinding::Drifted { why } => stop(DecisionReason::Drifted { why: why.clone() }),
        ProbeFinding::Unknown { why } => match facts.rerun_safety {
            RerunSafety::Safe => run(DecisionReason::Unknown { why: why.clone() }),
            RerunSafety::Unsafe if facts.overrides.accept_drift => {
                run(DecisionReason::DriftAccepted { why: why.clone() })
            }
            RerunSafety::Unsafe => stop(DecisionReason::Unknown { why: why.clone() }),
        },
        ProbeFinding::Failed { failure } => stop(probe_failed(failure)),
    }
}

/// There is an intent, and no outcome.
fn decide_interrupted(facts: &DecisionInput<'_>) -> NextAction {
    let finding = match (facts.probe_support, facts.finding) {
        (ProbeSupport::Available, None) => return NextAction::Probe(ProbeInput::Recorded),
        (ProbeSupport::Available, Some(finding)) => Some(finding),
        (ProbeSupport::Missing, _) => None,
    };
    decide_unknown_outcome(facts, finding, |finding| DecisionReason::Interrupted { finding })
}

/// It was begun, or may have been, and nothing but the probe tells how it ended.
fn decide_unknown_outcome(
    facts: &DecisionInput<'_>,
    finding: Option<&ProbeFinding>,
    reason: fn(Option<String>) -> DecisionReason,
) -> NextAction {
    let unless_rerun_unsafe = |what: Option<String>| match facts.rerun_safety {
        RerunSafety::Safe => run(reason(what)),
        RerunSafety::Unsafe if facts.overrides.accept_drift => run(DecisionReason::DriftAccepted {
            why: what.unwrap_or_else(|| "it was begun, and nothing tells how it ended".into()),
        }),
        RerunSafety::Unsafe => stop(reason(what)),
    };
    match finding {
        Some(ProbeFinding::Held { receipt }) => {
            NextAction::Decided(Decision::Adopt { reason: reason(Some("held".to_owned())), receipt: receipt.clone() })
        }
        Some(ProbeFinding::Absent) => run(reason(Some("absent".to_owned()))),
        Some(ProbeFinding::Drifted { why }) => unless_rerun_unsafe(Some(format!("drifted: {why}"))),
        Some(ProbeFinding::Unknown { why }) => unless_rerun_unsafe(Some(format!("unknown: {why}"))),
        Some(ProbeFinding::Failed { failure }) => stop(probe_failed(failure)),
        None => unless_rerun_unsafe(None),
    }
}

/// What is on record is only suggested, or missing. Nothing of it is used but what makes a step run: the probe is asked about
/// the input of now, and what it finds counts.
fn decide_untrusted_record(facts: &DecisionInput<'_>) -> NextAction {
    let is_changed = facts
        .record
        .map(|record| record.intent.fingerprint.difference(facts.fingerprint))
        .filter(|some| !some.is_empty());
    match (facts.record.map(|record| &record.status), &is_changed) {
        (Some(RecordStatus::Reverted), _) => return run(DecisionReason::Reverted),
        (Some(RecordStatus::Failed(_)), _) => return run(DecisionReason::FailedBefore),
        (Some(RecordStatus::Succeeded(_)), Some(components)) => {
            return run(DecisionReason::Changed { components: components.clone() });
        }
        (Some(RecordStatus::Succeeded(_)), None) if facts.overrides.selected_by_name => {
            return run(DecisionReason::RequestedByOperator);
        }
        (Some(RecordStatus::Succeeded(_) | RecordStatus::Intended | RecordStatus::Undoing(_)) | None, _) => {}
    }
    let is_done = matches!(facts.record.map(|record| &record.status), Some(RecordStatus::Succeeded(_)));
    match (facts.probe_support, facts.finding, is_changed) {
        (ProbeSupport::Available, None, _) => NextAction::Probe(ProbeInput::Current),
        // What holds may be the effect of what was begun, which is not what is wanted now.
        (ProbeSupport::Available, Some(ProbeFinding::Held { .. }), Some(components)) => {
            run(DecisionReason::Changed { components })
        }
        (ProbeSupport::Available, Some(finding), _) if is_done && !matches!(finding, ProbeFinding::Held { .. }) => {
            decide_effect_not_held(facts, finding)
        }
        (ProbeSupport::Available, finding, _) => {
            decide_unknown_outcome(facts, finding, |finding| DecisionReason::Unconfirmed { finding })
        }
        (ProbeSupport::Missing, ..) => {
            decide_unknown_outcome(facts, None, |finding| DecisionReason::Unconfirmed { finding })
        }
    }
}

/// A check harms nothing: where its record is not believed, it runs.
fn decide_untrusted_check(facts: &DecisionInput<'_>) -> NextAction {
    if facts.record.is_some() {
        run(DecisionReason::Unconfirmed { finding: None })
    } else {
        run(DecisionReason::NeverRan)
    }
}

/// A check is never skipped on record. It harms nothing, so it runs wherever another step would stop.
fn decide_check(facts: &DecisionInput<'_>) -> NextAction {
    let Some(record) = facts.record else { return run(DecisionReason::NeverRan) };
    let receipt = match &record.status {
        RecordStatus::Reverted => return run(DecisionReason::Reverted),
        RecordStatus::Failed(_) => return run(DecisionReason::FailedBefore),
        RecordStatus::Intended | RecordStatus::Undoing(_) => return run(DecisionReason::Interrupted { finding: None }),
        RecordStatus::Succeeded(receipt) => receipt,
    };
    let components = record.intent.fingerprint.difference(facts.fingerprint);
    if !components.is_empty() {
        return run(DecisionReason::Changed { components });
    }
    if facts.upstream_ran {
        return run(DecisionReason::UpstreamRan);
    }
    if facts.overrides.selected_by_name {
        return run(DecisionReason::RequestedByOperator);
    }
    match (facts.probe_support, facts.finding) {
        (ProbeSupport::Missing, _) => run(DecisionReason::NoProbe),
        (ProbeSupport::Available, None) => NextAction::Probe(ProbeInput::Current),
        (ProbeSupport::Available, Some(ProbeFinding::Held { .. })) => skip(DecisionReason::Held, receipt),
        (ProbeSupport::Available, Some(ProbeFinding::Absent)) => run(DecisionReason::Absent),
        (ProbeSupport::Available, Some(ProbeFinding::Drifted { why } | ProbeFinding::Unknown { why })) => {
            run(DecisionReason::CheckFailed { why: why.clone() })
        }
        (ProbeSupport::Available, Some(ProbeFinding::Failed { failure })) => {
            run(DecisionReason::CheckFailed { why: failure.message.clone() })
        }
    }
}

/// `--fresh`: records are ignored, but what is not repeatable is still probed.
fn decide_fresh(facts: &DecisionInput<'_>) -> NextAction {
    match (facts.phase, facts.rerun_safety, facts.probe_support, facts.finding) {
        (StepPhase::Prepare | StepPhase::Commit, RerunSafety::Unsafe, ProbeSupport::Available, None) => {
            NextAction::Probe(ProbeInput::Current)
        }
        (StepPhase::Prepare | StepPhase::Commit, RerunSafety::Unsafe, ProbeSupport::Available, Some(finding)) => {
            if facts.overrides.selected_by_name && matches!(finding, ProbeFinding::Held { .. }) {
                run(DecisionReason::RequestedByOperator)
            } else {
                decide_effect_not_held(facts, finding)
            }
        }
        (StepPhase::Check, ..) | (_, RerunSafety::Safe, ..) | (_, _, ProbeSupport::Missing, _) => {
            run(DecisionReason::Fresh)
        }
    }
}

fn probe_failed(failure: &StepFailure) -> DecisionReason {
    DecisionReason::ProbeFailed { message: failure.message.clone() }
}

fn run(reason: DecisionReason) -> NextAction {
    NextAction::Decided(Decision::Run { reason })
}

fn stop(reason: DecisionReason) -> NextAction {
    NextAction::Decided(Decision::Stop { reason })
}

fn skip(reason: DecisionReason, receipt: &Receipt) -> NextAction {
    NextAction::Decided(Decision::Skip { reason, receipt: receipt.clone() })
}

/// Whether anything that `place` depends on was begun in a later attempt than `place` itself was.
#[must_use]
pub fn upstream_ran<'a>(
    state: &JournalState,
    step_target: &StepTarget,
    upstream: impl IntoIterator<Item = &'a StepTarget>,
) -> bool {
    let epoch = |step_target: &StepTarget| state.records.get(step_target).map(|record| record.intent.epoch);
    upstream.into_iter().any(|above| epoch(above) > epoch(step_target))
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
pub enum StepDisposition {
    /// It is taken as done.
    AssumeDone,
    /// It is decided as usual; `true` when it is the one that was named and must not be skipped.
    Evaluate { selected_by_name: bool },
    /// It is left alone.
    Exclude,
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

    /// What is said of the step at `index`, when the named one is at `selected_by_name`.
    #[must_use]
    pub fn disposition_of(&self, index: usize, named_index: Option<usize>) -> StepDisposition {
        let order = named_index.map(|named| index.cmp(&named));
        match (self, order) {
            (Self::All, _) | (_, None) => StepDisposition::Evaluate { selected_by_name: false },
            (Self::StartFrom(_) | Self::Only(_), Some(std::cmp::Ordering::Less)) => StepDisposition::AssumeDone,
            (Self::StartFrom(_) | Self::Only(_), Some(std::cmp::Ordering::Equal)) => {
                StepDisposition::Evaluate { selected_by_name: true }
            }
            (Self::StartFrom(_), Some(std::cmp::Ordering::Greater)) => {
                StepDisposition::Evaluate { selected_by_name: false }
            }
            (Self::Until(_), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)) => {
                StepDisposition::Evaluate { selected_by_name: false }
            }
            (Self::Until(_) | Self::Only(_), Some(std::cmp::Ordering::Greater)) => StepDisposition::Exclude,
        }
    }
}

/// Whether a step can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoSupport {
    /// Its module has a revert.
    Possible,
    /// It stays as it is: checks, and what can't be taken back.
    Impossible,
}

/// What must be undone, last first, so that the release before is live again: everything with an effect of this run from
/// the first step on that exposes it, as far as it can be undone. Nothing when users saw nothing of it.
#[must_use]
pub fn steps_to_undo<'a>(
    state: &JournalState,
    run: &RunId,
    order: impl IntoIterator<Item = (&'a StepTarget, UndoSupport)>,
) -> Vec<StepTarget> {
    // What is only suggested drives nothing back.
    let is_ours = |record: &&StepRecord| record.intent.run == *run && record.trust == JournalTrust::Authenticated;
    let of_this_run = |step_target: &StepTarget| state.records.get(step_target).filter(is_ours);
    let mut undo: Vec<StepTarget> = order
        .into_iter()
        .skip_while(|(step_target, _)| {
            !of_this_run(step_target).is_some_and(|record| {
                record.intent.exposes && !matches!(record.status, RecordStatus::Failed(_) | RecordStatus::Reverted)
            })
        })
        .filter(|(_, undoing)| *undoing == UndoSupport::Possible)
        .filter(|(step_target, _)| {
            of_this_run(step_target).is_some_and(|record| match record.status {
                RecordStatus::Succeeded(_) | RecordStatus::Intended | RecordStatus::Undoing(_) => true,
                RecordStatus::Failed(_) | RecordStatus::Reverted => false,
            })
        })
        .map(|(step_target, _)| step_target.clone())
        .collect();
    undo.reverse();
    undo
}
