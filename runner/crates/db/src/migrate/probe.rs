//! Whether a statement was done of which only the intent is on record, as the catalogue tells it.
//!
//! Invariant: only evidence counts. What was there before the statement is noted with the intent, and compared; where nothing can
//! be compared, the answer is that it is not known.

use sha2::{Digest as _, Sha256};

use super::{
    super::sql::{Session, SqlFault, hex},
    dialect::Names,
    unit::About,
};

/// What the catalogue tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was done.
    Applied,
    /// It was not done, or twice does what once does. What it left has been taken away.
    NotApplied,
    /// It can't be told.
    Unknown,
}

/// What is noted with an intent: how things are before the statement.
pub(super) async fn before(session: &Session, names: &Names, about: &About) -> Result<String, SqlFault> {
    Ok(match about {
        About::IndexBuilt { index } | About::IndexGone { index } => index_state(session, names, index).await?,
        About::Detached { table, partition } => attachment(session, names, table, partition).await?,
        About::Database { name, .. } => database_state(session, names, name).await?,
        About::Shown { what, name } => shown(session, names, what, name).await?,
        About::TablesGone { names: tables } => {
            let mut found = Vec::new();
            for table in tables {
                found.push(shown(session, names, "TABLE", table).await?);
            }
            found.join(" ")
        }
        About::IndexRebuilt { .. } | About::Repeatable | About::Nothing => String::new(),
    })
}

/// Whether it was done, with what was noted before.
pub(super) async fn after(session: &Session, names: &Names, about: &About, noted: &str) -> Result<Verdict, SqlFault> {
    let applied = |yes: bool| if yes { Verdict::Applied } else { Verdict::NotApplied };
    Ok(match about {
        About::IndexBuilt { index } => match index_state(session, names, index).await?.as_str() {
            // It was there before: the statement itself says what is to be said about that.
            "valid" => applied(noted != "valid"),
            "invalid" => {
                if noted != "invalid" {
                    session.run(&format!("DROP INDEX CONCURRENTLY IF EXISTS {}", qualified(names, index))).await?;
                }
                Verdict::NotApplied
            }
            _ => Verdict::NotApplied,
        },
        About::IndexGone { index } => {
            let now = index_state(session, names, index).await?;
            applied(now == "absent" && noted != "absent")
        }
        About::IndexRebuilt { index } => {
            drop_remains(session, names, index).await?;
            Verdict::NotApplied
        }
        About::Detached { table, partition } => match attachment(session, names, table, partition).await?.as_str() {
            "attached" => Verdict::NotApplied,
            "pending" => {
                let (table, partition) = (qualified(names, table), qualified(names, partition));
                session.run(&format!("ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE")).await?;
                Verdict::Applied
            }
            _ => applied(noted == "attached"),
        },
        About::Database { name, .. } => applied(database_state(session, names, name).await? != noted),
        About::Shown { what, name } => applied(shown(session, names, what, name).await? != noted),
        About::TablesGone { names: tables } => {
            let mut left = false;
            for table in tables {
                left |= shown(session, names, "TABLE", table).await? != "absent";
            }
            applied(!left && noted.split(' ').any(|one| one != "absent"))
        }
        About::Repeatable => Verdict::NotApplied,
        About::Nothing => Verdict::Unknown,
    })
}

fn qualified(names: &Names, name: &[String]) -> String {
    name.iter().map(|part| names.quoted(part)).collect::<Vec<_>>().join(".")
}

async fn index_state(session: &Session, names: &Names, index: &[String]) -> Result<String, SqlFault> {
    let regclass = names.text(&qualified(names, index));
    let rows = session
        .ask(&format!(
            "SELECT CASE WHEN indisvalid AND indisready THEN 'valid' ELSE 'invalid' END FROM pg_catalog.pg_index \
             WHERE indexrelid = to_regclass({regclass})"
        ))
        .await?;
    Ok(rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_else(|| "absent".to_owned()))
}

/// What REINDEX CONCURRENTLY leaves when it is stopped: invalid indexes of the same table, `…_ccnew` and `…_ccold`.
async fn drop_remains(session: &Session, names: &Names, index: &[String]) -> Result<(), SqlFault> {
    let regclass = names.text(&qualified(names, index));
    let rows = session
        .ask(&format!(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' \
             AND i.indrelid = (SELECT indrelid FROM pg_catalog.pg_index WHERE indexrelid = to_regclass({regclass}))"
        ))
        .await?;
    for name in rows.into_iter().flatten().flatten() {
        session.run(&format!("DROP INDEX CONCURRENTLY IF EXISTS {name}")).await?;
    }
    Ok(())
}

async fn attachment(
    session: &Session,
    names: &Names,
    table: &[String],
    partition: &[String],
) -> Result<String, SqlFault> {
    let (table, partition) = (names.text(&qualified(names, table)), names.text(&qualified(names, partition)));
    let rows = session
        .ask(&format!(
            "SELECT CASE WHEN inhdetachpending THEN 'pending' ELSE 'attached' END FROM pg_catalog.pg_inherits \
             WHERE inhrelid = to_regclass({partition}) AND inhparent = to_regclass({table})"
        ))
        .await?;
    Ok(rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_else(|| "absent".to_owned()))
}

async fn database_state(session: &Session, names: &Names, name: &str) -> Result<String, SqlFault> {
    let name = names.text(name);
    let sql = match names.engine {
        super::super::sql::Engine::Mysql => {
            format!("SELECT 1 FROM information_schema.schemata WHERE schema_name = {name}")
        }
        super::super::sql::Engine::Postgres | super::super::sql::Engine::Sqlite => {
            format!("SELECT 1 FROM pg_catalog.pg_database WHERE datname = {name}")
        }
    };
    Ok(if session.ask(&sql).await?.is_empty() { "absent" } else { "present" }.to_owned())
}

/// A digest of what MySQL's `SHOW CREATE` says, but for the counter, which moves with the rows.
async fn shown(session: &Session, names: &Names, what: &str, name: &[String]) -> Result<String, SqlFault> {
    match session.ask(&format!("SHOW CREATE {what} {}", qualified(names, name))).await {
        Ok(rows) => {
            let mut sum = Sha256::new();
            for text in rows.into_iter().flatten().flatten() {
                sum.update(without_counter(&text).as_bytes());
            }
            Ok(hex(&sum.finalize())[..32].to_owned())
        }
        // No such table, database, routine, trigger, event, view.
        Err(fault) if fault.has_code(&["1146", "1049", "1305", "1360", "1539", "4089", "1347"]) => {
            Ok("absent".to_owned())
        }
        Err(fault) => Err(fault),
    }
}

fn without_counter(text: &str) -> String {
    match text.split_once(" AUTO_INCREMENT=") {
        Some((before, after)) => format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_does_not_count() {
        assert_eq!(without_counter("ENGINE=InnoDB AUTO_INCREMENT=12 DEFAULT"), "ENGINE=InnoDB DEFAULT");
        assert_eq!(without_counter("ENGINE=InnoDB"), "ENGINE=InnoDB");
    }
}
