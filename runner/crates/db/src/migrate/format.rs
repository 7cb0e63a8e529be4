//! The forms of migration directories, each with the history table of its own tool, read and written as that tool does, so that a
//! team can go over and back: sqlx, dbmate, and plain numbered files.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::sql::Engine,
    dialect::Names,
    files::{Down, Migration, Raw, Sums},
};
use crate::failure;
use contract::step::Failure;

/// How a recorded file stands to the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    Same,
    /// Only line ends or the byte order mark differ.
    LineEnds,
    Changed,
    /// The tool keeps no checksum.
    Unknown,
}

/// A row of a tool's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) version: String,
    pub(super) name: Option<String>,
    /// In lower-case hex, or as the tool writes it.
    pub(super) checksum: Option<String>,
    /// The tool says that it did not come to its end.
    pub(super) unfinished: bool,
}

/// A tool's own lock, in SQL. It is the session's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    /// Takes it, or says at once that others have it.
    pub(super) take: String,
    pub(super) release: String,
}

/// A form of migration directories.
pub(super) trait Format: Sync {
    /// As in `format:`.
    fn name(&self) -> &'static str;
    /// The tool's table.
    fn table(&self) -> &'static str;
    fn create(&self, engine: Engine, table: &str) -> String;
    /// Version, name, checksum, finished; ordered by version is not needed.
    fn select(&self, engine: Engine, table: &str) -> String;
    fn insert(&self, names: &Names, migration: &Migration, took_ns: u128, run: &str) -> String;
    /// Whether the tool's own checksum does not tell the file as it is.
    fn needs_note(&self, migration: &Migration) -> bool;
    /// Sets the checksum to what the file has now; empty where there is none.
    fn bless(&self, names: &Names, migration: &Migration) -> String;
    /// The lock that the tool takes itself, in a database of this name.
    fn lock(&self, _engine: Engine, _database: &str) -> Option<Lock> {
        None
    }
    fn migrations(&self, raw: Vec<Raw>, place: &str) -> Result<Vec<Migration>, Failure>;
    fn likeness(&self, row: &Row, migration: &Migration) -> Likeness;
    /// Whether the files look like this tool's and no other's.
    fn recognises(&self, raw: &[Raw]) -> bool;
}

/// All, the more telling first.
pub(super) const ALL: [&dyn Format; 3] = [&Dbmate, &Sqlx, &Plain];

pub(super) fn named(name: &str) -> Option<&'static dyn Format> {
    ALL.into_iter().find(|format| format.name() == name)
}

/// `<number>_<name>.sql`, and a table of the runner's own.
struct Plain;
/// <https://docs.rs/sqlx>: `<version>_<name>[.up|.down].sql`.
struct Sqlx;
/// <https://github.com/amacneil/dbmate>: `-- migrate:up` and `-- migrate:down` in one file.
struct Dbmate;

fn bad_name(place: &str, name: &str) -> Failure {
    failure(
        "invalid-config",
        format!("`{place}{name}` has no number that orders it: a migration is named `<number>_<name>.sql`"),
    )
    .with_hint("rename it, as `0007_orders.sql`; a file that is no migration needs another ending")
    .with_detail("file", format!("{place}{name}"))
    .with_detail("line", 1)
}

/// Whether the first line that says something is this comment, or the first bytes are.
fn begins_with(text: &str, comment: &str) -> bool {
    text.strip_prefix('\u{feff}').unwrap_or(text).starts_with(comment)
}

/// The number of `<number>_<name>.sql`, and what follows.
fn numbered(name: &str) -> Option<(i64, &str)> {
    let (number, rest) = name.split_once('_')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let rest = rest.strip_suffix(".sql").filter(|rest| !rest.is_empty() && is_number)?;
    Some((number.parse().ok()?, rest))
}

fn whole(text: &str) -> std::ops::Range<usize> {
    let mark = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    mark..text.len()
}

impl Format for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn table(&self) -> &'static str {
        "_pawl_migrations"
    }

    fn create(&self, engine: Engine, table: &str) -> String {
        let (number, text) = match engine {
            Engine::Sqlite => ("INTEGER PRIMARY KEY", "TEXT"),
            Engine::Postgres => ("BIGINT PRIMARY KEY", "TEXT"),
            Engine::Mysql => ("BIGINT PRIMARY KEY", "VARCHAR(255)"),
        };
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (version {number}, name {text} NOT NULL, checksum {text} NOT NULL, \
             applied_at {text} NOT NULL, run {text} NOT NULL)"
        )
    }

    fn select(&self, _: Engine, table: &str) -> String {
        format!("SELECT version, name, checksum, 1 FROM {table}")
    }

    fn insert(&self, names: &Names, migration: &Migration, _: u128, run: &str) -> String {
        format!(
            "INSERT INTO {} (version, name, checksum, applied_at, run) VALUES ({}, {}, {}, {}, {})",
            names.table(self.table()),
            migration.version,
            names.text(&migration.file_name),
            names.text(&format!("sha256:{}", migration.normal())),
            names.text(&journal::clock::now().to_string()),
            names.text(run)
        )
    }

    fn needs_note(&self, migration: &Migration) -> bool {
        migration.raw() != migration.normal()
    }

    fn bless(&self, names: &Names, migration: &Migration) -> String {
        let checksum = names.text(&format!("sha256:{}", migration.normal()));
        let table = names.table(self.table());
        format!("UPDATE {table} SET checksum = {checksum} WHERE version = {}", migration.version)
    }

    fn migrations(&self, raw: Vec<Raw>, place: &str) -> Result<Vec<Migration>, Failure> {
        let one = |raw: Raw| {
            let (number, name) = numbered(&raw.name).ok_or_else(|| bad_name(place, &raw.name))?;
            Ok(Migration {
                version: number.to_string(),
                description: name.replace('_', " "),
                up: whole(&raw.text),
                down: None,
                alone: begins_with(&raw.text, "-- no-transaction"),
                file_name: raw.name,
                text: raw.text,
                sums: Sums::default(),
            })
        };
        raw.into_iter().map(one).collect()
    }

    fn likeness(&self, row: &Row, migration: &Migration) -> Likeness {
        match row.checksum.as_deref().and_then(|sum| sum.strip_prefix("sha256:")) {
            // What was applied with other line ends has a note of that beside it.
            Some(sum) if sum == migration.raw() => Likeness::Same,
            Some(sum) if sum == migration.normal() => Likeness::LineEnds,
            Some(_) | None => Likeness::Changed,
        }
    }

    fn recognises(&self, _: &[Raw]) -> bool {
        true
    }
}

impl Format for Sqlx {
    fn name(&self) -> &'static str {
        "sqlx"
    }

    fn table(&self) -> &'static str {
        "_sqlx_migrations"
    }

    fn create(&self, engine: Engine, table: &str) -> String {
        let (time, bytes) = match engine {
            Engine::Postgres => ("TIMESTAMPTZ NOT NULL DEFAULT now()", "BYTEA"),
            Engine::Sqlite | Engine::Mysql => ("TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP", "BLOB"),
        };
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (\n    version BIGINT PRIMARY KEY,\n    description TEXT NOT NULL,\n    \
             installed_on {time},\n    success BOOLEAN NOT NULL,\n    checksum {bytes} NOT NULL,\n    \
             execution_time BIGINT NOT NULL\n)"
        )
    }

    fn select(&self, engine: Engine, table: &str) -> String {
        let checksum = match engine {
            Engine::Postgres => "encode(checksum, 'hex')",
            Engine::Sqlite | Engine::Mysql => "lower(hex(checksum))",
        };
        format!("SELECT version, description, {checksum}, CASE WHEN success THEN 1 ELSE 0 END FROM {table}")
    }

    fn insert(&self, names: &Names, migration: &Migration, took_ns: u128, _: &str) -> String {
        format!(
            "INSERT INTO {} (version, description, success, checksum, execution_time) VALUES ({}, {}, TRUE, {}, {took_ns})",
            names.table(self.table()),
            migration.version,
            names.text(&migration.description),
            names.bytes(migration.sha384())
        )
    }

    fn needs_note(&self, _: &Migration) -> bool {
        false
    }

    fn bless(&self, names: &Names, migration: &Migration) -> String {
        let table = names.table(self.table());
        format!(
            "UPDATE {table} SET checksum = {} WHERE version = {}",
            names.bytes(migration.sha384()),
            migration.version
        )
    }

    fn migrations(&self, raw: Vec<Raw>, place: &str) -> Result<Vec<Migration>, Failure> {
        let (mut ups, mut downs) = (Vec::new(), Vec::new());
        for raw in raw {
            let (number, name) = numbered(&raw.name).ok_or_else(|| bad_name(place, &raw.name))?;
            let alone = raw.text.starts_with("-- no-transaction");
            if name.strip_suffix(".down").is_some() {
                let range = whole(&raw.text);
                downs.push((number, Down { file_name: raw.name, range, text: raw.text, alone }));
            } else {
                let name = name.strip_suffix(".up").unwrap_or(name).replace('_', " ");
                ups.push(Migration {
                    version: number.to_string(),
                    description: name,
                    up: whole(&raw.text),
                    down: None,
                    alone,
                    file_name: raw.name,
                    text: raw.text,
                    sums: Sums::default(),
                });
            }
        }
        // The last of those with one number is as good as the first: two of them are refused later.
        let places: BTreeMap<i64, usize> =
            ups.iter().enumerate().filter_map(|(at, up)| Some((up.version.parse().ok()?, at))).collect();
        for (number, down) in downs {
            let up = places.get(&number).and_then(|at| ups.get_mut(*at)).ok_or_else(|| {
                failure("invalid-config", format!("`{}` undoes a migration that is not there", down.file_name))
                    .with_hint("add its `.up.sql`, or remove it")
                    .with_detail("file", format!("{place}{}", down.file_name))
                    .with_detail("line", 1)
            })?;
            up.down = Some(down);
        }
        Ok(ups)
    }

    fn likeness(&self, row: &Row, migration: &Migration) -> Likeness {
        let Some(sum) = &row.checksum else { return Likeness::Unknown };
        if *sum == migration.sha384() {
            Likeness::Same
        } else if migration.sha384_of_kin().contains(sum) {
            Likeness::LineEnds
        } else {
            Likeness::Changed
        }
    }

    fn recognises(&self, raw: &[Raw]) -> bool {
        raw.iter().any(|raw| raw.name.ends_with(".up.sql") || raw.name.ends_with(".down.sql"))
    }

    /// What a program takes that migrates when it starts (`sqlx::migrate!`); sqlx-cli takes none.
    fn lock(&self, engine: Engine, database: &str) -> Option<Lock> {
        let mut sum = flate2::Crc::new();
        sum.update(database.as_bytes());
        // As sqlx-postgres and sqlx-mysql 0.9 make it, in `migrate.rs`.
        let key = 0x3d32_ad9e * i64::from(sum.sum());
        match engine {
            Engine::Postgres => Some(Lock {
                take: format!("SELECT pg_catalog.pg_try_advisory_lock({key})"),
                release: format!("SELECT pg_catalog.pg_advisory_unlock({key})"),
            }),
            Engine::Mysql => Some(Lock {
                take: format!("SELECT GET_LOCK('{key:x}', 0)"),
                release: format!("SELECT RELEASE_LOCK('{key:x}')"),
            }),
            Engine::Sqlite => None,
        }
    }
}

/// A line of dbmate's, its options, and where what follows begins.
fn mark(text: &str, word: &str) -> Option<(std::ops::Range<usize>, String)> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let begins = at;
        at += line.len();
        let bare = line.trim_start_matches('\u{feff}').trim_start().strip_prefix("--").map(str::trim_start);
        if let Some(options) = bare.and_then(|bare| bare.strip_prefix(word))
            && options.chars().next().is_none_or(char::is_whitespace)
        {
            return Some((begins..at, options.trim().to_owned()));
        }
    }
    None
}

impl Format for Dbmate {
    fn name(&self) -> &'static str {
        "dbmate"
    }

    fn table(&self) -> &'static str {
        "schema_migrations"
    }

    fn create(&self, engine: Engine, table: &str) -> String {
        match engine {
            Engine::Postgres => format!("create table if not exists {table} (version varchar not null primary key)"),
            Engine::Sqlite | Engine::Mysql => {
                format!("create table if not exists {table} (version varchar(128) primary key)")
            }
        }
    }

    fn select(&self, _: Engine, table: &str) -> String {
        format!("SELECT version, NULL, NULL, 1 FROM {table}")
    }

    fn insert(&self, names: &Names, migration: &Migration, _: u128, _: &str) -> String {
        format!("INSERT INTO {} (version) VALUES ({})", names.table(self.table()), names.text(&migration.version))
    }

    fn needs_note(&self, _: &Migration) -> bool {
        true
    }

    fn bless(&self, _: &Names, _: &Migration) -> String {
        String::new()
    }

    fn migrations(&self, raw: Vec<Raw>, place: &str) -> Result<Vec<Migration>, Failure> {
        let one = |raw: Raw| {
            let digits = raw.name.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return Err(bad_name(place, &raw.name));
            }
            let name = raw.name[digits..].trim_start_matches(['_', '-']).trim_end_matches(".sql");
            let file = |line: u64, why: &str| {
                failure("bad-content", why.to_owned())
                    .with_hint("write `-- migrate:up` before what is to be applied, and `-- migrate:down` before what undoes it")
                    .with_detail("file", format!("{place}{}", raw.name))
                    .with_detail("line", line)
            };
            let (up, options) =
                mark(&raw.text, "migrate:up").ok_or_else(|| file(1, "the file has no line `-- migrate:up`"))?;
            let down = mark(&raw.text[up.end..], "migrate:down");
            let before = raw.text[..up.start].lines().position(|line| {
                let line = line.trim_start_matches('\u{feff}').trim();
                !line.is_empty() && !line.starts_with("--")
            });
            if let Some(line) = before {
                return Err(file(line as u64 + 1, "something stands before the line `-- migrate:up`"));
            }
            let end = down.as_ref().map_or(raw.text.len(), |(line, _)| up.end + line.start);
            let alone = |options: &str| options.split_whitespace().any(|option| option == "transaction:false");
            let down = down.map(|(line, options)| Down {
                file_name: raw.name.clone(),
                text: Arc::clone(&raw.text),
                range: up.end + line.end..raw.text.len(),
                alone: alone(&options),
            });
            Ok(Migration {
                version: raw.name[..digits].to_owned(),
                description: name.replace('_', " "),
                up: up.end..end,
                down,
                alone: alone(&options),
                file_name: raw.name,
                text: raw.text,
                sums: Sums::default(),
            })
        };
        raw.into_iter().map(one).collect()
    }

    fn likeness(&self, _: &Row, _: &Migration) -> Likeness {
        Likeness::Unknown
    }

    fn recognises(&self, raw: &[Raw]) -> bool {
        raw.iter().any(|raw| mark(&raw.text, "migrate:up").is_some())
    }
}

/// The form that the files have: named, told by the tables that are there, or by the files.
pub(super) fn detect(
    named_format: Option<&str>,
    raw: &[Raw],
    has_table: impl Fn(&str) -> bool,
) -> Result<&'static dyn Format, Failure> {
    if let Some(name) = named_format.filter(|name| *name != "auto") {
        return named(name).ok_or_else(|| {
            let all: Vec<_> = ALL.iter().map(|format| format.name()).collect();
            failure("invalid-config", format!("`format: {name}` is not known; there are {}", all.join(", ")))
        });
    }
    if raw.iter().any(|raw| mark(&raw.text, "migrate:up").is_some()) {
        return Ok(&Dbmate);
    }
    if Sqlx.recognises(raw) {
        return Ok(&Sqlx);
    }
    match (has_table(Sqlx.table()), has_table(Plain.table())) {
        (true, true) => Err(failure(
            "conflict",
            "the database has both tables `_sqlx_migrations` and `_pawl_migrations`, and the files fit both".to_owned(),
        )
        .with_hint("name the one that counts: `with: { format: sqlx }` or `plain`")),
        (true, false) => Ok(&Sqlx),
        (false, _) => Ok(&Plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(name: &str, text: &str) -> Raw {
        Raw { name: name.to_owned(), text: Arc::new(text.to_owned()) }
    }

    #[test]
    fn names_as_sqlx_reads_them() {
        let found = Sqlx
            .migrations(
                vec![
                    raw("1_add_users.up.sql", "a"),
                    raw("1_add_users.down.sql", "b"),
                    raw("20240101_x_y.sql", "-- no-transaction\nc"),
                ],
                "m/",
            )
            .unwrap();
        assert_eq!((found[0].version.as_str(), found[0].description.as_str()), ("1", "add users"));
        assert_eq!(found[0].down.as_ref().unwrap().text.as_str(), "b");
        assert!(found[1].alone && !found[0].alone);
        assert!(Sqlx.migrations(vec![raw("2_x.down.sql", "")], "m/").is_err());
    }

    #[test]
    fn the_lock_is_sqlxs() {
        // The check value of this CRC is 0xcbf43926.
        let lock = Sqlx.lock(Engine::Mysql, "123456789").unwrap();
        assert_eq!(lock.take, format!("SELECT GET_LOCK('{:x}', 0)", 0x3d32_ad9e_i64 * 0xcbf4_3926));
        assert!(Plain.lock(Engine::Postgres, "x").is_none());
    }

    #[test]
    fn files_as_dbmate_reads_them() {
        let text = "-- a comment\n-- migrate:up transaction:false\ncreate index;\n-- migrate:down\ndrop index;\n";
        let found = Dbmate.migrations(vec![raw("20240101_x.sql", text)], "m/").unwrap();
        assert_eq!(found[0].sql(), "create index;\n");
        let down = found[0].down.as_ref().unwrap();
        assert_eq!((&down.text[down.range.clone()], found[0].alone, down.alone), ("drop index;\n", true, false));
        let failure = Dbmate.migrations(vec![raw("1_x.sql", "\nselect 1;\n-- migrate:up\n")], "m/").unwrap_err();
        assert_eq!(failure.details["line"], 2);
    }

    #[test]
    fn the_form_is_told_by_files_and_tables() {
        let none = |_: &str| false;
        let name = |named, files: &[Raw], tables: &dyn Fn(&str) -> bool| {
            detect(named, files, tables).map(|format| format.name())
        };
        let plain = [raw("1_x.sql", "select 1")];
        assert_eq!(name(None, &plain, &none).unwrap(), "plain");
        assert_eq!(name(None, &plain, &|table| table == "_sqlx_migrations").unwrap(), "sqlx");
        assert!(name(None, &plain, &|_| true).is_err());
        assert_eq!(name(Some("sqlx"), &plain, &|_| true).unwrap(), "sqlx");
        assert_eq!(name(None, &[raw("1_x.up.sql", "")], &none).unwrap(), "sqlx");
        assert_eq!(name(None, &[raw("1_x.sql", "-- migrate:up\n")], &none).unwrap(), "dbmate");
        assert!(name(Some("flyway"), &plain, &none).is_err());
    }
}
