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

/// A target in `fuzz/fuzz_targets`.
struct FuzzTarget {
    name: &'static str,
    /// The length of the longest input, in bytes.
    max_bytes: u32,
    /// The file in `fuzz/` with words that mutations insert.
    dictionary: Option<&'static str>,
}

const TARGETS: [FuzzTarget; 6] = [
    FuzzTarget { name: "archive", max_bytes: 16_384, dictionary: None },
    FuzzTarget { name: "expanded", max_bytes: 4096, dictionary: Some("plan.dict") },
    FuzzTarget { name: "expression", max_bytes: 4096, dictionary: None },
    FuzzTarget { name: "frames", max_bytes: 16_384, dictionary: Some("frames.dict") },
    FuzzTarget { name: "journal", max_bytes: 65_536, dictionary: None },
    FuzzTarget { name: "plan", max_bytes: 4096, dictionary: Some("plan.dict") },
];

pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<()> {
    let chosen: Vec<_> = TARGETS.iter().filter(|known| target.is_none_or(|wanted| wanted == known.name)).collect();
    if chosen.is_empty() {
        bail!("there is no such target; there are {}", TARGETS.map(|known| known.name).join(", "));
    }
    setup::ensure(&[SetupNeed::CargoFuzz])?;
    let folder = workspace::target_dir()?.join("fuzz");
    for FuzzTarget { name, max_bytes, dictionary } in chosen {
        println!("fuzzing {name} for {seconds} s");
        let (work, findings) = (folder.join("corpus").join(name), folder.join("findings").join(name));
        fs::create_dir_all(&work)?;
        fs::create_dir_all(&findings)?;
        let mut fuzz = cargo();
        fuzz.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "run", "--sanitizer", "none", "--target-dir"]).arg(&folder);
        fuzz.arg(name).arg(&work).arg(workspace::root().join("fuzz/corpus").join(name));
        fuzz.args(["--".to_owned(), format!("-max_total_time={seconds}"), format!("-max_len={max_bytes}")]);
        fuzz.args(["-timeout=20", "-print_final_stats=1"]).arg(format!("-artifact_prefix={}/", findings.display()));
        fuzz.args(dictionary.map(|file| format!("-dict={}", workspace::root().join("fuzz").join(file).display())));
        run_command(&mut fuzz)?;
    }
    Ok(())
}
