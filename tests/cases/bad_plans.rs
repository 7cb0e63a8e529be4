//! Plans that are wrong, through the binary: each is a coded error with its line, a caret and a hint, and nothing is begun.

use expect_test::{Expect, expect};

use crate::support::Environment;

const HEAD: &str = "version: 1\napp: shop\nsteps:\n  hello:\n    uses: verify\n";

/// What a deployment with this plan says; it must end with 2 and leave nothing.
fn check(plan: &str, expected: Expect) {
    let environment = Environment::with_plan(plan);
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2).assert_says("error[P0");
    assert!(refused.stderr.contains("hint: ") || refused.stderr.contains("help: "), "{}", refused.stderr);
    assert!(!environment.exists(".pawl"), "nothing was begun");
    expected.assert_eq(&refused.said());
}

#[test]
fn an_unknown_key() {
    check(&format!("{HEAD}    timout: 5m\n"), expect![[""]]);
}

#[test]
fn a_wrong_type() {
    check(&format!("{HEAD}    with: [files]\n"), expect![[""]]);
}

#[test]
fn a_missing_grant() {
    check(
        "version: 1\napp: shop\nsteps:\n  pull:\n    uses: pull\n    with: { from: \"file:dist/x.tar.gz\", into: app }\n    grants: { dirs: { dist: ./dist:ro } }\n",
        expect![[""]],
    );
}

#[test]
fn a_cycle_in_needs() {
    check(
        "version: 1\napp: shop\nsteps:\n  a:\n    uses: verify\n    needs: b\n  b:\n    uses: verify\n    needs: [a]\n",
        expect![[""]],
    );
}

#[test]
fn an_unknown_module() {
    check("version: 1\napp: shop\nsteps:\n  pull:\n    uses: pul\n", expect![[""]]);
}

#[test]
fn a_module_file_that_is_not_there() {
    check("version: 1\napp: shop\nsteps:\n  mine:\n    uses: ./steps/mine.wasm\n", expect![[""]]);
}

#[test]
fn an_undefined_variable() {
    check(
        "version: 1\napp: shop\nvars: { root: . }\nsteps:\n  hello:\n    uses: verify\n    grants: { dirs: { app: \"${{ vars.rot }}\" } }\n",
        expect![[""]],
    );
}

#[test]
fn a_tab() {
    check("version: 1\napp: shop\nsteps:\n\thello:\n\t\tuses: verify\n", expect![[""]]);
}

#[test]
fn a_yaml_bomb() {
    let mut bomb = "version: 1\napp: shop\nvars:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("  a{level}: &a{level} [{}]\n", vec![before; 10].join(", ")));
    }
    check(&bomb, expect![[""]]);
}

#[test]
fn an_empty_file() {
    let environment = Environment::with_plan("");
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    expect![[""]].assert_eq(&refused.said());
}

#[test]
fn ten_megabytes() {
    let environment = Environment::with_plan(&"# a comment\n".repeat(10 << 20 >> 3));
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    expect![[""]].assert_eq(&refused.said());
}

#[test]
fn a_file_that_is_not_there_and_one_that_is_no_text() {
    let environment = Environment::new();
    let refused = environment.run(&["--local", "--release", "r1", "--plan", "deploi.yml"]);
    refused.assert_exit(2);
    expect![[""]].assert_eq(&refused.said());
    environment.write("deploy.yml", [0xff, 0xfe, 0]);
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    expect![[""]].assert_eq(&refused.said());
}

#[test]
fn a_label_that_is_a_path() {
    let environment = Environment::new();
    let refused = environment.run(&["--local", "--release", "../x"]);
    refused.assert_exit(2);
    expect![[""]].assert_eq(&refused.said());
}

#[test]
fn an_environment_that_does_not_exist() {
    let environment = Environment::new();
    let refused = environment.run(&["--local", "--release", "r1", "--env", "tset"]);
    refused.assert_exit(2);
    expect![[""]].assert_eq(&refused.said());
}

#[test]
fn an_option_that_does_not_exist() {
    let environment = Environment::new();
    let refused = environment.run(&["--local", "--relase", "r1"]);
    refused.assert_exit(2);
    expect![[""]].assert_eq(&refused.said());
}
