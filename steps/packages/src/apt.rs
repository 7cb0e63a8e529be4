//! apt and dpkg: the commands.
//!
//! Invariant: each command is one that removes nothing and asks nobody.

use core::time::Duration;

use pawl_step::process::{Command, Completion};
use pawl_step::{Failure, log, time};

use crate::PackagesConfig;
use crate::package::{self, InstalledPackage, WantedPackage};
use crate::simulation::{AptSimulation, AvailableVersion};
use crate::symptoms;

const APT_GET: &str = "/usr/bin/apt-get";
const APT_CACHE: &str = "/usr/bin/apt-cache";
const DPKG: &str = "/usr/bin/dpkg";
const DPKG_QUERY: &str = "/usr/bin/dpkg-query";
/// What dpkg-query writes of a package.
const FORMAT: &str = "${Package}\\t${db:Status-Want}\\t${db:Status-Status}\\t${Version}\\n";
/// What it writes of all packages: three letters, such as `ii `, and the name.
const STATES: &str = "${db:Status-Abbrev}${Package}\\n";
/// A configuration file that somebody has edited stays; of one that nobody has, the new one is taken.
const KEEP_FILES: [&str; 2] = ["--force-confdef", "--force-confold"];
/// Packages ask no questions.
const FRONTEND: (&str, &str) = ("DEBIAN_FRONTEND", "noninteractive");
/// The exit status of dpkg-query when it does not know one of the packages.
const NOT_ALL_FOUND: i32 = 1;
/// The wait between two tries to get a lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// apt, with the settings of a step.
#[derive(Debug)]
pub(crate) struct AptClient<'c> {
    config: &'c PackagesConfig,
}

impl<'c> AptClient<'c> {
    pub(crate) fn new(config: &'c PackagesConfig) -> Self {
        Self { config }
    }

    /// What dpkg knows of the packages.
    pub(crate) fn installed(&self, wanted: &[WantedPackage]) -> Result<Vec<InstalledPackage>, Failure> {
        let names = wanted.iter().map(|package| package.name.as_str());
        let arguments = ["--show", "--showformat", FORMAT, "--"].into_iter().chain(names);
        let completion = Command::new(DPKG_QUERY).args(arguments).run()?;
        if completion.status != 0 && completion.status != NOT_ALL_FOUND {
            return Err(symptoms::failure("can't read which packages are installed", &completion));
        }
        Ok(package::parse_installed(&String::from_utf8_lossy(&completion.stdout)))
    }

    /// The packages of the machine that dpkg has begun to install or configure, and has not finished.
    pub(crate) fn unfinished(&self) -> Result<Vec<String>, Failure> {
        let completion = Command::new(DPKG_QUERY).args(["--show", "--showformat", STATES]).run()?;
        if completion.status != 0 && completion.status != NOT_ALL_FOUND {
            return Err(symptoms::failure("can't read which packages are installed", &completion));
        }
        Ok(package::parse_unfinished(&String::from_utf8_lossy(&completion.stdout)))
    }

    /// Finishes what was begun. A package whose script fails again is no reason to stop: another version of it may be wanted.
    pub(crate) fn finish_interrupted(&self) -> Result<(), Failure> {
        let completion = self.when_unlocked(|_| {
            let arguments = KEEP_FILES.into_iter().chain(["--configure", "-a"]);
            Command::new(DPKG).args(arguments).env(FRONTEND.0, FRONTEND.1)
        })?;
        for line in symptoms::lines_of(&completion) {
            log::info(line);
        }
        if completion.status == 0 {
            return Ok(());
        }
        let failure = symptoms::failure("can't finish the earlier installation", &completion);
        if failure.retryable {
            return Err(failure);
        }
        log::warn(failure.message);
        Ok(())
    }

    /// Fetches the package lists. A list that can't be fetched is a failure, since the old one stays in its place.
    pub(crate) fn update(&self) -> Result<(), Failure> {
        let completion =
            self.when_unlocked(|_| self.apt_get(&["--option", "APT::Update::Error-Mode=any", "update"]).logged())?;
        if completion.status == 0 {
            Ok(())
        } else {
            Err(symptoms::failure("can't fetch the package lists", &completion))
        }
    }

    /// The packages that no list has in the wanted version: a failure for each.
    pub(crate) fn unknown_versions(&self, missing: &[&WantedPackage]) -> Result<Vec<Failure>, Failure> {
        let names = missing.iter().map(|package| package.name.as_str());
        let completion = Command::new(APT_CACHE).args(["madison", "--"].into_iter().chain(names)).run()?;
        if completion.status != 0 {
            return Err(symptoms::failure("can't read the package lists", &completion));
        }
        let available = AvailableVersion::parse_all(&String::from_utf8_lossy(&completion.stdout));
        Ok(missing.iter().filter_map(|package| self.unknown(package, &available)).collect())
    }

    fn unknown(&self, package: &WantedPackage, available: &[AvailableVersion]) -> Option<Failure> {
        let mut versions: Vec<&str> =
            available.iter().filter(|found| found.name == package.name).map(|found| found.version.as_str()).collect();
        versions.dedup();
        let found = |wanted: &str| versions.contains(&wanted);
        if package.version.as_deref().map_or(!versions.is_empty(), found) {
            return None;
        }
        let hint = if self.config.update {
            "correct it, or add the repository that has it"
        } else {
            "correct it, or let the step fetch the package lists first: `update: true`"
        };
        let message = match (&package.version, versions.is_empty()) {
            (Some(version), false) => {
                format!("the package lists have no {} in version {version}, only {}", package.name, versions.join(", "))
            }
            (Some(_) | None, _) => format!("the package lists have no {}", package.name),
        };
        Some(Failure::not_found(message).hint(hint))
    }

    /// Refuses an installation that would fail, or remove something. It changes nothing.
    pub(crate) fn check(
        &self,
        wanted: &[WantedPackage],
        installed: &[InstalledPackage],
        unknown: Vec<Failure>,
    ) -> Result<(), Failure> {
        let mut unknown = unknown.into_iter();
        if let Some(first) = unknown.next() {
            let others: Vec<String> = unknown.map(|failure| failure.message).collect();
            let message = [vec![first.message.clone()], others].concat().join("; ");
            return Err(Failure { message, ..first });
        }
        let missing = package::missing(wanted, installed);
        if let Some(held) = missing.iter().find(|package| package.is_held(installed)) {
            let name = &held.name;
            return Err(Failure::conflict(format!("{name} is on hold: {}", held.status(installed).describe(held)))
                .hint(format!("`apt-mark unhold {name}` on the machine, or name the version that it has")));
        }
        let simulation = self.simulate(&as_installed(wanted, installed))?;
        if simulation.removed.is_empty() {
            return Ok(());
        }
        Err(Failure::conflict(format!("installing {} would remove {}", texts(wanted), simulation.removed.join(", ")))
            .hint("name versions that work with the installed packages, or remove those by hand: this step removes nothing"))
    }

    /// Refuses a user who may not install packages.
    pub(crate) fn check_root(&self, wanted: &[WantedPackage]) -> Result<(), Failure> {
        self.simulate(&[]).map(drop).map_err(|failure| failure.context(format!("can't install {}", texts(wanted))))
    }

    /// What an installation would do, by the package lists that there are.
    fn simulate(&self, wanted: &[WantedPackage]) -> Result<AptSimulation, Failure> {
        let completion = self.apt_get(&["--simulate"]).args(self.install_arguments(wanted)).run()?;
        if completion.status != 0 {
            return Err(self.cannot_install(wanted, &completion));
        }
        let simulation = AptSimulation::parse(&String::from_utf8_lossy(&completion.stdout));
        if simulation.is_without_root {
            return Err(Failure::denied("the runner's user is not root, and only root installs packages")
                .hint("run the runner as root; on hosts, that is `ssh: { sudo: true }` in the environment"));
        }
        Ok(simulation)
    }

    /// Installs the packages. Those that are there are named, too, so that they stay as they are.
    pub(crate) fn install(&self, wanted: &[WantedPackage], installed: &[InstalledPackage]) -> Result<(), Failure> {
        self.install_with(&[], &as_installed(wanted, installed))
    }

    /// Installs half-installed packages again. Without being told, apt-get takes them for installed.
    pub(crate) fn install_again(&self, half_installed: &[WantedPackage]) -> Result<(), Failure> {
        self.install_with(&["--reinstall"], half_installed)
    }

    fn install_with(&self, options: &[&str], wanted: &[WantedPackage]) -> Result<(), Failure> {
        let install = |left: Duration| {
            let timeout = format!("DPkg::Lock::Timeout={}", left.as_secs());
            let mut command = self.apt_get(&["--no-remove", "--option", &timeout]).args(options.iter().copied());
            // Without a terminal of its own, dpkg is ended with the runner, and does not go on beside the next attempt.
            command = command.args(["--option", "Dpkg::Use-Pty=0"]);
            for option in KEEP_FILES {
                command = command.args(["--option".to_owned(), format!("Dpkg::Options::={option}")]);
            }
            command.args(self.install_arguments(wanted)).logged()
        };
        let mut completion = self.when_unlocked(install)?;
        if completion.status != 0 && symptoms::is_interrupted(&completion) {
            self.finish_interrupted()?;
            completion = self.when_unlocked(install)?;
        }
        if completion.status == 0 { Ok(()) } else { Err(self.cannot_install(wanted, &completion)) }
    }

    fn cannot_install(&self, wanted: &[WantedPackage], completion: &Completion) -> Failure {
        symptoms::failure(&format!("can't install {}", texts(wanted)), completion)
    }

    fn install_arguments(&self, wanted: &[WantedPackage]) -> Vec<String> {
        let mut arguments = vec!["install".to_owned()];
        if !self.config.recommends {
            arguments.push("--no-install-recommends".to_owned());
        }
        if self.config.downgrade {
            arguments.push("--allow-downgrades".to_owned());
        }
        arguments.push("--".to_owned());
        arguments.extend(wanted.iter().map(WantedPackage::text));
        arguments
    }

    fn apt_get(&self, arguments: &[&str]) -> Command {
        let first = ["--yes", "--quiet"].into_iter().chain(arguments.iter().copied());
        Command::new(APT_GET).args(first).env(FRONTEND.0, FRONTEND.1)
    }

    /// Runs a command again while another program has a lock, and passes what is left of the time.
    fn when_unlocked(&self, command: impl Fn(Duration) -> Command) -> Result<Completion, Failure> {
        let began = time::monotonic();
        let mut was_locked = false;
        loop {
            let left = self.config.lock_timeout.saturating_sub(time::monotonic().saturating_sub(began));
            let completion = command(left).run()?;
            if completion.status == 0 || left.is_zero() || !symptoms::is_locked(&completion) {
                return Ok(completion);
            }
            if !was_locked {
                log::warn("another program is installing packages: waiting until it has ended");
                was_locked = true;
            }
            time::sleep(LOCK_WAIT.min(left));
        }
    }
}

/// What apt is told, so that packages of any version stay at theirs.
fn as_installed(wanted: &[WantedPackage], installed: &[InstalledPackage]) -> Vec<WantedPackage> {
    wanted.iter().map(|package| package.as_installed(installed)).collect()
}

fn texts(wanted: &[WantedPackage]) -> String {
    wanted.iter().map(WantedPackage::text).collect::<Vec<_>>().join(" ")
}
