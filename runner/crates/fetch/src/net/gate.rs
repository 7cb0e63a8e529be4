//! The grants, and whether they contain a URL or an address. Pure.
//!
//! Invariant: nothing is resolved, connected to or sent before it passed this gate. That includes each redirect.

use std::net::{IpAddr, Ipv6Addr};

use reqwest::Method;
use url::{Host, Url};

use super::{
    error::{NetError, url_for_display},
    request::NetRequest,
};
use plan::HttpGrant;

/// The HTTP and TCP grants of a step.
#[derive(Debug)]
pub(super) struct NetGate {
    http: Vec<HttpGrant>,
    tcp: Vec<TcpEndpoint>,
}

/// A host and a port. The host is a lower-case name or an IP literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TcpEndpoint {
    pub(super) host: Host,
    pub(super) port: u16,
}

/// Checks that the grants allow a request, before anything is sent. A redirect may still lead elsewhere.
///
/// # Errors
/// [`NetError::InvalidUrl`], [`NetError::InvalidMethod`], [`NetError::OriginNotGranted`], [`NetError::MethodNotGranted`].
pub fn check_http_grants(grants: &[HttpGrant], method: &str, url: &str) -> Result<(), NetError> {
    let request = NetRequest::new(method, url)?;
    NetGate::new(grants.to_vec(), &[]).check_http(&request.method, &request.url, None).map(drop)
}

/// Checks that the grants allow a connection.
///
/// # Errors
/// [`NetError::PeerNotGranted`], [`NetError::InvalidAddress`].
pub fn check_tcp_grants(grants: &[String], address: &str) -> Result<(), NetError> {
    NetGate::new(Vec::new(), grants).check_tcp(address).map(drop)
}

impl NetGate {
    /// Creates a gate. A TCP grant that is not `host:port` matches nothing; the plan's validation reports it.
    pub(super) fn new(http: Vec<HttpGrant>, tcp: &[String]) -> Self {
        Self { http, tcp: tcp.iter().filter_map(|address| TcpEndpoint::parse(address)).collect() }
    }

    /// The grant that allows `method` on `url`. `from` is the URL that redirected there.
    pub(super) fn check_http(&self, method: &Method, url: &Url, from: Option<&Url>) -> Result<&HttpGrant, NetError> {
        let of_origin: Vec<_> = self.http.iter().filter(|grant| grant_matches(grant, url)).collect();
        let origin = || url.origin().ascii_serialization();
        if of_origin.is_empty() {
            return Err(NetError::OriginNotGranted { origin: origin(), from: from.map(url_for_display) });
        }
        let listed = |grant: &HttpGrant| grant.methods.clone().unwrap_or_default();
        let allows = |grant: &HttpGrant| {
            grant.methods.is_none() || listed(grant).iter().any(|name| name.eq_ignore_ascii_case(method.as_str()))
        };
        of_origin.iter().copied().find(|grant| allows(grant)).ok_or_else(|| NetError::MethodNotGranted {
            method: method.clone(),
            origin: origin(),
            granted: of_origin.iter().flat_map(|grant| listed(grant)).collect(),
        })
    }

    /// The granted endpoint that `address` names.
    pub(super) fn check_tcp(&self, address: &str) -> Result<&TcpEndpoint, NetError> {
        let requested =
            TcpEndpoint::parse(address).ok_or_else(|| NetError::InvalidAddress { address: address.to_owned() })?;
        self.tcp
            .iter()
            .find(|granted| **granted == requested)
            .ok_or_else(|| NetError::PeerNotGranted { peer: requested.to_string() })
    }
}

impl TcpEndpoint {
    /// Parses `host:port`; an IPv6 literal needs brackets.
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.contains(':') && !host.starts_with('[') { None } else { Host::parse(host).ok() }?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = if digits { port.parse().ok()? } else { return None };
        Some(Self { host, port })
    }
}

impl std::fmt::Display for TcpEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn grant_matches(grant: &HttpGrant, url: &Url) -> bool {
    let same_host = match url.host() {
        Some(Host::Domain(name)) => grant.host == name,
        Some(Host::Ipv4(address)) => grant.host.parse() == Ok(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => grant.host.parse::<Ipv6Addr>() == Ok(address),
        None => false,
    };
    same_host && grant.scheme == url.scheme() && Some(grant.port) == url.port_or_known_default()
}
