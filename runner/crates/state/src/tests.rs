//! Tests of the whole store: folders, a real git repository, and an in-memory backend that loses replies.

use std::{collections::BTreeMap, process::Command, sync::Mutex};

use super::*;
use contract::hash::Blake3Hash;

fn store(location: &StateLocation) -> StateStore {
    StateStore::new(location, &"shop".parse().unwrap(), &"test".parse().unwrap())
}

#[test]
fn journals_are_in_epoch_order_without_other_files() {
    let root = tempfile::tempdir().unwrap();
    let store = store(&StateLocation::Dir(root.path().to_owned()));
    assert_eq!(journals_in(store.folder()).unwrap(), []);
    fs::create_dir_all(store.folder()).unwrap();
    for name in ["attempt-000010.journal", "attempt-1000000.journal", "attempt-000009.journal", "lock", "x.journal"] {
        fs::write(store.folder().join(name), "").unwrap();
    }
    let epochs: Vec<_> = journals_in(store.folder()).unwrap().into_iter().map(|(epoch, _)| epoch).collect();
    assert_eq!(epochs, [9, 10, 1_000_000]);
    assert_eq!(store.journal_path(9), store.folder().join("attempt-000009.journal"));
}

/// A machine whose state is in that bare repository.
fn git_store(remote: &Path, cache: &Path) -> StateStore {
    store(&StateLocation::Remote(RemoteState {
        written: format!("git:{}", remote.display()),
        location: RemoteLocation::Git(remote.to_string_lossy().into_owned()),
        folder: cache.to_owned(),
        cache: cache.to_owned(),
        ttl: Duration::from_secs(30),
        settings: BTreeMap::new(),
    }))
}

#[test]
fn token_is_valid_while_the_repository_says_its_lock_is_held() {
    let (remote, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = Command::new("git").args(["init", "--quiet", "--bare"]).arg(remote.path()).status();
    assert!(made.expect("git can't be run; `cargo xtask setup` installs it").success());
    let store = git_store(remote.path(), cache.path());
    runtime().unwrap().block_on(async {
        let mut lock = store.acquire_lock(LockRequest::new("ann@host")).await.unwrap();
        assert_eq!(lock.next_epoch(0).unwrap(), 1);
        let token = lock.token();
        let adopted = store.verify_inherited_lock(token.clone()).unwrap();
        adopted.ensure_held().unwrap();
        for forged in [
            LockToken { nonce: "0".repeat(32), ..token.clone() },
            LockToken { epoch: 2, ..token.clone() },
            LockToken { resource: "shop/prod".to_owned(), ..token.clone() },
            LockToken { nonce: String::new(), ..token.clone() },
        ] {
            assert!(matches!(store.verify_inherited_lock(forged), Err(LockError::InvalidToken { .. })));
        }
        drop(adopted);
        lock.ensure_held().await.expect("who adopts a lock does not release it");
        lock.close(Duration::from_secs(20)).await.unwrap();
        assert!(matches!(store.verify_inherited_lock(token), Err(LockError::InvalidToken { .. })), "a stale token");

        // The journals may know a later epoch than the lock.
        let mut lock = store.acquire_lock(LockRequest::new("ann@host")).await.unwrap();
        assert_eq!(lock.next_epoch(7).unwrap(), 8);
        lock.close(Duration::from_secs(20)).await.unwrap();
    });
}

/// An in-memory backend. Writes arrive, but their replies may be lost.
#[derive(Debug, Default)]
struct MemoryStorage {
    record: Option<Vec<u8>>,
    files: BTreeMap<String, Vec<u8>>,
    /// How many of the next replies are lost.
    replies_to_lose: u32,
}

#[derive(Clone, Debug, Default)]
struct SharedMemoryStorage(Arc<Mutex<MemoryStorage>>);

impl RemoteStorage for SharedMemoryStorage {
    fn verify_conditional_writes(&mut self) -> Result<(), StateError> {
        Ok(())
    }

    fn read_record(&mut self) -> Result<Option<remote::VersionedRecord>, StateError> {
        let memory = self.0.lock().unwrap();
        Ok(memory.record.as_ref().map(|bytes| remote::VersionedRecord {
            version: remote::RecordVersion(Blake3Hash::of(bytes).to_string()),
            bytes: bytes.clone(),
        }))
    }

    fn compare_and_swap(&mut self, change: &RecordUpdate<'_>) -> Result<remote::RecordVersion, StateError> {
        let version = self.read_record()?.map(|seen| seen.version);
        let mut memory = self.0.lock().unwrap();
        let failed =
            |why: &str| StateError::Remote { action: "write", location: "memory".to_owned(), why: why.to_owned() };
        if version.as_ref() != change.expected {
            return Err(failed("another was faster"));
        }
        memory.record = Some(change.record.to_vec());
        memory.files.extend(change.files.iter().cloned());
        change.removed.iter().for_each(|name| drop(memory.files.remove(name)));
        if memory.replies_to_lose > 0 {
            memory.replies_to_lose -= 1;
            return Err(failed("no answer"));
        }
        Ok(remote::RecordVersion(Blake3Hash::of(change.record).to_string()))
    }

    fn read_file(&mut self, name: &str) -> Result<Vec<u8>, StateError> {
        self.0.lock().unwrap().files.get(name).cloned().ok_or_else(|| StateError::Remote {
            action: "read",
            location: "memory".to_owned(),
            why: format!("{name} is not there"),
        })
    }
}

impl SharedMemoryStorage {
    async fn acquire(&self, folder: &Path) -> RemoteLock {
        let taking = RemoteLockParams {
            location: "memory".to_owned(),
            resource: "shop/test".to_owned(),
            folder: folder.to_owned(),
            ttl: Duration::from_secs(30),
            request: LockRequest::new("ann@host"),
        };
        let place = self.clone();
        RemoteLock::acquire(move || Ok(Box::new(place)), taking).await.unwrap()
    }

    fn manifest(&self) -> StateManifest {
        serde_json::from_slice(self.0.lock().unwrap().record.as_ref().unwrap()).unwrap()
    }
}

#[test]
fn write_with_a_lost_reply_counts_once() {
    let (place, here, there) =
        (SharedMemoryStorage::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    runtime().unwrap().block_on(async {
        place.0.lock().unwrap().replies_to_lose = 1;
        let lock = place.acquire(here.path()).await;
        assert_eq!(lock.record().epoch, 1);
        let journal = here.path().join(journal_name(1));
        let mut text = String::new();
        for line in ["one\n", "two\n", "three\n"] {
            text.push_str(line);
            // A line without a newline is not uploaded yet.
            fs::write(&journal, format!("{text}half a li")).unwrap();
            place.0.lock().unwrap().replies_to_lose = 1;
            lock.sync_journal(journal.clone()).await.unwrap();
            assert_eq!(place.manifest().journals[0].bytes, text.len() as u64);
        }
        assert_eq!(place.manifest().journals[0].parts.len(), 3);
        place.0.lock().unwrap().replies_to_lose = 1;
        lock.close(Duration::from_secs(20), "memory").await.unwrap();
        let root = place.manifest();
        assert!(root.lock.holder.is_none());
        assert_eq!((root.lock.epoch, root.journals[0].parts.len()), (1, 1), "one file, once the attempt has ended");
        assert_eq!(place.0.lock().unwrap().files.len(), 1, "the parts are gone");
        journal_cache::pull_journals(&mut place.clone(), &root, there.path(), "memory").unwrap();
        assert_eq!(fs::read_to_string(there.path().join(journal_name(1))).unwrap(), text);
    });
}

#[test]
fn longer_journal_wins_and_diverged_ones_are_an_error() {
    let (place, first) = (SharedMemoryStorage::default(), tempfile::tempdir().unwrap());
    let name = journal_name(1);
    let journal = first.path().join(&name);
    let pull = |folder: &Path| journal_cache::pull_journals(&mut place.clone(), &place.manifest(), folder, "memory");
    let write = |text: &str| {
        runtime().unwrap().block_on(async {
            let lock = place.acquire(first.path()).await;
            fs::write(&journal, text).unwrap();
            lock.sync_journal(journal.clone()).await.unwrap();
            lock.close(Duration::from_secs(20), "memory").await.unwrap();
        });
    };
    write("a\nb\n");
    // A shorter local copy, torn or not, is replaced by the remote one.
    for here in ["", "a\n", "a\nhalf"] {
        let second = tempfile::tempdir().unwrap();
        fs::write(second.path().join(&name), here).unwrap();
        pull(second.path()).unwrap();
        assert_eq!(fs::read_to_string(second.path().join(&name)).unwrap(), "a\nb\n");
    }
    // A longer local copy stays, and the next holder uploads the rest.
    let second = tempfile::tempdir().unwrap();
    fs::write(second.path().join(&name), "a\nb\nc\n").unwrap();
    pull(second.path()).unwrap();
    assert_eq!(fs::read_to_string(second.path().join(&name)).unwrap(), "a\nb\nc\n");
    runtime().unwrap().block_on(async {
        let lock = place.acquire(second.path()).await;
        lock.close(Duration::from_secs(20), "memory").await.unwrap();
    });
    assert_eq!(place.manifest().journals[0].bytes, 6);
    // Diverged copies are refused, whichever is longer.
    for here in ["x\n", "a\nx\nc\nd\ne\n"] {
        let third = tempfile::tempdir().unwrap();
        fs::write(third.path().join(&name), here).unwrap();
        assert!(matches!(pull(third.path()), Err(StateError::Diverged { .. })), "{here:?}");
        assert_eq!(fs::read_to_string(third.path().join(&name)).unwrap(), here, "what is here is not touched");
    }
    // Two cases: a local copy that is longer although another attempt followed without it, and an attempt that was
    // never uploaded.
    fs::write(first.path().join(journal_name(3)), "later\n").unwrap();
    pull(first.path()).unwrap();
    runtime().unwrap().block_on(async {
        place.acquire(first.path()).await.close(Duration::from_secs(20), "memory").await.unwrap();
    });
    assert_eq!(place.manifest().journals.len(), 2);
    for (name, here) in [(name.clone(), "a\nb\nc\nd\n"), (journal_name(2), "unheard\n")] {
        let fourth = tempfile::tempdir().unwrap();
        fs::write(fourth.path().join(&name), here).unwrap();
        assert!(matches!(pull(fourth.path()), Err(StateError::Diverged { .. })), "{here:?}");
    }
    // A journal without a whole line blocks nobody.
    let fifth = tempfile::tempdir().unwrap();
    fs::write(fifth.path().join(journal_name(2)), "no whole li").unwrap();
    pull(fifth.path()).unwrap();
    assert!(!fifth.path().join(journal_name(2)).exists());
}

#[test]
fn writes_after_the_lock_was_taken_change_nothing() {
    use std::io::Write as _;
    let (place, here) = (SharedMemoryStorage::default(), tempfile::tempdir().unwrap());
    let journal = here.path().join(journal_name(1));
    runtime().unwrap().block_on(async {
        let old = place.acquire(here.path()).await;
        fs::write(&journal, "one\n").unwrap();
        let mut file = fs::OpenOptions::new().append(true).open(&journal).unwrap();
        old.sync_journal(journal.clone()).await.unwrap();
        // An operator releases the lock, and another deployment starts in the same folder.
        let released = place.manifest().with_forced_release("bob@host", "it hangs", "0f".to_owned());
        place.0.lock().unwrap().record = Some(remote_lock::encode_manifest(&released));
        let new = place.acquire(here.path()).await;
        assert_eq!(new.record().epoch, 2);
        file.write_all(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&journal).unwrap(), "one\n");
        assert!(matches!(old.ensure_held().await, Err(LockError::Lost { epoch: 1, .. })));
        new.ensure_held().await.unwrap();
        drop(old);
        new.ensure_held().await.expect("the old holder's end is not the new one's");
        assert_eq!(place.manifest().journals[0].bytes, 4);
        assert_eq!(place.manifest().released[0].message, "it hangs");
        new.close(Duration::from_secs(20), "memory").await.unwrap();
    });
}

/// Finding 8 of the review: the two tombstones were alike, so the last records were lost with exit code 0.
#[test]
fn operators_release_does_not_confirm_the_holders() {
    let (place, here) = (SharedMemoryStorage::default(), tempfile::tempdir().unwrap());
    let journal = here.path().join(journal_name(1));
    runtime().unwrap().block_on(async {
        let lock = place.acquire(here.path()).await;
        fs::write(&journal, "one\n").unwrap();
        lock.sync_journal(journal.clone()).await.unwrap();
        fs::write(&journal, "one\ntwo\n").unwrap();
        let released = place.manifest().with_forced_release("bob@host", "it hangs", "0f".to_owned());
        place.0.lock().unwrap().record = Some(remote_lock::encode_manifest(&released));
        let closed = lock.close(Duration::from_secs(20), "memory").await;
        let Err(LockError::Lost { epoch: 1, why, .. }) = closed else { panic!("{closed:?}") };
        assert_eq!(why, "an operator released it");
        assert_eq!(place.manifest().journals[0].bytes, 4, "the last record did not arrive");
    });
}
