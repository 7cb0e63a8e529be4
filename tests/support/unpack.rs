//! Unpacks what was recorded, with its times.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Unpacks a `.tar.zst` into a folder. By `tar`: the library replaces the time 0, at which `pull` would see a change.
pub(crate) fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let file = File::open(archive).with_context(|| archive.display().to_string())?;
    let mut tar = Command::new("tar").arg("-C").arg(folder).args(["-xf", "-"]).stdin(Stdio::piped()).spawn()?;
    let mut input = tar.stdin.take().context("a pipe")?;
    zstd::stream::copy_decode(file, &mut input)?;
    drop(input);
    let status = tar.wait()?;
    ensure!(status.success(), "tar ended with {status}");
    Ok(())
}
