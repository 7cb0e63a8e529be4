//! Commands in hints, pasted: of a plan with several environments, outside of CI, each does what the hint says. None is refused
//! because it lacks an environment (P0113) or `--local` (P0208).

use std::{fs, process::Command};

use super::environments::three_environments;
use crate::support::{RunnerOutput, TestEnvironment};

/// The command in a text that begins so: between two backticks, on one line.
fn command_in(text: &str, begin: &str) -> String {
    let codes = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let mut commands = codes.filter(|code| code.starts_with(begin));
    commands.next().unwrap_or_else(|| panic!("no whole command `{begin} …` in\n{text}")).to_owned()
}

/// Runs the command in a text that begins so, by a shell, as a user pastes it.
fn paste(environment: &TestEnvironment, text: &str, begin: &str) -> RunnerOutput {
    let command = command_in(text, begin);
    let script = command.replace("LABEL", "r1");
    let words = Command::new("sh").args(["-c", &format!("printf '%s\\n' {script}")]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    let arguments: Vec<&str> = words.lines().skip(1).collect();
    let pasted = environment.run(&arguments);
    for code in ["P0113", "P0208"] {
        assert!(!pasted.stderr.contains(code), "`{command}`\n{}", pasted.stderr);
    }
    pasted
}

fn deploy(environment: &TestEnvironment, name: &str, label: &str) -> RunnerOutput {
    environment.run(&["--local", "--env", name, "--release", label])
}

#[test]
fn commands_that_show_something() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nenvironments: { test: , prod: }\nsteps:\n  warm: { program: [\"false\"], trust: host }\n",
    );
    let failed = deploy(&environment, "test", "r1");
    failed.assert_exit(1).assert_stderr_contains("error[P0301]");
    paste(&environment, &failed.stderr, "runner logs").assert_exit(0);
    let unknown = environment.run(&["why", "--env", "test", "nothing"]);
    unknown.assert_exit(2);
    paste(&environment, &unknown.stderr, "runner history").assert_exit(0);
    fs::remove_file(environment.path("deploy.lock")).unwrap();
    let listed = environment.run(&["modules", "--env", "test"]);
    paste(&environment, &listed.stdout, "runner modules --accept").assert_exit(0);
    assert!(environment.exists("deploy.lock"));
}

#[test]
fn commands_that_change_an_environment() {
    let environment = three_environments();
    let unconfirmed = environment.run(&["--env", "test", "--release", "r1"]);
    unconfirmed.assert_exit(2).assert_stderr_contains("error[P0208]");
    let nothing = environment.run(&["rollback", "--local", "--env", "test"]);
    nothing.assert_exit(2).assert_stderr_contains("error[P0217]");
    paste(&environment, &nothing.stderr, "runner deploy").assert_exit(0);
    paste(&environment, &unconfirmed.stderr, "runner --env test").assert_exit(0);

    let early = deploy(&environment, "pre", "r2");
    early.assert_exit(2).assert_stderr_contains("error[P0216]");
    paste(&environment, &early.stderr, "runner promote").assert_exit(0);
    deploy(&environment, "test", "r2").assert_exit(0);
    let backwards = environment.run(&["promote", "--local", "--from", "pre", "--to", "test"]);
    backwards.assert_exit(2).assert_stderr_contains("error[P0216]");
    paste(&environment, &backwards.stderr, "runner rollback").assert_exit(0);

    let known = environment.run(&["import", "--local", "--env", "test", "--release", "r1"]);
    known.assert_exit(2).assert_stderr_contains("error[P0228]");
    paste(&environment, &known.stderr, "runner deploy").assert_exit(0);
    fs::remove_dir_all(environment.path(".pawl/shop/test")).unwrap();
    let status = environment.run(&["status"]);
    paste(&environment, &status.stdout, "runner import").assert_exit(0);
}

#[test]
fn unfinished_rollback_is_continued_by_the_command_of_status() {
    let environment = three_environments();
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: broken, exists: false }\n");
    for label in ["r1", "r2"] {
        deploy(&environment, "test", label).assert_exit(0);
    }
    environment.write("deploy/test/broken", "");
    environment.run(&["rollback", "--local", "--env", "test"]).assert_exit(1);
    fs::remove_file(environment.path("deploy/test/broken")).unwrap();
    let status = environment.run(&["status"]);
    paste(&environment, &status.stdout, "runner rollback").assert_exit(0);
    assert_eq!(super::environments::live_version(&environment, "test"), "r1");
}

#[test]
fn commands_that_repair_something() {
    let environment = three_environments();
    deploy(&environment, "test", "r1").assert_exit(0);
    environment.edit("migrations/0002_first_products.sql", "1900", "2000");
    let changed = deploy(&environment, "test", "r1");
    changed.assert_exit(1).assert_stderr_contains("error[P0311]");
    paste(&environment, &changed.stderr, "runner migrate accept").assert_exit(0);
    deploy(&environment, "test", "r1").assert_exit(0);

    damage_journal_of_test(&environment);
    let refused = deploy(&environment, "test", "r1");
    refused.assert_exit(65).assert_stderr_contains("error[P0602]");
    paste(&environment, &refused.stderr, "runner state repair").assert_exit(0);
}

/// Flips a bit in the first journal of `test`, and removes the snapshot that stands for it.
fn damage_journal_of_test(environment: &TestEnvironment) {
    let damaged = ".pawl/shop/test/attempt-000001.journal";
    let mut bytes = fs::read(environment.path(damaged)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    environment.write(damaged, bytes);
    fs::remove_file(environment.path(".pawl/shop/test/snapshot.json")).unwrap();
}

/// A command also reads the record of the environment before the one that it changes, or of all.
#[test]
fn command_that_repairs_the_record_of_another_environment() {
    let environment = three_environments();
    deploy(&environment, "test", "r1").assert_exit(0);
    damage_journal_of_test(&environment);
    let promote = environment.run(&["promote", "--local", "--from", "test", "--to", "pre"]);
    for refused in [&promote, &deploy(&environment, "pre", "r1"), &environment.run(&["status"])] {
        refused.assert_exit(65).assert_stderr_contains("error[P0602]");
        assert_eq!(command_in(&refused.stderr, "runner state repair"), "runner state repair --local --env test");
    }
    paste(&environment, &promote.stderr, "runner state repair").assert_exit(0);
    environment.run(&["state", "check", "--env", "test"]).assert_exit(0);
    environment.run(&["status"]).assert_exit(0);
}

#[test]
fn command_for_a_step_whose_outcome_is_unknown() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nenvironments: { test: , prod: }\nsteps:\n  slow: { program: [/bin/sleep, \"60\"], trust: host, timeout: 1s }\n",
    );
    let lost = deploy(&environment, "test", "r1");
    lost.assert_exit(1)
        .assert_stderr_contains("error[P0302]")
        .assert_stderr_contains("nothing can tell what it did, so the next attempt would stop there");
    paste(&environment, &lost.stderr, "runner resolve").assert_exit(0);
    deploy(&environment, "test", "r1").assert_exit(0);
}
