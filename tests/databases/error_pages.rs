//! The pages of docs/errors that need a database server; the others are in `tests/cases/error_pages`.

use std::fs;

use crate::{
    doc_blocks::{check_error_page, command_line, exit_code},
    faults::Pooler,
    migration_fixture::{MigrationFixture, ProcessOutput, run_process, wait_until},
    server::{TestDatabase, TestDbEngine},
};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];

/// The page shows a command and the error that it ended in.
#[track_caller]
fn check_page(code: &str, shop: &MigrationFixture, arguments: &[&str], output: ProcessOutput) {
    let output = output.assert_exit(exit_code(code));
    let shown = [(shop.path("").display().to_string(), "/srv/shop/")];
    check_error_page(code, Some(&command_line(arguments)), &output.text, &shown);
}

/// A migration releases all locks of its session while another session waits for one of them.
#[test]
fn p0317_lost_migration_lock() {
    let database = TestDatabase::new(TestDbEngine::Postgres);
    let shop = MigrationFixture::new(&database, "");
    shop.write_migration("0001_warm.sql", "select pg_sleep(3); select pg_advisory_unlock_all();\n");
    shop.write_migration("0002_orders.sql", "create table orders (id integer);\n");
    let command = shop.command("state", DEPLOY);
    let run = std::thread::spawn(move || run_process(command));
    let of_this_database = "from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())";
    wait_until("the runner has the lock", || database.sql(&format!("select count(*) {of_this_database}")) == "1");
    let to_integer = |column: &str| format!("{column}::bigint::bit(32)::integer");
    let mut other = database.start_client(&format!(
        "select pg_advisory_lock({}, {}), pg_sleep(10) {of_this_database}",
        to_integer("classid"),
        to_integer("objid")
    ));
    wait_until("another session waits for it", || {
        database.sql(&format!("select count(*) {of_this_database} and not granted")) == "1"
    });
    let output = run.join().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    check_page("P0317", &shop, DEPLOY, output);
}

/// The runner is killed while a procedure runs, and the catalog does not show what that did.
#[test]
fn p0319_statement_of_unknown_outcome() {
    let database = TestDatabase::new(TestDbEngine::Mariadb);
    let shop = MigrationFixture::new(&database, "");
    shop.write_migration("0001_archive.sql", "create procedure archive_orders() do sleep(600);\n");
    shop.deploy().assert_exit(0);
    shop.write_migration("0002_archive_orders.sql", "create table archived (id integer);\ncall archive_orders();\n");
    let mut killed = shop.start("state");
    let session = format!(
        "select max(id) from information_schema.processlist where db = '{}' and info like '%sleep(600)%' and id <> connection_id()",
        database.name
    );
    wait_until("the procedure runs", || database.sql(&session) != "NULL");
    killed.kill().unwrap();
    killed.wait().unwrap();
    database.sql(&format!("kill {}", database.sql(&session)));
    check_page("P0319", &shop, DEPLOY, shop.deploy());
}

/// Another runner, whose state is elsewhere, migrates the database for longer than the step may take.
#[test]
fn p0320_lock_of_another_migration() {
    let database = TestDatabase::new(TestDbEngine::Postgres);
    let shop = MigrationFixture::new(&database, "");
    let plan = fs::read_to_string(shop.path("deploy.yml")).unwrap();
    shop.write("deploy.yml", plan.replace("uses: migrate\n", "uses: migrate\n    timeout: 3s\n"));
    shop.write_migration("0001_slow.sql", "select pg_sleep(600);\n");
    shop.run(&["modules", "--accept"]).assert_exit(0);
    let mut other = shop.start("other");
    let holders = "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())";
    wait_until("the other one has the lock", || database.sql(holders) == "1");
    let output = shop.deploy();
    other.kill().unwrap();
    other.wait().unwrap();
    check_page("P0320", &shop, DEPLOY, output);
}

#[test]
fn p0321_unreachable_database() {
    let database = TestDatabase::new(TestDbEngine::Postgres);
    // Nobody listens on port 1.
    let shop = MigrationFixture::with_url(&database.url_at(1, "${{ secrets.PASSWORD }}"), "", "");
    shop.write_migration("0001_a.sql", "create table a (id integer);\n");
    let arguments = ["migrate", "status"];
    let output = shop.run(&arguments);
    check_page("P0321", &shop, &arguments, output);
}

#[test]
fn p0322_pooler_in_transaction_mode() {
    let database = TestDatabase::new(TestDbEngine::Postgres);
    let pooler = Pooler::start(&database, "transaction");
    let shop = MigrationFixture::with_url(&pooler.url(&database), "", "");
    shop.write_migration("0001_a.sql", "create table a (id integer);\n");
    let output = shop.deploy();
    check_page("P0322", &shop, DEPLOY, output);
}
