//! HTTP requests to granted origins. The host adds the granted credentials; a step never sees them.

use core::time::Duration;

use serde_json::{Map, Value};

use crate::bindings::pawl::step::http as host;
pub use crate::bindings::pawl::step::http::Response;
use crate::secrets::Secret;
use crate::{Failure, json};

/// An HTTP request, sent by [`send`](Request::send).
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    secrets: Vec<(String, String, Secret)>,
    body: Option<Vec<u8>>,
    options: Map<String, Value>,
}

impl Request {
    /// Returns a request with the given method.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        let (method, url) = (method.into(), url.into());
        Self { method, url, headers: Vec::new(), secrets: Vec::new(), body: None, options: Map::new() }
    }

    /// Returns a GET request.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a header whose value is `before` followed by a secret: `secret("authorization", "Bearer ", token)`.
    pub fn secret(mut self, name: impl Into<String>, before: impl Into<String>, secret: Secret) -> Self {
        self.secrets.push((name.into(), before.into(), secret));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Limits the time of the whole exchange.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.insert("timeout-ms".to_owned(), u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).into());
        self
    }

    /// Limits the size of the response's body, in bytes.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.options.insert("max-bytes".to_owned(), bytes.into());
        self
    }

    /// Limits the number of redirects that are followed; each must be granted.
    pub fn redirects(mut self, count: u32) -> Self {
        self.options.insert("redirects".to_owned(), count.into());
        self
    }

    /// Sends the request. A status of 400 or more is a response, not a failure.
    ///
    /// # Errors
    /// Not granted, not reachable, timed out, or too large.
    pub fn send(self) -> Result<Response, Failure> {
        let request = host::Request {
            method: self.method,
            url: self.url,
            headers: self.headers,
            body: self.body,
            options: json::text(&Value::Object(self.options)),
        };
        let secrets: Vec<_> =
            self.secrets.iter().map(|(name, before, secret)| (name.clone(), before.clone(), secret.handle())).collect();
        host::send_with(&request, &secrets).map_err(Failure::from)
    }
}
