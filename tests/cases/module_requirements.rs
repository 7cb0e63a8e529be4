//! Plans that are well formed and do not fit the modules they use: found before anything is done.

use expect_test::{Expect, expect};

use crate::support::TestEnvironment;

/// What is said of the example after one edit.
fn check_rejected_edit(from: &str, to: &str, expected: Expect) {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    environment.edit("deploy.yml", from, to);
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2).assert_stderr_contains("error[P0").assert_stderr_contains("deploy.yml:");
    assert!(!environment.exists(".pawl") && !environment.exists("deploy"), "nothing was begun");
    expected.assert_eq(&refused.stderr_snapshot());
}

#[test]
fn misspelled_setting_is_rejected() {
    check_rejected_edit(
        "from: \"file:dist",
        "form: \"file:dist",
        expect![[r#"
            error[P0121]: invalid `with` of step `pull` for module `pull` at `form`
             --> deploy.yml:9:13
              |
            9 |     with: { form: "file:dist/shop-${{ release }}.tar.zst", into: app }
              |             ^^^^ unknown setting
              hint: did you mean `from`?
        "#]],
    );
}

#[test]
fn missing_setting_is_rejected() {
    check_rejected_edit(
        "with: { link: current }",
        "with: {}",
        expect![[r#"
            error[P0121]: invalid `with` of step `switch` for module `switch`
              --> deploy.yml:21:11
               |
            21 |     with: {}
               |           ^^ `link` is missing
              hint: `switch` accepts `check`, `haproxy`, `in`, `link`, `strategy`, `to`, `wired`; see docs/plan.md
        "#]],
    );
}

#[test]
fn setting_of_the_wrong_type_is_rejected() {
    check_rejected_edit(
        "tries: 1",
        "tries: often",
        expect![[r#"
            error[P0121]: invalid `with` of step `verify` for module `verify` at `tries`
              --> deploy.yml:26:14
               |
            26 |       tries: often
               |              ^^^^^ "often" is not of type "integer"
              hint: write a number: `tries: 3`
        "#]],
    );
}

#[test]
fn read_only_grant_is_rejected_where_a_writable_one_is_needed() {
    check_rejected_edit(
        "grants: { dirs: { app: \"${{ vars.root }}\" } }",
        "grants: { dirs: { app: \"${{ vars.root }}:ro\" } }",
        expect![[r#"
            error[P0122]: step `switch` needs a writable directory, but the plan does not grant it
              --> deploy.yml:19:3
               |
            19 |   switch:
               |   ^^^^^^ not granted
              hint: remove `:ro` from the directory `app` in the step's `grants:`; the module needs it because it holds the link and the releases
        "#]],
    );
}

#[test]
fn program_grant_without_trust_is_rejected() {
    check_rejected_edit(
        "  verify:\n    uses: verify\n",
        "  reload:\n    uses: run\n    with: { program: /bin/true }\n    grants: { programs: [/bin/true] }\n  verify:\n    uses: verify\n",
        expect![[r#"
            error[P0124]: step `reload` is granted programs, which can do whatever the runner's user can
              --> deploy.yml:23:3
               |
            23 |   reload:
               |   ^^^^^^ needs `trust: host`
              hint: add `trust: host`, or use a module that needs no programs
        "#]],
    );
}

#[test]
fn prepare_step_after_a_commit_step_is_rejected() {
    let environment = TestEnvironment::new();
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
        error[P0123]: prepare step `pull` comes after commit step `migrate`
          --> deploy.yml:13:3
           |
        13 |   pull:
           |   ^^^^ a prepare step
          hint: move `pull` before `migrate`: all prepare steps run before the first change
    "#]]
    .assert_eq(&refused.stderr_snapshot());
}
