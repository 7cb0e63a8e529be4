//! The pages about hosts.

use crate::support::{SshHost, TestEnvironment, doc_blocks::check_error_page, write_ssh_config};

use super::{command_line, exit_code};

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
    let output = environment.run(DEPLOY);
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
