//! Hosts that a file or a program lists.

use std::os::unix::process::ExitStatusExt as _;

use expect_test::expect;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{TestEnvironment, wait_until};

const PLAN: &str = r#"version: 1
app: shop
dirs: { app: "${{ host.vars.root }}", dist: "./dist:ro" }
environments:
  test: { hosts: { web: { from: file:hosts/test.yml } } }
  prod: { hosts: { web: { from: { program: [./inventory.sh, prod], trust: host } } } }
steps:
  pull:
    on: web
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
    grants: { dirs: [app, dist] }
  switch: { on: web, with: { link: current }, grants: { dirs: [app] } }
"#;

fn host(number: usize) -> String {
    format!("- {{ at: local, name: web-{number}, vars: {{ root: ./deploy/web-{number} }} }}\n")
}

fn environment() -> TestEnvironment {
    let environment = TestEnvironment::with_plan(PLAN);
    environment.write("hosts/test.yml", [host(1), host(2)].concat());
    environment.write_program("inventory.sh", "#!/bin/sh\necho run >> runs\ncat hosts/$1.yml\n");
    environment.write("hosts/prod.yml", host(3));
    environment.pack("r1");
    environment
}

fn deploy(environment: &TestEnvironment, name: &str) -> Vec<String> {
    let deployed = environment.deploy("r1", &["--env", name]);
    deployed.assert_exit(0);
    deployed.decisions_on_targets()
}

#[test]
fn file_lists_the_hosts_and_a_changed_one_is_seen() {
    let environment = environment();
    assert_eq!(
        deploy(&environment, "test"),
        ["pull web-1 run", "pull web-2 run", "switch web-1 run", "switch web-2 run"]
    );
    assert!(!environment.exists("runs"), "only the chosen environment's program runs");
    let preview = environment.run(&["plan", "--env", "test", "--release", "r1", "--json"]).json();
    let targets: Vec<_> = preview["steps"].as_array().unwrap().iter().map(|step| step["target"].clone()).collect();
    assert_eq!(targets, ["web-1", "web-2", "web-1", "web-2"]);
    // One host is new, and one has gone: what was done on the other is not repeated. The journal's plan has the targets.
    environment.write("hosts/test.yml", [host(2), host(4)].concat());
    let again = deploy(&environment, "test");
    assert_eq!(again, ["pull web-2 skip", "pull web-4 run", "switch web-2 skip", "switch web-4 run"]);
    let journal = environment.read(".pawl/shop/test/attempt-000002.journal");
    let planned = journal.lines().find(|line| line.contains("\"type\":\"plan\"")).unwrap();
    assert!(planned.contains("web-4") && !planned.contains("web-1"), "{planned}");
    // A variable of a host is an input of the steps there.
    environment.edit("hosts/test.yml", "root: ./deploy/web-4", "root: ./deploy/moved");
    assert_eq!(deploy(&environment, "test")[1], "pull web-4 run");
}

#[test]
fn program_lists_the_hosts_once_a_command() {
    let environment = environment();
    assert_eq!(deploy(&environment, "prod"), ["pull web-3 run", "switch web-3 run"]);
    assert_eq!(environment.read("runs"), "run\n");
    environment.run(&["plan", "--env", "prod", "--release", "r1"]).assert_exit(0);
    assert_eq!(environment.read("runs"), "run\nrun\n");
    // What needs no hosts starts no program.
    for command in [&["status"][..], &["history", "--env", "prod"], &["schema"], &["why", "pull", "--env", "prod"]] {
        environment.run(command).assert_exit(0);
    }
    assert_eq!(environment.read("runs"), "run\nrun\n");
}

#[test]
fn program_gets_what_the_plan_gives_it() {
    let mut environment = environment();
    environment.set_variable("TOKEN", "correct-horse-battery");
    environment.set_variable("OTHER", "not-for-programs");
    environment.edit("deploy.yml", "trust: host }", r#"trust: host, env: { TOKEN: "${{ secrets.TOKEN }}" } }"#);
    environment.edit("deploy.yml", "app: shop\n", "app: shop\nsecrets: { TOKEN: env:TOKEN }\n");
    environment.write_program("inventory.sh", "#!/bin/sh\nenv | sort > variables\npwd > folder\ncat hosts/$1.yml\n");
    environment.run(&["plan", "--env", "prod", "--release", "r1"]).assert_exit(0);
    let variables = environment.read("variables");
    let names: Vec<_> = variables.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(
        names.iter().filter(|name| !["PWD", "SHLVL", "_", "OLDPWD"].contains(name)).collect::<Vec<_>>(),
        [&"HOME", &"PATH", &"PAWL_ENVIRONMENT", &"TOKEN"]
    );
    assert!(variables.contains("PAWL_ENVIRONMENT=prod\n") && variables.contains("TOKEN=correct-horse-battery\n"));
    assert_eq!(environment.read("folder").trim(), environment.path("").display().to_string().trim_end_matches('/'));
    // What it says of a secret is not shown.
    environment.write_program("inventory.sh", "#!/bin/sh\necho \"$TOKEN is refused\" >&2\nexit 3\n");
    let refused = environment.run(&["plan", "--env", "prod", "--release", "r1"]);
    refused.assert_exit(2);
    refused.assert_stderr_contains("it wrote: *** is refused");
}

/// The runner has nothing to save yet, so the signal ends it as it ends any program: a shell says 130 or 143.
#[test]
fn program_ends_with_the_runner_that_is_interrupted() {
    let environment = environment();
    environment
        .write_program("inventory.sh", "#!/bin/sh\nsleep 1000 & echo $$ $! > pids.new; mv pids.new pids; wait\n");
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let mut child = environment.start(&["--local", "--release", "r1", "--env", "prod"]);
        wait_until("the program runs", || environment.exists("pids"));
        let pids = environment.read("pids");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()));
        let has_ended =
            |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        wait_until("the program has ended with what it started", || pids.split_whitespace().all(has_ended));
        std::fs::remove_file(environment.path("pids")).unwrap();
    }
    assert!(!environment.exists(".pawl"), "nothing was touched");
}

#[test]
fn errors_show_the_lines_of_the_inventory() {
    let environment = environment();
    environment.write(
        "hosts/test.yml",
        format!("{}- {{ at: -x }}\n- {{ nmae: web-2, at: local, vars: {{ root: x }} }}\n", host(1)),
    );
    let refused = environment.run(&["--local", "--release", "r1", "--env", "test"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0118]: `-x` is not the address of a host
         --> hosts/test.yml:2:9
          |
        2 | - { at: -x }
          |         ^^ not an address
          hint: write `local`, `HOST`, `USER@HOST` or `ssh://USER@HOST:PORT`
        error[P0104]: a host has no key `nmae`
         --> hosts/test.yml:3:5
          |
        3 | - { nmae: web-2, at: local, vars: { root: x } }
          |     ^^^^ unknown key
          hint: did you mean `name`?
    "#]]
    .assert_eq(&refused.stderr);
    environment.write("hosts/prod.yml", "- a\nb: c\n");
    let refused = environment.run(&["--local", "--release", "r1", "--env", "prod"]);
    refused.assert_exit(2);
    refused.assert_stderr_contains(
        "error[P0101]: the inventory is not valid YAML\n --> output of ./inventory.sh prod:2:1",
    );
    assert!(!environment.exists("deploy") && !environment.exists(".pawl"), "nothing was touched");
}

#[test]
fn an_inventory_that_can_not_be_had_stops_before_anything_is_touched() {
    let environment = environment();
    let refused = |name: &str, parts: &[&str]| {
        let refused = environment.run(&["--local", "--release", "r1", "--env", name]);
        refused.assert_exit(2);
        for part in parts {
            refused.assert_stderr_contains(part);
        }
        assert!(!environment.exists("deploy") && !environment.exists(".pawl"), "nothing was touched");
    };
    environment.write_program("inventory.sh", "#!/bin/sh\nexit 7\n");
    refused("prod", &["P0266", "exit status: 7"]);
    environment.write_program("inventory.sh", "#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x\n");
    refused("prod", &["P0266", "is longer than 1048576 bytes"]);
    std::fs::remove_file(environment.path("inventory.sh")).unwrap();
    refused("prod", &["P0266", "No such file"]);
    environment.write("hosts/test.yml", "# none yet\n");
    refused("test", &["error[P0102]: the inventory is empty"]);
    environment.write("hosts/test.yml", "[]\n");
    refused("test", &["error[P0118]: group `web` has no host\n --> hosts/test.yml:1:1"]);
    environment.write("hosts/test.yml", [0xff, 0xfe]);
    refused("test", &["P0266", "is not text"]);
    std::fs::remove_file(environment.path("hosts/test.yml")).unwrap();
    refused("test", &["can't read the inventory hosts/test.yml", "deploy.yml:5:"]);
}
