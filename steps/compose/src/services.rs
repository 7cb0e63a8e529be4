//! The containers of a project, compared with what compose would make of a file.

use pawl_engine::{Container, ContainerState, Engine};
use pawl_step::Failure;

/// Compose labels containers with the project, the service, and the hash of its configuration.
const PROJECT_LABEL: &str = "com.docker.compose.project";
const SERVICE_LABEL: &str = "com.docker.compose.service";
const HASH_LABEL: &str = "com.docker.compose.config-hash";
const ONE_OFF_LABEL: &str = "com.docker.compose.oneoff";

/// A container of a project.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceContainer {
    pub(crate) service: String,
    pub(crate) container: Container,
}

/// What compose would make of a service.
#[derive(Debug)]
pub(crate) struct WantedService {
    pub(crate) name: String,
    pub(crate) hash: String,
    /// The id of its image.
    pub(crate) image: Option<String>,
}

/// Which services of a compose file run as it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceStates {
    pub(crate) good: Vec<String>,
    /// Each with what is wrong.
    pub(crate) bad: Vec<String>,
}

impl ServiceContainer {
    pub(crate) fn runs(&self) -> bool {
        self.container.state == ContainerState::Running
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.container.state == ContainerState::Ended && !self.container.is_done()
    }

    fn wrong(&self, wanted: &WantedService) -> Option<&'static str> {
        if self.container.label(HASH_LABEL) != Some(&wanted.hash) {
            return Some("has another configuration");
        }
        if wanted.image.as_ref().is_some_and(|image| *image != self.container.image) {
            return Some("has another image");
        }
        match self.container.state {
            ContainerState::Running => None,
            ContainerState::Ended if self.container.is_done() => None,
            ContainerState::Ended => Some("has ended"),
            ContainerState::Created => Some("was not started"),
        }
    }
}

/// The containers of a project, sorted by their services, without what somebody runs once.
pub(crate) fn containers(engine: &Engine<'_>, project: &str) -> Result<Vec<ServiceContainer>, Failure> {
    let mut found = Vec::new();
    for name in engine.containers(&[(PROJECT_LABEL, project)])? {
        let Some(container) = engine.container(&name)? else { continue };
        let is_one_off = container.label(ONE_OFF_LABEL).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if !is_one_off {
            let service = container.label(SERVICE_LABEL).unwrap_or_default().to_owned();
            found.push(ServiceContainer { service, container });
        }
    }
    found.sort_by(|one, other| one.service.cmp(&other.service));
    Ok(found)
}

/// Compares containers with what they should be.
pub(crate) fn compare(wanted: &[WantedService], containers: &[ServiceContainer]) -> ServiceStates {
    let mut states = ServiceStates::default();
    for service in wanted {
        let of_service: Vec<_> = containers.iter().filter(|container| container.service == service.name).collect();
        match of_service.iter().find_map(|container| container.wrong(service)) {
            _ if of_service.is_empty() => states.bad.push(format!("{} has no container", service.name)),
            Some(wrong) => states.bad.push(format!("{} {wrong}", service.name)),
            None => states.good.push(service.name.clone()),
        }
    }
    for container in containers {
        if !wanted.iter().any(|service| service.name == container.service) {
            states.bad.push(format!("{} is not in the compose file", container.service));
        }
    }
    states
}

/// The first container that has ended, or was started again. `first` is when the containers were started when they were seen first.
pub(crate) fn ended<'c>(
    first: &mut Option<Vec<(String, String)>>,
    containers: &'c [ServiceContainer],
) -> Option<&'c ServiceContainer> {
    let starts = containers.iter().filter(|container| container.runs());
    let starts: Vec<(String, String)> = starts
        .map(|ServiceContainer { container, .. }| (container.name.clone(), container.started_at.clone()))
        .collect();
    let first = first.get_or_insert(starts);
    containers.iter().find(|found| {
        let container = &found.container;
        let is_again = |(name, started_at): &(String, String)| {
            *name == container.name && found.runs() && *started_at != container.started_at
        };
        found.has_failed() || first.iter().any(is_again)
    })
}
