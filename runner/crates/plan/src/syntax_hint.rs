//! What to write in place of a text that is not YAML: the usual mistakes.
//!
//! Invariant: a hint shows the text of the plan as it must be. Deliberately absent: other mistakes, which get no hint.

use std::ops::Range;

use serde_json::Value;

use super::error::closest_match;

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
    if info.contains("unknown anchor") && rest.starts_with('*') {
        return Some(anchor_hint(text, plain_value(&line, text, at)));
    }
    if info.contains("unexpected character") && rest.starts_with(['@', '`', '%']) {
        return Some(quote_hint(text, plain_value(&line, text, at)));
    }
    let after_colon = before.trim_end_matches(['\t', ' ']);
    if info.contains("':' must be followed") && after_colon.ends_with(':') && text[line.clone()].contains('\t') {
        let colon = line.start + after_colon.len();
        return Some(SyntaxHint {
            span: colon - 1..colon,
            hint: "write a space after the colon, not a tab".to_owned(),
        });
    }
    if info.contains("flow") || info.contains("illegal placement of ':'") {
        let open = unclosed_bracket(&text[..at]).filter(|open| *open < line.start)?;
        let hint = format!("close this `{}`", &text[open..=open]);
        return Some(SyntaxHint { span: open..open + 1, hint });
    }
    let previous = previous_line(text, line.start)?;
    if info.contains("expected key") && before.trim().is_empty() {
        let indentation = |line: &str| line.len() - line.trim_start().len();
        let (above, here) = (indentation(&text[previous.clone()]), before.len());
        let number = 1 + text[..previous.start].matches('\n').count();
        let hint = format!("indent it with {above} spaces, as line {number}");
        let end = at + rest.chars().next().map_or(0, char::len_utf8);
        return (above != here).then_some(SyntaxHint { span: at..end, hint });
    }
    if info.contains("simple key") {
        return missing_colon(text, previous);
    }
    None
}

/// An alias without its anchor, or a text that begins with `*`.
fn anchor_hint(text: &str, value: Range<usize>) -> SyntaxHint {
    let alias = &text[value.clone()];
    let quoted = Value::from(alias);
    let is_name = alias[1..].chars().all(|char| char.is_alphanumeric() || "-_".contains(char)) && alias.len() > 1;
    let starts = text[..value.start].match_indices('&').map(|(at, _)| &text[at + 1..]);
    let anchors = starts.map(|rest| rest.split(|char: char| char.is_whitespace() || ",]}".contains(char)).next());
    let anchors: Vec<&str> = anchors.flatten().filter(|anchor| !anchor.is_empty()).collect();
    let hint = match closest_match(&alias[1..], anchors) {
        Some(near) if is_name => format!("did you mean `*{near}`?"),
        Some(_) | None if is_name => {
            format!(
                "put its anchor, `&{}`, before a value above; to mean the text itself, quote it: `{quoted}`",
                &alias[1..]
            )
        }
        Some(_) | None => format!("quote it: `{quoted}`"),
    };
    SyntaxHint { span: value, hint }
}

/// A line that is a key and its value without a colon between them.
fn missing_colon(text: &str, line: Range<usize>) -> Option<SyntaxHint> {
    let written = text[line.clone()].split(" #").next().unwrap_or_default();
    let start = line.start + written.len() - written.trim_start().len();
    let written = written.trim();
    if written.is_empty() || written.contains([':', '"', '\'', '[', '{']) || written.starts_with('-') {
        return None;
    }
    let right = match written.split_once(' ') {
        Some((key, value)) => format!("{key}: {}", value.trim_start()),
        None => format!("{written}:"),
    };
    Some(SyntaxHint { span: start..start + written.len(), hint: format!("write a colon after the key: `{right}`") })
}

/// A value without quotes from a byte on: to the end of the line, or of its place in a list or mapping.
fn plain_value(line: &Range<usize>, text: &str, at: usize) -> Range<usize> {
    let rest = &text[at..line.end];
    let rest = rest.split(" #").next().unwrap_or_default();
    let is_in_flow = unclosed_bracket(&text[..at]).is_some();
    let end = rest.find([',', ']', '}']).filter(|_| is_in_flow).unwrap_or(rest.len());
    at..at + rest[..end].trim_end().len()
}

/// The last line before a byte that is neither empty nor a comment.
fn previous_line(text: &str, start: usize) -> Option<Range<usize>> {
    let mut end = start.checked_sub(1)?;
    loop {
        let line = line_around(text, end);
        let written = text[line.clone()].trim_start();
        if !written.is_empty() && !written.starts_with('#') {
            return Some(line);
        }
        end = line.start.checked_sub(1)?;
    }
}

/// The last bracket or brace of a text that is not closed.
fn unclosed_bracket(text: &str) -> Option<usize> {
    let (mut open, mut quote, mut before) = (Vec::new(), None, ' ');
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match (quote, char) {
            (Some('"'), '\\') => drop(chars.next()),
            (Some(mark), _) => quote = Some(mark).filter(|mark| *mark != char),
            (None, '"' | '\'') if before.is_whitespace() || "[{,:".contains(before) => quote = Some(char),
            (None, '#') if before.is_whitespace() => {
                chars.by_ref().take_while(|(_, char)| *char != '\n').for_each(drop);
            }
            (None, '[' | '{') => open.push(at),
            (None, ']' | '}') => drop(open.pop()),
            (None, _) => {}
        }
        before = char;
    }
    open.pop()
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
            ("a: &base 1\nb: *bsae\n", "did you mean `*base`?"),
            (
                "steps: { a: { with: *base } }\n",
                "put its anchor, `&base`, before a value above; to mean the text itself, quote it: `\"*base\"`",
            ),
            ("program: [ls, *.txt]\n", "quote it: `\"*.txt\"`"),
            ("app: @shop # x\n", "quote it: `\"@shop\"`"),
            ("app: `shop`\n", "quote it: `\"`shop`\"`"),
            ("vars: { a: %b, c: d }\n", "quote it: `\"%b\"`"),
            ("app:\tshop\n", "write a space after the colon, not a tab"),
            ("steps:\n  a:\n    b: [c]\n   d: e\n", "indent it with 4 spaces, as line 3"),
            ("steps:\n  a:\n    b: [c]\n      d: e\n", "indent it with 4 spaces, as line 3"),
            ("steps:\n  a: { b: [\"c]\"\n  d: {}\n", "close this `[`"),
            ("a: [b\nc: d\n", "close this `[`"),
            ("a:\n    b: c\n  é: d\n", "indent it with 4 spaces, as line 2"),
            ("version: 1\napp shop\nsteps: {}\n", "write a colon after the key: `app: shop`"),
        ] {
            assert_eq!(hint(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(hint("a: { b: \"${{ c }}\" d }\n"), None);
    }
}
