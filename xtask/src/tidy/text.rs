//! Rules about single lines and whole files of source text.

use super::{SourceTree, TidyFinding};

/// Written by hand and read by people.
const SOURCES: [&str; 12] = ["css", "html", "js", "mjs", "py", "rs", "sh", "sql", "toml", "wit", "yaml", "yml"];

const MAX_LINES: usize = 600;
const HARD_MAX_LINES: usize = 1000;
/// A reason stands among these first lines.
const REASON_LINES: usize = 30;

/// A file over 600 lines says why it is (`// long: …`); none has more than 1,000.
pub(super) fn file_lengths(tree: &SourceTree) -> Vec<TidyFinding> {
    let finding = |file: &super::SourceFile| {
        let count = file.text.lines().count();
        let has_reason = || file.text.lines().take(REASON_LINES).any(|line| line.trim_start().starts_with("// long: "));
        if count > HARD_MAX_LINES {
            Some(file.finding(0, format!("{count} lines: split it (at most {HARD_MAX_LINES})")))
        } else if count > MAX_LINES && !has_reason() {
            Some(file.finding(0, format!("{count} lines: split it, or say why: `// long: …` near the top")))
        } else {
            None
        }
    };
    tree.with_extension(&SOURCES).filter_map(finding).collect()
}

/// Nothing is left for later. The texts are put together here, or this file would find itself.
pub(super) fn unfinished_work(tree: &SourceTree) -> Vec<TidyFinding> {
    const NOTES: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];
    const CODE: [&str; 4] =
        [concat!("to", "do!"), concat!("unimple", "mented!"), concat!("db", "g!"), concat!("#[ig", "nore")];
    let mut found = Vec::new();
    for file in &tree.files {
        let is_source = SOURCES.contains(&file.extension());
        for (number, line) in file.lines() {
            let notes = NOTES.into_iter().filter(|note| is_source || file.extension() == "md" && line.contains(note));
            let code = CODE.into_iter().filter(|_| is_source);
            for mark in notes.chain(code).filter(|mark| has_word(line, mark)) {
                found.push(file.finding(number, format!("`{mark}`: finish it, or take it out")));
            }
        }
    }
    found
}

/// No path of somebody's machine.
pub(super) fn machine_paths(tree: &SourceTree) -> Vec<TidyFinding> {
    const PLACES: [&str; 3] = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), HOME_PREFIX];
    let mut found = Vec::new();
    for file in &tree.files {
        for (number, line) in file.lines() {
            for place in PLACES.into_iter().filter(|place| has_path(line, place)) {
                found.push(file.finding(number, format!("`{place}…` is a path of one machine")));
            }
        }
    }
    found
}

/// Somebody's home may be named as an example, but nothing inside of it.
const HOME_PREFIX: &str = concat!("/ho", "me/");

/// Every Rust file begins by saying what it is for.
pub(super) fn missing_headers(tree: &SourceTree) -> Vec<TidyFinding> {
    let silent = tree.with_extension(&["rs"]).filter(|file| !file.text.starts_with("//!"));
    silent.map(|file| file.finding(1, "begin with a `//!` header: purpose, invariant, what is absent")).collect()
}

/// In the runner, only `cli` talks to the terminal.
pub(super) fn terminal_output(tree: &SourceTree) -> Vec<TidyFinding> {
    const MACROS: [&str; 4] = ["println!(", "eprintln!(", "print!(", "eprint!("];
    let mut found = Vec::new();
    let is_quiet = |path: &str| {
        ["runner/src/", "runner/crates/"].iter().any(|folder| path.starts_with(folder))
            && !path.starts_with("runner/src/cli")
            && !path.ends_with("/build.rs")
    };
    let sources = tree.with_extension(&["rs"]).filter(|file| is_quiet(&file.path));
    for file in sources {
        for (number, line) in file.lines().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for name in MACROS.into_iter().filter(|name| has_word(line, name)) {
                found.push(file.finding(number, format!("`{name}…)` outside of cli/, the home of the terminal")));
            }
        }
    }
    found
}

/// Not as the end of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let ends_inside = word.ends_with(is_word) && line[at + word.len()..].starts_with(is_word);
        !line[..at].ends_with(is_word) && !ends_inside
    })
}

/// An absolute path, not the middle of a relative one or of a URL.
fn has_path(line: &str, place: &str) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || "._-~}>)*".contains(c);
    let names_a_home = |rest: &str| {
        let user = rest.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').next().unwrap_or_default();
        !user.is_empty() && rest[user.len()..].starts_with('/')
    };
    line.match_indices(place).any(|(at, _)| {
        !line[..at].ends_with(goes_on) && (place != HOME_PREFIX || names_a_home(&line[at + place.len()..]))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{finding_texts, source_tree},
        *,
    };

    #[test]
    fn file_lengths_requires_a_reason_and_enforces_the_maximum() {
        let lines = |count: usize, first: &str| format!("{first}\n{}", "x\n".repeat(count - 1));
        let files = [
            ("a.rs", lines(600, "//! a")),
            ("b.rs", lines(601, "//! b")),
            ("c.rs", lines(1000, "// long: a table")),
            ("d.rs", lines(1001, "// long: a table")),
            ("e.lock", lines(5000, "")),
        ];
        let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let expected = [
            "b.rs: 601 lines: split it, or say why: `// long: …` near the top",
            "d.rs: 1001 lines: split it (at most 1000)",
        ];
        assert_eq!(finding_texts(&file_lengths(&source_tree(&files))), expected);
    }

    #[test]
    fn unfinished_work_matches_whole_words() {
        let marked = format!("// {}: later\n{}(x);\n", concat!("TO", "DO"), concat!("db", "g!"));
        let files = [("a.rs", marked.as_str()), ("b.md", marked.as_str()), ("c.rs", "let mastodon = 1; // TODOS\n")];
        let expected = ["a.rs:1", "a.rs:2", "b.md:1"];
        let found = finding_texts(&unfinished_work(&source_tree(&files)));
        assert!(found.iter().zip(expected).all(|(found, place)| found.starts_with(place)), "{found:?}");
        assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn machine_paths_ignores_relative_paths() {
        let yes = format!("see `{HOME_PREFIX}ann/x`");
        let no = format!("see docs{HOME_PREFIX}page/x, <a>{HOME_PREFIX}b/c and {HOME_PREFIX}ann");
        assert_eq!(machine_paths(&source_tree(&[("a.md", &yes)])).len(), 1);
        assert_eq!(machine_paths(&source_tree(&[("a.md", &no)])), []);
    }

    #[test]
    fn missing_headers_reports_files_without_one() {
        let found =
            missing_headers(&source_tree(&[("a.rs", "//! Purpose.\n"), ("b.rs", "use std::fs;\n"), ("c.js", "x")]));
        assert_eq!(finding_texts(&found), ["b.rs:1: begin with a `//!` header: purpose, invariant, what is absent"]);
    }

    #[test]
    fn terminal_output_reports_prints_outside_cli() {
        let line = "    println!(\"x\");\n    writeln!(out, \"x\")?;\n    // println!(\n";
        let found = terminal_output(&source_tree(&[
            ("runner/src/cli/plan.rs", line),
            ("runner/build.rs", line),
            ("runner/src/deploy.rs", line),
            ("runner/crates/plan/src/lib.rs", line),
            ("xtask/src/main.rs", line),
        ]));
        let expected = [
            "runner/src/deploy.rs:1: `println!(…)` outside of cli/, the home of the terminal",
            "runner/crates/plan/src/lib.rs:1: `println!(…)` outside of cli/, the home of the terminal",
        ];
        assert_eq!(finding_texts(&found), expected);
    }
}
