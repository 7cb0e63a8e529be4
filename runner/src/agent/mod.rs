//! The runner on another host: an agent makes the calls of the steps that run there.
//!
//! The coordinator, which is the process that deploys, starts `runner agent` on the host, usually by ssh, and talks to it over standard
//! input and output ([`wire`]). Both are the same build, so the messages have no versions. The agent keeps an ordinary journal of what it
//! did ([`session`]), so that a coordinator whose connection was cut learns how a step ended.
//!
//! Invariants: an agent acts only between its own recorded intent and outcome, while it holds the lock of its folder; when its connection
//! ends, it ends its programs, records what it can, and exits. Deliberately absent: decisions, which the coordinator makes, and how a
//! host is reached ([`crate::remote`]).

mod cleanup;
mod confirmation;
mod fence;
mod files;
mod own_build;
mod rebuild;
mod seeds;
mod server;
mod session;
mod store;

pub use ::wire;
pub use own_build::build;
pub use server::{AgentFolders, serve};
