//! Binaryen's `wasm-opt` makes a core module a tenth smaller than LLVM leaves it. Where it is not installed, the module
//! stays as it is: it does the same. `cargo xtask setup` installs it.

use std::{fs, io, path::Path, process::Command};

use anyhow::{Context, Result};

/// What rustc's code for the target may use. All features that a newer one knows would be too many: what it then writes,
/// others might not read.
const WASM_FEATURES: [&str; 6] = [
    "--enable-bulk-memory",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
];

/// The module in the file `core`, made smaller by way of the file `work`. Nothing without `wasm-opt`, or when it can't
/// read the module; that is said.
pub(crate) fn optimize_module(core: &Path, work: &Path) -> Result<Option<Vec<u8>>> {
    let mut command = Command::new("wasm-opt");
    command.arg("-Oz").args(WASM_FEATURES).arg(core).arg("-o").arg(work);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("start wasm-opt"),
    };
    if !output.status.success() {
        eprintln!("wasm-opt: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        return Ok(None);
    }
    let bytes = fs::read(work).with_context(|| format!("read {}", work.display()))?;
    fs::remove_file(work).with_context(|| format!("remove {}", work.display()))?;
    Ok(Some(bytes))
}
