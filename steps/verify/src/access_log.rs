//! Requests in the log of a server: in the combined or common form, or one JSON object a line. Pure: text in, requests out.

use pawl_step::json;
use serde_json::{Map, Value};

/// The names of the member with the method, in JSON of various servers.
const METHODS: [&str; 2] = ["request_method", "method"];
/// The names of the member with the path and query.
const TARGETS: [&str; 4] = ["request_uri", "uri", "url", "path"];

/// A request that changes nothing, as a server logged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedRequest {
    /// `GET` or `HEAD`.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// The status of the answer.
    pub(crate) status: Option<u16>,
}

impl LoggedRequest {
    /// A short label, without the query, which may have a token in it.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.method, self.path())
    }

    /// The path without the query.
    pub(crate) fn path(&self) -> &str {
        self.target.split(['?', '#']).next().unwrap_or_default()
    }

    /// The status that the same request has now, if the log tells: not that of a request with conditions or ranges, which the log does not have.
    pub(crate) fn expected_status(&self) -> Option<u16> {
        match self.status? {
            206 | 304 => Some(200),
            status @ (200..=399 | 401 | 403 | 404 | 405 | 406 | 410 | 451) => Some(status),
            _ => None,
        }
    }
}

/// The newest requests of a log that read only, each once, at most `take`. `is_meant` leaves some out.
pub(crate) fn newest_requests(log: &str, take: usize, is_meant: impl Fn(&LoggedRequest) -> bool) -> Vec<LoggedRequest> {
    let mut found: Vec<LoggedRequest> = Vec::new();
    for request in log.lines().rev().filter_map(parse_line).filter(is_meant) {
        if found.len() == take {
            break;
        }
        if !found.iter().any(|known| (&known.method, &known.target) == (&request.method, &request.target)) {
            found.push(request);
        }
    }
    found
}

/// The request of a line, if it reads only and can be sent again.
fn parse_line(line: &str) -> Option<LoggedRequest> {
    let line = line.trim();
    let request = if line.starts_with('{') { parse_json(&json::object(line)) } else { parse_combined(line) }?;
    let is_reading = matches!(request.method.as_str(), "GET" | "HEAD");
    // What is escaped in a log is no path that a browser has sent.
    let is_path = request.target.starts_with('/')
        && request.target.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'#'));
    (is_reading && is_path).then_some(request)
}

/// `… "GET /path HTTP/1.1" 200 …`
fn parse_combined(line: &str) -> Option<LoggedRequest> {
    let (_, rest) = line.split_once('"')?;
    let (request, after) = rest.split_once('"')?;
    let status = after.split_whitespace().next().and_then(|status| status.parse().ok());
    parse_request_line(request, status)
}

fn parse_json(members: &Map<String, Value>) -> Option<LoggedRequest> {
    let status = members.get("status").and_then(|status| match status {
        Value::Number(number) => u16::try_from(number.as_u64()?).ok(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    });
    let members = match members.get("request") {
        Some(Value::String(line)) => return parse_request_line(line, status),
        // As Caddy writes it.
        Some(Value::Object(request)) => request,
        Some(_) | None => members,
    };
    let text = |names: &[&str]| names.iter().find_map(|name| members.get(*name)?.as_str()).map(str::to_owned);
    Some(LoggedRequest { method: text(&METHODS)?, target: text(&TARGETS)?, status })
}

/// `GET /path HTTP/1.1`
fn parse_request_line(line: &str, status: Option<u16>) -> Option<LoggedRequest> {
    let mut words = line.split(' ');
    let (method, target, version, end) = (words.next()?, words.next()?, words.next()?, words.next());
    let is_http = version.starts_with("HTTP/") && end.is_none();
    is_http.then(|| LoggedRequest { method: method.to_owned(), target: target.to_owned(), status })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<(String, Option<u16>)> {
        parse_line(line).map(|request| (format!("{} {}", request.method, request.target), request.status))
    }

    #[test]
    fn requests_are_read_in_each_form() {
        let get = |target: &str, status: u16| Some((format!("GET {target}"), Some(status)));
        for (line, expected) in [
            (
                r#"1.2.3.4 - ada [30/Nov/2026:10:00:00 +0000] "GET /a?b=c HTTP/1.1" 200 12 "-" "curl/8""#,
                get("/a?b=c", 200),
            ),
            (r#"::1 - - [30/Nov/2026:10:00:00 +0000] "GET /old HTTP/2.0" 301 0"#, get("/old", 301)),
            (r#"shop.example:80 1.2.3.4 - - [t] "GET / HTTP/1.0" 404 1"#, get("/", 404)),
            (r#"{"request":"GET /a HTTP/1.1","status":"200"}"#, get("/a", 200)),
            (r#"{"request_method":"GET","request_uri":"/a?q=1","uri":"/index.php","status":200}"#, get("/a?q=1", 200)),
            (r#"{"level":"info","request":{"method":"GET","host":"x","uri":"/a"},"status":500}"#, get("/a", 500)),
            (r#"{"method":"HEAD","path":"/a"}"#, Some(("HEAD /a".to_owned(), None))),
            (r#"1.2.3.4 - - [t] "POST /a HTTP/1.1" 200 12"#, None),
            (r#"1.2.3.4 - - [t] "\x16\x03\x01" 400 12"#, None),
            (r#"1.2.3.4 - - [t] "GET /\x22x HTTP/1.1" 400 12"#, None),
            (r#"1.2.3.4 - - [t] "GET http://elsewhere/ HTTP/1.1" 400 12"#, None),
            (r#"1.2.3.4 - - [t] "GET /a b HTTP/1.1" 400 12"#, None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn newest_requests_are_taken_once() {
        let log: String = ["/1", "/2", "/3", "/2", "/3?x", "/logout", "/3?x"]
            .map(|target| format!("- - - [t] \"GET {target} HTTP/1.1\" 200 1\n"))
            .concat();
        let targets = |take| {
            let found = newest_requests(&log, take, |request| request.path() != "/logout");
            found.into_iter().map(|request| request.target).collect::<Vec<_>>()
        };
        assert_eq!(targets(100), ["/3?x", "/2", "/3", "/1"]);
        assert_eq!(targets(2), ["/3?x", "/2"]);
    }

    #[test]
    fn label_has_no_query() {
        let request = LoggedRequest { method: "GET".into(), target: "/a?token=secret".into(), status: Some(304) };
        assert_eq!((request.label().as_str(), request.expected_status()), ("GET /a", Some(200)));
    }
}
