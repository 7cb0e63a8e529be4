//! The refs of a state in git: what a push changes, who may push, and how the state of an older runner becomes one of these.

use super::*;
use crate::{archive::ArchiveRange, journal_cache::WantedFile};

const LOCK: &str = "refs/pawl-state/shop/test/lock";
const DATA: &str = "refs/pawl-state/shop/test/data";
const PACKED: ArchiveRange = ArchiveRange { first: 1, last: 2 };
const OLD: &str = "refs/pawl/shop/test";

struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("git").args(["init", "--quiet", "--bare"]).arg(folder.path()).status();
        assert!(made.expect("git can't be run; `cargo xtask setup` installs it").success());
        Self(folder)
    }

    fn git(&self, words: &[&str]) -> String {
        let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
        let output = Command::new("git").arg("-C").arg(self.0.path()).args(author).args(words).output().unwrap();
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, reference: &str) -> String {
        self.git(&["rev-parse", reference])
    }

    fn refs(&self) -> Vec<String> {
        self.git(&["for-each-ref", "--format=%(refname)"]).lines().map(ToOwned::to_owned).collect()
    }

    fn json(&self, file: &str) -> serde_json::Value {
        serde_json::from_str(&self.git(&["show", file])).unwrap()
    }

    /// A ref whose commit has these files.
    fn write(&self, reference: &str, files: &[(&str, &str)]) {
        let mut listing = String::new();
        for (name, content) in files {
            fs::write(self.0.path().join("content"), content).unwrap();
            listing.push_str(&format!("100644 blob {}\t{name}\n", self.git(&["hash-object", "-w", "content"])));
        }
        fs::write(self.0.path().join("listing"), listing).unwrap();
        let listing = fs::File::open(self.0.path().join("listing")).unwrap();
        let tree = Command::new("git").arg("-C").arg(self.0.path()).arg("mktree").stdin(listing).output().unwrap();
        let tree = String::from_utf8(tree.stdout).unwrap();
        let commit = self.git(&["commit-tree", "-m", "state", tree.trim()]);
        self.git(&["update-ref", reference, &commit]);
    }

    fn machine(&self) -> (StateStore, tempfile::TempDir) {
        let cache = tempfile::tempdir().unwrap();
        (git_store(self.0.path(), cache.path()), cache)
    }

    /// Another process of that machine.
    fn another_process(&self, cache: &tempfile::TempDir) -> StateStore {
        git_store(self.0.path(), cache.path())
    }
}

fn journal_paths(store: &StateStore) -> Result<Vec<PathBuf>, StateError> {
    store.pull_recent()?;
    Ok(journals_in(store.folder())?.into_iter().map(|(_, path)| path).collect())
}

async fn acquire(store: &StateStore) -> Result<DeploymentLock, LockError> {
    store.acquire_lock(LockRequest::new("ann@host")).await
}

/// A deployment that writes a journal, and with `snapshot` what an attempt that ends leaves.
async fn deploy(store: &StateStore, text: &str, has_snapshot: bool) -> u64 {
    let mut lock = acquire(store).await.unwrap();
    let epoch = lock.next_epoch(0).unwrap();
    let journal = store.journal_path(epoch);
    fs::write(&journal, text).unwrap();
    lock.sync_journal(&journal).await.unwrap();
    lock.ensure_held().await.unwrap();
    fs::write(&journal, format!("{text}end\n")).unwrap();
    if has_snapshot {
        fs::write(store.folder().join("snapshot.json"), snapshot(epoch)).unwrap();
    }
    lock.close(Duration::from_secs(20)).await.unwrap();
    epoch
}

/// The record of an older runner, and its journals.
fn write_version_1(repository: &Repository, holder: Option<&str>) {
    let journal = |epoch: u64, text: &str, parts: &[&str]| serde_json::json!({ "epoch": epoch, "bytes": text.len(), "hash": Blake3Hash::of(text.as_bytes()), "parts": parts });
    let record = serde_json::json!({
        "version": 1,
        "lock": {
            "resource": "shop/test", "epoch": 2, "nonce": if holder.is_some() { "00ff" } else { "" }, "counter": 3,
            "ttl-ms": holder.map(|_| 400), "holder": holder.map(|who| serde_json::json!({ "who": who })),
            "since": "2026-11-29T10:00:00Z",
        },
        "journals": [
            journal(1, "one\n", &["attempt-000001.journal-12345678"]),
            journal(2, "two\nand\n", &["attempt-000002.journal-0000-12345678.part", "attempt-000002.journal-0001-12345678.part"]),
        ],
        "released": [{ "epoch": 1, "holder": "bob@host", "by": "ann@host", "at": "2026-11-29T10:00:00Z", "message": "it hangs" }],
    });
    repository.write(
        OLD,
        &[
            ("attempt-000001.journal-12345678", "one\n"),
            ("attempt-000002.journal-0000-12345678.part", "two\n"),
            ("attempt-000002.journal-0001-12345678.part", "and\n"),
            ("state.json", &record.to_string()),
        ],
    );
}

#[test]
fn first_lock_makes_refs_and_a_record_that_older_runners_refuse() {
    let repository = Repository::new();
    let (store, _cache) = repository.machine();
    runtime().unwrap().block_on(async {
        let lock = acquire(&store).await.unwrap();
        assert_eq!(repository.refs(), [DATA, LOCK, OLD]);
        let old = repository.json(&format!("{OLD}:state.json"));
        assert_eq!((old["version"].as_u64(), old["lock"]["holder"].is_null()), (Some(2), true));
        assert_eq!((old["lock"]["epoch"].as_u64(), old["journals"].as_array().map(Vec::len)), (Some(1), Some(0)));
        lock.close(Duration::from_secs(20)).await.unwrap();
    });
    let record = repository.json(&format!("{LOCK}:lock.json"));
    let data = repository.json(&format!("{DATA}:state.json"));
    assert_eq!(record["revision"], data["revision"], "lock and data belong together");
    assert!(data["lock"].is_null());
}

#[test]
fn renewals_change_the_lock_only_and_data_have_a_history() {
    let repository = Repository::new();
    let (store, _cache) = repository.machine();
    runtime().unwrap().block_on(async {
        deploy(&store, "one\n", true).await;
        let data = repository.commit(DATA);
        let lock = acquire(&store).await.unwrap();
        let taken = repository.commit(LOCK);
        lock.ensure_held().await.unwrap();
        assert_ne!(repository.commit(LOCK), taken);
        assert_eq!(repository.commit(DATA), data, "neither taking nor renewing the lock changes the data");
        lock.close(Duration::from_secs(20)).await.unwrap();
        assert_eq!(repository.commit(DATA), data, "there was nothing to upload");
        deploy(&store, "two\n", true).await;
        assert_eq!(repository.commit(&format!("{DATA}~2")), data, "one with the intent, one with the end");
        assert_eq!(repository.git(&["rev-list", "--count", LOCK]), "1");
    });
}

#[test]
fn fenced_holder_can_write_neither_lock_nor_data() {
    let repository = Repository::new();
    let ((first, one), (second, _two)) = (repository.machine(), repository.machine());
    runtime().unwrap().block_on(async {
        let mut old = acquire(&first).await.unwrap();
        let epoch = old.next_epoch(0).unwrap();
        second.release_lock("bob@host", "it hangs", true).unwrap();
        deploy(&second, "two\n", true).await;
        let (lock, data) = (repository.commit(LOCK), repository.commit(DATA));
        fs::write(first.journal_path(epoch), "late\n").unwrap();
        old.sync_journal(&first.journal_path(epoch)).await.unwrap();
        assert!(matches!(old.ensure_held().await, Err(LockError::Lost { epoch: 1, .. })));
        assert!(matches!(old.close(Duration::from_secs(20)).await, Err(LockError::Lost { .. })));
        assert_eq!((repository.commit(LOCK), repository.commit(DATA)), (lock, data));
        // The next command on that machine works, and the lines are kept.
        let first = repository.another_process(&one);
        let paths = journal_paths(&first).unwrap();
        assert_eq!(paths.iter().filter_map(|path| epoch_of(path)).collect::<Vec<_>>(), [2]);
        assert_eq!(first.inspect_local_copy().unwrap().lost.len(), 1);
        assert_eq!(deploy(&first, "three\n", true).await, 3);
    });
}

#[test]
fn machines_fetch_the_newest_data_into_shallow_caches() {
    let repository = Repository::new();
    let ((first, one), (second, two)) = (repository.machine(), repository.machine());
    runtime().unwrap().block_on(async {
        for round in 0..5 {
            for store in [&first, &first, &second] {
                deploy(store, &format!("{round}\n"), true).await;
            }
        }
    });
    let (fresh, three) = repository.machine();
    journal_paths(&fresh).unwrap();
    for (cache, most) in [(one, 4), (two, 4), (three, 1)] {
        let folders = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path().join("repository.git"));
        let folder = folders.into_iter().find(|path| path.exists()).unwrap();
        let known = Command::new("git").arg("-C").arg(folder).args(["rev-list", "--count", DATA]).output().unwrap();
        let known: u32 = String::from_utf8(known.stdout).unwrap().trim().parse().unwrap();
        assert!(known <= most, "{known} commits");
    }
    assert_eq!(repository.git(&["rev-list", "--count", DATA]), "31", "the host has them all");
    let report = fresh.inspect_local_copy().unwrap();
    assert_eq!(report, LocalCopyReport::default());
    assert_eq!(fresh.listed().unwrap().unwrap().journals.len(), 15);
    assert!(!fresh.journal_path(1).exists());
    fresh.pull(&[WantedFile::Journal(1), WantedFile::Journal(7)]).unwrap();
    assert_eq!(fs::read_to_string(fresh.journal_path(1)).unwrap(), "0\nend\n");
    assert!(fresh.journal_path(7).exists() && !fresh.journal_path(8).exists());
}

#[test]
fn version_1_is_read_as_it_is_and_migrated_by_the_first_lock() {
    let repository = Repository::new();
    write_version_1(&repository, None);
    let ((first, one), (second, _two)) = (repository.machine(), repository.machine());
    assert_eq!(journal_paths(&first).unwrap().len(), 2);
    assert_eq!(first.forced_releases().unwrap()[0].message, "it hangs");
    assert!(matches!(first.lock_status(false).unwrap(), (Some(_), LockStatus::Free)));
    assert_eq!(repository.refs(), [OLD], "reading changes nothing");
    runtime().unwrap().block_on(async {
        let lock = acquire(&first).await.unwrap();
        assert_eq!((lock.record().epoch, repository.refs()), (3, [DATA, LOCK, OLD].map(ToOwned::to_owned).to_vec()));
        assert_eq!(repository.json(&format!("{OLD}:state.json"))["version"], 2);
        lock.close(Duration::from_secs(20)).await.unwrap();
        assert_eq!(repository.json(&format!("{DATA}:state.json"))["journals"][1]["parts"].as_array().unwrap().len(), 1);
        assert_eq!(deploy(&second, "four\n", false).await, 4);
    });
    assert_eq!(fs::read_to_string(second.journal_path(2)).unwrap(), "two\nand\n");
    assert_eq!(journal_paths(&repository.another_process(&one)).unwrap().len(), 3);
    assert_eq!(first.forced_releases().unwrap()[0].message, "it hangs");
}

#[test]
fn lock_of_an_older_runner_is_respected_until_it_expires() {
    let repository = Repository::new();
    write_version_1(&repository, Some("bob@host"));
    let (store, _cache) = repository.machine();
    runtime().unwrap().block_on(async {
        assert!(matches!(acquire(&store).await, Err(LockError::Held { record: Some(_), .. })));
        assert_eq!(repository.refs(), [OLD]);
        let request = LockRequest { wait: LockWait::For(Duration::from_secs(5)), ..LockRequest::new("ann@host") };
        let lock = store.acquire_lock(request).await.unwrap();
        assert_eq!(lock.record().epoch, 3);
        lock.close(Duration::from_secs(20)).await.unwrap();
    });
}

#[test]
fn old_ref_that_changes_during_the_migration_is_respected() {
    let repository = Repository::new();
    write_version_1(&repository, None);
    let (store, cache) = repository.machine();
    let StateLocation::Remote(state) = git_location(repository.0.path(), cache.path()) else { unreachable!() };
    let remote = repository.0.path().to_string_lossy().into_owned();
    let mut storage = git::GitStorage::new(&state, &remote, "shop/test", cache.path()).unwrap();
    let seen = storage.read_record().unwrap();
    // An older runner takes the lock in between.
    write_version_1(&repository, Some("bob@host"));
    let change = RecordUpdate {
        expected: &seen,
        lock: &seen.lock,
        manifest: Some(&seen.manifest),
        files: &[],
        removed: &[],
        archives: &[],
        message: "taken",
    };
    assert!(storage.compare_and_swap(&change).is_err());
    assert_eq!(repository.refs(), [OLD], "all or nothing");
    assert!(matches!(store.lock_status(false).unwrap(), (Some(_), LockStatus::Unknown)));
}

#[test]
fn refs_that_do_not_belong_together_are_healed_by_the_next_lock() {
    let repository = Repository::new();
    let (store, _cache) = repository.machine();
    runtime().unwrap().block_on(async {
        deploy(&store, "one\n", true).await;
        let before = repository.commit(DATA);
        deploy(&store, "two\n", true).await;
        // A host that crashed in the middle of a push moved only one of them.
        repository.git(&["update-ref", DATA, &before]);
        let (other, other_cache) = repository.machine();
        assert_eq!(journal_paths(&other).unwrap().len(), 1);
        let lock = acquire(&other).await.unwrap();
        let (record, data) = (format!("{LOCK}:lock.json"), format!("{DATA}:state.json"));
        assert_eq!(repository.json(&record)["revision"], repository.json(&data)["revision"]);
        lock.close(Duration::from_secs(20)).await.unwrap();
        // The machine that wrote the second attempt still has it, and uploads it again.
        assert_eq!(deploy(&store, "three\n", true).await, 4);
        let other = repository.another_process(&other_cache);
        other.pull_recent().unwrap();
        assert_eq!(other.listed().unwrap().unwrap().journals, [1, 2, 4]);
    });
}

#[test]
fn host_without_atomic_pushes_is_refused() {
    let repository = Repository::new();
    repository.git(&["config", "receive.advertiseAtomic", "false"]);
    let (store, _cache) = repository.machine();
    runtime().unwrap().block_on(async {
        let Err(LockError::State(StateError::NoConditionalWrites { why, .. })) = acquire(&store).await else {
            panic!("the host can't push two refs at once");
        };
        assert!(why.contains("--atomic"), "{why}");
    });
}

#[test]
fn archives_have_refs_of_their_own() {
    let repository = Repository::new();
    let ((first, _one), (second, _two)) = (repository.machine(), repository.machine());
    runtime().unwrap().block_on(async {
        for _ in 0..3 {
            deploy(&first, "line\n", true).await;
        }
        let lock = acquire(&first).await.unwrap();
        fs::create_dir_all(first.folder().join("archive")).unwrap();
        fs::write(PACKED.path(first.folder()), "packed").unwrap();
        for epoch in [1, 2] {
            fs::remove_file(first.journal_path(epoch)).unwrap();
        }
        lock.close(Duration::from_secs(20)).await.unwrap();
    });
    let archive = "refs/pawl-state/shop/test/archive/000001-000002";
    assert_eq!(repository.git(&["show", &format!("{archive}:archive.tar.zst")]), "packed");
    second.pull_recent().unwrap();
    let listed = second.listed().unwrap().unwrap();
    assert_eq!((listed.journals, listed.archives), (vec![3], vec![PACKED]));
    second.pull(&[WantedFile::Archive(PACKED)]).unwrap();
    assert_eq!(fs::read_to_string(PACKED.path(second.folder())).unwrap(), "packed");
}

#[test]
fn reset_takes_the_remote_s_history() {
    let repository = Repository::new();
    let ((first, one), (second, _two)) = (repository.machine(), repository.machine());
    runtime().unwrap().block_on(async {
        for text in ["a\n", "b\n", "c\n"] {
            deploy(&first, text, true).await;
        }
        for name in repository.refs() {
            repository.git(&["update-ref", "-d", &name]);
        }
        deploy(&second, "other\n", true).await;
    });
    let first = repository.another_process(&one);
    assert!(matches!(journal_paths(&first), Err(StateError::Diverged { .. })));
    let report = first.inspect_local_copy().unwrap();
    assert_eq!((report.diverged, report.not_uploaded.len()), (vec![first.journal_path(1)], 2));
    assert_eq!(first.reset_local_copy().unwrap().len(), 3);
    assert_eq!(journal_paths(&first).unwrap(), [first.journal_path(1)]);
    assert_eq!(fs::read_to_string(first.journal_path(1)).unwrap(), "other\nend\n");
}
