//! What the runner says is so: deployments of generated plans with faults, on one machine and on several, with and without a key, on
//! doubles of modules that know the truth. `live`, `verified` and "live again" are never said of what does not answer; after exit 0 no
//! effect is missing, also none of a step that has no probe and is shown as trusted; and what a hint says will be skipped is skipped.

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]

#[path = "truth/scenario.rs"]
mod scenario;
#[path = "truth/world.rs"]
mod world;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use contract::diagnostic::{Diagnostic, ExitKind};
use journal::{
    JournalEvent, JournalState, JournalTrust, RecordStatus, StepRecord,
    event::{Decision, DecisionReason},
    file::JournalObservation,
    state::LiveDoubt,
};
use plan::{Plan, PlanRequest, PlanSource, StateLocation};
use proptest::{
    prelude::*,
    test_runner::{RngSeed, TestCaseResult},
};
use runner::deploy::{AttemptResult, DeployOverrides, DeploymentRequest, Interrupt, PreparedPlan, run};
use scenario::{Happening, MACHINES, Scenario, arb_scenario};
use state::{LockWait, StateStore};
use world::{Doubles, Fault, World, WorldMachine, describe};

/// Each of the tests runs so many scenarios.
const CASES: u32 = 250;

/// Where the state lies: in memory, if the machine has a place there, since only its content matters.
fn new_root() -> tempfile::TempDir {
    let in_memory = Path::new("/dev/shm");
    if in_memory.is_dir() { tempfile::tempdir_in(in_memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

macro_rules! samples {
    ($($name:ident: $seed:literal,)*) => {$(
        #[test]
        fn $name() {
            let config = ProptestConfig {
                cases: CASES, failure_persistence: None, rng_seed: RngSeed::Fixed($seed), ..ProptestConfig::default()
            };
            let mut seen = BTreeMap::new();
            let seen_in = RefCell::new(&mut seen);
            proptest::test_runner::TestRunner::new(config)
                .run(&arb_scenario(), |scenario| Deployments::check(&scenario, &mut **seen_in.borrow_mut()))
                .unwrap_or_else(|error| panic!("{error}"));
            // The property would hold of runs that do nothing.
            for what in ["success", "in doubt", "rolled back", "live again", "not verified", "trusted", "stale", "made elsewhere", "skips", "stop foretold"] {
                assert!(seen.get(what).is_some_and(|count| *count >= 5), "{what} is too rare: {seen:?}");
            }
        }
    )*};
}

samples! {
    what_is_said_is_so_1: 1,
    what_is_said_is_so_2: 2,
    what_is_said_is_so_3: 3,
    what_is_said_is_so_4: 4,
}

/// What an attempt said.
struct Said {
    result: AttemptResult,
    decisions: Vec<(String, Decision)>,
}

/// The deployments of one scenario.
struct Deployments<'s> {
    plan: String,
    world: Rc<RefCell<World>>,
    root: tempfile::TempDir,
    /// The folder of the state, which each move copies.
    folder: PathBuf,
    moves: usize,
    /// The machine of the last attempt that reached the link: what is said of the live release is said of it.
    live_on: usize,
    /// Whether a machine was left while the outcome of its link was unknown: what is live there is unknown until a release is verified.
    is_link_unknown: bool,
    /// What the hint of the last attempt said of the next one.
    foretold: Option<Foretold>,
    seen: &'s mut BTreeMap<&'static str, u32>,
}

impl<'s> Deployments<'s> {
    fn check(scenario: &Scenario, seen: &'s mut BTreeMap<&'static str, u32>) -> TestCaseResult {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let root = new_root();
        let world = World {
            machines: vec![WorldMachine::default(); MACHINES],
            services: scenario.services().collect(),
            ..World::default()
        };
        let mut deployments = Self {
            plan: scenario.plan(),
            world: Rc::new(RefCell::new(world)),
            folder: root.path().join("0"),
            root,
            moves: 0,
            live_on: 0,
            is_link_unknown: false,
            foretold: None,
            seen,
        };
        runtime.block_on(deployments.play(scenario))
    }

    async fn play(&mut self, scenario: &Scenario) -> TestCaseResult {
        let mut last = 0;
        for happening in &scenario.happenings {
            match happening {
                Happening::Move { machine, has_key } => self.move_to(*machine, *has_key),
                Happening::Deploy { release, faults, config_is_good, is_broken, rerun } => {
                    last = *release;
                    let label = format!("r{release}");
                    self.change_world(&label, *config_is_good, *is_broken);
                    self.deploy(&label, faults, *rerun).await?;
                }
            }
        }
        // Everything is mended: the deployment succeeds now, or an operator must decide.
        self.world.borrow_mut().config_is_good = true;
        self.world.borrow_mut().broken.clear();
        self.foretold = None;
        let label = format!("r{last}");
        let mut said = self.deploy(&label, &[], None).await?.unwrap();
        if matches!(said.result.exit, ExitKind::Failed | ExitKind::RolledBack) {
            // The outcome of a check was lost before, so that only now a check says that something is stale.
            said = self.deploy(&label, &[], None).await?.unwrap();
        }
        prop_assert!(
            matches!(said.result.exit, ExitKind::Success | ExitKind::InDoubt),
            "it can't go on: {:?}\n{}",
            said.result,
            self.plan
        );
        Ok(())
    }

    /// Mends or spoils the configuration and a release.
    fn change_world(&mut self, label: &str, config_is_good: bool, is_broken: bool) {
        let mut world = self.world.borrow_mut();
        // What a probe of a service finds is no longer what the hint was about.
        if world.config_is_good != config_is_good
            && let Some(Foretold { passed, skips, .. }) = &mut self.foretold
        {
            passed.retain(|step| !world.services.contains(step));
            skips.retain(|step| !world.services.contains(step));
        }
        world.config_is_good = config_is_good;
        // What is live does not break by itself.
        let is_live = world.machines.iter().any(|machine| machine.link.as_deref() == Some(label));
        if is_broken && !is_live {
            world.broken.insert(label.to_owned());
        } else if !is_broken {
            world.broken.remove(label);
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// The state goes to another machine, as its journals do.
    fn move_to(&mut self, machine: usize, has_key: bool) {
        if self.world.borrow().here == machine || !self.folder.exists() {
            self.world.borrow_mut().here = machine;
            return;
        }
        self.world.borrow_mut().here = machine;
        self.foretold = None;
        let state = self.store().load(|_| {}).unwrap().state;
        self.is_link_unknown |= state.records.values().any(is_open_exposure);
        self.moves += 1;
        let folder = self.root.path().join(self.moves.to_string());
        let (from, to) = (self.folder.join("shop/default"), folder.join("shop/default"));
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if let Some(number) = name.strip_suffix(".journal") {
                let number = number.trim_end_matches(".suggested");
                let is_suggested = !has_key || name.ends_with(".suggested.journal");
                let end = if is_suggested { "suggested.journal" } else { "journal" };
                fs::copy(entry.path(), to.join(format!("{number}.{end}"))).unwrap();
            }
        }
        self.folder = folder;
    }

    fn store(&self) -> StateStore {
        StateStore::new(&StateLocation::Dir(self.folder.clone()), &"shop".parse().unwrap(), &"default".parse().unwrap())
    }

    fn prepare(&self, label: &str) -> PreparedPlan {
        let source = PlanSource { path: "deploy.yml".into(), folder: "/plans".into(), text: self.plan.as_str().into() };
        let label = label.parse().unwrap();
        let request =
            PlanRequest { environment: None, release: &label, env: &|_| None, inventory: &plan::no_inventory };
        let plan = Plan::parse(source, &request).unwrap_or_else(|error| panic!("{error:?}\n{}", self.plan));
        PreparedPlan::with_doubles(plan, label.clone(), describe, Box::new(Doubles(Rc::clone(&self.world))))
    }

    /// Deploys a release, and compares what is said with the truth. Returns nothing if the runner was killed.
    async fn deploy(
        &mut self,
        label: &str,
        faults: &[(usize, Fault)],
        rerun: Option<usize>,
    ) -> Result<Option<Said>, TestCaseError> {
        let (store, prepared) = (self.store(), self.prepare(label));
        let name_of = |index: usize| prepared.steps[index % prepared.steps.len()].step.id.clone();
        let killed = {
            let mut world = self.world.borrow_mut();
            world.faults = faults.iter().map(|(index, fault)| (name_of(*index).to_string(), *fault)).collect();
            Rc::clone(&world.killed)
        };
        let machine = format!("m{}", self.world.borrow().here).parse().unwrap();
        let rerun: BTreeSet<_> = rerun.map(name_of).into_iter().collect();
        let request = DeploymentRequest {
            prepared: &prepared,
            store: &store,
            overrides: DeployOverrides { rerun: rerun.clone(), ..DeployOverrides::default() },
            operator: "ann@host".to_owned(),
            commit: None,
            url: None,
            machine: Some(machine),
            wait: LockWait::Default,
            resume_command: "runner".to_owned(),
            resolve_command: None,
            siblings: Vec::new(),
            parent_deployments: Vec::new(),
            notify: Arc::new(|_| {}),
        };
        let decisions = Rc::new(RefCell::new(Vec::new()));
        let reached_link = Rc::new(RefCell::new(false));
        let (decided, reached) = (Rc::clone(&decisions), Rc::clone(&reached_link));
        let observe = move |_: &JournalState, _: &journal::event::JournalHeader| -> journal::file::EntryObserver {
            Box::new(move |observed| {
                let JournalObservation::Entry(entry) = observed else { return };
                *reached.borrow_mut() |= entry.event.step_target().is_some_and(|place| place.step.as_str() == "link");
                if let JournalEvent::Decision { step_target, decision } = &entry.event {
                    decided.borrow_mut().push((step_target.step.to_string(), decision.clone()));
                }
            })
        };
        let attempt = run(request, Interrupt::listen().unwrap(), observe);
        let ended = tokio::select! {
            ended = attempt => Some(ended),
            () = killed.notified() => None,
        };
        if *reached_link.borrow() {
            self.live_on = self.world.borrow().here;
        }
        let decisions = decisions.take();
        if rerun.is_empty() {
            self.compare_with_hint(label, &decisions)?;
        }
        self.foretold = None;
        let said = match ended {
            None => None,
            Some(Err(problems)) => panic!("{problems:?}"),
            Some(Ok(result)) => Some(Said { result, decisions }),
        };
        if let Some(said) = &said {
            self.compare_result(&prepared, label, said)?;
        }
        self.compare_status(&store)?;
        Ok(said)
    }

    /// What was said to be skipped is skipped, and nothing else of what was passed; what was said to stop stops.
    fn compare_with_hint(&mut self, label: &str, decisions: &[(String, Decision)]) -> TestCaseResult {
        let Some(foretold) = self.foretold.take().filter(|foretold| foretold.label == label) else { return Ok(()) };
        let Foretold { label: foretold_for, passed, skips, stop } = foretold;
        if let Some(stop) = stop {
            if decisions.iter().any(|(step, _)| *step == stop) {
                self.count("stop foretold");
            }
            // A step before it that runs again may fail first.
            let decided = decisions.iter().find(|(step, _)| *step == stop);
            let stops = decided.is_none_or(|(_, decision)| matches!(decision, Decision::Stop { .. }));
            prop_assert!(stops, "`{stop}` was to stop for {foretold_for}: {decisions:?}\n{}", self.plan);
            return Ok(());
        }
        // What comes after the first decision about a step is a rollback.
        let mut decided = BTreeSet::new();
        let decisions: Vec<_> = decisions.iter().filter(|(step, _)| decided.insert(step.clone())).collect();
        let is_skip = |decision: &Decision| matches!(decision, Decision::Skip { .. } | Decision::Adopt { .. });
        let skipped = decisions.iter().filter(|(_, decision)| is_skip(decision)).map(|(step, _)| step.clone());
        let skipped: BTreeSet<_> = skipped.filter(|step| passed.contains(step)).collect();
        let expected: BTreeSet<_> = skips.intersection(&decided).cloned().collect();
        if !expected.is_empty() {
            self.count("skips");
        }
        prop_assert_eq!(skipped, expected, "the hint for {} was wrong: {:?}\n{}", foretold_for, decisions, self.plan);
        Ok(())
    }

    fn compare_result(&mut self, prepared: &PreparedPlan, label: &str, said: &Said) -> TestCaseResult {
        let Said { result, decisions } = said;
        let reason = |wanted: fn(&DecisionReason) -> bool| {
            decisions.iter().any(|(_, decision)| match decision {
                Decision::Run { reason } | Decision::Stop { reason } => wanted(reason),
                Decision::Skip { .. } | Decision::Adopt { .. } => false,
            })
        };
        let counted = [
            ("stale", reason(|reason| matches!(reason, DecisionReason::Stale { .. }))),
            ("made elsewhere", reason(|reason| matches!(reason, DecisionReason::MadeElsewhere))),
            ("success", result.exit == ExitKind::Success),
            ("in doubt", result.exit == ExitKind::InDoubt),
            ("rolled back", result.exit == ExitKind::RolledBack),
        ];
        counted.into_iter().filter(|(_, is_so)| *is_so).for_each(|(what, _)| self.count(what));
        if result.exit == ExitKind::Success {
            for planned in &prepared.steps {
                let id = planned.step.id.as_str();
                let is_trusted = decisions.iter().any(|(step, decision)| {
                    step == id && matches!(decision, Decision::Skip { reason: DecisionReason::Trusted, .. })
                });
                if is_trusted {
                    self.count("trusted");
                }
                let is_there = self.world.borrow().has_effect(&planned.step, label);
                // Here nobody else changes anything, so what is trusted is so too.
                prop_assert!(is_there, "{id} is missing: {decisions:?}\n{}", self.plan);
            }
        }
        let hint = result.error.as_ref().and_then(|error| error.hint.clone()).unwrap_or_default();
        if let Some((release, _)) = hint.split_once(" is live again") {
            self.count("live again");
            let world = self.world.borrow();
            prop_assert!(world.answers(world.here, release), "{hint}\n{world:?}\n{}", self.plan);
        } else if result.exit == ExitKind::RolledBack {
            prop_assert!(hint.starts_with("switched back to "), "{hint}");
        }
        if let Some(error) = &result.error {
            self.foretold = Foretold::read(label, error, &hint, decisions);
        }
        Ok(())
    }

    /// What is said of the live release at any time.
    fn compare_status(&mut self, store: &StateStore) -> TestCaseResult {
        let state = store.load(|_| {}).unwrap().state;
        let Some(live) = &state.head.live else { return Ok(()) };
        let (label, world) = (live.label.as_str(), self.world.borrow());
        let is_verified = state.head.is_live_verified();
        prop_assert!(
            !is_verified || world.answers(self.live_on, label),
            "{label} is verified, and does not answer: {world:?}\n{}",
            self.plan
        );
        let is_linked = world.machines.iter().any(|machine| machine.link.as_deref() == Some(label));
        // While the outcome of the link is unknown, so is what is live.
        let is_open = state.records.values().any(is_open_exposure);
        drop(world);
        self.is_link_unknown &= !is_verified;
        // An undo on a new machine restores what was there, which may be nothing; the state knows only what was live on the one before.
        let is_undone_elsewhere =
            self.moves > 0 && matches!(state.head.live_doubt, Some(LiveDoubt::SwitchedBack { .. }));
        let is_said = !is_open && !self.is_link_unknown && !is_undone_elsewhere;
        if !is_verified {
            self.count("not verified");
        }
        prop_assert!(
            is_linked || !is_said,
            "{label} is live, and no link leads to it: {:?}\n{}",
            self.world,
            self.plan
        );
        Ok(())
    }
}

/// Whether a step that exposes a release was begun or is being undone, and has no outcome.
fn is_open_exposure(record: &StepRecord) -> bool {
    record.intent.exposes
        && record.trust == JournalTrust::Authenticated
        && matches!(record.status, RecordStatus::Intended | RecordStatus::Undoing(_))
}

/// What a hint says of the next attempt.
struct Foretold {
    /// Of the release.
    label: String,
    /// The steps that the attempt passed.
    passed: BTreeSet<String>,
    /// Those of them that the next one skips.
    skips: BTreeSet<String>,
    /// The step at which the next one stops.
    stop: Option<String>,
}

impl Foretold {
    fn read(label: &str, error: &Diagnostic, hint: &str, decisions: &[(String, Decision)]) -> Option<Self> {
        if !["P0301", "P0302"].contains(&error.code.as_str()) {
            return None;
        }
        let listed = hint.split_once("(skips: ").map(|(_, rest)| rest.trim_end_matches(')'));
        let skips = listed.into_iter().flat_map(|list| list.split(", ")).map(str::to_owned).collect();
        let stop = hint.split_once("--accept-drift ").map(|(_, rest)| {
            let is_name = |char: char| char.is_ascii_alphanumeric() || char == '-';
            rest.chars().take_while(|char| is_name(*char)).collect()
        });
        let (failed, _) = decisions.last()?;
        let passed = decisions.iter().map(|(step, _)| step.clone()).filter(|step| step != failed).collect();
        Some(Self { label: label.to_owned(), passed, skips, stop })
    }
}
