//! Writes the runner's own statements for each engine. Pure.
//!
//! Invariant: every table name has its schema, so a migration's search path does not matter; every text is quoted here.
//! Deliberately absent: parameters, because several statements share one round trip.

use super::{
    super::sql::{SqlEngine, hex},
    files::Migration,
};

/// The runner's own table: the fence, notes on files, and the progress of files without a transaction.
pub(super) const LEDGER_TABLE: &str = "_pawl_ledger";

/// The rules of names and quotes for an engine and schema.
#[derive(Clone, Debug)]
pub(super) struct SqlDialect {
    pub(super) engine: SqlEngine,
    /// The schema for new tables; for MySQL, the database.
    pub(super) schema: Option<String>,
}

impl SqlDialect {
    /// Quotes a name.
    pub(super) fn quote_name(&self, name: &str) -> String {
        let quote = if self.engine == SqlEngine::Mysql { "`" } else { "\"" };
        format!("{quote}{}{quote}", name.replace(quote, &quote.repeat(2)))
    }

    /// Qualifies a table with its schema. Plain names stay unquoted, as the tools write them.
    pub(super) fn qualified_table(&self, name: &str) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{name}", self.quote_name(schema)),
            None => name.to_owned(),
        }
    }

    pub(super) fn text_literal(&self, text: &str) -> String {
        match self.engine {
            SqlEngine::Sqlite => format!("'{}'", text.replace('\'', "''")),
            SqlEngine::Postgres if text.contains('\\') => {
                format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
            }
            SqlEngine::Postgres => format!("'{}'", text.replace('\'', "''")),
            SqlEngine::Mysql if text.is_empty() => "''".to_owned(),
            // Works whatever the SQL mode says about backslashes.
            SqlEngine::Mysql => format!("_utf8mb4 0x{}", hex(text.as_bytes())),
        }
    }

    /// A literal for bytes that are given in hex.
    pub(super) fn bytes_literal(&self, hex: &str) -> String {
        match self.engine {
            SqlEngine::Sqlite | SqlEngine::Mysql => format!("x'{hex}'"),
            SqlEngine::Postgres => format!("'\\x{hex}'::bytea"),
        }
    }

    /// A query for which of these tables exist.
    pub(super) fn existing_tables_sql(&self, tables: &[&str]) -> String {
        let list: Vec<_> = tables.iter().map(|table| self.text_literal(table)).collect();
        let list = list.join(", ");
        match (self.engine, &self.schema) {
            (SqlEngine::Sqlite, _) => {
                format!("SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ({list})")
            }
            (SqlEngine::Postgres, Some(schema)) => format!(
                "SELECT relname FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p') AND relname IN ({list}) AND relnamespace = \
                 (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = {})",
                self.text_literal(schema)
            ),
            (SqlEngine::Mysql | SqlEngine::Postgres, schema) => format!(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = {} AND table_name IN ({list})",
                self.text_literal(schema.as_deref().unwrap_or_default())
            ),
        }
    }

    pub(super) fn create_ledger_sql(&self) -> String {
        let (key, text) = match self.engine {
            SqlEngine::Sqlite | SqlEngine::Postgres => ("TEXT", "TEXT"),
            SqlEngine::Mysql => ("VARCHAR(190)", "LONGTEXT"),
        };
        let ledger = self.qualified_table(LEDGER_TABLE);
        let engine = if self.engine == SqlEngine::Mysql { " ENGINE = InnoDB DEFAULT CHARSET = utf8mb4" } else { "" };
        format!(
            "CREATE TABLE IF NOT EXISTS {ledger} (kind {key} NOT NULL, version {key} NOT NULL, number INTEGER NOT NULL, \
             state {key} NOT NULL, hash {key} NOT NULL, note {text} NOT NULL, epoch BIGINT NOT NULL, at {key} NOT NULL, \
             PRIMARY KEY (kind, version, number)){engine}"
        )
    }

    /// Inserts a row into the ledger, or replaces the one with the same key.
    pub(super) fn upsert_ledger_sql(&self, row: &LedgerWrite<'_>) -> String {
        let ledger = self.qualified_table(LEDGER_TABLE);
        let values = format!(
            "({}, {}, {}, {}, {}, {}, {}, {})",
            self.text_literal(row.kind),
            self.text_literal(row.version),
            row.number,
            self.text_literal(row.state),
            self.text_literal(row.hash),
            self.text_literal(row.note),
            row.epoch,
            self.text_literal(&journal::clock::now().to_string())
        );
        match self.engine {
            SqlEngine::Mysql => {
                format!("REPLACE INTO {ledger} (kind, version, number, state, hash, note, epoch, at) VALUES {values}")
            }
            SqlEngine::Sqlite => {
                format!(
                    "INSERT OR REPLACE INTO {ledger} (kind, version, number, state, hash, note, epoch, at) VALUES {values}"
                )
            }
            SqlEngine::Postgres => format!(
                "INSERT INTO {ledger} (kind, version, number, state, hash, note, epoch, at) VALUES {values} \
                 ON CONFLICT (kind, version, number) DO UPDATE SET state = excluded.state, hash = excluded.hash, \
                 note = excluded.note, epoch = excluded.epoch, at = excluded.at"
            ),
        }
    }

    /// Records the hash of an applied file in the ledger.
    pub(super) fn file_note_sql(&self, file: &Migration, epoch: u64) -> String {
        self.upsert_ledger_sql(&LedgerWrite {
            kind: "file",
            version: &file.version,
            number: 0,
            state: "done",
            hash: file.normalized_sha256(),
            note: file.raw_sha256(),
            epoch,
        })
    }

    pub(super) fn delete_ledger_sql(&self, kind: &str, version: &str, from: usize) -> String {
        format!(
            "DELETE FROM {} WHERE kind = {} AND version = {} AND number >= {from}",
            self.qualified_table(LEDGER_TABLE),
            self.text_literal(kind),
            self.text_literal(version)
        )
    }

    pub(super) fn read_ledger_sql(&self) -> String {
        format!("SELECT kind, version, number, state, hash, note, epoch FROM {}", self.qualified_table(LEDGER_TABLE))
    }

    /// A query for the fence's epoch, which locks it until the transaction ends.
    pub(super) fn read_fence_sql(&self, resource: &str) -> String {
        let lock = match self.engine {
            SqlEngine::Sqlite => "",
            SqlEngine::Postgres => " FOR UPDATE",
            SqlEngine::Mysql => " FOR UPDATE",
        };
        format!(
            "SELECT epoch FROM {} WHERE kind = 'fence' AND version = {} AND number = 0{lock}",
            self.qualified_table(LEDGER_TABLE),
            self.text_literal(resource)
        )
    }
}

/// A row of the ledger.
pub(super) struct LedgerWrite<'a> {
    /// `fence`, `file` or `statement`.
    pub(super) kind: &'a str,
    /// For a fence, its resource; else the file's version.
    pub(super) version: &'a str,
    /// The number of a statement; else 0.
    pub(super) number: usize,
    /// `intent` or `done`.
    pub(super) state: &'a str,
    pub(super) hash: &'a str,
    pub(super) note: &'a str,
    pub(super) epoch: u64,
}
