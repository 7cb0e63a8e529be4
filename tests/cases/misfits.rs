//! Plans that are well formed and do not fit the modules they use: found before anything is done.

use expect_test::{Expect, expect};

use crate::support::Environment;

/// What is said of the example after one edit.
fn check(from: &str, to: &str, expected: Expect) {
    let environment = Environment::new();
    environment.pack("r1");
    environment.edit("deploy.yml", from, to);
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2).assert_says("error[P0").assert_says("deploy.yml:");
    assert!(!environment.exists(".pawl") && !environment.exists("deploy"), "nothing was begun");
    expected.assert_eq(&refused.said());
}

#[test]
fn a_misspelt_setting() {
    check(
        "from: \"file:dist",
        "form: \"file:dist",
        expect![[r#"
        error[P0121]: `with` of step `pull` does not fit module `pull` at `form`
         --> deploy.yml:9:19
          |
        9 |     with: { form: "file:dist/shop-${{ release }}.tar.zst", into: app }
          |                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ unknown setting
          hint: `pull` takes `digest`, `from`, `into`, `limits`, `shared`, `version`, `version-file`; docs/plan.md tells what they mean
        error[P0121]: `with` of step `pull` does not fit module `pull`
         --> deploy.yml:9:11
          |
        9 |     with: { form: "file:dist/shop-${{ release }}.tar.zst", into: app }
          |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `from` is missing
          hint: `pull` takes `digest`, `from`, `into`, `limits`, `shared`, `version`, `version-file`; docs/plan.md tells what they mean
    "#]],
    );
}

#[test]
fn a_setting_that_is_missing() {
    check(
        "with: { link: current }",
        "with: {}",
        expect![[r#"
        error[P0121]: `with` of step `switch` does not fit module `switch`
          --> deploy.yml:21:11
           |
        21 |     with: {}
           |           ^^ `link` is missing
          hint: `switch` takes `in`, `link`, `strategy`, `to`; docs/plan.md tells what they mean
    "#]],
    );
}

#[test]
fn a_setting_of_the_wrong_kind() {
    check(
        "tries: 1",
        "tries: often",
        expect![[r#"
        error[P0121]: `with` of step `verify` does not fit module `verify` at `tries`
          --> deploy.yml:26:14
           |
        26 |       tries: often
           |              ^^^^^ "often" is not of type "integer"
          hint: `verify` takes `consecutive`, `files`, `http`, `interval`, `sql`, `tcp`, `tries`; docs/plan.md tells what they mean
    "#]],
    );
}

#[test]
fn a_read_only_directory_where_one_must_be_written() {
    check(
        "grants: { dirs: { app: \"${{ vars.root }}\" } }",
        "grants: { dirs: { app: \"${{ vars.root }}:ro\" } }",
        expect![[r#"
            error[P0122]: step `switch` needs a writable directory that it is not granted
              --> deploy.yml:19:3
               |
            19 |   switch:
               |   ^^^^^^ not granted
              hint: add to the step: grants: { dirs: { <name>: "<path>" } }; it holds the link and the releases
        "#]],
    );
}

#[test]
fn a_program_without_trust() {
    check(
        "  verify:\n    uses: verify\n",
        "  reload:\n    uses: run\n    with: { program: /bin/true }\n    grants: { programs: [/bin/true] }\n  verify:\n    uses: verify\n",
        expect![[r#"
            error[P0124]: step `reload` is granted programs, which can do what the host can
              --> deploy.yml:23:3
               |
            23 |   reload:
               |   ^^^^^^ needs `trust: host`
              hint: say so with `trust: host`, or use a module that needs no programs
        "#]],
    );
}

#[test]
fn a_prepare_step_after_a_commit_step() {
    let environment = Environment::new();
    environment.pack("r1");
    let plan = environment.read("deploy.yml");
    let (pull, migrate) = (plan.find("  pull:").unwrap(), plan.find("  migrate:").unwrap());
    let switch = plan.find("  switch:").unwrap();
    let late = [&plan[..pull], &plan[migrate..switch], &plan[pull..migrate], &plan[switch..]].concat();
    environment.write("deploy.yml", late);
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    assert!(!environment.exists(".pawl") && !environment.exists("deploy"));
    expect![[r#"
        error[P0123]: step `pull` prepares, but comes after `migrate`, which changes what runs
          --> deploy.yml:13:3
           |
        13 |   pull:
           |   ^^^^ a prepare step
          hint: write `pull` before `migrate`: everything is prepared before anything is touched
    "#]]
    .assert_eq(&refused.said());
}
