//! The page of the job: what became of each step and why, what a retry will do, the error, and the attempts as a chart.
//!
//! Invariant: it is Markdown of at most the room that it is given, cut between blocks and rows, and foreign text in it is
//! text. It knows what the entries of this attempt say, and of earlier attempts what the caller tells. Deliberately absent:
//! writing it anywhere.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    super::{
        ColorMode, CommandConclusion, DeploymentReporter,
        formatter::{DisplayItem, DisplayLine, EventFormatter},
        messages, step_label,
    },
    gantt::{BarStatus, GanttBar, gantt_chart},
    markdown::{code_block, escape_inline},
};
use contract::render;
use contract::text;
use contract::{
    diagnostic::{Diagnostic, ExitKind},
    step::{StepOutcome, StepPhase},
};
use journal::event::{Decision, JournalEntry, JournalEvent, JournalHeader, StepTarget};

/// GitHub takes so many bytes of one step of a job.
pub const MAX_SUMMARY_BYTES: usize = 1024 * 1024;

/// The longest text in a cell, in characters.
const MAX_CELL_CHARS: usize = 400;
/// At most so many bytes come after the table of steps.
const MAX_AFTER_TABLE_BYTES: usize = 256 * 1024;

const TRUNCATED_NOTE: &str = "\n_The page is full; the log has the rest._\n";

/// An attempt of the same run that ended before this one began.
#[derive(Clone, Debug)]
pub struct PreviousAttempt {
    /// The how-manieth of the run.
    pub number: u32,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When its last record was written.
    pub ended_at: Timestamp,
    /// How it ended; none when it was killed.
    pub exit: Option<ExitKind>,
    /// Whether the release was verified.
    pub verified: bool,
    /// Where it stopped, if it did.
    pub failed_step: Option<StepTarget>,
}

/// Gathers what an attempt does, and writes the page at its end.
pub struct JobSummaryReporter {
    previous_attempts: Vec<PreviousAttempt>,
    resume_command: String,
    is_authenticated: bool,
    max_bytes: usize,
    write: Box<dyn FnMut(&str)>,
    formatter: EventFormatter,
    header: Option<JournalHeader>,
    started_at: Option<Timestamp>,
    last_entry_at: Option<Timestamp>,
    verified: bool,
    rows: Vec<SummaryRow>,
}

/// A step.
struct SummaryRow {
    step_target: StepTarget,
    phase: Option<StepPhase>,
    decision: &'static str,
    reason: String,
    /// The first word of the result.
    keyword: &'static str,
    result: String,
    took_ms: Option<u64>,
    status: StepRowStatus,
    /// When it began to act, and ended.
    action_time: Option<(Timestamp, Option<Timestamp>)>,
}

/// What is known of a step at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepRowStatus {
    NotReached,
    Skipped,
    Adopted,
    Started,
    Ran,
    Failed,
    Unknown,
    Stopped,
    Undone,
}

impl JobSummaryReporter {
    /// A page of at most `max_bytes` bytes, given to `write`. `resume_command` is the command that goes on from a terminal.
    #[must_use]
    pub fn new(
        earlier: Vec<PreviousAttempt>,
        by_hand: String,
        is_believed: bool,
        room: usize,
        write: Box<dyn FnMut(&str)>,
    ) -> Self {
        Self {
            previous_attempts: earlier,
            resume_command: by_hand,
            is_authenticated: is_believed,
            max_bytes: room,
            write,
            formatter: EventFormatter::default(),
            header: None,
            started_at: None,
            last_entry_at: None,
            verified: false,
            rows: Vec::new(),
        }
    }

    fn row(&mut self, step_target: &StepTarget) -> &mut SummaryRow {
        let at = self.rows.iter().position(|row| row.step_target == *step_target).unwrap_or_else(|| {
            // A hook is no step of the plan.
            self.rows.push(SummaryRow::new(step_target.clone(), None));
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    fn on_decision(&mut self, step_target: &StepTarget, decision: &Decision) {
        let row = self.row(step_target);
        let fate = match decision {
            // What was adopted is skipped then: the news is that it was adopted.
            Decision::Skip { .. } if row.status == StepRowStatus::Adopted => return,
            Decision::Skip { .. } => StepRowStatus::Skipped,
            Decision::Adopt { .. } => StepRowStatus::Adopted,
            Decision::Run { .. } => row.status,
            Decision::Stop { .. } => StepRowStatus::Stopped,
        };
        row.status = fate;
        row.decision = messages::decision(decision);
        row.reason = messages::decision_reason(decision);
    }

    /// The page.
    fn render_page(&self, conclusion: &CommandConclusion<'_>) -> String {
        let mut page = BoundedPage { text: String::new(), max_bytes: self.max_bytes };
        let Some(header) = &self.header else {
            page.push_problems(conclusion.exit, conclusion.error.as_slice());
            return page.text;
        };
        let (app, release, environment) = (&header.app, &header.release.label, &header.environment);
        let stuck = self.rows.iter().rev().find(|row| row.is_unfinished()).map(|row| &row.step_target);
        let ending =
            escape_inline(&messages::result_at_step(Some(conclusion.exit), self.verified, stuck), MAX_CELL_CHARS);
        let title = escape_inline(&format!("{app} {release} → {environment}"), MAX_CELL_CHARS);
        page.push_if_fits(&format!("## {title}: {ending}\n\n"));
        if let Some(summary) = self.formatter.summary_line(conclusion.exit) {
            let (run, attempt) = (&header.run, header.attempt);
            page.push_if_fits(&format!(
                "{} (run {}, attempt {attempt})\n\n",
                escape_inline(&summary, MAX_CELL_CHARS),
                escape_inline(run.as_str(), MAX_CELL_CHARS)
            ));
        }

        let mut after = BoundedPage { text: String::new(), max_bytes: MAX_AFTER_TABLE_BYTES.min(page.max_bytes / 2) };
        if let Some(error) = conclusion.error {
            after.push_error(error);
        }
        if conclusion.exit != ExitKind::Success {
            after.push_if_fits(&self.retry_plan(conclusion.exit));
            after.push_if_fits(&format!(
                "**By hand**, in the folder that the job ran in:\n\n{}\n",
                code_block("sh", &self.resume_command)
            ));
        }
        if let Some(chart) = gantt_chart(&format!("Run {}", header.run), &self.gantt_bars(conclusion.exit)) {
            after.push_if_fits(&code_block("mermaid", &chart));
        }

        let room = page.max_bytes;
        page.max_bytes =
            page.text.len() + room.saturating_sub(page.text.len() + after.text.len() + TRUNCATED_NOTE.len());
        page.push_if_fits("| Step | Decision | Why | Result | Time |\n|---|---|---|---|---:|\n");
        let fit = self.rows.iter().take_while(|row| page.push_if_fits(&row.markdown())).count();
        page.max_bytes = room;
        if fit < self.rows.len() {
            page.push_if_fits(&format!("\n_{} more steps; the log has them._\n", self.rows.len() - fit));
        }
        page.push_if_fits("\n");
        page.push_if_fits(&after.text);
        page.text
    }

    /// What the next attempt will do about each step, as far as this one's records tell.
    fn retry_plan(&self, exit: ExitKind) -> String {
        let mut plans: BTreeMap<(u8, &str), Vec<String>> = BTreeMap::new();
        let skips = (
            0,
            if self.is_authenticated {
                "skips, while its effect holds,"
            } else {
                "probes, and skips if its effect holds,"
            },
        );
        for row in self.rows.iter().filter(|row| row.phase.is_some()) {
            let (what, why) = match row.status {
                StepRowStatus::Ran | StepRowStatus::Skipped | StepRowStatus::Adopted
                    if row.phase == Some(StepPhase::Check) =>
                {
                    ((2, "looks again at"), "a check is never skipped on record")
                }
                StepRowStatus::Ran => (skips, "it ran"),
                StepRowStatus::Skipped => (skips, "it was skipped"),
                StepRowStatus::Adopted => (skips, "it was adopted"),
                StepRowStatus::Started | StepRowStatus::Unknown => {
                    ((1, "looks before it acts at"), "how far it got is not known")
                }
                StepRowStatus::Stopped => ((1, "looks before it acts at"), "an operator must say"),
                StepRowStatus::Failed => ((3, "runs"), "it failed"),
                StepRowStatus::Undone => ((3, "runs"), "it was undone"),
                StepRowStatus::NotReached => ((4, "comes to what this attempt did not:"), ""),
            };
            let step = escape_inline(&step_label(&row.step_target), MAX_CELL_CHARS);
            plans.entry(what).or_default().push(if why.is_empty() { step } else { format!("{step} ({why})") });
        }
        let begins = match exit {
            ExitKind::RolledBack => "begins a new run",
            ExitKind::Success
            | ExitKind::Failed
            | ExitKind::Refused
            | ExitKind::InDoubt
            | ExitKind::Locked
            | ExitKind::Journal
            | ExitKind::Bug
            | ExitKind::Interrupted => "goes on with this run",
        };
        let mut text = format!("**A retry** {begins}. It\n\n");
        for ((_, what), steps) in plans {
            text.push_str(&format!("- {what} {}\n", steps.join(", ")));
        }
        text.push('\n');
        text
    }

    /// Earlier attempts as one bar each, this one as a bar a step.
    fn gantt_bars(&self, exit: ExitKind) -> Vec<GanttBar> {
        let mut bars: Vec<_> = self
            .previous_attempts
            .iter()
            .map(|attempt| GanttBar {
                section: format!("attempt {}", attempt.number),
                label: messages::result_at_step(attempt.exit, attempt.verified, attempt.failed_step.as_ref()),
                status: bar_status(attempt.exit),
                started_at: attempt.started_at,
                ended_at: attempt.ended_at,
            })
            .collect();
        let (Some(header), Some(began), Some(last)) = (&self.header, self.started_at, self.last_entry_at) else {
            return bars;
        };
        let section = format!("attempt {}", header.attempt);
        let steps: Vec<_> = self
            .rows
            .iter()
            .filter_map(|row| {
                let (began, ended) = row.action_time?;
                let mood = match row.status {
                    StepRowStatus::Ran | StepRowStatus::Skipped | StepRowStatus::Adopted => BarStatus::Done,
                    StepRowStatus::Failed | StepRowStatus::Undone => BarStatus::Failed,
                    StepRowStatus::NotReached
                    | StepRowStatus::Started
                    | StepRowStatus::Unknown
                    | StepRowStatus::Stopped => BarStatus::Unfinished,
                };
                let ended = ended.unwrap_or(last);
                // The word comes first: some names of steps mean something to Mermaid.
                let label = format!("{} {}", row.keyword, step_label(&row.step_target));
                Some(GanttBar { section: section.clone(), label, status: mood, started_at: began, ended_at: ended })
            })
            .collect();
        if steps.is_empty() {
            let label = messages::result_at_step(Some(exit), self.verified, None);
            bars.push(GanttBar { section, label, status: bar_status(Some(exit)), started_at: began, ended_at: last });
        } else {
            bars.extend(steps);
        }
        bars
    }
}

impl DeploymentReporter for JobSummaryReporter {
    fn on_event(&mut self, entry: &JournalEntry) {
        self.started_at.get_or_insert(entry.at);
        self.last_entry_at = Some(entry.at);
        let line = self.formatter.format_entry(entry, None).into_iter().find_map(|telling| match telling {
            DisplayItem::Line(line) => Some(line),
            DisplayItem::Heading(_)
            | DisplayItem::StepMessage(_)
            | DisplayItem::StepStarted { .. }
            | DisplayItem::Meter { .. }
            | DisplayItem::StepEnded => None,
        });
        match &entry.event {
            JournalEvent::Started(header) => self.header = Some(header.clone()),
            JournalEvent::Plan { steps, .. } => {
                self.rows =
                    steps.iter().map(|step| SummaryRow::new(step.step_target.clone(), Some(step.phase))).collect();
            }
            JournalEvent::Decision { step_target, decision } => {
                self.on_decision(step_target, decision);
                // For one that runs, the time is that of the call.
                self.row(step_target).took_ms = line.and_then(|line| line.took_ms);
            }
            JournalEvent::Intent { step_target, .. } => {
                let row = self.row(step_target);
                row.status = StepRowStatus::Started;
                row.keyword = "begun";
                "begun, and not ended".clone_into(&mut row.result);
                row.action_time = Some((row.action_time.map_or(entry.at, |(began, _)| began), None));
            }
            JournalEvent::Outcome { step_target, outcome: result, .. } => {
                let row = self.row(step_target);
                row.status = match result {
                    StepOutcome::Succeeded { .. } => StepRowStatus::Ran,
                    StepOutcome::Failed { .. } => StepRowStatus::Failed,
                    StepOutcome::Unknown { .. } => StepRowStatus::Unknown,
                };
                row.action_time = row.action_time.map(|(began, _)| (began, Some(entry.at)));
                row.set_result(line);
            }
            JournalEvent::UndoIntent { step_target } => {
                self.row(step_target).status = StepRowStatus::Started;
            }
            JournalEvent::UndoOutcome { step_target, failure } => {
                let row = self.row(step_target);
                row.status = if failure.is_none() { StepRowStatus::Undone } else { StepRowStatus::Unknown };
                let took_ms = row.took_ms;
                row.set_result(line);
                row.took_ms = took_ms;
            }
            JournalEvent::Ended { verified, .. } => self.verified = *verified,
            JournalEvent::Lock { .. }
            | JournalEvent::Torn { .. }
            | JournalEvent::Override { .. }
            | JournalEvent::Progress { .. }
            | JournalEvent::Probe { .. }
            | JournalEvent::Unrecognized => {}
        }
    }

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        let page = self.render_page(conclusion);
        (self.write)(&page);
    }
}

impl SummaryRow {
    fn new(step_target: StepTarget, phase: Option<StepPhase>) -> Self {
        Self {
            step_target,
            phase,
            decision: "",
            reason: String::new(),
            keyword: "",
            result: String::new(),
            took_ms: None,
            status: StepRowStatus::NotReached,
            action_time: None,
        }
    }

    fn set_result(&mut self, line: Option<DisplayLine>) {
        let Some(line) = line else { return };
        self.keyword = line.keyword;
        self.result = match line.text.as_str() {
            "" => line.keyword.to_owned(),
            text => format!("{}; {text}", line.keyword),
        };
        self.took_ms = line.took_ms;
    }

    fn is_unfinished(&self) -> bool {
        match self.status {
            StepRowStatus::Started | StepRowStatus::Failed | StepRowStatus::Unknown | StepRowStatus::Stopped => true,
            StepRowStatus::NotReached
            | StepRowStatus::Skipped
            | StepRowStatus::Adopted
            | StepRowStatus::Ran
            | StepRowStatus::Undone => false,
        }
    }

    fn markdown(&self) -> String {
        let cell = |text: &str| escape_inline(text, MAX_CELL_CHARS);
        let result = if self.status == StepRowStatus::NotReached { "not reached" } else { &self.result };
        let took = self.took_ms.map(text::format_duration).unwrap_or_default();
        let cells = [&step_label(&self.step_target), self.decision, &self.reason, result, &took].map(cell);
        format!("| {} |\n", cells.join(" | "))
    }
}

/// The page of a job where no attempt began.
#[must_use]
pub fn render_problems_page(exit: ExitKind, problems: &[Diagnostic], room: usize) -> String {
    let mut page = BoundedPage { text: String::new(), max_bytes: room };
    page.push_problems(exit, &problems.iter().collect::<Vec<_>>());
    page.text
}

/// Text of a bounded length.
struct BoundedPage {
    text: String,
    max_bytes: usize,
}

impl BoundedPage {
    /// Adds all of it or nothing.
    fn push_if_fits(&mut self, text: &str) -> bool {
        let fits = self.text.len() + text.len() <= self.max_bytes;
        if fits {
            self.text.push_str(text);
        }
        fits
    }

    fn push_error(&mut self, error: &Diagnostic) -> bool {
        self.push_if_fits(&format!("{}\n", code_block("text", &render::render_diagnostic(error, ColorMode::Off))))
    }

    fn push_problems(&mut self, exit: ExitKind, problems: &[&Diagnostic]) {
        self.max_bytes = self.max_bytes.saturating_sub(TRUNCATED_NOTE.len());
        self.push_if_fits(&format!("## Nothing was begun: {}\n\n", messages::result(Some(exit), false)));
        let fits = problems.iter().all(|problem| self.push_error(problem));
        self.max_bytes += TRUNCATED_NOTE.len();
        if !fits {
            self.push_if_fits(TRUNCATED_NOTE);
        }
    }
}

fn bar_status(exit: Option<ExitKind>) -> BarStatus {
    match exit {
        Some(ExitKind::Success) => BarStatus::Done,
        Some(ExitKind::InDoubt | ExitKind::Interrupted) | None => BarStatus::Unfinished,
        Some(
            ExitKind::Failed
            | ExitKind::Refused
            | ExitKind::RolledBack
            | ExitKind::Locked
            | ExitKind::Journal
            | ExitKind::Bug,
        ) => BarStatus::Failed,
    }
}
