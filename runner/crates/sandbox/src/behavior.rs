//! The behaviors that a module declares: `behaves` in its description (docs/steps.md).
//!
//! Invariant: a declaration gives a module no access beyond its grants. It names values of the step's configuration,
//! which are resolved to the step's own grants: the lint reads a directory and a database that the probe may read, an
//! operator runs `runner migrate` on the step's own directory and database, and pruning removes only folders of releases
//! in a directory that the step may write to. Deliberately absent: behaviors that affect other
//! steps.

use serde::Deserialize;
use serde_json::Value;

/// The behaviors that a module declares. Unknown members are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ModuleBehaviors {
    /// It migrates a database with the host's `migrations`, so the preflight lints the files, and `runner migrate`
    /// supports it.
    pub migrates: Option<MigratesBehavior>,
    /// It installs releases into folders in `releases` of a directory, so the runner prunes old ones.
    pub installs_releases: Option<InstallsReleasesBehavior>,
    /// What it does is for the release that is live, so after an undo of the exposing step it runs again for the release before, if it
    /// is repeatable.
    pub repeats_after_undo: bool,
}

/// The directory and database of a step's migrations. Its other settings are those of `migrations` (wit/).
#[derive(Clone, Debug, Deserialize)]
pub struct MigratesBehavior {
    /// A JSON pointer to the value of the configuration that names the directory.
    dir: String,
    /// A JSON pointer to the value that names the database.
    database: String,
}

/// The directory of a step's releases.
#[derive(Clone, Debug, Deserialize)]
pub struct InstallsReleasesBehavior {
    /// A JSON pointer to the value of the configuration that names the directory. Without that value, it is the only
    /// directory that the step may write to.
    into: String,
}

impl MigratesBehavior {
    /// The directory that a configuration names; if it names none, the empty text, which no grant has as its name.
    #[must_use]
    pub fn dir<'c>(&self, config: &'c Value) -> &'c str {
        text_at(config, &self.dir).unwrap_or_default()
    }

    /// The JSON pointer to the value that names the directory.
    #[must_use]
    pub fn dir_pointer(&self) -> &str {
        &self.dir
    }

    /// The database that a configuration names; empty if it names none.
    #[must_use]
    pub fn database<'c>(&self, config: &'c Value) -> &'c str {
        text_at(config, &self.database).unwrap_or_default()
    }
}

impl InstallsReleasesBehavior {
    /// The directory that a configuration names, if it names one.
    #[must_use]
    pub fn into_dir<'c>(&self, config: &'c Value) -> Option<&'c str> {
        text_at(config, &self.into)
    }
}

fn text_at<'c>(config: &'c Value, pointer: &str) -> Option<&'c str> {
    config.pointer(pointer).and_then(Value::as_str)
}
