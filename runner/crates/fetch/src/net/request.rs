//! Requests and responses, and how a redirect turns one request into the next. Pure.

use std::time::Duration;

use reqwest::{
    Method, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use url::{Host, Url};

use super::error::{NetError, url_for_display};
use contract::Secret;
use plan::HttpGrant;

/// A request. [`NetRequest::new`] fills in the defaults.
#[derive(Clone, Debug)]
pub struct NetRequest {
    /// The method.
    pub method: Method,
    /// An absolute `http` or `https` URL.
    pub url: Url,
    /// The step's headers: name, value.
    pub headers: Vec<(String, String)>,
    /// Headers with values that the step does not know: name, value. They stay with the first origin.
    pub secrets: Vec<(String, Secret)>,
    /// The body.
    pub body: Option<Vec<u8>>,
    /// The timeout for everything, including redirects and the body. 30 s.
    pub timeout: Duration,
    /// The largest accepted body. 1 MiB.
    pub max_bytes: u64,
    /// The most redirects to follow. 5. With 0, a redirect is returned like any response.
    pub redirects: u32,
}

impl NetRequest {
    /// A request without headers and body. `method` may be in lower case.
    pub fn new(method: &str, url: &str) -> Result<Self, NetError> {
        let name = method.to_ascii_uppercase();
        let invalid = |why| NetError::InvalidMethod { method: method.to_owned(), why };
        let method = Method::from_bytes(name.as_bytes()).map_err(|_| invalid("it is not an HTTP method"))?;
        // TRACE echoes headers, including granted credentials; CONNECT opens a tunnel to another host.
        if method == Method::TRACE || method == Method::CONNECT {
            return Err(invalid("steps can't send it"));
        }
        Ok(Self {
            method,
            url: parse_url(url)?,
            headers: Vec::new(),
            secrets: Vec::new(),
            body: None,
            timeout: Duration::from_secs(30),
            max_bytes: 1 << 20,
            redirects: 5,
        })
    }
}

/// A response with its whole body.
#[derive(Clone, Debug)]
pub struct NetResponse {
    /// The status.
    pub status: u16,
    /// Names in lower case, in the received order; invalid UTF-8 is replaced.
    pub headers: Vec<(String, String)>,
    /// The body as sent, without decompression.
    pub body: Vec<u8>,
    /// The final URL, after redirects.
    pub url: Url,
}

/// Parses a URL that a step may request.
pub fn parse_url(text: &str) -> Result<Url, NetError> {
    let before_query = text.split(['?', '#']).next().unwrap_or_default();
    // The text before an @ may contain a password.
    let before_query = before_query.rsplit_once('@').map_or(before_query, |(_, after)| after);
    let invalid = |why: String| NetError::InvalidUrl { url: before_query.to_owned(), why };
    let url = Url::parse(text).map_err(|fault| invalid(fault.to_string()))?;
    check_url(&url).map_err(|why| invalid(why.to_owned()))?;
    if !has_host(text, url.scheme()) {
        return Err(invalid("it has no host".to_owned()));
    }
    Ok(url)
}

/// Whether a host follows the scheme. The parser takes the first name of a path for one.
fn has_host(text: &str, scheme: &str) -> bool {
    let rest = text.trim_start().get(scheme.len()..).and_then(|rest| rest.strip_prefix("://"));
    rest.is_some_and(|rest| !rest.starts_with(['/', '\\']))
}

pub(super) fn check_url(url: &Url) -> Result<(), &'static str> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only http and https are supported");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL must not contain a user or password; send a header instead");
    }
    Ok(())
}

/// One request on the way from the first URL to the response.
#[derive(Debug)]
pub(super) struct RedirectHop {
    pub(super) method: Method,
    pub(super) url: Url,
    /// The step's headers; [`RedirectHop::headers_with_grant`] adds the grant's.
    headers: HeaderMap,
    pub(super) body: Option<Vec<u8>>,
    /// The URL that redirected here.
    pub(super) from: Option<Url>,
}

impl RedirectHop {
    pub(super) fn first(request: NetRequest) -> Result<Self, NetError> {
        let NetRequest { method, url, body, .. } = request;
        check_url(&url).map_err(|why| NetError::InvalidUrl { url: url_for_display(&url), why: why.to_owned() })?;
        let mut headers = step_headers(&request.headers, &url)?;
        for (name, value) in &request.secrets {
            for (name, mut value) in step_headers(&[(name.clone(), value.reveal().to_owned())], &url)? {
                let name = name.expect("each of one header's values has its name");
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        Ok(Self { headers, method, url, body, from: None })
    }

    /// The step's headers alone, for targets without an HTTP grant.
    pub(super) fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    /// The step's headers and the grant's, which take precedence.
    pub(super) fn headers_with_grant(&self, grant: &HttpGrant) -> Result<HeaderMap, NetError> {
        let mut headers = self.headers.clone();
        for (name, value) in &grant.headers {
            let (name, mut value) = parse_header(name, value.value.reveal())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// The next request, if `status` and `location` are a redirect (Fetch standard, HTTP-redirect fetch).
    pub(super) fn redirect_to(self, location: &HeaderValue, status: StatusCode) -> Result<Self, NetError> {
        let bad = |why: String| NetError::BadRedirect { from: url_for_display(&self.url), why };
        let location = std::str::from_utf8(location.as_bytes()).map_err(|_| bad("it is not UTF-8".to_owned()))?;
        let next = self.url.join(location).map_err(|fault| bad(fault.to_string()))?;
        check_url(&next).map_err(|why| bad(why.to_owned()))?;

        let Self { mut method, url, mut headers, mut body, .. } = self;
        let becomes_get = match status {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => method == Method::POST,
            StatusCode::SEE_OTHER => method != Method::HEAD,
            _ => false,
        };
        if becomes_get {
            method = Method::GET;
            body = None;
            remove_headers(&mut headers, |name, _| name.as_str().starts_with("content-"));
        }
        if next.origin() != url.origin() {
            remove_headers(&mut headers, |name, value| {
                *name == header::HOST || looks_like_credential(name) || value.is_sensitive()
            });
        }
        Ok(Self { method, url: next, headers, body, from: Some(url) })
    }
}

/// Whether a response with this status is a redirect that can be followed.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Headers of the connection, which the client sets.
const HOST_MANAGED_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn step_headers(given: &[(String, String)], url: &Url) -> Result<HeaderMap, NetError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let (name, value) = parse_header(name, value)?;
        let invalid = |why| NetError::InvalidHeader { name: name.to_string(), why };
        if HOST_MANAGED_HEADERS.contains(&name.as_str()) {
            return Err(invalid("the runner sets it"));
        }
        // One granted name may serve many sites. A machine granted by its address is granted as a whole, so that a
        // check before a DNS switch can request one of its sites.
        let names_machine = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
            None => false,
        };
        if name == header::HOST && !names_machine {
            return Err(invalid("it may differ from the URL's only for an IP address or localhost"));
        }
        headers.append(name, value);
    }
    Ok(headers)
}

fn parse_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), NetError> {
    let invalid = |why| NetError::InvalidHeader { name: name.to_owned(), why };
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("its name is not a header name"))?;
    let value =
        HeaderValue::from_str(value).map_err(|_| invalid("its value contains characters that a header can't hold"))?;
    Ok((parsed, value))
}

fn looks_like_credential(name: &HeaderName) -> bool {
    const CREDENTIAL_WORDS: [&str; 10] =
        ["auth", "cookie", "token", "secret", "api-key", "apikey", "password", "session", "credential", "signature"];
    CREDENTIAL_WORDS.iter().any(|part| name.as_str().contains(part))
}

fn remove_headers(headers: &mut HeaderMap, dropped: impl Fn(&HeaderName, &HeaderValue) -> bool) {
    let names: Vec<HeaderName> =
        headers.iter().filter(|(name, value)| dropped(name, value)).map(|(name, _)| name.clone()).collect();
    for name in names {
        headers.remove(name);
    }
}
