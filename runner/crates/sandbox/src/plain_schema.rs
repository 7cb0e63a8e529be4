//! Accepts configurations by the common keywords of JSON Schema, without compiling the schema.
//!
//! Compiling and checking the schemas of four official modules takes a tenth of a small deployment, and nearly every
//! configuration is valid. Invariant: what is accepted here, [`jsonschema`] accepts too; whatever is not accepted, it
//! decides, and it words the violations.

use serde_json::{Map, Value};

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
        "$schema" | "title" | "description" | "default" => true,
        annotation if annotation.starts_with("x-") => true,
        "type" => match operand {
            Value::Array(names) => names.iter().any(|name| has_type(name, value)),
            name @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                has_type(name, value)
            }
        },
        "enum" => operand.as_array().is_some_and(|allowed| allowed.contains(value)),
        "minLength" => match (operand.as_u64(), value) {
            (Some(least), Value::String(text)) => text.chars().count() as u64 >= least,
            (Some(_) | None, _) => false,
        },
        "minimum" => value.as_i64().zip(operand.as_i64()).is_some_and(|(number, least)| number >= least),
        "maximum" => value.as_i64().zip(operand.as_i64()).is_some_and(|(number, most)| number <= most),
        "minItems" => value.as_array().zip(operand.as_u64()).is_some_and(|(items, least)| items.len() as u64 >= least),
        "items" => {
            operand.is_object() && value.as_array().is_some_and(|items| items.iter().all(|item| accepts(operand, item)))
        }
        "required" => value.as_object().zip(operand.as_array()).is_some_and(|(members, names)| {
            names.iter().all(|name| name.as_str().is_some_and(|name| members.contains_key(name)))
        }),
        "properties" => value.as_object().zip(operand.as_object()).is_some_and(|(members, properties)| {
            members.iter().all(|(name, member)| properties.get(name).is_none_or(|schema| accepts(schema, member)))
        }),
        "additionalProperties" => value.as_object().is_some_and(|members| {
            let named = keywords.get("properties").and_then(Value::as_object);
            let is_named = |name: &String| named.is_some_and(|named| named.contains_key(name));
            members.iter().all(|(name, member)| is_named(name) || accepts(operand, member))
        }),
        "anyOf" => operand.as_array().is_some_and(|schemas| schemas.iter().any(|schema| accepts(schema, value))),
        "not" => refuses(operand, value),
        // It counts with its `then`. An `else` is not accepted.
        "if" => true,
        "then" => keywords.get("if").is_none_or(|condition| refuses(condition, value)) || accepts(operand, value),
        _ => false,
    }
}

/// Whether a value certainly violates a schema.
fn refuses(schema: &Value, value: &Value) -> bool {
    let Value::Object(keywords) = schema else { return *schema == Value::Bool(false) };
    keywords.iter().any(|(keyword, operand)| match keyword.as_str() {
        "required" => value.as_object().zip(operand.as_array()).is_some_and(|(members, names)| {
            names.iter().any(|name| name.as_str().is_some_and(|name| !members.contains_key(name)))
        }),
        "properties" => value.as_object().zip(operand.as_object()).is_some_and(|(members, properties)| {
            members.iter().any(|(name, member)| properties.get(name).is_some_and(|schema| refuses(schema, member)))
        }),
        // Numbers are equal in several forms.
        "const" => !operand.is_number() && is_scalar(operand) && value != operand,
        "anyOf" => operand.as_array().is_some_and(|schemas| schemas.iter().all(|schema| refuses(schema, value))),
        _ => false,
    })
}

fn is_scalar(value: &Value) -> bool {
    !value.is_array() && !value.is_object()
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
