//! The container engine, asked by Docker's API over its socket: <https://docs.docker.com/reference/api/engine/>. podman speaks it too.
//!
//! Invariant: it only reads. Compose is what changes anything.

use core::time::Duration;

use pawl_step::http::{Request, Response};
use pawl_step::{Failure, FailureKind};
use serde_json::Value;

/// The timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Compose labels containers with the project, the service, and the hash of its configuration.
const PROJECT_LABEL: &str = "com.docker.compose.project";
const SERVICE_LABEL: &str = "com.docker.compose.service";
const HASH_LABEL: &str = "com.docker.compose.config-hash";
const ONE_OFF_LABEL: &str = "com.docker.compose.oneoff";
/// The bytes before each piece of output: the stream, and the length of the piece.
const FRAME_HEADER: usize = 8;

/// An engine, by its granted socket.
#[derive(Debug)]
pub(crate) struct Engine<'s> {
    pub(crate) socket: &'s str,
}

/// A container of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceContainer {
    pub(crate) id: String,
    pub(crate) service: String,
    pub(crate) hash: String,
    pub(crate) image_id: String,
    pub(crate) state: ContainerState,
    /// How often the engine has started it again.
    pub(crate) restarts: i64,
}

/// The states of a container, as far as they matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContainerState {
    Running,
    /// It is not to be started again, and has ended with status 0.
    Done,
    /// It has ended with this status.
    Ended(i64),
    /// It was created, and not started.
    Created,
}

impl Engine<'_> {
    /// Checks that it answers.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let response = self.get("version")?;
        match response.status {
            200 => Ok(()),
            status => Err(Failure::permanent(format!("the container engine answered with status {status}"))
                .hint("grant the socket of Docker, or of `podman system service`")),
        }
    }

    /// The id of an image; none if the engine does not have it.
    pub(crate) fn image_id(&self, image: &str) -> Result<Option<String>, Failure> {
        let response = self.get(&format!("images/{image}/json"))?;
        if response.status == 404 {
            return Ok(None);
        }
        let found = json_of(&response)?;
        Ok(found.get("Id").and_then(Value::as_str).map(str::to_owned))
    }

    /// The containers of a project, sorted by their services.
    pub(crate) fn containers(&self, project: &str) -> Result<Vec<ServiceContainer>, Failure> {
        let filters = format!("%7B%22label%22%3A%5B%22{PROJECT_LABEL}%3D{project}%22%5D%7D");
        let listed = json_of(&self.get(&format!("containers/json?all=true&filters={filters}"))?)?;
        let mut found = Vec::new();
        for container in listed.as_array().into_iter().flatten() {
            let label = |name: &str| container["Labels"].get(name).and_then(Value::as_str).unwrap_or_default();
            let id = container["Id"].as_str().unwrap_or_default();
            // Not what somebody runs once.
            if label(PROJECT_LABEL) != project || label(ONE_OFF_LABEL).eq_ignore_ascii_case("true") {
                continue;
            }
            let response = self.get(&format!("containers/{id}/json"))?;
            if response.status == 404 {
                continue;
            }
            let inspected = json_of(&response)?;
            found.push(ServiceContainer {
                id: id.to_owned(),
                service: label(SERVICE_LABEL).to_owned(),
                hash: label(HASH_LABEL).to_owned(),
                image_id: container["ImageID"].as_str().unwrap_or_default().to_owned(),
                state: ContainerState::of(&inspected),
                restarts: inspected["RestartCount"].as_i64().unwrap_or(0),
            });
        }
        found.sort_by(|one, other| one.service.cmp(&other.service));
        Ok(found)
    }

    /// The last lines of a container's output.
    pub(crate) fn tail(&self, id: &str, lines: usize) -> Result<Vec<String>, Failure> {
        let response = self.get(&format!("containers/{id}/logs?stdout=true&stderr=true&tail={lines}"))?;
        if response.status != 200 {
            return Err(Failure::permanent(format!("the engine answered with status {}", response.status)));
        }
        let text = String::from_utf8_lossy(&without_headers(&response.body)).into_owned();
        Ok(text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect())
    }

    fn get(&self, path: &str) -> Result<Response, Failure> {
        let request = Request::get(format!("unix://{}/{path}", self.socket)).timeout(CALL_TIMEOUT);
        request.send().map_err(|failure| {
            if matches!(failure.kind, FailureKind::Denied | FailureKind::InvalidConfig) {
                return failure;
            }
            failure
                .context("the container engine does not answer")
                .or_hint("start it, and give the runner's user access to its socket")
        })
    }
}

impl ContainerState {
    fn of(inspected: &Value) -> Self {
        let state = &inspected["State"];
        let status = state["ExitCode"].as_i64().unwrap_or(0);
        let restarts = inspected["HostConfig"]["RestartPolicy"]["Name"].as_str().unwrap_or_default();
        match state["Status"].as_str().unwrap_or_default() {
            "running" | "paused" => Self::Running,
            "created" | "configured" | "initialized" => Self::Created,
            "exited" | "stopped" if status == 0 && matches!(restarts, "" | "no" | "on-failure") => Self::Done,
            _ => Self::Ended(status),
        }
    }
}

fn json_of(response: &Response) -> Result<Value, Failure> {
    let body = serde_json::from_slice::<Value>(&response.body).unwrap_or_default();
    if response.status == 200 {
        return Ok(body);
    }
    let said = body.get("message").and_then(Value::as_str).unwrap_or_default();
    Err(Failure::permanent(format!("the container engine answered with status {}: {said}", response.status)))
}

/// The output without what says of which stream each piece is. A container with a terminal has no such headers.
fn without_headers(output: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = output;
    while let Some((header, behind)) = rest.split_at_checked(FRAME_HEADER) {
        let [0..=2, 0, 0, 0, a, b, c, d] = *header else { return output.to_vec() };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX).min(behind.len());
        let (piece, next) = behind.split_at(length);
        plain.extend_from_slice(piece);
        rest = next;
    }
    if plain.is_empty() { output.to_vec() } else { plain }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn states_of_containers_are_told_apart() {
        let state = |status: &str, code: i64, restart: &str| {
            ContainerState::of(&json!({
                "State": { "Status": status, "ExitCode": code },
                "HostConfig": { "RestartPolicy": { "Name": restart } },
            }))
        };
        assert_eq!(state("running", 0, ""), ContainerState::Running);
        assert_eq!(state("created", 0, "always"), ContainerState::Created);
        assert_eq!((state("exited", 0, ""), state("exited", 0, "no")), (ContainerState::Done, ContainerState::Done));
        assert_eq!(state("exited", 0, "always"), ContainerState::Ended(0));
        assert_eq!(
            (state("exited", 3, ""), state("restarting", 1, "always")),
            (ContainerState::Ended(3), ContainerState::Ended(1))
        );
    }

    #[test]
    fn output_of_both_streams_is_read() {
        let mut output = vec![1, 0, 0, 0, 0, 0, 0, 4];
        output.extend_from_slice(b"one\n");
        output.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 9]);
        output.extend_from_slice(b"two\n");
        assert_eq!(without_headers(&output), b"one\ntwo\n");
        assert_eq!(without_headers(b"from a terminal\n"), b"from a terminal\n");
        assert_eq!(without_headers(b"short\n"), b"short\n");
    }
}
