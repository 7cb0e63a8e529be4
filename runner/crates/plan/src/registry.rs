//! `oci://host[:port]/repository@sha256:…`: a module in a registry, by the digest of its manifest.
//!
//! The parts are those of the OCI distribution specification. Deliberately absent: tags, since their content changes.

use std::fmt;

use super::address;
use contract::Digest;

/// A module in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryRef {
    /// `https`, or `http` for this machine itself.
    pub scheme: &'static str,
    /// A lower-case DNS name or an IP literal (an IPv6 one without brackets).
    pub host: String,
    /// The port, the scheme's default filled in.
    pub port: u16,
    /// The repository, such as `team/steps/warm`.
    pub repository: String,
    /// The digest of the manifest.
    pub digest: Digest,
}

/// Why a text is not a valid reference, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub struct RegistryRefError {
    pub(super) reason: String,
    pub(super) hint: String,
}

const EXAMPLE: &str = "write `oci://registry.example.com/steps/warm@sha256:…`";
/// The longest name of a repository.
pub(super) const MAX_REPOSITORY_BYTES: usize = 255;

impl RegistryRef {
    /// Parses what follows `oci://`.
    pub fn parse(text: &str) -> Result<Self, RegistryRefError> {
        let bad = |why: &str, hint: &str| RegistryRefError { reason: why.to_owned(), hint: hint.to_owned() };
        let Some((location, digest)) = text.split_once('@') else {
            let image = text.to_owned();
            let hint =
                format!("pin it: `oci://{}@sha256:…`; `crane digest {image}` prints the digest", without_tag(text));
            return Err(bad("it has no digest", &hint));
        };
        let digest = digest
            .strip_prefix("sha256:")
            .filter(|hex| !hex.bytes().any(|byte| byte.is_ascii_uppercase()))
            .and_then(|_| digest.parse().ok())
            .ok_or_else(|| bad("its digest is not `sha256:` and 64 lowercase hex digits", EXAMPLE))?;
        let (authority, repository) = location.split_once('/').ok_or_else(|| bad("it has no repository", EXAMPLE))?;
        if without_tag(location) != location {
            return Err(bad("it has both a tag and a digest", "remove the tag; the digest identifies the content"));
        }
        if repository.len() > MAX_REPOSITORY_BYTES || !repository.split('/').all(is_component) {
            return Err(bad("its repository name is invalid", EXAMPLE));
        }
        let parse_origin = |scheme| {
            let refused =
                |refused: address::AddressError| bad(&format!("its host is invalid: {}", refused.reason), EXAMPLE);
            address::origin(&format!("{scheme}://{authority}")).map_err(refused)
        };
        let (_, host, port) = parse_origin("https")?;
        // Traffic that stays on this machine needs no TLS.
        let (scheme, port) = match host.as_str() {
            "localhost" | "127.0.0.1" | "::1" => ("http", parse_origin("http")?.2),
            _ => ("https", port),
        };
        Ok(Self { scheme, host, port, repository: repository.to_owned(), digest })
    }

    /// `host[:port]`, the key under which credentials are stored.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme, self.port) {
            ("https", 443) | ("http", 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}@{}", self.authority(), self.repository, self.digest)
    }
}

/// The text without its tag, which follows a colon after the last slash.
fn without_tag(text: &str) -> &str {
    match text.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') && before.contains('/') => before,
        Some(_) | None => text,
    }
}

/// Whether a text matches `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
pub(super) fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut rest = text;
    loop {
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let between = rest.find(is_word).unwrap_or(rest.len());
        let separator = &rest[..between];
        if !matches!(separator, "." | "_" | "__") && !separator.bytes().all(|byte| byte == b'-') {
            return false;
        }
        rest = &rest[between..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> String {
        format!("sha256:{}", "0a".repeat(32))
    }

    #[test]
    fn a_reference_has_parts() {
        for (text, scheme, host, port, authority) in [
            ("registry.example.com/steps/warm", "https", "registry.example.com", 443, "registry.example.com"),
            (
                "Registry.Example.com:5000/steps/warm",
                "https",
                "registry.example.com",
                5000,
                "registry.example.com:5000",
            ),
            ("localhost:5000/steps/warm", "http", "localhost", 5000, "localhost:5000"),
            ("localhost/steps/warm", "http", "localhost", 80, "localhost"),
            ("127.0.0.1:5000/steps/warm", "http", "127.0.0.1", 5000, "127.0.0.1:5000"),
            ("[::1]:5000/steps/warm", "http", "::1", 5000, "[::1]:5000"),
            ("[::1]/steps/warm", "http", "::1", 80, "[::1]"),
            ("10.0.0.7:5000/steps/warm", "https", "10.0.0.7", 5000, "10.0.0.7:5000"),
            ("localhost.example.com/steps/warm", "https", "localhost.example.com", 443, "localhost.example.com"),
        ] {
            let parsed = RegistryRef::parse(&format!("{text}@{}", digest())).unwrap();
            let parts = (parsed.scheme, parsed.host.as_str(), parsed.port, parsed.repository.as_str());
            assert_eq!(parts, (scheme, host, port, "steps/warm"), "{text}");
            assert_eq!(parsed.to_string(), format!("oci://{authority}/steps/warm@{}", digest()));
        }
    }

    #[test]
    fn invalid_references_are_refused() {
        let digest = digest();
        for (text, why) in [
            ("r.example.com/warm".to_owned(), "it has no digest"),
            ("r.example.com/warm:1.2".to_owned(), "it has no digest"),
            (format!("r.example.com/warm:1.2@{digest}"), "it has both a tag and a digest"),
            (format!("r.example.com@{digest}"), "it has no repository"),
            (format!("r.example.com/Warm@{digest}"), "its repository name is invalid"),
            (format!("r.example.com/a//b@{digest}"), "its repository name is invalid"),
            (format!("r.example.com/../b@{digest}"), "its repository name is invalid"),
            (format!("r.example.com/a?b@{digest}"), "its repository name is invalid"),
            (format!("ann@r.example.com/a@{digest}"), "its digest is not `sha256:` and 64 lowercase hex digits"),
            ("r.example.com/a@sha256:12".to_owned(), "its digest is not `sha256:` and 64 lowercase hex digits"),
            (
                format!("r.example.com/a@{}", digest.to_uppercase()),
                "its digest is not `sha256:` and 64 lowercase hex digits",
            ),
        ] {
            assert_eq!(RegistryRef::parse(&text).unwrap_err().reason, why, "{text}");
        }
        let tagged = RegistryRef::parse("r.example.com/warm:1.2").unwrap_err();
        assert_eq!(
            tagged.hint,
            "pin it: `oci://r.example.com/warm@sha256:…`; `crane digest r.example.com/warm:1.2` prints the digest"
        );
    }
}
