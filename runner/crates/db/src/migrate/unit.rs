//! Splits a file that can't be one transaction into units that are run, recorded and probed separately. Pure.
//!
//! Invariant: whatever can share a transaction with its record does. Only what an engine does outside transactions gets
//! an intent first, and a catalog check. Deliberately absent: running that check; see [`catalog`](super::catalog).

use contract::step::FailureKind;
use sha2::{Digest as _, Sha256};

use super::{
    super::sql::{SqlEngine, SqlPosition, SqlSessionError, hex},
    files::normalize_text,
    split::{SqlStatement, SqlToken, leading_tokens},
};

/// A unit of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExecutionUnit {
    /// Its number, from 1.
    pub(super) number: usize,
    pub(super) mode: ExecutionMode,
    pub(super) statements: Vec<SqlStatement>,
    /// The SHA-256 of its text with normalized line endings.
    pub(super) hash: String,
}

/// How a unit runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExecutionMode {
    /// In one transaction with its record.
    Transactional,
    /// Outside a transaction, between an intent and a record.
    NonTransactional(CatalogCheck),
    /// It configures the session, so it runs again whenever the file resumes.
    Session,
}

/// How the catalog shows whether a statement with an unknown outcome has run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CatalogCheck {
    /// PostgreSQL: an index that is built, by schema and name; it may be left invalid.
    IndexBuilt { index: Vec<String> },
    /// PostgreSQL: an index that is dropped.
    #[serde(rename = "index-gone")]
    IndexDropped { index: Vec<String> },
    /// PostgreSQL: an index that is rebuilt; a half-built one has another name.
    IndexRebuilt { index: Vec<String> },
    /// PostgreSQL: a partition that is detached from its table.
    #[serde(rename = "detached")]
    PartitionDetached { table: Vec<String>, partition: Vec<String> },
    /// A database that is created or dropped.
    Database { name: String, made: bool },
    /// MySQL: whether the `SHOW CREATE` of this object has changed.
    #[serde(rename = "shown")]
    ShowCreate { what: String, name: Vec<String> },
    /// MySQL: tables that are dropped one by one.
    #[serde(rename = "tables-gone")]
    TablesDropped { names: Vec<Vec<String>> },
    /// Running it twice does the same as once.
    Repeatable,
    /// Nothing shows it.
    #[serde(rename = "nothing")]
    Unobservable,
}

/// Splits a part of a file into units.
pub(super) fn split_into_units(
    engine: SqlEngine,
    text: &str,
    statements: Vec<SqlStatement>,
) -> Result<Vec<ExecutionUnit>, SqlSessionError> {
    let mut units: Vec<ExecutionUnit> = Vec::new();
    let mut open_transaction: Option<Vec<SqlStatement>> = None;
    for statement in statements {
        let sql = &text[statement.range.clone()];
        let words = leading_tokens(engine, sql, 24);
        let refuse = |why: &str| SqlSessionError {
            position: Some(SqlPosition::at(text, statement.range.start)),
            ..SqlSessionError::new(FailureKind::Denied, why)
        };
        let (way, statements) = match (transaction_control(&words), &mut open_transaction) {
            (Some(TransactionControl::Begin), None) => {
                open_transaction = Some(Vec::new());
                continue;
            }
            (Some(TransactionControl::Commit), Some(_)) => {
                (ExecutionMode::Transactional, open_transaction.take().unwrap_or_default())
            }
            (Some(TransactionControl::Begin), Some(_)) => {
                return Err(refuse("BEGIN is denied: a transaction is already open in this file"));
            }
            (Some(TransactionControl::Commit), None) => {
                return Err(refuse("COMMIT is denied: the BEGIN before it is missing"));
            }
            (Some(TransactionControl::Other(word)), _) => {
                return Err(refuse(&format!(
                    "{word} is denied: a file controls its transactions with BEGIN and COMMIT only"
                )));
            }
            (None, Some(inside)) => {
                inside.push(statement);
                continue;
            }
            (None, None) => (execution_mode(engine, &words, sql), vec![statement]),
        };
        if statements.is_empty() {
            continue;
        }
        let mut sum = Sha256::new();
        for statement in &statements {
            sum.update(normalize_text(&text[statement.range.clone()]).as_bytes());
            sum.update(statement.copy_data.clone().map_or("", |data| &text[data]).as_bytes());
            sum.update(b";");
        }
        units.push(ExecutionUnit { number: units.len() + 1, mode: way, statements, hash: hex(&sum.finalize()) });
    }
    match open_transaction.and_then(|left| left.first().cloned()) {
        Some(first) => Err(SqlSessionError {
            position: Some(SqlPosition::at(text, first.range.start)),
            ..SqlSessionError::new(
                FailureKind::Denied,
                "the COMMIT of the transaction around this statement is missing",
            )
        }),
        None => Ok(units),
    }
}

/// A statement that controls the transaction.
pub(super) enum TransactionControl {
    Begin,
    Commit,
    Other(&'static str),
}

pub(super) fn transaction_control(words: &[SqlToken]) -> Option<TransactionControl> {
    let word = |index: usize| words.get(index).map_or("", |token| token.keyword.as_str());
    match word(0) {
        "BEGIN" if word(1) != "NOT" => Some(TransactionControl::Begin),
        "START" if word(1) == "TRANSACTION" => Some(TransactionControl::Begin),
        "COMMIT" if word(1) != "PREPARED" => Some(TransactionControl::Commit),
        "END" => Some(TransactionControl::Commit),
        "ROLLBACK" if word(1) == "TO" || word(2) == "TO" => None,
        "ROLLBACK" => Some(TransactionControl::Other("ROLLBACK")),
        "ABORT" => Some(TransactionControl::Other("ABORT")),
        "XA" => Some(TransactionControl::Other("XA")),
        "PREPARE" if word(1) == "TRANSACTION" => Some(TransactionControl::Other("PREPARE TRANSACTION")),
        "COMMIT" => Some(TransactionControl::Other("COMMIT PREPARED")),
        _ => None,
    }
}

fn execution_mode(engine: SqlEngine, words: &[SqlToken], sql: &str) -> ExecutionMode {
    match engine {
        SqlEngine::Sqlite => match words.first().map(|token| token.keyword.as_str()) {
            Some("PRAGMA") => ExecutionMode::Session,
            Some("VACUUM") => ExecutionMode::NonTransactional(CatalogCheck::Repeatable),
            Some(_) | None => ExecutionMode::Transactional,
        },
        SqlEngine::Postgres => postgres_mode(words, sql),
        SqlEngine::Mysql => mysql_mode(words),
    }
}

fn find_word(words: &[SqlToken], word: &str) -> Option<usize> {
    words.iter().position(|token| token.keyword == word)
}

/// A qualified name, `a.b`, that starts at a token.
fn parse_name(words: &[SqlToken], mut at: usize) -> Option<Vec<String>> {
    for skipped in [["IF", "NOT", "EXISTS"].as_slice(), &["IF", "EXISTS"], &["ONLY"]] {
        if words
            .get(at..at + skipped.len())
            .is_some_and(|found| found.iter().zip(skipped).all(|(token, word)| token.keyword == *word))
        {
            at += skipped.len();
        }
    }
    // PostgreSQL folds unquoted names to lower case.
    let one = |token: &SqlToken| token.text.clone();
    let mut parts = vec![words.get(at).filter(|token| token.is_name()).map(one)?];
    while words.get(at + 1).is_some_and(|token| token.text == ".") {
        parts.push(words.get(at + 2).filter(|token| token.is_name()).map(one)?);
        at += 2;
    }
    Some(parts)
}

fn parse_folded_name(words: &[SqlToken], at: usize) -> Option<Vec<String>> {
    let bare: Vec<SqlToken> = words
        .iter()
        .map(|token| SqlToken {
            text: if token.keyword.is_empty() { token.text.clone() } else { token.text.to_lowercase() },
            keyword: token.keyword.clone(),
        })
        .collect();
    parse_name(&bare, at)
}

fn postgres_mode(words: &[SqlToken], sql: &str) -> ExecutionMode {
    let word = |index: usize| words.get(index).map_or("", |token| token.keyword.as_str());
    let concurrently = find_word(words, "CONCURRENTLY");
    let check = match (word(0), concurrently) {
        ("SET" | "RESET" | "SHOW", _) if word(1) != "CONSTRAINTS" => return ExecutionMode::Session,
        ("CREATE", Some(at)) if find_word(words, "INDEX").is_some() => {
            // An unnamed index gets an unpredictable name.
            match parse_folded_name(words, at + 1).filter(|index| index != &["on"]) {
                Some(index) => {
                    let on = words
                        .iter()
                        .position(|token| token.keyword == "ON")
                        .and_then(|on| parse_folded_name(words, on + 1));
                    // An index is created in the schema of its table.
                    let schema = on.filter(|table| table.len() > 1).map(|table| table[0].clone());
                    CatalogCheck::IndexBuilt { index: schema.into_iter().chain(index).collect() }
                }
                None => CatalogCheck::Unobservable,
            }
        }
        ("DROP", Some(at)) => parse_folded_name(words, at + 1)
            .map_or(CatalogCheck::Unobservable, |index| CatalogCheck::IndexDropped { index }),
        ("REINDEX", Some(at)) => match (word(1), parse_folded_name(words, at + 1)) {
            ("INDEX", Some(index)) => CatalogCheck::IndexRebuilt { index },
            _ => CatalogCheck::Repeatable,
        },
        ("ALTER", Some(_)) if find_word(words, "DETACH").is_some() => {
            let table = parse_folded_name(words, 2);
            let partition = find_word(words, "PARTITION").and_then(|at| parse_folded_name(words, at + 1));
            match (table, partition) {
                (Some(table), Some(partition)) => CatalogCheck::PartitionDetached { table, partition },
                _ => CatalogCheck::Unobservable,
            }
        }
        ("VACUUM" | "CLUSTER" | "REINDEX", _) => CatalogCheck::Repeatable,
        ("ALTER", _) if word(1) == "SYSTEM" => CatalogCheck::Repeatable,
        ("CREATE" | "DROP", _) if word(1) == "DATABASE" => match parse_folded_name(words, 2) {
            Some(name) => CatalogCheck::Database { name: name[0].clone(), made: word(0) == "CREATE" },
            None => CatalogCheck::Unobservable,
        },
        ("CREATE" | "DROP" | "ALTER", _) if matches!(word(1), "TABLESPACE" | "SUBSCRIPTION") => {
            CatalogCheck::Unobservable
        }
        ("CALL", _) => CatalogCheck::Unobservable,
        ("DO", _) if may_end_transaction(sql) => CatalogCheck::Unobservable,
        _ => return ExecutionMode::Transactional,
    };
    ExecutionMode::NonTransactional(check)
}

/// Whether a block may commit by itself, which works only outside a transaction.
fn may_end_transaction(sql: &str) -> bool {
    let upper = sql.to_ascii_uppercase();
    ["COMMIT", "ROLLBACK"].iter().any(|word| upper.contains(word))
}

fn mysql_mode(words: &[SqlToken]) -> ExecutionMode {
    let word = |index: usize| words.get(index).map_or("", |token| token.keyword.as_str());
    let after = |word: &str| find_word(words, word).map(|at| at + 1);
    let shown = |what: &str, at: Option<usize>| match at.and_then(|at| parse_name(words, at)) {
        Some(name) => CatalogCheck::ShowCreate { what: what.to_owned(), name },
        None => CatalogCheck::Unobservable,
    };
    let object = words.iter().map(|token| token.keyword.as_str()).find(|word| {
        matches!(
            *word,
            "TABLE"
                | "TABLES"
                | "INDEX"
                | "VIEW"
                | "PROCEDURE"
                | "FUNCTION"
                | "TRIGGER"
                | "EVENT"
                | "SEQUENCE"
                | "DATABASE"
                | "SCHEMA"
                | "USER"
                | "ROLE"
        )
    });
    let check = match (word(0), object) {
        ("INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "SELECT" | "WITH" | "VALUES" | "DO" | "LOAD" | "TABLE", _) => {
            return ExecutionMode::Transactional;
        }
        ("SET" | "USE", _) => return ExecutionMode::Session,
        ("CREATE" | "DROP", _) if word(1) == "TEMPORARY" => return ExecutionMode::Session,
        ("CREATE" | "ALTER" | "DROP", Some("INDEX")) if word(0) != "ALTER" => shown("TABLE", after("ON")),
        ("CREATE" | "ALTER", Some("TABLE")) => shown("TABLE", after("TABLE")),
        ("RENAME", Some("TABLE" | "TABLES")) => shown("TABLE", after("TABLE").or_else(|| after("TABLES"))),
        ("DROP", Some(kind @ ("TABLE" | "TABLES"))) => {
            let mut at = after(kind).unwrap_or(words.len());
            if word(at) == "IF" {
                at += 2;
            }
            let lists = words[at.min(words.len())..].split(|token| token.text == ",");
            let names: Option<Vec<_>> = lists.map(|list| parse_name(list, 0)).collect();
            match names.filter(|names| !names.is_empty() && words.len() < 24) {
                Some(names) => CatalogCheck::TablesDropped { names },
                None => CatalogCheck::Unobservable,
            }
        }
        ("CREATE" | "ALTER" | "DROP", Some("VIEW")) => shown("VIEW", after("VIEW")),
        ("CREATE" | "ALTER" | "DROP", Some("PROCEDURE")) => shown("PROCEDURE", after("PROCEDURE")),
        ("CREATE" | "ALTER" | "DROP", Some("FUNCTION")) => shown("FUNCTION", after("FUNCTION")),
        ("CREATE" | "DROP", Some("TRIGGER")) => shown("TRIGGER", after("TRIGGER")),
        ("CREATE" | "ALTER" | "DROP", Some("EVENT")) => shown("EVENT", after("EVENT")),
        ("CREATE" | "ALTER" | "DROP", Some("SEQUENCE")) => shown("TABLE", after("SEQUENCE")),
        ("CREATE" | "DROP", Some(kind @ ("DATABASE" | "SCHEMA"))) => {
            match after(kind).and_then(|at| parse_name(words, at)) {
                Some(name) => CatalogCheck::Database { name: name[0].clone(), made: word(0) == "CREATE" },
                None => CatalogCheck::Unobservable,
            }
        }
        ("TRUNCATE" | "GRANT" | "REVOKE" | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK" | "FLUSH" | "ALTER", _) => {
            CatalogCheck::Repeatable
        }
        _ => CatalogCheck::Unobservable,
    };
    ExecutionMode::NonTransactional(check)
}

#[cfg(test)]
mod tests {
    use super::super::split::split_statements;
    use super::*;

    fn modes(engine: SqlEngine, text: &str) -> Vec<ExecutionMode> {
        split_into_units(engine, text, split_statements(engine, text).unwrap())
            .unwrap()
            .into_iter()
            .map(|unit| unit.mode)
            .collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn postgres() {
        for (sql, expected) in [
            (
                "create unique index concurrently if not exists Idx on shop.t (a)",
                ExecutionMode::NonTransactional(CatalogCheck::IndexBuilt { index: names(&["shop", "idx"]) }),
            ),
            (
                "create index concurrently \"Idx\" on only t (a)",
                ExecutionMode::NonTransactional(CatalogCheck::IndexBuilt { index: names(&["Idx"]) }),
            ),
            ("create index concurrently on t (a)", ExecutionMode::NonTransactional(CatalogCheck::Unobservable)),
            (
                "drop index concurrently if exists s.i",
                ExecutionMode::NonTransactional(CatalogCheck::IndexDropped { index: names(&["s", "i"]) }),
            ),
            (
                "reindex index concurrently i",
                ExecutionMode::NonTransactional(CatalogCheck::IndexRebuilt { index: names(&["i"]) }),
            ),
            (
                "alter table t detach partition p concurrently",
                ExecutionMode::NonTransactional(CatalogCheck::PartitionDetached {
                    table: names(&["t"]),
                    partition: names(&["p"]),
                }),
            ),
            ("vacuum t", ExecutionMode::NonTransactional(CatalogCheck::Repeatable)),
            ("alter type mood add value 'x'", ExecutionMode::Transactional),
            ("set lock_timeout = 0", ExecutionMode::Session),
            ("do $$begin null; end$$", ExecutionMode::Transactional),
            ("do $$begin commit; end$$", ExecutionMode::NonTransactional(CatalogCheck::Unobservable)),
            ("call p()", ExecutionMode::NonTransactional(CatalogCheck::Unobservable)),
        ] {
            assert_eq!(modes(SqlEngine::Postgres, sql), [expected], "{sql}");
        }
    }

    #[test]
    fn mysql() {
        let show_create = |what: &str, name: &[&str]| {
            ExecutionMode::NonTransactional(CatalogCheck::ShowCreate { what: what.to_owned(), name: names(name) })
        };
        for (sql, expected) in [
            ("create table if not exists `a b`.t (x int)", show_create("TABLE", &["a b", "t"])),
            ("alter table t add column a int", show_create("TABLE", &["t"])),
            ("create index i on t (a)", show_create("TABLE", &["t"])),
            ("create or replace view v as select 1", show_create("VIEW", &["v"])),
            (
                "drop table if exists a, b",
                ExecutionMode::NonTransactional(CatalogCheck::TablesDropped {
                    names: vec![names(&["a"]), names(&["b"])],
                }),
            ),
            ("insert into t values (1)", ExecutionMode::Transactional),
            ("set names utf8mb4", ExecutionMode::Session),
            ("call p()", ExecutionMode::NonTransactional(CatalogCheck::Unobservable)),
        ] {
            assert_eq!(modes(SqlEngine::Mysql, sql), [expected], "{sql}");
        }
    }

    #[test]
    fn explicit_transaction_is_one_unit() {
        let text =
            "pragma foreign_keys = off; begin; create table a (b); drop table c; commit; pragma foreign_keys = on;";
        assert_eq!(
            modes(SqlEngine::Sqlite, text),
            [ExecutionMode::Session, ExecutionMode::Transactional, ExecutionMode::Session]
        );
        for bad in ["begin; select 1", "select 1; commit", "begin; begin; commit", "rollback"] {
            assert!(
                split_into_units(SqlEngine::Postgres, bad, split_statements(SqlEngine::Postgres, bad).unwrap())
                    .is_err(),
                "{bad}"
            );
        }
    }
}
