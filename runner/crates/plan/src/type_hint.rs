//! The value to write in place of one of the wrong type.
//!
//! Where the written value only lacks its brackets or quotes, the hint has that value; otherwise an example.

use super::yaml::{YamlNode, YamlValue};

/// Examples of mappings, by their keys.
const MAPPINGS: &[(&str, &str)] = &[
    ("steps", "{ verify: { with: { tries: 3 } } }"),
    ("setup", "{ install: { program: [./install.sh], trust: host } }"),
    ("environments", "{ test: { vars: { port: 8001 } } }"),
    ("vars", "{ port: 8001 }"),
    ("secrets", "{ TOKEN: env:DEPLOY_TOKEN }"),
    ("dirs", "{ app: ./app }"),
    ("http", "{ api: \"https://api.example.com\" }"),
    ("headers", "{ accept: application/json }"),
    ("databases", "{ main: \"sqlite:./shop.db\" }"),
    ("env", "{ LANG: C.UTF-8 }"),
    ("sockets", "{ engine: \"unix:/run/podman/podman.sock\" }"),
    ("renders", "{ conf: /etc/nginx/conf.d }"),
    ("grants", "{ dirs: { app: ./app } }"),
    ("with", "{ NAME: VALUE }"),
    ("hooks", "{ after: [{ program: [./notify.sh] }] }"),
    ("lock", "{ ttl: 30s }"),
];

/// Examples of lists, by their keys.
const LISTS: &[(&str, &str)] = &[
    ("http", "[\"https://api.example.com\"]"),
    ("tcp", "[\"db.example.com:5432\"]"),
    ("programs", "[[systemctl, restart, shop]]"),
    ("program", "[./build.sh, all]"),
    ("methods", "[GET, POST]"),
    ("before", "[{ program: [./build.sh] }]"),
    ("after", "[{ program: [./notify.sh] }]"),
    ("on-failure", "[{ program: [./notify.sh] }]"),
    ("allow", "[\"github:octocat\"]"),
    ("secrets", "[TOKEN]"),
    ("needs", "[pull]"),
];

/// The hint for a value that must be `wanted`; `what` is its name in messages, such as "`with` of step `pull`".
pub(super) fn type_hint(node: &YamlNode, what: &str, wanted: &str) -> String {
    match right_entry(node, what, wanted) {
        Some(entry) => format!("write {wanted}: `{entry}`"),
        None if wanted.contains('`') => format!("write {wanted}"),
        None => format!("write {wanted}; see docs/plan.md"),
    }
}

/// The key with a value of the right type.
fn right_entry(node: &YamlNode, what: &str, wanted: &str) -> Option<String> {
    if let Some(name) = ["step", "environment"].iter().find_map(|kind| quoted(what.strip_prefix(kind)?.trim_start())) {
        return (wanted == "a mapping").then(|| match what.starts_with("step") {
            true => format!("{name}: {{ with: {{ NAME: VALUE }} }}"),
            false => format!("{name}: {{ vars: {{ port: 8001 }} }}"),
        });
    }
    let key = quoted(what.strip_prefix("hook ").unwrap_or(what))?;
    let written = match &node.kind {
        YamlValue::Text(text) => Some(text.clone()),
        YamlValue::Number { written, .. } => Some(written.clone()),
        YamlValue::Bool(value) => Some(value.to_string()),
        YamlValue::Null | YamlValue::List(_) | YamlValue::Map(_) => None,
    };
    let example = |examples: &[(&str, &str)]| {
        examples.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
    };
    let value = match (wanted, written) {
        ("a list", Some(words)) if key == "program" => {
            let words: Vec<_> = words.split_whitespace().map(flow_scalar).collect();
            Some(format!("[{}]", words.join(", ")))
        }
        // An item of these is no text.
        ("a list", Some(_)) if ["before", "after", "on-failure"].contains(&key) => example(LISTS),
        ("a list", Some(text)) => Some(format!("[{}]", flow_scalar(&text))),
        ("a mapping", _) => example(MAPPINGS),
        ("a string", Some(text)) => Some(format!("\"{text}\"")),
        ("a number", Some(text)) if text.parse::<u64>().is_ok() => Some(text),
        ("a number", _) => Some("3".to_owned()),
        (_, _) if wanted.contains("list") => example(LISTS),
        (_, _) => None,
    };
    value.map(|value| format!("{key}: {value}"))
}

/// What stands in backticks at the beginning of a text.
fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('`')?.split('`').next()
}

/// A text as a YAML scalar in a flow list or mapping.
#[must_use]
pub fn flow_scalar(text: &str) -> String {
    let is_plain = text.starts_with(|char: char| char.is_ascii_alphabetic() || "./_".contains(char))
        && text.chars().all(|char| char.is_ascii_alphanumeric() || "_-./".contains(char))
        && !["true", "false", "null", "nan", "inf", ".nan", ".inf"].contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
