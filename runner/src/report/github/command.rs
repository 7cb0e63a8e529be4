//! One workflow command: `::name key=value,…::data`.
//!
//! Invariant: for any text, the result is one line with one command. The escapes are those of GitHub's own toolkit.

/// A command, without the end of the line.
pub(super) fn workflow_command(name: &str, properties: &[(&str, String)], data: &str) -> String {
    let properties: Vec<_> =
        properties.iter().map(|(key, value)| format!("{key}={}", escaped_property(value))).collect();
    let gap = if properties.is_empty() { "" } else { " " };
    format!("::{name}{gap}{}::{}", properties.join(","), escaped(data))
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn escaped_property(text: &str) -> String {
    escaped(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_never_ends_the_command() {
        let file = "a,b:c%0A.sql\r\n::x".to_owned();
        let line =
            workflow_command("error", &[("file", file), ("line", "3".to_owned())], "one\n::stop-commands::x\r%0A");
        assert_eq!(line, "::error file=a%2Cb%3Ac%250A.sql%0D%0A%3A%3Ax,line=3::one%0A::stop-commands::x%0D%250A");
        assert_eq!(workflow_command("endgroup", &[], ""), "::endgroup::");
    }
}
