//! What a deployment does with the lock that it holds, or that the deployment which started it holds.

use std::{fs, path::Path, time::Duration};

use super::{DeploymentLock, InheritedLock, LockError, LockKind, LockRecord, LockToken, remote_lock::RemoteLock};
use hostio::atomic_file::replace_file;

impl DeploymentLock {
    /// The last record that was written.
    #[must_use]
    pub fn record(&self) -> LockRecord {
        match &self.kind {
            LockKind::Folder(held) => held.record().clone(),
            LockKind::Remote(lock) => lock.record(),
        }
    }

    /// The resource that is locked.
    #[must_use]
    pub fn resource(&self) -> String {
        self.record().resource
    }

    /// The holder's name.
    #[must_use]
    pub fn holder(&self) -> String {
        self.record().holder.map_or_else(String::new, |holder| holder.to_string())
    }

    /// The token with which a child process proves that it runs for this deployment. Valid after
    /// [`next_epoch`](Self::next_epoch).
    #[must_use]
    pub fn token(&self) -> LockToken {
        self.record().token()
    }

    /// Takes the next epoch after those in the lock and the journals (`newest`).
    ///
    /// # Errors
    /// [`LockError`] when it can't be written, or the lock was lost.
    pub fn next_epoch(&mut self, newest: u64) -> Result<u64, LockError> {
        match &mut self.kind {
            LockKind::Folder(held) => held.next_epoch(newest),
            LockKind::Remote(lock) => {
                // Acquiring the lock already took an epoch; the journals may know a later one that was never uploaded.
                if lock.record().epoch <= newest {
                    lock.raise_epoch(newest)?;
                }
                // Without this file, the lock of a killed holder expires by itself.
                let _ = replace_file(&self.held_by_path, held_by_note(lock).as_bytes());
                Ok(lock.record().epoch)
            }
        }
    }

    /// The directory in which a journal is created before it gets its name; `None` where a journal that the holder of a lost lock
    /// creates harms nobody.
    #[must_use]
    pub fn staging(&self) -> Option<&Path> {
        match &self.kind {
            LockKind::Folder(held) => Some(held.staging()),
            LockKind::Remote(_) => None,
        }
    }

    /// Called right before every effect that is not of the commit phase. Confirms that the lock is held where that costs nothing: a
    /// remote is not asked.
    ///
    /// # Errors
    /// [`LockError::Lost`] with the epoch: the effect must not happen.
    pub fn check_locally(&self) -> Result<(), LockError> {
        match &self.kind {
            LockKind::Folder(held) => held.ensure_held(),
            LockKind::Remote(_) => Ok(()),
        }
    }

    /// Confirms that the lock is held, of a remote too.
    ///
    /// # Errors
    /// [`LockError::Lost`] with the epoch, or another error if that is unknown.
    pub async fn check(&self) -> Result<(), LockError> {
        match &self.kind {
            LockKind::Folder(held) => held.ensure_held(),
            LockKind::Remote(lock) => lock.ensure_held().await,
        }
    }

    /// Uploads the journal to the state from now on: soon, and at the latest when [`ensure_held`](Self::ensure_held) returns.
    ///
    /// # Errors
    /// [`LockError`] when it can't be written, or the lock was lost.
    pub async fn sync_journal(&self, journal: &Path) -> Result<(), LockError> {
        match &self.kind {
            LockKind::Folder(_) => Ok(()),
            LockKind::Remote(lock) => lock.sync_journal(journal.to_owned()).await,
        }
    }

    /// Called right before every effect of the commit phase. Confirms that the lock is held and, if the next attempt
    /// may run on another machine, that the journal is uploaded.
    ///
    /// # Errors
    /// [`LockError::Lost`] with the epoch, or another error if that is unknown. In both cases the effect must not
    /// happen.
    pub async fn ensure_held(&self) -> Result<(), LockError> {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.ensure_uploaded().await?;
        }
        self.check().await
    }

    /// Uploads the rest and releases the lock within a time limit.
    ///
    /// # Errors
    /// [`LockError`] when the lock was lost, or the upload failed; the lock then expires by itself.
    pub async fn close(self, within: Duration) -> Result<(), LockError> {
        let saved = async {
            if let Some(checkpoints) = &self.checkpoints {
                checkpoints.close(within).await;
            }
        };
        match self.kind {
            LockKind::Folder(held) => {
                saved.await;
                let result = held.ensure_held();
                drop(held);
                result
            }
            LockKind::Remote(lock) => {
                let note = held_by_note(&lock);
                let closed = tokio::join!(lock.close(within, &self.location), saved).0;
                // Who was forced out leaves the note of the next holder on this machine alone.
                if fs::read_to_string(&self.held_by_path).is_ok_and(|held_by| held_by == note) {
                    let _ = fs::remove_file(&self.held_by_path);
                }
                closed
            }
        }
    }
}

/// What other processes of this machine read about the holder: its process and its token.
fn held_by_note(lock: &RemoteLock) -> String {
    format!("{} {}", std::process::id(), lock.record().token())
}

impl InheritedLock {
    /// The record at the time of verification.
    #[must_use]
    pub fn record(&self) -> &LockRecord {
        &self.record
    }

    /// Checks again that the deployment that started this process holds the lock.
    ///
    /// # Errors
    /// [`LockError::InvalidToken`] when it does not.
    pub fn ensure_held(&self) -> Result<(), LockError> {
        self.store.verify_token(&self.token).map(drop)
    }
}
