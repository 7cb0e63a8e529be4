//! Steps on hosts that ssh reaches: real sshds on this machine, each with folders of its own.

mod confirm;
mod faults;
mod fence;
mod limit;

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use expect_test::expect;

use crate::support::{RunnerOutput, SshHost, TestEnvironment, doc_blocks::fenced_block, wait_until, write_ssh_config};

/// A plan for these hosts. `restart` writes `begun`, waits until the host has a file `go`, and adds a line to `restarts`.
fn plan(hosts: &[&SshHost]) -> String {
    let hosts: Vec<String> = hosts
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let (at, root) = (host.address(), host.path("srv").display().to_string());
            format!("        - {{ at: \"{at}\", name: web-{}, vars: {{ root: {root} }} }}\n", index + 1)
        })
        .collect();
    format!(
        r#"version: 1
app: shop
dirs: {{ app: "${{{{ host.vars.root }}}}", dist: "./dist:ro", migrations: "./migrations:ro" }}
environments:
  test:
    ssh: {{ config: ./ssh_config }}
    secrets: {{ TOKEN: env:TOKEN }}
    hosts:
      web:
{}steps:
  pull:
    on: web
    with: {{ from: "file:dist/shop-${{{{ release }}}}.tar.zst", into: app }}
    grants: {{ dirs: [app, dist] }}
  migrate:
    on: {{ hosts: web, once: true }}
    with: {{ dir: migrations, database: main }}
    grants: {{ dirs: [migrations], databases: {{ main: "sqlite:${{{{ host.vars.root }}}}/shop.db" }} }}
  switch: {{ on: web, with: {{ link: current }}, grants: {{ dirs: [app] }} }}
  restart:
    on: web
    program: [/bin/sh, -c, "touch begun; until test -e go || test ! -e begun; do sleep 0.02; done; echo ${{{{ release }}}} $TOKEN | wc -w >> restarts; test ! -e broken"]
    trust: host
    with: {{ dir: app }}
    grants: {{ dirs: [app], env: {{ TOKEN: "${{{{ secrets.TOKEN }}}}" }} }}
  verify:
    on: web
    with: {{ files: [{{ path: current/VERSION, equals: "${{{{ release }}}}" }}] }}
    grants: {{ dirs: ["app:ro"] }}
"#,
        hosts.concat()
    )
}

fn fleet(hosts: &[&SshHost]) -> TestEnvironment {
    let mut environment = TestEnvironment::with_plan(&plan(hosts));
    environment.set_variable("TOKEN", "correct-horse-battery");
    write_ssh_config(&environment.path(""), hosts);
    environment.pack("r1");
    environment.pack("r2");
    for host in hosts {
        fs::create_dir(host.path("srv")).unwrap();
        fs::write(host.path("srv/go"), "").unwrap();
    }
    environment
}

/// The decisions that do not skip, as `step target action`: in the order of the steps, and of each the hosts, which work at the same time.
fn not_skipped(output: &RunnerOutput) -> Vec<String> {
    let mut decisions = output.decisions_on_targets();
    decisions.retain(|decision| !decision.ends_with("skip"));
    let step = |decision: &str| decision.split(' ').next().map(str::to_owned);
    decisions.chunk_by_mut(|one, other| step(one) == step(other)).for_each(<[String]>::sort_unstable);
    decisions
}

#[test]
fn a_release_is_deployed_to_hosts_that_have_sshd_only() {
    let hosts = [SshHost::new(), SshHost::new()];
    let hosts = [&hosts[0], &hosts[1]];
    let environment = fleet(&hosts);
    environment.deploy("r1", &[]).assert_exit(0);
    for host in hosts {
        assert_eq!(host.read("srv/current/VERSION").trim(), "r1");
        assert_eq!(host.read("srv/restarts"), "2\n", "the program got its secret");
        let mode = |path: &str| fs::metadata(host.path(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            ["srv/current", "srv/current/VERSION", "state/pawl", "cache/pawl"].map(mode),
            [0o755, 0o644, 0o700, 0o700],
            "a server of another user reads the release, and nothing else"
        );
    }
    assert!(hosts[0].path("srv/shop.db").exists() && !hosts[1].path("srv/shop.db").exists(), "once for the group");
    assert_eq!(not_skipped(&environment.deploy("r1", &["--until", "switch"])), Vec::<String>::new());
    environment.deploy("r2", &[]).assert_exit(0);
    assert_eq!(hosts[1].read("srv/current/VERSION").trim(), "r2");
    // Nothing of a secret is in what the runner keeps on a host.
    for host in hosts {
        for folder in ["state", "cache/pawl/shipped"] {
            let found = std::process::Command::new("grep")
                .args(["-rl", "correct-horse-battery"])
                .arg(host.path(folder))
                .output();
            assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "", "{folder}");
        }
        wait_until("the agents have ended", || host.agents().is_empty());
    }
}

/// What the step waits for comes only when it runs on all hosts.
#[test]
fn a_step_runs_on_all_hosts_at_the_same_time() {
    let hosts: Vec<SshHost> = (0..8).map(|_| SshHost::new()).collect();
    let hosts: Vec<&SshHost> = hosts.iter().collect();
    let environment = fleet(&hosts);
    hosts.iter().for_each(|host| fs::remove_file(host.path("srv/go")).unwrap());
    let run = environment.start_with_stderr(&["--local", "--release", "r1"]);
    wait_until("the step runs on each host", || hosts.iter().all(|host| host.path("srv/begun").exists()));
    hosts.iter().for_each(|host| fs::write(host.path("srv/go"), "").unwrap());
    let deployed = environment.output_of(run);
    deployed.assert_exit(0);
    // For one reason, the start is said once; the end of each host has its line.
    let lines = |start: &str| deployed.stderr.lines().filter(|line| line.trim_start().starts_with(start)).count();
    assert_eq!((lines("start  restart "), lines("ran    restart@web-")), (1, 8), "{}", deployed.stderr);
    assert_eq!(not_skipped(&environment.deploy("r1", &["--until", "switch"])), Vec::<String>::new());
}

/// One host fails: the others finish what they are at, and the next run goes on with it alone.
#[test]
fn only_the_failed_host_runs_again() {
    let hosts = [SshHost::new(), SshHost::new(), SshHost::new()];
    let environment = fleet(&hosts.iter().collect::<Vec<_>>());
    hosts[1..].iter().for_each(|host| fs::write(host.path("srv/broken"), "").unwrap());
    let failed = environment.deploy("r1", &[]);
    failed.assert_exit(1);
    expect![[r#"
        error[P0301]: step `restart` on web-2 failed on attempt 1
          caused by: `/bin/sh -c 'touch begun; until test -e go || test ! -e begun; do sleep 0.02; done; echo r1 $TOKEN | wc -w >> restarts; test ! -e broken'` exited with status 1: it wrote nothing
          caused by: the same on web-3
          hint: read the full output with `runner logs`, and fix the cause; then run `runner --local --release r1` again (skips: pull, migrate, switch, restart on web-1)
    "#]]
    .assert_eq(&failed.stderr[failed.stderr.find("error[").unwrap()..]);
    fs::remove_file(hosts[1].path("srv/broken")).unwrap();
    let failed = environment.deploy("r1", &[]);
    failed.assert_exit(1);
    assert_eq!(not_skipped(&failed), ["restart web-2 run", "restart web-3 run"]);
    fs::remove_file(hosts[2].path("srv/broken")).unwrap();
    let repaired = environment.deploy("r1", &[]);
    repaired.assert_exit(0);
    assert_eq!(
        not_skipped(&repaired),
        ["restart web-3 run", "verify web-1 run", "verify web-2 run", "verify web-3 run"]
    );
    assert_eq!(hosts[0].read("srv/restarts"), "2\n", "it ran once");
}

/// The connection is cut while a step runs that must not run twice: the host finishes it, and nothing is lost.
#[test]
fn a_cut_connection_loses_no_outcome() {
    let host = SshHost::new();
    let environment = fleet(&[&host]);
    fs::remove_file(host.path("srv/go")).unwrap();
    let run = environment.start_with_stderr(&["--local", "--release", "r1"]);
    wait_until("the step runs", || host.path("srv/begun").exists());
    assert!(host.cut_connections() > 0);
    fs::write(host.path("srv/go"), "").unwrap();
    environment.output_of(run).assert_exit(0);
    assert_eq!(host.read("srv/restarts"), "2\n", "it ran once");
}

/// The coordinator is killed while a step runs: the host finishes it, and the next attempt adopts what it recorded.
#[test]
fn a_killed_coordinator_learns_how_the_step_ended() {
    let host = SshHost::new();
    let environment = fleet(&[&host]);
    fs::remove_file(host.path("srv/go")).unwrap();
    let mut run = environment.start(&["--local", "--release", "r1"]);
    wait_until("the step runs", || host.path("srv/begun").exists());
    run.kill().unwrap();
    run.wait().unwrap();
    fs::write(host.path("srv/go"), "").unwrap();
    let resumed = environment.deploy("r1", &[]);
    resumed.assert_exit(0);
    assert_eq!(not_skipped(&resumed), ["restart web-1 adopt", "verify web-1 run"]);
    assert_eq!(host.read("srv/restarts"), "2\n", "it ran once");
}

/// What ssh makes of the configuration on the page.
#[test]
fn ssh_goes_through_the_jump_host_of_the_page() {
    let environment = TestEnvironment::new();
    environment.write("ssh_config", fenced_block("docs/hosts.md", "ProxyJump"));
    let options = |host: &str| {
        let mut ssh = Command::new("ssh");
        let output = ssh.args(["-G", "-F"]).arg(environment.path("ssh_config")).arg(host).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (inside, outside) = (options("10.0.0.7"), options("10.0.1.7"));
    for option in ["proxyjump deploy@jump.example.com", "user deploy"] {
        let has_option = |options: &str| options.lines().any(|line| line == option);
        assert!(has_option(&inside) && !has_option(&outside), "{option}\n{inside}\n{outside}");
    }
}

/// A host that only another one reaches, by ssh's own configuration.
#[test]
fn a_host_behind_a_jump_host_is_deployed_to() {
    let (jump, host) = (SshHost::new(), SshHost::new());
    let environment = fleet(&[&host]);
    write_ssh_config(&environment.path(""), &[&jump, &host]);
    let port = |host: &SshHost| host.address().rsplit_once(':').unwrap().1.to_owned();
    let named = format!(
        "Host jump\n  HostName 127.0.0.1\n  Port {}\nHost inner\n  HostName 127.0.0.1\n  Port {}\n  ProxyJump jump\n",
        port(&jump),
        port(&host)
    );
    environment.write("ssh_config", format!("{}{named}", environment.read("ssh_config")));
    environment.edit("deploy.yml", &host.address(), "inner");
    // ssh calls itself for the jump host, with the same configuration.
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(host.read("srv/current/VERSION").trim(), "r1");
    assert!(jump.read("sshd.log").contains("Accepted publickey"), "{}", jump.read("sshd.log"));
}

/// Whatever a login shell says before the agent begins is no part of the conversation.
#[test]
fn a_chatty_shell_is_no_harm() {
    let (host, chatty) = (SshHost::new(), SshHost::with_variables("HOME=ROOT"));
    fs::write(chatty.path(".bashrc"), "echo welcome; echo PAWL; printf 'no newline'; touch ~/was-read\n").unwrap();
    let environment = fleet(&[&host, &chatty]);
    environment.deploy("r1", &[]).assert_exit(0);
    assert!(chatty.path("was-read").exists(), "the shell read its file");
}

#[test]
fn what_a_host_lacks_is_found_before_anything_changes() {
    let host = SshHost::new();
    let environment = fleet(&[&host]);
    environment.edit("deploy.yml", "program: [/bin/sh, -c,", "program: [no-such-shell, -c,");
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    refused.assert_stderr_contains("P0233");
    refused.assert_stderr_contains("on web-1");
    assert!(!host.path("srv/releases").exists() && !host.path("state").exists(), "nothing was made");
}

#[test]
fn a_host_that_is_down_is_named_and_the_next_run_goes_on() {
    let hosts = [SshHost::new(), SshHost::new()];
    let environment = fleet(&[&hosts[0], &hosts[1]]);
    fs::remove_file(hosts[1].path("srv/go")).unwrap();
    let run = environment.start_with_stderr(&["--local", "--release", "r1"]);
    wait_until("the step runs on the second host", || hosts[1].path("srv/begun").exists());
    let [first, second] = hosts;
    let port = second.address();
    drop(second);
    let failed = environment.output_of(run);
    failed.assert_exit(1);
    failed.assert_stderr_contains("web-2");
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    refused.assert_stderr_contains("P0260");
    drop((first, port));
}

#[test]
fn working_directory_that_is_not_sent_as_a_whole_is_named() {
    let environment = TestEnvironment::with_plan(
        "version: 1\napp: shop\nenvironments: { test: { hosts: { web: [\"ssh://root@192.0.2.1\"] } } }\nsteps:\n  warm:\n    on: web\n    program: [/bin/sh, a.sh]\n    trust: host\n    with: { dir: scripts, inputs: [scripts/a.sh] }\n    grants: { dirs: { scripts: \"./scripts:ro\" } }\n",
    );
    environment.write("scripts/a.sh", "true\n");
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    refused.assert_stderr_contains("hint: the step works in `scripts`: list the whole, `inputs: [scripts]`");
}
