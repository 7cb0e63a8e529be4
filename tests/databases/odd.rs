//! Files as they come: each works, or has an error with its code, its file and its line.

use crate::{
    server::{ALL, Database, Engine},
    shop::Shop,
};

fn each(files: impl Fn(Engine) -> Vec<(&'static str, Vec<u8>)>, with: &str, check: impl Fn(Engine, &Database, &Shop)) {
    for engine in ALL {
        let database = Database::new(engine);
        let shop = Shop::new(&database, with);
        for (name, content) in files(engine) {
            shop.migration(name, content);
        }
        check(engine, &database, &shop);
    }
}

fn two() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("1_a.sql", b"create table a (id integer);\n".to_vec()),
        ("2_b.sql", b"create table b (id integer);\n".to_vec()),
    ]
}

#[test]
fn an_edited_file() {
    each(
        |_| two(),
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(0);
            shop.migration("1_a.sql", "create table a (id integer, more integer);\n");
            shop.deploy()
                .assert_exit(1)
                .assert_says("error[P0311]")
                .assert_says("migrations/1_a.sql:1")
                .assert_says("runner migrate bless 1");
            shop.run(&["migrate", "status"]).assert_exit(1).assert_says("changed");
            shop.run(&["migrate", "bless", "1", "--local"]).assert_exit(0);
            shop.deploy().assert_exit(0);
            shop.run(&["migrate", "status"]).assert_exit(0);
        },
    );
}

#[test]
fn a_missing_file() {
    each(
        |_| two(),
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(0);
            std::fs::remove_file(shop.path("migrations/1_a.sql")).unwrap();
            shop.deploy().assert_exit(1).assert_says("error[P0312]").assert_says("1_a.sql");
        },
    );
}

#[test]
fn a_database_that_is_ahead() {
    each(
        |_| two(),
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(0);
            std::fs::remove_file(shop.path("migrations/2_b.sql")).unwrap();
            shop.deploy().assert_exit(1).assert_says("error[P0313]").assert_says("2_b.sql");
        },
    );
}

#[test]
fn a_file_out_of_order() {
    for (with, exit) in [("", 1), (", out-of-order: allow", 0)] {
        each(
            |_| vec![("2_b.sql", b"create table b (id integer);".to_vec())],
            with,
            |_, database, shop| {
                shop.deploy().assert_exit(0);
                shop.migration("1_a.sql", "create table a (id integer);\n");
                let said = shop.deploy().assert_exit(exit);
                if exit == 1 {
                    said.assert_says("error[P0314]").assert_says("migrations/1_a.sql:1");
                } else {
                    assert_eq!(database.sql("select count(*) from a"), "0");
                }
            },
        );
    }
}

#[test]
fn a_number_twice() {
    each(
        |_| vec![("1_a.sql", Vec::new()), ("01_b.sql", Vec::new())],
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(1).assert_says("error[P0").assert_says("`01_b.sql` and `1_a.sql`");
        },
    );
}

#[test]
fn a_name_without_a_number() {
    each(
        |_| vec![("orders.sql", Vec::new())],
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(1).assert_says("error[P0").assert_says("migrations/orders.sql");
        },
    );
}

#[test]
fn other_line_ends_and_a_byte_order_mark_warn() {
    each(
        |_| two(),
        "",
        |_, database, shop| {
            shop.deploy().assert_exit(0);
            shop.migration("1_a.sql", "\u{feff}create table a (id integer);\r\n");
            shop.migration("3_c.sql", "\u{feff}create table c (id integer);\r\ninsert into c values (1);\r\n");
            shop.run(&["--local", "--release", "r1", "--verbose"])
                .assert_exit(0)
                .assert_says("1_a.sql: line ends or byte order mark changed");
            assert_eq!(database.sql("select count(*) from c"), "1");
            shop.run(&["migrate", "status"]).assert_exit(0).assert_says("line-ends");
        },
    );
}

#[test]
fn an_empty_file_and_one_of_comments() {
    let files = vec![("1_a.sql", Vec::new()), ("2_b.sql", b"-- nothing; yet\n/* ; */ ;\n".to_vec())];
    each(
        |_| files.clone(),
        "",
        |_, database, shop| {
            shop.deploy().assert_exit(0);
            assert_eq!(database.sql("select count(*) from _pawl_migrations"), "2");
        },
    );
}

#[test]
fn bytes_that_are_no_text() {
    each(
        |_| vec![("1_a.sql", b"create table a (id integer);\nselect '\0';\n".to_vec())],
        "",
        |_, _, shop| {
            shop.deploy().assert_exit(1).assert_says("error[P0").assert_says("migrations/1_a.sql:2").assert_says("NUL");
        },
    );
    each(
        |_| vec![("1_a.sql", b"select 1;\n\nselect '\xff';\n".to_vec())],
        "",
        |_, _, shop| {
            shop.deploy()
                .assert_exit(1)
                .assert_says("error[P0")
                .assert_says("migrations/1_a.sql:3")
                .assert_says("UTF-8");
        },
    );
}

#[test]
fn fifty_megabytes() {
    each(
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
fn an_error_deep_in_a_file_has_its_line() {
    each(
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
            shop.deploy().assert_exit(1).assert_says("error[P0301]").assert_says("migrations/1_t.sql:20002");
        },
    );
}

#[test]
fn copy_with_its_data() {
    let database = Database::new(Engine::Postgres);
    let shop = Shop::new(&database, "");
    shop.migration("1_a.sql", "create table a (id integer, t text);\nCOPY a (id, t) FROM stdin;\n1\tx;y\n2\t\\N\n\\.\ninsert into a values (3, 'z');\n");
    shop.deploy().assert_exit(0);
    assert_eq!(database.sql("select count(*), count(t) from a"), "3|2");
    shop.migration("2_b.sql", "select 1;\nCOPY a FROM stdin;\n1\tx\n");
    shop.deploy().assert_exit(1).assert_says("migrations/2_b.sql:2").assert_says("has no end");
    shop.migration("2_b.sql", "select 1;\n\\copy a from 'x'\n");
    shop.deploy().assert_exit(1).assert_says("migrations/2_b.sql:2").assert_says("psql");
}

#[test]
fn functions_with_dollar_quotes() {
    let database = Database::new(Engine::Postgres);
    let shop = Shop::new(&database, "");
    shop.migration(
        "1_f.sql",
        "create function f() returns int language plpgsql as $body$\nbegin\n  -- ; $$\n  return 1;\nend;\n$body$;\n\
         do $$begin perform f(); end$$;\ncreate function g() returns int begin atomic select 1; select 2; end;\n",
    );
    shop.migration("2_f.sql", "-- no-transaction\ndo $$begin perform f(); end$$;\ncreate function h() returns text language sql as 'select '';''';\n");
    shop.deploy().assert_exit(0);
    assert_eq!(database.sql("select f(), g(), h()"), "1|2|;");
    shop.migration("3_f.sql", "select 1;\nselect $x$ open;\n");
    shop.deploy().assert_exit(1).assert_says("migrations/3_f.sql:2");
}

#[test]
fn delimiters() {
    let database = Database::new(Engine::Mariadb);
    let shop = Shop::new(&database, "");
    shop.migration(
        "1_p.sql",
        "DELIMITER //\nCREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END//\nDELIMITER ;\n\
         create function f(a int) returns int deterministic begin if a > 1 then return case when a > 2 then 3 else 2 end; end if; return 1; end;\n\
         create table t (a int);\n",
    );
    shop.deploy().assert_exit(0);
    assert_eq!(database.sql("select f(1), f(2), f(3)"), "1|2|3");
    shop.migration("2_x.sql", "insert into t values (1);\n\nDELIMITER //\nselect 1;\nselect broken from//\n");
    shop.deploy().assert_exit(1).assert_says("migrations/2_x.sql:");
}

#[test]
fn transactions_of_a_files_own() {
    for engine in [Engine::Postgres, Engine::Sqlite] {
        let database = Database::new(engine);
        let shop = Shop::new(&database, "");
        shop.migration("1_a.sql", "begin;\ncreate table a (id integer);\ncommit;\n");
        shop.deploy().assert_exit(0);
        assert_eq!(database.sql("select count(*) from a"), "0");
        shop.migration("2_b.sql", "create table b (id integer);\ncommit;\ncreate table c (id integer);\n");
        shop.deploy().assert_exit(1).assert_says("migrations/2_b.sql:2").assert_says("COMMIT");
        assert!(database.ask("select * from b").is_err(), "nothing of it was kept");
    }
}

#[test]
fn what_a_file_sets_does_not_reach_the_next() {
    let database = Database::new(Engine::Postgres);
    let shop = Shop::new(&database, "");
    shop.migration(
        "1_a.sql",
        "select pg_catalog.set_config('search_path', '', false);\ncreate table public.a (id integer);\n",
    );
    shop.migration("2_b.sql", "create table b (id integer);\n");
    shop.deploy().assert_exit(0);
    assert_eq!(database.sql("select count(*) from public._pawl_migrations"), "2");
    assert_eq!(database.sql("select count(*) from public.b"), "0");
}

/// What is compared, looked through, fingerprinted and applied is one reading of a file.
#[test]
fn a_file_is_read_once_by_a_run() {
    let database = Database::new(Engine::Sqlite);
    let shop = Shop::new(&database, "");
    for (name, content) in two() {
        shop.migration(name, content);
    }
    let trace = shop.root().join("trace");
    for what in ["everything runs", "nothing runs"] {
        let mut strace = std::process::Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=open,openat,openat2", "-o"]).arg(&trace);
        strace.arg(env!("CARGO_BIN_EXE_runner"));
        crate::shop::said(shop.confined(strace, "state", &["--local", "--release", "r1"])).assert_exit(0);
        let trace = std::fs::read_to_string(&trace).unwrap();
        for (name, _) in two() {
            assert_eq!(trace.lines().filter(|line| line.contains(name)).count(), 1, "{what}: {name} in {trace}");
        }
    }
}

/// A step before may have written the files: they are read again behind it.
#[test]
fn files_that_an_earlier_step_writes() {
    let database = Database::new(Engine::Sqlite);
    let shop = Shop::new(&database, "");
    shop.migration("1_a.sql", "create table a (id integer);\n");
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
