//! Errors of the lock.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::{check_error, check_page};
use crate::support::{TestEnvironment, doc_blocks::check_error_page, init_bare_repository, wait_until};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];

/// A step that says that it began and waits until it may go on, and one after it. The lock is not renewed meanwhile, which would
/// notice a loss earlier.
const PLAN: &str = r#"version: 1
app: shop
environments: { prod: }
lock: { ttl: 60s }
steps:
  wait:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [wait.sh], dir: work, repeatable: true }
    grants: { dirs: { work: ".:ro" }, programs: [[/bin/sh, wait.sh]] }
  act:
    uses: run
    trust: host
    with: { program: /bin/true, repeatable: true }
    grants: { programs: [[/bin/true]] }
"#;
const WAIT_SCRIPT: &str = "echo $$ > began.tmp && mv began.tmp began\nuntil test -e go; do sleep 0.02; done\n";

fn waiting_environment(state: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_plan(&PLAN.replace("lock:", &format!("state: {state}\nlock:")));
    environment.write("wait.sh", WAIT_SCRIPT);
    environment
}

/// A deployment that holds the lock until `go` is there.
fn start_holder(environment: &TestEnvironment) -> std::process::Child {
    let holder = environment.start_with_stderr(DEPLOY);
    wait_until("the step began", || environment.exists("began"));
    holder
}

/// A git repository for state, and what the pages call it.
struct StateRepository(TempDir);

impl StateRepository {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        init_bare_repository(&folder.path().join("state.git"));
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("state.git")
    }

    fn state(&self) -> String {
        format!("git:{}", self.path().display())
    }

    fn shown(&self, environment: &TestEnvironment) -> Vec<(String, &'static str)> {
        let mut shown = vec![(self.path().display().to_string(), "origin")];
        shown.extend(environment.shown_paths());
        shown
    }
}

#[test]
fn p0501_lock_that_another_deployment_holds() {
    let environment = waiting_environment("dir:.pawl");
    let holder = start_holder(&environment);
    let refused = environment.run(DEPLOY);
    environment.write("go", "");
    environment.output_of(holder).assert_exit(0);
    check_error("P0501", &environment, &refused);
}

#[test]
fn p0232_log_on_another_machine() {
    let repository = StateRepository::new();
    let mut environment = waiting_environment(&repository.state());
    environment.set_variable("USER", "ann");
    let holder = start_holder(&environment);
    let mut other = environment.another_machine();
    other.set_variable("USER", "bob");
    let arguments = ["logs", "--follow"];
    let refused = other.run(&arguments);
    environment.write("go", "");
    environment.output_of(holder).assert_exit(0);
    refused.assert_exit(2);
    let mut shown = repository.shown(&other);
    shown.push((format!("ann@{}", rustix::system::uname().nodename().to_string_lossy()), "ann@laptop"));
    check_error_page("P0232", Some("runner logs --follow"), &refused.stderr, &shown);
}

#[test]
fn p0502_lock_file_that_cannot_be_used() {
    let environment = waiting_environment("dir:.pawl");
    fs::create_dir_all(environment.path(".pawl/shop/prod/lock/record")).unwrap();
    check_page("P0502", &environment, DEPLOY);
}

/// An operator takes the lock from a running deployment, and another one gets it.
#[test]
fn p0503_lost_lock() {
    let repository = StateRepository::new();
    let first = waiting_environment(&repository.state());
    let holder = start_holder(&first);
    let second = first.another_machine();
    fs::remove_file(second.path("began")).unwrap();
    second.run(&["lock", "release", "--local", "--force", "--message", "it hangs"]).assert_exit(0);
    let next = start_holder(&second);
    first.write("go", "");
    let lost = first.output_of(holder);
    second.write("go", "");
    second.output_of(next).assert_exit(0);
    lost.assert_exit(5);
    let (before, after) = lost.stderr.split_once(" released it at ").expect("the message says who released the lock");
    let (_, by) = before.rsplit_once("caused by: ").unwrap();
    let (at, _) = after.split_once(": it hangs").expect("the message says when, and why");
    let mut shown = repository.shown(&first);
    shown.extend([(by.to_owned(), "ann@host"), (at.to_owned(), "2026-11-29T12:38:18.635Z")]);
    check_error_page("P0503", None, &lost.stderr, &shown);
}

#[test]
fn p0504_lock_of_a_running_deployment() {
    let environment = waiting_environment("dir:.pawl");
    let holder = start_holder(&environment);
    let refused = environment.run(&["lock", "release", "--local"]);
    environment.write("go", "");
    environment.output_of(holder).assert_exit(0);
    refused.assert_exit(5);
    check_error_page("P0504", Some("runner lock release --local"), &refused.stderr, &environment.shown_paths());
}

#[test]
fn p0505_invalid_lock_token() {
    let mut environment = waiting_environment("dir:.pawl");
    environment.write("wait.sh", "echo \"$PAWL_LOCK\" > token; echo \"$PAWL_STATE\" > state\n");
    environment.run(DEPLOY).assert_exit(0);
    for (variable, file) in [("PAWL_LOCK", "token"), ("PAWL_STATE", "state")] {
        let value = environment.read(file).trim().to_owned();
        environment.set_variable(variable, &value);
    }
    check_page("P0505", &environment, DEPLOY);
}

/// The repository goes away while the last step runs.
#[test]
fn p0506_last_records_that_were_not_uploaded() {
    let repository = StateRepository::new();
    let environment = waiting_environment(&repository.state());
    let plan = environment.read("deploy.yml");
    environment.write("deploy.yml", plan.split_once("  act:\n").unwrap().0);
    let holder = start_holder(&environment);
    fs::rename(repository.path(), repository.path().with_extension("gone")).unwrap();
    environment.write("go", "");
    let output = environment.output_of(holder);
    output.assert_exit(3);
    check_error_page("P0506", None, &output.stderr, &repository.shown(&environment));
}
