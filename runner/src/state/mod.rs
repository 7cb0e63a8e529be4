//! Where journals and lock of (app, environment) live: `<state>/<app>/<environment>/` in a folder.
//!
//! What is deliberately absent: what journals say. The head (live release, verified releases) is folded from them
//! (docs/adr/0002), so it can't disagree with them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    diagnose::{Code, Diagnostic, Exit},
    plan::{AppName, EnvironmentName, StateLocation},
};

pub mod lock;

pub use lock::{Lock, LockError};

/// The state of (app, environment).
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    resource: String,
}

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't {action} {}: {source}", path.display())]
pub struct StoreError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl From<&StoreError> for Diagnostic {
    fn from(error: &StoreError) -> Self {
        Self::new(Code("P0606"), Exit::Refused, format!("can't {} {}", error.action, error.path.display()))
            .because(&error.source)
            .hint("see that the folder named by `state:` can be read and written by this user")
    }
}

impl Store {
    /// The state of an application in an environment. Nothing is made yet.
    #[must_use]
    pub fn new(location: &StateLocation, app: &AppName, environment: &EnvironmentName) -> Self {
        let StateLocation::Dir(root) = location;
        let folder = root.join(app.as_str()).join(environment.as_str());
        Self { folder, resource: format!("{app}/{environment}") }
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All journals, in epoch order. None when there is no folder yet.
    ///
    /// # Errors
    /// [`StoreError`] when the folder can't be read.
    pub fn journals(&self) -> Result<Vec<PathBuf>, StoreError> {
        let error = |source| StoreError { action: "read", path: self.folder.clone(), source };
        let listing = match fs::read_dir(&self.folder) {
            Ok(listing) => listing,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(error(source)),
        };
        let mut journals = Vec::new();
        for entry in listing {
            let path = entry.map_err(error)?.path();
            if let Some(epoch) = epoch_of(&path) {
                journals.push((epoch, path));
            }
        }
        journals.sort();
        Ok(journals.into_iter().map(|(_, path)| path).collect())
    }

    /// The path of the journal of one attempt.
    #[must_use]
    pub fn journal(&self, epoch: u64) -> PathBuf {
        self.folder.join(format!("attempt-{epoch:06}.journal"))
    }

    /// Takes the lock; makes the folder if it is not there.
    ///
    /// # Errors
    /// [`LockError`] when another holds it, or it can't be taken.
    pub fn lock(&self, holder: &str) -> Result<Lock, LockError> {
        Lock::take(&self.folder, &self.resource, holder)
    }
}

/// The epoch in a journal's file name.
fn epoch_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("attempt-")?.strip_suffix(".journal")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_come_in_epoch_order_and_other_files_are_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let location = StateLocation::Dir(root.path().to_owned());
        let store = Store::new(&location, &"shop".parse().unwrap(), &"test".parse().unwrap());
        assert_eq!(store.journals().unwrap(), Vec::<PathBuf>::new());
        fs::create_dir_all(store.folder()).unwrap();
        for name in ["attempt-000010.journal", "attempt-1000000.journal", "attempt-000009.journal", "lock", "x.journal"]
        {
            fs::write(store.folder().join(name), "").unwrap();
        }
        let epochs: Vec<_> = store.journals().unwrap().iter().filter_map(|path| epoch_of(path)).collect();
        assert_eq!(epochs, [9, 10, 1_000_000]);
        assert_eq!(store.journal(9), store.folder().join("attempt-000009.journal"));
    }
}
