//! Images: what they are, and how they come into the engine.

use core::time::Duration;

use pawl_step::secrets::Secret;
use pawl_step::{Failure, FailureKind, log};
use serde_json::{Map, Value};

use crate::text::encode;
use crate::{Engine, refusal, text_at};

/// The time of a pull, if the step's own timeout does not end it before.
const PULL_TIMEOUT: Duration = Duration::from_hours(24);

/// An image in the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// The names with digests that it is known by, such as `registry.example.com/shop@sha256:…`.
    pub digests: Vec<String>,
    /// Its labels.
    pub labels: Map<String, Value>,
}

impl Image {
    fn of(value: &Value) -> Self {
        let digests = value.get("RepoDigests").and_then(Value::as_array);
        let digests = digests.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let labels = value.pointer("/Config/Labels").and_then(Value::as_object).cloned().unwrap_or_default();
        Self { id: text_at(value, "/Id"), digests, labels }
    }

    /// Whether it is the content with this digest.
    #[must_use]
    pub fn has_digest(&self, digest: &str) -> bool {
        self.id == digest || self.digests.iter().any(|name| digest_of(name) == Some(digest))
    }
}

/// Checks the name of an image, and removes what a digest makes needless: a tag.
///
/// # Errors
/// It is not the name of an image.
pub fn parse_reference(text: &str) -> Result<String, Failure> {
    let is_valid = |letter: char| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter);
    let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
    let is_digest = |digest: &str| {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_path = !name.is_empty() && name.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', ':']));
    if !text.chars().all(is_valid) || !is_path || !digest.is_none_or(is_digest) {
        return Err(Failure::invalid_config(format!("`{}` is not the name of an image", text.escape_debug()))
            .hint("write it as `registry.example.com/shop@sha256:<64 hex digits>`"));
    }
    let Some(digest) = digest else { return Ok(name.to_owned()) };
    let tag_at = name.rfind(':').filter(|at| !name[*at..].contains('/'));
    Ok(format!("{}@{digest}", &name[..tag_at.unwrap_or(name.len())]))
}

/// The digest in a name.
#[must_use]
pub fn digest_of(reference: &str) -> Option<&str> {
    reference.split_once('@').map(|(_, digest)| digest)
}

impl Engine<'_> {
    /// An image, by a name of [`parse_reference`]; none if the engine does not have it.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn image(&self, reference: &str) -> Result<Option<Image>, Failure> {
        Ok(self.get(&format!("/images/{reference}/json"))?.as_ref().map(Image::of))
    }

    /// Pulls an image. `auth` is the value of the header `X-Registry-Auth`.
    ///
    /// # Errors
    /// The registry does not answer or refuses, or there is no room.
    pub fn pull(&self, reference: &str, auth: Option<Secret>) -> Result<(), Failure> {
        let request = self.request("POST", &format!("/images/create?fromImage={}", encode(reference)));
        let request = request.timeout(PULL_TIMEOUT);
        let answer = self.send(match auth {
            Some(secret) => request.secret("X-Registry-Auth", "", secret),
            None => request,
        })?;
        let why = match answer.status {
            200 => stream_error(&String::from_utf8_lossy(&answer.body)),
            404 => Some(crate::said(&answer)),
            _ => return Err(refusal("pull", &answer)),
        };
        match why {
            None => Ok(()),
            Some(why) => {
                log::warn(format!("{reference}: {why}"));
                Err(pull_failure(reference, &why))
            }
        }
    }

    /// Removes a name of an image, and the image if it has no other and nothing runs of it. A missing one is fine.
    ///
    /// # Errors
    /// A container needs it.
    pub fn remove_image(&self, reference: &str) -> Result<(), Failure> {
        let answer = self.send(self.request("DELETE", &format!("/images/{reference}")))?;
        match answer.status {
            200 | 404 => Ok(()),
            _ => Err(refusal("remove image", &answer)),
        }
    }
}

/// The error in the lines of a pull: with status 200, the last one tells of it.
fn stream_error(lines: &str) -> Option<String> {
    let error = |line: &str| -> Option<String> {
        let value: Value = serde_json::from_str(line).ok()?;
        Some(value.get("error")?.as_str()?.to_owned())
    };
    lines.lines().find_map(error)
}

fn pull_failure(reference: &str, why: &str) -> Failure {
    // Engines repeat the name in front of each part.
    let why = why.replace(&format!("docker://{reference}"), "the image").replace(reference, "the image");
    let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
    let (kind, hint) = if says(&["unauthorized", "authentication required", "denied"]) {
        (FailureKind::Denied, "give the step the registry's credentials: `auth`, or a login of the engine's user")
    } else if says(&["manifest unknown", "not found", "name unknown"]) {
        (FailureKind::NotFound, "check name and digest; the registry may have removed it")
    } else if says(&["no space left"]) {
        (
            FailureKind::Limit,
            "free room on the disk of the engine, such as by `podman image prune` or `docker image prune`",
        )
    } else {
        (FailureKind::Transient, "check that the engine's machine reaches the registry, then deploy again")
    };
    Failure::new(kind, format!("can't pull {reference}: {why}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let digest = format!("sha256:{:064}", 7);
        for (text, name) in [
            ("shop", "shop".to_owned()),
            ("127.0.0.1:5000/shop:v1", "127.0.0.1:5000/shop:v1".to_owned()),
            (&format!("r.example.com/a/b@{digest}"), format!("r.example.com/a/b@{digest}")),
            (&format!("127.0.0.1:5000/shop:v1@{digest}"), format!("127.0.0.1:5000/shop@{digest}")),
            (&format!("127.0.0.1:5000/shop@{digest}"), format!("127.0.0.1:5000/shop@{digest}")),
        ] {
            assert_eq!(parse_reference(text).unwrap(), name);
        }
        for text in ["", "a b", "a?x=1", "a/../b", "/a", "a@sha256:7", "oci://a/b", "a/b@md5:x"] {
            assert!(parse_reference(text).is_err(), "{text}");
        }
    }

    #[test]
    fn errors_of_a_pull_are_told_apart() {
        let lines =
            "{\"status\":\"Pulling fs layer\"}\r\n{\"error\":\"reading manifest in docker://r/a: unauthorized: x\"}\n";
        let why = stream_error(lines).unwrap();
        let failure = pull_failure("r/a", &why);
        assert_eq!(failure.message, "can't pull r/a: reading manifest in the image: unauthorized: x");
        assert_eq!(failure.kind, FailureKind::Denied);
        assert_eq!(pull_failure("r/a", "manifest unknown").kind, FailureKind::NotFound);
        assert!(pull_failure("r/a", "connection refused").retryable);
        assert_eq!(stream_error("{\"status\":\"Download complete\"}"), None);
    }
}
