//! The runner is killed at calls of a whole deployment, and run again: the end must be an undisturbed run's.
//!
//! Points are chosen by a seed, which is printed: `PAWL_SEED=… cargo test --release -p runner --test kills` repeats a run,
//! and `PAWL_POINTS=all` takes every point (`cargo xtask bench faults`). What no signal makes, lost and torn writes, is in
//! `power_loss`. Deliberately absent: damaged bytes; the journal's own tests cut and flip them.

#[path = "support/attempt_template.rs"]
mod attempt_template;
#[path = "kills/example_shop.rs"]
mod example_shop;
#[path = "kills/forced_releases.rs"]
mod forced_releases;
#[path = "kills/journal_sync.rs"]
mod journal_sync;
#[path = "kills/operators.rs"]
mod operators;
#[path = "kills/power_loss.rs"]
mod power_loss;
#[path = "kills/rng.rs"]
mod rng;
#[path = "kills/server.rs"]
mod server;
#[path = "kills/signals.rs"]
mod signals;
#[path = "kills/snapshot.rs"]
mod snapshot;
#[path = "kills/strace.rs"]
mod strace;
#[path = "support/tracer.rs"]
mod tracer;
#[path = "support/unpack.rs"]
mod unpack;

use std::{collections::BTreeMap, io::Write as _, time::Instant};

use anyhow::{Context, Result, ensure};
use example_shop::{ExampleShop, deploy_arguments};
use rng::SplitMix64;
use serde_json::{Value, json};
use server::{HealthServer, ServerHealth};
use snapshot::DeploymentSnapshot;
use strace::{TracedCall, TracedRun};

/// How many points are taken when not every one is.
const POINTS: usize = 60;
/// How many runs are killed, and killed again while they recover.
const DOUBLE_KILLS: usize = 20;
/// How many points of a rollback are killed twice.
const ROLLBACK_POINTS: usize = 30;
/// How many points of the other deployments.
const FEWER_POINTS: usize = 15;

/// Main property: wherever the runner is killed, what is recorded holds, and one more run ends where an undisturbed one
/// does.
#[test]
fn a_killed_deployment_ends_as_an_undisturbed_one() -> Result<()> {
    let bench = KillHarness::new(KillScenario::SecondDeployment)?;
    bench.check_random_kills("kills", POINTS, 0)
}

/// The first deployment of all, which makes folders, database and state.
#[test]
fn a_killed_first_deployment_ends_as_an_undisturbed_one() -> Result<()> {
    let bench = KillHarness::new(KillScenario::FirstDeployment)?;
    bench.check_random_kills("kills of a first deployment", FEWER_POINTS, 0)
}

/// The run that recovers is killed as well.
#[test]
fn a_deployment_killed_twice_ends_as_an_undisturbed_one() -> Result<()> {
    let bench = KillHarness::new(KillScenario::SecondDeployment)?;
    let seed = rng::seed_from_env()?;
    let mut rng = SplitMix64::new(seed);
    let first = rng.choose_distinct(DOUBLE_KILLS, bench.calls.len());
    let cases: Vec<_> = first.into_iter().map(|first| vec![first, rng.below(bench.calls.len() - first)]).collect();
    bench.check_kills("double kills", seed, &cases)
}

/// Killed from the check that fails to the end of the rollback: the next run ends where an undisturbed rollback does.
#[test]
fn a_killed_rollback_ends_as_an_undisturbed_one() -> Result<()> {
    let bench = KillHarness::new(KillScenario::FailedVerify)?;
    let check = bench.calls.iter().find(|call| call.name == "connect").context("verify connects")?.index;
    // Each point alone; then again, with a second kill while the next run recovers, until there are enough.
    let (seed, points) = (rng::seed_from_env()?, check..bench.calls.len());
    let mut rng = SplitMix64::new(seed);
    let mut cases: Vec<Vec<usize>> = points.clone().map(|point| vec![point]).collect();
    cases.extend(points.cycle().take(ROLLBACK_POINTS).map(|point| vec![point, rng.below(bench.calls.len())]));
    ensure!(cases.len() >= 50, "a rollback has only {} points", cases.len());
    bench.check_kills("kills of a rollback", seed, &cases)
}

/// Acceptance 8 of the first issue: killed between the symlink and its record, the switch is adopted, and undoing it leads
/// back to what was live before.
#[test]
fn switch_killed_before_its_record_is_adopted_and_can_be_reverted() -> Result<()> {
    let bench = KillHarness::new(KillScenario::SecondDeployment)?;
    let arguments = deploy_arguments("r2");
    let folder = tempfile::tempdir()?;
    let shop = bench.initial.copy_to(&folder.path().join("shop"))?;
    let before = DeploymentSnapshot::capture(&shop)?.live_release().context("r1 is live")?.to_owned();

    let is_the_rename = |call: &TracedCall| call.name.starts_with("rename") && call.text.contains("\".current.new\"");
    let traced = strace::run_traced(&shop, &arguments, is_the_rename)?;
    ensure!(traced.killed_after.is_some(), "no call was the rename of the link: {:?}", traced.status);
    ensure!(
        DeploymentSnapshot::capture(&shop)?.live_release() == bench.undisturbed.live_release(),
        "the link was moved before the kill"
    );
    let records = snapshot::events_after(&shop, bench.scenario.attempts_before())?;
    ensure!(!snapshot::succeeded_steps(&records).contains("switch"), "the switch was recorded before the kill");
    let intended = records.iter().any(|event| event["type"] == "intent" && event["step"] == "switch");
    ensure!(intended, "the link was moved without an intent on record");

    bench.server.set_health(ServerHealth::Failing);
    shop.run_expecting(&arguments, 4)?;
    let records = snapshot::events_after(&shop, bench.scenario.attempts_before())?;
    let of_switch = |kind: &str| -> Vec<&Value> {
        records.iter().filter(|event| event["type"] == kind && event["step"] == "switch").collect()
    };
    let decisions: Vec<&Value> = of_switch("decision").into_iter().map(|event| &event["decision"]).collect();
    let adopted = decisions.iter().find(|decision| decision["action"] == "adopt");
    let adopted = adopted.with_context(|| format!("the switch was not adopted: {decisions:?}"))?;
    ensure!(adopted["reason"] == json!({ "because": "interrupted", "finding": "held" }), "{adopted}");
    ensure!(adopted["receipt"]["notes"]["from"] == before, "the receipt has lost what was live: {adopted}");
    ensure!(of_switch("intent").len() == 1, "the switch ran a second time");
    let undone = of_switch("undo-outcome");
    ensure!(undone.len() == 1 && undone[0]["failure"].is_null(), "not undone: {undone:?}");
    ensure!(DeploymentSnapshot::capture(&shop)?.live_release() == Some(&before), "r1 is not live again");

    bench.server.set_health(ServerHealth::Healthy);
    shop.run_expecting(&arguments, 0)?;
    ensure!(
        DeploymentSnapshot::capture(&shop)?.live_release() == bench.undisturbed.live_release(),
        "r2 is not live after all"
    );
    Ok(())
}

/// What is deployed, and how it goes undisturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KillScenario {
    /// r1, where nothing was before.
    FirstDeployment,
    /// r2 over r1.
    SecondDeployment,
    /// r2 over r1; `verify` finds it sick, so that r1 is live again.
    FailedVerify,
}

impl KillScenario {
    fn arguments(self) -> [&'static str; 3] {
        deploy_arguments(match self {
            Self::FirstDeployment => "r1",
            Self::SecondDeployment | Self::FailedVerify => "r2",
        })
    }

    fn exit_code(self) -> i32 {
        match self {
            Self::FirstDeployment | Self::SecondDeployment => 0,
            Self::FailedVerify => 4,
        }
    }

    /// How many attempts were before.
    fn attempts_before(self) -> usize {
        match self {
            Self::FirstDeployment => 0,
            Self::SecondDeployment | Self::FailedVerify => 1,
        }
    }
}

/// What all points start from, and the end that they must come to.
struct KillHarness {
    scenario: KillScenario,
    server: HealthServer,
    initial: ExampleShop,
    /// The release is live, and nothing has disturbed it.
    undisturbed: DeploymentSnapshot,
    /// Where an undisturbed run ends.
    expected: DeploymentSnapshot,
    /// What it calls.
    calls: Vec<TracedCall>,
    _folder: tempfile::TempDir,
}

impl KillHarness {
    fn new(scenario: KillScenario) -> Result<Self> {
        let server = HealthServer::start()?;
        let folder = tempfile::tempdir()?;
        let start = folder.path().join("start");
        std::fs::create_dir(&start)?;
        let start = ExampleShop::new(&start, &server.origin())?;
        match scenario {
            KillScenario::FirstDeployment => {}
            KillScenario::SecondDeployment | KillScenario::FailedVerify => start.deploy_first()?,
        }
        let plain = start.copy_to(&folder.path().join("plain"))?;
        plain.run_expecting(&scenario.arguments(), 0)?;
        let deployed = DeploymentSnapshot::capture(&plain)?;

        server.set_health(if scenario == KillScenario::FailedVerify {
            ServerHealth::Failing
        } else {
            ServerHealth::Healthy
        });
        let traced = start.copy_to(&folder.path().join("traced"))?;
        let TracedRun { calls, status, .. } = strace::run_traced(&traced, &scenario.arguments(), |_| false)?;
        ensure!(status.code() == Some(scenario.exit_code()), "undisturbed, it ended with {status}");
        let end = DeploymentSnapshot::capture(&traced)?;
        if scenario != KillScenario::FailedVerify {
            let differences = end.differences(&deployed);
            ensure!(differences.is_empty(), "two undisturbed runs differ: {differences:#?}");
        }
        Ok(Self { scenario, server, initial: start, undisturbed: deployed, expected: end, calls, _folder: folder })
    }

    /// Kills at `count` points from the call `from` on, or at all of them.
    fn check_random_kills(&self, what: &str, count: usize, from: usize) -> Result<()> {
        let seed = rng::seed_from_env()?;
        let all = self.calls.len() - from;
        let count = if wants_every_point() { all } else { count };
        let points = SplitMix64::new(seed).choose_distinct(count, all);
        let cases: Vec<_> = points.into_iter().map(|point| vec![from + point]).collect();
        self.check_kills(what, seed, &cases)
    }

    /// Kills at each point of each case, in turn, then runs to the end. All cases are tried before it fails.
    fn check_kills(&self, what: &str, seed: u64, cases: &[Vec<usize>]) -> Result<()> {
        let began = Instant::now();
        let mut failures = Vec::new();
        let mut kinds = BTreeMap::new();
        for case in cases {
            let folder = tempfile::tempdir()?;
            let shop = self.initial.copy_to(&folder.path().join("shop"))?;
            let mut kills = Vec::new();
            if let Err(error) = self.check_kill_case(&shop, case, &mut kills) {
                failures.push(self.describe_failure(&shop, &kills, &error)?);
            }
            for call in kills {
                *kinds.entry(call.name).or_insert(0) += 1;
            }
        }
        let failed = failures.len();
        report_kills(
            &format!("{what}: {} cases of {} calls", cases.len(), self.calls.len()),
            failed,
            began,
            seed,
            &kinds,
        )?;
        ensure!(failures.is_empty(), "{failed} {what} failed, PAWL_SEED={seed}:\n\n{}", failures.join("\n\n"));
        Ok(())
    }

    fn check_kill_case(&self, shop: &ExampleShop, case: &[usize], kills: &mut Vec<TracedCall>) -> Result<()> {
        let answers_before = self.server.healthy_answers();
        for point in case {
            let traced = strace::run_traced(shop, &self.scenario.arguments(), |call| call.index == *point)?;
            match traced.killed_after {
                Some(call) => kills.push(call),
                // The run that recovers has less to do and may end before its point.
                None => ensure!(
                    traced.status.code() == Some(self.scenario.exit_code()),
                    "not killed, but {}",
                    traced.status
                ),
            }
            self.check_recorded_effects(shop, answers_before)?;
        }
        shop.run_expecting(&self.scenario.arguments(), self.scenario.exit_code())?;
        let differences = DeploymentSnapshot::capture(shop)?.differences(&self.expected);
        ensure!(differences.is_empty(), "the end is another than undisturbed (+ found, - missing): {differences:#?}");
        shop.run_expecting(&["journal", "check", &shop.state_dir().display().to_string()], 0)?;
        Ok(())
    }

    /// No recorded success lacks its effect. `asked`: the answers of the server before all runs.
    fn check_recorded_effects(&self, shop: &ExampleShop, asked: usize) -> Result<()> {
        let snapshot = DeploymentSnapshot::capture(shop)?;
        for step in snapshot::succeeded_steps(&snapshot::events_after(shop, self.scenario.attempts_before())?) {
            let holds = match step {
                "verify" => self.server.healthy_answers() > asked,
                step => snapshot.has_effect(step, &self.undisturbed)?,
            };
            ensure!(holds, "`{step}` is on record as a success, but its effect is not there");
        }
        Ok(())
    }

    fn describe_failure(&self, shop: &ExampleShop, kills: &[TracedCall], error: &anyhow::Error) -> Result<String> {
        let kills: String = kills.iter().map(|call| format!("killed behind {call}\n")).collect();
        Ok(format!("{kills}{error:#}\n{}", snapshot::failure_report(shop, self.scenario.attempts_before())?))
    }
}

/// Tells how many kills there were, with the calls behind which they came, by name. Straight to the terminal: what is printed of a
/// test that passes is swallowed, and the seed must be known.
fn report_kills(
    what: &str,
    failed: usize,
    began: Instant,
    seed: u64,
    kinds: &BTreeMap<String, usize>,
) -> std::io::Result<()> {
    let kinds: Vec<_> = kinds.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let (took, kinds) = (began.elapsed().as_secs_f64(), kinds.join(", "));
    let mut terminal = std::io::stderr().lock();
    writeln!(terminal, "{what}, {failed} failed, {took:.1} s, PAWL_SEED={seed}; killed behind {kinds}")
}

/// Whether PAWL_POINTS asks for every point.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn wants_every_point() -> bool {
    std::env::var("PAWL_POINTS").is_ok_and(|points| points == "all")
}
