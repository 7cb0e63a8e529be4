//! The progress lines of the running steps: name, progress and elapsed time. Only on a terminal.
//!
//! Invariant: the lines are hidden while another line is written ([`ProgressLines::suspend`]), so that the two never mix.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use contract::text;

/// The interval between two redraws.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// The longest step and message, in columns, so that the line fits into 80.
const MAX_STEP_COLUMNS: usize = 20;
const MAX_MESSAGE_COLUMNS: usize = 30;

/// The longest tally of a step on many targets, in columns.
const MAX_TALLY_COLUMNS: usize = 44;

/// The longest line of a program, in columns.
const MAX_OUTPUT_COLUMNS: usize = 72;

/// How many lines there are at most. Of further steps, only the number is shown.
const MAX_LINES: usize = 8;

/// The lines of the running steps, of each its label.
pub(super) struct ProgressLines {
    lines: MultiProgress,
    running: BTreeMap<String, Option<StepLine>>,
    /// How many more run, if there are.
    others: Option<ProgressBar>,
}

struct StepLine {
    bar: ProgressBar,
    /// Whether its second line shows output of a program.
    shows_output: bool,
}

impl ProgressLines {
    /// Draws on a target.
    pub(super) fn new(target: ProgressDrawTarget) -> Self {
        Self { lines: MultiProgress::with_draw_target(target), running: BTreeMap::new(), others: None }
    }

    /// Starts the line of a step.
    pub(super) fn begin(&mut self, label: &str) {
        self.running.insert(label.to_owned(), None);
        self.draw_waiting();
    }

    /// Shows how far a step is that runs on many targets; starts its line, if it has none.
    pub(super) fn show_tally(&mut self, step: &str, tally: &str) {
        if !self.running.contains_key(step) {
            self.begin(step);
        }
        if let Some(Some(StepLine { bar, .. })) = self.running.get(step) {
            bar.set_message(text::truncate(tally, MAX_TALLY_COLUMNS));
        }
    }

    /// Gives lines to steps that have none, as far as there is room.
    fn draw_waiting(&mut self) {
        let mut drawn = self.running.values().flatten().count();
        for (label, line) in self.running.iter_mut().filter(|(_, line)| line.is_none()) {
            if drawn == MAX_LINES {
                break;
            }
            drawn += 1;
            let bar = ProgressBar::no_length().with_style(style("  {spinner} {prefix}  {msg} {elapsed}"));
            let bar = match &self.others {
                Some(others) => self.lines.insert_before(others, bar),
                None => self.lines.add(bar),
            };
            bar.set_prefix(text::truncate(label, MAX_STEP_COLUMNS));
            bar.enable_steady_tick(TICK_INTERVAL);
            *line = Some(StepLine { bar, shows_output: false });
        }
        match self.running.len() - drawn {
            0 => {
                if let Some(others) = self.others.take() {
                    others.finish_and_clear();
                    self.lines.remove(&others);
                }
            }
            more => {
                let others = self.others.get_or_insert_with(|| {
                    self.lines.add(ProgressBar::no_length().with_style(style("    and {msg} more")))
                });
                others.set_message(more.to_string());
                others.tick();
            }
        }
    }

    /// Shows that a task of a step is at `done` of `total`.
    pub(super) fn set_progress(&self, label: &str, task: &str, done: u64, total: Option<u64>, unit: &str) {
        let Some(Some(StepLine { bar, shows_output: false })) = self.running.get(label) else { return };
        if let Some(total) = total {
            if bar.length().is_none() {
                bar.set_style(style("  {spinner} {prefix}  [{bar:12}] {msg} {elapsed}"));
            }
            bar.set_length(total);
            bar.set_position(done.min(total));
        }
        bar.set_message(text::truncate(
            &format!("{task} {}", text::format_amount(done, total, unit)),
            MAX_MESSAGE_COLUMNS,
        ));
    }

    /// Shows the last line of a step's program, under the line of the step.
    pub(super) fn show_output(&mut self, label: &str, line: &str) {
        let Some(Some(StepLine { bar, shows_output })) = self.running.get_mut(label) else { return };
        if !std::mem::replace(shows_output, true) {
            bar.set_style(style("  {spinner} {prefix}  {elapsed}\n      {msg}"));
        }
        bar.set_message(text::truncate(line, MAX_OUTPUT_COLUMNS));
    }

    /// Removes the line of a step.
    pub(super) fn end(&mut self, label: &str) {
        if let Some(Some(StepLine { bar, .. })) = self.running.remove(label) {
            bar.finish_and_clear();
            self.lines.remove(&bar);
        }
        self.draw_waiting();
    }

    /// Removes all lines.
    pub(super) fn end_all(&mut self) {
        let labels: Vec<String> = self.running.keys().cloned().collect();
        // The last ones first, so that none gets a line for a moment.
        labels.iter().rev().for_each(|label| self.end(label));
    }

    /// Hides the lines, calls `write`, and shows them again.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        if self.running.is_empty() { write() } else { self.lines.suspend(write) }
    }
}

impl Drop for ProgressLines {
    fn drop(&mut self) {
        self.end_all();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well formed").progress_chars("=> ")
}
