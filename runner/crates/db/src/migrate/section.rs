//! A part of a migration file: its statements, the transaction around them, and hints for database errors. Pure.

use std::ops::Range;

use super::{
    super::sql::{SqlEngine, SqlPosition, SqlSessionError},
    files::{DownMigration, Migration},
    split::{self, SqlStatement, leading_tokens},
    unit::{self, TransactionControl},
};
use contract::step::FailureKind;

/// A part of a file to run: its text and byte range.
pub(super) struct MigrationSection<'a> {
    pub(super) file_name: &'a str,
    pub(super) text: &'a str,
    pub(super) range: Range<usize>,
    pub(super) no_transaction: bool,
}

impl<'a> MigrationSection<'a> {
    /// The part of a migration that applies it.
    pub(super) fn up(file: &'a Migration) -> Self {
        Self {
            file_name: &file.file_name,
            text: &file.text,
            range: file.up_range.clone(),
            no_transaction: file.no_transaction,
        }
    }

    /// The part that undoes it.
    pub(super) fn down(down: &'a DownMigration) -> Self {
        Self {
            file_name: &down.file_name,
            text: &down.text,
            range: down.range.clone(),
            no_transaction: down.no_transaction,
        }
    }
}

/// The hint for an error.
pub(super) fn hint_for(engine: SqlEngine, section: &MigrationSection<'_>, fault: &SqlSessionError) -> Option<String> {
    let default_hint = if section.no_transaction || engine == SqlEngine::Mysql {
        "correct the file: the statements that are on record will not run again"
    } else {
        "correct the file: its statements were rolled back, and the files before it will not run again"
    };
    if fault.has_code(&["25001"]) {
        return Some(
            "move the statement to its own file that begins with `-- no-transaction`: it can't run in a transaction"
                .to_owned(),
        );
    }
    match &fault.kind {
        FailureKind::Denied if fault.code.is_none() => Some(
            "leave out BEGIN, COMMIT, ROLLBACK and ATTACH: the runner runs each file in one transaction; or begin the file with \
             `-- no-transaction`"
                .to_owned(),
        ),
        FailureKind::Denied => Some("grant the permission to the user in the database URL".to_owned()),
        FailureKind::Transient => fault.hint.clone().or_else(|| {
            Some("find the session that blocks it, or wait until it ends".to_owned())
        }),
        FailureKind::InvalidConfig | FailureKind::NotFound | FailureKind::Conflict | FailureKind::Permanent | FailureKind::Limit | FailureKind::BadContent | FailureKind::TimeOut | FailureKind::Trap | FailureKind::NotBegun | FailureKind::Other(_) => {
            Some(fault.hint.as_ref().map_or_else(|| default_hint.to_owned(), |hint| format!("{hint}; {default_hint}")))
        }
    }
}

pub(super) fn section_statements(
    engine: SqlEngine,
    section: &MigrationSection<'_>,
) -> Result<Vec<SqlStatement>, SqlSessionError> {
    let start = section.range.start;
    let shifted = |range: Range<usize>| range.start + start..range.end + start;
    let statements =
        split::split_statements(engine, &section.text[section.range.clone()]).map_err(|fault| {
            match fault.position {
                Some(_) => fault.shift_position(section.text, start),
                None => fault,
            }
        })?;
    let one = |statement: SqlStatement| SqlStatement {
        range: shifted(statement.range),
        copy_data: statement.copy_data.map(shifted),
    };
    Ok(statements.into_iter().map(one).collect())
}

/// The statements without a BEGIN and COMMIT around all of them, because the runner adds its own.
pub(super) fn without_outer_transaction(
    engine: SqlEngine,
    section: &MigrationSection<'_>,
    mut statements: Vec<SqlStatement>,
) -> Result<Vec<SqlStatement>, SqlSessionError> {
    let controls: Vec<(usize, TransactionControl)> = statements
        .iter()
        .enumerate()
        .filter_map(|(index, statement)| {
            Some((
                index,
                unit::transaction_control(&leading_tokens(engine, &section.text[statement.range.clone()], 3))?,
            ))
        })
        .collect();
    match controls.as_slice() {
        [] => Ok(statements),
        [(0, TransactionControl::Begin), (last, TransactionControl::Commit)] if *last + 1 == statements.len() => {
            statements.pop();
            statements.remove(0);
            Ok(statements)
        }
        [(index, control), ..] => {
            let word = match control {
                TransactionControl::Begin => "BEGIN",
                TransactionControl::Commit => "COMMIT",
                TransactionControl::Other(word) => word,
            };
            let fault = SqlSessionError::new(
                FailureKind::Denied,
                format!("{word} inside SQL text is denied: the runner controls the transaction; leave {word} out"),
            );
            Err(SqlSessionError {
                position: Some(SqlPosition::at(section.text, statements[*index].range.start)),
                ..fault
            })
        }
    }
}

/// Whether a text may have changed the session for the next file.
pub(super) fn may_change_session(engine: SqlEngine, text: &str) -> bool {
    let has = |word: &[u8]| text.as_bytes().windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    match engine {
        SqlEngine::Sqlite => has(b"pragma"),
        SqlEngine::Postgres => has(b"set ") || has(b"set_config"),
        SqlEngine::Mysql => has(b"set ") || has(b"use "),
    }
}
