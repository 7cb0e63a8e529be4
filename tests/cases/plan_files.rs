//! Which file is the plan: the one that is named, or the only one in the folder; and the commands in hints, which name it if they
//! must.

use std::fs;

use expect_test::expect;

use crate::support::TestEnvironment;

const DEPLOY: [&str; 3] = ["--local", "--release", "r1"];

/// The example, whose plan has another name.
fn with_plan_named(name: &str) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    fs::rename(environment.path("deploy.yml"), environment.path(name)).unwrap();
    environment
}

/// The example with two plans.
fn with_two_plans() -> TestEnvironment {
    let environment = with_plan_named("shop.pawl.yml");
    environment.write("pawl.yml", "version: 1\napp: other\nsteps:\n  verify:\n");
    environment
}

#[test]
fn only_plan_in_the_folder_needs_no_name() {
    for (plan, lock_file) in [("pawl.yml", "pawl.lock"), ("shop.pawl.yml", "shop.pawl.lock")] {
        let environment = with_plan_named(plan);
        let deployed = environment.run(&DEPLOY);
        deployed.assert_exit(0).assert_stderr_contains(&format!("note: wrote {lock_file}, which pins the modules"));
        assert!(!environment.exists("deploy.lock"));
        for command in
            [&["status"][..], &["plan", "--release", "r1"], &["doctor", "--release", "r1"], &["migrate", "status"]]
        {
            environment.run(command).assert_exit(0);
        }
        // A command in a hint is what one would type.
        environment.edit(plan, "link: current", "link: \"${{ steps.pull.pth }}\"");
        environment.run(&DEPLOY).assert_exit(2).assert_stderr_contains(&format!("--> {plan}:"));
        environment.run(&["rollback"]).assert_stderr_contains("add `--local`");
    }
}

#[test]
fn several_plans_are_listed() {
    let environment = with_two_plans();
    let refused = environment.run(&["status", "--steps"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0235]: this folder has 2 plans, and none is named
          caused by: pawl.yml and shop.pawl.yml
          hint: name one: `runner status --steps --plan pawl.yml`
    "#]]
    .assert_eq(&refused.stderr_snapshot());
    environment.run(&["status", "--plan", "shop.pawl.yml"]).assert_exit(0);
    let mut environment = environment;
    environment.set_variable("PAWL_PLAN", "shop.pawl.yml");
    environment.run(&DEPLOY).assert_exit(0);
}

#[test]
fn folder_without_a_plan_is_said_to_have_none() {
    let environment = with_plan_named("shop.yml");
    let refused = environment.run(&["status"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0201]: there is no plan in this folder
          caused by: it has no deploy.yml, pawl.yml or *.pawl.yml
          hint: name the plan with `--plan FILE`, or go to its folder
    "#]]
    .assert_eq(&refused.stderr_snapshot());
}

#[test]
fn hints_name_the_plan_where_the_command_would_read_another() {
    for environment in [with_two_plans(), with_plan_named("shop.pawl.yml")] {
        let must_name = environment.exists("pawl.yml");
        let option = if must_name { " --plan shop.pawl.yml" } else { "" };
        let run = |arguments: &[&str]| environment.run(&[arguments, &["--plan", "shop.pawl.yml"]].concat());
        run(&["modules"]).assert_exit(0);
        let text = run(&["modules"]).stdout;
        let advice = format!("run `runner modules --accept{option}` to write shop.pawl.lock like this");
        assert!(text.contains(&advice), "{text}");
        environment.edit("shop.pawl.yml", "equals: \"${{ release }}\"", "equals: other");
        let failed = run(&DEPLOY);
        failed.assert_exit(1).assert_stderr_contains(&format!("run `runner --local{option} --release r1` again"));
        // A hint that does not come from the command's own line.
        run(&["why", "nothing"]).assert_exit(2).assert_stderr_contains(&format!("`runner history{option}`"));
    }
}

#[test]
fn lock_file_of_the_plan_is_protected() {
    let plan = "version: 1\napp: shop\nsteps:\n  verify:\n    with: { files: [{ path: x, in: w }] }\n    grants: { dirs: { w: . } }\n";
    let environment = with_plan_named("unused.yml");
    environment.write("shop.pawl.yml", plan);
    let refused = environment.run(&DEPLOY);
    refused
        .assert_exit(2)
        .assert_stderr_contains("lets step `verify` write to the plan, shop.pawl.lock and the state folder");
}
