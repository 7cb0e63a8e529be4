//! The top level of a plan: environments, secrets, variables, state; then the steps.
//!
//! The whole text is checked for every environment; values are looked up for the chosen one only, so that a variable of
//! `prod` need not be set when `test` is deployed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    AllowedOperator, DatabaseGrant, DirAccess, OnFailure, Plan, PlanErrors, PlanRequest, PlanSource, PlanStep,
    ServerUrl, StateLocation,
    error::{PlanError, PlanErrorCollector, closest_match, quoted_list},
    expression,
    fields::{self, MappingFields},
    hooks, needs_graph,
    scope::{LookupScope, LookupSite},
    state_location, step,
    yaml::{self, YamlKey, YamlNode, YamlValue},
};
use contract::{AppName, EnvironmentName, Label, Secret, error_code::ErrorCode};

const KEYS: &[&str] = &[
    "version",
    "app",
    "state",
    "lock",
    "secrets",
    "vars",
    "environments",
    "setup",
    "steps",
    "hooks",
    "keep",
    "on-failure",
];
const ENVIRONMENT_KEYS: &[&str] = &["vars", "after", "allow", "url", "hosts"];
const DEFAULT_ENVIRONMENT: &str = "default";

/// The location of an environment's history. `status` needs no more: no release, no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLocation {
    /// The application.
    pub app: AppName,
    /// The chosen environment.
    pub environment: EnvironmentName,
    /// The environment that precedes it.
    pub after: Option<EnvironmentName>,
    /// Who may change it; empty if everybody may.
    pub allow: Vec<AllowedOperator>,
    /// The location of journals and lock.
    pub state: StateLocation,
}

/// The environments of a plan in the order written; `default` if it has none.
///
/// # Errors
/// What is wrong with the text, its top-level keys or its environments.
pub fn environments(source: &PlanSource) -> Result<Vec<EnvironmentName>, PlanErrors> {
    let mut problems = PlanErrorCollector::default();
    let found = yaml::parse(&source.text, &mut problems).and_then(|root| {
        let fields = top_level(&root, &mut problems)?;
        Some(declared_environments(&fields, &mut problems).into_iter().map(|environment| environment.name).collect())
    });
    finish(found, problems, source.clone())
}

/// Locates the state of an app and environment, without a release and without secrets.
///
/// # Errors
/// What is wrong with the text, its environments, or what `state` looks up.
pub fn locate_history(
    source: &PlanSource,
    environment: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<HistoryLocation, PlanErrors> {
    let mut problems = PlanErrorCollector::default();
    let mut later = PlanErrorCollector::default();
    // `state` cannot depend on the release, so any label works.
    let release: Label = "none".parse().expect("`none` is a label");
    let found = yaml::parse(&source.text, &mut problems).and_then(|root| {
        let fields = top_level(&root, &mut problems)?;
        let environments = declared_environments(&fields, &mut problems);
        let chosen = choose_environment(&environments, environment, &mut problems);
        let app = app(&fields, &mut problems);
        let chosen = chosen?;
        // A variable that cannot be looked up now matters only if `state` uses it.
        let scope = scope(source, &release, env, &fields, &environments, chosen, &mut later);
        let state = state_location::read(&fields, &scope, source, env, &mut problems);
        let (environment, after, allow) = (chosen.name.clone(), chosen.after.clone(), chosen.allow.clone());
        Some(HistoryLocation { app: app?, environment, after, allow, state: state? })
    });
    let problems = if found.is_none() && problems.is_empty() { later } else { problems };
    finish(found, problems, source.clone())
}

pub(super) fn parse(source: PlanSource, request: &PlanRequest<'_>) -> Result<Plan, PlanErrors> {
    let mut problems = PlanErrorCollector::default();
    let plan = yaml::parse(&source.text, &mut problems).and_then(|root| read(&root, &source, request, &mut problems));
    match plan {
        Some(plan) if problems.is_empty() => Ok(plan),
        readable_part => Err(problems.into_errors(source, readable_part)),
    }
}

fn finish<T>(found: Option<T>, problems: PlanErrorCollector, source: PlanSource) -> Result<T, PlanErrors> {
    match found {
        Some(found) if problems.is_empty() => Ok(found),
        Some(_) | None => Err(problems.into_errors(source, None)),
    }
}

fn read(
    root: &YamlNode,
    source: &PlanSource,
    request: &PlanRequest<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<Plan> {
    let fields = top_level(root, problems)?;
    let app = app(&fields, problems);
    let on_failure = fields.get("on-failure").map_or(Some(OnFailure::Hold), |node| {
        fields::choice(node, "`on-failure`", &[("hold", OnFailure::Hold), ("rollback", OnFailure::Rollback)], problems)
    });
    let environments = declared_environments(&fields, problems);
    let chosen = choose_environment(&environments, request.environment, problems)?;
    let mut scope = scope(source, request.release, request.env, &fields, &environments, chosen, problems);
    scope.secrets = secrets(&fields, request.env, problems);
    let state = state_location::read(&fields, &scope, source, request.env, problems);
    let drafts = fields
        .require("steps", "{ … }", problems)
        .map(|node| step::drafts(node, &scope, source, problems))
        .unwrap_or_default();
    let url = match chosen.url {
        Some(node) => Some(url(node, &chosen.name, &scope, problems)?),
        None => None,
    };
    let keep = keep(&fields, problems)?;
    let mut steps = needs_graph::sort_steps(drafts, problems)?;
    let mut setup = hooks::setup(&fields, &steps, &scope, source, problems)?;
    let mut hooks = hooks::read(&fields, &[&steps, &setup], &scope, source, problems);
    set_writable_dirs([&mut steps, &mut setup, &mut hooks.before, &mut hooks.after, &mut hooks.on_failure]);
    let secrets = scope.secrets.iter().filter_map(|(name, secret)| Some((name.clone(), secret.clone()?)));
    let all = [&steps, &setup, &hooks.before, &hooks.after, &hooks.on_failure];
    let secrets = secrets.chain(all.into_iter().flat_map(|steps| database_passwords(steps))).collect();
    Some(Plan {
        app: app?,
        environment: chosen.name.clone(),
        after: chosen.after.clone(),
        url,
        state: state?,
        allow: chosen.allow.clone(),
        setup,
        steps,
        hooks,
        keep,
        on_failure: on_failure?,
        secrets,
        source: source.clone(),
    })
}

/// The passwords in database URLs. A password must be redacted by itself too, also if the whole URL is a secret.
fn database_passwords(steps: &[PlanStep]) -> Vec<(String, Secret)> {
    let of = |step: &PlanStep| {
        let grants = step.grants.databases.iter().map(|(name, grant)| (format!("{}.{name}", step.id), grant));
        let password = |(name, grant): (String, &DatabaseGrant)| {
            Some((name, ServerUrl::parse(grant.url.value.reveal())?.ok()?.password?))
        };
        grants.filter_map(password).collect::<Vec<_>>()
    };
    steps.iter().flat_map(of).collect()
}

fn top_level<'n>(root: &'n YamlNode, problems: &mut PlanErrorCollector) -> Option<MappingFields<'n>> {
    let start = root.span.start..root.span.start;
    let fields = MappingFields::read(root, "the plan", &start, KEYS, problems)?;
    let version = fields.require("version", "1", problems);
    if let Some(node) = version
        && !matches!(&node.kind, YamlValue::Number { value, .. } if value.as_u64() == Some(1))
    {
        let error = PlanError::new(ErrorCode::InvalidValue, "this runner reads only plans with `version: 1`");
        problems.push(error.at(&node.span, "unknown version").hint("write `version: 1`, or use a newer runner"));
    }
    Some(fields)
}

fn app(fields: &MappingFields<'_>, problems: &mut PlanErrorCollector) -> Option<AppName> {
    let node = fields.require("app", "shop", problems)?;
    fields::name(node, "`app`", problems)
}

/// An environment as written.
struct DeclaredEnvironment<'n> {
    name: EnvironmentName,
    variables: &'n [(YamlKey, YamlNode)],
    after: Option<EnvironmentName>,
    allow: Vec<AllowedOperator>,
    url: Option<&'n YamlNode>,
}

fn declared_environments<'n>(
    fields: &MappingFields<'n>,
    problems: &mut PlanErrorCollector,
) -> Vec<DeclaredEnvironment<'n>> {
    let default = || DeclaredEnvironment {
        name: DEFAULT_ENVIRONMENT.parse().expect("`default` is an environment name"),
        variables: &[],
        after: None,
        allow: Vec::new(),
        url: None,
    };
    let Some((key, node)) = fields.entry("environments") else { return vec![default()] };
    let Some(entries) = fields::mapping(node, "`environments`", problems) else { return Vec::new() };
    if entries.is_empty() {
        let error = PlanError::new(ErrorCode::InvalidValue, "`environments` has no environment");
        problems
            .push(error.at(&key.span, "empty").hint("add an environment, or remove `environments` to use `default`"));
    }
    let mut environments = Vec::new();
    let mut afters = Vec::new();
    for (key, node) in entries {
        let Some(name) = fields::parse_name::<EnvironmentName>(&key.text, &key.span, problems) else { continue };
        let mut environment = DeclaredEnvironment { name, variables: &[], after: None, allow: Vec::new(), url: None };
        if !matches!(node.kind, YamlValue::Null) {
            let what = format!("environment `{}`", key.text);
            if let Some(fields) = MappingFields::read(node, &what, &key.span, ENVIRONMENT_KEYS, problems) {
                environment.variables = variables(fields.get("vars"), &format!("`vars` of {what}"), problems);
                if let Some(after) = fields.get("after") {
                    environment.after = fields::name(after, "`after`", problems);
                    afters.push((environments.len(), after.span.clone()));
                }
                if let Some(allow) = fields.get("allow") {
                    environment.allow = allowed(allow, &what, problems);
                }
                environment.url = fields.get("url");
                if let Some((key, _)) = fields.entry("hosts") {
                    let error = PlanError::new(ErrorCode::NotSupported, "hosts are not supported yet");
                    problems.push(
                        error
                            .at(&key.span, "not supported yet")
                            .hint("remove `hosts`; steps run on the runner's machine"),
                    );
                }
            }
        }
        environments.push(environment);
    }
    for (index, span) in afters {
        check_after(&environments, index, &span, problems);
    }
    environments
}

/// Checks that `after` names another environment, and that following it ends.
fn check_after(
    environments: &[DeclaredEnvironment<'_>],
    index: usize,
    span: &Range<usize>,
    problems: &mut PlanErrorCollector,
) {
    let find = |name: &EnvironmentName| environments.iter().find(|environment| environment.name == *name);
    let first = &environments[index];
    let Some(after) = &first.after else { return };
    if find(after).is_none() {
        problems.push(unknown_environment(after.as_str(), environments).at(span, "no such environment"));
        return;
    }
    let mut at = find(after);
    for _ in environments {
        match at {
            Some(environment) if environment.name == first.name => {
                let message = format!("`after` of environment `{}` leads back to itself", first.name);
                let error = PlanError::new(ErrorCode::InvalidValue, message).at(span, "part of the cycle");
                problems.push(error.hint("remove one `after` of the cycle"));
                return;
            }
            Some(environment) => at = environment.after.as_ref().and_then(find),
            None => return,
        }
    }
}

fn choose_environment<'e, 'n>(
    environments: &'e [DeclaredEnvironment<'n>],
    requested: Option<&str>,
    problems: &mut PlanErrorCollector,
) -> Option<&'e DeclaredEnvironment<'n>> {
    match (requested, environments) {
        (Some(asked), _) => {
            let found = environments.iter().find(|environment| environment.name.as_str() == asked);
            if found.is_none() && !environments.is_empty() {
                problems.push(unknown_environment(asked, environments));
            }
            found
        }
        (None, [only]) => Some(only),
        (None, []) => None,
        (None, [first, ..]) => {
            let names = quoted_list(environments.iter().map(|environment| environment.name.as_str()));
            let error = PlanError::new(ErrorCode::UnknownEnvironment, "the plan has several environments; choose one");
            problems.push(error.hint(format!("add `--env {}`, or another one of {names}", first.name)));
            None
        }
    }
}

fn unknown_environment(name: &str, environments: &[DeclaredEnvironment<'_>]) -> PlanError {
    let names = || environments.iter().map(|environment| environment.name.as_str());
    let hint = match closest_match(name, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("use one of {}", quoted_list(names())),
    };
    PlanError::new(ErrorCode::UnknownEnvironment, format!("the plan has no environment `{name}`")).hint(hint)
}

/// The entries of a `vars` mapping; names are checked, values are not looked up yet.
fn variables<'n>(
    node: Option<&'n YamlNode>,
    what: &str,
    problems: &mut PlanErrorCollector,
) -> &'n [(YamlKey, YamlNode)] {
    let entries = node.and_then(|node| fields::mapping(node, what, problems)).unwrap_or_default();
    for (key, _) in entries {
        check_identifier(&key.text, "variable name", &key.span, problems);
    }
    entries
}

fn scope<'a>(
    source: &'a PlanSource,
    release: &'a Label,
    env: &'a dyn Fn(&str) -> Option<String>,
    fields: &MappingFields<'_>,
    environments: &[DeclaredEnvironment<'_>],
    chosen: &'a DeclaredEnvironment<'_>,
    problems: &mut PlanErrorCollector,
) -> LookupScope<'a> {
    let mut scope = LookupScope {
        text: &source.text,
        environment: &chosen.name,
        release,
        env,
        variables: BTreeMap::new(),
        defined_in: BTreeMap::new(),
        secrets: BTreeMap::new(),
    };
    let shared = variables(fields.get("vars"), "`vars`", problems);
    let overridden = |key: &YamlKey| chosen.variables.iter().any(|(own, _)| own.text == key.text);
    let effective = shared.iter().filter(|(key, _)| !overridden(key)).chain(chosen.variables);
    let mut values = BTreeMap::new();
    for (key, node) in effective {
        values.insert(key.text.clone(), scope.variable(node, &format!("variable `{}`", key.text), problems));
    }
    for other in environments.iter().filter(|other| other.name != chosen.name) {
        for (key, node) in other.variables {
            scope.defined_in.entry(key.text.clone()).or_default().push(other.name.to_string());
            // Its values are not looked up, but its syntax is checked.
            if let YamlValue::Text(text) = &node.kind
                && let Err(error) = expression::parse(text, &source.text[node.span.clone()], node.span.start)
            {
                problems.push(error);
            }
        }
    }
    scope.variables = values;
    scope
}

fn secrets(
    fields: &MappingFields<'_>,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut PlanErrorCollector,
) -> BTreeMap<String, Option<Secret>> {
    let entries = fields.get("secrets").and_then(|node| fields::mapping(node, "`secrets`", problems));
    let entries = entries.unwrap_or_default().iter();
    entries.map(|(key, node)| (key.text.clone(), secret(key, node, env, problems))).collect()
}

fn secret(
    key: &YamlKey,
    node: &YamlNode,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut PlanErrorCollector,
) -> Option<Secret> {
    check_identifier(&key.text, "secret name", &key.span, problems);
    let text = fields::literal(node, &format!("secret `{}`", key.text), problems)?;
    let variable = text.strip_prefix("env:").filter(|name| !name.is_empty() && !name.contains(['=', '\0']));
    let Some(variable) = variable else {
        // The text and its line are not shown: they may be the secret itself.
        let error = PlanError::new(ErrorCode::InvalidValue, format!("secret `{}` has no valid source", key.text));
        problems.push(error.hint(format!("write `{}: env:VARIABLE`", key.text)));
        return None;
    };
    // CI systems set an empty variable when its secret does not exist.
    let value = env(variable).filter(|value| !value.is_empty());
    if value.is_none() {
        let message = format!("secret `{}`: the environment variable `{variable}` is empty or not set", key.text);
        let hint = format!("set it: `export {variable}=…`; in CI, under `env:` of the job");
        problems.push(PlanError::new(ErrorCode::MissingSecret, message).at(&node.span, "no value").hint(hint));
    }
    value.map(Secret::new)
}

fn check_identifier(text: &str, kind: &str, span: &Range<usize>, problems: &mut PlanErrorCollector) {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
        let error = PlanError::new(ErrorCode::InvalidName, format!("{text:?} is not a valid {kind}"));
        problems.push(error.at(span, format!("not a valid {kind}")).hint("use 1 to 64 letters, digits, `_` or `-`"));
    }
}

/// Sets on each step the directories that any step of the plan may write to.
fn set_writable_dirs(mut groups: [&mut Vec<PlanStep>; 5]) {
    let dirs = groups.iter().flat_map(|steps| steps.iter()).flat_map(|step| step.grants.dirs.values());
    let writable: BTreeSet<_> =
        dirs.filter(|grant| grant.access == DirAccess::ReadWrite).map(|grant| grant.path.clone()).collect();
    for step in groups.iter_mut().flat_map(|steps| steps.iter_mut()) {
        step.writable_dirs = writable.iter().cloned().collect();
    }
}

/// Reads `keep:`, at least 1.
fn keep(fields: &MappingFields<'_>, problems: &mut PlanErrorCollector) -> Option<Option<usize>> {
    let Some(node) = fields.get("keep") else { return Some(None) };
    let number = match &node.kind {
        YamlValue::Number { value, .. } => {
            value.as_u64().and_then(|keep| usize::try_from(keep).ok()).filter(|keep| *keep > 0)
        }
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Text(_) | YamlValue::List(_) | YamlValue::Map(_) => None,
    };
    if number.is_none() {
        let error = PlanError::new(ErrorCode::InvalidValue, "`keep` must be the number of releases to keep");
        problems.push(error.at(&node.span, "not a whole number above 0").hint("write `keep: 5`"));
    }
    number.map(Some)
}

/// Reads `url:` of an environment.
fn url(
    node: &YamlNode,
    name: &EnvironmentName,
    scope: &LookupScope<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<String> {
    let what = format!("`url` of environment `{name}`");
    let text = scope.text(node, &what, LookupSite::Grant, problems)?;
    let is_page = url::Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    if !is_page || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let error = PlanError::new(ErrorCode::InvalidValue, format!("{what} is not a web address: {text:?}"));
        problems.push(
            error
                .at(&node.span, "not an http or https URL")
                .hint("write a full URL, such as `https://shop.example.com`"),
        );
        return None;
    }
    Some(text)
}

/// Reads `allow:` of an environment.
fn allowed(node: &YamlNode, what: &str, problems: &mut PlanErrorCollector) -> Vec<AllowedOperator> {
    let items = fields::list(node, &format!("`allow` of {what}"), problems).unwrap_or_default();
    if items.is_empty() {
        let error = PlanError::new(ErrorCode::InvalidValue, format!("`allow` of {what} is empty"));
        problems.push(error.at(&node.span, "empty").hint("add a user, or remove `allow` to allow everybody"));
    }
    let one = |node: &YamlNode, problems: &mut PlanErrorCollector| {
        let text = fields::literal(node, "an item of `allow`", problems)?;
        let named = |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
        match text.split_once(':') {
            Some(("github", name)) if named(name) => Some(AllowedOperator::GitHub(name.to_owned())),
            Some(("user", name)) if named(name) => Some(AllowedOperator::User(name.to_owned())),
            Some(("team", _)) => {
                let error = PlanError::new(ErrorCode::NotSupported, "teams are not supported yet");
                problems.push(error.at(&node.span, "not supported yet").hint("name each person: `github:LOGIN`"));
                None
            }
            Some(_) | None => {
                let error = PlanError::new(ErrorCode::InvalidValue, format!("`{text}` is not a user"));
                problems.push(error.at(&node.span, "unknown kind of user").hint("write `github:LOGIN` or `user:NAME`"));
                None
            }
        }
    };
    items.iter().filter_map(|node| one(node, problems)).collect()
}
