//! `oci://host[:port]/repository:tag` or `…@sha256:…`: an artifact or an image in a registry.
//!
//! The parts are those of the OCI distribution specification 1.1. With both a tag and a digest, the digest says what the content is.

use std::fmt;

use super::{
    address,
    registry::{MAX_REPOSITORY_BYTES, is_component},
};
use contract::Digest;

/// The scheme of the text.
pub const OCI_SCHEME: &str = "oci://";
/// The longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// An artifact or an image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciRef {
    /// `https`, or `http` for this machine itself.
    pub scheme: &'static str,
    /// A lower-case DNS name or an IP literal (an IPv6 one without brackets).
    pub host: String,
    /// The port, the scheme's default filled in.
    pub port: u16,
    /// The repository, such as `team/shop`.
    pub repository: String,
    /// The tag; none if there is a digest.
    pub tag: Option<String>,
    /// The digest of the manifest.
    pub digest: Option<Digest>,
}

impl OciRef {
    /// Parses what follows `oci://`.
    ///
    /// # Errors
    /// The rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (location, digest) = match text.split_once('@') {
            Some((location, digest)) => (location, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        let (authority, path) = location.split_once('/').ok_or("it has no repository")?;
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) if is_tag(tag) => (repository, Some(tag.to_owned())),
            Some(_) => return Err("its tag is invalid".to_owned()),
            None => (path, None),
        };
        if repository.len() > MAX_REPOSITORY_BYTES || !repository.split('/').all(is_component) {
            return Err("its repository name is invalid: it must be in lower case".to_owned());
        }
        if tag.is_none() && digest.is_none() {
            return Err("it has neither a tag nor a digest".to_owned());
        }
        let origin = |scheme| {
            address::origin(&format!("{scheme}://{authority}"))
                .map_err(|refused| format!("its host is invalid: {}", refused.reason))
        };
        let (_, host, port) = origin("https")?;
        // Traffic that stays on this machine needs no TLS.
        let (scheme, port) = match host.as_str() {
            "localhost" | "127.0.0.1" | "::1" => ("http", origin("http")?.2),
            _ => ("https", port),
        };
        let tag = tag.filter(|_| digest.is_none());
        Ok(Self { scheme, host, port, repository: repository.to_owned(), tag, digest })
    }

    /// `scheme://host[:port]`.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority())
    }

    /// `host[:port]`.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme, self.port) {
            ("https", 443) | ("http", 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for OciRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OCI_SCHEME}{}/{}", self.authority(), self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    let digest = text.strip_prefix("sha256:").filter(|_| is_lower).and_then(|_| text.parse().ok());
    digest.ok_or_else(|| "its digest is not `sha256:` and 64 lowercase hex digits".to_owned())
}

/// Whether a text matches `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= MAX_TAG_BYTES
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_a_tag_or_a_digest() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, origin, shown) in [
            ("registry.example.com/shop:r1", "https://registry.example.com", "oci://registry.example.com/shop:r1"),
            (
                "Registry.Example.com:5000/team/shop:v1.2-rc_1",
                "https://registry.example.com:5000",
                "oci://registry.example.com:5000/team/shop:v1.2-rc_1",
            ),
            ("localhost:5000/shop:r1", "http://localhost:5000", "oci://localhost:5000/shop:r1"),
            ("[::1]:5000/shop:r1", "http://[::1]:5000", "oci://[::1]:5000/shop:r1"),
            ("10.0.0.7/shop:r1", "https://10.0.0.7", "oci://10.0.0.7/shop:r1"),
        ] {
            let parsed = OciRef::parse(text).unwrap();
            assert_eq!((parsed.origin().as_str(), parsed.to_string().as_str()), (origin, shown));
        }
        for text in [format!("r.example.com/shop@{digest}"), format!("r.example.com/shop:r1@{digest}")] {
            let parsed = OciRef::parse(&text).unwrap();
            assert_eq!((parsed.tag.clone(), parsed.digest.is_some()), (None, true));
            assert_eq!(parsed.to_string(), format!("oci://r.example.com/shop@{digest}"));
        }
        for (text, why) in [
            ("registry.example.com", "it has no repository"),
            ("registry.example.com/shop", "it has neither a tag nor a digest"),
            ("registry.example.com/Shop:r1", "its repository name is invalid: it must be in lower case"),
            ("registry.example.com/:r1", "its repository name is invalid: it must be in lower case"),
            ("registry.example.com/shop:", "its tag is invalid"),
            ("registry.example.com/shop:a b", "its tag is invalid"),
            ("registry.example.com/shop@sha256:12", "its digest is not `sha256:` and 64 lowercase hex digits"),
        ] {
            assert_eq!(OciRef::parse(text), Err(why.to_owned()), "{text}");
        }
        assert!(OciRef::parse("user@registry/shop:r1").is_err());
        assert!(OciRef::parse("a b/shop:r1").unwrap_err().starts_with("its host is invalid"));
    }
}
