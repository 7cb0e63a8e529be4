//! The resume decision: the table of docs/journal.md as pure functions.
//!
//! [`decide`] decides about one step. If the answer depends on the world, it asks for a probe and is called again with the
//! finding, so probes run lazily. It agrees with an independent oracle over every prefix of generated histories
//! (tests/decisions.rs). Deliberately absent: clock, IO, and the order of steps, which the plan fixes.

use crate::{
    JournalState, JournalTrust, RecordStatus, StepRecord, StepTarget,
    event::{Decision, DecisionReason, Fingerprint, ProbeInput},
};
use contract::{
    RunId, StepId,
    step::{ProbeFinding, Receipt, StepFailure, StepPhase},
};

/// Whether a module has a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeSupport {
    /// The module has a probe.
    Available,
    /// The module has no probe.
    Missing,
}

/// Whether a step may run again after an unknown outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RerunSafety {
    /// Running it twice has the same effect as running it once.
    Safe,
    /// It must not run twice without an operator's consent.
    Unsafe,
}

/// The operator's options for a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepOverrides {
    /// `--accept-drift STEP`.
    pub accept_drift: bool,
    /// `--fresh`.
    pub fresh: bool,
    /// `--start-from` or `--only` names the step: it is not skipped.
    pub selected_by_name: bool,
    /// The journals of earlier attempts are missing: a step without a record may have run.
    pub journal_missing: bool,
}

/// Everything that the decision about one step depends on.
#[derive(Clone, Debug)]
pub struct DecisionInput<'a> {
    /// The phase in which it acts.
    pub phase: StepPhase,
    /// Whether it can be probed.
    pub probe_support: ProbeSupport,
    /// Whether it may run twice.
    pub rerun_safety: RerunSafety,
    /// Its last record.
    pub record: Option<&'a StepRecord>,
    /// Its fingerprint now.
    pub fingerprint: &'a Fingerprint,
    /// The current run.
    pub run: &'a RunId,
    /// Whether a step that it depends on ran later than it did, see [`upstream_ran`].
    pub upstream_ran: bool,
    /// The operator's options.
    pub overrides: StepOverrides,
    /// The probe's finding, if [`decide`] has asked for it.
    pub finding: Option<&'a ProbeFinding>,
}

/// The next action for a step.
#[derive(Clone, Debug, PartialEq)]
pub enum NextAction {
    /// Call the module's probe with this input, and decide again with the finding.
    Probe(ProbeInput),
    /// Finish an unfinished undo, and decide again.
    FinishUndo,
    /// Carry out this decision. After an adoption, decide again.
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

/// Decides if the effect of the current input does not hold.
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

/// Decides if there is an intent without an outcome.
fn decide_interrupted(facts: &DecisionInput<'_>) -> NextAction {
    let finding = match (facts.probe_support, facts.finding) {
        (ProbeSupport::Available, None) => return NextAction::Probe(ProbeInput::Recorded),
        (ProbeSupport::Available, Some(finding)) => Some(finding),
        (ProbeSupport::Missing, _) => None,
    };
    decide_unknown_outcome(facts, finding, |finding| DecisionReason::Interrupted { finding })
}

/// Decides if the step ran or may have run, and only its probe can determine the outcome.
fn decide_unknown_outcome(
    facts: &DecisionInput<'_>,
    finding: Option<&ProbeFinding>,
    reason: fn(Option<String>) -> DecisionReason,
) -> NextAction {
    let unless_rerun_unsafe = |what: Option<String>| match facts.rerun_safety {
        RerunSafety::Safe => run(reason(what)),
        RerunSafety::Unsafe if facts.overrides.accept_drift => run(DecisionReason::DriftAccepted {
            why: what.unwrap_or_else(|| "the step was interrupted, and its outcome is unknown".into()),
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

/// Decides if the record is unauthenticated or missing. Such a record can only make a step run: otherwise the probe is called
/// with the current input, and its finding counts.
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
        // The effect that holds may be that of an earlier input.
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

/// Decides about a check whose record is unauthenticated or missing: it runs, since it changes nothing.
fn decide_untrusted_check(facts: &DecisionInput<'_>) -> NextAction {
    if facts.record.is_some() {
        run(DecisionReason::Unconfirmed { finding: None })
    } else {
        run(DecisionReason::NeverRan)
    }
}

/// Decides about a check. Its record alone never skips it. It changes nothing, so it runs where another step would stop.
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

/// Decides with `--fresh`: records are ignored, but a step that must not run twice is still probed.
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

/// Whether any step of `upstream` was begun in a later attempt than `step_target`.
#[must_use]
pub fn upstream_ran<'a>(
    state: &JournalState,
    step_target: &StepTarget,
    upstream: impl IntoIterator<Item = &'a StepTarget>,
) -> bool {
    let epoch = |step_target: &StepTarget| state.records.get(step_target).map(|record| record.intent.epoch);
    upstream.into_iter().any(|above| epoch(above) > epoch(step_target))
}

/// The steps that the operator selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All steps.
    #[default]
    All,
    /// `--start-from`: the steps before it are assumed to be done.
    StartFrom(StepId),
    /// `--until`: the steps after it are excluded.
    Until(StepId),
    /// `--only`: the steps before it are assumed to be done, those after it are excluded.
    Only(StepId),
}

/// The effect of the selection on one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDisposition {
    /// The step is assumed to be done.
    AssumeDone,
    /// The step is decided as usual; `true` if it is the named step, which must not be skipped.
    Evaluate { selected_by_name: bool },
    /// The step is excluded.
    Exclude,
}

impl Selection {
    /// The command-line option and the step that it names.
    #[must_use]
    pub fn option(&self) -> Option<(&'static str, &StepId)> {
        match self {
            Self::All => None,
            Self::StartFrom(step) => Some(("start-from", step)),
            Self::Until(step) => Some(("until", step)),
            Self::Only(step) => Some(("only", step)),
        }
    }

    /// The effect on the step at `index`, if the named step is at `named_index`.
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
    /// The module has a revert.
    Possible,
    /// The step cannot be undone, or is a check.
    Impossible,
}

/// The steps to undo, last first, so that the previous release is live again: all steps of this run that have an effect, from
/// the first exposing one on, as far as they can be undone. Empty if the release was never exposed.
#[must_use]
pub fn steps_to_undo<'a>(
    state: &JournalState,
    run: &RunId,
    order: impl IntoIterator<Item = (&'a StepTarget, UndoSupport)>,
) -> Vec<StepTarget> {
    // An unauthenticated record undoes nothing.
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
