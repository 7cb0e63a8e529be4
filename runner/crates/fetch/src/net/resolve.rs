//! Resolves names and checks each address on the way.
//!
//! The HTTP library resolves through [`GuardedResolver`] and connects to its result, so no unchecked address is
//! connected to. One denied address denies the whole name, because the library's choice between addresses is arbitrary.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolving};
use url::Url;

use super::{
    address::{self, AddressScope},
    error::NetError,
};
use plan::NetworkScope;

/// A source of addresses for names.
pub(super) trait NameResolver: Send + Sync {
    /// Returns the addresses of `host`.
    fn resolve(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
}

/// The system's resolver.
pub(super) struct SystemResolver;

impl NameResolver for SystemResolver {
    fn resolve(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|found| found.ip()).collect()) })
    }
}

/// The purpose of a resolution: it decides which line of the plan would allow an address.
#[derive(Clone)]
pub(super) enum ResolvePurpose {
    /// A request to this URL.
    Http(Url),
    /// A connection to this port.
    Tcp(u16),
}

/// A resolver for one granted name.
#[derive(Clone)]
pub(super) struct GuardedResolver {
    pub(super) resolver: Arc<dyn NameResolver>,
    pub(super) network: NetworkScope,
    pub(super) purpose: ResolvePurpose,
}

impl GuardedResolver {
    /// Returns the addresses of `host` if all of them are allowed.
    pub(super) async fn allowed_addresses(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        let unresolved = |why: String| NetError::Unresolved { host: host.to_owned(), why };
        let found = self.resolver.resolve(host.to_owned()).await.map_err(|fault| unresolved(fault.to_string()))?;
        if found.is_empty() {
            return Err(unresolved("it has no address".to_owned()));
        }
        for &address in &found {
            address::check_address(host, address, self.network).map_err(|scope| NetError::AddressDenied {
                host: host.to_owned(),
                address,
                scope,
                grant: self.suggested_grant(address, scope),
            })?;
        }
        Ok(found)
    }

    /// The line of the plan, without `grants:`, that would allow `address`. A private one is allowed through the name,
    /// any other only by its literal.
    fn suggested_grant(&self, address: IpAddr, scope: AddressScope) -> String {
        match (&self.purpose, scope) {
            (ResolvePurpose::Tcp(port), _) => format!("tcp: [\"{}\"]", SocketAddr::new(address, *port)),
            (ResolvePurpose::Http(url), AddressScope::Public | AddressScope::Loopback | AddressScope::Private) => {
                format!("http: [{{ origin: \"{}\", private: true }}]", url.origin().ascii_serialization())
            }
            (ResolvePurpose::Http(url), AddressScope::LinkLocal | AddressScope::Metadata | AddressScope::Special) => {
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                let host = match address {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("[{address}]"),
                };
                format!("http: [\"{}://{host}{port}\"]", url.scheme())
            }
        }
    }
}

impl reqwest::dns::Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guarded = self.clone();
        Box::pin(async move {
            let found = guarded.allowed_addresses(name.as_str()).await?;
            // Port 0 stands for the one in the URL.
            let addresses: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}
