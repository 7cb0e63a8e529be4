//! Sources of third-party modules, and the cache of what was made from them. Official modules are part of the binary.
//!
//! Deliberately absent: the modules' grants, and whether a module is the pinned one (`deploy` compares it with
//! deploy.lock).

mod cache;
mod private_dir;

use std::{path::PathBuf, sync::Arc};

pub(super) use cache::{ModuleCache, VerifiedCode};
pub use fetch::registry::RegistryError;

use contract::diagnostic::Notice;

/// Folders that outlive a run.
#[derive(Clone, Debug, Default)]
pub struct UserPaths {
    /// For what can be recreated: compiled code, downloads. `None`: nothing is cached.
    pub cache_dir: Option<PathBuf>,
    /// For what must stay: the key of the cached code.
    pub state_dir: Option<PathBuf>,
    /// Docker's `config.json`, which has the credentials for registries.
    pub docker_config: Option<PathBuf>,
}

/// Reports a notice to the user.
pub type NoticeHandler = Arc<dyn Fn(Notice) + Send + Sync>;
