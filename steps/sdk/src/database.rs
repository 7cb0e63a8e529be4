//! Granted databases, by the name in the plan. URL and password stay in the host.

use crate::Failure;
use crate::bindings::pawl::step::database as host;
pub use crate::bindings::pawl::step::database::{Rows, Value};

/// One session with one database.
#[derive(Debug)]
#[must_use]
pub struct Connection(host::Connection);

/// An open transaction; it rolls back when dropped without [`commit`](Transaction::commit).
#[derive(Debug)]
#[must_use = "a transaction that is dropped rolls back"]
pub struct Transaction(host::Transaction);

/// How a transaction locks, in SQLite's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionMode {
    /// At its first read or write.
    Deferred,
    /// For writing, at once.
    Immediate,
    /// For everything, at once.
    Exclusive,
}

impl Connection {
    /// Opens the database that the plan grants under this name.
    ///
    /// # Errors
    /// Not granted, not there, not reachable.
    pub fn open(name: &str) -> Result<Self, Failure> {
        host::Connection::open(name).map(Self).map_err(Failure::from)
    }

    /// Which database it is: `sqlite`.
    #[must_use]
    pub fn engine(&self) -> String {
        self.0.engine()
    }

    /// Runs one statement that returns rows.
    ///
    /// # Errors
    /// The database's.
    pub fn query(&self, sql: &str, parameters: &[Value]) -> Result<Rows, Failure> {
        self.0.query(sql, parameters).map_err(Failure::from)
    }

    /// Runs one statement; returns the number of rows affected.
    ///
    /// # Errors
    /// The database's.
    pub fn execute(&self, sql: &str, parameters: &[Value]) -> Result<u64, Failure> {
        self.0.execute(sql, parameters).map_err(Failure::from)
    }

    /// Begins a transaction; one at a time on a connection.
    ///
    /// # Errors
    /// The database's; transient when it is locked.
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
    /// The database's.
    pub fn query(&self, sql: &str, parameters: &[Value]) -> Result<Rows, Failure> {
        self.0.query(sql, parameters).map_err(Failure::from)
    }

    /// Runs one statement; returns the number of rows affected.
    ///
    /// # Errors
    /// The database's.
    pub fn execute(&self, sql: &str, parameters: &[Value]) -> Result<u64, Failure> {
        self.0.execute(sql, parameters).map_err(Failure::from)
    }

    /// Runs a text of several statements.
    ///
    /// # Errors
    /// The database's; the details give `line` and `column` in the text, from 1.
    pub fn script(&self, sql: &str) -> Result<(), Failure> {
        self.0.script(sql).map_err(Failure::from)
    }

    /// Keeps what was done.
    ///
    /// # Errors
    /// The database's; nothing is kept then.
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
