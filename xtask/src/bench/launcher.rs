//! The action's launcher beside the binary that it starts: the same deployment, on which everything is already done.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;

use super::{Aim, Row, interleaved, resume, timed};
use crate::workspace;

const ROUNDS: usize = 20;
/// What the launcher may add, issue's acceptance. Most of it is Node's own start.
const AIM: Duration = Duration::from_millis(80);

pub(super) fn rows(runner: &Path) -> Result<Vec<Row>> {
    let folder = resume::deployed(runner)?;
    let launcher = workspace::root().join("action/main.js");
    let inside = |command: &mut Command| {
        // As in a job, but without an artifact service: both would wait for it alike.
        timed(command.env("GITHUB_ACTIONS", "true").current_dir(folder.path()))
    };
    let ours = || inside(Command::new("node").arg(&launcher).env("INPUT_RUNNER", runner).env("INPUT_RELEASE", "r1"));
    let theirs = || inside(Command::new(runner).args(["deploy", "--release", "r1"]));
    let (ours, theirs) = interleaved(ROUNDS, ours, theirs)?;
    Ok(vec![Row { name: "the action's launcher · the binary alone".to_owned(), ours, theirs, aim: Aim::Over(AIM) }])
}
