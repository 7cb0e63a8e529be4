//! What was intended and how it ended, on disk before and after each effect.
//!
//! [`event`] says what a record is, [`state`] is the pure fold of all of them, [`line`] the form on disk, [`file`] appends
//! and syncs, `load` reads, [`redact`] keeps secrets out, and `sanitize` applies it and bounds what is written. The order
//! "intent, effect, outcome" is in the types: only [`Journal::intend`] makes an [`StepIntent`], acting takes it and gives an
//! [`StepCompletion`], and only that can be settled.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod clock;
pub mod decision;
mod error;
pub mod event;
pub mod file;
mod finding_summary;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod line;
mod load;
mod message_redactor;
pub mod redact;
mod sanitize;
pub mod state;

pub use error::JournalError;
pub use event::{JournalEvent, StepTarget};
pub use file::{Journal, StepCompletion, StepIntent, UndoCompletion, UndoIntent};
pub use finding_summary::FindingSummary;
pub use load::{LoadedJournals, UNTRUSTED_FILE_SUFFIX, trust_from_file_name};
pub use message_redactor::MessageRedactor;
pub use redact::Redactor;
pub use state::{JournalState, JournalTrust, RecordStatus, StepRecord};

#[cfg(test)]
mod tests;
