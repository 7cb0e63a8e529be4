//! A lock that allows one migration of a database at a time, and ends with its session.
//!
//! Invariant: nobody waits inside the server. A waiting statement would hold a snapshot, and `CREATE INDEX
//! CONCURRENTLY` waits for snapshots: a deadlock. So the lock is polled with short statements. Deliberately absent: a
//! lease; the server or the kernel knows when a session has ended.

use std::{path::Path, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{
    super::sql::{SqlEngine, SqlSession, SqlSessionError, TransactionMode, hex},
    dialect::SqlDialect,
    format::ToolLock,
};
use plan::DirAccess;

/// "pawl", the first half of PostgreSQL's lock keys.
const ADVISORY_LOCK_CLASS: u32 = 0x7061_776c;

/// A held lock.
pub(super) struct MigrationLock {
    /// For SQLite: a transaction on a file next to the database.
    _lock_file_session: Option<SqlSession>,
    /// The lock of the migration tool, if it has one.
    pub(super) tool_lock: Option<ToolLock>,
    pub(super) wait_time: Duration,
}

/// The second half of PostgreSQL's lock key, for this schema.
fn schema_lock_key(dialect: &SqlDialect) -> u32 {
    let sum = Sha256::digest(dialect.schema.as_deref().unwrap_or_default().as_bytes());
    u32::from_be_bytes([sum[0], sum[1], sum[2], sum[3]]) >> 1
}

/// A SQL condition that this session holds PostgreSQL's lock. It takes the lock once more, which is harmless for the
/// holder.
pub(super) fn lock_held_condition(dialect: &SqlDialect) -> String {
    format!("pg_catalog.pg_try_advisory_lock({ADVISORY_LOCK_CLASS}, {})", schema_lock_key(dialect))
}

/// Takes the lock within `timeout`; `None` if others held it all the time.
pub(super) async fn acquire(
    session: &SqlSession,
    dialect: &SqlDialect,
    file: Option<&Path>,
    timeout: Duration,
    mut on_wait: impl FnMut(),
) -> Result<Option<MigrationLock>, SqlSessionError> {
    let began = Instant::now();
    let lock_file_session = match (session.engine(), file) {
        (SqlEngine::Sqlite, Some(file)) => {
            let mut name = file.as_os_str().to_owned();
            name.push("-migrating");
            Some(SqlSession::open(Path::new(&name), DirAccess::ReadWrite).await?)
        }
        (SqlEngine::Sqlite | SqlEngine::Postgres | SqlEngine::Mysql, _) => None,
    };
    let mut pause = Duration::from_millis(20);
    let mut notified = false;
    loop {
        let is_held = match (session.engine(), &lock_file_session) {
            (SqlEngine::Sqlite, Some(side)) => match side.begin(TransactionMode::Immediate).await {
                Ok(()) => true,
                Err(fault) if fault.is_contention() => false,
                Err(fault) => return Err(fault),
            },
            (SqlEngine::Postgres, _) => {
                let rows = session
                    .query_text(&format!(
                        "SELECT pg_catalog.pg_try_advisory_lock({ADVISORY_LOCK_CLASS}, {})",
                        schema_lock_key(dialect)
                    ))
                    .await?;
                rows.first().and_then(|row| row.first()) == Some(&Some("t".to_owned()))
            }
            (SqlEngine::Mysql, _) => {
                let sum = hex(&Sha256::digest(dialect.schema.as_deref().unwrap_or_default().as_bytes()));
                let rows = session.query_text(&format!("SELECT GET_LOCK('pawl:{}', 0)", &sum[..32])).await?;
                rows.first().and_then(|row| row.first()) == Some(&Some("1".to_owned()))
            }
            (SqlEngine::Sqlite, None) => true,
        };
        if is_held {
            return Ok(Some(MigrationLock {
                _lock_file_session: lock_file_session,
                tool_lock: None,
                wait_time: began.elapsed(),
            }));
        }
        if began.elapsed() + pause > timeout {
            return Ok(None);
        }
        if !notified && began.elapsed() > Duration::from_secs(1) {
            notified = true;
            on_wait();
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

/// Also takes a tool's own lock within `timeout`. Always after the runner's lock, so that two runners can't deadlock.
pub(super) async fn acquire_tool_lock(
    session: &SqlSession,
    lock: &ToolLock,
    timeout: Duration,
) -> Result<bool, SqlSessionError> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let rows = session.query_text(&lock.acquire_sql).await?;
        if matches!(rows.first().and_then(|row| row.first()?.as_deref()), Some("t" | "1")) {
            return Ok(true);
        }
        if began.elapsed() + pause > timeout {
            return Ok(false);
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

/// Varies a pause between half and all of it, so that waiters do not retry at the same time.
pub(super) fn jittered(pause: Duration) -> Duration {
    let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
    pause.mul_f64(0.5 + share / 2.0)
}
