//! The log of a deployment: a folded group for what a step says and is asked, and below it one line with what became of it.
//!
//! ```text
//!   shop r2 to test (run 2-bbbbbb, attempt 2)
//!   ▸ pull
//!     skip   pull     its effect still holds                                    3 ms
//!   ▸ migrate: it failed the last time
//!     ran    migrate  it failed the last time; 1 file                          12 ms
//! ```
//!
//! So a log that nobody unfolds tells the whole story. What a group holds is verbose: who opens it wants to know. Deliberately
//! absent: words and layout, which are those of the terminal.

use super::{
    super::{
        Conclusion, Report,
        story::{Line, Story, Telling, Tone},
        terminal::{self, Options, Verbosity},
    },
    Workflow,
};
use contract::text;
use journal::event::{Decision, Entry, Event, Place};

/// The longest title of a group, in columns.
const TITLE: usize = 160;

/// Tells the readers of a workflow of an attempt.
pub struct Log {
    workflow: Workflow,
    options: Options,
    story: Story,
    /// Whose group is open.
    inside: Option<Place>,
}

/// Where an entry is told of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side<'e> {
    /// In the group of its step.
    Inside(&'e Place),
    /// Below the group, which ends.
    Below,
    /// Of no step.
    Apart,
}

impl Log {
    /// Writes to the log of a job. It never moves a line, whatever the options say.
    #[must_use]
    pub fn new(workflow: Workflow, options: Options) -> Self {
        Self { workflow, options, story: Story::default(), inside: None }
    }

    fn enter(&mut self, place: &Place, title: &str) {
        if self.inside.is_none() && self.options.verbosity > Verbosity::Quiet {
            self.inside = Some(place.clone());
            self.workflow.stream(|stream| stream.group(&text::cut(title, TITLE)));
        }
    }

    fn leave(&mut self) {
        if self.inside.take().is_some() {
            self.workflow.stream(super::stream::Stream::end_group);
        }
    }

    fn show(&mut self, side: Side<'_>, telling: Telling) {
        match telling {
            Telling::Heading(heading) => {
                if self.options.verbosity > Verbosity::Quiet {
                    let heading = format!("{}\n", text::visible(&heading));
                    self.workflow.stream(|stream| stream.own(&heading));
                }
            }
            Telling::Line(line) => {
                let text = line.with_why();
                self.line(side, &line, &text, false);
            }
            Telling::Said(line) => self.line(side, &line, &line.text, true),
            Telling::Begun { word, label, why } => {
                let line = Line {
                    needs: Verbosity::Normal,
                    tone: Tone::Plain,
                    word,
                    label,
                    why: None,
                    text: why,
                    took_ms: None,
                };
                self.line(side, &line, &line.text, false);
            }
            Telling::Meter { label, task, done, total, unit } => {
                // There are many, and none of them is news to who reads it later.
                if self.options.verbosity == Verbosity::Verbose {
                    let text = format!("{task} {}", text::amount(done, total, &unit));
                    let needs = Verbosity::Verbose;
                    let (tone, word) = (Tone::Calm, "meter");
                    let line = Line { needs, tone, word, label, why: None, text, took_ms: None };
                    self.line(side, &line, &line.text, true);
                }
            }
            Telling::Over => {}
        }
    }

    fn line(&mut self, side: Side<'_>, line: &Line, text: &str, is_foreign: bool) {
        match side {
            Side::Inside(place) if self.options.verbosity > Verbosity::Quiet => self.enter(place, &line.label),
            Side::Inside(_) | Side::Below | Side::Apart if line.needs > self.options.verbosity => return,
            Side::Inside(_) | Side::Below | Side::Apart => {}
        }
        let lines = terminal::laid_out(line, text, self.story.width(), self.options.color);
        self.workflow.stream(|stream| if is_foreign { stream.foreign(&lines) } else { stream.own(&lines) });
    }
}

impl Report for Log {
    fn event(&mut self, entry: &Entry) {
        let tellings = self.story.tell(entry, self.options.continues.as_deref());
        let side = side(&entry.event);
        match side {
            Side::Inside(place) if self.inside.as_ref() == Some(place) => {}
            Side::Inside(_) | Side::Below | Side::Apart => self.leave(),
        }
        let title = tellings.iter().find_map(|telling| match telling {
            Telling::Begun { word: "start", label, why } if why.is_empty() => Some(label.clone()),
            Telling::Begun { word: "start", label, why } => Some(format!("{label}: {why}")),
            Telling::Begun { word, label, .. } => Some(format!("{label}: {word}")),
            Telling::Heading(_) | Telling::Line(_) | Telling::Said(_) | Telling::Meter { .. } | Telling::Over => None,
        });
        if let (Side::Inside(place), Some(title)) = (side, title) {
            self.enter(place, &title);
        }
        for telling in tellings {
            self.show(side, telling);
        }
    }

    fn finish(&mut self, conclusion: &Conclusion<'_>) {
        self.leave();
        if let Some(summary) = self.story.summary(conclusion.exit) {
            let summary = format!("{}\n", text::visible(&summary));
            self.workflow.stream(|stream| stream.own(&summary));
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.workflow.stream(super::stream::Stream::rest);
    }
}

fn side(event: &Event) -> Side<'_> {
    match event {
        Event::Probe { place, .. }
        | Event::Intent { place, .. }
        | Event::Progress { place, .. }
        | Event::UndoIntent { place }
        | Event::Decision { place, decision: Decision::Run { .. } } => Side::Inside(place),
        Event::Decision { .. } | Event::Outcome { .. } | Event::UndoOutcome { .. } => Side::Below,
        Event::Started(_)
        | Event::Plan { .. }
        | Event::Lock { .. }
        | Event::Torn { .. }
        | Event::Override { .. }
        | Event::Ended { .. }
        | Event::Unrecognized => Side::Apart,
    }
}
