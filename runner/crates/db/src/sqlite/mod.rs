//! A session with a granted SQLite database, on a thread of its own.
//!
//! Invariants: what a session has not committed is rolled back when it is dropped, and the database is released by then; a
//! call whose future is dropped stops within milliseconds; SQL text reaches the one granted file and nothing else (see
//! [`confine`]). SQLite's own durability is kept: `synchronous = FULL`, and never a journal in memory.
//!
//! Calls of one session are meant to come one after the other. Deliberately absent: a pool (a step has one session), retries
//! (`drive` does that, by [`SqliteError::retryable`]), and other engines.

mod authorizer;
mod control;
mod error;
mod script_split;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool, mpsc},
    time::Duration,
};

use rusqlite::types::{ToSqlOutput, ValueRef};
use tokio::sync::oneshot;

pub use error::{SqlFailureKind, SqlPosition, SqliteError, SqliteFault};
pub use script_split::{ScriptStatement, script_statements};

use control::{SqliteCall, SqliteCallControl};
use plan::DirAccess;
use worker::SqliteWorker;

/// The most rows of a result.
pub const MAX_RESULT_ROWS: usize = 10_000;
/// The most bytes of a result; each value counts 16 more than its length.
pub const MAX_RESULT_BYTES: usize = 4 << 20;
/// How long dropping a session waits for its thread.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(20);

/// One SQL value.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// Stored as 0 or 1, and read back as an integer.
    Boolean(bool),
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(String),
    /// BLOB; also TEXT that is not UTF-8.
    Blob(Vec<u8>),
}

/// A result set.
#[derive(Clone, Debug, PartialEq)]
pub struct SqlRows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows, each with one value a column.
    pub rows: Vec<Vec<SqlValue>>,
}

/// When a transaction takes its locks (<https://sqlite.org/lang_transaction.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionMode {
    /// At its first read and its first write.
    Deferred,
    /// The write lock at once.
    Immediate,
    /// Nobody else may read either (except with a write-ahead log).
    Exclusive,
}

/// An open database.
pub struct SqliteSession {
    /// `None` only while it is dropped.
    calls: Option<mpsc::Sender<SqliteCall>>,
    control: Arc<SqliteCallControl>,
    /// Disconnected when the thread has closed the connection.
    closed: Mutex<mpsc::Receiver<()>>,
}

impl SqliteSession {
    /// Opens the database at `path`, which must be absolute. With write access a missing file is created, a missing folder is
    /// not; with read access a missing file is [`Fault::MissingJournalArg`]. A lock of another process is waited for, up to 5 s.
    pub async fn open(path: &Path, access: DirAccess) -> Result<Self, SqliteError> {
        let (jobs, queue) = mpsc::channel();
        let (closing, closed) = mpsc::channel();
        let (reply, opened) = oneshot::channel();
        let control = Arc::new(SqliteCallControl::default());
        let call = Arc::new(AtomicBool::new(false));
        control.set_running(Some(Arc::clone(&call)));

        let (path, shared) = (path.to_owned(), Arc::clone(&control));
        std::thread::Builder::new()
            .name("sqlite".to_owned())
            .spawn(move || {
                let _alive: mpsc::Sender<()> = closing;
                match SqliteWorker::open(&path, access, &shared) {
                    Ok(worker) => {
                        if reply.send(Ok(())).is_ok() {
                            worker.serve(&queue);
                        }
                    }
                    Err(error) => {
                        // Whoever asked may have given up; then nobody needs to know.
                        reply.send(Err(error)).ok();
                    }
                }
            })
            .map_err(|fault| SqliteFault::SessionEnded(fault.to_string()))?;

        let session = Self { calls: Some(jobs), control, closed: Mutex::new(closed) };
        let guard = SqliteCallGuard { session: &session, call, armed: true };
        let outcome = opened.await;
        guard.disarm();
        outcome.map_err(|_| session_ended())??;
        Ok(session)
    }

    /// Runs one statement and returns its rows, up to [`MAX_RESULT_ROWS`] and [`MAX_RESULT_BYTES`].
    pub async fn query(&self, sql: String, parameters: Vec<SqlValue>) -> Result<SqlRows, SqliteError> {
        self.call(move |worker| worker.query(&sql, &parameters)).await
    }

    /// Runs one statement and returns the number of rows it inserted, updated or deleted itself.
    pub async fn execute(&self, sql: String, parameters: Vec<SqlValue>) -> Result<u64, SqliteError> {
        self.call(move |worker| worker.execute(&sql, &parameters)).await
    }

    /// Runs a text of several statements; rows are thrown away. An error has its place in the text. Without an open transaction
    /// each statement is its own.
    pub async fn run_script(&self, sql: String) -> Result<(), SqliteError> {
        self.call(move |worker| worker.run_script(&sql)).await
    }

    /// Begins a transaction; one at a time.
    pub async fn begin(&self, mode: TransactionMode) -> Result<(), SqliteError> {
        self.call(move |worker| worker.begin(mode)).await
    }

    /// Commits. On an error the transaction is rolled back. If this future is dropped, the outcome is unknown.
    pub async fn commit(&self) -> Result<(), SqliteError> {
        self.call(SqliteWorker::commit).await
    }

    /// Has an open transaction rolled back before the next call is worked on. Does not wait for it, so that a destructor may
    /// call it; a rollback that fails is made up for when the connection closes.
    pub fn rollback(&self) {
        // If the thread has ended, so has the transaction.
        self.submit(Arc::default(), |worker| drop(worker.rollback())).ok();
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteWorker) -> Result<T, SqliteError> + Send + 'static,
    ) -> Result<T, SqliteError> {
        let (reply, answer) = oneshot::channel();
        let call = Arc::new(AtomicBool::new(false));
        let guard = SqliteCallGuard { session: self, call: Arc::clone(&call), armed: true };
        self.submit(call, move |worker| {
            // Whoever asked may have given up; its guard has seen to the transaction.
            reply.send(work(worker)).ok();
        })
        .map_err(|_| session_ended())?;
        let outcome = answer.await;
        guard.disarm();
        outcome.map_err(|_| session_ended())?
    }

    fn submit(
        &self,
        cancelled: Arc<AtomicBool>,
        work: impl FnOnce(&mut SqliteWorker) + Send + 'static,
    ) -> Result<(), mpsc::SendError<SqliteCall>> {
        let call = SqliteCall { cancelled, work: Box::new(work) };
        match &self.calls {
            Some(jobs) => jobs.send(call),
            None => Err(mpsc::SendError(call)),
        }
    }
}

impl Drop for SqliteSession {
    /// Stops what runs, rolls back, and waits a moment until the database is released. A few of SQLite's functions can't be
    /// stopped; then the thread goes on by itself, and whoever comes next waits for it, not the call whose time is up.
    fn drop(&mut self) {
        self.calls = None;
        self.control.close();
        let closed = self.closed.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent: it ends by the thread's end, or by time.
        if closed.recv_timeout(CLOSE_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            self.control.mark_detached();
        }
    }
}

/// Gives its call up when dropped before the answer came, and has the transaction rolled back.
struct SqliteCallGuard<'a> {
    session: &'a SqliteSession,
    call: Arc<AtomicBool>,
    armed: bool,
}

impl SqliteCallGuard<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for SqliteCallGuard<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.session.control.cancel(&self.call);
            // The call may have ended a moment ago, a `begin` with success: so the rollback is a job of its own.
            // If the thread has ended, so has the transaction.
            self.session.submit(Arc::default(), SqliteWorker::abandon).ok();
        }
    }
}

fn session_ended() -> SqliteError {
    SqliteFault::SessionEnded("its thread ended".to_owned()).into()
}

impl FromStr for TransactionMode {
    type Err = SqliteError;

    fn from_str(text: &str) -> Result<Self, SqliteError> {
        match text {
            "deferred" => Ok(Self::Deferred),
            "immediate" => Ok(Self::Immediate),
            "exclusive" => Ok(Self::Exclusive),
            other => Err(SqliteFault::UnknownMode(other.to_owned()).into()),
        }
    }
}

impl From<ValueRef<'_>> for SqlValue {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Self::Text(text.to_owned()),
                Err(_) => Self::Blob(bytes.to_vec()),
            },
        }
    }
}

impl rusqlite::ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Boolean(yes) => ValueRef::Integer(i64::from(*yes)),
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
