//! A journal with changed bytes is refused, or read as a shorter one; never as another one.

use super::*;
use crate::{line::LineError, state::TransitionError};

/// A file, split into lines, with the state before each line.
struct SplitJournal {
    path: PathBuf,
    bytes: Vec<u8>,
    /// The start of each line, and the state before it.
    lines: Vec<(usize, JournalState)>,
}

/// The files of [`two_attempts`] and the state after them.
fn split_journals(folder: &Path) -> (Vec<SplitJournal>, JournalState) {
    let mut loaded = LoadedJournals::default();
    let mut files = Vec::new();
    for path in two_attempts(folder) {
        let bytes = fs::read(&path).unwrap();
        let (mut start, mut lines) = (0, Vec::new());
        for (seq, text) in (0..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
            lines.push((start, loaded.state.clone()));
            loaded.fold_lines(&path, text, seq, |_| {}).unwrap();
            start += text.len();
        }
        files.push(SplitJournal { path, bytes, lines });
    }
    (files, loaded.state)
}

fn ends(file: &SplitJournal) -> impl Iterator<Item = usize> {
    file.lines.iter().skip(1).map(|(start, _)| *start).chain([file.bytes.len()])
}

fn code(error: &JournalError) -> (&'static str, u8) {
    let diagnostic = Diagnostic::from(error);
    (diagnostic.code.as_str(), diagnostic.exit.status())
}

/// Folding is composable (tests/decisions.rs), so each cut is folded from its line on; whole files are read only at the ends
/// of lines.
#[test]
fn the_last_file_cut_anywhere_is_read_as_its_complete_lines() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = split_journals(folder.path());
    let last = &files[1];
    for (seq, ((start, before), end)) in (0..).zip(last.lines.iter().zip(ends(last))) {
        for length in *start..end {
            let mut loaded = LoadedJournals { state: before.clone(), ..LoadedJournals::default() };
            loaded.fold_lines(&last.path, &last.bytes[*start..length], seq, |_| {}).unwrap();
            assert_eq!(&loaded.state, before, "cut at {length}");
            let torn: Vec<_> = (length > *start).then(|| (last.path.clone(), length - start)).into_iter().collect();
            assert_eq!(loaded.torn_files, torn, "cut at {length}");
        }
        for length in [*start, start + 1, end - 1] {
            fs::write(&last.path, &last.bytes[..length]).unwrap();
            let loaded = load(&[files[0].path.clone(), last.path.clone()]).unwrap();
            assert_eq!(&loaded.state, before, "cut at {length}");
            assert_eq!(loaded.headerless.is_some(), seq == 0);
            assert_eq!(loaded.torn_files.len(), usize::from(seq > 0 && length > *start));
        }
    }
}

#[test]
fn a_torn_outcome_leaves_its_intent() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = begin(folder.path(), 1, AttemptNumber::FIRST, Redactor::default());
    act(&mut journal, "switch", StepEffect::Exposing, StepOutcome::Succeeded { receipt: receipt(json!({})) });
    let bytes = fs::read(path(folder.path(), 1)).unwrap();
    fs::write(path(folder.path(), 1), &bytes[..bytes.len() - 1]).unwrap();
    let loaded = load(&[path(folder.path(), 1)]).unwrap();
    assert_eq!(loaded.state.status(&step_target("switch")), Some(&RecordStatus::Intended));
    assert_eq!(loaded.torn_files.len(), 1);
    // The next attempt continues after the last complete line, and reading both again gives the same state.
    let next = begin(folder.path(), 2, AttemptNumber::FIRST.next(), Redactor::default());
    let both = load(&[path(folder.path(), 1), path(folder.path(), 2)]).unwrap();
    assert_eq!(&both.state, next.state());
    assert_eq!(both.torn_files, loaded.torn_files);
}

#[test]
fn an_earlier_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = split_journals(folder.path());
    let [first, last] = &files[..] else { unreachable!("two attempts") };
    for (seq, ((start, before), end)) in (0..).zip(first.lines.iter().zip(ends(first))) {
        for length in *start..end {
            let mut loaded = LoadedJournals { state: before.clone(), ..LoadedJournals::default() };
            loaded.fold_lines(&first.path, &first.bytes[*start..length], seq, |_| {}).unwrap();
            let error = loaded.fold_lines(&last.path, &last.bytes, 0, |_| {}).unwrap_err();
            assert!(
                matches!(error, JournalError::IllegalTransition { seq: 0, source: TransitionError::Chain { .. }, .. }),
                "{error:?}"
            );
        }
        for length in [*start, start + 1, end - 1] {
            fs::write(&first.path, &first.bytes[..length]).unwrap();
            let error = load(&[first.path.clone(), last.path.clone()]).unwrap_err();
            assert_eq!(code(&error), (if seq == 0 { "P0602" } else { "P0603" }, 65), "cut at {length}: {error:?}");
        }
    }
    fs::remove_file(&first.path).unwrap();
    assert_eq!(code(&load(std::slice::from_ref(&last.path)).unwrap_err()), ("P0603", 65));
}

#[test]
fn every_flipped_bit_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (mut files, _) = split_journals(folder.path());
    let header_of_second = files[1].bytes.clone();
    for (number, file) in files.iter_mut().enumerate() {
        let ends: Vec<_> = ends(file).collect();
        for (seq, ((start, before), end)) in (0..).zip(file.lines.iter().zip(ends)) {
            let mut loaded = LoadedJournals { state: before.clone(), ..LoadedJournals::default() };
            for index in *start..end {
                for bit in 0..8 {
                    file.bytes[index] ^= 1 << bit;
                    let read = loaded.fold_lines(&file.path, &file.bytes[*start..], seq, |_| {});
                    if index + 1 == file.bytes.len() {
                        read.unwrap();
                        assert_eq!(loaded.torn_files.pop(), Some((file.path.clone(), end - start)));
                        if number == 0 {
                            let error = loaded.fold_lines(&file.path, &header_of_second, 0, |_| {}).unwrap_err();
                            assert!(matches!(
                                error,
                                JournalError::IllegalTransition { source: TransitionError::Chain { .. }, .. }
                            ));
                        }
                    } else {
                        match read {
                            Err(JournalError::Corrupt { seq: at, .. }) if at == seq => {}
                            other => panic!("bit {bit} of byte {index}: {other:?}"),
                        }
                    }
                    file.bytes[index] ^= 1 << bit;
                }
            }
            assert_eq!(&loaded.state, before);
        }
    }
}

#[test]
fn a_flipped_bit_on_disk_exits_with_65() {
    let folder = tempfile::tempdir().unwrap();
    let paths = two_attempts(folder.path());
    for path in &paths {
        let good = fs::read(path).unwrap();
        for index in (0..good.len() - 1).step_by(97) {
            let mut bad = good.clone();
            bad[index] ^= 4;
            fs::write(path, bad).unwrap();
            assert_eq!(code(&load(&paths).unwrap_err()), ("P0602", 65), "byte {index}");
        }
        fs::write(path, good).unwrap();
    }
}

/// Reads the lines as the last file of the two.
fn read_lines(files: &[SplitJournal], lines: &[&[u8]]) -> Result<LoadedJournals, JournalError> {
    fs::write(&files[1].path, lines.concat()).unwrap();
    load(&[files[0].path.clone(), files[1].path.clone()])
}

#[test]
fn swapped_duplicate_or_missing_lines_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = split_journals(folder.path());
    let lines: Vec<_> = files[1].bytes.split_inclusive(|byte| *byte == b'\n').collect();
    for index in 0..lines.len() {
        let mut doubled = lines.clone();
        doubled.insert(index, lines[index]);
        assert_eq!(code(&read_lines(&files, &doubled).unwrap_err()), ("P0603", 65), "{index} doubled");
        if index + 1 < lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(index, index + 1);
            assert_eq!(code(&read_lines(&files, &swapped).unwrap_err()), ("P0603", 65), "{index} swapped");
            let mut missing = lines.clone();
            missing.remove(index);
            assert_eq!(code(&read_lines(&files, &missing).unwrap_err()), ("P0603", 65), "{index} missing");
        }
    }
    let backwards = [files[1].path.clone(), files[0].path.clone()];
    fs::write(&files[1].path, &files[1].bytes).unwrap();
    assert_eq!(code(&load(&backwards).unwrap_err()), ("P0603", 65));
}

#[test]
fn lines_of_another_journal_are_refused() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (files, _) = split_journals(folder.path());
    let lines: Vec<_> = files[1].bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let foreign = JournalHeader { app: "blog".parse().unwrap(), ..header(1, AttemptNumber::FIRST) };
    let foreign_path = path(other.path(), 1);
    let mut journal =
        Journal::create(&foreign_path, foreign, LoadedJournals::default(), Redactor::default(), Box::new(|_| {}))
            .unwrap();
    act(&mut journal, "pull", StepEffect::Mutating, StepOutcome::Succeeded { receipt: receipt(json!({})) });
    let foreign = fs::read(&foreign_path).unwrap();
    let foreign: Vec<_> = foreign.split_inclusive(|byte| *byte == b'\n').collect();
    for index in 0..foreign.len() {
        let mut mixed = lines.clone();
        mixed[index] = foreign[index];
        let error = read_lines(&files, &mixed).unwrap_err();
        assert!(
            matches!(&error, JournalError::IllegalTransition { source: TransitionError::Chain { .. }, .. }),
            "{error:?}"
        );
    }
}

/// Writes the first file and, chained to it, a second one of a header and some events.
fn with_second(folder: &Path, header: JournalHeader, events: &[JournalEvent]) -> [PathBuf; 2] {
    let first = path(folder, 1);
    drop(begin(folder, 1, AttemptNumber::FIRST, Redactor::default()));
    let mut prev = load(std::slice::from_ref(&first)).unwrap().state.last_line_hash;
    let mut bytes = Vec::new();
    for (seq, event) in (0..).zip(std::iter::once(JournalEvent::Started(header)).chain(events.iter().cloned())) {
        let line = line::encode(&JournalEntry { seq, prev, at: crate::clock::now(), event });
        prev = Some(line.hash);
        bytes.extend(line.bytes);
    }
    let second = path(folder, 2);
    fs::write(&second, bytes).unwrap();
    [first, second]
}

#[test]
fn another_app_or_a_smaller_epoch_is_refused() {
    let second = header(2, AttemptNumber::FIRST.next());
    for header in [
        JournalHeader { app: "blog".parse().unwrap(), ..second.clone() },
        JournalHeader { environment: "test".parse().unwrap(), ..second.clone() },
        JournalHeader { epoch: 1, ..second.clone() },
        JournalHeader { magic: "pawl".to_owned(), ..second },
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = load(&with_second(folder.path(), header, &[])).unwrap_err();
        assert!(
            matches!(error, JournalError::IllegalTransition { source: TransitionError::Foreign(_), .. }),
            "{error:?}"
        );
    }
}

/// Appends a line of any JSON to the files of `with_second`, with the correct checksum and chain.
fn append_json(paths: &[PathBuf], event: &Value) {
    let state = load(paths).unwrap().state;
    let seq = fs::read_to_string(&paths[1]).unwrap().lines().count();
    let json =
        json!({ "seq": seq, "prev": state.last_line_hash, "at": "2026-01-01T00:00:00Z", "event": event }).to_string();
    let line = format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()));
    fs::write(&paths[1], fs::read_to_string(&paths[1]).unwrap() + &line).unwrap();
}

#[test]
fn an_unknown_major_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let paths = with_second(folder.path(), header(2, AttemptNumber::FIRST), &[]);
    fs::write(&paths[1], "").unwrap();
    append_json(&paths, &json!({ "type": "started", "magic": MAGIC, "format": { "major": 2, "minor": 0 }, "who": [] }));
    let error = load(&paths).unwrap_err();
    assert_eq!(code(&error), ("P0604", 65), "{error:?}");
    assert_eq!(Diagnostic::from(&error).causes, ["this runner reads format 1.x, not 2.0"]);
}

#[test]
fn a_newer_minor_version_is_read_and_not_continued() {
    let newer = JournalHeader {
        format: super::super::event::JournalFormat { major: 1, minor: 9 },
        ..header(2, AttemptNumber::FIRST.next())
    };
    let folder = tempfile::tempdir().unwrap();
    let paths = with_second(folder.path(), newer, &[]);
    append_json(&paths, &json!({ "type": "weather", "sky": "blue" }));
    append_json(&paths, &json!({ "type": "ended", "exit": "success", "verified": true, "mood": "good" }));
    let loaded = load(&paths).unwrap();
    assert_eq!(loaded.state.attempts[1].exit, Some(ExitKind::Success));
    let next = path(folder.path(), 3);
    let begun = Journal::create(&next, header(3, AttemptNumber::FIRST), loaded, Redactor::default(), Box::new(|_| {}));
    let Err(error) = begun else { panic!("it was continued") };
    assert_eq!(code(&error), ("P0604", 65));
    assert!(error.to_string().contains("attempt-000002.journal was written by a newer runner (format 1.9)"), "{error}");
    assert!(!next.exists());
}

/// Values that this runner does not know, in events that it knows.
fn undecodable_events() -> [Value; 3] {
    let step = |rest: Value| {
        let mut event = json!({ "step": "pull", "target": "local" });
        event.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        event
    };
    [
        step(json!({ "type": "decision", "decision": { "action": "run", "reason": { "because": "full-moon" } } })),
        step(json!({ "type": "decision", "decision": { "action": "wait", "until": "dawn" } })),
        step(json!({ "type": "outcome", "took-ms": 1, "outcome": "postponed" })),
    ]
}

#[test]
fn unknown_values_of_a_newer_minor_version_are_not_corruption() {
    let format = super::super::event::JournalFormat { major: 1, minor: 9 };
    for event in undecodable_events() {
        let folder = tempfile::tempdir().unwrap();
        let newer = JournalHeader { format, ..header(2, AttemptNumber::FIRST.next()) };
        let paths = with_second(folder.path(), newer, &[]);
        append_json(&paths, &event);
        append_json(&paths, &json!({ "type": "ended", "exit": "success", "verified": true }));
        let loaded = load(&paths).unwrap();
        assert_eq!(loaded.state.attempts[1].exit, Some(ExitKind::Success), "{event}");
        assert_eq!(loaded.newer_format_file.as_ref(), Some(&paths[1]));
        // What follows from an event that this runner does not know can't be checked.
        append_json(&paths, &json!({ "type": "undo-intent", "step": "other", "target": "local" }));
        assert_eq!(code(&load(&paths).unwrap_err()), ("P0604", 65), "{event}");
        // A damaged line stays corrupt.
        let text = fs::read_to_string(&paths[1]).unwrap();
        fs::write(&paths[1], text.replacen("\"pull\"", "\"pill\"", 1)).unwrap();
        assert_eq!(code(&load(&paths).unwrap_err()), ("P0602", 65), "{event}");
    }
}

#[test]
fn unknown_values_of_the_own_format_are_corruption() {
    for event in undecodable_events() {
        let folder = tempfile::tempdir().unwrap();
        let paths = with_second(folder.path(), header(2, AttemptNumber::FIRST.next()), &[]);
        append_json(&paths, &event);
        assert_eq!(code(&load(&paths).unwrap_err()), ("P0602", 65), "{event}");
    }
}

#[test]
fn an_unreadable_header_of_a_newer_minor_version_is_newer() {
    let folder = tempfile::tempdir().unwrap();
    let paths = with_second(folder.path(), header(2, AttemptNumber::FIRST), &[]);
    fs::write(&paths[1], "").unwrap();
    append_json(&paths, &json!({ "type": "started", "magic": MAGIC, "format": { "major": 1, "minor": 9 }, "who": [] }));
    assert_eq!(code(&load(&paths).unwrap_err()), ("P0604", 65));
}

#[test]
fn an_unknown_event_in_a_known_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let paths = with_second(folder.path(), header(2, AttemptNumber::FIRST.next()), &[]);
    append_json(&paths, &json!({ "type": "weather", "sky": "blue" }));
    assert_eq!(code(&load(&paths).unwrap_err()), ("P0603", 65));
}

#[test]
fn an_attempt_without_a_complete_header_never_began_and_its_epoch_is_reused() {
    for rest in [&b""[..], b"1", b"deadbeef {\"seq\":0"] {
        let folder = tempfile::tempdir().unwrap();
        let paths = two_attempts(folder.path());
        let third = path(folder.path(), 3);
        fs::write(&third, rest).unwrap();
        let with_it = load(&[paths[0].clone(), paths[1].clone(), third.clone()]).unwrap();
        assert_eq!(with_it.state, load(&paths).unwrap().state);
        assert_eq!(with_it.headerless, Some(third.clone()));
        let journal = begin(folder.path(), 3, AttemptNumber::FIRST, Redactor::default());
        let read = load(&[paths[0].clone(), paths[1].clone(), third]).unwrap();
        assert_eq!(&read.state, journal.state());
        assert_eq!(read.state.attempts.len(), 3);
    }
}

#[test]
fn each_malformed_line_has_its_error() {
    assert_eq!(line::decode(b"").unwrap_err(), LineError::Malformed);
    assert_eq!(line::decode(b"0000000g {}").unwrap_err(), LineError::Malformed);
    assert_eq!(line::decode(b"00000000_{}").unwrap_err(), LineError::Malformed);
    assert_eq!(line::decode(b"+0000000 {}").unwrap_err(), LineError::Malformed);
    assert!(matches!(line::decode(b"00000000 {}").unwrap_err(), LineError::Checksum { stated: 0, .. }));
    let sum = crc32c::crc32c(b"{}");
    assert!(matches!(line::decode(format!("{sum:08x} {{}}").as_bytes()).unwrap_err(), LineError::Json(_)));
    let sum = crc32c::crc32c(b"\xff");
    assert!(matches!(
        line::decode(&[format!("{sum:08x} ").as_bytes(), b"\xff"].concat()).unwrap_err(),
        LineError::Json(_)
    ));
}
