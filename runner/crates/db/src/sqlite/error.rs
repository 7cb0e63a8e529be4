//! Errors of a SQLite database, in SQLite's words, with the position in the SQL text if known.
//!
//! Invariant: no text contains a parameter's value. SQLite's own messages may quote the SQL text.

use std::{fmt, path::PathBuf};

use contract::step::FailureKind;
use rusqlite::{Error, ErrorCode};

use super::{MAX_RESULT_BYTES, MAX_RESULT_ROWS};

/// A position in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlPosition {
    /// The line, from 1; lines end with LF or CRLF.
    pub line: u64,
    /// The column in characters, from 1. A byte order mark at the start does not count.
    pub column: u64,
}

/// An error of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteError {
    /// The fault.
    pub fault: SqliteFault,
    /// The position in the call's text: SQLite's token, or the start of the failing statement.
    pub position: Option<SqlPosition>,
}

/// What went wrong in a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SqliteFault {
    /// The file or its folder does not exist.
    #[error("{} does not exist", .0.display())]
    FileMissing(PathBuf),
    /// A relative path would depend on the current directory.
    #[error("the database path {} is not absolute", .0.display())]
    RelativePath(PathBuf),
    /// The step may not do this.
    #[error("{0}")]
    Denied(String),
    /// An error of SQLite.
    #[error("{message}")]
    Sqlite {
        /// The error class.
        code: ErrorCode,
        /// SQLite's message.
        message: String,
    },
    /// The call was cancelled.
    #[error("the statement was interrupted")]
    Interrupted,
    /// The text has no statement, or more than one.
    #[error("the text must hold exactly one statement")]
    NotOneStatement,
    /// The number of values differs from the number of parameters.
    #[error("the call passed {given} values for {expected} parameters")]
    ParameterCount {
        /// The number of parameters.
        expected: usize,
        /// The number of values.
        given: usize,
    },
    /// SQLite would stop reading at a NUL character.
    #[error("the SQL text contains a NUL character")]
    NulCharacter,
    /// The text is not a transaction mode.
    #[error("`{}` is not a transaction mode: use deferred, immediate or exclusive", contract::text::escape_line(.0))]
    UnknownMode(String),
    /// A transaction is already open.
    #[error("a transaction is already open")]
    TransactionOpen,
    /// No transaction is open.
    #[error("no transaction is open")]
    NoTransaction,
    /// SQLite rolled the transaction back by itself: `ON CONFLICT ROLLBACK`, a full disk, an interrupted call.
    #[error("the transaction was already rolled back")]
    TransactionLost,
    /// The result has too many rows.
    #[error("the result has more than {MAX_RESULT_ROWS} rows")]
    TooManyRows,
    /// The result has too many bytes.
    #[error("the result is larger than {MAX_RESULT_BYTES} bytes")]
    ResultTooLarge,
    /// The session's thread could not start, or has ended.
    #[error("the database session has ended: {0}")]
    SessionEnded(String),
}

impl SqliteError {
    /// The kind in the step contract.
    #[must_use]
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of rusqlite")]
    pub fn kind(&self) -> FailureKind {
        match &self.fault {
            SqliteFault::FileMissing(_) => FailureKind::NotFound,
            SqliteFault::Denied(_) => FailureKind::Denied,
            SqliteFault::Interrupted => FailureKind::Transient,
            SqliteFault::RelativePath(_)
            | SqliteFault::NotOneStatement
            | SqliteFault::ParameterCount { .. }
            | SqliteFault::NulCharacter
            | SqliteFault::UnknownMode(_) => FailureKind::InvalidConfig,
            SqliteFault::TransactionOpen
            | SqliteFault::NoTransaction
            | SqliteFault::TransactionLost
            | SqliteFault::SessionEnded(_) => FailureKind::Permanent,
            SqliteFault::TooManyRows | SqliteFault::ResultTooLarge => FailureKind::Limit,
            SqliteFault::Sqlite { code, .. } => match code {
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => FailureKind::Transient,
                ErrorCode::ConstraintViolation => FailureKind::Conflict,
                ErrorCode::ReadOnly => FailureKind::Denied,
                ErrorCode::TooBig | ErrorCode::OutOfMemory => FailureKind::Limit,
                ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => FailureKind::BadContent,
                _ => FailureKind::Permanent,
            },
        }
    }

    /// Whether the same call may succeed later, because the database was busy.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind() == FailureKind::Transient
    }

    /// The position of a library error in the text that starts at byte `start` of `whole`. An error without a position
    /// is at the start.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of rusqlite")]
    pub(super) fn at_statement(error: Error, whole: &str, start: usize, length: usize) -> Self {
        let offset = match &error {
            // The library may have prepared only the end of the text; its `sql` tells how much.
            Error::SqlInputError { offset, sql, .. } => {
                length.saturating_sub(sql.len()) + usize::try_from(*offset).unwrap_or(0)
            }
            _ => 0,
        };
        Self { position: Some(SqlPosition::at(whole, start + offset)), ..Self::from(error) }
    }
}

impl SqlPosition {
    /// The position of a byte.
    #[must_use]
    pub fn at(text: &str, offset: usize) -> Self {
        let before = &text[..text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.bytes().filter(|&byte| byte == b'\n').count() as u64 + 1,
            column: before[line_start..].chars().count() as u64 + 1,
        }
    }
}

impl fmt::Display for SqliteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for SqliteError {}

impl From<SqliteFault> for SqliteError {
    fn from(fault: SqliteFault) -> Self {
        Self { fault, position: None }
    }
}

impl From<Error> for SqliteError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of rusqlite")]
    fn from(error: Error) -> Self {
        let fault = match error {
            Error::SqlInputError { error, msg, .. } => SqliteFault::Sqlite { code: error.code, message: msg },
            Error::SqliteFailure(error, message) if error.code == ErrorCode::OperationInterrupted => {
                drop(message);
                SqliteFault::Interrupted
            }
            Error::SqliteFailure(error, message) => {
                SqliteFault::Sqlite { code: error.code, message: message.unwrap_or_else(|| error.to_string()) }
            }
            Error::MultipleStatement => SqliteFault::NotOneStatement,
            Error::InvalidParameterCount(given, expected) => SqliteFault::ParameterCount { expected, given },
            other => SqliteFault::Sqlite { code: ErrorCode::Unknown, message: other.to_string() },
        };
        fault.into()
    }
}
