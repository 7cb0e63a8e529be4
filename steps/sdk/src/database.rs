//! Granted databases, opened by their name in the plan. URL and password stay in the host.

use crate::Failure;
use crate::bindings::pawl::step::database as host;
pub use crate::bindings::pawl::step::database::{Rows, Value};

/// One session with one granted database.
#[derive(Debug)]
#[must_use]
pub struct Connection(host::Connection);

/// An open transaction; dropping it without [`commit`](Transaction::commit) rolls it back.
#[derive(Debug)]
#[must_use = "a transaction that is dropped rolls back"]
pub struct Transaction(host::Transaction);

/// When a transaction takes its locks, by SQLite's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionMode {
    /// Locks at the first read or write.
    Deferred,
    /// Takes the write lock at once.
    Immediate,
    /// Takes the exclusive lock at once.
    Exclusive,
}

impl Connection {
    /// Opens the database that the plan grants under this name.
    ///
    /// # Errors
    /// Not granted, not found, or not reachable.
    pub fn open(name: &str) -> Result<Self, Failure> {
        host::Connection::open(name).map(Self).map_err(Failure::from)
    }

    /// Returns the name of the database engine, such as `sqlite`.
    #[must_use]
    pub fn engine(&self) -> String {
        self.0.engine()
    }

    /// Runs one statement that returns rows.
    ///
    /// # Errors
    /// The database's error.
    pub fn query(&self, sql: &str, parameters: &[Value]) -> Result<Rows, Failure> {
        self.0.query(sql, parameters).map_err(Failure::from)
    }

    /// Runs one statement and returns the number of affected rows.
    ///
    /// # Errors
    /// The database's error.
    pub fn execute(&self, sql: &str, parameters: &[Value]) -> Result<u64, Failure> {
        self.0.execute(sql, parameters).map_err(Failure::from)
    }

    /// Begins a transaction; a connection has at most one at a time.
    ///
    /// # Errors
    /// The database's error; transient when the database is locked.
    pub fn begin(&self, mode: TransactionMode) -> Result<Transaction, Failure> {
        let mode = match mode {
            TransactionMode::Deferred => "deferred",
            TransactionMode::Immediate => "immediate",
            TransactionMode::Exclusive => "exclusive",
        };
        self.0.begin(mode).map(Transaction).map_err(Failure::from)
    }
}

impl Transaction {
    /// Runs one statement that returns rows.
    ///
    /// # Errors
    /// The database's error.
    pub fn query(&self, sql: &str, parameters: &[Value]) -> Result<Rows, Failure> {
        self.0.query(sql, parameters).map_err(Failure::from)
    }

    /// Runs one statement and returns the number of affected rows.
    ///
    /// # Errors
    /// The database's error.
    pub fn execute(&self, sql: &str, parameters: &[Value]) -> Result<u64, Failure> {
        self.0.execute(sql, parameters).map_err(Failure::from)
    }

    /// Runs several statements from one text.
    ///
    /// # Errors
    /// The database's error; the details give `line` and `column` in the text, counted from 1.
    pub fn script(&self, sql: &str) -> Result<(), Failure> {
        self.0.script(sql).map_err(Failure::from)
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// The database's error; nothing is committed then.
    pub fn commit(self) -> Result<(), Failure> {
        host::Transaction::commit(self.0).map_err(Failure::from)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}
