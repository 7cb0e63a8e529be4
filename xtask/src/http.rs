//! A tiny HTTP server on the loopback interface: the demo's app and the benchmarks' download site.
//!
//! GET and HEAD, one thread a connection, closed after one answer. It ends when it is dropped.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// What is served for a path such as `/index.html`; `None` is answered with 404.
type ContentFn = dyn Fn(&str) -> Option<Arc<[u8]>> + Send + Sync;

/// A running server.
pub(crate) struct LoopbackServer {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

const READ_TIMEOUT: Duration = Duration::from_secs(10);

impl LoopbackServer {
    /// Serves on a free port.
    pub(crate) fn start(content: impl Fn(&str) -> Option<Arc<[u8]>> + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on the loopback interface")?;
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let content: Arc<ContentFn> = Arc::new(content);
        let seen = Arc::clone(&stopping);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let content = Arc::clone(&content);
                // A client that hangs up is no business of ours.
                thread::spawn(move || drop(respond(stream, &*content)));
            }
        });
        Ok(Self { address, stopping, thread: Some(thread) })
    }

    /// Without a slash at the end.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The body of a GET that is answered with 200.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let (head, body) = response.split_once("\r\n\r\n").context("an answer without a body")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "GET {path}: {}", head.lines().next().unwrap_or_default());
        Ok(body.to_owned())
    }
}

impl Drop for LoopbackServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // One last connection wakes the listener up.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

fn respond(stream: TcpStream, content: &ContentFn) -> std::io::Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    // The headers are read to their end: closing with unread bytes would reset the connection.
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = match (method, content(path)) {
        ("GET" | "HEAD", Some(body)) => ("200 OK", body),
        ("GET" | "HEAD", None) => ("404 Not Found", Arc::from(&b"not found\n"[..])),
        _ => ("405 Method Not Allowed", Arc::from(&b""[..])),
    };
    let mut stream = reader.into_inner();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_returns_content_or_404() {
        let server = LoopbackServer::start(|path| (path == "/a").then(|| Arc::from(&b"here"[..]))).unwrap();
        assert_eq!(server.get("/a").unwrap(), "here");
        let error = server.get("/b").unwrap_err().to_string();
        assert_eq!(error, "GET /b: HTTP/1.1 404 Not Found");
    }

    #[test]
    fn server_stops_when_dropped() {
        let server = LoopbackServer::start(|_| None).unwrap();
        let address = server.address;
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }
}
