//! Killed at a send, a write or a connect, and retried once: not stuck, nothing applied twice, nothing applied and not recorded.
//!
//! strace kills the runner when one of its threads enters the n-th call of a kind. Which points there are is seen in an undisturbed
//! run; which of them are taken is diced.

use std::{collections::BTreeMap, fs, process::Command};

use crate::{
    migration_fixture::{MigrationFixture, run_process},
    rng::{self, SplitMix64},
    server::{TestDatabase, TestDbEngine, TestDbServer},
};

const TRACED_CALLS: &str = "sendto,sendmsg,write,writev,pwrite64,connect,fdatasync,fsync";
const DEFAULT_POINTS: usize = 40;

fn shop_with_migrations(database: &TestDatabase) -> MigrationFixture {
    let shop = MigrationFixture::new(database, "");
    shop.write_migration("1_users.sql", "create table users (id integer primary key, name varchar(50));\ninsert into users values (1, 'a'), (2, 'b');\n");
    match database.engine {
        TestDbEngine::Postgres => {
            shop.write_migration(
                "2_indexes.sql",
                "-- no-transaction\ncreate index concurrently users_name on users (name);\ncreate unique index concurrently users_both on users (id, name);\n",
            );
            shop.write_migration(
                "3_more.sql",
                "create function f() returns int language sql as $$ select 1; $$;\ninsert into users values (3, 'c;d');\n",
            );
        }
        TestDbEngine::Mariadb => {
            shop.write_migration(
                "2_more.sql",
                "create table orders (id integer primary key auto_increment, user integer);\nalter table orders add column price integer;\n\
                 insert into orders (user, price) values (1, 10);\ncreate index orders_user on orders (user);\n\
                 update orders set price = price + 1;\nalter table users add column mail varchar(50);\n",
            );
            shop.write_migration(
                "3_triggers.sql",
                "create table gone (id integer);\ncreate view v as select id from users;\n\
                 create trigger orders_t before insert on orders for each row begin set new.price = 5; end;\n\
                 insert into orders (user) values (2);\ndrop table gone;\n",
            );
        }
        TestDbEngine::Sqlite => {
            shop.write_migration(
                "2_rebuild.sql",
                "-- no-transaction\npragma foreign_keys = off;\nbegin;\ncreate table new_users (id integer primary key, name text not null);\n\
                 insert into new_users select id, name from users;\ndrop table users;\nalter table new_users rename to users;\ncommit;\n\
                 insert into users values (3, 'c');\n",
            );
            shop.write_migration(
                "3_more.sql",
                "create index users_name on users (name);\ninsert into users values (4, 'd');\n",
            );
        }
    }
    shop.run(&["modules", "--accept"]).assert_exit(0);
    shop
}

/// Everything that the migrations leave, times aside.
fn database_state(database: &TestDatabase) -> String {
    let queries: &[&str] = match database.engine {
        TestDbEngine::Postgres => &[
            "select id, name from users order by id",
            "select indexrelid::regclass, indisvalid from pg_index where indrelid = 'users'::regclass order by 1",
            "select proname from pg_proc where proname = 'f'",
        ],
        TestDbEngine::Mariadb => &[
            "select id, name, mail from users order by id",
            // Not `id`: an insert that was broken off and rolled back has used a number up.
            "select user, price from orders order by id",
            "select table_name from information_schema.tables where table_schema = database() and table_name <> '_pawl_ledger' order by 1",
            "select distinct index_name from information_schema.statistics where table_schema = database() and table_name = 'orders' order by 1",
            "select trigger_name from information_schema.triggers where trigger_schema = database()",
        ],
        TestDbEngine::Sqlite => &[
            "select id, name from users order by id",
            "select name from sqlite_master where name not like '%pawl%' order by 1",
        ],
    };
    let mut state: Vec<String> = queries.iter().map(|sql| database.sql(sql)).collect();
    state.push(database.sql("select version, name, checksum from _pawl_migrations order by version"));
    state.push(database.sql("select count(*) from _pawl_ledger where kind = 'statement'"));
    state.join("\n--\n")
}

fn strace_command(shop: &MigrationFixture, options: &[&str]) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq"]).args(options).arg(env!("CARGO_BIN_EXE_runner"));
    shop.command_under(strace, "state", &["--local", "--release", "r1"])
}

/// How often a thread enters each call, the most of all threads.
fn kill_points(engine: TestDbEngine) -> (Vec<(String, usize)>, String) {
    let database = TestDatabase::new(engine);
    let shop = shop_with_migrations(&database);
    let trace = shop.root().join("trace");
    run_process(strace_command(&shop, &["-o", trace.to_str().unwrap(), "-e", &format!("trace={TRACED_CALLS}")]))
        .assert_exit(0);
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in fs::read_to_string(trace).unwrap().lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        if let Some((name, _)) = call.trim_start().split_once('(') {
            *counts.entry((name.to_owned(), thread.to_owned())).or_default() += 1;
        }
    }
    let mut most: BTreeMap<String, usize> = BTreeMap::new();
    for ((name, _), count) in counts {
        let place = most.entry(name).or_default();
        *place = count.max(*place);
    }
    let points = most.iter().flat_map(|(name, count)| (1..=*count).map(move |nth| (name.clone(), nth))).collect();
    (points, database_state(&database))
}

#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn wanted_points() -> usize {
    std::env::var("PAWL_POINTS").ok().and_then(|points| points.parse().ok()).unwrap_or(DEFAULT_POINTS)
}

fn check_kills(engine: TestDbEngine) {
    // Kept, or each case would start one of its own.
    let _server = (engine != TestDbEngine::Sqlite).then(|| TestDbServer::shared(engine));
    let seed = rng::seed_from_env().unwrap();
    let (points, complete) = kill_points(engine);
    let mut rng = SplitMix64::new(seed);
    let wanted = wanted_points();
    // Where there are fewer points than wanted, they are taken again: what a kill meets differs from time to time.
    let mut chosen = Vec::new();
    while chosen.len() < wanted {
        chosen.extend(rng.choose_distinct(wanted - chosen.len(), points.len()));
    }
    let mut killed = 0;
    for index in chosen {
        let (name, nth) = &points[index];
        let database = TestDatabase::new(engine);
        let shop = shop_with_migrations(&database);
        let case_name = format!("{engine:?}, PAWL_SEED={seed}, {name} {nth}");
        let inject = format!("inject={name}:signal=SIGKILL:when={nth}");
        let first = run_process(strace_command(
            &shop,
            &["-o", "/dev/null", "-e", &format!("trace={TRACED_CALLS}"), "-e", &inject],
        ));
        // strace ends as the runner did; a few points come only in some runs.
        killed += usize::from(first.code != Some(0));
        let second = shop.deploy();
        assert_eq!(second.code, Some(0), "{case_name}: stuck: {}\nfirst: {}", second.text, first.text);
        assert_eq!(database_state(&database), complete, "{case_name}\nfirst: {}", first.text);
    }
    let kinds: BTreeMap<&str, usize> = points.iter().fold(BTreeMap::new(), |mut kinds, (name, _)| {
        *kinds.entry(name.as_str()).or_default() += 1;
        kinds
    });
    let kinds: Vec<_> = kinds.iter().map(|(name, count)| format!("{count} {name}")).collect();
    eprintln!(
        "kills of migrations on {engine:?}: {wanted} cases, {killed} killed, 0 stuck, PAWL_SEED={seed}; of {} points: {}",
        points.len(),
        kinds.join(", ")
    );
    assert!(killed * 2 > wanted, "{engine:?}: only {killed} of {wanted} were killed");
}

#[test]
fn kills_on_postgres() {
    check_kills(TestDbEngine::Postgres);
}

#[test]
fn kills_on_mariadb() {
    check_kills(TestDbEngine::Mariadb);
}

#[test]
fn kills_on_sqlite() {
    check_kills(TestDbEngine::Sqlite);
}
