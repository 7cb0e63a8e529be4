//! The capabilities `http` and `tcp`: conversions around the one client in [`net`](super::net), which checks every hop.

use std::time::Duration;

use serde::Deserialize;

use super::{
    bindings::{HostError, http, tcp},
    failure,
    host::Host,
    net::Request,
};
use crate::journal::event::Failure;

/// The largest body of an answer, whatever a module asks for, in bytes.
const LARGEST_BODY: u64 = 16 << 20;

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Options {
    timeout_ms: Option<u64>,
    max_bytes: Option<u64>,
    redirects: Option<u32>,
}

impl http::Host for Host {
    async fn send(&mut self, request: http::Request) -> Result<http::Response, HostError> {
        let options: Options = serde_json::from_str(&request.options)
            .map_err(|error| failure("invalid-config", format!("options of a request: {error}")))?;
        let method = request.method.to_ascii_uppercase();
        self.gate.method(&method)?;
        let mut asked = Request::new(&method, &request.url).map_err(Failure::from)?;
        asked.headers = request.headers;
        asked.body = request.body;
        if let Some(timeout) = options.timeout_ms {
            asked.timeout = Duration::from_millis(timeout);
        }
        asked.max_bytes = options.max_bytes.unwrap_or(asked.max_bytes).min(LARGEST_BODY);
        asked.redirects = options.redirects.unwrap_or(asked.redirects);
        let response = self.gate.client().send(asked).await.map_err(Failure::from)?;
        let http_response = http::Response {
            status: response.status,
            headers: response.headers,
            body: response.body,
            url: response.url.to_string(),
        };
        Ok(http_response)
    }
}

impl tcp::Host for Host {
    async fn connect(&mut self, address: String, timeout_ms: u32) -> Result<(), HostError> {
        let within = Duration::from_millis(timeout_ms.into());
        Ok(self.gate.client().connect(&address, within).await.map_err(Failure::from)?)
    }
}
