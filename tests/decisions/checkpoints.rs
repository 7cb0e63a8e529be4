//! Checkpoints of generated histories: a new machine that restores one decides as if it had all journals.

use std::{fs, path::Path};

use contract::Secret;
use journal::{JournalEvent, JournalState, JournalTrust, line};
use plan::StateLocation;
use proptest::prelude::*;
use state::{
    StateStore,
    bundle::{CheckpointContent, CheckpointIdentity, CheckpointKey, CheckpointSequence, merge_into_folder, unpack},
};

use crate::history::{GeneratedHistory, arb_ops, step_targets};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// At any line of any attempt. A decision depends on the state alone, so an equal state decides the same. Without a key, the
    /// snapshot is worth what its journals would be.
    #[test]
    fn restored_checkpoint_is_the_whole_history(moves in arb_ops(), cut in any::<prop::sample::Index>(), has_key in any::<bool>()) {
        let history = GeneratedHistory::from_ops(&moves, &step_targets());
        let length = cut.index(history.entries.len()) + 1;
        let root = tempfile::tempdir().unwrap();
        let first = store(root.path(), "first");
        write_journals(&history, length, first.folder());
        let key = has_key.then(|| CheckpointKey::new(&Secret::new("k".to_owned())));
        let content = CheckpointContent::of_run(first.folder(), None).unwrap();
        let zip = content.pack(&identity(), 1, None, key.as_ref());
        let sequence = CheckpointSequence { attempt: 1, lines: content.lines };
        let checkpoint = unpack(&zip, sequence, &identity(), key.as_ref()).unwrap();
        let newest = checkpoint.journals.last().expect("a history has an attempt").epoch;
        prop_assert!(checkpoint.journals.iter().all(|journal| is_of_newest_run(&history, length, journal.epoch, newest)));
        let second = store(root.path(), "second");
        merge_into_folder(second.folder(), &checkpoint, "artifact").unwrap();
        let restored = second.load(|_| {}).unwrap().state;
        let expected = if has_key { first.load_all(|_| {}).unwrap().state } else { untrusted_fold(&history, length) };
        prop_assert_eq!(restored, expected);
    }
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

fn store(root: &Path, machine: &str) -> StateStore {
    let location = StateLocation::Dir(root.join(machine));
    StateStore::new(&location, &"shop".parse().unwrap(), &"prod".parse().unwrap())
}

/// The first entries of a history, each attempt in a journal of its own.
fn write_journals(history: &GeneratedHistory, length: usize, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut journals: Vec<(String, Vec<u8>)> = Vec::new();
    for (entry, untrusted) in history.entries[..length].iter().zip(&history.untrusted) {
        if let JournalEvent::Started(header) = &entry.event {
            let end = if *untrusted { "suggested.journal" } else { "journal" };
            journals.push((format!("attempt-{:06}.{end}", header.epoch), Vec::new()));
        }
        journals.last_mut().unwrap().1.extend(line::encode(entry).bytes);
    }
    journals.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
}

/// What the fold says if anybody could have written all of it.
fn untrusted_fold(history: &GeneratedHistory, length: usize) -> JournalState {
    let mut state = JournalState { trust: JournalTrust::Untrusted, ..JournalState::default() };
    for (entry, hash) in history.entries[..length].iter().zip(&history.hashes) {
        state.apply(entry, *hash, entry.seq).unwrap();
    }
    state
}

fn is_of_newest_run(history: &GeneratedHistory, length: usize, epoch: u64, newest: u64) -> bool {
    let run_of = |epoch: u64| {
        history.entries[..length].iter().find_map(|entry| match &entry.event {
            JournalEvent::Started(header) if header.epoch == epoch => Some(header.run.clone()),
            _ => None,
        })
    };
    run_of(epoch) == run_of(newest)
}
