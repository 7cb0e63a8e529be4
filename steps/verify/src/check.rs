//! The checks: how each is made. What counts as right is in [`crate::mismatch`]. The schema is closed, and the host checks it,
//! so that unknown members need no second check here.

use core::time::Duration;

use pawl_step::database::Connection;
use pawl_step::http::Request;
use pawl_step::{Failure, fs, json, tcp};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::mismatch;

/// Bytes of a body that are looked at.
const MAX_BODY_BYTES: u64 = 1024 * 1024;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A request, and what must answer.
#[derive(Debug, Clone, Deserialize)]
pub struct HttpCheck {
    /// The address.
    pub url: String,
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// The status of the answer.
    #[serde(default = "ok")]
    pub status: u16,
    /// Headers of the request.
    #[serde(default)]
    pub headers: Map<String, Value>,
    /// A text in the body.
    pub contains: Option<String>,
    /// JSON pointers and values.
    #[serde(default)]
    pub json: Map<String, Value>,
    /// How long the answer may take.
    #[serde(default = "five_seconds", deserialize_with = "pawl_step::time::duration")]
    pub timeout: Duration,
}

/// A file.
#[derive(Debug, Clone, Deserialize)]
pub struct FileCheck {
    /// The granted directory.
    #[serde(rename = "in")]
    pub dir: Option<String>,
    /// The file.
    pub path: String,
    /// Whether it must be there.
    #[serde(default = "yes")]
    pub exists: bool,
    /// Its content.
    pub equals: Option<String>,
    /// A text in it.
    pub contains: Option<String>,
}

/// A query.
#[derive(Debug, Clone, Deserialize)]
pub struct SqlCheck {
    /// The granted database.
    pub database: String,
    /// The query.
    pub query: String,
    /// Its first value.
    pub equals: Value,
}

/// One check.
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
    /// What is asked, in a few words.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Http(check) => format!("{} {}", check.method, without_query(&check.url)),
            Self::Tcp(address) => format!("tcp {address}"),
            Self::File { dir, check } => format!("file {dir}/{}", check.path),
            Self::Sql(check) => format!("{} on {}", mismatch::shorten(&check.query), check.database),
        }
    }

    /// What must be found.
    pub(crate) fn expectation(&self) -> String {
        match self {
            Self::Http(check) => mismatch::http_expectation(check),
            Self::Tcp(_) => "a connection".to_owned(),
            Self::File { check, .. } => mismatch::file_expectation(check),
            Self::Sql(check) => json::text(&check.equals),
        }
    }

    /// Makes it; returns what was found instead of what is expected.
    pub(crate) fn run(&self) -> Result<Option<String>, Failure> {
        match self {
            Self::Http(check) => {
                let mut request =
                    Request::new(&check.method, &check.url).timeout(check.timeout).max_bytes(MAX_BODY_BYTES);
                // The schema lets no other value in than a text.
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
                if !fs::exists(&path)? {
                    return Ok(check.exists.then(|| "no such file".to_owned()));
                }
                if !check.exists {
                    return Ok(Some("one".to_owned()));
                }
                if check.equals.is_none() && check.contains.is_none() {
                    return Ok(None);
                }
                Ok(mismatch::content_mismatch(check, &String::from_utf8_lossy(&fs::read(&path)?)))
            }
            Self::Sql(check) => {
                let rows = Connection::open(&check.database)?.query(&check.query, &[])?;
                Ok(mismatch::sql_mismatch(&check.equals, rows.rows.first().and_then(|row| row.first())))
            }
        }
    }
}

/// A query may hold a token.
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
