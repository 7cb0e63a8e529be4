//! Databases: sessions with PostgreSQL, MySQL and SQLite, one splitter of SQL text, and migrations.
//!
//! Invariant: no URL or password in an error's text. Deliberately absent: grants; who calls has checked them.

pub mod migrate;
pub mod sql;
pub mod sqlite;

use contract::step::StepFailure;

fn failure(kind: &str, message: impl Into<String>) -> StepFailure {
    StepFailure::new(kind, message)
}
