//! `build: true` with the real cargo: the step of the README builds the runner of this checkout, and deploys with it.
//!
//! The launcher is started as GitHub starts it, and cargo writes where it wrote the runner of these tests, so that it has nothing to
//! compile. Deliberately absent: a machine on which nothing was built.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use super::act::REPOSITORY;
use crate::{
    artifact_service::FakeArtifactService,
    support::{doc_blocks::fenced_block, sha256},
};

const PLAN: &str = "version: 1
app: shop
environments: { test: {}, prod: {} }
steps:
  migrate:
    with: { dir: migrations, database: main }
    grants: { dirs: { migrations: \"./migrations:ro\" }, databases: { main: \"sqlite:./shop.db\" } }
";

#[test]
fn step_of_the_readme_builds_the_runner_and_deploys_with_it() {
    let built = fs::canonicalize(env!("CARGO_BIN_EXE_runner")).unwrap();
    let job = BuildJob::new();
    let main = job.run("main.js", &[]);
    let (stdout, stderr) = (String::from_utf8_lossy(&main.stdout), String::from_utf8_lossy(&main.stderr));
    assert_eq!(main.status.code(), Some(0), "{stdout}{stderr}");
    // What cargo says last.
    assert!(stderr.contains("Finished `release` profile"), "cargo did not run:\n{stdout}{stderr}");
    let deployed = |text: &str| text.lines().any(|line| line.contains("deployed r1 to prod in "));
    assert!(deployed(&stdout) || deployed(&stderr), "{stdout}{stderr}");
    let state = job.saved_state();
    assert_eq!(fs::canonicalize(&state["binary"]).unwrap(), built, "{state:?}");
    assert_eq!(state["digest"], sha256(&fs::read(&built).unwrap()), "{state:?}");

    let post = job.run("post.js", &[("STATE_binary", &state["binary"]), ("STATE_digest", &state["digest"])]);
    assert_eq!(post.status.code(), Some(0), "{post:?}");
}

/// The inputs of the step that the README shows, in which a secret is its name.
fn inputs_of_the_readme() -> BTreeMap<String, String> {
    let step = fenced_block("README.md", "- uses: pawl-deploy/pawl@");
    let inputs = step.split_once("  with:\n").unwrap().1;
    let input = |line: &str| {
        let (name, value) = line.trim().split_once(": ").unwrap();
        let value = value.split(" #").next().unwrap().trim();
        (name.to_owned(), value.trim_start_matches("${{ secrets.").trim_end_matches(" }}").to_owned())
    };
    inputs.lines().map(input).collect()
}

/// A job on a machine with Rust, and GitHub's artifact service.
struct BuildJob {
    workspace: TempDir,
    service: FakeArtifactService,
    inputs: BTreeMap<String, String>,
}

impl BuildJob {
    fn new() -> Self {
        let inputs = inputs_of_the_readme();
        assert_eq!(inputs.get("build").map(String::as_str), Some("true"), "{inputs:?}");
        assert!(!inputs.contains_key("runner"), "{inputs:?}");
        let workspace = tempfile::tempdir().unwrap();
        fs::create_dir(workspace.path().join("migrations")).unwrap();
        fs::write(workspace.path().join("deploy.yml"), PLAN).unwrap();
        fs::write(workspace.path().join("migrations/0001_orders.sql"), "CREATE TABLE orders (id INTEGER);\n").unwrap();
        Self { workspace, service: FakeArtifactService::start(), inputs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workspace.path().join(name)
    }

    /// Runs a script of the action.
    fn run(&self, script: &str, variables: &[(&str, &str)]) -> Output {
        let mut node = Command::new("node");
        node.arg(Path::new(REPOSITORY).join("action").join(script)).current_dir(self.workspace.path());
        remove_variables_of_this_test(&mut node);
        let target = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
        node.env("CARGO_TARGET_DIR", target).envs(self.service.variables());
        node.env("GITHUB_ACTIONS", "true").env("GITHUB_JOB", "deploy").env("GITHUB_RUN_ATTEMPT", "1");
        node.env("GITHUB_WORKSPACE", self.workspace.path()).env("GITHUB_STATE", self.path("state"));
        for (name, value) in &self.inputs {
            node.env(format!("INPUT_{}", name.to_uppercase()), value);
        }
        // The plan's folder is no repository, whose `git describe` would be the label.
        node.env("INPUT_RELEASE", "r1").envs(variables.iter().copied()).stdin(Stdio::null());
        node.output().unwrap_or_else(|error| panic!("node: {error}; run `cargo xtask setup`"))
    }

    /// What main leaves for post: for each name a line `name<<end`, the value, and `end`.
    fn saved_state(&self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.path("state")).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let value = |entry: &[&str]| (entry[0].split_once("<<").unwrap().0.to_owned(), entry[1].to_owned());
        lines.chunks(3).map(value).collect()
    }
}

/// What cargo set for this test: build scripts that watch it would run again.
fn remove_variables_of_this_test(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let is_of_cargo = ["CARGO", "OUT_DIR"].contains(&name.as_str())
            || ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|start| name.starts_with(start));
        let is_of_a_job =
            ["GITHUB_", "ACTIONS_", "RUNNER_", "INPUT_", "PAWL_"].iter().any(|start| name.starts_with(start));
        if is_of_cargo || is_of_a_job {
            command.env_remove(name);
        }
    }
}
