//! What is said of an attempt, while it runs and after: which step it is at, and which step failed.

use serde_json::json;

use crate::support::{TestEnvironment, wait_until};

fn shell_hook(script: &str) -> serde_json::Value {
    json!({ "program": ["/bin/sh", "-c", script] })
}

fn with_hooks(hooks: &serde_json::Value) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {hooks}\n"));
    environment.pack("r1");
    environment
}

#[test]
fn last_line_names_the_step_that_failed_and_counts_hooks_apart() {
    let hooks = json!({ "before": [shell_hook("exit 0")], "on-failure": [shell_hook("exit 3")] });
    let environment = with_hooks(&hooks);
    // A number where a text must be; it shows only when the outputs of `migrate` are known.
    environment.edit(
        "deploy.yml",
        "with: { link: current }",
        "with: { link: current, to: \"${{ steps.migrate.applied }}\" }",
    );
    let failed = environment.run(&["--local", "--release", "r1"]);
    failed.assert_exit(2).assert_stderr_contains("error[P0121]").assert_stderr_contains("FAIL   switch");
    assert!(failed.stdout.contains("REFUSED: r1 to test at `switch`, after"), "{}", failed.stdout);
    assert!(failed.stdout.contains("(2 ran, 1 failed; hooks: 1 ran)"), "{}", failed.stdout);

    let environment = with_hooks(&hooks);
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: missing }\n");
    let failed = environment.run(&["--local", "--release", "r1"]);
    failed.assert_exit(1);
    assert!(failed.stdout.contains("FAILED: r1 to test at `verify`, after"), "{}", failed.stdout);
    assert!(failed.stdout.contains("(3 ran, 1 failed; hooks: 1 ran, 1 failed)"), "{}", failed.stdout);
}

#[test]
fn failed_hook_before_the_steps_is_called_a_hook() {
    let environment = with_hooks(&json!({ "before": [shell_hook("exit 3")] }));
    let failed = environment.run(&["--local", "--release", "r1"]);
    failed.assert_exit(1);
    assert!(failed.stdout.contains("FAILED: r1 to test at hook `before-1`, after"), "{}", failed.stdout);
}

#[test]
fn refused_attempt_is_called_refused() {
    let environment = with_hooks(&json!({}));
    environment.edit(
        "deploy.yml",
        "with: { link: current }",
        "with: { link: current, to: \"${{ steps.migrate.applied }}\" }",
    );
    environment.deploy("r1", &[]).assert_exit(2);
    let history = environment.run(&["history"]);
    assert!(history.stdout.contains("refused"), "{}", history.stdout);
    let why = environment.run(&["why", "verify"]);
    assert!(why.stdout.contains("(refused at `switch`)"), "{}", why.stdout);
    environment.edit("deploy.yml", ", to: \"${{ steps.migrate.applied }}\"", "");
    let resumed = environment.run(&["--local", "--release", "r1"]);
    resumed.assert_exit(0).assert_stderr_contains("resume after `switch` was refused");
}

#[test]
fn status_of_a_running_deployment_says_where_it_is() {
    let environment = TestEnvironment::new();
    let script = "touch began; while test ! -e end; do sleep 0.05; done";
    let step = json!({
        "uses": "run", "trust": "host", "with": { "program": "/bin/sh", "args": ["-c", script], "dir": "app" },
        "grants": { "dirs": { "app": "${{ vars.root }}" }, "programs": [["/bin/sh", "-c", script]],
                    "env": { "PATH": "/usr/bin:/bin" } },
    });
    environment.edit("deploy.yml", "  switch:\n", &format!("  build: {step}\n  switch:\n"));
    environment.pack("r1");
    let child = environment.start(&["--local", "--release", "r1"]);
    wait_until("the step began", || environment.exists("deploy/test/began"));
    let status = environment.run(&["status"]);
    assert!(status.stdout.contains("running     r1: running at `build` for "), "{}", status.stdout);
    assert!(!status.stdout.contains("interrupted") && !status.stdout.contains("unfinished"), "{}", status.stdout);
    let json = environment.run(&["status", "--json"]).json();
    assert_eq!(json[0]["running"]["at"]["step"], "build");
    environment.write("deploy/test/end", "");
    assert_eq!(environment.wait(child), Some(0));
    assert_eq!(environment.run(&["status", "--json"]).json()[0]["running"], serde_json::Value::Null);
}

#[test]
fn logs_of_an_unknown_step_are_an_error() {
    let environment = TestEnvironment::deployed();
    let unknown = environment.run(&["logs", "verfy"]);
    unknown.assert_exit(2).assert_stderr_contains("error[P0210]").assert_stderr_contains("did you mean `verify`?");
}
