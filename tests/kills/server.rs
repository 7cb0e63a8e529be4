//! The shop's server as `verify` sees it: every request is answered with 200 or 500, as it is told.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;

/// What the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerHealth {
    /// 200.
    Healthy,
    /// 500.
    Failing,
}

/// A running server; it ends when dropped.
pub(crate) struct HealthServer {
    address: SocketAddr,
    state: Arc<HealthServerState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct HealthServerState {
    is_failing: AtomicBool,
    is_stopping: AtomicBool,
    healthy_answers: AtomicUsize,
}

const READ_TIMEOUT: Duration = Duration::from_secs(10);

impl HealthServer {
    /// Serves on a free port.
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(HealthServerState::default());
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.is_stopping.load(SeqCst) {
                    return;
                }
                let own = Arc::clone(&own);
                // A runner that was killed hangs up: no business of the server's.
                thread::spawn(move || drop(respond(stream, &own)));
            }
        });
        Ok(Self { address, state: shared, thread: Some(thread) })
    }

    /// Without a slash at the end.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set_health(&self, health: ServerHealth) {
        self.state.is_failing.store(health == ServerHealth::Failing, SeqCst);
    }

    /// How many requests were answered with 200.
    pub(crate) fn healthy_answers(&self) -> usize {
        self.state.healthy_answers.load(SeqCst)
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        self.state.is_stopping.store(true, SeqCst);
        // One last connection wakes the listener up.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

fn respond(stream: TcpStream, shared: &HealthServerState) -> std::io::Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // Up to the empty line: closing with unread bytes would reset the connection.
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let status = if shared.is_failing.load(SeqCst) {
        "500 Internal Server Error"
    } else {
        shared.healthy_answers.fetch_add(1, SeqCst);
        "200 OK"
    };
    write!(reader.into_inner(), "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}
