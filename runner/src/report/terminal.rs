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
    Conclusion, Report,
    live::Live,
    story::{Line, Story, Telling, Tone},
};
use contract::render::Color;
use contract::text::{self, WIDTH, columns};
use journal::event::Entry;

/// Columns before the step: the indent, the word, a gap.
const BEFORE_LABEL: usize = 9;

/// The fewest columns between a text and the time at the right edge.
const GAP: usize = 2;

/// The fewest columns that a text is given, however long the step's name is.
const NARROWEST: usize = 20;

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
pub enum Interactive {
    /// Standard error is a terminal.
    Yes,
    /// It is a file, a pipe, a CI: every line is final. A step that begins gets its own, so that the last line of a
    /// killed process names the step that it was in.
    No,
}

/// How a terminal report looks.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much is told.
    pub verbosity: Verbosity,
    /// Whether lines are coloured.
    pub color: Color,
    /// Whether a line may move.
    pub interactive: Interactive,
    /// After what this attempt continues, from [`super::words::continues_after`]; none for the first attempt of a run.
    pub continues: Option<String>,
}

/// Tells people of an attempt.
pub struct Terminal {
    progress: Box<dyn Write>,
    summary: Box<dyn Write>,
    options: Options,
    story: Story,
    live: Option<Live>,
}

impl Terminal {
    /// Writes progress and the line that sums up to two streams, usually standard error and standard output. With
    /// [`Interactive::Yes`] the moving line is drawn on standard error.
    #[must_use]
    pub fn new(progress: Box<dyn Write>, summary: Box<dyn Write>, options: Options) -> Self {
        Self::drawing(progress, summary, options, ProgressDrawTarget::stderr)
    }

    pub(super) fn drawing(
        progress: Box<dyn Write>,
        summary: Box<dyn Write>,
        options: Options,
        target: impl Fn() -> ProgressDrawTarget + 'static,
    ) -> Self {
        let live = match (options.interactive, options.verbosity) {
            (Interactive::No, _) | (_, Verbosity::Quiet) => None,
            (Interactive::Yes, Verbosity::Normal | Verbosity::Verbose) => Some(Live::new(Box::new(target))),
        };
        Self { progress, summary, options, story: Story::default(), live }
    }

    fn show(&mut self, telling: Telling) {
        match telling {
            Telling::Heading(heading) => {
                if self.options.verbosity >= Verbosity::Normal {
                    self.write(&format!("{}\n", text::wrap(&heading, WIDTH, WIDTH).join("\n")));
                }
            }
            Telling::Line(line) | Telling::Said(line) => self.line(&line),
            Telling::Begun { word, label, why } => match &mut self.live {
                Some(live) => live.begin(&label),
                None => self.line(&Line {
                    needs: Verbosity::Normal,
                    tone: Tone::Plain,
                    word,
                    label,
                    why: None,
                    text: why,
                    took_ms: None,
                }),
            },
            Telling::Meter { label, task, done, total, unit } => match &mut self.live {
                Some(live) => live.meter(&task, done, total, &unit),
                None => self.line(&Line {
                    needs: Verbosity::Verbose,
                    tone: Tone::Calm,
                    word: "meter",
                    label,
                    why: None,
                    text: format!("{task} {}", text::amount(done, total, &unit)),
                    took_ms: None,
                }),
            },
            Telling::Over => {
                if let Some(live) = &mut self.live {
                    live.end();
                }
            }
        }
    }

    fn line(&mut self, line: &Line) {
        if line.needs <= self.options.verbosity {
            // Without a moving line, the line that the step began with has said why.
            let text = if self.live.is_some() { line.with_why() } else { line.text.clone() };
            self.write(&laid_out(line, &text, self.story.width(), self.options.color));
        }
    }

    fn write(&mut self, lines: &str) {
        let progress = &mut self.progress;
        // A terminal that went away must not end the deployment: what happened is in the journal.
        let mut write = || drop(progress.write_all(lines.as_bytes()).and_then(|()| progress.flush()));
        match &self.live {
            Some(live) => live.aside(write),
            None => write(),
        }
    }
}

impl Report for Terminal {
    fn event(&mut self, entry: &Entry) {
        for telling in self.story.tell(entry, self.options.continues.as_deref()) {
            self.show(telling);
        }
    }

    fn finish(&mut self, conclusion: &Conclusion<'_>) {
        self.show(Telling::Over);
        if let Some(summary) = self.story.summary(conclusion.exit) {
            drop(writeln!(self.summary, "{}", text::visible(&summary)).and_then(|()| self.summary.flush()));
        }
    }
}

/// A line as it is written, its end included. The time stands at the right edge of the last of its lines.
pub(super) fn laid_out(line: &Line, text: &str, label_width: usize, color: Color) -> String {
    let label_width = label_width.max(columns(&line.label));
    let indent = BEFORE_LABEL + label_width + 2;
    let took = line.took_ms.map(text::took);
    let for_time = took.as_ref().map_or(0, |took| GAP + columns(took));
    let room = WIDTH.saturating_sub(indent + for_time).max(NARROWEST);
    let mut lines = text::wrap(text, room, room).into_iter();
    let first = lines.next().unwrap_or_default();

    let style = style(line.tone, color);
    let word = format!("{style}{}{style:#}{}", line.word, " ".repeat(7_usize.saturating_sub(line.word.len())));
    let label = if label_width == 0 { String::new() } else { format!("{:<label_width$}  ", line.label) };
    let mut shown = format!("  {word}{label}{first}");
    let mut used = if label.is_empty() { BEFORE_LABEL } else { indent } + columns(&first);
    for more in lines {
        shown = format!("{}\n{}{more}", shown.trim_end(), " ".repeat(indent));
        used = indent + columns(&more);
    }
    if let Some(took) = took {
        let gap = WIDTH.saturating_sub(used + columns(&took)).max(GAP);
        shown.push_str(&format!("{}{took}", " ".repeat(gap)));
    }
    format!("{}\n", shown.trim_end())
}

fn style(tone: Tone, color: Color) -> Style {
    match (color, tone) {
        (Color::Off, _) | (_, Tone::Plain) => Style::new(),
        (Color::On, Tone::Good) => AnsiColor::Green.on_default(),
        (Color::On, Tone::Calm) => Style::new().dimmed(),
        (Color::On, Tone::Bad) => AnsiColor::Red.on_default().bold(),
        (Color::On, Tone::Doubt) => AnsiColor::Yellow.on_default().bold(),
    }
}
