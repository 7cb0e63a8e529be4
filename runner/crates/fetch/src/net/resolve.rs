//! Name → addresses, with the check of each address built into the way there.
//!
//! The HTTP library resolves through [`Guarded`] and connects to what it returns, so that no name is connected to unchecked. A
//! name of which one address is refused is refused as a whole: which of them is tried would be up to chance.

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
    address::{self, Scope},
    error::NetError,
};
use plan::Network;

/// Where names are looked up.
pub(super) trait Resolve: Send + Sync {
    /// The addresses of `host`.
    fn resolve(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
}

/// The system's resolver.
pub(super) struct System;

impl Resolve for System {
    fn resolve(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|found| found.ip()).collect()) })
    }
}

/// What a name is resolved for: it decides which line of the plan would allow an address.
#[derive(Clone)]
pub(super) enum Purpose {
    /// To ask this URL.
    Http(Url),
    /// To connect to this port.
    Tcp(u16),
}

/// Resolves one granted name.
#[derive(Clone)]
pub(super) struct Guarded {
    pub(super) names: Arc<dyn Resolve>,
    pub(super) network: Network,
    pub(super) purpose: Purpose,
}

impl Guarded {
    /// The addresses of `host`, every one of them allowed.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        let unresolved = |why: String| NetError::Unresolved { host: host.to_owned(), why };
        let found = self.names.resolve(host.to_owned()).await.map_err(|fault| unresolved(fault.to_string()))?;
        if found.is_empty() {
            return Err(unresolved("it has no address".to_owned()));
        }
        for &address in &found {
            address::permit(host, address, self.network).map_err(|scope| NetError::AddressDenied {
                host: host.to_owned(),
                address,
                scope,
                grant: self.grant_for(address, scope),
            })?;
        }
        Ok(found)
    }

    /// The line of the plan, without `grants:`, that would allow `address`: a private one is allowed with the name, any other
    /// only by naming it.
    fn grant_for(&self, address: IpAddr, scope: Scope) -> String {
        match (&self.purpose, scope) {
            (Purpose::Tcp(port), _) => format!("tcp: [\"{}\"]", SocketAddr::new(address, *port)),
            (Purpose::Http(url), Scope::Public | Scope::Loopback | Scope::Private) => {
                format!("http: [{{ origin: \"{}\", private: true }}]", url.origin().ascii_serialization())
            }
            (Purpose::Http(url), Scope::LinkLocal | Scope::Metadata | Scope::Special) => {
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

impl reqwest::dns::Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let guarded = self.clone();
        Box::pin(async move {
            let found = guarded.addresses(name.as_str()).await?;
            // Port 0 stands for the one in the URL.
            let addresses: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}
