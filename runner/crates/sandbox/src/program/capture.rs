//! The output that the module gets: all of it, or head and tail.

use std::collections::VecDeque;

/// The kept bytes of a stream: half head, half tail.
const MAX_CAPTURED_BYTES: usize = 1 << 20;

/// The kept part of a stream.
#[derive(Default)]
pub(crate) struct CapturedOutput {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    omitted_bytes: u64,
}

impl CapturedOutput {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let head_bytes = (MAX_CAPTURED_BYTES / 2).saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..head_bytes]);
        self.tail.extend(&bytes[head_bytes..]);
        let excess = self.tail.len().saturating_sub(MAX_CAPTURED_BYTES / 2);
        self.tail.drain(..excess);
        self.omitted_bytes += excess as u64;
    }

    /// Cuts between lines, because half a secret could not be redacted.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        if self.omitted_bytes > 0 {
            let is_end = |byte: &u8| *byte == b'\n';
            self.head.truncate(self.head.iter().rposition(is_end).map_or(0, |end| end + 1));
            self.tail.drain(..self.tail.iter().position(is_end).map_or(self.tail.len(), |end| end + 1));
            self.head.extend_from_slice(format!("[… over {} bytes …]\n", self.omitted_bytes).as_bytes());
        }
        self.head.extend(self.tail);
        self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_of_long_output_remain_in_whole_lines() {
        let mut captured = CapturedOutput::default();
        let lines: Vec<String> = (0..300_000).map(|number| format!("line {number}\n")).collect();
        lines.iter().for_each(|line| captured.push(line.as_bytes()));
        let text = String::from_utf8(captured.into_bytes()).unwrap();
        assert!(
            text.len() <= MAX_CAPTURED_BYTES + 64 && text.starts_with("line 0\n") && text.ends_with("line 299999\n")
        );
        let is_whole = |line: &str| line.starts_with("line ") || line.starts_with("[… over ");
        assert!(text.lines().all(is_whole));
    }
}
