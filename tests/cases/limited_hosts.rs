//! `--limit`: a deployment to some of the hosts.

use expect_test::expect;

use crate::support::TestEnvironment;

const FLEET: &str = r#"version: 1
app: shop
dirs: { app: "${{ host.vars.root }}", dist: "./dist:ro", migrations: "./migrations:ro" }
environments:
  test:
    hosts:
      web:
        - { at: local, name: web-1, vars: { root: ./deploy/web-1 } }
        - { at: local, name: web-2, vars: { root: ./deploy/web-2 }, labels: [canary] }
      worker:
        - { at: local, name: worker-1, vars: { root: ./deploy/worker-1 } }
steps:
  pull:
    on: [web, worker]
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
    grants: { dirs: [app, dist] }
  migrate:
    on: { hosts: web, once: true }
    with: { dir: migrations, database: main }
    grants: { dirs: [migrations], databases: { main: "sqlite:./shop.db" } }
  switch: { on: [web, worker], with: { link: current }, grants: { dirs: [app] } }
  verify:
    on: web
    with: { files: [{ path: current/VERSION, equals: "${{ release }}" }] }
    grants: { dirs: ["app:ro"] }
  tell:
    program: [/bin/sh, -c, "echo ${{ release }} >> told"]
    trust: host
    with: { dir: here }
    grants: { dirs: { here: ./here } }
hooks: { after: [{ program: [/bin/true] }] }
"#;

fn fleet() -> TestEnvironment {
    let environment = TestEnvironment::with_plan(FLEET);
    environment.pack("r1");
    environment.pack("r2");
    environment
}

#[test]
fn only_the_chosen_hosts_are_worked_on_and_nothing_is_verified() {
    let environment = fleet();
    environment.deploy("r1", &[]).assert_exit(0);
    let limited = environment.deploy("r2", &["--limit", "canary,worker,!worker-1"]);
    limited.assert_exit(0);
    // The first of the hosts that take part does what runs once for the group.
    let decisions = ["pull web-2 run", "migrate web run", "switch web-2 run", "verify web-2 run"];
    assert_eq!(limited.decisions_on_targets(), decisions);
    assert_eq!(environment.read("deploy/web-2/current/VERSION").trim(), "r2");
    assert_eq!(environment.read("deploy/web-1/current/VERSION").trim(), "r1");
    assert_eq!(environment.read("here/told"), "r1\n", "this machine takes no part");
    let lines = limited.json_lines();
    let option = &lines.iter().find(|line| line["event"]["type"] == "override").unwrap()["event"];
    assert_eq!((&option["option"], &option["hosts"]), (&"limit".into(), &"canary,worker,!worker-1".into()));
    let history = environment.run(&["history", "--json"]).json();
    assert_eq!((&history[0]["exit"], &history[0]["verified"]), (&"success".into(), &false.into()));

    let again = environment.run(&["--local", "--release", "r2", "--limit", "web-1"]);
    again.assert_exit(0);
    again.assert_stderr_contains("--limit web-1\n");
    again.assert_stderr_contains("resume after a partial deployment");
    again.assert_stderr_contains("the `after` hooks did not run, because `--limit web-1` left out a part of the plan");
    let rest = environment.deploy("r2", &[]);
    rest.assert_exit(0);
    let mut ran = rest.decisions_on_targets();
    ran.retain(|decision| decision.ends_with("run") && !decision.starts_with("verify"));
    assert_eq!(ran, ["pull worker-1 run", "switch worker-1 run", "tell local run"]);
    assert_eq!(environment.run(&["status", "--json"]).json()[0]["live"]["verified"], true);
}

#[test]
fn the_preview_of_some_hosts_looks_at_those_only() {
    let environment = fleet();
    let preview = environment.run(&["plan", "--release", "r1", "--limit", "web-2"]);
    preview.assert_exit(0);
    let has_line = |start: &str| preview.stdout.lines().any(|line| line.trim_start().starts_with(start));
    assert!(has_line("run    pull@web-2") && has_line("run    migrate@web"), "{}", preview.stdout);
    assert!(has_line("?      pull@web-1") && has_line("not known yet: not selected"), "{}", preview.stdout);
    assert!(!environment.exists("deploy"), "nothing was made");
}

#[test]
fn the_command_to_repeat_names_the_hosts() {
    let environment = fleet();
    environment.write("deploy/web-2/current/file", "");
    let failed = environment.run(&["--local", "--release", "r1", "--limit", "web,!web-1"]);
    failed.assert_exit(1);
    failed.assert_stderr_contains("then run `runner --local --release r1 --limit 'web,!web-1'` again");
    assert!(!environment.exists("deploy/web-1"), "not even a folder is made on another host");
}

/// A step that takes part needs what one on another machine returns.
#[test]
fn what_a_chosen_host_needs_from_another_must_be_on_record() {
    let environment = TestEnvironment::with_plan(
        r#"version: 1
app: shop
dirs: { app: ./app-dir, dist: "./dist:ro" }
environments: { test: { hosts: { web: [{ at: local, name: web-1 }] } } }
steps:
  pull:
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
    grants: { dirs: [app, dist] }
  switch: { on: web, with: { link: current }, grants: { dirs: [app] } }
"#,
    );
    environment.pack("r1");
    environment.run(&["modules", "--accept"]).assert_exit(0);
    let refused = environment.run(&["--local", "--release", "r1", "--limit", "web"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0224]: step `switch` needs the outputs of `pull` for r1, which are not on record
          caused by: it never ran here
          hint: `pull` must run for r1 first: add `local` to `--limit`
    "#]]
    .assert_eq(&refused.stderr_snapshot());
    environment.deploy("r1", &["--limit", "web,local"]).assert_exit(0);
}

/// A rollback of some hosts changes what those show. The next one takes the others to the same release, and verifies it.
#[test]
fn a_rollback_of_some_hosts_is_finished_by_the_next_one() {
    let environment = fleet();
    environment.deploy("r1", &[]).assert_exit(0);
    environment.deploy("r2", &[]).assert_exit(0);
    let shown =
        || ["web-1", "web-2", "worker-1"].map(|host| environment.read(&format!("deploy/{host}/current/VERSION")));
    let back = environment.run(&["rollback", "--local", "--limit", "canary", "--json"]);
    back.assert_exit(0);
    let mut acted = back.decisions_on_targets();
    acted.retain(|decision| !decision.ends_with("skip"));
    assert_eq!(acted, ["pull web-2 run", "switch web-2 run", "verify web-2 run"]);
    assert_eq!(shown(), ["r2", "r1", "r2"]);
    assert_eq!(environment.read("here/told"), "r1\nr2\n", "this machine takes no part");
    let history = environment.run(&["history", "--json"]).json();
    assert_eq!((&history[0]["order"], &history[0]["verified"]), (&"rollback".into(), &false.into()));
    let status = environment.run(&["status"]).stdout;
    assert!(status.contains("r2 on web-1, worker-1; r1 on web-2"), "{status}");
    let hosts = environment.run(&["status", "--json"]).json()[0]["hosts"].clone();
    let state_of = |name: &str| {
        let host = hosts.as_array().unwrap().iter().find(|host| host["name"] == name).unwrap();
        (host["live"]["label"].clone(), host["state"].clone())
    };
    assert_eq!(state_of("web-2"), ("r1".into(), "done".into()));
    assert_eq!(state_of("web-1"), ("r2".into(), "behind".into()));

    // There is nothing before r1 for the one that shows it.
    environment.run(&["rollback", "--local", "--limit", "web-2"]).assert_exit(2).assert_stderr_contains("P0217");
    environment.run(&["rollback", "--local", "--limit", "web-1"]).assert_exit(0);
    assert_eq!(shown(), ["r1", "r1", "r2"]);
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(shown(), ["r1", "r1", "r1"]);
    assert_eq!(environment.run(&["status", "--json"]).json()[0]["live"]["verified"], true);
}

/// What one host was led back to by hand may be older than the release that a rollback of all goes to.
#[test]
fn a_rollback_says_which_hosts_it_takes_forward() {
    let environment = fleet();
    environment.pack("r3");
    environment.pack("r4");
    for release in ["r1", "r2", "r3"] {
        environment.deploy(release, &[]).assert_exit(0);
    }
    environment.run(&["rollback", "--local", "--limit", "web-2", "--to", "r1"]).assert_exit(0);
    environment.deploy("r4", &["--limit", "web-1"]).assert_exit(0);
    let back = environment.run(&["rollback", "--local"]);
    back.assert_exit(0).assert_stderr_contains("warning: web-2 shows r1: this rollback goes forward to r3 there");
    for host in ["web-1", "web-2", "worker-1"] {
        assert_eq!(environment.read(&format!("deploy/{host}/current/VERSION")), "r3");
    }
}

/// A release that was tried on some hosts only goes back there to what the others show.
#[test]
fn a_canary_goes_back_to_what_the_others_show() {
    let environment = fleet();
    environment.deploy("r1", &[]).assert_exit(0);
    environment.deploy("r2", &["--limit", "canary"]).assert_exit(0);
    assert_eq!(environment.read("deploy/web-2/current/VERSION"), "r2");
    environment.run(&["rollback", "--local", "--limit", "canary"]).assert_exit(0);
    assert_eq!(environment.read("deploy/web-2/current/VERSION"), "r1");
    let unknown = environment.run(&["rollback", "--local", "--limit", "canry"]);
    unknown.assert_exit(2).assert_stderr_contains("P0265").assert_stderr_contains("did you mean `canary`?");
}

/// The part of a promotion never counts as verified, so the environment after it waits for the whole.
#[test]
fn a_promotion_to_some_hosts_is_no_step_of_the_order() {
    let environment = TestEnvironment::with_plan(
        r#"version: 1
app: shop
dirs: { app: "${{ host.vars.root }}", dist: "./dist:ro" }
environments:
  test: { hosts: { web: [{ at: local, name: web-t, vars: { root: ./deploy/test } }] } }
  pre:
    after: test
    hosts:
      web:
        - { at: local, name: web-1, vars: { root: ./deploy/pre-1 } }
        - { at: local, name: web-2, vars: { root: ./deploy/pre-2 }, labels: [canary] }
  prod: { after: pre, hosts: { web: [{ at: local, name: web-p, vars: { root: ./deploy/prod } }] } }
steps:
  pull:
    on: web
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
    grants: { dirs: [app, dist] }
  switch: { on: web, with: { link: current }, grants: { dirs: [app] } }
"#,
    );
    environment.pack("r1");
    environment.deploy("r1", &["--env", "test"]).assert_exit(0);
    let promote = |more: &[&str]| environment.run(&[&["promote", "--local"], more].concat());
    let unknown = promote(&["--from", "test", "--to", "pre", "--limit", "web-t"]);
    unknown.assert_exit(2).assert_stderr_contains("P0265").assert_stderr_contains("no host, group or label of pre");
    let part = promote(&["--from", "test", "--to", "pre", "--limit", "canary", "--json"]);
    part.assert_exit(0);
    assert_eq!(part.decisions_on_targets(), ["pull web-2 run", "switch web-2 run"]);
    assert!(!environment.exists("deploy/pre-1"), "not even a folder is made on another host");
    promote(&["--from", "pre", "--to", "prod"]).assert_exit(2).assert_stderr_contains("P0222");
    environment.write("deploy/pre-1/current/file", "");
    let failed = promote(&["--from", "test", "--to", "pre", "--limit", "web,!canary"]);
    failed.assert_exit(1);
    failed.assert_stderr_contains(
        "then run `runner promote --local --from test --to pre --release r1 --limit 'web,!canary'` again",
    );
    std::fs::remove_dir_all(environment.path("deploy/pre-1/current")).unwrap();
    let whole = promote(&["--from", "test", "--to", "pre", "--json"]);
    whole.assert_exit(0);
    let mut acted = whole.decisions_on_targets();
    acted.retain(|decision| decision.ends_with("run"));
    assert_eq!(acted, ["switch web-1 run"]);
    promote(&["--from", "pre", "--to", "prod"]).assert_exit(0);
}
