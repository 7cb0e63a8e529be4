//! Tests of checkpoints: names, packing, forged and damaged content, another job's checkpoint, and merging into a
//! folder.

mod damaged_base;
mod restore;

use std::path::Path;

use super::*;
use crate::journals_in;
use contract::Secret;
use journal::trust_from_file_name;

/// Unpacks a checkpoint as the given attempt and number of lines.
fn unpack_with_test_identity(
    zip: &[u8],
    (attempt, lines): (u32, u64),
    key: Option<&CheckpointKey>,
) -> Result<UnpackedCheckpoint, BundleError> {
    unpack(zip, CheckpointSequence { attempt, lines }, &identity(), key)
}

fn identity() -> CheckpointIdentity {
    CheckpointIdentity {
        repository: "acme/shop".to_owned(),
        workflow_run: "4711".to_owned(),
        job: "deploy".to_owned(),
        app: "shop".to_owned(),
        environment: "prod".to_owned(),
        plan: "deploy.yml".to_owned(),
    }
}

fn key(text: &str) -> CheckpointKey {
    CheckpointKey::new(&Secret::new(text.to_owned()))
}

/// A folder with the journal of one attempt, whose last line is torn.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let fixture = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../tests/fixtures/journal-1.0/attempt-000001.journal"
    ))
    .unwrap();
    std::fs::write(folder.path().join(journal_name(1)), [&fixture[..], b"0123abcd {\"seq"].concat()).unwrap();
    folder
}

fn content_of(folder: &Path) -> CheckpointContent {
    CheckpointContent::of_run(folder, None).unwrap()
}

#[test]
fn artifact_names_show_the_newest() {
    let identity = identity();
    assert_eq!(identity.artifact_stem(2, 17), "pawl-shop-prod-deploy-a02-s0017");
    let place =
        |name: &str| identity.parse_artifact_name(name).map(|CheckpointSequence { attempt, lines }| (attempt, lines));
    assert_eq!(place("pawl-shop-prod-deploy-a02-s0017-0fe1"), Some((2, 17)));
    assert_eq!(place("pawl-shop-prod-deploy-a113-s12345-x"), Some((113, 12_345)), "numbers grow");
    // A job with the same name prefix, a name without a nonce, and a name with an invalid number.
    for other in [
        "pawl-shop-prod-deploy-a01-s0001-a02-s0002-x",
        "pawl-shop-prod-deploy-eu-a01-s0001-x",
        "pawl-shop-prod-deploy-a02-s0017",
        "pawl-shop-prod-deploy-a02-s0017-",
        "pawl-shop-prod-deploy-a+2-s0017-x",
        "pawl-shop-prod-deploy-a-s-x",
        "pawl-shop-test-deploy-a02-s0017-x",
        "logs",
    ] {
        assert_eq!(place(other), None, "{other}");
    }
}

#[test]
fn unpacking_returns_the_packed_whole_lines() {
    let (folder, other) = (folder(), tempfile::tempdir().unwrap());
    let snapshot = content_of(folder.path());
    assert!(snapshot.lines > 3);
    for (ours, trust) in [(None, JournalTrust::Untrusted), (Some(key("k")), JournalTrust::Authenticated)] {
        let zip = snapshot.pack(&identity(), 1, None, ours.as_ref());
        let kept = unpack_with_test_identity(&zip, (1, snapshot.lines), ours.as_ref()).unwrap();
        let journals = &kept.journals;
        assert_eq!((journals.len(), journals[0].epoch, journals[0].trust), (1, 1, trust));
        merge_into_folder(other.path(), &kept, "artifact").unwrap();
        assert_eq!(content_of(other.path()).lines, snapshot.lines);
    }
    // The untrusted journal is there once, and now authenticated.
    let there = journals_in(other.path()).unwrap();
    assert_eq!(
        there.iter().map(|(epoch, path)| (*epoch, trust_from_file_name(path))).collect::<Vec<_>>(),
        [(1, JournalTrust::Authenticated)]
    );
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1);
}

#[test]
fn untrusted_journal_stays_untrusted_with_a_key() {
    let (folder, key) = (folder(), key("k"));
    let suggested = folder.path().join(crate::suggested_name(1));
    std::fs::rename(folder.path().join(journal_name(1)), suggested).unwrap();
    let snapshot = content_of(folder.path());
    let zip = snapshot.pack(&identity(), 2, None, Some(&key));
    assert_eq!(
        unpack_with_test_identity(&zip, (2, snapshot.lines), Some(&key)).unwrap().journals[0].trust,
        JournalTrust::Untrusted
    );
}

#[test]
fn every_changed_byte_is_detected() {
    let key = key("k");
    let snapshot = content_of(folder().path());
    let (zip, place) = (snapshot.pack(&identity(), 1, Some("abc".to_owned()), Some(&key)), (1, snapshot.lines));
    let genuine = unpack_with_test_identity(&zip, place, Some(&key)).unwrap();
    // A checkpoint under another attempt or number of lines is refused.
    for other in [(2, snapshot.lines), (1, snapshot.lines + 1), (1, snapshot.lines - 1)] {
        assert!(
            matches!(unpack_with_test_identity(&zip, other, Some(&key)), Err(BundleError::NameMismatch)),
            "{other:?}"
        );
    }
    for at in 0..zip.len() {
        let mut changed = zip.clone();
        changed[at] ^= 0x10;
        // A byte without meaning, such as a file's date in the zip, may change.
        if let Ok(kept) = unpack_with_test_identity(&changed, place, Some(&key)) {
            assert!(
                kept.journals
                    .iter()
                    .zip(&genuine.journals)
                    .all(|(one, other)| one.bytes == other.bytes && one.trust == other.trust)
            );
        }
        assert!(unpack_with_test_identity(&zip[..at], place, Some(&key)).is_err(), "cut at {at}");
    }
}

#[test]
fn each_difference_of_the_key_is_refused_by_name() {
    let snapshot = content_of(folder().path());
    let unpacked = |theirs: Option<CheckpointKey>, ours: Option<CheckpointKey>| {
        let zip = snapshot.pack(&identity(), 1, None, theirs.as_ref());
        unpack_with_test_identity(&zip, (1, snapshot.lines), ours.as_ref())
    };
    assert!(matches!(unpacked(None, Some(key("ours"))), Err(BundleError::KeyAdded)));
    assert!(matches!(unpacked(Some(key("theirs")), None), Err(BundleError::KeyDropped)));
    assert!(matches!(unpacked(Some(key("theirs")), Some(key("ours"))), Err(BundleError::InvalidMac)));
}

#[test]
fn checkpoint_without_lines_says_that_nothing_was_begun() {
    let nothing = CheckpointContent::nothing_begun();
    let zip = nothing.pack(&identity(), 2, None, Some(&key("k")));
    let unpacked = unpack_with_test_identity(&zip, (2, 0), Some(&key("k"))).unwrap();
    assert!(unpacked.base.is_none() && unpacked.journals.is_empty());
    assert!(matches!(unpack_with_test_identity(&zip, (1, 0), Some(&key("k"))), Err(BundleError::NameMismatch)));
}

#[test]
fn longer_journal_wins_and_diverged_ones_are_refused() {
    let here = folder();
    let path = here.path().join(journal_name(1));
    let whole = content_of(here.path()).journals.remove(0).1;
    let cut = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let kept = |bytes: &[u8]| UnpackedCheckpoint {
        base: None,
        trust: JournalTrust::Untrusted,
        journals: vec![CheckpointJournal { epoch: 1, bytes: bytes.to_vec(), trust: JournalTrust::Untrusted }],
    };
    // A shorter copy changes nothing, not even the trust.
    merge_into_folder(here.path(), &kept(&whole[..cut]), "artifact").unwrap();
    assert_eq!(journals_in(here.path()).unwrap(), [(1, path.clone())]);
    // A longer copy of a journal that this machine wrote: anybody could have added the lines.
    std::fs::write(&path, &whole[..cut]).unwrap();
    merge_into_folder(here.path(), &kept(&whole), "artifact").unwrap();
    assert_eq!(journals_in(here.path()).unwrap(), [(1, path.clone())]);
    assert_eq!(std::fs::read(&path).unwrap(), &whole[..cut]);
    // A longer copy replaces an untrusted journal.
    let suggested = here.path().join(crate::suggested_name(1));
    std::fs::rename(&path, &suggested).unwrap();
    merge_into_folder(here.path(), &kept(&whole), "artifact").unwrap();
    assert_eq!(journals_in(here.path()).unwrap(), [(1, suggested.clone())]);
    assert_eq!(std::fs::read(&suggested).unwrap(), whole);
    // After a kill between two writes, the longer one counts.
    std::fs::write(&path, &whole[..cut]).unwrap();
    assert_eq!(journals_in(here.path()).unwrap(), [(1, suggested.clone())]);
    std::fs::write(&suggested, &whole[..cut]).unwrap();
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(journals_in(here.path()).unwrap(), [(1, path.clone())]);
    std::fs::rename(&path, &suggested).unwrap();
    // Diverged copies both stay as they are.
    let mut other = whole.clone();
    other[9] ^= 1;
    assert!(matches!(merge_into_folder(here.path(), &kept(&other), "artifact"), Err(StateError::Diverged { .. })));
    assert_eq!(std::fs::read(&suggested).unwrap(), whole);
    // An unreadable journal is refused before anything is written.
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        merge_into_folder(empty.path(), &kept(&other), "artifact"),
        Err(StateError::InvalidCheckpoint { .. })
    ));
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[test]
fn newer_format_is_reported() {
    let zip = {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file(MANIFEST_FILE, SimpleFileOptions::default()).unwrap();
        zip.write_all(br#"{"version": 3, "new": true}"#).unwrap();
        zip.finish().unwrap().into_inner()
    };
    assert!(matches!(unpack_with_test_identity(&zip, (1, 1), None), Err(BundleError::UnknownVersion(3))));
    assert!(matches!(unpack_with_test_identity(b"no zip", (1, 1), None), Err(BundleError::Truncated)));
}

#[test]
fn checkpoint_of_the_first_version_is_read() {
    let zip =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/fixtures/checkpoint-1/checkpoint.zip"))
            .unwrap();
    let kept = unpack_with_test_identity(&zip, (1, 13), Some(&key("k"))).unwrap();
    assert_eq!((kept.base, kept.trust), (None, JournalTrust::Authenticated));
    let whole = content_of(folder().path());
    assert_eq!(kept.journals[0].bytes, whole.journals[0].1);
    assert!(matches!(unpack_with_test_identity(&zip, (1, 13), Some(&key("other"))), Err(BundleError::InvalidMac)));
}
