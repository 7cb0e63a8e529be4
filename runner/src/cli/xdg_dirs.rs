//! Where this user's files of the runner lie, as the XDG base directory specification says.

use std::path::PathBuf;

use super::source::{env_variable, is_ci};
use crate::deploy::{PinPolicy, PreflightOptions};
use sandbox::{NoticeHandler, UserPaths};

/// What a preflight stands on, where modules are compared with a lock file beside the plan.
pub(super) fn preflight_options(tell: NoticeHandler) -> PreflightOptions {
    let pinning = if is_ci() { PinPolicy::Frozen } else { PinPolicy::AddNew };
    PreflightOptions { cache_dirs: cache_dirs(), notify: tell, pin_policy: pinning }
}

fn cache_dirs() -> UserPaths {
    let docker =
        absolute_path_variable("DOCKER_CONFIG").or_else(|| Some(absolute_path_variable("HOME")?.join(".docker")));
    UserPaths {
        cache_dir: base_dir("XDG_CACHE_HOME", ".cache"),
        state_dir: base_dir("XDG_STATE_HOME", ".local/state"),
        docker_config: docker.map(|folder| folder.join("config.json")),
    }
}

/// Our folder below a base directory. Relative ones don't count, the specification says.
fn base_dir(name: &str, at_home: &str) -> Option<PathBuf> {
    let base = absolute_path_variable(name).or_else(|| Some(absolute_path_variable("HOME")?.join(at_home)))?;
    Some(base.join("pawl"))
}

fn absolute_path_variable(name: &str) -> Option<PathBuf> {
    env_variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
