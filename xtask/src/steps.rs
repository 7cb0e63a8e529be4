//! `steps`: builds the step modules from source, as the runner's build script does, and shows them.

use std::fs;

use anyhow::Result;

use crate::{
    setup::{self, SetupNeed},
    workspace,
};

pub(crate) fn run() -> Result<()> {
    setup::ensure(&[SetupNeed::GuestToolchain])?;
    println!("building the step modules (the first time takes minutes) with {}", guest_build::find_toolchain()?);
    for component in guest_build::build(&workspace::root().join("steps"), &workspace::target_dir()?.join("guest"))? {
        let kilobytes = fs::metadata(&component.path)?.len().div_ceil(1000);
        println!("{:<10} {kilobytes:>5} kB  {}", component.name, component.path.display());
    }
    Ok(())
}
