//! Many runs of the same migrations at once, on a fresh database: none fails, and each file is applied once.

use std::process::{Child, Stdio};

use crate::{
    migration_fixture::MigrationFixture,
    server::{ALL_ENGINES, TestDatabase, TestDbEngine},
};

const ROUNDS: usize = 5;
const CONCURRENT_RUNS: usize = 8;
const MIGRATION_FILES: usize = 6;

fn run_concurrently(engine: TestDbEngine) {
    let database = TestDatabase::new(engine);
    let shop = MigrationFixture::new(&database, "");
    for number in 1..=MIGRATION_FILES {
        // What is run twice fails, or leaves two rows.
        shop.write_migration(
            &format!("{number:04}_t.sql"),
            format!("create table t{number} (id integer);\ninsert into t{number} values ({number});\n"),
        );
    }
    // The first run writes deploy.lock beside the plan; eight at once would write it eight times.
    shop.run(&["modules", "--accept"]).assert_exit(0);
    let start = |run: usize| {
        let mut command = shop.command(&format!("state{run}"), &["--local", "--release", "r1"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs: Vec<Child> = (0..CONCURRENT_RUNS).map(start).collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{engine:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(
        database.sql("select count(*), count(distinct version) from _pawl_migrations"),
        format!("{MIGRATION_FILES}|{MIGRATION_FILES}")
    );
    for number in 1..=MIGRATION_FILES {
        assert_eq!(database.sql(&format!("select count(*) from t{number}")), "1");
    }
}

#[test]
fn concurrent_runs_apply_each_file_once_on_postgres() {
    (0..ROUNDS).for_each(|_| run_concurrently(TestDbEngine::Postgres));
}

#[test]
fn concurrent_runs_apply_each_file_once_on_mariadb() {
    (0..ROUNDS).for_each(|_| run_concurrently(TestDbEngine::Mariadb));
}

#[test]
fn concurrent_runs_apply_each_file_once_on_sqlite() {
    (0..ROUNDS).for_each(|_| run_concurrently(TestDbEngine::Sqlite));
}

/// A state that was put back as it was counts epochs that the database has seen already.
#[test]
fn older_epoch_is_fenced_off() {
    for engine in ALL_ENGINES {
        let database = TestDatabase::new(engine);
        let shop = MigrationFixture::new(&database, "");
        shop.write_migration("1_a.sql", "create table a (id integer);");
        shop.deploy().assert_exit(0);
        let copy = |from: &str, to: &str| {
            let mut cp = std::process::Command::new("cp");
            assert!(cp.arg("-r").arg(shop.root().join(from)).arg(shop.root().join(to)).status().unwrap().success());
        };
        copy("state", "kept");
        for (number, name) in [(2, "b"), (3, "c")] {
            shop.write_migration(&format!("{number}_{name}.sql"), format!("create table {name} (id integer);"));
            shop.deploy().assert_exit(0);
        }
        std::fs::remove_dir_all(shop.root().join("state")).unwrap();
        copy("kept", "state");
        shop.write_migration("4_d.sql", "create table d (id integer);");
        shop.deploy()
            .assert_exit(1)
            .assert_contains("P0316")
            .assert_contains("a newer attempt (epoch 3) of shop/default")
            .assert_contains("after this attempt (epoch 2) began");
        assert!(database.try_sql("select * from d").is_err(), "{engine:?}: nothing was applied");
        shop.run(&["migrate", "resolve", "--fence", "--local"]).assert_exit(0);
        shop.deploy().assert_exit(0);
        // Another state counts for itself.
        crate::migration_fixture::run_process(shop.command("other", &["--local", "--release", "r1"])).assert_exit(0);
    }
}
