//! What the runner does around a step because its module declares it: `behaves` of a description (docs/steps.md).
//!
//! Invariant: a declaration names values of the step's configuration, and those are looked up among the step's own grants. So a
//! module gains nothing by it that its grants do not allow already: the lint reads a directory and a database that its probe may
//! read, `runner migrate` is an operator's command on the step's own directory and database, and only folders
//! `releases/<digest>` of a directory that the step may write to are pruned. Deliberately absent: any word on another step.

use serde::Deserialize;
use serde_json::Value;

/// What a module declares about its behavior. Members that are not known are passed over.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ModuleBehaviors {
    /// It migrates a database by the host's `migrations`: the preflight lints the files, and `runner migrate` works on it.
    pub migrates: Option<MigratesBehavior>,
    /// It keeps content in `releases/<digest>` of a directory: old ones are removed once they are of no use.
    pub installs_releases: Option<InstallsReleasesBehavior>,
}

/// Where the migrations of a step are. Its other settings are those of `migrations` (wit/).
#[derive(Clone, Debug, Deserialize)]
pub struct MigratesBehavior {
    /// A JSON pointer to the value of the configuration that names the directory.
    dir: String,
    /// A JSON pointer to the value that names the database.
    database: String,
}

/// Where the releases of a step are.
#[derive(Clone, Debug, Deserialize)]
pub struct InstallsReleasesBehavior {
    /// A JSON pointer to the value of the configuration that names the directory. Where the configuration has no such value, it is
    /// the only directory that the step may write to.
    into: String,
}

impl MigratesBehavior {
    /// The directory that a configuration names; empty if it names none, which nothing is granted as.
    #[must_use]
    pub fn dir<'c>(&self, config: &'c Value) -> &'c str {
        text_at(config, &self.dir).unwrap_or_default()
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
