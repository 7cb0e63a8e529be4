//! The deployment lock of a state folder: one deployment at a time for an app and environment.
//!
//! A kernel lock (`flock`) on the file `lock` dies with its holder, so a killed run never blocks the next. Beside it stands
//! the record of who holds it, and the epoch, which only grows: it numbers attempts. Deliberately absent: leases
//! and renewal, which only remote states need.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    diagnose::{Code, Diagnostic, Exit},
};

/// The lock, held until dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    record: LockRecord,
}

/// What the lock's file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// `<app>/<environment>`.
    pub resource: String,
    /// The number of the attempt that took it last; it only grows.
    pub epoch: u64,
    /// `user@host, process n`; none once it was released.
    pub holder: Option<String>,
    /// Since when.
    pub since: jiff::Timestamp,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{resource} is being deployed by another")]
    Held { resource: String, record: Option<LockRecord> },
    #[error("can't use the lock {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl From<&LockError> for Diagnostic {
    fn from(error: &LockError) -> Self {
        match error {
            LockError::Held { record, .. } => {
                let mut diagnostic = Self::new(Code("P0501"), Exit::Locked, error.to_string());
                if let Some(LockRecord { holder: Some(holder), since, .. }) = record {
                    diagnostic = diagnostic.because(format!("{holder} has held the lock since {since}"));
                }
                diagnostic.hint("wait until it ends, then run again; `runner status` shows what it is doing")
            }
            LockError::Io { source, .. } => Self::new(Code("P0502"), Exit::Refused, error.to_string())
                .because(source)
                .hint("see that the folder named by `state:` can be written by this user"),
        }
    }
}

impl Lock {
    pub(super) fn take(folder: &Path, resource: &str, holder: &str) -> Result<Self, LockError> {
        let path = folder.join("lock");
        let error = |source| LockError::Io { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(error)?;
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(error)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let record = read(&mut file).map_err(error)?;
                return Err(LockError::Held { resource: resource.to_owned(), record });
            }
            Err(errno) => return Err(error(errno.into())),
        }
        // A record that was torn by a crash says nothing; the journals know the epoch then.
        let epoch = read(&mut file).map_err(error)?.map_or(0, |record| record.epoch);
        let holder = Some(format!("{holder}, process {}", std::process::id()));
        let record = LockRecord { resource: resource.to_owned(), epoch, holder, since: clock::now() };
        Ok(Self { file, record })
    }

    /// What is locked.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.record.resource
    }

    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> &str {
        self.record.holder.as_deref().unwrap_or_default()
    }

    /// Takes the next epoch after all that the lock and the journals (`newest`) know, and writes who holds it.
    ///
    /// # Errors
    /// [`LockError`] when it can't be written.
    pub fn next_epoch(&mut self, newest: u64) -> Result<u64, LockError> {
        self.record.epoch = self.record.epoch.max(newest) + 1;
        self.write().map_err(|source| LockError::Io { path: PathBuf::from("lock"), source })?;
        Ok(self.record.epoch)
    }

    fn write(&mut self) -> io::Result<()> {
        let mut text = serde_json::to_vec(&self.record)?;
        text.push(b'\n');
        self.file.rewind()?;
        self.file.write_all(&text)?;
        // Not synced: after a crash of the machine the kernel's lock is gone, and the journals know the epoch.
        self.file.set_len(text.len() as u64)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.record.holder = None;
        // The kernel lock goes with the file; a record that still names us is only out of date.
        let _ = self.write();
    }
}

fn read(file: &mut File) -> io::Result<Option<LockRecord>> {
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Lock::take(folder.path(), "shop/test", "ann@host").unwrap();
        assert_eq!(first.next_epoch(0).unwrap(), 1);
        let Err(LockError::Held { record: Some(record), .. }) = Lock::take(folder.path(), "shop/test", "bob@host")
        else {
            panic!("the lock is held");
        };
        assert!(record.holder.unwrap().starts_with("ann@host, process "));
    }

    #[test]
    fn the_epoch_only_grows() {
        let folder = tempfile::tempdir().unwrap();
        for (newest, expected) in [(0, 1), (0, 2), (7, 8), (3, 9)] {
            assert_eq!(
                Lock::take(folder.path(), "shop/test", "ann@host").unwrap().next_epoch(newest).unwrap(),
                expected
            );
        }
    }

    #[test]
    fn a_torn_record_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lock"), "{\"resou").unwrap();
        assert_eq!(Lock::take(folder.path(), "shop/test", "ann@host").unwrap().next_epoch(4).unwrap(), 5);
    }
}
