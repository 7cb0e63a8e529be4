//! URLs of database servers: `postgres://user:password@host:port/name?sslmode=…`, `mysql://…`.
//!
//! Invariant: no error contains a part of the URL, since the whole URL may be a secret. A password from a secret may contain any
//! character: the user part ends at the last `@`. Deliberately absent: connecting.

use std::path::PathBuf;

use contract::Secret;

/// The kind of a database server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerEngine {
    /// PostgreSQL.
    Postgres,
    /// MariaDB or MySQL.
    Mysql,
}

/// The address that a server listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEndpoint {
    /// A host name or an IP address (IPv6 without brackets), and a port.
    Tcp(String, u16),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// The TLS mode, named as in libpq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTlsMode {
    /// Never use TLS.
    Disable,
    /// Use TLS if the server supports it, with any certificate.
    #[default]
    Prefer,
    /// Always use TLS, with any certificate unless a CA file is given.
    Require,
    /// A known authority must have signed the certificate.
    VerifyCa,
    /// The certificate must also name this host.
    VerifyFull,
}

/// The parts of a server's URL.
#[derive(Clone, Debug)]
pub struct ServerUrl {
    /// The database engine.
    pub engine: ServerEngine,
    /// The address.
    pub endpoint: ServerEndpoint,
    /// The user name.
    pub user: Option<String>,
    /// The password, decoded.
    pub password: Option<Secret>,
    /// The database name.
    pub name: String,
    /// The TLS mode.
    pub tls: ServerTlsMode,
    /// A file with the trusted authorities, instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// PostgreSQL's settings for the session: `-c name=value`.
    pub options: Option<String>,
}

/// The engine that a URL's scheme names, and what follows the scheme; none for other schemes.
fn split_scheme(url: &str) -> Option<(ServerEngine, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    match scheme {
        "postgres" | "postgresql" => Some((ServerEngine::Postgres, rest)),
        "mysql" | "mariadb" => Some((ServerEngine::Mysql, rest)),
        _ => None,
    }
}

impl ServerUrl {
    /// Parses a URL; none if its scheme is not that of a server.
    ///
    /// # Errors
    /// What is wrong with the URL, without any part of it.
    pub fn parse(url: &str) -> Option<Result<Self, String>> {
        split_scheme(url).map(|(server, rest)| parse_after_scheme(server, rest))
    }
}

/// The URL as reports see it: with its password masked, unless the password is a lookup.
pub(super) fn mask_password(written: &str) -> String {
    let Some((_, rest)) = split_scheme(written) else { return written.to_owned() };
    let (main, _) = split_query(rest);
    let Some((account, _)) = main.rsplit_once('@') else { return written.to_owned() };
    match account.split_once(':') {
        Some((user, password)) if !(password.starts_with("${{") && password.ends_with("}}")) => {
            let start = written.len() - rest.len() + user.len() + 1;
            format!("{}***{}", &written[..start], &written[start + password.len()..])
        }
        Some(_) | None => written.to_owned(),
    }
}

/// Replaces each byte of a password in a URL by a star, so that positions in the text stay valid.
pub(super) fn blank_out_passwords(text: &str) -> Option<String> {
    let (mut shown, mut at) = (String::new(), 0);
    for (found, mark) in text.match_indices("://") {
        let begin = found + mark.len();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let quote = text[..found].trim_end_matches(is_name).chars().next_back().filter(|c| matches!(c, '"' | '\''));
        let ends = |c: char| c == '\n' || quote.map_or_else(|| c.is_whitespace(), |quote| c == quote);
        let end = text[begin..].find(ends).map_or(text.len(), |length| begin + length);
        // A lookup may contain spaces; then the token ends before the `@`, and there is no password to hide.
        let Some((account, _)) = text[begin..end].rsplit_once('@') else { continue };
        let Some((user, password)) = account.split_once(':') else { continue };
        // In the reference of a module, a registry's port and a digest stand there.
        let is_module = text[..found].ends_with("oci");
        if is_module || begin < at || password.is_empty() || password.starts_with("${{") && password.ends_with("}}") {
            continue;
        }
        let start = begin + user.len() + 1;
        shown.push_str(&text[at..start]);
        shown.push_str(&"*".repeat(password.len()));
        at = start + password.len();
    }
    (at > 0).then(|| shown + &text[at..])
}

/// Splits off the query. A password may contain a `?`, so the part after the last `?` must look like a query.
fn split_query(rest: &str) -> (&str, &str) {
    match rest.rsplit_once('?') {
        Some((main, query)) if query.is_empty() || !query.contains('@') || is_query(query) => (main, query),
        Some(_) | None => (rest, ""),
    }
}

fn is_query(query: &str) -> bool {
    query.split('&').all(|pair| {
        pair.split_once('=').is_some_and(|(key, _)| {
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
    })
}

fn parse_after_scheme(server: ServerEngine, rest: &str) -> Result<ServerUrl, String> {
    let (main, query) = split_query(rest);
    let (account, location) = main.rsplit_once('@').map_or((None, main), |(account, place)| (Some(account), place));
    let (authority, name) = location.split_once('/').unwrap_or((location, ""));
    let (user, password) = match account {
        Some(account) => account.split_once(':').map_or((Some(account), None), |(user, word)| (Some(user), Some(word))),
        None => (None, None),
    };
    let default_port = match server {
        ServerEngine::Postgres => 5432,
        ServerEngine::Mysql => 3306,
    };
    let (host, mut port) = host_and_port(authority)?;
    let mut url = ServerUrl {
        engine: server,
        endpoint: ServerEndpoint::Tcp(host.unwrap_or_else(|| "localhost".to_owned()), port.unwrap_or(default_port)),
        user: user.map(percent_decoded).filter(|user| !user.is_empty()),
        password: password.map(|word| Secret::new(percent_decoded(word))),
        name: percent_decoded(name),
        tls: ServerTlsMode::default(),
        ca_file: None,
        options: None,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if (server, key) == (ServerEngine::Postgres, "port") {
            port = Some(value.parse().map_err(|_| "its port is not a number".to_owned())?);
        }
        apply_option(&mut url, key, percent_decoded(value))?;
    }
    if let (ServerEngine::Postgres, ServerEndpoint::Unix(folder)) = (server, &url.endpoint) {
        url.endpoint = ServerEndpoint::Unix(folder.join(format!(".s.PGSQL.{}", port.unwrap_or(default_port))));
    }
    if url.name.is_empty() {
        return Err("it has no database name".to_owned());
    }
    if [Some(url.name.as_str()), url.user.as_deref(), url.password.as_ref().map(Secret::reveal)]
        .iter()
        .flatten()
        .any(|text| text.contains('\0'))
    {
        return Err("it contains a NUL character".to_owned());
    }
    if server == ServerEngine::Mysql && url.user.is_none() {
        return Err("it has no user name".to_owned());
    }
    Ok(url)
}

fn host_and_port(authority: &str) -> Result<(Option<String>, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("its IPv6 address has no `]`")?;
            (host, rest.strip_prefix(':'))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if host.contains([',', ':']) && !authority.starts_with('[') {
        return Err("it has more than one host".to_owned());
    }
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0).ok_or("its port is not a number")?),
        None => None,
    };
    let host = percent_decoded(host);
    Ok(((!host.is_empty()).then_some(host), port))
}

fn apply_option(url: &mut ServerUrl, key: &str, value: String) -> Result<(), String> {
    match (url.engine, key) {
        (ServerEngine::Postgres, "sslmode") | (ServerEngine::Mysql, "ssl-mode" | "sslmode") => {
            url.tls = match value.to_ascii_lowercase().as_str() {
                "disable" | "disabled" => ServerTlsMode::Disable,
                "allow" | "prefer" | "preferred" => ServerTlsMode::Prefer,
                "require" | "required" => ServerTlsMode::Require,
                "verify-ca" | "verify_ca" => ServerTlsMode::VerifyCa,
                "verify-full" | "verify_identity" => ServerTlsMode::VerifyFull,
                _ => return Err(format!("its `{key}` is not one of disable, prefer, require, verify-ca, verify-full")),
            };
        }
        (ServerEngine::Postgres, "sslrootcert") | (ServerEngine::Mysql, "ssl-ca") => {
            url.ca_file = Some(PathBuf::from(value))
        }
        (ServerEngine::Postgres, "host") | (ServerEngine::Mysql, "socket") if value.starts_with('/') => {
            url.endpoint = ServerEndpoint::Unix(PathBuf::from(value));
        }
        (ServerEngine::Postgres, "host") => {
            let port = match &url.endpoint {
                ServerEndpoint::Tcp(_, port) => *port,
                ServerEndpoint::Unix(_) => 5432,
            };
            url.endpoint = ServerEndpoint::Tcp(value, port);
        }
        (ServerEngine::Postgres, "port") => {
            let port = value.parse().map_err(|_| "its port is not a number".to_owned())?;
            if let ServerEndpoint::Tcp(_, old) = &mut url.endpoint {
                *old = port;
            }
        }
        (ServerEngine::Postgres, "user") => url.user = Some(value),
        (ServerEngine::Postgres, "password") => url.password = Some(Secret::new(value)),
        (ServerEngine::Postgres, "dbname") => url.name = value,
        (ServerEngine::Postgres, "options") => url.options = Some(append_option(url.options.take(), &value)),
        (ServerEngine::Postgres, "search_path") => {
            let setting = format!("-c search_path={}", value.replace('\\', "\\\\").replace(' ', "\\ "));
            url.options = Some(append_option(url.options.take(), &setting));
        }
        (ServerEngine::Postgres, "application_name" | "connect_timeout")
        | (ServerEngine::Mysql, "charset" | "parseTime") => {}
        (ServerEngine::Postgres | ServerEngine::Mysql, _) => {
            let known = match url.engine {
                ServerEngine::Postgres => {
                    "sslmode, sslrootcert, host, port, user, password, dbname, options, search_path"
                }
                ServerEngine::Mysql => "ssl-mode, ssl-ca, socket",
            };
            // The key is not shown: the whole URL may be a secret.
            return Err(format!("it has an unknown option; the known ones are {known}"));
        }
    }
    Ok(())
}

fn append_option(before: Option<String>, more: &str) -> String {
    before.map_or_else(|| more.to_owned(), |before| format!("{before} {more}"))
}

/// Percent-decodes a text if the result is UTF-8; otherwise returns it unchanged, since a secret may contain a bare `%`.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(url: &str) -> ServerUrl {
        ServerUrl::parse(url).unwrap().unwrap()
    }

    #[test]
    fn urls_are_parsed() {
        let url = good("postgres://ann:s3c%40ret@db.example.com:5433/shop?sslmode=verify-full&sslrootcert=/ca.pem");
        assert_eq!(url.endpoint, ServerEndpoint::Tcp("db.example.com".into(), 5433));
        assert_eq!((url.user.as_deref(), url.password.unwrap().reveal()), (Some("ann"), "s3c@ret"));
        assert_eq!((url.name.as_str(), url.tls), ("shop", ServerTlsMode::VerifyFull));
        assert_eq!(
            good("postgres:///shop?host=/run/pg").endpoint,
            ServerEndpoint::Unix("/run/pg/.s.PGSQL.5432".into())
        );
        assert_eq!(good("mysql://ann@[::1]/shop").endpoint, ServerEndpoint::Tcp("::1".into(), 3306));
    }

    #[test]
    fn a_password_may_contain_any_character() {
        let url = good("postgres://ann:p@ss/w:rd?100%@h/shop?sslmode=disable");
        assert_eq!((url.password.unwrap().reveal(), url.name.as_str()), ("p@ss/w:rd?100%", "shop"));
        assert_eq!(url.tls, ServerTlsMode::Disable);
    }

    #[test]
    fn errors_do_not_contain_the_url() {
        for url in [
            "postgres://ann:secret@h:port/secret",
            "postgres://ann:secret@h",
            "postgres://ann:secret@h/d?sslmode=secret",
            "postgres://ann:secret@h/d?secret=secret",
            "mysql://h/secret",
            "postgres://a,secret/d,b:1,c/d",
        ] {
            let why = ServerUrl::parse(url).unwrap().map(|url| format!("{url:?}"));
            assert!(!why.clone().unwrap_or_else(|why| why).contains("secret") || why.is_ok(), "{url}: {why:?}");
        }
        assert!(ServerUrl::parse("sqlite:x").is_none() && ServerUrl::parse("oracle://h/d").is_none());
    }

    #[test]
    fn a_password_in_a_plan_is_hidden_and_positions_stay() {
        let cases = [
            ("main: \"postgres://u:p@ss wörd?@h/n\"  # c@d", "main: \"postgres://u:***********@h/n\"  # c@d"),
            ("a: mysql://u:x@h/n # c@d\nb: 'https://u:y@h'", "a: mysql://u:*@h/n # c@d\nb: 'https://u:*@h'"),
        ];
        for (text, shown) in cases {
            assert_eq!(blank_out_passwords(text).as_deref(), Some(shown));
            assert_eq!(text.len(), shown.len());
        }
        for text in ["a: \"postgres://u:${{ secrets.A }}@h/n\"", "a: postgres://h:1/n", "a: https://u@h", "a: b@c"] {
            assert_eq!(blank_out_passwords(text), None);
        }
    }

    #[test]
    fn reports_do_not_show_passwords() {
        for (written, seen) in [
            ("postgres://ann:secret@h/d", "postgres://ann:***@h/d"),
            ("mysql://ann:se@cret@h/d?ssl-mode=require", "mysql://ann:***@h/d?ssl-mode=require"),
            ("postgres://ann:${{ secrets.DB }}@h/d", "postgres://ann:${{ secrets.DB }}@h/d"),
            ("postgres://ann@h/d", "postgres://ann@h/d"),
            ("${{ secrets.URL }}", "${{ secrets.URL }}"),
        ] {
            assert_eq!(mask_password(written), seen);
        }
    }
}
