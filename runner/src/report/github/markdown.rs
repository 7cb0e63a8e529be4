//! Foreign text in GitHub's Markdown: shown, never formatted.
//!
//! Deliberately absent: what a page says.

use contract::text;

/// What Markdown, its extensions and its tables would take for something else than text.
const SPECIAL_CHARS: &[char] =
    &['\\', '`', '*', '_', '{', '}', '[', ']', '(', ')', '#', '+', '!', '|', '~', '$', ':', '@', '^', '=', '-'];

/// The text on one line, of at most `room` characters before they are escaped.
pub(super) fn escape_inline(text: &str, room: usize) -> String {
    let mut escaped = String::new();
    for char in text::truncate(text, room).chars() {
        match char {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            char if SPECIAL_CHARS.contains(&char) => escaped.extend(['\\', char]),
            char => escaped.push(char),
        }
    }
    escaped
}

/// Lines as they are, in a block that none of them can end.
pub(super) fn code_block(language: &str, text: &str) -> String {
    let longest = text.split(|char| char != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}{language}\n{}\n{fence}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_formatted() {
        assert_eq!(
            escape_inline("a|b `c` </details>\n**d** @ann ##[x] https://e", 100),
            r"a\|b \`c\` &lt;/details&gt;\\n\*\*d\*\* \@ann \#\\\#\[x\] https\://e"
        );
        assert_eq!(escape_inline("abcdef", 4), "abc…");
    }

    #[test]
    fn no_line_ends_a_block() {
        assert_eq!(code_block("text", "a\n```\n````b\n"), "`````text\na\n```\n````b\n`````\n");
        assert_eq!(code_block("", "a"), "```\na\n```\n");
    }
}
