//! What of a journal is worth a line, and how important it is.
//!
//! [`Story::tell`] takes entries in order and gives what is to be shown; it remembers what a later line needs (why a step
//! runs, how long its probe took). Deliberately absent: writing, widths and colours ([`super::terminal`]).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{label, terminal::Verbosity, words};
use contract::text::{self, between, took};
use contract::{
    diagnostic::Exit,
    step::{Level, Outcome, Progress},
};
use journal::event::{Decision, Entry, Event, Header, ORDERS, Place, Question};

/// Something to be shown.
#[derive(Debug, PartialEq)]
pub(super) enum Telling {
    /// What this attempt is.
    Heading(String),
    /// A whole line.
    Line(Line),
    /// The same; what the step itself said.
    Said(Line),
    /// A step begins to act, or to be undone.
    Begun { word: &'static str, label: String, why: String },
    /// The running step is so far.
    Meter { label: String, task: String, done: u64, total: Option<u64>, unit: String },
    /// The running step ended; its line follows.
    Over,
}

/// One line about one step.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    /// How chatty the user must want it.
    pub(super) needs: Verbosity,
    /// How it looks.
    pub(super) tone: Tone,
    /// The first word, for eyes and `grep`; at most six columns.
    pub(super) word: &'static str,
    /// The step, `migrate` or `migrate@web1`; empty when the line is about none.
    pub(super) label: String,
    /// Why the step ran, which the line that it began with may have said already; foreign.
    pub(super) why: Option<String>,
    /// The rest; foreign.
    pub(super) text: String,
    /// How long it took, if that is known.
    pub(super) took_ms: Option<u64>,
}

impl Line {
    /// Why the step ran, and the rest: for who was not told when it began.
    pub(super) fn with_why(&self) -> String {
        match &self.why {
            Some(why) if self.text.is_empty() => why.clone(),
            Some(why) => format!("{why}; {}", self.text),
            None => self.text.clone(),
        }
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Done.
    Good,
    /// Nothing was to be done.
    Calm,
    /// Failed.
    Bad,
    /// An operator must look.
    Doubt,
    /// In between.
    Plain,
}

/// What became of a step, for the last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Ran,
    Skipped,
    Adopted,
    Failed,
    InDoubt,
    Undone,
}

/// One attempt, as told so far.
#[derive(Debug, Default)]
pub(super) struct Story {
    header: Option<Header>,
    began: Option<Timestamp>,
    last: Option<Timestamp>,
    verified: bool,
    reasons: BTreeMap<Place, String>,
    probed: BTreeMap<Place, u64>,
    fates: BTreeMap<Place, Fate>,
    stuck: Option<Place>,
    width: usize,
}

impl Story {
    /// The width of the column of steps.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// What is to be shown of an entry. `continues` says after what this attempt goes on, if it does.
    pub(super) fn tell(&mut self, entry: &Entry, continues: Option<&str>) -> Vec<Telling> {
        self.began.get_or_insert(entry.at);
        self.last = Some(entry.at);
        match &entry.event {
            Event::Started(header) => {
                self.header = Some(header.clone());
                let continues = continues.map(|after| {
                    let text = format!("after {after}");
                    line(Verbosity::Normal, Tone::Plain, "resume", String::new(), text, None)
                });
                [Telling::Heading(heading(header))].into_iter().chain(continues).collect()
            }
            Event::Plan { digest, path, steps } => {
                self.width = steps.iter().map(|step| text::columns(&label(&step.place))).max().unwrap_or(0).min(24);
                let text = format!("{path}, {}, {}", text::amount(steps.len() as u64, None, "steps"), digest.short(8));
                vec![aside("plan", text)]
            }
            Event::Torn { file, bytes } => {
                let text = format!("{file} ended in a torn line; its {bytes} bytes were dropped");
                vec![line(Verbosity::Normal, Tone::Plain, "torn", String::new(), text, None)]
            }
            Event::Lock { resource, holder } => vec![aside("lock", format!("{resource} is held by {holder}"))],
            Event::Override { option, step } => {
                let text = match step {
                    Some(step) => format!("--{option} {step}"),
                    None if ORDERS.contains(&option.as_str()) => format!("runner {option}"),
                    None => format!("--{option}"),
                };
                vec![line(Verbosity::Normal, Tone::Plain, "order", String::new(), text, None)]
            }
            Event::Decision { place, decision } => self.decision(place, decision),
            Event::Intent { place, key, fingerprint, .. } => {
                self.stuck = Some(place.clone());
                let why = self.reasons.get(place).cloned().unwrap_or_default();
                let text = format!("fingerprint {}, key {key}", fingerprint.digest().short(8));
                vec![
                    line(Verbosity::Verbose, Tone::Calm, "intent", label(place), text, None),
                    Telling::Begun { word: "start", label: label(place), why },
                ]
            }
            Event::Progress { place, progress } => vec![told(place, progress)],
            Event::Outcome { place, took_ms, result } => self.outcome(place, *took_ms, result),
            Event::Probe { place, question, took_ms, finding } => {
                self.probed.insert(place.clone(), *took_ms);
                let about = match question {
                    Question::Current => "",
                    Question::Recorded => ", asked about the input on record",
                };
                let text = format!("{}{about}", words::finding(finding));
                vec![line(Verbosity::Verbose, Tone::Calm, "probe", label(place), text, Some(*took_ms))]
            }
            Event::UndoIntent { place } => {
                vec![Telling::Begun { word: "undo", label: label(place), why: String::new() }]
            }
            Event::UndoOutcome { place, failure } => {
                let told = match failure {
                    None => {
                        self.fates.insert(place.clone(), Fate::Undone);
                        line(Verbosity::Normal, Tone::Good, "undid", label(place), String::new(), None)
                    }
                    Some(failure) => {
                        self.fates.insert(place.clone(), Fate::Failed);
                        let text = format!("it could not be undone: {}", words::failure(failure));
                        line(Verbosity::Quiet, Tone::Bad, "FAIL", label(place), text, None)
                    }
                };
                vec![Telling::Over, told]
            }
            Event::Ended { verified, .. } => {
                self.verified = *verified;
                Vec::new()
            }
            Event::Unrecognized => Vec::new(),
        }
    }

    fn decision(&mut self, place: &Place, decision: &Decision) -> Vec<Telling> {
        let why = words::because(decision);
        match decision {
            Decision::Skip { .. } => {
                self.fates.entry(place.clone()).or_insert(Fate::Skipped);
                vec![line(Verbosity::Normal, Tone::Calm, "skip", label(place), why, self.probed.remove(place))]
            }
            Decision::Adopt { .. } => {
                self.fates.insert(place.clone(), Fate::Adopted);
                vec![line(Verbosity::Normal, Tone::Good, "adopt", label(place), why, self.probed.remove(place))]
            }
            Decision::Run { .. } => {
                self.reasons.insert(place.clone(), why);
                Vec::new()
            }
            Decision::Stop { .. } => {
                self.fates.insert(place.clone(), Fate::InDoubt);
                self.stuck = Some(place.clone());
                vec![line(Verbosity::Quiet, Tone::Doubt, "STOP", label(place), why, self.probed.remove(place))]
            }
        }
    }

    fn outcome(&mut self, place: &Place, took_ms: u64, result: &Outcome) -> Vec<Telling> {
        let label = label(place);
        let took_ms = Some(took_ms);
        let (fate, told) = match result {
            Outcome::Succeeded { receipt } => {
                let (needs, tone, word) = (Verbosity::Normal, Tone::Good, "ran");
                let (why, text) = (self.reasons.get(place).cloned(), words::notes(&receipt.notes));
                (Fate::Ran, Telling::Line(Line { needs, tone, word, label, why, text, took_ms }))
            }
            Outcome::Failed { failure } => {
                (Fate::Failed, line(Verbosity::Quiet, Tone::Bad, "FAIL", label, words::failure(failure), took_ms))
            }
            Outcome::Unknown { failure } => {
                let text = format!("it can't be told how far it got: {}", words::failure(failure));
                (Fate::InDoubt, line(Verbosity::Quiet, Tone::Doubt, "LOST", label, text, took_ms))
            }
        };
        self.stuck = match fate {
            Fate::Ran => None,
            Fate::Skipped | Fate::Adopted | Fate::Failed | Fate::InDoubt | Fate::Undone => Some(place.clone()),
        };
        self.fates.insert(place.clone(), fate);
        vec![Telling::Over, told]
    }

    /// The last line; none when no attempt began.
    pub(super) fn summary(&self, exit: Exit) -> Option<String> {
        let (Some(header), Some(began), Some(last)) = (&self.header, self.began, self.last) else { return None };
        let (release, environment) = (&header.release.label, &header.environment);
        let (took, counts) = (took(between(began, last)), self.counts());
        let at = self.stuck.as_ref().map(|place| format!(" at {place}")).unwrap_or_default();
        Some(match exit {
            Exit::Success if !self.verified => {
                format!("did a part of {release} in {environment} in {took}{counts}; it is not verified")
            }
            Exit::Success if self.fates.values().all(|fate| *fate == Fate::Skipped) => {
                format!("{release} is deployed to {environment} already; looked in {took}{counts}")
            }
            Exit::Success => format!("deployed {release} to {environment} in {took}{counts}"),
            Exit::RolledBack => {
                let after = self.stuck.as_ref().map(|place| format!(" after {place} failed")).unwrap_or_default();
                format!("ROLLED BACK {release} in {environment}{after}{counts}")
            }
            Exit::Failed
            | Exit::Refused
            | Exit::InDoubt
            | Exit::Locked
            | Exit::Journal
            | Exit::Bug
            | Exit::Interrupted => {
                let result = words::result(Some(exit), false).to_uppercase();
                format!("{result} {release} to {environment}{at} after {took}{counts}")
            }
        })
    }

    fn counts(&self) -> String {
        let mut counts = BTreeMap::new();
        for fate in self.fates.values() {
            *counts.entry(*fate).or_insert(0) += 1;
        }
        let phrase = |(fate, count): (&Fate, &u32)| {
            let word = match fate {
                Fate::Ran => "ran",
                Fate::Skipped => "skipped",
                Fate::Adopted => "adopted",
                Fate::Failed => "failed",
                Fate::InDoubt => "in doubt",
                Fate::Undone => "undone",
            };
            format!("{count} {word}")
        };
        let counts: Vec<_> = counts.iter().map(phrase).collect();
        if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) }
    }
}

fn heading(header: &Header) -> String {
    let Header { app, environment, run, attempt, release, .. } = header;
    format!("{app} {} to {environment} (run {run}, attempt {attempt})", release.label)
}

fn told(place: &Place, progress: &Progress) -> Telling {
    match progress {
        Progress::Log { level, message, fields } => {
            let (needs, tone) = match level {
                Level::Trace | Level::Debug | Level::Info => (Verbosity::Verbose, Tone::Calm),
                Level::Warn => (Verbosity::Normal, Tone::Doubt),
                Level::Error => (Verbosity::Normal, Tone::Bad),
            };
            let text = format!("{message}{}", words::fields(fields));
            let (word, label) = (words::level(*level), label(place));
            Telling::Said(Line { needs, tone, word, label, why: None, text, took_ms: None })
        }
        Progress::Meter { task, done, total, unit } => {
            Telling::Meter { label: label(place), task: task.clone(), done: *done, total: *total, unit: unit.clone() }
        }
    }
}

fn aside(word: &'static str, text: String) -> Telling {
    line(Verbosity::Verbose, Tone::Calm, word, String::new(), text, None)
}

fn line(
    needs: Verbosity,
    tone: Tone,
    word: &'static str,
    label: String,
    text: String,
    took_ms: Option<u64>,
) -> Telling {
    Telling::Line(Line { needs, tone, word, label, why: None, text, took_ms })
}
