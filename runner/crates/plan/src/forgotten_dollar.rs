//! Finds lookups that lack a character: `{{ vars.port }}` without its `$`, and `${ vars.port }` with one brace only.
//!
//! It is an error only if the braces contain exactly one lookup of a plan, so that the templates of other programs, such as
//! `{{ .State }}` or `{{ name | upper }}`, stay text. With one brace, `${release}` and `${env.HOME}` stay text too: a shell and other programs
//! have such variables, but none with a space in it, and none called like `vars.port`.

use std::ops::Range;

use super::{error::PlanError, expression};
use contract::error_code::ErrorCode;

/// What is only text, although a lookup was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IncompleteLookup {
    pub(super) range: Range<usize>,
    pub(super) lack: LookupLack,
}

/// What a lookup lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookupLack {
    Dollar,
    Brace,
}

/// The roots of lookups that no other program has with one brace.
const OWN_ROOTS: [&str; 6] = ["plan.", "release.", "run.", "secrets.", "steps.", "vars."];

/// The error for the first incomplete lookup in a string. `written` is the source of the scalar, and `start` its offset.
pub(super) fn error_in(text: &str, written: &str, start: usize) -> Option<PlanError> {
    let IncompleteLookup { range, lack } = first_lookup(text)?;
    let found = &text[range];
    let before: &[char] = match lack {
        LookupLack::Dollar => &['$', '{'],
        LookupLack::Brace => &['$'],
    };
    let in_source = written.match_indices(found).find(|(at, _)| !written[..*at].ends_with(before));
    let span = match in_source {
        Some((at, _)) => start + at..start + at + found.len(),
        // A fold or an escape separates it in the source.
        None => start..start + written.len(),
    };
    let (lacks, right) = match lack {
        LookupLack::Dollar => ("no `$`", format!("${found}")),
        LookupLack::Brace => ("only one brace", format!("${{{{ {} }}}}", found[2..found.len() - 1].trim())),
    };
    let error = PlanError::new(ErrorCode::InvalidLookup, format!("`{found}` has {lacks}, so nothing is looked up"));
    let hint = format!("write `{right}`; to mean the text itself, put it into a variable and look that up");
    Some(error.at(&span, "only text").hint(hint))
}

/// Where the first incomplete lookup is.
pub(super) fn first_lookup(text: &str) -> Option<IncompleteLookup> {
    let dollar = without_dollar(text).map(|range| IncompleteLookup { range, lack: LookupLack::Dollar });
    let brace = with_one_brace(text).map(|range| IncompleteLookup { range, lack: LookupLack::Brace });
    dollar.into_iter().chain(brace).min_by_key(|found| found.range.start)
}

fn without_dollar(text: &str) -> Option<Range<usize>> {
    text.match_indices("{{").find_map(|(at, _)| {
        let end = at + text[at..].find("}}")? + 2;
        let is_other = text[..at].ends_with(['$', '{']) || text[end..].starts_with('}');
        (!is_other && expression::is_lookup(text[at + 2..end - 2].trim())).then_some(at..end)
    })
}

fn with_one_brace(text: &str) -> Option<Range<usize>> {
    text.match_indices("${").find_map(|(at, _)| {
        let end = at + text[at..].find('}')? + 1;
        let is_other = text[..at].ends_with('$') || text[at + 2..].starts_with('{') || text[end..].starts_with('}');
        let inside = &text[at + 2..end - 1];
        let name = inside.trim();
        let is_own = name.len() < inside.len() || OWN_ROOTS.iter().any(|root| name.starts_with(root));
        (!is_other && is_own && expression::is_lookup(name)).then_some(at..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_lookups_are_found() {
        for (text, found) in [
            ("{{ vars.port }}", Some("{{ vars.port }}")),
            ("http://h:{{vars.port}}/", Some("{{vars.port}}")),
            ("${{ release }} and {{ release }}", Some("{{ release }}")),
            ("{{ .State }} {{ steps.pull.path }}", Some("{{ steps.pull.path }}")),
            ("${{ release }}", None),
            ("$${{ release }}", None),
            ("{{{ release }}}", None),
            ("{{ release | upper }}", None),
            ("{{ .Release }}", None),
            ("{{ vars }}", None),
            ("{{ github.sha }}", None),
            ("{{ release", None),
            ("${ vars.port }", Some("${ vars.port }")),
            ("http://h:${vars.port}/", Some("${vars.port}")),
            ("${{ release }}-${ release }", Some("${ release }")),
            ("${HOME} ${release} ${env.HOME} ${host.name}", None),
            ("${ HOME } $${vars.port} ${{vars.port}}", None),
            ("${vars.port:-80}", None),
        ] {
            assert_eq!(first_lookup(text).map(|found| &text[found.range]), found, "{text}");
        }
    }

    #[test]
    fn error_marks_the_lookup_in_the_source() {
        let error = error_in("${{ release }}-{{ release }}", "\"${{ release }}-{{ release }}\"", 10).unwrap();
        assert_eq!(error.span, Some(26..39));
        let error = error_in("{{ release }}", "\"{{ rel\\\nease }}\"", 10).unwrap();
        assert_eq!(error.span, Some(10..27));
    }
}
