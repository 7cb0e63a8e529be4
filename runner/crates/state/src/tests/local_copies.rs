//! Local copies of a remote state: what is uploaded, what is downloaded, and what becomes of lines that the remote never got.

use super::*;
use crate::{archive::ArchiveRange, journal_cache::WantedFile};
use journal::{
    JournalEvent, StepTarget,
    event::{Fingerprint, JournalEntry},
    line,
};

const PACKED: ArchiveRange = ArchiveRange { first: 1, last: 2 };

fn read(folder: &Path, name: &str) -> Option<String> {
    fs::read_to_string(folder.join(name)).ok()
}

fn lost(folder: &Path) -> Vec<String> {
    lost_lines::lost_files_in(folder).unwrap().iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn shorter_copies_become_the_remote_s_and_longer_ones_are_uploaded() {
    let (place, first) = (SharedMemoryStorage::default(), tempfile::tempdir().unwrap());
    let name = journal_name(1);
    place.deploy(first.path(), &[(1, "a\nb\n")]);
    // A shorter local copy, torn or not, is replaced by the remote one.
    for here in ["", "a\n", "a\nhalf"] {
        let second = tempfile::tempdir().unwrap();
        fs::write(second.path().join(&name), here).unwrap();
        place.pull(second.path()).unwrap();
        assert_eq!(read(second.path(), &name).unwrap(), "a\nb\n");
    }
    // A longer local copy stays, and the next holder uploads the rest.
    let second = tempfile::tempdir().unwrap();
    fs::write(second.path().join(&name), "a\nb\nc\n").unwrap();
    place.pull(second.path()).unwrap();
    assert_eq!(read(second.path(), &name).unwrap(), "a\nb\nc\n");
    place.deploy(second.path(), &[]);
    assert_eq!(place.manifest().journals[0].bytes, 6);
    // Diverged copies are refused, whichever is longer.
    for here in ["x\n", "a\nx\nc\nd\ne\n"] {
        let third = tempfile::tempdir().unwrap();
        fs::write(third.path().join(&name), here).unwrap();
        assert!(matches!(place.pull(third.path()), Err(StateError::Diverged { .. })), "{here:?}");
        assert_eq!(read(third.path(), &name).unwrap(), here, "what is here is not touched");
    }
}

#[test]
fn lines_that_a_later_attempt_ran_without_are_moved_away() {
    let (place, first) = (SharedMemoryStorage::default(), tempfile::tempdir().unwrap());
    place.deploy(first.path(), &[(1, "a\nb\n")]);
    place.deploy(first.path(), &[(3, "later\n")]);
    // A journal that is longer here, an attempt that was never uploaded, and one without a whole line.
    for (epoch, here, kept, moved) in [
        (1, "a\nb\nc\nd\n", Some("a\nb\n"), Some("c\nd\n")),
        (1, "a\nb\nhalf", Some("a\nb\n"), None),
        (2, "unheard\n", None, Some("unheard\n")),
        (2, "no whole li", None, None),
    ] {
        for has_snapshot in [false, true] {
            if has_snapshot {
                fs::write(first.path().join("snapshot.json"), snapshot(3)).unwrap();
                place.deploy(first.path(), &[]);
            }
            let second = tempfile::tempdir().unwrap();
            fs::write(second.path().join(journal_name(epoch)), here).unwrap();
            for _ in 0..2 {
                place.pull(second.path()).unwrap();
                assert_eq!(read(second.path(), &journal_name(epoch)).as_deref(), kept, "{here:?}");
                assert_eq!(lost(second.path()).first().map(String::as_str), moved, "{here:?}");
                assert_eq!(read(second.path(), &journal_name(3)).unwrap(), "later\n");
            }
        }
    }
}

#[test]
fn only_new_lines_and_at_the_end_snapshots_are_uploaded() {
    let (place, here, there) =
        (SharedMemoryStorage::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let journal = here.path().join(journal_name(1));
    runtime().unwrap().block_on(async {
        let lock = place.acquire(here.path()).await;
        let data_writes = || place.0.lock().unwrap().data_writes;
        assert_eq!(data_writes(), 1, "the first lock makes the manifest");
        lock.ensure_held().await.unwrap();
        assert_eq!(data_writes(), 1, "nothing new: only the lock is renewed");
        fs::write(&journal, "one\n").unwrap();
        lock.sync_journal(journal.clone()).await.unwrap();
        assert_eq!(data_writes(), 1, "it can wait for the next write");
        lock.ensure_held().await.unwrap();
        assert_eq!(data_writes(), 2);
        lock.ensure_held().await.unwrap();
        assert_eq!(data_writes(), 2);
        for (name, content) in [
            ("snapshot.json", snapshot(1)),
            ("snapshot-previous.json", snapshot(0)),
            ("index.jsonl", "first\n".to_owned()),
        ] {
            fs::write(here.path().join(name), content).unwrap();
        }
        lock.close(Duration::from_secs(20), "memory").await.unwrap();
        assert_eq!(data_writes(), 3);
    });
    let manifest = place.manifest();
    assert_eq!((manifest.snapshot_epoch, place.0.lock().unwrap().files.len()), (Some(1), 4));
    place.pull(there.path()).unwrap();
    assert_eq!(read(there.path(), "snapshot.json"), Some(snapshot(1)));
    assert_eq!(read(there.path(), &journal_name(1)).unwrap(), "one\n");
    assert_eq!((read(there.path(), "index.jsonl"), read(there.path(), "snapshot-previous.json")), (None, None));
    let copy = LocalCopy { folder: there.path(), location: "memory" };
    copy.pull(&mut place.clone(), &place.record(), &[WantedFile::Index, WantedFile::PreviousSnapshot]).unwrap();
    assert_eq!(read(there.path(), "index.jsonl").unwrap(), "first\n");
    assert_eq!(read(there.path(), "snapshot-previous.json"), Some(snapshot(0)));

    // A damaged snapshot is not uploaded.
    runtime().unwrap().block_on(async {
        let lock = place.acquire(there.path()).await;
        fs::write(there.path().join("snapshot.json"), snapshot(1).replace('1', "7")).unwrap();
        lock.close(Duration::from_secs(20), "memory").await.unwrap();
    });
    assert_eq!(place.manifest().snapshot, manifest.snapshot);
    // An index of before is not taken for a newer one.
    fs::write(here.path().join("index.jsonl"), "first\nsecond\n").unwrap();
    runtime().unwrap().block_on(async {
        let lock = place.acquire(there.path()).await;
        fs::write(there.path().join("index.jsonl"), "first\nother\n").unwrap();
        lock.close(Duration::from_secs(20), "memory").await.unwrap();
    });
    place.deploy(here.path(), &[]);
    assert!(place.manifest().index.unwrap().matches(b"first\nother\n"));
}

#[test]
fn archives_replace_their_journals_on_all_machines() {
    let (place, here, there) =
        (SharedMemoryStorage::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(here.path().join("snapshot.json"), snapshot(3)).unwrap();
    place.deploy(here.path(), &[(1, "one\n"), (2, "two\n"), (3, "three\n")]);
    place.pull(there.path()).unwrap();
    let pack = |folder: &Path| {
        fs::create_dir_all(folder.join("archive")).unwrap();
        fs::write(PACKED.path(folder), "packed").unwrap();
        for epoch in [1, 2] {
            fs::remove_file(folder.join(journal_name(epoch))).unwrap();
        }
    };
    pack(here.path());
    assert_eq!(read(there.path(), &journal_name(1)), None, "the snapshot has it");
    fs::write(there.path().join(journal_name(1)), "one\n").unwrap();
    // Lines that this machine never uploaded are kept, although the journal is in an archive now.
    fs::write(there.path().join(journal_name(2)), "two\nunheard\n").unwrap();
    runtime().unwrap().block_on(async {
        let lock = place.acquire(here.path()).await;
        fs::write(here.path().join("snapshot.json"), snapshot(4)).unwrap();
        lock.sync_journal(here.path().join(journal_name(4))).await.unwrap();
        fs::write(here.path().join(journal_name(4)), "four\n").unwrap();
        lock.close(Duration::from_secs(20), "memory").await.unwrap();
    });
    let manifest = place.manifest();
    assert_eq!(manifest.journals.iter().map(|journal| journal.epoch).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(manifest.archives.iter().map(|archive| (archive.first, archive.last)).collect::<Vec<_>>(), [(1, 2)]);
    assert_eq!(place.0.lock().unwrap().files.len(), 3, "the journals in the archive are gone");

    place.pull(there.path()).unwrap();
    assert_eq!([1, 2].map(|epoch| read(there.path(), &journal_name(epoch))), [None, None]);
    assert_eq!(lost(there.path()), ["unheard\n"]);
    let copy = LocalCopy { folder: there.path(), location: "memory" };
    copy.pull(&mut place.clone(), &place.record(), &[WantedFile::Archive(PACKED)]).unwrap();
    assert_eq!(read(there.path(), "archive/000001-000002.tar.zst").unwrap(), "packed");
}

#[test]
fn emptied_remote_gets_everything_back() {
    let (place, here) = (SharedMemoryStorage::default(), tempfile::tempdir().unwrap());
    fs::create_dir_all(here.path().join("archive")).unwrap();
    fs::write(PACKED.path(here.path()), "packed").unwrap();
    for (name, content) in [("snapshot.json", snapshot(3)), ("index.jsonl", "line\n".to_owned())] {
        fs::write(here.path().join(name), content).unwrap();
    }
    fs::write(here.path().join(journal_name(3)), "three\n").unwrap();
    runtime().unwrap().block_on(async {
        let lock = place.acquire(here.path()).await;
        assert_eq!(lock.record().epoch, 4);
        lock.ensure_held().await.unwrap();
        let manifest = place.manifest();
        assert_eq!((manifest.snapshot_epoch, manifest.journals.len(), manifest.archives.len()), (Some(3), 1, 1));
        drop(lock);
    });
    place.pull(here.path()).unwrap();
    assert_eq!(read(here.path(), "snapshot.json"), Some(snapshot(3)));
}

#[test]
fn attempt_whose_uploads_failed_is_uploaded_by_the_next() {
    for successes in 0..4 {
        let (place, here, there) =
            (SharedMemoryStorage::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        place.deploy(here.path(), &[(1, "one\n")]);
        runtime().unwrap().block_on(async {
            place.0.lock().unwrap().fails_after = Some(successes);
            let request = |wait| LockRequest { wait, ..LockRequest::new("ann@host") };
            let taking = |wait| RemoteLockParams {
                location: "memory".to_owned(),
                resource: "shop/test".to_owned(),
                folder: here.path().to_owned(),
                ttl: Duration::from_millis(300),
                request: request(wait),
            };
            let remote = place.clone();
            if let Ok((lock, _)) = RemoteLock::acquire(move || Ok(Box::new(remote)), taking(LockWait::Default)).await {
                let journal = here.path().join(journal_name(2));
                for text in ["two\n", "two\nthree\n"] {
                    fs::write(&journal, text).unwrap();
                    lock.sync_journal(journal.clone()).await.unwrap();
                    let _ = lock.ensure_held().await;
                }
                let _ = lock.close(Duration::from_secs(20), "memory").await;
            }
            place.0.lock().unwrap().fails_after = None;
            let is_written = here.path().join(journal_name(2)).exists();
            let remote = place.clone();
            let wait = LockWait::For(Duration::from_secs(5));
            let (lock, _) = RemoteLock::acquire(move || Ok(Box::new(remote)), taking(wait)).await.unwrap();
            lock.close(Duration::from_secs(20), "memory").await.unwrap();
            assert_eq!(place.manifest().journals.len(), 1 + usize::from(is_written));
            place.pull(there.path()).unwrap();
            assert_eq!(read(there.path(), &journal_name(2)).is_some(), is_written);
        });
        assert_eq!(lost(here.path()), Vec::<String>::new());
    }
}

#[test]
fn steps_that_lost_lines_say_have_begun_are_noted_once() {
    let (place, first, second) =
        (SharedMemoryStorage::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    place.deploy(first.path(), &[(2, "later\n")]);
    let target = |step: &str| StepTarget { step: step.parse().unwrap(), target: "local".parse().unwrap() };
    let intent = |step: &str| {
        let event = JournalEvent::Intent {
            step_target: target(step),
            key: String::new(),
            fingerprint: Fingerprint::default(),
            input: serde_json::Value::Null,
            exposes: false,
            release: None,
        };
        line::encode(&JournalEntry { seq: 0, prev: None, at: clock::now(), event }).bytes
    };
    let earlier = serde_json::to_vec(&[target("earlier")]).unwrap();
    fs::write(second.path().join("begun.json"), earlier).unwrap();
    let lines = intent("pull");
    for _ in 0..2 {
        fs::write(second.path().join(journal_name(1)), &lines).unwrap();
        place.pull(second.path()).unwrap();
        let noted: Vec<StepTarget> =
            serde_json::from_slice(&fs::read(second.path().join("begun.json")).unwrap()).unwrap();
        assert_eq!(noted, [target("earlier"), target("pull")]);
        assert_eq!(lost(second.path()).len(), 1);
    }
}

#[test]
fn damaged_lines_here_become_the_remote_s_and_other_lines_do_not() {
    let line = |text: &str| {
        let event = JournalEvent::Torn { file: text.to_owned(), bytes: 1 };
        String::from_utf8(line::encode(&JournalEntry { seq: 0, prev: None, at: clock::now(), event }).bytes).unwrap()
    };
    let (first, second, other) = (line("first"), line("second"), line("other"));
    let (remote, damaged) = (format!("{first}{second}"), second.replace("second", "Second"));
    let (place, here) = (SharedMemoryStorage::default(), tempfile::tempdir().unwrap());
    place.deploy(here.path(), &[(1, &remote)]);
    for content in [
        format!("{first}{damaged}"),
        first.replace("first", "First"),
        format!("{}{second}", first.replace("first", "First")),
    ] {
        let machine = tempfile::tempdir().unwrap();
        let path = machine.path().join(journal_name(1));
        fs::write(&path, &content).unwrap();
        place.pull(machine.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), remote);
    }
    // Another history, and lines that are not uploaded yet.
    for content in [format!("{other}{damaged}"), format!("{first}{damaged}{other}")] {
        let machine = tempfile::tempdir().unwrap();
        fs::write(machine.path().join(journal_name(1)), &content).unwrap();
        assert!(matches!(place.pull(machine.path()), Err(StateError::Diverged { .. })), "{content}");
    }
}
