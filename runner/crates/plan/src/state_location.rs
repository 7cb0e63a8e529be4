//! `state:` and `lock:`: where journals and lock live, and how long a silent holder is believed in.
//!
//! Pure: variables of the environment come through a function. Which of them say how a remote place is reached is listed here,
//! so that nothing else of the environment gets there. Deliberately absent: whether the place answers.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{
    PlanSource, RemoteLocation, RemoteState, StateLocation,
    error::{PlanError, PlanErrorCollector, Problem},
    fields::{self, MappingFields},
    paths,
    scope::{LookupScope, LookupSite},
    step,
    yaml::YamlNode,
};
use contract::Secret;

/// How long a holder of a remote lock may be silent, unless the plan says otherwise.
const DEFAULT_LOCK_TTL: Duration = Duration::from_secs(30);
/// A lease that a slow network or a busy machine would lose by itself, and one that nobody would wait for.
const TTL_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

const STATE_HINT: &str = "write `state: dir:PATH`, `git:REMOTE` or `s3://BUCKET/PREFIX`";

/// What says how git reaches a remote, beside its own configuration.
const GIT_VARIABLES: [&str; 1] = ["GIT_SSH_COMMAND"];
/// What says how an object store is reached: the names that AWS's own programs obey.
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
            let error = PlanError::new(Problem::BadValue, format!("`state` has a bad path: {why}"));
            problems.push(error.at(&node.span, "not a path").hint("write `state: dir:.pawl`"));
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
            let error = PlanError::new(Problem::BadValue, format!("`{written}` is not a place for state: {why}"));
            problems.push(error.at(&node.span, why).hint(STATE_HINT));
            return None;
        }
    };
    let settings = settings(names, env);
    let folder = source.folder.clone();
    Some(StateLocation::Remote(RemoteState {
        cache: cache(source, env),
        written,
        location: place,
        folder,
        ttl: ttl?,
        settings,
    }))
}

impl StateLocation {
    /// The place that another process of this machine wrote down: `{"state": …, "folder": …}`. None if it is not that.
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
        }))
    }
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
        return PlanError::new(Problem::NotSupported, format!("`{written}` is not supported yet"))
            .at(&node.span, "`dir:`, `git:` and `s3://` are")
            .hint(STATE_HINT);
    }
    PlanError::new(Problem::BadValue, format!("`{written}` is not a place for state"))
        .at(&node.span, "unknown kind of state")
        .hint(STATE_HINT)
}

/// The name of a remote stays a name; a path that is relative is so to the plan's folder.
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
        return Err("not the name of a bucket");
    }
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..");
    if !prefix.is_empty() && !prefix.split('/').all(is_segment) || prefix.contains(|c: char| c.is_control()) {
        return Err("not a prefix in a bucket");
    }
    Ok(RemoteLocation::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// `$XDG_STATE_HOME/pawl/state`, as the XDG base directory specification has it; without a home, beside the plan.
fn cache(source: &PlanSource, env: EnvLookup<'_>) -> PathBuf {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    base.map_or_else(|| source.folder.join(".pawl/remote"), |base| base.join("pawl/state"))
}

/// `lock:`, which only a remote place needs.
fn lock_ttl(fields: &MappingFields<'_>, problems: &mut PlanErrorCollector) -> Option<Duration> {
    let Some((key, node)) = fields.entry("lock") else { return Some(DEFAULT_LOCK_TTL) };
    let inner = MappingFields::read(node, "`lock`", &key.span, &["ttl"], problems)?;
    let Some(node) = inner.get("ttl") else { return Some(DEFAULT_LOCK_TTL) };
    let ttl = step::parse_duration(fields::literal(node, "`ttl`", problems)?);
    let (least, most) = TTL_RANGE;
    let ttl = ttl.filter(|ttl| (least..=most).contains(ttl));
    if ttl.is_none() {
        let error = PlanError::new(Problem::BadValue, "`ttl` is no time that a lock can last");
        problems.push(error.at(&node.span, "not from 1s to 1h").hint("write `ttl: 30s`"));
    }
    ttl
}
