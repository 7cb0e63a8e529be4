//! Hosts that are not the runner's machine: how they are reached, and the calls that are made there.
//!
//! [`dialer`] connects to a host, [`ssh`] starts the agent there, [`connection`] talks to it, [`shipping`] finds the files of this machine
//! that steps read, [`sending`] sends them, archives as those chunks of [`decomposed`] that a host lacks, and [`RemoteExecutor`] makes the
//! calls. Invariant: what an agent answers is a fact about its host only; it can't name another step, and its records are used only for
//! intents that this attempt or an earlier one recorded. Deliberately absent: decisions, and the agent itself ([`crate::agent`]).

mod connection;
mod decomposed;
mod dialer;
mod executor;
mod file_hashes;
mod sending;
mod shipping;
mod ssh;

pub use connection::{AgentConnection, ConnectionError};
pub use decomposed::DecomposedArchives;
pub use dialer::Dialer;
pub use executor::RemoteExecutor;
pub use file_hashes::FileHashes;
pub use ssh::reach;
