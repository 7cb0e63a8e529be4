//! Values that must fit to each other.

use contract::{diagnostic::ErrorCode, text::dotted_pointer};
use sandbox::{DeclaredValue, RelationKind, ValueRelation};

use super::{super::span_of, DeclaredStep, GrantHint, KnownText, ValueProblem};

impl DeclaredStep<'_> {
    /// The errors of values that do not fit to others. `is_wrong` tells which values are wrong by themselves.
    pub(in super::super) fn relation_problems(&self, is_wrong: impl Fn(&str) -> bool) -> Vec<ValueProblem> {
        let both = |relation: &&ValueRelation| !is_wrong(&relation.pointer) && !is_wrong(&relation.other_pointer);
        let check = |relation: &ValueRelation| match relation.kind {
            RelationKind::AtMost => self.check_at_most(relation),
            RelationKind::Outside => self.check_outside(relation),
        };
        self.relations.iter().filter(both).filter_map(check).collect()
    }

    fn check_at_most(&self, relation: &ValueRelation) -> Option<ValueProblem> {
        let (number, most) = (relation.value.as_i64()?, relation.other.as_i64()?);
        if number <= most {
            return None;
        }
        let (key, other) = (key_of(&relation.pointer), key_of(&relation.other_pointer));
        let why = format!("{number} is more than `{other}`, which is {most}");
        let hint = format!("write `{other}: {number}`, or `{key}: {most}`");
        Some(self.misfit(relation, &why, &format!("more than `{other}`"), hint))
    }

    fn check_outside(&self, relation: &ValueRelation) -> Option<ValueProblem> {
        let path = match self.text_at(&relation.pointer, &relation.value)? {
            KnownText::Whole(path) => path,
            // The last name may go on.
            KnownText::Prefix(path) => &path[..=path.rfind('/')?],
        };
        let mut inputs = relation.other.as_array()?.iter().enumerate();
        let input = inputs.find_map(|(at, input)| {
            match self.text_at(&format!("{}/{at}", relation.other_pointer), input)? {
                KnownText::Whole(input) => lies_in(path, input).then_some(input),
                KnownText::Prefix(_) => None,
            }
        })?;
        let why = format!("`{path}` lies in the input `{input}`");
        let hint = "put it elsewhere: the step would change its own input, and run each time".to_owned();
        Some(self.misfit(relation, &why, "in an input", hint))
    }

    /// Checks that none of several paths lies in another.
    pub(super) fn check_separate_paths(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let items = value.value.as_ref()?.as_array()?.iter().enumerate();
        let paths: Vec<(usize, &str)> = items
            .filter_map(|(at, item)| match self.text_at(&format!("{}/{at}", value.pointer), item)? {
                KnownText::Whole(path) => Some((at, path)),
                KnownText::Prefix(_) => None,
            })
            .collect();
        let is_nested = |inner: &(usize, &str), outer: &(usize, &str)| {
            // Of two equal ones, the later.
            inner.0 != outer.0 && lies_in(inner.1, outer.1) && (inner.0 > outer.0 || !lies_in(outer.1, inner.1))
        };
        let mut pairs = paths.iter().flat_map(|inner| paths.iter().map(move |outer| (inner, outer)));
        let (inner, outer) = pairs.find(|(inner, outer)| is_nested(inner, outer))?;
        let at = DeclaredValue { pointer: format!("{}/{}", value.pointer, inner.0), ..value.clone() };
        let why = format!("`{}` lies in `{}`, which the list has too", inner.1, outer.1);
        Some(self.invalid(&at, &why, "in another path", format!("remove `{}`", inner.1)))
    }

    fn misfit(&self, relation: &ValueRelation, why: &str, label: &str, hint: String) -> ValueProblem {
        let (step, pointer) = (self.step, &relation.pointer);
        let message = format!("invalid `with` of step `{}` at `{}`: {why}", step.id, dotted_pointer(pointer));
        let span = span_of(step, pointer);
        let diagnostic = self.plan.error_at(ErrorCode::InvalidConfig, span, message, label, Some(hint.clone()));
        ValueProblem { pointer: pointer.clone(), capability: None, diagnostic, hint: GrantHint::from(hint) }
    }
}

/// The last key of a pointer.
fn key_of(pointer: &str) -> &str {
    pointer.rsplit('/').next().unwrap_or_default()
}

/// Whether a path is another one, or lies below it. Slashes around a path mean nothing.
fn lies_in(path: &str, outer: &str) -> bool {
    let rest = path.trim_start_matches('/').strip_prefix(outer.trim_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_lies_in_itself_and_what_is_above() {
        for (path, outer, expected) in [
            ("a/b", "a", true),
            ("a/b/", "/a/", true),
            ("a", "a/", true),
            ("ab", "a", false),
            ("a", "a/b", false),
            ("b/a", "a", false),
        ] {
            assert_eq!(lies_in(path, outer), expected, "{path} in {outer}");
        }
    }
}
