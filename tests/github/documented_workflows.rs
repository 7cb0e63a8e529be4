//! Every workflow of the docs, run by `act`: copied from the page, with this checkout in place of the released action.
//!
//! Deliberately absent: environments, permissions and concurrency, which `act` ignores.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::act::{REPOSITORY, copy_dir, hermetic_command};
use crate::support::{free_port, init_bare_repository};

/// A workflow of a page.
struct DocumentedWorkflow {
    page: &'static str,
    name: String,
    text: String,
}

/// All workflows of the pages, in their order.
fn documented_workflows() -> Vec<DocumentedWorkflow> {
    let mut all = Vec::new();
    for page in ["docs/github.md", "docs/elsewhere.md"] {
        let text = fs::read_to_string(Path::new(REPOSITORY).join(page)).unwrap();
        for block in text.split("```yaml\n").skip(1).filter_map(|block| block.split_once("```")) {
            if let Some(name) = block.0.strip_prefix("name: ") {
                let name = name.lines().next().unwrap().to_owned();
                all.push(DocumentedWorkflow { page, name, text: block.0.to_owned() });
            }
        }
    }
    all
}

/// The workflow with this name; `which` counts those of the same name.
fn workflow(name: &str, which: usize) -> String {
    let found = documented_workflows().into_iter().filter(|workflow| workflow.name == name).nth(which);
    found.unwrap_or_else(|| panic!("no page has workflow {name}")).text
}

/// A repository with the action, a plan and a remote; and what a machine keeps.
pub(super) struct WorkflowFixture {
    root: TempDir,
}

pub(super) struct ActRun {
    exit: Option<i32>,
    log: String,
}

impl WorkflowFixture {
    pub(super) fn new(state: &str, steps: &str) -> Self {
        let fixture = Self { root: tempfile::tempdir().unwrap() };
        copy_dir(&Path::new(REPOSITORY).join("action"), &fixture.path("repository/action"));
        fs::copy(Path::new(REPOSITORY).join("action.yml"), fixture.path("repository/action.yml")).unwrap();
        let environments = "environments:\n  test: { vars: { name: test } }\n  prod: { after: test, vars: { name: prod } }\n  \
            eu: { vars: { name: eu } }\n  us: { vars: { name: us } }";
        let environments = if steps.contains("index") { "environments: { prod: {} }" } else { environments };
        fixture.write("deploy.yml", &format!("version: 1\napp: shop\n{state}{environments}\nsteps:\n{steps}"));
        fs::create_dir(fixture.path("machine")).unwrap();
        fs::create_dir(fixture.path("home")).unwrap();
        fixture.git(&["init", "--quiet", "--initial-branch=main"]);
        init_bare_repository(&fixture.path("remote"));
        let remote = fixture.path("remote");
        fixture.git(&["remote", "add", "origin", remote.to_str().unwrap()]);
        fixture
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.path("repository").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace("MACHINE", self.path("machine").to_str().unwrap())).unwrap();
    }

    fn git(&self, arguments: &[&str]) {
        let mut git = hermetic_command("git", self.root.path());
        git.args(["-c", "user.name=ann", "-c", "user.email=ann@example.com"]).args(arguments);
        let output = git.current_dir(self.path("repository")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs a workflow of a page, as it is there but for the action and the machine.
    pub(super) fn run(&self, text: &str, event: &str, inputs: &[(&str, &str)]) -> ActRun {
        let mut workflow = String::new();
        for line in text.lines() {
            let indent = &line[..line.len() - line.trim_start().len()];
            if line.trim_start().starts_with("- uses: pawl-deploy/pawl@") {
                workflow.push_str(&format!("{indent}- uses: ./\n"));
            } else if line.trim_start().starts_with("runner: ") {
                // Where a machine of its own has it.
            } else if line.trim_start().starts_with("runs-on:") {
                workflow.push_str(&format!("{indent}runs-on: ubuntu-latest\n"));
            } else {
                workflow.push_str(&format!("{line}\n"));
                if line.trim_start() == "with:" && workflow.trim_end().ends_with("- uses: ./\n        with:") {
                    workflow.push_str(&format!("{indent}  runner: {}\n", env!("CARGO_BIN_EXE_runner")));
                }
            }
        }
        assert!(workflow.contains("runner: "), "{workflow}");
        self.write(".github/workflows/documented.yml", &workflow);
        self.run_act("documented.yml", event, inputs, 1)
    }

    /// Runs an attempt of a workflow; the first one is a run of its own, without the artifacts of those before.
    fn run_act(&self, file: &str, event: &str, inputs: &[(&str, &str)], attempt: u32) -> ActRun {
        if attempt == 1 {
            let _ = fs::remove_dir_all(self.path("artifacts"));
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "as it is now"]);
        let act = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
        let mut act = hermetic_command(act.join("tools/act/bin/act"), &self.path("home"));
        act.args([event, "-W", &format!(".github/workflows/{file}"), "-P", "ubuntu-latest=-self-hosted"])
            .args(["--no-cache-server", "--artifact-server-addr", "127.0.0.1", "--artifact-server-port"])
            .args([&free_port().to_string(), "--artifact-server-path"])
            .arg(self.path("artifacts"))
            .args(["--secret", "PAWL_KEY=a-key", "--env", &format!("GITHUB_RUN_ATTEMPT={attempt}")]);
        for (name, value) in inputs {
            act.args(["--input", &format!("{name}={value}")]);
        }
        let output = act.current_dir(self.path("repository")).output();
        let output = output.expect("act can't be started; `cargo xtask setup` installs it");
        let log = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        ActRun { exit: output.status.code(), log }
    }
}

impl ActRun {
    #[track_caller]
    pub(super) fn assert_deployed(&self, environments: &[&str]) -> &Self {
        assert_eq!(self.exit, Some(0), "{}", self.log);
        for environment in environments {
            let is_live = |line: &str| line.contains("deployed ") && line.contains(&format!(" to {environment} in "));
            assert!(self.log.lines().any(is_live), "not deployed to {environment}:\n{}", self.log);
        }
        self
    }

    #[track_caller]
    fn assert_failed_with(&self, text: &str) -> &Self {
        assert_eq!(self.exit, Some(1), "{}", self.log);
        assert!(self.log.contains(text), "{text:?} is not in\n{}", self.log);
        self
    }
}

const GIT: &str = "state: git:origin\n";
const MIGRATE: &str = "  migrate:
    uses: migrate
    with: { dir: migrations, database: main }
    grants:
      dirs: { migrations: \"./migrations:ro\" }
      databases: { main: \"sqlite:MACHINE/shop.db\" }
";
const BROKEN: &str = "CREATE TABLE order (id INTEGER PRIMARY KEY);\n";
const FIXED: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY);\n";

/// A matrix that calls the reusable workflow.
const CALLER: &str = "name: all
on: push
permissions: { contents: read }
jobs:
  all:
    strategy: { max-parallel: 1, matrix: { environment: [eu, us] } }
    uses: ./.github/workflows/documented.yml
    with: { environment: \"${{ matrix.environment }}\" }
    secrets: { PAWL_KEY: \"${{ secrets.PAWL_KEY }}\" }
";

#[test]
fn all_workflows_of_the_docs_are_run_here() {
    let named: BTreeSet<_> =
        documented_workflows().into_iter().map(|workflow| (workflow.page, workflow.name)).collect();
    let run = [
        ("docs/elsewhere.md", "deploy"),
        ("docs/github.md", "deploy"),
        ("docs/github.md", "deploy everywhere"),
        ("docs/github.md", "deploy one"),
        ("docs/github.md", "operate"),
        ("docs/github.md", "promote"),
    ];
    assert_eq!(named, run.map(|(page, name)| (page, name.to_owned())).into());
}

/// The step of README, in a job that checks out as those of docs/github.md do.
#[test]
fn the_step_of_the_readme_deploys() {
    let readme = fs::read_to_string(Path::new(REPOSITORY).join("README.md")).unwrap();
    let start = "- uses: pawl-deploy/pawl@";
    let step = &readme[readme.find(start).expect("README shows the step")..];
    let step = step.split_once("```").unwrap().0;
    let checkout = workflow("deploy", 0);
    let checkout = checkout.lines().find(|line| line.contains("- uses: actions/checkout@")).unwrap().to_owned();
    let step: String = step.lines().map(|line| format!("      {line}\n")).collect();
    let fixture = WorkflowFixture::new("", MIGRATE);
    fixture.edit_prod();
    fixture.write("migrations/0001_orders.sql", FIXED);
    let text = format!(
        "name: readme\non: push\npermissions: {{ contents: read }}\njobs:\n  deploy:\n    runs-on: ubuntu-latest\n    steps:\n{checkout}\n{step}"
    );
    fixture.run(&text, "push", &[]).assert_deployed(&["prod"]);
}

#[test]
fn pushed_fix_resumes_with_the_recommended_workflow() {
    let fixture = WorkflowFixture::new(GIT, MIGRATE);
    fixture.edit_prod();
    fixture.write("migrations/0001_orders.sql", BROKEN);
    let first = fixture.run(&workflow("deploy", 0), "push", &[]);
    first.assert_failed_with("push the fix");
    fixture.write("migrations/0001_orders.sql", FIXED);
    let second = fixture.run(&workflow("deploy", 0), "push", &[]);
    second.assert_deployed(&["prod"]);
}

#[test]
fn workflows_without_a_state_deploy() {
    for which in [1, 2] {
        let fixture = WorkflowFixture::new("", MIGRATE);
        fixture.edit_prod();
        fixture.write("migrations/0001_orders.sql", FIXED);
        fixture.run(&workflow("deploy", which), "push", &[]).assert_deployed(&["prod"]);
    }
}

#[test]
fn matrix_deploys_to_each_environment() {
    let fixture = WorkflowFixture::new("", &MIGRATE.replace("shop.db", "${{ vars.name }}.db"));
    fixture.write("migrations/0001_orders.sql", FIXED);
    fixture.run(&workflow("deploy everywhere", 0), "workflow_dispatch", &[]).assert_deployed(&["eu", "us"]);
}

#[test]
fn reusable_workflow_that_a_matrix_calls_has_an_instance_for_each_call() {
    let fixture = WorkflowFixture::new("", &MIGRATE.replace("shop.db", "${{ vars.name }}.db"));
    fixture.write("migrations/0001_orders.sql", FIXED);
    // Writes it; by itself, it runs on no event.
    fixture.run(&workflow("deploy one", 0), "push", &[]);
    fixture.write(".github/workflows/caller.yml", CALLER);
    let run = fixture.run_act("caller.yml", "push", &[], 1);
    run.assert_deployed(&["eu", "us"]);
    for instance in ["eu", "us"] {
        assert!(run.log.contains(&format!("pawl-shop-{instance}-deploy-{instance}-a01-s")), "{}", run.log);
    }
}

#[test]
fn calls_without_an_instance_are_refused_at_the_next_attempt() {
    let fixture = WorkflowFixture::new("", MIGRATE);
    fixture.edit_prod();
    fixture.write("migrations/0001_orders.sql", BROKEN);
    let workflow = workflow("deploy one", 0);
    let without = workflow.replace("          instance: ${{ inputs.environment }}\n", "");
    assert_ne!(without, workflow);
    fixture.run(&without, "push", &[]);
    // Both calls deploy to one environment, as to two regions of it.
    let caller = CALLER.replace("environment: [eu, us]", "region: [eu, us]");
    let caller = caller.replace("\"${{ matrix.environment }}\"", "prod");
    fixture.write(
        ".github/workflows/caller.yml",
        &caller.replace("max-parallel: 1,", "max-parallel: 1, fail-fast: false,"),
    );
    fixture.run_act("caller.yml", "push", &[], 1).assert_failed_with("push the fix");
    let second = fixture.run_act("caller.yml", "push", &[], 2);
    second.assert_failed_with("two jobs of this workflow run wrote journals with the same identity");
    assert!(second.log.contains("title=Pawl P0240") && second.log.contains("`instance:`"), "{}", second.log);
}

#[test]
fn release_is_promoted_from_test_to_prod() {
    let fixture = WorkflowFixture::new(GIT, &MIGRATE.replace("shop.db", "${{ vars.name }}.db"));
    fixture.write("migrations/0001_orders.sql", FIXED);
    fixture.run(&workflow("promote", 0), "workflow_dispatch", &[]).assert_deployed(&["test", "prod"]);
}

#[test]
fn step_in_doubt_is_answered_from_github() {
    let steps = "  index:
    uses: run
    trust: host
    timeout: 1s
    with: { program: /bin/sh, args: [index.sh], dir: here }
    grants: { dirs: { here: \".:ro\" }, programs: [[/bin/sh, index.sh]] }
";
    let operate = workflow("operate", 0);
    let fixture = WorkflowFixture::new(GIT, steps);
    fixture.write("index.sh", "echo indexing\nsleep 20\n");
    fixture.run(&workflow("deploy", 0), "push", &[]).assert_failed_with("P0302");
    let run = |inputs: &[(&str, &str)]| fixture.run(&operate, "workflow_dispatch", inputs);
    let doubt = run(&[("command", "deploy"), ("release", "r1")]);
    doubt.assert_failed_with("P0402");
    let hint = "run a workflow with `command: resolve` and `resolve: index=done` and `message: …`";
    assert!(doubt.log.contains(hint) && doubt.log.contains("`accept-drift: index`"), "{}", doubt.log);
    run(&[("command", "plan"), ("release", "r1")]);
    run(&[("command", "resolve"), ("resolve", "index=done")]).assert_failed_with("needs `resolve");
    let resolved = run(&[("command", "resolve"), ("resolve", "index=done"), ("message", "checked by hand")]);
    assert!(resolved.log.contains("step `index` is recorded as done"), "{}", resolved.log);
    run(&[("command", "deploy"), ("release", "r1")]);
}

impl WorkflowFixture {
    /// Without `after:`, for workflows that deploy to prod only.
    fn edit_prod(&self) {
        let path = self.path("repository/deploy.yml");
        let plan = fs::read_to_string(&path).unwrap();
        fs::write(path, plan.replace("after: test, ", "")).unwrap();
    }
}
