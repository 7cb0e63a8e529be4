//! The operator's commands on a step's migrations: status, pending files, dry run, and corrections of the history.
//!
//! Invariant: corrections happen under the migration lock, and are recorded in the tool's own table. Deliberately
//! absent: the deployment's lock and journal, which the caller handles.

use super::{
    super::sql::{SqlEngine, SqlSession, TransactionMode},
    MigrationJob, MigrationLogFn,
    dialect::LedgerWrite as Write,
    files::{Migration, version_order},
    history::{self, MigrationHistory},
    lint::{self, LintFinding, LintLevel},
    run::{MigrationFence, MigrationRun},
    section::{MigrationSection, section_statements, without_outer_transaction},
};
use crate::failure;
use contract::step::{FailureKind, MessageLevel, StepFailure};

/// A step's migrations and their database.
pub struct MigrationAdmin {
    job: MigrationJob,
    folder: std::path::PathBuf,
}

/// The status of a file.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MigrationFileStatus {
    /// Its name.
    pub file: String,
    /// Its version.
    pub version: String,
    /// `applied`, `pending`, `partly`, `changed` or `line-ends`.
    pub state: &'static str,
    /// For a partly applied file: how many of its statements are recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statements: Option<usize>,
}

/// The status of all migrations.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MigrationStatus {
    /// `sqlx`, `dbmate` or `plain`.
    pub format: &'static str,
    /// `postgres`, `mysql` or `sqlite`.
    pub engine: &'static str,
    /// The files, in order.
    pub files: Vec<MigrationFileStatus>,
    /// Why no file would be applied.
    pub problems: Vec<StepFailure>,
}

/// An operator's correction for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationResolution {
    /// All of it is applied.
    Applied,
    /// None of it is applied.
    RolledBack,
    /// Only the statements before this one are applied.
    RetryFrom(usize),
}

impl MigrationAdmin {
    /// Opens a step's migrations. `folder` is the directory's path on this machine.
    #[must_use]
    pub fn new(job: MigrationJob, folder: std::path::PathBuf) -> Self {
        Self { job, folder }
    }

    /// The status of each file.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn status(&self) -> Result<MigrationStatus, StepFailure> {
        let history = self.job.read_history().await?;
        let diff = self.job.history_diff(&history);
        let changed = |file: &Migration| {
            diff
                .problems
                .iter()
                .any(|problem| matches!(problem, history::HistoryProblem::Changed { version, .. } if *version == file.version))
        };
        let file = |(index, file): (usize, &Migration)| {
            let begun = history.recorded_statements(&file.version).len();
            let (state, statements) = if diff.pending.contains(&index) && begun > 0 {
                ("partly", Some(begun))
            } else if diff.pending.contains(&index) {
                ("pending", None)
            } else if changed(file) {
                ("changed", None)
            } else if diff.line_endings_changed.contains(&file.file_name) {
                ("line-ends", None)
            } else {
                ("applied", None)
            };
            MigrationFileStatus { file: file.file_name.clone(), version: file.version.clone(), state, statements }
        };
        Ok(MigrationStatus {
            format: self.job.format.name(),
            engine: self.job.dialect.engine.as_str(),
            files: self.job.files.iter().enumerate().map(file).collect(),
            problems: diff
                .problems
                .iter()
                .map(|one| one.to_failure(&self.job.dir_prefix, &self.job.database_name))
                .collect(),
        })
    }

    /// The names and SQL of the pending files.
    ///
    /// # Errors
    /// An error of the database, or a problem that prevents migrations.
    pub async fn pending(&self) -> Result<Vec<(String, String)>, StepFailure> {
        let history = self.job.read_history().await?;
        let diff = self.job.history_diff(&history);
        if let Some(problem) = diff.problems.first() {
            return Err(problem.to_failure(&self.job.dir_prefix, &self.job.database_name));
        }
        let one = |index: &usize| {
            let file = &self.job.files[*index];
            (format!("{}{}", self.job.dir_prefix, file.file_name), file.up_sql().trim_matches('\n').to_owned())
        };
        Ok(diff.pending.iter().map(one).collect())
    }

    /// The linter's findings in the pending files, and whether they stop a deployment.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn lint(&self) -> Result<(Vec<LintFinding>, LintLevel), StepFailure> {
        let severity = self.job.options.lint_level;
        if severity == LintLevel::Off {
            return Ok((Vec::new(), severity));
        }
        let history = self.job.read_history().await?;
        let job = &self.job;
        let files = job.history_diff(&history).pending.into_iter().map(|index| &job.files[index]);
        let found = files.flat_map(|file| {
            let path = self.folder.join(&file.file_name);
            let found = lint::lint_migration(job.dialect.engine, file, &job.dir_prefix, &job.options.lint_skips);
            found.into_iter().map(move |lint| LintFinding { path: path.clone(), ..lint })
        });
        Ok((found.collect(), severity))
    }

    /// Runs the pending files and rolls them back, if the engine can.
    ///
    /// # Errors
    /// Any error of a migration.
    pub async fn dry_run(&mut self, log: &MigrationLogFn<'_>) -> Result<Vec<String>, StepFailure> {
        let engine = self.job.dialect.engine;
        if engine == SqlEngine::Mysql {
            return Err(failure(
                FailureKind::InvalidConfig,
                "MariaDB and MySQL can't roll back DDL, so a dry run is impossible there",
            )
            .with_hint("run the migrations on a copy of the database"));
        }
        let history = self.job.read_history().await?;
        let diff = self.job.history_diff(&history);
        if let Some(problem) = diff.problems.first() {
            return Err(problem.to_failure(&self.job.dir_prefix, &self.job.database_name));
        }
        let fence = MigrationFence::default();
        let session = self.session()?;
        let _lock = self.job.acquire_lock(session, log).await?;
        let run = self.new_run(session, &fence, log);
        run.apply_session_settings().await?;
        session.begin(TransactionMode::Immediate).await?;
        let mut done = Vec::new();
        let mut outcome = Ok(());
        for index in &diff.pending {
            let file = &self.job.files[*index];
            if file.no_transaction {
                log(
                    MessageLevel::Warn,
                    format!("{}: skipped with the files after it: it can't be rolled back", file.file_name),
                );
                break;
            }
            let section = MigrationSection::up(file);
            outcome = run.dry_run(&section).await;
            if outcome.is_err() {
                break;
            }
            done.push(file.file_name.clone());
        }
        session.rollback();
        // Its error shows after the rollback.
        run.apply_session_settings().await?;
        outcome.map(|()| done)
    }

    /// Marks all files up to a version as applied, without running them.
    ///
    /// # Errors
    /// The file does not exist, or the history is not empty.
    pub async fn baseline(
        &mut self,
        version: &str,
        fence: &MigrationFence,
        log: &MigrationLogFn<'_>,
    ) -> Result<Vec<String>, StepFailure> {
        let last = self.file_index(version)?;
        let (_lock, history) = self.lock_and_read_history(log).await?;
        if let Some(row) = history.rows.first() {
            return Err(failure(
                FailureKind::Conflict,
                format!("{} is already applied; a baseline is for a database without a migration history", row.version),
            )
            .with_hint("`runner migrate resolve VERSION --applied` marks one more file as applied"));
        }
        let mut done = Vec::new();
        for index in 0..=last {
            let file = &self.job.files[index];
            self.insert_history_row(file, fence).await?;
            done.push(file.file_name.clone());
        }
        Ok(done)
    }

    /// Records an operator's correction for a file.
    ///
    /// # Errors
    /// The file or the statement does not exist.
    pub async fn resolve(
        &mut self,
        version: &str,
        resolution: MigrationResolution,
        fence: &MigrationFence,
        log: &MigrationLogFn<'_>,
    ) -> Result<String, StepFailure> {
        let index = self.file_index(version)?;
        let (_lock, history) = self.lock_and_read_history(log).await?;
        let (session, dialect) = (self.session()?, &self.job.dialect);
        let file = &self.job.files[index];
        let is_applied =
            history.rows.iter().any(|row| history::same_version(&row.version, &file.version) && !row.is_unfinished);
        if is_applied && resolution != MigrationResolution::RolledBack {
            return Err(failure(FailureKind::Conflict, format!("{} is on record as applied", file.file_name)));
        }
        let delete_row_sql = format!(
            "DELETE FROM {} WHERE version = {}",
            dialect.qualified_table(self.job.format.history_table()),
            dialect.text_literal(&file.version)
        );
        let delete_statements_sql = |from| dialect.delete_ledger_sql("statement", &file.version, from);
        match resolution {
            MigrationResolution::Applied => {
                session.run_batch(&delete_row_sql).await?;
                self.insert_history_row(file, fence).await?;
                session.run_batch(&delete_statements_sql(0)).await?;
            }
            MigrationResolution::RolledBack => {
                session.run_batch(&delete_row_sql).await?;
                session.run_batch(&delete_statements_sql(0)).await?;
            }
            MigrationResolution::RetryFrom(number) => {
                let section = MigrationSection::up(file);
                let statements = section_statements(dialect.engine, &section)?;
                let units = super::unit::split_into_units(dialect.engine, &file.text, statements)?;
                if number == 0 || number > units.len() + 1 {
                    return Err(failure(
                        FailureKind::InvalidConfig,
                        format!("{} has {} statements; number {number} does not exist", file.file_name, units.len()),
                    ));
                }
                for unit in units.iter().take(number - 1) {
                    session
                        .run_batch(&dialect.upsert_ledger_sql(&Write {
                            kind: "statement",
                            version: &file.version,
                            number: unit.number,
                            state: "done",
                            hash: &unit.hash,
                            note: "by an operator's word",
                            epoch: fence.epoch,
                        }))
                        .await?;
                }
                session.run_batch(&delete_statements_sql(number)).await?;
            }
        }
        Ok(file.file_name.clone())
    }

    /// Clears the fence for all apps and environments.
    ///
    /// # Errors
    /// An error of the database.
    pub async fn reset_fence(&mut self, log: &MigrationLogFn<'_>) -> Result<(), StepFailure> {
        let (_lock, _) = self.lock_and_read_history(log).await?;
        let sql = format!("DELETE FROM {} WHERE kind = 'fence'", self.job.dialect.qualified_table(super::LEDGER_TABLE));
        self.session()?.run_batch(&sql).await?;
        Ok(())
    }

    /// Accepts a changed file as the applied one.
    ///
    /// # Errors
    /// The file does not exist or is not applied.
    pub async fn accept(
        &mut self,
        version: &str,
        fence: &MigrationFence,
        log: &MigrationLogFn<'_>,
    ) -> Result<String, StepFailure> {
        let index = self.file_index(version)?;
        let (_lock, history) = self.lock_and_read_history(log).await?;
        let file = &self.job.files[index];
        if !history.is_applied(&file.version) {
            return Err(failure(FailureKind::Conflict, format!("{} is not applied", file.file_name)));
        }
        let session = self.session()?;
        let update_checksum_sql = self.job.format.update_checksum_sql(&self.job.dialect, file);
        if !update_checksum_sql.is_empty() {
            session.run_batch(&update_checksum_sql).await?;
        }
        session.run_batch(&self.job.dialect.file_note_sql(file, fence.epoch)).await?;
        Ok(file.file_name.clone())
    }

    /// Undoes the newest applied files with their down migrations: down to a version, which stays, or only the last.
    ///
    /// # Errors
    /// A down migration is missing, or an error of the database.
    pub async fn down(
        &mut self,
        to: Option<&str>,
        fence: &MigrationFence,
        log: &MigrationLogFn<'_>,
    ) -> Result<Vec<String>, StepFailure> {
        let target_index =
            to.map(|version| if version == "0" { Ok(None) } else { self.file_index(version).map(Some) }).transpose()?;
        let (_lock, history) = self.lock_and_read_history(log).await?;
        let mut applied: Vec<&Migration> =
            self.job.files.iter().filter(|file| history.is_applied(&file.version)).collect();
        applied.reverse();
        let undone: Vec<&Migration> = match target_index {
            None => applied.into_iter().take(1).collect(),
            Some(None) => applied,
            Some(Some(index)) => {
                let target_order = version_order(&self.job.files[index].version);
                applied.into_iter().take_while(|file| version_order(&file.version) > target_order).collect()
            }
        };
        if let Some(file) = undone.iter().find(|file| file.down.is_none()) {
            return Err(failure(FailureKind::NotFound, format!("{} has no down migration", file.file_name))
                .with_hint("write a new migration that undoes what it did")
                .with_detail("file", format!("{}{}", self.job.dir_prefix, file.file_name)));
        }
        let (session, dialect) = (self.session()?, &self.job.dialect);
        let run = self.new_run(session, fence, log);
        run.raise_fence(&history).await?;
        run.apply_session_settings().await?;
        let mut done = Vec::new();
        for file in undone {
            let Some(down) = &file.down else { continue };
            let section = MigrationSection::down(down);
            let table = dialect.qualified_table(self.job.format.history_table());
            let final_statements = || {
                vec![
                    format!("DELETE FROM {table} WHERE version = {}", dialect.text_literal(&file.version)),
                    dialect.delete_ledger_sql("file", &file.version, 0),
                ]
            };
            // A down migration has its own recorded statements.
            run.run_section(&section, &format!("down {}", file.version), &history, final_statements).await?;
            log(MessageLevel::Info, format!("undid {}", file.file_name));
            done.push(file.file_name.clone());
        }
        Ok(done)
    }

    /// Takes the lock, creates the tables, and reads the history.
    async fn lock_and_read_history(
        &mut self,
        log: &MigrationLogFn<'_>,
    ) -> Result<(super::lock::MigrationLock, MigrationHistory), StepFailure> {
        let session =
            self.job.session.take().ok_or_else(|| failure(FailureKind::NotFound, "the database does not exist yet"))?;
        let lock = self.job.acquire_lock(&session, log).await;
        let created = match &lock {
            Ok(_) => self.job.create_tables(&session).await,
            Err(_) => Ok(()),
        };
        self.job.session = Some(session);
        let held = lock?;
        created?;
        Ok((held, self.job.read_history().await?))
    }

    fn session(&self) -> Result<&SqlSession, StepFailure> {
        self.job.session.as_ref().ok_or_else(|| failure(FailureKind::NotFound, "the database does not exist yet"))
    }

    fn new_run<'a>(
        &'a self,
        session: &'a SqlSession,
        fence: &'a MigrationFence,
        log: &'a MigrationLogFn<'a>,
    ) -> MigrationRun<'a> {
        let MigrationJob { dialect, format, dir_prefix, options, .. } = &self.job;
        MigrationRun { session, dialect, format: *format, dir_prefix, options, fence, log }
    }

    fn file_index(&self, version: &str) -> Result<usize, StepFailure> {
        let found = self
            .job
            .files
            .iter()
            .position(|file| history::same_version(&file.version, version) || file.file_name == version);
        found.ok_or_else(|| {
            failure(FailureKind::NotFound, format!("migration {version} is missing from `{}`", self.job.dir_prefix))
                .with_hint("`runner migrate status` lists them")
        })
    }

    async fn insert_history_row(&self, file: &Migration, fence: &MigrationFence) -> Result<(), StepFailure> {
        let session = self.session()?;
        session.run_batch(&self.job.format.insert_sql(&self.job.dialect, file, 0, &fence.run)).await?;
        if self.job.format.needs_note(file) {
            session.run_batch(&self.job.dialect.file_note_sql(file, fence.epoch)).await?;
        }
        Ok(())
    }
}

impl MigrationRun<'_> {
    /// Runs a part inside the open transaction.
    async fn dry_run(&self, part: &MigrationSection<'_>) -> Result<(), StepFailure> {
        let statements = section_statements(self.dialect.engine, part)
            .and_then(|statements| without_outer_transaction(self.dialect.engine, part, statements))
            .map_err(|fault| self.failure_in_file(part, fault.into()))?;
        self.run_batches(part, &statements).await.map_err(|error| self.failure_in_file(part, error))
    }
}
