//! Files and threads of this machine: confined paths, directory snapshots, atomically written files, modes and owners, blocking work.
//!
//! Invariant: a path below a directory that a step may write to never leads out of it through a link. Deliberately
//! absent: grants.

pub mod accounts;
pub mod atomic_file;
pub mod blocking;
pub mod confined_path;
pub mod dir_snapshot;
pub mod file_owner;
