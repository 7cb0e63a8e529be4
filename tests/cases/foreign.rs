//! Files that are no step, or not one for this runner: each is told what it is, why it is not taken, and what to do.

use expect_test::{Expect, expect};

use crate::support::Environment;

const PLAN: &str = "version: 1\napp: shop\nsteps:\n  warm:\n    uses: ./warm.wasm\n";

/// What is said of a file that a plan uses.
fn check(file: impl AsRef<[u8]>, expected: Expect) {
    let environment = Environment::with_plan(PLAN);
    environment.write("warm.wasm", file);
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2).assert_says("--> deploy.yml:4:3");
    assert!(!environment.exists(".pawl"), "nothing was begun");
    // Only the error itself: the excerpt is the same each time.
    let said = refused.said();
    let lines = said.lines().filter(|line| line.contains(": ")).map(|line| format!("{}\n", line.trim()));
    expected.assert_eq(&lines.collect::<String>());
}

/// A component with some imports that exports the contract's five functions, or others.
fn component(imports: &str, interface: &str, functions: &[&str]) -> Vec<u8> {
    let functions: String = functions.iter().map(|name| format!("(export \"{name}\" (func $f))")).collect();
    let text = format!(
        "(component {imports}
            (core module $m (func (export \"f\")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i \"f\")))
            (instance $step {functions})
            (export \"{interface}\" (instance $step)))"
    );
    wat::parse_str(text).unwrap()
}

const FIVE: [&str; 5] = ["describe", "preview", "apply", "probe", "revert"];

fn importing(import: &str, function: &str) -> Vec<u8> {
    let imports = format!("(import \"{import}\" (instance (export \"{function}\" (func))))");
    component(&imports, "pawl:step/step@0.1.0", &FIVE)
}

#[test]
fn an_empty_file() {
    check("", expect![[""]]);
}

#[test]
fn a_source_text() {
    check("export const step = {};\n", expect![[""]]);
}

#[test]
fn a_core_module_without_the_contract() {
    check(wat::parse_str("(module (func (export \"apply\")))").unwrap(), expect![[""]]);
}

#[test]
fn a_program_of_the_old_wasi() {
    let text =
        "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i32))) (func (export \"_start\")))";
    check(wat::parse_str(text).unwrap(), expect![[""]]);
}

#[test]
fn a_program() {
    check(component("", "wasi:cli/run@0.2.6", &["run"]), expect![[""]]);
}

#[test]
fn a_component_of_something_else() {
    check(component("", "acme:plugin/render@1.0.0", &["draw"]), expect![[""]]);
}

#[test]
fn a_missing_export() {
    check(component("", "pawl:step/step@0.1.0", &["describe", "apply"]), expect![[""]]);
}

#[test]
fn an_export_of_the_wrong_type() {
    check(component("", "pawl:step/step@0.1.0", &FIVE), expect![[""]]);
}

#[test]
fn a_contract_that_this_runner_does_not_have() {
    check(component("", "pawl:step/step@0.2.0", &FIVE), expect![[""]]);
    check(importing("pawl:step/report@0.2.0", "metric"), expect![[""]]);
}

#[test]
fn a_newer_contract_of_which_this_runner_lacks_a_function() {
    check(importing("pawl:step/log@0.1.9", "metric"), expect![[""]]);
    check(importing("pawl:step/report@0.1.9", "metric"), expect![[""]]);
}

#[test]
fn interfaces_that_no_step_has() {
    check(importing("wasi:http/outgoing-handler@0.2.6", "handle"), expect![[""]]);
    check(importing("wasi:clocks/monotonic-clock@0.3.0", "now"), expect![[""]]);
    check(importing("wasi:keyvalue/store@0.2.0-draft", "open"), expect![[""]]);
    check(importing("acme:host/api", "call"), expect![[""]]);
}
