//! What the values of a configuration are: the annotation `x-pawl-value` of a module's schema (docs/steps.md).
//!
//! The preflight checks each declared value against the step's grants. A module of anybody gets the same checks as the runner's own.
//! An `x-pawl-input` that says the same counts too. Deliberately absent: the checks, and any meaning of a word that this
//! version does not know.

use serde_json::{Map, Value};

use super::description::ModuleDescription;
use contract::text::pointer_token;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A URL that the step requests: http, https, or `unix://SOCKET/PATH`.
    HttpUrl,
    /// The method of the URL beside it; without one, it is `GET`.
    HttpMethod,
    /// `host:port`, to connect to.
    TcpAddress,
    /// A JSON pointer.
    JsonPointer,
    /// The name of a granted database.
    Database,
    /// The name of a granted directory. Without it, the step uses its only one besides those of its sources.
    DirName,
    /// A granted directory, or a path below one: `DIR` or `DIR/PATH`.
    DirPath,
    /// The same: the working directory of a program.
    WorkingDir,
    /// A path below a granted directory, without the directory's name.
    RelativePath,
    /// A list of such paths, none of which lies in another.
    SeparatePaths,
    /// `file:DIR/PATH` or a URL.
    Source,
    /// A program that is run with the `arguments` beside it, and no others.
    Program,
    /// The list of those arguments.
    Arguments,
    /// A program with its arguments, in one list.
    Command,
    /// A mapping of environment variables that the step sets for its programs.
    ProgramEnvironment,
    /// A text, or a list of texts, with `{port}` for the port of each of the slots.
    SlotText,
    /// A duration, such as `500ms`.
    Duration,
    /// A duration that one call of the module takes.
    CallDuration,
    /// The name of a step that runs before.
    EarlierStep,
    /// The versions of the program beside it that are good, such as `>=20`. The program prints its version.
    VersionRange,
}

/// A value that a schema declares.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclaredValue {
    pub kind: ValueKind,
    /// The JSON pointer to the value, also if the configuration has none there. Of a declared key, the pointer to its value.
    pub pointer: String,
    /// The JSON pointer to the object that it belongs to.
    pub object: String,
    /// The value; if it is left out, the schema's default.
    pub value: Option<Value>,
    /// Whether the step runs again when the file there changes.
    pub is_input: bool,
}

const VALUE_KINDS: &[(&str, ValueKind)] = &[
    ("http-url", ValueKind::HttpUrl),
    ("http-method", ValueKind::HttpMethod),
    ("tcp-address", ValueKind::TcpAddress),
    ("json-pointer", ValueKind::JsonPointer),
    ("database", ValueKind::Database),
    ("dir-name", ValueKind::DirName),
    ("dir-path", ValueKind::DirPath),
    ("relative-path", ValueKind::RelativePath),
    ("separate-paths", ValueKind::SeparatePaths),
    ("program", ValueKind::Program),
    ("arguments", ValueKind::Arguments),
    ("command", ValueKind::Command),
    ("program-environment", ValueKind::ProgramEnvironment),
    ("slot-text", ValueKind::SlotText),
    ("duration", ValueKind::Duration),
    ("call-duration", ValueKind::CallDuration),
    ("earlier-step", ValueKind::EarlierStep),
    ("version-range", ValueKind::VersionRange),
];

/// The values of `x-pawl-input` that also say what a value is. A program is not among them: the module may add arguments.
const INPUT_KINDS: &[(&str, ValueKind)] = &[
    ("source", ValueKind::Source),
    ("dir", ValueKind::DirPath),
    ("path", ValueKind::DirPath),
    ("file-or-dir", ValueKind::DirPath),
    ("working-dir", ValueKind::WorkingDir),
];

impl ModuleDescription {
    /// The declared values of a configuration, in the order written; those that are left out follow in their object.
    #[must_use]
    pub fn declared_values(&self, config: &Value) -> Vec<DeclaredValue> {
        let mut found = Vec::new();
        visit(&self.config, config, &Position { pointer: String::new(), object: String::new() }, &mut found);
        found
    }
}

/// Where the visit is.
struct Position {
    pointer: String,
    object: String,
}

impl Position {
    /// A member of the object here.
    fn member(&self, name: &str) -> Self {
        Self { pointer: format!("{}/{}", self.pointer, pointer_token(name)), object: self.pointer.clone() }
    }

    /// An item of the list here. It belongs to the same object as the list.
    fn item(&self, index: usize) -> Self {
        Self { pointer: format!("{}/{index}", self.pointer), object: self.object.clone() }
    }

    fn declare(&self, (kind, is_input): (ValueKind, bool), value: Option<Value>) -> DeclaredValue {
        DeclaredValue { kind, pointer: self.pointer.clone(), object: self.object.clone(), value, is_input }
    }
}

fn visit(schema: &Value, config: &Value, at: &Position, found: &mut Vec<DeclaredValue>) {
    if let Some(kind) = declared_kind(schema) {
        found.push(at.declare(kind, Some(config.clone())));
    }
    match config {
        Value::Object(members) => visit_members(schema, members, at, found),
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            items.iter().enumerate().for_each(|(index, item)| visit(schema, item, &at.item(index), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn visit_members(schema: &Value, members: &Map<String, Value>, at: &Position, found: &mut Vec<DeclaredValue>) {
    let no_properties = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&no_properties);
    let key_kind = schema.get("propertyNames").and_then(declared_kind);
    for (name, value) in members {
        let at = at.member(name);
        found.extend(key_kind.map(|kind| at.declare(kind, Some(Value::from(name.as_str())))));
        if let Some(schema) = properties.get(name).or_else(|| schema.get("additionalProperties")) {
            visit(schema, value, &at, found);
        }
    }
    for (name, schema) in properties.iter().filter(|(name, _)| !members.contains_key(*name)) {
        let default = schema.get("default").cloned();
        found.extend(declared_kind(schema).map(|kind| at.member(name).declare(kind, default)));
    }
}

/// What a schema declares, and whether the value names an input file.
fn declared_kind(schema: &Value) -> Option<(ValueKind, bool)> {
    let word = |annotation| schema.get(annotation).and_then(Value::as_str);
    let known = |kinds: &[(&str, ValueKind)], word: &str| kinds.iter().find(|(name, _)| *name == word).map(|it| it.1);
    let input = word("x-pawl-input").and_then(|word| known(INPUT_KINDS, word));
    let kind = word("x-pawl-value").and_then(|word| known(VALUE_KINDS, word)).or(input)?;
    Some((kind, matches!(input, Some(ValueKind::DirPath))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_found_with_their_objects_and_defaults() {
        let schema = json!({ "properties": {
            "in": { "x-pawl-value": "dir-name" },
            "inputs": { "items": { "x-pawl-input": "file-or-dir" } },
            "later": { "x-pawl-value": "not-invented-yet" },
            "http": { "items": { "properties": {
                "url": { "x-pawl-value": "http-url" },
                "method": { "x-pawl-value": "http-method", "default": "GET" },
                "json": { "propertyNames": { "x-pawl-value": "json-pointer" } },
            } } },
        } });
        let config = json!({
            "inputs": ["conf/app.yml"], "later": "x", "http": [{ "url": "http://h/", "json": { "a/b": 1 } }],
        });
        let description =
            json!({ "name": "x", "version": "1", "summary": "s", "phase": "check", "config": schema }).to_string();
        let found = ModuleDescription::parse(&description).unwrap().declared_values(&config);
        let short: Vec<_> =
            found.iter().map(|it| (it.kind, it.pointer.as_str(), it.object.as_str(), it.value.as_ref())).collect();
        assert_eq!(
            short,
            [
                (ValueKind::DirPath, "/inputs/0", "", Some(&json!("conf/app.yml"))),
                (ValueKind::HttpUrl, "/http/0/url", "/http/0", Some(&json!("http://h/"))),
                (ValueKind::JsonPointer, "/http/0/json/a~1b", "/http/0/json", Some(&json!("a/b"))),
                (ValueKind::HttpMethod, "/http/0/method", "/http/0", Some(&json!("GET"))),
                (ValueKind::DirName, "/in", "", None),
            ]
        );
        assert_eq!(found.iter().map(|it| it.is_input).collect::<Vec<_>>(), [true, false, false, false, false]);
    }
}
