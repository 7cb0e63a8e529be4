//! Files that are no step, or not one for this runner: each is told what it is, why it is not taken, and what to do.

use expect_test::{Expect, expect};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::support::TestEnvironment;

const PLAN: &str = "version: 1\napp: shop\nsteps:\n  warm:\n    uses: ./warm.wasm\n";

/// What is said of a file that a plan uses.
fn check_rejected_module(file: impl AsRef<[u8]>, expected: Expect) {
    let environment = TestEnvironment::with_plan(PLAN);
    environment.write("warm.wasm", file);
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    let is_marked = ["4:3", "5:11"].iter().any(|place| refused.stderr.contains(&format!("--> deploy.yml:{place}\n")));
    assert!(is_marked, "neither the step nor its module is marked:\n{}", refused.stderr);
    assert!(!environment.exists(".pawl"), "nothing was begun");
    // Only the error itself: the excerpt is the same each time.
    let stderr = refused.stderr_snapshot();
    let is_error = |line: &&str| line.contains(": ") && !line.contains(" | ");
    let lines = stderr.lines().filter(is_error).map(|line| format!("{}\n", line.trim()));
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

const STEP_FUNCTIONS: [&str; 5] = ["describe", "preview", "apply", "probe", "revert"];

fn component_importing(import: &str, function: &str) -> Vec<u8> {
    let imports = format!("(import \"{import}\" (instance (export \"{function}\" (func))))");
    component(&imports, "pawl:step/step@0.1.0", &STEP_FUNCTIONS)
}

#[test]
fn empty_file_is_rejected() {
    check_rejected_module(
        "",
        expect![[r#"
        error[P0125]: [ROOT]/shop/warm.wasm is not a step module
        caused by: the file is empty
        hint: build it again; the build that wrote it did not finish
    "#]],
    );
}

#[test]
fn source_text_is_rejected() {
    check_rejected_module(
        "export const step = {};\n",
        expect![[r#"
        error[P0125]: [ROOT]/shop/warm.wasm is not a step module
        caused by: it is not WebAssembly: it begins with `export const ste`
        hint: point `uses` at the .wasm that the build wrote, not at its source; see docs/steps.md
    "#]],
    );
}

#[test]
fn core_module_without_the_contract_is_rejected() {
    check_rejected_module(
        wat::parse_str("(module (func (export \"apply\")))").unwrap(),
        expect![[r#"
        error[P0125]: [ROOT]/shop/warm.wasm is not a step module
        caused by: it is a core module without the step contract
        hint: export the contract: start with `runner new-step`; see docs/steps.md
    "#]],
    );
}

#[test]
fn wasi_preview1_program_is_rejected() {
    let text =
        "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i32))) (func (export \"_start\")))";
    check_rejected_module(
        wat::parse_str(text).unwrap(),
        expect![[r#"
        error[P0125]: [ROOT]/shop/warm.wasm is not a step module
        caused by: it is a core module for the old WASI (`wasi_snapshot_preview1`)
        hint: in Rust, build for wasm32-unknown-unknown; in another language, build a component with its tools; see docs/steps.md
    "#]],
    );
}

#[test]
fn command_component_is_rejected() {
    check_rejected_module(
        component("", "wasi:cli/run@0.2.6", &["run"]),
        expect![[r#"
        error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
        caused by: it is a program (`wasi:cli/run`), not a step
        hint: export the five functions of the contract: start with `runner new-step`; see docs/steps.md
    "#]],
    );
}

#[test]
fn component_with_another_export_is_rejected() {
    check_rejected_module(
        component("", "acme:plugin/render@1.0.0", &["draw"]),
        expect![[r#"
        error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
        caused by: it exports `acme:plugin/render@1.0.0`, not `pawl:step/step`
        hint: export the five functions of the contract: start with `runner new-step`; see docs/steps.md
    "#]],
    );
}

#[test]
fn missing_export_is_rejected() {
    check_rejected_module(
        component("", "pawl:step/step@0.1.0", &["describe", "apply"]),
        expect![[r#"
            error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
            caused by: its `pawl:step/step` is missing `preview`, `probe`, `revert`
            hint: export all five functions; a `probe` that can't tell returns `unknown`; see docs/steps.md
        "#]],
    );
}

#[test]
fn export_of_the_wrong_type_is_rejected() {
    check_rejected_module(
        component("", "pawl:step/step@0.1.0", &STEP_FUNCTIONS),
        expect![[r#"
        error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
        caused by: its `describe` has the type `func()`; the contract requires `func() -> string`
        hint: rebuild it with the contract of this runner: `runner new-step` writes it
    "#]],
    );
}

#[test]
fn unsupported_contract_version_is_rejected() {
    check_rejected_module(
        component("", "pawl:step/step@0.2.0", &STEP_FUNCTIONS),
        expect![[r#"
            error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
            caused by: it was built for pawl:step 0.2.0; this runner offers 0.1.2
            hint: rebuild it with the contract of this runner (`runner new-step` writes it), or use the runner that it was built for
        "#]],
    );
    check_rejected_module(
        component_importing("pawl:step/report@0.2.0", "metric"),
        expect![[r#"
            error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
            caused by: it was built for pawl:step 0.2.0; this runner offers 0.1.2
            hint: rebuild it with the contract of this runner (`runner new-step` writes it), or use the runner that it was built for
        "#]],
    );
}

#[test]
fn newer_contract_with_a_missing_function_is_rejected() {
    check_rejected_module(
        component_importing("pawl:step/log@0.1.9", "metric"),
        expect![[r#"
            error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
            caused by: it needs pawl:step 0.1.9 `log.metric`; this runner offers 0.1.2
            hint: use a newer runner, or build it for pawl:step 0.1.2
        "#]],
    );
    check_rejected_module(
        component_importing("pawl:step/report@0.1.9", "metric"),
        expect![[r#"
            error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
            caused by: it needs pawl:step 0.1.9 `report`; this runner offers 0.1.2
            hint: use a newer runner, or build it for pawl:step 0.1.2
        "#]],
    );
}

#[test]
fn unsupported_imports_are_rejected() {
    check_rejected_module(
        component_importing("wasi:http/outgoing-handler@0.2.6", "handle"),
        expect![[r#"
            error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
            caused by: it needs `wasi:http/outgoing-handler`, which a step can't import
            hint: send requests through `pawl:step/http`, which applies grants and credentials; in JavaScript, build with `disableFeatures: ['http', 'fetch-event']`
        "#]],
    );
    check_rejected_module(
        component_importing("wasi:clocks/monotonic-clock@0.3.0", "now"),
        expect![[r#"
            error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
            caused by: it needs wasi:clocks 0.3.0; this runner offers WASI 0.2
            hint: build it with tools that produce WASI 0.2 components
        "#]],
    );
    check_rejected_module(
        component_importing("wasi:keyvalue/store@0.2.0-draft", "open"),
        expect![[r#"
            error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
            caused by: it needs `wasi:keyvalue/store@0.2.0-draft`, which this runner does not offer
            hint: import only pawl:step 0.1.2 (types, log, blobs, database, migrations, secrets, process, http, tcp, files, socket, types, log, blobs, database, migrations, secrets, process, http, tcp, files, socket) and WASI 0.2; see docs/steps.md
        "#]],
    );
    check_rejected_module(
        component_importing("acme:host/api", "call"),
        expect![[r#"
            error[P0126]: [ROOT]/shop/warm.wasm is not compatible with this runner
            caused by: it needs `acme:host/api`, which this runner does not offer
            hint: import only pawl:step 0.1.2 (types, log, blobs, database, migrations, secrets, process, http, tcp, files, socket, types, log, blobs, database, migrations, secrets, process, http, tcp, files, socket) and WASI 0.2; see docs/steps.md
        "#]],
    );
}

/// A module whose `describe` does this.
fn module_describing(body: &str, text: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("step.wit", include_str!("../../wit/step.wit")).unwrap();
    let world = resolve.packages[package].worlds["module"];
    let exported = resolve.id_of_name(package, "step");
    let data: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let others = [("preview", 2), ("apply", 2), ("probe", 2), ("revert", 6)].map(|(name, count)| {
        let parameters = "i32 ".repeat(count);
        format!("(func (export \"{exported}#{name}\") (param {parameters}) (result i32) unreachable)")
    });
    let text = format!(
        "(module (memory (export \"memory\") 1) (data (i32.const 64) \"{data}\")
           (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
           (func (export \"{exported}#describe\") (result i32) {body}
             (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const {}))
             (i32.const 16))
           {})",
        text.len(),
        others.concat(),
    );
    let mut core = wat::parse_str(text).unwrap();
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).unwrap();
    core
}

#[test]
fn description_that_is_not_json_is_rejected() {
    check_rejected_module(
        module_describing("", "a step"),
        expect![[r#"
        error[P0125]: the module of step `warm` returned an invalid description
        caused by: can't parse the description: expected value at line 1 column 1
        hint: return the JSON object that docs/steps.md shows; the SDK and the templates write it
    "#]],
    );
}

#[test]
fn description_without_a_phase_is_rejected() {
    let text = r#"{"name": "warm", "version": "1", "summary": "warms", "config": {}}"#;
    check_rejected_module(
        module_describing("", text),
        expect![[r#"
        error[P0125]: the module of step `warm` returned an invalid description
        caused by: can't parse the description: missing field `phase` at line 1 column 66
        hint: return the JSON object that docs/steps.md shows; the SDK and the templates write it
    "#]],
    );
}

#[test]
fn description_with_an_invalid_schema_is_rejected() {
    let text = r#"{"name": "warm", "version": "1", "summary": "warms", "phase": "commit", "config": {"type": 5}}"#;
    check_rejected_module(
        module_describing("", text),
        expect![[r#"
        error[P0125]: the module of step `warm` returned an invalid description
        caused by: the `config` in its description is not a JSON Schema: 5 is not valid under any of the schemas listed in the 'anyOf' keyword
        hint: make `config` a JSON Schema of the step's `with:`; docs/steps.md shows one
    "#]],
    );
}

#[test]
fn describe_that_traps_is_rejected() {
    check_rejected_module(
        module_describing("unreachable", ""),
        expect![[r#"
        error[P0125]: the module of step `warm` returned an invalid description
        caused by: its `describe` failed: the module crashed: it panicked
        hint: make `describe` work without grants or input, and always return the same; see docs/steps.md
    "#]],
    );
}
