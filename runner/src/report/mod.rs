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
    diagnostic::{Code, Diagnostic, Exit},
};
use journal::event::{Entry, Place};

#[cfg(test)]
pub(crate) mod fixture;
pub mod github;
pub mod json;
mod live;
mod story;
pub mod table;
pub mod terminal;
#[cfg(test)]
mod tests;
pub mod words;

pub use contract::render::Color;
pub use json::JsonLines;
pub use terminal::{Interactive, Options, Terminal, Verbosity};

/// Something that tells of an attempt while it goes on.
pub trait Report {
    /// Tells of an entry that was just written to the journal.
    fn event(&mut self, entry: &Entry);

    /// Tells how it ended. Called once, after the last entry; the error itself is rendered by the caller.
    fn finish(&mut self, conclusion: &Conclusion<'_>);
}

/// One after the other.
impl<A: Report, B: Report> Report for (A, B) {
    fn event(&mut self, entry: &Entry) {
        self.0.event(entry);
        self.1.event(entry);
    }

    fn finish(&mut self, conclusion: &Conclusion<'_>) {
        self.0.finish(conclusion);
        self.1.finish(conclusion);
    }
}

impl Report for Box<dyn Report> {
    fn event(&mut self, entry: &Entry) {
        (**self).event(entry);
    }

    fn finish(&mut self, conclusion: &Conclusion<'_>) {
        (**self).finish(conclusion);
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub struct Conclusion<'a> {
    /// How the process ends.
    pub exit: Exit,
    /// What is wrong, if something is.
    pub error: Option<&'a Diagnostic>,
}

/// For whom a command writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
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
pub fn emit(out: &mut dyn Write, answer: &str) -> Result<(), Diagnostic> {
    match out.write_all(answer.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Diagnostic::new(Code("P0214"), Exit::Refused, "can't write the answer")
            .because(error)
            .hint("see that the file or the disk behind the standard output has room, then ask again")),
    }
}

/// How a step on a target is called in a column: `migrate`, or `migrate@web1`.
#[must_use]
pub fn label(place: &Place) -> String {
    if place.target == TargetName::local() {
        place.step.to_string()
    } else {
        format!("{}@{}", place.step, place.target)
    }
}
