//! Tests of the lock of a folder, with real files.

use super::*;

fn acquire(folder: &Path, who: &str) -> Result<FolderLock, LockError> {
    FolderLock::acquire(folder, "shop/test", &LockRequest::new(who))
}

fn force(folder: &Path, by: &str, message: &str) {
    let seen = lock_status(folder).unwrap().0.unwrap();
    release(folder, &seen, by, message, true).unwrap();
}

fn staging_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("lock")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(STAGING_PREFIX)).collect()
}

/// Creates the journal of an epoch as a holder does, and returns its open file.
fn create_journal(folder: &Path, lock: &FolderLock, epoch: u64, text: &str) -> io::Result<File> {
    let staged = lock.staging().join("journal");
    let mut file = OpenOptions::new().append(true).create_new(true).open(&staged)?;
    file.write_all(text.as_bytes())?;
    fs::rename(staged, journal_path(folder, epoch))?;
    Ok(file)
}

fn journal_path(folder: &Path, epoch: u64) -> PathBuf {
    folder.join(format!("attempt-{epoch:06}.journal"))
}

#[test]
fn second_holder_learns_who_the_first_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = acquire(folder.path(), "ann@host").unwrap();
    assert_eq!(first.next_epoch(0).unwrap(), 1);
    let Err(LockError::Held { record: Some(record), .. }) = acquire(folder.path(), "bob@host") else {
        panic!("the lock is held");
    };
    assert!(record.holder.unwrap().to_string().starts_with("ann@host, process "));
}

#[test]
fn epoch_only_grows() {
    let folder = tempfile::tempdir().unwrap();
    for (newest, expected) in [(0, 1), (0, 2), (7, 8), (3, 9)] {
        assert_eq!(acquire(folder.path(), "ann@host").unwrap().next_epoch(newest).unwrap(), expected);
    }
    assert_eq!(staging_names(folder.path()), Vec::<String>::new());
}

#[test]
fn torn_record_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lock")).unwrap();
    fs::write(folder.path().join("lock/record"), "{\"resou").unwrap();
    assert_eq!(acquire(folder.path(), "ann@host").unwrap().next_epoch(4).unwrap(), 5);
}

#[test]
fn shorter_record_replaces_a_longer_one_in_one_write() {
    let folder = tempfile::tempdir().unwrap();
    acquire(folder.path(), &"ann".repeat(100)).unwrap().next_epoch(0).unwrap();
    let path = folder.path().join("lock/record");
    let length = fs::metadata(&path).unwrap().len();
    let mut lock = acquire(folder.path(), "bob").unwrap();
    lock.next_epoch(0).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    let record = lock_status(folder.path()).unwrap().0.unwrap();
    assert!(record.holder.unwrap().who.starts_with("bob, process "));
}

#[test]
fn holder_detects_a_forced_release() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = acquire(folder.path(), "ann@host").unwrap();
    assert_eq!(first.next_epoch(0).unwrap(), 1);
    let token = first.record().token();
    verify_token(folder.path(), &token).unwrap();
    force(folder.path(), "bob@host", "it hangs");
    assert!(matches!(lock_status(folder.path()).unwrap(), (Some(_), LockStatus::Free)));
    let mut second = acquire(folder.path(), "bob@host").unwrap();
    assert_eq!(second.next_epoch(0).unwrap(), 2);
    let lost = first.ensure_held().unwrap_err();
    let LockError::Lost { epoch: 1, why, .. } = &lost else { panic!("{lost:?}") };
    assert!(why.contains("bob@host released it") && why.contains("it hangs"), "{why}");
    assert!(matches!(first.next_epoch(0), Err(LockError::Lost { .. })));
    assert!(matches!(verify_token(folder.path(), &token), Err(LockError::InvalidToken { .. })));
    drop(first);
    second.ensure_held().unwrap();
    assert_eq!(lock_status(folder.path()).unwrap().0.unwrap().epoch, 2, "the old holder's end is not written here");
    assert_eq!(forced_releases_in(folder.path()).unwrap().len(), 1);
}

#[test]
fn holder_is_released_by_force_before_it_has_an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let first = acquire(folder.path(), "ann@host").unwrap();
    let seen = LockRecord::never_held("shop/test", clock::now());
    assert!(matches!(release(folder.path(), &seen, "bob@host", "w", false), Err(LockError::HolderRunning { .. })));
    release(folder.path(), &seen, "bob@host", "it hangs", true).unwrap();
    assert!(matches!(first.ensure_held(), Err(LockError::Lost { .. })));
    acquire(folder.path(), "bob@host").unwrap();
}

#[test]
fn release_leaves_a_later_holder_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = acquire(folder.path(), "ann@host").unwrap();
    first.next_epoch(0).unwrap();
    let seen = first.record().clone();
    drop(first);
    let mut second = acquire(folder.path(), "bob@host").unwrap();
    second.next_epoch(0).unwrap();
    release(folder.path(), &seen, "eve@host", "the first hangs", true).unwrap();
    second.ensure_held().unwrap();
    assert_eq!(forced_releases_in(folder.path()).unwrap().len(), 0);
}

#[test]
fn lock_of_a_killed_holder_is_released_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = acquire(folder.path(), "ann@host").unwrap();
    first.next_epoch(0).unwrap();
    // The record that a killed process leaves: nobody has the kernel's lock.
    let seen = first.record().clone();
    drop(first);
    write_record(&OpenOptions::new().write(true).open(folder.path().join("lock/record")).unwrap(), &seen).unwrap();
    assert!(matches!(lock_status(folder.path()).unwrap(), (Some(_), LockStatus::Stale)));
    let inode = fs::metadata(folder.path().join("lock/record")).unwrap().ino();
    release(folder.path(), &seen, "bob@host", "it was killed", false).unwrap();
    let (record, status) = lock_status(folder.path()).unwrap();
    assert_eq!((record.unwrap().released_by, status), (Some(ReleasedBy::Operator), LockStatus::Free));
    assert_eq!(fs::metadata(folder.path().join("lock/record")).unwrap().ino(), inode);
}

#[test]
fn token_is_invalid_when_the_lock_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let mut held = acquire(folder.path(), "ann@host").unwrap();
    held.next_epoch(0).unwrap();
    let token = held.record().token();
    let forged = LockToken { nonce: "0".repeat(32), ..token.clone() };
    assert!(matches!(verify_token(folder.path(), &forged), Err(LockError::InvalidToken { .. })));
    verify_token(folder.path(), &token).unwrap();
    drop(held);
    assert!(matches!(verify_token(folder.path(), &token), Err(LockError::InvalidToken { .. })));
    // Nor is a tombstone's nonce a token.
    let mut other = acquire(folder.path(), "bob@host").unwrap();
    let tombstone = lock_status(folder.path()).unwrap().0.unwrap();
    assert!(matches!(verify_token(folder.path(), &tombstone.token()), Err(LockError::InvalidToken { .. })));
    other.next_epoch(0).unwrap();
}

#[test]
fn former_holder_writes_and_creates_nothing_that_the_next_one_reads() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut first = acquire(folder, "ann@host").unwrap();
    let mut journal = create_journal(folder, &first, first.record().epoch + 1, "one\n").unwrap();
    first.next_epoch(0).unwrap();
    force(folder, "bob@host", "it hangs");
    let mut second = acquire(folder, "bob@host").unwrap();
    journal.write_all(b"late\n").unwrap();
    assert_eq!(fs::read_to_string(journal_path(folder, 1)).unwrap(), "one\n");
    let created = create_journal(folder, &first, 2, "late\n").unwrap_err();
    assert_eq!(created.kind(), io::ErrorKind::NotFound);
    assert_eq!(second.next_epoch(1).unwrap(), 2);
    create_journal(folder, &second, 2, "two\n").unwrap();
    assert_eq!(fs::read_to_string(journal_path(folder, 2)).unwrap(), "two\n");
    drop((first, second));
    assert_eq!(staging_names(folder), Vec::<String>::new());
}

#[test]
fn journal_of_a_holder_that_released_its_lock_keeps_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut first = acquire(folder, "ann@host").unwrap();
    first.next_epoch(0).unwrap();
    drop(create_journal(folder, &first, 1, "one\n").unwrap());
    drop(first);
    let inode = fs::metadata(journal_path(folder, 1)).unwrap().ino();
    drop(acquire(folder, "bob@host").unwrap());
    assert_eq!(fs::metadata(journal_path(folder, 1)).unwrap().ino(), inode, "a copy would cost a sync");
}

#[test]
fn what_a_killed_taker_left_is_cleaned_up() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut first = acquire(folder, "ann@host").unwrap();
    first.next_epoch(0).unwrap();
    create_journal(folder, &first, 1, "one\nhalf a li").unwrap();
    force(folder, "bob@host", "it hangs");
    // It was killed after it copied the journal.
    let left = folder.join("lock/staging-0123");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("sealed"), "on").unwrap();
    let inode = fs::metadata(journal_path(folder, 1)).unwrap().ino();
    drop(acquire(folder, "bob@host").unwrap());
    assert_ne!(fs::metadata(journal_path(folder, 1)).unwrap().ino(), inode);
    assert_eq!(fs::read_to_string(journal_path(folder, 1)).unwrap(), "one\nhalf a li", "a torn line stays torn");
    drop(first);
    assert_eq!(staging_names(folder), Vec::<String>::new());
}

#[test]
fn lock_file_of_an_older_runner_becomes_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let old = r#"{"resource":"shop/test","epoch":6,"nonce":"ab","counter":0,"holder":{"who":"ann@host, process 7"},"since":"2025-11-23T03:20:00Z"}"#;
    fs::write(&path, format!("{old}\n")).unwrap();
    let opened_before = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    flock(&opened_before, FlockOperation::NonBlockingLockExclusive).unwrap();
    let Err(LockError::Held { record: Some(record), .. }) = acquire(folder.path(), "bob@host") else {
        panic!("the older runner holds it");
    };
    assert_eq!(record.epoch, 6);
    assert!(matches!(lock_status(folder.path()).unwrap(), (Some(_), LockStatus::Held)));
    flock(&opened_before, FlockOperation::Unlock).unwrap();
    assert!(matches!(lock_status(folder.path()).unwrap(), (Some(_), LockStatus::Stale)));
    let mut lock = acquire(folder.path(), "bob@host").unwrap();
    assert_eq!(lock.next_epoch(0).unwrap(), 7);
    // An older runner that waited finds another file, and then no file to open.
    assert!(!is_same_file(&opened_before, &path));
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::IsADirectory);
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names, ["lock"]);
}
