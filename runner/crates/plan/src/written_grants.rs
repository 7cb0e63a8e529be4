//! How the `grants:` of a step are written, so that a hint can say where a line has its place.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::yaml::{YamlNode, YamlValue};

/// How the `grants:` of a step are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WrittenGrants {
    /// The step is a hook's `program: […]`, which has no other keys.
    NoPlace,
    /// The step has no `grants:`.
    #[default]
    LeftOut,
    /// It has `grants:`, with these keys.
    Keys(BTreeMap<String, WrittenGrantForm>),
}

/// How the value of a key in `grants:` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WrittenGrantForm {
    /// It has no value, or an empty list or mapping.
    Empty,
    /// A list with items.
    List,
    /// A mapping with entries.
    Mapping,
}

impl WrittenGrants {
    /// The value of `grants:`; none if the step does not have the key, not even without a value.
    pub(super) fn read(node: Option<&YamlNode>) -> Self {
        let Some(node) = node else { return Self::LeftOut };
        let YamlValue::Map(entries) = &node.kind else { return Self::Keys(BTreeMap::new()) };
        Self::Keys(entries.iter().map(|(key, value)| (key.text.clone(), WrittenGrantForm::of(value))).collect())
    }

    /// How a key is written; none if it is left out.
    #[must_use]
    pub fn form(&self, key: &str) -> Option<WrittenGrantForm> {
        match self {
            Self::NoPlace | Self::LeftOut => None,
            Self::Keys(keys) => keys.get(key).copied(),
        }
    }
}

impl WrittenGrantForm {
    fn of(node: &YamlNode) -> Self {
        match &node.kind {
            YamlValue::Map(entries) if !entries.is_empty() => Self::Mapping,
            YamlValue::List(items) if !items.is_empty() => Self::List,
            YamlValue::Map(_)
            | YamlValue::List(_)
            | YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Number { .. }
            | YamlValue::Text(_) => Self::Empty,
        }
    }
}
