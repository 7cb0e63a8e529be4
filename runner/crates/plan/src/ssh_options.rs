//! `ssh:` of an environment: how its hosts are dialed, and the user that the agent works as.
//!
//! Deliberately absent: ssh's own configuration, which ssh reads.

use std::path::{Path, PathBuf};

use super::{
    error::{PlanError, PlanErrorCollector},
    fields::MappingFields,
    paths,
    scope::{LookupScope, LookupSite},
    yaml::{YamlNode, YamlValue},
};
use contract::error_code::ErrorCode;

const KEYS: &[&str] = &["config", "known-hosts", "sudo", "dials"];
/// sshd refuses some of more than 10 by default (`MaxStartups`), and all hosts may be behind one.
const DEFAULT_DIALS: usize = 8;
/// The most hosts that may be dialed at a time.
const MAX_DIALS: u64 = 64;
/// The user of `sudo: true`.
const ROOT: &str = "root";

/// `ssh:` of an environment: how ssh is called, beside its own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshOptions {
    /// Its configuration file, instead of the user's.
    pub config: Option<PathBuf>,
    /// The file with the keys of the hosts, instead of the user's.
    pub known_hosts: Option<PathBuf>,
    /// The user that the agent works as, through sudo; none: the user that logs in.
    pub sudo: Option<String>,
    /// How many hosts are dialed at a time, at least 1.
    pub dials: usize,
    /// The environment variables with the plan's secrets, which ssh does not get: every process of the user can read its environment,
    /// and `SendEnv` would send them.
    pub withheld_variables: Vec<String>,
}

impl Default for SshOptions {
    fn default() -> Self {
        Self { config: None, known_hosts: None, sudo: None, dials: DEFAULT_DIALS, withheld_variables: Vec::new() }
    }
}

/// Reads `ssh` of an environment.
pub(super) fn read(
    node: &YamlNode,
    scope: &LookupScope<'_>,
    folder: &Path,
    problems: &mut PlanErrorCollector,
) -> Option<SshOptions> {
    let fields = MappingFields::read(node, "`ssh`", &node.span, KEYS, problems)?;
    let mut path = |key: &str| {
        let node = fields.get(key)?;
        let text = scope.text(node, &format!("`{key}` of `ssh`"), LookupSite::Grant, problems)?;
        if let Some(why) = paths::path_error(&text) {
            let error = PlanError::new(ErrorCode::InvalidValue, format!("`{key}` of `ssh` is not a path: {why}"));
            problems.push(error.at(&node.span, "invalid path").hint("write a path, relative to the plan's folder"));
            return None;
        }
        Some(paths::resolve(folder, &text))
    };
    let (config, known_hosts) = (path("config"), path("known-hosts"));
    let sudo = fields.get("sudo").and_then(|node| sudo(node, scope, problems));
    let dials = fields.get("dials").map_or(Some(DEFAULT_DIALS), |node| dials(node, problems));
    Some(SshOptions { config, known_hosts, sudo, dials: dials?, ..SshOptions::default() })
}

/// Reads `sudo`: a user, or `true` for root.
fn sudo(node: &YamlNode, scope: &LookupScope<'_>, problems: &mut PlanErrorCollector) -> Option<String> {
    match &node.kind {
        YamlValue::Bool(true) => return Some(ROOT.to_owned()),
        YamlValue::Bool(false) => return None,
        YamlValue::Null | YamlValue::Number { .. } | YamlValue::Text(_) | YamlValue::List(_) | YamlValue::Map(_) => {}
    }
    let user = scope.text(node, "`sudo` of `ssh`", LookupSite::Grant, problems)?;
    // Nothing that sudo or a shell would take for something else.
    let first = user.as_bytes().first().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let is_name = first && user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !is_name {
        let error = PlanError::new(ErrorCode::InvalidValue, "`sudo` of `ssh` is not the name of a user");
        problems.push(error.at(&node.span, "not a user").hint("write `sudo: app`, or `sudo: true` for root"));
        return None;
    }
    Some(user)
}

fn dials(node: &YamlNode, problems: &mut PlanErrorCollector) -> Option<usize> {
    let number = match &node.kind {
        YamlValue::Number { value, .. } => value.as_u64().filter(|number| (1..=MAX_DIALS).contains(number)),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Text(_) | YamlValue::List(_) | YamlValue::Map(_) => None,
    };
    if number.is_none() {
        let message = format!("`dials` of `ssh` must be a number from 1 to {MAX_DIALS}");
        let error = PlanError::new(ErrorCode::InvalidValue, message);
        problems.push(
            error.at(&node.span, "not such a number").hint("write `dials: 8`, how many hosts are dialed at a time"),
        );
    }
    number.and_then(|number| usize::try_from(number).ok())
}
