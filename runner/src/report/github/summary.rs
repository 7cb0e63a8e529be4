//! The page of the job: what became of each step and why, what a retry will do, the error, and the attempts as a chart.
//!
//! Invariant: it is Markdown of at most the room that it is given, cut between blocks and rows, and foreign text in it is
//! text. It knows what the entries of this attempt say, and of earlier attempts what the caller tells. Deliberately absent:
//! writing it anywhere.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    super::{
        Color, Conclusion, Report, label,
        story::{Line, Story, Telling},
        words,
    },
    gantt::{Bar, Mood, gantt},
    markdown::{block, inline},
};
use contract::render;
use contract::text;
use contract::{
    diagnostic::{Diagnostic, Exit},
    step::{Outcome, Phase},
};
use journal::event::{Decision, Entry, Event, Header, Place};

/// GitHub takes so many bytes of one step of a job.
pub const SUMMARY_LIMIT: usize = 1024 * 1024;

/// The longest text in a cell, in characters.
const CELL: usize = 400;
/// At most so many bytes come after the table of steps.
const AFTER: usize = 256 * 1024;

const CUT: &str = "\n_The page is full; the log has the rest._\n";

/// An attempt of the same run that ended before this one began.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// The how-manieth of the run.
    pub number: u32,
    /// When it was begun.
    pub began: Timestamp,
    /// When its last record was written.
    pub ended: Timestamp,
    /// How it ended; none when it was killed.
    pub exit: Option<Exit>,
    /// Whether the release was verified.
    pub verified: bool,
    /// Where it stopped, if it did.
    pub stuck: Option<Place>,
}

/// Gathers what an attempt does, and writes the page at its end.
pub struct Summary {
    earlier: Vec<Earlier>,
    by_hand: String,
    is_believed: bool,
    room: usize,
    write: Box<dyn FnMut(&str)>,
    story: Story,
    header: Option<Header>,
    began: Option<Timestamp>,
    last: Option<Timestamp>,
    verified: bool,
    rows: Vec<Row>,
}

/// A step.
struct Row {
    place: Place,
    phase: Option<Phase>,
    decision: &'static str,
    why: String,
    /// The first word of the result.
    word: &'static str,
    result: String,
    took_ms: Option<u64>,
    fate: Fate,
    /// When it began to act, and ended.
    acted: Option<(Timestamp, Option<Timestamp>)>,
}

/// What is known of a step at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    NotReached,
    Skipped,
    Adopted,
    Begun,
    Ran,
    Failed,
    Unknown,
    Stopped,
    Undone,
}

impl Summary {
    /// A page of at most `room` bytes, given to `write`. `by_hand` is the command that goes on from a terminal.
    #[must_use]
    pub fn new(
        earlier: Vec<Earlier>,
        by_hand: String,
        is_believed: bool,
        room: usize,
        write: Box<dyn FnMut(&str)>,
    ) -> Self {
        Self {
            earlier,
            by_hand,
            is_believed,
            room,
            write,
            story: Story::default(),
            header: None,
            began: None,
            last: None,
            verified: false,
            rows: Vec::new(),
        }
    }

    fn row(&mut self, place: &Place) -> &mut Row {
        let at = self.rows.iter().position(|row| row.place == *place).unwrap_or_else(|| {
            // A hook is no step of the plan.
            self.rows.push(Row::new(place.clone(), None));
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    fn decided(&mut self, place: &Place, decision: &Decision) {
        let row = self.row(place);
        let fate = match decision {
            // What was adopted is skipped then: the news is that it was adopted.
            Decision::Skip { .. } if row.fate == Fate::Adopted => return,
            Decision::Skip { .. } => Fate::Skipped,
            Decision::Adopt { .. } => Fate::Adopted,
            Decision::Run { .. } => row.fate,
            Decision::Stop { .. } => Fate::Stopped,
        };
        row.fate = fate;
        row.decision = words::decision(decision);
        row.why = words::because(decision);
    }

    /// The page.
    fn page(&self, conclusion: &Conclusion<'_>) -> String {
        let mut page = Page { text: String::new(), room: self.room };
        let Some(header) = &self.header else {
            page.problems(conclusion.exit, conclusion.error.as_slice());
            return page.text;
        };
        let (app, release, environment) = (&header.app, &header.release.label, &header.environment);
        let stuck = self.rows.iter().rev().find(|row| row.is_stuck()).map(|row| &row.place);
        let ending = inline(&words::ending(Some(conclusion.exit), self.verified, stuck), CELL);
        let title = inline(&format!("{app} {release} → {environment}"), CELL);
        page.add(&format!("## {title}: {ending}\n\n"));
        if let Some(summary) = self.story.summary(conclusion.exit) {
            let (run, attempt) = (&header.run, header.attempt);
            page.add(&format!(
                "{} (run {}, attempt {attempt})\n\n",
                inline(&summary, CELL),
                inline(run.as_str(), CELL)
            ));
        }

        let mut after = Page { text: String::new(), room: AFTER.min(page.room / 2) };
        if let Some(error) = conclusion.error {
            after.error(error);
        }
        if conclusion.exit != Exit::Success {
            after.add(&self.retry(conclusion.exit));
            after.add(&format!("**By hand**, in the folder that the job ran in:\n\n{}\n", block("sh", &self.by_hand)));
        }
        if let Some(chart) = gantt(&format!("Run {}", header.run), &self.bars(conclusion.exit)) {
            after.add(&block("mermaid", &chart));
        }

        let room = page.room;
        page.room = page.text.len() + room.saturating_sub(page.text.len() + after.text.len() + CUT.len());
        page.add("| Step | Decision | Why | Result | Time |\n|---|---|---|---|---:|\n");
        let fit = self.rows.iter().take_while(|row| page.add(&row.markdown())).count();
        page.room = room;
        if fit < self.rows.len() {
            page.add(&format!("\n_{} more steps; the log has them._\n", self.rows.len() - fit));
        }
        page.add("\n");
        page.add(&after.text);
        page.text
    }

    /// What the next attempt will do about each step, as far as this one's records tell.
    fn retry(&self, exit: Exit) -> String {
        let mut plans: BTreeMap<(u8, &str), Vec<String>> = BTreeMap::new();
        let skips = (
            0,
            if self.is_believed { "skips, while its effect holds," } else { "probes, and skips if its effect holds," },
        );
        for row in self.rows.iter().filter(|row| row.phase.is_some()) {
            let (what, why) = match row.fate {
                Fate::Ran | Fate::Skipped | Fate::Adopted if row.phase == Some(Phase::Check) => {
                    ((2, "looks again at"), "a check is never skipped on record")
                }
                Fate::Ran => (skips, "it ran"),
                Fate::Skipped => (skips, "it was skipped"),
                Fate::Adopted => (skips, "it was adopted"),
                Fate::Begun | Fate::Unknown => ((1, "looks before it acts at"), "how far it got is not known"),
                Fate::Stopped => ((1, "looks before it acts at"), "an operator must say"),
                Fate::Failed => ((3, "runs"), "it failed"),
                Fate::Undone => ((3, "runs"), "it was undone"),
                Fate::NotReached => ((4, "comes to what this attempt did not:"), ""),
            };
            let step = inline(&label(&row.place), CELL);
            plans.entry(what).or_default().push(if why.is_empty() { step } else { format!("{step} ({why})") });
        }
        let begins = match exit {
            Exit::RolledBack => "begins a new run",
            Exit::Success
            | Exit::Failed
            | Exit::Refused
            | Exit::InDoubt
            | Exit::Locked
            | Exit::Journal
            | Exit::Bug
            | Exit::Interrupted => "goes on with this run",
        };
        let mut text = format!("**A retry** {begins}. It\n\n");
        for ((_, what), steps) in plans {
            text.push_str(&format!("- {what} {}\n", steps.join(", ")));
        }
        text.push('\n');
        text
    }

    /// Earlier attempts as one bar each, this one as a bar a step.
    fn bars(&self, exit: Exit) -> Vec<Bar> {
        let mut bars: Vec<_> = self
            .earlier
            .iter()
            .map(|attempt| Bar {
                section: format!("attempt {}", attempt.number),
                label: words::ending(attempt.exit, attempt.verified, attempt.stuck.as_ref()),
                mood: mood(attempt.exit),
                began: attempt.began,
                ended: attempt.ended,
            })
            .collect();
        let (Some(header), Some(began), Some(last)) = (&self.header, self.began, self.last) else { return bars };
        let section = format!("attempt {}", header.attempt);
        let steps: Vec<_> = self
            .rows
            .iter()
            .filter_map(|row| {
                let (began, ended) = row.acted?;
                let mood = match row.fate {
                    Fate::Ran | Fate::Skipped | Fate::Adopted => Mood::Good,
                    Fate::Failed | Fate::Undone => Mood::Bad,
                    Fate::NotReached | Fate::Begun | Fate::Unknown | Fate::Stopped => Mood::Open,
                };
                let ended = ended.unwrap_or(last);
                // The word comes first: some names of steps mean something to Mermaid.
                let label = format!("{} {}", row.word, label(&row.place));
                Some(Bar { section: section.clone(), label, mood, began, ended })
            })
            .collect();
        if steps.is_empty() {
            let label = words::ending(Some(exit), self.verified, None);
            bars.push(Bar { section, label, mood: mood(Some(exit)), began, ended: last });
        } else {
            bars.extend(steps);
        }
        bars
    }
}

impl Report for Summary {
    fn event(&mut self, entry: &Entry) {
        self.began.get_or_insert(entry.at);
        self.last = Some(entry.at);
        let line = self.story.tell(entry, None).into_iter().find_map(|telling| match telling {
            Telling::Line(line) => Some(line),
            Telling::Heading(_) | Telling::Said(_) | Telling::Begun { .. } | Telling::Meter { .. } | Telling::Over => {
                None
            }
        });
        match &entry.event {
            Event::Started(header) => self.header = Some(header.clone()),
            Event::Plan { steps, .. } => {
                self.rows = steps.iter().map(|step| Row::new(step.place.clone(), Some(step.phase))).collect();
            }
            Event::Decision { place, decision } => {
                self.decided(place, decision);
                // For one that runs, the time is that of the call.
                self.row(place).took_ms = line.and_then(|line| line.took_ms);
            }
            Event::Intent { place, .. } => {
                let row = self.row(place);
                row.fate = Fate::Begun;
                row.word = "begun";
                "begun, and not ended".clone_into(&mut row.result);
                row.acted = Some((row.acted.map_or(entry.at, |(began, _)| began), None));
            }
            Event::Outcome { place, result, .. } => {
                let row = self.row(place);
                row.fate = match result {
                    Outcome::Succeeded { .. } => Fate::Ran,
                    Outcome::Failed { .. } => Fate::Failed,
                    Outcome::Unknown { .. } => Fate::Unknown,
                };
                row.acted = row.acted.map(|(began, _)| (began, Some(entry.at)));
                row.ended(line);
            }
            Event::UndoIntent { place } => {
                self.row(place).fate = Fate::Begun;
            }
            Event::UndoOutcome { place, failure } => {
                let row = self.row(place);
                row.fate = if failure.is_none() { Fate::Undone } else { Fate::Unknown };
                let took_ms = row.took_ms;
                row.ended(line);
                row.took_ms = took_ms;
            }
            Event::Ended { verified, .. } => self.verified = *verified,
            Event::Lock { .. }
            | Event::Torn { .. }
            | Event::Override { .. }
            | Event::Progress { .. }
            | Event::Probe { .. }
            | Event::Unrecognized => {}
        }
    }

    fn finish(&mut self, conclusion: &Conclusion<'_>) {
        let page = self.page(conclusion);
        (self.write)(&page);
    }
}

impl Row {
    fn new(place: Place, phase: Option<Phase>) -> Self {
        Self {
            place,
            phase,
            decision: "",
            why: String::new(),
            word: "",
            result: String::new(),
            took_ms: None,
            fate: Fate::NotReached,
            acted: None,
        }
    }

    fn ended(&mut self, line: Option<Line>) {
        let Some(line) = line else { return };
        self.word = line.word;
        self.result = match line.text.as_str() {
            "" => line.word.to_owned(),
            text => format!("{}; {text}", line.word),
        };
        self.took_ms = line.took_ms;
    }

    fn is_stuck(&self) -> bool {
        match self.fate {
            Fate::Begun | Fate::Failed | Fate::Unknown | Fate::Stopped => true,
            Fate::NotReached | Fate::Skipped | Fate::Adopted | Fate::Ran | Fate::Undone => false,
        }
    }

    fn markdown(&self) -> String {
        let cell = |text: &str| inline(text, CELL);
        let result = if self.fate == Fate::NotReached { "not reached" } else { &self.result };
        let took = self.took_ms.map(text::took).unwrap_or_default();
        let cells = [&label(&self.place), self.decision, &self.why, result, &took].map(cell);
        format!("| {} |\n", cells.join(" | "))
    }
}

/// The page of a job where no attempt began.
#[must_use]
pub fn of_problems(exit: Exit, problems: &[Diagnostic], room: usize) -> String {
    let mut page = Page { text: String::new(), room };
    page.problems(exit, &problems.iter().collect::<Vec<_>>());
    page.text
}

/// Text of a bounded length.
struct Page {
    text: String,
    room: usize,
}

impl Page {
    /// Adds all of it or nothing.
    fn add(&mut self, text: &str) -> bool {
        let fits = self.text.len() + text.len() <= self.room;
        if fits {
            self.text.push_str(text);
        }
        fits
    }

    fn error(&mut self, error: &Diagnostic) -> bool {
        self.add(&format!("{}\n", block("text", &render::render(error, Color::Off))))
    }

    fn problems(&mut self, exit: Exit, problems: &[&Diagnostic]) {
        self.room = self.room.saturating_sub(CUT.len());
        self.add(&format!("## Nothing was begun: {}\n\n", words::result(Some(exit), false)));
        let fits = problems.iter().all(|problem| self.error(problem));
        self.room += CUT.len();
        if !fits {
            self.add(CUT);
        }
    }
}

fn mood(exit: Option<Exit>) -> Mood {
    match exit {
        Some(Exit::Success) => Mood::Good,
        Some(Exit::InDoubt | Exit::Interrupted) | None => Mood::Open,
        Some(Exit::Failed | Exit::Refused | Exit::RolledBack | Exit::Locked | Exit::Journal | Exit::Bug) => Mood::Bad,
    }
}
