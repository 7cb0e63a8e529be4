//! Where this user's files of the runner lie, as the XDG base directory specification says.

use std::path::{Path, PathBuf};

use super::{
    screen::Screen,
    source::{is_ci, variable},
};
use crate::{
    drive::{Pinning, Setting},
    sandbox::Places,
};

/// What a preflight stands on, where modules are compared with a lock file beside the plan.
pub(super) fn setting(screen: &Screen) -> Setting {
    let pinning = if is_ci() { Pinning::Fixed } else { Pinning::Grows };
    Setting { places: places(), tell: screen.tell(), pinning }
}

fn places() -> Places {
    Places { cache: base("XDG_CACHE_HOME", ".cache"), state: base("XDG_STATE_HOME", ".local/state") }
}

/// Our folder below a base directory. Relative ones don't count, the specification says.
fn base(name: &str, at_home: &str) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(name).or_else(|| Some(absolute("HOME")?.join(at_home)))?;
    Some(base.join(Path::new("pawl")))
}
