//! A session with PostgreSQL.
//!
//! Invariants: a dropped call sends a cancel request and closes the socket, and so does a dropped session with a
//! running statement. The server checks every 250 ms whether the client is connected
//! (`client_connection_check_interval`), so a killed runner's locks are released. Deliberately absent: prepared
//! statements for migrations, because a pooler might lose them.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use contract::step::FailureKind;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    net::{TcpStream, UnixStream},
    task::AbortHandle,
};
use tokio_postgres::{
    AsyncMessage, CancelToken, Client, Config, NoTls, SimpleQueryMessage,
    config::SslMode,
    error::ErrorPosition,
    types::{FromSql, IsNull, ToSql, Type, private::BytesMut},
};

use super::{
    SqlEngine, SqlPosition, SqlSessionError, TextRow, refuse_transaction_control,
    tls::{PostgresTlsConnector, ServerStream},
};
use crate::sqlite::{MAX_RESULT_BYTES, MAX_RESULT_ROWS, SqlRows, SqlValue};
use hostio::blocking::BlockingTaskGuard;
use plan::{DirAccess, ServerEndpoint, ServerTlsMode, ServerUrl};

/// The first statement of every session. The connection check exists since version 14.
const SESSION_SETTINGS: &str = "SET client_encoding = 'UTF8'; \
    DO $$BEGIN PERFORM set_config('client_connection_check_interval', '250ms', false); EXCEPTION WHEN OTHERS THEN NULL; END$$";

/// A session.
pub struct PostgresSession {
    client: Client,
    connection_task: AbortHandle,
    cancel_token: CancelToken,
    url: ServerUrl,
    access: DirAccess,
    /// A statement was cancelled: this session sends nothing more.
    is_cancelled: AtomicBool,
    notices: Arc<Mutex<Vec<String>>>,
    /// The local port, to compare with the one that the server sees. `None` on a unix socket.
    local_port: Option<u16>,
}

impl PostgresSession {
    pub(super) async fn open(url: &ServerUrl, access: DirAccess) -> Result<Self, SqlSessionError> {
        let (stream, host, local_port) = open_stream(url).await?;
        let mut config = Config::new();
        config.dbname(&url.name).application_name("pawl");
        config.user(url.user.clone().unwrap_or_else(|| "postgres".to_owned()));
        if let Some(password) = &url.password {
            config.password(password.reveal());
        }
        if let Some(options) = &url.options {
            config.options(options);
        }
        let tls = if matches!(url.endpoint, ServerEndpoint::Unix(_)) { ServerTlsMode::Disable } else { url.tls };
        config.ssl_mode(match tls {
            ServerTlsMode::Disable => SslMode::Disable,
            ServerTlsMode::Prefer => SslMode::Prefer,
            ServerTlsMode::Require | ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull => SslMode::Require,
        });
        let notices: Arc<Mutex<Vec<String>>> = Arc::default();
        let (client, task) = if tls == ServerTlsMode::Disable {
            let (client, connection) =
                config.connect_raw(stream, NoTls).await.map_err(|error| postgres_error(&error, ""))?;
            (client, tokio::spawn(poll_connection(connection, Arc::clone(&notices))).abort_handle())
        } else {
            let connector = PostgresTlsConnector::new(url, &host)?;
            let (client, connection) =
                config.connect_raw(stream, connector).await.map_err(|error| postgres_error(&error, ""))?;
            (client, tokio::spawn(poll_connection(connection, Arc::clone(&notices))).abort_handle())
        };
        let cancel = client.cancel_token();
        let given_up = AtomicBool::new(false);
        let session = Self {
            client,
            connection_task: task,
            cancel_token: cancel,
            url: url.clone(),
            access,
            is_cancelled: given_up,
            notices,
            local_port,
        };
        session.run_batch(SESSION_SETTINGS).await?;
        session.take_notices();
        Ok(session)
    }

    /// Whether a proxy or pooler is in between, judged by the port that the server sees.
    pub async fn has_proxy(&self) -> Result<bool, SqlSessionError> {
        let Some(local_port) = self.local_port else { return Ok(false) };
        let seen = self.query_text("SELECT inet_client_port()").await?;
        Ok(first_value(&seen) != Some(local_port.to_string().as_str()))
    }

    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    pub(super) fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs a step's statement, in a read-only transaction if this session is read-only.
    pub(super) async fn query(&self, sql: &str, parameters: Vec<SqlValue>) -> Result<SqlRows, SqlSessionError> {
        refuse_transaction_control(SqlEngine::Postgres, sql)?;
        self.enforce_read_only(async {
            let guard = self.begin_call()?;
            let statement = self.client.prepare(sql).await.map_err(|error| postgres_error(&error, sql))?;
            check_parameter_count(statement.params().len(), parameters.len())?;
            let columns: Vec<String> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
            for column in statement.columns() {
                if !PostgresValue::accepts(column.type_()) {
                    let (name, kind) = (column.name(), column.type_().name());
                    let message = format!("the column `{name}` has the unsupported type {kind}");
                    return Err(SqlSessionError::new(FailureKind::InvalidConfig, message)
                        .with_hint("cast it to text: `(…)::text`"));
                }
            }
            let rows =
                self.client.query_raw(&statement, parameters).await.map_err(|error| postgres_error(&error, sql))?;
            let mut rows = pin!(rows);
            let (mut taken, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next().await {
                let row = row.map_err(|error| postgres_error(&error, sql))?;
                if taken.len() == MAX_RESULT_ROWS {
                    return Err(SqlSessionError::new(
                        FailureKind::Limit,
                        format!("the result has more than {MAX_RESULT_ROWS} rows"),
                    ));
                }
                let mut values = Vec::with_capacity(columns.len());
                for index in 0..columns.len() {
                    let value: PostgresValue = row.try_get(index).map_err(|error| postgres_error(&error, sql))?;
                    bytes += 16 + value_bytes(&value.0);
                    values.push(value.0);
                }
                if bytes > MAX_RESULT_BYTES {
                    return Err(SqlSessionError::new(
                        FailureKind::Limit,
                        format!("the result is larger than {MAX_RESULT_BYTES} bytes"),
                    ));
                }
                taken.push(values);
            }
            guard.disarm();
            Ok(SqlRows { columns, rows: taken })
        })
        .await
    }

    pub(super) async fn execute(&self, sql: &str, parameters: Vec<SqlValue>) -> Result<u64, SqlSessionError> {
        refuse_transaction_control(SqlEngine::Postgres, sql)?;
        self.enforce_read_only(async {
            let guard = self.begin_call()?;
            let statement = self.client.prepare(sql).await.map_err(|error| postgres_error(&error, sql))?;
            check_parameter_count(statement.params().len(), parameters.len())?;
            let count = self.client.execute_raw(&statement, parameters).await;
            guard.disarm();
            count.map_err(|error| postgres_error(&error, sql))
        })
        .await
    }

    pub(super) async fn run_script(&self, sql: &str) -> Result<(), SqlSessionError> {
        for statement in crate::migrate::statement_ranges(SqlEngine::Postgres, sql)? {
            refuse_transaction_control(SqlEngine::Postgres, &sql[statement.clone()])?;
        }
        self.enforce_read_only(self.run_batch(sql)).await
    }

    /// Runs work in a read-only transaction if this session is read-only.
    async fn enforce_read_only<T>(
        &self,
        work: impl Future<Output = Result<T, SqlSessionError>>,
    ) -> Result<T, SqlSessionError> {
        if self.access == DirAccess::ReadWrite {
            return work.await;
        }
        // After the first query, no `SET TRANSACTION` can change the mode back.
        self.run_batch("BEGIN READ ONLY; SELECT 1").await?;
        let outcome = work.await;
        self.run_batch("ROLLBACK").await?;
        outcome
    }

    /// Returns the rows of all statements of a text.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of the driver")]
    pub(super) async fn query_text(&self, sql: &str) -> Result<Vec<TextRow>, SqlSessionError> {
        let guard = self.begin_call()?;
        let mut completed = 0;
        let outcome = async {
            let mut stream = pin!(self.client.simple_query_raw(sql).await?);
            let mut rows = Vec::new();
            while let Some(message) = stream.next().await {
                match message? {
                    SimpleQueryMessage::Row(row) => {
                        rows.push((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect());
                    }
                    SimpleQueryMessage::CommandComplete(_) => completed += 1,
                    _ => {}
                }
            }
            Ok(rows)
        };
        let outcome: Result<_, tokio_postgres::Error> = outcome.await;
        guard.disarm();
        outcome.map_err(|error| SqlSessionError { completed, ..postgres_error(&error, sql) })
    }

    /// Runs a text and discards its rows as they arrive.
    pub(super) async fn run_batch(&self, sql: &str) -> Result<(), SqlSessionError> {
        let guard = self.begin_call()?;
        let mut completed = 0;
        let outcome = async {
            let mut stream = pin!(self.client.simple_query_raw(sql).await?);
            while let Some(message) = stream.next().await {
                if let SimpleQueryMessage::CommandComplete(_) = message? {
                    completed += 1;
                }
            }
            Ok(())
        };
        let outcome: Result<_, tokio_postgres::Error> = outcome.await;
        guard.disarm();
        outcome.map_err(|error| SqlSessionError { completed, ..postgres_error(&error, sql) })
    }

    /// Runs `COPY … FROM STDIN` with its data.
    pub async fn copy_in(&self, sql: &str, data: &str) -> Result<(), SqlSessionError> {
        let guard = self.begin_call()?;
        let outcome = async {
            let mut sink = pin!(self.client.copy_in::<_, bytes::Bytes>(sql).await?);
            for chunk in data.as_bytes().chunks(64 << 10) {
                sink.send(bytes::Bytes::copy_from_slice(chunk)).await?;
            }
            sink.finish().await.map(drop)
        };
        let outcome: Result<(), tokio_postgres::Error> = outcome.await;
        guard.disarm();
        outcome.map_err(|error| postgres_error(&error, sql))
    }

    pub(super) async fn begin(&self) -> Result<(), SqlSessionError> {
        self.run_batch(if self.access == DirAccess::ReadOnly { "BEGIN READ ONLY; SELECT 1" } else { "BEGIN" }).await
    }

    pub(super) async fn commit(&self) -> Result<(), SqlSessionError> {
        // In a failed transaction, COMMIT reports success but keeps nothing.
        self.run_batch("SELECT 1; COMMIT").await
    }

    pub(super) fn rollback(&self) {
        self.client.__private_api_rollback(None);
    }

    fn begin_call(&self) -> Result<PostgresCallGuard<'_>, SqlSessionError> {
        if self.is_cancelled.load(Ordering::Relaxed) || self.client.is_closed() {
            return Err(SqlSessionError::lost("the session was closed"));
        }
        Ok(PostgresCallGuard { session: self, armed: true })
    }

    /// Cancels the running statement, then closes.
    fn cancel_and_close(&self) {
        if self.is_cancelled.swap(true, Ordering::Relaxed) {
            return;
        }
        let (cancel, url, task) = (self.cancel_token.clone(), self.url.clone(), self.connection_task.clone());
        let working = BlockingTaskGuard::begin();
        tokio::spawn(async move {
            let request = async {
                let Ok((stream, host, _)) = open_stream(&url).await else { return };
                // An old server may not support it anymore; then closing the socket is enough.
                if url.tls == ServerTlsMode::Disable || matches!(url.endpoint, ServerEndpoint::Unix(_)) {
                    cancel.cancel_query_raw(stream, NoTls).await.ok();
                } else if let Ok(connector) = PostgresTlsConnector::new(&url, &host) {
                    cancel.cancel_query_raw(stream, connector).await.ok();
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(1), request).await.ok();
            task.abort();
            drop(working);
        });
    }
}

impl Drop for PostgresSession {
    fn drop(&mut self) {
        if !self.is_cancelled.load(Ordering::Relaxed) {
            self.connection_task.abort();
        }
    }
}

/// Closes the session if dropped before the reply.
struct PostgresCallGuard<'a> {
    session: &'a PostgresSession,
    armed: bool,
}

impl PostgresCallGuard<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for PostgresCallGuard<'_> {
    fn drop(&mut self) {
        if self.armed && !std::thread::panicking() {
            self.session.cancel_and_close();
        }
    }
}

async fn poll_connection<S, T>(mut connection: tokio_postgres::Connection<S, T>, notices: Arc<Mutex<Vec<String>>>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message {
            let mut notices = notices.lock().unwrap_or_else(PoisonError::into_inner);
            if notices.len() < 1000 {
                notices.push(format!("{}: {}", notice.severity(), notice.message()));
            }
        }
    }
}

async fn open_stream(url: &ServerUrl) -> Result<(ServerStream, String, Option<u16>), SqlSessionError> {
    let unreachable = |error: std::io::Error| {
        SqlSessionError::new(FailureKind::Transient, format!("can't reach the database server: {}", error.kind()))
    };
    match &url.endpoint {
        ServerEndpoint::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
            stream.set_nodelay(true).map_err(unreachable)?;
            let local = stream.local_addr().ok().map(|address| address.port());
            Ok((ServerStream::Tcp(stream), host.clone(), local))
        }
        ServerEndpoint::Unix(file) => {
            let stream = UnixStream::connect(file).await.map_err(unreachable)?;
            Ok((ServerStream::Unix(stream), "localhost".to_owned(), None))
        }
    }
}

fn check_parameter_count(expected: usize, given: usize) -> Result<(), SqlSessionError> {
    if expected == given {
        return Ok(());
    }
    Err(SqlSessionError::new(
        FailureKind::InvalidConfig,
        format!("the call passed {given} values for {expected} parameters"),
    ))
}

fn value_bytes(value: &SqlValue) -> usize {
    match value {
        SqlValue::Text(text) => text.len(),
        SqlValue::Blob(bytes) => bytes.len(),
        SqlValue::Null | SqlValue::Boolean(_) | SqlValue::Integer(_) | SqlValue::Real(_) => 0,
    }
}

/// Returns the first value of the first row.
pub fn first_value(rows: &[TextRow]) -> Option<&str> {
    rows.first()?.first()?.as_deref()
}

fn postgres_error(error: &tokio_postgres::Error, sql: &str) -> SqlSessionError {
    let Some(server) = error.as_db_error() else {
        if error.is_closed() {
            return SqlSessionError::lost("the server closed the connection");
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        return match cause.downcast_ref::<std::io::Error>() {
            Some(io) => SqlSessionError::from_io_error(io),
            None if error.to_string().contains("TLS") => {
                SqlSessionError::new(FailureKind::Permanent, format!("TLS: {cause}"))
            }
            None => SqlSessionError::new(FailureKind::Permanent, cause.to_string()),
        };
    };
    let code = server.code().code().to_owned();
    let kind = match &code[..2.min(code.len())] {
        "08" | "40" | "53" | "55" | "57" | "58" => FailureKind::Transient,
        "23" => FailureKind::Conflict,
        "28" | "25" => FailureKind::Denied,
        "3D" => FailureKind::NotFound,
        "54" => FailureKind::Limit,
        _ if code == "42501" => FailureKind::Denied,
        _ => FailureKind::Permanent,
    };
    // A retry does not help with these, unlike disk_full; a cancelled statement stays cancelled.
    let kind =
        if ["57014", "55006", "55000", "55P04"].contains(&code.as_str()) { FailureKind::Permanent } else { kind };
    let position = match server.position() {
        Some(ErrorPosition::Original(at)) => {
            let offset =
                sql.char_indices().nth((*at as usize).saturating_sub(1)).map_or(sql.len(), |(offset, _)| offset);
            Some(SqlPosition::at(sql, offset))
        }
        Some(ErrorPosition::Internal { .. }) | None => None,
    };
    let lost = ["57P01", "57P02", "57P03", "25P03", "57P05"].contains(&code.as_str());
    let detail = server.detail().map_or_else(String::new, |detail| format!(" ({detail})"));
    let mut found = SqlSessionError::new(kind, format!("{}{detail}", server.message()));
    found.hint = server.hint().map(str::to_owned);
    SqlSessionError { code: Some(code), position, lost, ..found }
}

/// A value in the form in which it was read.
struct PostgresValue(SqlValue);

type PostgresConversionError = Box<dyn std::error::Error + Sync + Send>;

impl PostgresValue {
    fn accepts(kind: &Type) -> bool {
        <Self as FromSql>::accepts(kind)
    }
}

impl<'a> FromSql<'a> for PostgresValue {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, PostgresConversionError> {
        Ok(Self(match *kind {
            Type::BOOL => SqlValue::Boolean(bool::from_sql(kind, raw)?),
            Type::INT2 => SqlValue::Integer(i16::from_sql(kind, raw)?.into()),
            Type::INT4 => SqlValue::Integer(i32::from_sql(kind, raw)?.into()),
            Type::INT8 => SqlValue::Integer(i64::from_sql(kind, raw)?),
            Type::OID => SqlValue::Integer(u32::from_sql(kind, raw)?.into()),
            Type::FLOAT4 => SqlValue::Real(f32::from_sql(kind, raw)?.into()),
            Type::FLOAT8 => SqlValue::Real(f64::from_sql(kind, raw)?),
            Type::BYTEA => SqlValue::Blob(raw.to_vec()),
            Type::JSONB => SqlValue::Text(String::from_utf8(raw.get(1..).unwrap_or_default().to_vec())?),
            Type::CHAR => SqlValue::Text(String::from_utf8_lossy(raw).into_owned()),
            Type::VOID => SqlValue::Null,
            _ => SqlValue::Text(String::from_utf8(raw.to_vec())?),
        }))
    }

    fn from_sql_null(_: &Type) -> Result<Self, PostgresConversionError> {
        Ok(Self(SqlValue::Null))
    }

    fn accepts(kind: &Type) -> bool {
        let known = [
            Type::BOOL,
            Type::INT2,
            Type::INT4,
            Type::INT8,
            Type::OID,
            Type::FLOAT4,
            Type::FLOAT8,
            Type::BYTEA,
            Type::JSON,
            Type::JSONB,
            Type::CHAR,
            Type::TEXT,
            Type::VARCHAR,
            Type::BPCHAR,
            Type::NAME,
            Type::UNKNOWN,
            Type::VOID,
        ];
        known.contains(kind) || matches!(kind.kind(), tokio_postgres::types::Kind::Enum(_))
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, PostgresConversionError> {
        match (self, kind) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Boolean(value), &Type::BOOL) => value.to_sql(kind, out),
            (Self::Integer(value), &Type::INT2) => i16::try_from(*value)?.to_sql(kind, out),
            (Self::Integer(value), &Type::INT4) => i32::try_from(*value)?.to_sql(kind, out),
            (Self::Integer(value), &Type::INT8) => value.to_sql(kind, out),
            (Self::Integer(value), &Type::OID) => u32::try_from(*value)?.to_sql(kind, out),
            (Self::Integer(value), &Type::FLOAT8) => (*value as f64).to_sql(kind, out),
            (Self::Real(value), &Type::FLOAT8) => value.to_sql(kind, out),
            (Self::Real(value), &Type::FLOAT4) => (*value as f32).to_sql(kind, out),
            (Self::Blob(bytes), &Type::BYTEA) => bytes.to_sql(kind, out),
            (Self::Text(text), &Type::JSONB) => {
                out.extend_from_slice(&[1]);
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            (Self::Text(text), _) if <PostgresValue as FromSql>::accepts(kind) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            _ => {
                Err(format!("a parameter does not fit the type {}; cast it: `$1::text::{}`", kind.name(), kind.name())
                    .into())
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}
