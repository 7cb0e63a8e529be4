//! Calls of a forge's API.
//!
//! Invariant: the token is in the header `authorization` and nowhere else; what the forge says is shown without it. No call is repeated
//! by itself: the command can be. Deliberately absent: what an answer means.

use std::time::Duration;

use reqwest::{
    Method,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use serde_json::Value;
use url::Url;

use super::{
    address::{ForgeAddress, ForgeKind},
    error::ForgeError,
};
use contract::{Secret, text::error_chain_text};

/// The longest time of a call: a forge may take a while to create a repository.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// The longest text of a forge in a message, in characters.
const MAX_SAID_CHARS: usize = 300;

/// The API, with a token.
#[derive(Debug)]
pub(super) struct ForgeApi {
    client: reqwest::Client,
    base: Url,
    kind: ForgeKind,
    token: Secret,
}

/// What a forge answers.
#[derive(Debug)]
pub(super) struct ForgeAnswer {
    pub(super) status: u16,
    headers: HeaderMap,
    /// Null if it is no JSON.
    pub(super) body: Value,
    /// Its reason, in one line.
    pub(super) said: String,
}

impl ForgeApi {
    /// The API of a repository's forge. Makes no call.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub(super) fn new(address: &ForgeAddress, token: Secret) -> Result<Self, ForgeError> {
        let unusable = |why: String| ForgeError::Setup { why };
        let client = state::http::client().map_err(|error| unusable(error.to_string()))?.timeout(CALL_TIMEOUT).build();
        let client = client.map_err(|error| unusable(error.to_string()))?;
        Ok(Self { client, base: address.api.clone(), kind: address.kind, token })
    }

    /// Asks for something. A segment of the route may contain `/`.
    pub(super) async fn get(&self, route: &[&str], query: &[(&str, &str)]) -> Result<ForgeAnswer, ForgeError> {
        self.send(Method::GET, route, query, None).await
    }

    pub(super) async fn post(&self, route: &[&str], body: &Value) -> Result<ForgeAnswer, ForgeError> {
        self.send(Method::POST, route, &[], Some(body)).await
    }

    async fn send(
        &self,
        method: Method,
        route: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<ForgeAnswer, ForgeError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(route);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", self.token.reveal()))
            .map_err(|_| ForgeError::Setup { why: "the token contains invalid characters".to_owned() })?;
        authorization.set_sensitive(true);
        let mut request = self.client.request(method, url).header(AUTHORIZATION, authorization);
        request = request.header(USER_AGENT, concat!("pawl/", env!("CARGO_PKG_VERSION")));
        request = match self.kind {
            ForgeKind::Github => {
                request.header(ACCEPT, "application/vnd.github+json").header("x-github-api-version", "2022-11-28")
            }
            ForgeKind::Gitlab => request.header(ACCEPT, "application/json"),
        };
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let failed = |error: reqwest::Error| ForgeError::Unreachable {
            why: self.shown(&error_chain_text(&error.without_url())),
        };
        let mut answer = request.send().await.map_err(failed)?;
        let (status, headers) = (answer.status().as_u16(), self.without_token(answer.headers()));
        let mut content = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if content.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(ForgeError::Strange { why: "its answer is too long".to_owned() });
            }
            content.extend_from_slice(&chunk);
        }
        let content = String::from_utf8_lossy(&content).replace(self.token.reveal(), "***");
        let body = serde_json::from_str(&content).unwrap_or(Value::Null);
        let said = self.shown(&reason(&body));
        Ok(ForgeAnswer { status, headers, body, said })
    }

    /// The headers that may be shown.
    fn without_token(&self, headers: &HeaderMap) -> HeaderMap {
        let says_token = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).contains(self.token.reveal());
        headers
            .iter()
            .filter(|(_, value)| !says_token(value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// A text of the forge as one line without the token.
    fn shown(&self, text: &str) -> String {
        let words = text.replace(self.token.reveal(), "***");
        words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_SAID_CHARS).collect()
    }
}

impl ForgeAnswer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The newest commit in a list of them, by the key of its hash; none if the forge answers that the repository is empty.
    pub(super) fn newest_commit(&self, hash_key: &str, empty_status: u16) -> Result<Option<String>, ForgeError> {
        match self.status {
            200 => {
                let commits = self.body.as_array();
                let strange = || ForgeError::Strange { why: "it has no list of commits".to_owned() };
                let newest = commits.ok_or_else(strange)?.first();
                Ok(newest.map(|commit| commit[hash_key].as_str().unwrap_or("unknown").to_owned()))
            }
            status if status == empty_status => Ok(None),
            _ => Err(self.error()),
        }
    }

    /// A text that each such answer has.
    pub(super) fn needed_text(&self, key: &str) -> Result<String, ForgeError> {
        self.text(key).map(str::to_owned).ok_or_else(|| missing(key))
    }

    /// A text in the answer.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.body.get(key)?.as_str()
    }

    /// Whether the forge wants fewer calls. GitHub uses 403 for that, too.
    fn is_rate_limit(&self) -> bool {
        self.status == 429
            || self.status == 403
                && (self.header("retry-after").is_some() || self.header("x-ratelimit-remaining") == Some("0"))
    }

    /// An answer that means the same to all calls.
    pub(super) fn error(&self) -> ForgeError {
        let said = self.said.clone();
        match self.status {
            401 => ForgeError::Unauthorized { said },
            _ if self.is_rate_limit() => {
                ForgeError::TooManyCalls { seconds: self.header("retry-after").map(str::to_owned) }
            }
            403 => ForgeError::Forbidden { said, missing: None },
            status => ForgeError::Status { status, said },
        }
    }
}

/// The error of an answer without something that each such answer has.
pub(super) fn missing(key: &str) -> ForgeError {
    ForgeError::Strange { why: format!("`{key}` is missing") }
}

/// The texts of an error. GitHub has `message`, and `errors` with a `message` each; GitLab has a `message`, which may list what is wrong with
/// each field, or `error` and `error_description`.
fn reason(body: &Value) -> String {
    let mut texts: Vec<String> = Vec::new();
    match &body["message"] {
        Value::String(text) => texts.push(text.clone()),
        Value::Object(fields) => {
            for (field, problems) in fields {
                let problems = problems.as_array().into_iter().flatten().filter_map(Value::as_str);
                texts.extend(problems.map(|problem| format!("{field} {problem}")));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
    }
    let errors = body["errors"].as_array().into_iter().flatten();
    texts.extend(errors.filter_map(|error| error["message"].as_str().or(error.as_str())).map(str::to_owned));
    texts.extend(body["error_description"].as_str().or(body["error"].as_str()).map(str::to_owned));
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reasons_of_both_forges() {
        let cases = [
            (json!({ "message": "Bad credentials", "status": "401" }), "Bad credentials"),
            (
                json!({ "message": "Repository creation failed.", "errors": [{ "field": "name", "message": "name already exists on this account" }] }),
                "Repository creation failed.; name already exists on this account",
            ),
            (
                json!({ "message": { "name": ["has already been taken"], "path": ["is too short"] } }),
                "name has already been taken; path is too short",
            ),
            (
                json!({ "error": "insufficient_scope", "error_description": "The request requires more" }),
                "The request requires more",
            ),
            (json!({ "error": "invalid_token" }), "invalid_token"),
            (Value::Null, ""),
        ];
        for (body, expected) in cases {
            assert_eq!(reason(&body), expected);
        }
    }
}
