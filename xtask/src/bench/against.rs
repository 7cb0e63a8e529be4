//! `--against`: this runner next to another one, such as that of the release before, in one run.
//!
//! Each runner has folders of its own, so that neither reads a state that the other wrote. Deliberately absent: the modules of other
//! people and the sizes, which do not depend on the runner's own code.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    BenchRow, BenchTarget, BenchmarkName, HEADING, growth, interleaved_medians,
    resume::{deployed_example, time_deploy},
    steps::{no_op_plan, sync_disks, time_first_run},
};
use crate::{setup, setup::SetupNeed, workspace};

const ROUNDS: usize = 60;

/// The most that a change of the code may cost.
const MAX_RATIO: f64 = 1.05;

pub(crate) fn run_against(names: &[BenchmarkName], old: &Path, quick: bool) -> Result<()> {
    // A table of its own: after long histories, there is nothing to compare round by round.
    if names == [BenchmarkName::Growth] {
        return growth::run(Some(old), quick, false);
    }
    setup::ensure(&[SetupNeed::GuestToolchain])?;
    let copies = tempfile::tempdir()?;
    let (ours, theirs) = (copies.path().join("ours"), copies.path().join("theirs"));
    // Equal bytes start up to 1.5 ms slower or faster, by how the page cache holds them. Two fresh copies are held alike.
    fs::copy(workspace::build_runner()?, &ours)?;
    fs::copy(old, &theirs)?;
    sync_disks()?;
    let names = if names.is_empty() {
        &[BenchmarkName::Resume, BenchmarkName::Append, BenchmarkName::Steps][..]
    } else {
        names
    };
    let mut rows = Vec::new();
    for name in names {
        println!("measuring {name} against {}", old.display());
        match name {
            BenchmarkName::Resume => rows.push(resume_row(&ours, &theirs)?),
            BenchmarkName::Append => rows.push(append_row(old)?),
            BenchmarkName::Steps => rows.extend([first_run_row(&ours, &theirs, 1)?, first_run_row(&ours, &theirs, 4)?]),
            BenchmarkName::Plan
            | BenchmarkName::Oci
            | BenchmarkName::Pack
            | BenchmarkName::Pull
            | BenchmarkName::Migrate
            | BenchmarkName::Databases
            | BenchmarkName::Faults
            | BenchmarkName::Deadlines
            | BenchmarkName::Launcher
            | BenchmarkName::Growth
            | BenchmarkName::Hosts
            | BenchmarkName::Switches
            | BenchmarkName::Checkpoints
            | BenchmarkName::Output => {
                bail!("`--against` compares `resume`, `append` and `steps`, not `{name}`")
            }
        }
    }
    let table: Vec<String> = rows.iter().map(BenchRow::to_string).collect();
    println!("\n{HEADING}\n{}", table.join("\n"));
    Ok(())
}

fn row(name: &str, (ours, theirs): (Duration, Duration)) -> BenchRow {
    BenchRow { name: name.to_owned(), ours, theirs, target: BenchTarget::Ratio(MAX_RATIO) }
}

fn resume_row(ours: &Path, old: &Path) -> Result<BenchRow> {
    let (new_folder, old_folder) = (deployed_example(ours)?, deployed_example(old)?);
    let medians =
        interleaved_medians(ROUNDS, || time_deploy(ours, new_folder.path()), || time_deploy(old, old_folder.path()))?;
    Ok(row("resume, everything skipped", medians))
}

fn first_run_row(ours: &Path, old: &Path, steps: u32) -> Result<BenchRow> {
    let (new_folder, old_folder) = (no_op_plan(steps)?, no_op_plan(steps)?);
    let medians = interleaved_medians(
        ROUNDS,
        || time_first_run(ours, new_folder.path()),
        || time_first_run(old, old_folder.path()),
    )?;
    Ok(row(&format!("{steps} official step(s), first run"), medians))
}

/// One record, appended and synced: the medians that both builds of the example print.
fn append_row(old: &Path) -> Result<BenchRow> {
    let ours = workspace::build_example("append")?;
    let theirs = old.with_file_name("examples").join("append");
    ensure!(theirs.is_file(), "{} is missing: build it with `cargo build --release --examples`", theirs.display());
    Ok(row("append + sync, one record", interleaved_medians(9, || time_append(&ours), || time_append(&theirs))?))
}

fn time_append(example: &PathBuf) -> Result<Duration> {
    let text = workspace::output(Command::new(example).arg(workspace::target_dir()?))?;
    let median = text.lines().next().context("the example prints its median first")?;
    Ok(Duration::from_nanos(median.trim().parse()?))
}
