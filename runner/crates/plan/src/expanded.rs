//! Writes a plan in its long form: one environment, each short form spelled out, each lookup substituted that is known before
//! the run.
//!
//! Invariant: the result is a valid plan, which grants its steps exactly the same. Plans of one meaning have one text: keys of `with`
//! and lists of grants are sorted. Secrets stay lookups, and a password in a database URL is masked. Deliberately absent: comments, what
//! other environments differ in, and hosts, so a plan that [runs on hosts](Plan::runs_on_hosts) has no long form yet.

use std::{path::Path, time::Duration};

use saphyr::{Scalar, ScalarStyle, Yaml, YamlEmitter};
use serde_json::{Map, Value};

use super::{
    ArgumentPattern, ConfidentialText, DirAccess, EffectPlace, EnvGrant, HttpGrant, ModuleRef, NetworkScope, OnFailure,
    Plan, PlanStep, SecretAccess, StateLocation, StepTrust,
    expression::{PendingPart, PendingValue},
    forgotten_dollar::{self, IncompleteLookup, LookupLack},
    implied_grants,
    step::DEFAULT_TIMEOUT,
};
use contract::{StepId, hash::canonical_json, text::pointer_token};

/// The variable for the location of the state, where it differs between the environments.
const STATE: &str = "state";

/// The variables for texts that would mean something else if they were written as they are. An expanded plan has no others.
const LITERALS: [(&str, &str); 4] = [("star", "*"), ("stars", "**"), ("dollar", "$"), ("braces", "{{")];

impl Plan {
    /// The long form of the plan as YAML.
    ///
    /// # Panics
    /// Never: a string can be written to.
    #[must_use]
    pub fn expanded_text(&self) -> String {
        let mut text = String::new();
        let mut emitter = YamlEmitter::new(&mut text);
        emitter.multiline(true);
        emitter.dump(&yaml(&self.expanded())).expect("a string can be written to");
        text.trim_start_matches("---\n").to_owned() + "\n"
    }

    /// The long form of the plan: the same keys, with the values of this environment and release.
    #[must_use]
    pub fn expanded(&self) -> Value {
        let mut plan = Map::new();
        plan.insert("version".into(), 1.into());
        plan.insert("app".into(), self.app.as_str().into());
        let state = escaped(&self.written_state(&self.state));
        let states = self.after_state.as_ref().map(|other| (state.clone(), escaped(&self.written_state(other))));
        // Without a variable, `after` would look for the other environment's history in the state of this one.
        let states = states.filter(|(own, other)| own != other && !own.contains("${{") && !other.contains("${{"));
        let written = if states.is_some() { format!("${{{{ vars.{STATE} }}}}") } else { state };
        plan.insert("state".into(), written.into());
        if let StateLocation::Remote(state) = &self.state {
            plan.insert("lock".into(), object([("ttl", written_duration(state.ttl).into())]));
        }
        let secrets: Map<_, _> = self
            .secret_variables
            .iter()
            .map(|(name, variable)| (name.clone(), format!("env:{variable}").into()))
            .collect();
        insert_filled(&mut plan, "secrets", secrets);
        plan.insert("environments".into(), self.expanded_environments(states));
        insert_filled(&mut plan, "setup", self.expanded_steps(&self.setup));
        plan.insert("steps".into(), self.expanded_steps(&self.steps).into());
        let hooks =
            [("before", &self.hooks.before), ("after", &self.hooks.after), ("on-failure", &self.hooks.on_failure)];
        let hooks = hooks.into_iter().filter(|(_, steps)| !steps.is_empty()).map(|(hook, steps)| {
            let items = steps.iter().map(|step| {
                Value::Object([(step.id.to_string(), self.expanded_step(step, None))].into_iter().collect())
            });
            (hook.to_owned(), items.collect())
        });
        insert_filled(&mut plan, "hooks", hooks.collect());
        if let Some(keep) = self.keep {
            plan.insert("keep".into(), keep.into());
        }
        if self.on_failure == OnFailure::Rollback {
            plan.insert("on-failure".into(), "rollback".into());
        }
        let text = Value::from(plan.clone()).to_string();
        let used = LITERALS.into_iter().filter(|(name, _)| text.contains(&lookup_of(name)));
        insert_filled(&mut plan, "vars", used.map(|(name, literal)| (name.to_owned(), literal.into())).collect());
        Value::Object(plan)
    }

    fn written_state(&self, state: &StateLocation) -> String {
        match state {
            StateLocation::Dir(path) => format!("dir:{}", self.written_path(path)),
            StateLocation::Remote(state) => state.written.clone(),
        }
    }

    /// A path, relative to the plan's folder if it is in there.
    fn written_path(&self, path: &Path) -> String {
        match path.strip_prefix(&self.source.folder) {
            Ok(inside) if inside.as_os_str().is_empty() => ".".to_owned(),
            Ok(inside) => format!("./{}", inside.display()),
            Err(_) => path.display().to_string(),
        }
    }

    /// The environment, and the one before it. `states` are their locations, if they differ.
    fn expanded_environments(&self, states: Option<(String, String)>) -> Value {
        let mut environment = Map::new();
        let variables = |state: String| Value::Object([(STATE.to_owned(), state.into())].into_iter().collect());
        let (own_state, other_state) = states.unzip();
        if let Some(state) = own_state {
            environment.insert("vars".into(), variables(state));
        }
        if let Some(after) = &self.after {
            environment.insert("after".into(), after.as_str().into());
        }
        let operators: Vec<_> = self.allow.iter().map(|operator| Value::from(operator.to_string())).collect();
        if !operators.is_empty() {
            environment.insert("allow".into(), operators.into());
        }
        if let Some(url) = &self.url {
            environment.insert("url".into(), escaped(url).into());
        }
        let own = if environment.is_empty() { Value::Null } else { environment.into() };
        let mut all: Map<_, _> = [(self.environment.to_string(), own)].into_iter().collect();
        if let Some(after) = &self.after {
            let vars = other_state.map(|state| object([("vars", variables(state))]));
            all.insert(after.to_string(), vars.unwrap_or(Value::Null));
        }
        all.into()
    }

    fn expanded_steps(&self, steps: &[PlanStep]) -> Map<String, Value> {
        let mut previous: Option<&StepId> = None;
        let mut expanded = Map::new();
        for step in steps {
            let default: Vec<StepId> = previous.into_iter().cloned().collect();
            let needs =
                (step.needs != default).then(|| step.needs.iter().map(|need| Value::from(need.as_str())).collect());
            expanded.insert(step.id.to_string(), self.expanded_step(step, needs));
            previous = Some(&step.id);
        }
        expanded
    }

    fn expanded_step(&self, step: &PlanStep, needs: Option<Value>) -> Value {
        let mut fields = Map::new();
        let uses = match &step.uses {
            ModuleRef::Official(name) => name.clone(),
            ModuleRef::File(path) => self.written_path(path),
            ModuleRef::Registry(reference) => reference.to_string(),
        };
        fields.insert("uses".into(), uses.into());
        fields.extend(needs.map(|needs| ("needs".to_owned(), needs)));
        if step.trust == StepTrust::Host {
            fields.insert("trust".into(), "host".into());
        }
        let with = canonical_json(&written_config(&step.with, "", step));
        insert_filled(&mut fields, "with", with.as_object().cloned().unwrap_or_default());
        insert_filled(&mut fields, "grants", self.expanded_grants(step));
        if step.timeout != DEFAULT_TIMEOUT {
            fields.insert("timeout".into(), written_duration(step.timeout).into());
        }
        if step.retry > 0 {
            fields.insert("retry".into(), step.retry.into());
        }
        for (key, is_set) in [("irreversible", step.irreversible), ("always", step.always)] {
            if is_set {
                fields.insert(key.into(), true.into());
            }
        }
        if let Some(repeats) = step.after_undo {
            fields.insert("after-undo".into(), repeats.into());
        }
        if step.effects == EffectPlace::Elsewhere {
            fields.insert("effects".into(), "elsewhere".into());
        }
        if let Some(confirm) = &step.confirm {
            fields.insert("confirm".into(), written_duration(confirm.within).into());
        }
        fields.into()
    }

    /// The grants of a step. An empty list of `http` or `programs` is written where its `with` would grant something otherwise.
    fn expanded_grants(&self, step: &PlanStep) -> Map<String, Value> {
        let grants = &step.grants;
        let mut fields = Map::new();
        let dirs = grants.dirs.iter().map(|(name, grant)| {
            let suffix = if grant.access == DirAccess::ReadOnly { ":ro" } else { ":rw" };
            (name.to_string(), Value::from(format!("{}{suffix}", escaped(&self.written_path(&grant.path)))))
        });
        insert_filled(&mut fields, "dirs", dirs.collect());
        if !grants.http.is_empty() || !implied_grants::origins(&step.uses, &step.with, &step.pending).is_empty() {
            // Of two grants of one origin, the first counts.
            let mut http: Vec<_> = grants.http.iter().collect();
            http.sort_by_key(|grant| (&grant.host, grant.port, &grant.scheme));
            fields.insert("http".into(), http.into_iter().map(|grant| self.expanded_http(grant)).collect());
        }
        let tcp: Vec<_> = grants.tcp.iter().map(|address| Value::from(address.as_str())).collect();
        if !tcp.is_empty() {
            fields.insert("tcp".into(), tcp.into());
        }
        let databases = grants.databases.iter();
        let databases = databases.map(|(name, grant)| (name.to_string(), self.written_secretly(&grant.url).into()));
        insert_filled(&mut fields, "databases", databases.collect());
        if !grants.programs.is_empty() || !implied_grants::programs(&step.uses, &step.with, &step.pending).is_empty() {
            let programs =
                grants.programs.iter().map(|grant| grant.arguments.iter().map(written_pattern).collect::<Value>());
            let mut programs: Vec<Value> = programs.collect();
            programs.sort_by_key(Value::to_string);
            fields.insert("programs".into(), programs.into());
        }
        let env = grants.env.iter().map(|(name, grant)| match grant {
            EnvGrant::Set(value) => (name.clone(), self.written_secretly(value).into()),
            EnvGrant::SetByStep => (name.clone(), Value::Null),
        });
        insert_filled(&mut fields, "env", env.collect());
        let sockets = grants.sockets.iter();
        let sockets = sockets
            .map(|(name, path)| (name.to_string(), format!("unix:{}", escaped(&path.display().to_string())).into()));
        insert_filled(&mut fields, "sockets", sockets.collect());
        let renders = grants.renders.iter();
        let renders = renders.map(|(name, dir)| (name.to_string(), escaped(&dir.path.display().to_string()).into()));
        insert_filled(&mut fields, "renders", renders.collect());
        let secrets = grants.secrets.iter().map(|(name, grant)| {
            (name.clone(), if grant.access == SecretAccess::Reveal { "reveal" } else { "use" }.into())
        });
        insert_filled(&mut fields, "secrets", secrets.collect());
        fields
    }

    fn expanded_http(&self, grant: &HttpGrant) -> Value {
        let origin = Value::from(grant.origin());
        let is_plain = grant.methods.is_none() && grant.network == NetworkScope::Public && grant.headers.is_empty();
        if is_plain {
            return origin;
        }
        let mut fields: Map<String, Value> = [("origin".to_owned(), origin)].into_iter().collect();
        if let Some(methods) = &grant.methods {
            fields.insert("methods".into(), methods.iter().map(|method| Value::from(method.as_str())).collect());
        }
        if grant.network == NetworkScope::Private {
            fields.insert("private".into(), true.into());
        }
        let headers = grant.headers.iter().map(|(name, value)| (name.clone(), self.written_secretly(value).into()));
        insert_filled(&mut fields, "headers", headers.collect());
        fields.into()
    }

    /// A text with lookups of this plan's secrets, where every other `${{` is literal.
    fn written_secretly(&self, text: &ConfidentialText) -> String {
        let mut out = String::new();
        let mut literal = String::new();
        let mut rest = text.written.as_str();
        while let Some(start) = rest.find("${{") {
            let (before, after) = rest.split_at(start);
            literal += before;
            let name = after.strip_prefix("${{ secrets.").and_then(|inside| inside.split_once(" }}"));
            match name.filter(|(name, _)| self.secret_variables.contains_key(*name)) {
                Some((name, left)) => {
                    out += &escaped_before_lookup(&std::mem::take(&mut literal));
                    out += &format!("${{{{ secrets.{name} }}}}");
                    rest = left;
                }
                None => {
                    literal += "${{";
                    rest = &after["${{".len()..];
                }
            }
        }
        out + &escaped(&(literal + rest))
    }
}

fn yaml(value: &Value) -> Yaml<'_> {
    match value {
        Value::Null => Yaml::Value(Scalar::Null),
        Value::Bool(value) => Yaml::Value(Scalar::Boolean(*value)),
        Value::Number(number) => Yaml::Representation(number.to_string().into(), ScalarStyle::Plain, None),
        Value::String(text) => Yaml::Value(Scalar::String(text.as_str().into())),
        Value::Array(items) => Yaml::Sequence(items.iter().map(yaml).collect()),
        Value::Object(entries) => {
            let entries =
                entries.iter().map(|(key, value)| (Yaml::Value(Scalar::String(key.as_str().into())), yaml(value)));
            Yaml::Mapping(entries.collect())
        }
    }
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Value {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
}

fn insert_filled(fields: &mut Map<String, Value>, key: &str, entries: Map<String, Value>) {
    if !entries.is_empty() {
        fields.insert(key.to_owned(), entries.into());
    }
}

fn lookup_of(variable: &str) -> String {
    format!("${{{{ vars.{variable} }}}}")
}

/// A text in which nothing is a lookup.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(IncompleteLookup { range, lack }) = forgotten_dollar::first_lookup(rest) {
        out += &rest[..range.start].replace("${{", "$${{");
        let (variable, text) = match lack {
            LookupLack::Dollar => ("braces", "{{"),
            LookupLack::Brace => ("dollar", "$"),
        };
        out += &lookup_of(variable);
        rest = &rest[range.start + text.len()..];
    }
    out + &rest.replace("${{", "$${{")
}

/// The same before a lookup: a `$` right before it would escape it.
fn escaped_before_lookup(text: &str) -> String {
    match text.strip_suffix('$') {
        Some(start) => escaped(start) + &lookup_of("dollar"),
        None => escaped(text),
    }
}

fn written_pattern(pattern: &ArgumentPattern) -> Value {
    match pattern {
        ArgumentPattern::AnyOne => "*".into(),
        ArgumentPattern::AnyRest => "**".into(),
        ArgumentPattern::Exact(text) if text == "*" => lookup_of("star").into(),
        ArgumentPattern::Exact(text) if text == "**" => lookup_of("stars").into(),
        ArgumentPattern::Exact(text) => escaped(text).into(),
    }
}

/// The configuration with the lookups that are known only later, and no others.
fn written_config(value: &Value, pointer: &str, step: &PlanStep) -> Value {
    if let Some(pending) = step.pending.get(pointer) {
        return written_pending(pending).into();
    }
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        Value::String(text) => escaped(text).into(),
        Value::Array(items) => {
            let items =
                items.iter().enumerate().map(|(index, item)| written_config(item, &format!("{pointer}/{index}"), step));
            items.collect()
        }
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, item)| {
                let at = format!("{pointer}/{}", pointer_token(key));
                (key.clone(), written_config(item, &at, step))
            });
            entries.collect::<Map<_, _>>().into()
        }
    }
}

fn written_pending(pending: &PendingValue) -> String {
    let following = pending.parts.iter().skip(1).map(Some).chain([None]);
    let parts = pending.parts.iter().zip(following).map(|(part, next)| match (part, next) {
        (PendingPart::Text(text), Some(PendingPart::Deferred { .. })) => escaped_before_lookup(text),
        (PendingPart::Text(text), _) => escaped(text),
        (PendingPart::Deferred { lookup, .. }, _) => format!("${{{{ {lookup} }}}}"),
        (PendingPart::ReleasePath { .. }, _) => unreachable!("a complete plan has none"),
    });
    parts.collect()
}

/// A duration as a plan writes it: in the largest unit that leaves a whole number.
fn written_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let (size, unit) = units.into_iter().find(|(size, _)| milliseconds.is_multiple_of(*size)).unwrap_or((1, "ms"));
    format!("{}{unit}", milliseconds / size)
}
