//! Commands that write the record beside a deployment are killed at their calls: making an archive, a forced release, a repair,
//! an operator's resolution, the first deployment after an upgrade.
//!
//! After a kill, the same command ends as it would have, or says that nothing is left to do. The deployment after it ends where it
//! ends without a kill, the record is sound, and no attempt is missing. Deliberately absent: kills of a deployment's other calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    example_shop::{ATTEMPTS_BEFORE_ARCHIVE, ExampleShop, deploy_arguments},
    report_kills,
    rng::{self, SplitMix64},
    server::HealthServer,
    snapshot::{DeploymentSnapshot, recorded_epochs},
    strace::{self, TracedCall},
    unpack, wants_every_point,
};

/// How many calls of each command are killed behind, when not every one is.
const POINTS: usize = 20;
/// How many calls fewer than undisturbed a run of the same command may make: threads wake each other or do not.
const MAX_FEWER_CALLS: usize = 8;

#[test]
fn killed_archiving_loses_no_attempt() -> Result<()> {
    let mut shop = TwoReleases::new()?;
    shop.deployed.repeat_newest_attempt(ATTEMPTS_BEFORE_ARCHIVE - 1)?;
    shop.epochs = recorded_epochs(&shop.deployed)?;
    let command = OperatorCommand { words: &deploy_arguments("r2"), is_again_refused: false };
    let undisturbed = shop.check_kills("kills of a deployment that makes an archive", &command)?;
    ensure!(fs::read_dir(undisturbed.state_dir().join("archive"))?.count() == 1, "no archive was made");
    Ok(())
}

/// The holder was killed, so its lock is still on record.
#[test]
fn killed_forced_release_leaves_a_lock_that_can_be_taken() -> Result<()> {
    let shop = TwoReleases::new()?;
    shop.kill_deployment(|call| call.name.starts_with("rename") && call.text.contains("\".current.new\""))?;
    let words = ["lock", "release", "--local", "--force", "--message", "the machine is gone"];
    let command = OperatorCommand { words: &words, is_again_refused: false };
    shop.check_kills("kills of a forced release", &command)?;
    Ok(())
}

/// The snapshot is gone, and a journal is damaged: its lines are moved, and snapshot and index are made again.
#[test]
fn killed_repair_is_finished_by_the_next_one() -> Result<()> {
    let shop = TwoReleases::new()?;
    shop.deployed.run_expecting(&deploy_arguments("r1"), 0)?;
    let folder = shop.deployed.state_dir();
    let journal = folder.join("attempt-000002.journal");
    let mut bytes = fs::read(&journal)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(journal, bytes)?;
    fs::remove_file(folder.join("snapshot.json"))?;
    let command = OperatorCommand { words: &["state", "repair", "--local"], is_again_refused: false };
    let undisturbed = shop.check_kills("kills of a repair", &command)?;
    ensure!(fs::read_dir(undisturbed.state_dir().join("lost"))?.count() > 0, "nothing was moved aside");
    Ok(())
}

/// `migrate` was begun, and an operator says that it had no effect.
#[test]
fn killed_resolution_is_recorded_by_the_next_one() -> Result<()> {
    let shop = TwoReleases::new()?;
    shop.kill_deployment(|call| call.text.contains("/shop.db-migrating"))?;
    let words = ["resolve", "migrate", "--as", "not-begun", "--local", "--message", "looked at the tables"];
    // Recorded before the kill, the step is no longer in doubt.
    let command = OperatorCommand { words: &words, is_again_refused: true };
    shop.check_kills("kills of a resolution", &command)?;
    Ok(())
}

/// What an older runner left, killed behind the effect of `migrate`, becomes this runner's: a lock that is a folder, a journal of its format.
#[test]
fn killed_upgrade_of_a_folder_is_finished_by_the_next_run() -> Result<()> {
    let shop = TwoReleases::of_an_older_runner("effect-migrate")?;
    shop.deployed.run_expecting(&["modules", "--accept"], 0)?;
    let command = OperatorCommand { words: &deploy_arguments("r2"), is_again_refused: false };
    shop.check_kills("kills of a deployment over an older runner's state", &command)?;
    Ok(())
}

/// A command of an operator.
struct OperatorCommand<'a> {
    words: &'a [&'a str],
    /// Whether it may say, after a kill, that it has nothing to do (P0230, exit code 2).
    is_again_refused: bool,
}

/// A shop with r1 live, to which r2 is deployed after the command.
struct TwoReleases {
    deployed: ExampleShop,
    /// The attempts that ended before the command.
    epochs: BTreeSet<u64>,
    folder: tempfile::TempDir,
    _server: Option<HealthServer>,
}

impl TwoReleases {
    fn new() -> Result<Self> {
        let (server, folder) = (HealthServer::start()?, tempfile::tempdir()?);
        let start = folder.path().join("start");
        fs::create_dir(&start)?;
        let deployed = ExampleShop::new(&start, &server.origin())?;
        deployed.deploy_first()?;
        let epochs = recorded_epochs(&deployed)?;
        Ok(Self { deployed, epochs, folder, _server: Some(server) })
    }

    /// What tests/fixtures/upgrade has; its checks ask no server.
    fn of_an_older_runner(name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let archive = format!("{}/../tests/fixtures/upgrade/{name}.tar.zst", env!("CARGO_MANIFEST_DIR"));
        unpack::unpack(archive.as_ref(), folder.path())?;
        let deployed = ExampleShop::open(&folder.path().join(name));
        Ok(Self { epochs: recorded_epochs(&deployed)?, deployed, folder, _server: None })
    }

    /// Deploys r2, up to a call.
    fn kill_deployment(&self, is_last: impl Fn(&TracedCall) -> bool) -> Result<()> {
        let traced = strace::run_traced(&self.deployed, &deploy_arguments("r2"), is_last)?;
        ensure!(traced.killed_after.is_some(), "the deployment was not killed: {:?}", traced.status);
        Ok(())
    }

    /// Kills the command at some of its calls, or at all. All are tried before it fails. Returns the
    /// shop where it was not killed.
    fn check_kills(&self, what: &str, command: &OperatorCommand) -> Result<ExampleShop> {
        let (began, seed) = (Instant::now(), rng::seed_from_env()?);
        let plain = self.deployed.copy_to(&self.folder.path().join("plain"))?;
        let undisturbed = strace::run_traced(&plain, command.words, |_| false)?;
        ensure!(undisturbed.status.success(), "undisturbed, it ended with {}", undisturbed.status);
        plain.run_expecting(&deploy_arguments("r2"), 0)?;
        let expected = DeploymentSnapshot::capture(&plain)?;
        let calls = undisturbed.calls;
        let count = if wants_every_point() { calls.len() } else { POINTS.min(calls.len()) };
        let (mut failures, mut kinds) = (Vec::new(), BTreeMap::new());
        for point in SplitMix64::new(seed).choose_distinct(count, calls.len()) {
            let folder = tempfile::tempdir()?;
            let shop = self.deployed.copy_to(&folder.path().join("shop"))?;
            let traced = strace::run_traced(&shop, command.words, |call| call.index == point)?;
            let checked = check_end(&shop, command, &expected).and_then(|()| {
                let forgotten: Vec<_> = self.epochs.difference(&recorded_epochs(&shop)?).copied().collect();
                ensure!(forgotten.is_empty(), "the history has lost the attempts {forgotten:?}");
                Ok(())
            });
            let (name, place) = match traced.killed_after {
                Some(call) => (call.name.clone(), format!("killed behind {call}")),
                // Two runs of one command may differ by a few calls, and this one ended before the point.
                None => {
                    let made = traced.calls.len();
                    ensure!(
                        traced.status.success() && made <= point,
                        "not killed at {point} of {made}: {}",
                        traced.status
                    );
                    ensure!(calls.len() - made <= MAX_FEWER_CALLS, "{made} calls, where it made {}", calls.len());
                    ("none".to_owned(), format!("not killed, ended before call {point}"))
                }
            };
            if let Err(error) = checked {
                failures.push(format!("{place}\n{error:#}"));
            }
            *kinds.entry(name).or_insert(0) += 1;
        }
        let failed = failures.len();
        report_kills(&format!("{what}: {count} cases of {} calls", calls.len()), failed, began, seed, &kinds)?;
        ensure!(failed == 0, "{failed} {what} failed, PAWL_SEED={seed}:\n\n{}", failures.join("\n\n"));
        Ok(plain)
    }
}

/// The command again, and r2 after it.
fn check_end(shop: &ExampleShop, command: &OperatorCommand, expected: &DeploymentSnapshot) -> Result<()> {
    let again = shop.runner_command(command.words).output()?;
    let stderr = String::from_utf8_lossy(&again.stderr);
    let has_nothing_to_do =
        command.is_again_refused && again.status.code() == Some(2) && stderr.contains("error[P0230]");
    ensure!(again.status.success() || has_nothing_to_do, "again, it ended with {}:\n{stderr}", again.status);
    shop.run_expecting(&deploy_arguments("r2"), 0)?;
    let differences = DeploymentSnapshot::capture(shop)?.differences(expected);
    ensure!(differences.is_empty(), "the end is another than undisturbed (+ found, - missing): {differences:#?}");
    let check = shop.run_expecting(&["state", "check", "--json"], 0)?;
    let check: Value = serde_json::from_slice(&check.stdout)?;
    let findings = check[0]["findings"].as_array().context("`state check` has no findings")?;
    ensure!(findings.is_empty(), "the state is not sound: {findings:?}");
    Ok(())
}
