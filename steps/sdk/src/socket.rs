//! Granted unix sockets that do not speak HTTP; for those that do, see [`http`](crate::http).

use core::time::Duration;

use serde_json::{Map, Value};

use crate::bindings::pawl::step::socket as host;
use crate::{Failure, json};

/// How an exchange is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExchangeOptions {
    /// The time for all of it; 10 s if it is not given.
    pub timeout: Option<Duration>,
    /// The longest answer, in bytes; 16 MiB if it is not given, and at most that.
    pub max_bytes: Option<u64>,
    /// Whether the peer is told that no more comes.
    pub end_of_request: bool,
}

/// Sends a request to a granted socket, and returns what the peer sends until it closes the connection.
///
/// # Errors
/// Not granted, not reachable, no answer in time, or too long an answer.
pub fn exchange(socket: &str, request: &[u8], options: ExchangeOptions) -> Result<Vec<u8>, Failure> {
    let mut fields = Map::new();
    if let Some(timeout) = options.timeout {
        fields.insert("timeout-ms".to_owned(), u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).into());
    }
    if let Some(bytes) = options.max_bytes {
        fields.insert("max-bytes".to_owned(), bytes.into());
    }
    if options.end_of_request {
        fields.insert("end-of-request".to_owned(), true.into());
    }
    host::exchange(socket, request, &json::text(&Value::Object(fields))).map_err(Failure::from)
}
