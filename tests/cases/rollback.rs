//! `on-failure: rollback`: what was verified is live again; where nothing was, the deployment holds.

use expect_test::expect;

use crate::support::TestEnvironment;

/// The example, whose `verify` fails while the release is r2.
fn fail_verify_of_r2(environment: &TestEnvironment) {
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: no-r2, exists: false }\n");
    environment.write("deploy.yml", environment.read("deploy.yml") + "on-failure: rollback\n");
}

#[test]
fn release_that_fails_verification_is_rolled_back() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
    fail_verify_of_r2(&environment);
    let verified = environment.live_target();
    environment.pack("r2");
    environment.write("deploy/test/no-r2", "");
    let undone = environment.run(&["--local", "--release", "r2"]);
    undone.assert_exit(4);
    expect![[r#"
        shop r2 to test (run [RUN 2], attempt 1)
          start  pull     its configuration and the release changed
          ran    pull     295 B, 3 files [TIME]
          start  migrate  the release and outputs of earlier steps changed
          ran    migrate [TIME]
          start  switch   the release and outputs of earlier steps changed
          ran    switch   from releases/r1-[HASH] [TIME]
          start  verify   its configuration, the release and outputs of earlier steps changed
          FAIL   verify   1 of 3 checks failed after 1 round: file app/no-r2: expected no such file, found one [TIME]
          undo   switch
          undid  switch
          start  verify   again, for r1
          ran    verify   1 round [TIME]
          back            r1 is live again
        error[P0301]: step `verify` failed on attempt 1
          caused by: 1 of 3 checks failed after 1 round: file app/no-r2: expected no such file, found one
          hint: r1 is live again; check the application's log; if it needs more time to start, raise `tries` or `interval`; then run `runner --local --release r2` again (skips: pull, migrate)
    "#]].assert_eq(&undone.stderr_snapshot());
    expect![[r#"
        ROLLED BACK r2 in test after `verify` failed (2 ran, 1 failed, 1 undone)
    "#]]
    .assert_eq(&undone.stdout_snapshot());
    assert_eq!(environment.live_target(), verified);
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!((&status[0]["live"]["release"]["label"], &status[0]["live"]["verified"]), (&"r1".into(), &true.into()));

    std::fs::remove_file(environment.path("deploy/test/no-r2")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate skip held",
        "switch run reverted",
        "verify run changed",
    ]);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r2");
}

#[test]
fn without_a_verified_release_nothing_is_rolled_back() {
    let environment = TestEnvironment::new();
    fail_verify_of_r2(&environment);
    environment.pack("r1");
    environment.write("deploy/test/no-r2", "");
    let held = environment.run(&["--local", "--release", "r1"]);
    held.assert_exit(1).assert_stderr_contains("not rolled back: no release was live before this one");
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");
    environment.pack("r2");
    environment
        .run(&["--local", "--release", "r2"])
        .assert_exit(1)
        .assert_stderr_contains("the previous release, r1, was never verified");
    std::fs::remove_file(environment.path("deploy/test/no-r2")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0);
}

#[test]
fn failure_before_exposure_rolls_nothing_back() {
    let environment = TestEnvironment::new();
    fail_verify_of_r2(&environment);
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.pack("r2");
    environment.write("migrations/0003_wrong.sql", "SELEC 1;\n");
    let held = environment.deploy("r2", &[]);
    held.assert_exit(1);
    assert!(!held.event_types().contains(&"undo-intent".to_owned()));
}

/// `migrate` is no part of a rollback, so what it returned must be on record.
#[test]
fn rollback_in_which_a_step_looks_up_an_unrecorded_output_does_not_begin() {
    let environment = TestEnvironment::new();
    let check = "      files:\n        - { path: \"no-${{ steps.migrate.applied }}\", exists: false }\n";
    environment.edit("deploy.yml", "      files:\n", check);
    for label in ["r1", "r2", "r3"] {
        environment.pack(label);
    }
    environment.deploy("r1", &[]).assert_exit(0);
    environment.deploy("r2", &[]).assert_exit(0);
    environment.write("migrations/0003_orders.sql", "CREATE TABLE order (id INTEGER);\n");
    environment.deploy("r3", &[]).assert_exit(1);
    let live = environment.live_target();
    let refused = environment.run(&["rollback", "--local"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0224]: step `verify` looks up `steps.migrate.applied`, which is not recorded, and a rollback does not run `migrate`
          caused by: it last ran for r3, and failed
          hint: deploy r1 instead, which runs `migrate`: `runner deploy --release r1 --local`; or remove the lookup from `verify`
    "#]]
    .assert_eq(&refused.stderr_snapshot());
    assert_eq!(environment.live_target(), live, "nothing was switched");

    environment.write("migrations/0003_orders.sql", "CREATE TABLE orders (id INTEGER);\n");
    environment.deploy("r3", &[]).assert_exit(0);
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r2");
}

/// What a rollback leaves out, the next one does too.
#[test]
fn hint_of_a_failed_rollback_names_what_the_next_one_skips() {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: broken, exists: false }\n");
    for label in ["r1", "r2"] {
        environment.pack(label);
        environment.deploy(label, &[]).assert_exit(0);
    }
    environment.write("deploy/test/broken", "");
    let failed = environment.run(&["rollback", "--local"]);
    failed.assert_exit(1).assert_stderr_contains("again (skips: pull, migrate, switch)");
    std::fs::remove_file(environment.path("deploy/test/broken")).unwrap();
    let next = environment.run(&["rollback", "--local", "--to", "r1"]);
    next.assert_exit(0).assert_stderr_contains("resume after `verify` failed");
    let why = |step: &str| environment.run(&["why", step, "--json"]).json()["decision"].clone();
    assert_eq!(["pull", "migrate", "switch"].map(why), ["skip"; 3]);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");
}

#[test]
fn misspelled_release_of_a_rollback_is_corrected() {
    let environment = TestEnvironment::deployed();
    environment.pack("r2");
    environment.deploy("r2", &[]).assert_exit(0);
    let refused = environment.run(&["rollback", "--local", "--to", "r11"]);
    refused.assert_exit(2).assert_stderr_contains("error[P0217]");
    refused.assert_stderr_contains("hint: did you mean `r1`? `runner rollback --to r1 --local` goes back to it");
    // Another number is another release, and not `r1` misspelled.
    let other = environment.run(&["rollback", "--local", "--to", "r9"]);
    other.assert_exit(2).assert_stderr_contains("verified here, oldest first: `r1`, `r2`, which is live");
    other.assert_stderr_contains("hint: use `r1`: `runner rollback --to r1 --local`");
}
