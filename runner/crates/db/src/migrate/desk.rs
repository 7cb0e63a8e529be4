//! What an operator can ask and say about a step's migrations: how they stand, what would run, and what is to be believed.
//!
//! Invariant: whatever is said is said under the same lock as a migration, and recorded in the tool's own table. Deliberately
//! absent: the deployment's lock and journal, which are the caller's.

use super::{
    super::sql::{Engine, Mode, Session},
    Job, Teller,
    dialect::Entry as Write,
    files::{Migration, order},
    history::{self, Record},
    lint::{self, Lint, Severity},
    part::{Part, statements_of, unwrapped},
    run::{Fence, Run},
};
use crate::failure;
use contract::step::{Failure, Level};

/// A step's migrations, and the database they are for.
pub struct Desk {
    job: Job,
    folder: std::path::PathBuf,
}

/// One file.
#[derive(Clone, Debug, serde::Serialize)]
pub struct FileState {
    /// Its name.
    pub file: String,
    /// Its version.
    pub version: String,
    /// `applied`, `pending`, `partly`, `changed` or `line-ends`.
    pub state: &'static str,
    /// Of a file that is partly done: how many of its statements are on record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statements: Option<usize>,
}

/// How things stand.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Stand {
    /// `sqlx`, `dbmate` or `plain`.
    pub format: &'static str,
    /// `postgres`, `mysql` or `sqlite`.
    pub engine: &'static str,
    /// In order.
    pub files: Vec<FileState>,
    /// Why nothing would be applied.
    pub problems: Vec<Failure>,
}

/// What an operator says about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// All of it is done.
    Applied,
    /// None of it is there.
    RolledBack,
    /// The statements before this one are done, the others not.
    RetryFrom(usize),
}

impl Desk {
    /// A step's migrations, opened to look or to write. `folder` is the directory's path on this machine.
    #[must_use]
    pub fn new(job: Job, folder: std::path::PathBuf) -> Self {
        Self { job, folder }
    }

    /// How each file stands.
    ///
    /// # Errors
    /// The database's.
    pub async fn stand(&self) -> Result<Stand, Failure> {
        let record = self.job.record().await?;
        let standing = self.job.stand(&record);
        let changed = |file: &Migration| {
            standing
                .problems
                .iter()
                .any(|problem| matches!(problem, history::Problem::Changed { version, .. } if *version == file.version))
        };
        let file = |(index, file): (usize, &Migration)| {
            let begun = record.statements(&file.version).len();
            let (state, statements) = if standing.pending.contains(&index) && begun > 0 {
                ("partly", Some(begun))
            } else if standing.pending.contains(&index) {
                ("pending", None)
            } else if changed(file) {
                ("changed", None)
            } else if standing.line_ends.contains(&file.file_name) {
                ("line-ends", None)
            } else {
                ("applied", None)
            };
            FileState { file: file.file_name.clone(), version: file.version.clone(), state, statements }
        };
        Ok(Stand {
            format: self.job.format.name(),
            engine: self.job.names.engine.as_str(),
            files: self.job.files.iter().enumerate().map(file).collect(),
            problems: standing.problems.iter().map(|one| one.failure(&self.job.place, &self.job.database)).collect(),
        })
    }

    /// What would run: names and SQL of the files that are not applied.
    ///
    /// # Errors
    /// The database's; why nothing would be applied.
    pub async fn pending(&self) -> Result<Vec<(String, String)>, Failure> {
        let record = self.job.record().await?;
        let standing = self.job.stand(&record);
        if let Some(problem) = standing.problems.first() {
            return Err(problem.failure(&self.job.place, &self.job.database));
        }
        let one = |index: &usize| {
            let file = &self.job.files[*index];
            (format!("{}{}", self.job.place, file.file_name), file.sql().trim_matches('\n').to_owned())
        };
        Ok(standing.pending.iter().map(one).collect())
    }

    /// What is unsafe in the files that are not applied, and whether that stops a deployment.
    ///
    /// # Errors
    /// The database's.
    pub async fn lint(&self) -> Result<(Vec<Lint>, Severity), Failure> {
        let severity = self.job.options.lint;
        if severity == Severity::Off {
            return Ok((Vec::new(), severity));
        }
        let record = self.job.record().await?;
        let job = &self.job;
        let files = job.stand(&record).pending.into_iter().map(|index| &job.files[index]);
        let found = files.flat_map(|file| {
            let path = self.folder.join(&file.file_name);
            let found = lint::lint(job.names.engine, file, &job.place, &job.options.lint_skips);
            found.into_iter().map(move |lint| Lint { path: path.clone(), ..lint })
        });
        Ok((found.collect(), severity))
    }

    /// Runs what would run, and rolls it back: only where an engine can.
    ///
    /// # Errors
    /// What a migration would fail with.
    pub async fn rehearse(&mut self, tell: &Teller<'_>) -> Result<Vec<String>, Failure> {
        let engine = self.job.names.engine;
        if engine == Engine::Mysql {
            return Err(failure(
                "invalid-config",
                "MariaDB and MySQL keep what DDL does: nothing can be run and rolled back there",
            )
            .with_hint("rehearse on a copy"));
        }
        let record = self.job.record().await?;
        let standing = self.job.stand(&record);
        if let Some(problem) = standing.problems.first() {
            return Err(problem.failure(&self.job.place, &self.job.database));
        }
        let fence = Fence::default();
        let session = self.session()?;
        let _held = self.job.locked(session, tell).await?;
        let run = self.run(session, &fence, tell);
        run.settings().await?;
        session.begin(Mode::Immediate).await?;
        let mut done = Vec::new();
        let mut outcome = Ok(());
        for index in &standing.pending {
            let file = &self.job.files[*index];
            if file.alone {
                tell(
                    Level::Warn,
                    format!("{}: not run, since it can't be rolled back; nor what follows it", file.file_name),
                );
                break;
            }
            let part = Part::up(file);
            outcome = run.rehearse(&part).await;
            if outcome.is_err() {
                break;
            }
            done.push(file.file_name.clone());
        }
        session.rollback();
        // The answer to this comes behind the rollback.
        run.settings().await?;
        outcome.map(|()| done)
    }

    /// Takes all files up to a version as applied, without running any of them.
    ///
    /// # Errors
    /// There is no such file; something is applied already.
    pub async fn baseline(&mut self, version: &str, fence: &Fence, tell: &Teller<'_>) -> Result<Vec<String>, Failure> {
        let last = self.file(version)?;
        let (_held, record) = self.write(tell).await?;
        if let Some(row) = record.rows.first() {
            return Err(failure(
                "conflict",
                format!("{} is applied already; a baseline is for a database without a history", row.version),
            )
            .with_hint("`runner migrate resolve VERSION --applied` takes one more file as applied"));
        }
        let mut done = Vec::new();
        for index in 0..=last {
            let file = &self.job.files[index];
            self.insert(file, fence).await?;
            done.push(file.file_name.clone());
        }
        Ok(done)
    }

    /// Takes an operator's word about a file.
    ///
    /// # Errors
    /// There is no such file; it has no such statement.
    pub async fn resolve(
        &mut self,
        version: &str,
        resolution: Resolution,
        fence: &Fence,
        tell: &Teller<'_>,
    ) -> Result<String, Failure> {
        let index = self.file(version)?;
        let (_held, record) = self.write(tell).await?;
        let (session, names) = (self.session()?, &self.job.names);
        let file = &self.job.files[index];
        let is_applied = record.rows.iter().any(|row| history::same(&row.version, &file.version) && !row.unfinished);
        if is_applied && resolution != Resolution::RolledBack {
            return Err(failure("conflict", format!("{} is on record as applied", file.file_name)));
        }
        let delete = format!(
            "DELETE FROM {} WHERE version = {}",
            names.table(self.job.format.table()),
            names.text(&file.version)
        );
        let forget = |from| names.forget("statement", &file.version, from);
        match resolution {
            Resolution::Applied => {
                session.run(&delete).await?;
                self.insert(file, fence).await?;
                session.run(&forget(0)).await?;
            }
            Resolution::RolledBack => {
                session.run(&delete).await?;
                session.run(&forget(0)).await?;
            }
            Resolution::RetryFrom(number) => {
                let part = Part::up(file);
                let statements = statements_of(names.engine, &part)?;
                let units = super::unit::units(names.engine, &file.text, statements)?;
                if number == 0 || number > units.len() + 1 {
                    return Err(failure(
                        "invalid-config",
                        format!("{} has {} statements, and no number {number}", file.file_name, units.len()),
                    ));
                }
                for unit in units.iter().take(number - 1) {
                    session
                        .run(&names.record(&Write {
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
                session.run(&forget(number)).await?;
            }
        }
        Ok(file.file_name.clone())
    }

    /// Forgets which attempt has migrated last, of all of them.
    ///
    /// # Errors
    /// The database's.
    pub async fn lower_fence(&mut self, tell: &Teller<'_>) -> Result<(), Failure> {
        let (_held, _) = self.write(tell).await?;
        let sql = format!("DELETE FROM {} WHERE kind = 'fence'", self.job.names.table(super::LEDGER));
        self.session()?.run(&sql).await?;
        Ok(())
    }

    /// Takes a changed file as what was applied.
    ///
    /// # Errors
    /// There is no such file, or it is not applied.
    pub async fn bless(&mut self, version: &str, fence: &Fence, tell: &Teller<'_>) -> Result<String, Failure> {
        let index = self.file(version)?;
        let (_held, record) = self.write(tell).await?;
        let file = &self.job.files[index];
        if !record.is_applied(&file.version) {
            return Err(failure("conflict", format!("{} is not applied", file.file_name)));
        }
        let session = self.session()?;
        let bless = self.job.format.bless(&self.job.names, file);
        if !bless.is_empty() {
            session.run(&bless).await?;
        }
        session.run(&self.job.names.note(file, fence.epoch)).await?;
        Ok(file.file_name.clone())
    }

    /// Undoes the newest applied files, by what each brings along for that: down to a version, which stays, or only the last.
    ///
    /// # Errors
    /// A file has nothing that undoes it; the database's.
    pub async fn down(&mut self, to: Option<&str>, fence: &Fence, tell: &Teller<'_>) -> Result<Vec<String>, Failure> {
        let stays =
            to.map(|version| if version == "0" { Ok(None) } else { self.file(version).map(Some) }).transpose()?;
        let (_held, record) = self.write(tell).await?;
        let mut applied: Vec<&Migration> =
            self.job.files.iter().filter(|file| record.is_applied(&file.version)).collect();
        applied.reverse();
        let undone: Vec<&Migration> = match stays {
            None => applied.into_iter().take(1).collect(),
            Some(None) => applied,
            Some(Some(index)) => {
                let floor = order(&self.job.files[index].version);
                applied.into_iter().take_while(|file| order(&file.version) > floor).collect()
            }
        };
        if let Some(file) = undone.iter().find(|file| file.down.is_none()) {
            return Err(failure("not-found", format!("{} has nothing that undoes it", file.file_name))
                .with_hint("write a new migration that undoes what it did")
                .with_detail("file", format!("{}{}", self.job.place, file.file_name)));
        }
        let (session, names) = (self.session()?, &self.job.names);
        let run = self.run(session, fence, tell);
        run.raise_fence(&record).await?;
        run.settings().await?;
        let mut done = Vec::new();
        for file in undone {
            let Some(down) = &file.down else { continue };
            let part = Part::down(down);
            let table = names.table(self.job.format.table());
            let last = || {
                vec![
                    format!("DELETE FROM {table} WHERE version = {}", names.text(&file.version)),
                    names.forget("file", &file.version, 0),
                ]
            };
            // What is undone has statements of its own on record.
            run.part(&part, &format!("down {}", file.version), &record, last).await?;
            tell(Level::Info, format!("undid {}", file.file_name));
            done.push(file.file_name.clone());
        }
        Ok(done)
    }

    /// The lock, the tables, and what is on record.
    async fn write(&mut self, tell: &Teller<'_>) -> Result<(super::lock::Held, Record), Failure> {
        let session = self.job.session.take().ok_or_else(|| failure("not-found", "the database is not there yet"))?;
        let held = self.job.locked(&session, tell).await;
        let made = match &held {
            Ok(_) => self.job.make_tables(&session).await,
            Err(_) => Ok(()),
        };
        self.job.session = Some(session);
        let held = held?;
        made?;
        Ok((held, self.job.record().await?))
    }

    fn session(&self) -> Result<&Session, Failure> {
        self.job.session.as_ref().ok_or_else(|| failure("not-found", "the database is not there yet"))
    }

    fn run<'a>(&'a self, session: &'a Session, fence: &'a Fence, tell: &'a Teller<'a>) -> Run<'a> {
        let Job { names, format, place, options, .. } = &self.job;
        Run { session, names, format: *format, place, options, fence, tell }
    }

    fn file(&self, version: &str) -> Result<usize, Failure> {
        let found =
            self.job.files.iter().position(|file| history::same(&file.version, version) || file.file_name == version);
        found.ok_or_else(|| {
            failure("not-found", format!("there is no migration {version} in `{}`", self.job.place))
                .with_hint("`runner migrate status` lists them")
        })
    }

    async fn insert(&self, file: &Migration, fence: &Fence) -> Result<(), Failure> {
        let session = self.session()?;
        session.run(&self.job.format.insert(&self.job.names, file, 0, &fence.run)).await?;
        if self.job.format.needs_note(file) {
            session.run(&self.job.names.note(file, fence.epoch)).await?;
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Runs a part inside of the transaction that is open.
    async fn rehearse(&self, part: &Part<'_>) -> Result<(), Failure> {
        let statements = statements_of(self.names.engine, part)
            .and_then(|statements| unwrapped(self.names.engine, part, statements))
            .map_err(|fault| self.located(part, fault.into()))?;
        self.pieces(part, &statements).await.map_err(|trouble| self.located(part, trouble))
    }
}
