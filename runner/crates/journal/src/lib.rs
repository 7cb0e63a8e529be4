//! The journal: each intent is on disk before its effect, and each outcome after it.
//!
//! [`event`] defines the entries, [`line`] their bytes on disk; [`file`] appends and syncs, `load` reads. [`state`]
//! folds all attempts, [`step_status`] folds one. [`output`] has the lines of programs, which
//! [`attempt_log`] writes to a file beside the journal, without secrets. [`redact`] masks secrets in texts, [`secret_scanner`] finds them in
//! values, and `sanitize` applies both and limits the texts. [`decision`] is the decision table. The types enforce the order "intent, effect, outcome": only
//! [`Journal::record_intent`] creates a [`StepIntent`], acting turns it into a [`StepCompletion`], and only that can be
//! recorded as an outcome.

pub mod attempt_log;
pub mod clock;
pub mod decision;
mod distrust;
mod error;
pub mod event;
pub mod file;
mod finding_summary;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod head;
pub mod line;
mod load;
mod message_redactor;
pub mod output;
mod output_redactor;
mod plan_steps;
pub mod redact;
mod sanitize;
pub mod secret_scanner;
pub mod snapshot;
pub mod state;
pub mod step_status;

pub use error::JournalError;
pub use event::{JournalEvent, StepTarget};
pub use file::{Journal, StepCompletion, StepIntent, UndoCompletion, UndoIntent};
pub use finding_summary::FindingSummary;
pub use load::{LoadedJournals, UNTRUSTED_FILE_SUFFIX, decode_line, transition_error, trust_from_file_name};
pub use message_redactor::MessageRedactor;
pub use output::{OutputExcerpt, OutputLine, OutputStream, RecordedOutput};
pub use output_redactor::{OutputChunk, OutputRedactor};
pub use redact::Redactor;
pub use secret_scanner::{SecretLocation, SecretScanner};
pub use snapshot::{Snapshot, SnapshotError, SnapshotHeader};
pub use state::{JournalState, JournalTrust, RecordOrigin, RecordStatus, StepRecord};
pub use step_status::{AttemptStatuses, StepStatus};

#[cfg(test)]
mod tests;
