//! The capabilities `http` and `tcp`: conversions for the client in [`net`](fetch::net), which checks every hop. The
//! URL of a granted unix socket is `unix://<name>/<path>`; it has no hops.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use wasmtime::component::Resource;

use super::{
    bindings::{HostError, http, tcp},
    host::HostState,
    secrets::SecretHandle,
};
use contract::{Secret, step::StepFailure};
use fetch::net::NetRequest;

/// The largest body of a response, whatever a module requests, in bytes.
const MAX_BODY_BYTES: u64 = 16 << 20;

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct HttpCallOptions {
    timeout_ms: Option<u64>,
    max_bytes: Option<u64>,
    redirects: Option<u32>,
}

impl http::Host for HostState {
    async fn send(&mut self, request: http::Request) -> Result<http::Response, HostError> {
        self.send_with(request, Vec::new()).await
    }

    async fn send_with(
        &mut self,
        request: http::Request,
        secrets: Vec<(String, String, Resource<SecretHandle>)>,
    ) -> Result<http::Response, HostError> {
        let options: HttpCallOptions = super::parse_options("a request", &request.options)?;
        let method = request.method.to_ascii_uppercase();
        let socket = self.split_socket_url(&request.url)?;
        self.gate.check_method(&method, socket.is_some())?;
        let url = socket.as_ref().map_or(request.url.as_str(), |(_, url)| url);
        let mut outgoing = NetRequest::new(&method, url).map_err(|error| self.gate.network_failure(error))?;
        for (name, prefix, handle) in secrets {
            outgoing.secrets.push((name, Secret::new(format!("{prefix}{}", self.secret_value(&handle)?.reveal()))));
        }
        outgoing.headers = request.headers;
        outgoing.body = request.body;
        if let Some(timeout) = options.timeout_ms {
            outgoing.timeout = Duration::from_millis(timeout);
        }
        outgoing.max_bytes = options.max_bytes.unwrap_or(outgoing.max_bytes).min(MAX_BODY_BYTES);
        outgoing.redirects = options.redirects.unwrap_or(outgoing.redirects);
        let client = self.gate.client();
        let response = match &socket {
            Some((path, _)) => client.send_to_socket(path, outgoing).await,
            None => client.send(outgoing).await,
        };
        let response = response.map_err(|error| self.gate.network_failure(error))?;
        let url = if socket.is_some() { request.url } else { response.url.to_string() };
        Ok(http::Response { status: response.status, headers: response.headers, body: response.body, url })
    }
}

impl HostState {
    /// The socket path of `unix://<name>/<path>`, and the URL to request there. `None` for other URLs.
    fn split_socket_url(&self, url: &str) -> Result<Option<(PathBuf, String)>, StepFailure> {
        let Some(rest) = url.strip_prefix("unix://") else { return Ok(None) };
        let name = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let path = self.gate.socket_path(name)?;
        Ok(Some((path, format!("http://localhost{}", &rest[name.len()..]))))
    }
}

impl tcp::Host for HostState {
    async fn connect(&mut self, address: String, timeout_ms: u32) -> Result<(), HostError> {
        let timeout = Duration::from_millis(timeout_ms.into());
        Ok(self.gate.client().connect(&address, timeout).await.map_err(|error| self.gate.network_failure(error))?)
    }
}
