//! Hints that show a line to add: it has its place in the step as it is written, and works when it is pasted there.

use super::write_program;
use crate::support::TestEnvironment;

const PLAN: [&str; 3] = ["plan", "--release", "r1"];

/// How a step's `grants:` are written; what the hint says, with the line as `$1`; and the grants with the line in them.
type Pasted = (&'static str, &'static str, &'static str);

/// Checks the hints for a step that lacks an item of `key`; `whole` is the key with that item alone.
fn check_pasted(step: &str, key: &str, item: &str, whole: &str, more: &[Pasted]) {
    let whole_line = format!("`{whole}`");
    let added = format!("add {whole_line} to the step's `grants:`");
    let written = format!("write {whole_line} in the step's `grants:`");
    let empty = |value: &str| format!("    grants: {{ {key}: {value} }}\n");
    let alone = format!("    grants: {{ {whole} }}\n");
    let cases = [
        (String::new(), format!("add to the step: `grants: {{ {whole} }}`"), alone.clone()),
        ("    grants:\n".to_owned(), added.clone(), format!("    grants:\n      {whole}\n")),
        ("    grants: {}\n".to_owned(), added.clone(), alone.clone()),
        (
            "    grants: { dirs: { x: \".:ro\" } }\n".to_owned(),
            added,
            format!("    grants: {{ {whole}, dirs: {{ x: \".:ro\" }} }}\n"),
        ),
        (empty(""), written.clone(), alone.clone()),
        (empty(if whole.ends_with(']') { "[]" } else { "{}" }), written, alone),
    ];
    let more = more.iter().map(|(grants, hint, fixed)| {
        (
            format!("    grants: {grants}\n"),
            hint.replace("$1", item),
            format!("    grants: {}\n", fixed.replace("$1", item)),
        )
    });
    for (grants, hint, fixed) in cases.into_iter().chain(more) {
        let environment = TestEnvironment::with_plan(&format!("{step}{grants}"));
        let refused = environment.run(&PLAN);
        assert_eq!(refused.code, Some(2), "{grants}{}", refused.stderr);
        let shown = refused.stderr.lines().find_map(|line| line.trim_start().strip_prefix("hint: ")).unwrap();
        assert_eq!(shown, hint, "{grants}");
        environment.write("deploy.yml", format!("{step}{fixed}"));
        let accepted = environment.run(&PLAN);
        assert_eq!(accepted.code, Some(0), "{fixed}{}", accepted.stderr);
    }
}

#[test]
fn missing_address_has_its_place_in_the_grants() {
    check_pasted(
        "version: 1\napp: shop\nsteps:\n  verify:\n    with: { tries: 1, tcp: [\"127.0.0.1:9\"], http: [{ url: \"http://127.0.0.1:9/\" }] }\n",
        "tcp",
        "\"127.0.0.1:9\"",
        "tcp: [\"127.0.0.1:9\"]",
        &[(
            "{ tcp: [\"127.0.0.1:10\"] }",
            "add `$1` to `tcp:` in the step's `grants:`",
            "{ tcp: [$1, \"127.0.0.1:10\"] }",
        )],
    );
}

#[test]
fn missing_variable_has_its_place_in_the_grants() {
    check_pasted(
        "version: 1\napp: shop\nsteps:\n  warm:\n    program: [\"true\"]\n    trust: host\n    with: { env: { WARM: all } }\n",
        "env",
        "WARM:",
        "env: { WARM: }",
        &[("{ env: { COLD: x } }", "add `$1` to `env:` in the step's `grants:`", "{ env: { $1 , COLD: x } }")],
    );
}

#[test]
fn hook_without_its_program_gets_a_hint_that_it_has_a_place_for() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nsteps:\n  build: { program: [./build.sh], trust: host }\nhooks:\n  after: [{ program: [no-such-tool, now] }]\n",
    );
    write_program(&environment, "build.sh", "#!/bin/sh\n");
    let refused = environment.run(&PLAN);
    refused
        .assert_exit(2)
        .assert_stderr_contains("error[P0233]")
        .assert_stderr_contains("hint: install it, or write its full path\n");
    // A step has a place for an environment, and for the step that installs the program.
    environment.edit(
        "deploy.yml",
        "hooks:\n  after: [{ program: [no-such-tool, now] }]\n",
        "  start: { program: [no-such-tool], trust: host }\n",
    );
    let refused = environment.run(&PLAN);
    refused
        .assert_exit(2)
        .assert_stderr_contains("add to the step: `grants: { env: { PATH: /opt/bin:/usr/bin:/bin } }`")
        .assert_stderr_contains("name that step in `with`: `installed-by: build`");
}

#[test]
fn wrong_key_is_marked_itself() {
    let plan = "version: 1\napp: shop\nsteps:\n  verify:\n    with: { http: [{ url: \"http://127.0.0.1:9/\", json: { status: up } }], tires: 1 }\n";
    let environment = TestEnvironment::with_plan(plan);
    let refused = environment.run(&PLAN);
    let line = plan.lines().nth(4).unwrap();
    refused.assert_exit(2);
    for (key, at) in [("status", "at `http.0.json.status`"), ("tires", "at `tires`")] {
        let position = format!("--> deploy.yml:5:{}\n", line.find(key).unwrap() + 1);
        refused.assert_stderr_contains(&position).assert_stderr_contains(at);
    }
}

#[test]
fn value_of_the_wrong_type_is_shown_as_it_must_be() {
    for (with, hint) in [
        ("tcp: \"db:5432\"", "write a list: `tcp: [\"db:5432\"]`"),
        ("tries: \"3\"", "write a number: `tries: 3`"),
        ("interval: 1", "write a duration: `interval: 1s`"),
        ("http: [{ url: \"http://127.0.0.1:9/\", timeout: 5 }]", "write a duration: `timeout: 5s`"),
        ("http: [{ url: \"http://127.0.0.1:9/\", json: up }]", "write a mapping: `json: { NAME: … }`"),
    ] {
        let plan = format!("version: 1\napp: shop\nsteps:\n  verify:\n    with: {{ {with} }}\n");
        TestEnvironment::with_plan(&plan).run(&PLAN).assert_exit(2).assert_stderr_contains(hint);
    }
}

#[test]
fn directory_may_begin_with_a_slash_wherever_it_is_named() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\ndirs: { app: ./app }\nsteps:\n  warm:\n    program: [/bin/sh, -c, \"date > ran\"]\n    trust: host\n    with: { dir: /app/x, marker: /app/made/warm }\n    grants: { dirs: [app] }\n",
    );
    environment.write("app/x/.keep", "");
    let deploy = ["--local", "--release", "r1"];
    environment.run(&deploy).assert_exit(0);
    assert!(environment.exists("app/made/warm") && environment.exists("app/x/ran"));
    let again = environment.run(&deploy);
    again.assert_exit(0).assert_stderr_contains("skip   warm");
    // It is the same directory with and without the slash.
    environment.edit("deploy.yml", "marker: /app/made/warm", "marker: app/made/warm, inputs: [/app/made]");
    environment
        .run(&[&deploy[..], &["--rerun", "warm"]].concat())
        .assert_exit(2)
        .assert_stderr_contains("`app/made/warm` lies in the input `/app/made`");
}

/// The texts in backticks that the hints of a refused plan begin with, each once.
fn lines_in_hints(environment: &TestEnvironment) -> Vec<String> {
    let refused = environment.run(&PLAN);
    refused.assert_exit(2).assert_stderr_contains("error[P0122]");
    let hints = refused.stderr.lines().filter_map(|line| line.trim_start().strip_prefix("hint: "));
    let mut lines: Vec<_> = hints.map(|hint| hint.split('`').nth(1).unwrap().to_owned()).collect();
    lines.sort();
    lines.dedup();
    lines
}

#[test]
fn directory_at_the_top_of_the_plan_is_granted_as_it_is_there() {
    let steps =
        "steps:\n  pull:\n    uses: pull\n    with: { from: \"file:dist/shop-${{ release }}.tar.zst\", into: app }\n";
    for (dirs, form) in [
        // All directories have their place in one line, which is a list only if all are at the top.
        ("{ app: ./deploy }", "{ "),
        ("{ app: ./deploy, dist: \"./dist:ro\" }", "["),
        ("{ app: ./deploy, dist: ./dist }", "["),
    ] {
        let plan = format!("version: 1\napp: shop\ndirs: {dirs}\n{steps}");
        let environment = TestEnvironment::with_plan(&plan);
        environment.pack("r1");
        let lines = lines_in_hints(&environment);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with(&format!("grants: {{ dirs: {form}")), "{lines:?}");
        assert!(!lines[0].contains("./app"), "{lines:?}");
        environment.write("deploy.yml", format!("{plan}    {}\n", lines[0]));
        environment.run(&PLAN).assert_exit(0);
        environment.deploy("r1", &[]).assert_exit(0);
        assert!(environment.exists("deploy/releases") && !environment.exists("app/releases"), "{dirs}");
    }
}

#[test]
fn argument_that_looks_like_a_lookup_is_granted_as_text() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nsteps:\n  say:\n    uses: run\n    trust: host\n    with: { program: /bin/echo, args: [\"$${{ x }}\"] }\n    grants: { programs: [[/bin/true]] }\n",
    );
    let lines = lines_in_hints(&environment);
    environment.edit("deploy.yml", "[[/bin/true]]", &format!("[[/bin/true], {}]", lines[0]));
    environment.run(&PLAN).assert_exit(0);
}

#[test]
fn several_variables_belong_in_one_line() {
    let plan = "version: 1\napp: shop\nsteps:\n  warm:\n    program: [\"true\"]\n    trust: host\n    with: { env: { WARM: all, COLD: none } }\n";
    let environment = TestEnvironment::with_plan(plan);
    let lines = lines_in_hints(&environment);
    assert_eq!(lines.len(), 1, "{lines:?}");
    environment.write("deploy.yml", format!("{plan}    {}\n", lines[0]));
    environment.run(&PLAN).assert_exit(0);
}
