//! The log of a deployment: a folded group with the messages of a step, and below it a line with the result; of a step that runs on
//! several targets at once, a line for each, or one for all if they are many.
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
        fold::StartPlace,
        formatter::{DisplayItem, DisplayLine, EventFormatter, LineStyle},
        output_throttle::{OutputThrottles, ThrottledLines},
        terminal::{self, InteractiveMode, ReportOptions, Verbosity},
    },
    WorkflowOutput,
};

use contract::{StepId, step::StepOutcome, text};
use journal::event::{Decision, JournalEntry, JournalEvent, OutputLine, StepTarget};

/// The longest title of a group, in columns.
const MAX_TITLE_COLUMNS: usize = 160;

/// Reports an attempt to the readers of a job's log.
pub struct GroupedLogReporter {
    workflow: WorkflowOutput,
    options: ReportOptions,
    formatter: EventFormatter,
    /// The group that is open.
    open_group: Option<OpenGroup>,
    /// The lines that follow the open group.
    after_group: Vec<LogLine>,
    throttles: OutputThrottles,
    /// The line is that of a failure, or of a decision to stop, whose reason the error at the end has.
    is_last_failure: bool,
}

/// The group of a step. If the step runs on several targets, it stays open until another step follows.
struct OpenGroup {
    step: StepId,
    is_undo: bool,
    is_shared: bool,
    title: String,
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
            formatter: EventFormatter::new(options.verbosity),
            workflow,
            options,
            open_group: None,
            after_group: Vec::new(),
            throttles: OutputThrottles::default(),
            is_last_failure: false,
        }
    }

    fn open_group_for(&mut self, step_target: &StepTarget, title: &str) {
        if self.open_group.is_none() && self.options.verbosity > Verbosity::Quiet {
            let shared = self.formatter.shared_name(step_target);
            let is_undo = self.formatter.is_being_undone(step_target);
            let (step, is_shared, title) = (step_target.step.clone(), shared.is_some(), title.to_owned());
            self.workflow.with_stream(|stream| stream.group(&text::truncate(&title, MAX_TITLE_COLUMNS)));
            self.open_group = Some(OpenGroup { step, is_undo, is_shared, title });
        }
    }

    /// Whether the open group stays open for an entry at this position.
    fn stays_open(&self, position: LogPosition<'_>, event: &JournalEvent) -> bool {
        let Some(open) = &self.open_group else { return false };
        let begins_undo = matches!(event, JournalEvent::UndoIntent { .. });
        let is_undo = begins_undo || open.is_undo && !matches!(event, JournalEvent::Intent { .. });
        let is_of_group = |step_target: &StepTarget| step_target.step == open.step && is_undo == open.is_undo;
        match position {
            LogPosition::InGroup(step_target) => is_of_group(step_target),
            LogPosition::AfterGroup => open.is_shared && event.step_target().is_some_and(is_of_group),
            LogPosition::OutsideGroups => false,
        }
    }

    fn close_group(&mut self) {
        if self.open_group.take().is_some() {
            self.workflow.with_stream(super::stream::CommandStream::end_group);
        }
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
            DisplayItem::StepStarted { place: StartPlace::Folded { is_repeated: true }, .. } => {}
            // On this host, for another reason than the title says.
            DisplayItem::StepStarted { keyword, label, step: Some(step), reason, .. }
                if self.open_group.as_ref().is_some_and(|open| open.title != group_title(keyword, &step, &reason)) =>
            {
                let (min_verbosity, style) = (Verbosity::Normal, LineStyle::Plain);
                let line =
                    DisplayLine { min_verbosity, style, keyword, label, reason: None, text: reason, took_ms: None };
                self.write_line(position, &line, &line.text, true);
            }
            DisplayItem::StepStarted { .. } | DisplayItem::Tally { .. } => {}
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
            DisplayItem::StepEnded { label } => {
                let left_out = self.throttles.drop_rest(&label);
                if let Some(gap) = left_out.gap(&self.options.logs_command).filter(|_| self.open_group.is_some()) {
                    self.write_output_line("…", &label, &gap);
                }
            }
        }
    }

    fn write_output_line(&self, keyword: &str, label: &str, text: &str) {
        let (width, color) = (self.formatter.label_width(), self.options.color);
        let line = terminal::format_output(keyword, label, text, width, color);
        self.workflow.with_stream(|stream| stream.write_foreign(&line));
    }

    /// Writes lines of a program into the group of its step.
    fn write_output(&mut self, step_target: &StepTarget, output: &ThrottledLines) {
        if output.lines.is_empty() && output.left_out == 0 {
            return;
        }
        let label = self.formatter.label(step_target);
        if self.open_group.as_ref().is_none_or(|open| open.step != step_target.step) {
            self.close_group();
        }
        self.open_group_for(step_target, &self.formatter.shared_name(step_target).unwrap_or_else(|| label.clone()));
        if let Some(gap) = output.gap(&self.options.logs_command) {
            self.write_output_line("…", &label, &gap);
        }
        let (width, color) = (self.formatter.label_width(), self.options.color);
        let format =
            |line: &OutputLine| terminal::format_output(line.stream.short_name(), &label, &line.text, width, color);
        let lines: String = output.lines.iter().map(format).collect();
        self.workflow.with_stream(|stream| stream.write_foreign(&lines));
    }

    fn write_line(&mut self, position: LogPosition<'_>, line: &DisplayLine, text: &str, is_foreign: bool) {
        match position {
            LogPosition::InGroup(step_target) if self.options.verbosity > Verbosity::Quiet => {
                let shared = self.formatter.shared_name(step_target);
                self.open_group_for(step_target, shared.as_ref().unwrap_or(&line.label));
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
        self.is_last_failure = false;
        for item in self.formatter.end_folded_steps(Some(entry)) {
            self.show_item(LogPosition::AfterGroup, item);
        }
        let ended = terminal::journal_entry_ending_call(entry);
        if let Some(step_target) = ended.filter(|step_target| !self.formatter.is_folded(&step_target.step)) {
            let last = self.throttles.finish(&self.formatter.label(step_target));
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
        if !self.stays_open(position, &entry.event) {
            self.close_group();
        }
        let title = items.iter().find_map(|item| match item {
            DisplayItem::StepStarted { keyword, label, step, reason, .. } => {
                Some(group_title(keyword, step.as_ref().unwrap_or(label), reason))
            }
            DisplayItem::Heading(_)
            | DisplayItem::Line(_)
            | DisplayItem::StepMessage(_)
            | DisplayItem::Tally { .. }
            | DisplayItem::Meter { .. }
            | DisplayItem::StepEnded { .. } => None,
        });
        if let (LogPosition::InGroup(step_target), Some(title)) = (position, title) {
            self.open_group_for(step_target, &title);
        }
        for item in items {
            self.show_item(position, item);
        }
    }

    fn on_output(&mut self, step_target: &StepTarget, lines: &[OutputLine]) {
        let shown = match self.options.verbosity {
            Verbosity::Quiet => return,
            Verbosity::Normal => self.throttles.admit(&self.formatter.output_source(step_target), lines),
            Verbosity::Verbose => ThrottledLines { left_out: 0, lines: lines.to_vec() },
        };
        self.write_output(step_target, &shown);
    }

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        self.is_last_failure = false;
        for item in self.formatter.end_folded_steps(None) {
            self.show_item(LogPosition::AfterGroup, item);
        }
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
