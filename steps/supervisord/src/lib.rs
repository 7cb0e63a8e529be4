//! Starts a release below supervisord, in the slot without traffic, and waits until it is ready.
//!
//! Invariant: a program that has the traffic is never stopped. When `apply` fails, nothing of the release is left running or configured.
//!
//! Deliberately absent: moving the traffic, which is for `switch`, and whatever else supervisord runs.

mod program;
mod start;
mod supervisor;
mod xmlrpc;

use core::time::Duration;

use pawl_step::slots::{ReadyConfig, Slot, SlotRecord, SlotSet, SlotSettings, StopSelection};
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, Finding, Input, ModuleDescription,
    Phase, ProbeSupport, Receipt, RerunSafety, Step, log, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use program::{ProgramConfig, SlotProgram};
use start::SlotStart;
use supervisor::{SupervisedState, Supervisor};

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

impl SupervisordConfig {
    fn slots(input: &Input<Self>) -> Result<SlotSet, Failure> {
        let config = &input.config;
        let settings =
            SlotSettings { dir: config.dir.as_deref(), link: config.link.as_deref(), slots: config.slots.as_ref() };
        SlotSet::read(input, &settings, &[])
    }

    fn supervisor(&self) -> Supervisor<'_> {
        Supervisor::new(&self.socket)
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
        let set = SupervisordConfig::slots(input)?;
        if let Some(selection) = input.config.stop {
            let stopped = set.to_stop(input, selection)?;
            let change = |(slot, record): &(Slot, SlotRecord)| {
                let name = SlotProgram::new(input, &input.config.conf, slot).name(record);
                Change::new(ChangeAction::Delete, name, format!("{} in slot {}", record.label, slot.name))
            };
            return Ok(stopped.iter().map(change).collect());
        }
        for chosen in set.slots_of_release(input) {
            if SlotStart::new(input, &set, chosen)?.is_recorded()? {
                return Ok(Vec::new());
            }
        }
        let chosen = set.free(input)?;
        let name = SlotProgram::new(input, &input.config.conf, &chosen.slot).name(&SlotRecord::starting(input, None));
        Ok(vec![Change::new(ChangeAction::Run, name, format!("in slot {}", chosen.slot.name))])
    }

    fn rehearse(input: &Input<SupervisordConfig>) -> Result<(), Failure> {
        input.config.supervisor().check()?;
        let set = SupervisordConfig::slots(input)?;
        if input.config.stop.is_some() {
            return Ok(());
        }
        SlotStart::new(input, &set, set.free(input)?)?.rehearse()
    }

    fn apply(input: &Input<SupervisordConfig>) -> Result<Receipt, Failure> {
        let set = SupervisordConfig::slots(input)?;
        let supervisor = input.config.supervisor();
        supervisor.check()?;
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

    fn probe(input: &Input<SupervisordConfig>) -> Result<Finding, Failure> {
        let set = SupervisordConfig::slots(input)?;
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

    fn revert(input: &Input<SupervisordConfig>, receipt: &Receipt) -> Result<(), Failure> {
        let set = SupervisordConfig::slots(input)?;
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
            if let Some(record) = &chosen.record {
                remove(input, &set, &chosen.slot, record)?;
            }
        }
        Ok(())
    }
}

fn stop(input: &Input<SupervisordConfig>, set: &SlotSet, selection: StopSelection) -> Result<Receipt, Failure> {
    let slots = set.to_stop(input, selection)?;
    if slots.is_empty() {
        return Ok(stopped_receipt().note("ran", false));
    }
    time::sleep(input.config.drain);
    // The traffic may have moved meanwhile.
    let set = SupervisordConfig::slots(input)?;
    let mut stopped = Vec::new();
    for (slot, record) in set.to_stop(input, selection)? {
        remove(input, &set, &slot, &record)?;
        log::info(format!("slot {}: {} is stopped", slot.name, record.label));
        stopped.push(Value::from(slot.name));
    }
    Ok(stopped_receipt().note("stopped", stopped))
}

fn stopped_receipt() -> Receipt {
    Receipt::new().output("slot", Value::Null).output("to", Value::Null).output("url", Value::Null)
}

/// Removes the program of a slot: first its configuration, so that supervisord does not start it again.
fn remove(input: &Input<SupervisordConfig>, set: &SlotSet, slot: &Slot, record: &SlotRecord) -> Result<(), Failure> {
    set.refuse_late(input)?;
    let program = SlotProgram::new(input, &input.config.conf, slot);
    program.remove()?;
    let supervisor = input.config.supervisor();
    supervisor.remove(&program.name(record), input.config.stop_timeout)?;
    supervisor.reread()?;
    set.clear(input, slot)
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
