//! Where all lines for people are written, and how they look: at most 80 columns, the telling word first.
//!
//! ```text
//!   skip   pull     its effect still holds                                    3 ms
//!   FAIL   migrate  migrations/0007_orders.sql:3: relation "order" does not
//!                   exist                                                    41 ms
//! ```
//!
//! Progress goes to one stream (standard error), the one line that sums up to another (standard output), so that a script
//! can take it. Without a terminal no line moves, and no control character is written but newlines and, if the caller
//! wants colour, styles. Deliberately absent: whether there is a terminal, and whether colour is wanted.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use indicatif::ProgressDrawTarget;

use super::{
    CommandConclusion, DeploymentReporter,
    formatter::{DisplayItem, DisplayLine, EventFormatter, LineStyle},
    progress_line::ProgressLine,
};
use contract::render::ColorMode;
use contract::text::{self, WIDTH, column_count};
use journal::event::JournalEntry;

/// Columns before the step: the indent, the word, a gap.
const LABEL_COLUMN: usize = 9;

/// The fewest columns between a text and the time at the right edge.
const MIN_GAP: usize = 2;

/// The fewest columns that a text is given, however long the step's name is.
const MIN_TEXT_WIDTH: usize = 20;

/// How much is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Failures and the last line.
    Quiet,
    /// A line a step, warnings and errors of steps.
    #[default]
    Normal,
    /// All but progress bars: probes, intents, debug messages.
    Verbose,
}

/// Whether a line may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InteractiveMode {
    /// Standard error is a terminal.
    Yes,
    /// It is a file, a pipe, a CI: every line is final. A step that begins gets its own, so that the last line of a
    /// killed process names the step that it was in.
    No,
}

/// How a terminal report looks.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// How much is told.
    pub verbosity: Verbosity,
    /// Whether lines are coloured.
    pub color: ColorMode,
    /// Whether a line may move.
    pub interactive: InteractiveMode,
    /// After what this attempt continues, from [`super::words::continues_after`]; none for the first attempt of a run.
    pub continues_after: Option<String>,
}

/// Tells people of an attempt.
pub struct TerminalReporter {
    progress: Box<dyn Write>,
    summary: Box<dyn Write>,
    options: ReportOptions,
    formatter: EventFormatter,
    progress_line: Option<ProgressLine>,
}

impl TerminalReporter {
    /// Writes progress and the line that sums up to two streams, usually standard error and standard output. With
    /// [`InteractiveMode::Yes`] the moving line is drawn on standard error.
    #[must_use]
    pub fn new(progress: Box<dyn Write>, summary: Box<dyn Write>, options: ReportOptions) -> Self {
        Self::with_draw_target(progress, summary, options, ProgressDrawTarget::stderr)
    }

    pub(super) fn with_draw_target(
        progress: Box<dyn Write>,
        summary: Box<dyn Write>,
        options: ReportOptions,
        target: impl Fn() -> ProgressDrawTarget + 'static,
    ) -> Self {
        let live = match (options.interactive, options.verbosity) {
            (InteractiveMode::No, _) | (_, Verbosity::Quiet) => None,
            (InteractiveMode::Yes, Verbosity::Normal | Verbosity::Verbose) => Some(ProgressLine::new(Box::new(target))),
        };
        Self { progress, summary, options, formatter: EventFormatter::default(), progress_line: live }
    }

    fn show_item(&mut self, item: DisplayItem) {
        match item {
            DisplayItem::Heading(heading) => {
                if self.options.verbosity >= Verbosity::Normal {
                    self.write(&format!("{}\n", text::wrap(&heading, WIDTH, WIDTH).join("\n")));
                }
            }
            DisplayItem::Line(line) | DisplayItem::StepMessage(line) => self.write_line(&line),
            DisplayItem::StepStarted { keyword: word, label, reason: why } => match &mut self.progress_line {
                Some(live) => live.begin(&label),
                None => self.write_line(&DisplayLine {
                    min_verbosity: Verbosity::Normal,
                    style: LineStyle::Plain,
                    keyword: word,
                    label,
                    reason: None,
                    text: why,
                    took_ms: None,
                }),
            },
            DisplayItem::Meter { label, task, done, total, unit } => match &mut self.progress_line {
                Some(live) => live.set_progress(&task, done, total, &unit),
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
            DisplayItem::StepEnded => {
                if let Some(live) = &mut self.progress_line {
                    live.end();
                }
            }
        }
    }

    fn write_line(&mut self, line: &DisplayLine) {
        if line.min_verbosity <= self.options.verbosity {
            // Without a moving line, the line that the step began with has said why.
            let text = if self.progress_line.is_some() { line.text_with_reason() } else { line.text.clone() };
            self.write(&format_line(line, &text, self.formatter.label_width(), self.options.color));
        }
    }

    fn write(&mut self, lines: &str) {
        let progress = &mut self.progress;
        // A terminal that went away must not end the deployment: what happened is in the journal.
        let mut write = || drop(progress.write_all(lines.as_bytes()).and_then(|()| progress.flush()));
        match &self.progress_line {
            Some(live) => live.suspend(write),
            None => write(),
        }
    }
}

impl DeploymentReporter for TerminalReporter {
    fn on_event(&mut self, entry: &JournalEntry) {
        for telling in self.formatter.format_entry(entry, self.options.continues_after.as_deref()) {
            self.show_item(telling);
        }
    }

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        self.show_item(DisplayItem::StepEnded);
        if let Some(summary) = self.formatter.summary_line(conclusion.exit) {
            drop(writeln!(self.summary, "{}", text::escape_line(&summary)).and_then(|()| self.summary.flush()));
        }
    }
}

/// A line as it is written, its end included. The time stands at the right edge of the last of its lines.
pub(super) fn format_line(line: &DisplayLine, text: &str, label_width: usize, color: ColorMode) -> String {
    let label_width = label_width.max(column_count(&line.label));
    let indent = LABEL_COLUMN + label_width + 2;
    let took = line.took_ms.map(text::format_duration);
    let for_time = took.as_ref().map_or(0, |took| MIN_GAP + column_count(took));
    let room = WIDTH.saturating_sub(indent + for_time).max(MIN_TEXT_WIDTH);
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

fn ansi_style(line_style: LineStyle, color: ColorMode) -> Style {
    match (color, line_style) {
        (ColorMode::Off, _) | (_, LineStyle::Plain) => Style::new(),
        (ColorMode::On, LineStyle::Success) => AnsiColor::Green.on_default(),
        (ColorMode::On, LineStyle::Muted) => Style::new().dimmed(),
        (ColorMode::On, LineStyle::Failure) => AnsiColor::Red.on_default().bold(),
        (ColorMode::On, LineStyle::Attention) => AnsiColor::Yellow.on_default().bold(),
    }
}
