//! `grants:`: the resources that a step may use.
//!
//! Invariant: only what the plan's author wrote can be an argument pattern, never a substituted value. Deliberately absent:
//! enforcement, which is the sandbox's task.

use std::{collections::BTreeMap, ops::Range};

use super::{
    ArgumentPattern, ConfidentialText, DatabaseGrant, DirAccess, DirGrant, EnvGrant, HttpGrant, NetworkScope,
    PlanSource, ProgramGrant, SecretAccess, SecretGrant, ServerUrl, StepGrants,
    address::{self, AddressError},
    error::{PlanError, PlanErrorCollector, closest_match},
    fields::{self, MappingFields},
    paths,
    scope::{LookupScope, LookupSite},
    server_url,
    yaml::{YamlKey, YamlNode, YamlValue},
};
use contract::{GrantName, Secret, error_code::ErrorCode};

const KEYS: &[&str] = &["dirs", "http", "tcp", "databases", "programs", "env", "sockets", "secrets"];
const HTTP_KEYS: &[&str] = &["origin", "methods", "private", "headers"];

/// Reads the grants of a step, and the places of its directories in the text; invalid ones are reported and left out.
pub(super) fn read(
    node: &YamlNode,
    what: &str,
    scope: &LookupScope<'_>,
    source: &PlanSource,
    problems: &mut PlanErrorCollector,
) -> (StepGrants, BTreeMap<GrantName, Range<usize>>) {
    let (mut grants, mut dir_spans) = (StepGrants::default(), BTreeMap::new());
    let Some(fields) = MappingFields::read(node, format!("`grants` of {what}"), &node.span, KEYS, problems) else {
        return (grants, dir_spans);
    };
    let mut reader = GrantReader { scope, source, problems };
    for (key, node) in reader.mapping(&fields, "dirs") {
        if let (Some(name), Some(dir)) = (reader.name::<GrantName>(key), reader.dir(key, node)) {
            dir_spans.insert(name.clone(), node.span.clone());
            grants.dirs.insert(name, dir);
        }
    }
    for node in reader.list(&fields, "http") {
        grants.http.extend(reader.http(node));
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
    if let Some(node) = fields.get("secrets") {
        grants.secrets = reader.secrets(node);
    }
    (grants, dir_spans)
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
        Some(DirGrant { path: paths::resolve(&self.source.folder, path), access })
    }

    fn http(&mut self, node: &YamlNode) -> Option<HttpGrant> {
        let mut grant = HttpGrant {
            scheme: String::new(),
            host: String::new(),
            port: 0,
            methods: None,
            network: NetworkScope::Public,
            headers: Vec::new(),
        };
        let origin = match &node.kind {
            YamlValue::Map(_) => {
                let fields = MappingFields::read(node, "an HTTP grant", &node.span, HTTP_KEYS, self.problems)?;
                if let Some(methods) = fields.get("methods") {
                    grant.methods = self.methods(methods);
                }
                match fields.get("private").map(|node| (&node.kind, node)) {
                    None | Some((YamlValue::Bool(false), _)) => {}
                    Some((YamlValue::Bool(true), _)) => grant.network = NetworkScope::Private,
                    Some((_, node)) => self.problems.push(fields::wrong_type(node, "`private`", "true or false")),
                }
                for (key, node) in self.mapping(&fields, "headers") {
                    grant.headers.extend(self.header(key, node));
                }
                fields.require("origin", "https://example.com", self.problems)?
            }
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Number { .. }
            | YamlValue::Text(_)
            | YamlValue::List(_) => node,
        };
        let text = self.text(origin, "an HTTP origin")?;
        match address::origin(&text) {
            Ok((scheme, host, port)) => Some(HttpGrant { scheme, host, port, ..grant }),
            Err(AddressError { reason: why, hint }) => {
                self.bad_grant(&origin.span, format!("`{text}` is not an HTTP origin: {why}"), "not an origin", &hint)
            }
        }
    }

    fn methods(&mut self, node: &YamlNode) -> Option<Vec<String>> {
        let items = fields::list(node, "`methods`", self.problems)?;
        let mut methods = Vec::new();
        for item in items {
            let text = self.text(item, "a method")?;
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                return self.bad_grant(
                    &item.span,
                    format!("`{text}` is not an HTTP method"),
                    "not an HTTP method",
                    "write a method such as `GET` or `POST`",
                );
            }
            methods.push(text.to_ascii_uppercase());
        }
        if methods.is_empty() {
            return self.bad_grant(
                &node.span,
                "an HTTP grant without methods grants nothing".into(),
                "empty",
                "remove `methods` to grant all of them",
            );
        }
        Some(methods)
    }

    fn header(&mut self, key: &YamlKey, node: &YamlNode) -> Option<(String, ConfidentialText)> {
        let name = key.text.to_ascii_lowercase();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return self.bad_grant(
                &key.span,
                format!("{:?} is not a header name", key.text),
                "not a header name",
                "write a name such as `Authorization`",
            );
        }
        let value = self.scope.confidential(node, &format!("header `{name}`"), self.problems)?;
        if value.value.reveal().chars().any(|c| c.is_control() && c != '\t') {
            let message = format!("the value of header `{name}` contains a line break or another control character");
            return self.bad_grant(
                &node.span,
                message,
                "not a header value",
                "remove it; many secrets end with a line break",
            );
        }
        Some((name, value))
    }

    fn tcp(&mut self, node: &YamlNode) -> Option<String> {
        let text = self.text(node, "a TCP address")?;
        match address::tcp(&text) {
            Ok(address) => Some(address),
            Err(AddressError { reason: why, hint }) => {
                self.bad_grant(&node.span, format!("`{text}` is not a TCP address: {why}"), "not an address", &hint)
            }
        }
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
        let resolved = format!("sqlite:{}", paths::resolve(&self.source.folder, path).display());
        let written = if url.written == value { resolved.clone() } else { url.written.clone() };
        Some(DatabaseGrant { url: ConfidentialText { written, value: Secret::new(resolved) } })
    }

    fn program(&mut self, node: &YamlNode) -> Option<ProgramGrant> {
        let hint = "write a list with the program first: `[/usr/sbin/nginx, -t]`";
        let items = match &node.kind {
            YamlValue::List(items) => items.as_slice(),
            YamlValue::Text(text) if text.contains(char::is_whitespace) && !text.contains("${{") => {
                return self.bad_grant(
                    &node.span,
                    format!("`{text}` contains a space, and no shell splits it"),
                    "not a program",
                    hint,
                );
            }
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Number { .. }
            | YamlValue::Text(_)
            | YamlValue::Map(_) => std::slice::from_ref(node),
        };
        let mut arguments = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let pattern = self.argument(item)?;
            let last = index + 1 == items.len();
            match &pattern {
                ArgumentPattern::Exact(program) if index == 0 => self.program_name(item, program)?,
                ArgumentPattern::AnyOne | ArgumentPattern::AnyRest if index == 0 => {
                    return self.bad_grant(
                        &item.span,
                        "a grant must name its program".into(),
                        "a pattern",
                        "write the program, such as `/usr/sbin/nginx`",
                    );
                }
                ArgumentPattern::AnyRest if !last => {
                    return self.bad_grant(
                        &item.span,
                        "`**` stands for all further arguments, so it must be last".into(),
                        "not last",
                        "use `*` for exactly one argument",
                    );
                }
                ArgumentPattern::Exact(_) | ArgumentPattern::AnyOne | ArgumentPattern::AnyRest => {}
            }
            arguments.push(pattern);
        }
        if arguments.is_empty() {
            return self.bad_grant(&node.span, "a program grant is empty".into(), "no program", hint);
        }
        Some(ProgramGrant { arguments })
    }

    fn argument(&mut self, node: &YamlNode) -> Option<ArgumentPattern> {
        match &node.kind {
            YamlValue::Text(text) if text == "*" => return Some(ArgumentPattern::AnyOne),
            YamlValue::Text(text) if text == "**" => return Some(ArgumentPattern::AnyRest),
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Number { .. }
            | YamlValue::Text(_)
            | YamlValue::List(_)
            | YamlValue::Map(_) => {}
        }
        let text = self.text(node, "an argument")?;
        if text.contains('\0') {
            return self.bad_grant(
                &node.span,
                "an argument contains a NUL character".into(),
                "invalid argument",
                "remove it",
            );
        }
        Some(ArgumentPattern::Exact(text))
    }

    fn program_name(&mut self, node: &YamlNode, program: &str) -> Option<()> {
        let bare = !program.is_empty() && !program.contains('/') && program != "." && program != "..";
        if bare || (program.starts_with('/') && !program.ends_with('/')) {
            return Some(());
        }
        let message = format!("`{program}` is neither an absolute path nor a bare name");
        self.bad_grant(&node.span, message, "not a program", "write `/usr/sbin/nginx` or `nginx`")
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

    /// Reads a list of names to use, or a mapping from names to `use` or `reveal`.
    fn secrets(&mut self, node: &YamlNode) -> BTreeMap<String, SecretGrant> {
        let mut granted = BTreeMap::new();
        match &node.kind {
            YamlValue::Map(entries) => {
                let choices = [("use", SecretAccess::Use), ("reveal", SecretAccess::Reveal)];
                for (key, node) in entries {
                    let access = fields::choice(node, &format!("secret `{}`", key.text), &choices, self.problems);
                    granted.extend(access.and_then(|access| self.secret(&key.text, &key.span, access)));
                }
            }
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Number { .. }
            | YamlValue::Text(_)
            | YamlValue::List(_) => {
                for item in fields::list(node, "`secrets`", self.problems).unwrap_or_default() {
                    let name = fields::literal(item, "a secret's name", self.problems);
                    granted.extend(name.and_then(|name| self.secret(name, &item.span, SecretAccess::Use)));
                }
            }
        }
        granted
    }

    fn secret(&mut self, name: &str, span: &Range<usize>, access: SecretAccess) -> Option<(String, SecretGrant)> {
        match self.scope.secrets.get(name) {
            Some(Some(value)) => Some((name.to_owned(), SecretGrant { value: value.clone(), access })),
            // The error was reported where the secret is declared.
            Some(None) => {
                self.problems.note_repeated();
                None
            }
            None => {
                let error = PlanError::new(ErrorCode::UndefinedLookup, format!("the plan has no secret `{name}`"));
                let hint = match closest_match(name, self.scope.secrets.keys().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("declare it at the top of the plan: `secrets: {{ {name}: env:VARIABLE }}`"),
                };
                self.problems.push(error.at(span, "not declared").hint(hint));
                None
            }
        }
    }

    fn variable(&mut self, key: &YamlKey, node: &YamlNode) -> Option<EnvGrant> {
        let name = &key.text;
        let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.is_empty() || !fits || name.as_bytes()[0].is_ascii_digit() {
            let message = format!("{name:?} is not the name of an environment variable");
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
