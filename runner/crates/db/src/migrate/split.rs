//! Splits a file's text into statements, by the rules of each engine's client. Pure.
//!
//! It knows strings, quoted names, dollar quotes, comments (nested ones on PostgreSQL), parentheses, bodies of SQL
//! routines, `DELIMITER`, and the data of `COPY … FROM STDIN`. An invalid text may be split wrongly, but fails to parse
//! anyway. Deliberately absent: the meaning of statements; see [`unit`](super::unit).

use std::ops::Range;

use contract::step::FailureKind;

use super::super::{
    sql::{SqlEngine, SqlPosition, SqlSessionError},
    sqlite,
};

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SqlStatement {
    /// The range from its first token to before its delimiter.
    pub(super) range: Range<usize>,
    /// The data after a `COPY … FROM STDIN`, without the `\.`.
    pub(super) copy_data: Option<Range<usize>>,
}

/// A word, quoted name or sign of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SqlToken {
    /// Its value without quotes.
    pub(super) text: String,
    /// A bare word in capitals; empty for a quoted name or sign.
    pub(super) keyword: String,
}

impl SqlToken {
    pub(super) fn is_name(&self) -> bool {
        !self.keyword.is_empty()
            || self.text.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_') && self.text.len() > 1
    }
}

enum SqlLexeme {
    /// White space or a comment.
    Blank,
    Semicolon,
    Open,
    Close,
    Word,
    /// A quoted name.
    QuotedName,
    /// A string or a sign.
    Other,
}

/// Splits a text into statements.
pub(super) fn split_statements(engine: SqlEngine, text: &str) -> Result<Vec<SqlStatement>, SqlSessionError> {
    match engine {
        SqlEngine::Sqlite => {
            let trimmed = |piece: sqlite::ScriptStatement<'_>| {
                let bare = piece.text.strip_suffix(';').unwrap_or(piece.text).trim_end();
                SqlStatement { range: piece.start..piece.start + bare.len(), copy_data: None }
            };
            Ok(sqlite::script_statements(text).map(trimmed).collect())
        }
        SqlEngine::Postgres | SqlEngine::Mysql => {
            StatementSplitter { engine, text, at: 0, delimiter: ";".to_owned() }.split_all()
        }
    }
}

/// The text from its first token on.
pub fn skip_blank(engine: SqlEngine, text: &str) -> &str {
    let mut at = 0;
    while at < text.len() {
        match next_lexeme(engine, text, at) {
            Ok((SqlLexeme::Blank, length)) => at += length,
            Ok(_) | Err(_) => break,
        }
    }
    &text[at..]
}

/// The first tokens of a statement.
pub(super) fn leading_tokens(engine: SqlEngine, text: &str, max_tokens: usize) -> Vec<SqlToken> {
    let (mut at, mut found) = (0, Vec::new());
    while at < text.len() && found.len() < max_tokens {
        let Ok((lexeme, length)) = next_lexeme(engine, text, at) else { break };
        let raw = &text[at..at + length];
        at += length;
        match lexeme {
            SqlLexeme::Blank => {}
            SqlLexeme::Word => found.push(SqlToken { text: raw.to_owned(), keyword: raw.to_ascii_uppercase() }),
            SqlLexeme::QuotedName => {
                let quote = &raw[..1];
                let inner = raw[1..].strip_suffix(quote).or_else(|| raw[1..].strip_suffix(']')).unwrap_or(&raw[1..]);
                found.push(SqlToken { text: inner.replace(&quote.repeat(2), quote), keyword: String::new() });
            }
            SqlLexeme::Semicolon | SqlLexeme::Open | SqlLexeme::Close | SqlLexeme::Other => {
                found.push(SqlToken { text: raw.to_owned(), keyword: String::new() });
            }
        }
    }
    found
}

struct StatementSplitter<'a> {
    engine: SqlEngine,
    text: &'a str,
    at: usize,
    delimiter: String,
}

/// The state of the current statement.
#[derive(Default)]
struct SplitterState {
    start: Option<usize>,
    end: usize,
    words: Vec<String>,
    parenthesis_depth: usize,
    /// The depth of BEGIN and CASE in the body of a routine.
    block_depth: usize,
    after_end: bool,
}

impl StatementSplitter<'_> {
    fn split_all(mut self) -> Result<Vec<SqlStatement>, SqlSessionError> {
        let mut statements = Vec::new();
        let mut state = SplitterState::default();
        while self.at < self.text.len() {
            let rest = &self.text[self.at..];
            if state.start.is_none() && self.take_client_command(rest)? {
                continue;
            }
            if self.delimiter != ";" && rest.starts_with(&self.delimiter) {
                self.at += self.delimiter.len();
                self.end_statement(&mut state, &mut statements)?;
                continue;
            }
            let (lexeme, length) = next_lexeme(self.engine, self.text, self.at)?;
            let token_start = self.at;
            self.at += length;
            match lexeme {
                SqlLexeme::Blank => continue,
                SqlLexeme::Semicolon
                    if self.delimiter == ";" && state.parenthesis_depth == 0 && state.block_depth == 0 =>
                {
                    self.end_statement(&mut state, &mut statements)?;
                    continue;
                }
                SqlLexeme::Open => state.parenthesis_depth += 1,
                SqlLexeme::Close => state.parenthesis_depth = state.parenthesis_depth.saturating_sub(1),
                SqlLexeme::Word => self.handle_word(&mut state, self.text[token_start..self.at].to_ascii_uppercase()),
                SqlLexeme::Semicolon | SqlLexeme::QuotedName | SqlLexeme::Other => state.after_end = false,
            }
            state.start.get_or_insert(token_start);
            state.end = self.at;
        }
        self.end_statement(&mut state, &mut statements)?;
        Ok(statements)
    }

    /// Handles `DELIMITER` as MySQL's client does; rejects psql's `\…`.
    fn take_client_command(&mut self, rest: &str) -> Result<bool, SqlSessionError> {
        match self.engine {
            SqlEngine::Mysql if rest.get(..9).is_some_and(|word| word.eq_ignore_ascii_case("delimiter")) => {
                let line = rest.lines().next().unwrap_or_default();
                let Some(delimiter) =
                    line[9..].strip_prefix([' ', '\t']).map(str::trim).filter(|text| !text.is_empty())
                else {
                    return Ok(false);
                };
                self.delimiter = delimiter.to_owned();
                self.at += line.len();
                Ok(true)
            }
            SqlEngine::Postgres if rest.starts_with('\\') => {
                let command = rest.split_whitespace().next().unwrap_or_default();
                Err(self
                    .bad_content(format!("{command} is a psql command, which the server does not understand"), self.at)
                    .with_hint("leave it out: a migration contains only SQL"))
            }
            SqlEngine::Sqlite | SqlEngine::Postgres | SqlEngine::Mysql => Ok(false),
        }
    }

    fn handle_word(&self, state: &mut SplitterState, word: String) {
        let is_routine = self.is_routine(state);
        match word.as_str() {
            "BEGIN" if is_routine => state.block_depth += 1,
            "CASE" if state.block_depth > 0 && !state.after_end => state.block_depth += 1,
            // `END IF` and the like close blocks that were not counted.
            "IF" | "LOOP" | "WHILE" | "REPEAT" | "FOR" if state.after_end && self.engine == SqlEngine::Mysql => {
                state.block_depth += 1
            }
            "END" if state.block_depth > 0 => {
                state.block_depth -= 1;
                state.after_end = true;
                state.words.push(word);
                return;
            }
            "NOT" if self.engine == SqlEngine::Mysql && state.words == ["BEGIN"] => state.block_depth = 1,
            _ => {}
        }
        state.after_end = false;
        if state.words.len() < 40 {
            state.words.push(word);
        }
    }

    fn is_routine(&self, state: &SplitterState) -> bool {
        let mut words = state.words.iter().map(String::as_str);
        if words.next() != Some("CREATE") {
            return state.block_depth > 0;
        }
        match self.engine {
            SqlEngine::Postgres => {
                matches!(words.find(|word| !matches!(*word, "OR" | "REPLACE")), Some("FUNCTION" | "PROCEDURE"))
                    && state.parenthesis_depth == 0
            }
            SqlEngine::Mysql => words
                .find(|word| {
                    matches!(
                        *word,
                        "PROCEDURE"
                            | "FUNCTION"
                            | "TRIGGER"
                            | "EVENT"
                            | "PACKAGE"
                            | "TABLE"
                            | "VIEW"
                            | "INDEX"
                            | "DATABASE"
                            | "USER"
                    )
                })
                .is_some_and(|word| !matches!(word, "TABLE" | "VIEW" | "INDEX" | "DATABASE" | "USER")),
            SqlEngine::Sqlite => false,
        }
    }

    fn end_statement(
        &mut self,
        state: &mut SplitterState,
        statements: &mut Vec<SqlStatement>,
    ) -> Result<(), SqlSessionError> {
        let done = std::mem::take(state);
        let Some(start) = done.start else { return Ok(()) };
        let mut statement = SqlStatement { range: start..done.end, copy_data: None };
        let words: Vec<&str> = done.words.iter().map(String::as_str).collect();
        let is_copy_from_stdin =
            words.first() == Some(&"COPY") && words.windows(2).any(|pair| pair == ["FROM", "STDIN"]);
        if self.engine == SqlEngine::Postgres && is_copy_from_stdin {
            let rest = &self.text[self.at..];
            let data = self.at + rest.find('\n').map_or(rest.len(), |newline| newline + 1);
            let mut end = data;
            loop {
                let line = self.text[end..].split_inclusive('\n').next().unwrap_or_default();
                if line.is_empty() {
                    return Err(self
                        .bad_content("the end of the COPY data is missing: a line with only `\\.`".to_owned(), start));
                }
                if line.trim_end_matches(['\n', '\r']) == "\\." {
                    self.at = end + line.len();
                    break;
                }
                end += line.len();
            }
            statement.copy_data = Some(data..end);
        }
        statements.push(statement);
        Ok(())
    }

    fn bad_content(&self, message: String, at: usize) -> SqlSessionError {
        SqlSessionError {
            position: Some(SqlPosition::at(self.text, at)),
            ..SqlSessionError::new(FailureKind::BadContent, message)
        }
    }
}

/// The token at a byte, and its length.
fn next_lexeme(engine: SqlEngine, text: &str, at: usize) -> Result<(SqlLexeme, usize), SqlSessionError> {
    let bytes = &text.as_bytes()[at..];
    let until = |end: &[u8], skip: usize| find_bytes(bytes, end, skip).map(|found| found + end.len());
    let unterminated = |what: &str| SqlSessionError {
        position: Some(SqlPosition::at(text, at)),
        ..SqlSessionError::new(FailureKind::BadContent, format!("{what} that begins here is not terminated"))
    };
    let is_mysql = engine == SqlEngine::Mysql;
    Ok(match bytes {
        [b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' | b'\x0b', ..] => (SqlLexeme::Blank, 1),
        [b'-', b'-', rest @ ..] if !is_mysql || rest.first().is_none_or(|byte| byte.is_ascii_whitespace()) => {
            (SqlLexeme::Blank, until(b"\n", 2).unwrap_or(bytes.len()))
        }
        [b'#', ..] if is_mysql => (SqlLexeme::Blank, until(b"\n", 1).unwrap_or(bytes.len())),
        // The server interprets the content of these comments.
        [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!', ..] if is_mysql => {
            (SqlLexeme::Other, until(b"*/", 3).ok_or_else(|| unterminated("a comment"))?)
        }
        [b'/', b'*', ..] if engine == SqlEngine::Postgres => {
            (SqlLexeme::Blank, nested_comment_length(bytes).ok_or_else(|| unterminated("a comment"))?)
        }
        [b'/', b'*', ..] => (SqlLexeme::Blank, until(b"*/", 2).ok_or_else(|| unterminated("a comment"))?),
        [b';', ..] => (SqlLexeme::Semicolon, 1),
        [b'(', ..] => (SqlLexeme::Open, 1),
        [b')', ..] => (SqlLexeme::Close, 1),
        [b'\'', ..] => (SqlLexeme::Other, quoted_length(bytes, 0, is_mysql).ok_or_else(|| unterminated("a string"))?),
        [b'e' | b'E', b'\'', ..] if engine == SqlEngine::Postgres => {
            (SqlLexeme::Other, quoted_length(bytes, 1, true).ok_or_else(|| unterminated("a string"))?)
        }
        [b'"', ..] if is_mysql => {
            (SqlLexeme::Other, quoted_length(bytes, 0, true).ok_or_else(|| unterminated("a string"))?)
        }
        [b'"' | b'`', ..] => {
            (SqlLexeme::QuotedName, quoted_length(bytes, 0, false).ok_or_else(|| unterminated("a name"))?)
        }
        [b'$', rest @ ..] if engine == SqlEngine::Postgres => {
            let tag = rest.iter().take_while(|byte| is_word_byte(**byte) && **byte != b'$').count();
            let is_tag = rest.get(tag) == Some(&b'$') && !rest.first().is_some_and(u8::is_ascii_digit);
            match is_tag {
                true => (
                    SqlLexeme::Other,
                    until(&bytes[..tag + 2], tag + 2).ok_or_else(|| unterminated("a dollar-quoted string"))?,
                ),
                false => (SqlLexeme::Other, 1),
            }
        }
        _ => match bytes.iter().take_while(|byte| is_word_byte(**byte)).count() {
            0 => (SqlLexeme::Other, 1),
            length => (SqlLexeme::Word, length),
        },
    })
}

fn find_bytes(bytes: &[u8], end: &[u8], from: usize) -> Option<usize> {
    let first = *end.first()?;
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == first)?;
        if bytes[at..].starts_with(end) {
            return Some(at);
        }
        at += 1;
    }
}

/// A doubled quote looks like two adjacent strings, which end at the same place; but in a name it matters.
fn quoted_length(bytes: &[u8], quote_at: usize, has_backslash: bool) -> Option<usize> {
    let quote = bytes[quote_at];
    let mut at = quote_at + 1;
    loop {
        match *bytes.get(at)? {
            b'\\' if has_backslash => at += 2,
            byte if byte == quote => {
                if bytes.get(at + 1) != Some(&quote) {
                    return Some(at + 1);
                }
                at += 2;
            }
            _ => at += 1,
        }
    }
}

fn nested_comment_length(bytes: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(engine: SqlEngine, text: &str) -> Vec<&str> {
        split_statements(engine, text).unwrap().into_iter().map(|statement| &text[statement.range]).collect()
    }

    #[test]
    fn postgres() {
        for (text, expected) in [
            ("", vec![]),
            (" ; -- ; \n /* ; /* ; */ ; */ ;", vec![]),
            ("select 1; select 2", vec!["select 1", "select 2"]),
            (
                "select ';', \";\", $$;$$, $a$ ; $$ ; $a$, E'\\';', 'x\\'; y",
                vec!["select ';', \";\", $$;$$, $a$ ; $$ ; $a$, E'\\';', 'x\\'", "y"],
            ),
            (
                "create rule r as on insert to t do (select 1; select 2); x",
                vec!["create rule r as on insert to t do (select 1; select 2)", "x"],
            ),
            (
                "create or replace function f() returns int begin atomic select 1; select case when true then 1 else 2 end; end; x",
                vec![
                    "create or replace function f() returns int begin atomic select 1; select case when true then 1 else 2 end; end",
                    "x",
                ],
            ),
            ("begin; select 1; end; x", vec!["begin", "select 1", "end", "x"]),
            ("select a$b$c; select $1;", vec!["select a$b$c", "select $1"]),
        ] {
            assert_eq!(texts(SqlEngine::Postgres, text), expected, "{text}");
        }
    }

    #[test]
    fn copy_includes_its_data() {
        let text = "COPY t (a) FROM stdin;\n1;\n2'\n\\.\nselect 1;";
        let found = split_statements(SqlEngine::Postgres, text).unwrap();
        assert_eq!(&text[found[0].copy_data.clone().unwrap()], "1;\n2'\n");
        assert_eq!(&text[found[1].range.clone()], "select 1");
        assert!(split_statements(SqlEngine::Postgres, "COPY t FROM STDIN;\n1\n").is_err());
    }

    #[test]
    fn mysql() {
        for (text, expected) in [
            ("select 1--2; # ;\nselect '\\';' ; -- ;\n", vec!["select 1--2", "select '\\';'"]),
            (
                "DELIMITER //\ncreate procedure p() begin select 1; end//\ndelimiter ;\nselect 2;",
                vec!["create procedure p() begin select 1; end", "select 2"],
            ),
            (
                "create trigger t before insert on a for each row begin if new.b then set new.c = case when 1 then 2 end; end if; end; x",
                vec![
                    "create trigger t before insert on a for each row begin if new.b then set new.c = case when 1 then 2 end; end if; end",
                    "x",
                ],
            ),
            ("begin; insert into t values (1); commit;", vec!["begin", "insert into t values (1)", "commit"]),
            ("/*!40101 SET NAMES utf8; */; x", vec!["/*!40101 SET NAMES utf8; */", "x"]),
            ("begin not atomic select 1; end; x", vec!["begin not atomic select 1; end", "x"]),
            ("create table `a;b` (c int); x", vec!["create table `a;b` (c int)", "x"]),
        ] {
            assert_eq!(texts(SqlEngine::Mysql, text), expected, "{text}");
        }
    }

    #[test]
    fn unterminated_text_reports_its_line() {
        for (engine, text, line) in [
            (SqlEngine::Postgres, "select 1;\nselect 'x;\n", 2),
            (SqlEngine::Postgres, "\n\nselect $$ x", 3),
            (SqlEngine::Postgres, "select 1;\n\\connect x\n", 2),
            (SqlEngine::Mysql, "/* x", 1),
        ] {
            assert_eq!(split_statements(engine, text).unwrap_err().position.unwrap().line, line, "{text}");
        }
    }

    #[test]
    fn tokens_are_unquoted() {
        let found = leading_tokens(SqlEngine::Mysql, "create /* x */ table `a``b`.c (d int)", 6);
        let found: Vec<_> = found.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(found, ["create", "table", "a`b", ".", "c", "("]);
    }
}
