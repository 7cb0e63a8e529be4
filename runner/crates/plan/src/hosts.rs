//! `hosts:` of an environment, and `on:` of a step: the machines that steps run on.
//!
//! Invariant: a target names one host of the environment, or one group in whose name a step runs `once`; no two of them share a name.
//! Deliberately absent: how a host is reached.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    ArgumentPattern, DirAccess, ProgramGrant, StepGrants,
    error::{PlanError, PlanErrorCollector, closest_match, quoted_list},
    fields::{self, MappingFields},
    paths,
    scope::{LookupScope, LookupSite, PlanVariable},
    yaml::{YamlKey, YamlNode, YamlValue},
};
use contract::{GrantName, HostGroup, StepId, TargetName, error_code::ErrorCode};

const HOST_KEYS: &[&str] = &["at", "name", "vars"];
const PLACE_KEYS: &[&str] = &["hosts", "once"];
const SSH_KEYS: &[&str] = &["config", "known-hosts"];
/// The machine of the runner, as a group and as a host.
const LOCAL: &str = "local";
const ADDRESS_HINT: &str = "write `local`, `HOST`, `USER@HOST` or `ssh://USER@HOST:PORT`";

/// A host of an environment, which steps run on.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanHost {
    /// The target of the records of its steps. It stays when the address changes.
    pub name: TargetName,
    /// How it is reached.
    pub address: HostAddress,
    /// `host.vars`; `None` for one whose error was reported.
    pub(super) variables: BTreeMap<String, Option<PlanVariable>>,
}

/// How a host is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// It is the runner's machine.
    Local,
    /// By ssh, as its configuration says.
    Ssh {
        /// The user; by default, ssh decides.
        user: Option<String>,
        /// A name, an alias of ssh's configuration, or an IP address (an IPv6 one without brackets).
        host: String,
        /// The port; by default, ssh decides.
        port: Option<u16>,
    },
}

/// `ssh:` of an environment: how ssh is called, beside its own configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshOptions {
    /// Its configuration file, instead of the user's.
    pub config: Option<PathBuf>,
    /// The file with the keys of the hosts, instead of the user's.
    pub known_hosts: Option<PathBuf>,
    /// The environment variables with the plan's secrets, which ssh does not get: every process of the user can read its environment,
    /// and `SendEnv` would send them.
    pub withheld_variables: Vec<String>,
}

/// Reads `ssh` of an environment.
pub(super) fn ssh_options(
    node: &YamlNode,
    scope: &LookupScope<'_>,
    folder: &Path,
    problems: &mut PlanErrorCollector,
) -> Option<SshOptions> {
    let fields = MappingFields::read(node, "`ssh`", &node.span, SSH_KEYS, problems)?;
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
    Some(SshOptions { config: path("config"), known_hosts: path("known-hosts"), ..SshOptions::default() })
}

impl HostAddress {
    /// Parses `local`, `[USER@]HOST[:PORT]` or `ssh://[USER@]HOST[:PORT]`. Nothing in it can be taken for an option of ssh.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == LOCAL {
            return Some(Self::Local);
        }
        let rest = text.strip_prefix("ssh://").unwrap_or(text);
        if rest == LOCAL {
            return None;
        }
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let (host, port) = match rest.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let is_word = |text: &str, more: &[u8]| {
            text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        let is_ipv6 = rest.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok();
        let is_user = user.is_none_or(|user| is_word(user, b"._-"));
        if !is_user || !(is_ipv6 || !rest.starts_with('[') && is_word(host, b"._-")) {
            return None;
        }
        let port = match port {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port > 0)?)
            }
            Some(_) => return None,
            None => None,
        };
        Some(Self::Ssh { user: user.map(str::to_owned), host: host.to_owned(), port })
    }
}

impl PlanHost {
    /// Whether it is not the runner's machine.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.address != HostAddress::Local
    }
}

impl HostAddress {
    /// The name or IP address; `localhost` for the runner's machine.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Local => "localhost",
            Self::Ssh { host, .. } => host,
        }
    }
}

/// What a step on another host is granted by a path relative to the plan: a place there has an absolute path, and the plan's folder is
/// not there. A directory for reading is sent.
pub(super) fn relative_grant_problems(
    id: &StepId,
    host: &PlanHost,
    (grants, dir_spans): (&StepGrants, &BTreeMap<GrantName, Range<usize>>),
    at: &Range<usize>,
    problems: &mut PlanErrorCollector,
) {
    let writable = grants.dirs.iter().filter(|(_, dir)| dir.is_relative && dir.access == DirAccess::ReadWrite);
    for (name, _) in writable {
        let message =
            format!("directory `{name}` of step `{id}` is relative to the plan, and the step runs on `{}`", host.name);
        let error = PlanError::new(ErrorCode::InvalidGrant, message)
            .at(dir_spans.get(name).unwrap_or(at), format!("not on `{}`", host.name));
        problems
            .push(error.hint(
                "write an absolute path on the host, such as `/srv/shop`; or add `:ro`: the files that the step names are then sent to the host",
            ));
    }
    let is_relative = |grant: &&ProgramGrant| match grant.arguments.first() {
        Some(ArgumentPattern::Exact(program)) => program.starts_with("./") || program.starts_with("../"),
        Some(ArgumentPattern::AnyOne | ArgumentPattern::AnyRest) | None => false,
    };
    if grants.programs.iter().any(|grant| is_relative(&grant)) {
        let message = format!("step `{id}` runs a program of the plan's folder, and the step runs on `{}`", host.name);
        let error = PlanError::new(ErrorCode::InvalidValue, message).at(at, format!("not on `{}`", host.name));
        problems.push(error.hint("name a program of the host: `/usr/bin/make`, or one on its `PATH`"));
    }
}

impl fmt::Display for HostAddress {
    /// As a plan writes it: `local`, `deploy@10.0.0.7` or `deploy@10.0.0.8:2222`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Ssh { user, host, port } = self else { return f.write_str(LOCAL) };
        user.iter().try_for_each(|user| write!(f, "{user}@"))?;
        match host.contains(':') {
            true => write!(f, "[{host}]")?,
            false => f.write_str(host)?,
        }
        port.iter().try_for_each(|port| write!(f, ":{port}"))
    }
}

/// The groups of the chosen environment. A host may be in several.
#[derive(Default)]
pub(super) struct HostGroups {
    groups: BTreeMap<HostGroup, Vec<Arc<PlanHost>>>,
}

/// Where a step runs.
#[derive(Clone)]
pub(super) struct StepPlace {
    /// The target of the step's records.
    pub(super) target: TargetName,
    /// The host; none for the runner's machine.
    pub(super) host: Option<Arc<PlanHost>>,
    /// Whether the step runs on one host for its whole group.
    pub(super) once: bool,
}

impl StepPlace {
    /// The runner's machine.
    pub(super) fn local() -> Self {
        Self { target: TargetName::local(), host: None, once: false }
    }
}

impl HostGroups {
    /// Reads `hosts` of the chosen environment.
    pub(super) fn read(node: &YamlNode, scope: &LookupScope<'_>, problems: &mut PlanErrorCollector) -> Self {
        let mut groups = Self::default();
        for (key, node) in fields::mapping(node, "`hosts`", problems).unwrap_or_default() {
            let Some(group) = fields::parse_name::<HostGroup>(&key.text, &key.span, problems) else { continue };
            let hosts = groups.read_group(key, node, scope, problems);
            groups.groups.insert(group, hosts);
        }
        groups
    }

    /// The hosts of each group, in the order of the plan.
    pub(super) fn into_map(self) -> BTreeMap<HostGroup, Vec<Arc<PlanHost>>> {
        self.groups
    }

    /// Each host once, by its name.
    pub(super) fn hosts(&self) -> BTreeMap<TargetName, Arc<PlanHost>> {
        self.groups.values().flatten().map(|host| (host.name.clone(), Arc::clone(host))).collect()
    }

    fn read_group(
        &self,
        key: &YamlKey,
        node: &YamlNode,
        scope: &LookupScope<'_>,
        problems: &mut PlanErrorCollector,
    ) -> Vec<Arc<PlanHost>> {
        if key.text == LOCAL {
            let error = PlanError::new(ErrorCode::InvalidName, "`local` can't be the name of a host group");
            problems.push(error.at(&key.span, "the runner's machine").hint("choose another name, such as `web`"));
        }
        let Some(items) = fields::list(node, &format!("group `{}` of `hosts`", key.text), problems) else {
            return Vec::new();
        };
        if items.is_empty() {
            let error = PlanError::new(ErrorCode::InvalidValue, format!("group `{}` has no host", key.text));
            problems.push(error.at(&node.span, "empty").hint(format!("add a host: `{}: [deploy@10.0.0.7]`", key.text)));
        }
        let mut hosts: Vec<Arc<PlanHost>> = Vec::new();
        for item in items {
            let Some(host) = host(item, scope, problems) else { continue };
            let known = self.groups.values().flatten().chain(&hosts).find(|known| known.name == host.name);
            let host = Arc::new(host);
            if hosts.iter().any(|listed| listed.name == host.name) {
                let error = PlanError::new(ErrorCode::DuplicateKey, format!("host `{}` is listed twice", host.name));
                problems.push(error.at(&item.span, "the second time").hint("remove one, or give them different names"));
            } else if let Some(known) = known.filter(|known| ***known != *host) {
                let message = format!("host `{}` is written in two ways", known.name);
                let error = PlanError::new(ErrorCode::DuplicateKey, message).at(&item.span, "differs from the first");
                problems.push(error.hint("write the same host in each group, or give it another `name`"));
            } else {
                hosts.push(host);
            }
        }
        hosts
    }

    /// Reads `on` of a step: a group, a list of groups, or `{ hosts: GROUP, once: true }`.
    pub(super) fn places(&self, node: &YamlNode, problems: &mut PlanErrorCollector) -> Option<Vec<StepPlace>> {
        match &node.kind {
            YamlValue::Map(_) => self.place_of_mapping(node, problems),
            YamlValue::List(items) if items.is_empty() => {
                let error = PlanError::new(ErrorCode::InvalidValue, "`on` names no group");
                problems.push(error.at(&node.span, "empty").hint("name a group, as in `on: web`, or remove `on`"));
                None
            }
            YamlValue::List(items) => {
                let mut places: Vec<StepPlace> = Vec::new();
                for item in items {
                    for place in self.places_of_group(item, problems)? {
                        if !places.iter().any(|known| known.target == place.target) {
                            places.push(place);
                        }
                    }
                }
                Some(places)
            }
            YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } | YamlValue::Text(_) => {
                self.places_of_group(node, problems)
            }
        }
    }

    fn places_of_group(&self, node: &YamlNode, problems: &mut PlanErrorCollector) -> Option<Vec<StepPlace>> {
        let name = fields::literal(node, "`on`", problems)?;
        if name == LOCAL {
            return Some(vec![StepPlace::local()]);
        }
        let hosts = self.group(name, node, problems)?;
        let place =
            |host: &Arc<PlanHost>| StepPlace { target: host.name.clone(), host: Some(Arc::clone(host)), once: false };
        Some(hosts.iter().map(place).collect())
    }

    fn place_of_mapping(&self, node: &YamlNode, problems: &mut PlanErrorCollector) -> Option<Vec<StepPlace>> {
        let fields = MappingFields::read(node, "`on`", &node.span, PLACE_KEYS, problems)?;
        let group = fields.require("hosts", "web", problems)?;
        let once = match fields.get("once") {
            None => false,
            Some(_) => super::hooks::flag(&fields, "once", problems)?,
        };
        if !once {
            return self.places(group, problems);
        }
        let name = fields::literal(group, "`hosts` of `on`", problems)?;
        if name == LOCAL {
            return Some(vec![StepPlace::local()]);
        }
        let first = self.group(name, group, problems)?.first().map(Arc::clone);
        let target: TargetName = fields::parse_name(name, &group.span, problems)?;
        if self.hosts().contains_key(&target) {
            let error = PlanError::new(ErrorCode::DuplicateKey, format!("a group and a host are called `{name}`"));
            problems.push(
                error.at(&group.span, "the group").hint("rename one; the journal identifies both by their names"),
            );
            return None;
        }
        first.map(|host| vec![StepPlace { target, host: Some(host), once: true }])
    }

    /// The hosts of a group.
    pub(super) fn group(
        &self,
        name: &str,
        node: &YamlNode,
        problems: &mut PlanErrorCollector,
    ) -> Option<&[Arc<PlanHost>]> {
        let found = self.groups.iter().find(|(group, _)| group.as_str() == name);
        if let Some((_, hosts)) = found {
            if hosts.is_empty() {
                problems.note_repeated();
                return None;
            }
            return Some(hosts);
        }
        let names = || self.groups.keys().map(HostGroup::as_str).chain([LOCAL]);
        let hint = match closest_match(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if self.groups.is_empty() => {
                format!("add `hosts: {{ {name}: [deploy@10.0.0.7] }}` to the environment")
            }
            None => format!("use one of {}", quoted_list(names())),
        };
        let error = PlanError::new(ErrorCode::UnknownHostGroup, format!("the environment has no host group `{name}`"));
        problems.push(error.at(&node.span, "no such group").hint(hint));
        None
    }
}

/// Checks `hosts` of an environment that is not chosen: its values are not looked up.
pub(super) fn check(node: &YamlNode, problems: &mut PlanErrorCollector) {
    for (key, node) in fields::mapping(node, "`hosts`", problems).unwrap_or_default() {
        fields::parse_name::<HostGroup>(&key.text, &key.span, problems);
        for item in fields::list(node, &format!("group `{}` of `hosts`", key.text), problems).unwrap_or_default() {
            if let YamlValue::Map(_) = &item.kind {
                MappingFields::read(item, "a host", &item.span, HOST_KEYS, problems);
            }
        }
    }
}

fn host(node: &YamlNode, scope: &LookupScope<'_>, problems: &mut PlanErrorCollector) -> Option<PlanHost> {
    let YamlValue::Map(_) = &node.kind else {
        let address = address(node, problems)?;
        let name = name_of(&address, node, problems)?;
        return Some(PlanHost { name, address, variables: BTreeMap::new() });
    };
    let fields = MappingFields::read(node, "a host", &node.span, HOST_KEYS, problems)?;
    let at = fields.require("at", "deploy@10.0.0.7", problems)?;
    let address = address(at, problems);
    let name = match (fields.get("name"), &address) {
        (Some(node), _) => fields::name(node, "`name` of a host", problems),
        (None, Some(address)) => name_of(address, at, problems),
        (None, None) => None,
    };
    let variables = super::document::variables(fields.get("vars"), "`vars` of a host", problems);
    let variables = variables
        .iter()
        .map(|(key, node)| (key.text.clone(), scope.variable(node, &format!("variable `{}`", key.text), problems)))
        .collect();
    let (name, address) = (name?, address?);
    if name.as_str() == LOCAL && address != HostAddress::Local {
        let error = PlanError::new(ErrorCode::InvalidName, "`local` can't be the name of another host");
        problems.push(error.at(&node.span, "the runner's machine").hint("choose another name, such as `web-1`"));
        return None;
    }
    Some(PlanHost { name, address, variables })
}

/// A host without a name is called as it is reached, so that its records say where it was.
fn name_of(address: &HostAddress, node: &YamlNode, problems: &mut PlanErrorCollector) -> Option<TargetName> {
    let text = address.to_string();
    text.parse()
        .map_err(|_| {
            let error = PlanError::new(ErrorCode::InvalidName, format!("`{text}` can't be the name of a host"));
            problems
                .push(error.at(&node.span, "needs a name").hint(format!("write `{{ at: \"{text}\", name: web-1 }}`")));
        })
        .ok()
}

fn address(node: &YamlNode, problems: &mut PlanErrorCollector) -> Option<HostAddress> {
    let text = fields::literal(node, "the address of a host", problems)?;
    let found = HostAddress::parse(text);
    if found.is_none() {
        let error = PlanError::new(ErrorCode::InvalidValue, format!("`{text}` is not the address of a host"));
        problems.push(error.at(&node.span, "not an address").hint(ADDRESS_HINT));
    }
    found
}
