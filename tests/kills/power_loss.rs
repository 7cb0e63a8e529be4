//! The power goes while the runner deploys: every state that the disk may be in then is rebuilt, and the runner is run again on it.
//!
//! The states come from the calls of one run under strace: what was not synced may be there, in part, or not at all. The end must be
//! an undisturbed run's; exit 65 never happens, no attempt before is forgotten, and a program that fails when it is run twice, whose
//! effect survives everything, is run once. Deliberately absent: disks that lie about what is synced.

#[path = "power_loss/crash.rs"]
mod crash;
#[path = "power_loss/disk.rs"]
mod disk;
#[path = "power_loss/trace.rs"]
mod trace;

use std::{collections::BTreeSet, fs, io::Write as _, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use self::{
    crash::CrashState,
    trace::{DiskTrace, TraceKill},
};
use crate::{
    example_shop::{ATTEMPTS_BEFORE_ARCHIVE, ExampleShop, deploy_arguments},
    rng::{self, SplitMix64},
    server::{HealthServer, ServerHealth},
    snapshot::{DeploymentSnapshot, recorded_epochs},
    wants_every_point,
};

/// How many states are taken when not all are.
const STATES: usize = 12;
/// The journal is synced for the outcome of `pull` at the second, and for the intent of `migrate` at the third.
const KILLED_SYNCS: [usize; 2] = [2, 3];

#[test]
fn a_first_deployment_without_power_ends_as_an_undisturbed_one() -> Result<()> {
    PowerHarness::new(PowerScenario::First)?.check("power loss in a first deployment")
}

#[test]
fn a_second_deployment_without_power_ends_as_an_undisturbed_one() -> Result<()> {
    PowerHarness::new(PowerScenario::Second)?.check("power loss in a second deployment")
}

#[test]
fn a_rollback_without_power_ends_as_an_undisturbed_one() -> Result<()> {
    PowerHarness::new(PowerScenario::Rollback)?.check("power loss in a rollback")
}

#[test]
fn an_archive_without_power_ends_as_an_undisturbed_one() -> Result<()> {
    PowerHarness::new(PowerScenario::Archive)?.check("power loss while an archive is made")
}

/// The journal of the killed attempt ends in lines that it did not sync; the next attempt's begins with their hash.
#[test]
fn an_attempt_after_a_kill_without_power_ends_as_an_undisturbed_one() -> Result<()> {
    for number in KILLED_SYNCS {
        let name = format!("power loss in the attempt after a kill at sync {number}");
        PowerHarness::new(PowerScenario::AfterKill(number))?.check(&name)?;
    }
    Ok(())
}

/// What is deployed while the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PowerScenario {
    /// r1, where nothing was before.
    First,
    /// r2 over r1.
    Second,
    /// r2 over r1; `verify` finds it sick.
    Rollback,
    /// r2 over r1 and many attempts, of which the oldest go into an archive.
    Archive,
    /// r1 again, after the first attempt was killed at this sync of its journal, without a power loss.
    AfterKill(usize),
}

impl PowerScenario {
    fn arguments(self) -> [&'static str; 3] {
        deploy_arguments(match self {
            Self::First | Self::AfterKill(_) => "r1",
            Self::Second | Self::Rollback | Self::Archive => "r2",
        })
    }

    fn exit_code(self) -> i32 {
        match self {
            Self::First | Self::Second | Self::Archive | Self::AfterKill(_) => 0,
            Self::Rollback => 4,
        }
    }
}

struct PowerHarness {
    scenario: PowerScenario,
    trace: DiskTrace,
    /// The first point at which the power goes.
    first_point: usize,
    /// Where an undisturbed run ends.
    expected: DeploymentSnapshot,
    /// What the counted program has done then.
    effects: BTreeSet<String>,
    /// The epochs of the attempts that ended before.
    epochs: BTreeSet<u64>,
    /// The shop's, for all states: paths in grants are a part of what a step depends on.
    folder: TempDir,
    _server: HealthServer,
}

impl PowerHarness {
    fn new(scenario: PowerScenario) -> Result<Self> {
        let server = HealthServer::start()?;
        let folder = tempfile::tempdir()?;
        let shop = folder.path().join("shop");
        fs::create_dir(&shop)?;
        fs::create_dir(folder.path().join("outside"))?;
        let shop = ExampleShop::new(&shop, &server.origin())?;
        add_counted_step(&shop)?;
        match scenario {
            PowerScenario::First | PowerScenario::AfterKill(_) => {}
            PowerScenario::Second | PowerScenario::Rollback => shop.deploy_first()?,
            PowerScenario::Archive => {
                shop.deploy_first()?;
                shop.repeat_newest_attempt(ATTEMPTS_BEFORE_ARCHIVE - 1)?;
            }
        }
        let epochs = recorded_epochs(&shop)?;
        if scenario == PowerScenario::Rollback {
            server.set_health(ServerHealth::Failing);
        }
        let mut trace = DiskTrace::new(&shop)?;
        trace.effects.extend(counted_effects(folder.path())?.into_iter().map(|effect| (0, effect)));
        if let PowerScenario::AfterKill(number) = scenario {
            let status = trace.run(&shop, &scenario.arguments(), TraceKill::AtDataSync(number))?;
            ensure!(!status.success(), "the first attempt was not killed");
        }
        let first_point = trace.changes.len();
        let status = trace.run(&shop, &scenario.arguments(), TraceKill::Never)?;
        ensure!(status.code() == Some(scenario.exit_code()), "undisturbed, it ended with {status}");
        if scenario == PowerScenario::Archive {
            let archives = fs::read_dir(shop.state_dir().join("archive")).context("no archive was made")?.count();
            ensure!(archives == 1, "{archives} archives were made");
        }
        let (expected, effects) = (DeploymentSnapshot::capture(&shop)?, counted_effects(folder.path())?);
        Ok(Self { scenario, trace, first_point, expected, effects, epochs, folder, _server: server })
    }

    /// Runs the runner on some of the states, or on all. All that are taken are tried before it fails.
    fn check(&self, what: &str) -> Result<()> {
        let (began, seed) = (Instant::now(), rng::seed_from_env()?);
        let mut rng = SplitMix64::new(seed);
        let states = CrashState::enumerate(&self.trace, self.first_point, &mut rng);
        let count = if wants_every_point() { states.len() } else { STATES };
        let chosen: Vec<_> = rng.choose_distinct(count, states.len()).into_iter().map(|at| &states[at]).collect();
        let mut failures = Vec::new();
        for state in &chosen {
            if let Err(error) = self.check_state(state) {
                failures.push(self.describe_failure(state, &error));
            }
        }
        let changes = self.trace.changes.len() - self.first_point;
        let (failed, took) = (failures.len(), began.elapsed().as_secs_f64());
        let lost: usize = chosen.iter().map(|state| state.lost_changes(&self.trace)).sum();
        // Straight to the terminal: what is printed of a test that passes is swallowed, and the seed must be known.
        writeln!(
            std::io::stderr().lock(),
            "{what}: {} of {} states of {changes} changes, {failed} failed, {took:.1} s, PAWL_SEED={seed}; lost {lost} changes",
            chosen.len(),
            states.len(),
        )?;
        failures.truncate(10);
        ensure!(failed == 0, "{failed} states of {what} failed, PAWL_SEED={seed}:\n\n{}", failures.join("\n\n"));
        Ok(())
    }

    fn check_state(&self, state: &CrashState) -> Result<()> {
        let folder = self.folder.path();
        for part in ["shop", "outside"] {
            fs::remove_dir_all(folder.join(part))?;
        }
        let shop = folder.join("shop");
        state.disk(&self.trace).write_to(&shop)?;
        fs::create_dir(folder.join("outside"))?;
        for effect in state.effects(&self.trace) {
            fs::create_dir(folder.join("outside").join(effect))?;
        }
        let shop = ExampleShop::open(&shop);
        shop.run_expecting(&self.scenario.arguments(), self.scenario.exit_code())?;
        let differences = DeploymentSnapshot::capture(&shop)?.differences(&self.expected);
        ensure!(differences.is_empty(), "the end is another than undisturbed (+ found, - missing): {differences:#?}");
        ensure!(counted_effects(folder)? == self.effects, "the counted program was forgotten");
        shop.run_expecting(&["journal", "check", &shop.state_dir().display().to_string()], 0)?;
        let forgotten: Vec<_> = self.epochs.difference(&recorded_epochs(&shop)?).copied().collect();
        ensure!(forgotten.is_empty(), "the history has lost the attempts {forgotten:?}");
        Ok(())
    }

    fn describe_failure(&self, state: &CrashState, error: &anyhow::Error) -> String {
        let changes = &self.trace.changes[..state.point];
        let last: String =
            changes[changes.len().saturating_sub(3)..].iter().map(|change| cut(&format!("{change:?}"), 160)).collect();
        let mut files = state.disk(&self.trace).list();
        files.retain(|line| {
            !line.starts_with("./app") && !line.starts_with("./dist") && !line.starts_with("./migrations")
        });
        files.truncate(40);
        format!(
            "{}\nthe last of {} changes:\n{last}{error:#}\n{}",
            cut(&format!("{state:?}"), 400),
            changes.len(),
            files.join("\n")
        )
    }
}

fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).chain(['\n']).collect()
}

/// A step before `switch` that fails when it is run twice for a release, whatever is on the disk.
fn add_counted_step(shop: &ExampleShop) -> Result<()> {
    let path = shop.folder().join("deploy.yml");
    let plan = fs::read_to_string(&path)?;
    ensure!(plan.contains("  switch:\n"), "the example's plan has another step than the power tests know");
    let step = format!(
        "  count:\n    uses: run\n    trust: host\n    with: {{ program: /bin/mkdir, args: [\"{prefix}${{{{ release }}}}\"], dir: outside, \
         probe: [/usr/bin/test, -e, \"{prefix}${{{{ release }}}}\"] }}\n    grants:\n      dirs: {{ outside: ../outside }}\n      \
         programs: [[/bin/mkdir, \"*\"], [/usr/bin/test, -e, \"*\"]]\n  switch:\n",
        prefix = trace::COUNTED_PREFIX
    );
    Ok(fs::write(&path, plan.replace("  switch:\n", &step))?)
}

/// What the counted program has done.
fn counted_effects(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder.join("outside"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
