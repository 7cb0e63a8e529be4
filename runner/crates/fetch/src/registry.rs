//! Downloads a module from a registry by the OCI distribution specification 1.1: the manifest by its digest, then its
//! only layer.
//!
//! Invariant: the module has the digest in the plan, and nothing exceeds its size limit. Credentials go to the
//! registry, and to its token server if that is equally protected; never to a redirect's target. It uses
//! [`net`](crate::net) like steps do, with its timeouts, address checks and trusted certificates. Deliberately absent:
//! tags, multi-platform indexes (a module has none), and pushing, for which the crate `pack` takes the parts about credentials.

use std::{path::Path, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::credentials;
pub use super::credentials::{RegistryCredentials, RegistryCredentialsError};
use crate::net::{NetClient, NetError, NetRequest, NetResponse};
use contract::{Digest, Secret, text::escape_line};
use plan::{GrantSource, HttpGrant, NetworkScope, RegistryRef};

const MANIFEST_MEDIA_TYPES: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
const MODULE_MEDIA_TYPES: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];
/// The largest manifest or token, in bytes: the limit of registries.
pub(super) const MAX_METADATA_BYTES: u64 = 4 << 20;
/// A body up to this length is always accepted, in bytes.
const MIN_BODY_LIMIT_BYTES: u64 = 64 << 10;
/// The largest module, in bytes.
const MAX_MODULE_BYTES: u64 = 256 << 20;
/// The timeout for one module.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_REDIRECTS: u32 = 5;

/// Why a module can't be downloaded from its registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("the registry answered with status {status} for {what}")]
    Status { status: u16, what: String },
    #[error("the registry has no {what}")]
    NotFound { what: String },
    #[error("the registry requires authentication")]
    Unauthorized { authority: String },
    #[error("the registry denied access to `{user}`")]
    Denied { user: String, authority: String },
    #[error(transparent)]
    Credentials(#[from] RegistryCredentialsError),
    #[error("the registry's token server {0} does not use https")]
    InsecureTokenServer(String),
    #[error("the registry redirects to {0}, which does not use https")]
    InsecureRedirect(String),
    #[error("the registry redirects too many times")]
    TooManyRedirects,
    #[error("the registry sent {what} with the digest {found}, not {expected}")]
    DigestMismatch { what: &'static str, expected: Digest, found: Digest },
    #[error("it is not a module manifest: {0}")]
    InvalidManifest(String),
    #[error("the registry sent an invalid token response")]
    InvalidTokenResponse,
}

impl RegistryError {
    /// The hint.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Net(_) | Self::Status { .. } | Self::InvalidTokenResponse => {
                "check that this machine can reach the registry, then run again".to_owned()
            }
            Self::NotFound { .. } => {
                "check the host, the repository and the digest, and that the module was pushed".to_owned()
            }
            Self::Unauthorized { authority } | Self::Denied { authority, .. } => {
                format!("log in with `docker login {authority}`, and check that you may read the repository")
            }
            Self::Credentials(_) => {
                "write the user and password into config.json: run `docker login` without a helper, \
                                     with DOCKER_CONFIG set to another folder"
                    .to_owned()
            }
            Self::InsecureTokenServer(_) | Self::InsecureRedirect(_) | Self::TooManyRedirects => {
                "ask the registry's operator to correct it".to_owned()
            }
            Self::DigestMismatch { .. } => "do not use this registry until you know why".to_owned(),
            Self::InvalidManifest(_) => "push the component as the only layer, with the type application/wasm: \
                                  `oras push <registry>/<name>:<tag> x.wasm:application/wasm`"
                .to_owned(),
        }
    }
}

/// The layer of a manifest that contains the module.
#[derive(Debug, PartialEq, Eq)]
pub struct ModuleLayer {
    pub digest: Digest,
    size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciManifest {
    #[serde(default)]
    layers: Option<Vec<OciDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciDescriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl ModuleLayer {
    /// Reads the only layer of a manifest.
    pub fn from_manifest(manifest: &[u8]) -> Result<Self, RegistryError> {
        let bad = |why: String| RegistryError::InvalidManifest(why);
        let manifest: OciManifest = serde_json::from_slice(manifest).map_err(|error| bad(error.to_string()))?;
        let layers = manifest.layers.ok_or_else(|| bad("it has no layers; is it an index of manifests?".to_owned()))?;
        let [layer] = layers.as_slice() else { return Err(bad(format!("it has {} layers, not one", layers.len()))) };
        if !MODULE_MEDIA_TYPES.contains(&layer.media_type.as_str()) {
            return Err(bad(format!("its layer is {}, not {}", layer.media_type, MODULE_MEDIA_TYPES[0])));
        }
        if layer.size > MAX_MODULE_BYTES {
            return Err(bad(format!("its module is {} bytes; the limit is {MAX_MODULE_BYTES}", layer.size)));
        }
        let digest = layer.digest.strip_prefix("sha256:").and_then(|_| layer.digest.parse().ok());
        let digest = digest.ok_or_else(|| bad(format!("its layer has the digest `{}`", escape_line(&layer.digest))))?;
        Ok(Self { digest, size: layer.size })
    }
}

/// A client for one module of a registry.
pub struct RegistryClient<'a> {
    reference: &'a RegistryRef,
    docker_config: Option<&'a Path>,
}

impl<'a> RegistryClient<'a> {
    /// `docker_config` is the path of Docker's `config.json`, read when the registry requires authentication.
    pub fn new(reference: &'a RegistryRef, docker_config: Option<&'a Path>) -> Self {
        Self { reference, docker_config }
    }

    /// Downloads the manifest that the plan names.
    pub async fn fetch_manifest(&self) -> Result<Vec<u8>, RegistryError> {
        let path = format!("manifests/{}", self.reference.digest);
        let bytes = self.fetch_body(&path, MANIFEST_MEDIA_TYPES, MAX_METADATA_BYTES, "manifest").await?;
        verify_digest("a manifest", bytes, &self.reference.digest)
    }

    /// Downloads the module.
    pub async fn fetch_layer(&self, layer: &ModuleLayer) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{}", layer.digest);
        // Error responses have a body too.
        let bytes =
            self.fetch_body(&path, "*/*", layer.size.max(MIN_BODY_LIMIT_BYTES), "content of the module").await?;
        let bytes = verify_digest("a module", bytes, &layer.digest)?;
        match bytes.len() as u64 == layer.size {
            true => Ok(bytes),
            false => {
                Err(RegistryError::InvalidManifest(format!("its module is {} bytes, not {}", bytes.len(), layer.size)))
            }
        }
    }

    async fn fetch_body(&self, path: &str, accept: &str, max_bytes: u64, what: &str) -> Result<Vec<u8>, RegistryError> {
        let RegistryRef { scheme, repository, .. } = self.reference;
        let url = format!("{scheme}://{}/v2/{repository}/{path}", self.reference.authority());
        let mut answer = send_get(&url, accept, max_bytes, None).await?;
        if answer.status == 401 {
            let (authorization, user) = self.authorization(&answer).await?;
            answer = send_get(&url, accept, max_bytes, Some(authorization)).await?;
            if matches!(answer.status, 401 | 403) {
                let authority = self.reference.authority();
                return Err(match user {
                    Some(user) => RegistryError::Denied { user, authority },
                    None => RegistryError::Unauthorized { authority },
                });
            }
        }
        let mut redirects = 0;
        while let Some(next) = redirect_target(&answer)? {
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                return Err(RegistryError::TooManyRedirects);
            }
            if next.scheme() != "https" && *scheme == "https" {
                return Err(RegistryError::InsecureRedirect(next.origin().ascii_serialization()));
            }
            // The redirect's target does not get the credentials.
            answer = send_get(next.as_str(), accept, max_bytes, None).await?;
        }
        match answer.status {
            200 => Ok(answer.body),
            404 => Err(RegistryError::NotFound { what: format!("{what} of {}", self.reference) }),
            status => Err(RegistryError::Status { status, what: format!("the {what}") }),
        }
    }

    /// The `Authorization` value that the registry's challenge asks for, and its user.
    async fn authorization(&self, answer: &NetResponse) -> Result<(Secret, Option<String>), RegistryError> {
        let authority = self.reference.authority();
        let credentials = self.credentials(&authority)?;
        let user = credentials.as_ref().map(|credentials| credentials.user.clone());
        let basic = credentials.as_ref().map(basic_authorization);
        match parse_challenge(header_values(answer, "www-authenticate")) {
            Some(AuthChallenge::Bearer { realm, service }) => {
                let mut url = Url::parse(&realm).map_err(|_| RegistryError::InvalidTokenResponse)?;
                if url.scheme() != "https" && self.reference.scheme == "https" {
                    return Err(RegistryError::InsecureTokenServer(url.origin().ascii_serialization()));
                }
                let scope = format!("repository:{}:pull", self.reference.repository);
                url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
                url.query_pairs_mut().append_pair("scope", &scope);
                let answer = send_get(url.as_str(), "application/json", MAX_METADATA_BYTES, basic).await?;
                match (answer.status, user) {
                    (200, user) => Ok((parse_token(&answer.body)?, user)),
                    (401 | 403, Some(user)) => Err(RegistryError::Denied { user, authority }),
                    (401 | 403, None) => Err(RegistryError::Unauthorized { authority }),
                    (status, _) => Err(RegistryError::Status { status, what: "a token".to_owned() }),
                }
            }
            Some(AuthChallenge::Basic) | None => match basic {
                Some(basic) => Ok((basic, user)),
                None => Err(RegistryError::Unauthorized { authority }),
            },
        }
    }

    fn credentials(&self, authority: &str) -> Result<Option<RegistryCredentials>, RegistryError> {
        let Some(path) = self.docker_config else { return Ok(None) };
        Ok(docker_credentials(path, authority)?)
    }
}

/// The credentials for a registry in Docker's `config.json`, if there are any.
///
/// # Errors
/// They can't be used.
pub fn docker_credentials(
    path: &Path,
    authority: &str,
) -> Result<Option<RegistryCredentials>, RegistryCredentialsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => credentials::find_credentials(&text, authority),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RegistryCredentialsError::InvalidConfig(error.to_string())),
    }
}

/// The value of the header `authorization` for a user and password.
#[must_use]
pub fn basic_authorization(RegistryCredentials { user, password }: &RegistryCredentials) -> Secret {
    Secret::new(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{}", password.reveal()))))
}

/// Sends one request and returns the response, whatever its status.
async fn send_get(
    url: &str,
    accept: &str,
    max_bytes: u64,
    authorization: Option<Secret>,
) -> Result<NetResponse, RegistryError> {
    let mut request = NetRequest::new("GET", url)?;
    request.headers = vec![("accept".to_owned(), accept.to_owned())];
    request.secrets = authorization.map(|value| ("authorization".to_owned(), value)).into_iter().collect();
    request.timeout = REGISTRY_TIMEOUT;
    request.max_bytes = max_bytes;
    request.redirects = 0;
    // The plan names the registry, and a digest verifies the content, so it may be in a private network.
    let grant = HttpGrant {
        scheme: request.url.scheme().to_owned(),
        host: request.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        port: request.url.port_or_known_default().unwrap_or_default(),
        methods: None,
        network: NetworkScope::Private,
        headers: Vec::new(),
        source: GrantSource::Step,
    };
    Ok(NetClient::new(vec![grant], Vec::new()).send(request).await?)
}

/// The type of a manifest.
pub const OCI_MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The type of the configuration of what is no image.
pub const OCI_CONFIG_MEDIA_TYPE: &str = "application/vnd.oci.empty.v1+json";

pub(super) fn header_values<'r>(answer: &'r NetResponse, name: &str) -> impl Iterator<Item = &'r str> {
    let name = name.to_owned();
    answer.headers.iter().filter(move |(header, _)| *header == name).map(|(_, value)| value.as_str())
}

fn redirect_target(answer: &NetResponse) -> Result<Option<Url>, RegistryError> {
    if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = header_values(answer, "location").next().and_then(|location| answer.url.join(location).ok());
    location.map(Some).ok_or(RegistryError::TooManyRedirects)
}

fn verify_digest(what: &'static str, bytes: Vec<u8>, expected: &Digest) -> Result<Vec<u8>, RegistryError> {
    let found = Digest::from_bytes(Sha256::digest(&bytes).into());
    match found == *expected {
        true => Ok(bytes),
        false => Err(RegistryError::DigestMismatch { what, expected: expected.clone(), found }),
    }
}

/// What a registry wants to know.
#[derive(Debug, PartialEq, Eq)]
pub enum AuthChallenge {
    Basic,
    /// A token of the token server `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// The authentication challenge in the headers `www-authenticate` of a registry (RFC 9110, section 11.6.1).
pub fn parse_challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<AuthChallenge> {
    let parse = |value: &str| {
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(AuthChallenge::Basic);
        }
        let realm = challenge_parameter(rest, "realm").filter(|_| scheme.eq_ignore_ascii_case("bearer"))?;
        Some(AuthChallenge::Bearer { realm, service: challenge_parameter(rest, "service") })
    };
    let all: Vec<AuthChallenge> = headers.filter_map(parse).collect();
    let bearer = all.iter().position(|challenge| matches!(challenge, AuthChallenge::Bearer { .. }));
    all.into_iter().nth(bearer.unwrap_or(0))
}

/// The value of a parameter in `a="x",b="y"`.
fn challenge_parameter(text: &str, name: &str) -> Option<String> {
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

/// The token in the answer of a token server.
///
/// # Errors
/// There is none.
pub fn parse_token(body: &[u8]) -> Result<Secret, RegistryError> {
    #[derive(Deserialize)]
    struct RegistryTokenResponse {
        token: Option<String>,
        access_token: Option<String>,
    }
    let Ok(RegistryTokenResponse { token, access_token }) = serde_json::from_slice(body) else {
        return Err(RegistryError::InvalidTokenResponse);
    };
    let token = token.or(access_token).filter(|token| !token.is_empty()).ok_or(RegistryError::InvalidTokenResponse)?;
    Ok(Secret::new(format!("Bearer {token}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tests::server::{NetTestRequest, NetTestServer, reply};

    /// A registry that gives ann a token, and redirects requests with a token to `storage`.
    fn registry_reply(seen: &NetTestRequest, storage: &str) -> crate::net::tests::server::NetTestReply {
        let path = seen.request_line().split(' ').nth(1).unwrap();
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
    async fn token_is_fetched_and_not_sent_to_storage() {
        let storage = NetTestServer::start(|seen| match seen.header("authorization") {
            None => reply("200 OK", &[], "module"),
            Some(_) => reply("400 Bad Request", &[], ""),
        });
        let location = format!("http://{}/bucket/x?signature=y", storage.address);
        let server = NetTestServer::start(move |seen| registry_reply(seen, &location));
        let sum = Digest::from_bytes(Sha256::digest(b"module").into());
        let text = format!("{}/steps/warm@{sum}", server.address);
        let reference = RegistryRef::parse(&text).unwrap_or_else(|_| panic!("{text}"));
        let layer = ModuleLayer { digest: sum, size: 6 };

        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        let auth = |auth: &str| format!("{{\"auths\": {{\"{}\": {{\"auth\": \"{auth}\"}}}}}}", server.address);
        std::fs::write(&config, auth("YW5uOnNlY3JldA==")).unwrap();
        assert_eq!(RegistryClient::new(&reference, Some(&config)).fetch_layer(&layer).await.unwrap(), b"module");

        std::fs::write(&config, auth("YW5uOndyb25n")).unwrap();
        let denied = RegistryClient::new(&reference, Some(&config)).fetch_layer(&layer).await;
        assert!(matches!(denied, Err(RegistryError::Denied { user, .. }) if user == "ann"));
        let nobody = RegistryClient::new(&reference, None).fetch_layer(&layer).await;
        assert!(matches!(nobody, Err(RegistryError::Unauthorized { .. })));
        let larger = ModuleLayer { size: 5, ..layer };
        std::fs::write(&config, auth("YW5uOnNlY3JldA==")).unwrap();
        assert!(
            RegistryClient::new(&reference, Some(&config)).fetch_layer(&larger).await.is_err(),
            "it is larger than announced"
        );
    }

    #[test]
    fn challenges_are_parsed() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(AuthChallenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        let full = "Bearer realm=\"https://a.example.com/token\",service=\"r, x\",scope=\"repository:a:pull,push\"";
        assert_eq!(parse_challenge([full].into_iter()), bearer("https://a.example.com/token", Some("r, x")));
        assert_eq!(
            parse_challenge(["bearer service=r, realm=\"https://a\""].into_iter()),
            bearer("https://a", Some("r"))
        );
        assert_eq!(
            parse_challenge(["Basic realm=\"x\"", full].into_iter()),
            bearer("https://a.example.com/token", Some("r, x"))
        );
        assert_eq!(parse_challenge(["Basic realm=\"x\""].into_iter()), Some(AuthChallenge::Basic));
        for other in ["", "Digest realm=\"x\"", "Bearer", "Bearer realm=\"x", "Bearer service=\"x\""] {
            assert_eq!(parse_challenge([other].into_iter()), None, "{other}");
        }
    }

    #[test]
    fn manifest_has_one_module_layer() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let layer = |kind: &str, digest: &str, size: u64| serde_json::json!({"mediaType": kind, "digest": digest, "size": size});
        let of = |layers: &[serde_json::Value]| {
            ModuleLayer::from_manifest(serde_json::json!({"schemaVersion": 2, "layers": layers}).to_string().as_bytes())
        };
        for kind in MODULE_MEDIA_TYPES {
            let found = of(&[layer(kind, &digest, 7)]).unwrap();
            assert_eq!(found, ModuleLayer { digest: digest.parse().unwrap(), size: 7 });
        }
        let good = layer(MODULE_MEDIA_TYPES[0], &digest, 7);
        for (found, why) in [
            (of(&[]), "0 layers"),
            (of(&[good.clone(), good]), "2 layers"),
            (of(&[layer("application/vnd.oci.image.layer.v1.tar+gzip", &digest, 7)]), "tar+gzip"),
            (of(&[layer(MODULE_MEDIA_TYPES[0], "sha512:12", 7)]), "sha512:12"),
            (of(&[layer(MODULE_MEDIA_TYPES[0], &digest, MAX_MODULE_BYTES + 1)]), "the limit is"),
            (ModuleLayer::from_manifest(b"{\"manifests\": []}"), "index"),
            (ModuleLayer::from_manifest(b"<html>"), "expected value"),
        ] {
            let error = found.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
