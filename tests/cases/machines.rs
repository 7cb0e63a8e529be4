//! A record without a probe counts on the machine that made it.

use std::fs;

use serde_json::{Value, json};

use crate::support::{MotoServer, TestEnvironment, aws_variables, init_bare_repository};

/// A step that leaves a file on its machine and can't be probed, then one that fails at first.
const STEPS: &str = r#"  warm:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [-c, "echo warm > warm"], dir: app, repeatable: true }
    grants: { dirs: { app: "${{ vars.root }}" }, programs: [[/bin/sh, -c, "**"]] }
  gate:
    uses: run
    trust: host
    with: { program: /usr/bin/test, args: [-e, open], dir: app, repeatable: true }
    grants: { dirs: { app: "${{ vars.root }}" }, programs: [[/usr/bin/test, "**"]] }
"#;

/// The example with these steps, whose state is elsewhere.
fn machine(state: &str, steps: &str) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "app: shop\n", &format!("app: shop\nstate: {state}\n"));
    environment.edit("deploy.yml", "  switch:\n", &format!("{steps}  switch:\n"));
    environment.pack("r1");
    environment
}

/// The first machine ends at the gate, which is open on the second one.
fn end_at_the_gate(first: &TestEnvironment) -> TestEnvironment {
    let second = first.another_machine();
    first.deploy("r1", &[]).assert_exit(1);
    second.write("deploy/test/open", "");
    second
}

fn check_step_runs_again(first: &TestEnvironment) {
    let second = end_at_the_gate(first);
    let resumed = second.deploy("r1", &[]);
    resumed.assert_exit(0).assert_decisions(&[
        "pull run absent",
        "migrate run absent",
        "warm run made-elsewhere",
        "gate run failed-before",
        "switch run never-ran",
        "verify run never-ran",
    ]);
    assert!(second.exists("deploy/test/warm"));
}

fn git_machine(steps: &str) -> (tempfile::TempDir, TestEnvironment) {
    let remote = tempfile::tempdir().unwrap();
    init_bare_repository(remote.path());
    let first = machine("git:origin", steps);
    first.git(&["init", "--quiet", "--initial-branch", "main"]);
    first.git(&["remote", "add", "origin", &remote.path().to_string_lossy()]);
    (remote, first)
}

/// What `runner plan` says that a deployment does: steps, decisions and reasons.
fn foretold(environment: &TestEnvironment) -> Vec<Value> {
    let preview = environment.run(&["plan", "--release", "r1", "--json"]).assert_exit(0).json();
    let steps = preview["steps"].as_array().unwrap().iter();
    steps.map(|step| json!([step["step"], step["decision"], step["because"]])).collect()
}

#[test]
fn plan_on_a_machine_without_any_folder_says_what_the_deployment_does() {
    let (_remote, first) = git_machine(STEPS);
    let second = first.another_machine();
    first.deploy("r1", &[]).assert_exit(1);
    assert!(!second.exists("deploy"));
    let said = foretold(&second);
    assert!(!second.exists("deploy"), "nothing is created");
    assert_eq!(said[0], json!(["pull", "run", "absent"]));
    assert_eq!(said[2], json!(["warm", "run", "made-elsewhere"]));
    assert_eq!(said[3], json!(["gate", "run", "failed-before"]));
}

#[test]
fn plan_on_a_new_machine_of_what_is_deployed_elsewhere_brings_it_there() {
    let (_remote, first) = git_machine("");
    let second = first.another_machine();
    first.deploy("r1", &[]).assert_exit(0);
    let expected = [
        json!(["pull", "run", "absent"]),
        json!(["migrate", "run", "absent"]),
        json!(["switch", "run", "absent"]),
        json!(["verify", "run", "upstream-ran"]),
    ];
    assert_eq!(foretold(&second), expected);
    let decisions = ["pull run absent", "migrate run absent", "switch run absent", "verify run upstream-ran"];
    second.deploy("r1", &[]).assert_exit(0).assert_decisions(&decisions);
}

#[test]
fn new_machine_runs_a_step_that_only_another_one_did() {
    let (_remote, first) = git_machine(STEPS);
    check_step_runs_again(&first);
    // The same machine trusts its own record.
    let (_remote, first) = git_machine(STEPS);
    first.deploy("r1", &[]).assert_exit(1);
    first.write("deploy/test/open", "");
    let resumed = first.deploy("r1", &[]);
    resumed.assert_exit(0);
    assert_eq!(resumed.decisions()[2], "warm skip trusted");
}

#[test]
fn new_machine_of_a_bucket_does_too() {
    let moto = MotoServer::start();
    let mut first = machine("s3://acme-state/machines", STEPS);
    aws_variables(&moto.address()).iter().for_each(|(name, value)| first.set_variable(name, value));
    check_step_runs_again(&first);
}

#[test]
fn step_that_must_not_run_twice_stops_on_a_new_machine_until_an_operator_confirms_it() {
    let (_remote, first) = git_machine(&STEPS.replacen(", repeatable: true", "", 1));
    let second = end_at_the_gate(&first);
    let expected = [
        json!(["pull", "run", "absent"]),
        json!(["migrate", "run", "absent"]),
        json!(["warm", "stop", "made-elsewhere"]),
        json!(["gate", null, null]),
        json!(["switch", null, null]),
        json!(["verify", null, null]),
    ];
    assert_eq!(foretold(&second), expected);
    let text = second.run(&["plan", "--release", "r1"]).assert_exit(0).stdout.clone();
    assert!(text.contains("not known yet: the deployment would stop at `warm`"), "{text}");
    let stopped = second.deploy("r1", &[]);
    stopped.assert_exit(3).assert_stderr_contains("error[P0407]").assert_stderr_contains("runner resolve --local warm");
    assert!(!second.exists("deploy/test/warm"));
    second.run(&["resolve", "warm", "--local", "--as", "done", "--message", "copied it"]).assert_exit(0);
    let resumed = second.deploy("r1", &[]);
    resumed.assert_exit(0);
    assert_eq!(resumed.decisions()[2], "warm skip trusted");
}

#[test]
fn record_of_effects_elsewhere_counts_on_each_machine() {
    let (_remote, first) =
        git_machine(&STEPS.replacen("    uses: run\n", "    uses: run\n    effects: elsewhere\n", 1));
    let second = end_at_the_gate(&first);
    let resumed = second.run(&["--local", "--release", "r1"]);
    resumed.assert_exit(0).assert_stderr_contains("skip   warm     trusted: this run recorded it as done");
}

#[test]
fn machine_is_named_by_a_random_id_that_only_its_user_can_write() {
    let environment = TestEnvironment::deployed();
    let header = environment.read(".pawl/shop/test/attempt-000001.journal");
    let identity = fs::read_to_string(environment.home(".local/state/pawl/machine")).unwrap();
    let id = identity.trim().split_once(' ').unwrap().1;
    assert!(header.lines().next().unwrap().contains(&format!("\"machine\":\"{id}\"")), "{header}");
}

#[test]
fn copied_state_folder_is_of_the_machine_that_it_comes_from() {
    let environment = machine("dir:.pawl", STEPS);
    environment.deploy("r1", &[]).assert_exit(1);
    let copied = environment.another_machine();
    fs::remove_dir_all(copied.path("deploy")).unwrap();
    copied.write("deploy/test/open", "");
    let resumed = copied.deploy("r1", &[]);
    resumed.assert_exit(0);
    assert_eq!(resumed.decisions()[2], "warm run made-elsewhere");
}
