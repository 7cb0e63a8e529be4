//! The runner is killed at calls of a whole deployment, and run again: the end must be an undisturbed run's.
//!
//! Points are chosen by a seed, which is printed: `PAWL_SEED=… cargo test --release -p runner --test kills` repeats a run,
//! and `PAWL_POINTS=all` takes every point (`cargo xtask bench faults`). Deliberately absent: power loss and torn
//! writes, which no signal makes; the journal's own tests cut and flip its bytes.

#[path = "kills/dice.rs"]
mod dice;
#[path = "kills/server.rs"]
mod server;
#[path = "kills/shop.rs"]
mod shop;
#[path = "kills/signals.rs"]
mod signals;
#[path = "kills/strace.rs"]
mod strace;
#[path = "kills/world.rs"]
mod world;

use std::{
    io::Write as _,
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use dice::Dice;
use serde_json::{Value, json};
use server::Server;
use shop::Shop;
use strace::Call;
use world::World;

/// How many points are taken when not every one is.
const POINTS: usize = 60;
/// How many runs are killed, and killed again while they recover.
const PAIRS: usize = 20;
/// How many points of a rollback.
const ROLLBACK_POINTS: usize = 15;

/// The attempt that deployed r1.
const FIRST: usize = 1;

const DEPLOY: [&str; 3] = ["--local", "--release", "r2"];

/// Main property: wherever the runner is killed, what is recorded holds, and one more run ends where an undisturbed one
/// does.
#[test]
fn a_killed_deployment_ends_as_an_undisturbed_one() -> Result<()> {
    let bench = Bench::new("hold")?;
    let seed = dice::seed()?;
    let count = if dice::wants_every_point() { bench.points } else { POINTS };
    let points = Dice::new(seed).choose(count, bench.points);
    let cases = points.into_iter().map(|point| vec![point]).collect();
    bench.survives("kills", seed, cases)
}

/// The run that recovers is killed as well.
#[test]
fn a_deployment_killed_twice_ends_as_an_undisturbed_one() -> Result<()> {
    let bench = Bench::new("hold")?;
    let seed = dice::seed()?;
    let mut dice = Dice::new(seed);
    let first = dice.choose(PAIRS, bench.points);
    let cases = first.into_iter().map(|first| vec![first, dice.below(bench.points)]).collect();
    bench.survives("double kills", seed, cases)
}

/// Acceptance 8 of the first issue: killed between the symlink and its record, the switch is adopted, and undoing it leads
/// back to what was live before.
#[test]
fn a_switch_killed_before_its_record_is_adopted_and_can_be_reverted() -> Result<()> {
    let bench = Bench::new("rollback")?;
    let folder = tempfile::tempdir()?;
    let shop = bench.first.copied(&folder.path().join("shop"))?;
    let before = World::of(&shop)?.current().context("r1 is live")?.to_owned();

    let is_the_rename = |call: &Call| call.name.starts_with("rename") && call.text.contains("\".current.new\"");
    let traced = strace::run(&shop, &DEPLOY, is_the_rename)?;
    ensure!(traced.killed.is_some(), "no call was the rename of the link: {:?}", traced.status);
    ensure!(World::of(&shop)?.current() == bench.complete.current(), "the link was moved before the kill");
    let records = world::events_after(&shop, FIRST)?;
    ensure!(!world::successes(&records).contains("switch"), "the switch was recorded before the kill");
    let intended = records.iter().any(|event| event["type"] == "intent" && event["step"] == "switch");
    ensure!(intended, "the link was moved without an intent on record");

    bench.server.set_sick(true);
    shop.ends(&DEPLOY, 4)?;
    let records = world::events_after(&shop, FIRST)?;
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
    ensure!(World::of(&shop)?.current() == Some(&before), "r1 is not live again");

    bench.server.set_sick(false);
    shop.deploys("r2")?;
    ensure!(World::of(&shop)?.current() == bench.complete.current(), "r2 is not live after all");
    Ok(())
}

/// A rollback that is killed is finished: by the next run, sick or not, the link leads to a whole release.
#[test]
fn a_killed_rollback_is_finished_by_the_next_run() -> Result<()> {
    let bench = Bench::new("rollback")?;
    bench.server.set_sick(true);
    let before = World::of(&bench.first)?.current().context("r1 is live")?.to_owned();
    let folder = tempfile::tempdir()?;
    let whole = strace::run(&bench.first.copied(&folder.path().join("whole"))?, &DEPLOY, |_| false)?;
    ensure!(whole.status.code() == Some(4), "the rollback ended with {}", whole.status);
    let is_verify = |call: &&Call| call.name == "connect";
    let from = whole.calls.iter().find(is_verify).context("verify connects")?.index;
    let seed = dice::seed()?;
    let points = Dice::new(seed).choose(ROLLBACK_POINTS, whole.calls.len() - from);
    let mut failures = Vec::new();
    for point in &points {
        let shop = bench.first.copied(&folder.path().join(format!("at-{point}")))?;
        let traced = strace::run(&shop, &DEPLOY, |call| call.index == from + point)?;
        let outcome = shop.ends(&DEPLOY, 4).and_then(|_| {
            let world = World::of(&shop)?;
            ensure!(world.current() == Some(&before), "`current` leads to {:?}", world.current());
            Ok(())
        });
        if let Err(error) = outcome {
            failures.push(failure(&shop, &[traced.killed], &error)?);
        }
    }
    conclude("kills of a rollback", seed, points.len(), whole.calls.len() - from, &failures, Instant::now())
}

/// What all points start from, and the end that they must come to.
struct Bench {
    server: Server,
    /// r1 is live.
    first: Shop,
    /// r2 is, and nothing has disturbed it.
    complete: World,
    /// Calls of the undisturbed run.
    points: usize,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(on_failure: &str) -> Result<Self> {
        let server = Server::start()?;
        let folder = tempfile::tempdir()?;
        let first = folder.path().join("first");
        std::fs::create_dir(&first)?;
        let first = Shop::with_first_release(&first, &server.origin(), on_failure)?;
        let whole = first.copied(&folder.path().join("whole"))?;
        let traced = strace::run(&whole, &DEPLOY, |_| false)?;
        ensure!(traced.status.success(), "undisturbed, but under strace: {}", traced.status);
        let complete = World::of(&whole)?;
        // strace must not matter: the same without it.
        let plain = first.copied(&folder.path().join("plain"))?;
        plain.deploys("r2")?;
        let differences = World::of(&plain)?.differences(&complete);
        ensure!(differences.is_empty(), "two undisturbed runs differ: {differences:#?}");
        Ok(Self { server, first, complete, points: traced.calls.len(), _folder: folder })
    }

    /// Kills at each point of each case, in turn, then runs to the end. All cases are tried before it fails.
    fn survives(&self, what: &str, seed: u64, cases: Vec<Vec<usize>>) -> Result<()> {
        let began = Instant::now();
        let mut failures = Vec::new();
        for case in &cases {
            let folder = tempfile::tempdir()?;
            let shop = self.first.copied(&folder.path().join("shop"))?;
            let mut kills = Vec::new();
            if let Err(error) = self.survives_one(&shop, case, &mut kills) {
                failures.push(failure(&shop, &kills, &error)?);
            }
        }
        conclude(what, seed, cases.len(), self.points, &failures, began)
    }

    fn survives_one(&self, shop: &Shop, case: &[usize], kills: &mut Vec<Option<Call>>) -> Result<()> {
        for point in case {
            let asked = self.server.healthy_answers();
            let traced = strace::run(shop, &DEPLOY, |call| call.index == *point)?;
            if traced.killed.is_none() {
                // The run that recovers has less to do and may end before its point.
                ensure!(traced.status.success(), "ended with {} without having been killed", traced.status);
            }
            kills.push(traced.killed);
            self.records_hold(shop, asked)?;
        }
        shop.deploys("r2")?;
        let differences = World::of(shop)?.differences(&self.complete);
        ensure!(differences.is_empty(), "the end is another than undisturbed (+ found, - missing): {differences:#?}");
        shop.ends(&["journal", "check", &shop.state().display().to_string()], 0)?;
        Ok(())
    }

    /// No recorded success lacks its effect. `asked`: the answers of the server before the run.
    fn records_hold(&self, shop: &Shop, asked: usize) -> Result<()> {
        let world = World::of(shop)?;
        for step in world::successes(&world::events_after(shop, FIRST)?) {
            let holds = match step {
                "verify" => self.server.healthy_answers() > asked,
                step => world.has_effect(step, &self.complete)?,
            };
            ensure!(holds, "`{step}` is on record as a success, but its effect is not there");
        }
        Ok(())
    }
}

fn failure(shop: &Shop, kills: &[Option<Call>], error: &anyhow::Error) -> Result<String> {
    let mut text = String::new();
    for kill in kills {
        match kill {
            Some(call) => text += &format!("killed behind {call}\n"),
            None => text += "not killed: it ended before\n",
        }
    }
    Ok(format!("{text}{error:#}\n{}", world::scene(shop)?))
}

/// Says how it went where the test harness does not swallow it: the seed must be known also of a run that passed.
fn conclude(what: &str, seed: u64, cases: usize, of: usize, failures: &[String], began: Instant) -> Result<()> {
    let failed = failures.len();
    let took = began.elapsed().as_secs_f64();
    let mut terminal = std::io::stderr().lock();
    writeln!(terminal, "{what}: {cases} cases, {of} points, {failed} failed, {took:.1} s, PAWL_SEED={seed}")?;
    ensure!(failures.is_empty(), "{failed} of {cases} {what} failed, PAWL_SEED={seed}:\n\n{}", failures.join("\n\n"));
    Ok(())
}
