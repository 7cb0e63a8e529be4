//! The pages of docs/errors that need a database server; the others are in `tests/cases/error_pages`.

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
