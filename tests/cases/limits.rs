//! Modules that take too much: memory, stack, log, handles, returned texts. Each ends as a typed failure, and the runner goes on.

use serde_json::{Value, json};

use crate::support::{GuestFixture, GuestOutcome};

fn run_guest(with: Value) -> GuestOutcome {
    GuestFixture::new(with, json!({})).run()
}

#[test]
fn memory_is_bounded() {
    let outcome = run_guest(json!({ "do": "memory" }));
    outcome.assert_failure("limit", "the runner stopped it: it exceeded the memory limit of 256 MiB");
    assert_eq!(outcome.result, "unknown");
}

#[test]
fn recursion_is_bounded() {
    run_guest(json!({ "do": "recurse" })).assert_failure("trap", "its stack overflowed: it recursed too deeply");
}

#[test]
fn panic_message_is_logged() {
    let outcome = run_guest(json!({ "do": "panic", "text": "the reason why" }));
    outcome.assert_failure("trap", "it panicked");
    assert!(outcome.log.iter().any(|line| line.contains("the reason why")), "{outcome:?}");
    assert!(outcome.hint.contains("runner logs"));
}

#[test]
fn wasi_exit_is_not_a_success() {
    run_guest(json!({ "do": "exit" })).assert_failure("trap", "the module crashed");
}

/// Ends by the limit of the log, and what is kept of it is bounded.
fn assert_flood_is_stopped(with: Value) {
    let fixture = GuestFixture::new(with, json!({}));
    fixture.run().assert_failure("limit", "the runner stopped it: it exceeded the");
    let size: usize = fixture
        .environment
        .tree()
        .iter()
        .filter(|(path, _)| path.ends_with("attempt-000001.journal"))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert!(size > 0 && size < 16 << 20, "the journal has {size} bytes");
}

#[test]
fn message_flood_is_stopped() {
    assert_flood_is_stopped(json!({ "do": "log", "text": "x" }));
    assert_flood_is_stopped(json!({ "do": "log", "text": "\u{1}" }));
    assert_flood_is_stopped(json!({ "do": "progress" }));
}

#[test]
fn output_flood_is_stopped_although_the_module_ignores_errors() {
    assert_flood_is_stopped(json!({ "do": "stdout", "text": "a line\n" }));
    assert_flood_is_stopped(json!({ "do": "endless-line", "text": "no line" }));
}

#[test]
fn handles_are_bounded() {
    let outcome = run_guest(json!({ "do": "handles" }));
    outcome.assert_failure("limit", "the runner stopped it: it exceeded the open handle limit of 256");
    let with = json!({ "do": "connections", "name": "main" });
    let ended = GuestFixture::new(with, json!({ "databases": { "main": "sqlite:./main.db" } })).run();
    ended.assert_failure("limit", "open handle limit");
}

#[test]
fn unbounded_random_bytes_are_denied() {
    run_guest(json!({ "do": "random" })).assert_failure("trap", "exceeds limit");
}

#[test]
fn arguments_and_results_are_bounded() {
    run_guest(json!({ "do": "receipt" })).assert_failure("limit", "its outputs are");
    run_guest(json!({ "do": "failure" })).assert_failure("limit", "its failure is");
    run_guest(json!({ "do": "kind" })).assert_failure("limit", "its failure is");
    run_guest(json!({ "do": "hand-over", "program": "/bin/true" })).assert_failure("trap", "fuel");
}

#[test]
fn oversized_change_list_is_not_shown() {
    let fixture = GuestFixture::new(json!({ "do": "many-changes" }), json!({}));
    let preview = fixture.environment.run(&["plan", "--release", "r1"]);
    preview.assert_exit(0);
    assert!(preview.stdout.contains("its list of changes is"), "{}", preview.stdout);
    assert!(preview.stdout.len() < 10_000);
}

#[test]
fn program_output_is_bounded() {
    let with = json!({ "do": "run", "program": "/bin/sh", "args": ["-c", "head -c 1073741824 /dev/zero"] });
    let outcome =
        GuestFixture::new(with, json!({ "programs": [["/bin/sh", "**"]], "env": { "PATH": "/usr/bin:/bin" } })).run();
    assert_eq!(outcome.result, "succeeded", "{outcome:?}");
    assert!(outcome.outputs["stdout"].as_u64().unwrap() <= (1 << 20) + 100, "{outcome:?}");
}

#[test]
fn database_memory_is_bounded() {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) \
               SELECT length(group_concat(b)) FROM (SELECT hex(zeroblob(500000)) AS b FROM n ORDER BY b)";
    let grants = json!({ "databases": { "main": "sqlite:./main.db" } });
    GuestFixture::new(json!({ "do": "query", "name": "main", "sql": sql }), grants).run().assert_failure("limit", "");
}
