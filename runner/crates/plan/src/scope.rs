//! The values of look-ups, and where each may stand.
//!
//! Invariant: a secret reaches [`Confidential`] values only, and no error holds its value. What is known only while steps
//! run becomes [`Pending`]. Deliberately absent: the process environment; the caller passes a function.

use std::{collections::BTreeMap, ops::Range};

use serde_json::{Map, Value};

use super::{
    Confidential,
    error::{PlanError, Problem, Problems, closest, listed},
    expression::{self, Later, Lookup, Part, Pending, PendingPart},
    fields::wrong_type,
    yaml::{Kind, Node},
};
use contract::{EnvironmentName, Label, Secret};

/// A place in the plan that may hold look-ups; it decides which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A value under `vars`.
    Variables,
    /// `state`.
    State,
    /// Anything in `with`.
    Config,
    /// A grant that ends up in journal and reports as it is.
    Grant,
    /// A grant whose value is confidential: a header, a database, an environment variable.
    Confidential,
}

/// A variable of the plan.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    value: Value,
    /// As it is put inside a text: a number keeps the form in which it was written, `1.10`.
    written: String,
    origin: Origin,
}

/// Whether a value changes from release to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Fixed,
    Release,
}

/// Everything that can be looked up before the run.
pub(super) struct Scope<'a> {
    /// The plan's text, to place carets.
    pub(super) text: &'a str,
    pub(super) environment: &'a EnvironmentName,
    pub(super) release: &'a Label,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// `None` for a variable whose error has been reported.
    pub(super) variables: BTreeMap<String, Option<Variable>>,
    /// Which other environments define a variable, for hints.
    pub(super) elsewhere: BTreeMap<String, Vec<String>>,
    /// `None` for a secret whose error has been reported.
    pub(super) secrets: BTreeMap<String, Option<Secret>>,
}

/// A configuration with its look-ups substituted as far as possible.
pub(super) struct Config {
    pub(super) value: Value,
    pub(super) pending: BTreeMap<String, Pending>,
    pub(super) spans: BTreeMap<String, Range<usize>>,
}

/// A piece of a text after look-up.
enum Piece {
    Text(String),
    Known(Variable),
    Secret { name: String, value: Secret },
    Later { lookup: Later, span: Range<usize> },
}

impl Scope<'_> {
    /// A value under `vars`.
    pub(super) fn variable(&self, node: &Node, what: &str, problems: &mut Problems) -> Option<Variable> {
        let fixed = |value: Value, written: String| Variable { value, written, origin: Origin::Fixed };
        match &node.kind {
            Kind::Bool(value) => Some(fixed(Value::Bool(*value), value.to_string())),
            Kind::Number { value, written } => Some(fixed(Value::Number(value.clone()), written.clone())),
            Kind::Text(text) => {
                let pieces = self.pieces(text, &node.span, Place::Variables, problems)?;
                let from_release =
                    pieces.iter().any(|piece| matches!(piece, Piece::Known(Variable { origin: Origin::Release, .. })));
                let written = joined(&pieces).written;
                let origin = if from_release { Origin::Release } else { Origin::Fixed };
                Some(Variable { value: Value::String(written.clone()), written, origin })
            }
            Kind::Null | Kind::List(_) | Kind::Map(_) => {
                problems.push(wrong_type(node, what, "a text, a number or a boolean"));
                None
            }
        }
    }

    /// A text outside `with`.
    pub(super) fn text(&self, node: &Node, what: &str, place: Place, problems: &mut Problems) -> Option<String> {
        self.joined(node, what, place, problems).map(|text| text.written)
    }

    /// A text that may hold secrets.
    pub(super) fn confidential(&self, node: &Node, what: &str, problems: &mut Problems) -> Option<Confidential> {
        self.joined(node, what, Place::Confidential, problems)
    }

    /// The value of `with`: an object.
    pub(super) fn config(&self, node: &Node, problems: &mut Problems) -> Option<Config> {
        let mut config = Config { value: Value::Null, pending: BTreeMap::new(), spans: BTreeMap::new() };
        config.value = self.config_value(node, String::new(), &mut config, problems)?;
        Some(config)
    }

    fn config_value(&self, node: &Node, pointer: String, into: &mut Config, problems: &mut Problems) -> Option<Value> {
        into.spans.insert(pointer.clone(), node.span.clone());
        match &node.kind {
            Kind::Null => Some(Value::Null),
            Kind::Bool(value) => Some(Value::Bool(*value)),
            Kind::Number { value, .. } => Some(Value::Number(value.clone())),
            Kind::Text(text) => {
                let mut pieces = self.pieces(text, &node.span, Place::Config, problems)?;
                if let [Piece::Known(_)] = pieces.as_slice() {
                    return pieces.pop().map(|piece| match piece {
                        Piece::Known(known) => known.value,
                        Piece::Text(_) | Piece::Secret { .. } | Piece::Later { .. } => unreachable!("matched above"),
                    });
                }
                if pieces.iter().any(|piece| matches!(piece, Piece::Later { .. })) {
                    into.pending.insert(pointer, pending(&pieces));
                }
                Some(Value::String(joined(&pieces).written))
            }
            Kind::List(items) => {
                let values: Vec<_> = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.config_value(item, format!("{pointer}/{index}"), into, problems))
                    .collect();
                values.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
            }
            Kind::Map(entries) => {
                let mut object = Map::new();
                let mut complete = Some(());
                for (key, value) in entries {
                    let pointer = format!("{pointer}/{}", key.text.replace('~', "~0").replace('/', "~1"));
                    match self.config_value(value, pointer, into, problems) {
                        Some(value) => {
                            object.insert(key.text.clone(), value);
                        }
                        None => complete = None,
                    }
                }
                complete.map(|()| Value::Object(object))
            }
        }
    }

    fn joined(&self, node: &Node, what: &str, place: Place, problems: &mut Problems) -> Option<Confidential> {
        match &node.kind {
            Kind::Text(text) => Some(joined(&self.pieces(text, &node.span, place, problems)?)),
            Kind::Number { written, .. } => Some(plain(written.clone())),
            Kind::Bool(value) => Some(plain(value.to_string())),
            Kind::Null | Kind::List(_) | Kind::Map(_) => {
                problems.push(wrong_type(node, what, "a text"));
                None
            }
        }
    }

    /// Parses a text and looks everything up that can be known now.
    fn pieces(&self, text: &str, span: &Range<usize>, place: Place, problems: &mut Problems) -> Option<Vec<Piece>> {
        let parts = match expression::parse(text, &self.text[span.clone()], span.start) {
            Ok(parts) => parts,
            Err(error) => {
                problems.push(error);
                return None;
            }
        };
        let pieces: Vec<_> = parts
            .into_iter()
            .map(|part| match part {
                Part::Text(text) => Some(Piece::Text(text)),
                Part::Lookup { lookup, span } => self.look_up(lookup, span, place, problems),
            })
            .collect();
        pieces.into_iter().collect()
    }

    fn look_up(&self, lookup: Lookup, span: Range<usize>, place: Place, problems: &mut Problems) -> Option<Piece> {
        if let Some((why, hint)) = denied(&lookup, place) {
            let error =
                PlanError::new(Problem::LookupNotAllowed, format!("`{lookup}` cannot be looked up here: {why}"));
            problems.push(error.at(&span, "not here").hint(hint));
            return None;
        }
        let known = |text: String, origin| {
            Some(Piece::Known(Variable { value: Value::String(text.clone()), written: text, origin }))
        };
        match lookup {
            Lookup::Release => known(self.release.to_string(), Origin::Release),
            Lookup::Variable(name) => match self.variables.get(&name) {
                Some(Some(Variable { origin: Origin::Release, .. })) if place == Place::State => {
                    let message = format!("`vars.{name}` comes from the release, which `state` cannot depend on");
                    let error =
                        PlanError::new(Problem::LookupNotAllowed, message).at(&span, "changes with each release");
                    problems.push(error.hint("each release would have a history of its own"));
                    None
                }
                Some(variable) => variable.clone().map(Piece::Known),
                None => {
                    problems.push(self.undefined_variable(&name, &span));
                    None
                }
            },
            Lookup::Environment(name) => match (self.env)(&name) {
                Some(value) => known(value, Origin::Fixed),
                None => {
                    let error = PlanError::new(
                        Problem::UndefinedLookup,
                        format!("the environment variable `{name}` is not set"),
                    );
                    problems.push(error.at(&span, "undefined").hint(format!("set it: `{name}=… runner …`")));
                    None
                }
            },
            Lookup::Secret(name) => match self.secrets.get(&name) {
                Some(secret) => secret.clone().map(|value| Piece::Secret { name, value }),
                None => {
                    problems.push(self.undefined_secret(&name, &span));
                    None
                }
            },
            Lookup::Later(lookup) => Some(Piece::Later { lookup, span }),
        }
    }

    fn undefined_variable(&self, name: &str, span: &Range<usize>) -> PlanError {
        let message = format!("environment `{}` has no variable `{name}`", self.environment);
        let names = || self.variables.keys().map(String::as_str);
        let hint = if let Some(others) = self.elsewhere.get(name) {
            format!(
                "{} has it: define it here too, or for all under `vars:`",
                listed(others.iter().map(String::as_str))
            )
        } else if let Some(near) = closest(name, names()) {
            format!("did you mean `vars.{near}`?")
        } else if self.variables.is_empty() {
            format!("define it under `vars:`, as in `vars: {{ {name}: … }}`")
        } else {
            format!("there are {}", listed(names()))
        };
        PlanError::new(Problem::UndefinedLookup, message).at(span, "undefined").hint(hint)
    }

    fn undefined_secret(&self, name: &str, span: &Range<usize>) -> PlanError {
        let names = || self.secrets.keys().map(String::as_str);
        let hint = if let Some(near) = closest(name, names()) {
            format!("did you mean `secrets.{near}`?")
        } else if self.secrets.is_empty() {
            format!("declare it: `secrets: {{ {name}: env:{name} }}`")
        } else {
            format!("there are {}", listed(names()))
        };
        PlanError::new(Problem::UndefinedLookup, format!("the plan has no secret `{name}`"))
            .at(span, "undefined")
            .hint(hint)
    }
}

/// Why a look-up may not stand in a place, and what to do instead.
fn denied(lookup: &Lookup, place: Place) -> Option<(&'static str, &'static str)> {
    match (lookup, place) {
        (Lookup::Environment(_), _)
        | (Lookup::Release, Place::Variables | Place::Config | Place::Grant | Place::Confidential)
        | (Lookup::Variable(_), Place::State | Place::Config | Place::Grant | Place::Confidential)
        | (Lookup::Secret(_), Place::Confidential)
        | (Lookup::Later(_), Place::Config) => None,
        (Lookup::Release, Place::State) => {
            Some(("the state belongs to all releases", "each release would have a history of its own"))
        }
        (Lookup::Variable(_), Place::Variables) => {
            Some(("a variable cannot use another one", "variables can use `env` and `release`"))
        }
        (Lookup::Secret(_), Place::Variables | Place::State | Place::Config | Place::Grant) => Some((
            "this value is written to the journal",
            "secrets can stand in granted headers, database URLs and `env`",
        )),
        (Lookup::Later(_), Place::Variables | Place::State) => {
            Some(("it is known only while steps run", "`steps` and `run` can be looked up in `with`"))
        }
        (Lookup::Later(_), Place::Grant | Place::Confidential) => Some((
            "what a step may reach is decided before any step runs",
            "`steps` and `run` can be looked up in `with`; use `vars` in grants",
        )),
    }
}

fn plain(text: String) -> Confidential {
    Confidential { written: text.clone(), value: Secret::new(text) }
}

/// The text as reports see it, and with secrets.
fn joined(pieces: &[Piece]) -> Confidential {
    let (mut written, mut value) = (String::new(), String::new());
    for piece in pieces {
        match piece {
            Piece::Text(text) | Piece::Known(Variable { written: text, .. }) => {
                written.push_str(text);
                value.push_str(text);
            }
            Piece::Secret { name, value: secret } => {
                written.push_str(&format!("${{{{ secrets.{name} }}}}"));
                value.push_str(secret.reveal());
            }
            Piece::Later { lookup, .. } => {
                let text = format!("${{{{ {lookup} }}}}");
                written.push_str(&text);
                value.push_str(&text);
            }
        }
    }
    Confidential { written, value: Secret::new(value) }
}

fn pending(pieces: &[Piece]) -> Pending {
    let parts = pieces.iter().map(|piece| match piece {
        Piece::Text(text) | Piece::Known(Variable { written: text, .. }) => PendingPart::Text(text.clone()),
        Piece::Secret { .. } => unreachable!("`denied` keeps secrets out of `with`"),
        Piece::Later { lookup, span } => PendingPart::Later { lookup: lookup.clone(), span: span.clone() },
    });
    Pending { parts: parts.collect() }
}
