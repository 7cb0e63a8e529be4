//! The table of docs/journal.md, "Decisions", written a second time and in another way: over the raw events of a history, scanned backwards,
//! with answers in words. It shares no code with `schedule` or with the fold; where the two differ, one of them is wrong.

use contract::{
    MachineId, RunId,
    step::{ProbeFinding, Receipt, StepOutcome},
};
use journal::{
    JournalEvent, StepTarget,
    decision::{HostOutcome, ProbeSupport, RerunSafety, StepOverrides},
    event::{Decision, Fingerprint, JournalEntry},
};

/// What the newest event of a step that says anything about it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OracleStatus {
    NoRecord,
    Started,
    Succeeded,
    Failed,
    UndoUnfinished,
    Reverted,
}

/// All that a history tells about one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OracleRecord<'a> {
    pub(crate) status: OracleStatus,
    /// Of the newest intent.
    pub(crate) fingerprint: Option<&'a Fingerprint>,
    /// The run of the newest intent.
    pub(crate) run: Option<&'a RunId>,
    /// Of the success, if that is the last word.
    pub(crate) receipt: Option<&'a Receipt>,
    /// Whether the last word is of a journal that anybody could have written, or the record holds the mask of an older runner.
    pub(crate) is_untrusted: bool,
}

/// Reads a history backwards.
pub(crate) fn read_record<'a>(history: &'a [JournalEntry], hearsay: &[bool], place: &StepTarget) -> OracleRecord<'a> {
    let mut past = OracleRecord {
        status: OracleStatus::NoRecord,
        fingerprint: None,
        run: None,
        receipt: None,
        is_untrusted: false,
    };
    for (index, entry) in history.iter().enumerate().rev() {
        if step_target_of(&entry.event) != Some(place) {
            continue;
        }
        let (says, receipt) = match &entry.event {
            JournalEvent::UndoOutcome { failure: None, .. } => (OracleStatus::Reverted, None),
            JournalEvent::UndoOutcome { failure: Some(_), .. } | JournalEvent::UndoIntent { .. } => {
                (OracleStatus::UndoUnfinished, None)
            }
            JournalEvent::Outcome { outcome: StepOutcome::Succeeded { receipt }, .. }
            | JournalEvent::Decision { decision: Decision::Adopt { receipt, .. }, .. } => {
                (OracleStatus::Succeeded, Some(receipt))
            }
            JournalEvent::Outcome { outcome: StepOutcome::Failed { .. }, .. } => (OracleStatus::Failed, None),
            JournalEvent::Intent { .. } => (OracleStatus::Started, None),
            // A trap says nothing: the intent before it is the last word.
            _ => continue,
        };
        if past.status == OracleStatus::NoRecord {
            (past.status, past.receipt, past.is_untrusted) = (says, receipt, hearsay[index]);
        }
        let receipt_text = receipt.map(|receipt| format!("{receipt:?}")).unwrap_or_default();
        past.is_untrusted |= receipt_text.contains("***") && is_old(history, index);
        if let JournalEvent::Intent { fingerprint, input, .. } = &entry.event {
            past.fingerprint = Some(fingerprint);
            past.is_untrusted |= is_old(history, index) && input.to_string().contains("***");
            past.run = history[..index].iter().rev().find_map(|entry| match &entry.event {
                JournalEvent::Started(header) => Some(&header.run),
                _ => None,
            });
            break;
        }
    }
    past
}

/// Whether an entry was written by a runner that masked secrets in inputs and receipts.
fn is_old(history: &[JournalEntry], index: usize) -> bool {
    history[..=index]
        .iter()
        .rev()
        .any(|entry| matches!(&entry.event, JournalEvent::Started(header) if header.format.minor < 3))
}

/// The check of the same run that nobody saw pass, begun in no earlier attempt than the step was done in. That it only began tells
/// nothing about a step that must not be done twice.
pub(crate) fn unpassed_check<'a>(
    history: &[JournalEntry],
    untrusted: &[bool],
    place: &StepTarget,
    repeat: RerunSafety,
    checks: &[&'a StepTarget],
) -> Option<&'a StepTarget> {
    let step = read_record(history, untrusted, place);
    let begun = last_started_attempt(history, place)?;
    checks.iter().copied().find(|check| {
        let record = read_record(history, untrusted, check);
        let counts = match repeat {
            RerunSafety::Safe => [OracleStatus::Failed, OracleStatus::Started].contains(&record.status),
            RerunSafety::Unsafe => record.status == OracleStatus::Failed,
        };
        counts
            && record.run == step.run
            && last_started_attempt(history, check).is_some_and(|checked_in| checked_in >= begun)
    })
}

/// The machine of the attempt that said last what is on record: that began the step, or adopted it.
pub(crate) fn machine_of<'a>(history: &'a [JournalEntry], place: &StepTarget) -> Option<&'a MachineId> {
    let said = history.iter().rposition(|entry| match &entry.event {
        JournalEvent::Intent { step_target, .. }
        | JournalEvent::Decision { step_target, decision: Decision::Adopt { .. } } => step_target == place,
        _ => false,
    })?;
    history[..=said].iter().rev().find_map(|entry| match &entry.event {
        JournalEvent::Started(header) => Some(header.machine.as_ref()),
        _ => None,
    })?
}

/// The index of the attempt in which a step was begun last.
pub(crate) fn last_started_attempt(history: &[JournalEntry], place: &StepTarget) -> Option<usize> {
    let intent = history
        .iter()
        .rposition(|entry| matches!(&entry.event, JournalEvent::Intent { step_target: p, .. } if p == place))?;
    Some(history[..intent].iter().filter(|entry| matches!(entry.event, JournalEvent::Started(_))).count())
}

/// Whether an event may come next: no outcome without its intent in the same attempt, nothing begun while an undo is
/// open, nothing undone that never was.
pub(crate) fn may_follow(history: &[JournalEntry], event: &JournalEvent) -> bool {
    if history.is_empty() {
        return matches!(event, JournalEvent::Started(_));
    }
    let last = |place| read_record(history, &vec![false; history.len()], place).status;
    // The newest step of the protocol that this attempt wrote about it.
    let open = |place: &StepTarget| {
        let this_attempt = history.iter().rev().take_while(|entry| !matches!(entry.event, JournalEvent::Started(_)));
        this_attempt.map(|entry| &entry.event).find(|event| {
            step_target_of(event) == Some(place)
                && match event {
                    JournalEvent::Intent { .. }
                    | JournalEvent::Outcome { .. }
                    | JournalEvent::UndoIntent { .. }
                    | JournalEvent::UndoOutcome { .. } => true,
                    JournalEvent::Decision { decision, .. } => matches!(decision, Decision::Adopt { .. }),
                    _ => false,
                }
        })
    };
    match event {
        JournalEvent::Intent { step_target: place, .. } => {
            !matches!(open(place), Some(JournalEvent::UndoIntent { .. }))
        }
        JournalEvent::Outcome { step_target: place, .. } => matches!(open(place), Some(JournalEvent::Intent { .. })),
        JournalEvent::Decision { step_target: place, decision: Decision::Adopt { .. } } => {
            last(place) == OracleStatus::Started
        }
        JournalEvent::UndoIntent { step_target: place } => {
            !matches!(last(place), OracleStatus::NoRecord | OracleStatus::Reverted)
        }
        JournalEvent::UndoOutcome { step_target: place, .. } => {
            matches!(open(place), Some(JournalEvent::UndoIntent { .. }))
        }
        _ => true,
    }
}

fn step_target_of(event: &JournalEvent) -> Option<&StepTarget> {
    match event {
        JournalEvent::Decision { step_target: place, .. }
        | JournalEvent::Intent { step_target: place, .. }
        | JournalEvent::Progress { step_target: place, .. }
        | JournalEvent::Output { step_target: place, .. }
        | JournalEvent::Outcome { step_target: place, .. }
        | JournalEvent::Probe { step_target: place, .. }
        | JournalEvent::UndoIntent { step_target: place }
        | JournalEvent::UndoOutcome { step_target: place, .. } => Some(place),
        _ => None,
    }
}

/// What the table is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OracleInput<'a> {
    pub(crate) record: OracleRecord<'a>,
    /// A check did not pass since.
    pub(crate) is_stale: bool,
    /// The record was made on another machine.
    pub(crate) is_elsewhere: bool,
    /// An operator said since that the step is done.
    pub(crate) is_confirmed: bool,
    /// What the host of the step says of the call that is on record.
    pub(crate) host: Option<&'a HostOutcome>,
    pub(crate) always: bool,
    pub(crate) is_check: bool,
    pub(crate) probing: ProbeSupport,
    pub(crate) repeat: RerunSafety,
    /// Whether the module comes with the runner.
    pub(crate) is_official: bool,
    pub(crate) current: &'a Fingerprint,
    pub(crate) run: &'a RunId,
    pub(crate) upstream_ran: bool,
    pub(crate) overrides: StepOverrides,
    pub(crate) finding: Option<&'a ProbeFinding>,
}

/// The answer: what to do, why, and whose receipt goes with it.
pub(crate) type OracleAnswer = (&'static str, &'static str, &'static str);

const NO_RECEIPT: &str = "no receipt";
const RECORDED_RECEIPT: &str = "recorded receipt";
const PROBED_RECEIPT: &str = "found receipt";
pub(crate) const HOST_RECEIPT: &str = "receipt of the host";

const PROBE_CURRENT: OracleAnswer = ("probe", "current", NO_RECEIPT);
const PROBE_RECORDED: OracleAnswer = ("probe", "recorded", NO_RECEIPT);

fn answer_run(why: &'static str) -> OracleAnswer {
    ("run", why, NO_RECEIPT)
}

fn answer_stop(why: &'static str) -> OracleAnswer {
    ("stop", why, NO_RECEIPT)
}

/// The rows of the table, from the top; the first that fits answers.
pub(crate) fn oracle_answer(asked: &OracleInput<'_>) -> OracleAnswer {
    let trusted_success = asked.record.status == OracleStatus::Succeeded && !asked.record.is_untrusted;
    let has_probe = match asked.probing {
        ProbeSupport::Available => true,
        ProbeSupport::ConfirmsSuccess => trusted_success,
        ProbeSupport::Missing => false,
    };
    let repeatable = asked.repeat == RerunSafety::Safe;
    let StepOverrides { accept_drift, fresh, selected_by_name, upstream_selected, journal_missing: unrecorded } =
        asked.overrides;
    let named = selected_by_name || upstream_selected;
    let word = if selected_by_name { "operator-word" } else { "upstream-ran" };
    let is_hearsay = asked.record.is_untrusted || (unrecorded && asked.record.status == OracleStatus::NoRecord);
    let same = asked.record.fingerprint == Some(asked.current);
    let same_run = asked.record.run == Some(asked.run);
    // Nobody but a newer runner: of what was on record, at most the module of its own differs.
    let upgraded = !same
        && asked.is_official
        && asked.record.fingerprint.is_some_and(|recorded| {
            recorded.0.iter().all(|(name, hash)| asked.current.0.get(name) == Some(hash) || name == "module")
                && recorded.0.get("module") != asked.current.0.get("module")
        });
    let found = asked.finding.filter(|_| has_probe).map(|finding| match finding {
        ProbeFinding::Held { .. } => "held",
        ProbeFinding::Absent => "absent",
        ProbeFinding::Drifted { .. } => "drifted",
        ProbeFinding::Unknown { .. } => "unknown",
        ProbeFinding::Failed { .. } => "failed",
    });

    if asked.record.status == OracleStatus::UndoUnfinished && !is_hearsay {
        return ("finish undo", "", NO_RECEIPT);
    }
    if fresh {
        if repeatable || asked.is_check || !has_probe {
            return answer_run("fresh");
        }
        return match found {
            None => PROBE_CURRENT,
            Some("held") if named => answer_run(word),
            Some("held") => ("skip", "held", PROBED_RECEIPT),
            Some("absent") => answer_run("absent"),
            Some("drifted" | "unknown") if accept_drift => answer_run("drift-accepted"),
            Some("drifted") => answer_stop("drifted"),
            Some("unknown") => answer_stop("unknown"),
            Some(_) => answer_stop("probe-failed"),
        };
    }
    if is_hearsay {
        let is_new = asked.record.status == OracleStatus::NoRecord;
        let in_doubt = match (repeatable, accept_drift) {
            (true, _) => answer_run("unconfirmed"),
            (false, true) => answer_run("drift-accepted"),
            (false, false) => answer_stop("unconfirmed"),
        };
        return match (asked.record.status, found) {
            (OracleStatus::NoRecord, _) if asked.is_check => answer_run("never-ran"),
            _ if asked.is_check => answer_run("unconfirmed"),
            (OracleStatus::Reverted, _) => answer_run("reverted"),
            (OracleStatus::Failed, _) => answer_run("failed-before"),
            (OracleStatus::Succeeded, _) if !same && !upgraded => answer_run("changed"),
            (OracleStatus::Succeeded, _) if named => answer_run(word),
            (OracleStatus::Succeeded, _) if asked.always => answer_run("always"),
            _ if !has_probe => in_doubt,
            (_, None) => PROBE_CURRENT,
            (_, Some("held")) if same || upgraded || is_new => ("adopt", "unconfirmed", PROBED_RECEIPT),
            (_, Some("held")) => answer_run("changed"),
            (_, Some("failed")) => answer_stop("probe-failed"),
            (OracleStatus::Succeeded, Some("absent")) => answer_run("absent"),
            (OracleStatus::Succeeded, Some("unknown")) if repeatable => answer_run("unknown"),
            (OracleStatus::Succeeded, Some(_)) if accept_drift => answer_run("drift-accepted"),
            (OracleStatus::Succeeded, Some("drifted")) => answer_stop("drifted"),
            (OracleStatus::Succeeded, Some(_)) => answer_stop("unknown"),
            (_, Some("absent")) => answer_run("unconfirmed"),
            (_, Some(_)) => in_doubt,
        };
    }
    match asked.record.status {
        OracleStatus::NoRecord => return answer_run("never-ran"),
        OracleStatus::Reverted => return answer_run("reverted"),
        OracleStatus::Failed => return answer_run("failed-before"),
        OracleStatus::Started if asked.is_check => return answer_run("interrupted"),
        OracleStatus::Started => {
            let in_doubt = match (repeatable, accept_drift) {
                (true, _) => answer_run("interrupted"),
                (false, true) => answer_run("drift-accepted"),
                (false, false) => answer_stop("interrupted"),
            };
            match asked.host {
                Some(HostOutcome::Ended(StepOutcome::Succeeded { .. })) => {
                    return ("adopt", "host-record", HOST_RECEIPT);
                }
                Some(HostOutcome::Ended(StepOutcome::Failed { .. })) => return answer_run("failed-before"),
                Some(HostOutcome::NotConfirmed) => return answer_run("not-confirmed"),
                Some(HostOutcome::Ended(StepOutcome::Unknown { .. })) | None => {}
            }
            return match found {
                _ if !has_probe => in_doubt,
                None => PROBE_RECORDED,
                Some("held") => ("adopt", "interrupted", PROBED_RECEIPT),
                Some("absent") => answer_run("interrupted"),
                Some("drifted" | "unknown") => in_doubt,
                Some(_) => answer_stop("probe-failed"),
            };
        }
        OracleStatus::Succeeded | OracleStatus::UndoUnfinished => {}
    }
    if !same && !upgraded {
        return answer_run("changed");
    }
    if asked.is_check {
        return match found {
            _ if asked.upstream_ran => answer_run("upstream-ran"),
            _ if named => answer_run(word),
            _ if asked.always => answer_run("always"),
            _ if upgraded => answer_run("changed"),
            _ if !has_probe => answer_run("no-probe"),
            None => PROBE_CURRENT,
            Some("held") => ("skip", "held", RECORDED_RECEIPT),
            Some("absent") => answer_run("absent"),
            Some(_) => answer_run("check-failed"),
        };
    }
    match found {
        _ if named => answer_run(word),
        _ if asked.always => answer_run("always"),
        _ if upgraded && !has_probe && same_run && asked.is_confirmed && !accept_drift => {
            ("skip", "trusted", RECORDED_RECEIPT)
        }
        _ if upgraded && !has_probe && (repeatable || !same_run) => answer_run("changed"),
        _ if upgraded && !has_probe && accept_drift => answer_run("drift-accepted"),
        _ if upgraded && !has_probe => answer_stop("changed"),
        // What no probe can tell is trusted only where nothing speaks against it.
        _ if !has_probe && same_run && (asked.is_stale || asked.is_elsewhere) => {
            match (repeatable, accept_drift, asked.is_stale) {
                (true, _, true) => answer_run("stale"),
                (true, _, false) => answer_run("made-elsewhere"),
                (false, true, _) => answer_run("drift-accepted"),
                (false, false, true) => answer_stop("stale"),
                (false, false, false) => answer_stop("made-elsewhere"),
            }
        }
        _ if !has_probe && same_run => ("skip", "trusted", RECORDED_RECEIPT),
        _ if !has_probe => answer_run("no-probe"),
        None => PROBE_CURRENT,
        Some("held") => ("skip", "held", RECORDED_RECEIPT),
        Some("absent") => answer_run("absent"),
        Some("unknown") if asked.is_confirmed && !accept_drift => ("skip", "trusted", RECORDED_RECEIPT),
        Some("unknown") if repeatable => answer_run("unknown"),
        Some("drifted" | "unknown") if accept_drift => answer_run("drift-accepted"),
        Some("drifted") => answer_stop("drifted"),
        Some("unknown") => answer_stop("unknown"),
        Some(_) => answer_stop("probe-failed"),
    }
}
