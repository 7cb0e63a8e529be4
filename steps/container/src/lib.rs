//! Starts a release as a container, in the slot without traffic, and waits until it is ready.
//!
//! Invariant: a container that has the traffic is never stopped. When `apply` fails, nothing of the release is left in the engine.
//!
//! Deliberately absent: pulling images, which is for `images`, moving the traffic, which is for `switch`, and whatever else the engine runs.

mod definition;
mod engine;

use core::time::Duration;

use pawl_step::slots::{ReadyConfig, SlotSettings, SlotStarter, StopSelection};
use pawl_step::{
    Capability, CapabilityNeed, Change, DirectoryAccess, Failure, Finding, Input, ModuleDescription, Phase,
    ProbeSupport, Receipt, RerunSafety, Step, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use definition::ContainerConfig;
use engine::ContainerEngine;

/// The module `container`.
#[derive(Debug)]
pub struct ContainerStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ContainerStepConfig {
    /// The granted directory.
    #[serde(rename = "in")]
    pub dir: Option<String>,
    /// The link with the traffic.
    pub link: Option<String>,
    /// The slots.
    pub slots: Option<Map<String, Value>>,
    /// The granted socket of the engine.
    pub engine: String,
    /// The directory of `renders` for secrets.
    pub secrets_dir: Option<String>,
    /// The container.
    pub container: Option<ContainerConfig>,
    /// When the container is ready.
    pub ready: Option<ReadyConfig>,
    /// Which slots to stop, instead of a start.
    pub stop: Option<StopSelection>,
    /// The wait before that.
    #[serde(default = "ten_seconds", deserialize_with = "time::duration")]
    pub drain: Duration,
    /// The time that a container has to end.
    #[serde(default = "thirty_seconds", deserialize_with = "time::duration")]
    pub stop_timeout: Duration,
    /// How many lines of output a failure shows.
    #[serde(default = "fifty")]
    pub tail: usize,
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn fifty() -> usize {
    50
}

impl ContainerStep {
    fn starter(
        input: &Input<ContainerStepConfig>,
    ) -> Result<SlotStarter<'_, ContainerStepConfig, ContainerEngine<'_>>, Failure> {
        let config = &input.config;
        let settings =
            SlotSettings { dir: config.dir.as_deref(), link: config.link.as_deref(), slots: config.slots.as_ref() };
        let starter = SlotStarter::new(input, settings, ContainerEngine::new(input), config.tail)?;
        Ok(starter.ready(config.ready.as_ref()).stop(config.stop, config.drain))
    }
}

fn needs() -> Vec<CapabilityNeed> {
    let slots = |config| CapabilityNeed {
        capability: Capability::Dirs(DirectoryAccess::Write),
        config,
        reason: "holds the slots",
    };
    vec![
        slots(Some("/in")),
        // Without `in`, the step uses its only granted directory.
        slots(None),
        CapabilityNeed {
            capability: Capability::Sockets,
            config: Some("/engine"),
            reason: "is the socket of the container engine",
        },
        CapabilityNeed {
            capability: Capability::Renders,
            config: Some("/secrets-dir"),
            reason: "gets the secrets of the container",
        },
        CapabilityNeed {
            capability: Capability::Secrets,
            config: Some("/container/secrets/0"),
            reason: "becomes a file in the container",
        },
    ]
}

impl Step for ContainerStep {
    type Config = ContainerStepConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: needs(),
            phase: Phase::Commit,
            staged: true,
            rehearses: true,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            reverts: true,
            outputs: Some(&["slot", "to", "url"]),
            ..ModuleDescription::new(
                "container",
                env!("CARGO_PKG_VERSION"),
                "starts a release as a container, beside the one that has the traffic",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<ContainerStepConfig>) -> Result<Vec<Change>, Failure> {
        Self::starter(input)?.preview()
    }

    fn rehearse(input: &Input<ContainerStepConfig>) -> Result<(), Failure> {
        Self::starter(input)?.rehearse()
    }

    fn apply(input: &Input<ContainerStepConfig>) -> Result<Receipt, Failure> {
        Self::starter(input)?.apply()
    }

    fn probe(input: &Input<ContainerStepConfig>) -> Result<Finding, Failure> {
        Self::starter(input)?.probe()
    }

    fn revert(input: &Input<ContainerStepConfig>, receipt: &Receipt) -> Result<(), Failure> {
        Self::starter(input)?.revert(receipt)
    }
}

pawl_step::export!(ContainerStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::assert_described;
    use serde_json::json;

    #[test]
    fn container_description_is_valid() {
        assert_described::<ContainerStep>();
    }

    #[test]
    fn the_schema_states_the_defaults() {
        let config = ContainerStepConfig::deserialize(json!({
            "engine": "podman", "container": {}, "ready": { "tcp": ["127.0.0.1:{port}"] },
        }))
        .unwrap();
        let properties = &ContainerStep::describe().to_json()["config"]["properties"];
        let default = |name: &str| properties[name]["default"].clone();
        assert_eq!((default("drain"), config.drain), (json!("10s"), ten_seconds()));
        assert_eq!((default("stop-timeout"), config.stop_timeout), (json!("30s"), thirty_seconds()));
        assert_eq!(default("tail"), json!(config.tail));
    }
}
