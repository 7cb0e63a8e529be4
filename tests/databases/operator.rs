//! What an operator asks and says: preview, lint, baseline, down, resolve.

use crate::{
    doc_blocks::fenced_block,
    migration_fixture::MigrationFixture,
    server::{ALL_ENGINES, TestDatabase, TestDbEngine},
};

#[test]
fn preview_shows_the_sql_and_executes_on_demand() {
    for engine in ALL_ENGINES {
        let database = TestDatabase::new(engine);
        let shop = MigrationFixture::new(&database, "");
        shop.write_migration("1_a.sql", "create table a (id integer);\n");
        shop.deploy().assert_exit(0);
        shop.write_migration("2_b.sql", "create table b (id integer);\ninsert into b values (1);\n");
        let output = shop.run(&["migrate", "preview"]).assert_exit(0).assert_contains("insert into b values (1);");
        assert!(!output.text.contains("create table a"), "{}", output.text);
        let executed = shop.run(&["migrate", "preview", "--execute", "--local"]);
        if engine == TestDbEngine::Mariadb {
            executed.assert_exit(1);
        } else {
            executed.assert_exit(0).assert_contains("2_b.sql");
        }
        assert!(database.try_sql("select * from b").is_err(), "it was rolled back");
        shop.write_migration("3_c.sql", "insert into nowhere values (1);\n");
        if engine != TestDbEngine::Mariadb {
            shop.run(&["migrate", "preview", "--execute", "--local"])
                .assert_exit(1)
                .assert_contains("migrations/3_c.sql:1");
        }
        shop.run(&["plan", "--release", "r1"]).assert_exit(0).assert_contains("migrations/2_b.sql");
    }
}

#[test]
fn unsafe_statements_warn_deny_and_are_allowed() {
    for engine in ALL_ENGINES {
        let database = TestDatabase::new(engine);
        let shop = MigrationFixture::new(&database, "");
        shop.write_migration("1_a.sql", "create table orders (id integer, note integer);\n");
        shop.deploy().assert_exit(0);
        shop.write_migration("2_b.sql", "select 1;\nalter table orders drop column note;\n");
        shop.run(&["migrate", "lint"])
            .assert_exit(0)
            .assert_contains("migrations/2_b.sql:2")
            .assert_contains("ban-drop-column");
        let plan = std::fs::read_to_string(shop.path("deploy.yml")).unwrap();
        shop.write("deploy.yml", plan.replace("database: main }", "database: main, lint: deny }"));
        shop.deploy().assert_exit(2).assert_contains("error[P0323]").assert_contains("migrations/2_b.sql:2");
        let mut annotated = shop.command("state", &["--local", "--release", "r1"]);
        annotated.env("GITHUB_ACTIONS", "true");
        crate::migration_fixture::run_process(annotated)
            .assert_exit(2)
            .assert_contains("::warning file=migrations/2_b.sql,line=2,title=ban-drop-column::");
        // As the page allows it.
        let allowed = fenced_block("docs/migrate.md", "-- pawl: allow ");
        shop.write_migration("2_b.sql", format!("select 1;\n{allowed}"));
        shop.deploy().assert_exit(0);
        shop.write_migration("3_c.sql", "drop table orders;\n");
        shop.write("deploy.yml", plan);
        shop.deploy().assert_exit(0).assert_contains("migrations/3_c.sql:1").assert_contains("ban-drop-table");
    }
}

#[test]
fn baseline_runs_no_migration() {
    for engine in ALL_ENGINES {
        let database = TestDatabase::new(engine);
        database.sql("create table a (id integer)");
        let shop = MigrationFixture::new(&database, "");
        shop.write_migration("1_a.sql", "create table a (id integer);\n");
        shop.write_migration("2_b.sql", "create table b (id integer);\n");
        shop.run(&["migrate", "baseline", "1", "--local"]).assert_exit(0).assert_contains("1_a.sql");
        shop.deploy().assert_exit(0);
        assert_eq!(database.sql("select count(*) from b"), "0");
        shop.run(&["migrate", "baseline", "2", "--local"]).assert_exit(1);
    }
}

#[test]
fn down_reverts_migrations_with_down_scripts() {
    for engine in ALL_ENGINES {
        for dbmate in [false, true] {
            let database = TestDatabase::new(engine);
            let shop = MigrationFixture::new(&database, "");
            for (number, table) in [(1, "a"), (2, "b"), (3, "c")] {
                let (up, down) = (format!("create table {table} (id integer);"), format!("drop table {table};"));
                if dbmate {
                    shop.write_migration(
                        &format!("{number}_{table}.sql"),
                        format!("-- migrate:up\n{up}\n\n-- migrate:down\n{down}\n"),
                    );
                } else {
                    shop.write_migration(&format!("{number}_{table}.up.sql"), up);
                    shop.write_migration(&format!("{number}_{table}.down.sql"), down);
                }
            }
            shop.deploy().assert_exit(0);
            shop.run(&["migrate", "down", "--local"]).assert_exit(0).assert_contains("3_c");
            assert!(database.try_sql("select * from c").is_err());
            shop.run(&["migrate", "down", "--to", "1", "--local"]).assert_exit(0).assert_contains("2_b");
            assert!(database.try_sql("select * from b").is_err());
            assert_eq!(database.sql("select count(*) from a"), "0");
            shop.deploy().assert_exit(0);
            assert_eq!(database.sql("select count(*) from c"), "0");
        }
        let database = TestDatabase::new(engine);
        let shop = MigrationFixture::new(&database, "");
        shop.write_migration("1_a.sql", "create table a (id integer);\n");
        shop.deploy().assert_exit(0);
        shop.run(&["migrate", "down"]).assert_exit(2).assert_contains("P0208");
        shop.run(&["migrate", "down", "--local"]).assert_exit(1).assert_contains("no down migration");
    }
}

/// A statement of which nobody can tell whether it was done.
#[test]
fn statement_in_doubt_stops_until_resolved() {
    let cases = [("--applied", "0"), ("--rolled-back", "2"), ("--retry-from=2", "1"), ("--retry-from=3", "0")];
    for (word, calls) in cases {
        let database = TestDatabase::new(TestDbEngine::Mariadb);
        database.sql("create table called (id integer)");
        let shop = MigrationFixture::new(&database, "");
        shop.write_migration("1_p.sql", "create procedure p() insert into called values (1);\n");
        shop.deploy().assert_exit(0);
        shop.write_migration("2_p.sql", "call p();\ncall p();\n");
        // As a kill in the midst of the second call leaves it.
        database.sql(
            "insert into _pawl_ledger (kind, version, number, state, hash, note, epoch, at) values \
             ('statement', '2', 2, 'intent', 'x', '{\"about\": \"nothing\", \"before\": \"\"}', 1, '')",
        );
        if calls != "2" {
            shop.deploy()
                .assert_exit(3)
                .assert_contains("error[P0319]")
                .assert_contains("migrations/2_p.sql:2")
                .assert_contains("call p()");
            database.sql("delete from called");
        }
        shop.run(&["migrate", "resolve", "2", word, "--local"]).assert_exit(0);
        shop.deploy().assert_exit(0);
        assert_eq!(database.sql("select count(*) from called"), calls, "{word}");
    }
}
