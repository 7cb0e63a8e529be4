//! Where the plan lies, which environment is meant, and where the state is kept.

use std::fs;

use expect_test::expect;

use crate::support::TestEnvironment;

/// The example with a second environment.
fn two_environments() -> TestEnvironment {
    let environment = TestEnvironment::new();
    let test = "  test: { vars: { root: ./deploy/test } }\n";
    environment.edit("deploy.yml", test, &format!("{test}  prod: {{ vars: {{ root: ./deploy/prod }} }}\n"));
    environment.pack("r1");
    environment
}

#[test]
fn paths_are_relative_to_the_plan() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    environment.write("below/x", "");
    let answer = environment.run_in("below", &["--local", "--release", "r1", "--plan", "../deploy.yml"]);
    answer.assert_exit(0);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");
    assert!(environment.exists(".pawl/shop/test") && !environment.exists("below/.pawl"));
    fs::write(environment.path("migrations/0003_wrong.sql"), "SELEC 1;\n").unwrap();
    let failed = environment.run_in("below", &["--local", "--release", "r1", "--plan", "../deploy.yml"]);
    failed.assert_exit(1).assert_stderr_contains("run `runner --local --plan ../deploy.yml --release r1` again");
}

#[test]
fn environment_must_be_named_when_there_are_several() {
    let environment = two_environments();
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0113]: the plan has several environments; choose one
          hint: add `--env test`, or another one of `test`, `prod`
    "#]]
    .assert_eq(&refused.stderr_snapshot());
    environment.deploy("r1", &["--env", "prod"]).assert_exit(0);
    assert_eq!(environment.list("deploy"), ["prod"]);
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!(status[0]["live"], serde_json::Value::Null, "nothing is live in test");
    assert_eq!(status[1]["live"]["release"]["label"], "r1");
    environment.run(&["why", "pull"]).assert_exit(2);
    environment.run(&["why", "pull", "--env", "prod"]).assert_exit(0);
}

#[test]
fn state_dir_is_configurable() {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "app: shop\n", "app: shop\nstate: dir:state/here\n");
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(
        environment.list("state/here/shop/test"),
        ["attempt-000001.journal", "index.jsonl", "lock", "snapshot.json"]
    );
    assert!(!environment.exists(".pawl"));
}

#[test]
fn deployment_without_state_reruns_and_changes_nothing() {
    let environment = TestEnvironment::deployed();
    fs::remove_dir_all(environment.path(".pawl")).unwrap();
    let before = environment.live_target();
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&[
        "pull run never-ran",
        "migrate run never-ran",
        "switch run never-ran",
        "verify run never-ran",
    ]);
    assert_eq!(environment.live_target(), before);
    assert_eq!(environment.sql("SELECT count(*) FROM product"), "2", "no migration was applied twice");
    assert_eq!(environment.list("deploy/test/releases").len(), 1);
}

#[test]
fn state_stays_out_of_git() {
    let environment = TestEnvironment::new();
    environment.git(&["init", "--quiet"]);
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
    let found = std::process::Command::new("git")
        .args(["status", "--porcelain", "--untracked-files=all"])
        .current_dir(environment.path("."))
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(found.contains("deploy.lock") && !found.contains(".pawl/"), "{found}");
}
