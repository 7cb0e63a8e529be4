//! Programs that prepare, and programs whose probe is asked first.

use crate::support::TestEnvironment;

const BUILD_PLAN: &str = r#"version: 1
app: shop
steps:
  compile:
    program: [/bin/sh, -c, "echo compiled >> log; test ! -e broken"]
    trust: host
    with: { phase: prepare, dir: work }
    grants: { dirs: { work: ./work } }
  upgrade:
    program: [/bin/sh, -c, "echo upgraded >> log; touch done"]
    trust: host
    with: { dir: work, probe-first: true, probe: [/bin/sh, -c, "test -e done || exit 2"], probe-codes: { absent: [2] } }
    grants: { dirs: { work: ./work }, programs: [[/bin/sh, "**"]] }
"#;

#[test]
fn program_of_the_prepare_phase_runs_before_anything_is_committed() {
    let environment = TestEnvironment::with_plan(BUILD_PLAN);
    environment.write("work/broken", "");
    environment.deploy("r1", &[]).assert_exit(1);
    assert_eq!(environment.read("work/log"), "compiled\n");
    std::fs::remove_file(environment.path("work/broken")).unwrap();
    let output = environment.deploy("r1", &[]);
    output.assert_exit(0);
    assert_eq!(environment.read("work/log"), "compiled\ncompiled\nupgraded\n");
    assert!(output.stdout.contains(r#""step":"compile","target":"local","uses":"run","phase":"prepare""#));
}

#[test]
fn prepare_program_after_a_commit_step_is_refused() {
    let reversed =
        BUILD_PLAN.replace("with: { dir: work, probe-first", "with: { phase: prepare, dir: work, probe-first");
    let reversed = reversed.replacen("phase: prepare, ", "", 1);
    let output = TestEnvironment::with_plan(&reversed).deploy("r1", &[]);
    output.assert_exit(2).assert_stderr_contains("prepare step `upgrade` comes after commit step `compile`");
}

#[test]
fn program_does_not_run_if_its_probe_says_that_the_effect_holds() {
    let environment = TestEnvironment::with_plan(BUILD_PLAN);
    environment.write("work/done", "");
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(environment.read("work/log"), "compiled\n");
}
