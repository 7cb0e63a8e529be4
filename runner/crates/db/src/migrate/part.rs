//! A part of a file: its statements, the transaction around them, and what to do about what the database says of them. Pure.

use std::ops::Range;

use super::{
    super::sql::{Engine, Kind, Position, SqlFault},
    files::{Down, Migration},
    split::{self, Statement, tokens},
    unit::{self, Control},
};

/// A part of a file that is run: its text, and where that lies.
pub(super) struct Part<'a> {
    pub(super) file_name: &'a str,
    pub(super) text: &'a str,
    pub(super) range: Range<usize>,
    pub(super) alone: bool,
}

impl<'a> Part<'a> {
    /// What of a migration is run.
    pub(super) fn up(file: &'a Migration) -> Self {
        Self { file_name: &file.file_name, text: &file.text, range: file.up.clone(), alone: file.alone }
    }

    /// What undoes one.
    pub(super) fn down(down: &'a Down) -> Self {
        Self { file_name: &down.file_name, text: &down.text, range: down.range.clone(), alone: down.alone }
    }
}

/// What to do about a fault.
pub(super) fn hint(engine: Engine, part: &Part<'_>, fault: &SqlFault) -> Option<String> {
    let kept = if part.alone || engine == Engine::Mysql {
        "correct the file: what of it was done is on record, and will not be done again"
    } else {
        "correct the file: nothing of it was kept, and the files before it will not be applied again"
    };
    if fault.has_code(&["25001"]) {
        return Some(
            "it can't run inside of a transaction: put it into a file of its own that begins with `-- no-transaction`"
                .to_owned(),
        );
    }
    match fault.kind {
        Kind::Denied if fault.code.is_none() => Some(
            "each file runs in one transaction of the runner's: leave out BEGIN, COMMIT, ROLLBACK and ATTACH, or begin the file with \
             `-- no-transaction`"
                .to_owned(),
        ),
        Kind::Denied => Some("give the user of the database's URL the right to do that".to_owned()),
        Kind::Transient => fault.hint.clone().or_else(|| {
            Some("something else uses the database: try again, or find out what holds it".to_owned())
        }),
        Kind::InvalidConfig | Kind::NotFound | Kind::Conflict | Kind::Permanent | Kind::Limit | Kind::BadContent => {
            Some(fault.hint.as_ref().map_or_else(|| kept.to_owned(), |hint| format!("{hint}; {kept}")))
        }
    }
}

pub(super) fn statements_of(engine: Engine, part: &Part<'_>) -> Result<Vec<Statement>, SqlFault> {
    let start = part.range.start;
    let moved = |range: Range<usize>| range.start + start..range.end + start;
    let statements = split::split(engine, &part.text[part.range.clone()]).map_err(|fault| match fault.position {
        Some(_) => fault.shifted(part.text, start),
        None => fault,
    })?;
    let one = |statement: Statement| Statement { range: moved(statement.range), data: statement.data.map(moved) };
    Ok(statements.into_iter().map(one).collect())
}

/// Without the BEGIN and COMMIT around all of it, which the runner has of its own.
pub(super) fn unwrapped(
    engine: Engine,
    part: &Part<'_>,
    mut statements: Vec<Statement>,
) -> Result<Vec<Statement>, SqlFault> {
    let controls: Vec<(usize, Control)> = statements
        .iter()
        .enumerate()
        .filter_map(|(index, statement)| {
            Some((index, unit::control(&tokens(engine, &part.text[statement.range.clone()], 3))?))
        })
        .collect();
    match controls.as_slice() {
        [] => Ok(statements),
        [(0, Control::Begin), (last, Control::Commit)] if *last + 1 == statements.len() => {
            statements.pop();
            statements.remove(0);
            Ok(statements)
        }
        [(index, control), ..] => {
            let word = match control {
                Control::Begin => "BEGIN",
                Control::Commit => "COMMIT",
                Control::Other(word) => word,
            };
            let fault = SqlFault::new(
                Kind::Denied,
                format!("{word} inside SQL text is denied: the runner keeps the transaction; leave it out"),
            );
            Err(SqlFault { position: Some(Position::at(part.text, statements[*index].range.start)), ..fault })
        }
    }
}

/// Whether a text may have changed what the next file finds.
pub(super) fn changes_session(engine: Engine, text: &str) -> bool {
    let has = |word: &[u8]| text.as_bytes().windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    match engine {
        Engine::Sqlite => has(b"pragma"),
        Engine::Postgres => has(b"set ") || has(b"set_config"),
        Engine::Mysql => has(b"set ") || has(b"use "),
    }
}
