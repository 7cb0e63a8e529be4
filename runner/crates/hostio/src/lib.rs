//! Files and threads of this machine: confined paths, snapshots of directories, files written as a whole, blocking work.
//!
//! Invariant: below a directory that a step may write to, no link is followed out of it. Deliberately absent: grants.

pub mod atomic_file;
pub mod blocking;
pub mod confined_path;
pub mod dir_snapshot;
