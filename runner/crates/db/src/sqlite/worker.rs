//! The thread that owns the connection: it opens the database, executes jobs in order, rolls back the rest, and closes
//! it.
//!
//! Invariant: while the caller believes a transaction is open, no statement runs outside it. SQLite may roll it back by
//! itself; then the remaining statements are refused.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, types::ValueRef};

use super::{
    MAX_RESULT_BYTES, MAX_RESULT_ROWS, SqlRows, SqlValue, TransactionMode,
    authorizer::SqliteAuthorizer,
    control::{SqliteCall, SqliteCallControl},
    error::{SqlPosition, SqliteError, SqliteFault},
    script_split::{ScriptStatement, script_statements},
};
use plan::DirAccess;

/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of SQLite's VM instructions between checks for a cancelled call: about 20 µs.
const PROGRESS_INSTRUCTIONS: i32 = 1000;

/// The state of the transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SqliteTransactionState {
    None,
    Open,
    /// It was rolled back, and the caller does not know yet.
    Lost,
}

/// The connection and its transaction.
pub(super) struct SqliteWorker {
    connection: Connection,
    authorizer: Arc<SqliteAuthorizer>,
    control: Arc<SqliteCallControl>,
    transaction: SqliteTransactionState,
}

impl SqliteWorker {
    /// Opens the database and checks that it is one.
    pub(super) fn open(path: &Path, access: DirAccess, control: &Arc<SqliteCallControl>) -> Result<Self, SqliteError> {
        if !path.is_absolute() {
            return Err(SqliteFault::RelativePath(path.to_owned()).into());
        }
        // A reader also opens it for writing where possible, and is then restricted to queries, because only a writer
        // can roll back what a killed process left. It never creates the file.
        let (flags, settings) = match access {
            DirAccess::ReadOnly if rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_err() => {
                (OpenFlags::SQLITE_OPEN_READ_ONLY, "")
            }
            DirAccess::ReadOnly => (OpenFlags::SQLITE_OPEN_READ_WRITE, "PRAGMA query_only = ON"),
            DirAccess::ReadWrite => (OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE, ""),
        };
        Self::open_with(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX, settings, control).map_err(|error| {
            let missing = match access {
                DirAccess::ReadOnly => Some(path),
                DirAccess::ReadWrite => path.parent(),
            };
            match (&error, missing) {
                (rusqlite::Error::SqliteFailure(failure, _), Some(missing))
                    if failure.code == ErrorCode::CannotOpen && !missing.exists() =>
                {
                    SqliteFault::FileMissing(missing.to_owned()).into()
                }
                _ => error.into(),
            }
        })
    }

    fn open_with(
        path: &Path,
        flags: OpenFlags,
        settings: &str,
        control: &Arc<SqliteCallControl>,
    ) -> rusqlite::Result<Self> {
        let mut connection = Connection::open_with_flags(path, flags)?;
        control.set_interrupt_handle(connection.get_interrupt_handle());
        let call_control = Arc::clone(control);
        connection.progress_handler(PROGRESS_INSTRUCTIONS, Some(move || call_control.is_cancelled()))?;
        let asked = Arc::clone(control);
        let mut since = Instant::now();
        connection.busy_handler(Some(move |waits: i32| {
            if waits == 0 {
                since = Instant::now();
            }
            let keeps_waiting = since.elapsed() < BUSY_TIMEOUT && !asked.is_cancelled();
            if keeps_waiting {
                std::thread::sleep(Duration::from_millis(u64::from(waits.unsigned_abs()).clamp(1, 20)));
            }
            keeps_waiting
        }))?;
        let authorizer = SqliteAuthorizer::install(&mut connection)?;
        // The limit is per process: without it, an endless sort would use all of the machine's memory.
        // Reading the schema version opens the file, so an unreadable file or another format fails here.
        authorizer.execute_as_host(
            &connection,
            "PRAGMA hard_heap_limit = 268435456; PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA schema_version",
        )?;
        authorizer.execute_as_host(&connection, settings)?;
        Ok(Self { connection, authorizer, control: Arc::clone(control), transaction: SqliteTransactionState::None })
    }

    /// Executes jobs until the session is dropped.
    pub(super) fn serve(mut self, calls: &mpsc::Receiver<SqliteCall>) {
        self.control.set_running(None);
        for job in calls {
            let SqliteCall { cancelled: given_up, work } = job;
            self.control.set_running(Some(Arc::clone(&given_up)));
            if !self.control.is_cancelled() {
                work(&mut self);
            }
            self.control.set_running(None);
        }
        self.abandon();
    }

    /// Runs one statement and returns its rows.
    pub(super) fn query(&mut self, sql: &str, parameters: &[SqlValue]) -> Result<SqlRows, SqliteError> {
        self.run_single_statement(sql, parameters, |statement, _| {
            let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
            let mut result = SqlRows { columns, rows: Vec::new() };
            let mut bytes = 0;
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                if result.rows.len() == MAX_RESULT_ROWS {
                    return Err(SqliteFault::TooManyRows.into());
                }
                let mut values = Vec::with_capacity(result.columns.len());
                for column in 0..result.columns.len() {
                    let value = row.get_ref(column)?;
                    bytes += value_bytes(value);
                    if bytes > MAX_RESULT_BYTES {
                        return Err(SqliteFault::ResultTooLarge.into());
                    }
                    values.push(SqlValue::from(value));
                }
                result.rows.push(values);
            }
            Ok(result)
        })
    }

    /// Runs one statement to its end and returns the number of rows that it changed itself, without triggers.
    pub(super) fn execute(&mut self, sql: &str, parameters: &[SqlValue]) -> Result<u64, SqliteError> {
        self.run_single_statement(sql, parameters, |statement, connection| {
            let before = connection.total_changes();
            run_to_end(statement)?;
            // SQLite keeps the count of the last statement that changed rows.
            Ok(if connection.total_changes() == before { 0 } else { connection.changes() })
        })
    }

    /// Runs all statements of a text.
    pub(super) fn run_script(&mut self, text: &str) -> Result<(), SqliteError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        refuse_nul(text)?;
        for piece in script_statements(text) {
            self.run_statement(text, piece, |statement, _| match statement.parameter_count() {
                0 => Ok(run_to_end(statement)?),
                expected => Err(SqliteFault::ParameterCount { expected, given: 0 }.into()),
            })?;
            if self.control.is_cancelled() {
                return Err(SqliteFault::Interrupted.into());
            }
        }
        Ok(())
    }

    /// Begins the transaction.
    pub(super) fn begin(&mut self, mode: TransactionMode) -> Result<(), SqliteError> {
        if self.transaction == SqliteTransactionState::Open {
            return Err(SqliteFault::TransactionOpen.into());
        }
        self.authorizer.execute_as_host(
            &self.connection,
            match mode {
                TransactionMode::Deferred => "BEGIN DEFERRED",
                TransactionMode::Immediate => "BEGIN IMMEDIATE",
                TransactionMode::Exclusive => "BEGIN EXCLUSIVE",
            },
        )?;
        self.set_transaction(SqliteTransactionState::Open);
        Ok(())
    }

    /// Commits it. After an error, nothing of it stays.
    pub(super) fn commit(&mut self) -> Result<(), SqliteError> {
        self.require_transaction_intact()?;
        if self.transaction == SqliteTransactionState::None {
            return Err(SqliteFault::NoTransaction.into());
        }
        let outcome = self.authorizer.execute_as_host(&self.connection, "COMMIT");
        if outcome.is_err() {
            self.rollback()?;
        }
        self.set_transaction(SqliteTransactionState::None);
        Ok(outcome?)
    }

    /// Rolls it back, if one is open.
    pub(super) fn rollback(&mut self) -> Result<(), SqliteError> {
        let rolled_back = if self.connection.is_autocommit() {
            Ok(())
        } else {
            self.authorizer.execute_as_host(&self.connection, "ROLLBACK")
        };
        self.set_transaction(SqliteTransactionState::None);
        Ok(rolled_back?)
    }

    /// Rolls back because the caller is gone.
    pub(super) fn abandon(&mut self) {
        let open = self.transaction == SqliteTransactionState::Open;
        // If the rollback fails, closing the connection or the next opening of the database completes it.
        if self.rollback().is_err() || open {
            self.set_transaction(SqliteTransactionState::Lost);
        }
    }

    fn run_single_statement<T>(
        &mut self,
        sql: &str,
        parameters: &[SqlValue],
        work: impl FnOnce(&mut Statement<'_>, &Connection) -> Result<T, SqliteError>,
    ) -> Result<T, SqliteError> {
        refuse_nul(sql)?;
        let mut found = script_statements(sql);
        let (Some(piece), None) = (found.next(), found.next()) else {
            return Err(SqliteFault::NotOneStatement.into());
        };
        self.run_statement(sql, piece, |statement, connection| {
            if statement.parameter_count() != parameters.len() {
                let expected = statement.parameter_count();
                return Err(SqliteFault::ParameterCount { expected, given: parameters.len() }.into());
            }
            for (at, value) in parameters.iter().enumerate() {
                statement.raw_bind_parameter(at + 1, value)?;
            }
            work(statement, connection)
        })
    }

    /// Compiles one statement of `whole` and runs `work` with it. An error gets its position and, for a denial, the
    /// reason.
    fn run_statement<T>(
        &mut self,
        whole: &str,
        piece: ScriptStatement<'_>,
        work: impl FnOnce(&mut Statement<'_>, &Connection) -> Result<T, SqliteError>,
    ) -> Result<T, SqliteError> {
        self.require_transaction_intact()?;
        let prepared = self.connection.prepare(piece.text);
        let outcome = match prepared {
            Ok(mut statement) => work(&mut statement, &self.connection),
            Err(error) => Err(SqliteError::at_statement(error, whole, piece.start, piece.text.len())),
        };
        let denial = self.authorizer.take_denial();
        outcome.map_err(|error| SqliteError {
            fault: denial.map_or(error.fault, SqliteFault::Denied),
            position: error.position.or_else(|| Some(SqlPosition::at(whole, piece.start))),
        })
    }

    /// Refuses to continue when the transaction that the caller relies on is gone.
    fn require_transaction_intact(&mut self) -> Result<(), SqliteError> {
        if self.transaction == SqliteTransactionState::Open && self.connection.is_autocommit() {
            self.set_transaction(SqliteTransactionState::Lost);
        }
        match self.transaction {
            SqliteTransactionState::None | SqliteTransactionState::Open => Ok(()),
            SqliteTransactionState::Lost => Err(SqliteFault::TransactionLost.into()),
        }
    }

    fn set_transaction(&mut self, transaction: SqliteTransactionState) {
        self.transaction = transaction;
        self.authorizer.set_in_transaction(transaction == SqliteTransactionState::Open);
    }
}

fn run_to_end(statement: &mut Statement<'_>) -> rusqlite::Result<()> {
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    Ok(())
}

fn refuse_nul(text: &str) -> Result<(), SqliteError> {
    match text.find('\0') {
        None => Ok(()),
        Some(at) => Err(SqliteError { fault: SqliteFault::NulCharacter, position: Some(SqlPosition::at(text, at)) }),
    }
}

/// The size of a value in a result: its bytes plus 16.
fn value_bytes(value: ValueRef<'_>) -> usize {
    16 + match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
    }
}
