//! dnf and rpm: the commands.
//!
//! Invariant: each command is one that removes nothing but what a newer version of the same package replaces, and asks nobody.

use core::time::Duration;

use pawl_step::process::{Command, Completion};
use pawl_step::{Failure, FailureKind, log};

use crate::PackagesConfig;
use crate::dnf_symptoms;
use crate::manager::{self, AvailableVersion, PackageClient, would_remove};
use crate::package::{self, InstalledPackage, WantedPackage};
use crate::symptoms::{self, DOWNGRADE_HINT};

const DNF: &str = "/usr/bin/dnf";
const RPM: &str = "/usr/bin/rpm";
/// What rpm writes of an installed package. It has no other states: one that is not installed has no such line.
const FORMAT: &str = "%{NAME}\\tinstall\\tinstalled\\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\\n";
/// What it writes of all packages.
const ARCHITECTURES: &str = "%{NAME} %{ARCH}\\n";
/// What dnf writes of a package in the lists.
const AVAILABLE: &str = "%{name} %{evr}\\n";
/// Packages of which several versions stand side by side, as kernels do.
const SIDE_BY_SIDE: [&str; 2] = ["kernel", "gpg-pubkey"];

/// dnf, with the settings of a step.
#[derive(Debug)]
pub(crate) struct DnfClient<'c> {
    config: &'c PackagesConfig,
}

/// What dnf says that it would do.
#[derive(Debug, PartialEq, Eq)]
struct DnfSimulation {
    /// The packages that would be removed, or replaced by one of another name.
    removed: Vec<String>,
    /// Those that would get an older version.
    downgraded: Vec<String>,
}

impl<'c> DnfClient<'c> {
    pub(crate) fn new(config: &'c PackagesConfig) -> Self {
        Self { config }
    }

    /// What an installation would do.
    fn simulate(&self, wanted: &[WantedPackage]) -> Result<DnfSimulation, Failure> {
        let completion = self.when_unlocked(|_| self.dnf(&["--assumeno"]).args(self.install_arguments(wanted)))?;
        // It says no to itself, unless there is nothing to do.
        if completion.status != 0 && !dnf_symptoms::has_said_no(&completion) {
            return Err(cannot_install(wanted, &completion));
        }
        Ok(DnfSimulation::parse(&String::from_utf8_lossy(&completion.stdout)))
    }

    fn install_arguments(&self, wanted: &[WantedPackage]) -> Vec<String> {
        let weak = if self.config.recommends { "True" } else { "False" };
        let mut arguments = vec![format!("--setopt=install_weak_deps={weak}"), "install".to_owned()];
        arguments.extend(wanted.iter().map(|package| match &package.version {
            Some(version) => format!("{}-{version}", package.name),
            None => package.name.clone(),
        }));
        arguments
    }

    /// dnf, which fails if another program has its lock, and does not wait without end.
    fn dnf(&self, arguments: &[&str]) -> Command {
        Command::new(DNF).args(["--setopt=exit_on_lock=True"].into_iter().chain(arguments.iter().copied()))
    }

    /// All packages that are there: `NAME ARCHITECTURE`, line by line.
    fn all_packages() -> Result<String, Failure> {
        let completion = Command::new(RPM).args(["--query", "--all", "--queryformat", ARCHITECTURES]).run()?;
        if completion.status != 0 {
            return Err(dnf_symptoms::failure("can't read which packages are installed", &completion));
        }
        Ok(String::from_utf8_lossy(&completion.stdout).into_owned())
    }

    fn when_unlocked(&self, command: impl Fn(Duration) -> Command) -> Result<Completion, Failure> {
        manager::when_unlocked(self.config.lock_timeout, dnf_symptoms::is_locked, command)
    }
}

impl PackageClient for DnfClient<'_> {
    fn name(&self) -> &'static str {
        "dnf"
    }

    fn finishing_command(&self) -> &'static str {
        "dnf reinstall"
    }

    fn installed(&self, wanted: &[WantedPackage]) -> Result<Vec<InstalledPackage>, Failure> {
        let names = wanted.iter().map(|package| package.name.as_str());
        let completion = Command::new(RPM).args(["--query", "--queryformat", FORMAT].into_iter().chain(names)).run()?;
        // The exit status counts the packages that are not installed.
        let text = String::from_utf8_lossy(&completion.stdout);
        if completion.status != 0 && !text.contains(" is not installed") {
            return Err(dnf_symptoms::failure("can't read which packages are installed", &completion));
        }
        Ok(package::parse_installed(&without_epoch_zero(&text)))
    }

    /// rpm does not record that a package's script was interrupted, but dnf records each transaction, and when it ended. An upgrade that was
    /// killed also leaves the old version beside the new one.
    fn unfinished(&self) -> Result<Vec<String>, Failure> {
        // It fails if there was no transaction yet.
        let history = self.dnf(&["history", "info", "last"]).run()?;
        let mut begun = interrupted_packages(&String::from_utf8_lossy(&history.stdout));
        let there = Self::all_packages()?;
        begun.extend(duplicates(&there));
        begun.sort_unstable();
        begun.dedup();
        begun.retain(|name| there.lines().any(|line| name_of(line) == name));
        Ok(begun)
    }

    fn finish_interrupted(&self, unfinished: &[String]) -> Result<(), Failure> {
        let reinstall = ["reinstall"].into_iter().chain(unfinished.iter().map(String::as_str)).collect();
        let mut commands = vec![reinstall];
        if !duplicates(&Self::all_packages()?).is_empty() {
            commands.insert(0, vec!["remove", "--duplicates"]);
        }
        for arguments in commands {
            let completion =
                self.when_unlocked(|_| self.dnf(&["--assumeyes"]).args(arguments.iter().copied()).logged())?;
            if completion.status != 0 {
                manager::not_finished(dnf_symptoms::failure("can't finish the earlier installation", &completion))?;
            }
        }
        Ok(())
    }

    fn update(&self) -> Result<(), Failure> {
        let completion = self.when_unlocked(|_| self.dnf(&["makecache", "--refresh"]).logged())?;
        if completion.status == 0 {
            Ok(())
        } else {
            Err(dnf_symptoms::failure("can't fetch the package lists", &completion))
        }
    }

    fn available(&self, missing: &[&WantedPackage]) -> Result<Vec<AvailableVersion>, Failure> {
        let query = ["--quiet", "repoquery", "--showduplicates", "--queryformat", AVAILABLE];
        let names = missing.iter().map(|package| package.name.as_str());
        let completion = self.when_unlocked(|_| self.dnf(&query).args(names.clone()))?;
        if completion.status != 0 {
            return Err(dnf_symptoms::failure("can't read the package lists", &completion));
        }
        Ok(parse_available(&String::from_utf8_lossy(&completion.stdout)))
    }

    fn check_installation(&self, wanted: &[WantedPackage], installed: &[InstalledPackage]) -> Result<(), Failure> {
        let simulation = self.simulate(&package::as_installed(wanted, installed))?;
        if !simulation.removed.is_empty() {
            return Err(would_remove(wanted, &simulation.removed));
        }
        if simulation.downgraded.is_empty() || self.config.downgrade {
            return Ok(());
        }
        let (texts, downgraded) = (package::texts(wanted), simulation.downgraded.join(", "));
        let message = format!("can't install {texts}: a newer version is installed; older would become: {downgraded}");
        Err(Failure::conflict(message).hint(DOWNGRADE_HINT))
    }

    fn check_root(&self, wanted: &[WantedPackage]) -> Result<(), Failure> {
        match self.simulate(wanted) {
            Err(failure) if failure.kind == FailureKind::Denied => Err(failure),
            // The rest is seen when the lists are there.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn install(&self, wanted: &[WantedPackage], installed: &[InstalledPackage]) -> Result<(), Failure> {
        let wanted = package::as_installed(wanted, installed);
        let arguments = self.install_arguments(&wanted);
        let completion = self.when_unlocked(|_| self.dnf(&["--assumeyes"]).args(arguments.iter().cloned()).logged())?;
        if completion.status != 0 {
            return Err(cannot_install(&wanted, &completion));
        }
        // rpm takes a package for installed, whatever becomes of the script after it.
        for line in symptoms::lines_of(&completion).into_iter().filter(|line| line.contains("scriptlet failed")) {
            log::warn(line);
        }
        Ok(())
    }
}

fn cannot_install(wanted: &[WantedPackage], completion: &Completion) -> Failure {
    dnf_symptoms::failure(&format!("can't install {}", package::texts(wanted)), completion)
}

impl DnfSimulation {
    /// Reads the table of a transaction: headings at the beginning of a line, packages after one blank, and what a package replaces after
    /// several.
    fn parse(text: &str) -> Self {
        let mut simulation = Self { removed: Vec::new(), downgraded: Vec::new() };
        let mut heading = "";
        for line in text.lines() {
            if let Some(replaced) = line.trim_start().strip_prefix("replacing ") {
                simulation.removed.push(replaced.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
            } else if line.starts_with(' ') && !line.starts_with("  ") {
                let package = || {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    [words.first(), words.get(2)].into_iter().flatten().copied().collect::<Vec<_>>().join(" ")
                };
                if heading.starts_with("Removing") {
                    simulation.removed.push(package());
                } else if heading.starts_with("Downgrading") {
                    simulation.downgraded.push(package());
                }
            } else if !line.starts_with(' ') {
                heading = line;
            }
        }
        simulation
    }
}

/// The versions as the lists write them, where an epoch of 0 is left out.
fn without_epoch_zero(text: &str) -> String {
    text.replace("\t0:", "\t")
}

/// Reads the lines `NAME VERSION` of the lists.
fn parse_available(text: &str) -> Vec<AvailableVersion> {
    let parse = |line: &str| {
        let (name, version) = line.split_once(' ')?;
        let version = version.strip_prefix("0:").unwrap_or(version);
        Some(AvailableVersion { name: name.to_owned(), version: version.to_owned() })
    };
    let mut versions: Vec<_> = text.lines().filter_map(parse).collect();
    // As apt has them: the newest one first.
    versions.reverse();
    versions
}

/// The name in a line `NAME ARCHITECTURE`.
fn name_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or(line)
}

/// The packages that are there in two versions, of the lines `NAME ARCHITECTURE`.
fn duplicates(text: &str) -> Vec<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let twice = lines.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| name_of(pair[0]));
    let mut names: Vec<String> = twice.map(str::to_owned).collect();
    names.dedup();
    names.retain(|name| !SIDE_BY_SIDE.iter().any(|kept| name.starts_with(kept)));
    names
}

/// The packages of a transaction that has no end, of what `dnf history info` writes. Its end is then at the beginning of all time, a
/// negative number of seconds after its beginning.
fn interrupted_packages(text: &str) -> Vec<String> {
    let is_without_end = text.lines().any(|line| line.starts_with("End time ") && line.contains("(-"));
    if !is_without_end {
        return Vec::new();
    }
    let altered = text.lines().skip_while(|line| *line != "Packages Altered:").skip(1);
    let name = |line: &str| {
        let package = line.split_whitespace().skip_while(|word| *word == "**").nth(1)?;
        Some(package.rsplitn(3, '-').nth(2)?.to_owned())
    };
    altered.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dnf_would_do_is_read_from_its_table() {
        let text = "Dependencies resolved.\n==========\n Package  Architecture  Version  Repository  Size\n==========\n\
                    Installing:\n c  noarch  1.0-1  r  6.0 k\n     replacing  a.noarch 2.0-1\nDowngrading:\n lib  noarch  1:1.0-1  r  5.9 k\n\
                    Removing dependent packages:\n old-plugin  noarch  3-1  @r  1 k\n\nTransaction Summary\n==========\nInstall  1 Package\n";
        let simulation = DnfSimulation::parse(text);
        assert_eq!(simulation.removed, ["a.noarch 2.0-1", "old-plugin 3-1"]);
        assert_eq!(simulation.downgraded, ["lib 1:1.0-1"]);
    }

    #[test]
    fn versions_are_read_without_an_epoch_of_zero() {
        let found: Vec<String> = parse_available("a 0:1.0-1\n\na 1:2.0-1\n")
            .into_iter()
            .map(|found| format!("{}={}", found.name, found.version))
            .collect();
        assert_eq!(found, ["a=1:2.0-1", "a=1.0-1"]);
        assert_eq!(without_epoch_zero("a\tinstall\tinstalled\t0:1.0-1\n"), "a\tinstall\tinstalled\t1.0-1\n");
    }

    #[test]
    fn two_versions_of_a_package_are_an_upgrade_that_was_killed() {
        let text = "a noarch\nb x86_64\na noarch\nb i686\nkernel-core x86_64\nkernel-core x86_64\n";
        assert_eq!(duplicates(text), ["a"]);
    }

    #[test]
    fn transaction_without_an_end_was_interrupted() {
        let text = "Transaction ID : 1\nEnd time       : Wed Dec 31 19:00:00 1969 (-1796119815 seconds)\nReturn-Code    : Failure: 1\n\
                    Packages Altered:\n ** Install shop-base-1.0-1.noarch @r\n ** Upgrade g-1:1.0-1.noarch    @r\n";
        assert_eq!(interrupted_packages(text), ["shop-base", "g"]);
        let ended = text.replace("Dec 31 19:00:00 1969 (-1796119815 seconds)", "Dec  1 10:10:15 2026 (3 seconds)");
        assert_eq!(interrupted_packages(&ended), Vec::<String>::new());
    }
}
