//! What a server answered, and how two answers differ. Pure.

use pawl_step::{Failure, FailureKind, http, json};
use serde::Deserialize;
use serde_json::Value;

use crate::mismatch::shorten;

/// What may differ.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct IgnoredParts {
    /// Requests whose path begins with one of these are not sent.
    #[serde(default)]
    pub paths: Vec<String>,
    /// JSON pointers into bodies.
    #[serde(default)]
    pub json: Vec<String>,
    /// Lines that contain one of these texts.
    #[serde(default)]
    pub lines: Vec<String>,
    /// The whole body.
    #[serde(default)]
    pub body: bool,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HttpAnswer {
    /// What counts of a response.
    Response { status: u16, kind: String, location: String, body: Vec<u8> },
    /// The body is larger than what is compared.
    TooLarge,
    /// There is none.
    Missing(String),
}

impl HttpAnswer {
    /// Takes what counts of a response.
    ///
    /// # Errors
    /// The plan does not allow the request.
    pub(crate) fn new(result: Result<http::Response, Failure>) -> Result<Self, Failure> {
        match result {
            Ok(response) => {
                let header = |name: &str| {
                    let found = response.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.clone()).unwrap_or_default()
                };
                let (kind, location) = (header("content-type"), path_of(&header("location")).to_owned());
                Ok(Self::Response { status: response.status, kind, location, body: response.body })
            }
            Err(failure) if matches!(failure.kind, FailureKind::Denied | FailureKind::InvalidConfig) => Err(failure),
            Err(failure) if failure.kind == FailureKind::Limit => Ok(Self::TooLarge),
            Err(failure) => Ok(Self::Missing(failure.message)),
        }
    }

    /// A short text, to show in a message.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Response { status, body, .. } => {
                let said = shorten(&String::from_utf8_lossy(body));
                if said.is_empty() { format!("status {status}") } else { format!("status {status} with `{said}`") }
            }
            Self::TooLarge => "a body that is too large to compare".to_owned(),
            Self::Missing(why) => format!("no answer: {why}"),
        }
    }

    /// How it differs from a status that was logged.
    pub(crate) fn differs_from_status(&self, expected: u16) -> Option<String> {
        match self {
            Self::Response { status, .. } if *status == expected => None,
            Self::TooLarge => None,
            Self::Response { .. } | Self::Missing(_) => Some(format!("{}, the log has {expected}", self.describe())),
        }
    }

    /// How it differs from the answer of the live release.
    pub(crate) fn differs_from(&self, live: &Self, ignored: &IgnoredParts) -> Option<String> {
        let (
            Self::Response { status, kind, location, body },
            Self::Response { status: s, kind: k, location: l, body: b },
        ) = (self, live)
        else {
            let is_same = matches!((self, live), (Self::TooLarge, Self::TooLarge));
            return (!is_same).then(|| format!("{}, live {}", self.describe(), live.describe()));
        };
        if status != s {
            return Some(format!("{}, live status {s}", self.describe()));
        }
        for (what, ours, theirs) in [("content-type", kind, k), ("location", location, l)] {
            if ours != theirs {
                return Some(format!("{what} `{}`, live `{}`", shorten(ours), shorten(theirs)));
            }
        }
        if ignored.body { None } else { body_difference(body, b, ignored) }
    }
}

/// A URL without scheme and host: the two are asked at different addresses.
fn path_of(url: &str) -> &str {
    match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => url,
    }
}

fn body_difference(ours: &[u8], theirs: &[u8], ignored: &IgnoredParts) -> Option<String> {
    if ours == theirs {
        return None;
    }
    let texts = (String::from_utf8_lossy(ours), String::from_utf8_lossy(theirs));
    if !ignored.json.is_empty()
        && let (Some(ours), Some(theirs)) = (without(&texts.0, &ignored.json), without(&texts.1, &ignored.json))
    {
        let shown = |value: &Value| shorten(&json::text(value));
        return (ours != theirs).then(|| format!("body `{}`, live `{}`", shown(&ours), shown(&theirs)));
    }
    let is_compared = |line: &&str| !ignored.lines.iter().any(|part| line.contains(part.as_str()));
    let (mut ours, mut theirs) = (texts.0.lines().filter(is_compared), texts.1.lines().filter(is_compared));
    let mut number = 0;
    loop {
        number += 1;
        let shown = |line: Option<&str>| line.map_or("nothing".to_owned(), |line| format!("`{}`", shorten(line)));
        match (ours.next(), theirs.next()) {
            (None, None) => return None,
            (our, their) if our == their => {}
            (our, their) => return Some(format!("line {number} of the body {}, live {}", shown(our), shown(their))),
        }
    }
}

/// A JSON text without the values at some pointers; none if it is not JSON.
fn without(text: &str, pointers: &[String]) -> Option<Value> {
    let mut document: Value = serde_json::from_str(text).ok()?;
    for pointer in pointers {
        let Some((above, name)) = pointer.rsplit_once('/') else { continue };
        let name = name.replace("~1", "/").replace("~0", "~");
        if let Some(Value::Object(members)) = document.pointer_mut(above) {
            members.remove(&name);
        }
    }
    Some(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(status: u16, body: &str) -> HttpAnswer {
        let (kind, location) = ("text/html".to_owned(), String::new());
        HttpAnswer::Response { status, kind, location, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn answers_are_compared_by_status_headers_and_body() {
        let all = IgnoredParts::default();
        let difference = |ours: &HttpAnswer, live: &HttpAnswer| ours.differs_from(live, &all).unwrap();
        assert_eq!(answer(200, "a\nb").differs_from(&answer(200, "a\nb"), &all), None);
        assert_eq!(difference(&answer(500, "oh"), &answer(200, "a")), "status 500 with `oh`, live status 200");
        assert_eq!(difference(&answer(200, "a\nb"), &answer(200, "a\nc")), "line 2 of the body `b`, live `c`");
        assert_eq!(difference(&answer(200, "a"), &answer(200, "a\nc")), "line 2 of the body nothing, live `c`");
        let missing = HttpAnswer::Missing("refused".to_owned());
        assert_eq!(difference(&missing, &answer(200, "")), "no answer: refused, live status 200");
        assert_eq!(HttpAnswer::TooLarge.differs_from(&HttpAnswer::TooLarge, &all), None);
        assert_eq!(answer(200, "").differs_from_status(200), None);
        assert_eq!(answer(404, "").differs_from_status(200).unwrap(), "status 404, the log has 200");
        let redirect = |to: &str| HttpAnswer::Response {
            status: 302,
            kind: String::new(),
            location: path_of(to).to_owned(),
            body: Vec::new(),
        };
        assert_eq!(redirect("http://a:1/x").differs_from(&redirect("https://shop/x"), &all), None);
        assert_eq!(difference(&redirect("/y"), &redirect("https://shop/x")), "location `/y`, live `/x`");
    }

    #[test]
    fn ignored_parts_do_not_count() {
        let ignored: IgnoredParts =
            IgnoredParts::deserialize(json!({ "json": ["/at", "/user/id"], "lines": ["csrf"] })).unwrap();
        let same = |ours: &str, live: &str| answer(200, ours).differs_from(&answer(200, live), &ignored).is_none();
        assert!(same(r#"{"at":1,"user":{"id":2},"n":3}"#, r#"{"n":3,"at":5,"user":{}}"#));
        assert!(!same(r#"{"at":1,"n":3}"#, r#"{"at":1,"n":4}"#));
        assert!(same("<p>\n<input name=csrf value=1>\n</p>", "<p>\n<input name=csrf value=2>\n</p>"));
        assert!(!same("<p>1</p>", "<p>2</p>"));
        let status_only = IgnoredParts { body: true, ..IgnoredParts::default() };
        assert_eq!(answer(200, "a").differs_from(&answer(200, "b"), &status_only), None);
    }
}
