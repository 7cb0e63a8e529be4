//! The client with local servers and a lying resolver: grants, redirects, credentials.

mod download;
pub mod server;
mod transfer;

use std::{collections::HashMap, future::Future, io, net::IpAddr, pin::Pin};

use reqwest::Method;

use super::*;
use contract::Secret;
use contract::step::FailureKind;
use plan::{ConfidentialText, GrantSource};
use server::{NetTestServer, reply};

/// A resolver that knows only the test's names.
struct FixedResolver(HashMap<&'static str, Vec<IpAddr>>);

impl NameResolver for FixedResolver {
    fn resolve(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        let found = self.0.get(host.as_str()).cloned().ok_or_else(|| io::Error::other("no such name"));
        Box::pin(async move { found })
    }
}

fn grant(url: &str) -> HttpGrant {
    let url = Url::parse(url).unwrap();
    HttpGrant {
        scheme: url.scheme().to_owned(),
        host: url.host_str().unwrap().trim_matches(['[', ']']).to_owned(),
        port: url.port_or_known_default().unwrap(),
        methods: None,
        network: NetworkScope::Public,
        headers: Vec::new(),
        source: GrantSource::Step,
    }
}

fn with_token(mut grant: HttpGrant, token: &str) -> HttpGrant {
    let written = "Bearer ${{ secrets.T }}".to_owned();
    let value = Secret::new(format!("Bearer {token}"));
    grant.headers.push(("Authorization".to_owned(), ConfidentialText { written, value }));
    grant
}

fn client(grants: Vec<HttpGrant>) -> NetClient {
    NetClient::new(grants, Vec::new())
}

/// A client whose resolver maps `names` to `address`.
fn client_resolving(grants: Vec<HttpGrant>, tcp: &[&str], name: &'static str, addresses: &[&str]) -> NetClient {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let tcp: Vec<String> = tcp.iter().map(|&text| text.to_owned()).collect();
    NetClient::with_parts(
        grants,
        &tcp,
        Arc::new(FixedResolver([(name, addresses)].into())),
        CertAuthorities::Machine,
        DownloadRetryPolicy::DEFAULT,
    )
}

fn get_request(url: &str) -> NetRequest {
    NetRequest::new("GET", url).unwrap()
}

async fn send_error(client: &NetClient, request: NetRequest) -> NetError {
    client.send(request).await.expect_err("the request must fail")
}

#[tokio::test]
async fn granted_origin_responds() {
    let server = NetTestServer::start(|_| reply("201 Created", &[("X-Kind", "shop"), ("Set-Cookie", "a=1")], "hello"));
    let client = client(vec![with_token(grant(&server.url("/")), "t0k3n")]);
    let mut request = NetRequest::new("post", &server.url("/a?b=c")).unwrap();
    request.headers.push(("X-Step".to_owned(), "1".to_owned()));
    request.body = Some(b"body".to_vec());

    let response = client.send(request).await.unwrap();
    assert_eq!((response.status, response.body.as_slice()), (201, b"hello".as_slice()));
    assert!(response.headers.contains(&("x-kind".to_owned(), "shop".to_owned())));
    assert_eq!(response.url.as_str(), server.url("/a?b=c"));
    let seen = server.requests();
    assert_eq!(seen[0].request_line(), "POST /a?b=c HTTP/1.1");
    assert_eq!(seen[0].header("authorization"), Some("Bearer t0k3n"));
    assert_eq!(seen[0].header("x-step"), Some("1"));
    assert_eq!(seen[0].header("user-agent"), Some(concat!("pawl/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(seen[0].body, "body");
}

#[tokio::test]
async fn a_connection_serves_one_request() {
    let server = NetTestServer::start(|_| reply("200 OK", &[("Connection", "keep-alive")], ""));
    let client = client(vec![grant(&server.url("/"))]);
    for _ in 0..3 {
        client.send(get_request(&server.url("/"))).await.unwrap();
    }
    assert_eq!(server.connection_count(), 3);
}

#[tokio::test]
async fn ungranted_requests_are_denied_before_sending() {
    let server = NetTestServer::start(|_| reply("200 OK", &[], ""));
    let port = server.address.port();
    let elsewhere = client(vec![
        grant("http://127.0.0.1:1"),
        grant(&format!("https://127.0.0.1:{port}")),
        grant(&format!("http://localhost:{port}")),
    ]);
    let error = send_error(&elsewhere, get_request(&server.url("/?token=s3cret"))).await;
    assert_eq!(error.kind(), FailureKind::Denied);
    assert!(!error.is_retryable());
    assert_eq!(error.to_string(), format!("http://127.0.0.1:{port} is not granted"));
    assert_eq!(error.hint().unwrap(), format!("grants: {{ http: [\"http://127.0.0.1:{port}\"] }}"));

    let mut reading = grant(&server.url("/"));
    reading.methods = Some(vec!["GET".to_owned(), "HEAD".to_owned()]);
    let reading = client(vec![reading]);
    let error = send_error(&reading, NetRequest::new("DELETE", &server.url("/")).unwrap()).await;
    assert_eq!(error.to_string(), format!("the method DELETE is not granted for http://127.0.0.1:{port}"));
    assert_eq!(
        error.hint().unwrap(),
        format!("grants: {{ http: [{{ origin: \"http://127.0.0.1:{port}\", methods: [GET, HEAD, DELETE] }}] }}")
    );
    assert_eq!(server.connection_count(), 0);
    assert_eq!(reading.send(get_request(&server.url("/"))).await.unwrap().status, 200);
}

#[test]
fn invalid_request_is_refused_without_showing_a_password() {
    for (url, part) in [
        ("ftp://a/b", "only http and https"),
        ("http://me:hunter2@a/b?c", "user or password"),
        ("http://me@a/", "user or password"),
        ("/relative", "relative URL"),
        ("http://:hunter2@:0:/", "host"),
    ] {
        let error = NetRequest::new("GET", url).unwrap_err();
        assert_eq!(error.kind(), FailureKind::InvalidConfig);
        assert!(error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    for method in ["TRACE", "connect", "A B", ""] {
        assert!(matches!(NetRequest::new(method, "http://a/"), Err(NetError::InvalidMethod { .. })), "{method}");
    }
}

#[tokio::test]
async fn connection_headers_are_set_by_the_runner() {
    let server = NetTestServer::start(|_| reply("200 OK", &[], ""));
    let client = client(vec![grant(&server.url("/")), grant("http://shop.example")]);
    let with = |url: &str, name: &str, value: &str| {
        let mut request = get_request(url);
        request.headers.push((name.to_owned(), value.to_owned()));
        request
    };
    for (name, value) in [("Content-Length", "5"), ("transfer-encoding", "chunked"), ("a b", ""), ("x", "a\r\nb: c")] {
        let error = send_error(&client, with(&server.url("/"), name, value)).await;
        assert!(matches!(error, NetError::InvalidHeader { .. }), "{error}");
    }
    let error = send_error(&client, with("http://shop.example/", "Host", "other.example")).await;
    assert!(matches!(error, NetError::InvalidHeader { .. }), "{error}");
    assert_eq!(server.connection_count(), 0);
    client.send(with(&server.url("/"), "Host", "shop.example")).await.unwrap();
    assert_eq!(server.requests()[0].header("host"), Some("shop.example"));
}

fn redirecting_server(status: &'static str, to: String) -> NetTestServer {
    NetTestServer::start(move |asked| {
        if asked.request_line().contains(" /end ") {
            reply("200 OK", &[], "end")
        } else {
            reply(status, &[("Location", &to)], "")
        }
    })
}

#[tokio::test]
async fn redirect_to_an_ungranted_origin_sends_nothing() {
    let other = NetTestServer::start(|_| reply("200 OK", &[], ""));
    let server = redirecting_server("302 Found", other.url("/stolen?key=1"));
    let client = client(vec![grant(&server.url("/"))]);
    let error = send_error(&client, get_request(&server.url("/a?token=1"))).await;
    assert_eq!(
        error.to_string(),
        format!("http://{} is not granted; {} redirects there", other.address, server.url("/a"))
    );
    assert_eq!(error.hint().unwrap(), format!("grants: {{ http: [\"http://{}\"] }}", other.address));
    let error = Arc::new(client).open_download(&Url::parse(&server.url("/a")).unwrap(), 0).await.expect_err("denied");
    assert_eq!(error.kind(), FailureKind::Denied);
    assert_eq!(other.connection_count(), 0);
}

#[tokio::test]
async fn credentials_stay_with_their_origin() {
    let other = NetTestServer::start(|_| reply("200 OK", &[], ""));
    let server = redirecting_server("307 Temporary Redirect", other.url("/"));
    let own = with_token(grant(&server.url("/")), "ours");
    let named =
        ["Cookie", "X-Api-Key", "X-Auth-Token", "Proxy-Authorization", "X-Amz-Security-Token", "X-Kept", "Host"];
    let request = || {
        let mut request = NetRequest::new("PUT", &server.url("/")).unwrap();
        request.headers = named.iter().map(|name| ((*name).to_owned(), "v".to_owned())).collect();
        request.body = Some(b"kept".to_vec());
        request
    };

    client(vec![own.clone(), grant(&other.url("/"))]).send(request()).await.unwrap();
    client(vec![own, with_token(grant(&other.url("/")), "theirs")]).send(request()).await.unwrap();
    let (first, then) = (server.requests(), other.requests());
    assert_eq!(first[0].header("authorization"), Some("Bearer ours"));
    assert_eq!(first[0].header("cookie"), Some("v"));
    assert_eq!(then[0].header("authorization"), None);
    assert_eq!(then[1].header("authorization"), Some("Bearer theirs"));
    for name in &named[..5] {
        assert_eq!(then[0].header(name), None, "{name}");
    }
    assert_eq!(then[0].header("x-kept"), Some("v"));
    assert_eq!(then[0].header("host"), Some(other.address.to_string().as_str()));
    assert_eq!((then[0].request_line(), then[0].body.as_str()), ("PUT / HTTP/1.1", "kept"));
}

#[tokio::test]
async fn redirect_changes_the_method_as_in_browsers() {
    for (status, method, expected) in [
        ("301 Moved", "POST", "GET"),
        ("302 Found", "POST", "GET"),
        ("302 Found", "PUT", "PUT"),
        ("303 See Other", "PUT", "GET"),
        ("303 See Other", "HEAD", "HEAD"),
        ("307 Temporary", "POST", "POST"),
        ("308 Permanent", "POST", "POST"),
    ] {
        let server = redirecting_server(status, "/end".to_owned());
        let mut request = NetRequest::new(method, &server.url("/")).unwrap();
        request.headers.push(("Content-Type".to_owned(), "text/plain".to_owned()));
        request.headers.push(("Cookie".to_owned(), "same origin".to_owned()));
        request.body = (method != "HEAD").then(|| b"body".to_vec());
        let response = client(vec![grant(&server.url("/"))]).send(request).await.unwrap();
        assert_eq!(response.url.path(), "/end");
        let last = &server.requests()[1];
        assert_eq!(last.request_line(), format!("{expected} /end HTTP/1.1"), "{status}");
        let kept = expected == method && method != "HEAD";
        assert_eq!(last.body, if kept { "body" } else { "" }, "{status}");
        assert_eq!(last.header("content-type").is_some(), kept || method == "HEAD", "{status}");
        assert_eq!(last.header("cookie"), Some("same origin"));
    }
}

#[tokio::test]
async fn redirect_needs_a_grant_for_its_new_method() {
    let server = redirecting_server("303 See Other", "/end".to_owned());
    let mut posting = grant(&server.url("/"));
    posting.methods = Some(vec!["POST".to_owned()]);
    let request = NetRequest::new("POST", &server.url("/")).unwrap();
    let error = send_error(&client(vec![posting]), request).await;
    assert!(matches!(error, NetError::MethodNotGranted { method: Method::GET, .. }), "{error}");
}

#[tokio::test]
async fn redirects_are_limited() {
    let server = redirecting_server("302 Found", "/again".to_owned());
    let client = client(vec![grant(&server.url("/"))]);
    let mut request = get_request(&server.url("/"));
    request.redirects = 3;
    let error = send_error(&client, request).await;
    assert_eq!(error.kind(), FailureKind::Limit);
    assert_eq!(server.requests().len(), 4);

    let mut request = get_request(&server.url("/"));
    request.redirects = 0;
    assert_eq!(client.send(request).await.unwrap().status, 302);

    for (to, part) in [("http://u:hunter2@x/", "user or password"), ("file:///etc/passwd", "only http")] {
        let server = redirecting_server("302 Found", to.to_owned());
        let error =
            send_error(&super::tests::client(vec![grant(&server.url("/"))]), get_request(&server.url("/"))).await;
        assert!(matches!(error, NetError::BadRedirect { .. }) && error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn name_with_a_private_address_is_denied() {
    let server = NetTestServer::start(|_| reply("200 OK", &[], ""));
    let url = format!("http://shop.example:{}/", server.address.port());
    let public = client_resolving(vec![grant(&url)], &[], "shop.example", &["127.0.0.1"]);
    let error = send_error(&public, get_request(&url)).await;
    assert_eq!(error.kind(), FailureKind::Denied);
    assert_eq!(error.to_string(), "shop.example resolves to 127.0.0.1, this machine, which is not granted");
    let origin = url.trim_end_matches('/');
    assert_eq!(error.hint().unwrap(), format!("grants: {{ http: [{{ origin: \"{origin}\", private: true }}] }}"));
    // One denied address denies the name.
    let mixed = client_resolving(vec![grant(&url)], &[], "shop.example", &["1.1.1.1", "127.0.0.1"]);
    assert_eq!(send_error(&mixed, get_request(&url)).await.kind(), FailureKind::Denied);
    assert_eq!(server.connection_count(), 0);

    let mut private = grant(&url);
    private.network = NetworkScope::Private;
    let allowed = client_resolving(vec![private.clone()], &[], "shop.example", &["127.0.0.1"]);
    assert_eq!(allowed.send(get_request(&url)).await.unwrap().status, 200);

    let metadata = client_resolving(vec![private], &[], "shop.example", &["169.254.169.254"]);
    let error = send_error(&metadata, get_request(&url)).await;
    assert_eq!(error.kind(), FailureKind::Denied);
    let port = server.address.port();
    assert_eq!(error.hint().unwrap(), format!("grants: {{ http: [\"http://169.254.169.254:{port}\"] }}"));

    let local = format!("http://localhost:{port}/");
    assert_eq!(client(vec![grant(&local)]).send(get_request(&local)).await.unwrap().status, 200);
    let unknown = client_resolving(vec![grant("http://gone.example")], &[], "shop.example", &[]);
    let error = send_error(&unknown, get_request("http://gone.example/")).await;
    assert_eq!(error.to_string(), "the name gone.example does not resolve: no such name");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn ip_literals_match_in_every_spelling() {
    let server = NetTestServer::start(|_| reply("200 OK", &[], ""));
    let port = server.address.port();
    let granted = client(vec![grant(&server.url("/"))]);
    assert_eq!(granted.send(get_request(&format!("http://2130706433:{port}/"))).await.unwrap().status, 200);
    for url in [format!("http://[::ffff:127.0.0.1]:{port}/"), format!("http://127.0.0.2:{port}/")] {
        assert_eq!(send_error(&granted, get_request(&url)).await.kind(), FailureKind::Denied);
    }
    let v6 = NetTestServer::start_on("[::1]:0", |tcp| Some(Box::new(tcp)), |_| reply("200 OK", &[], "six"));
    let url = v6.url("/");
    let response = client(vec![grant(&url)]).send(get_request(&url)).await.unwrap();
    assert_eq!(response.body, b"six");
    assert_eq!(response.url.as_str(), url);
}

#[tokio::test]
async fn secret_stays_with_the_first_origin() {
    let elsewhere = NetTestServer::start(|_| reply("200 OK", &[], "there"));
    let url = elsewhere.url("/");
    let first = NetTestServer::start(move |seen| match seen.request_line() {
        "GET /away HTTP/1.1" => reply("302 Found", &[("Location", &url)], ""),
        "GET /near HTTP/1.1" => reply("302 Found", &[("Location", "/end")], ""),
        _ => reply("200 OK", &[], "here"),
    });
    let client = client(vec![grant(&first.url("/")), grant(&elsewhere.url("/"))]);
    for path in ["/near", "/away"] {
        let mut request = get_request(&first.url(path));
        request.headers.push(("X-Harmless".to_owned(), "1".to_owned()));
        request.secrets.push(("X-Plain-Name".to_owned(), Secret::new("hunter2".to_owned())));
        assert_eq!(client.send(request).await.unwrap().status, 200);
    }
    let seen: Vec<_> = first.requests().iter().map(|seen| seen.header("x-plain-name").map(str::to_owned)).collect();
    assert_eq!(seen, vec![Some("hunter2".to_owned()); 3], "near, its end, and away");
    assert_eq!(elsewhere.requests()[0].header("x-plain-name"), None);
    assert_eq!(elsewhere.requests()[0].header("x-harmless"), Some("1"));
}

#[tokio::test]
async fn unix_socket_redirect_is_returned() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let answering = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(peer.read_u8().await.unwrap());
        }
        peer.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 2\r\n\r\nhi")
            .await
            .unwrap();
        String::from_utf8(head).unwrap()
    });
    let mut request = NetRequest::new("GET", "http://localhost/v1.41/info?all=1").unwrap();
    request.secrets.push(("Authorization".to_owned(), Secret::new("Bearer t0k3n".to_owned())));
    let response = client(Vec::new()).send_to_socket(&path, request).await.unwrap();
    assert_eq!((response.status, response.body.as_slice()), (302, b"hi".as_slice()));
    let head = answering.await.unwrap();
    assert!(head.starts_with("GET /v1.41/info?all=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: Bearer t0k3n\r\n"), "{head}");

    drop(std::fs::remove_file(&path));
    let gone = client(Vec::new()).send_to_socket(&path, NetRequest::new("GET", "http://localhost/").unwrap()).await;
    let error = gone.expect_err("nothing listens").to_string();
    assert!(error.contains("engine.sock"), "{error}");
}
