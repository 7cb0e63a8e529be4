//! The stream that GitHub reads commands from: our lines, our commands, and foreign lines that must not be obeyed.
//!
//! Invariant: a command of ours is never swallowed by a stop that is still open, and none is left open. A stop stays open over
//! foreign lines that follow each other, so that they don't drown in it. That a line can't be written is no failure: what
//! happened is in the journal.

use std::io::Write;

use super::{Token, command::command};

pub(super) struct Stream {
    out: Box<dyn Write + Send>,
    token: Token,
    /// What ends the stop that is open.
    stop: Option<String>,
    is_grouped: bool,
}

impl Stream {
    pub(super) fn new(out: Box<dyn Write + Send>, token: Token) -> Self {
        Self { out, token, stop: None, is_grouped: false }
    }

    /// Lines of ours, with their ends.
    pub(super) fn own(&mut self, lines: &str) {
        self.resume();
        self.write(lines);
    }

    /// Lines that hold what others wrote, with their ends.
    pub(super) fn foreign(&mut self, lines: &str) {
        if self.stop.is_none() {
            self.stop = (self.token)();
            if let Some(token) = self.stop.clone() {
                self.write(&format!("{}\n", command("stop-commands", &[], &token)));
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
        self.command(&command("group", &[], title));
        self.is_grouped = true;
    }

    /// What follows is not folded.
    pub(super) fn end_group(&mut self) {
        if std::mem::take(&mut self.is_grouped) {
            self.command(&command("endgroup", &[], ""));
        }
    }

    /// Leaves nothing open.
    pub(super) fn rest(&mut self) {
        self.end_group();
        self.resume();
    }

    fn resume(&mut self) {
        if let Some(token) = self.stop.take() {
            self.write(&format!("{}\n", command(&token, &[], "")));
        }
    }

    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.rest();
    }
}
