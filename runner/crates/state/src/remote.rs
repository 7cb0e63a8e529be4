//! What a remote place must be able to do, so that state can live there: one record that is replaced by compare-and-swap,
//! and files that it names. That is all; the protocol is in [`super::lease`], and what is written in [`super::record`].
//!
//! Calls block; they are made from threads of their own, never from the loop. Deliberately absent: whether a failed write
//! was refused or lost. No answer of a network tells that for sure, so whoever writes reads back.

use std::{fmt, time::Duration};

use super::StateError;

/// How long one call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The name of the record's file where a place has files.
pub const RECORD_FILE: &str = "state.json";

/// A version of the record. Two records never have the same, since no two are alike.
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
    /// The version to replace; none when there must be no record yet.
    pub expected: Option<&'a RecordVersion>,
    /// The new record.
    pub record: &'a [u8],
    /// New files. They are there before the record is.
    pub files: &'a [(String, Vec<u8>)],
    /// Files that the new record names no longer.
    pub removed: &'a [String],
    /// What this is, for people.
    pub message: &'a str,
}

/// A place for the state of one (app, environment).
pub trait RemoteStorage: Send + fmt::Debug {
    /// Refuses a place that does not keep its word on conditions. Asked before the lock is taken.
    ///
    /// # Errors
    /// [`StateError`] that says so, or that it can't be told.
    fn verify_conditional_writes(&mut self) -> Result<(), StateError>;

    /// The record; none when nothing was ever written.
    ///
    /// # Errors
    /// [`StateError`] when it can't be read.
    fn read_record(&mut self) -> Result<Option<VersionedRecord>, StateError>;

    /// Replaces the record if it still has the expected version.
    ///
    /// # Errors
    /// [`StateError`] when it was not replaced, or when that is not known.
    fn compare_and_swap(&mut self, change: &RecordUpdate<'_>) -> Result<RecordVersion, StateError>;

    /// A file that the record named when it was read last.
    ///
    /// # Errors
    /// [`StateError`] when it can't be read, or is not there any more.
    fn read_file(&mut self, name: &str) -> Result<Vec<u8>, StateError>;

    /// Tidies up what only this machine keeps. Nothing depends on it.
    fn clean_local_cache(&mut self) {}
}
