//! `switches`: traffic that is switched 50 times while it is constant, in front of nginx, Caddy, HAProxy and containers; beside the ways that
//! need a reload. And how long one switch itself takes.
//!
//! What counts is that no request is lost, and that none is answered by the wrong release: else the tests fail. Times are of one run each.
//! Deliberately absent: the load and its checks, which are tests.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{BenchOptions, BenchRow, BenchTarget, pull::fresh_folder, section::MarkedSection};
use crate::workspace::{self, cargo, command_line};

/// How long each load takes, with and without switches.
const SECONDS: (u64, u64) = (30, 5);
/// The most time for a switch itself, without what the disk takes.
const MAX_SWITCH: Duration = Duration::from_millis(1);
/// The tests that measure.
const TESTS: [&str; 2] = ["switch_traffic::", "container::no_request_is_lost_in_swaps"];

const HEADING: &str = "| In front, and what moves the traffic | Switches | Requests | Lost | Answered by the wrong release | Median without \
                       switches | p99 without | p99 with | p99 of requests during a switch |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|";

const SECTION: MarkedSection = MarkedSection {
    begin: "<!-- cargo xtask bench switches --write: begin -->",
    end: "<!-- cargo xtask bench switches --write: end -->",
    introduction: "## Switches\n\n`cargo xtask bench switches`",
};

pub(super) fn rows(BenchOptions { write, quick, .. }: BenchOptions) -> Result<Vec<BenchRow>> {
    let seconds = if quick { SECONDS.1 } else { SECONDS.0 };
    let load_before = load_average()?;
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--test", "cases", "--"]).args(TESTS);
    command.args(["--test-threads=1", "--nocapture"]).env("PAWL_MEASURE_SWITCHES", seconds.to_string());
    let lines = collect_lines(&mut command)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let machine = format!(
        "{seconds} s each, on {cores} cores, which the clients share with all servers; load average before: {load_before}, \
         after: {}.",
        load_average()?
    );
    let table = format!("{machine}\n\n{HEADING}\n{}\n", lines.join("\n"));
    println!("\n{table}");
    if write {
        let path = workspace::root().join("docs/benchmarks.md");
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, SECTION.update(&old, &table)).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    let memory = fresh_folder()?;
    Ok(vec![
        call_row("in memory", memory.path(), BenchTarget::WallTime(MAX_SWITCH))?,
        call_row("on the disk", &workspace::target_dir()?, BenchTarget::Overhead(MAX_SWITCH))?,
    ])
}

/// Runs the tests, and returns the rows of the table that they show.
fn collect_lines(command: &mut Command) -> Result<Vec<String>> {
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().context("the pipe was asked for above")?;
    let mut rows = Vec::new();
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        eprintln!("{line}");
        rows.extend(parse_row(&line));
    }
    let status = child.wait()?;
    ensure!(status.success(), "`{}`: {status}", command_line(command));
    ensure!(!rows.is_empty(), "`{}` measured nothing", command_line(command));
    rows.sort();
    Ok(rows)
}

fn parse_row(line: &str) -> Option<String> {
    Some(line.split_once("switches: | ")?.1).map(|row| format!("| {row}"))
}

/// The average of the last minute.
fn load_average() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// Measured by an example of the runner's, since it is one call inside a process and no command.
fn call_row(place: &str, folder: &Path, target: BenchTarget) -> Result<BenchRow> {
    let text = workspace::output(Command::new(workspace::build_example("switch")?).arg(folder))?;
    let mut medians = text.lines().map(|line| line.trim().parse().map(Duration::from_nanos));
    let mut median = || medians.next().context("the example prints two medians")?.context("a median in nanoseconds");
    Ok(BenchRow {
        name: format!("a switch, one call, {place} · the same writes and syncs by a program of its own"),
        ours: median()?,
        theirs: median()?,
        target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_is_found_behind_the_name_of_a_test() {
        let line = "test cases::x::y ... switches: | nginx, the link | 50 | 1 | 0 | 0 | 1 ms |";
        assert_eq!(parse_row(line).as_deref(), Some("| nginx, the link | 50 | 1 | 0 | 0 | 1 ms |"));
        assert_eq!(parse_row("nginx: 1.2 s: GET"), None);
    }
}
