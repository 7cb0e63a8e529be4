//! The stream that GitHub reads commands from: our lines, our commands, and foreign lines that must not be obeyed.
//!
//! Invariant: a command of ours is never swallowed by a stop that is still open, and none is left open. A stop stays open over
//! foreign lines that follow each other, so that they don't drown in it. That a line can't be written is no failure: what
//! happened is in the journal.

use std::io::Write;

use super::{StopTokenSource, command::workflow_command};

pub(super) struct CommandStream {
    out: Box<dyn Write + Send>,
    next_token: StopTokenSource,
    /// What ends the stop that is open.
    open_stop: Option<String>,
    is_grouped: bool,
}

impl CommandStream {
    pub(super) fn new(out: Box<dyn Write + Send>, token: StopTokenSource) -> Self {
        Self { out, next_token: token, open_stop: None, is_grouped: false }
    }

    /// Lines of ours, with their ends.
    pub(super) fn write_own(&mut self, lines: &str) {
        self.resume();
        self.write(lines);
    }

    /// Lines that hold what others wrote, with their ends.
    pub(super) fn write_foreign(&mut self, lines: &str) {
        if self.open_stop.is_none() {
            self.open_stop = (self.next_token)();
            if let Some(token) = self.open_stop.clone() {
                self.write(&format!("{}\n", workflow_command("stop-commands", &[], &token)));
            }
        }
        self.write(lines);
    }

    /// A command.
    pub(super) fn command(&mut self, command: &str) {
        self.resume();
        self.write(&format!("{command}\n"));
    }

    /// What follows is folded under a title.
    pub(super) fn group(&mut self, title: &str) {
        self.end_group();
        self.command(&workflow_command("group", &[], title));
        self.is_grouped = true;
    }

    /// What follows is not folded.
    pub(super) fn end_group(&mut self) {
        if std::mem::take(&mut self.is_grouped) {
            self.command(&workflow_command("endgroup", &[], ""));
        }
    }

    /// Leaves nothing open.
    pub(super) fn close_all(&mut self) {
        self.end_group();
        self.resume();
    }

    fn resume(&mut self) {
        if let Some(token) = self.open_stop.take() {
            self.write(&format!("{}\n", workflow_command(&token, &[], "")));
        }
    }

    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        self.close_all();
    }
}
