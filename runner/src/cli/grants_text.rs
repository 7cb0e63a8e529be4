//! The grants of a step, for `runner plan`.

use contract::text::dotted_pointer;
use plan::{
    ArgumentPattern, ConfidentialText, DEFAULT_PROGRAM_PATH, DirAccess, EnvGrant, GrantSource, NetworkScope,
    SecretAccess, StepGrants,
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
        let sent = |(name, value): &(String, ConfidentialText)| format!("sends `{name}: {}`; ", value.written);
        let headers: String = grant.headers.iter().map(sent).collect();
        let from = source_text(&grant.source, "http");
        format!("{}://{}:{} ({methods}{private}{headers}from {from})", grant.scheme, grant.host, grant.port)
    }));
    lines.extend(grants.tcp.iter().map(|address| format!("tcp {address}")));
    for grant in &grants.programs {
        let argv = grant.arguments.iter().map(ArgumentPattern::written).collect::<Vec<_>>().join(" ");
        lines.push(format!("program {argv} (from {})", source_text(&grant.source, "programs")));
    }
    lines.extend(grants.env.iter().map(|(name, grant)| match grant {
        EnvGrant::Set(value) => format!("environment `{name}` = {}", value.written),
        EnvGrant::SetByStep => format!("environment `{name}`, which the step sets"),
    }));
    lines.extend(grants.sockets.iter().map(|(name, path)| format!("socket `{name}` = unix:{}", path.display())));
    lines.extend(grants.renders.iter().map(|(name, dir)| format!("renders into `{name}` = {}", dir.path.display())));
    lines.extend(grants.secrets.iter().map(|(name, grant)| match grant.access {
        SecretAccess::Use => format!("secret `{name}` (to use)"),
        SecretAccess::Reveal => format!("secret `{name}` (to use and to see)"),
    }));
    lines
}

/// The default environment of the programs of some steps; none if each sets its own.
pub(super) fn default_environment_line<'g>(mut steps: impl Iterator<Item = &'g StepGrants>) -> Option<String> {
    let uses_default = |grants: &StepGrants| {
        !grants.programs.is_empty() && ["HOME", "PATH"].iter().any(|name| !grants.env.contains_key(*name))
    };
    steps.any(uses_default).then(|| {
        format!(
            "programs get `PATH` = {DEFAULT_PROGRAM_PATH} and `HOME` = the home of the runner's user, unless the step sets them"
        )
    })
}

/// Where the plan grants something.
fn source_text(source: &GrantSource, key: &str) -> String {
    match source {
        GrantSource::Step => "`grants`".to_owned(),
        GrantSource::Shared(name) => format!("`{key}.{name}` of the plan"),
        GrantSource::Config(pointer) => format!("`with.{}`", dotted_pointer(pointer)),
    }
}
