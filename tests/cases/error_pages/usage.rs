//! Errors of commands, and of what the runner checks before the first step.

use std::{fs, process::Stdio};

use serde_json::json;

use super::check_page;
use crate::support::{
    HttpReply, HttpTestServer, TestEnvironment,
    doc_blocks::{check_error_page, command_line, exit_code},
    release_folder, wait_until,
};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];

fn packed() -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    environment
}

/// The example with the environments test, pre and prod, in this order.
fn three_environments() -> TestEnvironment {
    let environment = packed();
    environment.edit(
        "deploy.yml",
        "environments:\n",
        "environments:\n  pre: { after: test, vars: { root: ./deploy/pre } }\n  prod: { after: pre, vars: { root: ./deploy/prod } }\n",
    );
    environment
}

#[test]
fn p0201_unreadable_plan() {
    check_page("P0201", &packed(), &["--local", "--release", "r1", "--plan", "shop.yml"]);
}

#[test]
fn p0239_files_of_a_deployment_that_exist() {
    let environment = TestEnvironment::new();
    environment.write("build.sh", "");
    check_page("P0239", &environment, &["init", "--template", "static"]);
}

#[test]
fn p0235_several_plans() {
    let environment = packed();
    environment.write("shop.pawl.yml", environment.read("deploy.yml"));
    check_page("P0235", &environment, DEPLOY);
}

#[test]
fn p0202_resource_that_is_not_ready() {
    let environment = packed();
    fs::remove_dir_all(environment.path("migrations")).unwrap();
    check_page("P0202", &environment, DEPLOY);
}

#[test]
fn p0203_release_without_a_digest() {
    check_page("P0203", &packed(), &["--local", "--release", "r9"]);
}

/// Without two of its capabilities, not even root reads a file that nobody may read.
#[test]
fn p0204_unreadable_migration() {
    let environment = packed();
    let script = "chmod 000 migrations/0002_first_products.sql && \
                  exec setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search \"$@\"";
    let output = environment.run_in_mount_namespace(script, DEPLOY);
    output.assert_exit(exit_code("P0204"));
    check_error_page("P0204", Some(&command_line(DEPLOY)), &output.stderr, &environment.shown_paths());
}

#[test]
fn p0205_unknown_step() {
    check_page("P0205", &packed(), &["--local", "--release", "r1", "--only", "migrat"]);
}

#[test]
fn p0206_invalid_release_label() {
    check_page("P0206", &packed(), &["--local", "--release", "../x"]);
}

#[test]
fn p0207_unknown_release() {
    check_page("P0207", &packed(), &["--local"]);
}

#[test]
fn p0208_local_is_required() {
    check_page("P0208", &packed(), &["deploy", "--release", "r1"]);
}

#[test]
fn p0209_invalid_argument_of_step() {
    check_page("P0209", &packed(), &["step", "--local", "verify", "--with", "files"]);
}

#[test]
fn p0210_unknown_step_in_the_attempt() {
    check_page("P0210", &TestEnvironment::deployed(), &["why", "migrat"]);
}

#[test]
fn p0211_unknown_attempt() {
    check_page("P0211", &TestEnvironment::deployed(), &["logs", "--attempt", "9"]);
}

#[test]
fn p0212_nothing_was_deployed() {
    check_page("P0212", &three_environments(), &["why", "migrate", "--env", "prod"]);
}

#[test]
fn p0213_no_journal_to_check() {
    check_page("P0213", &TestEnvironment::deployed(), &["journal", "check", ".pawl"]);
}

#[test]
fn p0214_answer_that_cannot_be_written() {
    let environment = TestEnvironment::deployed();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = environment.command(&["history", "--json"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(exit_code("P0214")));
    let stderr = String::from_utf8(output.stderr).unwrap();
    check_error_page("P0214", Some("runner history --json > /mnt/full/history.json"), &stderr, &[]);
}

#[test]
fn p0215_content_that_differs_from_the_verified_release() {
    let environment = three_environments();
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    environment.write("app/index.html", "Release r1, built again\n");
    environment.pack("r1");
    check_page("P0215", &environment, &["promote", "--local", "--from", "test", "--to", "pre"]);
}

#[test]
fn p0216_release_that_is_not_verified_before() {
    check_page("P0216", &three_environments(), &["--local", "--env", "prod", "--release", "r1"]);
}

#[test]
fn p0217_no_release_to_roll_back_to() {
    check_page("P0217", &TestEnvironment::deployed(), &["rollback", "--local"]);
}

#[test]
fn p0218_person_who_is_not_allowed() {
    let mut environment = packed();
    environment.edit("deploy.yml", "test: { vars:", "test: { allow: [\"github:ada\"], vars:");
    environment.set_variable("CI", "true");
    environment.set_variable("GITHUB_ACTOR", "eve");
    check_page("P0218", &environment, &["--release", "r1"]);
}

#[test]
fn p0219_deployment_inside_itself() {
    let environment = packed();
    let runner = env!("CARGO_BIN_EXE_runner");
    let script = format!("{runner} --local --release r1 2> inner; echo $? > code");
    let hooks = json!({ "after": [{ "program": ["/bin/sh", "-c", script] }] });
    environment.write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {hooks}\n"));
    environment.run(DEPLOY).assert_exit(0);
    assert_eq!(environment.read("code"), format!("{}\n", exit_code("P0219")));
    check_error_page("P0219", Some(&command_line(DEPLOY)), &environment.read("inner"), &environment.shown_paths());
}

#[test]
fn p0220_folder_of_a_new_step_that_is_not_empty() {
    let environment = packed();
    environment.write("warm/README.md", "");
    check_page("P0220", &environment, &["new-step", "warm"]);
}

/// A rollback is chosen while a deployment runs, which then changes what is live.
#[test]
fn p0221_rollback_that_another_deployment_overtook() {
    let environment = TestEnvironment::deployed();
    environment.pack("r2");
    environment.deploy("r2", &[]).assert_exit(0);
    let wait = "touch began; until test -e go; do sleep 0.02; done";
    let hooks = json!({ "before": [{ "program": ["/bin/sh", "-c", wait] }] });
    environment.write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {hooks}\n"));
    environment.pack("r3");
    let deployment = environment.start(&["--local", "--release", "r3"]);
    wait_until("the deployment has the lock", || environment.exists("began"));
    // The rollback writes this file again after it has chosen a release, and before it waits for the lock.
    fs::remove_file(environment.path("deploy.lock")).unwrap();
    let arguments = ["rollback", "--local", "--lock-wait", "10m"];
    let rollback = environment.start_with_stderr(&arguments);
    wait_until("the rollback has chosen a release", || environment.exists("deploy.lock"));
    environment.write("go", "");
    assert_eq!(environment.wait(deployment), Some(0));
    let output = environment.output_of(rollback);
    output.assert_exit(exit_code("P0221"));
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r3");
    check_error_page("P0221", Some(&command_line(&arguments)), &output.stderr, &environment.shown_paths());
}

#[test]
fn p0222_release_that_is_not_verified_in_the_source() {
    let environment = three_environments();
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: broken, exists: false }\n");
    environment.write("deploy/test/broken", "");
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(1);
    check_page("P0222", &environment, &["promote", "--local", "--from", "test", "--to", "pre"]);
}

#[test]
fn p0250_file_that_differs_from_the_verified_one() {
    let environment = three_environments();
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    environment.write("migrations/0003_orders.sql", "CREATE TABLE purchase (id INTEGER PRIMARY KEY);\n");
    check_page("P0250", &environment, &["promote", "--local", "--from", "test", "--to", "pre"]);
}

/// A release that is mounted can't be moved away, not even by root.
#[test]
fn p0223_old_release_that_cannot_be_removed() {
    let environment = TestEnvironment::new();
    let oldest = release_folder("r1", &environment.pack("r1"));
    environment.deploy("r1", &[]).assert_exit(0);
    for label in ["r2", "r3"] {
        environment.pack(label);
        environment.deploy(label, &[]).assert_exit(0);
    }
    let arguments = ["prune", "--local", "--keep", "1"];
    let script = format!("mount --bind deploy/test/releases/{oldest} deploy/test/releases/{oldest} && exec \"$@\"");
    let output = environment.run_in_mount_namespace(&script, &arguments);
    output.assert_exit(exit_code("P0223"));
    check_error_page("P0223", Some(&command_line(&arguments)), &output.stderr, &environment.shown_paths());
}

#[test]
fn p0224_outputs_of_another_release() {
    let environment = TestEnvironment::deployed();
    environment.pack("r2");
    check_page("P0224", &environment, &["--local", "--release", "r2", "--start-from", "switch"]);
}

#[test]
fn p0236_link_that_leads_outside() {
    let environment = TestEnvironment::new();
    std::os::unix::fs::symlink("../uploads", environment.path("app/uploads")).unwrap();
    check_page("P0236", &environment, &["pack", "app", "--version", "r1", "--out", "dist/shop-{version}.tar.zst"]);
}

#[test]
fn p0237_web_server_that_wants_credentials() {
    let environment = packed();
    let server = HttpTestServer::new(|_, _| HttpReply::status(401));
    let target = format!("{}/shop/", server.origin());
    let output = environment.run(&["publish", "dist/shop-r1.tar.zst", &target]);
    output.assert_exit(exit_code("P0237"));
    let mut shown = environment.shown_paths();
    shown.push((server.origin(), "https://releases.example.com"));
    shown.push((server.address(), "releases.example.com:443"));
    let command = command_line(&["publish", "dist/shop-r1.tar.zst", "https://releases.example.com/shop/"]);
    check_error_page("P0237", Some(&command), &output.stderr, &shown);
}

#[test]
fn p0238_name_that_is_taken() {
    let environment = packed();
    environment.write("public/shop-r1.tar.zst", "another content");
    check_page("P0238", &environment, &["publish", "dist/shop-r1.tar.zst", "public/"]);
}
