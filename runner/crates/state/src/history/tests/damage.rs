//! Damaged and lost journals: what a check says of them, and what a repair keeps.

use std::collections::BTreeSet;

use contract::step::StepPhase;
use journal::{event::PlanStepRecord, file::JournalNote};

use super::*;
use crate::{BaseRepair, BegunSteps, StateFinding, journal_files::journal_name, lost_lines::lost_files_in};

/// A state folder with its store.
struct DamagedFolder {
    _root: tempfile::TempDir,
    store: StateStore,
}

impl DamagedFolder {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let location = StateLocation::Dir(root.path().to_owned());
        let store = StateStore::new(&location, &"shop".parse().unwrap(), &"prod".parse().unwrap());
        fs::create_dir_all(store.folder()).unwrap();
        Self { _root: root, store }
    }

    fn deployed(attempts: usize) -> Self {
        let folder = Self::new();
        (0..attempts).for_each(|_| drop(deploy(folder.store.folder())));
        folder
    }

    fn copy(&self) -> Self {
        let copy = Self::new();
        let files = copy_of(self.store.folder());
        fs::remove_dir(copy.store.folder()).unwrap();
        fs::rename(files.keep(), copy.store.folder()).unwrap();
        copy
    }

    fn journal(&self, epoch: u64) -> PathBuf {
        self.store.folder().join(journal_name(epoch))
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let listing = fs::read_dir(self.store.folder()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            listing.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        files.sort();
        files
    }

    fn state(&self) -> JournalState {
        self.store.load(|_| {}).unwrap().state
    }

    fn check(&self) -> Vec<StateFinding> {
        self.store.check().unwrap()
    }

    fn lost_files(&self) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        lost_files_in(self.store.folder()).unwrap().iter().map(name).collect()
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut_last_line(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let end = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(path, &bytes[..end]).unwrap();
}

#[test]
fn damaged_journal_that_the_snapshot_covers_is_told_and_deployments_go_on() {
    let here = DamagedFolder::deployed(4);
    let state = here.state();
    let damages: [&dyn Fn(&Path); 4] =
        [&|path| flip(path, 100), &|path| fs::write(path, "").unwrap(), &cut_last_line, &|path| {
            fs::write(path, [fs::read(path).unwrap(), b"no line\n".to_vec()].concat()).unwrap()
        }];
    let told = ["line 1 is corrupt", "its lines are missing", "lines are missing at its end", "is corrupt"];
    for (epoch, damage) in (1..=3).flat_map(|epoch| (0..damages.len()).map(move |damage| (epoch, damage))) {
        let copy = here.copy();
        damages[damage](&copy.journal(epoch));
        let before = copy.files();
        let findings = copy.check();
        let [StateFinding::DamagedOldJournal { path, why }] = findings.as_slice() else { panic!("{findings:?}") };
        assert!(path == &copy.journal(epoch) && why.contains(told[damage]), "{epoch} {damage}: {findings:?}");
        assert!(findings[0].is_damage() && !findings[0].is_repairable());
        copy.store.repair().unwrap();
        assert_eq!((copy.files(), copy.lost_files()), (before, Vec::<String>::new()), "{epoch} {damage}");
        assert_eq!(copy.state(), state);
        deploy(copy.store.folder());
        assert_eq!(copy.state().epoch(), 5);
        let findings = copy.check();
        let [StateFinding::DamagedOldJournal { path, .. }] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(path, &copy.journal(epoch));
    }
}

/// Each journal that is damaged or missing is told, by its own name.
#[test]
fn all_old_journals_that_are_damaged_are_told() {
    let here = DamagedFolder::deployed(5);
    flip(&here.journal(1), 100);
    fs::remove_file(here.journal(3)).unwrap();
    cut_last_line(&here.journal(4));
    let findings = here.check();
    let told = findings.iter().map(|finding| {
        let StateFinding::DamagedOldJournal { path, why } = finding else { panic!("{findings:?}") };
        (path.clone(), why.as_str())
    });
    let expected = [(1, "line 1 is corrupt"), (3, "it is missing"), (4, "lines are missing at its end")];
    assert_eq!(told.collect::<Vec<_>>(), expected.map(|(epoch, why)| (here.journal(epoch), why)));
}

#[test]
fn damage_after_the_snapshot_is_repaired_without_the_journals_that_it_covers() {
    let here = DamagedFolder::deployed(3);
    let state = here.state();
    attempt(here.store.folder(), true);
    flip(&here.journal(1), 100);
    flip(&here.journal(4), 100);
    let findings = here.check();
    let [StateFinding::DamagedOldJournal { .. }, StateFinding::DamagedJournal { path, later, .. }] =
        findings.as_slice()
    else {
        panic!("{findings:?}")
    };
    assert_eq!((path, later.len()), (&here.journal(4), 0));
    here.store.repair().unwrap();
    assert_eq!(here.state(), state, "the attempts that the snapshot covers are still there");
    assert!(here.lost_files().iter().any(|name| name.starts_with("attempt-000004")), "{:?}", here.lost_files());
}

#[test]
fn snapshot_stands_for_what_the_newest_journal_has_lost() {
    let here = DamagedFolder::deployed(4);
    let state = here.state();
    let damages: [&dyn Fn(&Path); 5] = [
        &|path| fs::remove_file(path).unwrap(),
        &|path| fs::write(path, "").unwrap(),
        &cut_last_line,
        &|path| fs::write(path, &fs::read(path).unwrap()[..200]).unwrap(),
        &|path| flip(path, 100),
    ];
    for (index, damage) in damages.iter().enumerate() {
        let copy = here.copy();
        damage(&copy.journal(4));
        let findings = copy.check();
        let [StateFinding::LostJournal { path, repair: BaseRepair::BeginAfter(4), .. }] = findings.as_slice() else {
            panic!("{index}: {findings:?}")
        };
        assert_eq!(path, &copy.journal(4));
        assert!(findings[0].is_damage());
        copy.store.repair().unwrap();
        assert_eq!((copy.state(), copy.check().len()), (state.clone(), 0), "{index}");
        assert!(copy.lost_files().iter().any(|name| name.starts_with("attempt-000003")), "nothing is deleted");
        deploy(copy.store.folder());
        assert_eq!((copy.state().epoch(), copy.check().len()), (5, 0));
    }
}

#[test]
fn snapshots_are_kept_where_lines_are_moved_away() {
    let here = DamagedFolder::deployed(2);
    attempt(here.store.folder(), true);
    flip(&here.journal(3), 100);
    here.store.repair().unwrap();
    let kept = here.lost_files();
    for stem in ["attempt-000003-", "snapshot-", "snapshot-previous-"] {
        assert!(kept.iter().any(|name| name.starts_with(stem)), "{kept:?}");
    }
    assert_eq!((here.state().epoch(), here.check().len()), (2, 0));
}

fn step_target(step: &str) -> StepTarget {
    StepTarget { step: step.parse().unwrap(), target: "local".parse().unwrap() }
}

/// A journal with a plan of two steps, whose attempt was killed in the second.
fn killed_in_charge(folder: &Path) -> PathBuf {
    let loaded = open(folder).load(|_| {}).unwrap();
    let epoch = loaded.state.epoch() + 1;
    let path = folder.join(journal_name(epoch));
    let header = header(epoch, &format!("{epoch}-k3x9"));
    let mut journal = Journal::create(&path, header, loaded, Redactor::default(), Box::new(|_| {})).unwrap();
    let steps = ["pull", "charge"].map(|step| PlanStepRecord {
        step_target: step_target(step),
        uses: String::new(),
        phase: StepPhase::Prepare,
        exposes: false,
    });
    let note = JournalNote::Plan { digest: Blake3Hash::of(b""), path: String::new(), steps: steps.to_vec() };
    journal.record_note(note).unwrap();
    let charge = step_target("charge");
    journal
        .record_intent(&charge, "key", Fingerprint::default(), serde_json::json!({}), StepEffect::Mutating)
        .map(drop)
        .unwrap();
    path
}

/// Damages the line of an event.
fn flip_line(path: &Path, type_name: &str) {
    let text = fs::read_to_string(path).unwrap();
    let at = text.find(&format!("\"type\":\"{type_name}\"")).unwrap();
    flip(path, at + 10);
}

#[test]
fn unreadable_line_counts_for_each_step_that_is_named_anywhere() {
    let here = DamagedFolder::new();
    flip_line(&killed_in_charge(here.store.folder()), "intent");
    here.store.repair().unwrap();
    let planned: BTreeSet<_> = ["pull", "charge"].map(step_target).into();
    assert_eq!(here.store.lost_records().unwrap(), BegunSteps::Named(planned));

    // Steps of earlier attempts are among them, with or without a snapshot.
    for has_snapshot in [false, true] {
        let here = DamagedFolder::deployed(2);
        let path = killed_in_charge(here.store.folder());
        flip_line(&path, "intent");
        if !has_snapshot {
            fs::remove_file(here.store.folder().join(SNAPSHOT_FILE)).unwrap();
        }
        here.store.repair().unwrap();
        let all: BTreeSet<_> = ["pull", "charge", "switch"].map(step_target).into();
        assert_eq!(here.store.lost_records().unwrap(), BegunSteps::Named(all));
    }
}

#[test]
fn without_its_plan_a_damaged_journal_counts_for_all_steps() {
    let plan_is_damaged = DamagedFolder::new();
    flip_line(&killed_in_charge(plan_is_damaged.store.folder()), "plan");
    let is_emptied = DamagedFolder::new();
    let first = killed_in_charge(is_emptied.store.folder());
    killed_in_charge(is_emptied.store.folder());
    fs::write(first, "").unwrap();
    let is_missing = DamagedFolder::new();
    let missing = [0, 1, 2].map(|_| killed_in_charge(is_missing.store.folder()));
    fs::remove_file(&missing[1]).unwrap();
    for here in [plan_is_damaged, is_emptied, is_missing] {
        assert!(here.check().iter().any(StateFinding::is_damage));
        here.store.repair().unwrap();
        assert_eq!(here.store.lost_records().unwrap(), BegunSteps::All);
    }
}

#[test]
fn begun_file_that_cannot_be_read_counts_for_all_steps_and_is_told() {
    let here = DamagedFolder::deployed(1);
    fs::write(here.store.folder().join("begun.json"), "[{\"step\":\"pu").unwrap();
    let findings = here.check();
    assert!(matches!(findings.as_slice(), [StateFinding::DamagedBegunFile(_)]), "{findings:?}");
    assert!(!findings[0].is_damage());
    let known: BTreeSet<_> = ["pull", "charge"].map(step_target).into();
    assert_eq!(here.store.lost_records().unwrap().among(known.clone()), Vec::from_iter(known));
    here.store.forget_lost_records().unwrap();
    assert_eq!(here.check().len(), 0);
}
