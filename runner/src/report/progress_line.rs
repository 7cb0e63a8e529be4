//! The progress line of the running step: its name, progress and elapsed time. Only on a terminal.
//!
//! Invariant: the line is hidden while another line is written ([`ProgressLine::suspend`]), so that the two never mix.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use contract::text;

/// The interval between two redraws.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// The longest step and message, in columns, so that the line fits into 80.
const MAX_STEP_COLUMNS: usize = 20;
const MAX_MESSAGE_COLUMNS: usize = 30;

/// The longest line of a program, in columns.
const MAX_OUTPUT_COLUMNS: usize = 72;

/// The line of the running step, if a step runs.
pub(super) struct ProgressLine {
    target: Box<dyn Fn() -> ProgressDrawTarget>,
    bar: Option<ProgressBar>,
    /// Whether the second line shows output of a program.
    shows_output: bool,
}

impl ProgressLine {
    /// Draws on the target that `target` returns. It is called once for each step.
    pub(super) fn new(target: Box<dyn Fn() -> ProgressDrawTarget>) -> Self {
        Self { target, bar: None, shows_output: false }
    }

    /// Starts the line of a step.
    pub(super) fn begin(&mut self, step_target: &str) {
        let bar = ProgressBar::with_draw_target(None, (self.target)());
        bar.set_style(style("  {spinner} {prefix}  {msg} {elapsed}"));
        bar.set_prefix(text::truncate(step_target, MAX_STEP_COLUMNS));
        bar.enable_steady_tick(TICK_INTERVAL);
        self.bar = Some(bar);
        self.shows_output = false;
    }

    /// Shows that a task of the step is at `done` of `total`.
    pub(super) fn set_progress(&mut self, task: &str, done: u64, total: Option<u64>, unit: &str) {
        let Some(bar) = &self.bar else { return };
        if self.shows_output {
            return;
        }
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

    /// Shows the last line of the step's program, under the line of the step.
    pub(super) fn show_output(&mut self, line: &str) {
        let Some(bar) = &self.bar else { return };
        if !self.shows_output {
            self.shows_output = true;
            bar.set_style(style("  {spinner} {prefix}  {elapsed}\n      {msg}"));
        }
        bar.set_message(text::truncate(line, MAX_OUTPUT_COLUMNS));
    }

    /// Removes the line.
    pub(super) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Hides the line, calls `write`, and shows it again.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.end();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well formed").progress_chars("=> ")
}
