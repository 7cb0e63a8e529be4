//! Errors of the state that several machines share.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::{check_error, check_page};
use crate::support::{
    HttpReply, HttpTestServer, TestEnvironment, aws_variables, delete_refs,
    doc_blocks::{check_error_page, command_line, exit_code},
    init_bare_repository,
};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];

/// The example with its state elsewhere.
fn environment_with_state(state: &str) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "app: shop\n", &format!("app: shop\nstate: {state}\n"));
    environment.pack("r1");
    environment
}

fn state_repository() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    init_bare_repository(folder.path());
    folder
}

/// Git's output in a bare repository.
fn git(repository: &Path, input: &str, arguments: &[&str]) -> String {
    let input_file = repository.join("input");
    fs::write(&input_file, input).unwrap();
    let mut command = Command::new("git");
    let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
    command.arg("-C").arg(repository).args(author).args(arguments).stdin(fs::File::open(&input_file).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn p0606_state_folder_that_cannot_be_read() {
    let environment = environment_with_state("dir:.pawl");
    environment.write(".pawl/shop/test", "");
    check_page("P0606", &environment, &["history"]);
}

#[test]
fn p0607_remote_state_that_cannot_be_reached() {
    check_page("P0607", &environment_with_state("git:./no-such.git"), DEPLOY);
}

#[test]
fn p0608_object_store_without_conditional_writes() {
    // It says yes to every write.
    let server = HttpTestServer::new(|_, _| HttpReply {
        headers: vec![("ETag".to_owned(), "\"1\"".to_owned())],
        ..HttpReply::ok("")
    });
    let mut environment = environment_with_state("s3://acme-state/shop");
    aws_variables(&server.address()).iter().for_each(|(name, value)| environment.set_variable(name, value));
    check_page("P0608", &environment, DEPLOY);
}

#[test]
fn p0609_invalid_record() {
    let repository = state_repository();
    let path = repository.path().display().to_string();
    let environment = environment_with_state(&format!("git:{path}"));
    environment.run(DEPLOY).assert_exit(0);
    let reference = "refs/pawl-state/shop/test/data";
    let record = git(repository.path(), "", &["show", &format!("{reference}:state.json")]);
    let newer = record.replacen("\"version\":2", "\"version\":3", 1);
    assert_ne!(newer, record);
    let blob = git(repository.path(), &newer, &["hash-object", "-w", "--stdin"]);
    let files = git(repository.path(), "", &["ls-tree", reference]);
    let files: String = files
        .lines()
        .map(|line| {
            if line.ends_with("state.json") { format!("100644 blob {blob}\tstate.json\n") } else { format!("{line}\n") }
        })
        .collect();
    let tree = git(repository.path(), &files, &["mktree"]);
    let commit = git(repository.path(), "", &["commit-tree", "-m", "state", &tree]);
    git(repository.path(), "", &["update-ref", reference, &commit]);
    let refused = environment.run(DEPLOY);
    refused.assert_exit(exit_code("P0609"));
    let shown = [vec![(path, "origin")], environment.shown_paths()].concat();
    check_error_page("P0609", Some(&command_line(DEPLOY)), &refused.stderr, &shown);
}

#[test]
fn p0610_diverged_journals() {
    let repository = state_repository();
    let path = repository.path().display().to_string();
    let state = format!("git:{path}");
    let first = environment_with_state(&state);
    first.run(DEPLOY).assert_exit(0);
    // The remote is emptied, and used by a machine that knows nothing of the first.
    delete_refs(repository.path());
    environment_with_state(&state).run(DEPLOY).assert_exit(0);
    let refused = first.run(DEPLOY);
    refused.assert_exit(exit_code("P0610"));
    let shown = [vec![(path, "origin")], first.shown_paths()].concat();
    check_error_page("P0610", Some(&command_line(DEPLOY)), &refused.stderr, &shown);
}

/// No file may be opened any more. A limit is the only cause of an internal error that is not a bug.
#[test]
fn p0701_internal_error() {
    let environment = environment_with_state("dir:.pawl");
    let output = environment.run_in_mount_namespace("ulimit -n 4 && exec \"$@\"", DEPLOY);
    check_error("P0701", &environment, &output);
}
