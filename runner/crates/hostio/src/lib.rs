//! Files and threads of this machine, as sandboxed steps may use them: confined paths, snapshots of directories, blocking work.
//!
//! Invariant: below a directory that a step may write to, no link is followed out of it. Deliberately absent: what is granted.

pub mod blocking;
pub mod confined_path;
pub mod dir_snapshot;
