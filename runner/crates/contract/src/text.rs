//! The layout of values and foreign text on a line: escaped, wrapped, truncated.
//!
//! Text from a step, a server or a program may contain escape sequences for the terminal, and commands for the CI that
//! reads our output. [`escape_line`] makes them visible and harmless; every foreign text goes through it on the way to a line.
//! Deliberately absent: colours, which are added later.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The width of the layout, in columns.
pub const WIDTH: usize = 80;

/// The prefix of every line that a foreign text starts, so that it cannot pass for a line of ours or for a command of
/// the CI: GitHub executes a line whose first word starts with `::`.
pub const GUTTER: &str = "| ";

/// The text on one line, with control characters, line breaks and bidirectional overrides escaped.
#[must_use]
pub fn escape_line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(char.escape_unicode());
            }
            char if char.is_control() => shown.extend(char.escape_default()),
            char => shown.push(char),
        }
    }
    without_legacy_commands(&shown)
}

/// The text without GitHub's legacy commands, which GitHub executes anywhere in a line.
#[must_use]
pub fn without_legacy_commands(text: &str) -> String {
    text.replace("##[", "#\\#[")
}

/// Wraps a foreign text into lines: the first of at most `first` columns, the others of at most `rest`, [`GUTTER`] included. A
/// word longer than a line stays whole, so that paths and addresses can be copied; so does a command between backticks.
#[must_use]
pub fn wrap(text: &str, first: usize, rest: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    // GitHub skips white space before a command, and more kinds of it than the space that lines are broken at.
    let end = |lines: &mut Vec<String>, line: String| {
        let is_command = !lines.is_empty() && line.trim_start().starts_with("::");
        lines.push(if is_command { format!("{GUTTER}{line}") } else { line });
    };
    for (index, paragraph) in text.trim_end().split('\n').enumerate() {
        let mut line = String::new();
        let mut is_empty = true;
        for word in unbroken_words(&escape_line(paragraph.trim_end_matches('\r'))) {
            let room = if lines.is_empty() { first } else { rest };
            let is_full = !is_empty && column_count(&line) + 1 + column_count(word) > room;
            if is_full {
                end(&mut lines, std::mem::take(&mut line));
            }
            if index > 0 && (is_empty || is_full) || is_full && word.starts_with("::") {
                line.push_str(GUTTER);
            } else if !is_empty && !is_full {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        end(&mut lines, line);
    }
    lines
}

/// The words of a line. What is between two backticks is not split.
fn unbroken_words(line: &str) -> Vec<&str> {
    let marks = line.matches('`').count();
    // The last of an odd number of backticks ends nothing.
    let paired = marks - marks % 2;
    let (mut words, mut start, mut seen) = (Vec::new(), 0, 0_usize);
    for (at, char) in line.char_indices() {
        match char {
            '`' if seen < paired => seen += 1,
            ' ' if seen.is_multiple_of(2) => {
                words.push(&line[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    words.push(&line[start..]);
    words
}

/// The text on one line, escaped, truncated to at most `room` columns.
#[must_use]
pub fn truncate(text: &str, room: usize) -> String {
    let text = escape_line(text);
    if column_count(&text) <= room {
        return text;
    }
    let mut head = String::new();
    let mut columns = 0;
    for char in text.chars() {
        columns += char.width().unwrap_or(0);
        if columns > room.saturating_sub(1) {
            break;
        }
        head.push(char);
    }
    head.push('…');
    head
}

/// The number of terminal columns of a text, by Unicode's East Asian Width (UAX #11).
#[must_use]
pub fn column_count(text: &str) -> usize {
    text.width()
}

/// Formats a duration in milliseconds.
#[must_use]
pub fn format_duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{seconds}.{} s", ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Formats `done` of `total` units; bytes in a larger unit.
#[must_use]
pub fn format_amount(done: u64, total: Option<u64>, unit: &str) -> String {
    let count = |count| match (unit, unit.strip_suffix('s')) {
        ("byte" | "bytes" | "B", _) => bytes(count),
        (_, Some(one)) if count == 1 && !one.ends_with('s') => format!("1 {one}"),
        (_, _) => format!("{count} {unit}"),
    };
    match total {
        Some(total) => format!("{} of {}", count(done), count(total)),
        None => count(done),
    }
}

/// Formats a number of bytes.
#[must_use]
pub fn bytes(count: u64) -> String {
    let mut unit = 1;
    for name in ["B", "KiB", "MiB"] {
        if count < unit * 1024 {
            return format_in_unit(count, unit, name);
        }
        unit *= 1024;
    }
    format_in_unit(count, unit, "GiB")
}

/// Formats a time in UTC, to the second.
#[must_use]
pub fn format_time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// The time from one entry to another in milliseconds; 0 if a clock was set back between them.
#[must_use]
pub fn millis_between(from: jiff::Timestamp, to: jiff::Timestamp) -> u64 {
    u64::try_from(to.as_millisecond() - from.as_millisecond()).unwrap_or(0)
}

fn format_in_unit(count: u64, unit: u64, name: &str) -> String {
    let (whole, tenth) = (count / unit, count % unit * 10 / unit);
    if unit == 1 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
}

/// An error and its sources in one line, each text once.
#[must_use]
pub fn error_chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A key as one reference token of a JSON pointer (RFC 6901).
#[must_use]
pub fn pointer_token(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A JSON pointer in the notation of messages: `http.0.url` for `/http/0/url`.
#[must_use]
pub fn dotted_pointer(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".").replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
    /// No line but the first, which follows our own words, is a command, whatever the text and the widths.
            #[test]
            fn no_wrapped_line_is_a_command(text in "([a-z]{1,9}|[ \u{a0}\u{2003}]{1,3}|::[a-z]{1,9}::|\n){1,40}", first in 1..40_usize, rest in 1..40_usize) {
                let lines = wrap(&text, first, rest);
                prop_assert!(lines.iter().skip(1).all(|line| !line.trim_start().starts_with("::")), "{lines:?}");
            }
        }

    #[test]
    fn control_sequences_and_ci_commands_are_escaped() {
        for (text, shown) in [
            ("\u{1b}[31mred\u{1b}[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\rb\tc\n::error::d", "a\\rb\\tc\\n::error::d"),
            ("\u{202e}live", "\\u{202e}live"),
            ("x ##[add-path]y", "x #\\#[add-path]y"),
            ("naïve → 日本", "naïve → 日本"),
        ] {
            assert_eq!(escape_line(text), shown);
        }
    }

    #[test]
    fn no_line_but_the_first_starts_with_foreign_text() {
        assert_eq!(wrap("one\n::error::two\r\n", 20, 20), ["one", "| ::error::two"]);
        assert_eq!(wrap("a word ::stop-commands::x", 7, 20), ["a word", "| ::stop-commands::x"]);
        assert_eq!(wrap("a\nlong  line", 9, 9), ["a", "| long ", "| line"]);
        assert_eq!(wrap("", 7, 20), [""]);
    }

    #[test]
    fn lines_fit_and_long_words_stay_whole() {
        assert_eq!(wrap("one two three four", 9, 9), ["one two", "three", "four"]);
        assert_eq!(wrap("see /srv/shop/releases/r2/x now", 8, 8), ["see", "/srv/shop/releases/r2/x", "now"]);
        assert_eq!(truncate("abcdef", 4), "abc…");
        assert_eq!(column_count("日本"), 4);
        assert_eq!(truncate("日本語", 4), "日…");
    }

    #[test]
    fn commands_between_backticks_stay_whole() {
        assert_eq!(
            wrap("to go on, run `runner status` or wait", 12, 12),
            ["to go on,", "run", "`runner status`", "or wait"]
        );
        assert_eq!(wrap("a stray ` is no mark", 9, 9), ["a stray `", "is no", "mark"]);
    }

    #[test]
    fn durations_and_amounts_are_short() {
        let times: Vec<_> = [0, 999, 1_000, 59_999, 60_000, 3_599_999, 3_600_000].map(format_duration).into();
        assert_eq!(times, ["0 ms", "999 ms", "1.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min"]);
        let sizes: Vec<_> = [0, 1023, 1536, 1 << 20, 5 << 30].map(bytes).into();
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "1.0 MiB", "5.0 GiB"]);
        assert_eq!(format_amount(1536, Some(1 << 20), "bytes"), "1.5 KiB of 1.0 MiB");
        assert_eq!([1, 3].map(|count| format_amount(count, None, "files")), ["1 file", "3 files"]);
    }
}
