//! The log of a deployment: a folded group with the messages of a step, and below it a line with the result; of a step that runs on
//! several targets at once, a line for each.
//!
//! ```text
//!   shop r2 to test (run 2-bbbbbb, attempt 2)
//!   ▸ pull
//!     skip   pull     its effect still holds                                    3 ms
//!   ▸ migrate: it failed last time
//!     ran    migrate  1 file                                                   12 ms
//! ```
//!
//! A log that nobody unfolds is complete, and has each reason and each failure once: the reason in the title of the group, the failure
//! in the error at the end. The content of a group is verbose, for a reader who opens it. Deliberately absent:
//! wording and layout, which are those of the terminal.

use super::{
    super::{
        CommandConclusion, DeploymentReporter,
        formatter::{DisplayItem, DisplayLine, EventFormatter, LineStyle},
        output_throttle::{OutputThrottles, ThrottledLines},
        terminal::{self, InteractiveMode, ReportOptions, Verbosity},
    },
    WorkflowOutput,
};
use std::collections::BTreeSet;

use contract::{StepId, step::StepOutcome, text};
use journal::event::{Decision, JournalEntry, JournalEvent, OutputLine, StepTarget};

/// The longest title of a group, in columns.
const MAX_TITLE_COLUMNS: usize = 160;

/// Reports an attempt to the readers of a job's log.
pub struct GroupedLogReporter {
    workflow: WorkflowOutput,
    options: ReportOptions,
    formatter: EventFormatter,
    /// The step whose group is open.
    open_group: Option<StepId>,
    /// The title of the open group.
    title: Option<String>,
    /// Where it runs now. The group stays open as long as it runs anywhere.
    running: BTreeSet<StepTarget>,
    /// The lines that follow the open group.
    after_group: Vec<LogLine>,
    throttles: OutputThrottles,
    /// The line is that of a failure, or of a decision to stop, whose reason the error at the end has.
    is_last_failure: bool,
}

/// Lines of the log; `is_foreign`: a step wrote a part of them.
struct LogLine {
    text: String,
    is_foreign: bool,
}

/// The position of an entry's lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LogPosition<'e> {
    /// Inside the group of its step.
    InGroup(&'e StepTarget),
    /// Below the group, which ends there.
    AfterGroup,
    /// Not about a step.
    OutsideGroups,
}

impl GroupedLogReporter {
    /// Writes to the log of a job. It never draws a progress line, whatever the options say.
    #[must_use]
    pub fn new(workflow: WorkflowOutput, options: ReportOptions) -> Self {
        Self {
            workflow,
            options,
            formatter: EventFormatter::default(),
            open_group: None,
            title: None,
            running: BTreeSet::new(),
            after_group: Vec::new(),
            throttles: OutputThrottles::default(),
            is_last_failure: false,
        }
    }

    fn open_group_for(&mut self, step_target: &StepTarget, title: &str) {
        if self.open_group.is_none() && self.options.verbosity > Verbosity::Quiet {
            self.open_group = Some(step_target.step.clone());
            self.title = Some(title.to_owned());
            self.workflow.with_stream(|stream| stream.group(&text::truncate(title, MAX_TITLE_COLUMNS)));
        }
    }

    fn close_group(&mut self) {
        if self.open_group.take().is_some() {
            self.workflow.with_stream(super::stream::CommandStream::end_group);
        }
        self.running.clear();
        std::mem::take(&mut self.after_group).into_iter().for_each(|line| self.write(&line));
    }

    fn write(&self, LogLine { text, is_foreign }: &LogLine) {
        self.workflow
            .with_stream(|stream| if *is_foreign { stream.write_foreign(text) } else { stream.write_own(text) });
    }

    fn show_item(&mut self, position: LogPosition<'_>, item: DisplayItem) {
        match item {
            DisplayItem::Heading(heading) => {
                if self.options.verbosity > Verbosity::Quiet {
                    let heading = format!("{}\n", text::escape_line(&heading));
                    self.workflow.with_stream(|stream| stream.write_own(&heading));
                }
            }
            // The title of the group has the reason.
            DisplayItem::Line(line) => {
                let text = if self.is_last_failure { "" } else { &line.text };
                self.write_line(position, &line, text, false);
            }
            DisplayItem::StepMessage(line) => self.write_line(position, &line, &line.text, true),
            // On this host, for another reason than the title says.
            DisplayItem::StepStarted { keyword, label, step: Some(step), reason }
                if self.title.as_ref().is_some_and(|title| *title != group_title(keyword, &step, &reason)) =>
            {
                let (min_verbosity, style) = (Verbosity::Normal, LineStyle::Plain);
                let line =
                    DisplayLine { min_verbosity, style, keyword, label, reason: None, text: reason, took_ms: None };
                self.write_line(position, &line, &line.text, true);
            }
            DisplayItem::StepStarted { .. } => {}
            DisplayItem::Meter { label, task, done, total, unit } => {
                // There are many, and a later reader needs none of them.
                if self.options.verbosity == Verbosity::Verbose {
                    let text = format!("{task} {}", text::format_amount(done, total, &unit));
                    let line = DisplayLine {
                        min_verbosity: Verbosity::Verbose,
                        style: LineStyle::Muted,
                        keyword: "meter",
                        label,
                        reason: None,
                        text,
                        took_ms: None,
                    };
                    self.write_line(position, &line, &line.text, true);
                }
            }
            DisplayItem::StepEnded { .. } => {}
        }
    }

    /// Writes lines of a program into the group of its step.
    fn write_output(&mut self, step_target: &StepTarget, output: &ThrottledLines) {
        if output.lines.is_empty() && output.left_out == 0 {
            return;
        }
        let label = self.formatter.label(step_target);
        if self.open_group.as_ref() != Some(&step_target.step) {
            self.close_group();
        }
        self.open_group_for(step_target, &label);
        let (width, color) = (self.formatter.label_width(), self.options.color);
        let format = |keyword: &str, text: &str| terminal::format_output(keyword, &label, text, width, color);
        if let Some(gap) = output.gap(&self.options.logs_command) {
            self.workflow.with_stream(|stream| stream.write_foreign(&format("…", &gap)));
        }
        let lines: String = output.lines.iter().map(|line| format(line.stream.short_name(), &line.text)).collect();
        self.workflow.with_stream(|stream| stream.write_foreign(&lines));
    }

    fn write_line(&mut self, position: LogPosition<'_>, line: &DisplayLine, text: &str, is_foreign: bool) {
        match position {
            LogPosition::InGroup(step_target) if self.options.verbosity > Verbosity::Quiet => {
                self.open_group_for(step_target, &line.label)
            }
            LogPosition::InGroup(_) | LogPosition::AfterGroup | LogPosition::OutsideGroups
                if line.min_verbosity > self.options.verbosity =>
            {
                return;
            }
            LogPosition::InGroup(_) | LogPosition::AfterGroup | LogPosition::OutsideGroups => {}
        }
        let lines = terminal::format_line(
            line,
            text,
            self.formatter.label_width(),
            InteractiveMode::No.line_width(),
            self.options.color,
        );
        let line = LogLine { text: lines, is_foreign };
        match position {
            LogPosition::AfterGroup if self.open_group.is_some() => self.after_group.push(line),
            LogPosition::InGroup(_) | LogPosition::AfterGroup | LogPosition::OutsideGroups => self.write(&line),
        }
    }
}

impl DeploymentReporter for GroupedLogReporter {
    fn on_event(&mut self, entry: &JournalEntry) {
        if let Some(step_target) = terminal::journal_entry_ending_call(entry) {
            let last = self.throttles.finish(step_target);
            self.write_output(step_target, &last);
        }
        let items = self.formatter.format_entry(entry, self.options.continues_after.as_deref());
        let position = log_position(&entry.event);
        // A retryable failure may not be the last one.
        let is_stop = matches!(&entry.event, JournalEvent::Decision { decision: Decision::Stop { .. }, .. });
        let is_last_try = matches!(
            &entry.event,
            JournalEvent::Outcome { outcome: StepOutcome::Failed { failure }, .. } if !failure.retryable
        );
        self.is_last_failure = is_stop || is_last_try;
        if let JournalEvent::Outcome { step_target, .. } | JournalEvent::UndoOutcome { step_target, .. } = &entry.event
        {
            self.running.remove(step_target);
        }
        match position {
            LogPosition::InGroup(step_target) if self.open_group.as_ref() == Some(&step_target.step) => {}
            LogPosition::AfterGroup if !self.running.is_empty() => {}
            LogPosition::InGroup(_) | LogPosition::AfterGroup | LogPosition::OutsideGroups => self.close_group(),
        }
        let title = items.iter().find_map(|item| match item {
            DisplayItem::StepStarted { keyword, label, step, reason } => {
                Some(group_title(keyword, step.as_ref().unwrap_or(label), reason))
            }
            DisplayItem::Heading(_)
            | DisplayItem::Line(_)
            | DisplayItem::StepMessage(_)
            | DisplayItem::Meter { .. }
            | DisplayItem::StepEnded { .. } => None,
        });
        if let (LogPosition::InGroup(step_target), Some(title)) = (position, title) {
            self.open_group_for(step_target, &title);
            self.running.insert(step_target.clone());
        }
        for item in items {
            self.show_item(position, item);
        }
    }

    fn on_output(&mut self, step_target: &StepTarget, lines: &[OutputLine]) {
        let shown = match self.options.verbosity {
            Verbosity::Quiet => return,
            Verbosity::Normal => self.throttles.admit(step_target, lines),
            Verbosity::Verbose => ThrottledLines { left_out: 0, lines: lines.to_vec() },
        };
        self.write_output(step_target, &shown);
    }

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        self.close_group();
        if let Some(summary) = self.formatter.summary_line(conclusion.exit) {
            let summary = format!("{}\n", text::escape_line(&summary));
            self.workflow.with_stream(|stream| stream.write_own(&summary));
        }
    }
}

impl Drop for GroupedLogReporter {
    fn drop(&mut self) {
        self.workflow.with_stream(super::stream::CommandStream::close_all);
    }
}

/// The title of the group of a step.
fn group_title(keyword: &str, name: &str, reason: &str) -> String {
    match (keyword, reason) {
        ("start", "") => name.to_owned(),
        ("start", reason) => format!("{name}: {reason}"),
        (keyword, _) => format!("{name}: {keyword}"),
    }
}

fn log_position(event: &JournalEvent) -> LogPosition<'_> {
    match event {
        JournalEvent::Probe { step_target, .. }
        | JournalEvent::Intent { step_target, .. }
        | JournalEvent::Progress { step_target, .. }
        | JournalEvent::Output { step_target, .. }
        | JournalEvent::UndoIntent { step_target }
        | JournalEvent::Decision { step_target, decision: Decision::Run { .. } } => LogPosition::InGroup(step_target),
        JournalEvent::Decision { .. } | JournalEvent::Outcome { .. } | JournalEvent::UndoOutcome { .. } => {
            LogPosition::AfterGroup
        }
        JournalEvent::Started(_)
        | JournalEvent::Plan { .. }
        | JournalEvent::Lock { .. }
        | JournalEvent::Torn { .. }
        | JournalEvent::SwitchedBack { .. }
        | JournalEvent::Override { .. }
        | JournalEvent::HostLeftBehind { .. }
        | JournalEvent::Resolved { .. }
        | JournalEvent::RecordLost { .. }
        | JournalEvent::Ended { .. }
        | JournalEvent::Unrecognized => LogPosition::OutsideGroups,
    }
}
