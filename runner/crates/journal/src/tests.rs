//! The journal as a whole: written journals are read back, and files of the first format are still read.

mod control_values;
mod corruption;
mod limits;
mod redaction;
mod snapshot;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use expect_test::expect;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{
    FindingSummary, Journal, JournalError, JournalState, LoadedJournals, RecordStatus, Redactor, StepTarget,
    event::{
        Decision, DecisionReason, FORMAT, Fingerprint, JournalEntry, JournalEvent, JournalHeader, MAGIC,
        PlanStepRecord, ProbeInput, Release,
    },
    file::{JournalNote, JournalObservation, StepEffect},
    line,
};
use contract::{
    AttemptNumber,
    diagnostic::{Diagnostic, ExitKind},
};
use contract::{
    hash::Blake3Hash,
    step::{FailureKind, MessageLevel, ProbeFinding, Receipt, StepFailure, StepOutcome, StepPhase, StepProgress},
};

/// Parses a step on a target: `step`, or `step@target`.
fn step_target(name: &str) -> StepTarget {
    let (step, target) = name.split_once('@').unwrap_or((name, "local"));
    StepTarget { step: step.parse().unwrap(), target: target.parse().unwrap() }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn receipt(outputs: Value) -> Receipt {
    Receipt { outputs: object(outputs), notes: object(json!({ "took": 12 })) }
}

fn fingerprint(text: &str) -> Fingerprint {
    Fingerprint([("config".to_owned(), Blake3Hash::of(text.as_bytes()))].into())
}

fn header(epoch: u64, attempt: AttemptNumber) -> JournalHeader {
    JournalHeader {
        magic: MAGIC.to_owned(),
        format: FORMAT,
        app: "shop".parse().unwrap(),
        environment: "prod".parse().unwrap(),
        run: "r1-k3x9".parse().unwrap(),
        attempt,
        epoch,
        release: Release { label: "1.4.0".parse().unwrap(), digest: Some("ab".repeat(32).parse().unwrap()) },
        runner: "0.1.0".to_owned(),
        by: "ada@build-7".to_owned(),
        commit: None,
        url: None,
        machine: None,
    }
}

fn path(folder: &Path, epoch: u64) -> PathBuf {
    folder.join(format!("attempt-{epoch:06}.journal"))
}

fn load(paths: &[PathBuf]) -> Result<LoadedJournals, JournalError> {
    LoadedJournals::read(paths, |_| {})
}

/// Begins a new attempt after the journals in the folder.
fn begin(folder: &Path, epoch: u64, attempt: AttemptNumber, redactor: Redactor) -> Journal {
    let before: Vec<_> = (1..=epoch).map(|epoch| path(folder, epoch)).filter(|path| path.exists()).collect();
    let loaded = load(&before).unwrap();
    Journal::create(&path(folder, epoch), header(epoch, attempt), loaded, redactor, Box::new(|_| {})).unwrap()
}

fn act(journal: &mut Journal, name: &str, effect: StepEffect, result: StepOutcome) {
    let intent =
        journal.record_intent(&step_target(name), "key", fingerprint(name), json!({ "step": name }), effect).unwrap();
    journal.record_outcome(intent.complete(result, Duration::from_millis(40))).unwrap();
}

fn log_message(journal: &mut Journal, name: &str, message: &str) {
    let progress = StepProgress::Log { level: MessageLevel::Info, message: message.to_owned(), fields: Map::new() };
    journal.record_note(JournalNote::Progress { step_target: step_target(name), progress }).unwrap();
}

/// Writes two attempts of at least 50 lines: the first is killed while `migrate` runs, the second adopts it, fails its check
/// and undoes the switch.
fn two_attempts(folder: &Path) -> [PathBuf; 2] {
    let mut journal = begin(folder, 1, AttemptNumber::FIRST, Redactor::default());
    journal
        .record_note(JournalNote::Lock { resource: "shop/prod".to_owned(), holder: "ada@build-7".to_owned() })
        .unwrap();
    for host in ["local", "web-1", "web-2"] {
        let name = format!("pull@{host}");
        journal.record_decision(&step_target(&name), Decision::Run { reason: DecisionReason::NeverRan }).unwrap();
        log_message(&mut journal, &name, "downloading");
        act(
            &mut journal,
            &name,
            StepEffect::Mutating,
            StepOutcome::Succeeded { receipt: receipt(json!({ "path": "/srv/1.4.0" })) },
        );
    }
    for line in 0..12 {
        log_message(&mut journal, "migrate", &format!("{line}.sql"));
    }
    let _killed = journal
        .record_intent(&step_target("migrate"), "key", fingerprint("migrate"), json!({}), StepEffect::Mutating)
        .unwrap();

    let mut journal = begin(folder, 2, AttemptNumber::FIRST.next(), Redactor::default());
    let found = receipt(json!({ "applied": 12 }));
    let finding = ProbeFinding::Held { receipt: found.clone() };
    let took = Duration::from_millis(3);
    journal.record_probe(&step_target("migrate"), ProbeInput::Recorded, took, finding).unwrap();
    let reason = DecisionReason::Interrupted { finding: Some(FindingSummary::Held) };
    journal.record_decision(&step_target("migrate"), Decision::Adopt { reason, receipt: found }).unwrap();
    for host in ["local", "web-1", "web-2"] {
        log_message(&mut journal, &format!("switch@{host}"), "switching");
        act(
            &mut journal,
            &format!("switch@{host}"),
            StepEffect::Exposing,
            StepOutcome::Succeeded { receipt: receipt(json!({})) },
        );
        act(
            &mut journal,
            &format!("verify@{host}"),
            StepEffect::ReadOnly,
            StepOutcome::Failed { failure: StepFailure::new(FailureKind::Conflict, "502") },
        );
    }
    for host in ["web-2", "web-1", "local"] {
        let undo = journal.record_undo_intent(&step_target(&format!("switch@{host}"))).unwrap();
        journal.record_undo_outcome(undo.complete(None)).unwrap();
    }
    journal.record_end(ExitKind::RolledBack, false).unwrap();
    [path(folder, 1), path(folder, 2)]
}

/// The status of each step, one per line.
fn status_lines(state: &JournalState) -> String {
    let word = |status: &RecordStatus| match status {
        RecordStatus::Intended => "intended".to_owned(),
        RecordStatus::Succeeded(receipt) => format!("succeeded {}", Value::Object(receipt.outputs.clone())),
        RecordStatus::Failed(failure) => format!("failed: {}", failure.message),
        RecordStatus::Undoing(receipt) => {
            format!("undoing, {} receipt", if receipt.is_some() { "with" } else { "without" })
        }
        RecordStatus::Reverted => "reverted".to_owned(),
    };
    state.records.iter().map(|(step_target, record)| format!("{step_target}: {}\n", word(&record.status))).collect()
}

#[test]
fn the_state_that_is_read_equals_the_writers_state() {
    let folder = tempfile::tempdir().unwrap();
    let paths = two_attempts(folder.path());
    let loaded = load(&paths).unwrap();
    assert!(loaded.line_count >= 50 && loaded.torn_files.is_empty() && loaded.headerless.is_none(), "{loaded:?}");
    let next = begin(folder.path(), 3, AttemptNumber::FIRST, Redactor::default());
    assert_eq!(next.state().records, loaded.state.records);
    expect![[r#"
        `migrate`: succeeded {"applied":12}
        `pull`: succeeded {"path":"/srv/1.4.0"}
        `pull` on web-1: succeeded {"path":"/srv/1.4.0"}
        `pull` on web-2: succeeded {"path":"/srv/1.4.0"}
        `switch`: reverted
        `switch` on web-1: reverted
        `switch` on web-2: reverted
        `verify`: failed: 502
        `verify` on web-1: failed: 502
        `verify` on web-2: failed: 502
    "#]]
    .assert_eq(&status_lines(&loaded.state));
}

#[test]
fn an_observer_sees_every_entry_that_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let sink = std::rc::Rc::clone(&seen);
    let observer = Box::new(move |observed: JournalObservation<'_>| match observed {
        JournalObservation::Entry(entry) => sink.borrow_mut().push(entry.clone()),
        JournalObservation::Output { .. } => panic!("no program ran"),
    });
    let path = path(folder.path(), 1);
    let header = header(1, AttemptNumber::FIRST);
    let mut journal = Journal::create(&path, header, LoadedJournals::default(), Redactor::default(), observer).unwrap();
    act(&mut journal, "pull", StepEffect::Mutating, StepOutcome::Succeeded { receipt: receipt(json!({})) });
    let mut read = Vec::new();
    LoadedJournals::read(&[path], |entry| read.push(entry.clone())).unwrap();
    assert_eq!(*seen.borrow(), read);
    assert_eq!(read.len(), 3);
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let paths = two_attempts(folder.path());
    let before = fs::read(&paths[1]).unwrap();
    let again = Journal::create(
        &paths[1],
        header(3, AttemptNumber::FIRST),
        load(&paths).unwrap(),
        Redactor::default(),
        Box::new(|_| {}),
    );
    assert!(matches!(again, Err(JournalError::Io { .. })));
    assert_eq!(fs::read(&paths[1]).unwrap(), before);
}

#[test]
fn nothing_is_written_after_the_lock_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(folder.path(), 1);
    let mut journal = begin(folder.path(), 1, AttemptNumber::FIRST, Redactor::default());
    let before = fs::read(&path).unwrap();
    journal.fence();
    assert!(journal.is_fenced());
    let refused = journal.record_end(ExitKind::Success, true).unwrap_err();
    assert!(matches!(refused, JournalError::Fenced { .. }));
    let diagnostic = Diagnostic::from(&refused);
    assert_eq!((diagnostic.code.as_str(), diagnostic.exit), ("P0503", ExitKind::Locked));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn staged_journal_gets_its_name_while_the_lock_is_held_only() {
    let folder = tempfile::tempdir().unwrap();
    let (staging, path) = (folder.path().join("staging"), path(folder.path(), 2));
    let headerless = folder.path().join("attempt-000001.journal");
    fs::write(&headerless, "half a li").unwrap();
    let create = || {
        let loaded = load(std::slice::from_ref(&headerless)).unwrap();
        let header = header(2, AttemptNumber::FIRST);
        Journal::create_staged(Some(&staging), &path, header, loaded, Redactor::default(), Box::new(|_| {}))
    };
    // Another holder has moved the directory away.
    assert!(matches!(create().err().unwrap(), JournalError::Fenced { .. }));
    assert!(headerless.exists() && !path.exists());
    fs::create_dir(&staging).unwrap();
    create().unwrap().record_end(ExitKind::Success, false).unwrap();
    assert!(!headerless.exists());
    assert_eq!(load(std::slice::from_ref(&path)).unwrap().line_count, 2);
    fs::write(&headerless, "").unwrap();
    assert!(matches!(create().err().unwrap(), JournalError::Io { .. }), "an existing file is not replaced");
    assert_eq!(load(std::slice::from_ref(&path)).unwrap().line_count, 2);
}

fn fixture() -> [PathBuf; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fixtures/journal-1.0");
    [path(&folder, 1), path(&folder, 2)]
}

/// The files of format 1.0 are frozen; they contain every event, outcome, finding, decision and reason of that format.
#[test]
fn format_1_0_is_read_and_written_unchanged() {
    let loaded = load(&fixture()).unwrap();
    expect![[r#"
        `migrate`: undoing, with receipt
        `pull` on deploy@10.0.0.7: intended
        `pull`: succeeded {"path":"/srv/shop/releases/1.4.0"}
        `switch`: reverted
        `verify`: failed: http://127.0.0.1:8080/health answered 502
    "#]]
    .assert_eq(&status_lines(&loaded.state));
    let exits: Vec<_> = loaded.state.attempts.iter().map(|attempt| attempt.exit).collect();
    assert_eq!(exits, [None, Some(ExitKind::RolledBack)]);
    for path in fixture() {
        for text in fs::read_to_string(path).unwrap().lines() {
            let (entry, hash) = line::decode(text.as_bytes()).unwrap();
            let again = line::encode(&entry);
            assert_eq!(String::from_utf8(again.bytes).unwrap().trim_end(), text);
            assert_eq!(again.hash, hash);
        }
    }
}

proptest! {
    /// A receipt is the same after it was read back; otherwise the steps that use it would run again.
    #[test]
    fn every_receipt_is_read_back_unchanged(number in any::<f64>().prop_filter("JSON", |n| n.is_finite()), big in any::<u64>(), text in ".*") {
        let outputs = object(json!({ "number": number, "big": big, "nested": [{ text.clone(): text }, null, true] }));
        let result = StepOutcome::Succeeded { receipt: Receipt { outputs, notes: Map::new() } };
        let event = JournalEvent::Outcome { step_target: step_target("pull"), took_ms: big, outcome: result };
        let entry = JournalEntry { seq: big, prev: Some(Blake3Hash::of(b"before")), at: crate::clock::now(), event };
        let line = line::encode(&entry);
        let (read, hash) = line::decode(line.bytes.strip_suffix(b"\n").unwrap()).unwrap();
        prop_assert_eq!(read, entry);
        prop_assert_eq!(hash, line.hash);
    }
}
