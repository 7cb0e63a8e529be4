//! A session with MariaDB or MySQL.
//!
//! Invariants: those of every session ([`super`]). When a call is cancelled, its connection is closed and a second
//! connection kills it on the server, so that its statement and its locks end. Statements of a text are sent one by
//! one, because the server would go on after an error. Deliberately absent: the driver's own list of certificate
//! authorities.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use contract::step::FailureKind;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Params, SslOpts, consts::ColumnType, prelude::Queryable};
use tokio::sync::Mutex;

use super::{SqlEngine, SqlPosition, SqlSessionError, TextRow, hex, refuse_transaction_control, tls};
use crate::sqlite::{MAX_RESULT_BYTES, MAX_RESULT_ROWS, SqlRows, SqlValue};
use hostio::blocking::BlockingTaskGuard;
use plan::{DirAccess, ServerEndpoint, ServerTlsMode, ServerUrl};

/// The first statement of every session. DDL must not queue for hours ahead of everybody else.
const SESSION_SETTINGS: &str =
    "SET SESSION lock_wait_timeout = 2, SESSION innodb_lock_wait_timeout = 2, SESSION autocommit = 1";

/// A session.
pub struct MysqlSession {
    /// `None` while a call uses it. A cancelled call never puts it back.
    connection_slot: Mutex<Option<Conn>>,
    connection_id: u32,
    options: Opts,
    access: DirAccess,
    /// Whether to roll back a transaction before the next call.
    rollback_pending: AtomicBool,
}

impl MysqlSession {
    pub(super) async fn open(url: &ServerUrl, access: DirAccess) -> Result<Self, SqlSessionError> {
        let (connection, options) = match url.tls {
            // The driver can't use TLS only where the server offers it.
            ServerTlsMode::Prefer if matches!(url.endpoint, ServerEndpoint::Tcp(..)) => {
                match connect(url, true).await {
                    Err(error) if !matches!(error, Error::Server(_)) => connect(url, false).await,
                    outcome => outcome,
                }
            }
            ServerTlsMode::Prefer | ServerTlsMode::Disable => connect(url, false).await,
            ServerTlsMode::Require | ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull => connect(url, true).await,
        }
        .map_err(mysql_error)?;
        let session = Self {
            connection_id: connection.id(),
            connection_slot: Mutex::new(Some(connection)),
            options,
            access,
            rollback_pending: AtomicBool::new(false),
        };
        session.run_batch(SESSION_SETTINGS).await?;
        Ok(session)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of the driver")]
    pub(super) async fn query(&self, sql: &str, parameters: Vec<SqlValue>) -> Result<SqlRows, SqlSessionError> {
        refuse_transaction_control(SqlEngine::Mysql, sql)?;
        self.enforce_read_only(self.with_connection(async |connection| {
            let mut result = connection.exec_iter(sql, to_mysql_params(parameters)).await?;
            let columns = result.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
            let kinds: Vec<ColumnType> = result.columns_ref().iter().map(mysql_async::Column::column_type).collect();
            let binary: Vec<bool> = result.columns_ref().iter().map(|column| column.character_set() == 63).collect();
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while let Some(row) = result.next().await? {
                if rows.len() == MAX_RESULT_ROWS {
                    return Ok(Err(SqlSessionError::new(
                        FailureKind::Limit,
                        format!("the result has more than {MAX_RESULT_ROWS} rows"),
                    )));
                }
                let mut values = Vec::new();
                for (index, value) in row.unwrap().into_iter().enumerate() {
                    bytes += 16
                        + match &value {
                            mysql_async::Value::Bytes(bytes) => bytes.len(),
                            _ => 0,
                        };
                    values.push(from_mysql_value(value, kinds[index], binary[index]));
                }
                if bytes > MAX_RESULT_BYTES {
                    return Ok(Err(SqlSessionError::new(
                        FailureKind::Limit,
                        format!("the result is larger than {MAX_RESULT_BYTES} bytes"),
                    )));
                }
                rows.push(values);
            }
            drop(result);
            Ok(Ok(SqlRows { columns, rows }))
        }))
        .await?
    }

    pub(super) async fn execute(&self, sql: &str, parameters: Vec<SqlValue>) -> Result<u64, SqlSessionError> {
        refuse_transaction_control(SqlEngine::Mysql, sql)?;
        self.enforce_read_only(self.with_connection(async |connection| {
            connection.exec_drop(sql, to_mysql_params(parameters)).await?;
            Ok(connection.affected_rows())
        }))
        .await
    }

    pub(super) async fn run_script(&self, sql: &str) -> Result<(), SqlSessionError> {
        let statements = crate::migrate::statement_ranges(SqlEngine::Mysql, sql)?;
        for statement in &statements {
            refuse_transaction_control(SqlEngine::Mysql, &sql[statement.clone()])?;
        }
        self.enforce_read_only(async {
            for statement in statements {
                let text = &sql[statement.clone()];
                self.run_batch(text).await.map_err(|fault| fault.shift_position(sql, statement.start))?;
            }
            Ok(())
        })
        .await
    }

    /// Runs work in a read-only transaction if this session is read-only.
    async fn enforce_read_only<T>(
        &self,
        work: impl Future<Output = Result<T, SqlSessionError>>,
    ) -> Result<T, SqlSessionError> {
        if self.access == DirAccess::ReadWrite {
            return work.await;
        }
        self.run_batch("START TRANSACTION READ ONLY").await?;
        let outcome = work.await;
        self.run_batch("ROLLBACK").await?;
        outcome
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of the driver")]
    pub(super) async fn query_text(&self, sql: &str) -> Result<Vec<TextRow>, SqlSessionError> {
        let rows: Vec<mysql_async::Row> = self.with_connection(async |connection| connection.query(sql).await).await?;
        let text = |value: mysql_async::Value| match value {
            mysql_async::Value::NULL => None,
            mysql_async::Value::Bytes(bytes) => {
                Some(String::from_utf8(bytes).unwrap_or_else(|error| hex(error.as_bytes())))
            }
            other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
        };
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
    }

    pub(super) async fn run_batch(&self, sql: &str) -> Result<(), SqlSessionError> {
        self.with_connection(async |connection| connection.query_drop(sql).await)
            .await
            .map_err(|fault| fault.with_position(sql))
    }

    pub(super) async fn begin(&self) -> Result<(), SqlSessionError> {
        self.run_batch(match self.access {
            DirAccess::ReadOnly => "START TRANSACTION READ ONLY",
            DirAccess::ReadWrite => "START TRANSACTION",
        })
        .await
    }

    pub(super) async fn commit(&self) -> Result<(), SqlSessionError> {
        self.run_batch("COMMIT").await
    }

    pub(super) fn rollback(&self) {
        self.rollback_pending.store(true, Ordering::Relaxed);
    }

    async fn with_connection<T>(
        &self,
        work: impl AsyncFnOnce(&mut Conn) -> mysql_async::Result<T>,
    ) -> Result<T, SqlSessionError> {
        let mut slot = self.connection_slot.lock().await;
        let Some(mut connection) = slot.take() else { return Err(SqlSessionError::lost("the session was closed")) };
        let mut guard = MysqlCallGuard { session: self, armed: true };
        let outcome = async {
            if self.rollback_pending.swap(false, Ordering::Relaxed) {
                connection.query_drop("ROLLBACK").await?;
            }
            work(&mut connection).await
        };
        let outcome = outcome.await;
        guard.armed = false;
        match outcome {
            Err(error) if !matches!(error, Error::Server(_)) && connection.is_disconnected() => Err(mysql_error(error)),
            outcome => {
                *slot = Some(connection);
                outcome.map_err(mysql_error)
            }
        }
    }
}

/// Kills the connection of a call on the server if the call was dropped before its reply.
struct MysqlCallGuard<'a> {
    session: &'a MysqlSession,
    armed: bool,
}

impl Drop for MysqlCallGuard<'_> {
    fn drop(&mut self) {
        if !self.armed || std::thread::panicking() {
            return;
        }
        let (options, id) = (self.session.options.clone(), self.session.connection_id);
        let working = BlockingTaskGuard::begin();
        tokio::spawn(async move {
            let request = async {
                if let Ok(mut connection) = Conn::new(options).await {
                    connection.query_drop(format!("KILL {id}")).await.ok();
                    connection.disconnect().await.ok();
                }
            };
            tokio::time::timeout(Duration::from_secs(1), request).await.ok();
            drop(working);
        });
    }
}

impl SqlSessionError {
    /// Adds the line from the server's message, or the start of the text.
    fn with_position(mut self, sql: &str) -> Self {
        let line = self.message.rsplit_once(" at line ").and_then(|(_, line)| line.trim().parse::<u64>().ok());
        if self.code.is_some() && self.position.is_none() {
            self.position = Some(line.map_or_else(|| SqlPosition::at(sql, 0), |line| SqlPosition { line, column: 1 }));
        }
        self
    }

    /// Moves an error's position from a text that begins at byte `start` of `whole`.
    pub fn shift_position(mut self, whole: &str, start: usize) -> Self {
        let base = SqlPosition::at(whole, start);
        self.position = Some(match self.position {
            Some(SqlPosition { line: 1, column }) => SqlPosition { line: base.line, column: base.column + column - 1 },
            Some(SqlPosition { line, column }) => SqlPosition { line: base.line + line - 1, column },
            None => base,
        });
        self
    }
}

async fn connect(url: &ServerUrl, with_tls: bool) -> mysql_async::Result<(Conn, Opts)> {
    let mut options = OptsBuilder::default()
        .user(url.user.as_deref())
        .pass(url.password.as_ref().map(contract::Secret::reveal))
        .db_name(Some(&url.name))
        .prefer_socket(false)
        .tcp_nodelay(true)
        .stmt_cache_size(0);
    match &url.endpoint {
        ServerEndpoint::Tcp(host, port) => options = options.ip_or_hostname(host).tcp_port(*port),
        ServerEndpoint::Unix(file) => options = options.socket(Some(file.to_string_lossy())),
    }
    if with_tls {
        let verifies = tls::verifies_certificate(url);
        let mut ssl = SslOpts::default()
            .with_danger_accept_invalid_certs(!verifies)
            .with_danger_skip_domain_validation(url.tls != ServerTlsMode::VerifyFull);
        if verifies {
            let found = tls::load_root_certs(url.ca_file.as_deref());
            let found = found.map_err(|fault| Error::Io(std::io::Error::other(fault.message).into()))?;
            let roots = found.into_iter().map(|certificate| certificate.as_ref().to_vec().into()).collect();
            ssl = ssl.with_disable_built_in_roots(true).with_root_certs(roots);
        }
        options = options.ssl_opts(Some(ssl));
    }
    let options = Opts::from(options);
    Ok((Conn::new(options.clone()).await?, options))
}

fn to_mysql_params(values: Vec<SqlValue>) -> Params {
    let one = |value| match value {
        SqlValue::Null => mysql_async::Value::NULL,
        SqlValue::Boolean(value) => mysql_async::Value::Int(value.into()),
        SqlValue::Integer(value) => mysql_async::Value::Int(value),
        SqlValue::Real(value) => mysql_async::Value::Double(value),
        SqlValue::Text(text) => mysql_async::Value::Bytes(text.into_bytes()),
        SqlValue::Blob(bytes) => mysql_async::Value::Bytes(bytes),
    };
    if values.is_empty() { Params::Empty } else { Params::Positional(values.into_iter().map(one).collect()) }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of the driver")]
fn from_mysql_value(value: mysql_async::Value, kind: ColumnType, binary: bool) -> SqlValue {
    match value {
        mysql_async::Value::NULL => SqlValue::Null,
        mysql_async::Value::Int(number) => SqlValue::Integer(number),
        mysql_async::Value::UInt(number) => {
            i64::try_from(number).map_or_else(|_| SqlValue::Text(number.to_string()), SqlValue::Integer)
        }
        mysql_async::Value::Float(number) => SqlValue::Real(number.into()),
        mysql_async::Value::Double(number) => SqlValue::Real(number),
        mysql_async::Value::Bytes(bytes) if binary && is_text_or_blob(kind) => SqlValue::Blob(bytes),
        mysql_async::Value::Bytes(bytes) => {
            String::from_utf8(bytes).map_or_else(|error| SqlValue::Blob(error.into_bytes()), SqlValue::Text)
        }
        other => SqlValue::Text(other.as_sql(true).trim_matches('\'').to_owned()),
    }
}

fn is_text_or_blob(kind: ColumnType) -> bool {
    use ColumnType::{
        MYSQL_TYPE_BLOB, MYSQL_TYPE_LONG_BLOB, MYSQL_TYPE_MEDIUM_BLOB, MYSQL_TYPE_STRING, MYSQL_TYPE_TINY_BLOB,
        MYSQL_TYPE_VAR_STRING, MYSQL_TYPE_VARCHAR,
    };
    [
        MYSQL_TYPE_BLOB,
        MYSQL_TYPE_TINY_BLOB,
        MYSQL_TYPE_MEDIUM_BLOB,
        MYSQL_TYPE_LONG_BLOB,
        MYSQL_TYPE_STRING,
        MYSQL_TYPE_VAR_STRING,
        MYSQL_TYPE_VARCHAR,
    ]
    .contains(&kind)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of the driver")]
fn mysql_error(error: Error) -> SqlSessionError {
    let Error::Server(server) = error else {
        return match error {
            Error::Io(mysql_async::IoError::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                SqlSessionError::new(FailureKind::Transient, "can't reach the database server: connection refused")
            }
            Error::Io(mysql_async::IoError::Io(error)) => SqlSessionError::from_io_error(&error),
            Error::Io(error) => SqlSessionError::new(FailureKind::Permanent, format!("TLS: {error}")),
            Error::Driver(mysql_async::DriverError::ConnectionClosed) => {
                SqlSessionError::lost("the server closed the connection")
            }
            // The driver's messages could quote options and URLs.
            Error::Url(_) => SqlSessionError::new(FailureKind::InvalidConfig, "the database URL is invalid"),
            other => SqlSessionError::new(FailureKind::Permanent, other.to_string()),
        };
    };
    let kind = match server.code {
        1205 | 1213 | 1040 | 1053 | 1021 | 1927 => FailureKind::Transient,
        1062 | 1216 | 1217 | 1451 | 1452 | 1048 | 3819 | 4025 => FailureKind::Conflict,
        1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1792 => FailureKind::Denied,
        1049 => FailureKind::NotFound,
        _ => FailureKind::Permanent,
    };
    let lost = matches!(server.code, 1053 | 1927 | 1159 | 1161);
    let found = SqlSessionError::new(kind, server.message);
    SqlSessionError { code: Some(server.code.to_string()), lost, ..found }
}
