//! The stack of a release, and the way back to the one before.
//!
//! The order, for a kill at any point: the record "starting", with what was ready before, precedes everything that compose does; "ready"
//! follows when nothing more can fail.

use pawl_step::slots::{SlotRecord, SlotState, SlotValues};
use pawl_step::{Failure, FailureKind, Finding, Input, Receipt, fs, log};
use serde_json::{Map, Value};

use crate::ComposeConfig;
use crate::engine::{ContainerState, Engine, ServiceContainer};
use crate::program::{Compose, ComposeService};
use crate::record::{ProjectRecord, StackRecord};

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

/// Which services of a compose file run as it says.
#[derive(Debug, Default, PartialEq, Eq)]
struct ServiceStates {
    good: Vec<String>,
    /// Each with what is wrong.
    bad: Vec<String>,
}

impl<'i> Stack<'i> {
    pub(crate) fn new(input: &'i Input<ComposeConfig>) -> Result<Self, Failure> {
        let config = &input.config;
        let dir = input.dir("in", config.dir.as_deref(), &[])?;
        let record = SlotRecord::starting(input, Some(config.project.clone()));
        Ok(Self {
            input,
            engine: Engine { socket: &config.engine },
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
        self.compose().check()?;
        let mut problems = Vec::new();
        for service in self.compose().services()? {
            problems.extend(self.image_problem(&service)?);
        }
        if !problems.is_empty() {
            return Err(Failure::not_found(problems.join("\n")).hint(
                "pull the images by a step `images` before this one: then a failed pull leaves the running containers alone",
            ));
        }
        let containers = self.engine.containers(&self.input.config.project)?;
        if record.is_none() && !containers.is_empty() {
            return Err(Failure::conflict(format!(
                "project {} has containers, but `{}` does not exist, so this step did not start them",
                self.input.config.project, self.place
            ))
            .hint("if they may go, run `compose down` for the project once; the first deployment starts it anew"));
        }
        self.refuse_taken_address(&containers)
    }

    /// Why `up` would have to pull or build.
    fn image_problem(&self, service: &ComposeService) -> Result<Option<String>, Failure> {
        let Some(image) = &service.image else {
            return Ok(Some(format!("service {} has no `image`, so it would be built in the middle", service.name)));
        };
        if self.engine.image_id(image)?.is_none() {
            return Ok(Some(format!("service {}: the engine does not have the image {image}", service.name)));
        }
        if !image.contains('@') {
            log::warn(format!(
                "service {}: `{image}` has no digest, so the way back may start another image of this name",
                service.name
            ));
        }
        Ok(None)
    }

    /// Refuses an address that something else answers at.
    fn refuse_taken_address(&self, containers: &[ServiceContainer]) -> Result<(), Failure> {
        if containers.iter().any(|container| container.state == ContainerState::Running) {
            return Ok(());
        }
        let Some(address) = self.input.config.ready.answering(&SlotValues::none())? else { return Ok(()) };
        Err(Failure::conflict(format!(
            "something answers at {address} already, and nothing of project {} runs: its port is taken",
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
        let was_of_release = found.as_ref().is_some_and(|found| {
            found.stack.record.state == SlotState::Ready && found.stack.record.is_of_release(self.input)
        });
        let before = found.and_then(|found| found.ready_before(self.input));
        ProjectRecord { stack: self.stack.clone(), before: before.clone() }.write(&self.place)?;
        let Err(failure) = self.compose().up().and_then(|()| self.await_ready()) else {
            self.write_ready(&self.stack.record.key, before)?;
            return Ok(self.receipt());
        };
        let failure = self.with_output(failure);
        // The same release with another configuration, or started anew: there is nothing to go back to.
        if was_of_release {
            return Err(failure);
        }
        match self.put_back(before.as_ref()) {
            Ok(how) => Err(Failure { message: format!("{}; {how}", failure.message), ..failure }),
            Err(left) => Err(Failure {
                message: format!("{}; and what was before could not be put back: {}", failure.message, left.message),
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
        let mut stack = before.clone();
        stack.record.epoch = self.stack.record.epoch.clone();
        ProjectRecord { stack, before: None }.write(&self.place)?;
        Ok(format!("{} runs again", before.record.label))
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
        let containers = self.engine.containers(&self.input.config.project)?;
        let (hashes, services) = (compose.hashes()?, compose.services()?);
        let mut wanted = Vec::new();
        for (name, hash) in hashes {
            let image = services.iter().find(|service| service.name == name).and_then(|service| service.image.as_ref());
            let image_id = match image {
                Some(image) => self.engine.image_id(image)?,
                None => None,
            };
            wanted.push(WantedService { name, hash, image_id });
        }
        Ok(compare(&wanted, &containers))
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
                "of project {}, {good} is as it should be, but {}",
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

    fn await_ready(&self) -> Result<(), Failure> {
        let mut first = None;
        self.input.config.ready.wait(&SlotValues::none(), || {
            let containers = self.engine.containers(&self.input.config.project)?;
            watch(&mut first, &containers)
        })
    }

    /// Adds the end of the output of the containers that do not run to a failure; of all, if they do.
    fn with_output(&self, failure: Failure) -> Failure {
        let shown = self.input.config.tail;
        let containers = match self.engine.containers(&self.input.config.project) {
            Ok(containers) if shown > 0 => containers,
            Ok(_) | Err(_) => return failure,
        };
        let is_ended = |container: &&ServiceContainer| matches!(container.state, ContainerState::Ended(_));
        let has_ended = containers.iter().any(|container| is_ended(&container) || container.restarts > 0);
        let mut said = Vec::new();
        let mut output = Map::new();
        for container in &containers {
            if has_ended && !is_ended(&container) && container.restarts == 0 {
                continue;
            }
            let Ok(lines) = self.engine.tail(&container.id, shown) else { continue };
            for line in &lines {
                log::warn(format!("{}: {line}", container.service));
            }
            if !lines.is_empty() {
                let end = lines[lines.len().saturating_sub(MESSAGE_LINES)..].join("\n");
                said.push(format!("{} wrote: {end}", container.service));
            }
            output.insert(container.service.clone(), lines.into_iter().map(Value::from).collect());
        }
        if has_ended && said.is_empty() {
            said.push("it wrote nothing".to_owned());
        }
        let message = [vec![failure.message], said].concat().join("; ");
        Failure { message, ..failure }.detail("output", output)
    }
}

/// What compose would make of a service.
struct WantedService {
    name: String,
    hash: String,
    image_id: Option<String>,
}

/// Compares containers with what they should be.
fn compare(wanted: &[WantedService], containers: &[ServiceContainer]) -> ServiceStates {
    let mut states = ServiceStates::default();
    for WantedService { name, hash, image_id } in wanted {
        let mut of_service = containers.iter().filter(|container| container.service == *name).peekable();
        let is_missing = of_service.peek().is_none();
        let wrong = of_service.find_map(|container| {
            if container.hash != *hash {
                return Some(format!("{name} has another configuration"));
            }
            if image_id.as_ref().is_some_and(|id| *id != container.image_id) {
                return Some(format!("{name} has another image"));
            }
            match container.state {
                ContainerState::Running | ContainerState::Done => None,
                ContainerState::Ended(status) => Some(format!("{name} has ended with status {status}")),
                ContainerState::Created => Some(format!("{name} was not started")),
            }
        });
        match wrong {
            _ if is_missing => states.bad.push(format!("{name} has no container")),
            Some(wrong) => states.bad.push(wrong),
            None => states.good.push(name.clone()),
        }
    }
    for container in containers {
        if !wanted.iter().any(|service| service.name == container.service) {
            states.bad.push(format!("{} is not in the compose file", container.service));
        }
    }
    states
}

/// Ends the wait when a container has ended. `first` is how often the containers were started again when they were seen first.
fn watch(first: &mut Option<Vec<(String, i64)>>, containers: &[ServiceContainer]) -> Result<(), Failure> {
    for container in containers {
        if let ContainerState::Ended(status) = container.state {
            return Err(Failure::permanent(format!("service {} ended: exit status {status}", container.service)));
        }
    }
    let found: Vec<(String, i64)> =
        containers.iter().map(|container| (container.id.clone(), container.restarts)).collect();
    let first = first.get_or_insert_with(|| found.clone());
    for container in containers {
        let before = first.iter().find(|(id, _)| *id == container.id).map_or(0, |(_, restarts)| *restarts);
        if container.restarts > before {
            let message = format!("service {} ended, and the engine has started it again", container.service);
            return Err(Failure::new(FailureKind::Permanent, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(service: &str, hash: &str, state: ContainerState, restarts: i64) -> ServiceContainer {
        let name = service.to_owned();
        ServiceContainer {
            id: name.clone(),
            service: name,
            hash: hash.to_owned(),
            image_id: "i".to_owned(),
            state,
            restarts,
        }
    }

    fn wanted(name: &str) -> WantedService {
        WantedService { name: name.to_owned(), hash: "h".to_owned(), image_id: Some("i".to_owned()) }
    }

    #[test]
    fn services_are_compared_with_their_containers() {
        use ContainerState::{Created, Done, Ended, Running};
        let all = ["web", "job", "old", "gone", "new", "dead"].map(wanted);
        let containers = [
            container("web", "h", Running, 3),
            container("job", "h", Done, 0),
            container("old", "x", Running, 0),
            container("new", "h", Created, 0),
            container("dead", "h", Ended(3), 0),
            container("extra", "h", Running, 0),
        ];
        let states = compare(&all, &containers);
        assert_eq!(states.good, ["web", "job"]);
        assert_eq!(
            states.bad,
            [
                "old has another configuration",
                "gone has no container",
                "new was not started",
                "dead has ended with status 3",
                "extra is not in the compose file",
            ]
        );
        let mut other = container("web", "h", Running, 0);
        other.image_id = "j".to_owned();
        assert_eq!(compare(&[wanted("web")], &[other]).bad, ["web has another image"]);
    }

    #[test]
    fn end_of_a_container_is_noticed() {
        use ContainerState::{Done, Ended, Running};
        let watched = |looks: &[ServiceContainer]| {
            let mut first = None;
            looks
                .iter()
                .try_for_each(|look| watch(&mut first, core::slice::from_ref(look)))
                .map_err(|failure| failure.message)
        };
        assert_eq!(watched(&[container("web", "h", Running, 2), container("web", "h", Running, 2)]), Ok(()));
        assert_eq!(watched(&[container("job", "h", Done, 0)]), Ok(()));
        assert_eq!(watched(&[container("web", "h", Ended(3), 0)]), Err("service web ended: exit status 3".to_owned()));
        let again = watched(&[container("web", "h", Running, 0), container("web", "h", Running, 1)]);
        assert_eq!(again, Err("service web ended, and the engine has started it again".to_owned()));
    }
}
