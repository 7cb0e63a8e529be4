//! The folders of the runner's files for this user, by the XDG base directory specification.

use std::path::PathBuf;

use super::{
    ci,
    source::{env_variable, is_ci},
};
use crate::agent::AgentFolders;
use crate::deploy::{PinPolicy, PreflightOptions, PreflightScope};
use contract::{
    MachineId,
    diagnostic::{Diagnostic, ErrorCode, Notice},
};
use sandbox::{NoticeHandler, UserPaths};

/// How the name of a binary begins that was sent to a host.
const AGENT_PREFIX: &str = "agent-";

/// The options of a preflight that compares modules with the lock file next to the plan.
pub(super) fn preflight_options(tell: NoticeHandler) -> PreflightOptions {
    let pinning = if is_ci() { PinPolicy::Frozen } else { PinPolicy::AddNew };
    PreflightOptions {
        cache_dirs: cache_dirs(),
        notify: tell,
        pin_policy: pinning,
        scope: PreflightScope::Machine,
        job_secrets: ci::job_secrets(),
        limit: None,
    }
}

/// The identity of this machine; none, with a warning, if it can't be read or made.
pub(super) fn machine_id(tell: &NoticeHandler) -> Option<MachineId> {
    let read = match base_dir("XDG_STATE_HOME", ".local/state") {
        Some(folder) => state::machine_id(&folder),
        None => Err(std::io::Error::other("neither `XDG_STATE_HOME` nor `HOME` is set")),
    };
    let unknown = |error| {
        let message = format!(
            "this machine has no identity, so a step without a probe counts as done on another machine: {error}"
        );
        tell(Notice::warning(message));
    };
    read.map_err(unknown).ok()
}

/// Where the agent of a host keeps things: what it can send again, beside its binary, since another folder of the cache may not be
/// writable or have no room.
///
/// # Errors
/// The user has no home.
pub(super) fn agent_folders() -> Result<AgentFolders, Diagnostic> {
    let binary = std::fs::read_link("/proc/self/exe").ok();
    let is_sent =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(AGENT_PREFIX));
    let beside = binary.filter(is_sent).and_then(|path| Some(path.parent()?.to_owned()));
    let cache = beside.or_else(|| base_dir("XDG_CACHE_HOME", ".cache"));
    let found = base_dir("XDG_STATE_HOME", ".local/state").zip(cache);
    match found {
        Some((state, cache)) => Ok(AgentFolders { paths: cache_dirs(), state, cache }),
        None => Err(Diagnostic::new(ErrorCode::HostUnusable, "the user has no home folder")
            .with_hint("set `HOME`, or `XDG_STATE_HOME` and `XDG_CACHE_HOME`")),
    }
}

pub(super) fn cache_dirs() -> UserPaths {
    let docker =
        absolute_path_variable("DOCKER_CONFIG").or_else(|| Some(absolute_path_variable("HOME")?.join(".docker")));
    UserPaths {
        cache_dir: base_dir("XDG_CACHE_HOME", ".cache"),
        state_dir: base_dir("XDG_STATE_HOME", ".local/state"),
        docker_config: docker.map(|folder| folder.join("config.json")),
    }
}

/// The runner's folder in a base directory. By the specification, a relative base directory is ignored.
fn base_dir(name: &str, at_home: &str) -> Option<PathBuf> {
    let base = absolute_path_variable(name).or_else(|| Some(absolute_path_variable("HOME")?.join(at_home)))?;
    Some(base.join("pawl"))
}

fn absolute_path_variable(name: &str) -> Option<PathBuf> {
    env_variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
