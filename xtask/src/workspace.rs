//! Where things are, and how the programs around the workspace are started.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The workspaces of guests, apart from the host's since they are built for wasm.
pub(crate) const GUESTS: [&str; 1] = ["steps"];

/// The folder of the root Cargo.toml, as `cargo run` says it now. A build that is shared between checkouts may have been made
/// in another one.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of xtask to pass it on")]
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let package =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        package.parent().expect("the package lies in the workspace").to_owned()
    })
}

/// Cargo's target directory: CARGO_TARGET_DIR and cargo's configuration are honoured.
pub(crate) fn target_dir() -> Result<PathBuf> {
    Ok(metadata()?["target_directory"].as_str().context("cargo metadata names no target directory")?.into())
}

/// What cargo knows of the host's workspace, without the crates from outside.
pub(crate) fn metadata() -> Result<Value> {
    Ok(serde_json::from_str(&output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?)?)
}

/// The target directory for the guests' tests, which run on this machine and not in wasm.
pub(crate) fn native_guests_dir() -> Result<PathBuf> {
    Ok(target_dir()?.join("steps-native"))
}

/// The built `runner`, release profile.
pub(crate) fn build_runner() -> Result<PathBuf> {
    let binary = target_dir()?.join(RUNNER);
    announce("the runner (release)", FIRST_BUILD, &binary);
    // The whole workspace decides on the features, as it does for the tests: so the tests don't build the dependencies again.
    run(cargo().args(["build", "--release", "--workspace", "--bin", "runner"]))?;
    Ok(binary)
}

/// An example of the runner's, built like the runner.
pub(crate) fn build_example(name: &str) -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "--quiet", "--workspace", "--example", name]))?;
    Ok(target_dir()?.join("release/examples").join(name))
}

/// In the target directory.
pub(crate) const RUNNER: &str = "release/runner";

/// What a first build of the runner takes, in minutes of one core.
pub(crate) const FIRST_BUILD: usize = 24;

/// Says in one line what is built, and how long that takes when nothing was built yet.
pub(crate) fn announce(what: &str, core_minutes: usize, built: &Path) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{}", announcement(what, core_minutes, cores, built.exists()));
}

fn announcement(what: &str, core_minutes: usize, cores: usize, is_built: bool) -> String {
    // The longest chain of crates takes some minutes on any number of cores.
    let minutes = core_minutes.div_ceil(cores).max(FASTEST);
    if is_built {
        format!("building {what}")
    } else {
        format!("building {what}: about {minutes} minutes the first time, seconds after")
    }
}

const FASTEST: usize = 3;

/// A cargo in the root. What `cargo run` set for this process is taken out, or build scripts that watch those variables
/// would run again each time.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    for (name, _) in env::vars_os() {
        let set_by_cargo_run = name.to_str().is_some_and(|name| {
            name == "CARGO" || ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|p| name.starts_with(p))
        });
        if set_by_cargo_run {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(root());
    cargo
}

/// Where the PATH has a program.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of xtask to pass the PATH on")]
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Runs a program with our terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", command_line(command)))?;
    ensure!(status.success(), "`{}`: {status}", command_line(command));
    Ok(())
}

/// Runs a program quietly, for its stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {}", command_line(command)))?;
    ensure!(
        output.status.success(),
        "`{}`: {}\n{}",
        command_line(command),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A command as one would type it, for messages.
pub(crate) fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::announcement;

    #[test]
    fn only_a_first_build_is_said_to_take_long() {
        let first = |cores| announcement("the runner (release)", 20, cores, false);
        assert_eq!(first(2), "building the runner (release): about 10 minutes the first time, seconds after");
        assert_eq!(first(64), "building the runner (release): about 3 minutes the first time, seconds after");
        assert_eq!(announcement("the runner (release)", 20, 2, true), "building the runner (release)");
    }
}
