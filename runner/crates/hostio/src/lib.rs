//! Files and threads of this machine for sandboxed steps: confined paths, snapshots of directories, blocking work.
//!
//! Invariant: below a directory that a step may write to, no link is followed out of it. Deliberately absent: grants.

pub mod blocking;
pub mod confined_path;
pub mod dir_snapshot;
