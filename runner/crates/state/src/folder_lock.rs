//! The lock of a state folder.
//!
//! A kernel lock (`flock`) on the file `lock/record` ends with its holder, so a killed run never blocks the next one. The file
//! contains the holder's record and the epoch, which only grows and numbers the attempts. To take the lock from a running holder, an
//! operator's command replaces the locked file, and nothing else; the holder notices that before its next effect, and the next
//! holder keeps the former one from changing anything ([`folder_protocol`](super::folder_protocol)). `lock/staging-…` is a holder's
//! staging directory.
//!
//! Runners before this one locked the file `lock`. The first holder makes it a directory, which they refuse to lock. Deliberately
//! absent: leases and renewal, which only remote states need.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use hostio::atomic_file::replace_file;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{
    LockError, LockRequest, LockStatus, StateError,
    folder_protocol::{FolderTaker, TakeEvent, TakeStep, may_still_write},
    journal_files::ignore_missing,
    journals_in,
    record::{ForcedRelease, HoldingNonces, LockRecord, LockToken, ReleasedBy, forced_release, random_nonce},
    state_folder::create_state_folder,
};
use journal::clock;

/// The directory of the record and of staging directories. The lock file of older runners had this name.
const LOCK_DIR: &str = "lock";
/// The file that is locked, in the lock's directory.
const RECORD_FILE: &str = "record";
/// The beginning of the names of staging directories, before the nonce.
const STAGING_PREFIX: &str = "staging-";
/// The lock directory while it is made from the lock file of an older runner, in a state folder.
const UPGRADED_LOCK_DIR: &str = "lock.new";
/// That lock file, when it has been replaced.
const OLD_LOCK_FILE: &str = "lock.old";
/// The log of forced releases, one a line.
const FORCED_RELEASES_FILE: &str = "released";

/// How often to retry a lock that is busy. A holder keeps it longer than an observer.
const MAX_LOCK_RETRIES: u32 = 5;
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(2);

/// The lock, held until dropped.
#[derive(Debug)]
pub(super) struct FolderLock {
    /// Removed before the kernel's lock ends with the file.
    staging: StagingDir,
    file: File,
    path: PathBuf,
    record: LockRecord,
    release_nonce: String,
}

impl FolderLock {
    /// Takes the lock, or reports its holder.
    pub(super) fn acquire(folder: &Path, resource: &str, request: &LockRequest) -> Result<Self, LockError> {
        let path = record_path(folder);
        let error = |source| LockError::Io { path: path.clone(), source };
        let mut taker = FolderTaker::new();
        let mut taking: Option<Taking<'_>> = None;
        let Taking { file, last, staging, nonces, .. } = loop {
            let event = match (taker.step(), taking.take()) {
                (TakeStep::Lock, former) => {
                    drop(former);
                    let (file, last) = lock_record(folder, resource)?;
                    let is_writer_alive = may_still_write(last.as_ref());
                    // New for each try: a former holder may have noted the name of an earlier staging directory.
                    let nonces = HoldingNonces::random().map_err(|failed| error(io::Error::other(failed)))?;
                    let staging = StagingDir::at(folder, &nonces.holding);
                    taking = Some(Taking { folder, staging, file, last, nonces });
                    TakeEvent::Locked { is_writer_alive }
                }
                (TakeStep::Taken, Some(taken)) => break taken,
                (step, Some(current)) => {
                    let event = current.perform(step).map_err(error)?;
                    taking = Some(current);
                    event
                }
                (_, None) => unreachable!("the first step takes the kernel's lock"),
            };
            taker.on(event);
        };
        // A record that a crash has torn is ignored; the journals know the epoch.
        let last = last.unwrap_or_else(|| LockRecord::never_held(resource, clock::now()));
        let record = LockRecord {
            resource: resource.to_owned(),
            nonce: nonces.holding,
            holder: Some(request.holder()),
            released_by: None,
            since: clock::now(),
            ..last
        };
        Ok(Self { staging, file, path, record, release_nonce: nonces.release })
    }

    pub(super) fn record(&self) -> &LockRecord {
        &self.record
    }

    /// The directory out of which this holder renames the files that it creates. It is gone once another has the lock.
    pub(super) fn staging(&self) -> &Path {
        &self.staging.0
    }

    /// Takes the next epoch after those in the lock and the journals (`newest`), and records the holder.
    pub(super) fn next_epoch(&mut self, newest: u64) -> Result<u64, LockError> {
        self.ensure_held()?;
        self.record.epoch = self.record.epoch.max(newest) + 1;
        write_record(&self.file, &self.record).map_err(|source| LockError::Io { path: self.path.clone(), source })?;
        Ok(self.record.epoch)
    }

    /// Whether this is still the file that other processes lock.
    pub(super) fn ensure_held(&self) -> Result<(), LockError> {
        if is_same_file(&self.file, &self.path) {
            return Ok(());
        }
        let LockRecord { resource, epoch, .. } = &self.record;
        let folder = self.path.ancestors().nth(2).unwrap_or(Path::new("."));
        let log = forced_releases_in(folder).unwrap_or_default();
        let why =
            ForcedRelease::reason(&log, *epoch).unwrap_or_else(|| format!("{} was replaced", self.path.display()));
        Err(LockError::Lost { resource: resource.clone(), epoch: *epoch, why })
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        self.record = self.record.tombstone(self.release_nonce.clone(), ReleasedBy::Holder, clock::now());
        // The kernel lock ends with the file; a record that still names this process is only outdated.
        let _ = write_record(&self.file, &self.record);
    }
}

/// A staging directory. It is removed when dropped, unless another holder has moved it away.
#[derive(Debug)]
struct StagingDir(PathBuf);

impl StagingDir {
    fn at(folder: &Path, nonce: &str) -> Self {
        Self(folder.join(LOCK_DIR).join(format!("{STAGING_PREFIX}{nonce}")))
    }
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        // Most are empty. What is left over is removed by the next holder.
        if fs::remove_dir(&self.0).is_err() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A process that has the kernel's lock, and makes sure that former holders do nothing more.
struct Taking<'a> {
    folder: &'a Path,
    staging: StagingDir,
    file: File,
    last: Option<LockRecord>,
    nonces: HoldingNonces,
}

impl Taking<'_> {
    fn perform(&self, step: &TakeStep) -> io::Result<TakeEvent> {
        let (lock_dir, staging) = (self.folder.join(LOCK_DIR), &self.staging.0);
        match step {
            TakeStep::CreateStaging => {
                remove_upgrade_leftovers(self.folder)?;
                fs::create_dir(staging).map(|()| TakeEvent::Done)
            }
            TakeStep::ListStaging => {
                let names = fs::read_dir(&lock_dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
                let names = names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten();
                let others = names.filter(|name| name.starts_with(STAGING_PREFIX) && !staging.ends_with(name));
                Ok(TakeEvent::Staging(others.collect()))
            }
            TakeStep::CheckRecord if is_same_file(&self.file, &record_path(self.folder)) => Ok(TakeEvent::Done),
            TakeStep::CheckRecord => Ok(TakeEvent::Lost),
            // If it is not there, its holder has ended meanwhile.
            TakeStep::Fence(name) => match fs::rename(lock_dir.join(name), staging.join(name)) {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound && staging.exists() => Ok(TakeEvent::Done),
                renamed => self.done_unless_fenced(renamed),
            },
            TakeStep::ListJournals => {
                let journals = journals_in(self.folder).map_err(io::Error::other)?;
                Ok(TakeEvent::Journals(journals.into_iter().map(|(epoch, _)| epoch).collect()))
            }
            TakeStep::CopyJournal(epoch) => {
                let copied = self.journal(*epoch).and_then(|path| copy_synced(&path, &staging.join("sealed")));
                self.done_unless_fenced(copied)
            }
            TakeStep::PlaceJournal(epoch) => {
                let placed = self.journal(*epoch).and_then(|path| fs::rename(staging.join("sealed"), path));
                self.done_unless_fenced(placed.and_then(|()| File::open(self.folder)?.sync_all()))
            }
            TakeStep::Lock | TakeStep::Taken => unreachable!("the caller does this step"),
        }
    }

    fn journal(&self, epoch: u64) -> io::Result<PathBuf> {
        let journals = journals_in(self.folder).map_err(io::Error::other)?;
        let found = journals.into_iter().find(|(known, _)| *known == epoch);
        found.map(|(_, path)| path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A file is missing only once another holder has moved the staging directory away.
    fn done_unless_fenced(&self, done: io::Result<()>) -> io::Result<TakeEvent> {
        match done {
            Ok(()) => Ok(TakeEvent::Done),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound && !self.staging.0.exists() => {
                Ok(TakeEvent::Lost)
            }
            Err(error) => Err(error),
        }
    }
}

/// Opens the record, and takes the kernel's lock on it. Also returns the record.
fn lock_record(folder: &Path, resource: &str) -> Result<(File, Option<LockRecord>), LockError> {
    let path = record_path(folder);
    let error = |source| LockError::Io { path: path.clone(), source };
    loop {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = match opened {
            Ok(file) => file,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                create_state_folder(folder).map_err(error)?;
                fs::create_dir_all(folder.join(LOCK_DIR)).map_err(error)?;
                continue;
            }
            Err(is_file) if is_file.kind() == io::ErrorKind::NotADirectory => {
                replace_lock_file_of_0_1_0(folder, resource)?;
                continue;
            }
            Err(source) => return Err(error(source)),
        };
        lock_exclusively(&mut file, &path, resource)?;
        // Otherwise it was replaced between the two calls, and its lock protects nothing.
        if is_same_file(&file, &path) {
            let record = read_record(&mut file).map_err(error)?;
            return Ok((file, record));
        }
    }
}

/// Takes the kernel's lock on an open record, or reports its holder. An observer holds it for a moment only.
fn lock_exclusively(file: &mut File, path: &Path, resource: &str) -> Result<(), LockError> {
    let error = |source| LockError::Io { path: path.to_owned(), source };
    let mut tries = 0;
    loop {
        match flock(&*file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if tries < MAX_LOCK_RETRIES => {
                tries += 1;
                std::thread::sleep(LOCK_RETRY_DELAY);
            }
            Err(Errno::WOULDBLOCK) => {
                let record = read_record(file).map_err(error)?;
                return Err(LockError::Held { resource: resource.to_owned(), record });
            }
            Err(errno) => return Err(error(errno.into())),
        }
    }
}

/// Makes the lock file of an older runner a directory with the same record. Runners that wait for the file find that it was
/// replaced, and refuse to lock a directory.
fn replace_lock_file_of_0_1_0(folder: &Path, resource: &str) -> Result<(), LockError> {
    let path = folder.join(LOCK_DIR);
    let error = |source| LockError::Io { path: path.clone(), source };
    let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        // Another process was faster.
        Err(gone) if is_missing_or_other_kind(&gone) => return Ok(()),
        Err(source) => return Err(error(source)),
    };
    lock_exclusively(&mut file, &path, resource)?;
    if !is_same_file(&file, &path) {
        return Ok(());
    }
    let (made, old) = (folder.join(UPGRADED_LOCK_DIR), folder.join(OLD_LOCK_FILE));
    let replaced = (|| {
        remove_upgrade_leftovers(folder)?;
        fs::create_dir(&made)?;
        fs::copy(&path, made.join(RECORD_FILE))?;
        fs::rename(&path, &old)?;
        match fs::rename(&made, &path) {
            // Another process made a lock in between, and may hold it: this one begins again with that.
            Err(_) if path.exists() => Ok(()),
            renamed => renamed,
        }?;
        remove_upgrade_leftovers(folder)
    })();
    replaced.map_err(error)
}

/// Removes what is left of the lock of an older runner. The caller holds that lock, or the one that replaced it.
fn remove_upgrade_leftovers(folder: &Path) -> io::Result<()> {
    ignore_missing(fs::remove_dir_all(folder.join(UPGRADED_LOCK_DIR)))?;
    ignore_missing(fs::remove_file(folder.join(OLD_LOCK_FILE)))
}

/// The holder of the lock, and whether it is alive.
pub(super) fn lock_status(folder: &Path) -> Result<(Option<LockRecord>, LockStatus), LockError> {
    let opened = open_record(folder, OpenOptions::new().read(true))?;
    let Some((path, mut file)) = opened else { return Ok((None, LockStatus::Free)) };
    let error = |source| LockError::Io { path: path.clone(), source };
    let is_held = match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => false,
        Err(Errno::WOULDBLOCK) => true,
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
        (Some(record), LockStatus::Held)
            if record.holder.is_some() && record.token() == *token && !token.nonce.is_empty() =>
        {
            Ok(record)
        }
        (_, LockStatus::Held) => Err(refused("another deployment holds the lock, or the token is forged")),
        (_, LockStatus::Free | LockStatus::Stale | LockStatus::Unknown) => {
            Err(refused("the lock is free: the deployment that issued the token has ended"))
        }
    }
}

/// Releases the lock of the holding that `seen` shows, and leaves a later one alone. A holder that is alive is only released by
/// force: it is not asked, and loses the lock.
pub(super) fn release(folder: &Path, seen: &LockRecord, by: &str, message: &str, force: bool) -> Result<(), LockError> {
    let opened = open_record(folder, OpenOptions::new().read(true).write(true))?;
    let Some((path, mut file)) = opened else { return Ok(()) };
    let error = |source| LockError::Io { path: path.clone(), source };
    let is_alive = match lock_exclusively(&mut file, &path, &seen.resource) {
        Ok(()) => false,
        Err(LockError::Held { record, .. }) if !force => {
            let holder = record.and_then(|record| record.holder);
            return Err(LockError::HolderRunning { resource: seen.resource.clone(), holder });
        }
        Err(LockError::Held { .. }) => true,
        Err(error) => return Err(error),
    };
    let record = read_record(&mut file).map_err(error)?.unwrap_or_else(|| seen.clone());
    let is_seen = seen.holder.is_none() || record.token() == seen.token();
    if !is_seen || !is_same_file(&file, &path) {
        return Ok(());
    }
    let nonce = random_nonce().map_err(|failed| error(io::Error::other(failed)))?;
    // The release is logged before it happens.
    log_forced_release(folder, &forced_release(&record, by, message)).map_err(error)?;
    let tombstone = record.tombstone(nonce, ReleasedBy::Operator, clock::now());
    if is_alive {
        replace_file(&path, &encode_record(&tombstone, 0).map_err(error)?).map_err(error)
    } else {
        write_record(&file, &tombstone).map_err(error)
    }
}

fn log_forced_release(folder: &Path, release: &ForcedRelease) -> io::Result<()> {
    let mut line = serde_json::to_vec(release)?;
    line.push(b'\n');
    let mut log = OpenOptions::new().append(true).create(true).open(folder.join(FORCED_RELEASES_FILE))?;
    log.write_all(&line)?;
    log.sync_data()
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

fn record_path(folder: &Path) -> PathBuf {
    folder.join(LOCK_DIR).join(RECORD_FILE)
}

/// Opens the record if there is one, also that of an older runner.
fn open_record(folder: &Path, options: &OpenOptions) -> Result<Option<(PathBuf, File)>, LockError> {
    for path in [record_path(folder), folder.join(LOCK_DIR)] {
        match options.open(&path) {
            Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => return Ok(Some((path, file))),
            // The directory, in which another process is about to create the record.
            Ok(_) => {}
            Err(missing) if is_missing_or_other_kind(&missing) => {}
            Err(source) => return Err(LockError::Io { path, source }),
        }
    }
    Ok(None)
}

/// Whether the lock's file is not there, or a directory is where a file was, or the other way round.
fn is_missing_or_other_kind(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
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

/// Not synced: a crash of the machine frees the kernel lock, and the journals know the epoch.
fn write_record(file: &File, record: &LockRecord) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    file.write_all_at(&encode_record(record, length)?, 0)
}

/// A record as a line of at least that length: spaces overwrite what is left of a longer one, so that one write changes the whole
/// file.
fn encode_record(record: &LockRecord, length: usize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(record)?;
    text.resize(length.max(text.len() + 1) - 1, b' ');
    text.push(b'\n');
    Ok(text)
}

/// Copies a file; the copy is on disk when this returns.
fn copy_synced(from: &Path, to: &Path) -> io::Result<()> {
    let content = fs::read(from)?;
    let mut copy = File::create(to)?;
    copy.write_all(&content)?;
    copy.sync_all()
}

#[cfg(test)]
mod tests;
