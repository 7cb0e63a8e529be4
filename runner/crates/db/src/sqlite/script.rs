//! Where the statements of a SQL text begin and end. Pure.
//!
//! SQLite finds the end of a statement itself, but copies the whole rest of the text for each, which for a long script is
//! quadratic. So the text is cut here first, by the rule that SQLite documents for `sqlite3_complete`: a statement ends at
//! a `;` outside of strings and comments; `CREATE TRIGGER` at `; END ;`. A text that is cut wrongly because it is no SQL
//! fails to parse either way, at the same place.

/// One statement, from its first token to its `;`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Byte offset of its first token.
    pub start: usize,
    /// From its first token to its `;`.
    pub text: &'a str,
}

/// The statements of a text, in order; comments and empty statements between them are left out.
pub fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let piece = next(text, at)?;
        at = piece.start + piece.text.len();
        Some(piece)
    })
}

/// How far a statement has got.
#[derive(Clone, Copy)]
enum Seen {
    Nothing,
    Explain,
    Create,
    /// Anything that ends at the next `;`.
    Plain,
    Trigger,
    TriggerSemicolon,
    TriggerEnd,
}

enum Token {
    Blank,
    Semicolon,
    Word(Word),
}

#[derive(Clone, Copy)]
enum Word {
    Explain,
    Create,
    Temporary,
    Trigger,
    End,
    Other,
}

fn next(text: &str, from: usize) -> Option<Piece<'_>> {
    let bytes = text.as_bytes();
    let mut at = from;
    let mut start = None;
    let mut seen = Seen::Nothing;
    while at < bytes.len() {
        let (token, length) = token(&bytes[at..]);
        let begins = at;
        at += length;
        seen = match (token, seen) {
            (Token::Blank, seen) | (Token::Semicolon, seen @ Seen::Nothing) => seen,
            (Token::Semicolon, Seen::Trigger | Seen::TriggerSemicolon) => Seen::TriggerSemicolon,
            (Token::Semicolon, Seen::Explain | Seen::Create | Seen::Plain | Seen::TriggerEnd) => break,
            (Token::Word(word), seen) => {
                start.get_or_insert(begins);
                seen.after(word)
            }
        };
    }
    start.map(|start| Piece { start, text: &text[start..at] })
}

impl Seen {
    fn after(self, word: Word) -> Self {
        match (self, word) {
            (Self::Nothing, Word::Explain) => Self::Explain,
            (Self::Nothing | Self::Explain, Word::Create) => Self::Create,
            (Self::Explain, Word::Other) => Self::Explain,
            (Self::Create, Word::Temporary) => Self::Create,
            (Self::Create, Word::Trigger) => Self::Trigger,
            (Self::TriggerSemicolon, Word::End) => Self::TriggerEnd,
            (Self::Trigger | Self::TriggerSemicolon | Self::TriggerEnd, _) => Self::Trigger,
            (Self::Nothing | Self::Explain | Self::Create | Self::Plain, _) => Self::Plain,
        }
    }
}

/// The first token of a text that is not empty, and its length.
fn token(bytes: &[u8]) -> (Token, usize) {
    let until = |end: &[u8], skip: usize| {
        let rest = bytes.get(skip..).unwrap_or_default();
        let found = rest.windows(end.len()).position(|window| window == end);
        found.map_or(bytes.len(), |at| skip + at + end.len())
    };
    match bytes {
        [b' ' | b'\t' | b'\n' | b'\r' | b'\x0c', ..] => (Token::Blank, 1),
        [b'-', b'-', ..] => (Token::Blank, until(b"\n", 2)),
        [b'/', b'*', ..] => (Token::Blank, until(b"*/", 2)),
        [b';', ..] => (Token::Semicolon, 1),
        // A doubled quote inside looks like two strings side by side, which ends at the same place.
        [quote @ (b'\'' | b'"' | b'`'), ..] => (Token::Word(Word::Other), until(&[*quote], 1)),
        [b'[', ..] => (Token::Word(Word::Other), until(b"]", 1)),
        _ => {
            let length = bytes.iter().take_while(|byte| in_word(**byte)).count();
            (Token::Word(word(&bytes[..length])), length.max(1))
        }
    }
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || !byte.is_ascii()
}

fn word(bytes: &[u8]) -> Word {
    let is = |keyword: &str| bytes.eq_ignore_ascii_case(keyword.as_bytes());
    match bytes.first().map(u8::to_ascii_lowercase) {
        Some(b'e') if is("explain") => Word::Explain,
        Some(b'e') if is("end") => Word::End,
        Some(b'c') if is("create") => Word::Create,
        Some(b't') if is("temp") || is("temporary") => Word::Temporary,
        Some(b't') if is("trigger") => Word::Trigger,
        _ => Word::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_sqlite_ends_them() {
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
            let found: Vec<_> = pieces(text).map(|piece| piece.text).collect();
            assert_eq!(found, expected, "{text}");
            for piece in pieces(text) {
                assert!(text[piece.start..].starts_with(piece.text));
            }
        }
    }
}
