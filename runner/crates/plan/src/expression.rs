//! The syntax of `${{ }}`: lookups only, without operators and functions, so that a plan stays data.
//!
//! `$${{` stands for a literal `${{`. A string is parsed once, with the plan; substituted values are never parsed again, so no
//! value can smuggle in a lookup. Deliberately absent: the values, see `scope`.

use std::{collections::BTreeMap, ops::Range};

use serde_json::{Map, Value};

use super::error::{PlanError, closest_match, quoted_list};
use contract::{AttemptNumber, RunId, StepId, error_code::ErrorCode};

/// The lookup in a `${{ }}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PlanLookup {
    /// `release`, the label of the release.
    Release,
    /// `vars.NAME`.
    Variable(String),
    /// `env.NAME`.
    Environment(String),
    /// `secrets.NAME`.
    Secret(String),
    /// `plan.dir`, the plan's folder.
    PlanDir,
    /// `release.path`, the folder of the release, known once it is pulled.
    ReleasePath,
    /// `host.…`, of the host that the step runs on.
    Host(HostLookup),
    /// A lookup that is known only while steps run.
    Deferred(DeferredLookup),
}

/// A lookup of the host that a step runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostLookup {
    /// `host.name`.
    Name,
    /// `host.address`, the name or IP address that it is reached by.
    Address,
    /// `host.vars.NAME`.
    Variable(String),
}

/// A lookup whose value is known only while steps run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeferredLookup {
    /// `steps.STEP.OUTPUT`.
    Output {
        /// The step.
        step: StepId,
        /// The name of the output.
        name: String,
    },
    /// `run.id`.
    RunId,
    /// `run.attempt`, a number.
    RunAttempt,
}

/// A value of `with` with lookups that are known only later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingValue {
    pub(super) parts: Vec<PendingPart>,
}

/// A piece of a [`PendingValue`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PendingPart {
    Text(String),
    Deferred {
        lookup: DeferredLookup,
        span: Range<usize>,
    },
    /// `release.path`, which [`release_path`](super::release_path) replaces before the plan is complete.
    ReleasePath {
        span: Range<usize>,
    },
}

impl PendingValue {
    /// The lookups that it waits for, in the order written.
    pub fn lookups(&self) -> impl Iterator<Item = &DeferredLookup> {
        self.lookups_with_spans().map(|(lookup, _)| lookup)
    }

    /// The same, each with its byte range in the plan's text.
    pub fn lookups_with_spans(&self) -> impl Iterator<Item = (&DeferredLookup, &Range<usize>)> {
        self.parts.iter().filter_map(|part| match part {
            PendingPart::Text(_) | PendingPart::ReleasePath { .. } => None,
            PendingPart::Deferred { lookup, span } => Some((lookup, span)),
        })
    }

    /// The text before the first lookup that is known only later.
    #[must_use]
    pub fn known_prefix(&self) -> &str {
        match self.parts.first() {
            Some(PendingPart::Text(text)) => text,
            Some(PendingPart::Deferred { .. } | PendingPart::ReleasePath { .. }) | None => "",
        }
    }

    /// Makes the value a text, whatever its lookups give: a lookup that stands alone keeps the type of the output otherwise.
    pub(super) fn make_text(&mut self) {
        if let [PendingPart::Deferred { .. }] = self.parts.as_slice() {
            self.parts.push(PendingPart::Text(String::new()));
        }
    }

    pub(super) fn resolve(
        &self,
        outputs: &BTreeMap<StepId, Map<String, Value>>,
        run: &RunId,
        attempt: AttemptNumber,
    ) -> Result<Value, PlanError> {
        let value = |lookup: &DeferredLookup, span: &Range<usize>| match lookup {
            DeferredLookup::RunId => Ok(Value::from(run.as_str())),
            DeferredLookup::RunAttempt => Ok(Value::from(attempt.0.get())),
            DeferredLookup::Output { step, name } => output(outputs, step, name, span),
        };
        if let [PendingPart::Deferred { lookup, span }] = self.parts.as_slice() {
            return value(lookup, span);
        }
        let mut text = String::new();
        for part in &self.parts {
            match part {
                PendingPart::Text(literal) => text.push_str(literal),
                PendingPart::ReleasePath { .. } => unreachable!("a complete plan has none"),
                PendingPart::Deferred { lookup, span } => match value(lookup, span)? {
                    Value::String(inner) => text.push_str(&inner),
                    scalar @ (Value::Bool(_) | Value::Number(_)) => text.push_str(&scalar.to_string()),
                    Value::Null | Value::Array(_) | Value::Object(_) => {
                        let error =
                            PlanError::new(ErrorCode::WrongType, format!("`{lookup}` cannot be part of a string"));
                        return Err(error
                            .at(span, "its value is a list, a mapping or null")
                            .hint("remove the text around the lookup"));
                    }
                },
            }
        }
        Ok(Value::String(text))
    }
}

fn output(
    outputs: &BTreeMap<StepId, Map<String, Value>>,
    step: &StepId,
    name: &str,
    span: &Range<usize>,
) -> Result<Value, PlanError> {
    let undefined = |message: String| PlanError::new(ErrorCode::UndefinedLookup, message).at(span, "no such output");
    let Some(named) = outputs.get(step) else {
        return Err(undefined(format!("step `{step}` has no outputs on record"))
            .hint(format!("run it first: remove `--only` and `--start-from`, or use `--start-from {step}`")));
    };
    named.get(name).cloned().ok_or_else(|| {
        let error = undefined(format!("step `{step}` has no output `{name}`"));
        if named.is_empty() {
            return error.hint("remove the lookup; the step has no outputs");
        }
        error.hint(format!("use one of {}", quoted_list(named.keys().map(String::as_str))))
    })
}

impl std::fmt::Display for DeferredLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Output { step, name } => write!(f, "steps.{step}.{name}"),
            Self::RunId => f.write_str("run.id"),
            Self::RunAttempt => f.write_str("run.attempt"),
        }
    }
}

impl std::fmt::Display for PlanLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Release => f.write_str("release"),
            Self::Variable(name) => write!(f, "vars.{name}"),
            Self::Environment(name) => write!(f, "env.{name}"),
            Self::Secret(name) => write!(f, "secrets.{name}"),
            Self::PlanDir => f.write_str("plan.dir"),
            Self::ReleasePath => f.write_str("release.path"),
            Self::Host(HostLookup::Name) => f.write_str("host.name"),
            Self::Host(HostLookup::Address) => f.write_str("host.address"),
            Self::Host(HostLookup::Variable(name)) => write!(f, "host.vars.{name}"),
            Self::Deferred(later) => later.fmt(f),
        }
    }
}

/// A piece of a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TemplatePart {
    Text(String),
    Lookup { lookup: PlanLookup, span: Range<usize> },
}

/// Splits a string into literal pieces and lookups.
///
/// `written` is the source of the scalar and `start` its offset, for the positions of errors: a scalar's value and its source
/// differ by quotes, escapes and folds, but a lookup nearly always appears in the source unchanged.
pub(super) fn parse(text: &str, written: &str, start: usize) -> Result<Vec<TemplatePart>, PlanError> {
    let (parts, mut errors) = parse_all(text, written, start);
    if errors.is_empty() { Ok(parts) } else { Err(errors.swap_remove(0)) }
}

/// The same, with all errors, and the pieces besides.
pub(super) fn parse_all(text: &str, written: &str, start: usize) -> (Vec<TemplatePart>, Vec<PlanError>) {
    let (mut parts, mut errors) = (Vec::new(), Vec::new());
    let mut literal = String::new();
    let mut rest = text;
    let mut seen = 0;
    while let Some(dollar) = rest.find('$') {
        literal.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${{") {
            literal.push_str("${{");
            rest = after;
        } else if let Some(inside) = rest.strip_prefix("${{") {
            let end = inside.find("}}").filter(|end| !inside[..*end].contains("${{"));
            let whole = end.map_or("${{", |end| &rest[..end + 5]);
            let span = match written.get(seen..).and_then(|unseen| unseen.find(whole)) {
                Some(at) => {
                    seen += at + whole.len();
                    start + seen - whole.len()..start + seen
                }
                None => start..start + written.len(),
            };
            let Some(end) = end else {
                let error =
                    PlanError::new(ErrorCode::InvalidLookup, "a lookup has no end").at(&span, "`}}` is missing");
                errors.push(error.hint("write `${{ vars.name }}`, or `$${{` for a literal `${{`"));
                return (parts, errors);
            };
            if !literal.is_empty() {
                parts.push(TemplatePart::Text(std::mem::take(&mut literal)));
            }
            match lookup(inside[..end].trim(), &span) {
                Ok(lookup) => parts.push(TemplatePart::Lookup { lookup, span }),
                Err(error) => errors.push(error),
            }
            rest = &inside[end + 2..];
        } else {
            literal.push('$');
            rest = &rest[1..];
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() || parts.is_empty() {
        parts.push(TemplatePart::Text(literal));
    }
    (parts, errors)
}

/// Whether a text is a lookup, as between `${{` and `}}`.
pub(super) fn is_lookup(text: &str) -> bool {
    lookup(text, &(0..0)).is_ok()
}

const ROOTS: &[&str] = &["release", "vars", "env", "steps", "run", "secrets", "plan", "host"];

fn lookup(inside: &str, span: &Range<usize>) -> Result<PlanLookup, PlanError> {
    let bad = |label: &str, hint: &str| {
        let message =
            if inside.is_empty() { "a lookup is empty".to_owned() } else { format!("`{inside}` is not a lookup") };
        let error = PlanError::new(ErrorCode::InvalidLookup, message);
        Err(error.at(span, label).hint(hint))
    };
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let path: Vec<&str> = inside.split('.').collect();
    if inside.is_empty() {
        return bad("empty", "name a value, such as `${{ release }}`");
    }
    if !path.iter().all(|segment| word(segment)) {
        return bad("only names and dots are allowed", "remove operators, functions and quotes");
    }
    Ok(match path.as_slice() {
        ["release"] => PlanLookup::Release,
        ["release", "path"] => PlanLookup::ReleasePath,
        ["plan", "dir"] => PlanLookup::PlanDir,
        ["vars", name] => PlanLookup::Variable((*name).to_owned()),
        ["env", name] => PlanLookup::Environment((*name).to_owned()),
        ["secrets", name] => PlanLookup::Secret((*name).to_owned()),
        ["host", "name"] => PlanLookup::Host(HostLookup::Name),
        ["host", "address"] => PlanLookup::Host(HostLookup::Address),
        ["host", "vars", name] => PlanLookup::Host(HostLookup::Variable((*name).to_owned())),
        ["run", "id"] => PlanLookup::Deferred(DeferredLookup::RunId),
        ["run", "attempt"] => PlanLookup::Deferred(DeferredLookup::RunAttempt),
        ["steps", step, name] => match step.parse() {
            Ok(step) => PlanLookup::Deferred(DeferredLookup::Output { step, name: (*name).to_owned() }),
            Err(_) => return bad("not a step name", "write `steps.STEP.OUTPUT`"),
        },
        ["release", ..] => {
            return bad(
                "`release` has only `path`",
                "write `${{ release }}` for the label, `${{ release.path }}` for the folder",
            );
        }
        ["plan", ..] => return bad("`plan` has only `dir`", "write `plan.dir`"),
        ["host", ..] => {
            return bad(
                "`host` has `name`, `address` and `vars`",
                "write `host.name`, `host.address` or `host.vars.NAME`",
            );
        }
        ["vars", ..] => return bad("`vars` needs one name", "write `vars.NAME`"),
        ["env", ..] => return bad("`env` needs one name", "write `env.NAME`"),
        ["secrets", ..] => return bad("`secrets` needs one name", "write `secrets.NAME`"),
        ["steps", ..] => return bad("`steps` needs a step and an output", "write `steps.STEP.OUTPUT`"),
        ["run", ..] => return bad("`run` needs `id` or `attempt`", "write `run.id` or `run.attempt`"),
        [root, ..] => {
            let error = PlanError::new(ErrorCode::UndefinedLookup, format!("`{root}` cannot be looked up"));
            let hint = match closest_match(root, ROOTS.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("use one of {}", quoted_list(ROOTS.iter().copied())),
            };
            return Err(error.at(span, "unknown").hint(hint));
        }
        [] => unreachable!("splitting yields at least one segment"),
    })
}
