//! Kills at every point: the kill tests, which take a few points by chance, here take all of them. The connections with hosts are cut at
//! 100 points, and their coordinator is killed at 40.
//!
//! Nothing is compared with anybody: what counts is that none fails. Deliberately absent: the kills, which are tests.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::workspace::{self, cargo, command_line};

/// Runs them, and shows the summaries; into docs/benchmarks.md too, if asked.
pub(super) fn run_kill_tests(write: bool) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--release", "--package", "runner", "--test", "kills", "--"]);
    command.args(["ends_as_an_undisturbed_one", "lose_no_record", "operators::killed"]);
    let mut summaries = collect_summaries(command.env("PAWL_POINTS", "all"))?;
    let mut races = cargo();
    races.args(["test", "--release", "--package", "runner", "--test", "cases", "--", "shared_lock::one_of_sixteen"]);
    workspace::run(races.env("PAWL_POINTS", "all"))?;
    let mut hosts = cargo();
    hosts.args([
        "test",
        "--release",
        "--package",
        "runner",
        "--test",
        "cases",
        "--",
        "host_faults",
        "--test-threads=1",
    ]);
    summaries.extend(collect_summaries(hosts.env("PAWL_POINTS", "all"))?);
    // One after the other: they wait for servers, and are not to wait for each other too.
    let mut command = cargo();
    command.args([
        "test",
        "--release",
        "--package",
        "runner",
        "--test",
        "databases",
        "--",
        "kills_on",
        "--nocapture",
        "--test-threads=1",
    ]);
    summaries.extend(self::collect_summaries(command.env("PAWL_POINTS", "300"))?);
    summaries.sort();
    if write {
        let path = workspace::root().join("docs/benchmarks.md");
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, update_summaries(&old, &summaries)).with_context(|| format!("write {}", path.display()))?;
        println!("\nwrote {}", path.display());
    }
    Ok(())
}

/// Runs the tests, and returns what they say of the kills.
fn collect_summaries(command: &mut Command) -> Result<Vec<String>> {
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().context("the pipe was asked for above")?;
    let mut summaries = Vec::new();
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        eprintln!("{line}");
        summaries.extend(parse_summary(&line));
    }
    let status = child.wait()?;
    ensure!(status.success(), "`{}`: {status}", command_line(command));
    ensure!(!summaries.is_empty(), "`{}` killed nothing", command_line(command));
    Ok(summaries)
}

/// The line that a kill test ends with, without its seed: all points need none.
fn parse_summary(line: &str) -> Option<String> {
    let (before, after) = line.split_once(", PAWL_SEED=")?;
    let (_, kinds) = after.split_once("; ")?;
    Some(format!("{before}; {kinds}"))
}

const BEGIN: &str = "<!-- cargo xtask bench faults --write: begin -->";
const END: &str = "<!-- cargo xtask bench faults --write: end -->";
const INTRODUCTION: &str = "## Faults\n\nThe runner is killed behind every call that changes something outside of it, and run \
                            again: the end must be\nan undisturbed run's. Double kills: 20 pairs by chance.";

/// The document with new summaries; the text around them stays.
fn update_summaries(document: &str, summaries: &[String]) -> String {
    let parts = document.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = match parts {
        Some((before, after)) => (before.to_owned(), after),
        None => (format!("{}\n\n{INTRODUCTION}\n\n", super::document_head(document)), "\n"),
    };
    format!("{before}{BEGIN}\n```text\n{}\n```\n{END}{after}", summaries.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_is_parsed_from_its_line_only() {
        let line = "kills: 2 cases of 2 calls, 0 failed, 0.3 s, PAWL_SEED=7; killed behind 1 fsync, 1 write";
        let shown = "kills: 2 cases of 2 calls, 0 failed, 0.3 s; killed behind 1 fsync, 1 write";
        assert_eq!(parse_summary(line).as_deref(), Some(shown));
        assert_eq!(parse_summary("     Running ../tests/kills.rs"), None);
    }

    #[test]
    fn update_keeps_the_surrounding_text() {
        let first = update_summaries("# Benchmarks\n\nText.\n", &["a".to_owned()]);
        let second = update_summaries(&(first.replace("## Faults", "## Kills") + "More.\n"), &["b".to_owned()]);
        assert!(second.starts_with("# Benchmarks\n\nText.\n\n## Kills") && second.ends_with("More.\n"), "{second}");
        assert!(second.contains("\nb\n") && !second.contains("\na\n"), "{second}");
    }
}
