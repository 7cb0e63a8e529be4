//! Turns journal entries into display items, each with the least verbosity that shows it.
//!
//! [`EventFormatter::format_entry`] takes entries in order, and remembers what a later line needs: why a step runs, how long
//! its probe took. Deliberately absent: writing, widths and colours ([`super::terminal`]).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    fold::{StartPlace, TargetFold},
    messages, step_label,
    terminal::Verbosity,
};
use contract::text::{self, format_duration, millis_between};
use contract::{
    Label, StepId,
    diagnostic::ExitKind,
    hash::Blake3Hash,
    step::{MessageLevel, StepFailure, StepOutcome, StepProgress},
};
use journal::{
    AttemptStatuses, StepStatus,
    event::{
        COMMAND_OVERRIDES, Decision, DecisionReason, JournalEntry, JournalEvent, JournalHeader, PlanStepRecord,
        ProbeInput, StepTarget,
    },
};

/// An item to show.
#[derive(Debug, PartialEq)]
pub(super) enum DisplayItem {
    /// The app, release, environment, run and attempt.
    Heading(String),
    /// A whole line.
    Line(DisplayLine),
    /// A line with a message of the step itself; foreign.
    StepMessage(DisplayLine),
    /// A step starts to run, or its undo starts. `step`: its name without the target, if it runs on several.
    StepStarted { keyword: &'static str, label: String, step: Option<String>, reason: String, place: StartPlace },
    /// How far a step is that runs on many targets.
    Tally { step: String, text: String },
    /// The progress of the running step.
    Meter { label: String, task: String, done: u64, total: Option<u64>, unit: String },
    /// A running step ended; its line follows.
    StepEnded { label: String },
}

/// One line about one step.
#[derive(Debug, PartialEq)]
pub(super) struct DisplayLine {
    /// The least verbosity that shows it.
    pub(super) min_verbosity: Verbosity,
    /// Its colour.
    pub(super) style: LineStyle,
    /// The first word, for eyes and `grep`; at most six columns.
    pub(super) keyword: &'static str,
    /// The step, `migrate` or `migrate@web1`; empty for a line about the attempt.
    pub(super) label: String,
    /// Why the step ran; foreign. The line of its start may have shown it already.
    pub(super) reason: Option<String>,
    /// The rest of the line; foreign.
    pub(super) text: String,
    /// How long it took, if known.
    pub(super) took_ms: Option<u64>,
}

impl DisplayLine {
    /// The reason and the text, for a report without a line of the start.
    pub(super) fn text_with_reason(&self) -> String {
        match &self.reason {
            Some(why) if self.text.is_empty() => why.clone(),
            Some(why) => format!("{why}; {}", self.text),
            None => self.text.clone(),
        }
    }
}

/// The meaning of a line, shown as a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineStyle {
    /// The step succeeded.
    Success,
    /// Nothing had to be done.
    Muted,
    /// The step failed.
    Failure,
    /// An operator has to decide.
    Attention,
    /// Everything else.
    Plain,
}

/// Formats the entries of one attempt.
#[derive(Debug, Default)]
pub(super) struct EventFormatter {
    header: Option<JournalHeader>,
    started_at: Option<Timestamp>,
    last_entry_at: Option<Timestamp>,
    verified: bool,
    /// Whether the release that a rollback switched back to is verified.
    switched_back: Option<bool>,
    planned_steps: BTreeSet<StepTarget>,
    reasons: BTreeMap<StepTarget, String>,
    probe_times: BTreeMap<StepTarget, u64>,
    statuses: AttemptStatuses,
    label_width: usize,
    /// Whether each target of a step has lines, however many there are.
    shows_each_target: bool,
    fold: TargetFold,
}

impl EventFormatter {
    /// A formatter for an attempt that has not begun.
    pub(super) fn new(verbosity: Verbosity) -> Self {
        Self { shows_each_target: verbosity == Verbosity::Verbose, ..Self::default() }
    }

    /// The last lines of steps on many targets that end before this entry; of all, if there is none. Call it before
    /// [`format_entry`](Self::format_entry).
    pub(super) fn end_folded_steps(&mut self, next: Option<&JournalEntry>) -> Vec<DisplayItem> {
        self.fold.end_before(next.map(|entry| &entry.event))
    }

    /// Whether a step has one line for all of its targets.
    pub(super) fn is_folded(&self, step: &StepId) -> bool {
        self.fold.is_folded(step)
    }

    /// Whose program's lines count together: those of a step on many targets, else of one target.
    pub(super) fn output_source(&self, step_target: &StepTarget) -> String {
        if self.is_folded(&step_target.step) { step_target.step.to_string() } else { self.label(step_target) }
    }

    /// What a step or a hook is called: a hook is said to be one.
    pub(super) fn label(&self, step_target: &StepTarget) -> String {
        let hook = if self.statuses.is_hook(step_target) { "hook " } else { "" };
        format!("{hook}{}", step_label(step_target))
    }

    /// The width of the column with the steps.
    pub(super) fn label_width(&self) -> usize {
        self.label_width
    }

    /// The items of an entry. `continues_after` is the event that this attempt continues after, if it continues a run.
    pub(super) fn format_entry(&mut self, entry: &JournalEntry, continues_after: Option<&str>) -> Vec<DisplayItem> {
        self.started_at.get_or_insert(entry.at);
        self.last_entry_at = Some(entry.at);
        self.statuses.apply(&entry.event);
        let items = self.items_of(entry, continues_after);
        match entry.event.step_target().filter(|step_target| self.is_folded(&step_target.step)) {
            Some(step_target) => self.fold.fold(entry, step_target, items),
            None => items,
        }
    }

    fn items_of(&mut self, entry: &JournalEntry, continues_after: Option<&str>) -> Vec<DisplayItem> {
        match &entry.event {
            JournalEvent::Started(header) => {
                self.header = Some(header.clone());
                let continues = continues_after.map(|after| {
                    let text = format!("after {after}");
                    line_item(Verbosity::Normal, LineStyle::Plain, "resume", String::new(), text, None)
                });
                [DisplayItem::Heading(heading(header))].into_iter().chain(continues).collect()
            }
            JournalEvent::Plan { digest, path, steps } => self.plan_items(digest, path, steps),
            JournalEvent::Torn { file, bytes } => {
                let text = format!("dropped the incomplete last line of {file} ({bytes} bytes)");
                vec![line_item(Verbosity::Normal, LineStyle::Plain, "torn", String::new(), text, None)]
            }
            JournalEvent::Lock { resource, holder } => {
                vec![verbose_item("lock", format!("{resource} is held by {holder}"))]
            }
            JournalEvent::Override { option, step, hosts } => {
                vec![override_item(option, step.as_ref().map(StepId::as_str).or(hosts.as_deref()))]
            }
            JournalEvent::HostLeftBehind { target, why } => {
                let text = format!("nothing more runs there in this attempt: {why}");
                vec![line_item(Verbosity::Quiet, LineStyle::Attention, "LEFT", target.to_string(), text, None)]
            }
            JournalEvent::Resolved { step_target, resolution, by, message } => {
                let text = format!("{} by {by}: {message}", messages::resolution(resolution));
                vec![line_item(Verbosity::Normal, LineStyle::Plain, "resolved", step_label(step_target), text, None)]
            }
            JournalEvent::RecordLost { step_target } => {
                let text = "the last entries of an earlier attempt are lost: the step is probed".to_owned();
                vec![line_item(Verbosity::Normal, LineStyle::Plain, "lost", step_label(step_target), text, None)]
            }
            JournalEvent::Decision { step_target, decision } => self.decision_items(step_target, decision),
            JournalEvent::Intent { step_target, key, fingerprint, release, .. } => {
                if let Some(release) = release {
                    self.reasons.insert(step_target.clone(), format!("again, for {}", release.label));
                }
                let text = format!("fingerprint {}, key {key}", fingerprint.digest().hex_prefix(8));
                self.intent_items(step_target, text)
            }
            JournalEvent::Progress { step_target, progress } => vec![progress_item(self.label(step_target), progress)],
            // Its lines were shown when they came.
            JournalEvent::Output { .. } => Vec::new(),
            JournalEvent::Outcome { step_target, took_ms, outcome: result } => {
                self.outcome_items(step_target, *took_ms, result)
            }
            JournalEvent::Probe { step_target, probed_input, took_ms, finding } => {
                self.probe_times.insert(step_target.clone(), *took_ms);
                let input = match probed_input {
                    ProbeInput::Current => "",
                    ProbeInput::Recorded => " (with the recorded input)",
                };
                let text = format!("{}{input}", messages::finding(finding));
                vec![line_item(
                    Verbosity::Verbose,
                    LineStyle::Muted,
                    "probe",
                    step_label(step_target),
                    text,
                    Some(*took_ms),
                )]
            }
            JournalEvent::UndoIntent { step_target } => {
                let (label, step) = (step_label(step_target), self.shared_name(step_target));
                vec![start_item("undo", label, step, String::new())]
            }
            JournalEvent::UndoOutcome { step_target, failure } => {
                vec![
                    DisplayItem::StepEnded { label: step_label(step_target) },
                    undo_item(step_target, failure.as_ref()),
                ]
            }
            JournalEvent::SwitchedBack { release, doubt } => {
                self.switched_back = Some(doubt.is_none());
                vec![switched_back_item(&release.label, doubt.as_deref())]
            }
            JournalEvent::Ended { verified, .. } => {
                self.verified = *verified;
                Vec::new()
            }
            JournalEvent::Unrecognized => Vec::new(),
        }
    }

    fn plan_items(&mut self, digest: &Blake3Hash, path: &str, steps: &[PlanStepRecord]) -> Vec<DisplayItem> {
        if !self.shows_each_target {
            self.fold = TargetFold::new(steps.iter().map(|step| &step.step_target));
        }
        let label = |step_target: &StepTarget| match self.is_folded(&step_target.step) {
            true => step_target.step.to_string(),
            false => step_label(step_target),
        };
        let widths = steps.iter().map(|step| text::column_count(&label(&step.step_target)));
        self.label_width = widths.max().unwrap_or(0).min(24);
        self.planned_steps = steps.iter().map(|step| step.step_target.clone()).collect();
        let count = text::format_amount(steps.len() as u64, None, "steps");
        vec![verbose_item("plan", format!("{path}, {count}, {}", digest.hex_prefix(8)))]
    }

    fn intent_items(&self, step_target: &StepTarget, text: String) -> Vec<DisplayItem> {
        let label = self.label(step_target);
        let intent = line_item(Verbosity::Verbose, LineStyle::Muted, "intent", label.clone(), text, None);
        if self.is_adoption_intent(step_target) {
            return vec![intent];
        }
        let reason = self.reasons.get(step_target).cloned().unwrap_or_default();
        let step = self.shared_name(step_target);
        vec![intent, start_item("start", label, step, reason)]
    }

    /// Whether the undo of a step has begun.
    pub(super) fn is_being_undone(&self, step_target: &StepTarget) -> bool {
        matches!(self.statuses.status(step_target), StepStatus::Undoing | StepStatus::Undone | StepStatus::UndoFailed)
    }

    /// The name of a step that runs on several targets.
    pub(super) fn shared_name(&self, step_target: &StepTarget) -> Option<String> {
        let step = &step_target.step;
        let targets = self.planned_steps.iter().filter(|planned| planned.step == *step);
        (targets.take(2).count() > 1).then(|| step.to_string())
    }

    fn decision_items(&mut self, step_target: &StepTarget, decision: &Decision) -> Vec<DisplayItem> {
        let why = messages::decision_reason(decision);
        match decision {
            Decision::Skip { .. } => {
                vec![line_item(
                    Verbosity::Normal,
                    LineStyle::Muted,
                    "skip",
                    step_label(step_target),
                    why,
                    self.probe_times.remove(step_target),
                )]
            }
            Decision::Adopt { .. } => {
                vec![line_item(
                    Verbosity::Normal,
                    LineStyle::Success,
                    "adopt",
                    step_label(step_target),
                    why,
                    self.probe_times.remove(step_target),
                )]
            }
            Decision::Run { .. } => {
                self.reasons.insert(step_target.clone(), why);
                Vec::new()
            }
            Decision::Stop { reason } => {
                let is_failure =
                    matches!(reason, DecisionReason::InvalidInput { .. } | DecisionReason::RehearsalFailed { .. });
                let (style, word) =
                    if is_failure { (LineStyle::Failure, "FAIL") } else { (LineStyle::Attention, "STOP") };
                vec![line_item(
                    Verbosity::Quiet,
                    style,
                    word,
                    step_label(step_target),
                    why,
                    self.probe_times.remove(step_target),
                )]
            }
        }
    }

    fn outcome_items(&mut self, step_target: &StepTarget, took_ms: u64, result: &StepOutcome) -> Vec<DisplayItem> {
        let label = self.label(step_target);
        let (ended, took_ms) = (DisplayItem::StepEnded { label: label.clone() }, Some(took_ms));
        let item = match result {
            StepOutcome::Succeeded { receipt } if !receipt.acted() => {
                let text = messages::nothing_to_do(&receipt.notes);
                line_item(Verbosity::Normal, LineStyle::Muted, "skip", label, text, took_ms)
            }
            StepOutcome::Succeeded { receipt } => DisplayItem::Line(DisplayLine {
                min_verbosity: Verbosity::Normal,
                style: LineStyle::Success,
                keyword: "ran",
                label,
                reason: self.reasons.get(step_target).cloned(),
                text: messages::notes(&receipt.notes),
                took_ms,
            }),
            StepOutcome::Failed { failure } => {
                line_item(Verbosity::Quiet, LineStyle::Failure, "FAIL", label, messages::failure(failure), took_ms)
            }
            StepOutcome::Unknown { failure } => {
                let text = format!("outcome unknown: {}", messages::failure(failure));
                line_item(Verbosity::Quiet, LineStyle::Attention, "LOST", label, text, took_ms)
            }
        };
        vec![ended, item]
    }

    /// Whether the intent is that of a step whose effect will be adopted.
    ///
    /// A step that runs has a decision before its intent. A hook has none, and is not in the plan.
    fn is_adoption_intent(&self, step_target: &StepTarget) -> bool {
        self.planned_steps.contains(step_target) && !self.reasons.contains_key(step_target)
    }

    /// The last line; none if no attempt was started.
    pub(super) fn summary_line(&self, exit: ExitKind) -> Option<String> {
        let (Some(header), Some(began), Some(last)) = (&self.header, self.started_at, self.last_entry_at) else {
            return None;
        };
        let (release, environment) = (&header.release.label, &header.environment);
        let (took, counts) = (format_duration(millis_between(began, last)), self.counts());
        let in_parentheses = if counts.is_empty() { String::new() } else { format!(" ({counts})") };
        let failed_step = self.statuses.failed_step();
        let hook = |step_target| if self.statuses.is_hook(step_target) { "hook " } else { "" };
        let at = failed_step.map(|step| format!(" at {}{step}", hook(step))).unwrap_or_default();
        Some(match exit {
            ExitKind::Success if !self.verified => {
                format!("partially deployed {release} to {environment} in {took}{in_parentheses}; not verified")
            }
            ExitKind::Success if self.statuses.reached().all(|status| status == StepStatus::Skipped) => {
                let counts = if counts.is_empty() { counts } else { format!(", {counts}") };
                format!("{release} is already deployed to {environment} (checked in {took}{counts})")
            }
            ExitKind::Success => format!("deployed {release} to {environment} in {took}{in_parentheses}"),
            ExitKind::RolledBack => {
                let after = failed_step.map(|step_target| format!(" after {step_target} failed")).unwrap_or_default();
                let doubt =
                    if self.switched_back == Some(false) { "; the previous release is not verified" } else { "" };
                format!("ROLLED BACK {release} in {environment}{after}{in_parentheses}{doubt}")
            }
            ExitKind::Failed
            | ExitKind::Refused
            | ExitKind::InDoubt
            | ExitKind::Locked
            | ExitKind::Journal
            | ExitKind::Bug
            | ExitKind::Interrupted => {
                let result = messages::result(Some(exit), false).to_uppercase();
                format!("{result}: {release} to {environment}{at}, after {took}{in_parentheses}")
            }
        })
    }

    /// How many steps have which status, and how many hooks: `2 ran, 1 failed; hooks: 1 ran`.
    fn counts(&self) -> String {
        let steps = count_statuses(self.statuses.reached());
        match count_statuses(self.statuses.reached_hooks()) {
            hooks if hooks.is_empty() => steps,
            hooks if steps.is_empty() => format!("hooks: {hooks}"),
            hooks => format!("{steps}; hooks: {hooks}"),
        }
    }
}

/// How many have which status: `2 ran, 1 failed`.
fn count_statuses(statuses: impl Iterator<Item = StepStatus>) -> String {
    let statuses: Vec<_> = statuses.collect();
    let count = |word: &&str| statuses.iter().filter(|status| count_word(**status) == Some(*word)).count();
    let counts = ["ran", "skipped", "adopted", "failed", "in doubt", "undone"].map(|word| (count(&word), word));
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    counts.collect::<Vec<_>>().join(", ")
}

/// The word under which a step is counted. One whose undo has not ended has run.
fn count_word(status: StepStatus) -> Option<&'static str> {
    match status {
        StepStatus::Ran | StepStatus::Undoing => Some("ran"),
        StepStatus::Skipped => Some("skipped"),
        StepStatus::Adopted => Some("adopted"),
        StepStatus::Failed | StepStatus::UndoFailed => Some("failed"),
        StepStatus::Unknown | StepStatus::Stopped => Some("in doubt"),
        StepStatus::Undone => Some("undone"),
        StepStatus::NotReached | StepStatus::Started => None,
    }
}

fn heading(header: &JournalHeader) -> String {
    let JournalHeader { app, environment, run, attempt, release, .. } = header;
    format!("{app} {} to {environment} (run {run}, attempt {attempt})", release.label)
}

fn switched_back_item(label: &Label, doubt: Option<&str>) -> DisplayItem {
    let (verbosity, style, text) = match doubt {
        None => (Verbosity::Normal, LineStyle::Success, format!("{label} is live again")),
        Some(doubt) => {
            let text = format!("switched back to {label}; not verified: {doubt}");
            (Verbosity::Quiet, LineStyle::Attention, text)
        }
    };
    line_item(verbosity, style, "back", String::new(), text, None)
}

/// `value` is the step or the hosts that the option names.
fn override_item(option: &str, value: Option<&str>) -> DisplayItem {
    let (keyword, text) = match value {
        Some(value) => ("option", format!("--{option} {value}")),
        None if COMMAND_OVERRIDES.contains(&option) => ("call", format!("runner {option}")),
        None => ("option", format!("--{option}")),
    };
    line_item(Verbosity::Normal, LineStyle::Plain, keyword, String::new(), text, None)
}

fn undo_item(step_target: &StepTarget, failure: Option<&StepFailure>) -> DisplayItem {
    let label = step_label(step_target);
    match failure {
        None => line_item(Verbosity::Normal, LineStyle::Success, "undid", label, String::new(), None),
        Some(failure) => {
            let text = format!("rollback failed: {}", messages::failure(failure));
            line_item(Verbosity::Quiet, LineStyle::Failure, "FAIL", label, text, None)
        }
    }
}

fn progress_item(label: String, progress: &StepProgress) -> DisplayItem {
    match progress {
        StepProgress::Log { level, message, fields } => {
            let (min_verbosity, style) = match level {
                MessageLevel::Trace | MessageLevel::Debug | MessageLevel::Info => {
                    (Verbosity::Verbose, LineStyle::Muted)
                }
                MessageLevel::Warn => (Verbosity::Normal, LineStyle::Attention),
                MessageLevel::Error => (Verbosity::Normal, LineStyle::Failure),
            };
            let text = format!("{message}{}", messages::fields(fields));
            let keyword = messages::level(*level);
            DisplayItem::StepMessage(DisplayLine {
                min_verbosity,
                style,
                keyword,
                label,
                reason: None,
                text,
                took_ms: None,
            })
        }
        StepProgress::Meter { task, done, total, unit } => {
            DisplayItem::Meter { label, task: task.clone(), done: *done, total: *total, unit: unit.clone() }
        }
    }
}

fn start_item(keyword: &'static str, label: String, step: Option<String>, reason: String) -> DisplayItem {
    DisplayItem::StepStarted { keyword, label, step, reason, place: StartPlace::Own }
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
