//! The layout of all lines for people, with the keyword first: at most 80 columns on a terminal, and elsewhere one line each, so that
//! `grep` finds it.
//!
//! ```text
//!   skip   pull     its effect still holds                                    3 ms
//!   FAIL   migrate  migrations/0007_orders.sql:3: relation "order" does not
//!                   exist                                                    41 ms
//! ```
//!
//! Progress goes to one stream (standard error), the last line to another (standard output), so that a script can read it.
//! Without a terminal there is no progress line, and no control character but newlines and, if the caller wants colour,
//! styles. Deliberately absent: whether there is a terminal, and whether colour is wanted.

use std::{collections::BTreeSet, io::Write};

use anstyle::{AnsiColor, Style};
use indicatif::ProgressDrawTarget;

use super::{
    CommandConclusion, DeploymentReporter,
    fold::StartPlace,
    formatter::{DisplayItem, DisplayLine, EventFormatter, LineStyle},
    output_throttle::{OutputThrottles, ThrottledLines},
    progress_line::ProgressLines,
};
use contract::render::ColorMode;
use contract::text::{self, WIDTH, column_count};
use journal::event::{JournalEntry, JournalEvent, OutputLine, StepTarget};

/// The columns before the step: an indent, the keyword, a gap.
const LABEL_COLUMN: usize = 9;

/// The fewest columns between a text and the time at the right edge.
const MIN_GAP: usize = 2;

/// What stands for a tab in a line of a program.
const TAB: &str = "    ";

/// The fewest columns of a text, however long the name of the step is.
const MIN_TEXT_WIDTH: usize = 20;

/// How much a report shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Failures and the last line.
    Quiet,
    /// A line for each step, and warnings and errors of steps.
    #[default]
    Normal,
    /// Everything but progress bars: probes, intents, debug messages.
    Verbose,
}

/// Whether a progress line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InteractiveMode {
    /// Standard error is a terminal.
    Yes,
    /// Standard error is a file, a pipe or a CI: every line is final. The start of a step has its own line, so that the last
    /// line of a killed process names the running step.
    No,
}

impl InteractiveMode {
    /// The columns of a line, after which it is wrapped.
    pub(super) fn line_width(self) -> usize {
        match self {
            Self::Yes => WIDTH,
            Self::No => usize::MAX,
        }
    }
}

/// The options of a terminal report.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// How much it shows.
    pub verbosity: Verbosity,
    /// Whether it uses colour.
    pub color: ColorMode,
    /// Whether a progress line is drawn.
    pub interactive: InteractiveMode,
    /// The event that this attempt continues after, from [`super::messages::continues_after`]; none for the first attempt of a
    /// run.
    pub continues_after: Option<String>,
    /// The command that shows the whole log of the attempt, in backticks, with the options that it needs.
    pub logs_command: String,
}

/// Reports an attempt to people.
pub struct TerminalReporter {
    progress: Box<dyn Write>,
    summary: Box<dyn Write>,
    options: ReportOptions,
    formatter: EventFormatter,
    progress_lines: Option<ProgressLines>,
    throttles: OutputThrottles,
    /// The step that started last on several targets, with its keyword, and the reasons that were said.
    last_start: Option<(&'static str, String)>,
    said_reasons: BTreeSet<String>,
}

impl TerminalReporter {
    /// Writes progress and the last line to two streams, usually standard error and standard output.
    ///
    /// With [`InteractiveMode::Yes`], the progress line is drawn on standard error.
    #[must_use]
    pub fn new(progress: Box<dyn Write>, summary: Box<dyn Write>, options: ReportOptions) -> Self {
        Self::with_draw_target(progress, summary, options, ProgressDrawTarget::stderr)
    }

    pub(super) fn with_draw_target(
        progress: Box<dyn Write>,
        summary: Box<dyn Write>,
        options: ReportOptions,
        target: impl FnOnce() -> ProgressDrawTarget,
    ) -> Self {
        let live = match (options.interactive, options.verbosity) {
            (InteractiveMode::No, _) | (_, Verbosity::Quiet) => None,
            (InteractiveMode::Yes, Verbosity::Normal | Verbosity::Verbose) => Some(ProgressLines::new(target())),
        };
        Self {
            formatter: EventFormatter::new(options.verbosity),
            progress,
            summary,
            options,
            progress_lines: live,
            throttles: OutputThrottles::default(),
            last_start: None,
            said_reasons: BTreeSet::new(),
        }
    }

    fn show_item(&mut self, item: DisplayItem) {
        match item {
            DisplayItem::Heading(heading) => {
                if self.options.verbosity >= Verbosity::Normal {
                    let room = self.options.interactive.line_width();
                    self.write(&format!("{}\n", text::wrap(&heading, room, room).join("\n")));
                }
            }
            DisplayItem::Line(line) | DisplayItem::StepMessage(line) => self.write_line(&line),
            DisplayItem::StepStarted { keyword, label, step, reason, place } => match (&mut self.progress_lines, place)
            {
                (Some(live), StartPlace::Own) => live.begin(&label),
                (None, StartPlace::Own | StartPlace::Folded { is_repeated: false }) => {
                    self.write_start(keyword, label, step, reason);
                }
                (Some(_), StartPlace::Folded { .. }) | (None, StartPlace::Folded { is_repeated: true }) => {}
            },
            DisplayItem::Tally { step, text } => {
                if let Some(live) = &mut self.progress_lines {
                    live.show_tally(&step, &text);
                }
            }
            DisplayItem::Meter { label, task, done, total, unit } => match &self.progress_lines {
                Some(live) => live.set_progress(&label, &task, done, total, &unit),
                None => self.write_line(&DisplayLine {
                    min_verbosity: Verbosity::Verbose,
                    style: LineStyle::Muted,
                    keyword: "meter",
                    label,
                    reason: None,
                    text: format!("{task} {}", text::format_amount(done, total, &unit)),
                    took_ms: None,
                }),
            },
            DisplayItem::StepEnded { label } => {
                if let Some(live) = &mut self.progress_lines {
                    live.end(&label);
                }
            }
        }
    }

    /// Writes that a step starts; on several targets for one reason once, and for another one with the target's name.
    fn write_start(&mut self, keyword: &'static str, label: String, step: Option<String>, reason: String) {
        let start = step.clone().map(|step| (keyword, step));
        let is_same_step = start.is_some() && start == self.last_start;
        if !is_same_step {
            self.last_start = start;
            self.said_reasons.clear();
        }
        if !self.said_reasons.insert(reason.clone()) {
            return;
        }
        let step = step.filter(|_| !is_same_step);
        self.write_line(&DisplayLine {
            min_verbosity: Verbosity::Normal,
            style: LineStyle::Plain,
            keyword,
            label: step.unwrap_or(label),
            reason: None,
            text: reason,
            took_ms: None,
        });
    }

    /// Writes lines of a program.
    fn write_output(&mut self, label: &str, output: &ThrottledLines) {
        let (width, color) = (self.formatter.label_width(), self.options.color);
        let gap = output.gap(&self.options.logs_command).map(|gap| format_output("…", label, &gap, width, color));
        let lines = output.lines.iter();
        let lines = lines.map(|line| format_output(line.stream.short_name(), label, &line.text, width, color));
        let text: String = gap.into_iter().chain(lines).collect();
        if !text.is_empty() {
            self.write(&text);
        }
    }

    fn write_line(&mut self, line: &DisplayLine) {
        if line.min_verbosity <= self.options.verbosity {
            // Without a progress line, the line of the start has shown the reason.
            let text = if self.progress_lines.is_some() { line.text_with_reason() } else { line.text.clone() };
            let room = self.options.interactive.line_width();
            self.write(&format_line(line, &text, self.formatter.label_width(), room, self.options.color));
        }
    }

    fn write(&mut self, lines: &str) {
        let progress = &mut self.progress;
        // A closed terminal must not end the deployment: the journal has every entry.
        let mut write = || drop(progress.write_all(lines.as_bytes()).and_then(|()| progress.flush()));
        match &self.progress_lines {
            Some(live) => live.suspend(write),
            None => write(),
        }
    }
}

impl DeploymentReporter for TerminalReporter {
    fn on_event(&mut self, entry: &JournalEntry) {
        for item in self.formatter.end_folded_steps(Some(entry)) {
            self.show_item(item);
        }
        let ended = journal_entry_ending_call(entry);
        if let Some(step_target) = ended.filter(|step_target| !self.formatter.is_folded(&step_target.step)) {
            let label = self.formatter.label(step_target);
            let last = self.throttles.finish(&label);
            self.write_output(&label, &last);
        }
        for item in self.formatter.format_entry(entry, self.options.continues_after.as_deref()) {
            self.show_item(item);
        }
    }

    fn on_output(&mut self, step_target: &StepTarget, lines: &[OutputLine]) {
        let label = self.formatter.label(step_target);
        match (self.options.verbosity, &mut self.progress_lines) {
            (Verbosity::Quiet, _) => {}
            (Verbosity::Verbose, _) => {
                self.write_output(&label, &ThrottledLines { left_out: 0, lines: lines.to_vec() });
            }
            (Verbosity::Normal, Some(live)) => {
                let last = lines.iter().rev().find(|line| !line.text.trim().is_empty());
                last.into_iter().for_each(|line| live.show_output(&label, &line.text));
            }
            (Verbosity::Normal, None) => {
                // Of many targets, `runner logs` has what their programs write, and a failure has its last lines.
                if self.formatter.is_folded(&step_target.step) {
                    return;
                }
                let shown = self.throttles.admit(&label, lines);
                self.write_output(&label, &shown);
            }
        }
    }

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        for item in self.formatter.end_folded_steps(None) {
            self.show_item(item);
        }
        if let Some(live) = &mut self.progress_lines {
            live.end_all();
        }
        if let Some(summary) = self.formatter.summary_line(conclusion.exit) {
            drop(writeln!(self.summary, "{}", text::escape_line(&summary)).and_then(|()| self.summary.flush()));
        }
    }
}

/// Lays out a line, its end included, in `width` columns. The time is at the right edge of the last line, or behind a longer one.
pub(super) fn format_line(
    line: &DisplayLine,
    text: &str,
    label_width: usize,
    width: usize,
    color: ColorMode,
) -> String {
    let label_width = label_width.max(column_count(&line.label));
    let indent = LABEL_COLUMN + label_width + 2;
    let took = line.took_ms.map(text::format_duration);
    let for_time = took.as_ref().map_or(0, |took| MIN_GAP + column_count(took));
    let room = width.saturating_sub(indent + for_time).max(MIN_TEXT_WIDTH);
    let mut lines = text::wrap(text, room, room).into_iter();
    let first = lines.next().unwrap_or_default();

    let style = ansi_style(line.style, color);
    let word = format!("{style}{}{style:#}{}", line.keyword, " ".repeat(7_usize.saturating_sub(line.keyword.len())));
    let label = if label_width == 0 { String::new() } else { format!("{:<label_width$}  ", line.label) };
    let mut shown = format!("  {word}{label}{first}");
    let mut used = if label.is_empty() { LABEL_COLUMN } else { indent } + column_count(&first);
    for more in lines {
        shown = format!("{}\n{}{more}", shown.trim_end(), " ".repeat(indent));
        used = indent + column_count(&more);
    }
    if let Some(took) = took {
        let gap = WIDTH.saturating_sub(used + column_count(&took)).max(MIN_GAP);
        shown.push_str(&format!("{}{took}", " ".repeat(gap)));
    }
    format!("{}\n", shown.trim_end())
}

/// Lays out a line of a program, its end included. It is not wrapped, so that `grep` finds whole lines.
pub(super) fn format_output(keyword: &str, label: &str, text: &str, label_width: usize, color: ColorMode) -> String {
    let style = ansi_style(LineStyle::Muted, color);
    let gap = " ".repeat(7_usize.saturating_sub(column_count(keyword)));
    let line = format!(
        "  {style}{keyword}{style:#}{gap}{label:<label_width$}  {}",
        text::escape_line(&text.replace('\t', TAB))
    );
    format!("{}\n", line.trim_end())
}

/// The step of a call that the entry ends.
pub(super) fn journal_entry_ending_call(entry: &JournalEntry) -> Option<&StepTarget> {
    match &entry.event {
        JournalEvent::Output { step_target, .. }
        | JournalEvent::Outcome { step_target, .. }
        | JournalEvent::Probe { step_target, .. }
        | JournalEvent::UndoOutcome { step_target, .. } => Some(step_target),
        JournalEvent::Started(_)
        | JournalEvent::Plan { .. }
        | JournalEvent::Lock { .. }
        | JournalEvent::Torn { .. }
        | JournalEvent::SwitchedBack { .. }
        | JournalEvent::Decision { .. }
        | JournalEvent::Intent { .. }
        | JournalEvent::Progress { .. }
        | JournalEvent::UndoIntent { .. }
        | JournalEvent::Override { .. }
        | JournalEvent::HostLeftBehind { .. }
        | JournalEvent::Resolved { .. }
        | JournalEvent::RecordLost { .. }
        | JournalEvent::Ended { .. }
        | JournalEvent::Unrecognized => None,
    }
}

fn ansi_style(line_style: LineStyle, color: ColorMode) -> Style {
    match (color, line_style) {
        (ColorMode::Off, _) | (_, LineStyle::Plain) => Style::new(),
        (ColorMode::On, LineStyle::Success) => AnsiColor::Green.on_default(),
        (ColorMode::On, LineStyle::Muted) => Style::new().dimmed(),
        (ColorMode::On, LineStyle::Failure) => AnsiColor::Red.on_default().bold(),
        (ColorMode::On, LineStyle::Attention) => AnsiColor::Yellow.on_default().bold(),
    }
}
