//! Where a repository is, by the address that git is given: which forge, whose repository, and the forge's API.
//!
//! Deliberately absent: forges below a path, such as `https://example.com/gitlab/`.

use std::fmt;

use url::{Host, Url};

/// A service that hosts repositories and has an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(in super::super) enum ForgeKind {
    /// GitHub, or GitHub Enterprise
    Github,
    /// GitLab
    Gitlab,
}

/// A repository on a forge.
#[derive(Clone, Debug)]
pub(super) struct ForgeAddress {
    pub(super) kind: ForgeKind,
    /// With the port, if the address has one for the web.
    pub(super) host: String,
    /// Where the routes of the API begin.
    pub(super) api: Url,
    /// A user, an organization, or a path of groups.
    pub(super) owner: String,
    pub(super) name: String,
}

/// Why an address names no repository on a forge, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AddressProblem {
    pub(super) cause: String,
    pub(super) hint: &'static str,
}

const FORMS_HINT: &str = "write https://HOST/OWNER/NAME.git, git@HOST:OWNER/NAME.git or ssh://git@HOST/OWNER/NAME.git";

impl ForgeKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
        }
    }
}

impl ForgeAddress {
    /// The variables with a token, in the order in which the forge's own program reads them. As `gh` does it, a token of github.com, which
    /// each job of GitHub Actions may have, goes to no other host.
    pub(super) fn token_variables(&self) -> &'static [&'static str] {
        match self.kind {
            ForgeKind::Github if self.host == "github.com" || self.host.ends_with(".ghe.com") => {
                &["GH_TOKEN", "GITHUB_TOKEN"]
            }
            ForgeKind::Github => &["GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"],
            ForgeKind::Gitlab => &["GITLAB_TOKEN"],
        }
    }
}

impl fmt::Display for ForgeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} at {}", self.owner, self.name, self.host)
    }
}

impl ForgeAddress {
    /// Reads an address as git does.
    ///
    /// # Errors
    /// It is not one of a repository on a forge, or must not be used with a token.
    pub(super) fn parse(remote: &str, kind: Option<ForgeKind>) -> Result<Self, AddressProblem> {
        let (web, path) = if remote.contains("://") { from_url(remote)? } else { from_ssh(remote)? };
        // The names under which both answer to ssh on port 443.
        let host = match web.host_str().unwrap_or_default() {
            "ssh.github.com" => "github.com",
            "altssh.gitlab.com" => "gitlab.com",
            host => host,
        };
        let known = match host {
            "github.com" => Some(ForgeKind::Github),
            "gitlab.com" => Some(ForgeKind::Gitlab),
            _ => None,
        };
        let kind = match (kind, known) {
            (Some(chosen), Some(known)) if chosen != known => {
                let hint = "leave out `--forge`, or correct the address";
                return Err(problem(format!("{host} is {}, and `--forge` says {}", known.name(), chosen.name()), hint));
            }
            (chosen, known) => chosen.or(known).ok_or_else(|| {
                problem(
                    format!("it is not known whether {host} is GitHub or GitLab"),
                    "add `--forge github` or `--forge gitlab`",
                )
            })?,
        };
        let (owner, name) = owner_and_name(kind, &path)?;
        let api = match (kind, host) {
            (ForgeKind::Github, "github.com") => "https://api.github.com".to_owned(),
            // GitHub Enterprise Cloud with a domain of its own.
            (ForgeKind::Github, host) if host.ends_with(".ghe.com") => format!("https://api.{host}"),
            (ForgeKind::Github, _) => format!("{}/api/v3", origin(&web, host)),
            (ForgeKind::Gitlab, _) => format!("{}/api/v4", origin(&web, host)),
        };
        let api = Url::parse(&api).map_err(|error| problem(error.to_string(), FORMS_HINT))?;
        let port = web.port().map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Self { kind, host: format!("{host}{port}"), api, owner, name })
    }
}

fn problem(cause: impl Into<String>, hint: &'static str) -> AddressProblem {
    AddressProblem { cause: cause.into(), hint }
}

fn origin(web: &Url, host: &str) -> String {
    let port = web.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}", web.scheme())
}

/// The web address of the host, and the path of a URL.
fn from_url(remote: &str) -> Result<(Url, String), AddressProblem> {
    let url = Url::parse(remote).map_err(|error| problem(error.to_string(), FORMS_HINT))?;
    let path = url.path().to_owned();
    match url.scheme() {
        "ssh" => Ok((web_of(url.host_str().unwrap_or_default())?, path)),
        "https" | "http" => {
            if !url.username().is_empty() || url.password().is_some() {
                let cause = "there is a name or a password before the host, and git would write it into .git/config";
                return Err(problem(cause, "leave out what is before the host: git has its own credentials"));
            }
            if url.scheme() == "http" && !is_loopback(&url) {
                return Err(problem("over http, others could read the token", "write https:// in place of http://"));
            }
            if url.query().is_some() || url.fragment().is_some() {
                return Err(problem("it has a query or a fragment", FORMS_HINT));
            }
            Ok((url, path))
        }
        scheme => Err(problem(format!("{scheme}:// is not how a forge is reached"), FORMS_HINT)),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The same for `USER@HOST:PATH`.
fn from_ssh(remote: &str) -> Result<(Url, String), AddressProblem> {
    let (login, path) = match remote.split_once(':') {
        Some((login, path)) if !login.contains('/') => (login, path),
        Some(_) | None => return Err(problem("it is a path of this machine", FORMS_HINT)),
    };
    let host = login.rsplit_once('@').map_or(login, |(_, host)| host);
    Ok((web_of(host)?, path.to_owned()))
}

/// Where the API of a host is that is reached by ssh: its port for ssh says nothing about it.
fn web_of(host: &str) -> Result<Url, AddressProblem> {
    Url::parse(&format!("https://{host}")).map_err(|error| problem(error.to_string(), FORMS_HINT))
}

fn owner_and_name(kind: ForgeKind, path: &str) -> Result<(String, String), AddressProblem> {
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let is_name = |part: &str| {
        !part.trim_matches('.').is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let is_depth = |count| match kind {
        ForgeKind::Github => count == 2,
        ForgeKind::Gitlab => count >= 2,
    };
    match path.rsplit_once('/') {
        Some((owner, name)) if path.split('/').all(is_name) && is_depth(path.split('/').count()) => {
            Ok((owner.to_owned(), name.to_owned()))
        }
        Some(_) | None => Err(problem("its path is not OWNER/NAME", FORMS_HINT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `api owner name`, or the cause.
    fn read(remote: &str, kind: Option<ForgeKind>) -> String {
        match ForgeAddress::parse(remote, kind) {
            Ok(found) => format!("{} {} {}", found.api, found.owner, found.name),
            Err(problem) => problem.cause,
        }
    }

    #[test]
    fn addresses_of_known_forges() {
        let github = "https://api.github.com/ ann shop";
        for remote in [
            "https://github.com/ann/shop.git",
            "https://github.com/ann/shop",
            "https://github.com/ann/shop/",
            "git@github.com:ann/shop.git",
            "github.com:ann/shop",
            "ssh://git@github.com/ann/shop.git",
            "ssh://git@ssh.github.com:443/ann/shop.git",
        ] {
            assert_eq!(read(remote, None), github, "{remote}");
        }
        for remote in ["https://gitlab.com/acme/web/shop.git", "git@gitlab.com:acme/web/shop.git"] {
            assert_eq!(read(remote, None), "https://gitlab.com/api/v4 acme/web shop", "{remote}");
        }
    }

    #[test]
    fn addresses_of_other_hosts_need_the_kind_of_forge() {
        let cases = [
            ("https://git.example:8443/ann/shop.git", ForgeKind::Gitlab, "https://git.example:8443/api/v4 ann shop"),
            ("ssh://git@git.example:2222/ann/shop.git", ForgeKind::Gitlab, "https://git.example/api/v4 ann shop"),
            ("git@git.example:ann/shop.git", ForgeKind::Github, "https://git.example/api/v3 ann shop"),
            ("https://acme.ghe.com/ann/shop.git", ForgeKind::Github, "https://api.acme.ghe.com/ ann shop"),
            ("http://127.0.0.1:80/ann/shop.git", ForgeKind::Github, "http://127.0.0.1/api/v3 ann shop"),
        ];
        for (remote, kind, expected) in cases {
            assert_eq!(read(remote, Some(kind)), expected, "{remote}");
        }
        assert_eq!(
            read("https://git.example/ann/shop", None),
            "it is not known whether git.example is GitHub or GitLab"
        );
        let contradicted = read("https://github.com/ann/shop", Some(ForgeKind::Gitlab));
        assert_eq!(contradicted, "github.com is github, and `--forge` says gitlab");
    }

    #[test]
    fn addresses_that_cannot_be_used() {
        let cases = [
            ("https://s3cret@github.com/ann/shop", "there is a name or a password before the host"),
            ("https://ann:s3cret@github.com/ann/shop", "there is a name or a password before the host"),
            ("http://git.example/ann/shop", "over http, others could read the token"),
            ("https://github.com/ann/shop?x=1", "it has a query or a fragment"),
            ("https://github.com/ann/web/shop", "its path is not OWNER/NAME"),
            ("https://github.com/shop", "its path is not OWNER/NAME"),
            ("https://github.com/ann/%2e%2e", "its path is not OWNER/NAME"),
            ("git@github.com:ann/../shop", "its path is not OWNER/NAME"),
            ("file:///srv/git/ann/shop.git", "file:// is not how a forge is reached"),
            ("/srv/git/shop.git", "it is a path of this machine"),
            ("../shop.git", "it is a path of this machine"),
            ("https://", "empty host"),
        ];
        for (remote, cause) in cases {
            let found = read(remote, Some(ForgeKind::Github));
            assert!(found.starts_with(cause), "{remote}: {found}");
            assert!(!found.contains("s3cret"), "{found}");
        }
    }
}
