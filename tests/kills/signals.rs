//! SIGINT and SIGTERM, which ask: the runner finishes or records its step, frees the lock, and ends in under 7 s.

use std::{
    fs,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    example_shop::{ExampleShop, deploy_arguments},
    rng::{self, SplitMix64},
    snapshot,
};

/// From the signal to the end of the process.
const MAX_SHUTDOWN_TIME: Duration = Duration::from_secs(7);
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// A step whose program ends within the grace, though it is asked to end at once, is finished and recorded; the next run goes on
/// behind it.
#[test]
fn sigint_lets_a_short_step_finish_and_stops() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let shop = slow_shop(folder.path(), "trap '' TERM; echo $$ > begun.txt; sleep 2; echo done > slow.txt")?;
    interrupt_once_begun(&shop, "app/begun.txt", Signal::INT)?;
    ensure!(fs::read_to_string(shop.folder().join("app/slow.txt"))? == "done\n", "the step was not let finish");
    let events = all_events(&shop)?;
    ensure!(snapshot::succeeded_steps(&events).contains("slow"), "the step's success is not on record");
    ensure!(!events.iter().any(|event| event["step"] == "after"), "the next step was begun");
    check_next_run_finishes(&shop)?;
    ensure!(intent_count(&self::all_events(&shop)?, "slow") == 1, "the step that had succeeded ran again");
    Ok(())
}

/// A step that takes longer is cut off, its intent left without an outcome; the next run looks, and runs it again.
#[test]
fn sigterm_stops_a_long_step_in_time() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let shop =
        slow_shop(folder.path(), "test -e again.txt || { echo $$ > again.txt; exec sleep 60; }; echo done > slow.txt")?;
    interrupt_once_begun(&shop, "app/again.txt", Signal::TERM)?;
    let program = fs::read_to_string(shop.folder().join("app/again.txt"))?;
    let command = fs::read_to_string(format!("/proc/{}/cmdline", program.trim())).unwrap_or_default();
    ensure!(!command.starts_with("sleep"), "the program of the step outlives the runner");
    let events = all_events(&shop)?;
    let outcome = events_of_step(&events, "outcome", "slow").next();
    ensure!(outcome.is_none(), "nobody can know how the step ended, but on record is {outcome:?}");
    check_next_run_finishes(&shop)?;
    ensure!(intent_count(&self::all_events(&shop)?, "slow") == 2, "the step that was cut off did not run again");
    Ok(())
}

/// Main property: whenever the signal comes, no lock is left behind, the end comes in time, and the next run deploys. Every other run
/// is told to stop by SIGINT, the others by SIGTERM; the moments are spread over a run that nobody disturbs.
#[test]
fn signal_at_any_moment_frees_the_lock_and_ends_in_time() -> Result<()> {
    const MOMENTS: usize = 100;
    let seed = rng::seed_from_env()?;
    let mut rng = SplitMix64::new(seed);
    let folder = tempfile::tempdir()?;
    // A few steps of some milliseconds each.
    let shop = slow_shop(folder.path(), "sleep 0.05; echo done > slow.txt")?;
    let began = Instant::now();
    shop.run_expecting(&deploy_arguments("r0"), 0)?;
    let undisturbed = began.elapsed();
    let mut ends = std::collections::BTreeMap::new();
    for moment in 0..MOMENTS {
        let release = format!("r{}", moment + 1);
        for made in ["slow.txt", "after.txt"] {
            fs::remove_file(shop.folder().join("app").join(made))
                .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        }
        let arguments = ["--local", "--release", release.as_str()];
        let mut child =
            shop.runner_command(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // The one wait that is no condition: what is tested is that no moment is a bad one.
        thread::sleep(undisturbed.mul_f64(rng.below(1200) as f64 / 1000.0));
        let signal = if moment % 2 == 0 { Signal::INT } else { Signal::TERM };
        let signalled_at = Instant::now();
        // It may have ended by itself in this moment.
        let _ = kill_process(Pid::from_child(&child), signal);
        wait_until(WAIT_TIMEOUT, || Ok(child.try_wait()?.is_some()))
            .with_context(|| format!("seed {seed}, {release}: it did not end"))?;
        let (took, status) = (signalled_at.elapsed(), child.wait()?);
        ensure!(took < MAX_SHUTDOWN_TIME, "seed {seed}, {release}: it took {took:?} to end");
        // Before it listens for signals, nothing was begun, and the signal ends it.
        let end = status.code().map_or_else(|| format!("{status}"), |code| code.to_string());
        ensure!(
            status.code().is_none_or(|code| code == 0 || code == 130),
            "seed {seed}, {release}: it ended with {status}"
        );
        *ends.entry(end).or_insert(0) += 1;
        let lock = fs::read_to_string(shop.state_dir().join("lock/record"))?;
        let lock: Value = serde_json::from_str(&lock)?;
        ensure!(lock["holder"].is_null(), "seed {seed}, {release}: the lock is still held: {lock}");
    }
    eprintln!("signals: {MOMENTS} moments, PAWL_SEED={seed}; exit codes {ends:?}");
    ensure!(ends.get("130").is_some_and(|count| *count >= MOMENTS / 4), "too few came in time: {ends:?}");
    shop.run_expecting(&deploy_arguments("last"), 0).map(drop)
}

/// A plan of a slow step, which runs `script`, and one after it.
fn slow_shop(folder: &std::path::Path, script: &str) -> Result<ExampleShop> {
    let plan = format!(
        "version: 1\napp: shop\nenvironments: {{ test: }}\nsteps:\n  slow:\n    uses: run\n    trust: host\n    with:\n      \
         program: /bin/sh\n      args: [-c, {script}]\n      dir: app\n      creates: app/slow.txt\n      repeatable: true\n    \
         grants: {{ dirs: {{ app: ./app }}, programs: [[/bin/sh, -c, \"*\"]] }}\n  after:\n    uses: run\n    trust: host\n    \
         with: {{ program: /bin/sh, args: [-c, \"echo after > after.txt\"], dir: app, creates: app/after.txt, repeatable: true }}\n    \
         grants: {{ dirs: {{ app: ./app }}, programs: [[/bin/sh, -c, \"*\"]] }}\n",
        script = serde_json::to_string(script)?
    );
    fs::write(folder.join("deploy.yml"), plan)?;
    Ok(ExampleShop::open(folder))
}

/// Signals a run once the program of its slow step has written the file `begun`; it must end in time, with 130. The step's intent
/// comes earlier: a signal between the two finds a program that has not set its trap.
fn interrupt_once_begun(shop: &ExampleShop, begun: &str, signal: Signal) -> Result<()> {
    let mut child = shop
        .runner_command(&deploy_arguments("r1"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let result = signal_and_wait(shop, &mut child, begun, signal);
    // However it went, nothing is left running.
    if child.try_wait()?.is_none() {
        child.kill()?;
        child.wait()?;
    }
    result
}

fn signal_and_wait(shop: &ExampleShop, child: &mut Child, begun: &str, signal: Signal) -> Result<()> {
    let begun = shop.folder().join(begun);
    wait_until(WAIT_TIMEOUT, || Ok(fs::metadata(&begun).is_ok_and(|file| file.len() > 0)))
        .context("the slow step was not begun")?;
    let began = Instant::now();
    kill_process(Pid::from_child(child), signal)?;
    wait_until(WAIT_TIMEOUT, || Ok(child.try_wait()?.is_some())).context("it did not end")?;
    let (took, status) = (began.elapsed(), child.wait()?);
    ensure!(took < MAX_SHUTDOWN_TIME, "it took {took:?} to end");
    ensure!(status.code() == Some(130), "it ended with {status}");
    let events = all_events(shop)?;
    let last = events.last().context("no events")?;
    ensure!(last["type"] == "ended" && last["exit"] == "interrupted", "the last record is {last}");
    let lock: Value = serde_json::from_str(&fs::read_to_string(shop.state_dir().join("lock/record"))?)?;
    ensure!(lock["holder"].is_null(), "the lock is still held: {lock}");
    Ok(())
}

/// The next run, at once, deploys.
fn check_next_run_finishes(shop: &ExampleShop) -> Result<()> {
    shop.run_expecting(&deploy_arguments("r1"), 0)?;
    for (name, text) in [("slow.txt", "done\n"), ("after.txt", "after\n")] {
        ensure!(fs::read_to_string(shop.folder().join("app").join(name))? == text, "{name}");
    }
    Ok(())
}

fn all_events(shop: &ExampleShop) -> Result<Vec<Value>> {
    snapshot::events_after(shop, 0)
}

fn events_of_step<'a>(events: &'a [Value], kind: &'a str, step: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["type"] == kind && event["step"] == step)
}

fn intent_count(events: &[Value], step: &str) -> usize {
    events_of_step(events, "intent", step).count()
}

fn wait_until(patience: Duration, mut is_met: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is_met()? {
        ensure!(began.elapsed() < patience, "waited {patience:?}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
