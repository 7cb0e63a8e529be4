//! Starts a release below supervisord, in the slot without traffic, and waits until it is ready.
//!
//! Invariant: a program that has the traffic is never stopped. When `apply` fails, nothing of the release is left running or configured.
//!
//! Deliberately absent: moving the traffic, which is for `switch`, and whatever else supervisord runs.

mod engine;
mod supervisor;
mod xmlrpc;

use core::time::Duration;

use pawl_step::slots::{ProgramConfig, ReadyConfig, SlotSettings, SlotStarter, StopSelection};
use pawl_step::{
    Capability, CapabilityNeed, Change, DirectoryAccess, Failure, Finding, Input, ModuleDescription, Phase,
    ProbeSupport, Receipt, RerunSafety, Step, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use engine::SupervisordEngine;

/// The `supervisord` module.
#[derive(Debug)]
pub struct SupervisordStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SupervisordConfig {
    /// The granted directory.
    #[serde(rename = "in")]
    pub dir: Option<String>,
    /// The link with the traffic.
    pub link: Option<String>,
    /// The slots.
    pub slots: Option<Map<String, Value>>,
    /// The granted socket.
    pub socket: String,
    /// The directory of `renders` for the configuration.
    pub conf: String,
    /// The program.
    pub program: Option<ProgramConfig>,
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

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn fifty() -> usize {
    50
}

impl SupervisordStep {
    fn starter(
        input: &Input<SupervisordConfig>,
    ) -> Result<SlotStarter<'_, SupervisordConfig, SupervisordEngine<'_>>, Failure> {
        let config = &input.config;
        let settings =
            SlotSettings { dir: config.dir.as_deref(), link: config.link.as_deref(), slots: config.slots.as_ref() };
        let starter = SlotStarter::new(input, settings, SupervisordEngine { input }, config.tail)?;
        Ok(starter.ready(config.ready.as_ref()).stop(config.stop, config.drain))
    }
}

impl Step for SupervisordStep {
    type Config = SupervisordConfig;

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
                CapabilityNeed {
                    capability: Capability::Sockets,
                    config: Some("/socket"),
                    reason: "is the socket of supervisord",
                },
                CapabilityNeed {
                    capability: Capability::Renders,
                    config: Some("/conf"),
                    reason: "gets the configuration of the program",
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
                "supervisord",
                env!("CARGO_PKG_VERSION"),
                "starts a release below supervisord, beside the one that has the traffic",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<SupervisordConfig>) -> Result<Vec<Change>, Failure> {
        Self::starter(input)?.preview()
    }

    fn rehearse(input: &Input<SupervisordConfig>) -> Result<(), Failure> {
        Self::starter(input)?.rehearse()
    }

    fn apply(input: &Input<SupervisordConfig>) -> Result<Receipt, Failure> {
        Self::starter(input)?.apply()
    }

    fn probe(input: &Input<SupervisordConfig>) -> Result<Finding, Failure> {
        Self::starter(input)?.probe()
    }

    fn revert(input: &Input<SupervisordConfig>, receipt: &Receipt) -> Result<(), Failure> {
        Self::starter(input)?.revert(receipt)
    }
}

pawl_step::export!(SupervisordStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::assert_described;
    use serde_json::json;

    #[test]
    fn supervisord_description_is_valid() {
        assert_described::<SupervisordStep>();
    }

    #[test]
    fn the_schema_states_the_defaults() {
        let config = SupervisordConfig::deserialize(json!({
            "socket": "sup", "conf": "conf", "program": { "command": "x" }, "ready": { "tcp": ["127.0.0.1:{port}"] },
        }))
        .unwrap();
        let properties = &SupervisordStep::describe().to_json()["config"]["properties"];
        let default = |name: &str| properties[name]["default"].clone();
        assert_eq!((default("drain"), config.drain), (json!("10s"), ten_seconds()));
        assert_eq!((default("stop-timeout"), config.stop_timeout), (json!("30s"), thirty_seconds()));
        assert_eq!(default("tail"), json!(config.tail));
        let (ready, of_ready) = (config.ready.unwrap(), &properties["ready"]["properties"]);
        let found = [ready.every, ready.within, ready.stay].map(|time| time.as_millis());
        assert_eq!(found, [500, 60_000, 5_000]);
        assert_eq!(
            ["every", "within", "stay"].map(|name| of_ready[name]["default"].clone()),
            [json!("500ms"), json!("60s"), json!("5s")]
        );
    }
}
