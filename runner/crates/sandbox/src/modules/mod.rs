//! Where third-party modules come from, and where what was made of them is kept. Official ones are a part of the binary.
//!
//! Deliberately absent: what a module may reach, and whether it is the one that the plan means (`drive` compares it with
//! deploy.lock).

mod cache;
mod private_dir;

use std::{path::PathBuf, sync::Arc};

pub(super) use cache::{ModuleCache, VerifiedCode};
pub use fetch::registry::RegistryError;

use contract::diagnostic::Notice;

/// Where modules may be kept between runs.
#[derive(Clone, Debug, Default)]
pub struct UserPaths {
    /// What can be made again: compiled code, downloads. None: nothing is kept.
    pub cache_dir: Option<PathBuf>,
    /// What must stay: the key under which compiled code is kept.
    pub state_dir: Option<PathBuf>,
    /// Docker's `config.json`, which has the credentials for registries.
    pub docker_config: Option<PathBuf>,
}

/// How the user is told what is worth knowing and no error.
pub type NoticeHandler = Arc<dyn Fn(Notice) + Send + Sync>;
