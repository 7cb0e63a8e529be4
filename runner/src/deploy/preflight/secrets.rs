//! Secrets in control values: refused before anything runs, since the journal records these values unchanged.
//!
//! Values with outputs of earlier steps are checked again when the outputs are known. Deliberately absent: grants. Their URLs,
//! headers and variables are made for secrets, and fingerprints use the secrets' names.

use std::{collections::BTreeMap, ops::Range};

use super::{PlannedStep, span_of};
use contract::{
    Label, Secret,
    diagnostic::{Diagnostic, ErrorCode, Notice},
    text::dotted_pointer,
};
use journal::{
    Redactor, SecretLocation,
    secret_scanner::{MIN_REFUSED_CHARS, is_refused, job_secret_name},
};
use plan::Plan;

const CAUSE: &str = "later attempts decide by this value, so the journal records it unchanged";

/// The secrets in the names and configurations of a plan, and in the label of the release.
pub(super) fn secret_problems<'p>(
    plan: &Plan,
    label: &Label,
    steps: impl Iterator<Item = &'p PlannedStep>,
    redactor: &Redactor,
) -> Vec<Diagnostic> {
    let scanner = redactor.scanner();
    let mut problems = Vec::new();
    for (what, value) in [("app", plan.app.as_str()), ("environment", plan.environment.as_str())] {
        problems.extend(scanner.find_in_text(value).map(|secret| problem(&format!("the name of the {what}"), secret)));
    }
    problems.extend(header_problem("the release label", Some(label.as_str()), redactor));
    for planned in steps {
        let step = &planned.step;
        if let Some(secret) = scanner.find_in_text(step.id.as_str()) {
            problems.push(problem("the name of a step", secret));
        } else if let Some(found) = scanner.find_in_json(&step.with) {
            let message =
                format!("`with` of step `{}` contains {}{}", step.id, found.secret_text(), at_pointer(&found.pointer));
            problems.push(at_value(plan, redactor, span_of(step, &found.pointer), message, found.hint()));
        }
    }
    problems
}

/// A secret in a value that the header of the journal records.
pub(in crate::deploy) fn header_problem(what: &str, value: Option<&str>, redactor: &Redactor) -> Option<Diagnostic> {
    Some(problem(what, redactor.scanner().find_in_text(value?)?))
}

/// A secret in the input of a step, or in one of the names in its fingerprint.
pub(in crate::deploy) fn input_problem(
    plan: &Plan,
    planned: &PlannedStep,
    found: &SecretLocation,
    redactor: &Redactor,
) -> Diagnostic {
    let step = &planned.step;
    let (what, pointer) = match found.pointer.strip_prefix("/config") {
        Some(pointer) => (format!("`with` of step `{}`", step.id), pointer),
        None => (format!("the input of step `{}`", step.id), found.pointer.as_str()),
    };
    let message = format!("{what} contains {}{}", found.secret_text(), at_pointer(pointer));
    at_value(plan, redactor, span_of(step, pointer), message, found.hint())
}

/// A warning for each secret of the plan and of the job that is too short to be refused.
pub(super) fn short_secret_notices(plan: &BTreeMap<String, Secret>, job: &BTreeMap<String, Secret>) -> Vec<Notice> {
    let notice = |(name, secret): (String, &Secret)| {
        let location = SecretLocation { secret: name, pointer: String::new() };
        let what = location.secret_text();
        let message = format!(
            "{what} has fewer than {MIN_REFUSED_CHARS} characters: the runner masks it in messages, but can't keep it out of \
             recorded values that contain it, such as paths"
        );
        (!is_refused(secret.reveal())).then(|| Notice::warning(message))
    };
    let of_plan = plan.iter().map(|(name, secret)| (name.clone(), secret));
    of_plan.chain(job.iter().map(|(variable, secret)| (job_secret_name(variable), secret))).filter_map(notice).collect()
}

fn problem(what: &str, secret: &str) -> Diagnostic {
    let found = SecretLocation { secret: secret.to_owned(), pointer: String::new() };
    Diagnostic::new(ErrorCode::SecretInInput, format!("{what} contains {}", found.secret_text()))
        .with_cause(CAUSE)
        .with_hint(found.hint())
}

/// An error at a value of the plan. If the plan's text contains a secret, the text is not shown.
fn at_value(plan: &Plan, redactor: &Redactor, span: Range<usize>, message: String, hint: &str) -> Diagnostic {
    let text = &plan.source.text;
    let line_start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[span.end..].find('\n').map_or(text.len(), |at| span.end + at);
    let lines = &text[line_start..line_end];
    let hint = Some(hint.to_owned());
    let diagnostic = if redactor.redact(lines) == lines {
        plan.error_at(ErrorCode::SecretInInput, span, message, "contains a secret", hint)
    } else {
        let line = text[..span.start].matches('\n').count() + 1;
        let mut diagnostic = Diagnostic::new(ErrorCode::SecretInInput, message);
        diagnostic.hint = hint;
        diagnostic.with_cause(format!("it is in {}:{line}", plan.source.path.display()))
    };
    diagnostic.with_cause(CAUSE)
}

fn at_pointer(pointer: &str) -> String {
    match pointer {
        "" => String::new(),
        pointer => format!(" at `{}`", dotted_pointer(pointer)),
    }
}
