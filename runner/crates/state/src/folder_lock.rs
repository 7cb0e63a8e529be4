//! The lock of a state folder.
//!
//! A kernel lock (`flock`) on the file `lock` ends with its holder, so a killed run never blocks the next one. The file
//! contains the holder's record and the epoch, which only grows and numbers the attempts. To take the lock from a
//! running holder, an operator's command replaces the locked file; the holder notices that before its next effect.
//! Deliberately absent: leases and renewal, which only remote states need.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use hostio::atomic_file::replace_file;
use rustix::fs::{FlockOperation, flock};

use super::{
    LockError, LockRequest, LockStatus, StateError, journal_cache, journals_in,
    record::{ForcedRelease, LockRecord, LockToken, forced_release, random_nonce},
};
use journal::clock;

/// The name of the lock file.
const LOCK_FILE: &str = "lock";
/// The log of forced releases, one a line.
const FORCED_RELEASES_FILE: &str = "released";

/// How often to retry a lock that is busy. A holder keeps it longer than an observer.
const MAX_LOCK_RETRIES: u32 = 5;
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(2);

/// The lock, held until dropped.
#[derive(Debug)]
pub(super) struct FolderLock {
    file: File,
    path: PathBuf,
    record: LockRecord,
}

impl FolderLock {
    /// Takes the lock, or reports its holder.
    pub(super) fn acquire(folder: &Path, resource: &str, request: &LockRequest) -> Result<Self, LockError> {
        let path = folder.join(LOCK_FILE);
        let error = |source| LockError::Io { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(error)?;
        let mut tries = 0;
        let file = loop {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(error)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The file was replaced between the two calls, so this lock protects nothing.
                Ok(()) if !is_same_file(&file, &path) => {}
                Ok(()) => break file,
                // An observer holds the lock for a moment.
                Err(rustix::io::Errno::WOULDBLOCK) if tries < MAX_LOCK_RETRIES => {
                    tries += 1;
                    std::thread::sleep(LOCK_RETRY_DELAY);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let record = read_record(&mut file).map_err(error)?;
                    return Err(LockError::Held { resource: resource.to_owned(), record });
                }
                Err(errno) => return Err(error(errno.into())),
            }
        };
        let mut file = file;
        // A record that a crash has torn is ignored; the journals know the epoch.
        let before =
            read_record(&mut file).map_err(error)?.unwrap_or_else(|| LockRecord::never_held(resource, clock::now()));
        let nonce = random_nonce().map_err(|failed| error(io::Error::other(failed)))?;
        let record = LockRecord {
            resource: resource.to_owned(),
            nonce,
            holder: Some(request.holder()),
            since: clock::now(),
            ..before
        };
        Ok(Self { file, path, record })
    }

    pub(super) fn record(&self) -> &LockRecord {
        &self.record
    }

    /// Takes the next epoch after those in the lock and the journals (`newest`), and records the holder.
    pub(super) fn next_epoch(&mut self, newest: u64) -> Result<u64, LockError> {
        self.ensure_held()?;
        self.record.epoch = self.record.epoch.max(newest) + 1;
        self.write_record().map_err(|source| LockError::Io { path: self.path.clone(), source })?;
        Ok(self.record.epoch)
    }

    /// Whether this is still the file that other processes lock.
    pub(super) fn ensure_held(&self) -> Result<(), LockError> {
        if is_same_file(&self.file, &self.path) {
            return Ok(());
        }
        let LockRecord { resource, epoch, .. } = &self.record;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let by = forced_releases_in(folder).ok().and_then(|all| all.into_iter().rfind(|one| one.epoch == *epoch));
        let why = by.map_or_else(
            || format!("{} was replaced", self.path.display()),
            |one| format!("{} released it at {}: {}", one.by, one.at, one.message),
        );
        Err(LockError::Lost { resource: resource.clone(), epoch: *epoch, why })
    }

    fn write_record(&mut self) -> io::Result<()> {
        let mut text = serde_json::to_vec(&self.record)?;
        text.push(b'\n');
        self.file.rewind()?;
        self.file.write_all(&text)?;
        // Not synced: a crash of the machine frees the kernel lock, and the journals know the epoch.
        self.file.set_len(text.len() as u64)
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        self.record = self.record.tombstone(clock::now());
        // The kernel lock ends with the file; a record that still names this process is only outdated.
        let _ = self.write_record();
    }
}

/// The holder of the lock, and whether it is alive.
pub(super) fn lock_status(folder: &Path) -> Result<(Option<LockRecord>, LockStatus), LockError> {
    let path = folder.join(LOCK_FILE);
    let error = |source| LockError::Io { path: path.clone(), source };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok((None, LockStatus::Free)),
        Err(source) => return Err(error(source)),
    };
    let is_held = match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => false,
        Err(rustix::io::Errno::WOULDBLOCK) => true,
        Err(errno) => return Err(error(errno.into())),
    };
    let record = read_record(&mut file).map_err(error)?;
    let standing = match (is_held, &record) {
        (true, _) => LockStatus::Held,
        (false, Some(LockRecord { holder: Some(_), .. })) => LockStatus::Stale,
        (false, _) => LockStatus::Free,
    };
    Ok((record, standing))
}

/// Compares a token with the held lock.
pub(super) fn verify_token(folder: &Path, token: &LockToken) -> Result<LockRecord, LockError> {
    let refused = |why| LockError::InvalidToken { resource: token.resource.clone(), why };
    match lock_status(folder)? {
        (Some(record), LockStatus::Held) if record.token() == *token && !token.nonce.is_empty() => Ok(record),
        (_, LockStatus::Held) => Err(refused("another deployment holds the lock, or the token is forged")),
        (_, LockStatus::Free | LockStatus::Stale | LockStatus::Unknown) => {
            Err(refused("the lock is free: the deployment that issued the token has ended"))
        }
    }
}

/// Replaces a held lock by a free one. The holder is not asked, and loses it.
pub(super) fn force_release(folder: &Path, resource: &str, by: &str, message: &str) -> Result<(), LockError> {
    let path = folder.join(LOCK_FILE);
    let error = |source| LockError::Io { path: path.clone(), source };
    let record = lock_status(folder)?.0.unwrap_or_else(|| LockRecord::never_held(resource, clock::now()));
    let written = forced_release(&record, by, message);
    let mut line = serde_json::to_vec(&written).map_err(|failed| error(failed.into()))?;
    line.push(b'\n');
    // The release is logged before it happens.
    let opened_log = OpenOptions::new().append(true).create(true).open(folder.join(FORCED_RELEASES_FILE));
    opened_log.and_then(|mut file| file.write_all(&line).and_then(|()| file.sync_data())).map_err(error)?;
    let mut text = serde_json::to_vec(&record.tombstone(clock::now())).map_err(|failed| error(failed.into()))?;
    text.push(b'\n');
    replace_file(&path, &text).map_err(error)?;
    // Writes of the old holder must not change what the next one reads.
    if !journals_in(folder)?.is_empty() {
        journal_cache::replace_newest_journal_file(folder)?;
    }
    Ok(())
}

/// Forced releases, oldest first.
pub(super) fn forced_releases_in(folder: &Path) -> Result<Vec<ForcedRelease>, StateError> {
    let path = folder.join(FORCED_RELEASES_FILE);
    match fs::read(&path) {
        // A line that a crash has torn was never confirmed.
        Ok(text) => {
            Ok(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
        }
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(StateError::io("read", &path, source)),
    }
}

fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        (Ok(_) | Err(_), _) => false,
    }
}

fn read_record(file: &mut File) -> io::Result<Option<LockRecord>> {
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire(folder: &Path, who: &str) -> Result<FolderLock, LockError> {
        FolderLock::acquire(folder, "shop/test", &LockRequest::new(who))
    }

    #[test]
    fn second_holder_learns_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = acquire(folder.path(), "ann@host").unwrap();
        assert_eq!(first.next_epoch(0).unwrap(), 1);
        let Err(LockError::Held { record: Some(record), .. }) = acquire(folder.path(), "bob@host") else {
            panic!("the lock is held");
        };
        assert!(record.holder.unwrap().to_string().starts_with("ann@host, process "));
    }

    #[test]
    fn epoch_only_grows() {
        let folder = tempfile::tempdir().unwrap();
        for (newest, expected) in [(0, 1), (0, 2), (7, 8), (3, 9)] {
            assert_eq!(acquire(folder.path(), "ann@host").unwrap().next_epoch(newest).unwrap(), expected);
        }
    }

    #[test]
    fn torn_record_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lock"), "{\"resou").unwrap();
        assert_eq!(acquire(folder.path(), "ann@host").unwrap().next_epoch(4).unwrap(), 5);
    }

    #[test]
    fn holder_detects_a_forced_release() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = acquire(folder.path(), "ann@host").unwrap();
        assert_eq!(first.next_epoch(0).unwrap(), 1);
        let token = first.record().token();
        verify_token(folder.path(), &token).unwrap();
        force_release(folder.path(), "shop/test", "bob@host", "it hangs").unwrap();
        assert!(matches!(lock_status(folder.path()).unwrap(), (Some(_), LockStatus::Free)));
        let mut second = acquire(folder.path(), "bob@host").unwrap();
        assert_eq!(second.next_epoch(0).unwrap(), 2);
        let lost = first.ensure_held().unwrap_err();
        let LockError::Lost { epoch: 1, why, .. } = &lost else { panic!("{lost:?}") };
        assert!(why.contains("bob@host released it") && why.contains("it hangs"), "{why}");
        assert!(matches!(first.next_epoch(0), Err(LockError::Lost { .. })));
        assert!(matches!(verify_token(folder.path(), &token), Err(LockError::InvalidToken { .. })));
        drop(first);
        second.ensure_held().unwrap();
        assert_eq!(lock_status(folder.path()).unwrap().0.unwrap().epoch, 2, "the old holder's end is not written here");
        assert_eq!(forced_releases_in(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn token_is_invalid_when_the_lock_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let mut held = acquire(folder.path(), "ann@host").unwrap();
        held.next_epoch(0).unwrap();
        let token = held.record().token();
        let forged = LockToken { nonce: "0".repeat(32), ..token.clone() };
        assert!(matches!(verify_token(folder.path(), &forged), Err(LockError::InvalidToken { .. })));
        verify_token(folder.path(), &token).unwrap();
        drop(held);
        assert!(matches!(verify_token(folder.path(), &token), Err(LockError::InvalidToken { .. })));
    }
}
