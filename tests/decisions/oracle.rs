//! The table of DESIGN §6, written a second time and in another way: over the raw events of a history, scanned backwards,
//! with answers in words. It shares no code with `schedule` or with the fold; where the two differ, one of them is wrong.

use contract::{
    RunId,
    step::{Finding, Outcome, Receipt},
};
use journal::{
    Event, Place,
    decision::{Orders, Probing, Repeat},
    event::{Decision, Entry, Fingerprint},
};

/// What the newest event of a step that says anything about it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    Nothing,
    Begun,
    Done,
    Failed,
    HalfUndone,
    Undone,
}

/// All that a history tells about one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Past<'a> {
    pub(crate) last: Last,
    /// Of the newest intent.
    pub(crate) fingerprint: Option<&'a Fingerprint>,
    /// The run of the newest intent.
    pub(crate) run: Option<&'a RunId>,
    /// Of the success, if that is the last word.
    pub(crate) receipt: Option<&'a Receipt>,
    /// Whether the last word is of a journal that anybody could have written.
    pub(crate) is_hearsay: bool,
}

/// Reads a history backwards.
pub(crate) fn past<'a>(history: &'a [Entry], hearsay: &[bool], place: &Place) -> Past<'a> {
    let mut past = Past { last: Last::Nothing, fingerprint: None, run: None, receipt: None, is_hearsay: false };
    for (index, entry) in history.iter().enumerate().rev() {
        if about(&entry.event) != Some(place) {
            continue;
        }
        let (says, receipt) = match &entry.event {
            Event::UndoOutcome { failure: None, .. } => (Last::Undone, None),
            Event::UndoOutcome { failure: Some(_), .. } | Event::UndoIntent { .. } => (Last::HalfUndone, None),
            Event::Outcome { result: Outcome::Succeeded { receipt }, .. }
            | Event::Decision { decision: Decision::Adopt { receipt, .. }, .. } => (Last::Done, Some(receipt)),
            Event::Outcome { result: Outcome::Failed { .. }, .. } => (Last::Failed, None),
            Event::Intent { .. } => (Last::Begun, None),
            // A trap says nothing: the intent before it is the last word.
            _ => continue,
        };
        if past.last == Last::Nothing {
            (past.last, past.receipt, past.is_hearsay) = (says, receipt, hearsay[index]);
        }
        if let Event::Intent { fingerprint, .. } = &entry.event {
            past.fingerprint = Some(fingerprint);
            past.run = history[..index].iter().rev().find_map(|entry| match &entry.event {
                Event::Started(header) => Some(&header.run),
                _ => None,
            });
            break;
        }
    }
    past
}

/// The index of the attempt in which a step was begun last.
pub(crate) fn begun_in(history: &[Entry], place: &Place) -> Option<usize> {
    let intent =
        history.iter().rposition(|entry| matches!(&entry.event, Event::Intent { place: p, .. } if p == place))?;
    Some(history[..intent].iter().filter(|entry| matches!(entry.event, Event::Started(_))).count())
}

/// Whether an event may come next: no outcome without its intent in the same attempt, nothing begun while an undo is
/// open, nothing undone that never was.
pub(crate) fn may_follow(history: &[Entry], event: &Event) -> bool {
    if history.is_empty() {
        return matches!(event, Event::Started(_));
    }
    let last = |place| past(history, &vec![false; history.len()], place).last;
    // The newest step of the protocol that this attempt wrote about it.
    let open = |place: &Place| {
        let this_attempt = history.iter().rev().take_while(|entry| !matches!(entry.event, Event::Started(_)));
        this_attempt.map(|entry| &entry.event).find(|event| {
            about(event) == Some(place)
                && match event {
                    Event::Intent { .. }
                    | Event::Outcome { .. }
                    | Event::UndoIntent { .. }
                    | Event::UndoOutcome { .. } => true,
                    Event::Decision { decision, .. } => matches!(decision, Decision::Adopt { .. }),
                    _ => false,
                }
        })
    };
    match event {
        Event::Intent { place, .. } => !matches!(open(place), Some(Event::UndoIntent { .. })),
        Event::Outcome { place, .. } => matches!(open(place), Some(Event::Intent { .. })),
        Event::Decision { place, decision: Decision::Adopt { .. } } => last(place) == Last::Begun,
        Event::UndoIntent { place } => !matches!(last(place), Last::Nothing | Last::Undone),
        Event::UndoOutcome { place, .. } => matches!(open(place), Some(Event::UndoIntent { .. })),
        _ => true,
    }
}

fn about(event: &Event) -> Option<&Place> {
    match event {
        Event::Decision { place, .. }
        | Event::Intent { place, .. }
        | Event::Progress { place, .. }
        | Event::Outcome { place, .. }
        | Event::Probe { place, .. }
        | Event::UndoIntent { place }
        | Event::UndoOutcome { place, .. } => Some(place),
        _ => None,
    }
}

/// What the table is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) past: Past<'a>,
    pub(crate) is_check: bool,
    pub(crate) probing: Probing,
    pub(crate) repeat: Repeat,
    pub(crate) now: &'a Fingerprint,
    pub(crate) run: &'a RunId,
    pub(crate) upstream_ran: bool,
    pub(crate) orders: Orders,
    pub(crate) finding: Option<&'a Finding>,
}

/// The answer: what to do, why, and whose receipt goes with it.
pub(crate) type Answer = (&'static str, &'static str, &'static str);

const NONE: &str = "no receipt";
const RECORDED: &str = "recorded receipt";
const FOUND: &str = "found receipt";

const ASK_CURRENT: Answer = ("probe", "current", NONE);
const ASK_RECORDED: Answer = ("probe", "recorded", NONE);

fn run(why: &'static str) -> Answer {
    ("run", why, NONE)
}

fn stop(why: &'static str) -> Answer {
    ("stop", why, NONE)
}

/// The rows of the table, from the top; the first that fits answers.
pub(crate) fn answer(asked: &Asked<'_>) -> Answer {
    let has_probe = asked.probing == Probing::Available;
    let repeatable = asked.repeat == Repeat::Safe;
    let Orders { accept_drift, fresh, named, unrecorded } = asked.orders;
    let is_hearsay = asked.past.is_hearsay || (unrecorded && asked.past.last == Last::Nothing);
    let same = asked.past.fingerprint == Some(asked.now);
    let found = asked.finding.filter(|_| has_probe).map(|finding| match finding {
        Finding::Held { .. } => "held",
        Finding::Absent => "absent",
        Finding::Drifted { .. } => "drifted",
        Finding::Unknown { .. } => "unknown",
        Finding::Failed { .. } => "failed",
    });

    if asked.past.last == Last::HalfUndone && !is_hearsay {
        return ("finish undo", "", NONE);
    }
    if fresh {
        if repeatable || asked.is_check || !has_probe {
            return run("fresh");
        }
        return match found {
            None => ASK_CURRENT,
            Some("held") if named => run("operator-word"),
            Some("held") => ("skip", "held", FOUND),
            Some("absent") => run("absent"),
            Some("drifted" | "unknown") if accept_drift => run("drift-accepted"),
            Some("drifted") => stop("drifted"),
            Some("unknown") => stop("unknown"),
            Some(_) => stop("probe-failed"),
        };
    }
    if is_hearsay {
        let is_new = asked.past.last == Last::Nothing;
        let in_doubt = match (repeatable, accept_drift) {
            (true, _) => run("unconfirmed"),
            (false, true) => run("drift-accepted"),
            (false, false) => stop("unconfirmed"),
        };
        return match (asked.past.last, found) {
            (Last::Nothing, _) if asked.is_check => run("never-ran"),
            _ if asked.is_check => run("unconfirmed"),
            (Last::Undone, _) => run("reverted"),
            (Last::Failed, _) => run("failed-before"),
            (Last::Done, _) if !same => run("changed"),
            (Last::Done, _) if named => run("operator-word"),
            _ if !has_probe => in_doubt,
            (_, None) => ASK_CURRENT,
            (_, Some("held")) if same || is_new => ("adopt", "unconfirmed", FOUND),
            (_, Some("held")) => run("changed"),
            (_, Some("failed")) => stop("probe-failed"),
            (Last::Done, Some("absent")) => run("absent"),
            (Last::Done, Some("unknown")) if repeatable => run("unknown"),
            (Last::Done, Some(_)) if accept_drift => run("drift-accepted"),
            (Last::Done, Some("drifted")) => stop("drifted"),
            (Last::Done, Some(_)) => stop("unknown"),
            (_, Some("absent")) => run("unconfirmed"),
            (_, Some(_)) => in_doubt,
        };
    }
    match asked.past.last {
        Last::Nothing => return run("never-ran"),
        Last::Undone => return run("reverted"),
        Last::Failed => return run("failed-before"),
        Last::Begun if asked.is_check => return run("interrupted"),
        Last::Begun => {
            let in_doubt = match (repeatable, accept_drift) {
                (true, _) => run("interrupted"),
                (false, true) => run("drift-accepted"),
                (false, false) => stop("interrupted"),
            };
            return match found {
                _ if !has_probe => in_doubt,
                None => ASK_RECORDED,
                Some("held") => ("adopt", "interrupted", FOUND),
                Some("absent") => run("interrupted"),
                Some("drifted" | "unknown") => in_doubt,
                Some(_) => stop("probe-failed"),
            };
        }
        Last::Done | Last::HalfUndone => {}
    }
    if !same {
        return run("changed");
    }
    if asked.is_check {
        return match found {
            _ if asked.upstream_ran => run("upstream-ran"),
            _ if named => run("operator-word"),
            _ if !has_probe => run("no-probe"),
            None => ASK_CURRENT,
            Some("held") => ("skip", "held", RECORDED),
            Some("absent") => run("absent"),
            Some(_) => run("check-failed"),
        };
    }
    let same_run = asked.past.run == Some(asked.run);
    match found {
        _ if named => run("operator-word"),
        _ if !has_probe && same_run => ("skip", "trusted", RECORDED),
        _ if !has_probe => run("no-probe"),
        None => ASK_CURRENT,
        Some("held") => ("skip", "held", RECORDED),
        Some("absent") => run("absent"),
        Some("unknown") if repeatable => run("unknown"),
        Some("drifted" | "unknown") if accept_drift => run("drift-accepted"),
        Some("drifted") => stop("drifted"),
        Some("unknown") => stop("unknown"),
        Some(_) => stop("probe-failed"),
    }
}
