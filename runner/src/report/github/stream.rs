//! The stream that GitHub reads commands from: our lines, our commands, and foreign lines that GitHub must not execute.
//!
//! Invariant: an open stop never swallows a command of ours, and no stop is left open. Foreign lines without `::` and `##[` hold no
//! command, so they need no stop. A stop stays open over consecutive foreign lines, so that its own lines don't bury them. A write error is ignored: the journal has every entry.

use std::io::Write;

use super::{StopTokenSource, command::workflow_command};

pub(super) struct CommandStream {
    out: Box<dyn Write + Send>,
    next_token: StopTokenSource,
    /// The token that ends the open stop.
    open_stop: Option<String>,
    is_grouped: bool,
}

impl CommandStream {
    pub(super) fn new(out: Box<dyn Write + Send>, token: StopTokenSource) -> Self {
        Self { out, next_token: token, open_stop: None, is_grouped: false }
    }

    /// Writes our own lines, with their ends.
    pub(super) fn write_own(&mut self, lines: &str) {
        self.resume();
        self.write(lines);
    }

    /// Writes lines with foreign text, with their ends.
    pub(super) fn write_foreign(&mut self, lines: &str) {
        if self.open_stop.is_none() && (lines.contains("::") || lines.contains("##[")) {
            self.open_stop = (self.next_token)();
            if let Some(token) = self.open_stop.clone() {
                self.write(&format!("{}\n", workflow_command("stop-commands", &[], &token)));
            }
        }
        self.write(lines);
    }

    /// Writes a command.
    pub(super) fn command(&mut self, command: &str) {
        self.resume();
        self.write(&format!("{command}\n"));
    }

    /// Starts a folded group.
    pub(super) fn group(&mut self, title: &str) {
        self.end_group();
        self.command(&workflow_command("group", &[], title));
        self.is_grouped = true;
    }

    /// Ends the group, if one is open.
    pub(super) fn end_group(&mut self) {
        if std::mem::take(&mut self.is_grouped) {
            self.command(&workflow_command("endgroup", &[], ""));
        }
    }

    /// Ends the group and the stop, if they are open.
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
