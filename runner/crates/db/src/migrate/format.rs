//! The formats of migration directories: sqlx, dbmate, and plain numbered files. Each uses its own tool's history table
//! exactly as the tool does, so a team can switch in both directions.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::sql::SqlEngine,
    dialect::SqlDialect,
    files::{DownMigration, Migration, MigrationChecksums, MigrationSource},
};
use crate::failure;
use contract::step::{FailureKind, StepFailure};

/// How a recorded file compares to the local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChecksumMatch {
    Same,
    /// Only line endings or the byte order mark differ.
    LineEndingsDiffer,
    Different,
    /// The tool records no checksum.
    NoChecksum,
}

/// A row of a tool's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HistoryRow {
    pub(super) version: String,
    pub(super) name: Option<String>,
    /// In lower-case hex, or in the tool's own form.
    pub(super) checksum: Option<String>,
    /// The tool did not finish it.
    pub(super) is_unfinished: bool,
}

/// The SQL of a tool's own session lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ToolLock {
    /// Takes the lock, or reports at once that another session has it.
    pub(super) acquire_sql: String,
    pub(super) release_sql: String,
}

/// A format of migration directories.
pub(super) trait MigrationFormat: Sync {
    /// Its name in `format:`.
    fn name(&self) -> &'static str;
    /// The tool's history table.
    fn history_table(&self) -> &'static str;
    fn create_table_sql(&self, engine: SqlEngine, table: &str) -> String;
    /// A query for version, name, checksum and finished, in any order.
    fn select_sql(&self, engine: SqlEngine, table: &str) -> String;
    fn insert_sql(&self, dialect: &SqlDialect, migration: &Migration, took_ns: u128, run: &str) -> String;
    /// Whether the tool's checksum is not that of the file as it is.
    fn needs_note(&self, migration: &Migration) -> bool;
    /// Sets the recorded checksum to the file's; empty if the tool has none.
    fn update_checksum_sql(&self, dialect: &SqlDialect, migration: &Migration) -> String;
    /// The tool's own lock in a database of this name.
    fn tool_lock(&self, _engine: SqlEngine, _database: &str) -> Option<ToolLock> {
        None
    }
    fn parse_files(&self, sources: Vec<MigrationSource>, dir_prefix: &str) -> Result<Vec<Migration>, StepFailure>;
    fn match_checksum(&self, row: &HistoryRow, migration: &Migration) -> ChecksumMatch;
    /// Whether the files match this format and no other.
    fn recognizes_files(&self, sources: &[MigrationSource]) -> bool;
}

/// All formats, the more specific first.
pub(super) const FORMATS: [&dyn MigrationFormat; 3] = [&DbmateFormat, &SqlxFormat, &PlainFormat];

pub(super) fn find_format(name: &str) -> Option<&'static dyn MigrationFormat> {
    FORMATS.into_iter().find(|format| format.name() == name)
}

/// `<number>_<name>.sql`, with a table of the runner's own.
struct PlainFormat;
/// <https://docs.rs/sqlx>: `<version>_<name>[.up|.down].sql`.
struct SqlxFormat;
/// <https://github.com/amacneil/dbmate>: `-- migrate:up` and `-- migrate:down` in one file.
struct DbmateFormat;

fn unnumbered_name_failure(dir_prefix: &str, name: &str) -> StepFailure {
    failure(
        FailureKind::InvalidConfig,
        format!("`{dir_prefix}{name}` has no number: name a migration `<number>_<name>.sql`"),
    )
    .with_hint("rename it, for example to `0007_orders.sql`; if it is not a migration, change its extension")
    .with_detail("file", format!("{dir_prefix}{name}"))
    .with_detail("line", 1)
}

/// Whether the first line with text is this comment, or the text begins with it.
fn begins_with(text: &str, comment: &str) -> bool {
    text.strip_prefix('\u{feff}').unwrap_or(text).starts_with(comment)
}

/// The number of `<number>_<name>.sql`, and the rest.
fn parse_numbered_name(name: &str) -> Option<(i64, &str)> {
    let (number, rest) = name.split_once('_')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let rest = rest.strip_suffix(".sql").filter(|rest| !rest.is_empty() && is_number)?;
    Some((number.parse().ok()?, rest))
}

fn range_after_bom(text: &str) -> std::ops::Range<usize> {
    let mark = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    mark..text.len()
}

impl MigrationFormat for PlainFormat {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn history_table(&self) -> &'static str {
        "_pawl_migrations"
    }

    fn create_table_sql(&self, engine: SqlEngine, table: &str) -> String {
        let (number, text) = match engine {
            SqlEngine::Sqlite => ("INTEGER PRIMARY KEY", "TEXT"),
            SqlEngine::Postgres => ("BIGINT PRIMARY KEY", "TEXT"),
            SqlEngine::Mysql => ("BIGINT PRIMARY KEY", "VARCHAR(255)"),
        };
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (version {number}, name {text} NOT NULL, checksum {text} NOT NULL, \
             applied_at {text} NOT NULL, run {text} NOT NULL)"
        )
    }

    fn select_sql(&self, _: SqlEngine, table: &str) -> String {
        format!("SELECT version, name, checksum, 1 FROM {table}")
    }

    fn insert_sql(&self, names: &SqlDialect, migration: &Migration, _: u128, run: &str) -> String {
        format!(
            "INSERT INTO {} (version, name, checksum, applied_at, run) VALUES ({}, {}, {}, {}, {})",
            names.qualified_table(self.history_table()),
            migration.version,
            names.text_literal(&migration.file_name),
            names.text_literal(&format!("sha256:{}", migration.normalized_sha256())),
            names.text_literal(&journal::clock::now().to_string()),
            names.text_literal(run)
        )
    }

    fn needs_note(&self, migration: &Migration) -> bool {
        migration.raw_sha256() != migration.normalized_sha256()
    }

    fn update_checksum_sql(&self, names: &SqlDialect, migration: &Migration) -> String {
        let checksum = names.text_literal(&format!("sha256:{}", migration.normalized_sha256()));
        let table = names.qualified_table(self.history_table());
        format!("UPDATE {table} SET checksum = {checksum} WHERE version = {}", migration.version)
    }

    fn parse_files(&self, raw: Vec<MigrationSource>, place: &str) -> Result<Vec<Migration>, StepFailure> {
        let one = |raw: MigrationSource| {
            let (number, name) =
                parse_numbered_name(&raw.name).ok_or_else(|| unnumbered_name_failure(place, &raw.name))?;
            Ok(Migration {
                version: number.to_string(),
                description: name.replace('_', " "),
                up_range: range_after_bom(&raw.text),
                down: None,
                no_transaction: begins_with(&raw.text, "-- no-transaction"),
                file_name: raw.name,
                text: raw.text,
                checksums: MigrationChecksums::default(),
            })
        };
        raw.into_iter().map(one).collect()
    }

    fn match_checksum(&self, row: &HistoryRow, migration: &Migration) -> ChecksumMatch {
        match row.checksum.as_deref().and_then(|sum| sum.strip_prefix("sha256:")) {
            // A file that was applied with other line endings has a note about that.
            Some(sum) if sum == migration.raw_sha256() => ChecksumMatch::Same,
            Some(sum) if sum == migration.normalized_sha256() => ChecksumMatch::LineEndingsDiffer,
            Some(_) | None => ChecksumMatch::Different,
        }
    }

    fn recognizes_files(&self, _: &[MigrationSource]) -> bool {
        true
    }
}

impl MigrationFormat for SqlxFormat {
    fn name(&self) -> &'static str {
        "sqlx"
    }

    fn history_table(&self) -> &'static str {
        "_sqlx_migrations"
    }

    fn create_table_sql(&self, engine: SqlEngine, table: &str) -> String {
        let (time, bytes) = match engine {
            SqlEngine::Postgres => ("TIMESTAMPTZ NOT NULL DEFAULT now()", "BYTEA"),
            SqlEngine::Sqlite | SqlEngine::Mysql => ("TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP", "BLOB"),
        };
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (\n    version BIGINT PRIMARY KEY,\n    description TEXT NOT NULL,\n    \
             installed_on {time},\n    success BOOLEAN NOT NULL,\n    checksum {bytes} NOT NULL,\n    \
             execution_time BIGINT NOT NULL\n)"
        )
    }

    fn select_sql(&self, engine: SqlEngine, table: &str) -> String {
        let checksum = match engine {
            SqlEngine::Postgres => "encode(checksum, 'hex')",
            SqlEngine::Sqlite | SqlEngine::Mysql => "lower(hex(checksum))",
        };
        format!("SELECT version, description, {checksum}, CASE WHEN success THEN 1 ELSE 0 END FROM {table}")
    }

    fn insert_sql(&self, names: &SqlDialect, migration: &Migration, took_ns: u128, _: &str) -> String {
        format!(
            "INSERT INTO {} (version, description, success, checksum, execution_time) VALUES ({}, {}, TRUE, {}, {took_ns})",
            names.qualified_table(self.history_table()),
            migration.version,
            names.text_literal(&migration.description),
            names.bytes_literal(migration.sha384())
        )
    }

    fn needs_note(&self, _: &Migration) -> bool {
        false
    }

    fn update_checksum_sql(&self, names: &SqlDialect, migration: &Migration) -> String {
        let table = names.qualified_table(self.history_table());
        format!(
            "UPDATE {table} SET checksum = {} WHERE version = {}",
            names.bytes_literal(migration.sha384()),
            migration.version
        )
    }

    fn parse_files(&self, raw: Vec<MigrationSource>, place: &str) -> Result<Vec<Migration>, StepFailure> {
        let (mut ups, mut downs) = (Vec::new(), Vec::new());
        for raw in raw {
            let (number, name) =
                parse_numbered_name(&raw.name).ok_or_else(|| unnumbered_name_failure(place, &raw.name))?;
            let no_transaction = raw.text.starts_with("-- no-transaction");
            if name.strip_suffix(".down").is_some() {
                let range = range_after_bom(&raw.text);
                downs.push((number, DownMigration { file_name: raw.name, range, text: raw.text, no_transaction }));
            } else {
                let name = name.strip_suffix(".up").unwrap_or(name).replace('_', " ");
                ups.push(Migration {
                    version: number.to_string(),
                    description: name,
                    up_range: range_after_bom(&raw.text),
                    down: None,
                    no_transaction,
                    file_name: raw.name,
                    text: raw.text,
                    checksums: MigrationChecksums::default(),
                });
            }
        }
        // Any of those with the same number will do: duplicates are refused later.
        let index_by_version: BTreeMap<i64, usize> =
            ups.iter().enumerate().filter_map(|(at, up)| Some((up.version.parse().ok()?, at))).collect();
        for (number, down) in downs {
            let up = index_by_version.get(&number).and_then(|at| ups.get_mut(*at)).ok_or_else(|| {
                failure(FailureKind::InvalidConfig, format!("the `.up.sql` of `{}` is missing", down.file_name))
                    .with_hint("add the `.up.sql`, or remove the file")
                    .with_detail("file", format!("{place}{}", down.file_name))
                    .with_detail("line", 1)
            })?;
            up.down = Some(down);
        }
        Ok(ups)
    }

    fn match_checksum(&self, row: &HistoryRow, migration: &Migration) -> ChecksumMatch {
        let Some(sum) = &row.checksum else { return ChecksumMatch::NoChecksum };
        if *sum == migration.sha384() {
            ChecksumMatch::Same
        } else if migration.sha384_variants().contains(sum) {
            ChecksumMatch::LineEndingsDiffer
        } else {
            ChecksumMatch::Different
        }
    }

    fn recognizes_files(&self, raw: &[MigrationSource]) -> bool {
        raw.iter().any(|raw| raw.name.ends_with(".up.sql") || raw.name.ends_with(".down.sql"))
    }

    /// The lock of programs that migrate at their start (`sqlx::migrate!`); sqlx-cli takes none.
    fn tool_lock(&self, engine: SqlEngine, database: &str) -> Option<ToolLock> {
        let mut sum = flate2::Crc::new();
        sum.update(database.as_bytes());
        // The same computation as in `migrate.rs` of sqlx-postgres and sqlx-mysql 0.9.
        let key = 0x3d32_ad9e * i64::from(sum.sum());
        match engine {
            SqlEngine::Postgres => Some(ToolLock {
                acquire_sql: format!("SELECT pg_catalog.pg_try_advisory_lock({key})"),
                release_sql: format!("SELECT pg_catalog.pg_advisory_unlock({key})"),
            }),
            SqlEngine::Mysql => Some(ToolLock {
                acquire_sql: format!("SELECT GET_LOCK('{key:x}', 0)"),
                release_sql: format!("SELECT RELEASE_LOCK('{key:x}')"),
            }),
            SqlEngine::Sqlite => None,
        }
    }
}

/// A marker line of dbmate, its options, and the start of its section.
fn find_marker(text: &str, word: &str) -> Option<(std::ops::Range<usize>, String)> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let line_start = at;
        at += line.len();
        let bare = line.trim_start_matches('\u{feff}').trim_start().strip_prefix("--").map(str::trim_start);
        if let Some(options) = bare.and_then(|bare| bare.strip_prefix(word))
            && options.chars().next().is_none_or(char::is_whitespace)
        {
            return Some((line_start..at, options.trim().to_owned()));
        }
    }
    None
}

impl MigrationFormat for DbmateFormat {
    fn name(&self) -> &'static str {
        "dbmate"
    }

    fn history_table(&self) -> &'static str {
        "schema_migrations"
    }

    fn create_table_sql(&self, engine: SqlEngine, table: &str) -> String {
        match engine {
            SqlEngine::Postgres => format!("create table if not exists {table} (version varchar not null primary key)"),
            SqlEngine::Sqlite | SqlEngine::Mysql => {
                format!("create table if not exists {table} (version varchar(128) primary key)")
            }
        }
    }

    fn select_sql(&self, _: SqlEngine, table: &str) -> String {
        format!("SELECT version, NULL, NULL, 1 FROM {table}")
    }

    fn insert_sql(&self, names: &SqlDialect, migration: &Migration, _: u128, _: &str) -> String {
        format!(
            "INSERT INTO {} (version) VALUES ({})",
            names.qualified_table(self.history_table()),
            names.text_literal(&migration.version)
        )
    }

    fn needs_note(&self, _: &Migration) -> bool {
        true
    }

    fn update_checksum_sql(&self, _: &SqlDialect, _: &Migration) -> String {
        String::new()
    }

    fn parse_files(&self, raw: Vec<MigrationSource>, place: &str) -> Result<Vec<Migration>, StepFailure> {
        let one = |raw: MigrationSource| {
            let digits = raw.name.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return Err(unnumbered_name_failure(place, &raw.name));
            }
            let name = raw.name[digits..].trim_start_matches(['_', '-']).trim_end_matches(".sql");
            let file = |line: u64, why: &str| {
                failure(FailureKind::BadContent, why.to_owned())
                    .with_hint("write `-- migrate:up` above the SQL to apply, and `-- migrate:down` above the SQL that undoes it")
                    .with_detail("file", format!("{place}{}", raw.name))
                    .with_detail("line", line)
            };
            let (up, options) =
                find_marker(&raw.text, "migrate:up").ok_or_else(|| file(1, "the line `-- migrate:up` is missing"))?;
            let down = find_marker(&raw.text[up.end..], "migrate:down");
            let before = raw.text[..up.start].lines().position(|line| {
                let line = line.trim_start_matches('\u{feff}').trim();
                !line.is_empty() && !line.starts_with("--")
            });
            if let Some(line) = before {
                return Err(file(line as u64 + 1, "the file has SQL before the line `-- migrate:up`"));
            }
            let end = down.as_ref().map_or(raw.text.len(), |(line, _)| up.end + line.start);
            let alone = |options: &str| options.split_whitespace().any(|option| option == "transaction:false");
            let down = down.map(|(line, options)| DownMigration {
                file_name: raw.name.clone(),
                text: Arc::clone(&raw.text),
                range: up.end + line.end..raw.text.len(),
                no_transaction: alone(&options),
            });
            Ok(Migration {
                version: raw.name[..digits].to_owned(),
                description: name.replace('_', " "),
                up_range: up.end..end,
                down,
                no_transaction: alone(&options),
                file_name: raw.name,
                text: raw.text,
                checksums: MigrationChecksums::default(),
            })
        };
        raw.into_iter().map(one).collect()
    }

    fn match_checksum(&self, _: &HistoryRow, _: &Migration) -> ChecksumMatch {
        ChecksumMatch::NoChecksum
    }

    fn recognizes_files(&self, raw: &[MigrationSource]) -> bool {
        raw.iter().any(|raw| find_marker(&raw.text, "migrate:up").is_some())
    }
}

/// Selects the format: the named one, else by the files and existing tables.
pub(super) fn detect(
    named_format: Option<&str>,
    sources: &[MigrationSource],
    has_table: impl Fn(&str) -> bool,
) -> Result<&'static dyn MigrationFormat, StepFailure> {
    if let Some(name) = named_format.filter(|name| *name != "auto") {
        return find_format(name).ok_or_else(|| {
            let all: Vec<_> = FORMATS.iter().map(|format| format.name()).collect();
            failure(
                FailureKind::InvalidConfig,
                format!("`format: {name}` is unknown; the formats are {}", all.join(", ")),
            )
        });
    }
    if sources.iter().any(|raw| find_marker(&raw.text, "migrate:up").is_some()) {
        return Ok(&DbmateFormat);
    }
    if SqlxFormat.recognizes_files(sources) {
        return Ok(&SqlxFormat);
    }
    match (has_table(SqlxFormat.history_table()), has_table(PlainFormat.history_table())) {
        (true, true) => Err(failure(
            FailureKind::Conflict,
            "the database has the tables `_sqlx_migrations` and `_pawl_migrations`, and the files match both formats"
                .to_owned(),
        )
        .with_hint("choose one: `with: { format: sqlx }` or `plain`")),
        (true, false) => Ok(&SqlxFormat),
        (false, _) => Ok(&PlainFormat),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> MigrationSource {
        MigrationSource { name: name.to_owned(), text: Arc::new(text.to_owned()) }
    }

    #[test]
    fn sqlx_file_names_are_parsed() {
        let found = SqlxFormat
            .parse_files(
                vec![
                    source("1_add_users.up.sql", "a"),
                    source("1_add_users.down.sql", "b"),
                    source("20240101_x_y.sql", "-- no-transaction\nc"),
                ],
                "m/",
            )
            .unwrap();
        assert_eq!((found[0].version.as_str(), found[0].description.as_str()), ("1", "add users"));
        assert_eq!(found[0].down.as_ref().unwrap().text.as_str(), "b");
        assert!(found[1].no_transaction && !found[0].no_transaction);
        assert!(SqlxFormat.parse_files(vec![source("2_x.down.sql", "")], "m/").is_err());
    }

    #[test]
    fn lock_key_matches_sqlx() {
        // The check value of this CRC is 0xcbf43926.
        let lock = SqlxFormat.tool_lock(SqlEngine::Mysql, "123456789").unwrap();
        assert_eq!(lock.acquire_sql, format!("SELECT GET_LOCK('{:x}', 0)", 0x3d32_ad9e_i64 * 0xcbf4_3926));
        assert!(PlainFormat.tool_lock(SqlEngine::Postgres, "x").is_none());
    }

    #[test]
    fn dbmate_files_are_parsed() {
        let text = "-- a comment\n-- migrate:up transaction:false\ncreate index;\n-- migrate:down\ndrop index;\n";
        let found = DbmateFormat.parse_files(vec![source("20240101_x.sql", text)], "m/").unwrap();
        assert_eq!(found[0].up_sql(), "create index;\n");
        let down = found[0].down.as_ref().unwrap();
        assert_eq!(
            (&down.text[down.range.clone()], found[0].no_transaction, down.no_transaction),
            ("drop index;\n", true, false)
        );
        let failure =
            DbmateFormat.parse_files(vec![source("1_x.sql", "\nselect 1;\n-- migrate:up\n")], "m/").unwrap_err();
        assert_eq!(failure.details["line"], 2);
    }

    #[test]
    fn format_is_detected_from_files_and_tables() {
        let none = |_: &str| false;
        let name = |named, files: &[MigrationSource], tables: &dyn Fn(&str) -> bool| {
            detect(named, files, tables).map(|format| format.name())
        };
        let plain = [source("1_x.sql", "select 1")];
        assert_eq!(name(None, &plain, &none).unwrap(), "plain");
        assert_eq!(name(None, &plain, &|table| table == "_sqlx_migrations").unwrap(), "sqlx");
        assert!(name(None, &plain, &|_| true).is_err());
        assert_eq!(name(Some("sqlx"), &plain, &|_| true).unwrap(), "sqlx");
        assert_eq!(name(None, &[source("1_x.up.sql", "")], &none).unwrap(), "sqlx");
        assert_eq!(name(None, &[source("1_x.sql", "-- migrate:up\n")], &none).unwrap(), "dbmate");
        assert!(name(Some("flyway"), &plain, &none).is_err());
    }
}
