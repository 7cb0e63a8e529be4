//! Snapshots: damage is noticed, and journals that do not continue one are not read with it.

use super::*;
use crate::{Snapshot, SnapshotError, SnapshotHeader};

fn snapshot_of(paths: &[PathBuf]) -> Snapshot {
    Snapshot { state: load(paths).unwrap().state, index: Blake3Hash::of(b"index") }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = snapshot_of(&two_attempts(folder.path()));
    let mut bytes = snapshot.clone().encode().unwrap();
    assert_eq!(Snapshot::decode(&bytes).unwrap(), snapshot);
    let header = SnapshotHeader::decode(&bytes).unwrap();
    assert_eq!((header.epoch, header.index), (snapshot.state.epoch(), snapshot.index));
    for index in 0..bytes.len() {
        for bit in 0..8 {
            bytes[index] ^= 1 << bit;
            assert!(Snapshot::decode(&bytes).is_err(), "bit {bit} of byte {index}");
            assert!(SnapshotHeader::decode(&bytes).is_err(), "bit {bit} of byte {index}");
            bytes[index] ^= 1 << bit;
        }
        assert!(Snapshot::decode(&bytes[..index]).is_err(), "cut at {index}");
        assert!(SnapshotHeader::decode(&bytes[..index]).is_err(), "cut at {index}");
    }
}

#[test]
fn a_snapshot_of_another_version_or_format_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = snapshot_of(&two_attempts(folder.path())).encode().unwrap();
    let json = String::from_utf8(bytes[65..bytes.len() - 1].to_vec()).unwrap();
    let minor = FORMAT.minor;
    for (old, new) in [
        ("\"version\":1", "\"version\":2"),
        (&format!("\"minor\":{minor}}},\"epoch\"") as &str, "\"minor\":99},\"epoch\""),
    ] {
        let changed = json.replacen(old, new, 1);
        assert_ne!(changed, json, "{old}");
        let line = format!("{} {changed}\n", Blake3Hash::of(changed.as_bytes()));
        assert!(matches!(Snapshot::decode(line.as_bytes()), Err(SnapshotError::Unsupported(_))), "{changed}");
        assert!(matches!(SnapshotHeader::decode(line.as_bytes()), Err(SnapshotError::Unsupported(_))), "{changed}");
    }
}

#[test]
fn journals_continue_a_snapshot_at_every_line_and_no_other_way() {
    let folder = tempfile::tempdir().unwrap();
    let paths = two_attempts(folder.path());
    let whole = load(&paths).unwrap().state;
    let bytes = fs::read(&paths[1]).unwrap();
    let first = load(&paths[..1]).unwrap().state;
    let ends: Vec<_> = (0..bytes.len()).filter(|index| bytes[*index] == b'\n').map(|index| index + 1).collect();
    for end in &ends {
        fs::write(&paths[1], &bytes[..*end]).unwrap();
        let state = load(&paths).unwrap().state;
        // More lines than the snapshot knows: the rest is folded.
        fs::write(&paths[1], &bytes).unwrap();
        let mut entries = Vec::new();
        let read = LoadedJournals::read_after(state.clone(), &paths[1..], |entry| entries.push(entry.clone()));
        let read = read.unwrap().expect("they continue it");
        assert_eq!(read.state, whole);
        assert_eq!((entries.len(), read.summaries.len()), (ends.len(), 1), "each entry of the newest journal is seen");
        // Fewer: the journal has lost lines.
        fs::write(&paths[1], &bytes[..end - 1]).unwrap();
        let cut = LoadedJournals::read_after(state, &paths[1..], |_| {}).unwrap();
        assert!(cut.is_none(), "cut at {end}");
    }
    fs::write(&paths[1], &bytes).unwrap();
    let read = LoadedJournals::read_after(first.clone(), &paths[1..], |_| {}).unwrap();
    assert_eq!(read.expect("the next journal continues it").state, whole);
    // A journal of another history with the same epoch.
    let other = tempfile::tempdir().unwrap();
    let other = two_attempts(other.path());
    assert!(LoadedJournals::read_after(whole, &other[1..], |_| {}).unwrap().is_none());
    assert!(LoadedJournals::read_after(first, &other[1..], |_| {}).is_err());
}

#[test]
fn the_state_is_bounded() {
    let mut state = JournalState::default();
    let mut sizes = Vec::new();
    for epoch in 1..=400 {
        let release = Release { label: format!("r{epoch}").parse().unwrap(), digest: None };
        let run = format!("{epoch}-k3x9").parse().unwrap();
        let commit = Some(format!("{epoch:040x}"));
        let header = JournalHeader { release, run, commit, ..header(epoch, AttemptNumber::FIRST) };
        let events = [
            JournalEvent::Started(header),
            JournalEvent::Intent {
                step_target: step_target("switch"),
                key: "key".to_owned(),
                fingerprint: fingerprint("a"),
                input: json!({}),
                exposes: true,
                release: None,
            },
            JournalEvent::Outcome {
                step_target: step_target("switch"),
                took_ms: 1,
                outcome: StepOutcome::Succeeded { receipt: receipt(json!({})) },
            },
            JournalEvent::Ended { exit: ExitKind::Success, verified: true },
        ];
        for (seq, event) in (0..).zip(events) {
            let entry = JournalEntry { seq, prev: state.last_line_hash, at: crate::clock::now(), event };
            let hash = line::encode(&entry).hash;
            state.apply(&entry, hash, seq).unwrap();
        }
        sizes.push(Snapshot { state: state.clone(), index: Blake3Hash::of(b"") }.encode().unwrap().len());
    }
    assert!(sizes[399] < sizes[150] + 1024, "{} and {} bytes", sizes[150], sizes[399]);
    assert_eq!((state.attempts.len(), state.head.verified.len(), state.epoch()), (20, 100, 400));
    let release = |epoch: u64| Release { label: format!("r{epoch}").parse().unwrap(), digest: None };
    assert_eq!(state.commit_of(&release(301)), Some(format!("{:040x}", 301).as_str()));
    assert_eq!(state.head.rollback_target(), Some(&release(399)));
    assert_eq!(state.first_attempt.as_ref().unwrap().run.to_string(), "1-k3x9");
}
