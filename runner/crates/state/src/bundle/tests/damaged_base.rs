//! A base snapshot that is damaged, missing or of another history: it is always noticed, and healed where its state is known here.
//! Otherwise there is an error, nothing is changed, and a repair loses no state.

use std::{fs, path::PathBuf};

use contract::{diagnostic::Diagnostic, error_code::ErrorCode};
use plan::StateLocation;

use super::{
    restore::{copy_of, deploy, downloaded, files_in, machine, restored, state_of},
    *,
};
use crate::{BaseRepair, HistoryError, StateFinding, StateStore, history::HistoryFolder};

/// The state folder of a machine that has the checkpoint of `first`, and its store.
struct RestoredFolder {
    _root: tempfile::TempDir,
    store: StateStore,
}

impl RestoredFolder {
    fn empty() -> Self {
        let root = tempfile::tempdir().unwrap();
        let location = StateLocation::Dir(root.path().to_owned());
        let store = StateStore::new(&location, &"shop".parse().unwrap(), &"prod".parse().unwrap());
        fs::create_dir_all(store.folder()).unwrap();
        Self { _root: root, store }
    }

    fn of(first: &Path) -> Self {
        let folder = Self::empty();
        merge_into_folder(folder.store.folder(), &downloaded(first, Some(&key("k"))), "artifact").unwrap();
        folder
    }

    fn copy(&self) -> Self {
        let (copy, files) = (Self::empty(), copy_of(self.store.folder()));
        fs::remove_dir(copy.store.folder()).unwrap();
        fs::rename(files.keep(), copy.store.folder()).unwrap();
        copy
    }

    fn file(&self, name: &str) -> PathBuf {
        self.store.folder().join(name)
    }

    fn base(&self) -> Vec<u8> {
        fs::read(self.file(BASE_SNAPSHOT_FILE)).unwrap()
    }

    fn damage(&self, content: &[u8]) {
        fs::write(self.file(BASE_SNAPSHOT_FILE), content).unwrap();
    }

    fn forget_snapshots(&self) {
        for name in ["snapshot.json", "snapshot-previous.json"] {
            fs::remove_file(self.file(name)).unwrap();
        }
    }

    fn state(&self) -> JournalState {
        self.store.load(|_| {}).unwrap().state
    }

    /// What every reader says of a base snapshot that can't be used.
    #[track_caller]
    fn refused(&self) -> BaseRepair {
        let before = files_in(self.store.folder());
        let error = self.store.load(|_| {}).unwrap_err();
        let diagnostic = Diagnostic::from(&error);
        assert_eq!(diagnostic.code, ErrorCode::BaseSnapshotUnusable, "{error}");
        assert!(error.to_string().contains(BASE_SNAPSHOT_FILE), "{error}");
        let HistoryError::State(StateError::BaseSnapshot { repair, .. }) = error else { panic!("{error}") };
        assert!(HistoryFolder::open(self.store.folder()).is_err() || !self.file(BASE_SNAPSHOT_FILE).exists());
        assert_eq!(self.found(), Some(repair));
        assert_eq!(files_in(self.store.folder()), before, "nothing was changed");
        repair
    }

    /// What a check says that a repair does about it.
    #[track_caller]
    fn found(&self) -> Option<BaseRepair> {
        let bases = self.store.check().unwrap().into_iter().filter_map(|finding| match finding {
            StateFinding::DamagedBase { repair, .. } => Some(repair),
            StateFinding::DamagedJournal { .. }
            | StateFinding::DamagedOldJournal { .. }
            | StateFinding::LostJournal { .. }
            | StateFinding::DamagedArchive { .. }
            | StateFinding::DamagedRemoteFile(_)
            | StateFinding::DamagedBegunFile(_)
            | StateFinding::Diverged(_) => panic!("{finding:?}"),
            StateFinding::OutdatedSnapshot | StateFinding::NotUploaded(_) | StateFinding::LostLines(_) => None,
        });
        bases.last()
    }
}

/// Each byte with a flipped bit, and each truncation; every `step`th of them.
fn damaged(good: &[u8], step: usize) -> impl Iterator<Item = Vec<u8>> {
    let flipped = (0..good.len()).map(|at| {
        let mut bad = good.to_vec();
        bad[at] ^= 1 << (at % 8);
        bad
    });
    flipped.chain((0..good.len()).map(|length| good[..length].to_vec())).step_by(step)
}

#[test]
fn every_damage_is_noticed_and_repaired_without_losing_state() {
    let first = machine(&[("1-old", 2), ("3-new", 1)]);
    let here = RestoredFolder::of(first.path());
    (0..2).for_each(|_| drop(deploy(here.store.folder(), "3-new")));
    let (good, state) = (here.base(), here.state());
    assert_eq!((here.found(), state.epoch()), (None, 5));
    for bad in damaged(&good, 1) {
        here.damage(&bad);
        let error = here.store.load(|_| {}).unwrap_err();
        assert!(matches!(error, HistoryError::State(StateError::BaseSnapshot { .. })), "{error}");
    }
    for bad in damaged(&good, 397).chain([Vec::new()]) {
        here.damage(&bad);
        assert_eq!(here.refused(), BaseRepair::BeginAfter(4));
        let copy = here.copy();
        copy.store.repair().unwrap();
        assert_eq!((copy.found(), copy.state()), (None, state.clone()));
        assert_eq!(state_of(copy.store.folder()), state, "without the snapshot, too");
        // The damaged file, and the journals of the epochs 3 and 4.
        assert_eq!(fs::read_dir(copy.file("lost")).unwrap().count(), 3);
        // The next damage is repaired likewise.
        copy.damage(&bad);
        assert_eq!(copy.found(), Some(BaseRepair::BeginAfter(5)));
        copy.store.repair().unwrap();
        assert_eq!((copy.found(), copy.state()), (None, state.clone()));
    }
    // Without a sound snapshot, only a copy helps: a repair says so, and changes nothing.
    here.forget_snapshots();
    assert_eq!(here.refused(), BaseRepair::None);
    let before = files_in(here.store.folder());
    here.store.repair().unwrap_err();
    assert_eq!(files_in(here.store.folder()), before);
    here.damage(&good);
    assert_eq!((here.found(), here.state()), (None, state));
}

#[test]
fn missing_base_is_noticed_by_a_check_and_where_it_is_needed() {
    let first = machine(&[("1-old", 2), ("3-new", 1)]);
    let here = RestoredFolder::of(first.path());
    deploy(here.store.folder(), "3-new");
    let state = here.state();
    fs::remove_file(here.file(BASE_SNAPSHOT_FILE)).unwrap();
    // The snapshot has the state.
    assert_eq!((here.state(), here.found()), (state.clone(), Some(BaseRepair::BeginAfter(3))));
    let repaired = here.copy();
    repaired.store.repair().unwrap();
    assert_eq!((repaired.found(), state_of(repaired.store.folder())), (None, state));
    here.forget_snapshots();
    assert_eq!(here.refused(), BaseRepair::None);
}

#[test]
fn base_of_another_deployment_is_noticed() {
    let first = machine(&[("1-old", 2), ("3-new", 1)]);
    let here = RestoredFolder::of(first.path());
    (0..2).for_each(|_| drop(deploy(here.store.folder(), "3-new")));
    let state = here.state();
    // Of as many attempts, of fewer, and of more than there are here.
    for attempts in [1, 2, 9] {
        let other = machine(&[("1-other", attempts), ("20-new", 1)]);
        let foreign = fs::read(restored(other.path(), Some(&key("k"))).path().join(BASE_SNAPSHOT_FILE)).unwrap();
        here.damage(&foreign);
        assert_eq!(here.refused(), BaseRepair::BeginAfter(4), "{attempts}");
        let copy = here.copy();
        copy.store.repair().unwrap();
        assert_eq!((copy.found(), state_of(copy.store.folder())), (None, state.clone()));
        // A history that needs none.
        let whole = RestoredFolder::empty();
        (0..3).for_each(|_| drop(deploy(whole.store.folder(), "1-whole")));
        let state = whole.state();
        whole.damage(&foreign);
        assert_eq!(whole.refused(), BaseRepair::Drop, "{attempts}");
        whole.forget_snapshots();
        assert_eq!(whole.refused(), BaseRepair::Drop, "{attempts}");
        whole.store.repair().unwrap();
        assert_eq!((whole.found(), state_of(whole.store.folder())), (None, state));
    }
}

#[test]
fn archive_stands_in_for_the_base() {
    let first = machine(&[("1-old", 2), ("3-new", 1)]);
    let here = RestoredFolder::of(first.path());
    (0..9).for_each(|_| drop(deploy(here.store.folder(), "3-new")));
    let (good, state) = (here.base(), here.state());
    assert!(here.file("archive").read_dir().unwrap().count() > 1);
    for bad in damaged(&good, 97).chain([Vec::new()]) {
        here.damage(&bad);
        assert_eq!((here.state(), here.found()), (state.clone(), Some(BaseRepair::Remake)));
        assert_eq!(state_of(here.store.folder()), state);
    }
    let copy = here.copy();
    deploy(copy.store.folder(), "3-new");
    assert_eq!((copy.base(), copy.found()), (good.clone(), None), "the next attempt writes it again");
    let other = machine(&[("1-other", 3), ("20-new", 1)]);
    let foreign = fs::read(restored(other.path(), Some(&key("k"))).path().join(BASE_SNAPSHOT_FILE)).unwrap();
    for bad in [None, Some(foreign)] {
        match &bad {
            None => fs::remove_file(here.file(BASE_SNAPSHOT_FILE)).unwrap(),
            Some(foreign) => here.damage(foreign),
        }
        assert_eq!((here.state(), here.found()), (state.clone(), Some(BaseRepair::Remake)));
        assert_eq!(state_of(here.store.folder()), state);
        here.store.repair().unwrap();
        assert_eq!((here.base(), here.found(), here.state()), (good.clone(), None, state.clone()));
    }
}

#[test]
fn checkpoint_with_the_same_base_heals_it() {
    let first = machine(&[("1-old", 2), ("3-new", 1)]);
    let here = RestoredFolder::of(first.path());
    let (good, state) = (here.base(), here.state());
    for bad in damaged(&good, 197).chain([Vec::new()]) {
        here.damage(&bad);
        merge_into_folder(here.store.folder(), &downloaded(first.path(), Some(&key("k"))), "artifact").unwrap();
        assert_eq!((here.base(), here.state()), (good.clone(), state.clone()));
    }
    here.damage(&good[1..]);
    let before = files_in(here.store.folder());
    let other = machine(&[("1-other", 2), ("3-new", 1)]);
    let merged = merge_into_folder(here.store.folder(), &downloaded(other.path(), Some(&key("k"))), "artifact");
    assert!(matches!(merged, Err(StateError::BaseSnapshot { .. })), "{merged:?}");
    assert_eq!(files_in(here.store.folder()), before);
}
