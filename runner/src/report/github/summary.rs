//! The page of the job: the result of each step and its reason, the error, what a retry will do, and the attempts as a chart.
//!
//! Invariant: the page is Markdown of at most `max_bytes`, cut between blocks and rows, and foreign text in it is never
//! formatted. An icon always has a word next to it. The page knows the entries of this attempt; the caller supplies earlier
//! attempts. Deliberately absent: writing it anywhere.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    super::{
        ColorMode, CommandConclusion, DeploymentReporter,
        formatter::{DisplayItem, EventFormatter},
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
use journal::{
    StepStatus,
    event::{Decision, JournalEntry, JournalEvent, JournalHeader, OutputLine, StepTarget},
};

/// The most bytes that GitHub accepts as the summary of one step of a job.
pub const MAX_SUMMARY_BYTES: usize = 1024 * 1024;

/// The longest text in a cell, in characters.
const MAX_CELL_CHARS: usize = 400;
/// The most bytes after the table of steps.
const MAX_AFTER_TABLE_BYTES: usize = 256 * 1024;

const TRUNCATED_NOTE: &str = "\n_The page is full; the log has the rest._\n";

/// An attempt of the same run that ended before this one started.
#[derive(Clone, Debug)]
pub struct PreviousAttempt {
    /// Its number within the run.
    pub number: u32,
    /// The time of its first record.
    pub started_at: Timestamp,
    /// The time of its last record.
    pub ended_at: Timestamp,
    /// How it ended; none if it was killed.
    pub exit: Option<ExitKind>,
    /// Whether the release was verified.
    pub verified: bool,
    /// The step that it ended at, if it did not reach the end of the plan.
    pub failed_step: Option<StepTarget>,
}

/// Collects the entries of an attempt, and writes the page at its end.
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

/// A row of the table: a step of the plan, or a hook.
struct SummaryRow {
    step_target: StepTarget,
    /// None for a hook.
    phase: Option<StepPhase>,
    /// Why it ran, was skipped, adopted or stopped; foreign.
    reason: String,
    /// Its notes, or its failure; foreign.
    detail: String,
    took_ms: Option<u64>,
    /// The start and the end of its action, for the chart.
    action_time: Option<(Timestamp, Option<Timestamp>)>,
}

/// The icon and the word of a status. The word alone is enough where icons are not shown.
fn status_label(status: StepStatus) -> &'static str {
    match status {
        StepStatus::NotReached => "⬜ not reached",
        StepStatus::Skipped => "⏭️ skipped",
        StepStatus::Adopted => "✅ adopted: the effect was already there",
        StepStatus::Started => "⚠️ interrupted; outcome unknown",
        StepStatus::Ran => "✅ ran",
        StepStatus::Failed => "❌ failed",
        StepStatus::Unknown => "⚠️ outcome unknown",
        StepStatus::Stopped => "⚠️ stopped",
        StepStatus::Undoing => "⚠️ undo interrupted; outcome unknown",
        StepStatus::Undone => "↩️ undone",
        StepStatus::UndoFailed => "❌ undo failed",
    }
}

/// The word and the colour of the bar of a status.
fn status_bar(status: StepStatus) -> (&'static str, BarStatus) {
    match status {
        StepStatus::Ran => ("ran", BarStatus::Done),
        StepStatus::Skipped => ("skipped", BarStatus::Done),
        StepStatus::Adopted => ("adopted", BarStatus::Done),
        StepStatus::Failed => ("failed", BarStatus::Failed),
        StepStatus::Undone => ("undone", BarStatus::Failed),
        StepStatus::UndoFailed => ("undo failed", BarStatus::Failed),
        StepStatus::Unknown => ("unknown", BarStatus::Unfinished),
        StepStatus::Stopped => ("stopped", BarStatus::Unfinished),
        StepStatus::NotReached | StepStatus::Started | StepStatus::Undoing => ("interrupted", BarStatus::Unfinished),
    }
}

impl JobSummaryReporter {
    /// A page of at most `max_bytes` bytes, passed to `write`.
    ///
    /// `resume_command` continues the deployment from a terminal; `is_authenticated` says whether a retry can trust the
    /// journal.
    #[must_use]
    pub fn new(
        previous_attempts: Vec<PreviousAttempt>,
        resume_command: String,
        is_authenticated: bool,
        max_bytes: usize,
        write: Box<dyn FnMut(&str)>,
    ) -> Self {
        Self {
            previous_attempts,
            resume_command,
            is_authenticated,
            max_bytes,
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
            // A hook is not a step of the plan.
            self.rows.push(SummaryRow::new(step_target.clone(), None));
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    fn status_of(&self, row: &SummaryRow) -> StepStatus {
        self.formatter.statuses().status(&row.step_target)
    }

    fn on_decision(&mut self, entry: &JournalEntry, step_target: &StepTarget, decision: &Decision) {
        let status = self.formatter.statuses().status(step_target);
        let row = self.row(step_target);
        match decision {
            // An adopted step is skipped right after. The row keeps the adoption.
            Decision::Skip { .. } if status == StepStatus::Adopted => return,
            // Where the record was missing, an intent came first: its bar ends here.
            Decision::Adopt { .. } => {
                row.action_time = Some((row.action_time.map_or(entry.at, |(started, _)| started), Some(entry.at)));
            }
            Decision::Skip { .. } | Decision::Run { .. } | Decision::Stop { .. } => {}
        }
        row.reason = messages::decision_reason(decision);
    }

    /// The whole page.
    fn render_page(&self, conclusion: &CommandConclusion<'_>) -> String {
        let mut page = BoundedPage { text: String::new(), max_bytes: self.max_bytes };
        let Some(header) = &self.header else {
            page.push_problems(conclusion.exit, conclusion.error.as_slice());
            return page.text;
        };
        let (app, release, environment) = (&header.app, &header.release.label, &header.environment);
        let failed_step = self.formatter.statuses().failed_step();
        let result =
            escape_inline(&messages::result_at_step(Some(conclusion.exit), self.verified, failed_step), MAX_CELL_CHARS);
        let title = escape_inline(&format!("{app} {release} → {environment}"), MAX_CELL_CHARS);
        page.push_if_fits(&format!("## {} {title}: {result}\n\n", result_icon(conclusion.exit, self.verified)));
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
                "**To continue from a terminal**, run in the job's folder:\n\n{}\n",
                code_block("sh", &self.resume_command)
            ));
        }
        if let Some(chart) = gantt_chart(&format!("Run {}", header.run), &self.gantt_bars(conclusion.exit)) {
            after.push_if_fits(&code_block("mermaid", &chart));
        }

        let room = page.max_bytes;
        page.max_bytes =
            page.text.len() + room.saturating_sub(page.text.len() + after.text.len() + TRUNCATED_NOTE.len());
        page.push_if_fits("| Step | Result | Why | Time |\n|---|---|---|---:|\n");
        let fit = self.rows.iter().take_while(|row| page.push_if_fits(&row.markdown(self.status_of(row)))).count();
        page.max_bytes = room;
        if fit < self.rows.len() {
            page.push_if_fits(&format!("\n_{} more steps are in the log._\n", self.rows.len() - fit));
        }
        page.push_if_fits("\n");
        page.push_if_fits(&after.text);
        page.text
    }

    /// What the next attempt will do with each step, by the records of this one.
    fn retry_plan(&self, exit: ExitKind) -> String {
        let skips = if self.is_authenticated {
            "skips if the effect still holds:"
        } else {
            "probes, then skips if the effect holds:"
        };
        let mut plans: BTreeMap<(u8, &str), Vec<String>> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.phase.is_some()) {
            let (plan, reason) = match self.status_of(row) {
                StepStatus::Ran | StepStatus::Skipped | StepStatus::Adopted if row.phase == Some(StepPhase::Check) => {
                    ((2, "checks again:"), None)
                }
                StepStatus::Ran => ((0, skips), Some("ran")),
                StepStatus::Skipped => ((0, skips), Some("skipped")),
                StepStatus::Adopted => ((0, skips), Some("adopted")),
                StepStatus::Started | StepStatus::Unknown => ((1, "probes before it acts:"), Some("outcome unknown")),
                StepStatus::Stopped => ((1, "probes before it acts:"), Some("waits for an operator")),
                StepStatus::Undoing | StepStatus::UndoFailed => ((3, "finishes the undo of:"), None),
                StepStatus::Failed => ((4, "runs again:"), Some("failed")),
                StepStatus::Undone => ((4, "runs again:"), Some("undone")),
                StepStatus::NotReached => ((5, "continues with:"), None),
            };
            let step = escape_inline(&step_label(&row.step_target), MAX_CELL_CHARS);
            let step = reason.map_or_else(|| step.clone(), |reason| format!("{step} ({reason})"));
            plans.entry(plan).or_default().push(step);
        }
        let run = match exit {
            ExitKind::RolledBack => "starts a new run",
            ExitKind::Success
            | ExitKind::Failed
            | ExitKind::Refused
            | ExitKind::InDoubt
            | ExitKind::Locked
            | ExitKind::Journal
            | ExitKind::Bug
            | ExitKind::Interrupted => "continues this run",
        };
        let mut text = format!("**A retry** {run}. It\n\n");
        for ((_, plan), steps) in plans {
            text.push_str(&format!("- {plan} {}\n", steps.join(", ")));
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
        let (Some(header), Some(started_at), Some(last)) = (&self.header, self.started_at, self.last_entry_at) else {
            return bars;
        };
        let section = format!("attempt {}", header.attempt);
        let steps: Vec<_> = self
            .rows
            .iter()
            .filter_map(|row| {
                let (started_at, ended_at) = row.action_time?;
                let (word, status) = status_bar(self.status_of(row));
                // The word comes first: Mermaid takes some names of steps for keywords.
                let label = format!("{word} {}", step_label(&row.step_target));
                let ended_at = ended_at.unwrap_or(last);
                Some(GanttBar { section: section.clone(), label, status, started_at, ended_at })
            })
            .collect();
        if steps.is_empty() {
            let label = messages::result_at_step(Some(exit), self.verified, None);
            bars.push(GanttBar { section, label, status: bar_status(Some(exit)), started_at, ended_at: last });
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
                self.on_decision(entry, step_target, decision);
                // The time of its probe, until the step runs.
                self.row(step_target).took_ms = line.and_then(|line| line.took_ms);
            }
            JournalEvent::Intent { step_target, .. } => {
                let row = self.row(step_target);
                row.detail.clear();
                row.action_time = Some((row.action_time.map_or(entry.at, |(started, _)| started), None));
            }
            JournalEvent::Outcome { step_target, took_ms, outcome } => {
                let row = self.row(step_target);
                row.detail = match outcome {
                    StepOutcome::Succeeded { receipt } if !receipt.acted() => messages::nothing_to_do(&receipt.notes),
                    StepOutcome::Succeeded { receipt } => messages::notes(&receipt.notes),
                    StepOutcome::Failed { failure } | StepOutcome::Unknown { failure } => messages::failure(failure),
                };
                row.action_time = row.action_time.map(|(started, _)| (started, Some(entry.at)));
                row.took_ms = Some(*took_ms);
            }
            JournalEvent::UndoIntent { step_target } => {
                self.row(step_target).detail.clear();
            }
            JournalEvent::UndoOutcome { step_target, failure } => {
                self.row(step_target).detail = failure.as_ref().map(messages::failure).unwrap_or_default();
            }
            JournalEvent::Ended { verified, .. } => self.verified = *verified,
            JournalEvent::Lock { .. }
            | JournalEvent::Torn { .. }
            | JournalEvent::SwitchedBack { .. }
            | JournalEvent::Override { .. }
            | JournalEvent::Resolved { .. }
            | JournalEvent::RecordLost { .. }
            | JournalEvent::Progress { .. }
            | JournalEvent::Output { .. }
            | JournalEvent::Probe { .. }
            | JournalEvent::Unrecognized => {}
        }
    }

    /// The page has no output.
    fn on_output(&mut self, _: &StepTarget, _: &[OutputLine]) {}

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        let page = self.render_page(conclusion);
        (self.write)(&page);
    }
}

impl SummaryRow {
    fn new(step_target: StepTarget, phase: Option<StepPhase>) -> Self {
        Self { step_target, phase, reason: String::new(), detail: String::new(), took_ms: None, action_time: None }
    }

    fn markdown(&self, status: StepStatus) -> String {
        let cell = |text: &str| escape_inline(text, MAX_CELL_CHARS);
        let label = status_label(status);
        let result = if self.detail.is_empty() { label.to_owned() } else { format!("{label}: {}", cell(&self.detail)) };
        let took = self.took_ms.map(text::format_duration).unwrap_or_default();
        format!("| {} | {result} | {} | {} |\n", cell(&step_label(&self.step_target)), cell(&self.reason), cell(&took))
    }
}

/// The page of a job that did not start an attempt.
#[must_use]
pub fn render_problems_page(exit: ExitKind, problems: &[Diagnostic], max_bytes: usize) -> String {
    let mut page = BoundedPage { text: String::new(), max_bytes };
    page.push_problems(exit, &problems.iter().collect::<Vec<_>>());
    page.text
}

/// A text of at most `max_bytes`.
struct BoundedPage {
    text: String,
    max_bytes: usize,
}

impl BoundedPage {
    /// Adds the whole text or nothing of it.
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
        self.push_if_fits(&format!(
            "## {} Not started: {}\n\n",
            result_icon(exit, false),
            messages::result(Some(exit), false)
        ));
        let fits = problems.iter().all(|problem| self.push_error(problem));
        self.max_bytes += TRUNCATED_NOTE.len();
        if !fits {
            self.push_if_fits(TRUNCATED_NOTE);
        }
    }
}

/// The icon of a result, for the headline; the result follows as words.
fn result_icon(exit: ExitKind, verified: bool) -> &'static str {
    match exit {
        ExitKind::Success if verified => "✅",
        ExitKind::RolledBack => "↩️",
        ExitKind::Success | ExitKind::InDoubt | ExitKind::Locked | ExitKind::Interrupted => "⚠️",
        ExitKind::Failed | ExitKind::Refused | ExitKind::Journal | ExitKind::Bug => "❌",
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
