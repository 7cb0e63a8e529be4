//! The commands of the runner that the documentation names in its sentences: each is one that the runner knows, with these options.
//! It is asked for the help of each, which it gives only if it knows all that comes before. The commands in blocks are run, see
//! documented_blocks.rs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    TestEnvironment,
    doc_blocks::{fenced_block, page_path},
};

/// At least so many different ones are found, or the pages were not read.
const MIN_COMMANDS: usize = 60;

/// The Markdown files of a folder, at any depth.
fn markdown_files(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = |path: PathBuf| if path.is_dir() { markdown_files(&path) } else { vec![path] };
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    paths.flat_map(files).filter(is_page).collect()
}

/// What stands between backticks and begins with `start`, each with the pages that name it.
fn commands_on_pages(start: &str) -> BTreeMap<String, BTreeSet<PathBuf>> {
    let mut found: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    for page in [page_path("README.md")].into_iter().chain(markdown_files(&page_path("docs"))) {
        let text = fs::read_to_string(&page).unwrap();
        for code in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            if code.starts_with(start) {
                found.entry(code.to_owned()).or_default().insert(page.clone());
            }
        }
    }
    found
}

/// The arguments of a command as a page writes it: those that may be left out too, the first of alternatives, and something for each
/// placeholder.
fn arguments(command: &str) -> Vec<String> {
    // Up to what is the shell's.
    let typed = [" >", " | "].iter().fold(command, |text, end| text.split(end).next().unwrap());
    let typed = typed.replace(['[', ']'], "");
    let mut arguments = Vec::new();
    for (index, part) in typed.split('"').enumerate() {
        // Every second part was quoted.
        match index % 2 {
            1 => arguments.push(part.to_owned()),
            _ => arguments.extend(part.split_whitespace().map(|word| word.split('|').next().unwrap().to_owned())),
        }
    }
    let filled_in = |word: String| match word.as_str() {
        "N" => "1".to_owned(),
        "NAME" | "…" => "name".to_owned(),
        _ => word,
    };
    arguments.into_iter().skip(1).map(filled_in).collect()
}

#[test]
fn runner_knows_every_command_that_a_page_names() {
    let environment = TestEnvironment::new();
    let commands = commands_on_pages("runner ");
    assert!(commands.len() >= MIN_COMMANDS, "{commands:?}");
    for (command, pages) in commands {
        let mut words = arguments(&command);
        // The option is named, without its value.
        if words.last().is_some_and(|word| ["--to", "--dir"].contains(&word.as_str())) {
            words.push("VALUE".to_owned());
        }
        words.push("--help".to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = environment.run(&words);
        assert_eq!(output.code, Some(0), "`{command}` of {pages:?}: {}", output.stderr);
    }
}

/// A command that is misspelled has no help.
#[test]
fn runner_refuses_help_after_what_it_does_not_know() {
    let environment = TestEnvironment::new();
    for words in [&["migrate", "acept", "2"][..], &["rollback", "--too", "r1"], &["new-step", "x", "--lang", "cobol"]] {
        environment.run(&[words, &["--help"]].concat()).assert_exit(2);
    }
}

/// tests/github/gh.rs runs the one about a run, and says why not the other.
#[test]
fn commands_of_gh_are_those_with_a_test() {
    let commands = commands_on_pages("gh ");
    for (command, pages) in commands {
        let is_known = ["gh run rerun", "gh attestation verify"].iter().any(|known| command.starts_with(known));
        assert!(is_known, "no test runs `{command}` of {pages:?}");
    }
}

/// The only commands that a page of an error has in a block.
#[test]
fn p0209_shows_a_step_that_runs() {
    let environment = TestEnvironment::new();
    let shown = fenced_block("docs/errors/P0209.md", "runner step --local verify --dir");
    let (plain, quoted) = shown.trim_end().trim_end_matches('\'').split_once('\'').unwrap();
    let words: Vec<&str> = plain.split_whitespace().skip(1).chain([quoted]).collect();
    environment.run(&words).assert_exit(0);
}
