//! Kills at every point: the kill tests, which take a few points by chance, here take all of them. The connections with hosts are cut at
//! 100 points, and their coordinator is killed at 40; a deployment of what serves, under load, is killed at 200.
//!
//! Nothing is compared with anybody: what counts is that none fails. Deliberately absent: the kills, which are tests.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::section::MarkedSection;
use crate::workspace::{self, cargo, command_line};

/// A part of the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FaultPart {
    /// Kills and power losses of deployments on this machine
    Local,
    /// Cuts of connections with hosts, and kills of their coordinator
    Hosts,
    /// Kills of migrations
    Databases,
    /// Kills of blue/green deployments under load: of programs, and of containers
    Serving,
}

impl FaultPart {
    /// The tests. Those that wait for servers run one after the other, and are not to wait for each other too.
    fn commands(self) -> Vec<Command> {
        match self {
            Self::Local => vec![
                tests("kills", &["ends_as_an_undisturbed_one", "lose_no_record", "operators::killed"], "all"),
                tests("cases", &["shared_lock::one_of_sixteen"], "all"),
            ],
            Self::Hosts => vec![tests("cases", &["host_faults", "--test-threads=1"], "all")],
            Self::Databases => vec![tests("databases", &["kills_on", "--nocapture", "--test-threads=1"], "300")],
            Self::Serving => vec![tests("cases", &["serving_kills"], "200")],
        }
    }
}

fn tests(binary: &str, filters: &[&str], points: &str) -> Command {
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--test", binary, "--"]).args(filters);
    command.env("PAWL_POINTS", points);
    command
}

/// Runs them all, or one part, and shows the summaries; into docs/benchmarks.md too, if asked.
pub(super) fn run_kill_tests(only: Option<FaultPart>, write: bool) -> Result<()> {
    let mut summaries = Vec::new();
    for part in FaultPart::value_variants().iter().filter(|part| only.is_none_or(|only| only == **part)) {
        let before = summaries.len();
        for mut command in part.commands() {
            summaries.extend(collect_summaries(&mut command)?);
        }
        ensure!(summaries.len() > before, "the part {part:?} killed nothing");
    }
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
    Ok(summaries)
}

/// The line that a kill test ends with, without its seed: all points need none.
fn parse_summary(line: &str) -> Option<String> {
    let (before, after) = line.split_once(", PAWL_SEED=")?;
    let (_, kinds) = after.split_once("; ")?;
    Some(format!("{before}; {kinds}"))
}

const SECTION: MarkedSection = MarkedSection {
    begin: "<!-- cargo xtask bench faults --write: begin -->",
    end: "<!-- cargo xtask bench faults --write: end -->",
    introduction: "## Faults\n\nThe runner is killed behind every call that changes something outside of it, and run again: the end \
                   must be\nan undisturbed run's. Double kills: 20 pairs by chance.",
};

/// The document with new summaries. Those of parts that did not run stay, and so does the text around them.
fn update_summaries(document: &str, summaries: &[String]) -> String {
    let key = |line: &str| line.split_inclusive(": ").next().unwrap_or_default().to_owned();
    let old = SECTION.body(document).unwrap_or_default().lines().filter(|line| line.contains(": "));
    let lines: BTreeMap<String, &str> =
        old.chain(summaries.iter().map(String::as_str)).map(|line| (key(line), line)).collect();
    let lines: Vec<&str> = lines.into_values().collect();
    SECTION.update(document, &format!("```text\n{}\n```\n", lines.join("\n")))
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
        let first = update_summaries("# Benchmarks\n\nText.\n", &["b: 2".to_owned(), "a: 1".to_owned()]);
        let second = update_summaries(&(first.replace("## Faults", "## Kills") + "More.\n"), &["b: 3".to_owned()]);
        assert!(second.starts_with("# Benchmarks\n\nText.\n\n## Kills") && second.ends_with("More.\n"), "{second}");
        assert!(second.contains("\na: 1\nb: 3\n"), "{second}");
    }
}
