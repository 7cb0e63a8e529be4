//! `confirm:`: a host undoes the switch by itself unless a new connection confirms it.

use std::fs;

use expect_test::expect;

use super::{fleet, not_skipped};
use crate::support::{RunnerOutput, SshHost, TestEnvironment, wait_until};

/// A step before the switch, which says that it waits, and waits for the file `open`.
const GATE: &str = r#"  gate:
    on: web
    program: [/bin/sh, -c, "touch waits; until test -e open; do sleep 0.02; done"]
    trust: host
    with: { dir: app }
    grants: { dirs: [app] }
"#;

/// r1 is live on the host, and r2 is to be confirmed within the time.
fn deployed(host: &SshHost, within: &str) -> TestEnvironment {
    let environment = fleet(&[host]);
    environment.edit(
        "deploy.yml",
        "  switch: { on: web, with: { link: current }, grants: { dirs: [app] } }",
        &format!(
            "{GATE}  switch: {{ on: web, with: {{ link: current }}, grants: {{ dirs: [app] }}, confirm: {within} }}"
        ),
    );
    fs::write(host.path("srv/open"), "").unwrap();
    environment.deploy("r1", &[]).assert_exit(0);
    fs::remove_file(host.path("srv/waits")).unwrap();
    environment
}

fn shows(host: &SshHost, release: &str) -> bool {
    host.read("srv/current/VERSION").trim() == release
}

/// Starts to deploy r2 to a host that lets nobody in once its steps have begun, up to the moment that users see it.
fn switched_without_logins(environment: &TestEnvironment, host: &SshHost) -> std::process::Child {
    fs::remove_file(host.path("srv/open")).unwrap();
    let run = environment.start_with_stderr(&["--local", "--release", "r2"]);
    wait_until("the step before the switch runs", || host.path("srv/waits").exists());
    host.allow_logins(false);
    fs::write(host.path("srv/open"), "").unwrap();
    wait_until("users see it", || shows(host, "r2"));
    run
}

fn error(output: &RunnerOutput) -> &str {
    &output.stderr[output.stderr.find("error[").unwrap()..]
}

#[test]
fn new_connection_confirms_a_switch() {
    let host = SshHost::new();
    let environment = deployed(&host, "30s");
    let logins = |text: String| text.matches("Accepted publickey").count();
    let before = logins(host.read("sshd.log"));
    let deployed = environment.run(&["--local", "--release", "r2"]);
    deployed.assert_exit(0).assert_stderr_contains("confirmed");
    assert_eq!(logins(host.read("sshd.log")) - before, 2, "one for the steps, one that confirms");
    assert!(shows(&host, "r2"));
    let logs = environment.run(&["logs", "switch"]);
    assert!(logs.stdout.contains("confirmed over a new connection"), "{}", logs.stdout);
}

/// The old connection lives, and would have told deploy-rs that all is well (its issue 106).
#[test]
fn host_that_nobody_can_log_in_to_undoes_the_switch() {
    let host = SshHost::new();
    let environment = deployed(&host, "5s");
    let run = switched_without_logins(&environment, &host);
    let failed = environment.output_of(run);
    failed.assert_exit(1);
    assert!(shows(&host, "r1"), "the host went back");
    let shown = error(&failed).replace(&host.address().replace("ssh://127.0.0.1:", ""), "PORT");
    let shown = shown.replace(&environment.path("").display().to_string(), "/srv/shop/");
    expect![[r#"
        error[P0269]: step `switch` on web-1 failed on attempt 1
          caused by: no new connection confirmed it within 5.0 s (host `web-1` (127.0.0.1:PORT) refused the login; ssh: root@127.0.0.1: Permission denied (publickey).), so web-1 undid it
          hint: check the user and the key: `ssh -F /srv/shop/ssh_config -p PORT 127.0.0.1` must log in without a prompt; then run `runner --local --release r2` again (skips: pull, migrate, gate)
    "#]].assert_eq(&shown);
    host.allow_logins(true);
    let status = environment.run(&["status"]);
    assert!(status.stdout.contains("r1"), "{}", status.stdout);
    environment.run(&["why", "switch"]).assert_exit(0);
    let repaired = environment.deploy("r2", &[]);
    repaired.assert_exit(0);
    assert_eq!(not_skipped(&repaired), ["switch web-1 run", "restart web-1 run", "verify web-1 run"]);
    assert!(shows(&host, "r2"));
}

/// The link is down right after the switch, and stays so.
#[test]
fn coordinator_says_that_it_cannot_know() {
    let host = SshHost::new();
    let environment = deployed(&host, "5s");
    let run = switched_without_logins(&environment, &host);
    host.cut_connections();
    let failed = environment.output_of(run);
    failed.assert_exit(1).assert_stderr_contains("P0302");
    failed.assert_stderr_contains("it undoes the step by itself, unless a confirmation has reached it");
    wait_until("the host has gone back by itself", || shows(&host, "r1") && host.agents().is_empty());
    host.allow_logins(true);
    let repaired = environment.deploy("r2", &[]);
    repaired.assert_exit(0);
    assert_eq!(not_skipped(&repaired), ["switch web-1 run", "restart web-1 run", "verify web-1 run"]);
    let why = environment.run(&["why", "switch"]);
    assert!(why.stdout.contains("the host undid it, since nobody confirmed it in time"), "{}", why.stdout);
}

/// The link is down right after the switch, and up again in time.
#[test]
fn link_that_comes_back_confirms() {
    let host = SshHost::new();
    let environment = deployed(&host, "60s");
    let run = switched_without_logins(&environment, &host);
    host.cut_connections();
    host.allow_logins(true);
    environment.output_of(run).assert_exit(0);
    assert!(shows(&host, "r2"));
}

/// The coordinator is killed before it can confirm: the next attempt does not wait for the time to be over.
#[test]
fn next_attempt_switches_again_what_nobody_confirmed() {
    let host = SshHost::new();
    let environment = deployed(&host, "10m");
    let mut run = switched_without_logins(&environment, &host);
    run.kill().unwrap();
    run.wait().unwrap();
    host.allow_logins(true);
    let resumed = environment.deploy("r2", &[]);
    resumed.assert_exit(0);
    assert_eq!(not_skipped(&resumed), ["switch web-1 run", "restart web-1 run", "verify web-1 run"]);
    assert!(shows(&host, "r2"));
}

/// What the host can't undo is said (deploy-rs calls it a success: its issue 214).
#[test]
fn host_that_cannot_undo_says_so() {
    let host = SshHost::new();
    let environment = deployed(&host, "5s");
    let run = switched_without_logins(&environment, &host);
    // Somebody puts a directory in place of the link.
    fs::rename(host.path("srv/current"), host.path("srv/other")).unwrap();
    fs::create_dir(host.path("srv/current")).unwrap();
    let failed = environment.output_of(run);
    failed.assert_exit(1).assert_stderr_contains("error[P0270]").assert_stderr_contains("web-1 could not undo it");
    fs::remove_dir(host.path("srv/current")).unwrap();
    fs::rename(host.path("srv/other"), host.path("srv/current")).unwrap();
    host.allow_logins(true);
    let repaired = environment.deploy("r2", &[]);
    repaired.assert_exit(0);
    assert_eq!(not_skipped(&repaired)[0], "switch web-1 adopt");
}

#[test]
fn steps_that_cannot_be_confirmed_are_refused() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nenvironments: { test: { hosts: { web: [\"ssh://root@192.0.2.1\"] } } }\nsteps:\n  warm:\n    on: web\n    \
         program: [/bin/true]\n    trust: host\n    confirm: 30s\n",
    );
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0118]: step `warm` can't be confirmed: `run` does not show a release to users
         --> deploy.yml:9:14
          |
        9 |     confirm: 30s
          |              ^^^ not for this module
          hint: move `confirm` to the step that shows the release, such as `switch`
    "#]]
    .assert_eq(&refused.stderr);
}
