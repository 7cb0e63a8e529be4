//! `fuzz`: builds the fuzz targets with coverage and runs them, one after the other, from the corpus that is kept here.
//!
//! The corpus stays as it is: what a run finds goes to the target directory, and docs/fuzzing.md says how some of it is taken
//! over. No sanitizer, since these need a nightly toolchain and the code under test is safe Rust but for zstd; the coverage
//! that libFuzzer needs is in every toolchain, behind `RUSTC_BOOTSTRAP`.

use std::fs;

use anyhow::{Result, bail};

use crate::{
    setup::{self, SetupNeed},
    workspace::{self, cargo, run as run_command},
};

/// Longest input of each target, in bytes.
const TARGETS: [(&str, u32); 5] =
    [("archive", 16_384), ("expanded", 4096), ("expression", 4096), ("journal", 65_536), ("plan", 4096)];

pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<()> {
    setup::ensure(&[SetupNeed::CargoFuzz])?;
    let chosen: Vec<_> = TARGETS.iter().filter(|(name, _)| target.is_none_or(|wanted| wanted == *name)).collect();
    if chosen.is_empty() {
        bail!("there are {}", TARGETS.map(|(name, _)| name).join(", "));
    }
    let folder = workspace::target_dir()?.join("fuzz");
    for (name, longest) in chosen {
        println!("fuzzing {name} for {seconds} s");
        let (work, findings) = (folder.join("corpus").join(name), folder.join("findings").join(name));
        fs::create_dir_all(&work)?;
        fs::create_dir_all(&findings)?;
        let mut fuzz = cargo();
        fuzz.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "run", "--sanitizer", "none", "--target-dir"]).arg(&folder);
        fuzz.arg(name).arg(&work).arg(workspace::root().join("fuzz/corpus").join(name));
        fuzz.args(["--".to_owned(), format!("-max_total_time={seconds}"), format!("-max_len={longest}")]);
        fuzz.args(["-timeout=20", "-print_final_stats=1"]).arg(format!("-artifact_prefix={}/", findings.display()));
        run_command(&mut fuzz)?;
    }
    Ok(())
}
