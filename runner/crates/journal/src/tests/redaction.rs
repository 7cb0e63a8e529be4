//! No secret reaches a text of the file, in any record and any spelling, and the file stays readable.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;
use contract::{Secret, hash::canonical_json};

const VALUE: &str = "s3cr€t \"pa/ss\"+word\\end";

/// The value in every spelling, within other text.
fn every_spelling() -> String {
    let json = Value::String(VALUE.to_owned()).to_string();
    let url: String = url::form_urlencoded::byte_serialize(VALUE.as_bytes()).collect();
    let base64: Vec<_> =
        ["", "a", "ab"].iter().map(|before| STANDARD.encode(format!("{before}{VALUE}after"))).collect();
    format!("{VALUE} {json} {url} {}", base64.join(" "))
}

/// Writes an event of every kind with `text` in every free text, and returns the file.
fn journal_with_text_everywhere(folder: &Path, text: &str, redactor: Redactor) -> String {
    let text = || text.to_owned();
    let map = || object(json!({ "a": { text(): [text(), 1] } }));
    let receipt = || receipt(json!({ "path": "releases/1.4.0" }));
    let failure =
        || StepFailure { kind: text().into(), message: text(), hint: Some(text()), retryable: true, details: map() };
    let by = JournalHeader { by: text(), ..header(1, AttemptNumber::FIRST) };
    let (pull, took) = (step_target("pull"), Duration::ZERO);
    let mut journal =
        Journal::create(&path(folder, 1), by, LoadedJournals::default(), redactor, Box::new(|_| {})).unwrap();
    let planned = PlanStepRecord { step_target: pull.clone(), uses: text(), phase: StepPhase::Prepare, exposes: false };
    journal
        .record_note(JournalNote::Plan { digest: Blake3Hash::of(b"plan"), path: text(), steps: vec![planned] })
        .unwrap();
    journal.record_note(JournalNote::Lock { resource: "shop/prod".to_owned(), holder: text() }).unwrap();
    journal
        .record_note(JournalNote::Override {
            option: "only".to_owned(),
            step: Some("pull".parse().unwrap()),
            hosts: None,
        })
        .unwrap();
    for progress in [
        StepProgress::Log { level: MessageLevel::Info, message: text(), fields: map() },
        StepProgress::Meter { task: text(), done: 1, total: Some(2), unit: text() },
    ] {
        journal.record_note(JournalNote::Progress { step_target: pull.clone(), progress }).unwrap();
    }
    for finding in [
        ProbeFinding::Held { receipt: receipt() },
        ProbeFinding::Drifted { why: text() },
        ProbeFinding::Unknown { why: text() },
        ProbeFinding::Failed { failure: failure() },
    ] {
        journal.record_probe(&pull, ProbeInput::Current, took, finding).unwrap();
    }
    for reason in [
        DecisionReason::Drifted { why: text() },
        DecisionReason::DriftAccepted { why: text() },
        DecisionReason::Unknown { why: text() },
        DecisionReason::Interrupted { finding: Some(text().into()) },
        DecisionReason::CheckFailed { why: text() },
        DecisionReason::ProbeFailed { message: text() },
    ] {
        journal.record_decision(&pull, Decision::Run { reason: reason.clone() }).unwrap();
        journal.record_decision(&pull, Decision::Stop { reason: reason.clone() }).unwrap();
        journal.record_decision(&pull, Decision::Skip { reason, receipt: receipt() }).unwrap();
    }
    for result in [
        StepOutcome::Failed { failure: failure() },
        StepOutcome::Succeeded { receipt: receipt() },
        StepOutcome::Unknown { failure: failure() },
    ] {
        let intent = journal
            .record_intent(&pull, "key", fingerprint("pull"), json!({ "config": {} }), StepEffect::Mutating)
            .unwrap();
        journal.record_outcome(intent.complete(result, took)).unwrap();
    }
    let reason = DecisionReason::Interrupted { finding: Some(text().into()) };
    journal.record_decision(&pull, Decision::Adopt { reason, receipt: receipt() }).unwrap();
    let undo = journal.record_undo_intent(&pull).unwrap();
    journal.record_undo_outcome(undo.complete(Some(failure()))).unwrap();
    journal.record_end(ExitKind::Failed, false).unwrap();
    let read = load(&[path(folder, 1)]).unwrap();
    assert_eq!(&read.state, journal.state());
    fs::read_to_string(path(folder, 1)).unwrap()
}

/// Every text of a JSON value, keys included.
fn texts(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, into)),
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            into.push(key.clone());
            texts(value, into);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[test]
fn no_record_of_any_kind_holds_a_secret_in_any_spelling() {
    let folder = tempfile::tempdir().unwrap();
    let file =
        journal_with_text_everywhere(folder.path(), &every_spelling(), Redactor::new([&Secret::new(VALUE.to_owned())]));
    let mut all = vec![file.clone()];
    for line in file.lines() {
        texts(&serde_json::from_str(&line[9..]).unwrap(), &mut all);
    }
    // Pieces of the value that appear nowhere else, for every spelling in the text.
    let base64 = ["", "a", "ab"].map(|before| STANDARD.encode(format!("{before}{VALUE}"))[4..16].to_owned());
    for piece in ["s3cr", "pa/ss", "pa%2Fss", "word"].into_iter().chain(base64.iter().map(String::as_str)) {
        assert!(every_spelling().contains(piece), "{piece} tests nothing");
        for text in &all {
            assert!(!text.contains(piece), "{piece} is in {text}");
        }
    }
    // The test can fail: without a redactor, the secret is in the file.
    let bare = tempfile::tempdir().unwrap();
    assert!(journal_with_text_everywhere(bare.path(), &every_spelling(), Redactor::default()).contains("pa%2Fss"));
}

#[test]
fn words_of_the_journal_stay_even_if_a_secret_equals_them() {
    let words =
        ["intent", "local", "pull", "shop", "prod", "started", "outcome", "succeeded", "failed", "pawl-journal"];
    let secrets: Vec<_> = words.map(|word| Secret::new(word.to_owned())).into();
    let (folder, bare) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let redacted = journal_with_text_everywhere(folder.path(), "of intent in prod", Redactor::new(&secrets));
    let plain = journal_with_text_everywhere(bare.path(), "of intent in prod", Redactor::default());
    // Both files are equal, except for the texts, the hashes and the times.
    let strip = |file: &str, text: &str| -> Vec<Value> {
        let parse = |line: &str| {
            let mut entry: Value = serde_json::from_str(&line[9..].replace(text, "TEXT")).unwrap();
            for member in ["prev", "at"] {
                entry[member].take();
            }
            canonical_json(&entry)
        };
        file.lines().map(parse).collect()
    };
    assert_eq!(strip(&redacted, "of *** in ***"), strip(&plain, "of intent in prod"));
    assert!(redacted.contains("of *** in ***") && !redacted.contains("of intent"));
}

#[test]
fn a_truncated_text_contains_no_part_of_a_secret() {
    let secret = "0123456789abcdefghijklmnopqrstuvwxyz";
    for before in 4040..4110 {
        let folder = tempfile::tempdir().unwrap();
        let redactor = Redactor::new([&Secret::new(secret.to_owned())]);
        let mut journal = begin(folder.path(), 1, AttemptNumber::FIRST, redactor);
        let dots = |count| ".".repeat(count);
        let message = format!("{}{secret}{}{secret}{}", dots(before), dots(9000), dots(before));
        log_message(&mut journal, "pull", &message);
        let text = fs::read_to_string(path(folder.path(), 1)).unwrap();
        let line = text.lines().last().unwrap();
        assert!(line.contains(" bytes …]"), "it was cut");
        for piece in ["0123", "efgh", "wxyz"] {
            let message = line.split_once("\"message\"").unwrap().1;
            assert!(!message.contains(piece), "{piece} is left at {before}");
        }
    }
}
