//! `deploy.lock`: made by the first deployment, grown by those from a laptop, taken as it is in a CI, and a stop when a module is
//! not what it has.

use std::fs;

use expect_test::expect;
use serde_json::{Value, json};

use super::module_cache::{PLAN, third_party_environment};
use crate::support::{RunnerOutput, TestEnvironment, sha256};

/// More bytes that a component may have: a custom section.
const CUSTOM_SECTION: &[u8] = b"\x00\x02\x01x";

fn deploy(environment: &TestEnvironment) -> RunnerOutput {
    environment.run(&["--local", "--release", "r1"])
}

fn read_lockfile(environment: &TestEnvironment) -> Value {
    serde_json::from_str(&environment.read("deploy.lock")).unwrap()
}

/// Lines of standard error that are about the lock file.
fn notices(answer: &RunnerOutput) -> Vec<String> {
    answer
        .stderr_snapshot()
        .lines()
        .filter(|line| line.starts_with("note:") || line.starts_with("warning:"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn first_deployment_writes_the_lockfile() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    environment.run(&["plan", "--release", "r1"]).assert_exit(0);
    assert!(!environment.exists("deploy.lock"), "a preview writes nothing");
    let first = deploy(&environment);
    first.assert_exit(0);
    assert_eq!(notices(&first), ["note: wrote deploy.lock, which pins the modules; commit it"]);
    let file = read_lockfile(&environment);
    let modules: Vec<_> = file["modules"].as_object().unwrap().keys().collect();
    assert_eq!(modules, ["migrate", "pull", "switch", "verify"]);
    for name in modules {
        let digest = format!("sha256:{}", sha256(&TestEnvironment::component(name)));
        assert_eq!(file["modules"][name]["digest"], json!(digest), "{name}");
    }
    assert_eq!(environment.list("").iter().filter(|name| name.contains("lock")).count(), 1, "nothing else is left");

    let written = environment.read("deploy.lock");
    assert_eq!(notices(&deploy(&environment)), [""; 0]);
    assert_eq!(environment.read("deploy.lock"), written);
}

#[test]
fn new_module_is_added_with_a_note() {
    let environment = third_party_environment();
    deploy(&environment).assert_exit(0);
    let more = PLAN.replace("  check:", "  again:\n    uses: verify\n    with: { files: [{ path: VERSION }], tries: 1 }\n    grants: { dirs: { app: \"./app:ro\" } }\n  check:");
    environment.write("deploy.yml", more);
    let added = deploy(&environment);
    added.assert_exit(0);
    assert_eq!(notices(&added), ["note: added `verify` to deploy.lock; commit it"]);
    assert!(read_lockfile(&environment)["modules"]["verify"].is_object());
    assert_eq!(notices(&deploy(&environment)), [""; 0]);
}

#[test]
fn ci_does_not_change_the_lockfile() {
    let mut environment = third_party_environment();
    environment.set_variable("CI", "true");
    let unpinned = deploy(&environment);
    unpinned.assert_exit(0);
    let warning =
        "warning: modules are not pinned: deploy.lock is missing; run `runner modules --accept` and commit it";
    assert_eq!(notices(&unpinned), [warning]);
    assert!(!environment.exists("deploy.lock"));

    environment.write("deploy.lock", "{\"version\": 1, \"modules\": {}}");
    let refused = deploy(&environment);
    refused.assert_exit(2);
    expect![[r#"
        error[P0127]: module `./check.wasm` is missing from deploy.lock
         --> deploy.yml:4:3
          |
        4 |   check:
          |   ^^^^^ used here
          hint: run `runner modules --accept` on your machine and commit deploy.lock
    "#]]
    .assert_eq(&refused.stderr_snapshot());
    assert_eq!(
        environment.run(&["plan", "--release", "r1"]).assert_exit(2).stderr_snapshot(),
        refused.stderr_snapshot()
    );
}

#[test]
fn changed_module_content_is_rejected() {
    let environment = third_party_environment();
    deploy(&environment).assert_exit(0);
    let (locked, attempts) = (environment.read("deploy.lock"), environment.list(".pawl/shop/default"));
    environment.write("check.wasm", [&TestEnvironment::component("verify")[..], CUSTOM_SECTION].concat());
    let refused = deploy(&environment);
    refused.assert_exit(2);
    expect![[r#"
        error[P0130]: module `./check.wasm` differs from deploy.lock
         --> deploy.yml:4:3
          |
        4 |   check:
          |   ^^^^^ used here
          caused by: locked sha256:[HASH] (version 0.1.0)
          caused by: now    sha256:[HASH] (version 0.1.0)
          hint: if the change is intended, run `runner modules --accept` and commit deploy.lock
    "#]]
    .assert_eq(&refused.stderr_snapshot());
    let now = format!("sha256:{}", sha256(&fs::read(environment.path("check.wasm")).unwrap()));
    assert!(refused.stderr.contains(&now));
    assert_eq!(environment.list(".pawl/shop/default"), attempts, "nothing was begun");
    assert_eq!(
        environment.run(&["plan", "--release", "r1"]).assert_exit(2).stderr_snapshot(),
        refused.stderr_snapshot()
    );
    environment.run(&["doctor", "--release", "r1"]).assert_exit(2).assert_stderr_contains("error[P0130]");
    assert_eq!(environment.read("deploy.lock"), locked);

    let listed = environment.run(&["modules", "--json"]);
    assert_eq!(listed.assert_exit(0).json()["modules"][0]["standing"], json!("changed"));
    environment.run(&["modules", "--accept"]).assert_exit(0);
    assert_ne!(environment.read("deploy.lock"), locked);
    assert_eq!(notices(deploy(&environment).assert_exit(0)), [""; 0]);
    // A module alone has no plan that a lock could lie beside.
    environment.write("check.wasm", TestEnvironment::component("verify"));
    let alone =
        ["step", "./check.wasm", "--local", "--dir", "app=./app:ro", "--with", "files=[{\"path\":\"VERSION\"}]"];
    environment.run(&alone).assert_exit(0);
}

#[test]
fn changed_capability_needs_are_rejected() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    deploy(&environment).assert_exit(0);
    let mut file = read_lockfile(&environment);
    let needs = file["modules"]["switch"]["needs"].as_array_mut().unwrap();
    needs[0]["access"] = json!("ro");
    needs[0]["reason"] = json!("reads the link");
    environment.write("deploy.lock", file.to_string());
    let refused = deploy(&environment);
    refused.assert_exit(2);
    expect![[r#"
        error[P0130]: module `switch` differs from deploy.lock
          --> deploy.yml:19:3
           |
        19 |   switch:
           |   ^^^^^^ used here
          caused by: it now also needs dirs rw: holds the link and the releases
          caused by: it no longer needs dirs ro: reads the link
          hint: if the change is intended, run `runner modules --accept` and commit deploy.lock
    "#]]
    .assert_eq(&refused.stderr_snapshot());
}

#[test]
fn modules_are_listed_and_accepted() {
    let environment = third_party_environment();
    let listed = environment.run(&["modules"]);
    expect![[r#"
        new      ./check.wasm 0.1.0, a file
                 sha256:[HASH]
                 asks for databases (with.sql.0.database): is queried
                 asks for dirs ro (with.files): contains the files to check
                 asks for dirs ro (with.sample.file): holds the access log
                 asks for http (with.http): is checked over HTTP
                 asks for tcp (with.tcp): is checked over TCP
        run `runner modules --accept` to write deploy.lock like this
    "#]]
    .assert_eq(&listed.assert_exit(0).stdout_snapshot());
    assert!(!environment.exists("deploy.lock"), "a list writes nothing");
    environment.run(&["modules", "--accept"]).assert_exit(0);
    environment.edit("deploy.yml", "./check.wasm", "verify");
    expect![[r#"
        new      verify 0.1.0, built in
                 sha256:[HASH]
                 asks for databases (with.sql.0.database): is queried
                 asks for dirs ro (with.files): contains the files to check
                 asks for dirs ro (with.sample.file): holds the access log
                 asks for http (with.http): is checked over HTTP
                 asks for tcp (with.tcp): is checked over TCP
        unused   ./check.wasm
        run `runner modules --accept` to write deploy.lock like this
    "#]]
    .assert_eq(&environment.run(&["modules"]).assert_exit(0).stdout_snapshot());
    environment.run(&["modules", "--accept"]).assert_exit(0);
    let file = read_lockfile(&environment);
    assert_eq!(file["modules"].as_object().unwrap().keys().collect::<Vec<_>>(), ["verify"]);
    environment.run(&["modules"]).assert_exit(0).stdout_snapshot();
}

#[test]
fn unreadable_lockfile_is_rejected() {
    let environment = third_party_environment();
    for (text, why) in [
        ("<<<<<<< ours\n", "caused by: expected value at line 1 column 1"),
        ("{\"version\": 2}", "caused by: it has version 2; this runner reads versions up to 1"),
    ] {
        environment.write("deploy.lock", text);
        for command in [&["--local", "--release", "r1"][..], &["plan", "--release", "r1"]] {
            let refused = environment.run(command);
            refused
                .assert_exit(2)
                .assert_stderr_contains("error[P0128]: can't read deploy.lock")
                .assert_stderr_contains(why);
        }
        assert_eq!(environment.read("deploy.lock"), text);
        assert!(!environment.exists(".pawl"));
    }
}
