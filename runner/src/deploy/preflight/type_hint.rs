//! The value to write in place of one that the module's schema refuses for its type.

use contract::text::dotted_pointer;
use plan::flow_scalar;
use serde_json::Value;

/// The hint for the value at a pointer into `with`; none if its type is not what is wrong.
pub(super) fn type_hint(schema: &Value, with: &Value, pointer: &str) -> Option<String> {
    let schema = schema_at(schema, pointer)?;
    let written = with.pointer(pointer)?;
    let wanted = schema.get("type")?.as_str()?;
    let (what, value) = match (wanted, written) {
        ("array", Value::Array(_))
        | ("object", Value::Object(_))
        | ("string", Value::String(_))
        | ("boolean", Value::Bool(_))
        | ("integer" | "number", Value::Number(_)) => return None,
        ("array", Value::Object(_)) => ("a list", "[{ … }]".to_owned()),
        ("array", Value::Null) => ("a list", "[…]".to_owned()),
        ("array", scalar) => ("a list", format!("[{}]", scalar_text(scalar)?)),
        ("object", _) => ("a mapping", format!("{{ {}: … }}", first_key(schema))),
        ("string", _)
            if schema.get("x-pawl-value").is_some_and(|kind| kind == "duration" || kind == "call-duration") =>
        {
            let default = schema.get("default").and_then(Value::as_str).unwrap_or("5s").to_owned();
            let seconds = written.as_u64().map(|seconds| format!("{seconds}s"));
            ("a duration", seconds.unwrap_or(default))
        }
        ("string", Value::Number(number)) => ("a string", format!("\"{number}\"")),
        ("string", Value::Bool(value)) => ("a string", format!("\"{value}\"")),
        ("string", _) => ("a string", "\"…\"".to_owned()),
        ("boolean", _) => ("`true` or `false`", "true".to_owned()),
        ("integer" | "number", Value::String(text)) if text.parse::<f64>().is_ok() => ("a number", text.clone()),
        ("integer" | "number", _) => ("a number", "3".to_owned()),
        _ => return None,
    };
    let path = dotted_pointer(pointer);
    let key = path.rsplit('.').next().unwrap_or_default();
    // An item of a list has no key.
    Some(match key.parse::<usize>() {
        Ok(_) => format!("write {what}: `{value}`"),
        Err(_) => format!("write {what}: `{key}: {value}`"),
    })
}

/// The schema of the value at a pointer.
fn schema_at<'s>(schema: &'s Value, pointer: &str) -> Option<&'s Value> {
    pointer.split('/').skip(1).try_fold(schema, |schema, token| {
        let name = token.replace("~1", "/").replace("~0", "~");
        let property = schema.get("properties").and_then(|properties| properties.get(&name));
        property.or_else(|| schema.get("items")).or_else(|| schema.get("additionalProperties"))
    })
}

/// A key that the mapping must have, or may have.
fn first_key(schema: &Value) -> &str {
    let required = schema.get("required").and_then(|names| names.get(0)?.as_str());
    let properties = schema.get("properties").and_then(Value::as_object);
    required.or_else(|| properties?.keys().next().map(String::as_str)).unwrap_or("NAME")
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(flow_scalar(text)),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::type_hint;

    #[test]
    fn hint_has_the_value_that_was_meant() {
        let schema = json!({ "properties": {
            "args": { "type": "array", "items": { "type": "string" } },
            "http": { "type": "array", "items": { "type": "object", "required": ["url"], "properties": { "status": { "type": "integer" } } } },
            "env": { "type": "object" },
            "tty": { "type": "boolean" },
            "interval": { "type": "string", "default": "1s", "x-pawl-value": "duration" },
        } });
        for (with, pointer, hint) in [
            (json!({ "args": "--all" }), "/args", Some("write a list: `args: [\"--all\"]`")),
            (json!({ "args": ["a", 1] }), "/args/1", Some("write a string: `\"1\"`")),
            (json!({ "http": { "url": "x" } }), "/http", Some("write a list: `http: [{ … }]`")),
            (json!({ "http": ["x"] }), "/http/0", Some("write a mapping: `{ url: … }`")),
            (json!({ "http": [{ "status": "200" }] }), "/http/0/status", Some("write a number: `status: 200`")),
            (json!({ "env": [] }), "/env", Some("write a mapping: `env: { NAME: … }`")),
            (json!({ "tty": "yes" }), "/tty", Some("write `true` or `false`: `tty: true`")),
            (json!({ "tty": true }), "/tty", None),
            (json!({ "interval": 3 }), "/interval", Some("write a duration: `interval: 3s`")),
            (json!({ "interval": true }), "/interval", Some("write a duration: `interval: 1s`")),
            (json!({ "more": 1 }), "/more", None),
        ] {
            assert_eq!(type_hint(&schema, &with, pointer).as_deref(), hint, "{pointer}");
        }
    }
}
