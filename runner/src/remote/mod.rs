//! Hosts that are not the runner's machine: how they are reached, and the calls that are made there.
//!
//! [`dialer`] connects to a host, [`ssh`] starts the agent there, whose [`agent_binary`] it sends, [`dial_error`] says why it could not,
//! [`survey`] asks for what it has without changing it, [`connection`] talks to it, [`shipping`] finds the files of this machine that steps
//! read, [`sending`] sends them and third-party modules, archives as those chunks of [`decomposed`] that a host lacks, and
//! [`RemoteExecutor`] makes the calls. What a host says reaches nobody with its escape sequences ([`foreign_text`]). Invariant: what an
//! agent answers is a fact about its host only; it can't name another step, and its records are used only for intents that this attempt or
//! an earlier one recorded. Deliberately absent: decisions, and the agent itself ([`crate::agent`]).

mod agent_binary;
mod connection;
mod decomposed;
mod dial_error;
mod dialer;
mod executor;
mod file_hashes;
mod foreign_text;
mod sending;
mod shipping;
mod ssh;
mod sudo;
mod survey;

pub use connection::{AgentConnection, ConnectionError};
pub use decomposed::DecomposedArchives;
pub use dialer::Dialer;
pub use executor::RemoteExecutor;
pub use file_hashes::FileHashes;
use foreign_text::plain_text;
pub use shipping::{ThirdPartyModule, ThirdPartyModules};
pub use survey::{AgentPresence, HostSurvey, SurveyedFolder};
