//! Migrations: applies a granted directory of SQL files to a granted database, each file once, even across kills.
//!
//! The procedure: open a session → take the lock on it → create the tool's table and the runner's → read the history →
//! compare → apply → record. It is part of the host, because it depends on the session: its lock, its transactions, its
//! loss. A module chooses the directory, the database and the policies; it sees only file names and outcomes.
//!
//! [`files`] reads a file, a [`format`] parses it, [`split`] finds statements, [`run`] applies them; [`unit`] and
//! [`catalog`] handle what no transaction can contain. Deliberately absent: the plan's decision about the step.

mod admin;
mod catalog;
mod dialect;
mod files;
mod format;
mod history;
mod lint;
mod lock;
mod run;
mod section;
mod split;
mod unit;

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    ops::Range,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use self::{
    dialect::{LEDGER_TABLE, SqlDialect},
    files::Migration,
    format::{ChecksumMatch, MigrationFormat},
    history::{HistoryDiff, HistoryMismatchPolicy, HistoryRules, MigrationHistory},
    run::MigrationRun,
};
use super::sql::{SqlEngine, SqlSession, SqlSessionError};
use crate::failure;
use contract::step::{FailureKind, MessageLevel, StepFailure};
use contract::{Secret, duration::parse_duration, error_code::ErrorCode};
use hostio::dir_snapshot::{DirSnapshot, PathReadError};
use plan::{DirAccess, ServerEngine, ServerUrl};

pub use self::split::skip_blank;
pub use self::{
    admin::{MigrationAdmin, MigrationFileStatus, MigrationResolution, MigrationStatus},
    lint::{LintFinding, LintLevel},
    run::MigrationFence,
};
pub use files::is_sql_file;

/// Beyond this number, only slow files are logged one by one, because every later deployment reads the journal.
const MAX_LISTED_FILES: usize = 50;

/// How many of many files are recorded with their times.
const MAX_RECORDED_FILES: usize = 10;

/// The interval of progress events, and the duration from which a file counts as slow.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A sink for messages.
pub type MigrationLogFn<'a> = dyn Fn(MessageLevel, String) + Send + Sync + 'a;

/// Policies and timeouts.
#[derive(Clone, Debug)]
pub struct MigrationOptions {
    format: Option<String>,
    history_rules: HistoryRules,
    lock_timeout: Duration,
    statement_timeout: Option<Duration>,
    /// How long to retry a statement that other sessions block.
    contention_timeout: Duration,
    /// How long to wait for the lock.
    lock_wait_timeout: Duration,
    lint_level: LintLevel,
    lint_skips: Vec<String>,
}

/// The fields of the step's configuration; others are ignored.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct MigrationConfig {
    format: Option<String>,
    ahead: HistoryMismatchPolicy,
    out_of_order: HistoryMismatchPolicy,
    lock_timeout: Option<String>,
    statement_timeout: Option<String>,
    lint: LintLevel,
    lint_skip: Vec<String>,
}

impl MigrationOptions {
    /// Reads the options from a configuration; `timeout` is that of the whole call.
    ///
    /// # Errors
    /// Invalid options.
    pub fn from_config(config: &Value, timeout: Duration) -> Result<Self, StepFailure> {
        let requested = serde_json::from_value::<MigrationConfig>(config.clone())
            .map_err(|error| failure(FailureKind::InvalidConfig, format!("migration options: {error}")))?;
        let duration = |name: &str, text: Option<String>| match text {
            None => Ok(None),
            Some(text) => parse_duration(&text).map(Some).map_err(|error| {
                failure(FailureKind::InvalidConfig, format!("`{name}`: {error}")).with_hint(error.hint())
            }),
        };
        // A call that times out has an unknown outcome; a failure before that is clear.
        let max_wait = timeout.saturating_sub(Duration::from_secs(2)).max(Duration::from_millis(500));
        Ok(Self {
            format: requested.format,
            history_rules: HistoryRules { ahead: requested.ahead, out_of_order: requested.out_of_order },
            lock_timeout: duration("lock-timeout", requested.lock_timeout)?.unwrap_or(Duration::from_secs(2)),
            statement_timeout: duration("statement-timeout", requested.statement_timeout)?,
            contention_timeout: Duration::from_secs(60).min(max_wait),
            lock_wait_timeout: max_wait,
            lint_level: requested.lint,
            lint_skips: requested.lint_skip,
        })
    }
}

/// The byte ranges of a text's statements.
pub fn statement_ranges(engine: SqlEngine, text: &str) -> Result<Vec<Range<usize>>, SqlSessionError> {
    Ok(split::split_statements(engine, text)?.into_iter().map(|statement| statement.range).collect())
}

/// A granted database.
#[derive(Clone, Debug)]
pub struct MigrationDatabase<'a> {
    /// Its name in the plan.
    pub name: &'a str,
    /// Its location.
    pub address: DatabaseAddress<'a>,
    /// The granted access.
    pub access: DirAccess,
}

/// The location of a database.
#[derive(Clone, Debug)]
pub enum DatabaseAddress<'a> {
    /// A SQLite file with a checked path.
    File(PathBuf),
    /// A server's URL, with its password.
    Server(&'a Secret),
}

/// A snapshot of a granted directory of migrations.
#[derive(Debug)]
pub struct MigrationDirectory<'a> {
    /// Its name in the plan.
    pub name: &'a str,
    /// At least its own `.sql` files, or the file that could not be read.
    pub files: Result<Arc<DirSnapshot>, PathReadError>,
}

/// A directory and its database.
pub struct MigrationJob {
    /// `None` if the database does not exist yet.
    session: Option<SqlSession>,
    dialect: SqlDialect,
    format: &'static dyn MigrationFormat,
    files: Vec<Migration>,
    /// `migrations/`.
    dir_prefix: String,
    /// The database's name in the plan.
    database_name: String,
    /// The path of a SQLite file.
    sqlite_path: Option<PathBuf>,
    tables: BTreeSet<String>,
    options: MigrationOptions,
}

impl MigrationJob {
    /// Reads the directory and opens the database, as granted.
    ///
    /// # Errors
    /// What can't be read or reached.
    pub async fn open(
        database: MigrationDatabase<'_>,
        directory: MigrationDirectory<'_>,
        options: MigrationOptions,
    ) -> Result<Self, StepFailure> {
        let dir_prefix = format!("{}/", directory.name);
        let raw = files::read_sql_files(directory.files, &dir_prefix)?;
        let MigrationDatabase { name: database, address, access } = database;
        let (session, file) = open_session(&address, database, access).await?;
        let mut dialect = SqlDialect { engine: SqlEngine::Sqlite, schema: None };
        let mut tables = BTreeSet::new();
        if let Some(session) = &session {
            dialect = read_dialect(session, database).await?;
            if let (SqlSession::Postgres(server), DirAccess::ReadWrite) = (session, access)
                && server.has_proxy().await?
            {
                refuse_pooler(session, server.url(), database).await?;
            }
            tables = existing_tables(session, &dialect).await?;
        }
        let format = format::detect(options.format.as_deref(), &raw, |table| tables.contains(table))?;
        let files = files::parse_migrations(format, raw, &dir_prefix)?;
        Ok(Self {
            session,
            dialect,
            format,
            files,
            dir_prefix,
            database_name: database.to_owned(),
            sqlite_path: file,
            tables,
            options,
        })
    }

    /// Reads the history.
    async fn read_history(&self) -> Result<MigrationHistory, StepFailure> {
        let Some(session) = &self.session else { return Ok(MigrationHistory::default()) };
        let rows = match self.tables.contains(self.format.history_table()) {
            true => {
                let table = self.dialect.qualified_table(self.format.history_table());
                session.query_text(&self.format.select_sql(self.dialect.engine, &table)).await?
            }
            false => Vec::new(),
        };
        let ledger = match self.tables.contains(LEDGER_TABLE) {
            true => session.query_text(&self.dialect.read_ledger_sql()).await?,
            false => Vec::new(),
        };
        Ok(MigrationHistory::new(rows, ledger))
    }

    fn history_diff(&self, history: &MigrationHistory) -> HistoryDiff {
        history::diff_history(self.format, &self.files, history, self.options.history_rules)
    }

    /// Creates the tool's table and the runner's, under the lock.
    async fn create_tables(&mut self, session: &SqlSession) -> Result<(), StepFailure> {
        self.tables = existing_tables(session, &self.dialect).await?;
        let table = self.format.history_table();
        if !self.tables.contains(table) {
            let made = session
                .run_batch(&self.format.create_table_sql(self.dialect.engine, &self.dialect.qualified_table(table)))
                .await;
            // A tool without a lock may create it at the same time, which `IF NOT EXISTS` does not prevent.
            if made.is_err() && !existing_tables(session, &self.dialect).await?.contains(table) {
                made?;
            }
        }
        if !self.tables.contains(LEDGER_TABLE) {
            session.run_batch(&self.dialect.create_ledger_sql()).await?;
        }
        self.tables.extend([table.to_owned(), LEDGER_TABLE.to_owned()]);
        Ok(())
    }

    async fn acquire_lock(
        &self,
        session: &SqlSession,
        log: &MigrationLogFn<'_>,
    ) -> Result<lock::MigrationLock, StepFailure> {
        let Self { dialect, sqlite_path: file, database_name: database, options, .. } = self;
        let on_wait =
            || log(MessageLevel::Info, format!("another migration of `{database}` is running; waiting for its lock"));
        let held = lock::acquire(session, dialect, file.as_deref(), options.lock_wait_timeout, on_wait).await?;
        let mut held = held.ok_or_else(|| self.lock_held_failure("another migration"))?;
        let name = match dialect.engine {
            SqlEngine::Postgres => session.query_text("SELECT pg_catalog.current_database()").await?.pop(),
            SqlEngine::Mysql | SqlEngine::Sqlite => None,
        };
        let name = name.and_then(|row| row.into_iter().next().flatten()).or_else(|| dialect.schema.clone());
        if let Some(tool_lock) = name.and_then(|name| self.format.tool_lock(dialect.engine, &name)) {
            self.acquire_tool_lock(session, &tool_lock).await?;
            held.tool_lock = Some(tool_lock);
        }
        Ok(held)
    }

    async fn acquire_tool_lock(&self, session: &SqlSession, tool_lock: &format::ToolLock) -> Result<(), StepFailure> {
        match lock::acquire_tool_lock(session, tool_lock, self.options.lock_wait_timeout).await? {
            true => Ok(()),
            false => Err(self.lock_held_failure(&format!("a program that migrates with {}", self.format.name()))),
        }
    }

    fn lock_held_failure(&self, holder: &str) -> StepFailure {
        let mut failure = failure(
            FailureKind::Transient,
            format!("{holder} holds the migration lock on the database `{}`", self.database_name),
        )
        .with_hint("wait until it ends; the lock ends with its session")
        .with_code(ErrorCode::MigrationLockHeld);
        failure.retryable = true;
        failure
    }

    /// Whether a tool that takes no lock has applied a file in the meantime, so the runner's transaction was rolled
    /// back.
    async fn is_applied_by_other_tool(&self, file: &Migration) -> bool {
        if file.no_transaction || self.dialect.engine == SqlEngine::Mysql || self.format.name() == "plain" {
            return false;
        }
        let Ok(history) = self.read_history().await else { return false };
        let row = history.rows.iter().find(|row| history::same_version(&row.version, &file.version));
        row.is_some_and(|row| !row.is_unfinished && self.format.match_checksum(row, file) != ChecksumMatch::Different)
    }

    /// The status, for a module.
    pub async fn status(self) -> Result<Value, StepFailure> {
        let history = self.read_history().await?;
        let diff = self.history_diff(&history);
        let problem = diff.problems.first().map(|problem| {
            let failure = problem.to_failure(&self.dir_prefix, &self.database_name);
            json!({
                "kind": failure.kind, "message": failure.message, "hint": failure.hint, "details": failure.details,
                "order": problem.is_out_of_order(),
            })
        });
        let pending: Vec<_> = diff.pending.iter().map(|index| self.files[*index].file_name.as_str()).collect();
        let mut status = self.outputs();
        status.insert("format".to_owned(), self.format.name().into());
        status.insert("pending".to_owned(), json!(pending));
        status.insert("problem".to_owned(), json!(problem));
        Ok(Value::Object(status))
    }

    /// The outputs, which are equal for equal files.
    fn outputs(&self) -> Map<String, Value> {
        let version = self.files.last().map_or(Value::from(0), |file| {
            file.version.parse::<i64>().map_or_else(|_| file.version.clone().into(), Value::from)
        });
        Map::from_iter([("version".to_owned(), version), ("applied".to_owned(), self.files.len().into())])
    }

    /// Applies all pending files.
    pub async fn apply(
        mut self,
        fence: &MigrationFence,
        log: &MigrationLogFn<'_>,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Value, StepFailure> {
        let Some(session) = self.session.take() else {
            return Err(failure(FailureKind::Denied, "a preview or a probe can't migrate: it is read-only"));
        };
        let held = self.acquire_lock(&session, log).await?;
        self.create_tables(&session).await?;
        self.session = Some(session);
        let history = self.read_history().await?;
        let diff = self.history_diff(&history);
        let session = self.session.as_ref().ok_or_else(|| failure(FailureKind::Permanent, "no session"))?;
        if let Some(problem) = diff.problems.first() {
            return Err(problem.to_failure(&self.dir_prefix, &self.database_name));
        }
        for name in &diff.line_endings_changed {
            log(
                MessageLevel::Warn,
                format!("{name}: only line endings or the byte order mark changed since it was applied"),
            );
        }
        let Self { dialect, format, dir_prefix, options, .. } = &self;
        let run = MigrationRun { session, dialect, format: *format, dir_prefix, options, fence, log };
        run.raise_fence(&history).await?;
        if !diff.pending.is_empty() {
            run.apply_session_settings().await?;
        }
        let began = Instant::now();
        let applied = self.apply_pending(&run, &held, &diff.pending, history, progress).await?;
        let notes = self.notes(applied, began.elapsed(), held.wait_time);
        drop(held);
        Ok(json!({ "outputs": self.outputs(), "notes": notes }))
    }

    /// Applies the files with these indices, and returns the time that each took.
    async fn apply_pending(
        &self,
        run: &MigrationRun<'_>,
        held: &lock::MigrationLock,
        pending: &[usize],
        mut history: MigrationHistory,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Vec<(&str, Duration)>, StepFailure> {
        let (session, log, total) = (run.session, run.log, pending.len());
        let (mut applied, mut unlisted) = (Vec::new(), 0);
        let mut history_reloaded = false;
        let began = Instant::now();
        let mut last_progress: Option<Instant> = None;
        for (done, index) in pending.iter().enumerate() {
            if last_progress.is_none_or(|shown| shown.elapsed() >= PROGRESS_INTERVAL) {
                progress(done as u64, total as u64);
                last_progress = Some(Instant::now());
            }
            let file = &self.files[*index];
            if history_reloaded && history.is_applied(&file.version) {
                continue;
            }
            // A program that waits for this lock in the server has a snapshot, for which `CONCURRENTLY` would wait.
            let released_tool_lock =
                held.tool_lock.as_ref().filter(|_| file.no_transaction && self.dialect.engine == SqlEngine::Postgres);
            if let Some(tool_lock) = released_tool_lock {
                session.run_batch(&tool_lock.release_sql).await?;
            }
            let took = match run.apply_file(file, &history).await {
                Ok(took) => took,
                Err(_) if self.is_applied_by_other_tool(file).await => {
                    log(MessageLevel::Warn, format!("{}: another tool applied it in the meantime", file.file_name));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if let Some(theirs) = released_tool_lock {
                self.acquire_tool_lock(session, theirs).await?;
                history = self.read_history().await?;
                history_reloaded = true;
            }
            if total <= MAX_LISTED_FILES || took >= PROGRESS_INTERVAL {
                log(MessageLevel::Info, format!("applied {} in {} ms", file.file_name, took.as_millis()));
            } else {
                unlisted += 1;
            }
            applied.push((file.file_name.as_str(), took));
        }
        if unlisted > 0 {
            let took = began.elapsed().as_millis();
            log(
                MessageLevel::Info,
                format!("applied {total} files in {took} ms; the {unlisted} fast ones are not listed"),
            );
        }
        Ok(applied)
    }

    /// The notes of the receipt.
    fn notes(&self, mut applied: Vec<(&str, Duration)>, took: Duration, lock_time: Duration) -> Value {
        let count = applied.len();
        // A receipt has a size limit, and every later attempt repeats it; the slowest files matter most.
        if count > MAX_LISTED_FILES {
            applied.sort_by_key(|(_, took)| Reverse(*took));
            applied.truncate(MAX_RECORDED_FILES);
        }
        let names: Vec<_> = applied.iter().map(|(name, _)| name).collect();
        let files: Vec<_> = applied.iter().map(|(name, took)| json!({ "file": name, "ms": millis(*took) })).collect();
        json!({
            "applied_now": names, "took_ms": millis(took),
            "migrations": { "format": self.format.name(), "count": count, "lock_ms": millis(lock_time), "files": files },
        })
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Opens a session with a granted database; `None` if a read-only one does not exist.
async fn open_session(
    address: &DatabaseAddress<'_>,
    database: &str,
    access: DirAccess,
) -> Result<(Option<SqlSession>, Option<PathBuf>), StepFailure> {
    match address {
        DatabaseAddress::File(path) => match SqlSession::open(path, access).await {
            Ok(session) => Ok((Some(session), Some(path.clone()))),
            Err(fault) if access == DirAccess::ReadOnly && fault.kind == FailureKind::NotFound => {
                Ok((None, Some(path.clone())))
            }
            Err(fault) => Err(fault.into()),
        },
        DatabaseAddress::Server(url) => Ok((Some(connect_server(database, url.reveal(), access).await?), None)),
    }
}

/// Opens a session with a granted server.
pub async fn connect_server(database: &str, url: &str, access: DirAccess) -> Result<SqlSession, StepFailure> {
    let url = match ServerUrl::parse(url) {
        Some(Ok(url)) => url,
        Some(Err(why)) => {
            return Err(failure(FailureKind::InvalidConfig, format!("database `{database}`: invalid URL: {why}")));
        }
        None => {
            return Err(failure(
                FailureKind::InvalidConfig,
                format!("database `{database}`: this runner does not support its URL scheme"),
            ));
        }
    };
    SqlSession::connect(&url, access).await.map_err(|fault| {
        let mut failure = StepFailure::from(fault);
        failure.message = format!("database `{database}`: {}", failure.message);
        let tls_option = match url.engine {
            ServerEngine::Postgres => "sslmode",
            ServerEngine::Mysql => "ssl-mode",
        };
        failure
            .hint
            .get_or_insert_with(|| format!("check host, port, user, password and `{tls_option}` of the database URL"));
        failure.with_code(ErrorCode::DatabaseUnreachable)
    })
}

async fn read_dialect(session: &SqlSession, database: &str) -> Result<SqlDialect, StepFailure> {
    let engine = session.engine();
    let sql = match engine {
        SqlEngine::Sqlite => return Ok(SqlDialect { engine, schema: None }),
        SqlEngine::Postgres => "SELECT pg_catalog.current_schema()",
        SqlEngine::Mysql => "SELECT DATABASE()",
    };
    let rows = session.query_text(sql).await?;
    match rows.first().and_then(|row| row.first().cloned().flatten()) {
        Some(schema) => Ok(SqlDialect { engine, schema: Some(schema) }),
        None => Err(failure(
            FailureKind::InvalidConfig,
            format!("the search path of database `{database}` names no existing schema"),
        )
        .with_hint("create the schema, or correct `search_path` in the URL")),
    }
}

async fn existing_tables(session: &SqlSession, dialect: &SqlDialect) -> Result<BTreeSet<String>, StepFailure> {
    let tables: Vec<_> = format::FORMATS.iter().map(|format| format.history_table()).chain([LEDGER_TABLE]).collect();
    let rows = session.query_text(&dialect.existing_tables_sql(&tables)).await?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

/// Refuses a pooler that may send two statements of one session to two server sessions, because then no lock holds.
async fn refuse_pooler(session: &SqlSession, url: &ServerUrl, database: &str) -> Result<(), StepFailure> {
    let nonce = getrandom::u64().unwrap_or_default().to_string();
    session.query_text(&format!("SELECT set_config('pawl.session', '{nonce}', false)")).await?;
    // Other clients get whichever server session is free: in a transaction pooler, the one that was just used.
    let mut others = Vec::new();
    let mut is_kept = true;
    for _ in 0..3 {
        let other = SqlSession::connect(url, DirAccess::ReadOnly).await?;
        other.run_batch("BEGIN; SELECT 1").await?;
        others.push(other);
        let rows = session.query_text("SELECT current_setting('pawl.session', true)").await?;
        is_kept &= rows.first().and_then(|row| row.first().cloned().flatten()).as_deref() == Some(nonce.as_str());
    }
    for other in &others {
        other.run_batch("ROLLBACK").await.ok();
    }
    if is_kept {
        return Ok(());
    }
    Err(failure(
        FailureKind::InvalidConfig,
        format!(
            "the URL of database `{database}` points to a pooler in transaction mode, which does not keep session locks"
        ),
    )
    .with_hint("change the URL to the server itself, or to a pooler in session mode")
    .with_code(ErrorCode::TransactionPooler))
}
