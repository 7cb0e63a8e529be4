//! The containers of a project, compared with what compose would make of a file.

use pawl_engine::{Container, ContainerState, Engine, parse_reference};
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
    /// The id of the image that has its image's name now.
    pub(crate) image: Option<String>,
}

/// What compose would make of a service.
#[derive(Debug)]
pub(crate) struct WantedService {
    pub(crate) name: String,
    pub(crate) hash: String,
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
        if self.image.as_ref().is_some_and(|image| *image != self.container.image) {
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
    for name in engine.containers(&[(PROJECT_LABEL, project.to_owned())])? {
        let Some(container) = engine.container(&name)? else { continue };
        let is_one_off = container.label(ONE_OFF_LABEL).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if !is_one_off {
            let service = container.label(SERVICE_LABEL).unwrap_or_default().to_owned();
            found.push(ServiceContainer { service, container, image: None });
        }
    }
    found.sort_by(|one, other| one.service.cmp(&other.service));
    Ok(found)
}

/// Looks up which images have the names of the containers' images.
pub(crate) fn with_images(
    mut containers: Vec<ServiceContainer>,
    engine: &Engine<'_>,
) -> Result<Vec<ServiceContainer>, Failure> {
    for found in &mut containers {
        // Some engines tell an id here, which is the image itself.
        if let Ok(name) = parse_reference(&found.container.image_name) {
            found.image = engine.image(&name)?.map(|image| image.id);
        }
    }
    Ok(containers)
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

/// The first container that has ended, or was started again. `first` are the processes of the containers when they were seen first.
pub(crate) fn ended<'c>(
    first: &mut Option<Vec<(String, i64)>>,
    containers: &'c [ServiceContainer],
) -> Option<&'c ServiceContainer> {
    let running = containers.iter().filter(|container| container.runs());
    let pids = running.map(|ServiceContainer { container, .. }| (container.name.clone(), container.pid)).collect();
    let first = first.get_or_insert(pids);
    containers.iter().find(|found| {
        let container = &found.container;
        let is_again = |(name, pid): &(String, i64)| *name == container.name && found.runs() && *pid != container.pid;
        found.has_failed() || first.iter().any(is_again)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The container of a service, with a state such as `running`, `created` or `exited`.
    fn container(service: &str, hash: &str, status: &str, pid: i64) -> ServiceContainer {
        let code = if service == "dead" { 3 } else { 0 };
        let container = Container::of(&json!({
            "Name": format!("/shop_{service}_1"), "Image": "i",
            "State": { "Status": status, "Running": status == "running", "ExitCode": code, "Pid": pid },
            "Config": { "Labels": { "com.docker.compose.config-hash": hash } },
        }));
        ServiceContainer { service: service.to_owned(), container, image: Some("i".to_owned()) }
    }

    fn wanted(name: &str) -> WantedService {
        WantedService { name: name.to_owned(), hash: "h".to_owned() }
    }

    #[test]
    fn services_are_compared_with_their_containers() {
        let all = ["web", "job", "old", "gone", "new", "dead"].map(wanted);
        let containers = [
            container("web", "h", "running", 1),
            container("job", "h", "exited", 0),
            container("old", "x", "running", 1),
            container("new", "h", "created", 0),
            container("dead", "h", "exited", 0),
            container("extra", "h", "running", 1),
        ];
        let states = compare(&all, &containers);
        assert_eq!(states.good, ["web", "job"]);
        assert_eq!(
            states.bad,
            [
                "old has another configuration",
                "gone has no container",
                "new was not started",
                "dead has ended",
                "extra is not in the compose file",
            ]
        );
        let other = ServiceContainer { image: Some("j".to_owned()), ..containers[0].clone() };
        assert_eq!(compare(&[wanted("web")], &[other]).bad, ["web has another image"]);
    }

    #[test]
    fn end_of_a_container_is_noticed() {
        let watched = |looks: &[ServiceContainer]| {
            let mut first = None;
            looks.iter().any(|look| ended(&mut first, core::slice::from_ref(look)).is_some())
        };
        let running = |pid: i64| container("web", "h", "running", pid);
        assert!(!watched(&[running(1), running(1)]));
        assert!(!watched(&[container("job", "h", "exited", 0)]));
        assert!(watched(&[running(1), running(2)]), "it was started again");
        assert!(watched(&[container("dead", "h", "exited", 0)]));
    }
}
