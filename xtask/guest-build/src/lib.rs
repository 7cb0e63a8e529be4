//! Builds the step modules of `steps/` for wasm and makes components of them.
//!
//! The runner's build script and `cargo xtask steps` both come here, so that there is one way to build a module. The
//! output holds no path of the machine that built it. Deliberately absent: installing anything (`cargo xtask setup`
//! does) and precompiling (the runner's build script does, with the wasmtime it links).

mod shrink;
mod toolchain;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use wit_component::ComponentEncoder;

pub use toolchain::{MissingWasmToolchain, WasmToolchain, find_toolchain};

/// The target that modules are built for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// A step module, ready to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltComponent {
    /// What a plan's `uses:` says, such as `pull`.
    pub name: String,
    /// The component, `<target_dir>/components/<name>.wasm`.
    pub path: PathBuf,
}

/// Builds every module of the workspace in `manifest_dir`: its members that are a `cdylib`. Sorted by name.
///
/// `target_dir` must not be the target directory of a cargo that waits for this call, since cargo locks it. It should
/// be the same each time, because Rust's standard library may be built into it.
///
/// # Errors
/// No toolchain, a compiler's error (with all it wrote), or a module that is not a valid component.
pub fn build(manifest_dir: &Path, target_dir: &Path) -> Result<Vec<BuiltComponent>> {
    let toolchain = find_toolchain()?;
    let modules = find_modules(&toolchain, manifest_dir)?;
    ensure!(!modules.is_empty(), "no member of {} is a cdylib", manifest_dir.display());
    compile(&toolchain, manifest_dir, target_dir)?;
    let folder = target_dir.join("components");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    modules
        .into_iter()
        .map(|module| {
            let core = target_dir.join(TARGET).join("release").join(module.file);
            let path = folder.join(format!("{}.wasm", module.name));
            componentize(&core, &path).with_context(|| format!("make a component of {}", core.display()))?;
            Ok(BuiltComponent { name: module.name, path })
        })
        .collect()
}

/// Makes cargo run the calling build script again when a file changes: this one, or one in this folder except build outputs.
///
/// # Errors
/// A folder that can't be read.
pub fn rerun_if_changed(path: &Path) -> Result<()> {
    if !path.is_dir() {
        println!("cargo::rerun-if-changed={}", path.display());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name != "target") {
            rerun_if_changed(&path)?;
        }
    }
    Ok(())
}

/// A member of the workspace that is a module.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GuestModule {
    /// The package's name without `pawl-`.
    name: String,
    /// The core module's file name.
    file: String,
}

fn find_modules(toolchain: &WasmToolchain, manifest_dir: &Path) -> Result<Vec<GuestModule>> {
    let mut cargo = toolchain.cargo(manifest_dir);
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    parse_modules(&serde_json::from_slice(&run(&mut cargo)?)?)
}

fn parse_modules(metadata: &Value) -> Result<Vec<GuestModule>> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut modules = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let targets = package["targets"].as_array().context("a package without targets")?;
        let is_cdylib =
            |target: &&Value| target["crate_types"].as_array().is_some_and(|t| t.contains(&"cdylib".into()));
        if let Some(target) = targets.iter().find(is_cdylib) {
            let file = target["name"].as_str().context("a target without a name")?.replace('-', "_") + ".wasm";
            modules.push(GuestModule { name: name.strip_prefix("pawl-").unwrap_or(name).to_owned(), file });
        }
    }
    modules.sort();
    Ok(modules)
}

fn compile(toolchain: &WasmToolchain, manifest_dir: &Path, target_dir: &Path) -> Result<()> {
    let mut cargo = toolchain.cargo(manifest_dir);
    cargo.args(["build", "--workspace", "--release", "--target", TARGET, "--target-dir"]).arg(target_dir);
    cargo.args(toolchain.build_flags());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", toolchain.rustc_flags(manifest_dir, target_dir).join("\u{1f}"));
    run(&mut cargo).map(drop)
}

/// Makes the component `path`. A core module that it was made of before is kept beside it, and not worked on again.
fn componentize(core: &Path, path: &Path) -> Result<()> {
    let (module, seen) = (fs::read(core)?, path.with_extension("core"));
    if path.exists() && fs::read(&seen).is_ok_and(|old| old == module) {
        return Ok(());
    }
    let small = shrink::optimize_module(core, &path.with_extension("small"))?;
    let component = ComponentEncoder::default().validate(true).module(small.as_deref().unwrap_or(&module))?.encode()?;
    write_if_changed(path, &component)?;
    // What could not be made smaller is tried again: the tool may come later.
    if small.is_some() { write_if_changed(&seen, &module) } else { Ok(()) }
}

/// Leaves the file's time alone when nothing changed, so that what depends on it is not built again.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let partial = path.with_extension(format!("{}.partial", process::id()));
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)?;
    Ok(())
}

/// Quiet when it succeeds; all of its stderr when not.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_the_cdylib_members_by_name() {
        let metadata = serde_json::json!({ "packages": [
            { "name": "pawl-step", "targets": [{ "name": "pawl_step", "crate_types": ["lib"] }] },
            { "name": "pawl-dry-run", "targets": [{ "name": "pawl-dry-run", "crate_types": ["cdylib", "rlib"] }] },
            { "name": "custom", "targets": [
                { "name": "t", "crate_types": ["bin"] },
                { "name": "custom_step", "crate_types": ["cdylib"] },
            ] },
        ] });
        let module = |name: &str, file: &str| GuestModule { name: name.to_owned(), file: file.to_owned() };
        let expected = vec![module("custom", "custom_step.wasm"), module("dry-run", "pawl_dry_run.wasm")];
        assert_eq!(parse_modules(&metadata).unwrap(), expected);
    }

    #[test]
    fn write_if_changed_preserves_mtime_of_identical_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        write_if_changed(&path, b"one").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        write_if_changed(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), std::time::UNIX_EPOCH);
        write_if_changed(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
    }

    #[test]
    fn a_failed_command_shows_its_whole_stderr() {
        let error = run(Command::new("sh").args(["-c", "echo first >&2; echo second >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("first\nsecond"), "{text}");
    }
}
