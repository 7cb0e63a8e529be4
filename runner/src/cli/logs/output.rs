//! The lines of programs in `runner logs`: from the log of the attempt, or from its journal.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::log_line_head;
use crate::report::json as report_json;
use contract::text;
use journal::{JournalEvent, OutputLine, RecordedOutput, StepTarget, attempt_log::LoggedLine, event::JournalEntry};

/// A line of a program, or the place of lines that are left out.
pub(super) struct OutputItem {
    pub(super) step_target: StepTarget,
    pub(super) at: Timestamp,
    content: OutputContent,
}

enum OutputContent {
    Line(OutputLine),
    LeftOut { lines: u64, bytes: Option<u64> },
}

/// The lines of a log, after the line with the number `after`.
pub(super) fn items_of_log(lines: Vec<LoggedLine>, after: u64) -> Vec<OutputItem> {
    let (mut items, mut last) = (Vec::with_capacity(lines.len()), after);
    for LoggedLine { number, step_target, line } in lines {
        let (at, left_out) = (line.at, number.saturating_sub(last + 1));
        last = number;
        if left_out > 0 {
            let content = OutputContent::LeftOut { lines: left_out, bytes: None };
            items.push(OutputItem { step_target: step_target.clone(), at, content });
        }
        items.push(OutputItem { step_target, at, content: OutputContent::Line(line) });
    }
    items
}

/// The lines that an entry of a journal records.
pub(super) fn items_of_entry(entry: &JournalEntry) -> Vec<OutputItem> {
    let JournalEvent::Output { step_target, output } = &entry.event else { return Vec::new() };
    let RecordedOutput { left_out_lines, left_out_bytes, lines } = output;
    let item = |at, content| OutputItem { step_target: step_target.clone(), at, content };
    let at = lines.first().map_or(entry.at, |line| line.at);
    let gap = OutputContent::LeftOut { lines: *left_out_lines, bytes: Some(*left_out_bytes) };
    let gap = (*left_out_lines > 0).then(|| item(at, gap));
    gap.into_iter().chain(lines.iter().map(|line| item(line.at, OutputContent::Line(line.clone())))).collect()
}

impl OutputItem {
    pub(super) fn json(&self) -> Value {
        let StepTarget { step, target } = &self.step_target;
        match &self.content {
            OutputContent::Line(line) => report_json::output_line(&self.step_target, line),
            OutputContent::LeftOut { lines, .. } => {
                json!({"type": "left-out", "step": step, "target": target, "at": self.at, "lines": lines})
            }
        }
    }

    /// The line as text, its end included. It is not wrapped, so that `grep` finds whole lines.
    pub(super) fn text(&self, width: usize) -> String {
        let (level, shown) = match &self.content {
            OutputContent::Line(line) => {
                (line.stream.short_name(), text::escape_line(&line.text.replace('\t', "    ")))
            }
            OutputContent::LeftOut { lines, bytes } => {
                let bytes = bytes.map_or_else(String::new, |bytes| format!(" ({})", text::bytes(bytes)));
                ("…", format!("[… {lines} lines{bytes} left out …]"))
            }
        };
        let line = format!("{}{shown}", log_line_head(self.at, level, &self.step_target, width));
        format!("{}\n", line.trim_end())
    }
}
