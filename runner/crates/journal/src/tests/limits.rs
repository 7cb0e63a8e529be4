//! How large a record and a journal may be, and what a failing disk does.

use std::fs::{File, OpenOptions};

use super::*;
use crate::file::LARGEST;

fn size(folder: &Path) -> u64 {
    fs::metadata(path(folder, 1)).unwrap().len()
}

#[test]
fn an_intent_over_64_kib_is_refused_and_the_journal_stays_usable() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, Attempt::FIRST, Redactor::default());
    let before = size(folder.path());
    let input = json!({ "text": "x".repeat(line::LONGEST) });
    let refused = journal.intend(&place("pull"), "key", fingerprint("pull"), input, Effect::Acts).unwrap_err();
    assert!(matches!(refused, JournalError::TooLong { .. }));
    assert_eq!(Diagnostic::from(&refused).code.0, "P0605");
    assert_eq!(size(folder.path()), before);
    act(&mut journal, "pull", Effect::Acts, Outcome::Succeeded { receipt: receipt(json!({})) });
    assert_eq!(&load(&[path(folder.path(), 1)]).unwrap().state, journal.state());
}

#[test]
fn a_flood_of_words_is_cut_to_head_and_tail_and_never_keeps_an_outcome_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, Attempt::FIRST, Redactor::default());
    // A control character takes six bytes in JSON: the worst case.
    let flood = format!("first{}last", "\u{1}".repeat(1 << 20));
    let many = object(json!({ "many": flood }));
    let failure = Failure {
        kind: flood.clone(),
        message: flood.clone(),
        hint: Some(flood.clone()),
        retryable: false,
        details: many.clone(),
    };
    let log = Progress::Log { level: Level::Error, message: flood.clone(), fields: many };
    let meter = Progress::Meter { task: flood.clone(), done: 1, total: None, unit: flood.clone() };
    for progress in [log, meter] {
        journal.note(Note::Progress { place: place("pull"), progress }).unwrap();
    }
    let took = Duration::ZERO;
    for finding in [
        Finding::Drifted { why: flood.clone() },
        Finding::Unknown { why: flood.clone() },
        Finding::Failed { failure: failure.clone() },
    ] {
        journal.note(Note::Probe { place: place("pull"), question: Question::Current, took, finding }).unwrap();
    }
    journal.decide(&place("pull"), Decision::Stop { reason: Reason::Drifted { why: flood } }).unwrap();
    act(&mut journal, "pull", Effect::Acts, Outcome::Failed { failure: failure.clone() });
    act(&mut journal, "pull", Effect::Acts, Outcome::Unknown { failure: failure.clone() });
    let undo = journal.intend_undo(&place("pull")).unwrap();
    journal.settle_undo(undo.ended(Some(failure))).unwrap();

    let text = fs::read_to_string(path(folder.path(), 1)).unwrap();
    for line in text.lines().skip(1).filter(|line| line.contains("bytes")) {
        assert!(line.len() <= line::LONGEST && line.contains("first") && line.contains("last"), "{line}");
    }
    assert_eq!(text.lines().filter(|line| line.contains("bytes …]")).count(), 9);
    assert_eq!(text.lines().filter(|line| line.contains("\"left-out\":\"")).count(), 5);
}

#[test]
fn progress_is_dropped_first_then_nothing_begins_and_what_was_begun_can_still_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, Attempt::FIRST, Redactor::default());
    let long = "\u{1}".repeat(8000);
    let mut before = 0;
    while size(folder.path()) > before {
        before = size(folder.path());
        say(&mut journal, "pull", &long);
    }
    assert!((LARGEST / 2..LARGEST / 2 + line::LONGEST as u64).contains(&before), "{before}");

    let mut begun = Vec::new();
    let full = loop {
        let name = format!("step-{}", begun.len());
        let input = json!({ "text": "x".repeat(60_000) });
        match journal.intend(&place(&name), "key", fingerprint(&name), input, Effect::Acts) {
            Ok(intent) => begun.push(intent),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, JournalError::Full));
    assert!(begun.len() > 100, "{}", begun.len());
    // As many as fit in the room that is kept free, each as long as a record may be.
    for intent in begun.drain(..).take(15) {
        let outputs = object(json!({ "text": "x".repeat(60_000) }));
        let result = Outcome::Succeeded { receipt: Receipt { outputs, notes: Map::new() } };
        journal.settle(intent.ended(result, Duration::ZERO)).unwrap();
    }
    journal.end(Exit::Failed, false).unwrap();
    assert!(size(folder.path()) <= LARGEST);
    assert_eq!(&load(&[path(folder.path(), 1)]).unwrap().state, journal.state());
}

/// `/dev/full` takes no byte; `/dev/null` takes them and can't sync: the two ways in which a disk fails.
#[cfg(target_os = "linux")]
#[test]
fn after_a_failed_write_or_sync_nothing_more_is_written() {
    for (device, action) in [("/dev/full", "append to"), ("/dev/null", "sync")] {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = begin(folder.path(), 1, Attempt::FIRST, Redactor::default());
        let before = fs::read(path(folder.path(), 1)).unwrap();
        journal.replace_file(OpenOptions::new().append(true).open(device).unwrap());
        let refused = journal.intend(&place("pull"), "key", fingerprint("pull"), json!({}), Effect::Acts).unwrap_err();
        assert!(matches!(&refused, JournalError::Io { action: failed, .. } if *failed == action), "{refused:?}");
        assert_eq!(Diagnostic::from(&refused).exit, Exit::Failed);

        // The disk is well again: it changes nothing, since what reached it can't be told.
        journal.replace_file(OpenOptions::new().append(true).open(path(folder.path(), 1)).unwrap());
        let again = journal.intend(&place("pull"), "key", fingerprint("pull"), json!({}), Effect::Acts);
        assert!(matches!(again, Err(JournalError::Poisoned { .. })));
        let run = Decision::Run { reason: Reason::NeverRan };
        assert!(matches!(journal.decide(&place("pull"), run), Err(JournalError::Poisoned { .. })));
        assert!(matches!(journal.end(Exit::Failed, false), Err(JournalError::Poisoned { .. })));
        assert_eq!(fs::read(path(folder.path(), 1)).unwrap(), before);
    }
}

/// `/dev/null` takes what is written, and can't be synced.
#[cfg(target_os = "linux")]
#[test]
fn a_step_that_only_looks_waits_for_no_disk_and_the_next_record_syncs_its_own() {
    let folder = tempfile::tempdir().unwrap();
    for last in [true, false] {
        let mut journal = begin(folder.path(), 1 + u64::from(last), Attempt::FIRST, Redactor::default());
        journal.replace_file(OpenOptions::new().append(true).open("/dev/null").unwrap());
        act(&mut journal, "verify", Effect::Looks, Outcome::Succeeded { receipt: receipt(json!({})) });
        let next = if last {
            journal.end(Exit::Success, true)
        } else {
            journal.intend(&place("pull"), "key", fingerprint("pull"), json!({}), Effect::Acts).map(drop)
        };
        assert!(matches!(next, Err(JournalError::Io { action: "sync", .. })), "{next:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_outcome_that_can_not_be_written_leaves_the_intent_for_the_next_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, Attempt::FIRST, Redactor::default());
    let intent = journal.intend(&place("switch"), "key", fingerprint("switch"), json!({}), Effect::Exposes).unwrap();
    journal.replace_file(File::options().append(true).open("/dev/full").unwrap());
    let done = Outcome::Succeeded { receipt: receipt(json!({})) };
    assert!(journal.settle(intent.ended(done, Duration::ZERO)).is_err());
    let next = begin(folder.path(), 2, Attempt::FIRST.next(), Redactor::default());
    assert_eq!(next.state().status(&place("switch")), Some(&Status::Intended));
}

#[test]
fn an_event_that_contradicts_the_record_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, Attempt::FIRST, Redactor::default());
    let before = size(folder.path());
    assert!(matches!(journal.intend_undo(&place("switch")), Err(JournalError::Illegal { .. })));
    assert_eq!(size(folder.path()), before);
}
