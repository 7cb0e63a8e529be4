//! Brings a database's schema up to date: numbered SQL files, each in one transaction with its row in the history.
//!
//! Invariant: a file's effect and its history row are committed together, or neither is. So a kill at any point leaves a
//! prefix of the files applied, and the next call goes on behind it.
//!
//! Deliberately absent: undoing. A migration may have destroyed what an older schema needs; only its author knows.

mod file;
mod history;

use pawl_step::database::{Connection, Mode};
use pawl_step::{
    Access, Action, Capability, Change, Description, Failure, Finding, Input, Kind, Need, Phase, Probes, Receipt,
    Repeatable, Step, log, time,
};
use serde::Deserialize;

use file::Migration;
use history::{Ahead, Standing};

/// The module.
#[derive(Debug)]
pub struct Migrate;

/// The step's `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The granted directory.
    pub dir: String,
    /// The granted database.
    pub database: String,
    /// What to do when the database is ahead: `allow` or `refuse`.
    #[serde(default)]
    pub ahead: Ahead,
}

impl Step for Migrate {
    type Config = Config;

    fn describe() -> Description {
        Description {
            name: "migrate",
            version: env!("CARGO_PKG_VERSION"),
            summary: "applies numbered SQL files to a database, each once, in one transaction",
            config: include_str!("../config.schema.json"),
            needs: vec![
                Need { capability: Capability::Dirs(Access::Read), config: Some("/dir"), reason: "has the migrations" },
                Need { capability: Capability::Databases, config: Some("/database"), reason: "is migrated" },
            ],
            phase: Phase::Commit,
            exposes: false,
            repeatable: Repeatable::Always,
            probes: Probes::Always,
            reverts: false,
        }
    }

    fn preview(input: &Input<Config>) -> Result<Vec<Change>, Failure> {
        let Config { dir, database, ahead } = &input.config;
        let files = file::read(dir)?;
        let history = look(database)?;
        let pending = history::pending(&files, &history, *ahead).map_err(|problem| problem.failure(dir, database))?;
        let change = |file: &Migration| {
            Change::new(Action::Run, format!("{dir}/{}", file.file_name), format!("on database {database}"))
        };
        Ok(pending.iter().map(|file| change(file)).collect())
    }

    fn apply(input: &Input<Config>) -> Result<Receipt, Failure> {
        let started = time::monotonic();
        let Config { dir, database, ahead } = &input.config;
        let files = file::read(dir)?;
        let connection = open(database)?;
        // Asked before the history is read: who commits in between changes it.
        let mut version = history::data_version(|sql| connection.query(sql, &[]))?;
        let recorded = history::read(|sql| connection.query(sql, &[]))?;
        let pending = history::pending(&files, &recorded, *ahead).map_err(|problem| problem.failure(dir, database))?;
        let mut applied_now = Vec::new();
        for (done, file) in pending.iter().enumerate() {
            log::progress("migrations", done as u64, Some(pending.len() as u64), "files");
            if apply_one(&connection, input, &files, file, &mut version)? == Applied::Now {
                log::info(format!("applied {}", file.file_name));
                applied_now.push(file.file_name.clone());
            }
        }
        Ok(receipt(&files).note("applied_now", applied_now).note("took_ms", time::elapsed_ms(started)))
    }

    fn probe(input: &Input<Config>) -> Result<Finding, Failure> {
        let Config { dir, database, ahead } = &input.config;
        let files = file::read(dir)?;
        let history = look(database)?;
        Ok(match history::standing(&files, &history, *ahead) {
            Standing::Complete => Finding::Held(receipt(&files)),
            Standing::Behind => Finding::Absent,
            Standing::Strange(problem) => Finding::Drifted(problem.failure(dir, database).message),
        })
    }

    fn revert(input: &Input<Config>, _receipt: &Receipt) -> Result<(), Failure> {
        Err(Failure::permanent(format!(
            "migrations are not undone: step `{}` leaves the database as it is",
            input.step
        ))
        .hint("write a new migration that undoes it, or restore a backup"))
    }
}

/// Whether this call has applied a file.
#[derive(Debug, PartialEq, Eq)]
enum Applied {
    Now,
    ByAnother,
}

/// One file and its history row, in one transaction. The history is read again inside it if somebody else has committed
/// since `version`: another run may have been faster.
fn apply_one(
    connection: &Connection,
    input: &Input<Config>,
    files: &[Migration],
    file: &Migration,
    version: &mut i64,
) -> Result<Applied, Failure> {
    let Config { dir, database, ahead } = &input.config;
    let transaction = connection.begin(Mode::Immediate).map_err(|failure| failure.context(&file.file_name))?;
    transaction.execute(history::CREATE, &[])?;
    let now = history::data_version(|sql| transaction.query(sql, &[]))?;
    if now != *version {
        let recorded = history::read(|sql| transaction.query(sql, &[]))?;
        let pending = history::pending(files, &recorded, *ahead).map_err(|problem| problem.failure(dir, database))?;
        if !pending.iter().any(|still| still.version == file.version) {
            return Ok(Applied::ByAnother);
        }
        *version = now;
    }
    if !file.sql.trim().is_empty() {
        transaction.script(&file.sql).map_err(|failure| located(failure, dir, &file.file_name))?;
    }
    let row = history::row(file, &time::now_rfc3339(), &input.run);
    transaction.execute(history::INSERT, &row).map_err(|failure| located(failure, dir, &file.file_name))?;
    transaction.commit().map_err(|failure| located(failure, dir, &file.file_name))?;
    Ok(Applied::Now)
}

fn open(database: &str) -> Result<Connection, Failure> {
    let connection = Connection::open(database)?;
    match connection.engine().as_str() {
        "sqlite" => Ok(connection),
        other => Err(Failure::invalid_config(format!(
            "the database `{database}` is of the kind `{other}`; this module knows `sqlite`"
        ))),
    }
}

/// The history, read only. A database that does not exist yet has none.
fn look(database: &str) -> Result<Vec<history::Row>, Failure> {
    match open(database) {
        Ok(connection) => history::read(|sql| connection.query(sql, &[])),
        Err(failure) if failure.kind == Kind::NotFound => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}

/// Adds the file, so that the message is shown with its place: the database may have told the line.
fn located(failure: Failure, dir: &str, file_name: &str) -> Failure {
    let hint = match failure.kind {
        Kind::Denied => {
            "each file runs in one transaction of the runner's: leave out BEGIN, COMMIT, ROLLBACK and ATTACH"
        }
        Kind::Transient => "something else uses the database: try again, or find out what holds it",
        Kind::InvalidConfig
        | Kind::NotFound
        | Kind::Conflict
        | Kind::Permanent
        | Kind::Limit
        | Kind::BadContent
        | Kind::Other(_) => {
            "correct the file: nothing of it was kept, and the files before it will not be applied again"
        }
    };
    failure.detail("file", format!("{dir}/{file_name}")).or_hint(hint)
}

fn receipt(files: &[Migration]) -> Receipt {
    Receipt::new().output("version", files.last().map_or(0, |file| file.version)).output("applied", files.len())
}

pawl_step::export!(Migrate);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::assert_described;

    #[test]
    fn describes_itself() {
        assert_described::<Migrate>();
    }

    #[test]
    fn a_failure_names_file_and_line() {
        let failure = Failure::permanent("near \"TABEL\": syntax error").detail("line", 3).detail("column", 8);
        let failure = located(failure, "migrations", "0002_x.sql");
        assert_eq!(failure.message, "near \"TABEL\": syntax error");
        assert_eq!(
            serde_json::Value::Object(failure.details),
            serde_json::json!({ "file": "migrations/0002_x.sql", "line": 3, "column": 8 })
        );
        let denied = located(Failure::denied("COMMIT is denied"), "migrations", "0003_y.sql");
        assert_eq!(denied.message, "COMMIT is denied");
        assert!(denied.hint.unwrap().contains("leave out BEGIN"));
        let busy = located(Failure::transient("database is locked").hint("wait"), "m", "f.sql");
        assert!(busy.retryable && busy.hint.as_deref() == Some("wait"));
    }
}
