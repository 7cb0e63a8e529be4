//! The secrets that a step is granted.

use std::{collections::BTreeMap, ops::Range};

use super::GrantReader;
use crate::{
    SecretAccess, SecretGrant, fields,
    yaml::{YamlNode, YamlValue},
};
impl GrantReader<'_> {
    /// Reads a list of names to use, or a mapping from names to `use` or `reveal`.
    pub(super) fn secrets(&mut self, node: &YamlNode) -> BTreeMap<String, SecretGrant> {
        let mut granted = BTreeMap::new();
        match &node.kind {
            YamlValue::Map(entries) => {
                let choices = [("use", SecretAccess::Use), ("reveal", SecretAccess::Reveal)];
                for (key, node) in entries {
                    let access = fields::choice(node, &format!("secret `{}`", key.text), &choices, self.problems);
                    granted.extend(access.and_then(|access| self.secret(&key.text, &key.span, access)));
                }
            }
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Number { .. }
            | YamlValue::Text(_)
            | YamlValue::List(_) => {
                for item in fields::list(node, "`secrets`", self.problems).unwrap_or_default() {
                    let name = fields::literal(item, "a secret's name", self.problems);
                    granted.extend(name.and_then(|name| self.secret(name, &item.span, SecretAccess::Use)));
                }
            }
        }
        granted
    }

    fn secret(&mut self, name: &str, span: &Range<usize>, access: SecretAccess) -> Option<(String, SecretGrant)> {
        let value = self.scope.secret(name, span, self.problems)?;
        Some((name.to_owned(), SecretGrant { value, access }))
    }
}
