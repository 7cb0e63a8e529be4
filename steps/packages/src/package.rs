//! Packages: the wanted ones, and what dpkg says of them.

use pawl_step::Failure;
use serde_json::Value;

use crate::PackagesConfig;

/// A package that the plan names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedPackage {
    pub(crate) name: String,
    /// None: any version is good.
    pub(crate) version: Option<String>,
}

/// What dpkg knows of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstalledPackage {
    name: String,
    /// Such as `install` or `hold`.
    selection: String,
    /// Such as `installed` or `half-configured`.
    state: String,
    version: String,
}

/// What there is of a wanted package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PackageStatus {
    /// It is installed as it is wanted.
    Good,
    /// It is installed in this version.
    OtherVersion(String),
    /// Its installation was begun and has not ended: dpkg's word for the state.
    Unfinished(String),
    /// It is not installed.
    Absent,
}

impl WantedPackage {
    /// The packages of the configuration.
    pub(crate) fn parse_all(config: &PackagesConfig) -> Result<Vec<Self>, Failure> {
        let mut all: Vec<Self> = Vec::new();
        for text in &config.install {
            let package = match text.split_once('=') {
                Some((name, version)) => Self { name: name.to_owned(), version: Some(version.to_owned()) },
                None => Self { name: text.clone(), version: None },
            };
            if package.version.is_none() && !config.any_version {
                return Err(Failure::invalid_config(format!("`{text}` has no version"))
                    .hint(format!("name it, such as `{text}=1.2.3-1`, or accept any with `any-version: true`")));
            }
            if all.iter().any(|other| other.name == package.name) {
                return Err(Failure::invalid_config(format!("`{}` is listed twice", package.name)));
            }
            all.push(package);
        }
        Ok(all)
    }

    /// The argument for apt-get: `NAME=VERSION` or `NAME`.
    pub(crate) fn text(&self) -> String {
        match &self.version {
            Some(version) => format!("{}={version}", self.name),
            None => self.name.clone(),
        }
    }

    /// It as it is installed, in that version, so that apt leaves it alone; unchanged, if it has a version or is not installed.
    pub(crate) fn as_installed(&self, installed: &[InstalledPackage]) -> Self {
        let found = installed.iter().find(|found| found.name == self.name && found.state == "installed");
        let version = self.version.clone().or_else(|| found.map(|found| found.version.clone()));
        Self { name: self.name.clone(), version }
    }

    /// What there is of it. Of several architectures, the one that is good counts.
    pub(crate) fn status(&self, installed: &[InstalledPackage]) -> PackageStatus {
        let mut status = PackageStatus::Absent;
        for found in installed.iter().filter(|found| found.name == self.name) {
            let of_found = match found.state.as_str() {
                "installed" if self.version.as_ref().is_none_or(|version| *version == found.version) => {
                    return PackageStatus::Good;
                }
                "installed" => PackageStatus::OtherVersion(found.version.clone()),
                // Removed; its configuration may be left.
                "not-installed" | "config-files" => continue,
                state => PackageStatus::Unfinished(state.to_owned()),
            };
            status = of_found;
        }
        status
    }

    /// Whether its files are there in part.
    pub(crate) fn is_half_installed(&self, installed: &[InstalledPackage]) -> bool {
        matches!(self.status(installed), PackageStatus::Unfinished(state) if state == "half-installed")
    }

    /// Whether the administrator has set it on hold.
    pub(crate) fn is_held(&self, installed: &[InstalledPackage]) -> bool {
        installed.iter().any(|found| found.name == self.name && found.selection == "hold")
    }
}

impl PackageStatus {
    /// What there is, in words.
    pub(crate) fn describe(&self, package: &WantedPackage) -> String {
        let name = &package.name;
        match (self, &package.version) {
            (Self::Good, _) => format!("{} is installed", package.text()),
            (Self::OtherVersion(found), Some(wanted)) => {
                format!("{name} is installed in version {found}, not {wanted}")
            }
            (Self::OtherVersion(found), None) => format!("{name} is installed in version {found}"),
            (Self::Unfinished(state), _) => format!("{name} is {state}"),
            (Self::Absent, _) => format!("{name} is not installed"),
        }
    }
}

/// The packages that are not as they are wanted.
pub(crate) fn missing<'w>(wanted: &'w [WantedPackage], installed: &[InstalledPackage]) -> Vec<&'w WantedPackage> {
    wanted.iter().filter(|package| package.status(installed) != PackageStatus::Good).collect()
}

/// What has changed, for the notes: `nginx 1.22-1 -> 1.22-2`.
pub(crate) fn changes(wanted: &[WantedPackage], before: &[InstalledPackage], after: &[InstalledPackage]) -> Vec<Value> {
    let version = |package: &WantedPackage, installed: &[InstalledPackage]| {
        let found = installed.iter().find(|found| found.name == package.name && found.state == "installed");
        found.map_or_else(|| "none".to_owned(), |found| found.version.clone())
    };
    let pairs = wanted.iter().map(|package| (package, version(package, before), version(package, after)));
    let changed = pairs.filter(|(_, old, new)| old != new);
    changed.map(|(package, old, new)| format!("{} {old} -> {new}", package.name).into()).collect()
}

/// What a package manager is told, so that packages of any version stay at theirs.
pub(crate) fn as_installed(wanted: &[WantedPackage], installed: &[InstalledPackage]) -> Vec<WantedPackage> {
    wanted.iter().map(|package| package.as_installed(installed)).collect()
}

/// The packages, as the plan names them.
pub(crate) fn texts(wanted: &[WantedPackage]) -> String {
    wanted.iter().map(WantedPackage::text).collect::<Vec<_>>().join(" ")
}

/// Reads what dpkg-query writes: name, selection, state and version, apart by tabs.
pub(crate) fn parse_installed(text: &str) -> Vec<InstalledPackage> {
    let parse = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        Some(InstalledPackage {
            name: fields.next()?,
            selection: fields.next()?,
            state: fields.next()?,
            version: fields.next()?,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Reads the packages that are neither installed nor removed: the second letter is the state (`F`: half-configured).
pub(crate) fn parse_unfinished(text: &str) -> Vec<String> {
    let unfinished = |line: &&str| line.chars().nth(1).is_some_and(|state| "HUFWt".contains(state));
    text.lines().filter(unfinished).filter_map(|line| Some(line.get(3..)?.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize as _;
    use serde_json::json;

    fn parse(config: Value) -> Result<Vec<WantedPackage>, Failure> {
        WantedPackage::parse_all(&PackagesConfig::deserialize(config).unwrap())
    }

    #[test]
    fn packages_without_a_version_need_a_setting() {
        let refused = parse(json!({ "install": ["a=1", "b"] })).unwrap_err();
        assert!(refused.hint.unwrap().contains("any-version: true"));
        let packages = parse(json!({ "install": ["a=1:2.0-3", "b"], "any-version": true })).unwrap();
        let texts: Vec<String> = packages.iter().map(WantedPackage::text).collect();
        assert_eq!((texts, packages[1].version.clone()), (vec!["a=1:2.0-3".to_owned(), "b".to_owned()], None));
        assert!(parse(json!({ "install": ["a=1", "a=2"] })).unwrap_err().message.contains("listed twice"));
    }

    #[test]
    fn unfinished_packages_are_found_by_their_state() {
        let text = "ii  nginx\niF  shop\niHR slow\nrc  gone\nun  never\niU  new\nhi  held\n";
        assert_eq!(parse_unfinished(&text.replace("  ", " ")), ["shop", "slow", "new"]);
    }

    #[test]
    fn status_is_of_the_installed_architecture() {
        let lines = "lib\tdeinstall\tconfig-files\t2.0\nlib\tinstall\tinstalled\t1.0\nheld\thold\tinstalled\t1.0\nnew\tunknown\tnot-installed\t\n";
        let installed = parse_installed(lines);
        let package = |name: &str, version: Option<&str>| WantedPackage {
            name: name.to_owned(),
            version: version.map(str::to_owned),
        };
        assert_eq!(package("lib", Some("1.0")).status(&installed), PackageStatus::Good);
        assert_eq!(package("lib", None).status(&installed), PackageStatus::Good);
        assert_eq!(package("lib", Some("2.0")).status(&installed), PackageStatus::OtherVersion("1.0".to_owned()));
        assert_eq!(package("new", None).status(&installed), PackageStatus::Absent);
        assert!(package("held", None).is_held(&installed) && !package("lib", None).is_held(&installed));
        let wanted = [package("lib", Some("1.0")), package("held", Some("2.0"))];
        assert_eq!(missing(&wanted, &installed), [&wanted[1]]);
        assert_eq!(changes(&wanted, &[], &installed), ["lib none -> 1.0", "held none -> 1.0"]);
    }
}
