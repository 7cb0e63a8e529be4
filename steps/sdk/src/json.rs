//! JSON text, read and written in one way everywhere: a second way would add code to every component.

use serde_json::{Map, Value};

/// Returns the members of an object; no members when the text is not an object.
#[must_use]
pub fn object(text: &str) -> Map<String, Value> {
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) => members,
        Ok(_) | Err(_) => Map::new(),
    }
}

/// Returns the compact text of a value. It never fails, because a value in memory can always be written to memory.
/// `Value`'s own `to_string` does the same with twice the code.
#[must_use]
pub fn text(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
