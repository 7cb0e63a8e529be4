//! Short plans: the long form that they mean, and the fingerprints that long plans keep.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _};

use expect_test::expect_file;
use serde_json::Value;

use crate::support::TestEnvironment;

const LONG: &str = include_str!("../fixtures/long-plan/afternoon.yml");
const SHORT: &str = include_str!("../fixtures/long-plan/afternoon-short.yml");

fn expanded(plan: &str, environment: &str) -> String {
    let mut here = TestEnvironment::with_plan(plan);
    for name in ["TEST_DATABASE_URL", "PROD_DATABASE_URL"] {
        here.set_variable(name, "postgres://shop@localhost/shop");
    }
    let output = here.run(&["plan", "--expanded", "--env", environment, "--release", "r1"]);
    output.assert_exit(0);
    output.stdout.replace(&here.path("").display().to_string(), "/plans/shop/")
}

#[test]
fn short_plan_means_the_long_one_in_half_the_lines() {
    let lines = |text: &str| text.lines().count();
    assert!(lines(SHORT) <= 32, "{} lines", lines(SHORT));
    assert!(2 * lines(SHORT) <= lines(LONG) + 2, "{} and {} lines", lines(SHORT), lines(LONG));
    for environment in ["test", "prod"] {
        assert_eq!(expanded(SHORT, environment), expanded(LONG, environment));
    }
    expect_file!["../fixtures/long-plan/afternoon-expanded.yml"].assert_eq(&expanded(SHORT, "prod"));
}

#[test]
fn long_form_is_a_plan_with_the_same_long_form() {
    let once = expanded(SHORT, "prod");
    assert_eq!(expanded(&once, "prod"), once);
}

/// The state of the environment before is where that environment's variables say.
#[test]
fn long_form_finds_the_environment_before() {
    let plan = "version: 1\napp: shop\nstate: \"dir:${{ vars.root }}/state\"\nenvironments:\n  test: { vars: { root: ./test } }\n  \
                prod: { after: test, vars: { root: ./prod } }\nsteps:\n  verify:\n    with: { tries: 1, files: [{ path: deploy.yml }] }\n    grants: { dirs: { here: \".:ro\" } }\n";
    let environment = TestEnvironment::with_plan(plan);
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    let long =
        environment.run(&["plan", "--expanded", "--env", "prod", "--release", "r1"]).assert_exit(0).stdout.clone();
    environment.write("deploy.yml", &long);
    let again = environment.run(&["plan", "--expanded", "--env", "prod", "--release", "r1"]);
    assert_eq!(again.assert_exit(0).stdout, long);
    environment.run(&["--local", "--env", "prod", "--release", "r1"]).assert_exit(0);
    assert!(environment.exists("prod/state/shop/prod"));
}

#[test]
fn preview_says_where_each_grant_comes_from() {
    let plan = "version: 1\napp: shop\ndirs: { app: ./app }\nhttp: { api: \"https://api.example.com\" }\nsteps:\n  \
                check: { uses: verify, with: { tries: 1, http: [{ url: \"http://127.0.0.1:9/x\" }] }, grants: { dirs: [\"app:ro\"] } }\n  \
                other: { uses: verify, with: { tries: 1, files: [{ path: VERSION }] }, grants: { http: [api], dirs: { own: ./app } } }\n  \
                build: { program: [./build.sh, all], trust: host }\n";
    let environment = TestEnvironment::with_plan(plan);
    environment.write("build.sh", "#!/bin/sh\nexit 0\n");
    fs::set_permissions(environment.path("build.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = environment.run(&["plan", "--release", "r1"]);
    output.assert_exit(0);
    for line in [
        "/app (read only; from `dirs.app` of the plan)",
        "http://127.0.0.1:9 (from `with.http.0.url`)",
        "https://api.example.com:443 (from `http.api` of the plan)",
        "/app (read and write; from `grants`)",
        "program ./build.sh all (from `with.program`)",
        "\n  programs get `PATH` = /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin and `HOME` = the home of the runner's user",
    ] {
        assert!(output.stdout.contains(line), "{line} is not in {}", output.stdout);
    }
}

/// The fixture was recorded by the runner before there were short forms.
#[test]
fn unchanged_plan_keeps_its_fingerprints() {
    let environment = TestEnvironment::new();
    let more = "  restart:\n    uses: run\n    trust: host\n    with: { program: /bin/true, args: [\"${{ release }}\"], dir: app, repeatable: true }\n    \
                grants: { dirs: { app: \"${{ vars.root }}\" }, programs: [[/bin/true, \"*\"], /bin/false], env: { A: b, C: }, http: [\"http://127.0.0.1:8080\"] }\n  \
                bare:\n    uses: run\n    trust: host\n    with: { program: \"true\", repeatable: true }\n    grants: { programs: [\"true\"] }\n";
    let plan = environment.read("deploy.yml") + more;
    environment.write("deploy.yml", &plan);
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
    let folder = ".pawl/shop/test";
    let name = environment.list(folder).into_iter().find(|name| name.ends_with(".journal")).unwrap();
    let mut fingerprints = BTreeMap::new();
    for line in environment.read(&format!("{folder}/{name}")).lines() {
        let entry: Value = serde_json::from_str(&line[9..]).unwrap();
        let event = &entry["event"];
        if event["type"] == "intent" {
            let parts = ["config", "grants"].map(|part| event["fingerprint"][part].as_str().unwrap().to_owned());
            fingerprints.insert(event["step"].as_str().unwrap().to_owned(), parts);
        }
    }
    let text = serde_json::to_string_pretty(&fingerprints).unwrap() + "\n";
    expect_file!["../fixtures/long-plan/fingerprints.json"].assert_eq(&text);
}
