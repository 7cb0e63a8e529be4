//! The top level of a plan: environments, secrets, variables, state; then the steps.
//!
//! The whole text is checked for every environment; values are looked up for the chosen one only, so that a variable of
//! `prod` need not be set when `test` is deployed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use super::{
    AllowedOperator, DatabaseGrant, DirAccess, OnFailure, Plan, PlanErrors, PlanRequest, PlanSource, PlanStep,
    ServerUrl, SshOptions, StateLocation,
    environments::{self, DeclaredEnvironment, choose_environment, declared_environments},
    error::{PlanError, PlanErrorCollector},
    expression,
    fields::{self, MappingFields},
    grants::{SharedGrants, written_shared_dirs},
    hooks,
    hosts::{self, HostGroups, PlanHost},
    needs_graph, release_path, rollout,
    scope::{DeclaredSecret, LookupScope},
    secrets, ssh_options, state_location,
    step::{self, HostContext, StepContext},
    yaml::{self, YamlKey, YamlNode, YamlValue},
};
use contract::{AppName, EnvironmentName, HostGroup, Label, Secret, error_code::ErrorCode, text::escape_line};

const KEYS: &[&str] = &[
    "version",
    "app",
    "state",
    "lock",
    "secrets",
    "vars",
    "dirs",
    "http",
    "environments",
    "setup",
    "steps",
    "hooks",
    "keep",
    "on-failure",
];

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

/// The hosts of an environment, and how they are reached. `runner hosts` needs no more: no steps, and no release.
#[derive(Clone, Debug)]
pub struct EnvironmentHosts {
    /// The groups, each with its hosts. A host may be in several.
    pub groups: BTreeMap<HostGroup, Vec<Arc<PlanHost>>>,
    /// How ssh is called.
    pub ssh: SshOptions,
}

/// Reads the hosts of an environment.
///
/// # Errors
/// What is wrong with the text, its environments, or the hosts.
pub fn locate_hosts(source: &PlanSource, request: &PlanRequest<'_>) -> Result<EnvironmentHosts, PlanErrors> {
    let mut problems = PlanErrorCollector::default();
    let found = yaml::parse(&source.text, &mut problems).and_then(|root| {
        let fields = top_level(&root, &mut problems)?;
        let environments = declared_environments(&fields, &mut problems);
        let chosen = choose_environment(&environments, request.environment, &mut problems)?;
        let mut scope = scope(source, request.release, request.env, &fields, &environments, chosen, &mut problems);
        scope.secrets = secrets::read(&fields, &environments, chosen, request.env, &mut problems);
        let groups = host_groups(chosen, &scope, request, &mut problems).into_map();
        Some(EnvironmentHosts { groups, ssh: ssh_options(chosen, &scope, &mut problems)? })
    });
    finish(found, problems, source.clone())
}

fn host_groups(
    chosen: &DeclaredEnvironment<'_>,
    scope: &LookupScope<'_>,
    request: &PlanRequest<'_>,
    problems: &mut PlanErrorCollector,
) -> HostGroups {
    let read = |node| HostGroups::read(node, scope, request.inventory, problems);
    chosen.hosts.map_or_else(HostGroups::default, read)
}

fn ssh_options(
    chosen: &DeclaredEnvironment<'_>,
    scope: &LookupScope<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<SshOptions> {
    chosen.ssh.map_or(Some(SshOptions::default()), |node| ssh_options::read(node, scope, scope.plan_dir, problems))
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
    scope.secrets = secrets::read(&fields, &environments, chosen, request.env, problems);
    scope.secrets_in = secrets::declared_elsewhere(&environments, chosen);
    let state = state_location::read(&fields, &scope, source, request.env, problems);
    let after_state = preceding_state(source, request, &fields, &environments, chosen);
    let url = match chosen.url {
        Some(node) => Some(environments::url(node, &chosen.name, &scope, problems)?),
        None => None,
    };
    let groups = host_groups(chosen, &scope, request, problems);
    for other in environments.iter().filter(|other| other.name != chosen.name) {
        other.hosts.iter().for_each(|node| hosts::check(node, problems));
        other.rollout.iter().for_each(|node| rollout::check(node, problems));
    }
    let ssh = ssh_options(chosen, &scope, problems);
    let rollout = match chosen.rollout {
        Some(node) => Some(rollout::read(node, &groups, problems)?),
        None => None,
    };
    let context = step_context(&fields, scope, groups, source, problems);
    let mut drafts = fields
        .require("steps", "{ … }", problems)
        .map(|node| step::drafts(node, &context, problems))
        .unwrap_or_default();
    let folder = release_path::locate(drafts.iter().flat_map(|draft| &draft.steps));
    for step in drafts.iter_mut().flat_map(|draft| &mut draft.steps) {
        release_path::substitute(step, &folder, problems);
    }
    let keep = keep(&fields, problems)?;
    let mut steps = needs_graph::sort_steps(drafts, problems)?;
    let mut setup = hooks::setup(&fields, &steps, &context, problems)?;
    let unpulled = Err(release_path::unpulled());
    for step in &mut setup {
        release_path::substitute(step, &unpulled, problems);
    }
    let mut hooks = hooks::read(&fields, &[&steps, &setup], &context, problems);
    for step in [&mut hooks.before, &mut hooks.after, &mut hooks.on_failure].into_iter().flatten() {
        release_path::substitute(step, &folder, problems);
    }
    set_writable_dirs([&mut steps, &mut setup, &mut hooks.before, &mut hooks.after, &mut hooks.on_failure]);
    let declared = context.local.scope.secrets;
    let set = declared.iter().filter_map(|(name, secret)| match secret {
        DeclaredSecret::Set { value, .. } => Some((name.clone(), value.clone())),
        DeclaredSecret::Unset { .. } | DeclaredSecret::Invalid => None,
    });
    let all = [&steps, &setup, &hooks.before, &hooks.after, &hooks.on_failure];
    let secrets = set.chain(all.into_iter().flat_map(|steps| database_passwords(steps))).collect();
    let secret_variables = declared.iter().filter_map(|(name, secret)| match secret {
        DeclaredSecret::Set { variable, .. } | DeclaredSecret::Unset { variable, .. } => {
            Some((name.clone(), variable.clone()))
        }
        DeclaredSecret::Invalid => None,
    });
    let secret_variables = secret_variables.collect();
    Some(Plan {
        app: app?,
        environment: chosen.name.clone(),
        after: chosen.after.clone(),
        after_state,
        url,
        ssh: SshOptions { withheld_variables: state_location::secret_variables(&fields), ..ssh? },
        host_groups: context.groups.into_map(),
        rollout,
        state: state?,
        allow: chosen.allow.clone(),
        shared_dirs: written_shared_dirs(&fields),
        setup: with_stand_ins(setup),
        steps: with_stand_ins(steps),
        hooks,
        keep,
        on_failure: on_failure?,
        secrets,
        secret_variables,
        source: source.clone(),
    })
}

/// What the steps on each machine see.
fn step_context<'a>(
    fields: &MappingFields<'_>,
    scope: LookupScope<'a>,
    groups: HostGroups,
    source: &'a PlanSource,
    problems: &mut PlanErrorCollector,
) -> StepContext<'a> {
    let local = HostContext { shared: SharedGrants::read(fields, &scope, source, problems), scope };
    let hosts = groups.hosts().into_iter().map(|(name, host)| {
        let scope = LookupScope { host: Some(host), ..local.scope.clone() };
        (name, HostContext { shared: local.shared.on_host(fields, &scope, source), scope })
    });
    let hosts = hosts.collect();
    StepContext { source, groups, local, hosts }
}

/// The state of the environment that comes before; none if there is none, or if its variables can't be looked up here.
fn preceding_state<'n>(
    source: &PlanSource,
    request: &PlanRequest<'_>,
    fields: &MappingFields<'n>,
    environments: &[DeclaredEnvironment<'n>],
    chosen: &DeclaredEnvironment<'n>,
) -> Option<StateLocation> {
    let preceding = environments.iter().find(|other| Some(&other.name) == chosen.after.as_ref())?;
    let mut problems = PlanErrorCollector::default();
    let scope = scope(source, request.release, request.env, fields, environments, preceding, &mut problems);
    state_location::read(fields, &scope, source, request.env, &mut problems)
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

/// The entries of a `vars` mapping; names are checked, values are not looked up yet.
pub(super) fn variables<'n>(
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
        plan_dir: &source.folder,
        env,
        host: None,
        variables: BTreeMap::new(),
        defined_in: BTreeMap::new(),
        secrets: BTreeMap::new(),
        secrets_in: BTreeMap::new(),
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

pub(super) fn check_identifier(text: &str, kind: &str, span: &Range<usize>, problems: &mut PlanErrorCollector) {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
        let error = PlanError::new(ErrorCode::InvalidName, format!("`{}` is not a valid {kind}", escape_line(text)));
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

/// Puts the steps for further hosts of a group that a step runs once for into that step.
fn with_stand_ins(steps: Vec<PlanStep>) -> Vec<PlanStep> {
    let mut on_first_host: Vec<PlanStep> = Vec::new();
    for step in steps {
        match on_first_host.last_mut() {
            Some(first) if first.id == step.id && first.target == step.target => first.stand_ins.push(step),
            Some(_) | None => on_first_host.push(step),
        }
    }
    on_first_host
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
