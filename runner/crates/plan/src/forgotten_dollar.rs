//! Finds `{{ vars.port }}`, a lookup without its `$`.
//!
//! It is an error only if the braces contain exactly one lookup of a plan, so that the templates of other programs, such as
//! `{{ .State }}` or `{{ name | upper }}`, stay text.

use std::ops::Range;

use super::{error::PlanError, expression};
use contract::error_code::ErrorCode;

/// The error for the first lookup without `$` in a string. `written` is the source of the scalar, and `start` its offset.
pub(super) fn error_in(text: &str, written: &str, start: usize) -> Option<PlanError> {
    let found = &text[first_lookup(text)?];
    let in_source = written.match_indices(found).find(|(at, _)| !written[..*at].ends_with(['$', '{']));
    let span = match in_source {
        Some((at, _)) => start + at..start + at + found.len(),
        // A fold or an escape separates it in the source.
        None => start..start + written.len(),
    };
    let error = PlanError::new(ErrorCode::InvalidLookup, format!("`{found}` has no `$`, so nothing is looked up"));
    let hint = format!("write `${found}`; to mean the text itself, put it into a variable and look that up");
    Some(error.at(&span, "only text").hint(hint))
}

/// Where the first lookup without `$` is.
pub(super) fn first_lookup(text: &str) -> Option<Range<usize>> {
    text.match_indices("{{").find_map(|(at, _)| {
        let end = at + text[at..].find("}}")? + 2;
        let is_other = text[..at].ends_with(['$', '{']) || text[end..].starts_with('}');
        (!is_other && expression::is_lookup(text[at + 2..end - 2].trim())).then_some(at..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_lookups_without_a_dollar_are_found() {
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
        ] {
            assert_eq!(first_lookup(text).map(|range| &text[range]), found, "{text}");
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
