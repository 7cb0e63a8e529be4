//! Where this user's files of the runner lie, as the XDG base directory specification says.

use std::path::PathBuf;

use super::source::{is_ci, variable};
use crate::deploy::{Pinning, Setting};
use sandbox::{Places, Tell};

/// What a preflight stands on, where modules are compared with a lock file beside the plan.
pub(super) fn setting(tell: Tell) -> Setting {
    let pinning = if is_ci() { Pinning::Fixed } else { Pinning::Grows };
    Setting { places: places(), tell, pinning }
}

fn places() -> Places {
    let docker = absolute("DOCKER_CONFIG").or_else(|| Some(absolute("HOME")?.join(".docker")));
    Places {
        cache: base("XDG_CACHE_HOME", ".cache"),
        state: base("XDG_STATE_HOME", ".local/state"),
        credentials: docker.map(|folder| folder.join("config.json")),
    }
}

/// Our folder below a base directory. Relative ones don't count, the specification says.
fn base(name: &str, at_home: &str) -> Option<PathBuf> {
    let base = absolute(name).or_else(|| Some(absolute("HOME")?.join(at_home)))?;
    Some(base.join("pawl"))
}

fn absolute(name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
