//! Which lines of a program a report shows while it runs: all of a program at a reader's pace, some of a flood.
//!
//! Deliberately absent: the log of the attempt, which has more lines, and the journal, which has the first and last ones.

use std::collections::BTreeMap;

use jiff::Timestamp;
use journal::event::OutputLine;

/// How many lines are shown of a program that has been quiet.
const BURST_LINES: u64 = 2_000;

/// How many lines are shown a second of one that is not.
const LINES_PER_SECOND: u64 = 50;

/// How many of the last lines are shown at the end, if lines were left out.
const LAST_LINES: usize = 20;

/// The state of one report, by the label of the step: steps run on several targets at once.
#[derive(Debug, Default)]
pub(super) struct OutputThrottles(BTreeMap<String, OutputThrottle>);

impl OutputThrottles {
    /// The lines of these that are shown.
    pub(super) fn admit(&mut self, label: &str, lines: &[OutputLine]) -> ThrottledLines {
        self.0.entry(label.to_owned()).or_default().admit(lines)
    }

    /// The last lines of a step, if they were left out.
    pub(super) fn finish(&mut self, label: &str) -> ThrottledLines {
        self.0.remove(label).map(OutputThrottle::finish).unwrap_or_default()
    }

    /// Leaves out the last lines of a step as well.
    pub(super) fn drop_rest(&mut self, label: &str) -> ThrottledLines {
        let left_out = self.0.remove(label).map_or(0, |throttle| throttle.left_out);
        ThrottledLines { left_out, lines: Vec::new() }
    }
}

/// The output of one step on one target.
#[derive(Debug)]
struct OutputThrottle {
    /// The lines that may be shown now, in thousandths.
    allowance: u64,
    at: Timestamp,
    left_out: u64,
    /// The last lines that were left out.
    last: Vec<OutputLine>,
}

/// Lines to show, and how many are left out before them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ThrottledLines {
    pub(super) left_out: u64,
    pub(super) lines: Vec<OutputLine>,
}

impl ThrottledLines {
    /// A sentence about the lines that are left out before these; `logs_command` is the command that shows them.
    pub(super) fn gap(&self, logs_command: &str) -> Option<String> {
        (self.left_out > 0).then(|| format!("[… {} lines left out; {logs_command} shows more …]", self.left_out))
    }
}

impl Default for OutputThrottle {
    fn default() -> Self {
        Self { allowance: BURST_LINES * 1000, at: Timestamp::UNIX_EPOCH, left_out: 0, last: Vec::new() }
    }
}

impl OutputThrottle {
    /// The lines of these that are shown.
    fn admit(&mut self, lines: &[OutputLine]) -> ThrottledLines {
        let Some(newest) = lines.last() else { return ThrottledLines::default() };
        let elapsed = newest.at.as_millisecond().saturating_sub(self.at.as_millisecond());
        let earned = u64::try_from(elapsed).unwrap_or(0).saturating_mul(LINES_PER_SECOND);
        self.allowance = self.allowance.saturating_add(earned).min(BURST_LINES * 1000);
        self.at = newest.at;
        let admitted = usize::try_from(self.allowance / 1000).unwrap_or(usize::MAX).min(lines.len());
        self.allowance -= admitted as u64 * 1000;
        let (shown, left_out) = lines.split_at(admitted);
        let shown = if shown.is_empty() { ThrottledLines::default() } else { self.take_gap(shown.to_vec()) };
        self.left_out += left_out.len() as u64;
        self.last.extend_from_slice(&left_out[left_out.len().saturating_sub(LAST_LINES)..]);
        let excess = self.last.len().saturating_sub(LAST_LINES);
        self.last.drain(..excess);
        shown
    }

    /// The last lines, if they were left out.
    fn finish(mut self) -> ThrottledLines {
        let last = std::mem::take(&mut self.last);
        self.left_out -= last.len() as u64;
        self.take_gap(last)
    }

    fn take_gap(&mut self, lines: Vec<OutputLine>) -> ThrottledLines {
        self.last.clear();
        ThrottledLines { left_out: std::mem::take(&mut self.left_out), lines }
    }
}

#[cfg(test)]
mod tests {
    use journal::event::OutputStream;

    use super::*;

    fn lines(at_ms: i64, numbers: std::ops::Range<u64>) -> Vec<OutputLine> {
        let at = Timestamp::from_millisecond(1_700_000_000_000 + at_ms).unwrap();
        numbers.map(|number| OutputLine { at, stream: OutputStream::Stdout, text: number.to_string() }).collect()
    }

    #[test]
    fn slow_program_is_shown_whole() {
        let mut throttle = OutputThrottle::default();
        for second in 0..10_000 {
            let new = lines(second * 1000, 0..LINES_PER_SECOND);
            assert_eq!(throttle.admit(&new), ThrottledLines { left_out: 0, lines: new });
        }
        assert_eq!(throttle.finish(), ThrottledLines::default());
    }

    #[test]
    fn beginning_end_and_true_count_of_a_flood_are_shown() {
        let mut throttle = OutputThrottle::default();
        let (mut shown, mut left_out) = (Vec::new(), 0);
        let mut add = |throttled: ThrottledLines| {
            left_out += throttled.left_out;
            shown.extend(throttled.lines);
        };
        for tick in 0..1000_u64 {
            add(throttle.admit(&lines(tick as i64 * 10, tick * 1000..(tick + 1) * 1000)));
        }
        add(throttle.finish());
        assert_eq!(left_out + shown.len() as u64, 1_000_000);
        assert!(shown.len() < 3_000, "{}", shown.len());
        assert_eq!((shown[0].text.as_str(), shown.last().unwrap().text.as_str()), ("0", "999999"));
        let tail = &shown[shown.len() - LAST_LINES..];
        assert_eq!(tail[0].text, "999980");
        let gap = ThrottledLines { left_out: 7, lines: Vec::new() }.gap("`runner logs --env prod`");
        assert_eq!(gap.as_deref(), Some("[… 7 lines left out; `runner logs --env prod` shows more …]"));
        assert_eq!(ThrottledLines::default().gap("`runner logs`"), None);
    }
}
