//! Plans that are wrong, through the binary: each is a coded error with its line, a caret and a hint, and nothing is begun.

use expect_test::{Expect, expect};

use crate::support::TestEnvironment;

const PLAN_HEAD: &str = "version: 1\napp: shop\nsteps:\n  hello:\n    uses: verify\n";

/// What a deployment with this plan says; it must end with 2 and leave nothing.
fn check_rejected_plan(plan: &str, expected: Expect) {
    let environment = TestEnvironment::with_plan(plan);
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2).assert_stderr_contains("error[P0");
    assert!(refused.stderr.contains("hint: ") || refused.stderr.contains("help: "), "{}", refused.stderr);
    assert!(!environment.exists(".pawl"), "nothing was begun");
    expected.assert_eq(&refused.stderr_snapshot());
}

#[test]
fn unknown_key_is_rejected() {
    check_rejected_plan(
        &format!("{PLAN_HEAD}    timout: 5m\n"),
        expect![[r#"
        error[P0104]: step `hello` has no key `timout`
         --> deploy.yml:6:5
          |
        6 |     timout: 5m
          |     ^^^^^^ unknown key
          hint: did you mean `timeout`?
    "#]],
    );
}

#[test]
fn wrong_type_is_rejected() {
    check_rejected_plan(
        &format!("{PLAN_HEAD}    with: [files]\n"),
        expect![[r#"
            error[P0105]: `with` of step `hello` must be a mapping, not a list
             --> deploy.yml:6:11
              |
            6 |     with: [files]
              |           ^^^^^^^ this is a list
              hint: write a mapping: `with: { NAME: VALUE }`
        "#]],
    );
}

#[test]
fn missing_grant_is_rejected() {
    check_rejected_plan(
        "version: 1\napp: shop\nsteps:\n  pull:\n    uses: pull\n    with: { from: \"file:dist/x.tar.gz\", into: app }\n    grants: { dirs: { dist: ./dist:ro } }\n",
        expect![[r#"
            error[P0122]: step `pull` needs a writable directory `app`, but the plan does not grant it
             --> deploy.yml:6:47
              |
            6 |     with: { from: "file:dist/x.tar.gz", into: app }
              |                                               ^^^ not granted
              hint: add `app: "./app"` to `dirs:` in the step's `grants:`; the module needs it because it stores releases/ and shared/
            error[P0202]: directory `dist` of step `pull` ([ROOT]/shop/dist) can't be read: No such file or directory (os error 2)
             --> deploy.yml:7:29
              |
            7 |     grants: { dirs: { dist: ./dist:ro } }
              |                             ^^^^^^^^^ this directory
              hint: nothing was deployed; fix this, then run the same command again
        "#]],
    );
}

#[test]
fn cycle_in_needs_is_rejected() {
    check_rejected_plan(
        "version: 1\napp: shop\nsteps:\n  a:\n    uses: verify\n    needs: b\n  b:\n    uses: verify\n    needs: [a]\n",
        expect![[r#"
            error[P0111]: `needs` has a cycle: a → b → a
             --> deploy.yml:6:12
              |
            6 |     needs: b
              |            ^ part of the cycle
              hint: remove one of these steps from `needs`
        "#]],
    );
}

#[test]
fn unknown_module_is_rejected() {
    check_rejected_plan(
        "version: 1\napp: shop\nsteps:\n  pull:\n    uses: pul\n",
        expect![[r#"
            error[P0120]: `pul` is not an official module
             --> deploy.yml:5:11
              |
            5 |     uses: pul
              |           ^^^ this step uses it
              hint: did you mean `pull`?
        "#]],
    );
}

#[test]
fn missing_module_file_is_rejected() {
    check_rejected_plan(
        "version: 1\napp: shop\nsteps:\n  mine:\n    uses: ./steps/mine.wasm\n",
        expect![[r#"
        error[P0120]: can't read [ROOT]/shop/steps/mine.wasm
         --> deploy.yml:5:11
          |
        5 |     uses: ./steps/mine.wasm
          |           ^^^^^^^^^^^^^^^^^ this step uses it
          caused by: No such file or directory (os error 2)
          hint: check the path; it is relative to the plan's folder; build the module first, if it is your own
    "#]],
    );
}

#[test]
fn undefined_variable_is_rejected() {
    check_rejected_plan(
        "version: 1\napp: shop\nvars: { root: . }\nsteps:\n  hello:\n    uses: verify\n    grants: { dirs: { app: \"${{ vars.rot }}\" } }\n",
        expect![[r#"
            error[P0108]: environment `default` has no variable `rot`
             --> deploy.yml:7:29
              |
            7 |     grants: { dirs: { app: "${{ vars.rot }}" } }
              |                             ^^^^^^^^^^^^^^^ undefined
              hint: did you mean `vars.root`?
        "#]],
    );
}

#[test]
fn tab_indentation_is_rejected() {
    check_rejected_plan(
        "version: 1\napp: shop\nsteps:\n\thello:\n\t\tuses: verify\n",
        expect![[r#"
        error[P0101]: the indentation contains a tab
         --> deploy.yml:4:1
          |
        4 |     hello:
          | ^^^^ a tab
          hint: indent with spaces only
    "#]],
    );
}

#[test]
fn yaml_bomb_is_rejected() {
    let mut bomb = "version: 1\napp: shop\nvars:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("  a{level}: &a{level} [{}]\n", vec![before; 10].join(", ")));
    }
    check_rejected_plan(
        &bomb,
        expect![[r#"
        error[P0103]: the plan is too complex: more than 20000 values, aliases expanded
         --> deploy.yml:7:7
          |
        7 |   a3: &a3 [*a2, *a2, *a2, *a2, *a2, *a2, *a2, *a2, *a2, *a2]
          |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ one too many
          hint: use fewer aliases; a plan is a page or two
    "#]],
    );
}

#[test]
fn empty_plan_is_rejected() {
    let environment = TestEnvironment::with_plan("");
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0102]: the plan is empty
          hint: write a plan; docs/plan.md has an example
    "#]]
    .assert_eq(&refused.stderr_snapshot());
}

#[test]
fn oversized_plan_is_rejected() {
    let environment = TestEnvironment::with_plan(&"# a comment\n".repeat(10 << 20 >> 3));
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0103]: the plan is 15728640 bytes long; the limit is 1048576 (1 MiB)
          hint: check that this is the right file; a plan is a page or two
    "#]]
    .assert_eq(&refused.stderr_snapshot());
}

#[test]
fn missing_and_binary_plan_files_are_rejected() {
    let environment = TestEnvironment::new();
    let refused = environment.run(&["--local", "--release", "r1", "--plan", "deploi.yml"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0201]: can't read the plan deploi.yml
          caused by: No such file or directory (os error 2)
          hint: did you mean `deploy.yml`? otherwise name the plan with `--plan FILE`, or go to its folder
    "#]]
    .assert_eq(&refused.stderr_snapshot());
    environment.write("deploy.yml", [0xff, 0xfe, 0]);
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0201]: can't read the plan deploy.yml
          caused by: it is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
          hint: name the plan with `--plan FILE`, or go to its folder
    "#]]
    .assert_eq(&refused.stderr_snapshot());
}

#[test]
fn label_with_a_path_is_rejected() {
    let environment = TestEnvironment::new();
    let refused = environment.run(&["--local", "--release", "../x"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0206]: `../x` is not a valid release label: it must be a letter or digit, then up to 127 letters, digits or `._+-`
          hint: use a label such as `--release v1.4.2`; it becomes part of paths and URLs
    "#]]
    .assert_eq(&refused.stderr_snapshot());
}

#[test]
fn unknown_environment_is_rejected() {
    let environment = TestEnvironment::new();
    let refused = environment.run(&["--local", "--release", "r1", "--env", "tset"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0113]: the plan has no environment `tset`
          hint: did you mean `test`?
    "#]]
    .assert_eq(&refused.stderr_snapshot());
}

#[test]
fn unknown_option_is_rejected() {
    let environment = TestEnvironment::new();
    let refused = environment.run(&["--local", "--relase", "r1"]);
    refused.assert_exit(2);
    expect![[r#"
        error: unexpected argument '--relase' found

          tip: a similar argument exists: '--release'

        Usage: runner --local --release <LABEL>

        For more information, try '--help'.
    "#]]
    .assert_eq(&refused.stderr_snapshot());
}

/// A plan whose step may write to a directory.
fn plan_with_writable(dir: &str) -> String {
    format!(
        "version: 1\napp: shop\nsteps:\n  touch:\n    uses: verify\n    with: {{ files: [{{ path: deploy.yml, in: w }}] }}\n    \
         grants: {{ dirs: {{ w: {dir} }} }}\n"
    )
}

#[test]
fn writable_directory_with_state_and_plan_in_it_is_rejected() {
    check_rejected_plan(
        &plan_with_writable("."),
        expect![[r#"
        error[P0115]: directory `w` lets step `touch` write to the plan, deploy.lock and the state folder
         --> deploy.yml:7:26
          |
        7 |     grants: { dirs: { w: . } }
          |                          ^ contains deploy.yml
          hint: grant a folder that the step has for itself, such as `./work`, or add `:ro` to grant it for reading
    "#]],
    );
    // The fixes that the hint names.
    for fixed in ["\".:ro\"", "./work"] {
        let environment = TestEnvironment::with_plan(&plan_with_writable(fixed));
        environment.write("work/deploy.yml", "");
        environment.run(&["--local", "--release", "r1"]).assert_exit(0);
    }
}

#[test]
fn writable_directory_in_the_state_folder_is_rejected() {
    check_rejected_plan(
        &plan_with_writable("./.pawl/shop/default"),
        expect![[r#"
        error[P0115]: directory `w` lets step `touch` write to the state folder
         --> deploy.yml:7:26
          |
        7 |     grants: { dirs: { w: ./.pawl/shop/default } }
          |                          ^^^^^^^^^^^^^^^^^^^^ lies in .pawl/shop
          hint: grant a folder outside of it, such as `./work`, or add `:ro` to grant it for reading
    "#]],
    );
}

#[test]
fn writable_directory_that_reaches_the_state_by_a_link_is_rejected() {
    let environment = TestEnvironment::with_plan(&plan_with_writable("./link"));
    std::os::unix::fs::symlink("..", environment.path("link")).unwrap();
    let reaches_all = ["error[P0115]", "the plan, deploy.lock, the state folder and"];
    for command in [&["--local", "--release", "r1"][..], &["plan", "--release", "r1"], &["doctor", "--release", "r1"]] {
        let refused = environment.run(command);
        refused.assert_exit(2);
        reaches_all.iter().for_each(|text| _ = refused.assert_stderr_contains(text));
    }
    // The plan is a link, and its target lies in the directory.
    let environment = TestEnvironment::with_plan(&plan_with_writable("./shared"));
    environment.write("shared/plan.yml", environment.read("deploy.yml"));
    std::fs::remove_file(environment.path("deploy.yml")).unwrap();
    std::os::unix::fs::symlink("shared/plan.yml", environment.path("deploy.yml")).unwrap();
    environment.run(&["--local", "--release", "r1"]).assert_exit(2).assert_stderr_contains("write to the plan\n");
    // The state lies elsewhere, under a link.
    let environment = TestEnvironment::with_plan(&("state: dir:journals\n".to_owned() + &plan_with_writable("./data")));
    std::fs::create_dir_all(environment.path("data/journals")).unwrap();
    std::os::unix::fs::symlink("data/journals", environment.path("journals")).unwrap();
    environment.run(&["--local", "--release", "r1"]).assert_exit(2).assert_stderr_contains("the state folder");
}
