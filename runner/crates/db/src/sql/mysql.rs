//! A session with MariaDB or MySQL.
//!
//! Invariants: as of every session ([`super`]); the connection of a call that is given up is closed, and killed on the server
//! by another one, so that its statement and its locks end. Texts go one statement at a time where the server would go on
//! behind an error. Deliberately absent: the list of authorities that the driver brings along.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use mysql_async::{Conn, Error, Opts, OptsBuilder, Params, SslOpts, consts::ColumnType, prelude::Queryable};
use tokio::sync::Mutex;

use super::{Engine, Kind, Position, SqlFault, TextRow, ends_transaction, hex, keeps_transaction, tls};
use crate::sqlite::{MAX_BYTES, MAX_ROWS, Rows, Value};
use hostio::blocking::Working;
use plan::{Access, Listens, ServerUrl, Tls};

/// What every session says first. DDL must not queue for hours before everybody else.
const SETTINGS: &str =
    "SET SESSION lock_wait_timeout = 2, SESSION innodb_lock_wait_timeout = 2, SESSION autocommit = 1";

/// A session.
pub struct Session {
    /// Out of its place while a call works with it; it does not come back from one that was given up.
    connection: Mutex<Option<Conn>>,
    id: u32,
    options: Opts,
    access: Access,
    /// A transaction is to be rolled back before the next call.
    to_roll_back: AtomicBool,
}

impl Session {
    pub(super) async fn open(url: &ServerUrl, access: Access) -> Result<Self, SqlFault> {
        let (connection, options) = match url.tls {
            // The driver has no way to take TLS only where it is offered.
            Tls::Prefer if matches!(url.listens, Listens::Tcp(..)) => match connect(url, true).await {
                Err(error) if !matches!(error, Error::Server(_)) => connect(url, false).await,
                outcome => outcome,
            },
            Tls::Prefer | Tls::Disable => connect(url, false).await,
            Tls::Require | Tls::VerifyCa | Tls::VerifyFull => connect(url, true).await,
        }
        .map_err(fault)?;
        let session = Self {
            id: connection.id(),
            connection: Mutex::new(Some(connection)),
            options,
            access,
            to_roll_back: AtomicBool::new(false),
        };
        session.run(SETTINGS).await?;
        Ok(session)
    }

    pub(super) async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Rows, SqlFault> {
        refuse_control(sql)?;
        self.reading(self.with(async |connection| {
            let mut result = connection.exec_iter(sql, parameters_of(parameters)).await?;
            let columns = result.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
            let kinds: Vec<ColumnType> = result.columns_ref().iter().map(mysql_async::Column::column_type).collect();
            let binary: Vec<bool> = result.columns_ref().iter().map(|column| column.character_set() == 63).collect();
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while let Some(row) = result.next().await? {
                if rows.len() == MAX_ROWS {
                    return Ok(Err(SqlFault::new(Kind::Limit, format!("the result has more than {MAX_ROWS} rows"))));
                }
                let mut values = Vec::new();
                for (index, value) in row.unwrap().into_iter().enumerate() {
                    bytes += 16
                        + match &value {
                            mysql_async::Value::Bytes(bytes) => bytes.len(),
                            _ => 0,
                        };
                    values.push(value_of(value, kinds[index], binary[index]));
                }
                if bytes > MAX_BYTES {
                    return Ok(Err(SqlFault::new(Kind::Limit, format!("the result is larger than {MAX_BYTES} bytes"))));
                }
                rows.push(values);
            }
            drop(result);
            Ok(Ok(Rows { columns, rows }))
        }))
        .await?
    }

    pub(super) async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<u64, SqlFault> {
        refuse_control(sql)?;
        self.reading(self.with(async |connection| {
            connection.exec_drop(sql, parameters_of(parameters)).await?;
            Ok(connection.affected_rows())
        }))
        .await
    }

    pub(super) async fn script(&self, sql: &str) -> Result<(), SqlFault> {
        let statements = crate::migrate::statements(Engine::Mysql, sql)?;
        for statement in &statements {
            refuse_control(&sql[statement.clone()])?;
        }
        self.reading(async {
            for statement in statements {
                let text = &sql[statement.clone()];
                self.run(text).await.map_err(|fault| fault.shifted(sql, statement.start))?;
            }
            Ok(())
        })
        .await
    }

    /// Runs work inside a transaction that can't write, if this is a reader.
    async fn reading<T>(&self, work: impl Future<Output = Result<T, SqlFault>>) -> Result<T, SqlFault> {
        if self.access == Access::ReadWrite {
            return work.await;
        }
        self.run("START TRANSACTION READ ONLY").await?;
        let outcome = work.await;
        self.run("ROLLBACK").await?;
        outcome
    }

    pub(super) async fn ask(&self, sql: &str) -> Result<Vec<TextRow>, SqlFault> {
        let rows: Vec<mysql_async::Row> = self.with(async |connection| connection.query(sql).await).await?;
        let text = |value: mysql_async::Value| match value {
            mysql_async::Value::NULL => None,
            mysql_async::Value::Bytes(bytes) => {
                Some(String::from_utf8(bytes).unwrap_or_else(|error| hex(error.as_bytes())))
            }
            other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
        };
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
    }

    pub(super) async fn run(&self, sql: &str) -> Result<(), SqlFault> {
        self.with(async |connection| connection.query_drop(sql).await).await.map_err(|fault| fault.placed(sql))
    }

    pub(super) async fn begin(&self) -> Result<(), SqlFault> {
        self.run(match self.access {
            Access::ReadOnly => "START TRANSACTION READ ONLY",
            Access::ReadWrite => "START TRANSACTION",
        })
        .await
    }

    pub(super) async fn commit(&self) -> Result<(), SqlFault> {
        self.run("COMMIT").await
    }

    pub(super) fn rollback(&self) {
        self.to_roll_back.store(true, Ordering::Relaxed);
    }

    async fn with<T>(&self, work: impl AsyncFnOnce(&mut Conn) -> mysql_async::Result<T>) -> Result<T, SqlFault> {
        let mut place = self.connection.lock().await;
        let Some(mut connection) = place.take() else { return Err(SqlFault::lost("it was closed")) };
        let mut guard = Guard { session: self, armed: true };
        let outcome = async {
            if self.to_roll_back.swap(false, Ordering::Relaxed) {
                connection.query_drop("ROLLBACK").await?;
            }
            work(&mut connection).await
        };
        let outcome = outcome.await;
        guard.armed = false;
        match outcome {
            Err(error) if !matches!(error, Error::Server(_)) && connection.is_disconnected() => Err(fault(error)),
            outcome => {
                *place = Some(connection);
                outcome.map_err(fault)
            }
        }
    }
}

/// Has the server end a call's connection when the call was dropped before the answer came.
struct Guard<'a> {
    session: &'a Session,
    armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.armed || std::thread::panicking() {
            return;
        }
        let (options, id) = (self.session.options.clone(), self.session.id);
        let working = Working::begin();
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

impl SqlFault {
    /// With the line that the server's message tells, or the start of the text.
    fn placed(mut self, sql: &str) -> Self {
        let line = self.message.rsplit_once(" at line ").and_then(|(_, line)| line.trim().parse::<u64>().ok());
        if self.code.is_some() && self.position.is_none() {
            self.position = Some(line.map_or_else(|| Position::at(sql, 0), |line| Position { line, column: 1 }));
        }
        self
    }

    /// The same fault, of a text that begins at byte `start` of `whole`.
    pub fn shifted(mut self, whole: &str, start: usize) -> Self {
        let base = Position::at(whole, start);
        self.position = Some(match self.position {
            Some(Position { line: 1, column }) => Position { line: base.line, column: base.column + column - 1 },
            Some(Position { line, column }) => Position { line: base.line + line - 1, column },
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
    match &url.listens {
        Listens::Tcp(host, port) => options = options.ip_or_hostname(host).tcp_port(*port),
        Listens::Unix(file) => options = options.socket(Some(file.to_string_lossy())),
    }
    if with_tls {
        let verifies = tls::verifies(url);
        let mut ssl = SslOpts::default()
            .with_danger_accept_invalid_certs(!verifies)
            .with_danger_skip_domain_validation(url.tls != Tls::VerifyFull);
        if verifies {
            let found = tls::authorities(url.authorities.as_deref());
            let found = found.map_err(|fault| Error::Io(std::io::Error::other(fault.message).into()))?;
            let roots = found.into_iter().map(|certificate| certificate.as_ref().to_vec().into()).collect();
            ssl = ssl.with_disable_built_in_roots(true).with_root_certs(roots);
        }
        options = options.ssl_opts(Some(ssl));
    }
    let options = Opts::from(options);
    Ok((Conn::new(options.clone()).await?, options))
}

fn refuse_control(sql: &str) -> Result<(), SqlFault> {
    match ends_transaction(crate::migrate::skip_blank(Engine::Mysql, sql)) {
        Some(word) => Err(keeps_transaction(word)),
        None => Ok(()),
    }
}

fn parameters_of(values: Vec<Value>) -> Params {
    let one = |value| match value {
        Value::Null => mysql_async::Value::NULL,
        Value::Boolean(value) => mysql_async::Value::Int(value.into()),
        Value::Integer(value) => mysql_async::Value::Int(value),
        Value::Real(value) => mysql_async::Value::Double(value),
        Value::Text(text) => mysql_async::Value::Bytes(text.into_bytes()),
        Value::Blob(bytes) => mysql_async::Value::Bytes(bytes),
    };
    if values.is_empty() { Params::Empty } else { Params::Positional(values.into_iter().map(one).collect()) }
}

fn value_of(value: mysql_async::Value, kind: ColumnType, binary: bool) -> Value {
    match value {
        mysql_async::Value::NULL => Value::Null,
        mysql_async::Value::Int(number) => Value::Integer(number),
        mysql_async::Value::UInt(number) => {
            i64::try_from(number).map_or_else(|_| Value::Text(number.to_string()), Value::Integer)
        }
        mysql_async::Value::Float(number) => Value::Real(number.into()),
        mysql_async::Value::Double(number) => Value::Real(number),
        mysql_async::Value::Bytes(bytes) if binary && is_text_or_blob(kind) => Value::Blob(bytes),
        mysql_async::Value::Bytes(bytes) => {
            String::from_utf8(bytes).map_or_else(|error| Value::Blob(error.into_bytes()), Value::Text)
        }
        other => Value::Text(other.as_sql(true).trim_matches('\'').to_owned()),
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

fn fault(error: Error) -> SqlFault {
    let Error::Server(server) = error else {
        return match error {
            Error::Io(mysql_async::IoError::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                SqlFault::new(Kind::Transient, "the database server can't be reached: connection refused")
            }
            Error::Io(mysql_async::IoError::Io(error)) => SqlFault::of_stream(&error),
            Error::Io(error) => SqlFault::new(Kind::Permanent, format!("TLS: {error}")),
            Error::Driver(mysql_async::DriverError::ConnectionClosed) => SqlFault::lost("the server closed it"),
            // The driver's words for options and URLs could repeat what is in them.
            Error::Url(_) => SqlFault::new(Kind::InvalidConfig, "the URL can't be used"),
            other => SqlFault::new(Kind::Permanent, other.to_string()),
        };
    };
    let kind = match server.code {
        1205 | 1213 | 1040 | 1053 | 1021 | 1927 => Kind::Transient,
        1062 | 1216 | 1217 | 1451 | 1452 | 1048 | 3819 | 4025 => Kind::Conflict,
        1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1792 => Kind::Denied,
        1049 => Kind::NotFound,
        _ => Kind::Permanent,
    };
    let lost = matches!(server.code, 1053 | 1927 | 1159 | 1161);
    let found = SqlFault::new(kind, server.message);
    SqlFault { code: Some(server.code.to_string()), lost, ..found }
}
