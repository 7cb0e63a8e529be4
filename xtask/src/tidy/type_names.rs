//! No two types of one cargo workspace have the same name, so that a name says which type is meant.
//!
//! Counted are structs, enums, unions, traits and type aliases at any depth, private ones and those of tests too. Not counted are
//! associated types and what a macro makes. A file that several test crates compile counts once. Deliberately absent: paths and
//! visibility; a reader sees neither.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    iter::Peekable,
    str::CharIndices,
};

use super::{SourceFile, SourceTree, TidyFinding};

/// Copied into other repositories, where ours can't be seen.
const EXCLUDED: [&str; 2] = ["examples/", "runner/templates/"];

/// Every type whose name an earlier file, or an earlier line, of the same workspace has given to another one.
pub(super) fn unique(tree: &SourceTree) -> Vec<TidyFinding> {
    let workspaces = workspaces(tree);
    let mut found = Vec::new();
    let mut first_uses = BTreeMap::new();
    for file in tree.with_extension(&["rs"]) {
        if EXCLUDED.iter().any(|excluded| file.path.starts_with(excluded)) {
            continue;
        }
        let workspace = workspaces.iter().filter(|folder| file.path.starts_with(**folder)).max_by_key(|it| it.len());
        for (line, name) in declared_types(&file.text) {
            match first_uses.entry((workspace, name)) {
                Entry::Vacant(free) => drop(free.insert((&file.path, line))),
                Entry::Occupied(taken) => found.push(duplicate(file, line, name, *taken.get())),
            }
        }
    }
    found
}

fn duplicate(file: &SourceFile, line: usize, name: &str, (path, first): (&String, usize)) -> TidyFinding {
    file.finding(line, format!("another type is called `{name}`, in {path}:{first}: qualify both names"))
}

/// The folders of workspaces with `/` at the end; the root's is empty.
fn workspaces(tree: &SourceTree) -> Vec<&str> {
    let manifests = tree.files.iter().filter(|file| file.text.lines().any(|line| line.trim_end() == "[workspace]"));
    manifests.filter_map(|file| file.path.strip_suffix("Cargo.toml")).collect()
}

/// What the braces around a place belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// An `impl` or a trait: a `type` in it is an associated one.
    Associated,
    /// A module, a function, an expression.
    Other,
}

/// The names of types with the lines where they are declared.
fn declared_types(source: &str) -> Vec<(usize, &str)> {
    let tokens: Vec<Token<'_>> = Lexer::new(source).collect();
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut found = Vec::new();
    let mut scopes = Vec::new();
    let mut opens = Scope::Other;
    let mut at = 0;
    while at < tokens.len() {
        let begins_item = at == 0 || ["{", "}", ";", "]", ")", "pub", "unsafe", "auto"].contains(&text(at - 1));
        let is_named = tokens.get(at + 1).is_some_and(Token::is_name);
        match text(at) {
            "{" => scopes.push(std::mem::replace(&mut opens, Scope::Other)),
            "}" => drop(scopes.pop()),
            "impl" if begins_item => opens = Scope::Associated,
            "!" if at > 0 && tokens[at - 1].is_name() => {
                let group = at + 1 + usize::from(text(at - 1) == "macro_rules");
                if ["{", "(", "["].contains(&text(group)) {
                    at = end_of_group(&tokens, group);
                }
            }
            keyword @ ("struct" | "enum" | "union" | "trait" | "type") if begins_item && is_named => {
                let is_associated = keyword == "type" && scopes.last() == Some(&Scope::Associated);
                let is_variable = keyword == "union" && !["{", "<", "where"].contains(&text(at + 2));
                if !is_associated && !is_variable {
                    found.push((tokens[at + 1].line, text(at + 1)));
                }
                if keyword == "trait" {
                    opens = Scope::Associated;
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Where the group that opens there closes.
fn end_of_group(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// A word, or one character of punctuation.
struct Token<'a> {
    text: &'a str,
    line: usize,
}

impl Token<'_> {
    fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// Passes over white space, comments, and texts in quotes.
struct Lexer<'a> {
    source: &'a str,
    rest: Peekable<CharIndices<'a>>,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn new(source: &'a str) -> Self {
        Self { source, rest: source.char_indices().peekable(), line: 1 }
    }

    fn step(&mut self) -> Option<(usize, char)> {
        let next = self.rest.next();
        self.line += usize::from(next.is_some_and(|(_, c)| c == '\n'));
        next
    }

    fn position(&mut self) -> usize {
        self.rest.peek().map_or(self.source.len(), |(at, _)| *at)
    }

    fn follows(&mut self, text: &str) -> bool {
        let at = self.position();
        self.source[at..].starts_with(text)
    }

    /// To the end of the next `end`, or of the source.
    fn skip_past(&mut self, end: &str) {
        let at = self.position();
        let end = self.source[at..].find(end).map_or(self.source.len(), |found| at + found + end.len());
        while self.position() < end {
            self.step();
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 1;
        while depth > 0 && self.position() < self.source.len() {
            if self.follows("/*") {
                depth += 1;
                self.step();
            } else if self.follows("*/") {
                depth -= 1;
                self.step();
            }
            self.step();
        }
    }

    /// To the end of a text whose opening quote was read.
    fn skip_quoted(&mut self, quote: char) {
        while let Some((_, c)) = self.step() {
            if c == '\\' {
                self.step();
            } else if c == quote {
                break;
            }
        }
    }

    /// After `'`: a character, or a lifetime's name, which is left.
    fn skip_character(&mut self) {
        let at = self.position();
        let mut following = self.source[at..].chars();
        let (first, second) = (following.next(), following.next());
        if first == Some('\\') || second == Some('\'') {
            self.skip_quoted('\'');
        } else {
            self.word(at);
        }
    }

    fn word(&mut self, start: usize) -> &'a str {
        while self.rest.peek().is_some_and(|(_, c)| c.is_alphanumeric() || *c == '_') {
            self.step();
        }
        &self.source[start..self.position()]
    }

    /// After the word before a text's quote, such as the `br` of `br##"…"##`. False when no text follows.
    fn skip_prefixed(&mut self, prefix: &str) -> bool {
        let at = self.position();
        let hashes = self.source[at..].bytes().take_while(|byte| *byte == b'#').count();
        let is_text = self.source[at + hashes..].starts_with('"');
        match prefix {
            "r" | "br" | "cr" if is_text => {
                self.skip_past("\"");
                self.skip_past(&format!("\"{}", "#".repeat(hashes)));
                true
            }
            "b" | "c" if is_text && hashes == 0 => {
                self.step();
                self.skip_quoted('"');
                true
            }
            _ => false,
        }
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let line = self.line;
            let (start, c) = self.step()?;
            match c {
                '/' if self.follows("/") => self.skip_past("\n"),
                '/' if self.follows("*") => {
                    self.step();
                    self.skip_block_comment();
                }
                '"' => self.skip_quoted('"'),
                '\'' => self.skip_character(),
                c if c.is_whitespace() => {}
                c if c.is_alphanumeric() || c == '_' => {
                    let text = self.word(start);
                    if !self.skip_prefixed(text) {
                        return Some(Token { text, line });
                    }
                }
                c => return Some(Token { text: &self.source[start..start + c.len_utf8()], line }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{finding_texts, source_tree},
        *,
    };

    fn names(source: &str) -> Vec<&str> {
        declared_types(source).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn every_kind_of_type_is_found_at_any_depth() {
        let source = "//! Header.\n#[derive(Debug)]\npub struct A<T>(T);\npub(crate) enum B { X }\nunion C { x: u8 }\n\
                      unsafe trait D {}\ntype E = u8;\nmod m {\n    pub(in super::super) struct F;\n}\n\
                      fn f() -> impl Fn() {\n    struct G;\n    impl G { fn g() { type H = u8; } }\n    || ()\n}\nstruct I;\n";
        assert_eq!(names(source), ["A", "B", "C", "D", "E", "F", "G", "H", "I"]);
        assert_eq!(declared_types(source)[7], (13, "H"));
    }

    #[test]
    fn associated_types_and_macros_are_not() {
        let source = "trait T { type Item; fn f() { struct Inside; } type Error; }\nimpl T for u8 { type Item = u8; }\n\
                      macro_rules! make { ($x:ident) => { struct Made; } }\nmake!(struct Given);\nmake! { type Given = u8; }\n\
                      fn union(union: u8) -> u8 { let union = union; if !union { struct Last; } union }\n";
        assert_eq!(names(source), ["T", "Inside", "Last"]);
    }

    #[test]
    fn comments_and_texts_hold_no_types() {
        let source = "// struct A;\n/* struct B; /* nested */ struct C; */\nconst X: &str = \"; struct D; \\\" struct E;\";\n\
                      const Y: &str = r#\"\" struct F;\"#;\nconst Z: (&[u8], char, char) = (b\"; struct G;\", '\"', '\\'');\n\
                      struct H<'a>(&'a str);\nstruct J<'a> { x: &'a str }\n";
        assert_eq!(names(source), ["H", "J"]);
    }

    #[test]
    fn a_name_is_free_in_another_workspace() {
        let found = unique(&source_tree(&[
            ("Cargo.toml", "[workspace]\nmembers = [\"runner\"]\n"),
            ("examples/x/src/lib.rs", "struct Kept;"),
            ("runner/Cargo.toml", "[package]\n"),
            ("runner/src/a.rs", "struct Kept;\nstruct Other;\n"),
            ("runner/src/b.rs", "//! B.\nenum Kept {}\nmod tests { struct Other; }\n"),
            ("runner/templates/rust/src/lib.rs", "struct Kept;"),
            ("steps/Cargo.toml", "[workspace]\n"),
            ("steps/src/lib.rs", "struct Kept;"),
        ]));
        let expected = [
            "runner/src/b.rs:2: another type is called `Kept`, in runner/src/a.rs:1: qualify both names",
            "runner/src/b.rs:3: another type is called `Other`, in runner/src/a.rs:2: qualify both names",
        ];
        assert_eq!(finding_texts(&found), expected);
    }
}
