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

/// Whether the program that made `began` still runs.
fn is_program_running(environment: &TestEnvironment) -> bool {
    let command = format!("/proc/{}/cmdline", environment.read("began").trim());
    std::fs::read_to_string(command).is_ok_and(|command| command.starts_with("sleep"))
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
    assert_eq!(environment.list(".pawl/shop/default"), ["attempt-000001.journal", "lock", "programs"]);

    environment.write("quick", "");
    let next = environment.deploy("r1", &[]);
    next.assert_exit(0).assert_decisions(&["slow run interrupted"]);
    let history = environment.run(&["history", "--json"]).json();
    assert!(history[1]["exit"].is_null(), "the first never ended: {history}");
    assert!(!is_program_running(&environment), "two programs of the step at once");
}

#[test]
fn wait_for_the_lock_is_said_at_once_and_now_and_then() {
    let environment = slow_environment();
    let mut first = environment.start(&["--local", "--release", "r1"]);
    wait_until("the step began", || environment.exists("began"));
    let second = environment.run(&["--local", "--release", "r1", "--lock-wait", "6s"]);
    first.kill().unwrap();
    first.wait().unwrap();
    second.assert_exit(5);
    let waits: Vec<_> =
        second.stderr.lines().filter(|line| line.contains("waiting for the lock on shop/default (")).collect();
    assert_eq!(waits.len(), 2, "{}", second.stderr);
    assert!(waits[0].contains("(0 s so far)") && waits[0].contains(&format!("process {}", first.id())), "{waits:?}");
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
    assert!(!is_program_running(&environment));
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

/// Waits in its first step until it may go on.
const WAITING_PLAN: &str = r#"version: 1
app: shop
steps:
  wait:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [wait.sh], dir: work, repeatable: true }
    grants: { dirs: { work: ./work }, programs: [[/bin/sh, wait.sh]] }
  act:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [act.sh], dir: work, repeatable: true }
    grants: { dirs: { work: ./work }, programs: [[/bin/sh, act.sh]] }
hooks: { on-failure: [{ program: [/bin/sh, -c, touch hooked] }] }
"#;

/// The runner of the former holder lives: it removes the record of the program that the next deployment ends.
#[test]
fn next_deployment_ends_the_program_of_a_living_former_holder() {
    let environment = TestEnvironment::with_plan(WAITING_PLAN);
    environment.write("work/wait.sh", "touch began\nuntil test -e go; do sleep 0.02; done\n");
    environment.write("work/act.sh", "echo \"$PAWL_RELEASE\" >> acted\n");
    for round in 0..3 {
        let _ = std::fs::remove_file(environment.path("work/began"));
        let _ = std::fs::remove_file(environment.path("work/go"));
        let first = environment.start_with_stderr(&["--local", "--release", &format!("old{round}")]);
        wait_until("the step began", || environment.exists("work/began"));
        environment.run(&["lock", "release", "--local", "--force", "--message", "it hangs"]).assert_exit(0);
        let second = environment.start_with_stderr(&["--local", "--release", &format!("new{round}")]);
        let lost = environment.output_of(first);
        lost.assert_exit(5).assert_stderr_contains("error[P0503]");
        environment.write("work/go", "");
        let second = environment.output_of(second);
        second.assert_exit(0).assert_stderr_contains("left a program running (process ");
    }
    assert_eq!(environment.read("work/acted"), "new0\nnew1\nnew2\n");
}

/// A deployment is suspended, forced out, and continued after another one: what it writes then is read by nobody, and it does nothing
/// more.
#[test]
fn former_holder_changes_nothing_when_it_is_continued() {
    let environment = TestEnvironment::with_plan(WAITING_PLAN);
    environment.write("work/wait.sh", "touch began\nuntil test -e go; do sleep 0.02; done\n");
    environment.write("work/act.sh", "echo \"$PAWL_RELEASE\" >> acted\n");
    let first = environment.start_with_stderr(&["--local", "--release", "r1"]);
    wait_until("the step began", || environment.exists("work/began"));
    let pid = Pid::from_child(&first);
    kill_process(pid, Signal::STOP).unwrap();
    environment.run(&["lock", "release", "--local", "--force", "--message", "it hangs"]).assert_exit(0);
    environment.write("work/go", "");
    environment.deploy("r2", &[]).assert_exit(0);
    let state = environment.path(".pawl/shop/default");
    let journals = ["attempt-000001.journal", "attempt-000002.journal", "snapshot.json"];
    let before = journals.map(|name| std::fs::read(state.join(name)).unwrap());
    kill_process(pid, Signal::CONT).unwrap();
    let lost = environment.output_of(first);
    lost.assert_exit(5).assert_stderr_contains("error[P0503]").assert_stderr_contains("it hangs");
    assert_eq!(journals.map(|name| std::fs::read(state.join(name)).unwrap()), before);
    assert_eq!(environment.read("work/acted"), "r2\n");
    assert!(!environment.exists("hooked"), "a hook ran without the lock");
    assert_eq!(environment.list(".pawl/shop/default/lock"), ["record"]);
    environment.run(&["status"]).assert_exit(0);
    environment.deploy("r3", &[]).assert_exit(0);
    assert_eq!(environment.read("work/acted"), "r2\nr3\n");
}
