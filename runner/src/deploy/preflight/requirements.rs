//! Checks a step against its module: the configuration against the module's schema, and the grants against its needs.

use contract::diagnostic::{Diagnostic, ErrorCode};
use plan::{DirAccess, Plan, PlanStep};
use sandbox::{CapabilityKind, CapabilityNeed, ModuleDescription, SchemaViolation};

use super::span_of;

/// The values of the configuration that the module's schema does not allow.
pub(super) fn schema_problems(plan: &Plan, step: &PlanStep, description: &ModuleDescription) -> Vec<Diagnostic> {
    let known_later = |pointer: &str| step.pending.contains_key(pointer);
    let diagnostic = |mismatch: SchemaViolation| {
        let span = span_of(step, &mismatch.pointer);
        let step_target =
            if mismatch.pointer.is_empty() { String::new() } else { format!(" at `{}`", &mismatch.pointer[1..]) };
        let message = format!("invalid `with` of step `{}` for module `{}`{step_target}", step.id, description.name);
        let keys: Vec<_> =
            description.config["properties"].as_object().into_iter().flat_map(|map| map.keys()).collect();
        let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let hint = format!("`{}` accepts {keys}; see docs/plan.md", description.name);
        plan.error_at(ErrorCode::InvalidConfig, span, message, mismatch.message, Some(hint))
    };
    description.schema_violations(&step.with, known_later).into_iter().map(diagnostic).collect()
}

/// The needs of the module that the plan does not grant.
pub(super) fn missing_grants(plan: &Plan, step: &PlanStep, description: &ModuleDescription) -> Vec<Diagnostic> {
    let mut reported = Vec::new();
    let missing = |need: &CapabilityNeed| -> Option<Diagnostic> {
        let pointer = need.config.as_deref();
        if !need.applies_to(&step.with) || pointer.is_some_and(|pointer| step.pending.contains_key(pointer)) {
            return None;
        }
        let name = need.grant_name(&step.with);
        let grants = &step.grants;
        let wants_write = need.wants_write();
        let (granted, line) = match need.capability {
            CapabilityKind::Dirs => (
                grants.dirs.iter().any(|(granted, grant)| {
                    name.is_none_or(|name| name == granted.as_str())
                        && (!wants_write || grant.access == DirAccess::ReadWrite)
                }),
                format!("dirs: {{ {}: \"<path>{}\" }}", name.unwrap_or("<name>"), if wants_write { "" } else { ":ro" }),
            ),
            CapabilityKind::Databases => (
                grants.databases.keys().any(|granted| name.is_none_or(|name| name == granted.as_str())),
                format!("databases: {{ {}: \"sqlite:<path>\" }}", name.unwrap_or("<name>")),
            ),
            CapabilityKind::Http => (!grants.http.is_empty(), "http: [\"http://<host>:<port>\"]".to_owned()),
            CapabilityKind::Tcp => (!grants.tcp.is_empty(), "tcp: [\"<host>:<port>\"]".to_owned()),
            CapabilityKind::Programs => {
                (!grants.programs.is_empty(), "programs: [[\"<program>\", \"<argument>\"]]".to_owned())
            }
            CapabilityKind::Sockets => (
                grants.sockets.keys().any(|granted| name.is_none_or(|name| name == granted.as_str())),
                format!("sockets: {{ {}: \"unix:<path>\" }}", name.unwrap_or("<name>")),
            ),
            CapabilityKind::Secrets => (
                grants.secrets.keys().any(|granted| name.is_none_or(|name| name == granted)),
                format!("secrets: [{}]", name.unwrap_or("<name>")),
            ),
        };
        // One error per kind of capability is enough: a need by name often comes with a general need of the same kind.
        if granted || reported.contains(&need.capability) {
            return None;
        }
        reported.push(need.capability);
        let span = pointer.map_or_else(|| step.span.clone(), |pointer| span_of(step, pointer));
        let what = need.display_text(&step.with);
        let message = format!("step `{}` needs {what}, but the plan does not grant it", step.id);
        let hint = format!("add to the step: grants: {{ {line} }}; the module's reason: it {}", need.reason);
        Some(plan.error_at(ErrorCode::MissingGrant, span, message, "not granted", Some(hint)))
    };
    description.needs.iter().filter_map(missing).collect()
}
