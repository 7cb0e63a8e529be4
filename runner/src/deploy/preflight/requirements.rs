//! Checks a step against its module: the configuration against the module's schema, and the grants against its needs.

use std::collections::BTreeSet;

use contract::{
    StepId,
    diagnostic::{Diagnostic, ErrorCode},
    text::dotted_pointer,
};
use plan::{DirAccess, GrantSource, Plan, PlanStep, closest_match, quoted_list};
use sandbox::{CapabilityKind, CapabilityNeed, ModuleDescription, SchemaViolation};

use super::{
    declared::{DeclaredStep, GrantHint, GrantLine, ValueProblem, grant_line_hint},
    span_of,
    type_hint::type_hint,
};

/// Everything that is wrong with a step's configuration and grants. `upstream` are the steps that it waits for; none if they are
/// not known.
pub(super) fn step_problems(
    plan: &Plan,
    step: &PlanStep,
    description: &ModuleDescription,
    upstream: Option<&BTreeSet<StepId>>,
) -> Vec<Diagnostic> {
    let violations = description.schema_violations(&step.with, |pointer| step.pending.contains_key(pointer));
    let violations = without_consequences(violations);
    let declared = DeclaredStep::new(plan, step, description);
    let is_wrong = |pointer: &str| violations.iter().any(|violation| violation.pointer == pointer);
    let mut values = declared.problems(upstream);
    values.retain(|value| !is_wrong(&value.pointer));
    values.extend(declared.relation_problems(is_wrong));
    let mut needs = missing_grants(plan, step, description);
    // What is no name at all is explained by the value itself.
    let is_name = |pointer: &str| {
        let text = step.with.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_default();
        !text.starts_with(['/', '.']) && !text.contains(':')
    };
    needs.retain(|need| {
        let is_explained = values.iter().any(|value| value.pointer == need.problem.pointer);
        !need.is_named || !is_explained || is_name(&need.problem.pointer)
    });
    // What names more comes first: a need by its value, then a value by itself, then a need of any grant of a kind.
    values.retain(|value| !needs.iter().any(|need| need.is_named && need.problem.pointer == value.pointer));
    // What can't be read grants nothing by itself: with a value that is right, the grant would be there.
    needs.retain(|need| need.is_named || !has_wrong_source(need.problem.capability, &violations));
    needs.retain(|need| need.is_named || values.iter().all(|value| value.capability != need.problem.capability));
    let problems: Vec<_> = needs.into_iter().map(|need| need.problem).chain(values).collect();
    let hints = GrantHint::texts(&problems.iter().map(|problem| &problem.hint).collect::<Vec<_>>(), step);
    let problems = problems.into_iter().zip(hints).map(|(problem, hint)| problem.diagnostic.with_hint(hint));
    let violations = violations.into_iter().map(|violation| schema_problem(plan, step, description, violation));
    violations.chain(problems).chain(unconfirmable(plan, step, description)).collect()
}

/// Whether a value is wrong from which a grant of this kind would follow: a `run` step is granted its program as it is written, and other
/// steps the origins of their URLs.
fn has_wrong_source(capability: Option<CapabilityKind>, violations: &[SchemaViolation]) -> bool {
    let is_wrong = |is_source: &dyn Fn(&str) -> bool| violations.iter().any(|violation| is_source(&violation.pointer));
    match capability {
        Some(CapabilityKind::Programs) => {
            is_wrong(&|pointer| ["/program", "/args"].iter().any(|source| pointer.starts_with(source)))
        }
        Some(CapabilityKind::Http) => is_wrong(&|pointer| pointer.ends_with("/url") || pointer == "/http"),
        Some(
            CapabilityKind::Dirs
            | CapabilityKind::Databases
            | CapabilityKind::Tcp
            | CapabilityKind::Sockets
            | CapabilityKind::Renders
            | CapabilityKind::Secrets,
        )
        | None => false,
    }
}

/// The error if `confirm` is on a step that a host can't or need not undo by itself.
fn unconfirmable(plan: &Plan, step: &PlanStep, description: &ModuleDescription) -> Option<Diagnostic> {
    let span = step.confirm.as_ref()?.span.clone();
    let why = match (description.exposes, description.reverts) {
        (true, true) => return None,
        (true, false) => "can't be undone",
        (false, _) => "does not show a release to users",
    };
    let message = format!("step `{}` can't be confirmed: `{}` {why}", step.id, description.name);
    let hint = Some("move `confirm` to the step that shows the release, such as `switch`".to_owned());
    Some(plan.error_at(ErrorCode::InvalidValue, span, message, "not for this module", hint))
}

/// The violations without the missing settings that were misspelled.
fn without_consequences(mut violations: Vec<SchemaViolation>) -> Vec<SchemaViolation> {
    let meant: Vec<_> = violations
        .iter()
        .filter_map(|violation| {
            let (object, written) = violation.pointer.rsplit_once('/')?;
            let near = closest_match(written, violation.known_settings.iter().map(String::as_str))?;
            Some((object.to_owned(), near.to_owned()))
        })
        .collect();
    violations.retain(|violation| {
        let is_meant = |(object, name): &(String, String)| {
            violation.pointer == *object && violation.missing_settings.contains(name)
        };
        !meant.iter().any(is_meant)
    });
    violations
}

fn schema_problem(
    plan: &Plan,
    step: &PlanStep,
    description: &ModuleDescription,
    violation: SchemaViolation,
) -> Diagnostic {
    let SchemaViolation { pointer, is_key, message: label, hint, known_settings, missing_settings: _ } = violation;
    let at = if pointer.is_empty() { String::new() } else { format!(" at `{}`", dotted_pointer(&pointer)) };
    let message = format!("invalid `with` of step `{}` for module `{}`{at}", step.id, description.name);
    let written = pointer.rsplit('/').next().unwrap_or_default();
    let near = closest_match(written, known_settings.iter().map(String::as_str));
    let meant = near.map(|near| format!("did you mean `{near}`?"));
    let typed = || type_hint(&description.config, &step.with, &pointer);
    let hint = hint.or(meant).or_else(typed).unwrap_or_else(|| {
        let keys = description.config["properties"].as_object().into_iter().flat_map(|map| map.keys());
        let keys: Vec<_> = match known_settings.is_empty() {
            true => keys.map(String::as_str).collect(),
            false => known_settings.iter().map(String::as_str).collect(),
        };
        let place = if pointer.matches('/').count() > 1 { "here, `with` of" } else { "" };
        let accepts = format!("{place} `{}` accepts {}; see docs/plan.md", description.name, quoted_list(keys));
        accepts.trim_start().to_owned()
    });
    // A setting that is unknown is a wrong key; so is one that can't be used beside another.
    let key = step.with_key_spans.get(&pointer).filter(|_| is_key);
    let span = key.cloned().unwrap_or_else(|| span_of(step, &pointer));
    plan.error_at(ErrorCode::InvalidConfig, span, message, label, Some(hint))
}

/// A need of the module that the plan does not grant.
struct MissingGrant {
    problem: ValueProblem,
    /// Whether the configuration names the grant.
    is_named: bool,
}

/// The needs of the module that the plan does not grant.
fn missing_grants(plan: &Plan, step: &PlanStep, description: &ModuleDescription) -> Vec<MissingGrant> {
    let mut reported = Vec::new();
    let missing = |need: &CapabilityNeed| -> Option<MissingGrant> {
        let pointer = need.config.as_deref();
        if !need.applies_to(&step.with) || pointer.is_some_and(|pointer| step.pending.contains_key(pointer)) {
            return None;
        }
        // One error per kind of capability is enough: a need by name often comes with a general need of the same kind.
        if is_granted(step, need) || reported.contains(&need.capability) {
            return None;
        }
        reported.push(need.capability);
        let span = pointer.map_or_else(|| step.span.clone(), |pointer| span_of(step, pointer));
        let what = need.display_text(&step.with);
        let message = format!("step `{}` needs {what}, but the plan does not grant it", step.id);
        let hint =
            missing_grant_hint(plan, step, need).and(&format!("; the module needs it because it {}", need.reason));
        let text = hint.text(step);
        let diagnostic = plan.error_at(ErrorCode::MissingGrant, span, message, "not granted", Some(text));
        let pointer = pointer.unwrap_or_default().to_owned();
        let problem = ValueProblem { pointer, capability: Some(need.capability), diagnostic, hint };
        Some(MissingGrant { problem, is_named: need.grant_name(&step.with).is_some() })
    };
    description.needs.iter().filter_map(missing).collect()
}

fn is_granted(step: &PlanStep, need: &CapabilityNeed) -> bool {
    let name = need.grant_name(&step.with);
    let is_meant = |granted: &str| name.is_none_or(|name| name == granted);
    let grants = &step.grants;
    match need.capability {
        CapabilityKind::Dirs => grants.dirs.iter().any(|(granted, grant)| {
            is_meant(granted.as_str()) && (!need.wants_write() || grant.access == DirAccess::ReadWrite)
        }),
        CapabilityKind::Databases => grants.databases.keys().any(|granted| is_meant(granted.as_str())),
        CapabilityKind::Http => !grants.http.is_empty() || !grants.sockets.is_empty(),
        CapabilityKind::Tcp => !grants.tcp.is_empty(),
        CapabilityKind::Programs => !grants.programs.is_empty(),
        CapabilityKind::Sockets => grants.sockets.keys().any(|granted| is_meant(granted.as_str())),
        CapabilityKind::Renders => grants.renders.keys().any(|granted| is_meant(granted.as_str())),
        CapabilityKind::Secrets => grants.secrets.keys().any(|granted| is_meant(granted)),
    }
}

/// The line to add, or the name that was meant.
fn missing_grant_hint(plan: &Plan, step: &PlanStep, need: &CapabilityNeed) -> GrantHint {
    let grants = &step.grants;
    let (name, access) = (need.grant_name(&step.with), if need.wants_write() { "" } else { ":ro" });
    let granted: Vec<&str> = match need.capability {
        CapabilityKind::Dirs => grants.dirs.keys().map(|granted| granted.as_str()).collect(),
        CapabilityKind::Databases => grants.databases.keys().map(|granted| granted.as_str()).collect(),
        CapabilityKind::Sockets => grants.sockets.keys().map(|granted| granted.as_str()).collect(),
        CapabilityKind::Renders => grants.renders.keys().map(|granted| granted.as_str()).collect(),
        CapabilityKind::Secrets => grants.secrets.keys().map(String::as_str).collect(),
        CapabilityKind::Http | CapabilityKind::Tcp | CapabilityKind::Programs => Vec::new(),
    };
    let read_only = match (need.capability, granted.as_slice()) {
        (CapabilityKind::Dirs, [only]) if need.wants_write() => {
            Some(*only).filter(|only| name.is_none_or(|it| it == *only))
        }
        (CapabilityKind::Dirs, _) => name.filter(|name| granted.contains(name)),
        _ => None,
    };
    if let Some(read_only) = read_only {
        let is_shared = |name: &&plan::DirGrant| matches!(name.source, GrantSource::Shared(_));
        let granted = grants.dirs.iter().find(|(granted, _)| granted.as_str() == read_only).map(|(_, grant)| grant);
        return GrantHint::from(match granted.filter(is_shared) {
            Some(_) => format!(
                "remove `:ro` from `{read_only}`: in the step's `grants:`, or in `dirs:` at the top of the plan"
            ),
            None => format!("remove `:ro` from the directory `{read_only}` in the step's `grants:`"),
        });
    }
    if let Some(near) = name.and_then(|name| closest_match(name, granted.iter().copied())) {
        return GrantHint::from(format!("did you mean `{near}`?"));
    }
    let line = match need.capability {
        CapabilityKind::Dirs => {
            let name = name.unwrap_or("app");
            GrantLine::Entry(format!("{name}: \"./{name}{access}\""))
        }
        CapabilityKind::Databases => {
            let name = name.unwrap_or("main");
            GrantLine::Entry(format!("{name}: \"sqlite:./{name}.db\""))
        }
        CapabilityKind::Http => GrantLine::Item("\"http://HOST:PORT\"".to_owned()),
        CapabilityKind::Tcp => GrantLine::Item("\"HOST:PORT\"".to_owned()),
        CapabilityKind::Programs => GrantLine::Item("[\"PROGRAM\", \"ARGUMENT\"]".to_owned()),
        CapabilityKind::Sockets => {
            let name = name.unwrap_or("engine");
            GrantLine::Entry(format!("{name}: \"unix:/run/{name}.sock\""))
        }
        CapabilityKind::Renders => {
            let name = name.unwrap_or("conf");
            GrantLine::Entry(format!("{name}: \"/etc/{name}\""))
        }
        CapabilityKind::Secrets => GrantLine::Item(name.unwrap_or("NAME").to_owned()),
    };
    grant_line_hint(plan, step, need.capability, &line)
}
