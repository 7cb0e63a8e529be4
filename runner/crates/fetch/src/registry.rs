//! A module from a registry, by the OCI distribution specification 1.1: the manifest by its digest, then its one layer.
//!
//! Invariant: what is handed out has the digest that the plan names, and nothing is taken that is larger than allowed.
//! Credentials go to the registry, and to where it says that tokens are made if that is as well protected; never to where
//! it redirects. It stands on [`net`](crate::net), as steps do: its time-outs, its check of addresses, its trust in
//! certificates. Deliberately absent: tags, indexes of platforms (a module has none), and pushing.

use std::{path::Path, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::credentials::{self, Credentials, CredentialsError};
use crate::net::{Client, NetError, Request, Response};
use contract::{Digest, Secret};
use plan::{HttpGrant, Network, RegistryRef};

const MANIFESTS: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
const MODULES: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];
/// The longest manifest or token, in bytes: what registries allow.
const LONGEST: u64 = 4 << 20;
/// A body of this length is always taken, in bytes.
const SHORT: u64 = 64 << 10;
/// The largest module, in bytes.
const LARGEST: u64 = 256 << 20;
/// The longest time for one module.
const TIMEOUT: Duration = Duration::from_secs(300);
const REDIRECTS: u32 = 5;

/// Why a module can't be had from its registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("the registry answers with status {status} for {what}")]
    Status { status: u16, what: String },
    #[error("the registry has no {what}")]
    NotFound { what: String },
    #[error("the registry wants to know who asks")]
    Unauthorized { authority: String },
    #[error("the registry does not let `{user}` in")]
    Denied { user: String, authority: String },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("the registry sends tokens from {0}, which is not https")]
    TokensUnprotected(String),
    #[error("the registry redirects to {0}, which is not https")]
    RedirectUnprotected(String),
    #[error("the registry redirects too often")]
    Redirects,
    #[error("the registry sent {what} with the digest {found}, not {expected}")]
    Digest { what: &'static str, expected: Digest, found: Digest },
    #[error("it is not the manifest of a module: {0}")]
    Manifest(String),
    #[error("the registry's answer about tokens can't be read")]
    Token,
}

impl RegistryError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Net(_) | Self::Status { .. } | Self::Token => {
                "see that the registry can be reached from here, then run it again".to_owned()
            }
            Self::NotFound { .. } => {
                "see that host, repository and digest are right, and that it was pushed".to_owned()
            }
            Self::Unauthorized { authority } | Self::Denied { authority, .. } => {
                format!("log in with `docker login {authority}`, or see that you may read the repository")
            }
            Self::Credentials(_) => "write user and password into config.json: `docker login` without a helper does, \
                                     with DOCKER_CONFIG naming another folder"
                .to_owned(),
            Self::TokensUnprotected(_) | Self::RedirectUnprotected(_) | Self::Redirects => {
                "ask whoever keeps the registry".to_owned()
            }
            Self::Digest { .. } => "do not use this registry before you know why".to_owned(),
            Self::Manifest(_) => "push the component as the one layer, of type application/wasm: \
                                  `oras push <registry>/<name>:<tag> x.wasm:application/wasm`"
                .to_owned(),
        }
    }
}

/// The layer of a manifest that is the module.
#[derive(Debug, PartialEq, Eq)]
pub struct Layer {
    pub digest: Digest,
    size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Layer {
    /// The one layer of a manifest.
    pub fn of(manifest: &[u8]) -> Result<Self, RegistryError> {
        let bad = |why: String| RegistryError::Manifest(why);
        let manifest: Manifest = serde_json::from_slice(manifest).map_err(|error| bad(error.to_string()))?;
        let layers = manifest.layers.ok_or_else(|| bad("it has no layers; is it an index of manifests?".to_owned()))?;
        let [layer] = layers.as_slice() else { return Err(bad(format!("it has {} layers, not one", layers.len()))) };
        if !MODULES.contains(&layer.media_type.as_str()) {
            return Err(bad(format!("its layer is {}, not {}", layer.media_type, MODULES[0])));
        }
        if layer.size > LARGEST {
            return Err(bad(format!("its module has {} bytes; at most {LARGEST} are taken", layer.size)));
        }
        let digest = layer.digest.strip_prefix("sha256:").and_then(|_| layer.digest.parse().ok());
        let digest = digest.ok_or_else(|| bad(format!("its layer has the digest {:?}", layer.digest)))?;
        Ok(Self { digest, size: layer.size })
    }
}

/// A registry that is asked for one module.
pub struct Registry<'a> {
    reference: &'a RegistryRef,
    config: Option<&'a Path>,
}

impl<'a> Registry<'a> {
    /// `config` is the path of Docker's `config.json`; it is read when the registry wants to know who asks.
    pub fn new(reference: &'a RegistryRef, config: Option<&'a Path>) -> Self {
        Self { reference, config }
    }

    /// The manifest that the plan names.
    pub async fn manifest(&self) -> Result<Vec<u8>, RegistryError> {
        let path = format!("manifests/{}", self.reference.digest);
        let bytes = self.get(&path, MANIFESTS, LONGEST, "manifest").await?;
        verified("a manifest", bytes, &self.reference.digest)
    }

    /// The module.
    pub async fn layer(&self, layer: &Layer) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{}", layer.digest);
        // Refusals have a body too.
        let bytes = self.get(&path, "*/*", layer.size.max(SHORT), "content of the module").await?;
        let bytes = verified("a module", bytes, &layer.digest)?;
        match bytes.len() as u64 == layer.size {
            true => Ok(bytes),
            false => Err(RegistryError::Manifest(format!("its module has {} bytes, not {}", bytes.len(), layer.size))),
        }
    }

    async fn get(&self, path: &str, accept: &str, most: u64, what: &str) -> Result<Vec<u8>, RegistryError> {
        let RegistryRef { scheme, repository, .. } = self.reference;
        let url = format!("{scheme}://{}/v2/{repository}/{path}", self.reference.authority());
        let mut answer = ask(&url, accept, most, None).await?;
        if answer.status == 401 {
            let (authorization, user) = self.authorization(&answer).await?;
            answer = ask(&url, accept, most, Some(authorization)).await?;
            if matches!(answer.status, 401 | 403) {
                let authority = self.reference.authority();
                return Err(match user {
                    Some(user) => RegistryError::Denied { user, authority },
                    None => RegistryError::Unauthorized { authority },
                });
            }
        }
        let mut redirects = 0;
        while let Some(next) = redirect(&answer)? {
            redirects += 1;
            if redirects > REDIRECTS {
                return Err(RegistryError::Redirects);
            }
            if next.scheme() != "https" && *scheme == "https" {
                return Err(RegistryError::RedirectUnprotected(next.origin().ascii_serialization()));
            }
            // Storage elsewhere: it is not told who asks.
            answer = ask(next.as_str(), accept, most, None).await?;
        }
        match answer.status {
            200 => Ok(answer.body),
            404 => Err(RegistryError::NotFound { what: format!("{what} of {}", self.reference) }),
            status => Err(RegistryError::Status { status, what: format!("the {what}") }),
        }
    }

    /// What to say of who asks, and who that is, as the registry's challenge wants it.
    async fn authorization(&self, answer: &Response) -> Result<(Secret, Option<String>), RegistryError> {
        let authority = self.reference.authority();
        let credentials = self.credentials(&authority)?;
        let user = credentials.as_ref().map(|credentials| credentials.user.clone());
        let basic = credentials.as_ref().map(|Credentials { user, password }| {
            Secret::new(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{}", password.reveal()))))
        });
        match challenge(answer) {
            Some(Challenge::Bearer { realm, service }) => {
                let mut url = Url::parse(&realm).map_err(|_| RegistryError::Token)?;
                if url.scheme() != "https" && self.reference.scheme == "https" {
                    return Err(RegistryError::TokensUnprotected(url.origin().ascii_serialization()));
                }
                let scope = format!("repository:{}:pull", self.reference.repository);
                url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
                url.query_pairs_mut().append_pair("scope", &scope);
                let answer = ask(url.as_str(), "application/json", LONGEST, basic).await?;
                match (answer.status, user) {
                    (200, user) => Ok((token(&answer.body)?, user)),
                    (401 | 403, Some(user)) => Err(RegistryError::Denied { user, authority }),
                    (401 | 403, None) => Err(RegistryError::Unauthorized { authority }),
                    (status, _) => Err(RegistryError::Status { status, what: "a token".to_owned() }),
                }
            }
            Some(Challenge::Basic) | None => match basic {
                Some(basic) => Ok((basic, user)),
                None => Err(RegistryError::Unauthorized { authority }),
            },
        }
    }

    fn credentials(&self, authority: &str) -> Result<Option<Credentials>, RegistryError> {
        let Some(path) = self.config else { return Ok(None) };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(credentials::find(&text, authority)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CredentialsError::Form(error.to_string()).into()),
        }
    }
}

/// One question, and its answer, whatever it is.
async fn ask(url: &str, accept: &str, most: u64, authorization: Option<Secret>) -> Result<Response, RegistryError> {
    let mut request = Request::new("GET", url)?;
    request.headers = vec![("accept".to_owned(), accept.to_owned())];
    request.secrets = authorization.map(|value| ("authorization".to_owned(), value)).into_iter().collect();
    request.timeout = TIMEOUT;
    request.max_bytes = most;
    request.redirects = 0;
    // The plan names the registry, and what comes is compared with a digest: it may lie in a private network.
    let grant = HttpGrant {
        scheme: request.url.scheme().to_owned(),
        host: request.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        port: request.url.port_or_known_default().unwrap_or_default(),
        methods: None,
        network: Network::Private,
        headers: Vec::new(),
    };
    Ok(Client::new(vec![grant], Vec::new()).send(request).await?)
}

fn header<'r>(answer: &'r Response, name: &str) -> impl Iterator<Item = &'r str> {
    let name = name.to_owned();
    answer.headers.iter().filter(move |(header, _)| *header == name).map(|(_, value)| value.as_str())
}

fn redirect(answer: &Response) -> Result<Option<Url>, RegistryError> {
    if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = header(answer, "location").next().and_then(|location| answer.url.join(location).ok());
    location.map(Some).ok_or(RegistryError::Redirects)
}

fn verified(what: &'static str, bytes: Vec<u8>, expected: &Digest) -> Result<Vec<u8>, RegistryError> {
    let found = Digest::from_bytes(Sha256::digest(&bytes).into());
    match found == *expected {
        true => Ok(bytes),
        false => Err(RegistryError::Digest { what, expected: expected.clone(), found }),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// How a registry wants to know who asks (RFC 9110, section 11.6.1).
fn challenge(answer: &Response) -> Option<Challenge> {
    let parse = |value: &str| {
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        let realm = parameter(rest, "realm").filter(|_| scheme.eq_ignore_ascii_case("bearer"))?;
        Some(Challenge::Bearer { realm, service: parameter(rest, "service") })
    };
    let all: Vec<Challenge> = header(answer, "www-authenticate").filter_map(parse).collect();
    let bearer = all.iter().position(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    all.into_iter().nth(bearer.unwrap_or(0))
}

/// A value of `a="x",b="y"`.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        if key.trim_matches([' ', ',']).eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = after;
    }
}

fn token(body: &[u8]) -> Result<Secret, RegistryError> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let Ok(Token { token, access_token }) = serde_json::from_slice(body) else { return Err(RegistryError::Token) };
    let token = token.or(access_token).filter(|token| !token.is_empty()).ok_or(RegistryError::Token)?;
    Ok(Secret::new(format!("Bearer {token}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tests::server::{Seen, Server, reply};

    /// A registry that gives ann a token, and sends who has one to `storage`.
    fn answers(seen: &Seen, storage: &str) -> crate::net::tests::server::Reply {
        let path = seen.line().split(' ').nth(1).unwrap();
        match (path, seen.header("authorization")) {
            ("/token?service=r&scope=repository%3Asteps%2Fwarm%3Apull", Some("Basic YW5uOnNlY3JldA==")) => {
                reply("200 OK", &[], "{\"access_token\": \"abc\"}")
            }
            (path, Some("Bearer abc")) if path.starts_with("/v2/steps/warm/blobs/sha256:") => {
                reply("307 Temporary Redirect", &[("Location", storage)], "")
            }
            (path, _) if path.starts_with("/token") => reply("403 Forbidden", &[], ""),
            _ => {
                let realm = format!("http://{}/token", seen.header("host").unwrap());
                let challenge = format!("Bearer realm=\"{realm}\",service=\"r\"");
                reply("401 Unauthorized", &[("WWW-Authenticate", &challenge)], "")
            }
        }
    }

    #[tokio::test]
    async fn a_token_is_fetched_and_storage_is_not_told_who_asks() {
        let storage = Server::start(|seen| match seen.header("authorization") {
            None => reply("200 OK", &[], "module"),
            Some(_) => reply("400 Bad Request", &[], ""),
        });
        let location = format!("http://{}/bucket/x?signature=y", storage.address);
        let server = Server::start(move |seen| answers(seen, &location));
        let sum = Digest::from_bytes(Sha256::digest(b"module").into());
        let text = format!("{}/steps/warm@{sum}", server.address);
        let reference = RegistryRef::parse(&text).unwrap_or_else(|_| panic!("{text}"));
        let layer = Layer { digest: sum, size: 6 };

        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        let auth = |auth: &str| format!("{{\"auths\": {{\"{}\": {{\"auth\": \"{auth}\"}}}}}}", server.address);
        std::fs::write(&config, auth("YW5uOnNlY3JldA==")).unwrap();
        assert_eq!(Registry::new(&reference, Some(&config)).layer(&layer).await.unwrap(), b"module");

        std::fs::write(&config, auth("YW5uOndyb25n")).unwrap();
        let denied = Registry::new(&reference, Some(&config)).layer(&layer).await;
        assert!(matches!(denied, Err(RegistryError::Denied { user, .. }) if user == "ann"));
        let nobody = Registry::new(&reference, None).layer(&layer).await;
        assert!(matches!(nobody, Err(RegistryError::Unauthorized { .. })));
        let larger = Layer { size: 5, ..layer };
        std::fs::write(&config, auth("YW5uOnNlY3JldA==")).unwrap();
        assert!(Registry::new(&reference, Some(&config)).layer(&larger).await.is_err(), "it is larger than announced");
    }

    fn answer(challenges: &[&str]) -> Response {
        Response {
            status: 401,
            headers: challenges.iter().map(|value| ("www-authenticate".to_owned(), (*value).to_owned())).collect(),
            body: Vec::new(),
            url: Url::parse("https://r.example.com/").unwrap(),
        }
    }

    #[test]
    fn a_challenge_says_where_tokens_are_made() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        let full = "Bearer realm=\"https://a.example.com/token\",service=\"r, x\",scope=\"repository:a:pull,push\"";
        assert_eq!(challenge(&answer(&[full])), bearer("https://a.example.com/token", Some("r, x")));
        assert_eq!(challenge(&answer(&["bearer service=r, realm=\"https://a\""])), bearer("https://a", Some("r")));
        assert_eq!(
            challenge(&answer(&["Basic realm=\"x\"", full])),
            bearer("https://a.example.com/token", Some("r, x"))
        );
        assert_eq!(challenge(&answer(&["Basic realm=\"x\""])), Some(Challenge::Basic));
        for other in ["", "Digest realm=\"x\"", "Bearer", "Bearer realm=\"x", "Bearer service=\"x\""] {
            assert_eq!(challenge(&answer(&[other])), None, "{other}");
        }
    }

    #[test]
    fn a_manifest_has_one_layer_and_it_is_a_module() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let layer = |kind: &str, digest: &str, size: u64| serde_json::json!({"mediaType": kind, "digest": digest, "size": size});
        let of = |layers: &[serde_json::Value]| {
            Layer::of(serde_json::json!({"schemaVersion": 2, "layers": layers}).to_string().as_bytes())
        };
        for kind in MODULES {
            let found = of(&[layer(kind, &digest, 7)]).unwrap();
            assert_eq!(found, Layer { digest: digest.parse().unwrap(), size: 7 });
        }
        let good = layer(MODULES[0], &digest, 7);
        for (found, why) in [
            (of(&[]), "0 layers"),
            (of(&[good.clone(), good]), "2 layers"),
            (of(&[layer("application/vnd.oci.image.layer.v1.tar+gzip", &digest, 7)]), "tar+gzip"),
            (of(&[layer(MODULES[0], "sha512:12", 7)]), "sha512:12"),
            (of(&[layer(MODULES[0], &digest, LARGEST + 1)]), "at most"),
            (Layer::of(b"{\"manifests\": []}"), "index"),
            (Layer::of(b"<html>"), "expected value"),
        ] {
            let error = found.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
