//! Downloads that break, stall, change, or get lies: the content arrives whole and once, or there is an error.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    server::{NetTestReply, NetTestRequest},
    *,
};
use contract::step::FailureKind;

const TAG: &str = "\"v1\"";
const QUICK_RETRY: DownloadRetryPolicy = DownloadRetryPolicy {
    stall_timeout: Duration::from_millis(150),
    first_delay: Duration::from_millis(1),
    max_retries: 3,
};

/// 300 000 bytes without repetitions.
fn content() -> Vec<u8> {
    let mut text = String::new();
    for number in 0.. {
        text += &format!("{number:07} ");
        if text.len() >= 300_000 {
            break;
        }
    }
    text.into_bytes()
}

fn requested_start(asked: &NetTestRequest) -> Option<usize> {
    let range = asked.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?;
    Some(range.parse().unwrap())
}

/// A response head with `body`, which may be shorter than the head says.
fn reply_with_head(head: &str, body: &[u8]) -> NetTestReply {
    let head = format!("HTTP/1.1 {head}\r\n\r\n").into_bytes();
    NetTestReply { pieces: vec![[&head, body].concat()], pause: Duration::ZERO, keep_open: false }
}

/// A correct response, cut off after `most` bytes of its body.
fn good_reply(asked: &NetTestRequest, content: &[u8], most: usize) -> NetTestReply {
    let size = content.len();
    match requested_start(asked) {
        Some(start) => {
            let (rest, last) = (&content[start..], size - 1);
            let range = format!("Content-Range: bytes {start}-{last}/{size}\r\nContent-Length: {}", rest.len());
            reply_with_head(&format!("206 Partial Content\r\nETag: {TAG}\r\n{range}"), &rest[..rest.len().min(most)])
        }
        None => {
            reply_with_head(&format!("200 OK\r\nETag: {TAG}\r\nContent-Length: {size}"), &content[..size.min(most)])
        }
    }
}

/// A server whose handler knows how many requests came before.
fn counting_server(answer: impl Fn(usize, &NetTestRequest) -> NetTestReply + Send + Sync + 'static) -> NetTestServer {
    let count = AtomicUsize::new(0);
    NetTestServer::start(move |asked| answer(count.fetch_add(1, Ordering::SeqCst), asked))
}

async fn download(server: &NetTestServer, retry_policy: DownloadRetryPolicy) -> Result<Vec<u8>, NetError> {
    let (received, is_interrupted) = download_from(server, 0, retry_policy).await?;
    assert_eq!(is_interrupted, server.requests().len() > 1);
    Ok(received)
}

/// What comes from a byte on, and whether the download was interrupted.
async fn download_from(
    server: &NetTestServer,
    offset: u64,
    retry_policy: DownloadRetryPolicy,
) -> Result<(Vec<u8>, bool), NetError> {
    let grants = vec![grant(&server.url("/"))];
    let client =
        Arc::new(NetClient::with_parts(grants, &[], Arc::new(SystemResolver), CertAuthorities::Machine, retry_policy));
    let mut download = client.open_download(&Url::parse(&server.url("/file?key=s3cret")).unwrap(), offset).await?;
    let mut received = Vec::new();
    while let Some(bytes) = download.next_chunk().await? {
        received.extend_from_slice(&bytes);
    }
    Ok((received, download.take_interruption().is_some()))
}

async fn assert_complete(server: &NetTestServer) {
    let received = download(server, QUICK_RETRY).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(received == content(), "{} bytes, or others", received.len());
}

async fn download_error(server: &NetTestServer) -> NetError {
    download(server, QUICK_RETRY).await.expect_err("it can't be whole")
}

fn requested_starts(server: &NetTestServer) -> Vec<Option<usize>> {
    server.requests().iter().map(requested_start).collect()
}

#[tokio::test]
async fn interrupted_download_resumes() {
    let server = counting_server(|_, asked| good_reply(asked, &content(), 50_000));
    assert_complete(&server).await;
    let wanted = [None, Some(50_000), Some(100_000), Some(150_000), Some(200_000), Some(250_000)];
    assert_eq!(requested_starts(&server), wanted);
    assert!(server.requests()[1..].iter().all(|asked| asked.header("if-range") == Some(TAG)));
}

#[tokio::test]
async fn download_begins_at_an_offset() {
    let content = content();
    let size = content.len();
    let server = counting_server(move |_, asked| good_reply(asked, &self::content(), 150_000));
    let (rest, _) = download_from(&server, 100_000, QUICK_RETRY).await.unwrap();
    assert!(rest == content[100_000..], "{} bytes, or others", rest.len());
    assert_eq!(requested_starts(&server), [Some(100_000), Some(250_000)]);
    assert_eq!(server.requests()[1].header("if-range"), Some(TAG), "the first response told it");

    for head in ["200 OK", "416 Range Not Satisfiable"] {
        let server = counting_server(move |before, _| match before {
            0 if head.starts_with('4') => reply_with_head(&format!("{head}\r\nContent-Length: 0"), b""),
            _ => reply_with_head(&format!("200 OK\r\nContent-Length: {size}"), &self::content()),
        });
        let (rest, _) = download_from(&server, 100_000, QUICK_RETRY).await.unwrap();
        assert!(rest == content[100_000..], "{head}: {} bytes, or others", rest.len());
    }

    let whole = move |_, _: &NetTestRequest| {
        reply_with_head(
            &format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{size}\r\nContent-Length: 0"),
            b"",
        )
    };
    let (rest, _) = download_from(&counting_server(whole), size as u64, QUICK_RETRY).await.unwrap();
    assert_eq!(rest, b"", "everything is there");
    let shorter = |_, _: &NetTestRequest| reply_with_head("200 OK\r\nContent-Length: 3", b"abc");
    let error = download_from(&counting_server(shorter), 10, QUICK_RETRY).await.expect_err("another content");
    assert!(matches!(error, NetError::ContentChanged { .. }), "{error}");
}

#[tokio::test]
async fn stalled_download_resumes() {
    let server = counting_server(|before, asked| NetTestReply {
        keep_open: before < 3,
        ..good_reply(asked, &content(), 90_000)
    });
    assert_complete(&server).await;
    assert_eq!(requested_starts(&server), [None, Some(90_000), Some(180_000), Some(270_000)]);
}

#[tokio::test]
async fn new_byte_resets_the_retry_count() {
    let server = counting_server(|_, asked| good_reply(asked, &content(), 10_000));
    let patience = DownloadRetryPolicy { max_retries: 1, ..QUICK_RETRY };
    assert!(download(&server, patience).await.unwrap() == content());
    assert_eq!(server.requests().len(), 30);
}

#[tokio::test]
async fn if_range_is_a_strong_tag_or_a_time() {
    const TIME: &str = "Tue, 01 Jul 2025 10:00:00 GMT";
    for (headers, condition) in [
        (format!("ETag: {TAG}\r\nLast-Modified: {TIME}\r\n"), Some(TAG)),
        (format!("ETag: W/{TAG}\r\nLast-Modified: {TIME}\r\n"), Some(TIME)),
        (format!("ETag: W/{TAG}\r\n"), None),
        (String::new(), None),
    ] {
        let server = counting_server(move |before, _| match before {
            0 => reply_with_head(&format!("200 OK\r\n{headers}Content-Length: 6"), b"abc"),
            _ => reply_with_head(
                &format!("206 Partial\r\n{headers}Content-Range: bytes 3-5/6\r\nContent-Length: 3"),
                b"def",
            ),
        });
        assert_eq!(download(&server, QUICK_RETRY).await.unwrap(), b"abcdef");
        assert_eq!(server.requests()[1].header("if-range"), condition);
    }
}

#[tokio::test]
async fn server_without_ranges_sends_all_and_known_bytes_are_skipped() {
    let server = counting_server(|before, _| {
        let most = [100_000, 150_000, usize::MAX][before];
        let content = content();
        reply_with_head(&format!("200 OK\r\nContent-Length: {}", content.len()), &content[..content.len().min(most)])
    });
    assert_complete(&server).await;
    assert_eq!(requested_starts(&server), [None, Some(100_000), Some(150_000)]);
}

#[tokio::test]
async fn server_with_wrong_ranges_is_asked_for_all() {
    for lie in [
        "Content-Range: bytes 0-299999/300000",
        "Content-Range: bytes 100001-299999/300000",
        "Content-Range: bytes 299999-100000/300000",
        "Content-Range: lines 100000-299999/300000",
        "Content-Range: bytes */300000",
        "Content-Type: multipart/byteranges; boundary=x",
    ] {
        let server = counting_server(move |before, asked| match before {
            0 => good_reply(asked, &content(), 100_000),
            1 => reply_with_head(
                &format!("206 Partial Content\r\n{lie}\r\nContent-Length: 200000"),
                &content()[..200_000],
            ),
            _ => good_reply(asked, &content(), usize::MAX),
        });
        assert_complete(&server).await;
        assert_eq!(requested_starts(&server), [None, Some(100_000), None], "{lie}");
    }
}

#[tokio::test]
async fn a_range_may_arrive_in_parts() {
    let server = counting_server(|_, asked| {
        let (start, content) = (requested_start(asked), content());
        let Some(start) = start else { return good_reply(asked, &content, 200_000) };
        let end = content.len().min(start + 30_000);
        let range = format!("Content-Range: bytes {start}-{}/300000\r\nContent-Length: {}", end - 1, end - start);
        reply_with_head(&format!("206 Partial Content\r\n{range}"), &content[start..end])
    });
    assert_complete(&server).await;
    assert_eq!(requested_starts(&server), [None, Some(200_000), Some(230_000), Some(260_000), Some(290_000)]);
}

#[tokio::test]
async fn changed_content_is_not_appended() {
    let part = |headers: &str| format!("206 Partial Content\r\n{headers}");
    for (head, body) in [
        ("200 OK\r\nETag: \"v2\"\r\nContent-Length: 300000".to_owned(), 300_000),
        ("200 OK\r\nContent-Length: 299999".to_owned(), 299_999),
        (part("Content-Range: bytes 100000-299999/300000\r\nETag: \"v2\"\r\nContent-Length: 200000"), 200_000),
        (part("Content-Range: bytes 100000-299998/299999\r\nContent-Length: 199999"), 199_999),
        ("416 Range Not Satisfiable\r\nContent-Range: bytes */99999\r\nContent-Length: 0".to_owned(), 0),
    ] {
        let shown = head.clone();
        let server = counting_server(move |before, asked| match before {
            0 => good_reply(asked, &content(), 100_000),
            1 => reply_with_head(&head, &vec![b'x'; body]),
            _ => panic!("it is asked no more"),
        });
        let error = download_error(&server).await;
        let wanted = format!("{} changed during the download, after 100000 bytes", server.url("/file"));
        assert_eq!(error.to_string(), wanted, "{shown}");
        assert!(error.is_retryable() && error.hint().is_some());
        assert_eq!(server.requests().len(), 2);
    }
}

#[tokio::test]
async fn content_of_unknown_length_ends_with_its_response() {
    let chunked = "200 OK\r\nTransfer-Encoding: chunked";
    // All bytes came, but not the final chunk marker.
    let server = counting_server(move |before, _| match before {
        0 => reply_with_head(chunked, b"3\r\nabc\r\n"),
        _ => reply_with_head("416 Range Not Satisfiable\r\nContent-Range: bytes */3\r\nContent-Length: 0", b""),
    });
    assert_eq!(download(&server, QUICK_RETRY).await.unwrap(), b"abc");
    assert_eq!(requested_starts(&server), [None, Some(3)]);
}

#[tokio::test]
async fn retries_without_a_new_byte_are_limited() {
    let server = counting_server(|before, asked| match before {
        0 => good_reply(asked, &content(), 100_000),
        1 => reply_with_head("503 Unavailable\r\nContent-Length: 0", b""),
        2 => reply_with_head("", b""),
        _ => good_reply(asked, &content(), 0),
    });
    let error = download_error(&server).await;
    assert_eq!(server.requests().len(), 1 + QUICK_RETRY.max_retries as usize);
    assert!(matches!(&error, NetError::RetriesExhausted { received: 100_000, tries: 3, .. }), "{error}");
    let start = format!("the download from {} stopped after 100000 bytes; 3 retries failed: ", server.address);
    assert!(error.to_string().starts_with(&start), "{error}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn truncating_server_without_ranges_exhausts_the_retries() {
    let server = counting_server(|_, _| reply_with_head("200 OK\r\nContent-Length: 300000", &content()[..100_000]));
    assert!(matches!(download_error(&server).await, NetError::RetriesExhausted { received: 100_000, .. }));
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn permanent_errors_are_not_retried() {
    for (status, kind) in [("404 Not Found", FailureKind::NotFound), ("403 Forbidden", FailureKind::Permanent)] {
        let server = counting_server(move |before, asked| match before {
            0 => good_reply(asked, &content(), 100_000),
            _ => reply_with_head(&format!("{status}\r\nContent-Length: 0"), b""),
        });
        let error = download_error(&server).await;
        assert_eq!((error.kind(), server.requests().len()), (kind, 2), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn every_retry_passes_the_gate_again() {
    let elsewhere = NetTestServer::start(|_| panic!("nobody may ask here"));
    let away = elsewhere.url("/stolen");
    let server = counting_server(move |before, asked| match (before, asked.request_line()) {
        (0 | 2, "GET /file?key=s3cret HTTP/1.1") => {
            reply_with_head(&format!("302 F\r\nLocation: /signed-{before}"), b"")
        }
        (1 | 3, _) => good_reply(asked, &content(), 100_000),
        _ => reply_with_head(&format!("302 Found\r\nLocation: {away}\r\nContent-Length: 0"), b""),
    });
    let error = download_error(&server).await;
    assert_eq!(error.kind(), FailureKind::Denied, "{error}");
    assert!(error.to_string().contains("redirects there"), "{error}");
    assert_eq!(requested_starts(&server), [None, None, Some(100_000), Some(100_000), Some(200_000)]);
    assert!(server.requests()[3].request_line().starts_with("GET /signed-2 "), "a signed address is asked for anew");
    assert_eq!(server.requests()[3].header("if-range"), Some(TAG));
}
