//! The syntax of `${{ }}`: look-ups and nothing else. No operators, no functions, so that a plan stays data.
//!
//! `$${{` stands for a literal `${{`. A text is parsed once, when the plan is; what is substituted is never parsed again, so no
//! value can smuggle a look-up in. Deliberately absent: the values, see `scope`.

use std::{collections::BTreeMap, ops::Range};

use serde_json::{Map, Value};

use super::error::{PlanError, Problem, closest_match, quoted_list};
use contract::{AttemptNumber, RunId, StepId};

/// What stands in `${{ }}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PlanLookup {
    /// `release`: its label.
    Release,
    /// `vars.NAME`.
    Variable(String),
    /// `env.NAME`.
    Environment(String),
    /// `secrets.NAME`.
    Secret(String),
    /// Something that is known only while steps run.
    Deferred(DeferredLookup),
}

/// A look-up whose value is known only while steps run.
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

/// A value of `with` that waits for look-ups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingValue {
    pub(super) parts: Vec<PendingPart>,
}

/// A piece of such a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PendingPart {
    Text(String),
    Deferred { lookup: DeferredLookup, span: Range<usize> },
}

impl PendingValue {
    /// What it waits for, in the order written.
    pub fn lookups(&self) -> impl Iterator<Item = &DeferredLookup> {
        self.lookups_with_spans().map(|(lookup, _)| lookup)
    }

    pub(super) fn lookups_with_spans(&self) -> impl Iterator<Item = (&DeferredLookup, &Range<usize>)> {
        self.parts.iter().filter_map(|part| match part {
            PendingPart::Text(_) => None,
            PendingPart::Deferred { lookup, span } => Some((lookup, span)),
        })
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
                PendingPart::Deferred { lookup, span } => match value(lookup, span)? {
                    Value::String(inner) => text.push_str(&inner),
                    scalar @ (Value::Bool(_) | Value::Number(_)) => text.push_str(&scalar.to_string()),
                    Value::Null | Value::Array(_) | Value::Object(_) => {
                        let error =
                            PlanError::new(Problem::WrongType, format!("`{lookup}` does not fit inside a text"));
                        return Err(error
                            .at(span, "a list, a mapping or null")
                            .hint("let the look-up stand alone, without text around it"));
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
    let undefined = |message: String| PlanError::new(Problem::UndefinedLookup, message).at(span, "no such output");
    let Some(named) = outputs.get(step) else {
        return Err(undefined(format!("step `{step}` has no recorded outputs"))
            .hint(format!("run it first: leave out --only and --start-from, or start from `{step}`")));
    };
    named.get(name).cloned().ok_or_else(|| {
        let error = undefined(format!("step `{step}` has no output `{name}`"));
        if named.is_empty() {
            return error.hint("it has no outputs");
        }
        error.hint(format!("it has {}", quoted_list(named.keys().map(String::as_str))))
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
            Self::Deferred(later) => later.fmt(f),
        }
    }
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TemplatePart {
    Text(String),
    Lookup { lookup: PlanLookup, span: Range<usize> },
}

/// Splits a text into literal pieces and look-ups.
///
/// `written` is the source of the scalar and `start` its offset, to place carets: a scalar's value and its source differ by
/// quotes, escapes and folds, but a look-up nearly always stands in the source as it is.
pub(super) fn parse(text: &str, written: &str, start: usize) -> Result<Vec<TemplatePart>, PlanError> {
    let mut parts = Vec::new();
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
                let error = PlanError::new(Problem::BadExpression, "a look-up has no end").at(&span, "never closed");
                return Err(error.hint("write `${{ vars.name }}`, or `$${{` for a literal `${{`"));
            };
            if !literal.is_empty() {
                parts.push(TemplatePart::Text(std::mem::take(&mut literal)));
            }
            parts.push(TemplatePart::Lookup { lookup: lookup(inside[..end].trim(), &span)?, span });
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
    Ok(parts)
}

const ROOTS: &[&str] = &["release", "vars", "env", "steps", "run", "secrets"];

fn lookup(inside: &str, span: &Range<usize>) -> Result<PlanLookup, PlanError> {
    let bad = |label: &str, hint: &str| {
        let error = PlanError::new(Problem::BadExpression, format!("`{inside}` is not a look-up"));
        Err(error.at(span, label).hint(hint))
    };
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let path: Vec<&str> = inside.split('.').collect();
    if inside.is_empty() {
        return bad("nothing in it", "name a value, such as `${{ release }}`");
    }
    if !path.iter().all(|segment| word(segment)) {
        return bad("only names and dots", "plans have look-ups only: no operators, functions or quotes");
    }
    Ok(match path.as_slice() {
        ["release"] => PlanLookup::Release,
        ["vars", name] => PlanLookup::Variable((*name).to_owned()),
        ["env", name] => PlanLookup::Environment((*name).to_owned()),
        ["secrets", name] => PlanLookup::Secret((*name).to_owned()),
        ["run", "id"] => PlanLookup::Deferred(DeferredLookup::RunId),
        ["run", "attempt"] => PlanLookup::Deferred(DeferredLookup::RunAttempt),
        ["steps", step, name] => match step.parse() {
            Ok(step) => PlanLookup::Deferred(DeferredLookup::Output { step, name: (*name).to_owned() }),
            Err(_) => return bad("not a step name", "write `steps.STEP.OUTPUT`"),
        },
        ["release", ..] => return bad("the release is a text", "write `${{ release }}`: the label"),
        ["vars", ..] => return bad("one name after `vars`", "write `vars.NAME`"),
        ["env", ..] => return bad("one name after `env`", "write `env.NAME`"),
        ["secrets", ..] => return bad("one name after `secrets`", "write `secrets.NAME`"),
        ["steps", ..] => return bad("a step and an output after `steps`", "write `steps.STEP.OUTPUT`"),
        ["run", ..] => return bad("`id` or `attempt` after `run`", "write `run.id` or `run.attempt`"),
        [root, ..] => {
            let error = PlanError::new(Problem::UndefinedLookup, format!("there is no `{root}` to look up"));
            let hint = match closest_match(root, ROOTS.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", quoted_list(ROOTS.iter().copied())),
            };
            return Err(error.at(span, "undefined").hint(hint));
        }
        [] => unreachable!("splitting yields at least one segment"),
    })
}
