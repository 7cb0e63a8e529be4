//! Forced releases at random moments: deployments wait for the lock of a folder, and operators take it from whoever holds it.
//!
//! A holder that lost its lock ends with exit code 5 at any of its calls, and another one goes on. Deliberately absent: the order of
//! the calls, of which the model of the lock (`folder_protocol`) tries every one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    example_shop::ExampleShop,
    rng::{self, SplitMix64},
};

/// Each round's deployments write this plan's effects into `app/acted`, with the token of their lock.
const PLAN: &str = "version: 1\napp: shop\nenvironments: { test: }\nsteps:\n  first:\n    uses: run\n    trust: host\n    \
    with: { program: /bin/sh, args: [act.sh], dir: app, repeatable: true }\n    \
    grants: { dirs: { app: ./app }, programs: [[/bin/sh, act.sh]] }\n  second:\n    uses: run\n    trust: host\n    \
    with: { program: /bin/sh, args: [act.sh], dir: app, repeatable: true }\n    \
    grants: { dirs: { app: ./app }, programs: [[/bin/sh, act.sh]] }\n";

/// The longest pause before a forced release.
const MAX_PAUSE: Duration = Duration::from_millis(40);
const WAIT_TIMEOUT: Duration = Duration::from_secs(240);

/// Main property: whatever an attempt did is on record, no journal is damaged, and the next attempt deploys.
#[test]
fn forced_releases_at_any_moment_lose_no_record() -> Result<()> {
    let (racers, rounds) = if crate::wants_every_point() { (16, 20) } else { (6, 3) };
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("deploy.yml"), PLAN)?;
    fs::create_dir(folder.path().join("app"))?;
    fs::write(folder.path().join("app/act.sh"), "echo \"$PAWL_LOCK\" >> acted\n")?;
    let shop = ExampleShop::open(folder.path());
    shop.run_expecting(&["modules", "--accept"], 0)?;
    let (seed, began) = (rng::seed_from_env()?, Instant::now());
    let mut rng = SplitMix64::new(seed);
    let (mut ends, mut released) = (BTreeMap::<i32, u32>::new(), 0);
    for round in 0..rounds {
        let deploy = |racer| start(&shop, &["--local", "--release", &format!("r{round}-{racer}"), "--lock-wait", "2m"]);
        let mut running = (0..racers).map(deploy).collect::<Result<Vec<Child>>>()?;
        while !running.is_empty() {
            ensure!(began.elapsed() < WAIT_TIMEOUT * rounds, "seed {seed}: round {round} does not end");
            thread::sleep(MAX_PAUSE.mul_f64(rng.below(1_000) as f64 / 1_000.0));
            let operators = 1 + rng.below(2);
            let release = ["lock", "release", "--local", "--force", "--message", "a test"];
            let operators = (0..operators).map(|_| start(&shop, &release)).collect::<Result<Vec<_>>>()?;
            for mut operator in operators {
                let status = operator.wait()?;
                ensure!(status.success(), "seed {seed}: a forced release ended with {status}");
                released += 1;
            }
            let mut left = Vec::new();
            for mut racer in running {
                match racer.try_wait()? {
                    None => left.push(racer),
                    Some(status) => {
                        let code = status.code().with_context(|| format!("seed {seed}: it ended with {status}"))?;
                        *ends.entry(code).or_default() += 1;
                    }
                }
            }
            running = left;
        }
        check_records(&shop).with_context(|| format!("seed {seed}, round {round}, exit codes {ends:?}"))?;
    }
    // Straight to the terminal: what is printed of a test that passes is swallowed.
    writeln!(
        std::io::stderr().lock(),
        "forced releases: {rounds} rounds of {racers} deployments, {released} forced releases, {:.1} s, PAWL_SEED={seed}; \
         exit codes {ends:?}",
        began.elapsed().as_secs_f64()
    )?;
    ensure!(ends.keys().all(|code| [0, 5].contains(code)), "seed {seed}: exit codes {ends:?}");
    // How many are hit by a release depends on the machine's speed.
    ensure!(ends.contains_key(&0), "seed {seed}: exit codes {ends:?}");
    Ok(())
}

fn start(shop: &ExampleShop, words: &[&str]) -> Result<Child> {
    let mut command = shop.runner_command(words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("start the runner")
}

/// Each effect has an intent in the journal of its epoch, and the journals are whole.
fn check_records(shop: &ExampleShop) -> Result<()> {
    let history = shop.run_expecting(&["history", "--json", "--limit", "1000"], 0)?.stdout;
    let history: Value = serde_json::from_slice(&history)?;
    let epochs: BTreeSet<_> =
        history.as_array().into_iter().flatten().filter_map(|one| one["epoch"].as_u64()).collect();
    let acted = fs::read_to_string(shop.folder().join("app/acted"))?;
    let mut effects = BTreeMap::<u64, usize>::new();
    for token in acted.lines() {
        let epoch = token.split(':').nth(1).and_then(|epoch| epoch.parse().ok()).with_context(|| token.to_owned())?;
        *effects.entry(epoch).or_default() += 1;
    }
    for (epoch, count) in effects {
        ensure!(epochs.contains(&epoch), "epoch {epoch} acted, and is not in the history");
        let path = shop.state_dir().join(format!("attempt-{epoch:06}.journal"));
        // Old ones are in an archive.
        let intents = fs::read_to_string(path).map_or(usize::MAX, |text| text.matches(r#""type":"intent""#).count());
        ensure!(count <= intents, "epoch {epoch} acted {count} times, with {intents} intents");
    }
    // Without a snapshot, everything is read.
    for file in ["snapshot.json", "snapshot-previous.json", "index.jsonl"] {
        let _ = fs::remove_file(shop.state_dir().join(file));
    }
    shop.run_expecting(&["status"], 0).map(drop)
}
