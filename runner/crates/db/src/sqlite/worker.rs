//! The thread that owns the connection: opens it, does one job after the other, rolls back what is left and closes it.
//!
//! Invariant: while a transaction is open no statement runs outside of it. SQLite may roll one back by itself; the statements
//! that were meant to be part of it are refused from then on.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, types::ValueRef};

use super::{
    MAX_BYTES, MAX_ROWS, Mode, Rows, Value,
    confine::Confinement,
    control::{Control, Job},
    error::{Fault, Position, SqlError},
    script::{Piece, pieces},
};
use plan::Access;

/// How long a statement waits for another process's lock.
const BUSY: Duration = Duration::from_secs(5);
/// After how many instructions of SQLite's machine a running statement looks whether it was given up: about 20 µs.
const PROGRESS: i32 = 1000;

/// The state of the one transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    Open,
    /// Rolled back, and the caller has not been told or has not reacted.
    Lost,
}

/// The connection and its transaction.
pub(super) struct Worker {
    connection: Connection,
    confinement: Arc<Confinement>,
    control: Arc<Control>,
    transaction: Transaction,
}

impl Worker {
    /// Opens the database and sees that it is one.
    pub(super) fn open(path: &Path, access: Access, control: &Arc<Control>) -> Result<Self, SqlError> {
        if !path.is_absolute() {
            return Err(Fault::Relative(path.to_owned()).into());
        }
        // A reader opens for writing too, where it may, and is then held to queries: what a killed writer left can only be
        // rolled back by one who may write. It never makes the file.
        let (flags, settings) = match access {
            Access::ReadOnly if rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_err() => {
                (OpenFlags::SQLITE_OPEN_READ_ONLY, "")
            }
            Access::ReadOnly => (OpenFlags::SQLITE_OPEN_READ_WRITE, "PRAGMA query_only = ON"),
            Access::ReadWrite => (OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE, ""),
        };
        Self::open_with(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX, settings, control).map_err(|error| {
            let missing = match access {
                Access::ReadOnly => Some(path),
                Access::ReadWrite => path.parent(),
            };
            match (&error, missing) {
                (rusqlite::Error::SqliteFailure(failure, _), Some(missing))
                    if failure.code == ErrorCode::CannotOpen && !missing.exists() =>
                {
                    Fault::Missing(missing.to_owned()).into()
                }
                _ => error.into(),
            }
        })
    }

    fn open_with(path: &Path, flags: OpenFlags, settings: &str, control: &Arc<Control>) -> rusqlite::Result<Self> {
        let mut connection = Connection::open_with_flags(path, flags)?;
        control.reach(connection.get_interrupt_handle());
        let asked = Arc::clone(control);
        connection.progress_handler(PROGRESS, Some(move || asked.given_up()))?;
        let asked = Arc::clone(control);
        let mut since = Instant::now();
        connection.busy_handler(Some(move |waits: i32| {
            if waits == 0 {
                since = Instant::now();
            }
            let goes_on = since.elapsed() < BUSY && !asked.given_up();
            if goes_on {
                std::thread::sleep(Duration::from_millis(u64::from(waits.unsigned_abs()).clamp(1, 20)));
            }
            goes_on
        }))?;
        let confinement = Confinement::impose(&mut connection)?;
        // The limit is of this process: without one, a sort without end would take all of the machine's memory.
        // Reading the schema's version opens the file: what can't be read or is no database fails here.
        confinement.as_host(
            &connection,
            "PRAGMA hard_heap_limit = 268435456; PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA schema_version",
        )?;
        confinement.as_host(&connection, settings)?;
        Ok(Self { connection, confinement, control: Arc::clone(control), transaction: Transaction::None })
    }

    /// Works until the session is dropped.
    pub(super) fn serve(mut self, jobs: &mpsc::Receiver<Job>) {
        self.control.set_running(None);
        for job in jobs {
            let Job { given_up, work } = job;
            self.control.set_running(Some(Arc::clone(&given_up)));
            if !self.control.given_up() {
                work(&mut self);
            }
            self.control.set_running(None);
        }
        self.abandon();
    }

    /// Runs one statement and takes its rows.
    pub(super) fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Rows, SqlError> {
        self.one(sql, parameters, |statement, _| {
            let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
            let mut taken = Rows { columns, rows: Vec::new() };
            let mut bytes = 0;
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                if taken.rows.len() == MAX_ROWS {
                    return Err(Fault::TooManyRows.into());
                }
                let mut values = Vec::with_capacity(taken.columns.len());
                for column in 0..taken.columns.len() {
                    let value = row.get_ref(column)?;
                    bytes += weight(value);
                    if bytes > MAX_BYTES {
                        return Err(Fault::TooLarge.into());
                    }
                    values.push(Value::from(value));
                }
                taken.rows.push(values);
            }
            Ok(taken)
        })
    }

    /// Runs one statement to its end and counts the rows it changed itself (not those of triggers).
    pub(super) fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, SqlError> {
        self.one(sql, parameters, |statement, connection| {
            let before = connection.total_changes();
            finish(statement)?;
            // SQLite keeps the count of the last statement that changed rows.
            Ok(if connection.total_changes() == before { 0 } else { connection.changes() })
        })
    }

    /// Runs all statements of a text.
    pub(super) fn script(&mut self, text: &str) -> Result<(), SqlError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        refuse_nul(text)?;
        for piece in pieces(text) {
            self.step(text, piece, |statement, _| match statement.parameter_count() {
                0 => Ok(finish(statement)?),
                expected => Err(Fault::Parameters { expected, given: 0 }.into()),
            })?;
            if self.control.given_up() {
                return Err(Fault::Interrupted.into());
            }
        }
        Ok(())
    }

    /// Begins the transaction.
    pub(super) fn begin(&mut self, mode: Mode) -> Result<(), SqlError> {
        if self.transaction == Transaction::Open {
            return Err(Fault::TransactionOpen.into());
        }
        self.confinement.as_host(
            &self.connection,
            match mode {
                Mode::Deferred => "BEGIN DEFERRED",
                Mode::Immediate => "BEGIN IMMEDIATE",
                Mode::Exclusive => "BEGIN EXCLUSIVE",
            },
        )?;
        self.set(Transaction::Open);
        Ok(())
    }

    /// Commits it. When that fails nothing of it stays.
    pub(super) fn commit(&mut self) -> Result<(), SqlError> {
        self.require_kept()?;
        if self.transaction == Transaction::None {
            return Err(Fault::NoTransaction.into());
        }
        let outcome = self.confinement.as_host(&self.connection, "COMMIT");
        if outcome.is_err() {
            self.rollback()?;
        }
        self.set(Transaction::None);
        Ok(outcome?)
    }

    /// Rolls it back, if there is one.
    pub(super) fn rollback(&mut self) -> Result<(), SqlError> {
        let rolled_back = if self.connection.is_autocommit() {
            Ok(())
        } else {
            self.confinement.as_host(&self.connection, "ROLLBACK")
        };
        self.set(Transaction::None);
        Ok(rolled_back?)
    }

    /// Rolls back since nobody waits for the outcome any more.
    pub(super) fn abandon(&mut self) {
        let open = self.transaction == Transaction::Open;
        // A rollback that fails is made up for by closing the connection, or by the next one who opens the database.
        if self.rollback().is_err() || open {
            self.set(Transaction::Lost);
        }
    }

    fn one<T>(
        &mut self,
        sql: &str,
        parameters: &[Value],
        work: impl FnOnce(&mut Statement<'_>, &Connection) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        refuse_nul(sql)?;
        let mut found = pieces(sql);
        let (Some(piece), None) = (found.next(), found.next()) else {
            return Err(Fault::NotOneStatement.into());
        };
        self.step(sql, piece, |statement, connection| {
            if statement.parameter_count() != parameters.len() {
                let expected = statement.parameter_count();
                return Err(Fault::Parameters { expected, given: parameters.len() }.into());
            }
            for (at, value) in parameters.iter().enumerate() {
                statement.raw_bind_parameter(at + 1, value)?;
            }
            work(statement, connection)
        })
    }

    /// Compiles one statement of `whole` and works with it; an error gets its place and, if it was a denial, its reason.
    fn step<T>(
        &mut self,
        whole: &str,
        piece: Piece<'_>,
        work: impl FnOnce(&mut Statement<'_>, &Connection) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.require_kept()?;
        let prepared = self.connection.prepare(piece.text);
        let outcome = match prepared {
            Ok(mut statement) => work(&mut statement, &self.connection),
            Err(error) => Err(SqlError::locate(error, whole, piece.start, piece.text.len())),
        };
        let denial = self.confinement.take_denial();
        outcome.map_err(|error| SqlError {
            fault: denial.map_or(error.fault, Fault::Denied),
            position: error.position.or_else(|| Some(Position::at(whole, piece.start))),
        })
    }

    /// Refuses to go on when the transaction that the caller believes open is gone.
    fn require_kept(&mut self) -> Result<(), SqlError> {
        if self.transaction == Transaction::Open && self.connection.is_autocommit() {
            self.set(Transaction::Lost);
        }
        match self.transaction {
            Transaction::None | Transaction::Open => Ok(()),
            Transaction::Lost => Err(Fault::TransactionLost.into()),
        }
    }

    fn set(&mut self, transaction: Transaction) {
        self.transaction = transaction;
        self.confinement.set_in_transaction(transaction == Transaction::Open);
    }
}

fn finish(statement: &mut Statement<'_>) -> rusqlite::Result<()> {
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    Ok(())
}

fn refuse_nul(text: &str) -> Result<(), SqlError> {
    match text.find('\0') {
        None => Ok(()),
        Some(at) => Err(SqlError { fault: Fault::Nul, position: Some(Position::at(text, at)) }),
    }
}

/// What a value counts for in the size of a result: its bytes, and 16 for being there.
fn weight(value: ValueRef<'_>) -> usize {
    16 + match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
    }
}
