//! The action's launcher beside the binary that it starts: the same deployment, on which everything is already done.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;

use super::{BenchRow, BenchTarget, interleaved_medians, resume, wall_time};
use crate::workspace;

const ROUNDS: usize = 20;
/// What the launcher may add, issue's acceptance. Most of it is Node's own start.
const MAX_OVERHEAD: Duration = Duration::from_millis(80);

pub(super) fn rows(runner: &Path) -> Result<Vec<BenchRow>> {
    let folder = resume::deployed_example(runner)?;
    let launcher = workspace::root().join("action/main.js");
    let inside = |command: &mut Command| {
        // As in a job, but without an artifact service: both would wait for it alike.
        wall_time(command.env("GITHUB_ACTIONS", "true").current_dir(folder.path()))
    };
    let ours = || inside(Command::new("node").arg(&launcher).env("INPUT_RUNNER", runner).env("INPUT_RELEASE", "r1"));
    let theirs = || inside(Command::new(runner).args(["deploy", "--release", "r1"]));
    let (ours, theirs) = interleaved_medians(ROUNDS, ours, theirs)?;
    Ok(vec![BenchRow {
        name: "the action's launcher · the binary alone".to_owned(),
        ours,
        theirs,
        target: BenchTarget::Overhead(MAX_OVERHEAD),
    }])
}
