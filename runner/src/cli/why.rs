//! `runner why STEP`: what was decided about a step, why, and on what evidence.
//!
//! All of it is read from the journals: nothing is probed, nothing is decided anew.

use std::{collections::BTreeSet, io::Write};

use serde_json::{Value, json};

use super::attempts::Reading;
use crate::report::{self, Form, json, words};
use contract::text::{self, WIDTH, moment, took};
use contract::{
    diagnostic::{Code, Diagnostic, Exit},
    hash::Hash,
    step::{Failure, Finding, Outcome},
};
use journal::{
    Event, Place, Record, Status,
    event::{Decision, Entry, Fingerprint, Header, Question},
    state::AttemptSummary,
};
use state::Store;

/// How many hex digits of a hash people are shown.
const SHORT: usize = 8;

/// Where the answers stand.
const INDENT: usize = 12;

/// Arguments of `why`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The step, as the plan names it
    pub(super) step: String,
    /// The attempt to look at, by its epoch in `history`; the last one by default
    #[arg(long, value_name = "EPOCH")]
    pub(super) attempt: Option<u64>,
}

/// Tells why a step ran, was skipped, was stopped or was not reached; on several targets, one after the other.
///
/// As JSON, one object a line and target: `{step, target, epoch, run, attempt, release, decision, because, words, changed:
/// [{component, old, new}], probe: {finding, question, took-ms, words}, record: {status, run, attempt, epoch, release,
/// began}, outcome: {result, took-ms, failure}, undone}`. What there is not is null.
///
/// # Errors
/// P0210 when the attempt has no such step; else as [`Reading::of`].
pub(super) fn run(args: &Args, store: &Store, form: Form, out: &mut dyn Write) -> Result<Exit, Diagnostic> {
    let reading = Reading::of(store, args.attempt)?;
    let places = places(&reading.entries);
    let asked: Vec<_> = places.iter().filter(|place| place.step.as_str() == args.step).collect();
    if asked.is_empty() {
        return Err(no_such_step(&args.step, &reading.summary, &places));
    }
    let evidence = asked.into_iter().map(|place| Evidence::gather(place, &reading));
    let answer: String = match form {
        Form::Text => evidence.map(|evidence| evidence.text()).collect::<Vec<_>>().join("\n"),
        Form::Json => evidence.map(|evidence| json::line(&evidence.json()) + "\n").collect(),
    };
    report::emit(out, &answer)?;
    Ok(Exit::Success)
}

/// The steps of an attempt: those of its plan, in order, then others that it has events of.
fn places(entries: &[Entry]) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let mut add = |place: &Place| {
        if !places.contains(place) {
            places.push(place.clone());
        }
    };
    for entry in entries {
        match &entry.event {
            Event::Plan { steps, .. } => steps.iter().for_each(|step| add(&step.place)),
            Event::Decision { place, .. } | Event::Intent { place, .. } | Event::UndoIntent { place } => add(place),
            Event::Started(_)
            | Event::Lock { .. }
            | Event::Torn { .. }
            | Event::Progress { .. }
            | Event::Outcome { .. }
            | Event::Probe { .. }
            | Event::UndoOutcome { .. }
            | Event::Override { .. }
            | Event::Ended { .. }
            | Event::Unrecognized => {}
        }
    }
    places
}

fn no_such_step(step: &str, summary: &AttemptSummary, places: &[Place]) -> Diagnostic {
    let epoch = summary.header.epoch;
    let known: BTreeSet<_> = places.iter().map(|place| place.step.as_str()).collect();
    let known = match known.len() {
        0 => "it ended before its plan was written".to_owned(),
        _ => format!("its steps are {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Diagnostic::new(Code("P0210"), Exit::Refused, format!("the attempt with the epoch {epoch} has no step `{step}`"))
        .because(known)
        .hint("name one of its steps, or another attempt by `--attempt EPOCH`; `runner history` lists them")
}

/// All that one attempt says of a step, and what was on record before.
struct Evidence<'a> {
    place: &'a Place,
    summary: &'a AttemptSummary,
    /// The last record before this attempt, and the attempt that made it.
    record: Option<(&'a Record, Option<&'a AttemptSummary>)>,
    decisions: Vec<&'a Decision>,
    intent: Option<&'a Fingerprint>,
    probe: Option<(Question, u64, &'a Finding)>,
    outcome: Option<(u64, &'a Outcome)>,
    undo: Undo<'a>,
}

/// Whether the attempt undid the step.
enum Undo<'a> {
    None,
    Begun,
    Done,
    Failed(&'a Failure),
}

/// A component of the fingerprint that differs from the one on record.
struct Change {
    component: String,
    old: Option<Hash>,
    new: Option<Hash>,
}

impl<'a> Evidence<'a> {
    fn gather(place: &'a Place, reading: &'a Reading) -> Self {
        let record = reading.before.records.get(place).map(|record| {
            let maker = reading.before.attempts.iter().find(|attempt| attempt.header.epoch == record.intent.epoch);
            (record, maker)
        });
        let mut evidence = Self {
            place,
            summary: &reading.summary,
            record,
            decisions: Vec::new(),
            intent: None,
            probe: None,
            outcome: None,
            undo: Undo::None,
        };
        for entry in &reading.entries {
            evidence.note(&entry.event);
        }
        evidence
    }

    fn note(&mut self, event: &'a Event) {
        match event {
            Event::Decision { place, decision } if place == self.place => self.decisions.push(decision),
            Event::Intent { place, fingerprint, .. } if place == self.place => {
                self.intent = Some(fingerprint);
                self.outcome = None;
            }
            Event::Outcome { place, took_ms, result } if place == self.place => {
                self.outcome = Some((*took_ms, result));
            }
            Event::Probe { place, question, took_ms, finding } if place == self.place => {
                self.probe = Some((*question, *took_ms, finding));
            }
            Event::UndoIntent { place } if place == self.place => self.undo = Undo::Begun,
            Event::UndoOutcome { place, failure } if place == self.place => {
                self.undo = failure.as_ref().map_or(Undo::Done, Undo::Failed);
            }
            Event::Started(_)
            | Event::Plan { .. }
            | Event::Lock { .. }
            | Event::Torn { .. }
            | Event::Decision { .. }
            | Event::Intent { .. }
            | Event::Progress { .. }
            | Event::Outcome { .. }
            | Event::Probe { .. }
            | Event::UndoIntent { .. }
            | Event::UndoOutcome { .. }
            | Event::Override { .. }
            | Event::Ended { .. }
            | Event::Unrecognized => {}
        }
    }

    fn changes(&self) -> Vec<Change> {
        let (Some((record, _)), Some(new)) = (self.record, self.intent) else { return Vec::new() };
        let old = &record.intent.fingerprint;
        let change = |component: String| Change {
            old: old.0.get(&component).copied(),
            new: new.0.get(&component).copied(),
            component,
        };
        old.difference(new).into_iter().map(change).collect()
    }

    fn text(&self) -> String {
        let Header { environment, run, attempt, epoch, release, .. } = &self.summary.header;
        let mut answer = format!(
            "{}, epoch {epoch}: {} to {environment} (run {run}, attempt {attempt})\n\n",
            self.place, release.label
        );
        let mut row = |name: &str, value: &str| {
            for (index, line) in text::wrap(value, WIDTH - INDENT, WIDTH - INDENT).iter().enumerate() {
                let name = if index == 0 { name } else { "" };
                answer.push_str(format!("  {name:<8}  {line}").trim_end());
                answer.push('\n');
            }
        };
        match self.decisions.split_first() {
            None => row("decision", &format!("none: {}", self.not_reached())),
            Some((first, then)) => {
                row("decision", &format!("{}, because {}", words::decision(first), words::because(first)));
                for decision in then {
                    row("", &format!("then {}, because {}", words::decision(decision), words::because(decision)));
                }
            }
        }
        for (index, change) in self.changes().iter().enumerate() {
            let short = |hash: Option<Hash>| hash.map_or_else(|| "none".to_owned(), |hash| hash.short(SHORT));
            let change = format!("{}: {} to {}", change.component, short(change.old), short(change.new));
            row(if index == 0 { "changed" } else { "" }, &change);
        }
        row("record", &self.record_words());
        row("probe", &self.probe_words());
        if let Some(outcome) = self.outcome_words() {
            row("outcome", &outcome);
        }
        if let Some(hint) = self.failure().and_then(|failure| failure.hint.as_ref()) {
            row("hint", hint);
        }
        match self.undo {
            Undo::None => {}
            Undo::Begun => row("undo", "begun, and not ended"),
            Undo::Done => row("undo", "done"),
            Undo::Failed(failure) => row("undo", &format!("failed: {}", words::failure(failure))),
        }
        answer
    }

    fn not_reached(&self) -> String {
        let ending = words::ending(self.summary.exit, self.summary.verified, self.summary.stuck.as_ref());
        format!("the attempt did not come to it ({ending})")
    }

    fn record_words(&self) -> String {
        let Some((record, maker)) = self.record else { return "none before this attempt".to_owned() };
        let intent = &record.intent;
        let began = maker.map(|maker| format!(", {}", moment(maker.began))).unwrap_or_default();
        let failure = match &record.status {
            Status::Failed(failure) => format!("; it said: {}", words::failure(failure)),
            Status::Intended | Status::Succeeded(_) | Status::Undoing(_) | Status::Reverted => String::new(),
        };
        format!(
            "{} in epoch {}{began} ({}, run {}, attempt {}){failure}",
            status(&record.status),
            intent.epoch,
            intent.release.label,
            intent.run,
            intent.attempt
        )
    }

    fn probe_words(&self) -> String {
        match self.probe {
            None => "not asked".to_owned(),
            Some((question, ms, finding)) => {
                let about = match question {
                    Question::Current => "",
                    Question::Recorded => ", asked about the input on record",
                };
                format!("{}{about} ({})", words::finding(finding), took(ms))
            }
        }
    }

    fn outcome_words(&self) -> Option<String> {
        match (self.outcome, self.intent) {
            (None, None) => None,
            (None, Some(_)) => Some("none on record: it was killed while it ran, or still runs".to_owned()),
            (Some((ms, Outcome::Succeeded { receipt })), _) => {
                let notes = words::notes(&receipt.notes);
                let notes = if notes.is_empty() { notes } else { format!(": {notes}") };
                Some(format!("succeeded in {}{notes}", took(ms)))
            }
            (Some((ms, Outcome::Failed { failure })), _) => {
                Some(format!("failed after {}: {}", took(ms), words::failure(failure)))
            }
            (Some((ms, Outcome::Unknown { failure })), _) => {
                Some(format!("unknown after {}: {}", took(ms), words::failure(failure)))
            }
        }
    }

    fn failure(&self) -> Option<&'a Failure> {
        match self.outcome {
            Some((_, Outcome::Failed { failure } | Outcome::Unknown { failure })) => Some(failure),
            Some((_, Outcome::Succeeded { .. })) | None => None,
        }
    }

    fn json(&self) -> Value {
        let Header { run, attempt, epoch, release, .. } = &self.summary.header;
        let decision = self.decisions.last();
        let changes = self.changes();
        let changed: Vec<_> = changes
            .iter()
            .map(|Change { component, old, new }| json!({"component": component, "old": old, "new": new}))
            .collect();
        json!({
            "step": self.place.step,
            "target": self.place.target,
            "epoch": epoch,
            "run": run,
            "attempt": attempt,
            "release": release,
            "decision": decision.map(|decision| words::decision(decision)),
            "because": decision.map(|decision| words::reason_name(words::reason_of(decision))),
            "words": decision.map_or_else(|| self.not_reached(), |decision| words::because(decision)),
            "changed": changed,
            "probe": self.probe.map(|(question, took_ms, finding)| json!({
                "finding": words::finding_name(finding),
                "question": question,
                "took-ms": took_ms,
                "words": words::finding(finding),
            })),
            "record": self.record.map(|(record, maker)| json!({
                "status": status(&record.status),
                "run": record.intent.run,
                "attempt": record.intent.attempt,
                "epoch": record.intent.epoch,
                "release": record.intent.release,
                "began": maker.map(|maker| maker.began),
            })),
            "outcome": self.outcome.map(|(took_ms, outcome)| json!({
                "result": words::outcome(outcome),
                "took-ms": took_ms,
                "failure": self.failure(),
            })),
            "undone": match self.undo {
                Undo::None => Value::Null,
                Undo::Done => Value::Bool(true),
                Undo::Begun | Undo::Failed(_) => Value::Bool(false),
            },
        })
    }
}

/// The word for how far a step got; `status` uses it too.
pub(super) fn status(status: &Status) -> &'static str {
    match status {
        Status::Intended => "interrupted",
        Status::Succeeded(_) => "succeeded",
        Status::Failed(_) => "failed",
        Status::Undoing(_) => "half undone",
        Status::Reverted => "undone",
    }
}

#[cfg(test)]
mod tests;
