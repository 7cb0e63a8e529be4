//! `test`: every test of both workspaces, in the release profile that users get.
//!
//! The last line is `N passed, N failed`, summed over all test binaries. A test binary that does not build, or dies
//! without a result, counts as one failure.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context, Result};

use crate::{
    setup::{
        self, CONTAINERS, DATABASES, GITHUB_CLIENTS, GITLAB_JOBS, MIGRATION_GUIDES, RECIPES, STATE_AND_ACT,
        STEP_AUTHORING, SetupNeed, TOOLS,
    },
    workspace::{self, GUESTS, cargo, command_line},
};

/// What building everything takes at first, in minutes of one core.
const FIRST_BUILD: usize = 30;

/// How long a test binary may run, in minutes. The longest takes about 8 on two cores; what hangs is ended, and fails by its name.
const MAX_MINUTES: u32 = 30;

/// How many tests run at a time on each core: half of the time, a test waits for a server, a program or a disk.
const TESTS_PER_CORE: usize = 2;

pub(crate) fn run() -> Result<TestTally> {
    let needs: Vec<SetupNeed> = [SetupNeed::GuestToolchain]
        .into_iter()
        .chain(TOOLS)
        .chain(DATABASES)
        .chain(CONTAINERS)
        .chain(STEP_AUTHORING)
        .chain(RECIPES)
        .chain(MIGRATION_GUIDES)
        .chain(STATE_AND_ACT)
        .chain(GITHUB_CLIENTS)
        .chain(GITLAB_JOBS)
        .collect();
    setup::ensure(&needs)?;
    let began = Instant::now();
    let runner = workspace::target_dir()?.join(workspace::RUNNER);
    workspace::announce("the runner and its tests (release)", FIRST_BUILD, &runner);
    let mut sum = run_and_count(cargo().args(["build", "--release", "--workspace"]))?;
    if sum.failed == 0 {
        sum.add(run_and_count(test_command().args(["--release", "--workspace", "--no-fail-fast"]))?);
        let native = workspace::native_guests_dir()?;
        for guests in GUESTS {
            // Guests are optimized for wasm; here the quick profile does.
            let mut cargo = test_command();
            cargo.current_dir(workspace::root().join(guests));
            sum.add(run_and_count(cargo.args(["--workspace", "--no-fail-fast", "--target-dir"]).arg(&native))?);
        }
    }
    println!("tests took {} s", began.elapsed().as_secs());
    println!("{} passed, {} failed", sum.passed, sum.failed);
    Ok(sum)
}

/// The variable by which a test binary learns how many tests to run at a time.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// `cargo test`, which ends a test binary after [`MAX_MINUTES`].
fn test_command() -> Command {
    let mut cargo = cargo();
    if cfg!(target_os = "linux") {
        let runner =
            format!("target.\"cfg(all())\".runner = ['timeout', '--foreground', '--verbose', '{MAX_MINUTES}m']");
        cargo.args(["--config", &runner]);
    }
    #[expect(clippy::disallowed_methods, reason = "nothing stands outside of xtask to pass it on")]
    if env::var_os(TEST_THREADS).is_none() {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        cargo.env(TEST_THREADS, (cores * TESTS_PER_CORE).to_string());
    }
    cargo.arg("test");
    cargo
}

/// How many tests did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TestTally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl TestTally {
    fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
    }

    /// What one line of output adds: libtest's `test result: ok. 3 passed; 0 failed; …`.
    fn parse_line(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let count = |name: &str| counts.split("; ").find_map(|part| part.strip_suffix(name)?.trim_end().parse().ok());
        Some(Self { passed: count("passed")?, failed: count("failed")? })
    }
}

/// Shows the output as it comes, and counts.
fn run_and_count(command: &mut Command) -> Result<TestTally> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {}", command_line(command)))?;
    let mut sum = TestTally::default();
    let stdout = child.stdout.take().context("the pipe was asked for above")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(more) = TestTally::parse_line(&line) {
            sum.add(more);
        }
    }
    let status = child.wait()?;
    if !status.success() && sum.failed == 0 {
        eprintln!("`{}`: {status}", command_line(command));
        sum.failed = 1;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_parses_result_lines() {
        let ok = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(TestTally::parse_line(ok), Some(TestTally { passed: 12, failed: 0 }));
        let failed = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(TestTally::parse_line(failed), Some(TestTally { passed: 3, failed: 2 }));
        assert_eq!(TestTally::parse_line("test plan::tests::result ... ok"), None);
    }

    #[test]
    fn crashed_test_binary_counts_as_one_failure() {
        let died = run_and_count(Command::new("sh").args(["-c", "echo running; exit 101"])).unwrap();
        assert_eq!(died, TestTally { passed: 0, failed: 1 });
        let line = "echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'; exit 101";
        assert_eq!(run_and_count(Command::new("sh").args(["-c", line])).unwrap(), TestTally { passed: 1, failed: 1 });
    }
}
