//! HTTP origins and TCP addresses, in the normal form that the sandbox compares.
//!
//! Hosts are normalised by the URL standard (url.spec.whatwg.org): lower case, IDNA, and every spelling of an IPv4 address
//! (`0x7f.1`) becomes the usual one, so that no spelling slips through a comparison.

use url::{Host, Url};

/// Why a text is not a valid address, and what to write instead.
pub(super) struct AddressError {
    pub(super) reason: String,
    pub(super) hint: String,
}

fn address_error<T>(why: impl Into<String>, hint: impl Into<String>) -> Result<T, AddressError> {
    Err(AddressError { reason: why.into(), hint: hint.into() })
}

/// Scheme, host (IPv6 without brackets) and port of an origin.
pub(super) fn origin(text: &str) -> Result<(String, String, u16), AddressError> {
    const EXAMPLE: &str = "write `https://example.com`, with a port if it is not the default";
    if text.contains('*') {
        return address_error("wildcards are not supported", "grant each origin by name");
    }
    if !text.starts_with("http://") && !text.starts_with("https://") {
        let why = "it does not start with `http://` or `https://`";
        let bare = text.split(['/', '?', '#']).next().unwrap_or_default();
        return match text.contains("://") || bare.is_empty() || bare.contains(char::is_whitespace) {
            true => address_error(why, EXAMPLE),
            false => address_error(why, format!("write `https://{bare}`")),
        };
    }
    // The parser takes the first name of a path for a host.
    if text.split_once("://").is_some_and(|(_, rest)| rest.starts_with(['/', '\\'])) {
        return address_error("it has no host or port", EXAMPLE);
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return address_error(error.to_string(), EXAMPLE),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return address_error("it contains a user name", "put the credentials into `headers`, from a secret");
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return address_error("it contains a path", format!("write `{}`", url.origin().ascii_serialization()));
    }
    match (url.host(), url.port_or_known_default()) {
        (Some(_), Some(0)) | (None, _) | (_, None) => address_error("it has no host or port", EXAMPLE),
        (Some(host), Some(port)) => Ok((url.scheme().to_owned(), host_without_brackets(&host.to_owned()), port)),
    }
}

/// `host:port` in its normal form; an IPv6 address keeps its brackets.
pub(super) fn tcp(text: &str) -> Result<String, AddressError> {
    const EXAMPLE: &str = "write `db.example.com:5432` or `[::1]:5432`";
    let Some((host, port)) = text.rsplit_once(':') else {
        return address_error("it has no port", EXAMPLE);
    };
    if host.contains(':') && !host.starts_with('[') {
        return address_error("an IPv6 address needs brackets", EXAMPLE);
    }
    let port = match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => number,
        Ok(_) | Err(_) => return address_error(format!("`{port}` is not a port"), EXAMPLE),
    };
    match Host::parse(host) {
        Ok(host) if !host.to_string().contains('*') => Ok(format!("{host}:{port}")),
        Ok(_) => address_error("wildcards are not supported", "grant each address by name"),
        Err(error) => address_error(error.to_string(), EXAMPLE),
    }
}

fn host_without_brackets(host: &Host) -> String {
    match host {
        Host::Domain(name) => name.clone(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    }
}
