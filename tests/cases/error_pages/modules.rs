//! Errors of modules: files that are no steps, pins, and registries.

use super::check_page;
use crate::support::{
    DockerRegistry, TestEnvironment, TestRegistryAuth,
    doc_blocks::{check_error_page, exit_code},
};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];

/// A plan with one step that uses `uses`.
fn warm_environment(uses: &str) -> TestEnvironment {
    TestEnvironment::with_plan(&format!(
        "version: 1\napp: shop\nsteps:\n  warm:\n    uses: {uses}\n    with: {{ files: [{{ path: VERSION }}], tries: 1 }}\n    \
         grants: {{ dirs: {{ app: \"./app:ro\" }} }}\n"
    ))
}

fn warm_environment_with_module(module: &[u8]) -> TestEnvironment {
    let environment = warm_environment("./steps/warm.wasm");
    environment.write("steps/warm.wasm", module);
    environment
}

#[test]
fn p0125_not_a_step_module() {
    check_page("P0125", &warm_environment_with_module(b"export const step = {};\n"), DEPLOY);
}

#[test]
fn p0126_incompatible_module() {
    let functions = ["describe", "preview", "apply", "probe", "revert"];
    let exports: String = functions.iter().map(|name| format!("(export \"{name}\" (func $f))")).collect();
    let text = format!(
        "(component (import \"pawl:step/log@0.1.9\" (instance (export \"metric\" (func))))
            (core module $m (func (export \"f\")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i \"f\")))
            (instance $step {exports})
            (export \"pawl:step/step@0.1.0\" (instance $step)))"
    );
    check_page("P0126", &warm_environment_with_module(&wat::parse_str(text).unwrap()), DEPLOY);
}

#[test]
fn p0127_module_missing_from_the_lock_file() {
    let mut environment = warm_environment_with_module(&TestEnvironment::component("verify"));
    environment.write("deploy.lock", "{\"version\": 1, \"modules\": {}}");
    environment.set_variable("CI", "true");
    check_page("P0127", &environment, &["--release", "r1"]);
}

#[test]
fn p0128_unreadable_lock_file() {
    let environment = warm_environment_with_module(&TestEnvironment::component("verify"));
    environment.write("deploy.lock", "<<<<<<< ours\n");
    check_page("P0128", &environment, DEPLOY);
}

#[test]
fn p0129_module_that_cannot_be_fetched() {
    let registry = DockerRegistry::start(TestRegistryAuth::Basic);
    let uses = registry.push("steps/warm", &[("application/wasm", &TestEnvironment::component("verify"))]);
    let environment = warm_environment(&uses);
    let rejected = environment.run(DEPLOY);
    rejected.assert_exit(exit_code("P0129"));
    let shown = [environment.shown_paths(), vec![(registry.authority(), "registry.example.com")]].concat();
    check_error_page("P0129", None, &rejected.stderr, &shown);
}

#[test]
fn p0130_module_that_differs_from_the_lock_file() {
    let environment = warm_environment_with_module(&TestEnvironment::component("verify"));
    environment.run(DEPLOY).assert_exit(0);
    // A custom section more.
    environment.write("steps/warm.wasm", [&TestEnvironment::component("verify")[..], b"\x00\x02\x01x"].concat());
    check_page("P0130", &environment, DEPLOY);
}
