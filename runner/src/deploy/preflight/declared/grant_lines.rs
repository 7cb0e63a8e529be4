//! Hints that show the line to add to a step's grants, such that it works when it is pasted.

use plan::{ArgumentPattern, GrantSource, ProgramGrant, StepGrants};
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
pub(in super::super) fn grant_line_hint(grants: &StepGrants, capability: CapabilityKind, line: &GrantLine) -> String {
    let StepGrants { dirs, http, tcp, databases, programs, sockets, secrets, .. } = grants;
    let has_others = match capability {
        CapabilityKind::Dirs => !dirs.is_empty(),
        CapabilityKind::Http => !http.is_empty(),
        CapabilityKind::Tcp => !tcp.is_empty(),
        CapabilityKind::Databases => !databases.is_empty(),
        CapabilityKind::Programs => !programs.is_empty(),
        CapabilityKind::Sockets => !sockets.is_empty(),
        CapabilityKind::Secrets => !secrets.is_empty(),
    };
    let key = capability.name();
    let implied = implied_items(grants, capability);
    let (text, whole) = match line {
        GrantLine::Item(text) => {
            let all: Vec<_> = implied.iter().chain([text]).map(String::as_str).collect();
            (text, format!("{key}: [{}]", all.join(", ")))
        }
        GrantLine::Entry(text) => (text, format!("{key}: {{ {text} }}")),
    };
    let is_list_of_names =
        capability == CapabilityKind::Dirs && dirs.values().any(|grant| matches!(grant.source, GrantSource::Shared(_)));
    if is_list_of_names {
        let name = text.split(':').next().unwrap_or(text);
        format!("add `{text}` to `dirs:` at the top of the plan, and `{name}` to `dirs:` in the step's `grants:`")
    } else if has_others && implied.is_empty() {
        format!("add `{text}` to `{key}:` in the step's `grants:`")
    } else if has_no_own_grants(grants) {
        format!("add to the step: `grants: {{ {whole} }}`")
    } else {
        format!("add `{whole}` to the step's `grants:`")
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

/// Whether the step has no `grants:` of its own.
fn has_no_own_grants(grants: &StepGrants) -> bool {
    let StepGrants { dirs, http, tcp, databases, programs, env, sockets, secrets } = grants;
    dirs.is_empty()
        && tcp.is_empty()
        && databases.is_empty()
        && env.is_empty()
        && sockets.is_empty()
        && secrets.is_empty()
        && http.iter().all(|grant| grant.source.is_implied())
        && programs.iter().all(|grant| grant.source.is_implied())
}
