//! Applying: one file after the other, each with its record.
//!
//! Invariants: a file that may is one transaction with its row, under the fence; of one that may not, each unit has its record,
//! and what no transaction can hold has an intent before it. Before an intent is acted on again, the catalogue is asked.
//! Deliberately absent: deciding which files; that is [`history`](super::history)'s.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    super::sql::{Engine, Mode, Position, Session, SqlFault},
    Options, Teller,
    dialect::{Entry as Write, Names},
    files::Migration,
    format::Format,
    history::{Entry, Record},
    lock,
    part::{Part, changes_session, hint, statements_of, unwrapped},
    probe::{self, Verdict},
    split::Statement,
    unit::{self, About, Unit, Way},
};
use crate::failure;
use contract::step::{Failure, Level};

/// A text of this size goes to PostgreSQL in one piece; it parses a piece as a whole.
const PIECE: usize = 256 << 10;

/// Who migrates.
#[derive(Clone, Debug, Default)]
pub struct Fence {
    /// App and environment.
    pub resource: String,
    /// The attempt, counted over all runs.
    pub epoch: u64,
    /// The run, for the history.
    pub run: String,
}

impl Fence {
    /// Whose epochs are compared: an app's in an environment, as long as they are counted in one state.
    #[must_use]
    pub fn resource(app: &str, environment: &str, lineage: &str) -> String {
        format!("{app}/{environment}@{lineage}")
    }

    /// As a step's input tells it; the runner wrote that.
    #[must_use]
    pub fn of(input: &serde_json::Value) -> Self {
        let text = |name: &str| input[name].as_str().unwrap_or_default();
        Self {
            resource: Self::resource(text("app"), text("environment"), text("lineage")),
            epoch: input["epoch"].as_u64().unwrap_or(0),
            run: text("run").to_owned(),
        }
    }
}

/// A migration that is under way.
pub(super) struct Run<'a> {
    pub(super) session: &'a Session,
    pub(super) names: &'a Names,
    pub(super) format: &'static dyn Format,
    /// `migrations/`, before names of files.
    pub(super) place: &'a str,
    pub(super) options: &'a Options,
    pub(super) fence: &'a Fence,
    pub(super) tell: &'a Teller<'a>,
}

/// Why a try of something did not succeed.
pub(super) enum Trouble {
    /// As the database says it, with its place in the whole file.
    Fault(SqlFault),
    /// In the runner's own words.
    Failure(Failure),
}

impl From<SqlFault> for Trouble {
    fn from(fault: SqlFault) -> Self {
        Self::Fault(fault)
    }
}

impl Run<'_> {
    /// What every file finds: the runner's time-outs, and nothing that a file before it has set.
    pub(super) async fn settings(&self) -> Result<(), SqlFault> {
        let lock = self.options.lock_timeout.as_millis();
        let statement = self.options.statement_timeout.map_or(0, |limit| limit.as_millis());
        match self.names.engine {
            Engine::Sqlite => self.session.run("PRAGMA foreign_keys = ON").await,
            Engine::Postgres => {
                self.session
                    .run(&format!(
                        "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; SET client_encoding = 'UTF8'; \
                         SET lock_timeout = {lock}; SET statement_timeout = {statement}; \
                         DO $$BEGIN PERFORM set_config('client_connection_check_interval', '250ms', false); \
                         EXCEPTION WHEN OTHERS THEN NULL; END$$"
                    ))
                    .await?;
                self.session.notices();
                Ok(())
            }
            Engine::Mysql => {
                let seconds = self.options.lock_timeout.as_secs().max(1);
                let schema = self.names.schema.as_deref().unwrap_or_default();
                self.session
                    .run(&format!(
                        "USE {}; SET SESSION lock_wait_timeout = {seconds}, SESSION innodb_lock_wait_timeout = {seconds}, \
                         SESSION autocommit = 1, SESSION sql_mode = @@global.sql_mode, SESSION foreign_key_checks = 1, SESSION unique_checks = 1",
                        self.names.quoted(schema)
                    ))
                    .await?;
                if statement > 0 {
                    // MariaDB's; MySQL has none for what writes.
                    self.session
                        .run(&format!("SET SESSION max_statement_time = {}", statement as f64 / 1000.0))
                        .await
                        .ok();
                }
                Ok(())
            }
        }
    }

    /// Puts this attempt into the fence. A newer one in it stops this one.
    pub(super) async fn raise_fence(&self, record: &Record) -> Result<(), Failure> {
        let standing = record.fence(&self.fence.resource);
        if standing > self.fence.epoch {
            return Err(self.fenced(standing));
        }
        if standing == self.fence.epoch {
            return Ok(());
        }
        let own = self.names.record(&Write {
            kind: "fence",
            version: &self.fence.resource,
            number: 0,
            state: "held",
            hash: "",
            note: &self.fence.run,
            epoch: self.fence.epoch,
        });
        self.session.run(&own).await.map_err(Failure::from)
    }

    fn fenced(&self, standing: u64) -> Failure {
        let epoch = self.fence.epoch;
        let resource = self.fence.resource.split('@').next().unwrap_or_default();
        failure(
            "conflict",
            format!("epoch {standing} of {resource} has migrated this database since; this attempt is epoch {epoch}, and stops"),
        )
        .with_hint(
            "the newer attempt goes on; if there is none, since the state was lost or begun anew, say so: `runner migrate resolve --fence`",
        )
        .with_detail("code", "P0316")
    }

    /// Begins a transaction, if this is still the one who may.
    async fn begin(&self) -> Result<(), Trouble> {
        let fence = self.names.read_fence(&self.fence.resource);
        let rows = match self.names.engine {
            Engine::Postgres => {
                let rows = self.session.ask(&format!("BEGIN; SELECT {}; {fence}", lock::check(self.names))).await?;
                let mut rows = rows.into_iter();
                if rows.next().and_then(|row| row.into_iter().next().flatten()).as_deref() != Some("t") {
                    return Err(Trouble::Failure(lock_lost()));
                }
                rows.collect()
            }
            Engine::Sqlite | Engine::Mysql => {
                self.session.begin(Mode::Immediate).await?;
                self.session.ask(&fence).await?
            }
        };
        let standing: u64 =
            rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).unwrap_or(self.fence.epoch);
        if standing > self.fence.epoch {
            return Err(Trouble::Failure(self.fenced(standing)));
        }
        Ok(())
    }

    /// A small file on PostgreSQL: transaction, check, file and record in one round trip. The check divides by zero where this is
    /// not the one who may, so that nothing behind it is done.
    async fn at_once(&self, part: &Part<'_>, statements: &[Statement], last: &[String]) -> Result<(), Trouble> {
        let (Some(first), Some(end)) = (statements.first(), statements.last()) else {
            self.begin().await?;
            return self.record_and_commit(last).await;
        };
        let range = first.range.start..end.range.end;
        let before = format!(
            "BEGIN; SELECT 1 / CASE WHEN {} AND COALESCE(({}), 0) <= {} THEN 1 ELSE 0 END; ",
            lock::check(self.names),
            self.names.read_fence(&self.fence.resource),
            self.fence.epoch
        );
        let sql = format!("{before}{}; {}; COMMIT", &part.text[range.clone()], last.join("; "));
        let Err(fault) = self.session.run(&sql).await else { return Ok(()) };
        if fault.completed == 1 && fault.has_code(&["22012"]) {
            self.session.rollback();
            self.begin().await?;
            return Err(Trouble::Failure(lock_lost()));
        }
        let at =
            statements.get(fault.completed.saturating_sub(2)).map_or(range.start, |statement| statement.range.start);
        Err(Trouble::Fault(match fault.position {
            Some(Position { line: 1, column }) if column > before.len() as u64 => {
                let position = Some(Position { line: 1, column: column - before.len() as u64 });
                SqlFault { position, ..fault }.shifted(part.text, range.start)
            }
            Some(Position { line: 2.., .. }) => fault.shifted(part.text, range.start),
            Some(_) | None => SqlFault { position: Some(Position::at(part.text, at)), ..fault },
        }))
    }

    /// Writes what belongs to a transaction, and commits it.
    async fn record_and_commit(&self, statements: &[String]) -> Result<(), Trouble> {
        match self.names.engine {
            // The driver sends what is one text in one go; MySQL's runs statements behind an error no more than this.
            Engine::Postgres => self.session.run(&format!("{}; COMMIT", statements.join("; "))).await?,
            Engine::Sqlite | Engine::Mysql => {
                for statement in statements {
                    self.session.run(statement).await?;
                }
                self.session.commit().await?;
            }
        }
        Ok(())
    }

    /// Tries something again while others hold what it needs.
    async fn patiently<F: Future<Output = Result<(), Trouble>>>(
        &self,
        what: &str,
        mut work: impl FnMut() -> F,
    ) -> Result<(), Trouble> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            match work().await {
                Err(Trouble::Fault(fault)) if fault.is_contention() && !fault.lost => {
                    self.session.rollback();
                    if began.elapsed() + pause > self.options.patience {
                        return Err(Trouble::Fault(fault.hint(format!(
                            "others hold what {what} needs: end their transactions, or run again when there is less going on"
                        ))));
                    }
                    (self.tell)(Level::Warn, format!("{what} waits for a lock of others: {}", fault.message));
                    tokio::time::sleep(lock::jittered(pause)).await;
                    pause = (pause * 2).min(Duration::from_secs(3));
                }
                Err(trouble) => {
                    self.session.rollback();
                    return Err(trouble);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Applies one file. Returns how long it took.
    pub(super) async fn apply(&self, migration: &Migration, record: &Record) -> Result<Duration, Failure> {
        let began = Instant::now();
        let part = Part::up(migration);
        let took = || began.elapsed();
        let last = || {
            let mut last = vec![self.format.insert(self.names, migration, took().as_nanos(), &self.fence.run)];
            if self.format.needs_note(migration) {
                last.push(self.names.note(migration, self.fence.epoch));
            }
            last
        };
        self.part(&part, &migration.version, record, last).await?;
        Ok(took())
    }

    /// Runs a part of a file, and writes what belongs to it at its end.
    pub(super) async fn part(
        &self,
        part: &Part<'_>,
        version: &str,
        record: &Record,
        last: impl Fn() -> Vec<String>,
    ) -> Result<(), Failure> {
        let located = |trouble| self.located(part, trouble);
        let statements = statements_of(self.names.engine, part).map_err(|fault| located(fault.into()))?;
        let is_whole = !part.alone && self.names.engine != Engine::Mysql;
        let what = part.file_name;
        if is_whole {
            let statements = unwrapped(self.names.engine, part, statements).map_err(|fault| located(fault.into()))?;
            let size = statements.last().map_or(0, |last| last.range.end)
                - statements.first().map_or(0, |first| first.range.start);
            let is_small = self.names.engine == Engine::Postgres
                && size <= PIECE
                && statements.iter().all(|statement| statement.data.is_none());
            let whole = async || {
                if is_small {
                    return self.at_once(part, &statements, &last()).await;
                }
                self.begin().await?;
                self.pieces(part, &statements).await?;
                self.record_and_commit(&last()).await
            };
            self.patiently(what, whole).await.map_err(located)?;
        } else {
            let units = unit::units(self.names.engine, part.text, statements).map_err(|fault| located(fault.into()))?;
            self.units(part, version, &units, record).await.map_err(located)?;
            let end = async || {
                self.begin().await?;
                let mut last = last();
                last.push(self.names.forget("statement", version, 0));
                self.record_and_commit(&last).await
            };
            self.patiently(what, end).await.map_err(located)?;
        }
        for notice in self.session.notices() {
            (self.tell)(Level::Info, format!("{what}: {notice}"));
        }
        if changes_session(self.names.engine, &part.text[part.range.clone()]) {
            self.settings().await.map_err(|fault| located(fault.into()))?;
        }
        Ok(())
    }

    /// Statements one after the other, as few round trips as there may be.
    pub(super) async fn pieces(&self, part: &Part<'_>, statements: &[Statement]) -> Result<(), Trouble> {
        let mut left = statements;
        while let Some(first) = left.first() {
            let one_by_one = self.names.engine == Engine::Mysql;
            let mut count = 1;
            while !one_by_one
                && first.data.is_none()
                && left
                    .get(count)
                    .is_some_and(|next| next.data.is_none() && next.range.end - first.range.start <= PIECE)
            {
                count += 1;
            }
            let (now, later) = left.split_at(count);
            left = later;
            let range = first.range.start..now[now.len() - 1].range.end;
            let text = &part.text[range.clone()];
            let outcome = match (&first.data, self.session) {
                (Some(data), Session::Postgres(session)) => session.copy(text, &part.text[data.clone()]).await,
                (Some(_) | None, session) => session.run(text).await,
            };
            outcome.map_err(|fault| {
                // Not every error has a place; how many statements went well before it tells which one it was.
                let at = now.get(fault.completed).map_or(range.start, |statement| statement.range.start);
                match fault.position {
                    Some(_) => fault.shifted(part.text, range.start),
                    None => SqlFault { position: Some(Position::at(part.text, at)), ..fault },
                }
            })?;
        }
        Ok(())
    }

    /// The units of a file that is not one transaction, from where it stands.
    async fn units(&self, part: &Part<'_>, version: &str, units: &[Unit], record: &Record) -> Result<(), Trouble> {
        let known = record.statements(version);
        if let Some((number, _)) = known.iter().find(|(number, _)| **number > units.len()) {
            return Err(Trouble::Failure(self.edited(part, *number, units.last())));
        }
        for unit in units {
            let start = unit.statements[0].range.start;
            let entry = known.get(&unit.number).copied();
            match (&unit.way, entry) {
                (Way::Setting, _) => self.pieces(part, &unit.statements).await?,
                (_, Some(entry)) if entry.state == "done" && entry.hash == unit.hash => {}
                (_, Some(entry)) if entry.state == "done" => {
                    return Err(Trouble::Failure(self.edited(part, unit.number, Some(unit))));
                }
                (Way::Inside, _) => {
                    let inside = async || {
                        self.begin().await?;
                        self.pieces(part, &unit.statements).await?;
                        self.record_and_commit(&[self.done(version, unit, "")]).await
                    };
                    self.patiently(part.file_name, inside).await?;
                }
                (Way::Outside(about), entry) => {
                    let mut is_again = false;
                    if let Some(entry) = entry {
                        match self.judge(entry).await? {
                            Verdict::Applied if entry.hash == unit.hash => {
                                let line = Position::at(part.text, start).line;
                                (self.tell)(
                                    Level::Info,
                                    format!(
                                        "{}:{line}: the statement was done before the last attempt ended; adopted",
                                        part.file_name
                                    ),
                                );
                                self.session.run(&self.done(version, unit, "adopted")).await?;
                                continue;
                            }
                            Verdict::Applied => {
                                return Err(Trouble::Failure(self.edited(part, unit.number, Some(unit))));
                            }
                            Verdict::NotApplied => is_again = true,
                            Verdict::Unknown => return Err(Trouble::Failure(self.in_doubt(part, version, unit))),
                        }
                    }
                    self.patiently(part.file_name, async || self.outside(part, version, unit, about, is_again).await)
                        .await?;
                }
            }
        }
        Ok(())
    }

    fn done(&self, version: &str, unit: &Unit, note: &str) -> String {
        self.names.record(&Write {
            kind: "statement",
            version,
            number: unit.number,
            state: "done",
            hash: &unit.hash,
            note,
            epoch: self.fence.epoch,
        })
    }

    /// What the catalogue says about an intent.
    async fn judge(&self, entry: &Entry) -> Result<Verdict, SqlFault> {
        let note: serde_json::Value = serde_json::from_str(&entry.note).unwrap_or_default();
        let about = serde_json::from_value(note["about"].clone()).unwrap_or(About::Nothing);
        probe::after(self.session, self.names, &about, note["before"].as_str().unwrap_or_default()).await
    }

    /// One statement that no transaction can hold.
    async fn outside(
        &self,
        part: &Part<'_>,
        version: &str,
        unit: &Unit,
        about: &About,
        is_again: bool,
    ) -> Result<(), Trouble> {
        let start = unit.statements[0].range.start;
        let before = probe::before(self.session, self.names, about).await?;
        let note = json!({ "about": about, "before": before, "line": Position::at(part.text, start).line }).to_string();
        let intent = self.names.record(&Write {
            kind: "statement",
            version,
            number: unit.number,
            state: "intent",
            hash: &unit.hash,
            note: &note,
            epoch: self.fence.epoch,
        });
        self.begin().await?;
        self.record_and_commit(&[intent]).await?;
        let outcome = match about {
            // Some of them may be gone already.
            About::TablesGone { names } if is_again => {
                let tables = names
                    .iter()
                    .map(|name| name.iter().map(|part| self.names.quoted(part)).collect::<Vec<_>>().join("."));
                let sql = format!("DROP TABLE IF EXISTS {}", tables.collect::<Vec<_>>().join(", "));
                self.session.run(&sql).await.map_err(|fault| fault.shifted(part.text, start).into())
            }
            // These wait for transactions, not for tables: nobody queues behind them.
            About::IndexBuilt { .. }
            | About::IndexGone { .. }
            | About::IndexRebuilt { .. }
            | About::Detached { .. } => {
                self.session.run("SET lock_timeout = 0").await?;
                let outcome = self.pieces(part, &unit.statements).await;
                if !matches!(&outcome, Err(Trouble::Fault(fault)) if fault.lost) {
                    let limit = self.options.lock_timeout.as_millis();
                    self.session.run(&format!("SET lock_timeout = {limit}")).await?;
                }
                outcome
            }
            About::Database { .. }
            | About::Shown { .. }
            | About::TablesGone { .. }
            | About::Repeatable
            | About::Nothing => self.pieces(part, &unit.statements).await,
        };
        match outcome {
            Ok(()) => Ok(self.session.run(&self.done(version, unit, "")).await?),
            Err(Trouble::Fault(fault)) if !fault.lost => {
                // The server says that it failed; an index may be half there.
                let verdict = probe::after(self.session, self.names, about, &before).await?;
                if verdict != Verdict::Applied {
                    self.session.run(&self.names.forget("statement", version, unit.number)).await?;
                }
                Err(Trouble::Fault(fault))
            }
            Err(trouble) => Err(trouble),
        }
    }

    fn edited(&self, part: &Part<'_>, number: usize, unit: Option<&Unit>) -> Failure {
        let line = unit.map_or(1, |unit| Position::at(part.text, unit.statements[0].range.start).line);
        failure("permanent", format!("statement {number} was applied, and was changed or taken away since"))
            .with_hint("restore the statements that were applied, and change only what comes behind them")
            .with_detail("code", "P0318")
            .with_detail("line", line)
    }

    fn in_doubt(&self, part: &Part<'_>, version: &str, unit: &Unit) -> Failure {
        let start = unit.statements[0].range.start;
        let sql: String = part.text[unit.statements[0].range.clone()].chars().take(120).collect();
        let number = unit.number;
        failure("conflict", format!("nobody knows whether statement {number} was done when the last attempt ended: {sql}"))
            .with_hint(format!(
                "look, then say so: `runner migrate resolve {version} --retry-from {number}` if it was not done, `--retry-from {}` if it \
                 was, `--applied` or `--rolled-back` for the whole file",
                number + 1
            ))
            .with_detail("code", "P0319")
            .with_detail("line", Position::at(part.text, start).line)
    }

    pub(super) fn located(&self, part: &Part<'_>, trouble: Trouble) -> Failure {
        let found = match trouble {
            Trouble::Failure(failure) => failure,
            Trouble::Fault(fault) => {
                let hint = hint(self.names.engine, part, &fault);
                let lost = fault.lost;
                let mut failure = Failure::from(fault);
                failure.hint = hint.or(failure.hint);
                if lost {
                    failure.hint = Some("run again: it goes on where this ended".to_owned());
                }
                failure
            }
        };
        found.with_detail("file", format!("{}{}", self.place, part.file_name))
    }
}

fn lock_lost() -> Failure {
    let mut failure = failure("transient", "the lock of the migration was lost to another session")
        .with_hint("run again; a migration that lets go of all advisory locks lets go of the runner's too")
        .with_detail("code", "P0317");
    failure.retryable = true;
    failure
}
