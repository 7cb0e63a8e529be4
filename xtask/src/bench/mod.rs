//! `bench`: what we do beside what people use today, measured in one run and given as ratios.
//!
//! Rounds are interleaved (ours, theirs, ours, theirs, …), so that both see the same machine; figures are medians. The
//! binaries are started as users start them. Deliberately absent: absolute promises, except for the resume's wall time.

mod against;
mod append;
mod checkpoints;
mod databases;
pub(crate) mod faults;
mod growth;
pub(crate) mod hosts;
mod launcher;
mod migrate;
mod oci;
mod output;
mod packing;
mod plan;
mod pull;
mod resume;
mod section;
mod steps;
mod switches;

use std::{
    fmt, fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    setup::{self, BENCH_PEERS, CONTAINERS, DATABASES, STEP_AUTHORING, SetupNeed, TOOLS},
    workspace::{self, run as run_command},
};

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchmarkName {
    /// An all-skipped resume of the example, beside `sh -c true`
    Resume,
    /// Reading a plan of 20, 200 and 2,000 steps, and an all-skipped resume of 401 files
    Plan,
    /// A record of the journal, beside a bare write and `fdatasync`
    Append,
    /// A pull of many small files, beside `curl | tee >(sha256sum) | tar x`
    Pull,
    /// A release made of a folder, beside `tar | zstd -T0`
    Pack,
    /// A pull of an image, beside `skopeo copy` to `umoci unpack`, and `podman pull`; and the memory for 2 GB
    Oci,
    /// 200 migrations, beside the sqlite3 shell
    Migrate,
    /// What a module costs: processes, calls, other people's modules cold and warm, sizes
    Steps,
    /// 1,000 migrations on PostgreSQL, and runs at once, beside psql, sqlx-cli, dbmate and refinery
    Databases,
    /// Kills at every point of a deployment, at 300 of the migrations of each database, and at 200 of blue/green deployments under load
    Faults,
    /// How long after its timeout a step that hangs is stopped: at most 50 ms
    Deadlines,
    /// The action's launcher, beside the binary that it starts
    Launcher,
    /// A deployment with an artifact service 200 ms away, beside one without
    Checkpoints,
    /// How soon a program's lines are seen, over a minute; and 100 MB of output, beside a file
    Output,
    /// Each command after 10, 1,000 and 10,000 attempts, with `dir:`, `git:` and S3
    Growth,
    /// Traffic that is switched 50 times under load, beside reloads; and one switch
    Switches,
    /// A release on 1, 8 and 100 hosts, beside bash over ssh, ansible, pyinfra, fabric and capistrano
    Hosts,
}

/// How the benchmarks are run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BenchOptions {
    /// Whether the figures go into docs/benchmarks.md.
    pub(crate) write: bool,
    /// Whether histories are short, hosts few, and loads over soon.
    pub(crate) quick: bool,
    /// The only part of the faults.
    pub(crate) part: Option<faults::FaultPart>,
}

impl fmt::Display for BenchmarkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("each benchmark can be asked for").get_name())
    }
}

/// One line of the table.
struct BenchRow {
    /// Its key in docs/benchmarks.md.
    name: String,
    ours: Duration,
    theirs: Duration,
    target: BenchTarget,
}

enum BenchTarget {
    /// Ours at most so many times theirs.
    Ratio(f64),
    /// Ours at most this, whatever theirs takes.
    WallTime(Duration),
    /// Ours at most so much more than theirs.
    Overhead(Duration),
    /// No time: the largest of some files has so many bytes, and may have `limit`.
    Bytes { largest: u64, limit: u64 },
}

pub(crate) fn run(names: &[BenchmarkName], options: BenchOptions) -> Result<()> {
    let BenchOptions { write, quick, part } = options;
    // It needs less than the others.
    if names == [BenchmarkName::Growth] {
        return growth::run(None, quick, write);
    }
    let mut needs = vec![SetupNeed::GuestToolchain];
    let needs_peers =
        |name: &BenchmarkName| !matches!(name, BenchmarkName::Hosts | BenchmarkName::Output | BenchmarkName::Plan);
    if names.is_empty() || names.iter().any(needs_peers) {
        needs.extend(BENCH_PEERS.into_iter().chain(TOOLS).chain(DATABASES).chain(CONTAINERS).chain(STEP_AUTHORING));
    }
    setup::ensure(&needs)?;
    let runner = workspace::build_runner()?;
    let mut rows = Vec::new();
    for name in BenchmarkName::value_variants().iter().filter(|name| names.is_empty() || names.contains(name)) {
        println!("measuring {name}");
        rows.extend(match name {
            BenchmarkName::Resume => resume::rows(&runner)?,
            BenchmarkName::Plan => plan::rows(&runner)?,
            BenchmarkName::Append => append::append_rows()?,
            BenchmarkName::Pull => pull::rows(&runner)?,
            BenchmarkName::Pack => packing::rows(&runner)?,
            BenchmarkName::Oci => oci::rows(&runner, quick)?,
            BenchmarkName::Migrate => migrate::rows(&runner)?,
            BenchmarkName::Databases => databases::rows(&runner)?,
            BenchmarkName::Steps => steps::rows(&runner)?,
            BenchmarkName::Launcher => launcher::rows(&runner)?,
            BenchmarkName::Checkpoints => checkpoints::rows()?,
            BenchmarkName::Output => output::rows(&runner)?,
            BenchmarkName::Switches => switches::rows(options)?,
            BenchmarkName::Deadlines => {
                measure_deadlines()?;
                Vec::new()
            }
            BenchmarkName::Faults => {
                faults::run_kill_tests(part, write)?;
                Vec::new()
            }
            BenchmarkName::Growth => {
                growth::run(None, quick, write)?;
                Vec::new()
            }
            BenchmarkName::Hosts => {
                hosts::run(&runner, options)?;
                Vec::new()
            }
        });
    }
    let table: Vec<String> = rows.iter().map(BenchRow::to_string).collect();
    if table.is_empty() {
        return Ok(());
    }
    println!("\n{HEADING}\n{}", table.join("\n"));
    if write {
        let path = workspace::root().join("docs/benchmarks.md");
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, update_table(&old, &table)).with_context(|| format!("write {}", path.display()))?;
        println!("\nwrote {}", path.display());
    }
    Ok(())
}

/// Runs the tests of hanging steps, which fail then if the best of a few tries ends more than 50 ms after its deadline.
fn measure_deadlines() -> Result<()> {
    let mut test = workspace::cargo();
    test.args(["test", "--release", "--workspace", "--test", "cases", "--", "hangs", "--test-threads=1"]);
    run_command(test.env("PAWL_MEASURE_OVERRUN", "1"))
}

/// The medians of `rounds` interleaved rounds, after one round that is not counted.
fn interleaved_medians(
    rounds: usize,
    mut ours: impl FnMut() -> Result<Duration>,
    mut theirs: impl FnMut() -> Result<Duration>,
) -> Result<(Duration, Duration)> {
    ours()?;
    theirs()?;
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        times.0.push(ours()?);
        times.1.push(theirs()?);
    }
    Ok((median(times.0), median(times.1)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    let middle = times.len() / 2;
    if times.len().is_multiple_of(2) { (times[middle - 1] + times[middle]) / 2 } else { times[middle] }
}

/// The wall time of a whole process, start to exit. Its output is dropped; its errors are shown.
fn wall_time(command: &mut Command) -> Result<Duration> {
    // Cargo sets it for its own; nobody else's programs look for libraries in a dozen folders.
    command.env_remove("LD_LIBRARY_PATH");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    run_command(command)?;
    Ok(began.elapsed())
}

pub(crate) use against::run_against;

const HEADING: &str = "| What | Ours | Theirs | Ratio | Aim | Met |\n|---|---:|---:|---:|---:|---|";

impl BenchRow {
    fn ratio(&self) -> f64 {
        self.ours.as_secs_f64() / self.theirs.as_secs_f64()
    }

    fn is_met(&self) -> bool {
        match self.target {
            BenchTarget::Ratio(most) => self.ratio() <= most,
            BenchTarget::WallTime(most) => self.ours <= most,
            BenchTarget::Overhead(most) => self.ours.saturating_sub(self.theirs) <= most,
            BenchTarget::Bytes { largest, limit: most } => largest <= most,
        }
    }
}

impl fmt::Display for BenchRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |time: Duration| match time.as_secs_f64() * 1000.0 {
            short @ ..10.0 => format!("{short:.3} ms"),
            long => format!("{long:.1} ms"),
        };
        let met = if self.is_met() { "yes" } else { "no" };
        let aim = match self.target {
            BenchTarget::Ratio(most) => format!("≤ {most:.1}×"),
            BenchTarget::WallTime(most) => format!("≤ {} ms", most.as_secs_f64() * 1000.0),
            BenchTarget::Overhead(most) => format!("≤ {} ms more", most.as_secs_f64() * 1000.0),
            BenchTarget::Bytes { largest, limit: most } => {
                return write!(
                    f,
                    "| {} | {} kB | – | – | ≤ {} kB | {met} |",
                    self.name,
                    largest.div_ceil(1000),
                    most / 1000
                );
            }
        };
        let (ours, theirs) = (milliseconds(self.ours), milliseconds(self.theirs));
        write!(f, "| {} | {ours} | {theirs} | {:.2}× | {aim} | {met} |", self.name, self.ratio())
    }
}

const BEGIN: &str = "<!-- cargo xtask bench --write: begin -->";
const END: &str = "<!-- cargo xtask bench --write: end -->";

/// The document with the new rows in its table. Rows that were not measured this time stay, and so does the text around.
fn update_table(document: &str, rows: &[String]) -> String {
    let key = |row: &str| row.split('|').nth(1).unwrap_or_default().trim().to_owned();
    let parts = document.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?)));
    let (before, table, after) = match parts {
        Some((before, (table, after))) => (before.to_owned(), table, after),
        None => (format!("{}\n\n", document_head(document)), "", "\n"),
    };
    let mut kept: Vec<String> =
        table.lines().filter(|line| line.starts_with("| ")).skip(1).map(str::to_owned).collect();
    for row in rows {
        match kept.iter_mut().find(|old| key(old) == key(row)) {
            Some(old) => old.clone_from(row),
            None => kept.push(row.clone()),
        }
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let machine = format!("Medians of interleaved rounds; last measured on {cores} cores.");
    format!("{before}{BEGIN}\n{machine}\n\n{HEADING}\n{}\n{END}{after}", kept.join("\n"))
}

fn document_head(document: &str) -> &str {
    let document = document.trim_end();
    if document.is_empty() {
        "# Benchmarks\n\nMeasured by `cargo xtask bench`, side by side in one run."
    } else {
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ours: u64, theirs: u64, aim: BenchTarget) -> BenchRow {
        let (ours, theirs) = (Duration::from_millis(ours), Duration::from_millis(theirs));
        BenchRow { name: name.to_owned(), ours, theirs, target: aim }
    }

    #[test]
    fn row_shows_whether_its_target_is_met() {
        let shown = row("a", 12, 10, BenchTarget::Ratio(1.3)).to_string();
        assert_eq!(shown, "| a | 12.0 ms | 10.0 ms | 1.20× | ≤ 1.3× | yes |");
        let shown = row("b", 26, 1, BenchTarget::WallTime(Duration::from_millis(25))).to_string();
        assert_eq!(shown, "| b | 26.0 ms | 1.000 ms | 26.00× | ≤ 25 ms | no |");
        let shown = row("c", 90, 10, BenchTarget::Overhead(Duration::from_millis(80))).to_string();
        assert_eq!(shown, "| c | 90.0 ms | 10.0 ms | 9.00× | ≤ 80 ms more | yes |");
    }

    #[test]
    fn median_of_an_even_count_is_the_mean_of_the_middle() {
        let times = [4, 1, 3, 2].map(Duration::from_millis).to_vec();
        assert_eq!(median(times), Duration::from_micros(2500));
    }

    #[test]
    fn update_keeps_rows_that_were_not_measured() {
        let line = |name, ours| row(name, ours, 10, BenchTarget::Ratio(1.0)).to_string();
        let first = update_table("", &[line("a", 1), line("b", 2)]);
        let edited = first.replace("side by side", "beside each other") + "More text.\n";
        let second = update_table(&edited, &[line("b", 3), line("c", 4)]);
        assert!(second.contains("beside each other") && second.ends_with("More text.\n"), "{second}");
        let rows: Vec<_> = second.lines().filter(|line| line.contains("×")).collect();
        assert_eq!(rows, [line("a", 1), line("b", 3), line("c", 4)]);
    }
}
