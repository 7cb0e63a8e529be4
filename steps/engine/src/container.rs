//! Containers.

use core::time::Duration;

use pawl_step::{Failure, time};
use serde_json::{Map, Value, json};

use crate::text::{encode, exit_status, log_lines};
use crate::{CALL_TIMEOUT, Engine, refusal, said, text_at};

/// How long a container is asked to stop that seems not to run.
const HALT_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait between two such questions.
const HALT_INTERVAL: Duration = Duration::from_millis(10);
/// A container that does not change for so long after its stop is not started again.
const HALT_STAY: Duration = Duration::from_millis(400);

/// A container.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// The id of its image.
    pub image: String,
    /// The name of its image when it was created.
    pub image_name: String,
    /// Its labels.
    pub labels: Map<String, Value>,
    /// What it does.
    pub state: ContainerState,
    /// The process id of its program, 0 if it does not run; another one means that the engine has started it again.
    pub pid: i64,
    /// Why it could not be started; often empty.
    pub error: String,
    /// Whether the engine starts it again when it has ended without an error.
    restarts: bool,
    /// Whether the engine starts it again when it has failed.
    restarts_after_failure: bool,
    /// How often the engine has started it again.
    restart_count: i64,
    exit_code: i64,
    is_out_of_memory: bool,
}

/// The states of a container, as far as they matter to steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// It was not started yet.
    Created,
    /// It runs, perhaps not for long yet.
    Running,
    /// It has ended; perhaps the engine is about to start it again.
    Ended,
}

impl Container {
    /// The container of the engine's JSON.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let flag = |pointer: &str| value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false);
        let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let status = text_at(value, "/State/Status");
        let policy = text_at(value, "/HostConfig/RestartPolicy/Name");
        let state = match status.as_str() {
            "created" | "configured" | "initialized" => ContainerState::Created,
            _ if flag("/State/Running") && !flag("/State/Restarting") => ContainerState::Running,
            _ => ContainerState::Ended,
        };
        Self {
            name: text_at(value, "/Name").trim_start_matches('/').to_owned(),
            image: text_at(value, "/Image"),
            image_name: text_at(value, "/Config/Image"),
            labels: value.pointer("/Config/Labels").and_then(Value::as_object).cloned().unwrap_or_default(),
            state,
            pid: number("/State/Pid"),
            restarts: matches!(policy.as_str(), "always" | "unless-stopped"),
            restarts_after_failure: !matches!(policy.as_str(), "" | "no"),
            restart_count: number("/RestartCount"),
            error: text_at(value, "/State/Error"),
            exit_code: number("/State/ExitCode"),
            is_out_of_memory: flag("/State/OOMKilled"),
        }
    }

    /// Whether it runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// Whether it has done its work: it has ended without an error, and is not started again.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == ContainerState::Ended && self.exit_code == 0 && !self.restarts
    }

    /// Whether the engine may be starting it again and again.
    #[must_use]
    pub fn may_loop(&self) -> bool {
        self.restarts_after_failure && (self.state == ContainerState::Ended || self.restart_count > 0)
    }

    /// The text of a label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).and_then(Value::as_str)
    }

    /// Whether it has these labels.
    #[must_use]
    pub fn has_labels(&self, labels: &[(&str, String)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == Some(value))
    }
}

impl Engine<'_> {
    /// A container by its name; none if there is no such one.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn container(&self, name: &str) -> Result<Option<Container>, Failure> {
        Ok(self.get(&format!("/containers/{name}/json"))?.as_ref().map(Container::of))
    }

    /// The names of the containers with these labels, whether they run or not.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn containers(&self, labels: &[(&str, String)]) -> Result<Vec<String>, Failure> {
        let filter: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let filters = encode(&json!({ "label": filter }).to_string());
        let list = self.get(&format!("/containers/json?all=true&filters={filters}"))?.unwrap_or_default();
        let has_labels = |container: &&Value| {
            labels.iter().all(|(name, value)| {
                container.get("Labels").and_then(|labels| labels.get(*name)).and_then(Value::as_str) == Some(value)
            })
        };
        let name =
            |container: &Value| Some(container.pointer("/Names/0")?.as_str()?.trim_start_matches('/').to_owned());
        Ok(list.as_array().into_iter().flatten().filter(has_labels).filter_map(name).collect())
    }

    /// Creates a container from a body of the API.
    ///
    /// # Errors
    /// The name is taken, there is no such image, or the body is refused.
    pub fn create(&self, name: &str, body: &Value) -> Result<(), Failure> {
        let request = self.request("POST", &format!("/containers/create?name={}", encode(name)));
        let answer = self.send(request.header("content-type", "application/json").body(body.to_string()))?;
        match answer.status {
            200 | 201 => Ok(()),
            409 => Err(Failure::conflict(format!("a container {name} exists already"))
                .hint("find out whose it is; if nothing needs it, remove it")),
            _ => Err(refusal(&format!("create {name}"), &answer)),
        }
    }

    /// Starts a container.
    ///
    /// # Errors
    /// Its port is taken, or its program can't be started.
    pub fn start(&self, name: &str) -> Result<(), Failure> {
        let answer = self.send(self.request("POST", &format!("/containers/{name}/start")))?;
        let why = match answer.status {
            204 | 304 => return Ok(()),
            _ => said(&answer),
        };
        if ["address already in use", "port is already allocated"].iter().any(|words| why.contains(words)) {
            return Err(Failure::conflict(format!("its port is taken: {why}"))
                .hint("`ss -ltnp` shows which program listens; stop it, or give the slot another port"));
        }
        Err(Failure::permanent(format!("it can't be started: {why}"))
            .hint("correct the image, or the step's `container`"))
    }

    /// Stops a container that the engine may be starting again and again, and keeps it. An engine that is asked to stop a container right between
    /// two of its lives may say that it does not run, and then start it, so it is asked until the container stays as it is.
    ///
    /// # Errors
    /// The engine can't do it.
    pub fn halt(&self, name: &str, stop_timeout: Duration) -> Result<(), Failure> {
        let deadline = time::monotonic() + HALT_TIMEOUT;
        let path = format!("/containers/{name}/stop?t={}", stop_timeout.as_secs());
        while time::monotonic() < deadline {
            let answer = self.send(self.request("POST", &path).timeout(stop_timeout + CALL_TIMEOUT))?;
            match answer.status {
                204 => {
                    let stopped = self.container(name)?;
                    time::sleep(HALT_STAY);
                    let later = self.container(name)?;
                    if later.as_ref().is_none_or(|later| !later.runs()) && stopped == later {
                        return Ok(());
                    }
                }
                304 => time::sleep(HALT_INTERVAL),
                404 => return Ok(()),
                _ => return Err(refusal(&format!("stop {name}"), &answer)),
            }
        }
        // Its last life was over before the first question.
        Ok(())
    }

    /// Stops a container, kills it after a time, and removes it with its anonymous volumes. A missing one is fine.
    ///
    /// # Errors
    /// The engine can't do it.
    pub fn remove(&self, name: &str, stop_timeout: Duration) -> Result<(), Failure> {
        let seconds = stop_timeout.as_secs();
        let request = self.request("POST", &format!("/containers/{name}/stop?t={seconds}"));
        let answer = self.send(request.timeout(stop_timeout + CALL_TIMEOUT))?;
        match answer.status {
            204 | 304 => {}
            404 => return Ok(()),
            // It may be in a state that can't be stopped, but removed.
            _ => drop(refusal(&format!("stop {name}"), &answer)),
        }
        let answer = self.send(self.request("DELETE", &format!("/containers/{name}?force=true&v=true")))?;
        match answer.status {
            200 | 204 | 404 => Ok(()),
            _ => Err(refusal(&format!("remove {name}"), &answer)),
        }
    }

    /// The last lines of a container's output.
    ///
    /// # Errors
    /// The engine does not keep it.
    pub fn tail(&self, name: &str, lines: usize) -> Result<Vec<String>, Failure> {
        let path = format!("/containers/{name}/logs?stdout=true&stderr=true&tail={lines}");
        let answer = self.send(self.request("GET", &path))?;
        match answer.status {
            200 => {
                let all = log_lines(&answer.body);
                Ok(all[all.len().saturating_sub(lines)..].to_vec())
            }
            _ => Err(refusal(&format!("logs of {name}"), &answer)),
        }
    }

    /// How a container has ended, as a sentence. When the engine has started it again meanwhile, the events since then tell of it.
    #[must_use]
    pub fn ending(&self, container: &Container, began: Duration) -> String {
        if !container.error.is_empty() {
            return format!("it can't be started: {}", container.error);
        }
        if container.state == ContainerState::Ended {
            return format!("it ended: {}", exit_status(container.exit_code, container.is_out_of_memory));
        }
        match self.exit_code(&container.name, began) {
            Some(code) => format!("it ended: {}", exit_status(code, container.is_out_of_memory)),
            None => "it ended, and the engine has started it again".to_owned(),
        }
    }

    /// The first exit status of a container after a time since 1970, from the engine's events.
    fn exit_code(&self, name: &str, began: Duration) -> Option<i64> {
        let (since, until) = (began.as_secs().saturating_sub(1), time::since_epoch().as_secs() + 1);
        let path = format!("/events?since={since}&until={until}&stream=false");
        let answer = self.send(self.request("GET", &path)).ok()?;
        exit_code_in_events(&String::from_utf8_lossy(&answer.body), name)
    }
}

/// The exit status in the first event that tells of a container's end.
fn exit_code_in_events(lines: &str, name: &str) -> Option<i64> {
    lines.lines().find_map(|line| {
        let event: Value = serde_json::from_str(line).ok()?;
        let is_end = matches!(event.get("Action")?.as_str()?, "die" | "died");
        let attributes = event.pointer("/Actor/Attributes")?;
        if !is_end || attributes.get("name")?.as_str()? != name {
            return None;
        }
        attributes.get("exitCode").or_else(|| attributes.get("containerExitCode"))?.as_str()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(state: Value) -> Container {
        Container::of(
            &json!({ "Name": "/shop-a", "Image": "sha256:1", "State": state, "Config": { "Labels": { "a": "b" } } }),
        )
    }

    #[test]
    fn states_are_told_apart() {
        use ContainerState::{Created, Ended, Running};
        for (state, expected) in [
            (json!({ "Status": "created", "Running": false }), Created),
            (json!({ "Status": "running", "Running": true }), Running),
            (json!({ "Status": "restarting", "Running": true, "Restarting": true }), Ended),
            (json!({ "Status": "exited", "Running": false, "ExitCode": 3 }), Ended),
            (json!({ "Status": "stopped", "Running": false }), Ended),
        ] {
            let found = container(state.clone());
            assert_eq!(
                (found.state, found.name.as_str(), found.label("a")),
                (expected, "shop-a", Some("b")),
                "{state}"
            );
        }
    }

    #[test]
    fn work_that_is_done_is_told_from_a_crash() {
        let done = |code: i64, policy: &str| {
            let mut value = json!({ "State": { "Status": "exited", "ExitCode": code } });
            value["HostConfig"]["RestartPolicy"]["Name"] = policy.into();
            Container::of(&value).is_done()
        };
        assert!(done(0, "") && done(0, "no") && done(0, "on-failure"));
        assert!(!done(3, "no") && !done(0, "always"));
    }

    #[test]
    fn container_that_is_started_again_and_again_is_told_from_one_that_ended() {
        let loops = |status: &str, count: i64, policy: &str| {
            Container::of(&json!({
                "RestartCount": count, "State": { "Status": status, "Running": status == "running" },
                "HostConfig": { "RestartPolicy": { "Name": policy } },
            }))
            .may_loop()
        };
        assert!(
            loops("exited", 0, "always") && loops("running", 3, "unless-stopped") && loops("exited", 1, "on-failure")
        );
        assert!(!loops("running", 0, "always") && !loops("exited", 0, "no"));
    }

    #[test]
    fn end_is_found_in_the_events() {
        let event = |action: &str, name: &str, code: &str| {
            json!({ "Action": action, "Actor": { "Attributes": { "name": name, "exitCode": code } } }).to_string()
        };
        let lines = [event("start", "a", "0"), event("die", "b", "1"), event("die", "a", "9"), event("die", "a", "2")];
        assert_eq!(exit_code_in_events(&lines.join("\n"), "a"), Some(9));
        assert_eq!(exit_code_in_events("", "a"), None);
    }
}
