//! Databases: sessions with PostgreSQL, MySQL and SQLite, a splitter of SQL text, and migrations.
//!
//! Invariant: no error's text contains a URL or a password. Deliberately absent: grants, which the caller checks.

pub mod migrate;
pub mod sql;
pub mod sqlite;

use contract::step::{FailureKind, StepFailure};

fn failure(kind: FailureKind, message: impl Into<String>) -> StepFailure {
    StepFailure::new(kind, message)
}
