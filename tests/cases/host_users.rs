//! `sudo` of `ssh`: the agent works as another user than the one that logs in.

use std::{fs, os::unix::fs::MetadataExt as _};

use expect_test::expect;

use crate::support::{RunnerOutput, SshHost, TestEnvironment, write_ssh_config};

const RULE: &str = "deploy ALL=(app) NOPASSWD: /bin/sh";

fn environment(host: &SshHost, sudo: &str) -> TestEnvironment {
    let plan = format!(
        r#"version: 1
app: shop
dirs: {{ app: {root}, dist: "./dist:ro" }}
environments:
  test:
    ssh: {{ config: ./ssh_config, sudo: {sudo} }}
    hosts: {{ web: [{{ at: "{address}", name: web-1 }}] }}
steps:
  pull:
    on: web
    with: {{ from: "file:dist/shop-${{{{ release }}}}.tar.zst", into: app }}
    grants: {{ dirs: [app, dist] }}
  switch: {{ on: web, with: {{ link: current }}, grants: {{ dirs: [app] }} }}
  restart:
    on: web
    program: [/bin/sh, -c, "id -un > who"]
    trust: host
    with: {{ dir: app }}
    grants: {{ dirs: [app] }}
"#,
        root = host.path("home/app/srv").display(),
        address = host.address_of("deploy"),
    );
    let environment = TestEnvironment::with_plan(&plan);
    write_ssh_config(&environment.path(""), &[host]);
    environment.pack("r1");
    environment
}

fn deploy(environment: &TestEnvironment) -> RunnerOutput {
    environment.run(&["--local", "--release", "r1"])
}

#[test]
fn steps_run_as_the_user_of_sudo_and_the_one_that_logs_in_keeps_nothing() {
    let host = SshHost::with_users(RULE, &[]);
    let environment = environment(&host, "app");
    deploy(&environment).assert_exit(0);
    assert_eq!(host.read("home/app/srv/who"), "app\n");
    assert_eq!(host.read("home/app/srv/current/VERSION").trim(), "r1");
    let owner = |path: &str| fs::symlink_metadata(host.path(path)).unwrap().uid();
    for path in ["home/app/srv/current", "home/app/.cache/pawl", "home/app/.local/state/pawl/hosts/web-1"] {
        assert_eq!(owner(path), owner("home/app"), "{path}");
    }
    assert_eq!(fs::read_dir(host.path("home/deploy")).unwrap().count(), 0, "nothing of the user that logs in");
    let survey = environment.run(&["hosts", "--json"]);
    survey.assert_exit(0);
    assert_eq!(survey.json()["hosts"][0]["user"], "app");
    assert_eq!(survey.json()["hosts"][0]["live"]["on-host"]["label"], "r1");
}

/// `sudo: true` is root, also where the rule allows another user only.
#[test]
fn sudo_without_a_name_is_root() {
    let host = SshHost::with_users("deploy ALL=(root) NOPASSWD: /bin/sh", &[]);
    let environment = environment(&host, "true");
    deploy(&environment).assert_exit(0);
    assert_eq!(host.read("home/app/srv/who"), "root\n");
    environment.edit("deploy.yml", "sudo: true", "sudo: app");
    let refused = deploy(&environment);
    refused.assert_exit(2);
    refused.assert_stderr_contains("P0267");
}

#[test]
fn what_sudo_refuses_is_said_with_its_fix() {
    let refused = |rule: &str, programs: &[&str], user: &str, parts: &[&str]| {
        let host = SshHost::with_users(rule, programs);
        let environment = environment(&host, user);
        let refused = deploy(&environment);
        refused.assert_exit(2);
        for part in parts {
            refused.assert_stderr_contains(part);
        }
        assert!(!host.path("home/app/srv").exists() && !environment.exists(".pawl"), "nothing was touched");
    };
    refused(RULE, &[], "nobody-such", &["P0267", "has no user `nobody-such`"]);
    refused(RULE, &["env"], "app", &["P0267", "has no sudo", "install sudo there"]);
    // A rule for other programs, one that asks for a password, and none.
    let rule = "does not let `deploy` work as `app` without a password";
    for rules in ["deploy ALL=(app) NOPASSWD: /bin/ls", "deploy ALL=(app) /bin/sh", "root ALL=(ALL) ALL"] {
        refused(rules, &[], "app", &["P0267", rule, "`deploy ALL=(app) NOPASSWD: /bin/sh`", "visudo"]);
    }
}

/// A user without a home that it can write to has no place for records.
#[test]
fn user_without_a_home_is_refused_with_what_it_needs() {
    let host = SshHost::with_users(RULE, &[]);
    let environment = environment(&host, "app");
    std::os::unix::fs::chown(host.path("home/app"), Some(0), Some(0)).unwrap();
    fs::create_dir(host.path("home/app/srv")).unwrap();
    std::os::unix::fs::chown(host.path("home/app/srv"), Some(61_002), Some(61_002)).unwrap();
    let refused = deploy(&environment);
    refused.assert_exit(2);
    let said = refused.stderr.replace(&host.path("home/app").display().to_string(), "~app");
    expect![[r#"
        error[P0202]: on web-1: the agent can't keep its records in ~app/.local/state/pawl/hosts on the host
         --> deploy.yml:9:3
          |
        9 |   pull:
          |   ^^^^ runs on web-1
          caused by: ~app: Permission denied (os error 13)
          hint: give the user write access to it, or set `XDG_STATE_HOME` for the user's ssh sessions (`SetEnv` in sshd's configuration)
    "#]]
    .assert_eq(&said[said.find("error[").unwrap()..]);
}
