//! A secret that a step was let see, and says in every place and every spelling: it is in no file and in nothing that is printed.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use crate::support::{GuestFixture, RunnerOutput};

/// Secrets, each with what must not be seen of it. In halves too: each half was printed in a message of its own.
fn secrets() -> Vec<(&'static str, Vec<&'static str>)> {
    vec![
        ("hunter2-correct-horse", vec!["hunter2", "correct-horse", "orrect-h"]),
        ("s3cr€t \"pa/ss\"+word\\end", vec!["s3cr", "pa/ss", "r€t"]),
        (
            "-----BEGIN KEY-----\nQUJDREVGR0hJSktM\nTU5PUFFSU1RVVldY\n-----END KEY-----",
            vec!["QUJDREVGR0hJ", "TU5PUFFS", "BEGIN KEY"],
        ),
    ]
}

/// What no text may hold.
fn forbidden_texts(secret: &str, parts: &[&str]) -> Vec<String> {
    let quoted = Value::from(secret).to_string();
    let json = quoted[1..quoted.len() - 1].to_owned();
    let mut forms = vec![secret.to_owned(), json.clone(), json.replace('\\', "\\\\")];
    forms.push(url::form_urlencoded::byte_serialize(secret.as_bytes()).collect());
    forms.push(secret.bytes().map(|byte| format!("%{byte:02X}")).collect());
    forms.push(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
    forms.push(secret.bytes().map(|byte| format!("{byte:02X}")).collect());
    for before in ["", "a", "ab"] {
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            // Without what its neighbours have a part in.
            let digits = engine.encode(format!("{before}{secret}"));
            forms.push(digits[4..digits.len() - 2].to_owned());
        }
    }
    // As wrapped by the step: lines of 16.
    let base64 = STANDARD.encode(secret);
    forms.extend(base64.as_bytes().chunks_exact(16).map(|line| String::from_utf8_lossy(line).into_owned()));
    forms.extend(parts.iter().map(|&part| part.to_owned()));
    forms
}

/// The step says it all and ends so; then everything there is to read is read.
fn check_nothing_leaks(secret: &str, parts: &[&str], end: &str, exit: i32) {
    let with = json!({ "do": "print-secret", "name": "TOKEN", "end": end });
    let mut fixture = GuestFixture::new(with, json!({ "secrets": { "TOKEN": "reveal" } }))
        .with_plan_field("secrets", json!({ "TOKEN": "env:TOKEN" }));
    fixture.environment.set_variable("TOKEN", secret);
    let environment = &fixture.environment;
    let mut outputs: Vec<RunnerOutput> =
        vec![environment.run(&["plan", "--release", "r1"]), environment.run(&["plan", "--release", "r1", "--json"])];
    assert!(outputs[0].stdout.contains("***"), "the preview said it: {}", outputs[0].stdout);
    outputs.push(environment.run(&["--local", "--release", "r1", "-v"]));
    outputs[2].assert_exit(exit);
    if end == "return" {
        // A receipt is recorded as it is, or not at all.
        outputs[2].assert_stderr_contains("error[P0304]");
    }
    outputs.push(environment.run(&["--local", "--release", "r1", "--json", "--fresh"]));
    let more = [
        "why call",
        "why call --json",
        "logs",
        "logs -v",
        "logs --json",
        "status",
        "status --json",
        "history",
        "history --json",
    ];
    outputs.extend(more.map(|line| environment.run(&line.split(' ').collect::<Vec<_>>())));
    let mut texts: Vec<(String, String)> = environment
        .tree()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("module.wasm"))
        .map(|(path, bytes)| (path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()))
        .collect();
    let journal = texts.iter().find(|(path, _)| path.ends_with("attempt-000001.journal")).unwrap();
    for kept in ["it was all said", "said *** so", "said in fields", "split ***", "stream ***"] {
        assert!(journal.1.contains(kept), "{kept:?} is not in\n{}", journal.1);
    }
    for answer in outputs {
        texts.push(("stdout".to_owned(), answer.stdout));
        texts.push(("stderr".to_owned(), answer.stderr));
    }
    for form in forbidden_texts(secret, parts) {
        for (place, text) in &texts {
            if let Some(at) = text.find(&form) {
                let around = text.get(at.saturating_sub(200)..(at + 200).min(text.len())).unwrap_or(text);
                panic!("{form:?} is in {place}: {around}");
            }
        }
    }
}

#[test]
fn secret_in_step_output_appears_nowhere() {
    for (secret, parts) in secrets() {
        check_nothing_leaks(secret, &parts, "return", 1);
    }
}

#[test]
fn secret_in_a_step_failure_appears_nowhere() {
    for (secret, parts) in secrets() {
        check_nothing_leaks(secret, &parts, "fail", 1);
    }
    let (secret, parts) = &secrets()[0];
    check_nothing_leaks(secret, parts, "panic", 1);
}
