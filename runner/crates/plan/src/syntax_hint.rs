//! What to write in place of a text that is not YAML: the usual mistakes.
//!
//! Invariant: a hint shows the text of the plan as it must be. Deliberately absent: other mistakes, which get no hint.

use std::ops::Range;

use serde_json::Value;

/// What was meant at a syntax error: the range to mark, and the hint.
pub(super) struct SyntaxHint {
    pub(super) span: Range<usize>,
    pub(super) hint: String,
}

/// What was meant at a byte of a text where a parser says `info`.
pub(super) fn syntax_hint(text: &str, at: usize, info: &str) -> Option<SyntaxHint> {
    let line = line_around(text, at);
    if let Some(span) = unquoted_lookup(text, &line, at) {
        return Some(quote_hint(text, span));
    }
    let rest = &text[at..line.end];
    if info.contains("mapping values are not allowed") && rest.starts_with(':') {
        let value = value_around(text, &line, at)?;
        return Some(SyntaxHint { span: at..at + 1, ..quote_hint(text, value) });
    }
    let before = &text[line.start..at];
    if info.contains("expected key") && before.trim() == "-" {
        let dash = line.start + before.len() - before.trim_start().len();
        let hint = "indent the list below its key, or remove the `-`".to_owned();
        return Some(SyntaxHint { span: dash..dash + 1, hint });
    }
    if info.contains("quoted scalar") && rest.starts_with(['"', '\'']) {
        return Some(SyntaxHint { span: at..at + 1, hint: format!("close it with `{}`", &rest[..1]) });
    }
    None
}

fn quote_hint(text: &str, span: Range<usize>) -> SyntaxHint {
    SyntaxHint { hint: format!("quote it: `{}`", Value::from(&text[span.clone()])), span }
}

fn line_around(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    start..end
}

/// The value in a flow list or mapping that a lookup without quotes is in.
fn unquoted_lookup(text: &str, line: &Range<usize>, at: usize) -> Option<Range<usize>> {
    let here = &text[line.clone()];
    // The parser takes `$` for a value, and stumbles over the brace.
    let lookups = here.match_indices("${{").map(|(index, _)| index);
    let start = lookups.take_while(|index| line.start + index <= at).last()?;
    let begin = here[..start].rfind([',', '[', '{']).map_or(0, |delimiter| delimiter + 1);
    let begin = here[begin..start].rfind(": ").map_or(begin, |colon| begin + colon + 2);
    let end_of = |lookup: usize| here[lookup..].find("}}").map(|end| lookup + end + 2);
    let mut end = end_of(start)?;
    // The value goes on up to its delimiter, which is none in another lookup.
    loop {
        let stop = here[end..].find([',', ']', '}']).map_or(here.len(), |stop| end + stop);
        match here[end..stop].find("${{").and_then(|next| end_of(end + next)) {
            Some(after) => end = after,
            None => {
                end = stop;
                break;
            }
        }
    }
    let value = &here[begin..end];
    let is_quoted = here[..start].matches('"').count() % 2 == 1 || here[..start].matches('\'').count() % 2 == 1;
    if is_quoted || value.contains(['"', '\'']) {
        return None;
    }
    let begin = line.start + begin + value.len() - value.trim_start().len();
    Some(begin..begin + value.trim().len())
}

/// The value that a colon too many is in: what follows the key of its line.
fn value_around(text: &str, line: &Range<usize>, at: usize) -> Option<Range<usize>> {
    let here = &text[line.clone()];
    let begin = here[..at - line.start].find(": ")? + 2;
    let value = here[begin..].split(" #").next().unwrap_or_default();
    let begin = line.start + begin + value.len() - value.trim_start().len();
    let value = value.trim();
    // In a list or mapping, the value ends before.
    (!value.contains(['"', '\'', '{', '[', ',', ']', '}'])).then(|| begin..begin + value.len())
}

#[cfg(test)]
mod tests {
    use crate::{error::PlanErrorCollector, yaml};

    /// The hint, with what is marked.
    fn hint(text: &str) -> Option<String> {
        let mut problems = PlanErrorCollector::default();
        assert!(yaml::parse(text, &mut problems).is_none(), "{text}");
        let problem = problems.into_list().into_iter().next().unwrap();
        problem.hint
    }

    #[test]
    fn usual_mistakes_get_the_text_to_write() {
        for (text, expected) in [
            ("dirs: { app: ${{ vars.root }} }\n", "quote it: `\"${{ vars.root }}\"`"),
            ("dirs: { app: ${{ vars.root }}/app:ro, b: c }\n", "quote it: `\"${{ vars.root }}/app:ro\"`"),
            ("program: [./ok.sh, ${{ vars.root }}]\n", "quote it: `\"${{ vars.root }}\"`"),
            (
                "program: [./ok.sh, --to=${{ vars.a }}-${{ vars.b }}]\n",
                "quote it: `\"--to=${{ vars.a }}-${{ vars.b }}\"`",
            ),
            ("a: { b: \"${{ c }}\", d: ${{ e }} }\n", "quote it: `\"${{ e }}\"`"),
            ("app: shop: x\n", "quote it: `\"shop: x\"`"),
            ("a:\n  - b: c: d # e\n", "quote it: `\"c: d\"`"),
            ("steps:\n  a: x\n  - b\n", "indent the list below its key, or remove the `-`"),
            ("a: \"b\n", "close it with `\"`"),
        ] {
            assert_eq!(hint(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["a: [b\nc: d\n", "a: { b: \"${{ c }}\" d }\n"] {
            assert_eq!(hint(text), None, "{text}");
        }
    }
}
