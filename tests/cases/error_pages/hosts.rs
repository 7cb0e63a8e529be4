//! The pages about hosts.

use std::fs;

use crate::support::{
    RunnerOutput, SshHost, TestEnvironment, doc_blocks::check_error_page, wait_until, write_ssh_config,
};

use super::{check_page, command_line, exit_code};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];

fn environment(host: &SshHost) -> TestEnvironment {
    let plan = format!(
        "version: 1\napp: shop\nenvironments:\n  test:\n    ssh: {{ config: ./ssh_config }}\n    hosts: {{ web: [{{ at: \"{}\", name: web-1 }}] }}\n\
         steps:\n  pull:\n    on: web\n    with: {{ from: \"file:dist/shop-${{{{ release }}}}.tar.zst\", into: app }}\n    \
         grants: {{ dirs: {{ app: /srv/pawl-test, dist: \"./dist:ro\" }} }}\n",
        host.address()
    );
    let environment = TestEnvironment::with_plan(&plan);
    write_ssh_config(&environment.path(""), &[host]);
    environment.pack("r1");
    environment.run(&["modules"]);
    environment
}

fn port(host: &SshHost) -> String {
    host.address().rsplit_once(':').unwrap().1.to_owned()
}

/// The page shows the port that ssh has by default.
#[track_caller]
fn check_page_of(code: &str, port: &str, environment: &TestEnvironment) {
    check_error(code, port, environment, &environment.run(DEPLOY));
}

#[track_caller]
fn check_error(code: &str, port: &str, environment: &TestEnvironment, output: &RunnerOutput) {
    output.assert_exit(exit_code(code));
    let text = output.stderr.replace(&format!("127.0.0.1:{port}"), "10.0.0.7").replace(&format!("-p {port} "), "");
    let text = text.replace(&format!("port {port}"), "port 22").replace("127.0.0.1", "10.0.0.7");
    check_error_page(code, Some(&command_line(DEPLOY)), &text, &environment.shown_paths());
}

#[test]
fn p0260_host_that_is_down() {
    let host = SshHost::new();
    let (environment, port) = (environment(&host), port(&host));
    drop(host);
    check_page_of("P0260", &port, &environment);
}

#[test]
fn p0261_host_with_another_key() {
    let (host, other) = (SshHost::new(), SshHost::new());
    let environment = environment(&host);
    let known = environment.read("known_hosts");
    let key = |text: &str| text.split_whitespace().nth(2).unwrap().to_owned();
    environment.write("known_hosts", known.replace(&key(&known), &key(&other.known_key())));
    check_page_of("P0261", &port(&host), &environment);
}

#[test]
fn p0262_host_that_lets_nobody_in() {
    let host = SshHost::with_options("DenyUsers *");
    let environment = environment(&host);
    check_page_of("P0262", &port(&host), &environment);
}

#[test]
fn p0266_inventory_program_that_fails() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nenvironments:\n  prod:\n    hosts:\n      web: { from: { program: [./inventory.sh, prod], trust: host } }\n\
         steps: { switch: { on: web } }\n",
    );
    environment.write_program("inventory.sh", "#!/bin/sh\necho 'inventory: no region is set' >&2\nexit 1\n");
    let output = environment.run(DEPLOY);
    output.assert_exit(exit_code("P0266"));
    check_error_page("P0266", Some(&command_line(DEPLOY)), &output.stderr, &environment.shown_paths());
}

#[test]
fn p0267_host_without_a_rule_for_sudo() {
    let host = SshHost::with_users("root ALL=(ALL) ALL", &[]);
    let environment = environment(&host);
    environment.edit("deploy.yml", "config: ./ssh_config", "config: ./ssh_config, sudo: app");
    environment.edit("deploy.yml", "ssh://", "ssh://deploy@");
    check_page_of("P0267", &port(&host), &environment);
}

#[test]
fn p0263_host_that_runs_another_program() {
    let host = SshHost::with_options("ForceCommand echo only backups are allowed");
    let environment = environment(&host);
    check_page_of("P0263", &port(&host), &environment);
}

/// Three hosts, of which one may fail.
fn three_hosts() -> TestEnvironment {
    let environment = TestEnvironment::with_plan(
        r#"version: 1
app: shop
environments:
  test:
    hosts: { web: [{ at: local, name: web-1 }, { at: local, name: web-2 }, { at: local, name: web-3 }] }
    rollout: { on: web, max-failures: 1 }
steps:
  restart: { on: web, program: [./restart.sh, "${{ host.name }}"], trust: host }
"#,
    );
    environment
        .write_program("restart.sh", "#!/bin/sh\ntest $1 != web-2 || { echo shop is not installed >&2; exit 5; }\n");
    environment.run(&["modules"]);
    environment
}

#[test]
fn p0264_host_where_a_step_fails() {
    check_page("P0264", &three_hosts(), DEPLOY);
}

#[test]
fn p0265_name_of_no_host() {
    check_page("P0265", &three_hosts(), &[DEPLOY, &["--limit", "wbe-2"]].concat());
}

/// What a host ends in on which nobody can log in after the switch. `disturb` comes right after it.
fn switched_and_lost(host: &SshHost, environment: &TestEnvironment, disturb: impl FnOnce()) -> RunnerOutput {
    let root = host.path("srv").display().to_string();
    fs::create_dir(host.path("srv")).unwrap();
    environment.edit("deploy.yml", "/srv/pawl-test", &root);
    let steps = format!(
        "  gate:\n    on: web\n    program: [/bin/sh, -c, \"touch waits; until test -e open; do sleep 0.02; done\"]\n    trust: host\n    \
         with: {{ dir: app }}\n    grants: {{ dirs: {{ app: {root} }} }}\n\
         \x20 switch: {{ on: web, with: {{ link: current }}, grants: {{ dirs: {{ app: {root} }} }}, confirm: 5s }}\n"
    );
    environment.write("deploy.yml", environment.read("deploy.yml") + &steps);
    let run = environment.start_with_stderr(DEPLOY);
    wait_until("the step before the switch runs", || host.path("srv/waits").exists());
    host.allow_logins(false);
    fs::write(host.path("srv/open"), "").unwrap();
    wait_until("users see it", || host.path("srv/current").exists());
    disturb();
    environment.output_of(run)
}

#[test]
fn p0269_host_that_nobody_can_log_in_to() {
    let host = SshHost::new();
    let environment = environment(&host);
    let output = switched_and_lost(&host, &environment, || ());
    check_error("P0269", &port(&host), &environment, &output);
}

#[test]
fn p0270_host_that_cannot_undo() {
    let host = SshHost::new();
    let environment = environment(&host);
    let output = switched_and_lost(&host, &environment, || {
        fs::remove_file(host.path("srv/current")).unwrap();
        fs::create_dir(host.path("srv/current")).unwrap();
    });
    check_error("P0270", &port(&host), &environment, &output);
}
