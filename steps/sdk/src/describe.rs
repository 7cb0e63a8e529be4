//! The description that a module gives of itself before it runs.

use serde::Serialize;
use serde_json::{Value, json};

/// The description that a module gives of itself. The runner shows it, checks plans with it, and pins it in the lock
/// file.
#[derive(Debug, Clone)]
pub struct ModuleDescription {
    /// The module's name, as in `uses:`.
    pub name: &'static str,
    /// The module's version, usually `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// A summary of one line, for lists.
    pub summary: &'static str,
    /// The JSON Schema of the step's `with:` as text, usually from `include_str!`: an object with
    /// `additionalProperties: false`, where each property has a description. docs/steps.md lists the `x-pawl-…`
    /// annotations that make files inputs of the fingerprint.
    pub config: &'static str,
    /// The capabilities that the module cannot work without.
    pub needs: Vec<CapabilityNeed>,
    /// The phase in which the step acts.
    pub phase: Phase,
    /// A JSON pointer to the configuration's value that chooses the phase, if the plan does.
    pub phase_config: Option<&'static str>,
    /// Whether the step works beside what is live: it is undone when a later step fails before the release is exposed.
    pub staged: bool,
    /// Whether [`rehearse`](crate::Step::rehearse) finds out beforehand whether the step would be refused.
    pub rehearses: bool,
    /// Whether the step exposes the release to users: the point of no return.
    pub exposes: bool,
    /// Whether the step may run again when the outcome of the last run is unknown.
    pub repeatable: RerunSafety,
    /// Whether [`probe`](crate::Step::probe) can determine whether the effect holds.
    pub probes: ProbeSupport,
    /// Whether [`revert`](crate::Step::revert) can undo the effect. A rollback skips a step that cannot be undone.
    pub reverts: bool,
    /// The names of the outputs of its receipts, if they are always the same: the runner then refuses a plan that looks up another
    /// one.
    pub outputs: Option<&'static [&'static str]>,
    /// What the runner does around the step, beside calling it. Empty for most modules.
    pub behaves: &'static [ModuleBehavior],
}

/// What the runner does around a step because its module declares it. A declaration grants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleBehavior {
    /// The step migrates a database by [`migrations`](crate::migrations): the runner lints the files before anything runs, and
    /// `runner migrate` works on them. Each member is a JSON pointer to the configuration's value that names the grant.
    Migrates {
        /// The database.
        database: &'static str,
        /// The directory of the files.
        dir: &'static str,
    },
    /// The step keeps each release in a folder in `releases` of a directory, under a name as in [`releases`](crate::releases): the runner
    /// removes releases that nobody needs any more.
    InstallsReleases {
        /// A JSON pointer to the value that names the directory; where the configuration has no such value, it is the only
        /// directory that the step may write to.
        into: &'static str,
    },
    /// What the step does is for the release that is live: after an undo of the step that exposed another one, it runs again for the
    /// release before, if it is repeatable.
    RepeatsAfterUndo,
}

/// The phase in which a step acts. No commit step begins on any target before every prepare step has succeeded on all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Prepares the release next to the live one.
    Prepare,
    /// Changes what is live.
    Commit,
    /// Only reads.
    Check,
}

/// Whether a step may run again when the outcome of the last run is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RerunSafety {
    /// Running twice has the effect of running once.
    Always,
    /// Running twice may do harm.
    Never,
    /// The plan decides, by the boolean at this JSON pointer of the configuration; absent means no.
    Config(&'static str),
}

/// Whether a step can determine that its effect holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeSupport {
    /// The step always can.
    Always,
    /// The step has no probe.
    Never,
    /// The step can when one of these JSON pointers exists in the configuration.
    Config(&'static [&'static str]),
}

/// The access to a directory that a module needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum DirectoryAccess {
    /// Read only.
    #[serde(rename = "ro")]
    Read,
    /// Read and write.
    #[serde(rename = "rw")]
    Write,
}

/// A kind of access that only the plan can grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// A directory.
    Dirs(DirectoryAccess),
    /// An HTTP origin.
    Http,
    /// A TCP address.
    Tcp,
    /// A database.
    Databases,
    /// A program.
    Programs,
    /// A unix socket.
    Sockets,
    /// A directory in which the host renders templates.
    Renders,
    /// A secret.
    Secrets,
}

/// A capability that a module cannot work without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityNeed {
    /// The needed capability.
    pub capability: Capability,
    /// A JSON pointer to the configuration's value that names the grant; `None` accepts any grant of that kind.
    pub config: Option<&'static str>,
    /// The purpose of the grant, for the operator: the rest of a sentence that begins with `it`, such as `holds the
    /// file`.
    pub reason: &'static str,
}

impl ModuleDescription {
    /// Returns the most careful description: a commit step that needs nothing, may not run twice and has no probe.
    /// Override what differs: `ModuleDescription { phase: Phase::Prepare, ..ModuleDescription::new(…) }`.
    #[must_use]
    pub fn new(name: &'static str, version: &'static str, summary: &'static str, config: &'static str) -> Self {
        Self {
            name,
            version,
            summary,
            config,
            needs: Vec::new(),
            phase: Phase::Commit,
            phase_config: None,
            staged: false,
            rehearses: false,
            exposes: false,
            repeatable: RerunSafety::Never,
            probes: ProbeSupport::Never,
            reverts: false,
            outputs: None,
            behaves: &[],
        }
    }

    /// Returns the description as the JSON object of the contract.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let config: Value = serde_json::from_str(self.config)
            .unwrap_or_else(|error| panic!("the configuration schema of `{}` is not valid JSON: {error}", self.name));
        let mut object = json!({
            "name": self.name,
            "version": self.version,
            "summary": self.summary,
            "config": config,
            "needs": self.needs.iter().map(CapabilityNeed::to_json).collect::<Vec<_>>(),
            "phase": self.phase,
            "exposes": self.exposes,
            "repeatable": self.repeatable == RerunSafety::Always,
            "probes": self.probes != ProbeSupport::Never,
            "reverts": self.reverts,
        });
        if let RerunSafety::Config(pointer) = self.repeatable {
            object["repeatable-config"] = pointer.into();
        }
        if let ProbeSupport::Config(pointers) = self.probes {
            object["probes-config"] = json!(pointers);
        }
        if let Some(pointer) = self.phase_config {
            object["phase-config"] = pointer.into();
        }
        for (name, is_set) in [("staged", self.staged), ("rehearses", self.rehearses)] {
            if is_set {
                object[name] = true.into();
            }
        }
        if let Some(outputs) = self.outputs {
            object["outputs"] = json!(outputs);
        }
        for behavior in self.behaves {
            match behavior {
                ModuleBehavior::Migrates { database, dir } => {
                    object["behaves"]["migrates"] = json!({ "database": database, "dir": dir });
                }
                ModuleBehavior::InstallsReleases { into } => {
                    object["behaves"]["installs-releases"] = json!({ "into": into });
                }
                ModuleBehavior::RepeatsAfterUndo => object["behaves"]["repeats-after-undo"] = true.into(),
            }
        }
        object
    }
}

impl CapabilityNeed {
    fn to_json(&self) -> Value {
        let (capability, access) = match self.capability {
            Capability::Dirs(access) => ("dirs", Some(access)),
            Capability::Http => ("http", None),
            Capability::Tcp => ("tcp", None),
            Capability::Databases => ("databases", None),
            Capability::Programs => ("programs", None),
            Capability::Sockets => ("sockets", None),
            Capability::Renders => ("renders", None),
            Capability::Secrets => ("secrets", None),
        };
        let mut object = json!({ "capability": capability, "reason": self.reason });
        if let Some(pointer) = self.config {
            object["config"] = pointer.into();
        }
        if let Some(access) = access {
            object["access"] = json!(access);
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn description_json_matches_the_contract() {
        let description = ModuleDescription {
            name: "demo",
            version: "1.0.0",
            summary: "s",
            config: r#"{"type":"object"}"#,
            needs: vec![CapabilityNeed {
                capability: Capability::Dirs(DirectoryAccess::Write),
                config: Some("/into"),
                reason: "r",
            }],
            phase: Phase::Prepare,
            phase_config: None,
            staged: false,
            rehearses: false,
            exposes: false,
            repeatable: RerunSafety::Config("/repeatable"),
            probes: ProbeSupport::Config(&["/creates"]),
            reverts: true,
            outputs: Some(&["path"]),
            behaves: &[
                ModuleBehavior::Migrates { database: "/db", dir: "/dir" },
                ModuleBehavior::InstallsReleases { into: "/into" },
            ],
        };
        assert_eq!(
            description.to_json(),
            json!({
                "name": "demo", "version": "1.0.0", "summary": "s", "config": { "type": "object" },
                "needs": [{ "capability": "dirs", "config": "/into", "access": "rw", "reason": "r" }],
                "phase": "prepare", "exposes": false, "repeatable": false, "repeatable-config": "/repeatable", "probes": true, "probes-config": ["/creates"],
                "reverts": true, "outputs": ["path"],
                "behaves": {
                    "migrates": { "database": "/db", "dir": "/dir" }, "installs-releases": { "into": "/into" },
                },
            })
        );
    }
}
