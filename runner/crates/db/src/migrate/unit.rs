//! A file that is not one transaction, cut into what is done, recorded and found again by itself. Pure.
//!
//! Invariant: what can be one transaction with its own record is; only what an engine does outside of transactions has an
//! intent before it, and a question to the catalogue about it. Deliberately absent: asking it, which is [`probe`](super::probe)'s.

use sha2::{Digest as _, Sha256};

use super::{
    super::sql::{Engine, Kind, Position, SqlFault, hex},
    files::normal,
    split::{Statement, Token, tokens},
};

/// One unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// From 1.
    pub(super) number: usize,
    pub(super) way: Way,
    pub(super) statements: Vec<Statement>,
    /// SHA-256 of its text, line ends taken out.
    pub(super) hash: String,
}

/// How a unit is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In one transaction with its record.
    Inside,
    /// By itself, between an intent and a record.
    Outside(About),
    /// It sets the session up, and is done again whenever the file is gone on with.
    Setting,
}

/// What the catalogue is asked about when nobody knows whether a statement was done.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum About {
    /// PostgreSQL: an index that is built, by schema and name; it may be left invalid.
    IndexBuilt { index: Vec<String> },
    /// PostgreSQL: an index that is dropped.
    IndexGone { index: Vec<String> },
    /// PostgreSQL: an index that is built anew; what is half built has another name.
    IndexRebuilt { index: Vec<String> },
    /// PostgreSQL: a partition that leaves its table.
    Detached { table: Vec<String>, partition: Vec<String> },
    /// A database that is made or dropped.
    Database { name: String, made: bool },
    /// MySQL: whether what `SHOW CREATE` says of this has changed.
    Shown { what: String, name: Vec<String> },
    /// MySQL: tables that are dropped, one after the other.
    TablesGone { names: Vec<Vec<String>> },
    /// Twice does what once does.
    Repeatable,
    /// Nothing tells.
    Nothing,
}

/// The units of a file's part.
pub(super) fn units(engine: Engine, text: &str, statements: Vec<Statement>) -> Result<Vec<Unit>, SqlFault> {
    let mut units: Vec<Unit> = Vec::new();
    let mut region: Option<Vec<Statement>> = None;
    for statement in statements {
        let sql = &text[statement.range.clone()];
        let words = tokens(engine, sql, 24);
        let refuse = |why: &str| SqlFault {
            position: Some(Position::at(text, statement.range.start)),
            ..SqlFault::new(Kind::Denied, why)
        };
        let (way, statements) = match (control(&words), &mut region) {
            (Some(Control::Begin), None) => {
                region = Some(Vec::new());
                continue;
            }
            (Some(Control::Commit), Some(_)) => (Way::Inside, region.take().unwrap_or_default()),
            (Some(Control::Begin), Some(_)) => return Err(refuse("BEGIN inside of a transaction of the file's own")),
            (Some(Control::Commit), None) => return Err(refuse("COMMIT without a BEGIN before it")),
            (Some(Control::Other(word)), _) => {
                return Err(refuse(&format!("{word} is denied: a file's transactions are BEGIN … COMMIT")));
            }
            (None, Some(inside)) => {
                inside.push(statement);
                continue;
            }
            (None, None) => (way(engine, &words, sql), vec![statement]),
        };
        if statements.is_empty() {
            continue;
        }
        let mut sum = Sha256::new();
        for statement in &statements {
            sum.update(normal(&text[statement.range.clone()]).as_bytes());
            sum.update(statement.data.clone().map_or("", |data| &text[data]).as_bytes());
            sum.update(b";");
        }
        units.push(Unit { number: units.len() + 1, way, statements, hash: hex(&sum.finalize()) });
    }
    match region.and_then(|left| left.first().cloned()) {
        Some(first) => Err(SqlFault {
            position: Some(Position::at(text, first.range.start)),
            ..SqlFault::new(Kind::Denied, "the transaction that begins before this has no COMMIT")
        }),
        None => Ok(units),
    }
}

/// A statement about the transaction itself.
pub(super) enum Control {
    Begin,
    Commit,
    Other(&'static str),
}

pub(super) fn control(words: &[Token]) -> Option<Control> {
    let word = |index: usize| words.get(index).map_or("", |token| token.word.as_str());
    match word(0) {
        "BEGIN" if word(1) != "NOT" => Some(Control::Begin),
        "START" if word(1) == "TRANSACTION" => Some(Control::Begin),
        "COMMIT" if word(1) != "PREPARED" => Some(Control::Commit),
        "END" => Some(Control::Commit),
        "ROLLBACK" if word(1) == "TO" || word(2) == "TO" => None,
        "ROLLBACK" => Some(Control::Other("ROLLBACK")),
        "ABORT" => Some(Control::Other("ABORT")),
        "XA" => Some(Control::Other("XA")),
        "PREPARE" if word(1) == "TRANSACTION" => Some(Control::Other("PREPARE TRANSACTION")),
        "COMMIT" => Some(Control::Other("COMMIT PREPARED")),
        _ => None,
    }
}

fn way(engine: Engine, words: &[Token], sql: &str) -> Way {
    match engine {
        Engine::Sqlite => match words.first().map(|token| token.word.as_str()) {
            Some("PRAGMA") => Way::Setting,
            Some("VACUUM") => Way::Outside(About::Repeatable),
            Some(_) | None => Way::Inside,
        },
        Engine::Postgres => postgres(words, sql),
        Engine::Mysql => mysql(words),
    }
}

fn has(words: &[Token], word: &str) -> Option<usize> {
    words.iter().position(|token| token.word == word)
}

/// A name with what it belongs to, `a.b`, from a token on.
fn name(words: &[Token], mut at: usize) -> Option<Vec<String>> {
    for skipped in [["IF", "NOT", "EXISTS"].as_slice(), &["IF", "EXISTS"], &["ONLY"]] {
        if words
            .get(at..at + skipped.len())
            .is_some_and(|found| found.iter().zip(skipped).all(|(token, word)| token.word == *word))
        {
            at += skipped.len();
        }
    }
    // PostgreSQL's bare names are in small letters.
    let one = |token: &Token| token.text.clone();
    let mut parts = vec![words.get(at).filter(|token| token.is_name()).map(one)?];
    while words.get(at + 1).is_some_and(|token| token.text == ".") {
        parts.push(words.get(at + 2).filter(|token| token.is_name()).map(one)?);
        at += 2;
    }
    Some(parts)
}

fn folded(words: &[Token], at: usize) -> Option<Vec<String>> {
    let bare: Vec<Token> = words
        .iter()
        .map(|token| Token {
            text: if token.word.is_empty() { token.text.clone() } else { token.text.to_lowercase() },
            word: token.word.clone(),
        })
        .collect();
    name(&bare, at)
}

fn postgres(words: &[Token], sql: &str) -> Way {
    let word = |index: usize| words.get(index).map_or("", |token| token.word.as_str());
    let concurrently = has(words, "CONCURRENTLY");
    let about = match (word(0), concurrently) {
        ("SET" | "RESET" | "SHOW", _) if word(1) != "CONSTRAINTS" => return Way::Setting,
        ("CREATE", Some(at)) if has(words, "INDEX").is_some() => {
            // An index that is not named gets a name that nobody knows beforehand.
            match folded(words, at + 1).filter(|index| index != &["on"]) {
                Some(index) => {
                    let on = words.iter().position(|token| token.word == "ON").and_then(|on| folded(words, on + 1));
                    // It is made in the schema of its table.
                    let schema = on.filter(|table| table.len() > 1).map(|table| table[0].clone());
                    About::IndexBuilt { index: schema.into_iter().chain(index).collect() }
                }
                None => About::Nothing,
            }
        }
        ("DROP", Some(at)) => folded(words, at + 1).map_or(About::Nothing, |index| About::IndexGone { index }),
        ("REINDEX", Some(at)) => match (word(1), folded(words, at + 1)) {
            ("INDEX", Some(index)) => About::IndexRebuilt { index },
            _ => About::Repeatable,
        },
        ("ALTER", Some(_)) if has(words, "DETACH").is_some() => {
            let table = folded(words, 2);
            let partition = has(words, "PARTITION").and_then(|at| folded(words, at + 1));
            match (table, partition) {
                (Some(table), Some(partition)) => About::Detached { table, partition },
                _ => About::Nothing,
            }
        }
        ("VACUUM" | "CLUSTER" | "REINDEX", _) => About::Repeatable,
        ("ALTER", _) if word(1) == "SYSTEM" => About::Repeatable,
        ("CREATE" | "DROP", _) if word(1) == "DATABASE" => match folded(words, 2) {
            Some(name) => About::Database { name: name[0].clone(), made: word(0) == "CREATE" },
            None => About::Nothing,
        },
        ("CREATE" | "DROP" | "ALTER", _) if matches!(word(1), "TABLESPACE" | "SUBSCRIPTION") => About::Nothing,
        ("CALL", _) => About::Nothing,
        ("DO", _) if ends_transactions(sql) => About::Nothing,
        _ => return Way::Inside,
    };
    Way::Outside(about)
}

/// Whether a block may commit by itself, which only works outside of a transaction.
fn ends_transactions(sql: &str) -> bool {
    let upper = sql.to_ascii_uppercase();
    ["COMMIT", "ROLLBACK"].iter().any(|word| upper.contains(word))
}

fn mysql(words: &[Token]) -> Way {
    let word = |index: usize| words.get(index).map_or("", |token| token.word.as_str());
    let after = |word: &str| has(words, word).map(|at| at + 1);
    let shown = |what: &str, at: Option<usize>| match at.and_then(|at| name(words, at)) {
        Some(name) => About::Shown { what: what.to_owned(), name },
        None => About::Nothing,
    };
    let object = words.iter().map(|token| token.word.as_str()).find(|word| {
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
    let about = match (word(0), object) {
        ("INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "SELECT" | "WITH" | "VALUES" | "DO" | "LOAD" | "TABLE", _) => {
            return Way::Inside;
        }
        ("SET" | "USE", _) => return Way::Setting,
        ("CREATE" | "DROP", _) if word(1) == "TEMPORARY" => return Way::Setting,
        ("CREATE" | "ALTER" | "DROP", Some("INDEX")) if word(0) != "ALTER" => shown("TABLE", after("ON")),
        ("CREATE" | "ALTER", Some("TABLE")) => shown("TABLE", after("TABLE")),
        ("RENAME", Some("TABLE" | "TABLES")) => shown("TABLE", after("TABLE").or_else(|| after("TABLES"))),
        ("DROP", Some(kind @ ("TABLE" | "TABLES"))) => {
            let mut at = after(kind).unwrap_or(words.len());
            if word(at) == "IF" {
                at += 2;
            }
            let lists = words[at.min(words.len())..].split(|token| token.text == ",");
            let names: Option<Vec<_>> = lists.map(|list| name(list, 0)).collect();
            match names.filter(|names| !names.is_empty() && words.len() < 24) {
                Some(names) => About::TablesGone { names },
                None => About::Nothing,
            }
        }
        ("CREATE" | "ALTER" | "DROP", Some("VIEW")) => shown("VIEW", after("VIEW")),
        ("CREATE" | "ALTER" | "DROP", Some("PROCEDURE")) => shown("PROCEDURE", after("PROCEDURE")),
        ("CREATE" | "ALTER" | "DROP", Some("FUNCTION")) => shown("FUNCTION", after("FUNCTION")),
        ("CREATE" | "DROP", Some("TRIGGER")) => shown("TRIGGER", after("TRIGGER")),
        ("CREATE" | "ALTER" | "DROP", Some("EVENT")) => shown("EVENT", after("EVENT")),
        ("CREATE" | "ALTER" | "DROP", Some("SEQUENCE")) => shown("TABLE", after("SEQUENCE")),
        ("CREATE" | "DROP", Some(kind @ ("DATABASE" | "SCHEMA"))) => match after(kind).and_then(|at| name(words, at)) {
            Some(name) => About::Database { name: name[0].clone(), made: word(0) == "CREATE" },
            None => About::Nothing,
        },
        ("TRUNCATE" | "GRANT" | "REVOKE" | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK" | "FLUSH" | "ALTER", _) => {
            About::Repeatable
        }
        _ => About::Nothing,
    };
    Way::Outside(about)
}

#[cfg(test)]
mod tests {
    use super::super::split::split;
    use super::*;

    fn ways(engine: Engine, text: &str) -> Vec<Way> {
        units(engine, text, split(engine, text).unwrap()).unwrap().into_iter().map(|unit| unit.way).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn postgres() {
        for (sql, expected) in [
            (
                "create unique index concurrently if not exists Idx on shop.t (a)",
                Way::Outside(About::IndexBuilt { index: names(&["shop", "idx"]) }),
            ),
            (
                "create index concurrently \"Idx\" on only t (a)",
                Way::Outside(About::IndexBuilt { index: names(&["Idx"]) }),
            ),
            ("create index concurrently on t (a)", Way::Outside(About::Nothing)),
            ("drop index concurrently if exists s.i", Way::Outside(About::IndexGone { index: names(&["s", "i"]) })),
            ("reindex index concurrently i", Way::Outside(About::IndexRebuilt { index: names(&["i"]) })),
            (
                "alter table t detach partition p concurrently",
                Way::Outside(About::Detached { table: names(&["t"]), partition: names(&["p"]) }),
            ),
            ("vacuum t", Way::Outside(About::Repeatable)),
            ("alter type mood add value 'x'", Way::Inside),
            ("set lock_timeout = 0", Way::Setting),
            ("do $$begin null; end$$", Way::Inside),
            ("do $$begin commit; end$$", Way::Outside(About::Nothing)),
            ("call p()", Way::Outside(About::Nothing)),
        ] {
            assert_eq!(ways(Engine::Postgres, sql), [expected], "{sql}");
        }
    }

    #[test]
    fn mysql() {
        let shown = |what: &str, name: &[&str]| Way::Outside(About::Shown { what: what.to_owned(), name: names(name) });
        for (sql, expected) in [
            ("create table if not exists `a b`.t (x int)", shown("TABLE", &["a b", "t"])),
            ("alter table t add column a int", shown("TABLE", &["t"])),
            ("create index i on t (a)", shown("TABLE", &["t"])),
            ("create or replace view v as select 1", shown("VIEW", &["v"])),
            (
                "drop table if exists a, b",
                Way::Outside(About::TablesGone { names: vec![names(&["a"]), names(&["b"])] }),
            ),
            ("insert into t values (1)", Way::Inside),
            ("set names utf8mb4", Way::Setting),
            ("call p()", Way::Outside(About::Nothing)),
        ] {
            assert_eq!(ways(Engine::Mysql, sql), [expected], "{sql}");
        }
    }

    #[test]
    fn a_transaction_of_the_files_own_is_one_unit() {
        let text =
            "pragma foreign_keys = off; begin; create table a (b); drop table c; commit; pragma foreign_keys = on;";
        assert_eq!(ways(Engine::Sqlite, text), [Way::Setting, Way::Inside, Way::Setting]);
        for bad in ["begin; select 1", "select 1; commit", "begin; begin; commit", "rollback"] {
            assert!(units(Engine::Postgres, bad, split(Engine::Postgres, bad).unwrap()).is_err(), "{bad}");
        }
    }
}
