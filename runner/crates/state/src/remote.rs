//! The interface of a remote storage: one record that is replaced by compare-and-swap, and the files that it names. The
//! protocol is in [`super::lease`], the record's content in [`super::record`].
//!
//! Calls block, so dedicated threads make them, never the async runtime. Deliberately absent: whether a failed write
//! was rejected or lost. A network can't tell for sure, so the writer reads back.

use std::{fmt, time::Duration};

use super::StateError;
use plan::RemoteLocation;

/// How long one call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The file name of the record in a storage of files.
pub const RECORD_FILE: &str = "state.json";

/// The version of a record. Two records never have the same version, because no two are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordVersion(pub String);

/// The record as it was read.
#[derive(Clone, Debug)]
pub struct VersionedRecord {
    pub version: RecordVersion,
    pub bytes: Vec<u8>,
}

/// A change of the record, with its files.
#[derive(Clone, Debug)]
pub struct RecordUpdate<'a> {
    /// The version to replace; `None` if there must be no record yet.
    pub expected: Option<&'a RecordVersion>,
    /// The new record.
    pub record: &'a [u8],
    /// New files, which are written before the record.
    pub files: &'a [(String, Vec<u8>)],
    /// Files that the new record no longer names.
    pub removed: &'a [String],
    /// A message for people, such as a commit message.
    pub message: &'a str,
}

/// The remote storage of one (app, environment).
pub trait RemoteStorage: Send + fmt::Debug {
    /// Refuses a storage that ignores the conditions of writes. Called before the lock is acquired.
    ///
    /// # Errors
    /// [`StateError`] when the storage ignores them, or when the check fails.
    fn verify_conditional_writes(&mut self) -> Result<(), StateError>;

    /// Reads the record; `None` if nothing was ever written.
    ///
    /// # Errors
    /// [`StateError`] when it can't be read.
    fn read_record(&mut self) -> Result<Option<VersionedRecord>, StateError>;

    /// Replaces the record if it still has the expected version.
    ///
    /// # Errors
    /// [`StateError`] when it was not replaced, or when the outcome is unknown.
    fn compare_and_swap(&mut self, change: &RecordUpdate<'_>) -> Result<RecordVersion, StateError>;

    /// Reads a file that the last record names.
    ///
    /// # Errors
    /// [`StateError`] when it can't be read or no longer exists.
    fn read_file(&mut self, name: &str) -> Result<Vec<u8>, StateError>;

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
