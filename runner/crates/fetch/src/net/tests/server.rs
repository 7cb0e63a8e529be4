//! A minimal server on a free local port. It records requests and answers as told.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A request: the head as sent, and the body.
#[derive(Clone, Debug)]
pub struct NetTestRequest {
    pub head: String,
    pub body: String,
}

impl NetTestRequest {
    pub fn request_line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (given, value) = line.split_once(": ")?;
            given.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// A response in pieces, each after a pause; then the connection is closed, or kept open until the server ends.
pub struct NetTestReply {
    pub pieces: Vec<Vec<u8>>,
    pub pause: Duration,
    pub keep_open: bool,
}

/// A complete response.
pub fn reply(status: &str, headers: &[(&str, &str)], body: &str) -> NetTestReply {
    let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    raw_reply(&(text + body))
}

/// A response of exactly these bytes.
pub fn raw_reply(text: &str) -> NetTestReply {
    NetTestReply { pieces: vec![text.as_bytes().to_vec()], pause: Duration::ZERO, keep_open: false }
}

/// These bytes, and then nothing, on an open connection.
pub fn hanging_reply(text: &str) -> NetTestReply {
    NetTestReply { keep_open: true, ..raw_reply(text) }
}

pub struct NetTestServer {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<NetTestRequest>>>,
    connection_count: Arc<Mutex<usize>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A connection with or without TLS.
pub trait NetTestStream: Read + Write + Send {}
impl<T: Read + Write + Send> NetTestStream for T {}

impl NetTestServer {
    pub fn start(answer: impl Fn(&NetTestRequest) -> NetTestReply + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0", |tcp| Some(Box::new(tcp)), answer)
    }

    pub fn start_on(
        address: &str,
        wrap: impl Fn(TcpStream) -> Option<Box<dyn NetTestStream>> + Send + 'static,
        answer: impl Fn(&NetTestRequest) -> NetTestReply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let stopped = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        let shared = (Arc::clone(&seen), Arc::clone(&connections), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            let (seen, connections, stopped) = shared;
            let mut workers = Vec::new();
            for tcp in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                *connections.lock().unwrap() += 1;
                let Some(stream) = wrap(tcp.unwrap()) else { continue };
                let (seen, answer, stopped) = (Arc::clone(&seen), Arc::clone(&answer), Arc::clone(&stopped));
                workers.push(std::thread::spawn(move || serve(stream, &seen, &*answer, &stopped)));
            }
            for worker in workers {
                worker.join().unwrap();
            }
        });
        Self { address, requests: seen, connection_count: connections, stopped, thread: Some(thread) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<NetTestRequest> {
        self.requests.lock().unwrap().clone()
    }

    pub fn connection_count(&self) -> usize {
        *self.connection_count.lock().unwrap()
    }
}

impl Drop for NetTestServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that waits in accept.
        let woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take()
            && woken.is_ok()
        {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
        }
    }
}

fn serve(
    mut stream: Box<dyn NetTestStream>,
    seen: &Mutex<Vec<NetTestRequest>>,
    answer: &dyn Fn(&NetTestRequest) -> NetTestReply,
    stopped: &AtomicBool,
) {
    let Some(request) = read_request(&mut *stream) else { return };
    seen.lock().unwrap().push(request.clone());
    let reply = answer(&request);
    for piece in &reply.pieces {
        std::thread::sleep(reply.pause);
        // The client may have closed the connection after too much data, as it should.
        if stream.write_all(piece).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
    while reply.keep_open && !stopped.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read_request(stream: &mut dyn NetTestStream) -> Option<NetTestRequest> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    let mut seen = NetTestRequest { head: String::from_utf8(bytes).unwrap(), body: String::new() };
    let length = seen.header("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    seen.body = String::from_utf8(body).unwrap();
    Some(seen)
}
