//! The comparison of expected and found values. Pure: values in, the difference out.

use pawl_step::{database, json};
use serde_json::Value;

use crate::check::{FileCheck, HttpCheck};

/// The largest number of characters of a text in a message.
const MAX_SHOWN_CHARS: usize = 200;

/// A failed check: its label, the expectation, and what it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckMismatch {
    pub(crate) check: String,
    pub(crate) expected: String,
    pub(crate) found: String,
}

/// Returns the expected response in words.
pub(crate) fn http_expectation(check: &HttpCheck) -> String {
    let mut parts = vec![format!("status {}", check.status)];
    parts.extend(check.contains.iter().map(|text| format!("a body that contains `{}`", shorten(text))));
    parts.extend(check.json.iter().map(|(pointer, value)| format!("{} at `{pointer}`", json::text(value))));
    parts.join(", ")
}

/// Returns the difference of a response, or `None` when it is as expected.
pub(crate) fn http_mismatch(check: &HttpCheck, status: u16, body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    if status != check.status {
        return Some(if text.trim().is_empty() {
            format!("status {status}")
        } else {
            format!("status {status} with `{}`", shorten(&text))
        });
    }
    if check.contains.as_ref().is_some_and(|wanted| !text.contains(wanted.as_str())) {
        return Some(format!("`{}`", shorten(&text)));
    }
    if check.json.is_empty() {
        return None;
    }
    let Ok(document) = serde_json::from_str::<Value>(&text) else {
        return Some(format!("not JSON: `{}`", shorten(&text)));
    };
    let wrong: Vec<_> = check
        .json
        .iter()
        .filter_map(|(pointer, wanted)| match document.pointer(pointer) {
            Some(found) if json_equal(wanted, found) => None,
            Some(found) => Some(format!("{} at `{pointer}`", shorten(&json::text(found)))),
            None => Some(format!("nothing at `{pointer}`")),
        })
        .collect();
    (!wrong.is_empty()).then(|| wrong.join(", "))
}

/// Returns the expected file in words.
pub(crate) fn file_expectation(check: &FileCheck) -> String {
    if !check.exists {
        return "no such file".to_owned();
    }
    let mut parts: Vec<_> = check.equals.iter().map(|text| format!("the content `{}`", shorten(text.trim()))).collect();
    parts.extend(check.contains.iter().map(|text| format!("a file that contains `{}`", shorten(text))));
    if parts.is_empty() { "a file or folder".to_owned() } else { parts.join(", ") }
}

/// Returns the difference of a content, or `None` when it is as expected.
pub(crate) fn content_mismatch(check: &FileCheck, content: &str) -> Option<String> {
    let is_equal = check.equals.as_ref().is_none_or(|wanted| wanted.trim() == content.trim());
    let is_containing = check.contains.as_ref().is_none_or(|wanted| content.contains(wanted.as_str()));
    (!is_equal || !is_containing).then(|| format!("`{}`", shorten(content.trim())))
}

/// Returns the difference of a query result, or `None` when it is as expected.
pub(crate) fn sql_mismatch(wanted: &Value, found: Option<&database::Value>) -> Option<String> {
    let Some(found) = found else { return Some("no row".to_owned()) };
    let found = match found {
        database::Value::Null => Value::Null,
        database::Value::Boolean(value) => Value::Bool(*value),
        // SQLite has no booleans.
        database::Value::Integer(value) if wanted.is_boolean() && matches!(value, 0 | 1) => Value::Bool(*value == 1),
        database::Value::Integer(value) => Value::from(*value),
        database::Value::Real(value) => Value::from(*value),
        database::Value::Text(text) => Value::String(text.clone()),
        database::Value::Blob(bytes) => return Some(format!("a blob of {} bytes", bytes.len())),
    };
    (!json_equal(wanted, &found)).then(|| shorten(&json::text(&found)))
}

/// Returns the first characters of a text on one line, to show inside a message.
pub(crate) fn shorten(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines.join(" ");
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Returns whether two JSON values are equal; 1 and 1.0 are the same number.
fn json_equal(wanted: &Value, found: &Value) -> bool {
    match (wanted.as_f64(), found.as_f64()) {
        (Some(wanted_number), Some(found_number)) => wanted == found || wanted_number.total_cmp(&found_number).is_eq(),
        (None, None) => wanted == found,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[test]
    fn http_mismatch_reports_status_body_and_json() {
        let check =
            HttpCheck::deserialize(json!({ "url": "u", "contains": "ok", "json": { "/db/ready": true, "/n": 1 } }))
                .unwrap();
        assert_eq!(http_expectation(&check), "status 200, a body that contains `ok`, true at `/db/ready`, 1 at `/n`");
        for (status, body, found) in [
            (200, r#"{"ok":1,"db":{"ready":true},"n":1.0}"#, None),
            (503, "", Some("status 503")),
            (503, " down \n", Some("status 503 with `down`")),
            (200, r#"{"db":{"ready":true},"n":1}"#, Some(r#"`{"db":{"ready":true},"n":1}`"#)),
            (200, "ok", Some("not JSON: `ok`")),
            (200, r#"{"ok":1,"db":{"ready":"true"}}"#, Some("\"true\" at `/db/ready`, nothing at `/n`")),
        ] {
            assert_eq!(http_mismatch(&check, status, body.as_bytes()).as_deref(), found, "{body}");
        }
    }

    #[test]
    fn long_bodies_are_shortened_at_a_character_boundary() {
        let found = shorten(&"ü".repeat(300));
        assert_eq!(found.chars().count(), 201);
        assert!(found.ends_with('…'));
        assert_eq!(shorten(&"x".repeat(200)), "x".repeat(200));
        assert_eq!(shorten("<p>\n\n  down\n</p>\n"), "<p> down </p>");
    }

    #[test]
    fn sql_mismatch_compares_values() {
        for (wanted, found, expected) in [
            (json!(3), Some(database::Value::Integer(3)), None),
            (json!(3.0), Some(database::Value::Integer(3)), None),
            (json!(true), Some(database::Value::Integer(1)), None),
            (json!("3"), Some(database::Value::Integer(3)), Some("3")),
            (json!(null), Some(database::Value::Null), None),
            (json!("a"), Some(database::Value::Text("b".into())), Some("\"b\"")),
            (json!(0), Some(database::Value::Blob(vec![0; 7])), Some("a blob of 7 bytes")),
            (json!(null), None, Some("no row")),
        ] {
            assert_eq!(sql_mismatch(&wanted, found.as_ref()).as_deref(), expected, "{wanted}");
        }
    }
}
