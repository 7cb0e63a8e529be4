//! What checkpoints among the artifacts cost: a deployment of four steps with the artifact service 200 ms away, beside one without.
//!
//! The service is a fake in the tests, so a test measures; this reads what it says. Deliberately absent: the service of GitHub.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{BenchRow, BenchTarget};
use crate::workspace::{cargo, output};

const TEST: &str = "deployment_waits_until_its_checkpoints_are_stored";
/// Two intents of the commit phase and the end, each four calls, and one call's time for what is between.
const MAX_OVERHEAD: Duration = Duration::from_millis(200 * (3 * 4 + 1));

pub(super) fn rows() -> Result<Vec<BenchRow>> {
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--test", "github", "--", TEST, "--nocapture"]);
    let stdout = output(&mut command)?;
    let (ours, theirs) =
        stdout.lines().find_map(parse_times).with_context(|| format!("`{TEST}` did not run:\n{stdout}"))?;
    let name = "four steps, artifact service 200 ms away · without one".to_owned();
    Ok(vec![BenchRow { name, ours, theirs, target: BenchTarget::Overhead(MAX_OVERHEAD) }])
}

/// Both times, of the line that the test prints.
fn parse_times(line: &str) -> Option<(Duration, Duration)> {
    let (ours, theirs) =
        line.split_once("checkpoints: ")?.1.strip_suffix(" ms alone")?.split_once(" ms with the service, ")?;
    Some((Duration::from_millis(ours.parse().ok()?), Duration::from_millis(theirs.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_from_the_summary_line_only() {
        let line = "test x ... checkpoints: 2431 ms with the service, 31 ms alone";
        assert_eq!(parse_times(line), Some((Duration::from_millis(2431), Duration::from_millis(31))));
        assert_eq!(parse_times("test result: ok. 1 passed"), None);
    }
}
