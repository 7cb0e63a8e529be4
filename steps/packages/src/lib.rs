//! Installs packages of the machine's own package manager in the versions that the plan names.
//!
//! Invariant: nothing is ever removed. What would be removed, downgraded or held back is refused before anything is changed.
//!
//! Deliberately absent: removing packages, adding repositories, and going back to former versions: a rollback leaves the packages as they
//! are. Without a version of its own, a package is installed once and then left to the machine's updates.

mod apt;
mod apt_symptoms;
mod dnf;
mod dnf_symptoms;
mod manager;
mod package;
mod simulation;
mod symptoms;

use core::time::Duration;

use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, Failure, Finding, Input, ModuleDescription, Phase, ProbeSupport,
    Receipt, RerunSafety, Step, log, time,
};
use serde::Deserialize;
use serde_json::Value;

use apt::AptClient;
use dnf::DnfClient;
use manager::PackageClient;
use package::{InstalledPackage, PackageStatus, WantedPackage};

/// The module `packages`.
#[derive(Debug)]
pub struct PackagesStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PackagesConfig {
    /// The package manager.
    #[serde(default)]
    pub manager: PackageManager,
    /// The packages, `NAME=VERSION`.
    pub install: Vec<String>,
    /// Whether a package may have no version.
    #[serde(default)]
    pub any_version: bool,
    /// Whether the package lists are fetched first.
    #[serde(default)]
    pub update: bool,
    /// Whether an older version may replace a newer one.
    #[serde(default)]
    pub downgrade: bool,
    /// Whether recommended packages are installed, too.
    #[serde(default = "yes")]
    pub recommends: bool,
    /// How long another program's lock is waited for.
    #[serde(default = "sixty_seconds", deserialize_with = "time::duration")]
    pub lock_timeout: Duration,
}

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageManager {
    /// That of Debian and Ubuntu.
    #[default]
    Apt,
    /// That of Fedora, RHEL and its relatives.
    Dnf,
}

impl PackagesConfig {
    fn client(&self) -> Box<dyn PackageClient + '_> {
        match self.manager {
            PackageManager::Apt => Box::new(AptClient::new(self)),
            PackageManager::Dnf => Box::new(DnfClient::new(self)),
        }
    }
}

fn yes() -> bool {
    true
}

fn sixty_seconds() -> Duration {
    Duration::from_secs(60)
}

impl Step for PackagesStep {
    type Config = PackagesConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: vec![CapabilityNeed {
                capability: Capability::Programs,
                config: None,
                reason: "is the package manager",
            }],
            phase: Phase::Commit,
            rehearses: true,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            outputs: Some(&["packages"]),
            ..ModuleDescription::new(
                "packages",
                env!("CARGO_PKG_VERSION"),
                "installs packages of the machine's package manager in given versions",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<PackagesConfig>) -> Result<Vec<Change>, Failure> {
        WantedPackage::parse_all(&input.config)?;
        // A preview runs no program, so it can't tell what is there.
        let command = format!("{} install {}", input.config.client().name(), input.config.install.join(" "));
        Ok(vec![Change::new(ChangeAction::Run, command, "only what is missing; a rollback does not undo it")])
    }

    fn rehearse(input: &Input<PackagesConfig>) -> Result<(), Failure> {
        let wanted = WantedPackage::parse_all(&input.config)?;
        let client = input.config.client();
        let installed = client.installed(&wanted)?;
        let missing = package::missing(&wanted, &installed);
        let unfinished = client.unfinished()?;
        if missing.is_empty() {
            return if unfinished.is_empty() { Ok(()) } else { client.check_root(&wanted) };
        }
        if !unfinished.is_empty() {
            let first = client.finishing_command();
            log::warn(format!("{}; the step runs `{first}` first", not_finished(&unfinished)));
        }
        let unknown = manager::unknown_versions(&*client, &missing, input.config.update)?;
        if let (Some(first), true) = (unknown.first(), input.config.update) {
            log::warn(format!("{}; the step fetches the lists first, so this can't be rehearsed", first.message));
            return client.check_root(&wanted);
        }
        manager::check(&*client, &wanted, &installed, unknown)
    }

    fn apply(input: &Input<PackagesConfig>) -> Result<Receipt, Failure> {
        let wanted = WantedPackage::parse_all(&input.config)?;
        let client = input.config.client();
        let (before, unfinished) = (client.installed(&wanted)?, client.unfinished()?);
        if unfinished.is_empty() && package::missing(&wanted, &before).is_empty() {
            log::info("all packages are installed");
            return Ok(receipt(input).note("ran", false));
        }
        if !unfinished.is_empty() {
            log::warn(format!("{}; running `{}` first", not_finished(&unfinished), client.finishing_command()));
            client.finish_interrupted(&unfinished)?;
        }
        install(&*client, &wanted, input.config.update)?;
        let after = client.installed(&wanted)?;
        match package::missing(&wanted, &after).first() {
            None => Ok(receipt(input).note("changed", package::changes(&wanted, &before, &after))),
            Some(missing) => {
                let status = missing.status(&after).describe(missing);
                let (name, text) = (client.name(), missing.text());
                let message = format!("{name} did not install {text}, and gave no error: {status}");
                Err(Failure::permanent(message).hint("read its output with `runner logs`"))
            }
        }
    }

    fn probe(input: &Input<PackagesConfig>) -> Result<Finding, Failure> {
        let wanted = WantedPackage::parse_all(&input.config)?;
        let client = input.config.client();
        Ok(match found(&wanted, &client.installed(&wanted)?) {
            // What a killed call has begun includes packages that these need.
            FoundPackages::All if client.unfinished()?.is_empty() => Finding::Held(receipt(input)),
            FoundPackages::All | FoundPackages::Some => Finding::Absent,
            FoundPackages::Others(others) => Finding::Drifted(others),
        })
    }
}

/// Installs what is missing, if nothing speaks against it.
fn install(client: &dyn PackageClient, wanted: &[WantedPackage], update: bool) -> Result<(), Failure> {
    let installed = client.installed(wanted)?;
    let missing = package::missing(wanted, &installed);
    if missing.is_empty() {
        return Ok(());
    }
    if update {
        client.update()?;
    }
    let unknown = manager::unknown_versions(client, &missing, update)?;
    manager::check(client, wanted, &installed, unknown)?;
    client.install(wanted, &installed)
}

/// Their installation was interrupted, or goes on right now.
fn not_finished(unfinished: &[String]) -> String {
    format!("not fully installed: {}", unfinished.join(", "))
}

/// How what is installed compares with what is wanted.
#[derive(Debug, PartialEq, Eq)]
enum FoundPackages {
    /// All are there.
    All,
    /// At least one is not there, and those that are there have the right version.
    Some,
    /// Some have another version; the text says which.
    Others(String),
}

fn found(wanted: &[WantedPackage], installed: &[InstalledPackage]) -> FoundPackages {
    let states: Vec<_> = wanted.iter().map(|package| (package, package.status(installed))).collect();
    let others: Vec<String> = states
        .iter()
        .filter(|(_, status)| matches!(status, PackageStatus::OtherVersion(_)))
        .map(|(package, status)| status.describe(package))
        .collect();
    if !others.is_empty() {
        return FoundPackages::Others(others.join(", "));
    }
    let is_complete = states.iter().all(|(_, status)| *status == PackageStatus::Good);
    if is_complete { FoundPackages::All } else { FoundPackages::Some }
}

fn receipt(input: &Input<PackagesConfig>) -> Receipt {
    let packages: Vec<Value> = input.config.install.iter().map(|text| text.as_str().into()).collect();
    Receipt::new().output("packages", packages)
}

pawl_step::export!(PackagesStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::{self, assert_described};
    use serde_json::json;

    fn config(config: Value) -> PackagesConfig {
        PackagesConfig::deserialize(config).unwrap()
    }

    fn installed(lines: &str) -> Vec<InstalledPackage> {
        package::parse_installed(&lines.replace(' ', "\t"))
    }

    #[test]
    fn packages_description_is_valid() {
        assert_described::<PackagesStep>();
    }

    #[test]
    fn the_schema_states_the_defaults() {
        let config = config(json!({ "install": ["nginx=1.22"] }));
        let properties = &PackagesStep::describe().to_json()["config"]["properties"];
        let default = |name: &str| properties[name]["default"].clone();
        assert_eq!(default("manager"), json!("apt"));
        assert_eq!((default("lock-timeout"), config.lock_timeout), (json!("60s"), sixty_seconds()));
        let of_config = [config.any_version, config.update, config.downgrade, config.recommends];
        assert_eq!(["any-version", "update", "downgrade", "recommends"].map(default), of_config.map(Value::from));
    }

    #[test]
    fn preview_says_that_a_rollback_leaves_the_packages() {
        let input = testing::input("packages", config(json!({ "install": ["nginx=1.22", "shop=2.0"] })));
        let changes = PackagesStep::preview(&input).unwrap();
        assert_eq!((changes.len(), changes[0].subject.as_str()), (1, "apt-get install nginx=1.22 shop=2.0"));
        assert!(changes[0].detail.contains("a rollback does not undo it"));
        let input = testing::input("packages", config(json!({ "install": ["nginx"] })));
        let refused = PackagesStep::preview(&input).unwrap_err();
        assert!(refused.message.contains("`nginx` has no version"), "{}", refused.message);
    }

    #[test]
    fn another_version_is_drift_and_a_missing_package_is_absent() {
        let wanted = WantedPackage::parse_all(&config(json!({ "install": ["a=1.0", "b=2.0"] }))).unwrap();
        let found = |lines: &str| found(&wanted, &installed(lines));
        assert_eq!(found("a install installed 1.0\nb install installed 2.0\n"), FoundPackages::All);
        assert_eq!(found("a install installed 1.0\n"), FoundPackages::Some);
        assert_eq!(found("a install installed 1.0\nb deinstall config-files 2.0\n"), FoundPackages::Some);
        assert_eq!(found("a install installed 1.0\nb install half-configured 2.0\n"), FoundPackages::Some);
        let others = FoundPackages::Others("b is installed in version 1.0, not 2.0".to_owned());
        assert_eq!(found("b install installed 1.0\n"), others);
    }
}
