//! A container engine, asked over a granted socket by Docker's API, as Docker and podman speak it:
//! <https://docs.docker.com/reference/api/engine/>. What one of them filters differently is judged here.
//!
//! Invariant: it changes nothing but the containers and images that it is told by name.

mod container;
mod image;
mod text;

use core::time::Duration;

use pawl_step::http::{Request, Response};
use pawl_step::{Failure, FailureKind, log};
use serde_json::Value;

pub use container::{Container, ContainerState};
pub use image::{Image, digest_of, parse_reference};

/// The timeout of a call that waits for nothing.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// An engine, by its granted socket.
#[derive(Debug, Clone, Copy)]
pub struct Engine<'e> {
    socket: &'e str,
}

impl<'e> Engine<'e> {
    /// The engine at a granted socket.
    #[must_use]
    pub fn new(socket: &'e str) -> Self {
        Self { socket }
    }

    /// Checks that it answers.
    ///
    /// # Errors
    /// It does not run, its socket is not accessible, or something else listens there.
    pub fn check(&self) -> Result<(), Failure> {
        let answer = self.send(self.request("GET", "/_ping"))?;
        if answer.status == 200 {
            return Ok(());
        }
        Err(Failure::permanent(format!(
            "the program that listens at the socket `{}` is not a container engine",
            self.socket
        ))
        .hint("grant the socket of Docker or podman: `sockets: { engine: \"unix:/run/podman/podman.sock\" }`"))
    }

    fn request(&self, method: &str, path: &str) -> Request {
        Request::new(method, format!("unix://{}{path}", self.socket)).timeout(CALL_TIMEOUT).max_bytes(MAX_ANSWER_BYTES)
    }

    fn send(&self, request: Request) -> Result<Response, Failure> {
        request.send().map_err(|failure| {
            if matches!(failure.kind, FailureKind::Denied | FailureKind::InvalidConfig) {
                return failure;
            }
            failure.context("the container engine does not answer").or_hint(
                "start it (`systemctl start podman.socket` or `docker`), and give the runner's user access to its socket",
            )
        })
    }

    /// What a GET answers; none if there is no such thing.
    fn get(&self, path: &str) -> Result<Option<Value>, Failure> {
        let answer = self.send(self.request("GET", path))?;
        match answer.status {
            404 => Ok(None),
            200 => serde_json::from_slice(&answer.body).map(Some).map_err(|error| {
                Failure::permanent(format!("the container engine's answer to `GET {path}` is not JSON: {error}"))
            }),
            _ => Err(refusal(&format!("GET {path}"), &answer)),
        }
    }
}

/// Why the engine did not do something.
fn refusal(what: &str, answer: &Response) -> Failure {
    let why = said(answer);
    log::warn(format!("the container engine refused `{what}`: {why}"));
    Failure::permanent(format!("the container engine refused `{what}` with status {}: {why}", answer.status))
}

/// The message of an answer that is an error.
fn said(answer: &Response) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match body.get("message").and_then(Value::as_str) {
        Some(message) => message.trim().to_owned(),
        None => String::from_utf8_lossy(&answer.body).trim().to_owned(),
    }
}

fn text_at(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
