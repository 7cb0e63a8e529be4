//! What was intended and how it ended, on disk before and after each effect.
//!
//! [`event`] says what a record is, [`state`] is the pure fold of all of them, [`line`] the form on disk, [`file`] appends
//! and syncs, `load` reads, [`redact`] keeps secrets out, and `sanitize` applies it and bounds what is written. The order
//! "intent, effect, outcome" is in the types: only [`Journal::intend`] makes an [`Intent`], acting takes it and gives an
//! [`Ended`], and only that can be settled.

pub mod clock;
pub mod decision;
mod error;
pub mod event;
pub mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod line;
mod load;
pub mod redact;
mod sanitize;
pub mod state;
mod trail;

pub use error::JournalError;
pub use event::{Event, Place};
pub use file::{Ended, Intent, Journal, UndoEnded, UndoIntent};
pub use load::{Loaded, SUGGESTED, trust};
pub use redact::Redactor;
pub use state::{Record, State, Status, Trust};
pub use trail::Trail;

#[cfg(test)]
mod tests;
