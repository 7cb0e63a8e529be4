//! What people and programs are told. A report sees journal entries, one by one, and the conclusion; nothing else.
//!
//! ```text
//!   Entry ──► story (what is worth a line) ──► terminal (where and how it is written)
//!     ├─────► json (every entry as it is)
//!     └─────► github (groups, annotations, and a page)
//! ```
//!
//! [`words`] says decisions and reasons in English, [`text`] makes foreign text harmless, [`table`] lines up columns. A
//! report never fails a deployment: what can't be written is dropped. Deliberately absent: the clock (times are those of
//! the entries), the environment (the caller says whether there is a terminal and colour), and the fold of the journal.

use std::io::{self, Write};

use contract::{
    TargetName,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
};
use journal::event::{JournalEntry, StepTarget};

#[cfg(test)]
pub(crate) mod fixture;
mod formatter;
pub mod github;
pub mod json;
pub mod messages;
mod progress_line;
pub mod table;
pub mod terminal;
#[cfg(test)]
mod tests;

pub use contract::render::ColorMode;
pub use json::JsonLinesReporter;
pub use terminal::{InteractiveMode, ReportOptions, TerminalReporter, Verbosity};

/// Something that tells of an attempt while it goes on.
pub trait DeploymentReporter {
    /// Tells of an entry that was just written to the journal.
    fn on_event(&mut self, entry: &JournalEntry);

    /// Tells how it ended. Called once, after the last entry; the error itself is rendered by the caller.
    fn finish(&mut self, conclusion: &CommandConclusion<'_>);
}

/// One after the other.
impl<A: DeploymentReporter, B: DeploymentReporter> DeploymentReporter for (A, B) {
    fn on_event(&mut self, entry: &JournalEntry) {
        self.0.on_event(entry);
        self.1.on_event(entry);
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

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        (**self).finish(conclusion);
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub struct CommandConclusion<'a> {
    /// How the process ends.
    pub exit: ExitKind,
    /// What is wrong, if something is.
    pub error: Option<&'a Diagnostic>,
}

/// For whom a command writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people: at most 80 columns where the content allows it.
    #[default]
    Text,
    /// For programs: `--json`.
    Json,
}

/// Writes the answer of a command. A reader that went away (`runner history | head`) is no error.
///
/// # Errors
/// P0214 when it can't be written.
pub fn write_answer(out: &mut dyn Write, answer: &str) -> Result<(), Diagnostic> {
    match out.write_all(answer.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Diagnostic::new(ErrorCode::OutputFailed, "can't write the answer")
            .with_cause(error)
            .with_hint("see that the file or the disk behind the standard output has room, then ask again")),
    }
}

/// How a step on a target is called in a column: `migrate`, or `migrate@web1`.
#[must_use]
pub fn step_label(step_target: &StepTarget) -> String {
    if step_target.target == TargetName::local() {
        step_target.step.to_string()
    } else {
        format!("{}@{}", step_target.step, step_target.target)
    }
}
