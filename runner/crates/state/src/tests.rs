//! Tests of the whole store: folders, a real git repository, and an in-memory backend that loses replies.

mod git_refs;
mod local_copies;

use std::{collections::BTreeMap, process::Command, sync::Mutex};

use super::{
    journal_cache::LocalCopy,
    manifest::{RemoteArchive, StateManifest},
    remote::RecordVersion,
    *,
};
use contract::{AttemptNumber, hash::Blake3Hash};
use journal::event::{FORMAT, JournalHeader, MAGIC, Release};

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

/// The header of an attempt, the first of its run.
pub(crate) fn header(epoch: u64, run: &str) -> JournalHeader {
    JournalHeader {
        magic: MAGIC.to_owned(),
        format: FORMAT,
        app: "shop".parse().unwrap(),
        environment: "prod".parse().unwrap(),
        run: run.parse().unwrap(),
        attempt: AttemptNumber::FIRST,
        epoch,
        release: Release { label: format!("r{epoch}").parse().unwrap(), digest: None },
        runner: "0.1.0".to_owned(),
        by: "ada@build-7".to_owned(),
        commit: None,
        url: None,
        machine: None,
    }
}

/// A machine whose state is in that bare repository.
fn git_store(remote: &Path, cache: &Path) -> StateStore {
    store(&git_location(remote, cache))
}

fn git_location(remote: &Path, cache: &Path) -> StateLocation {
    StateLocation::Remote(RemoteState {
        written: format!("git:{}", remote.display()),
        location: RemoteLocation::Git(remote.to_string_lossy().into_owned()),
        folder: cache.to_owned(),
        cache: cache.to_owned(),
        ttl: Duration::from_secs(30),
        settings: BTreeMap::new(),
        withheld_variables: Vec::new(),
        excerpt: None,
    })
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

/// A snapshot as far as uploads read it.
fn snapshot(epoch: u64) -> String {
    let json = format!("{{\"version\":1,\"epoch\":{epoch}}}");
    format!("{} {json}\n", Blake3Hash::of(json.as_bytes()))
}

/// An in-memory backend. Writes arrive, but their replies may be lost.
#[derive(Debug, Default)]
struct MemoryStorage {
    record: Option<RemoteRecord>,
    writes: u64,
    files: BTreeMap<String, Vec<u8>>,
    archives: BTreeMap<u64, Vec<u8>>,
    /// How many of the next replies are lost.
    replies_to_lose: u32,
    /// The next write fails after this many others.
    fails_after: Option<u32>,
    /// How many writes had a manifest.
    data_writes: u32,
}

#[derive(Clone, Debug, Default)]
struct SharedMemoryStorage(Arc<Mutex<MemoryStorage>>);

impl RemoteStorage for SharedMemoryStorage {
    fn verify_conditional_writes(&mut self) -> Result<(), StateError> {
        Ok(())
    }

    fn read_record(&mut self) -> Result<RemoteRecord, StateError> {
        Ok(self.0.lock().unwrap().record.clone().unwrap_or_else(|| RemoteRecord {
            version: RecordVersion::default(),
            lock: LockRecord::never_held("shop/test", clock::now()),
            manifest: StateManifest::empty("shop/test"),
            needs_manifest: true,
        }))
    }

    fn compare_and_swap(&mut self, change: &RecordUpdate<'_>) -> Result<RecordVersion, StateError> {
        let version = self.read_record()?.version;
        let mut memory = self.0.lock().unwrap();
        let failed =
            |why: &str| StateError::Remote { action: "write", location: "memory".to_owned(), why: why.to_owned() };
        if version != change.expected.version {
            return Err(failed("another was faster"));
        }
        match &mut memory.fails_after {
            Some(0) => return Err(failed("the network is down")),
            Some(left) => *left -= 1,
            None => {}
        }
        memory.writes += 1;
        memory.data_writes += u32::from(change.manifest.is_some());
        let version = RecordVersion { data: Some(memory.writes.to_string()), ..RecordVersion::default() };
        memory.record = Some(RemoteRecord {
            version: version.clone(),
            lock: change.lock.clone(),
            manifest: change.manifest.unwrap_or(&change.expected.manifest).clone(),
            needs_manifest: false,
        });
        memory.files.extend(change.files.iter().cloned());
        memory.archives.extend(change.archives.iter().map(|(archive, bytes)| (archive.first, bytes.clone())));
        change.removed.iter().for_each(|name| drop(memory.files.remove(name)));
        if memory.replies_to_lose > 0 {
            memory.replies_to_lose -= 1;
            return Err(failed("no answer"));
        }
        Ok(version)
    }

    fn read_files(&mut self, _: &RemoteRecord, names: &[String]) -> Result<Vec<Vec<u8>>, StateError> {
        let memory = self.0.lock().unwrap();
        let missing = |name: &String| StateError::RemoteFileMissing {
            action: "read",
            location: "memory".to_owned(),
            name: name.clone(),
        };
        names.iter().map(|name| memory.files.get(name).cloned().ok_or_else(|| missing(name))).collect()
    }

    fn read_archive(&mut self, archive: &RemoteArchive) -> Result<Vec<u8>, StateError> {
        Ok(self.0.lock().unwrap().archives[&archive.first].clone())
    }

    fn stored_name(&self, name: &str, hash: &Blake3Hash) -> String {
        format!("{name}.{}", hash.hex_prefix(16))
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
        RemoteLock::acquire(move || Ok(Box::new(place)), taking).await.unwrap().0
    }

    fn record(&self) -> RemoteRecord {
        self.clone().read_record().unwrap()
    }

    fn manifest(&self) -> StateManifest {
        self.record().manifest
    }

    /// An operator releases the lock.
    fn force_release(&self) {
        let seen = self.record();
        let lock = seen.lock.tombstone("0f".to_owned(), ReleasedBy::Operator, clock::now());
        let manifest = seen.manifest.with_forced_release(&seen.lock, "bob@host", "it hangs");
        let version = RecordVersion { data: Some("released".to_owned()), ..RecordVersion::default() };
        self.0.lock().unwrap().record = Some(RemoteRecord { version, lock, manifest, needs_manifest: false });
    }

    fn pull(&self, folder: &Path) -> Result<(), StateError> {
        LocalCopy { folder, location: "memory" }.pull_recent(&mut self.clone(), &self.record())
    }

    /// A deployment with these journals, which are written before the lock is released.
    fn deploy(&self, folder: &Path, journals: &[(u64, &str)]) {
        runtime().unwrap().block_on(async {
            let lock = self.acquire(folder).await;
            for (epoch, text) in journals {
                let journal = folder.join(journal_name(*epoch));
                fs::write(&journal, text).unwrap();
                lock.sync_journal(journal).await.unwrap();
            }
            lock.close(Duration::from_secs(20), "memory").await.unwrap();
        });
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
            lock.ensure_held().await.unwrap();
            assert_eq!(place.manifest().journals[0].bytes, text.len() as u64);
        }
        assert_eq!(place.manifest().journals[0].parts.len(), 2, "a base and a tail");
        place.0.lock().unwrap().replies_to_lose = 1;
        lock.close(Duration::from_secs(20), "memory").await.unwrap();
        let RemoteRecord { lock, manifest, .. } = place.record();
        assert!(lock.holder.is_none());
        assert_eq!((lock.epoch, manifest.journals[0].parts.len()), (1, 1), "one file, once the attempt has ended");
        assert_eq!(place.0.lock().unwrap().files.len(), 1, "the parts are gone");
        place.pull(there.path()).unwrap();
        assert_eq!(fs::read_to_string(there.path().join(journal_name(1))).unwrap(), text);
    });
}

/// Two deployments of one machine share the copy of a remote state: who was forced out creates no journal that the next one's does not
/// follow.
#[test]
fn journal_of_a_later_attempt_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let location = StateLocation::Dir(root.path().to_owned());
    let store = StateStore::new(&location, &"shop".parse().unwrap(), &"test".parse().unwrap());
    assert!(!store.has_later_journal(1).unwrap());
    fs::create_dir_all(store.folder()).unwrap();
    fs::write(store.journal_path(2), "").unwrap();
    assert!(store.has_later_journal(1).unwrap());
    assert!(!store.has_later_journal(2).unwrap());
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
        old.ensure_held().await.unwrap();
        // An operator releases the lock, and another deployment starts in the same folder.
        place.force_release();
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
        lock.ensure_held().await.unwrap();
        fs::write(&journal, "one\ntwo\n").unwrap();
        place.force_release();
        let closed = lock.close(Duration::from_secs(20), "memory").await;
        let Err(LockError::Lost { epoch: 1, why, .. }) = closed else { panic!("{closed:?}") };
        assert!(why.starts_with("bob@host released it at ") && why.ends_with(": it hangs"), "{why}");
        assert_eq!(place.manifest().journals[0].bytes, 4, "the last record did not arrive");
    });
}
