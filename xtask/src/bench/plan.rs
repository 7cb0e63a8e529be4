//! `plan`: how long a plan takes to be read, for 20, 200 and 2,000 steps, and a resume of a release with 401 files on which
//! everything is done.

use std::{fmt::Write as _, fs, path::Path, process::Command, time::Duration};

use anyhow::Result;
use tempfile::TempDir;

use super::{BenchRow, BenchTarget, interleaved_medians, resume, wall_time};
use crate::pack::pack;

const ROUNDS: usize = 20;
/// A plan that is ten times as long may take ten times as long, and a tenth more for what a noisy machine adds.
const MOST_GROWTH: f64 = 11.0;
/// With `VERSION`, `index.html` and the style sheet, a release of 401 files.
const ADDED_FILES: usize = 398;
const MAX_RESUME: Duration = Duration::from_millis(8);

pub(super) fn rows(runner: &Path) -> Result<Vec<BenchRow>> {
    let mut rows = vec![resume_row(runner)?];
    for (few, many) in [(20, 200), (200, 2_000)] {
        let (short, long) = (plan_of(few)?, plan_of(many)?);
        let (ours, theirs) = interleaved_medians(ROUNDS, || read(runner, &long), || read(runner, &short))?;
        let name = format!("`plan --expanded` of {many} steps · of {few} steps");
        rows.push(BenchRow { name, ours, theirs, target: BenchTarget::Ratio(MOST_GROWTH) });
    }
    Ok(rows)
}

fn resume_row(runner: &Path) -> Result<BenchRow> {
    let folder = resume::deployed_example(runner)?;
    let assets = folder.path().join("app/assets");
    for number in 0..ADDED_FILES {
        fs::write(assets.join(format!("{number}.css")), format!("/* {number} */\n"))?;
    }
    pack(folder.path(), "r1")?;
    resume::time_deploy(runner, folder.path())?;
    let (ours, theirs) = interleaved_medians(
        ROUNDS,
        || resume::time_deploy(runner, folder.path()),
        || wall_time(Command::new("sh").args(["-c", "true"])),
    )?;
    let name = "resume of 401 files, everything skipped · `sh -c true`".to_owned();
    Ok(BenchRow { name, ours, theirs, target: BenchTarget::WallTime(MAX_RESUME) })
}

/// A folder with a plan of so many short steps.
fn plan_of(steps: usize) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let mut plan = "version: 1\napp: shop\nsteps:\n".to_owned();
    for number in 0..steps {
        // A plan may have 20,000 values: ten for each of 2,000 steps.
        writeln!(plan, "  check{number}: {{ uses: verify, with: {{ tries: {} }} }}", number + 1)?;
    }
    fs::write(folder.path().join("deploy.yml"), plan)?;
    Ok(folder)
}

fn read(runner: &Path, folder: &TempDir) -> Result<Duration> {
    wall_time(Command::new(runner).args(["plan", "--expanded", "--release", "r1"]).current_dir(folder.path()))
}
