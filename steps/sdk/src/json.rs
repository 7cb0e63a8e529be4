//! JSON text, read and written in one way everywhere: each other way would be more code in every component.

use serde_json::{Map, Value};

/// The members of an object; none, when the text is no object.
#[must_use]
pub fn object(text: &str) -> Map<String, Value> {
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) => members,
        Ok(_) | Err(_) => Map::new(),
    }
}

/// The compact text of a value, which is always there: a value in memory can be written to memory. `Value`'s own
/// `to_string` does the same with twice the code.
#[must_use]
pub fn text(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
