//! A web server in this process that gets whole requests, answers several at once, and may hang up instead.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crate::support::HttpReply;

/// A request whose body is still to come.
pub(super) struct FakeServiceRequest {
    pub(super) method: String,
    /// Decoded neither here nor there; without the query.
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    /// By lower-case names.
    pub(super) headers: BTreeMap<String, String>,
    remaining: usize,
    stream: BufReader<TcpStream>,
}

impl FakeServiceRequest {
    /// The next bytes of the body, at most so many.
    pub(super) fn body(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; self.remaining.min(most)];
        self.stream.read_exact(&mut body)?;
        self.remaining -= body.len();
        Ok(body)
    }

    /// Waits until the client hangs up.
    pub(super) fn wait_for_hangup(&mut self) {
        let _ = io::copy(&mut self.stream, &mut io::sink());
    }

    pub(super) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Serves until it is dropped.
pub(super) struct RawHttpServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RawHttpServer {
    pub(super) fn bind() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    /// Without a reply, the connection is closed.
    pub(super) fn new(
        listener: TcpListener,
        answer: impl Fn(&mut FakeServiceRequest) -> io::Result<Option<HttpReply>> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (over, answer) = (Arc::clone(&stop), Arc::new(answer));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let answer = Arc::clone(&answer);
                // Who went away needs no answer.
                std::thread::spawn(move || stream.and_then(|stream| serve(stream, answer.as_ref())));
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for RawHttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    answer: &impl Fn(&mut FakeServiceRequest) -> io::Result<Option<HttpReply>>,
) -> io::Result<()> {
    let mut out = stream.try_clone()?;
    let Some(mut request) = read_head(BufReader::new(stream))? else { return Ok(()) };
    let Some(HttpReply { status, headers, body }) = answer(&mut request)? else { return Ok(()) };
    // Or the client would see a reset instead of the answer.
    request.body(usize::MAX)?;
    let mut head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    out.write_all(format!("{head}\r\n").as_bytes())?;
    out.write_all(&body)
}

/// None of a client that says nothing.
fn read_head(mut stream: BufReader<TcpStream>) -> io::Result<Option<FakeServiceRequest>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line);
    }
    let Some((first, rest)) = lines.split_first() else { return Ok(None) };
    let mut words = first.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let headers: BTreeMap<_, _> = rest
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    assert!(!headers.contains_key("transfer-encoding"), "a body in chunks is not read here");
    let url = url::Url::parse(&format!("http://x{target}")).unwrap();
    Ok(Some(FakeServiceRequest {
        method: method.to_owned(),
        path: url.path().to_owned(),
        query: url.query_pairs().into_owned().collect(),
        remaining: headers.get("content-length").map_or(0, |length| length.parse().unwrap()),
        headers,
        stream,
    }))
}
