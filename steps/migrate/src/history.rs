//! The table of applied migrations, and what it says about the files. The comparison is pure.

use pawl_step::Failure;
use pawl_step::database::{Rows, Value};
use serde::Deserialize;

use crate::file::Migration;

/// Makes the table. A change of its form is a new name.
pub(crate) const CREATE: &str = "CREATE TABLE IF NOT EXISTS _pawl_migrations (\
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at TEXT NOT NULL, run TEXT NOT NULL)";

/// Adds a row.
pub(crate) const INSERT: &str =
    "INSERT INTO _pawl_migrations (version, name, checksum, applied_at, run) VALUES (?1, ?2, ?3, ?4, ?5)";

const EXISTS: &str = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_pawl_migrations'";
const SELECT: &str = "SELECT version, name, checksum FROM _pawl_migrations ORDER BY version";

/// One applied migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) version: i64,
    pub(crate) name: String,
    pub(crate) checksum: String,
}

/// What to do when the database has migrations newer than every file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ahead {
    /// Stop.
    #[default]
    Refuse,
    /// Leave them applied.
    Allow,
}

/// How files and history stand to each other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Every file is applied as it is.
    Complete,
    /// Some are not applied.
    Behind,
    /// The history is not that of these files.
    Strange(Problem),
}

/// Why files and history do not fit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// An applied file has other content now.
    Changed { file_name: String },
    /// An applied file is not there.
    Missing { row: Row },
    /// Applied files newer than all that are there.
    Ahead { row: Row },
    /// A file that is not applied, older than one that is.
    OutOfOrder { file_name: String, newest: i64 },
}

/// Reads the history through `query`; empty when there is no table.
pub(crate) fn read(query: impl Fn(&str) -> Result<Rows, Failure>) -> Result<Vec<Row>, Failure> {
    if query(EXISTS)?.rows.is_empty() {
        return Ok(Vec::new());
    }
    query(SELECT)?.rows.into_iter().map(parse).collect()
}

/// SQLite's count of commits, as this connection sees it: it stands still as long as nobody else commits.
/// <https://sqlite.org/pragma.html#pragma_data_version>
pub(crate) fn data_version(query: impl Fn(&str) -> Result<Rows, Failure>) -> Result<i64, Failure> {
    match query("PRAGMA data_version")?.rows.first().and_then(|row| row.first()) {
        Some(Value::Integer(version)) => Ok(*version),
        // Not shown: the words for every kind of value would be a twentieth of the component.
        _ => Err(Failure::permanent("the database does not tell its data version")),
    }
}

/// The values for [`INSERT`].
pub(crate) fn row(file: &Migration, now: &str, run: &str) -> [Value; 5] {
    [file.version.into(), file.file_name.as_str().into(), file.checksum.as_str().into(), now.into(), run.into()]
}

/// The files that are still to be applied, in order.
pub(crate) fn pending<'a>(
    files: &'a [Migration],
    history: &[Row],
    ahead: Ahead,
) -> Result<Vec<&'a Migration>, Problem> {
    for row in history {
        match files.iter().find(|file| file.version == row.version) {
            Some(file) if file.checksum == row.checksum => {}
            Some(file) => return Err(Problem::Changed { file_name: file.file_name.clone() }),
            None if files.iter().any(|file| file.version > row.version) => {
                return Err(Problem::Missing { row: row.clone() });
            }
            None if ahead == Ahead::Refuse => return Err(Problem::Ahead { row: row.clone() }),
            None => {}
        }
    }
    let pending: Vec<_> = files.iter().filter(|file| !history.iter().any(|row| row.version == file.version)).collect();
    let newest = history.iter().map(|row| row.version).max();
    match (pending.first(), newest) {
        (Some(first), Some(newest)) if first.version < newest => {
            Err(Problem::OutOfOrder { file_name: first.file_name.clone(), newest })
        }
        (Some(_) | None, _) => Ok(pending),
    }
}

/// How files and history stand to each other.
pub(crate) fn standing(files: &[Migration], history: &[Row], ahead: Ahead) -> Standing {
    match pending(files, history, ahead) {
        Ok(pending) if pending.is_empty() => Standing::Complete,
        // A file out of order is not applied either; `apply` says what is wrong with it.
        Ok(_) | Err(Problem::OutOfOrder { .. }) => Standing::Behind,
        Err(problem @ (Problem::Changed { .. } | Problem::Missing { .. } | Problem::Ahead { .. })) => {
            Standing::Strange(problem)
        }
    }
}

impl Problem {
    pub(crate) fn failure(&self, dir: &str, database: &str) -> Failure {
        match self {
            Self::Changed { file_name } => {
                Failure::permanent(format!("{file_name} was changed after it was applied to the database `{database}`"))
                    .hint("restore its old content, and put the change into a new migration")
                    .detail("file", format!("{dir}/{file_name}"))
            }
            Self::Missing { row: Row { name, .. } } => {
                Failure::permanent(format!("{name} is applied to the database `{database}`, but the file is not in `{dir}` any more"))
                    .hint("restore the file; what it did is not undone by removing it")
                    .detail("file", format!("{dir}/{name}"))
            }
            Self::Ahead { row: Row { name, .. } } => {
                Failure::permanent(format!("the database `{database}` is ahead: {name} is applied, and newer than every file in `{dir}`"))
                    .hint("deploy a release that has the file; if this one works with the newer schema, write `ahead: allow` under `with:`")
                    .detail("file", format!("{dir}/{name}"))
            }
            Self::OutOfOrder { file_name, newest } => {
                Failure::permanent(format!("{file_name} is not applied, but older than number {newest}, which is: it would run out of order"))
                    .hint(format!("give it a number above {newest}, if it still does what it should after the files in between"))
                    .detail("file", format!("{dir}/{file_name}"))
            }
        }
    }
}

fn parse(values: Vec<Value>) -> Result<Row, Failure> {
    match <[Value; 3]>::try_from(values) {
        Ok([Value::Integer(version), Value::Text(name), Value::Text(checksum)]) => Ok(Row { version, name, checksum }),
        Ok(_) | Err(_) => {
            Err(Failure::bad_content("the table `_pawl_migrations` has a row that this module did not write")
                .hint("look at it with `SELECT * FROM _pawl_migrations`, and remove what is not from a migration"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::sample;

    fn applied(files: &[Migration]) -> Vec<Row> {
        files
            .iter()
            .map(|file| Row { version: file.version, name: file.file_name.clone(), checksum: file.checksum.clone() })
            .collect()
    }

    /// Main property: over every set of files 1–4 and every applied subset of 1–4, with one changed or none, the answer is
    /// the one that the words of the reference give.
    #[test]
    fn every_small_case_matches_the_reference() {
        let versions = |set: u8| (0..4).filter(move |bit| set & (1 << bit) != 0).map(|bit| i64::from(bit) + 1);
        for (files, history, changed, ahead) in (0..16).flat_map(|f| {
            (0..16).flat_map(move |h| (0..5).flat_map(move |c| [(f, h, c, Ahead::Refuse), (f, h, c, Ahead::Allow)]))
        }) {
            let present: Vec<_> = versions(files)
                .map(|version| sample(version, if version == changed { "select 2" } else { "select 1" }))
                .collect();
            let history: Vec<_> = versions(history).collect();
            let rows = applied(&history.iter().map(|version| sample(*version, "select 1")).collect::<Vec<_>>());
            let is_present = |version: &i64| present.iter().any(|file| file.version == *version);
            let newest_file = present.iter().map(|file| file.version).max().unwrap_or(0);
            let newest_row = history.iter().copied().max().unwrap_or(0);

            let is_changed = history.contains(&changed) && is_present(&changed);
            let is_missing = history.iter().any(|version| !is_present(version) && *version < newest_file);
            let is_ahead = history.iter().any(|version| *version > newest_file) && ahead == Ahead::Refuse;
            let open: Vec<_> =
                present.iter().map(|file| file.version).filter(|version| !history.contains(version)).collect();

            let found = pending(&present, &rows, ahead);
            if is_changed || is_missing || is_ahead {
                assert!(matches!(standing(&present, &rows, ahead), Standing::Strange(_)));
                assert!(found.is_err());
            } else if open.iter().any(|version| *version < newest_row) {
                assert!(matches!(found, Err(Problem::OutOfOrder { .. })));
                assert_eq!(standing(&present, &rows, ahead), Standing::Behind);
            } else {
                assert_eq!(found.unwrap().iter().map(|file| file.version).collect::<Vec<_>>(), open);
                assert_eq!(
                    standing(&present, &rows, ahead),
                    if open.is_empty() { Standing::Complete } else { Standing::Behind }
                );
            }
        }
    }

    #[test]
    fn problems_name_file_and_way_out() {
        let files = [sample(1, "a"), sample(2, "b"), sample(3, "c")];
        let message = |files: &[Migration], rows: &[Row]| {
            let failure = pending(files, rows, Ahead::Refuse).unwrap_err().failure("migrations", "main");
            assert!(failure.hint.is_some() && failure.details["file"].as_str().unwrap().starts_with("migrations/"));
            failure.message
        };
        let rows = applied(&files);
        assert_eq!(
            message(&[sample(1, "a"), sample(2, "other")], &rows[..2]),
            "0002_x.sql was changed after it was applied to the database `main`"
        );
        assert_eq!(
            message(&files[1..], &rows[..1]),
            "0001_x.sql is applied to the database `main`, but the file is not in `migrations` any more"
        );
        assert_eq!(
            message(&files[..2], &rows),
            "the database `main` is ahead: 0003_x.sql is applied, and newer than every file in `migrations`"
        );
        assert_eq!(
            message(&files[..], &[rows[0].clone(), rows[2].clone()]),
            "0002_x.sql is not applied, but older than number 3, which is: it would run out of order"
        );
    }

    #[test]
    fn reads_the_table() {
        let table = |rows: Vec<Vec<Value>>| {
            move |sql: &str| {
                Ok(Rows {
                    columns: Vec::new(),
                    rows: if sql == EXISTS { vec![vec![Value::Integer(1)]] } else { rows.clone() },
                })
            }
        };
        let good = vec![Value::Integer(1), "0001_x.sql".into(), "sha256:00".into()];
        assert_eq!(
            read(table(vec![good])).unwrap(),
            [Row { version: 1, name: "0001_x.sql".into(), checksum: "sha256:00".into() }]
        );
        assert!(read(table(vec![vec![Value::Null, "x".into(), "y".into()]])).is_err());
        assert_eq!(read(|_: &str| Ok(Rows { columns: Vec::new(), rows: Vec::new() })).unwrap(), []);
    }
}
