//! Keys, types, names, values, environments, and the graph of `needs`.

use expect_test::expect;

use super::{super::*, SMALL, check, check_step, parse_for, rendered, source};
use contract::render::{ColorMode, render_diagnostic};

#[test]
fn unknown_keys() {
    check(
        "version: 1\napp: shop\nstep:\n  a: { uses: x }\nsteps:\n  a: { uses: x, hooks: {} }\n",
        expect![[r#"
            error[P0104]: the plan has no key `step`
             --> deploy.yml:3:1
              |
            3 | step:
              | ^^^^ unknown key
              hint: did you mean `steps`?

            error[P0104]: step `a` has no key `hooks`
             --> deploy.yml:6:17
              |
            6 |   a: { uses: x, hooks: {} }
              |                 ^^^^^ unknown key
              hint: use one of `uses`, `program`, `with`, `grants`, `needs`, `on`, `timeout`, `retry`, `trust`, `irreversible`, `always`, `after-undo`, `effects`, `confirm`
        "#]],
    );
}

#[test]
fn wrong_types() {
    check(
        "version: \"1\"\napp: [shop]\nsteps:\n  - pull\n",
        expect![[r#"
            error[P0118]: this runner reads only plans with `version: 1`
             --> deploy.yml:1:10
              |
            1 | version: "1"
              |          ^^^ unknown version
              hint: write `version: 1`, or use a newer runner

            error[P0105]: `app` must be a string, not a list
             --> deploy.yml:2:6
              |
            2 | app: [shop]
              |      ^^^^^^ this is a list
              hint: write a string; see docs/plan.md

            error[P0105]: `steps` must be a mapping, not a list
             --> deploy.yml:4:3
              |
            4 |   - pull
              |   ^^^^^^ this is a list
              hint: write each step under its name, without the `-`, in the order in which they run: `steps: { pull: { … } }`
        "#]],
    );
    check_step(
        "    with: text\n    grants: [x]\n    needs: { a: b }\n    retry: three",
        expect![[r#"
            error[P0105]: `with` of step `a` must be a mapping, not a string
             --> deploy.yml:6:11
              |
            6 |     with: text
              |           ^^^^ this is a string
              hint: write a mapping: `with: { NAME: VALUE }`

            error[P0105]: `grants` of step `a` must be a mapping, not a list
             --> deploy.yml:7:13
              |
            7 |     grants: [x]
              |             ^^^ this is a list
              hint: write a mapping: `grants: { dirs: { app: ./app } }`

            error[P0105]: `needs` must be a step name or a list of them, not a mapping
             --> deploy.yml:8:12
              |
            8 |     needs: { a: b }
              |            ^^^^^^^^ this is a mapping
              hint: write a step name or a list of them: `needs: [pull]`

            error[P0105]: `retry` must be a number, not a string
             --> deploy.yml:9:12
              |
            9 |     retry: three
              |            ^^^^^ this is a string
              hint: write a number: `retry: 3`
        "#]],
    );
}

#[test]
fn missing_keys() {
    check(
        "on-failure: hold\n",
        expect![[r#"
        error[P0106]: the plan has no `version`
         --> deploy.yml:1:1
          |
        1 | on-failure: hold
          | ^ `version` is missing
          hint: add `version: 1`

        error[P0106]: the plan has no `app`
         --> deploy.yml:1:1
          |
        1 | on-failure: hold
          | ^ `app` is missing
          hint: add `app: shop`

        error[P0106]: the plan has no `steps`
         --> deploy.yml:1:1
          |
        1 | on-failure: hold
          | ^ `steps` is missing
          hint: add `steps: { … }`
    "#]],
    );
    check(
        "version: 1\napp: shop\nsteps: {}\n",
        expect![[r#"
            error[P0106]: the plan has no steps
             --> deploy.yml:3:8
              |
            3 | steps: {}
              |        ^^ empty
              hint: add one: `pull: { with: … }`
        "#]],
    );
}

#[test]
fn bad_names() {
    check(
        "version: 1\napp: ../shop\nsteps:\n  \"a b\": { uses: x }\n",
        expect![[r#"
            error[P0107]: `../shop` is not a valid app name
             --> deploy.yml:2:6
              |
            2 | app: ../shop
              |      ^^^^^^^ not a valid app name
              hint: write a letter or digit, then up to 63 letters, digits, `_` or `-`

            error[P0107]: `a b` is not a valid step name
             --> deploy.yml:4:3
              |
            4 |   "a b": { uses: x }
              |   ^^^^^ not a valid step name
              hint: write a letter or digit, then up to 63 letters, digits, `_` or `-`
        "#]],
    );
}

#[test]
fn a_bad_label() {
    let error = "../x".parse::<Label>().unwrap_err();
    expect![[r#"
        error[P0107]: `../x` is not a valid release label
          hint: write a letter or digit, then up to 127 letters, digits or `._+-`
    "#]]
    .assert_eq(&render_diagnostic(&error.into(), ColorMode::Off));
}

#[test]
fn bad_values() {
    check(
        "version: 2\napp: shop\non-failure: undo\nsteps: { a: { uses: x } }\n",
        expect![[r#"
            error[P0118]: this runner reads only plans with `version: 1`
             --> deploy.yml:1:10
              |
            1 | version: 2
              |          ^ unknown version
              hint: write `version: 1`, or use a newer runner

            error[P0118]: `on-failure` cannot be `undo`
             --> deploy.yml:3:13
              |
            3 | on-failure: undo
              |             ^^^^ unknown value
              hint: use one of `hold`, `rollback`
        "#]],
    );
    check_step(
        "    timeout: 30\n    retry: 11\n    trust: me",
        expect![[r#"
            error[P0118]: `30` is not a duration
             --> deploy.yml:6:14
              |
            6 |     timeout: 30
              |              ^^ not a duration
              hint: add a unit: `30s` or `30m`

            error[P0118]: `retry` cannot be 11
             --> deploy.yml:7:12
              |
            7 |     retry: 11
              |            ^^ out of range
              hint: use a whole number from 0 to 10

            error[P0118]: `trust` cannot be `me`
             --> deploy.yml:8:12
              |
            8 |     trust: me
              |            ^^ unknown value
              hint: use `host`
        "#]],
    );
    check_step(
        "    timeout: 5 minutes",
        expect![[r#"
            error[P0118]: `5 minutes` is not a duration
             --> deploy.yml:6:14
              |
            6 |     timeout: 5 minutes
              |              ^^^^^^^^^ not a duration
              hint: write a whole number with `ms`, `s`, `m` or `h`, such as `30s`
        "#]],
    );
    check(
        "version: 1\napp: shop\nsteps: { a: { uses: x.wasm }, b: { uses: a/b } }\n",
        expect![[r#"
            error[P0118]: `x.wasm` is not a module
             --> deploy.yml:3:21
              |
            3 | steps: { a: { uses: x.wasm }, b: { uses: a/b } }
              |                     ^^^^^^ not a name, file or registry reference
              hint: to use a file, write `uses: ./x.wasm`

            error[P0118]: `a/b` is not a module
             --> deploy.yml:3:42
              |
            3 | steps: { a: { uses: x.wasm }, b: { uses: a/b } }
              |                                          ^^^ not a name, file or registry reference
              hint: write a name (`uses: pull`), a file (`uses: ./steps/x.wasm`) or a registry reference (`uses: oci://…@sha256:…`)
        "#]],
    );
    check_step(
        "    with: { mode: 0755, big: 99999999999999999999, inf: .inf }",
        expect![[r#"
            error[P0118]: the number `0755` is ambiguous or too large
             --> deploy.yml:6:19
              |
            6 |     with: { mode: 0755, big: 99999999999999999999, inf: .inf }
              |                   ^^^^ with a leading zero, it is octal in some YAML versions and decimal in others
              hint: to write a string, quote it: "0755"

            error[P0118]: the number `99999999999999999999` is ambiguous or too large
             --> deploy.yml:6:30
              |
            6 |     with: { mode: 0755, big: 99999999999999999999, inf: .inf }
              |                              ^^^^^^^^^^^^^^^^^^^^ it does not fit in 64 bits
              hint: to write a string, quote it: "99999999999999999999"

            error[P0118]: the number `.inf` is ambiguous or too large
             --> deploy.yml:6:57
              |
            6 |     with: { mode: 0755, big: 99999999999999999999, inf: .inf }
              |                                                         ^^^^ JSON cannot represent it
              hint: to write a string, quote it: ".inf"
        "#]],
    );
}

#[test]
fn invalid_state_locations() {
    let steps = "steps: { a: { uses: x } }\n";
    check(
        &format!("version: 1\napp: shop\nstate: \"s3://Ab\"\n{steps}"),
        expect![[r#"
            error[P0118]: `s3://Ab` is not a valid state location: invalid bucket name
             --> deploy.yml:3:8
              |
            3 | state: "s3://Ab"
              |        ^^^^^^^^^ invalid bucket name
              hint: write `state: dir:PATH`, `git:REMOTE` or `s3://BUCKET/PREFIX`
        "#]],
    );
    check(
        &format!("version: 1\napp: shop\nstate: \"git:-o x\"\n{steps}"),
        expect![[r#"
            error[P0118]: `git:-o x` is not a valid state location: not the name or URL of a git repository
             --> deploy.yml:3:8
              |
            3 | state: "git:-o x"
              |        ^^^^^^^^^^ not the name or URL of a git repository
              hint: write `state: dir:PATH`, `git:REMOTE` or `s3://BUCKET/PREFIX`
        "#]],
    );
    check(
        &format!("version: 1\napp: shop\nstate: git:origin\nlock: {{ ttl: 100ms }}\n{steps}"),
        expect![[r#"
            error[P0118]: `ttl` is not a valid lease for a lock
             --> deploy.yml:4:14
              |
            4 | lock: { ttl: 100ms }
              |              ^^^^^ not between 1s and 1h
              hint: write `ttl: 30s`
        "#]],
    );
    check(
        &format!("version: 1\napp: shop\nstate: git:origin\nlock: {{ ttl: 5 }}\n{steps}"),
        expect![[r#"
            error[P0118]: `5` is not a duration
             --> deploy.yml:4:14
              |
            4 | lock: { ttl: 5 }
              |              ^ not a duration
              hint: add a unit: `5s` or `5m`
        "#]],
    );
}

#[test]
fn not_supported_yet() {
    check(
        "version: 1\napp: shop\nstate: gs://acme\nsteps:\n  a: { uses: \"oci://r/x@sha256:0\" }\n",
        expect![[r#"
            error[P0116]: `gs://acme` is not supported yet
             --> deploy.yml:3:8
              |
            3 | state: gs://acme
              |        ^^^^^^^^^ only `dir:`, `git:` and `s3://` are supported
              hint: write `state: dir:PATH`, `git:REMOTE` or `s3://BUCKET/PREFIX`

            error[P0118]: `oci://r/x@sha256:0` is not a valid module: its digest is not `sha256:` and 64 lowercase hex digits
             --> deploy.yml:5:14
              |
            5 |   a: { uses: "oci://r/x@sha256:0" }
              |              ^^^^^^^^^^^^^^^^^^^^ not a pinned module
              hint: write `oci://registry.example.com/steps/warm@sha256:…`
        "#]],
    );
    check(
        "version: 1\napp: shop\nstate: here\nsteps: { a: { uses: x } }\n",
        expect![[r#"
            error[P0118]: `here` is not a state location
             --> deploy.yml:3:8
              |
            3 | state: here
              |        ^^^^ unknown kind of state
              hint: write `state: dir:PATH`, `git:REMOTE` or `s3://BUCKET/PREFIX`
        "#]],
    );
}

#[test]
fn environments_must_exist() {
    let text = "version: 1\napp: shop\nenvironments: { test: , prod: { after: tset } }\nsteps: { a: { uses: x } }\n";
    let told = |environment| rendered(&parse_for(text, environment).unwrap_err());
    expect![[r#"
        error[P0113]: the plan has several environments; choose one
          hint: add `--env test`, or another one of `test`, `prod`

        error[P0113]: the plan has no environment `tset`
         --> deploy.yml:3:40
          |
        3 | environments: { test: , prod: { after: tset } }
          |                                        ^^^^ no such environment
          hint: did you mean `test`?
    "#]]
    .assert_eq(&told(None));
    expect![[r#"
        error[P0113]: the plan has no environment `staging`
          hint: use one of `test`, `prod`

        error[P0113]: the plan has no environment `tset`
         --> deploy.yml:3:40
          |
        3 | environments: { test: , prod: { after: tset } }
          |                                        ^^^^ no such environment
          hint: did you mean `test`?
    "#]]
    .assert_eq(&told(Some("staging")));
    check(
        "version: 1\napp: shop\nenvironments: { a: { after: b }, b: { after: a } }\nsteps: { a: { uses: x } }\n",
        expect![[r#"
            error[P0113]: the plan has several environments; choose one
              hint: add `--env a`, or another one of `a`, `b`

            error[P0118]: `after` of environment `a` leads back to itself
             --> deploy.yml:3:29
              |
            3 | environments: { a: { after: b }, b: { after: a } }
              |                             ^ part of the cycle
              hint: remove one `after` of the cycle

            error[P0118]: `after` of environment `b` leads back to itself
             --> deploy.yml:3:46
              |
            3 | environments: { a: { after: b }, b: { after: a } }
              |                                              ^ part of the cycle
              hint: remove one `after` of the cycle
        "#]],
    );
    assert!(parse_for(SMALL, Some("prod")).is_err());
    assert!(parse_for(SMALL, Some("default")).is_ok());
}

#[test]
fn cycles() {
    check(
        "version: 1\napp: shop\nsteps:\n  a: { uses: x, needs: [] }\n  b: { uses: x, needs: [a, d] }\n  c: { uses: x, needs: b }\n  d: { uses: x, needs: [c] }\n  e: { uses: x, needs: d }\n",
        expect![[r#"
            error[P0111]: `needs` has a cycle: b → d → c → b
             --> deploy.yml:5:28
              |
            5 |   b: { uses: x, needs: [a, d] }
              |                            ^ part of the cycle
              hint: remove one of these steps from `needs`
        "#]],
    );
    check(
        "version: 1\napp: shop\nsteps:\n  a: { uses: x, needs: a }\n",
        expect![[r#"
            error[P0111]: `needs` has a cycle: a → a
             --> deploy.yml:4:24
              |
            4 |   a: { uses: x, needs: a }
              |                        ^ part of the cycle
              hint: remove one of these steps from `needs`
        "#]],
    );
    check(
        "version: 1\napp: shop\nsteps:\n  a: { uses: x, needs: b }\n  b: { uses: x }\n",
        expect![[r#"
            error[P0111]: `needs` has a cycle: a → b → a
             --> deploy.yml:4:24
              |
            4 |   a: { uses: x, needs: b }
              |                        ^ part of the cycle
              hint: remove one of these steps from `needs`
        "#]],
    );
}

#[test]
fn unknown_steps() {
    check(
        "version: 1\napp: shop\nsteps:\n  pull: { uses: x }\n  b: { uses: x, needs: [pul, other] }\n",
        expect![[r#"
            error[P0112]: the plan has no step `pul`
             --> deploy.yml:5:25
              |
            5 |   b: { uses: x, needs: [pul, other] }
              |                         ^^^ no such step
              hint: did you mean `pull`?

            error[P0112]: the plan has no step `other`
             --> deploy.yml:5:30
              |
            5 |   b: { uses: x, needs: [pul, other] }
              |                              ^^^^^ no such step
              hint: use one of `pull`, `b`
        "#]],
    );
}

/// Errors that are found after parsing point into the plan in the same way.
#[test]
fn errors_found_later() {
    let plan = super::good("version: 1\napp: shop\nsteps:\n  pull: { uses: pul, with: { from: 5 } }\n");
    let step = &plan.steps[0];
    let told = |code: ErrorCode, span, message: &str, label: &str, hint: &str| {
        render_diagnostic(&plan.error_at(code, span, message, label, Some(hint.to_owned())), ColorMode::Off)
    };
    expect![[r#"
        error[P0120]: there is no module `pul`
         --> deploy.yml:4:3
          |
        4 |   pull: { uses: pul, with: { from: 5 } }
          |   ^^^^ uses it
          hint: did you mean `pull`?
    "#]]
    .assert_eq(&told(
        ErrorCode::UnknownModule,
        step.span.clone(),
        "there is no module `pul`",
        "uses it",
        "did you mean `pull`?",
    ));
    expect![[r#"
        error[P0122]: module `pull` needs a directory that can be written
         --> deploy.yml:4:3
          |
        4 |   pull: { uses: pul, with: { from: 5 } }
          |   ^^^^ lacks it
          hint: add `grants: { dirs: { app: PATH } }`
    "#]]
    .assert_eq(&told(
        ErrorCode::MissingGrant,
        step.span.clone(),
        "module `pull` needs a directory that can be written",
        "lacks it",
        "add `grants: { dirs: { app: PATH } }`",
    ));
    expect![[r#"
        error[P0121]: `from` must be a text
         --> deploy.yml:4:36
          |
        4 |   pull: { uses: pul, with: { from: 5 } }
          |                                    ^ this is a number
          hint: see `runner step pull --help`
    "#]]
    .assert_eq(&told(
        ErrorCode::InvalidConfig,
        step.with_spans["/from"].clone(),
        "`from` must be a text",
        "this is a number",
        "see `runner step pull --help`",
    ));
}

#[test]
fn environments_of_a_bad_plan() {
    assert!(environments(&source("x")).is_err());
}

#[test]
fn hints_show_the_value_to_write() {
    let step = |keys: &str| format!("version: 1\napp: shop\ndirs: {{ app: ./app }}\nsteps:\n  run: {{ {keys} }}\n");
    for (text, hint) in [
        (step("program: \"./build.sh --all\", trust: host"), "write a list: `program: [./build.sh, \"--all\"]`"),
        (step("grants: { dirs: app }"), "write a list of names or a mapping: `dirs: [app]`"),
        (step("grants: { dirs: /srv/shop }"), "write a list of names or a mapping: `dirs: { app: ./app }`"),
        (step("grants: { http: \"https://example.com\" }"), "write a list: `http: [\"https://example.com\"]`"),
        (step("grants: { http: { a: b } }"), "write a list: `http: [\"https://api.example.com\"]`"),
        (step("grants: { programs: systemctl }"), "write a list: `programs: [systemctl]`"),
        (step("grants: [app]"), "write a mapping: `grants: { dirs: { app: ./app } }`"),
        (step("with: 5"), "write a mapping: `with: { NAME: VALUE }`"),
        (step("retry: \"2\""), "write a number: `retry: 2`"),
        (step("uses: 5"), "write a string: `uses: \"5\"`"),
        (step("needs: { a: b }"), "write a step name or a list of them: `needs: [pull]`"),
        (step("always: yes"), "write `true` or `false`\n"),
        (
            "version: 1\napp: shop\nsteps: { pull: 5 }\n".to_owned(),
            "write a mapping: `pull: { with: { NAME: VALUE } }`",
        ),
        ("version: 1\napp: shop\nvars: 5\nsteps: { pull: }\n".to_owned(), "write a mapping: `vars: { port: 8001 }`"),
        (
            "version: 1\napp: shop\nhooks: { after: ./notify.sh }\nsteps: { pull: }\n".to_owned(),
            "write a list: `after: [{ program: [./notify.sh] }]`",
        ),
    ] {
        let errors = parse_for(&text, None).unwrap_err();
        let shown = rendered(&errors);
        assert!(shown.contains(&format!("hint: {hint}")), "{hint}\n{shown}");
    }
}
