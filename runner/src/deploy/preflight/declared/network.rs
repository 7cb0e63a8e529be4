//! URLs, TCP addresses, sockets and databases.

use fetch::net::{NetError, check_http_grants, check_tcp_grants};
use plan::closest_match;
use sandbox::{CapabilityKind, DeclaredValue, ValueKind};

use super::{DeclaredStep, GrantHint, GrantLine, KnownText, ValueProblem, grant_line_hint};

impl DeclaredStep<'_> {
    /// Checks a URL: that it is one, and that the grants cover its origin and method.
    pub(super) fn check_url(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let url = match self.text(value)? {
            KnownText::Whole(url) => url,
            KnownText::Prefix(prefix) => origin_of_prefix(prefix)?,
        };
        if let Some(rest) = url.strip_prefix("unix://") {
            return self.check_socket(value, rest.split(['/', '?', '#']).next().unwrap_or_default());
        }
        let method = self.beside(value, ValueKind::HttpMethod);
        match method.map(|method| (method, self.text(method))) {
            None | Some((_, None)) => self.check_request(value, url, Some("GET")),
            Some((_, Some(KnownText::Prefix(_)))) => self.check_request(value, url, None),
            Some((method, Some(KnownText::Whole(name)))) => match check_http_grants(&[], name, "http://localhost/") {
                Err(NetError::InvalidMethod { why, .. }) => {
                    let why = format!("`{name}` can't be requested: {why}");
                    Some(self.invalid(method, &why, "not a method", "write a method such as `GET` or `POST`"))
                }
                Ok(()) | Err(_) => self.check_request(value, url, Some(name)),
            },
        }
    }

    /// Checks a request. Without a known method, only the origin counts.
    pub(super) fn check_request(&self, value: &DeclaredValue, url: &str, method: Option<&str>) -> Option<ValueProblem> {
        let grants = &self.step.grants;
        match check_http_grants(&grants.http, method.unwrap_or("GET"), url) {
            // No grant can name it.
            Err(NetError::OriginNotGranted { origin, .. }) if origin.ends_with(":0") => {
                let why = format!("`{url}` has the port 0, on which nothing can listen");
                Some(self.invalid(value, &why, "not a port", "write the port that the server listens on"))
            }
            Err(NetError::OriginNotGranted { origin, .. }) => {
                let line = GrantLine::Item(format!("\"{origin}\""));
                let hint = grant_line_hint(self.plan, self.step, CapabilityKind::Http, &line);
                Some(self.not_granted(value, CapabilityKind::Http, &format!("the HTTP origin {origin}"), hint))
            }
            Err(NetError::MethodNotGranted { method: refused, origin, granted }) if method.is_some() => {
                let methods = granted.iter().map(String::as_str).chain([refused.as_str()]).collect::<Vec<_>>();
                let hint = format!("write `methods: [{}]` in the grant of {origin}", methods.join(", "));
                let what = format!("the method {refused} of {origin}");
                Some(self.not_granted(value, CapabilityKind::Http, &what, hint))
            }
            Err(NetError::InvalidUrl { url, why }) => {
                let why = format!("`{url}` is not a valid URL: {why}");
                Some(self.invalid(value, &why, "not a URL", url_hint(&url)))
            }
            Ok(()) | Err(_) => None,
        }
    }

    pub(super) fn check_tcp_address(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let KnownText::Whole(address) = self.text(value)? else { return None };
        let grants = &self.step.grants;
        match check_tcp_grants(&grants.tcp, address) {
            // No grant can name it.
            Err(NetError::PeerNotGranted { peer }) if peer.ends_with(":0") => {
                let why = format!("`{address}` has the port 0, on which nothing can listen");
                Some(self.invalid(value, &why, "not a port", "write the port that the server listens on"))
            }
            Err(NetError::PeerNotGranted { peer }) => {
                let line = GrantLine::Item(format!("\"{peer}\""));
                let hint = grant_line_hint(self.plan, self.step, CapabilityKind::Tcp, &line);
                Some(self.not_granted(value, CapabilityKind::Tcp, &format!("the TCP address {peer}"), hint))
            }
            Err(NetError::InvalidAddress { .. }) => {
                let why = format!("`{address}` is not `host:port`");
                let hint = "write `db.example.com:5432` or `[::1]:5432`";
                Some(self.invalid(value, &why, "not an address", hint))
            }
            Ok(()) | Err(_) => None,
        }
    }

    fn check_socket(&self, value: &DeclaredValue, name: &str) -> Option<ValueProblem> {
        let sockets = &self.step.grants.sockets;
        if sockets.keys().any(|granted| granted.as_str() == name) {
            return None;
        }
        let hint = match closest_match(name, sockets.keys().map(|granted| granted.as_str())) {
            Some(near) => GrantHint::from(format!("did you mean `unix://{near}/`?")),
            None => {
                let entry = GrantLine::Entry(format!("{name}: \"unix:/run/{name}.sock\""));
                grant_line_hint(self.plan, self.step, CapabilityKind::Sockets, &entry)
            }
        };
        Some(self.not_granted(value, CapabilityKind::Sockets, &format!("a socket `{name}`"), hint))
    }

    pub(super) fn check_database(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let KnownText::Whole(name) = self.text(value)? else { return None };
        let databases = &self.step.grants.databases;
        if databases.keys().any(|granted| granted.as_str() == name) {
            return None;
        }
        let hint = match closest_match(name, databases.keys().map(|granted| granted.as_str())) {
            Some(near) => GrantHint::from(format!("did you mean `{near}`?")),
            None if name.parse::<contract::GrantName>().is_err() => {
                let entry = GrantLine::Entry(format!("main: \"{name}\""));
                let hint = grant_line_hint(self.plan, self.step, CapabilityKind::Databases, &entry);
                hint.and(", and write `main` here")
            }
            None => {
                let entry = GrantLine::Entry(format!("{name}: \"sqlite:./{name}.db\""));
                grant_line_hint(self.plan, self.step, CapabilityKind::Databases, &entry)
            }
        };
        Some(self.not_granted(value, CapabilityKind::Databases, &format!("a database `{name}`"), hint))
    }
}

/// What to write for a text that is no URL.
fn url_hint(text: &str) -> String {
    // `http//host` and `http:/host`, but not `http:///path`, whose host nobody knows.
    let scheme = ["https", "http"]
        .into_iter()
        .find(|scheme| text.starts_with(&format!("{scheme}:")) || text.starts_with(&format!("{scheme}//")));
    let after_scheme = scheme.map(|scheme| (scheme, text[scheme.len()..].trim_start_matches([':', '/'])));
    match after_scheme {
        _ if text.contains("://") => "write a full URL, such as `http://127.0.0.1:8080/health`".to_owned(),
        Some((scheme, rest)) if !rest.is_empty() => format!("did you mean `{scheme}://{rest}`?"),
        // A path has no host.
        _ if text.is_empty() || text.starts_with('/') => {
            let path = if text.len() > 1 { text } else { "/health" };
            format!("write a full URL, such as `http://127.0.0.1:8080{path}`")
        }
        _ => format!("did you mean `http://{text}`?"),
    }
}

/// The URL up to its path, if that much is known.
fn origin_of_prefix(prefix: &str) -> Option<&str> {
    let authority = prefix.find("://")? + 3;
    let end = authority + prefix[authority..].find(['/', '?', '#'])?;
    Some(&prefix[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_url_gets_the_url_that_was_meant() {
        for (text, hint) in [
            ("http//127.0.0.1:1/", "did you mean `http://127.0.0.1:1/`?"),
            ("https:/shop.example/x", "did you mean `https://shop.example/x`?"),
            ("127.0.0.1:8080/health", "did you mean `http://127.0.0.1:8080/health`?"),
            ("httpd.example", "did you mean `http://httpd.example`?"),
            ("/ready", "write a full URL, such as `http://127.0.0.1:8080/ready`"),
            ("http:///x", "write a full URL, such as `http://127.0.0.1:8080/health`"),
            ("ftp://h/", "write a full URL, such as `http://127.0.0.1:8080/health`"),
        ] {
            assert_eq!(url_hint(text), hint, "{text}");
        }
    }

    #[test]
    fn origin_is_known_once_the_path_begins() {
        assert_eq!(origin_of_prefix("http://h:80/a"), Some("http://h:80"));
        assert_eq!(origin_of_prefix("http://h?a="), Some("http://h"));
        // The port may go on.
        assert_eq!(origin_of_prefix("http://h:80"), None);
        assert_eq!(origin_of_prefix(""), None);
    }
}
