//! The output blocks of the documentation: compared with what the runner prints, and rewritten with `UPDATE_EXPECT=1`.
//!
//! A page keeps its times, dates and digests for as long as nothing else of a block differs, so that a rewrite changes
//! only what a change of the runner changed.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use contract::error_code::ErrorCode;
use expect_test::expect_file;

use super::normalize::normalize;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const BLOCK_START: &str = "```text\n";
const BLOCK_END: &str = "```\n";
/// A word of so many hex digits is a digest; a page shows its first eight.
const MIN_DIGEST_DIGITS: usize = 32;
const SHOWN_DIGEST_DIGITS: usize = 8;

/// Compares the example of an error's page with the error in `output`. `command` is what the user typed, if the page shows
/// it. Each text of `replacements` is shown as the one beside it.
#[track_caller]
pub fn check_error_page(code: &str, command: Option<&str>, output: &str, replacements: &[(String, &str)]) {
    let error = error_text(code, output);
    let shown = match command {
        Some(command) => format!("$ {command}\n{error}"),
        None => error,
    };
    let path = page_path(&format!("docs/errors/{code}.md"));
    let page = fs::read_to_string(&path).unwrap();
    let actual = readable(&shown, replacements);
    let is_example = |block: &Range<usize>| {
        let text = &page[block.clone()];
        text.starts_with("$ ") || text.lines().any(|line| line.starts_with("error["))
    };
    let updated = match text_blocks(&page).into_iter().find(is_example) {
        Some(block) => with_block(&page, block, &actual),
        None => {
            let (before, after) = page.split_once("\n## What to do\n").expect("each page has this heading");
            format!("{before}\n{BLOCK_START}{actual}{BLOCK_END}\n## What to do\n{after}")
        }
    };
    expect_file![path].assert_eq(&updated);
}

/// Compares all blocks of a page that begin with `$ runner` with outputs, each with its command, in order.
#[track_caller]
pub fn check_session(page: &str, outputs: &[String], replacements: &[(String, &str)]) {
    let path = page_path(page);
    let mut text = fs::read_to_string(&path).unwrap();
    let is_session = |text: &str, block: &Range<usize>| text[block.clone()].starts_with("$ runner");
    let count = text_blocks(&text).iter().filter(|block| is_session(&text, block)).count();
    assert_eq!(count, outputs.len(), "{page} has {count} blocks of sessions, the test {}", outputs.len());
    for (number, output) in outputs.iter().enumerate() {
        let block = text_blocks(&text).into_iter().filter(|block| is_session(&text, block)).nth(number).unwrap();
        text = with_block(&text, block, &readable(output, replacements));
    }
    expect_file![path].assert_eq(&text);
}

/// A command as a user types it.
pub fn command_line(arguments: &[&str]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    let quoted = arguments.iter().map(|argument| match argument.chars().all(is_plain) {
        true => (*argument).to_owned(),
        false => format!("'{argument}'"),
    });
    std::iter::once("runner".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}

/// The exit code of the registry.
#[track_caller]
pub fn exit_code(code: &str) -> i32 {
    let known = ErrorCode::ALL.iter().find(|known| known.as_str() == code);
    known.unwrap_or_else(|| panic!("{code} is not in the registry")).exit().status().into()
}

/// The names of the folder's pages, without their ending.
pub fn error_page_codes() -> Vec<String> {
    let files = fs::read_dir(page_path("docs/errors")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut codes: Vec<_> = names.filter_map(|name| name.strip_suffix(".md").map(str::to_owned)).collect();
    codes.retain(|name| name != "README");
    codes.sort();
    codes
}

/// A fenced block of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencedBlock {
    /// What the fence names, such as `sh`; empty if it names nothing.
    pub language: String,
    /// Its lines, each with its end.
    pub text: String,
}

/// The fenced blocks of a Markdown text, in order.
pub fn fenced_blocks(page: &str) -> Vec<FencedBlock> {
    let mut blocks = Vec::new();
    let mut lines = page.split_inclusive('\n');
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            blocks.push(FencedBlock { language: language.trim().to_owned(), text });
        }
    }
    blocks
}

/// The text of the only block of a page that contains `part`.
#[track_caller]
pub fn fenced_block(page: &str, part: &str) -> String {
    let blocks = fenced_blocks(&fs::read_to_string(page_path(page)).unwrap());
    let mut found = blocks.into_iter().filter(|block| block.text.contains(part));
    let block = found.next().unwrap_or_else(|| panic!("{page} has no block with {part:?}"));
    assert_eq!(found.next(), None, "{page} has several blocks with {part:?}");
    block.text
}

/// A file of the repository.
pub fn page_path(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// The error with this code, without what is printed before and after it.
#[track_caller]
fn error_text(code: &str, output: &str) -> String {
    let head = format!("error[{code}]: ");
    let Some(mut lines) = output.find(&head).map(|start| output[start..].split_inclusive('\n')) else {
        panic!("there is no {head:?} in\n{output}")
    };
    // What belongs to it is indented, or begins with the number of a line.
    let belongs = |line: &&str| line.starts_with([' ', '|']) || line.starts_with(|c: char| c.is_ascii_digit());
    let first = lines.next().unwrap_or_default();
    std::iter::once(first).chain(lines.take_while(belongs)).collect()
}

/// The ranges of the texts in the page's blocks.
fn text_blocks(page: &str) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let mut at = 0;
    while let Some(found) = page[at..].find(BLOCK_START) {
        let start = at + found + BLOCK_START.len();
        let end = start + page[start..].find(BLOCK_END).expect("a block ends");
        blocks.push(start..end);
        at = end;
    }
    blocks
}

/// The page with this block; the page itself where the block says the same.
fn with_block(page: &str, block: Range<usize>, actual: &str) -> String {
    if masked(&page[block.clone()]) == masked(actual) {
        return page.to_owned();
    }
    format!("{}{actual}{}", &page[..block.start], &page[block.end..])
}

/// An output with names that are not those of this machine.
fn readable(output: &str, replacements: &[(String, &str)]) -> String {
    let mut text = output.to_owned();
    for (from, to) in replacements {
        text = text.replace(from.as_str(), to);
    }
    text.split_inclusive('\n').map(|line| shorten_digests(&name_holder(line))).collect()
}

/// Replaces `uid-0@machine, process 123`.
fn name_holder(line: &str) -> String {
    let Some(start) = line.find("uid-") else { return line.to_owned() };
    let rest = &line[start..];
    let Some((who, after)) = rest.split_once(", process ").filter(|(who, _)| who.contains('@')) else {
        return line.to_owned();
    };
    debug_assert!(!who.contains(' '), "{who}");
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{}ann@host, process 4711{after}", &line[..start])
}

fn shorten_digests(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_hex_digit) {
        let end = rest[start..].find(|c| !is_hex_digit(c)).map_or(rest.len(), |length| start + length);
        let is_digest = end - start >= MIN_DIGEST_DIGITS;
        out.push_str(&rest[..if is_digest { start + SHOWN_DIGEST_DIGITS } else { end }]);
        if is_digest {
            out.push('…');
        }
        rest = &rest[end..];
    }
    out + rest
}

fn is_hex_digit(c: char) -> bool {
    matches!(c, '0'..='9' | 'a'..='f')
}

/// A block without what differs from run to run.
fn masked(block: &str) -> String {
    let mut text = String::new();
    let mut rest = block;
    while let Some(end) = rest.find('…') {
        let digits = rest[..end].len() - rest[..end].trim_end_matches(is_hex_digit).len();
        let is_digest = digits == SHOWN_DIGEST_DIGITS;
        text.push_str(&rest[..if is_digest { end - digits } else { end }]);
        text.push_str(if is_digest { "[HASH]" } else { "…" });
        rest = &rest[end + '…'.len_utf8()..];
    }
    normalize(&(text + rest), Path::new("[ROOT]"))
}
