//! Checkpoints of long histories: what they carry, and what they become on a new machine, on the same one, and on one with a history
//! of its own.

use std::{collections::BTreeMap, path::Path, time::Duration};

use contract::{
    diagnostic::ExitKind,
    step::{Receipt, StepOutcome},
};
use journal::{
    Journal, JournalState, Redactor, StepTarget,
    event::{Fingerprint, JournalHeader},
    file::StepEffect,
};

use super::*;
use crate::{
    history::{ArchivePolicy, HistoryFolder},
    tests::header,
};

/// Small archives, so that few attempts make several.
const POLICY: ArchivePolicy = ArchivePolicy { length: 4, min_loose: 2 };

pub(super) fn state_of(folder: &Path) -> JournalState {
    let history = HistoryFolder::open(folder).unwrap();
    let state = history.load(|_| {}).unwrap().state;
    assert_eq!(history.load_all(|_| {}).unwrap().state, state, "the snapshot says what the journals say");
    state
}

fn switch() -> StepTarget {
    StepTarget { step: "switch".parse().unwrap(), target: "local".parse().unwrap() }
}

/// An attempt of a run, as a deployment makes it.
pub(super) fn deploy(folder: &Path, run: &str) -> JournalState {
    deploy_on_page(folder, run, None)
}

/// An attempt of a run in a workflow run.
fn deploy_on_page(folder: &Path, run: &str, url: Option<&str>) -> JournalState {
    let history = HistoryFolder::open(folder).unwrap();
    let loaded = history.load(|_| {}).unwrap();
    if loaded.state.epoch() > 0 {
        history.record(&loaded.state, &loaded.summaries, POLICY, None).unwrap();
    }
    let epoch = loaded.state.epoch() + 1;
    let header = JournalHeader { url: url.map(ToOwned::to_owned), ..header(epoch, run) };
    let path = folder.join(journal_name(epoch));
    let mut journal = Journal::create(&path, header, loaded, Redactor::default(), Box::new(|_| {})).unwrap();
    let (fingerprint, input) = (Fingerprint::default(), serde_json::json!({ "epoch": epoch }));
    let intent = journal.record_intent(&switch(), "key", fingerprint, input, StepEffect::Exposing).unwrap();
    let done = StepOutcome::Succeeded { receipt: Receipt::default() };
    journal.record_outcome(intent.complete(done, Duration::from_millis(1))).unwrap();
    journal.record_end(ExitKind::Success, true).unwrap();
    let state = journal.state().clone();
    let history = HistoryFolder::open(folder).unwrap();
    history.record(&state, state.attempts.last().cloned().as_slice(), POLICY, None).unwrap();
    state
}

/// A machine on which runs had so many attempts.
pub(super) fn machine(runs: &[(&str, usize)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (run, attempts) in runs {
        (0..*attempts).for_each(|_| drop(deploy(folder.path(), run)));
    }
    folder
}

pub(super) fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in files_in(folder) {
        std::fs::create_dir_all(copy.path().join(&name).parent().unwrap()).unwrap();
        std::fs::write(copy.path().join(name), bytes).unwrap();
    }
    copy
}

pub(super) fn files_in(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for (inner, prefix) in [(folder.to_owned(), ""), (folder.join("archive"), "archive/")] {
        for entry in std::fs::read_dir(inner).into_iter().flatten().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
                files.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

/// What another machine downloads.
pub(super) fn downloaded(folder: &Path, key: Option<&CheckpointKey>) -> UnpackedCheckpoint {
    let content = content_of(folder);
    let zip = content.pack(&identity(), 1, None, key);
    unpack_with_test_identity(&zip, (1, content.lines), key).unwrap()
}

pub(super) fn restored(folder: &Path, key: Option<&CheckpointKey>) -> tempfile::TempDir {
    let other = tempfile::tempdir().unwrap();
    merge_into_folder(other.path(), &downloaded(folder, key), "artifact").unwrap();
    other
}

/// A checkpoint that can't be merged changes nothing.
fn assert_diverged(folder: &Path, checkpoint: &UnpackedCheckpoint) {
    let before = files_in(folder);
    let merged = merge_into_folder(folder, checkpoint, "artifact");
    assert!(matches!(merged, Err(StateError::Diverged { .. })), "{merged:?}");
    assert_eq!(files_in(folder), before);
}

#[test]
fn checkpoint_of_a_long_history_carries_a_snapshot_and_this_run() {
    let first = machine(&[("1-old", 20), ("21-new", 3)]);
    assert!(files_in(first.path()).keys().any(|name| name.starts_with("archive/")));
    let content = content_of(first.path());
    let zip = content.pack(&identity(), 1, None, Some(&key("k")));
    let mut archive = ZipArchive::new(Cursor::new(&zip)).unwrap();
    let names: Vec<_> =
        (0..archive.len()).map(|at| archive.by_index(at).unwrap().name().unwrap().into_owned()).collect();
    assert_eq!(names, ["pawl.json", "snapshot-base.json", &journal_name(21), &journal_name(22), &journal_name(23)]);
    let manifest: serde_json::Value = serde_json::from_reader(archive.by_name("pawl.json").unwrap()).unwrap();
    assert_eq!((&manifest["version"], &manifest["snapshot"]["epoch"]), (&serde_json::json!(2), &serde_json::json!(20)));
    // A run whose first attempt is the first of all needs no snapshot.
    let young = machine(&[("1-old", 2)]);
    let content = content_of(young.path());
    assert_eq!((content.base.is_none(), content.journals.len()), (true, 2));
}

#[test]
fn checkpoint_keeps_its_start_when_journals_move_into_an_archive() {
    let folder = machine(&[("1-old", 3), ("4-new", 2)]);
    let start = CheckpointStart::find(folder.path(), None).unwrap();
    let before = CheckpointContent::read(folder.path(), start.as_ref()).unwrap();
    (0..6).for_each(|_| drop(deploy(folder.path(), "4-new")));
    assert!(!folder.path().join(journal_name(4)).exists(), "it lies in an archive");
    let after = CheckpointContent::read(folder.path(), start.as_ref()).unwrap();
    assert_eq!(
        after.journals[..2].iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(),
        before.journals.iter().map(|(_, bytes)| bytes).collect::<Vec<_>>()
    );
    assert_eq!(after.journals.len(), 8);
}

/// A job deploys one release, which a machine had begun before the workflow run, and then another one.
#[test]
fn checkpoint_of_a_later_process_begins_no_later() {
    let folder = machine(&[("1-first", 3)]);
    let page = Some("https://github.example/acme/shop/actions/runs/2");
    let content = || CheckpointContent::of_run(folder.path(), page).unwrap();
    assert_eq!(content().lines, 0, "nothing is of this workflow run");
    deploy_on_page(folder.path(), "1-first", page);
    let first = content();
    deploy_on_page(folder.path(), "5-second", page);
    let second = content();
    assert_eq!((first.lines, second.lines), (16, 20));
    let unpack = |content: &CheckpointContent| {
        unpack_with_test_identity(&content.pack(&identity(), 1, None, None), (1, content.lines), None).unwrap()
    };
    assert!(contains_all(&unpack(&second), &unpack(&first)));
    // What another workflow run did since changes nothing.
    deploy_on_page(folder.path(), "6-other", Some("https://github.example/acme/shop/actions/runs/3"));
    assert_eq!(content().lines, 24);
}

#[test]
fn every_changed_byte_of_the_snapshot_is_detected() {
    let (folder, key) = (machine(&[("1-old", 2), ("3-new", 1)]), key("k"));
    let content = content_of(folder.path());
    let zip = content.pack(&identity(), 1, None, Some(&key));
    let genuine = unpack_with_test_identity(&zip, (1, content.lines), Some(&key)).unwrap();
    for at in 0..zip.len() {
        let mut changed = zip.clone();
        changed[at] ^= 0x10;
        if let Ok(kept) = unpack_with_test_identity(&changed, (1, content.lines), Some(&key)) {
            assert_eq!((kept.base, kept.trust), (genuine.base.clone(), genuine.trust));
        }
    }
    // Another history's snapshot has no valid MAC, and does not match the manifest either.
    let other = content_of(machine(&[("1-other", 2), ("3-new", 1)]).path());
    let mixed = CheckpointContent { base: other.base, ..content.clone() };
    let mixed = mixed.pack(&identity(), 1, None, None);
    assert!(matches!(unpack_with_test_identity(&mixed, (1, content.lines), Some(&key)), Err(BundleError::KeyAdded)));
    let mixed = unpack_with_test_identity(&mixed, (1, content.lines), None).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let merged = merge_into_folder(empty.path(), &mixed, "artifact");
    assert!(matches!(merged, Err(StateError::InvalidCheckpoint { .. })), "{merged:?}: the journal does not follow it");
    assert_eq!(files_in(empty.path()), BTreeMap::new());
}

#[test]
fn new_machine_goes_on_with_the_same_state() {
    let (first, key) = (machine(&[("1-old", 20), ("21-new", 2)]), key("k"));
    let second = restored(first.path(), Some(&key));
    assert_eq!(state_of(second.path()), state_of(first.path()));
    // Its own attempts, archives and checkpoints follow.
    for _ in 0..9 {
        let (here, there) = (deploy(second.path(), "21-new"), deploy(first.path(), "21-new"));
        assert_eq!(here.head.live, there.head.live);
        assert_eq!(here.epoch(), there.epoch());
        state_of(second.path());
    }
    assert!(files_in(second.path()).keys().any(|name| name.starts_with("archive/")));
    let third = restored(second.path(), Some(&key));
    assert_eq!(state_of(third.path()), state_of(second.path()));
    // Of the attempts before the snapshot, the newest ones are known.
    let history = HistoryFolder::open(second.path()).unwrap();
    let known = history.newest_attempts(usize::MAX).unwrap();
    assert_eq!(known.first().unwrap().header.epoch, 31);
    assert!(known.len() >= 20 && known.windows(2).all(|pair| pair[0].header.epoch == pair[1].header.epoch + 1));
}

#[test]
fn snapshot_without_a_key_makes_nothing_count_as_done() {
    let first = machine(&[("1-old", 3), ("4-new", 1)]);
    let trusted = state_of(first.path());
    assert!(trusted.authenticated_receipt(&switch()).is_some() && trusted.head.live.is_some());
    let second = restored(first.path(), None);
    let state = state_of(second.path());
    assert!(state.authenticated_receipt(&switch()).is_none());
    assert_eq!((&state.head.live, state.head.verified.len()), (&None, 0));
    assert!(state.records.values().all(|record| record.trust == JournalTrust::Untrusted));
    // Nor when a machine with a key hands it on.
    let key = key("k");
    assert_eq!(state_of(restored(second.path(), Some(&key)).path()), state);
    // The authentic checkpoint replaces it.
    merge_into_folder(second.path(), &downloaded(first.path(), Some(&key)), "artifact").unwrap();
    assert_eq!(state_of(second.path()), trusted);
}

#[test]
fn same_machine_keeps_what_it_has() {
    let key = key("k");
    for key in [None, Some(&key)] {
        let here = machine(&[("1-old", 7), ("8-new", 2)]);
        let (checkpoint, before) = (downloaded(here.path(), key), files_in(here.path()));
        assert_eq!(content_of(here.path()).compare_with(&checkpoint), ChainComparison::Covered);
        merge_into_folder(here.path(), &checkpoint, "artifact").unwrap();
        assert_eq!(files_in(here.path()), before, "covered");
        // It goes on, and archives the first journals of the run.
        (0..6).for_each(|_| drop(deploy(here.path(), "8-new")));
        let before = files_in(here.path());
        assert_eq!(content_of(here.path()).compare_with(&checkpoint), ChainComparison::Ahead);
        assert!(contains_all(&downloaded(here.path(), key), &checkpoint));
        merge_into_folder(here.path(), &checkpoint, "artifact").unwrap();
        assert_eq!(files_in(here.path()), before, "ahead");
    }
}

#[test]
fn machine_with_a_part_of_the_run_gets_the_rest() {
    let (first, key) = (machine(&[("1-old", 6), ("7-new", 1)]), key("k"));
    let second = restored(first.path(), Some(&key));
    let local = copy_of(first.path());
    (0..2).for_each(|_| drop(deploy(second.path(), "7-new")));
    let checkpoint = downloaded(second.path(), Some(&key));
    assert_eq!(content_of(local.path()).compare_with(&checkpoint), ChainComparison::Covered);
    merge_into_folder(local.path(), &checkpoint, "artifact").unwrap();
    assert_eq!(state_of(local.path()), state_of(second.path()));
    // Two that went on apart stay apart.
    deploy(first.path(), "7-new");
    assert_eq!(content_of(first.path()).compare_with(&checkpoint), ChainComparison::Diverged);
    assert_diverged(first.path(), &checkpoint);
    // So do two histories of their own.
    assert_diverged(machine(&[("1-other", 9)]).path(), &checkpoint);
    assert_diverged(machine(&[("1-other", 2)]).path(), &checkpoint);
}

#[test]
fn older_and_longer_checkpoints_meet_the_local_snapshot() {
    let (first, key) = (machine(&[("1-old", 4), ("5-new", 1)]), key("k"));
    let older = downloaded(first.path(), Some(&key));
    (0..3).for_each(|_| drop(deploy(first.path(), "6-newer")));
    // This machine begins with the state after epoch 5, which the older checkpoint ends with.
    let later = restored(first.path(), Some(&key));
    assert_eq!(HistoryFolder::open(later.path()).unwrap().base.epoch(), 5);
    let before = files_in(later.path());
    merge_into_folder(later.path(), &older, "artifact").unwrap();
    assert_eq!(files_in(later.path()), before);
    // A checkpoint of the first version has all journals.
    let all = HistoryFolder::open(first.path()).unwrap().journals_from(1).unwrap();
    let trust = JournalTrust::Authenticated;
    let journals = all.into_iter().map(|(epoch, _, bytes)| CheckpointJournal { epoch, bytes, trust }).collect();
    deploy(first.path(), "6-newer");
    let whole = UnpackedCheckpoint { base: None, trust, journals };
    merge_into_folder(later.path(), &whole, "artifact").unwrap();
    assert_eq!(files_in(later.path()), before);
    // Another history does not meet it.
    let other = machine(&[("1-other", 5)]);
    assert_diverged(later.path(), &downloaded(other.path(), Some(&key)));
}

#[test]
fn snapshot_continues_a_machine_that_has_missed_other_runs() {
    let (first, key) = (machine(&[("1-old", 3)]), key("k"));
    let behind = copy_of(first.path());
    (0..2).for_each(|_| drop(deploy(first.path(), "4-missed")));
    deploy(first.path(), "6-new");
    let checkpoint = downloaded(first.path(), Some(&key));
    let authentic = copy_of(behind.path());
    merge_into_folder(authentic.path(), &checkpoint, "artifact").unwrap();
    assert_eq!(state_of(authentic.path()), state_of(first.path()));
    deploy(authentic.path(), "6-new");
    // Without a key, what this machine recorded itself keeps its trust: what is live, and which releases are verified.
    let own = state_of(behind.path());
    let suggested = copy_of(behind.path());
    merge_into_folder(suggested.path(), &downloaded(first.path(), None), "artifact").unwrap();
    let state = state_of(suggested.path());
    assert_eq!((state.epoch(), &state.head), (6, &own.head));
    assert!(state.authenticated_receipt(&switch()).is_none(), "another attempt has run it since");
    deploy(suggested.path(), "6-new");
    // A machine that went on alone is not continued.
    deploy(behind.path(), "4-alone");
    assert_diverged(behind.path(), &checkpoint);
}
