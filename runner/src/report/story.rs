//! What of a journal is worth a line, and how important it is.
//!
//! [`Story::tell`] takes entries in order and gives what is to be shown; it remembers what a later line needs (why a step
//! runs, how long its probe took). Deliberately absent: writing, widths and colours ([`super::terminal`]).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{step_label, terminal::Verbosity, words};
use contract::text::{self, format_duration, millis_between};
use contract::{
    diagnostic::ExitKind,
    step::{MessageLevel, StepOutcome, StepProgress},
};
use journal::event::{COMMAND_OVERRIDES, Decision, JournalEntry, JournalEvent, JournalHeader, ProbeInput, StepTarget};

/// Something to be shown.
#[derive(Debug, PartialEq)]
pub(super) enum DisplayItem {
    /// What this attempt is.
    Heading(String),
    /// A whole line.
    Line(DisplayLine),
    /// The same; what the step itself said.
    StepMessage(DisplayLine),
    /// A step begins to act, or to be undone.
    StepStarted { keyword: &'static str, label: String, reason: String },
    /// The running step is so far.
    Meter { label: String, task: String, done: u64, total: Option<u64>, unit: String },
    /// The running step ended; its line follows.
    StepEnded,
}

/// One line about one step.
#[derive(Debug, PartialEq)]
pub(super) struct DisplayLine {
    /// How chatty the user must want it.
    pub(super) min_verbosity: Verbosity,
    /// How it looks.
    pub(super) style: LineStyle,
    /// The first word, for eyes and `grep`; at most six columns.
    pub(super) keyword: &'static str,
    /// The step, `migrate` or `migrate@web1`; empty when the line is about none.
    pub(super) label: String,
    /// Why the step ran, which the line that it began with may have said already; foreign.
    pub(super) reason: Option<String>,
    /// The rest; foreign.
    pub(super) text: String,
    /// How long it took, if that is known.
    pub(super) took_ms: Option<u64>,
}

impl DisplayLine {
    /// Why the step ran, and the rest: for who was not told when it began.
    pub(super) fn text_with_reason(&self) -> String {
        match &self.reason {
            Some(why) if self.text.is_empty() => why.clone(),
            Some(why) => format!("{why}; {}", self.text),
            None => self.text.clone(),
        }
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineStyle {
    /// Done.
    Success,
    /// Nothing was to be done.
    Muted,
    /// Failed.
    Failure,
    /// An operator must look.
    Attention,
    /// In between.
    Plain,
}

/// What became of a step, for the last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StepStatus {
    Ran,
    Skipped,
    Adopted,
    Failed,
    InDoubt,
    Undone,
}

/// One attempt, as told so far.
#[derive(Debug, Default)]
pub(super) struct EventFormatter {
    header: Option<JournalHeader>,
    started_at: Option<Timestamp>,
    last_entry_at: Option<Timestamp>,
    verified: bool,
    reasons: BTreeMap<StepTarget, String>,
    probe_times: BTreeMap<StepTarget, u64>,
    statuses: BTreeMap<StepTarget, StepStatus>,
    failed_step: Option<StepTarget>,
    label_width: usize,
}

impl EventFormatter {
    /// The width of the column of steps.
    pub(super) fn label_width(&self) -> usize {
        self.label_width
    }

    /// What is to be shown of an entry. `continues` says after what this attempt goes on, if it does.
    pub(super) fn format_entry(&mut self, entry: &JournalEntry, continues_after: Option<&str>) -> Vec<DisplayItem> {
        self.started_at.get_or_insert(entry.at);
        self.last_entry_at = Some(entry.at);
        match &entry.event {
            JournalEvent::Started(header) => {
                self.header = Some(header.clone());
                let continues = continues_after.map(|after| {
                    let text = format!("after {after}");
                    line_item(Verbosity::Normal, LineStyle::Plain, "resume", String::new(), text, None)
                });
                [DisplayItem::Heading(heading(header))].into_iter().chain(continues).collect()
            }
            JournalEvent::Plan { digest, path, steps } => {
                self.label_width = steps
                    .iter()
                    .map(|step| text::column_count(&step_label(&step.step_target)))
                    .max()
                    .unwrap_or(0)
                    .min(24);
                let text = format!(
                    "{path}, {}, {}",
                    text::format_amount(steps.len() as u64, None, "steps"),
                    digest.hex_prefix(8)
                );
                vec![verbose_item("plan", text)]
            }
            JournalEvent::Torn { file, bytes } => {
                let text = format!("{file} ended in a torn line; its {bytes} bytes were dropped");
                vec![line_item(Verbosity::Normal, LineStyle::Plain, "torn", String::new(), text, None)]
            }
            JournalEvent::Lock { resource, holder } => {
                vec![verbose_item("lock", format!("{resource} is held by {holder}"))]
            }
            JournalEvent::Override { option, step } => {
                let text = match step {
                    Some(step) => format!("--{option} {step}"),
                    None if COMMAND_OVERRIDES.contains(&option.as_str()) => format!("runner {option}"),
                    None => format!("--{option}"),
                };
                vec![line_item(Verbosity::Normal, LineStyle::Plain, "order", String::new(), text, None)]
            }
            JournalEvent::Decision { step_target: place, decision } => self.decision_items(place, decision),
            JournalEvent::Intent { step_target: place, key, fingerprint, .. } => {
                self.failed_step = Some(place.clone());
                let why = self.reasons.get(place).cloned().unwrap_or_default();
                let text = format!("fingerprint {}, key {key}", fingerprint.digest().hex_prefix(8));
                vec![
                    line_item(Verbosity::Verbose, LineStyle::Muted, "intent", step_label(place), text, None),
                    DisplayItem::StepStarted { keyword: "start", label: step_label(place), reason: why },
                ]
            }
            JournalEvent::Progress { step_target: place, progress } => vec![progress_item(place, progress)],
            JournalEvent::Outcome { step_target: place, took_ms, outcome: result } => {
                self.outcome_items(place, *took_ms, result)
            }
            JournalEvent::Probe { step_target: place, probed_input: question, took_ms, finding } => {
                self.probe_times.insert(place.clone(), *took_ms);
                let about = match question {
                    ProbeInput::Current => "",
                    ProbeInput::Recorded => ", asked about the input on record",
                };
                let text = format!("{}{about}", words::finding(finding));
                vec![line_item(Verbosity::Verbose, LineStyle::Muted, "probe", step_label(place), text, Some(*took_ms))]
            }
            JournalEvent::UndoIntent { step_target: place } => {
                vec![DisplayItem::StepStarted { keyword: "undo", label: step_label(place), reason: String::new() }]
            }
            JournalEvent::UndoOutcome { step_target: place, failure } => {
                let told = match failure {
                    None => {
                        self.statuses.insert(place.clone(), StepStatus::Undone);
                        line_item(
                            Verbosity::Normal,
                            LineStyle::Success,
                            "undid",
                            step_label(place),
                            String::new(),
                            None,
                        )
                    }
                    Some(failure) => {
                        self.statuses.insert(place.clone(), StepStatus::Failed);
                        let text = format!("it could not be undone: {}", words::failure(failure));
                        line_item(Verbosity::Quiet, LineStyle::Failure, "FAIL", step_label(place), text, None)
                    }
                };
                vec![DisplayItem::StepEnded, told]
            }
            JournalEvent::Ended { verified, .. } => {
                self.verified = *verified;
                Vec::new()
            }
            JournalEvent::Unrecognized => Vec::new(),
        }
    }

    fn decision_items(&mut self, place: &StepTarget, decision: &Decision) -> Vec<DisplayItem> {
        let why = words::decision_reason(decision);
        match decision {
            Decision::Skip { .. } => {
                self.statuses.entry(place.clone()).or_insert(StepStatus::Skipped);
                vec![line_item(
                    Verbosity::Normal,
                    LineStyle::Muted,
                    "skip",
                    step_label(place),
                    why,
                    self.probe_times.remove(place),
                )]
            }
            Decision::Adopt { .. } => {
                self.statuses.insert(place.clone(), StepStatus::Adopted);
                vec![line_item(
                    Verbosity::Normal,
                    LineStyle::Success,
                    "adopt",
                    step_label(place),
                    why,
                    self.probe_times.remove(place),
                )]
            }
            Decision::Run { .. } => {
                self.reasons.insert(place.clone(), why);
                Vec::new()
            }
            Decision::Stop { .. } => {
                self.statuses.insert(place.clone(), StepStatus::InDoubt);
                self.failed_step = Some(place.clone());
                vec![line_item(
                    Verbosity::Quiet,
                    LineStyle::Attention,
                    "STOP",
                    step_label(place),
                    why,
                    self.probe_times.remove(place),
                )]
            }
        }
    }

    fn outcome_items(&mut self, place: &StepTarget, took_ms: u64, result: &StepOutcome) -> Vec<DisplayItem> {
        let label = step_label(place);
        let took_ms = Some(took_ms);
        let (status, item) = match result {
            StepOutcome::Succeeded { receipt } => {
                let (needs, tone, word) = (Verbosity::Normal, LineStyle::Success, "ran");
                let (why, text) = (self.reasons.get(place).cloned(), words::notes(&receipt.notes));
                (
                    StepStatus::Ran,
                    DisplayItem::Line(DisplayLine {
                        min_verbosity: needs,
                        style: tone,
                        keyword: word,
                        label,
                        reason: why,
                        text,
                        took_ms,
                    }),
                )
            }
            StepOutcome::Failed { failure } => (
                StepStatus::Failed,
                line_item(Verbosity::Quiet, LineStyle::Failure, "FAIL", label, words::failure(failure), took_ms),
            ),
            StepOutcome::Unknown { failure } => {
                let text = format!("it can't be told how far it got: {}", words::failure(failure));
                (StepStatus::InDoubt, line_item(Verbosity::Quiet, LineStyle::Attention, "LOST", label, text, took_ms))
            }
        };
        self.failed_step = match status {
            StepStatus::Ran => None,
            StepStatus::Skipped
            | StepStatus::Adopted
            | StepStatus::Failed
            | StepStatus::InDoubt
            | StepStatus::Undone => Some(place.clone()),
        };
        self.statuses.insert(place.clone(), status);
        vec![DisplayItem::StepEnded, item]
    }

    /// The last line; none when no attempt began.
    pub(super) fn summary_line(&self, exit: ExitKind) -> Option<String> {
        let (Some(header), Some(began), Some(last)) = (&self.header, self.started_at, self.last_entry_at) else {
            return None;
        };
        let (release, environment) = (&header.release.label, &header.environment);
        let (took, counts) = (format_duration(millis_between(began, last)), self.counts());
        let at = self.failed_step.as_ref().map(|place| format!(" at {place}")).unwrap_or_default();
        Some(match exit {
            ExitKind::Success if !self.verified => {
                format!("did a part of {release} in {environment} in {took}{counts}; it is not verified")
            }
            ExitKind::Success if self.statuses.values().all(|fate| *fate == StepStatus::Skipped) => {
                format!("{release} is deployed to {environment} already; looked in {took}{counts}")
            }
            ExitKind::Success => format!("deployed {release} to {environment} in {took}{counts}"),
            ExitKind::RolledBack => {
                let after = self.failed_step.as_ref().map(|place| format!(" after {place} failed")).unwrap_or_default();
                format!("ROLLED BACK {release} in {environment}{after}{counts}")
            }
            ExitKind::Failed
            | ExitKind::Refused
            | ExitKind::InDoubt
            | ExitKind::Locked
            | ExitKind::Journal
            | ExitKind::Bug
            | ExitKind::Interrupted => {
                let result = words::result(Some(exit), false).to_uppercase();
                format!("{result} {release} to {environment}{at} after {took}{counts}")
            }
        })
    }

    fn counts(&self) -> String {
        let mut counts = BTreeMap::new();
        for fate in self.statuses.values() {
            *counts.entry(*fate).or_insert(0) += 1;
        }
        let phrase = |(fate, count): (&StepStatus, &u32)| {
            let word = match fate {
                StepStatus::Ran => "ran",
                StepStatus::Skipped => "skipped",
                StepStatus::Adopted => "adopted",
                StepStatus::Failed => "failed",
                StepStatus::InDoubt => "in doubt",
                StepStatus::Undone => "undone",
            };
            format!("{count} {word}")
        };
        let counts: Vec<_> = counts.iter().map(phrase).collect();
        if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) }
    }
}

fn heading(header: &JournalHeader) -> String {
    let JournalHeader { app, environment, run, attempt, release, .. } = header;
    format!("{app} {} to {environment} (run {run}, attempt {attempt})", release.label)
}

fn progress_item(place: &StepTarget, progress: &StepProgress) -> DisplayItem {
    match progress {
        StepProgress::Log { level, message, fields } => {
            let (needs, tone) = match level {
                MessageLevel::Trace | MessageLevel::Debug | MessageLevel::Info => {
                    (Verbosity::Verbose, LineStyle::Muted)
                }
                MessageLevel::Warn => (Verbosity::Normal, LineStyle::Attention),
                MessageLevel::Error => (Verbosity::Normal, LineStyle::Failure),
            };
            let text = format!("{message}{}", words::fields(fields));
            let (word, label) = (words::level(*level), step_label(place));
            DisplayItem::StepMessage(DisplayLine {
                min_verbosity: needs,
                style: tone,
                keyword: word,
                label,
                reason: None,
                text,
                took_ms: None,
            })
        }
        StepProgress::Meter { task, done, total, unit } => DisplayItem::Meter {
            label: step_label(place),
            task: task.clone(),
            done: *done,
            total: *total,
            unit: unit.clone(),
        },
    }
}

fn verbose_item(word: &'static str, text: String) -> DisplayItem {
    line_item(Verbosity::Verbose, LineStyle::Muted, word, String::new(), text, None)
}

fn line_item(
    min_verbosity: Verbosity,
    style: LineStyle,
    keyword: &'static str,
    label: String,
    text: String,
    took_ms: Option<u64>,
) -> DisplayItem {
    DisplayItem::Line(DisplayLine { min_verbosity, style, keyword, label, reason: None, text, took_ms })
}
