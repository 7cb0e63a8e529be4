//! A deployment of the example on which everything is already done: probes, decisions, one live round of verify.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Result;
use tempfile::TempDir;

use super::{BenchRow, BenchTarget, interleaved_medians, wall_time};
use crate::{demo::copy_folder, pack::pack, workspace};

const ROUNDS: usize = 20;
/// The whole process, issue's acceptance.
const MAX_WALL_TIME: Duration = Duration::from_millis(25);

pub(super) fn rows(runner: &Path) -> Result<Vec<BenchRow>> {
    let folder = deployed_example(runner)?;
    let (ours, theirs) = interleaved_medians(
        ROUNDS,
        || time_deploy(runner, folder.path()),
        || wall_time(Command::new("sh").args(["-c", "true"])),
    )?;
    Ok(vec![BenchRow {
        name: "resume, everything skipped · `sh -c true`".to_owned(),
        ours,
        theirs,
        target: BenchTarget::WallTime(MAX_WALL_TIME),
    }])
}

/// A folder with the example in it, deployed as r1. Its plan is the long one, which older runners read too.
pub(super) fn deployed_example(runner: &Path) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let example = workspace::root().join("examples/shop");
    for part in ["app", "migrations"] {
        copy_folder(&example.join(part), &folder.path().join(part))?;
    }
    let plan = workspace::root().join("tests/fixtures/long-plan/deploy.yml");
    fs::copy(plan, folder.path().join("deploy.yml"))?;
    pack(folder.path(), "r1")?;
    time_deploy(runner, folder.path())?;
    Ok(folder)
}

pub(super) fn time_deploy(runner: &Path, folder: &Path) -> Result<Duration> {
    wall_time(Command::new(runner).args(["--local", "--release", "r1"]).current_dir(folder))
}
