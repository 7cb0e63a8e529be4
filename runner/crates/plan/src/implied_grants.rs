//! Grants that follow from a step's `with`: a program or URL that is known before the run is its own grant.
//!
//! Invariant: a step that lists `programs` (or `http`) in its `grants` gets that list and nothing else. Only what is known
//! before the first step counts, never an output of a step; so `runner plan` shows each such grant. Modules of others get nothing this way. Deliberately absent:
//! private addresses, request headers and sockets, which `grants` alone can give, and `trust: host`.

use std::collections::BTreeMap;

use serde_json::Value;
use url::Url;

use super::{
    ArgumentPattern, GrantSource, HttpGrant, ModuleRef, NetworkScope, OCI_SCHEME, OciRef, ProgramGrant, address,
    expression::PendingValue,
    grants::{DeclaredGrants, is_program},
    scope::SubstitutedConfig,
    step::RUN,
};
use contract::text::pointer_token;

/// The argument with which a program prints its version, if the step names no other.
const VERSION_OPTION: &str = "--version";

/// Adds the grants that follow from the configuration. A `run` step gets programs only: a URL is an argument there.
pub(super) fn add(declared: &mut DeclaredGrants, uses: &ModuleRef, config: &SubstitutedConfig) {
    if !declared.lists_programs {
        declared.grants.programs = programs(uses, &config.value, &config.pending);
    }
    if !declared.lists_http {
        declared.grants.http = origins(uses, &config.value, &config.pending);
    }
}

fn is_run(uses: &ModuleRef) -> bool {
    *uses == ModuleRef::Official(RUN.to_owned())
}

/// The argument vectors of a `run` step: its program, the program that probes, and those whose versions it requires.
pub(super) fn programs(
    uses: &ModuleRef,
    config: &Value,
    pending: &BTreeMap<String, PendingValue>,
) -> Vec<ProgramGrant> {
    if !is_run(uses) {
        return Vec::new();
    }
    let text = |pointer: &str| {
        let value = config.pointer(pointer)?.as_str()?;
        (!pending.contains_key(pointer)).then(|| value.to_owned())
    };
    // The words of a list; those of a list that is left out are `default`.
    let list = |pointer: &str, default: &[&str]| -> Option<Vec<String>> {
        match config.pointer(pointer) {
            None => Some(default.iter().map(|&word| word.to_owned()).collect()),
            Some(Value::Array(items)) => (0..items.len()).map(|index| text(&format!("{pointer}/{index}"))).collect(),
            Some(_) => None,
        }
    };
    let vector = |program: &str, arguments: &str, default: &[&str]| {
        let argv = text(program).zip(list(arguments, default));
        argv.map(|(program, arguments)| [vec![program], arguments].concat())
    };
    let required = config.get("requires").and_then(Value::as_array).map_or(0, Vec::len);
    let required = (0..required).map(|index| {
        let at = format!("/requires/{index}");
        (vector(&format!("{at}/program"), &format!("{at}/args"), &[VERSION_OPTION]), at)
    });
    let main = (vector("/program", "/args", &[]), "/program".to_owned());
    let probe = (list("/probe", &[]), "/probe".to_owned());
    let mut grants: Vec<ProgramGrant> = Vec::new();
    for (argv, pointer) in [main, probe].into_iter().chain(required) {
        let Some(argv) = argv.filter(|argv| argv.first().is_some_and(|program| is_program(program))) else { continue };
        let arguments: Vec<_> = argv.into_iter().map(ArgumentPattern::Exact).collect();
        if grants.iter().all(|grant| grant.arguments != arguments) {
            grants.push(ProgramGrant { arguments, source: GrantSource::Config(pointer) });
        }
    }
    grants
}

/// The origins of all URLs in the configuration of any other official module, in its order. In that of somebody's module, a URL may
/// be only text.
pub(super) fn origins(uses: &ModuleRef, config: &Value, pending: &BTreeMap<String, PendingValue>) -> Vec<HttpGrant> {
    let mut found = Vec::new();
    if is_run(uses) || !matches!(uses, ModuleRef::Official(_)) {
        return found;
    }
    collect_origins(config, String::new(), pending, &mut found);
    found
}

fn collect_origins(
    value: &Value,
    pointer: String,
    pending: &BTreeMap<String, PendingValue>,
    found: &mut Vec<HttpGrant>,
) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => {
            let known = match pending.get(&pointer) {
                None => Some(text.as_str()),
                Some(pending) => complete_origin(pending.known_prefix()),
            };
            let Some(grant) = known.and_then(origin) else { return };
            let address = |grant: &HttpGrant| (grant.scheme.clone(), grant.host.clone(), grant.port);
            if found.iter().all(|other| address(other) != address(&grant)) {
                found.push(HttpGrant { source: GrantSource::Config(pointer), ..grant });
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect_origins(item, format!("{pointer}/{index}"), pending, found);
            }
        }
        Value::Object(entries) => {
            for (key, item) in entries {
                collect_origins(item, format!("{pointer}/{}", pointer_token(key)), pending, found);
            }
        }
    }
}

/// The start of a URL, if a `/` after its host shows that no later part belongs to the host.
fn complete_origin(start: &str) -> Option<&str> {
    let host = start.find("://")? + "://".len();
    start[host..].find('/').map(|length| &start[..host + length])
}

/// The grant of a URL's origin, or of a registry's, with all methods; none for any other text.
fn origin(text: &str) -> Option<HttpGrant> {
    if let Some(reference) = text.strip_prefix(OCI_SCHEME) {
        // The repository and the tag may be known only later.
        let host = reference.split('/').next().unwrap_or_default();
        return origin(&OciRef::parse(&format!("{host}/known:later")).ok()?.origin());
    }
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let (scheme, host, port) = address::origin(&url.origin().ascii_serialization()).ok()?;
    let (network, source) = (NetworkScope::Public, GrantSource::Step);
    Some(HttpGrant { scheme, host, port, methods: None, network, headers: Vec::new(), source })
}
