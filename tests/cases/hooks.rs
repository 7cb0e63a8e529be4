//! Hooks: when they run, what they may do, and that a runner among them neither dead-locks nor slips past the lock.

use serde_json::json;

use crate::support::{Answer, Environment, Reply, Server, bare};

const RUNNER: &str = env!("CARGO_BIN_EXE_runner");

/// The example with these lists of hooks, each as JSON.
fn with_hooks(hooks: &serde_json::Value) -> Environment {
    let environment = Environment::new();
    environment.write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {hooks}\n"));
    for label in ["r1", "r2", "r3"] {
        environment.pack(label);
    }
    environment
}

/// What each program of the journals' steps printed, by the log.
fn log(environment: &Environment, step: &str) -> String {
    environment.run(&["logs", step]).assert_exit(0).stdout.clone()
}

fn shell(script: &str) -> serde_json::Value {
    json!({ "program": ["/bin/sh", "-c", script] })
}

/// A nested `runner` with these arguments.
fn nested(arguments: &[&str]) -> serde_json::Value {
    let program = [&[RUNNER], arguments].concat();
    json!({ "program": program })
}

const STEP: &[&str] = &[
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
fn they_run_around_the_steps_in_each_attempt_and_know_what_happened() {
    let script =
        "echo $PAWL_APP $PAWL_ENVIRONMENT $PAWL_RELEASE ${PAWL_RESULT:-begins} ${PAWL_FAILED_STEP:-none} >> told";
    let hook = json!([shell(script)]);
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
fn a_failure_before_touches_nothing_and_one_after_changes_nothing() {
    let environment = with_hooks(&json!({ "before": [shell("exit 3")] }));
    let stopped = environment.run(&["--local", "--release", "r1"]);
    stopped.assert_exit(1).assert_says("step `before-1` failed").assert_says("ended with status 3");
    assert!(!environment.exists("deploy/test/releases"), "nothing was pulled");

    let environment = with_hooks(&json!({ "after": [shell("echo no; exit 3"), shell("echo second >> told")] }));
    let done = environment.run(&["--local", "--release", "r1"]);
    done.assert_exit(0).assert_says("warning: hook `after-1`: `/bin/sh -c 'echo no; exit 3'` ended with status 3");
    assert_eq!(environment.read("told"), "second\n", "the hooks after it run all the same");
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!(status[0]["live"]["verified"], true);
}

#[test]
fn a_step_of_its_own_works_under_every_command() {
    let environment = with_hooks(&json!({ "after": [nested(STEP)] }));
    let works = |answer: Answer| {
        answer.assert_exit(0);
        assert!(!answer.stderr.contains("warning: hook"), "{}", answer.stderr);
        assert!(log(&environment, "after-1").contains("deployed none to default"), "{}", log(&environment, "after-1"));
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
fn a_deployment_of_the_same_environment_is_refused_at_once_with_the_reason() {
    let inner = nested(&["deploy", "--local", "--release", "r1", "--lock-wait", "10m"]);
    let environment = with_hooks(&json!({ "after": [inner] }));
    for command in [&["setup"], &["deploy"]] {
        let began = std::time::Instant::now();
        let outer = environment.run(&[command.as_slice(), &["--local", "--release", "r1"]].concat());
        outer.assert_exit(0).assert_says("warning: hook `after-1`");
        assert!(began.elapsed().as_secs() < 10, "it waited for itself");
        let said = log(&environment, "after-1");
        assert!(said.contains("error[P0219]: this is a part of a deployment of shop/test"), "{said}");
    }
    environment.deploy("r2", &[]).assert_exit(0);
    environment.run(&["rollback", "--local"]).assert_exit(0).assert_says("warning: hook `after-1`");
    assert!(log(&environment, "after-1").contains("error[P0219]"));
}

#[test]
fn another_environment_may_be_deployed_from_a_hook() {
    let environment = Environment::new();
    environment.edit("deploy.yml", "environments:\n", "environments:\n  pre: { vars: { root: ./deploy/pre } }\n");
    environment.pack("r1");
    environment.write("other.yml", environment.read("deploy.yml"));
    let inner = nested(&["deploy", "--local", "--plan", "other.yml", "--env", "pre", "--release", "r1"]);
    environment.write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {{ after: [{inner}] }}\n"));
    let outer = environment.run(&["--local", "--env", "test", "--release", "r1"]);
    outer.assert_exit(0);
    assert!(!outer.stderr.contains("warning: hook"), "{}", outer.stderr);
    assert_eq!(environment.read("deploy/pre/current/VERSION").trim(), "r1");
}

#[test]
fn a_forged_or_stale_token_is_refused() {
    let mut environment =
        with_hooks(&json!({ "after": [shell("echo \"$PAWL_LOCK\" > token; echo \"$PAWL_STATE\" > state")] }));
    environment.deploy("r1", &[]).assert_exit(0);
    let (stale, state) = (environment.read("token").trim().to_owned(), environment.read("state").trim().to_owned());
    let forged = format!("{}:{}", stale.rsplit_once(':').unwrap().0, "0".repeat(32));
    environment.set("PAWL_STATE", &state);
    for token in [stale.as_str(), &forged, "shop/test:1:", "nonsense", ""] {
        environment.set("PAWL_LOCK", token);
        for command in [&["--local", "--release", "r2"], STEP] {
            environment.run(command).assert_exit(2).assert_says("error[P0505]");
        }
    }
    environment.set("PAWL_LOCK", &stale);
    environment.set("PAWL_STATE", "");
    environment.run(STEP).assert_exit(2).assert_says("PAWL_STATE does not say where its lock is");
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");
}

#[test]
fn the_lock_is_held_through_all_hooks() {
    let other = nested(&["lock", "status", "--json"]);
    let environment = with_hooks(&json!({ "before": [other], "after": [other] }));
    environment.deploy("r1", &[]).assert_exit(0);
    for hook in ["before-1", "after-1"] {
        assert!(log(&environment, hook).contains("\"standing\":\"lives\""), "{}", log(&environment, hook));
    }
    let free = environment.run(&["lock", "status", "--json"]).json();
    assert_eq!(free[0]["standing"], "free");
}

#[test]
fn what_is_part_of_the_deployment_is_no_hook() {
    for (uses, why) in [
        ("switch, with: { link: x }", "shows a release to users"),
        ("pull, with: { from: \"file:dist/x\" }", "prepares a release"),
    ] {
        let environment = Environment::new();
        let step = format!("{{ uses: {uses}, grants: {{ dirs: {{ app: ./deploy/test, dist: ./dist }} }} }}");
        environment
            .write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {{ after: [ sneaky: {step} ] }}\n"));
        environment.pack("r1");
        environment.run(&["--local", "--release", "r1"]).assert_exit(2).assert_says("error[P0131]").assert_says(why);
    }
}

#[test]
fn hooks_that_are_none_are_refused_where_they_stand() {
    let check = |hooks: &str, code: &str, says: &str| {
        let environment = Environment::new();
        environment.write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {hooks}\n"));
        environment.pack("r1");
        environment.run(&["--local", "--release", "r1"]).assert_exit(2).assert_says(code).assert_says(says);
    };
    check("{ later: [] }", "P0104", "`hooks` has no key `later`");
    check("{ after: notify }", "P0105", "hook `after` must be a list");
    check("{ after: [ { program: [] } ] }", "P0118", "names no program");
    check(
        "{ after: [ { a: { uses: run }, b: { uses: run } } ] }",
        "P0118",
        "is one step under its name, or one `program`",
    );
    check("{ after: [ pull: { uses: verify, with: { files: [] } } ] }", "P0117", "there are two steps `pull`");
    check("{ after: [ x: { uses: run, needs: pull, with: { program: x } } ] }", "P0118", "can't have `needs`");
}

/// A webhook, as docs/environments.md shows it.
#[test]
fn a_webhook_is_told() {
    let server = Server::new(|_, _| Reply::ok("thanks"));
    let url = format!("{}/hook?text=shop-${{{{ release }}}}-is-live", server.origin());
    let call = json!({ "program": ["/usr/bin/curl", "--silent", "--fail", "--max-time", "10", url] });
    let environment = with_hooks(&json!({ "after": [call] }));
    environment.run(&["--local", "--release", "r1"]).assert_exit(0);
    assert_eq!(server.asked(), ["/hook?text=shop-r1-is-live"]);
}

#[test]
fn a_preview_shows_what_hooks_may_reach() {
    let environment = with_hooks(&json!({ "after": [shell("true")] }));
    let plan = environment.run(&["plan", "--release", "r1"]);
    plan.assert_exit(0);
    let shown = plan.stdout.split("  hook   after-1  after\n").nth(1).expect("the hook is shown");
    assert!(shown.contains("may reach program") && shown.contains("TRUST: HOST"), "{shown}");
    let json = environment.run(&["plan", "--release", "r1", "--json"]).json();
    assert_eq!((&json["hooks"][0]["hook"], &json["hooks"][0]["trust"]), (&"after".into(), &"host".into()));
}

/// The token is checked where the lock is, also when that is elsewhere.
#[test]
fn with_state_elsewhere_the_token_is_checked_there() {
    let remote = tempfile::tempdir().unwrap();
    bare(remote.path());
    let nested_deploy = nested(&["deploy", "--local", "--release", "r1"]);
    let environment = with_hooks(&json!({ "after": [nested(STEP), nested_deploy] }));
    let state = format!("app: shop\nstate: git:{}\n", remote.path().display());
    environment.edit("deploy.yml", "app: shop\n", &state);
    let outer = environment.run(&["--local", "--release", "r1"]);
    outer.assert_exit(0).assert_says("warning: hook `after-2`");
    assert!(!outer.stderr.contains("warning: hook `after-1`"), "{}", outer.stderr);
    assert!(log(&environment, "after-1").contains("deployed none to default"), "{}", log(&environment, "after-1"));
    assert!(log(&environment, "after-2").contains("error[P0219]"), "{}", log(&environment, "after-2"));
}
