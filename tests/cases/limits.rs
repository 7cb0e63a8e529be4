//! Modules that take too much: memory, stack, log, handles, returned texts. Each ends as a typed failure, and the runner goes on.

use serde_json::{Value, json};

use crate::support::{Ended, Trial};

fn run(with: Value) -> Ended {
    Trial::new(with, json!({})).run()
}

#[test]
fn memory_is_bounded() {
    let ended = run(json!({ "do": "memory" }));
    ended.assert("limit", "it was stopped: it asked for more than 256 MiB of memory");
    assert_eq!(ended.result, "unknown");
}

#[test]
fn recursion_is_bounded() {
    run(json!({ "do": "recurse" })).assert("trap", "its stack overflowed: it recurses too deep");
}

#[test]
fn a_panic_says_why_in_the_log() {
    let ended = run(json!({ "do": "panic", "text": "the reason why" }));
    ended.assert("trap", "it panicked");
    assert!(ended.log.iter().any(|line| line.contains("the reason why")), "{ended:?}");
    assert!(ended.hint.contains("runner logs"));
}

#[test]
fn leaving_by_wasi_is_no_success() {
    run(json!({ "do": "exit" })).assert("trap", "the module ended abnormally");
}

/// Ends by the limit of the log, and what is kept of it is bounded.
fn flooded(with: Value) {
    let trial = Trial::new(with, json!({}));
    trial.run().assert("limit", "it was stopped: it asked for more than");
    let size: usize = trial
        .environment
        .tree()
        .iter()
        .filter(|(path, _)| path.ends_with("attempt-000001.journal"))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert!(size > 0 && size < 16 << 20, "the journal has {size} bytes");
}

#[test]
fn a_flood_of_messages_is_stopped() {
    flooded(json!({ "do": "log", "text": "x" }));
    flooded(json!({ "do": "log", "text": "\u{1}" }));
    flooded(json!({ "do": "progress" }));
}

#[test]
fn a_flood_of_output_is_stopped_though_the_module_passes_over_errors() {
    flooded(json!({ "do": "stdout", "text": "a line\n" }));
    flooded(json!({ "do": "endless-line", "text": "no line" }));
}

#[test]
fn handles_are_bounded() {
    let ended = run(json!({ "do": "handles" }));
    ended.assert("limit", "it was stopped: it asked for more than 256 of open handles");
    let with = json!({ "do": "connections", "name": "main" });
    let ended = Trial::new(with, json!({ "databases": { "main": "sqlite:./main.db" } })).run();
    ended.assert("limit", "open handles");
}

#[test]
fn random_bytes_without_end_are_refused() {
    run(json!({ "do": "random" })).assert("trap", "exceeds limit");
}

#[test]
fn what_is_handed_over_and_returned_is_bounded() {
    run(json!({ "do": "receipt" })).assert("limit", "its outputs are");
    run(json!({ "do": "failure" })).assert("limit", "its failure is");
    run(json!({ "do": "kind" })).assert("limit", "its failure is");
    run(json!({ "do": "hand-over", "program": "/bin/true" })).assert("trap", "fuel");
}

#[test]
fn a_long_list_of_changes_is_not_shown() {
    let trial = Trial::new(json!({ "do": "many-changes" }), json!({}));
    let preview = trial.environment.run(&["plan", "--release", "r1"]);
    preview.assert_exit(0);
    assert!(preview.stdout.contains("its list of changes is"), "{}", preview.stdout);
    assert!(preview.stdout.len() < 10_000);
}

#[test]
fn the_output_of_a_program_is_bounded() {
    let with = json!({ "do": "run", "program": "/bin/sh", "args": ["-c", "head -c 1073741824 /dev/zero"] });
    let ended = Trial::new(with, json!({ "programs": [["/bin/sh", "**"]], "env": { "PATH": "/usr/bin:/bin" } })).run();
    assert_eq!(ended.result, "succeeded", "{ended:?}");
    assert!(ended.outputs["stdout"].as_u64().unwrap() <= (1 << 20) + 100, "{ended:?}");
}

#[test]
fn a_database_does_not_take_the_memory_of_the_machine() {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) \
               SELECT length(group_concat(b)) FROM (SELECT hex(zeroblob(500000)) AS b FROM n ORDER BY b)";
    let grants = json!({ "databases": { "main": "sqlite:./main.db" } });
    Trial::new(json!({ "do": "query", "name": "main", "sql": sql }), grants).run().assert("limit", "");
}
