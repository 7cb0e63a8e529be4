//! Short forms, and their equality with the long ones.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::{check, good, good::EXAMPLE, parse_for};
use crate::{GrantSource, ModuleRef, Plan};

/// The grants of a step as its long form lists them.
fn grants(plan: &Plan, step: &str) -> Value {
    plan.expanded()["steps"][step]["grants"].clone()
}

/// Compares two plans by their long forms.
fn assert_same(short: &str, long: &str) {
    let (short, long) = (good(short), good(long));
    assert_eq!(short.expanded_text(), long.expanded_text());
}

#[test]
fn a_step_without_uses_has_the_name_of_its_module() {
    let plan = good("version: 1\napp: shop\nsteps: { pull: , verify: { with: {} } }");
    let uses: Vec<_> = plan.steps.iter().map(|step| step.uses.clone()).collect();
    assert_eq!(uses, ["pull", "verify"].map(|name| ModuleRef::Official(name.to_owned())));
}

#[test]
fn directories_and_origins_have_names() {
    assert_same(
        r#"
version: 1
app: shop
secrets: { TOKEN: env:TOKEN }
dirs: { app: /srv/shop, dist: "./dist:ro" }
http: { api: "https://api.example.com", hooks: { origin: "https://hooks.example.com", methods: [post], headers: { a: "${{ secrets.TOKEN }}" } } }
steps:
  pull: { grants: { dirs: [app, dist] } }
  verify: { grants: { dirs: ["app:ro"], http: [hooks, api, "http://localhost:8080"] } }
"#,
        r#"
version: 1
app: shop
secrets: { TOKEN: env:TOKEN }
steps:
  pull: { uses: pull, grants: { dirs: { app: /srv/shop, dist: "./dist:ro" } } }
  verify:
    uses: verify
    grants:
      dirs: { app: "/srv/shop:ro" }
      http:
        - { origin: "https://hooks.example.com", methods: [POST], headers: { a: "${{ secrets.TOKEN }}" } }
        - https://api.example.com
        - http://localhost:8080
"#,
    );
}

#[test]
fn known_programs_and_urls_are_their_own_grants() {
    let plan = good(
        r#"
version: 1
app: shop
vars: { port: 8080, word: "*" }
steps:
  build:
    program: [./build.sh, --port, "${{ vars.port }}", "${{ vars.word }}"]
    trust: host
    with: { probe: [/bin/true], repeatable: true }
  restart:
    uses: run
    trust: host
    with: { program: systemctl, args: [restart, shop], requires: [{ program: node, version: ">=20" }, { program: php, args: [-v], version: "8.2" }] }
  verify:
    with: { http: [{ url: "http://localhost:${{ vars.port }}/x" }, { url: "https://user@example.com/y" }, { url: "http://localhost:8080" }] }
  warm:
    uses: pull
    with: { from: "https://example.com/${{ steps.build.x }}", to: "https://${{ steps.build.x }}/", text: "see https://example.org" }
  other:
    uses: ./other.wasm
    with: { url: "https://example.com/" }
"#,
    );
    let expected = json!({ "programs": [["./build.sh", "--port", "8080", "${{ vars.star }}"], ["/bin/true"]] });
    assert_eq!(grants(&plan, "build"), expected);
    let expected = json!({ "programs": [["node", "--version"], ["php", "-v"], ["systemctl", "restart", "shop"]] });
    assert_eq!(grants(&plan, "restart"), expected);
    assert_eq!(grants(&plan, "verify"), json!({ "http": ["https://example.com:443", "http://localhost:8080"] }));
    assert_eq!(grants(&plan, "warm"), json!({ "http": ["https://example.com:443"] }));
    assert_eq!(grants(&plan, "other"), Value::Null);
    let sources: Vec<_> = plan.steps[2].grants.http.iter().map(|grant| grant.source.clone()).collect();
    assert_eq!(sources, ["/http/0/url", "/http/1/url"].map(|pointer| GrantSource::Config(pointer.to_owned())));
}

#[test]
fn a_step_that_lists_a_kind_of_grant_gets_nothing_else() {
    let plan = good(
        r#"
version: 1
app: shop
steps:
  run: { trust: host, with: { program: /bin/true }, grants: { programs: [[/bin/false]] } }
  verify: { with: { http: [{ url: "http://localhost/x" }] }, grants: { http: [] } }
"#,
    );
    assert_eq!(grants(&plan, "run"), json!({ "programs": [["/bin/false"]] }));
    assert_eq!(grants(&plan, "verify"), json!({ "http": [] }));
}

#[test]
fn what_a_step_returns_grants_nothing() {
    let plan = good(
        r#"
version: 1
app: shop
steps:
  pull:
  run: { uses: run, with: { program: /bin/echo, args: ["${{ steps.pull.path }}"] } }
  verify: { with: { http: [{ url: "${{ steps.pull.url }}" }, { url: "http://a${{ steps.pull.url }}/" }] } }
"#,
    );
    assert_eq!(grants(&plan, "run"), Value::Null);
    assert_eq!(grants(&plan, "verify"), Value::Null);
}

#[test]
fn release_path_is_the_folder_that_pull_returns() {
    assert_same(
        r#"
version: 1
app: shop
steps:
  pull: { with: { into: app }, grants: { dirs: { app: ./deploy, dist: ./dist } } }
  run: { trust: host, with: { program: /bin/ls, args: ["${{ release.path }}/bin"] }, grants: { programs: [[/bin/ls, "*"]] } }
"#,
        r#"
version: 1
app: shop
steps:
  pull: { uses: pull, with: { into: app }, grants: { dirs: { app: ./deploy, dist: ./dist } } }
  run:
    uses: run
    trust: host
    with: { program: /bin/ls, args: ["${{ plan.dir }}/deploy/${{ steps.pull.path }}/bin"] }
    grants: { programs: [[/bin/ls, "*"]] }
"#,
    );
}

const SECRETS: &str = r#"
version: 1
app: shop
secrets: { TOKEN: env:TOKEN, UNUSED: env:NOT_SET }
environments:
  test:
  prod: { secrets: { TOKEN: env:PROD_TOKEN, ONLY: env:TOKEN } }
steps:
  verify: { grants: { http: [{ origin: "https://example.com", headers: { a: "${{ secrets.TOKEN }}" } }] } }
"#;

#[test]
fn only_the_secrets_in_use_must_be_set() {
    let plan = parse_for(SECRETS, Some("test")).unwrap();
    assert_eq!(plan.secrets.keys().collect::<Vec<_>>(), ["TOKEN"]);
    assert_eq!(plan.secret_variables.keys().collect::<Vec<_>>(), ["TOKEN", "UNUSED"]);
}

fn check_for(text: &str, environment: &str, expect: Expect) {
    let errors = parse_for(text, Some(environment)).expect_err("the plan is invalid");
    expect.assert_eq(&super::rendered(&errors));
}

#[test]
fn secrets_of_an_environment_override_the_others() {
    check_for(
        SECRETS,
        "prod",
        expect![[r#"
            error[P0114]: secret `TOKEN`: the environment variable `PROD_TOKEN` is empty or not set
             --> deploy.yml:7:29
              |
            7 |   prod: { secrets: { TOKEN: env:PROD_TOKEN, ONLY: env:TOKEN } }
              |                             ^^^^^^^^^^^^^^ no value
              hint: set it: `export PROD_TOKEN=…`; in CI, under `env:` of the job
        "#]],
    );
    check_for(
        &SECRETS.replace("secrets.TOKEN", "secrets.ONLY"),
        "test",
        expect![[r#"
        error[P0108]: the plan has no secret `ONLY`
         --> deploy.yml:9:78
          |
        9 |   verify: { grants: { http: [{ origin: "https://example.com", headers: { a: "${{ secrets.ONLY }}" } }] } }
          |                                                                              ^^^^^^^^^^^^^^^^^^^ undefined
          hint: declare it for `test` too, under `secrets:`; it is declared for `prod`
    "#]],
    );
}

#[test]
fn bad_short_forms() {
    check(
        r#"version: 1
app: shop
dirs: { app: /srv/shop, dist: "./dist:ro" }
http: { api: "https://example.com" }
steps:
  pull: { grants: { dirs: [ap, "dist:rw", app, app], http: [ap1, nothing] } }
  build: { program: [] }
  both: { uses: run, program: [ls], with: { args: [x] }, trust: host }
  untrusted: { program: [ls] }
"#,
        expect![[r#"
            error[P0115]: `dirs` of the plan has no `ap`
             --> deploy.yml:6:28
              |
            6 |   pull: { grants: { dirs: [ap, "dist:rw", app, app], http: [ap1, nothing] } }
              |                            ^^ not at the top of the plan
              hint: did you mean `app`?

            error[P0115]: `dirs` of the plan grants `dist` for reading only
             --> deploy.yml:6:32
              |
            6 |   pull: { grants: { dirs: [ap, "dist:rw", app, app], http: [ap1, nothing] } }
              |                                ^^^^^^^^^ cannot be written to
              hint: remove `:rw` here, or `:ro` from the directory at the top of the plan

            error[P0117]: directory `app` is listed twice
             --> deploy.yml:6:48
              |
            6 |   pull: { grants: { dirs: [ap, "dist:rw", app, app], http: [ap1, nothing] } }
              |                                                ^^^ the second time
              hint: remove one

            error[P0115]: `http` of the plan has no `ap1`
             --> deploy.yml:6:61
              |
            6 |   pull: { grants: { dirs: [ap, "dist:rw", app, app], http: [ap1, nothing] } }
              |                                                             ^^^ not at the top of the plan
              hint: did you mean `api`?

            error[P0115]: `http` of the plan has no `nothing`
             --> deploy.yml:6:66
              |
            6 |   pull: { grants: { dirs: [ap, "dist:rw", app, app], http: [ap1, nothing] } }
              |                                                                  ^^^^^^^ not at the top of the plan
              hint: write an origin, such as `https://nothing`, or add `nothing: ORIGIN` to `http` at the top of the plan

            error[P0118]: `program` of step `build` names no program
             --> deploy.yml:7:21
              |
            7 |   build: { program: [] }
              |                     ^^^ empty
              hint: write the program and its arguments: `[./build.sh, all]`

            error[P0118]: step `both` has `program` and `uses`
             --> deploy.yml:8:11
              |
            8 |   both: { uses: run, program: [ls], with: { args: [x] }, trust: host }
              |           ^^^^ one too many
              hint: remove `uses`: `program` is short for `uses: run`

            error[P0118]: step `both` has its program twice: in `program` and in `with.args`
             --> deploy.yml:8:45
              |
            8 |   both: { uses: run, program: [ls], with: { args: [x] }, trust: host }
              |                                             ^^^^ one too many
              hint: write `program: [PROGRAM, ARGUMENT, …]` only

            error[P0124]: step `untrusted` is granted programs, which can do whatever the runner's user can
             --> deploy.yml:9:3
              |
            9 |   untrusted: { program: [ls] }
              |   ^^^^^^^^^ needs `trust: host`
              hint: add `trust: host`, or use a module that needs no programs
        "#]],
    );
    check(
        "version: 1\napp: shop\nsteps:\n  run: { with: { program: ls, args: [\"${{ release.path }}\"] } }\n",
        expect![[r#"
            error[P0108]: no step uses `pull`, so the release has no folder
             --> deploy.yml:4:39
              |
            4 |   run: { with: { program: ls, args: ["${{ release.path }}"] } }
              |                                       ^^^^^^^^^^^^^^^^^^^ undefined
              hint: add a `pull` step
        "#]],
    );
    check(
        "version: 1\napp: shop\nvars: { a: \"${{ release.path }}\", b: \"${{ plan.x }}\" }\nsteps: { pull: }\n",
        expect![[r#"
            error[P0110]: `release.path` cannot be looked up here: it is known only while steps run
             --> deploy.yml:3:13
              |
            3 | vars: { a: "${{ release.path }}", b: "${{ plan.x }}" }
              |             ^^^^^^^^^^^^^^^^^^^ not here
              hint: use `steps`, `run` and `release.path` only in `with`

            error[P0109]: `plan.x` is not a lookup
             --> deploy.yml:3:39
              |
            3 | vars: { a: "${{ release.path }}", b: "${{ plan.x }}" }
              |                                       ^^^^^^^^^^^^^ `plan` has only `dir`
              hint: write `plan.dir`
        "#]],
    );
}

#[test]
fn a_long_form_is_its_own_long_form() {
    let plan = parse_for(EXAMPLE, Some("prod")).unwrap();
    let again = parse_for(&plan.expanded_text(), Some("prod")).unwrap();
    assert_eq!(again.expanded_text(), plan.expanded_text());
}

/// Each value means the same in the long form, whatever stands before and after a lookup.
#[test]
fn odd_texts_survive_the_long_form() {
    let plan = good(
        r#"
version: 1
app: shop
secrets: { TOKEN: env:TOKEN }
vars: { dollar: "$", braces: "{{ release }} and {{ .State }}", star: "**" }
steps:
  run:
    trust: host
    with: { program: /bin/echo, args: ["${{ vars.dollar }}${{ run.attempt }}", "${{ vars.braces }}", "$${{ release }}", "${{ vars.star }}"] }
    grants:
      programs: [[/bin/echo, "**"], [/bin/echo, "${{ vars.star }}", "${{ vars.braces }}"]]
      env: { A: "${{ vars.dollar }}${{ secrets.TOKEN }}", B: "$${{ secrets.TOKEN }}x", C: "${{ vars.braces }}" }
"#,
    );
    let text = plan.expanded_text();
    let again = good(&text);
    assert_eq!(again.expanded_text(), text);
    let (step, repeated) = (&plan.steps[0], &again.steps[0]);
    let run = "1-abcdef".parse().unwrap();
    let config = |step: &crate::PlanStep| step.config(&[].into(), &run, contract::AttemptNumber::FIRST).unwrap();
    assert_eq!(config(step), config(repeated), "{text}");
    let programs = |step: &crate::PlanStep| {
        let mut all: Vec<_> = step.grants.programs.iter().map(|grant| format!("{:?}", grant.arguments)).collect();
        all.sort();
        all
    };
    assert_eq!(programs(step), programs(repeated), "{text}");
    for (name, grant) in &step.grants.env {
        let value = |grant: &crate::EnvGrant| match grant {
            crate::EnvGrant::Set(text) => text.value.reveal().to_owned(),
            crate::EnvGrant::SetByStep => String::new(),
        };
        // `B` looks like a lookup in what the plan wrote, which is all that is kept of it.
        if name != "B" {
            assert_eq!(value(grant), value(&repeated.grants.env[name]), "{name} of {text}");
        }
    }
}
