//! The resume decision: one table, as a pure function (docs/journal.md, "Decisions").
//!
//! [`decide`] decides about one step. If the answer depends on the world, it asks for a probe, and the caller calls it
//! again with the finding, so probes run lazily. A test compares it with an independent oracle over every prefix of
//! generated histories (tests/decisions.rs). Deliberately absent: clock, IO, and the order of steps, which the plan
//! fixes.

mod selection;
mod staleness;
mod undo;

use self::{
    InputComparison::{Changed, Same, Upgraded},
    ProbeAnswer::{Absent, Drifted, Failed, Held, Missing, NotAsked, Unknown},
    RecordMode::{Fresh, Resume},
};
use crate::{
    FindingSummary, JournalState, JournalTrust,
    JournalTrust::{Authenticated, Untrusted},
    RecordStatus::{Failed as FailedCleanly, Intended, Reverted, Succeeded, Undoing},
    StepRecord, StepTarget,
    event::{Decision, DecisionReason, DecisionReason as Why, Fingerprint, ProbeInput},
};
use contract::{
    RunId,
    step::{
        ProbeFinding, Receipt, StepFailure, StepOutcome,
        StepPhase::{self, Check},
    },
};
pub use selection::{Selection, StepDisposition};
pub use staleness::{is_made_elsewhere, unpassed_check_since};
pub use undo::{StepsToUndo, UndoCandidate, UndoSupport, staged_steps_to_undo, steps_to_undo};

/// Whether a module has a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeSupport {
    /// The module has a probe.
    Available,
    /// Its probe confirms a success on record, but can't tell whether an interrupted step finished.
    ConfirmsSuccess,
    /// The module has no probe.
    Missing,
}

/// Whether an upgrade of the runner brings another version of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleOrigin {
    /// The module is contained in the runner.
    Official,
    /// The plan's author chose the module's version.
    External,
}

/// Whether a step may run again after an unknown outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RerunSafety {
    /// Running it twice has the same effect as running it once.
    Safe,
    /// It must not run twice without an operator's consent.
    Unsafe,
}

/// What another host recorded of a call whose intent has no outcome here.
#[derive(Clone, Debug, PartialEq)]
pub enum HostOutcome {
    /// It ended so.
    Ended(StepOutcome),
    /// It succeeded, and the host undid it by itself, since nobody confirmed it.
    NotConfirmed,
}

/// The operator's options for a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepOverrides {
    /// `--accept-drift STEP`.
    pub accept_drift: bool,
    /// `--fresh`.
    pub fresh: bool,
    /// `--start-from`, `--only` or `--rerun` names the step: it is not skipped.
    pub selected_by_name: bool,
    /// `--rerun` names a step that it depends on: it is not skipped.
    pub upstream_selected: bool,
    /// The journals of earlier attempts are missing: a step without a record may have run.
    pub journal_missing: bool,
}

/// Everything that the decision about one step depends on.
#[derive(Clone, Debug)]
pub struct DecisionInput<'a> {
    /// The phase in which the step acts.
    pub phase: StepPhase,
    /// Whether it can be probed.
    pub probe_support: ProbeSupport,
    /// Whether it may run twice.
    pub rerun_safety: RerunSafety,
    /// Where its module comes from.
    pub module_origin: ModuleOrigin,
    /// Its last record.
    pub record: Option<&'a StepRecord>,
    /// Its fingerprint now.
    pub fingerprint: &'a Fingerprint,
    /// The current run.
    pub run: &'a RunId,
    /// Whether a step that it depends on ran later than it did, see [`upstream_ran`].
    pub upstream_ran: bool,
    /// The check that did not pass after its success, if the step is one that such a check makes stale, see [`unpassed_check_since`].
    pub unpassed_check: Option<&'a StepTarget>,
    /// Whether its record was made on another machine than its effect must be on, see [`is_made_elsewhere`].
    pub made_elsewhere: bool,
    /// What another host recorded of the call whose intent has no outcome here; none if it knows nothing of exactly that call.
    pub host_outcome: Option<&'a HostOutcome>,
    /// `always: true`: it runs in each attempt.
    pub always: bool,
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

/// Column "mode": whether the records of earlier attempts count.
#[derive(Clone, Copy)]
enum RecordMode {
    Resume,
    /// `--fresh`.
    Fresh,
}

/// Column "inputs": the current fingerprint, compared with the recorded one.
enum InputComparison {
    /// They are the same, or there is no record.
    Same,
    /// Only these components differ, and only an upgrade of the runner changes them.
    Upgraded(Vec<String>),
    /// These components of the fingerprint differ.
    Changed(Vec<String>),
}

/// Column "probe": the finding of the module's probe.
#[derive(Clone, Copy)]
enum ProbeAnswer<'a> {
    /// The module has no probe.
    Missing,
    NotAsked,
    Held(&'a Receipt),
    Absent,
    Drifted(&'a str),
    Unknown(&'a str),
    Failed(&'a StepFailure),
}

/// The doubt about a step that an older runner ran and that can't be probed.
const UPGRADE_DOUBT: &str = "an older runner ran the step, and no probe can tell whether its effect still holds";

/// The doubt about a step that can't be probed, after a check of its run failed.
const STALE_DOUBT: &str =
    "a check failed after the step succeeded, and no probe can tell whether its effect still holds";

/// The doubt about a step that can't be probed, and that another machine ran.
const ELSEWHERE_DOUBT: &str = "another machine ran the step, and no probe can tell whether its effect is here";

/// Decides about one step by the first row that matches.
#[must_use]
pub fn decide(input: &DecisionInput<'_>) -> NextAction {
    let StepOverrides { accept_drift, selected_by_name, upstream_selected, .. } = input.overrides;
    let named = selected_by_name || upstream_selected;
    let requested = if selected_by_name { Why::RequestedByOperator } else { Why::UpstreamRan };
    let (record, phase) = (input.record.map(|record| &record.status), input.phase);
    let is_same_run = input.record.is_some_and(|record| record.intent.run == *input.run);
    let is_safe = input.rerun_safety == RerunSafety::Safe;
    // An operator looked after the record was made; who then asks for a run gets one.
    let is_confirmed = input.record.is_some_and(StepRecord::is_confirmed) && !accept_drift;
    let probe = input.probe();
    let interrupted = || Why::Interrupted { finding: probe.summary() };
    let unconfirmed = || Why::Unconfirmed { finding: probe.summary() };
    let in_doubt = |reason| input.rerun_or_stop(reason, &probe.doubt());
    #[rustfmt::skip]
    let action = match (input.mode(), input.trust(), record, phase, input.inputs(), probe) {
        // An unfinished undo is finished first.
        (_, Authenticated, Some(Undoing(_)), ..) => NextAction::FinishUndo,

        // --fresh ignores records, but still probes a step that must not run twice.
        (Fresh, _, _, Check, ..) => run(Why::Fresh),
        (Fresh, ..) if is_safe => run(Why::Fresh),
        (Fresh, .., Missing) => run(Why::Fresh),
        (Fresh, .., NotAsked) => NextAction::Probe(ProbeInput::Current),
        (Fresh, .., Held(_)) if named => run(requested),
        (Fresh, .., Held(found)) => skip(Why::Held, found),

        // A check changes nothing: if its record is unauthenticated or missing, it runs.
        (Resume, Untrusted, None, Check, ..) => run(Why::NeverRan),
        (Resume, Untrusted, Some(_), Check, ..) => run(Why::Unconfirmed { finding: None }),

        // Records that make any step run.
        (Resume, Authenticated, None, ..) => run(Why::NeverRan),
        (Resume, _, Some(Reverted), ..) => run(Why::Reverted),
        (Resume, _, Some(FailedCleanly(_)), ..) => run(Why::FailedBefore),
        (Resume, _, Some(Succeeded(_)), _, Changed(components), _) => run(Why::Changed { components }),

        // An intent without an outcome.
        (Resume, Authenticated, Some(Intended), Check, ..) => run(Why::Interrupted { finding: None }),
        (Resume, Authenticated, Some(Intended), ..) if let Some(HostOutcome::Ended(StepOutcome::Succeeded { receipt })) = input.host_outcome => {
            adopt(Why::HostRecord, receipt)
        }
        (Resume, Authenticated, Some(Intended), ..) if let Some(HostOutcome::Ended(StepOutcome::Failed { .. })) = input.host_outcome => {
            run(Why::FailedBefore)
        }
        (Resume, Authenticated, Some(Intended), ..) if let Some(HostOutcome::NotConfirmed) = input.host_outcome => {
            run(Why::NotConfirmed)
        }
        (Resume, Authenticated, Some(Intended), .., NotAsked) => NextAction::Probe(ProbeInput::Recorded),
        (Resume, Authenticated, Some(Intended), .., Held(found)) => adopt(interrupted(), found),
        (Resume, Authenticated, Some(Intended), .., Absent) => run(interrupted()),
        (Resume, Authenticated, Some(Intended), .., Missing | Drifted(_) | Unknown(_)) => in_doubt(interrupted()),

        // A success, with the current inputs. After an upgrade of the runner, the probe tells whether the effect still holds.
        (Resume, Authenticated, Some(Succeeded(_)), Check, ..) if input.upstream_ran => run(Why::UpstreamRan),
        (Resume, _, Some(Succeeded(_)), ..) if named => run(requested),
        (Resume, _, Some(Succeeded(_)), ..) if input.always => run(Why::Always),
        (Resume, Authenticated, Some(Succeeded(_)), Check, Upgraded(components), _) => run(Why::Changed { components }),
        (Resume, Authenticated, Some(Succeeded(recorded)), _, Upgraded(_), Missing) if is_same_run && is_confirmed => {
            skip(Why::Trusted, recorded)
        }
        (Resume, Authenticated, Some(Succeeded(_)), _, Upgraded(components), Missing) if is_same_run => {
            input.rerun_or_stop(Why::Changed { components }, UPGRADE_DOUBT)
        }
        (Resume, Authenticated, Some(Succeeded(_)), _, Upgraded(components), Missing) => run(Why::Changed { components }),
        (Resume, Authenticated, Some(Succeeded(_)), Check, _, Missing) => run(Why::NoProbe),
        (Resume, Authenticated, Some(Succeeded(_)), Check, _, Drifted(why) | Unknown(why)) => run(check_failed(why)),
        (Resume, Authenticated, Some(Succeeded(_)), Check, _, Failed(failure)) => run(check_failed(&failure.message)),
        (Resume, Authenticated, Some(Succeeded(recorded)), .., Missing) if is_same_run => match input.doubt() {
            Some((reason, doubt)) => input.rerun_or_stop(reason, doubt),
            None => skip(Why::Trusted, recorded),
        },
        (Resume, Authenticated, Some(Succeeded(_)), .., Missing) => run(Why::NoProbe),
        (Resume, Authenticated, Some(Succeeded(_)), .., NotAsked) => NextAction::Probe(ProbeInput::Current),
        (Resume, Authenticated, Some(Succeeded(recorded)), .., Held(_)) => skip(Why::Held, recorded),
        (Resume, Authenticated, Some(Succeeded(recorded)), .., Unknown(_)) if is_confirmed => skip(Why::Trusted, recorded),

        // An unauthenticated or missing record: the probe is called with the current input. It may find the effect of
        // an earlier input.
        (Resume, Untrusted, .., Missing) => in_doubt(unconfirmed()),
        (Resume, Untrusted, .., NotAsked) => NextAction::Probe(ProbeInput::Current),
        (Resume, Untrusted, .., Changed(components), Held(_)) => run(Why::Changed { components }),
        (Resume, Untrusted, .., Held(found)) => adopt(unconfirmed(), found),
        (Resume, Untrusted, None | Some(Intended | Undoing(_)), .., Absent) => run(unconfirmed()),
        (Resume, Untrusted, None | Some(Intended | Undoing(_)), .., Drifted(_) | Unknown(_)) => in_doubt(unconfirmed()),

        // The effect of the current input does not hold.
        (.., Absent) => run(Why::Absent),
        (.., Drifted(why)) if accept_drift => run(Why::DriftAccepted { why: why.to_owned() }),
        (.., Drifted(why)) => stop(Why::Drifted { why: why.to_owned() }),
        (.., Unknown(why)) => input.rerun_or_stop(Why::Unknown { why: why.to_owned() }, why),
        (.., Failed(failure)) => stop(Why::ProbeFailed { message: failure.message.clone() }),
    };
    action
}

impl<'a> DecisionInput<'a> {
    fn mode(&self) -> RecordMode {
        if self.overrides.fresh { Fresh } else { Resume }
    }

    /// Column "trust": whether the record, or its absence, can be trusted.
    fn trust(&self) -> JournalTrust {
        match self.record {
            Some(record) => record.trust,
            None if self.overrides.journal_missing => Untrusted,
            None => Authenticated,
        }
    }

    fn inputs(&self) -> InputComparison {
        let components = self.record.map(|record| record.intent.fingerprint.difference(self.fingerprint));
        match components {
            None => Same,
            Some(components) if components.is_empty() => Same,
            Some(components) if self.is_upgrade(&components) => Upgraded(components),
            Some(components) => Changed(components),
        }
    }

    /// Whether only an upgrade of the runner can have changed these components since the recorded attempt: the digest of an
    /// official module, the version of the contract, and components that the older runner did not compute.
    fn is_upgrade(&self, components: &[String]) -> bool {
        let Some(record) = self.record else { return false };
        let is_of_runner = |name: &String| match name.as_str() {
            "module" => self.module_origin == ModuleOrigin::Official,
            "contract" => true,
            _ => false,
        };
        let is_new = |name: &String| !record.intent.fingerprint.0.contains_key(name);
        components.iter().any(is_of_runner) && components.iter().all(|name| is_of_runner(name) || is_new(name))
    }

    fn probe(&self) -> ProbeAnswer<'a> {
        let confirms =
            matches!((self.trust(), self.record.map(|record| &record.status)), (Authenticated, Some(Succeeded(_))));
        match (self.probe_support, self.finding) {
            (ProbeSupport::Missing, _) => Missing,
            (ProbeSupport::ConfirmsSuccess, _) if !confirms => Missing,
            (_, None) => NotAsked,
            (_, Some(ProbeFinding::Held { receipt })) => Held(receipt),
            (_, Some(ProbeFinding::Absent)) => Absent,
            (_, Some(ProbeFinding::Drifted { why })) => Drifted(why),
            (_, Some(ProbeFinding::Unknown { why })) => Unknown(why),
            (_, Some(ProbeFinding::Failed { failure })) => Failed(failure),
        }
    }

    /// Why the record of a step without a probe may not say what is so: a check did not pass after it, or it was made elsewhere.
    fn doubt(&self) -> Option<(DecisionReason, &'static str)> {
        match (self.unpassed_check, self.made_elsewhere) {
            (Some(check), _) => Some((Why::Stale { check: check.clone() }, STALE_DOUBT)),
            (None, true) => Some((Why::MadeElsewhere, ELSEWHERE_DOUBT)),
            (None, false) => None,
        }
    }

    /// Runs a step that may already have had its effect, if that is safe or the operator accepts it; otherwise stops.
    fn rerun_or_stop(&self, reason: DecisionReason, doubt: &str) -> NextAction {
        match (self.rerun_safety, self.overrides.accept_drift) {
            (RerunSafety::Safe, _) => run(reason),
            (RerunSafety::Unsafe, true) => run(Why::DriftAccepted { why: doubt.to_owned() }),
            (RerunSafety::Unsafe, false) => stop(reason),
        }
    }
}

impl ProbeAnswer<'_> {
    /// The part of the answer that the reason of a decision records.
    fn summary(self) -> Option<FindingSummary> {
        match self {
            Missing | NotAsked | Failed(_) => None,
            Held(_) => Some(FindingSummary::Held),
            Absent => Some(FindingSummary::Absent),
            Drifted(why) => Some(FindingSummary::Drifted { why: why.to_owned() }),
            Unknown(why) => Some(FindingSummary::Unknown { why: why.to_owned() }),
        }
    }

    /// The doubt that an operator accepts with `--accept-drift`.
    fn doubt(self) -> String {
        let nothing = "the step was interrupted, and its outcome is unknown";
        self.summary().map_or_else(|| nothing.to_owned(), |finding| finding.to_string())
    }
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

fn adopt(reason: DecisionReason, receipt: &Receipt) -> NextAction {
    NextAction::Decided(Decision::Adopt { reason, receipt: receipt.clone() })
}

fn check_failed(why: &str) -> DecisionReason {
    Why::CheckFailed { why: why.to_owned() }
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
