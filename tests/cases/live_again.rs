//! After a rollback: what depends on the switch runs again for the release before, and it is called live only if its checks hold.

use crate::support::TestEnvironment;

/// A service that serves what is live when it is restarted.
const RESTART: &str = r#"  restart:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [-c, "cat current/VERSION > running; echo $PAWL_RELEASE >> told"], dir: app, repeatable: true }
    grants: { dirs: { app: "${{ vars.root }}" }, programs: [[/bin/sh, -c, "**"]] }
"#;

/// The example with that service, a check of it, and a rollback; r1 is deployed, and r2 will fail its check.
fn with_service(restart: &str) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "  verify:\n", &format!("{restart}  verify:\n"));
    let checks = "      files:\n        - { path: running, equals: \"${{ release }}\" }\n        \
                  - { path: \"broken-${{ release }}\", exists: false }\n";
    environment.edit("deploy.yml", "      files:\n", checks);
    environment.write("deploy.yml", environment.read("deploy.yml") + "on-failure: rollback\n");
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.pack("r2");
    environment.write("deploy/test/broken-r2", "");
    environment
}

fn live(environment: &TestEnvironment) -> (String, bool) {
    let status = environment.run(&["status", "--json"]).json();
    let live = &status[0]["live"];
    (live["release"]["label"].as_str().unwrap().to_owned(), live["verified"].as_bool().unwrap())
}

#[test]
fn what_depends_on_the_switch_runs_again_for_the_release_before() {
    let environment = with_service(RESTART);
    environment.write("migrations/0003_orders.sql", "CREATE TABLE orders (id INTEGER PRIMARY KEY);\n");
    let undone = environment.run(&["--local", "--release", "r2"]);
    undone.assert_exit(4).assert_stderr_contains("hint: r1 is live again; ");
    undone.assert_stderr_contains("note: not undone: migrate 0003_orders.sql");
    assert!(!undone.stderr.contains("not undone: restart"), "{}", undone.stderr);
    assert_eq!(environment.read("deploy/test/running").trim(), "r1");
    assert_eq!(environment.read("deploy/test/told"), "r1\nr2\nr1\n");
    assert_eq!(live(&environment), ("r1".to_owned(), true));
    assert!(undone.stdout.contains("ROLLED BACK r2 in test after `verify` failed"), "{}", undone.stdout);

    std::fs::remove_file(environment.path("deploy/test/broken-r2")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0);
    assert_eq!(environment.read("deploy/test/running").trim(), "r2");
}

/// Its own grant names the failed release.
#[test]
fn program_with_the_label_as_an_argument_is_repeated_for_the_release_before() {
    let environment = with_service(
        r#"  warm:
    program: [/bin/sh, -c, "echo $1 >> warmed", warm, "${{ release }}"]
    trust: host
    with: { dir: app, repeatable: true }
    grants: { dirs: { app: "${{ vars.root }}" } }
  restart:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [-c, "cat current/VERSION > running"], dir: app, repeatable: true }
    grants: { dirs: { app: "${{ vars.root }}" } }
"#,
    );
    let undone = environment.run(&["--local", "--release", "r2"]);
    undone.assert_exit(4).assert_stderr_contains("hint: r1 is live again; ");
    assert_eq!(environment.read("deploy/test/warmed"), "r1\nr2\nr1\n");
    assert_eq!(live(&environment), ("r1".to_owned(), true));
}

#[test]
fn release_is_not_called_live_again_if_a_step_was_not_repeated() {
    for restart in [
        RESTART.replace(", repeatable: true", ""),
        RESTART.replace("    uses: run\n", "    uses: run\n    needs: switch\n").replace(", repeatable: true", ""),
    ] {
        let environment = with_service(&restart);
        let undone = environment.run(&["--local", "--release", "r2"]);
        undone.assert_exit(4);
        undone.assert_stderr_contains("switched back to r1; not verified: `restart` was not repeated");
        assert!(!undone.stderr.contains("live again"), "{}", undone.stderr);
        assert!(undone.stdout.contains("not verified"), "{}", undone.stdout);
        assert_eq!(live(&environment), ("r1".to_owned(), false));
        let status = environment.run(&["status"]);
        let why = "not verified (a rollback switched back to it; `restart` was not repeated)";
        assert!(status.stdout.contains(why), "{}", status.stdout);
    }
}

#[test]
fn status_names_the_step_that_a_live_release_still_needs() {
    let environment = TestEnvironment::new();
    let restart =
        RESTART.replace("cat current/VERSION > running; echo $PAWL_RELEASE >> told", "test $PAWL_RELEASE = r1");
    environment.edit("deploy.yml", "  verify:\n", &format!("{restart}  verify:\n"));
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.pack("r2");
    environment.run(&["--local", "--release", "r2"]).assert_exit(1);
    let status = environment.run(&["status"]);
    assert!(
        status.stdout.contains("r2, not verified (`restart` has not succeeded for it), since "),
        "{}",
        status.stdout
    );
}

#[test]
fn plan_says_what_runs_again() {
    let environment = with_service(
        &RESTART.replace(", repeatable: true", "").replace("    uses: run\n", "    uses: run\n    after-undo: true\n"),
    );
    environment.deploy("r2", &[]).assert_exit(4).assert_stderr_contains("r1 is live again");
    assert_eq!(environment.read("deploy/test/running").trim(), "r1");

    let environment = with_service(&RESTART.replace("    uses: run\n", "    uses: run\n    after-undo: false\n"));
    let undone = environment.deploy("r2", &[]);
    undone.assert_exit(4);
    undone.assert_stderr_contains("switched back to r1; not verified: `verify` failed: 1 of 4 checks failed");
    assert_eq!(environment.read("deploy/test/running").trim(), "r2");
    assert_eq!(live(&environment), ("r1".to_owned(), false));
}

#[test]
fn step_that_the_release_before_never_had_is_not_repeated() {
    let environment = with_service(RESTART);
    environment.edit("deploy.yml", "  verify:\n", &format!("{}  verify:\n", RESTART.replace("  restart:", "  warm:")));
    environment.deploy("r2", &[]).assert_exit(4).assert_stderr_contains(
        "switched back to r1; not verified: `warm` was not repeated, since nothing is recorded of it for r1",
    );
    assert_eq!(live(&environment), ("r1".to_owned(), false));
}

#[test]
fn checks_of_the_release_before_must_hold() {
    let environment = with_service(RESTART);
    environment.write("deploy/test/broken-r1", "");
    environment
        .deploy("r2", &[])
        .assert_exit(4)
        .assert_stderr_contains("switched back to r1; not verified: `verify` failed: 1 of 4 checks failed");
    assert_eq!(live(&environment), ("r1".to_owned(), false));
    environment.run(&["promote", "--local", "--from", "test", "--to", "test"]).assert_exit(2);
    std::fs::remove_file(environment.path("deploy/test/broken-r1")).unwrap();
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(live(&environment), ("r1".to_owned(), true));
}

#[test]
fn release_that_fails_its_check_when_it_is_deployed_again_is_not_verified() {
    let environment = with_service(RESTART);
    environment.write("deploy/test/broken-r1", "");
    environment.deploy("r1", &["--rerun", "restart"]).assert_exit(1);
    assert_eq!(live(&environment), ("r1".to_owned(), false));
}

#[test]
fn operator_who_undid_the_switch_has_not_verified_the_release_before() {
    let environment = with_service(RESTART);
    std::fs::remove_file(environment.path("deploy/test/broken-r2")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0);
    let resolved = environment.run(&["resolve", "switch", "--local", "--as", "undone", "--message", "by hand"]);
    resolved.assert_exit(0);
    assert_eq!(live(&environment), ("r1".to_owned(), false));
}
