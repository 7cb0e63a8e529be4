//! A session with a database of any engine: the basis of the capability `database` and of migrations.
//!
//! Invariants: no error's text contains a part of the URL. Dropping a session rolls back what is not committed.
//! Dropping a call's future ends its session and stops the server. Deliberately absent: pools, retries, and the
//! runner's own SQL (see [`migrate`](super::migrate)).

mod mysql;
mod postgres;
mod tls;

use std::{fmt, path::Path};

use super::sqlite::{self, SqlRows, SqlValue};
use crate::failure;
use contract::step::{FailureKind, StepFailure};
use plan::{DirAccess, ServerEngine, ServerUrl};

pub use super::sqlite::{SqlPosition, TransactionMode};

/// How long a server may take for its first reply.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// The engine of a session's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlEngine {
    Sqlite,
    Postgres,
    Mysql,
}

impl SqlEngine {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
        }
    }
}

/// An error of a call, in the database's words.
#[derive(Clone, Debug)]
pub struct SqlSessionError {
    pub kind: FailureKind,
    pub message: String,
    pub hint: Option<String>,
    /// The server's own code: a SQLSTATE, or MySQL's number.
    pub code: Option<String>,
    /// The position in the text of the call.
    pub position: Option<SqlPosition>,
    /// How many statements of the text succeeded before the error.
    pub completed: usize,
    /// Whether the session has ended.
    pub lost: bool,
}

impl SqlSessionError {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, code: None, position: None, completed: 0, lost: false }
    }

    pub fn lost(why: impl fmt::Display) -> Self {
        let message = format!("the database session was lost: {why}");
        Self { lost: true, ..Self::new(FailureKind::Transient, message) }
    }

    /// Converts an error of the socket. TLS errors also arrive here; they are permanent.
    pub fn from_io_error(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::new(FailureKind::Permanent, format!("TLS: {tls}")),
            None => Self::lost(error),
        }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn has_code(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// Whether another session's lock caused the error, so the statement itself may be fine.
    pub fn is_contention(&self) -> bool {
        // lock_not_available, deadlock_detected, serialization_failure; lock wait timeout, deadlock; SQLite's busy.
        self.has_code(&["55P03", "40P01", "40001", "1205", "1213", "SQLITE_BUSY"])
    }
}

impl From<sqlite::SqliteError> for SqlSessionError {
    fn from(error: sqlite::SqliteError) -> Self {
        let kind = error.kind();
        let code = (kind == FailureKind::Transient).then(|| "SQLITE_BUSY".to_owned());
        Self { position: error.position, code, ..Self::new(kind, error.to_string()) }
    }
}

impl From<SqlSessionError> for StepFailure {
    fn from(fault: SqlSessionError) -> Self {
        let mut failure = failure(fault.kind.clone(), fault.message);
        failure.retryable = fault.kind == FailureKind::Transient;
        failure.hint = fault.hint;
        if let Some(code) = fault.code.filter(|code| code != "SQLITE_BUSY") {
            failure.details.insert("sql-code".to_owned(), code.into());
        }
        if let Some(position) = fault.position {
            failure.details.insert("line".to_owned(), position.line.into());
            failure.details.insert("column".to_owned(), position.column.into());
        }
        failure
    }
}

/// A row as the server writes it; `None` is NULL.
pub type TextRow = Vec<Option<String>>;

/// A session.
pub enum SqlSession {
    Sqlite(sqlite::SqliteSession),
    Postgres(Box<postgres::PostgresSession>),
    Mysql(mysql::MysqlSession),
}

impl SqlSession {
    /// Connects to a server. A read-only session refuses to write.
    pub async fn connect(url: &ServerUrl, access: DirAccess) -> Result<Self, SqlSessionError> {
        let session = async {
            Ok(match url.engine {
                ServerEngine::Postgres => Self::Postgres(Box::new(postgres::PostgresSession::open(url, access).await?)),
                ServerEngine::Mysql => Self::Mysql(mysql::MysqlSession::open(url, access).await?),
            })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, session).await.unwrap_or_else(|_| {
            Err(SqlSessionError::new(
                FailureKind::Transient,
                format!("the server did not answer within {} s", CONNECT_TIMEOUT.as_secs()),
            ))
        })
    }

    /// Opens an SQLite database.
    pub async fn open(path: &Path, access: DirAccess) -> Result<Self, SqlSessionError> {
        Ok(Self::Sqlite(sqlite::SqliteSession::open(path, access).await?))
    }

    pub fn engine(&self) -> SqlEngine {
        match self {
            Self::Sqlite(_) => SqlEngine::Sqlite,
            Self::Postgres(_) => SqlEngine::Postgres,
            Self::Mysql(_) => SqlEngine::Mysql,
        }
    }

    /// Runs one statement that returns rows.
    pub async fn query(&self, sql: String, parameters: Vec<SqlValue>) -> Result<SqlRows, SqlSessionError> {
        match self {
            Self::Sqlite(session) => Ok(session.query(sql, parameters).await?),
            Self::Postgres(session) => session.query(&sql, parameters).await,
            Self::Mysql(session) => session.query(&sql, parameters).await,
        }
    }

    /// Runs one statement and returns the number of affected rows.
    pub async fn execute(&self, sql: String, parameters: Vec<SqlValue>) -> Result<u64, SqlSessionError> {
        match self {
            Self::Sqlite(session) => Ok(session.execute(sql, parameters).await?),
            Self::Postgres(session) => session.execute(&sql, parameters).await,
            Self::Mysql(session) => session.execute(&sql, parameters).await,
        }
    }

    /// Runs a step's text of several statements, which must not end the transaction.
    pub async fn run_script(&self, sql: String) -> Result<(), SqlSessionError> {
        match self {
            Self::Sqlite(session) => Ok(session.run_script(sql).await?),
            Self::Postgres(session) => session.run_script(&sql).await,
            Self::Mysql(session) => session.run_script(&sql).await,
        }
    }

    /// Runs the runner's own statements, or those of a checked file, in one round trip to a server. Returns the rows of
    /// all of them.
    pub async fn query_text(&self, sql: &str) -> Result<Vec<TextRow>, SqlSessionError> {
        match self {
            Self::Sqlite(session) => {
                let rows = session.query(sql.to_owned(), Vec::new()).await?;
                Ok(rows.rows.into_iter().map(|row| row.into_iter().map(value_to_text).collect()).collect())
            }
            Self::Postgres(session) => session.query_text(sql).await,
            Self::Mysql(session) => session.query_text(sql).await,
        }
    }

    /// Like [`query_text`](Self::query_text), but discards the rows.
    pub async fn run_batch(&self, sql: &str) -> Result<(), SqlSessionError> {
        match self {
            Self::Sqlite(session) => Ok(session.run_script(sql.to_owned()).await?),
            Self::Postgres(session) => session.run_batch(sql).await,
            Self::Mysql(session) => session.run_batch(sql).await,
        }
    }

    pub async fn begin(&self, mode: TransactionMode) -> Result<(), SqlSessionError> {
        match self {
            Self::Sqlite(session) => Ok(session.begin(mode).await?),
            Self::Postgres(session) => session.begin().await,
            Self::Mysql(session) => session.begin().await,
        }
    }

    pub async fn commit(&self) -> Result<(), SqlSessionError> {
        match self {
            Self::Sqlite(session) => Ok(session.commit().await?),
            Self::Postgres(session) => session.commit().await,
            Self::Mysql(session) => session.commit().await,
        }
    }

    /// Rolls back an open transaction without waiting; for destructors.
    pub fn rollback(&self) {
        match self {
            Self::Sqlite(session) => session.rollback(),
            Self::Postgres(session) => session.rollback(),
            Self::Mysql(session) => session.rollback(),
        }
    }

    /// Takes the notices that the server has sent since the last call.
    pub fn take_notices(&self) -> Vec<String> {
        match self {
            Self::Postgres(session) => session.take_notices(),
            Self::Sqlite(_) | Self::Mysql(_) => Vec::new(),
        }
    }
}

fn value_to_text(value: SqlValue) -> Option<String> {
    match value {
        SqlValue::Null => None,
        SqlValue::Boolean(value) => Some(if value { "t" } else { "f" }.to_owned()),
        SqlValue::Integer(value) => Some(value.to_string()),
        SqlValue::Real(value) => Some(value.to_string()),
        SqlValue::Text(value) => Some(value),
        // Digests are stored as bytes and compared as hex.
        SqlValue::Blob(bytes) => Some(hex(&bytes)),
    }
}

/// Encodes bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Refuses a statement that would end or begin the runner's transaction.
fn refuse_transaction_control(engine: SqlEngine, statement: &str) -> Result<(), SqlSessionError> {
    match transaction_control_word(crate::migrate::skip_blank(engine, statement)) {
        Some(word) => Err(transaction_control_denied(word)),
        None => Ok(()),
    }
}

/// Whether a statement begins with a keyword that would end or begin the runner's transaction.
fn transaction_control_word(statement: &str) -> Option<&'static str> {
    const CONTROL_WORDS: [&str; 7] = ["BEGIN", "START", "COMMIT", "ROLLBACK", "END", "ABORT", "XA"];
    let word: String = statement.chars().take_while(|c| c.is_ascii_alphabetic()).collect();
    let found = CONTROL_WORDS.into_iter().find(|known| known.eq_ignore_ascii_case(&word))?;
    let rest = statement[word.len()..].trim_start().to_ascii_uppercase();
    // A rollback to a savepoint stays inside the transaction.
    let stays = found == "ROLLBACK" && (rest.starts_with("TO ") || rest.starts_with("WORK TO "));
    (!stays).then_some(found)
}

fn transaction_control_denied(word: &str) -> SqlSessionError {
    SqlSessionError::new(
        FailureKind::Denied,
        format!("{word} inside SQL text is denied: the runner controls the transaction; leave {word} out"),
    )
}

impl From<sqlite::SqliteError> for StepFailure {
    fn from(error: sqlite::SqliteError) -> Self {
        SqlSessionError::from(error).into()
    }
}
