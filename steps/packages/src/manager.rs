//! What a package manager can be asked for, whichever it is.

use core::time::Duration;

use pawl_step::process::{Command, Completion};
use pawl_step::{Failure, log, time};

use crate::package::{self, InstalledPackage, WantedPackage};
use crate::symptoms::{REMOVAL_HINT, ROOT_HINT};

/// The wait between two tries to get a lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A package manager, with the settings of a step. It removes nothing and asks nobody.
pub(crate) trait PackageClient {
    /// Its command, such as `apt-get`.
    fn name(&self) -> &'static str;

    /// The command that finishes what was begun.
    fn finishing_command(&self) -> &'static str;

    /// What is known of the packages as installed.
    fn installed(&self, wanted: &[WantedPackage]) -> Result<Vec<InstalledPackage>, Failure>;

    /// The packages of the machine whose installation was begun, and has not ended.
    fn unfinished(&self) -> Result<Vec<String>, Failure>;

    /// Finishes what was begun. A package whose script fails again is no reason to stop: another version of it may be wanted.
    fn finish_interrupted(&self, unfinished: &[String]) -> Result<(), Failure>;

    /// Fetches the package lists. A list that can't be fetched is a failure, since the old one stays in its place.
    fn update(&self) -> Result<(), Failure>;

    /// The versions that the lists have of these packages.
    fn available(&self, missing: &[&WantedPackage]) -> Result<Vec<AvailableVersion>, Failure>;

    /// Refuses an installation that would fail, or remove something. It changes nothing.
    fn check_installation(&self, wanted: &[WantedPackage], installed: &[InstalledPackage]) -> Result<(), Failure>;

    /// Refuses a user who may not install packages.
    fn check_root(&self, wanted: &[WantedPackage]) -> Result<(), Failure>;

    /// Installs the packages, half-installed ones too. Those that are there stay as they are.
    fn install(&self, wanted: &[WantedPackage], installed: &[InstalledPackage]) -> Result<(), Failure>;
}

/// A version of a package in the lists.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AvailableVersion {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// The packages that no list has in the wanted version: a failure for each. `updates` says whether the step fetches the lists.
pub(crate) fn unknown_versions(
    client: &dyn PackageClient,
    missing: &[&WantedPackage],
    updates: bool,
) -> Result<Vec<Failure>, Failure> {
    let available = client.available(missing)?;
    Ok(missing.iter().filter_map(|package| unknown(package, &available, updates)).collect())
}

fn unknown(package: &WantedPackage, available: &[AvailableVersion], updates: bool) -> Option<Failure> {
    let mut versions: Vec<&str> =
        available.iter().filter(|found| found.name == package.name).map(|found| found.version.as_str()).collect();
    versions.dedup();
    let found = |wanted: &str| versions.contains(&wanted);
    if package.version.as_deref().map_or(!versions.is_empty(), found) {
        return None;
    }
    let hint = if updates {
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

/// Refuses unknown versions, and an installation that would fail, or remove something. It changes nothing.
pub(crate) fn check(
    client: &dyn PackageClient,
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
    client.check_installation(wanted, installed)
}

/// The failure of an installation that would remove these packages.
pub(crate) fn would_remove(wanted: &[WantedPackage], removed: &[String]) -> Failure {
    Failure::conflict(format!("installing {} would remove {}", package::texts(wanted), removed.join(", ")))
        .hint(REMOVAL_HINT)
}

/// The failure of a user who is not root.
pub(crate) fn without_root() -> Failure {
    Failure::denied("the runner's user is not root, and only root installs packages").hint(ROOT_HINT)
}

/// What follows from a failure to finish what was begun: only one that another try can end stops the step.
pub(crate) fn not_finished(failure: Failure) -> Result<(), Failure> {
    if failure.retryable {
        return Err(failure);
    }
    log::warn(failure.message);
    Ok(())
}

/// Runs a command again while another program has a lock, and passes what is left of the time.
pub(crate) fn when_unlocked(
    limit: Duration,
    is_locked: impl Fn(&Completion) -> bool,
    command: impl Fn(Duration) -> Command,
) -> Result<Completion, Failure> {
    let began = time::monotonic();
    let mut was_locked = false;
    loop {
        let left = limit.saturating_sub(time::monotonic().saturating_sub(began));
        let completion = command(left).run()?;
        if completion.status == 0 || left.is_zero() || !is_locked(&completion) {
            return Ok(completion);
        }
        if !was_locked {
            log::warn("another program is installing packages: waiting until it has ended");
            was_locked = true;
        }
        time::sleep(LOCK_WAIT.min(left));
    }
}
