//! `append`: a record of the journal, appended and synced, beside a bare write and `fdatasync` of as many bytes.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};

use super::{BenchRow, BenchTarget};
use crate::workspace;

/// Measured by an example of the runner's, since it is one call inside a process and no command.
pub(super) fn append_rows() -> Result<Vec<BenchRow>> {
    let folder = workspace::target_dir()?;
    let text = workspace::output(Command::new(workspace::build_example("append")?).arg(&folder))?;
    let mut medians = text.lines().map(|line| line.trim().parse().map(Duration::from_nanos));
    let mut median = || medians.next().context("the example prints two medians")?.context("a median in nanoseconds");
    Ok(vec![BenchRow {
        name: "append + sync, one record".to_owned(),
        ours: median()?,
        theirs: median()?,
        target: BenchTarget::Ratio(1.3),
    }])
}
