//! Migrations: a granted directory of SQL files, brought into a granted database, each file once, whoever is killed when.
//!
//! The order of work: open a session → take the lock, on that session → make the tool's table and ours → read what is applied →
//! compare → apply → record. It is the host's, since it lives from the session: its lock, its transactions, its loss. A module says which
//! directory, which database and how strict; what it gets to see is names of files and what became of them.
//!
//! The way of a file: [`files`] reads, a [`format`] tells its parts, [`split`] cuts statements, [`run`] applies them, [`unit`] and
//! [`probe`] see to what no transaction can hold. Deliberately absent: what the plan decides about the step.

mod desk;
mod dialect;
mod files;
mod format;
mod history;
mod lint;
mod lock;
mod part;
mod probe;
mod run;
mod split;
mod unit;

use std::{
    collections::BTreeSet,
    ops::Range,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use self::{
    dialect::{LEDGER, Names},
    files::Migration,
    format::{Format, Likeness},
    history::{Record, Rules, Standing, Strictness},
    run::Run,
};
use super::sql::{Engine, Session, SqlFault};
use crate::failure;
use contract::Secret;
use contract::step::{Failure, Level};
use hostio::dir_snapshot::{Folder, Unread};
use plan::{Access, ServerUrl};

pub use self::split::skip_blank;
pub use self::{
    desk::{Desk, FileState, Resolution, Stand},
    lint::{Lint, Severity},
    run::Fence,
};
pub use files::is_sql;

/// More files than these are not told of one by one, unless one takes long: every later deployment reads the journal.
const MANY: usize = 50;

/// Of many files, how many are kept on record with their times.
const SLOWEST: usize = 10;

/// How often progress is shown, and what is long for a file.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

/// Where messages go.
pub type Teller<'a> = dyn Fn(Level, String) + Send + Sync + 'a;

/// How strict and how patient.
#[derive(Clone, Debug)]
pub struct Options {
    format: Option<String>,
    rules: Rules,
    lock_timeout: Duration,
    statement_timeout: Option<Duration>,
    /// How long a statement is tried again while others hold what it needs.
    patience: Duration,
    /// How long the lock is waited for.
    lock_patience: Duration,
    lint: Severity,
    lint_skips: Vec<String>,
}

/// As the step's configuration has them; what else is in it is not for us.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Asked {
    format: Option<String>,
    ahead: Strictness,
    out_of_order: Strictness,
    lock_timeout: Option<String>,
    statement_timeout: Option<String>,
    lint: Severity,
    lint_skip: Vec<String>,
}

impl Options {
    /// Reads what a configuration says of them; `timeout` is that of the whole call.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(config: &Value, timeout: Duration) -> Result<Self, Failure> {
        let asked = serde_json::from_value::<Asked>(config.clone())
            .map_err(|error| failure("invalid-config", format!("options of migrations: {error}")))?;
        let duration = |name: &str, text: Option<String>| match text {
            None => Ok(None),
            Some(text) => duration(&text).map(Some).ok_or_else(|| {
                failure("invalid-config", format!("`{name}: {text}` is no duration"))
                    .with_hint("write a number and its unit: `500ms`, `2s`, `5m`, `1h`")
            }),
        };
        // A call whose time is up leaves its outcome open; a failure before that is clear.
        let most = timeout.saturating_sub(Duration::from_secs(2)).max(Duration::from_millis(500));
        Ok(Self {
            format: asked.format,
            rules: Rules { ahead: asked.ahead, out_of_order: asked.out_of_order },
            lock_timeout: duration("lock-timeout", asked.lock_timeout)?.unwrap_or(Duration::from_secs(2)),
            statement_timeout: duration("statement-timeout", asked.statement_timeout)?,
            patience: Duration::from_secs(60).min(most),
            lock_patience: most,
            lint: asked.lint,
            lint_skips: asked.lint_skip,
        })
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    match &text[digits..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        "h" => Some(Duration::from_secs(number * 3600)),
        _ => None,
    }
}

/// The byte ranges of a text's statements.
pub fn statements(engine: Engine, text: &str) -> Result<Vec<Range<usize>>, SqlFault> {
    Ok(split::split(engine, text)?.into_iter().map(|statement| statement.range).collect())
}

/// A granted database.
#[derive(Clone, Debug)]
pub struct Database<'a> {
    /// Its name in the plan.
    pub name: &'a str,
    /// Where it is.
    pub address: Address<'a>,
    /// What may be done to it.
    pub access: Access,
}

/// Where a database is.
#[derive(Clone, Debug)]
pub enum Address<'a> {
    /// A file of SQLite's; the path was checked.
    File(PathBuf),
    /// A server, by its URL with the password.
    Server(&'a Secret),
}

/// A granted directory of migrations, read.
#[derive(Debug)]
pub struct Directory<'a> {
    /// Its name in the plan.
    pub name: &'a str,
    /// The `.sql` files right in it at least, or which file could not be read.
    pub files: Result<Arc<Folder>, Unread>,
}

/// A directory and a database that are looked at together.
pub struct Job {
    /// None: the database is not there yet.
    session: Option<Session>,
    names: Names,
    format: &'static dyn Format,
    files: Vec<Migration>,
    /// `migrations/`.
    place: String,
    /// The name in the plan.
    database: String,
    /// Of SQLite.
    file: Option<PathBuf>,
    tables: BTreeSet<String>,
    options: Options,
}

impl Job {
    /// Reads the directory and opens the database, both as granted.
    ///
    /// # Errors
    /// What can't be read or reached.
    pub async fn open(database: Database<'_>, directory: Directory<'_>, options: Options) -> Result<Self, Failure> {
        let place = format!("{}/", directory.name);
        let raw = files::read(directory.files, &place)?;
        let Database { name: database, address, access } = database;
        let (session, file) = open_session(&address, database, access).await?;
        let mut names = Names { engine: Engine::Sqlite, schema: None };
        let mut tables = BTreeSet::new();
        if let Some(session) = &session {
            names = names_of(session, database).await?;
            if let (Session::Postgres(server), Access::ReadWrite) = (session, access)
                && server.has_proxy().await?
            {
                refuse_pooler(session, server.url(), database).await?;
            }
            tables = existing(session, &names).await?;
        }
        let format = format::detect(options.format.as_deref(), &raw, |table| tables.contains(table))?;
        let files = files::migrations(format, raw, &place)?;
        Ok(Self { session, names, format, files, place, database: database.to_owned(), file, tables, options })
    }

    /// What is on record.
    async fn record(&self) -> Result<Record, Failure> {
        let Some(session) = &self.session else { return Ok(Record::default()) };
        let rows = match self.tables.contains(self.format.table()) {
            true => {
                let table = self.names.table(self.format.table());
                session.ask(&self.format.select(self.names.engine, &table)).await?
            }
            false => Vec::new(),
        };
        let ledger = match self.tables.contains(LEDGER) {
            true => session.ask(&self.names.read_ledger()).await?,
            false => Vec::new(),
        };
        Ok(Record::new(rows, ledger))
    }

    fn stand(&self, record: &Record) -> Standing {
        history::stand(self.format, &self.files, record, self.options.rules)
    }

    /// The table of the tool and ours; under the lock.
    async fn make_tables(&mut self, session: &Session) -> Result<(), Failure> {
        self.tables = existing(session, &self.names).await?;
        let table = self.format.table();
        if !self.tables.contains(table) {
            let made = session.run(&self.format.create(self.names.engine, &self.names.table(table))).await;
            // A tool without a lock may make it at the same time; `IF NOT EXISTS` does not see that.
            if made.is_err() && !existing(session, &self.names).await?.contains(table) {
                made?;
            }
        }
        if !self.tables.contains(LEDGER) {
            session.run(&self.names.create_ledger()).await?;
        }
        self.tables.extend([table.to_owned(), LEDGER.to_owned()]);
        Ok(())
    }

    async fn locked(&self, session: &Session, tell: &Teller<'_>) -> Result<lock::Held, Failure> {
        let Self { names, file, database, options, .. } = self;
        let waits =
            || tell(Level::Info, format!("another migration of `{database}` is under way; waiting for its lock"));
        let held = lock::take(session, names, file.as_deref(), options.lock_patience, waits).await?;
        let mut held = held.ok_or_else(|| self.busy("another migration"))?;
        let name = match names.engine {
            Engine::Postgres => session.ask("SELECT pg_catalog.current_database()").await?.pop(),
            Engine::Mysql | Engine::Sqlite => None,
        };
        let name = name.and_then(|row| row.into_iter().next().flatten()).or_else(|| names.schema.clone());
        if let Some(theirs) = name.and_then(|name| self.format.lock(names.engine, &name)) {
            self.take_theirs(session, &theirs).await?;
            held.theirs = Some(theirs);
        }
        Ok(held)
    }

    async fn take_theirs(&self, session: &Session, theirs: &format::Lock) -> Result<(), Failure> {
        match lock::take_theirs(session, theirs, self.options.lock_patience).await? {
            true => Ok(()),
            false => Err(self.busy(&format!("a program that migrates by {}", self.format.name()))),
        }
    }

    fn busy(&self, who: &str) -> Failure {
        let mut failure = failure("transient", format!("{who} of the database `{}` holds its lock", self.database))
            .with_hint("wait for it, and run again; the lock goes with the session that holds it")
            .with_detail("code", "P0320");
        failure.retryable = true;
        failure
    }

    /// Whether another tool, which takes no lock, has applied a file meanwhile: it is on record then, and ours was rolled back.
    async fn is_done_by_others(&self, file: &Migration) -> bool {
        if file.alone || self.names.engine == Engine::Mysql || self.format.name() == "plain" {
            return false;
        }
        let Ok(record) = self.record().await else { return false };
        let row = record.rows.iter().find(|row| history::same(&row.version, &file.version));
        row.is_some_and(|row| !row.unfinished && self.format.likeness(row, file) != Likeness::Changed)
    }

    /// How things stand, for a module.
    pub async fn status(self) -> Result<Value, Failure> {
        let record = self.record().await?;
        let standing = self.stand(&record);
        let problem = standing.problems.first().map(|problem| {
            let failure = problem.failure(&self.place, &self.database);
            json!({
                "kind": failure.kind, "message": failure.message, "hint": failure.hint, "details": failure.details,
                "order": problem.is_order(),
            })
        });
        let pending: Vec<_> = standing.pending.iter().map(|index| self.files[*index].file_name.as_str()).collect();
        let mut status = self.outputs();
        status.insert("format".to_owned(), self.format.name().into());
        status.insert("pending".to_owned(), json!(pending));
        status.insert("problem".to_owned(), json!(problem));
        Ok(Value::Object(status))
    }

    /// What is the same for the same files.
    fn outputs(&self) -> Map<String, Value> {
        let version = self.files.last().map_or(Value::from(0), |file| {
            file.version.parse::<i64>().map_or_else(|_| file.version.clone().into(), Value::from)
        });
        Map::from_iter([("version".to_owned(), version), ("applied".to_owned(), self.files.len().into())])
    }

    /// Applies what is not applied.
    pub async fn apply(
        mut self,
        fence: &Fence,
        tell: &Teller<'_>,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<Value, Failure> {
        let Some(session) = self.session.take() else {
            return Err(failure("denied", "a preview or a probe may not migrate: they only look"));
        };
        let held = self.locked(&session, tell).await?;
        self.make_tables(&session).await?;
        self.session = Some(session);
        let mut record = self.record().await?;
        let mut changed = false;
        let standing = self.stand(&record);
        let session = self.session.as_ref().ok_or_else(|| failure("permanent", "no session"))?;
        if let Some(problem) = standing.problems.first() {
            return Err(problem.failure(&self.place, &self.database));
        }
        for name in &standing.line_ends {
            tell(
                Level::Warn,
                format!("{name}: line ends or byte order mark changed since it was applied; its SQL did not"),
            );
        }
        let Self { names, format, place, options, .. } = &self;
        let run = Run { session, names, format: *format, place, options, fence, tell };
        run.raise_fence(&record).await?;
        if !standing.pending.is_empty() {
            run.settings().await?;
        }
        let total = standing.pending.len();
        let (mut applied, mut quiet) = (Vec::new(), 0);
        let began = Instant::now();
        let mut shown: Option<Instant> = None;
        for (done, index) in standing.pending.iter().enumerate() {
            if shown.is_none_or(|shown| shown.elapsed() >= SHOWN_EVERY) {
                progress(done as u64, total as u64);
                shown = Some(Instant::now());
            }
            let file = &self.files[*index];
            if changed && record.is_applied(&file.version) {
                continue;
            }
            // Who waits in the server for this lock has a snapshot there, for which `CONCURRENTLY` would wait.
            let lent = held.theirs.as_ref().filter(|_| file.alone && names.engine == Engine::Postgres);
            if let Some(theirs) = lent {
                session.run(&theirs.release).await?;
            }
            let took = match run.apply(file, &record).await {
                Ok(took) => took,
                Err(_) if self.is_done_by_others(file).await => {
                    tell(Level::Warn, format!("{}: another tool applied it meanwhile", file.file_name));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if let Some(theirs) = lent {
                self.take_theirs(session, theirs).await?;
                record = self.record().await?;
                changed = true;
            }
            if total <= MANY || took >= SHOWN_EVERY {
                tell(Level::Info, format!("applied {} in {} ms", file.file_name, took.as_millis()));
            } else {
                quiet += 1;
            }
            applied.push(json!({ "file": file.file_name, "ms": millis(took) }));
        }
        if quiet > 0 {
            let took = began.elapsed().as_millis();
            tell(Level::Info, format!("applied {total} files in {took} ms, {quiet} of them in no time worth a line"));
        }
        let count = applied.len();
        // A receipt has its bounds, and every later attempt repeats it; the slowest are worth knowing.
        if count > MANY {
            applied.sort_by(|one, other| {
                other["ms"].as_f64().unwrap_or(0.0).total_cmp(&one["ms"].as_f64().unwrap_or(0.0))
            });
            applied.truncate(SLOWEST);
        }
        let names: Vec<_> = applied.iter().map(|file| file["file"].clone()).collect();
        let notes = json!({
            "applied_now": names, "took_ms": millis(began.elapsed()),
            "migrations": { "format": self.format.name(), "count": count, "lock_ms": millis(held.waited), "files": applied },
        });
        drop(held);
        Ok(json!({ "outputs": self.outputs(), "notes": notes }))
    }
}

fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 10_000.0).round() / 10.0
}

/// A session with a granted database; none where a reader finds nothing.
async fn open_session(
    address: &Address<'_>,
    database: &str,
    access: Access,
) -> Result<(Option<Session>, Option<PathBuf>), Failure> {
    match address {
        Address::File(path) => match Session::open(path, access).await {
            Ok(session) => Ok((Some(session), Some(path.clone()))),
            Err(fault) if access == Access::ReadOnly && fault.kind == super::sql::Kind::NotFound => {
                Ok((None, Some(path.clone())))
            }
            Err(fault) => Err(fault.into()),
        },
        Address::Server(url) => Ok((Some(server_session(database, url.reveal(), access).await?), None)),
    }
}

/// A session with a granted server.
pub async fn server_session(database: &str, url: &str, access: Access) -> Result<Session, Failure> {
    let url = match ServerUrl::parse(url) {
        Some(Ok(url)) => url,
        Some(Err(why)) => {
            return Err(failure("invalid-config", format!("database `{database}`: its URL can't be used: {why}")));
        }
        None => {
            return Err(failure(
                "invalid-config",
                format!("database `{database}`: its URL is of no kind that this runner speaks"),
            ));
        }
    };
    Session::connect(&url, access).await.map_err(|fault| {
        let mut failure = Failure::from(fault);
        failure.message = format!("database `{database}`: {}", failure.message);
        failure.with_detail("code", "P0321")
    })
}

async fn names_of(session: &Session, database: &str) -> Result<Names, Failure> {
    let engine = session.engine();
    let sql = match engine {
        Engine::Sqlite => return Ok(Names { engine, schema: None }),
        Engine::Postgres => "SELECT pg_catalog.current_schema()",
        Engine::Mysql => "SELECT DATABASE()",
    };
    let rows = session.ask(sql).await?;
    match rows.first().and_then(|row| row.first().cloned().flatten()) {
        Some(schema) => Ok(Names { engine, schema: Some(schema) }),
        None => Err(failure(
            "invalid-config",
            format!("the search path of database `{database}` has no schema that is there"),
        )
        .with_hint("create the schema, or correct `search_path` in the URL")),
    }
}

async fn existing(session: &Session, names: &Names) -> Result<BTreeSet<String>, Failure> {
    let tables: Vec<_> = format::ALL.iter().map(|format| format.table()).chain([LEDGER]).collect();
    let rows = session.ask(&names.existing(&tables)).await?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

/// Something is between us and the server. If two statements of ours may come to two sessions of its, no lock holds.
async fn refuse_pooler(session: &Session, url: &ServerUrl, database: &str) -> Result<(), Failure> {
    let nonce = getrandom::u64().unwrap_or_default().to_string();
    session.ask(&format!("SELECT set_config('pawl.session', '{nonce}', false)")).await?;
    // Another client takes whatever session is free: in a transaction pooler, the one that was just used.
    let mut others = Vec::new();
    let mut is_kept = true;
    for _ in 0..3 {
        let other = Session::connect(url, Access::ReadOnly).await?;
        other.run("BEGIN; SELECT 1").await?;
        others.push(other);
        let rows = session.ask("SELECT current_setting('pawl.session', true)").await?;
        is_kept &= rows.first().and_then(|row| row.first().cloned().flatten()).as_deref() == Some(nonce.as_str());
    }
    for other in &others {
        other.run("ROLLBACK").await.ok();
    }
    if is_kept {
        return Ok(());
    }
    Err(failure(
        "invalid-config",
        format!(
            "the URL of database `{database}` leads to a pooler in transaction mode, where no lock of a session holds"
        ),
    )
    .with_hint("give the step the address of the server itself, or of a pooler in session mode")
    .with_detail("code", "P0322"))
}
