//! The line that moves: which step runs, how far it is, since when. Only on a terminal.
//!
//! Invariant: it is gone whenever another line is written ([`ProgressLine::aside`]), so that the two never mix.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use contract::text;

/// How often the line moves.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// The longest step and message of a moving line, in columns, so that it fits on one line of 80.
const MAX_STEP_COLUMNS: usize = 20;
const MAX_MESSAGE_COLUMNS: usize = 30;

/// The line of the running step, if one runs.
pub(super) struct ProgressLine {
    target: Box<dyn Fn() -> ProgressDrawTarget>,
    bar: Option<ProgressBar>,
}

impl ProgressLine {
    /// Draws where `target` says; it is asked once a step.
    pub(super) fn new(target: Box<dyn Fn() -> ProgressDrawTarget>) -> Self {
        Self { target, bar: None }
    }

    /// A step begins.
    pub(super) fn begin(&mut self, step_target: &str) {
        let bar = ProgressBar::with_draw_target(None, (self.target)());
        bar.set_style(style("  {spinner} {prefix}  {msg} {elapsed}"));
        bar.set_prefix(text::truncate(step_target, MAX_STEP_COLUMNS));
        bar.enable_steady_tick(TICK_INTERVAL);
        self.bar = Some(bar);
    }

    /// It is at `done` of `total`.
    pub(super) fn set_progress(&mut self, task: &str, done: u64, total: Option<u64>, unit: &str) {
        let Some(bar) = &self.bar else { return };
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

    /// It ended.
    pub(super) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Takes the line away, writes something else, and puts it back.
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
