//! A session with a granted SQLite database, on its own thread.
//!
//! Invariants: dropping a session rolls back what is not committed and releases the database. A dropped call stops
//! within milliseconds. SQL text can access only the granted file (see [`authorizer`]). SQLite's durability is kept:
//! `synchronous = FULL`, and never a journal in memory.
//!
//! Calls of one session are sequential. Deliberately absent: a pool (a step has one session), retries (`deploy` does
//! them, by [`SqliteError::retryable`]), and other engines.

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

pub use error::{SqlPosition, SqliteError, SqliteFault};
pub use script_split::{ScriptStatement, script_statements};

use control::{SqliteCall, SqliteCallControl};
use plan::DirAccess;
use worker::SqliteWorker;

/// The most rows in a result.
pub const MAX_RESULT_ROWS: usize = 10_000;
/// The most bytes in a result; each value counts 16 more than its length.
pub const MAX_RESULT_BYTES: usize = 4 << 20;
/// How long dropping a session waits for its thread.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(20);

/// One SQL value.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// Stored as 0 or 1, and returned as an integer.
    Boolean(bool),
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// BLOB, and TEXT that is not UTF-8.
    Text(String),
    /// BLOB; also TEXT that is not UTF-8.
    Blob(Vec<u8>),
}

/// A result set.
#[derive(Clone, Debug, PartialEq)]
pub struct SqlRows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows, with one value per column.
    pub rows: Vec<Vec<SqlValue>>,
}

/// When a transaction takes its locks (<https://sqlite.org/lang_transaction.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionMode {
    /// At its first read, and for writing at its first write.
    Deferred,
    /// The write lock, at once.
    Immediate,
    /// All locks, at once: others can't even read, except with a write-ahead log.
    Exclusive,
}

/// An open database.
pub struct SqliteSession {
    /// `None` only during the drop.
    calls: Option<mpsc::Sender<SqliteCall>>,
    control: Arc<SqliteCallControl>,
    /// Disconnects when the thread has closed the connection.
    closed: Mutex<mpsc::Receiver<()>>,
}

impl SqliteSession {
    /// Opens the database at `path`, which must be absolute. With write access it creates a missing file but no folder;
    /// with read access a missing file is [`SqliteFault::FileMissing`]. Waits up to 5 s for another process's lock.
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
                        // The caller may be gone; then nobody needs the answer.
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

    /// Runs a text of several statements and discards their rows. An error has its position in the text. Without an
    /// open transaction, each statement is its own.
    pub async fn run_script(&self, sql: String) -> Result<(), SqliteError> {
        self.call(move |worker| worker.run_script(&sql)).await
    }

    /// Begins a transaction; only one can be open.
    pub async fn begin(&self, mode: TransactionMode) -> Result<(), SqliteError> {
        self.call(move |worker| worker.begin(mode)).await
    }

    /// Commits. An error rolls the transaction back. If this future is dropped, the outcome is unknown.
    pub async fn commit(&self) -> Result<(), SqliteError> {
        self.call(SqliteWorker::commit).await
    }

    /// Requests a rollback of an open transaction before the next call. Does not wait, so a destructor may call it. If
    /// the rollback fails, closing the connection completes it.
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
            // The caller may be gone; its guard has handled the transaction.
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
    /// Cancels everything, rolls back, and waits briefly until the database is released. A few SQLite functions can't
    /// be interrupted; then the thread continues alone, and the next session waits for it.
    fn drop(&mut self) {
        self.calls = None;
        self.control.close();
        let closed = self.closed.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent: the wait ends with the thread, or by timeout.
        if closed.recv_timeout(CLOSE_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            self.control.mark_detached();
        }
    }
}

/// Cancels its call and rolls the transaction back if dropped before the reply.
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
            // The call, even a `begin`, may just have succeeded, so the rollback is a separate job.
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
