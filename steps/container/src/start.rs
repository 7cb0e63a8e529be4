//! The start of a release in one slot, and the way back.
//!
//! The order, for a kill at any point: the record "starting" before anything exists in the engine, so that the next call finds what to
//! remove; "ready" when nothing more can fail.

use core::time::Duration;

use pawl_engine::{Container, ContainerState, Engine};
use pawl_step::slots::{ChosenSlot, ReadyConfig, Slot, SlotRecord, SlotSet, SlotState, SlotValues};
use pawl_step::{Failure, Input, Receipt, log, time};
use serde_json::Value;

use crate::ContainerStepConfig;
use crate::definition::{ContainerConfig, ContainerDefinition, DEFINITION_LABEL, SlotContainer};

/// How many lines of the container's output a message has; the log has more.
const MESSAGE_LINES: usize = 3;

/// The start of this input's release in a slot.
#[derive(Debug)]
pub(crate) struct SlotStart<'i> {
    input: &'i Input<ContainerStepConfig>,
    set: &'i SlotSet,
    chosen: ChosenSlot,
    config: &'i ContainerConfig,
    ready: &'i ReadyConfig,
    values: SlotValues,
    container: SlotContainer,
    /// The record that is written for it.
    record: SlotRecord,
}

/// The slot to start the release in: one where that was begun and that has no traffic, or that has it and does not run; else a free one.
pub(crate) fn slot_to_start(input: &Input<ContainerStepConfig>, set: &SlotSet) -> Result<ChosenSlot, Failure> {
    for chosen in set.slots_of_release(input) {
        if !chosen.is_linked || !SlotStart::new(input, set, chosen.clone())?.is_alive()? {
            return Ok(chosen);
        }
    }
    set.free(input)
}

/// Stops and removes what a slot has in the engine, and empties the slot.
pub(crate) fn remove(input: &Input<ContainerStepConfig>, set: &SlotSet, slot: &Slot) -> Result<(), Failure> {
    set.refuse_late(input)?;
    let container = SlotContainer::new(input, set, slot)?;
    let engine = input.config.engine();
    for name in engine.containers(&container.own_labels())? {
        engine.remove(&name, input.config.stop_timeout)?;
    }
    container.remove_secrets()?;
    set.clear(input, slot)
}

impl<'i> SlotStart<'i> {
    pub(crate) fn new(
        input: &'i Input<ContainerStepConfig>,
        set: &'i SlotSet,
        chosen: ChosenSlot,
    ) -> Result<Self, Failure> {
        let (Some(config), Some(ready)) = (&input.config.container, &input.config.ready) else {
            return Err(Failure::invalid_config("`container` and `ready` are missing"));
        };
        let container = SlotContainer::new(input, set, &chosen.slot)?;
        let record = SlotRecord::starting(input, None);
        let record = SlotRecord { engine_id: Some(container.name(&record)), ..record };
        let values = set.values(input, &chosen.slot)?;
        Ok(Self { input, set, chosen, config, ready, values, container, record })
    }

    pub(crate) fn name(&self) -> String {
        self.container.name(&self.record)
    }

    /// Checks what can be known before anything is changed.
    pub(crate) fn rehearse(&self) -> Result<(), Failure> {
        let definition = self.definition()?;
        self.ready.url(&self.values)?;
        self.refuse_missing_image(&definition)?;
        self.refuse_foreign_container()?;
        self.refuse_taken_address()
    }

    /// Whether the slot is recorded as ready, with what would be started.
    pub(crate) fn is_recorded(&self) -> Result<bool, Failure> {
        let is_ready = self.chosen.record.as_ref().is_some_and(|record| record.state == SlotState::Ready);
        Ok(is_ready && self.is_defined()?)
    }

    /// Whether the container of this slot is the one that would be started, and runs.
    pub(crate) fn is_running(&self) -> Result<bool, Failure> {
        Ok(self.is_alive()? && self.is_defined()?)
    }

    /// Whether the container is the one that would be created, of the same image and with the same secrets: they are in no hash of the input.
    fn is_defined(&self) -> Result<bool, Failure> {
        let definition = self.definition()?;
        let Some(container) = self.own_container()? else { return Ok(false) };
        let image = self.engine().image(&definition.image)?;
        Ok(container.label(DEFINITION_LABEL) == Some(&definition.hash())
            && image.is_some_and(|image| image.id == container.image)
            && self.container.has_secrets(self.set, self.config)?)
    }

    /// Whether the container of this slot runs.
    fn is_alive(&self) -> Result<bool, Failure> {
        Ok(self.own_container()?.is_some_and(|container| container.state == ContainerState::Running))
    }

    fn own_container(&self) -> Result<Option<Container>, Failure> {
        let found = self.engine().container(&self.name())?;
        Ok(found.filter(|container| self.container.is_own(&container.labels)))
    }

    /// Why the container does not answer as it should; nothing if it does.
    pub(crate) fn not_ready(&self) -> Result<Option<String>, Failure> {
        self.ready.check(&self.values)
    }

    /// Starts the container, and waits until it is ready.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        let definition = self.definition()?;
        self.refuse_missing_image(&definition)?;
        self.refuse_foreign_container()?;
        remove(self.input, self.set, &self.chosen.slot)?;
        self.refuse_taken_address()?;
        let began = time::since_epoch();
        self.finish(self.launch(&definition), began, &self.record.key)
    }

    /// Checks the container of this slot, which runs already; waits for it if it was being started. If an earlier run has started it, that
    /// stays so on record: an undo of this run does not stop it.
    pub(crate) fn adopt(&self) -> Result<Receipt, Failure> {
        let found = self.chosen.record.as_ref().filter(|found| found.state == SlotState::Ready);
        let Some(found) = found else {
            self.finish(Ok(()), time::since_epoch(), &self.record.key)?;
            return self.receipt();
        };
        if self.not_ready()?.is_some() {
            self.finish(Ok(()), time::since_epoch(), &found.key)?;
        } else {
            self.set.write(self.input, &self.chosen.slot, &self.ready_record(&found.key))?;
        }
        Ok(self.receipt()?.note("ran", false))
    }

    /// Waits until the launched container is ready. If that fails, it removes the container, unless that has the traffic.
    fn finish(&self, launched: Result<(), Failure>, began: Duration, key: &str) -> Result<(), Failure> {
        let slot = &self.chosen.slot;
        let Err(failure) = launched.and_then(|()| self.await_ready(began)) else {
            return self.set.write(self.input, slot, &self.ready_record(key));
        };
        let failure = self.with_output(failure);
        if self.chosen.is_linked {
            return Err(failure);
        }
        match remove(self.input, self.set, slot) {
            Ok(()) => Err(failure),
            Err(left) => Err(Failure {
                message: format!("{}; and it could not be removed again: {}", failure.message, left.message),
                ..failure
            }),
        }
    }

    fn ready_record(&self, key: &str) -> SlotRecord {
        SlotRecord { key: key.to_owned(), state: SlotState::Ready, ..self.record.clone() }
    }

    pub(crate) fn receipt(&self) -> Result<Receipt, Failure> {
        let slot = &self.chosen.slot;
        let url = self.ready.url(&self.values)?.map_or(Value::Null, Value::from);
        Ok(Receipt::new()
            .output("slot", slot.name.as_str())
            .output("to", slot.path())
            .output("url", url)
            .note("container", self.name()))
    }

    fn launch(&self, definition: &ContainerDefinition) -> Result<(), Failure> {
        self.set.write(self.input, &self.chosen.slot, &self.record)?;
        self.container.write_secrets(self.set, self.config)?;
        self.set.refuse_late(self.input)?;
        let engine = self.engine();
        engine.create(&self.name(), &self.container.body(definition, &self.record))?;
        engine.start(&self.name())
    }

    fn await_ready(&self, began: Duration) -> Result<(), Failure> {
        let (engine, mut first) = (self.engine(), None);
        self.ready.wait(&self.values, || {
            watch(&mut first, self.own_container()?, |container| engine.ending(container, began))
        })
    }

    fn engine(&self) -> Engine<'i> {
        self.input.config.engine()
    }

    fn definition(&self) -> Result<ContainerDefinition, Failure> {
        self.container.definition(self.input, self.config, &self.chosen.slot, &self.values)
    }

    fn refuse_missing_image(&self, definition: &ContainerDefinition) -> Result<(), Failure> {
        if self.engine().image(&definition.image)?.is_some() {
            return Ok(());
        }
        Err(Failure::not_found(format!("the engine does not have the image {}", definition.image))
            .hint("add a step `images` before this one, which pulls it; check the name"))
    }

    /// Refuses a container of this name that is not this slot's.
    fn refuse_foreign_container(&self) -> Result<(), Failure> {
        let name = self.name();
        match self.engine().container(&name)? {
            Some(container) if !self.container.is_own(&container.labels) => Err(Failure::conflict(format!(
                "a container {name} exists, which this step did not start in this folder"
            ))
            .hint("find out whose it is; if nothing needs it, remove it")),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses an address that something else answers at.
    fn refuse_taken_address(&self) -> Result<(), Failure> {
        let engine = self.engine();
        for name in engine.containers(&self.container.own_labels())? {
            if engine.container(&name)?.is_some_and(|container| container.state == ContainerState::Running) {
                return Ok(());
            }
        }
        let Some(address) = self.ready.answering(&self.values)? else { return Ok(()) };
        Err(Failure::conflict(format!(
            "something answers at {address} already, and nothing of slot {} runs: its port is taken",
            self.chosen.slot.name
        ))
        .hint("`ss -ltnp` shows which program listens; stop it, or give the slot another port"))
    }

    /// Adds the end of the container's output to a failure.
    fn with_output(&self, failure: Failure) -> Failure {
        let shown = self.input.config.tail;
        let failure = failure.context(format!("{} in slot {}", self.name(), self.chosen.slot.name));
        let lines = match self.own_container() {
            Ok(Some(_)) if shown > 0 => self.engine().tail(&self.name(), shown),
            Ok(_) => return failure,
            Err(cause) => Err(cause),
        };
        let lines = match lines {
            Ok(lines) => lines,
            Err(cause) => {
                log::warn(format!("the output of {} can't be read: {}", self.name(), cause.message));
                return failure;
            }
        };
        for line in &lines {
            log::warn(format!("{}: {line}", self.name()));
        }
        let said = match lines.len() {
            0 => "it wrote nothing".to_owned(),
            count => lines[count.saturating_sub(MESSAGE_LINES)..].join("\n"),
        };
        let message = format!("{}: {said}", failure.message);
        let lines: Vec<Value> = lines.into_iter().map(Value::from).collect();
        Failure { message, ..failure }.detail("output", lines)
    }
}

/// Ends the wait when the container has ended. `first` is when it was seen to have started first: another time means that the engine has
/// started it again.
fn watch(
    first: &mut Option<String>,
    container: Option<Container>,
    ending: impl FnOnce(&Container) -> String,
) -> Result<(), Failure> {
    let Some(container) = container else {
        return Err(Failure::conflict("somebody has removed it from the engine"));
    };
    match (container.state, first.as_deref()) {
        (ContainerState::Ended, _) => Err(Failure::permanent(ending(&container))),
        (ContainerState::Running, Some(first)) if container.started_at != first => {
            Err(Failure::permanent(ending(&container)))
        }
        (ContainerState::Running, None) => {
            *first = Some(container.started_at);
            Ok(())
        }
        (ContainerState::Running | ContainerState::Created, _) => Ok(()),
    }
}
