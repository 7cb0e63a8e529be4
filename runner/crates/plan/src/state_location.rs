//! `state:` and `lock:`: the location of journals and lock, and the lease of a remote lock.
//!
//! Pure: environment variables come through a function. The lists here name the variables that configure remote access, so
//! that no other part of the environment reaches it. Deliberately absent: whether the location is reachable.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{
    PlanSource, RemoteLocation, RemoteState, StateLocation,
    error::{PlanError, PlanErrorCollector},
    fields::MappingFields,
    paths,
    scope::{LookupScope, LookupSite},
    step,
    yaml::{YamlKey, YamlNode, YamlValue},
};
use contract::{Secret, error_code::ErrorCode};

/// The lease of a remote lock, unless the plan sets another.
const DEFAULT_LOCK_TTL: Duration = Duration::from_secs(30);
/// The limits of a lease: below, a slow network or a busy machine would lose the lock; above, nobody would wait.
const TTL_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

const STATE_HINT: &str = "write `state: dir:PATH`, `git:REMOTE` or `s3://BUCKET/PREFIX`";

/// The variables that configure how git reaches a remote, besides its own configuration.
const GIT_VARIABLES: [&str; 1] = ["GIT_SSH_COMMAND"];
/// The variables that configure access to an object store, named as in AWS's own tools.
const S3_VARIABLES: [&str; 20] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_ALLOW_HTTP",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_IMDSV1_FALLBACK",
    "AWS_METADATA_ENDPOINT",
    "AWS_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SKIP_SIGNATURE",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

type EnvLookup<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn read(
    fields: &MappingFields<'_>,
    scope: &LookupScope<'_>,
    source: &PlanSource,
    env: EnvLookup<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<StateLocation> {
    let ttl = lock_ttl(fields, problems);
    let Some(node) = fields.get("state") else {
        return Some(StateLocation::Dir(paths::resolve(&source.folder, ".pawl")));
    };
    let written = scope.text(node, "`state`", LookupSite::State, problems)?;
    if let Some(path) = written.strip_prefix("dir:") {
        if let Some(why) = paths::path_error(path) {
            let error = PlanError::new(ErrorCode::InvalidValue, format!("`state` has an invalid path: {why}"));
            problems.push(error.at(&node.span, "invalid path").hint("write `state: dir:.pawl`"));
            return None;
        }
        return Some(StateLocation::Dir(paths::resolve(&source.folder, path)));
    }
    let (place, names) = match (written.strip_prefix("git:"), written.strip_prefix("s3://")) {
        (Some(remote), _) => (git(remote, source), GIT_VARIABLES.as_slice()),
        (None, Some(rest)) => (s3(rest), S3_VARIABLES.as_slice()),
        (None, None) => {
            problems.push(unknown_state_error(&written, node));
            return None;
        }
    };
    let place = match place {
        Ok(place) => place,
        Err(why) => {
            let error =
                PlanError::new(ErrorCode::InvalidValue, format!("`{written}` is not a valid state location: {why}"));
            problems.push(error.at(&node.span, why).hint(STATE_HINT));
            return None;
        }
    };
    let settings = settings(names, env);
    let folder = source.folder.clone();
    let excerpt = source.error_at(ErrorCode::InvalidValue, Some(node.span.clone()), "", "no such remote", None).excerpt;
    Some(StateLocation::Remote(RemoteState {
        cache: cache(source, env),
        written,
        location: place,
        folder,
        ttl: ttl?,
        settings,
        withheld_variables: secret_variables(fields),
        excerpt: excerpt.map(Box::new),
    }))
}

impl StateLocation {
    /// Parses a location that another process of this machine wrote: `{"state": …, "folder": …}`. None for any other text.
    #[must_use]
    pub fn from_address(address: &str, env: EnvLookup<'_>) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct WrittenStateAddress {
            state: String,
            folder: PathBuf,
        }
        let WrittenStateAddress { state, folder } = serde_json::from_str(address).ok()?;
        if let Some(path) = state.strip_prefix("dir:") {
            return Some(Self::Dir(paths::resolve(&folder, path)));
        }
        let source = PlanSource { path: folder.join("deploy.yml"), folder: folder.clone(), text: "".into() };
        let (place, names) = match (state.strip_prefix("git:"), state.strip_prefix("s3://")) {
            (Some(remote), _) => (git(remote, &source).ok()?, GIT_VARIABLES.as_slice()),
            (None, Some(rest)) => (s3(rest).ok()?, S3_VARIABLES.as_slice()),
            (None, None) => return None,
        };
        let (cache, settings) = (cache(&source, env), settings(names, env));
        Some(Self::Remote(RemoteState {
            cache,
            written: state,
            location: place,
            folder,
            ttl: DEFAULT_LOCK_TTL,
            settings,
            withheld_variables: Vec::new(),
            excerpt: None,
        }))
    }
}

/// The variables that the `secrets` of the plan and of its environments name. What is wrong there is reported where it is read.
pub(super) fn secret_variables(fields: &MappingFields<'_>) -> Vec<String> {
    let of_environments = mapping_entries(fields.get("environments")).flat_map(|(_, environment)| {
        mapping_entries(Some(environment)).filter(|(key, _)| key.text == "secrets").map(|(_, secrets)| secrets)
    });
    let variable = |(_, node): &(YamlKey, YamlNode)| match &node.kind {
        YamlValue::Text(text) => text.strip_prefix("env:").map(str::to_owned),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } | YamlValue::List(_) | YamlValue::Map(_) => {
            None
        }
    };
    let all = fields.get("secrets").into_iter().chain(of_environments);
    all.flat_map(|node| mapping_entries(Some(node))).filter_map(variable).collect()
}

/// The entries of a mapping; none of anything else.
fn mapping_entries(node: Option<&YamlNode>) -> impl Iterator<Item = &(YamlKey, YamlNode)> {
    let entries = match node {
        Some(YamlNode { kind: YamlValue::Map(entries), .. }) => entries.as_slice(),
        Some(_) | None => &[],
    };
    entries.iter()
}

/// What the environment says of access to an object store.
#[must_use]
pub fn s3_settings(env: EnvLookup<'_>) -> BTreeMap<String, Secret> {
    settings(&S3_VARIABLES, env)
}

fn settings(names: &[&str], env: EnvLookup<'_>) -> BTreeMap<String, Secret> {
    let set = names.iter().filter_map(|name| {
        let value = env(name).filter(|value| !value.is_empty())?;
        Some(((*name).to_owned(), Secret::new(value)))
    });
    set.collect()
}

fn unknown_state_error(written: &str, node: &YamlNode) -> PlanError {
    if ["gs:", "az:", "artifact"].iter().any(|scheme| written.starts_with(scheme)) {
        return PlanError::new(ErrorCode::NotSupported, format!("`{written}` is not supported yet"))
            .at(&node.span, "only `dir:`, `git:` and `s3://` are supported")
            .hint(STATE_HINT);
    }
    PlanError::new(ErrorCode::InvalidValue, format!("`{written}` is not a state location"))
        .at(&node.span, "unknown kind of state")
        .hint(STATE_HINT)
}

/// Reads a git location. The name of a remote stays a name; a relative path resolves against the plan's folder.
fn git(remote: &str, source: &PlanSource) -> Result<RemoteLocation, &'static str> {
    if remote.starts_with('-') || remote.contains(|c: char| c.is_control() || c == ' ') {
        return Err("not the name or URL of a git repository");
    }
    if let Some(why) = paths::path_error(remote) {
        return Err(why);
    }
    // `host:path` and `scheme://…` are git's own; a path begins with `.` or `/`, or has one before any colon.
    let is_path = remote.starts_with(['.', '/']) || remote.split(':').next().is_some_and(|head| head.contains('/'));
    Ok(RemoteLocation::Git(if is_path {
        paths::resolve(&source.folder, remote).to_string_lossy().into_owned()
    } else {
        remote.to_owned()
    }))
}

fn s3(rest: &str) -> Result<RemoteLocation, &'static str> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let is_bucket = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if bucket.len() < 3 || bucket.len() > 63 || !bucket.chars().all(is_bucket) {
        return Err("invalid bucket name");
    }
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..");
    if !prefix.is_empty() && !prefix.split('/').all(is_segment) || prefix.contains(|c: char| c.is_control()) {
        return Err("invalid prefix");
    }
    Ok(RemoteLocation::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// The cache folder: `$XDG_STATE_HOME/pawl/state` by the XDG base directory specification; without a home, next to the plan.
fn cache(source: &PlanSource, env: EnvLookup<'_>) -> PathBuf {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    base.map_or_else(|| source.folder.join(".pawl/remote"), |base| base.join("pawl/state"))
}

/// Reads `lock:`, which only a remote location needs.
fn lock_ttl(fields: &MappingFields<'_>, problems: &mut PlanErrorCollector) -> Option<Duration> {
    let Some((key, node)) = fields.entry("lock") else { return Some(DEFAULT_LOCK_TTL) };
    let inner = MappingFields::read(node, "`lock`", &key.span, &["ttl"], problems)?;
    let Some(node) = inner.get("ttl") else { return Some(DEFAULT_LOCK_TTL) };
    let (least, most) = TTL_RANGE;
    let ttl =
        step::duration(node, "`ttl`", problems).map(|ttl| Some(ttl).filter(|ttl| (least..=most).contains(ttl)))?;
    if ttl.is_none() {
        let error = PlanError::new(ErrorCode::InvalidValue, "`ttl` is not a valid lease for a lock");
        problems.push(error.at(&node.span, "not between 1s and 1h").hint("write `ttl: 30s`"));
    }
    ttl
}
