//! Applies files in order, each with its record.
//!
//! Invariants: a file that can be one transaction shares it with its history row, under the fence. Otherwise each unit
//! has its record, and whatever no transaction can contain has an intent first. Before an intent is repeated, the
//! catalog is asked. Deliberately absent: the selection of files; see [`history`](super::history).

use std::{
    future::Future,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    super::sql::{SqlEngine, SqlPosition, SqlSession, SqlSessionError, TransactionMode},
    MigrationLogFn, MigrationOptions,
    catalog::{self, IntentOutcome},
    dialect::{LedgerWrite as Write, SqlDialect},
    files::Migration,
    format::MigrationFormat,
    history::{LedgerRow, MigrationHistory},
    lock,
    section::{MigrationSection, hint_for, may_change_session, section_statements, without_outer_transaction},
    split::SqlStatement,
    unit::{self, CatalogCheck, ExecutionMode, ExecutionUnit},
};
use crate::failure;
use contract::{
    error_code::ErrorCode,
    step::{FailureKind, MessageLevel, StepFailure},
};

/// The largest text that PostgreSQL gets in one piece, because it parses each piece as a whole.
const MAX_BATCH_BYTES: usize = 256 << 10;

/// The attempt that migrates.
#[derive(Clone, Debug, Default)]
pub struct MigrationFence {
    /// The app and environment.
    pub resource: String,
    /// The epoch, counted over all runs.
    pub epoch: u64,
    /// The run, for the history.
    pub run: String,
}

impl MigrationFence {
    /// The key under which epochs are compared: an app's in an environment, as long as one state counts them.
    #[must_use]
    pub fn resource_key(app: &str, environment: &str, lineage: &str) -> String {
        format!("{app}/{environment}@{lineage}")
    }

    /// Reads the fence from a step's input, which the runner wrote.
    #[must_use]
    pub fn from_input(input: &serde_json::Value) -> Self {
        let text = |name: &str| input[name].as_str().unwrap_or_default();
        Self {
            resource: Self::resource_key(text("app"), text("environment"), text("lineage")),
            epoch: input["epoch"].as_u64().unwrap_or(0),
            run: text("run").to_owned(),
        }
    }
}

/// A running migration.
pub(super) struct MigrationRun<'a> {
    pub(super) session: &'a SqlSession,
    pub(super) dialect: &'a SqlDialect,
    pub(super) format: &'static dyn MigrationFormat,
    /// The prefix for file names, such as `migrations/`.
    pub(super) dir_prefix: &'a str,
    pub(super) options: &'a MigrationOptions,
    pub(super) fence: &'a MigrationFence,
    pub(super) log: &'a MigrationLogFn<'a>,
}

/// An error while executing.
pub(super) enum ExecError {
    /// The database's error, with its position in the whole file.
    Session(SqlSessionError),
    /// The runner's own error.
    Failure(StepFailure),
}

impl From<SqlSessionError> for ExecError {
    fn from(fault: SqlSessionError) -> Self {
        Self::Session(fault)
    }
}

impl MigrationRun<'_> {
    /// Sets the session for each file: the runner's timeouts, and none of an earlier file's settings.
    pub(super) async fn apply_session_settings(&self) -> Result<(), SqlSessionError> {
        let lock = self.options.lock_timeout.as_millis();
        let statement = self.options.statement_timeout.map_or(0, |limit| limit.as_millis());
        match self.dialect.engine {
            SqlEngine::Sqlite => self.session.run_batch("PRAGMA foreign_keys = ON").await,
            SqlEngine::Postgres => {
                self.session
                    .run_batch(&format!(
                        "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; SET client_encoding = 'UTF8'; \
                         SET lock_timeout = {lock}; SET statement_timeout = {statement}; \
                         DO $$BEGIN PERFORM set_config('client_connection_check_interval', '250ms', false); \
                         EXCEPTION WHEN OTHERS THEN NULL; END$$"
                    ))
                    .await?;
                self.session.take_notices();
                Ok(())
            }
            SqlEngine::Mysql => {
                let seconds = self.options.lock_timeout.as_secs().max(1);
                let schema = self.dialect.schema.as_deref().unwrap_or_default();
                self.session
                    .run_batch(&format!(
                        "USE {}; SET SESSION lock_wait_timeout = {seconds}, SESSION innodb_lock_wait_timeout = {seconds}, \
                         SESSION autocommit = 1, SESSION sql_mode = @@global.sql_mode, SESSION foreign_key_checks = 1, SESSION unique_checks = 1",
                        self.dialect.quote_name(schema)
                    ))
                    .await?;
                if statement > 0 {
                    // MariaDB has this setting; MySQL has none for writes.
                    self.session
                        .run_batch(&format!("SET SESSION max_statement_time = {}", statement as f64 / 1000.0))
                        .await
                        .ok();
                }
                Ok(())
            }
        }
    }

    /// Raises the fence to this attempt's epoch. A newer epoch there stops this attempt.
    pub(super) async fn raise_fence(&self, history: &MigrationHistory) -> Result<(), StepFailure> {
        let recorded_epoch = history.fence_epoch(&self.fence.resource);
        if recorded_epoch > self.fence.epoch {
            return Err(self.newer_attempt_failure(recorded_epoch));
        }
        if recorded_epoch == self.fence.epoch {
            return Ok(());
        }
        let fence_sql = self.dialect.upsert_ledger_sql(&Write {
            kind: "fence",
            version: &self.fence.resource,
            number: 0,
            state: "held",
            hash: "",
            note: &self.fence.run,
            epoch: self.fence.epoch,
        });
        self.session.run_batch(&fence_sql).await.map_err(StepFailure::from)
    }

    fn newer_attempt_failure(&self, recorded_epoch: u64) -> StepFailure {
        let epoch = self.fence.epoch;
        let resource = self.fence.resource.split('@').next().unwrap_or_default();
        failure(
            FailureKind::Conflict,
            format!("a newer attempt (epoch {recorded_epoch}) of {resource} migrated this database after this attempt (epoch {epoch}) began"),
        )
        .with_hint(
            "let the newer attempt finish; if there is none because the state was lost or reset, run `runner migrate resolve --fence`",
        )
        .with_code(ErrorCode::NewerAttemptMigrated)
    }

    /// Begins a transaction if this attempt still holds lock and fence.
    async fn begin_fenced(&self) -> Result<(), ExecError> {
        let fence_sql = self.dialect.read_fence_sql(&self.fence.resource);
        let rows = match self.dialect.engine {
            SqlEngine::Postgres => {
                let rows = self
                    .session
                    .query_text(&format!("BEGIN; SELECT {}; {fence_sql}", lock::lock_held_condition(self.dialect)))
                    .await?;
                let mut rows = rows.into_iter();
                if rows.next().and_then(|row| row.into_iter().next().flatten()).as_deref() != Some("t") {
                    return Err(ExecError::Failure(lock_lost_failure()));
                }
                rows.collect()
            }
            SqlEngine::Sqlite | SqlEngine::Mysql => {
                self.session.begin(TransactionMode::Immediate).await?;
                self.session.query_text(&fence_sql).await?
            }
        };
        let recorded_epoch: u64 =
            rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).unwrap_or(self.fence.epoch);
        if recorded_epoch > self.fence.epoch {
            return Err(ExecError::Failure(self.newer_attempt_failure(recorded_epoch)));
        }
        Ok(())
    }

    /// Applies a small file on PostgreSQL in one round trip: transaction, check, file and record. The check divides by
    /// zero if this attempt has lost the lock or the fence, so nothing after it runs.
    async fn run_in_one_round_trip(
        &self,
        section: &MigrationSection<'_>,
        statements: &[SqlStatement],
        final_statements: &[String],
    ) -> Result<(), ExecError> {
        let (Some(first), Some(end)) = (statements.first(), statements.last()) else {
            self.begin_fenced().await?;
            return self.write_and_commit(final_statements).await;
        };
        let range = first.range.start..end.range.end;
        let before = format!(
            "BEGIN; SELECT 1 / CASE WHEN {} AND COALESCE(({}), 0) <= {} THEN 1 ELSE 0 END; ",
            lock::lock_held_condition(self.dialect),
            self.dialect.read_fence_sql(&self.fence.resource),
            self.fence.epoch
        );
        let sql = format!("{before}{}; {}; COMMIT", &section.text[range.clone()], final_statements.join("; "));
        let Err(fault) = self.session.run_batch(&sql).await else { return Ok(()) };
        if fault.completed == 1 && fault.has_code(&["22012"]) {
            self.session.rollback();
            self.begin_fenced().await?;
            return Err(ExecError::Failure(lock_lost_failure()));
        }
        let at =
            statements.get(fault.completed.saturating_sub(2)).map_or(range.start, |statement| statement.range.start);
        Err(ExecError::Session(match fault.position {
            Some(SqlPosition { line: 1, column }) if column > before.len() as u64 => {
                let position = Some(SqlPosition { line: 1, column: column - before.len() as u64 });
                SqlSessionError { position, ..fault }.shift_position(section.text, range.start)
            }
            Some(SqlPosition { line: 2.., .. }) => fault.shift_position(section.text, range.start),
            Some(_) | None => SqlSessionError { position: Some(SqlPosition::at(section.text, at)), ..fault },
        }))
    }

    /// Writes the records of a transaction and commits it.
    async fn write_and_commit(&self, statements: &[String]) -> Result<(), ExecError> {
        match self.dialect.engine {
            // The driver sends one text in one round trip. MySQL's driver would run statements after an error, too.
            SqlEngine::Postgres => self.session.run_batch(&format!("{}; COMMIT", statements.join("; "))).await?,
            SqlEngine::Sqlite | SqlEngine::Mysql => {
                for statement in statements {
                    self.session.run_batch(statement).await?;
                }
                self.session.commit().await?;
            }
        }
        Ok(())
    }

    /// Retries while other sessions block it.
    async fn retry_on_contention<F: Future<Output = Result<(), ExecError>>>(
        &self,
        what: &str,
        mut work: impl FnMut() -> F,
    ) -> Result<(), ExecError> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            match work().await {
                Err(ExecError::Session(fault)) if fault.is_contention() && !fault.lost => {
                    self.session.rollback();
                    if began.elapsed() + pause > self.options.contention_timeout {
                        return Err(ExecError::Session(
                            fault
                                .with_hint(format!("end the transactions that block {what}, or wait for less traffic")),
                        ));
                    }
                    (self.log)(
                        MessageLevel::Warn,
                        format!("{what} is waiting for another session's lock: {}", fault.message),
                    );
                    tokio::time::sleep(lock::jittered(pause)).await;
                    pause = (pause * 2).min(Duration::from_secs(3));
                }
                Err(error) => {
                    self.session.rollback();
                    return Err(error);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Applies one file. Returns its duration.
    pub(super) async fn apply_file(
        &self,
        migration: &Migration,
        history: &MigrationHistory,
    ) -> Result<Duration, StepFailure> {
        let began = Instant::now();
        let section = MigrationSection::up(migration);
        let took = || began.elapsed();
        let final_statements = || {
            let mut last = vec![self.format.insert_sql(self.dialect, migration, took().as_nanos(), &self.fence.run)];
            if self.format.needs_note(migration) {
                last.push(self.dialect.file_note_sql(migration, self.fence.epoch));
            }
            last
        };
        self.run_section(&section, &migration.version, history, final_statements).await?;
        Ok(took())
    }

    /// Runs a part of a file, with the final statements in its last transaction.
    pub(super) async fn run_section(
        &self,
        section: &MigrationSection<'_>,
        version: &str,
        history: &MigrationHistory,
        final_statements: impl Fn() -> Vec<String>,
    ) -> Result<(), StepFailure> {
        let in_file = |error| self.failure_in_file(section, error);
        let statements = section_statements(self.dialect.engine, section).map_err(|fault| in_file(fault.into()))?;
        let is_transactional = !section.no_transaction && self.dialect.engine != SqlEngine::Mysql;
        let what = section.file_name;
        if is_transactional {
            let statements = without_outer_transaction(self.dialect.engine, section, statements)
                .map_err(|fault| in_file(fault.into()))?;
            let size = statements.last().map_or(0, |last| last.range.end)
                - statements.first().map_or(0, |first| first.range.start);
            let is_small = self.dialect.engine == SqlEngine::Postgres
                && size <= MAX_BATCH_BYTES
                && statements.iter().all(|statement| statement.copy_data.is_none());
            let run_transaction = async || {
                if is_small {
                    return self.run_in_one_round_trip(section, &statements, &final_statements()).await;
                }
                self.begin_fenced().await?;
                self.run_batches(section, &statements).await?;
                self.write_and_commit(&final_statements()).await
            };
            self.retry_on_contention(what, run_transaction).await.map_err(in_file)?;
        } else {
            let units = unit::split_into_units(self.dialect.engine, section.text, statements)
                .map_err(|fault| in_file(fault.into()))?;
            self.run_units(section, version, &units, history).await.map_err(in_file)?;
            let end = async || {
                self.begin_fenced().await?;
                let mut last = final_statements();
                last.push(self.dialect.delete_ledger_sql("statement", version, 0));
                self.write_and_commit(&last).await
            };
            self.retry_on_contention(what, end).await.map_err(in_file)?;
        }
        for notice in self.session.take_notices() {
            (self.log)(MessageLevel::Info, format!("{what}: {notice}"));
        }
        if may_change_session(self.dialect.engine, &section.text[section.range.clone()]) {
            self.apply_session_settings().await.map_err(|fault| in_file(fault.into()))?;
        }
        Ok(())
    }

    /// Runs statements in order, with as few round trips as possible.
    pub(super) async fn run_batches(
        &self,
        section: &MigrationSection<'_>,
        statements: &[SqlStatement],
    ) -> Result<(), ExecError> {
        let mut remaining = statements;
        while let Some(first) = remaining.first() {
            let one_by_one = self.dialect.engine == SqlEngine::Mysql;
            let mut count = 1;
            while !one_by_one
                && first.copy_data.is_none()
                && remaining.get(count).is_some_and(|next| {
                    next.copy_data.is_none() && next.range.end - first.range.start <= MAX_BATCH_BYTES
                })
            {
                count += 1;
            }
            let (now, later) = remaining.split_at(count);
            remaining = later;
            let range = first.range.start..now[now.len() - 1].range.end;
            let text = &section.text[range.clone()];
            let outcome = match (&first.copy_data, self.session) {
                (Some(data), SqlSession::Postgres(session)) => session.copy_in(text, &section.text[data.clone()]).await,
                (Some(_) | None, session) => session.run_batch(text).await,
            };
            outcome.map_err(|fault| {
                // Not every error has a position; the number of completed statements identifies the failed one.
                let at = now.get(fault.completed).map_or(range.start, |statement| statement.range.start);
                match fault.position {
                    Some(_) => fault.shift_position(section.text, range.start),
                    None => SqlSessionError { position: Some(SqlPosition::at(section.text, at)), ..fault },
                }
            })?;
        }
        Ok(())
    }

    /// Runs the units of a non-transactional file, from where it stands.
    async fn run_units(
        &self,
        section: &MigrationSection<'_>,
        version: &str,
        units: &[ExecutionUnit],
        history: &MigrationHistory,
    ) -> Result<(), ExecError> {
        let recorded = history.recorded_statements(version);
        if let Some((number, _)) = recorded.iter().find(|(number, _)| **number > units.len()) {
            return Err(ExecError::Failure(self.edited_failure(section, *number, units.last())));
        }
        for unit in units {
            let start = unit.statements[0].range.start;
            let entry = recorded.get(&unit.number).copied();
            match (&unit.mode, entry) {
                (ExecutionMode::Session, _) => self.run_batches(section, &unit.statements).await?,
                (_, Some(entry)) if entry.state == "done" && entry.hash == unit.hash => {}
                (_, Some(entry)) if entry.state == "done" => {
                    return Err(ExecError::Failure(self.edited_failure(section, unit.number, Some(unit))));
                }
                (ExecutionMode::Transactional, _) => {
                    let run_transaction = async || {
                        self.begin_fenced().await?;
                        self.run_batches(section, &unit.statements).await?;
                        self.write_and_commit(&[self.statement_done_sql(version, unit, "")]).await
                    };
                    self.retry_on_contention(section.file_name, run_transaction).await?;
                }
                (ExecutionMode::NonTransactional(check), entry) => {
                    let mut is_retry = false;
                    if let Some(entry) = entry {
                        match self.probe_intent(entry).await? {
                            IntentOutcome::Applied if entry.hash == unit.hash => {
                                let line = SqlPosition::at(section.text, start).line;
                                (self.log)(
                                    MessageLevel::Info,
                                    format!(
                                        "{}:{line}: the last attempt had already run the statement; adopted",
                                        section.file_name
                                    ),
                                );
                                self.session.run_batch(&self.statement_done_sql(version, unit, "adopted")).await?;
                                continue;
                            }
                            IntentOutcome::Applied => {
                                return Err(ExecError::Failure(self.edited_failure(section, unit.number, Some(unit))));
                            }
                            IntentOutcome::NotApplied => is_retry = true,
                            IntentOutcome::Unknown => {
                                return Err(ExecError::Failure(self.unknown_outcome_failure(section, version, unit)));
                            }
                        }
                    }
                    self.retry_on_contention(section.file_name, async || {
                        self.run_non_transactional(section, version, unit, check, is_retry).await
                    })
                    .await?;
                }
            }
        }
        Ok(())
    }

    fn statement_done_sql(&self, version: &str, unit: &ExecutionUnit, note: &str) -> String {
        self.dialect.upsert_ledger_sql(&Write {
            kind: "statement",
            version,
            number: unit.number,
            state: "done",
            hash: &unit.hash,
            note,
            epoch: self.fence.epoch,
        })
    }

    /// The catalog's answer about an intent.
    async fn probe_intent(&self, entry: &LedgerRow) -> Result<IntentOutcome, SqlSessionError> {
        let note: serde_json::Value = serde_json::from_str(&entry.note).unwrap_or_default();
        let check = serde_json::from_value(note["about"].clone()).unwrap_or(CatalogCheck::Unobservable);
        catalog::intent_outcome(self.session, self.dialect, &check, note["before"].as_str().unwrap_or_default()).await
    }

    /// Runs one statement that no transaction can contain.
    async fn run_non_transactional(
        &self,
        section: &MigrationSection<'_>,
        version: &str,
        unit: &ExecutionUnit,
        check: &CatalogCheck,
        is_retry: bool,
    ) -> Result<(), ExecError> {
        let start = unit.statements[0].range.start;
        let before = catalog::state_before(self.session, self.dialect, check).await?;
        let note =
            json!({ "about": check, "before": before, "line": SqlPosition::at(section.text, start).line }).to_string();
        let intent = self.dialect.upsert_ledger_sql(&Write {
            kind: "statement",
            version,
            number: unit.number,
            state: "intent",
            hash: &unit.hash,
            note: &note,
            epoch: self.fence.epoch,
        });
        self.begin_fenced().await?;
        self.write_and_commit(&[intent]).await?;
        let outcome = match check {
            // Some of them may already be dropped.
            CatalogCheck::TablesDropped { names } if is_retry => {
                let tables = names
                    .iter()
                    .map(|name| name.iter().map(|part| self.dialect.quote_name(part)).collect::<Vec<_>>().join("."));
                let sql = format!("DROP TABLE IF EXISTS {}", tables.collect::<Vec<_>>().join(", "));
                self.session.run_batch(&sql).await.map_err(|fault| fault.shift_position(section.text, start).into())
            }
            // These wait for transactions, not for table locks, so nobody queues behind them.
            CatalogCheck::IndexBuilt { .. }
            | CatalogCheck::IndexDropped { .. }
            | CatalogCheck::IndexRebuilt { .. }
            | CatalogCheck::PartitionDetached { .. } => {
                self.session.run_batch("SET lock_timeout = 0").await?;
                let outcome = self.run_batches(section, &unit.statements).await;
                if !matches!(&outcome, Err(ExecError::Session(fault)) if fault.lost) {
                    let limit = self.options.lock_timeout.as_millis();
                    self.session.run_batch(&format!("SET lock_timeout = {limit}")).await?;
                }
                outcome
            }
            CatalogCheck::Database { .. }
            | CatalogCheck::ShowCreate { .. }
            | CatalogCheck::TablesDropped { .. }
            | CatalogCheck::Repeatable
            | CatalogCheck::Unobservable => self.run_batches(section, &unit.statements).await,
        };
        match outcome {
            Ok(()) => Ok(self.session.run_batch(&self.statement_done_sql(version, unit, "")).await?),
            Err(ExecError::Session(fault)) if !fault.lost => {
                // The server reported a failure, but an index may be half built.
                let intent_outcome = catalog::intent_outcome(self.session, self.dialect, check, &before).await?;
                if intent_outcome != IntentOutcome::Applied {
                    self.session.run_batch(&self.dialect.delete_ledger_sql("statement", version, unit.number)).await?;
                }
                Err(ExecError::Session(fault))
            }
            Err(error) => Err(error),
        }
    }

    fn edited_failure(
        &self,
        section: &MigrationSection<'_>,
        number: usize,
        unit: Option<&ExecutionUnit>,
    ) -> StepFailure {
        let line = unit.map_or(1, |unit| SqlPosition::at(section.text, unit.statements[0].range.start).line);
        failure(FailureKind::Permanent, format!("statement {number} was changed or removed after it was applied"))
            .with_hint("restore the applied statements, and change only the ones after them")
            .with_code(ErrorCode::StatementChanged)
            .with_detail("line", line)
    }

    fn unknown_outcome_failure(
        &self,
        section: &MigrationSection<'_>,
        version: &str,
        unit: &ExecutionUnit,
    ) -> StepFailure {
        let start = unit.statements[0].range.start;
        let sql: String = section.text[unit.statements[0].range.clone()].chars().take(120).collect();
        let number = unit.number;
        failure(FailureKind::Conflict, format!("the outcome of statement {number} in the last attempt is unknown: {sql}"))
            .with_hint(format!(
                "check the database, then run `runner migrate resolve {version} --retry-from {number}` if it did not run, `--retry-from {}` if it \
                 did; `--applied` or `--rolled-back` settles the whole file",
                number + 1
            ))
            .with_code(ErrorCode::StatementInDoubt)
            .with_detail("line", SqlPosition::at(section.text, start).line)
    }

    pub(super) fn failure_in_file(&self, section: &MigrationSection<'_>, error: ExecError) -> StepFailure {
        let found = match error {
            ExecError::Failure(failure) => failure,
            ExecError::Session(fault) => {
                let hint = hint_for(self.dialect.engine, section, &fault);
                let lost = fault.lost;
                let mut failure = StepFailure::from(fault);
                failure.hint = hint.or(failure.hint);
                if lost {
                    failure.hint = Some(
                        "check that the database server answers: the next attempt resumes where this one ended"
                            .to_owned(),
                    );
                }
                failure
            }
        };
        found.with_detail("file", format!("{}{}", self.dir_prefix, section.file_name))
    }
}

fn lock_lost_failure() -> StepFailure {
    let mut failure = failure(FailureKind::Transient, "this session lost the migration lock to another session")
        .with_hint("check that no file releases all advisory locks: that releases the runner's too")
        .with_code(ErrorCode::MigrationLockLost);
    failure.retryable = true;
    failure
}
