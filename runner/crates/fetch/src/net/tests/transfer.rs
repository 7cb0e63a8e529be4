//! Timeouts, sizes, errors, TLS, downloads and TCP.

use std::net::TcpListener;

use contract::step::FailureKind;
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::CertificateDer};

use super::{
    server::{NetTestReply, hanging_reply, raw_reply},
    *,
};

#[tokio::test]
async fn body_size_is_limited() {
    let announced = NetTestServer::start(|_| reply("200 OK", &[], &"x".repeat(101)));
    let chunked = NetTestServer::start(|_| {
        raw_reply(&format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n{}\r\n0\r\n\r\n",
            "x".repeat(101)
        ))
    });
    for server in [&announced, &chunked] {
        let client = client(vec![grant(&server.url("/"))]);
        let asked = |max| NetRequest { max_bytes: max, ..get_request(&server.url("/big?q")) };
        assert_eq!(client.send(asked(101)).await.unwrap().body.len(), 101);
        let error = send_error(&client, asked(100)).await;
        assert_eq!(error.kind(), FailureKind::Limit);
        assert_eq!(error.to_string(), format!("the answer from {} is larger than 100 bytes", server.url("/big")));
    }
    let mut head = NetRequest::new("HEAD", &announced.url("/")).unwrap();
    head.max_bytes = 1;
    assert_eq!(client(vec![grant(&announced.url("/"))]).send(head).await.unwrap().status, 200);
}

#[tokio::test]
async fn each_part_of_an_exchange_times_out() {
    let silent = NetTestServer::start(|_| hanging_reply(""));
    let slow_head = NetTestServer::start(|_| NetTestReply {
        pieces: vec![b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: 1\r\n".to_vec(), b"Y: 1\r\n".to_vec()],
        pause: Duration::from_millis(40),
        keep_open: true,
    });
    let slow_body = NetTestServer::start(|_| hanging_reply("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"));
    for (server, expected) in [
        (&silent, "{} did not answer within 150 ms"),
        (&slow_head, "{} did not answer within 150 ms"),
        (&slow_body, "{} did not complete its answer within 150 ms"),
    ] {
        let mut request = get_request(&server.url("/"));
        request.timeout = Duration::from_millis(150);
        let error = send_error(&client(vec![grant(&server.url("/"))]), request).await;
        assert_eq!(error.to_string(), expected.replace("{}", &server.address.to_string()));
        assert!(error.is_retryable());
    }
}

#[tokio::test]
async fn connection_errors_have_plain_texts() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}/");
    let error = send_error(&client(vec![grant(&url)]), get_request(&url)).await;
    assert_eq!(error.to_string(), format!("{free} refused the connection"));
    assert!(error.is_retryable());

    for answer in ["", "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
        let server = NetTestServer::start(move |_| raw_reply(answer));
        let error = send_error(&client(vec![grant(&server.url("/"))]), get_request(&server.url("/"))).await;
        assert!(matches!(error, NetError::ConnectionBroken { .. }), "{answer:?}: {error}");
        assert!(error.to_string().contains(&server.address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn download_streams_and_knows_its_size() {
    let server = NetTestServer::start(|asked| match asked.request_line() {
        "GET /moved HTTP/1.1" => reply("302 Found", &[("Location", "/blob")], ""),
        "GET /blob HTTP/1.1" => reply("200 OK", &[], &"x".repeat(300_000)),
        "GET /short HTTP/1.1" => raw_reply("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
        "GET /stall HTTP/1.1" => hanging_reply("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
        "GET /silent HTTP/1.1" => hanging_reply(""),
        "GET /busy HTTP/1.1" => reply("503 Unavailable", &[], ""),
        "GET /part HTTP/1.1" => reply("206 Partial", &[], ""),
        _ => reply("404 Not Found", &[], ""),
    });
    let grants = vec![grant(&server.url("/"))];
    let stall = Duration::from_millis(150);
    let patience = DownloadRetryPolicy { stall_timeout: stall, max_retries: 0, ..DownloadRetryPolicy::DEFAULT };
    let client =
        Arc::new(NetClient::with_parts(grants, &[], Arc::new(SystemResolver), CertAuthorities::Machine, patience));
    let url = |path: &str| Url::parse(&server.url(path)).unwrap();

    let mut download = client.open_download(&url("/moved"), 0).await.unwrap();
    assert_eq!(download.size(), Some(300_000));
    let mut received = 0;
    while let Some(bytes) = download.next_chunk().await.unwrap() {
        received += bytes.len();
    }
    assert_eq!(received, 300_000);

    for path in ["/short", "/stall"] {
        let mut download = client.open_download(&url(path), 0).await.unwrap();
        assert_eq!(download.next_chunk().await.unwrap().as_deref(), Some(b"abc".as_slice()));
        let error = download.next_chunk().await.map(drop).expect_err("it must not look like the end");
        assert!(error.is_retryable(), "{error}");
        if path == "/stall" {
            let peer = server.address.to_string();
            let last = Box::new(NetError::Stalled { peer: peer.clone(), within: stall, received: 3 });
            assert_eq!(error, NetError::RetriesExhausted { peer, received: 3, tries: 0, last });
        }
    }
    for (path, kind) in [
        ("/silent", FailureKind::Transient),
        ("/busy", FailureKind::Transient),
        ("/part", FailureKind::Permanent),
        ("/gone?token=1", FailureKind::NotFound),
    ] {
        let error = client.open_download(&url(path), 0).await.expect_err("no download");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!error.to_string().contains("token"), "{error}");
    }
}

#[tokio::test]
async fn tcp_connects_to_granted_addresses_only() {
    let server = NetTestServer::start(|_| raw_reply(""));
    let port = server.address.port();
    let (literal, named) = (server.address.to_string(), format!("db.example:{port}"));
    let client = client_resolving(Vec::new(), &[&literal, &named, "127.0.0.1:1"], "db.example", &["127.0.0.1"]);
    let within = Duration::from_secs(5);
    client.connect(&literal, within).await.unwrap();
    client.connect(&format!("DB.example:{port}"), within).await.unwrap();

    let error = client.connect(&format!("localhost:{port}"), within).await.unwrap_err();
    assert_eq!(error.to_string(), format!("connecting to localhost:{port} is not granted"));
    assert_eq!(error.hint().unwrap(), format!("grants: {{ tcp: [\"localhost:{port}\"] }}"));
    let error = client.connect("127.0.0.1:1", within).await.unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1:1 refused the connection");
    for address in ["127.0.0.1", "", "::1:80", "a:", "a:+1", "a:99999"] {
        let error = client.connect(address, within).await.unwrap_err();
        assert!(matches!(error, NetError::InvalidAddress { .. }), "{address}: {error}");
    }
    let metadata = client_resolving(Vec::new(), &[&named], "db.example", &["169.254.169.254"]);
    let error = metadata.connect(&named, within).await.unwrap_err();
    assert_eq!(error.hint().unwrap(), format!("grants: {{ tcp: [\"169.254.169.254:{port}\"] }}"));
}

/// An https server for `localhost` with a self-signed certificate.
fn tls_server() -> (NetTestServer, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let wrap = move |mut tcp: std::net::TcpStream| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).ok()?;
        }
        Some(Box::new(StreamOwned::new(tls, tcp)) as Box<dyn server::NetTestStream>)
    };
    (NetTestServer::start_on("127.0.0.1:0", wrap, |_| reply("200 OK", &[], "secure")), certificate)
}

#[tokio::test]
async fn https_needs_a_trusted_certificate() {
    let (server, certificate) = tls_server();
    let port = server.address.port();
    let url = format!("https://localhost:{port}/");
    let trusted = |certificates| {
        let grants = vec![grant(&url), grant(&format!("https://127.0.0.1:{port}"))];
        NetClient::with_parts(
            grants,
            &[],
            Arc::new(SystemResolver),
            CertAuthorities::Fixed(certificates),
            DownloadRetryPolicy::DEFAULT,
        )
    };
    let response = trusted(vec![certificate.clone()]).send(get_request(&url)).await.unwrap();
    assert_eq!(response.body, b"secure");

    let other = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
    let error = send_error(&trusted(vec![other.cert.der().clone()]), get_request(&url)).await;
    assert_eq!(error.kind(), FailureKind::Permanent);
    let start = format!("the certificate of localhost:{port} is not trusted: ");
    assert!(error.to_string().starts_with(&start), "{error}");
    assert!(error.hint().unwrap().contains("SSL_CERT_FILE"));
    // The certificate is trusted, but for another name.
    let error = send_error(&trusted(vec![certificate]), get_request(&format!("https://127.0.0.1:{port}/"))).await;
    assert!(matches!(error, NetError::CertificateUntrusted { .. }), "{error}");
}

#[tokio::test]
async fn https_to_a_plain_server_is_reported() {
    let server = NetTestServer::start_on("127.0.0.1:0", answer_in_clear, |_| raw_reply(""));
    let url = server.url("/").replace("http:", "https:");
    let client = NetClient::with_parts(
        vec![grant(&url)],
        &[],
        Arc::new(SystemResolver),
        CertAuthorities::Fixed(Vec::new()),
        DownloadRetryPolicy::DEFAULT,
    );
    let error = send_error(&client, get_request(&url)).await;
    assert!(matches!(error, NetError::Tls { .. }), "{error}");
}

fn answer_in_clear(mut tcp: std::net::TcpStream) -> Option<Box<dyn server::NetTestStream>> {
    std::io::Write::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    // Waits until the client has read the response and closed the connection.
    while std::io::Read::read(&mut tcp, &mut [0; 512]).is_ok_and(|read| read > 0) {}
    None
}
