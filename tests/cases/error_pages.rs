//! Every page in docs/errors, produced: the smallest situation that ends in the error, on the real runner. The example of the
//! page is what was printed; `UPDATE_EXPECT=1` writes it there.
//!
//! The pages of databases are produced in `tests/databases/error_pages.rs`, those of GitHub in `tests/github/error_pages.rs`.

mod forges;
mod hosts;
mod journals;
mod locks;
mod migrations;
mod modules;
mod plans;
mod state;
mod steps;
mod usage;

use std::fs;

use crate::support::{
    RunnerOutput, TestEnvironment,
    doc_blocks::{check_error_page, command_line, error_page_codes, exit_code, page_path},
};

/// Where the scenarios are.
const SCENARIO_FOLDERS: [&str; 3] = ["tests/cases/error_pages", "tests/databases", "tests/github"];
/// Every scenario ends in a call of one of these functions, with its code.
const CHECK_CALLS: [&str; 5] = ["check_page", "check_page_of", "check_error", "check_error_page", "check_forge_page"];

/// The page shows a command and the error that it ends in.
#[track_caller]
fn check_page(code: &str, environment: &TestEnvironment, arguments: &[&str]) {
    let output = environment.run(arguments);
    output.assert_exit(exit_code(code));
    check_error_page(code, Some(&command_line(arguments)), &output.stderr, &environment.shown_paths());
}

/// The page shows an error without its command.
#[track_caller]
fn check_error(code: &str, environment: &TestEnvironment, output: &RunnerOutput) {
    output.assert_exit(exit_code(code));
    check_error_page(code, None, &output.stderr, &environment.shown_paths());
}

#[test]
fn each_page_is_produced_by_a_test() {
    let mut sources = String::new();
    for folder in SCENARIO_FOLDERS {
        for file in fs::read_dir(page_path(folder)).unwrap() {
            let path = file.unwrap().path();
            let is_scenarios = folder.ends_with("error_pages") || path.ends_with("error_pages.rs");
            if is_scenarios {
                sources += &fs::read_to_string(path).unwrap();
            }
        }
    }
    let is_checked = |code: &str| CHECK_CALLS.iter().any(|call| sources.contains(&format!("{call}(\"{code}\"")));
    let is_produced = |code: &String| plans::has_plan(code) || is_checked(code);
    let missing: Vec<_> = error_page_codes().into_iter().filter(|code| !is_produced(code)).collect();
    assert!(missing.is_empty(), "no test produces the pages {missing:?}: add a scenario beside the others");
}
