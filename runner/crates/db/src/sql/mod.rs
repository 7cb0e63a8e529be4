//! One session with a database, whatever its engine: what the capability `database` and the migrations stand on.
//!
//! Invariants: an error's text has no part of the URL; what is not committed is rolled back when a session is dropped; a call
//! whose future is dropped ends its session, and the server is told to stop. Deliberately absent: pools, retries, and any SQL of
//! the runner's own (that is [`migrate`](super::migrate)'s).

mod mysql;
mod postgres;
mod tls;

use std::{fmt, path::Path};

use super::sqlite::{self, Rows, Value};
use crate::failure;
use contract::step::Failure;
use plan::{Access, Server, ServerUrl};

pub use super::sqlite::{Kind, Mode, Position};

/// How long a server may take to answer the first time.
const CONNECTING: std::time::Duration = std::time::Duration::from_secs(10);

/// What kind of database a session is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
    Mysql,
}

impl Engine {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
        }
    }
}

/// Why a call failed, as the database says it.
#[derive(Clone, Debug)]
pub struct SqlFault {
    pub kind: Kind,
    pub message: String,
    pub hint: Option<String>,
    /// The server's own code: a SQLSTATE, or MySQL's number.
    pub code: Option<String>,
    /// In the text of the call.
    pub position: Option<Position>,
    /// How many statements of the text had ended well before it.
    pub completed: usize,
    /// The session is gone.
    pub lost: bool,
}

impl SqlFault {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, code: None, position: None, completed: 0, lost: false }
    }

    pub fn lost(why: impl fmt::Display) -> Self {
        let message = format!("the session with the database was lost: {why}");
        Self { lost: true, ..Self::new(Kind::Transient, message) }
    }

    /// What reading or writing the socket failed with; TLS answers there too, and comes to no other answer later.
    pub fn of_stream(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::new(Kind::Permanent, format!("TLS: {tls}")),
            None => Self::lost(error),
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn has_code(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// Whether somebody else's lock was in the way: nothing is wrong with the statement.
    pub fn is_contention(&self) -> bool {
        // lock_not_available, deadlock_detected, serialization_failure; lock wait timeout, deadlock; SQLite's busy.
        self.has_code(&["55P03", "40P01", "40001", "1205", "1213", "SQLITE_BUSY"])
    }
}

impl From<sqlite::SqlError> for SqlFault {
    fn from(error: sqlite::SqlError) -> Self {
        let kind = error.kind();
        let code = (kind == Kind::Transient).then(|| "SQLITE_BUSY".to_owned());
        Self { position: error.position, code, ..Self::new(kind, error.to_string()) }
    }
}

impl From<SqlFault> for Failure {
    fn from(fault: SqlFault) -> Self {
        let mut failure = failure(fault.kind.as_str(), fault.message);
        failure.retryable = fault.kind == Kind::Transient;
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
pub enum Session {
    Sqlite(sqlite::Session),
    Postgres(Box<postgres::Session>),
    Mysql(mysql::Session),
}

impl Session {
    /// Opens a session with a server. A reader's session refuses to write.
    pub async fn connect(url: &ServerUrl, access: Access) -> Result<Self, SqlFault> {
        let session = async {
            Ok(match url.server {
                Server::Postgres => Self::Postgres(Box::new(postgres::Session::open(url, access).await?)),
                Server::Mysql => Self::Mysql(mysql::Session::open(url, access).await?),
            })
        };
        tokio::time::timeout(CONNECTING, session).await.unwrap_or_else(|_| {
            Err(SqlFault::new(Kind::Transient, format!("the server did not answer within {} s", CONNECTING.as_secs())))
        })
    }

    /// Opens an SQLite database.
    pub async fn open(path: &Path, access: Access) -> Result<Self, SqlFault> {
        Ok(Self::Sqlite(sqlite::Session::open(path, access).await?))
    }

    pub fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) => Engine::Sqlite,
            Self::Postgres(_) => Engine::Postgres,
            Self::Mysql(_) => Engine::Mysql,
        }
    }

    /// One statement that returns rows.
    pub async fn query(&self, sql: String, parameters: Vec<Value>) -> Result<Rows, SqlFault> {
        match self {
            Self::Sqlite(session) => Ok(session.query(sql, parameters).await?),
            Self::Postgres(session) => session.query(&sql, parameters).await,
            Self::Mysql(session) => session.query(&sql, parameters).await,
        }
    }

    /// One statement; the number of rows that it affected.
    pub async fn execute(&self, sql: String, parameters: Vec<Value>) -> Result<u64, SqlFault> {
        match self {
            Self::Sqlite(session) => Ok(session.execute(sql, parameters).await?),
            Self::Postgres(session) => session.execute(&sql, parameters).await,
            Self::Mysql(session) => session.execute(&sql, parameters).await,
        }
    }

    /// A step's text of several statements, which may not end the transaction.
    pub async fn script(&self, sql: String) -> Result<(), SqlFault> {
        match self {
            Self::Sqlite(session) => Ok(session.script(sql).await?),
            Self::Postgres(session) => session.script(&sql).await,
            Self::Mysql(session) => session.script(&sql).await,
        }
    }

    /// Statements of the runner's own, or of a file that was looked through: on a server in one round trip. The rows of all of
    /// them.
    pub async fn ask(&self, sql: &str) -> Result<Vec<TextRow>, SqlFault> {
        match self {
            Self::Sqlite(session) => {
                let rows = session.query(sql.to_owned(), Vec::new()).await?;
                Ok(rows.rows.into_iter().map(|row| row.into_iter().map(text_of).collect()).collect())
            }
            Self::Postgres(session) => session.ask(sql).await,
            Self::Mysql(session) => session.ask(sql).await,
        }
    }

    /// The same, where no rows are wanted.
    pub async fn run(&self, sql: &str) -> Result<(), SqlFault> {
        match self {
            Self::Sqlite(session) => Ok(session.script(sql.to_owned()).await?),
            Self::Postgres(session) => session.run(sql).await,
            Self::Mysql(session) => session.run(sql).await,
        }
    }

    pub async fn begin(&self, mode: Mode) -> Result<(), SqlFault> {
        match self {
            Self::Sqlite(session) => Ok(session.begin(mode).await?),
            Self::Postgres(session) => session.begin().await,
            Self::Mysql(session) => session.begin().await,
        }
    }

    pub async fn commit(&self) -> Result<(), SqlFault> {
        match self {
            Self::Sqlite(session) => Ok(session.commit().await?),
            Self::Postgres(session) => session.commit().await,
            Self::Mysql(session) => session.commit().await,
        }
    }

    /// Rolls an open transaction back and does not wait for it: for destructors.
    pub fn rollback(&self) {
        match self {
            Self::Sqlite(session) => session.rollback(),
            Self::Postgres(session) => session.rollback(),
            Self::Mysql(session) => session.rollback(),
        }
    }

    /// What the server said beside its answers since it was asked last.
    pub fn notices(&self) -> Vec<String> {
        match self {
            Self::Postgres(session) => session.notices(),
            Self::Sqlite(_) | Self::Mysql(_) => Vec::new(),
        }
    }
}

fn text_of(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Boolean(value) => Some(if value { "t" } else { "f" }.to_owned()),
        Value::Integer(value) => Some(value.to_string()),
        Value::Real(value) => Some(value.to_string()),
        Value::Text(value) => Some(value),
        // Digests are kept as bytes; they are compared in hex.
        Value::Blob(bytes) => Some(hex(&bytes)),
    }
}

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Whether a statement begins with a word by which a step would take the transaction away from the runner.
fn ends_transaction(statement: &str) -> Option<&'static str> {
    const WORDS: [&str; 7] = ["BEGIN", "START", "COMMIT", "ROLLBACK", "END", "ABORT", "XA"];
    let word: String = statement.chars().take_while(|c| c.is_ascii_alphabetic()).collect();
    let found = WORDS.into_iter().find(|known| known.eq_ignore_ascii_case(&word))?;
    let rest = statement[word.len()..].trim_start().to_ascii_uppercase();
    // What goes back to a savepoint stays inside.
    let stays = found == "ROLLBACK" && (rest.starts_with("TO ") || rest.starts_with("WORK TO "));
    (!stays).then_some(found)
}

fn keeps_transaction(word: &str) -> SqlFault {
    SqlFault::new(
        Kind::Denied,
        format!("{word} inside SQL text is denied: the runner keeps the transaction; leave it out"),
    )
}

impl From<sqlite::SqlError> for Failure {
    fn from(error: sqlite::SqlError) -> Self {
        SqlFault::from(error).into()
    }
}
