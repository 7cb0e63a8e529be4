//! `environments:`: what differs between them, and which one is chosen.

use std::ops::Range;

use super::{
    AllowedOperator, document,
    error::{PlanError, PlanErrorCollector, closest_match, quoted_list},
    fields::{self, MappingFields},
    scope::{LookupScope, LookupSite},
    yaml::{YamlKey, YamlNode, YamlValue},
};
use contract::{EnvironmentName, error_code::ErrorCode, text::escape_line};

const ENVIRONMENT_KEYS: &[&str] = &["vars", "secrets", "after", "allow", "url", "hosts", "ssh", "rollout"];
const DEFAULT_ENVIRONMENT: &str = "default";

/// An environment as written.
pub(super) struct DeclaredEnvironment<'n> {
    pub(super) name: EnvironmentName,
    pub(super) variables: &'n [(YamlKey, YamlNode)],
    pub(super) secrets: &'n [(YamlKey, YamlNode)],
    pub(super) after: Option<EnvironmentName>,
    pub(super) allow: Vec<AllowedOperator>,
    pub(super) url: Option<&'n YamlNode>,
    pub(super) hosts: Option<&'n YamlNode>,
    pub(super) ssh: Option<&'n YamlNode>,
    pub(super) rollout: Option<&'n YamlNode>,
}

pub(super) fn declared_environments<'n>(
    fields: &MappingFields<'n>,
    problems: &mut PlanErrorCollector,
) -> Vec<DeclaredEnvironment<'n>> {
    let default = || DeclaredEnvironment {
        name: DEFAULT_ENVIRONMENT.parse().expect("`default` is an environment name"),
        variables: &[],
        secrets: &[],
        after: None,
        allow: Vec::new(),
        url: None,
        hosts: None,
        ssh: None,
        rollout: None,
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
        let mut environment = DeclaredEnvironment { name, ..default() };
        if !matches!(node.kind, YamlValue::Null) {
            let what = format!("environment `{}`", key.text);
            if let Some(fields) = MappingFields::read(node, &what, &key.span, ENVIRONMENT_KEYS, problems) {
                environment.variables = document::variables(fields.get("vars"), &format!("`vars` of {what}"), problems);
                environment.secrets = fields
                    .get("secrets")
                    .and_then(|node| fields::mapping(node, &format!("`secrets` of {what}"), problems))
                    .unwrap_or_default();
                if let Some(after) = fields.get("after") {
                    environment.after = fields::name(after, "`after`", problems);
                    afters.push((environments.len(), after.span.clone()));
                }
                if let Some(allow) = fields.get("allow") {
                    environment.allow = allowed(allow, &what, problems);
                }
                environment.url = fields.get("url");
                environment.hosts = fields.get("hosts");
                environment.ssh = fields.get("ssh");
                environment.rollout = fields.get("rollout");
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
        // One that comes after this one would make a cycle.
        let leads_here = |environment: &&DeclaredEnvironment<'_>| {
            let mut at = Some(*environment);
            for _ in environments {
                match at {
                    Some(environment) if environment.name == first.name => return true,
                    Some(environment) => at = environment.after.as_ref().and_then(find),
                    None => return false,
                }
            }
            true
        };
        let possible: Vec<_> = environments.iter().filter(|other| !leads_here(other)).collect();
        problems.push(unknown_environment(after.as_str(), &possible).at(span, "no such environment"));
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

pub(super) fn choose_environment<'e, 'n>(
    environments: &'e [DeclaredEnvironment<'n>],
    requested: Option<&str>,
    problems: &mut PlanErrorCollector,
) -> Option<&'e DeclaredEnvironment<'n>> {
    match (requested, environments) {
        (Some(asked), _) => {
            let found = environments.iter().find(|environment| environment.name.as_str() == asked);
            if found.is_none() && !environments.is_empty() {
                problems.push(unknown_environment(asked, &environments.iter().collect::<Vec<_>>()));
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

/// The error for a name that no environment has; `possible` are those that can be meant.
fn unknown_environment(name: &str, possible: &[&DeclaredEnvironment<'_>]) -> PlanError {
    let names = || possible.iter().map(|environment| environment.name.as_str());
    let hint = match (closest_match(name, names()), possible) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, []) => "remove `after`: no other environment can come before this one".to_owned(),
        (None, _) => format!("use one of {}", quoted_list(names())),
    };
    PlanError::new(ErrorCode::UnknownEnvironment, format!("the plan has no environment `{name}`")).hint(hint)
}

/// Reads `url:` of an environment.
pub(super) fn url(
    node: &YamlNode,
    name: &EnvironmentName,
    scope: &LookupScope<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<String> {
    let what = format!("`url` of environment `{name}`");
    let text = scope.text(node, &what, LookupSite::Grant, problems)?;
    let is_page = url::Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    if !is_page || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let error =
            PlanError::new(ErrorCode::InvalidValue, format!("{what} is not a web address: `{}`", escape_line(&text)));
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
            Some(("github-team", name)) if let Some((organization, team)) = team(name) => {
                Some(AllowedOperator::GitHubTeam { organization, team })
            }
            Some(_) | None => {
                let error = PlanError::new(ErrorCode::InvalidValue, format!("`{text}` is not a user"));
                problems.push(
                    error
                        .at(&node.span, "unknown kind of user")
                        .hint("write `github:LOGIN`, `github-team:ORGANIZATION/TEAM` or `user:NAME`"),
                );
                None
            }
        }
    };
    items.iter().filter_map(|node| one(node, problems)).collect()
}

/// Organization and team of `ORGANIZATION/TEAM`, each in the letters of GitHub's addresses.
fn team(name: &str) -> Option<(String, String)> {
    let is_slug = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let (organization, team) = name.split_once('/')?;
    (is_slug(organization) && is_slug(team)).then(|| (organization.to_owned(), team.to_owned()))
}
