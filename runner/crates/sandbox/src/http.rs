//! The capabilities `http` and `tcp`: conversions around the one client in [`net`](fetch::net), which checks every hop.
//! A granted unix socket is asked by its name, `unix://<name>/<path>`; it has no hops.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use wasmtime::component::Resource;

use super::{
    bindings::{HostError, http, tcp},
    host::Host,
    secrets::Handle,
};
use contract::{Secret, step::Failure};
use fetch::net::Request;

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
        self.send_with(request, Vec::new()).await
    }

    async fn send_with(
        &mut self,
        request: http::Request,
        secrets: Vec<(String, String, Resource<Handle>)>,
    ) -> Result<http::Response, HostError> {
        let options: Options = super::options("a request", &request.options)?;
        let method = request.method.to_ascii_uppercase();
        self.gate.method(&method)?;
        let socket = self.socket(&request.url)?;
        let url = socket.as_ref().map_or(request.url.as_str(), |(_, url)| url);
        let mut asked = Request::new(&method, url).map_err(|error| self.gate.network(error))?;
        for (name, before, handle) in secrets {
            asked.secrets.push((name, Secret::new(format!("{before}{}", self.secret(&handle)?.reveal()))));
        }
        asked.headers = request.headers;
        asked.body = request.body;
        if let Some(timeout) = options.timeout_ms {
            asked.timeout = Duration::from_millis(timeout);
        }
        asked.max_bytes = options.max_bytes.unwrap_or(asked.max_bytes).min(LARGEST_BODY);
        asked.redirects = options.redirects.unwrap_or(asked.redirects);
        let client = self.gate.client();
        let response = match &socket {
            Some((path, _)) => client.send_to_socket(path, asked).await,
            None => client.send(asked).await,
        };
        let response = response.map_err(|error| self.gate.network(error))?;
        let url = if socket.is_some() { request.url } else { response.url.to_string() };
        Ok(http::Response { status: response.status, headers: response.headers, body: response.body, url })
    }
}

impl Host {
    /// The path of the socket that `unix://<name>/<path>` names, and the URL to ask there. Nothing for other URLs.
    fn socket(&self, url: &str) -> Result<Option<(PathBuf, String)>, Failure> {
        let Some(rest) = url.strip_prefix("unix://") else { return Ok(None) };
        let name = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let path = self.gate.socket(name)?;
        Ok(Some((path.clone(), format!("http://localhost{}", &rest[name.len()..]))))
    }
}

impl tcp::Host for Host {
    async fn connect(&mut self, address: String, timeout_ms: u32) -> Result<(), HostError> {
        let within = Duration::from_millis(timeout_ms.into());
        Ok(self.gate.client().connect(&address, within).await.map_err(|error| self.gate.network(error))?)
    }
}
