//! The checks, and how each is made; [`crate::mismatch`] compares the results. The host validates the closed schema, so
//! unknown members need no second check here.

use core::time::Duration;

use pawl_step::database::Connection;
use pawl_step::http::Request;
use pawl_step::{Failure, fs, json, tcp};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::mismatch;

/// The largest size of a response body.
const MAX_BODY_BYTES: u64 = 1024 * 1024;
/// The timeout of a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP request, and its expected response.
#[derive(Debug, Clone, Deserialize)]
pub struct HttpCheck {
    /// The URL of the request.
    pub url: String,
    /// The method of the request.
    #[serde(default = "get")]
    pub method: String,
    /// The expected status.
    #[serde(default = "ok")]
    pub status: u16,
    /// The headers of the request.
    #[serde(default)]
    pub headers: Map<String, Value>,
    /// A text that the body must contain.
    pub contains: Option<String>,
    /// The expected JSON values, by JSON pointer.
    #[serde(default)]
    pub json: Map<String, Value>,
    /// The timeout of the request.
    #[serde(default = "five_seconds", deserialize_with = "pawl_step::time::duration")]
    pub timeout: Duration,
}

/// A file, and its expected content.
#[derive(Debug, Clone, Deserialize)]
pub struct FileCheck {
    /// The granted directory.
    #[serde(rename = "in")]
    pub dir: Option<String>,
    /// The path, relative to the directory.
    pub path: String,
    /// Whether the file must exist.
    #[serde(default = "yes")]
    pub exists: bool,
    /// The expected content.
    pub equals: Option<String>,
    /// A text that the file must contain.
    pub contains: Option<String>,
}

/// A query, and its expected value.
#[derive(Debug, Clone, Deserialize)]
pub struct SqlCheck {
    /// The granted database.
    pub database: String,
    /// The SQL text.
    pub query: String,
    /// The expected first value of the first row.
    pub equals: Value,
}

/// One check of a step.
#[derive(Debug, Clone)]
pub(crate) enum VerifyCheck {
    Http(HttpCheck),
    Tcp(String),
    File { dir: String, check: FileCheck },
    Sql(SqlCheck),
}

fn get() -> String {
    "GET".to_owned()
}

fn ok() -> u16 {
    200
}

fn yes() -> bool {
    true
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

impl VerifyCheck {
    /// Returns a short label for messages.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Http(check) => format!("{} {}", check.method, without_query(&check.url)),
            Self::Tcp(address) => format!("tcp {address}"),
            Self::File { dir, check } => format!("file {dir}/{}", check.path),
            Self::Sql(check) => format!("{} on {}", mismatch::shorten(&check.query), check.database),
        }
    }

    /// Returns the expectation in words.
    pub(crate) fn expectation(&self) -> String {
        match self {
            Self::Http(check) => mismatch::http_expectation(check),
            Self::Tcp(_) => "a connection".to_owned(),
            Self::File { check, .. } => mismatch::file_expectation(check),
            Self::Sql(check) => json::text(&check.equals),
        }
    }

    /// Runs the check; returns what it found instead of the expected value, or `None` on success.
    pub(crate) fn run(&self) -> Result<Option<String>, Failure> {
        match self {
            Self::Http(check) => {
                let mut request =
                    Request::new(&check.method, &check.url).timeout(check.timeout).max_bytes(MAX_BODY_BYTES);
                // The schema accepts only strings here.
                for (name, value) in &check.headers {
                    request = request.header(name, value.as_str().unwrap_or_default());
                }
                if (300..400).contains(&check.status) {
                    request = request.redirects(0);
                }
                let response = request.send()?;
                Ok(mismatch::http_mismatch(check, response.status, &response.body))
            }
            Self::Tcp(address) => tcp::connect(address, CONNECT_TIMEOUT).map(|()| None),
            Self::File { dir, check } => {
                let path = format!("{dir}/{}", fs::relative("path", &check.path)?);
                let missing = || Some("no such file".to_owned());
                if !check.exists {
                    return Ok(fs::exists(&path)?.then(|| "one".to_owned()));
                }
                if check.equals.is_none() && check.contains.is_none() {
                    return Ok(if fs::exists(&path)? { None } else { missing() });
                }
                Ok(match fs::read_if_exists(&path)? {
                    Some(content) => mismatch::content_mismatch(check, &String::from_utf8_lossy(&content)),
                    None => missing(),
                })
            }
            Self::Sql(check) => {
                let rows = Connection::open(&check.database)?.query(&check.query, &[])?;
                Ok(mismatch::sql_mismatch(&check.equals, rows.rows.first().and_then(|row| row.first())))
            }
        }
    }
}

/// Removes the query and the fragment of a URL, which may contain a token.
fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_omit_query_strings() {
        let check = HttpCheck::deserialize(serde_json::json!({ "url": "http://h/health?token=secret" })).unwrap();
        assert_eq!(VerifyCheck::Http(check).label(), "GET http://h/health");
    }
}
