//! Lookups (`${{ }}`): syntax, existence, allowed positions; secrets.

use expect_test::expect;

use super::{check, check_step, good, parse};

#[test]
fn each_bad_lookup_of_a_string_is_found() {
    check(
        "version: 1\napp: shop\nsteps:\n  a: { uses: x, with: { a: \"${{ RELEASE }}-${{ vars }}-${{ vars.b }}\" } }\n",
        expect![[r#"
            error[P0108]: `RELEASE` cannot be looked up
             --> deploy.yml:4:29
              |
            4 |   a: { uses: x, with: { a: "${{ RELEASE }}-${{ vars }}-${{ vars.b }}" } }
              |                             ^^^^^^^^^^^^^^ unknown
              hint: did you mean `release`?

            error[P0109]: `vars` is not a lookup
             --> deploy.yml:4:44
              |
            4 |   a: { uses: x, with: { a: "${{ RELEASE }}-${{ vars }}-${{ vars.b }}" } }
              |                                            ^^^^^^^^^^^ `vars` needs one name
              hint: write `vars.NAME`

            error[P0108]: environment `default` has no variable `b`
             --> deploy.yml:4:56
              |
            4 |   a: { uses: x, with: { a: "${{ RELEASE }}-${{ vars }}-${{ vars.b }}" } }
              |                                                        ^^^^^^^^^^^^^ undefined
              hint: define it under `vars:`, as in `vars: { b: … }`
        "#]],
    );
}

#[test]
fn undefined() {
    check(
        "version: 1\napp: shop\nvars: { root: /srv }\nsteps:\n  a: { uses: x, with: { a: \"${{ vars.rot }}\", b: \"${{ vars.nothing }}\", c: \"${{ env.UNSET }}\" } }\n",
        expect![[r#"
            error[P0108]: environment `default` has no variable `rot`
             --> deploy.yml:5:29
              |
            5 |   a: { uses: x, with: { a: "${{ vars.rot }}", b: "${{ vars.nothing }}", c: "${{ env.UNSET }}" } }
              |                             ^^^^^^^^^^^^^^^ undefined
              hint: did you mean `vars.root`?

            error[P0108]: environment `default` has no variable `nothing`
             --> deploy.yml:5:51
              |
            5 |   a: { uses: x, with: { a: "${{ vars.rot }}", b: "${{ vars.nothing }}", c: "${{ env.UNSET }}" } }
              |                                                   ^^^^^^^^^^^^^^^^^^^ undefined
              hint: use one of `root`

            error[P0108]: the environment variable `UNSET` is not set
             --> deploy.yml:5:77
              |
            5 |   a: { uses: x, with: { a: "${{ vars.rot }}", b: "${{ vars.nothing }}", c: "${{ env.UNSET }}" } }
              |                                                                             ^^^^^^^^^^^^^^^^ undefined
              hint: set it: `export UNSET=…`
        "#]],
    );
    check_step(
        "    with: { a: \"${{ github.sha }}\", b: \"${{ var.x }}\", c: \"${{ vars.x }}\", d: \"${{ steps.b.x }}\" }",
        expect![[r#"
            error[P0108]: `github` cannot be looked up
             --> deploy.yml:6:17
              |
            6 |     with: { a: "${{ github.sha }}", b: "${{ var.x }}", c: "${{ vars.x }}", d: "${{ steps.b.x }}" }
              |                 ^^^^^^^^^^^^^^^^^ unknown
              hint: use one of `release`, `vars`, `env`, `steps`, `run`, `secrets`, `plan`, `host`

            error[P0108]: `var` cannot be looked up
             --> deploy.yml:6:41
              |
            6 |     with: { a: "${{ github.sha }}", b: "${{ var.x }}", c: "${{ vars.x }}", d: "${{ steps.b.x }}" }
              |                                         ^^^^^^^^^^^^ unknown
              hint: did you mean `vars`?

            error[P0108]: environment `default` has no variable `x`
             --> deploy.yml:6:60
              |
            6 |     with: { a: "${{ github.sha }}", b: "${{ var.x }}", c: "${{ vars.x }}", d: "${{ steps.b.x }}" }
              |                                                            ^^^^^^^^^^^^^ undefined
              hint: define it under `vars:`, as in `vars: { x: … }`
        "#]],
    );
}

#[test]
fn defined_elsewhere() {
    let text = "version: 1\napp: shop\nenvironments:\n  prod: { vars: { port: 80 } }\n  test:\nsteps: { a: { uses: x, with: { p: \"${{ vars.port }}\" } } }\n";
    let errors = super::parse_for(text, Some("test")).unwrap_err();
    expect![[r#"
        error[P0108]: environment `test` has no variable `port`
         --> deploy.yml:6:36
          |
        6 | steps: { a: { uses: x, with: { p: "${{ vars.port }}" } } }
          |                                    ^^^^^^^^^^^^^^^^ undefined
          hint: define it here too, or for all environments under `vars:`; it is defined for `prod`
    "#]]
    .assert_eq(&super::rendered(&errors));
}

#[test]
fn syntax() {
    check_step(
        "    with: { a: \"x ${{ vars.x\", b: \"${{ a ${{ b }}\", c: \"${{ }}\" }",
        expect![[r#"
            error[P0109]: a lookup has no end
             --> deploy.yml:6:19
              |
            6 |     with: { a: "x ${{ vars.x", b: "${{ a ${{ b }}", c: "${{ }}" }
              |                   ^^^ `}}` is missing
              hint: write `${{ vars.name }}`, or `$${{` for a literal `${{`

            error[P0109]: a lookup has no end
             --> deploy.yml:6:36
              |
            6 |     with: { a: "x ${{ vars.x", b: "${{ a ${{ b }}", c: "${{ }}" }
              |                                    ^^^ `}}` is missing
              hint: write `${{ vars.name }}`, or `$${{` for a literal `${{`

            error[P0109]: a lookup is empty
             --> deploy.yml:6:57
              |
            6 |     with: { a: "x ${{ vars.x", b: "${{ a ${{ b }}", c: "${{ }}" }
              |                                                         ^^^^^^ empty
              hint: name a value, such as `${{ release }}`
        "#]],
    );
    check_step(
        "    with: { a: \"${{ vars.a + 1 }}\", b: \"${{ release.label }}\", c: \"${{ vars }}\", d: \"${{ steps.a }}\", e: \"${{ run.x }}\" }",
        expect![[r#"
            error[P0109]: `vars.a + 1` is not a lookup
             --> deploy.yml:6:17
              |
            6 |     with: { a: "${{ vars.a + 1 }}", b: "${{ release.label }}", c: "${{ vars }}", d: "${{ steps.a }}", e: "${{ run.x }}" }
              |                 ^^^^^^^^^^^^^^^^^ only names and dots are allowed
              hint: remove operators, functions and quotes

            error[P0109]: `release.label` is not a lookup
             --> deploy.yml:6:41
              |
            6 |     with: { a: "${{ vars.a + 1 }}", b: "${{ release.label }}", c: "${{ vars }}", d: "${{ steps.a }}", e: "${{ run.x }}" }
              |                                         ^^^^^^^^^^^^^^^^^^^^ `release` has only `path`
              hint: write `${{ release }}` for the label, `${{ release.path }}` for the folder

            error[P0109]: `vars` is not a lookup
             --> deploy.yml:6:68
              |
            6 |     with: { a: "${{ vars.a + 1 }}", b: "${{ release.label }}", c: "${{ vars }}", d: "${{ steps.a }}", e: "${{ run.x }}" }
              |                                                                    ^^^^^^^^^^^ `vars` needs one name
              hint: write `vars.NAME`

            error[P0109]: `steps.a` is not a lookup
             --> deploy.yml:6:86
              |
            6 |     with: { a: "${{ vars.a + 1 }}", b: "${{ release.label }}", c: "${{ vars }}", d: "${{ steps.a }}", e: "${{ run.x }}" }
              |                                                                                      ^^^^^^^^^^^^^^ `steps` needs a step and an output
              hint: write `steps.STEP.OUTPUT`

            error[P0109]: `run.x` is not a lookup
             --> deploy.yml:6:107
              |
            6 |     with: { a: "${{ vars.a + 1 }}", b: "${{ release.label }}", c: "${{ vars }}", d: "${{ steps.a }}", e: "${{ run.x }}" }
              |                                                                                                           ^^^^^^^^^^^^ `run` needs `id` or `attempt`
              hint: write `run.id` or `run.attempt`
        "#]],
    );
}

#[test]
fn the_caret_finds_the_lookup_in_every_style() {
    check_step(
        "    with:\n      quoted: \"\\t${{ vars.a }} ${{ vars.b }}\"\n      folded: >-\n        one\n        two ${{ vars.c }}\n      split: \"a ${{\n        vars.d }}\"",
        expect![[r#"
        error[P0108]: environment `default` has no variable `a`
         --> deploy.yml:7:18
          |
        7 |       quoted: "\t${{ vars.a }} ${{ vars.b }}"
          |                  ^^^^^^^^^^^^^ undefined
          hint: define it under `vars:`, as in `vars: { a: … }`

        error[P0108]: environment `default` has no variable `b`
         --> deploy.yml:7:32
          |
        7 |       quoted: "\t${{ vars.a }} ${{ vars.b }}"
          |                                ^^^^^^^^^^^^^ undefined
          hint: define it under `vars:`, as in `vars: { b: … }`

        error[P0108]: environment `default` has no variable `c`
          --> deploy.yml:10:13
           |
        10 |         two ${{ vars.c }}
           |             ^^^^^^^^^^^^^ undefined
          hint: define it under `vars:`, as in `vars: { c: … }`

        error[P0108]: environment `default` has no variable `d`
          --> deploy.yml:11:14
           |
        11 |       split: "a ${{
           |              ^^^^^^ undefined
          hint: define it under `vars:`, as in `vars: { d: … }`
    "#]],
    );
}

#[test]
fn lookups_not_allowed_here() {
    check(
        "version: 1\napp: shop\nstate: dir:${{ release }}\nsecrets: { T: env:TOKEN }\nvars: { a: 1, b: \"${{ vars.a }}\", c: \"${{ run.id }}\" }\nsteps:\n  a: { uses: \"${{ vars.a }}\", with: { t: \"${{ secrets.T }}\" } }\n  b: { uses: x, grants: { dirs: { d: \"${{ steps.a.path }}\", e: \"${{ secrets.T }}\" } } }\n",
        expect![[r#"
            error[P0110]: `release` cannot be looked up here: all releases share one state
             --> deploy.yml:3:12
              |
            3 | state: dir:${{ release }}
              |            ^^^^^^^^^^^^^^ not here
              hint: remove it; each release would have its own history

            error[P0110]: `vars.a` cannot be looked up here: a variable cannot use another variable
             --> deploy.yml:5:19
              |
            5 | vars: { a: 1, b: "${{ vars.a }}", c: "${{ run.id }}" }
              |                   ^^^^^^^^^^^^^ not here
              hint: use `env` or `release`

            error[P0110]: `run.id` cannot be looked up here: it is known only while steps run
             --> deploy.yml:5:39
              |
            5 | vars: { a: 1, b: "${{ vars.a }}", c: "${{ run.id }}" }
              |                                       ^^^^^^^^^^^^^ not here
              hint: use `steps`, `run` and `release.path` only in `with`

            error[P0110]: `uses` cannot contain a lookup
             --> deploy.yml:7:14
              |
            7 |   a: { uses: "${{ vars.a }}", with: { t: "${{ secrets.T }}" } }
              |              ^^^^^^^^^^^^^^^ not here
              hint: write the value itself; lookups work in `state`, `vars`, `with` and `grants`

            error[P0110]: `secrets.T` cannot be looked up here: this value is written to the journal
             --> deploy.yml:7:43
              |
            7 |   a: { uses: "${{ vars.a }}", with: { t: "${{ secrets.T }}" } }
              |                                           ^^^^^^^^^^^^^^^^ not here
              hint: use secrets only in granted headers, database URLs and `grants: { env: … }`

            error[P0110]: `steps.a.path` cannot be looked up here: grants are fixed before any step runs
             --> deploy.yml:8:39
              |
            8 |   b: { uses: x, grants: { dirs: { d: "${{ steps.a.path }}", e: "${{ secrets.T }}" } } }
              |                                       ^^^^^^^^^^^^^^^^^^^ not here
              hint: use `vars` in grants; `steps`, `run` and `release.path` work only in `with`

            error[P0110]: `secrets.T` cannot be looked up here: this value is written to the journal
             --> deploy.yml:8:65
              |
            8 |   b: { uses: x, grants: { dirs: { d: "${{ steps.a.path }}", e: "${{ secrets.T }}" } } }
              |                                                                 ^^^^^^^^^^^^^^^^ not here
              hint: use secrets only in granted headers, database URLs and `grants: { env: … }`
        "#]],
    );
    check(
        "version: 1\napp: shop\nvars: { r: \"x-${{ release }}\" }\nstate: dir:${{ vars.r }}\nsteps: { a: { uses: x } }\n",
        expect![[r#"
            error[P0110]: `vars.r` depends on the release, which `state` cannot do
             --> deploy.yml:4:12
              |
            4 | state: dir:${{ vars.r }}
              |            ^^^^^^^^^^^^^ changes with each release
              hint: use a variable without `release`; all releases share one history
        "#]],
    );
}

#[test]
fn outputs_of_steps_that_do_not_run_before() {
    check(
        "version: 1\napp: shop\nsteps:\n  a: { uses: x, with: { p: \"${{ steps.b.path }}\", q: \"${{ steps.a.path }}\" } }\n  b: { uses: x }\n  c: { uses: x, needs: [a], with: { p: \"${{ steps.b.path }}\" } }\n",
        expect![[r#"
            error[P0110]: step `a` looks up an output of `b`, which does not run before it
             --> deploy.yml:4:29
              |
            4 |   a: { uses: x, with: { p: "${{ steps.b.path }}", q: "${{ steps.a.path }}" } }
              |                             ^^^^^^^^^^^^^^^^^^^ not known yet
              hint: add `b` to `needs` of `a`

            error[P0110]: step `a` looks up an output of `a`, which does not run before it
             --> deploy.yml:4:55
              |
            4 |   a: { uses: x, with: { p: "${{ steps.b.path }}", q: "${{ steps.a.path }}" } }
              |                                                       ^^^^^^^^^^^^^^^^^^^ not known yet
              hint: remove the lookup; a step cannot use its own outputs

            error[P0110]: step `c` looks up an output of `b`, which does not run before it
             --> deploy.yml:6:41
              |
            6 |   c: { uses: x, needs: [a], with: { p: "${{ steps.b.path }}" } }
              |                                         ^^^^^^^^^^^^^^^^^^^ not known yet
              hint: add `b` to `needs` of `c`
        "#]],
    );
}

#[test]
fn secrets() {
    check(
        "version: 1\napp: shop\nsecrets: { A: env:UNSET, B: env:EMPTY, C: hunter2, \"d.e\": env:TOKEN }\nsteps: { a: { uses: x } }\n",
        expect![[r#"
            error[P0118]: secret `C` has no valid source
              hint: write `C: env:VARIABLE`

            error[P0107]: `d.e` is not a valid secret name
             --> deploy.yml:3:52
              |
            3 | secrets: { A: env:UNSET, B: env:EMPTY, C: hunter2, "d.e": env:TOKEN }
              |                                                    ^^^^^ not a valid secret name
              hint: use 1 to 64 letters, digits, `_` or `-`
        "#]],
    );
    check_step(
        "    grants: { http: [{ origin: \"https://x.org\", headers: { A: \"${{ secrets.TOKEN }}\" } }] }",
        expect![[r#"
            error[P0108]: the plan has no secret `TOKEN`
             --> deploy.yml:6:64
              |
            6 |     grants: { http: [{ origin: "https://x.org", headers: { A: "${{ secrets.TOKEN }}" } }] }
              |                                                                ^^^^^^^^^^^^^^^^^^^^ undefined
              hint: declare it at the top of the plan: `secrets: { TOKEN: env:TOKEN }`
        "#]],
    );
}

#[test]
fn no_debug_output_contains_a_secret() {
    let plan = good(
        "version: 1\napp: shop\nsecrets: { T: env:TOKEN }\nsteps:\n  a: { uses: x, grants: { http: [{ origin: \"https://x.org\", headers: { A: \"${{ secrets.T }}\" } }] } }\n",
    );
    assert!(!format!("{plan:?}").contains("s3cr3t"));
}

#[test]
fn lookup_without_its_dollar() {
    check_step(
        "    with: { url: \"http://h:{{ vars.port }}/\" }\n    grants: { http: [\"http://h:{{ vars.port }}\"] }",
        expect![[r#"
            error[P0109]: `{{ vars.port }}` has no `$`, so nothing is looked up
             --> deploy.yml:6:28
              |
            6 |     with: { url: "http://h:{{ vars.port }}/" }
              |                            ^^^^^^^^^^^^^^^ only text
              hint: write `${{ vars.port }}`; to mean the text itself, put it into a variable and look that up

            error[P0109]: `{{ vars.port }}` has no `$`, so nothing is looked up
             --> deploy.yml:7:32
              |
            7 |     grants: { http: ["http://h:{{ vars.port }}"] }
              |                                ^^^^^^^^^^^^^^^ only text
              hint: write `${{ vars.port }}`; to mean the text itself, put it into a variable and look that up
        "#]],
    );
}

#[test]
fn lookup_with_one_brace() {
    check_step(
        "    with: { url: \"http://h:${ vars.port }/\" }",
        expect![[r#"
            error[P0109]: `${ vars.port }` has only one brace, so nothing is looked up
             --> deploy.yml:6:28
              |
            6 |     with: { url: "http://h:${ vars.port }/" }
              |                            ^^^^^^^^^^^^^^ only text
              hint: write `${{ vars.port }}`; to mean the text itself, put it into a variable and look that up
        "#]],
    );
}

/// A wrong value of a step's own key does not keep the rest of the step from being checked.
#[test]
fn step_with_a_wrong_key_of_its_own_is_readable() {
    let text = "version: 1\napp: shop\nsteps:\n  a: { uses: x, timeout: 5y, retry: 99, always: 1, effects: there }\n  \
                b: { uses: x, trust: hots, grants: { programs: [tar] } }\n  c: { uses: x, grants: { programs: [tar] } }\n";
    let errors = parse(text).unwrap_err();
    assert_eq!(errors.errors.len(), 6, "{errors}");
    let part = errors.readable_part.as_ref().expect("all steps are readable");
    assert_eq!(part.steps.iter().map(|step| step.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"], "{errors}");
}

/// The steps that use what is missing are left out, and the others are there to be checked further.
#[test]
fn part_of_a_plan_is_readable() {
    let text = "version: 1\napp: shop\nsecrets: { T: env:UNSET }\nvars: { a: \"${{ env.UNSET }}\" }\nsteps:\n  good: { uses: x }\n  \
                key: { uses: x, usses: y }\n  secret: { uses: x, grants: { databases: { d: \"${{ secrets.T }}\" } } }\n  \
                granted: { uses: x, grants: { secrets: [T] } }\n  variable: { uses: x, with: { v: \"${{ vars.a }}\" } }\n  last: { uses: x }\n";
    let errors = parse(text).unwrap_err();
    assert_eq!(errors.errors.len(), 3, "{errors}");
    let part = errors.readable_part.expect("two steps are readable");
    assert_eq!(part.steps.iter().map(|step| step.id.as_str()).collect::<Vec<_>>(), ["good", "last"]);
    assert!(parse("version: 1\nsteps: { a: { uses: x } }\n").unwrap_err().readable_part.is_none());
}
