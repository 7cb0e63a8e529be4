//! Files as they come: each works, or has an error with its code, its file and its line.

use crate::{
    migration_fixture::MigrationFixture,
    server::{ALL_ENGINES, TestDatabase, TestDbEngine},
};

fn for_each_engine(
    files: impl Fn(TestDbEngine) -> Vec<(&'static str, Vec<u8>)>,
    with: &str,
    check: impl Fn(TestDbEngine, &TestDatabase, &MigrationFixture),
) {
    for engine in ALL_ENGINES {
        let database = TestDatabase::new(engine);
        let shop = MigrationFixture::new(&database, with);
        for (name, content) in files(engine) {
            shop.write_migration(name, content);
        }
        check(engine, &database, &shop);
    }
}

fn two_migrations() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("1_a.sql", b"create table a (id integer);\n".to_vec()),
        ("2_b.sql", b"create table b (id integer);\n".to_vec()),
    ]
}

#[test]
fn edited_file_is_rejected_until_accepted() {
    for_each_engine(
        |_| two_migrations(),
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(0);
            shop.write_migration("1_a.sql", "create table a (id integer, more integer);\n");
            shop.deploy()
                .assert_exit(1)
                .assert_contains("error[P0311]")
                .assert_contains("migrations/1_a.sql:1")
                .assert_contains("runner migrate accept 1");
            shop.run(&["migrate", "status"]).assert_exit(1).assert_contains("changed");
            shop.run(&["migrate", "accept", "1", "--local"]).assert_exit(0);
            shop.deploy().assert_exit(0);
            shop.run(&["migrate", "status"]).assert_exit(0);
        },
    );
}

#[test]
fn missing_file_is_rejected() {
    for_each_engine(
        |_| two_migrations(),
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(0);
            std::fs::remove_file(shop.path("migrations/1_a.sql")).unwrap();
            shop.deploy().assert_exit(1).assert_contains("error[P0312]").assert_contains("1_a.sql");
        },
    );
}

#[test]
fn database_ahead_of_the_files_is_rejected() {
    for_each_engine(
        |_| two_migrations(),
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(0);
            std::fs::remove_file(shop.path("migrations/2_b.sql")).unwrap();
            shop.deploy().assert_exit(1).assert_contains("error[P0313]").assert_contains("2_b.sql");
        },
    );
}

#[test]
fn out_of_order_file_is_rejected_unless_allowed() {
    for (with, exit) in [("", 1), (", out-of-order: allow", 0)] {
        for_each_engine(
            |_| vec![("2_b.sql", b"create table b (id integer);".to_vec())],
            with,
            |_, database, shop| {
                shop.deploy().assert_exit(0);
                shop.write_migration("1_a.sql", "create table a (id integer);\n");
                let output = shop.deploy().assert_exit(exit);
                if exit == 1 {
                    output.assert_contains("error[P0314]").assert_contains("migrations/1_a.sql:1");
                } else {
                    assert_eq!(database.sql("select count(*) from a"), "0");
                }
            },
        );
    }
}

#[test]
fn duplicate_number_is_rejected() {
    for_each_engine(
        |_| vec![("1_a.sql", Vec::new()), ("01_b.sql", Vec::new())],
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(2).assert_contains("error[P0204]").assert_contains("`01_b.sql` and `1_a.sql`");
        },
    );
}

#[test]
fn name_without_a_number_is_rejected() {
    for_each_engine(
        |_| vec![("orders.sql", Vec::new())],
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(2).assert_contains("error[P0204]").assert_contains("migrations/orders.sql");
        },
    );
}

#[test]
fn changed_line_endings_and_byte_order_mark_warn() {
    for_each_engine(
        |_| two_migrations(),
        "",
        |_, database, shop| {
            shop.deploy().assert_exit(0);
            shop.write_migration("1_a.sql", "\u{feff}create table a (id integer);\r\n");
            shop.write_migration("3_c.sql", "\u{feff}create table c (id integer);\r\ninsert into c values (1);\r\n");
            shop.run(&["--local", "--release", "r1", "--verbose"])
                .assert_exit(0)
                .assert_contains("1_a.sql: only line endings or the byte order mark changed");
            assert_eq!(database.sql("select count(*) from c"), "1");
            shop.run(&["migrate", "status"]).assert_exit(0).assert_contains("line-ends");
        },
    );
}

#[test]
fn empty_and_comment_only_files_are_applied() {
    let files = vec![("1_a.sql", Vec::new()), ("2_b.sql", b"-- nothing; yet\n/* ; */ ;\n".to_vec())];
    for_each_engine(
        |_| files.clone(),
        "",
        |_, database, shop| {
            shop.deploy().assert_exit(0);
            assert_eq!(database.sql("select count(*) from _pawl_migrations"), "2");
        },
    );
}

#[test]
fn nul_and_invalid_utf8_are_rejected() {
    for_each_engine(
        |_| vec![("1_a.sql", b"create table a (id integer);\nselect '\0';\n".to_vec())],
        "",
        |_, _, shop| {
            shop.deploy()
                .assert_exit(2)
                .assert_contains("error[P0204]")
                .assert_contains("migrations/1_a.sql:2")
                .assert_contains("NUL");
        },
    );
    for_each_engine(
        |_| vec![("1_a.sql", b"select 1;\n\nselect '\xff';\n".to_vec())],
        "",
        |_, _, shop| {
            shop.deploy()
                .assert_exit(2)
                .assert_contains("error[P0204]")
                .assert_contains("migrations/1_a.sql:3")
                .assert_contains("UTF-8");
        },
    );
}

#[test]
fn large_file_is_applied() {
    for_each_engine(
        |_| {
            let mut text = String::from("create table big (id integer, t varchar(250));\n");
            let filler = "x".repeat(200);
            let rows = |from: usize| {
                (from..from + 500).map(|id| format!("({id}, '{filler}')")).collect::<Vec<_>>().join(",\n")
            };
            let mut id = 0;
            while text.len() < 50 << 20 {
                text += &format!("insert into big values {};\n", rows(id));
                id += 500;
            }
            vec![("1_big.sql", text.into_bytes())]
        },
        "",
        |_, database, shop| {
            shop.deploy().assert_exit(0);
            let rows: usize = database.sql("select count(*) from big").parse().unwrap();
            assert!(rows > 200_000, "{rows}");
        },
    );
}

#[test]
fn error_deep_in_a_file_reports_its_line() {
    for_each_engine(
        |_| {
            let mut text = String::from("create table t (id integer primary key);\n");
            for id in 0..20_000 {
                text += &format!("insert into t values ({id}); -- a comment; with more\n");
            }
            text += "insert into t values (7);\n";
            vec![("1_t.sql", text.into_bytes())]
        },
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(1).assert_contains("error[P0301]").assert_contains("migrations/1_t.sql:20002");
        },
    );
}

#[test]
fn copy_from_stdin_is_applied() {
    let database = TestDatabase::new(TestDbEngine::Postgres);
    let shop = MigrationFixture::new(&database, "");
    shop.write_migration("1_a.sql", "create table a (id integer, t text);\nCOPY a (id, t) FROM stdin;\n1\tx;y\n2\t\\N\n\\.\ninsert into a values (3, 'z');\n");
    shop.deploy().assert_exit(0);
    assert_eq!(database.sql("select count(*), count(t) from a"), "3|2");
    shop.write_migration("2_b.sql", "select 1;\nCOPY a FROM stdin;\n1\tx\n");
    shop.deploy()
        .assert_exit(1)
        .assert_contains("migrations/2_b.sql:2")
        .assert_contains("the end of the COPY data is missing");
    shop.write_migration("2_b.sql", "select 1;\n\\copy a from 'x'\n");
    shop.deploy().assert_exit(1).assert_contains("migrations/2_b.sql:2").assert_contains("psql");
}

#[test]
fn dollar_quoted_functions_are_applied() {
    let database = TestDatabase::new(TestDbEngine::Postgres);
    let shop = MigrationFixture::new(&database, "");
    shop.write_migration(
        "1_f.sql",
        "create function f() returns int language plpgsql as $body$\nbegin\n  -- ; $$\n  return 1;\nend;\n$body$;\n\
         do $$begin perform f(); end$$;\ncreate function g() returns int begin atomic select 1; select 2; end;\n",
    );
    shop.write_migration("2_f.sql", "-- no-transaction\ndo $$begin perform f(); end$$;\ncreate function h() returns text language sql as 'select '';''';\n");
    shop.deploy().assert_exit(0);
    assert_eq!(database.sql("select f(), g(), h()"), "1|2|;");
    shop.write_migration("3_f.sql", "select 1;\nselect $x$ open;\n");
    shop.deploy().assert_exit(1).assert_contains("migrations/3_f.sql:2");
}

#[test]
fn delimiter_commands_are_applied() {
    let database = TestDatabase::new(TestDbEngine::Mariadb);
    let shop = MigrationFixture::new(&database, "");
    shop.write_migration(
        "1_p.sql",
        "DELIMITER //\nCREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END//\nDELIMITER ;\n\
         create function f(a int) returns int deterministic begin if a > 1 then return case when a > 2 then 3 else 2 end; end if; return 1; end;\n\
         create table t (a int);\n",
    );
    shop.deploy().assert_exit(0);
    assert_eq!(database.sql("select f(1), f(2), f(3)"), "1|2|3");
    shop.write_migration("2_x.sql", "insert into t values (1);\n\nDELIMITER //\nselect 1;\nselect broken from//\n");
    shop.deploy().assert_exit(1).assert_contains("migrations/2_x.sql:");
}

#[test]
fn explicit_transactions_are_applied_or_rejected() {
    for engine in [TestDbEngine::Postgres, TestDbEngine::Sqlite] {
        let database = TestDatabase::new(engine);
        let shop = MigrationFixture::new(&database, "");
        shop.write_migration("1_a.sql", "begin;\ncreate table a (id integer);\ncommit;\n");
        shop.deploy().assert_exit(0);
        assert_eq!(database.sql("select count(*) from a"), "0");
        shop.write_migration("2_b.sql", "create table b (id integer);\ncommit;\ncreate table c (id integer);\n");
        shop.deploy().assert_exit(1).assert_contains("migrations/2_b.sql:2").assert_contains("COMMIT");
        assert!(database.try_sql("select * from b").is_err(), "nothing of it was kept");
    }
}

#[test]
fn session_settings_do_not_reach_the_next_file() {
    let database = TestDatabase::new(TestDbEngine::Postgres);
    let shop = MigrationFixture::new(&database, "");
    shop.write_migration(
        "1_a.sql",
        "select pg_catalog.set_config('search_path', '', false);\ncreate table public.a (id integer);\n",
    );
    shop.write_migration("2_b.sql", "create table b (id integer);\n");
    shop.deploy().assert_exit(0);
    assert_eq!(database.sql("select count(*) from public._pawl_migrations"), "2");
    assert_eq!(database.sql("select count(*) from public.b"), "0");
}

/// What is compared, looked through, fingerprinted and applied is one reading of a file.
#[test]
fn each_file_is_read_once() {
    let database = TestDatabase::new(TestDbEngine::Sqlite);
    let shop = MigrationFixture::new(&database, "");
    for (name, content) in two_migrations() {
        shop.write_migration(name, content);
    }
    let trace = shop.root().join("trace");
    for what in ["everything runs", "nothing runs"] {
        let mut strace = std::process::Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=open,openat,openat2", "-o"]).arg(&trace);
        strace.arg(env!("CARGO_BIN_EXE_runner"));
        crate::migration_fixture::run_process(shop.command_under(strace, "state", &["--local", "--release", "r1"]))
            .assert_exit(0);
        let trace = std::fs::read_to_string(&trace).unwrap();
        for (name, _) in two_migrations() {
            assert_eq!(trace.lines().filter(|line| line.contains(name)).count(), 1, "{what}: {name} in {trace}");
        }
    }
}

/// A step before may have written the files: they are read again behind it.
#[test]
fn files_written_by_an_earlier_step_are_applied() {
    let database = TestDatabase::new(TestDbEngine::Sqlite);
    let shop = MigrationFixture::new(&database, "");
    shop.write_migration("1_a.sql", "create table a (id integer);\n");
    shop.deploy().assert_exit(0);
    let plan = std::fs::read_to_string(shop.path("deploy.yml")).unwrap();
    let (from, to) = (shop.path("next.sql"), shop.path("migrations/2_b.sql"));
    let writes = format!(
        "steps:\n  write:\n    uses: run\n    trust: host\n    with: {{ program: /bin/cp, args: [\"{0}\", \"{1}\"] }}\n    \
         grants: {{ programs: [[/bin/cp, \"{0}\", \"{1}\"]] }}\n",
        from.display(),
        to.display()
    );
    shop.write("deploy.yml", plan.replace("steps:\n", &writes));
    shop.write("next.sql", "create table b (id integer);\n");
    shop.deploy().assert_exit(0);
    assert_eq!(database.sql("select count(*) from b"), "0");
}
