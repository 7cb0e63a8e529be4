//! Asks the catalog whether a statement has run when only its intent is recorded.
//!
//! Invariant: only evidence counts. The intent records the state before the statement, to compare with. Without a
//! comparison, the answer is unknown.

use sha2::{Digest as _, Sha256};

use super::{
    super::sql::{SqlSession, SqlSessionError, hex},
    dialect::SqlDialect,
    unit::CatalogCheck,
};

/// The catalog's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IntentOutcome {
    /// The statement has run.
    Applied,
    /// It has not run, or may run twice. Its leftovers have been removed.
    NotApplied,
    /// The outcome is unknown.
    Unknown,
}

/// The state before the statement, for its intent.
pub(super) async fn state_before(
    session: &SqlSession,
    dialect: &SqlDialect,
    check: &CatalogCheck,
) -> Result<String, SqlSessionError> {
    Ok(match check {
        CatalogCheck::IndexBuilt { index } | CatalogCheck::IndexDropped { index } => {
            index_state(session, dialect, index).await?
        }
        CatalogCheck::PartitionDetached { table, partition } => {
            partition_state(session, dialect, table, partition).await?
        }
        CatalogCheck::Database { name, .. } => database_state(session, dialect, name).await?,
        CatalogCheck::ShowCreate { what, name } => definition_digest(session, dialect, what, name).await?,
        CatalogCheck::TablesDropped { names: tables } => {
            let mut found = Vec::new();
            for table in tables {
                found.push(definition_digest(session, dialect, "TABLE", table).await?);
            }
            found.join(" ")
        }
        CatalogCheck::IndexRebuilt { .. } | CatalogCheck::Repeatable | CatalogCheck::Unobservable => String::new(),
    })
}

/// Whether the statement has run, given the recorded state before it.
pub(super) async fn intent_outcome(
    session: &SqlSession,
    dialect: &SqlDialect,
    check: &CatalogCheck,
    noted_state: &str,
) -> Result<IntentOutcome, SqlSessionError> {
    let applied = |yes: bool| if yes { IntentOutcome::Applied } else { IntentOutcome::NotApplied };
    Ok(match check {
        CatalogCheck::IndexBuilt { index } => match index_state(session, dialect, index).await?.as_str() {
            // It existed before: the statement itself will report that.
            "valid" => applied(noted_state != "valid"),
            "invalid" => {
                if noted_state != "invalid" {
                    session
                        .run_batch(&format!("DROP INDEX CONCURRENTLY IF EXISTS {}", qualified_name(dialect, index)))
                        .await?;
                }
                IntentOutcome::NotApplied
            }
            _ => IntentOutcome::NotApplied,
        },
        CatalogCheck::IndexDropped { index } => {
            let now = index_state(session, dialect, index).await?;
            applied(now == "absent" && noted_state != "absent")
        }
        CatalogCheck::IndexRebuilt { index } => {
            drop_reindex_leftovers(session, dialect, index).await?;
            IntentOutcome::NotApplied
        }
        CatalogCheck::PartitionDetached { table, partition } => {
            match partition_state(session, dialect, table, partition).await?.as_str() {
                "attached" => IntentOutcome::NotApplied,
                "pending" => {
                    let (table, partition) = (qualified_name(dialect, table), qualified_name(dialect, partition));
                    session.run_batch(&format!("ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE")).await?;
                    IntentOutcome::Applied
                }
                _ => applied(noted_state == "attached"),
            }
        }
        CatalogCheck::Database { name, .. } => applied(database_state(session, dialect, name).await? != noted_state),
        CatalogCheck::ShowCreate { what, name } => {
            applied(definition_digest(session, dialect, what, name).await? != noted_state)
        }
        CatalogCheck::TablesDropped { names: tables } => {
            let mut left = false;
            for table in tables {
                left |= definition_digest(session, dialect, "TABLE", table).await? != "absent";
            }
            applied(!left && noted_state.split(' ').any(|one| one != "absent"))
        }
        CatalogCheck::Repeatable => IntentOutcome::NotApplied,
        CatalogCheck::Unobservable => IntentOutcome::Unknown,
    })
}

fn qualified_name(dialect: &SqlDialect, name: &[String]) -> String {
    name.iter().map(|part| dialect.quote_name(part)).collect::<Vec<_>>().join(".")
}

async fn index_state(session: &SqlSession, dialect: &SqlDialect, index: &[String]) -> Result<String, SqlSessionError> {
    let regclass = dialect.text_literal(&qualified_name(dialect, index));
    let rows = session
        .query_text(&format!(
            "SELECT CASE WHEN indisvalid AND indisready THEN 'valid' ELSE 'invalid' END FROM pg_catalog.pg_index \
             WHERE indexrelid = to_regclass({regclass})"
        ))
        .await?;
    Ok(rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_else(|| "absent".to_owned()))
}

/// What an interrupted REINDEX CONCURRENTLY leaves: invalid indexes of the same table, `…_ccnew` and `…_ccold`.
async fn drop_reindex_leftovers(
    session: &SqlSession,
    dialect: &SqlDialect,
    index: &[String],
) -> Result<(), SqlSessionError> {
    let regclass = dialect.text_literal(&qualified_name(dialect, index));
    let rows = session
        .query_text(&format!(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' \
             AND i.indrelid = (SELECT indrelid FROM pg_catalog.pg_index WHERE indexrelid = to_regclass({regclass}))"
        ))
        .await?;
    for name in rows.into_iter().flatten().flatten() {
        session.run_batch(&format!("DROP INDEX CONCURRENTLY IF EXISTS {name}")).await?;
    }
    Ok(())
}

async fn partition_state(
    session: &SqlSession,
    dialect: &SqlDialect,
    table: &[String],
    partition: &[String],
) -> Result<String, SqlSessionError> {
    let (table, partition) = (
        dialect.text_literal(&qualified_name(dialect, table)),
        dialect.text_literal(&qualified_name(dialect, partition)),
    );
    let rows = session
        .query_text(&format!(
            "SELECT CASE WHEN inhdetachpending THEN 'pending' ELSE 'attached' END FROM pg_catalog.pg_inherits \
             WHERE inhrelid = to_regclass({partition}) AND inhparent = to_regclass({table})"
        ))
        .await?;
    Ok(rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_else(|| "absent".to_owned()))
}

async fn database_state(session: &SqlSession, dialect: &SqlDialect, name: &str) -> Result<String, SqlSessionError> {
    let name = dialect.text_literal(name);
    let sql = match dialect.engine {
        super::super::sql::SqlEngine::Mysql => {
            format!("SELECT 1 FROM information_schema.schemata WHERE schema_name = {name}")
        }
        super::super::sql::SqlEngine::Postgres | super::super::sql::SqlEngine::Sqlite => {
            format!("SELECT 1 FROM pg_catalog.pg_database WHERE datname = {name}")
        }
    };
    Ok(if session.query_text(&sql).await?.is_empty() { "absent" } else { "present" }.to_owned())
}

/// A digest of MySQL's `SHOW CREATE` without the counter, which changes with the rows.
async fn definition_digest(
    session: &SqlSession,
    dialect: &SqlDialect,
    object_kind: &str,
    name: &[String],
) -> Result<String, SqlSessionError> {
    match session.query_text(&format!("SHOW CREATE {object_kind} {}", qualified_name(dialect, name))).await {
        Ok(rows) => {
            let mut sum = Sha256::new();
            for text in rows.into_iter().flatten().flatten() {
                sum.update(without_auto_increment(&text).as_bytes());
            }
            Ok(hex(&sum.finalize())[..32].to_owned())
        }
        // The table, database, routine, trigger, event or view does not exist.
        Err(fault) if fault.has_code(&["1146", "1049", "1305", "1360", "1539", "4089", "1347"]) => {
            Ok("absent".to_owned())
        }
        Err(fault) => Err(fault),
    }
}

fn without_auto_increment(text: &str) -> String {
    match text.split_once(" AUTO_INCREMENT=") {
        Some((before, after)) => format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_increment_is_ignored() {
        assert_eq!(without_auto_increment("ENGINE=InnoDB AUTO_INCREMENT=12 DEFAULT"), "ENGINE=InnoDB DEFAULT");
        assert_eq!(without_auto_increment("ENGINE=InnoDB"), "ENGINE=InnoDB");
    }
}
