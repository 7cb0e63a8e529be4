//! A file's text → its statements, by the rules that each engine's own client has. Pure.
//!
//! What counts: strings, quoted names, dollar quotes, comments (nested ones on PostgreSQL), parentheses, bodies of SQL routines,
//! `DELIMITER`, and the data of `COPY … FROM STDIN`. A text that is cut wrongly because it is no SQL fails to parse either way.
//! Deliberately absent: what a statement means; that is [`unit`](super::unit)'s.

use std::ops::Range;

use super::super::{
    sql::{Engine, Kind, Position, SqlFault},
    sqlite,
};

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// From its first token to before its delimiter.
    pub(super) range: Range<usize>,
    /// What follows a `COPY … FROM STDIN`, without the `\.`.
    pub(super) data: Option<Range<usize>>,
}

/// A word, a quoted name or a sign of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// As it is meant: quotes taken off.
    pub(super) text: String,
    /// A bare word in capitals; empty for a quoted name and signs.
    pub(super) word: String,
}

impl Token {
    pub(super) fn is_name(&self) -> bool {
        !self.word.is_empty()
            || self.text.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_') && self.text.len() > 1
    }
}

enum Lexeme {
    /// White space or a comment.
    Blank,
    Semicolon,
    Open,
    Close,
    Word,
    /// A name in quotes.
    Name,
    /// A string, or a sign.
    Other,
}

/// The statements of a text.
pub(super) fn split(engine: Engine, text: &str) -> Result<Vec<Statement>, SqlFault> {
    match engine {
        Engine::Sqlite => {
            let trimmed = |piece: sqlite::Piece<'_>| {
                let bare = piece.text.strip_suffix(';').unwrap_or(piece.text).trim_end();
                Statement { range: piece.start..piece.start + bare.len(), data: None }
            };
            Ok(sqlite::pieces(text).map(trimmed).collect())
        }
        Engine::Postgres | Engine::Mysql => Splitter { engine, text, at: 0, delimiter: ";".to_owned() }.all(),
    }
}

/// The text from its first token on.
pub fn skip_blank(engine: Engine, text: &str) -> &str {
    let mut at = 0;
    while at < text.len() {
        match lexeme(engine, text, at) {
            Ok((Lexeme::Blank, length)) => at += length,
            Ok(_) | Err(_) => break,
        }
    }
    &text[at..]
}

/// The first tokens of a statement.
pub(super) fn tokens(engine: Engine, text: &str, most: usize) -> Vec<Token> {
    let (mut at, mut found) = (0, Vec::new());
    while at < text.len() && found.len() < most {
        let Ok((lexeme, length)) = lexeme(engine, text, at) else { break };
        let raw = &text[at..at + length];
        at += length;
        match lexeme {
            Lexeme::Blank => {}
            Lexeme::Word => found.push(Token { text: raw.to_owned(), word: raw.to_ascii_uppercase() }),
            Lexeme::Name => {
                let quote = &raw[..1];
                let inner = raw[1..].strip_suffix(quote).or_else(|| raw[1..].strip_suffix(']')).unwrap_or(&raw[1..]);
                found.push(Token { text: inner.replace(&quote.repeat(2), quote), word: String::new() });
            }
            Lexeme::Semicolon | Lexeme::Open | Lexeme::Close | Lexeme::Other => {
                found.push(Token { text: raw.to_owned(), word: String::new() });
            }
        }
    }
    found
}

struct Splitter<'a> {
    engine: Engine,
    text: &'a str,
    at: usize,
    delimiter: String,
}

/// What a statement has been so far.
#[derive(Default)]
struct Seen {
    start: Option<usize>,
    end: usize,
    words: Vec<String>,
    parentheses: usize,
    /// Of BEGIN and CASE in the body of a routine.
    depth: usize,
    after_end: bool,
}

impl Splitter<'_> {
    fn all(mut self) -> Result<Vec<Statement>, SqlFault> {
        let mut statements = Vec::new();
        let mut seen = Seen::default();
        while self.at < self.text.len() {
            let rest = &self.text[self.at..];
            if seen.start.is_none() && self.client_command(rest)? {
                continue;
            }
            if self.delimiter != ";" && rest.starts_with(&self.delimiter) {
                self.at += self.delimiter.len();
                self.finish(&mut seen, &mut statements)?;
                continue;
            }
            let (lexeme, length) = lexeme(self.engine, self.text, self.at)?;
            let begins = self.at;
            self.at += length;
            match lexeme {
                Lexeme::Blank => continue,
                Lexeme::Semicolon if self.delimiter == ";" && seen.parentheses == 0 && seen.depth == 0 => {
                    self.finish(&mut seen, &mut statements)?;
                    continue;
                }
                Lexeme::Open => seen.parentheses += 1,
                Lexeme::Close => seen.parentheses = seen.parentheses.saturating_sub(1),
                Lexeme::Word => self.word(&mut seen, self.text[begins..self.at].to_ascii_uppercase()),
                Lexeme::Semicolon | Lexeme::Name | Lexeme::Other => seen.after_end = false,
            }
            seen.start.get_or_insert(begins);
            seen.end = self.at;
        }
        self.finish(&mut seen, &mut statements)?;
        Ok(statements)
    }

    /// `DELIMITER`, which MySQL's client knows, is obeyed; `\…`, which psql knows, is refused.
    fn client_command(&mut self, rest: &str) -> Result<bool, SqlFault> {
        match self.engine {
            Engine::Mysql if rest.get(..9).is_some_and(|word| word.eq_ignore_ascii_case("delimiter")) => {
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
            Engine::Postgres if rest.starts_with('\\') => {
                let command = rest.split_whitespace().next().unwrap_or_default();
                Err(self
                    .fault(format!("{command} is a command of psql's, which no server knows"), self.at)
                    .hint("leave it out: a migration is SQL"))
            }
            Engine::Sqlite | Engine::Postgres | Engine::Mysql => Ok(false),
        }
    }

    fn word(&self, seen: &mut Seen, word: String) {
        let is_routine = self.is_routine(seen);
        match word.as_str() {
            "BEGIN" if is_routine => seen.depth += 1,
            "CASE" if seen.depth > 0 && !seen.after_end => seen.depth += 1,
            // `END IF` and its like close what was not counted.
            "IF" | "LOOP" | "WHILE" | "REPEAT" | "FOR" if seen.after_end && self.engine == Engine::Mysql => {
                seen.depth += 1
            }
            "END" if seen.depth > 0 => {
                seen.depth -= 1;
                seen.after_end = true;
                seen.words.push(word);
                return;
            }
            "NOT" if self.engine == Engine::Mysql && seen.words == ["BEGIN"] => seen.depth = 1,
            _ => {}
        }
        seen.after_end = false;
        if seen.words.len() < 40 {
            seen.words.push(word);
        }
    }

    fn is_routine(&self, seen: &Seen) -> bool {
        let mut words = seen.words.iter().map(String::as_str);
        if words.next() != Some("CREATE") {
            return seen.depth > 0;
        }
        match self.engine {
            Engine::Postgres => {
                matches!(words.find(|word| !matches!(*word, "OR" | "REPLACE")), Some("FUNCTION" | "PROCEDURE"))
                    && seen.parentheses == 0
            }
            Engine::Mysql => words
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
            Engine::Sqlite => false,
        }
    }

    fn finish(&mut self, seen: &mut Seen, statements: &mut Vec<Statement>) -> Result<(), SqlFault> {
        let done = std::mem::take(seen);
        let Some(start) = done.start else { return Ok(()) };
        let mut statement = Statement { range: start..done.end, data: None };
        let words: Vec<&str> = done.words.iter().map(String::as_str).collect();
        let copies = words.first() == Some(&"COPY") && words.windows(2).any(|pair| pair == ["FROM", "STDIN"]);
        if self.engine == Engine::Postgres && copies {
            let rest = &self.text[self.at..];
            let data = self.at + rest.find('\n').map_or(rest.len(), |newline| newline + 1);
            let mut end = data;
            loop {
                let line = self.text[end..].split_inclusive('\n').next().unwrap_or_default();
                if line.is_empty() {
                    return Err(self.fault("the data of COPY has no end: a line with `\\.` alone".to_owned(), start));
                }
                if line.trim_end_matches(['\n', '\r']) == "\\." {
                    self.at = end + line.len();
                    break;
                }
                end += line.len();
            }
            statement.data = Some(data..end);
        }
        statements.push(statement);
        Ok(())
    }

    fn fault(&self, message: String, at: usize) -> SqlFault {
        SqlFault { position: Some(Position::at(self.text, at)), ..SqlFault::new(Kind::BadContent, message) }
    }
}

/// The token at a byte, and its length.
fn lexeme(engine: Engine, text: &str, at: usize) -> Result<(Lexeme, usize), SqlFault> {
    let bytes = &text.as_bytes()[at..];
    let until = |end: &[u8], skip: usize| find(bytes, end, skip).map(|found| found + end.len());
    let endless = |what: &str| SqlFault {
        position: Some(Position::at(text, at)),
        ..SqlFault::new(Kind::BadContent, format!("{what} that begins here has no end"))
    };
    let is_mysql = engine == Engine::Mysql;
    Ok(match bytes {
        [b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' | b'\x0b', ..] => (Lexeme::Blank, 1),
        [b'-', b'-', rest @ ..] if !is_mysql || rest.first().is_none_or(|byte| byte.is_ascii_whitespace()) => {
            (Lexeme::Blank, until(b"\n", 2).unwrap_or(bytes.len()))
        }
        [b'#', ..] if is_mysql => (Lexeme::Blank, until(b"\n", 1).unwrap_or(bytes.len())),
        // What stands in these is for the server.
        [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!', ..] if is_mysql => {
            (Lexeme::Other, until(b"*/", 3).ok_or_else(|| endless("a comment"))?)
        }
        [b'/', b'*', ..] if engine == Engine::Postgres => {
            (Lexeme::Blank, nested_comment(bytes).ok_or_else(|| endless("a comment"))?)
        }
        [b'/', b'*', ..] => (Lexeme::Blank, until(b"*/", 2).ok_or_else(|| endless("a comment"))?),
        [b';', ..] => (Lexeme::Semicolon, 1),
        [b'(', ..] => (Lexeme::Open, 1),
        [b')', ..] => (Lexeme::Close, 1),
        [b'\'', ..] => (Lexeme::Other, quoted(bytes, 0, is_mysql).ok_or_else(|| endless("a string"))?),
        [b'e' | b'E', b'\'', ..] if engine == Engine::Postgres => {
            (Lexeme::Other, quoted(bytes, 1, true).ok_or_else(|| endless("a string"))?)
        }
        [b'"', ..] if is_mysql => (Lexeme::Other, quoted(bytes, 0, true).ok_or_else(|| endless("a string"))?),
        [b'"' | b'`', ..] => (Lexeme::Name, quoted(bytes, 0, false).ok_or_else(|| endless("a name"))?),
        [b'$', rest @ ..] if engine == Engine::Postgres => {
            let tag = rest.iter().take_while(|byte| in_word(**byte) && **byte != b'$').count();
            let is_tag = rest.get(tag) == Some(&b'$') && !rest.first().is_some_and(u8::is_ascii_digit);
            match is_tag {
                true => {
                    (Lexeme::Other, until(&bytes[..tag + 2], tag + 2).ok_or_else(|| endless("a dollar-quoted string"))?)
                }
                false => (Lexeme::Other, 1),
            }
        }
        _ => match bytes.iter().take_while(|byte| in_word(**byte)).count() {
            0 => (Lexeme::Other, 1),
            length => (Lexeme::Word, length),
        },
    })
}

fn find(bytes: &[u8], end: &[u8], from: usize) -> Option<usize> {
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

/// A doubled quote inside looks like two strings side by side, which ends at the same place, but not for names.
fn quoted(bytes: &[u8], quote_at: usize, has_backslash: bool) -> Option<usize> {
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

fn nested_comment(bytes: &[u8]) -> Option<usize> {
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

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(engine: Engine, text: &str) -> Vec<&str> {
        split(engine, text).unwrap().into_iter().map(|statement| &text[statement.range]).collect()
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
            assert_eq!(texts(Engine::Postgres, text), expected, "{text}");
        }
    }

    #[test]
    fn copy_has_its_data() {
        let text = "COPY t (a) FROM stdin;\n1;\n2'\n\\.\nselect 1;";
        let found = split(Engine::Postgres, text).unwrap();
        assert_eq!(&text[found[0].data.clone().unwrap()], "1;\n2'\n");
        assert_eq!(&text[found[1].range.clone()], "select 1");
        assert!(split(Engine::Postgres, "COPY t FROM STDIN;\n1\n").is_err());
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
            assert_eq!(texts(Engine::Mysql, text), expected, "{text}");
        }
    }

    #[test]
    fn what_has_no_end_has_its_line() {
        for (engine, text, line) in [
            (Engine::Postgres, "select 1;\nselect 'x;\n", 2),
            (Engine::Postgres, "\n\nselect $$ x", 3),
            (Engine::Postgres, "select 1;\n\\connect x\n", 2),
            (Engine::Mysql, "/* x", 1),
        ] {
            assert_eq!(split(engine, text).unwrap_err().position.unwrap().line, line, "{text}");
        }
    }

    #[test]
    fn tokens_without_quotes() {
        let found = tokens(Engine::Mysql, "create /* x */ table `a``b`.c (d int)", 6);
        let found: Vec<_> = found.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(found, ["create", "table", "a`b", ".", "c", "("]);
    }
}
