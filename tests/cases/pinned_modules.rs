//! `deploy.lock`: made by the first deployment, grown by those from a laptop, taken as it is in a CI, and a stop when a module is
//! not what it has.

use std::fs;

use expect_test::expect;
use serde_json::{Value, json};

use super::kept_modules::{PLAN, environment};
use crate::support::{Answer, Environment, sha256};

/// More bytes that a component may have: a custom section.
const MORE: &[u8] = b"\x00\x02\x01x";

fn deploy(environment: &Environment) -> Answer {
    environment.run(&["--local", "--release", "r1"])
}

fn lock(environment: &Environment) -> Value {
    serde_json::from_str(&environment.read("deploy.lock")).unwrap()
}

/// Lines of standard error that are about the lock file.
fn notices(answer: &Answer) -> Vec<String> {
    answer
        .said()
        .lines()
        .filter(|line| line.starts_with("note:") || line.starts_with("warning:"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_first_deployment_writes_it() {
    let environment = Environment::new();
    environment.pack("r1");
    environment.run(&["plan", "--release", "r1"]).assert_exit(0);
    assert!(!environment.exists("deploy.lock"), "a preview writes nothing");
    let first = deploy(&environment);
    first.assert_exit(0);
    assert_eq!(notices(&first), ["note: wrote deploy.lock, which pins the modules: commit it"]);
    let file = lock(&environment);
    let modules: Vec<_> = file["modules"].as_object().unwrap().keys().collect();
    assert_eq!(modules, ["migrate", "pull", "switch", "verify"]);
    for name in modules {
        let digest = format!("sha256:{}", sha256(&Environment::component(name)));
        assert_eq!(file["modules"][name]["digest"], json!(digest), "{name}");
    }
    assert_eq!(environment.list("").iter().filter(|name| name.contains("lock")).count(), 1, "nothing else is left");

    let written = environment.read("deploy.lock");
    assert_eq!(notices(&deploy(&environment)), [""; 0]);
    assert_eq!(environment.read("deploy.lock"), written);
}

#[test]
fn a_new_module_is_added_and_said() {
    let environment = environment();
    deploy(&environment).assert_exit(0);
    let more = PLAN.replace("  check:", "  again:\n    uses: verify\n    with: { files: [{ path: VERSION }], tries: 1 }\n    grants: { dirs: { app: \"./app:ro\" } }\n  check:");
    environment.write("deploy.yml", more);
    let added = deploy(&environment);
    added.assert_exit(0);
    assert_eq!(notices(&added), ["note: added `verify` to deploy.lock: commit it"]);
    assert!(lock(&environment)["modules"]["verify"].is_object());
    assert_eq!(notices(&deploy(&environment)), [""; 0]);
}

#[test]
fn in_a_ci_it_is_taken_as_it_is() {
    let mut environment = environment();
    environment.set("CI", "true");
    let unpinned = deploy(&environment);
    unpinned.assert_exit(0);
    let warning = "warning: modules are not pinned, there is no deploy.lock; make it with `runner modules --accept`, and commit it";
    assert_eq!(notices(&unpinned), [warning]);
    assert!(!environment.exists("deploy.lock"));

    environment.write("deploy.lock", "{\"version\": 1, \"modules\": {}}");
    let refused = deploy(&environment);
    refused.assert_exit(2);
    expect![[r#"
        error[P0127]: module `./check.wasm` is not in deploy.lock
         --> deploy.yml:4:3
          |
        4 |   check:
          |   ^^^^^ it is used here
          hint: run `runner modules --accept` where you develop, and commit deploy.lock
    "#]]
    .assert_eq(&refused.said());
    assert_eq!(environment.run(&["plan", "--release", "r1"]).assert_exit(2).said(), refused.said());
}

#[test]
fn another_content_is_a_stop() {
    let environment = environment();
    deploy(&environment).assert_exit(0);
    let (locked, attempts) = (environment.read("deploy.lock"), environment.list(".pawl/shop/default"));
    environment.write("check.wasm", [&Environment::component("verify")[..], MORE].concat());
    let refused = deploy(&environment);
    refused.assert_exit(2);
    expect![[r#"
        error[P0130]: module `./check.wasm` is not what deploy.lock has
         --> deploy.yml:4:3
          |
        4 |   check:
          |   ^^^^^ it is used here
          caused by: locked sha256:[HASH] (version 0.1.0)
          caused by: now    sha256:[HASH] (version 0.1.0)
          hint: if that is meant, run `runner modules --accept`, and commit deploy.lock
    "#]]
    .assert_eq(&refused.said());
    let now = format!("sha256:{}", sha256(&fs::read(environment.path("check.wasm")).unwrap()));
    assert!(refused.stderr.contains(&now));
    assert_eq!(environment.list(".pawl/shop/default"), attempts, "nothing was begun");
    assert_eq!(environment.run(&["plan", "--release", "r1"]).assert_exit(2).said(), refused.said());
    environment.run(&["doctor", "--release", "r1"]).assert_exit(2).assert_says("error[P0130]");
    assert_eq!(environment.read("deploy.lock"), locked);

    let listed = environment.run(&["modules", "--json"]);
    assert_eq!(listed.assert_exit(0).json()["modules"][0]["standing"], json!("changed"));
    environment.run(&["modules", "--accept"]).assert_exit(0);
    assert_ne!(environment.read("deploy.lock"), locked);
    assert_eq!(notices(deploy(&environment).assert_exit(0)), [""; 0]);
    // A module alone has no plan that a lock could lie beside.
    environment.write("check.wasm", Environment::component("verify"));
    let alone =
        ["step", "./check.wasm", "--local", "--dir", "app=./app:ro", "--with", "files=[{\"path\":\"VERSION\"}]"];
    environment.run(&alone).assert_exit(0);
}

#[test]
fn another_wish_is_a_stop() {
    let environment = Environment::new();
    environment.pack("r1");
    deploy(&environment).assert_exit(0);
    let mut file = lock(&environment);
    let needs = file["modules"]["switch"]["needs"].as_array_mut().unwrap();
    needs[0]["access"] = json!("ro");
    needs[0]["reason"] = json!("reads the link");
    environment.write("deploy.lock", file.to_string());
    let refused = deploy(&environment);
    refused.assert_exit(2);
    expect![[r#"
        error[P0130]: module `switch` is not what deploy.lock has
          --> deploy.yml:19:3
           |
        19 |   switch:
           |   ^^^^^^ it is used here
          caused by: it asks for more: dirs rw: holds the link and the releases
          caused by: it no longer asks for dirs ro: reads the link
          hint: if that is meant, run `runner modules --accept`, and commit deploy.lock
    "#]]
    .assert_eq(&refused.said());
}

#[test]
fn modules_are_listed_and_accepted() {
    let environment = environment();
    let listed = environment.run(&["modules"]);
    expect![[r#"
        new      ./check.wasm 0.1.0, a file
                 sha256:[HASH]
                 asks for databases (/sql/0/database): asks the database
                 asks for dirs ro (/files): reads files
                 asks for http (/http): asks the application
                 asks for tcp (/tcp): sees whether something listens
        `runner modules --accept` writes deploy.lock like this
    "#]]
    .assert_eq(&listed.assert_exit(0).printed());
    assert!(!environment.exists("deploy.lock"), "a list writes nothing");
    environment.run(&["modules", "--accept"]).assert_exit(0);
    environment.edit("deploy.yml", "./check.wasm", "verify");
    expect![[r#"
        new      verify 0.1.0, of this runner
                 sha256:[HASH]
                 asks for databases (/sql/0/database): asks the database
                 asks for dirs ro (/files): reads files
                 asks for http (/http): asks the application
                 asks for tcp (/tcp): sees whether something listens
        unused   ./check.wasm
        `runner modules --accept` writes deploy.lock like this
    "#]]
    .assert_eq(&environment.run(&["modules"]).assert_exit(0).printed());
    environment.run(&["modules", "--accept"]).assert_exit(0);
    let file = lock(&environment);
    assert_eq!(file["modules"].as_object().unwrap().keys().collect::<Vec<_>>(), ["verify"]);
    environment.run(&["modules"]).assert_exit(0).printed();
}

#[test]
fn a_file_that_cannot_be_read() {
    let environment = environment();
    for (text, why) in [
        ("<<<<<<< ours\n", "caused by: expected value at line 1 column 1"),
        ("{\"version\": 2}", "caused by: it is of version 2; this runner reads up to 1"),
    ] {
        environment.write("deploy.lock", text);
        for command in [&["--local", "--release", "r1"][..], &["plan", "--release", "r1"]] {
            let refused = environment.run(command);
            refused.assert_exit(2).assert_says("error[P0128]: can't read deploy.lock").assert_says(why);
        }
        assert_eq!(environment.read("deploy.lock"), text);
        assert!(!environment.exists(".pawl"));
    }
}
