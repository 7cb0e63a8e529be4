//! `runner resolve`: an operator says how a step ended that the runner can't finish, and the next deployment goes on.

use std::{fs, os::unix::fs::symlink};

use serde_json::json;

use crate::support::{RunnerOutput, TestEnvironment};

/// `index` kills the runner unless there is a file `quick`; `warm` comes after it.
fn killed_in_index(argument_of_warm: &str) -> TestEnvironment {
    let script = "echo begun >> begun; test -e quick || kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat)";
    let run = |program: &str, args: &[&str], repeatable: bool| {
        let argument_vector: Vec<&str> = std::iter::once(program).chain(args.iter().copied()).collect();
        json!({
            "uses": "run", "trust": "host",
            "with": { "program": program, "args": args, "dir": "work", "repeatable": repeatable },
            "grants": { "dirs": { "work": "work" }, "programs": [argument_vector] },
        })
    };
    let warm = json!({
        "uses": "run", "trust": "host",
        "with": { "program": "/bin/sh", "args": ["-c", "echo $0 > warmed", argument_of_warm], "dir": "work", "repeatable": true },
        "grants": { "dirs": { "work": "work" }, "programs": [["/bin/sh", "-c", "echo $0 > warmed", "*"]] },
    });
    let steps = json!({ "index": run("/bin/sh", &["-c", script], false), "warm": warm });
    let environment = TestEnvironment::with_plan(&json!({ "version": 1, "app": "shop", "steps": steps }).to_string());
    let killed = environment.deploy("r1", &[]);
    assert!(killed.code.is_none(), "{}", killed.stderr);
    environment
}

fn resolve(environment: &TestEnvironment, arguments: &[&str]) -> RunnerOutput {
    let common = ["resolve", "--local", "--message", "checked by hand"];
    environment.run(&[&common, arguments].concat())
}

/// The command in a hint that begins with `runner resolve`.
fn command_in_hint(output: &RunnerOutput) -> Vec<String> {
    let text = output.stderr.replace("\n        ", " ");
    let start = text.find("`runner resolve").expect("the hint names the command") + 1;
    let command = &text[start..start + text[start..].find('`').unwrap()];
    let words = command.split('"').enumerate().flat_map(|(index, part)| {
        if index % 2 == 1 { vec![part.to_owned()] } else { part.split_whitespace().map(str::to_owned).collect() }
    });
    words.skip(1).collect()
}

#[test]
fn pasted_hint_settles_a_step_that_finished() {
    let environment = killed_in_index("none");
    let stopped = environment.deploy("r1", &[]);
    stopped.assert_exit(3).assert_decisions(&["index stop interrupted"]);
    let command = command_in_hint(&stopped);
    let resolved = environment.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
    resolved.assert_exit(0);
    assert_eq!(resolved.stdout, "step `index` is recorded as done, epoch 3; the next deployment takes it as done\n");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&["index skip trusted", "warm run never-ran"]);
    assert_eq!(environment.read("work/begun"), "begun\n", "it did not run twice");
    let history = environment.run(&["history"]).stdout_snapshot();
    assert!(history.contains("resolved `index`"), "{history}");
    let history = environment.run(&["history", "--json"]).json();
    assert_eq!(history[1]["resolved"], json!({ "step": "index", "target": "local" }));
    let logs = environment.run(&["logs", "--attempt", "3"]);
    logs.assert_exit(0);
    assert!(logs.stdout.contains("done by ") && logs.stdout.contains(": checked by hand"), "{}", logs.stdout);
}

/// `why` tells who resolved a step, as what, when and why: in the attempt of the resolution and in the next one, which says what it
/// continues after.
#[test]
fn resolution_is_told_afterwards() {
    let environment = killed_in_index("none");
    resolve(&environment, &["index", "--as", "done"]).assert_exit(0);
    let why = environment.run(&["why", "index"]);
    why.assert_exit(0);
    assert!(
        why.stdout.contains("decision  none: an operator resolved it; the attempt ran nothing\n"),
        "{}",
        why.stdout
    );
    assert!(one_line(&why.stdout).contains("resolved as done by "), "{}", why.stdout);
    let next = environment.run(&["--local", "--release", "r1"]);
    next.assert_exit(0);
    let continues = next.stderr.lines().find(|line| line.starts_with("  resume ")).expect("it continues a run");
    assert!(continues.starts_with("  resume after ") && continues.ends_with(" resolved `index`"), "{continues}");
    let why = environment.run(&["why", "index"]);
    let text = one_line(&why.stdout);
    assert!(text.contains("decision skip: trusted:") && text.contains("record succeeded in epoch 1, "), "{text}");
    let (_, told) = text.split_once("resolved as done by ").expect("the resolution is told");
    assert!(told.contains(" in epoch 2, 20") && told.contains(": checked by hand probe not run"), "{told}");
    let resolved = environment.run(&["why", "index", "--json"]).json()["resolved"].clone();
    assert_eq!(
        (&resolved["as"], &resolved["message"], &resolved["epoch"]),
        (&json!("done"), &json!("checked by hand"), &json!(2))
    );
    assert!(resolved["by"].as_str().is_some_and(|by| by.contains('@')), "{resolved}");
    // The step after it was not resolved by anybody.
    assert_eq!(environment.run(&["why", "warm", "--json"]).json()["resolved"], json!(null));
}

/// The words of a text, without its line breaks and columns.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A probe that can't tell stops the deployment; the hint's command ends that, and what is seen to have changed is not said to be done.
#[test]
fn operator_answers_where_a_probe_cannot_tell() {
    let steps = json!({
        "charge": {
            "uses": "run", "trust": "host",
            "with": {
                "program": "/bin/sh", "args": ["-c", "echo charged >> charged"], "dir": "work",
                "probe": ["/bin/sh", "-c", "exit $(cat status)"],
            },
            "grants": { "dirs": { "work": "work" }, "programs": [["/bin/sh", "-c", "*"]] },
        },
    });
    let environment = TestEnvironment::with_plan(&json!({ "version": 1, "app": "shop", "steps": steps }).to_string());
    environment.write("work/status", "0");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("work/status", "2");
    let stopped = environment.deploy("r1", &[]);
    stopped.assert_exit(3).assert_decisions(&["charge stop unknown"]);
    let command = command_in_hint(&stopped);
    environment.run(&command.iter().map(String::as_str).collect::<Vec<_>>()).assert_exit(0);
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&["charge skip trusted"]);
    assert_eq!(environment.read("work/charged"), "charged\n");
    environment.deploy("r1", &["--accept-drift", "charge"]).assert_exit(0);
    assert_eq!(environment.read("work/charged"), "charged\ncharged\n", "who asks for it runs it");
}

#[test]
fn step_that_did_not_begin_or_is_gone_runs_again() {
    for outcome in ["not-begun", "undone"] {
        let environment = killed_in_index("none");
        environment.write("work/quick", "");
        resolve(&environment, &["index", "--as", outcome]).assert_exit(0);
        let reason = if outcome == "undone" { "reverted" } else { "never-ran" };
        let next = environment.deploy("r1", &[]);
        next.assert_exit(0).assert_decisions(&[&format!("index run {reason}"), "warm run never-ran"]);
        let resolved = environment.run(&["why", "index", "--json"]).json()["resolved"].clone();
        assert_eq!(resolved["as"], outcome.replace('-', " "), "{resolved}");
        assert_eq!(environment.read("work/begun"), "begun\nbegun\n", "{outcome}");
    }
}

#[test]
fn outputs_that_a_later_step_needs_are_stated_or_refused() {
    let environment = killed_in_index("${{ steps.index.status }}");
    let refused = resolve(&environment, &["index", "--as", "done"]);
    refused.assert_exit(2).assert_stderr_contains("error[P0231]").assert_stderr_contains("--output status=VALUE");
    let json = resolve(&environment, &["index", "--as", "done", "--output", "status=http://here", "--json"]).json();
    assert_eq!(
        json,
        json!({ "step": "index", "target": "local", "as": "done", "epoch": 2, "outputs": { "status": "http://here" } })
    );
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(environment.read("work/warmed"), "http://here\n");
}

#[test]
fn undo_that_cannot_be_finished_is_settled() {
    let environment = TestEnvironment::new();
    let hotfix = json!({
        "uses": "run", "trust": "host",
        "with": { "program": "/bin/sh", "args": ["-c", "test ! -e broken || ln -sfn releases/hotfix current"], "dir": "app", "repeatable": true },
        "grants": {
            "dirs": { "app": "${{ vars.root }}" },
            "programs": [["/bin/sh", "-c", "test ! -e broken || ln -sfn releases/hotfix current"]],
        },
    });
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: broken, exists: false }\n");
    environment.edit("deploy.yml", "  verify:\n", &format!("  hotfix: {hotfix}\n  verify:\n"));
    environment.write("deploy.yml", environment.read("deploy.yml") + "on-failure: rollback\n");
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
    let live = environment.live_target();
    environment.pack("r2");
    environment.write("deploy/test/broken", "");
    let stuck = environment.deploy("r2", &[]);
    stuck.assert_exit(3).assert_stderr_contains("error[P0404]");
    environment.deploy("r2", &[]).assert_exit(3);

    let link = environment.path("deploy/test/current");
    fs::remove_file(&link).unwrap();
    symlink(&live, &link).unwrap();
    let command = command_in_hint(&stuck);
    environment.run(&command.iter().map(String::as_str).collect::<Vec<_>>()).assert_exit(0);
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!(status[0]["live"]["release"]["label"], "r1");
    fs::remove_file(environment.path("deploy/test/broken")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0);
    assert_ne!(environment.live_target(), live);
}

#[test]
fn what_the_record_does_not_allow_is_refused_and_changes_nothing() {
    let environment = TestEnvironment::deployed();
    let before = environment.list(".pawl/shop/test");
    for arguments in [
        &["switch", "--as", "done", "--output", "a=b"][..],
        &["switch", "--as", "not-begun"],
        &["swich", "--as", "undone"],
        &["switch", "--target", "web", "--as", "undone"],
        &["switch", "--as", "undone", "--output", "a=b"],
    ] {
        resolve(&environment, arguments).assert_exit(2).assert_stderr_contains("error[P0230]");
    }
    environment.run(&["resolve", "switch", "--as", "undone", "--message", "x"]).assert_exit(2);
    environment.run(&["resolve", "--local", "switch", "--as", "undone", "--message", " "]).assert_exit(2);
    environment.edit("deploy.yml", "test: { vars", "test: { allow: [\"user:nobody\"], vars");
    resolve(&environment, &["switch", "--as", "undone"]).assert_exit(2).assert_stderr_contains("error[P0218]");
    assert_eq!(environment.list(".pawl/shop/test"), before);
}
