//! apt and dpkg: the commands.
//!
//! Invariant: each command is one that removes nothing and asks nobody.

use core::time::Duration;

use pawl_step::process::{Command, Completion};
use pawl_step::{Failure, log};

use crate::PackagesConfig;
use crate::apt_symptoms;
use crate::manager::{self, AvailableVersion, PackageClient, without_root, would_remove};
use crate::package::{self, InstalledPackage, WantedPackage};
use crate::simulation::{self, AptSimulation};
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

/// apt, with the settings of a step.
#[derive(Debug)]
pub(crate) struct AptClient<'c> {
    config: &'c PackagesConfig,
}

impl<'c> AptClient<'c> {
    pub(crate) fn new(config: &'c PackagesConfig) -> Self {
        Self { config }
    }

    /// What an installation would do, by the package lists that there are.
    fn simulate(&self, wanted: &[WantedPackage]) -> Result<AptSimulation, Failure> {
        let completion = self.apt_get(&["--simulate"]).args(self.install_arguments(wanted)).run()?;
        if completion.status != 0 {
            return Err(self.cannot_install(wanted, &completion));
        }
        let simulation = AptSimulation::parse(&String::from_utf8_lossy(&completion.stdout));
        if simulation.is_without_root {
            return Err(without_root());
        }
        Ok(simulation)
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
        if completion.status != 0 && apt_symptoms::is_interrupted(&completion) {
            self.configure_all()?;
            completion = self.when_unlocked(install)?;
        }
        if completion.status == 0 { Ok(()) } else { Err(self.cannot_install(wanted, &completion)) }
    }

    fn configure_all(&self) -> Result<(), Failure> {
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
        manager::not_finished(apt_symptoms::failure("can't finish the earlier installation", &completion))
    }

    fn cannot_install(&self, wanted: &[WantedPackage], completion: &Completion) -> Failure {
        apt_symptoms::failure(&format!("can't install {}", package::texts(wanted)), completion)
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

    fn when_unlocked(&self, command: impl Fn(Duration) -> Command) -> Result<Completion, Failure> {
        manager::when_unlocked(self.config.lock_timeout, apt_symptoms::is_locked, command)
    }
}

impl PackageClient for AptClient<'_> {
    fn name(&self) -> &'static str {
        "apt-get"
    }

    fn finishing_command(&self) -> &'static str {
        "dpkg --configure -a"
    }

    fn installed(&self, wanted: &[WantedPackage]) -> Result<Vec<InstalledPackage>, Failure> {
        let names = wanted.iter().map(|package| package.name.as_str());
        let arguments = ["--show", "--showformat", FORMAT, "--"].into_iter().chain(names);
        let completion = Command::new(DPKG_QUERY).args(arguments).run()?;
        if completion.status != 0 && completion.status != NOT_ALL_FOUND {
            return Err(apt_symptoms::failure("can't read which packages are installed", &completion));
        }
        Ok(package::parse_installed(&String::from_utf8_lossy(&completion.stdout)))
    }

    fn unfinished(&self) -> Result<Vec<String>, Failure> {
        let completion = Command::new(DPKG_QUERY).args(["--show", "--showformat", STATES]).run()?;
        if completion.status != 0 && completion.status != NOT_ALL_FOUND {
            return Err(apt_symptoms::failure("can't read which packages are installed", &completion));
        }
        Ok(package::parse_unfinished(&String::from_utf8_lossy(&completion.stdout)))
    }

    fn finish_interrupted(&self, _unfinished: &[String]) -> Result<(), Failure> {
        self.configure_all()
    }

    fn update(&self) -> Result<(), Failure> {
        let completion =
            self.when_unlocked(|_| self.apt_get(&["--option", "APT::Update::Error-Mode=any", "update"]).logged())?;
        if completion.status == 0 {
            Ok(())
        } else {
            Err(apt_symptoms::failure("can't fetch the package lists", &completion))
        }
    }

    fn available(&self, missing: &[&WantedPackage]) -> Result<Vec<AvailableVersion>, Failure> {
        let names = missing.iter().map(|package| package.name.as_str());
        let completion = Command::new(APT_CACHE).args(["madison", "--"].into_iter().chain(names)).run()?;
        if completion.status != 0 {
            return Err(apt_symptoms::failure("can't read the package lists", &completion));
        }
        Ok(simulation::parse_madison(&String::from_utf8_lossy(&completion.stdout)))
    }

    fn check_installation(&self, wanted: &[WantedPackage], installed: &[InstalledPackage]) -> Result<(), Failure> {
        let missing = package::missing(wanted, installed);
        if let Some(held) = missing.iter().find(|package| package.is_held(installed)) {
            let name = &held.name;
            return Err(Failure::conflict(format!("{name} is on hold: {}", held.status(installed).describe(held)))
                .hint(format!("`apt-mark unhold {name}` on the machine, or name the version that it has")));
        }
        let simulation = self.simulate(&package::as_installed(wanted, installed))?;
        if simulation.removed.is_empty() { Ok(()) } else { Err(would_remove(wanted, &simulation.removed)) }
    }

    fn check_root(&self, wanted: &[WantedPackage]) -> Result<(), Failure> {
        self.simulate(&[])
            .map(drop)
            .map_err(|failure| failure.context(format!("can't install {}", package::texts(wanted))))
    }

    fn install(&self, wanted: &[WantedPackage], installed: &[InstalledPackage]) -> Result<(), Failure> {
        let missing = package::missing(wanted, installed).into_iter();
        let half: Vec<_> = missing.filter(|package| package.is_half_installed(installed)).cloned().collect();
        if !half.is_empty() {
            // Without being told, apt-get takes them for installed.
            self.install_with(&["--reinstall"], &half)?;
        }
        // Those that are there are named, too, so that they stay as they are.
        self.install_with(&[], &package::as_installed(wanted, installed))
    }
}
