//! A migration that fails, is fixed, is edited, is added; and what `why` says.

use expect_test::expect;

use crate::support::TestEnvironment;

/// r1 is live; r2 brings a migration whose third line is wrong.
fn with_broken_migration() -> TestEnvironment {
    let environment = TestEnvironment::deployed();
    environment.pack("r2");
    environment.write(
        "migrations/0003_orders.sql",
        "-- Orders.\nCREATE TABLE purchase (id INTEGER PRIMARY KEY);\nINSERT INTO ordr (id) VALUES (1);\n",
    );
    environment
}

#[test]
fn an_sql_error_names_file_line_and_message() {
    let environment = with_broken_migration();
    let before = environment.live_target();
    let failed = environment.run(&["--local", "--release", "r2"]);
    failed.assert_exit(1);
    expect![[r#"
        shop r2 to test (run [RUN 2], attempt 1)
          start  pull     its configuration and the release changed
          ran    pull     295 B, 3 files [TIME]
          start  migrate  migrations, the release and outputs of earlier steps changed
          FAIL   migrate  migrations/0003_orders.sql:3:1: no such table: ordr [TIME]
        error[P0301]: step `migrate` failed on attempt 1
          caused by: migrations/0003_orders.sql:3: no such table: ordr
          hint: correct the file: its statements were rolled back, and the files before it will not run again; then run `runner --local --release r2` again (skips: pull)
    "#]].assert_eq(&failed.stderr_snapshot());
    assert_eq!(environment.live_target(), before, "r1 is still live");
    assert_eq!(
        environment.sql("SELECT count(*) FROM purchase"),
        "no such table: purchase",
        "the file is one transaction"
    );
}

#[test]
fn after_the_fix_only_the_remaining_steps_run() {
    let environment = with_broken_migration();
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
fn why_explains_as_text() {
    let environment = with_broken_migration();
    environment.deploy("r2", &[]).assert_exit(1);
    environment.deploy("r2", &[]).assert_exit(1);
    let why = |step: &str| environment.run(&["why", step]).assert_exit(0).stdout_snapshot();
    expect![[r#"
        `pull`, epoch 3: r2 to test (run [RUN 2], attempt 2)

          decision  skip: its effect still holds
          record    succeeded in epoch 2, [DATE] [DATE] (r2, run [RUN 2], attempt 1)
          probe     its effect holds ([TIME])
    "#]]
    .assert_eq(&why("pull"));
    expect![[r#"
        `migrate`, epoch 3: r2 to test (run [RUN 2], attempt 2)

          decision  run: it failed last time
          record    failed in epoch 2, [DATE] [DATE] (r2, run [RUN 2], attempt 1); it said: migrations/0003_orders.sql:3:1: no such table: ordr
          probe     not run
          outcome   failed after [TIME]: migrations/0003_orders.sql:3:1: no such table: ordr
          hint      correct the file: its statements were rolled back, and the files before it will not run again
    "#]]
    .assert_eq(&why("migrate"));
    expect![[r#"
        `switch`, epoch 3: r2 to test (run [RUN 2], attempt 2)

          decision  none: the attempt did not reach it (failed at `migrate`)
          record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
          probe     not run
    "#]]
    .assert_eq(&why("switch"));
}

#[test]
fn why_explains_as_json() {
    let environment = with_broken_migration();
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
fn changed_configuration_reruns_the_step_but_no_earlier_one() {
    let environment = TestEnvironment::deployed();
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
fn changed_grant_reruns_the_step() {
    let environment = TestEnvironment::deployed();
    environment.edit("deploy.yml", r#"dirs: { migrations: "./migrations:ro" }"#, "dirs: { migrations: ./migrations }");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate run changed",
        "switch skip held",
        "verify run upstream-ran",
    ]);
    let why = environment.run(&["why", "migrate", "--json"]).json();
    assert_eq!(why["words"], "its grants changed");
}

#[test]
fn new_migration_of_the_same_release_is_applied() {
    let environment = TestEnvironment::deployed();
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
fn edited_applied_migration_is_rejected() {
    let environment = TestEnvironment::deployed();
    environment.edit("migrations/0002_first_products.sql", "1900", "2000");
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(1);
    expect![[r#"
        shop r1 to test (run [RUN 2], attempt 1)
          skip   pull     its effect still holds [TIME]
          start  migrate  migrations changed
          FAIL   migrate  migrations/0002_first_products.sql:1: 0002_first_products.sql changed after it was applied to the database `main` [TIME]
        error[P0311]: step `migrate` failed on attempt 1
          caused by: migrations/0002_first_products.sql:1: 0002_first_products.sql changed after it was applied to the database `main`
          hint: restore the file and move the change to a new migration; if the change is harmless, run `runner migrate accept 2 --local`; then run `runner --local --release r1` again (skips: pull)
    "#]].assert_eq(&refused.stderr_snapshot());
    assert_eq!(environment.sql("SELECT price_cents FROM product WHERE name = 'ratchet'"), "1900");
}

/// A step sees the directory as `/migrations`. Two such directories are not taken for one.
#[test]
fn directory_of_migrations_may_begin_with_a_slash() {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "dir: migrations,", "dir: /migrations,");
    environment.edit(
        "deploy.yml",
        "  switch:\n",
        "  search:\n    uses: migrate\n    with: { dir: /search, database: search }\n    grants:\n      \
         dirs: { search: \"./search:ro\" }\n      databases: { search: \"sqlite:${{ vars.root }}/search.db\" }\n  switch:\n",
    );
    environment.write("search/0001_terms.sql", "CREATE TABLE term (id INTEGER PRIMARY KEY);\n");
    environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(environment.sql("SELECT count(*) FROM product"), "2");
    let search = rusqlite::Connection::open(environment.path("deploy/test/search.db")).unwrap();
    let tables = "SELECT count(*) FROM sqlite_master WHERE name IN ('term', 'product')";
    assert_eq!(search.query_row(tables, (), |row| row.get::<_, i64>(0)).unwrap(), 1);
}
