//! Other tools' databases are taken over with nothing run again, and given back.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    doc_blocks::fenced_block,
    migration_fixture::{MigrationFixture, ProcessOutput, run_process, wait_until},
    server::{ALL_ENGINES, PASSWORD, TestDatabase, TestDbEngine, postgres_program},
};

/// Where `cargo xtask setup` puts them.
fn tool_command(name: &str) -> Command {
    let target = std::path::Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(std::path::Path::parent).unwrap();
    let places =
        [target.join("tools/bin").join(name), target.join("tools/node_modules/.bin").join(name), PathBuf::from(name)];
    Command::new(places.into_iter().find(|place| place.is_file() || !place.is_absolute()).unwrap())
}

fn run_sqlx(database: &TestDatabase, shop: &MigrationFixture, what: &[&str]) -> ProcessOutput {
    let mut command = tool_command("sqlx");
    command.arg("migrate").args(what).arg("--source").arg(shop.path("migrations"));
    let url = database.plain_url().replace("sqlite:", "sqlite://");
    let url = if database.engine == TestDbEngine::Sqlite { format!("{url}?mode=rwc") } else { url };
    command.arg("--database-url").arg(url);
    run_process(command)
}

fn run_dbmate(database: &TestDatabase, shop: &MigrationFixture, what: &str) -> ProcessOutput {
    let mut command = tool_command("dbmate");
    command.arg("--no-dump-schema").arg("--migrations-dir").arg(shop.path("migrations"));
    command.arg("--url").arg(database.plain_url()).arg(what);
    run_process(command)
}

fn write_migration(shop: &MigrationFixture, form: &str, number: u32) {
    let up = format!("create table t{number} (id integer);\ninsert into t{number} values (1);\n");
    let name = format!("2024010100000{number}_make_t{number}.sql");
    match form {
        "dbmate" => {
            shop.write_migration(&name, format!("-- migrate:up\n{up}\n-- migrate:down\ndrop table t{number};\n"))
        }
        _ => shop.write_migration(&name, up),
    }
}

fn check_takeover_and_return(form: &str, other: impl Fn(&TestDatabase, &MigrationFixture) -> ProcessOutput) {
    for engine in ALL_ENGINES {
        let database = TestDatabase::new(engine);
        let shop = MigrationFixture::new(&database, "");
        write_migration(&shop, form, 1);
        write_migration(&shop, form, 2);
        other(&database, &shop).assert_exit(0);
        // Taken over: the table tells the form, and nothing runs again.
        shop.run(&["migrate", "status"]).assert_exit(0).assert_contains(&format!("{form} migrations"));
        shop.deploy().assert_exit(0);
        write_migration(&shop, form, 3);
        shop.deploy().assert_exit(0);
        // Given back.
        write_migration(&shop, form, 4);
        other(&database, &shop).assert_exit(0);
        // And taken over again.
        write_migration(&shop, form, 5);
        shop.deploy().assert_exit(0);
        other(&database, &shop).assert_exit(0);
        for number in 1..=5 {
            assert_eq!(database.sql(&format!("select count(*) from t{number}")), "1", "{engine:?} {form} t{number}");
        }

        // The other way round: begun by the runner.
        let database = TestDatabase::new(engine);
        let shop = MigrationFixture::new(&database, &format!(", format: {form}"));
        write_migration(&shop, form, 1);
        shop.deploy().assert_exit(0);
        write_migration(&shop, form, 2);
        other(&database, &shop).assert_exit(0);
        shop.deploy().assert_exit(0);
        for number in 1..=2 {
            assert_eq!(database.sql(&format!("select count(*) from t{number}")), "1", "{engine:?} {form} t{number}");
        }
    }
}

#[test]
fn sqlx_database_is_taken_over_and_returned() {
    check_takeover_and_return("sqlx", |database, shop| run_sqlx(database, shop, &["run"]));
}

#[test]
fn dbmate_database_is_taken_over_and_returned() {
    check_takeover_and_return("dbmate", |database, shop| run_dbmate(database, shop, "migrate"));
}

/// What the page says to find out whether the runner and sqlx-cli make the same schema.
#[test]
fn commands_of_the_page_find_no_difference_to_sqlx() {
    let shown = fenced_block("docs/migrate.md", "sqlx migrate run");
    let (theirs, ours) = (TestDatabase::new(TestDbEngine::Postgres), TestDatabase::new(TestDbEngine::Postgres));
    let shop = MigrationFixture::new(&ours, ", format: sqlx");
    for number in 1..=3 {
        write_migration(&shop, "sqlx", number);
    }
    let script =
        shown.replace("DIR", "migrations").replace("postgres://…/theirs", &format!("'{}'", theirs.plain_url()));
    let script = script.replace("(schema theirs)", &format!("(schema {})", theirs.name));
    let script = script.replace("(schema ours)", &format!("(schema {})", ours.name));
    let compare = |script: &str| {
        let mut bash = shop.command_under(Command::new("bash"), "state", &["-ec", script]);
        let programs = [
            tool_command("sqlx"),
            Command::new(env!("CARGO_BIN_EXE_runner")),
            Command::new(postgres_program("pg_dump")),
        ];
        let folders = programs.map(|program| Path::new(program.get_program()).parent().unwrap().to_owned());
        #[expect(clippy::disallowed_methods, reason = "tests pass on where programs are")]
        let path = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path))).unwrap();
        let port = ours.server.as_ref().unwrap().port().to_string();
        bash.env("PATH", path).env("PGHOST", "127.0.0.1").env("PGPORT", port);
        bash.env("PGUSER", "postgres").env("PGPASSWORD", PASSWORD);
        run_process(bash)
    };
    compare(&script).assert_exit(0).assert_contains("deployed r1 to ");
    // It does find one.
    ours.sql("create table t4 (id integer)");
    let diff = &script[script.find("schema() {").unwrap()..];
    compare(diff).assert_exit(1).assert_contains("> CREATE TABLE public.t4");
}

/// The history tables are those that the tools make, to the letter of the schema.
#[test]
fn history_tables_match_the_tools_schema() {
    for form in ["sqlx", "dbmate"] {
        for engine in ALL_ENGINES {
            let schema = |database: &TestDatabase| {
                match engine {
                TestDbEngine::Postgres => database.sql(
                    "select table_name, column_name, data_type, is_nullable, column_default, character_maximum_length from \
                     information_schema.columns where table_name in ('_sqlx_migrations', 'schema_migrations') order by 1, ordinal_position",
                ),
                TestDbEngine::Mariadb => {
                    let table = if form == "sqlx" { "_sqlx_migrations" } else { "schema_migrations" };
                    database.sql(&format!("show create table {table}"))
                }
                TestDbEngine::Sqlite => database.sql("select group_concat(name || type || \"notnull\" || pk) from pragma_table_info('_sqlx_migrations') \
                     union all select group_concat(name || type || \"notnull\" || pk) from pragma_table_info('schema_migrations')"),
            }
            };
            let (ours, theirs) = (TestDatabase::new(engine), TestDatabase::new(engine));
            let shop = MigrationFixture::new(&ours, &format!(", format: {form}"));
            write_migration(&shop, form, 1);
            shop.deploy().assert_exit(0);
            match form {
                "sqlx" => run_sqlx(&theirs, &shop, &["run"]).assert_exit(0),
                _ => run_dbmate(&theirs, &shop, "migrate").assert_exit(0),
            };
            assert_eq!(schema(&ours), schema(&theirs), "{engine:?} {form}");
        }
    }
}

/// The lock that `sqlx::migrate!` takes, computed by somebody else's CRC-32.
fn sqlx_lock_key(database: &TestDatabase) -> (i64, String) {
    let other = TestDatabase::new(TestDbEngine::Mariadb);
    let sum: i64 = other.sql(&format!("select crc32('{}')", database.name)).parse().unwrap();
    let key = 0x3d32_ad9e * sum;
    (key, format!("{key:x}"))
}

/// A program that migrates by sqlx when it starts has its own lock: the runner waits for it, and holds it.
#[test]
fn runner_waits_for_and_holds_the_sqlx_lock() {
    for engine in [TestDbEngine::Postgres, TestDbEngine::Mariadb] {
        let database = TestDatabase::new(engine);
        let (number, name) = sqlx_lock_key(&database);
        let (hold, polls, other, slow) = match engine {
            TestDbEngine::Postgres => (
                format!("select pg_advisory_lock({number}), pg_sleep(60)"),
                format!(
                    "select count(*) from pg_stat_activity where query like '%pg_try_advisory_lock({number})%' and pid <> pg_backend_pid()"
                ),
                format!("select pg_try_advisory_lock({number})::text"),
                "select pg_sleep(60)",
            ),
            TestDbEngine::Mariadb | TestDbEngine::Sqlite => (
                // sqlx says -1, for ever, which MariaDB takes for a mistake: there sqlx has no lock. MySQL's is this one.
                format!("select get_lock('{name}', 60), sleep(60)"),
                format!(
                    "select count(*) from information_schema.processlist where id <> connection_id() and db = '{}' and command = 'Sleep'",
                    database.name
                ),
                format!("select get_lock('{name}', 0)"),
                "select sleep(60)",
            ),
        };
        let asleep = match engine {
            TestDbEngine::Postgres => {
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
            }
            TestDbEngine::Mariadb | TestDbEngine::Sqlite => {
                "select count(*) from information_schema.processlist where db = database() and state = 'User sleep'"
            }
        };
        let mut holder = database.start_client(&hold);
        wait_until("sqlx's lock is held", || database.sql(asleep) == "1");
        let shop = MigrationFixture::new(&database, ", format: sqlx");
        shop.write_migration("1_a.sql", "create table a (id integer);\n");
        shop.write_migration("2_slow.sql", format!("{slow};\n"));
        let mut run = shop.start("state");
        wait_until("the runner asks for it", || database.sql(&polls) != "0");
        assert!(database.try_sql("select * from _sqlx_migrations").is_err(), "{engine:?}: nothing is made without it");
        let end = match engine {
            TestDbEngine::Postgres => {
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'".to_owned()
            }
            TestDbEngine::Mariadb | TestDbEngine::Sqlite => {
                let id = database.sql("select id from information_schema.processlist where db = database() and state = 'User sleep'");
                format!("kill {id}")
            }
        };
        database.sql(&end);
        holder.wait().unwrap();
        wait_until("the slow file runs", || database.try_sql("select * from a").is_ok() && database.sql(asleep) == "1");
        let answer = database.sql(&other);
        assert!(["f", "false", "0"].contains(&answer.as_str()), "{engine:?}: the runner holds it: {answer}");
        run.kill().unwrap();
        run.wait().unwrap();
    }
}

/// sqlx-cli takes no lock, and may fail for that; the runner does not, and nothing is applied twice.
#[test]
fn concurrent_sqlx_run_applies_nothing_twice() {
    for _ in 0..5 {
        let database = TestDatabase::new(TestDbEngine::Postgres);
        let shop = MigrationFixture::new(&database, ", format: sqlx");
        for number in 1..=6 {
            write_migration(&shop, "sqlx", number);
        }
        shop.run(&["modules", "--accept"]).assert_exit(0);
        let mut other = tool_command("sqlx");
        other.args(["migrate", "run", "--source"]).arg(shop.path("migrations"));
        other.arg("--database-url").arg(database.plain_url());
        other.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut other = other.spawn().unwrap();
        let ours = shop.deploy();
        other.wait().unwrap();
        ours.assert_exit(0);
        run_sqlx(&database, &shop, &["run"]).assert_exit(0);
        assert_eq!(database.sql("select count(*) from _sqlx_migrations where success"), "6");
        for number in 1..=6 {
            assert_eq!(database.sql(&format!("select count(*) from t{number}")), "1");
        }
    }
}
