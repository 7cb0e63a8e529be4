//! A deployment of the example on which everything is already done: probes, decisions, one live round of verify.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Result;
use tempfile::TempDir;

use super::{Aim, Row, interleaved, timed};
use crate::{demo::copy_folder, pack::pack, workspace};

const ROUNDS: usize = 20;
/// The whole process, issue's acceptance.
const AIM: Duration = Duration::from_millis(25);

pub(super) fn rows(runner: &Path) -> Result<Vec<Row>> {
    let folder = deployed(runner)?;
    let (ours, theirs) =
        interleaved(ROUNDS, || deploy(runner, folder.path()), || timed(Command::new("sh").args(["-c", "true"])))?;
    Ok(vec![Row { name: "resume, everything skipped · `sh -c true`".to_owned(), ours, theirs, aim: Aim::Wall(AIM) }])
}

/// A folder with the example in it, deployed as r1.
pub(super) fn deployed(runner: &Path) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let example = workspace::root().join("examples/shop");
    for part in ["app", "migrations"] {
        copy_folder(&example.join(part), &folder.path().join(part))?;
    }
    fs::copy(example.join("deploy.yml"), folder.path().join("deploy.yml"))?;
    pack(folder.path(), "r1")?;
    deploy(runner, folder.path())?;
    Ok(folder)
}

fn deploy(runner: &Path, folder: &Path) -> Result<Duration> {
    timed(Command::new(runner).args(["--local", "--release", "r1"]).current_dir(folder))
}
