//! The table: one mistake each.

use super::{COMMANDS, Mistake, check_mistakes, errors_of, prepared};
use crate::support::TestEnvironment;

#[test]
fn mistakes_in_requests_and_pointers() {
    check_mistakes(&[
        Mistake {
            name: "JSON pointer without its slash",
            edits: &[("{ /status: up }", "{ status: up }")],
            code: "P0121",
            at: "status: up",
            hint: "did you mean `/status`?",
            fix: &[("{ status: up }", "{ $1: up }")],
        },
        Mistake {
            name: "JSONPath",
            edits: &[("{ /status: up }", "{ $.a.b: up }")],
            code: "P0121",
            at: "$.a.b: up",
            hint: "did you mean `/a/b`?",
            fix: &[("{ $.a.b: up }", "{ $1: up }")],
        },
        Mistake {
            name: "origin that is not granted",
            edits: &[("url: \"http://127.0.0.1:${{ vars.port }}", "url: \"http://localhost:${{ vars.port }}")],
            code: "P0122",
            at: "http: [{ url",
            hint: "to `http:` in the step's `grants:`",
            fix: &[("http: [{ origin", "http: [$1, { origin")],
        },
        Mistake {
            name: "method that is not granted",
            edits: &[("method: GET", "method: POST")],
            code: "P0122",
            at: "http: [{ url",
            hint: "write `methods: [GET, POST]`",
            fix: &[("methods: [GET]", "$1")],
        },
        Mistake {
            name: "URL without a scheme",
            edits: &[("http: [{ url: \"http://127.0.0.1:${{ vars.port }}", "http: [{ url: \"127.0.0.1:8080")],
            code: "P0121",
            at: "http: [{ url",
            hint: "did you mean `http://127.0.0.1:8080/health`?",
            fix: &[("url: \"127.0.0.1:8080/health\"", "url: \"$1\"")],
        },
        Mistake {
            name: "URL whose scheme lacks its colon",
            edits: &[("http: [{ url: \"http://127.0.0.1:${{ vars.port }}", "http: [{ url: \"http//127.0.0.1:8080")],
            code: "P0121",
            at: "http: [{ url",
            hint: "did you mean `http://127.0.0.1:8080/health`?",
            fix: &[("url: \"http//127.0.0.1:8080/health\"", "url: \"$1\"")],
        },
        Mistake {
            name: "URL without a host",
            edits: &[("http: [{ url: \"http://127.0.0.1:${{ vars.port }}", "http: [{ url: \"http:///127.0.0.1:8080")],
            code: "P0121",
            at: "http: [{ url",
            hint: "write a full URL, such as `http://127.0.0.1:8080/health`",
            fix: &[("url: \"http:///127.0.0.1:8080/health\"", "url: \"$1\"")],
        },
        Mistake {
            name: "lookup without its dollar",
            edits: &[("url: \"http://127.0.0.1:${{ vars.port }}", "url: \"http://127.0.0.1:{{ vars.port }}")],
            code: "P0109",
            at: "http: [{ url",
            hint: "write `${{ vars.port }}`",
            fix: &[("127.0.0.1:{{ vars.port }}", "127.0.0.1:$1")],
        },
        Mistake {
            name: "lookup without its dollar, in a grant",
            edits: &[("origin: \"http://127.0.0.1:${{ vars.port }}", "origin: \"http://127.0.0.1:{{ vars.port }}")],
            code: "P0109",
            at: "origin:",
            hint: "write `${{ vars.port }}`",
            fix: &[("127.0.0.1:{{ vars.port }}", "127.0.0.1:$1")],
        },
        Mistake {
            name: "duration without its unit",
            edits: &[("timeout: 2s }]", "timeout: \"2\" }]")],
            code: "P0121",
            at: "timeout: \"2\"",
            hint: "add a unit: `2s`",
            fix: &[("timeout: \"2\"", "timeout: $1")],
        },
        Mistake {
            name: "TCP address that is not granted",
            edits: &[("tcp: [\"127.0.0.1:${{ vars.port }}\"]\n      files", "tcp: [\"127.0.0.1:5432\"]\n      files")],
            code: "P0122",
            at: "tcp: [\"127.0.0.1:5432\"]",
            hint: "add `\"127.0.0.1:5432\"` to `tcp:`",
            fix: &[("tcp: [\"127.0.0.1:${{ vars.port }}\"]", "tcp: [$1, \"127.0.0.1:${{ vars.port }}\"]")],
        },
        Mistake {
            name: "TCP address without a port",
            edits: &[("tcp: [\"127.0.0.1:${{ vars.port }}\"]\n      files", "tcp: [localhost]\n      files")],
            code: "P0121",
            at: "tcp: [localhost]",
            hint: "write `db.example.com:5432`",
            fix: &[("tcp: [localhost]", "tcp: [\"127.0.0.1:8080\"]")],
        },
        Mistake {
            name: "misspelled setting in a list",
            edits: &[("method: GET", "metod: GET")],
            code: "P0121",
            at: "metod: GET",
            hint: "did you mean `method`?",
            fix: &[("metod: GET", "$1: GET")],
        },
    ]);
}

#[test]
fn mistakes_in_directories_and_databases() {
    check_mistakes(&[
        Mistake {
            name: "path that is absolute",
            edits: &[("path: current/VERSION", "path: /current/VERSION")],
            code: "P0121",
            at: "/current/VERSION",
            hint: "did you mean `current/VERSION`?",
            fix: &[("path: /current/VERSION", "path: $1")],
        },
        Mistake {
            name: "misspelled directory of a check",
            edits: &[("VERSION, in: app", "VERSION, in: ap")],
            code: "P0122",
            at: "in: ap,",
            hint: "did you mean `app`?",
            fix: &[("VERSION, in: ap", "VERSION, in: $1")],
        },
        Mistake {
            name: "directory that is left out of several",
            edits: &[
                ("VERSION, in: app", "VERSION"),
                (
                    "dirs: { app: \"${{ vars.root }}:ro\" }",
                    "dirs: { app: \"${{ vars.root }}:ro\", dist: \"./dist:ro\" }",
                ),
            ],
            code: "P0121",
            at: "files: [{ path",
            hint: "such as `in: app`",
            fix: &[("path: current/VERSION", "path: current/VERSION, $1")],
        },
        Mistake {
            name: "path where a name must be",
            edits: &[("link: current, in: app", "link: current, in: app/site")],
            code: "P0121",
            at: "in: app/site",
            hint: "did you mean `app`?",
            fix: &[("in: app/site", "in: $1")],
        },
        Mistake {
            name: "misspelled database of a query",
            edits: &[("sql: [{ database: main", "sql: [{ database: mian")],
            code: "P0122",
            at: "database: mian",
            hint: "did you mean `main`?",
            fix: &[("database: mian", "database: $1")],
        },
        Mistake {
            name: "second query on a database that is not granted",
            edits: &[("equals: 2 }]", "equals: 2 }, { database: stats, query: select 1, equals: 1 }]")],
            code: "P0122",
            at: "database: stats",
            hint: "add `stats: \"sqlite:./stats.db\"` to `databases:`",
            fix: &[("      databases: { main:", "      databases: { $1, main:")],
        },
        Mistake {
            name: "misspelled directory of migrations",
            edits: &[("dir: migrations,", "dir: migration,")],
            code: "P0122",
            at: "dir: migration,",
            hint: "did you mean `migrations`?",
            fix: &[("dir: migration,", "dir: $1,")],
        },
        Mistake {
            name: "directory of migrations that does not exist",
            edits: &[("dir: migrations,", "dir: migrations/sql,")],
            code: "P0204",
            at: "dir: migrations/sql,",
            hint: "create it",
            fix: &[("$ mkdir migrations/sql && cp migrations/*.sql migrations/sql", "")],
        },
        Mistake {
            name: "database that is not granted",
            edits: &[(", databases: { main: \"sqlite:${{ vars.root }}/shop.db\" } }\n  warm", " }\n  warm")],
            code: "P0122",
            at: "dir: migrations,",
            hint: "add `databases: { main: \"sqlite:./main.db\" }` to the step's `grants:`",
            fix: &[("\"./migrations:ro\" } }", "\"./migrations:ro\" }, $1 }")],
        },
        Mistake {
            name: "lock timeout that is no duration",
            edits: &[("lock-timeout: 2s", "lock-timeout: 2 seconds")],
            code: "P0121",
            at: "2 seconds",
            hint: "such as `30s`",
            fix: &[("2 seconds", "30s")],
        },
        Mistake {
            name: "link that is absolute",
            edits: &[("link: current,", "link: /current,")],
            code: "P0121",
            at: "link: /current",
            hint: "did you mean `current`?",
            fix: &[("link: /current", "link: $1")],
        },
        Mistake {
            name: "directory of the link that is read-only",
            edits: &[(
                "in: app }\n    grants: { dirs: { app: \"${{ vars.root }}\" } }",
                "in: app }\n    grants: { dirs: { app: \"${{ vars.root }}:ro\" } }",
            )],
            code: "P0122",
            at: "link: current",
            hint: "remove `:ro` from the directory `app`",
            fix: &[(
                "dirs: { app: \"${{ vars.root }}:ro\" } }\n  verify",
                "dirs: { app: \"${{ vars.root }}\" } }\n  verify",
            )],
        },
        Mistake {
            name: "read-only directory that does not exist",
            edits: &[("scripts: \"./scripts:ro\"", "scripts: \"./scripts:ro\", conf: \"./conf:ro\"")],
            code: "P0202",
            at: "conf: \"./conf:ro\"",
            hint: "fix this",
            fix: &[("$ mkdir conf", "")],
        },
    ]);
}

#[test]
fn mistakes_in_sources_modules_and_lookups() {
    check_mistakes(&[
        Mistake {
            name: "misspelled directory of the source",
            edits: &[("file:dist/shop", "file:dits/shop")],
            code: "P0122",
            at: "file:dits",
            hint: "did you mean `file:dist`?",
            fix: &[("file:dits", "$1")],
        },
        Mistake {
            name: "source without its scheme",
            edits: &[("file:dist/shop-${{ release }}.tar.zst", "dist/shop-r1.tar.zst")],
            code: "P0121",
            at: "dist/shop",
            hint: "did you mean `file:dist/shop-r1.tar.zst`?",
            fix: &[("dist/shop-r1.tar.zst", "$1")],
        },
        Mistake {
            name: "source on a server that is not granted",
            edits: &[
                (
                    "from: \"file:dist/shop-${{ release }}.tar.zst\"",
                    "digest: \"sha256:0000000000000000000000000000000000000000000000000000000000000000\", from: \"http://127.0.0.1:${{ vars.port }}/shop.tar.zst\"",
                ),
                ("dist: \"./dist:ro\" }", "dist: \"./dist:ro\" }, http: [\"http://127.0.0.1:9\"]"),
            ],
            code: "P0122",
            at: "shop.tar.zst",
            hint: "add `\"http://127.0.0.1:8080\"` to `http:`",
            fix: &[("http: [", "http: [$1, ")],
        },
        Mistake {
            name: "misspelled directory of releases",
            edits: &[("into: app", "into: ap")],
            code: "P0122",
            at: "into: ap",
            hint: "did you mean `app`?",
            fix: &[("into: ap", "into: $1")],
        },
        Mistake {
            name: "directory of releases that is not granted",
            edits: &[("into: app", "into: content")],
            code: "P0122",
            at: "into: content",
            hint: "add `content: \"./content\"` to `dirs:`",
            fix: &[("grants: { dirs: { app:", "grants: { dirs: { $1, app:")],
        },
        Mistake {
            name: "shared path outside of the release",
            edits: &[("into: app", "into: app, shared: [../uploads/]")],
            code: "P0121",
            at: "../uploads",
            hint: "without `..`",
            fix: &[("../uploads/", "uploads/")],
        },
        Mistake {
            name: "misspelled setting",
            edits: &[("from: \"file:", "form: \"file:")],
            code: "P0121",
            at: "form: \"file:",
            hint: "did you mean `from`?",
            fix: &[("form: \"file:", "$1: \"file:")],
        },
        Mistake {
            name: "misspelled module",
            edits: &[("uses: switch", "uses: swich")],
            code: "P0120",
            at: "uses: swich",
            hint: "did you mean `switch`?",
            fix: &[("uses: swich", "uses: $1")],
        },
        Mistake {
            name: "misspelled output",
            edits: &[("link: current,", "link: current, to: \"${{ steps.pull.pth }}\",")],
            code: "P0108",
            at: "steps.pull.pth",
            hint: "did you mean `path`?",
            fix: &[("steps.pull.pth", "steps.pull.$1")],
        },
        Mistake {
            name: "output of a step that has other ones",
            edits: &[("args: [\"${{ release }}\"]", "args: [\"${{ steps.migrate.rows }}\"]")],
            code: "P0108",
            at: "steps.migrate.rows",
            hint: "use one of `version`, `applied`",
            fix: &[("steps.migrate.rows", "steps.migrate.$1")],
        },
        Mistake {
            name: "secret without a value",
            edits: &[("env:SHOP_TOKEN", "env:SHOP_TOKN")],
            code: "P0114",
            at: "env:SHOP_TOKN",
            hint: "`export SHOP_TOKN=…`",
            fix: &[("env:SHOP_TOKN", "env:SHOP_TOKEN")],
        },
        Mistake {
            name: "environment variable without a value",
            edits: &[("port: 8080", "port: \"${{ env.SHOP_PORT }}\"")],
            code: "P0108",
            at: "env.SHOP_PORT",
            hint: "`export SHOP_PORT=…`",
            fix: &[("\"${{ env.SHOP_PORT }}\"", "8080")],
        },
    ]);
}

#[test]
fn mistakes_in_settings_that_belong_together() {
    check_mistakes(&[
        Mistake {
            name: "more successes in a row than rounds",
            edits: &[("      files: [", "      consecutive: 6\n      files: [")],
            code: "P0121",
            at: "consecutive: 6",
            hint: "write `tries: 6`",
            fix: &[("consecutive: 6", "consecutive: 6\n      $1")],
        },
        Mistake {
            name: "as many successes in a row as rounds that are written",
            edits: &[("      files: [", "      consecutive: 3\n      tries: 2\n      files: [")],
            code: "P0121",
            at: "consecutive: 3",
            hint: "or `consecutive: 2`",
            fix: &[("consecutive: 3", "$2")],
        },
        Mistake {
            name: "file that must not exist, with content",
            edits: &[("in: app, equals:", "in: app, exists: false, equals:")],
            code: "P0121",
            at: "exists: false",
            hint: "or `exists: false`",
            fix: &[("$1, ", "")],
        },
        Mistake {
            name: "marker in an input",
            edits: &[("inputs: [scripts/warm.sh]", "inputs: [scripts/warm.sh, app]")],
            code: "P0121",
            at: "marker: app/.warm",
            hint: "put it elsewhere",
            fix: &[("warm.sh, app]", "warm.sh]")],
        },
        Mistake {
            name: "two kinds of evidence",
            edits: &[("marker: app/.warm", "marker: app/.warm\n      creates: app/warm")],
            code: "P0121",
            at: "creates: app/warm",
            hint: "keep one of them",
            fix: &[("      creates: app/warm\n", "")],
        },
        Mistake {
            name: "shared path in another",
            edits: &[("into: app }", "into: app, shared: [data/, data/uploads] }")],
            code: "P0121",
            at: "shared:",
            hint: "remove `data/uploads`",
            fix: &[(", data/uploads]", "]")],
        },
        Mistake {
            name: "misspelled format of migrations",
            edits: &[("database: main, lock", "database: main, format: plian, lock")],
            code: "P0121",
            at: "format: plian",
            hint: "did you mean `plain`?",
            fix: &[("format: plian", "format: $1")],
        },
        Mistake {
            name: "misspelled rule",
            edits: &[("database: main, lock", "database: main, lint-skip: [ban-drop-colum], lock")],
            code: "P0121",
            at: "lint-skip:",
            hint: "did you mean `ban-drop-column`?",
            fix: &[("[ban-drop-colum]", "[$1]")],
        },
        Mistake {
            name: "status that is none",
            edits: &[("method: GET, json", "method: GET, status: 600, json")],
            code: "P0121",
            at: "status: 600",
            hint: "write a number from 100 to 599",
            fix: &[("status: 600", "status: 200")],
        },
        Mistake {
            name: "duration that is a number",
            edits: &[("timeout: 2s }]", "timeout: 2 }]")],
            code: "P0121",
            at: "timeout: 2 }]",
            hint: "write a duration: `timeout: 2s`",
            fix: &[("timeout: 2 }]", "$1 }]")],
        },
    ]);
}

#[test]
fn check_without_checks_is_refused() {
    let environment = TestEnvironment::with_plan("version: 1\napp: shop\nsteps:\n  verify:\n    with: { tries: 1 }\n");
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused
        .assert_exit(2)
        .assert_stderr_contains("error[P0121]")
        .assert_stderr_contains("at least one of `http`, `tcp`, `files`, `sql`, `sample`, `bake` is needed")
        .assert_stderr_contains("add one, such as `http: [{ url: … }]`");
}

/// The first two files have one number: the step itself would find it after the pull.
#[test]
fn two_migrations_with_one_number_are_found_before_the_first_step() {
    let environment = prepared();
    environment.write("migrations/0007_a.sql", "CREATE TABLE a (id INTEGER);\n");
    environment.write("migrations/0007_b.sql", "CREATE TABLE b (id INTEGER);\n");
    for command in [COMMANDS[0], COMMANDS[2]] {
        let refused = environment.run(command);
        refused.assert_exit(2).assert_stderr_contains("`0007_a.sql` and `0007_b.sql` have the same number");
        assert_eq!(errors_of(&refused), [("P0204".to_owned(), Some(12))], "{}", refused.stderr);
        assert!(!environment.exists("deploy/releases"));
    }
    // What an earlier step may still change is left to the step.
    environment.edit("deploy.yml", "migrations: \"./migrations:ro\"", "migrations: ./migrations");
    environment.run(COMMANDS[0]).assert_exit(1);
    assert!(environment.exists("deploy/releases"));
}
