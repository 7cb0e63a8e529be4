//! The stack of a release, and the way back to the one before.
//!
//! The order, for a kill at any point: the record "starting", with what was ready before, precedes everything that compose does; "ready"
//! follows when nothing more can fail.

use core::time::Duration;

use pawl_engine::{Engine, parse_reference};
use pawl_step::slots::{ReadyConfig, SlotRecord, SlotState, SlotValues};
use pawl_step::{Failure, Finding, Input, Receipt, fs, log, time};
use serde_json::{Map, Value};

use crate::ComposeConfig;
use crate::program::{Compose, ComposeService};
use crate::record::{ProjectRecord, StackRecord};
use crate::services::{self, ServiceContainer, ServiceStates, WantedService};

/// How many lines of a container's output a message has; the log has more.
const MESSAGE_LINES: usize = 3;

/// The stack of an input's release.
#[derive(Debug)]
pub(crate) struct Stack<'i> {
    input: &'i Input<ComposeConfig>,
    engine: Engine<'i>,
    /// The place of the record.
    place: String,
    /// What is written for it.
    stack: StackRecord,
}

impl<'i> Stack<'i> {
    pub(crate) fn new(input: &'i Input<ComposeConfig>) -> Result<Self, Failure> {
        let config = &input.config;
        let dir = input.dir("in", config.dir.as_deref(), &[])?;
        let record = SlotRecord::starting(input, Some(config.project.clone()));
        Ok(Self {
            input,
            engine: Engine::new(&config.engine),
            place: format!("{dir}/compose/{}.json", config.project),
            stack: StackRecord { record, file: config.file.clone(), env: config.env.clone() },
        })
    }

    /// What the project holds. It is this step's.
    pub(crate) fn record(&self) -> Result<Option<ProjectRecord>, Failure> {
        let found = ProjectRecord::read(&self.place)?;
        if let Some(found) = &found {
            found.stack.record.refuse_foreign(self.input, &self.place)?;
        }
        Ok(found)
    }

    /// Whether a record says that this release with this configuration is ready.
    pub(crate) fn is_up_by(&self, found: &ProjectRecord) -> bool {
        let record = &found.stack.record;
        record.state == SlotState::Ready
            && record.is_of_release(self.input)
            && record.input_hash == self.input.input_hash
    }

    fn compose(&self) -> Compose<'i> {
        Compose::new(self.input, &self.stack)
    }

    /// Checks what can be known before anything is changed.
    pub(crate) fn rehearse(&self) -> Result<(), Failure> {
        self.engine.check()?;
        let record = self.record()?;
        if let Some(record) = &record {
            record.refuse_late(self.input, &self.place)?;
        }
        if !fs::exists(&self.input.config.file)? {
            return Err(Failure::not_found(format!("`{}` does not exist", self.input.config.file))
                .hint("correct `file`, or the step that puts it into the release"));
        }
        let mut problems = Vec::new();
        for service in self.compose().services()? {
            problems.extend(self.image_problem(&service)?);
        }
        if !problems.is_empty() {
            return Err(Failure::not_found(problems.join("\n")).hint(
                "pull the images by a step `images` before this one: then a failed pull leaves the running containers alone",
            ));
        }
        let containers = self.containers()?;
        if record.is_none() && !containers.is_empty() {
            return Err(Failure::conflict(format!(
                "project {} has containers, but `{}` does not exist, so this step did not start them",
                self.input.config.project, self.place
            ))
            .hint("if nothing needs them, run `compose down` for the project once; then deploy again"));
        }
        self.refuse_taken_address(&containers)
    }

    /// Why `up` would have to pull or build.
    fn image_problem(&self, service: &ComposeService) -> Result<Option<String>, Failure> {
        let Some(image) = &service.image else {
            return Ok(Some(format!(
                "service {} has no `image`, so compose would build it during the deployment",
                service.name
            )));
        };
        if self.engine.image(&parse_reference(image)?)?.is_none() {
            return Ok(Some(format!("service {}: the engine does not have the image {image}", service.name)));
        }
        if !image.contains('@') {
            log::warn(format!(
                "service {}: `{image}` has no digest, so a rollback may start another image with this name",
                service.name
            ));
        }
        Ok(None)
    }

    /// Refuses an address that something else answers at.
    fn refuse_taken_address(&self, containers: &[ServiceContainer]) -> Result<(), Failure> {
        if containers.iter().any(ServiceContainer::runs) {
            return Ok(());
        }
        let Some(address) = self.input.config.ready.answering(&SlotValues::none())? else { return Ok(()) };
        Err(Failure::conflict(format!(
            "the port is taken: something already listens at {address}, and no container of project {} runs",
            self.input.config.project
        ))
        .hint("`ss -ltnp` shows which program listens; stop it, or publish another port"))
    }

    /// Brings the release up, or the one before again.
    pub(crate) fn apply(&self) -> Result<Receipt, Failure> {
        self.engine.check()?;
        let found = self.record()?;
        if let Some(found) = &found {
            found.refuse_late(self.input, &self.place)?;
            if self.is_up_by(found) && self.wrong()?.is_none() {
                // If an earlier run has brought it up, that stays so on record: an undo of this run does not take it down.
                let key = found.stack.record.key.clone();
                self.write_ready(&key, found.before.clone())?;
                return Ok(self.receipt().note("ran", false));
            }
        }
        let was_ready = found.as_ref().is_some_and(|found| found.is_ready_with(&self.stack));
        let before = found.and_then(|found| found.ready_before(&self.stack));
        ProjectRecord { stack: self.stack.clone(), before: before.clone() }.write(&self.place)?;
        let Err(failure) = self.compose().up().and_then(|()| self.await_ready()) else {
            self.write_ready(&self.stack.record.key, before)?;
            return Ok(self.receipt());
        };
        let failure = self.with_output(failure);
        // It was this before, and did not run as it should.
        if was_ready {
            return Err(failure);
        }
        match self.put_back(before.as_ref()) {
            Ok(how) => Err(Failure { message: format!("{}; {how}", failure.message), ..failure }),
            Err(left) => Err(Failure {
                message: format!("{}; and the state before could not be restored: {}", failure.message, left.message),
                ..failure
            }),
        }
    }

    fn write_ready(&self, key: &str, before: Option<StackRecord>) -> Result<(), Failure> {
        let mut stack = self.stack.with_state(SlotState::Ready);
        key.clone_into(&mut stack.record.key);
        ProjectRecord { stack, before }.write(&self.place)
    }

    /// Brings the release before up, or takes everything down if there was none. Returns how it is now.
    fn put_back(&self, before: Option<&StackRecord>) -> Result<String, Failure> {
        if let Some(found) = self.record()? {
            found.refuse_late(self.input, &self.place)?;
        }
        let Some(before) = before else {
            self.compose().down()?;
            fs::remove(&self.place)?;
            return Ok("nothing ran before, so all containers are removed".to_owned());
        };
        if !fs::exists(&before.file)? {
            return Err(Failure::not_found(format!("`{}` does not exist any more", before.file)));
        }
        let compose = Compose::new(self.input, before);
        compose.up()?;
        let states = self.states(&compose)?;
        if !states.bad.is_empty() {
            return Err(Failure::permanent(states.bad.join(", ")));
        }
        self.ready_of_any_release().wait(&SlotValues::none(), || Ok(()))?;
        let mut stack = before.clone();
        stack.record.epoch = self.stack.record.epoch.clone();
        ProjectRecord { stack, before: None }.write(&self.place)?;
        Ok(format!("{} runs again", before.record.label))
    }

    /// When the release before is ready: what the answers contain may be about this one.
    fn ready_of_any_release(&self) -> ReadyConfig {
        let mut ready = self.input.config.ready.clone();
        ready.stay = Duration::ZERO;
        for check in &mut ready.http {
            check.contains = None;
        }
        ready
    }

    fn receipt(&self) -> Receipt {
        Receipt::new().output("project", self.input.config.project.as_str())
    }

    /// What is wrong with the release as it runs; nothing if all is good.
    fn wrong(&self) -> Result<Option<String>, Failure> {
        let states = self.states(&self.compose())?;
        if !states.bad.is_empty() {
            return Ok(Some(states.bad.join(", ")));
        }
        self.input.config.ready.check(&SlotValues::none())
    }

    /// Compares the containers of the project with what compose would make of a file.
    fn states(&self, compose: &Compose<'_>) -> Result<ServiceStates, Failure> {
        let containers = services::with_images(self.containers()?, &self.engine)?;
        let wanted: Vec<_> = compose.hashes()?.into_iter().map(|(name, hash)| WantedService { name, hash }).collect();
        Ok(services::compare(&wanted, &containers))
    }

    pub(crate) fn probe(&self) -> Result<Finding, Failure> {
        self.engine.check()?;
        let found = self.record()?;
        if !fs::exists(&self.input.config.file)? {
            return Ok(Finding::Absent);
        }
        let states = self.states(&self.compose())?;
        if states.good.is_empty() {
            return Ok(Finding::Absent);
        }
        if !states.bad.is_empty() {
            let good = states.good.join(", ");
            return Ok(Finding::Unknown(format!(
                "project {}: {good} runs as it should, but {}",
                self.input.config.project,
                states.bad.join(", ")
            )));
        }
        if !found.is_some_and(|found| self.is_up_by(&found)) {
            // Begun, or another release that is the same for compose.
            return Ok(Finding::Absent);
        }
        Ok(match self.input.config.ready.check(&SlotValues::none())? {
            None => Finding::Held(self.receipt()),
            Some(why) => {
                Finding::Drifted(format!("project {} runs, but it is not ready: {why}", self.input.config.project))
            }
        })
    }

    /// Goes back to the release before, if this run has brought up what is there.
    pub(crate) fn revert(&self) -> Result<(), Failure> {
        let Some(found) = self.record()? else { return Ok(()) };
        found.refuse_late(self.input, &self.place)?;
        let record = &found.stack.record;
        if record.key != self.input.key || !record.is_of_release(self.input) {
            return Ok(());
        }
        let how = self.put_back(found.before.as_ref())?;
        log::info(how);
        Ok(())
    }

    fn containers(&self) -> Result<Vec<ServiceContainer>, Failure> {
        services::containers(&self.engine, &self.input.config.project)
    }

    fn await_ready(&self) -> Result<(), Failure> {
        let (mut first, began) = (None, time::since_epoch());
        self.input.config.ready.wait(&SlotValues::none(), || {
            let containers = self.containers()?;
            let Some(ended) = services::ended(&mut first, &containers) else { return Ok(()) };
            let how = self.engine.ending(&ended.container, began);
            Err(Failure::permanent(format!("service {}: {how}", ended.service)))
        })
    }

    /// Adds the end of the output of the containers that have ended to a failure; of all, if none has.
    fn with_output(&self, failure: Failure) -> Failure {
        let shown = self.input.config.tail;
        let Ok(mut containers) = self.containers() else { return failure };
        if containers.iter().any(ServiceContainer::has_failed) {
            containers.retain(ServiceContainer::has_failed);
        }
        let mut said = vec![failure.message];
        let mut output = Map::new();
        for container in containers.iter().filter(|_| shown > 0) {
            let Ok(lines) = self.engine.tail(&container.container.name, shown) else { continue };
            for line in &lines {
                log::warn(format!("{}: {line}", container.service));
            }
            let end = match lines.len() {
                0 => "nothing".to_owned(),
                count => lines[count.saturating_sub(MESSAGE_LINES)..].join("\n"),
            };
            said.push(format!("{} wrote: {end}", container.service));
            output.insert(container.service.clone(), lines.into_iter().map(Value::from).collect());
        }
        Failure { message: said.join("; "), ..failure }.detail("output", output)
    }
}
