//! What goes to the next environment is what was verified: the release's content, and the files that steps read beside it.

use super::environments::{live_version, three_environments};
use crate::support::TestEnvironment;

#[test]
fn promotion_with_other_files_than_the_verified_ones_is_refused() {
    let environment = three_environments();
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    environment.write("migrations/0003_never_tested.sql", "CREATE TABLE untested (id INTEGER PRIMARY KEY);\n");
    let promote = || environment.run(&["promote", "--local", "--from", "test", "--to", "pre"]);
    promote()
        .assert_exit(2)
        .assert_stderr_contains("error[P0250]: r1 was verified in `test` with different files")
        .assert_stderr_contains("step `migrate`: `migrations` differs: 0003_never_tested.sql");
    assert!(!environment.exists("deploy/pre"), "nothing was touched");
    std::fs::remove_file(environment.path("migrations/0003_never_tested.sql")).unwrap();
    promote().assert_exit(0);
    // The same, found by the records of a deployment that skipped the step.
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    environment.edit("migrations/0002_first_products.sql", "1900", "2000");
    promote()
        .assert_stderr_contains("error[P0250]")
        .assert_stderr_contains("step `migrate`: `migrations` differs: 0002_first_products.sql\n");
}

/// A step that no release needs.
const WARM: &str = "  warm:
    uses: run
    trust: host
    with: { program: /bin/true, args: [], repeatable: true }
    grants: { programs: [[/bin/true]] }
";

#[test]
fn promotion_with_other_steps_than_the_verified_ones_is_refused() {
    let environment = three_environments();
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    let verified = environment.read("deploy.yml");
    let promote = || environment.run(&["promote", "--local", "--from", "test", "--to", "pre"]);
    environment.edit("deploy.yml", "  verify:\n", &format!("{WARM}  verify:\n"));
    promote()
        .assert_exit(2)
        .assert_stderr_contains("error[P0250]: r1 was verified in `test` with different steps")
        .assert_stderr_contains("step `warm`: the verified deployment did not have it");
    assert!(!environment.exists("deploy/pre"), "nothing was touched");

    // Verified where it comes from, it may go on, but not without the step again.
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    let with_warm = environment.read("deploy.yml");
    environment.write("deploy.yml", &verified);
    promote().assert_exit(2).assert_stderr_contains("step `warm`: the plan no longer has it");
    environment.write("deploy.yml", &with_warm);
    promote().assert_exit(0);
}

/// A rollback runs and verifies what the release needs with the files of today; the migrations are those of the deployment.
#[test]
fn promotion_after_a_rollback_compares_with_what_the_rollback_ran() {
    let environment = three_environments();
    let warm = "  warm:\n    program: [./warm.sh]\n    trust: host\n    with: { repeatable: true }\n";
    environment.edit("deploy.yml", "  verify:\n", &format!("{warm}  verify:\n"));
    let write_script = |text: &str| environment.write_program("warm.sh", &format!("#!/bin/sh\n{text}\n"));
    write_script(":");
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    environment.pack("r2");
    environment.run(&["--local", "--env", "test", "--release", "r2"]).assert_exit(0);
    write_script("true");
    environment.run(&["rollback", "--local", "--env", "test"]).assert_exit(0).assert_stderr_contains("ran    warm");
    environment.run(&["promote", "--local", "--from", "test", "--to", "pre"]).assert_exit(0);
    write_script("exit 0");
    environment
        .run(&["promote", "--local", "--from", "test", "--to", "pre"])
        .assert_exit(2)
        .assert_stderr_contains("step `warm`: `./warm.sh` differs");
}

#[test]
fn promotion_with_another_module_than_the_verified_one_is_refused() {
    let environment = three_environments();
    environment.write("check.wasm", TestEnvironment::component("verify"));
    environment.edit("deploy.yml", "uses: verify", "uses: ./check.wasm");
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    let promote = || environment.run(&["promote", "--local", "--from", "test", "--to", "pre"]);
    // The lock file is made anew, and accepts it; test has never seen it.
    environment.write("check.wasm", [&TestEnvironment::component("verify")[..], b"\x00\x02\x01x"].concat());
    std::fs::remove_file(environment.path("deploy.lock")).unwrap();
    promote().assert_exit(2).assert_stderr_contains("step `verify`: the content of `check.wasm` differs");
    environment.edit("deploy.yml", "uses: ./check.wasm", "uses: verify");
    promote().assert_exit(2).assert_stderr_contains("step `verify`: it used `check.wasm`, and uses `verify` now");
}

/// Test, pre and prod, with everything in git under the tag `r1`.
fn in_git() -> TestEnvironment {
    let environment = three_environments();
    environment.git(&["init", "--quiet"]);
    environment.git(&["add", "deploy.yml", "migrations"]);
    environment.git(&["commit", "--quiet", "--message", "first"]);
    environment.git(&["tag", "r1"]);
    environment
}

/// More files than the journal names.
fn add_many_files(environment: &TestEnvironment) {
    for number in 10..300 {
        environment.write(
            &format!("migrations/{number:04}_nothing.sql"),
            format!("CREATE TABLE nothing_{number} (id INTEGER);\n"),
        );
    }
    environment.git(&["add", "migrations"]);
    environment.git(&["commit", "--quiet", "--message", "many files"]);
    environment.git(&["tag", "--force", "r1"]);
}

#[test]
fn changed_file_in_a_directory_of_many_is_named_by_git() {
    for label in [None, Some(["--release", "r1"])] {
        let environment = in_git();
        add_many_files(&environment);
        let arguments: Vec<_> = ["--local", "--env", "test"].into_iter().chain(label.into_iter().flatten()).collect();
        environment.run(&arguments).assert_exit(0);
        environment.edit("migrations/0002_first_products.sql", "1900", "2000");
        environment.write("migrations/0003_never_tested.sql", "CREATE TABLE untested (id INTEGER PRIMARY KEY);\n");
        environment
            .run(&["promote", "--local", "--from", "test", "--to", "pre"])
            .assert_exit(2)
            .assert_stderr_contains("`migrations` differs: 0002_first_products.sql, 0003_never_tested.sql")
            .assert_stderr_contains("check out commit ");
    }
}

#[test]
fn commit_that_was_edited_does_not_stand_for_a_release() {
    let environment = in_git();
    environment.edit("migrations/0002_first_products.sql", "1900", "2000");
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    let status = environment.run(&["status", "--env", "test", "--json"]).json();
    assert_eq!(status[0]["live"]["commit"], serde_json::Value::Null);
    environment.edit("migrations/0002_first_products.sql", "2000", "2100");
    let promoted = environment.run(&["promote", "--local", "--from", "test", "--to", "pre"]);
    promoted.assert_exit(2).assert_stderr_contains("hint: restore the files; or deploy to `test`");
}

#[test]
fn promotion_goes_only_forward() {
    let environment = three_environments();
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    for (from, to, message) in
        [("test", "test", "`--from` and `--to` are both `test`"), ("prod", "test", "`test` comes before `prod`")]
    {
        environment
            .run(&["promote", "--local", "--from", from, "--to", to])
            .assert_exit(2)
            .assert_stderr_contains("error[P0216]")
            .assert_stderr_contains(message);
    }
}

/// Migrations in the release's archive.
fn with_migrations_in_the_release() -> TestEnvironment {
    let environment = three_environments();
    environment.edit("deploy.yml", "dir: migrations", r#"dir: "app/${{ steps.pull.path }}/migrations""#);
    environment.edit("deploy.yml", r#"migrations: "./migrations:ro""#, r#"app: "${{ vars.root }}:ro""#);
    std::fs::rename(environment.path("migrations"), environment.path("app/migrations")).unwrap();
    environment.pack("r1");
    environment
}

#[test]
fn migrations_of_the_release_are_the_same_in_each_environment() {
    let environment = with_migrations_in_the_release();
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    // What the checkout has does not matter.
    environment.write("app/migrations/0003_never_tested.sql", "CREATE TABLE untested (id INTEGER PRIMARY KEY);\n");
    for (from, to) in [("test", "pre"), ("pre", "prod")] {
        environment.run(&["promote", "--local", "--from", from, "--to", to]).assert_exit(0);
        let status = environment.run(&["migrate", "status", "--env", to]);
        status.assert_exit(0);
        assert!(
            status.stdout.contains("0002_first_products") && !status.stdout.contains("untested"),
            "{}",
            status.stdout
        );
    }
    environment
        .run(&["--local", "--env", "prod", "--release", "r1"])
        .assert_exit(0)
        .assert_stderr_contains("skip   migrate");
}

#[test]
fn failed_migration_of_the_release_needs_a_corrected_release() {
    let environment = with_migrations_in_the_release();
    environment.write("app/migrations/0003_more.sql", "INSERT INTO mor (id) VALUES (1);\n");
    environment.pack("r2");
    let failed = environment.run(&["--local", "--env", "test", "--release", "r2"]);
    failed.assert_exit(1).assert_stderr_contains(
        "if the cause is in the release that `pull` installed, deploy a corrected release; otherwise run `runner --local --env test --release r2` again (skips: pull)",
    );
    environment.write("app/migrations/0003_more.sql", "CREATE TABLE more (id INTEGER PRIMARY KEY);\n");
    environment.pack("r3");
    environment.run(&["--local", "--env", "test", "--release", "r3"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r3");
}

#[test]
fn rollback_leaves_the_database_as_it_is() {
    let environment = with_migrations_in_the_release();
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    environment.write("app/migrations/0003_more.sql", "CREATE TABLE more (id INTEGER PRIMARY KEY);\n");
    environment.pack("r2");
    environment.run(&["--local", "--env", "test", "--release", "r2"]).assert_exit(0);
    // r1 has no 0003: its own `migrate` would find a database that is ahead.
    environment
        .run(&["rollback", "--local", "--env", "test"])
        .assert_exit(0)
        .assert_stderr_contains("a rollback leaves the database as it is");
    assert_eq!(live_version(&environment, "test"), "r1");
    let status = environment.run(&["status", "--env", "test", "--json"]).json();
    assert_eq!(status[0]["live"]["verified"], true, "{status}");
}

#[test]
fn unsafe_migration_of_the_release_is_found_before_any_step_commits() {
    let environment = with_migrations_in_the_release();
    environment.edit("deploy.yml", "database: main }", "database: main, lint: deny }");
    environment.edit(
        "deploy.yml",
        "  migrate:\n",
        "  announce:\n    uses: run\n    needs: [pull]\n    with: { program: /usr/bin/touch, args: [announced], dir: here }\n    \
         grants: { dirs: { here: ./work }, programs: [[/usr/bin/touch, announced]] }\n    trust: host\n  migrate:\n",
    );
    environment.write("app/migrations/0003_drop.sql", "ALTER TABLE product DROP COLUMN price_cents;\n");
    environment.write("work/kept", "");
    environment.pack("r1");
    let refused = environment.run(&["--local", "--env", "test", "--release", "r1"]);
    assert_ne!(refused.code, Some(0));
    refused.assert_stderr_contains("0003_drop.sql");
    assert!(!environment.exists("work/announced"), "a step ran before the check: {}", refused.stderr);
}
