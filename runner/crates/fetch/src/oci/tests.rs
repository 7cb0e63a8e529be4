//! A registry that asks for tokens, pauses, and sends its storage elsewhere.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::*;
use crate::net::tests::server::{NetTestReply, NetTestRequest, NetTestServer, reply};
use contract::step::FailureKind;
use plan::{ConfidentialText, GrantSource, NetworkScope};

const LAYER: &str = "the content of the layer";

fn sha256(text: &str) -> Digest {
    Digest::from_bytes(Sha256::digest(text.as_bytes()).into())
}

fn manifest() -> String {
    let layer = format!(r#"{{"mediaType": "application/octet-stream", "digest": "{}", "size": 24}}"#, sha256(LAYER));
    format!(r#"{{"schemaVersion": 2, "layers": [{layer}]}}"#)
}

fn grant(origin: &str, authorization: Option<&str>) -> HttpGrant {
    let url = Url::parse(origin).unwrap();
    let header = |value: &str| {
        let value = ConfidentialText { written: "***".to_owned(), value: Secret::new(value.to_owned()) };
        ("Authorization".to_owned(), value)
    };
    HttpGrant {
        scheme: url.scheme().to_owned(),
        host: url.host_str().unwrap().to_owned(),
        port: url.port_or_known_default().unwrap(),
        methods: None,
        network: NetworkScope::Public,
        headers: authorization.map(header).into_iter().collect(),
        source: GrantSource::Step,
    }
}

fn repository(server: &NetTestServer, authorization: Option<&str>, more: &[HttpGrant]) -> Arc<OciRepository> {
    let reference = OciRef::parse(&format!("{}/shop:r1", server.address)).unwrap();
    let grants = [&[grant(&server.url(""), authorization)], more].concat();
    Arc::new(OciRepository::new(&grants, reference))
}

async fn content(repository: &Arc<OciRepository>) -> Result<String, OciError> {
    let layers = repository.layers(&repository.resolve().await?).await?;
    let mut download = repository.open(&layers[0], 0, LayerOrder::First).await?;
    let mut content = Vec::new();
    while let Some(chunk) = download.next_chunk().await? {
        content.extend(chunk);
    }
    Ok(String::from_utf8(content).unwrap())
}

/// Answers whoever has the token `t0`, `t1`, … of the last count; ann gets one.
fn token_registry(seen: &NetTestRequest, token: usize) -> NetTestReply {
    let path = seen.request_line().split(' ').nth(1).unwrap().to_owned();
    let bearer = format!("Bearer t{token}");
    match (path.as_str(), seen.header("authorization")) {
        ("/token?service=r&scope=repository%3Ashop%3Apull", Some("Basic YW5uOnNlY3I6ZXQ=")) => {
            reply("200 OK", &[], &format!(r#"{{"token": "t{token}"}}"#))
        }
        (path, _) if path.starts_with("/token") => reply("401 Unauthorized", &[], ""),
        (path, Some(given)) if given == bearer => good_reply(path),
        _ => {
            let realm = format!("Bearer realm=\"http://{}/token\",service=\"r\"", seen.header("host").unwrap());
            reply("401 Unauthorized", &[("WWW-Authenticate", &realm)], "")
        }
    }
}

fn good_reply(path: &str) -> NetTestReply {
    let by_digest = format!("/v2/shop/manifests/{}", sha256(&manifest()));
    match path {
        "/v2/shop/manifests/r1" => reply("200 OK", &[], &manifest()),
        path if path == by_digest => reply("200 OK", &[], &manifest()),
        path if path == format!("/v2/shop/blobs/{}", sha256(LAYER)) => reply("200 OK", &[], LAYER),
        _ => reply("404 Not Found", &[], ""),
    }
}

#[tokio::test]
async fn token_is_fetched_with_the_credentials_of_the_grant() {
    let server = NetTestServer::start(|seen| token_registry(seen, 0));
    for authorization in ["Basic ann:secr:et", "basic YW5uOnNlY3I6ZXQ=", "Bearer t0"] {
        assert_eq!(content(&repository(&server, Some(authorization), &[])).await.unwrap(), LAYER);
    }
    let first = &server.requests()[0];
    assert_eq!(first.header("authorization"), None, "the registry says first what it wants");
    let error = content(&repository(&server, Some("Basic ann:wrong"), &[])).await.unwrap_err();
    assert!(matches!(error, OciError::Denied { .. }), "{error}");
    let error = content(&repository(&server, None, &[])).await.unwrap_err();
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
    assert!(error.hint().unwrap().contains("authorization: \"Basic USER:${{ secrets.NAME }}\""), "{:?}", error.hint());
}

#[tokio::test]
async fn expired_token_is_renewed() {
    // Each token is good for the requests until the next one is given out.
    let count = AtomicUsize::new(0);
    let server = NetTestServer::start(move |seen| {
        let before = count.fetch_add(1, Ordering::SeqCst);
        token_registry(seen, before / 5)
    });
    let repository = repository(&server, Some("Basic ann:secr:et"), &[]);
    for _ in 0..4 {
        assert_eq!(content(&repository).await.unwrap(), LAYER);
    }
}

#[tokio::test]
async fn credentials_stay_with_the_registry() {
    let storage = NetTestServer::start(|seen| match seen.header("authorization") {
        None => reply("200 OK", &[], LAYER),
        Some(_) => reply("400 Bad Request", &[], ""),
    });
    let location = storage.url("/bucket?signature=x");
    let server = NetTestServer::start(move |seen| {
        let path = seen.request_line().split(' ').nth(1).unwrap();
        match (seen.header("authorization"), path.contains("/blobs/")) {
            (Some("Basic YW5uOng="), true) => reply("307 Temporary Redirect", &[("Location", &location)], ""),
            (Some("Basic YW5uOng="), false) => good_reply(path),
            _ => reply("401 Unauthorized", &[("WWW-Authenticate", "Basic realm=\"r\"")], ""),
        }
    });
    let more = [grant(&storage.url(""), None)];
    assert_eq!(content(&repository(&server, Some("Basic ann:x"), &more)).await.unwrap(), LAYER);
    let error = content(&repository(&server, Some("Basic ann:x"), &[])).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Denied, "the storage is not granted: {error}");
}

#[tokio::test]
async fn token_server_elsewhere_must_be_granted() {
    let tokens = NetTestServer::start(|_| reply("200 OK", &[], r#"{"access_token": "t"}"#));
    let realm = format!("Bearer realm=\"{}\"", tokens.url("/token"));
    let server = NetTestServer::start(move |seen| match seen.header("authorization") {
        Some("Bearer t") => good_reply(seen.request_line().split(' ').nth(1).unwrap()),
        _ => reply("401 Unauthorized", &[("WWW-Authenticate", &realm)], ""),
    });
    let error = content(&repository(&server, None, &[])).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Denied, "{error}");
    assert_eq!(content(&repository(&server, None, &[grant(&tokens.url(""), None)])).await.unwrap(), LAYER);
}

#[tokio::test]
async fn pauses_are_kept_and_bounded() {
    let count = AtomicUsize::new(0);
    let server = NetTestServer::start(move |seen| {
        let path = seen.request_line().split(' ').nth(1).unwrap();
        // The first request of each kind is one too many.
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => reply("429 Too Many Requests", &[("Retry-After", "0")], ""),
            3 => reply("503 Service Unavailable", &[("Retry-After", "1")], ""),
            _ => good_reply(path),
        }
    });
    let began = Instant::now();
    let repository = repository(&server, None, &[]);
    assert_eq!(content(&repository).await.unwrap(), LAYER);
    assert!(began.elapsed() >= Duration::from_millis(1250), "{:?}", began.elapsed());
    assert_eq!(server.requests().len(), 5);

    let server = NetTestServer::start(|_| reply("429 Too Many Requests", &[("Retry-After", "3600")], ""));
    let error = content(&self::repository(&server, None, &[])).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("status 429"), "{error}");
}

/// The layers before have come, so the registry was there a moment ago.
#[tokio::test]
async fn registry_that_restarts_before_a_layer_is_waited_for() {
    let count = AtomicUsize::new(0);
    let server = NetTestServer::start(move |seen| {
        let path = seen.request_line().split(' ').nth(1).unwrap();
        match count.fetch_add(usize::from(path.contains("/blobs/")), Ordering::SeqCst) {
            0 | 1 if path.contains("/blobs/") => reply("502 Bad Gateway", &[], ""),
            _ => good_reply(path),
        }
    });
    let repository = repository(&server, None, &[]);
    let layers = repository.layers(&repository.resolve().await.unwrap()).await.unwrap();
    let error = repository.open(&layers[0], 0, LayerOrder::First).await.err().unwrap();
    assert!(error.is_retryable(), "nothing would be lost, so the first one is not waited for: {error}");
    let mut download = repository.open(&layers[0], 0, LayerOrder::Later).await.unwrap();
    let interruption = download.take_interruption().map(|error| error.to_string());
    assert!(interruption.as_ref().is_some_and(|said| said.contains("502")), "{interruption:?}");
    assert_eq!(download.next_chunk().await.unwrap().as_deref(), Some(LAYER.as_bytes()));
}

#[tokio::test]
async fn manifest_is_what_its_digest_says() {
    let server = NetTestServer::start(|_| reply("200 OK", &[], r#"{"layers": []}"#));
    let repository = repository(&server, None, &[]);
    let error = repository.layers(&sha256("another")).await.unwrap_err();
    assert!(matches!(error, OciError::WrongDigest { .. }), "{error}");
    let missing = NetTestServer::start(|_| reply("404 Not Found", &[], ""));
    let error = self::repository(&missing, None, &[]).resolve().await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::NotFound, "{error}");
}
