//! Foreign text in GitHub's Markdown: shown as it is, never formatted.
//!
//! Deliberately absent: the content of a page.

use contract::text;

/// The characters with a meaning in Markdown, its extensions or its tables.
const SPECIAL_CHARS: &[char] =
    &['\\', '`', '*', '_', '{', '}', '[', ']', '(', ')', '#', '+', '!', '|', '~', '$', ':', '@', '^', '=', '-'];

/// Escapes a text for one line, after truncating it to `max_chars` characters.
pub(super) fn escape_inline(text: &str, max_chars: usize) -> String {
    let mut escaped = String::new();
    for char in text::truncate(text, max_chars).chars() {
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

/// A code block whose fence is longer than any in the text.
pub(super) fn code_block(language: &str, text: &str) -> String {
    let longest = text.split(|char| char != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}{language}\n{}\n{fence}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_not_formatted() {
        assert_eq!(
            escape_inline("a|b `c` </details>\n**d** @ann ##[x] https://e", 100),
            r"a\|b \`c\` &lt;/details&gt;\\n\*\*d\*\* \@ann \#\\\#\[x\] https\://e"
        );
        assert_eq!(escape_inline("abcdef", 4), "abc…");
    }

    #[test]
    fn no_line_ends_the_code_block() {
        assert_eq!(code_block("text", "a\n```\n````b\n"), "`````text\na\n```\n````b\n`````\n");
        assert_eq!(code_block("", "a"), "```\na\n```\n");
    }
}
