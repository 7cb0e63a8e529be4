//! The lines that programs of steps write: as the log of the attempt has them, and the part that the journal keeps.
//!
//! Deliberately absent: removing secrets from them ([`super::output_redactor`]), and the log's file ([`super::attempt_log`]).

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{event::StepTarget, file::JournalNote, sanitize::truncate_middle};

/// The size of the first and of the last lines in a journal, in bytes of JSON, for each call of a step.
const MAX_HEAD_BYTES: usize = 96 << 10;
const MAX_TAIL_BYTES: usize = 192 << 10;

/// The size of the lines in one entry, in bytes of JSON. An entry has at most 64 KiB.
const MAX_ENTRY_BYTES: usize = 48 << 10;

/// The longest line in a journal, in bytes. Each byte may take six in JSON.
pub(super) const MAX_RECORDED_LINE_BYTES: usize = 8 << 10;

/// The bytes of a line in JSON besides its text.
const LINE_OVERHEAD_BYTES: usize = 80;

/// The stream that a program wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputStream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
    /// Its terminal, which is both.
    Terminal,
}

impl OutputStream {
    /// All streams.
    pub const ALL: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Terminal];

    /// Its name in three letters: `out`, `err` or `tty`.
    #[must_use]
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Stdout => "out",
            Self::Stderr => "err",
            Self::Terminal => "tty",
        }
    }
}

/// One line of a program, without its end and without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLine {
    /// The time at which the runner read it.
    pub at: Timestamp,
    /// The stream.
    pub stream: OutputStream,
    /// The text.
    pub text: String,
}

/// Consecutive lines, and the number of lines before them that are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RecordedOutput {
    /// The number of lines that are left out before these.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out_lines: u64,
    /// The bytes of the lines that are left out before these.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out_bytes: u64,
    /// The lines.
    pub lines: Vec<OutputLine>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The first and the last lines of all programs of one call, and how many there are between them.
#[derive(Debug, Default)]
pub struct OutputExcerpt {
    head: Vec<OutputLine>,
    head_bytes: usize,
    tail: VecDeque<OutputLine>,
    tail_bytes: usize,
    left_out_lines: u64,
    left_out_bytes: u64,
}

impl OutputExcerpt {
    /// Adds lines.
    pub fn push(&mut self, lines: Vec<OutputLine>) {
        for mut line in lines {
            line.text = truncate_middle(&line.text, MAX_RECORDED_LINE_BYTES);
            let bytes = line.text.len() + LINE_OVERHEAD_BYTES;
            if self.tail.is_empty() && self.head_bytes + bytes <= MAX_HEAD_BYTES {
                self.head_bytes += bytes;
                self.head.push(line);
                continue;
            }
            self.tail_bytes += bytes;
            self.tail.push_back(line);
            while self.tail_bytes > MAX_TAIL_BYTES {
                let Some(first) = self.tail.pop_front() else { break };
                self.tail_bytes -= first.text.len() + LINE_OVERHEAD_BYTES;
                self.left_out_lines += 1;
                self.left_out_bytes += first.text.len() as u64 + 1;
            }
        }
    }

    /// The journal's notes about these lines.
    #[must_use]
    pub fn into_notes(self, step_target: &StepTarget) -> Vec<JournalNote> {
        let mut parts = split_into_parts(self.head);
        let mut tail = split_into_parts(self.tail.into_iter().collect());
        if let Some(first) = tail.first_mut() {
            first.left_out_lines = self.left_out_lines;
            first.left_out_bytes = self.left_out_bytes;
        }
        parts.append(&mut tail);
        parts.into_iter().map(|output| JournalNote::Output { step_target: step_target.clone(), output }).collect()
    }
}

/// Splits lines into parts that fit into an entry.
fn split_into_parts(lines: Vec<OutputLine>) -> Vec<RecordedOutput> {
    let mut parts: Vec<RecordedOutput> = Vec::new();
    let mut bytes = 0;
    for line in lines {
        let line_bytes = serde_json::to_string(&line).map_or(0, |json| json.len() + 1);
        match parts.last_mut() {
            Some(part) if bytes + line_bytes <= MAX_ENTRY_BYTES => {
                bytes += line_bytes;
                part.lines.push(line);
            }
            Some(_) | None => {
                bytes = line_bytes;
                parts.push(RecordedOutput { lines: vec![line], ..RecordedOutput::default() });
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: impl IntoIterator<Item = String>) -> Vec<OutputLine> {
        let line = |text| OutputLine { at: Timestamp::UNIX_EPOCH, stream: OutputStream::Stdout, text };
        texts.into_iter().map(line).collect()
    }

    fn recorded(texts: Vec<OutputLine>) -> Vec<RecordedOutput> {
        let mut excerpt = OutputExcerpt::default();
        excerpt.push(texts);
        let step_target = StepTarget { step: "build".parse().unwrap(), target: contract::TargetName::local() };
        let output = |note| {
            let JournalNote::Output { output, .. } = note else { panic!("{note:?}") };
            output
        };
        excerpt.into_notes(&step_target).into_iter().map(output).collect()
    }

    #[test]
    fn short_output_is_kept_whole() {
        let all = lines((1..=3).map(|number| format!("line {number}")));
        assert_eq!(recorded(all.clone()), [RecordedOutput { lines: all, ..RecordedOutput::default() }]);
        assert_eq!(recorded(Vec::new()), []);
    }

    #[test]
    fn head_tail_and_true_count_of_long_output_are_kept() {
        let all = lines((1..=100_000).map(|number| format!("line {number}")));
        let parts = recorded(all);
        let kept: Vec<_> = parts.iter().flat_map(|part| &part.lines).collect();
        assert_eq!((kept[0].text.as_str(), kept.last().unwrap().text.as_str()), ("line 1", "line 100000"));
        let left_out: u64 = parts.iter().map(|part| part.left_out_lines).sum();
        assert_eq!(left_out + kept.len() as u64, 100_000);
        assert_eq!(parts.iter().filter(|part| part.left_out_lines > 0).count(), 1);
        let after_gap = parts.iter().find(|part| part.left_out_lines > 0).unwrap();
        let first_after = after_gap.lines[0].text.trim_start_matches("line ").parse::<u64>().unwrap();
        let before: usize = parts.iter().take_while(|part| part.left_out_lines == 0).map(|part| part.lines.len()).sum();
        assert_eq!(before as u64 + left_out + 1, first_after);
        for part in &parts {
            assert!(serde_json::to_string(part).unwrap().len() < 60 << 10);
        }
    }

    #[test]
    fn any_line_fits_into_an_entry() {
        for part in recorded(lines(["\u{1}".repeat(100_000), "é".repeat(50_000)])) {
            assert!(serde_json::to_string(&part).unwrap().len() < 60 << 10);
        }
    }
}
