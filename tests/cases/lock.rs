//! One deployment at a time, and none that a killed one blocks.

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{TestEnvironment, wait_until};

/// A step that makes `began` and then takes a minute, unless it is told not to by the file `quick`.
const SLOW_PLAN: &str = r#"version: 1
app: shop
steps:
  slow:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [slow.sh], dir: work, repeatable: true }
    grants: { dirs: { work: ".:ro" }, programs: [[/bin/sh, slow.sh]] }
"#;
const SCRIPT: &str = "test -e quick && exit 0\necho $$ > began.tmp && mv began.tmp began\nexec sleep 60\n";

fn slow_environment() -> TestEnvironment {
    let environment = TestEnvironment::with_plan(SLOW_PLAN);
    environment.write("slow.sh", SCRIPT);
    environment
}

/// Ends the program, which outlives a runner that was killed.
fn kill_program(environment: &TestEnvironment) {
    let program: i32 = environment.read("began").trim().parse().unwrap();
    let program = Pid::from_raw(program).unwrap();
    // It may have ended with the runner.
    let _ = kill_process(program, Signal::KILL);
}

#[test]
fn lock_names_its_holder_and_is_free_after_a_kill() {
    let environment = slow_environment();
    let mut first = environment.start(&["--local", "--release", "r1"]);
    wait_until("the step began", || environment.exists("began"));
    let second = environment.run(&["--local", "--release", "r1"]);
    let holder = format!("process {}", first.id());
    first.kill().unwrap();
    first.wait().unwrap();
    second.assert_exit(5).assert_stderr_contains("another deployment holds the lock on");
    assert!(second.stderr.contains(&holder), "{}", second.stderr);
    assert_eq!(environment.list(".pawl/shop/default"), ["attempt-000001.journal", "lock"]);

    environment.write("quick", "");
    let next = environment.deploy("r1", &[]);
    next.assert_exit(0).assert_decisions(&["slow run interrupted"]);
    let history = environment.run(&["history", "--json"]).json();
    assert!(history[1]["exit"].is_null(), "the first never ended: {history}");
    kill_program(&environment);
}

#[test]
fn killed_step_that_cannot_rerun_or_be_probed_is_in_doubt() {
    let environment = slow_environment();
    environment.edit("deploy.yml", ", repeatable: true", "");
    let mut first = environment.start(&["--local", "--release", "r1"]);
    wait_until("the step began", || environment.exists("began"));
    first.kill().unwrap();
    first.wait().unwrap();
    environment.write("quick", "");
    let next = environment.deploy("r1", &[]);
    next.assert_exit(3).assert_decisions(&["slow stop interrupted"]);
    environment.deploy("r1", &["--accept-drift", "slow"]).assert_exit(0).assert_decisions(&["slow run drift-accepted"]);
    kill_program(&environment);
}

#[test]
fn signal_ends_the_run_with_its_state_saved() {
    let environment = slow_environment();
    let first = environment.start(&["--local", "--release", "r1"]);
    wait_until("the step began", || environment.exists("began"));
    let pid = Pid::from_child(&first);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(environment.wait(first), Some(130));
    environment.write("quick", "");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&["slow run interrupted"]);
}
