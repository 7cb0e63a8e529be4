//! A container engine as what keeps the releases of slots running.

use core::time::Duration;

use pawl_engine::{Container, ContainerState, Engine};
use pawl_step::slots::{ProgramInfo, Slot, SlotEngine, SlotLaunch, SlotProgramState, SlotRecord};
use pawl_step::{Failure, Input, time};

use crate::ContainerStepConfig;
use crate::definition::{self, ContainerConfig, ContainerDefinition, DEFINITION_LABEL, SlotNames};

/// The engine of a step.
#[derive(Debug)]
pub(crate) struct ContainerEngine<'i> {
    pub(crate) input: &'i Input<ContainerStepConfig>,
    /// Since 1970: what happened before is not of this call.
    pub(crate) began: Duration,
}

impl<'i> ContainerEngine<'i> {
    pub(crate) fn new(input: &'i Input<ContainerStepConfig>) -> Self {
        Self { input, began: time::since_epoch() }
    }

    fn engine(&self) -> Engine<'i> {
        Engine::new(&self.input.config.engine)
    }

    fn config(&self) -> Result<&'i ContainerConfig, Failure> {
        let config = self.input.config.container.as_ref();
        config.ok_or_else(|| Failure::invalid_config("`container` is missing"))
    }

    fn definition(&self, launch: &SlotLaunch<'_>) -> Result<ContainerDefinition, Failure> {
        let names = self.names(launch.slot, launch.record);
        definition::define(self.input, self.config()?, &names, launch)
    }

    fn names(&self, slot: &Slot, record: &SlotRecord) -> SlotNames {
        SlotNames::new(&self.input.config, slot, record)
    }

    /// The container of a record, if this slot has started it.
    fn container(&self, slot: &Slot, record: &SlotRecord) -> Result<Option<Container>, Failure> {
        let found = self.engine().container(&self.name(slot, record))?;
        let labels = definition::own_labels(self.input, slot)?;
        Ok(found.filter(|container| container.has_labels(&labels)))
    }

    fn refuse_missing_image(&self, definition: &ContainerDefinition) -> Result<(), Failure> {
        if self.engine().image(&definition.image)?.is_some() {
            return Ok(());
        }
        Err(Failure::not_found(format!("the engine does not have the image {}", definition.image))
            .hint("add a step `images` before this one, which pulls it; check the name"))
    }

    /// Refuses a container of this name that is not this slot's.
    fn refuse_foreign_container(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure> {
        let name = self.name(launch.slot, launch.record);
        let labels = definition::own_labels(self.input, launch.slot)?;
        match self.engine().container(&name)? {
            Some(container) if !container.has_labels(&labels) => Err(Failure::conflict(format!(
                "a container {name} exists, which this step did not start in this folder"
            ))
            .hint("find out whose it is; if nothing needs it, remove it")),
            Some(_) | None => Ok(()),
        }
    }

    /// Stops and removes all containers of a slot, also those that no record tells of.
    fn remove_all(&self, slot: &Slot) -> Result<(), Failure> {
        let engine = self.engine();
        for name in engine.containers(&definition::own_labels(self.input, slot)?)? {
            engine.remove(&name, self.input.config.stop_timeout)?;
        }
        Ok(())
    }
}

impl SlotEngine for ContainerEngine<'_> {
    fn name(&self, slot: &Slot, record: &SlotRecord) -> String {
        self.names(slot, record).container()
    }

    fn check(&self) -> Result<(), Failure> {
        self.engine().check()
    }

    fn rehearse(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure> {
        self.refuse_missing_image(&self.definition(launch)?)?;
        self.refuse_foreign_container(launch)
    }

    fn is_written(&self, launch: &SlotLaunch<'_>) -> Result<bool, Failure> {
        let definition = self.definition(launch)?;
        let Some(container) = self.container(launch.slot, launch.record)? else { return Ok(false) };
        let image = self.engine().image(&definition.image)?;
        Ok(container.label(DEFINITION_LABEL) == Some(&definition.hash())
            && image.is_some_and(|image| image.id == container.image)
            && self.names(launch.slot, launch.record).has_secrets(launch.set, self.config()?)?)
    }

    fn write(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure> {
        self.remove_all(launch.slot)?;
        self.names(launch.slot, launch.record).write_secrets(launch.set, self.config()?)?;
        let labels = definition::own_labels(self.input, launch.slot)?;
        let body = self.definition(launch)?.body(&labels, launch.record);
        self.engine().create(&self.name(launch.slot, launch.record), &body)
    }

    fn start(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure> {
        self.engine().start(&self.name(launch.slot, launch.record))
    }

    fn info(&self, slot: &Slot, record: &SlotRecord) -> Result<Option<ProgramInfo>, Failure> {
        let info = |container: Container| ProgramInfo {
            state: match container.state {
                ContainerState::Created => SlotProgramState::Stopped,
                ContainerState::Running => SlotProgramState::Running,
                ContainerState::Ended => SlotProgramState::Ended,
            },
            process: container.pid,
            error: container.error,
        };
        Ok(self.container(slot, record)?.map(info))
    }

    fn ending(&self, slot: &Slot, record: &SlotRecord, info: &ProgramInfo) -> String {
        match self.container(slot, record) {
            Ok(Some(container)) => self.engine().ending(&container, self.began),
            Ok(None) | Err(_) if info.error.is_empty() => "it ended".to_owned(),
            Ok(None) | Err(_) => format!("it ended: {}", info.error),
        }
    }

    fn tail(&self, launch: &SlotLaunch<'_>, lines: usize) -> Result<Vec<String>, Failure> {
        match self.container(launch.slot, launch.record)? {
            Some(container) if lines > 0 => self.engine().tail(&container.name, lines),
            Some(_) | None => Ok(Vec::new()),
        }
    }

    fn remove(&self, slot: &Slot, record: &SlotRecord) -> Result<(), Failure> {
        self.remove_all(slot)?;
        self.names(slot, record).remove_secrets()
    }
}
