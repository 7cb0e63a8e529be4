//! Grants that do not name a resource that can be granted.

use expect_test::expect;

use super::{check, check_step, env, label, source};
use crate::{Plan, PlanRequest};

#[test]
fn directories() {
    check_step(
        "    grants: { dirs: { \"a/b\": x, b: \"\", c: \"~/x\", d: [x], e: \":ro\" } }",
        expect![[r#"
            error[P0107]: `a/b` is not a valid grant name
             --> deploy.yml:6:23
              |
            6 |     grants: { dirs: { "a/b": x, b: "", c: "~/x", d: [x], e: ":ro" } }
              |                       ^^^^^ not a valid grant name
              hint: write a letter or digit, then up to 63 letters, digits, `_` or `-`

            error[P0115]: directory `b` has an invalid path: it is empty
             --> deploy.yml:6:36
              |
            6 |     grants: { dirs: { "a/b": x, b: "", c: "~/x", d: [x], e: ":ro" } }
              |                                    ^^ invalid path
              hint: write `PATH`, or `PATH:ro` for read-only access

            error[P0115]: directory `c` has an invalid path: `~` is not expanded; use `${{ env.HOME }}`
             --> deploy.yml:6:43
              |
            6 |     grants: { dirs: { "a/b": x, b: "", c: "~/x", d: [x], e: ":ro" } }
              |                                           ^^^^^ invalid path
              hint: write `PATH`, or `PATH:ro` for read-only access

            error[P0105]: directory `d` must be a string, not a list
             --> deploy.yml:6:53
              |
            6 |     grants: { dirs: { "a/b": x, b: "", c: "~/x", d: [x], e: ":ro" } }
              |                                                     ^^^ this is a list
              hint: write a string; see docs/plan.md

            error[P0115]: directory `e` has an invalid path: it is empty
             --> deploy.yml:6:61
              |
            6 |     grants: { dirs: { "a/b": x, b: "", c: "~/x", d: [x], e: ":ro" } }
              |                                                             ^^^^^ invalid path
              hint: write `PATH`, or `PATH:ro` for read-only access
        "#]],
    );
}

#[test]
fn origins() {
    check_step(
        "    grants:\n      http:\n        - example.com/x\n        - ftp://example.com\n        - https://example.com/path\n        - https://user@example.com\n        - https://*.example.com\n        - \"https://exa mple.com\"\n        - \"\"\n        - { methods: [GET], orign: x }\n        - { origin: \"https://x.org\", methods: [], private: maybe }\n        - { origin: \"https://x.org\", headers: { \"a b\": x, c: \"x\\ny\" } }",
        expect![[r#"
            error[P0115]: `example.com/x` is not an HTTP origin: it does not start with `http://` or `https://`
             --> deploy.yml:8:11
              |
            8 |         - example.com/x
              |           ^^^^^^^^^^^^^ not an origin
              hint: write `https://example.com`

            error[P0115]: `ftp://example.com` is not an HTTP origin: it does not start with `http://` or `https://`
             --> deploy.yml:9:11
              |
            9 |         - ftp://example.com
              |           ^^^^^^^^^^^^^^^^^ not an origin
              hint: write `https://example.com`, with a port if it is not the default

            error[P0115]: `https://example.com/path` is not an HTTP origin: it contains a path
              --> deploy.yml:10:11
               |
            10 |         - https://example.com/path
               |           ^^^^^^^^^^^^^^^^^^^^^^^^ not an origin
              hint: write `https://example.com`

            error[P0115]: `https://user@example.com` is not an HTTP origin: it contains a user name
              --> deploy.yml:11:11
               |
            11 |         - https://user@example.com
               |           ^^^^^^^^^^^^^^^^^^^^^^^^ not an origin
              hint: put the credentials into `headers`, from a secret

            error[P0115]: `https://*.example.com` is not an HTTP origin: wildcards are not supported
              --> deploy.yml:12:11
               |
            12 |         - https://*.example.com
               |           ^^^^^^^^^^^^^^^^^^^^^ not an origin
              hint: grant each origin by name

            error[P0115]: `https://exa mple.com` is not an HTTP origin: invalid international domain name
              --> deploy.yml:13:11
               |
            13 |         - "https://exa mple.com"
               |           ^^^^^^^^^^^^^^^^^^^^^^ not an origin
              hint: write `https://example.com`, with a port if it is not the default

            error[P0115]: `` is not an HTTP origin: it does not start with `http://` or `https://`
              --> deploy.yml:14:11
               |
            14 |         - ""
               |           ^^ not an origin
              hint: write `https://example.com`, with a port if it is not the default

            error[P0106]: an HTTP grant has no `origin`
              --> deploy.yml:15:11
               |
            15 |         - { methods: [GET], orign: x }
               |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `origin` is missing
              hint: add `origin: https://example.com`

            error[P0104]: an HTTP grant has no key `orign`
              --> deploy.yml:15:29
               |
            15 |         - { methods: [GET], orign: x }
               |                             ^^^^^ unknown key
              hint: did you mean `origin`?

            error[P0115]: an HTTP grant without methods grants nothing
              --> deploy.yml:16:47
               |
            16 |         - { origin: "https://x.org", methods: [], private: maybe }
               |                                               ^^ empty
              hint: remove `methods` to grant all of them

            error[P0105]: `private` must be true or false, not a string
              --> deploy.yml:16:60
               |
            16 |         - { origin: "https://x.org", methods: [], private: maybe }
               |                                                            ^^^^^ this is a string
              hint: write true or false; see docs/plan.md

            error[P0115]: `a b` is not a header name
              --> deploy.yml:17:49
               |
            17 |         - { origin: "https://x.org", headers: { "a b": x, c: "x\ny" } }
               |                                                 ^^^^^ not a header name
              hint: write a name such as `Authorization`

            error[P0115]: the value of header `c` contains a line break or another control character
              --> deploy.yml:17:62
               |
            17 |         - { origin: "https://x.org", headers: { "a b": x, c: "x\ny" } }
               |                                                              ^^^^^^ not a header value
              hint: remove it; many secrets end with a line break
        "#]],
    );
}

#[test]
fn addresses() {
    check_step(
        "    grants: { tcp: [example.com, \"::1:80\", \"x:0\", \"x:99999\", \"*.x:1\", \"x:+1\"] }",
        expect![[r#"
            error[P0115]: `example.com` is not a TCP address: it has no port
             --> deploy.yml:6:21
              |
            6 |     grants: { tcp: [example.com, "::1:80", "x:0", "x:99999", "*.x:1", "x:+1"] }
              |                     ^^^^^^^^^^^ not an address
              hint: write `db.example.com:5432` or `[::1]:5432`

            error[P0115]: `::1:80` is not a TCP address: an IPv6 address needs brackets
             --> deploy.yml:6:34
              |
            6 |     grants: { tcp: [example.com, "::1:80", "x:0", "x:99999", "*.x:1", "x:+1"] }
              |                                  ^^^^^^^^ not an address
              hint: write `db.example.com:5432` or `[::1]:5432`

            error[P0115]: `x:0` is not a TCP address: `0` is not a port
             --> deploy.yml:6:44
              |
            6 |     grants: { tcp: [example.com, "::1:80", "x:0", "x:99999", "*.x:1", "x:+1"] }
              |                                            ^^^^^ not an address
              hint: write `db.example.com:5432` or `[::1]:5432`

            error[P0115]: `x:99999` is not a TCP address: `99999` is not a port
             --> deploy.yml:6:51
              |
            6 |     grants: { tcp: [example.com, "::1:80", "x:0", "x:99999", "*.x:1", "x:+1"] }
              |                                                   ^^^^^^^^^ not an address
              hint: write `db.example.com:5432` or `[::1]:5432`

            error[P0115]: `*.x:1` is not a TCP address: wildcards are not supported
             --> deploy.yml:6:62
              |
            6 |     grants: { tcp: [example.com, "::1:80", "x:0", "x:99999", "*.x:1", "x:+1"] }
              |                                                              ^^^^^^^ not an address
              hint: grant each address by name

            error[P0115]: `x:+1` is not a TCP address: `+1` is not a port
             --> deploy.yml:6:71
              |
            6 |     grants: { tcp: [example.com, "::1:80", "x:0", "x:99999", "*.x:1", "x:+1"] }
              |                                                                       ^^^^^^ not an address
              hint: write `db.example.com:5432` or `[::1]:5432`
        "#]],
    );
}

#[test]
fn databases() {
    check_step(
        "    grants: { databases: { a: \"postgres://h/d\", b: \"shop.db\", c: \"sqlite:\", d: \"sqlite:x?mode=ro\", e: \"sqlite::memory:\" } }",
        expect![[r#"
            error[P0115]: database `b` is not a database URL
             --> deploy.yml:6:52
              |
            6 |     grants: { databases: { a: "postgres://h/d", b: "shop.db", c: "sqlite:", d: "sqlite:x?mode=ro", e: "sqlite::memory:" } }
              |                                                    ^^^^^^^^^ unknown kind of database
              hint: write `sqlite:PATH` (relative to the plan), `postgres://user@host/name` or `mysql://user@host/name`

            error[P0115]: database `c` has an invalid path: it is empty
             --> deploy.yml:6:66
              |
            6 |     grants: { databases: { a: "postgres://h/d", b: "shop.db", c: "sqlite:", d: "sqlite:x?mode=ro", e: "sqlite::memory:" } }
              |                                                                  ^^^^^^^^^ invalid path
              hint: write `sqlite:PATH` (relative to the plan), `postgres://user@host/name` or `mysql://user@host/name`

            error[P0115]: database `d` has an invalid path: options after `?` are not supported
             --> deploy.yml:6:80
              |
            6 |     grants: { databases: { a: "postgres://h/d", b: "shop.db", c: "sqlite:", d: "sqlite:x?mode=ro", e: "sqlite::memory:" } }
              |                                                                                ^^^^^^^^^^^^^^^^^^ invalid path
              hint: write `sqlite:PATH` (relative to the plan), `postgres://user@host/name` or `mysql://user@host/name`

            error[P0115]: database `e` has an invalid path: an in-memory database does not last until the next step
             --> deploy.yml:6:103
              |
            6 |     grants: { databases: { a: "postgres://h/d", b: "shop.db", c: "sqlite:", d: "sqlite:x?mode=ro", e: "sqlite::memory:" } }
              |                                                                                                       ^^^^^^^^^^^^^^^^^ invalid path
              hint: write `sqlite:PATH` (relative to the plan), `postgres://user@host/name` or `mysql://user@host/name`
        "#]],
    );
}

#[test]
fn programs() {
    check_step(
        "    grants: { programs: [ls] }",
        expect![[r#"
            error[P0124]: step `a` is granted programs, which can do whatever the runner's user can
             --> deploy.yml:4:3
              |
            4 |   a:
              |   ^ needs `trust: host`
              hint: add `trust: host`, or use a module that needs no programs
        "#]],
    );
    check_step(
        "    trust: host\n    grants:\n      programs:\n        - nginx -t\n        - ./x\n        - [\"*\", a]\n        - [a, \"**\", b]\n        - []\n      env: { 1A: x, \"A=B\": x }",
        expect![[r#"
            error[P0115]: `nginx -t` contains a space, and no shell splits it
             --> deploy.yml:9:11
              |
            9 |         - nginx -t
              |           ^^^^^^^^ not a program
              hint: write a list with the program first: `[/usr/sbin/nginx, -t]`

            error[P0115]: a grant must name its program
              --> deploy.yml:11:12
               |
            11 |         - ["*", a]
               |            ^^^ a pattern
              hint: write the program, such as `/usr/sbin/nginx`

            error[P0115]: `**` stands for all further arguments, so it must be last
              --> deploy.yml:12:15
               |
            12 |         - [a, "**", b]
               |               ^^^^ not last
              hint: use `*` for exactly one argument

            error[P0115]: a program grant is empty
              --> deploy.yml:13:11
               |
            13 |         - []
               |           ^^ no program
              hint: write a list with the program first: `[/usr/sbin/nginx, -t]`

            error[P0115]: `1A` is not the name of an environment variable
              --> deploy.yml:14:14
               |
            14 |       env: { 1A: x, "A=B": x }
               |              ^^ invalid name
              hint: use letters, digits and `_`, with no digit first

            error[P0115]: `A=B` is not the name of an environment variable
              --> deploy.yml:14:21
               |
            14 |       env: { 1A: x, "A=B": x }
               |                     ^^^^^ invalid name
              hint: use letters, digits and `_`, with no digit first
        "#]],
    );
}

/// The value of a secret that is an invalid URL is not shown.
#[test]
fn an_invalid_secret_is_not_shown() {
    let text = "version: 1\napp: shop\nsecrets: { DB: env:TOKEN }\nsteps:\n  a: { uses: x, grants: { databases: { m: \"${{ secrets.DB }}\" } } }\n";
    let request = PlanRequest { environment: None, release: &label(), env: &env, inventory: &crate::no_inventory };
    let told = super::rendered(&Plan::parse(source(text), &request).unwrap_err());
    assert!(!told.contains("s3cr3t"));
    expect![[r#"
        error[P0115]: database `m` is not a database URL
         --> deploy.yml:5:43
          |
        5 |   a: { uses: x, grants: { databases: { m: "${{ secrets.DB }}" } } }
          |                                           ^^^^^^^^^^^^^^^^^^^ unknown kind of database
          hint: write `sqlite:PATH` (relative to the plan), `postgres://user@host/name` or `mysql://user@host/name`
    "#]]
    .assert_eq(&told);
}

#[test]
fn sockets_and_secrets() {
    check(
        "version: 1\napp: shop\nsecrets: { TOKEN: env:TOKEN }\nsteps:\n  a:\n    uses: x\n    grants:\n      sockets: { engine: unix:/run/engine.sock, b: /run/b.sock, c: \"unix:\" }\n      secrets: [TOKEN, TOKNE, OTHER]\n",
        expect![[r#"
            error[P0124]: step `a` is granted sockets, which can do whatever the runner's user can
             --> deploy.yml:5:3
              |
            5 |   a:
              |   ^ needs `trust: host`
              hint: add `trust: host`, or use a module that needs no sockets

            error[P0115]: socket `b` is not a unix socket
             --> deploy.yml:8:52
              |
            8 |       sockets: { engine: unix:/run/engine.sock, b: /run/b.sock, c: "unix:" }
              |                                                    ^^^^^^^^^^^ does not start with `unix:`
              hint: write `unix:/run/podman/podman.sock`

            error[P0115]: socket `c` has an invalid path: it is empty
             --> deploy.yml:8:68
              |
            8 |       sockets: { engine: unix:/run/engine.sock, b: /run/b.sock, c: "unix:" }
              |                                                                    ^^^^^^^ invalid path
              hint: write `unix:/run/podman/podman.sock`

            error[P0108]: the plan has no secret `TOKNE`
             --> deploy.yml:9:24
              |
            9 |       secrets: [TOKEN, TOKNE, OTHER]
              |                        ^^^^^ undefined
              hint: did you mean `TOKEN`?

            error[P0108]: the plan has no secret `OTHER`
             --> deploy.yml:9:31
              |
            9 |       secrets: [TOKEN, TOKNE, OTHER]
              |                               ^^^^^ undefined
              hint: use one of `TOKEN`
        "#]],
    );
    check(
        "version: 1\napp: shop\nsecrets: { TOKEN: env:TOKEN }\nsteps:\n  a:\n    uses: x\n    grants: { secrets: { TOKEN: show } }\n",
        expect![[r#"
            error[P0118]: secret `TOKEN` cannot be `show`
             --> deploy.yml:7:33
              |
            7 |     grants: { secrets: { TOKEN: show } }
              |                                 ^^^^ unknown value
              hint: use one of `use`, `reveal`
        "#]],
    );
}
