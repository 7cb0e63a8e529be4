//! `grants:`: the resources that a step may use.
//!
//! Invariant: only what the plan's author wrote can be an argument pattern, never a substituted value. Deliberately absent:
//! enforcement, which is the sandbox's task.

use std::{collections::BTreeMap, ops::Range};

use super::{
    ConfidentialText, DatabaseGrant, DirAccess, DirGrant, EnvGrant, GrantSource, HttpGrant, PlanSource, ServerUrl,
    StepGrants,
    error::{PlanError, PlanErrorCollector, closest_match},
    fields::{self, MappingFields},
    paths,
    scope::{LookupScope, LookupSite, depends_on_host},
    server_url,
    type_hint::flow_scalar,
    yaml::{YamlKey, YamlNode, YamlValue},
};
use contract::{GrantName, Secret, error_code::ErrorCode, text::escape_line};

mod http;
mod programs;
mod renders;
mod secrets;

pub(super) use programs::is_program;

const KEYS: &[&str] = &["dirs", "http", "tcp", "databases", "programs", "env", "sockets", "renders", "secrets"];
const HTTP_KEYS: &[&str] = &["origin", "methods", "private", "headers"];

/// The grants at the top level of the plan, which steps refer to by name.
#[derive(Clone, Default)]
pub(super) struct SharedGrants {
    dirs: BTreeMap<GrantName, SharedGrant<(DirGrant, Range<usize>)>>,
    http: BTreeMap<GrantName, SharedGrant<HttpGrant>>,
}

/// A grant at the top level of the plan.
#[derive(Clone)]
enum SharedGrant<T> {
    Valid(T),
    /// Its error was reported.
    Invalid,
    /// It looks up the host of a step, and this is for steps without one.
    NeedsHost,
    /// It is invalid on one host: an error if a step there uses it.
    InvalidOnHost(Vec<PlanError>),
}

impl SharedGrants {
    /// Reads `dirs` and `http` of the plan, for steps on the runner's machine.
    pub(super) fn read(
        fields: &MappingFields<'_>,
        scope: &LookupScope<'_>,
        source: &PlanSource,
        problems: &mut PlanErrorCollector,
    ) -> Self {
        let mut shared = Self::default();
        let mut reader = GrantReader { scope, source, problems };
        for (key, node) in reader.mapping(fields, "dirs") {
            if let Some(name) = reader.name::<GrantName>(key) {
                let dir = match depends_on_host(node) {
                    true => SharedGrant::NeedsHost,
                    false => reader.shared_dir_grant(key, node).map_or(SharedGrant::Invalid, SharedGrant::Valid),
                };
                shared.dirs.insert(name, dir);
            }
        }
        for (key, node) in reader.mapping(fields, "http") {
            if let Some(name) = reader.name::<GrantName>(key) {
                let grant = match depends_on_host(node) {
                    true => SharedGrant::NeedsHost,
                    false => reader.http(node).map_or(SharedGrant::Invalid, SharedGrant::Valid),
                };
                shared.http.insert(name, grant);
            }
        }
        shared
    }

    /// The same for steps on the host of `scope`.
    pub(super) fn on_host(&self, fields: &MappingFields<'_>, scope: &LookupScope<'_>, source: &PlanSource) -> Self {
        let mut shared = self.clone();
        for (name, grant) in &mut shared.dirs {
            grant.read_on_host(fields.get("dirs"), name, |key, node, problems| {
                GrantReader { scope, source, problems }.shared_dir_grant(key, node)
            });
        }
        for (name, grant) in &mut shared.http {
            grant.read_on_host(fields.get("http"), name, |_, node, problems| {
                GrantReader { scope, source, problems }.http(node)
            });
        }
        shared
    }
}

impl<T> SharedGrant<T> {
    /// Reads a grant that looks up the host.
    fn read_on_host(
        &mut self,
        entries: Option<&YamlNode>,
        name: &GrantName,
        read: impl FnOnce(&YamlKey, &YamlNode, &mut PlanErrorCollector) -> Option<T>,
    ) {
        let (Self::NeedsHost, Some(YamlNode { kind: YamlValue::Map(entries), .. })) = (&self, entries) else { return };
        let Some((key, node)) = entries.iter().find(|(key, _)| key.text == name.as_str()) else { return };
        let mut problems = PlanErrorCollector::default();
        *self = match read(key, node, &mut problems) {
            Some(grant) if problems.is_empty() => Self::Valid(grant),
            Some(_) | None => Self::InvalidOnHost(problems.into_list()),
        };
    }
}

/// The grants of a step, and what the plan says of them.
#[derive(Default)]
pub(super) struct DeclaredGrants {
    pub(super) grants: StepGrants,
    /// The places of its directories in the text.
    pub(super) dir_spans: BTreeMap<GrantName, Range<usize>>,
    /// Whether the step lists its HTTP origins itself.
    pub(super) lists_http: bool,
    /// Whether the step lists its programs itself.
    pub(super) lists_programs: bool,
}

/// Reads the grants of a step; invalid ones are reported and left out.
pub(super) fn read(
    node: &YamlNode,
    what: &str,
    shared: &SharedGrants,
    scope: &LookupScope<'_>,
    source: &PlanSource,
    problems: &mut PlanErrorCollector,
) -> DeclaredGrants {
    let mut declared = DeclaredGrants::default();
    let Some(fields) = MappingFields::read(node, format!("`grants` of {what}"), &node.span, KEYS, problems) else {
        return declared;
    };
    declared.lists_http = fields.get("http").is_some();
    declared.lists_programs = fields.get("programs").is_some();
    let mut reader = GrantReader { scope, source, problems };
    for (name, dir, span) in reader.dirs(&fields, shared) {
        declared.dir_spans.insert(name.clone(), span);
        declared.grants.dirs.insert(name, dir);
    }
    let grants = &mut declared.grants;
    for node in reader.list(&fields, "http") {
        grants.http.extend(reader.http_item(node, shared));
    }
    for node in reader.list(&fields, "tcp") {
        grants.tcp.extend(reader.tcp(node));
    }
    for (key, node) in reader.mapping(&fields, "databases") {
        if let (Some(name), Some(database)) = (reader.name(key), reader.database(key, node)) {
            grants.databases.insert(name, database);
        }
    }
    for node in reader.list(&fields, "programs") {
        grants.programs.extend(reader.program(node));
    }
    for (key, node) in reader.mapping(&fields, "env") {
        grants.env.extend(reader.variable(key, node).map(|grant| (key.text.clone(), grant)));
    }
    for (key, node) in reader.mapping(&fields, "sockets") {
        if let (Some(name), Some(path)) = (reader.name(key), reader.socket(key, node)) {
            grants.sockets.insert(name, path);
        }
    }
    for (key, node) in reader.mapping(&fields, "renders") {
        if let (Some(name), Some(dir)) = (reader.name::<GrantName>(key), reader.render(key, node)) {
            reader.check_unread(&grants.dirs, key, node, &dir);
            grants.renders.insert(name, dir);
        }
    }
    if let Some(node) = fields.get("secrets") {
        grants.secrets = reader.secrets(node);
    }
    declared
}

/// The paths of `dirs` at the top of the plan, as written.
pub(super) fn written_shared_dirs(fields: &MappingFields<'_>) -> BTreeMap<GrantName, String> {
    let Some(YamlNode { kind: YamlValue::Map(entries), .. }) = fields.get("dirs") else { return BTreeMap::new() };
    let written = entries.iter().filter_map(|(key, node)| match &node.kind {
        YamlValue::Text(path) => Some((key.text.parse::<GrantName>().ok()?, path.clone())),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } | YamlValue::List(_) | YamlValue::Map(_) => {
            None
        }
    });
    written.collect()
}

/// The error for `dirs` that is neither a list nor a mapping.
fn wrong_dirs(node: &YamlNode, shared: &SharedGrants) -> PlanError {
    let wanted = "a list of names or a mapping";
    let written = match &node.kind {
        YamlValue::Text(text) => text.as_str(),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } | YamlValue::List(_) | YamlValue::Map(_) => "",
    };
    let name = written.split(':').next().unwrap_or_default();
    let example = match shared.dirs.keys().any(|shared| shared.as_str() == name) {
        true => format!("[{}]", flow_scalar(written)),
        false => "{ app: ./app }".to_owned(),
    };
    fields::wrong_type(node, "`dirs`", wanted).hint(format!("write {wanted}: `dirs: {example}`"))
}

struct GrantReader<'a> {
    scope: &'a LookupScope<'a>,
    source: &'a PlanSource,
    problems: &'a mut PlanErrorCollector,
}

impl GrantReader<'_> {
    fn mapping<'n>(&mut self, fields: &MappingFields<'n>, key: &str) -> &'n [(YamlKey, YamlNode)] {
        let node = fields.get(key);
        node.and_then(|node| fields::mapping(node, &format!("`{key}`"), self.problems)).unwrap_or_default()
    }

    fn list<'n>(&mut self, fields: &MappingFields<'n>, key: &str) -> &'n [YamlNode] {
        let node = fields.get(key);
        node.and_then(|node| fields::list(node, &format!("`{key}`"), self.problems)).unwrap_or_default()
    }

    fn name<T: std::str::FromStr<Err = contract::NameError>>(&mut self, key: &YamlKey) -> Option<T> {
        fields::parse_name(&key.text, &key.span, self.problems)
    }

    fn text(&mut self, node: &YamlNode, what: &str) -> Option<String> {
        self.scope.text(node, what, LookupSite::Grant, self.problems)
    }

    fn bad_grant<T>(&mut self, span: &Range<usize>, message: String, label: &str, hint: &str) -> Option<T> {
        self.problems.push(PlanError::new(ErrorCode::InvalidGrant, message).at(span, label).hint(hint));
        None
    }

    /// Reads `dirs`: a mapping from names to paths, or a list of names at the top level, each with `:ro` where the step only reads.
    fn dirs(&mut self, fields: &MappingFields<'_>, shared: &SharedGrants) -> Vec<(GrantName, DirGrant, Range<usize>)> {
        let mut found: Vec<(GrantName, DirGrant, Range<usize>)> = Vec::new();
        let node = fields.get("dirs");
        if let Some(node) = node
            && !matches!(node.kind, YamlValue::List(_) | YamlValue::Map(_))
        {
            self.problems.push(wrong_dirs(node, shared));
            return found;
        }
        let Some(YamlNode { kind: YamlValue::List(items), .. }) = node else {
            for (key, node) in self.mapping(fields, "dirs") {
                if let (Some(name), Some(dir)) = (self.name::<GrantName>(key), self.dir(key, node)) {
                    found.push((name, dir, node.span.clone()));
                }
            }
            return found;
        };
        for item in items {
            let Some((name, dir, span)) = self.shared_dir(item, shared) else { continue };
            if found.iter().any(|(other, ..)| *other == name) {
                let error = PlanError::new(ErrorCode::DuplicateKey, format!("directory `{name}` is listed twice"));
                self.problems.push(error.at(&item.span, "the second time").hint("remove one"));
                continue;
            }
            found.push((name, dir, span));
        }
        found
    }

    fn shared_dir(&mut self, node: &YamlNode, shared: &SharedGrants) -> Option<(GrantName, DirGrant, Range<usize>)> {
        let text = fields::literal(node, "an item of `dirs`", self.problems)?;
        let (name, access) = match (text.strip_suffix(":ro"), text.strip_suffix(":rw")) {
            (Some(name), _) => (name, Some(DirAccess::ReadOnly)),
            (None, Some(name)) => (name, Some(DirAccess::ReadWrite)),
            (None, None) => (text, None),
        };
        let name: GrantName = fields::parse_name(name, &node.span, self.problems)?;
        let Some(dir) = shared.dirs.get(&name) else {
            let names = shared.dirs.keys().map(GrantName::as_str);
            let write = format!("add `{name}: PATH` to `dirs` at the top of the plan");
            return self.unknown_shared("dirs", name.as_str(), &node.span, names, write);
        };
        let (dir, span) = self.valid_shared(dir, "dirs", &name, &node.span)?;
        if access == Some(DirAccess::ReadWrite) && dir.access == DirAccess::ReadOnly {
            return self.bad_grant(
                &node.span,
                format!("`dirs` of the plan grants `{name}` for reading only"),
                "cannot be written to",
                "remove `:rw` here, or `:ro` from the directory at the top of the plan",
            );
        }
        let access = access.unwrap_or(dir.access);
        Some((name.clone(), DirGrant { access, source: GrantSource::Shared(name), ..dir }, span))
    }

    /// The value of a grant at the top level of the plan.
    fn valid_shared<T: Clone>(
        &mut self,
        grant: &SharedGrant<T>,
        key: &str,
        name: &GrantName,
        span: &Range<usize>,
    ) -> Option<T> {
        match grant {
            SharedGrant::Valid(grant) => Some(grant.clone()),
            SharedGrant::Invalid => {
                self.problems.note_repeated();
                None
            }
            SharedGrant::InvalidOnHost(errors) => {
                self.problems.note_repeated();
                errors.iter().for_each(|error| self.problems.push(error.clone()));
                None
            }
            SharedGrant::NeedsHost => self.bad_grant(
                span,
                format!("`{name}` in `{key}` of the plan looks up `host`, and this step runs on no host"),
                "used here",
                "add `on: GROUP` to the step, with a group of the environment's `hosts`",
            ),
        }
    }

    /// Reports a name that the top level does not have.
    fn unknown_shared<'n, T>(
        &mut self,
        key: &str,
        name: &str,
        span: &Range<usize>,
        names: impl Iterator<Item = &'n str>,
        write: String,
    ) -> Option<T> {
        let error = PlanError::new(ErrorCode::InvalidGrant, format!("`{key}` of the plan has no `{name}`"));
        let hint = closest_match(name, names).map_or(write, |near| format!("did you mean `{near}`?"));
        self.problems.push(error.at(span, "not at the top of the plan").hint(hint));
        None
    }

    fn shared_dir_grant(&mut self, key: &YamlKey, node: &YamlNode) -> Option<(DirGrant, Range<usize>)> {
        self.dir(key, node).map(|dir| (dir, node.span.clone()))
    }

    fn dir(&mut self, key: &YamlKey, node: &YamlNode) -> Option<DirGrant> {
        let text = self.text(node, &format!("directory `{}`", key.text))?;
        let (path, access) = match text.strip_suffix(":ro") {
            Some(path) => (path, DirAccess::ReadOnly),
            None => (text.strip_suffix(":rw").unwrap_or(&text), DirAccess::ReadWrite),
        };
        if let Some(why) = paths::path_error(path) {
            let message = format!("directory `{}` has an invalid path: {why}", key.text);
            return self.bad_grant(
                &node.span,
                message,
                "invalid path",
                "write `PATH`, or `PATH:ro` for read-only access",
            );
        }
        let is_relative = !path.starts_with('/');
        Some(DirGrant {
            path: paths::resolve(&self.source.folder, path),
            access,
            is_relative,
            source: GrantSource::Step,
        })
    }

    fn database(&mut self, key: &YamlKey, node: &YamlNode) -> Option<DatabaseGrant> {
        let what = format!("database `{}`", key.text);
        let url = self.scope.confidential(node, &what, self.problems)?;
        // The value is checked, but never shown: the whole URL may be a secret.
        let value = url.value.reveal();
        if let Some(parsed) = ServerUrl::parse(value) {
            if let Err(why) = parsed {
                let hint = "write `postgres://user:password@host/name` or `mysql://…`, with the password from a secret";
                return self.bad_grant(&node.span, format!("{what} has an invalid URL: {why}"), "invalid URL", hint);
            }
            let written = server_url::mask_password(&url.written);
            return Some(DatabaseGrant { url: ConfidentialText { written, value: url.value } });
        }
        let hint =
            "write `sqlite:PATH` (relative to the plan), `postgres://user@host/name` or `mysql://user@host/name`";
        let Some(path) = value.strip_prefix("sqlite:") else {
            return self.bad_grant(
                &node.span,
                format!("{what} is not a database URL"),
                "unknown kind of database",
                hint,
            );
        };
        let path = path.strip_prefix("//").unwrap_or(path);
        let why = paths::path_error(path)
            .or_else(|| path.contains('?').then_some("options after `?` are not supported"))
            .or_else(|| {
                path.starts_with(":memory:").then_some("an in-memory database does not last until the next step")
            });
        if let Some(why) = why {
            return self.bad_grant(&node.span, format!("{what} has an invalid path: {why}"), "invalid path", hint);
        }
        if let Some(host) = self.scope.host.as_ref().filter(|host| host.is_remote() && !path.starts_with('/')) {
            let message = format!("{what} is relative to the plan, and the step runs on `{}`", host.name);
            return self.bad_grant(
                &node.span,
                message,
                &format!("not on `{}`", host.name),
                "write an absolute path: `sqlite:/srv/shop/shop.db`",
            );
        }
        let resolved = format!("sqlite:{}", paths::resolve(&self.source.folder, path).display());
        let written = if url.written == value { resolved.clone() } else { url.written.clone() };
        Some(DatabaseGrant { url: ConfidentialText { written, value: Secret::new(resolved) } })
    }

    fn socket(&mut self, key: &YamlKey, node: &YamlNode) -> Option<std::path::PathBuf> {
        let text = self.text(node, &format!("socket `{}`", key.text))?;
        let hint = "write `unix:/run/podman/podman.sock`";
        let Some(path) = text.strip_prefix("unix:") else {
            let message = format!("socket `{}` is not a unix socket", key.text);
            return self.bad_grant(&node.span, message, "does not start with `unix:`", hint);
        };
        if let Some(why) = paths::path_error(path) {
            return self.bad_grant(
                &node.span,
                format!("socket `{}` has an invalid path: {why}", key.text),
                "invalid path",
                hint,
            );
        }
        Some(paths::resolve(&self.source.folder, path))
    }

    fn variable(&mut self, key: &YamlKey, node: &YamlNode) -> Option<EnvGrant> {
        let name = &key.text;
        let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.is_empty() || !fits || name.as_bytes()[0].is_ascii_digit() {
            let message = format!("`{}` is not the name of an environment variable", escape_line(name));
            return self.bad_grant(
                &key.span,
                message,
                "invalid name",
                "use letters, digits and `_`, with no digit first",
            );
        }
        if matches!(node.kind, YamlValue::Null) {
            return Some(EnvGrant::SetByStep);
        }
        let value = self.scope.confidential(node, &format!("environment variable `{name}`"), self.problems)?;
        if value.value.reveal().contains('\0') {
            return self.bad_grant(
                &node.span,
                format!("the value of `{name}` contains a NUL character"),
                "invalid value",
                "remove it",
            );
        }
        Some(EnvGrant::Set(value))
    }
}
