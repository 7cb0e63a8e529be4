//! `runner pack` of many small files and of a few large ones, beside `tar` to `zstd -T0` at the same level, in memory-backed storage where
//! it is there. Theirs hashes nothing, sorts nothing, and writes no list.

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use tar::Archive;

use super::{
    BenchRow, BenchTarget, interleaved_medians,
    pull::{fresh_folder, text_files_tar},
    wall_time,
};

const ROUNDS: usize = 7;
const LEVEL: &str = "3";
/// 0.8 times the speed.
const MAX_RATIO: f64 = 1.25;
/// In bytes; each of the large files.
const LARGE_FILE: usize = 64 << 20;

pub(super) fn rows(runner: &Path) -> Result<Vec<BenchRow>> {
    let folder = fresh_folder()?;
    let (small, large) = (folder.path().join("small"), folder.path().join("large"));
    let tar = text_files_tar()?;
    Archive::new(&tar[..]).unpack(&small)?;
    fs::create_dir(&large)?;
    for (number, content) in tar.chunks(LARGE_FILE).enumerate() {
        fs::write(large.join(format!("part-{number}")), content)?;
    }
    drop(tar);
    [("8500 small files", small), ("3 large files", large)]
        .into_iter()
        .map(|(what, source)| {
            let out = folder.path().join("out.tar.zst");
            let ours = || {
                let mut pack = Command::new(runner);
                pack.arg("pack").arg(&source).args(["--version", "r1", "--level", LEVEL, "--out"]).arg(&out);
                wall_time(&mut pack)
            };
            let line = format!(
                "set -euo pipefail; tar c -C {} . | zstd -q -T0 -{LEVEL} >{}",
                source.display(),
                folder.path().join("theirs.tar.zst").display()
            );
            let theirs = || wall_time(Command::new("bash").args(["-c", &line]));
            let (ours, theirs) = interleaved_medians(ROUNDS, ours, theirs)?;
            let name = format!("pack of {what} · `tar` to `zstd -T0`");
            Ok(BenchRow { name, ours, theirs, target: BenchTarget::Ratio(MAX_RATIO) })
        })
        .collect()
}
