//! Brings up a release as a compose project, in the place of the one before, and waits until it is ready.
//!
//! Invariant: when `apply` fails, the release before runs again, or nothing if there was none. Volumes are never removed.
//!
//! Deliberately absent: pulling and building images, which a prepare step does, so that a failure there leaves everything as it was;
//! two releases side by side, for which there is `container`.

mod program;
mod record;
mod services;
mod stack;

use core::time::Duration;

use pawl_step::slots::ReadyConfig;
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, Finding, Input, ModuleDescription,
    Phase, ProbeSupport, Receipt, RerunSafety, Step, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use stack::Stack;

/// The `compose` module.
#[derive(Debug)]
pub struct ComposeStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ComposeConfig {
    /// The granted directory.
    #[serde(rename = "in")]
    pub dir: Option<String>,
    /// The compose file.
    pub file: String,
    /// The name of the project.
    pub project: String,
    /// Compose with its first arguments.
    #[serde(default = "docker_compose")]
    pub program: Vec<String>,
    /// The granted socket.
    pub engine: String,
    /// Variables of the file.
    #[serde(default)]
    pub env: Map<String, Value>,
    /// Secrets that are variables of the file.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// When the services are ready.
    pub ready: ReadyConfig,
    /// The time that a container has to end.
    #[serde(default = "thirty_seconds", deserialize_with = "time::duration")]
    pub stop_timeout: Duration,
    /// How many lines of output a failure shows.
    #[serde(default = "fifty")]
    pub tail: usize,
}

fn docker_compose() -> Vec<String> {
    vec!["/usr/bin/docker-compose".to_owned()]
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn fifty() -> usize {
    50
}

impl Step for ComposeStep {
    type Config = ComposeConfig;

    fn describe() -> ModuleDescription {
        let keeps = "holds the record of what runs";
        ModuleDescription {
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: Some("/in"),
                    reason: keeps,
                },
                // Without `in`, the step uses its only granted directory.
                CapabilityNeed { capability: Capability::Dirs(DirectoryAccess::Write), config: None, reason: keeps },
                CapabilityNeed {
                    capability: Capability::Sockets,
                    config: Some("/engine"),
                    reason: "is the socket of the container engine",
                },
                CapabilityNeed { capability: Capability::Programs, config: None, reason: "is compose" },
                CapabilityNeed {
                    capability: Capability::Secrets,
                    config: Some("/secrets/0"),
                    reason: "is a variable of the compose file",
                },
            ],
            phase: Phase::Commit,
            exposes: true,
            rehearses: true,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            reverts: true,
            outputs: Some(&["project"]),
            ..ModuleDescription::new(
                "compose",
                env!("CARGO_PKG_VERSION"),
                "brings up a release as a compose project",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<ComposeConfig>) -> Result<Vec<Change>, Failure> {
        let stack = Stack::new(input)?;
        let record = stack.record()?;
        if record.as_ref().is_some_and(|record| stack.is_up_by(record)) {
            return Ok(Vec::new());
        }
        let detail = match record {
            Some(record) => format!("{} in place of {}", input.release.label, record.stack.record.label),
            None => input.release.label.clone(),
        };
        Ok(vec![Change::new(ChangeAction::Run, format!("project {}", input.config.project), detail)])
    }

    fn rehearse(input: &Input<ComposeConfig>) -> Result<(), Failure> {
        Stack::new(input)?.rehearse()
    }

    fn apply(input: &Input<ComposeConfig>) -> Result<Receipt, Failure> {
        Stack::new(input)?.apply()
    }

    fn probe(input: &Input<ComposeConfig>) -> Result<Finding, Failure> {
        Stack::new(input)?.probe()
    }

    fn revert(input: &Input<ComposeConfig>, _receipt: &Receipt) -> Result<(), Failure> {
        Stack::new(input)?.revert()
    }
}

pawl_step::export!(ComposeStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::assert_described;
    use serde_json::json;

    #[test]
    fn compose_description_is_valid() {
        assert_described::<ComposeStep>();
    }

    #[test]
    fn the_schema_states_the_defaults() {
        let config = ComposeConfig::deserialize(json!({
            "file": "app/compose.yml", "project": "shop", "engine": "podman", "ready": { "tcp": ["127.0.0.1:8080"] },
        }))
        .unwrap();
        let properties = &ComposeStep::describe().to_json()["config"]["properties"];
        let default = |name: &str| properties[name]["default"].clone();
        assert_eq!((default("program"), default("tail")), (json!(config.program), json!(config.tail)));
        assert_eq!((default("stop-timeout"), config.stop_timeout), (json!("30s"), thirty_seconds()));
        let found = [config.ready.every, config.ready.within, config.ready.stay].map(|time| time.as_millis());
        assert_eq!(found, [500, 60_000, 5_000]);
    }
}
