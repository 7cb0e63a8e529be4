//! How two values of a configuration must fit together: the annotations `x-pawl-at-most` and `x-pawl-outside` of a module's schema
//! (docs/steps.md), each on a setting, with the name of another one in the same object.

use serde_json::{Map, Value};

use super::description::ModuleDescription;
use contract::text::pointer_token;

/// How a value must fit to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// The number may not be larger than the other one.
    AtMost,
    /// The step writes to this `DIR/PATH`, which may not lie in one of the inputs that the other one lists.
    Outside,
}

/// A value that must fit to another, with both.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueRelation {
    pub kind: RelationKind,
    /// The JSON pointer to the value.
    pub pointer: String,
    /// The value, or the schema's default.
    pub value: Value,
    /// The JSON pointer to the other value.
    pub other_pointer: String,
    /// The other value, or the schema's default.
    pub other: Value,
}

const RELATIONS: [(&str, RelationKind); 2] =
    [("x-pawl-at-most", RelationKind::AtMost), ("x-pawl-outside", RelationKind::Outside)];

impl ModuleDescription {
    /// The values of a configuration that must fit to each other. A value without a default that is left out fits to any.
    #[must_use]
    pub fn value_relations(&self, config: &Value) -> Vec<ValueRelation> {
        let mut found = Vec::new();
        visit(&self.config, config, "", &mut found);
        found
    }
}

fn visit(schema: &Value, config: &Value, pointer: &str, found: &mut Vec<ValueRelation>) {
    match config {
        Value::Object(members) => {
            let no_properties = Map::new();
            let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&no_properties);
            found.extend(properties.keys().flat_map(|name| relations_of(properties, members, name, pointer)));
            for (name, value) in members {
                if let Some(schema) = properties.get(name).or_else(|| schema.get("additionalProperties")) {
                    visit(schema, value, &member(pointer, name), found);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            items.iter().enumerate().for_each(|(at, item)| visit(schema, item, &format!("{pointer}/{at}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn relations_of(
    properties: &Map<String, Value>,
    members: &Map<String, Value>,
    name: &str,
    object: &str,
) -> Vec<ValueRelation> {
    let value_of = |name: &str| members.get(name).or_else(|| properties.get(name)?.get("default")).cloned();
    let relation = |(annotation, kind): &(&str, RelationKind)| {
        let other = properties.get(name)?.get(annotation)?.as_str()?;
        Some(ValueRelation {
            kind: *kind,
            pointer: member(object, name),
            value: value_of(name)?,
            other_pointer: member(object, other),
            other: value_of(other)?,
        })
    };
    RELATIONS.iter().filter_map(relation).collect()
}

fn member(object: &str, name: &str) -> String {
    format!("{object}/{}", pointer_token(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn relations_are_found_with_defaults() {
        let schema = json!({ "properties": {
            "tries": { "type": "integer", "default": 5 },
            "checks": { "type": "array", "items": { "properties": {
                "marker": { "x-pawl-outside": "inputs" }, "inputs": {},
            } } },
            "consecutive": { "x-pawl-at-most": "tries", "default": 1 },
        } });
        let description =
            json!({ "name": "x", "version": "1", "summary": "s", "phase": "check", "config": schema }).to_string();
        let description = ModuleDescription::parse(&description).unwrap();
        let config = json!({ "consecutive": 6, "checks": [{ "marker": "a/m" }, { "marker": "a/m", "inputs": ["a"] }] });
        let found = description.value_relations(&config);
        let short: Vec<_> = found
            .iter()
            .map(|it| (it.kind, it.pointer.as_str(), &it.value, it.other_pointer.as_str(), &it.other))
            .collect();
        assert_eq!(
            short,
            [
                (RelationKind::AtMost, "/consecutive", &json!(6), "/tries", &json!(5)),
                (RelationKind::Outside, "/checks/1/marker", &json!("a/m"), "/checks/1/inputs", &json!(["a"])),
            ]
        );
    }
}
