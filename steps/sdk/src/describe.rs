//! What a module says about itself before it runs.

use serde::Serialize;
use serde_json::{Value, json};

/// What a module says about itself. The runner shows it, checks plans with it, and pins it in the lock file.
#[derive(Debug, Clone)]
pub struct ModuleDescription {
    /// The module's name, as in `uses:`.
    pub name: &'static str,
    /// Its version; `env!("CARGO_PKG_VERSION")` is usual.
    pub version: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// The JSON Schema of the step's `with:`, as text (`include_str!` is usual): an object with
    /// `additionalProperties: false`, where each property has a description. docs/steps.md lists the `x-pawl-…`
    /// annotations that make files inputs of the fingerprint.
    pub config: &'static str,
    /// The capabilities that it cannot do without.
    pub needs: Vec<CapabilityNeed>,
    /// When it acts.
    pub phase: Phase,
    /// Whether it shows the release to users: the point of no return.
    pub exposes: bool,
    /// Whether it may run again when nobody knows if it has run.
    pub repeatable: RerunSafety,
    /// Whether [`probe`](crate::Step::probe) can tell.
    pub probes: ProbeSupport,
    /// Whether [`revert`](crate::Step::revert) can undo it. A rollback passes over a step that can't be undone.
    pub reverts: bool,
}

/// When a step acts. No commit step begins anywhere before every prepare step has succeeded everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Makes ready, beside what is live.
    Prepare,
    /// Changes what is live.
    Commit,
    /// Only looks.
    Check,
}

/// Whether a step may run again when nobody knows if it has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RerunSafety {
    /// Twice does what once does.
    Always,
    /// Twice may do harm.
    Never,
    /// The plan's author says so, in the boolean at this JSON pointer of the configuration; absent means no.
    Config(&'static str),
}

/// Whether a step can tell that its effect holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeSupport {
    /// It can.
    Always,
    /// It has no probe.
    Never,
    /// Only where one of these JSON pointers leads to something in the configuration.
    Config(&'static [&'static str]),
}

/// How a directory is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum DirectoryAccess {
    /// Read only.
    #[serde(rename = "ro")]
    Read,
    /// Read and write.
    #[serde(rename = "rw")]
    Write,
}

/// Something that only the plan can give.
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
    /// A secret.
    Secrets,
}

/// A capability that a module cannot do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityNeed {
    /// What is needed.
    pub capability: Capability,
    /// A JSON pointer to the configuration's value that names the grant; `None`: any grant of that kind will do.
    pub config: Option<&'static str>,
    /// Why, for the operator who grants it.
    pub reason: &'static str,
}

impl ModuleDescription {
    /// The most careful description: a commit step that needs nothing, may not run twice and has no probe. Change what is
    /// otherwise: `ModuleDescription { phase: Phase::Prepare, ..ModuleDescription::new(…) }`.
    #[must_use]
    pub fn new(name: &'static str, version: &'static str, summary: &'static str, config: &'static str) -> Self {
        Self {
            name,
            version,
            summary,
            config,
            needs: Vec::new(),
            phase: Phase::Commit,
            exposes: false,
            repeatable: RerunSafety::Never,
            probes: ProbeSupport::Never,
            reverts: false,
        }
    }

    /// The JSON object of the contract.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let config: Value = serde_json::from_str(self.config)
            .unwrap_or_else(|error| panic!("the schema of `{}` is no JSON: {error}", self.name));
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
            exposes: false,
            repeatable: RerunSafety::Config("/repeatable"),
            probes: ProbeSupport::Config(&["/creates"]),
            reverts: true,
        };
        assert_eq!(
            description.to_json(),
            json!({
                "name": "demo", "version": "1.0.0", "summary": "s", "config": { "type": "object" },
                "needs": [{ "capability": "dirs", "config": "/into", "access": "rw", "reason": "r" }],
                "phase": "prepare", "exposes": false, "repeatable": false, "repeatable-config": "/repeatable", "probes": true, "probes-config": ["/creates"],
                "reverts": true,
            })
        );
    }
}
