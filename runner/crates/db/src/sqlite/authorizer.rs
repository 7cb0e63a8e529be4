//! What SQL must not do: access another file, load code, or control the runner's transaction.
//!
//! Invariant: every statement of a step is compiled under the authorizer
//! (<https://sqlite.org/c3ref/set_authorizer.html>), including those in triggers and views, so rewording can't bypass a
//! rule. `SQLITE_LIMIT_ATTACHED` and the defensive mode hold even if the authorizer had a gap. Deliberately absent:
//! rules about tables; a database is granted as a whole.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use rusqlite::{
    Connection,
    config::DbConfig,
    hooks::{AuthAction, Authorization, TransactionOperation},
    limits::Limit,
};

/// The largest single value, in bytes.
const MAX_VALUE_BYTES: i32 = 256 << 20;

/// The authorizer's state in a session.
#[derive(Debug, Default)]
pub(super) struct SqliteAuthorizer {
    /// Set during the runner's own statements, which are not checked.
    is_host_statement: AtomicBool,
    in_transaction: AtomicBool,
    denial: Mutex<Option<String>>,
}

impl SqliteAuthorizer {
    /// Installs the authorizer on `connection`.
    pub(super) fn install(connection: &mut Connection) -> rusqlite::Result<Arc<Self>> {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
        let authorizer = Arc::new(Self::default());
        let callback_authorizer = Arc::clone(&authorizer);
        connection.authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| {
            if callback_authorizer.is_host_statement.load(Ordering::Relaxed) {
                return Authorization::Allow;
            }
            match denial_reason(&context.action, callback_authorizer.in_transaction.load(Ordering::Relaxed)) {
                None => Authorization::Allow,
                Some(reason) => {
                    *callback_authorizer.denial.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                    Authorization::Deny
                }
            }
        }))?;
        Ok(authorizer)
    }

    /// Runs a statement of the runner.
    pub(super) fn execute_as_host(&self, connection: &Connection, sql: &str) -> rusqlite::Result<()> {
        self.is_host_statement.store(true, Ordering::Relaxed);
        let outcome = connection.execute_batch(sql);
        self.is_host_statement.store(false, Ordering::Relaxed);
        outcome
    }

    /// Sets whether the runner's transaction is open.
    pub(super) fn set_in_transaction(&self, open: bool) {
        self.in_transaction.store(open, Ordering::Relaxed);
    }

    /// Takes the reason of the last denial, if any.
    pub(super) fn take_denial(&self) -> Option<String> {
        self.denial.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of rusqlite")]
fn denial_reason(action: &AuthAction<'_>, in_transaction: bool) -> Option<String> {
    match action {
        AuthAction::Attach { .. } | AuthAction::Detach { .. } => Some(
            "ATTACH, DETACH and VACUUM are denied: a step can access only the granted database file; to use another, \
             grant it by its own name: grants: { databases: { <name>: \"sqlite:<path>\" } }"
                .to_owned(),
        ),
        AuthAction::Transaction { operation } => {
            let name = match operation {
                TransactionOperation::Begin => "BEGIN",
                TransactionOperation::Rollback => "ROLLBACK",
                _ => "COMMIT",
            };
            Some(format!("{name} inside SQL text is denied: the runner controls the transaction; leave {name} out"))
        }
        AuthAction::Savepoint { operation: TransactionOperation::Begin, .. } if !in_transaction => {
            Some("SAVEPOINT outside a transaction is denied: it would begin one".to_owned())
        }
        AuthAction::Function { function_name } if loads_code(function_name) => {
            Some(format!("the function {function_name} is denied: it loads code"))
        }
        AuthAction::Pragma { pragma_name, pragma_value: Some(value) } => {
            let why = pragma_denial_reason(pragma_name, value)?;
            Some(format!("PRAGMA {pragma_name} = {value} is denied: {why}"))
        }
        _ => None,
    }
}

fn loads_code(function: &str) -> bool {
    ["load_extension", "fts3_tokenizer"].iter().any(|name| name.eq_ignore_ascii_case(function))
}

fn pragma_denial_reason(name: &str, value: &str) -> Option<&'static str> {
    let value = value.to_ascii_lowercase();
    match name.to_ascii_lowercase().as_str() {
        "writable_schema" | "trusted_schema" => Some("only DDL statements may change the schema"),
        "temp_store" | "temp_store_directory" | "data_store_directory" | "lock_proxy_file" => {
            Some("a step can access only the granted database file")
        }
        "query_only" => Some("the runner decides whether a call may write"),
        "busy_timeout" => Some("the runner sets the timeout"),
        "hard_heap_limit" | "soft_heap_limit" => Some("the runner sets the memory limit"),
        "journal_mode" if matches!(value.as_str(), "off" | "memory") => {
            Some("a killed run could leave a damaged database")
        }
        "synchronous" if matches!(value.as_str(), "off" | "0" | "no" | "false") => {
            Some("a crash could lose writes that the journal records as done")
        }
        _ => None,
    }
}
