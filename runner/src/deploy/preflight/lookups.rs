//! Checks that the looked-up outputs are among those that the steps' modules declare.

use contract::diagnostic::{Diagnostic, ErrorCode};
use plan::{DeferredLookup, Plan, closest_match, quoted_list};

use super::PlannedStep;

/// The lookups of outputs that their steps do not have. A module that declares no outputs may have any.
pub(super) fn unknown_outputs<'p>(
    plan: &Plan,
    steps: &[PlannedStep],
    looking: impl Iterator<Item = &'p PlannedStep>,
) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for planned in looking {
        let lookups = planned.step.pending.values().flat_map(|pending| pending.lookups_with_spans());
        for (lookup, span) in lookups {
            let DeferredLookup::Output { step, name } = lookup else { continue };
            let declared =
                steps.iter().find(|other| other.step.id == *step).and_then(|it| it.description.outputs.as_ref());
            let Some(outputs) = declared.filter(|outputs| !outputs.contains(name)) else { continue };
            let names = || outputs.iter().map(String::as_str);
            let hint = match closest_match(name, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if outputs.is_empty() => "remove the lookup; the step has no outputs".to_owned(),
                None => format!("use one of {}", quoted_list(names())),
            };
            let message = format!("step `{step}` has no output `{name}`");
            problems.push(plan.error_at(
                ErrorCode::UndefinedLookup,
                span.clone(),
                message,
                "no such output",
                Some(hint),
            ));
        }
    }
    problems
}
