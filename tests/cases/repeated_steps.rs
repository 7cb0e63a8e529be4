//! Steps that run again although they are done: after a failed check, in each attempt, by the operator's word.

use crate::support::TestEnvironment;

/// A service whose restart reads a file beside the releases, and can't be probed.
const RESTART: &str = r#"  restart:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [-c, "echo $PAWL_RELEASE $(cat config) > running"], dir: app, repeatable: true }
    grants: { dirs: { app: "${{ vars.root }}" }, programs: [[/bin/sh, -c, "**"]] }
"#;

/// The example with that service and a check of it.
fn with_service(restart: &str) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "  verify:\n", &format!("{restart}  verify:\n"));
    let check = "      files:\n        - { path: running, equals: \"${{ release }} good\" }\n";
    environment.edit("deploy.yml", "      files:\n", check);
    environment.write("deploy/test/config", "bad\n");
    environment.pack("r1");
    environment
}

#[test]
fn step_without_a_probe_runs_again_after_its_check_failed() {
    let environment = with_service(RESTART);
    environment.deploy("r1", &[]).assert_exit(1);
    let failed = environment.run(&["--local", "--release", "r1"]);
    failed.assert_exit(1).assert_stderr_contains("(skips: pull, migrate, switch)");
    environment.write("deploy/test/config", "good\n");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate skip held",
        "switch skip held",
        "restart run stale",
        "verify run failed-before",
    ]);
    assert_eq!(environment.read("deploy/test/running"), "r1 good\n");
}

/// A check that waits for longer than its step may take.
fn with_slow_check(restart: &str) -> TestEnvironment {
    let environment = with_service(restart);
    environment.edit("deploy.yml", "      tries: 1\n", "      tries: 1000\n      interval: 1s\n");
    environment.edit("deploy.yml", "  verify:\n    uses: verify\n", "  verify:\n    uses: verify\n    timeout: 2s\n");
    environment
}

#[test]
fn step_without_a_probe_runs_again_after_its_check_timed_out() {
    let environment = with_slow_check(RESTART);
    environment
        .deploy("r1", &[])
        .assert_exit(1)
        .assert_stderr_contains("P0302")
        .assert_stderr_contains("outcome unknown; the next attempt runs it again");
    environment.write("deploy/test/config", "good\n");
    let mended = environment.deploy("r1", &[]);
    mended.assert_exit(0);
    assert_eq!(mended.decisions()[3..], ["restart run stale", "verify run interrupted"]);
}

#[test]
fn step_that_must_not_run_twice_is_trusted_after_its_check_timed_out() {
    let environment = with_slow_check(&RESTART.replace(", repeatable: true", ""));
    environment.deploy("r1", &[]).assert_exit(1).assert_stderr_contains("P0302");
    environment.write("deploy/test/running", "r1 good\n");
    let checked = environment.deploy("r1", &[]);
    checked.assert_exit(0);
    assert_eq!(checked.decisions()[3..], ["restart skip trusted", "verify run interrupted"]);
}

#[test]
fn step_that_must_not_run_twice_stops_after_its_check_failed_until_an_operator_confirms_it() {
    let environment = with_service(&RESTART.replace(", repeatable: true", ""));
    environment
        .deploy("r1", &[])
        .assert_exit(1)
        .assert_stderr_contains("the next attempt would stop at step `restart`: ")
        .assert_stderr_contains("--accept-drift restart`");
    let stopped = environment.deploy("r1", &[]);
    stopped.assert_exit(3).assert_stderr_contains("error[P0408]").assert_stderr_contains("check `verify` failed");
    assert_eq!(stopped.decisions().last().unwrap(), "restart stop stale");
    environment.write("deploy/test/running", "r1 good\n");
    let confirmed =
        environment.run(&["resolve", "restart", "--local", "--as", "done", "--message", "restarted by hand"]);
    confirmed.assert_exit(0);
    let deployed = environment.deploy("r1", &[]);
    deployed.assert_exit(0);
    assert_eq!(deployed.decisions()[3], "restart skip trusted");
}

#[test]
fn step_that_must_run_in_each_attempt_does() {
    let environment = with_service(&RESTART.replace("    uses: run\n", "    uses: run\n    always: true\n"));
    environment.write("deploy/test/config", "good\n");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/test/running", "stopped\n");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate skip held",
        "switch skip held",
        "restart run always",
        "verify run upstream-ran",
    ]);
    assert_eq!(environment.read("deploy/test/running"), "r1 good\n");
}

#[test]
fn rerun_repeats_a_step_and_what_depends_on_it_and_can_verify() {
    let environment = with_service(RESTART);
    environment.edit("deploy.yml", "  verify:\n", &format!("{}  verify:\n", RESTART.replace("  restart:", "  warm:")));
    environment.deploy("r1", &[]).assert_exit(1);
    environment.write("deploy/test/config", "good\n");
    let again = environment.deploy("r1", &["--rerun", "switch"]);
    again.assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate skip held",
        "switch run operator-word",
        "restart run upstream-ran",
        "warm run upstream-ran",
        "verify run failed-before",
    ]);
    assert_eq!(environment.run(&["status", "--json"]).json()[0]["live"]["verified"], true);
    environment.deploy("r1", &["--rerun", "nowhere"]).assert_exit(2).assert_stderr_contains("error[P0205]");
    environment.run(&["--local", "--release", "r1", "--rerun", "warm", "--until", "warm"]).assert_exit(2);
}
