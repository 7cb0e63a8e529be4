//! Errors of migrations that SQLite shows as well as a server.

use std::{fs, process::Command};

use super::check_page;
use crate::support::TestEnvironment;

const DEPLOY: &[&str] = &["--local", "--release", "r1"];

/// The example's step that migrates, alone, with more of its configuration.
fn migrate_environment(with: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_plan(&format!(
        "version: 1\napp: shop\nsteps:\n  migrate:\n    uses: migrate\n    with: {{ dir: migrations, database: main{with} }}\n    \
         grants:\n      dirs: {{ migrations: \"./migrations:ro\" }}\n      databases: {{ main: \"sqlite:./deploy/test/shop.db\" }}\n"
    ));
    fs::create_dir_all(environment.path("deploy/test")).unwrap();
    environment
}

fn migrated_environment() -> TestEnvironment {
    let environment = migrate_environment("");
    environment.run(DEPLOY).assert_exit(0);
    environment
}

fn execute(environment: &TestEnvironment, sql: &str) {
    rusqlite::Connection::open(environment.path("deploy/test/shop.db")).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn p0311_changed_migration() {
    let environment = migrated_environment();
    environment.edit("migrations/0002_first_products.sql", "1900", "2000");
    check_page("P0311", &environment, DEPLOY);
}

#[test]
fn p0312_missing_migration() {
    let environment = migrated_environment();
    fs::remove_file(environment.path("migrations/0001_products.sql")).unwrap();
    check_page("P0312", &environment, DEPLOY);
}

#[test]
fn p0313_database_ahead_of_the_files() {
    let environment = migrated_environment();
    fs::remove_file(environment.path("migrations/0002_first_products.sql")).unwrap();
    check_page("P0313", &environment, DEPLOY);
}

#[test]
fn p0314_migration_out_of_order() {
    let environment = migrate_environment("");
    fs::rename(
        environment.path("migrations/0002_first_products.sql"),
        environment.path("migrations/0005_first_products.sql"),
    )
    .unwrap();
    environment.run(DEPLOY).assert_exit(0);
    environment.write("migrations/0004_orders.sql", "CREATE TABLE orders (id INTEGER PRIMARY KEY);\n");
    check_page("P0314", &environment, DEPLOY);
}

#[test]
fn p0315_migration_left_unfinished_by_another_tool() {
    let environment = migrate_environment(", format: sqlx");
    environment.run(DEPLOY).assert_exit(0);
    execute(&environment, "UPDATE _sqlx_migrations SET success = FALSE WHERE version = 2");
    environment.write("migrations/0003_orders.sql", "CREATE TABLE orders (id INTEGER PRIMARY KEY);\n");
    check_page("P0315", &environment, DEPLOY);
}

/// The folder of the state is put back as it was in a backup.
#[test]
fn p0316_state_that_is_older_than_the_database() {
    let environment = migrated_environment();
    let (state, backup) = (environment.path(".pawl"), environment.path("backup"));
    assert!(Command::new("cp").arg("-r").args([&state, &backup]).status().unwrap().success());
    for (number, table) in [(3, "orders"), (4, "customers"), (5, "suppliers")] {
        let sql = format!("CREATE TABLE {table} (id INTEGER PRIMARY KEY);\n");
        environment.write(&format!("migrations/000{number}_{table}.sql"), sql);
        if number < 5 {
            environment.run(DEPLOY).assert_exit(0);
        }
    }
    fs::remove_dir_all(&state).unwrap();
    fs::rename(backup, state).unwrap();
    check_page("P0316", &environment, DEPLOY);
}

#[test]
fn p0318_changed_statement() {
    let environment = migrate_environment("");
    let file = "migrations/0003_indexes.sql";
    let first = "-- no-transaction\nCREATE TABLE orders (id INTEGER PRIMARY KEY);\n";
    environment.write(file, format!("{first}CREATE INDEX by_name ON nothing (name);\n"));
    environment.run(DEPLOY).assert_exit(1);
    environment.write(file, format!("{}CREATE INDEX by_id ON orders (id);\n", first.replace("orders", "purchases")));
    check_page("P0318", &environment, DEPLOY);
}

#[test]
fn p0323_unsafe_statement() {
    let environment = migrate_environment(", lint: deny");
    environment.run(DEPLOY).assert_exit(0);
    environment.write("migrations/0003_no_prices.sql", "ALTER TABLE product DROP COLUMN price_cents;\n");
    check_page("P0323", &environment, DEPLOY);
}
