//! The commands of `gh` that the pages and the runner name, typed into the real one. GitHub's API is a stub.
//!
//! Deliberately absent: `gh attestation verify`, which Debian's `gh` does not have. docs/github.md says so.

use std::{fs, path::Path, process::Command};

use super::act::{REPOSITORY, hermetic_command};
use crate::support::{HttpReply, HttpTestServer};

/// The run whose jobs failed.
const RUN: &str = "4711";

/// What GitHub says of the run, of its workflow, and of the order to run the jobs again.
fn answer(url: &str) -> HttpReply {
    let path = url.split_once("/repos/acme/shop/actions/").map_or("", |(_, path)| path);
    match path.split('?').next().unwrap_or_default() {
        "runs/4711" => HttpReply::ok(
            r#"{ "id": 4711, "workflow_id": 3, "status": "completed", "conclusion": "failure", "head_branch": "main" }"#,
        ),
        "workflows/3" => HttpReply::ok(r#"{ "id": 3, "name": "deploy" }"#),
        "runs/4711/rerun-failed-jobs" => HttpReply { status: 201, headers: Vec::new(), body: b"{}".to_vec() },
        _ => HttpReply::status(404),
    }
}

/// Runs a command in a shell, with the stub as GitHub: `gh` speaks HTTP with the host of this name, and asks a proxy for it.
fn run_gh(command: &str, service: &HttpTestServer, home: &Path) -> (Option<i32>, String) {
    let mut shell = hermetic_command("sh", home);
    shell.args(["-c", &format!("{command} 2>&1")]).env("HTTP_PROXY", service.origin()).env("GH_TOKEN", "a-token");
    shell.env("GH_HOST", "github.localhost").env("GH_REPO", "github.localhost/acme/shop").current_dir(home);
    let output = shell.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn command_of_the_page_runs_the_failed_jobs_again() {
    assert!(Command::new("gh").arg("--version").output().is_ok(), "gh is missing: run `cargo xtask setup`");
    let page = fs::read_to_string(Path::new(REPOSITORY).join("docs/github.md")).unwrap();
    let shown = page.split('`').find(|code| code.starts_with("gh run rerun ")).expect("the page names the command");
    let home = tempfile::tempdir().unwrap();
    let service = HttpTestServer::new(|url, _| answer(url));
    let (code, said) = run_gh(&shown.replace("ID", RUN), &service, home.path());
    assert_eq!(code, Some(0), "{shown}: {said}");
    let requested = service.requested_paths();
    let last = requested.last().map(String::as_str).unwrap_or_default();
    assert!(last.ends_with("/repos/acme/shop/actions/runs/4711/rerun-failed-jobs"), "{requested:?}");
}
