//! The client against servers on this machine and a resolver that lies: grants, redirects, credentials.

mod download;
pub mod server;
mod transfer;

use std::{collections::HashMap, future::Future, io, net::IpAddr, pin::Pin};

use reqwest::Method;

use super::{error::Kind, *};
use contract::Secret;
use plan::Confidential;
use server::{Server, reply};

/// A resolver that knows the names of the test and no other.
struct Names(HashMap<&'static str, Vec<IpAddr>>);

impl Resolve for Names {
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
        network: Network::Public,
        headers: Vec::new(),
    }
}

fn with_token(mut grant: HttpGrant, token: &str) -> HttpGrant {
    let written = "Bearer ${{ secrets.T }}".to_owned();
    let value = Secret::new(format!("Bearer {token}"));
    grant.headers.push(("Authorization".to_owned(), Confidential { written, value }));
    grant
}

fn client(grants: Vec<HttpGrant>) -> Client {
    Client::new(grants, Vec::new())
}

/// A client for which `names` lead to `address`.
fn lied_to(grants: Vec<HttpGrant>, tcp: &[&str], name: &'static str, addresses: &[&str]) -> Client {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let tcp: Vec<String> = tcp.iter().map(|&text| text.to_owned()).collect();
    Client::with(grants, &tcp, Arc::new(Names([(name, addresses)].into())), Authorities::Machine, Patience::DEFAULT)
}

fn get(url: &str) -> Request {
    Request::new("GET", url).unwrap()
}

async fn refused(client: &Client, request: Request) -> NetError {
    client.send(request).await.expect_err("the request must fail")
}

#[tokio::test]
async fn a_granted_origin_answers() {
    let server = Server::start(|_| reply("201 Created", &[("X-Kind", "shop"), ("Set-Cookie", "a=1")], "hello"));
    let client = client(vec![with_token(grant(&server.url("/")), "t0k3n")]);
    let mut request = Request::new("post", &server.url("/a?b=c")).unwrap();
    request.headers.push(("X-Step".to_owned(), "1".to_owned()));
    request.body = Some(b"body".to_vec());

    let response = client.send(request).await.unwrap();
    assert_eq!((response.status, response.body.as_slice()), (201, b"hello".as_slice()));
    assert!(response.headers.contains(&("x-kind".to_owned(), "shop".to_owned())));
    assert_eq!(response.url.as_str(), server.url("/a?b=c"));
    let seen = server.seen();
    assert_eq!(seen[0].line(), "POST /a?b=c HTTP/1.1");
    assert_eq!(seen[0].header("authorization"), Some("Bearer t0k3n"));
    assert_eq!(seen[0].header("x-step"), Some("1"));
    assert_eq!(seen[0].header("user-agent"), Some(concat!("pawl/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(seen[0].body, "body");
}

#[tokio::test]
async fn a_connection_serves_one_request() {
    let server = Server::start(|_| reply("200 OK", &[("Connection", "keep-alive")], ""));
    let client = client(vec![grant(&server.url("/"))]);
    for _ in 0..3 {
        client.send(get(&server.url("/"))).await.unwrap();
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn what_is_not_granted_is_denied_before_anything_is_sent() {
    let server = Server::start(|_| reply("200 OK", &[], ""));
    let port = server.address.port();
    let elsewhere = client(vec![
        grant("http://127.0.0.1:1"),
        grant(&format!("https://127.0.0.1:{port}")),
        grant(&format!("http://localhost:{port}")),
    ]);
    let error = refused(&elsewhere, get(&server.url("/?token=s3cret"))).await;
    assert_eq!(error.kind(), Kind::Denied);
    assert!(!error.retryable());
    assert_eq!(error.to_string(), format!("http://127.0.0.1:{port} is not granted"));
    assert_eq!(error.hint().unwrap(), format!("grants: {{ http: [\"http://127.0.0.1:{port}\"] }}"));

    let mut reading = grant(&server.url("/"));
    reading.methods = Some(vec!["GET".to_owned(), "HEAD".to_owned()]);
    let reading = client(vec![reading]);
    let error = refused(&reading, Request::new("DELETE", &server.url("/")).unwrap()).await;
    assert_eq!(error.to_string(), format!("the method DELETE is not granted for http://127.0.0.1:{port}"));
    assert_eq!(
        error.hint().unwrap(),
        format!("grants: {{ http: [{{ origin: \"http://127.0.0.1:{port}\", methods: [GET, HEAD, DELETE] }}] }}")
    );
    assert_eq!(server.connections(), 0);
    assert_eq!(reading.send(get(&server.url("/"))).await.unwrap().status, 200);
}

#[test]
fn a_request_that_makes_no_sense_is_refused_and_shows_no_password() {
    for (url, part) in [
        ("ftp://a/b", "only http and https"),
        ("http://me:hunter2@a/b?c", "user or password"),
        ("http://me@a/", "user or password"),
        ("/relative", "relative URL"),
        ("http://:hunter2@:0:/", "host"),
    ] {
        let error = Request::new("GET", url).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidConfig);
        assert!(error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    for method in ["TRACE", "connect", "A B", ""] {
        assert!(matches!(Request::new(method, "http://a/"), Err(NetError::InvalidMethod { .. })), "{method}");
    }
}

#[tokio::test]
async fn headers_of_the_connection_are_the_hosts() {
    let server = Server::start(|_| reply("200 OK", &[], ""));
    let client = client(vec![grant(&server.url("/")), grant("http://shop.example")]);
    let with = |url: &str, name: &str, value: &str| {
        let mut request = get(url);
        request.headers.push((name.to_owned(), value.to_owned()));
        request
    };
    for (name, value) in [("Content-Length", "5"), ("transfer-encoding", "chunked"), ("a b", ""), ("x", "a\r\nb: c")] {
        let error = refused(&client, with(&server.url("/"), name, value)).await;
        assert!(matches!(error, NetError::InvalidHeader { .. }), "{error}");
    }
    let error = refused(&client, with("http://shop.example/", "Host", "other.example")).await;
    assert!(matches!(error, NetError::InvalidHeader { .. }), "{error}");
    assert_eq!(server.connections(), 0);
    client.send(with(&server.url("/"), "Host", "shop.example")).await.unwrap();
    assert_eq!(server.seen()[0].header("host"), Some("shop.example"));
}

fn redirecting(status: &'static str, to: String) -> Server {
    Server::start(move |asked| {
        if asked.line().contains(" /end ") {
            reply("200 OK", &[], "end")
        } else {
            reply(status, &[("Location", &to)], "")
        }
    })
}

#[tokio::test]
async fn a_redirect_to_what_is_not_granted_is_denied_and_nothing_is_sent_there() {
    let other = Server::start(|_| reply("200 OK", &[], ""));
    let server = redirecting("302 Found", other.url("/stolen?key=1"));
    let client = client(vec![grant(&server.url("/"))]);
    let error = refused(&client, get(&server.url("/a?token=1"))).await;
    assert_eq!(
        error.to_string(),
        format!("http://{} is not granted; {} redirects there", other.address, server.url("/a"))
    );
    assert_eq!(error.hint().unwrap(), format!("grants: {{ http: [\"http://{}\"] }}", other.address));
    let error = Arc::new(client).open(&Url::parse(&server.url("/a")).unwrap()).await.expect_err("denied");
    assert_eq!(error.kind(), Kind::Denied);
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn credentials_stay_with_their_origin() {
    let other = Server::start(|_| reply("200 OK", &[], ""));
    let server = redirecting("307 Temporary Redirect", other.url("/"));
    let own = with_token(grant(&server.url("/")), "ours");
    let named =
        ["Cookie", "X-Api-Key", "X-Auth-Token", "Proxy-Authorization", "X-Amz-Security-Token", "X-Kept", "Host"];
    let request = || {
        let mut request = Request::new("PUT", &server.url("/")).unwrap();
        request.headers = named.iter().map(|name| ((*name).to_owned(), "v".to_owned())).collect();
        request.body = Some(b"kept".to_vec());
        request
    };

    client(vec![own.clone(), grant(&other.url("/"))]).send(request()).await.unwrap();
    client(vec![own, with_token(grant(&other.url("/")), "theirs")]).send(request()).await.unwrap();
    let (first, then) = (server.seen(), other.seen());
    assert_eq!(first[0].header("authorization"), Some("Bearer ours"));
    assert_eq!(first[0].header("cookie"), Some("v"));
    assert_eq!(then[0].header("authorization"), None);
    assert_eq!(then[1].header("authorization"), Some("Bearer theirs"));
    for name in &named[..5] {
        assert_eq!(then[0].header(name), None, "{name}");
    }
    assert_eq!(then[0].header("x-kept"), Some("v"));
    assert_eq!(then[0].header("host"), Some(other.address.to_string().as_str()));
    assert_eq!((then[0].line(), then[0].body.as_str()), ("PUT / HTTP/1.1", "kept"));
}

#[tokio::test]
async fn a_redirect_changes_the_method_as_browsers_do() {
    for (status, method, expected) in [
        ("301 Moved", "POST", "GET"),
        ("302 Found", "POST", "GET"),
        ("302 Found", "PUT", "PUT"),
        ("303 See Other", "PUT", "GET"),
        ("303 See Other", "HEAD", "HEAD"),
        ("307 Temporary", "POST", "POST"),
        ("308 Permanent", "POST", "POST"),
    ] {
        let server = redirecting(status, "/end".to_owned());
        let mut request = Request::new(method, &server.url("/")).unwrap();
        request.headers.push(("Content-Type".to_owned(), "text/plain".to_owned()));
        request.headers.push(("Cookie".to_owned(), "same origin".to_owned()));
        request.body = (method != "HEAD").then(|| b"body".to_vec());
        let response = client(vec![grant(&server.url("/"))]).send(request).await.unwrap();
        assert_eq!(response.url.path(), "/end");
        let last = &server.seen()[1];
        assert_eq!(last.line(), format!("{expected} /end HTTP/1.1"), "{status}");
        let kept = expected == method && method != "HEAD";
        assert_eq!(last.body, if kept { "body" } else { "" }, "{status}");
        assert_eq!(last.header("content-type").is_some(), kept || method == "HEAD", "{status}");
        assert_eq!(last.header("cookie"), Some("same origin"));
    }
}

#[tokio::test]
async fn a_redirect_must_be_granted_for_the_method_it_becomes() {
    let server = redirecting("303 See Other", "/end".to_owned());
    let mut posting = grant(&server.url("/"));
    posting.methods = Some(vec!["POST".to_owned()]);
    let request = Request::new("POST", &server.url("/")).unwrap();
    let error = refused(&client(vec![posting]), request).await;
    assert!(matches!(error, NetError::MethodNotGranted { method: Method::GET, .. }), "{error}");
}

#[tokio::test]
async fn redirects_are_counted() {
    let server = redirecting("302 Found", "/again".to_owned());
    let client = client(vec![grant(&server.url("/"))]);
    let mut request = get(&server.url("/"));
    request.redirects = 3;
    let error = refused(&client, request).await;
    assert_eq!(error.kind(), Kind::Limit);
    assert_eq!(server.seen().len(), 4);

    let mut request = get(&server.url("/"));
    request.redirects = 0;
    assert_eq!(client.send(request).await.unwrap().status, 302);

    for (to, part) in [("http://u:hunter2@x/", "user or password"), ("file:///etc/passwd", "only http")] {
        let server = redirecting("302 Found", to.to_owned());
        let error = refused(&super::tests::client(vec![grant(&server.url("/"))]), get(&server.url("/"))).await;
        assert!(matches!(error, NetError::BadRedirect { .. }) && error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_name_that_leads_inside_is_denied() {
    let server = Server::start(|_| reply("200 OK", &[], ""));
    let url = format!("http://shop.example:{}/", server.address.port());
    let public = lied_to(vec![grant(&url)], &[], "shop.example", &["127.0.0.1"]);
    let error = refused(&public, get(&url)).await;
    assert_eq!(error.kind(), Kind::Denied);
    assert_eq!(error.to_string(), "shop.example resolves to 127.0.0.1, this machine: that is not granted");
    let origin = url.trim_end_matches('/');
    assert_eq!(error.hint().unwrap(), format!("grants: {{ http: [{{ origin: \"{origin}\", private: true }}] }}"));
    // One bad address spoils the name.
    let mixed = lied_to(vec![grant(&url)], &[], "shop.example", &["1.1.1.1", "127.0.0.1"]);
    assert_eq!(refused(&mixed, get(&url)).await.kind(), Kind::Denied);
    assert_eq!(server.connections(), 0);

    let mut private = grant(&url);
    private.network = Network::Private;
    let allowed = lied_to(vec![private.clone()], &[], "shop.example", &["127.0.0.1"]);
    assert_eq!(allowed.send(get(&url)).await.unwrap().status, 200);

    let metadata = lied_to(vec![private], &[], "shop.example", &["169.254.169.254"]);
    let error = refused(&metadata, get(&url)).await;
    assert_eq!(error.kind(), Kind::Denied);
    let port = server.address.port();
    assert_eq!(error.hint().unwrap(), format!("grants: {{ http: [\"http://169.254.169.254:{port}\"] }}"));

    let local = format!("http://localhost:{port}/");
    assert_eq!(client(vec![grant(&local)]).send(get(&local)).await.unwrap().status, 200);
    let unknown = lied_to(vec![grant("http://gone.example")], &[], "shop.example", &[]);
    let error = refused(&unknown, get("http://gone.example/")).await;
    assert_eq!(error.to_string(), "the name gone.example does not resolve: no such name");
    assert!(error.retryable());
}

#[tokio::test]
async fn an_ip_literal_names_itself_however_it_is_written() {
    let server = Server::start(|_| reply("200 OK", &[], ""));
    let port = server.address.port();
    let granted = client(vec![grant(&server.url("/"))]);
    assert_eq!(granted.send(get(&format!("http://2130706433:{port}/"))).await.unwrap().status, 200);
    for url in [format!("http://[::ffff:127.0.0.1]:{port}/"), format!("http://127.0.0.2:{port}/")] {
        assert_eq!(refused(&granted, get(&url)).await.kind(), Kind::Denied);
    }
    let v6 = Server::on("[::1]:0", |tcp| Some(Box::new(tcp)), |_| reply("200 OK", &[], "six"));
    let url = v6.url("/");
    let response = client(vec![grant(&url)]).send(get(&url)).await.unwrap();
    assert_eq!(response.body, b"six");
    assert_eq!(response.url.as_str(), url);
}

#[tokio::test]
async fn a_secret_stays_with_the_first_origin() {
    let elsewhere = Server::start(|_| reply("200 OK", &[], "there"));
    let url = elsewhere.url("/");
    let first = Server::start(move |seen| match seen.line() {
        "GET /away HTTP/1.1" => reply("302 Found", &[("Location", &url)], ""),
        "GET /near HTTP/1.1" => reply("302 Found", &[("Location", "/end")], ""),
        _ => reply("200 OK", &[], "here"),
    });
    let client = client(vec![grant(&first.url("/")), grant(&elsewhere.url("/"))]);
    for path in ["/near", "/away"] {
        let mut request = get(&first.url(path));
        request.headers.push(("X-Harmless".to_owned(), "1".to_owned()));
        request.secrets.push(("X-Plain-Name".to_owned(), Secret::new("hunter2".to_owned())));
        assert_eq!(client.send(request).await.unwrap().status, 200);
    }
    let seen: Vec<_> = first.seen().iter().map(|seen| seen.header("x-plain-name").map(str::to_owned)).collect();
    assert_eq!(seen, vec![Some("hunter2".to_owned()); 3], "near, its end, and away");
    assert_eq!(elsewhere.seen()[0].header("x-plain-name"), None);
    assert_eq!(elsewhere.seen()[0].header("x-harmless"), Some("1"));
}

#[tokio::test]
async fn a_socket_is_asked_and_its_redirect_is_an_answer() {
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
    let mut request = Request::new("GET", "http://localhost/v1.41/info?all=1").unwrap();
    request.secrets.push(("Authorization".to_owned(), Secret::new("Bearer t0k3n".to_owned())));
    let response = client(Vec::new()).send_to_socket(&path, request).await.unwrap();
    assert_eq!((response.status, response.body.as_slice()), (302, b"hi".as_slice()));
    let head = answering.await.unwrap();
    assert!(head.starts_with("GET /v1.41/info?all=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: Bearer t0k3n\r\n"), "{head}");

    drop(std::fs::remove_file(&path));
    let gone = client(Vec::new()).send_to_socket(&path, Request::new("GET", "http://localhost/").unwrap()).await;
    let error = gone.expect_err("nothing listens").to_string();
    assert!(error.contains("engine.sock"), "{error}");
}
