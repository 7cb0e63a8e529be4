//! HTTP and TCP for steps: a client that reaches only what is granted.
//!
//! Invariant: every hop, including redirects, passes [`gate`] before a name is resolved, and every resolved address
//! passes [`address`] before a connection. A grant's credentials go only to its origin; a step's headers that look like
//! credentials stay with the first origin.
//!
//! Deliberately absent: retries (`deploy` does them, by [`NetError::is_retryable`]; only a [`Download`] requests again
//! what is missing, and after a pause that the server asks for), proxies (`http_proxy` is ignored: a proxy would resolve names itself and bypass the check),
//! cookies, decompression, HTTP/2, and connection reuse: after a switch, an old worker keeps answering on an existing
//! connection, so a check over it would see the old release.
//!
//! The library is reqwest without its defaults: `rustls-no-provider` because the client gets its own TLS configuration
//! (see [`tls`]), and `stream` for downloads. Its redirects, proxies, pool and resolver are replaced or disabled.

mod address;
mod download;
mod error;
mod gate;
mod pause;
mod request;
mod resolve;
#[cfg(test)]
pub mod tests;
mod tls;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use reqwest::{
    header::{HeaderMap, LOCATION},
    redirect::Policy,
};
use tokio::{
    net::TcpStream,
    sync::OnceCell,
    time::{Instant, timeout_at},
};
use url::{Host, Url};

pub use download::Download;
pub use error::NetError;
pub use gate::{check_http_grants, check_tcp_grants};
pub(crate) use pause::RequestedPauses;
pub use request::{NetRequest, NetResponse};

use download::DownloadRetryPolicy;
use error::{peer, url_for_display};
use gate::NetGate;
use plan::{HttpGrant, NetworkScope};
use request::RedirectHop;
use resolve::{GuardedResolver, NameResolver, ResolvePurpose, SystemResolver};
use tls::CertAuthorities;

/// The longest timeout; a longer one counts as this.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The granted network of one step.
pub struct NetClient {
    gate: NetGate,
    resolver: Arc<dyn NameResolver>,
    authorities: CertAuthorities,
    /// Set up at the first https URL.
    https_config: OnceCell<rustls::ClientConfig>,
    download_retry: DownloadRetryPolicy,
}

impl NetClient {
    /// A client for these grants; `tcp` entries are `host:port`. Reads no file and starts no thread.
    #[must_use]
    pub fn new(grants: Vec<HttpGrant>, tcp: Vec<String>) -> Self {
        Self::with_parts(grants, &tcp, Arc::new(SystemResolver), CertAuthorities::Machine, DownloadRetryPolicy::DEFAULT)
    }

    fn with_parts(
        grants: Vec<HttpGrant>,
        tcp: &[String],
        resolver: Arc<dyn NameResolver>,
        authorities: CertAuthorities,
        download_retry: DownloadRetryPolicy,
    ) -> Self {
        Self { gate: NetGate::new(grants, tcp), resolver, authorities, https_config: OnceCell::new(), download_retry }
    }

    /// Sends a request, follows redirects, and reads the whole response.
    ///
    /// Every status is a response. If a request with a body fails after it was sent, the outcome is unknown.
    pub async fn send(&self, request: NetRequest) -> Result<NetResponse, NetError> {
        let within = request.timeout.min(MAX_TIMEOUT);
        let deadline = Instant::now() + within;
        let (redirects, max) = (request.redirects, request.max_bytes);
        let response = self.follow_redirects(RedirectHop::first(request)?, redirects, |_| (deadline, within)).await?;
        read_response(response, max, deadline, within).await
    }

    /// Sends a request to a server on a unix socket, whose grant the caller has checked. A redirect is returned, not
    /// followed.
    pub async fn send_to_socket(&self, socket: &Path, request: NetRequest) -> Result<NetResponse, NetError> {
        let within = request.timeout.min(MAX_TIMEOUT);
        let deadline = Instant::now() + within;
        let max = request.max_bytes;
        let hop = RedirectHop::first(request)?;
        let peer = || format!("unix:{}", socket.display());
        let fault = |error: reqwest::Error| NetError::from_reqwest_with_peer(&error, peer());
        let client = base_client_builder(tls::config_without_roots()?).unix_socket(socket).build().map_err(fault)?;
        let mut builder = client.request(hop.method.clone(), hop.url.clone()).headers(hop.headers());
        if let Some(body) = &hop.body {
            builder = builder.body(body.clone());
        }
        let late = |_| NetError::NoAnswer { peer: peer(), within };
        let response = timeout_at(deadline, builder.send()).await.map_err(late)?.map_err(fault)?;
        read_response(response, max, deadline, within).await
    }

    /// Connects to a granted `host:port` and closes the connection.
    ///
    /// The plan names this host and port, and nothing is sent, so the name may resolve to a private address. Link-local
    /// addresses and metadata services must be granted by their literal, here too.
    pub async fn connect(&self, address: &str, timeout: Duration) -> Result<(), NetError> {
        let endpoint = self.gate.check_tcp(address)?;
        let peer = endpoint.to_string();
        let within = timeout.min(MAX_TIMEOUT);
        let deadline = Instant::now() + within;
        let no_answer = || NetError::NoAnswer { peer: peer.clone(), within };

        let found = match &endpoint.host {
            Host::Ipv4(address) => vec![(*address).into()],
            Host::Ipv6(address) => vec![(*address).into()],
            Host::Domain(name) => {
                let guarded = GuardedResolver {
                    resolver: Arc::clone(&self.resolver),
                    network: NetworkScope::Private,
                    purpose: ResolvePurpose::Tcp(endpoint.port),
                };
                timeout_at(deadline, guarded.allowed_addresses(name)).await.map_err(|_| no_answer())??
            }
        };
        let mut last = no_answer();
        for (tried, address) in found.iter().enumerate() {
            // An address that drops packets must leave time for the others.
            let left = u32::try_from(found.len() - tried).unwrap_or(u32::MAX);
            let now = Instant::now();
            let share = now + deadline.saturating_duration_since(now) / left;
            match timeout_at(share, TcpStream::connect(SocketAddr::new(*address, endpoint.port))).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(fault)) => last = NetError::from_io(&fault, peer.clone()),
                Err(_) => last = no_answer(),
            }
        }
        Err(last)
    }

    /// Follows redirects up to a response with an unread body. `time` is the deadline of a hop and how to report a late
    /// one.
    async fn follow_redirects(
        &self,
        first: RedirectHop,
        redirects: u32,
        time: impl Fn(Instant) -> (Instant, Duration),
    ) -> Result<reqwest::Response, NetError> {
        let mut hop = first;
        let mut followed = 0;
        loop {
            let (deadline, within) = time(Instant::now());
            let late = |_| NetError::NoAnswer { peer: peer(&hop.url), within };
            let response = timeout_at(deadline, self.send_hop(&hop)).await.map_err(late)??;
            let location = match response.headers().get(LOCATION) {
                Some(location) if redirects > 0 && request::is_redirect(response.status()) => location,
                Some(_) | None => return Ok(response),
            };
            let next = hop.redirect_to(location, response.status())?;
            if followed == redirects {
                return Err(NetError::TooManyRedirects { url: url_for_display(&next.url), max: redirects });
            }
            followed += 1;
            hop = next;
        }
    }

    /// Sends one request on its own connection, and returns the response's head.
    async fn send_hop(&self, hop: &RedirectHop) -> Result<reqwest::Response, NetError> {
        let grant = self.gate.check_http(&hop.method, &hop.url, hop.from.as_ref())?;
        let headers = hop.headers_with_grant(grant)?;
        let fault = |error: reqwest::Error| NetError::from_reqwest(&error, &hop.url);
        let mut request = self
            .client_for_hop(grant.network, &hop.url)
            .await?
            .request(hop.method.clone(), hop.url.clone())
            .headers(headers);
        if let Some(body) = &hop.body {
            request = request.body(body.clone());
        }
        request.send().await.map_err(fault)
    }

    /// An HTTP client for one hop. It has no pool, and its resolver knows only this grant.
    async fn client_for_hop(&self, network: NetworkScope, url: &Url) -> Result<reqwest::Client, NetError> {
        let tls = if url.scheme() == "https" {
            self.https_config
                .get_or_try_init(|| async {
                    let authorities = self.authorities.clone();
                    tokio::task::spawn_blocking(move || tls::config_with_roots(&authorities))
                        .await
                        .map_err(|fault| NetError::RootsUnavailable { why: fault.to_string() })?
                })
                .await?
                .clone()
        } else {
            tls::config_without_roots()?
        };
        let guarded = GuardedResolver {
            resolver: Arc::clone(&self.resolver),
            network,
            purpose: ResolvePurpose::Http(url.clone()),
        };
        base_client_builder(tls).dns_resolver(guarded).build().map_err(|error| NetError::from_reqwest(&error, url))
    }
}

/// An HTTP client without automatic behavior.
fn base_client_builder(tls: rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("pawl/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(0)
        .http1_only()
        .tls_backend_preconfigured(tls)
}

/// Reads the whole body of a response in time.
async fn read_response(
    response: reqwest::Response,
    max: u64,
    deadline: Instant,
    within: Duration,
) -> Result<NetResponse, NetError> {
    let url = response.url().clone();
    let unfinished = || NetError::IncompleteAnswer { peer: peer(&url), within };
    let body = read_body(response, max);
    let (status, headers, body) = timeout_at(deadline, body).await.map_err(|_| unfinished())??;
    Ok(NetResponse { status, headers, body, url })
}

type ResponseParts = (u16, Vec<(String, String)>, Vec<u8>);

async fn read_body(mut response: reqwest::Response, max: u64) -> Result<ResponseParts, NetError> {
    let too_large = |url: &Url| NetError::TooLarge { url: url_for_display(url), max };
    let announced = response.content_length().unwrap_or_default();
    if announced > max {
        return Err(too_large(response.url()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| NetError::from_reqwest(&error, response.url()))? {
        if (body.len() + chunk.len()) as u64 > max {
            return Err(too_large(response.url()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((response.status().as_u16(), header_texts(response.headers()), body))
}

fn header_texts(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}
