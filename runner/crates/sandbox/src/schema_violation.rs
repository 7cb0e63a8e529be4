//! What is wrong with a configuration by its schema, in the words of the plan's author.
//!
//! Invariant: no text shows the schema itself. Deliberately absent: which value of another type was meant, which the preflight
//! tells.

use jsonschema::{ValidationError, error::ValidationErrorKind};
use plan::{closest_match, quoted_list};
use serde_json::Value;

use contract::text::pointer_token;

/// A configuration value that violates the schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaViolation {
    /// The JSON pointer to the value.
    pub pointer: String,
    /// Whether its key is what is wrong.
    pub is_key: bool,
    /// The violation.
    pub message: String,
    /// What to write instead, if the schema tells.
    pub hint: Option<String>,
    /// Of an unknown setting, the settings that are possible there.
    pub known_settings: Vec<String>,
    /// If the violation is that a setting is missing: that one, or several of which one is enough.
    pub missing_settings: Vec<String>,
}

/// Converts a schema error: each unknown key gets its own position.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of jsonschema")]
pub(super) fn violations_of(error: &ValidationError<'_>, schema: &Value) -> Vec<SchemaViolation> {
    let (pointer, path) = (error.instance_path().to_string(), error.schema_path().to_string());
    let written = error.instance();
    // The schema of the value, and the keyword in it.
    let (value_path, _) = path.rsplit_once('/').unwrap_or_default();
    let value_schema = schema.pointer(value_path).unwrap_or(&Value::Null);
    let meaning = || meaning(&pointer, value_schema);
    let violation = |message: String, hint: Option<String>| {
        vec![SchemaViolation { pointer: pointer.clone(), message, hint, ..SchemaViolation::default() }]
    };
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let known: Vec<String> = properties_of(value_schema).map(|(name, _)| name.clone()).collect();
            let unknown = |name: &String| SchemaViolation {
                pointer: format!("{pointer}/{}", pointer_token(name)),
                is_key: true,
                message: "unknown setting".to_owned(),
                known_settings: known.clone(),
                ..SchemaViolation::default()
            };
            unexpected.iter().map(unknown).collect()
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().map_or_else(|| property.to_string(), str::to_owned);
            let message = format!("`{name}` is missing");
            let hint = needed_hint(schema, &path, &name);
            vec![SchemaViolation { pointer, message, hint, missing_settings: vec![name], ..SchemaViolation::default() }]
        }
        ValidationErrorKind::AnyOf { .. } => match missing_of(value_schema) {
            Some(missing) => {
                let names = || missing.iter().map(String::as_str);
                let message = format!("at least one of {} is needed", quoted_list(names()));
                let example = missing.first().map(|name| {
                    let (_, property) = properties_of(value_schema).find(|(known, _)| *known == name)?;
                    Some(format!("add one, such as `{name}: {}`", example(property)))
                });
                let hint = example.flatten();
                vec![SchemaViolation {
                    pointer,
                    message,
                    hint,
                    missing_settings: missing,
                    ..SchemaViolation::default()
                }]
            }
            None => match form_violation(&pointer, value_schema, written) {
                Some(found) => vec![found],
                None => violation("it does not have any of the expected forms".to_owned(), meaning()),
            },
        },
        ValidationErrorKind::Not { .. } => {
            let together = refused_together(value_schema.get("not").unwrap_or(&Value::Null), written);
            match together.as_slice() {
                [.., last] => vec![used_together(&pointer, together.iter().map(String::as_str), last)],
                [] => violation("this combination is not allowed".to_owned(), meaning()),
            }
        }
        ValidationErrorKind::FalseSchema => {
            let (message, hint) = match condition_of(schema, &path) {
                Some(condition) => {
                    (format!("it can't be used with `{condition}`"), format!("remove it, or `{condition}`"))
                }
                None => ("it can't be used here".to_owned(), "remove it".to_owned()),
            };
            vec![SchemaViolation { pointer, is_key: true, message, hint: Some(hint), ..SchemaViolation::default() }]
        }
        ValidationErrorKind::Enum { options } => {
            let options: Vec<&str> = options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let near = written.as_str().and_then(|text| closest_match(text, options.iter().copied()));
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("use one of {}", quoted_list(options.iter().copied())),
            };
            violation(format!("{} is not allowed here", shown(written)), Some(hint))
        }
        ValidationErrorKind::Minimum { .. } => violation(format!("{written} is too small"), limits_hint(value_schema)),
        ValidationErrorKind::Maximum { .. } => violation(format!("{written} is too large"), limits_hint(value_schema)),
        ValidationErrorKind::Pattern { .. }
        | ValidationErrorKind::OneOfNotValid { .. }
        | ValidationErrorKind::OneOfMultipleValid { .. } => {
            violation(format!("{} does not have the expected form", shown(written)), meaning())
        }
        ValidationErrorKind::PropertyNames { error } => {
            vec![SchemaViolation {
                pointer: format!("{pointer}/{}", pointer_token(error.instance().as_str().unwrap_or_default())),
                is_key: true,
                message: format!("{} is not allowed as a name here", shown(error.instance())),
                hint: path
                    .rsplit_once("/propertyNames")
                    .and_then(|(object_path, _)| self::meaning(&pointer, schema.pointer(object_path)?)),
                ..SchemaViolation::default()
            }]
        }
        ValidationErrorKind::MinLength { limit: 1 } | ValidationErrorKind::MinItems { limit: 1 } => {
            violation("it is empty".to_owned(), meaning())
        }
        ValidationErrorKind::MinProperties { limit } | ValidationErrorKind::MinItems { limit } => {
            violation(format!("it has fewer than {limit} entries"), meaning())
        }
        ValidationErrorKind::UniqueItems => {
            let items = written.as_array().map(Vec::as_slice).unwrap_or_default();
            match (1..items.len()).find(|at| items[..*at].contains(&items[*at])) {
                Some(at) => vec![SchemaViolation {
                    pointer: format!("{pointer}/{at}"),
                    message: format!("{} is in the list already", shown(&items[at])),
                    hint: Some("remove it".to_owned()),
                    ..SchemaViolation::default()
                }],
                None => violation("an item is in the list twice".to_owned(), Some("remove one".to_owned())),
            }
        }
        // The library's text is clear enough for the rest.
        _ => violation(error.to_string(), None),
    }
}

fn properties_of(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

/// The names in a `required`.
fn required_of(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The settings of which an `anyOf` requires one; none if it says something else.
fn missing_of(schema: &Value) -> Option<Vec<String>> {
    let alternatives = schema.get("anyOf")?.as_array()?.iter();
    alternatives
        .map(|alternative| match required_of(alternative).collect::<Vec<_>>().as_slice() {
            [name] => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

/// What an `anyOf` of forms lacks, each form with settings that it requires, and others that it refuses.
fn form_violation(pointer: &str, schema: &Value, written: &Value) -> Option<SchemaViolation> {
    let forms: Vec<&Value> = schema.get("anyOf")?.as_array()?.iter().collect();
    let is_written = |name: &str| written.get(name).is_some();
    let begun: Vec<&&Value> = forms.iter().filter(|form| required_of(form).any(is_written)).collect();
    match begun.as_slice() {
        [] => {
            let alternatives = forms.iter().map(|form| {
                let names: Vec<_> = required_of(form).map(|name| format!("`{name}`")).collect();
                (!names.is_empty()).then(|| names.join(" and "))
            });
            let message = format!("it needs {}", alternatives.collect::<Option<Vec<_>>>()?.join(", or "));
            Some(SchemaViolation { pointer: pointer.to_owned(), message, ..SchemaViolation::default() })
        }
        [form] => {
            let missing: Vec<String> = required_of(form).filter(|name| !is_written(name)).map(str::to_owned).collect();
            let message = format!("{} is missing", missing.first().map(|name| format!("`{name}`"))?);
            Some(SchemaViolation {
                pointer: pointer.to_owned(),
                message,
                missing_settings: missing,
                ..SchemaViolation::default()
            })
        }
        [form, ..] => {
            let is_refused = |name: &str| form.get("properties").is_some_and(|known| known[name] == false);
            let names = written.as_object()?.keys().filter(|name| is_refused(name));
            let own = required_of(form).find(|name| is_written(name))?;
            let together: Vec<&str> = std::iter::once(own).chain(names.map(String::as_str)).collect();
            let [_, .., last] = together.as_slice() else { return None };
            Some(used_together(pointer, together.iter().copied(), last))
        }
    }
}

/// Settings that exclude each other; the last one is marked.
fn used_together<'a>(pointer: &str, names: impl IntoIterator<Item = &'a str>, last: &str) -> SchemaViolation {
    SchemaViolation {
        pointer: format!("{pointer}/{}", pointer_token(last)),
        is_key: true,
        message: format!("{} can't be used together", quoted_list(names)),
        hint: Some("keep one of them, and remove the others".to_owned()),
        ..SchemaViolation::default()
    }
}

/// The settings that a `not` refuses together, in the order written.
fn refused_together(not: &Value, written: &Value) -> Vec<String> {
    let alternatives: Vec<&Value> = match not.get("anyOf").and_then(Value::as_array) {
        Some(alternatives) => alternatives.iter().collect(),
        None => vec![not],
    };
    let is_written = |name: &str| written.get(name).is_some();
    let refused: Vec<&str> = alternatives
        .into_iter()
        .filter(|alternative| required_of(alternative).all(is_written))
        .flat_map(required_of)
        .collect();
    let names = written.as_object().into_iter().flat_map(|members| members.keys());
    names.filter(|name| refused.contains(&name.as_str())).cloned().collect()
}

/// The `if` of a schema in its `then`, as a plan says it: `exists: false`.
fn condition_of(schema: &Value, path: &str) -> Option<String> {
    let (object, _) = path.rsplit_once("/then/")?;
    let object = object.strip_suffix("/if").unwrap_or(object);
    let condition = schema.pointer(object)?.get("if")?;
    let (name, value) = properties_of(condition).find_map(|(name, value)| Some((name, value.get("const")?)))?;
    Some(format!("{name}: {value}"))
}

/// What a setting is that the `then` of a schema requires.
fn needed_hint(schema: &Value, path: &str, name: &str) -> Option<String> {
    let (object, _) = path.strip_suffix("/required")?.rsplit_once("/then")?;
    let object = object.strip_suffix("/if").unwrap_or(object);
    let (_, property) = properties_of(schema.pointer(object)?).find(|(known, _)| *known == name)?;
    Some(format!("add {}", meaning(name, property)?))
}

fn limits_hint(schema: &Value) -> Option<String> {
    match (schema.get("minimum"), schema.get("maximum")) {
        (Some(least), Some(most)) => Some(format!("write a number from {least} to {most}")),
        (Some(least), None) => Some(format!("write {least} or more")),
        (None, Some(most)) => Some(format!("write {most} or less")),
        (None, None) => None,
    }
}

/// What a setting is, by the first sentence of its description.
fn meaning(pointer: &str, schema: &Value) -> Option<String> {
    let description = schema.get("description")?.as_str()?;
    let sentence = description.split(". ").next().unwrap_or(description).trim_end_matches('.');
    let mut letters = sentence.chars();
    let first = letters.next()?.to_lowercase();
    let name = pointer.rsplit('/').find(|token| token.parse::<usize>().is_err()).unwrap_or_default();
    Some(format!("`{name}`: {first}{}", letters.as_str()))
}

/// A value as the plan has it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => format!("`{value}`"),
    }
}

/// The outline of a value.
fn example(schema: &Value) -> String {
    match schema.get("type").and_then(Value::as_str) {
        Some("array") => format!("[{}]", schema.get("items").map_or_else(|| "…".to_owned(), example)),
        Some("object") => {
            let members: Vec<_> = required_of(schema).map(|name| format!("{name}: …")).collect();
            format!("{{ {} }}", if members.is_empty() { "…".to_owned() } else { members.join(", ") })
        }
        Some(_) | None => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Pointer, message and hint of each violation.
    fn violations(schema: &Value, config: &Value) -> Vec<(String, String, Option<String>)> {
        let validator = jsonschema::validator_for(schema).unwrap();
        let found = validator.iter_errors(config).flat_map(|error| violations_of(&error, schema));
        found.map(|found| (found.pointer, found.message, found.hint)).collect()
    }

    #[test]
    fn each_violation_says_what_to_write() {
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "format": { "enum": ["auto", "sqlx", "dbmate"] },
                "status": { "type": "integer", "minimum": 100, "maximum": 599 },
                "tries": { "type": "integer", "minimum": 1 },
                "digest": { "description": "The archive's digest, `sha256:<64 hex digits>`. By default, it is read.", "type": "string", "pattern": "^sha256:[0-9a-f]{64}$" },
                "name": { "description": "The name.", "type": "string", "minLength": 1 },
                "skip": { "type": "array", "items": { "enum": ["a-rule", "b-rule"] }, "uniqueItems": true },
                "http": { "type": "array", "items": { "type": "object", "required": ["url"] } },
                "tcp": { "type": "array", "items": { "type": "string" } },
                "files": { "type": "array", "items": {
                    "if": { "required": ["exists"], "properties": { "exists": { "const": false } } },
                    "then": { "properties": { "equals": false } },
                } },
                "marker": {}, "creates": {}, "probe": {},
            },
            "not": { "anyOf": [{ "required": ["creates", "probe"] }, { "required": ["creates", "marker"] }] },
            "anyOf": [{ "required": ["http"], "properties": { "http": { "minItems": 1 } } }, { "required": ["tcp"] }],
        });
        for (config, pointer, message, hint) in [
            (json!({ "format": "sqlxx" }), "/format", "`sqlxx` is not allowed here", "did you mean `sqlx`?"),
            (json!({ "format": 7 }), "/format", "`7` is not allowed here", "use one of `auto`, `sqlx`, `dbmate`"),
            (json!({ "status": 600 }), "/status", "600 is too large", "write a number from 100 to 599"),
            (json!({ "tries": 0 }), "/tries", "0 is too small", "write 1 or more"),
            (
                json!({ "digest": "sha256:abc" }),
                "/digest",
                "`sha256:abc` does not have the expected form",
                "`digest`: the archive's digest, `sha256:<64 hex digits>`",
            ),
            (json!({ "name": "" }), "/name", "it is empty", "`name`: the name"),
            (
                json!({ "skip": ["a-rule", "b-rul"] }),
                "/skip/1",
                "`b-rul` is not allowed here",
                "did you mean `b-rule`?",
            ),
            (json!({ "skip": ["a-rule", "a-rule"] }), "/skip/1", "`a-rule` is in the list already", "remove it"),
            (
                json!({ "files": [{ "exists": false, "equals": "y" }] }),
                "/files/0/equals",
                "it can't be used with `exists: false`",
                "remove it, or `exists: false`",
            ),
            (
                json!({ "marker": 1, "creates": 2 }),
                "/creates",
                "`marker`, `creates` can't be used together",
                "keep one of them, and remove the others",
            ),
        ] {
            let mut config = config;
            config["tcp"] = json!(["h:1"]);
            let expected = (pointer.to_owned(), message.to_owned(), Some(hint.to_owned()));
            assert_eq!(violations(&schema, &config), [expected], "{config}");
        }
        for config in [json!({}), json!({ "http": [] })] {
            let message = "at least one of `http`, `tcp` is needed".to_owned();
            let hint = Some("add one, such as `http: [{ url: … }]`".to_owned());
            assert_eq!(violations(&schema, &config), [(String::new(), message, hint)], "{config}");
        }
    }

    #[test]
    fn each_form_says_what_it_lacks() {
        let schema = json!({
            "properties": {
                "slots": { "description": "The slots by their names, two or more. More.", "minProperties": 2, "propertyNames": { "pattern": "^[a-z]+$" } },
                "command": { "description": "The program with its arguments.", "oneOf": [{ "type": "string" }, { "type": "array" }] },
            },
            "anyOf": [
                { "required": ["stop"], "properties": { "program": false, "ready": false } },
                { "required": ["program", "ready"], "properties": { "stop": false } },
            ],
        });
        let slots = Some("`slots`: the slots by their names, two or more".to_owned());
        for (config, pointer, message, hint) in [
            (json!({}), "", "it needs `stop`, or `program` and `ready`", None),
            (json!({ "program": 1 }), "", "`ready` is missing", None),
            (
                json!({ "program": 1, "ready": 1, "stop": 1 }),
                "/ready",
                "`stop`, `program`, `ready` can't be used together",
                Some("keep one of them, and remove the others".to_owned()),
            ),
            (json!({ "stop": 1, "slots": { "a": 1 } }), "/slots", "it has fewer than 2 entries", slots.clone()),
            (json!({ "stop": 1, "slots": { "a": 1, "B": 1 } }), "/slots/B", "`B` is not allowed as a name here", slots),
            (
                json!({ "stop": 1, "command": 5 }),
                "/command",
                "`5` does not have the expected form",
                Some("`command`: the program with its arguments".to_owned()),
            ),
        ] {
            assert_eq!(violations(&schema, &config), [(pointer.to_owned(), message.to_owned(), hint)], "{config}");
        }
    }
}
