//! Accepts configurations by the common keywords of JSON Schema, without compiling the schema.
//!
//! Compiling and checking the schemas of four official modules takes a tenth of a small deployment, and nearly every
//! configuration is valid. Invariant: what is accepted here, [`jsonschema`] accepts too; whatever is not accepted, it
//! decides, and it words the violations.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The names of types.
const KNOWN_TYPES: [&str; 7] = ["object", "array", "string", "boolean", "integer", "number", "null"];

/// Whether a value certainly satisfies a schema.
pub(super) fn accepts(schema: &Value, value: &Value) -> bool {
    match schema {
        Value::Bool(is_open) => *is_open,
        Value::Object(keywords) => {
            keywords.iter().all(|(keyword, operand)| satisfies(keywords, keyword, operand, value))
        }
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => false,
    }
}

/// Whether a value certainly satisfies one keyword. `keywords` are those beside it.
fn satisfies(keywords: &Map<String, Value>, keyword: &str, operand: &Value, value: &Value) -> bool {
    match keyword {
        "$schema" | "title" | "description" | "default" | "examples" => true,
        annotation if annotation.starts_with("x-") => true,
        "type" => match operand {
            Value::Array(names) => names.iter().any(|name| has_type(name, value)),
            name @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                has_type(name, value)
            }
        },
        "const" => is_plain(operand) && value == operand,
        "enum" => operand.as_array().is_some_and(|allowed| allowed.contains(value)),
        "anyOf" => operand.as_array().is_some_and(|schemas| schemas.iter().any(|schema| accepts(schema, value))),
        "oneOf" => operand.as_array().is_some_and(|schemas| {
            let mut other = schemas.iter().filter(|schema| !refuses(schema, value));
            other.next().is_some_and(|schema| accepts(schema, value)) && other.next().is_none()
        }),
        "not" => refuses(operand, value),
        // Checked together with its `then`; a schema with `else` is left to the full validator.
        "if" => true,
        "then" => keywords.get("if").is_none_or(|condition| refuses(condition, value)) || accepts(operand, value),
        _ => match value {
            Value::String(text) => satisfies_of_string(keyword, operand, text),
            Value::Number(_) => satisfies_of_number(keyword, operand, value),
            Value::Array(items) => satisfies_of_array(keyword, operand, items),
            Value::Object(members) => satisfies_of_object(keywords, keyword, operand, members, value),
            Value::Null | Value::Bool(_) => is_of_one_type(keyword),
        },
    }
}

/// The keywords of texts, numbers, lists and objects: none says anything about a value of another type.
const TYPED_KEYWORDS: [&str; 13] = [
    "minLength",
    "pattern",
    "minimum",
    "maximum",
    "items",
    "minItems",
    "uniqueItems",
    "required",
    "properties",
    "additionalProperties",
    "dependencies",
    "minProperties",
    "propertyNames",
];

fn is_of_one_type(keyword: &str) -> bool {
    TYPED_KEYWORDS.contains(&keyword)
}

fn satisfies_of_string(keyword: &str, operand: &Value, text: &str) -> bool {
    match keyword {
        "pattern" => false,
        "minLength" => operand.as_u64().is_some_and(|least| text.chars().count() as u64 >= least),
        _ => is_of_one_type(keyword),
    }
}

fn satisfies_of_number(keyword: &str, operand: &Value, value: &Value) -> bool {
    let pair = value.as_i64().zip(operand.as_i64());
    match keyword {
        "minimum" => pair.is_some_and(|(number, least)| number >= least),
        "maximum" => pair.is_some_and(|(number, most)| number <= most),
        _ => is_of_one_type(keyword),
    }
}

fn satisfies_of_array(keyword: &str, operand: &Value, items: &[Value]) -> bool {
    match keyword {
        "minItems" => operand.as_u64().is_some_and(|least| items.len() as u64 >= least),
        "items" => operand.is_object() && items.iter().all(|item| accepts(operand, item)),
        "uniqueItems" => *operand == Value::Bool(false) || are_distinct(items),
        _ => is_of_one_type(keyword),
    }
}

fn satisfies_of_object(
    keywords: &Map<String, Value>,
    keyword: &str,
    operand: &Value,
    members: &Map<String, Value>,
    value: &Value,
) -> bool {
    match keyword {
        "required" => has_all(members, operand),
        "properties" => operand.as_object().is_some_and(|properties| {
            members.iter().all(|(name, member)| properties.get(name).is_none_or(|schema| accepts(schema, member)))
        }),
        "additionalProperties" => {
            let named = keywords.get("properties").and_then(Value::as_object);
            let is_named = |name: &String| named.is_some_and(|named| named.contains_key(name));
            members.iter().all(|(name, member)| is_named(name) || accepts(operand, member))
        }
        "dependencies" => operand.as_object().is_some_and(|dependencies| {
            let mut needed = dependencies.iter().filter(|(name, _)| members.contains_key(*name));
            needed.all(|(_, needs)| if needs.is_array() { has_all(members, needs) } else { accepts(needs, value) })
        }),
        "minProperties" => operand.as_u64().is_some_and(|least| members.len() as u64 >= least),
        "propertyNames" => members.keys().all(|name| accepts(operand, &Value::from(name.as_str()))),
        _ => is_of_one_type(keyword),
    }
}

/// Whether an object has all members of a list of names.
fn has_all(members: &Map<String, Value>, names: &Value) -> bool {
    let is_there = |name: &Value| name.as_str().is_some_and(|name| members.contains_key(name));
    names.as_array().is_some_and(|names| names.iter().all(is_there))
}

/// Whether items are texts, no two of them equal.
fn are_distinct(items: &[Value]) -> bool {
    let mut seen = BTreeSet::new();
    items.iter().all(|item| item.as_str().is_some_and(|text| seen.insert(text)))
}

/// Whether a value certainly violates a schema.
fn refuses(schema: &Value, value: &Value) -> bool {
    let Value::Object(keywords) = schema else { return *schema == Value::Bool(false) };
    // Draft 7 ignores what stands next to a reference.
    if keywords.contains_key("$ref") {
        return false;
    }
    keywords.iter().any(|(keyword, operand)| match keyword.as_str() {
        "required" => value.as_object().zip(operand.as_array()).is_some_and(|(members, names)| {
            names.iter().any(|name| name.as_str().is_some_and(|name| !members.contains_key(name)))
        }),
        "properties" => value.as_object().zip(operand.as_object()).is_some_and(|(members, properties)| {
            members.iter().any(|(name, member)| properties.get(name).is_some_and(|schema| refuses(schema, member)))
        }),
        "type" => match operand {
            Value::Array(names) => names.iter().all(|name| lacks_type(name, value)),
            name @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                lacks_type(name, value)
            }
        },
        "const" => is_plain(operand) && value != operand,
        "anyOf" => operand.as_array().is_some_and(|schemas| schemas.iter().all(|schema| refuses(schema, value))),
        _ => false,
    })
}

/// Whether a value is equal to no other form of itself. A number may be.
fn is_plain(value: &Value) -> bool {
    value.is_string() || value.is_boolean() || value.is_null()
}

fn has_type(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("null") => value.is_null(),
        Some(_) | None => false,
    }
}

/// Whether a value certainly has another type. A number with a point may be an integer.
fn lacks_type(name: &Value, value: &Value) -> bool {
    let is_known = name.as_str().is_some_and(|name| KNOWN_TYPES.contains(&name));
    is_known && !value.is_f64() && !has_type(name, value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Schemas of one keyword, and of what belongs together.
    fn schemas() -> Vec<Value> {
        let texts = json!({ "type": "string", "minLength": 2 });
        vec![
            json!({ "type": "string" }),
            json!({ "type": ["integer", "null"] }),
            json!({ "type": "number" }),
            json!({ "type": "object" }),
            json!({ "type": "array" }),
            json!({ "type": "boolean", "x-pawl-value": "dir-name", "default": true }),
            json!({ "enum": ["a", "ab", 1, null] }),
            json!({ "minLength": 2 }),
            json!({ "minimum": 1, "maximum": 2 }),
            json!({ "minimum": 1.5 }),
            json!({ "minItems": 1 }),
            json!({ "items": texts }),
            json!({ "items": true }),
            json!({ "required": ["a"] }),
            json!({ "properties": { "a": texts, "b": false } }),
            json!({ "additionalProperties": false }),
            json!({ "additionalProperties": texts }),
            json!({ "pattern": "^a" }),
            json!({ "not": { "type": "object" } }),
            json!({ "not": { "required": ["b"] } }),
            json!({ "not": { "anyOf": [{ "required": ["a"] }, { "properties": { "b": { "const": "ab" } } }] } }),
            json!({ "anyOf": [{ "required": ["a"] }, { "required": ["b"] }] }),
            json!({ "anyOf": [{ "const": "a" }, { "type": "object" }] }),
            json!({ "if": { "required": ["a"], "properties": { "a": { "const": "a" } } }, "then": { "properties": { "c": false } } }),
            json!({ "if": { "const": 1 }, "then": false }),
            json!({ "if": { "const": null }, "else": false }),
            json!({ "propertyNames": { "maxLength": 1 } }),
            json!({ "uniqueItems": true }),
            json!({ "uniqueItems": false }),
            json!({ "const": "ab" }),
            json!({ "const": 1 }),
            json!({ "not": { "$ref": "#/definitions/any", "type": "string" }, "definitions": { "any": {} } }),
            json!({ "minProperties": 2 }),
            json!({ "propertyNames": { "enum": ["a", "b"] } }),
            json!({ "dependencies": { "a": ["cc"], "b": { "required": ["c"] } } }),
            json!({ "oneOf": [{ "type": "string" }, { "type": "integer" }, { "required": ["a"] }] }),
            json!({ "oneOf": [{ "required": ["a"] }, { "required": ["b"] }, { "type": "object" }] }),
            json!({ "oneOf": [{ "properties": { "a": { "const": "a" } }, "type": "object" }, { "type": "number" }] }),
        ]
    }

    fn values() -> Vec<Value> {
        vec![
            json!(null),
            json!(true),
            json!(0),
            json!(1),
            json!(1.0),
            json!(1.75),
            json!(u64::MAX),
            json!(""),
            json!("a"),
            json!("ab"),
            json!("\u{1f600}"),
            json!([]),
            json!(["ab"]),
            json!(["ab", "ab"]),
            json!(["a", 1]),
            json!({}),
            json!({ "a": "ab" }),
            json!({ "a": "a" }),
            json!({ "b": "ab" }),
            json!({ "c": "ab" }),
            json!({ "a": "ab", "cc": "ab" }),
            json!({ "b": "ab", "c": 1 }),
        ]
    }

    /// Each two schemas in one, with each value.
    #[test]
    fn what_is_accepted_is_valid() {
        let (mut accepted, mut valid) = (0, 0);
        for first in schemas() {
            for second in schemas() {
                let mut both = first.as_object().unwrap().clone();
                both.extend(second.as_object().unwrap().clone());
                both.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
                let schema = Value::Object(both);
                let validator = jsonschema::validator_for(&schema).unwrap();
                for value in values() {
                    let is_valid = validator.is_valid(&value);
                    valid += usize::from(is_valid);
                    if accepts(&schema, &value) {
                        accepted += 1;
                        assert!(is_valid, "{schema} does not accept {value}");
                    }
                }
            }
        }
        assert!(accepted > 200, "{accepted} of {valid}");
    }
}
