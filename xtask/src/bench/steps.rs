//! `steps`: what a module costs. Whole processes, first runs too; one call inside a process; modules of other people, cold and
//! warm, in Rust, JavaScript and Python; sizes; and how long an edit of a module takes to be built.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{BenchRow, BenchTarget, interleaved_medians, wall_time};
use crate::workspace::{self, output, run as run_command};

const ROUNDS: usize = 30;
/// So much slower are the languages that bring their own compiler.
const COLD_ROUNDS: usize = 3;

pub(super) fn rows(runner: &Path) -> Result<Vec<BenchRow>> {
    let mut rows = vec![first_run_row(runner, 1, 5)?, first_run_row(runner, 4, 10)?, call_row()?];
    for (language, cold, warm) in [("rust", 100, 6), ("js", 8000, 50), ("python", 8000, 50)] {
        rows.extend(third_party_rows(runner, language, cold, warm)?);
    }
    rows.extend(size_rows()?);
    rows.push(rebuild_row()?);
    Ok(rows)
}

fn wall_time_row(name: impl Into<String>, (ours, theirs): (Duration, Duration), most: Duration) -> BenchRow {
    BenchRow { name: name.into(), ours, theirs, target: BenchTarget::WallTime(most) }
}

fn time_shell() -> Result<Duration> {
    wall_time(Command::new("sh").args(["-c", "true"]))
}

/// A plan of `steps` official steps that find what they check; each round in a folder without a history.
fn first_run_row(runner: &Path, steps: u32, most: u64) -> Result<BenchRow> {
    let folder = no_op_plan(steps)?;
    let name = if steps == 1 { "a no-op official step".to_owned() } else { format!("{steps} official steps") };
    Ok(wall_time_row(
        format!("{name}, first run, whole process · `sh -c true`"),
        interleaved_medians(ROUNDS, || time_first_run(runner, folder.path()), time_shell)?,
        Duration::from_millis(most),
    ))
}

/// A folder with such a plan.
pub(super) fn no_op_plan(steps: u32) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("d"))?;
    fs::write(folder.path().join("d/f"), "x")?;
    let step = "{ uses: verify, with: { files: [{ path: f, equals: x }] }, grants: { dirs: { d: \"./d:ro\" } } }";
    let plan: String = (0..steps).map(|number| format!("  check{number}: {step}\n")).collect();
    fs::write(folder.path().join("deploy.yml"), format!("version: 1\napp: noop\nsteps:\n{plan}"))?;
    sync_disks()?;
    Ok(folder)
}

/// A deployment in a folder whose history is removed first.
pub(super) fn time_first_run(runner: &Path, folder: &Path) -> Result<Duration> {
    remove_deployment_state(folder)?;
    wall_time(deploy_command(runner, folder).env("HOME", folder))
}

/// Has the disk write what builds before left in memory: a sync of ours would wait for it.
pub(super) fn sync_disks() -> Result<()> {
    output(&mut Command::new("sync")).map(drop)
}

/// Removes what earlier deployments left beside a plan.
fn remove_deployment_state(folder: &Path) -> Result<()> {
    for left in [".pawl", "deploy.lock"] {
        let path = folder.join(left);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.or_else(ignore_not_found)?;
    }
    Ok(())
}

fn ignore_not_found(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn deploy_command(runner: &Path, folder: &Path) -> Command {
    let mut command = Command::new(runner);
    command.args(["--local", "--quiet", "--release", "r1"]).current_dir(folder);
    command
}

/// Measured by an example of the runner's, since it is one call inside a process and no command.
fn call_row() -> Result<BenchRow> {
    let text = output(&mut Command::new(workspace::build_example("call")?))?;
    let ours = Duration::from_nanos(text.trim().parse().context("the example prints a median in nanoseconds")?);
    Ok(wall_time_row("instantiate + call, one step · `sh -c true`", (ours, time_shell()?), Duration::from_micros(100)))
}

/// A step that `runner new-step` begins, built as it says, then deployed with nothing kept (cold) and again (warm).
fn third_party_rows(runner: &Path, language: &str, cold: u64, warm: u64) -> Result<Vec<BenchRow>> {
    let folder = workspace::target_dir()?.join("bench-steps");
    fs::create_dir_all(&folder)?;
    let project = folder.join(format!("warm-{language}"));
    if project.exists() {
        fs::remove_dir_all(&project)?;
    }
    let name = format!("warm-{language}");
    run_command(Command::new(runner).args(["new-step", &name, "--lang", language]).current_dir(&folder))?;
    println!("building a step in {language}");
    match language {
        "js" => {
            output(Command::new("npm").arg("install").current_dir(&project))?;
            output(Command::new("npm").args(["run", "build"]).current_dir(&project))?;
        }
        _ => drop(output(Command::new("./build.sh").current_dir(&project))?),
    }
    sync_disks()?;
    let home = tempfile::tempdir()?;
    let deploy = |home: &Path| {
        remove_deployment_state(&project)?;
        wall_time(deploy_command(runner, &project).env("HOME", home))
    };
    let mut kept = Vec::new();
    let fresh = || {
        let home = tempfile::tempdir()?;
        let took = deploy(home.path());
        kept.push(home);
        took
    };
    let rounds = if cold > 1000 { COLD_ROUNDS } else { ROUNDS };
    let first = wall_time_row(
        format!("a step in {language}, nothing kept · `sh -c true`"),
        interleaved_medians(rounds, fresh, time_shell)?,
        Duration::from_millis(cold),
    );
    sync_disks()?;
    let again = wall_time_row(
        format!("a step in {language}, kept · `sh -c true`"),
        interleaved_medians(ROUNDS, || deploy(home.path()), time_shell)?,
        Duration::from_millis(warm),
    );
    Ok(vec![first, again])
}

/// The largest official module, and the largest one compiled.
fn size_rows() -> Result<Vec<BenchRow>> {
    let guest = workspace::target_dir()?.join("guest");
    let mut rows = Vec::new();
    let components = official_components(&guest)?;
    let compiled: Vec<PathBuf> = components.iter().map(|path| newest_compiled(&guest, path)).collect::<Result<_>>()?;
    for (what, files, most) in [("official component", &components, 150), ("compiled", &compiled, 450)] {
        let sizes: Vec<u64> =
            files.iter().map(|path| Ok(fs::metadata(path)?.len())).collect::<Result<_, std::io::Error>>()?;
        let largest = sizes.into_iter().max().context("there are official modules")?;
        rows.push(BenchRow {
            name: format!("largest {what}"),
            ours: Duration::ZERO,
            theirs: Duration::ZERO,
            target: BenchTarget::Bytes { largest, limit: most * 1000 },
        });
    }
    Ok(rows)
}

fn official_components(guest: &Path) -> Result<Vec<PathBuf>> {
    let built = guest_build::build(&workspace::root().join("steps"), guest)?;
    Ok(built.into_iter().map(|component| component.path).collect())
}

/// What the runner's build script made of a component, the newest of its engines.
fn newest_compiled(guest: &Path, component: &Path) -> Result<PathBuf> {
    let name = component.file_stem().context("a component has a name")?.to_string_lossy().into_owned() + "-";
    let mut found = Vec::new();
    for entry in fs::read_dir(guest.join("compiled"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&name) {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    found.into_iter().max().map(|(_, path)| path).context("every component was compiled")
}

/// From an edit of a step to its component.
fn rebuild_row() -> Result<BenchRow> {
    let source = workspace::root().join("steps/switch/src/lib.rs");
    let guest = workspace::target_dir()?.join("guest");
    let build = || {
        // The same source gives the same core module, which would not be worked on again.
        fs::remove_file(guest.join("components/switch.core")).or_else(ignore_not_found)?;
        fs::write(&source, fs::read(&source)?)?;
        let began = Instant::now();
        guest_build::build(&workspace::root().join("steps"), &guest)?;
        Ok(began.elapsed())
    };
    let times = interleaved_medians(5, build, time_shell)?;
    Ok(wall_time_row("a step's component, built after an edit · `sh -c true`", times, Duration::from_secs(3)))
}
