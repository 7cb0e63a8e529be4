//! Hooks: when they run, what they may do, and that a runner among them neither dead-locks nor slips past the lock.

use serde_json::json;

use crate::support::{HttpReply, HttpTestServer, RunnerOutput, TestEnvironment, init_bare_repository};

const RUNNER: &str = env!("CARGO_BIN_EXE_runner");

/// The example with these lists of hooks, each as JSON.
fn with_hooks(hooks: &serde_json::Value) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {hooks}\n"));
    for label in ["r1", "r2", "r3"] {
        environment.pack(label);
    }
    environment
}

/// What each program of the journals' steps printed, by the log.
fn step_log(environment: &TestEnvironment, step: &str) -> String {
    environment.run(&["logs", step]).assert_exit(0).stdout.clone()
}

fn shell_hook(script: &str) -> serde_json::Value {
    json!({ "program": ["/bin/sh", "-c", script] })
}

/// A nested `runner` with these arguments.
fn runner_hook(arguments: &[&str]) -> serde_json::Value {
    let program = [&[RUNNER], arguments].concat();
    json!({ "program": program })
}

const NESTED_STEP: &[&str] = &[
    "step",
    "run",
    "--local",
    "--with",
    "program=/bin/echo",
    "--with",
    "args=[\"nested\"]",
    "--program",
    "[\"/bin/echo\",\"nested\"]",
];

#[test]
fn hooks_run_around_the_steps_and_receive_the_result() {
    let script =
        "echo $PAWL_APP $PAWL_ENVIRONMENT $PAWL_RELEASE ${PAWL_RESULT:-begins} ${PAWL_FAILED_STEP:-none} >> told";
    let hook = json!([shell_hook(script)]);
    let environment = with_hooks(&json!({ "before": hook, "after": hook, "on-failure": hook }));
    environment.deploy("r1", &[]).assert_exit(0);
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: no-r2, exists: false }\n");
    environment.write("deploy/test/no-r2", "");
    environment.deploy("r2", &[]).assert_exit(1);
    environment.write("deploy.yml", environment.read("deploy.yml") + "on-failure: rollback\n");
    environment.deploy("r3", &[]).assert_exit(1);
    std::fs::remove_file(environment.path("deploy/test/no-r2")).unwrap();
    environment.deploy("r3", &[]).assert_exit(0);
    assert_eq!(
        environment.read("told"),
        "shop test r1 begins none\nshop test r1 deployed none\nshop test r2 begins none\nshop test r2 failed verify\n\
         shop test r3 begins none\nshop test r3 failed verify\nshop test r3 begins none\nshop test r3 deployed none\n"
    );
    let status = environment.run(&["history", "--json"]).json();
    assert!(status.to_string().contains("\"step\":\"verify\""), "the step that failed is on record: {status}");
}

#[test]
fn after_hooks_do_not_run_after_a_part_of_a_deployment() {
    let environment = with_hooks(&json!({ "after": [shell_hook("echo $PAWL_RESULT >> told")] }));
    environment
        .run(&["--local", "--release", "r1", "--until", "pull"])
        .assert_exit(0)
        .assert_stderr_contains("the `after` hooks did not run, because `--until pull` left out a part of the plan");
    environment.run(&["--local", "--release", "r1", "--start-from", "migrate"]).assert_exit(0);
    environment.run(&["--local", "--release", "r1", "--only", "verify"]).assert_exit(0);
    assert!(!environment.exists("told"), "nothing is announced that is not so");
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(environment.read("told"), "deployed\n");
}

#[test]
fn failed_before_hook_stops_and_failed_after_hook_only_warns() {
    let environment = with_hooks(&json!({ "before": [shell_hook("exit 3")] }));
    let stopped = environment.run(&["--local", "--release", "r1"]);
    stopped
        .assert_exit(1)
        .assert_stderr_contains("step `before-1` failed")
        .assert_stderr_contains("exited with status 3");
    assert!(!environment.exists("deploy/test/releases"), "nothing was pulled");

    let environment =
        with_hooks(&json!({ "after": [shell_hook("echo no; exit 3"), shell_hook("echo second >> told")] }));
    let done = environment.run(&["--local", "--release", "r1"]);
    done.assert_exit(0)
        .assert_stderr_contains("warning: hook `after-1`: `/bin/sh -c 'echo no; exit 3'` exited with status 3");
    assert_eq!(environment.read("told"), "second\n", "the hooks after it run all the same");
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!(status[0]["live"]["verified"], true);
}

#[test]
fn nested_step_runs_under_every_command() {
    let environment = with_hooks(&json!({ "after": [runner_hook(NESTED_STEP)] }));
    let works = |answer: RunnerOutput| {
        answer.assert_exit(0);
        assert!(!answer.stderr.contains("warning: hook"), "{}", answer.stderr);
        assert!(
            step_log(&environment, "after-1").contains("deployed none to default"),
            "{}",
            step_log(&environment, "after-1")
        );
    };
    works(environment.run(&["setup", "--local", "--release", "r1"]));
    works(environment.run(&["deploy", "--local", "--release", "r2"]));
    works(environment.run(&["rollback", "--local"]));
    environment.edit("deploy.yml", "environments:\n", "environments:\n  pre: { vars: { root: ./deploy/pre } }\n");
    let promoted = environment.run(&["promote", "--local", "--from", "test", "--to", "pre"]);
    promoted.assert_exit(0);
    assert!(!promoted.stderr.contains("warning: hook"), "{}", promoted.stderr);
}

#[test]
fn nested_deployment_of_the_same_environment_is_rejected() {
    let inner = runner_hook(&["deploy", "--local", "--release", "r1", "--lock-wait", "10m"]);
    let environment = with_hooks(&json!({ "after": [inner] }));
    for command in [&["setup"], &["deploy"]] {
        let began = std::time::Instant::now();
        let outer = environment.run(&[command.as_slice(), &["--local", "--release", "r1"]].concat());
        outer.assert_exit(0).assert_stderr_contains("warning: hook `after-1`");
        assert!(began.elapsed().as_secs() < 10, "it waited for itself");
        let hook_log = step_log(&environment, "after-1");
        assert!(hook_log.contains("error[P0219]: this command is part of a deployment of shop/test"), "{hook_log}");
    }
    environment.deploy("r2", &[]).assert_exit(0);
    environment.run(&["rollback", "--local"]).assert_exit(0).assert_stderr_contains("warning: hook `after-1`");
    assert!(step_log(&environment, "after-1").contains("error[P0219]"));
    environment.edit("deploy.yml", "environments:\n", "environments:\n  pre: { vars: { root: ./deploy/pre } }\n");
    let own = environment
        .read("deploy.yml")
        .replace("\"--local\",\"--release\"", "\"--local\",\"--env\",\"pre\",\"--release\"");
    environment.write("deploy.yml", own);
    let promoted = environment.run(&["promote", "--local", "--from", "test", "--to", "pre"]);
    promoted.assert_exit(0).assert_stderr_contains("warning: hook `after-1`");
    assert!(environment.run(&["logs", "after-1", "--env", "pre"]).stdout.contains("error[P0219]"));
}

#[test]
fn hook_may_deploy_another_environment() {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "environments:\n", "environments:\n  pre: { vars: { root: ./deploy/pre } }\n");
    environment.pack("r1");
    environment.write("other.yml", environment.read("deploy.yml"));
    let inner = runner_hook(&["deploy", "--local", "--plan", "other.yml", "--env", "pre", "--release", "r1"]);
    environment.write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {{ after: [{inner}] }}\n"));
    let outer = environment.run(&["--local", "--env", "test", "--release", "r1"]);
    outer.assert_exit(0);
    assert!(!outer.stderr.contains("warning: hook"), "{}", outer.stderr);
    assert_eq!(environment.read("deploy/pre/current/VERSION").trim(), "r1");
}

#[test]
fn forged_or_stale_lock_token_is_rejected() {
    let mut environment =
        with_hooks(&json!({ "after": [shell_hook("echo \"$PAWL_LOCK\" > token; echo \"$PAWL_STATE\" > state")] }));
    environment.deploy("r1", &[]).assert_exit(0);
    let (stale, state) = (environment.read("token").trim().to_owned(), environment.read("state").trim().to_owned());
    let forged = format!("{}:{}", stale.rsplit_once(':').unwrap().0, "0".repeat(32));
    environment.set_variable("PAWL_STATE", &state);
    for token in [stale.as_str(), &forged, "shop/test:1:", "nonsense", ""] {
        environment.set_variable("PAWL_LOCK", token);
        for command in [&["--local", "--release", "r2"], NESTED_STEP] {
            environment.run(command).assert_exit(2).assert_stderr_contains("error[P0505]");
        }
    }
    environment.set_variable("PAWL_LOCK", &stale);
    environment.set_variable("PAWL_STATE", "");
    environment.run(NESTED_STEP).assert_exit(2).assert_stderr_contains("PAWL_STATE does not locate its lock");
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");
}

#[test]
fn lock_is_held_during_all_hooks() {
    let other = runner_hook(&["lock", "status", "--json"]);
    let environment = with_hooks(&json!({ "before": [other], "after": [other] }));
    environment.deploy("r1", &[]).assert_exit(0);
    for hook in ["before-1", "after-1"] {
        assert!(step_log(&environment, hook).contains("\"standing\":\"held\""), "{}", step_log(&environment, hook));
    }
    let free = environment.run(&["lock", "status", "--json"]).json();
    assert_eq!(free[0]["standing"], "free");
}

#[test]
fn exposing_and_preparing_modules_are_rejected_as_hooks() {
    for (uses, why) in [
        ("switch, with: { link: x }", "shows a release to users"),
        ("pull, with: { from: \"file:dist/x\" }", "prepares a release"),
    ] {
        let environment = TestEnvironment::new();
        let step = format!("{{ uses: {uses}, grants: {{ dirs: {{ app: ./deploy/test, dist: ./dist }} }} }}");
        environment
            .write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {{ after: [ sneaky: {step} ] }}\n"));
        environment.pack("r1");
        environment
            .run(&["--local", "--release", "r1"])
            .assert_exit(2)
            .assert_stderr_contains("error[P0131]")
            .assert_stderr_contains(why);
    }
}

#[test]
fn malformed_hooks_are_rejected_at_their_line() {
    let check = |hooks: &str, code: &str, says: &str| {
        let environment = TestEnvironment::new();
        environment.write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {hooks}\n"));
        environment.pack("r1");
        environment
            .run(&["--local", "--release", "r1"])
            .assert_exit(2)
            .assert_stderr_contains(code)
            .assert_stderr_contains(says);
    };
    check("{ later: [] }", "P0104", "`hooks` has no key `later`");
    check("{ after: notify }", "P0105", "hook `after` must be a list");
    check("{ after: [ { program: [] } ] }", "P0118", "names no program");
    check("{ after: [ { a: { uses: run }, b: { uses: run } } ] }", "P0118", "must be one named step or one `program`");
    check("{ after: [ pull: { uses: verify, with: { files: [] } } ] }", "P0117", "two steps are called `pull`");
    check("{ after: [ x: { uses: run, needs: pull, with: { program: x } } ] }", "P0118", "cannot have `needs`");
}

/// A webhook, as docs/environments.md shows it.
#[test]
fn hook_calls_a_webhook() {
    let server = HttpTestServer::new(|_, _| HttpReply::ok("thanks"));
    let url = format!("{}/hook?text=shop-${{{{ release }}}}-is-live", server.origin());
    let call = json!({ "program": ["/usr/bin/curl", "--silent", "--fail", "--max-time", "10", url] });
    let environment = with_hooks(&json!({ "after": [call] }));
    environment.run(&["--local", "--release", "r1"]).assert_exit(0);
    assert_eq!(server.requested_paths(), ["/hook?text=shop-r1-is-live"]);
}

#[test]
fn preview_shows_hook_grants() {
    let environment = with_hooks(&json!({ "after": [shell_hook("true")] }));
    let plan = environment.run(&["plan", "--release", "r1"]);
    plan.assert_exit(0);
    let shown = plan.stdout.split("  hook   after-1  after\n").nth(1).expect("the hook is shown");
    assert!(shown.contains("may reach program") && shown.contains("TRUST: HOST"), "{shown}");
    let json = environment.run(&["plan", "--release", "r1", "--json"]).json();
    assert_eq!((&json["hooks"][0]["hook"], &json["hooks"][0]["trust"]), (&"after".into(), &"host".into()));
}

/// The token is checked where the lock is, also when that is elsewhere.
#[test]
fn lock_token_is_checked_in_remote_state() {
    let remote = tempfile::tempdir().unwrap();
    init_bare_repository(remote.path());
    let nested_deploy = runner_hook(&["deploy", "--local", "--release", "r1"]);
    let environment = with_hooks(&json!({ "after": [runner_hook(NESTED_STEP), nested_deploy] }));
    let state = format!("app: shop\nstate: git:{}\n", remote.path().display());
    environment.edit("deploy.yml", "app: shop\n", &state);
    let outer = environment.run(&["--local", "--release", "r1"]);
    outer.assert_exit(0).assert_stderr_contains("warning: hook `after-2`");
    assert!(!outer.stderr.contains("warning: hook `after-1`"), "{}", outer.stderr);
    assert!(
        step_log(&environment, "after-1").contains("deployed none to default"),
        "{}",
        step_log(&environment, "after-1")
    );
    assert!(step_log(&environment, "after-2").contains("error[P0219]"), "{}", step_log(&environment, "after-2"));
}

#[test]
fn failed_before_hook_rolls_nothing_back() {
    let environment = with_hooks(&json!({ "before": [shell_hook("test ! -e down")] }));
    environment.write("deploy.yml", environment.read("deploy.yml") + "on-failure: rollback\n");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.deploy("r2", &["--until", "switch"]).assert_exit(0);
    environment.write("down", "");
    environment.run(&["--local", "--release", "r2"]).assert_exit(1).assert_stderr_contains("step `before-1` failed");
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r2");
}

#[test]
fn deeply_nested_deployment_and_lock_release_are_rejected() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    let plan = environment
        .read("deploy.yml")
        .replace("environments:\n", "environments:\n  pre: { vars: { root: ./deploy/pre } }\n");
    let innermost = runner_hook(&[
        "deploy",
        "--local",
        "--plan",
        "innermost.yml",
        "--env",
        "test",
        "--release",
        "r1",
        "--lock-wait",
        "30s",
    ]);
    let inner = runner_hook(&["deploy", "--local", "--plan", "inner.yml", "--env", "pre", "--release", "r1"]);
    let release = runner_hook(&["lock", "release", "--local", "--env", "test", "--force", "--message", "mine"]);
    environment.write("innermost.yml", &plan);
    environment.write("inner.yml", format!("{plan}hooks: {{ after: [{innermost}] }}\n"));
    environment.write("deploy.yml", format!("{plan}hooks: {{ after: [{inner}, {release}] }}\n"));
    let began = std::time::Instant::now();
    let outer = environment.run(&["--local", "--env", "test", "--release", "r1"]);
    outer.assert_exit(0).assert_stderr_contains("warning: hook `after-2`");
    assert!(began.elapsed().as_secs() < 20, "it waited for itself");
    let hook_log = environment.run(&["logs", "after-1", "--env", "pre"]).stdout;
    assert!(hook_log.contains("error[P0219]"), "{hook_log}");
    let said = environment.run(&["logs", "after-2", "--env", "test"]).stdout;
    assert!(said.contains("error[P0219]"), "{said}");
}
