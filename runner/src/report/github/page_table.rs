//! The table of the job's page: a row for each step, or for steps that share a status and have nothing else to say; and a column for
//! each attempt of a run that was resumed. A step on several hosts has one row.
//!
//! Deliberately absent: what stands above it ([`super::page`]), and what became of each host ([`super::host_table`]).

use super::{
    super::{messages, step_label},
    attempt_table::{AttemptTable, StepRow},
    host_table::{gravest, host_counts},
    page::{AttemptPage, cell, release_span},
    summary::PreviousAttempt,
};
use contract::{diagnostic::ExitKind, step::StepPhase, text::format_duration};
use journal::{StepStatus, event::StepTarget};

const NOT_UNDONE: &str = "**not undone**";

/// The most earlier attempts that have a column, the newest ones.
const MAX_PREVIOUS_COLUMNS: usize = 3;

impl AttemptPage<'_> {
    fn columns(&self) -> &[PreviousAttempt] {
        &self.previous[self.previous.len().saturating_sub(MAX_PREVIOUS_COLUMNS)..]
    }

    /// The head of the table.
    pub(super) fn table_head(&self) -> String {
        if self.previous.is_empty() {
            return "| | Step | | Time |\n|---|---|---|---:|\n".to_owned();
        }
        let earlier: String = self.columns().iter().map(|attempt| format!(" Attempt {} |", attempt.number)).collect();
        let lines = "---|".repeat(self.columns().len());
        format!("| | Step |{earlier} Now | Why |\n|---|---|{lines}---|---|\n")
    }

    /// Its rows.
    pub(super) fn rows(&self) -> Vec<String> {
        let steps: Vec<&[StepRow]> =
            self.table.rows.chunk_by(|one, other| one.step_target.step == other.step_target.step).collect();
        if !self.previous.is_empty() {
            return steps.iter().map(|of_step| self.row_with_attempts(of_step)).collect();
        }
        // Steps that share a status and have nothing else to say share a row.
        let mut rows: Vec<String> = Vec::new();
        let mut group: Vec<&StepRow> = Vec::new();
        for of_step in steps {
            let row = &of_step[0];
            let is_alike = of_step
                .iter()
                .all(|other| self.group_of(other).is_some() && self.group_of(other) == self.group_of(row));
            if of_step.len() > 1 && !is_alike {
                rows.extend(self.row_of(&group));
                group.clear();
                rows.push(self.row_of_hosts(&of_step.iter().collect::<Vec<_>>()));
                continue;
            }
            let shares =
                |first: &&StepRow| self.group_of(first).is_some() && self.group_of(first) == self.group_of(row);
            if !group.first().is_some_and(shares) {
                rows.extend(self.row_of(&group));
                group.clear();
            }
            group.push(row);
        }
        rows.extend(self.row_of(&group));
        rows
    }

    /// What the step of a row is called: without the host, if it runs on several.
    fn name_of(&self, row: &StepRow) -> String {
        let StepTarget { step, .. } = &row.step_target;
        if row.phase.is_some() && self.is_shared(step) {
            cell(step.as_str())
        } else {
            cell(&step_label(&row.step_target))
        }
    }

    /// The row of a step on several hosts, which worked at the same time.
    fn row_of_hosts(&self, rows: &[&StepRow]) -> String {
        let name = self.name_of(rows[0]);
        let is_failed = self.table.failed_step().is_some_and(|failed| failed.step == rows[0].step_target.step);
        let name = if is_failed { format!("**{name}**") } else { name };
        let took = rows.iter().filter_map(|row| row.took_ms).max().map_or_else(String::new, format_duration);
        let stays = rows
            .iter()
            .any(|row| self.table.status(&row.step_target) == StepStatus::Ran && self.stays_after_rollback(row));
        let (icon, stays) = match stays {
            true => ("⚠️", format!("; {NOT_UNDONE}")),
            false => (status_icon(gravest(self.table, rows)), String::new()),
        };
        let counts = host_counts(self.table, rows);
        format!("| {icon} | {name} | {counts}{stays}{} | {took} |\n", repetition_on_hosts(rows))
    }

    /// What steps share that need no row of their own.
    fn group_of(&self, row: &StepRow) -> Option<&'static str> {
        let status = self.table.status(&row.step_target);
        if status == StepStatus::NotReached {
            return Some("not reached");
        }
        let stands_alone = !row.applied.is_empty() || row.repeated.is_some();
        (status == StepStatus::Ran && self.stays_after_rollback(row) && !stands_alone).then_some(NOT_UNDONE)
    }

    /// Whether a rollback left the effect of a step: it was neither undone nor repeated for the release before.
    fn stays_after_rollback(&self, row: &StepRow) -> bool {
        let is_repeated = row.repeated.as_ref().is_some_and(|repeated| repeated.succeeded == Some(true));
        let has_effect = row.acted && row.phase == Some(StepPhase::Commit);
        self.conclusion.exit == ExitKind::RolledBack && has_effect && !is_repeated
    }

    fn row_of(&self, group: &[&StepRow]) -> Option<String> {
        let first = group.first()?;
        let status = self.table.status(&first.step_target);
        let names: Vec<_> = group.iter().map(|row| self.name_of(row)).collect();
        let took: u64 = group.iter().filter_map(|row| row.took_ms).sum();
        let took = if group.iter().any(|row| row.took_ms.is_some()) { format_duration(took) } else { String::new() };
        let (icon, text) = match self.group_of(first) {
            Some("not reached") => ("⬜", "not reached".to_owned()),
            Some(shared) => ("⚠️", shared.to_owned()),
            None if status == StepStatus::Ran && self.stays_after_rollback(first) => {
                let files = if first.applied.is_empty() {
                    String::new()
                } else {
                    format!(": {}", cell(&first.applied.join(", ")))
                };
                ("⚠️", format!("{NOT_UNDONE}{files}{}", repetition(first)))
            }
            None => (status_icon(status), format!("{}{}", self.result_text(first, status), repetition(first))),
        };
        let name = names.join(", ");
        let name = if self.table.failed_step() == Some(&first.step_target) { format!("**{name}**") } else { name };
        Some(format!("| {icon} | {name} | {text} | {took} |\n"))
    }

    fn result_text(&self, row: &StepRow, status: StepStatus) -> String {
        let word = status_word(status);
        // Where the step ended, the failure stands above.
        let is_told_above = Some(&row.step_target) == self.table.failed_step();
        match (&row.failure, row.notes.is_empty()) {
            (Some(failure), _) if !is_told_above => format!("{word}: {}", cell(&messages::failure(failure))),
            // What an undone step did is no more.
            (None, false) if status != StepStatus::Undone => format!("{word}: {}", cell(&row.notes)),
            (Some(_), _) | (None, _) => word.to_owned(),
        }
    }

    fn row_with_attempts(&self, of_step: &[StepRow]) -> String {
        let rows: Vec<&StepRow> = of_step.iter().collect();
        let status = gravest(self.table, &rows);
        let row = rows.iter().find(|row| self.table.status(&row.step_target) == status).unwrap_or(&rows[0]);
        let mut line = format!("| {} | {} |", status_icon(status), self.name_of(row));
        for attempt in self.columns() {
            let status = gravest(&attempt.table, &rows);
            line.push_str(&format!(" {} {} |", status_icon(status), step_text(&attempt.table, &rows, status)));
        }
        let took = longest(self.table, &rows);
        let why = if Some(&row.step_target) == self.table.failed_step() && row.failure.is_none() {
            String::new()
        } else {
            cell(&row.reason)
        };
        let text = if rows.len() > 1 { host_counts(self.table, &rows) } else { self.result_text(row, status) };
        line.push_str(&format!(" {text}{took} | {why} |\n"));
        line
    }
}

/// What became of a step in an earlier attempt.
fn step_text(table: &AttemptTable, rows: &[&StepRow], status: StepStatus) -> String {
    let text = if rows.len() > 1 { host_counts(table, rows) } else { status_word(status).to_owned() };
    format!("{text}{}", longest(table, rows))
}

/// The longest time that a step took on any host, after a space.
fn longest(table: &AttemptTable, rows: &[&StepRow]) -> String {
    let took = rows.iter().filter(|row| acted(table.status(&row.step_target)));
    let took = took.filter_map(|row| table.row(&row.step_target)?.took_ms).max();
    took.map_or_else(String::new, |ms| format!(" {}", format_duration(ms)))
}

/// How a step went on several hosts that a rollback repeated for the release before: where it failed, if it did.
fn repetition_on_hosts(rows: &[&StepRow]) -> String {
    let repeated = |row: &&&StepRow| row.repeated.is_some();
    let succeeded = |row: &&&StepRow| row.repeated.as_ref().is_some_and(|repeated| repeated.succeeded == Some(true));
    let worst = rows.iter().find(|row| repeated(row) && !succeeded(row)).or_else(|| rows.iter().find(repeated));
    worst.map_or_else(String::new, |row| match succeeded(&row) {
        true => repetition(row),
        false => format!("{} on {}", repetition(row), cell(row.step_target.target.as_str())),
    })
}

/// How a step went that a rollback repeated for the release before.
fn repetition(row: &StepRow) -> String {
    let Some(repeated) = &row.repeated else { return String::new() };
    let label = release_span(&repeated.release);
    match (repeated.succeeded, row.phase) {
        (Some(true), Some(StepPhase::Check)) => format!("; passed for {label}"),
        (Some(true), Some(StepPhase::Prepare | StepPhase::Commit) | None) => format!("; again for {label}"),
        (Some(false), _) => format!("; failed for {label}"),
        (None, _) => format!("; interrupted for {label}"),
    }
}

pub(super) fn status_icon(status: StepStatus) -> &'static str {
    match status {
        StepStatus::NotReached => "⬜",
        StepStatus::Skipped => "⏭️",
        StepStatus::Adopted | StepStatus::Ran => "✅",
        StepStatus::Started | StepStatus::Unknown | StepStatus::Stopped | StepStatus::Undoing => "⚠️",
        StepStatus::Failed | StepStatus::UndoFailed => "❌",
        StepStatus::Undone => "↩️",
    }
}

/// The word of a status, which is enough where icons are not shown.
fn status_word(status: StepStatus) -> &'static str {
    match status {
        StepStatus::NotReached => "not reached",
        StepStatus::Skipped => "skipped",
        StepStatus::Adopted => "adopted: the effect was already there",
        StepStatus::Started => "interrupted; outcome unknown",
        StepStatus::Ran => "ran",
        StepStatus::Failed => "failed",
        StepStatus::Unknown => "outcome unknown",
        StepStatus::Stopped => "waits for a decision",
        StepStatus::Undoing => "undo interrupted; outcome unknown",
        StepStatus::Undone => "undone",
        StepStatus::UndoFailed => "undo failed",
    }
}

/// Whether the time of a step is that of its action, not of its probe.
pub(super) fn acted(status: StepStatus) -> bool {
    matches!(status, StepStatus::Ran | StepStatus::Failed | StepStatus::Unknown | StepStatus::Undone)
}
