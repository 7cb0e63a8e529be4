//! A TCP proxy whose connection can be cut, made to lose responses, and restored.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

/// Forwards connections until it is dropped.
pub struct TcpRelay {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    drops_responses: Arc<AtomicBool>,
    writes: Arc<WriteCount>,
    /// Connections refused while cut, and responses dropped.
    losses: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The HTTP requests that came, and how many of those that write are forwarded.
struct WriteCount {
    requests: AtomicUsize,
    seen: AtomicUsize,
    limit: AtomicUsize,
}

impl WriteCount {
    /// Counts what a client sends, if a write begins there. Returns whether it is forwarded.
    fn allows(&self, sent: &[u8]) -> bool {
        let is_write = sent.starts_with(b"PUT ");
        if is_write || sent.starts_with(b"GET ") || sent.starts_with(b"DELETE ") {
            self.requests.fetch_add(1, Ordering::SeqCst);
        }
        !is_write || self.seen.fetch_add(1, Ordering::SeqCst) < self.limit.load(Ordering::SeqCst)
    }
}

impl TcpRelay {
    /// Forwards to `upstream`, `host:port`.
    pub fn new(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let [is_cut, is_deaf, stop] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
        let open = Arc::new(Mutex::new(Vec::new()));
        let losses = Arc::new(AtomicUsize::new(0));
        let lost = Arc::clone(&losses);
        let (cut, over, streams) = (Arc::clone(&is_cut), Arc::clone(&stop), Arc::clone(&open));
        let deaf = Arc::clone(&is_deaf);
        let [requests, seen] = std::array::from_fn(|_| AtomicUsize::new(0));
        let writes = Arc::new(WriteCount { requests, seen, limit: AtomicUsize::new(usize::MAX) });
        let counted = Arc::clone(&writes);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), false) = (client, cut.load(Ordering::SeqCst)) else {
                    lost.fetch_add(1, Ordering::SeqCst);
                    continue;
                };
                let Ok(server) = TcpStream::connect(&upstream) else { continue };
                for (from, to, is_answer) in [(&client, &server, false), (&server, &client, true)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    streams.lock().unwrap().push(from.try_clone().unwrap());
                    let (deaf, lost, writes) = (Arc::clone(&deaf), Arc::clone(&lost), Arc::clone(&counted));
                    std::thread::spawn(move || {
                        let mut buffer = [0; 16 * 1024];
                        while let Ok(some @ 1..) = from.read(&mut buffer) {
                            let is_lost =
                                if is_answer { deaf.load(Ordering::SeqCst) } else { !writes.allows(&buffer[..some]) };
                            if is_lost {
                                lost.fetch_add(1, Ordering::SeqCst);
                            }
                            if is_lost || to.write_all(&buffer[..some]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Write);
                        if !is_answer {
                            // Who sends to a closed connection gets no answer.
                            let _ = from.shutdown(Shutdown::Read);
                        }
                    });
                }
            }
        });
        Self { address, is_cut, drops_responses: is_deaf, writes, losses, open, stop, thread: Some(thread) }
    }

    /// Counts the HTTP requests that write anew, and loses those after the first `limit`.
    pub fn limit_writes(&self, limit: usize) {
        self.writes.seen.store(0, Ordering::SeqCst);
        self.writes.limit.store(limit, Ordering::SeqCst);
    }

    /// How many HTTP requests came.
    pub fn requests(&self) -> usize {
        self.writes.requests.load(Ordering::SeqCst)
    }

    /// How many HTTP requests that write came since then.
    pub fn writes(&self) -> usize {
        self.writes.seen.load(Ordering::SeqCst)
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many connections were refused while it was cut, and how many responses were dropped.
    pub fn losses(&self) -> usize {
        self.losses.load(Ordering::SeqCst)
    }

    /// Closes all connections and refuses new ones.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Forwards requests and drops their responses.
    pub fn drop_responses(&self) {
        self.drops_responses.store(true, Ordering::SeqCst);
    }

    /// Forwards again.
    pub fn restore(&self) {
        self.drops_responses.store(false, Ordering::SeqCst);
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for TcpRelay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
