//! Errors of the plan. Where a page begins with a plan, that plan is the scenario.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{check_error, check_page};
use crate::support::{
    TestEnvironment,
    doc_blocks::{error_page_codes, fenced_blocks, page_path},
};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];

/// The plan that a page has as its example.
fn plan_of_page(code: &str) -> Option<String> {
    let page = fs::read_to_string(page_path(&format!("docs/errors/{code}.md"))).unwrap();
    let example =
        page.split_once("\n## An example\n").and_then(|(_, rest)| rest.split_once("\n## What to do\n"))?.0.to_owned();
    let plan = example.split_once("```yaml\n")?.1.split_once("```")?.0;
    Some(plan.to_owned())
}

/// Whether the plan on the page is its scenario.
pub(super) fn has_plan(code: &str) -> bool {
    plan_of_page(code).is_some()
}

#[test]
fn plans_on_pages_cause_their_errors() {
    for code in error_page_codes() {
        let Some(plan) = plan_of_page(&code) else { continue };
        let environment = TestEnvironment::with_plan(&plan);
        let rejected = environment.run(DEPLOY);
        assert!(!environment.exists(".pawl"), "nothing was begun");
        check_error(&code, &environment, &rejected);
    }
}

#[test]
fn corrected_plans_on_pages_no_longer_cause_their_errors() {
    let mut count = 0;
    for code in error_page_codes() {
        let page = fs::read_to_string(page_path(&format!("docs/errors/{code}.md"))).unwrap();
        let (_, advice) = page.split_once("\n## What to do\n").unwrap();
        for plan in fenced_blocks(advice).into_iter().filter(|block| block.language == "yaml") {
            let output = TestEnvironment::with_plan(&plan.text).run(DEPLOY);
            assert!(!output.stderr.contains(&format!("error[{code}]")), "{code}:\n{}{}", plan.text, output.stderr);
            count += 1;
        }
    }
    assert!(count >= 15, "{count} corrected plans");
}

#[test]
fn p0102_empty_plan() {
    check_page("P0102", &TestEnvironment::with_plan("# to be written\n"), DEPLOY);
}

#[test]
fn p0120_unknown_module() {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "uses: pull", "uses: ftech");
    check_page("P0120", &environment, DEPLOY);
}

#[test]
fn p0121_invalid_configuration() {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "tries: 1", "tries: \"3\"");
    check_page("P0121", &environment, DEPLOY);
}

#[test]
fn p0122_missing_grant() {
    let environment = TestEnvironment::new();
    environment.edit("deploy.yml", "      databases: { main: \"sqlite:${{ vars.root }}/shop.db\" }\n", "");
    check_page("P0122", &environment, DEPLOY);
}

#[test]
fn p0123_prepare_step_after_a_commit_step() {
    let environment = TestEnvironment::new();
    let plan = environment.read("deploy.yml");
    let (before, rest) = plan.split_once("  pull:\n").unwrap();
    let (pull, after) = rest.split_once("  migrate:\n").unwrap();
    environment.write("deploy.yml", format!("{before}  migrate:\n{after}  pull:\n{pull}"));
    check_page("P0123", &environment, DEPLOY);
}

#[test]
fn p0131_module_that_hooks_cannot_use() {
    let environment = TestEnvironment::new();
    let hook = "hooks:\n  after:\n    - link: { uses: switch, with: { link: current }, grants: { dirs: { app: \"${{ vars.root }}\" } } }\n";
    environment.write("deploy.yml", environment.read("deploy.yml") + hook);
    environment.pack("r1");
    check_page("P0131", &environment, DEPLOY);
}

#[test]
fn p0225_secret_in_a_recorded_value() {
    let mut environment = TestEnvironment::new();
    environment.edit("deploy.yml", "app: shop\n", "app: shop\nsecrets: { CUSTOMER: env:CUSTOMER }\n");
    environment.edit("deploy.yml", "link: current", "link: \"${{ env.CUSTOMER }}\"");
    environment.set_variable("CUSTOMER", "acme-bakery");
    environment.pack("r1");
    check_page("P0225", &environment, DEPLOY);
}

#[test]
fn p0234_wrong_version_of_a_program() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    environment.write("tools/node", "#!/bin/sh\necho v18.19.0\n");
    fs::set_permissions(environment.path("tools/node"), fs::Permissions::from_mode(0o755)).unwrap();
    let tools = environment.path("tools").display().to_string();
    let step = format!(
        "  build:\n    uses: run\n    trust: host\n    with:\n      program: /usr/bin/env\n      requires: [{{ program: node, version: \">=20\" }}]\n    \
         grants: {{ programs: [/usr/bin/env, [node, --version]], env: {{ PATH: {tools} }} }}\n"
    );
    environment.edit("deploy.yml", "  switch:\n", &format!("{step}  switch:\n"));
    check_page("P0234", &environment, DEPLOY);
}
