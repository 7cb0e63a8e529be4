//! Hints that show the line to add to a step's grants, such that it works when it is pasted.

use plan::{ArgumentPattern, GrantSource, PlanStep, ProgramGrant, StepGrants, WrittenGrantForm, WrittenGrants};
use sandbox::CapabilityKind;
use serde_json::json;

/// What a grant lacks.
pub(in super::super) enum GrantLine {
    /// An item of a list.
    Item(String),
    /// An entry of a mapping.
    Entry(String),
}

/// Where to add a line to the grants of a step, which has others already or not.
pub(in super::super) fn grant_line_hint(step: &PlanStep, capability: CapabilityKind, line: &GrantLine) -> String {
    let grants = &step.grants;
    let is_list_of_names = capability == CapabilityKind::Dirs
        && grants.dirs.values().any(|grant| matches!(grant.source, GrantSource::Shared(_)));
    if let (true, GrantLine::Item(text) | GrantLine::Entry(text)) = (is_list_of_names, line) {
        let name = text.split(':').next().unwrap_or(text);
        return format!(
            "add `{text}` to `dirs:` at the top of the plan, and `{name}` to `dirs:` in the step's `grants:`"
        );
    }
    place_line(step, &capability.name(), line, &implied_items(grants, capability))
}

/// Where to add a variable to the environment of a step's programs.
pub(in super::super) fn env_line_hint(step: &PlanStep, entry: &str) -> String {
    place_line(step, "env", &GrantLine::Entry(entry.to_owned()), &[])
}

/// The place of a line in the step as it is written. `implied` are the items that a list must have as soon as it is written.
fn place_line(step: &PlanStep, key: &str, line: &GrantLine, implied: &[String]) -> String {
    let whole = match line {
        GrantLine::Item(text) => {
            let all: Vec<_> = implied.iter().chain([text]).map(String::as_str).collect();
            format!("{key}: [{}]", all.join(", "))
        }
        GrantLine::Entry(text) => format!("{key}: {{ {text} }}"),
    };
    match (&step.written_grants, step.written_grants.form(key), line) {
        (_, Some(WrittenGrantForm::Empty), _) => format!("write `{whole}` in the step's `grants:`"),
        // `secrets` may be either.
        (_, Some(WrittenGrantForm::Mapping), GrantLine::Item(text)) => {
            format!("add `{text}: use` to `{key}:` in the step's `grants:`")
        }
        (_, Some(_), GrantLine::Item(text) | GrantLine::Entry(text)) => {
            format!("add `{text}` to `{key}:` in the step's `grants:`")
        }
        (WrittenGrants::Keys(_), None, _) => format!("add `{whole}` to the step's `grants:`"),
        (WrittenGrants::LeftOut | WrittenGrants::NoPlace, None, _) => {
            format!("add to the step: `grants: {{ {whole} }}`")
        }
    }
}

/// The items of a list that follow from the step's `with`. They must be listed as soon as the step has the list.
fn implied_items(grants: &StepGrants, capability: CapabilityKind) -> Vec<String> {
    match capability {
        CapabilityKind::Http => {
            let implied = grants.http.iter().filter(|grant| grant.source.is_implied());
            implied.map(|grant| format!("\"{}\"", grant.origin())).collect()
        }
        CapabilityKind::Programs => {
            let vector = |grant: &ProgramGrant| {
                let words: Vec<_> = grant.arguments.iter().map(ArgumentPattern::written).collect();
                json!(words).to_string()
            };
            grants.programs.iter().filter(|grant| grant.source.is_implied()).map(vector).collect()
        }
        CapabilityKind::Dirs
        | CapabilityKind::Tcp
        | CapabilityKind::Databases
        | CapabilityKind::Sockets
        | CapabilityKind::Secrets => Vec::new(),
    }
}
