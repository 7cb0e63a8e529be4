//! A migration that fails, is fixed, is edited, is added; and what `why` says.

use expect_test::expect;

use crate::support::Environment;

/// r1 is live; r2 brings a migration whose third line is wrong.
fn broken() -> Environment {
    let environment = Environment::deployed();
    environment.pack("r2");
    environment.write(
        "migrations/0003_orders.sql",
        "-- Orders.\nCREATE TABLE purchase (id INTEGER PRIMARY KEY);\nINSERT INTO ordr (id) VALUES (1);\n",
    );
    environment
}

#[test]
fn an_sql_error_names_file_line_and_message() {
    let environment = broken();
    let before = environment.live();
    let failed = environment.run(&["--local", "--release", "r2"]);
    failed.assert_exit(1);
    expect![[r#"
        shop r2 to test (run [RUN 2], attempt 1)
          start  pull     its configuration and the release changed
          ran    pull     295 B, 3 files [TIME]
          start  migrate  migrations, the release and what earlier steps gave it changed
          FAIL   migrate  migrations/0003_orders.sql:3:1: no such table: ordr [TIME]
        error[P0301]: step `migrate` failed on attempt 1
          caused by: migrations/0003_orders.sql:3: no such table: ordr
          hint: correct the file: nothing of it was kept, and the files before it will not be applied again; then run `runner --local --release r2` again (skips: pull)
    "#]].assert_eq(&failed.said());
    assert_eq!(environment.live(), before, "r1 is still live");
    assert_eq!(
        environment.sql("SELECT count(*) FROM purchase"),
        "no such table: purchase",
        "the file is one transaction"
    );
}

#[test]
fn after_the_fix_only_what_is_left_runs() {
    let environment = broken();
    environment.deploy("r2", &[]).assert_exit(1);
    environment.deploy("r2", &[]).assert_exit(1).assert_decisions(&["pull skip held", "migrate run failed-before"]);
    environment.edit("migrations/0003_orders.sql", "ordr", "purchase");
    let fixed = environment.deploy("r2", &[]);
    fixed.assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate run failed-before",
        "switch run changed",
        "verify run changed",
    ]);
    assert_eq!(environment.sql("SELECT count(*) FROM purchase"), "1");
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r2");
}

#[test]
fn why_tells_in_words() {
    let environment = broken();
    environment.deploy("r2", &[]).assert_exit(1);
    environment.deploy("r2", &[]).assert_exit(1);
    let why = |step: &str| environment.run(&["why", step]).assert_exit(0).printed();
    expect![[r#"
        `pull`, epoch 3: r2 to test (run [RUN 2], attempt 2)

          decision  skip, because its effect still holds
          record    succeeded in epoch 2, [DATE] [DATE] (r2, run [RUN 2],
                    attempt 1)
          probe     its effect holds ([TIME])
    "#]]
    .assert_eq(&why("pull"));
    expect![[r#"
        `migrate`, epoch 3: r2 to test (run [RUN 2], attempt 2)

          decision  run, because it failed the last time
          record    failed in epoch 2, [DATE] [DATE] (r2, run [RUN 2], attempt
                    1); it said: migrations/0003_orders.sql:3:1: no such table: ordr
          probe     not asked
          outcome   failed after [TIME]: migrations/0003_orders.sql:3:1: no such table:
                    ordr
          hint      correct the file: nothing of it was kept, and the files before it
                    will not be applied again
    "#]]
    .assert_eq(&why("migrate"));
    expect![[r#"
        `switch`, epoch 3: r2 to test (run [RUN 2], attempt 2)

          decision  none: the attempt did not come to it (failed at `migrate`)
          record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1],
                    attempt 1)
          probe     not asked
    "#]]
    .assert_eq(&why("switch"));
}

#[test]
fn why_tells_in_json() {
    let environment = broken();
    environment.deploy("r2", &[]).assert_exit(1);
    environment.deploy("r2", &[]).assert_exit(1);
    let pull = environment.run(&["why", "pull", "--json"]).json();
    assert_eq!((&pull["decision"], &pull["because"]), (&"skip".into(), &"held".into()));
    assert_eq!(pull["probe"]["finding"], "held");
    let migrate = environment.run(&["why", "migrate", "--json"]).json();
    assert_eq!((&migrate["decision"], &migrate["because"]), (&"run".into(), &"failed-before".into()));
    let details = &migrate["outcome"]["failure"]["details"];
    assert_eq!((&details["file"], &details["line"]), (&"migrations/0003_orders.sql".into(), &3.into()), "{migrate}");
}

#[test]
fn another_configuration_runs_the_step_again_and_not_those_before_it() {
    let environment = Environment::deployed();
    environment.edit("deploy.yml", "database: main }", "database: main, ahead: allow }");
    let changed = environment.deploy("r1", &[]);
    changed.assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate run changed",
        "switch skip held",
        "verify run upstream-ran",
    ]);
    let why = environment.run(&["why", "migrate", "--json"]).json();
    let changed: Vec<_> = why["changed"].as_array().unwrap().iter().map(|one| &one["component"]).collect();
    assert_eq!(changed, ["config"]);
    assert_eq!(why["words"], "its configuration changed");
}

#[test]
fn another_grant_runs_the_step_again() {
    let environment = Environment::deployed();
    environment.edit("deploy.yml", r#"dirs: { migrations: "./migrations:ro" }"#, "dirs: { migrations: ./migrations }");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate run changed",
        "switch skip held",
        "verify run upstream-ran",
    ]);
    let why = environment.run(&["why", "migrate", "--json"]).json();
    assert_eq!(why["words"], "what it is granted changed");
}

#[test]
fn a_new_migration_of_the_same_release_is_applied() {
    let environment = Environment::deployed();
    environment.write("migrations/0003_purchase.sql", "CREATE TABLE purchase (id INTEGER PRIMARY KEY);\n");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate run changed",
        "switch run changed",
        "verify run changed",
    ]);
    assert_eq!(environment.sql("SELECT count(*) FROM purchase"), "0");
}

#[test]
fn a_migration_that_was_applied_must_not_be_edited() {
    let environment = Environment::deployed();
    environment.edit("migrations/0002_first_products.sql", "1900", "2000");
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(1);
    expect![[r#"
        shop r1 to test (run [RUN 2], attempt 1)
          skip   pull     its effect still holds [TIME]
          start  migrate  migrations changed
          FAIL   migrate  migrations/0002_first_products.sql:1:
                          0002_first_products.sql was changed after it was applied
                          to the database `main` [TIME]
        error[P0311]: step `migrate` failed on attempt 1
          caused by: migrations/0002_first_products.sql:1: 0002_first_products.sql was changed after it was applied to the database `main`
          hint: restore its old content, and put the change into a new migration; if the change does no harm, say so: `runner migrate bless 2`; then run `runner --local --release r1` again (skips: pull)
    "#]].assert_eq(&refused.said());
    assert_eq!(environment.sql("SELECT price_cents FROM product WHERE name = 'ratchet'"), "1900");
}
