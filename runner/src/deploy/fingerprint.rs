//! The fingerprint of a step: what it depends on, hashed component by component (docs/journal.md).
//!
//! A secret is hashed by its name, a database by scheme, host, port and name, and a file by its content. Paths inside
//! the plan's folder are hashed relative to it, so that a checkout on another machine has the same fingerprint.

use std::{collections::BTreeMap, path::Path};

use semver::Version;
use serde_json::{Map, Value, json};
use url::Url;

use super::preflight::relative_to;
use contract::{
    Digest, StepId, TargetName,
    hash::{Blake3Hash, InputHash},
};
use journal::event::{Fingerprint, INPUT_PREFIX, Release, file_component};
use plan::{ArgumentPattern, ConfidentialText, DirAccess, EnvGrant, NetworkScope, SecretAccess, StepGrants};

/// The version of the contract that fingerprints name for modules that were built for it or an older one: runners that knew no newer one named
/// it for all modules, and a module's fingerprint must not change when the runner learns another version.
const OLDEST_NAMED_CONTRACT: Version = Version::new(0, 1, 1);

/// What a hash takes in an intent, with the punctuation.
const HASH_BYTES: usize = 70;

/// The component about the outputs of the steps that a step depends on.
pub(super) const UPSTREAM: &str = "upstream";

/// The data that a fingerprint is computed from.
pub(super) struct FingerprintParts<'a> {
    pub(super) module: &'a Digest,
    /// The version of the contract that the module was built for.
    pub(super) contract_version: &'a str,
    pub(super) config: &'a Value,
    pub(super) inputs: BTreeMap<String, InputHash>,
    pub(super) grants: &'a StepGrants,
    pub(super) folder: &'a Path,
    pub(super) target: &'a TargetName,
    pub(super) upstream: &'a BTreeMap<StepId, Map<String, Value>>,
    pub(super) release: &'a Release,
}

pub(super) fn compute_fingerprint(parts: FingerprintParts<'_>) -> Fingerprint {
    let release = match &parts.release.digest {
        Some(digest) => digest.to_string(),
        None => parts.release.label.to_string(),
    };
    let upstream: Map<String, Value> =
        parts.upstream.iter().map(|(step, outputs)| (step.to_string(), Value::Object(outputs.clone()))).collect();
    let mut components = BTreeMap::from([
        ("module".to_owned(), module_hash(parts.module)),
        ("contract".to_owned(), contract_hash(parts.contract_version)),
        ("config".to_owned(), Blake3Hash::of_json(parts.config)),
        ("grants".to_owned(), Blake3Hash::of_json(&grants_json(parts.grants, parts.folder))),
        ("target".to_owned(), Blake3Hash::of(parts.target.as_str().as_bytes())),
        (UPSTREAM.to_owned(), Blake3Hash::of_json(&Value::Object(upstream))),
        ("release".to_owned(), Blake3Hash::of(release.as_bytes())),
    ]);
    components.extend(input_fingerprint(parts.inputs).0);
    Fingerprint(components)
}

/// The components of inputs, by their names in the configuration. Files are named if there are few of them in all.
pub(crate) fn input_fingerprint(inputs: BTreeMap<String, InputHash>) -> Fingerprint {
    let (mut components, mut all_files) = (BTreeMap::new(), BTreeMap::new());
    for (name, InputHash { hash, files }) in inputs {
        all_files.extend(files.into_iter().map(|(path, hash)| (file_component(&name, &path), hash)));
        components.insert(format!("{INPUT_PREFIX}{name}"), hash);
    }
    if all_files.keys().map(|name| name.len() + HASH_BYTES).sum::<usize>() <= InputHash::MAX_FILES_BYTES {
        components.extend(all_files);
    }
    Fingerprint(components)
}

/// The component `contract`.
fn contract_hash(built_for: &str) -> Blake3Hash {
    let built_for = built_for.parse().unwrap_or(OLDEST_NAMED_CONTRACT);
    Blake3Hash::of(format!("pawl:step@{}", built_for.max(OLDEST_NAMED_CONTRACT)).as_bytes())
}

/// The component `module`.
pub(super) fn module_hash(module: &Digest) -> Blake3Hash {
    Blake3Hash::of(module.to_string().as_bytes())
}

/// One hash of what a step depends on besides its release, the same for every version of the runner and in every run.
pub(super) fn input_hash(fingerprint: &Fingerprint) -> Blake3Hash {
    let is_of_release_or_runner = |name: &String| ["release", "module", "contract"].contains(&name.as_str());
    let inputs = fingerprint.0.iter().filter(|(name, _)| !is_of_release_or_runner(name));
    Fingerprint(inputs.map(|(name, hash)| (name.clone(), *hash)).collect()).digest()
}

fn grants_json(grants: &StepGrants, folder: &Path) -> Value {
    let written = |text: &ConfidentialText| Value::String(text.written.clone());
    let dirs: Map<_, _> = grants
        .dirs
        .iter()
        .map(|(name, grant)| {
            let access = match grant.access {
                DirAccess::ReadOnly => "ro",
                DirAccess::ReadWrite => "rw",
            };
            (name.to_string(), json!([relative_to(folder, &grant.path), access]))
        })
        .collect();
    let http: Vec<_> = grants
        .http
        .iter()
        .map(|grant| {
            let headers: Map<_, _> = grant.headers.iter().map(|(name, value)| (name.clone(), written(value))).collect();
            json!({
                "origin": format!("{}://{}:{}", grant.scheme, grant.host, grant.port),
                "methods": grant.methods,
                "private": grant.network == NetworkScope::Private,
                "headers": headers,
            })
        })
        .collect();
    let databases: Map<_, _> = grants
        .databases
        .iter()
        .map(|(name, grant)| (name.to_string(), Value::String(database_identity(grant.url.value.reveal(), folder))))
        .collect();
    let programs: Vec<Vec<&str>> =
        grants.programs.iter().map(|grant| grant.arguments.iter().map(ArgumentPattern::written).collect()).collect();
    let env: Map<_, _> = grants
        .env
        .iter()
        .map(|(name, grant)| {
            let value = match grant {
                EnvGrant::Set(value) => written(value),
                EnvGrant::SetByStep => Value::Null,
            };
            (name.clone(), value)
        })
        .collect();
    let sockets: Map<_, _> =
        grants.sockets.iter().map(|(name, path)| (name.to_string(), json!(relative_to(folder, path)))).collect();
    let secrets: Map<_, _> = grants
        .secrets
        .iter()
        .map(|(name, grant)| (name.clone(), json!(grant.access == SecretAccess::Reveal)))
        .collect();
    let mut all = json!({
        "dirs": dirs, "http": http, "tcp": grants.tcp, "databases": databases, "programs": programs, "env": env,
        "sockets": sockets, "secrets": secrets,
    });
    // Absent without any: the fingerprints of older runners have no such member.
    if !grants.renders.is_empty() {
        let renders = grants.renders.iter();
        let renders: Map<_, _> =
            renders.map(|(name, dir)| (name.to_string(), json!(relative_to(folder, &dir.path)))).collect();
        all["renders"] = renders.into();
    }
    all
}

/// The database that a URL names, without user, password and options.
fn database_identity(url: &str, folder: &Path) -> String {
    if let Some(path) = url.strip_prefix("sqlite:") {
        return format!("sqlite:{}", relative_to(folder, Path::new(path)));
    }
    match Url::parse(url) {
        Ok(url) => format!(
            "{}://{}:{}{}",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            url.port().map_or_else(String::new, |port| port.to_string()),
            url.path()
        ),
        Err(_) => "unreadable".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_names_the_contract_of_each_module() {
        let named = |version: &str| Blake3Hash::of(format!("pawl:step@{version}").as_bytes());
        for (built_for, expected) in [("0.1.0", "0.1.1"), ("0.1.1", "0.1.1"), ("0.1.2", "0.1.2"), ("0.1.10", "0.1.10")]
        {
            assert_eq!(contract_hash(built_for), named(expected), "{built_for}");
        }
    }
}
