//! The size limits of records and journals, and failing disks.

use std::fs::{File, OpenOptions};

use super::*;
use crate::file::MAX_JOURNAL_BYTES;

fn size(folder: &Path) -> u64 {
    fs::metadata(path(folder, 1)).unwrap().len()
}

#[test]
fn an_intent_over_64_kib_is_refused_and_the_journal_stays_usable() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, AttemptNumber::FIRST, Redactor::default());
    let before = size(folder.path());
    let input = json!({ "text": "x".repeat(line::MAX_LINE_BYTES) });
    let refused = journal
        .record_intent(&step_target("pull"), "key", fingerprint("pull"), input, StepEffect::Mutating)
        .unwrap_err();
    assert!(matches!(refused, JournalError::TooLong { .. }));
    assert_eq!(Diagnostic::from(&refused).code.as_str(), "P0605");
    assert_eq!(size(folder.path()), before);
    act(&mut journal, "pull", StepEffect::Mutating, StepOutcome::Succeeded { receipt: receipt(json!({})) });
    assert_eq!(&load(&[path(folder.path(), 1)]).unwrap().state, journal.state());
}

#[test]
fn long_texts_are_truncated_and_never_prevent_an_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, AttemptNumber::FIRST, Redactor::default());
    // A control character takes six bytes in JSON: the worst case.
    let flood = format!("first{}last", "\u{1}".repeat(1 << 20));
    let many = object(json!({ "many": flood }));
    let failure = StepFailure {
        kind: flood.clone().into(),
        message: flood.clone(),
        hint: Some(flood.clone()),
        retryable: false,
        details: many.clone(),
    };
    let log = StepProgress::Log { level: MessageLevel::Error, message: flood.clone(), fields: many };
    let meter = StepProgress::Meter { task: flood.clone(), done: 1, total: None, unit: flood.clone() };
    for progress in [log, meter] {
        journal.record_note(JournalNote::Progress { step_target: step_target("pull"), progress }).unwrap();
    }
    let took = Duration::ZERO;
    for finding in [
        ProbeFinding::Drifted { why: flood.clone() },
        ProbeFinding::Unknown { why: flood.clone() },
        ProbeFinding::Failed { failure: failure.clone() },
    ] {
        journal.record_probe(&step_target("pull"), ProbeInput::Current, took, finding).unwrap();
    }
    journal
        .record_decision(&step_target("pull"), Decision::Stop { reason: DecisionReason::Drifted { why: flood } })
        .unwrap();
    act(&mut journal, "pull", StepEffect::Mutating, StepOutcome::Failed { failure: failure.clone() });
    act(&mut journal, "pull", StepEffect::Mutating, StepOutcome::Unknown { failure: failure.clone() });
    let undo = journal.record_undo_intent(&step_target("pull")).unwrap();
    journal.record_undo_outcome(undo.complete(Some(failure))).unwrap();

    let text = fs::read_to_string(path(folder.path(), 1)).unwrap();
    for line in text.lines().skip(1).filter(|line| line.contains("bytes")) {
        assert!(line.len() <= line::MAX_LINE_BYTES && line.contains("first") && line.contains("last"), "{line}");
    }
    assert_eq!(text.lines().filter(|line| line.contains("bytes …]")).count(), 9);
    assert_eq!(text.lines().filter(|line| line.contains("\"left-out\":\"")).count(), 5);
}

#[test]
fn progress_is_dropped_first_then_no_step_begins_and_running_steps_can_still_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, AttemptNumber::FIRST, Redactor::default());
    let long = "\u{1}".repeat(8000);
    let mut before = 0;
    while size(folder.path()) > before {
        before = size(folder.path());
        log_message(&mut journal, "pull", &long);
    }
    assert!((MAX_JOURNAL_BYTES / 2..MAX_JOURNAL_BYTES / 2 + line::MAX_LINE_BYTES as u64).contains(&before), "{before}");

    let mut begun = Vec::new();
    let full = loop {
        let name = format!("step-{}", begun.len());
        let input = json!({ "text": "x".repeat(60_000) });
        match journal.record_intent(&step_target(&name), "key", fingerprint(&name), input, StepEffect::Mutating) {
            Ok(intent) => begun.push(intent),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, JournalError::Full));
    assert!(begun.len() > 100, "{}", begun.len());
    // As many as fit into the reserved space, each as long as a record may be.
    for intent in begun.drain(..).take(15) {
        let outputs = object(json!({ "text": "x".repeat(60_000) }));
        let result = StepOutcome::Succeeded { receipt: Receipt { outputs, notes: Map::new() } };
        journal.record_outcome(intent.complete(result, Duration::ZERO)).unwrap();
    }
    journal.record_end(ExitKind::Failed, false).unwrap();
    assert!(size(folder.path()) <= MAX_JOURNAL_BYTES);
    assert_eq!(&load(&[path(folder.path(), 1)]).unwrap().state, journal.state());
}

/// `/dev/full` fails to write, and `/dev/null` fails to sync: the two ways in which a disk fails.
#[cfg(target_os = "linux")]
#[test]
fn after_a_failed_write_or_sync_nothing_more_is_written() {
    for (device, action) in [("/dev/full", "append to"), ("/dev/null", "sync")] {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = begin(folder.path(), 1, AttemptNumber::FIRST, Redactor::default());
        let before = fs::read(path(folder.path(), 1)).unwrap();
        journal.replace_file(OpenOptions::new().append(true).open(device).unwrap());
        let refused = journal
            .record_intent(&step_target("pull"), "key", fingerprint("pull"), json!({}), StepEffect::Mutating)
            .unwrap_err();
        assert!(matches!(&refused, JournalError::Io { action: failed, .. } if *failed == action), "{refused:?}");
        assert_eq!(Diagnostic::from(&refused).exit, ExitKind::Failed);

        // A disk that works again changes nothing, since nobody knows which bytes reached it.
        journal.replace_file(OpenOptions::new().append(true).open(path(folder.path(), 1)).unwrap());
        let again =
            journal.record_intent(&step_target("pull"), "key", fingerprint("pull"), json!({}), StepEffect::Mutating);
        assert!(matches!(again, Err(JournalError::Poisoned { .. })));
        let run = Decision::Run { reason: DecisionReason::NeverRan };
        assert!(matches!(journal.record_decision(&step_target("pull"), run), Err(JournalError::Poisoned { .. })));
        assert!(matches!(journal.record_end(ExitKind::Failed, false), Err(JournalError::Poisoned { .. })));
        assert_eq!(fs::read(path(folder.path(), 1)).unwrap(), before);
    }
}

/// `/dev/null` accepts writes, and cannot be synced.
#[cfg(target_os = "linux")]
#[test]
fn a_read_only_step_does_not_sync_and_the_next_record_does() {
    let folder = tempfile::tempdir().unwrap();
    for last in [true, false] {
        let mut journal = begin(folder.path(), 1 + u64::from(last), AttemptNumber::FIRST, Redactor::default());
        journal.replace_file(OpenOptions::new().append(true).open("/dev/null").unwrap());
        act(&mut journal, "verify", StepEffect::ReadOnly, StepOutcome::Succeeded { receipt: receipt(json!({})) });
        let next = if last {
            journal.record_end(ExitKind::Success, true)
        } else {
            journal
                .record_intent(&step_target("pull"), "key", fingerprint("pull"), json!({}), StepEffect::Mutating)
                .map(drop)
        };
        assert!(matches!(next, Err(JournalError::Io { action: "sync", .. })), "{next:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_outcome_that_cannot_be_written_leaves_the_intent_for_the_next_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, AttemptNumber::FIRST, Redactor::default());
    let intent = journal
        .record_intent(&step_target("switch"), "key", fingerprint("switch"), json!({}), StepEffect::Exposing)
        .unwrap();
    journal.replace_file(File::options().append(true).open("/dev/full").unwrap());
    let done = StepOutcome::Succeeded { receipt: receipt(json!({})) };
    assert!(journal.record_outcome(intent.complete(done, Duration::ZERO)).is_err());
    let next = begin(folder.path(), 2, AttemptNumber::FIRST.next(), Redactor::default());
    assert_eq!(next.state().status(&step_target("switch")), Some(&RecordStatus::Intended));
}

#[test]
fn an_event_that_contradicts_the_state_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, AttemptNumber::FIRST, Redactor::default());
    let before = size(folder.path());
    assert!(matches!(journal.record_undo_intent(&step_target("switch")), Err(JournalError::IllegalTransition { .. })));
    assert_eq!(size(folder.path()), before);
}
