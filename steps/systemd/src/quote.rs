//! Texts as systemd reads them in a unit: systemd.syntax(7), systemd.service(5).

use pawl_step::Failure;
use pawl_step::slots::one_line;

/// A word of `ExecStart=`: without specifiers, and without variables.
pub(crate) fn word(text: &str) -> Result<String, Failure> {
    Ok(quoted(text)?.replace('$', "$$"))
}

/// A word of `Environment=`.
pub(crate) fn variable(text: &str) -> Result<String, Failure> {
    quoted(text)
}

/// A value that is a whole line, such as a path.
pub(crate) fn line(text: &str) -> Result<String, Failure> {
    Ok(one_line(text)?.replace('%', "%%"))
}

fn quoted(text: &str) -> Result<String, Failure> {
    let text = one_line(text)?.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_@%+=:,./-".contains(letter);
    Ok(if !text.is_empty() && text.chars().all(is_plain) { text } else { format!("\"{text}\"") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_systemd() {
        for (text, quoted) in [
            ("-b", "-b"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("100%", "100%%"),
            ("$HOME ${X}", "\"$$HOME $${X}\""),
            ("it's ;x \"q\" \\", "\"it's ;x \\\"q\\\" \\\\\""),
        ] {
            assert_eq!(word(text).unwrap(), quoted, "{text}");
        }
        assert_eq!(variable("A=$x %").unwrap(), "\"A=$x %%\"");
        assert_eq!(line("/srv/100% mine").unwrap(), "/srv/100%% mine");
        assert!(word("a\nb").is_err());
    }
}
