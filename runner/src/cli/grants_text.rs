//! The grants of a step, for `runner plan`.

use plan::{
    ArgumentPattern, DEFAULT_PROGRAM_PATH, DirAccess, EnvGrant, GrantSource, NetworkScope, SecretAccess, StepGrants,
};

/// The grants of a step, one per line.
pub(super) fn grant_lines(grants: &StepGrants) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, grant) in &grants.dirs {
        let access = match grant.access {
            DirAccess::ReadOnly => "read only",
            DirAccess::ReadWrite => "read and write",
        };
        let from = source_text(&grant.source, "dirs");
        lines.push(format!("directory `{name}` = {} ({access}; from {from})", grant.path.display()));
    }
    lines.extend(grants.databases.iter().map(|(name, grant)| format!("database `{name}` = {}", grant.url.written)));
    lines.extend(grants.http.iter().map(|grant| {
        let methods = grant.methods.as_ref().map_or(String::new(), |methods| format!("{}; ", methods.join(", ")));
        let private = if grant.network == NetworkScope::Private { "also private addresses; " } else { "" };
        let from = source_text(&grant.source, "http");
        format!("{}://{}:{} ({methods}{private}from {from})", grant.scheme, grant.host, grant.port)
    }));
    lines.extend(grants.tcp.iter().map(|address| format!("tcp {address}")));
    for grant in &grants.programs {
        let argv = grant.arguments.iter().map(ArgumentPattern::written).collect::<Vec<_>>().join(" ");
        lines.push(format!("program {argv} (from {})", source_text(&grant.source, "programs")));
    }
    if !grants.programs.is_empty() {
        let defaults = [("HOME", "the home of the runner's user"), ("PATH", DEFAULT_PROGRAM_PATH)];
        let missing = defaults.into_iter().filter(|(name, _)| !grants.env.contains_key(*name));
        lines.extend(missing.map(|(name, value)| format!("environment `{name}` = {value} (the default)")));
    }
    lines.extend(grants.env.iter().map(|(name, grant)| match grant {
        EnvGrant::Set(value) => format!("environment `{name}` = {}", value.written),
        EnvGrant::SetByStep => format!("environment `{name}`, which the step sets"),
    }));
    lines.extend(grants.sockets.iter().map(|(name, path)| format!("socket `{name}` = unix:{}", path.display())));
    lines.extend(grants.secrets.iter().map(|(name, grant)| match grant.access {
        SecretAccess::Use => format!("secret `{name}` (to use)"),
        SecretAccess::Reveal => format!("secret `{name}` (to use and to see)"),
    }));
    lines
}

/// Where the plan grants something.
fn source_text(source: &GrantSource, key: &str) -> String {
    match source {
        GrantSource::Step => "`grants`".to_owned(),
        GrantSource::Shared(name) => format!("`{key}.{name}` of the plan"),
        GrantSource::Config(pointer) => {
            let path = pointer.trim_start_matches('/').replace('/', ".").replace("~1", "/").replace("~0", "~");
            format!("`with.{path}`")
        }
    }
}
