//! Turns the bytes that a program writes into lines without secrets, as they come.
//!
//! Invariant: a line is redacted together with the lines of its stream that came with it, and lines that may end inside a secret wait
//! for the next ones; so a secret is found across lines and reads. The caller flushes lines that have waited for a moment.
//! Deliberately absent: the clock, and the pipes.

use std::mem;

use jiff::Timestamp;

use super::{
    output::{OutputLine, OutputStream},
    redact::Redactor,
};

/// The longest line in bytes; a longer one becomes several.
const MAX_LINE_BYTES: usize = 16 << 10;

/// The most bytes of lines that wait, with a few for each line.
const MAX_PENDING_BYTES: usize = 1 << 20;
const LINE_OVERHEAD_BYTES: usize = 32;

/// Bytes that were read from a program.
#[derive(Debug)]
pub struct OutputChunk {
    /// The time of the read.
    pub at: Timestamp,
    /// The stream.
    pub stream: OutputStream,
    /// The bytes, which may end anywhere.
    pub bytes: Vec<u8>,
}

/// The output of the programs of one call, on its way to the log.
#[derive(Debug)]
pub struct OutputRedactor {
    redactor: Redactor,
    streams: [StreamLines; OutputStream::ALL.len()],
}

/// The lines of one stream that are not released yet.
#[derive(Debug, Default)]
struct StreamLines {
    /// The line without an end.
    partial: Vec<u8>,
    partial_at: Option<Timestamp>,
    pending: Vec<OutputLine>,
    pending_bytes: usize,
}

impl OutputRedactor {
    /// Creates a redactor for one call.
    #[must_use]
    pub fn new(redactor: &Redactor) -> Self {
        Self { redactor: redactor.clone(), streams: Default::default() }
    }

    /// Adds bytes, and returns the lines that may be shown now.
    pub fn push(&mut self, chunk: OutputChunk) -> Vec<OutputLine> {
        let OutputChunk { at, stream, bytes } = chunk;
        let lines = &mut self.streams[stream as usize];
        lines.push(at, stream, &bytes);
        let waits = lines.pending_bytes < MAX_PENDING_BYTES
            && self.redactor.may_texts_end_in_secret(lines.pending.iter().map(|line| line.text.as_str()));
        if waits { Vec::new() } else { lines.release(&self.redactor) }
    }

    /// Whether whole lines wait.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.streams.iter().any(|lines| !lines.pending.is_empty())
    }

    /// Returns all whole lines.
    pub fn flush(&mut self) -> Vec<OutputLine> {
        self.streams.iter_mut().flat_map(|lines| lines.release(&self.redactor)).collect()
    }

    /// Returns everything, also a last line without an end.
    pub fn finish(&mut self) -> Vec<OutputLine> {
        for (lines, stream) in self.streams.iter_mut().zip(OutputStream::ALL) {
            if let Some(at) = lines.partial_at.filter(|_| !lines.partial.is_empty()) {
                lines.end_line(at, stream);
            }
        }
        self.flush()
    }
}

impl StreamLines {
    fn push(&mut self, at: Timestamp, stream: OutputStream, mut bytes: &[u8]) {
        self.partial_at = Some(at);
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend_line(at, stream, &bytes[..end]);
            self.end_line(at, stream);
            bytes = &bytes[end + 1..];
        }
        self.extend_line(at, stream, bytes);
    }

    fn extend_line(&mut self, at: Timestamp, stream: OutputStream, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while self.partial.len() > MAX_LINE_BYTES {
            let end = char_boundary(&self.partial, MAX_LINE_BYTES);
            let rest = self.partial.split_off(end);
            self.end_line(at, stream);
            self.partial = rest;
        }
    }

    fn end_line(&mut self, at: Timestamp, stream: OutputStream) {
        let text = line_text(&self.partial, stream);
        self.partial.clear();
        self.pending_bytes += text.len() + LINE_OVERHEAD_BYTES;
        self.pending.push(OutputLine { at, stream, text });
    }

    fn release(&mut self, redactor: &Redactor) -> Vec<OutputLine> {
        self.pending_bytes = 0;
        let mut lines = mem::take(&mut self.pending);
        redactor.redact_in_place(lines.iter_mut().map(|line| &mut line.text));
        lines
    }
}

/// The end of the last whole character before `longest`, so that cutting there damages none.
fn char_boundary(bytes: &[u8], longest: usize) -> usize {
    let is_continuation = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    (longest.saturating_sub(3)..=longest).rev().find(|end| !is_continuation(bytes[*end])).unwrap_or(longest)
}

/// The text of a line as a terminal would show it: what stands before a carriage return is overwritten.
fn line_text(bytes: &[u8], stream: OutputStream) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\r');
    let shown = text.rsplit('\r').next().unwrap_or(text);
    match stream {
        OutputStream::Stdout | OutputStream::Stderr => shown.to_owned(),
        OutputStream::Terminal => anstream::adapter::strip_str(shown).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Secret;

    const SECRET: &str = "hunter2-correct-horse";

    fn redactor() -> OutputRedactor {
        OutputRedactor::new(&Redactor::new([&Secret::new(SECRET.to_owned())]))
    }

    fn chunk(text: impl AsRef<[u8]>) -> OutputChunk {
        let bytes = text.as_ref().to_vec();
        OutputChunk { at: Timestamp::UNIX_EPOCH, stream: OutputStream::Stdout, bytes }
    }

    fn texts(lines: Vec<OutputLine>) -> Vec<String> {
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_whole_however_they_are_read() {
        let text = "one\ntwo ü\r\n\nthree".as_bytes();
        for size in 1..=text.len() {
            let mut output = redactor();
            let mut lines: Vec<_> = text.chunks(size).flat_map(|part| texts(output.push(chunk(part)))).collect();
            assert!(!output.has_pending());
            lines.extend(texts(output.finish()));
            assert_eq!(lines, ["one", "two ü", "", "three"], "{size}");
        }
    }

    #[test]
    fn secret_is_masked_however_it_is_read() {
        let text = format!("it is {SECRET}!\nand in two lines: hunter2-\ncorrect-horse\nend\n");
        for size in 1..=text.len() {
            let mut output = redactor();
            let mut lines: Vec<_> =
                text.as_bytes().chunks(size).flat_map(|part| texts(output.push(chunk(part)))).collect();
            lines.extend(texts(output.finish()));
            assert_eq!(lines, ["it is ***!", "and in two lines: ***", "***", "end"], "{size}");
        }
    }

    #[test]
    fn secret_at_the_cut_of_an_endless_line_is_masked() {
        for offset in 0..=SECRET.len() {
            let text = format!("{}{SECRET}{}\n", "x".repeat(MAX_LINE_BYTES - offset), "y".repeat(100));
            let mut output = redactor();
            let mut lines: Vec<_> =
                text.as_bytes().chunks(4096).flat_map(|part| texts(output.push(chunk(part)))).collect();
            lines.extend(texts(output.finish()));
            let all = lines.concat();
            assert!(all.contains("***") && !all.contains("horse") && !all.contains("hunter"), "{offset}");
        }
    }

    #[test]
    fn line_that_may_begin_a_secret_waits_until_it_is_flushed() {
        let mut output = redactor();
        assert_eq!(texts(output.push(chunk("gone to hunt\n"))), [""; 0]);
        assert!(output.has_pending());
        assert_eq!(texts(output.flush()), ["gone to hunt"]);
    }

    #[test]
    fn overwritten_and_coloured_text_is_what_a_terminal_shows() {
        let mut output = redactor();
        let bytes = b"10%\r50%\r\x1b[32mdone\x1b[0m\r\n".to_vec();
        let line = output.push(OutputChunk { stream: OutputStream::Terminal, ..chunk(bytes) });
        assert_eq!(texts(line), ["done"]);
    }

    #[test]
    fn no_character_is_cut_in_two() {
        let text = "é".repeat(MAX_LINE_BYTES);
        let mut output = redactor();
        let mut lines = texts(output.push(chunk(format!("a{text}\n"))));
        lines.extend(texts(output.finish()));
        assert_eq!(lines.concat(), format!("a{text}"));
    }
}
