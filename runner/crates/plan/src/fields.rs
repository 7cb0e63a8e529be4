//! Readers for mappings, lists and strings of the tree, with the errors that they share.
//!
//! Invariant: each `None` has an error in [`PlanErrorCollector`], or the value was absent. Deliberately absent: lookups; `scope`
//! reads the strings that may contain one.

use std::{ops::Range, str::FromStr};

use super::{
    error::{PlanError, PlanErrorCollector, closest_match, quoted_list},
    type_hint::type_hint,
    yaml::{YamlKey, YamlNode, YamlValue},
};
use contract::{NameError, error_code::ErrorCode, text::escape_line};

/// A mapping with a fixed set of keys.
pub(super) struct MappingFields<'n> {
    /// The name of the mapping in messages: "the plan", "step `pull`".
    what: String,
    /// The position for errors about missing keys.
    at: Range<usize>,
    entries: &'n [(YamlKey, YamlNode)],
}

impl<'n> MappingFields<'n> {
    /// Reads a mapping and reports unknown keys.
    pub(super) fn read(
        node: &'n YamlNode,
        what: impl Into<String>,
        at: &Range<usize>,
        known: &[&str],
        problems: &mut PlanErrorCollector,
    ) -> Option<Self> {
        let what = what.into();
        let entries = mapping(node, &what, problems)?;
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.text.as_str())) {
            let error = PlanError::new(ErrorCode::UnknownKey, format!("{what} has no key `{}`", key.text));
            let hint = match closest_match(&key.text, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("use one of {}", quoted_list(known.iter().copied())),
            };
            problems.push(error.at(&key.span, "unknown key").hint(hint));
        }
        Some(Self { what, at: at.clone(), entries })
    }

    /// The value of a key; a key without a value counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'n YamlNode> {
        self.entry(key).map(|(_, value)| value)
    }

    /// The value of a key, also if it is empty.
    pub(super) fn written(&self, key: &str) -> Option<&'n YamlNode> {
        self.entries.iter().find(|(other, _)| other.text == key).map(|(_, value)| value)
    }

    /// The key as written, with its value.
    pub(super) fn entry(&self, key: &str) -> Option<(&'n YamlKey, &'n YamlNode)> {
        let (key, value) = self.entries.iter().find(|(other, _)| other.text == key)?;
        (!matches!(value.kind, YamlValue::Null)).then_some((key, value))
    }

    /// The value of a required key.
    pub(super) fn require(&self, key: &str, example: &str, problems: &mut PlanErrorCollector) -> Option<&'n YamlNode> {
        let value = self.get(key);
        if value.is_none() {
            let error = PlanError::new(ErrorCode::MissingKey, format!("{} has no `{key}`", self.what));
            problems.push(error.at(&self.at, format!("`{key}` is missing")).hint(format!("add `{key}: {example}`")));
        }
        value
    }
}

/// The entries of a mapping.
pub(super) fn mapping<'n>(
    node: &'n YamlNode,
    what: &str,
    problems: &mut PlanErrorCollector,
) -> Option<&'n [(YamlKey, YamlNode)]> {
    match &node.kind {
        YamlValue::Map(entries) => Some(entries),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } | YamlValue::Text(_) | YamlValue::List(_) => {
            problems.push(wrong_type(node, what, "a mapping"));
            None
        }
    }
}

/// The items of a list.
pub(super) fn list<'n>(node: &'n YamlNode, what: &str, problems: &mut PlanErrorCollector) -> Option<&'n [YamlNode]> {
    match &node.kind {
        YamlValue::List(items) => Some(items),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } | YamlValue::Text(_) | YamlValue::Map(_) => {
            problems.push(wrong_type(node, what, "a list"));
            None
        }
    }
}

/// Reads a string at a position that allows no lookups.
pub(super) fn literal<'n>(node: &'n YamlNode, what: &str, problems: &mut PlanErrorCollector) -> Option<&'n str> {
    match &node.kind {
        YamlValue::Text(text) if text.contains("${{") => {
            let message = format!("{what} cannot contain a lookup");
            let hint = "write the value itself; lookups work in `state`, `vars`, `with` and `grants`";
            problems.push(PlanError::new(ErrorCode::LookupNotAllowed, message).at(&node.span, "not here").hint(hint));
            None
        }
        YamlValue::Text(text) => Some(text),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } | YamlValue::List(_) | YamlValue::Map(_) => {
            problems.push(wrong_type(node, what, "a string"));
            None
        }
    }
}

/// Reads a name; a number is read by its spelling.
pub(super) fn name<T: FromStr<Err = NameError>>(
    node: &YamlNode,
    what: &str,
    problems: &mut PlanErrorCollector,
) -> Option<T> {
    match &node.kind {
        YamlValue::Number { written, .. } => parse_name(written, &node.span, problems),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Text(_) | YamlValue::List(_) | YamlValue::Map(_) => {
            parse_name(literal(node, what, problems)?, &node.span, problems)
        }
    }
}

/// Parses a name from the text at `span`.
pub(super) fn parse_name<T: FromStr<Err = NameError>>(
    text: &str,
    span: &Range<usize>,
    problems: &mut PlanErrorCollector,
) -> Option<T> {
    text.parse().map_err(|error| problems.push(bad_name(&error, span))).ok()
}

/// Reads one of a few fixed words.
pub(super) fn choice<T: Copy>(
    node: &YamlNode,
    what: &str,
    choices: &[(&'static str, T)],
    problems: &mut PlanErrorCollector,
) -> Option<T> {
    let text = literal(node, what, problems)?;
    let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let error = PlanError::new(ErrorCode::InvalidValue, format!("{what} cannot be `{text}`"));
        let hint = match choices {
            [(only, _)] => format!("use `{only}`"),
            _ => format!("use one of {}", quoted_list(choices.iter().map(|(word, _)| *word))),
        };
        problems.push(error.at(&node.span, "unknown value").hint(hint));
    }
    found
}

/// The error for a value of the wrong type.
pub(super) fn wrong_type(node: &YamlNode, what: &str, wanted: &str) -> PlanError {
    let message = format!("{what} must be {wanted}, not {}", node.kind.type_name());
    PlanError::new(ErrorCode::WrongType, message)
        .at(&node.span, format!("this is {}", node.kind.type_name()))
        .hint(type_hint(node, what, wanted))
}

/// The error for an invalid name.
pub(super) fn bad_name(error: &NameError, span: &Range<usize>) -> PlanError {
    PlanError::new(ErrorCode::InvalidName, format!("`{}` is not a valid {}", escape_line(&error.text), error.kind))
        .at(span, format!("not a valid {}", error.kind))
        .hint(format!("write {}", error.rule))
}
