//! Histories of folders: whatever is damaged or left half done, the state is that of the journals, and the next attempt heals it.

mod damage;

use std::time::Duration;

use contract::{
    diagnostic::ExitKind,
    step::{Receipt, StepOutcome},
};
use journal::{Journal, Redactor, StepTarget, event::Fingerprint, file::StepEffect};
use plan::StateLocation;

use super::*;
use crate::tests::header;

/// Small archives, so that few attempts make several.
const POLICY: ArchivePolicy = ArchivePolicy { length: 4, min_loose: 2 };

fn open(folder: &Path) -> HistoryFolder<'static> {
    HistoryFolder::open(folder).unwrap()
}

/// Writes the journal of the next attempt. It is killed before its outcome if `ends` is false.
fn attempt(folder: &Path, ends: bool) -> JournalState {
    let loaded = open(folder).load(|_| {}).unwrap();
    let epoch = loaded.state.epoch() + 1;
    let header = header(epoch, &format!("{epoch}-k3x9"));
    let path = folder.join(crate::journal_files::journal_name(epoch));
    let mut journal = Journal::create(&path, header, loaded, Redactor::default(), Box::new(|_| {})).unwrap();
    let switch = StepTarget { step: "switch".parse().unwrap(), target: "local".parse().unwrap() };
    let fingerprint = Fingerprint::default();
    let intent =
        journal.record_intent(&switch, "key", fingerprint, serde_json::json!({}), StepEffect::Exposing).unwrap();
    if ends {
        let done = StepOutcome::Succeeded { receipt: Receipt::default() };
        journal.record_outcome(intent.complete(done, Duration::from_millis(1))).unwrap();
        journal.record_end(ExitKind::Success, true).unwrap();
    }
    journal.state().clone()
}

/// An attempt as a deployment makes it.
fn deploy(folder: &Path) -> JournalState {
    let history = open(folder);
    let loaded = history.load(|_| {}).unwrap();
    if history.snapshot().map(|snapshot| snapshot.state.epoch()) != Some(loaded.state.epoch())
        && loaded.state.epoch() > 0
    {
        history.record(&loaded.state, &loaded.summaries, POLICY, None).unwrap();
    }
    let state = attempt(folder, true);
    open(folder).record(&state, state.attempts.last().cloned().as_slice(), POLICY, None).unwrap();
    state
}

fn epochs(attempts: &[AttemptSummary]) -> Vec<u64> {
    attempts.iter().map(|attempt| attempt.header.epoch).collect()
}

/// Everything that can be asked answers as if all journals had been read.
fn check(folder: &Path, newest: u64) {
    let history = open(folder);
    let all = history.load_all(|_| {}).unwrap();
    assert_eq!(history.load(|_| {}).unwrap().state, all.state);
    assert_eq!(all.state.epoch(), newest);
    let expected: Vec<_> = (1..=newest).rev().collect();
    assert_eq!(epochs(&history.newest_attempts(usize::MAX).unwrap()), expected);
    assert_eq!(epochs(&history.newest_attempts(3).unwrap()), expected[..3.min(expected.len())]);
    let mut before = JournalState::default();
    for epoch in 1..=newest {
        let attempt = history.recorded_attempt(AttemptChoice::Epoch(epoch)).unwrap().expect("it is on record");
        assert_eq!(attempt.before, before, "before {epoch}");
        assert_eq!(attempt.summary.header.epoch, epoch);
        let mut after = attempt.before;
        for entry in &attempt.entries {
            after.apply(entry, journal::line::encode(entry).hash, entry.seq).unwrap();
        }
        before = after;
    }
    assert_eq!(before, all.state);
    assert!(history.recorded_attempt(AttemptChoice::Epoch(newest + 1)).unwrap().is_none());
}

#[test]
fn a_long_history_is_read_as_its_journals() {
    let folder = tempfile::tempdir().unwrap();
    for epoch in 1..=23 {
        if epoch % 5 == 0 {
            attempt(folder.path(), false);
        } else {
            deploy(folder.path());
        }
        check(folder.path(), epoch);
    }
    let history = open(folder.path());
    let ranges: Vec<_> = history.archives.iter().map(|range| (range.first, range.last)).collect();
    assert_eq!(ranges, [(1, 4), (5, 8), (9, 12), (13, 16), (17, 20)]);
    assert_eq!(history.loose.len(), 3);
}

#[test]
fn reading_costs_one_journal() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..12 {
        deploy(folder.path());
    }
    let loaded = open(folder.path()).load(|_| {}).unwrap();
    assert_eq!((loaded.line_count, loaded.summaries.len()), (4, 1));
    // `why` of the newest attempt needs the snapshot before it, and no other journal.
    let paths = open(folder.path()).paths();
    for path in &paths[..paths.len() - 1] {
        fs::remove_file(path).unwrap();
    }
    let newest = open(folder.path()).recorded_attempt(AttemptChoice::Newest).unwrap().unwrap();
    assert_eq!((newest.before.epoch(), newest.summary.header.epoch), (11, 12));
}

#[test]
fn damage_of_snapshot_and_index_is_noticed_and_healed() {
    let folder = tempfile::tempdir().unwrap();
    let newest = 7;
    (0..newest).for_each(|_| drop(deploy(folder.path())));
    for name in [SNAPSHOT_FILE, PREVIOUS_SNAPSHOT_FILE, INDEX_FILE] {
        let path = folder.path().join(name);
        let good = fs::read(&path).unwrap();
        let flipped = (0..good.len()).step_by(41).map(|index| {
            let mut bad = good.clone();
            bad[index] ^= 1 << (index % 8);
            bad
        });
        let cut = (0..good.len()).step_by(53).map(|length| good[..length].to_vec());
        for bad in flipped.chain(cut) {
            fs::write(&path, bad).unwrap();
            check(folder.path(), newest);
        }
        fs::remove_file(&path).unwrap();
        check(folder.path(), newest);
        fs::write(&path, &good[1..]).unwrap();
        // The next attempt writes it again.
        let copy = copy_of(folder.path());
        deploy(copy.path());
        check(copy.path(), newest + 1);
        let snapshot = open(copy.path()).snapshot().expect("it is there again");
        assert!(AttemptIndex::read(copy.path(), snapshot.index).is_some());
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn whatever_a_kill_leaves_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        deploy(folder.path());
    }
    let before = copy_of(folder.path());
    // This one writes an archive.
    deploy(folder.path());
    assert_eq!(open(folder.path()).archives.len(), 1);
    let written = ["archive", "index.jsonl", PREVIOUS_SNAPSHOT_FILE, SNAPSHOT_FILE];
    for removed in 0..=4 {
        for files in 0..=written.len() {
            // The journal of the attempt is there, and the first of the files; `removed` journals are gone.
            let state = copy_of(before.path());
            copy_into(folder.path(), state.path(), &["attempt-000006.journal"]);
            copy_into(folder.path(), state.path(), &written[..files]);
            if files > 0 {
                (1..=removed).for_each(|epoch| {
                    fs::remove_file(state.path().join(format!("attempt-{epoch:06}.journal"))).unwrap()
                });
            }
            fs::write(state.path().join("snapshot.json.tmp"), "torn").unwrap();
            check(state.path(), 6);
            deploy(state.path());
            check(state.path(), 7);
            assert!(!state.path().join("attempt-000001.journal").exists());
        }
    }
}

/// However many attempts there are, recording one reads the newest line of the index.
#[test]
fn lines_of_earlier_attempts_are_copied_unread() {
    let folder = tempfile::tempdir().unwrap();
    (0..4).for_each(|_| drop(deploy(folder.path())));
    let [index, snapshot] = [INDEX_FILE, SNAPSHOT_FILE].map(|name| folder.path().join(name));
    let marked = fs::read_to_string(&index).unwrap().replacen('{', r#"{"future":1,"#, 1);
    fs::write(&index, &marked).unwrap();
    let state = Snapshot::decode(&fs::read(&snapshot).unwrap()).unwrap().state;
    let renewed = Snapshot { state, index: Blake3Hash::of(marked.as_bytes()) };
    fs::write(&snapshot, renewed.encode().unwrap()).unwrap();
    deploy(folder.path());
    check(folder.path(), 5);
    let lines = fs::read_to_string(&index).unwrap();
    assert!(lines.starts_with(&marked) && lines.lines().count() == 5, "{lines}");
    // The next one archives the first four, with the line as it is.
    deploy(folder.path());
    check(folder.path(), 6);
    let archived = Archive::read(&open(folder.path()).archives[0].path(folder.path())).unwrap().index;
    assert_eq!(String::from_utf8_lossy(archived.bytes()), marked);
}

#[test]
fn index_replaces_an_attempt_of_the_same_epoch_and_later_ones() {
    let folder = tempfile::tempdir().unwrap();
    (0..3).for_each(|_| drop(deploy(folder.path())));
    let mut attempts = open(folder.path()).load_all(|_| {}).unwrap().summaries;
    let mut index = AttemptIndex::of(&attempts);
    index.merge(&attempts[1..2]);
    assert_eq!(epochs(&index.summaries().unwrap()), [1, 2]);
    index.merge(&attempts[2..]);
    assert_eq!(index, AttemptIndex::of(&attempts));
    assert_eq!(epochs(&index.split_until(2).summaries().unwrap()), [1, 2]);
    assert_eq!(index.summaries().unwrap(), attempts.split_off(2));
    assert_eq!(index.split_until(9).summaries().unwrap().len(), 1);
    assert_eq!(index, AttemptIndex::default());
}

#[test]
fn a_store_reads_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let location = StateLocation::Dir(root.path().to_owned());
    let store = StateStore::new(&location, &"shop".parse().unwrap(), &"prod".parse().unwrap());
    assert_eq!(store.load(|_| {}).unwrap().state.epoch(), 0);
    assert!(store.newest_attempts(20).unwrap().is_empty());
    assert!(store.recorded_attempt(AttemptChoice::Newest).unwrap().is_none());
    fs::create_dir_all(store.folder()).unwrap();
    let state = attempt(store.folder(), true);
    store.record_ended(&state, None).unwrap();
    // A killed attempt is not in the snapshot; the next one, which loads it, puts it there.
    attempt(store.folder(), false);
    let loaded = store.load(|_| {}).unwrap();
    store.record_loaded(&loaded, None).unwrap();
    let history = open(store.folder());
    assert_eq!(history.snapshot().unwrap().state.epoch(), 2);
    assert_eq!(epochs(&history.index(history.snapshot_header()).unwrap().summaries().unwrap()), [1, 2]);
}

/// A former holder's staging directory is gone.
#[test]
fn former_holder_replaces_neither_snapshot_nor_index() {
    let root = tempfile::tempdir().unwrap();
    let location = StateLocation::Dir(root.path().to_owned());
    let store = StateStore::new(&location, &"shop".parse().unwrap(), &"prod".parse().unwrap());
    fs::create_dir_all(store.folder()).unwrap();
    let staging = root.path().join("staging");
    fs::create_dir(&staging).unwrap();
    let first = attempt(store.folder(), true);
    store.record_ended(&first, Some(&staging)).unwrap();
    let second = attempt(store.folder(), true);
    store.record_ended(&second, Some(&staging)).unwrap();
    let files = [SNAPSHOT_FILE, PREVIOUS_SNAPSHOT_FILE, INDEX_FILE].map(|name| store.folder().join(name));
    let before = files.each_ref().map(|path| fs::read(path).unwrap());
    assert_eq!(open(store.folder()).snapshot().unwrap().state.epoch(), 2);
    fs::remove_dir(&staging).unwrap();
    let third = attempt(store.folder(), true);
    store.record_ended(&third, Some(&staging)).unwrap();
    assert_eq!(files.map(|path| fs::read(path).unwrap()), before);
    assert_eq!(store.load(|_| {}).unwrap().state.epoch(), 3);
}

fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let names: Vec<_> = names.iter().map(|name| name.to_str().unwrap()).collect();
    copy_into(folder, copy.path(), &names);
    copy
}

fn copy_into(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        let (from, to) = (from.join(name), to.join(name));
        if from.is_dir() {
            fs::create_dir_all(&to).unwrap();
            let names: Vec<_> = fs::read_dir(&from).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            for name in names {
                fs::copy(from.join(&name), to.join(&name)).unwrap();
            }
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}
