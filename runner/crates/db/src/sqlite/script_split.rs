//! Splits a SQL text into statements. Pure.
//!
//! SQLite finds the end of a statement itself, but copies the rest of the text each time, which is quadratic for long
//! scripts. So the runner splits the text first, by the documented rule of `sqlite3_complete`: a statement ends at a
//! `;` outside strings and comments; `CREATE TRIGGER` ends at `; END ;`. An invalid text may be split wrongly, but
//! fails to parse at the same place anyway.

/// A statement, from its first token to its `;`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptStatement<'a> {
    /// The byte offset of its first token.
    pub start: usize,
    /// The text from its first token to its `;`.
    pub text: &'a str,
}

/// Returns the statements in order, without empty ones and the comments between them.
pub fn script_statements(text: &str) -> impl Iterator<Item = ScriptStatement<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let piece = next_statement(text, at)?;
        at = piece.start + piece.text.len();
        Some(piece)
    })
}

/// The parser's state within a statement.
#[derive(Clone, Copy)]
enum ScriptState {
    Nothing,
    Explain,
    Create,
    /// A statement that ends at the next `;`.
    Plain,
    Trigger,
    TriggerSemicolon,
    TriggerEnd,
}

enum ScriptToken {
    Blank,
    Semicolon,
    Keyword(ScriptKeyword),
}

#[derive(Clone, Copy)]
enum ScriptKeyword {
    Explain,
    Create,
    Temporary,
    Trigger,
    End,
    Other,
}

fn next_statement(text: &str, from: usize) -> Option<ScriptStatement<'_>> {
    let bytes = text.as_bytes();
    let mut at = from;
    let mut start = None;
    let mut state = ScriptState::Nothing;
    while at < bytes.len() {
        let (token, length) = next_token(&bytes[at..]);
        let token_start = at;
        at += length;
        state = match (token, state) {
            (ScriptToken::Blank, seen) | (ScriptToken::Semicolon, seen @ ScriptState::Nothing) => seen,
            (ScriptToken::Semicolon, ScriptState::Trigger | ScriptState::TriggerSemicolon) => {
                ScriptState::TriggerSemicolon
            }
            (
                ScriptToken::Semicolon,
                ScriptState::Explain | ScriptState::Create | ScriptState::Plain | ScriptState::TriggerEnd,
            ) => break,
            (ScriptToken::Keyword(word), seen) => {
                start.get_or_insert(token_start);
                seen.after(word)
            }
        };
    }
    start.map(|start| ScriptStatement { start, text: &text[start..at] })
}

impl ScriptState {
    fn after(self, word: ScriptKeyword) -> Self {
        match (self, word) {
            (Self::Nothing, ScriptKeyword::Explain) => Self::Explain,
            (Self::Nothing | Self::Explain, ScriptKeyword::Create) => Self::Create,
            (Self::Explain, ScriptKeyword::Other) => Self::Explain,
            (Self::Create, ScriptKeyword::Temporary) => Self::Create,
            (Self::Create, ScriptKeyword::Trigger) => Self::Trigger,
            (Self::TriggerSemicolon, ScriptKeyword::End) => Self::TriggerEnd,
            (Self::Trigger | Self::TriggerSemicolon | Self::TriggerEnd, _) => Self::Trigger,
            (Self::Nothing | Self::Explain | Self::Create | Self::Plain, _) => Self::Plain,
        }
    }
}

/// The first token of a non-empty text, and its length.
fn next_token(bytes: &[u8]) -> (ScriptToken, usize) {
    let until = |end: &[u8], skip: usize| {
        let rest = bytes.get(skip..).unwrap_or_default();
        let found = rest.windows(end.len()).position(|window| window == end);
        found.map_or(bytes.len(), |at| skip + at + end.len())
    };
    match bytes {
        [b' ' | b'\t' | b'\n' | b'\r' | b'\x0c', ..] => (ScriptToken::Blank, 1),
        [b'-', b'-', ..] => (ScriptToken::Blank, until(b"\n", 2)),
        [b'/', b'*', ..] => (ScriptToken::Blank, until(b"*/", 2)),
        [b';', ..] => (ScriptToken::Semicolon, 1),
        // A doubled quote looks like two adjacent strings, which end at the same place.
        [quote @ (b'\'' | b'"' | b'`'), ..] => (ScriptToken::Keyword(ScriptKeyword::Other), until(&[*quote], 1)),
        [b'[', ..] => (ScriptToken::Keyword(ScriptKeyword::Other), until(b"]", 1)),
        _ => {
            let length = bytes.iter().take_while(|byte| is_word_byte(**byte)).count();
            (ScriptToken::Keyword(keyword(&bytes[..length])), length.max(1))
        }
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || !byte.is_ascii()
}

fn keyword(bytes: &[u8]) -> ScriptKeyword {
    let is = |keyword: &str| bytes.eq_ignore_ascii_case(keyword.as_bytes());
    match bytes.first().map(u8::to_ascii_lowercase) {
        Some(b'e') if is("explain") => ScriptKeyword::Explain,
        Some(b'e') if is("end") => ScriptKeyword::End,
        Some(b'c') if is("create") => ScriptKeyword::Create,
        Some(b't') if is("temp") || is("temporary") => ScriptKeyword::Temporary,
        Some(b't') if is("trigger") => ScriptKeyword::Trigger,
        _ => ScriptKeyword::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_sqlite_does() {
        for (text, expected) in [
            ("", vec![]),
            (" ; ;\n-- nothing; here\n/* ; */ ", vec![]),
            ("select 1", vec!["select 1"]),
            ("select 1;select 2;", vec!["select 1;", "select 2;"]),
            (
                "-- a; b\nselect ';' , \";\" /* ; */ , `;`, [;] ; x",
                vec!["select ';' , \";\" /* ; */ , `;`, [;] ;", "x"],
            ),
            ("select 'it''s;' ; select 'ü;'", vec!["select 'it''s;' ;", "select 'ü;'"]),
            ("select 'open; select 2;", vec!["select 'open; select 2;"]),
            ("select 1 /* open; select 2;", vec!["select 1 /* open; select 2;"]),
            (
                "create trigger t after insert on a begin select case when 1 then 2 end; select 2; end; x;",
                vec!["create trigger t after insert on a begin select case when 1 then 2 end; select 2; end;", "x;"],
            ),
            (
                "CREATE TEMP /* c */ TRIGGER t BEGIN a; END ; x",
                vec!["CREATE TEMP /* c */ TRIGGER t BEGIN a; END ;", "x"],
            ),
            (
                "explain query plan create trigger t begin a; end; x",
                vec!["explain query plan create trigger t begin a; end;", "x"],
            ),
            ("create table trigger_(a); end; x", vec!["create table trigger_(a);", "end;", "x"]),
            ("create table t(a); create index i on t(a);", vec!["create table t(a);", "create index i on t(a);"]),
        ] {
            let found: Vec<_> = script_statements(text).map(|piece| piece.text).collect();
            assert_eq!(found, expected, "{text}");
            for piece in script_statements(text) {
                assert!(text[piece.start..].starts_with(piece.text));
            }
        }
    }
}
