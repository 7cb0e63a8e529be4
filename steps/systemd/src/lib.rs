//! Starts a release as a service of systemd, in the slot without traffic, and waits until it is ready.
//!
//! Invariant: a program that has the traffic is never stopped. When `apply` fails, nothing of the release is left running or configured.
//!
//! Deliberately absent: moving the traffic, which is for `switch`, and whatever else systemd runs.

mod engine;
mod quote;
mod systemctl;

use core::time::Duration;

use pawl_step::slots::{ProgramConfig, ReadyConfig, SlotSettings, SlotStarter, StopSelection};
use pawl_step::{
    Capability, CapabilityNeed, Change, DirectoryAccess, Failure, Finding, Input, ModuleDescription, Phase,
    ProbeSupport, Receipt, RerunSafety, Step, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use engine::SystemdEngine;

/// The `systemd` module.
#[derive(Debug)]
pub struct SystemdStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SystemdConfig {
    /// The granted directory.
    #[serde(rename = "in")]
    pub dir: Option<String>,
    /// The link with the traffic.
    pub link: Option<String>,
    /// The slots.
    pub slots: Option<Map<String, Value>>,
    /// The directory of `renders` for the units.
    pub units: String,
    /// systemctl with its first arguments.
    #[serde(default = "systemctl_program")]
    pub systemctl: Vec<String>,
    /// journalctl with its first arguments.
    pub journal: Option<Vec<String>>,
    /// The program.
    pub program: Option<UnitConfig>,
    /// When the program is ready.
    pub ready: Option<ReadyConfig>,
    /// Which slots to stop, instead of a start.
    pub stop: Option<StopSelection>,
    /// The wait before that.
    #[serde(default = "ten_seconds", deserialize_with = "time::duration")]
    pub drain: Duration,
    /// The time that a program has to end.
    #[serde(default = "thirty_seconds", deserialize_with = "time::duration")]
    pub stop_timeout: Duration,
    /// How many lines of output a failure shows.
    #[serde(default = "fifty")]
    pub tail: usize,
}

/// The setting `program`.
#[derive(Debug, Clone, Deserialize)]
pub struct UnitConfig {
    /// What each module with slots has.
    #[serde(flatten)]
    pub program: ProgramConfig,
    /// More settings of the section `[Service]`.
    #[serde(default)]
    pub service: Map<String, Value>,
}

fn systemctl_program() -> Vec<String> {
    vec!["/usr/bin/systemctl".to_owned()]
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

impl SystemdStep {
    fn starter(input: &Input<SystemdConfig>) -> Result<SlotStarter<'_, SystemdConfig, SystemdEngine<'_>>, Failure> {
        let config = &input.config;
        let settings =
            SlotSettings { dir: config.dir.as_deref(), link: config.link.as_deref(), slots: config.slots.as_ref() };
        let starter = SlotStarter::new(input, settings, SystemdEngine { input }, config.tail)?;
        Ok(starter.ready(config.ready.as_ref()).stop(config.stop, config.drain))
    }
}

impl Step for SystemdStep {
    type Config = SystemdConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: Some("/in"),
                    reason: "holds the slots",
                },
                // Without `in`, the step uses its only granted directory.
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: None,
                    reason: "holds the slots",
                },
                CapabilityNeed { capability: Capability::Programs, config: None, reason: "is systemctl" },
                CapabilityNeed {
                    capability: Capability::Programs,
                    config: Some("/journal"),
                    reason: "reads the output of the program",
                },
                CapabilityNeed {
                    capability: Capability::Renders,
                    config: Some("/units"),
                    reason: "gets the unit of the program",
                },
                CapabilityNeed {
                    capability: Capability::Secrets,
                    config: Some("/program/secrets/0"),
                    reason: "becomes a variable of the program",
                },
            ],
            phase: Phase::Commit,
            staged: true,
            rehearses: true,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            reverts: true,
            outputs: Some(&["slot", "to", "url"]),
            ..ModuleDescription::new(
                "systemd",
                env!("CARGO_PKG_VERSION"),
                "starts a release as a service of systemd, beside the one that has the traffic",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<SystemdConfig>) -> Result<Vec<Change>, Failure> {
        Self::starter(input)?.preview()
    }

    fn rehearse(input: &Input<SystemdConfig>) -> Result<(), Failure> {
        Self::starter(input)?.rehearse()
    }

    fn apply(input: &Input<SystemdConfig>) -> Result<Receipt, Failure> {
        Self::starter(input)?.apply()
    }

    fn probe(input: &Input<SystemdConfig>) -> Result<Finding, Failure> {
        Self::starter(input)?.probe()
    }

    fn revert(input: &Input<SystemdConfig>, receipt: &Receipt) -> Result<(), Failure> {
        Self::starter(input)?.revert(receipt)
    }
}

pawl_step::export!(SystemdStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::assert_described;
    use serde_json::json;

    #[test]
    fn systemd_description_is_valid() {
        assert_described::<SystemdStep>();
    }

    #[test]
    fn the_schema_states_the_defaults() {
        let config = SystemdConfig::deserialize(json!({
            "units": "units", "program": { "command": "x" }, "ready": { "tcp": ["127.0.0.1:{port}"] },
        }))
        .unwrap();
        let properties = &SystemdStep::describe().to_json()["config"]["properties"];
        let default = |name: &str| properties[name]["default"].clone();
        assert_eq!((default("drain"), config.drain), (json!("10s"), ten_seconds()));
        assert_eq!((default("stop-timeout"), config.stop_timeout), (json!("30s"), thirty_seconds()));
        assert_eq!((default("tail"), default("systemctl")), (json!(config.tail), json!(config.systemctl)));
        let (ready, of_ready) = (config.ready.unwrap(), &properties["ready"]["properties"]);
        let found = [ready.every, ready.within, ready.stay].map(|time| time.as_millis());
        assert_eq!(found, [500, 60_000, 5_000]);
        assert_eq!(
            ["every", "within", "stay"].map(|name| of_ready[name]["default"].clone()),
            [json!("500ms"), json!("60s"), json!("5s")]
        );
    }
}
