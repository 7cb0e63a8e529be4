//! Mistakes whose hint was missing or wrong: what `runner plan` says of each.

use std::process::Command;

use crate::support::TestEnvironment;

/// Fails unless the plan is refused with all of these texts, and with one error only.
#[track_caller]
fn check(steps_and_more: &str, texts: &[&str]) {
    let environment = TestEnvironment::with_plan(&format!("version: 1\napp: shop\n{steps_and_more}"));
    check_in(&environment, &["plan", "--release", "r1"], texts);
}

#[track_caller]
fn check_in(environment: &TestEnvironment, command: &[&str], texts: &[&str]) {
    let refused = environment.run(command);
    refused.assert_exit(2);
    for text in texts {
        refused.assert_stderr_contains(text);
    }
    assert_eq!(refused.stderr.matches("error[").count(), 1, "{}", refused.stderr);
}

/// The name of a git remote that the repository does not have: each command shows where the plan names it.
#[test]
fn git_remote_that_does_not_exist() {
    const PLAN: &str =
        "version: 1\napp: shop\nstate: git:orgin\nsteps:\n  warm: { program: [\"true\"], trust: host }\n";
    let environment = TestEnvironment::with_plan(PLAN);
    let git = |arguments: &[&str]| {
        let made = Command::new("git").arg("-C").arg(environment.path(".")).args(arguments).status().unwrap();
        assert!(made.success(), "git {arguments:?}");
    };
    git(&["init", "--quiet"]);
    for command in [&["plan", "--release", "r1"] as &[&str], &["--local", "--release", "r1"], &["status"]] {
        let texts = [
            "error[P0118]: `git:orgin` names no remote of the plan's git repository",
            "deploy.yml:3:8",
            "^^^^^^^^^ no such remote",
            "caused by: it has no remotes",
            "hint: add it with `git remote add orgin URL`",
        ];
        check_in(&environment, command, &texts);
    }
    git(&["remote", "add", "origin", "./nowhere.git"]);
    let texts = ["caused by: it has `origin`", "hint: did you mean `git:origin`?"];
    check_in(&environment, &["plan", "--release", "r1"], &texts);
}

#[test]
fn environment_after_one_that_comes_later() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nenvironments: { test: , stage: { after: stagee }, prod: { after: stage } }\nsteps:\n  warm: { program: [\"true\"], trust: host }\n",
    );
    // Neither the environment itself nor one that comes after it.
    let texts = ["the plan has no environment `stagee`", "hint: use one of `test`"];
    check_in(&environment, &["plan", "--release", "r1", "--env", "test"], &texts);
}

#[test]
fn steps_in_a_list() {
    for (list, name) in [
        ("  - warm: { program: [\"true\"] }\n", "warm"),
        ("  - name: build\n    program: [\"true\"]\n", "build"),
        ("  - pull\n", "pull"),
        ("  - program: [\"true\"]\n", "warm"),
    ] {
        let hint = format!(
            "hint: write each step under its name, without the `-`, in the order in which they run: `steps: {{ {name}: {{ … }} }}`"
        );
        check(&format!("steps:\n{list}"), &["`steps` must be a mapping, not a list", &hint]);
    }
}

/// What grants the program is wrong itself: only that is told.
#[test]
fn program_without_words() {
    check(
        "steps:\n  warm: { uses: run, trust: host, with: { program: \"true\", args: } }\n",
        &["at `args`", "hint: write a list: `args: […]`"],
    );
    check("steps:\n  warm: { program: [ls, null], trust: host }\n", &["at `args.0`"]);
    check(
        "steps:\n  warm: { program: , trust: host }\n",
        &["`program` of step `warm` names no program", "hint: write the program and its arguments"],
    );
}

/// No grant can name port 0, so the hint is not to grant it.
#[test]
fn port_zero() {
    check(
        "steps:\n  verify: { with: { tcp: [\"localhost:0\"] } }\n",
        &[
            "`localhost:0` has the port 0, on which nothing can listen",
            "hint: write the port that the server listens on",
        ],
    );
}
