//! What can be wrong with a connection or a host: each ends in a code that names the host and the fix, or is no harm.

use std::{fs, io::Read as _, net::TcpStream, os::unix::fs::PermissionsExt as _, path::Path};

use super::{fleet, plan};
use crate::support::{RunnerOutput, SshHost, TestEnvironment, wait_until, write_ssh_config};

/// A deployment to the host works, and leaves no agent behind.
#[track_caller]
fn assert_usable(host: &SshHost) -> TestEnvironment {
    let environment = fleet(&[host]);
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(host.read("srv/current/VERSION").trim(), "r1");
    wait_until("the agent has ended", || host.agents().is_empty());
    environment
}

/// A deployment is refused before it changes anything, with a code, the host, and this in what it says.
#[track_caller]
fn assert_refused(environment: &TestEnvironment, host: &SshHost, code: &str, words: &[&str]) -> RunnerOutput {
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2).assert_stderr_contains(code).assert_stderr_contains("web-1");
    for words in words {
        refused.assert_stderr_contains(words);
    }
    refused.assert_stderr_contains("hint: ");
    assert!(!host.path("srv/releases").exists(), "nothing was changed");
    refused
}

fn write_program(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn key_that_the_host_does_not_know() {
    let (host, other) = (SshHost::new(), SshHost::new());
    let environment = fleet(&[&host]);
    fs::copy(other.path("user-key.pub"), host.path("user-key.pub")).unwrap();
    assert_refused(&environment, &host, "P0262", &["refused the login", "check the user and the key"]);
}

#[test]
fn user_that_the_host_does_not_know() {
    let host = SshHost::new();
    let environment = fleet(&[&host]);
    environment.edit("deploy.yml", "ssh://", "ssh://no-such-user@");
    assert_refused(&environment, &host, "P0262", &["refused the login", "-l no-such-user"]);
}

#[test]
fn host_of_another_architecture() {
    let host = SshHost::with_variables("PATH=ROOT/bin:/usr/bin:/bin");
    fs::create_dir(host.path("bin")).unwrap();
    write_program(&host.path("bin/uname"), "#!/bin/sh\necho riscv64\n");
    assert_refused(&fleet(&[&host]), &host, "P0263", &["is `riscv64`, and this runner is for `"]);
}

/// The folders for the agent in their order; each of the first ones has another fault.
#[test]
fn agent_goes_where_it_can_run_and_has_room() {
    let mounts = "mount -t tmpfs -o noexec pawl ROOT/mount; mkdir ROOT/home ROOT/runtime; \
         mount -t tmpfs -o ro pawl ROOT/home; mount -t tmpfs -o size=1m pawl ROOT/runtime; mount -t tmpfs pawl /var/tmp";
    let variables = "XDG_CACHE_HOME=ROOT/mount HOME=ROOT/home XDG_RUNTIME_DIR=ROOT/runtime";
    let host = SshHost::with_mounts(mounts, variables);
    // Before anything is there, `runner hosts` names the same folder.
    let survey = fleet(&[&host]).run(&["hosts", "--json"]);
    survey.assert_exit(0);
    let folder = survey.json()["hosts"][0]["agent-folder"]["path"].as_str().unwrap().to_owned();
    assert!(folder.starts_with("/var/tmp/pawl-"), "{folder}");
    fs::remove_dir_all(host.path("srv")).unwrap();
    let environment = assert_usable(&host);
    let again = environment.run(&["--local", "--release", "r1"]);
    again.assert_exit(0);
    assert!(!again.stderr.contains("sending the runner"), "it was kept there\n{}", again.stderr);
}

#[test]
fn home_and_cache_that_can_only_be_read() {
    let mounts = "mkdir ROOT/home; mount -t tmpfs -o ro pawl ROOT/home; mount -t tmpfs pawl /var/tmp";
    let host = SshHost::with_mounts(mounts, "XDG_CACHE_HOME=ROOT/home/.cache HOME=ROOT/home");
    assert_usable(&host);
    // The records of the agent must be kept, so they have no other place.
    let mounts = format!("{mounts}; mount -t tmpfs -o ro pawl ROOT/mount");
    let host = SshHost::with_mounts(&mounts, "HOME=ROOT/home XDG_STATE_HOME=ROOT/mount");
    let words = ["can't keep its records in ", "Read-only file system", "`XDG_STATE_HOME`"];
    assert_refused(&fleet(&[&host]), &host, "P0202", &words);
}

#[test]
fn no_folder_in_which_programs_can_run() {
    let mounts = "mount -t tmpfs -o noexec pawl ROOT/mount; mount -t tmpfs -o noexec pawl /var/tmp";
    let host = SshHost::with_mounts(mounts, "XDG_CACHE_HOME=ROOT/mount HOME=ROOT/mount XDG_RUNTIME_DIR=");
    let cause =
        format!("no programs may run in {}/pawl, {0}/.cache/pawl, /var/tmp/pawl-", host.path("mount").display());
    let words = ["no writable folder that allows programs to run", &cause, "not mounted `noexec`"];
    let environment = fleet(&[&host]);
    assert_refused(&environment, &host, "P0263", &words);
    // Which `runner hosts` says without writing there.
    let survey = environment.run(&["hosts"]);
    survey.assert_exit(1).assert_stderr_contains("P0263");
    for words in words {
        survey.assert_stderr_contains(words);
    }
    assert!(survey.stdout.lines().any(|line| line.contains("web-1") && line.contains("P0263")), "{}", survey.stdout);
}

#[test]
fn no_folder_with_room() {
    let mounts = "mount -t tmpfs -o size=1m pawl ROOT/mount; mount -t tmpfs -o size=1m pawl /var/tmp";
    let host = SshHost::with_mounts(mounts, "XDG_CACHE_HOME=ROOT/mount HOME=ROOT/mount XDG_RUNTIME_DIR=");
    let environment = fleet(&[&host]);
    assert_refused(&environment, &host, "P0263", &["no folder for it has enough room", " MB in /var/tmp/pawl-"]);
    // `df` is not always right: a quota is one's own.
    let host = SshHost::with_mounts(mounts, "XDG_CACHE_HOME=ROOT/mount PATH=ROOT/bin:/usr/bin:/bin");
    fs::create_dir(host.path("bin")).unwrap();
    write_program(&host.path("bin/df"), "#!/bin/sh\necho head; echo fs 9999999 0 9999999 0% /\n");
    let words = ["could not be stored there", " MB in ", "/mount/pawl on the host", "No space left on device"];
    assert_refused(&fleet(&[&host]), &host, "P0263", &words);
}

/// Up to 64 KiB are skipped. More is no noise, and is shown.
#[test]
fn login_shell_that_says_much() {
    let noise = |lines: usize| {
        let host = SshHost::with_variables("HOME=ROOT");
        let line = "x".repeat(1023);
        let text = format!("printf '\\033[31m'; for i in $(seq {lines}); do echo {line}; done\n");
        fs::write(host.path(".bashrc"), text).unwrap();
        host
    };
    assert_usable(&noise(63));
    let host = noise(65);
    let refused = assert_refused(&fleet(&[&host]), &host, "P0263", &["it said: xxx", ".bashrc"]);
    assert!(!refused.stderr.contains('\u{1b}'), "{}", refused.stderr);
}

#[test]
fn escape_sequences_of_a_host_reach_nobody() {
    let said = "printf '\\033[31monly\\033[0m \\033]0;title\\007backups\\n'";
    let host = SshHost::with_options(&format!("ForceCommand {said}"));
    let refused = assert_refused(&fleet(&[&host]), &host, "P0263", &["it said: only backups\n"]);
    assert!(!refused.stderr.contains("\\u{"), "{}", refused.stderr);
}

/// The command of the runner is a word of theirs.
#[test]
fn other_login_shells() {
    for shell in ["fish", "tcsh", "dash"] {
        // `ForceCommand` runs in the user's own shell, which becomes the other one.
        let host = SshHost::with_options(&format!("ForceCommand exec {shell} -c \"$SSH_ORIGINAL_COMMAND\""));
        assert_usable(&host);
    }
}

/// One server under so many names, each with a folder of its own.
fn fleet_of_one(host: &SshHost, count: usize) -> TestEnvironment {
    let environment = fleet(&[host]);
    let named = |line: &str| match line.split_once("name: web-").and_then(|(_, rest)| rest.split_once(',')) {
        Some((number, _)) => line.replace("/srv }", &format!("/srv-{number} }}")),
        None => line.to_owned(),
    };
    let lines: Vec<_> = plan(&vec![host; count]).lines().map(named).collect();
    environment.write("deploy.yml", lines.join("\n"));
    environment
}

/// sshd drops connections beyond `MaxStartups` before their login. They are dialed again.
#[test]
fn server_that_lets_few_in_at_once() {
    for few in ["3:100:3", "1:100:1"] {
        let host = SshHost::with_options(&format!("MaxStartups {few}"));
        fleet_of_one(&host, 8).deploy("r1", &["--until", "pull"]).assert_exit(0);
        assert!(host.read("sshd.log").contains("MaxStartups"), "{}", host.read("sshd.log"));
    }
}

/// More hosts than tries: they take turns.
#[test]
fn jump_host_that_lets_one_in_at_once() {
    let (jump, host) = (SshHost::with_options("MaxStartups 1:100:1"), SshHost::new());
    let environment = fleet_of_one(&host, 16);
    write_ssh_config(&environment.path(""), &[&jump, &host]);
    let behind = format!(
        "Host jump\n  HostName 127.0.0.1\n  Port {}\nHost inner\n  HostName 127.0.0.1\n  Port {}\n  ProxyJump jump\n",
        jump.port(),
        host.port()
    );
    environment.write("ssh_config", format!("{}{behind}", environment.read("ssh_config")));
    environment.write("deploy.yml", environment.read("deploy.yml").replace(&host.address(), "inner"));
    let survey = environment.run(&["hosts", "--json"]);
    survey.assert_exit(0);
    assert_eq!(survey.json()["hosts"].as_array().unwrap().len(), 16);
    assert!(jump.read("sshd.log").contains("MaxStartups"), "{}", jump.read("sshd.log"));
    // A login that the jump host refuses is not tried again.
    jump.allow_logins(false);
    let logins = |log: &str| log.matches("Connection closed by authenticating user").count();
    let before = logins(&jump.read("sshd.log"));
    environment.write("deploy.yml", environment.read("deploy.yml").replace("ssh: {", "ssh: { dials: 1,"));
    let refused = environment.run(&["hosts"]);
    refused.assert_exit(1).assert_stderr_contains("P0262").assert_stderr_contains("Permission denied");
    let tried = logins(&jump.read("sshd.log")) - before;
    assert!((1..=16).contains(&tried), "{}", jump.read("sshd.log"));
}

#[test]
fn server_that_lets_nobody_more_in() {
    let host = SshHost::with_options("MaxStartups 1:100:1");
    let environment = fleet(&[&host]);
    let address = host.address().replace("ssh://", "");
    // sshd waits for a login that never comes. While it is busy with a connection of before, it says so and hangs up.
    let mut waiting = None;
    wait_until("sshd lets it in", || {
        let stream = waiting.insert(TcpStream::connect(&address).unwrap());
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).is_ok() && greeting == *b"SSH-"
    });
    assert_refused(&environment, &host, "P0260", &["hung up before the login", "`MaxStartups`"]);
    drop(waiting);
}
