//! The client of GitHub's REST API that commands use.

use std::time::Duration;

use octocrab::Octocrab;

use super::source::env_variable;
use contract::text;

/// The longest time of a call.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A client with this token. Makes no call.
///
/// # Errors
/// A token that no header can contain, or an invalid `GITHUB_API_URL`.
pub(super) fn client(token: String) -> Result<Octocrab, String> {
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token contains invalid characters".to_owned());
    }
    let api = env_variable("GITHUB_API_URL").filter(|url| !url.is_empty());
    let api = api.unwrap_or_else(|| "https://api.github.com".to_owned());
    let client = state::http::client().map_err(|error| error.to_string())?.timeout(CALL_TIMEOUT).build();
    let crab = Octocrab::builder().personal_token(token).base_uri(api).map_err(|error| api_error_text(&error))?;
    crab.build_with_reqwest(client.map_err(|error| error.to_string())?).map_err(|error| api_error_text(&error))
}

/// An error and its innermost cause, in one line: octocrab's own messages say little.
pub(super) fn api_error_text(error: &octocrab::Error) -> String {
    if let octocrab::Error::GitHub { source, .. } = error {
        return format!("{}: {}", source.status_code, text::truncate(&source.message, 300));
    }
    // The innermost error says what happened; the outer ones repeat it with the URL.
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    text::truncate(&inner.to_string(), 300)
}
