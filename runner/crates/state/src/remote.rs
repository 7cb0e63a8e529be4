//! The interface of a remote storage: a lock record and a manifest that are replaced together by compare-and-swap, and
//! the files that the manifest names. The protocol is in [`super::lease`], the contents in [`super::record`] and
//! [`super::manifest`].
//!
//! Calls block, so dedicated threads make them, never the async runtime. Deliberately absent: whether a failed write
//! was rejected or lost. A network can't tell for sure, so the writer reads back.

use std::{fmt, time::Duration};

use super::{
    StateError,
    manifest::{RemoteArchive, StateManifest},
    record::LockRecord,
};
use contract::hash::Blake3Hash;
use plan::RemoteLocation;

/// How long one call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The file name of the manifest.
pub const RECORD_FILE: &str = "state.json";

/// The version of a lock record and a manifest. Two states never have the same version, because no two lock records
/// are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordVersion {
    /// In a bucket, the ETag of the record; in git, the commit of the data.
    pub data: Option<String>,
    /// In git, the commit of the lock.
    pub lock: Option<String>,
    /// In git, the commit of the ref that runners before manifest version 2 use.
    pub old: Option<String>,
}

/// A remote state as it was read. A remote without any state has an empty manifest and a lock that was never held.
#[derive(Clone, Debug)]
pub struct RemoteRecord {
    pub version: RecordVersion,
    pub lock: LockRecord,
    pub manifest: StateManifest,
    /// Whether the next write must contain a manifest: there is none yet, it has an old version, or it does not belong
    /// to the lock.
    pub needs_manifest: bool,
}

/// A change of a remote state: always the lock, so that it confirms the holder, and mostly the manifest and files.
#[derive(Clone, Debug)]
pub struct RecordUpdate<'a> {
    /// The state to replace.
    pub expected: &'a RemoteRecord,
    /// The new lock record.
    pub lock: &'a LockRecord,
    /// The new manifest; `None` to renew or take the lock only.
    pub manifest: Option<&'a StateManifest>,
    /// New files by their stored names, which are written before the manifest.
    pub files: &'a [(String, Vec<u8>)],
    /// Stored names that the new manifest no longer has.
    pub removed: &'a [String],
    /// New archives, which are written before the manifest.
    pub archives: &'a [(RemoteArchive, Vec<u8>)],
    /// A message for people, such as a commit message.
    pub message: &'a str,
}

impl<'a> RecordUpdate<'a> {
    /// A change of the lock only. An old form of the manifest is migrated.
    pub(super) fn of_lock(expected: &'a RemoteRecord, lock: &'a LockRecord, message: &'a str) -> Self {
        let manifest = expected.needs_manifest.then_some(&expected.manifest);
        Self { expected, lock, manifest, files: &[], removed: &[], archives: &[], message }
    }
}

/// The remote storage of one (app, environment).
pub trait RemoteStorage: Send + fmt::Debug {
    /// Refuses a storage that ignores the conditions of writes. Called before the lock is acquired.
    ///
    /// # Errors
    /// [`StateError`] when the storage ignores them, or when the check fails.
    fn verify_conditional_writes(&mut self) -> Result<(), StateError>;

    /// Reads the lock and the manifest.
    ///
    /// # Errors
    /// [`StateError`] when they can't be read.
    fn read_record(&mut self) -> Result<RemoteRecord, StateError>;

    /// Replaces the lock, and the manifest if there is a new one, if both still have the expected version.
    ///
    /// # Errors
    /// [`StateError`] when they were not replaced, or when the outcome is unknown.
    fn compare_and_swap(&mut self, change: &RecordUpdate<'_>) -> Result<RecordVersion, StateError>;

    /// Reads files that the manifest of `record` names, in order.
    ///
    /// # Errors
    /// [`StateError`] when one can't be read or no longer exists.
    fn read_files(&mut self, record: &RemoteRecord, names: &[String]) -> Result<Vec<Vec<u8>>, StateError>;

    /// Reads an archive.
    ///
    /// # Errors
    /// [`StateError`] when it can't be read.
    fn read_archive(&mut self, archive: &RemoteArchive) -> Result<Vec<u8>, StateError>;

    /// The name under which a file with this content is stored. A storage whose readers can't read at a version puts
    /// the hash into the name, so that a file is never changed.
    fn stored_name(&self, name: &str, hash: &Blake3Hash) -> String;

    /// Cleans up local caches. Nothing depends on it.
    fn clean_local_cache(&mut self) {}
}

/// The text of a location in the name of its cache, which must not change.
pub(super) fn cache_key(location: &RemoteLocation) -> String {
    match location {
        RemoteLocation::Git(remote) => format!("Git({remote:?})"),
        RemoteLocation::S3 { bucket, prefix } => format!("S3 {{ bucket: {bucket:?}, prefix: {prefix:?} }}"),
    }
}
