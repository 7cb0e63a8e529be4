//! What modules with slots do, whatever starts the programs: [`SlotStarter`] is the step, [`SlotEngine`] what differs.
//!
//! Invariant: a program that has the traffic is never stopped. When [`SlotStarter::apply`] fails, nothing of the release is left running or
//! configured.

use core::time::Duration;

use serde_json::{Map, Value};

use super::start::{self, SlotStart};
use super::{ChosenSlot, ReadyConfig, Slot, SlotRecord, SlotSet, SlotSettings, SlotState, SlotValues, StopSelection};
use crate::{Change, ChangeAction, Failure, Finding, Input, Receipt, log, time};

/// What keeps the programs of slots running, such as supervisord.
pub trait SlotEngine {
    /// The name of what runs in a slot for a record.
    fn name(&self, slot: &Slot, record: &SlotRecord) -> String;

    /// Checks that it answers.
    ///
    /// # Errors
    /// It does not.
    fn check(&self) -> Result<(), Failure>;

    /// Finds out whether the start would be refused, without a change.
    ///
    /// # Errors
    /// Why it would be.
    fn rehearse(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure>;

    /// Whether what is defined in the slot is what would be started, with its secrets: they are in no hash of the input.
    ///
    /// # Errors
    /// It can't be told.
    fn is_written(&self, launch: &SlotLaunch<'_>) -> Result<bool, Failure>;

    /// Defines what is to run in the slot.
    ///
    /// # Errors
    /// Why it can't be written.
    fn write(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure>;

    /// Starts it. It need not wait.
    ///
    /// # Errors
    /// Why it can't be started.
    fn start(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure>;

    /// What the engine knows of what a record says; none if it has no such program.
    ///
    /// # Errors
    /// The engine does not tell.
    fn info(&self, slot: &Slot, record: &SlotRecord) -> Result<Option<ProgramInfo>, Failure>;

    /// How a program has ended, as a sentence.
    fn ending(&self, slot: &Slot, record: &SlotRecord, info: &ProgramInfo) -> String;

    /// The last lines of its output.
    ///
    /// # Errors
    /// They can't be read.
    fn tail(&self, launch: &SlotLaunch<'_>, lines: usize) -> Result<Vec<String>, Failure>;

    /// Stops it and removes its definition, so that the engine does not start it again. What is missing is fine.
    ///
    /// # Errors
    /// Why it still runs.
    fn remove(&self, slot: &Slot, record: &SlotRecord) -> Result<(), Failure>;
}

/// A release that is to be started in a slot.
#[derive(Debug, Clone, Copy)]
pub struct SlotLaunch<'s> {
    /// All slots.
    pub set: &'s SlotSet,
    /// The slot.
    pub slot: &'s Slot,
    /// What the slot holds.
    pub found: Option<&'s SlotRecord>,
    /// What it is to hold.
    pub record: &'s SlotRecord,
    /// What its texts stand for.
    pub values: &'s SlotValues,
    /// The place for a log of its output.
    pub log: &'s str,
}

/// What an engine knows of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its state.
    pub state: SlotProgramState,
    /// A number that changes when it is started again, such as its process id; 0 if it does not run.
    pub process: i64,
    /// Why it could not be started; often empty.
    pub error: String,
}

/// The states of a program, as far as they matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotProgramState {
    /// It does not run, and nobody has started it.
    Stopped,
    /// It runs, perhaps not for long yet.
    Running,
    /// It is ending, because it was told to.
    Stopping,
    /// It has ended by itself.
    Ended,
}

/// The step of a module with slots.
#[derive(Debug)]
pub struct SlotStarter<'s, C, E> {
    pub(super) input: &'s Input<C>,
    pub(super) set: SlotSet,
    pub(super) engine: E,
    pub(super) ready: Option<&'s ReadyConfig>,
    pub(super) tail: usize,
    settings: SlotSettings<'s>,
    stop: Option<(StopSelection, Duration)>,
}

impl<'s, C, E: SlotEngine> SlotStarter<'s, C, E> {
    /// A step that starts a release. `tail` is how many lines of output a failure shows.
    ///
    /// # Errors
    /// As for [`SlotSet::read`].
    pub fn new(input: &'s Input<C>, settings: SlotSettings<'s>, engine: E, tail: usize) -> Result<Self, Failure> {
        let set = SlotSet::read(input, &settings, &[])?;
        Ok(Self { input, set, engine, ready: None, tail, settings, stop: None })
    }

    /// With the setting `ready`.
    #[must_use]
    pub fn ready(self, ready: Option<&'s ReadyConfig>) -> Self {
        Self { ready, ..self }
    }

    /// With the settings `stop` and `drain`: a step that stops slots instead.
    #[must_use]
    pub fn stop(self, stop: Option<StopSelection>, drain: Duration) -> Self {
        Self { stop: stop.map(|stop| (stop, drain)), ..self }
    }

    /// See [`Step::preview`](crate::Step::preview).
    ///
    /// # Errors
    /// An invalid setting.
    pub fn preview(&self) -> Result<Vec<Change>, Failure> {
        if let Some((selection, _)) = self.stop {
            let stopped = self.set.to_stop(self.input, selection)?;
            let change = |(slot, record): &(Slot, SlotRecord)| {
                let detail = format!("{} in slot {}", record.label, slot.name);
                Change::new(ChangeAction::Delete, self.engine.name(slot, record), detail)
            };
            return Ok(stopped.iter().map(change).collect());
        }
        for chosen in self.set.slots_of_release(self.input) {
            if SlotStart::new(self, chosen)?.is_recorded()? {
                return Ok(Vec::new());
            }
        }
        let chosen = self.set.free(self.input)?;
        let name = self.engine.name(&chosen.slot, &SlotRecord::starting(self.input, None));
        Ok(vec![Change::new(ChangeAction::Run, name, format!("in slot {}", chosen.slot.name))])
    }

    /// See [`Step::rehearse`](crate::Step::rehearse).
    ///
    /// # Errors
    /// Why `apply` would be refused.
    pub fn rehearse(&self) -> Result<(), Failure> {
        self.engine.check()?;
        if self.stop.is_some() {
            return Ok(());
        }
        SlotStart::new(self, self.free_slot()?)?.rehearse()
    }

    /// A slot to start in. While the link leads to no slot, it can't be told which program serves, so none that runs is touched.
    pub(super) fn free_slot(&self) -> Result<ChosenSlot, Failure> {
        let mut busy = Vec::new();
        for (slot, record) in self.set.slots() {
            if let Some(record) = record.as_ref().filter(|record| record.state == SlotState::Ready)
                && self.set.may_serve(slot)
                && self.engine.info(slot, record)?.is_some_and(|info| info.state == SlotProgramState::Running)
            {
                busy.push(slot);
            }
        }
        self.set.free_beside(self.input, &busy)
    }

    /// See [`Step::apply`](crate::Step::apply).
    ///
    /// # Errors
    /// Why nothing was started or stopped.
    pub fn apply(&self) -> Result<Receipt, Failure> {
        self.engine.check()?;
        if let Some((selection, drain)) = self.stop {
            return self.stop_slots(selection, drain);
        }
        for chosen in self.set.slots_of_release(self.input) {
            let start = SlotStart::new(self, chosen)?;
            if start.is_running()? {
                return start.adopt();
            }
        }
        let start = SlotStart::new(self, start::slot_to_start(self)?)?;
        start.start()?;
        start.receipt()
    }

    /// See [`Step::probe`](crate::Step::probe).
    ///
    /// # Errors
    /// The engine does not tell.
    pub fn probe(&self) -> Result<Finding, Failure> {
        if let Some((selection, _)) = self.stop {
            let left = self.set.to_stop(self.input, selection)?;
            return Ok(if left.is_empty() { Finding::Held(stopped_receipt()) } else { Finding::Absent });
        }
        let mut drift = None;
        for chosen in self.set.slots_of_release(self.input) {
            let start = SlotStart::new(self, chosen)?;
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

    /// See [`Step::revert`](crate::Step::revert).
    ///
    /// # Errors
    /// The slot has the traffic, or what runs there can't be stopped.
    pub fn revert(&self, receipt: &Receipt) -> Result<(), Failure> {
        if self.stop.is_some() {
            return Err(Failure::permanent("this step can't start again what it has stopped")
                .hint("deploy the release that you need; its slot is free"));
        }
        for chosen in self.set.slots_of_release(self.input) {
            // What this run found running is not this run's to stop.
            let is_of_run = chosen.record.as_ref().is_some_and(|record| record.key == self.input.key);
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
                self.remove(&chosen.slot, record)?;
            }
        }
        Ok(())
    }

    fn stop_slots(&self, selection: StopSelection, drain: Duration) -> Result<Receipt, Failure> {
        if self.set.to_stop(self.input, selection)?.is_empty() {
            return Ok(stopped_receipt().note("ran", false));
        }
        time::sleep(drain);
        // The traffic may have moved meanwhile.
        let set = SlotSet::read(self.input, &self.settings, &[])?;
        let mut stopped = Vec::new();
        for (slot, record) in set.to_stop(self.input, selection)? {
            self.remove(&slot, &record)?;
            log::info(format!("slot {}: {} is stopped", slot.name, record.label));
            stopped.push(Value::from(slot.name));
        }
        Ok(stopped_receipt().note("stopped", stopped))
    }

    /// Removes the program of a slot.
    pub(super) fn remove(&self, slot: &Slot, record: &SlotRecord) -> Result<(), Failure> {
        self.set.refuse_late(self.input)?;
        self.engine.remove(slot, record)?;
        self.set.clear_sockets(slot)?;
        self.set.clear(self.input, slot)
    }
}

fn stopped_receipt() -> Receipt {
    let names = ["slot", "to", "url"].map(|name| (name.to_owned(), Value::Null));
    Receipt { outputs: Map::from_iter(names), notes: Map::new() }
}
