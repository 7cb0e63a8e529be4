//! What became of each host: a table of hosts and steps below that of the steps.
//!
//! Of more than [`MAX_HOST_ROWS`] hosts, only those have a row where something failed, is in doubt, or was left behind. Deliberately absent: why a step failed, which stands
//! above the tables.

use std::collections::BTreeSet;

use super::{
    super::fold::name_targets,
    attempt_table::{AttemptTable, StepRow},
    page::{AttemptPage, cell},
    page_table::{acted, status_icon},
};
use contract::{StepId, TargetName, text::format_duration};
use journal::StepStatus;

/// The most hosts that have a row.
const MAX_HOST_ROWS: usize = 40;
/// The most columns of the names of hosts in a cell.
const MAX_NAMES_COLUMNS: usize = 60;

/// The statuses, the gravest first: that of a step on several hosts is the gravest on any.
const BY_GRAVITY: [StepStatus; 11] = [
    StepStatus::UndoFailed,
    StepStatus::Failed,
    StepStatus::Stopped,
    StepStatus::Unknown,
    StepStatus::Started,
    StepStatus::Undoing,
    StepStatus::Undone,
    StepStatus::Ran,
    StepStatus::Adopted,
    StepStatus::Skipped,
    StepStatus::NotReached,
];

/// The word of a status in a cell of its own.
fn short_word(status: StepStatus) -> &'static str {
    match status {
        StepStatus::NotReached => "not reached",
        StepStatus::Skipped => "skipped",
        StepStatus::Adopted => "adopted",
        StepStatus::Started => "interrupted",
        StepStatus::Ran => "ran",
        StepStatus::Failed => "failed",
        StepStatus::Unknown => "outcome unknown",
        StepStatus::Stopped => "waits for a decision",
        StepStatus::Undoing => "undo interrupted",
        StepStatus::Undone => "undone",
        StepStatus::UndoFailed => "undo failed",
    }
}

/// The gravest of the statuses of a step on several hosts.
pub(super) fn gravest(table: &AttemptTable, rows: &[&StepRow]) -> StepStatus {
    let is_any = |status: &StepStatus| rows.iter().any(|row| table.status(&row.step_target) == *status);
    BY_GRAVITY.into_iter().find(is_any).unwrap_or_default()
}

/// `98 ran, 2 failed (web-3, web-7)`, or `ran on 100 hosts`.
pub(super) fn host_counts(table: &AttemptTable, rows: &[&StepRow]) -> String {
    let mut parts = Vec::new();
    for status in BY_GRAVITY.into_iter().rev() {
        let of = rows.iter().filter(|row| table.status(&row.step_target) == status);
        let hosts: Vec<&str> = of.map(|row| row.step_target.target.as_str()).collect();
        let word = short_word(status);
        if hosts.len() == rows.len() {
            return format!("{word} on {} hosts", rows.len());
        }
        if hosts.is_empty() {
            continue;
        }
        let names = match is_well(status) {
            true => String::new(),
            false => format!(" ({})", cell(&name_targets(&hosts, MAX_NAMES_COLUMNS))),
        };
        parts.push(format!("{} {word}{names}", hosts.len()));
    }
    parts.join(", ")
}

/// Whether nobody has to look at a host for this.
fn is_well(status: StepStatus) -> bool {
    match status {
        StepStatus::NotReached | StepStatus::Skipped | StepStatus::Adopted | StepStatus::Ran | StepStatus::Undone => {
            true
        }
        StepStatus::Started
        | StepStatus::Failed
        | StepStatus::Unknown
        | StepStatus::Stopped
        | StepStatus::Undoing
        | StepStatus::UndoFailed => false,
    }
}

impl AttemptPage<'_> {
    /// Whether a step of the plan runs on several targets.
    pub(super) fn is_shared(&self, step: &StepId) -> bool {
        self.table.rows.iter().filter(|row| row.phase.is_some() && row.step_target.step == *step).take(2).count() > 1
    }

    /// The table of hosts, in parts that can be left out from the end; nothing if no step runs on several.
    pub(super) fn host_table(&self) -> Vec<String> {
        let shared: Vec<&StepRow> =
            self.table.rows.iter().filter(|row| self.is_shared(&row.step_target.step)).collect();
        let (mut steps, mut hosts): (Vec<&StepId>, Vec<&TargetName>) = (Vec::new(), Vec::new());
        let (mut seen_steps, mut seen_hosts) = (BTreeSet::new(), BTreeSet::new());
        for row in &shared {
            steps.extend(seen_steps.insert(&row.step_target.step).then_some(&row.step_target.step));
            hosts.extend(seen_hosts.insert(&row.step_target.target).then_some(&row.step_target.target));
        }
        if hosts.is_empty() {
            return Vec::new();
        }
        let mut parts = vec!["\n".to_owned()];
        let count = hosts.len();
        if count > MAX_HOST_ROWS {
            let reached: Vec<&StepId> =
                steps.iter().copied().filter(|step| self.is_mostly_reached(&shared, step)).collect();
            hosts.retain(|host| !self.is_host_well(&shared, host, &reached));
            match hosts.len() {
                0 => return vec![format!("\nNone of the {count} hosts has a failure.\n")],
                others => parts[0] = format!("\n{} of {count} hosts have no failure. The others:\n\n", count - others),
            }
        }
        let names: String = steps.iter().map(|step| format!(" {} |", cell(step.as_str()))).collect();
        parts[0].push_str(&format!("| Host |{names}\n|---|{}\n", "---|".repeat(steps.len())));
        let left_out = hosts.len().saturating_sub(MAX_HOST_ROWS);
        hosts.truncate(MAX_HOST_ROWS);
        parts.extend(hosts.iter().map(|host| self.host_row(&shared, host, &steps)));
        if left_out > 0 {
            parts.push(format!("\n_{left_out} more hosts are in the log._\n"));
        }
        parts
    }

    /// Whether a step is done on most of its hosts: one that it has not reached was left behind.
    fn is_mostly_reached(&self, shared: &[&StepRow], step: &StepId) -> bool {
        let of_step: Vec<_> = shared.iter().filter(|row| row.step_target.step == *step).collect();
        let is_reached = |row: &&&&StepRow| self.table.status(&row.step_target) != StepStatus::NotReached;
        of_step.iter().filter(is_reached).count() * 2 > of_step.len()
    }

    fn is_host_well(&self, shared: &[&StepRow], host: &TargetName, reached: &[&StepId]) -> bool {
        shared.iter().filter(|row| row.step_target.target == *host).all(|row| {
            let status = self.table.status(&row.step_target);
            is_well(status) && (status != StepStatus::NotReached || !reached.contains(&&row.step_target.step))
        })
    }

    fn host_row(&self, shared: &[&StepRow], host: &TargetName, steps: &[&StepId]) -> String {
        let mut line = format!("| {} |", cell(host.as_str()));
        for step in steps {
            let is_here = |row: &&&StepRow| row.step_target.step == **step && row.step_target.target == *host;
            let text = shared.iter().find(is_here).map_or_else(String::new, |row| {
                let status = self.table.status(&row.step_target);
                let took = row.took_ms.filter(|_| acted(status));
                let took = took.map_or_else(String::new, |ms| format!(" {}", format_duration(ms)));
                format!("{} {}{took}", status_icon(status), short_word(status))
            });
            line.push_str(&format!(" {text} |"));
        }
        format!("{line}\n")
    }
}
