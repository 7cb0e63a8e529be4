//! Starts a release as a container, in the slot without traffic, and waits until it is ready.
//!
//! Invariant: a container that has the traffic is never stopped. When `apply` fails, nothing of the release is left in the engine.
//!
//! Deliberately absent: pulling images, which is for `images`, moving the traffic, which is for `switch`, and whatever else the engine runs.

mod definition;
mod start;

use core::time::Duration;

use pawl_engine::Engine;
use pawl_step::slots::{ReadyConfig, Slot, SlotRecord, SlotSet, SlotSettings, StopSelection};
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, Finding, Input, ModuleDescription,
    Phase, ProbeSupport, Receipt, RerunSafety, Step, log, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use definition::{ContainerConfig, SlotContainer};
use start::{SlotStart, remove};

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

impl ContainerStepConfig {
    fn slots(input: &Input<Self>) -> Result<SlotSet, Failure> {
        let config = &input.config;
        let settings =
            SlotSettings { dir: config.dir.as_deref(), link: config.link.as_deref(), slots: config.slots.as_ref() };
        SlotSet::read(input, &settings, &[])
    }

    fn engine(&self) -> Engine<'_> {
        Engine::new(&self.engine)
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
        let set = ContainerStepConfig::slots(input)?;
        if let Some(selection) = input.config.stop {
            let change = |(slot, record): &(Slot, SlotRecord)| {
                let name = record.engine_id.clone().unwrap_or_else(|| slot.name.clone());
                Change::new(ChangeAction::Delete, name, format!("{} in slot {}", record.label, slot.name))
            };
            return Ok(set.to_stop(input, selection)?.iter().map(change).collect());
        }
        for chosen in set.slots_of_release(input) {
            if SlotStart::new(input, &set, chosen)?.is_recorded()? {
                return Ok(Vec::new());
            }
        }
        let chosen = set.free(input)?;
        let container = SlotContainer::new(input, &set, &chosen.slot)?;
        let name = container.name(&SlotRecord::starting(input, None));
        Ok(vec![Change::new(ChangeAction::Run, name, format!("in slot {}", chosen.slot.name))])
    }

    fn rehearse(input: &Input<ContainerStepConfig>) -> Result<(), Failure> {
        input.config.engine().check()?;
        let set = ContainerStepConfig::slots(input)?;
        if input.config.stop.is_some() {
            return Ok(());
        }
        SlotStart::new(input, &set, set.free(input)?)?.rehearse()
    }

    fn apply(input: &Input<ContainerStepConfig>) -> Result<Receipt, Failure> {
        let set = ContainerStepConfig::slots(input)?;
        input.config.engine().check()?;
        if let Some(selection) = input.config.stop {
            return stop(input, &set, selection);
        }
        for chosen in set.slots_of_release(input) {
            let start = SlotStart::new(input, &set, chosen)?;
            if start.is_running()? {
                return start.adopt();
            }
        }
        let start = SlotStart::new(input, &set, start::slot_to_start(input, &set)?)?;
        start.start()?;
        start.receipt()
    }

    fn probe(input: &Input<ContainerStepConfig>) -> Result<Finding, Failure> {
        let set = ContainerStepConfig::slots(input)?;
        if let Some(selection) = input.config.stop {
            let left = set.to_stop(input, selection)?;
            return Ok(if left.is_empty() { Finding::Held(stopped_receipt()) } else { Finding::Absent });
        }
        let mut drift = None;
        for chosen in set.slots_of_release(input) {
            let start = SlotStart::new(input, &set, chosen)?;
            if !start.is_recorded()? || !start.is_running()? {
                continue;
            }
            match start.not_ready()? {
                None => return Ok(Finding::Held(start.receipt()?)),
                Some(why) => drift = Some(format!("{} runs, but it is not ready: {why}", start.name())),
            }
        }
        Ok(drift.map_or(Finding::Absent, Finding::Drifted))
    }

    fn revert(input: &Input<ContainerStepConfig>, receipt: &Receipt) -> Result<(), Failure> {
        let set = ContainerStepConfig::slots(input)?;
        if input.config.stop.is_some() {
            return Err(Failure::permanent("what was stopped is not started again")
                .hint("deploy the release that you need; its slot is free"));
        }
        for chosen in set.slots_of_release(input) {
            // What this run found running is not this run's to stop.
            let is_of_run = chosen.record.as_ref().is_some_and(|record| record.key == input.key);
            let slot = receipt.outputs.get("slot").and_then(Value::as_str);
            if !is_of_run || slot.is_some_and(|slot| slot != chosen.slot.name) {
                continue;
            }
            if chosen.is_linked {
                return Err(Failure::conflict(format!(
                    "slot {} has the traffic, so it is not stopped",
                    chosen.slot.name
                ))
                .hint("move the traffic first: the step that switches comes after this one"));
            }
            remove(input, &set, &chosen.slot)?;
        }
        Ok(())
    }
}

fn stop(input: &Input<ContainerStepConfig>, set: &SlotSet, selection: StopSelection) -> Result<Receipt, Failure> {
    if set.to_stop(input, selection)?.is_empty() {
        return Ok(stopped_receipt().note("ran", false));
    }
    time::sleep(input.config.drain);
    // The traffic may have moved meanwhile.
    let set = ContainerStepConfig::slots(input)?;
    let mut stopped = Vec::new();
    for (slot, record) in set.to_stop(input, selection)? {
        remove(input, &set, &slot)?;
        log::info(format!("slot {}: {} is stopped", slot.name, record.label));
        stopped.push(Value::from(slot.name));
    }
    Ok(stopped_receipt().note("stopped", stopped))
}

fn stopped_receipt() -> Receipt {
    Receipt::new().output("slot", Value::Null).output("to", Value::Null).output("url", Value::Null)
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
