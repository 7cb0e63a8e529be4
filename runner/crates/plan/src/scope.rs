//! The values of lookups, and where each lookup is allowed.
//!
//! Invariant: a secret reaches only [`ConfidentialText`] values, and no error contains its value. A lookup that is known only
//! while steps run becomes a [`PendingValue`]. Deliberately absent: the process environment; the caller passes a function.

use std::{collections::BTreeMap, ops::Range, path::Path};

use serde_json::{Map, Value};

use super::{
    ConfidentialText, PlanHost,
    error::{PlanError, PlanErrorCollector, closest_match, quoted_list},
    expression::{self, DeferredLookup, HostLookup, PendingPart, PendingValue, PlanLookup, TemplatePart},
    fields::wrong_type,
    forgotten_dollar,
    yaml::{YamlNode, YamlValue},
};
use contract::{EnvironmentName, Label, Secret, error_code::ErrorCode, text::pointer_token};

/// A position in the plan that may contain lookups; it decides which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookupSite {
    /// Reads a value under `vars`.
    Variables,
    /// `state`.
    State,
    /// Anything in `with`.
    Config,
    /// A grant that journal and reports show in full.
    Grant,
    /// A grant whose value is confidential: a header, a database, an environment variable.
    Confidential,
}

/// A variable of the plan.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PlanVariable {
    value: Value,
    /// The form that is used inside a string: a number keeps its spelling, such as `1.10`.
    written: String,
    origin: ValueOrigin,
}

/// Whether a value changes from release to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueOrigin {
    Fixed,
    Release,
}

/// All values that can be looked up before the run.
#[derive(Clone)]
pub(super) struct LookupScope<'a> {
    /// The plan's text, for the positions of errors.
    pub(super) text: &'a str,
    pub(super) environment: &'a EnvironmentName,
    pub(super) release: &'a Label,
    /// The plan's absolute folder.
    pub(super) plan_dir: &'a Path,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// The host that a step runs on; none on the runner's machine, and outside of steps.
    pub(super) host: Option<std::sync::Arc<PlanHost>>,
    /// `None` for a variable whose error has been reported.
    pub(super) variables: BTreeMap<String, Option<PlanVariable>>,
    /// The other environments that define a variable, for hints.
    pub(super) defined_in: BTreeMap<String, Vec<String>>,
    /// The secrets that the environment declares.
    pub(super) secrets: BTreeMap<String, DeclaredSecret>,
    /// The other environments that declare a secret, for hints.
    pub(super) secrets_in: BTreeMap<String, Vec<String>>,
}

/// A secret that the plan declares.
#[derive(Clone, Debug)]
pub(super) enum DeclaredSecret {
    /// Its value, and the environment variable that contains it.
    Set { value: Secret, variable: String },
    /// It has no value, which is an error as soon as something uses it.
    Unset { error: PlanError, variable: String },
    /// Its error has been reported.
    Invalid,
}

/// A configuration with its lookups substituted as far as possible.
pub(super) struct SubstitutedConfig {
    pub(super) value: Value,
    pub(super) pending: BTreeMap<String, PendingValue>,
    /// The byte ranges of the values, by JSON pointer.
    pub(super) spans: BTreeMap<String, Range<usize>>,
    /// The byte ranges of the keys, by JSON pointer to their values.
    pub(super) key_spans: BTreeMap<String, Range<usize>>,
}

/// A piece of a string after lookup.
enum TemplatePiece {
    Text(String),
    Known(PlanVariable),
    Secret { name: String, value: Secret },
    Deferred { lookup: DeferredLookup, span: Range<usize> },
    ReleasePath { span: Range<usize> },
}

impl LookupScope<'_> {
    /// Reads a value under `vars`.
    pub(super) fn variable(
        &self,
        node: &YamlNode,
        what: &str,
        problems: &mut PlanErrorCollector,
    ) -> Option<PlanVariable> {
        let fixed = |value: Value, written: String| PlanVariable { value, written, origin: ValueOrigin::Fixed };
        match &node.kind {
            YamlValue::Bool(value) => Some(fixed(Value::Bool(*value), value.to_string())),
            YamlValue::Number { value, written } => Some(fixed(Value::Number(value.clone()), written.clone())),
            YamlValue::Text(text) => {
                let pieces = self.pieces(text, &node.span, LookupSite::Variables, problems)?;
                let from_release = pieces.iter().any(|piece| {
                    matches!(piece, TemplatePiece::Known(PlanVariable { origin: ValueOrigin::Release, .. }))
                });
                let written = join_pieces(&pieces).written;
                let origin = if from_release { ValueOrigin::Release } else { ValueOrigin::Fixed };
                Some(PlanVariable { value: Value::String(written.clone()), written, origin })
            }
            YamlValue::Null | YamlValue::List(_) | YamlValue::Map(_) => {
                problems.push(wrong_type(node, what, "a string, a number or a boolean"));
                None
            }
        }
    }

    /// Reads a string outside `with`.
    pub(super) fn text(
        &self,
        node: &YamlNode,
        what: &str,
        site: LookupSite,
        problems: &mut PlanErrorCollector,
    ) -> Option<String> {
        self.resolve_and_join(node, what, site, problems).map(|text| text.written)
    }

    /// Reads a string that may contain secrets.
    pub(super) fn confidential(
        &self,
        node: &YamlNode,
        what: &str,
        problems: &mut PlanErrorCollector,
    ) -> Option<ConfidentialText> {
        self.resolve_and_join(node, what, LookupSite::Confidential, problems)
    }

    /// Reads the value of `with`, an object.
    pub(super) fn config(&self, node: &YamlNode, problems: &mut PlanErrorCollector) -> Option<SubstitutedConfig> {
        let mut config = SubstitutedConfig {
            value: Value::Null,
            pending: BTreeMap::new(),
            spans: BTreeMap::new(),
            key_spans: BTreeMap::new(),
        };
        config.value = self.config_value(node, String::new(), &mut config, problems)?;
        Some(config)
    }

    fn config_value(
        &self,
        node: &YamlNode,
        pointer: String,
        into: &mut SubstitutedConfig,
        problems: &mut PlanErrorCollector,
    ) -> Option<Value> {
        into.spans.insert(pointer.clone(), node.span.clone());
        match &node.kind {
            YamlValue::Null => Some(Value::Null),
            YamlValue::Bool(value) => Some(Value::Bool(*value)),
            YamlValue::Number { value, .. } => Some(Value::Number(value.clone())),
            YamlValue::Text(text) => {
                let mut pieces = self.pieces(text, &node.span, LookupSite::Config, problems)?;
                if let [TemplatePiece::Known(_)] = pieces.as_slice() {
                    return pieces.pop().map(|piece| match piece {
                        TemplatePiece::Known(known) => known.value,
                        TemplatePiece::Text(_)
                        | TemplatePiece::Secret { .. }
                        | TemplatePiece::Deferred { .. }
                        | TemplatePiece::ReleasePath { .. } => unreachable!("matched above"),
                    });
                }
                let is_pending =
                    |piece: &_| matches!(piece, TemplatePiece::Deferred { .. } | TemplatePiece::ReleasePath { .. });
                if pieces.iter().any(is_pending) {
                    into.pending.insert(pointer, pending_value(&pieces));
                }
                Some(Value::String(join_pieces(&pieces).written))
            }
            YamlValue::List(items) => {
                let values: Vec<_> = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.config_value(item, format!("{pointer}/{index}"), into, problems))
                    .collect();
                values.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
            }
            YamlValue::Map(entries) => {
                let mut object = Map::new();
                let mut complete = Some(());
                for (key, value) in entries {
                    let pointer = format!("{pointer}/{}", pointer_token(&key.text));
                    into.key_spans.insert(pointer.clone(), key.span.clone());
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

    fn resolve_and_join(
        &self,
        node: &YamlNode,
        what: &str,
        site: LookupSite,
        problems: &mut PlanErrorCollector,
    ) -> Option<ConfidentialText> {
        match &node.kind {
            YamlValue::Text(text) => Some(join_pieces(&self.pieces(text, &node.span, site, problems)?)),
            YamlValue::Number { written, .. } => Some(public_text(written.clone())),
            YamlValue::Bool(value) => Some(public_text(value.to_string())),
            YamlValue::Null | YamlValue::List(_) | YamlValue::Map(_) => {
                problems.push(wrong_type(node, what, "a string"));
                None
            }
        }
    }

    /// Parses a string and substitutes every lookup that is known now.
    fn pieces(
        &self,
        text: &str,
        span: &Range<usize>,
        site: LookupSite,
        problems: &mut PlanErrorCollector,
    ) -> Option<Vec<TemplatePiece>> {
        let written = &self.text[span.clone()];
        // A literal `{{ release }}` is possible through a variable.
        if site != LookupSite::Variables
            && let Some(error) = forgotten_dollar::error_in(text, written, span.start)
        {
            problems.push(error);
            return None;
        }
        let (parts, errors) = expression::parse_all(text, written, span.start);
        let is_valid = errors.is_empty();
        errors.into_iter().for_each(|error| problems.push(error));
        let pieces: Vec<_> = parts
            .into_iter()
            .map(|part| match part {
                TemplatePart::Text(text) => Some(TemplatePiece::Text(text)),
                TemplatePart::Lookup { lookup, span } => self.look_up(lookup, span, site, problems),
            })
            .collect();
        // All errors of the string are found before it is given up.
        if is_valid { pieces.into_iter().collect() } else { None }
    }

    fn look_up(
        &self,
        lookup: PlanLookup,
        span: Range<usize>,
        site: LookupSite,
        problems: &mut PlanErrorCollector,
    ) -> Option<TemplatePiece> {
        if let Some((why, hint)) = lookup_denial(&lookup, site) {
            let error =
                PlanError::new(ErrorCode::LookupNotAllowed, format!("`{lookup}` cannot be looked up here: {why}"));
            problems.push(error.at(&span, "not here").hint(hint));
            return None;
        }
        let known = |text: String, origin| {
            Some(TemplatePiece::Known(PlanVariable { value: Value::String(text.clone()), written: text, origin }))
        };
        match lookup {
            PlanLookup::Release => known(self.release.to_string(), ValueOrigin::Release),
            PlanLookup::Variable(name) => match self.variables.get(&name) {
                Some(Some(PlanVariable { origin: ValueOrigin::Release, .. })) if site == LookupSite::State => {
                    let message = format!("`vars.{name}` depends on the release, which `state` cannot do");
                    let error =
                        PlanError::new(ErrorCode::LookupNotAllowed, message).at(&span, "changes with each release");
                    problems.push(error.hint("use a variable without `release`; all releases share one history"));
                    None
                }
                Some(Some(variable)) => Some(TemplatePiece::Known(variable.clone())),
                Some(None) => {
                    problems.note_repeated();
                    None
                }
                None => {
                    problems.push(self.undefined_variable(&name, &span));
                    None
                }
            },
            PlanLookup::Environment(name) => match (self.env)(&name) {
                Some(value) => known(value, ValueOrigin::Fixed),
                None => {
                    let error = PlanError::new(
                        ErrorCode::UndefinedLookup,
                        format!("the environment variable `{name}` is not set"),
                    );
                    problems.push(error.at(&span, "undefined").hint(format!("set it: `export {name}=…`")));
                    None
                }
            },
            PlanLookup::Secret(name) => {
                self.secret(&name, &span, problems).map(|value| TemplatePiece::Secret { name, value })
            }
            PlanLookup::PlanDir => match self.plan_dir.to_str() {
                Some(path) => known(path.to_owned(), ValueOrigin::Fixed),
                None => {
                    let error = PlanError::new(ErrorCode::InvalidValue, "the path of the plan's folder is not UTF-8");
                    problems.push(error.at(&span, "not readable as text").hint("move the plan to another folder"));
                    None
                }
            },
            PlanLookup::Host(lookup) => self.look_up_host(&lookup, &span, problems).map(TemplatePiece::Known),
            PlanLookup::ReleasePath => Some(TemplatePiece::ReleasePath { span }),
            PlanLookup::Deferred(lookup) => Some(TemplatePiece::Deferred { lookup, span }),
        }
    }

    fn look_up_host(
        &self,
        lookup: &HostLookup,
        span: &Range<usize>,
        problems: &mut PlanErrorCollector,
    ) -> Option<PlanVariable> {
        let Some(host) = &self.host else {
            let message = format!("`{}` has no value: the step runs on no host", PlanLookup::Host(lookup.clone()));
            let error = PlanError::new(ErrorCode::UndefinedLookup, message).at(span, "undefined");
            problems.push(error.hint("add `on: GROUP` to the step, with a group of the environment's `hosts`"));
            return None;
        };
        let fixed = |text: String| PlanVariable {
            value: Value::String(text.clone()),
            written: text,
            origin: ValueOrigin::Fixed,
        };
        let name = match lookup {
            HostLookup::Name => return Some(fixed(host.name.to_string())),
            HostLookup::Address => return Some(fixed(host.address.host().to_owned())),
            HostLookup::Variable(name) => name,
        };
        match host.variables.get(name) {
            Some(Some(variable)) => Some(variable.clone()),
            Some(None) => {
                problems.note_repeated();
                None
            }
            None => {
                let names = || host.variables.keys().map(String::as_str);
                let hint = match closest_match(name, names()) {
                    Some(near) => format!("did you mean `host.vars.{near}`?"),
                    None => format!("add `vars: {{ {name}: … }}` to host `{}`", host.name),
                };
                let message = format!("host `{}` has no variable `{name}`", host.name);
                problems.push(PlanError::new(ErrorCode::UndefinedLookup, message).at(span, "undefined").hint(hint));
                None
            }
        }
    }

    /// The value of a secret that something uses at `span`.
    pub(super) fn secret(&self, name: &str, span: &Range<usize>, problems: &mut PlanErrorCollector) -> Option<Secret> {
        match self.secrets.get(name) {
            Some(DeclaredSecret::Set { value, .. }) => return Some(value.clone()),
            Some(DeclaredSecret::Unset { error, .. }) => problems.push(error.clone()),
            Some(DeclaredSecret::Invalid) => problems.note_repeated(),
            None => problems.push(self.undefined_secret(name, span)),
        }
        None
    }

    fn undefined_variable(&self, name: &str, span: &Range<usize>) -> PlanError {
        let message = format!("environment `{}` has no variable `{name}`", self.environment);
        let names = || self.variables.keys().map(String::as_str);
        let hint = if let Some(others) = self.defined_in.get(name) {
            format!(
                "define it here too, or for all environments under `vars:`; it is defined for {}",
                quoted_list(others.iter().map(String::as_str))
            )
        } else if let Some(near) = closest_match(name, names()) {
            format!("did you mean `vars.{near}`?")
        } else if self.variables.is_empty() {
            format!("define it under `vars:`, as in `vars: {{ {name}: … }}`")
        } else {
            format!("use one of {}", quoted_list(names()))
        };
        PlanError::new(ErrorCode::UndefinedLookup, message).at(span, "undefined").hint(hint)
    }

    fn undefined_secret(&self, name: &str, span: &Range<usize>) -> PlanError {
        let names = || self.secrets.keys().map(String::as_str);
        let hint = if let Some(others) = self.secrets_in.get(name) {
            format!(
                "declare it for `{}` too, under `secrets:`; it is declared for {}",
                self.environment,
                quoted_list(others.iter().map(String::as_str))
            )
        } else if let Some(near) = closest_match(name, names()) {
            format!("did you mean `{near}`?")
        } else if self.secrets.is_empty() {
            format!("declare it at the top of the plan: `secrets: {{ {name}: env:{name} }}`")
        } else {
            format!("use one of {}", quoted_list(names()))
        };
        PlanError::new(ErrorCode::UndefinedLookup, format!("the plan has no secret `{name}`"))
            .at(span, "undefined")
            .hint(hint)
    }
}

/// Whether a text under `node` looks up the step's host, so that its value is another one on each.
pub(super) fn depends_on_host(node: &YamlNode) -> bool {
    match &node.kind {
        YamlValue::Text(text) => expression::parse(text, text, 0).is_ok_and(|parts| {
            parts.iter().any(|part| matches!(part, TemplatePart::Lookup { lookup: PlanLookup::Host(_), .. }))
        }),
        YamlValue::List(items) => items.iter().any(depends_on_host),
        YamlValue::Map(entries) => entries.iter().any(|(_, value)| depends_on_host(value)),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } => false,
    }
}

/// Why a lookup is not allowed at a position, and what to do instead.
fn lookup_denial(lookup: &PlanLookup, site: LookupSite) -> Option<(&'static str, &'static str)> {
    match (lookup, site) {
        (PlanLookup::Environment(_) | PlanLookup::PlanDir, _)
        | (
            PlanLookup::Release,
            LookupSite::Variables | LookupSite::Config | LookupSite::Grant | LookupSite::Confidential,
        )
        | (
            PlanLookup::Variable(_),
            LookupSite::State | LookupSite::Config | LookupSite::Grant | LookupSite::Confidential,
        )
        | (PlanLookup::Secret(_), LookupSite::Confidential)
        | (PlanLookup::Host(_), LookupSite::Config | LookupSite::Grant | LookupSite::Confidential)
        | (PlanLookup::Deferred(_) | PlanLookup::ReleasePath, LookupSite::Config) => None,
        (PlanLookup::Host(_), LookupSite::Variables | LookupSite::State) => Some((
            "only a step runs on a host",
            "use `host` in `with` and `grants` of a step with `on`, and in `dirs` and `http` at the top of the plan",
        )),
        (PlanLookup::Release, LookupSite::State) => {
            Some(("all releases share one state", "remove it; each release would have its own history"))
        }
        (PlanLookup::Variable(_), LookupSite::Variables) => {
            Some(("a variable cannot use another variable", "use `env` or `release`"))
        }
        (PlanLookup::Secret(_), LookupSite::Variables | LookupSite::State | LookupSite::Config | LookupSite::Grant) => {
            Some((
                "this value is written to the journal",
                "use secrets only in granted headers, database URLs and `grants: { env: … }`",
            ))
        }
        (PlanLookup::Deferred(_) | PlanLookup::ReleasePath, LookupSite::Variables | LookupSite::State) => {
            Some(("it is known only while steps run", "use `steps`, `run` and `release.path` only in `with`"))
        }
        (PlanLookup::Deferred(_) | PlanLookup::ReleasePath, LookupSite::Grant | LookupSite::Confidential) => Some((
            "grants are fixed before any step runs",
            "use `vars` in grants; `steps`, `run` and `release.path` work only in `with`",
        )),
    }
}

fn public_text(text: String) -> ConfidentialText {
    ConfidentialText { written: text.clone(), value: Secret::new(text) }
}

/// Joins pieces twice: as reports see the string, and with secrets.
fn join_pieces(pieces: &[TemplatePiece]) -> ConfidentialText {
    let (mut written, mut value) = (String::new(), String::new());
    for piece in pieces {
        match piece {
            TemplatePiece::Text(text) | TemplatePiece::Known(PlanVariable { written: text, .. }) => {
                written.push_str(text);
                value.push_str(text);
            }
            TemplatePiece::Secret { name, value: secret } => {
                written.push_str(&format!("${{{{ secrets.{name} }}}}"));
                value.push_str(secret.reveal());
            }
            TemplatePiece::Deferred { lookup, .. } => {
                let text = format!("${{{{ {lookup} }}}}");
                written.push_str(&text);
                value.push_str(&text);
            }
            TemplatePiece::ReleasePath { .. } => {
                let text = format!("${{{{ {} }}}}", PlanLookup::ReleasePath);
                written.push_str(&text);
                value.push_str(&text);
            }
        }
    }
    ConfidentialText { written, value: Secret::new(value) }
}

fn pending_value(pieces: &[TemplatePiece]) -> PendingValue {
    let parts = pieces.iter().map(|piece| match piece {
        TemplatePiece::Text(text) | TemplatePiece::Known(PlanVariable { written: text, .. }) => {
            PendingPart::Text(text.clone())
        }
        TemplatePiece::Secret { .. } => unreachable!("`lookup_denial` keeps secrets out of `with`"),
        TemplatePiece::Deferred { lookup, span } => {
            PendingPart::Deferred { lookup: lookup.clone(), span: span.clone() }
        }
        TemplatePiece::ReleasePath { span } => PendingPart::ReleasePath { span: span.clone() },
    });
    PendingValue { parts: parts.collect() }
}
