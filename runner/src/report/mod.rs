//! Reports of a deployment, for people and for programs. A report sees journal entries, one by one, and the conclusion.
//!
//! ```text
//!   JournalEntry ──► formatter (display items) ──► terminal (layout, colour, progress line)
//!        ├─────────► json (every entry, unchanged)
//!        └─────────► github (groups, annotations, and a page)
//! ```
//!
//! [`messages`] has the wording of decisions and reasons, [`contract::text`] escapes foreign text, [`table`] aligns columns. A
//! report never fails a deployment: it drops what it can't write. Deliberately absent: the clock (times are those of the
//! entries), the environment (the caller says whether there is a terminal and colour), and the fold of the journal.

use std::io::{self, Write};

use contract::{
    TargetName,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
};
use journal::event::{JournalEntry, OutputLine, StepTarget};

#[cfg(test)]
pub(crate) mod fixture;
mod fold;
mod formatter;
pub mod github;
pub mod json;
pub mod messages;
mod output_throttle;
mod progress_line;
pub mod table;
pub mod terminal;
#[cfg(test)]
mod tests;

pub use contract::render::ColorMode;
pub use fold::{MAX_TARGET_LINES, name_targets};
pub use json::JsonLinesReporter;
pub use terminal::{InteractiveMode, ReportOptions, TerminalReporter, Verbosity};

/// A report of an attempt while it runs.
pub trait DeploymentReporter {
    /// Reports an entry that was just written to the journal.
    fn on_event(&mut self, entry: &JournalEntry);

    /// Reports lines that a program of a step has just written. The entries at the end of its call repeat some of them.
    fn on_output(&mut self, step_target: &StepTarget, lines: &[OutputLine]);

    /// Reports the end of the attempt. Called once, after the last entry; the caller renders the error itself.
    fn finish(&mut self, conclusion: &CommandConclusion<'_>);
}

/// Reports to both, one after the other.
impl<A: DeploymentReporter, B: DeploymentReporter> DeploymentReporter for (A, B) {
    fn on_event(&mut self, entry: &JournalEntry) {
        self.0.on_event(entry);
        self.1.on_event(entry);
    }

    fn on_output(&mut self, step_target: &StepTarget, lines: &[OutputLine]) {
        self.0.on_output(step_target, lines);
        self.1.on_output(step_target, lines);
    }

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        self.0.finish(conclusion);
        self.1.finish(conclusion);
    }
}

impl DeploymentReporter for Box<dyn DeploymentReporter> {
    fn on_event(&mut self, entry: &JournalEntry) {
        (**self).on_event(entry);
    }

    fn on_output(&mut self, step_target: &StepTarget, lines: &[OutputLine]) {
        (**self).on_output(step_target, lines);
    }

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        (**self).finish(conclusion);
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub struct CommandConclusion<'a> {
    /// The exit of the process.
    pub exit: ExitKind,
    /// The error, if there is one.
    pub error: Option<&'a Diagnostic>,
}

/// The readers that a command writes for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people: at most 80 columns where the content allows it.
    #[default]
    Text,
    /// For programs: `--json`.
    Json,
}

/// Writes the answer of a command. A closed reader (`runner history | head`) is not an error.
///
/// # Errors
/// P0214 when it can't be written.
pub fn write_answer(out: &mut dyn Write, answer: &str) -> Result<(), Diagnostic> {
    match out.write_all(answer.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Diagnostic::new(ErrorCode::OutputFailed, "can't write the output")
            .with_cause(error)
            .with_hint("free some space where the output goes, then run the same command again")),
    }
}

/// The name of a step on a target, for a column: `migrate`, or `migrate@web1`.
#[must_use]
pub fn step_label(step_target: &StepTarget) -> String {
    if step_target.target == TargetName::local() {
        step_target.step.to_string()
    } else {
        format!("{}@{}", step_target.step, step_target.target)
    }
}
