//! The table of the job's page: a row for each step, or for steps that share a status and have nothing else to say; and a column for
//! each attempt of a run that was resumed.
//!
//! Deliberately absent: what stands above it ([`super::page`]).

use super::{
    super::{messages, step_label},
    attempt_table::StepRow,
    page::{AttemptPage, cell, release_span},
    summary::PreviousAttempt,
};
use contract::{diagnostic::ExitKind, step::StepPhase, text::format_duration};
use journal::StepStatus;

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
        if !self.previous.is_empty() {
            return self.table.rows.iter().map(|row| self.row_with_attempts(row)).collect();
        }
        // Steps that share a status and have nothing else to say share a row.
        let mut rows: Vec<String> = Vec::new();
        let mut group: Vec<&StepRow> = Vec::new();
        for row in &self.table.rows {
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
        let names: Vec<_> = group.iter().map(|row| cell(&step_label(&row.step_target))).collect();
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

    fn row_with_attempts(&self, row: &StepRow) -> String {
        let status = self.table.status(&row.step_target);
        let mut line = format!("| {} | {} |", status_icon(status), cell(&step_label(&row.step_target)));
        for attempt in self.columns() {
            let status = attempt.table.status(&row.step_target);
            let took = attempt.table.row(&row.step_target).and_then(|row| row.took_ms).filter(|_| acted(status));
            let took = took.map_or_else(String::new, |ms| format!(" {}", format_duration(ms)));
            line.push_str(&format!(" {} {}{took} |", status_icon(status), status_word(status)));
        }
        let took =
            row.took_ms.filter(|_| acted(status)).map_or_else(String::new, |ms| format!(" {}", format_duration(ms)));
        let why = if Some(&row.step_target) == self.table.failed_step() && row.failure.is_none() {
            String::new()
        } else {
            cell(&row.reason)
        };
        line.push_str(&format!(" {}{took} | {why} |\n", self.result_text(row, status)));
        line
    }
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

fn status_icon(status: StepStatus) -> &'static str {
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
fn acted(status: StepStatus) -> bool {
    matches!(status, StepStatus::Ran | StepStatus::Failed | StepStatus::Unknown | StepStatus::Undone)
}
